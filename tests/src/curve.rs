//! The lost re-announcement (docs/BUGS.md) as something that can be counted: FRR with an
//! advertisement interval, and neighbours in pairs, of which one withdraws a route and announces it
//! again while the other one watches.
//!
//! A run is one history of one prefix, the same for whoever is between. It starts from rest: the
//! other one has the route, and was told nothing for longer than the interval. Then come two other
//! prefixes, the first of which FRR tells at once and the second of which makes the interval run;
//! then the withdraw; and after a gap that is another one in each run, the same announcement.
//! Whether that falls into the interval is what the bug is about. Pairs have nothing in common:
//! FRR's interval, its update groups and virtd's delays are all of one session, and no pair's other
//! one is told of what is another pair's. So one router plays many runs at a time. What is lost
//! stays lost, so all is read at the end.

use crate::daemons::{Attach, Daemon, Instance};
use crate::faults::watch::Watch;
use crate::lab::{Lab, Site, Star, wait_until};
use crate::operate::control;
use crate::router::{ASN, Options, Router};
use crate::versions::Version;
use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For everything that is waited for: the machine may have other things to do.
const SETTLE: Duration = Duration::from_secs(120);
/// What FRR, virtd and the neighbours need on top of delays and intervals, which FRR counts in
/// whole seconds.
const SLACK: Duration = Duration::from_millis(2_500);
/// Instances behind virtd.
pub const INSTANCES: usize = 3;
/// Histories of one pair: each has addresses of its own.
pub const MOST_ROUNDS: usize = 16;
/// Pairs around one router: two links each.
pub const MOST_PAIRS: usize = 100;
/// The first of the other prefixes comes so long after a whole second, in milliseconds.
const PHASE_MS: std::ops::Range<u64> = 0..1_000;
/// The second of the other prefixes comes so long after the first, in milliseconds: FRR has told
/// the first by then.
const STARTED_MS: std::ops::Range<u64> = 200..500;
/// The withdraw comes so long after that.
const BEFORE_MS: std::ops::Range<u64> = 50..300;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// FRR's advertisement interval, in seconds.
    pub interval_s: u32,
    /// The gap between withdraw and announcement: from the first to the second, each as likely, in
    /// milliseconds.
    pub gap_ms: (u64, u64),
    /// Pairs of neighbours around one router.
    pub pairs: usize,
    /// Histories.
    pub runs: usize,
    /// Of the histories, and of virtd's delays.
    pub seed: u64,
    /// The versions of the three behind virtd; `None`: the installed one.
    pub versions: [Option<Version>; INSTANCES],
}

/// Who is between the neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// One FRR as a router of its own.
    Alone,
    /// virtd with three of them.
    Behind {
        /// What comes from a peer is held back from nothing to so long, in milliseconds, each as
        /// likely.
        delay_ms: u32,
        /// From so many of the three, each with a seed of its own.
        delayed: usize,
    },
}

/// One history: when things are said, in milliseconds since a whole second of the clock that FRR
/// counts its interval with. (A part of a second counts as one there, so where in a second a
/// history begins decides about as much as its gap.)
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// The change that FRR tells at once.
    pub first: u64,
    /// The change that makes the interval run.
    pub other: u64,
    /// The withdraw.
    pub withdraw: u64,
    /// The same announcement as before.
    pub again: u64,
}

impl History {
    /// The history of that number; the same for whoever is between.
    pub fn new(plan: &Plan, run: usize) -> History {
        let mut random = SmallRng::seed_from_u64(plan.seed.wrapping_add(run as u64));
        let first = random.random_range(PHASE_MS);
        let other = first + random.random_range(STARTED_MS);
        let withdraw = other + random.random_range(BEFORE_MS);
        History { first, other, withdraw, again: withdraw + random.random_range(plan.gap_ms.0..=plan.gap_ms.1) }
    }

    /// Between withdraw and announcement, in milliseconds.
    pub fn gap_ms(&self) -> u64 {
        self.again - self.withdraw
    }
}

/// What came of one history.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was said, and when.
    pub history: History,
    /// The neighbour ends without the route.
    pub lost: bool,
    /// The neighbour was told of the withdraw.
    pub withdrawn: bool,
    /// Instances that say at the end that there is no such route, by name.
    pub lost_by: Vec<String>,
    /// Instances that virtd has named for the prefix: not with the majority for T.
    pub named: Vec<String>,
}

/// One neighbour that announces and one that watches.
struct Pair {
    sender: Watch,
    second: Watch,
}

enum Middle {
    Alone(Instance),
    Behind(Router),
}

struct Scene {
    lab: Lab,
    middle: Middle,
    pairs: Vec<Pair>,
}

