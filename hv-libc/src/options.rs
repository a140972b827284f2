//! setsockopt and getsockopt: what is recorded before a socket is ours, what virtd is told, what is
//! answered from where.
//!
//! | option | before the swap | after it |
//! |---|---|---|
//! | IPPROTO_IP, IPV6 and TCP; SO_BINDTODEVICE, MARK, PRIORITY, REUSEPORT | natively, recorded, told to virtd at bind or connect | told to virtd, recorded; read from the record, else asked of virtd |
//! | SO_SNDBUF, KEEPALIVE, LINGER and the like | natively, recorded, set again on the Unix socket | natively |
//! | SO_ERROR, TYPE, DOMAIN, PROTOCOL, ACCEPTCONN | natively | as TCP would say |
//! | the rest | natively | natively |

use crate::channel;
use crate::redirect::{
    ask, is_deserted, ours, progress,
    Outcome::{self, Done, Failed, Native},
};
use crate::sys;
use crate::table::{self, Entry, Kind};
use libc::{c_int, c_void, socklen_t};
use wire::shim::{Reply, Request, SocketOption, MAX_MESSAGE, MAX_OPTION_LEN};

const TCP_MD5SIG_EXT: c_int = 32;

/// Options that are recorded on a TCP socket of the kernel's, in case it becomes ours.
fn recorded(level: c_int, name: c_int) -> bool {
    match level {
        libc::IPPROTO_IP | libc::IPPROTO_IPV6 => true,
        libc::IPPROTO_TCP => {
            secret(level, name) || matches!(name, libc::TCP_NODELAY | libc::TCP_MAXSEG | libc::TCP_USER_TIMEOUT)
        }
        libc::SOL_SOCKET => not_on_unix(name) || native_on_unix(name),
        _ => false,
    }
}

/// Options of a socket of ours that a Unix socket does not know, or knows and ignores.
fn emulated(level: c_int, name: c_int) -> bool {
    match level {
        libc::IPPROTO_IP | libc::IPPROTO_IPV6 | libc::IPPROTO_TCP => true,
        libc::SOL_SOCKET => not_on_unix(name),
        _ => false,
    }
}

/// Of SOL_SOCKET: what a Unix socket refuses, or takes and ignores.
fn not_on_unix(name: c_int) -> bool {
    matches!(name, libc::SO_BINDTODEVICE | libc::SO_MARK | libc::SO_PRIORITY | libc::SO_REUSEPORT)
}

/// Of SOL_SOCKET: what a Unix socket does or keeps as a TCP socket does.
fn native_on_unix(name: c_int) -> bool {
    matches!(
        name,
        libc::SO_REUSEADDR
            | libc::SO_KEEPALIVE
            | libc::SO_LINGER
            | libc::SO_SNDBUF
            | libc::SO_RCVBUF
            | libc::SO_RCVTIMEO
            | libc::SO_SNDTIMEO
    )
}

/// A key: never told to anybody who asks.
fn secret(level: c_int, name: c_int) -> bool {
    level == libc::IPPROTO_TCP && matches!(name, libc::TCP_MD5SIG | TCP_MD5SIG_EXT)
}

/// Whether virtd's real socket has a use for the option.
fn carried(level: c_int, name: c_int) -> bool {
    !matches!(
        (level, name),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY | libc::TCP_USER_TIMEOUT)
            | (libc::SOL_SOCKET, libc::SO_REUSEPORT)
            | (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY | libc::IPV6_RECVPKTINFO)
            | (libc::IPPROTO_IP, libc::IP_PKTINFO)
    )
}

/// Sets on a new Unix socket what the TCP socket had that a Unix socket understands.
pub fn inherit_natively(fd: c_int, entry: &Entry) {
    for o in entry.options().iter().filter(|o| o.level == libc::SOL_SOCKET && native_on_unix(o.name)) {
        sys::set_option(fd, o.level, o.name, o.value);
    }
}

/// setsockopt.
///
/// # Safety
/// `value` is valid for reads of `len` octets, as setsockopt's caller promises. `real` is the real
/// function, already bound to the arguments.
pub unsafe fn set(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
    real: impl FnOnce() -> c_int,
) -> Outcome {
    if !channel::active() || !recorded(level, name) && !emulated(level, name) {
        return Native;
    }
    if value.is_null() || len as usize > MAX_OPTION_LEN {
        return Native;
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len as usize) };
    let option = SocketOption { level, name, value: bytes };
    match sys::domain(fd) {
        Some(libc::AF_UNIX) if emulated(level, name) => set_on_ours(fd, &option),
        Some(libc::AF_INET | libc::AF_INET6) if recorded(level, name) => {
            let r = real();
            if r == 0 {
                record(fd, &option)
            } else {
                Done(r)
            }
        }
        _ => Native,
    }
}

