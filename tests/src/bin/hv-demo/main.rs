//! `make demo`: one BGP router made of FRR, BIRD and OpenBGPD, in network namespaces. Two neighbours play a table, a third one
//! watches; a daemon lies, another is killed, and dies once more of a published bug of its own; and the neighbours are asked at the end
//! what they noticed.
#![forbid(unsafe_code)]

mod bug;
mod judge;

use anyhow::{Context, Result};
use clap::Parser;
use judge::Verdict;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tests::daemons::{Attach, Daemon, Instance, Lie};
use tests::lab::{FIRST_ASN, Lab, Site, Star, clean_up_on_signal, wait_for};
use tests::replayer::{Outcome, Replayer};
use tests::router::{Options, Router};
use wire::bgp::Prefix;

/// Sessions come up within this.
const UP: Duration = Duration::from_secs(30);
/// A full table goes through the slowest daemon within this, twice over.
const SETTLE: Duration = Duration::from_secs(240);
/// Nothing moved for this long: at rest. Longer than FRR's coalescing.
const QUIET: Duration = Duration::from_secs(4);
/// How long a fault is left alone, for it to leak if it can.
const FAULT: Duration = Duration::from_secs(5);
/// T for a real table: FRR lags behind while two other daemons want the processors too.
const T_REAL_MS: u32 = 10_000;
/// A lie is seen after T.
const SEEN: Duration = Duration::from_secs(90);
/// Routes that the first neighbour makes up without `--mrt`.
const GENERATED: &str = "5000";
/// The second one says the same routes and some more: on most prefixes the daemons have to choose.
const GENERATED_MORE: &str = "8000";

/// Shows one BGP router made of three daemons, and what its neighbours notice when a daemon lies or dies
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Play this MRT file (RIB dump or updates) instead of a made-up table
    #[arg(long, value_name = "FILE")]
    mrt: Option<PathBuf>,
}

fn main() -> ExitCode {
    let start = Instant::now();
    let arguments = Arguments::parse();
    let demo = clean_up_on_signal().and_then(|()| Demo::new(start, arguments.mrt.is_some()));
    match demo.and_then(|demo| demo.run(&arguments)) {
        Ok(verdict) => {
            println!("{}", verdict.json(start.elapsed()));
            if verdict.masked() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("hv-demo: {e:#}");
            ExitCode::from(2)
        }
    }
}

struct Demo {
    start: Instant,
    lab: Lab,
    /// T, and how long nothing must move for the router to be at rest: what disagrees after T has shown itself by then.
    t_ms: u32,
    rest: Duration,
}

/// Three hv-replays: the one that watches, and two that announce.
struct Neighbours(Vec<Replayer>);

impl Neighbours {
    fn start(lab: &Lab, sites: &[Site], announce: &[Vec<String>]) -> Result<Neighbours> {
        let (watcher, players) = sites.split_last().context("a star without neighbours")?;
        let mut all = vec![Replayer::dial(lab, watcher, false, &["--monitor", "--events-updates"])?];
        all[0].wait_event("session-up", UP)?;
        for (site, arguments) in players.iter().zip(announce) {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            all.push(Replayer::dial(lab, site, false, &arguments)?);
        }
        all.iter_mut().try_for_each(|n| n.wait_event("feed-done", SETTLE))?;
        Ok(Neighbours(all))
    }

    /// UPDATEs that the watching one has received so far.
    fn told(&self) -> usize {
        self.0[0].count("update")
    }

    fn finish(mut self) -> Result<Vec<Outcome>> {
        Replayer::finish_together(&mut self.0)
    }
}

impl Demo {
    fn new(start: Instant, real: bool) -> Result<Demo> {
        let t_ms = if real { T_REAL_MS } else { Options::default().t_ms };
        let rest = Duration::from_millis(t_ms.into()) + Duration::from_secs(1);
        Ok(Demo { start, lab: Lab::new("demo")?, t_ms, rest })
    }

