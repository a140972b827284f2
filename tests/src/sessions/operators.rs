//! What operators and service managers do to instances: shutting neighbours down, changing the AS,
//! restarting services.

use super::limits::told_once;
use super::scene::{BIRDS, PATIENCE, SETTLE, Scene};
use super::stage::{Setup, Stage};
use super::{ABSENT, DIFFERS, ENDED, LEFT, NEIGHBOUR_RESTARTED, TIE, Told};
use crate::daemons::{Daemon, RouterSpec};
use crate::faults::watch::Watch;
use crate::lab::wait_until;
use crate::router::ASN;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::time::Duration;

/// Prefixes of the first neighbour.
const ROUTES: u32 = 5;
/// An instance has been started again and votes.
const RETURN: Duration = Duration::from_secs(60);
/// The AS number that the router changes to.
const NEW_ASN: u32 = 65010;
/// How long each short session lasts: less than the fault threshold.
const SHORT: Duration = Duration::from_secs(3);
/// So many short sessions at most.
const SHORT_SESSIONS: usize = 12;
/// Hold time of one instance that has another one than the others.
const OTHER_HOLD_S: u16 = 30;
/// The median of FRR's 180, BIRD's 240 and that.
const MEDIAN_HOLD_S: u64 = 180;
/// Cease, Administrative Shutdown (RFC 4486).
const SHUTDOWN: (u64, u64) = (6, 2);
/// TCP MD5 keys.
const OLD_KEY: &str = "the-old-key";
const NEW_KEY: &str = "the-new-key";

/// A daemon's own command that shuts one neighbour down, by its place in the configuration.
fn shut(scene: &Scene, name: &str, daemon: Daemon, number: usize) -> Result<()> {
    let peer = scene.site(number)?.v4;
    let command = match daemon {
        Daemon::Frr => format!("configure terminal\nrouter bgp {ASN}\nneighbor {peer} shutdown"),
        Daemon::Bird => format!("disable peer{}", number - 1),
        Daemon::OpenBgpd => format!("neighbor {peer} down"),
    };
    scene.control(name, &command).map(drop)
}

/// A neighbour whose sessions end and return all the time, and OpenBGPD, which after the second
/// NOTIFICATION holds back for longer than any of them lasts.
pub(super) fn absent(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("absent", stage, &Setup::default())?;
    let peer = scene.peer()?;
    let mut sessions = 1;
    while scene.events_of(ABSENT, "openbgpd", &peer).is_empty() && sessions < SHORT_SESSIONS {
        // This is how long each lasts.
        std::thread::sleep(SHORT);
        scene.feeder.say("notification 6 4")?;
        sessions += 1;
        scene.wait_ups(sessions, SETTLE)?;
    }
    scene.wait_event_of(ABSENT, "openbgpd", &peer, 0)?;
    scene.wait_event_of(NEIGHBOUR_RESTARTED, "openbgpd", &peer, 0)?;
    scene.wait_level("openbgpd")?;
    scene.kinds()?.router.wait_state("openbgpd", "voting", SETTLE)?;
    scene.nobody_accused(&[])?;
    scene.wait_routes(ROUTES)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default().note(format!("after {sessions} sessions")))
}

/// The configuration that virtd takes its AS number from is the instances' own.
fn as_they_say(text: String) -> String {
    text.replacen(&format!("asn = {ASN}\n"), "", 1)
}

