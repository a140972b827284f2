//! What three versions of ONE code base mask of the bugs of docs/BUGS.md, and what they do not: docs/DIVERSITY.md has the table. A bug that two of
//! the three have is no minority's, and its row says what the neighbours see then. Neighbours are judged by their own logs.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};
use tests::alone::aloud;
use tests::curve::{Between, INSTANCES, Plan, play};
use tests::daemons::Daemon;
use tests::faults::watch::Watch;
use tests::lab::{Lab, Star, wait_until};
use tests::published::{as_path_mask, cve_2023_46753, cve_2023_47235, only_to_customer, zombie};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::versions::Version;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
/// What has not come so long after everything else has, does not come.
const NEVER: Duration = Duration::from_secs(5);
/// The prefix that it is all about.
const PREFIX: &str = "198.51.100.0/24";
/// A route that nothing is wrong with: it has to stand, whatever happens.
const ORDINARY: &str = "203.0.113.0/24";
const INBOUND: [&str; 2] = ["rfc7606", "opaque"];

/// Three versions of one code base.
#[derive(Clone, Copy, Debug)]
struct Trio {
    daemon: Daemon,
    versions: [Option<Version>; 3],
}

const fn bird(versions: [Option<Version>; 3]) -> Trio {
    Trio { daemon: Daemon::Bird, versions }
}

const fn frr(versions: [Option<Version>; 3]) -> Trio {
    Trio { daemon: Daemon::Frr, versions }
}

/// 2.0.7, 2.0.12, 2.17.5.
const OLD_BIRDS: Trio = bird([Some(Version::BIRD_11), None, Some(Version::BIRD_13)]);
/// 2.0.12, 2.17.5, 3.1.7.
const NEW_BIRDS: Trio = bird([None, Some(Version::BIRD_13), Some(Version::BIRD3_13)]);
/// 2.0.7, 2.17.5, 3.1.7.
const FAR_BIRDS: Trio = bird([Some(Version::BIRD_11), Some(Version::BIRD_13), Some(Version::BIRD3_13)]);
/// 7.5.1, 8.4.4, 10.3.
const OLD_FRRS: Trio = frr([Some(Version::FRR_11), None, Some(Version::FRR_13)]);
/// 8.4.4, 10.3, 10.7.
const NEW_FRRS: Trio = frr([None, Some(Version::FRR_13), Some(Version::FRR_SID)]);
/// 7.5.1, 8.4.4, 10.7.
const FAR_FRRS: Trio = frr([Some(Version::FRR_11), None, Some(Version::FRR_SID)]);

