//! The one table of hooked symbols, on redhook. Each hook asks [`crate::redirect`] and sets errno
//! once, here.
//!
//! redhook's macro writes unsafe code without comments and resolves each real function on its first
//! use; `resolve` uses each once in the constructor, because dlsym may lock and allocate.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    unsafe_op_in_unsafe_fn,
    static_mut_refs,
    missing_docs
)]
#![allow(missing_abi)]

use crate::netlink::{self, names, raw};
use crate::redirect::{self, Outcome};
use crate::{addr, options, sys};
use libc::{c_int, c_uint, c_void, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};
use redhook::{hook, real};

/// Turns an outcome into a return value and errno; errno is left alone by what succeeds, whatever
/// was called on the way.
fn edge(saved: c_int, outcome: Outcome, native: impl FnOnce() -> c_int) -> c_int {
    match outcome {
        Outcome::Native => {
            sys::set_errno(saved);
            native()
        }
        Outcome::Done(r) => {
            // A native setsockopt that failed on the way has set errno itself.
            if r >= 0 {
                sys::set_errno(saved);
            }
            r
        }
        Outcome::Failed(e) => {
            sys::set_errno(e);
            -1
        }
    }
}

/// The same for what sends and receives.
fn count(saved: c_int, r: Result<usize, c_int>) -> ssize_t {
    match r {
        Ok(n) => {
            sys::set_errno(saved);
            n as ssize_t
        }
        Err(e) => {
            sys::set_errno(e);
            -1
        }
    }
}

hook! {
    unsafe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int => hv_socket {
        edge(sys::errno(), netlink::socket(domain, kind, protocol), || {
            let fd = real!(socket)(domain, kind, protocol);
            netlink::doubt(fd);
            fd
        })
    }
}

hook! {
    unsafe fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int => hv_bind {
        let saved = sys::errno();
        if let Some(pair) = netlink::known(fd) {
            return edge(saved, names::bind(pair, address, len), || real!(bind)(fd, address, len));
        }
        edge(saved, redirect::bind(fd, addr::read(address, len)), || real!(bind)(fd, address, len))
    }
}

hook! {
    unsafe fn listen(fd: c_int, backlog: c_int) -> c_int => hv_listen {
        edge(sys::errno(), redirect::listen(fd, backlog), || real!(listen)(fd, backlog))
    }
}

hook! {
    unsafe fn accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int => hv_accept {
        edge(sys::errno(), redirect::accept4(fd, address, len, 0), || real!(accept)(fd, address, len))
    }
}

hook! {
    unsafe fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int => hv_accept4 {
        edge(sys::errno(), redirect::accept4(fd, address, len, flags), || real!(accept4)(fd, address, len, flags))
    }
}

hook! {
    unsafe fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int => hv_connect {
        let saved = sys::errno();
        if let Some(pair) = netlink::known(fd) {
            return edge(saved, names::connect(pair, address, len), || real!(connect)(fd, address, len));
        }
        edge(saved, redirect::connect(fd, addr::read(address, len)), || real!(connect)(fd, address, len))
    }
}

hook! {
    unsafe fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int => hv_getsockname {
        let saved = sys::errno();
        if let Some(pair) = netlink::known(fd) {
            return edge(saved, names::getsockname(pair, address, len), || real!(getsockname)(fd, address, len));
        }
        edge(saved, redirect::getsockname(fd, address, len), || real!(getsockname)(fd, address, len))
    }
}

hook! {
    unsafe fn getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int => hv_getpeername {
        let saved = sys::errno();
        if netlink::known(fd).is_some() {
            return edge(saved, names::getpeername(address, len), || real!(getpeername)(fd, address, len));
        }
        edge(saved, redirect::getpeername(fd, address, len), || real!(getpeername)(fd, address, len))
    }
}

hook! {
    unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int => hv_setsockopt {
        let saved = sys::errno();
        if let Some(pair) = netlink::known(fd) {
            return edge(saved, names::set(fd, pair, level, name, value, len), || real!(setsockopt)(fd, level, name, value, len));
        }
        let native = || real!(setsockopt)(fd, level, name, value, len);
        edge(saved, options::set(fd, level, name, value, len, native), native)
    }
}

hook! {
    unsafe fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int => hv_getsockopt {
        let saved = sys::errno();
        if let Some(pair) = netlink::known(fd) {
            return edge(saved, names::get(pair, level, name, value, len), || real!(getsockopt)(fd, level, name, value, len));
        }
        edge(saved, options::get(fd, level, name, value, len), || real!(getsockopt)(fd, level, name, value, len))
    }
}

// On the data path of every fd, a leg's too: what was never a route socket costs one load and a
// branch.

hook! {
    unsafe fn send(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> ssize_t => hv_send {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::sendto(fd, pair, bytes, len, std::ptr::null(), 0)),
            _ => real!(send)(fd, bytes, len, flags),
        }
    }
}

hook! {
    unsafe fn sendto(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int, to: *const sockaddr, to_len: socklen_t) -> ssize_t => hv_sendto {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::sendto(fd, pair, bytes, len, to, to_len)),
            _ => real!(sendto)(fd, bytes, len, flags, to, to_len),
        }
    }
}

hook! {
    unsafe fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t => hv_sendmsg {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::sendmsg(fd, pair, msg)),
            _ => real!(sendmsg)(fd, msg, flags),
        }
    }
}

hook! {
    unsafe fn sendmmsg(fd: c_int, list: *mut mmsghdr, n: c_uint, flags: c_int) -> c_int => hv_sendmmsg {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::sendmmsg(fd, pair, list, n)) as c_int,
            _ => real!(sendmmsg)(fd, list, n, flags),
        }
    }
}

