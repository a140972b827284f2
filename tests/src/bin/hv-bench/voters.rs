//! What two more voters cost: processor time and memory of virtd and of all daemons with five
//! voters against three, over a real table and a real trace. The two take turns, each time afresh,
//! so that drift of the machine falls on both alike.

use crate::Arguments;
use crate::figures::{Figures, median};
use crate::processes::{self, Cpu};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};
use tests::daemons::Daemon::{self, Bird, Frr, OpenBgpd};
use tests::lab::{Lab, Site, data_file, wait_until};
use tests::replayer::Replayer;
use tests::router::moving;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(300);
/// Longer than T (3 s), so that each prefix has been looked at again.
const QUIET: Duration = Duration::from_secs(4);

/// 2010, IPv4: what one vantage point of a route collector had.
const TABLE: (&str, &str) = ("bview.20100701.0759.TEXT.bgp.gz", "4777");
/// What 76 vantage points said in 2019, as one neighbour's.
const TRACE: &str = "updates.20190101.0000.gz";
/// In the place of the trace where there is none: routes of another neighbour for some of the same
/// prefixes.
const MADE_UP: u32 = 20_000;

const THREE: [Daemon; 3] = [Frr, Bird, OpenBgpd];
const FIVE: [Daemon; 5] = [Frr, Bird, OpenBgpd, Bird, Frr];

/// What one phase of one round took.
#[derive(Clone, Copy, Debug)]
struct Phase {
    /// From the first octet until the router was at rest, the time of waiting for that left out.
    seconds: f64,
    cpu: Cpu,
    /// virtd's VmRSS, KiB.
    virtd: f64,
    /// All daemons' and their helpers' VmRSS together, KiB.
    daemons: f64,
}

/// One router's rounds.
struct Runs {
    name: &'static str,
    daemons: Vec<Daemon>,
    table: Vec<Phase>,
    trace: Vec<Phase>,
    /// Octets a route that virtd's VmRSS has grown by with the table.
    route: Vec<f64>,
    routes: u64,
}

/// Plays the table and the trace to each router in turn, and compares.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    fs::write(arguments.raw.join("voters.jsonl"), "")?;
    let new = |name, daemons: &[Daemon]| {
        let daemons = daemons.to_vec();
        Runs { name, daemons, table: Vec::new(), trace: Vec::new(), route: Vec::new(), routes: 0 }
    };
    let mut both = [new("three", &THREE), new("five", &FIVE)];
    for round in 1..=arguments.voter_rounds {
        both.iter_mut().try_for_each(|runs| runs.round(arguments, round))?;
    }
    let [three, five] = &both;
    if !three.table.is_empty() {
        tell(three, five, figures);
    }
    Ok(())
}

impl Runs {
    fn round(&mut self, arguments: &Arguments, round: u32) -> Result<()> {
        let mut lab = Lab::new(&format!("bench-{}", self.name))?;
        let star = lab.star(3)?;
        let router = Router::start(&lab, &star, &Options { daemons: self.daemons.clone(), ..Options::default() })?;
        let [table_at, trace_at, monitor_at] = star.sites.as_slice() else { anyhow::bail!("no sites") };
        let mut monitor = Replayer::dial(&lab, monitor_at, false, &["--monitor"])?;
        monitor.wait_event("session-up", UP)?;
        router.wait_voting(UP)?;
        let empty = processes::memory(router.ns(), "virtd")?;

        let limit = arguments.voter_prefixes.to_string();
        let made_up = ["--generate", limit.as_str()];
        let (mut table, phase) =
            play(&lab, &router, table_at, TABLE.0, &["--peer-filter", TABLE.1, "--limit", &limit], &made_up)?;
        self.routes = router.prefixes_out(&monitor_at.v4.to_string())?;
        ensure!(self.routes > 0, "no routes came through");
        self.route.push((phase.virtd - empty.now) * 1024.0 / self.routes as f64);
        self.note(arguments, round, "table", phase)?;
        self.table.push(phase);

        let count = MADE_UP.to_string();
        let (mut trace, phase) = play(&lab, &router, trace_at, TRACE, &[], &["--generate", &count])?;
        self.note(arguments, round, "trace", phase)?;
        self.trace.push(phase);
        for feed in [&mut table, &mut trace, &mut monitor] {
            feed.finish()?.check_quiet()?;
        }
        drop(router);
        lab.passed();
        Ok(())
    }

