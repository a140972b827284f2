//! What is known of the daemon's sockets, by SO_COOKIE: options set before a socket was ours,
//! names, what kind it is.
//!
//! A cookie is never used twice, so an entry whose socket is closed is harmless: no hook on close,
//! dup or fcntl is needed. The table is a cache of fixed size; what falls out of it is asked of
//! virtd again. Options of a socket that is not ours yet live here alone, but only between a
//! daemon's setsockopt and its bind or connect.

use crate::sys;
use std::cell::UnsafeCell;
use std::net::SocketAddr;
use std::sync::atomic::{compiler_fence, AtomicU64, Ordering};
use wire::shim::{Options, SocketOption, MAX_OPTIONS};

const SLOTS: usize = 512;
/// Room for four TCP_MD5SIG (216 octets), a device name and some twenty numbers.
const OPTION_BYTES: usize = 1280;
/// Octets before the value of an encoded option.
const OPTION_HEADER: usize = 10;
/// sizeof(struct tcp_md5sig).
const MD5SIG_LEN: usize = 216;
/// Its first field, the peer's address (sockaddr_storage).
const MD5SIG_ADDRESS: usize = 128;

/// What a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Unused slot.
    Free,
    /// A TCP socket of the kernel's, its options recorded.
    Native,
    /// A Unix socket that is really the daemon's own.
    Foreign,
    /// Stands for a listening TCP socket.
    Listener,
    /// Stands for a TCP connection whose connect is under way.
    Connecting,
    /// Stands for a TCP connection; a second connect, which TCP answers with 0 once, has not asked
    /// yet.
    Connected,
    /// Its connect failed, and the daemon has read why.
    Failed,
    /// Stands for a TCP connection.
    Leg,
}

/// One socket.
#[derive(Clone, Copy)]
pub struct Entry {
    /// SO_COOKIE.
    pub cookie: u64,
    /// What it is.
    pub kind: Kind,
    /// getsockname, as far as known.
    pub local: Option<SocketAddr>,
    /// getpeername, as far as known.
    pub remote: Option<SocketAddr>,
    /// Whether this process has called listen on it.
    pub listens: bool,
    /// With what backlog.
    pub backlog: i32,
    /// IPV6_V6ONLY of the socket whose place a listening one took.
    pub v6_only: bool,
    /// Whether all that virtd was told of a listening socket is here, so that another virtd can be
    /// told.
    pub whole: bool,
    /// Of a listening socket whose virtd is gone: when another is looked for again (monotonic
    /// milliseconds).
    pub revive_at_ms: u64,
    options: [u8; OPTION_BYTES],
    used: usize,
}

impl Entry {
    const EMPTY: Entry = Entry {
        cookie: 0,
        kind: Kind::Free,
        local: None,
        remote: None,
        listens: false,
        backlog: 0,
        v6_only: false,
        whole: false,
        revive_at_ms: 0,
        options: [0; OPTION_BYTES],
        used: 0,
    };

    /// A socket about which nothing else is known.
    pub fn new(cookie: u64, kind: Kind, local: Option<SocketAddr>, remote: Option<SocketAddr>) -> Entry {
        Entry { cookie, kind, local, remote, ..Entry::EMPTY }
    }

    /// The same socket, of which more is known now.
    pub fn renamed(&self, kind: Kind, local: Option<SocketAddr>, remote: Option<SocketAddr>) -> Entry {
        Entry { kind, local, remote, ..*self }
    }

