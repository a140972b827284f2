//! The way to a neighbour: links, and BFD.

use super::scene::{BIRDS, PATIENCE, SETTLE, Scene};
use super::stage::{Setup, Stage};
use super::{ENDED, LEFT, Told};
use crate::daemons::{Daemon, RouterSpec};
use crate::lab::{Process, wait_until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Cease, BFD Down (RFC 9384).
const BFD_DOWN: (u64, u64) = (6, 10);
/// How often a link goes down and up: more often than `leg_losses`.
const FLAPS: usize = 6;
/// How long it is down each time, and up.
const DOWN: Duration = Duration::from_millis(200);
const UP: Duration = Duration::from_millis(1_800);
/// Hold time of a neighbour of an OpenBGPD that is on its own: nothing else ends its session when a
/// link goes.
const SHORT_HOLD_S: u16 = 9;

/// FRR alone is told to listen to BFD.
fn with_bfd(name: &str, spec: &mut RouterSpec) {
    if let (Some(peer), "frr") = (spec.peers.first_mut(), name) {
        peer.bfd = true;
    }
}

/// Starts FRR's bfdd beside its bgpd, and at the first neighbour a BIRD that speaks BFD and nothing
/// else; returns that BIRD once both agree.
fn start_bfd(scene: &mut Scene) -> Result<Process> {
    let sockets = scene.sockets("frr")?;
    let file = |name: &str| sockets.join(name).display().to_string();
    let mut bfdd = scene.star.router.command("/usr/lib/frr/bfdd");
    bfdd.args(["-f", "/dev/null", "-z", &file("zserv.api"), "-i", &file("bfdd.pid"), "-P", "0"]);
    bfdd.args(["--vty_socket", &sockets.display().to_string(), "--bfdctl", &file("bfdd.sock")]);
    let bfdd = scene.lab.spawn("bfdd", &mut bfdd)?;
    scene.beside.push(bfdd);
    let site = scene.site(1)?;
    let folder = scene.lab.folder("neighbour1-bfd")?;
    let text = format!(
        "log \"{}\" all;\nrouter id {own};\nprotocol device {{}}\nprotocol bfd {{\n    interface \"*\" {{ interval 100 ms; multiplier 3; }};\n    \
         neighbor {} dev \"r0\" local {own};\n}}\n",
        folder.join("bird.log").display(),
        site.router_v4,
        own = site.v4
    );
    let path = |name: &str| folder.join(name).display().to_string();
    fs::write(folder.join("bird.conf"), text)?;
    let mut bird = site.ns.command("bird");
    bird.args(["-f", "-c", &path("bird.conf"), "-s", &path("bird.ctl"), "-P", &path("bird.pid")]);
    let bird = scene.lab.spawn("neighbour1-bfd", &mut bird)?;
    scene.lab.watch_log(&folder.join("bird.log"));
    wait_bfd_up(scene, &folder)?;
    Ok(bird)
}

fn wait_bfd_up(scene: &Scene, folder: &Path) -> Result<()> {
    let show = format!("show bgp neighbors {} json", scene.peer()?);
    let socket = folder.join("bird.ctl").display().to_string();
    let ns = &scene.site(1)?.ns;
    wait_until("BFD to be up", PATIENCE, || {
        let frr = scene.control("frr", &show).map_err(|e| format!("{e:#}"))?;
        let bird = ns.run("birdc", &["-r", "-s", &socket, "show bfd sessions"]).map_err(|e| format!("{e:#}"))?;
        let up = frr.contains("\"status\":\"Up\"") && bird.contains(" Up ");
        if up { Ok(()) } else { Err(format!("BIRD: {bird}, FRR: {}", frr.contains("peerBfdInfo"))) }
    })
}

/// The neighbour's address is removed: nothing comes from it any more, and BFD knows at once.
pub(super) fn bfd_address_gone(stage: Stage) -> Result<Told> {
    address_gone("bfd-address", stage, Setup { tune: with_bfd, ..Setup::default() })
}

/// The same with three instances and the key.
pub(super) fn bfd_key_address_gone(stage: Stage) -> Result<Told> {
    address_gone("bfd-key-address", stage, Setup { tune: with_bfd, toml: with_key, ..Setup::default() })
}

fn address_gone(name: &str, stage: Stage, setup: Setup) -> Result<Told> {
    let mut scene = Scene::start(name, stage, &setup)?;
    let _bfd = start_bfd(&mut scene)?;
    let since = scene.now_us();
    let site = scene.site(1)?;
    site.ns.run("ip", &["address", "del", &format!("{}/24", site.v4), "dev", "r0"])?;
    let ms = scene.wait_withdrawn(since)?;
    scene.ends_calmly(Told::end(ms))
}

/// The neighbour's BFD falls silent, while its BGP goes on: it can hear what it is told.
pub(super) fn bfd_silent(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("bfd-silent", stage, &Setup { tune: with_bfd, ..Setup::default() })?;
    let bfd = start_bfd(&mut scene)?;
    let told = silenced(&mut scene, &bfd)?;
    scene.ends_calmly(told)
}

fn silenced(scene: &mut Scene, bfd: &Process) -> Result<Told> {
    let since = scene.now_us();
    bfd.signal(Signal::SIGSTOP)?;
    let ms = scene.wait_withdrawn(since)?;
    let ends = scene.wait_ends(1)?;
    let said = ends.first().context("no end")?.notification;
    ensure!(said == Some(BFD_DOWN), "the neighbour was told {said:?} and not {BFD_DOWN:?}");
    Ok(Told::end(ms))
}

/// Of three, FRR alone has BFD, and no key says that it decides: it is one voice.
pub(super) fn bfd_one_voice(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("bfd-voice", stage, &Setup { tune: with_bfd, ..Setup::default() })?;
    let bfd = start_bfd(&mut scene)?;
    bfd.signal(Signal::SIGSTOP)?;
    let peer = scene.peer()?;
    let left = scene.wait_event_of(LEFT, "frr", &peer, 0)?;
    // Its leg comes back by itself: FRR lets BGP come up without BFD.
    scene.nobody_accused_for_long(&[])?;
    scene.stayed(5)?;
    scene.bystanders_unmoved()?;
    let leaves = scene.events_of(LEFT, "frr", &peer).len();
    ensure!(leaves == 1, "frr has left {leaves} times");
    let names_key = left["text"].as_str().is_some_and(|text| text.contains("bfd = \"frr\""));
    ensure!(names_key, "it does not name the key: {left}");
    scene.passed();
    Ok(Told::default())
}

/// The key that makes FRR's BFD the session's own.
fn with_key(text: String) -> String {
    text.replace("address = \"10.0.1.2\"\n", "address = \"10.0.1.2\"\nbfd = \"frr\"\n")
}

/// With the key, FRR's word is the session's.
pub(super) fn bfd_key(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("bfd-key", stage, &Setup { tune: with_bfd, toml: with_key, ..Setup::default() })?;
    let bfd = start_bfd(&mut scene)?;
    let told = silenced(&mut scene, &bfd)?;
    scene.ends_calmly(told)
}

/// One neighbour's link goes down, then another one withdraws its prefix.
pub(super) fn link_down_and_withdraw(stage: Stage) -> Result<Told> {
    let openbgpd = stage.made.daemons() == [Daemon::OpenBgpd];
    let hold_s = if openbgpd { SHORT_HOLD_S } else { Setup::default().hold_s };
    let mut scene = Scene::start("link-withdraw", stage, &Setup { hold_s, ..Setup::default() })?;
    let since = scene.now_us();
    scene.link(1, false)?;
    scene.third("disable own_ipv4")?;
    scene.wait_prefix(BIRDS, false)?;
    let mut told = Told::end(scene.wait_withdrawn(since)?);
    if openbgpd {
        told = told.note(format!("by the hold time of {hold_s} s: OpenBGPD does not look at links"));
    }
    scene.ends_calmly(told)
}

/// A link goes down, and OpenBGPD does not notice; then it comes up again.
pub(super) fn link_down(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("link-down", stage, &Setup::default())?;
    let since = scene.now_us();
    scene.link(1, false)?;
    let ms = scene.wait_withdrawn(since)?;
    let peer = scene.peer()?;
    scene.wait_event_of(ENDED, "", &peer, 0)?;
    scene.link(1, true)?;
    scene.wait_ups(2, SETTLE)?;
    scene.wait_routes(5)?;
    scene.ends_calmly(Told::end(ms))
}

/// A link that cannot make up its mind.
pub(super) fn link_flap(stage: Stage) -> Result<Told> {
    flap(stage, false)
}

/// The same where the instances' routes to the kernel are voted on.
pub(super) fn link_flap_fib(stage: Stage) -> Result<Told> {
    flap(stage, true)
}

fn flap(stage: Stage, fib: bool) -> Result<Told> {
    let name = if fib { "link-flap-fib" } else { "link-flap" };
    let mut scene = Scene::start(name, stage, &Setup { fib, ..Setup::default() })?;
    for _ in 0..FLAPS {
        scene.link(1, false)?;
        // How long it is down and up is what is tried.
        std::thread::sleep(DOWN);
        scene.link(1, true)?;
        std::thread::sleep(UP);
        scene.nobody_accused(&[])?;
    }
    scene.nobody_accused_for_long(&[])?;
    scene.wait_routes(5)?;
    let seen = scene.outside();
    ensure!(seen.ups.len() > seen.ends.len(), "the session is not back: {:?}", seen.ends);
    scene.bystanders_unmoved()?;
    let ends = seen.ends.len();
    scene.passed();
    Ok(Told::default().note(format!("{FLAPS} times down, {ends} sessions ended")))
}
