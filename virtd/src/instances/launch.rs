//! The moment between fork and exec. The only `unsafe` outside the driver stands here.

use crate::config::Instance;
use crate::kinds::Program;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, User, getgrouplist, getppid, setgid, setgroups, setpgid, setsid, setuid};
use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a service manager tells virtd alone.
const NOT_INHERITED: [&str; 7] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID"];

/// What makes a process an instance.
#[derive(Clone, Debug)]
pub(super) struct Preload {
    /// libhvlibc.so.
    pub(super) shim: PathBuf,
    /// HV_SOCKET.
    pub(super) socket: PathBuf,
}

/// A user with all its groups, looked up before the fork: after it no lock of the C library may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    groups: Vec<Gid>,
}

impl Account {
    /// Looks a user up by name.
    pub(super) fn of(name: &str) -> io::Result<Account> {
        let user = User::from_name(name)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no user {name:?} on this system"))
        })?;
        let groups = getgrouplist(&CString::new(name)?, user.gid)?;
        Ok(Account { uid: user.uid, gid: user.gid, groups })
    }
}

/// Which process group a process of an instance is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Alone in a session of its own.
    Session,
    /// First of several. They stay in virtd's session, since a process group of another one cannot be joined (setpgid(2)).
    Leader,
    /// In the group that this process leads.
    Member(Pid),
}

/// One process of an instance, ready to spawn, from the thread that will outlive it.
pub(super) fn command(instance: &Instance, program: &Program, preload: &Preload, place: Place) -> io::Result<Command> {
    // A kind's daemon starts as root and changes its user itself.
    let user = instance.user.as_deref().filter(|_| instance.kind.is_none());
    let account = user.map(Account::of).transpose()?;
    let Some((path, arguments)) = program.command.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no command"));
    };
    let mut command = Command::new(path);
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command.envs(&instance.env);
    if program.preload {
        preloaded(&mut command, instance, preload);
    }
    let parent = Pid::this();
    // SAFETY: the closure runs in the forked child of a process with threads, so it may only make async-signal-safe calls: these
    // are bare system calls (glibc's wrappers of setuid and its kin have no other thread to tell), and nothing allocates.
    unsafe { command.pre_exec(move || become_instance(account.as_ref(), parent, place)) };
    Ok(command)
}

fn preloaded(command: &mut Command, instance: &Instance, preload: &Preload) {
    let mut libraries = OsString::from(&preload.shim);
    if let Some(theirs) = instance.env.get("LD_PRELOAD").filter(|l| !l.is_empty()) {
        libraries.push(":");
        libraries.push(theirs);
    }
    command.env("LD_PRELOAD", libraries);
    command.env("HV_SOCKET", &preload.socket).env("HV_INSTANCE", &instance.name);
}

fn become_instance(account: Option<&Account>, parent: Pid, place: Place) -> io::Result<()> {
    let this = Pid::from_raw(0);
    match place {
        Place::Session => drop(setsid()?),
        Place::Leader => setpgid(this, this)?,
        Place::Member(leader) => setpgid(this, leader)?,
    }
    if let Some(account) = account {
        setgroups(&account.groups)?;
        setgid(account.gid)?;
        setuid(account.uid)?;
    }
    // After setuid, which would clear it; and the parent may have died before it was set.
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(Errno::ESRCH.into());
    }
    Ok(())
}