/// The three prefixes of a pair in a round: the one that may be lost, and the two others.
fn prefixes(pair: usize, round: usize) -> [String; 3] {
    let net = |host: usize| format!("198.{}.{}.{}/29", 18 + host / 256, pair, host % 256);
    // 198.18.0.0/15 is for measurements (RFC 2544); a pair has two times 256 addresses of it, a
    // round 16 of each.
    [net(16 * round), net(256 + 16 * round), net(256 + 16 * round + 8)]
}

/// Plays all histories through one router; `tell` is given a word on how far it is.
///
/// # Errors
/// The network or a daemon cannot be started, a session is lost, or the neighbours do not get what
/// has nothing to do with the bug.
pub fn play(plan: &Plan, between: Between, tell: &dyn Fn(&str)) -> Result<Vec<Run>> {
    let rounds = plan.runs.div_ceil(plan.pairs.max(1));
    ensure!((1..=MOST_ROUNDS).contains(&rounds), "{rounds} rounds: at most {MOST_ROUNDS}, so more pairs or fewer runs");
    ensure!((1..=MOST_PAIRS).contains(&plan.pairs), "{} pairs: at most {MOST_PAIRS}", plan.pairs);
    tell("starting");
    let mut scene = Scene::start(plan, between)?;
    scene.announce_all(plan, rounds)?;
    sleep(plan.rest(between));
    for round in 0..rounds {
        tell(&format!("round {} of {rounds}", round + 1));
        scene.round(plan, round)?;
        sleep(plan.rest(between));
    }
    tell("reading");
    let runs = scene.read(plan)?;
    scene.lab.passed();
    Ok(runs)
}

impl Plan {
    /// After the last word of a round: what is held back has come, FRR's interval is over, and
    /// after that one more is.
    fn rest(&self, between: Between) -> Duration {
        let delay = match between {
            Between::Alone => 0,
            Between::Behind { delay_ms, .. } => delay_ms,
        };
        Duration::from_millis(delay.into()) + Duration::from_secs(2 * u64::from(self.interval_s)) + SLACK
    }

    /// Which pair and round a run is.
    fn place(&self, run: usize) -> (usize, usize) {
        (run % self.pairs, run / self.pairs)
    }
}

impl Scene {
    fn start(plan: &Plan, between: Between) -> Result<Scene> {
        let label = match between {
            Between::Alone => "curve-alone".to_owned(),
            Between::Behind { delay_ms, delayed } => format!("curve-{delayed}x{delay_ms}"),
        };
        let mut lab = Lab::new(&label)?;
        let star = lab.star(u32::try_from(plan.pairs * 2)?)?;
        let middle = match between {
            Between::Alone => {
                let spec = Options::default().spec(&star.sites);
                let frr = Instance::start(&lab, &star.router, Daemon::Frr, "frr", &spec, &Attach::Native)?;
                configure(&frr, &star, plan)?;
                Middle::Alone(frr)
            }
            Between::Behind { delay_ms, delayed } => Middle::Behind(three(&lab, &star, plan, delay_ms, delayed)?),
        };
        let mut pairs = Vec::new();
        for sites in star.sites.chunks_exact(2) {
            let [first, second] = sites else { bail!("no pair") };
            pairs.push(Pair {
                sender: Watch::dial(&lab, first, &[])?,
                second: Watch::dial(&lab, second, &["--monitor"])?,
            });
        }
        let mut scene = Scene { lab, middle, pairs };
        let up = |watch: &Watch| watch.ups == watch.downs.len() + 1;
        scene.wait("all sessions", |_, pair| Ok(up(&pair.sender) && up(&pair.second)))?;
        if between == Between::Alone {
            // Where many dial at once, FRR ends one session in some starts right away ("No AFI/SAFI
            // activated for peer"), and has it back within a second. What counts is that none ends
            // later.
            sleep(SLACK);
            scene.wait("all sessions", |_, pair| Ok(up(&pair.sender) && up(&pair.second)))?;
            for watch in scene.pairs.iter_mut().flat_map(|pair| [&mut pair.sender, &mut pair.second]) {
                watch.ups = 1;
                watch.downs.clear();
            }
        }
        if let Middle::Behind(router) = &scene.middle {
            router.wait_voting(SETTLE)?;
        }
        Ok(scene)
    }

    /// Waits until something holds for every pair, whose logs are read before each look.
    fn wait(&mut self, what: &str, good: impl Fn(usize, &Pair) -> Result<bool>) -> Result<()> {
        wait_until(what, SETTLE, || {
            let mut missing = 0;
            for (i, pair) in self.pairs.iter_mut().enumerate() {
                let looked = pair.sender.look().and_then(|()| pair.second.look()).and_then(|()| good(i, pair));
                missing += usize::from(!looked.map_err(|e| format!("{e:#}"))?);
            }
            if missing == 0 { Ok(()) } else { Err(format!("not with {missing} of {} pairs", self.pairs.len())) }
        })
    }

