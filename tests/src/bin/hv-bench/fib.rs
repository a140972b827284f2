//! Routes into the kernel: the FIB pass-through time of one UPDATE (papers/001, section 5.2), and a
//! whole table's; against the same BIRD without us. A route has arrived when Linux has told its
//! listeners that it is in the main table; the clock is that of the neighbour that sent it.

use crate::Arguments;
use crate::figures::{Figures, median};
use crate::latency::{Series, on_one_processor};
use crate::places::{Kind, Place};
use crate::processes::{self, Cpu};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tests::daemons::Daemon::{Bird, Frr, OpenBgpd};
use tests::fib::wait_state;
use tests::lab::wait_until;
use tests::replayer::Replayer;
use tests::versions::Version;
use virtd_api::Fib;

/// What may be added to one UPDATE.
pub const ADDED_US: f64 = 100.0;
/// A whole table may take so many times as long as with the daemon alone.
const INSTALL: f64 = 1.1;
/// UPDATEs before anything is timed at a place that has just started: at 200 a second more than T,
/// so that everybody votes.
pub const WARMUP: &str = "800";
const PATIENCE: Duration = Duration::from_secs(120);
/// Octets a route that virtd may take for the FIB with one instance: four copies of some 70 octets
/// with their keys and indices.
const MEMORY: f64 = 600.0;

/// Where one UPDATE is timed.
pub const LATENCY: [(&str, Kind); 5] = [
    ("fib-bird", Kind::FibAlone(Bird)),
    ("fib-one", Kind::Fib(&[(Bird, None)], true)),
    ("fib-three-birds", Kind::Fib(&[(Bird, None); 3], true)),
    ("fib-five-birds", Kind::Fib(&[(Bird, None); 5], true)),
    ("fib-three-kinds", Kind::Fib(&[(Bird, None), (Frr, None), (OpenBgpd, Some(Version::OPENBGPD_13))], true)),
];

const TABLE: [(&str, Kind); 4] = [
    ("fib-bird", Kind::FibAlone(Bird)),
    ("fib-one", Kind::Fib(&[(Bird, None)], true)),
    ("fib-three-birds", Kind::Fib(&[(Bird, None); 3], true)),
    // For its memory alone: the same virtd without the FIB.
    ("no-fib", Kind::Fib(&[(Bird, None)], false)),
];

/// Measures and judges: one UPDATE on one processor and on all, then a table.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let raw = arguments.raw.join("fib-latency.jsonl");
    fs::write(&raw, "")?;
    judge(&on_one_processor(|| series(arguments, "one processor", &raw))?, "one processor", figures)?;
    judge(&series(arguments, "free", &raw)?, "free", figures)?;
    if arguments.fib_prefixes > 0 {
        table(arguments, figures)?;
    }
    Ok(())
}

/// Whether a place's daemons are to be had; who is missing has been told.
fn available(kind: &Kind) -> Result<bool> {
    let Kind::Fib(list, _) = kind else { return Ok(true) };
    for version in list.iter().filter_map(|(_, version)| *version) {
        if let Err(why) = version.fetch()? {
            eprintln!("not measured with {}: {why}", version.name());
            return Ok(false);
        }
    }
    Ok(true)
}

