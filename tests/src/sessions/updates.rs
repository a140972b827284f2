//! UPDATEs that an instance does not survive, and deaths that no UPDATE has caused.

use super::Told;
use super::scene::{SETTLE, Scene, routes};
use super::stage::{Made, Setup, Stage};
use crate::daemons::Daemon;
use crate::lab::wait_until;
use crate::odd::{attributes, update};
use crate::published::cve_2023_46753;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use std::time::Duration;
use virtd_api::Sessions;
use wire::bgp::hex;

/// PREFIX_SID with a TLV longer than the attribute: FRR answers with 3/1, BIRD and OpenBGPD pass it
/// on (docs/BUGS.md).
const FRR_ALONE_DROPS: [u8; 13] = [0xc0, 0x28, 10, 1, 0, 0x63, 0, 0, 0, 0, 0, 0, 0x64];
/// Two octets behind the attributes: FRR and OpenBGPD answer with 3/5, BIRD takes it for a
/// withdrawal.
const TWO_DROP: [u8; 2] = [0xc0, 0x08];
/// So many such UPDATEs, each with a prefix of its own: more than `leg_losses`.
const TIMES: u8 = 6;
/// An instance has been started again and votes.
const RETURN: Duration = Duration::from_secs(60);
/// Prefixes of the first neighbour at the start, and after it has announced more.
const BEFORE: u32 = 5;
const AFTER: u32 = 20;

/// An UPDATE of the first neighbour's for 198.51.N.0/24, with something odd behind its attributes.
fn odd(scene: &Scene, n: u8, behind: &[u8]) -> Result<String> {
    let mut all = attributes(scene.site(1)?);
    all.extend_from_slice(behind);
    Ok(format!("raw {}", hex(&update(&all, &[24, 198, 51, n]))))
}

/// FRR drops its leg for an UPDATE again and again, each time for another prefix.
pub(super) fn dropped_leg(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("dropped-leg", stage, &Setup { inbound: "opaque", ..Setup::default() })?;
    scene.poison_expected = true;
    let peer = scene.peer()?;
    for n in 1..=TIMES {
        let line = odd(&scene, n, &FRR_ALONE_DROPS)?;
        scene.feeder.say(&line)?;
        scene.wait_event_of("poison", "frr", &peer, usize::from(n) - 1)?;
        scene.wait_level("frr")?;
        scene.nobody_accused(&[])?;
    }
    scene.nobody_accused_for_long(&[])?;
    scene.kinds()?.router.wait_state("frr", "voting", SETTLE)?;
    scene.stayed(BEFORE)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default().note(format!("{TIMES} found")))
}

/// Two of three drop their legs for one UPDATE, which RFC 7606 treats as a withdrawal: the session
/// does not end for it.
pub(super) fn two_drop(stage: Stage) -> Result<Told> {
    let mut scene = Scene::start("two-drop", stage, &Setup { inbound: "opaque", ..Setup::default() })?;
    scene.poison_expected = true;
    let peer = scene.peer()?;
    let line = odd(&scene, 1, &TWO_DROP)?;
    scene.feeder.say(&line)?;
    for name in ["frr", "openbgpd"] {
        scene.wait_event_of("poison", name, &peer, 0)?;
    }
    scene.nobody_accused_for_long(&[])?;
    scene.stayed(BEFORE)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default())
}

/// Two of three die of one UPDATE: CVE-2023-46753, with FRR twice.
pub(super) fn two_crash(stage: Stage) -> Result<Told> {
    let more = |_: &str, daemon: Daemon| {
        if daemon != Daemon::Frr {
            return String::new();
        }
        // The first neighbour's address, as every lab has it.
        cve_2023_46753::configuration(std::net::Ipv4Addr::new(10, 0, 1, 2).into())
    };
    let mut scene = Scene::start("two-crash", stage, &Setup { inbound: "opaque", more, ..Setup::default() })?;
    scene.poison_expected = true;
    let frrs = ["frr", "frr2"];
    let old = frrs.iter().map(|name| scene.kinds()?.pids(name)).collect::<Result<Vec<_>>>()?;
    scene.feeder.say(&format!("raw {}", cve_2023_46753::UPDATE))?;
    let peer = scene.peer()?;
    for (name, old) in frrs.iter().zip(&old) {
        scene.wait_event_of("poison", name, &peer, 0)?;
        scene.kinds()?.wait_return(name, old, RETURN)?;
    }
    scene.nobody_accused_for_long(&frrs)?;
    scene.stayed(BEFORE)?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(Told::default())
}

/// SIGKILL from outside right after UPDATEs.
pub(super) fn killed(stage: Stage) -> Result<Told> {
    ended(stage, Signal::SIGKILL)
}

/// SIGTERM from outside right after UPDATEs.
pub(super) fn terminated(stage: Stage) -> Result<Told> {
    ended(stage, Signal::SIGTERM)
}

fn ended(stage: Stage, signal: Signal) -> Result<Told> {
    let name = if stage.made == Made::Trio { "bird" } else { stage.made.daemons().first().context("a daemon")?.name() };
    let mut scene = Scene::start(&format!("ended-{}", signal.as_str().to_lowercase()), stage, &Setup::default())?;
    let (old, leader) = (scene.kinds()?.pids(name)?, scene.kinds()?.leader(name)?);
    // The signal comes while it is busy with what it was just told.
    scene.feeder.say(&format!("announce {}", routes(BEFORE..AFTER)))?;
    wait_until("the UPDATE to have come", SETTLE, || {
        let all = scene.kinds().and_then(|kinds| kinds.router.ctl(&["sessions"]));
        let Sessions { sessions } = all.map_err(|e| format!("{e:#}"))?;
        let came = sessions.iter().any(|s| s.prefixes_in == Some(AFTER as usize));
        if came { Ok(()) } else { Err(String::new()) }
    })?;
    kill(leader, signal).with_context(|| format!("sending {signal} to {name}"))?;
    scene.kinds()?.wait_return(name, &old, RETURN)?;
    scene.wait_routes(AFTER)?;
    scene.nobody_accused_for_long(&[name])?;
    // Alone it decides: what it says on its way out goes outside, and OpenBGPD's session engine
    // says Cease when its parent is gone.
    let silent = signal == Signal::SIGKILL && name != Daemon::OpenBgpd.name();
    if stage.made == Made::Trio || silent {
        scene.stayed(AFTER)?;
        scene.bystanders_unmoved()?;
    }
    let deaths = scene.kinds()?.exits(name).len();
    ensure!(deaths == 1, "{name} has ended {deaths} times");
    scene.passed();
    Ok(Told::default())
}
