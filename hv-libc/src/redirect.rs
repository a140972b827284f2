//! What each hook decides. [`Outcome::Native`] means the real function is called; everything else
//! is an answer.
//!
//! A TCP socket becomes ours in one moment, at bind or connect to the BGP port: until then the
//! kernel does everything, and what the daemon sets is recorded; from then on its fd number holds
//! one end of a Unix socketpair and virtd has the other.

use crate::sys::{self, Errno};
use crate::table::{self, Entry, Kind};
use crate::{addr, channel, netlink, options};
use libc::{c_int, sockaddr, socklen_t};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use wire::shim::{Accepted, Reply, Request, ANY, MAX_MESSAGE};

/// A dead broker leaves its fds readable for ever; a daemon that polls one may not spin.
pub const DEAD_PAUSE_US: u32 = 100_000;
/// The same for a listening socket once it has been so for long: FRR writes a line to its log each
/// time.
const LONG_DEAD_PAUSE_US: u32 = 1_000_000;
/// So many tries are long: some ten seconds.
const LONG_DEAD: u32 = 100;
/// Tries to accept since a virtd had the other end.
static DEAD_TRIES: AtomicU32 = AtomicU32::new(0);
/// How often virtd is looked for then; it logs every process it refuses.
const REVIVE_EVERY_MS: u64 = 1_000;

/// What a hook returns.
pub enum Outcome {
    /// Not ours: call the real function.
    Native,
    /// Done; the call's result.
    Done(c_int),
    /// Failed with this errno.
    Failed(Errno),
}

use Outcome::{Done, Failed, Native};

impl From<Result<c_int, Errno>> for Outcome {
    fn from(r: Result<c_int, Errno>) -> Outcome {
        match r {
            Ok(v) => Done(v),
            Err(e) => Failed(e),
        }
    }
}

/// Asks virtd something that is answered by `Done` or an error.
pub fn ask(request: &Request<'_>, end: Option<c_int>, forever: bool) -> Result<(), Errno> {
    let mut buf = [0u8; MAX_MESSAGE];
    match channel::ask(request, end, forever, &mut buf)? {
        Reply::Done => Ok(()),
        Reply::Error { errno, text } => {
            if !text.is_empty() {
                sys::complain(&[text]);
            }
            Err(errno)
        }
        _ => Err(libc::EPROTO),
    }
}

/// What is known of an fd that may be ours; `None` for what the kernel shall answer.
pub fn ours(fd: c_int) -> Option<Entry> {
    if !channel::active() || sys::int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)? != libc::AF_UNIX {
        return None;
    }
    let cookie = sys::cookie(fd);
    if netlink::known(fd).is_some() {
        return None;
    }
    match table::find(cookie) {
        Some(e) if e.kind == Kind::Foreign => None,
        Some(e) => Some(e),
        // What virtd holds the other end of is connected and has no name at either end.
        None if sys::is_unnamed_pair(fd) => take_letter(fd, cookie).or_else(|| learn(cookie)),
        None => None,
    }
}

/// Says in a new listening socket what it stands for: another process may get it, and must then
/// know all that a virtd that comes later has to be told. [`take_letter`] takes it out; it is there
/// until listen, so that no poll sees it.
fn put_letter(broker: c_int, entry: &Entry, local: SocketAddr) {
    let mut buf = [0u8; MAX_MESSAGE];
    let letter = Request::Bind { socket: entry.cookie, local, v6_only: entry.v6_only, options: entry.options() };
    if let Ok(n) = letter.encode(&mut buf) {
        // Who then has no letter asks virtd.
        let _ = sys::send(broker, buf.get(..n).unwrap_or_default());
    }
}

/// What [`put_letter`] has said. Whatever else may wait in a socket of the daemon's own stays
/// there.
fn take_letter(fd: c_int, cookie: u64) -> Option<Entry> {
    if sys::int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)? != libc::SOCK_SEQPACKET {
        return None;
    }
    let mut buf = [0u8; MAX_MESSAGE];
    let n = sys::receive(fd, &mut buf, libc::MSG_PEEK).ok()?;
    let Ok(Request::Bind { socket, local, v6_only, options }) = Request::decode(buf.get(..n)?) else { return None };
    if socket != cookie {
        return None;
    }
    let mut entry = Entry::new(cookie, Kind::Listener, Some(local), None);
    (entry.v6_only, entry.whole) = (v6_only, options.iter().all(|o| entry.record(&o)));
    let _ = sys::receive(fd, &mut [0], 0);
    table::put(&entry);
    Some(entry)
}

