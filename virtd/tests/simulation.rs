//! The core under a virtual clock: every promise that needs a fault at a chosen microsecond, and
//! seeded random histories.

mod sim;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sim::{LOCAL, OUR_AS, Sim, T_MS, config, peer_addr, prefix, update};
use virtd_config::Strategy;
use wire::bgp::Family;
use wire::bgp::message::{RefreshKind, RouteRefresh};

const SECOND: u64 = 1_000_000;
const P: &str = "198.51.100.0/24";
const Q: &str = "203.0.113.0/24";

/// Three instances, peer 1 feeding, peer 2 watching.
fn router(strategy: Strategy) -> Sim {
    let mut sim = Sim::new(&config(3, strategy));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    assert!(sim.peers.values().all(|p| p.established), "both sessions come up: {:?}", sim.events);
    sim
}

#[test]
fn three_instances_that_write_differently_and_mean_the_same_speak_with_one_voice() {
    let mut sim = router(Strategy::WaitForConsensus);
    sim.announce(1, &[P, Q], &[64501, 64999]);
    sim.run(SECOND);
    let table = sim.table(2);
    assert_eq!(table.len(), 2);
    assert_eq!(table[&prefix(P)].0, vec![OUR_AS, 64501, 64999]);
    sim.withdraw(1, &[P]);
    sim.run(3 * SECOND);
    assert_eq!(sim.table(2).len(), 1);
    assert_eq!(sim.peers[&2].eor, 1, "one End-of-RIB, after quiet");
    assert_eq!(sim.events_of("disagreement").len(), 0);
    assert!(sim.no_reset());
}

#[test]
fn a_lie_never_leaves_is_named_and_its_end_too() {
    let mut sim = router(Strategy::WaitForConsensus);
    sim.instances[1].fault.lies_about.insert(prefix(P));
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    assert_eq!(sim.table(2)[&prefix(P)].1, None);
    let told = sim.events_of("disagreement");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].instance.as_deref(), Some("i1"));
    assert!(told[0].said.iter().any(|s| s.route.contains("666")), "{:?}", told[0].said);
    sim.instances[1].fault.lies_about.clear();
    sim.leg_sends(1, 2, &update(&[prefix(P)], &[], &[OUR_AS, 64501], LOCAL, None, 1));
    sim.run(3 * SECOND);
    assert_eq!(sim.events_of("agreement").len(), 1);
    assert!(sim.peers[&2].history.iter().all(|(_, med, _)| *med != Some(666)));
}

#[test]
fn a_hidden_route_and_a_missing_withdraw_do_not_count_against_two_others() {
    let mut sim = router(Strategy::ContinuousMajority);
    sim.instances[0].fault.hides.insert(prefix(P));
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND / 10);
    assert_eq!(sim.table(2).len(), 1);
    sim.instances[2].fault.hides.insert(prefix(P));
    sim.instances[0].fault.hides.clear();
    sim.withdraw(1, &[P]);
    sim.run(SECOND / 10);
    assert_eq!(sim.table(2).len(), 0, "the one that keeps silent about the withdraw is outvoted");
    assert!(sim.no_reset());
}

#[test]
fn the_masters_lie_is_corrected_within_t_and_100_ms() {
    let mut sim = router(Strategy::MasterSlave);
    sim.instances[0].fault.lies_about.insert(prefix(P));
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND / 10);
    assert_eq!(sim.table(2)[&prefix(P)].1, Some(666), "master-slave publishes at once");
    sim.run(u64::from(T_MS) * 1000);
    assert_eq!(sim.table(2)[&prefix(P)].1, None, "and is corrected by the steady majority");
}

