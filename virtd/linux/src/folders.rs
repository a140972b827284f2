//! The folders that the worker writes in, and how one that is not root comes to write there.
//!
//! The master keeps files of its own beside the worker's: folders of instances beside the shim's
//! socket, versions of daemons beside the state. So a folder is not made the worker's. It stays
//! root's, is open to the worker's group, and sticky: the worker makes files there, and removes or
//! renames none but its own. Files that an earlier virtd has written there as root become the
//! worker's.
//!
//! Nothing is changed but what is virtd's own: a folder that virtd makes, one of the name `virtd`,
//! and what is below such a one; and only where nobody but root can have put something else in its
//! place. A symbolic link is never followed for it.

use crate::identity::Identity;
use crate::written;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{AccessFlags, Uid, faccessat, fchown, fchownat};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use virtd_config::Config;

/// A folder with this name is virtd's, and so is what is below it.
const OWN_NAME: &str = "virtd";
/// Of a folder that the worker's group writes in: who owns a file removes it, nobody else.
const SHARED: u32 = 0o1070;
/// Folders that the master keeps beside the shim's socket.
const MASTERS: [&str; 2] = ["instances", "vtysh"];
/// What may stand behind the name of a file of the worker's.
const SUFFIXES: [&str; 3] = ["", ".new", ".unreadable"];
/// What the names of records end with.
const RECORDS: [&str; 6] = [".json", ".mrt", ".hex", ".json.new", ".mrt.new", ".hex.new"];
/// Records that are looked at.
const MAX_RECORDS: usize = 100_000;

/// Folders that the worker writes in, each with the keys of the configuration that name it.
pub fn written_by_worker(config: &Config) -> BTreeMap<PathBuf, Vec<&'static str>> {
    let mut all: BTreeMap<PathBuf, Vec<&'static str>> = BTreeMap::new();
    let named = files(config).into_iter().filter_map(|(key, file)| Some((key, file.parent()?.to_owned())));
    for (key, folder) in named.chain(config.recorder.folder.clone().map(|folder| ("recorder.folder", folder))) {
        if !folder.as_os_str().is_empty() {
            all.entry(folder).or_default().push(key);
        }
    }
    all
}

/// Files and sockets of the worker's.
fn files(config: &Config) -> Vec<(&'static str, &Path)> {
    let mut all: Vec<(&str, &Path)> = vec![
        ("shim_socket", &config.shim_socket),
        ("control_socket", &config.control_socket),
        ("state", &config.state),
    ];
    all.extend(config.control_socket_ro.as_deref().map(|path| ("control_socket_ro", path)));
    all.extend(config.event_log.as_deref().map(|path| ("event_log", path)));
    all
}

/// What would keep a worker of this user from writing, were virtd started now: the key, the folder
/// and the remedy. Changes nothing.
pub fn problems(config: &Config, identity: &Identity) -> Vec<String> {
    let problem = |folder: &Path, keys: &[&str]| match existing(folder) {
        found if found != folder => match is_roots(found) || identity.may_write(found).is_ok() {
            true => None,
            false => Some(told(identity, folder, keys, "which cannot be made there")),
        },
        _ if is_handed_over(folder) || identity.may_write(folder).is_ok() => None,
        // It is only appended to.
        _ if keys == ["event_log"] && config.event_log.as_deref().is_some_and(|file| identity.may_append(file)) => None,
        _ => Some(told(identity, folder, keys, "which may not write there")),
    };
    let all = written_by_worker(config);
    all.iter().filter_map(|(folder, keys)| problem(folder, keys)).chain(masters_problem(config, identity)).collect()
}

fn told(identity: &Identity, folder: &Path, keys: &[&str], why: &str) -> String {
    let (shown, name, group) = (folder.display(), &identity.name, identity.gid);
    format!(
        "{}: {shown} is for virtd's worker, {why} as user {name}: `chgrp {group} {shown}; chmod 1775 {shown}`, or name another folder",
        keys.join(", ")
    )
}

/// The master, which is root, writes beside the shim's socket: nobody else may rename things there.
fn masters_problem(config: &Config, identity: &Identity) -> Option<String> {
    let folder = config.shim_socket.parent()?;
    let owned = fs::metadata(folder).is_ok_and(|is| is.uid() == identity.uid.as_raw());
    (owned && config.instances.iter().any(virtd_config::Instance::is_ours)).then(|| {
        let (shown, name, group) = (folder.display(), &identity.name, identity.gid);
        format!(
            "shim_socket: {shown} belongs to {name}, and files of root's are there, too: \
             `chown root:{group} {shown}; chmod 1775 {shown}`"
        )
    })
}

