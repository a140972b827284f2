//! A difference that comes back the same after a restart: told once as what it is, and nobody is
//! killed for it again.

mod sim;

use broker::event::Severity;
use broker::io::{Order, ProcessNews};
use serde_json::json;
use sim::supervised::{MANY, SECOND, lie, news, obey, prefixes, running, supervise, supervised, without_standby};
use sim::{Sim, prefix};
use virtd_config::{Actions, Fault, FaultAction, Standby, Strategy};

const KILLED: [(u8, Order); 2] = [(2, Order::Kill), (2, Order::Start)];

/// Lets time pass; instance 2 is wrong about so many prefixes in the same way whenever it comes
/// back.
fn stubborn(sim: &mut Sim, about: usize, seconds: u64) -> Vec<(u8, Order)> {
    let mut all = Vec::new();
    for _ in 0..seconds * 10 {
        sim.run(SECOND / 10);
        let orders = obey(sim);
        if orders.contains(&(2, Order::Start)) {
            sim.instances[2].fault.lies_about.extend(prefixes().iter().take(about).map(|p| prefix(p)));
        }
        all.extend(orders);
    }
    all
}

/// A router whose instance 2 was killed for a difference, came back with it, and was told of.
fn told(strategy: Strategy) -> Sim {
    let mut sim = running(&supervised(3, strategy));
    lie(&mut sim, 2, MANY);
    assert_eq!(stubborn(&mut sim, MANY, 90), KILLED, "{strategy:?}: {:?}", sim.events_of("instance-faulty"));
    assert_eq!(sim.events_of("instance-faulty").len(), 1);
    assert_eq!(sim.events_of("instance-differs-again").len(), 1);
    sim
}

#[test]
fn what_a_restart_does_not_cure_is_told_once_and_left_running() {
    for strategy in [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK]
    {
        let mut sim = told(strategy);
        let event = sim.events_of("instance-differs-again")[0].clone();
        assert_eq!((event.severity, event.instance.as_deref()), (Severity::Alarm, Some("i2")));
        assert!(event.text.contains("on 20 prefixes (198.51.0.0/24, "), "{}", event.text);
        assert!(event.text.contains(") in MULTI_EXIT_DISC: "), "{}", event.text);
        assert_eq!(event.said.len(), 3, "what every instance says stands in it");
        assert!(event.prefix.is_some() && event.session.as_deref() == Some("192.0.2.2"));
        // Not again, however long it lasts.
        assert_eq!(stubborn(&mut sim, MANY, 300), [], "{strategy:?}");
        assert_eq!(sim.events_of("instance-differs-again").len(), 1);
        assert_eq!(sim.events_of("instance-faulty").len(), 1);
        assert!(sim.table(2).values().all(|(_, med)| med.is_none()) && sim.no_reset(), "outvoted");
        let instances = sim.query(json!({"command": "instances"}));
        assert_eq!(
            (&instances["instances"][2]["state"], instances["instances"][2]["dissents_now"].as_u64()),
            (&json!("voting"), Some(MANY as u64))
        );
    }
}

#[test]
fn what_hangs_is_ended_all_the_same() {
    let mut sim = told(Strategy::WaitForConsensus);
    sim.instances[2].fault.mute = true;
    assert_eq!(stubborn(&mut sim, MANY, 40), KILLED);
    assert!(sim.events_of("instance-faulty")[1].text.contains("hangs"));
}

#[test]
fn another_difference_is_another_fault() {
    let mut sim = told(Strategy::WaitForConsensus);
    // It says nothing of them now, where it said something else.
    sim.instances[2].fault.lies_about.clear();
    sim.instances[2].fault.hides.extend(prefixes().iter().map(|p| prefix(p)));
    let list = prefixes();
    sim.announce(1, &list.iter().map(String::as_str).collect::<Vec<_>>(), &[64501, 64998]);
    assert_eq!(supervise(&mut sim, 100), KILLED);
    assert_eq!(sim.events_of("instance-faulty").len(), 2);
    assert_eq!(sim.events_of("instance-differs-again").len(), 1, "and was cured");
    assert_eq!(sim.query(json!({"command": "instances"}))["instances"][2]["dissents_now"], 0);
}

#[test]
fn wrong_about_others_after_the_restart_is_no_lasting_difference() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    lie(&mut sim, 2, MANY / 2);
    assert_eq!(supervise(&mut sim, 30), KILLED);
    sim.instances[2].fault.lies_about.extend(prefixes().iter().skip(MANY / 2).map(|p| prefix(p)));
    let list = prefixes();
    sim.announce(1, &list.iter().map(String::as_str).collect::<Vec<_>>(), &[64501, 64997]);
    assert_eq!(supervise(&mut sim, 60), KILLED);
    assert!(sim.events_of("instance-differs-again").is_empty());
}

#[test]
fn an_operator_who_restarts_it_has_it_judged_anew() {
    for request in [
        &[json!({"command": "instance", "name": "i2", "action": "restart"})][..],
        &[json!({"command": "change", "action": "begin"}), json!({"command": "change", "action": "commit"})],
    ] {
        let mut sim = told(Strategy::WaitForConsensus);
        for request in request {
            assert!(sim.query(request.clone())["done"].is_string());
        }
        stubborn(&mut sim, MANY, 150);
        assert_eq!(sim.events_of("instance-faulty").len(), 2, "{request:?}");
        assert_eq!(sim.events_of("instance-differs-again").len(), 2, "{request:?}");
        assert_eq!(stubborn(&mut sim, MANY, 150), []);
    }
}

#[test]
fn a_standby_that_comes_takes_its_place_and_it_stays_running() {
    let mut sim = without_standby(Standby::Warm);
    lie(&mut sim, 2, MANY);
    assert_eq!(stubborn(&mut sim, MANY, 90), KILLED);
    assert_eq!(sim.events_of("instance-differs-again").len(), 1);
    assert!(sim.events_of("instance-promoted").is_empty(), "nobody is there");
    news(&mut sim, 3, ProcessNews::Started { pid: 103 });
    sim.start_instance(3);
    assert_eq!(stubborn(&mut sim, MANY, 200), []);
    let instances = sim.query(json!({"command": "instances"}));
    assert_eq!(
        (&instances["instances"][3]["role"], &instances["instances"][3]["state"]),
        (&json!("voter"), &json!("voting"))
    );
    assert_eq!(
        (&instances["instances"][2]["role"], &instances["instances"][2]["attached"]),
        (&json!("warm-standby"), &json!(true))
    );
    // Nobody is replaced by one that is known to be wrong.
    sim.kill_instance(0);
    news(&mut sim, 0, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    assert_eq!(stubborn(&mut sim, MANY, 10), [(0, Order::Start)]);
    assert_eq!(sim.events_of("instance-promoted").len(), 1);
}

#[test]
fn what_follows_from_a_verdict_depends_on_the_kind_of_the_fault() {
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.faults.action = Actions::default().with(Fault::Wrong, FaultAction::Report);
    let mut sim = running(&config);
    lie(&mut sim, 2, MANY);
    assert_eq!(supervise(&mut sim, 30), []);
    assert!(sim.events_of("instance-faulty")[0].text.ends_with("reported only (faults.action)"));
    sim.instances[1].fault.mute = true;
    assert_eq!(supervise(&mut sim, 40), [(1, Order::Kill), (1, Order::Start)], "a hang is another matter");
}