/// Nobody waits for what slaves say; everybody may wait for what the others say.
#[test]
fn whose_word_counts_at_once_is_told_first() {
    for strategy in [Strategy::WaitForConsensus, Strategy::ContinuousMajority] {
        let mut sim = router(strategy);
        sim.announce(1, &[P], &[64501]);
        assert_eq!((sim.told_later.len(), sim.table(2).len()), (0, 1));
    }
    let mut sim = router(Strategy::MasterSlave);
    sim.announce(1, &[P], &[64501]);
    assert_eq!(sim.told_later, [1, 2]);
    assert!(sim.instances.iter().all(|i| i.heard.len() == 1), "later is not never");
    sim.kill_instance(0);
    sim.announce(1, &[Q], &[64501]);
    sim.instances[0].fault.lies_about.insert(prefix(Q));
    sim.restart_instance(0);
    sim.run(SECOND / 2);
    assert!(!sim.instances[0].legs().is_empty(), "it is back, and catches up");
    sim.announce(1, &[P], &[64501, 64502]);
    assert_eq!(sim.told_later, [1, 2], "while somebody is away, or catches up, whose word counts depends on the key");
}

/// Instance 0 says something else about the prefix every 10 ms, `n` times.
fn master_floods(sim: &mut Sim, n: u32) {
    for med in 0..n {
        sim.leg_sends(0, 2, &update(&[prefix(P)], &[], &[OUR_AS, 64501], LOCAL, Some(1000 + med), 0));
        sim.run(SECOND / 100);
    }
}

#[test]
fn a_master_that_floods_is_put_right_at_once_and_followed_again_once_it_rests() {
    let mut sim = router(Strategy::MasterSlave);
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    let before = sim.peers[&2].updates;
    // Far beyond the cap for flapping, and never quiet for T.
    master_floods(&mut sim, 1000);
    let told = sim.peers[&2].updates - before;
    assert!((2..=7).contains(&told), "{told} UPDATEs of a thousand came through");
    assert_eq!(sim.table(2)[&prefix(P)].1, None, "the majority's route stands, although the flood goes on");
    assert!(!sim.events_of("disagreement").is_empty(), "the master is named at the cap for flapping");
    sim.run(2 * u64::from(T_MS) * 1000);
    assert_eq!(sim.peers[&2].updates - before, told, "its silence changes nothing");
    sim.leg_sends(0, 2, &update(&[prefix(P)], &[], &[OUR_AS, 64501], LOCAL, Some(7), 0));
    sim.run(SECOND / 100);
    assert_eq!(sim.table(2)[&prefix(P)].1, Some(7), "one new word is the master's again, for T");
    sim.run(2 * u64::from(T_MS) * 1000);
    assert_eq!(sim.table(2)[&prefix(P)].1, None);
    assert!(sim.no_reset());
}

#[test]
fn a_made_up_route_that_comes_and_goes_is_forgotten_outside_and_in_the_end_inside() {
    let mut sim = router(Strategy::MasterSlave);
    for _ in 0..500 {
        sim.leg_sends(0, 2, &update(&[prefix(P)], &[], &[OUR_AS, 64999], LOCAL, None, 0));
        sim.run(SECOND / 200);
        sim.leg_sends(0, 2, &update(&[], &[prefix(P)], &[], LOCAL, None, 0));
        sim.run(SECOND / 200);
    }
    let told = sim.peers[&2].updates;
    assert!((2..=7).contains(&told), "{told} UPDATEs of a thousand came through");
    assert!(sim.table(2).is_empty());
    sim.run(3 * u64::from(T_MS) * 1000);
    let kept = sim.query(serde_json::json!({"command": "routes", "prefix": P}));
    assert_eq!(kept["sessions"], serde_json::json!([]), "nobody says anything about it any more");
    assert!(sim.no_reset());
}

#[test]
fn a_flooding_master_with_a_single_other_is_frozen_until_it_rests() {
    let mut sim = router(Strategy::MasterSlave);
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    sim.kill_instance(2);
    sim.run(3 * SECOND);
    let before = sim.peers[&2].updates;
    master_floods(&mut sim, 500);
    let told = sim.peers[&2].updates - before;
    assert!((2..=7).contains(&told), "{told} UPDATEs of five hundred came through");
    // What is right nobody can tell; the strategy says that it is what the master says, once it has
    // made up its mind.
    sim.run(2 * u64::from(T_MS) * 1000);
    assert_eq!(sim.table(2)[&prefix(P)].1, Some(1499));
    assert!(sim.no_reset());
}

