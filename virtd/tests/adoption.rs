//! virtd dies, and the next one goes on with its journal: no peer hears anything but what is new.

mod sim;

use broker::adopt::Census;
use journal::{OLDEST, VERSION};
use sim::{Fault, Sim, config, prefix};
use std::collections::BTreeSet;
use virtd::upgrade::examine;
use virtd_config::Strategy;

const SECOND: u64 = 1_000_000;

const STRATEGIES: [Strategy; 4] =
    [Strategy::MasterSlave, Strategy::ContinuousMajority, Strategy::WaitForConsensus, Strategy::FirstK];

/// Three peers, two of which have routes; everything has settled.
fn settled(instances: usize, strategy: Strategy) -> Sim {
    let mut sim = Sim::new(&config(instances, strategy));
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(3 * SECOND);
    sim.announce(1, &["203.0.113.0/24", "198.51.100.0/24"], &[64501]);
    sim.announce(2, &["198.18.0.0/15", "198.51.100.0/24"], &[64502, 65000]);
    sim.run(10 * SECOND);
    assert!(sim.no_reset());
    assert_eq!(sim.table(3).len(), 3);
    sim
}

/// How many UPDATEs each peer has been sent.
fn updates(sim: &Sim) -> Vec<u64> {
    sim.peers.values().map(|p| p.updates).collect()
}

#[test]
fn peers_hear_nothing() {
    for (strategy, n, image) in STRATEGIES.into_iter().flat_map(|s| [(s, 3, false), (s, 3, true), (s, 1, true)]) {
        let mut sim = settled(n, strategy);
        let before = updates(&sim);
        for _ in 0..3 {
            sim.virtd_dies(image);
            sim.run(20 * SECOND);
        }
        assert!(sim.no_reset(), "{strategy:?} {n}");
        assert_eq!(updates(&sim), before, "{strategy:?} {n}: nobody is told again what he was told");
        sim.run(200 * SECOND);
        assert!(sim.no_reset(), "{strategy:?} {n}: keepalives go on");
        assert_eq!(updates(&sim), before, "{strategy:?} {n}");
        assert_eq!(sim.table(3).len(), 3);
    }
}

#[test]
fn what_changes_meanwhile_is_told_once() {
    for (strategy, image) in STRATEGIES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let mut sim = settled(3, strategy);
        let before = updates(&sim)[2];
        sim.virtd_dies(image);
        sim.withdraw(1, &["203.0.113.0/24"]);
        sim.announce(2, &["192.88.99.0/24"], &[64502]);
        sim.run(30 * SECOND);
        let table = sim.table(3);
        assert!(sim.no_reset());
        assert!(!table.contains_key(&prefix("203.0.113.0/24")) && table.contains_key(&prefix("192.88.99.0/24")));
        assert_eq!(table.len(), 3);
        // A withdrawal and an announcement.
        assert_eq!(updates(&sim)[2], before + 2, "{strategy:?}");
    }
}

#[test]
fn who_lies_decides_nothing_because_he_is_first() {
    for strategy in STRATEGIES {
        let mut sim = settled(3, strategy);
        let before = sim.table(3);
        sim.instances[0].fault = Fault { lies_about: BTreeSet::from([prefix("203.0.113.0/24")]), ..Fault::default() };
        // Only the liar is there for the first ten seconds.
        for i in 1..3 {
            sim.instances[i].listening = false;
        }
        sim.virtd_dies(true);
        sim.run(10 * SECOND);
        assert_eq!(sim.table(3), before, "{strategy:?}");
        (1..3).for_each(|i| sim.start_instance(i));
        sim.run(40 * SECOND);
        assert!(sim.no_reset());
        assert_eq!(sim.table(3), before, "{strategy:?}");
        let lied = sim.peers[&3].history.iter().filter(|(_, med, _)| med.is_some()).count();
        assert_eq!(lied, 0, "{strategy:?}: no peer ever heard the lie");
    }
}

/// As where the machine is slow and T is short.
#[test]
fn instances_that_pause_for_longer_than_t_take_nothing_back() {
    for strategy in STRATEGIES {
        let mut sim = settled(3, strategy);
        let before = updates(&sim);
        let all: BTreeSet<_> = sim.table(3).into_keys().collect();
        sim.instances.iter_mut().for_each(|i| i.fault.hides = all.clone());
        sim.virtd_dies(true);
        sim.run(4 * SECOND);
        assert_eq!(updates(&sim), before, "{strategy:?}");
        for i in 0..3 {
            sim.kill_instance(i);
            sim.start_instance(i);
        }
        sim.run(30 * SECOND);
        assert!(sim.no_reset());
        assert_eq!(updates(&sim), before, "{strategy:?}");
    }
}

