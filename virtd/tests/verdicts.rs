//! How long is too long: what an instance's dissents must have in common before it is found faulty.

mod sim;

use serde_json::json;
use sim::supervised::{MANY, lie, prefixes, running, supervise, supervised};
use sim::{Sim, prefix};
use virtd::config::Strategy;
use virtd::core::io::Order;

/// Instance 2 is wrong about one prefix after the other, one more every `every_s`, about each for `for_s`.
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
    // one_key_s is 100: never is it without a dissent, and none stands for longer than eight seconds.
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
