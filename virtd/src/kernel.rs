//! The thread that owns virtd's own netlink sockets: it writes the voted routes into the real kernel, watches what becomes of them, and tells
//! the core of links and addresses.
//!
//! | file | holds |
//! |---|---|
//! | this one | the thread: what comes in, what is due when |
//! | `socket` | netlink sockets (neli), batches of writes, dumps |
//! | `routes` | what is wanted and what is there, and how the one becomes the other |
//!
//! Netlink answers a write before send returns, so nothing here waits for the kernel; a slow one holds up this thread alone.

mod routes;
mod socket;

use crate::config::{Fib, OnExit};
use crate::core::io::{FibChange, KernelNews, Link, Micros};
use crate::event::{Event, Severity};
use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use routes::Routes;
use serde::Serialize;
use socket::{Notice, Notices, Requests};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wire::netlink::consts::{IFF_RUNNING, IFF_UP, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK};
use wire::netlink::{AddrMessage, LinkMessage};

/// After a link or an address changed IPv4 routes may be gone without a word: looked at once nothing has changed for so long.
const SETTLE: Duration = Duration::from_millis(100);
/// News that may wait for the core.
const MAX_NEWS: usize = 4096;
const WAKE: Token = Token(0);
const NOTICE: Token = Token(1);

/// Counters for `virtctl fib`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Routes written.
    pub written: AtomicU64,
    /// Routes removed.
    pub removed: AtomicU64,
    /// Routes that somebody else had removed or changed, put right.
    pub repaired: AtomicU64,
    /// Routes of an earlier virtd that the vote confirmed.
    pub adopted: AtomicU64,
    /// Routes of an earlier virtd that it did not.
    pub swept: AtomicU64,
    /// System calls that carried writes.
    pub batches: AtomicU64,
    /// Times notifications were lost and everything was read again.
    pub overruns: AtomicU64,
}

/// What [`Counters`] say at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub written: u64,
    pub removed: u64,
    pub repaired: u64,
    pub adopted: u64,
    pub swept: u64,
    pub batches: u64,
    pub overruns: u64,
}

impl Counters {
    /// All of them now.
    pub fn snapshot(&self) -> Snapshot {
        let n = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Snapshot {
            written: n(&self.written),
            removed: n(&self.removed),
            repaired: n(&self.repaired),
            adopted: n(&self.adopted),
            swept: n(&self.swept),
            batches: n(&self.batches),
            overruns: n(&self.overruns),
        }
    }
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// The loop's line to the thread; leads nowhere where no FIB is voted on.
#[derive(Debug)]
pub struct KernelLine {
    changes: Sender<Vec<FibChange>>,
    waker: Option<Arc<Waker>>,
    /// What it has seen; the sender wakes the loop.
    pub news: Receiver<KernelNews>,
    /// What it has done.
    pub counters: Arc<Counters>,
}

impl KernelLine {
    /// A line to nobody.
    pub fn none() -> KernelLine {
        let (changes, _) = crossbeam_channel::unbounded();
        KernelLine { changes, waker: None, news: crossbeam_channel::never(), counters: Arc::default() }
    }

    /// Hands over what is to be written. Never waits: the thread takes all there is at once, and only the last word on a key counts.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn send(&self, changes: Vec<FibChange>) -> Result<()> {
        self.changes.send(changes).ok().context("the thread that writes the kernel's routes has ended")?;
        if let Some(waker) = &self.waker {
            waker.wake().context("waking the kernel's thread")?;
        }
        Ok(())
    }
}

/// What wakes the loop: it is there only after this thread's line has been given to it.
pub type LoopWaker = Arc<OnceLock<Arc<Waker>>>;

