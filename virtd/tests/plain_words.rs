//! What the core tells is so, and is told once: observers that cannot take part, what `virtctl` is
//! answered.

mod sim;

use broker::event::Severity;
use serde_json::json;
use sim::supervised::{MANY, lie, running, supervised};
use sim::{Sim, config, open, our_open};
use std::net::Ipv4Addr;
use virtd_config::{Config, Strategy};
use wire::bgp::Notification;

const SECOND: u64 = 1_000_000;

/// Three voters and an observer, i3.
fn with_observer() -> Config {
    let mut config = config(4, Strategy::WaitForConsensus);
    config.instances[3].observer = true;
    config.timers.fault_threshold_ms = 5_000;
    config
}

/// What was told with more than `info` about one instance.
fn told(sim: &Sim, name: &str) -> Vec<(&'static str, Severity)> {
    let of = sim.events.iter().filter(|e| e.instance.as_deref() == Some(name) && e.severity > Severity::Info);
    of.map(|e| (e.kind, e.severity)).collect()
}

#[test]
fn an_observer_of_another_as_number_is_told_once_as_a_warning() {
    let mut sim = Sim::new(&with_observer());
    sim.offers.insert((3, 1), open(64999, Ipv4Addr::new(10, 9, 9, 9), 90));
    sim.connect_peer(1);
    sim.run(120 * SECOND);
    assert!(sim.peers[&1].established && sim.no_reset());
    assert_eq!(told(&sim, "i3"), [("leg-refused", Severity::Warning)]);
    // A voter is missed.
    sim.offers.insert((0, 1), open(64998, Ipv4Addr::new(10, 9, 9, 9), 90));
    sim.kill_instance(0);
    sim.restart_instance(0);
    sim.run(30 * SECOND);
    assert_eq!(sim.events_of("leg-refused").last().map(|e| e.severity), Some(Severity::Alarm));
    // Once it says something else that is told, too.
    sim.offers.insert((3, 1), open(64997, Ipv4Addr::new(10, 9, 9, 9), 90));
    sim.kill_instance(3);
    sim.restart_instance(3);
    sim.run(60 * SECOND);
    assert_eq!(sim.events_of("leg-refused").iter().filter(|e| e.instance.as_deref() == Some("i3")).count(), 2);
}

#[test]
fn an_observer_whose_open_is_invalid_is_told_once_as_a_warning() {
    let mut sim = Sim::new(&with_observer());
    // RFC 4271 section 4.2: 0, or at least 3.
    sim.offers.insert((3, 1), open(64500, Ipv4Addr::new(10, 9, 9, 9), 1));
    sim.connect_peer(1);
    sim.run(180 * SECOND);
    assert!(sim.peers[&1].established && sim.no_reset());
    assert_eq!(told(&sim, "i3"), [("leg-fault", Severity::Warning)]);
    // It takes part, and then does it again: that is news.
    sim.offers.insert((3, 1), our_open());
    sim.run(60 * SECOND);
    assert_eq!(sim.instances[3].legs(), [1]);
    sim.offers.insert((3, 1), open(64500, Ipv4Addr::new(10, 9, 9, 9), 1));
    sim.kill_instance(3);
    sim.restart_instance(3);
    sim.run(60 * SECOND);
    assert_eq!(sim.events_of("leg-fault").len(), 2);
}

#[test]
fn an_observer_that_stays_away_is_told_once_as_a_warning_and_never_ended() {
    let mut sim = Sim::new(&with_observer());
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(20 * SECOND);
    // No will of its own: a fault of the leg, after which it does not come back.
    sim.leave(3, 1, Some(Notification::new(5, 0)));
    sim.leave(3, 2, Some(Notification::new(5, 0)));
    sim.run(300 * SECOND);
    let absent = |sim: &Sim| {
        let of = sim.events_of("instance-absent");
        of.iter().map(|e| e.severity).collect::<Vec<_>>()
    };
    assert_eq!(absent(&sim), [Severity::Warning; 2], "once for each session");
    assert!(sim.events_of("instance-faulty").is_empty(), "{:?}", told(&sim, "i3"));
    assert!(sim.orders.is_empty() && sim.no_reset());
    // Back and away again: told again.
    sim.instances[3].fault.refuses.clear();
    sim.run(60 * SECOND);
    assert_eq!(sim.instances[3].legs(), [1, 2]);
    sim.leave(3, 1, Some(Notification::new(5, 0)));
    sim.run(60 * SECOND);
    assert_eq!(absent(&sim), [Severity::Warning; 3]);
}

#[test]
fn differs_lists_who_says_what_otherwise() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    let nothing = json!({ "differs": [], "more": 0, "all_were_looked_at": true, "without_majority": 0 });
    assert_eq!(sim.query(json!({"command": "differs"})), nothing);
    lie(&mut sim, 2, 7);
    sim.run(15 * SECOND);
    let answer = sim.query(json!({"command": "differs"}));
    let list = answer["differs"].as_array().cloned().unwrap_or_default();
    assert_eq!((list.len(), &answer["more"]), (7, &json!(0)), "{answer}");
    let told = json!({ "instance": "i2", "in": ["MULTI_EXIT_DISC"], "counted": true });
    let first = json!({ "peer": "192.0.2.2", "prefix": "198.51.0.0/24", "majority": true, "instances": [told] });
    assert_eq!(list[0], first);
    assert_eq!(sim.query(json!({"command": "differs", "instance": "i2"})), answer);
    assert_eq!(sim.query(json!({"command": "differs", "instance": "i0"})), nothing);
    let few = sim.query(json!({"command": "differs", "n": 3}));
    assert_eq!((few["differs"].as_array().map(Vec::len), &few["more"]), (Some(3), &json!(4)));
    let unknown = sim.query(json!({"command": "differs", "instance": "i9"}));
    assert_eq!(unknown["error"], "there is no instance \"i9\": there are i0, i1, i2");
}

#[test]
fn an_address_is_looked_up_by_the_longest_prefix_that_is_known() {
    let mut sim = running(&supervised(3, Strategy::WaitForConsensus));
    assert_eq!(MANY, 20);
    sim.announce(1, &["198.51.0.0/16", "198.51.7.128/25"], &[64501]);
    sim.run(5 * SECOND);
    let ask = |sim: &mut Sim, what: &str| sim.query(json!({"command": "routes", "prefix": what}))["prefix"].clone();
    for (asked, found) in [
        ("198.51.7.200", json!("198.51.7.128/25")),
        ("198.51.7.1", json!("198.51.7.0/24")),
        ("198.51.200.1", json!("198.51.0.0/16")),
        ("203.0.113.1", json!(null)),
        ("2001:db8::1", json!(null)),
        // With a length it is that very prefix, known or not.
        ("198.51.7.200/32", json!("198.51.7.200/32")),
    ] {
        assert_eq!(ask(&mut sim, asked), found, "{asked}");
    }
    let answer = sim.query(json!({"command": "routes", "prefix": "198.51.7.200"}));
    assert_eq!((&answer["asked"], answer["sessions"].as_array().map(Vec::len)), (&json!("198.51.7.200"), Some(1)));
    // What is gone is known no more.
    sim.withdraw(1, &["198.51.7.128/25"]);
    sim.run(15 * SECOND);
    assert_eq!(ask(&mut sim, "198.51.7.200"), json!("198.51.7.0/24"));
}
