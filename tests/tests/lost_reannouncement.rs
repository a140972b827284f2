//! Ordinary, valid UPDATEs that make FRR forget a route: what it has told a neighbour, has to
//! withdraw and gets back, all within that neighbour's advertisement interval, it withdraws for
//! good, and its own table has it. docs/BUGS.md has the exact condition. Alone the neighbour never
//! hears of the route again; behind virtd it has what the sender says, and FRR is named.

use anyhow::{Context, Result, bail, ensure};
use std::time::{Duration, Instant};
use tests::alone::which;
use tests::daemons::{Attach, Daemon, Instance};
use tests::faults::watch::Watch;
use tests::lab::{Lab, Star, wait_until};
use tests::operate::control;
use tests::router::{ASN, Options, Router};
use tests::untested::not_tested;
use tests::versions::Version;

/// For everything that is waited for: the machine may have other things to do.
const SETTLE: Duration = Duration::from_secs(60);
/// FRR's advertisement interval towards the second neighbour, in seconds.
const INTERVAL_S: u32 = 5;
/// Everything has to be said while the interval runs, of which FRR counts whole seconds only.
const IN_TIME: Duration = Duration::from_secs(INTERVAL_S as u64 - 2);
/// Attempts at that: a busy machine may be too slow once.
const ATTEMPTS: u32 = 6;
/// Longer than the interval and FRR's coalescing: it is to be outvoted for what it says wrongly,
/// not for being slow.
const T_MS: u32 = 6_000;
const ROUNDS: u32 = 3;

/// The route that is told, withdrawn and told again …
const LOST: &str = "198.51.100.0/24";
/// … the one that makes FRR wait between the first two …
const OTHER: &str = "203.0.113.0/24";
/// … and one that is said when the interval is over: who has it has all that FRR had to say.
const LAST: &str = "192.0.2.0/24";
/// Where an interval is to run already when the route comes, this one starts it.
const EARLIER: &str = "198.18.0.0/24";

/// FRR's check that the bug is in, switched off.
const REMEDY: &str = "no bgp suppress-duplicates";

/// When the race starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Once FRR has told the neighbour of the route: it is lost.
    AfterTelling,
    /// While FRR still holds it back: there is nothing to withdraw, and nothing is lost.
    BeforeTelling,
}

/// Who is between the two neighbours.
enum Middle {
    /// FRR as a router of its own.
    Alone(Instance),
    /// virtd, with FRR, BIRD and OpenBGPD.
    Behind(Router),
}

/// A neighbour that announces (the first) and one that listens.
struct Scene {
    lab: Lab,
    star: Star,
    middle: Middle,
    sender: Watch,
    second: Watch,
}

impl Scene {
    fn new(name: &str, star: Star, lab: Lab, middle: Middle, more: &str) -> Result<Scene> {
        let [first, second] = &star.sites[..] else { bail!("{name}: a star of two") };
        let frr = middle.frr()?;
        let lines = format!("neighbor {} advertisement-interval {INTERVAL_S}\n{more}", second.v4);
        control(frr, &star.router, &format!("configure terminal\nrouter bgp {ASN}\n{lines}"))?;
        let second = Watch::dial(&lab, second, &["--monitor"])?;
        let sender = Watch::dial(&lab, first, &[])?;
        let mut scene = Scene { lab, middle, sender, second, star };
        scene.wait("both sessions", |s| {
            s.sender.look()?;
            Ok(s.sender.ups == 1 && s.second.ups == 1)
        })?;
        Ok(scene)
    }

    /// FRR of some version (`None`: the installed one) alone, with one more line of configuration.
    fn alone(version: Option<Version>, more: &str) -> Result<Scene> {
        let root = version.map(Version::needed).transpose()?;
        let name = format!(
            "lost{}-{}",
            if more.is_empty() { "" } else { "-not" },
            version.map_or("installed".to_owned(), |v| v.name().replace('/', "-"))
        );
        let mut lab = Lab::new(&name)?;
        let star = lab.star(2)?;
        let spec = Options::default().spec(&star.sites);
        let frr = Instance::start_in(&lab, &star.router, Daemon::Frr, "frr", &spec, &Attach::Native, root)?;
        Scene::new(&name, star, lab, Middle::Alone(frr), more)
    }

    /// The same FRR as one of three; the other two are the installed ones.
    fn behind(version: Option<Version>, inbound: &'static str) -> Result<Scene> {
        let name =
            format!("lost3-{inbound}-{}", version.map_or("installed".to_owned(), |v| v.name().replace('/', "-")));
        let mut lab = Lab::new(&name)?;
        let star = lab.star(2)?;
        // It is not to be replaced for being wrong too long, or there is nothing left to see.
        let timers = "fault_threshold_s = 3600\n".to_owned();
        let options = Options { versions: vec![version], inbound, t_ms: T_MS, timers, ..Options::default() };
        let router = Router::start(&lab, &star, &options)?;
        let scene = Scene::new(&name, star, lab, Middle::Behind(router), "")?;
        if let Middle::Behind(router) = &scene.middle {
            router.wait_voting(SETTLE)?;
        }
        Ok(scene)
    }

