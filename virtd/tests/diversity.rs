//! What the figures on the independence of the instances say of faults that are known because they
//! are made here.

mod sim;

use serde_json::{Value, json};
use sim::{LOCAL, OUR_AS, Sim, config, prefix, update};
use virtd_config::{Config, Strategy};

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;
/// Prefixes of peer 1.
const MANY: usize = 20;

fn prefixes() -> Vec<String> {
    (0..MANY).map(|n| format!("198.51.{n}.0/24")).collect()
}

fn announce(sim: &mut Sim, path: &[u32]) {
    let list = prefixes();
    sim.announce(1, &list.iter().map(String::as_str).collect::<Vec<_>>(), path);
}

/// Both peers up; nobody has said anything yet.
fn quiet(config: &Config) -> Sim {
    let mut sim = Sim::new(config);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim
}

fn five() -> Config {
    let mut c = config(5, Strategy::WaitForConsensus);
    c.timers.fault_threshold_ms = 3_600_000;
    c.faults.one_key_ms = 7_200_000;
    c
}

/// The instances lie about so many of the prefixes, with the same lie.
fn lie(sim: &mut Sim, liars: &[usize], about: usize) {
    for i in liars {
        sim.instances[*i].fault.lies_about = prefixes().iter().take(about).map(|p| prefix(p)).collect();
    }
}

fn diversity(sim: &mut Sim) -> Value {
    sim.query(json!({ "command": "diversity", "sessions": true }))
}

fn pair(answer: &Value, a: usize, b: usize) -> Value {
    let names = json!([format!("i{a}"), format!("i{b}")]);
    let found = answer["pairs"].as_array().unwrap().iter().find(|p| p["instances"] == names);
    found.unwrap_or_else(|| panic!("no pair {names} in {answer}")).clone()
}

/// compared, disagreed, contested, together.
fn votes(p: &Value) -> [u64; 4] {
    ["compared", "disagreed", "contested", "together"].map(|key| p[key].as_u64().unwrap())
}

/// common, alike, one only.
fn verdicts(p: &Value) -> [u64; 3] {
    ["common", "alike", "one_only"].map(|key| p["verdicts"][key].as_u64().unwrap())
}

fn reading(answer: &Value) -> &str {
    answer["reading"].as_str().unwrap()
}

#[test]
fn three_that_agree_are_counted_once_for_each_change() {
    let mut sim = quiet(&config(3, Strategy::WaitForConsensus));
    let before = diversity(&mut sim);
    assert_eq!(reading(&before), "nothing has been compared yet");
    assert_eq!(pair(&before, 0, 1)["share"], Value::Null);
    announce(&mut sim, &[64501]);
    sim.run(5 * SECOND);
    announce(&mut sim, &[64501, 64777]);
    sim.run(5 * SECOND);
    let answer = diversity(&mut sim);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let p = pair(&answer, a, b);
        assert_eq!(votes(&p), [2 * MANY as u64, 0, 0, 0], "{p}");
        assert_eq!((verdicts(&p), &p["verdicts"]["common_share"]), ([0; 3], &Value::Null));
        assert_eq!((&p["share"], &p["attributes"]), (&json!(0.0), &json!([])));
    }
    assert!(reading(&answer).starts_with("no disagreement in 40 votes"), "{answer}");
    assert_eq!(answer["least_independent"], Value::Null);
    // An hour later the same, although one went and came back and every key was voted on again.
    sim.kill_instance(2);
    sim.run(5 * SECOND);
    sim.start_instance(2);
    sim.run(60 * SECOND);
    assert_eq!(votes(&pair(&diversity(&mut sim), 0, 1)), [40, 0, 0, 0]);
}

