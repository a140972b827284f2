//! What each command answers and what events look like, as JSON: names, nesting, units, and what is
//! null or left out.

#[path = "fib/world.rs"]
mod fib;
mod form;
mod sim;

use broker::io::{ConnId, Death, Input, ProcessNews};
use form::assert_form;
use serde_json::{Value, json};
use sim::supervised::{SECOND, lie, news, running, supervised};
use sim::{LOCAL, Sim, peer_addr};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use virtd_config::{Kind, OpenMode, Strategy};
use virtd_linux::eventlog;
use wire::bgp::Notification;

/// Four instances, the last an observer; virtd knows everything of the first, as it starts it by
/// its kind.
fn router() -> Sim {
    let mut config = supervised(4, Strategy::WaitForConsensus);
    config.instances[0].kind = Some(Kind::Bird);
    config.instances[3].observer = true;
    let mut sim = running(&config);
    news(&mut sim, 0, ProcessNews::Version { version: "2.0.12".into() });
    news(&mut sim, 0, ProcessNews::Usage { cpu_permille: 125, rss_kib: 20_000 });
    sim
}

/// Two voters lie about three prefixes with the same lie; one that lies has left a session.
fn disturbed() -> Sim {
    let mut sim = router();
    lie(&mut sim, 2, 3);
    lie(&mut sim, 3, 2);
    sim.run(15 * SECOND);
    sim.leave(2, 1, Some(Notification::new(6, 1)));
    sim.run(SECOND);
    sim
}

fn ask(sim: &mut Sim, name: &str, request: Value) {
    let answer = sim.query(request);
    assert_form(name, &answer);
}

#[test]
fn answers_to_questions() {
    let mut sim = disturbed();
    sim.connect_peer(3);
    ask(&mut sim, "status", json!({ "command": "status" }));
    ask(&mut sim, "sessions", json!({ "command": "sessions" }));
    ask(&mut sim, "session", json!({ "command": "session", "peer": "192.0.2.1", "action": null }));
    ask(&mut sim, "instances", json!({ "command": "instances" }));
    ask(&mut sim, "routes", json!({ "command": "routes", "prefix": "198.51.0.0/24" }));
    ask(&mut sim, "routes_of_address", json!({ "command": "routes", "prefix": "198.51.9.1" }));
    ask(&mut sim, "routes_of_nothing", json!({ "command": "routes", "prefix": "2001:db8::1" }));
    ask(&mut sim, "differs", json!({ "command": "differs", "instance": null, "n": 2 }));
    ask(&mut sim, "diversity", json!({ "command": "diversity" }));
    ask(&mut sim, "diversity_of_sessions", json!({ "command": "diversity", "sessions": true }));
    ask(&mut sim, "refused", json!({ "command": "differs", "instance": "i9" }));
    let words = json!({ "name": "i0", "words": ["show", "status"] });
    ask(&mut sim, "exec", json!({ "command": "instances", "exec": words }));
}

#[test]
fn answers_about_what_has_ended() {
    let mut sim = router();
    news(&mut sim, 1, ProcessNews::Died { death: Death::Crash });
    (0..3).for_each(|i| sim.leave(i, 1, Some(Notification::new(6, 2))));
    sim.run(SECOND);
    ask(&mut sim, "sessions_ended", json!({ "command": "sessions" }));
    ask(&mut sim, "instances_after_a_death", json!({ "command": "instances" }));
    ask(&mut sim, "no_session", json!({ "command": "session", "peer": "192.0.2.9" }));
}

#[test]
fn answers_to_orders() {
    let mut sim = router();
    ask(&mut sim, "instance_drain", json!({ "command": "instance", "name": "i2", "action": "drain" }));
    ask(&mut sim, "instance_refused", json!({ "command": "instance", "name": "i2", "action": "fly" }));
    ask(&mut sim, "session_shutdown", json!({ "command": "session", "peer": "192.0.2.1", "action": "shutdown" }));
    ask(&mut sim, "change_begin", json!({ "command": "change", "action": "begin" }));
    ask(&mut sim, "status_in_change", json!({ "command": "status" }));
    let mut config = supervised(3, Strategy::WaitForConsensus);
    config.router_id = Some([192, 0, 2, 7].into());
    assert_form("reload", &sim.reload(&config));
}

#[test]
fn answers_of_a_native_router() {
    let mut config = sim::config(1, Strategy::WaitForConsensus);
    config.open = OpenMode::Native;
    let mut sim = Sim::new(&config);
    let (peer, local) = (peer_addr(1), SocketAddr::new(LOCAL.into(), 179));
    sim.input(Input::PeerAccepted { conn: ConnId(1), peer, local });
    ask(&mut sim, "status_native", json!({ "command": "status" }));
    ask(&mut sim, "sessions_native", json!({ "command": "sessions" }));
    ask(&mut sim, "session_native", json!({ "command": "session", "peer": "192.0.2.1" }));
}

#[test]
fn answers_about_the_fib() {
    const P: &str = "198.51.100.0/24";
    let mut w = fib::World::new(&fib::config(3, Strategy::WaitForConsensus));
    for p in [P, "203.0.113.0/24"] {
        (0..3).for_each(|i| w.add(i, p, &["10.0.2.2"]));
    }
    w.run(3 * fib::T);
    w.add(1, P, &["10.0.3.2"]);
    w.run(3 * fib::T);
    assert_form("fib", &w.fib());
    assert_form("fib_diff", &w.query(&json!({ "command": "fib", "prefix": null, "diff": true })));
    assert_form("fib_all", &w.query(&json!({ "command": "fib", "prefix": "all", "diff": false })));
    assert_form("fib_none", &w.query(&json!({ "command": "fib", "prefix": "192.0.2.0/24" })));
    assert_form("fib_flush_refused", &w.query(&json!({ "command": "fib", "flush": true, "protocol": null })));
}

/// One of each set of fields that there is.
#[test]
fn events() {
    let mut sim = disturbed();
    sim.query(json!({ "command": "instance", "name": "i1", "action": "pin" }));
    sim.run(3_700 * SECOND);
    let (sender, log, thread) = eventlog::start(None).expect("a thread");
    let mut seen = BTreeSet::new();
    for event in &sim.events {
        let Value::Object(fields) = serde_json::to_value(event).expect("JSON") else { panic!("{event:?}") };
        if seen.insert(fields.keys().cloned().collect::<Vec<_>>()) {
            sender.send(event.clone());
        }
    }
    drop(sender);
    thread.join().expect("the log has ended");
    assert!(log.after(0, Duration::ZERO).closed);
    let lines = log.last(99, None);
    let list: Vec<Value> = lines.iter().map(|r| serde_json::from_str(&r.json).expect("JSON")).collect();
    assert_form("events", &json!({ "events": list }));
}
