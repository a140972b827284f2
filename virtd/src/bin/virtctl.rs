//! virtctl: asks a running virtd over its control socket and prints tables, or the JSON as it came.

use clap::{CommandFactory, FromArgMatches};
use serde::Serialize;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};
use virtd::ctl::arguments::{Arguments, Command};
use virtd::ctl::ask::{PATIENCE, ask, connect_error};
use virtd::ctl::health::{self, Level};
use virtd::ctl::top::Manner;
use virtd::ctl::{colour, complete, top, why};
use virtd::show;
use virtd_api::{Events, Followed, Instance, Instances, Logged, Refused, Request, Status, Upgrade};
use virtd_config::Kind;
use virtd_linux::kinds::{self, root::Entry};

/// As long as the next program may take to serve, and the former one after that.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(90);
/// How often it is asked who serves.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let command = Arguments::command().version(program_version::version!());
    complete::complete(|| command.clone());
    let matches = command.clone().try_get_matches().unwrap_or_else(|e| {
        // A plugin that is called wrongly has found nothing critical.
        if e.use_stderr() && std::env::args().any(|word| word == "health") {
            let _ = e.print();
            process::exit(Level::Unknown.status().into());
        }
        e.exit()
    });
    let mut arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    if let (true, Command::Diversity { sessions }) = (arguments.json, &mut arguments.command) {
        *sessions = true; // JSON is for programs: all of it
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Pipe) => ExitCode::SUCCESS,
        Err(Failure::Text(text)) => {
            eprintln!("virtctl: {text}");
            ExitCode::FAILURE
        }
        Err(Failure::Status(status)) => ExitCode::from(status),
        Err(Failure::Ended(text)) => {
            eprintln!("virtctl: {text}");
            ExitCode::from(ENDED)
        }
    }
}

/// Why there is nothing more to print.
enum Failure {
    /// Who read our output has read enough (`virtctl events | head`).
    Pipe,
    /// To be said.
    Text(String),
    /// All is said.
    Status(u8),
    /// To be said: what was followed is over.
    Ended(String),
}

/// Exit status of a virtctl that follows events and whose virtd is no more.
const ENDED: u8 = 3;

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let text = |e: String| Failure::Text(e);
    let Some(request) = arguments.command.request() else { return alone(arguments) };
    let mut stream = UnixStream::connect(&arguments.socket).map_err(|e| text(connect_error(&arguments.socket, &e)))?;
    let lost = |e: io::Error| {
        text(match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("virtd did not answer within {} s", arguments.command.patience().as_secs())
            }
            _ => format!("the connection to virtd broke: {e}"),
        })
    };
    let patience = (!arguments.command.follows()).then_some(arguments.command.patience());
    stream.set_read_timeout(patience).map_err(lost)?;
    let seen = match arguments.command {
        Command::Upgrade { dry_run: false, .. } => last_upgrade(&arguments.socket).map_or(0, |(_, told)| told.seq),
        _ => 0,
    };
    let request = serde_json::to_string(&request).map_err(|e| text(e.to_string()))?;
    writeln!(stream, "{request}").map_err(lost)?;

    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|e| match arguments.command.follows() {
            true => Failure::Ended(format!("the connection to virtd broke, and events are not followed any more: {e}")),
            false => lost(e),
        })?;
        print_answer(arguments, &line)?;
        if let Command::Upgrade { dry_run: false, .. } = arguments.command {
            return taken_over(arguments, &line, seen);
        }
        if !arguments.command.follows() {
            return Ok(());
        }
    }
    // Without a word of its own: it was killed, or did not want to wait for somebody who does not
    // read.
    Err(match arguments.command.follows() {
        true => Failure::Ended("the connection to virtd has ended, and events are not followed any more".into()),
        false => text("virtd closed the connection without an answer".into()),
    })
}

/// What is not one question.
fn alone(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Completion { shell } => print(complete::script(*shell).map_err(Failure::Text)?.as_bytes()),
        Command::Why { prefix, all } => {
            let why = why::look(&arguments.socket, prefix, PATIENCE).map_err(Failure::Text)?;
            print(text_or_json(arguments, &why, || why::screen(&why, *all))?.as_bytes())
        }
        Command::Top { interval } => {
            if arguments.json {
                return Err(Failure::Text(
                    "top is for people; ask `virtctl --json status`, `sessions` and so on".into(),
                ));
            }
            let manner =
                Manner { every: Duration::from_secs_f64(*interval), coloured: colour::wanted(arguments.color) };
            top::run(&arguments.socket, manner).map_err(Failure::Text)
        }
        Command::Health { timeout } => {
            let health = health::look(&arguments.socket, Duration::from_secs(*timeout));
            print(text_or_json(arguments, &health, || health.line())?.as_bytes())?;
            Err(Failure::Status(health.exit))
        }
        _ => Ok(()),
    }
}

