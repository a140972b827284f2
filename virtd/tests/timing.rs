//! Instances that are told the same at different times: what the peers see is what they would see
//! without.

mod sim;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sim::{LOCAL, Sim, T_MS, config, prefix, update};
use std::collections::BTreeMap;
use virtd_config::{Config, ConnectOrder, Delay, Distribution, Diversity, Strategy};
use wire::bgp::Prefix;

const SECOND: u64 = 1_000_000;
const MS: u64 = 1_000;
const P: &str = "198.51.100.0/24";

fn held_back(min_ms: u32, max_ms: u32, distribution: Distribution, seed: u64) -> Option<Diversity> {
    Some(Diversity { seed, delay: Some(Delay { min_ms, max_ms, distribution }), ..Diversity::default() })
}

/// Three instances: the first at once, the second a little late, the third up to 400 ms late (T is
/// a second).
fn diverse(strategy: Strategy) -> Config {
    let mut c = config(3, strategy);
    c.instances[1].diversity = held_back(1, 10, Distribution::Uniform, 7);
    c.instances[2].diversity = held_back(0, 400, Distribution::Exponential, 8);
    c
}

fn up(config: &Config, peers: u8) -> Sim {
    let mut sim = Sim::new(config);
    (1..=peers).for_each(|n| sim.connect_peer(n));
    sim.run(SECOND);
    assert!(sim.peers.values().all(|p| p.established), "{:?}", sim.events);
    sim
}

#[test]
fn every_instance_that_differs_is_logged_with_its_seed() {
    let sim = up(&diverse(Strategy::WaitForConsensus), 2);
    let told: Vec<&str> = sim.events_of("instance-differs").iter().map(|e| e.text.as_str()).collect();
    assert_eq!(
        told,
        ["i1: UPDATEs held back 1 to 10 ms, uniform, seed 7", "i2: UPDATEs held back 0 to 400 ms, exponential, seed 8"]
    );
}

#[test]
fn an_update_comes_late_by_the_configured_time_and_a_keepalive_at_once() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[0].diversity = held_back(300, 300, Distribution::Uniform, 1);
    let mut sim = up(&c, 2);
    sim.announce(1, &[P], &[64501]);
    assert!(sim.instances[0].heard.is_empty());
    assert_eq!((sim.instances[1].heard.len(), sim.instances[2].heard.len()), (1, 1));
    sim.run(300 * MS - 1);
    assert!(sim.instances[0].heard.is_empty());
    assert_eq!(sim.table(2).len(), 1, "two agree: nobody waits for the third");
    sim.run(1);
    assert_eq!(sim.instances[0].heard.len(), 1);
    sim.run(30 * SECOND);
    assert!(sim.no_reset());
    assert!(sim.events_of("disagreement").is_empty() && sim.events_of("leg-fault").is_empty());
}

/// Two peers talk in bursts. Each instance hears of everything within what is configured for it,
/// and the third peer at the very moment at which the second instance has: the delay that is added
/// is the configured one and no more.
#[test]
fn nothing_comes_earlier_or_later_than_configured_and_peers_wait_for_the_quorum_alone() {
    const STEP: u64 = 100;
    let bounds = [(1, 10), (20, 20), (0, 400)];
    let mut c = config(3, Strategy::WaitForConsensus);
    let kinds = [Distribution::Uniform, Distribution::Uniform, Distribution::Exponential];
    for (i, ((min, max), kind)) in bounds.into_iter().zip(kinds).enumerate() {
        c.instances[i].diversity = held_back(min, max, kind, 11 + i as u64);
    }
    let mut sim = up(&c, 3);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut gaps: Vec<u64> =
        (0..250).map(|_| [0, 0, 0, rng.random_range(0..20 * MS / STEP)][rng.random_range(0..4)]).collect();
    let mut came: BTreeMap<Prefix, u64> = BTreeMap::new();
    let mut heard: [BTreeMap<Prefix, u64>; 3] = Default::default();
    let mut told: BTreeMap<Prefix, u64> = BTreeMap::new();
    let mut rest = 500 * MS / STEP;
    while rest > 0 {
        // Those without a gap are said at the same microsecond.
        while gaps.pop_if(|gap| *gap == 0).is_some() {
            let p = format!("10.{}.0.0/16", came.len());
            sim.announce(1 + came.len() as u8 % 2, &[&p], &[64501]);
            came.insert(prefix(&p), sim.now);
        }
        match gaps.last_mut() {
            Some(gap) => *gap -= 1,
            None => rest -= 1,
        }
        sim.run(STEP);
        for (instance, times) in sim.instances.iter().zip(&mut heard) {
            let new = instance.heard.get(times.len()..).unwrap_or_default();
            times.extend(new.iter().flat_map(|(_, announced, _)| announced).map(|p| (*p, sim.now)));
        }
        let now = sim.now;
        for p in sim.table(3).into_keys() {
            told.entry(p).or_insert(now);
        }
    }
    assert_eq!((came.len(), told.len()), (250, 250));
    for (p, at) in &came {
        let mut took = [0, 1, 2].map(|i: usize| heard[i][p] - at);
        for ((min, max), took) in bounds.iter().zip(took) {
            let (min, max) = (u64::from(*min) * MS, u64::from(*max) * MS);
            assert!((min..=max + STEP).contains(&took), "{p}: {took} us, configured are {min} to {max}");
        }
        took.sort_unstable();
        assert_eq!(told[p] - at, took[1], "{p} is out when two have said it");
    }
    assert!(heard[2].values().zip(heard[2].values().skip(1)).any(|(a, b)| a > b), "reordered between the peers");
    assert!(sim.no_reset() && sim.events_of("disagreement").is_empty());
}