/// Remembers what was set on a TCP socket of the kernel's.
fn record(fd: c_int, option: &SocketOption<'_>) -> Outcome {
    let cookie = sys::cookie(fd);
    let mut e = table::find(cookie).unwrap_or(Entry::new(cookie, Kind::Native, None, None));
    if e.record(option) {
        table::put(&e);
    } else if secret(option.level, option.name) {
        // What else does not fit is asked of virtd when the daemon wants to know; a key must not be
        // lost silently.
        sys::complain(&["more TCP-MD5 keys on one socket than are remembered before bind: set them after bind"]);
        return Failed(libc::ENOMEM);
    }
    Done(0)
}

fn set_on_ours(fd: c_int, option: &SocketOption<'_>) -> Outcome {
    let Some(mut e) = ours(fd) else { return Native };
    if carried(option.level, option.name) {
        // Where no virtd has the other end of a listening socket, the next one is told all that is
        // recorded.
        let asked = match e.kind {
            Kind::Listener if e.whole && is_deserted(fd) => {
                if !e.record(option) {
                    return Failed(libc::ENETDOWN);
                }
                Ok(())
            }
            _ => ask(&Request::SetOption { socket: e.cookie, option: *option }, None, false),
        };
        if let Err(errno) = asked {
            return Failed(errno);
        }
    }
    if !e.record(option) {
        // virtd knows it; another virtd could not be told.
        e.whole = false;
    }
    table::put(&e);
    Done(0)
}

/// getsockopt.
///
/// # Safety
/// `value` is valid for writes of `*len` octets, as getsockopt's caller promises.
pub unsafe fn get(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    let about_kind = level == libc::SOL_SOCKET
        && matches!(name, libc::SO_ERROR | libc::SO_TYPE | libc::SO_DOMAIN | libc::SO_PROTOCOL | libc::SO_ACCEPTCONN);
    if !channel::active() || !(about_kind || emulated(level, name)) || value.is_null() || len.is_null() {
        return Native;
    }
    let Some(e) = ours(fd) else { return Native };
    let v6 = e.remote.or(e.local).is_some_and(|a| a.is_ipv6());
    let number = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) if e.kind != Kind::Connecting => return Native,
        (libc::SOL_SOCKET, libc::SO_ERROR) => match progress(fd, &e) {
            // TCP has no error yet while its SYN is out.
            Ok(libc::EINPROGRESS) => 0,
            Ok(errno) => errno,
            Err(errno) => return Failed(errno),
        },
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
        (libc::SOL_SOCKET, libc::SO_DOMAIN) if v6 => libc::AF_INET6,
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => libc::AF_INET,
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => c_int::from(e.kind == Kind::Listener && e.listens),
        _ => {
            // SAFETY: the caller's promise, passed on.
            return unsafe { other(&e, level, name, value, len) };
        }
    };
    // SAFETY: the caller's promise, passed on.
    unsafe { give(&number.to_ne_bytes(), value, len) };
    Done(0)
}

/// From the record, else from virtd's real socket.
///
/// # Safety
/// As for [`get`].
unsafe fn other(e: &Entry, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    let set = e.options().iter().filter(|o| (o.level, o.name) == (level, name)).last();
    if let Some(o) = set.filter(|_| !secret(level, name)) {
        // SAFETY: the caller's promise.
        unsafe { give(o.value, value, len) };
        return Done(0);
    }
    // SAFETY: the caller's promise, passed on.
    unsafe { from_virtd(e.cookie, level, name, value, len) }
}

/// From virtd's real socket.
///
/// # Safety
/// As for [`get`]; `value` and `len` are not null.
pub unsafe fn from_virtd(socket: u64, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    let mut buf = [0u8; MAX_MESSAGE];
    // SAFETY: the caller's promise.
    let max_len = unsafe { *len };
    match channel::ask(&Request::GetOption { socket, level, name, max_len }, None, false, &mut buf) {
        Ok(Reply::Option { value: answer }) => {
            // SAFETY: the caller's promise.
            unsafe { give(answer, value, len) };
            Done(0)
        }
        Ok(Reply::Error { errno, .. }) | Err(errno) => Failed(errno),
        Ok(_) => Failed(libc::EPROTO),
    }
}

/// Writes an answer, cut to the caller's room.
///
/// # Safety
/// `value` is valid for writes of `*len` octets and `len` for reads and writes.
pub unsafe fn give(answer: &[u8], value: *mut c_void, len: *mut socklen_t) {
    // SAFETY: the caller's promise; at most its room is written.
    unsafe {
        let n = answer.len().min(*len as usize);
        std::ptr::copy_nonoverlapping(answer.as_ptr(), value.cast::<u8>(), n);
        *len = n as socklen_t;
    }
}
