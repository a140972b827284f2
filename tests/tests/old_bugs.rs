//! Published bugs that other versions than the installed ones have (docs/BUGS.md): each first with
//! the unmodified daemon alone, then behind virtd, judged from the neighbours' own logs.
//! tests/bugs.rs and tests/poison.rs have those of the installed versions.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tests::alone::{alone, has_bug, name, ordinary_routes_pass};
use tests::daemons::{Daemon, Instance};
use tests::faults::watch::{Watch, text_of};
use tests::lab::{Lab, Star, wait_for, wait_until};
use tests::published::{PREFIX, Prepend, as_path_mask, cve_2023_46753, cve_2023_47235, only_to_customer, zombie};
use tests::quiet::{AFTER, Quiet};
use tests::replayer::{Replayer, reproduce};
use tests::router::{Options, Router};
use tests::versions::Version;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
/// What a bug has kept from a neighbour for so long, although what was said after it has come, does
/// not come any more.
const NEVER: Duration = Duration::from_secs(5);

/// Both values of `inbound`.
const INBOUND: [&str; 2] = ["rfc7606", "opaque"];

/// Neighbours that are steered, and watched through their own logs: the first two announce, the
/// last one listens.
struct Around {
    a: Watch,
    c: Watch,
    second: Watch,
}

impl Around {
    fn dial(lab: &Lab, star: &Star) -> Result<Around> {
        let watch = |i: usize| Watch::dial(lab, star.sites.get(i).context("a site for it")?, &[]);
        let mut around = Around { a: watch(0)?, second: watch(1)?, c: watch(2)? };
        for watch in [&mut around.a, &mut around.c, &mut around.second] {
            wait_until("the neighbours' sessions", UP, || {
                watch.look().map_err(|e| format!("{e:#}"))?;
                if watch.ups > 0 { Ok(()) } else { Err(format!("{:?}", watch.downs)) }
            })?;
        }
        Ok(around)
    }

    /// The path of the second neighbour's route to a prefix, without the router's own AS; empty
    /// where it has none.
    fn path(&mut self, prefix: &str) -> Result<String> {
        self.second.look()?;
        let path = self.second.table.get(prefix).and_then(|route| route["as_path"].as_str()).unwrap_or_default();
        Ok(path.trim_start_matches("65000").trim().to_owned())
    }

    /// Waits until the second neighbour has a prefix with this path; empty: has it no more.
    fn wait_path(&mut self, prefix: &str, path: &str, timeout: Duration) -> Result<()> {
        wait_until(&format!("{prefix} with path [{path}] at the second neighbour"), timeout, || {
            match self.path(prefix).map_err(|e| format!("{e:#}"))? {
                now if now == path => Ok(()),
                now => Err(format!("[{now}]")),
            }
        })
    }

    /// Each has had one session, and was sent nothing malformed.
    fn check_sessions(&mut self) -> Result<()> {
        for watch in [&mut self.a, &mut self.c, &mut self.second] {
            watch.check_session()?;
            ensure!(watch.malformed.is_empty(), "a neighbour was sent {:?}", watch.malformed);
        }
        Ok(())
    }

    /// C's shorter path to the prefix comes between A's and goes again; then a route that only
    /// shows that C was read.
    fn zombie(&mut self) -> Result<()> {
        self.a.say(&format!("announce {PREFIX} as-path 65001 64999"))?;
        self.wait_path(PREFIX, "65001 64999", SETTLE)?;
        self.c.say(&format!("announce {PREFIX} as-path 65003"))?;
        self.wait_path(PREFIX, "65003", SETTLE)?;
        self.c.say(&format!("withdraw {PREFIX}"))?;
        self.c.say("announce 203.0.113.0/24 as-path 65003")?;
        self.wait_path("203.0.113.0/24", "65003", SETTLE)
    }
}

