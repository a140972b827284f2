//! The master's loop: signals, what the worker says, and the ends of processes.

mod deaths;
mod end;
mod twins;
mod upgrade;
mod watchdog;

use crate::document::{Checks, Document};
use crate::link::{self, Link, Received, file_of};
use crate::message::{Begin, Died, ToMaster, ToWorker, Told, fit};
use crate::pace::Pace;
use crate::process;
use crate::program::Program;
use crate::seats::{Refused, Seats, Step};
use anyhow::{Context, Result, bail};
use broker::event::{Event, Severity};
use broker::io::{InstanceId, Order, ProcessNews};
use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use deaths::MEMORY_TICK;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twins::TWIN_PAUSE;
use upgrade::Upgrades;
use virtd_config::Config;
use virtd_linux::bypass;
use virtd_linux::eventlog::{self, EventSender};
use virtd_linux::files;
use virtd_linux::identity::Identity;
use virtd_linux::instances::{CoreLine, Groups, Instances, Memory, Report, Roster};
use virtd_linux::notify::{monotonic_us, notify};
use watchdog::Watchdog;

/// What may wait for the master's loop, for the supervisor or for the worker.
const MAX_WAITING: usize = 1024;
/// Events that wait while there is no worker.
const MAX_EVENTS: usize = 1024;
/// How long the worker may take to end when it is told to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What the loop waits for, besides the supervisor's words. `life` numbers workers.
enum Happening {
    Signal(i32),
    Said { life: u32, message: Received<ToMaster> },
    Twin { life: u32, pid: Option<Pid>, line: OwnedFd },
    Exited { pid: Pid, status: Option<WaitStatus> },
    Read { life: u32, id: u64, dry_run: bool, outcome: Result<Box<Document>, String> },
    InstancesEnded,
    Tried { life: u32, id: u64, outcome: Result<Program, String> },
    Keeper { life: u32, pid: Option<Pid>, line: OwnedFd },
}

struct Worker {
    pid: Pid,
    since: Instant,
    link: Arc<Link>,
    lines: Sender<(ToWorker, Option<OwnedFd>)>,
    ready: bool,
    ended: Option<Option<WaitStatus>>,
    /// All that it has said was heard.
    silent: bool,
}

