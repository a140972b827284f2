//! The faults. Each case begins and ends with a healthy router; docs/FAULTS.md has them as a table.

use super::scene::{Keeper, Scene, Size, T, THRESHOLD};
use super::slot::{Lie, Mode, prefix};
use super::trial::Trial;
use crate::lab::built;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::time::Duration;
use wire::bgp::Prefix;

/// Memory that the ballast takes, MiB: more than virtd's limit.
const BALLAST_MIB: u32 = 400;
/// How often sessions are closed in a row: virtd's limit for one instance.
const FLAPS: usize = 5;
/// For so long virtd takes what an instance does for a consequence of its death.
const REBORN: Duration = Duration::from_secs(5);
/// How long a link that flaps is down, and up.
const LINK_DOWN: Duration = Duration::from_millis(200);
const LINK_UP: Duration = Duration::from_millis(2_800);
/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(5);
/// virtd keeps what a flood said last of each prefix, and nothing else: it may not grow by more
/// than this, MiB.
const FLOOD_MEMORY_MIB: u64 = 128;
/// How long all instances are dead: longer than it takes any of them to come back.
const ALL_DEAD: Duration = Duration::from_secs(8);
/// A prefix that nobody has announced.
const EXTRA: &str = "203.0.113.0/24";
/// Events that say that an instance is gone.
const GONE: &[&str] = &["instance-exited", "instance-gone", "leg-closed", "leg-cease", "leg-notification"];

/// One fault, or several at once.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// The router it needs.
    pub size: Size,
    /// The bad speaker stands in the place of one instance.
    pub speaker: bool,
    /// It is about virtd's controller, so without it there is nothing to see.
    pub controller: bool,
    run: fn(&mut Trial<'_>) -> Result<()>,
}

/// All cases, in an order that restarts as little as possible.
pub const ALL: &[Case] = &[
    case("wrong-next-hop", wrong_next_hop),
    case("wrong-path", wrong_path),
    case("extra-route", extra_route),
    case("wrong-withdraw", wrong_withdraw),
    case("missing-announcement", missing_announcement),
    case("notification", notification),
    case("sigkill", sigkill),
    case("sigstop", sigstop),
    case("exit", exit),
    case("service-stop", service_stop),
    case("left-by-one", left_by_one),
    case("link-flap", link_flap),
    case("memory-ballast", memory_ballast),
    Case { controller: true, ..case("wrong-for-long", wrong_for_long) },
    case("all-dead", all_dead),
    case("degraded", degraded),
    speaker("closed-leg", closed_leg),
    speaker("update-error", update_error),
    speaker("random-bytes", random_bytes),
    speaker("random-update", random_update),
    speaker("missing-withdraw", missing_withdraw),
    speaker("mute", mute),
    speaker("flapping", flapping),
    speaker("flood", flood),
    five("two-kill-and-lie", two_kill_and_lie),
    five("two-hang-and-extra", two_hang_and_extra),
    five("two-lies", two_lies),
];

const fn case(name: &'static str, run: fn(&mut Trial<'_>) -> Result<()>) -> Case {
    Case { name, size: Size::Three, speaker: false, controller: false, run }
}

const fn speaker(name: &'static str, run: fn(&mut Trial<'_>) -> Result<()>) -> Case {
    Case { name, size: Size::Three, speaker: true, controller: false, run }
}

const fn five(name: &'static str, run: fn(&mut Trial<'_>) -> Result<()>) -> Case {
    Case { name, size: Size::Five, speaker: false, controller: false, run }
}

impl Case {
    /// Runs it in a scene of its size; returns notes for the table. After an error the scene is in
    /// no known state.
    pub fn run(&self, scene: &mut Scene) -> Result<Vec<String>> {
        scene.restore(self.speaker.then(|| self.speaker_slot(scene))).context("before the fault")?;
        let mut trial = Trial::begin(scene)?;
        (self.run)(&mut trial)?;
        trial.end()
    }

    /// Where the bad speaker stands: with master-slave in the master's place.
    fn speaker_slot(&self, scene: &Scene) -> usize {
        if is_master_slave(scene) { 0 } else { 2 }
    }
}

fn is_master_slave(scene: &Scene) -> bool {
    scene.strategy == "master-slave"
}

