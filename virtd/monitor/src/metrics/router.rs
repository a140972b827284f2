//! The router as a whole, and ourselves.

use super::In::{Bytes, Count, Seconds};
use super::Kind::{Counter, Gauge, Histogram, Info};
use super::{Metric, Samples, Source, seconds};
use crate::watch::{Known, Snapshot};
use std::collections::BTreeMap;
use std::time::Duration;
use virtd::ctl::health::{CONDITIONS, Level};
use virtd_api::Durations;

const LEVELS: [(Level, &str); 3] =
    [(Level::Warning, "warning"), (Level::Critical, "critical"), (Level::Unknown, "unknown")];

pub(super) const METRICS: &[Metric] = &[
    Metric {
        stem: "up",
        kind: Gauge,
        unit: Count,
        labels: &[],
        help: "1 where virtd answers, else 0, and then only this metric, problems and those of the monitor are there",
        from: Source::Snapshot(|s, out| out.one(s.known.is_ok())),
    },
    Metric {
        stem: "problems",
        kind: Gauge,
        unit: Count,
        labels: &["condition", "level"],
        help: "How often virtctl health finds this condition, at this level",
        from: Source::Snapshot(problems),
    },
    Metric {
        stem: "monitor_poll_duration",
        kind: Gauge,
        unit: Seconds,
        labels: &[],
        help: "How long virtd took for all its answers",
        from: Source::Snapshot(|s, out| out.one(s.took)),
    },
    Metric {
        stem: "monitor_poll_age",
        kind: Gauge,
        unit: Seconds,
        labels: &[],
        help: "How old the answers are that all this is made of",
        from: Source::Snapshot(|s, out| out.one(s.at.elapsed())),
    },
    Metric {
        stem: "monitor_polls",
        kind: Counter,
        unit: Count,
        labels: &[],
        help: "Times that virtd was asked since the start of virtd-monitor",
        from: Source::Snapshot(|s, out| out.one(s.polls)),
    },
    Metric {
        stem: "monitor_failures",
        kind: Counter,
        unit: Count,
        labels: &[],
        help: "Of these, those without all answers",
        from: Source::Snapshot(|s, out| out.one(s.failures)),
    },
    Metric {
        stem: "monitor",
        kind: Info,
        unit: Count,
        labels: &["version"],
        help: "The version of virtd-monitor",
        from: Source::Snapshot(|_, out| out.with(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64)),
    },
    Metric::new("uptime", Gauge, Seconds, &[], "Since the start of virtd", |k, out| {
        out.one(seconds(k.facts.status.uptime_us));
    }),
    Metric::new("router", Info, Count, &["open", "strategy"], "How the router decides", |k, out| {
        let s = &k.facts.status;
        out.with(&[("open", &s.open), ("strategy", &s.strategy)], 1_u64);
    }),
    Metric::new("router_as_number", Gauge, Count, &[], "The AS number of the router", |k, out| {
        out.maybe(&[], k.facts.status.router.asn);
    }),
    Metric::new("steady_time", Gauge, Seconds, &[], "T, after which a key is at rest", |k, out| {
        out.one(Duration::from_millis(k.facts.status.t_ms));
    }),
    Metric::new("voters", Gauge, Count, &[], "Instances with a vote", |k, out| out.one(k.facts.status.voters)),
    Metric::new("instances", Gauge, Count, &[], "All instances", |k, out| out.one(k.facts.status.instances)),
    Metric::new("instances_attached", Gauge, Count, &[], "Instances of which a process has reached virtd", |k, out| {
        out.maybe(&[], k.facts.status.instances_attached);
    }),
    Metric::new("sessions", Gauge, Count, &["state"], "Sessions with peers by their state", sessions),
    Metric::new("legs", Gauge, Count, &["state"], "Connections of instances for sessions by their state", legs),
    Metric::new("votes", Counter, Count, &[], "Votes held", |k, out| out.one(k.facts.status.votes)),
    Metric::new("candidates", Counter, Count, &[], "Candidates of instances looked at, changed or not", |k, out| {
        out.one(k.facts.status.candidates);
    }),
    Metric::new("updates_received", Counter, Count, &[], "UPDATEs received from peers", |k, out| {
        out.one(k.facts.status.updates_in);
    }),
    Metric::new("prefixes_told", Counter, Count, &[], "Prefixes told to peers, announced or withdrawn", |k, out| {
        out.one(k.facts.status.prefixes_told);
    }),
    Metric::new(
        "routes_published",
        Gauge,
        Count,
        &[],
        "Prefixes announced to peers now, one for each session",
        |k, out| {
            out.one(k.facts.status.routes_published);
        },
    ),
    Metric::new(
        "disagreements_now",
        Gauge,
        Count,
        &[],
        "Keys on which an instance is not with the majority now, one for each such instance",
        |k, out| out.one(k.facts.status.disagreements_now),
    ),
    Metric::new(
        "disagreements",
        Counter,
        Count,
        &[],
        "Times an instance was found not to be with the majority",
        |k, out| {
            out.one(k.facts.status.disagreements_total);
        },
    ),
    Metric::new(
        "without_quorum",
        Gauge,
        Count,
        &[],
        "Prefixes without a majority now, one for each session",
        |k, out| {
            out.one(k.facts.status.without_quorum);
        },
    ),
    Metric::new(
        "majority_split",
        Gauge,
        Count,
        &[],
        "1 while the majority itself is in doubt, and nobody is accused",
        |k, out| {
            out.one(k.facts.status.majority_split);
        },
    ),
    Metric::new(
        "policy_change",
        Gauge,
        Seconds,
        &[],
        "For how long policy has been being changed; 0 where it is not",
        |k, out| {
            out.one(seconds(k.facts.status.change_us.unwrap_or(0)));
        },
    ),
    Metric::new("malformed_updates", Counter, Count, &[], "UPDATEs of peers that RFC 7606 has repaired", |k, out| {
        out.one(k.facts.status.malformed_updates);
    }),
    Metric::new(
        "strangers_failed",
        Counter,
        Count,
        &[],
        "Connections that failed with peers that no [[peer]] names",
        |k, out| out.one(k.facts.status.strangers_failed),
    ),
    Metric::new(
        "distinct_routes",
        Gauge,
        Count,
        &[],
        "Different routes that instances say or that were published",
        |k, out| {
            out.one(k.facts.status.interned_routes);
        },
    ),
    Metric::new("memory", Gauge, Bytes, &["table"], "Memory of the tables of virtd", memory),
    Metric::new(
        "longest_turn",
        Gauge,
        Seconds,
        &["clock"],
        "The longest turn of the loop, by processor time and by the wall clock",
        |k, out| {
            let turn = k.facts.status.longest_turn;
            out.maybe(&[("clock", "cpu")], turn.map(|t| seconds(t.us)));
            out.maybe(&[("clock", "wall")], turn.map(|t| seconds(t.wall_us)));
        },
    ),
    Metric::new(
        "turn_duration",
        Histogram,
        Seconds,
        &[],
        "The turns of the loop, by the wall clock: what comes from a peer goes on to the instances, and what comes from an \
         instance to the peers, within the turn that reads it or, where a vote is needed, within that of the vote",
        |k, out| out.maybe(&[], k.facts.status.turns.as_ref()),
    ),
    Metric::new(
        "vote_wait",
        Histogram,
        Seconds,
        &["table"],
        "From the first word of an instance on a prefix to what the peers are told, or the kernel is given, on it",
        |k, out| {
            // A virtd that is older does not say.
            let known = |waits: &&Durations| waits.first_us > 0;
            out.maybe(&[("table", "peers")], Some(&k.facts.status.vote_wait).filter(known));
            out.maybe(&[("table", "kernel")], k.facts.fib.as_ref().map(|fib| &fib.vote_wait).filter(known));
        },
    ),
    Metric::new("worker_restarts", Counter, Count, &[], "Workers of virtd that have died", |k, out| {
        out.maybe(&[], k.facts.status.worker.map(|w| w.restarts));
    }),
    Metric::new("native_bgp_sockets", Gauge, Count, &[], "TCP sockets on BGP ports that go past virtd", |k, out| {
        out.maybe(&[], k.facts.status.native_bgp);
    }),
    Metric::new("event_log_failing", Gauge, Count, &[], "1 while the file of events cannot be written", |k, out| {
        out.maybe(&[], k.facts.status.event_log.as_ref().map(|log| log.failing.is_some()));
    }),
    Metric::new("events_lost", Counter, Count, &[], "Events that are not in the file of events", |k, out| {
        out.maybe(&[], k.facts.status.event_log.as_ref().map(|log| log.lost));
    }),
    Metric::new(
        "events_dropped",
        Counter,
        Count,
        &[],
        "Events that came faster than they could be written",
        |k, out| {
            out.maybe(&[], k.facts.status.events_dropped);
        },
    ),
    Metric::new("process_cpu", Counter, Seconds, &["process"], "Processor time of a process of virtd", |k, out| {
        k.processes.iter().for_each(|p| out.with(&[("process", p.name)], p.cpu_s));
    }),
    Metric::new(
        "process_resident_memory",
        Gauge,
        Bytes,
        &["process"],
        "Resident memory of a process of virtd",
        |k, out| {
            k.processes.iter().for_each(|p| out.with(&[("process", p.name)], p.resident));
        },
    ),
];

