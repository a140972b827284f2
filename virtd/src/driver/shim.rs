//! The shim's side of the driver: control channels, their requests, the fds that come and go with them.
//! `wire/src/shim.rs` is the protocol.

use super::sys;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    getsockopt, listen, recvmsg, send, sendmsg, socket, socketpair, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use wire::shim::{Accepted, MAX_MESSAGE, Reply};

/// Room for as many fds as one message can carry (SCM_MAX_FD): what does not fit would stay open, owned by nobody.
const MAX_FDS: usize = 253;

fn io(e: nix::errno::Errno) -> io::Error {
    io::Error::from_raw_os_error(e as i32)
}

/// The SEQPACKET socket that shims connect to. A file left over by an earlier virtd is replaced; a live one is not.
///
/// # Errors
/// AddrInUse where another virtd answers there, AlreadyExists where the path is something else; else what the kernel says.
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
    bind(fd.as_raw_fd(), &addr).map_err(io)?;
    listen(&fd, Backlog::new(64).map_err(io)?).map_err(io)?;
    Ok(fd)
}

/// The next waiting channel and the user id of the process that opened it.
///
/// # Errors
/// WouldBlock when there is none.
pub fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, u32)> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC).map_err(io)?;
    let fd = sys::own(&[fd]).pop().ok_or_else(|| io::Error::other("no fd"))?;
    let uid = getsockopt(&fd, sockopt::PeerCredentials).map_err(io)?.uid();
    Ok((fd, uid))
}

/// Receives one request: its length in `buf` (0 at the end of the channel) and the fds passed with it.
///
/// # Errors
/// WouldBlock when there is none.
pub fn receive(channel: &OwnedFd, buf: &mut [u8; MAX_MESSAGE]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let msg = recvmsg::<()>(channel.as_raw_fd(), &mut slices, Some(&mut space), flags).map_err(io)?;
    let mut fds = Vec::new();
    for c in msg.cmsgs().map_err(io)? {
        if let ControlMessageOwned::ScmRights(list) = c {
            fds.extend(sys::own(&list));
        }
    }
    Ok((msg.bytes, fds))
}

/// Room for the fd that may come with a datagram, for [`receive_datagram`].
pub fn room_for_fd() -> Vec<u8> {
    nix::cmsg_space!([std::os::fd::RawFd; 1])
}

/// Receives a datagram of a netlink pair: its length in `buf` (0 at the end), and where to say
/// that all answers are there.
///
/// # Errors
/// WouldBlock when there is none; EMSGSIZE where it did not fit.
pub fn receive_datagram(end: &OwnedFd, buf: &mut [u8], room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut slices = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let msg = recvmsg::<()>(end.as_raw_fd(), &mut slices, Some(room), flags).map_err(io)?;
    let mut fds = Vec::new();
    for c in msg.cmsgs().map_err(io)? {
        if let ControlMessageOwned::ScmRights(list) = c {
            fds.extend(sys::own(&list));
        }
    }
    if msg.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((msg.bytes, fds.pop().filter(|to| sys::is_unix(to, libc::SOCK_SEQPACKET))))
}

/// Answers a request. A shim that no longer waits is no error of ours.
#[inline(never)]
pub fn reply(to: &OwnedFd, reply: &Reply<'_>) {
    let mut buf = [0u8; MAX_MESSAGE];
    if let Ok(n) = reply.encode(&mut buf) {
        let _ = send(to.as_raw_fd(), buf.get(..n).unwrap_or_default(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }
}

/// Makes a new leg: our end, the daemon's end.
///
/// # Errors
/// EMFILE and the like.
pub fn leg_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).map_err(io)
}

/// Hands the daemon's end of a leg over a listening pair.
///
/// # Errors
/// WouldBlock where the daemon has not accepted the last ones yet; EPIPE where it has closed the listening socket.
pub fn offer(listening: &OwnedFd, accepted: &Accepted, end: &OwnedFd) -> io::Result<()> {
    let mut buf = [0u8; 128];
    let n = accepted.encode(&mut buf).map_err(|_| io::Error::other("address does not fit"))?;
    let slices = [IoSlice::new(buf.get(..n).unwrap_or_default())];
    let fds = [end.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(listening.as_raw_fd(), &slices, &rights, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL, None)
        .map_err(io)?;
    Ok(())
}
