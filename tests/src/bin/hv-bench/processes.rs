//! What the processes of a namespace have used, out of /proc.

use anyhow::{Context, Result};
use std::fs;
use tests::lab::{Netns, run};

/// Processor time in seconds since the processes' start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// virtd's.
    pub virtd: f64,
    /// Everything else's: the daemons and their helpers.
    pub others: f64,
}

impl Cpu {
    /// What was used since an earlier look.
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu { virtd: self.virtd - before.virtd, others: self.others - before.others }
    }
}

/// Memory of a process in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// VmRSS.
    pub now: f64,
    /// VmHWM.
    pub peak: f64,
}

/// The processes in a namespace: id and name. Those of virtd, of which the worker is the largest,
/// are all called `virtd`.
pub fn of(ns: &Netns) -> Result<Vec<(u32, String)>> {
    let text = run("ip", &["netns", "pids", ns.name()])?;
    let pids = text.split_whitespace().filter_map(|p| p.parse().ok());
    // One may have ended meanwhile.
    Ok(pids
        .filter_map(|p: u32| Some((p, fs::read_to_string(format!("/proc/{p}/comm")).ok()?.trim().to_owned())))
        .map(|(p, name)| (p, if name.starts_with("virtd-") { "virtd".to_owned() } else { name }))
        .collect())
}

/// utime + stime of all threads of all processes there.
pub fn cpu(ns: &Netns) -> Result<Cpu> {
    let mut total = Cpu::default();
    for (pid, name) in of(ns)? {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15, the state
        // after the name is field 3.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: f64 = fields.skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
        // USER_HZ is 100 on every Linux port that runs these daemons.
        *(if name == "virtd" { &mut total.virtd } else { &mut total.others }) += ticks / 100.0;
    }
    Ok(total)
}

/// Memory of the process of that name; of the largest of several.
pub fn memory(ns: &Netns, name: &str) -> Result<Memory> {
    let all = of(ns)?;
    let memories = all.iter().filter(|(_, n)| n == name).filter_map(|(pid, _)| status(*pid));
    memories.max_by(|a, b| a.peak.total_cmp(&b.peak)).with_context(|| format!("no process {name}: {all:?}"))
}

/// VmRSS in KiB of all processes together whose name `wanted` takes. What several share counts for
/// each.
pub fn resident(ns: &Netns, wanted: impl Fn(&str) -> bool) -> Result<f64> {
    let all = of(ns)?;
    Ok(all.iter().filter(|(_, name)| wanted(name)).filter_map(|(pid, _)| status(*pid)).map(|m| m.now).sum())
}

fn status(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok())
    };
    Some(Memory { now: field("VmRSS:")?, peak: field("VmHWM:")? })
}
