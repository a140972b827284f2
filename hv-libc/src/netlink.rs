//! NETLINK_ROUTE sockets of the daemon: each is one end of a SEQPACKET pair whose other end virtd
//! has (wire::shim says what goes over it). Datagrams are netlink's own, so an fd that polls,
//! filters and peeks as the kernel's needs little help; what does is here.
//!
//! | module | holds |
//! |---|---|
//! | this one | which fds are such pairs, and what each is waiting for; `socket` |
//! | [`names`] | bind, connect, getsockname, getpeername; options |
//! | [`data`] | send and receive: netlink answers before send returns, a broker may not |
//! | [`ahead`] | answers that need not be waited for |
//! | [`headers`] | which messages are certain to be answered, and which answers end that |
//! | [`raw`] | the caller's buffers and the system calls on them |
//!
//! Hooks on send and receive are on the BGP data path too, so an fd that has never been a pair must
//! cost next to nothing: [`SLOTS`] says by fd number which pair it was last. Whether it still is
//! SO_COOKIE says, asked once after the number was marked, closed, put on something else or given
//! out for a socket, all of which are hooked for that; where a vfork's child closes its own it is
//! asked in vain. Pairs are not in [`crate::table`], which forgets the oldest, and their counters
//! change in several threads at once: all is atomic, and nothing here locks.

mod ahead;
pub mod data;
mod headers;
pub mod names;
pub mod raw;

use crate::channel;
use crate::redirect::{refuse_other_netns, Outcome};
use crate::sys::{self, Errno};
use libc::{c_int, c_uint};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, Ordering};
use wire::shim::Request;

/// Fd numbers that can be pairs: socket fails with EMFILE beyond. One page of memory is touched for
/// each 2,048.
const MAX_FDS: usize = 65_536;
/// Pairs open at one time. zebra has four, BIRD three.
const MAX_PAIRS: usize = 256;
/// Send buffer of the daemon's end: a batch of zebra's (128 KiB) goes in one datagram, and some of
/// them before virtd reads.
const SEND_BUFFER: c_int = 4 << 20;
/// SOCK_TYPE_MASK: below it is the type, above it are flags.
const TYPE_MASK: c_int = 0xf;

/// By fd number the index of the pair plus one ([`INDEX`]) and above it the doubts whether it still
/// is, counted in a circle so that a new one is told from the one that was looked into; 0 for an fd
/// that is none.
static SLOTS: [AtomicU16; MAX_FDS] = [const { AtomicU16::new(0) }; MAX_FDS];
// All zeros, so that the library's file does not hold it.
static PAIRS: [Pair; MAX_PAIRS] = [const { Pair::unused() }; MAX_PAIRS];
/// Whether this process has ever had a pair.
static USED: AtomicBool = AtomicBool::new(false);

/// In [`SLOTS`]: which pair, and one doubt more.
const INDEX: u16 = 0x1ff;
const DOUBT: u16 = INDEX + 1;
const _: () = assert!(MAX_PAIRS < INDEX as usize);

/// For [`Pair::cookie`] while another thread fills the rest in.
const CLAIMED: u64 = u64::MAX;

/// One socket.
pub struct Pair {
    /// SO_COOKIE of the daemon's end; 0 for a pair never used.
    cookie: AtomicU64,
    /// The last number under which it was seen.
    fd: AtomicI32,
    /// SOCK_RAW or SOCK_DGRAM, as asked for.
    kind: AtomicI32,
    /// Answers to come that NLM_F_ACK asked for.
    acks: AtomicU32,
    /// Dumps of which the end has not been received.
    dumps: AtomicU32,
    /// Whether anything has been sent: the kernel has chosen a port id then.
    sent: AtomicBool,
    /// errno for the next receive, where recvmmsg found it behind a datagram; 0 for none.
    pending: AtomicI32,
    ahead: ahead::Ahead,
}

impl Pair {
    const fn unused() -> Pair {
        Pair {
            cookie: AtomicU64::new(0),
            fd: AtomicI32::new(0),
            kind: AtomicI32::new(0),
            acks: AtomicU32::new(0),
            dumps: AtomicU32::new(0),
            sent: AtomicBool::new(false),
            pending: AtomicI32::new(0),
            ahead: ahead::Ahead::new(),
        }
    }

    /// SO_COOKIE of the daemon's end.
    fn socket(&self) -> u64 {
        self.cookie.load(Ordering::Relaxed)
    }

    /// Whether the socket behind it is closed, as far as its last number tells.
    fn is_dead(&self) -> bool {
        sys::cookie(self.fd.load(Ordering::Relaxed)) != self.socket()
    }
}

/// Whether an fd number has been a pair: one load and a branch.
pub fn marked(fd: c_int) -> bool {
    slot(fd).is_some_and(|s| s.load(Ordering::Relaxed) != 0)
}

fn slot(fd: c_int) -> Option<&'static AtomicU16> {
    usize::try_from(fd).ok().and_then(|n| SLOTS.get(n))
}

/// The pair that an fd is, by its number: one load and a branch where it never was one. A number
/// that means something else by now is forgotten.
pub fn find(fd: c_int) -> Option<&'static Pair> {
    let slot = slot(fd)?;
    let n = slot.load(Ordering::Acquire);
    let pair = PAIRS.get(usize::from(n & INDEX).checked_sub(1)?)?;
    if n & !INDEX == 0 {
        return Some(pair);
    }
    let saved = sys::errno();
    let is = sys::cookie(fd) == pair.socket();
    sys::set_errno(saved);
    let _ = slot.compare_exchange(n, if is { n & INDEX } else { 0 }, Ordering::Relaxed, Ordering::Relaxed);
    is.then_some(pair)
}

