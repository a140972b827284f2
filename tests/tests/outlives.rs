//! What the death of virtd's processes costs: the worker's ends no instance, the twin's nothing at
//! all, and both together no more than the worker's.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use tests::kinds::Kinds;
use tests::lab::{Lab, Star, run, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::Options;

/// OpenBGPD holds back for half a minute, and longer each time, after a session that was reset.
const UP: Duration = Duration::from_secs(120);
const ROUTES: u64 = 200;

/// A router of three daemons, and two neighbours that come back.
struct Scene {
    lab: Lab,
    star: Star,
    kinds: Kinds,
    monitor: Replayer,
    feed: Replayer,
}

impl Scene {
    fn new(name: &str) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(2)?;
        let options = Options::default();
        let kinds = Kinds::start(&lab, &star, &options, |_| String::new())?;
        let monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--reconnect"])?;
        let feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string(), "--reconnect"])?;
        let scene = Scene { lab, star, kinds, monitor, feed };
        scene.wait_whole()?;
        Ok(scene)
    }

    /// Both sessions stand, all routes are outside, and everybody votes.
    fn wait_whole(&self) -> Result<()> {
        wait_until("all routes outside", UP, || match self.kinds.router.prefixes_out("10.0.2.2") {
            Ok(ROUTES) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.kinds.router.session("10.0.1.2")?;
        self.kinds.wait_voting(UP)
    }

    /// virtd's own process of this name.
    fn process(&self, name: &str) -> Result<Pid> {
        let master = self.kinds.router.virtd.pid();
        let of = |pid: Pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let children = run("pgrep", &["-P", &master.to_string()])?;
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw);
        let found: Vec<Pid> = children.filter(|pid| of(*pid).trim() == name).collect();
        ensure!(found.len() == 1, "{name}: {found:?}");
        Ok(found[0])
    }

    /// The process of this name is another one than it was.
    fn wait_other(&self, name: &str, than: Pid) -> Result<Pid> {
        wait_until(&format!("another {name}"), UP, || match self.process(name) {
            Ok(pid) if pid != than => Ok(pid),
            other => Err(format!("{other:?}")),
        })
    }

    /// Every process in the router's namespace but virtd's own, by its number.
    fn daemons(&self) -> Result<BTreeMap<i32, String>> {
        let all = run("ip", &["netns", "pids", self.star.router.name()])?;
        let of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        let all = all.split_whitespace().filter_map(|pid| pid.parse().ok()).map(|pid| (pid, of(pid)));
        Ok(all.filter(|(_, name)| !name.starts_with("virtd")).collect())
    }

    fn sessions(&self) -> [usize; 2] {
        [self.monitor.count("session-up"), self.feed.count("session-up")]
    }

    /// The sessions have ended and stand again, with all routes.
    fn wait_back(&self, before: [usize; 2]) -> Result<()> {
        wait_for("both sessions to be back", UP, || self.sessions().iter().zip(before).all(|(now, then)| *now > then))?;
        self.wait_whole()
    }

    /// An orderly end leaves no process.
    fn end(self) -> Result<()> {
        let Scene { lab, star, mut kinds, mut monitor, mut feed } = self;
        monitor.finish()?;
        feed.finish()?;
        // To the master alone, as a service manager does.
        kill(kinds.router.virtd.pid(), Signal::SIGTERM)?;
        ensure!(kinds.router.virtd.wait(UP)?.success(), "{}", kinds.router.virtd.log());
        let left = run("ip", &["netns", "pids", star.router.name()])?;
        ensure!(left.trim().is_empty(), "virtd has left {left}");
        let stopped = kinds.router.events("instance-stopped").len();
        ensure!(stopped == 3, "{stopped} instances have ended because virtd told them to");
        lab.passed();
        Ok(())
    }
}

#[test]
fn instances_outlive_the_worker_and_the_router_comes_back() -> Result<()> {
    let scene = Scene::new("outlives-worker")?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    ensure!(daemons.len() >= 6, "zebra, bgpd, bird and three processes of OpenBGPD: {daemons:?}");
    let (worker, twin) = (scene.process("virtd-worker")?, scene.process("virtd-twin")?);
    kill(worker, Signal::SIGKILL)?;
    ensure!(scene.wait_other("virtd-worker", worker)? == twin, "the twin has become the worker");
    scene.wait_back(before)?;
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

#[test]
fn the_twins_death_costs_nothing_and_that_of_both_no_instance() -> Result<()> {
    let scene = Scene::new("outlives-twin")?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    let (worker, twin) = (scene.process("virtd-worker")?, scene.process("virtd-twin")?);
    kill(twin, Signal::SIGKILL)?;
    let second = scene.wait_other("virtd-twin", twin)?;
    wait_for("an event", UP, || scene.kinds.router.events("twin-died").len() == 1)?;
    ensure!(scene.process("virtd-worker")? == worker && scene.sessions() == before, "the worker goes on");
    scene.wait_whole()?;

    // The second twin, made by a worker with threads, takes over like the first.
    kill(worker, Signal::SIGKILL)?;
    ensure!(scene.wait_other("virtd-worker", worker)? == second, "the second twin has become the worker");
    scene.wait_back(before)?;

    let before = scene.sessions();
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
fn sessions_outlive_the_master_and_the_next_one_replaces_what_is_left() -> Result<()> {
    let mut scene = Scene::new("outlives-master")?;
    let (daemons, before) = (scene.daemons()?, scene.sessions());
    let (worker, twin) = (scene.process("virtd-worker")?, scene.process("virtd-twin")?);
    kill(scene.kinds.router.virtd.pid(), Signal::SIGKILL)?;
    scene.kinds.router.virtd.wait(UP)?;
    wait_for("an event", UP, || scene.kinds.router.events("master-gone").len() == 1)?;
    wait_for("the twin to have ended", UP, || kill(twin, None).is_err())?;
    scene.wait_whole()?;
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
