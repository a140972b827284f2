//! The moment between fork and exec. With `sys` the only unsafe code of this crate.

use crate::files;
use crate::kinds::root::{Entry, Failed};
use crate::kinds::{self, Program};
use crate::sys::set_nice;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::personality::{self, Persona};
use nix::unistd::{Gid, Pid, Uid, User, getgrouplist, pipe2, setgid, setgroups, setpgid, setsid, setuid, write};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use virtd_config::Instance;
use virtd_config::environment::STACK_OFFSET;

/// What a service manager tells virtd alone.
const NOT_INHERITED: [&str; 7] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID"];

/// What makes a process an instance.
#[derive(Clone, Debug)]
pub(super) struct Preload {
    /// libhvlibc.so, for instances that name no other.
    pub(super) shim: PathBuf,
    /// HV_SOCKET.
    pub(super) socket: PathBuf,
}

/// A user with all its groups, looked up before the fork: after it no lock of the C library may be
/// taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    groups: Vec<Gid>,
}

impl Preload {
    /// The shim of an instance.
    fn shim<'p>(&'p self, instance: &'p Instance) -> &'p Path {
        instance.shim_library.as_deref().unwrap_or(&self.shim)
    }
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
    /// First of several. They stay in virtd's session, since a process group of another one cannot
    /// be joined (setpgid(2)).
    Leader,
    /// In the group that this process leads.
    Member(Pid),
}

/// The way into an instance's root, and where the child says which step of it has failed: from
/// there an error has but a number.
struct Inside {
    entry: Arc<Entry>,
    told: OwnedFd,
}

/// Starts one process of an instance.
pub(super) fn spawn(instance: &Instance, program: &Program, preload: &Preload, place: Place) -> io::Result<Child> {
    let Some(entry) = kinds::entry(instance, &preload.socket, preload.shim(instance))?.map(Arc::new) else {
        return command(instance, program, preload, place, None)?.spawn();
    };
    let (said, told) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut command = command(instance, program, preload, place, Some(Inside { entry: entry.clone(), told }))?;
    command.spawn().map_err(|e| told_error(e, said, &entry))
}

/// Starts something else inside a root, to see whether it works there.
pub(super) fn spawn_inside(mut command: Command, entry: Entry) -> io::Result<Child> {
    let (said, told) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let entry = Arc::new(entry);
    let way = Inside { entry: entry.clone(), told };
    // SAFETY: as in `command`, whose closure does this and more.
    unsafe { command.pre_exec(move || way.go()) };
    command.spawn().map_err(|e| told_error(e, said, &entry))
}

/// An error of spawn, with the step that the child has named, if it did.
fn told_error(error: io::Error, said: OwnedFd, entry: &Entry) -> io::Error {
    let mut step = [0; 2];
    if File::from(said).read_exact(&mut step).is_err() {
        return error;
    }
    let failed = Failed { step: u16::from_ne_bytes(step), errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)) };
    io::Error::new(error.kind(), entry.describe(failed))
}

impl Inside {
    /// In the child.
    fn go(&self) -> io::Result<()> {
        self.entry.perform().map_err(|failed| {
            // Should that fail, the message is shorter.
            let _ = write(&self.told, &failed.step.to_ne_bytes());
            failed.errno.into()
        })
    }
}

fn command(
    instance: &Instance,
    program: &Program,
    preload: &Preload,
    place: Place,
    way: Option<Inside>,
) -> io::Result<Command> {
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
    let surroundings = Surroundings::of(instance, &mut command)?;
    if program.preload {
        preloaded(&mut command, instance, preload);
    }
    // SAFETY: the closure runs in the forked child of a process with threads, so it may only make
    // async-signal-safe calls: these are bare system calls (glibc's wrappers of setuid and its kin
    // have no other thread to tell), and nothing allocates.
    unsafe {
        command.pre_exec(move || {
            surroundings.take()?;
            become_instance(account.as_ref(), place, way.as_ref())
        })
    };
    Ok(command)
}

/// What `environment` says, ready for the child.
struct Surroundings {
    cpus: Option<CpuSet>,
    nice: u8,
    fixed_layout: bool,
}

impl Surroundings {
    /// What can be said in variables is said in `command`, the rest is left for the child.
    fn of(instance: &Instance, command: &mut Command) -> io::Result<Surroundings> {
        let e = &instance.environment;
        if let Some(octet) = e.malloc_perturb {
            command.env("MALLOC_PERTURB_", octet.to_string());
        }
        if e.stack_offset > 0 {
            command.env(STACK_OFFSET, "0".repeat(e.stack_offset as usize));
        }
        let mut cpus = (!e.cpus.is_empty()).then(CpuSet::new);
        for n in &e.cpus {
            cpus.as_mut().map_or(Ok(()), |set| set.set(usize::from(*n)))?;
        }
        Ok(Surroundings { cpus, nice: e.nice, fixed_layout: e.fixed_layout })
    }

    /// In the child, before it gives up its rights.
    fn take(&self) -> io::Result<()> {
        files::restore()?;
        if let Some(cpus) = &self.cpus {
            sched_setaffinity(Pid::from_raw(0), cpus)?;
        }
        if self.fixed_layout {
            personality::set(personality::get()? | Persona::ADDR_NO_RANDOMIZE)?;
        }
        if self.nice > 0 {
            set_nice(i32::from(self.nice))?;
        }
        Ok(())
    }
}

fn preloaded(command: &mut Command, instance: &Instance, preload: &Preload) {
    let mut libraries = OsString::from(preload.shim(instance));
    if let Some(theirs) = instance.env.get("LD_PRELOAD").filter(|l| !l.is_empty()) {
        libraries.push(":");
        libraries.push(theirs);
    }
    command.env("LD_PRELOAD", libraries);
    command.env("HV_SOCKET", &preload.socket).env("HV_INSTANCE", instance.label());
}

fn become_instance(account: Option<&Account>, place: Place, way: Option<&Inside>) -> io::Result<()> {
    let this = Pid::from_raw(0);
    match place {
        Place::Session => drop(setsid()?),
        Place::Leader => setpgid(this, this)?,
        Place::Member(leader) => setpgid(this, leader)?,
    }
    if let Some(way) = way {
        way.go()?;
    }
    if let Some(account) = account {
        setgroups(&account.groups)?;
        setgid(account.gid)?;
        setuid(account.uid)?;
    }
    Ok(())
}
