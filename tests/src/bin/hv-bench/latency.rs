//! The time of one UPDATE from neighbour to neighbour (what one and three instances add to it). The
//! places take turns, so that whatever drifts on the machine drifts for all; each round's
//! differences are taken within the round, and of those the median.
//!
//! It is done twice. On one processor the figure is the work that each place adds. Free, it is that
//! and the luck of the scheduler: every hand-over to a process that it has put on another processor
//! costs a wake-up from idle, which on a virtual machine is more than all the rest.

use crate::Arguments;
use crate::figures::{Figures, median};
use crate::places::{Kind, Place};
use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tests::daemons::Daemon::{Bird, Frr, OpenBgpd};

/// What a place may add to BIRD's own p50, in multiples of what HAProxy adds: on one processor, and
/// free. Absolute times differ by a factor of three between hosts and are no target.
const BOUNDS: [(&str, &str, f64, f64); 5] = [
    ("native", "P1 added p50, virtd N=1 native", 0.5, 0.5),
    ("voted", "P1 added p50, virtd N=1 voted", 0.7, 0.7),
    ("three-birds", "P2 added p50, virtd three-birds master-slave", 1.25, 0.75),
    ("three-birds-consensus", "P2 added p50, virtd three-birds wait-for-consensus", 1.5, 1.0),
    ("three-kinds", "P2 added p50, virtd three-kinds master-slave", 1.25, 0.75),
];

/// Where one UPDATE is timed.
pub const PLACES: [(&str, Kind); 7] = [
    ("bird", Kind::Alone(Bird)),
    ("haproxy", Kind::HaProxy),
    ("native", Kind::Virtd(&[Bird], "native", "wait-for-consensus")),
    ("voted", Kind::Virtd(&[Bird], "voted", "wait-for-consensus")),
    ("three-birds", Kind::Virtd(&[Bird, Bird, Bird], "voted", "master-slave")),
    ("three-birds-consensus", Kind::Virtd(&[Bird, Bird, Bird], "voted", "wait-for-consensus")),
    ("three-kinds", Kind::Virtd(&[Bird, Frr, OpenBgpd], "voted", "master-slave")),
];

/// p50 and p99 of each place, one of each round, in microseconds.
pub struct Series {
    /// The place.
    pub name: &'static str,
    /// One of each round.
    pub p50: Vec<f64>,
    /// Likewise.
    pub p99: Vec<f64>,
}

impl Series {
    /// Nothing measured yet.
    pub fn new(name: &'static str) -> Series {
        Series { name, p50: Vec::new(), p99: Vec::new() }
    }

    /// Takes one round's result.
    pub fn push(&mut self, result: &Value) -> Result<()> {
        self.p50.push(us(result, "p50_ns")?);
        self.p99.push(us(result, "p99_ns")?);
        Ok(())
    }

    /// The median over the rounds of what this place takes more than another.
    pub fn added(&self, base: &Series, quantile: fn(&Series) -> &Vec<f64>) -> f64 {
        median(quantile(self).iter().zip(quantile(base)).map(|(mine, theirs)| mine - theirs))
    }
}

/// Measures and judges, first on one processor, then on all.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let raw = arguments.raw.join("latency.jsonl");
    fs::write(&raw, "")?;
    judge(&on_one_processor(|| series(arguments, "one processor", &raw))?, "one processor", figures)?;
    judge(&series(arguments, "free", &raw)?, "free", figures)
}

/// Does `work` with this process, and all that it starts meanwhile, on one processor.
pub fn on_one_processor<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let all = sched_getaffinity(Pid::this()).context("sched_getaffinity")?;
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|cpu| all.is_set(*cpu).unwrap_or(false)).context("no processor")?)?;
    // Whatever is started from here inherits the set.
    sched_setaffinity(Pid::this(), &one).context("sched_setaffinity")?;
    let done = work();
    sched_setaffinity(Pid::this(), &all).context("sched_setaffinity")?;
    done
}

fn series(arguments: &Arguments, where_: &str, raw: &Path) -> Result<Vec<Series>> {
    let mut places = PLACES.iter().map(|(name, kind)| Place::start(name, kind)).collect::<Result<Vec<_>>>()?;
    let mut all: Vec<Series> = places.iter().map(|p| Series::new(p.name)).collect();
    let (count, rate) = (arguments.count.to_string(), arguments.rate.to_string());
    for round in 1..=arguments.rounds {
        for ((place, series), (name, kind)) in places.iter_mut().zip(&mut all).zip(&PLACES) {
            if round > 1 && *name == "three-kinds" {
                // OpenBGPD holds back its sessions twice as long each time one has ended: it would
                // soon be absent.
                std::mem::replace(place, Place::start(name, kind)?).done();
            }
            let result = place.probe(&arguments.raw, &["--count", &count, "--rate", &rate])?;
            crate::keep(raw, &json!({ "on": where_, "round": round, "place": place.name, "result": result }))?;
            series.push(&result)?;
        }
        let line: Vec<String> =
            all.iter().map(|s| format!("{} {:.0}", s.name, s.p50.last().copied().unwrap_or(0.0))).collect();
        println!("latency, {where_}, round {round} of {}: p50 in us: {}", arguments.rounds, line.join(", "));
    }
    places.into_iter().for_each(Place::done);
    Ok(all)
}

/// A time in the result, in microseconds.
pub fn us(result: &Value, key: &str) -> Result<f64> {
    ensure!(result["lost"] == 0, "UPDATEs were lost: {result}");
    result[key].as_f64().map(|ns| ns / 1000.0).with_context(|| format!("no {key} in {result}"))
}

fn judge(all: &[Series], where_: &str, figures: &mut Figures) -> Result<()> {
    let of = |name: &str| all.iter().find(|s| s.name == name).with_context(|| format!("{name} was not measured"));
    let (bird, haproxy, voted) = (of("bird")?, of("haproxy")?, of("voted")?);
    for series in all {
        let name = series.name;
        figures.note(
            format!("latency p50, {name}, {where_}"),
            median(series.p50.clone()),
            "us",
            Some(median(bird.p50.clone())),
        );
        figures.note(
            format!("latency p99, {name}, {where_}"),
            median(series.p99.clone()),
            "us",
            Some(median(bird.p99.clone())),
        );
    }
    let proxy = haproxy.added(bird, |s| &s.p50);
    figures.note(format!("P1 added p50, HAProxy, {where_}"), proxy, "us", None);
    for (name, title, pinned, free) in BOUNDS {
        let (added, most) = (of(name)?.added(bird, |s| &s.p50), if where_ == "free" { free } else { pinned });
        let title = format!("{title}, to HAProxy's, {where_}");
        let target = format!("at most {most} x HAProxy's");
        figures.judge(title, (added, "us"), Some(proxy), &target, added <= most * proxy);
    }
    for name in ["native", "voted"] {
        let series = of(name)?;
        let (p50, p99) = (median(series.p50.clone()), median(series.p99.clone()));
        let alone = median(bird.p99.clone()) / median(bird.p50.clone());
        let spread = p99 / p50;
        let title = format!("P1 p99 over p50, virtd N=1 {name}, to BIRD's alone, {where_}");
        figures.judge(title, (spread, "x"), Some(alone), "p99 under 3 x p50", spread < 3.0);
    }
    for name in ["three-birds", "three-kinds"] {
        let over_one = of(name)?.added(voted, |s| &s.p50);
        figures.note(format!("P2 p50 beyond N=1, virtd {name} master-slave, {where_}"), over_one, "us", None);
    }
    Ok(())
}