/// Whether BIRD alone leaves the second neighbour with C's route after C's withdraw, and without it
/// when C announces it again after A's withdraw: for BIRD's export table it is there all the time.
fn zombie_alone() -> Result<bool> {
    let configure = |bird: &mut Instance, lab: &Lab, _: &Star| zombie::configure(bird, lab, 1);
    let (lab, star, _bird) = alone("zombie-alone", Daemon::Bird, Some(Version::BIRD_11), configure)?;
    let mut around = Around::dial(&lab, &star)?;
    around.zombie()?;
    let kept = around.wait_path(PREFIX, "65001 64999", NEVER).is_err() && around.path(PREFIX)? == "65003";
    around.a.say(&format!("withdraw {PREFIX}"))?;
    around.wait_path(PREFIX, "", SETTLE)?;
    around.c.say(&format!("announce {PREFIX} as-path 65003"))?;
    around.c.say("announce 192.0.2.0/24 as-path 65003")?;
    around.wait_path("192.0.2.0/24", "65003", SETTLE)?;
    let lost = around.wait_path(PREFIX, "65003", NEVER).is_err();
    around.check_sessions()?;
    lab.passed();
    println!("BIRD alone: the withdrawn route kept, {kept}; the one announced again lost, {lost}");
    Ok(kept && lost)
}

/// Waits for virtd to say, after so many other events of the kind, that an instance is not with the
/// majority on the prefix towards the second neighbour.
fn wait_named(router: &Router, instance: &str, since: usize) -> Result<()> {
    wait_until("virtd to name who is wrong about the prefix", SETTLE, || {
        let found = router.events("disagreement");
        let named = |e: &Value| e["instance"] == instance && e["prefix"] == PREFIX && e["session"] == "10.0.2.2";
        if found.iter().skip(since).any(named) { Ok(()) } else { Err(format!("{found:?}")) }
    })
}

fn zombie_is_outvoted(inbound: &'static str) -> Result<()> {
    let mut lab = Lab::new("zombie")?;
    let star = lab.star(3)?;
    let options = Options {
        daemons: vec![Daemon::Bird, Daemon::Bird, Daemon::Frr],
        versions: vec![Some(Version::BIRD_11), None, None],
        inbound,
        ..Options::default()
    };
    let mut router = Router::start(&lab, &star, &options)?;
    zombie::configure(router.instance("bird")?, &lab, 1)?;
    let mut around = Around::dial(&lab, &star)?;
    router.wait_voting(SETTLE)?;
    around.zombie()?;
    around.wait_path(PREFIX, "65001 64999", SETTLE)?;
    wait_named(&router, "bird", 0)?;
    around.a.say(&format!("withdraw {PREFIX}"))?;
    around.wait_path(PREFIX, "", SETTLE)?;
    router.wait_agreement(0, SETTLE)?;
    let before = router.events("disagreement").len();
    around.c.say(&format!("announce {PREFIX} as-path 65003"))?;
    around.wait_path(PREFIX, "65003", SETTLE)?;
    wait_named(&router, "bird", before)?;
    // Started again it has nothing to be wrong about.
    router.instance("bird")?.crash();
    router.wait_state("bird", "absent", UP)?;
    router.instance("bird")?.launch(&lab)?;
    router.wait_state("bird", "voting", SETTLE)?;
    router.wait_agreement(0, SETTLE)?;
    around.check_sessions()?;
    let told: Vec<_> = around.second.changes.iter().filter(|c| c.prefix == PREFIX).collect();
    ensure!(told.len() == 5, "the second neighbour was told of {PREFIX} {} times: {told:?}", told.len());
    lab.passed();
    Ok(())
}

#[test]
fn the_zombie_route_of_bird_2_0_7_is_outvoted_and_named() -> Result<()> {
    if !has_bug("the zombie route", Daemon::Bird, Some(Version::BIRD_11), zombie_alone)? {
        return Ok(());
    }
    INBOUND.iter().try_for_each(|inbound| zombie_is_outvoted(inbound).context(*inbound))
}

