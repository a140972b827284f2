//! `make faults`: every fault under every strategy, with real daemons, judged by the neighbours'
//! own logs. Prints a table as it goes, then one JSON line. docs/FAULTS.md says what is done and
//! what is checked.
#![forbid(unsafe_code)]

use anyhow::{Result, bail};
use clap::{ArgAction, Parser};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tests::faults::cases::{ALL, Case};
use tests::faults::scene::{Keeper, STRATEGIES, Scene, Size};
use tests::lab::clean_up_on_signal;
use tests::parallel::in_parallel;

/// Breaks the instances of a router in every way there is, and asks its neighbours what they
/// noticed
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Only cases with this in their name
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only this strategy
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Say which cases there are, and nothing else
    #[arg(long)]
    list: bool,
    /// Have virtd's controller bring the instances back, and count it as a failure where it does
    /// not; with false the suite does
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_value_t = true, default_missing_value = "true")]
    recovery: bool,
    /// Routers at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
}

/// What came of one case.
struct Row {
    name: &'static str,
    strategy: &'static str,
    passed: bool,
    seconds: f64,
    detail: String,
}

impl Row {
    fn print(&self) {
        let word = if self.passed { "ok    " } else { "FAILED" };
        println!("{word} {:20} {:22} {:6.1} s  {}", self.strategy, self.name, self.seconds, self.detail);
    }

    fn json(&self) -> Value {
        let seconds = (self.seconds * 10.0).round() / 10.0;
        json!({"name": self.name, "strategy": self.strategy, "passed": self.passed, "seconds": seconds, "detail": self.detail})
    }
}

/// Cases that share a router.
struct Group {
    strategy: &'static str,
    size: Size,
    cases: Vec<&'static Case>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("hv-faults: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let groups = groups(arguments)?;
    if arguments.list {
        for group in &groups {
            group.cases.iter().for_each(|case| println!("{:20} {}", group.strategy, case.name));
        }
        return Ok(true);
    }
    clean_up_on_signal()?;
    for case in fitting(arguments).filter(|case| case.controller && !arguments.recovery) {
        println!("not played with --recovery false: {}", case.name);
    }
    let keeper = if arguments.recovery { Keeper::Virtd } else { Keeper::Scene };
    let start = Instant::now();
    let rows = Mutex::new(Vec::new());
    in_parallel(arguments.jobs, groups, |group| play(&group, keeper, &rows));
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let passed = rows.iter().filter(|row| row.passed).count();
    let cases: Vec<Value> = rows.iter().map(Row::json).collect();
    let seconds = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    println!(
        "{}",
        json!({"passed": passed, "failed": rows.len() - passed, "seconds": seconds, "recovery": arguments.recovery, "cases": cases})
    );
    Ok(passed == rows.len())
}

/// The cases that the filter lets through.
fn fitting(arguments: &Arguments) -> impl Iterator<Item = &'static Case> {
    let wanted = |case: &&Case| arguments.filter.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    ALL.iter().filter(wanted)
}

fn groups(arguments: &Arguments) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for size in [Size::Three, Size::Five] {
        for strategy in STRATEGIES {
            let cases: Vec<&Case> = fitting(arguments)
                .filter(|case| case.size == size && (arguments.recovery || !case.controller))
                .collect();
            let named = arguments.strategy.as_ref().is_none_or(|name| name == strategy);
            if named && !cases.is_empty() {
                groups.push(Group { strategy, size, cases });
            }
        }
    }
    if groups.is_empty() {
        bail!("no case fits; --list shows them");
    }
    Ok(groups)
}

/// Plays cases one after another in one router, and in a new one after each failure. Where no
/// router can be had, all that are left have failed.
fn play(group: &Group, keeper: Keeper, rows: &Mutex<Vec<Row>>) {
    let mut scene = None;
    let mut hopeless = None;
    for case in &group.cases {
        let start = Instant::now();
        if scene.is_none() && hopeless.is_none() {
            match Scene::start(group.strategy, group.size, keeper) {
                Ok(new) => scene = Some(new),
                Err(e) => hopeless = Some(format!("no router: {e:#}")),
            }
        }
        let (passed, detail) = match (&mut scene, &hopeless) {
            (Some(scene), _) => match case.run(scene) {
                Ok(notes) => (true, notes.join(", ")),
                Err(e) => (false, format!("{e:#}")),
            },
            (None, why) => (false, why.clone().unwrap_or_default()),
        };
        if !passed {
            // Its files are kept, and say where.
            drop(scene.take());
        }
        let seconds = start.elapsed().as_secs_f64();
        let row = Row { name: case.name, strategy: group.strategy, passed, seconds, detail };
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        row.print();
        rows.push(row);
    }
    if let Some(scene) = scene {
        scene.passed();
    }
}
