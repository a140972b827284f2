//! How a process ended, as far as it matters for what is blamed for it.
//!
//! SIGKILL comes from somebody outside, or from the kernel where memory is short. The kernel counts
//! the latter before it sends the signal (`oom_kill` in /proc/vmstat, in memory.events of cgroups
//! of version 2, in memory.oom_control of version 1), so a count that has risen tells the two
//! apart.

use broker::io::Death;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A count that has risen for longer than this, or twice this, has nothing to do with a process
/// that ends now. Where memory is short, seconds may pass between the kernel's signal and our
/// hearing of it.
const WINDOW: Duration = Duration::from_secs(10);
/// Groups below virtd's own that are looked at.
const MAX_CHILDREN: usize = 256;

/// What a process died of that nobody here has told to end.
pub(super) fn of(status: Option<&WaitStatus>, memory_was_short: impl FnOnce() -> bool) -> Death {
    match status {
        Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)) if memory_was_short() => Death::OutOfMemory,
        Some(WaitStatus::Signaled(_, Signal::SIGKILL | Signal::SIGTERM, _)) => Death::FromOutside,
        // It was asked to end, and did so in order.
        Some(WaitStatus::Exited(_, 0)) => Death::InOrder,
        Some(WaitStatus::Signaled(..)) => Death::Crash,
        _ => Death::Exit,
    }
}

/// Where the kernel counts, and how far it had come.
#[derive(Debug)]
pub struct Memory {
    proc: PathBuf,
    cgroups: PathBuf,
    /// Counted up to [`WINDOW`] ago, and up to twice that.
    newer: Counts,
    older: Counts,
    since: Instant,
}

/// By file. One that cannot be read has none.
type Counts = BTreeMap<PathBuf, u64>;

impl Memory {
    /// What is counted now is of the past.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Memory {
        Memory::of(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }

    fn of(proc: &Path, cgroups: &Path) -> Memory {
        let (proc, cgroups) = (proc.to_owned(), cgroups.to_owned());
        let counts = counts(&proc, &cgroups);
        Memory { proc, cgroups, newer: counts.clone(), older: counts, since: Instant::now() }
    }

    /// To be called about once a second.
    pub fn tick(&mut self, now: Instant) {
        if now >= self.since + WINDOW {
            self.since = now;
            let fresh = counts(&self.proc, &self.cgroups);
            self.older = std::mem::replace(&mut self.newer, fresh);
        }
    }

    /// Whether the kernel has ended a process for want of memory lately. Not known is no.
    pub fn was_short(&self) -> bool {
        let now = counts(&self.proc, &self.cgroups);
        // A group that was not there before began with 0.
        let before = |path: &PathBuf| self.older.get(path).copied().unwrap_or(0);
        !self.older.is_empty() && now.iter().any(|(path, n)| *n > before(path))
    }
}

fn counts(proc: &Path, cgroups: &Path) -> Counts {
    let mut files = vec![proc.join("vmstat")];
    for (own, file) in own_groups(&fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default()) {
        let own = cgroups.join(own);
        // An instance may have been put into a group of its own.
        let children = fs::read_dir(&own).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir());
        files.extend(children.take(MAX_CHILDREN).map(|child| child.join(file)));
        files.push(own.join(file));
    }
    files
        .into_iter()
        .filter_map(|path| Some((count(&fs::read_to_string(&path).ok()?)?, path)))
        .map(|(n, p)| (p, n))
        .collect()
}

/// The line `oom_kill N`.
fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The groups that /proc/self/cgroup names (cgroups(7)), below the folder where they are mounted,
/// with the file that counts.
fn own_groups(text: &str) -> Vec<(PathBuf, &'static str)> {
    let group = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?.strip_prefix('/')?);
        match controllers {
            "" => Some((PathBuf::from(path), "memory.events")),
            list if list.split(',').any(|c| c == "memory") => {
                Some((Path::new("memory").join(path), "memory.oom_control"))
            }
            _ => None,
        }
    };
    text.lines().filter_map(group).collect()
}

#[cfg(test)]
#[path = "death_tests.rs"]
mod tests;
