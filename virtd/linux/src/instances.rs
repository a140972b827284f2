//! Instances that virtd starts itself: those with a `command` or a `kind`.
//!
//! Each gets the shim preloaded, HV_SOCKET and HV_INSTANCE, a process group of its own, and its
//! output in virtd's log. A kind of several processes has them in one group, started one after
//! another; the end of any is the end of all. At an orderly end of virtd each group gets SIGTERM
//! and after [`TERM_PATIENCE`] SIGKILL. What a virtd leaves that was killed itself, the next one
//! ends before it starts anything ([`left`]). A main process that ends is an event; its group is
//! ended too.
//! Whether and when it is started again is for the core to say: it is told of every start and end,
//! and of what the processes use, and sends orders ([`Order`]).

mod death;
mod group;
mod launch;
mod left;
mod library;
pub mod neighbour;
mod output;
pub mod preflight;
mod reporter;
pub mod syntax;
mod usage;
mod version;

pub use death::Memory;

use crate::eventlog::EventSender;
use crate::kinds::{self, Program};
use broker::event::Severity;
use broker::io::{Death, InstanceId, Order, ProcessNews};
use crossbeam_channel::{Receiver, Sender, after, never, select, tick};
use group::{Group, Step};
use launch::{Place, Preload};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use reporter::Reporter;
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use virtd_config::{Config, Instance, Standby};

/// What the supervisor says about an instance.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub instance: InstanceId,
    /// What happened.
    pub news: ProcessNews,
}

/// From SIGTERM to SIGKILL: a daemon says Cease to its peers and leaves; more would hold up a
/// restart of virtd.
pub const TERM_PATIENCE: Duration = Duration::from_secs(3);
/// How often a group that was told to end is looked at.
const GROUP_CHECK: Duration = Duration::from_millis(20);
/// How often the core is told what the processes use.
const USAGE_EVERY: Duration = Duration::from_secs(1);

/// The instances that virtd has started. Dropping it ends them, as [`Instances::stop`] does.
#[derive(Debug)]
pub struct Instances {
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    groups: Groups,
}

/// The process groups of the instances that run.
#[derive(Clone, Debug)]
pub struct Groups(Arc<Mutex<left::Groups>>);

impl Groups {
    /// SIGKILL to all of them, at once.
    pub fn kill(&self) {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.list().for_each(|group| signal_group(group, Signal::SIGKILL));
    }

    fn started(&self, label: &str, group: Pid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).started(label, group);
    }

    fn ended(&self, group: Pid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended(group);
    }
}

impl Instances {
    /// Starts every instance that is virtd's to start, once virtd listens on `config.shim_socket`.
    /// `shim` is the absolute path of libhvlibc.so, `start` the zero of
    /// [`broker::event::Event::at_us`], `roster` says who they are. An instance that cannot be
    /// started is an event, not an error: [`preflight::check`] finds in advance what can be found.
    pub fn start(
        config: &Config,
        roster: Roster,
        shim: &Path,
        start: Instant,
        events: EventSender,
        core: CoreLine,
    ) -> io::Result<Instances> {
        let preload = Preload { shim: shim.to_owned(), socket: config.shim_socket.clone() };
        let reporter = Reporter::new(start, events, core.reports);
        let record = left::record_beside(&config.shim_socket);
        left::end(&record);
        let groups = Groups(Arc::new(Mutex::new(left::Groups::new(record))));
        let kept = groups.clone();
        let (stop, stopped) = crossbeam_channel::bounded(1);
        let keeper = std::thread::Builder::new().name("instances".into()).spawn(move || {
            Keeper::new(roster, preload, reporter, kept).keep(&core.orders, &core.neighbours, &stopped)
        })?;
        Ok(Instances { stop: Some(stop), keeper: Some(keeper), groups })
    }

    /// The process groups that there are, now and later.
    pub fn groups(&self) -> Groups {
        self.groups.clone()
    }

