//! The same random history with and without keys at rest: nobody outside may see which.

mod sim;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sim::{LOCAL, OUR_AS, Sim, config, prefix, update};
use std::collections::{BTreeMap, BTreeSet};
use virtd_config::{Config, Instance, Standby, Strategy};
use wire::bgp::message::{RefreshKind, RouteRefresh};
use wire::bgp::{Family, Prefix};

const SECOND: u64 = 1_000_000;
const PEERS: u8 = 5;
const PREFIXES: u8 = 10;
const STRATEGIES: [Strategy; 4] =
    [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK];

/// A router on which keys rest, or never do.
fn router(config: &Config, rests: bool) -> Sim {
    let mut sim = Sim::new(config);
    if !rests {
        sim.core.never_rest();
    }
    sim
}

fn name(n: u8) -> String {
    format!("10.{n}.0.0/16")
}

/// Who is there: three voters; with an observer; with a warm standby; two voters; three and k = 3.
fn who(shape: u64, strategy: Strategy) -> Config {
    let mut c = if shape == 8 { birds(strategy) } else { config(if shape == 3 { 2 } else { 3 }, strategy) };
    match shape {
        6 => {
            c.instances[0].limit_prefixes = vec![prefix("10.0.0.0/14")];
            c.instances.push(Instance { name: "i3".into(), ..Instance::default() });
        }
        7 => {
            c.instances[0].diversity =
                Some(virtd_config::Diversity { blocks: vec![prefix("10.0.0.0/14")], ..Default::default() });
            c.instances.push(Instance { name: "i3".into(), ..Instance::default() });
        }
        1 => c.instances.push(Instance { name: "i3".into(), observer: true, ..Instance::default() }),
        2 => c.instances.push(Instance { name: "i3".into(), standby: Some(Standby::Warm), ..Instance::default() }),
        4 => c.vote.k = Some(3),
        _ => {}
    }
    c
}

fn bird(name: &str) -> Instance {
    let config_file = Some(format!("/etc/{name}.conf").into());
    Instance { name: name.into(), kind: Some(virtd_config::Kind::Bird), config_file, ..Instance::default() }
}

/// Instances that virtd starts.
fn birds(strategy: Strategy) -> Config {
    let mut c = sim::supervised::supervised(3, strategy);
    (0..3).for_each(|n| c.instances[n] = bird(&format!("i{n}")));
    c
}

/// Time passes; orders are obeyed, and who died of a route is started again.
fn pass(sim: &mut Sim, us: u64, dead: &mut usize, down: &BTreeSet<usize>) {
    let end = sim.now + us;
    while sim.now < end {
        let step = (end - sim.now).min(SECOND / 10);
        sim.run(step);
        sim::supervised::obey(sim);
        while *dead < sim.deaths.len() && sim.deaths[*dead].0 + SECOND <= sim.now {
            let i = sim.deaths[*dead].1;
            *dead += 1;
            if !down.contains(&i) && !sim.instances[i].listening {
                sim.restart_instance(i);
            }
        }
    }
}

/// What a peer has now, and everything that it was ever told.
type Table = BTreeMap<Prefix, (Vec<u32>, Option<u32>)>;
type Told = BTreeMap<u8, Vec<(Prefix, Option<u32>, bool)>>;

/// What can be seen from outside when everything is quiet.
#[derive(PartialEq, Debug)]
struct Seen {
    tables: BTreeMap<u8, Table>,
    closed: Vec<(u8, u32, Vec<String>)>,
    standing: BTreeSet<(String, String, String)>,
    lost: BTreeSet<(String, String)>,
    routes: BTreeMap<String, Value>,
    status: Vec<Value>,
}

