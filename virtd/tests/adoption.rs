//! virtd dies, and the next one goes on with its journal: no peer hears anything but what is new.

mod sim;

use broker::adopt::Census;
use broker::witness::LastWord;
use journal::{OLDEST, VERSION};
use sim::{Fault, Sim, config, prefix};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use virtd::upgrade::examine;
use virtd_config::Strategy;
use wire::bgp::Notification;
use wire::bgp::message::Capability;

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

/// The first that is back writes its routes before the others are there: the kernel's stay.
#[test]
fn who_is_back_first_does_not_decide_on_the_kernels_routes_alone() {
    let mut sim = Sim::with_fib(&config(3, Strategy::WaitForConsensus));
    (0..3).for_each(|i| sim.start_instance(i));
    (1..=2).for_each(|n| sim.connect_peer(n));
    sim.run(3 * SECOND);
    sim.announce(1, &["10.1.0.0/16"], &[64501]);
    sim.run(10 * SECOND);
    assert!(!sim.written.is_empty());
    sim.written.clear();
    sim.virtd_dies_and_instances_return(true, &BTreeSet::from([1, 2]));
    sim.run(6 * SECOND);
    assert!(sim.written.is_empty(), "{:?}", sim.written);
    (1..3).for_each(|i| sim.restart_instance(i));
    sim.run(30 * SECOND);
    assert!(!sim.written.is_empty() && sim.no_reset());
}

/// Two of three take four seconds for each of so many prefixes to say everything again; the third has
/// done so at once, and leaves one of the last out. After how many seconds peer 3 loses that one.
fn lost_while_others_say_it_again(prefixes: u64) -> Option<u64> {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(3 * SECOND);
    let many: Vec<String> = (0..prefixes).map(|n| format!("10.{n}.0.0/16")).collect();
    many.iter().for_each(|p| sim.announce(1, &[p], &[64501]));
    sim.run(10 * SECOND);
    let all: Vec<_> = many.iter().map(|p| prefix(p)).collect();
    assert_eq!(sim.table(3).len(), all.len());
    let left_out = all[all.len() * 5 / 6];
    sim.instances[0].fault.hides.insert(left_out);
    (1..3).for_each(|i| sim.instances[i].fault.hides = all.iter().copied().collect());
    sim.virtd_dies(true);
    sim.run(SECOND / 2);
    for (n, p) in (0..).zip(&all) {
        for (i, peer) in [(1, 2), (1, 3), (2, 2), (2, 3)] {
            let said = sim::update(&[*p], &[], &[sim::OUR_AS, 64501], sim::LOCAL, None, i);
            sim.leg_sends(i, peer, &said);
        }
        sim.run(4 * SECOND);
        if !sim.table(3).contains_key(&left_out) {
            return Some(4 * n);
        }
    }
    sim.run(30 * SECOND);
    assert!(sim.no_reset());
    assert_eq!(sim.table(3).len(), all.len());
    None
}

#[test]
fn who_still_says_its_table_again_is_waited_for() {
    assert_eq!(lost_while_others_say_it_again(40), None, "two of three say all of it in the end");
    let lost = lost_while_others_say_it_again(120).expect("nobody is waited for any longer than others are");
    assert!((352..=368).contains(&lost), "{lost} s");
}

/// A peer that has the OPEN and waits for the KEEPALIVE that accepts its own is told at once that it
/// has to begin anew.
#[test]
fn a_session_that_is_being_opened_is_ended_with_a_cease() {
    for image in [false, true] {
        let mut sim = settled(3, Strategy::MasterSlave);
        // No instance sees its OPEN through: it stays in OpenConfirm.
        (0..3).for_each(|i| sim.instances[i].fault.mute = true);
        sim.connect_peer(4);
        sim.run(SECOND / 10);
        let conn = sim.peers[&4].conn.expect("a connection");
        assert!(sim.peers[&4].open.is_some() && !sim.peers[&4].established, "it is in OpenConfirm");
        if image {
            sim.write_journal_anew();
        }
        let mut core = broker::Core::new(&config(3, Strategy::MasterSlave), sim.now);
        let mut adoption = core.adoption(sim.now);
        journal::read(&sim.journal).for_each(|r| adoption.take(&r.expect("a record")));
        let kept = adoption.finish();
        assert_eq!(kept.len(), 4, "{kept:?}");
        for k in kept {
            let farewell = (k.conn == conn).then(|| Notification::new(6, 4).encode());
            assert_eq!((k.stands, k.farewell), (k.conn != conn, farewell));
        }
    }
}