impl Trio {
    /// Whether all can be had; the one that cannot says so itself.
    fn there(&self) -> Result<bool> {
        for version in self.versions.into_iter().flatten() {
            if version.root()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn names(&self) -> Vec<String> {
        Options { daemons: vec![self.daemon; 3], ..Options::default() }.names()
    }

    /// In words, for what is printed.
    fn words(&self) -> String {
        self.versions.map(|v| tests::alone::name(self.daemon, v)).join(" + ")
    }
}

/// A router of a trio; the first neighbour announces, the second one listens, and the third makes trouble.
struct Scene {
    lab: Lab,
    star: Star,
    router: Router,
    a: Watch,
    second: Watch,
}

impl Scene {
    fn new(
        label: &str,
        trio: &Trio,
        inbound: &'static str,
        configure: impl Fn(&mut Router, &Lab, &Star) -> Result<()>,
    ) -> Result<Scene> {
        let mut lab = Lab::new(label)?;
        let star = lab.star(3)?;
        let options = Options {
            daemons: vec![trio.daemon; 3],
            versions: trio.versions.to_vec(),
            inbound,
            // Nobody is to be replaced for being wrong, or there is nothing left to see.
            timers: "fault_threshold_s = 3600\n".to_owned(),
            ..Options::default()
        };
        let mut router = Router::start(&lab, &star, &options)?;
        configure(&mut router, &lab, &star)?;
        let second = Watch::dial(&lab, &star.sites[1], &[])?;
        let a = Watch::dial(&lab, &star.sites[0], &[])?;
        let mut scene = Scene { lab, star, router, a, second };
        wait_until("the neighbours' sessions", UP, || {
            scene.a.look().and_then(|()| scene.second.look()).map_err(|e| format!("{e:#}"))?;
            if scene.a.ups == 1 && scene.second.ups == 1 { Ok(()) } else { Err("not yet".to_owned()) }
        })?;
        scene.a.say(&format!("announce {ORDINARY}"))?;
        scene.wait_there(ORDINARY, true)?;
        scene.router.wait_voting(SETTLE)?;
        Ok(scene)
    }

    /// The path of the second neighbour's route to a prefix, without the router's own AS; `None` where it has no route.
    fn path(&mut self, prefix: &str) -> Result<Option<String>> {
        self.second.look()?;
        let path = self.second.table.get(prefix).and_then(|route| route["as_path"].as_str());
        Ok(path.map(|path| path.trim_start_matches("65000").trim().to_owned()))
    }

    fn wait_path(&mut self, prefix: &str, path: Option<&str>, timeout: Duration) -> Result<()> {
        wait_until(&format!("{prefix} with {path:?} at the second neighbour"), timeout, || {
            match self.path(prefix).map_err(|e| format!("{e:#}"))? {
                now if now.as_deref() == path => Ok(()),
                now => Err(format!("{now:?}")),
            }
        })
    }

    fn wait_there(&mut self, prefix: &str, there: bool) -> Result<()> {
        wait_until(&format!("{prefix} at the second neighbour: {there}"), SETTLE, || {
            match self.path(prefix).map_err(|e| format!("{e:#}"))? {
                now if now.is_some() == there => Ok(()),
                now => Err(format!("{now:?}")),
            }
        })
    }

    /// Instances that virtd has named for the prefix so far.
    fn named(&self) -> BTreeSet<String> {
        let events = ["disagreement", "instance-malformed"].map(|kind| self.router.events(kind)).concat();
        let about = events.iter().filter(|e| e["prefix"] == PREFIX || e["kind"] == "instance-malformed");
        about.filter_map(|e| e["instance"].as_str().map(str::to_owned)).collect()
    }

    /// Who has ended.
    fn dead(&mut self) -> BTreeSet<String> {
        let ended = self.router.instances.iter_mut().filter_map(|i| (!i.running()).then(|| i.name.clone()));
        ended.collect()
    }

    /// The ordinary route has stood all the time, and so have the sessions of those that made no trouble.
    fn check_unmoved(&mut self) -> Result<()> {
        for watch in [&mut self.a, &mut self.second] {
            watch.check_session()?;
        }
        let told: Vec<_> = self.second.changes.iter().filter(|c| c.prefix == ORDINARY).collect();
        ensure!(told.len() == 1, "the ordinary route did not stand: {told:?}");
        Ok(())
    }

    /// Starts who is dead again until all vote; how often each had died by then, this time included.
    fn revive(&mut self) -> Result<BTreeMap<String, usize>> {
        let mut deaths = BTreeMap::new();
        let start = Instant::now();
        loop {
            for name in self.dead() {
                *deaths.entry(name.clone()).or_default() += 1;
                let instance = self.router.instance(&name)?;
                instance.crash();
                // It may die while it is asked whether it has started.
                let _ = instance.launch(&self.lab);
            }
            std::thread::sleep(Duration::from_secs(1));
            if self.dead().is_empty() && self.router.wait_voting(Duration::from_secs(2)).is_ok() {
                return Ok(deaths);
            }
            ensure!(start.elapsed() < SETTLE * 2, "they do not come to vote: {deaths:?}");
        }
    }

    fn print(&self, what: &str, words: &str) {
        let mut kinds = BTreeMap::new();
        for kind in ["one-alone", "no-quorum", "majority-split", "poison", "disagreement", "instance-malformed"] {
            kinds.insert(kind, self.router.events(kind).len());
        }
        println!("{what}: {words}; events {kinds:?}");
    }
}

/// What an UPDATE that kills did.
#[derive(Debug, PartialEq, Eq)]
struct Killed {
    /// Who died of it.
    died: Vec<String>,
    /// How often in all, until all voted again.
    deaths: usize,
    /// The neighbour had the route of the UPDATE before anybody was started again.
    passed_on: bool,
}

/// Sends an UPDATE that kills the instances that `mortal` counts, starts them again, and looks at what the neighbours have seen.
fn kill(
    label: &str,
    trio: &Trio,
    inbound: &'static str,
    mortal: &[usize],
    configure: impl Fn(&mut Router, &Lab, &Star) -> Result<()>,
    offer: &[&str],
    raw: impl Fn(&Lab, &Star) -> Result<String>,
) -> Result<Option<Killed>> {
    if !trio.there()? {
        return Ok(None);
    }
    let mut scene = Scene::new(label, trio, inbound, &configure)?;
    let raw = raw(&scene.lab, &scene.star)?;
    let names = trio.names();
    let mortal: BTreeSet<String> = mortal.iter().filter_map(|i| names.get(*i).cloned()).collect();
    let arguments = [offer, &["--raw", &raw]].concat();
    let mut sender = Replayer::dial(&scene.lab, &scene.star.sites[2], false, &arguments)?;
    sender.wait_event("session-up", UP)?;
    let start = Instant::now();
    while !scene.dead().is_superset(&mortal) && start.elapsed() < UP {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(NEVER);
    let died = scene.dead();
    let passed_on = scene.path(PREFIX)?.is_some();
    scene.check_unmoved().with_context(|| format!("{died:?} are dead"))?;
    let deaths = scene.revive()?;
    scene.check_unmoved().context("after they came back")?;
    let killed = Killed { died: died.iter().cloned().collect(), deaths: deaths.values().sum(), passed_on };
    scene.print(label, &format!("{inbound}, {}: {killed:?}", trio.words()));
    sender.finish()?;
    scene.check_unmoved().context("after the sender left")?;
    scene.lab.passed();
    Ok(Some(killed))
}

/// The path mask, in all three.
fn masked_path(trio: &Trio, inbound: &'static str, mortal: &[usize]) -> Result<Option<Killed>> {
    let configure = |router: &mut Router, _: &Lab, _: &Star| {
        let ns = router.ns().clone();
        router.instances.iter().try_for_each(|bird| as_path_mask::configure(bird, &ns, true))
    };
    kill("versions-mask", trio, inbound, mortal, configure, &[], |lab, star| {
        let (file, site) = (lab.directory().join("mask.hex"), &star.sites[2]);
        fs::write(&file, as_path_mask::update(site.asn, site.v4.octets()))?;
        Ok(file.display().to_string())
    })
}

/// The UPDATE without a path; all three prepend.
fn pathless(trio: &Trio, inbound: &'static str, mortal: &[usize]) -> Result<Option<Killed>> {
    let configure = |router: &mut Router, _: &Lab, star: &Star| {
        router.instances.iter().try_for_each(|frr| cve_2023_46753::prepend(frr, &star.router, star.sites[2].v4.into()))
    };
    let raw = |_: &Lab, _: &Star| Ok(cve_2023_46753::UPDATE.to_owned());
    kill("versions-pathless", trio, inbound, mortal, configure, &["--graceful-restart"], raw)
}

#[test]
fn the_path_mask() -> Result<()> {
    for (trio, mortal) in [(OLD_BIRDS, &[0, 1][..]), (NEW_BIRDS, &[0])] {
        println!("{:?}", masked_path(&trio, "rfc7606", mortal)?);
    }
    Ok(())
}

#[test]
fn cve_2023_46753_opaque() -> Result<()> {
    for (trio, mortal) in [(OLD_FRRS, &[0, 1][..]), (NEW_FRRS, &[0])] {
        println!("{:?}", pathless(&trio, "opaque", mortal)?);
    }
    Ok(())
}

/// virtd answers it itself: no version is asked.
#[test]
fn cve_2023_47235_reaches_no_version() -> Result<()> {
    let configure = |router: &mut Router, _: &Lab, star: &Star| {
        router.instances.iter().try_for_each(|frr| cve_2023_47235::prepend(frr, &star.router, star.sites[2].v4.into()))
    };
    for inbound in INBOUND {
        let raw = |_: &Lab, _: &Star| Ok(cve_2023_47235::UPDATE.to_owned());
        let killed = kill("versions-unparsable", &OLD_FRRS, inbound, &[], configure, &cve_2023_47235::OFFER, raw)?;
        println!("{killed:?}");
    }
    Ok(())
}

/// What a neighbour was left with.
#[derive(Debug)]
struct Zombie {
    /// After C's withdraw: A's path, as it should be.
    right: bool,
    /// After A's withdraw and C's new announcement: C's path, as it should be.
    back: bool,
    named: BTreeSet<String>,
}

fn zombie_route(trio: &Trio, inbound: &'static str) -> Result<Option<Zombie>> {
    if !trio.there()? {
        return Ok(None);
    }
    let configure = |router: &mut Router, lab: &Lab, _: &Star| {
        router.instances.iter_mut().try_for_each(|bird| zombie::configure(bird, lab, 1))
    };
    let mut scene = Scene::new("versions-zombie", trio, inbound, configure)?;
    let mut c = Watch::dial(&scene.lab, &scene.star.sites[2], &[])?;
    scene.a.say(&format!("announce {PREFIX} as-path 65001 64999"))?;
    scene.wait_path(PREFIX, Some("65001 64999"), SETTLE)?;
    c.say(&format!("announce {PREFIX} as-path 65003"))?;
    scene.wait_path(PREFIX, Some("65003"), SETTLE)?;
    c.say(&format!("withdraw {PREFIX}"))?;
    c.say("announce 192.0.2.0/24 as-path 65003")?;
    scene.wait_there("192.0.2.0/24", true)?;
    let right = scene.wait_path(PREFIX, Some("65001 64999"), NEVER * 2).is_ok();
    scene.a.say(&format!("withdraw {PREFIX}"))?;
    scene.wait_there(PREFIX, false)?;
    c.say(&format!("announce {PREFIX} as-path 65003"))?;
    c.say("withdraw 192.0.2.0/24")?;
    scene.wait_there("192.0.2.0/24", false)?;
    let back = scene.wait_path(PREFIX, Some("65003"), NEVER * 2).is_ok();
    std::thread::sleep(NEVER);
    let seen = Zombie { right, back, named: scene.named() };
    scene.print("zombie", &format!("{inbound}, {}: {seen:?}", trio.words()));
    c.check_session()?;
    scene.check_unmoved()?;
    scene.lab.passed();
    Ok(Some(seen))
}

#[test]
fn the_zombie_route() -> Result<()> {
    for trio in [OLD_BIRDS, FAR_BIRDS] {
        println!("{:?}", zombie_route(&trio, "rfc7606")?);
    }
    Ok(())
}

/// The attribute well-formed: whether it came as it was meant, whether the neighbour was sent something malformed, and who was named.
#[derive(Debug)]
struct Attribute {
    meant: bool,
    malformed: usize,
    named: BTreeSet<String>,
}

fn attribute(trio: &Trio, inbound: &'static str) -> Result<Option<Attribute>> {
    if !trio.there()? {
        return Ok(None);
    }
    let mut scene = Scene::new("versions-otc", trio, inbound, |_, _, _| Ok(()))?;
    let update = only_to_customer::update(&scene.star.sites[0], &only_to_customer::EXTENDED);
    scene.a.say(&format!("raw {update}"))?;
    scene.wait_there(PREFIX, true)?;
    std::thread::sleep(NEVER);
    scene.second.look()?;
    let other = scene.second.table.get(PREFIX).map(|route| route["other"].to_string()).unwrap_or_default();
    let (meant, malformed) = (other.contains("0000fde9"), scene.second.malformed.len());
    let seen = Attribute { meant, malformed, named: scene.named() };
    scene.print("otc", &format!("{inbound}, {}: {seen:?}, {other}", trio.words()));
    scene.check_unmoved()?;
    scene.lab.passed();
    Ok(Some(seen))
}

#[test]
fn only_to_customer_garbled() -> Result<()> {
    for trio in [OLD_BIRDS, FAR_BIRDS] {
        println!("{:?}", attribute(&trio, "rfc7606")?);
    }
    Ok(())
}

/// How many of a few histories the neighbour has lost the route in, and who of the three had in any of them.
fn lost(trio: &Trio) -> Result<Option<(usize, BTreeSet<String>)>> {
    if !trio.there()? {
        return Ok(None);
    }
    // All gaps within the interval: no timing decides it.
    let plan = Plan { interval_s: 5, gap_ms: 500, pairs: 5, runs: 5, seed: 1, versions: trio.versions };
    let runs = play(&plan, Between::Behind { delay_ms: 0, delayed: INSTANCES }, &|_| ())?;
    let lost = runs.iter().filter(|run| run.lost).count();
    let by = runs.into_iter().flat_map(|run| run.lost_by).collect();
    aloud(&format!("lost re-announcement, {}: {lost} of {} lost, by {by:?}", trio.words(), plan.runs));
    Ok(Some((lost, by)))
}

#[test]
fn the_lost_reannouncement() -> Result<()> {
    for trio in [OLD_FRRS, FAR_FRRS] {
        println!("{:?}", lost(&trio)?);
    }
    Ok(())
}
