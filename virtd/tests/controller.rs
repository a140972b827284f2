//! Verdicts on instances, restarts, standbys and an operator's commands, under the virtual clock.

mod sim;

use broker::Answer;
use broker::io::{Death, Input, Order, ProcessNews};
use serde_json::json;
use sim::supervised::{MANY, SECOND, lie, news, obey, prefixes, running, said, supervise, supervised, without_standby};
use sim::{Sim, prefix, update};
use virtd_api::Request;
use virtd_config::{Standby, Strategy};

#[test]
fn wrong_on_many_prefixes_for_the_threshold_is_killed_and_comes_back() {
    for strategy in [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK]
    {
        let mut sim = running(&supervised(3, strategy));
        lie(&mut sim, 2, MANY);
        assert_eq!(supervise(&mut sim, 15), [], "{strategy:?}: not before the threshold");
        let orders = supervise(&mut sim, 60);
        assert_eq!(orders, [(2, Order::Kill), (2, Order::Start)], "{strategy:?}");
        let verdicts = sim.events_of("instance-faulty");
        assert_eq!(verdicts.len(), 1);
        assert_eq!(verdicts[0].instance.as_deref(), Some("i2"));
        assert_eq!(verdicts[0].said.len(), 3, "what every instance said stands in the verdict");
        // 192.0.2.1 is the peer that announces: nothing is told back to it.
        assert_eq!(verdicts[0].session.as_deref(), Some("192.0.2.2"), "and where");
        assert!(verdicts[0].text.contains("20 prefixes"), "{}", verdicts[0].text);
        assert_eq!(said(&sim, "instance-back").iter().filter(|(i, _)| i.as_deref() == Some("i2")).count(), 2);
        assert!(sim.table(2).values().all(|(_, med)| med.is_none()) && sim.no_reset());
        let instances = sim.query(json!({"command": "instances"}));
        assert_eq!(instances["instances"][2]["state"], "voting");
        assert_eq!(instances["instances"][2]["dissents_now"], 0);
    }
}

#[test]
fn one_prefix_counts_after_much_longer() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    lie(&mut sim, 1, 1);
    assert_eq!(supervise(&mut sim, 90), []);
    assert_eq!(sim.events_of("disagreement").len(), 1);
    assert_eq!(supervise(&mut sim, 30).first(), Some(&(1, Order::Kill)));
}

#[test]
fn nobody_is_accused_while_the_majority_is_in_doubt() {
    let mut config = supervised(4, Strategy::WaitForConsensus);
    config.faults.split_keys = 10;
    let mut sim = running(&config);
    // Two against two: no majority on any of them.
    for p in prefixes() {
        sim.instances[0].fault.lies_about.insert(prefix(&p));
        sim.instances[1].fault.lies_about.insert(prefix(&p));
    }
    lie(&mut sim, 0, MANY);
    assert_eq!(supervise(&mut sim, 200), []);
    assert_eq!(sim.events_of("majority-split").len(), 1);
    let status = sim.query(json!({"command": "status"}));
    assert_eq!((&status["without_quorum"], &status["majority_split"]), (&json!(MANY), &json!(true)));
    let differs = sim.query(json!({"command": "differs", "n": 5}));
    assert_eq!(differs["differs"].as_array().map(Vec::len), Some(5), "{differs}");
    assert_eq!((&differs["more"], &differs["differs"][0]["majority"]), (&json!(MANY - 5), &json!(false)), "{differs}");
    // They agree again: nothing is left over.
    sim.instances.iter_mut().for_each(|i| i.fault.lies_about.clear());
    lie(&mut sim, 0, 0);
    let list = prefixes();
    sim.announce(1, &list.iter().map(String::as_str).collect::<Vec<_>>(), &[64501]);
    supervise(&mut sim, 10);
    assert_eq!(sim.query(json!({"command": "status"}))["without_quorum"], 0);
}

#[test]
fn while_policy_changes_nobody_is_killed() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    assert!(sim.query(json!({"command": "change", "action": "begin"}))["done"].is_string());
    assert!(sim.query(json!({"command": "change", "action": "begin"}))["error"].is_string());
    lie(&mut sim, 2, MANY);
    assert_eq!(supervise(&mut sim, 200), []);
    assert!(!sim.events_of("disagreement").is_empty(), "it is shown all the same");
    sim.query(json!({"command": "change", "action": "commit"}));
    assert_eq!(supervise(&mut sim, 15), [], "the threshold begins anew");
    assert_eq!(supervise(&mut sim, 15).first(), Some(&(2, Order::Kill)));
}

