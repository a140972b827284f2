//! How long is too long: what an instance's dissents must have in common before it is found faulty.

mod sim;

use broker::io::Order;
use serde_json::json;
use sim::supervised::{MANY, lie, prefixes, running, supervise, supervised};
use sim::{Sim, prefix};
use virtd_config::Strategy;

/// Instance 2 is wrong about one prefix after the other, one more every `every_s`, about each for
/// `for_s`.
fn wrong_by_turns(sim: &mut Sim, every_s: u64, for_s: u64, seconds: u64) {
    let list = prefixes();
    let say = |sim: &mut Sim, n: u64, lies: bool| {
        let about = &list[n as usize % list.len()];
        match lies {
            true => sim.instances[2].fault.lies_about.insert(prefix(about)),
            false => sim.instances[2].fault.lies_about.remove(&prefix(about)),
        };
        sim.announce(1, &[about], &[64501, 64999 + u32::from(lies)]);
    };
    for second in 0..seconds {
        if second.is_multiple_of(every_s) {
            say(sim, second / every_s, true);
        }
        if second >= for_s && (second - for_s).is_multiple_of(every_s) {
            say(sim, (second - for_s) / every_s, false);
        }
        assert_eq!(supervise(sim, 1), [], "after {second} s: {:?}", sim.events_of("instance-faulty"));
    }
}

fn dissents(sim: &mut Sim) -> u64 {
    sim.query(json!({"command": "instances"}))["instances"][2]["dissents_now"].as_u64().expect("a number")
}

#[test]
fn short_dissents_on_ever_other_prefixes_do_not_add_up() {
    // one_key_s is 100: never is it without a dissent, and none stands for longer than eight
    // seconds.
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    wrong_by_turns(&mut sim, 4, 8, 150);
    assert!(sim.events_of("disagreement").len() > 30 && dissents(&mut sim) > 0);
    // One that stays is too long after 100 s, and is the one that is named.
    sim.instances[2].fault.lies_about.clear();
    lie(&mut sim, 2, 1);
    assert_eq!(supervise(&mut sim, 80), []);
    assert_eq!(supervise(&mut sim, 40).first(), Some(&(2, Order::Kill)));
    let verdicts = sim.events_of("instance-faulty");
    assert_eq!(verdicts[0].prefix, Some(prefix(&prefixes()[0])));
    let since = verdicts[0].since_us.expect("since when");
    assert!((99..105).contains(&((verdicts[0].at_us - since) / 1_000_000)), "{verdicts:?}");
    let told = sim.events_of("disagreement");
    let last = told.last().expect("a disagreement");
    assert!(
        last.since_us.is_some_and(|since| (1_000_000..2_000_000).contains(&(last.at_us - since))),
        "T is 1 s: {last:?}"
    );
}

#[test]
fn many_short_dissents_are_not_many_long_ones() {
    // min_keys is 10 and the threshold 20 s: fourteen stand at any time, none for twenty seconds.
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    wrong_by_turns(&mut sim, 1, 14, 90);
    assert!(dissents(&mut sim) >= 10);
    lie(&mut sim, 2, MANY);
    assert_eq!(supervise(&mut sim, 40).first(), Some(&(2, Order::Kill)));
}

/// Two of which nobody can say who is right: the master drives, as alone, and the operator is told
/// what is out. A new route is not withheld because the other one is wrong. Under any other
/// strategy the two must agree.
#[test]
fn of_two_the_master_drives_and_the_operator_is_told() {
    for (strategy, out, text) in [
        (Strategy::MasterSlave, true, "what i0, the master, says is published"),
        (Strategy::WaitForConsensus, false, "what was published stays"),
        (Strategy::ContinuousMajority, false, "what was published stays"),
        (Strategy::FirstK, false, "what was published stays"),
    ] {
        let mut sim = running(&supervised(2, strategy));
        lie(&mut sim, 0, 1);
        supervise(&mut sim, 5);
        let lied = prefix(&prefixes()[0]);
        assert_eq!(sim.table(2)[&lied].1.is_some(), out, "{strategy:?}");
        let told = sim.events_of("no-quorum");
        assert!(!told.is_empty() && told.iter().all(|e| e.text.ends_with(text)), "{strategy:?}: {told:?}");
        let routes = sim.query(json!({"command": "routes", "prefix": prefixes()[0]}));
        assert!(routes.to_string().contains(text), "{routes}");
        // The other one is wrong: what the master says goes out all the same, and stays.
        let mut sim = running(&supervised(2, strategy));
        sim.instances[1].fault.hides.insert(prefix("203.0.113.0/24"));
        sim.announce(1, &["203.0.113.0/24"], &[64501]);
        supervise(&mut sim, 30);
        assert_eq!(sim.table(2).contains_key(&prefix("203.0.113.0/24")), out, "{strategy:?}");
    }
}
