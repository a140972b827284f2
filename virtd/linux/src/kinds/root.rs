//! Another root for a process: a folder into which another release's packages were unpacked, its
//! own C library included.
//!
//! The process gets a mount namespace of its own with that folder as `/`, and in it, at their own
//! paths, the few things of this system that it needs, so that configurations, command lines and
//! sockets have one name inside and outside. Nothing of it is seen by anybody else, several
//! processes may use one root, and it all goes away with the last process in it.
//!
//! Why not a helper such as unshare(1) and chroot(8): the child does it itself between fork and
//! exec, so that its number, its command line and its parent are what they would be without a root,
//! and no other program has to be there. What it does is a list of bare system calls, laid out
//! before the fork, since after it nothing may be allocated. And why pivot_root(2) instead of
//! chroot(2): all other mounts of this system can then be let go, or a daemon would keep every one
//! of them from being unmounted; and nsenter(1) with the process's mount namespace alone is inside.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod, umask};
use nix::unistd::{Gid, Uid, chdir, chown, mkdir, pivot_root};
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Folders of this system that every process needs.
const SYSTEM: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Where the system is while something of it is still needed: inside the new root.
const OUTSIDE: &str = "/run/.outside";
/// What mount points are made with; only their owner writes there.
const MODE: u32 = 0o755;

/// Everything that has to be done to be inside, ready to be done without allocating anything.
#[derive(Clone, Debug)]
pub struct Entry {
    steps: Vec<Step>,
}

/// A folder that there is only inside, on a file system in memory or, where it is not in /run or
/// /tmp, in the root itself.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its path inside.
    pub path: PathBuf,
    /// User and group; `None` is root.
    pub owner: Option<(u32, u32)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// A mount namespace of our own, from which nothing gets out.
    Namespace,
    /// An empty folder, if there is none.
    Folder(CString),
    /// An empty file, if there is none.
    File(CString),
    Owner(CString, Uid, Gid),
    Bind {
        from: CString,
        to: CString,
    },
    Memory {
        to: CString,
        options: &'static CStr,
    },
    Pivot {
        root: CString,
        outside: CString,
    },
    /// Lets go of the system.
    Release(CString),
}

/// Which step could not be done, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// For [`Entry::describe`].
    pub step: u16,
    /// Why.
    pub errno: Errno,
}

impl Entry {
    /// Lays out the way into `root`, with `shared` (files, sockets and folders, by absolute paths)
    /// at their own paths inside.
    ///
    /// # Errors
    /// One of the paths is not there.
    pub fn new(root: &Path, shared: &[PathBuf], own: &[Own]) -> io::Result<Entry> {
        // Paths of a mount must not have symbolic links that mean something else inside.
        let root = canonical(root)?;
        if root == Path::new("/") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is the system's own root"));
        }
        let mut plan = Plan { steps: vec![Step::Namespace] };
        plan.bind(&root, &root)?;
        for name in SYSTEM.iter().chain(&["/run", "/tmp"]) {
            plan.steps.push(Step::Folder(c_string(&inside(&root, Path::new(name)))?));
        }
        plan.steps.push(Step::Memory { to: c_string(&inside(&root, Path::new("/run")))?, options: c"mode=755" });
        plan.steps.push(Step::Memory { to: c_string(&inside(&root, Path::new("/tmp")))?, options: c"mode=1777" });
        let outside = c_string(&inside(&root, Path::new(OUTSIDE)))?;
        plan.steps.push(Step::Folder(outside.clone()));
        plan.steps.push(Step::Pivot { root: c_string(&root)?, outside });
        // From here on every path is one inside.
        for name in SYSTEM {
            plan.bind(&inside(Path::new(OUTSIDE), Path::new(name)), Path::new(name))?;
        }
        for Own { path, owner } in own {
            plan.folder(path)?;
            if let Some((uid, gid)) = *owner {
                plan.steps.push(Step::Owner(c_string(path)?, uid.into(), gid.into()));
            }
        }
        let mut shared = shared.to_vec();
        // What is in a shared folder comes after it.
        shared.sort();
        shared.dedup();
        for path in &shared {
            let source = canonical(path)?;
            if source.is_dir() {
                plan.folder(path)?
            } else {
                plan.file(path)?
            }
            plan.bind(&inside(Path::new(OUTSIDE), &source), path)?;
        }
        plan.steps.push(Step::Release(c_string(Path::new(OUTSIDE))?));
        Ok(Entry { steps: plan.steps })
    }

    /// Enters, for good. Makes bare system calls only, so it may stand between fork and exec; other
    /// threads of the process stay outside.
    ///
    /// # Errors
    /// The first step that fails. The process is then somewhere in between, and should end.
    pub fn perform(&self) -> Result<(), Failed> {
        // Whatever virtd's own was: a daemon's user must get through the folders that lead to its
        // sockets.
        let mask = umask(Mode::from_bits_truncate(0o022));
        for (i, step) in self.steps.iter().enumerate() {
            step.perform().map_err(|errno| Failed { step: u16::try_from(i).unwrap_or(u16::MAX), errno })?;
        }
        umask(mask);
        Ok(())
    }

    /// A sentence about what has failed.
    pub fn describe(&self, failed: Failed) -> String {
        let what = self.steps.get(usize::from(failed.step)).map_or_else(|| "entering its root".to_owned(), Step::what);
        format!("{what}: {}", io::Error::from(failed.errno))
    }
}

