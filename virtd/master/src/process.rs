//! The worker's and the twin's processes, as the master sees them.

use crate::link;
use crate::program::{OWN, Program};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use virtd_linux::identity::{Identity, Rights};
use virtd_linux::{by_name, instances, sys};

/// How long a twin may take to say its process id.
const HELLO: Duration = Duration::from_secs(5);

/// Starts a worker that has nothing of any before. `shim_socket`: by this name shims find it that do
/// not see the path.
///
/// # Errors
/// The kernel's.
pub fn fresh(link: OwnedFd, program: &Program, identity: Option<&Identity>, shim_socket: &Path) -> io::Result<Pid> {
    // Where somebody has the name the worker says so.
    let by_name = identity.and_then(|_| by_name::listen_on(shim_socket).ok());
    let mut command = program.command(identity, Rights::of_worker(true), by_name.as_ref());
    command.arg("--worker").stdin(Stdio::from(link));
    let child = command.spawn().map_err(|e| program.not_executed(e, identity))?;
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}

/// Has a twin, or a keeper, become the worker, and leave a keeper with this line.
///
/// # Errors
/// It is gone.
pub fn go(line: &OwnedFd, link: &OwnedFd, keepers: &OwnedFd, program: Option<&File>) -> io::Result<()> {
    let files = [Some(link.as_raw_fd()), Some(keepers.as_raw_fd()), program.map(AsRawFd::as_raw_fd)];
    link::send(line, OWN.as_bytes(), files.into_iter().flatten())
}

/// What the twin at the other end says its process id is, if it is a child of this process. `None`
/// where there is no twin.
pub fn hello(line: &OwnedFd) -> Option<Pid> {
    let patience = nix::sys::time::TimeVal::new(HELLO.as_secs() as i64, 0);
    nix::sys::socket::setsockopt(line, nix::sys::socket::sockopt::ReceiveTimeout, &patience).ok()?;
    let mut octets = [0; 4];
    let n = nix::sys::socket::recv(line.as_raw_fd(), &mut octets, nix::sys::socket::MsgFlags::empty()).ok()?;
    let pid = Pid::from_raw(i32::from_ne_bytes(octets));
    (n == octets.len() && is_child(pid)).then_some(pid)
}

/// Nobody but its own children is this process's to wait for, and to kill; and those in other groups
/// are instances.
fn is_child(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // The state, the parent, the group (proc(5)).
    let mut numbers = rest.split(' ').skip(1).map(str::parse);
    let is = |number: Option<Result<i32, _>>, wanted: Pid| matches!(number, Some(Ok(n)) if n == wanted.as_raw());
    is(numbers.next(), Pid::this()) && is(numbers.next(), getpgrp())
}

/// Waits for the end of a child, and reaps it.
pub fn end_of(pid: Pid) -> Option<WaitStatus> {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED) {
            Err(Errno::EINTR) => {}
            ended => return ended.ok(),
        }
    }
}

/// How a process ended, in words.
pub fn how(status: Option<&WaitStatus>) -> String {
    match status {
        Some(WaitStatus::Exited(_, status)) => format!("has exited with status {status}"),
        Some(WaitStatus::Signaled(_, signal, core)) => {
            format!("was ended by {signal}{}", if *core { instances::core_dump() } else { String::new() })
        }
        other => format!("is gone ({other:?})"),
    }
}

/// Whether this end of a pair is what it should be.
pub fn is_line(file: &OwnedFd) -> bool {
    sys::is_unix(file, libc::SOCK_SEQPACKET)
}
