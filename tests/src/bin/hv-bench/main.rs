//! `make bench`: what virtd costs, as ratios to the same daemon without it and to HAProxy in its
//! place, measured side by side in one run. docs/BENCHMARKS.md says what each figure means. Raw
//! results of every round go to `target/bench/`.
#![forbid(unsafe_code)]

mod criterion;
mod exchange;
mod fib;
mod fib_trace;
mod figures;
mod latency;
mod pair;
mod places;
mod processes;
mod restart;
mod table;
mod voters;
mod watchers;

use anyhow::{Context, Result};
use clap::Parser;
use figures::Figures;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tests::lab::clean_up_on_signal;

/// Measures virtd beside the daemons alone and beside HAProxy
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Rounds of the latency measurement; each round visits every place once
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// UPDATEs that are timed at each place in each round
    #[arg(long, default_value_t = 300)]
    count: u32,
    /// UPDATEs a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Rounds of the table measurement
    #[arg(long, default_value_t = 3)]
    table_rounds: u32,
    /// Prefixes of the table
    #[arg(long, default_value_t = 100_000)]
    prefixes: u32,
    /// Prefixes of one more, single round with a table of the size that the targets name; 0 leaves
    /// it out
    #[arg(long, default_value_t = 1_000_000)]
    large: u32,
    /// Routes of the table that goes into the kernel; 0 leaves it out
    #[arg(long, default_value_t = 200_000)]
    fib_prefixes: u32,
    /// Seconds of the trace that is played into the kernel at its own speed; 0 leaves the trace out
    #[arg(long, default_value_t = 30)]
    fib_trace_seconds: u32,
    /// Only these places where UPDATEs go into the kernel, beside BIRD alone
    #[arg(long, value_delimiter = ',', value_parser = fib::LATENCY.map(|(name, _)| name))]
    fib_places: Vec<String>,
    /// Another build of virtd, with its libhvlibc.so beside it, that is measured beside this one in
    /// the same rounds: one UPDATE, one route, a table, its memory. It adds the part `pair`
    #[arg(long, value_name = "FILE")]
    other_virtd: Option<PathBuf>,
    /// The part `pair` on one processor alone, without tables
    #[arg(long)]
    pinned: bool,
    /// Only these places of the part `pair`: voted, three-birds, three-kinds, fib-one,
    /// fib-three-birds, and one and three for the tables
    #[arg(long, value_delimiter = ',')]
    pairs: Vec<String>,
    /// The part `pair` measures this build with all that may watch it beside this build without: a
    /// hundred readers of virtd-monitor's page, a scrape each second, a slow BMP collector
    #[arg(long, conflicts_with = "other_virtd")]
    watched: bool,
    /// Keep the processors from sleeping meanwhile (/dev/cpu_dma_latency): what it takes to wake
    /// them is in no figure then
    #[arg(long)]
    awake: bool,
    /// Rounds of five voters against three
    #[arg(long, default_value_t = 3)]
    voter_rounds: u32,
    /// Routes of the real table that they are given; 0 leaves them out
    #[arg(long, default_value_t = 200_000)]
    voter_prefixes: u32,
    /// Exchanges to play: how many neighbours, and how many routes each of them has
    #[arg(long, value_name = "NxK", value_delimiter = ',', default_value = "100x50,300x50")]
    exchange: Vec<exchange::Size>,
    /// The route servers to play them to. All of it: --only exchange
    /// --exchange 100x50,300x50,700x50,1000x50,100x2000,300x500,700x500 --exchange-kill
    /// --exchange-places bird,openbgpd,frr,virtd-bird,virtd-three,virtd-three-consensus
    #[arg(long, value_delimiter = ',', default_value = "bird,virtd-bird", value_parser = exchange::PLACES.map(|(name, _)| name))]
    exchange_places: Vec<String>,
    /// An exchange that is not complete after so many seconds is given up, and said to be
    #[arg(long, default_value_t = 180)]
    exchange_timeout: u64,
    /// Kill BIRD behind virtd, where others vote, too, once an exchange is complete, start it again, and say what the
    /// neighbours saw until it voted again
    #[arg(long)]
    exchange_kill: bool,
    /// Once an exchange is complete, measure for so many seconds what processor time it takes at rest, with nothing
    /// but KEEPALIVEs; 0 leaves it out
    #[arg(long, value_name = "S", default_value_t = 0)]
    exchange_rest: u64,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the figures go
    #[arg(long, default_value = "target/bench.json")]
    output: PathBuf,
    /// Where the raw results go
    #[arg(long, default_value = "target/bench")]
    raw: PathBuf,
    /// Where the criterion benches have left their results
    #[arg(long, default_value = "target/criterion")]
    criterion: PathBuf,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One UPDATE from neighbour to neighbour
    Latency,
    /// A table from neighbour to neighbour
    Table,
    /// A crashed daemon's return
    Restart,
    /// Routes into the kernel: one UPDATE, and a table
    Fib,
    /// Routes into the kernel: a real trace
    FibTrace,
    /// Five voters against three
    Voters,
    /// A route server with hundreds of neighbours
    Exchange,
    /// This build beside another (--other-virtd)
    Pair,
    /// What the criterion benches have left
    Criterion,
}