/// The twin of the worker that there is, or was.
enum Twin {
    None,
    /// The worker makes one, or is about to.
    Coming,
    Here {
        pid: Pid,
        line: OwnedFd,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Runs,
    /// The instances are being ended.
    Ends,
    /// They are gone.
    Over,
}

struct Supervisor {
    instances: Option<Instances>,
    groups: Groups,
    orders: Sender<(InstanceId, Order)>,
    neighbours: Sender<(InstanceId, IpAddr)>,
}

struct Master {
    file: PathBuf,
    named_shim: Option<PathBuf>,
    shim: Option<PathBuf>,
    checks: Checks,
    /// In force.
    current: Document,
    /// Whom workers run as, where that is somebody else than this process.
    identity: Option<Identity>,
    /// Read for a reload, whose outcome is not known yet.
    proposed: Option<(u64, Document)>,
    seats: Seats,
    roster: Roster,
    supervisor: Option<Supervisor>,
    /// Given to the supervisor when it starts.
    tellers: Option<(EventSender, Sender<Report>)>,
    happens: Sender<Happening>,
    life: u32,
    worker: Option<Worker>,
    twin: Twin,
    /// What the twin has left that has become the worker, until that one serves.
    keeper: Twin,
    was_ready: bool,
    upgrades: Upgrades,
    /// How many workers have died.
    restarts: u32,
    pace: Pace,
    /// The last worker's program ([`Program::id`]).
    runs: Option<(u64, u64)>,
    died: Option<Died>,
    start_at: Option<Instant>,
    twin_at: Option<Instant>,
    kill_at: Option<Instant>,
    events: VecDeque<Event>,
    stage: Stage,
    /// Whether a worker that was killed was so for want of memory.
    memory: Memory,
    /// When that is looked at next.
    memory_at: Instant,
    watchdog: Watchdog,
    /// The service manager was told that the configuration is being read again.
    reloading: bool,
}

/// Runs virtd with the configuration in `file` until SIGTERM or SIGINT. `shim` is where the operator
/// says that libhvlibc.so is.
///
/// # Errors
/// The configuration is wrong, or a process cannot be started. What the first worker finds wrong it
/// says itself; then the result is a failure without words.
pub fn run(file: &Path, shim: Option<&Path>, checks: Checks) -> Result<ExitCode> {
    let current = Document::read(file)?;
    // Two for each process of an instance, whose output is read here.
    files::raise();
    // None may need it yet; a reload can bring one that does.
    let found = (checks.start)(&current.config, shim)?.or_else(|| (checks.find_shim)(shim));
    let (happens, happenings) = bounded(MAX_WAITING);
    let (events, to_tell) = eventlog::line(MAX_WAITING);
    let (reporter, reports) = bounded(MAX_WAITING);
    watch_signals(happens.clone())?;
    let roster = Roster::default();
    let mut master = Master {
        file: file.to_owned(),
        named_shim: shim.map(Path::to_owned),
        shim: found,
        checks,
        identity: deaths::worker_of(&current.config)?,
        memory: Memory::new(),
        memory_at: Instant::now(),
        watchdog: Watchdog::new(),
        reloading: false,
        current,
        proposed: None,
        seats: Seats::new(roster.clone()),
        roster,
        supervisor: None,
        tellers: Some((events, reporter)),
        happens,
        life: 0,
        worker: None,
        twin: Twin::None,
        keeper: Twin::None,
        was_ready: false,
        upgrades: Upgrades::new(Program::own().context("cannot open virtd's own program")?),
        restarts: 0,
        pace: Pace::default(),
        runs: None,
        died: None,
        start_at: Some(Instant::now()),
        twin_at: None,
        kill_at: None,
        events: VecDeque::new(),
        stage: Stage::Runs,
    };
    master.run(&happenings, &to_tell, &reports)
}

fn watch_signals(happens: Sender<Happening>) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot watch for signals")?;
    let watch = move || {
        for signal in signals.forever() {
            if happens.send(Happening::Signal(signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start the signals' thread")?;
    Ok(())
}

impl Master {
    fn run(
        &mut self,
        happenings: &Receiver<Happening>,
        events: &Receiver<Event>,
        reports: &Receiver<Report>,
    ) -> Result<ExitCode> {
        loop {
            self.keep_time()?;
            let start_at = self.start_at.filter(|_| !self.somebody_comes());
            let watchdog = self.watchdog.due();
            let next = [start_at, self.twin_at, self.kill_at, self.upgrades.ready_by, watchdog, Some(self.memory_at)]
                .into_iter()
                .flatten()
                .min();
            let pause = next.map_or_else(never, |at| after(at.saturating_duration_since(Instant::now())));
            select! {
                recv(happenings) -> happened => {
                    let Ok(happened) = happened else { bail!("the master's threads are gone") };
                    if let Happening::InstancesEnded = happened {
                        // What they have caused comes before the worker's end.
                        reports.try_iter().for_each(|report| self.report(report));
                        events.try_iter().for_each(|event| self.tell(event));
                    }
                    self.happened(happened);
                }
                recv(events) -> event => if let Ok(event) = event { self.tell(event) },
                recv(reports) -> report => if let Ok(report) = report { self.report(report) },
                recv(pause) -> _ => {}
            }
            if let Some(code) = self.is_over() {
                return Ok(code);
            }
        }
    }

    /// Does what is due.
    fn keep_time(&mut self) -> Result<()> {
        let now = Instant::now();
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if !self.somebody_comes() && due(&mut self.start_at) {
            self.start()?;
        }
        if due(&mut self.twin_at) && self.stage == Stage::Runs && matches!(self.twin, Twin::None) {
            self.send(ToWorker::MakeTwin, None);
        }
        if self.memory_at <= now {
            self.memory.tick(now);
            self.memory_at = now + MEMORY_TICK;
        }
        if due(&mut self.upgrades.ready_by) {
            self.upgrade_is_late();
        }
        self.look_at_watchdog(now);
        if due(&mut self.kill_at)
            && let Some(worker) = &self.worker
        {
            log::error!("the worker (process {}) does not end and is killed", worker.pid);
            let _ = kill(worker.pid, Signal::SIGKILL);
        }
        Ok(())
    }

    /// A worker: the twin's, or one that has nothing of any before.
    fn start(&mut self) -> Result<()> {
        let (link, theirs) = Link::pair().context("cannot make the link to the worker")?;
        // The twin of a worker is of the same program.
        let id = self.upgrades.program.id();
        let other = (id.is_none() || id != self.runs).then(|| self.upgrades.program.file());
        self.runs = id;
        let (keepers, line) = link::pair().context("cannot make a keeper's line")?;
        let twin = std::mem::replace(&mut self.twin, Twin::None);
        let keeper = std::mem::replace(&mut self.keeper, Twin::None);
        let goes = |twin: Twin, other| match twin {
            Twin::Here { pid, line } => process::go(&line, &theirs, &keepers, other).ok().map(|()| pid),
            Twin::None | Twin::Coming => None,
        };
        // A keeper was left by a worker of the program that is wanted again.
        let inherits = goes(twin, other).or_else(|| goes(keeper, None));
        drop(keepers);
        let started = match inherits {
            Some(pid) => pid,
            None => {
                let (program, identity) = (&self.upgrades.program, self.identity.as_ref());
                let started = process::fresh(theirs, program, identity, &self.current.config.shim_socket);
                let pid = started.context("cannot start the worker")?;
                self.watch(pid)?;
                pid
            }
        };
        self.life += 1;
        if inherits.is_some() {
            self.keeper_comes(line);
        }
        let (life, link) = (self.life, Arc::new(link));
        let (lines, to_send) = bounded::<(ToWorker, Option<OwnedFd>)>(MAX_WAITING);
        let (reading, writing, happens) = (link.clone(), link.clone(), self.happens.clone());
        let read = move || {
            loop {
                let message = reading.receive();
                let over = matches!(message, Received::End);
                if happens.send(Happening::Said { life, message }).is_err() || over {
                    return;
                }
            }
        };
        let write = move || {
            for (message, file) in to_send {
                if let Err(e) = writing.send(&message, file.as_ref().map(AsFd::as_fd)) {
                    log::warn!("the worker cannot be told something: {e}");
                }
            }
        };
        std::thread::Builder::new().name("from-worker".into()).spawn(read)?;
        std::thread::Builder::new().name("to-worker".into()).spawn(write)?;
        let since = Instant::now();
        self.worker = Some(Worker { pid: started, since, link, lines, ready: false, ended: None, silent: false });
        // A request for a reload has died with whoever asked.
        self.proposed = None;
        self.reloaded();
        let labels = self.seats.begin(&self.current.config);
        let text = file_of(&self.current.text).context("cannot hand over the configuration")?;
        let (file, died, restarts) = (self.file.clone(), self.died.take(), self.restarts);
        let (master, beat_ms) = (Pid::this().as_raw().unsigned_abs(), self.watchdog.beat_ms());
        let begin = Begin { file, labels, restarts, died, master, beat_ms };
        self.send(ToWorker::Begin(begin), Some(text));
        Ok(())
    }

    /// Has the loop told of a child's end.
    fn watch(&self, pid: Pid) -> Result<()> {
        let happens = self.happens.clone();
        let wait = move || {
            let status = process::end_of(pid);
            let _ = happens.send(Happening::Exited { pid, status });
        };
        std::thread::Builder::new().name("child".into()).spawn(wait).context("cannot start a thread")?;
        Ok(())
    }

    /// Never waits: a worker that does not read what it is told misses it.
    fn send(&mut self, message: ToWorker, file: Option<OwnedFd>) {
        let Some(worker) = &self.worker else { return };
        if let Err(e) = worker.lines.try_send((message, file))
            && worker.ended.is_none()
        {
            log::warn!("the worker is not told something: {e}");
        }
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Signal(SIGHUP) if self.stage == Stage::Runs => self.send(ToWorker::Reload, None),
            Happening::Signal(SIGHUP) => {}
            Happening::Signal(signal) => self.end(signal),
            Happening::Said { life, message } => self.said(life, message),
            Happening::Twin { life, pid, line } => self.twin_came(life, pid, line),
            Happening::Exited { pid, status } => self.exited(pid, status),
            Happening::Read { life, id, dry_run, outcome } => self.was_read(life, id, dry_run, outcome),
            Happening::InstancesEnded => self.instances_ended(),
            Happening::Tried { life, id, outcome } => self.was_tried(life, id, outcome),
            Happening::Keeper { life, pid, line } => self.keeper_came(life, pid, line),
        }
    }

    fn said(&mut self, life: u32, message: Received<ToMaster>) {
        if life != self.life {
            return;
        }
        match message {
            Received::Message(message, file) => self.obey(message, file),
            Received::Wrong(e) => log::error!("the worker says what is no message: {e}"),
            Received::End => {
                if let Some(worker) = &mut self.worker {
                    worker.silent = true;
                    // Whoever hears nothing any more has to end.
                    self.kill_at.get_or_insert(Instant::now() + STOP_PATIENCE);
                }
                self.bury();
            }
        }
    }

    fn obey(&mut self, message: ToMaster, file: Option<OwnedFd>) {
        match message {
            ToMaster::Twin => self.twin_comes(file),
            ToMaster::Ready => self.ready(),
            ToMaster::Turns => self.turns(),
            ToMaster::Order { index, order } => match self.seats.slot(index) {
                Some(slot) => self.order(slot, order),
                None => log::error!("the worker orders {order:?} of nobody's place {index}"),
            },
            ToMaster::Neighbour { index, peer } => {
                let wish = self.seats.slot(index).map(|slot| (InstanceId(slot as u8), peer));
                let sent = self.supervisor.as_ref().zip(wish).map(|(s, wish)| s.neighbours.try_send(wish));
                if !matches!(sent, Some(Ok(()))) {
                    log::warn!("the session with {peer} of place {index} is not begun anew");
                }
            }
            ToMaster::Seat { index, who } => {
                let known: Vec<&Config> =
                    self.proposed.iter().map(|(_, d)| &d.config).chain([&self.current.config]).collect();
                if let Err(Refused(why)) = self.seats.seat(index, who.as_ref(), &known) {
                    log::error!("the worker is refused place {index}: {why}");
                }
            }
            ToMaster::Rest { index } => self.seats.rest(index),
            ToMaster::Holder { inode } => {
                // It may look into other processes, and the worker may not.
                self.send(ToWorker::Holder { inode, holder: bypass::holder(inode) }, None);
            }
            ToMaster::Read { id, dry_run } => self.read(id, dry_run),
            ToMaster::Adopted { id, taken } => {
                self.reloaded();
                if let Some((_, document)) = self.proposed.take_if(|(proposed, _)| *proposed == id)
                    && taken
                {
                    self.current = document;
                    self.forget_tried();
                }
            }
            ToMaster::Try { id, to, census } => self.attempt(id, to, census, file),
            ToMaster::Upgrade { id } => self.upgrade(id),
            ToMaster::Tried { .. } => log::error!("the worker says that it was tried"),
        }
    }

    fn order(&self, slot: usize, order: Order) {
        let sent = self.supervisor.as_ref().map(|s| s.orders.try_send((InstanceId(slot as u8), order)));
        if !matches!(sent, Some(Ok(()))) && self.stage == Stage::Runs {
            log::warn!("{order:?} of place {slot} cannot be passed on: there is no supervisor, or it is stuck");
        }
    }

    /// The worker serves: whoever does not run is started, and it is told who does.
    fn ready(&mut self) {
        let Some(worker) = self.worker.as_mut().filter(|worker| !worker.ready) else { return };
        worker.ready = true;
        let steps = self.seats.ready();
        if self.supervisor.is_some() {
            for step in steps {
                match step {
                    Step::Tell(index, news) => self.send(ToWorker::News { index, news }, None),
                    Step::Start(slot) => self.order(slot, Order::Start),
                    Step::Stop(slot) => self.order(slot, Order::Stop),
                    Step::Kill(slot) => self.order(slot, Order::Kill),
                }
            }
        } else if self.stage == Stage::Runs
            && let Err(e) = self.start_instances()
        {
            log::error!("the instances cannot be started: {e:#}");
        }
        for event in std::mem::take(&mut self.events) {
            self.tell(event);
        }
        // Whose twin has all that it has: nobody else has to keep anything.
        self.keeper = Twin::None;
        self.served();
        if !std::mem::replace(&mut self.was_ready, true) && self.stage == Stage::Runs {
            notify("READY=1");
        }
        // Its loop has the whole time from now on.
        self.turns();
    }

    /// They come last: their shim needs the socket that the worker has opened.
    fn start_instances(&mut self) -> Result<()> {
        let (Some(shim), Some((events, reports))) = (self.shim.clone(), self.tellers.take()) else { return Ok(()) };
        let (orders, ordered) = bounded(MAX_WAITING);
        let (neighbours, to_restart) = bounded(MAX_WAITING);
        let core = CoreLine { orders: ordered, neighbours: to_restart, reports };
        let (config, roster) = (&self.current.config, self.roster.clone());
        let instances = Instances::start(config, roster, &shim, Instant::now(), events, core)
            .context("cannot start the instances' thread")?;
        let groups = instances.groups();
        self.supervisor = Some(Supervisor { instances: Some(instances), groups, orders, neighbours });
        Ok(())
    }

    /// What was read is in force, or is not: the service manager is told.
    fn reloaded(&mut self) {
        if std::mem::take(&mut self.reloading) {
            notify("READY=1");
        }
    }

    /// On a thread of its own: the daemons are asked, too.
    fn read(&mut self, id: u64, dry_run: bool) {
        if !dry_run && self.was_ready && self.stage == Stage::Runs {
            self.reloading = true;
            // Type=notify-reload wants to know when.
            notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
        }
        let (life, happens, file) = (self.life, self.happens.clone(), self.file.clone());
        let (named, starts, check) = (self.named_shim.clone(), self.shim.is_some(), self.checks.reload);
        let read = move || {
            let outcome = Document::checked(&file, named.as_deref(), starts, check).map(Box::new);
            let _ = happens.send(Happening::Read { life, id, dry_run, outcome });
        };
        if let Err(e) = std::thread::Builder::new().name("reload".into()).spawn(read) {
            let refused = Some(format!("no thread to read the configuration: {e}"));
            self.send(ToWorker::Configuration { id, refused }, None);
            self.reloaded();
        }
    }

    fn was_read(&mut self, life: u32, id: u64, dry_run: bool, outcome: Result<Box<Document>, String>) {
        if life != self.life {
            return;
        }
        let handed = outcome.and_then(|document| {
            let file = file_of(&document.text).map_err(|e| format!("it cannot be handed over: {e}"))?;
            Ok((document, file))
        });
        match handed {
            Ok((document, file)) => {
                if !dry_run {
                    self.proposed = Some((id, *document));
                }
                self.send(ToWorker::Configuration { id, refused: None }, Some(file));
            }
            Err(e) => {
                self.send(ToWorker::Configuration { id, refused: Some(fit(e)) }, None);
                self.reloaded();
            }
        }
    }

    fn report(&mut self, report: Report) {
        let usage = matches!(report.news, ProcessNews::Usage { .. });
        let Some((index, news)) = self.seats.heard(usize::from(report.instance.0), report.news) else { return };
        let news = match news {
            ProcessNews::Ended { unasked, text } => ProcessNews::Ended { unasked, text: fit(text) },
            ProcessNews::Failed { text } => ProcessNews::Failed { text: fit(text) },
            other => other,
        };
        // Until then it is told of all that runs when it is ready.
        if let Some(worker) = self.worker.as_ref().filter(|worker| worker.ready)
            && !(usage && worker.lines.len() > MAX_WAITING / 2)
        {
            self.send(ToWorker::News { index, news }, None);
        }
    }

    fn tell(&mut self, event: Event) {
        if self.worker.as_ref().is_some_and(|worker| worker.ready && worker.ended.is_none()) {
            self.send(ToWorker::Event(Told::from(event)), None);
        } else if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    fn exited(&mut self, pid: Pid, status: Option<WaitStatus>) {
        if let Some(worker) = self.worker.as_mut().filter(|worker| worker.pid == pid) {
            worker.ended = Some(status);
            // The twin has its end of the link, too, so that this does not end by itself.
            worker.link.end();
            self.bury();
        } else if matches!(&self.twin, Twin::Here { pid: twin, .. } if *twin == pid) {
            self.twin = Twin::None;
            if self.stage == Stage::Runs {
                let text = format!(
                    "the twin (process {pid}) {}: until there is another, the worker's sessions would not outlast its death",
                    process::how(status.as_ref())
                );
                self.tell(Event::new(0, "twin-died", Severity::Warning, text));
                self.twin_at = Some(Instant::now() + TWIN_PAUSE);
            }
        } else if matches!(&self.keeper, Twin::Here { pid: keeper, .. } if *keeper == pid) {
            self.keeper = Twin::None;
        }
    }
}