    /// Ends them all and returns when the last is gone, after little more than [`TERM_PATIENCE`] at
    /// most.
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

/// Whom the supervisor starts, by place. The core's loop changes it when a reload does; what is
/// read is copied at once, so that neither ever waits for the other for long.
#[derive(Clone, Default, Debug)]
pub struct Roster(Arc<Mutex<Vec<Entry>>>);

#[derive(Clone, Default, Debug)]
struct Entry {
    /// Whose it is.
    instance: Option<Instance>,
    /// Nobody starts it but an order.
    rests: bool,
}

impl Roster {
    /// As configured.
    pub fn new(config: &Config) -> Roster {
        let seat = |i: &Instance| Entry { instance: Some(i.clone()), rests: i.standby == Some(Standby::Cold) };
        Roster(Arc::new(Mutex::new(config.instances.iter().map(seat).collect())))
    }

    /// The place at `i` is this instance's, or nobody's.
    pub fn set(&self, i: usize, instance: Option<Instance>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = list.len().max(i + 1);
        list.resize(places, Entry::default());
        if let Some(place) = list.get_mut(i) {
            place.instance = instance;
        }
    }

    /// The instance at `i` is not started with the others.
    pub fn rest(&self, i: usize) {
        if let Some(place) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(i) {
            place.rests = true;
        }
    }

    fn rests(&self, i: usize) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(i).is_none_or(|place| place.rests)
    }

