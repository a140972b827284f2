//! Instances that virtd starts itself: those with a `command`.
//!
//! Each gets the shim preloaded, HV_SOCKET and HV_INSTANCE, a session and process group of its own, and its output in virtd's
//! log. Nothing survives virtd: at an orderly end each group gets SIGTERM and after [`TERM_PATIENCE`] SIGKILL; should virtd die
//! itself, the kernel kills each main process (PR_SET_PDEATHSIG). A main process that ends is an event; its group is ended
//! too, and it is not started again.
//!
//! The kernel takes the death of the *thread* that forked for the death of the parent. So one thread starts all instances and lives
//! until [`Instances::stop`].

mod launch;
pub mod preflight;

use crate::config::{Config, Instance};
use crate::event::{Event, Severity};
use crate::eventlog::EventSender;
use crossbeam_channel::{Receiver, Sender};
use launch::{Account, Preload};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::Child;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From SIGTERM to SIGKILL: a daemon says Cease to its peers and leaves; more would hold up a restart of virtd.
pub const TERM_PATIENCE: Duration = Duration::from_secs(3);
/// How often a group that was told to end is looked at.
const GROUP_CHECK: Duration = Duration::from_millis(20);
/// Longer lines of a daemon's output are cut into several.
const MAX_LINE: u64 = 2048;

/// The instances that virtd has started. Dropping it ends them, as [`Instances::stop`] does.
#[derive(Debug)]
pub struct Instances {
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Instances {
    /// Starts every instance that has a command, once virtd listens on `config.shim_socket`. `shim` is the absolute path of
    /// libhvlibc.so, `start` the zero of [`Event::at_us`]. An instance that cannot be started is an event, not an error:
    /// [`preflight::check`] finds in advance what can be found.
    pub fn start(config: &Config, shim: &Path, start: Instant, events: EventSender) -> io::Result<Instances> {
        let list: Vec<Instance> = config.instances.iter().filter(|i| !i.command.is_empty()).cloned().collect();
        if list.is_empty() {
            return Ok(Instances { stop: None, keeper: None });
        }
        let preload = Preload { shim: shim.to_owned(), socket: config.shim_socket.clone() };
        let reporter = Reporter { start, events };
        let (stop, stopped) = crossbeam_channel::bounded(1);
        let keeper = std::thread::Builder::new()
            .name("instances".into())
            .spawn(move || keep(&list, &preload, &reporter, &stopped))?;
        Ok(Instances { stop: Some(stop), keeper: Some(keeper) })
    }

    /// Ends them all and returns when the last is gone, after little more than [`TERM_PATIENCE`] at most.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop = None;
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            log::error!("the thread that keeps the instances has panicked");
        }
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes events out of what happens to processes.
#[derive(Clone)]
struct Reporter {
    start: Instant,
    events: EventSender,
}

impl Reporter {
    fn report(&self, kind: &'static str, severity: Severity, instance: &str, text: String) {
        let at_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.events.send(Event::new(at_us, kind, severity, text).with_instance(instance));
    }
}

/// The thread that starts the instances, and must outlive them.
fn keep(list: &[Instance], preload: &Preload, reporter: &Reporter, stopped: &Receiver<()>) {
    let mut waiters = Vec::new();
    for instance in list {
        match start_one(instance, preload, reporter) {
            Ok(waiter) => waiters.push(waiter),
            Err(e) => {
                let text = format!("{} cannot be started: {e}", instance.name);
                reporter.report("instance-failed", Severity::Alarm, &instance.name, text);
            }
        }
    }
    // The other end is dropped, never sent on.
    let _ = stopped.recv();
    for waiter in &waiters {
        waiter.stopping.store(true, std::sync::atomic::Ordering::Release);
        signal_group(waiter.group, Signal::SIGTERM);
    }
    let deadline = Instant::now() + TERM_PATIENCE;
    for waiter in &waiters {
        while !waiter.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(GROUP_CHECK);
        }
        if !waiter.thread.is_finished() {
            log::warn!("{} does not end on SIGTERM and is killed", waiter.name);
            signal_group(waiter.group, Signal::SIGKILL);
        }
    }
    for waiter in waiters {
        let _ = waiter.thread.join();
    }
}