/// Every daemon gets another AS number, one after another.
pub(super) fn new_as(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("new-as", stage, &Setup { toml: as_they_say, ..Setup::default() })?;
    let since = scene.now_us();
    for (name, daemon) in scene.names() {
        change_as(&mut scene, &name, daemon)?;
    }
    scene.wait_ends(1)?;
    let back = wait_until("the first neighbour's session to be back with the new AS", SETTLE, || {
        let ups = scene.outside().ups;
        ups.iter().find(|up| up.asn == u64::from(NEW_ASN)).cloned().ok_or_else(|| format!("{ups:?}"))
    })?;
    let end = scene.outside().ends.first().context("no end")?.at_us;
    // The third neighbour expects the old AS and stays away.
    wait_until("the routes to be there with the new AS", SETTLE, || {
        scene.watcher.look().map_err(|e| format!("{e:#}"))?;
        let path = format!("{NEW_ASN} 65001");
        let own = scene.watcher.table.iter().filter(|(p, r)| p.starts_with("198.19.") && r["as_path"] == path);
        let own = own.count();
        if own == 5 { Ok(()) } else { Err(format!("{own} of 5")) }
    })?;
    scene.nobody_accused_for_long(&["openbgpd"])?;
    scene.passed();
    let told = Told::end(end.saturating_sub(since) / 1000);
    Ok(told.note(format!("back after {:.1} s", back.at_us.saturating_sub(end) as f64 / 1e6)))
}

fn change_as(scene: &mut Scene, name: &str, daemon: Daemon) -> Result<()> {
    let change = |before: &str, after: &str| {
        let (before, after) = (format!("{before} {ASN}"), format!("{after} {NEW_ASN}"));
        move |text: String| text.replace(&before, &after)
    };
    match daemon {
        Daemon::Frr => {
            let mut lines = String::new();
            scene.edit(name, |text| {
                let after = change("router bgp", "router bgp")(text);
                let own = after.lines().map(str::trim).filter(|line| !line.starts_with("log file") && *line != "!");
                lines = own.collect::<Vec<_>>().join("\n");
                after
            })?;
            scene.control(name, &format!("configure terminal\nno router bgp {ASN}\n{lines}")).map(drop)
        }
        Daemon::Bird => scene.reconfigure(name, change(" as", " as")),
        // It reads the line again and goes on as the AS that it was started with.
        Daemon::OpenBgpd => {
            scene.edit(name, change("AS", "AS"))?;
            scene.restart(name)
        }
    }
}

/// Every daemon stops being a BGP router.
pub(super) fn no_router(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("no-router", stage, &Setup::default())?;
    let since = scene.now_us();
    for (name, daemon) in scene.names() {
        match daemon {
            Daemon::Frr => scene.control(&name, &format!("configure terminal\nno router bgp {ASN}")).map(drop)?,
            Daemon::Bird => scene.control(&name, "disable all").map(drop)?,
            // Two of three decide.
            Daemon::OpenBgpd => {}
        }
    }
    let ends = scene.wait_ends(1)?;
    let ms = ends.first().context("no end")?.at_us.saturating_sub(since) / 1000;
    wait_until("the second neighbour's session to end", PATIENCE, || {
        scene.watcher.look().map_err(|e| format!("{e:#}"))?;
        if scene.watcher.downs.is_empty() { Err(String::new()) } else { Ok(()) }
    })?;
    scene.nobody_accused_for_long(&[])?;
    scene.passed();
    Ok(Told::end(ms))
}

/// BIRD's operator shuts the neighbour down, and nobody else's does.
pub(super) fn shutdown_in_one(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("shutdown-in-one", stage, &Setup::default())?;
    shut(&scene, "bird", Daemon::Bird, 1)?;
    let peer = scene.peer()?;
    scene.wait_event_of(LEFT, "bird", &peer, 0)?;
    told_once(&mut scene, "bird", ROUTES)?;
    scene.passed();
    Ok(Told::default())
}

/// OpenBGPD alone has another hold time.
pub(super) fn hold_in_one(stage: Stage) -> Result<Told> {
    let tune = |name: &str, spec: &mut RouterSpec| {
        let [frr, bird, openbgpd] = [Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd].map(Daemon::name);
        let hold = match name {
            name if name == frr => Some(180),
            name if name == bird => Some(240),
            name if name == openbgpd => Some(OTHER_HOLD_S),
            _ => None,
        };
        spec.peers.iter_mut().for_each(|peer| peer.hold_time_s = hold);
    };
    let mut scene = Scene::start("hold-in-one", stage, &Setup { tune, ..Setup::default() })?;
    let offered = scene.outside().ups.first().context("no session")?.hold_time_s;
    ensure!(offered == MEDIAN_HOLD_S, "the neighbour was offered {offered} s and not the median, {MEDIAN_HOLD_S}");
    scene.nobody_accused_for_long(&[])?;
    scene.stayed(ROUTES)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default())
}

