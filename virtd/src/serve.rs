//! The worker, put together: event log, control socket, core and driver; and taken apart again when
//! the master says so. What the master checks before is here, too.

use crate::control::{self, ControlQueue, ControlRequest, ControlSocket};
use crate::driver::Beat;
use crate::recorder;
use crate::show;
use crate::upgrade::Leave;
use crate::worker::{self, Beginning, Ears, Master};
use anyhow::{Context, Result, bail};
use broker::Answer;
use broker::event::{Event, Severity};
use broker::io::Record;
use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use virtd_api::Worker;
use virtd_config::{Config, Fib, OpenMode};
use virtd_linux::bypass;
use virtd_linux::eventlog::{self, EventSender};
use virtd_linux::identity::Identity;
use virtd_linux::instances::{Report, preflight, syntax};
use virtd_linux::kernel::{self, KernelLine, features, leftover};
use virtd_linux::{files, folders, identity, kinds};
use virtd_master::program;

/// Reports that may wait: some for every instance that there can be.
const MAX_WAITING: usize = 256;
/// How long those that follow the events may take to be told the last ones.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Records that may wait for the disk.
const MAX_RECORDS: usize = 16;

/// The loop's lines to the other threads. It never waits on any of them.
#[derive(Debug)]
pub struct Lines {
    /// To the event log.
    pub events: Sender<Event>,
    /// To the master, which supervises the instances.
    pub master: Master,
    /// From it; the sender wakes the loop.
    pub reports: Receiver<Report>,
    /// To the flight recorder.
    pub records: Sender<Box<Record>>,
    /// The ports of the peers, for the thread that looks for what goes past virtd.
    pub ports: bypass::Ports,
    /// To and from the thread that reads and writes the kernel's routes.
    pub kernel: KernelLine,
    /// Another program may take over.
    pub leave: Leave,
    /// From those who read the routing tables.
    pub ribs: Receiver<control::Word>,
    /// Tells the master that the loop goes on.
    pub beat: Beat,
}

/// The loop that does all I/O with peers and instances: the driver, or a test's stand-in.
pub trait EventLoop {
    /// Wakes the loop from another thread, after a request was queued or `stop` was set.
    fn waker(&self) -> Arc<mio::Waker>;

    /// Runs until `stop` is set and the loop was woken; answers requests from `control` as they
    /// come.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    fn run(&mut self, control: &Receiver<ControlRequest>, stop: &AtomicBool) -> Result<()>;
}

