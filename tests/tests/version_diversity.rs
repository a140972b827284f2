//! What three versions of ONE code base mask of the bugs of docs/BUGS.md, and what they do not:
//! docs/DIVERSITY.md has the table. A bug that two of the three have is no minority's, and its row
//! says what the neighbours see then. Neighbours are judged by their own logs.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tests::alone::which;
use tests::curve::{Between, INSTANCES, Plan, play};
use tests::daemons::{Attach, Daemon, Instance};
use tests::faults::watch::Watch;
use tests::fib::{by_protocol, wait_state};
use tests::lab::{Lab, Star, wait_until};
use tests::operate::control;
use tests::published::{as_path_mask, cve_2023_46753, cve_2023_47235, only_to_customer, zombie};
use tests::quiet::AFTER;
use tests::router::{ASN, Options, Router};
use tests::untested::not_tested;
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
    /// Whether all can be had; one that cannot is written down as not tested.
    fn there(&self) -> Result<bool> {
        Options { versions: self.versions.to_vec(), ..Options::default() }.there()
    }

    fn names(&self) -> Vec<String> {
        Options { daemons: vec![self.daemon; 3], ..Options::default() }.names()
    }

    /// These have not shown the bug.
    fn not_tested(&self, bug: &str, why: &str) {
        not_tested(&format!("{bug} of {}", self.versions.map(|v| which(self.daemon, v)).join(" + ")), why);
    }

    /// In words, for what is printed.
    fn words(&self) -> String {
        self.versions.map(|v| tests::alone::name(self.daemon, v)).join(" + ")
    }
}

/// A router of a trio; the first neighbour announces, the second one listens, and the third makes
/// trouble.
struct Scene {
    trio: Trio,
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
        let mut scene = Scene { trio: *trio, lab, star, router, a, second };
        wait_until("the neighbours' sessions", UP, || {
            scene.a.look().and_then(|()| scene.second.look()).map_err(|e| format!("{e:#}"))?;
            if scene.a.ups == 1 && scene.second.ups == 1 { Ok(()) } else { Err("not yet".to_owned()) }
        })?;
        scene.a.say(&format!("announce {ORDINARY}"))?;
        scene.wait_there(ORDINARY, true)?;
        scene.router.wait_voting(SETTLE)?;
        Ok(scene)
    }

    /// The path of the second neighbour's route to a prefix, without the router's own AS; `None`
    /// where it has no route.
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

    /// The ordinary route has stood all the time, and so have the sessions of those that made no
    /// trouble.
    fn check_unmoved(&mut self) -> Result<()> {
        for watch in [&mut self.a, &mut self.second] {
            watch.check_session()?;
        }
        let told: Vec<_> = self.second.changes.iter().filter(|c| c.prefix == ORDINARY).collect();
        ensure!(told.len() == 1, "the ordinary route did not stand: {told:?}");
        Ok(())
    }

    /// Who virtd has found the UPDATE of, and withholds it from.
    fn spared(&self) -> BTreeSet<String> {
        self.router.events("poison").iter().filter_map(|e| e["instance"].as_str().map(str::to_owned)).collect()
    }

    /// Starts who is dead again until all vote, and virtd has found what each of these died of; how
    /// often each had died by then.
    fn revive(&mut self, mortal: &BTreeSet<String>) -> Result<BTreeMap<String, usize>> {
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
            let found = self.spared().is_superset(mortal);
            if found && self.dead().is_empty() && self.router.wait_voting(Duration::from_secs(2)).is_ok() {
                return Ok(deaths);
            }
            ensure!(
                start.elapsed() < SETTLE * 2,
                "they do not come to vote: {deaths:?}, found for {:?}",
                self.spared()
            );
        }
    }

    /// One instance is named for the prefix, and nobody else. Where none is, the bug is not in
    /// these versions any more.
    fn check_named(&self, bug: &str, wrong: &str) -> Result<()> {
        let named = wait_until("virtd to name who is wrong", NEVER * 4, || {
            let named = self.named();
            if named.is_empty() { Err(String::new()) } else { Ok(named) }
        });
        let Ok(named) = named else {
            self.trio.not_tested(bug, &format!("{wrong} is not wrong about the prefix"));
            return Ok(());
        };
        ensure!(named.iter().eq([wrong]), "{named:?} are named, not {wrong}");
        Ok(())
    }
}