#[test]
fn one_that_is_wrong_alone_is_no_common_failure() {
    let mut sim = quiet(&five());
    lie(&mut sim, &[4], 12);
    announce(&mut sim, &[64501]);
    sim.run(30 * SECOND);
    let answer = diversity(&mut sim);
    assert_eq!(votes(&pair(&answer, 0, 4)), [20, 12, 12, 0]);
    assert_eq!(votes(&pair(&answer, 0, 1)), [20, 0, 12, 12]);
    assert_eq!(verdicts(&pair(&answer, 0, 4)), [0, 0, 12]);
    assert_eq!(verdicts(&pair(&answer, 0, 1)), [0, 0, 0]);
    assert_eq!(pair(&answer, 0, 4)["attributes"], json!([{ "name": "MULTI_EXIT_DISC", "votes": 12 }]));
    assert_eq!(answer["least_independent"], Value::Null);
    assert!(reading(&answer).starts_with("no two have been found wrong together"), "{answer}");
    assert!(sim.events_of("common-failure").is_empty());
}

#[test]
fn two_of_five_that_lie_together_are_the_least_independent() {
    let mut sim = quiet(&five());
    lie(&mut sim, &[1, 3], 12);
    announce(&mut sim, &[64501]);
    sim.run(30 * SECOND);
    assert!(sim.table(2).values().all(|(_, med)| med.is_none()), "the lies are masked");
    let answer = diversity(&mut sim);
    let p = pair(&answer, 1, 3);
    assert_eq!((votes(&p), verdicts(&p)), ([20, 0, 12, 12], [12, 12, 0]));
    assert_eq!(p["verdicts"]["common_share"], 1.0);
    assert_eq!(verdicts(&pair(&answer, 0, 1)), [0, 0, 12]);
    assert_eq!(answer["least_independent"], json!(["i1", "i3"]));
    assert_eq!(answer["pairs"][0], p, "the least independent stand first");
    let expected =
        "least independent: i1 and i3, wrong together in 12 of 12 verdicts on either (with the same route: 12)";
    assert_eq!(reading(&answer), expected);

    let told = sim.events_of("common-failure");
    assert_eq!(told.len(), 1);
    assert!(told[0].text.starts_with("i1 and i3 were wrong on the same prefix"), "{}", told[0].text);
    assert_eq!(told[0].pairs[0].instances, ["i1", "i3"]);
    // Standing still, nothing more is counted or told.
    sim.run(60 * SECOND);
    assert_eq!(diversity(&mut sim)["pairs"], answer["pairs"]);
    assert_eq!(sim.events_of("common-failure").len(), 1);
}

#[test]
fn wrong_together_in_different_ways_is_told_apart() {
    let mut sim = quiet(&five());
    announce(&mut sim, &[64501]);
    sim.run(5 * SECOND);
    let path = [OUR_AS, 64501];
    for (i, med) in [(1, 7), (3, 8)] {
        sim.leg_sends(i, 2, &update(&[prefix("198.51.0.0/24")], &[], &path, LOCAL, Some(med), 0));
    }
    sim.run(10 * SECOND);
    let p = pair(&diversity(&mut sim), 1, 3);
    assert_eq!((votes(&p), verdicts(&p)), ([21, 1, 1, 0], [1, 0, 0]));
    assert!(sim.events_of("common-failure").is_empty(), "once is not often");
    // One recovers and errs again: it joins the other, which is still wrong.
    sim.leg_sends(1, 2, &update(&[prefix("198.51.0.0/24")], &[], &path, LOCAL, None, 0));
    sim.run(10 * SECOND);
    sim.leg_sends(1, 2, &update(&[prefix("198.51.0.0/24")], &[], &path, LOCAL, Some(8), 0));
    sim.run(10 * SECOND);
    let p = pair(&diversity(&mut sim), 1, 3);
    assert_eq!((votes(&p), verdicts(&p)), ([23, 2, 3, 1], [2, 1, 0]));
}