fn text_or_json(arguments: &Arguments, what: &impl Serialize, text: impl Fn() -> String) -> Result<String, Failure> {
    match arguments.json {
        true => serde_json::to_string(what).map(|line| line + "\n").map_err(|e| Failure::Text(e.to_string())),
        false => Ok(painted(arguments, text())),
    }
}

/// With colours, where they are seen.
fn painted(arguments: &Arguments, text: String) -> String {
    if colour::wanted(arguments.color) { colour::paint(&arguments.command, &text) } else { text }
}

/// Waits for what became of an upgrade, and prints that. `seen`: what the worker had told before.
fn taken_over(arguments: &Arguments, line: &str, seen: u64) -> Result<(), Failure> {
    let Upgrade { worker: before, .. } = serde_json::from_str(line).map_err(|e| Failure::Text(e.to_string()))?;
    let until = Instant::now() + TAKE_OVER_PATIENCE;
    while Instant::now() < until {
        std::thread::sleep(LOOK_AGAIN);
        let Some((worker, told)) = last_upgrade(&arguments.socket) else { continue };
        if worker == before && told.seq <= seen {
            continue;
        }
        if told.event.kind == "upgrade-failed" {
            return Err(Failure::Text(told.event.text));
        }
        if !arguments.json {
            print!("{}", show::line(&told.event.text));
        }
        return Ok(());
    }
    let text = "virtd does not say what became of it: see `virtctl events` and virtd's log";
    Err(Failure::Text(text.to_owned()))
}

/// The worker, and the last that it has told of an upgrade.
fn last_upgrade(socket: &Path) -> Option<(u32, Logged)> {
    let Status { worker, .. } = ask(socket, &Request::Status, PATIENCE).ok()?;
    let all = Request::Events { follow: false, n: Some(u64::MAX), kind: None };
    let Events { events } = ask(socket, &all, PATIENCE).ok()?;
    let of_upgrade = |e: &Logged| e.event.kind == "upgraded" || e.event.kind == "upgrade-failed";
    Some((worker?.pid, events.into_iter().rfind(of_upgrade)?))
}

fn print_answer(arguments: &Arguments, line: &str) -> Result<(), Failure> {
    let strange = |e| Failure::Text(format!("what answers on {} is no virtd: {e}", arguments.socket.display()));
    if let Ok(Refused { error }) = serde_json::from_str(line) {
        return Err(Failure::Text(error));
    }
    if let (true, Ok(Followed::Ended { ended })) = (arguments.command.follows(), serde_json::from_str(line)) {
        return Err(Failure::Ended(format!("{ended}; its events are not followed any more")));
    }
    if let Command::Exec { name, words } = &arguments.command {
        let Instances { instances } = serde_json::from_str(line).map_err(strange)?;
        return Err(Failure::Text(exec(instances, name, words)));
    }
    let shown = match arguments.json {
        true => serde_json::from_str(line).map(|serde::de::IgnoredAny| format!("{line}\n")),
        false => arguments.command.show(line).map(|text| painted(arguments, text)),
    };
    print(shown.map_err(strange)?.as_bytes())
}

fn print(octets: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(octets).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::Pipe,
        _ => Failure::Text(format!("cannot write: {e}")),
    })
}

/// Becomes the control program of an instance. Returns why that could not be.
fn exec(instances: Vec<Instance>, name: &str, words: &[String]) -> String {
    let Some(instance) = instances.iter().find(|i| i.name == name) else {
        let names: Vec<&str> = instances.iter().map(|i| i.name.as_str()).collect();
        return format!("there is no instance {name:?}: there are {}", names.join(", "));
    };
    let Some(control) = instance.control.clone() else {
        return format!("{name} has no `kind` in virtd's configuration, so where it listens is not known");
    };
    let line = kinds::control_line(control, words);
    if let Err(e) = enter_root(instance) {
        return format!("cannot enter the root of {name}: {e}");
    }
    let Some((program, arguments)) = line.split_first() else { return format!("{name} has no control program") };
    // birdc and bgpctl are in /usr/sbin, which is not in everybody's PATH.
    let mut error = process::Command::new(program).args(arguments).exec();
    if error.kind() == ErrorKind::NotFound {
        error = process::Command::new(Path::new("/usr/sbin").join(program)).args(arguments).exec();
    }
    format!("cannot start {program}: {error}")
}

/// A daemon that runs in another root has its own control program there, which reaches it by the
/// folder of its sockets.
fn enter_root(instance: &Instance) -> Result<(), String> {
    let (Some(root), Some(folder)) = (&instance.root, &instance.folder) else { return Ok(()) };
    if !nix::unistd::geteuid().is_root() {
        return Err("only root may; use sudo".to_owned());
    }
    let kind = instance.kind.as_deref().and_then(Kind::of).ok_or("its kind is not known")?;
    let needs = kinds::control_needs(kind, folder);
    let entry = Entry::new(root, &needs, &[]).map_err(|e| e.to_string())?;
    entry.perform().map_err(|failed| entry.describe(failed))
}