/// Sends an UPDATE that kills those of the trio that `mortal` counts, starts them again until virtd
/// has found it and withholds it, and asks the neighbours what they have noticed: nothing, whoever
/// is left. `passed_on`: they have the route of the UPDATE, if anybody lives with it.
struct Kill<'a> {
    label: &'a str,
    trio: Trio,
    inbound: &'static str,
    mortal: &'a [usize],
    configure: fn(&Instance, &Star) -> Result<()>,
    offer: &'a [&'a str],
    raw: fn(&Star) -> String,
    passed_on: bool,
}

impl Kill<'_> {
    fn play(&self) -> Result<()> {
        if !self.trio.there()? {
            return Ok(());
        }
        let mut scene = Scene::new(self.label, &self.trio, self.inbound, |router, _, star| {
            router.instances.iter().try_for_each(|instance| (self.configure)(instance, star))
        })?;
        let raw = (self.raw)(&scene.star);
        let names = self.trio.names();
        let mortal: BTreeSet<String> = self.mortal.iter().filter_map(|i| names.get(*i).cloned()).collect();
        let mut sender = Watch::steered(&scene.lab, &scene.star.sites[2], self.offer)?;
        // A majority is enough for a session, and who joins later is not told what was malformed
        // before.
        scene.router.wait_joined(&sender.site.v4.to_string(), UP)?;
        sender.say(&format!("raw {raw}"))?;
        let all_dead = wait_until("them to die", UP, || {
            if scene.dead().is_superset(&mortal) { Ok(()) } else { Err(format!("{:?}", scene.dead())) }
        });
        // Who tells of a route that came after it has read it, and lives.
        sender.say(&format!("announce {AFTER}"))?;
        wait_until("those that live to tell of what came after", SETTLE, || {
            let (dead, second) = (scene.dead(), scene.second.site.v4.to_string());
            let tellers = scene.router.tellers(AFTER, &second).map_err(|e| format!("{e:#}"))?;
            let silent: Vec<_> = names.iter().filter(|n| !dead.contains(*n) && !tellers.contains(n)).collect();
            if silent.is_empty() { Ok(()) } else { Err(format!("{silent:?} do not")) }
        })?;
        let died = scene.dead();
        ensure!(died.is_subset(&mortal), "{died:?} are dead, and only {mortal:?} have the bug");
        if all_dead.is_err() {
            self.trio.not_tested(self.label, &format!("only {died:?} of {mortal:?} die of it"));
        }
        if self.passed_on {
            scene.wait_there(PREFIX, true)?;
        } else {
            ensure!(scene.path(PREFIX)?.is_none(), "the neighbour has a route of what is malformed");
        }
        scene.check_unmoved().with_context(|| format!("{died:?} are dead"))?;
        let alone = scene.router.events("one-alone").len();
        ensure!((alone > 0) == (died.len() == 2), "{died:?} died, and {alone} times one was alone");
        let deaths = scene.revive(&died)?;
        scene.check_unmoved().context("after they came back")?;
        println!("{}, {}, {}: died, each so often: {deaths:?}", self.label, self.inbound, self.trio.words());
        sender.leave()?;
        scene.check_unmoved().context("after the sender left")?;
        scene.lab.passed();
        Ok(())
    }
}

/// BIRD's path mask, in all three.
fn path_mask(trio: Trio, mortal: &[usize]) -> Result<()> {
    let configure = |bird: &Instance, star: &Star| as_path_mask::configure(bird, &star.router, true);
    let raw = |star: &Star| as_path_mask::update(star.sites[2].asn, star.sites[2].v4.octets());
    let inbound = "rfc7606";
    Kill { label: "versions-mask", trio, inbound, mortal, configure, offer: &[], raw, passed_on: true }.play()
}

/// The UPDATE without a path, which is malformed for those that live as well; all three prepend.
fn pathless(trio: Trio, mortal: &[usize]) -> Result<()> {
    let configure = |frr: &Instance, star: &Star| cve_2023_46753::prepend(frr, &star.router, star.sites[2].v4.into());
    let raw = |_: &Star| cve_2023_46753::UPDATE.to_owned();
    let (inbound, offer) = ("opaque", &["--graceful-restart"][..]);
    Kill { label: "versions-pathless", trio, inbound, mortal, configure, offer, raw, passed_on: false }.play()
}