/// Asks virtd about a Unix socket that came from another process, or fell out of the table.
fn learn(cookie: u64) -> Option<Entry> {
    let mut buf = [0u8; MAX_MESSAGE];
    let entry = match channel::ask(&Request::Names { socket: cookie }, None, false, &mut buf) {
        Ok(Reply::Names { local, remote: None }) => Entry::new(cookie, Kind::Listener, Some(local), None),
        Ok(Reply::Names { local, remote }) => Entry::new(cookie, Kind::Leg, Some(local), remote),
        Ok(Reply::Error { errno: libc::ENOTCONN, .. }) => Entry::new(cookie, Kind::Connecting, None, None),
        Ok(Reply::Error { errno: libc::ENOENT, .. }) => Entry::new(cookie, Kind::Foreign, None, None),
        _ => return None,
    };
    table::put(&entry);
    (entry.kind != Kind::Foreign).then_some(entry)
}

/// Whether `fd` is a TCP socket of the kernel's that is bound to the BGP port.
fn wanted(fd: c_int, address: &SocketAddr) -> bool {
    if !channel::active() || sys::domain(fd).is_none_or(|d| d == libc::AF_UNIX) {
        return false;
    }
    // Which port that is virtd says: a daemon that was started before it asks now.
    address.port() == channel::port() || address.port() != 0 && channel::learn() && address.port() == channel::port()
}

/// For [`refuse_other_netns`].
const BGP_SOCKET: &str = "a socket on the BGP port";

/// `socket` is SO_NETNS_COOKIE: a socket that its process made in another network namespace than
/// virtd's (a VRF of FRR's, say) belongs to another router.
///
/// # Errors
/// ENETDOWN, as where no virtd answers: there is none for that namespace.
pub fn refuse_other_netns(socket: u64, what: &str) -> Result<(), Errno> {
    let virtd = channel::netns_cookie();
    if virtd == 0 || socket == 0 || virtd == socket {
        return Ok(());
    }
    sys::complain(&[what, " is in another network namespace than virtd, which serves one: refused"]);
    Err(libc::ENETDOWN)
}

fn native_name(fd: c_int) -> Option<SocketAddr> {
    let mut storage = addr::storage();
    let mut len = size_of::<libc::sockaddr_storage>() as socklen_t;
    sys::with_address(libc::SYS_getsockname, fd, &mut storage, &mut len).ok()?;
    // SAFETY: the kernel has just written `len` octets of address into `storage`.
    unsafe { addr::read((&raw const storage).cast(), len) }
}

/// bind to the BGP port: the fd becomes one end of a SEQPACKET pair.
pub fn bind(fd: c_int, address: Option<SocketAddr>) -> Outcome {
    let Some(local) = address.filter(|a| wanted(fd, a)) else { return Native };
    take_listener(fd, local).map(|()| 0).into()
}

fn take_listener(fd: c_int, local: SocketAddr) -> Result<(), Errno> {
    refuse_other_netns(sys::netns_cookie_of(fd), BGP_SOCKET)?;
    // The kernel says whether the address is ours, and binds the real socket to it on a port that
    // does not matter.
    let mut probe = local;
    probe.set_port(0);
    let (mut storage, mut len) = addr::to_storage(&probe);
    sys::with_address(libc::SYS_bind, fd, &mut storage, &mut len)?;
    let mut entry = Entry::new(0, Kind::Listener, Some(local), None);
    entry.v6_only = local.is_ipv6() && sys::int_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Some(1);
    entry.whole = true;
    if let Some(e) = table::find(sys::cookie(fd)) {
        entry.inherit(&e);
    }
    match place_listener(fd, &mut entry, local, None) {
        Err(libc::ENETDOWN) if channel::is_absent() => place_deserted(fd, &mut entry, local),
        placed => placed,
    }
}

/// Puts a new SEQPACKET end in the place of `fd` and tells virtd what it stands for; with a backlog
/// also that it listens.
fn place_listener(fd: c_int, entry: &mut Entry, local: SocketAddr, backlog: Option<c_int>) -> Result<(), Errno> {
    let (daemon, broker) = sys::pair(libc::SOCK_SEQPACKET)?;
    let socket = sys::cookie(daemon);
    entry.cookie = socket;
    options::inherit_natively(daemon, entry);
    if backlog.is_none() {
        put_letter(broker, entry, local);
    }
    let bind = Request::Bind { socket, local, v6_only: entry.v6_only, options: entry.options() };
    let mut asked = ask(&bind, Some(broker), false);
    sys::close(broker);
    if let (Ok(()), Some(backlog)) = (asked, backlog) {
        asked = ask(&Request::Listen { socket, backlog }, None, false);
    }
    finish_swap(fd, daemon, entry, asked)
}

