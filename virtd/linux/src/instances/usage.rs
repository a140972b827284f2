//! What the processes of each instance use, out of /proc (proc(5)).

use nix::unistd::{Pid, SysconfVar, sysconf};
use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::time::Instant;

/// What one instance uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Used {
    /// Thousandths of one processor since the last look.
    pub(super) cpu_permille: u32,
    /// Resident memory, KiB.
    pub(super) rss_kib: u64,
}

/// Ticks so far and pages now, of a whole process group.
#[derive(Clone, Copy, Default)]
struct Group {
    ticks: u64,
    pages: u64,
}

/// Remembers the last look.
#[derive(Default)]
pub(super) struct Meter {
    before: HashMap<Pid, u64>,
    at: Option<Instant>,
}

impl Meter {
    /// Looks at these process groups. The first look at a group tells its memory only.
    pub(super) fn measure(&mut self, groups: impl Iterator<Item = (usize, Pid)>) -> Vec<(usize, Used)> {
        let mut groups = groups.peekable();
        if groups.peek().is_none() {
            // Nothing was started here, so there is nothing to look for among all processes of the
            // machine; and a pid may be another's by the next look.
            *self = Meter::default();
            return Vec::new();
        }
        let now = Instant::now();
        let all = by_group();
        let seconds = self.at.replace(now).map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        let per_second = setting(SysconfVar::CLK_TCK, 100) as f64;
        let page_kib = setting(SysconfVar::PAGE_SIZE, 4096) / 1024;
        let mut used = Vec::new();
        let mut seen = HashMap::new();
        for (i, pid) in groups {
            let Group { ticks, pages } = all.get(&pid).copied().unwrap_or_default();
            let since = self.before.get(&pid).map_or(0, |before| ticks.saturating_sub(*before));
            seen.insert(pid, ticks);
            let cpu = if seconds > 0.0 { since as f64 / per_second / seconds * 1000.0 } else { 0.0 };
            used.push((i, Used { cpu_permille: cpu as u32, rss_kib: pages * page_kib }));
        }
        self.before = seen;
        used
    }
}

fn setting(name: SysconfVar, otherwise: u64) -> u64 {
    sysconf(name).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(otherwise)
}

fn by_group() -> HashMap<Pid, Group> {
    let mut all: HashMap<Pid, Group> = HashMap::new();
    // The kernel gives it whole in one read; a name takes 64 octets, and each of 50 numbers 21 at
    // most.
    let mut stat = [0; 2048];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let is_process = entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let read = |stat: &mut [u8]| fs::File::open(entry.path().join("stat")).ok()?.read(stat).ok();
        let Some(n) = is_process.then(|| read(&mut stat)).flatten() else { continue };
        if let Some((pid, ticks, pages)) = parse(&String::from_utf8_lossy(stat.get(..n).unwrap_or_default())) {
            let group = all.entry(pid).or_default();
            group.ticks += ticks;
            group.pages += pages;
        }
    }
    all
}

/// `pid (name) state ppid pgrp … utime stime … rss`: fields 5, 14, 15 and 24, of which the name may
/// hold anything.
fn parse(stat: &str) -> Option<(Pid, u64, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let group = Pid::from_raw(i32::try_from(number(5)?).ok()?);
    Some((group, number(14)? + number(15)?, number(24)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_group_uses_memory_and_time() {
        let group = nix::unistd::getpgrp();
        let mut meter = Meter::default();
        assert!(meter.measure([(3, group)].into_iter()).first().is_some_and(|(i, u)| *i == 3 && u.rss_kib > 100));
        let start = Instant::now();
        let mut n = 0u64;
        while start.elapsed().as_millis() < 300 {
            n = std::hint::black_box(n + 1);
        }
        let used = meter.measure([(3, group)].into_iter());
        assert!(used.first().is_some_and(|(_, u)| u.cpu_permille > 50), "{used:?}");
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "12 (a) b) S 1 77 77 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 100 1000 55 18446744073709551615";
        assert_eq!(parse(stat), Some((Pid::from_raw(77), 42, 55)));
        assert_eq!(parse("12 (a) S 1"), None);
    }
}
