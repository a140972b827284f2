//! The life of a session is voted on: who has left it, what the peer is told, when it comes back,
//! who is accused.

mod sim;

use broker::io::{Death, Order, ProcessNews};
use serde_json::json;
use sim::supervised::{MANY, SECOND, news, running, supervise, supervised};
use sim::{Sim, prefix};
use virtd_config::{Kind, Strategy};
use wire::bgp::Notification;

const STRATEGIES: [Strategy; 4] =
    [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK];

fn cease(subcode: u8) -> Option<Notification> {
    Some(Notification::new(6, subcode))
}

fn trio() -> Sim {
    running(&supervised(3, Strategy::WaitForConsensus))
}

/// Code and subcode of what a peer was told.
fn told(sim: &Sim, peer: u8) -> Vec<(u8, u8)> {
    sim.peers[&peer].notifications.iter().map(|n| (n.code, n.subcode)).collect()
}

/// Nobody stands accused of anything.
fn innocent(sim: &Sim) {
    for kind in ["instance-faulty", "instance-absent", "poison", "poison-suspected", "instance-suspect"] {
        assert!(sim.events_of(kind).is_empty(), "{:?}", sim.events_of(kind));
    }
}

#[test]
fn a_majority_that_leaves_ends_the_session_under_every_strategy() {
    for strategy in STRATEGIES {
        let mut config = supervised(3, strategy);
        config.vote.min_voters = 3;
        config.vote.k = matches!(strategy, Strategy::WaitForConsensus | Strategy::FirstK).then_some(3);
        let mut sim = running(&config);
        sim.leave(0, 1, cease(1));
        sim.run(SECOND / 10);
        assert!(sim.no_reset(), "{strategy:?}: one of three is no majority");
        assert_eq!(sim.table(2).len(), MANY);
        sim.leave(2, 1, cease(1));
        sim.run(SECOND / 10);
        assert_eq!(told(&sim, 1), [(6, 1)], "{strategy:?}");
        sim.run(2 * SECOND);
        assert_eq!(sim.table(2).len(), 0, "{strategy:?}: what it had sent is forgotten, the others are told");
        assert!(told(&sim, 2).is_empty());
        assert_eq!(sim.events_of("session-left").len(), 2);
        assert_eq!(sim.events_of("session-ended").len(), 1);
        assert_eq!(supervise(&mut sim, 60), []);
        innocent(&sim);
    }
}

#[test]
fn the_words_of_most_go_out_and_a_close_without_words_is_cease() {
    let mut sim = trio();
    sim.run(6 * SECOND);
    sim.leave(0, 1, None);
    sim.run(SECOND);
    assert!(sim.no_reset());
    sim.leave(1, 1, None);
    sim.run(SECOND);
    assert_eq!(told(&sim, 1), [(6, 0)]);
    innocent(&sim);
    let mut sim = trio();
    sim.run(6 * SECOND);
    sim.leave(0, 1, None);
    sim.run(SECOND);
    sim.leave(1, 1, cease(10));
    sim.run(SECOND);
    assert_eq!(told(&sim, 1), [(6, 10)]);
    let event = sim.events_of("session-left").pop().expect("an event");
    assert!(event.text.contains("bfd = \"i1\""), "the event names the key: {}", event.text);
}

#[test]
fn bfd_of_the_one_that_has_it_decides_alone() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    let address = sim::peer_addr(1).ip();
    let peer = virtd_config::Peer {
        address,
        port: None,
        asn: None,
        description: None,
        allow_own_as: false,
        bfd: Some("i1".to_owned()),
    };
    config.peers = vec![peer];
    let mut sim = running(&config);
    sim.leave(0, 1, cease(10));
    sim.run(SECOND);
    assert!(sim.no_reset(), "another's is one voice");
    sim.leave(1, 1, cease(10));
    sim.run(SECOND / 10);
    assert_eq!(told(&sim, 1), [(6, 10)]);
    let mut sim = running(&config);
    sim.leave(1, 1, cease(2));
    sim.run(3 * SECOND);
    assert!(sim.no_reset(), "only its BFD does");
}

#[test]
fn with_one_voter_its_own_word_is_enough() {
    for said in [cease(0), cease(1), cease(2), cease(4), cease(10), None] {
        let mut sim = running(&supervised(1, Strategy::WaitForConsensus));
        sim.leave(0, 1, said.clone());
        sim.run(SECOND / 2);
        let want = said.map_or((6, 0), |n| (n.code, n.subcode));
        assert_eq!(told(&sim, 1), [want]);
        assert!(told(&sim, 2).is_empty());
    }
    // A fault is no wish.
    for (code, subcode) in [(3, 1), (4, 0), (5, 0), (2, 7)] {
        let mut sim = running(&supervised(1, Strategy::WaitForConsensus));
        sim.leave(0, 1, Some(Notification::new(code, subcode)));
        sim.run(SECOND);
        assert!(sim.no_reset(), "{code}/{subcode}");
    }
}