fn series(arguments: &Arguments, where_: &str, raw: &Path) -> Result<Vec<Series>> {
    let mut places = Vec::new();
    let only = &arguments.fib_places;
    for (name, kind) in &LATENCY {
        let wanted = only.is_empty() || matches!(kind, Kind::FibAlone(_)) || only.iter().any(|place| place == name);
        if !wanted || !available(kind)? {
            continue;
        }
        places.push((Place::start(name, kind)?, Series::new(name)));
    }
    let (count, rate) = (arguments.count.to_string(), arguments.rate.to_string());
    for round in 1..=arguments.rounds {
        for (place, series) in &mut places {
            if round > 1 && place.name == "fib-three-kinds" {
                // OpenBGPD holds back its sessions once they have ended, longer each time; starting
                // it anew takes more than a minute.
                continue;
            }
            let warmup = if round == 1 { WARMUP } else { "50" };
            let options = ["--count", &count, "--rate", &rate, "--warmup", warmup];
            // The neighbour is no part of the router: where it would wander from one processor to
            // the other, all would follow it.
            let result = on_one_processor(|| place.probe_fib_at_once(&arguments.raw, &options))?;
            let state = place.router().map(|router| router.ctl::<Fib>(&["fib"])).transpose()?;
            crate::keep(
                raw,
                &json!({ "on": where_, "round": round, "place": place.name, "result": result, "fib": state }),
            )?;
            series.push(&result)?;
        }
        let line: Vec<String> =
            places.iter().map(|(_, s)| format!("{} {:.0}", s.name, s.p50.last().copied().unwrap_or(0.0))).collect();
        println!("FIB pass-through, {where_}, round {round} of {}: p50 in us: {}", arguments.rounds, line.join(", "));
    }
    Ok(places
        .into_iter()
        .map(|(place, series)| {
            place.done();
            series
        })
        .collect())
}

fn judge(all: &[Series], where_: &str, figures: &mut Figures) -> Result<()> {
    let bird = all.first().context("nothing was measured")?;
    for series in all {
        for (quantile, values, base) in [("p50", &series.p50, &bird.p50), ("p99", &series.p99, &bird.p99)] {
            let title = format!("FIB pass-through {quantile}, {}, {where_}", series.name);
            figures.note(title, median(values.clone()), "us", Some(median(base.clone())));
        }
    }
    for series in all.iter().skip(1) {
        let added = series.added(bird, |s| &s.p50);
        let title = format!("FIB pass-through added p50, {}, {where_}", series.name);
        figures.judge(title, (added, "us"), None, "under 100 us", added < ADDED_US);
        // On a machine that is shared, the rounds in which the others wanted least of it say most
        // about the router.
        let best = |s: &Series| s.p50.iter().copied().fold(f64::INFINITY, f64::min);
        let title = format!("FIB pass-through added p50, {}, {where_}, best rounds", series.name);
        figures.note(title, best(series) - best(bird), "us", None);
    }
    Ok(())
}

/// What the rounds with a table came to.
struct Runs {
    name: &'static str,
    seconds: Vec<f64>,
    cpu: Vec<Cpu>,
    /// KiB that virtd has more with the table than before it.
    rss: Vec<f64>,
    /// Of `virtctl fib`.
    stated: Vec<f64>,
}

fn table(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let raw = arguments.raw.join("fib-table.jsonl");
    fs::write(&raw, "")?;
    let new = |name| Runs { name, seconds: vec![], cpu: vec![], rss: vec![], stated: vec![] };
    let mut all: Vec<Runs> = TABLE.iter().map(|(name, _)| new(*name)).collect();
    for round in 1..=arguments.table_rounds {
        for ((_, kind), runs) in TABLE.iter().zip(&mut all) {
            let result = runs.round(kind, arguments)?;
            println!("FIB table, round {round}: {}: {result}", runs.name);
            crate::keep(&raw, &json!({ "round": round, "place": runs.name, "result": result }))?;
        }
    }
    judge_table(&all, arguments.fib_prefixes, figures)
}

