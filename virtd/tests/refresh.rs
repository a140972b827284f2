//! A peer says all that it has again, between BoRR and EoRR (RFC 7313): what it does not say again
//! is gone.

mod sim;

use sim::{Sim, config, open, our_open, peer_addr, prefix};
use std::net::{IpAddr, Ipv4Addr};
use virtd_config::Strategy;
use wire::bgp::message::{Capability, Open, RefreshKind, RouteRefresh};
use wire::bgp::{Family, Prefix};

const SECOND: u64 = 1_000_000;

fn enhanced(mut open: Open) -> Open {
    open.capabilities.push(Capability::EnhancedRouteRefresh);
    open
}

/// Three instances and two peers, the first of which knows enhanced refresh, as the instances do
/// where `known`.
fn router(known: bool) -> Sim {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    for i in 0..3 {
        sim.offers.insert((i, 1), if known { enhanced(our_open()) } else { our_open() });
    }
    sim.connect_peer_with(1, &enhanced(open(64501, Ipv4Addr::new(10, 0, 0, 1), 90)));
    sim.connect_peer(2);
    sim.run(3 * SECOND);
    sim
}

fn mark(sim: &mut Sim, kind: RefreshKind) {
    sim.peer_sends(1, &RouteRefresh { family: Family::IPV4_UNICAST, kind }.encode());
}

fn told(sim: &Sim) -> Vec<Prefix> {
    sim.table(2).into_keys().collect()
}

fn list(prefixes: &[&str]) -> Vec<Prefix> {
    prefixes.iter().map(|p| prefix(p)).collect()
}

#[test]
fn what_is_not_said_again_is_withdrawn_from_every_instance_and_every_peer() {
    let mut sim = router(true);
    sim.announce(1, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"], &[64501]);
    sim.run(2 * SECOND);
    mark(&mut sim, RefreshKind::Begin);
    sim.announce(1, &["10.1.0.0/16"], &[64501, 64777]);
    sim.announce(1, &["10.5.0.0/16"], &[64501]);
    sim.withdraw(1, &["10.4.0.0/16"]);
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), list(&["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.5.0.0/16"]), "not before the end");
    let heard: Vec<usize> = sim.instances.iter().map(|i| i.heard.len()).collect();
    mark(&mut sim, RefreshKind::End);
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), list(&["10.1.0.0/16", "10.5.0.0/16"]));
    assert_eq!(sim.table(2)[&prefix("10.1.0.0/16")].0, [sim::OUR_AS, 64501, 64777]);
    for (i, before) in sim.instances.iter().zip(heard) {
        let mut gone: Vec<Prefix> = i.heard[before..].iter().flat_map(|(_, _, gone)| gone.clone()).collect();
        gone.sort_unstable();
        assert_eq!(gone, list(&["10.2.0.0/16", "10.3.0.0/16"]), "each is told, once");
    }
    assert_eq!(sim.events_of("refresh-swept").len(), 1);
    assert!(sim.no_reset());
    assert_eq!(sim.query(serde_json::json!({"command": "sessions"}))["sessions"][0]["prefixes_in"], 2);
}

#[test]
fn a_second_beginning_begins_anew_and_an_end_without_one_is_none() {
    let mut sim = router(true);
    sim.announce(1, &["10.1.0.0/16", "10.2.0.0/16"], &[64501]);
    mark(&mut sim, RefreshKind::End);
    sim.run(2 * SECOND);
    assert_eq!(told(&sim).len(), 2, "an end without a beginning");
    mark(&mut sim, RefreshKind::Begin);
    sim.announce(1, &["10.1.0.0/16", "10.2.0.0/16"], &[64501]);
    mark(&mut sim, RefreshKind::Begin);
    sim.announce(1, &["10.2.0.0/16"], &[64501]);
    mark(&mut sim, RefreshKind::End);
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), list(&["10.2.0.0/16"]));
    mark(&mut sim, RefreshKind::End);
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), list(&["10.2.0.0/16"]), "the second end is one without a beginning");
}

#[test]
fn what_was_not_negotiated_is_ignored() {
    let mut sim = router(false);
    sim.announce(1, &["10.1.0.0/16"], &[64501]);
    mark(&mut sim, RefreshKind::Begin);
    mark(&mut sim, RefreshKind::End);
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), list(&["10.1.0.0/16"]), "without the capability");
    let mut sim = router(true);
    sim.announce(1, &["10.1.0.0/16"], &[64501]);
    for kind in [RefreshKind::Begin, RefreshKind::End] {
        sim.peer_sends(1, &RouteRefresh { family: Family::IPV6_UNICAST, kind }.encode());
    }
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), list(&["10.1.0.0/16"]), "of another family");
}

#[test]
fn a_new_session_knows_nothing_of_a_beginning() {
    let mut sim = router(true);
    sim.announce(1, &["10.1.0.0/16", "10.2.0.0/16"], &[64501]);
    mark(&mut sim, RefreshKind::Begin);
    let conn = sim.peers[&1].conn.expect("a connection");
    sim.input(broker::io::Input::PeerClosed { conn, errno: 0 });
    sim.run(2 * SECOND);
    sim.connect_peer_with(1, &enhanced(open(64501, Ipv4Addr::new(10, 0, 0, 1), 90)));
    sim.run(3 * SECOND);
    sim.announce(1, &["10.1.0.0/16"], &[64501]);
    mark(&mut sim, RefreshKind::End);
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), list(&["10.1.0.0/16"]));
}

/// More than one slice, and what comes while they are worked off, alone in a turn or not, is the
/// peer's last word.
#[test]
fn a_large_sweep_goes_in_slices_and_a_word_that_comes_meanwhile_stands() {
    let mut sim = router(true);
    let IpAddr::V4(next_hop) = peer_addr(1).ip() else { panic!("IPv4") };
    let many: Vec<Prefix> = (0..5000u32).map(|n| prefix(&format!("{}/32", Ipv4Addr::from(0x0a00_0000 + n)))).collect();
    for some in many.chunks(500) {
        sim.peer_sends(1, &sim::update(some, &[], &[64501], next_hop, None, 0));
    }
    sim.run(2 * SECOND);
    assert_eq!(told(&sim).len(), 5000);
    mark(&mut sim, RefreshKind::Begin);
    // The core alone hears these: the slices come after.
    sim.core_hears(1, &RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::End }.encode());
    sim.core_hears(1, &sim::update(&many[4000..4001], &[], &[64501, 64777], next_hop, None, 0));
    assert!(sim.core.deadline().is_some_and(|at| at <= sim.now), "the sweep wants a turn at once");
    sim.run(2 * SECOND);
    assert_eq!(told(&sim), many[4000..4001]);
    assert!(sim.instances.iter().all(|i| i.rib.len() == 1));
    assert!(sim.no_reset());
}
