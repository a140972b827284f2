//! Open files that another process has, or had, a hand in: how they are received over Unix sockets,
//! and how they are closed.
//!
//! The last close of a file may take as long as whoever made it likes: a TCP socket with SO_LINGER
//! and unsent data (socket(7)), a file of FUSE. The same holds for a Unix socket in whose queue
//! such a file waits, and for one that the kernel throws away in recvmsg because there was no room
//! for it. So whoever reads a Unix socket has room for all that one message can carry ([`room`],
//! [`receive`]), and what is [`Foreign`] is closed on threads that nobody waits for.

use crate::sys;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use socket2::SockRef;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most fds that one message carries (SCM_MAX_FD, unix(7)).
const MAX_FDS: usize = 253;
/// Threads at most; each may be stuck in a close.
const MAX_THREADS: usize = 8;
/// They do nothing but close.
const STACK: usize = 64 << 10;
/// Lots that wait for them. More wait only while all are stuck; then what comes stays open, which
/// costs an fd and nothing else.
const MAX_LOTS: usize = 1024;
/// So many that nobody waits for make a lot: waking a thread for each would cost more than its
/// close.
const LOT: usize = 64;

/// See the module's comment.
#[derive(Debug)]
pub struct Foreign(Option<OwnedFd>);

impl Foreign {
    /// To be closed by nobody who has other things to do. The other end of a Unix socket hears of
    /// its end at once all the same.
    pub fn new(fd: OwnedFd) -> Foreign {
        Foreign(Some(fd))
    }

    /// It has done its part, and nobody waits for its end.
    pub fn spend(mut self) {
        if let Some(fd) = self.0.take() {
            keep(fd, false);
        }
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Some(fd) => fd.as_fd(),
            None => unreachable!("taken only by spend and drop, which end it"),
        }
    }
}

impl AsRawFd for Foreign {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            if sys::domain(&fd) == Some(libc::AF_UNIX) {
                let _ = SockRef::from(&fd).shutdown(std::net::Shutdown::Both);
            }
            keep(fd, true);
        }
    }
}

/// Room for every fd that may come with a message.
pub fn room() -> Vec<u8> {
    nix::cmsg_space!([RawFd; MAX_FDS])
}

/// recvmsg that does not wait: how many octets, the flags (MSG_TRUNC), and the files that came with
/// them.
///
/// # Errors
/// What the kernel says; WouldBlock where there is nothing.
pub fn receive(from: &impl AsRawFd, buf: &mut [u8], room: &mut Vec<u8>) -> io::Result<(usize, i32, Vec<Foreign>)> {
    let (n, flags, fds) = sys::receive(from, buf, room, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)?;
    Ok((n, flags, fds.into_iter().map(Foreign::new).collect()))
}

thread_local! {
    /// What this thread will hand over.
    static LOT_TO_COME: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
}

/// `at_once`: somebody may wait for its end.
fn keep(fd: OwnedFd, at_once: bool) {
    let lot = LOT_TO_COME.with_borrow_mut(|lot| {
        lot.push(fd);
        (at_once || lot.len() >= LOT).then(|| std::mem::take(lot))
    });
    lot.into_iter().for_each(hand_over);
}

/// Has all closed that this thread has spent. To be called when there is nothing else to do.
pub fn close_spent() {
    let lot = LOT_TO_COME.with_borrow_mut(std::mem::take);
    if !lot.is_empty() {
        hand_over(lot);
    }
}

struct Closers {
    lots: Sender<Vec<OwnedFd>>,
    to_close: Receiver<Vec<OwnedFd>>,
    /// Lots that are not closed yet.
    outstanding: AtomicUsize,
    threads: AtomicUsize,
    /// What could not be handed over.
    left_open: AtomicUsize,
}

static CLOSERS: OnceLock<Closers> = OnceLock::new();

fn hand_over(lot: Vec<OwnedFd>) {
    let closers = CLOSERS.get_or_init(|| {
        let (lots, to_close) = crossbeam_channel::bounded(MAX_LOTS);
        let none = AtomicUsize::default;
        Closers { lots, to_close, outstanding: none(), threads: none(), left_open: none() }
    });
    // Whoever is stuck must not be who the next one waits for.
    if closers.outstanding.fetch_add(1, Ordering::AcqRel) >= closers.threads.load(Ordering::Acquire) {
        closers.another();
    }
    if let Err(TrySendError::Full(lot) | TrySendError::Disconnected(lot)) = closers.lots.try_send(lot) {
        closers.outstanding.fetch_sub(1, Ordering::AcqRel);
        let left = closers.left_open.fetch_add(lot.len(), Ordering::AcqRel);
        if left == 0 {
            log::error!("other processes' files cannot be closed, and stay open: {MAX_THREADS} threads are stuck");
        }
        // Not closed here, whatever happens: the loop would wait.
        for fd in lot {
            let _ = fd.into_raw_fd();
        }
    }
}

impl Closers {
    fn another(&'static self) {
        if self.threads.fetch_add(1, Ordering::AcqRel) >= MAX_THREADS {
            self.threads.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let thread = std::thread::Builder::new().name("closer".into()).stack_size(STACK);
        if thread.spawn(|| self.work()).is_err() {
            // The next lot tries again; this one waits.
            self.threads.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn work(&self) {
        while let Ok(lot) = self.to_close.recv() {
            for fd in lot {
                // Nobody here wants to know whether the data arrive. What is no socket refuses it.
                let _ = SockRef::from(&fd).set_linger(None);
                drop(fd);
            }
            self.outstanding.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