#[test]
fn the_path_mask_leaves_one_of_2_0_7_2_0_12_and_2_17_5() -> Result<()> {
    path_mask(OLD_BIRDS, &[0, 1])
}

#[test]
fn the_path_mask_leaves_two_of_2_0_12_2_17_5_and_3_1_7() -> Result<()> {
    path_mask(NEW_BIRDS, &[0])
}

#[test]
fn cve_2023_46753_leaves_one_of_7_5_1_8_4_4_and_10_3() -> Result<()> {
    pathless(OLD_FRRS, &[0, 1])
}

#[test]
fn cve_2023_46753_leaves_two_of_8_4_4_10_3_and_10_7() -> Result<()> {
    pathless(NEW_FRRS, &[0])
}

/// virtd answers it itself: no version is asked.
#[test]
fn cve_2023_47235_reaches_no_version() -> Result<()> {
    let configure = |frr: &Instance, star: &Star| cve_2023_47235::prepend(frr, &star.router, star.sites[2].v4.into());
    let raw = |_: &Star| cve_2023_47235::UPDATE.to_owned();
    INBOUND.into_iter().try_for_each(|inbound| {
        let (trio, offer) = (OLD_FRRS, &cve_2023_47235::OFFER[..]);
        Kill { label: "versions-unparsable", trio, inbound, mortal: &[], configure, offer, raw, passed_on: false }
            .play()
    })
}

/// C's shorter path comes between A's and goes again; A's goes, and C's comes again. The neighbour
/// is told what stands, and `wrong` is named.
fn zombie_route(trio: Trio, wrong: &str) -> Result<()> {
    if !trio.there()? {
        return Ok(());
    }
    let mut scene = Scene::new("versions-zombie", &trio, "rfc7606", |router, lab, _| {
        router.instances.iter_mut().try_for_each(|bird| zombie::configure(bird, lab, 1))
    })?;
    let mut c = Watch::dial(&scene.lab, &scene.star.sites[2], &[])?;
    scene.a.say(&format!("announce {PREFIX} as-path 65001 64999"))?;
    scene.wait_path(PREFIX, Some("65001 64999"), SETTLE)?;
    c.say(&format!("announce {PREFIX} as-path 65003"))?;
    scene.wait_path(PREFIX, Some("65003"), SETTLE)?;
    c.say(&format!("withdraw {PREFIX}"))?;
    scene.wait_path(PREFIX, Some("65001 64999"), SETTLE)?;
    scene.check_named("the zombie route", wrong)?;
    scene.a.say(&format!("withdraw {PREFIX}"))?;
    scene.wait_path(PREFIX, None, SETTLE)?;
    c.say(&format!("announce {PREFIX} as-path 65003"))?;
    scene.wait_path(PREFIX, Some("65003"), SETTLE)?;
    let told = scene.second.changes.iter().filter(|c| c.prefix == PREFIX).count();
    ensure!(told == 5, "the neighbour was told of it {told} times: {:?}", scene.second.changes);
    println!("zombie route, {}: named {:?}", trio.words(), scene.named());
    c.check_session()?;
    scene.check_unmoved()?;
    scene.lab.passed();
    Ok(())
}

#[test]
fn the_zombie_route_of_2_0_7_is_outvoted_by_later_birds() -> Result<()> {
    [OLD_BIRDS, FAR_BIRDS].into_iter().try_for_each(|trio| zombie_route(trio, "bird"))
}

/// The attribute that BIRD 2.0.7 garbles arrives as it was meant.
fn attribute(trio: Trio, wrong: &str) -> Result<()> {
    if !trio.there()? {
        return Ok(());
    }
    let mut scene = Scene::new("versions-otc", &trio, "rfc7606", |_, _, _| Ok(()))?;
    let update = only_to_customer::update(&scene.star.sites[0], &only_to_customer::EXTENDED);
    scene.a.say(&format!("raw {update}"))?;
    scene.wait_path(PREFIX, Some("65001"), SETTLE)?;
    scene.check_named("the garbled attribute", wrong)?;
    let other = scene.second.table.get(PREFIX).map(|route| route["other"].to_string()).unwrap_or_default();
    ensure!(other.contains("0000fde9"), "the attribute is not there as it was meant: {other}");
    ensure!(scene.second.malformed.is_empty(), "the neighbour was sent {:?}", scene.second.malformed);
    println!("ONLY_TO_CUSTOMER, {}: {other}, named {:?}", trio.words(), scene.named());
    scene.check_unmoved()?;
    scene.lab.passed();
    Ok(())
}