/// Who is broken: usually this one, with master-slave the master.
fn victim(t: &Trial<'_>, usual: usize) -> usize {
    if is_master_slave(t.scene) { 0 } else { usual }
}

fn name_of(t: &mut Trial<'_>, index: usize) -> Result<String> {
    Ok(t.scene.slot(index)?.name.clone())
}

/// A prefix that the first neighbour has announced and the third has learned.
fn standing(t: &Trial<'_>) -> Result<Prefix> {
    let reference = t.scene.references.get(2).context("no third neighbour")?;
    let from_first =
        reference.iter().find(|(_, r)| r["as_path"].as_str().is_some_and(|p| p.starts_with("65000 65001 ")));
    prefix(from_first.context("no route of the first neighbour")?.0)
}

/// Kills, hangs and the like: the router goes on learning, the neighbours notice nothing, and it
/// comes back.
fn gone(t: &mut Trial<'_>, name: &str, kinds: &[&str], word: &str) -> Result<()> {
    let took = t.announce_probe()?;
    t.named(name, kinds, word)?;
    t.note(format!("learning went on within {:.1} s", took.as_secs_f32()));
    t.dwell();
    t.withdraw_probe()?;
    t.check_masked().map(|_| ())
}

/// A wrong word of a real daemon's, then the right one again.
fn lie(t: &mut Trial<'_>, index: usize, lie: Lie, at: &str) -> Result<()> {
    let name = name_of(t, index)?;
    t.through_master = is_master_slave(t.scene) && index == 0;
    t.scene.slot(index)?.set_lie(Some(lie))?;
    t.announce_probe()?;
    t.named(&name, &["disagreement"], at)?;
    t.dwell();
    t.withdraw_probe()?;
    t.check_masked()?;
    t.scene.slot(index)?.set_lie(None)
}

fn wrong_next_hop(t: &mut Trial<'_>) -> Result<()> {
    let (index, at) = (victim(t, 0), standing(t)?);
    lie(t, index, Lie::NextHop(at), &at.to_string())
}

fn wrong_path(t: &mut Trial<'_>) -> Result<()> {
    let (index, at) = (victim(t, 1), standing(t)?);
    lie(t, index, Lie::Path(at), &at.to_string())
}

fn extra_route(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 2);
    lie(t, index, Lie::Extra(prefix(EXTRA)?), EXTRA)
}

fn wrong_withdraw(t: &mut Trial<'_>) -> Result<()> {
    let (index, at) = (victim(t, 1), standing(t)?);
    lie(t, index, Lie::Missing(at), &at.to_string())
}

/// What the second neighbour is about to announce will not go out.
fn missing_announcement(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 0);
    let name = name_of(t, index)?;
    let next = format!("198.18.{}.0/24", (t.scene.probes + 1) % 256);
    t.scene.slot(index)?.set_lie(Some(Lie::Missing(prefix(&next)?)))?;
    let took = t.announce_probe()?;
    ensure!(t.probe()? == next, "the probe is {} and not {next}", t.probe()?);
    t.note(format!("announced all the same after {:.1} s", took.as_secs_f32()));
    t.named(&name, &["disagreement"], &next)?;
    t.dwell();
    t.check_masked()?;
    t.withdraw_probe()?;
    t.scene.slot(index)?.set_lie(None)
}

/// One instance's operator resets all its sessions: Cease, which only a quorum may send.
fn notification(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 2);
    let name = name_of(t, index)?;
    t.scene.slot(index)?.clear_sessions()?;
    gone(t, &name, &["leg-cease", "leg-notification"], "NOTIFICATION")?;
    t.recovered()
}

fn sigkill(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 0);
    let name = name_of(t, index)?;
    t.scene.slot(index)?.signal_all(Signal::SIGKILL)?;
    let (kinds, word) = match t.scene.keeper {
        Keeper::Virtd => (&["instance-exited"][..], "SIGKILL"),
        Keeper::Scene => (GONE, ""),
    };
    gone(t, &name, kinds, word)?;
    t.recovered()
}

fn sigstop(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 1);
    let name = name_of(t, index)?;
    t.scene.slot(index)?.signal_all(Signal::SIGSTOP)?;
    gone(t, &name, &["leg-fault"], "hold time")?;
    if t.scene.keeper == Keeper::Scene {
        t.scene.slot(index)?.signal_all(Signal::SIGCONT)?;
    }
    t.recovered()
}

