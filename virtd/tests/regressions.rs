//! Defects that were found once by reading the core: each stays found.

mod sim;

use broker::io::{Input, Output};
use sim::*;
use virtd_config::Strategy;
use wire::bgp::message;

const SECOND: u64 = 1_000_000;
const P: &str = "198.51.100.0/24";
const Q: &str = "203.0.113.0/24";
#[test]
fn what_everybody_stopped_saying_while_away_is_withdrawn() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 2);
    (0..3).for_each(|i| sim.kill_instance(i));
    sim.run(SECOND);
    sim.withdraw(1, &[P]);
    sim.run(SECOND);
    (0..3).for_each(|i| sim.start_instance(i));
    sim.run(300 * SECOND);
    assert_eq!(
        sim.table(2).len(),
        1,
        "P was withdrawn by its origin; {:?}",
        sim.query(serde_json::json!({"command":"routes","prefix":P}))
    );
}
#[test]
fn a_restarted_single_instance_takes_back_what_it_does_not_say_again() {
    let mut sim = Sim::new(&config(1, Strategy::WaitForConsensus));
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.leg_sends(0, 2, &update(&[prefix(P)], &[], &[OUR_AS], LOCAL, None, 1));
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 1);
    sim.kill_instance(0);
    sim.run(SECOND);
    sim.start_instance(0);
    sim.run(300 * SECOND);
    assert_eq!(sim.table(2).len(), 0, "the restarted instance says nothing about P");
}
#[test]
fn instances_that_join_late_withdraw_nothing() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.kill_instance(1);
    sim.kill_instance(2);
    sim.connect_peer(2);
    sim.connect_peer(1);
    sim.run(10 * SECOND);
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 2);
    sim.start_instance(1);
    sim.start_instance(2);
    sim.run(60 * SECOND);
    assert!(sim.peers[&2].history.iter().all(|h| h.2), "{:?}", sim.peers[&2].history);
}
#[test]
fn instances_that_join_late_leave_a_local_route_alone() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.kill_instance(1);
    sim.kill_instance(2);
    sim.connect_peer(2);
    sim.run(10 * SECOND);
    sim.leg_sends(0, 2, &update(&[prefix(P)], &[], &[OUR_AS], LOCAL, None, 1));
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 1);
    sim.start_instance(1);
    sim.start_instance(2);
    sim.run(SECOND / 2);
    assert!(sim.peers[&2].history.iter().all(|h| h.2), "{:?}", sim.peers[&2].history);
}
#[test]
fn first_k_keeps_what_it_overruled_alive() {
    let mut c = config(5, Strategy::FirstK);
    c.vote.k = Some(2);
    let mut sim = Sim::new(&c);
    sim.connect_peer(2);
    sim.run(SECOND);
    let conn = sim.peers[&2].conn.expect("connected");
    sim.by_hand.insert(conn);
    sim.input(Input::PeerDrained { conn, queued: 9 << 20, taken: 0 });
    let say = |sim: &mut Sim, i: usize, med: u32| {
        sim.leg_sends(i, 2, &update(&[prefix(P)], &[], &[OUR_AS], LOCAL, Some(med), 0))
    };
    for i in 0..5 {
        say(&mut sim, i, 10 + i as u32);
    }
    say(&mut sim, 0, 1);
    say(&mut sim, 1, 1);
    say(&mut sim, 0, 20);
    say(&mut sim, 1, 21);
    say(&mut sim, 1, 20);
}
#[test]
fn a_flapping_prefix_accuses_nobody() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    for n in 0..60 {
        sim.announce(1, &[P], &[64501, 65000 + n]);
        sim.run(SECOND / 4);
    }
    assert_eq!(sim.events_of("disagreement").len(), 0, "{}", sim.events_of("disagreement").len());
}
#[test]
fn an_observer_alone_does_not_keep_a_session() {
    let mut c = config(2, Strategy::WaitForConsensus);
    c.instances[1].observer = true;
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.announce(1, &[P], &[64501]);
    sim.run(5 * SECOND);
    sim.kill_instance(0);
    sim.run(600 * SECOND);
    assert!(!sim.peers[&2].established, "the only voter died 10 minutes ago; P still told: {}", sim.table(2).len());
}

