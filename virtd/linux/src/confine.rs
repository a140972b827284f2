//! What a worker gives up before it hears from anybody: whoever takes it over has no more.
//!
//! | given up | by |
//! |---|---|
//! | new rights at an exec | PR_SET_NO_NEW_PRIVS |
//! | all capabilities but a few ([`identity::RIGHTS`], of root's user [`KEPT_BY_ROOT`]) | the bounding set and the others |
//! | writing files but in the folders that the configuration names | Landlock (Linux 5.13) |
//! | system calls that no part of it makes ([`DENIED`]) | seccomp: EPERM |
//!
//! All of that is a thread's own and is inherited by those that it starts, and by the next worker
//! where this one's twin was made later than at the start.

use crate::{folders, identity};
use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};
use nix::sys::prctl;
use nix::unistd::Uid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use virtd_config::Config;

/// Capabilities that a worker needs besides [`identity::RIGHTS`] where it is root's user.
///
/// CHOWN, FOWNER: groups and modes of its sockets. DAC_OVERRIDE: folders of its files that belong to
/// others.
pub const KEPT_BY_ROOT: [Capability; 3] = [Capability::CAP_CHOWN, Capability::CAP_FOWNER, Capability::CAP_DAC_OVERRIDE];

/// System calls that fail with EPERM: those that change who or where a process is, what the kernel
/// is, or other processes.
pub const DENIED: [i64; 54] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    libc::SYS_syslog,
];

/// Gives it all up, for the thread that calls and those that it starts. What could not be given up,
/// for the operator: an old kernel is no reason to have no router.
pub fn confine(config: &Config) -> Vec<String> {
    let mut left = Vec::new();
    let mut note = |what: &str, done: Result<(), String>| {
        left.extend(done.err().map(|e| format!("{what} ({e})")));
    };
    note("user", identity::is_root(config).map_or(Ok(()), Err));
    note("no new privileges", prctl::set_no_new_privs().map_err(|e| e.to_string()));
    note("files", files(config));
    note("capabilities", capabilities());
    note("system calls", system_calls());
    left
}

/// Folders that the worker writes in. They are made where there are none, since it could not do so
/// later.
fn written(config: &Config) -> Vec<PathBuf> {
    let all: Vec<PathBuf> = folders::written_by_worker(config).into_keys().collect();
    for folder in &all {
        let _ = fs::create_dir_all(folder);
    }
    all
}

fn files(config: &Config) -> Result<(), String> {
    let written = written(config);
    let ruled = || -> Result<RulesetStatus, landlock::RulesetError> {
        // What may be read is left: the next worker may be another program, wherever it is.
        let writes = AccessFs::from_write(ABI::V2);
        let mut rules =
            Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(writes)?.create()?;
        let null = [PathBuf::from("/dev/null")];
        for (path, access) in existing(&written, writes).chain(existing(&null, writes)) {
            rules = rules.add_rule(PathBeneath::new(path, access))?;
        }
        Ok(rules.restrict_self()?.ruleset)
    };
    match ruled() {
        Ok(RulesetStatus::NotEnforced) => Err("this kernel has no Landlock".to_owned()),
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// Those that there are. A file has no rights that only folders have.
fn existing(paths: &[PathBuf], access: BitFlags<AccessFs>) -> impl Iterator<Item = (PathFd, BitFlags<AccessFs>)> + '_ {
    paths.iter().filter_map(move |path| {
        let of_kind = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V2) };
        Some((PathFd::new(path).ok()?, of_kind))
    })
}

fn capabilities() -> Result<(), String> {
    let root = Uid::effective().is_root();
    let kept = identity::RIGHTS.into_iter().chain(KEPT_BY_ROOT.into_iter().filter(|_| root));
    let kept: CapsHashSet = kept.collect();
    let had = caps::read(None, CapSet::Permitted).map_err(|e| e.to_string())?;
    for capability in caps::all().difference(&kept) {
        // One that this kernel does not know is in no set.
        if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) && had.contains(&Capability::CAP_SETPCAP)
        {
            caps::drop(None, CapSet::Bounding, *capability).map_err(|e| e.to_string())?;
        }
    }
    let kept: CapsHashSet = had.intersection(&kept).copied().collect();
    caps::set(None, CapSet::Effective, &kept).map_err(|e| e.to_string())?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|e| e.to_string())?;
    // Root's next worker gets its rights as root does; another user's has them by these sets.
    let passed = if root { CapsHashSet::new() } else { kept };
    let done = caps::set(None, CapSet::Inheritable, &passed);
    done.and_then(|()| caps::set(None, CapSet::Ambient, &passed)).map_err(|e| e.to_string())
}

fn system_calls() -> Result<(), String> {
    let denied: BTreeMap<i64, Vec<_>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().map_err(|e| format!("{e}"))?;
    let filter = SeccompFilter::new(denied, SeccompAction::Allow, refused, arch).map_err(|e| e.to_string())?;
    let program: BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| e.to_string())?;
    seccompiler::apply_filter(&program).map_err(|e| e.to_string())
}

#[cfg(test)]
#[path = "confine_tests.rs"]
mod tests;
