//! The shim's socket by its abstract name, for processes that have changed their root since their
//! start: what is the path to others is the name.
//!
//! Such a name has no permissions: anybody may take one. So a shim looks at who listens (SO_PEERCRED),
//! which is who called listen(2). It takes root for virtd, and the worker is not root: the master
//! listens, and the socket goes from worker to worker. Who connects is looked up either way.

use crate::sys;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockname, getsockopt, listen, socket, sockopt,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Connections that may wait.
const BACKLOG: i32 = 64;

/// Listens by the name that is this path.
///
/// # Errors
/// AddrInUse where somebody has taken the name; else what the kernel says.
pub fn listen_on(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let addr = UnixAddr::new_abstract(path.as_os_str().as_bytes())?;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &addr)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// Whether this is such a socket of root's, with whatever name. A daemon may have passed one of its
/// own.
pub fn is_roots(fd: &OwnedFd) -> bool {
    let listens = || getsockopt(fd, sockopt::AcceptConn).unwrap_or(false);
    let by_root = || getsockopt(fd, sockopt::PeerCredentials).is_ok_and(|made| made.uid() == 0);
    sys::is_unix(fd, libc::SOCK_SEQPACKET) && listens() && by_root() && name(fd).is_some()
}

/// The one with the name that is this path.
pub fn take(found: Vec<OwnedFd>, path: &Path) -> Option<OwnedFd> {
    found.into_iter().find(|fd| name(fd).as_deref() == Some(path.as_os_str().as_bytes()))
}

fn name(fd: &OwnedFd) -> Option<Vec<u8>> {
    getsockname::<UnixAddr>(fd.as_raw_fd()).ok()?.as_abstract().map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_this_name_is_found_among_others() {
        let path = |n: u32| std::env::temp_dir().join(format!("by-name-{}-{n}", std::process::id()));
        let found: Vec<OwnedFd> = (0..3).map(|n| listen_on(&path(n)).unwrap()).collect();
        assert!(listen_on(&path(1)).is_err(), "it is taken");
        let root = nix::unistd::Uid::effective().is_root();
        assert!(found.iter().all(|fd| is_roots(fd) == root));
        let other = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).unwrap();
        assert!(!is_roots(&other), "it does not listen");
        let number = found[1].as_raw_fd();
        assert_eq!(take(found, &path(1)).map(|fd| fd.as_raw_fd()), Some(number));
        assert!(take(vec![other], &path(1)).is_none());
    }
}