/// The running thread.
#[derive(Debug)]
pub struct Kernel {
    stop: Arc<AtomicBool>,
    frozen: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Kernel {
    /// Set, it makes the thread leave the kernel as it is: virtd ends its instances, which take their routes back on their way out.
    pub fn frozen(&self) -> Arc<AtomicBool> {
        self.frozen.clone()
    }

    /// Ends it, with what `on_exit` says about the routes.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the thread in the network namespace of the caller. `started` is time zero of events; `waker` wakes the loop, once there is one.
///
/// # Errors
/// Sockets, epoll or the thread cannot be had.
pub fn start(config: &Fib, started: Instant, waker: LoopWaker) -> Result<(KernelLine, Kernel)> {
    let poll = Poll::new().context("epoll")?;
    let own = Arc::new(Waker::new(poll.registry(), WAKE).context("eventfd")?);
    let notices = Notices::open().context("opening a netlink socket for notifications")?;
    poll.registry().register(&mut SourceFd(&notices.as_raw_fd()), NOTICE, Interest::READABLE).context("epoll_ctl")?;
    let requests = Requests::open().context("opening a netlink socket (writing routes needs CAP_NET_ADMIN)")?;
    let (changes, received) = crossbeam_channel::unbounded();
    let (sender, news) = crossbeam_channel::bounded(MAX_NEWS);
    let (stop, frozen, counters) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(Counters::default()));
    let now = Instant::now();
    let work = Work {
        config: *config,
        started,
        notices,
        requests,
        routes: Routes::new(config, counters.clone()),
        received,
        news: News { sender, waker, dirty: false },
        stop: stop.clone(),
        frozen: frozen.clone(),
        counters: counters.clone(),
        sweep_at: Some(now + Duration::from_millis(config.sweep_ms.into())),
        reconcile_at: now + Duration::from_millis(config.reconcile_ms.into()),
        settle_at: None,
    };
    let thread = std::thread::Builder::new().name("kernel".into()).spawn(move || work.run(poll)).context("a thread")?;
    let line = KernelLine { changes, waker: Some(own.clone()), news, counters };
    Ok((line, Kernel { stop, frozen, waker: own, thread: Some(thread) }))
}

/// To the core.
struct News {
    sender: Sender<KernelNews>,
    waker: LoopWaker,
    dirty: bool,
}

impl News {
    /// Waits where the core is behind: this thread may.
    fn send(&mut self, news: KernelNews) {
        if let Err(crossbeam_channel::TrySendError::Full(news)) = self.sender.try_send(news) {
            self.flush();
            let _ = self.sender.send(news);
        }
        self.dirty = true;
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.dirty)
            && let Some(waker) = self.waker.get()
        {
            let _ = waker.wake();
        }
    }
}

struct Work {
    config: Fib,
    started: Instant,
    notices: Notices,
    requests: Requests,
    routes: Routes,
    received: Receiver<Vec<FibChange>>,
    news: News,
    stop: Arc<AtomicBool>,
    frozen: Arc<AtomicBool>,
    counters: Arc<Counters>,
    sweep_at: Option<Instant>,
    reconcile_at: Instant,
    settle_at: Option<Instant>,
}

impl Work {
    fn now(&self) -> Micros {
        self.started.elapsed().as_micros() as Micros
    }

    fn tell(&mut self, kind: &'static str, severity: Severity, text: String) {
        let event = Event::new(self.now(), kind, severity, text);
        self.news.send(KernelNews::Event(event));
    }

