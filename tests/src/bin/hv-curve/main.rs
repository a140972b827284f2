//! What telling three instances of one version the same things at different times does for a race
//! that is in that version: the lost re-announcement of docs/BUGS.md. docs/DIVERSITY.md has what
//! came out, and how to read it.
#![forbid(unsafe_code)]

mod plot;

use anyhow::{Result, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tests::alone::name;
use tests::curve::{Between, INSTANCES, MOST_PAIRS, MOST_ROUNDS, Plan, Run, play, wilson};
use tests::daemons::Daemon;
use tests::lab::clean_up_on_signal;
use tests::parallel::in_parallel;

const EXAMPLES: &str = "\
How it is counted:
  A run is one prefix. The watching neighbour has it; another route makes FRR's advertisement interval
  run; the prefix is withdrawn and, after a gap that is another one in each run, announced again. It is
  lost if the watching neighbour ends without it. The same histories are played to FRR alone, to virtd
  with three FRRs, and to virtd with three FRRs that are told things late: each message of a peer is held
  back for a time from nothing to the delay, other times for each instance. Pairs of neighbours have
  nothing in common and are played at once.

Examples:
  hv-curve                                         the curve of docs/DIVERSITY.md, ten minutes
  hv-curve --svg curve.svg --json curve.jsonl      with a picture, and figures for programs
  hv-curve --delays 0,5000 --runs 40 --delayed 3   two points of it, quickly
  hv-curve --delays 300 --gap 500ms                gaps that all lie within the interval

It needs root (network namespaces) and the Debian package frr; 8.0 to 10.3 have the bug.
Exit status: 0 it was counted, 1 something went wrong.
";

/// Counts how often a race in one version of FRR is masked by telling three of them things at
/// different times
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Greatest delays to try, in milliseconds; 0 is three that are told everything at once
    #[arg(long, value_name = "MS,..", value_delimiter = ',', default_values_t = [0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000])]
    delays: Vec<u32>,
    /// How many of the three are told late
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [3, 2, 1])]
    delayed: Vec<usize>,
    /// Histories for each delay
    #[arg(long, value_name = "N", default_value_t = 200)]
    runs: usize,
    /// FRR's advertisement interval, in seconds
    #[arg(long, value_name = "S", default_value_t = 2)]
    interval: u32,
    /// Longest gap between the withdraw and the announcement [default: one and a half intervals]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    gap: Option<u64>,
    /// Pairs of neighbours around each router
    #[arg(long, value_name = "N", default_value_t = 50)]
    pairs: usize,
    /// Routers at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: usize,
    /// Another number gives other histories and other delays
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where to draw the curve
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Where to write the JSON lines; they are printed in any case
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1_000),
    };
    let number: u64 = number.parse().map_err(|_| "expected a time like 500ms or 2s".to_owned())?;
    number.checked_mul(unit).filter(|ms| *ms <= 60_000).ok_or_else(|| "at most 60s".to_owned())
}

/// Limits of the groups that runs are put in by their gap, in milliseconds.
const GAPS_MS: [u64; 11] = [0, 25, 50, 75, 100, 500, 1_000, 1_500, 2_000, 3_000, 60_001];

/// Runs whose gap lay within two limits.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    runs: usize,
    lost: usize,
}

/// What came out with one kind of router.
#[derive(Clone, Debug)]
struct Point {
    between: Between,
    runs: usize,
    /// Runs after which the neighbour was without the route.
    lost: usize,
    /// Runs in which the neighbour was told of the withdraw.
    withdrawn: usize,
    /// Runs that so many instances lost: none, one, two, three.
    by: [usize; INSTANCES + 1],
    /// The same runs by their gap.
    gaps: [Gap; GAPS_MS.len() - 1],
}

impl Point {
    fn new(between: Between, runs: &[Run]) -> Point {
        let mut by = [0; INSTANCES + 1];
        for run in runs {
            by.iter_mut().skip(run.lost_by.len()).take(1).for_each(|n| *n += 1);
        }
        let mut gaps = [Gap::default(); GAPS_MS.len() - 1];
        for run in runs {
            let found = GAPS_MS.windows(2).position(|limits| limits.iter().any(|limit| run.history.gap_ms() < *limit));
            // The first of the two limits is 0: nothing is below it.
            if let Some(gap) = found.and_then(|i| gaps.get_mut(i)) {
                gap.runs += 1;
                gap.lost += usize::from(run.lost);
            }
        }
        let count = |what: fn(&Run) -> bool| runs.iter().filter(|run| what(run)).count();
        Point { between, runs: runs.len(), lost: count(|r| r.lost), withdrawn: count(|r| r.withdrawn), by, gaps }
    }

    fn share(&self) -> f64 {
        self.lost as f64 / self.runs.max(1) as f64
    }

    /// The share of all instances' histories that were lost by the instance.
    fn instance_share(&self) -> f64 {
        let instances = if self.between == Between::Alone { 1 } else { INSTANCES };
        let lost: usize = self.by.iter().enumerate().map(|(n, runs)| n * runs).sum();
        lost as f64 / (self.runs * instances).max(1) as f64
    }

    /// What a majority of three would lose if each lost its share by itself.
    fn if_independent(&self) -> f64 {
        let p = self.instance_share();
        p * p * (3.0 - 2.0 * p)
    }

    fn header() -> String {
        format!(
            "{:14} {:>8} {:>10} {:>7} {:>15} {:>10} {:>12} {:>15}",
            "between", "delay ms", "lost", "share", "95 %", "instance", "independent", "by 0/1/2/3"
        )
    }