#[test]
fn how_a_process_died_is_remembered() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    let death = |sim: &mut Sim| sim.query(json!({"command": "instances"}))["instances"][0]["last_death"].clone();
    assert_eq!(death(&mut sim), json!(null));
    for (how, word) in [
        (Death::FromOutside, "from-outside"),
        (Death::OutOfMemory, "out-of-memory"),
        (Death::Crash, "crash"),
        (Death::Exit, "exit"),
    ] {
        news(&mut sim, 0, ProcessNews::Died { death: how });
        assert_eq!(death(&mut sim), json!(word));
    }
    // It is no end yet: that follows when the rest of its group is gone.
    assert_eq!(supervise(&mut sim, 5), []);
    sim.kill_instance(0);
    news(&mut sim, 0, ProcessNews::Ended { unasked: true, text: "has exited".into() });
    assert_eq!(supervise(&mut sim, 5), [(0, Order::Start)]);
}

#[test]
fn a_warm_standby_votes_in_the_place_of_the_fallen_at_once() {
    let mut config = supervised(4, Strategy::WaitForConsensus);
    config.instances[3].standby = Some(Standby::Warm);
    let mut sim = running(&config);
    assert_eq!(sim.query(json!({"command": "instances"}))["instances"][3]["role"], "warm-standby");
    sim.kill_instance(0);
    news(&mut sim, 0, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    let instances = sim.query(json!({"command": "instances"}));
    assert_eq!(
        (&instances["instances"][3]["state"], &instances["instances"][0]["role"]),
        (&json!("voting"), &json!("warm-standby"))
    );
    assert_eq!(supervise(&mut sim, 30), [(0, Order::Start)]);
    assert_eq!(sim.query(json!({"command": "instances"}))["instances"][0]["state"], "standby");
    // Its vote counts: two old ones and the new one, one of which lies.
    lie(&mut sim, 1, MANY);
    sim.run(3 * SECOND);
    assert!(sim.table(2).values().all(|(path, med)| med.is_none() && path.len() == 3));
    assert!(sim.no_reset());
}

#[test]
fn a_cold_standby_is_started_when_it_is_needed() {
    let mut sim = without_standby(Standby::Cold);
    let list = prefixes();
    sim.announce(1, &list.iter().map(String::as_str).collect::<Vec<_>>(), &[64501]);
    assert_eq!(supervise(&mut sim, 10), []);
    lie(&mut sim, 2, MANY);
    let orders = supervise(&mut sim, 60);
    assert_eq!(orders, [(2, Order::Kill), (3, Order::Start)], "the fallen one is the cold standby now and stays down");
    let instances = sim.query(json!({"command": "instances"}));
    assert_eq!(
        (&instances["instances"][3]["state"], &instances["instances"][2]["role"]),
        (&json!("voting"), &json!("standby"))
    );
    assert!(sim.no_reset());
}

#[test]
fn a_cold_standby_that_an_operator_has_started_is_taken_too() {
    let mut sim = without_standby(Standby::Cold);
    sim.query(json!({"command": "instance", "name": "i3", "action": "restart"}));
    assert_eq!(supervise(&mut sim, 10), [(3, Order::Start)]);
    sim.kill_instance(0);
    news(&mut sim, 0, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    supervise(&mut sim, 10);
    let instances = sim.query(json!({"command": "instances"}));
    assert_eq!(
        (&instances["instances"][3]["state"], &instances["instances"][0]["role"]),
        (&json!("voting"), &json!("standby"))
    );
    assert!(sim.no_reset());
}

#[test]
fn a_hang_is_found_by_silence_and_killed() {
    let mut sim = running(&supervised(3, Strategy::MasterSlave));
    sim.instances[0].fault.mute = true;
    let orders = supervise(&mut sim, 40);
    assert_eq!(orders, [(0, Order::Kill), (0, Order::Start)]);
    assert!(said(&sim, "instance-faulty")[0].1.contains("hangs"));
    assert!(sim.no_reset());
    assert_eq!(sim.table(2).len(), MANY);
}

#[test]
fn crash_after_crash_ends_with_a_word_to_the_operator() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.faults.restart_limit = 3;
    let mut sim = running(&config);
    let mut starts = 0;
    sim.kill_instance(1);
    news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGABRT".into() });
    for _ in 0..400 {
        sim.run(SECOND / 10);
        let orders = std::mem::take(&mut sim.orders);
        for (i, order) in orders {
            assert_eq!((i, order), (1, Order::Start));
            starts += 1;
            news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGABRT".into() });
        }
    }
    assert_eq!(starts, 3);
    assert_eq!(sim.events_of("instance-given-up").len(), 1);
    sim.query(json!({"command": "instance", "name": "i1", "action": "restart"}));
    assert_eq!(obey(&mut sim), [(1, Order::Start)]);
    supervise(&mut sim, 20);
    assert_eq!(sim.query(json!({"command": "instances"}))["instances"][1]["state"], "voting");
    assert!(sim.no_reset());
}

#[test]
fn an_instance_of_somebody_elses_is_only_reported() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.instances[2].command.clear();
    let mut sim = running(&config);
    lie(&mut sim, 2, MANY);
    assert_eq!(supervise(&mut sim, 30), []);
    let verdicts = said(&sim, "instance-faulty");
    assert_eq!(verdicts.len(), 1, "and not again with every tick");
    assert!(verdicts[0].1.contains("virtd did not start it"), "{}", verdicts[0].1);
}

