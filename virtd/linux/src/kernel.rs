//! The thread that has virtd's own netlink sockets with the real kernel: it writes the voted
//! routes, watches links, addresses and routes, and sees to it that the kernel holds what was voted
//! (docs/DECISIONS.md, "A virtual kernel for each instance"). While it sleeps it lends its state to
//! the loop, which writes single routes itself.
//!
//! ```text
//! loop ──FibChange──▶ table: wanted, held ──batches──▶ writer socket ──▶ kernel
//! loop ◀──KernelNews── watch ◀──notifications── monitor socket ◀──────── kernel
//!                       scan ◀──────dumps────── dumper socket ◀───────── kernel
//! ```
//! | file | holds |
//! |---|---|
//! | `socket` | a netlink socket: neli's, with one buffer |
//! | `table` | per key what is wanted and what the kernel holds, and which keys wait to be written |
//! | `writer` | batches of writes and what their answers mean |
//! | `watch` | notifications: links, addresses, and what others do to our routes |
//! | `view` | the links and addresses that the loop was told of |
//! | `paths` | the routes to peers that are not directly connected |
//! | `others` | routes of others, for the loop |
//! | `scan` | the kernel's routes read as a whole and compared |
//! | `pace` | single routes, or a table |
//! | `report` | events, not too many of them |
//! | `refused` | those about routes that the kernel does not take |
//! | `thread` | the loop over all of it |
//! | `features` | what of Linux virtd counts on, and what follows where it is missing |
//! | `leftover` | without `[fib]`: routes that an earlier virtd with it has left |
//! | `watcher` | the thread in its place where there is no `[fib]`: it only watches |
//!
//! A route of another protocol is never touched. The kernel finds the route that NLM_F_REPLACE
//! replaces by table, prefix, TOS and metric alone, whosever it is; so a key is written with
//! NLM_F_EXCL unless the kernel is known to hold ours and nobody else's, and what this runs into is
//! told apart by deleting ours (a delete does look at the protocol) and trying again.

pub mod features;
pub mod leftover;
mod others;
mod pace;
mod paths;
mod refused;
mod report;
mod scan;
mod socket;
mod table;
mod thread;
mod view;
mod watch;
mod watcher;
mod writer;

use anyhow::{Context, Result};
use broker::io::{FibChange, KernelNews};
use crossbeam_channel::{Receiver, SendTimeoutError, Sender};
use paths::Peers;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use virtd_api::FibKernel;
use virtd_config as config;

/// News that may wait for the loop. When there are more the thread waits, and the kernel's
/// notifications in its socket.
const MAX_NEWS: usize = 4096;
/// While the loop does not take news, how often it is asked whether it has ended.
const NEWS_WAIT: Duration = Duration::from_millis(200);

/// What the loop hands over, and how the thread is woken for it.
#[derive(Debug)]
struct Bell {
    waker: mio::Waker,
    /// Rung and not heard yet: ringing again would only cost a system call.
    rung: AtomicBool,
    stop: AtomicBool,
    /// What is handed over from now on is dropped.
    frozen: Arc<AtomicBool>,
    /// Nothing is decided yet on what an earlier virtd has left.
    held: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Fails only where an eventfd's counter is full, which is a bell that rings.
            let _ = self.waker.wake();
        }
    }
}

/// The loop's line to the thread. Where no FIB is voted on, routes that are sent lead nowhere.
#[derive(Debug)]
pub struct KernelLine {
    changes: Sender<Vec<FibChange>>,
    /// Holds the worker while the thread sleeps.
    slot: Receiver<Box<thread::Worker>>,
    bell: Option<Arc<Bell>>,
    peers: Peers,
    /// What it has seen; the sender wakes the loop.
    pub news: Receiver<KernelNews>,
    /// What it has done.
    pub counters: Arc<Counters>,
}

/// The thread has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the thread that writes the kernel's routes has ended")]
pub struct Ended;

impl KernelLine {
    /// Whether nothing is decided for now on what an earlier virtd has left: then it is not swept.
    pub fn hold(&self, held: bool) {
        if let Some(bell) = &self.bell {
            bell.held.store(held, Ordering::Release);
        }
    }

    /// A line to nobody: everything sent is an error.
    pub fn none() -> KernelLine {
        let (changes, _) = crossbeam_channel::unbounded();
        KernelLine {
            changes,
            slot: crossbeam_channel::never(),
            bell: None,
            peers: Peers::default(),
            news: crossbeam_channel::never(),
            counters: Arc::default(),
        }
    }

    /// The configured peers, from now on: the routes to those that are not directly connected are
    /// watched.
    pub fn watch_peers(&self, peers: BTreeSet<IpAddr>) {
        self.peers.set(peers);
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// Sees to it that this is written: by itself where it is little and the thread sleeps;
    /// otherwise it hands it over, and wakes the thread unless it is about to look anyway. The
    /// thread takes all there is at once, and only the last word on a key counts. It is not waited
    /// for.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn send(&self, changes: Vec<FibChange>) -> Result<(), Ended> {
        let mut changes = changes;
        if let Ok(mut worker) = self.slot.try_recv() {
            let written = worker.try_write(changes);
            worker.put();
            match written {
                Ok(()) => return Ok(()),
                Err(back) => changes = back,
            }
        }
        self.changes.send(changes).map_err(|_| Ended)?;
        if let Some(bell) = &self.bell {
            bell.ring();
        }
        Ok(())
    }
}

