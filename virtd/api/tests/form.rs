//! The types have the form of the samples, which are what a running virtd has answered
//! (`virtd/tests/control_form.rs`): what is read from one and written again is the sample, so that
//! no field of it is unknown, missing or otherwise.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use virtd_api::*;

fn samples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/form")
}

fn same<T: Serialize + DeserializeOwned>(name: &str) {
    let text = std::fs::read_to_string(samples().join(name).with_extension("json")).expect("a sample");
    let sample: Value = serde_json::from_str(&text).expect("JSON");
    let read: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(serde_json::to_value(read).expect("JSON"), sample, "{name}");
}

#[test]
fn what_is_read_from_a_sample_is_the_sample() {
    type Check = fn(&str);
    let all: [(&str, Check); 31] = [
        ("status", same::<Status>),
        ("status_native", same::<Status>),
        ("status_in_change", same::<Status>),
        ("sessions", same::<Sessions>),
        ("sessions_ended", same::<Sessions>),
        ("sessions_native", same::<NativeSessions>),
        ("session", same::<OneSession>),
        ("instances", same::<Instances>),
        ("instances_after_a_death", same::<Instances>),
        ("exec", same::<Instances>),
        ("routes", same::<Routes>),
        ("routes_of_address", same::<Routes>),
        ("routes_of_nothing", same::<Routes>),
        ("differs", same::<Differs>),
        ("fib", same::<Fib>),
        ("fib_with_driver", same::<Fib>),
        ("fib_diff", same::<FibEntries>),
        ("fib_all", same::<FibEntries>),
        ("fib_none", same::<FibEntries>),
        ("diversity", same::<Diversity>),
        ("diversity_of_sessions", same::<Diversity>),
        ("instance_drain", same::<Done>),
        ("session_shutdown", same::<Done>),
        ("change_begin", same::<Done>),
        ("reload", same::<Reloaded>),
        ("events", same::<Events>),
        ("refused", same::<Refused>),
        ("instance_refused", same::<Refused>),
        ("no_session", same::<Refused>),
        ("session_native", same::<Refused>),
        ("fib_flush_refused", same::<Refused>),
    ];
    all.iter().for_each(|(name, same)| same(name));
    let held: BTreeSet<String> = all.iter().map(|(name, _)| format!("{name}.json")).collect();
    let files = std::fs::read_dir(samples()).expect("samples").flatten();
    let there: BTreeSet<String> = files.map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(held, there, "every sample is held against a type");
}

/// What the control socket adds to the core's answers.
#[test]
fn what_is_left_out_where_there_is_none() {
    let status: Value = serde_json::to_value(Status::default()).expect("JSON");
    assert!(status.get("event_log").is_none() && status["k"].is_null() && status.get("k").is_some());
    let log = Some(EventLog { file: "/var/log/x".into(), failing: None, lost: 0 });
    let status = serde_json::to_value(Status { event_log: log, ..Status::default() }).expect("JSON");
    assert_eq!(status["event_log"], json!({ "file": "/var/log/x", "failing": null, "lost": 0 }));
    let done = serde_json::to_value(Done { done: "x".into(), removed: Some(3), shut: None }).expect("JSON");
    assert_eq!(done, json!({ "done": "x", "removed": 3 }));
    let lines = [json!({ "missed": 3 }), json!({ "ended": "virtd has ended" })];
    let read = lines.map(|line| serde_json::from_value::<Followed>(line).expect("a line"));
    assert_eq!(read, [Followed::Missed { missed: 3 }, Followed::Ended { ended: "virtd has ended".into() }]);
}