/// The service manager stops two of three: an upgrade of their packages.
pub(super) fn two_stopped(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("two-stopped", stage, &Setup::default())?;
    stop(&mut scene, &["frr", "bird"])?;
    scene.nobody_accused_for_long(&["frr", "bird"])?;
    let left = scene.events_of(ENDED, "", "").len();
    ensure!(left == 0, "a session was ended");
    scene.stayed(ROUTES)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default())
}

/// SIGTERM to all of them at once; they vote again.
fn stop(scene: &mut Scene, names: &[&str]) -> Result<()> {
    let mut old = Vec::new();
    for name in names {
        old.push((scene.kinds()?.pids(name)?, scene.kinds()?.leader(name)?));
    }
    for (name, (_, leader)) in names.iter().zip(&old) {
        kill(*leader, Signal::SIGTERM).with_context(|| format!("sending SIGTERM to {name}"))?;
    }
    for (name, (pids, _)) in names.iter().zip(&old) {
        scene.kinds()?.wait_return(name, pids, RETURN)?;
    }
    Ok(())
}

/// The service manager stops all: that is the router's end, and it is told like one.
pub(super) fn all_stopped(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("all-stopped", stage, &Setup::default())?;
    let all = scene.names();
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let since = scene.now_us();
    for name in &names {
        let leader = scene.kinds()?.leader(name)?;
        kill(leader, Signal::SIGTERM).with_context(|| format!("sending SIGTERM to {name}"))?;
    }
    let ends = scene.wait_ends(1)?;
    let end = ends.first().context("no end")?;
    ensure!(end.notification == Some(SHUTDOWN), "it ended with {:?}: {}", end.notification, end.why);
    let ms = end.at_us.saturating_sub(since) / 1000;
    scene.wait_ups(2, SETTLE)?;
    scene.wait_routes(ROUTES)?;
    scene.nobody_accused_for_long(&names)?;
    scene.passed();
    Ok(Told::end(ms))
}

/// Of two, BIRD shuts the neighbour down: a tie, and the session stays. Then its link goes down,
/// which OpenBGPD does not notice and virtd sees for itself.
pub(super) fn tie(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("tie", stage, &Setup::default())?;
    let peer = scene.peer()?;
    shut(&scene, "bird", Daemon::Bird, 1)?;
    scene.wait_event_of(TIE, "", &peer, 0)?;
    scene.nobody_accused_for_long(&[])?;
    scene.stayed(ROUTES)?;
    let since = scene.now_us();
    scene.link(1, false)?;
    let ms = scene.wait_withdrawn(since)?;
    scene.nobody_accused(&[])?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::end(ms))
}

/// The master shuts every neighbour down, and nobody else does.
pub(super) fn master_shuts(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("master-shuts", stage, &Setup::default())?;
    for number in 1..=3 {
        shut(&scene, "frr", Daemon::Frr, number)?;
    }
    let peer = scene.peer()?;
    scene.wait_event_of(LEFT, "frr", &peer, 0)?;
    scene.wait_event_of(DIFFERS, "frr", &peer, 0)?;
    scene.nobody_accused_for_long(&[])?;
    scene.stayed(ROUTES)?;
    scene.wait_prefix(BIRDS, true)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default())
}

