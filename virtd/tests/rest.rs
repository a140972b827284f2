//! Keys at rest are kept once for all sessions: nothing that is seen from outside knows of it.

mod sim;

use sim::{Sim, config, prefix, update};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use virtd_config::Strategy;
use wire::bgp::message::{RefreshKind, RouteRefresh};
use wire::bgp::{Family, Prefix};

const SECOND: u64 = 1_000_000;
const PREFIXES: u32 = 300;

/// So many peers, the first of which has announced [`PREFIXES`].
fn exchange(peers: u8, strategy: Strategy) -> Sim {
    let mut sim = Sim::new(&config(3, strategy));
    (0..3).for_each(|i| sim.start_instance(i));
    (1..=peers).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    let names: Vec<String> = (0..PREFIXES).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    for names in names.chunks(100) {
        sim.announce(1, &names.iter().map(String::as_str).collect::<Vec<&str>>(), &[64501]);
    }
    sim.run(3 * SECOND);
    assert!((2..=peers).all(|n| sim.table(n).len() == PREFIXES as usize));
    sim
}

fn tables_bytes(sim: &mut Sim) -> u64 {
    sim.query(serde_json::json!({"command": "status"}))["memory"]["tables_bytes"].as_u64().expect("octets")
}

fn updates(sim: &Sim) -> Vec<u64> {
    sim.peers.values().map(|p| p.updates).collect()
}

#[test]
fn a_peer_more_that_is_told_the_same_costs_a_bit_a_key() {
    for strategy in [Strategy::WaitForConsensus, Strategy::MasterSlave, Strategy::ContinuousMajority] {
        let (mut few, mut many) = (exchange(3, strategy), exchange(60, strategy));
        let (few, many) = (tables_bytes(&mut few), tables_bytes(&mut many));
        assert!(many < few + 57 * u64::from(PREFIXES) * 2, "{few} octets with 3 peers, {many} with 60");
    }
}

#[test]
fn a_word_that_differs_is_masked_and_named_and_forgotten_when_it_does_not_differ_any_more() {
    let mut sim = exchange(4, Strategy::WaitForConsensus);
    let p = prefix("10.0.7.0/24");
    sim.instances[1].fault.lies_about.insert(p);
    sim.announce(1, &["10.0.7.0/24"], &[64501, 64777]);
    sim.run(4 * SECOND);
    assert_eq!(sim.table(2)[&p].0, [sim::OUR_AS, 64501, 64777]);
    let named: BTreeSet<_> = sim.events_of("disagreement").iter().map(|e| (e.session.clone(), e.prefix)).collect();
    assert_eq!(named.len(), 3, "on every session: {named:?}");
    sim.instances[1].fault.lies_about.clear();
    sim.announce(1, &["10.0.7.0/24"], &[64501]);
    sim.run(4 * SECOND);
    assert_eq!(sim.events_of("agreement").len(), 3);
    assert_eq!(sim.table(2)[&p].0, [sim::OUR_AS, 64501]);
    let answer = sim.query(serde_json::json!({"command": "routes", "prefix": "10.0.7.0/24"}));
    let told = answer["sessions"].as_array().expect("what each peer is told");
    assert!(
        told.len() == 3 && told.iter().all(|t| t["why"].as_str().is_some_and(|w| w.contains("3 of 3 agree"))),
        "{answer}"
    );
    assert_eq!(told[0]["said"].as_array().map(Vec::len), Some(3));
}

#[test]
fn an_instance_goes_and_comes_back_and_no_peer_hears_of_it() {
    for strategy in [Strategy::WaitForConsensus, Strategy::MasterSlave] {
        let mut sim = exchange(4, strategy);
        let (before, p) = (updates(&sim), prefix("10.0.9.0/24"));
        for i in [0, 2] {
            sim.kill_instance(i);
            sim.run(3 * SECOND);
            sim.instances[i].fault.hides.insert(p);
            sim.restart_instance(i);
            sim.run(20 * SECOND);
            assert!(
                sim.events
                    .iter()
                    .any(|e| e.kind == "leg-level" && e.instance.as_deref() == Some(["i0", "i1", "i2"][i]))
            );
            let wrong: Vec<_> = sim.events_of("disagreement").iter().map(|e| (e.prefix, e.instance.clone())).collect();
            assert!(!wrong.is_empty() && wrong.iter().all(|(about, _)| *about == Some(p)), "{wrong:?}");
            sim.kill_instance(i);
            sim.start_instance(i);
            sim.run(20 * SECOND);
            sim.events.clear();
        }
        assert_eq!(updates(&sim), before);
        assert!((2..=4).all(|n| sim.table(n).len() == PREFIXES as usize) && sim.no_reset());
    }
}