#[test]
fn a_tie_keeps_the_session() {
    let mut sim = running(&supervised(2, Strategy::WaitForConsensus));
    sim.leave(0, 1, cease(1));
    sim.run(2 * SECOND);
    assert!(sim.no_reset());
    assert_eq!((sim.events_of("session-tie").len(), sim.events_of("session-ended").len()), (1, 0));
    assert_eq!(sim.table(2).len(), MANY);
    sim.leave(1, 1, cease(1));
    sim.run(SECOND);
    assert_eq!(told(&sim, 1), [(6, 1)]);
}

#[test]
fn a_death_a_promotion_and_a_drain_make_no_majority_of_a_minority() {
    // One has left, and another dies: it comes back, and the session never went.
    let mut sim = trio();
    sim.leave(0, 1, cease(1));
    sim.run(SECOND);
    sim.kill_instance(1);
    news(&mut sim, 1, ProcessNews::Died { death: Death::Crash });
    news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    supervise(&mut sim, 20);
    assert!(sim.no_reset());
    // One has left, and another is drained.
    let mut sim = trio();
    sim.leave(0, 1, cease(1));
    sim.run(SECOND);
    sim.query(json!({"command": "instance", "name": "i1", "action": "drain"}));
    supervise(&mut sim, 20);
    assert!(sim.no_reset());
    // A standby that had left gets a vote: what it said as a standby does not count, when another
    // leaves.
    let mut config = supervised(4, Strategy::WaitForConsensus);
    config.instances[3].standby = Some(virtd_config::Standby::Warm);
    let mut sim = running(&config);
    sim.leave(3, 1, cease(1));
    sim.run(SECOND);
    sim.kill_instance(0);
    news(&mut sim, 0, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    sim.run(6 * SECOND);
    let list = sim.query(json!({"command": "instances"}));
    assert_eq!(list["instances"][3]["role"], "voter");
    sim.leave(1, 1, cease(1));
    sim.run(2 * SECOND);
    assert!(sim.no_reset(), "one of three voters has left as a voter");
}

#[test]
fn a_daemon_that_is_stopped_leaves_nothing() {
    // It says Cease to every peer and ends: an upgrade.
    let mut sim = trio();
    for i in [0, 1] {
        for peer in [1, 2] {
            sim.drop_leg(i, peer, cease(2));
        }
    }
    sim.run(SECOND / 2);
    [0, 1].into_iter().for_each(|i| sim.kill_instance(i));
    for i in 0..2 {
        news(&mut sim, i, ProcessNews::Died { death: Death::Exit });
        news(&mut sim, i, ProcessNews::Ended { unasked: true, text: "exited with status 0".into() });
    }
    assert_eq!(supervise(&mut sim, 20), [(0, Order::Start), (1, Order::Start)]);
    assert!(sim.no_reset());
    assert_eq!((sim.events_of("session-left").len(), sim.table(2).len()), (0, MANY));
    innocent(&sim);
    // All of them: the peers are told what each said.
    let mut sim = trio();
    for i in 0..3 {
        [1, 2].into_iter().for_each(|peer| sim.drop_leg(i, peer, cease(2)));
        sim.kill_instance(i);
    }
    sim.run(SECOND);
    assert_eq!((told(&sim, 1), told(&sim, 2)), (vec![(6, 2)], vec![(6, 2)]));
}

#[test]
fn what_somebody_outside_ends_is_no_poison() {
    for (death, searched) in [(Death::FromOutside, 0), (Death::Crash, 1), (Death::OutOfMemory, 1)] {
        let mut sim = trio();
        sim.announce(1, &["203.0.113.0/24"], &[64501]);
        sim.kill_instance(1);
        news(&mut sim, 1, ProcessNews::Died { death });
        sim.run(SECOND);
        assert_eq!(sim.events_of("poison-suspected").len(), searched, "{death:?}");
        assert!(sim.no_reset());
    }
}

#[test]
fn a_silent_close_behind_an_update_is_searched_first_also_when_a_majority_does_it() {
    let mut sim = trio();
    sim.announce(1, &["203.0.113.0/24"], &[64501]);
    [0, 1].into_iter().for_each(|i| sim.leave(i, 1, None));
    sim.run(SECOND);
    assert!(sim.no_reset());
    assert_eq!(sim.events_of("poison-suspected").len(), 2);
    assert!(sim.events_of("session-left").is_empty());
    // They come back, and live on with what was held back: something else had done it, and they are
    // there.
    [0, 1].into_iter().for_each(|i| sim.instances[i].fault.refuses.clear());
    supervise(&mut sim, 30);
    assert!(sim.no_reset());
    assert_eq!(sim.table(2).len(), MANY + 1);
}

#[test]
fn who_closes_legs_and_listening_sockets_has_left_everywhere() {
    let mut sim = trio();
    sim.announce(1, &["203.0.113.0/24"], &[64501]);
    for i in 0..2 {
        [1, 2].into_iter().for_each(|peer| sim.leave(i, peer, None));
        sim.close_listener(i);
    }
    sim.run(SECOND);
    assert_eq!((told(&sim, 1), told(&sim, 2)), (vec![(6, 0)], vec![(6, 0)]));
    innocent(&sim);
}

#[test]
fn after_a_limit_or_a_shutdown_a_majority_must_want_it_back() {
    for subcode in [1, 2, 3] {
        let mut sim = trio();
        [0, 1].into_iter().for_each(|i| sim.leave(i, 1, cease(subcode)));
        sim.run(2 * SECOND);
        assert_eq!(told(&sim, 1), [(6, subcode)]);
        sim.connect_peer(1);
        sim.run(20 * SECOND);
        assert_eq!(told(&sim, 1), [(6, 5)], "one alone listens, and wants it");
        assert!(!sim.peers[&1].established);
        sim.instances[0].fault.refuses.clear();
        sim.connect_peer(1);
        sim.run(20 * SECOND);
        assert!(sim.peers[&1].established && told(&sim, 1).is_empty(), "6/{subcode}");
        assert_eq!(sim.events_of("session-returned").len(), 1);
    }
    // After anything else as any new session opens.
    let mut sim = trio();
    [0, 1].into_iter().for_each(|i| sim.leave(i, 1, cease(4)));
    sim.run(2 * SECOND);
    assert_eq!(told(&sim, 1), [(6, 4)]);
    sim.connect_peer(1);
    sim.run(20 * SECOND);
    assert!(sim.peers[&1].established, "one is enough, after open_wait_s");
}

#[test]
fn one_that_leaves_abstains_on_that_peers_prefixes_alone() {
    let mut sim = trio();
    sim.leave(2, 1, cease(1));
    sim.run(SECOND);
    sim.announce(1, &["203.0.113.0/24"], &[64501]);
    sim.announce(2, &["203.0.114.0/24"], &[64502]);
    sim.run(SECOND);
    assert!(sim.table(2).contains_key(&prefix("203.0.113.0/24")));
    assert!(sim.table(1).contains_key(&prefix("203.0.114.0/24")));
    let counted = |sim: &mut Sim, p: &str, session: &str| {
        let answer = sim.query(json!({"command": "routes", "prefix": p}));
        let list = answer["sessions"].as_array().cloned().unwrap_or_default();
        let s = list.iter().find(|s| s["peer"] == session).cloned().unwrap_or_default();
        s["said"][2]["counted"].as_bool()
    };
    assert_eq!(counted(&mut sim, "203.0.113.0/24", "192.0.2.2"), Some(false));
    assert_eq!(supervise(&mut sim, 40), []);
    assert!(sim.no_reset() && sim.events_of("disagreement").is_empty());
    let session = sim.query(json!({"command": "session", "peer": "192.0.2.1"}));
    let leg = &session["session"]["legs"][2];
    assert_eq!((&leg["instance"], &leg["gone"]["what"]), (&json!("i2"), &json!("left by its own will")), "{session}");
    assert!(leg["gone"]["how"].as_str().is_some_and(|how| how.contains("6/1")), "{session}");
}

#[test]
fn absence_adds_up_over_sessions_that_come_and_go() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.instances[2].kind = Some(Kind::OpenBgpd);
    let mut sim = running(&config);
    // It holds back whenever the peer comes, and the peer goes again before the threshold.
    sim.instances[2].fault.refuses.insert(1);
    for _ in 0..4 {
        let conn = sim.peers[&1].conn.expect("connected");
        sim.input(broker::io::Input::PeerClosed { conn, errno: 0 });
        sim.run(SECOND);
        sim.connect_peer(1);
        assert_eq!(supervise(&mut sim, 8), []);
    }
    assert_eq!(sim.events_of("instance-absent").len(), 1);
    assert_eq!(sim.nudges, [(2, sim::peer_addr(1).ip())]);
    assert!(sim.events_of("instance-faulty").is_empty());
    sim.instances[2].fault.refuses.clear();
    assert_eq!(supervise(&mut sim, 40), []);
    assert_eq!(sim.events_of("instance-absent").len(), 1, "it is back");
}

#[test]
fn legs_lost_together_are_nobodys_fault() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.faults.leg_losses = 2;
    let mut sim = running(&config);
    for _ in 0..6 {
        (0..3).for_each(|i| sim.drop_leg(i, 2, Some(Notification::new(5, 0))));
        assert_eq!(supervise(&mut sim, 4), []);
    }
    innocent(&sim);
    assert!(sim.no_reset());
}

#[test]
fn nobody_is_ended_while_another_voter_is_away() {
    let mut sim = trio();
    sim.kill_instance(0);
    news(&mut sim, 0, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    // Its supervisor starts nothing: the others alone are there, and one of them lies.
    sim::supervised::lie(&mut sim, 2, MANY);
    sim.run(60 * SECOND);
    assert!(!sim.orders.iter().any(|(_, o)| *o == Order::Kill), "{:?}", sim.orders);
    let orders = supervise(&mut sim, 60);
    assert!(orders.contains(&(2, Order::Kill)), "once it is back: {orders:?} {:?}", sim.events_of("instance-faulty"));
    assert!(!orders.contains(&(1, Order::Kill)));
}