/// The key of one neighbour is changed in one daemon after another, and last at the neighbour
/// itself.
pub(super) fn md5_changed(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("md5", stage, &Setup { password: Some(OLD_KEY), ..Setup::default() })?;
    let peer = scene.peer()?;
    for (name, daemon) in scene.names() {
        change_key(&mut scene, &name, daemon, &peer)?;
    }
    scene.nobody_accused_for_long(&[])?;
    // The neighbour's operator is the last one.
    let site = scene.site(1)?.clone();
    scene.feeder.signal(Signal::SIGTERM)?;
    fs::rename(scene.lab.directory().join("neighbour1"), scene.lab.directory().join("neighbour1-old-key"))?;
    let mut feeder = Watch::steered(&scene.lab, &site, &["--md5", NEW_KEY])?;
    feeder.say(&format!("announce {}", super::scene::routes(0..ROUTES)))?;
    scene.feeder = feeder;
    scene.wait_ups(1, SETTLE)?;
    scene.wait_routes(ROUTES)?;
    scene.ends_calmly(Told::default())
}

fn change_key(scene: &mut Scene, name: &str, daemon: Daemon, peer: &str) -> Result<()> {
    if daemon == Daemon::Frr {
        let command = format!("configure terminal\nrouter bgp {ASN}\nneighbor {peer} password {NEW_KEY}");
        return scene.control(name, &command).map(drop);
    }
    // The first one in the file is the first neighbour's.
    scene.reconfigure(name, |text| text.replacen(OLD_KEY, NEW_KEY, 1))
}

/// Two of three are shown each change of an address as a reset of its link, at the same time.
fn with_resets(text: String) -> String {
    ["frr", "bird"].into_iter().fold(text, |text, name| {
        let line = format!("name = \"{name}\"\n");
        text.replace(&line, &format!("{line}diversity = {{ link_reset_ms = 0 }}\n"))
    })
}

/// Link resets of virtd's own that overlap: FRR and BIRD close their sessions over that link for
/// it, and that is no leave.
pub(super) fn overlapping_resets(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("resets", stage, &Setup { toml: with_resets, fib: true, ..Setup::default() })?;
    let peer = scene.peer()?;
    let router = scene.kinds()?.router.ns().clone();
    router.run("ip", &["address", "add", "10.99.0.1/24", "dev", "n1"])?;
    for name in ["frr", "bird"] {
        scene.wait_event_of("link-reset", name, "", 0)?;
    }
    // What each does with its leg is its own: FRR closes it, BIRD says Cease.
    let lost = wait_until("both to have lost their legs", SETTLE, || {
        let ends = |name: &str| {
            ["leg-closed", "leg-cease"].iter().map(|kind| scene.events_of(kind, name, &peer).len()).sum::<usize>()
        };
        let all = ["frr", "bird"].map(ends);
        if all.iter().all(|n| *n > 0) { Ok(all) } else { Err(format!("{all:?}")) }
    })?;
    for name in ["frr", "bird"] {
        scene.wait_level(name)?;
    }
    scene.nobody_accused_for_long(&[])?;
    ensure!(scene.events_of(LEFT, "", &peer).is_empty(), "it was taken for a leave: {lost:?}");
    scene.stayed(ROUTES)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default())
}

/// The second FRR waits for a voter to fall.
fn with_standby(text: String) -> String {
    text.replace("name = \"frr2\"\n", "name = \"frr2\"\nrole = \"warm-standby\"\n")
}

/// A standby that had left gets a vote, and then one of the two voters leaves: what it had done as
/// a standby makes no majority.
pub(super) fn promoted(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("promoted", stage, &Setup { toml: with_standby, ..Setup::default() })?;
    let peer = scene.peer()?;
    shut(&scene, "frr2", Daemon::Frr, 1)?;
    scene.wait_event_of(LEFT, "frr2", &peer, 0)?;
    let leader = scene.kinds()?.leader("bird")?;
    kill(leader, Signal::SIGKILL).context("sending SIGKILL to bird")?;
    scene.wait_event_of("instance-promoted", "frr2", "", 0)?;
    shut(&scene, "frr", Daemon::Frr, 1)?;
    scene.wait_event_of(LEFT, "frr", &peer, 0)?;
    scene.nobody_accused_for_long(&["bird", "frr2"])?;
    ensure!(scene.events_of(ENDED, "", &peer).is_empty(), "the session was ended");
    scene.stayed(ROUTES)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default())
}
