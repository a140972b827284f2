//! The twin, and what a worker's process does before its exec: the only unsafe code of this crate.
//!
//! The twin is a copy of a process that may have threads, so between its clone and its exec it may
//! do nothing but system calls: no allocation, no lock, no panic. All that it needs is there before
//! the clone.

#![allow(unsafe_code)]

use libc::{c_char, c_int, c_long, c_ulong};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;
use std::cell::Cell;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use virtd_linux::identity::{Identity, Rights};

/// Octets of a path at most (PATH_MAX).
pub(crate) const MAX_PATH: usize = 4096;
/// Signals that are for the master: who sends them to a whole process group means it.
const NOT_OURS: [c_int; 5] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// An fd that is known by its number; whoever calls knows that it is open.
pub(crate) fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number is not -1. Should it be closed meanwhile, the kernel says EBADF.
    unsafe { BorrowedFd::borrow_raw(fd.max(0)) }
}

/// Has a process of the worker's be this user from before its exec, and have these files open after
/// it.
pub(crate) fn as_worker(command: &mut Command, files: Vec<RawFd>, identity: Option<&Identity>, rights: Rights) {
    let identity = identity.cloned();
    let become_worker = move || -> std::io::Result<()> {
        for file in &files {
            fcntl(borrow(*file), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        identity.as_ref().map_or(Ok(()), |identity| identity.assume(&rights))
    };
    // SAFETY: the closure runs in the forked child of a process with threads, so it may only make
    // system calls: glibc's wrappers of setresuid and its kin have no other thread to tell, and
    // nothing allocates unless a call fails, which ends the child.
    unsafe { command.pre_exec(become_worker) };
}

/// Makes a process that shares this one's table of fds, and is a child of its parent. `line` is
/// where it hears from the master, `link` what its successor must not have.
///
/// # Errors
/// The kernel's.
pub(crate) fn clone_twin(line: RawFd, link: RawFd) -> nix::Result<Pid> {
    let arguments = [c"virtd".as_ptr(), c"--worker".as_ptr(), c"--resumed".as_ptr(), std::ptr::null()];
    // SAFETY: only read. Nobody changes the environment: virtd's code does not.
    let environment = unsafe { environ };
    // A handler of this process must not run in the twin: it would write into pipes that both have.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: the child goes on on its copy of this stack, and never returns from `twin`.
    let pid = unsafe { copy() };
    if pid == 0 {
        // SAFETY: this is the child; the arrays are there.
        unsafe { twin(line, link, &arguments, environment) }
    }
    let errno = Errno::last();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    if pid < 0 { Err(errno) } else { Ok(Pid::from_raw(pid as i32)) }
}

/// A copy of this process with the same table of fds, and the same parent: fork, but for that. The
/// copy gets 0.
///
/// # Safety
/// The copy may do nothing but system calls.
unsafe fn copy() -> c_long {
    let flags = (libc::CLONE_FILES | libc::CLONE_PARENT | libc::SIGCHLD) as c_ulong;
    // SAFETY: without CLONE_VM memory is copied.
    unsafe { libc::syscall(libc::SYS_clone, flags, 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long) }
}

/// Ends this process where it stands, with these files, ascending, and no others in the table that it
/// shares.
pub(crate) fn end_with(files: &[RawFd]) -> ! {
    // SAFETY: numbers. Whoever had the others open is a thread of this process, and it ends now.
    unsafe {
        close_others(files);
        libc::_exit(0)
    }
}

/// The twin's whole life.
///
/// When it goes it leaves a keeper first: a copy that does what a twin does, for as long as the next
/// worker has no twin of its own.
///
/// # Safety
/// For the child of [`clone_twin`] alone.
unsafe fn twin(
    mut line: RawFd,
    mut link: RawFd,
    arguments: &[*const c_char; 4],
    environment: *const *const c_char,
) -> ! {
    // SAFETY: system calls, and wrappers of such that only make the call; pointers and lengths are
    // those of the arrays here.
    unsafe {
        for signal in NOT_OURS {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, c"virtd-twin".as_ptr());
        loop {
            say(line, libc::getpid());
            let mut path = [0u8; MAX_PATH];
            let Some(go) = wait_for_go(line, &mut path) else { libc::_exit(0) };
            // Daemons see at once that virtd is gone, and its ports are free, whoever else has this
            // table.
            let kept = [line, link, go.link, go.line, go.program.unwrap_or(-1)];
            let handed_over = Cell::new(false);
            each_fd(|fd| handed_over.set(handed_over.get() || is_handover(fd)));
            each_fd(|fd| {
                if !kept.contains(&fd) {
                    give_way(fd, handed_over.get());
                }
            });
            match copy() {
                0 => {
                    libc::prctl(libc::PR_SET_NAME, c"virtd-keeper".as_ptr());
                    // The one that goes closes the others.
                    (line, link) = (go.line, -1);
                    continue;
                }
                failed @ ..0 => say(go.line, failed as c_int),
                _ => {}
            }
            if let Some(program) = go.program {
                own_fd(program, &mut path);
            }
            libc::close(link);
            libc::close(line);
            if libc::dup2(go.link, 0) != 0 {
                libc::_exit(126);
            }
            libc::close(go.link);
            each_fd(|fd| {
                libc::fcntl(fd, libc::F_SETFD, if fd == go.line { libc::FD_CLOEXEC } else { 0 });
            });
            for signal in NOT_OURS {
                libc::signal(signal, libc::SIG_DFL);
            }
            libc::execve(path.as_ptr().cast(), arguments.as_ptr(), environment);
            libc::_exit(127)
        }
    }
}

/// Tells the master of a twin's process id, or with no valid one that there is none.
///
/// # Safety
/// As of [`twin`].
unsafe fn say(line: RawFd, pid: c_int) {
    let octets = pid.to_ne_bytes();
    // SAFETY: the octets are there with their length.
    unsafe { libc::send(line, octets.as_ptr().cast(), octets.len(), libc::MSG_NOSIGNAL) };
}

/// Closes a socket that listens, and one of this machine's own (to a daemon, to virtctl). Any other
/// keeps nobody from its port: it may be one that holds a port and does not listen just now. The
/// shim's by its abstract name stays: the next worker may not be root, and could make none that shims
/// believe ([`virtd_linux::by_name`]). Where something was handed over, all daemons' sockets that are
/// still there are part of that.
///
/// # Safety
/// As of [`twin`].
unsafe fn give_way(fd: RawFd, handed_over: bool) {
    let option = |name| {
        let (mut value, mut size): (c_int, _) = (0, size_of::<c_int>() as libc::socklen_t);
        // SAFETY: value and size are there.
        let done = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut size) };
        (done == 0).then_some(value)
    };
    let (yes, size): (c_int, _) = (1, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: a number, and an option with its length.
    unsafe {
        match option(libc::SO_DOMAIN) {
            None => {}
            Some(libc::AF_UNIX) if option(libc::SO_ACCEPTCONN) == Some(1) && is_by_name(fd) => {}
            Some(libc::AF_UNIX) if handed_over => {}
            Some(libc::AF_UNIX) => drop(libc::close(fd)),
            Some(_) if option(libc::SO_ACCEPTCONN) == Some(1) => drop(libc::close(fd)),
            Some(_) => drop(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const yes).cast(), size)),
        }
    }
}