/// The lines that virtctl has always sent, and what the shortest form of each means.
#[test]
fn requests_are_what_they_were() {
    let fib = |prefix: Option<&str>, diff| Request::Fib {
        prefix: prefix.map(Into::into),
        diff,
        flush: false,
        protocol: None,
    };
    let flush = |protocol| Request::Fib { prefix: None, diff: false, flush: true, protocol };
    let exec = Exec { name: "frr".into(), words: vec!["show".into()] };
    let all = [
        (json!({ "command": "status" }), Request::Status),
        (json!({ "command": "sessions" }), Request::Sessions),
        (json!({ "command": "instances" }), Request::Instances { exec: None }),
        (
            json!({ "command": "instances", "exec": { "name": "frr", "words": ["show"] } }),
            Request::Instances { exec: Some(exec) },
        ),
        (json!({ "command": "routes", "prefix": "10.0.0.0/8" }), Request::Routes { prefix: "10.0.0.0/8".into() }),
        (json!({ "command": "differs", "instance": null, "n": 50 }), Request::Differs { instance: None, n: Some(50) }),
        (json!({ "command": "fib", "prefix": null, "diff": true }), fib(None, true)),
        (json!({ "command": "fib", "prefix": "all", "diff": false }), fib(Some("all"), false)),
        (json!({ "command": "diversity", "sessions": true }), Request::Diversity { sessions: true }),
        (
            json!({ "command": "instance", "name": "frr", "action": "pin" }),
            Request::Instance { name: "frr".into(), action: "pin".into() },
        ),
        (
            json!({ "command": "session", "peer": "192.0.2.1", "action": null }),
            Request::Session { peer: "192.0.2.1".into(), action: None },
        ),
        (json!({ "command": "change", "action": "begin" }), Request::Change { action: "begin".into() }),
        (json!({ "command": "reload", "dry_run": true }), Request::Reload { dry_run: true }),
        (json!({ "command": "upgrade", "dry_run": true }), Request::Upgrade { to: None, dry_run: true }),
        (
            json!({ "command": "upgrade", "to": "/usr/sbin/virtd", "dry_run": false }),
            Request::Upgrade { to: Some("/usr/sbin/virtd".into()), dry_run: false },
        ),
        (
            json!({ "command": "events", "follow": true, "n": 20, "kind": null }),
            Request::Events { follow: true, n: Some(20), kind: None },
        ),
        (json!({ "command": "ribs", "instances": true }), Request::Ribs { instances: true, peer: None }),
        (
            json!({ "command": "ribs", "instances": false, "peer": "192.0.2.1" }),
            Request::Ribs { instances: false, peer: Some("192.0.2.1".into()) },
        ),
    ];
    for (line, request) in &all {
        assert_eq!(serde_json::from_value::<Request>(line.clone()).expect("a request"), *request);
        assert_eq!(serde_json::to_value(request).expect("JSON"), *line);
    }
    let commands: BTreeSet<&str> = all.iter().filter_map(|(line, _)| line["command"].as_str()).collect();
    assert_eq!(commands, COMMANDS.into());
    // Of `flush` an older virtctl has said that there is no protocol.
    for (line, request) in [
        (json!({ "command": "fib", "flush": true, "protocol": null }), flush(None)),
        (json!({ "command": "fib", "flush": true, "protocol": 200, "prefix": null, "diff": false }), flush(Some(200))),
    ] {
        assert_eq!(serde_json::from_value::<Request>(line).expect("a request"), request);
    }
    let shortest = serde_json::from_value::<Request>(json!({ "command": "events" })).expect("a request");
    assert_eq!(shortest, Request::Events { follow: false, n: None, kind: None });
}

/// A reader of today's with what another virtd says.
#[test]
fn what_is_unknown_is_ignored_and_what_is_missing_has_a_default() {
    let status: Status = serde_json::from_value(json!({ "voters": 3, "colour": "red" })).expect("a status");
    assert_eq!(status, Status { voters: 3, ..Status::default() });
    let said: Said = serde_json::from_value(json!({ "instance": "frr" })).expect("a word");
    let differing: Differing = serde_json::from_value(json!({})).expect("one that differs");
    let difference: Difference = serde_json::from_value(json!({})).expect("a difference");
    let differs: Differs = serde_json::from_value(json!({})).expect("an answer");
    assert!(said.counted && differing.counted && difference.majority && differs.all_were_looked_at);
    let candidate: Candidate = serde_json::from_value(json!({})).expect("a candidate");
    assert!(!candidate.counted && candidate.agrees.is_none());
}
