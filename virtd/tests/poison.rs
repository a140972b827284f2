//! The UPDATE that kills an instance, found and withheld, under the virtual clock.

mod sim;

use broker::io::{Input, InstanceId, ProcessNews};
use bytes::Bytes;
use serde_json::json;
use sim::{LOCAL, OUR_AS, Sim, config, peer_addr, prefix, update};
use std::net::IpAddr;
use virtd_config::{Inbound, Strategy};
use wire::bgp::Notification;
use wire::bgp::message::{Capability, Open};

const SECOND: u64 = 1_000_000;
const BAD: &str = "203.0.113.0/24";

fn names(n: u8) -> Vec<String> {
    (0..n).map(|i| format!("198.51.{i}.0/24")).collect()
}

/// Three instances, two peers, some routes.
fn running() -> Sim {
    running_with(Inbound::Rfc7606)
}

fn running_with(inbound: Inbound) -> Sim {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.recorder.folder = Some("/nonexistent".into());
    c.inbound = inbound;
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    announce_each(&mut sim, &names(20));
    sim.run(10 * SECOND);
    assert_eq!(sim.table(2).len(), 20);
    sim
}

/// One UPDATE a prefix.
fn announce_each(sim: &mut Sim, list: &[String]) {
    for p in list {
        sim.announce(1, &[p], &[64501]);
    }
}

/// Time passes; whoever is dead is started again after a second.
fn nurse(sim: &mut Sim, i: usize, seconds: u64) {
    for _ in 0..seconds {
        sim.run(SECOND);
        if !sim.instances[i].listening {
            sim.restart_instance(i);
        }
    }
}

fn withheld(sim: &mut Sim, i: usize) -> u64 {
    sim.query(json!({"command": "instances"}))["instances"][i]["withheld"].as_u64().expect("a number")
}

fn voting(sim: &mut Sim, i: usize) -> bool {
    sim.query(json!({"command": "instances"}))["instances"][i]["state"] == "voting"
}

#[test]
fn the_one_among_fifty_is_found_and_everything_else_is_told() {
    let mut sim = running();
    sim.instances[1].fault.dies_of.insert(prefix(BAD));
    let mut list = names(70)[20..].to_vec();
    list.insert(31, BAD.to_owned());
    announce_each(&mut sim, &list);
    nurse(&mut sim, 1, 120);
    let found = sim.events_of("poison");
    assert_eq!(found.len(), 1, "{:?}", sim.events_of("poison-suspected"));
    assert_eq!((found[0].instance.as_deref(), found[0].prefix), (Some("i1"), Some(prefix(BAD))));
    assert_eq!(withheld(&mut sim, 1), 1);
    assert!(voting(&mut sim, 1));
    assert!(sim.deaths.len() <= 7, "{} deaths", sim.deaths.len());
    assert_eq!(sim.table(2).len(), 71, "outside nothing is missing");
    assert!(sim.no_reset());
    let heard: Vec<_> = sim.instances[1].heard.iter().flat_map(|(_, told, _)| told.clone()).collect();
    assert!(list.iter().filter(|p| *p != BAD).all(|p| heard.contains(&prefix(p))), "it has been told all the others");
    // Its word on what it was not told does not count, and is not held against it.
    let routes = sim.query(json!({"command": "routes", "prefix": BAD}));
    assert_eq!(routes["sessions"][0]["said"][1]["counted"], false);
    assert_eq!(sim.events_of("instance-faulty").len(), 0);
    let record = &sim.records.iter().find(|r| r.kind == "poison").expect("a record");
    assert!(record.messages.last().is_some_and(|m| m.bytes.ends_with(&[24, 203, 0, 113])));
    let open = record.messages.last().map(|m| Open::decode(&m.open[19..]).expect("an OPEN")).expect("a message");
    let graceful = Capability::GracefulRestart { flags: 0, restart_time_s: 0, families: Vec::new() };
    assert!(open.asn == 64501 && open.capabilities.contains(&graceful), "{open:?}");
}