fn exit(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 2);
    let name = name_of(t, index)?;
    t.scene.slot(index)?.signal_main(Signal::SIGTERM)?;
    let kinds = if t.scene.keeper == Keeper::Virtd { &["instance-exited"] } else { GONE };
    gone(t, &name, kinds, "")?;
    t.recovered()
}

/// Events that accuse an instance.
const ACCUSED: &[&str] = &["instance-faulty", "poison-suspected", "poison", "poison-again"];

/// Its service manager stops one instance from outside while it has just been told something: no
/// UPDATE is searched for it.
fn service_stop(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 1);
    let name = name_of(t, index)?;
    t.announce_probe()?;
    t.scene.slot(index)?.signal_main(Signal::SIGTERM)?;
    let kinds = if t.scene.keeper == Keeper::Virtd { &["instance-exited"] } else { GONE };
    t.named(&name, kinds, "")?;
    t.dwell();
    t.withdraw_probe()?;
    t.check_masked()?;
    t.recovered()?;
    t.none_of(ACCUSED)
}

/// One instance's operator shuts a neighbour down by its own control program: it stays inside, is
/// told once, and nothing is done to it.
fn left_by_one(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 1);
    let name = name_of(t, index)?;
    // What an instance does so soon after its death, in the case before this one, is no leave.
    std::thread::sleep(REBORN);
    t.scene.slot(index)?.shut_first(true)?;
    t.named(&name, &["session-left"], "")?;
    t.named(&name, &["session-differs"], "")?;
    let took = t.announce_probe()?;
    t.note(format!("learning went on within {:.1} s", took.as_secs_f32()));
    // By then somebody would be accused, were it a fault.
    std::thread::sleep(THRESHOLD + T);
    t.withdraw_probe()?;
    t.check_masked()?;
    let told = t.count(&name, "session-differs");
    ensure!(told == 1, "{name} was told {told} times");
    t.none_of(ACCUSED)?;
    t.scene.slot(index)?.shut_first(false)?;
    t.recovered()
}

/// The third neighbour's link goes down for a moment again and again: its session may end, nothing
/// else happens, and nobody is accused.
fn link_flap(t: &mut Trial<'_>) -> Result<()> {
    t.excused = Some(3);
    for _ in 0..=FLAPS {
        for (state, long) in [("down", LINK_DOWN), ("up", LINK_UP)] {
            t.scene.router.ns().run("ip", &["link", "set", "n3", state])?;
            std::thread::sleep(long);
        }
    }
    t.forgive()?;
    // By then somebody would be accused, were it a fault.
    std::thread::sleep(THRESHOLD + T);
    t.check_masked()?;
    t.recovered()?;
    t.none_of(ACCUSED)
}

/// A process of the instance grows past virtd's limit, while the instance says nothing wrong.
fn memory_ballast(t: &mut Trial<'_>) -> Result<()> {
    let index = victim(t, 1);
    let name = name_of(t, index)?;
    let command = format!("{} --ballast {BALLAST_MIB}", built("hv-badspeaker")?.display());
    t.scene.slot(index)?.run_inside(&command)?;
    match t.scene.keeper {
        Keeper::Virtd => gone(t, &name, &["instance-faulty"], "faults.memory_mib")?,
        Keeper::Scene => {
            t.announce_probe()?;
            t.dwell();
            t.withdraw_probe()?;
            t.note("memory is watched by virtd's controller only");
            // It takes its process group with it.
            t.scene.slot(index)?.crash()?;
        }
    }
    t.check_masked()?;
    t.recovered()
}

/// FRR is wrong about everything, until it is found faulty and started again, which cures it.
fn wrong_for_long(t: &mut Trial<'_>) -> Result<()> {
    let name = name_of(t, 0)?;
    t.through_master = is_master_slave(t.scene);
    let slot = t.scene.slot(0)?;
    let old = slot.pid()?;
    slot.set_lie(Some(Lie::Everywhere))?;
    t.announce_probe()?;
    t.named(&name, &["instance-faulty"], "majority")?;
    t.scene.wait_restarted(0, old)?;
    t.scene.slot(0)?.forget_lie();
    t.withdraw_probe()?;
    t.check_masked()?;
    t.recovered()
}

