//! The thread's loop: votes first, then what there is to put right; notifications before every
//! batch of writes.

use super::others::Gathered;
use super::pace::Pace;
use super::paths::{Paths, Peers};
use super::refused::Refusals;
use super::report::Reports;
use super::scan::{Scan, Why};
use super::socket::{RouteSocket, Sockets};
use super::table::Damage;
use super::table::{Holding, Table};
use super::view::View;
use super::writer::{Batch, MAX_ENCODED};
use super::{Counters, Lines};
use anyhow::{Context, Result};
use broker::event::{Event, Severity};
use broker::io::{FibChange, KernelNews};
use collections::Recent;
use crossbeam_channel::{Receiver, Sender};
use hashbrown::{HashMap, HashSet};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use virtd_config::{Fib, OnExit};
use wire::bgp::Prefix;
use wire::netlink::fib::{EncodedRoute, FibKey};

/// The token of the waker.
pub const BELL: Token = Token(0);
const MONITOR: Token = Token(1);
/// While nothing is decided on what an earlier virtd has left, the sweep is put off by so much.
const SWEEP_LATER: Duration = Duration::from_secs(1);
/// How long links and addresses have to be quiet before it is looked what became of the routes ...
const QUIET: Duration = Duration::from_millis(100);
/// ... and how long that may be put off.
const MAX_UNQUIET: Duration = Duration::from_secs(1);
/// The longest sleep; nothing depends on it.
const MAX_SLEEP: Duration = Duration::from_secs(3600);
/// Rounds of deleting at the end; each finds only what came since the one before.
const MAX_LAST_ROUNDS: usize = 3;

/// Where a write by the loop took longer than this (somebody holds the kernel's routing lock, a
/// driver say) the loop writes nothing itself for a while: it does not wait a second time.
const SLOW: Duration = Duration::from_millis(20);
const AFTER_SLOW: Duration = Duration::from_secs(30);

/// The thread: has the worker whenever it is awake, and lends it out of `slot` while it sleeps.
pub(super) fn run(mut worker: Box<Worker>, slot: &Receiver<Box<Worker>>, mut poll: Poll) {
    let mut events = Events::with_capacity(4);
    worker.begin();
    while !worker.lines.bell.stop.load(Ordering::Acquire) {
        worker.turn();
        let now = Instant::now();
        // epoll counts in milliseconds and rounds up; so does this, and no turn comes too early.
        let sleep = worker.due(now).saturating_duration_since(now).min(MAX_SLEEP);
        worker.asleep_until = now + sleep;
        worker.put();
        if let Err(e) = poll.poll(&mut events, Some(sleep))
            && e.kind() != std::io::ErrorKind::Interrupted
        {
            log::error!("waiting for netlink: {e}");
            std::thread::sleep(QUIET);
        }
        let Ok(back) = slot.recv() else { return };
        worker = back;
        // Each arrival is an event of its own, so where there is none nothing needs to be asked
        // before a route is written.
        worker.notes_left |= events.iter().any(|event| event.token() == MONITOR);
    }
    worker.finish();
}

/// All that the thread has.
pub struct Worker {
    /// Where it is put while the thread sleeps. There is no other sender: where a panic takes the
    /// worker along, whoever waits for it is told.
    slot: Sender<Box<Worker>>,
    pub(super) config: Fib,
    started: Instant,
    pub(super) sockets: Sockets,
    lines: Lines,
    pub(super) counters: Arc<Counters>,
    pub(super) table: Table,
    /// What is wanted and cannot be written now, and why (errno).
    pub(super) failed: BTreeMap<FibKey, i32>,
    /// Keys with a route of another protocol that has our metric.
    pub(super) foreign: HashSet<FibKey>,
    /// Why keys that wait as repairs do so.
    pub(super) damages: HashMap<FibKey, Damage>,
    pub(super) reports: Reports,
    pub(super) refusals: Refusals,
    pub(super) view: View,
    pub(super) paths: Paths,
    pub(super) scan: Option<Scan>,
    /// The last routes that were written, and the octets that they were read from: most routes go
    /// where one of these went.
    pub(super) encoded: Recent<(Box<[u8]>, EncodedRoute), MAX_ENCODED>,
    /// The last one sent.
    pub(super) batch: Batch,
    /// What it has read of others' routes.
    pub(super) gathered: Gathered,
    pub(super) scan_number: u8,
    /// What an earlier virtd left has not been read yet.
    pub(super) leftovers_unread: bool,
    /// How many routes that were.
    pub(super) leftovers: u64,
    /// Those of them with another metric than ours.
    pub(super) strays: Vec<(FibKey, u32)>,
    /// Leftovers are kept until then; `None`: they have been swept.
    pub(super) sweep_at: Option<Instant>,
    reconcile_at: Instant,
    /// When links and addresses will have been quiet, and when that is not waited for any longer.
    quiet_at: Option<(Instant, Instant)>,
    pub(super) lost_notes: bool,
    /// Notifications may be there.
    pub(super) notes_left: bool,
    told: bool,
    /// The thread sleeps until then at the latest.
    asleep_until: Instant,
    /// Until then the loop writes nothing itself.
    loop_writes_from: Instant,
    pace: Pace,
}

