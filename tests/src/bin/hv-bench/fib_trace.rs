//! FIB pass-through under a replayed trace (papers/001, section 5.2 and Figure 7): a real trace of
//! UPDATEs, at its own speed and 3000 times that, and for each change that it makes to the
//! forwarding table the time until the kernel has it. Beside the same BIRD without us.

use crate::Arguments;
use crate::fib;
use crate::figures::{Figures, median};
use crate::latency::on_one_processor;
use crate::places::Place;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tests::lab::{data_file, wait_until};

/// 2019, 76 vantage points, played as one neighbour's.
const TRACE: &str = "updates.20190101.0000.gz";
/// Both on the neighbour's subnet; each AS_PATH has one of them.
const NEXT_HOPS: &str = "10.0.1.2,10.0.1.3";
/// As the figure in the paper.
const FAST: &str = "3000";
/// What the paper's router takes more at that speed.
const PAPER: f64 = 1.23;
/// BIRD by itself, and with one instance, three and five.
const ALONE: &str = "fib-bird";
const PLACES: [&str; 4] = [ALONE, "fib-one", "fib-three-birds", "fib-five-birds"];
/// Routes that a router without a neighbour has, of its own links.
const EMPTY: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// One place's rounds, in microseconds.
struct Rounds {
    name: &'static str,
    p50: Vec<f64>,
    p99: Vec<f64>,
    mean: Vec<f64>,
    /// Each UPDATE that changed something, by its number.
    each: Vec<BTreeMap<u64, f64>>,
}

/// Measures and judges: at the trace's speed and in a hurry, on one processor and on all.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let Some(file) = data_file(TRACE) else {
        eprintln!("not measured: there is no {TRACE} in ../shared/data/mrt");
        return Ok(());
    };
    let raw = arguments.raw.join("fib-trace.jsonl");
    fs::write(&raw, "")?;
    let file = file.display().to_string();
    on_one_processor(|| both_speeds(arguments, "one processor", &file, &raw, figures))?;
    both_speeds(arguments, "free", &file, &raw, figures)
}

fn both_speeds(arguments: &Arguments, where_: &str, file: &str, raw: &Path, figures: &mut Figures) -> Result<()> {
    let mut places = Vec::new();
    let only = &arguments.fib_places;
    let wanted = |name: &&str| only.is_empty() || *name == ALONE || only.iter().any(|place| place == name);
    for (name, kind) in fib::LATENCY.iter().filter(|(name, _)| PLACES.contains(name) && wanted(name)) {
        let place = Place::start(name, kind)?;
        // Everybody votes before anything is timed.
        place.probe_fib(&arguments.raw, &["--count", "1", "--warmup", fib::WARMUP, "--rate", "200"])?;
        places.push(place);
    }
    let slow = rounds(arguments, 1, &places, where_, false, file, raw)?;
    judge(&slow, &format!("trace x 1, {where_}"), false, figures)?;
    let fast = rounds(arguments, arguments.table_rounds, &places, where_, true, file, raw)?;
    judge(&fast, &format!("trace x {FAST}, {where_}"), true, figures)?;
    places.into_iter().for_each(Place::done);
    Ok(())
}

fn rounds(
    arguments: &Arguments,
    count: u32,
    places: &[Place],
    where_: &str,
    fast: bool,
    file: &str,
    raw: &Path,
) -> Result<Vec<Rounds>> {
    let new = |place: &Place| Rounds { name: place.name, p50: vec![], p99: vec![], mean: vec![], each: vec![] };
    let mut all: Vec<Rounds> = places.iter().map(new).collect();
    let span = arguments.fib_trace_seconds.to_string();
    let speed: &[&str] = if fast { &["--speed", FAST] } else { &["--speed", "1", "--span", &span, "--each"] };
    let options = [speed, &["--mrt", file, "--next-hops", NEXT_HOPS]].concat();
    for round in 1..=count {
        for (place, rounds) in places.iter().zip(&mut all) {
            wait_until("the kernel to be without routes", PATIENCE, || {
                let routes = place.star.router.run("ip", &["-4", "route", "show"]).map_err(|e| format!("{e:#}"))?;
                let routes = routes.lines().count();
                if routes <= EMPTY { Ok(()) } else { Err(format!("{}: {routes} routes", place.name)) }
            })?;
            // Where there are queues, sending must not go before everything else.
            let probe = if fast { Place::probe_fib } else { Place::probe_fib_at_once };
            let mut result = on_one_processor(|| probe(place, &arguments.raw, &options))?;
            crate::keep(
                raw,
                &json!({ "on": where_, "round": round, "place": place.name, "options": options, "result": result }),
            )?;
            if let Some(each) = result.as_object_mut().and_then(|result| result.remove("each_ns")) {
                let each: Vec<(u64, f64)> = serde_json::from_value(each).context("the times of each UPDATE")?;
                rounds.each.push(each.into_iter().map(|(number, ns)| (number, ns / 1000.0)).collect());
            }
            ensure!(result["lost"] == 0, "changes were lost: {result}");
            println!("FIB trace, {where_}, round {round}: {}: {result}", place.name);
            let us =
                |key: &str| result[key].as_f64().map(|ns| ns / 1000.0).with_context(|| format!("no {key} in {result}"));
            rounds.p50.push(us("p50_ns")?);
            rounds.p99.push(us("p99_ns")?);
            rounds.mean.push(us("mean_ns")?);
        }
    }
    Ok(all)
}

fn judge(all: &[Rounds], what: &str, fast: bool, figures: &mut Figures) -> Result<()> {
    let bird = all.first().context("nothing was measured")?;
    for rounds in all {
        let pairs =
            [("p50", &rounds.p50, &bird.p50), ("p99", &rounds.p99, &bird.p99), ("mean", &rounds.mean, &bird.mean)];
        for (name, values, base) in pairs {
            let title = format!("FIB pass-through {name}, {}, {what}", rounds.name);
            let (value, base) = (median(values.clone()), median(base.clone()));
            if fast && name == "mean" && rounds.name != bird.name {
                figures.judge(title, (value, "us"), Some(base), "under 1.23 x (the paper's)", value < PAPER * base);
            } else {
                figures.note(title, value, "us", Some(base));
            }
        }
    }
    if fast {
        return Ok(());
    }
    for rounds in all.iter().skip(1) {
        let added = median(rounds.p50.iter().zip(&bird.p50).map(|(mine, base)| mine - base));
        let title = format!("FIB pass-through added p50, {}, {what}", rounds.name);
        figures.judge(title, (added, "us"), None, "under 100 us", added < fib::ADDED_US);
        // A median of each place's is as much about which of its UPDATEs is in the middle: this is
        // the same UPDATE in both.
        let pairs = rounds.each.iter().zip(&bird.each);
        let added = pairs.flat_map(|(mine, base)| mine.iter().filter_map(|(number, us)| Some(us - base.get(number)?)));
        let added: Vec<f64> = added.collect();
        ensure!(!added.is_empty(), "no UPDATE of the trace was timed both in {} and in {}", rounds.name, bird.name);
        let title = format!("FIB pass-through added to the same UPDATE, p50, {}, {what}", rounds.name);
        figures.note(title, median(added), "us", None);
    }
    Ok(())
}