#[test]
fn another_route_for_the_prefix_is_told_and_the_same_one_again_is_not() {
    let mut sim = running();
    sim.instances[1].fault.dies_of.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    nurse(&mut sim, 1, 30);
    assert_eq!((sim.events_of("poison").len(), withheld(&mut sim, 1)), (1, 1));
    let deaths = sim.deaths.len();
    sim.announce(1, &[BAD], &[64501]);
    nurse(&mut sim, 1, 10);
    assert_eq!((sim.deaths.len(), withheld(&mut sim, 1)), (deaths, 1), "the same UPDATE again");
    sim.instances[1].fault.dies_of.clear();
    sim.announce(1, &[BAD], &[64501, 64999]);
    nurse(&mut sim, 1, 10);
    assert_eq!(withheld(&mut sim, 1), 0);
    assert!(sim.instances[1].heard.last().is_some_and(|(_, told, _)| told.contains(&prefix(BAD))));
    assert!(voting(&mut sim, 1) && sim.no_reset());
}

#[test]
fn what_the_peer_withdraws_is_withheld_no_more() {
    let mut sim = running();
    sim.instances[1].fault.dies_of.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    nurse(&mut sim, 1, 30);
    assert_eq!(withheld(&mut sim, 1), 1);
    sim.withdraw(1, &[BAD]);
    sim.run(SECOND);
    assert_eq!(withheld(&mut sim, 1), 0);
}

/// Peer 1 goes, and comes back with an empty table.
fn reset_peer(sim: &mut Sim) {
    let conn = sim.peers[&1].conn.expect("connected");
    sim.input(Input::PeerClosed { conn, errno: 0 });
    sim.run(SECOND);
    sim.connect_peer(1);
    sim.run(2 * SECOND);
}

#[test]
fn what_was_found_is_not_given_again_after_a_withdraw_or_a_reset() {
    let mut sim = running();
    sim.instances[1].fault.dies_of.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    nurse(&mut sim, 1, 30);
    assert_eq!((sim.events_of("poison").len(), sim.events_of("poison-again").len()), (1, 0));
    let deaths = sim.deaths.len();
    sim.withdraw(1, &[BAD]);
    nurse(&mut sim, 1, 10);
    assert_eq!(withheld(&mut sim, 1), 0);
    // In one UPDATE with others, which it is given all the same.
    sim.announce(1, &["203.0.112.0/24", BAD], &[64501]);
    nurse(&mut sim, 1, 10);
    assert_eq!((sim.deaths.len(), withheld(&mut sim, 1)), (deaths, 1));
    assert!(sim.instances[1].heard.iter().any(|(_, told, _)| told.contains(&prefix("203.0.112.0/24"))));
    let again = sim.events_of("poison-again");
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].instance.as_deref(), again[0].prefix), (Some("i1"), Some(prefix(BAD))));
    reset_peer(&mut sim);
    assert_eq!(withheld(&mut sim, 1), 0);
    sim.announce(1, &[BAD], &[64501]);
    nurse(&mut sim, 1, 10);
    assert_eq!((sim.deaths.len(), withheld(&mut sim, 1)), (deaths, 1));
    assert_eq!(sim.events_of("poison-again").len(), 2);
    let routes = sim.query(json!({"command": "routes", "prefix": BAD}));
    let sessions = routes["sessions"].as_array().expect("a list");
    let to_2 = sessions.iter().find(|s| s["peer"] == "192.0.2.2").expect("a session");
    assert_eq!(to_2["said"][1]["counted"], false, "{routes}");
    // Another peer may say it: that is another route.
    sim.announce(2, &[BAD], &[64501]);
    sim.run(SECOND);
    assert_eq!(sim.deaths.len(), deaths + 1);
    nurse(&mut sim, 1, 60);
    // What never was found is told as ever, and everything else stands.
    assert!(voting(&mut sim, 1) && sim.events_of("instance-faulty").is_empty());
    assert!(sim.table(2).contains_key(&prefix(BAD)));
}