    fn row(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let (low, high) = wilson(self.lost, self.runs);
        let (who, delay, independent) = match self.between {
            Between::Alone => ("FRR alone".to_owned(), String::new(), String::new()),
            Between::Behind { delay_ms: 0, .. } => ("three".to_owned(), "0".to_owned(), String::new()),
            Between::Behind { delay_ms, delayed } => {
                (format!("three, {delayed} late"), delay_ms.to_string(), percent(self.if_independent()))
            }
        };
        let by = self.by.map(|n| n.to_string()).join("/");
        format!(
            "{who:14} {delay:>8} {:>10} {:>7} {:>15} {:>10} {independent:>12} {by:>15}",
            format!("{} of {}", self.lost, self.runs),
            percent(self.share()),
            format!("{:.1} to {:.1}", low * 100.0, high * 100.0),
            percent(self.instance_share())
        )
    }

    fn json(&self) -> Value {
        let (low, high) = wilson(self.lost, self.runs);
        let round = |x: f64| (x * 1e4).round() / 1e4;
        let (delay_ms, delayed) = match self.between {
            Between::Alone => (None, None),
            Between::Behind { delay_ms, delayed } => (Some(delay_ms), Some(if delay_ms == 0 { 0 } else { delayed })),
        };
        let limits = GAPS_MS.iter().zip(GAPS_MS.iter().skip(1)).zip(&self.gaps).filter(|(_, gap)| gap.runs > 0);
        let gaps: Vec<Value> = limits
            .map(|((from, to), gap)| json!({"from_ms": from, "below_ms": to, "runs": gap.runs, "lost": gap.lost}))
            .collect();
        json!({
            "alone": self.between == Between::Alone, "delay_ms": delay_ms, "delayed": delayed, "runs": self.runs, "lost": self.lost,
            "share": round(self.share()), "low": round(low), "high": round(high), "instance_share": round(self.instance_share()),
            "if_independent": round(self.if_independent()), "lost_by": self.by, "withdrawn": self.withdrawn, "gaps": gaps,
        })
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hv-curve: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { interval, runs, pairs, seed, .. } = *arguments;
    ensure!((1..=60).contains(&interval), "--interval: from 1 to 60 seconds");
    ensure!((1..=MOST_PAIRS).contains(&pairs), "--pairs: from 1 to {MOST_PAIRS}");
    ensure!((1..=pairs * MOST_ROUNDS).contains(&runs), "--runs: from 1 to {} with {pairs} pairs", pairs * MOST_ROUNDS);
    let gap_ms = arguments.gap.unwrap_or(u64::from(interval) * 1_500);
    let plan = Plan { interval_s: interval, gap_ms: (0, gap_ms), pairs, runs, seed, versions: [None; INSTANCES] };
    let work = work(arguments)?;
    clean_up_on_signal()?;
    let frr = name(Daemon::Frr, None);
    eprintln!("{frr}, interval {interval} s, gaps up to {gap_ms} ms, {} routers of {runs} runs", work.len());
    let points = count(&plan, work, arguments.jobs)?;
    println!("{}", Point::header());
    points.iter().for_each(|point| println!("{}", point.row()));
    let lines: Vec<String> = points.iter().map(|point| point.json().to_string()).collect();
    lines.iter().for_each(|line| println!("{line}"));
    if let Some(file) = &arguments.json {
        fs::write(file, lines.join("\n") + "\n")?;
    }
    if let Some(file) = &arguments.svg {
        plot::draw(file, &points, &plan, &frr)?;
    }
    Ok(())
}

/// All that is to be played: alone, without delays once, and every delay.
fn work(arguments: &Arguments) -> Result<Vec<Between>> {
    let mut work = vec![Between::Alone];
    for &delay_ms in &arguments.delays {
        if delay_ms > 60_000 {
            bail!("--delays: virtd takes delays up to 60000 ms");
        }
        for &delayed in &arguments.delayed {
            ensure!((1..=INSTANCES).contains(&delayed), "--delayed: from 1 to {INSTANCES}");
            let delayed = if delay_ms == 0 { INSTANCES } else { delayed };
            let one = Between::Behind { delay_ms, delayed };
            if !work.contains(&one) {
                work.push(one);
            }
        }
    }
    Ok(work)
}

/// Plays everything, some routers at a time, and hands it back in order.
fn count(plan: &Plan, work: Vec<Between>, jobs: usize) -> Result<Vec<Point>> {
    let order = work.clone();
    let start = Instant::now();
    let done = Mutex::new(Vec::new());
    // The longest first would be quicker; in order it can be read as it goes.
    in_parallel(jobs, work, |between| {
        let who = match between {
            Between::Alone => "FRR alone".to_owned(),
            Between::Behind { delay_ms, delayed } => format!("{delayed} of three up to {delay_ms} ms late"),
        };
        let tell = |what: &str| eprintln!("{:6.1} s  {who}: {what}", start.elapsed().as_secs_f64());
        let result = play(plan, between, &tell).map(|runs| Point::new(between, &runs));
        match &result {
            Ok(point) => tell(&format!("lost {} of {}", point.lost, point.runs)),
            Err(e) => tell(&format!("{e:#}")),
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).push(result);
    });
    let points = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut points = points.into_iter().collect::<Result<Vec<_>>>()?;
    points.sort_by_key(|point| order.iter().position(|between| *between == point.between));
    Ok(points)
}