/// Whether BIRD alone sends the second neighbour something malformed when it is given this
/// attribute.
fn otc_alone(attribute: &[u8]) -> Result<bool> {
    let (lab, star, _bird) = alone("otc-alone", Daemon::Bird, Some(Version::BIRD_11), |_, _, _| Ok(()))?;
    let mut around = Around::dial(&lab, &star)?;
    let site = star.sites.first().context("a first site")?;
    around.a.say(&format!("raw {}", only_to_customer::update(site, attribute)))?;
    around.a.say("announce 203.0.113.0/24 as-path 65001")?;
    around.wait_path("203.0.113.0/24", "65001", SETTLE)?;
    lab.passed();
    println!("BIRD alone sends on {attribute:02x?}: {:?}", around.second.malformed);
    Ok(!around.second.malformed.is_empty())
}

/// The attribute in both forms behind virtd: what is malformed is withdrawn (RFC 9234 section 5),
/// what is not arrives as it is meant.
fn only_to_customer(inbound: &'static str) -> Result<()> {
    let mut lab = Lab::new(&format!("otc-{inbound}"))?;
    let star = lab.star(3)?;
    let options = Options {
        daemons: vec![Daemon::Bird, Daemon::Bird, Daemon::Frr],
        versions: vec![Some(Version::BIRD_11), None, None],
        inbound,
        ..Options::default()
    };
    let router = Router::start(&lab, &star, &options)?;
    let mut around = Around::dial(&lab, &star)?;
    router.wait_voting(SETTLE)?;
    let site = star.sites.first().context("a first site")?;
    around.a.say(&format!("raw {}", only_to_customer::update(site, &only_to_customer::EXTENDED)))?;
    around.wait_path(PREFIX, "65001", SETTLE)?;
    let other = around.second.table.get(PREFIX).map(|route| route["other"].to_string()).unwrap_or_default();
    println!("{inbound}: the second neighbour has {other}");
    ensure!(other.contains("0000fde9"), "the attribute is not there as it was meant: {other}");
    wait_until("virtd to name who garbled it", SETTLE, || {
        let found = router.events("instance-malformed");
        let named = found.iter().any(|e| e["instance"] == "bird" && e["session"] == "10.0.2.2");
        if named { Ok(()) } else { Err(format!("{found:?}")) }
    })?;
    wait_named(&router, "bird", 0)?;
    around.a.say(&format!("raw {}", only_to_customer::update(site, &only_to_customer::TOO_LONG)))?;
    around.wait_path(PREFIX, "", SETTLE)?;
    // FRR, which may have reset its leg for it, included.
    router.wait_voting(SETTLE)?;
    router.wait_agreement(0, SETTLE)?;
    around.a.say("announce 203.0.113.0/24 as-path 65001")?;
    around.wait_path("203.0.113.0/24", "65001", SETTLE)?;
    around.check_sessions()?;
    let told = around.second.changes.iter().filter(|c| c.prefix == PREFIX).count();
    ensure!(told == 2, "the second neighbour was told of {PREFIX} {told} times: {:?}", around.second.changes);
    lab.passed();
    Ok(())
}

#[test]
fn the_attribute_that_bird_2_0_7_garbles_arrives_well_formed() -> Result<()> {
    let garbles = || Ok(otc_alone(&only_to_customer::EXTENDED)? && otc_alone(&only_to_customer::TOO_LONG)?);
    if !has_bug("the garbled attribute", Daemon::Bird, Some(Version::BIRD_11), garbles)? {
        return Ok(());
    }
    INBOUND.iter().try_for_each(|inbound| only_to_customer(inbound).context(*inbound))
}

/// The versions of FRR that both of its bugs are in: Debian 11's, and the installed one (Debian
/// 12's).
const FRRS: [Option<Version>; 2] = [Some(Version::FRR_11), None];