#[test]
fn prefixes_of_a_family_that_was_not_negotiated_are_nobodys() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    // ORIGIN, AS_PATH 64501, MP_REACH_NLRI of 2001:db8::/32 by way of 2001:db8::1.
    let path = [2, 1, 0, 0, 0xfb, 0xf5];
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 6];
    attributes.extend(path);
    attributes.extend([
        0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 32, 0x20, 1, 0x0d, 0xb8,
    ]);
    let mut message = vec![0xff; 16];
    message.extend([0, 23 + attributes.len() as u8, 2, 0, 0, 0, attributes.len() as u8]);
    message.extend(attributes);
    sim.peer_sends(1, &message);
    sim.leg_sends(0, 2, &message);
    sim.run(SECOND);
    let sessions = sim.query(serde_json::json!({"command": "sessions"}));
    assert_eq!(sessions["sessions"][0]["prefixes_in"], 0);
    assert!(sim.no_reset() && sim.peers[&2].updates == 0);
}

#[test]
fn after_a_quorums_cease_a_peer_that_comes_back_is_rejected_in_time() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(SECOND);
    // Their processes live on, as those of a daemon whose operator has shut one neighbour down.
    for i in 0..2 {
        sim.leg_sends(i, 1, &wire::bgp::Notification::new(6, 2).encode());
        sim.instances[i].listening = false;
    }
    sim.run(SECOND);
    assert_eq!(sim.peers[&1].closed, 1, "a quorum's Cease ends the session");
    sim.connect_peer(1);
    sim.run(10 * SECOND);
    assert_eq!(sim.peers[&1].notifications.last().map(|n| (n.code, n.subcode)), Some((6, 5)));
}

#[test]
fn peers_and_instances_are_told_that_virtd_ends() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(SECOND);
    sim.core.handle(sim.now, Input::Stop);
    let out = sim.core.take_outputs();
    let cease = |bytes: &[u8]| bytes.get(18..20) == Some(&[3, 6]);
    let peers = out.iter().filter(|o| matches!(o, Output::SendPeer { bytes, .. } if cease(bytes))).count();
    let legs = out.iter().filter(|o| matches!(o, Output::SendLeg { bytes, .. } if cease(bytes))).count();
    assert_eq!((peers, legs), (1, 3));
}

#[test]
fn what_nobody_says_any_more_lacks_no_quorum() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.vote.min_voters = 2;
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.kill_instance(1);
    sim.kill_instance(2);
    let without = |sim: &mut Sim| sim.query(serde_json::json!({"command": "status"}))["without_quorum"].clone();
    for n in 0..3 {
        let prefix = format!("198.51.{n}.0/24");
        sim.announce(1, &[&prefix], &[64501]);
        sim.run(30 * SECOND);
        assert_eq!(without(&mut sim), 1, "one voter is not enough here");
        sim.withdraw(1, &[&prefix]);
        sim.run(30 * SECOND);
        assert_eq!(without(&mut sim), 0);
    }
    assert!(sim.table(2).is_empty() && sim.no_reset());
}

/// While a turn takes long, instances and peers hear a KEEPALIVE in time; and nobody is held to be
/// dead for what has not been read yet.
#[test]
fn a_long_turn_keeps_everybody_alive_and_declares_nobody_dead() {
    let config = config(3, Strategy::WaitForConsensus);
    let mut sim = Sim::new(&config);
    sim.connect_peer(1);
    sim.run(1_000_000);
    let mut keep_alive = |at: u64| {
        sim.core.handle(at, Input::KeepAlive);
        let out = sim.core.take_outputs();
        let message = |o: &Output| match o {
            Output::SendPeer { bytes, .. } | Output::SendLeg { bytes, .. } => bytes.clone(),
            other => panic!("more than a message: {other:?}"),
        };
        out.iter().filter(|o| message(o) == message::keepalive()).count()
    };
    let (now, hold) = (sim.now, u64::from(config.timers.leg_hold_s) * 1_000_000);
    assert_eq!(keep_alive(now), 0, "none is due");
    assert_eq!(keep_alive(now + hold / 3), 3, "the legs'");
    assert_eq!(keep_alive(now + hold / 3 + 1), 0);
    assert_eq!(keep_alive(now + 3_600_000_000), 4, "and the peer's, an hour later");
    assert!(sim.no_reset() && sim.events_of("leg-fault").is_empty());
}