#[test]
fn a_session_lost_for_good_and_one_that_flaps() {
    // One of two sessions stays away, by no will of the instance's: it has half of what the
    // majority has, and is told.
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    sim.leave(1, 2, Some(wire::bgp::Notification::new(5, 0)));
    assert_eq!(supervise(&mut sim, 60), []);
    let told = said(&sim, "instance-absent");
    assert!(told.len() >= 2 && told[0].1.contains("without its session"), "{told:?}");
    assert!(sim.events_of("instance-faulty").is_empty() && sim.nudges.is_empty(), "it is no kind of virtd's");
    // A Cease is an operator's wish, whatever its subcode: told once, and nothing else.
    for subcode in [0, 1, 4, 6] {
        let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
        sim.leave(1, 2, Some(wire::bgp::Notification::new(6, subcode)));
        assert_eq!(supervise(&mut sim, 90), [], "6/{subcode}");
        assert_eq!(sim.events_of("session-differs").len(), 1);
        assert!(sim.events_of("instance-absent").is_empty() && sim.events_of("instance-faulty").is_empty());
    }
    // It lacks both: it is ended.
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    sim.leave(1, 1, Some(wire::bgp::Notification::new(5, 0)));
    sim.leave(1, 2, Some(wire::bgp::Notification::new(5, 0)));
    let orders = supervise(&mut sim, 60);
    assert_eq!(orders.first(), Some(&(1, Order::Kill)));
    assert!(said(&sim, "instance-faulty")[0].1.contains("lacks 2 of the 2"), "{:?}", said(&sim, "instance-faulty"));
    // One comes and goes.
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.faults.leg_losses = 3;
    let mut sim = running(&config);
    let mut orders = Vec::new();
    for _ in 0..10 {
        sim.leg_sends(1, 2, &wire::bgp::Notification::new(5, 0).encode());
        orders.extend(supervise(&mut sim, 5));
    }
    assert_eq!(orders.first(), Some(&(1, Order::Kill)));
    assert!(said(&sim, "instance-faulty")[0].1.contains("times within"), "{:?}", said(&sim, "instance-faulty"));
    assert!(sim.no_reset());
}

#[test]
fn memory_beyond_its_limit_and_processor_time_that_never_rests() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.faults.memory_mib = Some(512);
    let mut sim = running(&config);
    for second in 0..70 {
        sim.run(SECOND);
        for i in 0..3 {
            let cpu_permille = if i == 1 { 990 } else { 10 };
            let rss_kib = if i == 2 { 100_000 + 4_000 * second } else { 100_000 };
            news(&mut sim, i, ProcessNews::Usage { cpu_permille, rss_kib });
        }
    }
    let suspects = said(&sim, "instance-suspect");
    assert!(suspects.iter().any(|(i, t)| i.as_deref() == Some("i1") && t.contains("99 %")), "{suspects:?}");
    assert_eq!(suspects.iter().filter(|(i, _)| i.as_deref() == Some("i1")).count(), 1);
    assert!(suspects.iter().any(|(i, t)| i.as_deref() == Some("i2") && t.contains("grown")), "{suspects:?}");
    assert_eq!(sim.orders, []);
    let suspect =
        |sim: &mut Sim, i: usize| sim.query(json!({"command": "instances"}))["instances"][i]["suspect"].clone();
    assert_eq!((suspect(&mut sim, 0), suspect(&mut sim, 1)), (json!([]), json!(["cpu"])));
    assert_eq!(suspect(&mut sim, 2), json!(["memory"]));
    news(&mut sim, 1, ProcessNews::Usage { cpu_permille: 10, rss_kib: 100_000 });
    news(&mut sim, 2, ProcessNews::Usage { cpu_permille: 10, rss_kib: 110_000 });
    assert_eq!((suspect(&mut sim, 1), suspect(&mut sim, 2)), (json!([]), json!([])), "all is as it was");
    news(&mut sim, 2, ProcessNews::Usage { cpu_permille: 10, rss_kib: 600_000 });
    assert_eq!(sim.orders, [(2, Order::Kill)]);
}