fn look(sim: &mut Sim) -> Seen {
    let (mut standing, mut lost) = (BTreeSet::new(), BTreeSet::new());
    let mut routes: BTreeMap<String, Value> =
        (0..PREFIXES + 2).map(|n| (name(n), sim.query(json!({"command": "routes", "prefix": name(n)})))).collect();
    // How often a master that has a leg alone has said something is forgotten when its key rests.
    for told in routes.values_mut().flat_map(|r| r["sessions"].as_array_mut().into_iter().flatten()) {
        // A key at rest knows no more than that it has rested for T (docs/OPERATIONS.md, `changed_us`).
        told["changed_us"] = Value::Null;
        let why = told["why"].as_str().unwrap_or_default().replace("; the master does not leave it alone", "");
        told["why"] = why.into();
    }
    for (prefix, answer) in &routes {
        for told in answer["sessions"].as_array().into_iter().flatten() {
            let peer = told["peer"].as_str().unwrap_or("?").to_owned();
            for said in told["said"].as_array().into_iter().flatten() {
                if said["note"].as_str().is_some_and(|n| n.contains("not with")) {
                    standing.insert((peer.clone(), prefix.clone(), said["instance"].as_str().unwrap_or("?").into()));
                }
            }
            if told["why"].as_str().is_some_and(|w| w.starts_with("no majority")) {
                lost.insert((peer, prefix.clone()));
            }
        }
    }
    let status = sim.query(json!({"command": "status"}));
    Seen {
        tables: sim.peers.iter().map(|(n, p)| (*n, p.table.clone())).collect(),
        closed: sim
            .peers
            .iter()
            .map(|(n, p)| (*n, p.closed, p.notifications.iter().map(|n| format!("{n}")).collect()))
            .collect(),
        standing,
        lost,
        routes,
        status: ["disagreements_now", "without_quorum", "routes_published", "sessions_up", "majority_split"]
            .iter()
            .map(|k| status[*k].clone())
            .collect(),
    }
}

/// The verdicts told, as a multiset.
fn verdicts(sim: &Sim) -> BTreeMap<(String, String, String, String), u32> {
    let mut all = BTreeMap::new();
    for e in sim.events.iter().filter(|e| ["disagreement", "no-quorum", "agreement"].contains(&e.kind)) {
        let key = (
            e.kind.to_owned(),
            e.session.clone().unwrap_or_default(),
            e.prefix.map(|p| p.to_string()).unwrap_or_default(),
            e.instance.clone().unwrap_or_default(),
        );
        *all.entry(key).or_default() += 1;
    }
    all
}

struct Run {
    seen: Vec<(usize, String, Seen)>,
    verdicts: BTreeMap<(String, String, String, String), u32>,
    left: u64,
    heard: Told,
    levels: Vec<(u64, Option<String>)>,
}

