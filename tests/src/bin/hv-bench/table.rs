//! A whole generated table through the router (TARGETS P4, P5 and P7 at a tenth of their size): time, processor time, memory.

use crate::Arguments;
use crate::figures::{Figures, median};
use crate::places::{Kind, Place};
use crate::processes::{self, Cpu, Memory};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::time::Duration;
use tests::daemons::Daemon::{Bird, Frr, OpenBgpd};

/// After the last route arrived and the sessions are gone, the routes are withdrawn; that is part of the processor time.
const AFTER: Duration = Duration::from_secs(1);

const PLACES: [(&str, Kind); 5] = [
    ("bird", Kind::Alone(Bird)),
    ("frr", Kind::Alone(Frr)),
    ("openbgpd", Kind::Alone(OpenBgpd)),
    ("one", Kind::Virtd(&[Bird], "voted", "continuous-majority")),
    ("three", Kind::Virtd(&[Frr, Bird, OpenBgpd], "voted", "continuous-majority")),
];

struct Runs {
    place: Place,
    /// Whose memory is looked at.
    process: &'static str,
    /// Before any session.
    empty: Memory,
    seconds: Vec<f64>,
    cpu: Vec<Cpu>,
    /// At the end of the first round, whose table met fresh memory.
    full: Option<Memory>,
}

impl Runs {
    fn start((name, kind): &(&'static str, Kind)) -> Result<Runs> {
        let place = Place::start(name, kind)?;
        let process = match kind {
            Kind::Virtd(..) => "virtd",
            Kind::Alone(Frr) => "bgpd",
            Kind::Alone(Bird) | Kind::HaProxy => "bird",
            Kind::Alone(OpenBgpd) => "bgpd",
        };
        let empty = processes::memory(&place.star.router, process)?;
        Ok(Runs { place, process, empty, seconds: Vec::new(), cpu: Vec::new(), full: None })
    }

    fn round(&mut self, arguments: &Arguments, round: u32) -> Result<()> {
        let ns = &self.place.star.router;
        let before = processes::cpu(ns)?;
        let count = arguments.prefixes.to_string();
        let result = self.place.probe(&arguments.raw, &["--table-run", "--count", &count])?;
        std::thread::sleep(AFTER);
        let used = processes::cpu(ns)?.since(before);
        let memory = processes::memory(ns, self.process)?;
        self.full.get_or_insert(memory);
        ensure!(result["lost"] == 0, "routes were lost: {result}");
        let seconds = result["seconds"].as_f64().context("no time in the result")?;
        self.seconds.push(seconds);
        self.cpu.push(used);
        println!(
            "table, round {round}: {}: {seconds:.3} s, processor time virtd {:.2} s, daemons {:.2} s, {} VmRSS {} KiB, VmHWM {} KiB",
            self.place.name, used.virtd, used.others, self.process, memory.now, memory.peak
        );
        crate::keep(
            &arguments.raw.join("table.jsonl"),
            &json!({
                "round": round, "place": self.place.name, "result": result,
                "cpu_s": { "virtd": used.virtd, "daemons": used.others },
                "memory_kib": { "process": self.process, "empty_rss": self.empty.now, "rss": memory.now, "peak": memory.peak },
            }),
        )
    }

    fn time(&self) -> f64 {
        median(self.seconds.iter().copied())
    }

    /// Octets a prefix in the first round, at the peak, over what it took without any.
    fn octets(&self, prefixes: u32) -> f64 {
        let full = self.full.unwrap_or_default();
        (full.peak - self.empty.now) * 1024.0 / f64::from(prefixes)
    }
}

/// Measures and judges.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    fs::write(arguments.raw.join("table.jsonl"), "")?;
    let mut all = PLACES.iter().map(Runs::start).collect::<Result<Vec<_>>>()?;
    for round in 1..=arguments.table_rounds {
        all.iter_mut().try_for_each(|runs| runs.round(arguments, round))?;
    }
    judge(&all, arguments.prefixes, figures)?;
    all.into_iter().for_each(|runs| runs.place.done());
    Ok(())
}

fn judge(all: &[Runs], prefixes: u32, figures: &mut Figures) -> Result<()> {
    let of = |name: &str| all.iter().find(|r| r.place.name == name).with_context(|| format!("{name} was not measured"));
    let (bird, one, three) = (of("bird")?, of("one")?, of("three")?);
    for runs in all {
        figures.note(format!("{prefixes} prefixes, {}", runs.place.name), runs.time(), "s", Some(bird.time()));
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
        let title = format!("processor time of virtd {name}, to its instances'");
        if name == "N=3" {
            figures.judge(format!("P5 {title}"), (virtd, "s"), Some(daemons), "under 10 %", virtd < 0.1 * daemons);
        } else {
            figures.note(title, virtd, "s", Some(daemons));
        }
    }
    let base = bird.octets(prefixes);
    figures.note("memory a prefix, virtd N=1, to BIRD's alone", one.octets(prefixes), "octets", Some(base));
    let value = three.octets(prefixes);
    figures.judge(
        "P7 memory a prefix, virtd N=3, to BIRD's alone",
        (value, "octets"),
        Some(base),
        "no more",
        value <= base,
    );
    Ok(())
}
