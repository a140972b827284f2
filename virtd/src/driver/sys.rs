//! The system calls that neither std, nix nor socket2 offer in the form needed here; the only unsafe code of virtd.
//!
//! nix's recvmsg loses the fds it was given when the control data was cut (EMFILE in the middle of a message), which would let an
//! instance leak virtd's fds, so receiving fds is done here.

#![allow(unsafe_code)]

use bytes::BytesMut;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// SO_COOKIE: a number for a socket that is the same in whichever process holds it.
const SO_COOKIE: i32 = 57;
/// SO_NETNS_COOKIE: a number for the network namespace of a socket.
const SO_NETNS_COOKIE: i32 = 71;
/// SO_PASSRIGHTS (Linux 6.16): whether fds that come with data are taken at all.
const SO_PASSRIGHTS: i32 = 83;
/// Room for the control data of one message, in words of 8 octets: the kernel passes 253 fds (SCM_MAX_FD) at most.
const CONTROL_WORDS: usize = 160;

/// setsockopt.
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives through the call; the kernel only reads it.
    let r = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// setsockopt with an int.
pub fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option(fd, level, name, &value.to_ne_bytes())
}

/// getsockopt; how many octets of `value` were filled.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> io::Result<usize> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives through the call; the kernel writes at most `len` octets.
    let r = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut len) };
    if r == 0 { Ok((len as usize).min(value.len())) } else { Err(io::Error::last_os_error()) }
}

/// getsockopt of an int.
pub fn int(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = [0; 4];
    option(fd, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// SO_COOKIE.
pub fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut value = [0; 8];
    option(fd, libc::SOL_SOCKET, SO_COOKIE, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

/// SO_NETNS_COOKIE of a socket; 0 where the kernel has none (before Linux 5.14).
pub fn netns_cookie(fd: BorrowedFd<'_>) -> u64 {
    let mut value = [0; 8];
    match option(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut value) {
        Ok(8) => u64::from_ne_bytes(value),
        _ => 0,
    }
}

/// Takes no fds along with data from now on, where the kernel can: an instance could otherwise have virtd close things for it.
pub fn refuse_fds(fd: BorrowedFd<'_>) {
    let _ = set_int(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, 0);
}

/// Whether an fd that a process passed is an AF_UNIX socket of this type (SOCK_STREAM, SOCK_SEQPACKET).
pub fn is_unix(fd: BorrowedFd<'_>, kind: i32) -> bool {
    let domain = int(fd, libc::SOL_SOCKET, libc::SO_DOMAIN);
    domain.is_ok_and(|d| d == libc::AF_UNIX) && int(fd, libc::SOL_SOCKET, libc::SO_TYPE).is_ok_and(|t| t == kind)
}

/// Reads once, without waiting, into the room behind what `buf` holds; at most `max` octets. 0 is the end of the stream.
pub fn read(fd: BorrowedFd<'_>, buf: &mut BytesMut, max: usize) -> io::Result<usize> {
    let room = buf.spare_capacity_mut();
    let len = room.len().min(max);
    // SAFETY: the kernel writes at most `len` octets into `room`, which is at least that long and borrowed for the call.
    let n = unsafe { libc::recv(fd.as_raw_fd(), room.as_mut_ptr().cast(), len, libc::MSG_DONTWAIT) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: recv has filled the first `n` octets behind the old length, and `n` is at most the room there was.
    unsafe { buf.set_len(buf.len() + n) };
    Ok(n)
}

/// A message of a control channel.
pub struct Datagram {
    /// Octets of it.
    pub len: usize,
    /// It was longer than the room for it.
    pub truncated: bool,
    /// What was passed with it, in order.
    pub fds: Vec<OwnedFd>,
}

/// Receives one message and the fds passed with it, without waiting. A length of 0 is the end of the channel.
pub fn receive(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Datagram> {
    let mut control = [MaybeUninit::<u64>::uninit(); CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all of msghdr's fields are integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control);
    // SAFETY: the header points at `bytes` and `control` with their true lengths, and both live through the call.
    let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has set msg_controllen to what it wrote; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&header) };
    while !at.is_null() {
        // SAFETY: `at` came from the CMSG macros, is not null, and points at a cmsghdr inside `control`, which is aligned for it.
        let (kind, passed, data) = unsafe {
            let c = &*at;
            let passed = (c.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize) / mem::size_of::<i32>();
            ((c.cmsg_level, c.cmsg_type), passed, libc::CMSG_DATA(at).cast::<i32>())
        };
        if kind == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for i in 0..passed {
                // SAFETY: the kernel wrote `passed` fds behind this header; each is new, open, and owned by nobody else yet.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(i).read_unaligned()) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `at` is the header before.
        at = unsafe { libc::CMSG_NXTHDR(&header, at) };
    }
    Ok(Datagram { len, truncated: header.msg_flags & libc::MSG_TRUNC != 0, fds })
}