fn history(seed: u64, strategy: Strategy, slow: bool, rests: bool) -> Run {
    let mut rng = SmallRng::seed_from_u64(seed);
    let shape = seed % 9;
    let mut c = who(shape, strategy);
    let n = c.instances.len();
    let mut sim = router(&c, rests);
    let mut dead = 0;
    let (mut added, mut disabled) = (0, BTreeSet::new());
    if shape == 8 {
        for i in 0..n {
            sim::supervised::news(&mut sim, i, broker::io::ProcessNews::Started { pid: 100 + i as u32 });
        }
    }
    (sim.batch, sim.hurried) = (1 + seed as usize / 9 % 4, seed / 36 % 2 == 1);
    (1..=PEERS).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    let mut heard: BTreeMap<u8, Vec<_>> = BTreeMap::new();
    let mut seen = Vec::new();
    let mut log = String::new();
    let mut down: BTreeSet<usize> = BTreeSet::new();
    let mut away: BTreeSet<u8> = BTreeSet::new();
    for step in 0..70usize {
        let k = rng.random_range(0..PREFIXES);
        let (p, feeder) = (name(k), 1 + k % 2);
        let (what, i, x, y) =
            (rng.random_range(0..33), rng.random_range(0..n), rng.random_range(0..100u32), rng.random_range(3..=PEERS));
        log.push_str(&format!("{step}@{}ms: ", sim.now / 1000));
        match what {
            0..=8 if !away.contains(&feeder) => {
                log.push_str(&format!("announce {p} {}\n", x % 4));
                sim.announce(feeder, &[&p], &[64500 + u32::from(feeder), 65000 + x % 4]);
            }
            9..=12 if !away.contains(&feeder) => {
                log.push_str(&format!("withdraw {p}\n"));
                sim.withdraw(feeder, &[&p]);
            }
            13..=14 => {
                let lies = &mut sim.instances[i].fault.lies_about;
                log.push_str(&format!("lie {i} {p}\n"));
                if !lies.remove(&prefix(&p)) {
                    lies.insert(prefix(&p));
                }
            }
            15..=16 => {
                let hides = &mut sim.instances[i].fault.hides;
                log.push_str(&format!("hide {i} {p}\n"));
                if !hides.remove(&prefix(&p)) {
                    hides.insert(prefix(&p));
                }
            }
            17..=20 if shape == 8 => {
                if sim.instances[i].listening {
                    log.push_str(&format!("crash {i}\n"));
                    sim.kill_instance(i);
                    let text = "was ended by SIGSEGV".into();
                    sim::supervised::news(&mut sim, i, broker::io::ProcessNews::Ended { unasked: true, text });
                }
            }
            17..=20 => {
                if down.remove(&i) {
                    log.push_str(&format!("start {i}\n"));
                    sim.start_instance(i);
                    if x % 2 == 0 {
                        sim.instances[i].fault.hides.insert(prefix(&p));
                    } else if x % 3 == 0 {
                        sim.instances[i].fault.lies_about.insert(prefix(&p));
                    }
                } else if down.len() + 1 < n {
                    log.push_str(&format!("kill {i}\n"));
                    sim.kill_instance(i);
                    down.insert(i);
                }
            }
            21..=22 => {
                let y = if x % 5 == 0 { feeder } else { y };
                if away.remove(&y) {
                    log.push_str(&format!("peer {y} comes\n"));
                    sim.connect_peer(y);
                } else if let Some(conn) = sim.peers[&y].conn {
                    log.push_str(&format!("peer {y} goes\n"));
                    heard.entry(y).or_default().extend(sim.peers[&y].history.clone());
                    sim.input(broker::io::Input::PeerClosed { conn, errno: 0 });
                    if let Some(p) = sim.peers.get_mut(&y) {
                        (p.conn, p.established) = (None, false);
                        p.table.clear();
                    }
                    away.insert(y);
                }
            }
            23..=24 => {
                log.push_str(&format!("peer {y} asks\n"));
                sim.peer_sends(y, &RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::Request }.encode());
            }
            25 => {
                c.vote.min_voters = if c.vote.min_voters > 1 { 1 } else { 2 };
                log.push_str(&format!("min_voters {}\n", c.vote.min_voters));
                sim.reload(&c);
            }
            26 if shape == 1 || shape == 2 => {
                let last = c.instances.last_mut().expect("an instance");
                (last.observer, last.standby) = match x % 3 {
                    0 => (true, None),
                    1 => (false, None),
                    _ => (false, Some(Standby::Warm)),
                };
                log.push_str(&format!("role {}\n", x % 3));
                sim.reload(&c);
            }
            27 => {
                // A route of its own making, in the place of what it says or in addition.
                let p = name(k % 2 + PREFIXES);
                log.push_str(&format!("{i} makes up {p} to {y}\n"));
                match x % 3 {
                    0 => sim.leg_sends(i, y, &update(&[], &[prefix(&p)], &[], LOCAL, None, 0)),
                    _ => sim.leg_sends(i, y, &update(&[prefix(&p)], &[], &[OUR_AS, 64999 + x % 2], LOCAL, None, 0)),
                }
            }
            28 => {
                log.push_str(&format!("{i} asks on leg {y}\n"));
                sim.leg_sends(
                    i,
                    y,
                    &RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::Request }.encode(),
                );
            }
            29 => {
                log.push_str(&format!("{i} drops leg {y}\n"));
                sim.drop_leg(i, y, None);
            }
            30 if shape == 5 => {
                log.push_str(&format!("{i} dies of {p}, or not\n"));
                let dies_of = &mut sim.instances[i].fault.dies_of;
                if !dies_of.remove(&prefix(&p)) {
                    dies_of.insert(prefix(&p));
                }
            }
            30..=31 if shape == 8 => {
                if c.instances.len() > 3 {
                    let at = x as usize % c.instances.len();
                    log.push_str(&format!("remove {}\n", c.instances[at].name));
                    c.instances.remove(at);
                } else {
                    added += 1;
                    log.push_str(&format!("add n{added}\n"));
                    c.instances.push(bird(&format!("n{added}")));
                }
                sim.reload(&c);
            }
            32 if shape < 5 => {
                let action = if disabled.remove(&i) { "enable" } else { "drain" };
                if action == "drain" {
                    disabled.insert(i);
                }
                log.push_str(&format!("{action} {i}\n"));
                sim.query(json!({"command": "instance", "name": format!("i{i}"), "action": action}));
            }
            31 => {
                log.push_str(&format!("{i} floods {p} to {y}\n"));
                for n in 0..x % 9 {
                    let med = Some(n);
                    sim.leg_sends(i, y, &update(&[prefix(&p)], &[], &[OUR_AS, 64999], LOCAL, med, 0));
                    pass(&mut sim, 30_000, &mut dead, &down);
                }
            }
            _ => log.push_str("nothing\n"),
        }
        let us = if slow { 3 * SECOND } else { rng.random_range(0..SECOND * 3 / 4) };
        pass(&mut sim, us, &mut dead, &down);
        if step % 10 == 9 {
            pass(&mut sim, 20 * SECOND, &mut dead, &down);
            seen.push((step, std::mem::take(&mut log), look(&mut sim)));
        }
    }
    let verdicts = verdicts(&sim);
    let levels = sim.events_of("leg-level").iter().map(|e| (e.at_us / 1000, e.instance.clone())).collect();
    for n in 1..=PEERS {
        heard.entry(n).or_default().extend(sim.peers[&n].history.clone());
        if let Some(conn) = sim.peers[&n].conn {
            sim.input(broker::io::Input::PeerClosed { conn, errno: 0 });
        }
    }
    sim.run(15 * SECOND);
    let left = sim.query(json!({"command": "status"}))["interned_routes"].as_u64().expect("a number");
    Run { seen, verdicts, left, heard, levels }
}

