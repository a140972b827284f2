//! Which rule has led to what a peer was told, as `routes` (and `virtctl why`) says it.

mod sim;

use serde_json::{Value, json};
use sim::Sim;
use sim::supervised::{SECOND, lie, prefixes, running, supervised};
use virtd_config::{Config, Strategy};

/// What is said of the first prefix, on which [`lie`] has instances lie, towards the second peer.
fn told(sim: &mut Sim) -> Value {
    let answer = sim.query(json!({ "command": "routes", "prefix": prefixes()[0] }));
    let sessions = answer["sessions"].as_array().expect("sessions");
    sessions.iter().find(|s| s["peer"] == "192.0.2.2").expect("the peer").clone()
}

fn rule(sim: &mut Sim) -> String {
    told(sim)["rule"].as_str().expect("a rule").to_owned()
}

fn router(voters: usize, strategy: Strategy) -> Sim {
    running(&supervised(voters, strategy))
}

#[test]
fn those_who_agree() {
    let mut sim = router(3, Strategy::WaitForConsensus);
    assert_eq!(rule(&mut sim), "unanimous");
    sim.run(20 * SECOND);
    assert!(told(&mut sim)["changed_us"].is_null(), "it is at rest");
    lie(&mut sim, 2, 1);
    sim.run(3 * SECOND);
    assert_eq!(rule(&mut sim), "majority");
    let ago = told(&mut sim)["changed_us"].as_u64().expect("a time");
    assert!((2 * SECOND..4 * SECOND).contains(&ago), "{ago}");
}

#[test]
fn those_who_do_not() {
    let mut sim = router(2, Strategy::WaitForConsensus);
    lie(&mut sim, 1, 1);
    assert_eq!(rule(&mut sim), "kept");
    sim.run(5 * SECOND);
    assert_eq!(rule(&mut sim), "no-majority");
}

#[test]
fn the_masters_word_and_its_end() {
    let mut sim = router(3, Strategy::MasterSlave);
    lie(&mut sim, 0, 1);
    sim.run(SECOND / 10);
    assert_eq!(rule(&mut sim), "master");
    sim.run(5 * SECOND);
    assert_eq!(rule(&mut sim), "overruled");
}

#[test]
fn the_first_k() {
    let config = Config { ..supervised(4, Strategy::FirstK) };
    let mut sim = running(&Config { vote: virtd_config::Vote { k: Some(2), ..config.vote }, ..config });
    lie(&mut sim, 2, 1);
    lie(&mut sim, 3, 1);
    sim.run(SECOND / 10);
    assert_eq!(rule(&mut sim), "first-k");
}

#[test]
fn few_and_nobody() {
    let mut sim = router(3, Strategy::WaitForConsensus);
    sim.kill_instance(1);
    sim.kill_instance(2);
    sim.run(SECOND);
    assert_eq!(rule(&mut sim), "alone");
    sim.kill_instance(0);
    sim.run(SECOND);
    assert_eq!(rule(&mut sim), "nobody-counts");
    let config = supervised(3, Strategy::WaitForConsensus);
    let mut sim = running(&Config { vote: virtd_config::Vote { min_voters: 3, ..config.vote }, ..config });
    sim.kill_instance(2);
    sim.run(SECOND);
    assert_eq!(rule(&mut sim), "too-few-voters");
}