/// A single voter comes back while its peer announces a new prefix all the time, so that its output
/// never falls quiet: what it says is passed on as soon as it has said again what stands, and not
/// when its catching up has taken too long.
#[test]
fn fresh_keys_do_not_keep_the_only_voter_from_its_vote() {
    let mut sim = Sim::new(&config(1, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    sim.kill_instance(0);
    sim.run(SECOND);
    sim.start_instance(0);
    for n in 0..30u64 {
        let fresh = format!("10.9.{n}.0/24");
        sim.announce(1, &[&fresh], &[64501]);
        sim.run(u64::from(T_MS) * 1000 / 3);
        let there = sim.table(2).contains_key(&prefix(&fresh));
        assert!(there || n < 6, "{fresh} is passed on before the next one comes: {:?}", sim.table(2).len());
    }
    assert_eq!(sim.table(2).len(), 31);
    assert!(sim.peers[&2].history.iter().all(|(_, _, there)| *there) && sim.no_reset());
    // What it says otherwise than before is a difference, and waits until its output has been quiet
    // for T.
    sim.kill_instance(0);
    sim.start_instance(0);
    sim.instances[0].fault.lies_about.insert(prefix(P));
    sim.run(u64::from(T_MS) * 1000 / 2);
    assert_eq!(sim.table(2)[&prefix(P)].1, None);
    sim.run(3 * SECOND);
    assert_eq!(sim.table(2)[&prefix(P)].1, Some(666));
}

/// The body of an UPDATE around these attributes, without a route.
fn attributes_alone(attributes: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, attributes.len() as u8], attributes].concat()
}

/// How many of the three instances are given `given` when a peer sends an UPDATE with `sent`.
fn are_given(given: &[u8], sent: &[u8]) -> usize {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(10 * SECOND);
    sim.instances.iter_mut().for_each(|i| i.fault.dies_of_bytes = Some(given.to_vec()));
    let header = [&[0xff; 16][..], &(19 + sent.len() as u16).to_be_bytes(), &[2]].concat();
    sim.peer_sends(1, &[&header, sent].concat());
    sim.run(SECOND);
    assert!(sim.no_reset());
    sim.deaths.len()
}

#[test]
fn an_update_that_says_nothing_reaches_no_instance() {
    // OpenBGPD answered it with 3/3, and lost its leg each time.
    let unknown = attributes_alone(&[0xc0, 99, 1, 7]);
    assert_eq!(are_given(&unknown, &unknown), 0);
    // A LOCAL_PREF from an external neighbour is discarded: what is left is not its End-of-RIB.
    let local_pref = attributes_alone(&[0x40, 5, 4, 0, 0, 0, 100]);
    let end_of_rib = attributes_alone(&[]);
    assert_eq!(are_given(&end_of_rib, &local_pref), 0);
    assert_eq!(are_given(&end_of_rib, &end_of_rib), 3);
}

/// Votes whose time has come never keep what has been decided from the peers, however many they are.
#[test]
fn what_is_decided_is_told_while_a_table_of_votes_is_due() {
    const KEYS: u32 = 60_000;
    let mut sim = Sim::new(&config(3, Strategy::ContinuousMajority));
    (1..=2).for_each(|n| sim.connect_peer(n));
    sim.run(1_000_000);
    let prefixes: Vec<String> =
        (0..KEYS).map(|n| format!("{}/24", std::net::Ipv4Addr::from((10 << 24) + (n << 8)))).collect();
    for some in prefixes.chunks(500) {
        sim.announce(1, &some.iter().map(String::as_str).collect::<Vec<_>>(), &[64501]);
    }
    sim.run(10_000);
    assert_eq!(sim.table(2).len(), KEYS as usize);
    // All of them are due at once, and no turn has time for more than one round.
    sim.now += u64::from(T_MS) * 1000;
    (sim.batch, sim.hurried) = (usize::MAX, true);
    sim.announce(1, &["198.51.100.0/24"], &[64501]);
    sim.run(1);
    assert!(sim.table(2).contains_key(&prefix("198.51.100.0/24")));
}

/// Whoever comes back is compared anew, also where he was level before: until he has said what was
/// chosen, or T has passed, his silence is no vote.
#[test]
fn who_comes_back_is_not_taken_at_his_former_word() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    (1..=2).for_each(|n| sim.connect_peer(n));
    sim.run(SECOND);
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(5 * SECOND);
    let state = |sim: &mut Sim| sim.query(serde_json::json!({"command": "instances"}))["instances"][2]["state"].clone();
    // Once he comes back and says all again.
    sim.kill_instance(2);
    sim.run(SECOND);
    sim.restart_instance(2);
    sim.run(5 * SECOND);
    assert_eq!(state(&mut sim), "voting");
    sim.kill_instance(2);
    sim.run(SECOND);
    sim.instances[2].fault.hides.insert(prefix(P));
    sim.restart_instance(2);
    sim.run(u64::from(T_MS) * 500);
    assert_eq!(state(&mut sim), "catching-up", "it has not said all again");
    sim.run(u64::from(T_MS) * 7000);
    assert_eq!(state(&mut sim), "voting");
}