fn compare(seed: u64, strategy: Strategy, slow: bool) -> Vec<String> {
    let (a, b) = (history(seed, strategy, slow, false), history(seed, strategy, slow, true));
    let mut found = Vec::new();
    let at = format!("seed {seed} {strategy:?} slow {slow}");
    if a.left != 0 || b.left != 0 {
        found.push(format!("{at}: interned routes left: {} without, {} with rest", a.left, b.left));
    }
    for ((step, log, x), (_, _, y)) in a.seen.iter().zip(&b.seen) {
        let mut what = Vec::new();
        if x.tables != y.tables {
            what.push(format!("TABLES {:?} / {:?}", x.tables, y.tables));
        }
        if x.closed != y.closed {
            what.push(format!("CLOSED {:?} / {:?}", x.closed, y.closed));
        }
        if x.standing != y.standing {
            what.push(format!("STANDING {:?} / {:?}", x.standing, y.standing));
        }
        if x.lost != y.lost {
            what.push(format!("LOST {:?} / {:?}", x.lost, y.lost));
        }
        if x.status != y.status {
            what.push(format!("STATUS {:?} / {:?}", x.status, y.status));
        }
        for (p, r) in &x.routes {
            if *r != y.routes[p] {
                what.push(format!("ROUTES {p}:\n   {r}\n   {}", y.routes[p]));
            }
        }
        if !what.is_empty() {
            found.push(format!("{at} step {step}:\n{log}  {}", what.join("\n  ")));
            break; // what follows may follow from it
        }
    }
    if slow && found.is_empty() {
        if a.verdicts != b.verdicts {
            let only = |p: &Run, q: &Run| -> Vec<String> {
                let other = |k| q.verdicts.get(k);
                p.verdicts.iter().filter(|(k, n)| other(k) != Some(n)).map(|(k, n)| format!("{k:?} x{n}")).collect()
            };
            found.push(format!("{at} VERDICTS: {:?} / {:?}", only(&a, &b), only(&b, &a)));
        }
        if a.heard != b.heard {
            let sorted = |h: &Told| {
                let mut h = h.clone();
                h.values_mut().for_each(|v| v.sort());
                h
            };
            if sorted(&a.heard) != sorted(&b.heard) {
                let lens: Vec<_> = a.heard.values().zip(b.heard.values()).map(|(a, b)| (a.len(), b.len())).collect();
                found.push(format!("{at} HEARD {lens:?}"));
            }
        }
        if a.levels != b.levels && seed % 9 != 7 {
            found.push(format!("{at} LEVELS {:?} / {:?}", a.levels, b.levels));
        }
    }
    found
}