    fn note(&self, arguments: &Arguments, round: u32, what: &str, p: Phase) -> Result<()> {
        println!(
            "voters, round {round}: {}, {what}: {:.1} s, processor time virtd {:.2} s, daemons {:.2} s, VmRSS virtd {:.0} KiB, daemons {:.0} KiB",
            self.name, p.seconds, p.cpu.virtd, p.cpu.others, p.virtd, p.daemons
        );
        crate::keep(
            &arguments.raw.join("voters.jsonl"),
            &json!({
                "round": round, "voters": self.name, "what": what, "routes": self.routes, "seconds": p.seconds,
                "cpu_s": { "virtd": p.cpu.virtd, "daemons": p.cpu.others }, "rss_kib": { "virtd": p.virtd, "daemons": p.daemons },
            }),
        )
    }
}

/// A neighbour says all of a file, as fast as it is taken (or something made up where there is no
/// such file), and stays; what that took until everybody was at rest again.
fn play(
    lab: &Lab,
    router: &Router,
    site: &Site,
    file: &str,
    more: &[&str],
    made_up: &[&str],
) -> Result<(Replayer, Phase)> {
    let path = data_file(file).map(|f| f.display().to_string());
    let options: Vec<&str> = match &path {
        Some(path) => ["--mrt", path.as_str(), "--replace-first-as"].iter().chain(more).copied().collect(),
        None => made_up.to_vec(),
    };
    let (before, start) = (processes::cpu(router.ns())?, Instant::now());
    let mut feed = Replayer::dial(lab, site, false, &options)?;
    feed.wait_event("feed-done", PATIENCE)?;
    let seconds = rest(router, start)?;
    let cpu = processes::cpu(router.ns())?.since(before);
    let virtd = processes::memory(router.ns(), "virtd")?.now;
    let daemons = processes::resident(router.ns(), |name| name != "virtd")?;
    Ok((feed, Phase { seconds, cpu, virtd, daemons }))
}

/// Waits until nothing has moved for [`QUIET`]; how long after `start` the last thing did. Asked
/// twice a second: virtctl's questions are work, too.
fn rest(router: &Router, start: Instant) -> Result<f64> {
    let mut last = (None, Instant::now());
    wait_until("the router to come to rest", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(500));
        let status = router.status().map_err(|e| format!("{e:#}"))?;
        let moving = Some(moving(&status));
        if moving != last.0 {
            last = (moving, Instant::now());
        }
        if last.1.elapsed() >= QUIET { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .context("after a table or a trace")?;
    Ok(last.1.duration_since(start).as_secs_f64())
}

fn tell(three: &Runs, five: &Runs, figures: &mut Figures) {
    let routes = three.routes;
    let mut pair =
        |title: String, unit, of: &dyn Fn(&Runs) -> f64| figures.note(title, of(five), unit, Some(of(three)));
    type Rounds = fn(&Runs) -> &[Phase];
    let phases: [(String, Rounds); 2] = [
        (format!("table of {routes}"), |runs| &runs.table),
        (format!("trace over {routes} routes"), |runs| &runs.trace),
    ];
    type Value = fn(&Phase) -> f64;
    let values: [(&str, &str, Value); 5] = [
        ("processor time of virtd", "s", |p| p.cpu.virtd),
        ("processor time of the daemons", "s", |p| p.cpu.others),
        ("VmRSS of virtd", "MiB", |p| p.virtd / 1024.0),
        ("VmRSS of the daemons", "MiB", |p| p.daemons / 1024.0),
        ("time until rest", "s", |p| p.seconds),
    ];
    for (what, rounds) in &phases {
        for (name, unit, value) in values {
            pair(format!("five voters to three, {what}: {name}"), unit, &|runs| median(rounds(runs).iter().map(value)));
        }
    }
    pair(format!("five voters to three, table of {routes}: virtd's memory a route"), "octets", &|runs| {
        median(runs.route.iter().copied())
    });
    for runs in [three, five] {
        let cpu = |of: Value| median(runs.table.iter().map(of));
        figures.note(
            format!("{} voters, table of {routes}: processor time of virtd to its instances'", runs.name),
            cpu(|p| p.cpu.virtd),
            "s",
            Some(cpu(|p| p.cpu.others)),
        );
    }
}
