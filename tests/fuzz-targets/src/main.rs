//! `make fuzz`: every target in turn, for as long as one likes.

use clap::Parser;
use fuzz::{TARGETS, Target, run};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tries mutated inputs on everything that reads what others have written. Exit status 1: a law is
/// broken, and by which input stands on standard error.
#[derive(Parser)]
#[command(name = "hv-fuzz")]
struct Arguments {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// This target alone
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The seed of the first input; by the clock where it is left out
    #[arg(long)]
    seed: Option<u64>,
    /// Tries this input alone, in hexadecimal
    #[arg(long, value_name = "HEX", requires = "target")]
    input: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|t| arguments.target.as_ref().is_none_or(|name| name == t.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("--target: expected one of {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    if let Some(input) = &arguments.input {
        let input = match hv_replay::options::hex(input) {
            Ok(input) => input,
            Err(e) => {
                eprintln!("--input {e}");
                return ExitCode::FAILURE;
            }
        };
        chosen.iter().for_each(|target| (target.check)(&input));
        return ExitCode::SUCCESS;
    }
    let by_clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let seed = arguments.seed.unwrap_or_else(by_clock);
    let mut outcome = ExitCode::SUCCESS;
    for target in chosen {
        match run(target, seed, u64::MAX, Some(Duration::from_secs(arguments.seconds))) {
            Ok(run) => println!(
                "{:<13} {:>10} inputs, {:>8.0} a second, from seed {seed}",
                target.name,
                run.inputs,
                run.rate()
            ),
            Err(broken) => {
                eprintln!("{broken}");
                outcome = ExitCode::FAILURE;
            }
        }
    }
    outcome
}