/// Whether this is the memory of [`crate::twin::HANDOVER`].
///
/// # Safety
/// As of [`twin`].
unsafe fn is_handover(fd: RawFd) -> bool {
    let (mut path, mut target) = ([0u8; MAX_PATH], [0u8; 64]);
    own_fd(fd, &mut path);
    // SAFETY: a string, and a buffer with its length.
    let n = unsafe { libc::readlink(path.as_ptr().cast(), target.as_mut_ptr().cast(), target.len()) };
    let target = usize::try_from(n).ok().and_then(|n| target.get(..n)).unwrap_or_default();
    let name = target.strip_prefix(b"/memfd:").and_then(|rest| rest.strip_suffix(b" (deleted)"));
    name == Some(crate::twin::HANDOVER.to_bytes())
}

/// Whether it is root who listens at this socket, by an abstract name.
///
/// # Safety
/// As of [`twin`].
unsafe fn is_by_name(fd: RawFd) -> bool {
    let mut made_by = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the values and their sizes are there.
    unsafe {
        let mut name: libc::sockaddr_un = std::mem::zeroed();
        let mut length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        let (level, to) = (libc::SOL_SOCKET, (&raw mut made_by).cast());
        libc::getsockopt(fd, level, libc::SO_PEERCRED, to, &raw mut size) == 0
            && made_by.uid == 0
            && libc::getsockname(fd, (&raw mut name).cast(), &raw mut length) == 0
            && length as usize > size_of::<libc::sa_family_t>()
            && name.sun_path.first() == Some(&0)
    }
}

/// The path by which a process can execute a file that it has open, into `path`.
fn own_fd(fd: RawFd, path: &mut [u8; MAX_PATH]) {
    let mut digits = [0u8; 10];
    let (mut rest, mut n) = (fd.unsigned_abs(), 0);
    for digit in digits.iter_mut().rev() {
        (*digit, rest, n) = (b'0' + (rest % 10) as u8, rest / 10, n + 1);
        if rest == 0 {
            break;
        }
    }
    path.fill(0);
    let digits = digits.get(digits.len() - n..).unwrap_or_default();
    for (to, from) in path.iter_mut().zip(b"/proc/self/fd/".iter().chain(digits)) {
        *to = *from;
    }
}