/// There is no virtd yet: a socket whose other end is closed takes the place of `fd`, as one does
/// whose virtd is gone, and [`revive`] tells the first that comes. No daemon tries again to bind:
/// FRR ends itself, BIRD and OpenBGPD go on without a listening socket.
fn place_deserted(fd: c_int, entry: &mut Entry, local: SocketAddr) -> Result<(), Errno> {
    let (daemon, broker) = sys::pair(libc::SOCK_SEQPACKET)?;
    entry.cookie = sys::cookie(daemon);
    put_letter(broker, entry, local);
    sys::close(broker);
    options::inherit_natively(daemon, entry);
    finish_swap(fd, daemon, entry, Ok(()))
}

/// Whether no virtd holds the other end of a listening socket: the one that did is gone, or none
/// has come yet.
pub fn is_deserted(fd: c_int) -> bool {
    sys::poll(fd, 0, 0).is_ok_and(|r| r & libc::POLLHUP != 0)
}

/// The other end of a listening socket is gone, and virtd with it: where one answers again, it is
/// told what it has to know, and the daemon listens on as if nothing had been.
fn revive(fd: c_int, e: &Entry) -> Result<(), Errno> {
    static COMPLAINED: AtomicBool = AtomicBool::new(false);
    let (Some(local), true) = (e.local, e.whole) else {
        if !COMPLAINED.swap(true, Ordering::Relaxed) {
            sys::complain(&[
                "virtd is gone, and another cannot be told all about a listening socket that another process has listened on ",
                "or that has many TCP-MD5 keys: restart this daemon when virtd is back",
            ]);
        }
        return Err(libc::ECONNABORTED);
    };
    let mut entry = *e;
    let now = sys::monotonic_ms();
    if now < e.revive_at_ms {
        return Err(libc::ECONNABORTED);
    }
    entry.revive_at_ms = now + REVIVE_EVERY_MS;
    table::put(&entry);
    entry.listens = true;
    place_listener(fd, &mut entry, local, Some(e.backlog))
}

fn finish_swap(fd: c_int, daemon: c_int, entry: &Entry, asked: Result<(), Errno>) -> Result<(), Errno> {
    if let Err(e) = asked {
        sys::close(daemon);
        return Err(e);
    }
    table::put(entry);
    sys::replace(fd, daemon)
}

/// listen on what bind has made ours; possibly in another process, after chroot and setuid.
pub fn listen(fd: c_int, backlog: c_int) -> Outcome {
    match ours(fd) {
        Some(mut e) if e.kind == Kind::Listener => {
            // Of what was bound here nothing new stands in it.
            let _ = take_letter(fd, e.cookie);
            (e.listens, e.backlog) = (true, backlog);
            if let (true, true, Some(local)) = (e.whole, is_deserted(fd), e.local) {
                let before = e;
                return match place_listener(fd, &mut e, local, Some(backlog)) {
                    Err(libc::ENETDOWN) if channel::is_absent() => {
                        table::put(&before);
                        Done(0)
                    }
                    placed => placed.map(|()| 0).into(),
                };
            }
            let asked = ask(&Request::Listen { socket: e.cookie, backlog }, None, false);
            if asked.is_ok() {
                table::put(&e);
            }
            asked.map(|()| 0).into()
        }
        _ => Native,
    }
}

