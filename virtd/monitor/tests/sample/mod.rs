//! What virtd answers, as it was written down (virtd/api/tests/form).
#![allow(dead_code, reason = "not every test needs all of it")]

use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;
use virtd::ctl::health::Facts;
use virtd_api as api;
use virtd_monitor::bmp::State;
use virtd_monitor::processes::Process;
use virtd_monitor::watch::{Known, Snapshot};

/// One answer.
pub fn sample<T: DeserializeOwned>(name: &str) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/tests/form");
    let text = std::fs::read_to_string(folder.join(name).with_extension("json")).expect("a sample");
    serde_json::from_str(&text).expect("an answer")
}

/// All answers together, with what a core alone does not say.
pub fn known() -> Known {
    let mut status: api::Status = sample("status");
    status.worker = Some(api::Worker { pid: 4242, restarts: 1 });
    status.turns = Some(api::Durations { first_us: 1, counts: vec![0, 3, 5, 1], sum_us: 31 });
    status.longest_turn = Some(api::Turn { us: 1500, wall_us: 2500 });
    status.event_log = Some(api::EventLog { file: "/var/log/virtd".into(), failing: None, lost: 0 });
    status.native_bgp = Some(0);
    status.events_dropped = Some(0);
    let api::Instances { instances } = sample("instances_after_a_death");
    let api::Sessions { sessions } = sample("sessions");
    let fib = Some(sample("fib_with_driver"));
    let api::Events { events } = sample("events");
    let processes = vec![Process { name: "worker", cpu_s: 1.25, resident: 4096 }];
    let facts = Facts { status, instances, sessions, fib };
    Known { facts, diversity: sample("diversity"), events, processes }
}

/// With so many sessions.
pub fn many(sessions: usize) -> Known {
    let mut known = known();
    let one = known.facts.sessions[1].clone();
    known.facts.sessions =
        (0..sessions).map(|i| api::Session { peer: format!("10.{}.{}.2", i / 256, i % 256), ..one.clone() }).collect();
    known.facts.sessions.iter_mut().for_each(|s| s.legs.truncate(3));
    known
}

/// As of now.
pub fn snapshot(known: Known) -> Snapshot {
    Snapshot {
        at: Instant::now(),
        wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        took: Duration::from_millis(2),
        known: Ok(known),
        polls: 3,
        failures: 1,
        collectors: vec![State {
            collector: "192.0.2.9:5000".to_owned(),
            since: Some(Instant::now()),
            connections: 2,
            routes: 7,
            resets: 1,
        }],
    }
}