#[test]
fn an_operators_restart_forgets_what_was_found() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances.iter_mut().for_each(|i| i.command = vec!["/bin/daemon".to_owned()]);
    let mut sim = Sim::new(&c);
    for i in 0..3 {
        sim.input(Input::Process { instance: InstanceId(i), news: ProcessNews::Started { pid: 1 } });
    }
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.instances[1].fault.dies_of.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    nurse(&mut sim, 1, 30);
    assert_eq!((sim.events_of("poison").len(), withheld(&mut sim, 1)), (1, 1));
    // Another version is installed, and the operator restarts it.
    sim.instances[1].fault.dies_of.clear();
    sim.query(json!({"command": "instance", "name": "i1", "action": "restart"}));
    assert_eq!(withheld(&mut sim, 1), 0);
    sim.kill_instance(1);
    let ended = ProcessNews::Ended { unasked: false, text: "killed".into() };
    sim.input(Input::Process { instance: InstanceId(1), news: ended });
    nurse(&mut sim, 1, 30);
    assert!(sim.instances[1].heard.iter().any(|(_, told, _)| told.contains(&prefix(BAD))));
    assert!(voting(&mut sim, 1) && withheld(&mut sim, 1) == 0 && sim.no_reset());
}

#[test]
fn a_death_without_an_update_withholds_nothing_for_long() {
    let mut sim = running();
    sim.kill_instance(1);
    nurse(&mut sim, 1, 20);
    assert_eq!((withheld(&mut sim, 1), sim.events_of("poison-suspected").len()), (0, 0));
    // A death by chance, right after some UPDATEs.
    announce_each(&mut sim, &names(30)[20..]);
    sim.kill_instance(1);
    nurse(&mut sim, 1, 1);
    assert_eq!(withheld(&mut sim, 1), 10);
    nurse(&mut sim, 1, 60);
    assert_eq!((withheld(&mut sim, 1), sim.events_of("poison").len()), (0, 0));
    assert_eq!(sim.events_of("poison-released").len(), 1);
    assert!(voting(&mut sim, 1) && sim.table(2).len() == 30 && sim.no_reset());
}

#[test]
fn a_reset_that_would_come_again_and_again_ends() {
    let mut sim = running();
    sim.instances[2].fault.objects_to.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    sim.run(120 * SECOND);
    assert!(sim.deaths.len() <= 4, "{} resets", sim.deaths.len());
    assert_eq!(sim.events_of("poison").len(), 1);
    assert!(voting(&mut sim, 2) && sim.no_reset() && sim.table(2).len() == 21);
}

#[test]
fn a_cease_poisons_nothing() {
    let mut sim = running();
    announce_each(&mut sim, &names(30)[20..]);
    for subcode in [1, 2, 4, 6] {
        sim.leg_sends(1, 1, &wire::bgp::Notification::new(6, subcode).encode());
        sim.run(5 * SECOND);
    }
    assert_eq!(sim.events_of("poison-suspected").len(), 0);
}

/// An UPDATE that announces BAD, and one that does so without AS_PATH and NEXT_HOP: that is treated
/// as a withdraw (RFC 7606).
fn good_and_malformed() -> (Bytes, Vec<u8>) {
    let IpAddr::V4(next_hop) = peer_addr(1).ip() else { unreachable!() };
    let good = update(&[prefix(BAD)], &[], &[64501], next_hop, None, 0);
    let mut bad = good[..19].to_vec();
    bad.extend([0, 0, 0, 4, 0x40, 1, 1, 0, 24, 203, 0, 113]);
    bad[17] = bad.len() as u8;
    (good, bad)
}

