//! The system calls that neither std, nix nor socket2 offer; with `instances/launch.rs` the only
//! unsafe code of this crate.

#![allow(unsafe_code)]

use crate::identity::Identity;
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
    // SAFETY: pointer and length describe `value`, which lives through the call; the kernel only
    // reads it.
    let r = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// getsockopt; the part of `value` that was filled.
///
/// # Errors
/// What the kernel says.
pub fn option<'a>(socket: &impl AsRawFd, level: i32, name: i32, value: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which lives through the call; the kernel writes
    // at most `len` octets.
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

/// Takes charge of fds that the kernel has just handed out (accept4, SCM_RIGHTS) and that nothing
/// else holds.
pub fn own(fds: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: the callers pass what accept4 or recvmsg returned to them: open, and owned by nobody
    // yet.
    fds.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Does something as another user: on a thread of its own that touches files as that user does.
///
/// # Errors
/// The thread cannot become that user.
pub fn as_user<T: Send>(identity: &Identity, what: impl FnOnce() -> T + Send) -> io::Result<T> {
    let become_user = move || -> io::Result<T> {
        let groups: Vec<libc::gid_t> = identity.groups.iter().map(|group| group.as_raw()).collect();
        // SAFETY: pointer and number describe `groups`, which lives through the call. The system call
        // is a thread's own matter, unlike the C library's function.
        if unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // They do not say whether they have done it. Without rights over files (CAP_DAC_OVERRIDE): the
        // kernel takes those from who stops being root to the file system.
        nix::unistd::setfsgid(identity.gid);
        nix::unistd::setfsuid(identity.uid);
        if nix::unistd::setfsuid(identity.uid) != identity.uid {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(what())
    };
    std::thread::scope(|scope| scope.spawn(become_user).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
}

/// Whether `fd` is an AF_UNIX socket of this type (SOCK_STREAM, SOCK_SEQPACKET).
pub fn is_unix(fd: &impl AsRawFd, kind: i32) -> bool {
    domain(fd) == Some(libc::AF_UNIX) && int(fd, libc::SO_TYPE) == Some(kind)
}

/// Octets that a TCP socket has not sent, or whose acknowledgement has not come (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// It is no such socket.
pub fn unacknowledged(socket: &impl AsRawFd) -> io::Result<i32> {
    let mut octets = 0;
    // SAFETY: the kernel writes one int.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    if r == 0 { Ok(octets) } else { Err(io::Error::last_os_error()) }
}

/// SO_DOMAIN; `None` for what is no socket.
pub fn domain(fd: &impl AsRawFd) -> Option<i32> {
    int(fd, libc::SO_DOMAIN)
}

fn int(fd: &impl AsRawFd, name: i32) -> Option<i32> {
    let mut buf = [0u8; 4];
    option(fd, libc::SOL_SOCKET, name, &mut buf).is_ok_and(|b| b.len() == 4).then(|| i32::from_ne_bytes(buf))
}

/// recvmsg: how many octets, msg_flags, and all fds that came. Those that came are given also where
/// some did not fit (MSG_CTRUNC): else they would stay open, owned by nobody. `room` is used up to
/// its capacity.
///
/// # Errors
/// What the kernel says.
pub fn receive(
    from: &impl AsRawFd,
    buf: &mut [u8],
    room: &mut Vec<u8>,
    flags: i32,
) -> io::Result<(usize, i32, Vec<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is plain data, for which all zero is "nothing".
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
    (msg.msg_control, msg.msg_controllen) = (room.as_mut_ptr().cast(), room.capacity() as _);
    // SAFETY: what `msg` points to lives through the call, and has the lengths that it says.
    let n = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut msg, flags) };
    let Ok(n) = usize::try_from(n) else { return Err(io::Error::last_os_error()) };
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled `room` with whole headers and set msg_controllen to what it has
    // filled; CMSG_FIRSTHDR and CMSG_NXTHDR are null at its end. The data of SCM_RIGHTS are fds
    // that nobody owns yet; they may lie unaligned.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const msg);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header);
                let octets = (header.cast::<u8>().wrapping_add((*header).cmsg_len as usize)).offset_from(data);
                let count = usize::try_from(octets).unwrap_or(0) / size_of::<RawFd>();
                for i in 0..count {
                    fds.push(OwnedFd::from_raw_fd(data.cast::<RawFd>().add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const msg, header);
        }
    }
    Ok((n, msg.msg_flags, fds))
}

/// Lets these users read and write a file besides its owner and group, by an access control list
/// (acl(5)) as chmod's group bits allow.
///
/// # Errors
/// EOPNOTSUPP where the file system has none.
pub fn share_with(path: &std::ffi::CStr, users: &[u32]) -> io::Result<()> {
    /// The kernel's form of a list (linux/posix_acl_xattr.h): a version, then tag, permissions and
    /// id of each entry.
    const VERSION: u32 = 2;
    const NO_ID: u32 = u32::MAX;
    const READ_WRITE: u16 = 6;
    let (owner, user, group, mask, other) = (0x01u16, 0x02, 0x04, 0x10, 0x20);
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup();
    let mut list = VERSION.to_le_bytes().to_vec();
    let mut entry = |tag: u16, permissions: u16, id: u32| {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&permissions.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    };
    entry(owner, READ_WRITE, NO_ID);
    users.iter().for_each(|id| entry(user, READ_WRITE, *id));
    entry(group, READ_WRITE, NO_ID);
    entry(mask, READ_WRITE, NO_ID);
    entry(other, 0, NO_ID);
    let name = c"system.posix_acl_access";
    // SAFETY: two strings and a buffer with its length, all of which live through the call; the
    // kernel only reads them.
    let r = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), list.as_ptr().cast(), list.len(), 0) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Octets that a leg's socket holds in each direction: a burst of the peer's fits, and the loop is
