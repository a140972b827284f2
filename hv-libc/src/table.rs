//! What is known of the daemon's sockets, by SO_COOKIE: options set before a socket was ours, names, what kind it is.
//!
//! A cookie is never used twice, so an entry whose socket is closed is harmless: no hook on close, dup or fcntl is needed. The table
//! is a cache of fixed size; what falls out of it is asked of virtd again. Options of a socket that is not ours yet live here
//! alone, but only between a daemon's setsockopt and its bind or connect.

use std::cell::UnsafeCell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use wire::shim::{Options, SocketOption};

const SLOTS: usize = 512;
/// Room for one TCP_MD5SIG (216 octets), a device name and a dozen numbers.
const OPTION_BYTES: usize = 640;

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
    options: [u8; OPTION_BYTES],
    used: usize,
}

impl Entry {
    const EMPTY: Entry =
        Entry { cookie: 0, kind: Kind::Free, local: None, remote: None, options: [0; OPTION_BYTES], used: 0 };

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

    /// Remembers an option: over the same option's last value where lengths match, else behind the others. A full record
    /// forgets it, and a later getsockopt is answered by the broker instead.
    pub fn record(&mut self, option: &SocketOption<'_>) {
        let mut at = 0;
        let mut same = None;
        for o in self.options().iter() {
            let begin = at + 10;
            at = begin + o.value.len();
            if (o.level, o.name, o.value.len()) == (option.level, option.name, option.value.len()) {
                same = Some(begin..at);
            }
        }
        if let Some(place) = same.and_then(|r| self.options.get_mut(r)) {
            place.copy_from_slice(option.value);
        } else if let Ok(used) = Options::push(&mut self.options, self.used, option) {
            self.used = used;
        }
    }
}

struct Table {
    entries: [Entry; SLOTS],
    next: usize,
}

struct Locked {
    table: UnsafeCell<Table>,
    /// Process id of the holder, 0 when free.
    holder: AtomicI32,
}

// SAFETY: `table` is only reached through `with`, which lets one thread in at a time.
unsafe impl Sync for Locked {}

static TABLE: Locked =
    Locked { table: UnsafeCell::new(Table { entries: [Entry::EMPTY; SLOTS], next: 0 }), holder: AtomicI32::new(0) };

/// Runs `f` on the table, alone. A lock whose holder is another process was inherited over a fork from a thread that does not
/// exist here: it is taken over. The worst it left behind is one half-written entry of the parent's, found by no cookie of ours.
fn with<R>(f: impl FnOnce(&mut Table) -> R) -> R {
    // SAFETY: no memory is passed.
    let me = unsafe { libc::getpid() };
    loop {
        let holder = TABLE.holder.load(Ordering::Relaxed);
        if holder != me && TABLE.holder.compare_exchange(holder, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            break;
        }
        // SAFETY: no memory is passed.
        unsafe { libc::sched_yield() };
    }
    // SAFETY: the lock is held; nobody else has a reference.
    let r = f(unsafe { &mut *TABLE.table.get() });
    TABLE.holder.store(0, Ordering::Release);
    r
}

/// What is known of a socket.
pub fn find(cookie: u64) -> Option<Entry> {
    with(|t| t.entries.iter().find(|e| e.kind != Kind::Free && e.cookie == cookie).copied())
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
            *place = *entry;
        }
    });
}
