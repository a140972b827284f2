//! A route server (RFC 7947) with hundreds of neighbours: how long it takes until everybody has the
//! routes of all others, and what it costs; then, if asked for, what the neighbours see when an
//! instance dies.

use crate::Arguments;
use crate::figures::Figures;
use crate::places::Kind;
use crate::processes::{self, Cpu, Memory};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fmt;
use std::fs;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tests::daemons::Daemon::{self, Bird, Frr, OpenBgpd};
use tests::daemons::{Attach, Instance};
use tests::exchange::Exchange;
use tests::lab::{Lab, Netns};
use tests::router::{Options, Router};

/// What may be asked for with `--exchange-places`; the first is the reference. Where three vote,
/// BIRD is the master.
pub const PLACES: [(&str, Kind); 6] = [
    ("bird", Kind::Alone(Bird)),
    ("openbgpd", Kind::Alone(OpenBgpd)),
    ("frr", Kind::Alone(Frr)),
    ("virtd-bird", Kind::Virtd(&[Bird], "voted", "master-slave")),
    ("virtd-three", Kind::Virtd(&THREE, "voted", "master-slave")),
    ("virtd-three-consensus", Kind::Virtd(&THREE, "voted", "wait-for-consensus")),
];
const THREE: [Daemon; 3] = [Bird, Frr, OpenBgpd];
/// Until a killed instance is missed, and until it votes again.
const PATIENCE: Duration = Duration::from_secs(180);

/// After the last route, until nothing is looked at any more.
const SETTLES: Duration = Duration::from_secs(15);

/// How many neighbours, and how many routes each of them has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    neighbours: u32,
    routes: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || format!("{text:?}: expected neighbours x routes, such as 100x50");
        let (neighbours, routes) = text.split_once('x').ok_or_else(wrong)?;
        match (neighbours.parse(), routes.parse()) {
            (Ok(neighbours @ 2..), Ok(routes)) => Ok(Size { neighbours, routes }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.neighbours, self.routes)
    }
}

/// What one exchange at one place took.
#[derive(Debug)]
struct Outcome {
    /// What the neighbours say.
    report: Value,
    cpu: Cpu,
    virtd: Option<Memory>,
    /// All daemons' and their helpers' VmRSS together, KiB.
    daemons: f64,
    /// Processor time at rest, and for how many seconds that was.
    rest: Option<(Cpu, f64)>,
    /// `virtctl status`.
    status: Option<Value>,
    /// A killed instance's time from its start until it voted again.
    voting_s: Option<f64>,
}

/// Plays each exchange to each place. One that does not complete is a figure, too.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let raw = arguments.raw.join("exchange.jsonl");
    fs::write(&raw, "")?;
    for size in &arguments.exchange {
        let mut reference = None;
        for (name, kind) in PLACES.iter().filter(|(name, _)| arguments.exchange_places.iter().any(|p| p == name)) {
            match play(arguments, *size, kind) {
                Ok(outcome) => {
                    crate::keep(&raw, &outcome.raw(*size, name))?;
                    outcome.tell(*size, name, reference.as_ref(), figures);
                    if *name == "bird" {
                        reference = Some(outcome);
                    }
                }
                Err(e) => {
                    println!("exchange {size}, {name}: did not complete: {e:#}");
                    let why = format!("{e:#}");
                    crate::keep(&raw, &json!({ "size": size.to_string(), "place": name, "error": why }))?;
                    figures.note(format!("exchange {size}, {name}: neighbours complete"), 0.0, "", None);
                }
            }
        }
    }
    Ok(())
}

fn play(arguments: &Arguments, size: Size, kind: &Kind) -> Result<Outcome> {
    let mut lab = Lab::new("bench-exchange")?;
    let exchange = Exchange::new(&mut lab, size.neighbours)?;
    let ns = exchange.star.router.clone();
    let mut options = Options { peers: exchange.peers(), ..Options::default() };
    let (mut router, mut alone) = (None, None);
    match kind {
        Kind::Alone(daemon) => {
            let spec = options.spec(&[]);
            alone = Some(Instance::start(&lab, &ns, *daemon, daemon.name(), &spec, &Attach::Native)?);
        }
        Kind::Virtd(daemons, open, strategy) => {
            (options.daemons, options.open, options.strategy) = (daemons.to_vec(), open, strategy);
            router = Some(Router::start(&lab, &exchange.star, &options)?);
        }
        _ => bail!("no route server"),
    }
    let before = processes::cpu(&ns)?;
    let mut players = exchange.play(&lab, size.routes, Duration::from_secs(arguments.exchange_timeout))?;
    let complete = players.filled()?;
    let cpu = processes::cpu(&ns)?.since(before);
    let virtd = router.as_ref().map(|_| processes::memory(&ns, "virtd")).transpose()?;
    let daemons = processes::resident(&ns, |name| name != "virtd")?;
    let rest = if complete && arguments.exchange_rest > 0 { Some(rest(&ns, arguments.exchange_rest)?) } else { None };
    let status = router.as_ref().and_then(|router| router.ctl(&["status"]).ok());
    let mut voting_s = None;
    // A sole instance's death is the end of its sessions.
    let kill_one = arguments.exchange_kill && complete;
    if let Some(router) = router.as_mut().filter(|router| kill_one && router.instances.len() > 1) {
        voting_s = Some(kill(&lab, router)?);
    }
    let report = players.finish()?;
    drop((players, alone, router));
    lab.passed();
    Ok(Outcome { report, cpu, virtd, daemons, rest, status, voting_s })
}

