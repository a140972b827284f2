//! A router of three daemons that virtd starts, and neighbours that come back: for scenarios in which
//! virtd's own processes come and go.

use crate::kinds::Kinds;
use crate::lab::{Lab, Star, run, wait_for, wait_until};
use crate::replayer::Replayer;
use crate::router::Options;
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// OpenBGPD holds back for half a minute, and longer each time, after a session that was reset.
pub const UP: Duration = Duration::from_secs(120);
/// What the feed announces.
pub const ROUTES: u64 = 200;

/// A router of three daemons, and two neighbours that come back.
#[derive(Debug)]
pub struct Scene {
    /// Its namespaces and processes.
    pub lab: Lab,
    /// The router in the middle.
    pub star: Star,
    /// virtd and its daemons.
    pub kinds: Kinds,
    /// Listens at the second site.
    pub monitor: Replayer,
    /// Announces [`ROUTES`] routes at the first.
    pub feed: Replayer,
}

impl Scene {
    /// Starts all of it, with so many sites, and waits until it is whole.
    pub fn new(name: &str, sites: u32, routes: u64) -> Result<Scene> {
        Scene::with(name, sites, routes, &Options::default())
    }

    /// The same of a router with these options.
    pub fn with(name: &str, sites: u32, routes: u64, options: &Options) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(sites)?;
        let kinds = Kinds::start(&lab, &star, options, |_| String::new())?;
        let monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--reconnect", "--events-updates"])?;
        let feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &routes.to_string(), "--reconnect"])?;
        let scene = Scene { lab, star, kinds, monitor, feed };
        scene.wait_whole(routes)?;
        Ok(scene)
    }

    /// Both sessions stand, so many routes are outside, and everybody votes.
    pub fn wait_whole(&self, routes: u64) -> Result<()> {
        wait_until("all routes outside", UP, || match self.kinds.router.prefixes_out("10.0.2.2") {
            Ok(n) if n == routes => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.kinds.router.session("10.0.1.2")?;
        self.kinds.wait_voting(UP)
    }

    /// virtd's own process of this name.
    pub fn process(&self, name: &str) -> Result<Pid> {
        let master = self.kinds.router.virtd.pid();
        let of = |pid: Pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let children = run("pgrep", &["-P", &master.to_string()])?;
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw);
        let found: Vec<Pid> = children.filter(|pid| of(*pid).trim() == name).collect();
        ensure!(found.len() == 1, "{name}: {found:?}");
        Ok(found[0])
    }

    /// The process of this name is another one than it was.
    pub fn wait_other(&self, name: &str, than: Pid) -> Result<Pid> {
        wait_until(&format!("another {name}"), UP, || match self.process(name) {
            Ok(pid) if pid != than => Ok(pid),
            other => Err(format!("{other:?}")),
        })
    }

    /// Every process in the router's namespace but virtd's own, by its number.
    pub fn daemons(&self) -> Result<BTreeMap<i32, String>> {
        let all = run("ip", &["netns", "pids", self.star.router.name()])?;
        let of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        let all = all.split_whitespace().filter_map(|pid| pid.parse().ok()).map(|pid| (pid, of(pid)));
        Ok(all.filter(|(_, name)| !name.starts_with("virtd")).collect())
    }

    /// How often each session has come up.
    pub fn sessions(&self) -> [usize; 2] {
        [self.monitor.count("session-up"), self.feed.count("session-up")]
    }

    /// The sessions have ended and stand again, with all routes.
    pub fn wait_back(&self, before: [usize; 2]) -> Result<()> {
        wait_for("both sessions to be back", UP, || self.sessions().iter().zip(before).all(|(now, then)| *now > then))?;
        self.wait_whole(ROUTES)
    }

    /// An orderly end leaves no process.
    pub fn end(self) -> Result<()> {
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
