//! The collectors of `[[bmp]]`. Without one none of these is there.

use super::In::{Count, Seconds};
use super::Kind::{self, Counter, Gauge};
use super::{In, Metric, Samples, Source};
use crate::watch::Snapshot;

const fn of(
    stem: &'static str,
    kind: Kind,
    unit: In,
    help: &'static str,
    samples: for<'s> fn(&'s Snapshot, &mut Samples<'s>),
) -> Metric {
    Metric { stem, kind, unit, labels: &["collector"], help, from: Source::Snapshot(samples) }
}

pub(super) const METRICS: &[Metric] = &[
    of("bmp_connected", Gauge, Count, "1 where the BMP collector is connected and told the tables", |s, out| {
        s.collectors.iter().for_each(|c| out.with(&[("collector", &c.collector)], c.since.is_some()));
    }),
    of(
        "bmp_connection_age",
        Gauge,
        Seconds,
        "Since the BMP collector is connected; left out where it is not",
        |s, out| {
            for c in &s.collectors {
                out.maybe(&[("collector", &c.collector)], c.since.map(|since| since.elapsed()));
            }
        },
    ),
    of("bmp_connections", Counter, Count, "Connections with the BMP collector that have stood", |s, out| {
        s.collectors.iter().for_each(|c| out.with(&[("collector", &c.collector)], c.connections));
    }),
    of("bmp_route_messages", Counter, Count, "Route Monitoring messages sent to the BMP collector", |s, out| {
        s.collectors.iter().for_each(|c| out.with(&[("collector", &c.collector)], c.routes));
    }),
    of(
        "bmp_resets",
        Counter,
        Count,
        "Times that a peer was told to the BMP collector from the beginning, because more had changed than is kept for one as slow",
        |s, out| s.collectors.iter().for_each(|c| out.with(&[("collector", &c.collector)], c.resets)),
    ),
];