#[test]
fn all_that_was_told_is_told_again_on_request_once_each() {
    let mut sim = exchange(4, Strategy::WaitForConsensus);
    let before = sim.peers[&3].history.len();
    // One of them changes meanwhile.
    sim.peer_sends(3, &RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::Request }.encode());
    sim.announce(1, &["10.0.9.0/24"], &[64501, 64777]);
    sim.run(3 * SECOND);
    let told: Vec<Prefix> = sim.peers[&3].history[before..].iter().map(|(p, _, _)| *p).collect();
    let once: BTreeSet<Prefix> = told.iter().copied().collect();
    assert_eq!(once.len(), PREFIXES as usize);
    assert!(told.len() <= once.len() + 1, "{} of {}", told.len(), once.len());
    let before = sim.peers[&3].history.len();
    sim.peer_sends(3, &RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::Request }.encode());
    sim.run(3 * SECOND);
    assert_eq!(sim.peers[&3].history.len() - before, PREFIXES as usize, "and a second time");
    assert_eq!(sim.table(3)[&prefix("10.0.9.0/24")].0, [sim::OUR_AS, 64501, 64777]);
}

#[test]
fn who_announced_goes_and_everybody_is_told() {
    let mut sim = exchange(4, Strategy::ContinuousMajority);
    sim.withdraw(1, &["10.0.9.0/24"]);
    sim.run(2 * SECOND);
    assert!((2..=4).all(|n| sim.table(n).len() == PREFIXES as usize - 1));
    let conn = sim.peers[&1].conn.expect("a connection");
    sim.input(broker::io::Input::PeerClosed { conn, errno: 0 });
    sim.run(3 * SECOND);
    assert!((2..=4).all(|n| sim.table(n).is_empty()));
    assert_eq!(sim.query(serde_json::json!({"command": "status"}))["interned_routes"], 0, "nothing is held any more");
}

#[test]
fn one_that_comes_back_without_a_table_takes_no_turn_of_a_table_s_length() {
    const MOST: usize = 40_000;
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    (0..3).for_each(|i| sim.start_instance(i));
    (1..=2).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    let all: Vec<Prefix> =
        (0..MOST as u32).map(|n| Prefix::new(IpAddr::V4(((n + 0x10000) << 8).into()), 24).expect("a prefix")).collect();
    for some in all.chunks(800) {
        sim.peer_sends(1, &update(some, &[], &[64501], Ipv4Addr::new(192, 0, 2, 1), None, 0));
    }
    sim.run(20 * SECOND);
    assert_eq!((sim.table(2).len(), sim.core.keys_at_rest()), (MOST, MOST));
    sim.kill_instance(2);
    sim.instances[2].fault.hides.extend(all);
    sim.restart_instance(2);
    sim.hurried = true;
    // It is long waited for: nearly all is missing.
    let (mut most, mut before) = (0, MOST);
    for _ in 0..1_000_000 {
        let turn = broker::turn::wake_at(&mut sim).unwrap_or(sim.now).max(sim.now + 1) - sim.now;
        sim.run(turn);
        let rest = sim.core.keys_at_rest();
        (most, before) = (most.max(before.saturating_sub(rest)), rest);
        if rest == 0 {
            break;
        }
    }
    assert_eq!(before, 0, "its word counts in the end");
    assert!(most <= MOST / 2, "{most} keys in a turn");
    sim.run(5 * SECOND);
    assert!(sim.events_of("disagreement").len() > 100 && sim.no_reset());
    assert_eq!(sim.table(2).len(), MOST);
}

#[test]
fn what_waits_to_be_told_does_not_grow_however_much_is_read_in_a_turn() {
    const WORDS: u32 = 20_000;
    let mut sim = Sim::new(&config(1, Strategy::MasterSlave));
    sim.start_instance(0);
    sim.connect_peer(1);
    sim.run(2 * SECOND);
    (sim.batch, sim.hurried) = (usize::MAX, true);
    for turn in 0..10 {
        let said = turn * WORDS..(turn + 1) * WORDS;
        let prefixes: Vec<Prefix> =
            said.map(|n| Prefix::new(IpAddr::V4(((n + 0x10000) << 8).into()), 24).expect("a prefix")).collect();
        let updates = prefixes.chunks(800).map(|some| update(some, &[], &[sim::OUR_AS, 64777], sim::LOCAL, None, 0));
        sim.leg_sends(0, 1, &updates.collect::<Vec<_>>().concat());
    }
    let status = sim.query(serde_json::json!({"command": "status"}));
    let number = |key: &str| status[key].as_u64().expect("a number");
    assert_eq!(number("candidates"), u64::from(10 * WORDS));
    let waits = number("candidates") - number("prefixes_told");
    assert!(waits <= u64::from(WORDS), "{waits} wait");
}