/// One started instance.
struct Waiter {
    name: String,
    /// Its main process, which leads its group. It stays a zombie, so that its number is nobody else's, until the group is empty.
    group: Pid,
    stopping: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: JoinHandle<()>,
}

fn start_one(instance: &Instance, preload: &Preload, reporter: &Reporter) -> io::Result<Waiter> {
    let account = instance.user.as_deref().map(Account::of).transpose()?;
    let mut child = launch::command(instance, preload, account)?.spawn()?;
    let pid = child.id();
    let group = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    let output: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|o| Box::new(o) as _), child.stderr.take().map(|o| Box::new(o) as _)];
    for stream in output.into_iter().flatten() {
        let name = instance.name.clone();
        // Without a reader the daemon would block on a full pipe one day; so this failing ends it.
        let reader = std::thread::Builder::new().name("instance-output".into()).spawn(move || forward(&name, stream));
        if let Err(e) = reader {
            signal_group(group, Signal::SIGKILL);
            let _ = child.wait();
            return Err(e);
        }
    }
    let stopping = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let thread = {
        let (name, reporter, stopping) = (instance.name.clone(), reporter.clone(), stopping.clone());
        std::thread::Builder::new()
            .name("instance-wait".into())
            .spawn(move || wait(&name, child, group, &stopping, &reporter))
            .inspect_err(|_| signal_group(group, Signal::SIGKILL))?
    };
    let text = format!("{} was started as process {pid}: {}", instance.name, instance.command.join(" "));
    reporter.report("instance-started", Severity::Info, &instance.name, text);
    Ok(Waiter { name: instance.name.clone(), group, stopping, thread })
}

/// Waits for the main process, reports its end, ends what is left of its group, and reaps it.
fn wait(name: &str, mut child: Child, group: Pid, stopping: &std::sync::atomic::AtomicBool, reporter: &Reporter) {
    let ended = loop {
        match waitid(Id::Pid(group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(Errno::EINTR) => {}
            other => break other,
        }
    };
    let how = match ended {
        Ok(WaitStatus::Exited(_, 0)) => "has exited with status 0; it must stay in the foreground".to_owned(),
        Ok(WaitStatus::Exited(_, status)) => format!("has exited with status {status}"),
        Ok(WaitStatus::Signaled(_, signal, core)) => {
            format!("was ended by {signal}{}", if core { ", with a core dump" } else { "" })
        }
        other => format!("is gone ({other:?})"),
    };
    if stopping.load(std::sync::atomic::Ordering::Acquire) {
        reporter.report("instance-stopped", Severity::Info, name, format!("{name} has ended, as virtd told it to"));
    } else {
        let text = format!("{name} (process {group}) {how}; virtd does not start it again by itself");
        reporter.report("instance-exited", Severity::Warning, name, text);
        signal_group(group, Signal::SIGTERM);
    }
    let deadline = Instant::now() + TERM_PATIENCE;
    while has_members(group) && Instant::now() < deadline {
        std::thread::sleep(GROUP_CHECK);
    }
    signal_group(group, Signal::SIGKILL);
    let _ = child.wait();
}

fn signal_group(group: Pid, signal: Signal) {
    match killpg(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(e) => log::warn!("cannot send {signal} to process group {group}: {e}"),
    }
}

/// Whether a group has a process that still runs; its zombie leader does not count.
fn has_members(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let is_pid = entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        is_pid && fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| runs_in(&stat, group))
    })
}

/// Reads /proc/PID/stat: `pid (name) state ppid pgrp …`, where the name may hold anything.
fn runs_in(stat: &str, group: Pid) -> bool {
    let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
    let mut fields = rest.split(' ');
    let (state, _, pgrp) = (fields.next(), fields.next(), fields.next());
    !matches!(state, Some("Z" | "X")) && pgrp.and_then(|p| p.parse().ok()) == Some(group.as_raw())
}

/// A daemon's output, line by line, into virtd's log.
fn forward(name: &str, stream: impl Read) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => log::info!(target: "virtd::instance", "{name}: {}", printable(&line)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                log::warn!("{name}: its output cannot be read any more: {e}");
                return;
            }
        }
    }
}

/// Instances are not trusted with an operator's terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
#[path = "instances_tests.rs"]
mod tests;