/// woken less often.
const LEG_BUFFER: usize = 1 << 20;

/// Gives a leg's socket [`LEG_BUFFER`].
pub fn widen(leg: &impl AsRawFd) {
    widen_to(leg, LEG_BUFFER);
}

/// Gives a socket buffers of `octets` each way, beyond net.core.wmem_max where we may; what the
/// kernel does not grant is no error.
pub fn widen_to(leg: &impl AsRawFd, octets: usize) {
    let len = (octets as i32).to_ne_bytes();
    for (forced, plain) in [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)] {
        if set_option(leg, libc::SOL_SOCKET, forced, &len).is_err() {
            let _ = set_option(leg, libc::SOL_SOCKET, plain, &len);
        }
    }
}

/// Gives a socket a filter (SO_ATTACH_FILTER); where the kernel refuses it the socket receives more
/// than it needs.
pub fn attach_filter(socket: &impl AsRawFd, program: &[socket2::SockFilter]) {
    // SAFETY: the fd is `socket`'s, which outlives this.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    let _ = socket2::SockRef::from(&fd).attach_filter(program);
}

/// Sets the nice value of the calling thread (in Linux it is each thread's own, see nice(2)).
/// Nothing but a system call, as code between fork and exec has to be.
///
/// # Errors
/// What the kernel says: EACCES or EPERM for less than before without CAP_SYS_NICE.
pub fn set_nice(value: i32) -> nix::Result<()> {
    // SAFETY: no pointers; 0 is the calling thread.
    nix::errno::Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) }).map(drop)
}

/// Why something failed, as a daemon is told. Never 0, which a daemon would take for success: the
/// kernel leaks numbers that no table of errno knows (524), and nix makes 0 of those.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(i32);

impl Errno {
    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl From<i32> for Errno {
    fn from(number: i32) -> Errno {
        Errno(if number == 0 { libc::EIO } else { number })
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Errno {
        Errno::from(errno as i32)
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Errno {
        Errno::from(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// A file that is readable when the process has ended (pidfd_open(2), Linux 5.3).
///
/// # Errors
/// What the kernel says.
pub fn pidfd(pid: nix::unistd::Pid) -> io::Result<OwnedFd> {
    // SAFETY: two numbers; the result is an fd that nobody owns yet.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    match RawFd::try_from(fd) {
        // SAFETY: as above.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A copy of this process does `work` with `file` and ends: with 0 where `work` says true. It has no
/// other file open, so that nothing of this process's lives longer because of it. Only the thread
/// that calls goes on in it: `work` may allocate, as the C library's fork(3) leaves its heap whole,
/// and may wait for nobody.
///
/// # Errors
/// What the kernel says.
pub fn fork_alone(file: &std::fs::File, work: impl FnOnce(&std::fs::File) -> bool) -> io::Result<nix::unistd::Pid> {
    use nix::unistd::ForkResult;
    // SAFETY: the child makes system calls and does `work`, whose callers keep to the above; it never
    // returns.
    unsafe {
        if let ForkResult::Parent { child } = nix::unistd::fork()? {
            return Ok(child);
        }
        // What work panics of is printed nowhere: another thread may hold the lock.
        let to = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if libc::dup2(file.as_raw_fd(), 0) != 0 || libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) != 0 {
                return false;
            }
            let file = std::mem::ManuallyDrop::new(std::fs::File::from_raw_fd(0));
            work(&file)
        }));
        libc::_exit(i32::from(!matches!(to, Ok(true))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_is_a_success() {
        let unknown = nix::errno::Errno::from_raw(524);
        assert_eq!(Errno::from(unknown).get(), libc::EIO);
        assert_eq!(Errno::from(io::Error::from_raw_os_error(524)).get(), 524);
        assert_eq!(Errno::from(io::Error::other("no number")).get(), libc::EIO);
        assert_eq!([0, libc::ENOENT].map(|n| Errno::from(n).get()), [libc::EIO, libc::ENOENT]);
    }
}