#[test]
fn a_route_that_flaps_in_earnest_is_followed_as_soon_as_a_majority_does() {
    let mut sim = router(Strategy::MasterSlave);
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    for n in 0..50 {
        sim.announce(1, &[P], &[64501, 64900 + n]);
        sim.run(SECOND / 20);
        assert_eq!(sim.table(2)[&prefix(P)].0, vec![OUR_AS, 64501, 64900 + n]);
    }
    assert!(sim.events_of("disagreement").is_empty() && sim.no_reset());
}

#[test]
fn a_killed_instance_is_not_noticed_and_comes_back_level() {
    let mut sim = router(Strategy::WaitForConsensus);
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(SECOND);
    let before = (sim.table(2), sim.peers[&2].updates);
    sim.kill_instance(0);
    sim.run(SECOND);
    sim.withdraw(1, &[Q]);
    sim.announce(1, &["192.0.2.0/25"], &[64501]);
    sim.run(SECOND);
    sim.start_instance(0);
    sim.run(5 * SECOND);
    let heard: Vec<_> = sim.instances[0].heard.iter().filter(|h| h.0 == 1).flat_map(|h| h.1.clone()).collect();
    assert_eq!(
        heard,
        vec![prefix("192.0.2.0/25"), prefix(P)],
        "what stands in the store, not what was withdrawn meanwhile"
    );
    assert!(sim.instances[0].eor_heard >= 1);
    assert_eq!(sim.events_of("leg-level").len(), 1, "{:?}", sim.events_of("leg-level"));
    assert_eq!(sim.peers[&2].updates, before.1 + 2, "the peer heard of the live changes and of nothing else");
    // It votes again: without it, the two others could not outvote a lie of one of them.
    sim.kill_instance(2);
    sim.instances[1].fault.lies_about.insert(prefix("100.64.0.0/10"));
    sim.announce(1, &["100.64.0.0/10"], &[64501]);
    sim.run(5 * SECOND);
    assert!(!sim.table(2).contains_key(&prefix("100.64.0.0/10")), "two that differ: fail static");
    assert_eq!(sim.events_of("no-quorum").len(), 1, "{:#?}", sim.events_of("no-quorum"));
    assert!(sim.no_reset());
}

#[test]
fn frozen_candidates_are_never_withdrawn_for_an_instance_that_is_away() {
    let mut sim = router(Strategy::ContinuousMajority);
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND);
    sim.kill_instance(0);
    sim.kill_instance(1);
    sim.run(SECOND);
    assert_eq!(sim.events_of("one-alone").len(), 2, "one on each session");
    sim.kill_instance(2);
    sim.run(60 * SECOND);
    assert_eq!(sim.table(2).len(), 1);
    (0..3).for_each(|i| sim.start_instance(i));
    sim.run(10 * SECOND);
    assert_eq!(sim.table(2).len(), 1);
    assert!(sim.peers[&2].history.iter().all(|(_, _, announced)| *announced), "never withdrawn");
    assert!(sim.no_reset());
}

#[test]
fn when_nobody_comes_back_within_the_grace_time_the_peer_is_told() {
    let mut sim = router(Strategy::ContinuousMajority);
    (0..3).for_each(|i| sim.kill_instance(i));
    sim.run(110 * SECOND);
    assert!(sim.no_reset());
    sim.run(20 * SECOND);
    assert_eq!(sim.peers[&2].notifications.iter().map(|n| n.code).collect::<Vec<_>>(), vec![6]);
}