/// Processor time while nothing is said but KEEPALIVEs.
fn rest(ns: &Netns, seconds: u64) -> Result<(Cpu, f64)> {
    std::thread::sleep(SETTLES);
    let (start, before) = (Instant::now(), processes::cpu(ns)?);
    std::thread::sleep(Duration::from_secs(seconds));
    Ok((processes::cpu(ns)?.since(before), start.elapsed().as_secs_f64()))
}

/// BIRD dies and is started again; the seconds from its start until it votes.
fn kill(lab: &Lab, router: &mut Router) -> Result<f64> {
    router.wait_voting(PATIENCE)?;
    router.instance("bird")?.crash();
    router.wait_state("bird", "absent", PATIENCE)?;
    let start = Instant::now();
    router.instance("bird")?.launch(lab).context("starting BIRD again")?;
    router.wait_state("bird", "voting", PATIENCE)?;
    Ok(start.elapsed().as_secs_f64())
}

impl Outcome {
    fn raw(&self, size: Size, name: &str) -> Value {
        json!({
            "size": size.to_string(), "place": name, "report": self.report,
            "cpu_s": { "virtd": self.cpu.virtd, "daemons": self.cpu.others },
            "virtd_kib": self.virtd.map(|m| json!({ "rss": m.now, "hwm": m.peak })), "daemons_rss_kib": self.daemons,
            "status": self.status, "voting_s": self.voting_s,
            "rest": self.rest.map(|(cpu, s)| json!({ "virtd_s": cpu.virtd, "daemons_s": cpu.others, "seconds": s })),
        })
    }

    fn seconds(&self, key: &str) -> Option<f64> {
        self.report[key].as_f64()
    }

    /// The longest turn of virtd's loop, by whatever name and unit `virtctl status` gives it.
    fn longest_turn(&self) -> Option<String> {
        let status = self.status.as_ref()?.as_object()?;
        status.iter().find(|(key, _)| key.starts_with("longest_turn")).map(|(key, value)| format!(", {key} {value}"))
    }

    /// `None` as the reference: this is it.
    fn tell(&self, size: Size, name: &str, reference: Option<&Outcome>, figures: &mut Figures) {
        let seconds = |key| self.seconds(key).map_or("never".to_owned(), |s| format!("{s:.2} s"));
        let r = &self.report;
        println!(
            "exchange {size}, {name}: all sessions up {}, 99 % there {}, all there {} ({} neighbours complete, {} sessions lost, \
             {} withdrawals, longest silence {:.1} s); processor time virtd {:.2} s, daemons {:.2} s; VmRSS virtd {:.1} MiB, \
             daemons {:.1} MiB{}",
            seconds("all_up_s"),
            seconds("complete_99_s"),
            seconds("complete_s"),
            r["neighbours_complete"],
            r["filling"]["sessions_lost"],
            r["filling"]["withdrawals"],
            r["filling"]["longest_silence_s"].as_f64().unwrap_or_default(),
            self.cpu.virtd,
            self.cpu.others,
            self.virtd.map_or(0.0, |m| m.now) / 1024.0,
            self.daemons / 1024.0,
            self.longest_turn().unwrap_or_default(),
        );
        let title = |what: &str| format!("exchange {size}, {name}: {what}");
        for (what, key) in [("99 % there", "complete_99_s"), ("all there", "complete_s")] {
            match self.seconds(key) {
                Some(s) => figures.note(title(what), s, "s", reference.and_then(|r| r.seconds(key))),
                None if key == "complete_s" => {
                    let complete = r["neighbours_complete"].as_f64().unwrap_or_default();
                    figures.note(title("neighbours complete"), complete, "", Some(size.neighbours.into()));
                }
                None => {}
            }
        }
        match self.virtd {
            Some(memory) => {
                figures.note(title("processor time, virtd to daemons"), self.cpu.virtd, "s", Some(self.cpu.others));
                let alone = reference.map(|r| r.daemons / 1024.0);
                figures.note(title("VmRSS of virtd, to BIRD alone"), memory.now / 1024.0, "MiB", alone);
                figures.note(title("VmHWM of virtd"), memory.peak / 1024.0, "MiB", None);
            }
            None => {
                figures.note(title("processor time"), self.cpu.others, "s", reference.map(|r| r.cpu.others));
                figures.note(title("VmRSS"), self.daemons / 1024.0, "MiB", reference.map(|r| r.daemons / 1024.0));
            }
        }
        if let Some((cpu, seconds)) = self.rest {
            let percent = |used: f64| 100.0 * used / seconds;
            figures.note(title("processor at rest, daemons"), percent(cpu.others), "%", None);
            if self.virtd.is_some() {
                figures.note(title("processor at rest, virtd"), percent(cpu.virtd), "%", None);
            }
        }
        if let (Some(voting), stay) = (self.voting_s, &r["stay"]) {
            println!(
                "exchange {size}, {name}: BIRD killed, votes again {voting:.2} s after its start; meanwhile {} sessions lost, {} \
                 withdrawals, {} announcements, longest silence {:.1} s (KEEPALIVE every {} s)",
                stay["sessions_lost"],
                stay["withdrawals"],
                stay["announcements"],
                stay["longest_silence_s"].as_f64().unwrap_or_default(),
                r["keepalive_s"],
            );
            let heard = |key: &str| stay[key].as_f64().unwrap_or_default();
            figures.note(title("BIRD votes again"), voting, "s", None);
            figures.note(title("sessions lost by the kill"), heard("sessions_lost"), "", None);
            figures.note(title("withdrawals by the kill"), heard("withdrawals"), "", None);
        }
    }
}