fn main() -> ExitCode {
    match clean_up_on_signal().and_then(|()| run(&Arguments::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hv-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    fs::create_dir_all(&arguments.raw).with_context(|| format!("making {}", arguments.raw.display()))?;
    println!("{}", machine());
    let _awake = arguments.awake.then(keep_awake).transpose()?;
    let mut figures = Figures::default();
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    if wanted(Part::Latency) {
        latency::measure(arguments, &mut figures)?;
    }
    if wanted(Part::Table) {
        table::measure(arguments, &mut figures)?;
    }
    if wanted(Part::Restart) {
        restart::measure(arguments, &mut figures)?;
    }
    if wanted(Part::Fib) {
        fib::measure(arguments, &mut figures)?;
    }
    if wanted(Part::FibTrace) && arguments.fib_trace_seconds > 0 {
        fib_trace::measure(arguments, &mut figures)?;
    }
    if wanted(Part::Voters) && arguments.voter_prefixes > 0 {
        voters::measure(arguments, &mut figures)?;
    }
    if wanted(Part::Exchange) {
        exchange::measure(arguments, &mut figures)?;
    }
    if arguments.only.contains(&Part::Pair)
        || (arguments.only.is_empty() && (arguments.other_virtd.is_some() || arguments.watched))
    {
        pair::measure(arguments, &mut figures)?;
    }
    if wanted(Part::Criterion) {
        criterion::collect(&arguments.criterion, &mut figures)?;
    }
    println!("\n{figures}");
    println!("{}", machine());
    figures.write(&arguments.output)?;
    println!("written: {} (raw results: {})", arguments.output.display(), arguments.raw.display());
    Ok(())
}

/// No processor goes into a state that it needs time to come back from, while the file is open
/// (Linux's PM QoS).
fn keep_awake() -> Result<fs::File> {
    use std::io::Write as _;
    const FILE: &str = "/dev/cpu_dma_latency";
    let mut file = fs::OpenOptions::new().write(true).open(FILE).with_context(|| format!("opening {FILE}"))?;
    file.write_all(&0_i32.to_ne_bytes()).with_context(|| format!("writing {FILE}"))?;
    println!("processors are kept awake");
    Ok(file)
}

/// What it runs on, and how busy that was: without this an absolute time means nothing.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("?").trim_start_matches(['\t', ':', ' ']);
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("machine: {cpus} x {model}, Linux {}, load average {}", kernel.trim(), read("/proc/loadavg").trim())
}

/// Appends one raw result to a file of them, one JSON object a line.
fn keep(file: &Path, result: &serde_json::Value) -> Result<()> {
    use std::io::Write as _;
    let mut out = fs::OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(out, "{result}").with_context(|| format!("writing {}", file.display()))
}
