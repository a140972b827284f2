//! Who votes in the place of a voter that falls, under the virtual clock.

mod sim;

use broker::io::{Order, ProcessNews};
use serde_json::{Value, json};
use sim::Sim;
use sim::supervised::{MANY, SECOND, lie, news, obey, running, said, supervise, supervised};
use virtd_config::{Config, Standby, Strategy};

fn instances(sim: &mut Sim) -> Value {
    sim.query(json!({"command": "instances"}))["instances"].clone()
}

fn role(sim: &mut Sim, i: usize) -> String {
    instances(sim)[i]["role"].as_str().expect("a role").to_owned()
}

/// Three voters and so many standbys of one sort.
fn with_standbys(n: usize, standby: Standby) -> Config {
    let mut config = supervised(3 + n, Strategy::MasterSlave);
    config.instances[3..].iter_mut().for_each(|i| i.standby = Some(standby));
    config
}

#[test]
fn a_voter_that_something_else_starts_is_replaced_once_it_is_gone_for_good() {
    for standby in [Standby::Warm, Standby::Cold] {
        let mut config = with_standbys(1, standby);
        config.instances[0].command.clear();
        let mut sim = running(&config);
        if standby == Standby::Cold {
            sim.kill_instance(3);
            news(&mut sim, 3, ProcessNews::Ended { unasked: true, text: "has exited".into() });
        }
        sim.kill_instance(0);
        supervise(&mut sim, 15);
        assert_eq!(role(&mut sim, 0), "voter", "it may come back: the threshold is 20 s");
        let orders = supervise(&mut sim, 30);
        assert_eq!(orders, if standby == Standby::Cold { vec![(3, Order::Start)] } else { vec![] });
        assert_eq!((role(&mut sim, 0), role(&mut sim, 3)), ("warm-standby".into(), "voter".into()));
        assert_eq!(instances(&mut sim)[3]["state"], "voting");
        assert_eq!(said(&sim, "instance-promoted").len(), 1);
        // It comes back at the end of the line: fed and compared, without a vote, and not as
        // master.
        sim.start_instance(0);
        supervise(&mut sim, 10);
        assert_eq!(instances(&mut sim)[0]["state"], "standby");
        lie(&mut sim, 0, MANY);
        supervise(&mut sim, 5);
        assert!(sim.table(2).values().all(|(path, med)| med.is_none() && path.len() == 3) && sim.no_reset());
    }
}

#[test]
fn a_voter_that_something_else_starts_is_replaced_once_it_is_found_faulty() {
    let mut config = with_standbys(1, Standby::Warm);
    config.instances[2].command.clear();
    let mut sim = running(&config);
    lie(&mut sim, 2, MANY);
    assert_eq!(supervise(&mut sim, 40), [], "nobody here can end it");
    assert!(said(&sim, "instance-faulty")[0].1.contains("virtd did not start it"));
    assert_eq!((role(&mut sim, 2), role(&mut sim, 3)), ("warm-standby".into(), "voter".into()));
    // As long as it is found faulty, it is nobody's substitute.
    sim.kill_instance(1);
    news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    assert_eq!((role(&mut sim, 1), role(&mut sim, 2)), ("voter".into(), "warm-standby".into()));
    assert!(sim.no_reset());
}

#[test]
fn pinned_or_in_the_middle_of_a_change_it_keeps_its_vote() {
    let mut config = with_standbys(1, Standby::Warm);
    config.instances[2].command.clear();
    let mut sim = running(&config);
    sim.query(json!({"command": "instance", "name": "i2", "action": "pin"}));
    lie(&mut sim, 2, MANY);
    supervise(&mut sim, 60);
    assert_eq!(role(&mut sim, 2), "voter");
    sim.query(json!({"command": "instance", "name": "i2", "action": "unpin"}));
    supervise(&mut sim, 60);
    assert_eq!(role(&mut sim, 2), "warm-standby");
}

#[test]
fn of_two_warm_standbys_the_one_that_is_level_is_taken() {
    let mut sim = running(&with_standbys(2, Standby::Warm));
    // The first is attached, and no more than that.
    sim.kill_instance(3);
    sim.input(broker::io::Input::InstanceAttached { instance: broker::io::InstanceId(3), pid: 300 });
    sim.run(SECOND);
    sim.kill_instance(0);
    news(&mut sim, 0, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    assert_eq!((role(&mut sim, 3), role(&mut sim, 4)), ("warm-standby".into(), "voter".into()));
}

#[test]
fn a_voter_that_was_given_up_is_replaced_when_a_standby_comes() {
    let mut config = with_standbys(1, Standby::Warm);
    config.faults.restart_limit = 1;
    let mut sim = running(&config);
    sim.kill_instance(3);
    sim.kill_instance(1);
    for _ in 0..2 {
        news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGABRT".into() });
        sim.run(5 * SECOND);
    }
    assert_eq!((said(&sim, "instance-given-up").len(), role(&mut sim, 1)), (1, "voter".into()));
    sim.start_instance(3);
    sim.run(5 * SECOND);
    assert_eq!((role(&mut sim, 1), role(&mut sim, 3)), ("warm-standby".into(), "voter".into()));
}

#[test]
fn a_disabled_instance_is_not_restarted() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    let act = |sim: &mut Sim, action: &str| sim.query(json!({"command": "instance", "name": "i1", "action": action}));
    act(&mut sim, "disable");
    assert_eq!(obey(&mut sim), [(1, Order::Stop)]);
    assert!(act(&mut sim, "restart")["error"].as_str().is_some_and(|e| e.contains("enable")));
    assert_eq!(supervise(&mut sim, 20), []);
    act(&mut sim, "enable");
    assert_eq!(supervise(&mut sim, 20), [(1, Order::Start)]);
}

#[test]
fn an_order_that_nothing_follows_is_given_again() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    sim.query(json!({"command": "instance", "name": "i1", "action": "restart"}));
    assert_eq!(std::mem::take(&mut sim.orders), [(1, Order::Stop)], "lost on its way");
    sim.run(9 * SECOND);
    assert_eq!(sim.orders, []);
    sim.run(2 * SECOND);
    sim.kill_instance(1);
    news(&mut sim, 1, ProcessNews::Ended { unasked: false, text: "was ended by SIGTERM".into() });
    sim.run(5 * SECOND);
    assert_eq!(std::mem::take(&mut sim.orders), [(1, Order::Stop), (1, Order::Start)], "the start is lost as well");
    assert_eq!(supervise(&mut sim, 30), [(1, Order::Start)], "once more, and no more after that");
    assert_eq!(instances(&mut sim)[1]["state"], "voting");
}

#[test]
fn whoever_was_killed_a_moment_ago_can_be_the_next_substitute() {
    let mut sim = running(&with_standbys(1, Standby::Warm));
    lie(&mut sim, 2, MANY);
    while said(&sim, "instance-faulty").is_empty() {
        supervise(&mut sim, 1);
    }
    supervise(&mut sim, 5);
    assert_eq!((role(&mut sim, 2), role(&mut sim, 3)), ("warm-standby".into(), "voter".into()));
    // The verdict on it is younger than the threshold; but it is a new process.
    sim.kill_instance(1);
    news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "was ended by SIGSEGV".into() });
    assert_eq!((role(&mut sim, 1), role(&mut sim, 2)), ("warm-standby".into(), "voter".into()));
}