    fn run(mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(8);
        if let Err(e) = self.read_everything(true) {
            self.tell(
                "fib-unread",
                Severity::Alarm,
                format!("the kernel's links, addresses and routes cannot be read: {e:#}"),
            );
        }
        self.news.flush();
        while !self.stop.load(Ordering::Acquire) {
            let due = [self.sweep_at, self.settle_at, Some(self.reconcile_at)].into_iter().flatten().min();
            let wait = due.map(|at| at.saturating_duration_since(Instant::now()));
            match poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return log::error!("kernel: epoll_wait: {e}"),
            }
            if let Err(e) = self.turn() {
                // What could not be done now is seen again by the next reconciliation.
                log::warn!("kernel: {e:#}");
            }
            self.news.flush();
        }
        if self.config.on_exit == OnExit::Remove
            && let Err(e) = self.routes.remove_all(&mut self.requests)
        {
            log::warn!("kernel: {e:#}");
        }
    }

    fn turn(&mut self) -> Result<()> {
        self.hear()?;
        let mut changes: Vec<FibChange> = Vec::new();
        for mut list in self.received.try_iter() {
            changes.append(&mut list);
        }
        if !changes.is_empty() && !self.frozen.load(Ordering::Acquire) {
            let outcome = self.routes.change(changes, &mut self.requests)?;
            self.report(outcome);
        }
        let now = Instant::now();
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle_at = None;
            self.reconcile()?;
        }
        if self.reconcile_at <= now {
            self.reconcile()?;
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.sweep_at = None;
            let n = self.routes.sweep(&mut self.requests)?;
            if n > 0 {
                add(&self.counters.swept, n);
                self.tell(
                    "fib-swept",
                    Severity::Info,
                    format!("{n} routes of an earlier virtd, which no vote has confirmed, are removed"),
                );
            }
        }
        Ok(())
    }

    fn reconcile(&mut self) -> Result<()> {
        self.reconcile_at = Instant::now() + Duration::from_millis(self.config.reconcile_ms.into());
        let outcome = self.routes.reconcile(&mut self.requests)?;
        self.report(outcome);
        Ok(())
    }

    fn report(&mut self, outcome: routes::Outcome) {
        for (key, errno) in outcome.written {
            self.news.send(KernelNews::Written { key, errno });
        }
        if outcome.adopted > 0 && self.routes.leftovers() == 0 {
            let n = self.counters.adopted.load(Ordering::Relaxed);
            self.tell(
                "fib-adopted",
                Severity::Info,
                format!("{n} routes that an earlier virtd had left are confirmed by the vote and stay as they are"),
            );
        }
        if let Some((first, what)) = outcome.repaired.first() {
            let (n, first) = (outcome.repaired.len(), format!("{first} was {what}"));
            add(&self.counters.repaired, n);
            let text = match n {
                1 => format!("{first} by somebody else, and is put right"),
                n => format!("{n} routes are put right, for somebody else has changed them: {first}, among others"),
            };
            self.tell("fib-repaired", Severity::Warning, text);
        }
        for key in outcome.foreign {
            let metric = self.config.metric;
            let text = format!(
                "{key} cannot be written: the kernel has a route of somebody else's with metric {metric}; remove it, or set fib.metric"
            );
            self.tell("fib-refused", Severity::Warning, text);
        }
    }

    /// Links and addresses for the core, and what the kernel holds of ours. At the start routes of ours are an earlier virtd's.
    fn read_everything(&mut self, first: bool) -> Result<()> {
        for notice in self.requests.links()?.into_iter().chain(self.requests.addresses()?) {
            self.link_or_address(&notice);
        }
        if first {
            self.routes.begin(&mut self.requests)?;
        } else {
            self.reconcile()?;
        }
        Ok(())
    }

    /// Takes the notifications that wait.
    fn hear(&mut self) -> Result<()> {
        let mut heard = Vec::new();
        let whole = self.notices.receive(&mut heard)?;
        for notice in &heard {
            if self.link_or_address(notice) {
                self.settle_at = Some(Instant::now() + SETTLE);
            } else if self.routes.notice(notice, self.requests.port_id()) {
                // Whoever did this may not be done.
                self.settle_at.get_or_insert(Instant::now());
            }
        }
        if !whole {
            add(&self.counters.overruns, 1);
            self.tell(
                "fib-overrun",
                Severity::Warning,
                "the kernel's notifications came too fast and some are lost: everything is read again".to_owned(),
            );
            self.read_everything(false)?;
        }
        Ok(())
    }

    /// Whether the message is about a link or an address; the core is told of it.
    fn link_or_address(&mut self, notice: &Notice) -> bool {
        let news = match notice.kind {
            RTM_NEWLINK | RTM_DELLINK => {
                LinkMessage::parse(&notice.payload).ok().and_then(|l| link_news(notice.kind, l))
            }
            RTM_NEWADDR | RTM_DELADDR => {
                AddrMessage::parse(&notice.payload).ok().and_then(|a| address_news(notice.kind, &a))
            }
            _ => return false,
        };
        if let Some(news) = news {
            self.news.send(news);
        }
        true
    }
}

fn link_news(kind: u16, link: LinkMessage) -> Option<KernelNews> {
    // Of the bridge's and IPv6's messages about a link most lack its name.
    if link.family != 0 || link.index == 0 {
        return None;
    }
    if kind == RTM_DELLINK {
        return Some(KernelNews::LinkGone { index: link.index });
    }
    let (up, running) = (link.flags & IFF_UP != 0, link.flags & IFF_RUNNING != 0);
    Some(KernelNews::Link(Link { index: link.index, name: link.name?, up, running }))
}

fn address_news(kind: u16, address: &AddrMessage) -> Option<KernelNews> {
    let (index, length) = (address.index, address.prefix_len);
    let address = address.local.or(address.address)?;
    Some(match kind {
        RTM_DELADDR => KernelNews::AddressGone { index, address, length },
        _ => KernelNews::Address { index, address, length },
    })
}
