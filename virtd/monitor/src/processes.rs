//! Processor time and memory of virtd's own processes, as far as /proc shows them to anybody.

use std::fs;
use std::path::Path;

/// USER_HZ, in which the kernel tells processor time to programs: 100 on all machines that virtd is
/// built for.
const TICKS: f64 = 100.0;
/// Octets of a page: 4096 on x86-64, and on most of aarch64.
const PAGE: u64 = 4096;

/// A process of virtd's.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// `worker`, `master`.
    pub name: &'static str,
    /// Processor time, user and system, seconds.
    pub cpu_s: f64,
    /// Resident memory, octets.
    pub resident: u64,
}

/// The worker and its master; those that cannot be seen are left out.
pub fn of(worker: u32) -> Vec<Process> {
    let mut found = Vec::new();
    let Some((process, parent)) = read(Path::new("/proc"), worker, "worker") else { return found };
    found.push(process);
    // One that has lost its master is another's child.
    found.extend(read(Path::new("/proc"), parent, "master").map(|(process, _)| process));
    found
}

/// One process, and its parent's id. None where it is not virtd's: in another PID namespace the
/// number is somebody else's.
fn read(proc: &Path, pid: u32, name: &'static str) -> Option<(Process, u32)> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    parse(&text, name)
}

/// proc(5), `/proc/pid/stat`. The name in parentheses may have blanks and parentheses in it.
fn parse(text: &str, name: &'static str) -> Option<(Process, u32)> {
    let (before, after) = text.rsplit_once(") ")?;
    let (_, comm) = before.split_once('(')?;
    // `virtd-worker`, `virtd-twin`, and the master as its file is called.
    if comm != "virtd" && !comm.starts_with("virtd-") {
        return None;
    }
    let fields: Vec<&str> = after.split(' ').collect();
    let number = |at: usize| fields.get(at)?.trim().parse::<u64>().ok();
    // Fields 4, 14, 15 and 24, counted from 1; the first here is field 3.
    let (parent, user, system, pages) = (number(1)?, number(11)?, number(12)?, number(21)?);
    let cpu_s = (user + system) as f64 / TICKS;
    Some((Process { name, cpu_s, resident: pages * PAGE }, u32::try_from(parent).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc() {
        let rest = "S 77 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 4242 9999 2560 18446744073709551615";
        let process = Process { name: "worker", cpu_s: 2.0, resident: 2560 * 4096 };
        assert_eq!(parse(&format!("88 (virtd-worker) {rest}\n"), "worker"), Some((process, 77)));
        assert_eq!(parse(&format!("88 (bgpd) {rest}\n"), "worker"), None);
        assert_eq!(parse(&format!("88 (x) (virtd) {rest}\n"), "worker"), None);
        assert_eq!(parse("88 (virtd) S 77\n", "worker"), None);
    }
}
