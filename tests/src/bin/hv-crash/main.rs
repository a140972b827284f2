//! `make crash`: virtd's worker is killed a thousand times, and its neighbours are asked what they
//! noticed.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use std::time::SystemTime;
use tests::crash::kills::{Plan, run};
use tests::crash::scene::Size;
use tests::lab::clean_up_on_signal;

/// Kills virtd's worker (SIGKILL) again and again under a router of FRR, BIRD and OpenBGPD, while
/// four neighbours go on changing their routes, and judges by the neighbours' own logs
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Kinds of kills, in this order: while the table is loading; when everybody votes; as soon as the next
worker is there, which reads the journal then; while an image of the journal is written; while a
neighbour connects; after so many single instructions of a turn, by ptrace; at random times, alone
or in bursts of up to five.

What must be 0, or the exit status is 1: sessions reset; withdrawals that nobody has made; routes
told again that had been told; routes told that nobody says; routes that differ at the end from a
run without kills; without --fib, processes of instances that came or went. The last line is JSON and has all of
it, with the times from a kill to the first KEEPALIVE or UPDATE after it, and until all vote.

The same seed gives the same times and the same words; what the machine makes of them differs.

Examples:
  hv-crash --prefixes 1000 --kills 3 --bursts 0 --aimed 0 --steps 0    a first look, two minutes
  hv-crash --seed 7 --kills 0 --bursts 50 --aimed 0 --steps 0          bursts only
  hv-crash                                                   all of it, some hours"
)]
struct Arguments {
    /// Prefixes of the table
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    prefixes: u64,
    /// Kills when everybody votes
    #[arg(long, value_name = "K", default_value_t = 100)]
    kills: u32,
    /// Kills at random times
    #[arg(long, value_name = "B", default_value_t = 1000)]
    bursts: u32,
    /// Kills of each kind that is aimed: loading, new, image, accept
    #[arg(long, value_name = "A", default_value_t = 10)]
    aimed: u32,
    /// Kills at single instructions of a turn
    #[arg(long, value_name = "I", default_value_t = 30)]
    steps: u32,
    /// T: an instance that was fed votes after six of it at the latest
    #[arg(long, value_name = "MS", default_value_t = 3000)]
    t_ms: u32,
    /// The instances write routes to the kernel, too
    #[arg(long)]
    fib: bool,
    /// What decides the times and the words [default: of the clock]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_secs());
    let Arguments { prefixes, fib, t_ms, kills, bursts, aimed, steps, seed } = arguments;
    let seed = seed.unwrap_or_else(clock);
    eprintln!("seed {seed}");
    let plan = Plan { size: Size { prefixes, fib, t_ms, seed }, kills, bursts, aimed, steps };
    match clean_up_on_signal().and_then(|()| run(&plan)) {
        Ok(report) => {
            println!("{}", report.json);
            if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("hv-crash: {e:#}");
            ExitCode::from(2)
        }
    }
}
