//! virtd-monitor: see the library.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;
use virtd_monitor::arguments::Arguments;
use virtd_monitor::{http, tell};

fn main() -> ExitCode {
    let matches = Arguments::command().version(program_version::version!()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("virtd-monitor: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (places, plan) = (arguments.places()?, arguments.plan()?);
    // One thread: it can take no more of the machine than one processor.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime")?;
    runtime.block_on(async {
        tell::start(&plan, &places.control);
        http::serve(&places).await
    })
}
