//! The control channel to virtd: opened in the constructor, found again by its path when it was
//! lost.

use crate::sys::{self, Errno};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering};
use wire::shim::{Reply, Request, MAX_MESSAGE, MAX_NAME, PROTOCOL_VERSION};

/// How long virtd may take to answer anything but a blocking connect.
const ANSWER_MS: i32 = 10_000;

static FD: AtomicI32 = AtomicI32::new(-1);
/// SO_COOKIE of the channel: a daemon that closes all its fds may have given the number to
/// something else.
static COOKIE: AtomicU64 = AtomicU64::new(0);
static PORT: AtomicU16 = AtomicU16::new(179);
/// SO_NETNS_COOKIE of the network namespace that virtd has accepted as its own; 0 as long as it has
/// not.
static NETNS: AtomicU64 = AtomicU64::new(0);
/// What Welcome said of route sockets: one of the three below.
static NETLINK: AtomicU8 = AtomicU8::new(NEVER_ASKED);
const NEVER_ASKED: u8 = 0;
const NETLINK_NATIVE: u8 = 1;
const NETLINK_REDIRECTED: u8 = 2;
/// What Welcome said of answers ahead.
static ANSWERS_AHEAD: AtomicBool = AtomicBool::new(false);
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// When virtd was last looked for, nothing listened at its path.
static ABSENT: AtomicBool = AtomicBool::new(false);
/// The user that the socket belonged to when this process last saw it by its path.
static VIRTD: AtomicU32 = AtomicU32::new(0);
static COMPLAINED: AtomicBool = AtomicBool::new(false);

/// HV_SOCKET and HV_INSTANCE, copied before the daemon can change its environment.
struct Names {
    path: UnsafeCell<([u8; 108], usize)>,
    instance: UnsafeCell<([u8; MAX_NAME], usize)>,
}

// SAFETY: written once in the constructor, before the daemon has threads; only read afterwards.
unsafe impl Sync for Names {}

static NAMES: Names = Names { path: UnsafeCell::new(([0; 108], 0)), instance: UnsafeCell::new(([0; MAX_NAME], 0)) };

/// Copies an environment variable; false where it is missing or too long.
fn copy_variable(name: &std::ffi::CStr, into: &mut [u8], len: &mut usize) -> bool {
    // SAFETY: the constructor runs alone; getenv gives null or a string that lives as long as the
    // environment.
    let value = unsafe {
        let p = libc::getenv(name.as_ptr());
        if p.is_null() {
            return false;
        }
        std::ffi::CStr::from_ptr(p).to_bytes()
    };
    let Some(room) = into.get_mut(..value.len()) else { return false };
    room.copy_from_slice(value);
    *len = value.len();
    !value.is_empty()
}

fn path() -> &'static [u8] {
    // SAFETY: see `Names`.
    let (bytes, len) = unsafe { &*NAMES.path.get() };
    bytes.get(..*len).unwrap_or_default()
}

fn instance() -> &'static str {
    // SAFETY: see `Names`.
    let (bytes, len) = unsafe { &*NAMES.instance.get() };
    std::str::from_utf8(bytes.get(..*len).unwrap_or_default()).unwrap_or_default()
}

/// Whether HV_SOCKET and HV_INSTANCE make this process part of an instance.
pub fn active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// The port that is redirected.
pub fn port() -> u16 {
    PORT.load(Ordering::Relaxed)
}

/// Whether virtd has said which port that is; where it never could be asked, it is now.
pub fn learn() -> bool {
    NETLINK.load(Ordering::Relaxed) != NEVER_ASKED || connect().is_ok()
}

/// Whether there was no virtd when it was last looked for, which is another thing than one that
/// refuses this process or does not answer.
pub fn is_absent() -> bool {
    ABSENT.load(Ordering::Relaxed)
}

/// Whether NETLINK_ROUTE sockets are redirected: what virtd last said. Asked now where it never
/// could be.
///
/// # Errors
/// ENETDOWN where virtd has never been reached and is not now.
pub fn netlink() -> Result<bool, Errno> {
    if NETLINK.load(Ordering::Relaxed) == NEVER_ASKED {
        connect().map_err(|_| libc::ENETDOWN)?;
    }
    Ok(NETLINK.load(Ordering::Relaxed) == NETLINK_REDIRECTED)
}

