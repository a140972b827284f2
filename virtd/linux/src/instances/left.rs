//! Instances that outlive the virtd that has started them: the master was killed, and they were not
//! asked. The next virtd starts its own, so these are in the way. A file beside the shim's socket
//! says which process groups there are.

use crate::written;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to end what was killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const CHECK: Duration = Duration::from_millis(20);
/// Octets of the file at most: a line for each instance that there can be.
const MAX_RECORD: usize = 64 << 10;

/// The process groups that run, kept in the file as well.
#[derive(Debug)]
pub(super) struct Groups {
    list: Vec<Started>,
    record: PathBuf,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Started {
    group: Pid,
    /// When the leader was started, in the kernel's ticks: with the number it names one process
    /// for as long as the system runs.
    at: u64,
    label: String,
}

/// The file of a virtd that has this socket for shims.
pub(super) fn record_beside(shim_socket: &Path) -> PathBuf {
    beside(shim_socket, "instances")
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

impl Groups {
    /// None yet.
    pub(super) fn new(record: PathBuf) -> Groups {
        Groups { list: Vec::new(), record }
    }

    /// Their leaders.
    pub(super) fn list(&self) -> impl Iterator<Item = Pid> {
        self.list.iter().map(|started| started.group)
    }

    /// One more.
    pub(super) fn started(&mut self, label: &str, group: Pid) {
        let Some(at) = start_of(group) else { return };
        self.list.push(Started { group, at, label: label.to_owned() });
        self.write();
    }

    /// One less.
    pub(super) fn ended(&mut self, group: Pid) {
        self.list.retain(|started| started.group != group);
        self.write();
    }

    fn write(&self) {
        let done = if self.list.is_empty() {
            fs::remove_file(&self.record).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        } else {
            let line = |s: &Started| format!("{} {} {}\n", s.group, s.at, s.label);
            let lines: String = self.list.iter().map(line).collect();
            // The worker, of another user, writes in this folder, too.
            written::replace(&self.record, &beside(&self.record, "new"), lines.as_bytes(), 0o600, false)
        };
        if let Err(e) = done {
            log::warn!("{}: {e}; should virtd be killed, its instances stay", self.record.display());
        }
    }
}

/// Kills what the file names and still runs, and waits until it is gone.
pub(super) fn end(record: &Path) {
    let Some(text) = own_record(record) else { return };
    let left: Vec<Started> = text.lines().filter_map(line).filter(|s| start_of(s.group) == Some(s.at)).collect();
    for Started { group, label, .. } in &left {
        log::warn!("{label} (process {group}) is left from an earlier virtd and is killed");
        // It may have ended meanwhile.
        let _ = killpg(*group, Signal::SIGKILL);
    }
    let until = Instant::now() + PATIENCE;
    while left.iter().any(|s| start_of(s.group) == Some(s.at)) && Instant::now() < until {
        std::thread::sleep(CHECK);
    }
    let _ = fs::remove_file(record);
}

/// What the file says, if it is one of this user's: anybody else could name whom he wants ended.
fn own_record(record: &Path) -> Option<String> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(record).ok()?;
    let is = file.metadata().ok()?;
    if !is.is_file() || is.uid() != Uid::effective().as_raw() {
        log::warn!("{} is not this user's own and is not believed", record.display());
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_RECORD as u64).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn line(line: &str) -> Option<Started> {
    let mut words = line.splitn(3, ' ');
    let group = words.next()?.parse().ok().filter(|pid| *pid > 1)?;
    Some(Started { group: Pid::from_raw(group), at: words.next()?.parse().ok()?, label: words.next()?.to_owned() })
}

/// When a process was started (/proc/PID/stat, field 22); `None` where it is no more, or a zombie.
fn start_of(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn what_the_file_names_is_ended_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let record = record_beside(&dir.path().join("hv"));
        let spawn = || Command::new("sleep").arg("99").process_group(0).spawn().unwrap();
        let (mut left, mut other) = (spawn(), spawn());
        let pid = |child: &std::process::Child| Pid::from_raw(child.id() as i32);
        let mut groups = Groups::new(record.clone());
        groups.started("frr", pid(&left));
        groups.started("bird", pid(&other));
        // A process of the same number that began at another time.
        let text = fs::read_to_string(&record).unwrap();
        let later = format!("{} {} bird", pid(&other), start_of(pid(&other)).unwrap());
        fs::write(&record, text.replace(&later, &format!("{} 1 bird", pid(&other)))).unwrap();
        end(&record);
        assert!(!left.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none() && !record.exists());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