/// All conditions at all levels, so that one that is over is 0 and not gone.
fn problems<'s>(snapshot: &'s Snapshot, out: &mut Samples<'s>) {
    let found = snapshot.problems();
    for condition in CONDITIONS {
        for (level, word) in LEVELS {
            let n = found.iter().filter(|p| p.condition == condition && p.level == level).count();
            out.with(&[("condition", condition), ("level", word)], n);
        }
    }
}

fn sessions<'s>(k: &'s Known, out: &mut Samples<'s>) {
    count(k.facts.sessions.iter().map(|s| s.state.as_str()), out);
}

fn legs<'s>(k: &'s Known, out: &mut Samples<'s>) {
    count(k.facts.sessions.iter().flat_map(|s| &s.legs).map(|leg| leg.state.as_str()), out);
}

fn count<'s>(states: impl Iterator<Item = &'s str>, out: &mut Samples<'s>) {
    // What alerts look at is there with 0, too.
    let mut found = BTreeMap::from([("Established", 0_u64)]);
    states.for_each(|state| *found.entry(state).or_default() += 1);
    found.into_iter().for_each(|(state, n)| out.with(&[("state", state)], n));
}

fn memory<'s>(k: &'s Known, out: &mut Samples<'s>) {
    let m = &k.facts.status.memory;
    for (table, octets) in [
        ("received", m.received_bytes),
        ("tables", m.tables_bytes),
        ("attributes", m.attributes_bytes),
        ("waiting", m.waiting_bytes),
        ("figures", m.figures_bytes),
        ("verdicts", m.verdicts_bytes),
    ] {
        out.with(&[("table", table)], octets);
    }
}