    /// Whose place it is.
    fn at(&self, i: usize) -> Option<Instance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(i)?.instance.clone()
    }

    fn places(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// The supervisor's line to the core.
#[derive(Debug)]
pub struct CoreLine {
    /// What the core wants done.
    pub orders: Receiver<(InstanceId, Order)>,
    /// Whose control program is to have it begin its session with which neighbour anew.
    pub neighbours: Receiver<(InstanceId, IpAddr)>,
    /// What the core is told.
    pub reports: Sender<Report>,
}

/// The thread that starts the instances.
struct Keeper {
    roster: Roster,
    preload: Preload,
    reporter: Reporter,
    groups: Groups,
    /// By instance: those that run.
    waiters: Vec<Option<Waiter>>,
    ended: Sender<usize>,
    endings: Receiver<usize>,
    usage: usage::Meter,
    memory: Arc<Mutex<death::Memory>>,
    /// Held once by each control program that is being asked something.
    asking: Arc<()>,
}

impl Keeper {
    fn new(roster: Roster, preload: Preload, reporter: Reporter, groups: Groups) -> Keeper {
        let (ended, endings) = crossbeam_channel::unbounded();
        let waiters = (0..roster.places()).map(|_| None).collect();
        let memory = Arc::new(Mutex::new(death::Memory::new()));
        let (usage, asking) = (usage::Meter::default(), Arc::default());
        Keeper { roster, preload, reporter, groups, waiters, ended, endings, usage, memory, asking }
    }

    /// Starts everybody but cold standbys and whom an operator has disabled, then obeys until the
    /// other end of `stopped` is dropped.
    fn keep(
        mut self,
        orders: &Receiver<(InstanceId, Order)>,
        neighbours: &Receiver<(InstanceId, IpAddr)>,
        stopped: &Receiver<()>,
    ) {
        for i in 0..self.roster.places() {
            if !self.roster.rests(i) {
                self.start(i);
            }
        }
        let seconds = tick(USAGE_EVERY);
        loop {
            let starting = self.waiters.iter().flatten().any(|w| !w.steps.is_empty());
            let pause = if starting { after(GROUP_CHECK) } else { never() };
            select! {
                recv(stopped) -> _ => break,
                recv(pause) -> _ => self.go_on(),
                recv(orders) -> order => match order {
                    Ok((instance, order)) => self.obey(usize::from(instance.0), order),
                    Err(_) => break,
                },
                recv(neighbours) -> wish => match wish {
                    Ok((instance, peer)) => self.restart_neighbour(usize::from(instance.0), peer),
                    Err(_) => break,
                },
                recv(self.endings) -> i => if let Ok(i) = i {
                    self.reap(i);
                },
                recv(seconds) -> _ => {
                    self.kill_late();
                    self.measure();
                    self.memory.lock().unwrap_or_else(PoisonError::into_inner).tick(Instant::now());
                }
            }
        }
        self.end_all();
    }

    fn start(&mut self, i: usize) {
        let Some(instance) = self.roster.at(i).filter(Instance::is_ours) else { return };
        let folder = kinds::folder_beside(&self.preload.socket, instance.label());
        let places = self.waiters.len().max(i + 1);
        self.waiters.resize_with(places, || None);
        let id = InstanceId(i as u8);
        let memory = self.memory.clone();
        match start_one(i, &instance, &folder, &self.preload, &self.reporter, &self.ended, memory) {
            Ok(waiter) => {
                self.groups.started(&waiter.name, waiter.group);
                if let Some(seat) = self.waiters.get_mut(i) {
                    *seat = Some(waiter);
                }
                self.reporter.tell_version(id, &instance);
            }
            Err(e) => {
                let text = format!("{} cannot be started: {e}", instance.label());
                self.reporter.report("instance-failed", Severity::Alarm, instance.label(), text.clone());
                self.reporter.news(id, ProcessNews::Failed { text });
            }
        }
    }

    /// The next process of those that have not started all of theirs.
    fn go_on(&mut self) {
        for waiter in self.waiters.iter_mut().flatten() {
            let instance = waiter.instance.clone();
            if let Err(text) = waiter.step(&instance, &self.preload, &self.reporter) {
                let text = format!("{} cannot be started: {text}", instance.label());
                self.reporter.report("instance-failed", Severity::Alarm, instance.label(), text);
                waiter.steps.clear();
                waiter.told.broken.store(true, Ordering::Release);
                // Its end is then reported as one that nobody asked for, which it is.
                signal_group(waiter.group, Signal::SIGKILL);
            }
        }
    }

    fn obey(&mut self, i: usize, order: Order) {
        // An end that the core knows of already must not stand in the way of its order.
        while let Ok(ended) = self.endings.try_recv() {
            self.reap(ended);
        }
        let Some(waiter) = self.waiters.get_mut(i).and_then(Option::as_mut) else {
            if order == Order::Start {
                self.start(i);
            }
            return;
        };
        match order {
            // It runs: the order was late.
            Order::Start => {}
            Order::Stop => waiter.end(Signal::SIGTERM),
            Order::Kill => waiter.end(Signal::SIGKILL),
        }
    }

    /// On a thread of its own: a daemon that hangs does not answer its control program either.
    fn restart_neighbour(&self, i: usize, peer: IpAddr) {
        let Some(instance) = self.roster.at(i) else { return };
        let (reporter, busy) = (self.reporter.clone(), self.asking.clone());
        let folder = kinds::folder_beside(&self.preload.socket, instance.label());
        if Arc::strong_count(&busy) > neighbour::MAX_AT_ONCE + 1 {
            return reporter.neighbour(instance.label(), peer, Err("too many are being restarted already".to_owned()));
        }
        let name = instance.label().to_owned();
        let ask = move || {
            reporter.neighbour(instance.label(), peer, neighbour::restart(&instance, &folder, peer));
            drop(busy);
        };
        if let Err(e) = std::thread::Builder::new().name("neighbour-restart".into()).spawn(ask) {
            self.reporter.neighbour(&name, peer, Err(format!("no thread for it: {e}")));
        }
    }

    /// The waiting thread of an instance has done its work.
    fn reap(&mut self, i: usize) {
        if let Some(waiter) = self.waiters.get_mut(i).and_then(Option::take) {
            let _ = waiter.thread.join();
            self.groups.ended(waiter.group);
        }
    }

    /// What was told to end and does not.
    fn kill_late(&mut self) {
        for waiter in self.waiters.iter_mut().flatten() {
            if waiter.patience.is_some_and(|until| Instant::now() >= until) {
                log::warn!("{} does not end on SIGTERM and is killed", waiter.name);
                waiter.end(Signal::SIGKILL);
                waiter.patience = None;
            }
        }
    }

    fn measure(&mut self) {
        let running = self.waiters.iter().enumerate().filter_map(|(i, w)| Some((i, w.as_ref()?.group)));
        for (i, used) in self.usage.measure(running) {
            let news = ProcessNews::Usage { cpu_permille: used.cpu_permille, rss_kib: used.rss_kib };
            self.reporter.news(InstanceId(i as u8), news);
        }
    }

    fn end_all(self) {
        let mut waiters: Vec<Waiter> = self.waiters.into_iter().flatten().collect();
        waiters.iter_mut().for_each(|w| w.end(Signal::SIGTERM));
        let deadline = Instant::now() + TERM_PATIENCE;
        for waiter in &mut waiters {
            while !waiter.thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(GROUP_CHECK);
            }
            if !waiter.thread.is_finished() {
                log::warn!("{} does not end on SIGTERM and is killed", waiter.name);
                waiter.end(Signal::SIGKILL);
            }
        }
        for waiter in waiters {
            let _ = waiter.thread.join();
            self.groups.ended(waiter.group);
        }
    }
}