    /// Every route that may be lost later is announced, and every instance has told of it.
    fn announce_all(&mut self, plan: &Plan, rounds: usize) -> Result<()> {
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            let all: Vec<String> = (0..rounds).map(|round| prefixes(i, round)[0].clone()).collect();
            pair.sender.say(&format!("announce {}", all.join(",")))?;
        }
        self.wait("all routes", |_, pair| Ok(pair.second.table.len() == rounds))?;
        for run in 0..rounds * plan.pairs {
            let (i, round) = plan.place(run);
            let prefix = &prefixes(i, round)[0];
            wait_until(&format!("everybody to have told of {prefix}"), SETTLE, || match self.lost_by(i, prefix) {
                Ok(without) if without.is_empty() => Ok(()),
                Ok(without) => Err(format!("not {without:?}")),
                Err(e) => Err(format!("{e:#}")),
            })?;
        }
        Ok(())
    }

    /// One history of each pair, side by side.
    fn round(&mut self, plan: &Plan, round: usize) -> Result<()> {
        let mut lines = Vec::new();
        for run in (0..plan.runs).filter(|run| plan.place(*run).1 == round) {
            let (pair, _) = plan.place(run);
            let history = History::new(plan, run);
            let [route, first, second] = prefixes(pair, round);
            lines.push((history.first, pair, format!("announce {first}")));
            lines.push((history.other, pair, format!("announce {second}")));
            lines.push((history.withdraw, pair, format!("withdraw {route}")));
            lines.push((history.again, pair, format!("announce {route}")));
        }
        // Stable: what one pair says at one moment stays in order.
        lines.sort_by_key(|(at, ..)| *at);
        sleep(until_a_whole_second()?);
        let start = Instant::now();
        for (at, pair, line) in lines {
            sleep(Duration::from_millis(at).saturating_sub(start.elapsed()));
            self.pairs.get_mut(pair).context("a pair of the plan")?.sender.say(&line)?;
        }
        Ok(())
    }

    /// Which instances do not say to a pair's second neighbour that there is this route.
    fn lost_by(&self, pair: usize, prefix: &str) -> Result<Vec<String>> {
        let second = &self.pairs.get(pair).context("a pair of the plan")?.second;
        let router = match &self.middle {
            Middle::Alone(_) if second.table.contains_key(prefix) => return Ok(Vec::new()),
            Middle::Alone(frr) => return Ok(vec![frr.name.clone()]),
            Middle::Behind(router) => router,
        };
        let said = router.said(prefix, &second.site.v4.to_string())?;
        let has = |name: &str| said.iter().any(|s| s.instance == name && s.route.is_some());
        Ok(router.instances.iter().map(|i| i.name.clone()).filter(|name| !has(name)).collect())
    }

    /// What came of every history.
    fn read(&mut self, plan: &Plan) -> Result<Vec<Run>> {
        let all: Vec<_> = (0..plan.runs).map(|run| plan.place(run)).collect();
        self.wait("everything but what may be lost", |i, pair| {
            let rounds = all.iter().filter(|(of, _)| *of == i).map(|(_, round)| *round);
            let others = rounds.flat_map(|round| prefixes(i, round).into_iter().skip(1));
            Ok(others.into_iter().all(|prefix| pair.second.table.contains_key(&prefix)))
        })?;
        let instances = match &mut self.middle {
            Middle::Alone(frr) => std::slice::from_mut(frr),
            Middle::Behind(router) => &mut router.instances[..],
        };
        for frr in instances {
            ensure!(frr.running(), "{} has died", frr.name);
        }
        for pair in &mut self.pairs {
            pair.sender.check_session()?;
            pair.second.check_session()?;
        }
        let run = |(run, &(pair, round)): (usize, &(usize, usize))| {
            let prefix = &prefixes(pair, round)[0];
            let second = &self.pairs.get(pair).context("a pair of the plan")?.second;
            Ok(Run {
                history: History::new(plan, run),
                lost: !second.table.contains_key(prefix),
                withdrawn: second.changes.iter().any(|c| c.prefix == *prefix && c.route.is_none()),
                lost_by: self.lost_by(pair, prefix)?,
                named: Vec::new(),
            })
        };
        let mut runs = all.iter().enumerate().map(run).collect::<Result<Vec<_>>>()?;
        if let Middle::Behind(router) = &self.middle {
            let differ = |run: &Run| (1..INSTANCES).contains(&run.lost_by.len());
            // Named after T; whoever cares is told by what stands there, so this never fails.
            let _ = wait_until("those that differ to be named", SETTLE, || {
                let events = router.events("disagreement");
                for (run, &(pair, round)) in runs.iter_mut().zip(&all) {
                    run.named = named(&events, &prefixes(pair, round)[0]);
                }
                let missing = runs.iter().filter(|run| differ(run) && run.named.is_empty()).count();
                if missing == 0 { Ok(()) } else { Err(missing.to_string()) }
            });
        }
        Ok(runs)
    }
}

