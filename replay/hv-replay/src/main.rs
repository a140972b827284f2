//! `hv-replay`: a BGP neighbour from the command line.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::FromArgMatches;
use hv_replay::command_line::{self, Command, Options};
use hv_replay::diff::diff;
use hv_replay::exchange::exchange;
use hv_replay::probe::probe;
use hv_replay::{reproduce, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .init();
    let matches = command_line::command().version(program_version::version!()).get_matches();
    let options = Options::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match act(&options) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("hv-replay: {e:#}");
            ExitCode::from(2)
        }
    }
}

/// The exit status.
fn act(options: &Options) -> Result<u8> {
    let Options { command, session, feed, reproduce: again, run: until } = options;
    let well = match command {
        Some(Command::Probe(options)) => probe(options)?,
        Some(Command::Exchange(options)) => exchange(options)?,
        Some(Command::Diff(options)) => {
            diff(options, &mut std::io::stdout().lock()).context("cannot compare")?.is_none()
        }
        None => match &again.reproduce {
            Some(record) => return reproduce::reproduce(record, session, feed, again, until),
            // clap leaves `requires` out where what is required conflicts with something that is
            // there.
            None if again.wait.is_some() || again.of_peer.is_some() => bail!("--wait and --of-peer need --reproduce"),
            None => run::run(session, feed, until)?,
        },
    };
    Ok(u8::from(!well))
}