/// Every instance dies at once and none comes back for a while: the neighbours are kept with what
/// they were told.
fn all_dead(t: &mut Trial<'_>) -> Result<()> {
    let names: Vec<String> = t.scene.slots.iter().map(|slot| slot.name.clone()).collect();
    t.scene.all_down()?;
    for name in &names {
        t.named(name, GONE, "")?;
    }
    // This is how long nobody comes back.
    std::thread::sleep(ALL_DEAD);
    t.check_masked()?;
    t.scene.all_up()?;
    t.recovered()
}

/// Decision 6: two live ones must agree, and where they do not, what was told stays; one alone
/// drives, with an alarm.
fn degraded(t: &mut Trial<'_>) -> Result<()> {
    let (last, second, at) = (name_of(t, 0)?, name_of(t, 1)?, standing(t)?);
    t.scene.switch(2, Mode::Down)?;
    t.scene.wait_calm()?;
    t.announce_probe()?;
    t.withdraw_probe()?;
    t.scene.slot(1)?.set_lie(Some(Lie::Path(at)))?;
    t.named("", &["no-quorum"], &at.to_string())?;
    t.dwell();
    t.check_masked()?;
    t.scene.slot(1)?.set_lie(None)?;
    t.scene.wait_calm()?;
    t.note(format!("two stood still on {at}"));
    t.scene.switch(1, Mode::Down)?;
    t.named(&last, &["one-alone"], "alone")?;
    t.announce_probe()?;
    t.check_masked()?;
    t.withdraw_probe()?;
    t.note(format!("without {second} one alone went on"));
    t.scene.all_up()?;
    t.recovered()
}

/// The bad speaker's place in the list.
fn bad(t: &Trial<'_>) -> Result<usize> {
    let at = t.scene.slots.iter().position(|slot| slot.mode() == Mode::Speaker);
    at.context("no instance is the bad speaker")
}

/// The bad speaker does something once; its sessions end and begin anew.
fn once(t: &mut Trial<'_>, order: &str, kinds: &[&str]) -> Result<()> {
    let index = bad(t)?;
    let name = name_of(t, index)?;
    t.scene.slot(index)?.order(order)?;
    gone(t, &name, kinds, "")?;
    t.scene.slot(index)?.order("honest")?;
    t.recovered()
}

fn closed_leg(t: &mut Trial<'_>) -> Result<()> {
    once(t, "close", &["leg-closed"])
}

fn update_error(t: &mut Trial<'_>) -> Result<()> {
    once(t, "notify", &["leg-notification"])
}

fn random_bytes(t: &mut Trial<'_>) -> Result<()> {
    once(t, "garbage", &["leg-fault"])
}

fn random_update(t: &mut Trial<'_>) -> Result<()> {
    once(t, "garbage-update", &["leg-fault", "instance-malformed"])
}

/// A route is withdrawn and one instance goes on with it.
fn missing_withdraw(t: &mut Trial<'_>) -> Result<()> {
    let index = bad(t)?;
    let name = name_of(t, index)?;
    t.announce_probe()?;
    t.scene.wait_calm()?;
    let speaker = t.scene.slot(index)?;
    speaker.order("keep-withdrawn")?;
    speaker.wait_order("keep-withdrawn")?;
    let probe = t.probe()?;
    let took = t.withdraw_probe()?;
    t.note(format!("withdrawn all the same after {:.1} s", took.as_secs_f32()));
    t.named(&name, &["disagreement"], &probe)?;
    t.dwell();
    t.check_masked()?;
    t.scene.slot(index)?.order("honest")?;
    t.recovered()
}

/// It has said OPEN, and nothing after it: first on the sessions it has, then on each new one.
fn mute(t: &mut Trial<'_>) -> Result<()> {
    let index = bad(t)?;
    let name = name_of(t, index)?;
    t.scene.slot(index)?.order("mute")?;
    gone(t, &name, &["leg-fault"], "hold time")?;
    t.named(&name, &["leg-fault"], "did not answer")?;
    t.check_masked()?;
    t.scene.slot(index)?.order("honest")?;
    t.recovered()
}