/// Whether FRR alone dies of what is sent to it, of a signal and not otherwise, after it has passed
/// ordinary routes on from a neighbour that offers the same.
fn frr_dies(version: Option<Version>, offer: &[&str], raw: &str, prepend: Prepend) -> Result<bool> {
    let first = |star: &Star| star.sites.first().cloned().context("a first site");
    let configure = |frr: &mut Instance, _: &Lab, star: &Star| prepend(frr, &star.router, first(star)?.v4.into());
    let (lab, star, mut frr) = alone("frr-alone", Daemon::Frr, version, configure)?;
    let site = first(&star)?;
    ordinary_routes_pass(&lab, &star, 0, offer)?;
    ensure!(frr.running(), "{} has died of ordinary routes", name(Daemon::Frr, version));
    let arguments = [offer, &["--raw", raw]].concat();
    let mut died = false;
    for _ in 0..3 {
        let mut sender = Replayer::dial(&lab, &site, false, &arguments)?;
        died = wait_for("FRR to die", Duration::from_secs(10), || !frr.running()).is_ok();
        if died {
            break;
        }
        sender.finish()?;
    }
    let logs = [frr.folder().join("frr.log"), lab.directory().join("frr.log")].map(|log| text_of(&log)).concat();
    let words = logs.lines().find(|l| l.contains("Received signal")).unwrap_or_default();
    println!("{} alone: {}", name(Daemon::Frr, version), if died { words } else { "lives" });
    ensure!(!died || !words.is_empty(), "{} has ended without a signal: {logs}", name(Daemon::Frr, version));
    lab.passed();
    Ok(died)
}

/// A record, played by hv-replay to that version alone, ends it again.
fn brings_it_back(
    account: &Path,
    daemon: Daemon,
    version: Option<Version>,
    configure: impl FnOnce(&Instance, &Star) -> Result<()>,
) -> Result<()> {
    let (lab, star, mut instance) =
        alone("record-alone", daemon, version, |instance, _, star| configure(instance, star))?;
    let (status, said) = reproduce(&lab, &star.sites[2], account)?;
    let who = name(daemon, version);
    ensure!(status == 0 && said["outcome"] == "closed", "{who} alone does not die of the record: {status}, {said}");
    wait_for("it to be dead", UP, || !instance.running())?;
    println!("{who} alone: the record brings the bug back");
    lab.passed();
    Ok(())
}

/// CVE-2023-47235, natively.
fn unparsable_kills(version: Option<Version>) -> Result<bool> {
    has_bug("CVE-2023-47235", Daemon::Frr, version, || {
        frr_dies(version, &cve_2023_47235::OFFER, cve_2023_47235::UPDATE, cve_2023_47235::prepend)
    })
}

/// CVE-2023-46753, natively.
fn pathless_kills(version: Option<Version>) -> Result<bool> {
    has_bug("CVE-2023-46753", Daemon::Frr, version, || {
        frr_dies(version, &["--graceful-restart"], cve_2023_46753::UPDATE, cve_2023_46753::prepend)
    })
}

/// No daemon sees what cannot be parsed, in either mode: virtd answers it.
fn unparsable_ends_the_senders_session(inbound: &'static str) -> Result<()> {
    let options = Options { inbound, versions: vec![Some(Version::FRR_11), None, None], ..Options::default() };
    let mut scene = Quiet::new("unparsable", &options, |_| Ok(()))?;
    scene.prepend(cve_2023_47235::prepend)?;
    let arguments = [&cve_2023_47235::OFFER[..], &["--raw", cve_2023_47235::UPDATE]].concat();
    let mut sender = Replayer::dial(&scene.lab, &scene.star.sites[2], false, &arguments)?;
    sender.wait_event("session-down", UP)?;
    let outcome = sender.finish()?;
    let codes = |n: &Value| (n["code"].as_u64(), n["subcode"].as_u64());
    let got: Vec<_> = outcome.summary["notifications_received"].as_array().into_iter().flatten().map(codes).collect();
    ensure!(got == [(Some(3), Some(10))], "the sender was answered {got:?}: {}", outcome.summary);
    // A daemon that had seen it would be dead by then, as it is alone.
    scene.read_by_after_a_reset(&["frr"])?;
    scene.unmoved()
}

