//! The system calls that neither std, nix nor socket2 offer; the only unsafe code of the driver.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// SO_COOKIE: a number for a socket that is the same in whichever process holds it.
const SO_COOKIE: i32 = 57;
/// SO_NETNS_COOKIE: a number for the network namespace of a socket (Linux 5.14).
const SO_NETNS_COOKIE: i32 = 71;

/// setsockopt.
///
/// # Errors
/// What the kernel says.
pub fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which lives through the call; the kernel only reads it.
    let r = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// getsockopt; the part of `value` that was filled.
///
/// # Errors
/// What the kernel says.
pub fn option<'a>(socket: &impl AsRawFd, level: i32, name: i32, value: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which lives through the call; the kernel writes at most `len` octets.
    let r = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut len) };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.get(..len as usize).unwrap_or_default())
}

fn number(socket: &impl AsRawFd, name: i32) -> u64 {
    let mut value = [0; 8];
    match option(socket, libc::SOL_SOCKET, name, &mut value) {
        Ok(all) if all.len() == 8 => u64::from_ne_bytes(value),
        _ => 0,
    }
}

/// SO_COOKIE; 0 where the kernel gives none.
pub fn cookie(socket: &impl AsRawFd) -> u64 {
    number(socket, SO_COOKIE)
}

/// SO_NETNS_COOKIE; 0 where the kernel gives none.
pub fn netns_cookie(socket: &impl AsRawFd) -> u64 {
    number(socket, SO_NETNS_COOKIE)
}

/// Takes charge of fds that the kernel has just handed out (accept4, SCM_RIGHTS) and that nothing else holds.
pub fn own(fds: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: the callers pass what accept4 or recvmsg returned to them: open, and owned by nobody yet.
    fds.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Whether `fd` is an AF_UNIX socket of this type (SOCK_STREAM, SOCK_SEQPACKET).
pub fn is_unix(fd: &impl AsRawFd, kind: i32) -> bool {
    let number = |name| {
        let mut buf = [0u8; 4];
        option(fd, libc::SOL_SOCKET, name, &mut buf).is_ok_and(|b| b.len() == 4).then(|| i32::from_ne_bytes(buf))
    };
    number(libc::SO_DOMAIN) == Some(libc::AF_UNIX) && number(libc::SO_TYPE) == Some(kind)
}

/// Octets that a leg's socket holds in each direction: a burst of the peer's fits, and the loop is woken less often.
const LEG_BUFFER: usize = 1 << 20;

/// Gives a leg's socket [`LEG_BUFFER`].
pub fn widen(leg: &impl AsRawFd) {
    widen_to(leg, LEG_BUFFER);
}

/// Gives a socket buffers of `octets` each way, beyond net.core.wmem_max where we may; what the kernel does not grant is no error.
pub fn widen_to(leg: &impl AsRawFd, octets: usize) {
    let len = (octets as i32).to_ne_bytes();
    for (forced, plain) in [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)] {
        if set_option(leg, libc::SOL_SOCKET, forced, &len).is_err() {
            let _ = set_option(leg, libc::SOL_SOCKET, plain, &len);
        }
    }
}

/// Gives a socket a filter (SO_ATTACH_FILTER); where the kernel refuses it the socket receives more than it needs.
pub fn attach_filter(socket: &impl AsRawFd, program: &[socket2::SockFilter]) {
    // SAFETY: the fd is `socket`'s, which outlives this.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    let _ = socket2::SockRef::from(&fd).attach_filter(program);
}

/// Sets the nice value of the calling thread (in Linux it is each thread's own, see nice(2)). Nothing but a system call, as code between fork and exec has to be.
///
/// # Errors
/// What the kernel says: EACCES or EPERM for less than before without CAP_SYS_NICE.
pub fn set_nice(value: i32) -> nix::Result<()> {
    // SAFETY: no pointers; 0 is the calling thread.
    nix::errno::Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) }).map(drop)
}