/// It closes its sessions again and again.
fn flapping(t: &mut Trial<'_>) -> Result<()> {
    let index = bad(t)?;
    let name = name_of(t, index)?;
    for flap in 1..=FLAPS {
        for (order, event) in [("close", "leg-closed"), ("honest", "leg-up")] {
            let speaker = t.scene.slot(index)?;
            speaker.order(order)?;
            speaker.wait_order(order)?;
            t.wait_count(&name, event, flap)?;
        }
    }
    if t.scene.keeper == Keeper::Virtd {
        t.named(&name, &["instance-faulty"], "lost its session")?;
    }
    gone(t, &name, &["leg-closed"], "")?;
    t.recovered()
}

/// Routes without end, true ones changed and made-up ones.
fn flood(t: &mut Trial<'_>) -> Result<()> {
    let index = bad(t)?;
    t.through_master = is_master_slave(t.scene);
    let (before, memory) = (t.scene.router.status()?.candidates, t.scene.memory_mib());
    t.scene.slot(index)?.order("flood")?;
    let took = t.announce_probe()?;
    // It lasts so long, and then for T.
    std::thread::sleep(FLOOD + T);
    t.withdraw_probe()?;
    let said = t.scene.router.status()?.candidates.saturating_sub(before);
    ensure!(said > 1000, "a flood of {said} routes is none");
    if t.scene.keeper == Keeper::Virtd {
        let name = name_of(t, index)?;
        t.named(&name, &["instance-faulty"], "routes a second")?;
        if t.through_master {
            // What it said stands until its processes have ended, and then for T.
            t.named(&name, &["instance-gone"], "")?;
            t.dwell();
        }
    }
    let grown = t.scene.memory_mib().saturating_sub(memory);
    ensure!(grown < FLOOD_MEMORY_MIB, "virtd grew by {grown} MiB");
    t.note(format!("{said} routes, virtd +{grown} MiB, learning went on within {:.1} s", took.as_secs_f32()));
    t.check_masked()?;
    t.scene.slot(index)?.order("honest")?;
    t.recovered()
}

fn two_kill_and_lie(t: &mut Trial<'_>) -> Result<()> {
    let (dead, liar, at) = (name_of(t, 2)?, name_of(t, 0)?, standing(t)?);
    t.through_master = is_master_slave(t.scene);
    t.scene.slot(0)?.set_lie(Some(Lie::Path(at)))?;
    t.scene.slot(2)?.signal_all(Signal::SIGKILL)?;
    t.announce_probe()?;
    t.named(&dead, GONE, "")?;
    t.named(&liar, &["disagreement"], &at.to_string())?;
    t.dwell();
    t.withdraw_probe()?;
    t.check_masked()?;
    t.scene.slot(0)?.set_lie(None)?;
    t.recovered()
}

fn two_hang_and_extra(t: &mut Trial<'_>) -> Result<()> {
    let (hung, liar) = (name_of(t, 1)?, name_of(t, 0)?);
    t.through_master = is_master_slave(t.scene);
    t.scene.slot(0)?.set_lie(Some(Lie::Extra(prefix(EXTRA)?)))?;
    t.scene.slot(1)?.signal_all(Signal::SIGSTOP)?;
    t.announce_probe()?;
    t.named(&liar, &["disagreement"], EXTRA)?;
    t.named(&hung, &["leg-fault"], "hold time")?;
    t.withdraw_probe()?;
    t.check_masked()?;
    t.scene.slot(0)?.set_lie(None)?;
    if t.scene.keeper == Keeper::Scene {
        t.scene.slot(1)?.signal_all(Signal::SIGCONT)?;
    }
    t.recovered()
}

/// Two instances are wrong about the same route, each in its own way.
fn two_lies(t: &mut Trial<'_>) -> Result<()> {
    let (one, other, at) = (name_of(t, 0)?, name_of(t, 3)?, standing(t)?);
    t.through_master = is_master_slave(t.scene);
    t.scene.slot(0)?.set_lie(Some(Lie::NextHop(at)))?;
    t.scene.slot(3)?.set_lie(Some(Lie::Path(at)))?;
    t.announce_probe()?;
    for name in [&one, &other] {
        t.named(name, &["disagreement"], &at.to_string())?;
    }
    t.dwell();
    t.withdraw_probe()?;
    t.check_masked()?;
    t.scene.slot(0)?.set_lie(None)?;
    t.scene.slot(3)?.set_lie(None)
}
