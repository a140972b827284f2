//! `make sessions`: the life of a session, every row with every router under every strategy, with
//! real daemons, judged by the neighbours' own logs. Prints a line for each as it ends, then the
//! table with the daemons' own times, then one JSON line. docs/SESSIONS.md says what is done and
//! what is checked.
#![forbid(unsafe_code)]

mod table;

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::json;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use table::Line;
use tests::faults::scene::STRATEGIES;
use tests::lab::clean_up_on_signal;
use tests::parallel::in_parallel;
use tests::sessions::stage::Stage;
use tests::sessions::{ALL, Case};

const EXAMPLES: &str = "\
A line of the table: the case, the router, the strategy, how long after its cause the neighbours saw the session's end, and how long the
daemons take for the same on their own, without virtd (FRR, BIRD, OpenBGPD). No case fails on time: what is checked is what happens, and
in which order.

Routers:
  frr-alone, bird-alone, openbgpd-alone   the daemon on its own: for the times beside
  one-frr, one-bird, one-openbgpd         virtd with one instance
  two, trio, two-frrs                     BIRD and OpenBGPD; FRR, BIRD and OpenBGPD; FRR, BIRD and a second FRR

Examples:
  Which cases are there, and what is right?
    hv-sessions --list
  Row a of docs/SESSIONS.md, by the trio alone, with one strategy:
    hv-sessions --row a --router trio --strategy wait-for-consensus
  Everything about links:
    hv-sessions --filter link
  How fast are the daemons themselves?
    hv-sessions --router alone

A case that fails keeps its folder (configurations, logs, virtd's events) and says where it is.
Exit status: 0 all passed, 1 some have failed, 2 a mistake in the options.";

/// Ends sessions in every way there is, and asks the neighbours what they noticed
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
struct Arguments {
    /// Only cases with this in their name
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only this row of docs/SESSIONS.md
    #[arg(long, value_name = "LETTER")]
    row: Option<char>,
    /// Only this strategy
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Only routers with this in their name
    #[arg(long, value_name = "TEXT")]
    router: Option<String>,
    /// Say which cases there are and what is right, and nothing else
    #[arg(long)]
    list: bool,
    /// Routers at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
}

/// One case in one router.
#[derive(Clone, Copy)]
struct Turn {
    case: &'static Case,
    stage: Stage,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("hv-sessions: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let turns = turns(arguments)?;
    if arguments.list {
        list(&turns);
        return Ok(true);
    }
    clean_up_on_signal()?;
    let (start, count) = (Instant::now(), turns.len());
    let lines = Mutex::new(Vec::new());
    in_parallel(arguments.jobs, turns, |turn| play(turn, count, &lines));
    let lines = lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    table::print(&lines);
    let failed = lines.iter().filter(|line| line.failed.is_some()).count();
    let seconds = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let cases: Vec<_> = lines.iter().map(Line::json).collect();
    println!("{}", json!({"passed": lines.len() - failed, "failed": failed, "seconds": seconds, "cases": cases}));
    Ok(failed == 0)
}

/// The daemons alone first, so that their times are there when the others are read.
fn turns(arguments: &Arguments) -> Result<Vec<Turn>> {
    let fits = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|text| name.contains(text.as_str()));
    if let Some(name) = &arguments.strategy
        && !STRATEGIES.contains(&name.as_str())
    {
        bail!("there is no strategy {name}: {}", STRATEGIES.join(", "));
    }
    let mut turns = Vec::new();
    for alone in [true, false] {
        for case in ALL.iter().filter(|case| fits(&arguments.filter, case.name)) {
            if arguments.row.is_some_and(|row| row != case.row) {
                continue;
            }
            for made in case.made.iter().filter(|made| made.is_alone() == alone && fits(&arguments.router, made.name()))
            {
                let named = |s: &&str| arguments.strategy.as_ref().is_none_or(|name| name == s);
                let for_case = |s: &&str| case.strategies.is_empty() || case.strategies.contains(s);
                // Without virtd there are no strategies: once is enough.
                let most = if alone { 1 } else { STRATEGIES.len() };
                let strategies = STRATEGIES.iter().copied().filter(|s| alone || (named(s) && for_case(s))).take(most);
                turns.extend(strategies.map(|strategy| Turn { case, stage: Stage { made: *made, strategy } }));
            }
        }
    }
    if turns.is_empty() {
        bail!("no case fits; --list shows them");
    }
    Ok(turns)
}

fn list(turns: &[Turn]) {
    let mut names: Vec<&str> = turns.iter().map(|turn| turn.case.name).collect();
    names.sort_unstable();
    names.dedup();
    for case in ALL.iter().filter(|case| names.contains(&case.name)) {
        println!("{}  {:22} {}", case.row, case.name, case.right);
        let mut routers: Vec<&str> =
            turns.iter().filter(|t| t.case.name == case.name).map(|t| t.stage.made.name()).collect();
        routers.dedup();
        println!("   {:22} {}", "", routers.join(", "));
    }
}

fn play(turn: Turn, count: usize, lines: &Mutex<Vec<Line>>) {
    let start = Instant::now();
    let outcome = turn.case.run(turn.stage);
    let line = Line::new(turn.case, turn.stage, start.elapsed().as_secs_f64(), outcome);
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push(line);
    if let Some(line) = lines.last() {
        line.print(lines.len(), count);
    }
}
