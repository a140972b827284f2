//! Names and options of a pair: virtd's real socket has them.

use super::Pair;
use crate::addr;
use crate::channel;
use crate::options;
use crate::redirect::Outcome::{self, Done, Failed, Native};
use crate::sys::{self, Errno};
use libc::{c_int, c_void, sock_filter, sock_fprog, sockaddr, socklen_t};
use std::sync::atomic::Ordering;
use wire::shim::{Reply, Request, SocketOption, MAX_MESSAGE, MAX_OPTION_LEN};

/// Most instructions of a filter that is put behind ours; zebra's has less than ten. The kernel's
/// limit is 4,096.
const MAX_FILTER: usize = 256;

/// Asks virtd something that is answered by (nl_pid, nl_groups).
pub fn ask(request: &Request<'_>, end: Option<c_int>) -> Result<(u32, u32), Errno> {
    let mut buf = [0u8; MAX_MESSAGE];
    match channel::ask(request, end, false, &mut buf)? {
        Reply::NetlinkName { port_id, groups } => Ok((port_id, groups)),
        Reply::Error { errno, text } => {
            if !text.is_empty() {
                sys::complain(&[text]);
            }
            Err(errno)
        }
        _ => Err(libc::EPROTO),
    }
}

fn bind_to(pair: &Pair, port_id: u32, groups: u32) -> Result<(u32, u32), Errno> {
    ask(&Request::NetlinkBind { socket: pair.socket(), port_id, groups }, None)
}

/// bind.
///
/// # Safety
/// As bind's caller promises.
pub unsafe fn bind(pair: &Pair, address: *const sockaddr, len: socklen_t) -> Outcome {
    // SAFETY: the caller's promise.
    match unsafe { addr::read_netlink(address, len) } {
        Some((port_id, groups)) => bind_to(pair, port_id, groups).map(|_| 0).into(),
        None => Failed(libc::EINVAL),
    }
}

/// connect: to the kernel, which chooses a port id if there is none; AF_UNSPEC dissolves it.
///
/// # Safety
/// As connect's caller promises.
pub unsafe fn connect(pair: &Pair, address: *const sockaddr, len: socklen_t) -> Outcome {
    // SAFETY: the caller's promise, for both.
    let (family, netlink) = unsafe { (addr::family(address, len), addr::read_netlink(address, len)) };
    match netlink {
        Some((0, _)) => name(pair, true).map(|_| 0).into(),
        Some(_) => Failed(libc::ECONNREFUSED),
        None if family == Some(libc::AF_UNSPEC) => Done(0),
        None => Failed(libc::EINVAL),
    }
}

/// The name, with a port id if the kernel would have chosen one by now. What was sent may not have
/// reached virtd's socket yet.
fn name(pair: &Pair, bound: bool) -> Result<(u32, u32), Errno> {
    let names = Request::NetlinkNames { socket: pair.socket() };
    match ask(&names, None)? {
        (0, groups) if bound || pair.sent.load(Ordering::Relaxed) => match bind_to(pair, 0, groups) {
            // It has got there meanwhile.
            Err(libc::EINVAL) => ask(&names, None),
            other => other,
        },
        known => Ok(known),
    }
}

/// getsockname.
///
/// # Safety
/// As getsockname's caller promises.
pub unsafe fn getsockname(pair: &Pair, address: *mut sockaddr, len: *mut socklen_t) -> Outcome {
    match name(pair, false) {
        // SAFETY: the caller's promise, passed on.
        Ok((port_id, groups)) => unsafe { give(port_id, groups, address, len) },
        Err(e) => Failed(e),
    }
}

/// getpeername: the kernel, connected or not.
///
/// # Safety
/// As getpeername's caller promises.
pub unsafe fn getpeername(address: *mut sockaddr, len: *mut socklen_t) -> Outcome {
    // SAFETY: the caller's promise, passed on.
    unsafe { give(0, 0, address, len) }
}

/// # Safety
/// As getsockname's caller promises.
unsafe fn give(port_id: u32, groups: u32, address: *mut sockaddr, len: *mut socklen_t) -> Outcome {
    if address.is_null() || len.is_null() {
        return Failed(libc::EFAULT);
    }
    // SAFETY: the caller's promise.
    unsafe { *len = addr::write_netlink(port_id, groups, address, *len) };
    Done(0)
}

/// setsockopt: SOL_NETLINK is for virtd's socket; buffers, timeouts and filters work on the pair.
///
/// # Safety
/// As setsockopt's caller promises.
pub unsafe fn set(fd: c_int, pair: &Pair, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> Outcome {
    match (level, name) {
        (libc::SOL_NETLINK, _) => {
            if value.is_null() || len as usize > MAX_OPTION_LEN {
                return Failed(libc::EINVAL);
            }
            // SAFETY: the caller's promise.
            let value = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len as usize) };
            let option = SocketOption { level, name, value };
            crate::redirect::ask(&Request::SetOption { socket: pair.socket(), option }, None, false).map(|()| 0).into()
        }
        // SAFETY: the caller's promise, passed on.
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) => unsafe { attach_filter(fd, value, len) },
        _ => Native,
    }
}

/// The daemon's filter sees netlink's own octets, but would drop an errno of four octets when it
/// looks at a header: those are let through in front of it.
///
/// # Safety
/// As setsockopt's caller promises for SO_ATTACH_FILTER.
unsafe fn attach_filter(fd: c_int, value: *const c_void, len: socklen_t) -> Outcome {
    if value.is_null() || (len as usize) < size_of::<sock_fprog>() {
        return Native;
    }
    // SAFETY: the caller's promise; `len` covers the structure.
    let program = unsafe { value.cast::<sock_fprog>().read_unaligned() };
    let n = usize::from(program.len);
    if program.filter.is_null() || n == 0 || n > MAX_FILTER {
        return Native;
    }
    let op = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let mut longer = [op(0, 0, 0, 0); MAX_FILTER + 4];
    let first = [
        op((libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16, 0, 0, 0),
        op((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, 4),
        op((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
        // As a program finds it at its beginning.
        op((libc::BPF_LD | libc::BPF_IMM) as u16, 0, 0, 0),
    ];
    // SAFETY: the caller's promise: `n` instructions.
    let theirs = unsafe { std::slice::from_raw_parts(program.filter, n) };
    for (to, from) in longer.iter_mut().zip(first.iter().chain(theirs)) {
        *to = *from;
    }
    let program = sock_fprog { len: program.len + first.len() as u16, filter: longer.as_mut_ptr() };
    sys::attach_filter(fd, &program).map(|()| 0).into()
}

/// getsockopt: SOL_NETLINK of virtd's socket, the kind of socket as asked for.
///
/// # Safety
/// As getsockopt's caller promises.
pub unsafe fn get(pair: &Pair, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> Outcome {
    if value.is_null() || len.is_null() {
        return Native;
    }
    let number = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_TYPE) => pair.kind.load(Ordering::Relaxed),
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => libc::AF_NETLINK,
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::NETLINK_ROUTE,
        // SAFETY: the caller's promise, passed on.
        (libc::SOL_NETLINK, _) => return unsafe { options::from_virtd(pair.socket(), level, name, value, len) },
        _ => return Native,
    };
    // SAFETY: the caller's promise, passed on.
    unsafe { options::give(&number.to_ne_bytes(), value, len) };
    Done(0)
}
