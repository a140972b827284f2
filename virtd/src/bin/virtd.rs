//! virtd: the broker between the outside world and the routing daemons behind it.

use broker::Core;
use broker::event::{Event, Severity};
use clap::{CommandFactory, FromArgMatches};
use nix::sys::prctl::set_name;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use virtd::arguments::Arguments;
use virtd::driver::{Driver, Estate};
use virtd::serve::{self, Lines};
use virtd::state;
use virtd::upgrade;
use virtd::worker;
use virtd_config::{Config, DEFAULT_USER, parse, summary};
use virtd_linux::{confine, files, identity, kinds};
use virtd_master::inherited;
use virtd_master::twin::Twins;

fn main() -> ExitCode {
    let matches = Arguments::command().version(program_version::version!()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    if arguments.tries {
        return ended(try_out().map(|()| ExitCode::SUCCESS));
    }
    if arguments.worker {
        return ended(work(arguments.resumed).map(|()| ExitCode::SUCCESS));
    }
    start_log();
    let (file, shim) = (arguments.config.unwrap_or_default(), arguments.shim.as_deref());
    ended(if arguments.check {
        check(&file, shim).map(|()| ExitCode::SUCCESS)
    } else {
        virtd_master::run(&file, shim, serve::CHECKS)
    })
}

fn start_log() {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
}

fn ended(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|e| {
        eprintln!("{e:#}");
        ExitCode::FAILURE
    })
}

/// Whether this program could go on where the worker is. It opens nothing and changes nothing.
fn try_out() -> anyhow::Result<()> {
    let _ = set_name(c"virtd-try");
    upgrade::try_out(&inherited::link()?)
}

/// The worker. Its twin is made first, before there are threads.
fn work(resumed: bool) -> anyhow::Result<()> {
    let _ = set_name(c"virtd-worker");
    // The twin, too, has as many files as this process.
    files::raise();
    end_at_a_panic();
    #[cfg(debug_assertions)]
    let _ = broker::faults::WANTED.set(broker::faults::Faults::of_environment());
    let inherited = inherited::inherited()?;
    let link = Arc::new(inherited::link()?);
    let twins = Arc::new(Twins::new(link.clone()));
    let twin = twins.make();
    start_log();
    if let Err(e) = twin {
        log::error!("no twin can be made ({e}): should this process die, its sessions die with it");
    }
    log::debug!("it has {} files of the {}", inherited.len(), if resumed { "worker before" } else { "master" });
    // KEEPALIVEs leave here; what the former worker had open else is closed.
    let estate = Estate::of(inherited);
    let mut beginning = worker::beginning(link, twins)?;
    // A test has a program die when it has a twin and does not serve yet.
    #[cfg(debug_assertions)]
    if let Some(file) = std::env::var_os("HV_TEST_DIES") {
        assert!(std::env::current_exe().is_ok_and(|this| this != file), "a test wants this program to die");
    }
    let estate = estate.after(beginning.begin.died.as_mut());
    // Before there are threads, and before anybody is heard.
    let left = confine::confine(&beginning.config);
    let open = |config: &Config, lines: Lines| {
        if !left.is_empty() {
            let text = format!("the worker keeps more rights than it needs: {}", left.join(", "));
            let _ = lines.events.try_send(Event::new(0, "not-confined", Severity::Warning, text));
        }
        let mut core = Core::new(config, 0);
        match state::read(&config.state) {
            Ok(state) => core.restore(&state).into_iter().for_each(|i| lines.master.rest(i)),
            Err(text) => {
                let text =
                    format!("{text}: what an operator has shut down, drained, disabled or pinned is not so any more");
                // There is room for the first.
                let _ = lines.events.try_send(Event::new(0, "state-unreadable", Severity::Warning, text));
            }
        }
        Driver::new(config.clone(), core, lines, estate)
    };
    serve::serve(beginning, open)
}

/// A thread that unwinds would close files that the next worker needs. (A release build aborts by
/// itself.)
fn end_at_a_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        std::process::abort();
    }));
}

/// Whom the worker runs as, if that can be.
fn worker_line(config: &Config) -> String {
    match identity::of(config) {
        Ok(Some(worker)) => format!("runs as {} (user {}, group {})", worker.name, worker.uid, worker.gid),
        Ok(None) if config.user.is_none() && nix::unistd::geteuid().is_root() => format!(
            "warning: runs as root, since there is no user {DEFAULT_USER}, or virtd may not change to it: `useradd --system {DEFAULT_USER}`"
        ),
        Ok(None) => "runs as the user that starts virtd".to_owned(),
        Err(_) => "cannot run as this user".to_owned(),
    }
}

fn check(file: &Path, shim: Option<&Path>) -> anyhow::Result<()> {
    let config = parse::load(file)?;
    print!("{}", summary::summary(&config));
    println!("{:<16}{}", "worker", worker_line(&config));
    if let Some(shim) = serve::check_all(&config, shim)? {
        println!("{:<16}{}", "shim", shim.display());
    }
    if let Some(text) = files::shortage(&config) {
        println!("{:<16}warning: {text}", "open files");
    }
    for text in kinds::roots(&config) {
        println!("{:<16}warning: {text}", "rights");
    }
    println!("{} is good.", file.display());
    Ok(())
}
