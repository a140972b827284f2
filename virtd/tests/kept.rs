//! What is offered is kept: timers, connections and settings of a session, each with its word.

mod sim;

use sim::{Sim, config};
use virtd::config::Strategy;
use wire::bgp::Notification;
use wire::bgp::frame::{HEADER_LEN, MessageType, next_message};

const SECOND: u64 = 1_000_000;

/// The NOTIFICATIONs that instance `i` was told.
fn notified(sim: &Sim, i: usize) -> Vec<(u8, u8)> {
    let told = sim.instances[i].raw.iter().filter_map(|m| {
        let m = next_message(&mut m[..].into(), true).ok()??;
        let n = Notification::decode(m.bytes.get(HEADER_LEN..)?)?;
        (m.kind == MessageType::Notification).then_some((n.code, n.subcode))
    });
    told.collect()
}

#[test]
fn a_hold_time_that_ends_reaches_the_daemons_as_what_it_is() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(3 * SECOND);
    sim.peers.get_mut(&1).expect("a peer").silent = true;
    sim.run(100 * SECOND);
    assert_eq!(sim.peers[&1].notifications, [Notification::new(4, 0)]);
    for i in 0..3 {
        assert_eq!(notified(&sim, i), [(4, 0)], "i{i}");
    }
    // What ends it otherwise is none of their business.
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(3 * SECOND);
    sim.peer_sends(1, &[0; 19]);
    sim.run(SECOND);
    for i in 0..3 {
        assert_eq!(notified(&sim, i), [(6, 0)], "i{i}");
    }
}
