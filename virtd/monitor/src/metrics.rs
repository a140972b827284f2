//! `/metrics`: the last answers as OpenMetrics text.
//!
//! Each metric is a row of a table: its name, type, unit, what it means, and how its samples come
//! out of a [`Snapshot`]. docs/MONITORING.md has the same table for people; a test holds the two
//! against each other.

mod bmp;
mod fib;
mod instances;
mod peers;
mod router;

use crate::watch::{Known, Snapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use virtd_api::Durations;

/// What the text is, for whoever asks for it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Before every name.
const PREFIX: &str = "virtd";

/// What a metric is by OpenMetrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It may go up and down.
    Gauge,
    /// It only grows; `_total` stands behind its name.
    Counter,
    /// Its labels say it all; `_info` stands behind its name.
    Info,
    /// How often something took how long.
    Histogram,
}

/// Behind the name, before `_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// No unit: a number of things, or 0 and 1.
    Count,
    /// Seconds.
    Seconds,
    /// Octets.
    Bytes,
    /// 1 is the whole.
    Ratio,
}

impl In {
    fn unit(self) -> Option<Unit> {
        match self {
            In::Count => None,
            In::Seconds => Some(Unit::Seconds),
            In::Bytes => Some(Unit::Bytes),
            In::Ratio => Some(Unit::Other("ratio".to_owned())),
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any other.
    Real(f64),
    /// How often something took how long.
    Often(Durations),
}

impl From<&Durations> for Value {
    fn from(durations: &Durations) -> Value {
        Value::Often(durations.clone())
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Whole(n)
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Value {
        Value::Whole(n as u64)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Value {
        Value::Whole(n.into())
    }
}

impl From<u16> for Value {
    fn from(n: u16) -> Value {
        Value::Whole(n.into())
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Value {
        Value::Whole(is.into())
    }
}

impl From<f64> for Value {
    fn from(x: f64) -> Value {
        Value::Real(x)
    }
}

impl From<Duration> for Value {
    fn from(d: Duration) -> Value {
        Value::Real(d.as_secs_f64())
    }
}

/// Microseconds of virtd's as seconds.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

type Labels<'s> = Vec<(&'static str, &'s str)>;

/// The samples of a metric.
#[derive(Debug, Default)]
pub struct Samples<'s>(Vec<(Labels<'s>, Value)>);

impl<'s> Samples<'s> {
    /// One without labels.
    fn one(&mut self, value: impl Into<Value>) {
        self.0.push((Vec::new(), value.into()));
    }

    /// One with labels.
    fn with(&mut self, labels: &[(&'static str, &'s str)], value: impl Into<Value>) {
        self.0.push((labels.to_vec(), value.into()));
    }

    /// One with labels where there is a value.
    fn maybe(&mut self, labels: &[(&'static str, &'s str)], value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.with(labels, value);
        }
    }
}

/// Where samples come from.
#[derive(Clone, Copy)]
enum Source {
    /// What is known of us as well.
    Snapshot(for<'s> fn(&'s Snapshot, &mut Samples<'s>)),
    /// virtd's answers; nothing without them.
    Known(for<'s> fn(&'s Known, &mut Samples<'s>)),
}

/// A metric.
#[derive(Clone, Copy)]
pub struct Metric {
    /// Without the prefix, the unit and `_total`.
    stem: &'static str,
    kind: Kind,
    unit: In,
    /// Its labels, those that it may have.
    pub labels: &'static [&'static str],
    /// What it means, a sentence without its full stop.
    pub help: &'static str,
    from: Source,
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metric").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Metric {
    /// Of virtd's answers.
    const fn new(
        stem: &'static str,
        kind: Kind,
        unit: In,
        labels: &'static [&'static str],
        help: &'static str,
        samples: for<'s> fn(&'s Known, &mut Samples<'s>),
    ) -> Metric {
        Metric { stem, kind, unit, labels, help, from: Source::Known(samples) }
    }

    /// Its name, as it stands before a value.
    pub fn name(&self) -> String {
        let mut name = format!("{PREFIX}_{}", self.stem);
        if let Some(unit) = self.unit.unit() {
            name = format!("{name}_{}", unit.as_str());
        }
        match self.kind {
            Kind::Gauge | Kind::Histogram => name,
            Kind::Counter => name + "_total",
            Kind::Info => name + "_info",
        }
    }

    /// Its type and its unit, for people.
    pub fn words(&self) -> String {
        let kind = match self.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Info => "info",
            Kind::Histogram => "histogram",
        };
        match self.unit {
            In::Count => kind.to_owned(),
            In::Seconds => format!("{kind}, seconds"),
            In::Bytes => format!("{kind}, bytes"),
            In::Ratio => format!("{kind}, 0 to 1"),
        }
    }

    fn samples<'s>(&self, snapshot: &'s Snapshot) -> Samples<'s> {
        let mut samples = Samples::default();
        match (self.from, &snapshot.known) {
            (Source::Snapshot(fill), _) => fill(snapshot, &mut samples),
            (Source::Known(fill), Ok(known)) => fill(known, &mut samples),
            (Source::Known(_), Err(_)) => {}
        }
        samples
    }

    fn encode(&self, snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let samples = self.samples(snapshot);
        if samples.0.is_empty() {
            return Ok(());
        }
        let kind = match self.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
            Kind::Info => MetricType::Info,
            Kind::Histogram => MetricType::Histogram,
        };
        let unit = self.unit.unit();
        let mut family = encoder.encode_descriptor(self.stem, self.help, unit.as_ref(), kind)?;
        for (labels, value) in &samples.0 {
            debug_assert!(labels.iter().all(|(name, _)| self.labels.contains(name)), "{self:?}: {labels:?}");
            let labels: Vec<(&str, Cow<'_, str>)> =
                labels.iter().map(|(name, value)| (*name, escaped(value))).collect();
            match self.kind {
                Kind::Info => family.encode_info(&labels)?,
                _ if labels.is_empty() => self.value(value, &mut family)?,
                _ => self.value(value, &mut family.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }

    fn value(&self, value: &Value, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (self.kind, value) {
            (Kind::Counter, Value::Whole(n)) => encoder.encode_counter::<NoLabelSet, u64, u64>(n, None),
            (Kind::Counter, Value::Real(x)) => encoder.encode_counter::<NoLabelSet, f64, u64>(x, None),
            (_, Value::Whole(n)) => encoder.encode_gauge(n),
            (_, Value::Real(x)) => encoder.encode_gauge(x),
            (_, Value::Often(durations)) => {
                let (buckets, count) = (buckets(durations), durations.counts.iter().sum());
                encoder.encode_histogram::<NoLabelSet>(seconds(durations.sum_us), count, &buckets, None)
            }
        }
    }
}

/// Upper bounds in seconds with how often; the last is without one.
fn buckets(durations: &Durations) -> Vec<(f64, u64)> {
    let last = durations.counts.len().saturating_sub(1);
    let bound = |at: usize| if at == last { f64::MAX } else { seconds(durations.first_us) * f64::powi(2.0, at as i32) };
    durations.counts.iter().enumerate().map(|(at, count)| (bound(at), *count)).collect()
}

/// A label's value as it stands between quotes, which the library leaves to us.
fn escaped(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// All metrics, in the order in which they are shown.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    [router::METRICS, peers::METRICS, instances::METRICS, fib::METRICS, bmp::METRICS].into_iter().flatten()
}

#[derive(Debug)]
struct Shown(Arc<Snapshot>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        all().try_for_each(|metric| metric.encode(&self.0, &mut encoder))
    }
}

/// The text.
///
/// # Errors
/// None that is known: it is written to memory.
pub fn text(snapshot: Arc<Snapshot>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Shown(snapshot)));
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}