#[test]
fn the_attribute_that_2_0_7_garbles_is_outvoted_by_later_birds() -> Result<()> {
    [OLD_BIRDS, FAR_BIRDS].into_iter().try_for_each(|trio| attribute(trio, "bird"))
}

/// A few histories with all gaps within the interval, so that no timing decides it. The neighbour
/// is without the route where two have lost it, and then it is the one that has it who is named.
fn lost(trio: Trio, wrong: &[&str]) -> Result<()> {
    if !trio.there()? {
        return Ok(());
    }
    let plan = Plan { interval_s: 5, gap_ms: (100, 500), pairs: 5, runs: 5, seed: 1, versions: trio.versions };
    let runs = play(&plan, Between::Behind { delay_ms: 0, delayed: INSTANCES }, &|_| ())?;
    for run in &runs {
        println!("lost re-announcement, {}: {run:?}", trio.words());
        let (lost_by, named): (Vec<_>, Vec<_>) = (run.lost_by.iter().collect(), run.named.iter().collect());
        ensure!(lost_by.iter().all(|name| wrong.contains(&name.as_str())), "lost by {lost_by:?}, not {wrong:?} only");
        ensure!(run.lost == (lost_by.len() >= 2), "lost by {lost_by:?}, and by the router: {}", run.lost);
        let minority: Vec<String> = match run.lost {
            false => run.lost_by.clone(),
            true => trio.names().into_iter().filter(|name| !run.lost_by.contains(name)).collect(),
        };
        ensure!(named == minority.iter().collect::<Vec<_>>(), "{named:?} named, {minority:?} alone with it");
    }
    // A machine that stops for seconds can spoil a history, not all of them.
    if !runs.iter().any(|run| run.lost_by.len() == wrong.len()) {
        trio.not_tested("the lost re-announcement", &format!("in no history {wrong:?} lost the route"));
    }
    Ok(())
}

#[test]
fn the_lost_reannouncement_wins_among_7_5_1_8_4_4_and_10_3() -> Result<()> {
    lost(OLD_FRRS, &["frr2", "frr3"])
}

#[test]
fn the_lost_reannouncement_is_outvoted_by_7_5_1_and_10_7() -> Result<()> {
    lost(FAR_FRRS, &["frr2"])
}

/// The link towards the first neighbour goes down and comes back, faster than any session notices.
fn flap(star: &Star) -> Result<()> {
    star.router.run("ip", &["link", "set", "n1", "down"])?;
    // This is how long it is down.
    std::thread::sleep(Duration::from_secs(1));
    star.router.run("ip", &["link", "set", "n1", "up"]).map(|_| ())
}

/// Gives a running FRR both neighbours' paths as one route with two next hops, and no haste to end
/// a session with its link.
fn multipath(frr: &Instance, star: &Star) -> Result<()> {
    let lines = "no bgp fast-external-failover\nbgp bestpath as-path multipath-relax\naddress-family ipv4 unicast\nmaximum-paths 2";
    control(frr, &star.router, &format!("configure terminal\nrouter bgp {ASN}\n{lines}")).map(|_| ())
}

/// Two neighbours that announce the same.
fn announce_both(lab: &Lab, star: &Star) -> Result<[Watch; 2]> {
    let mut both = [Watch::dial(lab, &star.sites[0], &[])?, Watch::dial(lab, &star.sites[1], &[])?];
    both.iter_mut().try_for_each(|watch| watch.say(&format!("announce {PREFIX}")))?;
    Ok(both)
}

fn wait_hops(star: &Star, protocol: &str, hops: usize, timeout: Duration) -> Result<()> {
    wait_until(&format!("{hops} next hops in the kernel"), timeout, || {
        let routes = by_protocol(&star.router, protocol).map_err(|e| format!("{e:#}"))?;
        let now = routes.get(PREFIX).map_or(0, Vec::len);
        if now == hops { Ok(()) } else { Err(format!("{now}")) }
    })
}