/// What happens in a history: who says what, which instance dies.
#[derive(Clone, Debug)]
enum Step {
    Announce(u8, String, Vec<u32>),
    Withdraw(u8, String),
    Kill(usize),
    Start(usize),
}

/// The same steps for every configuration. Two peers say things about the same prefixes, so that
/// the order between peers matters.
fn steps(seed: u64, deaths: bool) -> Vec<(Step, u64)> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut dead, mut steps) = (None, Vec::new());
    for _ in 0..120 {
        let p = format!("10.{}.0.0/16", rng.random_range(0..6));
        let feeder = 1 + u8::from(prefix(&p).octets()[1] & 1 == 0);
        let step = match rng.random_range(0..20) {
            0..=11 => Step::Announce(feeder, p, vec![64500 + u32::from(feeder), rng.random_range(65000..65010)]),
            12..=18 => Step::Withdraw(feeder, p),
            _ if !deaths => continue,
            _ => match dead.take() {
                None => Step::Kill(*dead.insert(rng.random_range(0..3))),
                Some(i) => Step::Start(i),
            },
        };
        // Bursts in which a route is withdrawn and announced again within a millisecond, and rests.
        let pause = if rng.random_bool(0.7) { rng.random_range(0..2 * MS) } else { rng.random_range(0..SECOND / 2) };
        steps.push((step, pause));
    }
    steps.extend(dead.map(|i| (Step::Start(i), 0)));
    steps
}

fn play(config: &Config, steps: &[(Step, u64)]) -> Sim {
    let mut sim = up(config, 3);
    for (step, pause) in steps {
        match step {
            Step::Announce(n, p, path) => sim.announce(*n, &[p], path),
            Step::Withdraw(n, p) => sim.withdraw(*n, &[p]),
            Step::Kill(i) => sim.kill_instance(*i),
            Step::Start(i) => sim.start_instance(*i),
        }
        sim.run(*pause);
    }
    sim.run(20 * SECOND);
    sim
}

fn same_as_without(seed: u64, strategy: Strategy, deaths: bool) {
    same_as_with(seed, strategy, deaths, diverse(strategy));
}

fn same_as_with(seed: u64, strategy: Strategy, deaths: bool, with: Config) -> Sim {
    let steps = steps(seed, deaths);
    let (plain, late) = (play(&config(3, strategy), &steps), play(&with, &steps));
    assert!(plain.no_reset() && late.no_reset(), "seed {seed}");
    for n in 1..=3 {
        assert_eq!(plain.table(n), late.table(n), "seed {seed}, peer {n}, {strategy:?}");
    }
    // A death in the middle of a history makes suspects of innocent UPDATEs, with verdicts of their
    // own (tests/poison.rs).
    let told = late.events_of("disagreement");
    assert!(deaths || told.is_empty(), "seed {seed}: {told:?}");
    late
}

#[test]
fn timing_diversity_changes_no_route_of_any_peer() {
    for seed in 0..12 {
        same_as_without(seed, Strategy::WaitForConsensus, false);
        same_as_without(seed, Strategy::MasterSlave, false);
    }
}

#[test]
fn nor_does_it_with_instances_that_die_and_return_in_the_middle_of_a_queue() {
    for seed in 100..112 {
        same_as_without(seed, Strategy::WaitForConsensus, true);
        same_as_without(seed, Strategy::ContinuousMajority, true);
    }
}