#[test]
fn a_malformed_one_is_known_by_its_bytes_and_told_in_its_mended_form_from_then_on() {
    let mut sim = running_with(Inbound::Opaque);
    let (good, bad) = good_and_malformed();
    for i in 0..3 {
        sim.instances[i].fault.dies_of_bytes = Some(vec![0xff; 99]);
    }
    sim.instances[1].fault.dies_of_bytes = Some(bad[19..].to_vec());
    sim.peer_sends(1, &bad);
    nurse(&mut sim, 1, 30);
    assert_eq!((sim.deaths.len(), sim.events_of("poison").len()), (1, 1), "{:?}", sim.events_of("poison-suspected"));
    assert!(voting(&mut sim, 1));
    sim.peer_sends(1, &bad);
    nurse(&mut sim, 1, 10);
    assert_eq!(sim.deaths.len(), 1, "the same bytes do not reach it again");
    sim.peer_sends(1, &good);
    nurse(&mut sim, 1, 10);
    assert!(sim.table(2).contains_key(&prefix(BAD)) && sim.no_reset());
}

#[test]
fn who_was_not_given_a_malformed_one_is_not_judged_on_its_prefixes() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.inbound = Inbound::Opaque;
    c.faults.one_key_ms = 20_000;
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    let (good, bad) = good_and_malformed();
    sim.instances[1].fault.dies_of_bytes = Some(bad[19..].to_vec());
    sim.peer_sends(1, &bad);
    nurse(&mut sim, 1, 60);
    let counted = |sim: &mut Sim| {
        let routes = sim.query(json!({"command": "routes", "prefix": BAD}));
        let sessions = routes["sessions"].as_array().expect("a list");
        let to_2 = sessions.iter().find(|s| s["peer"] == "192.0.2.2").expect("a session");
        to_2["said"][1]["counted"].as_bool().expect("a word")
    };
    assert!(sim.table(2).contains_key(&prefix(BAD)), "the others have taken it, in their way");
    let poison = sim.events_of("poison");
    assert_eq!((poison.len(), poison[0].prefix), (1, Some(prefix(BAD))));
    assert!(!counted(&mut sim) && voting(&mut sim, 1));
    // The same again, delivered to the others only: as before.
    sim.peer_sends(1, &bad);
    nurse(&mut sim, 1, 60);
    assert!(!counted(&mut sim) && sim.deaths.len() == 1);
    assert!(sim.events_of("disagreement").is_empty() && sim.events_of("instance-faulty").is_empty());
    // Something else: it has a vote again, and loses it with the same octets once more.
    sim.peer_sends(1, &good);
    nurse(&mut sim, 1, 10);
    assert!(counted(&mut sim) && withheld(&mut sim, 1) == 1, "the octets alone are left");
    sim.peer_sends(1, &bad);
    nurse(&mut sim, 1, 60);
    assert!(!counted(&mut sim) && sim.events_of("instance-faulty").is_empty() && sim.no_reset());
    sim.withdraw(1, &[BAD]);
    sim.run(5 * SECOND);
    assert_eq!(withheld(&mut sim, 1), 1);
    assert!(!sim.table(2).contains_key(&prefix(BAD)));
}

