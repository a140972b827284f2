//! Maximum prefixes: what a neighbour leaks is withdrawn.

use super::scene::{Scene, route, routes};
use super::stage::{Made, Setup, Stage};
use super::{DIFFERS, ENDED, Told};
use crate::daemons::{Daemon, Limit, RouterSpec, Then};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// In each daemon.
const LIMIT: u32 = 10;
/// What the neighbour leaks.
const LEAK: u32 = 20;
/// The number of the prefix that the import policy refuses.
const REFUSED: u32 = 99;
/// Cease, Maximum Number of Prefixes Reached (RFC 4486).
const MAXIMUM_PREFIXES: (u64, u64) = (6, 1);
/// FRR and OpenBGPD come back after a minute, the least they know.
const BACK: Duration = Duration::from_secs(110);

fn set(spec: &mut RouterSpec, then: Then, received: bool) {
    if let Some(peer) = spec.peers.first_mut() {
        peer.limit = Some(Limit { prefixes: LIMIT, then, received });
    }
}

/// A neighbour announces more than every daemon's limit: it is told so, and everything it said
/// goes.
pub(super) fn limit(stage: Stage) -> Result<Told> {
    let setup = Setup { tune: |_, spec| set(spec, Then::Down, false), ..Setup::default() };
    let mut scene = Scene::start("limit", stage, &setup)?;
    let since = scene.now_us();
    scene.feeder.say(&format!("announce {}", routes(0..LEAK)))?;
    let told = over(&mut scene, since, 1)?;
    scene.nobody_accused_for_long(&[])?;
    let ups = scene.outside().ups.len();
    ensure!(ups == 1, "the session has come back {} times, though nobody wants it", ups - 1);
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(told)
}

/// The session ends with 6/1 for the `n`th time, and what the neighbour said is gone.
fn over(scene: &mut Scene, since: u64, n: usize) -> Result<Told> {
    let ends = scene.wait_ends(n)?;
    let end = ends.get(n - 1).context("no such end")?;
    ensure!(end.notification == Some(MAXIMUM_PREFIXES), "it ended with {:?}: {}", end.notification, end.why);
    let ms = scene.wait_withdrawn(since)?;
    if !scene.stage.made.is_alone() {
        let peer = scene.peer()?;
        scene.wait_event_of(ENDED, "", &peer, n - 1)?;
    }
    Ok(Told::end(ms))
}

/// With the settings that make the three count alike (docs/EQUIVALENCE.md), what the import policy
/// refuses counts as well: at the limit the session stays, and one more is too many. FRR looks at
/// its count only when it accepts a prefix, so the last one is accepted.
pub(super) fn received(stage: Stage) -> Result<Told> {
    let tune = |_: &str, spec: &mut RouterSpec| {
        set(spec, Then::Down, true);
        refuse(spec);
    };
    let mut scene = Scene::start("received", stage, &Setup { tune, ..Setup::default() })?;
    scene.feeder.say(&format!("announce {}", route(REFUSED)))?;
    scene.feeder.say(&format!("announce {}", routes(0..LIMIT - 1)))?;
    scene.wait_routes(LIMIT - 1)?;
    scene.stayed(LIMIT - 1)?;
    let since = scene.now_us();
    scene.feeder.say(&format!("announce {}", route(LIMIT)))?;
    let told = over(&mut scene, since, 1)?;
    scene.ends_calmly(told)
}

/// One prefix of the first neighbour's is not taken from it.
fn refuse(spec: &mut RouterSpec) {
    if let Some(peer) = spec.peers.first_mut() {
        peer.refused = route(REFUSED).parse().ok();
    }
}

/// At the limit the session stays, and so it does where one more is refused by the import policy:
/// FRR and BIRD do not count that one. OpenBGPD does (docs/EQUIVALENCE.md), and is one voice. One
/// more that is accepted is too many.
pub(super) fn filtered(stage: Stage) -> Result<Told> {
    let tune = |_: &str, spec: &mut RouterSpec| {
        set(spec, Then::Down, false);
        refuse(spec);
    };
    let mut scene = Scene::start("filtered", stage, &Setup { tune, ..Setup::default() })?;
    scene.feeder.say(&format!("announce {}", routes(0..LIMIT)))?;
    scene.wait_routes(LIMIT)?;
    scene.stayed(LIMIT)?;
    let mut since = scene.now_us();
    scene.feeder.say(&format!("announce {}", route(REFUSED)))?;
    match stage.made {
        Made::Alone(Daemon::OpenBgpd) | Made::One(Daemon::OpenBgpd) => {}
        made => {
            if made == Made::Trio {
                told_once(&mut scene, "openbgpd", LIMIT)?;
            }
            since = scene.now_us();
            scene.feeder.say(&format!("announce {}", route(LIMIT)))?;
        }
    }
    let told = over(&mut scene, since, 1)?;
    let end = scene.outside().ends.first().context("no end")?.at_us;
    ensure!(end >= since, "it ended before there was one too many");
    scene.ends_calmly(told)
}

/// Each daemon's own action brings the session back after a while; it ends again, and again as one.
pub(super) fn back(stage: Stage) -> Result<Told> {
    let setup = Setup { tune: |_, spec| set(spec, Then::Back, false), ..Setup::default() };
    let mut scene = Scene::start("back", stage, &setup)?;
    let since = scene.now_us();
    scene.feeder.say(&format!("announce {}", routes(0..LEAK)))?;
    let mut told = over(&mut scene, since, 1)?;
    scene.wait_ups(2, BACK)?;
    let seen = scene.outside();
    let (down, up) = (seen.ends.first().context("no end")?.at_us, seen.ups.get(1).context("no return")?.at_us);
    told = told.note(format!("back after {:.1} s", up.saturating_sub(down) as f64 / 1e6));
    over(&mut scene, up, 2)?;
    scene.nobody_accused(&[])?;
    scene.bystanders_unmoved()?;
    scene.passed();
    Ok(told)
}

/// Only FRR has a limit: the session stays as it is, FRR is told once as the one that differs, and
/// nothing is done to it.
pub(super) fn in_one(stage: Stage) -> Result<Told> {
    let tune = |name: &str, spec: &mut RouterSpec| {
        if name == "frr" {
            set(spec, Then::Down, false);
        }
    };
    let mut scene = Scene::start("in-one", stage, &Setup { tune, ..Setup::default() })?;
    scene.feeder.say(&format!("announce {}", routes(0..LEAK)))?;
    scene.wait_routes(LEAK)?;
    told_once(&mut scene, "frr", LEAK)?;
    scene.passed();
    Ok(Told::default())
}

/// One has left against the majority: told exactly once, accused of nothing, and no neighbour has
/// noticed.
pub(super) fn told_once(scene: &mut Scene, name: &str, announced: u32) -> Result<()> {
    let peer = scene.peer()?;
    scene.wait_event_of(DIFFERS, name, &peer, 0)?;
    scene.nobody_accused_for_long(&[])?;
    let told = scene.events_of(DIFFERS, name, &peer).len();
    ensure!(told == 1, "{name} was told {told} times");
    let all = scene.events_of(DIFFERS, "", &peer).len();
    ensure!(all == 1, "others than {name} were told as well");
    scene.stayed(announced)?;
    scene.bystanders_unmoved()
}
