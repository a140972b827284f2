//! The whole of virtd, put together: event log, control socket, core and driver, instances; and
//! taken apart again on SIGTERM.

use crate::control::{self, ControlQueue, ControlRequest, ControlSocket, Reloader};
use crate::recorder;
use crate::show;
use anyhow::{Context, Result, bail};
use broker::Answer;
use broker::event::{Event, Severity};
use broker::io::{InstanceId, Order, Record};
use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use virtd_config::{Config, Fib, OpenMode};
use virtd_linux::bypass;
use virtd_linux::eventlog::{self, EventSender};
use virtd_linux::files;
use virtd_linux::instances::{CoreLine, Instances, Report, Roster, preflight, syntax};
use virtd_linux::kernel::{self, KernelLine, features, leftover};

/// Orders and reports that may wait: some for every instance that there can be.
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
    /// To the supervisor of the instances.
    pub orders: Sender<(InstanceId, Order)>,
    /// To it as well: who is to begin its session with which neighbour anew.
    pub neighbours: Sender<(InstanceId, IpAddr)>,
    /// Whom the supervisor starts.
    pub roster: Roster,
    /// From it; the sender wakes the loop.
    pub reports: Receiver<Report>,
    /// To the flight recorder.
    pub records: Sender<Box<Record>>,
    /// The ports of the peers, for the thread that looks for what goes past virtd.
    pub ports: bypass::Ports,
    /// To and from the thread that reads and writes the kernel's routes.
    pub kernel: KernelLine,
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

/// Runs virtd until SIGTERM or SIGINT. `open` makes the loop and opens its sockets, the shim's
/// among them; the events it sends must never make it wait. `file` is where `config` was read from,
/// and is read again when an operator asks for that.
///
/// # Errors
/// What could not be opened or started, with the remedy.
pub fn serve<L: EventLoop>(
    config: &Config,
    file: Option<&Path>,
    shim: Option<&Path>,
    open: impl FnOnce(&Config, Lines) -> Result<L>,
) -> Result<()> {
    files::raise();
    let named = shim;
    // None may need it yet; a reload can bring one that does.
    let shim = check(config, shim)?.or_else(|| preflight::find_shim(named).ok());
    let start = Instant::now();
    let (events, log, events_thread) =
        eventlog::start(config.event_log.as_deref()).context("cannot start the event log's thread")?;
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
    let roster = Roster::new(config);
    let (orders, ordered) = crossbeam_channel::bounded(MAX_WAITING);
    let (neighbours, to_restart) = crossbeam_channel::bounded(MAX_WAITING);
    let (reporter, reports) = crossbeam_channel::bounded(MAX_WAITING);
    let (records, to_record) = crossbeam_channel::bounded(MAX_RECORDS);
    let recording = recorder::start(&config.recorder, to_record, SystemTime::now(), events.clone())?;
    let found = shim.is_some();
    let wake_loop = Arc::new(OnceLock::new());
    let (kernel, kernel_thread) = watch_kernel(config, start, &wake_loop)?;
    let ports = bypass::Ports::default();
    ports.set(config);
    let lines = {
        let (events, roster, ports) = (events.channel(), roster.clone(), ports.clone());
        Lines { events, orders, neighbours, roster, reports, records, ports, kernel }
    };
    let mut driver = open(config, lines)?;
    let _ = wake_loop.set(driver.waker());
    let _ = driver.waker().wake();
    let (queue, requests) = control::queue(Some(driver.waker()));
    let mut queue = queue.with_state(config.state.clone());
    if let Some(file) = file {
        let (file, shim) = (file.to_owned(), named.map(Path::to_owned));
        queue = queue.with_reload(Reloader { file, shim, starts: found });
    }
    let asking = asking.map(|socket| socket.read_only().serve(queue.clone(), log.clone())).transpose();
    let asking = asking.context("cannot start the thread of the control socket for asking")?;
    let guard = control.serve(queue.clone(), log.clone()).context("cannot start the control socket's thread")?;
    let stop = Arc::new(AtomicBool::new(false));
    // From here on every socket on the BGP port that is not ours is a stranger's.
    let watch = bypass::start(config.port, ports, start, events.clone());
    let watch = watch.context("cannot start the thread that looks for what goes past virtd")?;
    // Instances come last: their shim needs the socket that the driver has opened.
    let instances = match shim {
        Some(shim) => {
            let (orders, neighbours, reports, waker) = (ordered, to_restart, reporter, driver.waker());
            let core = CoreLine { orders, neighbours, reports, waker };
            let started = Instances::start(config, roster, &shim, start, events, core);
            Some(started.context("cannot start the instances' thread")?)
        }
        None => {
            drop(events);
            None
        }
    };
    let instances = Arc::new(Mutex::new(instances));
    let frozen = kernel_thread.as_ref().map(kernel::Kernel::frozen).unwrap_or_default();
    watch_signals(&stop, &driver.waker(), &instances, &frozen, queue)?;
    log::info!("virtd serves {} with {} instances", listening(config), config.instances.len());

    notify("READY=1");
    let result = driver.run(&requests, &stop);
    drop(driver);
    if let Some(thread) = kernel_thread {
        thread.stop();
    }
    end_instances(&instances);
    drop((guard, asking));
    drop(watch);
    if let Some(recording) = recording {
        // The driver was the only one to send it records.
        let _ = recording.join();
    }
    // The last sender of events is gone with driver and instances: what is left is written, and the
    // thread ends.
    let _ = events_thread.join();
    log.wait_for_followers(LAST_WORDS);
    result
}

