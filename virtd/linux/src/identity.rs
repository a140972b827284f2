//! Whom virtd's worker runs as: a user of its own, with no rights of root's but [`RIGHTS`].
//!
//! The master, which is root, makes a worker that user between fork and exec ([`Identity::assume`]),
//! so that no instruction of a worker runs as root. Its twins and keepers are copies of it, and what
//! they execute keeps user and rights, since the capabilities are ambient ones (capabilities(7)). An
//! exec as a user that does not change leaves the process dumpable: core files and /proc/self are
//! what they are for any other program.

use crate::folders;
use crate::sys;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::{AccessFlags, Gid, Group, Uid, User, getgrouplist, setgroups, setresgid, setresuid};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use virtd_config::{Config, DEFAULT_USER};

/// Capabilities that a worker with a user of its own has.
///
/// NET_ADMIN: the kernel's routes, SO_MARK. NET_BIND_SERVICE: the BGP port. NET_RAW:
/// SO_BINDTODEVICE. IPC_LOCK: the journal stays in memory.
pub const RIGHTS: [Capability; 4] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE, Capability::CAP_NET_RAW, Capability::CAP_IPC_LOCK];
/// What the master needs to have a worker of another user, and to end it.
const CHANGES_USER: [Capability; 3] = [Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL];

/// A user, and the groups that its processes need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub name: String,
    /// The user.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
    /// Its other groups, and those that its sockets are given to: an owner may give a file to a
    /// group that it is in.
    pub groups: Vec<Gid>,
}

/// Whom the worker is to run as; `None` where it stays who the master is.
///
/// # Errors
/// The file names a user or a group that there is not, or that the worker cannot become: the key and
/// the remedy.
pub fn of(config: &Config) -> Result<Option<Identity>, String> {
    let named = config.user.as_deref();
    let name = named.unwrap_or(DEFAULT_USER);
    let found = User::from_name(name).map_err(|e| format!("user: {name:?} cannot be looked up: {e}"))?;
    let user = match (found, named, &config.group) {
        (Some(user), ..) => user,
        (None, Some(_), _) => {
            return Err(format!(
                "user: there is no user {name:?} on this system; create it with `useradd --system {name}`"
            ));
        }
        (None, None, Some(_)) => return Err("group: it is the worker's, which has no user: name one by `user`".into()),
        (None, None, None) => return Ok(None),
    };
    let gid = match &config.group {
        None => user.gid,
        Some(group) => group_id(group).ok_or_else(|| {
            format!("group: there is no group {group:?} on this system; create it with `groupadd --system {group}`")
        })?,
    };
    let me = Uid::effective();
    if user.uid == me || user.uid.is_root() {
        return Ok(None);
    }
    if let Some(lacks) = lacks_rights() {
        return match named {
            Some(_) => Err(format!("user: the worker cannot run as {name}: virtd {lacks}")),
            None => Ok(None),
        };
    }
    let c_name = CString::new(name).map_err(|e| format!("user: {e}"))?;
    let mut groups = getgrouplist(&c_name, gid).map_err(|e| format!("user: the groups of {name}: {e}"))?;
    let given = [&config.shim_group, &config.control_group, &config.control_ro_group];
    groups.extend(given.into_iter().flatten().filter_map(|group| group_id(group)));
    groups.sort_by_key(|group| group.as_raw());
    groups.dedup();
    Ok(Some(Identity { name: name.to_owned(), uid: user.uid, gid, groups }))
}

/// Why a process of this user cannot become another one, as the end of a sentence.
fn lacks_rights() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("must be root for that".to_owned());
    }
    let has = |c: &Capability| caps::has_cap(None, CapSet::Effective, *c).unwrap_or(false);
    let lacks: Vec<String> = CHANGES_USER.iter().filter(|c| !has(c)).map(ToString::to_string).collect();
    (!lacks.is_empty()).then(|| format!("lacks {} for that", lacks.join(", ")))
}

fn group_id(name: &str) -> Option<Gid> {
    Group::from_name(name).ok().flatten().map(|group| group.gid)
}

/// For a worker: why it is root's all the same, where nobody has said that it is to be.
pub fn is_root(config: &Config) -> Option<String> {
    let name = config.user.as_deref().unwrap_or(DEFAULT_USER);
    if !Uid::effective().is_root() || name == "root" {
        return None;
    }
    let remedy = match User::from_name(name) {
        Ok(Some(_)) => format!("restart virtd, with {}, to have it run as {name}", in_words(&CHANGES_USER)),
        _ => format!("`useradd --system {name}` and a restart of virtd give it one of its own"),
    };
    Some(format!("its user is root ({remedy})"))
}

fn in_words(capabilities: &[Capability]) -> String {
    capabilities.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a worker may keep of what the master has, ready for the child.
#[derive(Clone, Debug)]
pub struct Rights {
    kept: CapsHashSet,
    bounding: Vec<Capability>,
}

impl Rights {
    /// As [`RIGHTS`] has it, or none of them.
    pub fn of_worker(any: bool) -> Rights {
        let had = caps::read(None, CapSet::Permitted).unwrap_or_default();
        let kept: CapsHashSet = RIGHTS.into_iter().filter(|c| any && had.contains(c)).collect();
        // One that this kernel does not know is in no set.
        let bounding = caps::read(None, CapSet::Bounding).unwrap_or_default();
        let may = had.contains(&Capability::CAP_SETPCAP);
        let bounding = bounding.into_iter().filter(|c| may && !kept.contains(c)).collect();
        Rights { kept, bounding }
    }
}

impl Identity {
    /// In a child of root's, between fork and exec: it is this user from then on, with these rights.
    ///
    /// # Errors
    /// The kernel's.
    pub fn assume(&self, rights: &Rights) -> io::Result<()> {
        let refused = |_: caps::errors::CapsError| io::Error::last_os_error();
        for capability in &rights.bounding {
            caps::drop(None, CapSet::Bounding, *capability).map_err(refused)?;
        }
        prctl::set_keepcaps(true)?;
        setgroups(&self.groups)?;
        setresgid(self.gid, self.gid, self.gid)?;
        setresuid(self.uid, self.uid, self.uid)?;
        for set in [CapSet::Permitted, CapSet::Inheritable, CapSet::Effective, CapSet::Ambient] {
            caps::set(None, set, &rights.kept).map_err(refused)?;
        }
        Ok(())
    }

    /// Why this user may not execute a program, with the remedy.
    pub fn cannot_execute(&self, program: &Path, shown: &Path) -> Option<String> {
        self.may_execute(program).err().map(|e| {
            let mode = fs::metadata(program).map_or(0, |is| is.mode() & 0o7777);
            format!(
                "{} cannot be executed by virtd's worker, which runs as {} ({e}; mode {mode:04o}): `chmod a+rx` it",
                shown.display(),
                self.name
            )
        })
    }

    fn may_execute(&self, program: &Path) -> io::Result<()> {
        sys::as_user(self, || folders::access(program, AccessFlags::X_OK))?
    }

    /// Whether this user may write in a file that there is.
    pub fn may_append(&self, file: &Path) -> bool {
        matches!(sys::as_user(self, || folders::access(file, AccessFlags::W_OK)), Ok(Ok(())))
    }

    /// Whether this user may make files in a folder and remove them.
    pub fn may_write(&self, folder: &Path) -> io::Result<()> {
        sys::as_user(self, || folders::access(folder, AccessFlags::W_OK | AccessFlags::X_OK))?
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