/// The number may come to mean something else, or just has. One load and a branch where it never
/// was a pair.
pub fn doubt(fd: c_int) {
    let more = |n: u16| (n != 0).then(|| n.checked_add(DOUBT).unwrap_or(n & INDEX | DOUBT));
    if let Some(slot) = slot(fd).filter(|s| s.load(Ordering::Relaxed) != 0) {
        let _ = slot.fetch_update(Ordering::Release, Ordering::Relaxed, more);
    }
}

/// The same of all numbers from `first` to `last`.
pub fn doubt_all(first: c_uint, last: c_uint) {
    if USED.load(Ordering::Relaxed) {
        (first..=last.min(MAX_FDS as c_uint)).filter_map(|fd| c_int::try_from(fd).ok()).for_each(doubt);
    }
}

/// The same for an fd that may have become a pair unseen (F_DUPFD). For calls that are not on the
/// data path.
pub fn known(fd: c_int) -> Option<&'static Pair> {
    if !USED.load(Ordering::Relaxed) {
        return None;
    }
    find(fd).or_else(|| {
        let cookie = Some(sys::cookie(fd)).filter(|&c| c != 0)?;
        let n = PAIRS.iter().position(|p| p.socket() == cookie)?;
        mark(fd, n)
    })
}

/// After dup: `new` is what `old` is.
pub fn copied(old: c_int, new: c_int) {
    doubt(new);
    if new >= 0 && marked(old) {
        let saved = sys::errno();
        let _ = known(new);
        sys::set_errno(saved);
    }
}

fn mark(fd: c_int, n: usize) -> Option<&'static Pair> {
    let (slot, pair) = (slot(fd)?, PAIRS.get(n)?);
    pair.fd.store(fd, Ordering::Relaxed);
    slot.store(u16::try_from(n + 1).ok()? | DOUBT, Ordering::Release);
    Some(pair)
}

/// Takes a pair for a new socket: one never used, else one whose socket is closed.
fn take(fd: c_int, cookie: u64, kind: c_int) -> Option<&'static Pair> {
    USED.store(true, Ordering::Relaxed);
    // Under a cookie that no socket has until all is in place: another thread must not take it for
    // dead.
    let claim = |p: &Pair, old: u64| {
        old != CLAIMED && p.cookie.compare_exchange(old, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    let closed = |p: &Pair| {
        let old = p.socket();
        p.is_dead() && claim(p, old)
    };
    let n = PAIRS.iter().position(|p| claim(p, 0)).or_else(|| {
        let n = PAIRS.iter().position(closed);
        // Numbers that still lead to it.
        doubt_all(0, c_uint::MAX);
        n
    })?;
    let pair = PAIRS.get(n)?;
    pair.kind.store(kind, Ordering::Relaxed);
    pair.acks.store(0, Ordering::Relaxed);
    pair.dumps.store(0, Ordering::Relaxed);
    pair.sent.store(false, Ordering::Relaxed);
    pair.pending.store(0, Ordering::Relaxed);
    pair.ahead.reset();
    pair.fd.store(fd, Ordering::Relaxed);
    pair.cookie.store(cookie, Ordering::Release);
    mark(fd, n)
}

/// socket: NETLINK_ROUTE goes to virtd where it votes on the FIB; other families of netlink and
/// everything else stay the kernel's.
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Outcome {
    if domain != libc::AF_NETLINK || protocol != libc::NETLINK_ROUTE || !channel::active() {
        return Outcome::Native;
    }
    let (kind, flags) = (kind & TYPE_MASK, kind & !TYPE_MASK);
    if !matches!(kind, libc::SOCK_RAW | libc::SOCK_DGRAM) || flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Outcome::Native;
    }
    match channel::netlink() {
        Ok(true) => open(kind, flags).into(),
        Ok(false) => Outcome::Native,
        Err(e) => Outcome::Failed(e),
    }
}

fn open(kind: c_int, flags: c_int) -> Result<c_int, Errno> {
    refuse_other_netns(sys::netns_cookie(), "a route socket")?;
    let (daemon, broker) = sys::pair(libc::SOCK_SEQPACKET)?;
    let socket = sys::cookie(daemon);
    let asked = match take(daemon, socket, kind) {
        Some(_) => names::ask(&Request::Netlink { socket }, Some(broker)),
        None => Err(libc::EMFILE),
    };
    sys::close(broker);
    if let Err(e) = asked {
        sys::close(daemon);
        return Err(e);
    }
    for option in [libc::SO_SNDBUF, libc::SO_SNDBUFFORCE] {
        sys::set_option(daemon, libc::SOL_SOCKET, option, &SEND_BUFFER.to_ne_bytes());
    }
    if flags & libc::SOCK_NONBLOCK != 0 {
        sys::set_nonblocking(daemon, true);
    }
    if flags & libc::SOCK_CLOEXEC == 0 {
        sys::keep_over_exec(daemon);
    }
    Ok(daemon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_told_from_the_one_before_and_none_is_lost_in_the_circle() {
        let (fd, last) = (MAX_FDS - 1, MAX_PAIRS as u16);
        doubt(fd as c_int);
        assert_eq!(SLOTS[fd].load(Ordering::Relaxed), 0, "never a pair");
        SLOTS[fd].store(last, Ordering::Relaxed);
        let mut before = last;
        for _ in 0..1000 {
            doubt(fd as c_int);
            let n = SLOTS[fd].load(Ordering::Relaxed);
            assert!(n & INDEX == last && n & !INDEX != 0 && n != before, "{n:#x} after {before:#x}");
            before = n;
        }
        SLOTS[fd].store(0, Ordering::Relaxed);
    }
}