#[test]
fn a_mute_instance_loses_its_leg_and_nothing_else_happens() {
    let mut sim = router(Strategy::ContinuousMajority);
    sim.instances[1].fault.mute = true;
    sim.run(12 * SECOND);
    assert!(
        sim.events_of("leg-fault").iter().any(|e| e.instance.as_deref() == Some("i1") && e.text.contains("hold time"))
    );
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND);
    assert_eq!(sim.table(2).len(), 1);
    assert!(sim.no_reset());
}

#[test]
fn bad_bytes_of_an_instance_cost_that_leg_only() {
    let notification_3_10: &[u8] = &{
        let mut m = [0xffu8; 21];
        (m[16], m[17], m[18], m[19], m[20]) = (0, 21, 3, 3, 10);
        m
    };
    let mut too_long = vec![0xff; 16];
    too_long.extend([0xff, 0xff, 2]);
    let mut short = vec![0xff; 16];
    short.extend([0, 18, 4]);
    let nlri_33: Vec<u8> = {
        let mut m = update(&[prefix(P)], &[], &[OUR_AS], LOCAL, None, 0).to_vec();
        let at = m.len() - 4;
        m[at] = 33;
        m
    };
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n   "[..], &too_long, &short, notification_3_10, &nlri_33] {
        let mut sim = router(Strategy::ContinuousMajority);
        sim.leg_sends(2, 2, bytes);
        sim.run(SECOND / 2);
        let told = sim
            .events
            .iter()
            .filter(|e| e.instance.as_deref() == Some("i2") && e.kind.starts_with("leg-") && e.kind != "leg-up");
        assert_eq!(told.count(), 1, "{bytes:02x?}: {:?}", sim.events);
        sim.announce(1, &[P], &[64501]);
        sim.run(5 * SECOND);
        assert_eq!(sim.table(2).len(), 1);
        assert!(sim.no_reset());
    }
}

#[test]
fn an_instances_malformed_attribute_is_a_candidate_none() {
    let mut sim = router(Strategy::ContinuousMajority);
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND);
    let mut bad = update(&[prefix(P)], &[], &[OUR_AS, 64501], LOCAL, None, 0).to_vec();
    let origin = bad.windows(4).position(|w| w == [0x40, 1, 1, 0]).expect("ORIGIN stands in it");
    bad[origin + 3] = 3;
    (0..2).for_each(|i| sim.leg_sends(i, 2, &bad));
    sim.run(3 * SECOND);
    assert!(sim.table(2).is_empty(), "two of three said something the peer must treat as withdraw");
    assert!(sim.no_reset(), "and no malformed byte left");
}

#[test]
fn bad_bytes_of_a_peer_get_the_code_the_rfc_names_and_end_that_session_only() {
    let header = |len: u16, kind: u8| -> Vec<u8> {
        let mut m = vec![0xff; 16];
        m.extend(len.to_be_bytes());
        m.push(kind);
        m
    };
    let mut nlri_33 = update(&[prefix(P)], &[], &[64501], LOCAL, None, 0).to_vec();
    let at = nlri_33.len() - 4;
    nlri_33[at] = 33;
    let cases: Vec<(&str, Vec<u8>, (u8, u8))> = vec![
        ("marker", vec![0; 19], (1, 1)),
        ("a 19-byte-short header", header(18, 4), (1, 2)),
        ("length 65535", header(65535, 2), (1, 2)),
        ("type 9", header(19, 9), (1, 3)),
        ("keepalive with a body", header(20, 4).into_iter().chain([0]).collect(), (1, 2)),
        (
            "an OPEN out of place",
            header(29, 1).into_iter().chain([4, 0xfb, 0xf5, 0, 90, 10, 0, 0, 1, 0]).collect(),
            (5, 3),
        ),
        ("NLRI /33", nlri_33, (3, 10)),
        ("withdrawn length past the end", header(23, 2).into_iter().chain([0xff, 0xff, 0, 0]).collect(), (3, 1)),
    ];
    for (name, bytes, code) in cases {
        let mut sim = router(Strategy::ContinuousMajority);
        sim.announce(2, &[Q], &[64502]);
        sim.peer_sends(1, &bytes);
        sim.run(SECOND);
        let n = &sim.peers[&1].notifications;
        assert_eq!(n.iter().map(|n| (n.code, n.subcode)).collect::<Vec<_>>(), vec![code], "{name}");
        assert_eq!(
            (sim.peers[&2].closed, sim.peers[&2].notifications.len()),
            (0, 0),
            "{name}: the other session goes on"
        );
        assert!(sim.instances.iter().all(|i| i.heard.iter().all(|h| h.0 == 2)), "{name}: no instance ever saw it");
    }
}