#[test]
fn the_same_seed_gives_an_instance_the_same_at_the_same_microsecond() {
    let heard = |seed: u64| {
        let mut c = diverse(Strategy::ContinuousMajority);
        c.instances[2].diversity = held_back(0, 400, Distribution::Uniform, seed);
        let sim = play(&c, &steps(3, false));
        sim.instances[2].heard.clone()
    };
    assert_eq!(heard(1), heard(1));
    assert_ne!(heard(1), heard(2), "another order between the peers");
}

#[test]
fn what_waits_for_a_leg_dies_with_it_and_its_successor_is_told_what_stands() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[0].diversity = held_back(200, 400, Distribution::Uniform, 5);
    let mut sim = up(&c, 2);
    sim.announce(1, &[P], &[64501, 65001]);
    sim.run(20 * MS);
    sim.announce(1, &[P], &[64501, 65002]);
    sim.kill_instance(0);
    sim.run(SECOND);
    sim.start_instance(0);
    sim.run(5 * SECOND);
    assert_eq!(sim.instances[0].heard, [(1, vec![prefix(P)], vec![])], "once, as it stands");
    assert_eq!(sim.events_of("leg-level").len(), 1, "{:?}", sim.events);
    assert_eq!(sim.table(2)[&prefix(P)].0, [sim::OUR_AS, 64501, 65002]);
    assert!(sim.no_reset() && sim.events_of("disagreement").is_empty());
}

#[test]
fn a_queue_that_overflows_becomes_a_set_of_keys_and_nothing_is_lost() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.vote.t_ms = 20_000;
    c.instances[0].diversity = held_back(9_000, 9_000, Distribution::Uniform, 5);
    let mut sim = up(&c, 2);
    let all: Vec<Prefix> = (0..=255u8).map(|n| prefix(&format!("10.{n}.0.0/16"))).collect();
    // Some 14 MiB within nine seconds, of which eight fit.
    for turn in 0..4_000u32 {
        let p = all[turn as usize % all.len()];
        sim.peer_sends(1, &large(&update(&[p], &[], &[64501, 65000 + turn], sim::LOCAL, None, 0)));
    }
    sim.peer_sends(1, &update(&[], &all[..100], &[], LOCAL, None, 0));
    assert!(sim.instances[0].heard.is_empty());
    sim.run(60 * SECOND);
    let heard = sim.instances[0].heard.len();
    assert!((2_000..4_000).contains(&heard), "{heard} messages came through");
    assert_eq!(sim.instances[0].rib.len(), 156);
    assert_eq!(sim.instances[0].rib, sim.instances[1].rib);
    assert_eq!(sim.table(2).len(), 156);
    assert!(sim.no_reset() && sim.events_of("disagreement").is_empty(), "{:?}", sim.events_of("disagreement"));
}

/// An UPDATE with 3,500 octets of an attribute that nobody knows.
fn large(message: &[u8]) -> Vec<u8> {
    const MORE: usize = 3_500;
    let mut m = message.to_vec();
    let mut put = |at: usize, n: usize| m[at..at + 2].copy_from_slice(&(n as u16).to_be_bytes());
    let attributes = usize::from(u16::from_be_bytes([message[21], message[22]]));
    put(16, message.len() + 4 + MORE);
    put(21, attributes + 4 + MORE);
    let extra = [&[0xd0, 99][..], &(MORE as u16).to_be_bytes(), &[7; MORE]].concat();
    m.splice(23 + attributes..23 + attributes, extra);
    m
}

#[test]
fn an_instance_that_is_late_is_not_accused_while_t_exceeds_its_delay() {
    let mut c = config(3, Strategy::MasterSlave);
    c.instances[0].diversity = held_back(T_MS / 2 - 1, T_MS / 2 - 1, Distribution::Uniform, 5);
    let mut sim = up(&c, 2);
    for n in 0..50 {
        sim.announce(1, &[P], &[64501, 65000 + n]);
        sim.run(SECOND * 2);
        assert_eq!(sim.table(2)[&prefix(P)].0[2], 65000 + n, "the master is followed, however late");
    }
    assert!(sim.no_reset() && sim.events_of("disagreement").is_empty(), "{:?}", sim.events_of("disagreement"));
}