#[test]
fn half_a_message_is_not_lost() {
    let mut sim = settled(3, Strategy::MasterSlave);
    let text = sim::update(&[prefix("192.88.99.0/24")], &[], &[64501], "192.0.2.1".parse().unwrap(), None, 0);
    let mut journal = std::mem::take(&mut sim.journal);
    let conn = sim.peers[&1].conn.expect("a connection").0;
    journal::Record::FromPeer { conn, octets: &text[..30] }.append_to(&mut journal);
    let mut core = broker::Core::new(&config(3, Strategy::MasterSlave), sim.now);
    let mut adoption = core.adoption(sim.now);
    journal::read(&journal).for_each(|r| adoption.take(&r.expect("a record")));
    let kept = adoption.finish();
    let rx: Vec<(u64, &[u8])> = kept.iter().map(|k| (k.conn.0, &k.rx[..])).filter(|(_, rx)| !rx.is_empty()).collect();
    assert_eq!(rx, [(conn, &text[..30])]);
}

#[test]
fn what_a_majority_has_ended_stays_so() {
    for image in [false, true] {
        let mut sim = settled(3, Strategy::MasterSlave);
        // Maximum number of prefixes reached (RFC 4486): two of three want peer 1 no more.
        for i in 0..2 {
            sim.leave(i, 1, Some(wire::bgp::Notification::new(6, 1)));
        }
        sim.run(5 * SECOND);
        assert_eq!(sim.peers[&1].closed, 1, "it is ended");
        sim.virtd_dies(image);
        sim.run(10 * SECOND);
        sim.connect_peer(1);
        sim.run(20 * SECOND);
        assert!(!sim.peers[&1].established, "it waits for a majority that wants it back, {image}");
        for i in 0..2 {
            sim.instances[i].fault.refuses.remove(&1);
        }
        sim.run(120 * SECOND);
        sim.connect_peer(1);
        sim.run(40 * SECOND);
        assert!(sim.peers[&1].established, "{image}");
    }
}

#[test]
fn who_has_left_before_counts_with_who_leaves_after() {
    for image in [false, true] {
        let mut sim = settled(3, Strategy::MasterSlave);
        sim.leave(0, 1, Some(wire::bgp::Notification::new(6, 1)));
        sim.run(3 * SECOND);
        sim.virtd_dies(image);
        sim.run(20 * SECOND);
        assert_eq!(sim.peers[&1].closed, 0, "one of three");
        sim.leave(1, 1, Some(wire::bgp::Notification::new(6, 1)));
        sim.run(5 * SECOND);
        assert_eq!(sim.peers[&1].closed, 1, "two of three");
    }
}

/// An image of a settled router, in a file of its own.
fn image() -> (Vec<u8>, Census) {
    let mut sim = settled(3, Strategy::MasterSlave);
    let mut file = journal::stamp().to_vec();
    sim.write_journal_anew();
    file.extend_from_slice(&sim.journal);
    (file, sim.core.census())
}

#[test]
fn a_program_that_is_tried_finds_all_there_is() {
    let (file, census) = image();
    let config = config(3, Strategy::MasterSlave);
    assert_eq!((census.sessions, census.heard), (3, 4));
    assert!(census.told > 0);
    assert_eq!(examine(&config, &file, OLDEST..=VERSION).unwrap(), census);
}

#[test]
fn a_digest_tells_what_differs() {
    let mut sim = settled(3, Strategy::MasterSlave);
    let before = sim.core.digest();
    // Another path for one prefix: the same number of them.
    sim.announce(1, &["203.0.113.0/24"], &[64501, 65001]);
    sim.run(10 * SECOND);
    let after = sim.core.digest();
    let differ = before.keys().filter(|conn| before.get(*conn) != after.get(*conn)).count();
    assert_eq!((before.len(), after.len(), differ), (3, 3, 3), "{before:?} {after:?}");
    assert!(before.values().zip(after.values()).all(|(b, a)| (b.heard, b.told) == (a.heard, a.told)));
}

#[test]
fn what_is_of_another_version_or_damaged_is_refused_by_name() {
    let (file, census) = image();
    let config = config(3, Strategy::MasterSlave);
    let refused = |file: &[u8], reads| format!("{:#}", examine(&config, file, reads).unwrap_err());
    let text = refused(&file, VERSION + 1..=VERSION + 3);
    assert!(text.contains(&format!("it is of version {VERSION}; this virtd reads {} to", VERSION + 1)), "{text}");
    let mut newer = file.clone();
    newer[8] = 9;
    assert!(refused(&newer, OLDEST..=VERSION).contains("it is of version 9; this virtd reads"));
    let text = refused(&file[..file.len() - 9], OLDEST..=VERSION);
    assert!(text.contains("damaged: it ends within a record"), "{text}");
    assert!(refused(b"something else", OLDEST..=VERSION).contains("no image"));
    let mut unknown = file.clone();
    unknown[20] = 77;
    assert!(refused(&unknown, OLDEST..=VERSION).contains("kind 77"));
    // Whatever it is, it is read as something else or refused.
    for at in 16..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 0x41;
        if let Ok(found) = examine(&config, &damaged, OLDEST..=VERSION) {
            assert!(found.sessions <= census.sessions, "octet {at}: {found:?}");
        }
    }
}