/// Whether route requests may be acknowledged without waiting for virtd.
pub fn answers_ahead() -> bool {
    ANSWERS_AHEAD.load(Ordering::Relaxed)
}

/// SO_NETNS_COOKIE of virtd's network namespace; until virtd has been reached, that of the calling
/// thread.
pub fn netns_cookie() -> u64 {
    match NETNS.load(Ordering::Relaxed) {
        0 => sys::netns_cookie(),
        known => known,
    }
}

/// The constructor's part: reads the environment and says hello.
pub fn open() {
    // SAFETY: the constructor runs alone.
    let (path, instance) = unsafe { (&mut *NAMES.path.get(), &mut *NAMES.instance.get()) };
    if !copy_variable(c"HV_SOCKET", &mut path.0, &mut path.1) {
        return sys::complain(&["HV_SOCKET is not set (or longer than 107 octets): nothing is redirected"]);
    }
    if !copy_variable(c"HV_INSTANCE", &mut instance.0, &mut instance.1) {
        return sys::complain(&["HV_INSTANCE is not set (or longer than 64 octets): nothing is redirected"]);
    }
    ACTIVE.store(true, Ordering::Relaxed);
    let _ = connect();
}

/// Opens the channel and says hello. A failure is told on stderr once until it works again.
fn connect() -> Result<i32, Errno> {
    let lost = |e: Errno| {
        if !COMPLAINED.swap(true, Ordering::Relaxed) {
            let path = std::str::from_utf8(path()).unwrap_or("?");
            sys::complain(&match e {
                libc::EACCES => [
                    "this user may not open ",
                    path,
                    ": no BGP session until it may; connections and new route sockets fail (user of the [[instance]], or shim_group)",
                ],
                _ => [
                    "virtd does not answer at ",
                    path,
                    ": no BGP session until it does; connections and new route sockets fail (is it running?)",
                ],
            });
        }
        e
    };
    if let Some(owner) = sys::owner(path()) {
        VIRTD.store(owner, Ordering::Relaxed);
    }
    let opened = match sys::connect_path(path()) {
        // In another root there is no such path. Abstract names have no root, and no owner.
        Err(libc::ENOENT) => sys::connect_abstract(path(), VIRTD.load(Ordering::Relaxed)),
        opened => opened,
    };
    ABSENT.store(matches!(opened, Err(libc::ENOENT | libc::ECONNREFUSED)), Ordering::Relaxed);
    let fd = sys::move_high(opened.map_err(lost)?);
    let netns_cookie = sys::netns_cookie();
    let hello =
        Request::Hello { version: PROTOCOL_VERSION, instance: instance(), pid: std::process::id(), netns_cookie };
    let mut buf = [0u8; MAX_MESSAGE];
    match exchange(fd, &hello, None, ANSWER_MS, &mut buf).and_then(|n| decode(&buf, n)) {
        Ok(Reply::Welcome { bgp_port, netlink, answer_ahead }) => {
            PORT.store(bgp_port, Ordering::Relaxed);
            NETLINK.store(if netlink { NETLINK_REDIRECTED } else { NETLINK_NATIVE }, Ordering::Relaxed);
            ANSWERS_AHEAD.store(answer_ahead, Ordering::Relaxed);
            NETNS.store(netns_cookie, Ordering::Relaxed);
            COOKIE.store(sys::cookie(fd), Ordering::Relaxed);
            // Another thread may have been here at the same time: its channel is as good, and
            // closed with the process.
            FD.store(fd, Ordering::Release);
            COMPLAINED.store(false, Ordering::Relaxed);
            Ok(fd)
        }
        Ok(Reply::Error { text, .. }) => {
            if !COMPLAINED.swap(true, Ordering::Relaxed) {
                sys::complain(&["virtd refuses this process: ", text]);
            }
            sys::close(fd);
            Err(libc::ENETDOWN)
        }
        other => {
            let e = other.err().unwrap_or(libc::EPROTO);
            let refused = refusal(fd, &mut buf);
            sys::close(fd);
            if refused {
                return Err(libc::ENETDOWN);
            }
            Err(lost(e))
        }
    }
}