/// Whether FRR alone leaves the kernel with one next hop of two after a link was down for a second.
fn loses_a_hop(version: Option<Version>) -> Result<bool> {
    let root = version.map(Version::needed).transpose()?;
    let mut lab = Lab::new("versions-hop-alone")?;
    let star = lab.star(2)?;
    let spec = Options { fib: true, ..Options::default() }.spec(&star.sites);
    let frr = Instance::start_in(&lab, &star.router, Daemon::Frr, "frr", &spec, &Attach::Native, root)?;
    multipath(&frr, &star)?;
    let _both = announce_both(&lab, &star)?;
    wait_hops(&star, "186", 2, UP)?;
    flap(&star)?;
    let lost = wait_hops(&star, "186", 2, NEVER * 3).is_err();
    println!(
        "{} alone: {}",
        tests::alone::name(Daemon::Frr, version),
        if lost { "one of two next hops" } else { "both" }
    );
    lab.passed();
    Ok(lost)
}

/// The kernel has both next hops, and who says otherwise is named.
fn both_hops(trio: Trio, wrong: &str) -> Result<()> {
    if !trio.there()? {
        return Ok(());
    }
    let mut lab = Lab::new("versions-hop")?;
    let star = lab.star(2)?;
    let options =
        Options { daemons: vec![trio.daemon; 3], versions: trio.versions.to_vec(), fib: true, ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    router.instances.iter().try_for_each(|frr| multipath(frr, &star))?;
    let mut both = announce_both(&lab, &star)?;
    wait_hops(&star, "245", 2, SETTLE)?;
    for name in trio.names() {
        wait_state(&router, &name, "voting", SETTLE)?;
    }
    flap(&star)?;
    wait_until("somebody to be named", NEVER * 6, || {
        let events = router.events("fib-disagreement");
        let named = events.iter().any(|e| e["instance"] == wrong && e["prefix"] == PREFIX);
        if named { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .or_else(|e| if loses_a_hop(None)? { Err(e) } else { Ok(()) })?;
    wait_hops(&star, "245", 2, SETTLE)?;
    println!("the lost next hop, {}: {}", trio.words(), router.show(&["fib", PREFIX])?);
    both.iter_mut().try_for_each(Watch::check_session)?;
    lab.passed();
    Ok(())
}

#[test]
fn the_next_hop_that_8_4_4_loses_stays_in_the_kernel() -> Result<()> {
    for version in [Some(Version::FRR_11), None, Some(Version::FRR_13), Some(Version::FRR_SID)] {
        if version.map(Version::root).transpose()?.is_some_and(|root| root.is_none()) {
            continue;
        }
        let lost = loses_a_hop(version)?;
        ensure!(!lost || version.is_none(), "{version:?} loses one as well");
        if !lost && version.is_none() {
            not_tested("the next hop that the installed frr loses", "it loses none");
        }
    }
    both_hops(OLD_FRRS, "frr2")?;
    both_hops(NEW_FRRS, "frr")
}

/// Two versions can be had, and the older one writes no routes on Linux: two of the newer one
/// beside it are the majority, and wrong.
#[test]
fn the_routes_that_openbgpd_8_8_forgets_are_gone_where_two_are_8_8() -> Result<()> {
    let newer = Some(Version::OPENBGPD_13);
    let trio = Trio { daemon: Daemon::OpenBgpd, versions: [None, newer, newer] };
    if !trio.there()? {
        return Ok(());
    }
    let mut lab = Lab::new("versions-forgotten")?;
    let star = lab.star(2)?;
    let options =
        Options { daemons: vec![trio.daemon; 3], versions: trio.versions.to_vec(), fib: true, ..Options::default() };
    let _router = Router::start(&lab, &star, &options)?;
    let mut a = Watch::dial(&lab, &star.sites[0], &[])?;
    a.say(&format!("announce {PREFIX}"))?;
    wait_hops(&star, "245", 1, SETTLE)?;
    flap(&star)?;
    wait_hops(&star, "245", 0, UP)?;
    if wait_hops(&star, "245", 1, NEVER * 3).is_ok() {
        trio.not_tested("the routes forgotten with a link", "it writes them again");
    }
    a.check_session()?;
    lab.passed();
    Ok(())
}