#[test]
fn cve_2023_47235_kills_frr_alone_and_ends_the_senders_session_with_7_5_1() -> Result<()> {
    let shown = FRRS.map(unparsable_kills).into_iter().collect::<Result<Vec<bool>>>()?;
    if shown.contains(&false) {
        return Ok(());
    }
    INBOUND.iter().try_for_each(|inbound| unparsable_ends_the_senders_session(inbound).context(*inbound))
}

/// FRR dies of the UPDATE without a path where it comes as it was sent, a majority lives on; FRR
/// comes back and votes.
fn pathless_is_survived(version: Option<Version>) -> Result<()> {
    // A second installed FRR would die as well.
    let options = Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::Frr],
        versions: vec![version, None, Some(Version::FRR_13)],
        inbound: "opaque",
        ..Options::default()
    };
    if !options.there()? || !pathless_kills(version)? {
        return Ok(());
    }
    let mut scene = Quiet::new("pathless", &options, |_| Ok(()))?;
    let site = scene.star.sites[2].clone();
    scene.prepend(cve_2023_46753::prepend)?;
    let frr = scene.router.instance("frr")?;
    let (mut sender, died) = cve_2023_46753::send_until_dead(&scene.lab, &site, || !frr.running())?;
    ensure!(died, "{} alone dies of it, and behind virtd it did not", name(Daemon::Frr, version));
    frr.crash();
    let address = site.v4.to_string();
    wait_until("the poison to be named", UP, || {
        let found = scene.router.events("poison");
        let named = found.iter().any(|e| e["instance"] == "frr" && e["session"] == address.as_str());
        if named { Ok(()) } else { Err(format!("{found:?}")) }
    })?;
    let (account, hex) = scene.record("frr")?;
    ensure!(hex == cve_2023_46753::UPDATE, "the record is not the UPDATE: {hex}");
    brings_it_back(&account, Daemon::Frr, version, |frr, star| {
        cve_2023_46753::prepend(frr, &star.router, star.sites[2].v4.into())
    })?;
    sender.wait_event("session-up", UP)?;
    sender.finish()?.check_quiet()?;
    scene.router.instance("frr")?.launch(&scene.lab)?;
    scene.prepend(cve_2023_46753::prepend)?;
    scene.router.wait_voting(SETTLE)?;
    // The same octets again: they do not reach it as they came.
    let again = cve_2023_46753::dial_and(&scene.lab, &site, &format!("announce {AFTER}\n"))?;
    scene.read_by(&["frr"], again)?;
    ensure!(scene.router.instance("frr")?.running(), "FRR was given the same octets again and died");
    scene.votes_on_everything("frr")?;
    scene.unmoved()
}

/// Cleaned, nothing that could kill it reaches FRR 7.5.1.
#[test]
fn cve_2023_46753_reaches_nobody_with_rfc7606_and_frr_7_5_1() -> Result<()> {
    let options = Options { versions: vec![Some(Version::FRR_11), None, None], ..Options::default() };
    if !options.there()? {
        return Ok(());
    }
    let mut scene = Quiet::new("pathless-clean", &options, |_| Ok(()))?;
    scene.prepend(cve_2023_46753::prepend)?;
    let after = format!("announce {AFTER}\n");
    let sender = cve_2023_46753::dial_and(&scene.lab, &scene.star.sites[2], &after)?;
    wait_for("virtd to tell of the malformed UPDATE", UP, || !scene.router.events("malformed-update").is_empty())?;
    scene.read_by(&["frr", "bird", "openbgpd"], sender)?;
    scene.unmoved()
}

#[test]
fn cve_2023_46753_with_opaque_frr_8_4_4_dies_and_a_majority_lives() -> Result<()> {
    pathless_is_survived(None)
}

#[test]
fn cve_2023_46753_with_opaque_frr_7_5_1_dies_and_a_majority_lives() -> Result<()> {
    pathless_is_survived(Some(Version::FRR_11))
}

