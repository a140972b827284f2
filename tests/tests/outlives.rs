//! What the death of virtd's processes costs: the worker's ends no instance, the twin's nothing at
//! all, and both together no more than the worker's.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};
use tests::lab::{Star, wait_for, wait_until};
use tests::odd::OPEN;
use tests::raw::{Raw, open};
use tests::replayer::Replayer;
use tests::router::Options;
use tests::scene::{ROUTES, Scene, UP};

#[test]
fn instances_outlive_the_worker_and_the_router_comes_back() -> Result<()> {
    let scene = Scene::new("outlives-worker", 2, ROUTES)?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    ensure!(daemons.len() >= 6, "zebra, bgpd, bird and three processes of OpenBGPD: {daemons:?}");
    let (worker, twin) = (scene.process("virtd-worker")?, scene.process("virtd-twin")?);
    kill(worker, Signal::SIGKILL)?;
    ensure!(scene.wait_other("virtd-worker", worker)? == twin, "the twin has become the worker");
    wait_for("the sessions to be taken over", UP, || scene.kinds.router.events("taken-over").len() == 1)?;
    scene.wait_whole(ROUTES)?;
    ensure!(scene.sessions() == before, "no neighbour has noticed");
    ensure!(scene.daemons()? == daemons, "{daemons:?} before, {:?} now", scene.daemons()?);
    let died = scene.kinds.router.events("worker-died");
    let text = died.first().and_then(|e| e["text"].as_str()).context("no worker-died")?;
    ensure!(died.len() == 1 && text.contains(&format!("process {worker}) was ended by SIGKILL")), "{died:?}");
    // The new one reads the configuration again, and supervises as the old one did.
    ensure!(scene.kinds.router.show(&["reload"])?.contains("nothing to do"));
    let old = scene.kinds.pids("bird")?;
    scene.kinds.kill("bird", scene.kinds.leader("bird")?, Signal::SIGKILL, UP)?;
    scene.kinds.wait_return("bird", &old, UP)?;
    ensure!(scene.kinds.exits("bird").len() == 1, "{:?}", scene.kinds.exits("bird"));
    scene.end()
}

/// A neighbour that has our OPEN and waits for our KEEPALIVE does not wait for its hold time: it is told
/// at once to begin anew, and may.
#[test]
fn a_session_that_is_being_opened_begins_anew() -> Result<()> {
    let scene = Scene::new("outlives-opening", 3, ROUTES)?;
    let before = scene.sessions();
    let mut raw = Raw::connect(&scene.star.sites[2])?;
    raw.send(&open(4, raw.site.asn, 90, [10, 255, 1, 3]))?;
    raw.expect(OPEN)?;
    kill(scene.process("virtd-worker")?, Signal::SIGKILL)?;
    let killed = std::time::Instant::now();
    raw.expect_notification(6, 4)?;
    ensure!(killed.elapsed() < Duration::from_secs(30), "after {:?}", killed.elapsed());
    let _again = Raw::establish(&scene.star.sites[2], 90)?;
    scene.wait_whole(ROUTES)?;
    ensure!(scene.sessions() == before, "the others have not noticed");
    scene.end()
}

#[test]
fn the_twins_death_costs_nothing_and_that_of_both_no_instance() -> Result<()> {
    let scene = Scene::new("outlives-twin", 2, ROUTES)?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    let (worker, twin) = (scene.process("virtd-worker")?, scene.process("virtd-twin")?);
    kill(twin, Signal::SIGKILL)?;
    let second = scene.wait_other("virtd-twin", twin)?;
    wait_for("an event", UP, || scene.kinds.router.events("twin-died").len() == 1)?;
    ensure!(scene.process("virtd-worker")? == worker && scene.sessions() == before, "the worker goes on");
    scene.wait_whole(ROUTES)?;

    // The second twin, made by a worker with threads, takes over like the first.
    kill(worker, Signal::SIGKILL)?;
    ensure!(scene.wait_other("virtd-worker", worker)? == second, "the second twin has become the worker");
    wait_for("the sessions to be taken over", UP, || scene.kinds.router.events("taken-over").len() == 1)?;
    scene.wait_whole(ROUTES)?;
    ensure!(scene.sessions() == before, "no neighbour has noticed");

    let (worker, twin) = (scene.process("virtd-worker")?, scene.process("virtd-twin")?);
    kill(twin, Signal::SIGKILL)?;
    kill(worker, Signal::SIGKILL)?;
    let third = scene.wait_other("virtd-worker", worker)?;
    ensure!(third != twin, "both were killed");
    scene.wait_back(before)?;
    ensure!(scene.daemons()? == daemons, "{daemons:?} before, {:?} now", scene.daemons()?);
    scene.end()
}

#[test]
fn the_shortest_hold_time_outlasts_a_journal_that_takes_longer_to_read() -> Result<()> {
    // A debug build waits for so long when it has read it.
    let options = Options { environment: vec![("HV_TEST_READS_FOR_MS", "7000")], ..Options::default() };
    let scene = Scene::with("outlives-hold", 3, ROUTES, &options)?;
    let short = ["--monitor", "--events-updates", "--hold-time", "3"];
    let mut short = Replayer::dial(&scene.lab, &scene.star.sites[2], false, &short)?;
    short.wait_event("session-up", UP)?;
    let before = scene.sessions();
    kill(scene.process("virtd-worker")?, Signal::SIGKILL)?;
    wait_for("the sessions to be taken over", UP, || scene.kinds.router.events("taken-over").len() == 1)?;
    scene.wait_whole(ROUTES)?;
    ensure!(scene.sessions() == before && short.count("session-down") == 0, "{:?}", short.events().last());
    short.finish()?;
    scene.end()
}

