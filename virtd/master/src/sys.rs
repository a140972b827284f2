//! The twin: the only unsafe code of this crate.
//!
//! The twin is a copy of a process that may have threads, so between its clone and its exec it may
//! do nothing but system calls: no allocation, no lock, no panic. All that it needs is there before
//! the clone.

#![allow(unsafe_code)]

use libc::{c_char, c_int, c_long, c_ulong};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;
use std::os::fd::{BorrowedFd, RawFd};

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

/// Makes a process that shares this one's table of fds, and is a child of its parent. `line` is
/// where it hears from the master, `link` what its successor must not have.
///
/// # Errors
/// The kernel's.
pub(crate) fn clone_twin(line: RawFd, link: RawFd) -> nix::Result<Pid> {
    copy(libc::CLONE_FILES, line, link, None)
}

/// Makes a process with these files, ascending, and no others but the standard ones. It does what a
/// twin does.
///
/// # Errors
/// The kernel's.
pub(crate) fn clone_keeper(line: RawFd, files: &[RawFd]) -> nix::Result<Pid> {
    copy(0, line, -1, Some(files))
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

fn copy(flags: c_int, line: RawFd, link: RawFd, files: Option<&[RawFd]>) -> nix::Result<Pid> {
    let arguments = [c"virtd".as_ptr(), c"--worker".as_ptr(), c"--resumed".as_ptr(), std::ptr::null()];
    // SAFETY: only read. Nobody changes the environment: virtd's code does not.
    let environment = unsafe { environ };
    // A handler of this process must not run in the twin: it would write into pipes that both have.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let flags = (flags | libc::CLONE_PARENT | libc::SIGCHLD) as c_ulong;
    // SAFETY: without CLONE_VM this is fork: the child goes on with a copy of everything, on its
    // copy of this stack. The child never returns from `twin`.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long) };
    if pid == 0 {
        // SAFETY: this is the child; the arrays are there.
        unsafe { twin(line, link, files, &arguments, environment) }
    }
    let errno = Errno::last();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    if pid < 0 { Err(errno) } else { Ok(Pid::from_raw(pid as i32)) }
}

/// The twin's whole life.
///
/// # Safety
/// For the child of [`copy`] alone.
unsafe fn twin(
    line: RawFd,
    link: RawFd,
    files: Option<&[RawFd]>,
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
        if let Some(files) = files {
            close_others(files);
        }
        let name = if files.is_some() { c"virtd-keeper" } else { c"virtd-twin" };
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        let pid = libc::getpid().to_ne_bytes();
        libc::send(line, pid.as_ptr().cast(), pid.len(), libc::MSG_NOSIGNAL);
        let mut path = [0u8; MAX_PATH];
        let Some((new_link, program)) = wait_for_go(line, &mut path) else { libc::_exit(0) };
        if let Some(program) = program {
            own_fd(program, &mut path);
        }
        libc::close(link);
        libc::close(line);
        if libc::dup2(new_link, 0) != 0 {
            libc::_exit(126);
        }
        libc::close(new_link);
        keep_all();
        for signal in NOT_OURS {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::execve(path.as_ptr().cast(), arguments.as_ptr(), environment);
        libc::_exit(127)
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

/// Waits for the master's word: what to execute, the link to the master as a file, and the program
/// as one, where it is not this. `None` where the master is gone.
///
/// # Safety
/// As of [`twin`].
unsafe fn wait_for_go(line: RawFd, path: &mut [u8; MAX_PATH]) -> Option<(RawFd, Option<RawFd>)> {
    /// Room for two fds, aligned as a cmsghdr has to be.
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
        let two = (*header).cmsg_len as usize >= libc::CMSG_LEN(2 * size_of::<RawFd>() as u32) as usize;
        Some((files.read_unaligned(), two.then(|| files.add(1).read_unaligned())))
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

/// Every fd but the standard ones outlasts the exec.
///
/// # Safety
/// As of [`twin`].
unsafe fn keep_all() {
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
                    Some(fd) if fd > 2 && fd != folder => {
                        libc::fcntl(fd, libc::F_SETFD, 0);
                    }
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