    fn wait(&mut self, what: &str, mut good: impl FnMut(&mut Scene) -> Result<bool>) -> Result<()> {
        wait_until(what, SETTLE, || {
            self.second.look().map_err(|e| format!("{e:#}"))?;
            match good(self) {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("the second neighbour has {:?}", self.second.table.keys())),
                Err(e) => Err(format!("{e:#}")),
            }
        })
    }

    /// Whether this is the last that FRR has told the second neighbour of a prefix. Behind virtd
    /// the neighbour does not know, virtd does.
    fn told(&mut self, prefix: &str) -> Result<bool> {
        self.second.look()?;
        let Middle::Behind(router) = &self.middle else { return Ok(self.second.table.contains_key(prefix)) };
        let tellers = router.tellers(prefix, &self.second.site.v4.to_string())?;
        Ok(tellers.iter().any(|name| name == "frr"))
    }

    /// Says something to the router and waits until FRR's own table has it.
    fn say(&mut self, word: &str, prefix: &str) -> Result<()> {
        self.sender.say(&format!("{word} {prefix}"))?;
        self.wait(&format!("FRR's table after {word} {prefix}"), |s| {
            let text = control(s.middle.frr()?, &s.star.router, "show bgp ipv4 unicast")?;
            Ok(text.contains(prefix) == (word == "announce"))
        })
    }

    /// One round; whether FRR has lost the route. `None`: something came too early or too late for
    /// the interval, and the round says nothing.
    fn round(&mut self, kind: Round) -> Result<Option<bool>> {
        if kind == Round::BeforeTelling {
            self.say("announce", EARLIER)?;
            self.wait("the interval to start", |s| s.told(EARLIER))?;
        }
        let mut start = Instant::now();
        self.say("announce", LOST)?;
        if kind == Round::AfterTelling {
            // An interval may still run, of the End-of-RIB or of an earlier round.
            self.wait("FRR to tell of the first route", |s| s.told(LOST))?;
            start = Instant::now();
        }
        self.say("announce", OTHER)?;
        self.say("withdraw", LOST)?;
        self.say("announce", LOST)?;
        let held = [(OTHER, true), (LOST, kind == Round::BeforeTelling)];
        let mut in_time = start.elapsed() < IN_TIME;
        for (prefix, _) in held.iter().filter(|(_, held)| *held) {
            in_time &= !self.told(prefix)?;
        }
        self.wait("the interval to be over", |s| s.told(OTHER))?;
        self.say("announce", LAST)?;
        self.wait("FRR to have told everything", |s| s.told(LAST))?;
        let lost = !self.told(LOST)?;
        Ok(in_time.then_some(lost))
    }

    /// Rounds until one counts, looked at by `check` before everything is withdrawn again.
    fn play(&mut self, kind: Round, mut check: impl FnMut(&mut Scene, bool) -> Result<()>) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            self.second.changes.clear();
            let verdict = self.round(kind)?;
            if let Some(lost) = verdict {
                check(self, lost)?;
            }
            self.clear()?;
            if let Some(lost) = verdict {
                return Ok(lost);
            }
            println!("not within the interval; once more");
        }
        bail!("{ATTEMPTS} times the machine was too slow to say three things in {IN_TIME:?}")
    }

    /// Everything is withdrawn, everywhere, and nobody is marked for it any more.
    fn clear(&mut self) -> Result<()> {
        let all = [LOST, OTHER, LAST, EARLIER];
        for prefix in all {
            self.say("withdraw", prefix)?;
        }
        self.wait("nothing to be left", |s| {
            let mut left = !s.second.table.is_empty();
            for prefix in all {
                left |= s.told(prefix)?;
            }
            Ok(!left)
        })?;
        match &self.middle {
            Middle::Alone(_) => Ok(()),
            Middle::Behind(router) => router.wait_agreement(0, SETTLE),
        }
    }
}

/// What virtd made of it.
impl Scene {
    /// How often virtd has named FRR for the route so far.
    fn named(&self) -> Result<usize> {
        let Middle::Behind(router) = &self.middle else { bail!("there is no virtd") };
        let about = |e: &&serde_json::Value| e["prefix"] == LOST && e["instance"] == "frr";
        Ok(router.events("disagreement").iter().filter(about).count())
    }