#[test]
fn who_is_being_told_a_large_table_does_not_flood() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.vote.t_ms = 10_000;
    let mut sim = running(&config);
    sim.run(30 * SECOND);
    sim.kill_instance(2);
    news(&mut sim, 2, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    sim.run(2 * SECOND);
    assert_eq!(std::mem::take(&mut sim.orders), [(2, Order::Start)]);
    news(&mut sim, 2, ProcessNews::Started { pid: 200 });
    // On one prefix it differs, so that it counts only once it has fallen quiet.
    sim.instances[2].fault.lies_about.insert(prefix(&prefixes()[3]));
    sim.restart_instance(2);
    sim.run(3 * SECOND);
    // It says what takes a quarter of a minute to say, while the others rest.
    let table: Vec<_> = (0..900u32).map(|n| prefix(&format!("10.{}.{}.0/24", n / 256, n % 256))).collect();
    let said = update(&table, &[], &[65000, 64999], sim::LOCAL, None, 0);
    let speak = |sim: &mut Sim| {
        (0..15).for_each(|_| sim.leg_sends(2, 2, &said));
        supervise(sim, 1)
    };
    let level = |sim: &Sim| sim.events_of("leg-level").iter().any(|e| e.instance.as_deref() == Some("i2"));
    for second in 0..15 {
        assert_eq!(speak(&mut sim), [], "killed after {second} s");
    }
    assert!(!level(&sim));
    // Once it votes, the same is a flood.
    supervise(&mut sim, 30);
    assert!(level(&sim));
    let orders: Vec<_> = (0..15).flat_map(|_| speak(&mut sim)).collect();
    assert_eq!(orders.first(), Some(&(2, Order::Kill)));
}

#[test]
fn what_ends_because_virtd_ends_is_not_started_again() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    for i in 0..3 {
        sim.kill_instance(i);
        news(&mut sim, i, ProcessNews::Ended { unasked: false, text: "was ended by SIGTERM".into() });
    }
    sim.run(10 * SECOND);
    assert_eq!((sim.orders.len(), sim.events_of("instance-restart").len()), (0, 0));
}

#[test]
fn an_operators_hand() {
    let mut sim = running(&supervised(3, Strategy::MasterSlave));
    let act = |sim: &mut Sim, name: &str, action: &str| {
        sim.query(json!({"command": "instance", "name": name, "action": action}))
    };
    assert!(act(&mut sim, "nobody", "drain")["error"].as_str().is_some_and(|e| e.contains("i0, i1, i2")));
    assert!(act(&mut sim, "i0", "fly")["error"].as_str().is_some_and(|e| e.contains("restart")));
    act(&mut sim, "i0", "drain");
    assert_eq!(sim.query(json!({"command": "instances"}))["instances"][0]["state"], "drained");
    lie(&mut sim, 0, MANY);
    sim.run(5 * SECOND);
    assert!(sim.table(2).values().all(|(path, med)| med.is_none() && path.len() == 3), "the next in line is master");
    assert_eq!(supervise(&mut sim, 60), [], "a drained one is not killed");
    act(&mut sim, "i0", "disable");
    assert_eq!(obey(&mut sim), [(0, Order::Stop)]);
    assert_eq!(supervise(&mut sim, 10), [], "and stays down");
    sim.instances[0].fault = sim::Fault::default();
    act(&mut sim, "i0", "enable");
    assert_eq!(obey(&mut sim), [(0, Order::Start)]);
    supervise(&mut sim, 20);
    assert_eq!(sim.query(json!({"command": "instances"}))["instances"][0]["state"], "voting");
    act(&mut sim, "i1", "pin");
    lie(&mut sim, 1, MANY);
    assert_eq!(supervise(&mut sim, 60), [], "a pinned one is not killed");
    assert!(said(&sim, "instance-faulty").last().is_some_and(|(_, t)| t.contains("pinned")));
    act(&mut sim, "i1", "unpin");
    assert_eq!(supervise(&mut sim, 60).first(), Some(&(1, Order::Kill)));
    assert!(sim.no_reset());
    // The last that votes stays.
    let mut sim = running(&supervised(1, Strategy::WaitForConsensus));
    assert!(act(&mut sim, "i0", "drain")["error"].is_string());
}

