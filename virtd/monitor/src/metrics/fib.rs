//! The voted FIB. Without `[fib]` none of these is there.

use super::In::{Bytes, Count};
use super::Kind::{Counter, Gauge};
use super::{Metric, Samples, Value};
use crate::watch::Known;
use virtd_api::{Fib, FibInstance, FibKernel};

pub(super) const METRICS: &[Metric] = &[
    Metric::new("fib_routes", Gauge, Count, &[], "Routes chosen", |k, out| fib(k, out, |f| f.routes)),
    Metric::new("fib_keys", Gauge, Count, &[], "Keys of which anything is known", |k, out| fib(k, out, |f| f.keys)),
    Metric::new(
        "fib_distinct_routes",
        Gauge,
        Count,
        &[],
        "Different routes among what is said and chosen",
        |k, out| {
            fib(k, out, |f| f.distinct_routes);
        },
    ),
    Metric::new("fib_without_quorum", Gauge, Count, &[], "Entries without a majority", |k, out| {
        fib(k, out, |f| f.without_quorum);
    }),
    Metric::new("fib_failed", Gauge, Count, &[], "Chosen routes that the kernel does not take", |k, out| {
        fib(k, out, |f| f.failed)
    }),
    Metric::new(
        "fib_requests",
        Counter,
        Count,
        &[],
        "Requests that the virtual kernels of the instances have taken",
        |k, out| {
            fib(k, out, |f| f.requests);
        },
    ),
    Metric::new("fib_refused", Counter, Count, &[], "Requests refused with an errno", |k, out| {
        fib(k, out, |f| f.refused)
    }),
    Metric::new(
        "fib_answered_ahead",
        Counter,
        Count,
        &[],
        "Requests that were acknowledged before virtd had seen them",
        |k, out| {
            fib(k, out, |f| f.answered_ahead);
        },
    ),
    Metric::new("fib_taken_back", Counter, Count, &[], "Of these, those that turned out otherwise", |k, out| {
        fib(k, out, |f| f.taken_back);
    }),
    Metric::new("fib_votes", Counter, Count, &[], "Votes held on the FIB", |k, out| fib(k, out, |f| f.votes)),
    Metric::new("fib_published", Counter, Count, &[], "Keys handed on to be written or removed", |k, out| {
        fib(k, out, |f| f.published);
    }),
    Metric::new(
        "fib_disagreements",
        Counter,
        Count,
        &[],
        "Times an instance was found not to be with the majority",
        |k, out| {
            fib(k, out, |f| f.dissents_total);
        },
    ),
    Metric::new("fib_memory", Gauge, Bytes, &[], "Memory of all of the FIB", |k, out| fib(k, out, |f| f.memory_bytes)),
    Metric::new(
        "fib_instance_state",
        Gauge,
        Count,
        &["daemon", "state"],
        "1 for what the instance does in the FIB",
        |k, out| {
            for i in k.facts.fib.iter().flat_map(|f| &f.instances) {
                out.with(&[("daemon", &i.name), ("state", &i.state)], 1_u64);
            }
        },
    ),
    Metric::new("fib_instance_routes", Gauge, Count, &["daemon"], "Routes in its virtual kernel", |k, out| {
        instance(k, out, |i| i.routes);
    }),
    Metric::new("fib_instance_sockets", Gauge, Count, &["daemon"], "Netlink sockets it has", |k, out| {
        instance(k, out, |i| i.sockets);
    }),
    Metric::new(
        "fib_instance_disagreements_now",
        Gauge,
        Count,
        &["daemon"],
        "Entries on which it is not with the majority",
        |k, out| {
            instance(k, out, |i| i.dissents);
        },
    ),
    Metric::new("fib_kernel_written", Counter, Count, &[], "Routes written to the kernel", |k, out| {
        kernel(k, out, |f| f.written)
    }),
    Metric::new("fib_kernel_removed", Counter, Count, &[], "Routes removed from the kernel", |k, out| {
        kernel(k, out, |f| f.removed)
    }),
    Metric::new(
        "fib_kernel_repaired",
        Counter,
        Count,
        &[],
        "Routes that somebody else had removed or changed, put right",
        |k, out| {
            kernel(k, out, |f| f.repaired);
        },
    ),
    Metric::new(
        "fib_kernel_adopted",
        Counter,
        Count,
        &[],
        "Routes of an earlier virtd that were what the vote wanted",
        |k, out| {
            kernel(k, out, |f| f.adopted);
        },
    ),
    Metric::new("fib_kernel_swept", Counter, Count, &[], "Routes of an earlier virtd that no vote wanted", |k, out| {
        kernel(k, out, |f| f.swept);
    }),
    Metric::new("fib_kernel_batches", Counter, Count, &[], "Sends to the kernel", |k, out| {
        kernel(k, out, |f| f.batches)
    }),
    Metric::new("fib_kernel_messages", Counter, Count, &[], "Messages in them", |k, out| {
        kernel(k, out, |f| f.messages)
    }),
    Metric::new(
        "fib_kernel_scans",
        Counter,
        Count,
        &[],
        "Times the routes of the kernel were read as a whole",
        |k, out| {
            kernel(k, out, |f| f.scans);
        },
    ),
    Metric::new("fib_kernel_failed", Gauge, Count, &[], "Wanted routes that the kernel does not take", |k, out| {
        kernel(k, out, |f| f.failed);
    }),
    Metric::new("fib_kernel_routes", Gauge, Count, &[], "Keys with a wanted or held route", |k, out| {
        kernel(k, out, |f| f.routes)
    }),
    Metric::new("fib_kernel_memory", Gauge, Bytes, &[], "Memory of the table of wanted and held routes", |k, out| {
        kernel(k, out, |f| f.memory);
    }),
];

fn fib<'s, V: Into<Value>>(k: &'s Known, out: &mut Samples<'s>, value: impl Fn(&Fib) -> V) {
    out.maybe(&[], k.facts.fib.as_ref().map(value));
}

fn instance<'s, V: Into<Value>>(k: &'s Known, out: &mut Samples<'s>, value: impl Fn(&FibInstance) -> V) {
    k.facts.fib.iter().flat_map(|f| &f.instances).for_each(|i| out.with(&[("daemon", &i.name)], value(i)));
}

fn kernel<'s>(k: &'s Known, out: &mut Samples<'s>, value: impl Fn(&FibKernel) -> u64) {
    out.maybe(&[], k.facts.fib.as_ref().and_then(|f| f.kernel.as_ref()).map(value));
}