/// What wakes the loop: it is there only after this thread's line has been given to it.
pub type LoopWaker = Arc<OnceLock<Arc<mio::Waker>>>;

/// What the thread has done, and what it has to do.
#[derive(Debug, Default)]
pub struct Counters {
    written: AtomicU64,
    removed: AtomicU64,
    failed: AtomicU64,
    repaired: AtomicU64,
    adopted: AtomicU64,
    swept: AtomicU64,
    batches: AtomicU64,
    messages: AtomicU64,
    routes: AtomicU64,
    scans: AtomicU64,
    memory: AtomicU64,
}

impl Counters {
    /// All of them; each is right on its own.
    pub fn snapshot(&self) -> FibKernel {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FibKernel {
            written: of(&self.written),
            removed: of(&self.removed),
            failed: of(&self.failed),
            repaired: of(&self.repaired),
            adopted: of(&self.adopted),
            swept: of(&self.swept),
            batches: of(&self.batches),
            messages: of(&self.messages),
            routes: of(&self.routes),
            scans: of(&self.scans),
            memory: of(&self.memory),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The running thread. Dropping it stops the thread too.
#[derive(Debug)]
pub struct Kernel {
    bell: Arc<Bell>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Kernel {
    /// Set, it makes the thread leave the kernel as it is: virtd ends its instances, which take
    /// their routes back on their way out.
    pub fn frozen(&self) -> Arc<AtomicBool> {
        self.bell.frozen.clone()
    }

    /// Writes what has been handed over, then leaves or removes all of it (`on_exit`), and ends.
    /// Waits for that.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.bell.stop.store(true, Ordering::Release);
        // Rung already or not: it must be woken once more.
        let _ = self.bell.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that watches the kernel panicked");
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread's end of the lines.
struct Lines {
    changes: Receiver<Vec<FibChange>>,
    news: Sender<KernelNews>,
    loop_waker: LoopWaker,
    bell: Arc<Bell>,
}

impl Lines {
    /// Hands news to the loop; waits where it is slow, for this thread may.
    fn tell(&self, news: KernelNews) {
        let Err(full) = self.news.try_send(news) else { return };
        let mut news = full.into_inner();
        self.wake_loop();
        loop {
            match self.news.send_timeout(news, NEWS_WAIT) {
                Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return,
                Err(SendTimeoutError::Timeout(back)) => news = back,
            }
            if self.bell.stop.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Before the loop is there nobody needs to be woken: it looks once when it is given its waker.
    fn wake_loop(&self) {
        if let Some(waker) = self.loop_waker.get() {
            let _ = waker.wake();
        }
    }
}

/// Opens the sockets, in the network namespace of the caller, and starts the thread. `started` is
/// when events' clock was 0; `waker` wakes the loop when there is news, once there is one.
///
/// # Errors
/// No sockets (the kernel has no rtnetlink, too many files), no thread.
pub fn start(config: &config::Fib, started: Instant, waker: LoopWaker) -> Result<(KernelLine, Kernel)> {
    let sockets = socket::Sockets::open().context("cannot open the netlink sockets of the FIB")?;
    let (poll, bell) = poll_with_bell()?;
    let counters = Arc::new(Counters::default());
    let (changes, to_write) = crossbeam_channel::unbounded();
    let (teller, news) = crossbeam_channel::bounded(MAX_NEWS);
    let lines = Lines { changes: to_write, news: teller, loop_waker: waker, bell: bell.clone() };
    let peers = Peers::default();
    let (worker, slot) = thread::Worker::new(*config, started, sockets, &poll, lines, counters.clone(), peers.clone())?;
    let back = slot.clone();
    let thread = std::thread::Builder::new()
        .name("kernel".into())
        .spawn(move || thread::run(worker, &back, poll))
        .context("cannot start the thread that writes the kernel's routes")?;
    let line = KernelLine { changes, slot, bell: Some(bell.clone()), peers, news, counters };
    Ok((line, Kernel { bell, thread: Some(thread) }))
}

/// The same where no FIB is voted on: the thread only watches links, addresses and the routes to
/// peers.
///
/// # Errors
/// As [`start`].
pub fn start_watching(waker: LoopWaker) -> Result<(KernelLine, Kernel)> {
    let (poll, bell) = poll_with_bell()?;
    let (teller, news) = crossbeam_channel::bounded(MAX_NEWS);
    let lines = Lines { changes: crossbeam_channel::never(), news: teller, loop_waker: waker, bell: bell.clone() };
    let peers = Peers::default();
    let watcher = watcher::Watcher::new(lines, peers.clone(), &poll).context("cannot open a netlink socket")?;
    let thread = std::thread::Builder::new()
        .name("links".into())
        .spawn(move || watcher.run(poll))
        .context("cannot start the thread that watches links")?;
    let line = KernelLine { bell: Some(bell.clone()), peers, news, ..KernelLine::none() };
    Ok((line, Kernel { bell, thread: Some(thread) }))
}

fn poll_with_bell() -> Result<(mio::Poll, Arc<Bell>)> {
    let poll = mio::Poll::new().context("cannot wait for netlink")?;
    let waker = mio::Waker::new(poll.registry(), thread::BELL).context("cannot make a waker for netlink's thread")?;
    let bell = Bell {
        waker,
        rung: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        frozen: Arc::default(),
        held: AtomicBool::new(false),
    };
    Ok((poll, Arc::new(bell)))
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
