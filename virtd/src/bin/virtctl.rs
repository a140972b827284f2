//! virtctl: asks a running virtd over its control socket and prints tables, or the JSON as it came.

use clap::{Parser, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};
use virtd::show;
use virtd_api::{Events, Exec, Followed, Instance, Instances, Logged, Refused, Request, Status, Upgrade};
use virtd_config::{DEFAULT_CONTROL_SOCKET, Kind};
use virtd_linux::kinds::{self, root::Entry};
use wire::bgp::Prefix;

/// virtd answers within ten seconds or says that it cannot.
const PATIENCE: Duration = Duration::from_secs(15);

/// As long as a program may take to be tried, and more.
const TRY_PATIENCE: Duration = Duration::from_secs(120);
/// As long as the next program may take to serve, and the former one after that.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(90);
/// How often it is asked who serves.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  virtctl status                                  is everybody there, does anybody disagree
  virtctl routes 192.0.2.0/24                     who says what about a prefix, what was published, why
  virtctl routes 192.0.2.7                        the same for the longest prefix that has an address
  virtctl differs frr                             the prefixes on which frr is not with the others, and in what
  virtctl fib --diff                              where the instances' routes to the kernel differ
  virtctl diversity --sessions                    which two instances are the least independent
  virtctl events -f                               what happens, as it happens
  virtctl events -n 500 --kind disagreement       only that kind
  virtctl session 192.0.2.1                       who has that session, who has left it, and why
  virtctl instance frr restart                    end it and start it again; the others go on
  virtctl exec frr show bgp summary               the daemon's own control program, on its own socket
  virtctl change begin                            before policy is changed in one instance after another
  virtctl reload --dry-run                        what would follow from the changed configuration file
  virtctl upgrade                                 the program that was just installed takes over
  virtctl --json sessions | jq '.sessions[].peer'

Kinds of events and the fields of each answer: docs/OPERATIONS.md.
Exit status: 0 answered, 1 virtd could not be asked or refused (no such prefix,
instance or kind of event), 2 wrong arguments, 3 virtd has ended while its events were followed. With exec: the program's.";