hook! {
    unsafe fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t => hv_write {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::sendto(fd, pair, bytes, len, std::ptr::null(), 0)),
            _ => real!(write)(fd, bytes, len),
        }
    }
}

hook! {
    unsafe fn recv(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int) -> ssize_t => hv_recv {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::recvfrom(fd, pair, bytes, len, flags, std::ptr::null_mut(), std::ptr::null_mut())),
            _ => real!(recv)(fd, bytes, len, flags),
        }
    }
}

hook! {
    unsafe fn recvfrom(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int, from: *mut sockaddr, from_len: *mut socklen_t) -> ssize_t => hv_recvfrom {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::recvfrom(fd, pair, bytes, len, flags, from, from_len)),
            _ => real!(recvfrom)(fd, bytes, len, flags, from, from_len),
        }
    }
}

hook! {
    unsafe fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t => hv_recvmsg {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::recvmsg(fd, pair, msg, flags)),
            _ => real!(recvmsg)(fd, msg, flags),
        }
    }
}

hook! {
    unsafe fn recvmmsg(fd: c_int, list: *mut mmsghdr, n: c_uint, flags: c_int, timeout: *mut timespec) -> c_int => hv_recvmmsg {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::recvmmsg(fd, pair, list, n, flags, timeout)) as c_int,
            _ => real!(recvmmsg)(fd, list, n, flags, timeout),
        }
    }
}

hook! {
    unsafe fn read(fd: c_int, bytes: *mut c_void, len: size_t) -> ssize_t => hv_read {
        match netlink::find(fd) {
            Some(pair) => count(sys::errno(), raw::recvfrom(fd, pair, bytes, len, 0, std::ptr::null_mut(), std::ptr::null_mut())),
            _ => real!(read)(fd, bytes, len),
        }
    }
}

hook! {
    unsafe fn __recv_chk(fd: c_int, bytes: *mut c_void, len: size_t, room: size_t, flags: c_int) -> ssize_t => hv_recv_chk {
        match netlink::find(fd) {
            Some(pair) if len <= room => count(sys::errno(), raw::recvfrom(fd, pair, bytes, len, flags, std::ptr::null_mut(), std::ptr::null_mut())),
            _ => real!(__recv_chk)(fd, bytes, len, room, flags),
        }
    }
}

hook! {
    unsafe fn __recvfrom_chk(fd: c_int, bytes: *mut c_void, len: size_t, room: size_t, flags: c_int, from: *mut sockaddr, from_len: *mut socklen_t) -> ssize_t => hv_recvfrom_chk {
        match netlink::find(fd) {
            Some(pair) if len <= room => count(sys::errno(), raw::recvfrom(fd, pair, bytes, len, flags, from, from_len)),
            _ => real!(__recvfrom_chk)(fd, bytes, len, room, flags, from, from_len),
        }
    }
}

hook! {
    unsafe fn __read_chk(fd: c_int, bytes: *mut c_void, len: size_t, room: size_t) -> ssize_t => hv_read_chk {
        match netlink::find(fd) {
            Some(pair) if len <= room => count(sys::errno(), raw::recvfrom(fd, pair, bytes, len, 0, std::ptr::null_mut(), std::ptr::null_mut())),
            _ => real!(__read_chk)(fd, bytes, len, room),
        }
    }
}

hook! {
    unsafe fn dup(fd: c_int) -> c_int => hv_dup {
        let new = real!(dup)(fd);
        netlink::copied(fd, new);
        new
    }
}

// A number that was a route socket's is looked at anew after these: in advance for the thread that
// gets it next, and afterwards for the one that has just found it unchanged.

hook! {
    unsafe fn close(fd: c_int) -> c_int => hv_close {
        netlink::doubt(fd);
        let r = real!(close)(fd);
        netlink::doubt(fd);
        r
    }
}

// C libraries before 2.34 have neither of these two; the system calls do what they do.

hook! {
    unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => hv_close_range {
        netlink::doubt_all(first, last);
        let saved = sys::errno();
        let r = sys::close_range(first, last, flags).map_or_else(Outcome::Failed, |()| Outcome::Done(0));
        netlink::doubt_all(first, last);
        edge(saved, r, || 0)
    }
}

hook! {
    unsafe fn closefrom(first: c_int) -> () => hv_closefrom {
        let first = first.max(0) as c_uint;
        netlink::doubt_all(first, c_uint::MAX);
        sys::close_from(first);
        netlink::doubt_all(first, c_uint::MAX);
    }
}

hook! {
    unsafe fn dup2(fd: c_int, to: c_int) -> c_int => hv_dup2 {
        netlink::doubt(to);
        let new = real!(dup2)(fd, to);
        netlink::copied(fd, new);
        new
    }
}

hook! {
    unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int => hv_dup3 {
        netlink::doubt(to);
        let new = real!(dup3)(fd, to, flags);
        netlink::copied(fd, new);
        new
    }
}

/// Resolves every real function now.
pub fn resolve() {
    let _ = (real!(socket), real!(close), real!(dup), real!(dup2), real!(dup3));
    let _ = (real!(send), real!(sendto), real!(sendmsg), real!(sendmmsg), real!(write));
    let _ = (real!(recv), real!(recvfrom), real!(recvmsg), real!(recvmmsg), real!(read));
    let _ = (real!(__recv_chk), real!(__recvfrom_chk), real!(__read_chk));
    let _ = (real!(bind), real!(listen), real!(accept), real!(accept4), real!(connect));
    let _ = (real!(getsockname), real!(getpeername), real!(setsockopt), real!(getsockopt));
}