#[test]
fn a_silent_peer_is_given_up_after_its_hold_time_and_half_an_open_after_the_large_one() {
    let mut sim = router(Strategy::ContinuousMajority);
    if let Some(p) = sim.peers.get_mut(&1) {
        p.silent = true;
    }
    sim.run(100 * SECOND);
    assert_eq!(sim.peers[&1].notifications.iter().map(|n| n.code).collect::<Vec<_>>(), vec![4]);
    assert_eq!(sim.peers[&2].closed, 0);
}

#[test]
fn an_attribute_that_runs_past_its_end_is_treated_as_withdraw() {
    let mut sim = router(Strategy::ContinuousMajority);
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND);
    assert_eq!(sim.table(2).len(), 1);
    let std::net::IpAddr::V4(nh) = peer_addr(1).ip() else { unreachable!() };
    let mut bad = update(&[prefix(P)], &[], &[64501], nh, None, 0).to_vec();
    let next_hop = bad.windows(3).rposition(|w| w == [0x40, 3, 4]).expect("NEXT_HOP stands in it");
    bad[next_hop + 2] = 200;
    sim.peer_sends(1, &bad);
    sim.run(SECOND);
    assert!(sim.table(2).is_empty());
    assert!(sim.no_reset());
    assert_eq!(sim.events_of("malformed-update").len(), 1);
}

#[test]
fn refresh_is_served_in_both_directions_and_never_reaches_the_other_side() {
    let mut sim = router(Strategy::ContinuousMajority);
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(SECOND);
    let refresh = RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::Request }.encode();
    let before = sim.peers[&2].history.len();
    sim.peer_sends(2, &refresh);
    sim.run(SECOND / 10);
    assert_eq!(sim.peers[&2].history.len(), before + 2, "out of what was published");
    let heard = sim.instances[0].heard.len();
    sim.leg_sends(0, 1, &refresh);
    sim.run(SECOND / 10);
    assert_eq!(sim.instances[0].heard.len(), heard + 1, "out of the store");
    assert_eq!(sim.instances[1].heard.len(), heard, "to that instance only");
}

#[test]
fn one_cease_stays_inside_a_quorums_goes_out() {
    let cease = wire::bgp::Notification::new(6, 2).encode();
    let mut sim = router(Strategy::ContinuousMajority);
    // They do not want it back, either.
    sim.instances[0].listening = false;
    sim.leg_sends(0, 2, &cease);
    sim.run(2 * SECOND);
    assert!(sim.no_reset());
    sim.instances[1].listening = false;
    sim.leg_sends(1, 2, &cease);
    sim.run(SECOND / 2);
    assert!(sim.no_reset(), "it may be on its way out");
    sim.run(SECOND);
    assert_eq!(sim.peers[&2].notifications.iter().map(|n| (n.code, n.subcode)).collect::<Vec<_>>(), vec![(6, 2)]);
    assert_eq!(sim.peers[&1].closed, 0);
}

#[test]
fn an_observer_is_compared_and_never_counted() {
    let mut c = config(3, Strategy::ContinuousMajority);
    c.instances[1].observer = true;
    c.instances[2].observer = true;
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.instances[1].fault.lies_about.insert(prefix(P));
    sim.instances[2].fault.lies_about.insert(prefix(P));
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    assert_eq!(sim.table(2)[&prefix(P)].1, None, "two observers do not outvote one voter");
    assert_eq!(sim.events_of("disagreement").len(), 1);
}

