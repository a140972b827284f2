//! Two builds of virtd side by side, in the same rounds: whether a change costs anything. What is
//! told is the ratio within a round, since a shared machine is quicker in one minute than in the
//! next.

use crate::Arguments;
use crate::fib::{self, WARMUP};
use crate::figures::{Figures, median};
use crate::latency::{self, on_one_processor, us};
use crate::places::{Kind, Place};
use crate::processes;
use crate::watchers::Watchers;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use tests::lab::built;

/// UPDATEs from neighbour to neighbour.
const UPDATES: [&str; 3] = ["voted", "three-birds", "three-kinds"];
/// UPDATEs into the kernel.
const ROUTES: [&str; 2] = ["fib-one", "fib-three-birds"];
/// OpenBGPD holds back its sessions longer each time that one has ended: it is begun anew.
const HOLDS_BACK: &str = "three-kinds";
/// Tables from neighbour to neighbour.
const TABLES: [&str; 2] = ["one", "three"];

/// One figure of both builds, one value a round.
#[derive(Default)]
struct Pair {
    this: Vec<f64>,
    other: Vec<f64>,
}

impl Pair {
    fn push(&mut self, is_this: bool, value: f64) {
        if is_this { self.this.push(value) } else { self.other.push(value) }
    }

    /// The median of the rounds' ratios; the smallest and the largest with it.
    fn note(&self, title: &str, unit: &'static str, figures: &mut Figures) {
        let ratios: Vec<f64> = self.this.iter().zip(&self.other).map(|(this, other)| this / other).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        println!("{title}: {:.3} x the other's ({least:.3} to {most:.3})", median(ratios.clone()));
        figures.note(title, median(self.this.clone()), unit, Some(median(self.other.clone())));
        figures.note(format!("{title}, ratio within a round"), median(ratios), "x", None);
    }
}

/// Measures both, where `--other-virtd` names one.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let other = match &arguments.other_virtd {
        Some(other) => other.canonicalize().with_context(|| format!("--other-virtd {}", other.display()))?,
        None if arguments.watched => built("virtd")?,
        None => anyhow::bail!("--only pair needs --other-virtd FILE, or --watched"),
    };
    let raw = arguments.raw.join("pair.jsonl");
    fs::write(&raw, "")?;
    let chosen = &arguments.pairs;
    // Who watches a router does not follow where it is begun anew.
    let stays = |name: &str| !arguments.watched || name != HOLDS_BACK;
    let wanted = |name: &str| stays(name) && (chosen.is_empty() || chosen.iter().any(|c| c == name));
    for where_ in ["one processor", "free"].into_iter().take(if arguments.pinned { 1 } else { 2 }) {
        let latencies = latency::PLACES.iter().filter(|(name, _)| UPDATES.contains(name) && wanted(name));
        let routes = fib::LATENCY.iter().filter(|(name, _)| ROUTES.contains(name) && wanted(name));
        for (name, kind) in latencies.chain(routes) {
            let measured = || one_at_a_time(arguments, name, kind, &other, where_, &raw);
            let pair = if where_ == "free" { measured()? } else { on_one_processor(measured)? };
            pair.note(&format!("pair, p50, {name}, {where_}"), "us", figures);
        }
    }
    for (prefixes, rounds) in [(arguments.prefixes, arguments.table_rounds), (arguments.large, arguments.table_rounds)]
    {
        let tables = crate::table::PLACES.iter().filter(|(name, _)| TABLES.contains(name) && wanted(name));
        for (name, kind) in tables.filter(|_| prefixes > 0 && !arguments.pinned) {
            let (mut time, mut memory) = (Pair::default(), Pair::default());
            for round in 1..=rounds {
                for is_this in order(round) {
                    let (seconds, peak) = table(arguments, name, kind, (!is_this).then_some(&other), prefixes)?;
                    crate::keep(
                        &raw,
                        &json!({ "prefixes": prefixes, "round": round, "place": name, "this": is_this, "seconds": seconds, "peak_kib": peak }),
                    )?;
                    time.push(is_this, seconds);
                    memory.push(is_this, peak);
                }
            }
            time.note(&format!("pair, table of {prefixes}, {name}"), "s", figures);
            memory.note(&format!("pair, memory with {prefixes}, {name}"), "KiB", figures);
        }
    }
    Ok(())
}

/// Which is first changes from round to round.
fn order(round: u32) -> [bool; 2] {
    let this_first = !round.is_multiple_of(2);
    [this_first, !this_first]
}

fn one_at_a_time(
    arguments: &Arguments,
    name: &'static str,
    kind: &Kind,
    other: &Path,
    where_: &str,
    raw: &Path,
) -> Result<Pair> {
    let start = |is_this: bool| Place::start_build(name, kind, (!is_this).then(|| other.to_owned()));
    let mut places = [(true, start(true)?), (false, start(false)?)];
    let watchers = arguments.watched.then(|| Watchers::start(&places[0].1)).transpose()?;
    let (count, rate) = (arguments.count.to_string(), arguments.rate.to_string());
    let mut pair = Pair::default();
    for round in 1..=arguments.rounds {
        if round > 1 && name == HOLDS_BACK {
            for (is_this, place) in &mut places {
                std::mem::replace(place, start(*is_this)?).done();
            }
        }
        for is_this in order(round) {
            let (_, place) = places.iter().find(|(this, _)| *this == is_this).context("neither build")?;
            let result = match kind {
                Kind::Fib(..) => {
                    let warmup = if round == 1 { WARMUP } else { "50" };
                    let options = ["--count", &count, "--rate", &rate, "--warmup", warmup];
                    on_one_processor(|| place.probe_fib_at_once(&arguments.raw, &options))?
                }
                _ => place.probe(&arguments.raw, &["--count", &count, "--rate", &rate])?,
            };
            crate::keep(
                raw,
                &json!({ "on": where_, "round": round, "place": name, "this": is_this, "result": result }),
            )?;
            pair.push(is_this, us(&result, "p50_ns")?);
        }
    }
    if let Some(watchers) = watchers {
        println!("the watchers were shown {} KiB", watchers.seen.load(Ordering::Relaxed) / 1024);
        watchers.done();
    }
    places.into_iter().for_each(|(_, place)| place.done());
    Ok(pair)
}

/// Seconds, and virtd's memory at the peak in KiB.
fn table(
    arguments: &Arguments,
    name: &'static str,
    kind: &Kind,
    other: Option<&std::path::PathBuf>,
    prefixes: u32,
) -> Result<(f64, f64)> {
    let place = Place::start_build(name, kind, other.cloned())?;
    let result = place.probe(&arguments.raw, &["--table-run", "--count", &prefixes.to_string()])?;
    ensure!(result["lost"] == 0, "routes were lost: {result}");
    let peak = processes::memory(&place.star.router, "virtd")?.peak;
    place.done();
    Ok((result["seconds"].as_f64().context("no time in the result")?, peak))
}