    fn say(&self, text: &str) {
        println!("\n[{:5.1} s] {text}", self.start.elapsed().as_secs_f32());
    }

    fn run(mut self, arguments: &Arguments) -> Result<Verdict> {
        let announce = what_to_announce(arguments)?;
        let expected = self.reference(&announce)?;

        self.say(
            "The router: virtd, and FRR, BIRD and OpenBGPD as Debian ships them, each with LD_PRELOAD=libhvlibc.so",
        );
        // Three neighbours as before, and one that comes at the end with an UPDATE of its own. What is malformed reaches the daemons here:
        // by default virtd would not let it.
        let star = self.lab.star(4)?;
        let options = Options { t_ms: self.t_ms, inbound: "opaque", ..Options::default() };
        let mut router = Router::start(&self.lab, &star, &options)?;
        let neighbours = Neighbours::start(&self.lab, star.sites.get(..3).unwrap_or_default(), &announce)?;
        router.wait_voting(UP)?;
        let before = router.wait_quiet(self.rest, SETTLE)?;
        self.say("Two neighbours have played their tables, a third one watches. What virtctl says:");
        self.show(&router, &["sessions"])?;
        self.show(&router, &["instances"])?;
        if before > 0 {
            println!(
                "{before} routes of this table are told differently by one daemon: docs/EQUIVALENCE.md says which and why"
            );
        }
        let calm = neighbours.told();

        let prefix = judge::some_prefix(&expected).context("the reference learned no route")?;
        self.lie(&mut router, prefix, before)?;
        self.kill(&mut router)?;
        let mut bug = self.bug(&star, &mut router)?;

        self.say("What did the neighbours notice?");
        let told = neighbours.told() - calm;
        let (votes, instances) = (router.status("votes")?, router.instances.len());
        let outcomes = neighbours.finish()?;
        let sender_kept = bug.sender.finish()?.check_quiet().inspect_err(|e| println!("          {e:#}")).is_ok();
        let verdict = Verdict::new(&expected, &outcomes, (bug.real, sender_kept), told, votes, instances)?;
        print!("{}", verdict.text());
        drop(router);
        if verdict.masked() {
            self.lab.passed();
        }
        Ok(verdict)
    }

    /// What the same neighbours learn from each daemon alone, without us; where these differ, from most of them. This is the
    /// measure of lost and wrong. One table for each neighbour.
    fn reference(&self, announce: &[Vec<String>]) -> Result<Vec<PathBuf>> {
        self.say("For comparison first: the same neighbours around each daemon alone, without us");
        let kept = self.lab.folder("alone")?;
        let mut tables = vec![Vec::new(); announce.len() + 1];
        for daemon in Daemon::ALL {
            let lab = Lab::new(&format!("demo-{}", daemon.name()))?;
            for (number, table) in alone(lab, daemon, announce, &kept)?.into_iter().enumerate() {
                tables[number].push(table);
            }
            let routes = tests::replayer::table(&tables[0][tables[0].len() - 1])?.len();
            println!("          from {:9} the watching neighbour learned {routes} routes", daemon.name());
        }
        // The watching neighbour is the last site and the first table.
        let agreed = |(number, tables): (usize, &Vec<PathBuf>)| {
            let to = kept.join(format!("agreed-{number}.json"));
            let site = if number == 0 { announce.len() + 1 } else { number };
            let asn = FIRST_ASN + u32::try_from(site)?;
            judge::majority(tables, asn, &to).map(|()| to)
        };
        tables.iter().enumerate().map(agreed).collect()
    }

    fn show(&self, router: &Router, command: &[&str]) -> Result<()> {
        println!("$ virtctl {}", command.join(" "));
        print!("{}", router.show(command)?);
        Ok(())
    }