#[test]
fn what_an_operator_has_decided_about_instances_outlasts_virtd() {
    let act = |sim: &mut Sim, name: &str, action: &str| {
        let request = Request::Instance { name: name.to_owned(), action: action.to_owned() };
        let answer = sim.core.query(sim.now, &request, None);
        sim.input(Input::Tick);
        let Ok(Answer::Decided { kept, .. }) = answer else { panic!("{name} {action}: {answer:?}") };
        *kept
    };
    let mut sim = running(&supervised(4, Strategy::WaitForConsensus));
    act(&mut sim, "i0", "disable");
    act(&mut sim, "i1", "drain");
    act(&mut sim, "i2", "pin");
    act(&mut sim, "i3", "pin");
    let kept = act(&mut sim, "i3", "unpin");

    let mut sim = running(&supervised(4, Strategy::WaitForConsensus));
    assert_eq!(sim.core.restore(&kept), [0], "and no other is to rest");
    let roles = |sim: &mut Sim| {
        let list = sim.query(json!({"command": "instances"}))["instances"].as_array().unwrap().clone();
        list.iter().map(|i| (i["role"].as_str().unwrap().to_owned(), i["pinned"] == true)).collect::<Vec<_>>()
    };
    let role = |role: &str, pinned: bool| (role.to_owned(), pinned);
    let before = [role("disabled", false), role("drained", false), role("voter", true), role("voter", false)];
    assert_eq!(roles(&mut sim), before);
    assert_eq!(obey(&mut sim), [], "nobody starts what was disabled");
    act(&mut sim, "i1", "enable");
    let kept = act(&mut sim, "i0", "enable");
    assert_eq!(obey(&mut sim), [(0, Order::Start)]);
    assert_eq!((kept.disabled.len(), kept.drained.len(), kept.pinned.len()), (0, 0, 1));
    // Of an instance that is no more nothing is kept.
    let mut sim = running(&supervised(2, Strategy::WaitForConsensus));
    assert_eq!(sim.core.restore(&kept), [0; 0]);
    assert_eq!(act(&mut sim, "i0", "pin").pinned, ["i0".to_owned()].into());
}

#[test]
fn a_start_that_is_told_after_the_order_to_end_does_not_undo_it() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    sim.kill_instance(1);
    news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    sim.run(2 * SECOND);
    assert_eq!(std::mem::take(&mut sim.orders), [(1, Order::Start)]);
    // The operator is faster than the supervisor's word that it has started.
    sim.query(json!({"command": "instance", "name": "i1", "action": "restart"}));
    news(&mut sim, 1, ProcessNews::Started { pid: 200 });
    assert_eq!(supervise(&mut sim, 20), [(1, Order::Stop), (1, Order::Start)]);
    assert_eq!(sim.query(json!({"command": "instances"}))["instances"][1]["state"], "voting");
}

#[test]
fn sessions_end_and_come_back_at_an_operators_word() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    let act =
        |sim: &mut Sim, action: &str| sim.query(json!({"command": "session", "peer": "192.0.2.2", "action": action}));
    assert!(act(&mut sim, "reset")["done"].is_string());
    assert_eq!(sim.peers[&2].notifications.last().map(|n| (n.code, n.subcode)), Some((6, 4)));
    sim.connect_peer(2);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), MANY);
    act(&mut sim, "shutdown");
    assert_eq!(sim.peers[&2].notifications.last().map(|n| (n.code, n.subcode)), Some((6, 2)));
    sim.connect_peer(2);
    sim.run(5 * SECOND);
    assert!(!sim.peers[&2].established);
    act(&mut sim, "start");
    sim.connect_peer(2);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), MANY);
    assert_eq!(supervise(&mut sim, 60), [], "an operator's doing is nobody's fault");
}

#[test]
fn who_says_what_was_chosen_counts_at_once_and_who_does_not_after_quiet() {
    for lies in [false, true] {
        let mut config = supervised(3, Strategy::WaitForConsensus);
        config.vote.t_ms = 20_000;
        let mut sim = running(&config);
        sim.run(30 * SECOND);
        sim.kill_instance(1);
        news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
        sim.run(2 * SECOND);
        sim.start_instance(1);
        if lies {
            sim.instances[1].fault.lies_about.insert(prefix(&prefixes()[3]));
        }
        sim.run(5 * SECOND);
        let level = |sim: &Sim| sim.events_of("leg-level").len();
        assert_eq!(level(&sim) > 0, !lies, "T is 20 s");
        sim.run(40 * SECOND);
        assert!(level(&sim) > 0);
        assert!(sim.no_reset() && sim.table(2).values().all(|(_, med)| med.is_none()));
    }
}
