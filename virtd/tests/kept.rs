//! What is offered is kept: timers, connections and settings of a session, each with its word.

mod sim;

use broker::io::{ConnId, Input, InstanceId, LegId, Output};
use bytes::Bytes;
use sim::{Sim, SimPeer, config, open, our_open, peer_addr, prefix};
use std::net::{Ipv4Addr, SocketAddr};
use virtd_config::Strategy;
use wire::bgp::Notification;
use wire::bgp::frame::{HEADER_LEN, MessageType, next_message};
use wire::bgp::message::{Open, keepalive};

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

#[test]
fn a_peer_that_takes_nothing_for_the_send_hold_time_is_ended() {
    for (hold_s, limit_s) in [(90, 480), (600, 1200), (0, u64::MAX)] {
        let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
        (0..3).for_each(|i| drop(sim.offers.insert((i, 1), Open { hold_time_s: hold_s, ..our_open() })));
        sim.connect_peer_with(1, &open(64501, Ipv4Addr::new(10, 0, 0, 1), hold_s));
        sim.run(3 * SECOND);
        let conn = sim.peers[&1].conn.expect("a connection");
        sim.by_hand.insert(conn);
        let drained = |sim: &mut Sim, taken| sim.input(Input::PeerDrained { conn, queued: 1000, taken });
        drained(&mut sim, 0);
        sim.run(100 * SECOND);
        drained(&mut sim, 0);
        sim.run(100 * SECOND);
        // One octet, and the time begins anew.
        drained(&mut sim, 1);
        sim.run(limit_s.min(2000) * SECOND - 2 * SECOND);
        drained(&mut sim, 0);
        assert!(sim.no_reset(), "hold time {hold_s} s");
        sim.run(3 * SECOND);
        let told: Vec<u8> = sim.peers[&1].notifications.iter().map(|n| n.code).collect();
        assert_eq!(told, if hold_s > 0 { vec![8] } else { vec![] }, "hold time {hold_s} s");
        assert_eq!(sim.peers[&1].closed, u32::from(hold_s > 0));
    }
    // Who takes all has time.
    let mut sim = Sim::new(&config(1, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(3 * SECOND);
    let conn = sim.peers[&1].conn.expect("a connection");
    sim.by_hand.insert(conn);
    sim.input(Input::PeerDrained { conn, queued: 1000, taken: 0 });
    sim.run(400 * SECOND);
    sim.input(Input::PeerDrained { conn, queued: 0, taken: 1000 });
    sim.run(1000 * SECOND);
    assert!(sim.no_reset());
}

/// The OPEN that instance `i` was shown.
fn shown(sim: &Sim, i: usize) -> Bytes {
    let is_open = |m: &&Bytes| m.get(18) == Some(&1);
    sim.instances[i].raw.iter().find(is_open).expect("an OPEN").slice(HEADER_LEN..)
}

#[test]
fn who_uses_extended_optional_parameters_is_answered_in_that_form() {
    let run = |extended: &[usize]| {
        let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
        sim.extended = extended.iter().copied().collect();
        sim.connect_peer(1);
        sim.run(3 * SECOND);
        assert!(sim.peers[&1].established);
        for i in 0..3 {
            assert_eq!(Open::is_extended(&shown(&sim, i)), extended.contains(&i), "each as it speaks itself");
            assert_eq!(Open::decode(&shown(&sim, i)).map(|o| o.asn), Ok(64501));
        }
        sim.peers[&1].open_extended
    };
    assert!(!run(&[]) && !run(&[1]), "the peer hears what most of them use");
    assert!(run(&[0, 2]) && run(&[0, 1, 2]));
}

/// Peer `n` connects once more; its former connection is not closed. It says nothing yet.
fn connect_again(sim: &mut Sim, n: u8, id: u64) -> ConnId {
    let (mut peer, conn) = (peer_addr(n), ConnId(id));
    peer.set_port(50000 + id as u16 % 1000);
    sim.peers.insert(n, SimPeer::default());
    sim.input(Input::PeerAccepted { conn, peer, local: SocketAddr::new(sim::LOCAL.into(), 179) });
    conn
}

/// Peer `n` says this on its connection `conn`, and then that it accepts our OPEN.
fn says(sim: &mut Sim, n: u8, conn: ConnId, open: &Open) {
    sim.peers.get_mut(&n).expect("a peer").conn = Some(conn);
    sim.peer_sends(n, &[open.encode(), keepalive()].concat());
}

#[test]
fn of_two_connections_that_the_neighbour_made_the_newer_one_wins_with_its_open() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    let hello = open(64501, Ipv4Addr::new(10, 0, 0, 1), 90);
    let conns: Vec<ConnId> = (0..3).map(|n| connect_again(&mut sim, 1, 100_001 + 2 * n)).collect();
    sim.run(SECOND);
    assert_eq!(sim.hung_up, [], "none has said anything yet");
    says(&mut sim, 1, conns[2], &hello);
    sim.run(2 * SECOND);
    assert_eq!(sim.hung_up, conns[..2], "the third one is not refused, the older ones go");
    assert!(sim.peers[&1].established);
    // Established is never replaced.
    let late = connect_again(&mut sim, 1, 200_001);
    assert_eq!(sim.hung_up, [conns[0], conns[1], late]);
    assert_eq!(sim.events_of("session-down").len(), 0);
}

#[test]
fn a_newer_connection_replaces_one_that_waits_for_its_keepalive_and_may_say_another_open() {
    for other_hold in [90, 30] {
        let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
        let first = connect_again(&mut sim, 1, 100_001);
        // It sends its OPEN, and is gone: no KEEPALIVE follows.
        let mut buf = (&open(64501, Ipv4Addr::new(10, 0, 0, 1), 90).encode()[..]).into();
        sim.core.handle(sim.now, Input::PeerBytes { conn: first, buf: &mut buf });
        sim.run(1);
        sim.run(3 * SECOND);
        assert!(sim.events_of("session-up").is_empty());
        let second = connect_again(&mut sim, 1, 100_003);
        says(&mut sim, 1, second, &open(64501, Ipv4Addr::new(10, 0, 0, 1), other_hold));
        sim.run(3 * SECOND);
        assert_eq!(sim.hung_up, [first]);
        let up = sim.events_of("session-up").pop().expect("a session").text.clone();
        assert!(up.contains(&format!("hold time {other_hold} s")), "{up}");
        assert_eq!(sim.query(serde_json::json!({"command": "instances"}))["instances"][2]["legs_up"], 1);
    }
}

#[test]
fn a_dial_without_an_answer_is_begun_anew_when_an_instance_dials_again() {
    let mut sim = Sim::new(&config(2, Strategy::WaitForConsensus));
    let dial = |sim: &mut Sim, i: u8, leg: u64| {
        let peer = SocketAddr::new(peer_addr(1).ip(), 179);
        sim.input(Input::LegDialed { leg: LegId(leg), instance: InstanceId(i), peer, local: None });
    };
    dial(&mut sim, 0, 101);
    sim.run(SECOND);
    dial(&mut sim, 1, 103);
    assert_eq!((sim.dials.len(), sim.hung_up.len()), (1, 0), "one connection for both");
    sim.run(4 * SECOND);
    // The second one's own connect has timed out: the first one waits on.
    sim.input(Input::LegClosed { leg: LegId(103) });
    assert_eq!(sim.hung_up, []);
    dial(&mut sim, 1, 105);
    assert_eq!(sim.dials.len(), 2, "a SYN goes out at once");
    assert_eq!(sim.hung_up, sim.dials[..1]);
    // Both wait for the new one.
    let (conn, peer) = (sim.dials[1], SocketAddr::new(peer_addr(1).ip(), 179));
    let local = SocketAddr::new(sim::LOCAL.into(), 40000);
    sim.core.handle(sim.now, Input::PeerConnected { conn, local, peer });
    let out = sim.core.take_outputs();
    let mut told: Vec<u64> =
        out.iter().filter_map(|o| if let Output::LegConnected { leg, .. } = o { Some(leg.0) } else { None }).collect();
    told.sort_unstable();
    assert_eq!(told, [101, 105]);
}

#[test]
fn a_path_with_the_peers_own_as_is_a_route_where_the_router_says_so() {
    for allowed in [false, true] {
        let mut config = config(3, Strategy::WaitForConsensus);
        config.allow_own_as = allowed;
        let mut sim = Sim::new(&config);
        [1, 2].into_iter().for_each(|n| sim.connect_peer(n));
        sim.run(3 * SECOND);
        sim.announce(1, &["10.1.0.0/16"], &[64501, 64502]);
        sim.run(2 * SECOND);
        assert_eq!(sim.table(2).len(), usize::from(allowed), "no [[peer]] names this one");
        // At once, too.
        config.allow_own_as = !allowed;
        sim.reload(&config);
        sim.announce(1, &["10.2.0.0/16"], &[64501, 64502]);
        sim.run(2 * SECOND);
        assert_eq!(sim.table(2).contains_key(&prefix("10.2.0.0/16")), !allowed);
    }
}

#[test]
fn a_next_hop_of_class_e_is_one_where_the_router_says_so() {
    for allowed in [false, true] {
        let mut config = config(3, Strategy::WaitForConsensus);
        config.allow_reserved_ranges = allowed;
        let mut sim = Sim::new(&config);
        [1, 2].into_iter().for_each(|n| sim.connect_peer(n));
        sim.run(3 * SECOND);
        let next_hop = Ipv4Addr::new(240, 0, 0, 1);
        sim.peer_sends(1, &sim::update(&[prefix("10.1.0.0/16")], &[], &[64501], next_hop, None, 0));
        sim.run(2 * SECOND);
        assert_eq!(sim.table(2).len(), usize::from(allowed));
        assert_eq!(sim.events_of("malformed-update").len(), usize::from(!allowed));
    }
}

/// An instance dials and is offered a connection at the same time. It drops its dial itself once its
/// session stands; a refusal that reaches FRR just then ends that session.
#[test]
fn a_dial_beside_a_leg_that_stands_waits_instead_of_being_refused() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    (0..3).for_each(|i| sim.start_instance(i));
    sim.connect_peer(1);
    sim.run(3 * SECOND);
    let dial = |sim: &mut Sim, leg: u64| {
        let peer = SocketAddr::new(peer_addr(1).ip(), 179);
        sim.input(Input::LegDialed { leg: LegId(leg), instance: InstanceId(0), peer, local: None });
    };
    let legs_up =
        |sim: &mut Sim| sim.query(serde_json::json!({"command": "instances"}))["instances"][0]["legs_up"].clone();
    dial(&mut sim, 101);
    sim.run(8 * SECOND);
    sim.input(Input::LegClosed { leg: LegId(101) });
    sim.run(8 * SECOND);
    assert_eq!((sim.refused.len(), legs_up(&mut sim)), (0, 1.into()), "it has dropped the dial itself");
    // One that never does is not left waiting for good.
    dial(&mut sim, 103);
    sim.run(12 * SECOND);
    assert_eq!((std::mem::take(&mut sim.refused), legs_up(&mut sim)), (vec![LegId(103)], 1.into()));
    // The last of several counts, and ends with the leg.
    dial(&mut sim, 105);
    dial(&mut sim, 107);
    assert_eq!(sim.refused, [LegId(105)]);
    sim.drop_leg(0, 1, None);
    assert_eq!(sim.refused, [LegId(105), LegId(107)]);
    assert!(sim.no_reset());
}
