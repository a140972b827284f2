//! The one table of hooked symbols, on redhook. Each hook asks [`crate::redirect`] and sets errno once, here.
//!
//! redhook's macro writes unsafe code without comments and resolves each real function on its first use; `resolve` uses
//! each once in the constructor, because dlsym may lock and allocate.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    unsafe_op_in_unsafe_fn,
    static_mut_refs,
    missing_docs
)]
#![allow(missing_abi)]

use crate::redirect::{self, Outcome};
use crate::{addr, options, sys};
use libc::{c_int, c_void, sockaddr, socklen_t};
use redhook::{hook, real};

/// Turns an outcome into a return value and errno; errno is left alone by what succeeds, whatever was called on the way.
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

hook! {
    unsafe fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int => hv_bind {
        edge(sys::errno(), redirect::bind(fd, addr::read(address, len)), || real!(bind)(fd, address, len))
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
        edge(sys::errno(), redirect::connect(fd, addr::read(address, len)), || real!(connect)(fd, address, len))
    }
}

hook! {
    unsafe fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int => hv_getsockname {
        edge(sys::errno(), redirect::getsockname(fd, address, len), || real!(getsockname)(fd, address, len))
    }
}

hook! {
    unsafe fn getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int => hv_getpeername {
        edge(sys::errno(), redirect::getpeername(fd, address, len), || real!(getpeername)(fd, address, len))
    }
}

hook! {
    unsafe fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int => hv_setsockopt {
        let native = || real!(setsockopt)(fd, level, name, value, len);
        edge(sys::errno(), options::set(fd, level, name, value, len, native), native)
    }
}

hook! {
    unsafe fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int => hv_getsockopt {
        edge(sys::errno(), options::get(fd, level, name, value, len), || real!(getsockopt)(fd, level, name, value, len))
    }
}

/// Resolves every real function now.
pub fn resolve() {
    let _ = (real!(bind), real!(listen), real!(accept), real!(accept4), real!(connect));
    let _ = (real!(getsockname), real!(getpeername), real!(setsockopt), real!(getsockopt));
}