impl Worker {
    /// The worker, and where it is while the thread sleeps.
    pub(super) fn new(
        config: Fib,
        started: Instant,
        sockets: Sockets,
        poll: &Poll,
        lines: Lines,
        counters: Arc<Counters>,
        peers: Peers,
    ) -> Result<(Box<Worker>, Receiver<Box<Worker>>)> {
        let fd = RouteSocket::as_raw_fd(&sockets.monitor);
        poll.registry().register(&mut SourceFd(&fd), MONITOR, Interest::READABLE).context("cannot wait for netlink")?;
        let now = Instant::now();
        let (putter, slot) = crossbeam_channel::bounded(1);
        let worker = Worker {
            slot: putter,
            config,
            started,
            sockets,
            lines,
            counters,
            table: Table::new(),
            failed: BTreeMap::new(),
            foreign: HashSet::new(),
            damages: HashMap::new(),
            reports: Reports::default(),
            refusals: Refusals::default(),
            view: View::default(),
            paths: Paths::new(peers, Some(config.protocol)),
            scan: None,
            encoded: Recent::default(),
            batch: Batch::default(),
            gathered: Gathered::default(),
            scan_number: 0,
            leftovers_unread: true,
            leftovers: 0,
            strays: Vec::new(),
            sweep_at: Some(now + Duration::from_millis(config.sweep_ms.into())),
            reconcile_at: now + Duration::from_millis(config.reconcile_ms.into()),
            quiet_at: None,
            lost_notes: false,
            notes_left: true,
            told: false,
            asleep_until: now,
            loop_writes_from: now,
            pace: Pace::new(now),
        };
        Ok((Box::new(worker), slot))
    }

    /// Reads what is there. Leftovers first: what is in the kernel decides how the first votes are
    /// written.
    fn begin(&mut self) {
        if let Err(e) = self.read_links() {
            log::error!("links and addresses cannot be read: {e:#}");
            let _ = self.sockets.reopen_dumper();
        }
        self.tell(KernelNews::LinksRead);
        self.begin_scan(Why::Thorough);
        while self.scan.is_some() {
            self.step_scan();
        }
    }

    /// Puts it where the thread and the loop find it; there is always room for the one.
    pub(super) fn put(self: Box<Self>) {
        let slot = self.slot.clone();
        let _ = slot.send(self);
    }

    /// What the loop has decided, written by the loop itself: handed over, a single route would
    /// come a change of thread later. Only where few change and nothing else is to be done, and
    /// only as long as that goes fast; otherwise they are given back.
    pub(super) fn try_write(&mut self, changes: Vec<FibChange>) -> Result<(), Vec<FibChange>> {
        let start = Instant::now();
        let idle = self.table.is_idle() && self.scan.is_none() && !self.lost_notes && self.lines.changes.is_empty();
        // News about them must find room: it is the caller who takes news, and not now.
        let room = self.lines.news.capacity().is_some_and(|all| self.lines.news.len() < all / 2);
        if !self.pace.is_single(changes.len(), start) || !idle || !room || start < self.loop_writes_from {
            return Err(changes);
        }
        if self.lines.bell.frozen.load(Ordering::Acquire) {
            return Ok(());
        }
        self.take(changes);
        self.write_some();
        let now = Instant::now();
        if now.duration_since(start) > SLOW {
            self.loop_writes_from = now + AFTER_SLOW;
        }
        if std::mem::take(&mut self.told) {
            self.lines.wake_loop();
        }
        if self.due(now) < self.asleep_until {
            self.lines.bell.ring();
        }
        Ok(())
    }

    /// One round of everything.
    fn turn(&mut self) {
        self.lines.bell.rung.store(false, Ordering::Release);
        self.take_changes();
        let work = if self.scan.is_some() { usize::MAX } else { self.table.waiting() };
        let _single = self.pace.is_single(work, Instant::now());
        if self.notes_left {
            self.take_notes();
        }
        let hold = self.scan.as_ref().is_some_and(|scan| scan.why == Why::Alone);
        if !hold {
            self.write_some();
        }
        self.step_scan();
        self.timers(Instant::now());
        for news in self.paths.look(&self.view, Instant::now()) {
            self.tell(news);
        }
        if std::mem::take(&mut self.told) {
            self.lines.wake_loop();
        }
    }

    /// When there is something to do.
    fn due(&self, now: Instant) -> Instant {
        if !self.table.is_idle() || self.scan.is_some() || self.notes_left || self.lost_notes {
            return now;
        }
        let deadlines = [
            Some(self.reconcile_at),
            self.sweep_at,
            self.quiet_at.map(|(quiet, latest)| quiet.min(latest)),
            self.reports.deadline(now),
            self.refusals.deadline(),
            self.paths.deadline(),
        ];
        deadlines.into_iter().flatten().min().unwrap_or(now + MAX_SLEEP)
    }