/// A path inside a root, as it is seen from outside.
pub fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

struct Plan {
    steps: Vec<Step>,
}

impl Plan {
    fn bind(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.steps.push(Step::Bind { from: c_string(from)?, to: c_string(to)? });
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> io::Result<()> {
        let mut way = PathBuf::new();
        for part in path.components() {
            way.push(part);
            if matches!(part, Component::Normal(_)) {
                self.steps.push(Step::Folder(c_string(&way)?));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.folder(path.parent().unwrap_or(Path::new("/")))?;
        self.steps.push(Step::File(c_string(path)?));
        Ok(())
    }
}

impl Step {
    fn perform(&self) -> Result<(), Errno> {
        const NONE: Option<&CStr> = None;
        let there = |done: nix::Result<()>| if done == Err(Errno::EEXIST) { Ok(()) } else { done };
        match self {
            Step::Namespace => {
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(NONE, c"/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
            }
            Step::Folder(path) => there(mkdir(path.as_c_str(), Mode::from_bits_truncate(MODE))),
            Step::File(path) => there(mknod(path.as_c_str(), SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)),
            Step::Owner(path, uid, gid) => chown(path.as_c_str(), Some(*uid), Some(*gid)),
            Step::Bind { from, to } => {
                mount(Some(from.as_c_str()), to.as_c_str(), NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            }
            Step::Memory { to, options } => {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                mount(Some(c"virtd"), to.as_c_str(), Some(c"tmpfs"), flags, Some(*options))
            }
            Step::Pivot { root, outside } => {
                pivot_root(root.as_c_str(), outside.as_c_str())?;
                chdir(c"/")
            }
            Step::Release(outside) => umount2(outside.as_c_str(), MntFlags::MNT_DETACH),
        }
    }

    fn what(&self) -> String {
        let text = |path: &CStr| path.to_string_lossy().into_owned();
        match self {
            Step::Namespace => "making a mount namespace".to_owned(),
            Step::Folder(path) | Step::File(path) => format!("making {} inside", text(path)),
            Step::Owner(path, uid, gid) => format!("giving {} to user {uid} and group {gid}", text(path)),
            Step::Bind { from, to } => {
                format!("mounting {} on {} inside", text(from).trim_start_matches(OUTSIDE), text(to))
            }
            Step::Memory { to, .. } => format!("mounting a tmpfs on {}", text(to)),
            Step::Pivot { root, .. } => format!("making {} the root", text(root)),
            Step::Release(path) => format!("unmounting {}", text(path)),
        }
    }
}

fn canonical(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
