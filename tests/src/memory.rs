//! Too little memory: a cgroup with a limit.

use crate::untested::not_tested;
use anyhow::{Context, Result};
use nix::unistd::Pid;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cgroup with a limit for memory, removed when dropped.
#[derive(Debug)]
pub struct Memory {
    group: PathBuf,
}

impl Memory {
    /// `None` where this machine lets nobody make one; then `what` was not tested.
    pub fn limited_to(octets: u64, what: &str) -> Option<Memory> {
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        let name = format!("hvt-{}-{}-oom", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        for (groups, limit) in versions {
            let memory = Memory { group: Path::new(groups).join(&name) };
            if fs::create_dir(&memory.group).is_ok()
                && OpenOptions::new().write(true).open(memory.group.join(limit)).is_ok()
                && fs::write(memory.group.join(limit), octets.to_string()).is_ok()
            {
                return Some(memory);
            }
        }
        not_tested(what, "no cgroup with a limit for memory can be had");
        None
    }

    /// What this process takes from now on is limited.
    ///
    /// # Errors
    /// It is gone.
    pub fn limits(&self, pid: Pid) -> Result<()> {
        fs::write(self.group.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("limiting the memory of process {pid}"))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.group);
    }
}