/// Whom virtd does not know by its user it tells so over the channel itself, and receives nothing
/// from it. True where it has.
fn refusal(fd: i32, buf: &mut [u8; MAX_MESSAGE]) -> bool {
    // That the other end is closed with our request unread is told first (ECONNRESET), and once.
    let received = sys::receive_with_fd(fd, buf, libc::MSG_DONTWAIT);
    let Ok((n, _)) = received.or_else(|_| sys::receive_with_fd(fd, buf, libc::MSG_DONTWAIT)) else { return false };
    let Ok(Reply::Error { text, .. }) = decode(buf, n) else { return false };
    if !COMPLAINED.swap(true, Ordering::Relaxed) {
        sys::complain(&["virtd refuses this process: ", text]);
    }
    true
}

/// One request over one channel; the answer comes over a socket of its own, so that parent and
/// child never take each other's. Gives the answer's length in `buf`.
fn exchange(
    fd: i32,
    request: &Request<'_>,
    end: Option<i32>,
    wait_ms: i32,
    buf: &mut [u8; MAX_MESSAGE],
) -> Result<usize, Errno> {
    let n = request.encode(buf).map_err(|_| libc::EINVAL)?;
    let (ours, theirs) = sys::pair(libc::SOCK_SEQPACKET)?;
    let fds = [end.unwrap_or(theirs), theirs];
    let passed = fds.get(usize::from(end.is_none())..).unwrap_or_default();
    let sent = sys::send_with_fds(fd, buf.get(..n).unwrap_or_default(), passed);
    sys::close(theirs);
    let received = sent.and_then(|()| match sys::poll(ours, libc::POLLIN, wait_ms) {
        Ok(0) => Err(libc::ETIMEDOUT),
        Ok(_) => sys::receive_with_fd(ours, buf, libc::MSG_DONTWAIT),
        Err(e) => Err(e),
    });
    sys::close(ours);
    match received? {
        // The broker went away with the request.
        (0, _) => Err(libc::EPIPE),
        (n, _) => Ok(n),
    }
}

fn decode(buf: &[u8; MAX_MESSAGE], n: usize) -> Result<Reply<'_>, Errno> {
    Reply::decode(buf.get(..n).unwrap_or_default()).map_err(|_| libc::EPROTO)
}

/// Asks virtd. `end` is passed along (the broker's end of a new pair); the caller closes its copy.
/// `forever`: a blocking connect.
///
/// # Errors
/// ENETDOWN where virtd cannot be reached: never silently native. ETIMEDOUT where it does not
/// answer.
pub fn ask<'b>(
    request: &Request<'_>,
    end: Option<i32>,
    forever: bool,
    buf: &'b mut [u8; MAX_MESSAGE],
) -> Result<Reply<'b>, Errno> {
    let wait = if forever { -1 } else { ANSWER_MS };
    let fd = FD.load(Ordering::Acquire);
    let ours = fd >= 0 && sys::cookie(fd) == COOKIE.load(Ordering::Relaxed);
    if ours {
        match exchange(fd, request, end, wait, buf) {
            Ok(n) => return decode(buf, n),
            Err(e @ (libc::ETIMEDOUT | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINVAL)) => return Err(e),
            // The channel is gone: virtd was restarted, or the daemon closed all its fds.
            Err(_) => {
                // One of several threads that see this closes the number; by then another may have
                // opened the next channel.
                if FD.compare_exchange(fd, -1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    sys::close(fd);
                }
            }
        }
    }
    let fd = connect().map_err(|_| libc::ENETDOWN)?;
    let n = exchange(fd, request, end, wait, buf).map_err(|e| if e == libc::ETIMEDOUT { e } else { libc::ENETDOWN })?;
    decode(buf, n)
}
