//! What a worker has from the one before, or the first from the master.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use virtd_linux::sys;

/// The first number that is no standard one. Standard input is the link to the master.
const FIRST: RawFd = 3;

/// Every fd but the standard ones, under its own number. To be called once, before anything is opened. Programs that it starts do not get them.
///
/// # Errors
/// /proc cannot be read.
pub fn inherited() -> io::Result<Vec<OwnedFd>> {
    let numbers: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= FIRST)
        .collect();
    // The folder itself is closed by now, and no file any more.
    let open: Vec<RawFd> = numbers.into_iter().filter(|fd| close_on_exec(*fd).is_ok()).collect();
    Ok(sys::own(&open))
}

fn close_on_exec(fd: RawFd) -> nix::Result<()> {
    fcntl(crate::sys::borrow(fd), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

/// The link to the master, which is this process's standard input; that is /dev/null from now on.
///
/// # Errors
/// The kernel's.
pub fn link() -> io::Result<crate::link::Link> {
    let link = io::stdin().as_fd().try_clone_to_owned()?;
    if !sys::is_unix(&link, libc::SOCK_SEQPACKET) {
        return Err(io::Error::other("--worker is for virtd itself: standard input is no link to a master"));
    }
    let null = fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    debug_assert!(link.as_raw_fd() >= FIRST);
    Ok(crate::link::Link::over(link))
}
