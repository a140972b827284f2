//! The instances, and how independent each two of them are.

use super::In::{Bytes, Count, Ratio};
use super::Kind::{Counter, Gauge, Info};
use super::{Metric, Samples, Value};
use crate::watch::Known;
use virtd_api::{Instance, Pair};

pub(super) const METRICS: &[Metric] = &[
    Metric::new("instance", Info, Count, &["daemon", "kind", "version"], "What the instance is", |k, out| {
        for i in &k.facts.instances {
            let (kind, version) = (i.kind.as_deref().unwrap_or_default(), i.version.as_deref().unwrap_or_default());
            out.with(&[("daemon", &i.name), ("kind", kind), ("version", version)], 1_u64);
        }
    }),
    Metric::new(
        "instance_state",
        Gauge,
        Count,
        &["daemon", "state"],
        "1 for the state that the instance is in",
        |k, out| {
            k.facts.instances.iter().for_each(|i| out.with(&[("daemon", &i.name), ("state", &i.state)], 1_u64));
        },
    ),
    Metric::new("instance_role", Gauge, Count, &["daemon", "role"], "1 for what the instance is for now", |k, out| {
        k.facts.instances.iter().for_each(|i| out.with(&[("daemon", &i.name), ("role", &i.role)], 1_u64));
    }),
    Metric::new(
        "instance_attached",
        Gauge,
        Count,
        &["daemon"],
        "1 where a process of it has reached virtd",
        |k, out| {
            each(k, out, |i| Some(i.attached));
        },
    ),
    Metric::new("instance_voting", Gauge, Count, &["daemon"], "1 where it votes now", |k, out| {
        each(k, out, |i| Some(i.state == "voting"));
    }),
    Metric::new("instance_pinned", Gauge, Count, &["daemon"], "1 where no verdict ends it", |k, out| {
        each(k, out, |i| Some(i.pinned));
    }),
    Metric::new("instance_processes", Gauge, Count, &["daemon"], "Its processes that have reached virtd", |k, out| {
        each(k, out, |i| Some(i.pids.len()));
    }),
    Metric::new("instance_legs_established", Gauge, Count, &["daemon"], "Its legs that are established", |k, out| {
        each(k, out, |i| Some(i.legs_up));
    }),
    Metric::new(
        "instance_legs_possible",
        Gauge,
        Count,
        &["daemon"],
        "Sessions that are up, each of which it could have a leg for",
        |k, out| {
            each(k, out, |i| Some(i.legs));
        },
    ),
    Metric::new(
        "instance_disagreements_now",
        Gauge,
        Count,
        &["daemon"],
        "Prefixes on which it is not with the majority now",
        |k, out| {
            each(k, out, |i| Some(i.dissents_now));
        },
    ),
    Metric::new(
        "instance_disagreements",
        Counter,
        Count,
        &["daemon"],
        "Times it was found not to be with the majority",
        |k, out| {
            each(k, out, |i| Some(i.dissents_total));
        },
    ),
    Metric::new(
        "instance_recent_restarts",
        Gauge,
        Count,
        &["daemon"],
        "Restarts that count towards the limit",
        |k, out| {
            each(k, out, |i| Some(i.restarts));
        },
    ),
    Metric::new(
        "instance_withheld",
        Gauge,
        Count,
        &["daemon"],
        "Poison: UPDATEs and prefixes that are not given to it, as they have killed it",
        |k, out| each(k, out, |i| Some(i.withheld)),
    ),
    Metric::new(
        "instance_suspect",
        Gauge,
        Count,
        &["daemon", "resource"],
        "1 for what is out of the ordinary now",
        |k, out| {
            for i in &k.facts.instances {
                for resource in ["cpu", "memory"] {
                    let is = i.suspect.iter().any(|s| s == resource);
                    out.with(&[("daemon", &i.name), ("resource", resource)], is);
                }
            }
        },
    ),
    Metric::new(
        "instance_cpu",
        Gauge,
        Ratio,
        &["daemon"],
        "Share of one processor over the last second, all its processes",
        |k, out| {
            each(k, out, |i| i.cpu_percent.map(|percent| percent / 100.0));
        },
    ),
    Metric::new("instance_memory", Gauge, Bytes, &["daemon"], "Resident memory of all its processes", |k, out| {
        each(k, out, |i| i.memory_kib.map(|kib| kib * 1024));
    }),
    Metric::new(
        "pair_compared",
        Counter,
        Count,
        &["first", "second"],
        "Votes that came to their end with both in them",
        |k, out| {
            each_pair(k, out, |p| p.compared);
        },
    ),
    Metric::new(
        "pair_differed",
        Counter,
        Count,
        &["first", "second"],
        "Of those compared, on which the two did not say the same",
        |k, out| {
            each_pair(k, out, |p| p.disagreed);
        },
    ),
    Metric::new(
        "pair_contested",
        Counter,
        Count,
        &["first", "second"],
        "Of those compared, on which not all instances said the same",
        |k, out| {
            each_pair(k, out, |p| p.contested);
        },
    ),
    Metric::new(
        "pair_together",
        Counter,
        Count,
        &["first", "second"],
        "Of those contested, on which the two said the same",
        |k, out| {
            each_pair(k, out, |p| p.together);
        },
    ),
    Metric::new(
        "pair_verdicts",
        Counter,
        Count,
        &["first", "second"],
        "Verdicts that found at least one of the two wrong",
        |k, out| {
            each_pair(k, out, |p| p.verdicts.either);
        },
    ),
    Metric::new(
        "pair_verdicts_common",
        Counter,
        Count,
        &["first", "second"],
        "Of these, those that found both wrong on the same key",
        |k, out| {
            each_pair(k, out, |p| p.verdicts.common);
        },
    ),
    Metric::new(
        "pair_verdicts_alike",
        Counter,
        Count,
        &["first", "second"],
        "Of these, those with the same wrong route",
        |k, out| {
            each_pair(k, out, |p| p.verdicts.alike);
        },
    ),
];

fn each<'s, V: Into<Value>>(k: &'s Known, out: &mut Samples<'s>, value: impl Fn(&Instance) -> Option<V>) {
    k.facts.instances.iter().for_each(|i| out.maybe(&[("daemon", &i.name)], value(i)));
}

fn each_pair<'s>(k: &'s Known, out: &mut Samples<'s>, value: impl Fn(&Pair) -> u64) {
    for p in &k.diversity.pairs {
        let [first, second] = &p.instances;
        out.with(&[("first", first), ("second", second)], value(p));
    }
}