/// accept4 on a listening socket of ours: the next leg comes as a passed fd.
///
/// # Safety
/// `address` and `len` as accept's caller promises.
pub unsafe fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> Outcome {
    let listener = match ours(fd) {
        Some(e) if e.kind == Kind::Listener => e,
        _ => return Native,
    };
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Failed(libc::EINVAL);
    }
    let mut buf = [0u8; 128];
    let mut received = sys::receive_with_fd(fd, &mut buf, 0);
    if matches!(received, Ok((0, _))) && revive(fd, &listener).is_ok() {
        DEAD_TRIES.store(0, Ordering::Relaxed);
        // Never waits, not on a blocking socket either (FRR's is one): poll sent the daemon here,
        // and for no connection.
        received = match sys::receive_with_fd(fd, &mut buf, libc::MSG_DONTWAIT) {
            Err(libc::EAGAIN) if sys::blocks(fd) => Err(libc::ECONNABORTED),
            other => other,
        };
    }
    let (n, leg) = match received {
        Ok((0, _)) => {
            let long = DEAD_TRIES.fetch_add(1, Ordering::Relaxed) > LONG_DEAD;
            sys::pause_us(if long { LONG_DEAD_PAUSE_US } else { DEAD_PAUSE_US });
            // Of all errors the one that makes no daemon give the socket up: at EINVAL FRR closes
            // it and binds another.
            return Failed(libc::ECONNABORTED);
        }
        Ok((n, Some(leg))) => (n, leg),
        // No fd came along: this process may have no more. The leg is closed, and virtd sees that.
        Ok((_, None)) => return Failed(libc::EMFILE),
        Err(e) => return Failed(e),
    };
    let Ok(accepted) = Accepted::decode(buf.get(..n).unwrap_or_default()) else {
        sys::close(leg);
        return Failed(libc::ECONNABORTED);
    };
    // A listening IPv6 socket shows IPv4 peers as mapped addresses.
    let mapped = listener.local.is_some_and(|a| a.is_ipv6());
    let (local, remote) = if mapped {
        (addr::map(accepted.local), addr::map(accepted.remote))
    } else {
        (accepted.local, accepted.remote)
    };
    let mut entry = Entry::new(sys::cookie(leg), Kind::Leg, Some(local), Some(remote));
    entry.inherit(&listener);
    table::put(&entry);
    options::inherit_natively(leg, &entry);
    if flags & libc::SOCK_CLOEXEC == 0 {
        sys::keep_over_exec(leg);
    }
    sys::set_nonblocking(leg, flags & libc::SOCK_NONBLOCK != 0);
    // SAFETY: the caller's promise.
    unsafe { addr::write(&remote, address, len) };
    Done(leg)
}

/// connect to a BGP port: the fd becomes one end of a stream pair.
pub fn connect(fd: c_int, address: Option<SocketAddr>) -> Outcome {
    let Some(remote) = address.filter(|_| channel::active()) else { return Native };
    match sys::domain(fd) {
        Some(libc::AF_INET | libc::AF_INET6) => {
            return match is_bgp(fd, &remote) {
                Ok(true) => dial(fd, remote),
                Ok(false) => Native,
                Err(e) => Failed(e),
            };
        }
        Some(_) => {}
        None => return Native,
    }
    // A second connect on the same fd asks how the first one went.
    match ours(fd) {
        Some(e) if e.kind == Kind::Failed => Failed(libc::ECONNABORTED),
        Some(e) if e.kind == Kind::Leg => Failed(libc::EISCONN),
        Some(e) if matches!(e.kind, Kind::Connecting | Kind::Connected) => match progress(fd, &e) {
            Ok(0) => {
                table::put(&e.renamed(Kind::Leg, e.local.filter(|_| e.kind == Kind::Connected), e.remote));
                Done(0)
            }
            Ok(libc::EINPROGRESS) => Failed(libc::EALREADY),
            Ok(errno) | Err(errno) => Failed(errno),
        },
        _ => Native,
    }
}

/// Whether a connection of a TCP socket of the kernel's is a BGP session. Only virtd knows which
/// ports its peers have, and a reload changes them: it is asked each time, but for the BGP port
/// itself. No daemon connects often.
///
/// # Errors
/// virtd says that it may not be, or cannot be reached: then nobody knows that it is not one.
fn is_bgp(fd: c_int, remote: &SocketAddr) -> Result<bool, Errno> {
    if remote.port() == channel::port() {
        return Ok(true);
    }
    // Peers are those of virtd's own network namespace: in another the same address is somebody
    // else's.
    let (socket, virtd) = (sys::netns_cookie_of(fd), channel::netns_cookie());
    if virtd != 0 && socket != 0 && virtd != socket {
        return Ok(false);
    }
    let mut buf = [0u8; MAX_MESSAGE];
    match channel::ask(&Request::MayConnect { remote: *remote }, None, false, &mut buf)? {
        Reply::Passage { redirected } => Ok(redirected),
        Reply::Error { errno, text } => {
            if !text.is_empty() {
                sys::complain(&[text]);
            }
            Err(errno)
        }
        _ => Err(libc::EPROTO),
    }
}