/// What the master gives to the one that is to go, beside the path of what it is to execute.
struct Go {
    /// The link to the master.
    link: RawFd,
    /// The line of the keeper that it is to leave.
    line: RawFd,
    /// The program, where it is not this.
    program: Option<RawFd>,
}

/// Waits for the master's word. `None` where the master is gone.
///
/// # Safety
/// As of [`twin`].
unsafe fn wait_for_go(line: RawFd, path: &mut [u8; MAX_PATH]) -> Option<Go> {
    /// Room for three fds, aligned as a cmsghdr has to be.
    #[repr(C, align(8))]
    struct Room([u8; 64]);
    let mut room = Room([0; 64]);
    // SAFETY: the message's buffers live through the call and have the lengths that it says; one
    // octet of `path` stays zero. The header that is read is the kernel's.
    unsafe {
        let mut iov = libc::iovec { iov_base: path.as_mut_ptr().cast(), iov_len: MAX_PATH - 1 };
        let mut msg: libc::msghdr = std::mem::zeroed();
        (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
        (msg.msg_control, msg.msg_controllen) = (room.0.as_mut_ptr().cast(), room.0.len() as _);
        loop {
            let n = libc::recvmsg(line, &raw mut msg, 0);
            if n < 0 && *libc::__errno_location() == libc::EINTR {
                continue;
            }
            if n <= 0 {
                return None;
            }
            break;
        }
        let header = libc::CMSG_FIRSTHDR(&raw const msg);
        if header.is_null() || (*header).cmsg_level != libc::SOL_SOCKET || (*header).cmsg_type != libc::SCM_RIGHTS {
            return None;
        }
        let files = libc::CMSG_DATA(header).cast::<RawFd>();
        let holds = |n: usize| (*header).cmsg_len as usize >= libc::CMSG_LEN((n * size_of::<RawFd>()) as u32) as usize;
        if !holds(2) {
            return None;
        }
        let program = holds(3).then(|| files.add(2).read_unaligned());
        Some(Go { link: files.read_unaligned(), line: files.add(1).read_unaligned(), program })
    }
}

/// Closes every fd but the standard ones and these, which ascend.
///
/// # Safety
/// Of a process that uses none of them any more.
unsafe fn close_others(files: &[RawFd]) {
    let mut from: RawFd = 3;
    for file in files.iter().chain([&RawFd::MAX]) {
        if *file > from {
            // SAFETY: numbers.
            unsafe { libc::syscall(libc::SYS_close_range, from, *file - 1, 0) };
        }
        from = from.max(file.saturating_add(1));
    }
}

/// Does this to every fd but the standard ones.
///
/// # Safety
/// As of [`twin`]; `act` makes nothing but system calls.
unsafe fn each_fd(act: impl Fn(RawFd)) {
    let mut entries = [0u8; 4096];
    // SAFETY: the buffer is there with its length; the path is a string.
    unsafe {
        let folder = libc::open(c"/proc/self/fd".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
        if folder < 0 {
            return;
        }
        loop {
            let n = libc::syscall(libc::SYS_getdents64, folder, entries.as_mut_ptr(), entries.len());
            let Ok(n @ 1..) = usize::try_from(n) else { break };
            let mut rest = entries.get(..n).unwrap_or(&[]);
            // d_ino, d_off, d_reclen, d_type and the name (getdents(2)).
            while let (Some(&[low, high]), Some(name)) = (rest.get(16..18), rest.get(19..)) {
                match number(name) {
                    Some(fd) if fd > 2 && fd != folder => act(fd),
                    _ => {}
                }
                match rest.get(usize::from(u16::from_ne_bytes([low, high])).max(19)..) {
                    Some(next) => rest = next,
                    None => break,
                }
            }
        }
        libc::close(folder);
    }
}

/// The number that a name is, up to its end.
fn number(name: &[u8]) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut digits = 0;
    for octet in name.iter().take_while(|octet| **octet != 0) {
        if !octet.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(c_int::from(octet - b'0'))?;
        digits += 1;
    }
    (digits > 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_file_is_executed_by_its_number() {
        let path = |fd| {
            let mut path = [7; super::MAX_PATH];
            super::own_fd(fd, &mut path);
            std::ffi::CStr::from_bytes_until_nul(&path).expect("an end").to_owned()
        };
        assert_eq!(
            [0, 9, 10, 40_213].map(path),
            [c"/proc/self/fd/0", c"/proc/self/fd/9", c"/proc/self/fd/10", c"/proc/self/fd/40213"]
                .map(ToOwned::to_owned)
        );
    }

    #[test]
    fn names_of_fds_are_numbers() {
        assert_eq!(number(b"407\0rest"), Some(407));
        assert_eq!([&b".\0"[..], b"..\0", b"\0", b"99999999999\0"].map(number), [None; 4]);
    }
}