/// AS numbers of four octets (RFC 6793): the OPEN's field has AS_TRANS, the capability the number; and
/// a peer that has no such capability is told paths of two octets.
#[test]
fn as_numbers_of_any_width_are_adopted() {
    const WIDE: u32 = 4_200_000_001;
    for image in [false, true] {
        let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
        sim.connect_peer(1);
        sim.connect_peer_with(2, &sim::open(WIDE, Ipv4Addr::new(10, 0, 0, 2), 90));
        let mut narrow = sim::open(64503, Ipv4Addr::new(10, 0, 0, 3), 90);
        narrow.capabilities.retain(|c| !matches!(c, Capability::FourOctetAs(_)));
        sim.connect_peer_with(3, &narrow);
        sim.run(3 * SECOND);
        sim.announce(1, &["203.0.113.0/24"], &[64501, 65001]);
        sim.announce(2, &["198.51.100.0/24"], &[WIDE, 65002]);
        sim.run(10 * SECOND);
        let paths = |sim: &Sim, n: u8| sim.table(n).into_values().map(|(path, _)| path).collect::<Vec<_>>();
        let (two, three) = (paths(&sim, 2), paths(&sim, 3));
        assert_eq!(two, [[sim::OUR_AS, 64501, 65001]]);
        assert_eq!(three, [[sim::OUR_AS, 23456, 65002], [sim::OUR_AS, 64501, 65001]], "AS_TRANS in its place");
        let before = updates(&sim);
        sim.virtd_dies(image);
        sim.run(20 * SECOND);
        let asns = |sim: &mut Sim| {
            let all = sim.query(serde_json::json!({ "command": "sessions" }));
            let asns = all["sessions"].as_array().expect("sessions").iter();
            asns.map(|s| (s["peer"].to_string(), s["asn"].as_u64())).collect::<std::collections::BTreeMap<_, _>>()
        };
        let asns = asns(&mut sim);
        let of = |n: u8| asns[&format!("\"192.0.2.{n}\"")];
        assert_eq!([of(1), of(2), of(3)], [Some(64501), Some(u64::from(WIDE)), Some(64503)]);
        assert_eq!(updates(&sim), before, "nobody is told again what he was told");
        // What they say and are told from now on is as wide as before.
        sim.announce(2, &["198.18.0.0/15"], &[WIDE, 65003]);
        let said = sim::ends::narrow_update(&prefix("192.88.99.0/24"), &[64503, 65004], Ipv4Addr::new(192, 0, 2, 3));
        sim.peer_sends(3, &said);
        sim.run(10 * SECOND);
        assert!(sim.no_reset());
        assert!(paths(&sim, 3).contains(&vec![sim::OUR_AS, 23456, 65003]), "{:?}", paths(&sim, 3));
        assert!(paths(&sim, 1).contains(&vec![sim::OUR_AS, WIDE, 65003]), "{:?}", paths(&sim, 1));
        assert!(paths(&sim, 2).contains(&vec![sim::OUR_AS, 64503, 65004]), "{:?}", paths(&sim, 2));
    }
}

/// What instance 0 says to peer 3 of a prefix of peer 1's.
fn word(said: &str) -> LastWord {
    let octets = sim::update(&[prefix(said)], &[], &[sim::OUR_AS, 64501], sim::LOCAL, None, 0);
    LastWord { instance: "i0".into(), peer: sim::peer_addr(3), as4: true, octets }
}

fn legs(sim: &Sim, i: usize) -> BTreeSet<u8> {
    sim.instances[i].legs().into_iter().collect()
}