/// One started instance.
struct Waiter {
    name: String,
    /// As it was started.
    instance: Arc<Instance>,
    /// Its main process, which leads its group. It stays a zombie, so that its number is nobody
    /// else's, until the group is empty.
    group: Pid,
    members: Arc<Group>,
    /// What is yet to be started.
    steps: VecDeque<Step>,
    told: Arc<Asked>,
    /// When to lose it.
    patience: Option<Instant>,
    thread: JoinHandle<()>,
}

/// Why virtd itself has sent the processes of an instance a signal.
#[derive(Debug, Default)]
struct Asked {
    /// It was told to end.
    end: AtomicBool,
    /// One of them could not be started, so the others are of no use.
    broken: AtomicBool,
}

impl Waiter {
    fn end(&mut self, signal: Signal) {
        self.told.end.store(true, Ordering::Release);
        self.steps.clear();
        self.patience = (signal == Signal::SIGTERM).then(|| Instant::now() + TERM_PATIENCE);
        signal_group(self.group, signal);
    }
}

fn start_one(
    i: usize,
    instance: &Instance,
    folder: &Path,
    preload: &Preload,
    reporter: &Reporter,
    ended: &Sender<usize>,
    memory: Arc<Mutex<death::Memory>>,
) -> io::Result<Waiter> {
    kinds::prepare(instance, folder)?;
    let programs = kinds::programs(instance, folder);
    let Some((first, rest)) = programs.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no command"));
    };
    let place = if rest.is_empty() { Place::Session } else { Place::Leader };
    let (group, _) = spawn(instance, first, preload, place)?;
    // Before anything can be told of its end.
    reporter.news(InstanceId(i as u8), ProcessNews::Started { pid: group.as_raw().unsigned_abs() });
    let members = Arc::new(Group::new(group, first.name(), !rest.is_empty()));
    let told = Arc::new(Asked::default());
    let thread = {
        let (name, reporter, ended) = (instance.label().to_owned(), reporter.clone(), ended.clone());
        let (told, members) = (told.clone(), members.clone());
        std::thread::Builder::new()
            .name("instance-wait".into())
            .spawn(move || {
                let news = wait(&name, &members, &told, &reporter, |status| {
                    // At once: its legs close now, and whom that is blamed on hangs on this.
                    let short = || memory.lock().unwrap_or_else(PoisonError::into_inner).was_short();
                    let death = death::of(status, short);
                    reporter.news(InstanceId(i as u8), ProcessNews::Died { death });
                    death
                });
                // The keeper first: an order that the news brings about must find the place free.
                let _ = ended.send(i);
                reporter.news(InstanceId(i as u8), news);
            })
            .inspect_err(|_| signal_group(group, Signal::SIGKILL))?
    };
    let text = format!("{} was started as process {group}: {}", instance.label(), first.command.join(" "));
    reporter.report("instance-started", Severity::Info, instance.label(), text);
    let steps = rest.iter().cloned().map(Step::new).collect();
    Ok(Waiter {
        name: instance.label().to_owned(),
        instance: Arc::new(instance.clone()),
        group,
        members,
        steps,
        told,
        patience: None,
        thread,
    })
}