#[test]
fn a_connection_comes_to_one_instance_later_and_to_its_peer_as_ever() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[1].diversity = Some(Diversity { connect_delay_ms: Some((200, 400)), ..Diversity::default() });
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.run(200 * MS - 1);
    assert_eq!([0, 1, 2].map(|i| sim.instances[i].legs().len()), [1, 0, 1]);
    sim.run(200 * MS + 1);
    assert_eq!(sim.instances[1].legs(), [1]);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND);
    assert_eq!(sim.table(2).len(), 1);
    // A peer that connects and goes at once (XORP 31 in papers/001) is never seen by the instance
    // that is told later.
    sim.connect_peer(3);
    let conn = sim.peers[&3].conn.expect("a connection");
    assert!(sim.instances[0].legs().contains(&3));
    sim.input(broker::io::Input::PeerClosed { conn, errno: 0 });
    sim.run(5 * SECOND);
    assert_eq!(sim.instances[1].legs(), [1, 2]);
    assert!(sim.peers[&1].closed == 0 && sim.peers[&2].closed == 0 && sim.events_of("disagreement").is_empty());
}

/// In which order an instance that is started again gets its legs.
fn order(connect_order: ConnectOrder, seed: u64, connect_delay_ms: Option<(u32, u32)>) -> Vec<u8> {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[0].diversity = Some(Diversity { seed, connect_order, connect_delay_ms, ..Diversity::default() });
    let mut sim = up(&c, 8);
    sim.kill_instance(0);
    sim.run(5 * SECOND);
    sim.start_instance(0);
    sim.run(5 * SECOND);
    assert!(sim.no_reset());
    sim.instances[0].legs()
}

#[test]
fn connections_come_back_in_the_configured_order() {
    assert_eq!(order(ConnectOrder::Given, 1, None), [1, 2, 3, 4, 5, 6, 7, 8]);
    for delay in [None, Some((5, 5)), Some((0, 1000))] {
        assert_eq!(order(ConnectOrder::Reversed, 1, delay), [8, 7, 6, 5, 4, 3, 2, 1], "{delay:?}");
    }
    let shuffled = order(ConnectOrder::Shuffled, 1, None);
    assert_eq!(shuffled, order(ConnectOrder::Shuffled, 1, None), "the same seed, the same order");
    assert_ne!(shuffled, order(ConnectOrder::Shuffled, 2, None));
    let mut all = shuffled.clone();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_route_that_one_instance_is_told_to_be_gone_and_there_again_is_no_news_to_the_peers() {
    for delay in [None, Some(Delay { min_ms: 0, max_ms: 400, distribution: Distribution::Uniform })] {
        let mut c = config(3, Strategy::WaitForConsensus);
        c.instances[1].diversity = Some(Diversity { readvertise_s: Some((1, 2)), delay, ..Diversity::default() });
        let mut sim = up(&c, 2);
        sim.announce(1, &[P, "10.0.0.0/8", "192.0.2.128/25"], &[64501]);
        sim.run(3 * SECOND);
        let (before, heard) = (sim.peers[&2].updates, sim.instances[1].heard.len());
        sim.run(60 * SECOND);
        let times = sim.events_of("readvertised").len();
        assert!((10..40).contains(&times), "{times} times");
        let told = &sim.instances[1].heard[heard..];
        let (gone, again): (Vec<_>, Vec<_>) = told.iter().partition(|h| h.1.is_empty());
        let on_their_way = times - again.len();
        assert!(gone.len() >= again.len() && on_their_way <= 1, "{told:?}");
        assert_eq!([0, 2].map(|i| sim.instances[i].heard.len()), [1, 1], "the others hear nothing of it");
        assert_eq!(sim.peers[&2].updates, before, "and the peers neither");
        assert!(sim.events_of("disagreement").is_empty() && sim.no_reset(), "{:?}", sim.events_of("disagreement"));
    }
}

#[test]
fn an_instance_that_does_not_come_back_from_a_flap_is_named() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[1].diversity = Some(Diversity { readvertise_s: Some((5, 5)), ..Diversity::default() });
    let mut sim = up(&c, 2);
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    let before = sim.peers[&2].updates;
    while sim.events_of("readvertised").is_empty() {
        sim.run(SECOND / 10);
    }
    // The bug: it tells the withdraw and forgets the announcement (papers/001 table 1, the last of
    // Quagga's).
    sim.instances[1].fault.hides.insert(prefix(P));
    sim.run(10 * SECOND);
    let told = sim.events_of("disagreement");
    assert_eq!(told.iter().map(|e| e.instance.as_deref()).collect::<Vec<_>>(), [Some("i1")], "{:?}", sim.events);
    assert_eq!(sim.peers[&2].updates, before, "the peers never heard of it");
    assert!(sim.events_of("readvertised").len() == 1, "nobody is tested where somebody dissents");
}