fn dial(fd: c_int, remote: SocketAddr) -> Outcome {
    if let Err(e) = refuse_other_netns(sys::netns_cookie_of(fd), BGP_SOCKET) {
        return Failed(e);
    }
    let nonblocking = !sys::blocks(fd);
    let local = native_name(fd).unwrap_or(ANY);
    let before = table::find(sys::cookie(fd));
    let (daemon, broker) = match sys::pair(libc::SOCK_STREAM) {
        Ok(pair) => pair,
        Err(e) => return Failed(e),
    };
    let cookie = sys::cookie(daemon);
    let mut entry = Entry::new(cookie, Kind::Connecting, Some(local), Some(remote));
    if let Some(e) = &before {
        entry.inherit(e);
    }
    options::inherit_natively(daemon, &entry);
    // Not writable until the broker has read the filler away: what a TCP socket is while its SYN is
    // out.
    let filler_len = if nonblocking { sys::fill(daemon) } else { 0 };
    let asked = ask(
        &Request::Connect { socket: cookie, local, remote, filler_len, options: entry.options() },
        Some(broker),
        !nonblocking,
    );
    sys::close(broker);
    let asked = match asked {
        Err(libc::EINPROGRESS) if nonblocking => Ok(()),
        other => other,
    };
    if asked.is_ok() && !nonblocking {
        entry.kind = Kind::Leg;
        entry.local = None; // virtd knows the port; asked for when the daemon wants it
    }
    match finish_swap(fd, daemon, &entry, asked) {
        Ok(()) if nonblocking => Failed(libc::EINPROGRESS),
        Ok(()) => Done(0),
        Err(e) => Failed(e),
    }
}

/// How a connect is going: 0 connected, EINPROGRESS, or why it failed, which is told once.
pub fn progress(fd: c_int, e: &Entry) -> Result<Errno, Errno> {
    if e.kind != Kind::Connecting {
        return Ok(0);
    }
    let mut buf = [0u8; MAX_MESSAGE];
    match channel::ask(&Request::SocketError { socket: e.cookie }, None, false, &mut buf)? {
        // Another virtd than the one that was asked to connect: the leg's other end closed before
        // the filler was read.
        Reply::Error { errno: 0, .. } if sys::poll(fd, 0, 0).is_ok_and(|r| r & libc::POLLERR != 0) => {
            table::put(&e.renamed(Kind::Failed, e.local, e.remote));
            Ok(sys::int_option(fd, libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(libc::ECONNRESET))
        }
        Reply::Error { errno: 0, .. } => {
            table::put(&e.renamed(Kind::Connected, None, e.remote));
            Ok(0)
        }
        Reply::Error { errno: libc::EINPROGRESS, .. } => Ok(libc::EINPROGRESS),
        Reply::Error { errno, .. } => {
            table::put(&e.renamed(Kind::Failed, e.local, e.remote));
            // The Unix socket may have an error of its own, where virtd was gone before the filler
            // was read: reading takes it away.
            let _ = sys::int_option(fd, libc::SOL_SOCKET, libc::SO_ERROR);
            Ok(errno)
        }
        _ => Err(libc::EPROTO),
    }
}

/// The names of a socket of ours, asked of virtd where the table has not got them.
fn names(e: &Entry) -> Result<(SocketAddr, Option<SocketAddr>), Errno> {
    match (e.kind, e.local) {
        (Kind::Listener | Kind::Connected | Kind::Leg, Some(local)) => return Ok((local, e.remote)),
        (Kind::Failed, _) => return Err(libc::ENOTCONN),
        _ => {}
    }
    let mut buf = [0u8; MAX_MESSAGE];
    match channel::ask(&Request::Names { socket: e.cookie }, None, false, &mut buf)? {
        Reply::Names { local, remote } => {
            let kind = if e.kind == Kind::Connecting { Kind::Connected } else { e.kind };
            table::put(&e.renamed(kind, Some(local), remote));
            Ok((local, remote))
        }
        Reply::Error { errno, .. } => Err(errno),
        _ => Err(libc::EPROTO),
    }
}

/// getsockname.
///
/// # Safety
/// `address` and `len` as getsockname's caller promises.
pub unsafe fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> Outcome {
    let Some(e) = ours(fd) else { return Native };
    // While a connect is under way, or after it failed, the local name is what the socket was bound
    // to.
    let local = match names(&e) {
        Ok((local, _)) => local,
        Err(_) => e.local.unwrap_or(ANY),
    };
    // SAFETY: the caller's promise.
    unsafe { addr::write(&local, address, len) };
    Done(0)
}

/// getpeername.
///
/// # Safety
/// `address` and `len` as getpeername's caller promises.
pub unsafe fn getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> Outcome {
    let Some(e) = ours(fd) else { return Native };
    match names(&e) {
        Ok((_, Some(remote))) => {
            // SAFETY: the caller's promise.
            unsafe { addr::write(&remote, address, len) };
            Done(0)
        }
        Ok((_, None)) | Err(_) => Failed(libc::ENOTCONN),
    }
}
