//! `make demo`: one BGP router made of FRR, BIRD and OpenBGPD, in network namespaces. Two
//! neighbours play a table, a third one watches; a daemon lies, each is killed, and one dies of a
//! published bug of its own; virtd, which has started them, brings each back by itself; virtd's own
//! worker is killed, too, and then upgraded; and the neighbours are asked at the end what they
//! noticed.
#![forbid(unsafe_code)]

mod bug;
mod fib;
mod judge;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use judge::{Handover, Verdict};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tests::daemons::{Attach, Daemon, Instance, Lie};
use tests::kinds::Kinds;
use tests::lab::{FIRST_ASN, Lab, Site, Star, clean_up_on_signal, wait_for};
use tests::published::cve_2023_46753;
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

/// Shows one BGP router made of three daemons, and what its neighbours notice when a daemon lies or
/// dies
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Play this MRT file (RIB dump or updates) instead of a made-up table
    #[arg(long, value_name = "FILE")]
    mrt: Option<PathBuf>,
    /// Configure FRR without the route-map that the published bug needs, so that it survives: shows
    /// what the demo does then
    #[arg(long)]
    without_bug: bool,
    /// Only BGP: the daemons write no routes to the kernel
    #[arg(long)]
    no_fib: bool,
    /// Only the installed daemons, of which two write routes: shows what the demo does where the
    /// third cannot be had
    #[arg(long)]
    installed: bool,
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
    /// T, and how long nothing must move for the router to be at rest: what disagrees after T has
    /// shown itself by then.
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

    /// Sessions that have ended.
    fn lost(&self) -> usize {
        self.0.iter().map(|n| n.count("session-down")).sum()
    }

    /// UPDATEs to the watching one that took something back.
    fn withdrawals(&self) -> usize {
        let all = self.0[0].events();
        all.iter().filter(|e| e["withdrawn"].as_array().is_some_and(|w| !w.is_empty())).count()
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
        let three = !arguments.no_fib && !arguments.installed && fib::fetch_third(&self)?;
        let expected = self.reference(&announce)?;

        self.say(
            "The router: virtd, which starts FRR, BIRD and OpenBGPD as Debian ships them (kind = \"frr\" …), each with LD_PRELOAD=libhvlibc.so",
        );
        if arguments.installed && !arguments.no_fib {
            fib::only_two()?;
        }
        // Three neighbours as before, and one that comes at the end with an UPDATE of its own. What
        // is malformed reaches the daemons here: by default virtd would not let it. FRR's file has
        // what the bug needs, so that it is there again after each restart.
        let star = self.lab.star(4)?;
        let options = Options {
            t_ms: self.t_ms,
            inbound: "opaque",
            fib: !arguments.no_fib,
            versions: if three { vec![None, None, Some(fib::THIRD)] } else { Vec::new() },
            ..Options::default()
        };
        let last = star.sites.last().context("a star without neighbours")?;
        let vulnerable = cve_2023_46753::configuration(last.v4.into());
        let mut kinds = Kinds::start(&self.lab, &star, &options, |name| match name {
            "frr" if !arguments.without_bug => vulnerable.clone(),
            _ => String::new(),
        })?;
        let neighbours = Neighbours::start(&self.lab, star.sites.get(..3).unwrap_or_default(), &announce)?;
        kinds.wait_voting(UP)?;
        let before = kinds.router.wait_quiet(self.rest, SETTLE)?;
        self.say("Two neighbours have played their tables, a third one watches. What virtctl says:");
        self.show(&kinds.router, &["sessions"])?;
        self.show(&kinds.router, &["instances"])?;
        if before > 0 {
            println!(
                "{before} routes of this table are told differently by one daemon: docs/EQUIVALENCE.md says which and why"
            );
        }
        let calm = neighbours.told();

        let stream = if arguments.no_fib {
            None
        } else {
            let stream = fib::start(&self, &star, &mut kinds, three)?;
            fib::lie_and_death(&self, &stream, &star, &mut kinds)?;
            Some(stream)
        };
        let prefix = judge::some_prefix(&expected).context("the reference learned no route")?;
        self.lie(&mut kinds, prefix, before)?;
        self.kills(&kinds)?;
        let worker = self.worker(&kinds, &neighbours)?;
        let mut bug = self.bug(&star, &mut kinds)?;
        let upgrade = self.upgrade(&kinds, &neighbours)?;

        self.say("What did the neighbours notice?");
        let told = neighbours.told() - calm;
        let votes = worker.votes + upgrade.votes + kinds.router.status()?.votes;
        let instances = kinds.count();
        let forwarded = stream.map(|stream| stream.finish(&star, &kinds)).transpose()?;
        let deaths = ["frr", "bird", "openbgpd"].map(|name| kinds.exits(name).len()).iter().sum();
        let outcomes = neighbours.finish()?;
        let sender_kept = bug.sender.finish()?.check_quiet().inspect_err(|e| println!("          {e:#}")).is_ok();
        let mut verdict = Verdict::new(
            &expected,
            &outcomes,
            (bug.death, sender_kept),
            told,
            votes,
            (instances, deaths),
            [worker, upgrade],
        )?;
        if let (Some(forwarded), Some(watcher)) = (forwarded, outcomes.first()) {
            verdict.forwarded(forwarded, &watcher.routes()?);
        }
        print!("{}", verdict.text());
        drop(kinds);
        if verdict.masked() {
            self.lab.passed();
        }
        Ok(verdict)
    }

    /// What the same neighbours learn from each daemon alone, without us; where these differ, from
    /// most of them. This is the measure of lost and wrong. One table for each neighbour.
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
    fn lie(&self, kinds: &mut Kinds, prefix: Prefix, before: u64) -> Result<()> {
        self.say(&format!("BIRD starts to lie: it adds the community 65000:666 to {prefix}"));
        kinds.bird_lie("bird", Some(Lie { prefix, community: (65000, 666) }))?;
        let seen = || kinds.router.status().is_ok_and(|s| s.disagreements_now > before);
        wait_for("virtd to see the lie", SEEN, seen)?;
        std::thread::sleep(FAULT);
        self.show(&kinds.router, &["routes", &prefix.to_string()])?;
        self.say("BIRD takes the lie back");
        kinds.bird_lie("bird", None)?;
        kinds.router.wait_agreement(before, SETTLE)?;
        kinds.router.wait_quiet(self.rest, SETTLE).map(|_| ())
    }

    /// Each daemon dies in a way of its own. Only virtd brings it back.
    fn kills(&self, kinds: &Kinds) -> Result<()> {
        for (name, signal, words) in [
            ("frr", Signal::SIGKILL, "FRR's bgpd is killed (SIGKILL)"),
            ("bird", Signal::SIGSEGV, "BIRD gets a SIGSEGV"),
            ("openbgpd", Signal::SIGKILL, "OpenBGPD's parent process is killed (SIGKILL)"),
        ] {
            let old = kinds.pids(name)?;
            self.say(&format!("{words}; nobody but virtd is there to start it again"));
            let said = kinds.kill(name, kinds.leader(name)?, signal, UP)?;
            println!("          virtd: {said}");
            self.show(&kinds.router, &["instances"])?;
            kinds.wait_return(name, &old, SETTLE)?;
            self.say(
                "It votes again: virtd has started it and told it everything it missed, the neighbours were not asked",
            );
            kinds.router.wait_quiet(self.rest, SETTLE)?;
        }
        self.show(&kinds.router, &["instances"])?;
        self.show(&kinds.router, &["status"])
    }

    /// virtd's own worker dies, which has all the sessions. The next one goes on with them.
    fn worker(&self, kinds: &Kinds, neighbours: &Neighbours) -> Result<Handover> {
        let worker = kinds.router.status()?.worker.context("virtd says nothing of its worker")?.pid;
        self.say(&format!(
            "virtd's own worker is killed (kill -9 {worker}): the process that has every session, all routes and the votes"
        ));
        let death = self.handover(kinds, neighbours, || {
            kill(Pid::from_raw(i32::try_from(worker)?), Signal::SIGKILL).context("killing the worker")?;
            wait_for("the next worker", UP, || !kinds.router.events("taken-over").is_empty())?;
            for event in [kinds.router.events("worker-died"), kinds.router.events("taken-over")].concat() {
                println!("          virtd: {}", event["text"].as_str().unwrap_or_default());
            }
            Ok(())
        })?;
        self.say(&format!(
            "The next one goes on with the same TCP connections: {} sessions lost, {} withdrawals; the daemons have connected to it and vote",
            death.sessions_lost, death.withdrawals
        ));
        self.show(&kinds.router, &["sessions"])?;
        Ok(death)
    }

    /// virtd's program takes over from itself, as a newer one would.
    fn upgrade(&self, kinds: &Kinds, neighbours: &Neighbours) -> Result<Handover> {
        self.say("virtd is upgraded in full view: its program, as it is in its file now, takes over");
        let upgrade = self.handover(kinds, neighbours, || self.show(&kinds.router, &["upgrade"]))?;
        self.say(&format!(
            "It serves: {} sessions lost, {} withdrawals; the daemons have connected to it and vote",
            upgrade.sessions_lost, upgrade.withdrawals
        ));
        Ok(upgrade)
    }

    /// One worker takes over from another in the course of `act`; what that has cost.
    fn handover(&self, kinds: &Kinds, neighbours: &Neighbours, act: impl FnOnce() -> Result<()>) -> Result<Handover> {
        let (lost, withdrawn) = (neighbours.lost(), neighbours.withdrawals());
        let votes = kinds.router.status()?.votes;
        act()?;
        kinds.wait_voting(SETTLE)?;
        kinds.router.wait_quiet(self.rest, SETTLE)?;
        Ok(Handover {
            sessions_lost: neighbours.lost() - lost,
            withdrawals: neighbours.withdrawals() - withdrawn,
            votes,
        })
    }

    /// A published bug of Debian's own FRR.
    fn bug(&self, star: &Star, kinds: &mut Kinds) -> Result<bug::Outcome> {
        self.say(&format!(
            "A fourth neighbour sends an UPDATE that was published in 2023 ({}): attributes that nobody knows, and no path",
            cve_2023_46753::NAME
        ));
        let old = kinds.pids("frr")?;
        let outcome = bug::act(&self.lab, star, kinds)?;
        self.show(&kinds.router, &["instances"])?;
        kinds.wait_return("frr", &old, SETTLE)?;
        let deaths = kinds.exits("frr").len();
        match outcome.death {
            bug::Death::Published => {
                bug::withheld(kinds)?;
                self.say("virtd has brought FRR back, as vulnerable as before. What it is not told again:");
                self.show(&kinds.router, &["events", "--kind", "poison"])?;
            }
            bug::Death::Injected => self.say("virtd has brought FRR back"),
        }
        kinds.router.wait_quiet(self.rest, SETTLE)?;
        ensure!(kinds.exits("frr").len() == deaths, "FRR has died again: {:?}", kinds.exits("frr"));
        kinds.router.wait_state("frr", "voting", UP)?;
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