#[test]
fn every_verdict_leaves_a_record() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.recorder.folder = Some("/nonexistent".into());
    c.instances.iter_mut().for_each(|i| i.command = vec!["/bin/daemon".to_owned()]);
    c.faults.memory_mib = Some(512);
    c.faults.one_key_ms = 20_000;
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    let list = names(20);
    announce_each(&mut sim, &list);
    sim.run(10 * SECOND);
    let verdict_of = |sim: &mut Sim, i: usize, why: &str| {
        let verdicts = sim.events_of("instance-faulty");
        let text = &verdicts.last().expect("a verdict").text;
        assert!(text.contains(why), "{text}");
        assert_eq!(verdicts.len(), sim.records.iter().filter(|r| r.kind == "instance-faulty").count());
        let record = sim.records.last().expect("a record");
        assert_eq!(record.instance, format!("i{i}"));
        assert!(record.account["why"].as_str().is_some_and(|w| w.contains(why)), "{}", record.account);
        assert!(!record.messages.is_empty());
    };
    // Memory, told by the supervisor.
    let news = ProcessNews::Usage { cpu_permille: 10, rss_kib: 600_000 };
    sim.input(Input::Process { instance: InstanceId(2), news });
    verdict_of(&mut sim, 2, "MiB of memory");
    sim.kill_instance(2);
    sim.restart_instance(2);
    let ended = ProcessNews::Ended { unasked: false, text: "killed".into() };
    sim.input(Input::Process { instance: InstanceId(2), news: ended });
    sim.run(20 * SECOND);
    // A flood: withdraws of what nobody has.
    let nowhere: Vec<_> = (0..900u32).map(|n| prefix(&format!("10.{}.{}.0/24", n / 256, n % 256))).collect();
    let flood = update(&[], &nowhere, &[], sim::LOCAL, None, 0);
    for _ in 0..15 {
        for _ in 0..15 {
            sim.leg_sends(0, 2, &flood);
        }
        sim.run(SECOND);
    }
    verdict_of(&mut sim, 0, "routes a second");
    // Wrong.
    sim.instances[1].fault.lies_about.insert(prefix(&list[0]));
    sim.announce(1, &[&list[0]], &[64501, 64999]);
    sim.run(60 * SECOND);
    verdict_of(&mut sim, 1, "with the majority");
    assert_eq!(sim.records.last().expect("a record").account["prefixes"][0]["prefix"], list[0].as_str());
    // An end of its own.
    sim.kill_instance(2);
    let ended = ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() };
    sim.input(Input::Process { instance: InstanceId(2), news: ended });
    let record = sim.records.last().expect("a record");
    assert_eq!((record.kind, record.instance.as_str()), ("instance-exited", "i2"));
    assert!(record.account["why"].as_str().is_some_and(|w| w.contains("SIGSEGV")) && !record.messages.is_empty());
}

/// The event and the account of the first poison.
fn ending(sim: &Sim) -> (String, serde_json::Value) {
    let event = sim.events_of("poison").first().map(|e| e.text.clone()).expect("a poison");
    let record = sim.records.iter().find(|r| r.kind == "poison").expect("a record");
    (event, record.account["end"].clone())
}

#[test]
fn a_poison_says_how_the_instance_ended() {
    // Somebody else's process: it is gone, nobody knows how.
    let mut sim = running();
    sim.instances[1].fault.dies_of.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    nurse(&mut sim, 1, 30);
    let (text, end) = ending(&sim);
    assert!(text.contains("(it closed its leg, and its processes are gone)"), "{text}");
    assert_eq!((&end["leg"], &end["processes_gone"]), (&json!("closed"), &json!(true)));
    // An answer.
    let mut sim = running();
    sim.instances[2].fault.objects_to.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    sim.run(60 * SECOND);
    let (text, end) = ending(&sim);
    assert!(text.contains("it answered with NOTIFICATION 3/1"), "{text}");
    assert_eq!((&end["leg"], &end["code"], &end["subcode"]), (&json!("notification"), &json!(3), &json!(1)));
    // Silence.
    let mut sim = running();
    // Suspicion goes back by the hold time too: what came before is older than that.
    sim.run(15 * SECOND);
    sim.instances[0].fault.hangs_of.insert(prefix(BAD));
    sim.announce(1, &[BAD], &[64501]);
    for _ in 0..40 {
        sim.run(3 * SECOND);
        // Not before the leg has gone.
        if sim.instances[0].fault.mute && sim.now >= sim.deaths.last().expect("it hangs").0 + 12 * SECOND {
            sim.kill_instance(0);
            sim.instances[0].fault.mute = false;
            sim.restart_instance(0);
        }
    }
    assert_eq!(sim.events_of("poison-released").len(), 0, "a hang takes its time to show");
    assert!(sim.deaths.len() == 2 && voting(&mut sim, 0) && sim.no_reset(), "{:?}", sim.deaths);
    let (text, end) = ending(&sim);
    assert!(text.contains("it hung: nothing came from it for 9 s"), "{text}");
    assert_eq!((&end["leg"], &end["hold_s"]), (&json!("hold-time-expired"), &json!(9)));
}

