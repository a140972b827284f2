//! The shim's side of the driver: control channels, their requests, the fds that come and go with
//! them. `wire/src/shim.rs` is the protocol.

use super::sys;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen,
    send, sendmsg, socket, socketpair, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, chown};
use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use virtd_linux::by_name;
use virtd_linux::foreign::{self, Foreign};
use wire::shim::{Accepted, MAX_MESSAGE, Reply};

fn io(e: nix::errno::Errno) -> io::Error {
    io::Error::from_raw_os_error(e as i32)
}

/// Who besides root may connect: the group, and users by name (see [`share`]). SO_PEERCRED decides
/// who may be which instance.
const MODE: u32 = 0o660;

/// The SEQPACKET socket that shims connect to, nobody's but its owner's yet ([`open_to`]). A file
/// left over by an earlier virtd is replaced; a live one is not.
///
/// # Errors
/// AddrInUse where another virtd answers there, AlreadyExists where the path is something else;
/// else what the kernel says.
pub fn listen_on(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let addr = UnixAddr::new(path).map_err(io)?;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(io)?;
    if path.exists() {
        let probe = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(io)?;
        // EAGAIN: it is alive, but its backlog is full.
        if matches!(nix::sys::socket::connect(probe.as_raw_fd(), &addr), Ok(()) | Err(nix::errno::Errno::EAGAIN)) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another virtd answers there"));
        }
        if !path.symlink_metadata()?.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        std::fs::remove_file(path)?;
    }
    // The mode of a bound socket's file is that of the socket before (Linux).
    fchmod(&fd, Mode::from_bits_truncate(0o600)).map_err(io)?;
    bind(fd.as_raw_fd(), &addr).map_err(io)?;
    listen(&fd, Backlog::new(64).map_err(io)?).map_err(io)?;
    Ok(fd)
}

/// The same socket by its abstract name: the one among these, or a new one.
///
/// # Errors
/// AddrInUse where somebody has taken the name; else what the kernel says.
pub fn by_name(inherited: Vec<OwnedFd>, path: &Path) -> io::Result<OwnedFd> {
    by_name::take(inherited, path).map_or_else(|| by_name::listen_on(path), Ok)
}

/// Opens the socket's file to its group, which becomes `group` where one is given.
///
/// # Errors
/// The file system's.
pub fn open_to(path: &Path, group: Option<Gid>) -> io::Result<()> {
    if let Some(group) = group {
        chown(path, None, Some(group)).map_err(io)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))
}

/// Opens the socket's file to these users besides: those that instances run as, or become.
///
/// # Errors
/// Unsupported where the file system has no access control lists; there the group must do.
pub fn share(path: &Path, users: &[u32]) -> io::Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    sys::share_with(&CString::new(path.as_os_str().as_bytes())?, users)
}

/// The next waiting channel and the user id of the process that opened it. Nothing that it may have
/// sent has been received yet.
///
/// # Errors
/// WouldBlock when there is none.
pub fn accept(listener: &OwnedFd) -> io::Result<(Foreign, u32)> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC).map_err(io)?;
    let fd = Foreign::new(sys::own(&[fd]).pop().ok_or_else(|| io::Error::other("no fd"))?);
    let uid = getsockopt(&fd, sockopt::PeerCredentials).map_err(io)?.uid();
    Ok((fd, uid))
}

/// Receives one request: its length in `buf` (0 at the end of the channel) and the fds passed with
/// it.
///
/// # Errors
/// WouldBlock when there is none.
pub fn receive(
    channel: &Foreign,
    buf: &mut [u8; MAX_MESSAGE],
    room: &mut Vec<u8>,
) -> io::Result<(usize, Vec<Foreign>)> {
    foreign::receive(channel, buf, room).map(|(n, _, fds)| (n, fds))
}

/// Receives a datagram of a netlink pair: its length in `buf` (0 at the end), and where to say
/// that all answers are there.
///
/// # Errors
/// WouldBlock when there is none; EMSGSIZE where it did not fit.
pub fn receive_datagram(end: &Foreign, buf: &mut [u8], room: &mut Vec<u8>) -> io::Result<(usize, Option<Foreign>)> {
    let (n, flags, mut fds) = foreign::receive(end, buf, room)?;
    if flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((n, fds.pop().filter(|to| sys::is_unix(to, libc::SOCK_SEQPACKET))))
}

/// Answers a request. A shim that no longer waits is no error of ours.
#[inline(never)]
pub fn reply(to: &Foreign, reply: &Reply<'_>) {
    let mut buf = [0u8; MAX_MESSAGE];
    if let Ok(n) = reply.encode(&mut buf) {
        let _ = send(to.as_raw_fd(), buf.get(..n).unwrap_or_default(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }
}

/// Makes a new leg: our end, the daemon's end.
///
/// # Errors
/// EMFILE and the like.
pub fn leg_pair() -> io::Result<(Foreign, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).map_err(io)?;
    Ok((Foreign::new(pair.0), pair.1))
}

/// Hands the daemon's end of a leg over a listening pair.
///
/// # Errors
/// WouldBlock where the daemon has not accepted the last ones yet; EPIPE where it has closed the
/// listening socket.
pub fn offer(listening: &Foreign, accepted: &Accepted, end: &OwnedFd) -> io::Result<()> {
    let mut buf = [0u8; 128];
    let n = accepted.encode(&mut buf).map_err(|_| io::Error::other("address does not fit"))?;
    let slices = [IoSlice::new(buf.get(..n).unwrap_or_default())];
    let fds = [end.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(listening.as_raw_fd(), &slices, &rights, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL, None)
        .map_err(io)?;
    Ok(())
}