/// Asks a running virtd.
#[derive(Parser)]
#[command(name = "virtctl", version = program_version::version!(), after_help = EXAMPLES)]
struct Arguments {
    /// virtd's control socket
    #[arg(long, short, global = true, value_name = "PATH", default_value = DEFAULT_CONTROL_SOCKET)]
    socket: PathBuf,
    /// Print the JSON as virtd sends it, one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Octets of what a daemon is told that virtd hears: it is for an event, and a whole configuration
/// would not fit a request.
const MAX_TOLD: usize = 500;

#[derive(Clone, Subcommand)]
enum Command {
    /// The router in a few lines
    Status,
    /// The sessions with the peers, and the instances' legs on each
    Sessions,
    /// The instances: who votes, who is catching up, who disagreed
    Instances,
    /// One prefix: what peers sent, what each instance says, what was published and why
    Routes {
        /// An exact prefix, like 192.0.2.0/24 or 2001:db8::/32; or an address: the longest prefix
        /// that has it
        #[arg(value_parser = prefix_or_address)]
        prefix: String,
    },
    /// The prefixes on which somebody has not been with the majority for T or longer, and in what
    Differs {
        /// Only those on which this instance differs
        instance: Option<String>,
        /// How many prefixes, at most 1000; the rest is counted
        #[arg(short, value_name = "N", default_value_t = 50)]
        n: u64,
    },
    /// The routes that the vote puts into the kernel: the whole, one prefix, or where not everybody
    /// agrees
    Fib {
        /// An exact prefix, like 192.0.2.0/24, or `all`; or `flush`, without [fib]: remove the
        /// routes that a virtd with it has left
        prefix: Option<String>,
        /// Only entries on which an instance differs, or that the kernel does not take
        #[arg(long, conflicts_with = "prefix")]
        diff: bool,
        /// With `flush`: by which protocol number they are known, where that was not 245
        #[arg(long, value_name = "N", requires = "prefix")]
        protocol: Option<u8>,
    },
    /// How independent the instances are, pair by pair: how often they disagree, in what, and how
    /// often they are wrong together
    Diversity {
        /// Session by session, too
        #[arg(long)]
        sessions: bool,
    },
    /// Do something with an instance: restart, drain (no vote, but fed and compared), disable (no
    /// vote, stopped), enable (undoes both), promote (first in line; a standby gets a vote), pin
    /// (no verdict ends it), unpin
    Instance {
        /// Its name
        name: String,
        #[arg(value_enum)]
        action: InstanceAction,
    },
    /// The session with a peer: who has it, who has left it, since when and with which words. With
    /// an action: reset it, shut it down, or let it start again
    Session {
        /// The peer's address; a link-local one with its interface, as in fe80::2%eth1
        #[arg(value_parser = peer)]
        peer: String,
        #[arg(value_enum)]
        action: Option<SessionAction>,
    },
    /// Run vtysh, birdc or bgpctl on an instance that has a `kind`; without words, vtysh and birdc
    /// ask for them
    Exec {
        /// Its name
        name: String,
        /// What the daemon is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WORD")]
        words: Vec<String>,
    },
    /// Say that policy is being changed in the instances, one after another: between begin and
    /// commit no verdict ends one
    Change {
        #[arg(value_enum)]
        action: ChangeAction,
    },
    /// Read virtd's configuration file again and change what can be changed with sessions up:
    /// instances, peers, [vote], [timers], [faults]. An error in the file leaves everything as it
    /// was
    Reload {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Have another program of virtd take over, as one that was just installed, while all sessions
    /// stay up. It is tried with a copy of what there is first; where that fails, or it does not come
    /// to serve, everything stays as it was. An older one is taken the same way
    Upgrade {
        /// The program; default: the file that virtd was started from, as it is there now
        #[arg(long, value_name = "PATH")]
        to: Option<PathBuf>,
        /// Only try it
        #[arg(long)]
        dry_run: bool,
    },
    /// What happened
    Events {
        /// Go on printing as events happen, until interrupted
        #[arg(short, long)]
        follow: bool,
        /// How many of the past, at most; virtd remembers 10,000
        #[arg(short, value_name = "N", default_value_t = 20)]
        n: u64,
        /// Only this kind, like session-up or disagreement
        #[arg(long, short)]
        kind: Option<String>,
    },
}

/// As it was typed: what has no length is an address, for virtd to look up.
fn prefix_or_address(text: &str) -> Result<String, String> {
    text.parse::<Prefix>().map(|_| text.to_owned())
}

/// See [`Command::Instance`].
#[derive(Clone, Copy, ValueEnum)]
enum InstanceAction {
    Restart,
    Drain,
    Disable,
    Enable,
    Promote,
    Pin,
    Unpin,
}

/// See [`Command::Session`].
#[derive(Clone, Copy, ValueEnum)]
enum SessionAction {
    Reset,
    Shutdown,
    Start,
}

/// See [`Command::Change`].
#[derive(Clone, Copy, ValueEnum)]
enum ChangeAction {
    Begin,
    Commit,
}

/// The word on the command line, which is the word on the wire.
fn word(action: impl ValueEnum) -> String {
    action.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// An address, with an interface where that is needed to tell which (RFC 4007 section 11), as virtd
/// writes it.
fn peer(text: &str) -> Result<String, String> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(a, z)| (a, Some(z)));
    let ip: std::net::IpAddr = address.parse().map_err(|_| "expected an address, like 192.0.2.1 or fe80::2%eth1")?;
    match zone {
        None => Ok(ip.to_string()),
        Some(zone) if ip.is_ipv6() && !zone.is_empty() => Ok(format!("{ip}%{zone}")),
        Some(_) => Err("only an IPv6 address has an interface behind %".to_owned()),
    }
}

/// The words, as far as they are of use in an event.
fn shortened(words: &[String]) -> Vec<String> {
    let mut left = MAX_TOLD;
    let mut fits = |c: &char| {
        left = left.saturating_sub(c.len_utf8());
        left > 0
    };
    words.iter().map(|w| w.chars().take_while(&mut fits).collect::<String>()).filter(|w| !w.is_empty()).collect()
}

impl Command {
    fn request(&self) -> Request {
        match self.clone() {
            Command::Status => Request::Status,
            Command::Sessions => Request::Sessions,
            Command::Instances => Request::Instances { exec: None },
            Command::Exec { name, words } => Request::Instances { exec: Some(Exec { name, words: shortened(&words) }) },
            Command::Routes { prefix } => Request::Routes { prefix },
            Command::Differs { instance, n } => Request::Differs { instance, n: Some(n) },
            Command::Fib { prefix: Some(word), protocol, .. } if word == "flush" => {
                Request::Fib { prefix: None, diff: false, flush: true, protocol: protocol.map(u64::from) }
            }
            Command::Fib { prefix, diff, .. } => Request::Fib { prefix, diff, flush: false, protocol: None },
            Command::Diversity { sessions } => Request::Diversity { sessions },
            Command::Instance { name, action } => Request::Instance { name, action: word(action) },
            Command::Session { peer, action } => Request::Session { peer, action: action.map(word) },
            Command::Change { action } => Request::Change { action: word(action) },
            Command::Reload { dry_run } => Request::Reload { dry_run },
            Command::Upgrade { to, dry_run } => {
                let to = to.map(|to| std::path::absolute(&to).unwrap_or(to));
                Request::Upgrade { to, dry_run }
            }
            Command::Events { follow, n, kind } => Request::Events { follow, n: Some(n), kind },
        }
    }