    /// The neighbour has the route; it was taken away, if at all, for as long as the sender
    /// withdrew it. FRR was named, where it has lost it.
    fn check_masked(&mut self, lost: bool, named: usize) -> Result<()> {
        if lost {
            self.wait("virtd to name FRR and the prefix", |s| Ok(s.named()? > named))?;
        }
        self.second.check_session()?;
        for prefix in [LOST, OTHER, LAST] {
            ensure!(self.second.table.contains_key(prefix), "the neighbour has no {prefix}: {:?}", self.second.changes);
        }
        let changes = self.second.changes.iter().filter(|c| c.prefix == LOST).map(|c| c.route.is_some());
        let changes: Vec<bool> = changes.collect();
        ensure!(changes == [true] || changes == [true, false, true], "{changes:?}: {:?}", self.second.changes);
        if lost && let Middle::Behind(router) = &self.middle {
            router.wait_voting(SETTLE)?;
        }
        Ok(())
    }
}

impl Middle {
    fn frr(&self) -> Result<&Instance> {
        match self {
            Middle::Alone(frr) => Ok(frr),
            Middle::Behind(router) => router.instances.iter().find(|i| i.name == "frr").context("no FRR"),
        }
    }
}

/// Whether FRR alone loses the route, in every round. `None`: there is no such FRR.
fn loses_alone(version: Option<Version>, more: &str) -> Result<Option<bool>> {
    if let Some(version) = version
        && version.root()?.is_none()
    {
        return Ok(None);
    }
    let mut scene = Scene::alone(version, more)?;
    let played = (0..ROUNDS).map(|_| scene.play(Round::AfterTelling, |_, _| Ok(())));
    let verdicts = played.collect::<Result<Vec<_>>>()?;
    let early = scene.play(Round::BeforeTelling, |_, _| Ok(()))?;
    let text = control(scene.middle.frr()?, &scene.star.router, "show version")?;
    println!("{} {more}: lost {verdicts:?}, before it was told: {early}", text.lines().next().unwrap_or_default());
    ensure!(verdicts.iter().all(|v| Some(v) == verdicts.first()), "not every time: {verdicts:?}");
    ensure!(!early, "lost before it was told: not the bug that is known");
    scene.second.check_session()?;
    scene.lab.passed();
    Ok(verdicts.first().copied())
}

/// This FRR has the bug no more.
fn not_shown(version: Option<Version>) {
    not_tested(&format!("the lost re-announcement of {}", which(Daemon::Frr, version)), "it loses none");
}

/// Behind virtd FRR loses it as it does alone, and is named for it; the neighbour has it.
fn masked(version: Option<Version>, inbound: &'static str) -> Result<()> {
    if let Some(version) = version
        && version.root()?.is_none()
    {
        return Ok(());
    }
    let mut scene = Scene::behind(version, inbound)?;
    for round in 1..=ROUNDS {
        let told = scene.named()?;
        let lost = scene.play(Round::AfterTelling, |scene, lost| scene.check_masked(lost, told))?;
        println!("behind virtd, {inbound}, {version:?}, round {round}: lost by FRR: {lost}");
        if !lost {
            ensure!(loses_alone(version, "")? != Some(true), "FRR alone loses it, and behind virtd it did not");
            not_shown(version);
            break;
        }
    }
    let early = scene.play(Round::BeforeTelling, |scene, _| scene.check_masked(false, 0))?;
    ensure!(!early, "lost before it was told: not the bug that is known");
    scene.second.check_session()?;
    scene.lab.passed();
    Ok(())
}

/// Scenarios that mostly wait, side by side.
fn together<C: Copy + Send, T: Send>(cases: &[C], scenario: impl Fn(C) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let scenario = &scenario;
        // By the test's name, for what is not tested.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let start = |c| std::thread::Builder::new().name(name.clone()).spawn_scoped(scope, move || scenario(c));
        let threads = cases.iter().copied().map(start).collect::<std::io::Result<Vec<_>>>()?;
        let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.collect()
    })
}

#[test]
fn frr_alone_loses_it_from_8_0_to_10_3() -> Result<()> {
    let losing = [(None, ""), (Some(Version::FRR_13), "")];
    // Older than the check that causes it, newer than its repair, and without it.
    let sound = [(Some(Version::FRR_11), ""), (Some(Version::FRR_SID), ""), (None, REMEDY)];
    let all = [&losing[..], &sound].concat();
    let lost = together(&all, |(version, more)| loses_alone(version, more))?;
    for (case, lost) in all.iter().zip(lost) {
        if losing.contains(case) && lost == Some(false) {
            not_shown(case.0);
        }
        ensure!(losing.contains(case) || lost != Some(true), "{case:?} loses the route as well");
    }
    Ok(())
}

#[test]
fn behind_virtd_the_neighbour_has_it_and_frr_is_named() -> Result<()> {
    let all = [(None, "rfc7606"), (None, "opaque"), (Some(Version::FRR_13), "rfc7606")];
    together(&all, |(version, inbound)| masked(version, inbound)).map(|_| ())
}
