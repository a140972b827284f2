//! The worker dies at a chosen instruction of a turn: it is traced, and makes single steps.

use anyhow::{Context, Result, bail, ensure};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;

/// The calls in which a loop waits for what comes.
#[cfg(target_arch = "x86_64")]
const WAITS: [i64; 2] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
#[cfg(not(target_arch = "x86_64"))]
const WAITS: [i64; 1] = [libc::SYS_epoll_pwait];

/// Waits until a turn of this process begins, has it make so many instructions, and kills it. A step
/// that is a system call is one.
///
/// # Errors
/// It cannot be traced (root may), or has died of something else.
pub fn kill_after(worker: Pid, steps: u32) -> Result<()> {
    ptrace::seize(worker, Options::PTRACE_O_TRACESYSGOOD).context("tracing the worker")?;
    ptrace::interrupt(worker)?;
    stop(worker)?;
    wait_for_a_turn(worker)?;
    let mut signal = None;
    for _ in 0..steps {
        ptrace::step(worker, signal)?;
        signal = match stop(worker)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => None,
            WaitStatus::Stopped(_, other) => Some(other),
            _ => None,
        };
    }
    kill(worker, Signal::SIGKILL)?;
    loop {
        let end = waitpid(worker, Some(WaitPidFlag::__WALL))?;
        if let WaitStatus::Signaled(_, by, _) = end {
            ensure!(by == Signal::SIGKILL, "the worker has died by {by}");
            return Ok(());
        }
    }
}

/// Returns where the worker has come back from waiting.
fn wait_for_a_turn(worker: Pid) -> Result<()> {
    let (mut waits, mut signal) = (false, None);
    loop {
        ptrace::syscall(worker, signal)?;
        signal = match stop(worker)? {
            WaitStatus::PtraceSyscall(_) => {
                let enters = ptrace::syscall_info(worker)?.op == libc::PTRACE_SYSCALL_INFO_ENTRY;
                let epoll = call_of(worker)?.is_some_and(|number| WAITS.contains(&number));
                if epoll && waits && !enters {
                    return Ok(());
                }
                waits = epoll && enters;
                None
            }
            WaitStatus::Stopped(_, other) => Some(other),
            _ => None,
        };
    }
}

/// The next stop.
fn stop(worker: Pid) -> Result<WaitStatus> {
    match waitpid(worker, Some(WaitPidFlag::__WALL))? {
        end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => bail!("the worker has ended: {end:?}"),
        status => Ok(status),
    }
}

/// The number of the system call in which a stopped process is.
fn call_of(worker: Pid) -> Result<Option<i64>> {
    let file = format!("/proc/{worker}/syscall");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    Ok(text.split_whitespace().next().and_then(|number| number.parse().ok()))
}