/// virtd dies of what an instance says: it costs that instance this leg, and nobody anything else.
#[test]
fn what_an_instance_has_killed_virtd_with_costs_it_its_leg() {
    for image in [false, true] {
        let mut sim = settled(3, Strategy::WaitForConsensus);
        let before = updates(&sim);
        sim.died_of = Some(word("203.0.113.0/24"));
        sim.virtd_dies(image);
        sim.run(30 * SECOND);
        let told = sim.events_of("leg-poison");
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].instance.as_deref(), told[0].session.as_deref()), (Some("i0"), Some("192.0.2.3")));
        let again = |sim: &Sim| sim.events_of("leg-fault").iter().filter(|e| e.text.contains("says again")).count();
        assert_eq!((again(&sim), legs(&sim, 0)), (1, BTreeSet::from([1, 2])), "it is not looked at again");
        assert_eq!((legs(&sim, 1).len(), updates(&sim)), (3, before.clone()), "nobody has noticed");
        sim.announce(1, &["192.88.99.0/24"], &[64501]);
        sim.run(5 * SECOND);
        assert!(sim.table(3).contains_key(&prefix("192.88.99.0/24")), "the others vote");
        // The next one knows it, too; and a minute later it is heard again, and says it again.
        sim.virtd_dies(image);
        sim.run(90 * SECOND);
        assert_eq!((again(&sim), legs(&sim, 0)), (3, BTreeSet::from([1, 2])));
        assert!(sim.no_reset() && sim.events_of("instance-absent").is_empty());

        // The second death by the same leg is enough.
        sim.died_of = Some(word("198.51.100.0/24"));
        sim.virtd_dies(image);
        sim.run(300 * SECOND);
        assert_eq!((again(&sim), legs(&sim, 0)), (3, BTreeSet::from([1, 2])));
        sim.virtd_dies(image);
        sim.run(100 * SECOND);
        assert_eq!((again(&sim), legs(&sim, 0)), (3, BTreeSet::from([1, 2])));
        assert!(sim.no_reset() && sim.events_of("instance-absent").is_empty());
        let order = serde_json::json!({ "command": "session", "peer": "192.0.2.3", "action": "start" });
        sim.query(order);
        sim.run(30 * SECOND);
        assert_eq!(legs(&sim, 0).len(), 3, "an operator has said so");
        assert!(sim.no_reset());
        assert_eq!(sim.table(3).len(), 4);
    }
}

/// Where others say there what kills, too, it is none of theirs.
#[test]
fn what_several_say_alike_costs_none_of_them_its_leg() {
    let mut sim = settled(3, Strategy::WaitForConsensus);
    let alone = |sim: &Sim, said: &LastWord| said.is_its_own(journal::read(&sim.journal).map_while(Result::ok));
    for (instance, is_its_own) in [("i0", true), ("i0", true), ("i1", false), ("i2", false)] {
        let said = LastWord { instance: instance.into(), octets: vec![0; 30].into(), ..word("203.0.113.0/24") };
        assert_eq!(alone(&sim, &said), is_its_own, "{instance}");
        sim.died_of = Some(said);
        sim.virtd_dies(false);
        sim.run(20 * SECOND);
    }
    assert_eq!((0..3).map(|i| legs(&sim, i).len()).collect::<Vec<_>>(), [3, 3, 3]);
    assert!(sim.no_reset());
}

/// It may say to each of many peers what kills: three times, and it has no leg at all.
#[test]
fn who_kills_virtd_three_times_has_no_leg_anywhere() {
    let mut sim = settled(3, Strategy::WaitForConsensus);
    let before = updates(&sim);
    for n in 1..=3 {
        sim.died_of = Some(LastWord { peer: sim::peer_addr(n), octets: vec![n; 30].into(), ..word("203.0.113.0/24") });
        sim.virtd_dies(n == 2);
        sim.run(30 * SECOND);
        assert_eq!(legs(&sim, 0).len(), if n < 3 { 3 } else { 0 });
    }
    sim.virtd_dies(true);
    sim.run(60 * SECOND);
    assert!(legs(&sim, 0).is_empty() && sim.no_reset() && sim.events_of("instance-absent").is_empty());
    assert_eq!(updates(&sim), before);
    sim.query(serde_json::json!({ "command": "session", "peer": "192.0.2.1", "action": "start" }));
    sim.run(30 * SECOND);
    assert_eq!(legs(&sim, 0).len(), 3, "there are two left, each of another leg");
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
            sim.leave(i, 1, Some(Notification::new(6, 1)));
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
        sim.leave(0, 1, Some(Notification::new(6, 1)));
        sim.run(3 * SECOND);
        sim.virtd_dies(image);
        sim.run(20 * SECOND);
        assert_eq!(sim.peers[&1].closed, 0, "one of three");
        sim.leave(1, 1, Some(Notification::new(6, 1)));
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