    fn take_changes(&mut self) {
        while let Ok(changes) = self.lines.changes.try_recv() {
            if self.lines.bell.frozen.load(Ordering::Acquire) {
                continue;
            }
            self.take(changes);
        }
    }

    fn take(&mut self, changes: Vec<FibChange>) {
        for FibChange { key, route } in changes {
            self.table.vote(key, route.as_ref());
        }
    }

    fn timers(&mut self, now: Instant) {
        if self.lost_notes {
            self.read_all_again();
        }
        if self.scan.is_none() {
            let is_quiet = self.quiet_at.is_some_and(|(quiet, latest)| now >= quiet.min(latest));
            if is_quiet || now >= self.reconcile_at {
                self.quiet_at = None;
                self.reconcile_at = now + Duration::from_millis(self.config.reconcile_ms.into());
                // At its end all that could not be written is tried again.
                self.begin_scan(if is_quiet { Why::Thorough } else { Why::Routine });
            } else if self.sweep_at.is_some_and(|at| now >= at) {
                if self.lines.bell.held.load(Ordering::Acquire) {
                    self.sweep_at = Some(now + SWEEP_LATER);
                } else if self.lines.changes.is_empty() {
                    // What was decided when it was held no more has been taken.
                    self.sweep();
                }
            }
        }
        self.tell_adopted(false);
        self.tell_refused(now);
        if let Some(repaired) = self.reports.take_repairs(now) {
            let key = repaired.key;
            let mut text = format!("the route to {key} {}", repaired.damage.text());
            if repaired.more > 0 {
                text.push_str(&format!("; so did {} more in this second", repaired.more));
            }
            self.event("fib-repaired", Severity::Warning, Some(key.prefix), text);
        }
    }

    /// Something changed that routes depend on: look again when it is quiet.
    pub(super) fn scan_when_quiet(&mut self) {
        self.scan_when_quiet_at(Instant::now() + QUIET);
    }

    pub(super) fn scan_when_quiet_at(&mut self, quiet: Instant) {
        let latest = self.quiet_at.map_or(quiet + MAX_UNQUIET, |(_, latest)| latest);
        self.quiet_at = Some((quiet, latest));
    }

    /// Hands news to the loop.
    pub(super) fn tell(&mut self, news: KernelNews) {
        self.told = true;
        self.lines.tell(news);
    }

    pub(super) fn event(&mut self, kind: &'static str, severity: Severity, prefix: Option<Prefix>, text: String) {
        let at_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut event = Event::new(at_us, kind, severity, text);
        event.prefix = prefix;
        self.tell(KernelNews::Event(event));
    }

    pub(super) fn tell_adopted(&mut self, end: bool) {
        if let Some(count) = self.reports.take_adopted(Instant::now(), end) {
            let text =
                format!("{count} routes that an earlier virtd had left in the kernel are what the vote wants: adopted");
            self.event("fib-adopted", Severity::Info, None, text);
        }
    }

    pub(super) fn tell_swept(&mut self, swept: u64) {
        let text =
            format!("{swept} routes that an earlier virtd had left in the kernel were confirmed by no vote: removed");
        self.event("fib-swept", Severity::Info, None, text);
    }

    pub(super) fn count_routes(&self) {
        let set = |counter: &std::sync::atomic::AtomicU64, n: usize| counter.store(n as u64, Ordering::Relaxed);
        set(&self.counters.routes, self.table.len());
        set(&self.counters.failed, self.failed.len());
        set(&self.counters.memory, self.table.memory_bytes());
    }

    /// Writes what was handed over, and leaves or removes everything.
    fn finish(&mut self) {
        self.take_changes();
        while !self.table.is_idle() {
            self.write_some();
        }
        if self.config.on_exit == OnExit::Keep {
            return;
        }
        for _ in 0..MAX_LAST_ROUNDS {
            let mut ours: Vec<(FibKey, u32)> = self
                .table
                .iter()
                .filter(|(_, entry)| !entry.have.is_none() || entry.holding == Holding::Unsure)
                .map(|(key, _)| (*key, self.metric_of(key.family())))
                .collect();
            ours.append(&mut self.strays);
            if ours.is_empty() {
                break;
            }
            let removed = self.delete_all(&ours);
            log::info!("{removed} routes are removed from the kernel");
            for (key, _) in ours {
                self.table.want_nothing(key);
                self.table.set_have(key, &[]);
                self.table.entry(key).holding = Holding::Known;
            }
            // What is there still, by the kernel's own account.
            self.scan = None;
            self.leftovers_unread = true;
            let _ = self.sockets.reopen_dumper();
            self.begin_scan(Why::Thorough);
            while self.scan.is_some() {
                self.step_scan();
            }
        }
    }
}