/// Makes the folders that there are not, and lets this user write in those that are virtd's own. To be
/// called by root before there is a worker. What is left of [`problems`] then.
///
/// # Errors
/// A folder cannot be made, or given away, in words.
pub fn hand_over(config: &Config, identity: &Identity) -> Result<Vec<String>, String> {
    let all = written_by_worker(config);
    // One that is made for one below it is made all the same.
    let makes: Vec<&Path> = all.keys().map(PathBuf::as_path).filter(|f| !f.exists() && is_roots(existing(f))).collect();
    // Those below others come first: what is below a folder of the worker's is not touched.
    for (folder, keys) in all.iter().rev() {
        let failed = |e: io::Error| format!("{}: {}: {e}", keys.join(", "), folder.display());
        if makes.contains(&folder.as_path()) {
            DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
            open_to_group(folder, identity).map_err(failed)?;
        } else if is_handed_over(folder) {
            open_to_group(folder, identity).map_err(failed)?;
        }
    }
    if let Some(folder) = config.shim_socket.parent().filter(|folder| is_roots(folder)) {
        for name in MASTERS {
            masters(&folder.join(name)).map_err(|e| format!("{}: {e}", folder.join(name).display()))?;
        }
    }
    for (_, file) in files(config) {
        for suffix in SUFFIXES {
            let mut name = file.as_os_str().to_owned();
            name.push(suffix);
            give(Path::new(&name), identity);
        }
    }
    let records = config.recorder.folder.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    for entry in records.take(MAX_RECORDS) {
        if RECORDS.iter().any(|suffix| entry.file_name().to_string_lossy().ends_with(suffix)) {
            give(&entry.path(), identity);
        }
    }
    Ok(problems(config, identity))
}

/// A folder that the worker must not have made.
fn masters(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let is = fs::symlink_metadata(folder)?;
            match is.is_dir() && is.uid() == Uid::effective().as_raw() {
                true => Ok(()),
                false => Err(io::Error::other(format!("it belongs to user {}, not to root: remove it", is.uid()))),
            }
        }
        made => made,
    }
}

/// The longest part of a path that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

/// An existing folder that [`hand_over`] opens to the worker's group.
fn is_handed_over(folder: &Path) -> bool {
    let own = folder.components().any(|part| part.as_os_str() == OWN_NAME);
    own && fs::symlink_metadata(folder).is_ok_and(|is| is.is_dir()) && is_roots(folder)
}

/// Whether nobody but root can have put something else in the place of this folder, or of one above
/// it.
fn is_roots(folder: &Path) -> bool {
    let Ok(whole) = folder.canonicalize() else { return false };
    let me = Uid::effective().as_raw();
    whole.ancestors().all(|part| {
        fs::symlink_metadata(part).is_ok_and(|is| {
            let others = is.mode() & 0o002 != 0 || (is.mode() & 0o020 != 0 && is.gid() != 0);
            (is.uid() == me || is.uid() == 0) && (!others || is.mode() & 0o1000 != 0)
        })
    })
}

fn open_to_group(folder: &Path, identity: &Identity) -> io::Result<()> {
    let folder =
        open(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let is = fstat(&folder)?;
    let mode = (is.st_mode & 0o7777) | SHARED;
    if is.st_gid != identity.gid.as_raw() {
        fchown(&folder, None, Some(identity.gid))?;
    }
    if mode != is.st_mode & 0o7777 {
        fchmod(&folder, Mode::from_bits_truncate(mode))?;
    }
    Ok(())
}

/// Makes a file or socket of root's this user's. One with another name somewhere else may be anything
/// of root's, and is left.
fn give(path: &Path, identity: &Identity) {
    if !path.parent().and_then(Path::parent).is_some_and(is_roots) || written::no_link(path).is_err() {
        return;
    }
    let given = || -> nix::Result<bool> {
        let file: OwnedFd = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let is = fstat(&file)?;
        let ours = matches!(is.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFSOCK)
            && is.st_uid == Uid::effective().as_raw()
            && is.st_nlink == 1;
        if ours {
            fchownat(&file, "", Some(identity.uid), Some(identity.gid), AtFlags::AT_EMPTY_PATH)?;
        }
        Ok(ours)
    };
    match given() {
        Err(nix::Error::ENOENT) | Ok(_) => {}
        Err(e) => log::warn!("{} cannot be given to user {}: {e}", path.display(), identity.name),
    }
}

/// What the thread that calls may do with a file.
///
/// # Errors
/// It may not.
pub(crate) fn access(path: &Path, how: AccessFlags) -> io::Result<()> {
    Ok(faccessat(AT_FDCWD, path, how, AtFlags::AT_EACCESS)?)
}

#[cfg(test)]
#[path = "folders_tests.rs"]
mod tests;