    /// The options set on it, latest last.
    pub fn options(&self) -> Options<'_> {
        Options { encoded: self.options.get(..self.used).unwrap_or_default() }
    }

    /// Takes over what was set on the socket whose place this one takes.
    pub fn inherit(&mut self, from: &Entry) {
        (self.options, self.used) = (from.options, from.used);
    }

    /// Remembers an option: over the same option's last value where lengths match (for a TCP-MD5
    /// key also the peer's address), else behind the others. False where there is no more room: a
    /// later getsockopt is answered by the broker instead.
    pub fn record(&mut self, option: &SocketOption<'_>) -> bool {
        let (mut at, mut n) = (0, 0);
        let mut same = None;
        for o in self.options().iter() {
            let begin = at + OPTION_HEADER;
            at = begin + o.value.len();
            n += 1;
            if (o.level, o.name, o.value.len()) == (option.level, option.name, option.value.len())
                && same_peer(o.value, option.value)
            {
                same = Some(begin..at);
            }
        }
        if let Some(place) = same.and_then(|r| self.options.get_mut(r)) {
            place.copy_from_slice(option.value);
            return true;
        }
        if n >= MAX_OPTIONS {
            return false;
        }
        match Options::push(&mut self.options, self.used, option) {
            Ok(used) => {
                self.used = used;
                true
            }
            Err(_) => false,
        }
    }
}

/// Whether two values of one option are about the same peer, which only keys are about.
fn same_peer(a: &[u8], b: &[u8]) -> bool {
    a.len() < MD5SIG_LEN || a.get(..MD5SIG_ADDRESS) == b.get(..MD5SIG_ADDRESS)
}

struct Table {
    entries: [Entry; SLOTS],
    next: usize,
}

struct Locked {
    table: UnsafeCell<Table>,
    /// Process id of the holder in the upper half, thread id in the lower; 0 when free.
    holder: AtomicU64,
}

// SAFETY: `table` is only reached through `with`, which lets one thread in at a time.
unsafe impl Sync for Locked {}

static TABLE: Locked =
    Locked { table: UnsafeCell::new(Table { entries: [Entry::EMPTY; SLOTS], next: 0 }), holder: AtomicU64::new(0) };

/// Runs `f` on the table, alone; `None` where this very thread has it already (a signal handler
/// that makes socket calls). A lock whose holder is another process was inherited over a fork from
/// a thread that does not exist here: it is taken over. The worst that leaves behind is one
/// half-written entry of the parent's, under a cookie that no socket has.
fn with<R>(f: impl FnOnce(&mut Table) -> R) -> Option<R> {
    let (process, thread) = sys::ids();
    let me = (u64::from(process) << 32) | u64::from(thread);
    loop {
        let holder = TABLE.holder.load(Ordering::Relaxed);
        if holder == me {
            return None;
        }
        let takable = holder == 0 || (holder >> 32) as u32 != process;
        if takable && TABLE.holder.compare_exchange(holder, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            break;
        }
        // SAFETY: no memory is passed.
        unsafe { libc::sched_yield() };
    }
    // SAFETY: the lock is held; nobody else has a reference.
    let r = f(unsafe { &mut *TABLE.table.get() });
    TABLE.holder.store(0, Ordering::Release);
    Some(r)
}

/// What is known of a socket.
pub fn find(cookie: u64) -> Option<Entry> {
    // Slots are taken in order and never become free again.
    with(|t| t.entries.iter().take_while(|e| e.kind != Kind::Free).find(|e| e.cookie == cookie).copied()).flatten()
}

/// Remembers a socket, in the place of what was known of it, of a free slot, or of the oldest.
pub fn put(entry: &Entry) {
    with(|t| {
        let known = t.entries.iter().position(|e| e.cookie == entry.cookie || e.kind == Kind::Free);
        let slot = known.unwrap_or_else(|| {
            t.next = (t.next + 1) % SLOTS;
            t.next
        });
        if let Some(place) = t.entries.get_mut(slot) {
            // Under no cookie until it is whole: a child forked in the middle of this never finds
            // half an entry.
            place.cookie = 0;
            compiler_fence(Ordering::SeqCst);
            *place = Entry { cookie: 0, ..*entry };
            compiler_fence(Ordering::SeqCst);
            place.cookie = entry.cookie;
        }
    });
}