#[test]
fn a_poison_waits_for_the_supervisors_word_but_not_for_ever() {
    for word in [true, false] {
        let mut c = config(3, Strategy::WaitForConsensus);
        c.recorder.folder = Some("/nonexistent".into());
        c.instances.iter_mut().for_each(|i| i.command = vec!["/bin/daemon".to_owned()]);
        let mut sim = Sim::new(&c);
        sim.connect_peer(1);
        sim.connect_peer(2);
        sim.run(SECOND);
        sim.instances[1].fault.dies_of.insert(prefix(BAD));
        sim.announce(1, &[BAD], &[64501]);
        for _ in 0..20 {
            sim.run(SECOND);
            if !sim.instances[1].listening {
                // The rest of its group has taken that long to end.
                sim.run(3 * SECOND);
                if word {
                    assert!(sim.events_of("poison").is_empty());
                    let text = "i1 (process 7) was ended by SIGSEGV".to_owned();
                    sim.input(Input::Process {
                        instance: InstanceId(1),
                        news: ProcessNews::Ended { unasked: true, text },
                    });
                    sim.orders.clear();
                }
                sim.run(3 * SECOND);
                sim.restart_instance(1);
            }
            if !sim.events_of("poison").is_empty() {
                break;
            }
        }
        let (text, end) = ending(&sim);
        match word {
            true => {
                assert!(text.contains("(i1 (process 7) was ended by SIGSEGV); it is withheld"), "{text}");
                assert_eq!(end["process"], "i1 (process 7) was ended by SIGSEGV");
            }
            false => assert!(text.contains("its processes are gone") && end["process"].is_null(), "{text} {end}"),
        }
    }
}

/// Two of three die of a route, which stands outside by the word of the third: withheld from both.
fn withheld_from_two() -> Sim {
    let mut sim = running();
    for i in [1, 2] {
        sim.instances[i].fault.dies_of.insert(prefix(BAD));
    }
    sim.announce(1, &[BAD], &[64501]);
    for _ in 0..40 {
        nurse(&mut sim, 1, 1);
        nurse(&mut sim, 2, 1);
    }
    assert_eq!((withheld(&mut sim, 1), withheld(&mut sim, 2), sim.events_of("poison").len()), (1, 1, 2));
    assert!(sim.table(2).contains_key(&prefix(BAD)) && voting(&mut sim, 1) && voting(&mut sim, 2));
    sim.peers.get_mut(&2).expect("a peer").history.clear();
    // They would survive the next route, and are slow to say anything about it.
    for i in [1, 2] {
        sim.instances[i].fault.dies_of.clear();
        sim.instances[i].fault.hides.insert(prefix(BAD));
    }
    sim
}

/// How often peer 2 was told that the route is gone.
fn withdrawals(sim: &Sim) -> usize {
    sim.peers[&2].history.iter().filter(|(p, _, there)| *p == prefix(BAD) && !there).count()
}

#[test]
fn who_is_told_at_last_does_not_vote_none_before_it_has_answered() {
    let mut sim = withheld_from_two();
    sim.announce(1, &[BAD], &[64501, 64999]);
    sim.run(SECOND / 2);
    assert!([1, 2].iter().all(|i| sim.instances[*i].rib.contains_key(&(1, prefix(BAD)))), "they are told");
    assert_eq!(sim.table(2)[&prefix(BAD)].0.len(), 3, "the third one's word is out");
    assert_eq!(withdrawals(&sim), 0, "nobody has withdrawn it");
    // They answer, one after the other; each counts from then on.
    for i in [1, 2] {
        sim.instances[i].fault.hides.clear();
        sim.announce(1, &[BAD], &[64501, 64998 - i as u32]);
        sim.run(SECOND / 10);
        let routes = sim.query(json!({"command": "routes", "prefix": BAD}));
        let said = &routes["sessions"].as_array().expect("sessions").iter().find(|s| s["peer"] == "192.0.2.2");
        assert_eq!(said.expect("towards the second")["said"][i]["counted"], true, "{routes}");
    }
    sim.run(10 * SECOND);
    assert_eq!((withdrawals(&sim), withheld(&mut sim, 1), withheld(&mut sim, 2)), (0, 0, 0));
    assert!(sim.events_of("disagreement").is_empty() && sim.events_of("no-quorum").is_empty(), "{:?}", sim.events);
}