/// Microseconds since virtd's start, as events have them.
fn since(start: Instant) -> u64 {
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

/// Tells a service manager that asked for it (sd_notify(3)), so that daemons ordered after virtd
/// find its socket.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a));
    if let Err(e) = sent {
        log::warn!("NOTIFY_SOCKET {}: {e}", path.display());
    }
}

fn end_instances(instances: &Mutex<Option<Instances>>) {
    let taken = instances.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(instances) = taken {
        instances.stop();
    }
}

/// SIGHUP: there is nobody to answer but the log.
fn tell_reload(queue: &ControlQueue) {
    match queue.reload(false, None) {
        Ok(Answer::Reloaded(done)) => show::reload(&done).lines().for_each(|line| log::info!("SIGHUP: {line}")),
        Ok(_) => {}
        Err(text) => log::error!("SIGHUP: {text}"),
    }
}

/// On the first signal the instances end while the loop still runs, so that what they say last
/// (Cease) is heard; then the loop ends. A second signal ends the process where it stands, and the
/// kernel the instances.
fn watch_signals(
    stop: &Arc<AtomicBool>,
    waker: &Arc<mio::Waker>,
    instances: &Arc<Mutex<Option<Instances>>>,
    frozen: &Arc<AtomicBool>,
    queue: ControlQueue,
) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot watch for signals")?;
    let (stop, waker, instances, frozen) = (stop.clone(), waker.clone(), instances.clone(), frozen.clone());
    let watch = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                let queue = queue.clone();
                // It may take a while, and a signal to end must be heard.
                let reload = std::thread::Builder::new().name("reload".into()).spawn(move || tell_reload(&queue));
                if let Err(e) = reload {
                    log::error!("SIGHUP: no thread to read the configuration: {e}");
                }
                continue;
            }
            if std::mem::replace(&mut stopping, true) {
                std::process::exit(128 + signal);
            }
            log::info!("virtd ends (signal {signal})");
            notify("STOPPING=1");
            frozen.store(true, Ordering::Release);
            let (stop, waker, instances) = (stop.clone(), waker.clone(), instances.clone());
            // On a thread of its own, so that a second signal is heard meanwhile.
            let ending = std::thread::Builder::new().name("stop".into()).spawn(move || {
                end_instances(&instances);
                stop.store(true, Ordering::Release);
                let _ = waker.wake();
            });
            if ending.is_err() {
                std::process::exit(128 + signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start the signals' thread")?;
    Ok(())
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
