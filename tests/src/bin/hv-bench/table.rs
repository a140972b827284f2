//! A whole generated table through the router (1,000,000 prefixes, and a tenth of that): time,
//! processor time and memory beside the daemons alone.

use crate::Arguments;
use crate::figures::{Figures, median};
use crate::places::{Kind, Place};
use crate::processes::{self, Cpu};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::time::Duration;
use tests::daemons::Daemon::{Bird, Frr, OpenBgpd};

/// After the last route arrived and the sessions are gone, the routes are withdrawn; that is part
/// of the processor time.
const AFTER: Duration = Duration::from_secs(1);

/// Whose time with a table is taken.
pub const PLACES: [(&str, Kind); 5] = [
    ("bird", Kind::Alone(Bird)),
    ("frr", Kind::Alone(Frr)),
    ("openbgpd", Kind::Alone(OpenBgpd)),
    ("one", Kind::Virtd(&[Bird], "voted", "continuous-majority")),
    ("three", Kind::Virtd(&[Frr, Bird, OpenBgpd], "voted", "continuous-majority")),
];

/// What each round came to.
struct Runs {
    name: &'static str,
    seconds: Vec<f64>,
    cpu: Vec<Cpu>,
    /// KiB at the peak, less what it takes without any session.
    memory: Vec<f64>,
}

impl Runs {
    /// One round on a router of its own: fresh memory, and no daemon that holds back its sessions
    /// because the last ones ended (OpenBGPD waits twice as long each time).
    fn round(&mut self, kind: &Kind, arguments: &Arguments, prefixes: u32, round: u32) -> Result<()> {
        let place = Place::start(self.name, kind)?;
        let ns = &place.star.router;
        let process = match kind {
            Kind::Virtd(..) | Kind::Fib(..) => "virtd",
            Kind::Alone(Frr | OpenBgpd) => "bgpd",
            Kind::Alone(Bird) | Kind::FibAlone(_) | Kind::HaProxy => "bird",
        };
        let empty = processes::memory(ns, process)?;
        let before = processes::cpu(ns)?;
        let count = prefixes.to_string();
        let result = place.probe(&arguments.raw, &["--table-run", "--count", &count])?;
        std::thread::sleep(AFTER);
        let used = processes::cpu(ns)?.since(before);
        let memory = processes::memory(ns, process)?;
        ensure!(result["lost"] == 0, "routes were lost: {result}");
        let seconds = result["seconds"].as_f64().context("no time in the result")?;
        self.seconds.push(seconds);
        self.cpu.push(used);
        self.memory.push(memory.peak - empty.now);
        println!(
            "table of {prefixes}, round {round}: {}: {seconds:.3} s, processor time virtd {:.2} s, daemons {:.2} s, {process} VmRSS {} KiB, VmHWM {} KiB",
            self.name, used.virtd, used.others, memory.now, memory.peak
        );
        crate::keep(
            &arguments.raw.join("table.jsonl"),
            &json!({
                "prefixes": prefixes, "round": round, "place": self.name, "result": result,
                "cpu_s": { "virtd": used.virtd, "daemons": used.others },
                "memory_kib": { "process": process, "empty_rss": empty.now, "rss": memory.now, "peak": memory.peak },
            }),
        )?;
        place.done();
        Ok(())
    }

    fn time(&self) -> f64 {
        median(self.seconds.iter().copied())
    }

    /// Octets a prefix.
    fn octets(&self, prefixes: u32) -> f64 {
        median(self.memory.iter().copied()) * 1024.0 / f64::from(prefixes)
    }
}

/// Measures and judges.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    fs::write(arguments.raw.join("table.jsonl"), "")?;
    let sizes = [(arguments.prefixes, arguments.table_rounds), (arguments.large, arguments.table_rounds.min(1))];
    for (prefixes, rounds) in sizes.into_iter().filter(|(prefixes, rounds)| *prefixes > 0 && *rounds > 0) {
        let new = |name| Runs { name, seconds: Vec::new(), cpu: Vec::new(), memory: Vec::new() };
        let mut all: Vec<Runs> = PLACES.iter().map(|(name, _)| new(*name)).collect();
        for round in 1..=rounds {
            let mut turns = PLACES.iter().zip(&mut all);
            turns.try_for_each(|((_, kind), runs)| runs.round(kind, arguments, prefixes, round))?;
        }
        judge(&all, prefixes, figures)?;
    }
    Ok(())
}

fn judge(all: &[Runs], prefixes: u32, figures: &mut Figures) -> Result<()> {
    let of = |name: &str| all.iter().find(|r| r.name == name).with_context(|| format!("{name} was not measured"));
    let (bird, one, three) = (of("bird")?, of("one")?, of("three")?);
    for runs in all {
        figures.note(format!("{prefixes} prefixes, {}", runs.name), runs.time(), "s", Some(bird.time()));
    }
    let ratio = one.time() / bird.time();
    let title = format!("P4 {prefixes} prefixes, virtd N=1, to BIRD alone");
    figures.judge(title, (one.time(), "s"), Some(bird.time()), "at most 1.02 x", ratio <= 1.02);
    let mut alone: Vec<f64> = [bird, of("frr")?, of("openbgpd")?].iter().map(|r| r.time()).collect();
    alone.sort_by(f64::total_cmp);
    let second = alone.get(1).copied().unwrap_or(0.0);
    let title = format!("P5 {prefixes} prefixes, virtd N=3, to the second fastest alone");
    figures.judge(title, (three.time(), "s"), Some(second), "at most 1.05 x", three.time() / second <= 1.05);
    for (name, runs) in [("N=1", one), ("N=3", three)] {
        let virtd = median(runs.cpu.iter().map(|c| c.virtd));
        let daemons = median(runs.cpu.iter().map(|c| c.others));
        let title = format!("processor time of virtd {name}, {prefixes} prefixes, to its instances'");
        if name == "N=3" {
            figures.judge(format!("P5 {title}"), (virtd, "s"), Some(daemons), "under 10 %", virtd < 0.1 * daemons);
        } else {
            figures.note(title, virtd, "s", Some(daemons));
        }
    }
    let base = bird.octets(prefixes);
    figures.note(
        format!("memory a prefix of {prefixes}, virtd N=1, to BIRD's alone"),
        one.octets(prefixes),
        "octets",
        Some(base),
    );
    let value = three.octets(prefixes);
    figures.judge(
        format!("P7 memory a prefix of {prefixes}, virtd N=3, to BIRD's alone"),
        (value, "octets"),
        Some(base),
        "no more",
        value <= base,
    );
    Ok(())
}