/// With three, two that lie together win; the figures cannot say that they lie, but they say who
/// stands with whom.
#[test]
fn two_of_three_that_lie_together_show_as_standing_together() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.timers.fault_threshold_ms = 3_600_000;
    c.faults.one_key_ms = 7_200_000;
    let mut sim = quiet(&c);
    lie(&mut sim, &[0, 2], 12);
    announce(&mut sim, &[64501]);
    sim.run(30 * SECOND);
    let answer = diversity(&mut sim);
    assert_eq!(votes(&pair(&answer, 0, 2)), [20, 0, 12, 12]);
    assert_eq!(votes(&pair(&answer, 0, 1)), [20, 12, 12, 0]);
    assert_eq!(verdicts(&pair(&answer, 0, 2)), [0, 0, 0]);
    assert_eq!(verdicts(&pair(&answer, 0, 1)), [0, 0, 12]);
    assert_eq!(answer["least_independent"], Value::Null);
    let expected = "of 3 voters two that are wrong together are no minority, so no verdict can find them; \
                    i0 and i2 stood together most often, right or wrong: in 12 of 12 contested votes";
    assert_eq!(reading(&answer), expected);
}

#[test]
fn observers_are_compared_too() {
    let mut c = config(4, Strategy::WaitForConsensus);
    c.instances[3].observer = true;
    c.timers.fault_threshold_ms = 3_600_000;
    c.faults.one_key_ms = 7_200_000;
    let mut sim = quiet(&c);
    lie(&mut sim, &[2, 3], 12);
    announce(&mut sim, &[64501]);
    sim.run(30 * SECOND);
    let answer = diversity(&mut sim);
    assert_eq!(verdicts(&pair(&answer, 2, 3)), [12, 12, 0]);
    assert_eq!(answer["least_independent"], json!(["i2", "i3"]));
}

#[test]
fn a_missing_message_counts_as_a_difference_of_its_own() {
    let mut sim = quiet(&config(3, Strategy::WaitForConsensus));
    sim.instances[2].fault.hides.insert(prefix("198.51.0.0/24"));
    announce(&mut sim, &[64501]);
    sim.run(30 * SECOND);
    let p = pair(&diversity(&mut sim), 0, 2);
    assert_eq!(votes(&p), [20, 1, 1, 0]);
    assert_eq!(p["attributes"], json!([{ "name": "route or none", "votes": 1 }]));
}

#[test]
fn each_session_has_its_own_figures() {
    let mut sim = quiet(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(3);
    sim.run(SECOND);
    announce(&mut sim, &[64501]);
    sim.run(5 * SECOND);
    sim.leg_sends(1, 3, &update(&[prefix("198.51.0.0/24")], &[], &[OUR_AS, 64501], LOCAL, Some(5), 0));
    sim.run(10 * SECOND);
    let answer = diversity(&mut sim);
    assert_eq!(votes(&pair(&answer, 0, 1)), [41, 1, 1, 0]);
    let of = |peer: &str| {
        let found = answer["sessions"].as_array().unwrap().iter().find(|s| s["peer"] == peer);
        votes(&pair(found.unwrap(), 0, 1))
    };
    assert_eq!((of("192.0.2.2"), of("192.0.2.3")), ([20, 0, 0, 0], [21, 1, 1, 0]));
    assert!(sim.query(json!({ "command": "diversity" }))["sessions"].is_null());
    assert!(sim.query(json!({ "command": "status" }))["memory"]["figures_bytes"].as_u64() > Some(0));
}

#[test]
fn once_an_hour_the_figures_are_told_where_there_are_any() {
    let mut sim = quiet(&five());
    sim.run(HOUR);
    assert!(sim.events_of("diversity").is_empty(), "nothing was compared");
    lie(&mut sim, &[1, 3], 5);
    announce(&mut sim, &[64501]);
    sim.run(HOUR);
    sim.run(HOUR);
    let told = sim.events_of("diversity");
    assert_eq!(told.len(), 1, "nothing new in the second hour");
    assert!(told[0].text.starts_with("least independent: i1 and i3, wrong together in 5 of 5"), "{}", told[0].text);
    assert_eq!(told[0].pairs.len(), 10);
    assert_eq!(told[0].pairs[0].verdicts.common, 5);
}