/// Starts one process, and threads that read its output.
fn spawn(instance: &Instance, program: &Program, preload: &Preload, place: Place) -> io::Result<(Pid, Child)> {
    let mut child = launch::spawn(instance, program, preload, place)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let output: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|o| Box::new(o) as _), child.stderr.take().map(|o| Box::new(o) as _)];
    for stream in output.into_iter().flatten() {
        let name = instance.label().to_owned();
        // Without a reader the daemon would block on a full pipe one day; so this failing ends it.
        let reader =
            std::thread::Builder::new().name("instance-output".into()).spawn(move || output::forward(&name, stream));
        if let Err(e) = reader {
            let _ = child.kill();
            let _ = child.wait();
            return Err(e);
        }
    }
    Ok((pid, child))
}

/// Waits for the first process to end, reports that, ends what is left of its group, and reaps it.
/// `died` hears at once how an end came that nobody here has asked for.
fn wait(
    name: &str,
    members: &Group,
    told: &Asked,
    reporter: &Reporter,
    died: impl FnOnce(Option<&WaitStatus>) -> Death,
) -> ProcessNews {
    let group = members.leader;
    let ended = members.first_end();
    let asked = told.end.load(Ordering::Acquire);
    // A signal that virtd itself has sent says nothing of who wanted it.
    let known = ended.as_ref().ok().filter(|_| !told.broken.load(Ordering::Acquire));
    let death = (!asked).then(|| died(known));
    let what = match &ended {
        Ok(status) => members.title(name, status.pid()),
        Err(_) => format!("{name} (process {group})"),
    };
    let how = match ended {
        Ok(WaitStatus::Exited(_, 0)) => "has exited with status 0; it must stay in the foreground".to_owned(),
        Ok(WaitStatus::Exited(_, status)) => format!("has exited with status {status}"),
        Ok(WaitStatus::Signaled(_, signal, core)) => {
            let short = if death == Some(Death::OutOfMemory) { ", since memory was short" } else { "" };
            format!("was ended by {signal}{short}{}", if core { core_dump() } else { String::new() })
        }
        other => format!("is gone ({other:?})"),
    };
    if asked {
        reporter.report("instance-stopped", Severity::Info, name, format!("{name} has ended, as virtd told it to"));
    } else {
        reporter.report("instance-exited", Severity::Warning, name, format!("{what} {how}"));
        signal_group(group, Signal::SIGTERM);
    }
    let deadline = Instant::now() + TERM_PATIENCE;
    while has_members(group) && Instant::now() < deadline {
        std::thread::sleep(GROUP_CHECK);
    }
    signal_group(group, Signal::SIGKILL);
    members.reap();
    ProcessNews::Ended { unasked: !asked, text: format!("{what} {how}") }
}

/// Where the kernel leaves a core file (core(5)), as the end of a sentence.
pub fn core_dump() -> String {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    format!(", with a core dump (kernel.core_pattern is {:?})", pattern.trim())
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

#[cfg(test)]
mod root_tests;
#[cfg(test)]
#[path = "instances_tests.rs"]
mod tests;
