//! Eight legs of an instance have the short hold time, by which a hang shows; the others have the
//! peer's.

mod sim;

use broker::io::{Input, Order};
use sim::Sim;
use sim::supervised::{SECOND, running, said, supervise, supervised};
use std::collections::BTreeSet;
use virtd_config::Strategy;
use wire::bgp::frame::HEADER_LEN;
use wire::bgp::message::Open;

/// The first peers are there when the instances run.
const PEERS: std::ops::RangeInclusive<u8> = 3..=14;
const SHORT: u16 = 9;
/// That of the peers.
const LONG: u16 = 90;

fn exchange(strategy: Strategy) -> Sim {
    let mut sim = running(&supervised(3, strategy));
    PEERS.for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    sim
}

/// The hold times that instance `i` has been shown, in order.
fn shown(sim: &Sim, i: usize) -> Vec<u16> {
    let opens = sim.instances[i].raw.iter().filter(|m| m.get(HEADER_LEN - 1) == Some(&1));
    opens.map(|m| Open::decode(&m[HEADER_LEN..]).expect("an OPEN").hold_time_s).collect()
}

fn count(holds: &[u16], hold: u16) -> usize {
    holds.iter().filter(|h| **h == hold).count()
}

#[test]
fn a_hang_shows_as_soon_with_many_legs_and_ends_them_all() {
    let mut sim = exchange(Strategy::MasterSlave);
    for i in 0..3 {
        let holds = shown(&sim, i);
        assert_eq!((count(&holds, SHORT), holds.len() - count(&holds, LONG)), (8, 8), "{holds:?}");
    }
    (sim.instances[0].fault.mute, sim.instances[0].fault.frozen) = (true, true);
    assert_eq!(supervise(&mut sim, 8), [], "its hold time has not ended");
    assert_eq!(supervise(&mut sim, 4), [(0, Order::Kill), (0, Order::Start)]);
    assert!(said(&sim, "instance-faulty")[0].1.contains("hangs"));
    assert!(sim.no_reset());
}

#[test]
fn an_instance_that_speaks_on_any_leg_does_not_hang() {
    let mut sim = exchange(Strategy::WaitForConsensus);
    // The eight that came first, all of those with the short hold time.
    sim.instances[0].fault.mute_on.extend(1..=8);
    assert_eq!(supervise(&mut sim, 12), []);
    let ended: BTreeSet<String> = sim.events_of("leg-fault").iter().filter_map(|e| e.session.clone()).collect();
    assert_eq!(ended, (1..=8).map(|n| format!("192.0.2.{n}")).collect(), "and none that speaks");
    assert!(sim.events_of("instance-faulty").is_empty() && sim.no_reset());
}

#[test]
fn where_too_few_short_legs_are_left_another_is_opened_anew() {
    let mut sim = exchange(Strategy::WaitForConsensus);
    let before: Vec<usize> = (0..3).map(|i| count(&shown(&sim, i), SHORT)).collect();
    // The eight that came first are those with the first peers.
    for n in 1..=8 {
        if let Some(conn) = sim.peers.get(&n).and_then(|p| p.conn) {
            sim.input(Input::PeerClosed { conn, errno: 0 });
        }
    }
    sim.run(60 * SECOND);
    for (i, before) in before.into_iter().enumerate() {
        let anew = count(&shown(&sim, i), SHORT) - before;
        assert!((2..=3).contains(&anew), "instance {i}: {anew}");
    }
    assert!(sim.events_of("leg-restarted").len() >= 6);
    assert!((9..=14).all(|n| sim.peers[&n].notifications.is_empty()), "no peer hears of it");
}

#[test]
fn peers_that_leave_one_after_the_other_cost_no_leg_of_the_rest() {
    let mut sim = exchange(Strategy::WaitForConsensus);
    for n in 1..=14 {
        let conn = sim.peers.get(&n).and_then(|p| p.conn).expect("it is there");
        sim.input(Input::PeerClosed { conn, errno: 0 });
        sim.run(SECOND);
    }
    assert_eq!(sim.events_of("leg-restarted").len(), 0);
}