/// Whether BIRD alone, natively, dies of the path, after it has passed ordinary routes on.
fn long_path_kills(version: Option<Version>) -> Result<bool> {
    let configure = |bird: &mut Instance, _: &Lab, star: &Star| as_path_mask::configure(bird, &star.router, true);
    let (lab, star, mut bird) = alone("mask-alone", Daemon::Bird, version, configure)?;
    ordinary_routes_pass(&lab, &star, 2, &[])?;
    let raw = long_path(&lab, &star)?;
    let _sender = Replayer::dial(&lab, &star.sites[2], false, &["--raw", &raw])?;
    let died = wait_for("BIRD to die of it", Duration::from_secs(20), || !bird.running()).is_ok();
    lab.passed();
    Ok(died)
}

/// The third neighbour's UPDATE with 3,000 ASes, in a file.
fn long_path(lab: &Lab, star: &Star) -> Result<String> {
    let site = star.sites.get(2).context("a third site")?;
    let raw = lab.directory().join("mask.hex");
    fs::write(&raw, as_path_mask::update(site.asn, site.v4.octets()))?;
    Ok(raw.display().to_string())
}

/// An ordinary, valid UPDATE that segfaults BIRD: it is found by trial and withheld from BIRD
/// alone.
fn long_path_is_withheld(version: Option<Version>, inbound: &'static str) -> Result<()> {
    let options = Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::Frr],
        versions: vec![None, version, None],
        inbound,
        ..Options::default()
    };
    let mut scene = Quiet::new("mask", &options, |router| {
        let ns = router.ns().clone();
        as_path_mask::configure(router.instance("bird")?, &ns, true)
    })?;
    let raw = long_path(&scene.lab, &scene.star)?;
    let mut sender = Replayer::dial(&scene.lab, &scene.star.sites[2], false, &["--raw", &raw])?;
    scene.wait_told(1)?;
    let last = scene.monitor.events().into_iter().rfind(|e| e["event"] == "update").unwrap_or_default();
    let path = last["announced"][0]["route"]["as_path"].as_str().map_or(0, |path| path.split_whitespace().count());
    // The router's own AS comes before the 3,000.
    ensure!(path == 3_001 && last["announced"][0]["prefixes"][0] == PREFIX, "no long path outside: {last}");
    let deaths = revive_until_found(&mut scene)?;
    println!("BIRD died {deaths} times");
    ensure!(deaths <= 4, "BIRD died {deaths} times");
    scene.votes_on_everything("bird")?;
    let (account, _) = scene.record("bird")?;
    brings_it_back(&account, Daemon::Bird, version, |bird, star| as_path_mask::configure(bird, &star.router, true))?;
    sender.finish()?.check_quiet()?;
    // The path came and went, and that is all.
    scene.wait_told(2)?;
    scene.told += 2;
    scene.unmoved()
}

/// Starts BIRD again each time it has died, until virtd has found of what, and it votes; returns
/// how often it died.
fn revive_until_found(scene: &mut Quiet) -> Result<u32> {
    let (lab, router, mut deaths) = (&scene.lab, &mut scene.router, 0);
    wait_for("the poison to be found, and BIRD to vote", SETTLE, || {
        let Ok(bird) = router.instance("bird") else { return false };
        if !bird.running() {
            deaths += 1;
            bird.crash();
            return bird.launch(lab).is_err();
        }
        let named = |e: &Value| e["instance"] == "bird" && e["prefix"] == PREFIX && e["session"] == "10.0.3.2";
        let found = router.events("poison").iter().any(named);
        deaths > 0 && found && router.state_of("bird").is_ok_and(|state| state == "voting")
    })?;
    ensure!(router.instance("bird")?.running(), "BIRD has died again");
    Ok(deaths)
}

#[test]
fn the_path_that_runs_over_the_mask_of_bird_2_0_7_is_found_and_withheld() -> Result<()> {
    let version = Some(Version::BIRD_11);
    if !has_bug("the path mask", Daemon::Bird, version, || long_path_kills(version))? {
        return Ok(());
    }
    INBOUND.iter().try_for_each(|inbound| long_path_is_withheld(version, inbound).context(*inbound))
}