/// The instances that these events name for a prefix.
fn named(events: &[Value], prefix: &str) -> Vec<String> {
    let about = events.iter().filter(|e| e["prefix"] == prefix);
    let names: BTreeSet<String> = about.filter_map(|e| e["instance"].as_str().map(str::to_owned)).collect();
    names.into_iter().collect()
}

/// How long it is to the next whole second of the clock that FRR's interval is counted with.
fn until_a_whole_second() -> Result<Duration> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(Duration::from_secs(now.as_secs() + 1).saturating_sub(now))
}

/// virtd with three FRRs, some of which are told things late.
fn three(lab: &Lab, star: &Star, plan: &Plan, delay_ms: u32, delayed: usize) -> Result<Router> {
    let options = Options {
        daemons: vec![Daemon::Frr; INSTANCES],
        versions: plan.versions.to_vec(),
        // Longer than the delays, as virtd wants it, and than the interval.
        t_ms: (2 * delay_ms + 1_000).max(6_000),
        // Nobody is to be replaced for being wrong, or there is nothing left to see.
        timers: "fault_threshold_s = 3600\n".to_owned(),
        ..Options::default()
    };
    let late = options.names().into_iter().enumerate().skip(INSTANCES.saturating_sub(delayed));
    let late: Vec<_> = late.filter(|_| delay_ms > 0).collect();
    let edit = |text: String| {
        late.iter().fold(text, |text, (i, name)| {
            let name = format!("name = {name:?}\n");
            let seed = (plan.seed * 10 + *i as u64) % (1 << 32);
            text.replace(&name, &format!("{name}diversity = {{ delay_ms = [0, {delay_ms}], seed = {seed} }}\n"))
        })
    };
    let mut router = Router::with_toml(lab, star, &options, edit)?;
    router.launch(lab, star, &options)?;
    ensure!(router.events("instance-differs").len() == late.len(), "not every seed is logged");
    router.instances.iter().try_for_each(|frr| configure(frr, star, plan))?;
    Ok(router)
}

/// Gives FRR the interval towards every pair's second neighbour, who is told of that pair's
/// prefixes only; the first is told nothing.
fn configure(frr: &Instance, star: &Star, plan: &Plan) -> Result<()> {
    let mut lists = String::from("configure terminal\nip prefix-list NONE deny any\n");
    let mut lines = format!("router bgp {ASN}\n");
    let mut family = String::from("address-family ipv4 unicast\n");
    for (i, sites) in star.sites.chunks_exact(2).enumerate() {
        let [Site { v4: first, .. }, Site { v4: second, .. }] = sites else { bail!("no pair") };
        // Writing to a String cannot fail.
        for high in [18, 19] {
            let _ = writeln!(lists, "ip prefix-list PAIR{i} permit 198.{high}.{i}.0/24 le 32");
        }
        let _ = writeln!(lines, "neighbor {second} advertisement-interval {}", plan.interval_s);
        let _ = writeln!(family, "neighbor {first} prefix-list NONE out\nneighbor {second} prefix-list PAIR{i} out");
    }
    control(frr, &star.router, format!("{lists}{lines}{family}").trim_end()).map(|_| ())
}

/// The interval in which the true share lies with 95 % confidence when `hits` of `all` were seen
/// (Wilson 1927).
pub fn wilson(hits: usize, all: usize) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (all as f64, hits as f64 / all as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_confidence_interval_is_that_of_the_tables() {
        let close = |(a, b): (f64, f64), (x, y): (f64, f64)| (a - x).abs() < 5e-4 && (b - y).abs() < 5e-4;
        assert!(close(wilson(0, 200), (0.0, 0.0188)), "{:?}", wilson(0, 200));
        assert!(close(wilson(100, 200), (0.4314, 0.5686)), "{:?}", wilson(100, 200));
        assert!(close(wilson(200, 200), (0.9812, 1.0)), "{:?}", wilson(200, 200));
    }

    #[test]
    fn no_two_histories_have_a_prefix_in_common() {
        let mut all: Vec<String> =
            (0..MOST_PAIRS).flat_map(|p| (0..MOST_ROUNDS).flat_map(move |r| prefixes(p, r))).collect();
        all.sort_unstable();
        let before = all.len();
        all.dedup();
        assert_eq!((all.len(), before), (MOST_PAIRS * MOST_ROUNDS * 3, MOST_PAIRS * MOST_ROUNDS * 3));
    }
}