impl Runs {
    fn round(&mut self, kind: &Kind, arguments: &Arguments) -> Result<Value> {
        let (place, n) = (Place::start(self.name, kind)?, arguments.fib_prefixes);
        let ns = place.star.router.clone();
        let (empty, mut result) = (processes::memory(&ns, "virtd").ok(), json!({}));
        let writes = !matches!(kind, Kind::Fib(_, false));
        if writes {
            // Everybody votes, and the start's own rules are behind us.
            place.probe_fib(&arguments.raw, &["--count", "1", "--warmup", WARMUP, "--rate", "200"])?;
            if let (Kind::Fib(list, _), Some(router)) = (kind, place.router()) {
                let names = (1..=list.len()).map(|i| if i == 1 { "bird".to_owned() } else { format!("bird{i}") });
                names.into_iter().try_for_each(|name| wait_state(router, &name, "voting", PATIENCE))?;
            }
            let before = processes::cpu(&ns)?;
            result = place.probe_fib(&arguments.raw, &["--table-run", "--count", &n.to_string()])?;
            let used = processes::cpu(&ns)?.since(before);
            ensure!(result["lost"] == 0, "routes were lost: {result}");
            self.seconds.push(result["seconds"].as_f64().context("no time in the result")?);
            self.cpu.push(used);
            result["cpu_s"] = json!({ "virtd": used.virtd, "daemons": used.others });
        }
        if let (Some(empty), Some(router)) = (empty, place.router()) {
            let (feed, stated) = loaded(&place, n, writes)?;
            let memory = processes::memory(&ns, "virtd")?;
            self.rss.push(memory.now - empty.now);
            self.stated.push(stated);
            result["memory"] = json!({ "empty_rss_kib": empty.now, "rss_kib": memory.now, "peak_kib": memory.peak, "virtctl_bytes": stated });
            result["fib"] = json!(writes.then(|| router.ctl::<Fib>(&["fib"])).transpose()?);
            drop(feed);
        }
        place.done();
        Ok(result)
    }
}

/// A neighbour whose whole table stands, and what `virtctl fib` says of the memory that it takes
/// then; 0 without a FIB.
fn loaded(place: &Place, n: u32, writes: bool) -> Result<(Replayer, f64)> {
    let router = place.router().context("no virtd")?;
    let mut feed = place.feed(n)?;
    feed.wait_event("feed-done", PATIENCE)?;
    let mut stated = 0.0;
    if writes {
        wait_until("the FIB to be whole", PATIENCE, || {
            let fib: Fib = router.ctl(&["fib"]).map_err(|e| format!("{e:#}"))?;
            stated = fib.memory_bytes as f64;
            if fib.routes == n as usize { Ok(()) } else { Err(format!("{fib:?}")) }
        })?;
    }
    router.wait_quiet(Duration::from_secs(2), PATIENCE)?;
    Ok((feed, stated))
}

fn judge_table(all: &[Runs], n: u32, figures: &mut Figures) -> Result<()> {
    let of = |name: &str| all.iter().find(|r| r.name == name).with_context(|| format!("{name} was not measured"));
    let time = |runs: &Runs| median(runs.seconds.clone());
    let bird = of("fib-bird")?;
    figures.note(format!("{n} routes into the kernel, fib-bird"), time(bird), "s", None);
    for name in ["fib-one", "fib-three-birds"] {
        let runs = of(name)?;
        figures.note(format!("{n} routes into the kernel, {name}, to BIRD alone"), time(runs), "s", Some(time(bird)));
        // A shared machine is quicker in one minute than in the next; within a round it is much the
        // same.
        let pairs = median(runs.seconds.iter().zip(&bird.seconds).map(|(this, bird)| this / bird));
        let title = format!("{n} routes into the kernel, {name}, to BIRD alone in the same round");
        match name {
            "fib-one" => figures.judge(title, (pairs, "x"), None, "at most 1.1 x", pairs <= INSTALL),
            _ => figures.note(title, pairs, "x", None),
        }
        let (virtd, daemons) = (median(runs.cpu.iter().map(|c| c.virtd)), median(runs.cpu.iter().map(|c| c.others)));
        figures.note(format!("processor time of virtd, {name}, to its instances'"), virtd, "s", Some(daemons));
    }
    let base = median(of("no-fib")?.rss.clone()) * 1024.0 / f64::from(n);
    for name in ["fib-one", "fib-three-birds"] {
        let runs = of(name)?;
        let rss = median(runs.rss.clone()) * 1024.0 / f64::from(n);
        let stated = median(runs.stated.clone()) / f64::from(n);
        figures.note(format!("octets a route by virtctl fib, {name}"), stated, "octets", None);
        let title = format!("virtd's RSS a route, {name}, to the same without [fib]");
        match name {
            "fib-one" => {
                figures.judge(title, (rss, "octets"), Some(base), "under 600 more", rss - base < MEMORY);
            }
            _ => figures.note(title, rss, "octets", Some(base)),
        }
    }
    Ok(())
}