/// A seeded history: two peers announce and withdraw, instances die, lie and come back, never two
/// at once. Afterwards the watching peer holds exactly what the feeding peers last said, and no
/// session ever moved. With every other seed the FIB is voted on as well: the kernel was given each
/// route before any peer heard of it, and ends with the same.
fn history(seed: u64, strategy: Strategy) -> Sim {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (config, with_fib) = (config(3, strategy), seed % 2 == 1);
    let mut sim = if with_fib { Sim::with_fib(&config) } else { Sim::new(&config) };
    // How much of what has come is read in one turn.
    (sim.batch, sim.hurried) = (1 + seed as usize / 2 % 4, seed / 8 % 2 == 1);
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(SECOND);
    let mut truth = std::collections::BTreeMap::new();
    // Who has written nothing to the FIB has no vote there.
    sim.announce(1, &["10.99.0.0/16"], &[64501, 65000]);
    truth.insert(prefix("10.99.0.0/16"), vec![OUR_AS, 64501, 65000]);
    sim.run(5 * SECOND);
    sim.kernel_first = true;
    let mut sick: Option<(usize, bool)> = None;
    for _ in 0..60 {
        let p = format!("10.{}.0.0/16", rng.random_range(0..12));
        let feeder = 1 + u8::from(prefix(&p).octets()[1] & 1 == 0);
        match rng.random_range(0..10) {
            0..=4 => {
                let path = vec![64500 + u32::from(feeder), rng.random_range(65000..65010)];
                sim.announce(feeder, &[&p], &path);
                truth.insert(prefix(&p), std::iter::once(OUR_AS).chain(path).collect::<Vec<u32>>());
            }
            5..=7 => {
                sim.withdraw(feeder, &[&p]);
                truth.remove(&prefix(&p));
            }
            _ => match sick.take() {
                None => {
                    let (i, dead) = (rng.random_range(0..3), rng.random_bool(0.5));
                    match dead {
                        true => sim.kill_instance(i),
                        false => drop(sim.instances[i].fault.lies_about.insert(prefix(&p))),
                    }
                    sick = Some((i, dead));
                }
                Some((i, dead)) => {
                    if !dead {
                        sim.kill_instance(i);
                    }
                    sim.start_instance(i);
                    sim.run(15 * SECOND);
                }
            },
        }
        sim.run(rng.random_range(0..SECOND));
    }
    if let Some((i, dead)) = sick {
        if !dead {
            sim.kill_instance(i);
        }
        sim.start_instance(i);
    }
    sim.run(20 * SECOND);
    let table: std::collections::BTreeMap<_, _> = sim.table(3).into_iter().map(|(p, (path, _))| (p, path)).collect();
    assert_eq!(table, truth, "seed {seed}");
    assert!(sim.no_reset(), "seed {seed}: {:?}", sim.events);
    if with_fib {
        let gateway = |path: &Vec<u32>| format!("via 192.0.2.{} dev #2", path[1] - 64500);
        assert_eq!(sim.kernel, truth.iter().map(|(p, path)| (*p, gateway(path))).collect(), "seed {seed}");
    }
    sim
}

#[test]
fn seeded_histories_end_in_what_the_peers_said() {
    for seed in 0..150 {
        for strategy in
            [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK]
        {
            let sim = history(seed, strategy);
            if strategy == Strategy::WaitForConsensus || strategy == Strategy::ContinuousMajority {
                assert!(sim.peers[&3].history.iter().all(|(_, med, _)| *med != Some(666)), "seed {seed}: a lie left");
            }
        }
    }
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let events = |seed| format!("{:?}", history(seed, Strategy::WaitForConsensus).events);
    assert_eq!(events(7), events(7));
}
