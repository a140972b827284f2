//! virtd-monitor: see the library.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
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
    let description = format!("virtd-monitor {}", program_version::version!());
    runtime.block_on(async {
        let (stopping, stop) = watch::channel(false);
        let mut signals =
            [signal(SignalKind::terminate()).context("SIGTERM")?, signal(SignalKind::interrupt()).context("SIGINT")?];
        tokio::spawn(async move {
            let [terminate, interrupt] = &mut signals;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let _ = stopping.send(true);
            // Whoever asks again does not wait for last words.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
        tell::start(&plan, &places.control);
        http::serve(&places, &description, stop).await
    })
}
