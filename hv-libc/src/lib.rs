//! `libhvlibc.so`: preloaded into an unmodified routing daemon, it puts Unix sockets in the place
//! of the daemon's TCP sockets on the BGP port, and of its route sockets (NETLINK_ROUTE), and gives
//! their other ends to virtd.
//!
//! | module | holds |
//! |---|---|
//! | [`hooks`] | the one table of hooked symbols; docs/HOOKS.md says why each is there and why others are not |
//! | [`redirect`] | what each hook decides |
//! | [`options`] | the same for setsockopt and getsockopt |
//! | [`netlink`] | the same for route sockets, on the data path too |
//! | [`channel`] | requests to virtd and their answers |
//! | [`table`] | what is known of the daemon's sockets, by SO_COOKIE |
//! | [`addr`] | sockaddr to [`std::net::SocketAddr`] and back |
//! | [`old_libc`] | what lets a C library load it that is older than the one it was built with |
//! | [`sys`] | raw system calls: inside the shim a call to a hooked symbol would come back to its own hook |
//!
//! On the way of a hooked call nothing allocates, formats, logs or panics, except where something
//! has gone wrong that a person must read about on stderr. There is no thread-local guard against
//! re-entry: the shim never calls a hooked symbol.

mod addr;
mod channel;
mod hooks;
mod netlink;
mod old_libc;
mod options;
mod redirect;
mod sys;
mod table;

/// Runs before the daemon's main: the control channel must be open before a daemon changes its root
/// or its user.
extern "C" fn constructor() {
    hooks::resolve();
    channel::open();
}

#[used]
#[link_section = ".init_array"]
static CONSTRUCTOR: extern "C" fn() = constructor;