#[test]
fn exercises_and_delays_together_change_no_route_either() {
    let mut exercised = 0;
    for seed in 200..216 {
        let mut c = diverse(Strategy::WaitForConsensus);
        for i in &mut c.instances {
            let diversity = i.diversity.get_or_insert_default();
            diversity.readvertise_s = Some((1, 1));
            diversity.reconnect_s = Some((2, 9));
            diversity.connect_delay_ms = Some((0, 300));
        }
        let sim = same_as_with(seed, Strategy::WaitForConsensus, seed % 2 == 0, c);
        exercised += sim.events_of("readvertised").len();
    }
    assert!(exercised > 100, "{exercised}");
}

#[test]
fn a_connection_that_is_closed_comes_back_and_its_peer_never_learns_of_it() {
    let mut c = config(3, Strategy::WaitForConsensus);
    for i in &mut c.instances {
        let diversity = i.diversity.get_or_insert_default();
        diversity.reconnect_s = Some((3, 6));
        diversity.seed = u64::from(i.name.as_bytes()[1]);
    }
    let mut sim = up(&c, 3);
    sim.announce(1, &[P], &[64501]);
    sim.announce(2, &["10.0.0.0/8"], &[64502]);
    sim.run(3 * SECOND);
    let before = [1, 2, 3].map(|n| sim.peers[&n].updates);
    sim.run(120 * SECOND);
    let closed = sim.events_of("leg-restarted");
    assert!(closed.len() > 20, "{}", closed.len());
    assert!(["i0", "i1", "i2"].iter().all(|i| closed.iter().any(|e| e.instance.as_deref() == Some(i))));
    assert_eq!([1, 2, 3].map(|n| sim.peers[&n].updates), before);
    assert!(sim.no_reset() && sim.events_of("disagreement").is_empty() && sim.events_of("one-alone").is_empty());
    assert!(sim.orders.is_empty(), "and no instance is faulty for it: {:?}", sim.orders);
}

/// Five instances, of which two are given a half of the addresses each.
fn halves() -> Sim {
    let mut c = config(5, Strategy::WaitForConsensus);
    for (i, block) in [(3, "0.0.0.0/1"), (4, "128.0.0.0/1")] {
        c.instances[i].diversity = Some(Diversity { blocks: vec![prefix(block)], ..Diversity::default() });
    }
    up(&c, 2)
}

#[test]
fn an_instance_is_given_its_address_blocks_only_and_votes_on_no_other() {
    let mut sim = halves();
    sim.announce(1, &["10.0.0.0/16", P], &[64501]);
    sim.run(3 * SECOND);
    let heard = |sim: &Sim, i: usize| sim.instances[i].heard.clone();
    assert_eq!(heard(&sim, 3), [(1, vec![prefix("10.0.0.0/16")], vec![])]);
    assert_eq!(heard(&sim, 4), [(1, vec![prefix(P)], vec![])]);
    assert_eq!(sim.table(2).len(), 2);
    // With two of the others dead, each half has one that knows all and one that knows this half:
    // they agree.
    sim.kill_instance(0);
    sim.kill_instance(1);
    sim.announce(1, &["10.1.0.0/16"], &[64501]);
    sim.announce(1, &["203.0.113.0/24"], &[64501]);
    sim.withdraw(1, &["10.0.0.0/16", P]);
    sim.run(3 * SECOND);
    assert_eq!(sim.table(2).keys().copied().collect::<Vec<_>>(), [prefix("10.1.0.0/16"), prefix("203.0.113.0/24")]);
    // One that returns is given, and made to vote on, its half.
    sim.kill_instance(3);
    sim.run(SECOND);
    sim.start_instance(3);
    sim.run(5 * SECOND);
    assert_eq!(heard(&sim, 3), [(1, vec![prefix("10.1.0.0/16")], vec![])]);
    assert_eq!(sim.events_of("leg-level").len(), 1);
    sim.instances[3].fault.lies_about.insert(prefix("10.2.0.0/16"));
    sim.announce(1, &["10.2.0.0/16"], &[64501]);
    sim.run(3 * SECOND);
    assert!(!sim.table(2).contains_key(&prefix("10.2.0.0/16")), "its word counts: two that differ, no majority");
    assert!(sim.events_of("disagreement").is_empty() && sim.no_reset(), "{:?}", sim.events_of("disagreement"));
}