#[test]
fn who_does_not_answer_for_t_is_taken_at_its_word() {
    let mut sim = withheld_from_two();
    sim.announce(1, &[BAD], &[64501, 64999]);
    sim.run(10 * SECOND);
    assert_eq!(withdrawals(&sim), 1, "two of three say none, and have had the time to say something else");
    assert!(!sim.table(2).contains_key(&prefix(BAD)));
}

#[test]
fn what_the_peer_takes_back_during_the_search_is_withdrawn_at_once() {
    let mut sim = withheld_from_two();
    sim.withdraw(1, &[BAD]);
    sim.run(SECOND / 10);
    assert!(!sim.table(2).contains_key(&prefix(BAD)));
}

/// What the three do about the malformed UPDATE, towards the peer that sent it or the other one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    /// The first answers it with a NOTIFICATION …
    Refuses,
    /// … and withdraws what it had from that peer.
    Withdraws,
    /// The second treats it as a withdraw.
    TreatsAsWithdraw,
    /// The third passes it on.
    PassesOn,
}

/// All orders of these.
fn orders(deeds: &[Deed]) -> Vec<Vec<Deed>> {
    if deeds.is_empty() {
        return vec![Vec::new()];
    }
    let rest = |first: &Deed| deeds.iter().copied().filter(|d| d != first).collect::<Vec<_>>();
    let begun = |first: &Deed| orders(&rest(first)).into_iter().map(|o| [vec![*first], o].concat()).collect::<Vec<_>>();
    deeds.iter().flat_map(begun).collect()
}

/// Two of three withdraw, and so does the router: whatever is said first, and however much later
/// the rest.
#[test]
fn who_answers_a_malformed_one_with_a_notification_counts_until_all_is_said() {
    let t = u64::from(config(3, Strategy::WaitForConsensus).vote.t_ms) * 1_000;
    for order in orders(&[Deed::Refuses, Deed::Withdraws, Deed::TreatsAsWithdraw, Deed::PassesOn]) {
        for pause in [1, t / 8, 2 * t] {
            let mut sim = running_with(Inbound::Opaque);
            let (good, bad) = good_and_malformed();
            sim.peer_sends(1, &good);
            sim.run(2 * t);
            assert!(sim.table(2).contains_key(&prefix(BAD)));
            // What they say is said below.
            sim.instances.iter_mut().for_each(|i| i.fault.mute = true);
            sim.instances[0].fault.hides.insert(prefix(BAD));
            sim.peer_sends(1, &bad);
            let withdraw = update(&[], &[prefix(BAD)], &[], LOCAL, None, 0);
            let odd = update(&[prefix(BAD)], &[], &[OUR_AS, 64501, 64501], LOCAL, None, 0);
            for deed in &order {
                sim.run(pause);
                match deed {
                    Deed::Refuses => sim.leg_sends(0, 1, &Notification::new(3, 3).encode()),
                    Deed::Withdraws => sim.leg_sends(0, 2, &withdraw),
                    Deed::TreatsAsWithdraw => sim.leg_sends(1, 2, &withdraw),
                    Deed::PassesOn => sim.leg_sends(2, 2, &odd),
                }
            }
            sim.run(2 * t);
            let what = format!("{order:?}, {pause} us apart");
            // Longer ago than two seconds it is not laid to the UPDATE.
            assert!(pause > t || sim.events_of("poison").len() == 1, "{what}");
            assert!(!sim.table(2).contains_key(&prefix(BAD)), "{what}: {:?}", sim.peers[&2].history.last());
            let accused = ["disagreement", "instance-faulty"].map(|kind| sim.events_of(kind).len());
            // Who is as late as that may be, for being late.
            assert!((pause > t || accused == [0, 0]) && sim.no_reset(), "{what}: {accused:?}");
        }
    }
}