/// Where the shim is, if any instance needs it; every obstacle that can be known beforehand is an
/// error.
///
/// # Errors
/// One line per obstacle.
pub fn check(config: &Config, shim: Option<&Path>) -> Result<Option<PathBuf>> {
    let mut problems = Vec::new();
    let groups = [
        ("shim_group", &config.shim_group),
        ("control_group", &config.control_group),
        ("control_ro_group", &config.control_ro_group),
    ];
    for (key, group) in groups {
        if let Some(Err(e)) = group.as_deref().map(|group| control::group_id(key, group)) {
            problems.push(format!("{e:#}"));
        }
    }
    match identity::of(config) {
        Ok(Some(worker)) => {
            problems.extend(folders::problems(config, &worker));
            problems.extend(worker.cannot_execute(Path::new(program::OWN), &own_name()));
            problems.extend(same_user(config, &worker));
        }
        Ok(None) => {}
        Err(e) => problems.push(e),
    }
    let mut found = None;
    if config.instances.iter().any(|i| i.is_ours()) {
        match preflight::find_shim(shim) {
            Ok(path) => {
                problems.extend(preflight::check(config, &path));
                found = Some(path);
            }
            Err(e) => problems.push(e.to_string()),
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(found)
}

/// Instances that are the worker's user: they could look into it, and end it.
fn same_user(config: &Config, worker: &Identity) -> Vec<String> {
    let same = config.instances.iter().filter(|i| kinds::uid(i) == Some(worker.uid.as_raw()));
    let name = &worker.name;
    same.map(|i| format!("user of instance {}: {name} is whom virtd's worker runs as: name another user", i.name))
        .collect()
}

fn own_name() -> PathBuf {
    program::own_file().unwrap_or_else(|_| PathBuf::from("virtd"))
}

/// The same, and what each daemon says of its own file. Not asked at a start: there a daemon whose
/// file is wrong says so itself, and the others are a router without it.
///
/// # Errors
/// One line per obstacle.
pub fn check_all(config: &Config, shim: Option<&Path>) -> Result<Option<PathBuf>> {
    let found = check(config, shim)?;
    let said = syntax::check(config);
    if !said.is_empty() {
        bail!("{}", said.join("\n"));
    }
    Ok(found)
}

/// What the master checks.
pub const CHECKS: virtd_master::Checks =
    virtd_master::Checks { start: check, reload: check_all, find_shim: |named| preflight::find_shim(named).ok() };

/// Runs the worker until the master says that it is to end. `open` makes the loop and opens its
/// sockets, the shim's among them; the events it sends must never make it wait.
///
/// # Errors
/// What could not be opened or started, with the remedy.
pub fn serve<L: EventLoop>(beginning: Beginning, open: impl FnOnce(&Config, Lines) -> Result<L>) -> Result<()> {
    let Beginning { link, twins, begin, config } = beginning;
    let config = &config;
    let start = Instant::now();
    let (events, log, events_thread) =
        eventlog::start(config.event_log.as_deref()).context("cannot start the event log's thread")?;
    begin.died.iter().flat_map(|died| worker::obituary(died, since(start))).for_each(|event| events.send(event));
    look_for_leftovers(config, start, events.clone())?;
    if let Some(text) = features::missing(config.fib.is_some()) {
        events.send(Event::new(since(start), "kernel-lacks", Severity::Warning, text));
    }
    let control = ControlSocket::bind(&config.control_socket, config.control_mode, config.control_group.as_deref())?;
    let asking = match &config.control_socket_ro {
        Some(path) => Some(ControlSocket::bind(path, config.control_ro_mode, config.control_ro_group.as_deref())?),
        None => None,
    };
    if let Some(text) = files::shortage(config) {
        events.send(Event::new(0, "few-files", Severity::Warning, text));
    }
    let (master, to_master) = Master::new(&begin.file);
    let (reporter, reports) = crossbeam_channel::bounded(MAX_WAITING);
    let (records, to_record) = crossbeam_channel::bounded(MAX_RECORDS);
    let recording = recorder::start(&config.recorder, to_record, SystemTime::now(), events.clone())?;
    let wake_loop = Arc::new(OnceLock::new());
    let (kernel, kernel_thread) = watch_kernel(config, start, &wake_loop)?;
    let ports = bypass::Ports::default();
    ports.set(config);
    let (leave, (images, to_write)) = (Arc::new(AtomicBool::new(false)), crossbeam_channel::bounded(1));
    let (readers, ribs) = control::line();
    let lines = {
        let (events, master, ports) = (events.channel(), master.clone(), ports.clone());
        let leave = Leave { wanted: leave.clone(), images: to_write, twins: twins.clone() };
        Lines { events, master, reports, records, ports, kernel, leave, ribs, beat: Beat::every(begin.beat_ms) }
    };
    let mut driver = open(config, lines)?;
    let _ = wake_loop.set(driver.waker());
    let _ = driver.waker().wake();
    let (queue, requests) = control::queue(Some(driver.waker()));
    let worker = Worker { pid: std::process::id(), restarts: begin.restarts };
    let seen = bypass::Seen::default();
    let queue = queue.with_state(config.state.clone()).with_reload(master.clone());
    let queue = queue.with_worker(worker).with_images(images).with_seen(seen.clone()).with_readers(readers);
    let asking = asking.map(|socket| socket.read_only().serve(queue.clone(), log.clone())).transpose();
    let asking = asking.context("cannot start the thread of the control socket for asking")?;
    let guard = control.serve(queue.clone(), log.clone()).context("cannot start the control socket's thread")?;
    // From here on every socket on the BGP port that is not ours is a stranger's.
    let who = Box::new({
        let master = master.clone();
        move |inode| master.holder(inode)
    });
    let looks = bypass::Looks { port: config.port, ports, start, events: events.clone(), who, seen };
    let watch = bypass::start(looks);
    let watch = watch.context("cannot start the thread that looks for what goes past virtd")?;
    let (stop, ending) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let frozen = kernel_thread.as_ref().map(kernel::Kernel::frozen).unwrap_or_default();
    watch_signals(master.clone(), &stop, &driver.waker(), &frozen)?;
    let ears = Ears {
        master: master.clone(),
        start,
        events,
        reports: reporter,
        waker: wake_loop,
        twins,
        stop: stop.clone(),
        frozen,
        leave,
        reload: Box::new(move || reload(&queue)),
        ending: ending.clone(),
    };
    ears.listen(link.clone()).context("cannot start the thread that hears the master")?;
    worker::write(link.clone(), to_master).context("cannot start the thread that speaks to the master")?;
    log::info!("virtd serves {} with {} instances", listening(config), config.instances.len());

    master.ready();
    let result = driver.run(&requests, &stop);
    ending.store(true, Ordering::Release);
    link.end();
    drop(driver);
    if let Some(thread) = kernel_thread {
        thread.stop();
    }
    drop((guard, asking));
    drop(watch);
    if let Some(recording) = recording {
        // The driver was the only one to send it records.
        let _ = recording.join();
    }
    // The last sender of events is gone with driver and link: what is left is written, and the
    // thread ends.
    let _ = events_thread.join();
    log.wait_for_followers(LAST_WORDS);
    result
}

/// Microseconds since virtd's start, as events have them.
pub(crate) fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Where no FIB is voted on: tells of routes that an earlier virtd has left. Not waited for.
fn look_for_leftovers(config: &Config, start: Instant, events: EventSender) -> Result<()> {
    if config.fib.is_some() {
        return Ok(());
    }
    let protocol = Fib::default().protocol;
    let look = move || match leftover::count(protocol) {
        Ok(0) => {}
        Ok(n) => {
            let text = format!(
                "{n} routes of protocol {protocol} are in the kernel, left by a virtd with [fib]: nobody keeps them up to date, and \
                 they may win over those of the daemons; `virtctl fib flush` removes them"
            );
            events.send(Event::new(since(start), "fib-left-over", Severity::Warning, text));
        }
        Err(e) => log::warn!("it is not known whether an earlier virtd has left routes: {e:#}"),
    };
    std::thread::Builder::new().name("left-over".into()).spawn(look).context("cannot start a thread")?;
    Ok(())
}

/// Without `[fib]` the kernel is only watched; with `open = "native"` there is nothing to decide
/// that would need it.
fn watch_kernel(
    config: &Config,
    start: Instant,
    waker: &kernel::LoopWaker,
) -> Result<(KernelLine, Option<kernel::Kernel>)> {
    let (line, thread) = match &config.fib {
        Some(fib) => kernel::start(fib, start, waker.clone()).context("the FIB")?,
        None if config.open == OpenMode::Native => return Ok((KernelLine::none(), None)),
        None => match kernel::start_watching(waker.clone()) {
            Ok(started) => started,
            Err(e) => {
                log::warn!("links and addresses are not watched: {e:#}");
                return Ok((KernelLine::none(), None));
            }
        },
    };
    line.watch_peers(config.peers.iter().map(|p| p.address).collect());
    Ok((line, Some(thread)))
}

fn listening(config: &Config) -> String {
    config.listen.iter().map(|a| std::net::SocketAddr::new(*a, config.port).to_string()).collect::<Vec<_>>().join(", ")
}

/// SIGHUP: there is nobody to answer but the log.
fn tell_reload(queue: &ControlQueue) {
    match queue.reload(false, None) {
        Ok(Answer::Reloaded(done)) => show::reload(&done).lines().for_each(|line| log::info!("SIGHUP: {line}")),
        Ok(_) => {}
        Err(text) => log::error!("SIGHUP: {text}"),
    }
}

/// On a thread of its own: it may take a while, and the master must be heard.
fn reload(queue: &ControlQueue) {
    let queue = queue.clone();
    let reload = std::thread::Builder::new().name("reload".into()).spawn(move || tell_reload(&queue));
    if let Err(e) = reload {
        log::error!("SIGHUP: no thread to read the configuration: {e}");
    }
}

/// Signals are for the master, which has the instances end before the worker does. Whoever sends one
/// to a whole process group means it. Where the master is gone, the loop ends.
fn watch_signals(
    master: Master,
    stop: &Arc<AtomicBool>,
    waker: &Arc<mio::Waker>,
    frozen: &Arc<AtomicBool>,
) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot watch for signals")?;
    let (stop, waker, frozen) = (stop.clone(), waker.clone(), frozen.clone());
    let watch = move || {
        for signal in signals.forever() {
            if !master.is_gone() || signal == SIGHUP {
                log::debug!("signal {signal} is for the master");
                continue;
            }
            if stop.swap(true, Ordering::AcqRel) {
                std::process::exit(128 + signal);
            }
            log::info!("virtd's worker ends (signal {signal})");
            frozen.store(true, Ordering::Release);
            let _ = waker.wake();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start the signals' thread")?;
    Ok(())
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