    /// How long virtd may take to answer.
    const fn patience(&self) -> Duration {
        match self {
            Command::Upgrade { .. } => TRY_PATIENCE,
            _ => PATIENCE,
        }
    }

    const fn follows(&self) -> bool {
        matches!(self, Command::Events { follow: true, .. })
    }

    /// An answer as a person reads it.
    fn show(&self, line: &str) -> serde_json::Result<String> {
        match self {
            Command::Status => shown(line, show::status),
            Command::Sessions => shown(line, show::sessions),
            Command::Session { action: None, .. } => shown(line, show::session),
            Command::Instances | Command::Exec { .. } => shown(line, show::instances),
            Command::Routes { .. } => shown(line, show::routes),
            Command::Differs { .. } => shown(line, show::differs),
            Command::Fib { prefix: Some(word), .. } if word == "flush" => shown(line, show::done),
            Command::Fib { prefix: None, diff: false, .. } => shown(line, show::fib),
            Command::Fib { .. } => shown(line, show::fib_entries),
            Command::Diversity { .. } => shown(line, show::diversity),
            Command::Instance { .. } | Command::Session { .. } | Command::Change { .. } => shown(line, show::done),
            Command::Reload { .. } => shown(line, show::reload),
            Command::Upgrade { .. } => shown(line, show::upgrade),
            Command::Events { follow: true, .. } => shown(line, show::followed),
            Command::Events { .. } => shown(line, show::events),
        }
    }
}

fn shown<T: DeserializeOwned>(line: &str, show: impl Fn(&T) -> String) -> serde_json::Result<String> {
    Ok(show(&serde_json::from_str(line)?))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
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
    /// To be said: what was followed is over.
    Ended(String),
}

/// Exit status of a virtctl that follows events and whose virtd is no more.
const ENDED: u8 = 3;

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let text = |e: String| Failure::Text(e);
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
    let request = serde_json::to_string(&arguments.command.request()).map_err(|e| text(e.to_string()))?;
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
    let Status { worker, .. } = ask(socket, &Request::Status).ok()?;
    let all = Request::Events { follow: false, n: Some(u64::MAX), kind: None };
    let Events { events } = ask(socket, &all).ok()?;
    let of_upgrade = |e: &Logged| e.event.kind == "upgraded" || e.event.kind == "upgrade-failed";
    Some((worker?.pid, events.into_iter().rfind(of_upgrade)?))
}

/// One question, on a connection of its own.
fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> io::Result<T> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
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
        false => arguments.command.show(line),
    };
    let mut out = io::stdout().lock();
    out.write_all(shown.map_err(strange)?.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
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

/// What keeps us from virtd, and the remedy.
fn connect_error(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotFound => {
            format!("{shown} does not exist: is virtd running? (its control_socket may be elsewhere: --socket PATH)")
        }
        ErrorKind::ConnectionRefused => match std::fs::metadata(path) {
            Ok(m) if !m.file_type().is_socket() => format!("{shown} is not a socket"),
            _ => format!("nobody listens on {shown}: is virtd running? it seems to have ended without cleaning up"),
        },
        ErrorKind::PermissionDenied => match std::fs::metadata(path) {
            Ok(m) => format!(
                "permission denied: {shown} is for user {} and group {} (mode {:04o}); join that group, or use sudo",
                user_name(m.uid()),
                group_name(m.gid()),
                m.mode() & 0o7777
            ),
            Err(_) => format!("permission denied on the way to {shown}; use sudo"),
        },
        _ => format!("cannot connect to {shown}: {error}"),
    }
}

fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

fn group_name(gid: u32) -> String {
    match nix::unistd::Group::from_gid(gid.into()) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}