    /// BIRD tells a lie about one prefix, and takes it back.
    fn lie(&self, router: &mut Router, prefix: Prefix, before: u64) -> Result<()> {
        self.say(&format!("BIRD starts to lie: it adds the community 65000:666 to {prefix}"));
        router.instance("bird")?.set_lie(Some(Lie { prefix, community: (65000, 666) }))?;
        wait_for("virtd to see the lie", SEEN, || router.status("disagreements_now").is_ok_and(|n| n > before))?;
        std::thread::sleep(FAULT);
        self.show(router, &["routes", &prefix.to_string()])?;
        self.say("BIRD takes the lie back");
        router.instance("bird")?.set_lie(None)?;
        router.wait_agreement(before, SETTLE)?;
        router.wait_quiet(self.rest, SETTLE).map(|_| ())
    }

    /// FRR is killed, and comes back.
    fn kill(&self, router: &mut Router) -> Result<()> {
        self.say("FRR is killed (SIGKILL)");
        router.instance("frr")?.crash();
        router.wait_state("frr", "absent", UP)?;
        std::thread::sleep(FAULT);
        self.show(router, &["instances"])?;
        self.say("FRR is started again; virtd tells it everything it missed, the neighbours are not asked");
        self.bring_back(router)?;
        self.show(router, &["status"])
    }

    fn bring_back(&self, router: &mut Router) -> Result<()> {
        router.instance("frr")?.launch(&self.lab)?;
        router.wait_state("frr", "voting", SETTLE)?;
        router.wait_quiet(self.rest, SETTLE).map(|_| ())
    }

    /// A published bug of Debian's own FRR.
    fn bug(&self, star: &Star, router: &mut Router) -> Result<bug::Outcome> {
        self.say(
            "A fourth neighbour sends an UPDATE that was published in 2023 (CVE-2023-46753): attributes that nobody knows, and no path",
        );
        let outcome = bug::act(&self.lab, star, router)?;
        router.wait_state("frr", "absent", UP)?;
        self.show(router, &["instances"])?;
        self.show(router, &["events", "-n", "6"])?;
        self.say("FRR is started again. The UPDATE is not in what virtd tells it");
        self.bring_back(router)?;
        Ok(outcome)
    }
}

/// Runs one daemon natively between the neighbours; returns copies of the tables that they learned.
fn alone(mut lab: Lab, daemon: Daemon, announce: &[Vec<String>], kept: &Path) -> Result<Vec<PathBuf>> {
    let star = lab.star(3)?;
    let spec = Options::default().spec(&star.sites);
    let router = Instance::start(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?;
    let neighbours = Neighbours::start(&lab, &star.sites, announce)?;
    let mut seen = (0, Instant::now());
    wait_for("the daemon to come to rest", SETTLE, || {
        let now = neighbours.told();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        now > 0 && seen.1.elapsed() >= QUIET
    })?;
    let mut tables = Vec::new();
    for (number, outcome) in neighbours.finish()?.into_iter().enumerate() {
        let table = kept.join(format!("{}-{number}.json", daemon.name()));
        std::fs::copy(&outcome.table, &table).context("keeping a table")?;
        tables.push(table);
    }
    drop(router);
    lab.passed();
    Ok(tables)
}

/// Arguments of the two hv-replays that announce.
fn what_to_announce(arguments: &Arguments) -> Result<Vec<Vec<String>>> {
    let both = |one: &[&str], two: &[&str]| {
        [one, two].iter().map(|list| list.iter().map(ToString::to_string).collect()).collect()
    };
    Ok(match &arguments.mrt {
        Some(file) => {
            let file = file.canonicalize().with_context(|| format!("no file {}", file.display()))?;
            let file = file.to_str().context("a file name that is not UTF-8")?.to_owned();
            // The same table from two sides, as two providers would give it.
            both(&["--mrt", &file, "--replace-first-as"], &["--mrt", &file])
        }
        None => both(&["--generate", GENERATED], &["--generate", GENERATED_MORE]),
    })
}