/// Workers killed before they have a twin.
const EARLY: usize = 6;

#[test]
fn workers_that_die_before_they_have_a_twin_cost_nothing_either() -> Result<()> {
    let scene = Scene::new("outlives-early", 2, ROUTES)?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    let master = scene.kinds.router.virtd.pid();
    kill(scene.process("virtd-worker")?, Signal::SIGKILL)?;
    // Whoever has executed the worker's program is killed as soon as it is seen.
    let mut killed = BTreeSet::new();
    let until = Instant::now() + UP;
    while killed.len() < EARLY {
        ensure!(Instant::now() < until, "only {killed:?} were seen");
        for pid in children(master)? {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if arguments.ends_with(b"--resumed\0")
                && !killed.contains(&pid)
                && !["virtd-twin\n", "virtd-keeper\n"].contains(&name.as_str())
            {
                kill(Pid::from_raw(pid), Signal::SIGKILL)?;
                killed.insert(pid);
            }
        }
    }
    wait_for("the sessions to be taken over", UP, || !scene.kinds.router.events("taken-over").is_empty())?;
    scene.wait_whole(ROUTES)?;
    ensure!(scene.sessions() == before, "no neighbour has noticed");
    ensure!(scene.daemons()? == daemons, "{daemons:?} before, {:?} now", scene.daemons()?);
    wait_for("the keeper to have ended", UP, || scene.process("virtd-keeper").is_err())?;
    scene.end()
}

/// A process's children.
fn children(of: Pid) -> Result<Vec<i32>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{of}/task"))? {
        let text = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        all.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(all)
}

#[test]
fn sessions_outlive_the_master_and_the_next_one_replaces_what_is_left() -> Result<()> {
    let mut scene = Scene::new("outlives-master", 2, ROUTES)?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    let (worker, twin) = (scene.process("virtd-worker")?, scene.process("virtd-twin")?);
    kill(scene.kinds.router.virtd.pid(), Signal::SIGKILL)?;
    scene.kinds.router.virtd.wait(UP)?;
    wait_for("an event", UP, || scene.kinds.router.events("master-gone").len() == 1)?;
    wait_for("the twin to have ended", UP, || kill(twin, None).is_err())?;
    scene.wait_whole(ROUTES)?;
    ensure!(scene.sessions() == before && scene.daemons()? == daemons, "everything goes on");
    let refused = scene.kinds.router.show(&["reload"]).err().context("nobody can read the file")?;
    ensure!(format!("{refused:#}").contains("the master is gone"), "{refused:#}");

    // The next one will not start beside it.
    let log = |scene: &Scene| scene.kinds.router.virtd.log();
    let mut second = scene.kinds.router.spawn_virtd(&scene.lab)?;
    ensure!(!second.wait(UP)?.success() && log(&scene).contains("another virtd listens on"), "{}", log(&scene));
    ensure!(scene.daemons()? == daemons, "a virtd that cannot start ends nobody");
    kill(worker, Signal::SIGTERM)?;
    wait_for("the worker to have ended", UP, || kill(worker, None).is_err())?;
    scene.kinds.router.virtd = scene.kinds.router.spawn_virtd(&scene.lab)?;
    scene.wait_back(before)?;
    ensure!(log(&scene).contains("is left from an earlier virtd and is killed"), "{}", log(&scene));
    let now = scene.daemons()?;
    ensure!(now.len() == daemons.len() && now.keys().all(|pid| !daemons.contains_key(pid)), "{daemons:?}, {now:?}");
    scene.end()
}

/// The kernel's routes of virtd, by number.
fn routes_in_kernel(star: &Star) -> Result<usize> {
    Ok(star.router.run("ip", &["route", "show", "proto", "245"])?.lines().count())
}

#[test]
fn the_kernels_routes_outlive_the_worker() -> Result<()> {
    let mut scene = Scene::with("outlives-fib", 2, ROUTES, &Options { fib: true, ..Options::default() })?;
    wait_until("all routes in the kernel", UP, || match routes_in_kernel(&scene.star) {
        Ok(n) if n as u64 >= ROUTES => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let (before, all) = (scene.sessions(), routes_in_kernel(&scene.star)?);
    kill(scene.process("virtd-worker")?, Signal::SIGKILL)?;
    // Daemons whose route sockets are gone with the worker end, and are started again.
    let mut fewest = all;
    wait_for("BIRD to have ended", UP, || {
        fewest = fewest.min(routes_in_kernel(&scene.star).unwrap_or_default());
        scene.kinds.exits("bird").len() == 1
    })?;
    wait_until("all routes outside, and everybody voting", UP, || {
        fewest = fewest.min(routes_in_kernel(&scene.star).map_err(|e| format!("{e:#}"))?);
        let taken = scene.kinds.router.events("taken-over").len() == 1;
        let voting = taken && scene.kinds.wait_voting(Duration::from_millis(100)).is_ok();
        if voting { Ok(()) } else { Err("not yet".to_owned()) }
    })?;
    ensure!(fewest == all && routes_in_kernel(&scene.star)? == all, "{all} routes, {fewest} in between");
    ensure!(scene.sessions() == before, "no neighbour has noticed");
    scene.monitor.finish()?.check_quiet()?;
    scene.feed.finish()?;
    scene.lab.passed();
    Ok(())
}