/// HV_SEEDS: how many; each shape of [`who`] once unless told otherwise.
#[test]
fn nobody_sees_whether_keys_rest() {
    let seeds = std::env::var("HV_SEEDS").map_or(9, |n| n.parse().expect("HV_SEEDS: a number"));
    let mut found = Vec::new();
    for (seed, strategy) in (0..seeds).flat_map(|seed| STRATEGIES.map(|s| (seed, s))) {
        found.extend(compare(seed, strategy, false));
        found.extend(compare(seed, strategy, true));
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n\n"));
}

/// What a key that flaps leaves in the queue of rechecks does not grow with how often it does.
#[test]
fn a_key_that_flaps_stands_in_the_queue_once() {
    let mut sim = router(&config(3, Strategy::WaitForConsensus), true);
    (1..=4).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    for n in 0..2000u32 {
        sim.announce(1, &["10.1.0.0/16"], &[64501, 65000 + n % 2]);
        sim.run(100);
    }
    let octets = sim.query(json!({"command": "status"}))["memory"]["verdicts_bytes"].as_u64();
    assert!(octets.is_some_and(|n| n < 1000), "{octets:?}");
}

/// It is level when it has said what it is given, not when it falls quiet.
#[test]
fn an_instance_that_is_given_only_a_block_comes_back_as_soon() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[2].diversity =
        Some(virtd_config::Diversity { blocks: vec![prefix("10.1.0.0/16")], ..Default::default() });
    let mut sim = router(&c, true);
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    sim.announce(1, &["10.1.0.0/16", "10.2.0.0/16"], &[64501]);
    sim.run(3 * SECOND);
    sim.kill_instance(2);
    sim.run(5 * SECOND);
    let from = sim.now;
    sim.start_instance(2);
    for n in 0..40u32 {
        sim.announce(1, &["10.1.0.0/16"], &[64501, 65000 + n % 50]);
        sim.run(SECOND / 20);
    }
    let levels: Vec<u64> = sim.events_of("leg-level").iter().map(|e| (e.at_us - from) / 1000).collect();
    assert!(!levels.is_empty() && levels.iter().all(|ms| *ms < 1000), "{levels:?}");
}

/// While it had none, keys went on without its word.
#[test]
fn an_instance_whose_legs_stood_is_judged_when_it_has_a_duty_again() {
    let hidden = prefix("10.1.0.0/16");
    let mut sim = router(&config(3, Strategy::WaitForConsensus), true);
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    let order = |sim: &mut Sim, action| sim.query(json!({"command": "instance", "name": "i2", "action": action}));
    order(&mut sim, "disable");
    sim.run(2 * SECOND);
    sim.instances[2].fault.hides.insert(hidden);
    sim.announce(1, &["10.1.0.0/16"], &[64501]);
    sim.run(5 * SECOND);
    order(&mut sim, "enable");
    sim.run(10 * SECOND);
    assert_eq!(sim.events_of("disagreement").len(), 2, "towards both peers that are told");
    sim.kill_instance(0);
    sim.kill_instance(1);
    sim.run(5 * SECOND);
    assert!(sim.table(2).is_empty(), "the one that is left says nothing");
}

/// The same of a cold standby whose process has not been ended yet.
#[test]
fn a_standby_whose_legs_stood_is_judged_when_it_votes() {
    let mut c = config(4, Strategy::WaitForConsensus);
    let voter = c.clone();
    c.instances[3].standby = Some(Standby::Cold);
    let mut sim = router(&c, true);
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    sim.instances[3].fault.hides.insert(prefix("10.1.0.0/16"));
    sim.announce(1, &["10.1.0.0/16"], &[64501]);
    sim.run(5 * SECOND);
    sim.reload(&voter);
    sim.run(10 * SECOND);
    assert_eq!(sim.events_of("disagreement").len(), 2);
}
