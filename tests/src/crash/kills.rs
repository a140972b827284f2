//! The ways in which the worker is killed.

use super::judge::median_and_max;
use super::scene::{Ended, Scene, Size, UP, children};
use super::script::now_us;
use super::step::kill_after;
use crate::lab::{wait_for, wait_until};
use crate::replayer::Replayer;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A burst has so many kills at most.
const BURST: u32 = 5;
/// A turn in which an UPDATE comes has some ten thousand instructions, or some hundred thousand in
/// a debug build.
const MOST_STEPS: u32 = 300_000;
/// Progress is told this often.
const TELL: Duration = Duration::from_secs(10);
/// How long an image is waited for.
const IMAGE: Duration = Duration::from_secs(60);
/// Between two looks for a process.
const GLANCE: Duration = Duration::from_micros(500);

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The scene.
    pub size: Size,
    /// Kills when everybody votes.
    pub kills: u32,
    /// Kills at any time.
    pub bursts: u32,
    /// Kills of each aimed kind.
    pub aimed: u32,
    /// Kills at an instruction of a turn.
    pub steps: u32,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// One line, for a program.
    pub json: Value,
    /// Nothing was wrong.
    pub passed: bool,
}

struct Run {
    scene: Scene,
    rng: SmallRng,
    /// Kills by kind.
    done: BTreeMap<&'static str, u32>,
    /// When each was, microseconds since 1970.
    at: Vec<u64>,
    voting_s: Vec<f64>,
    /// The last kill after which all have voted again.
    settled: Option<u64>,
    told: Instant,
    start: Instant,
    /// What was seen of aims that were missed.
    missed: BTreeMap<&'static str, u32>,
}

/// Does all of it, and the same without a kill first.
///
/// # Errors
/// The scene cannot be had, or does not come back.
pub fn run(plan: &Plan) -> Result<Report> {
    let start = Instant::now();
    say(start, "the same without a kill first");
    let calm = without(plan.size)?;
    let (calm, quiet) = calm;
    say(start, &format!("{} wrong without a kill; now the kills, seed {}", calm.wrongs.count(), plan.size.seed));
    let scene = Scene::begin("crash", plan.size)?;
    let mut run = Run {
        scene,
        rng: SmallRng::seed_from_u64(plan.size.seed),
        done: BTreeMap::new(),
        at: Vec::new(),
        voting_s: Vec::new(),
        settled: None,
        told: start,
        start,
        missed: BTreeMap::new(),
    };
    let done = run.all(plan);
    let ended = match done.and_then(|()| run.scene.end()) {
        Ok(ended) => ended,
        Err(e) => return Err(e.context(format!("after {:?}, wrong so far: {:?}", run.done, run.scene.wrongs()))),
    };
    let differences = calm.differences(&ended)?;
    let report = run.report(&calm, &ended, &differences);
    // With `[fib]` BIRD and zebra end with their route sockets, and are started again.
    let same = ended.daemons.is_empty() || plan.size.fib;
    let passed = ended.wrongs.count() == 0 && same && differences.is_empty() && ended.differ.is_empty();
    if passed {
        run.scene.passed();
        quiet.passed();
    }
    Ok(Report { json: report, passed })
}

/// The script without a kill.
fn without(size: Size) -> Result<(Ended, Scene)> {
    let mut scene = Scene::begin("calm", size)?;
    scene.wait_loaded()?;
    scene.script.talk();
    std::thread::sleep(Duration::from_secs(3));
    let ended = scene.end()?;
    scene.kinds.router.virtd.stop();
    Ok((ended, scene))
}

fn say(since: Instant, text: &str) {
    eprintln!("[{:6.1} s] {text}", since.elapsed().as_secs_f32());
}

impl Run {
    fn all(&mut self, plan: &Plan) -> Result<()> {
        for _ in 0..plan.aimed {
            let us = self.rng.random_range(0..1_500_000);
            std::thread::sleep(Duration::from_micros(us));
            self.kill("loading")?;
        }
        self.scene.wait_loaded()?;
        say(self.start, &format!("the table is loaded, {:?}", self.scene.wrongs()));
        self.scene.script.talk();
        for _ in 0..plan.kills {
            self.settle()?;
            self.kill("level")?;
        }
        self.settle()?;
        for _ in 0..plan.aimed {
            self.kill("before-new")?;
            self.next_worker()?;
            let us = self.rng.random_range(0..30_000);
            std::thread::sleep(Duration::from_micros(us));
            self.kill("new")?;
            self.settle()?;
        }
        for _ in 0..plan.aimed {
            self.during_image()?;
            self.settle()?;
        }
        for _ in 0..plan.aimed {
            self.during_accept()?;
        }
        for _ in 0..plan.steps {
            self.at_an_instruction()?;
        }
        let mut left = plan.bursts;
        while left > 0 {
            // Most of them come before all vote again, some after.
            let us = if self.rng.random_ratio(1, 5) { 25_000_000 } else { 3_000_000 };
            let us = self.rng.random_range(0..us);
            std::thread::sleep(Duration::from_micros(us));
            let burst = if self.rng.random_ratio(1, 4) { self.rng.random_range(1..=BURST) } else { 1 };
            for _ in 0..burst.min(left) {
                self.kill("burst")?;
                left -= 1;
                let us = self.rng.random_range(0..200_000);
                std::thread::sleep(Duration::from_micros(us));
            }
        }
        self.settle()
    }

    /// Kills the worker that there is, or the next.
    fn kill(&mut self, kind: &'static str) -> Result<()> {
        // It may have died of the last kill only now.
        self.kill_by(kind, |worker| {
            let _ = kill(worker, Signal::SIGKILL);
            Ok(())
        })
    }

    fn kill_by(&mut self, kind: &'static str, kills: impl FnOnce(Pid) -> Result<()>) -> Result<()> {
        let worker = wait_until("a worker", UP, || self.scene.process("virtd-worker").ok_or(String::new()))?;
        kills(worker)?;
        self.at.push(now_us());
        *self.done.entry(kind).or_default() += 1;
        wait_for("the worker's end", UP, || self.scene.process("virtd-worker") != Some(worker))?;
        self.scene.look()?;
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            let (any, most) = median_and_max(self.voting_s.clone());
            say(
                self.start,
                &format!(
                    "{} kills, {} UPDATEs heard, {} wrong, all vote again after {:.1} s ({:.1} at most)",
                    self.at.len(),
                    self.scene.updates(),
                    self.scene.wrongs().count(),
                    any.unwrap_or_default(),
                    most.unwrap_or_default()
                ),
            );
        }
        Ok(())
    }

    /// In a turn, after so many instructions: a few as likely as many.
    fn at_an_instruction(&mut self) -> Result<()> {
        let us = self.rng.random_range(0..2_000_000);
        std::thread::sleep(Duration::from_micros(us));
        let steps = self.rng.random_range(0.0..f64::from(MOST_STEPS).ln()).exp() as u32;
        self.kill_by("step", |worker| kill_after(worker, steps))
    }

    /// Waits until everybody votes, as the worker that there is has it.
    fn settle(&mut self) -> Result<()> {
        self.next_worker()?;
        self.scene.wait_voting()?;
        if let Some(at) = self.at.last().filter(|at| self.settled != Some(**at)) {
            self.voting_s.push((now_us().saturating_sub(*at)) as f64 / 1e6);
            self.settled = Some(*at);
        }
        self.scene.look()
    }

    fn next_worker(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.scene.process("virtd-worker").is_none() {
            anyhow::ensure!(start.elapsed() < UP, "there is no worker any more");
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn during_image(&mut self) -> Result<()> {
        let worker = self.scene.process("virtd-worker").context("no worker")?;
        self.scene.script.flood();
        let start = Instant::now();
        while children(worker).is_empty() && start.elapsed() < IMAGE {
            std::thread::sleep(GLANCE);
        }
        let found = !children(worker).is_empty();
        let us = self.rng.random_range(0..3_000);
        std::thread::sleep(Duration::from_micros(us));
        self.kill(if found { "image" } else { "flood" })?;
        if !found {
            *self.missed.entry("image").or_default() += 1;
        }
        self.scene.script.talk();
        Ok(())
    }

    /// A neighbour connects; once it has its session it keeps it.
    fn during_accept(&mut self) -> Result<()> {
        let site = self.scene.star.sites.last().context("no place is left")?.clone();
        let mut comer = Replayer::dial(&self.scene.lab, &site, false, &["--monitor", "--reconnect"])?;
        let us = self.rng.random_range(0..1_500_000);
        std::thread::sleep(Duration::from_micros(us));
        self.kill("accept")?;
        comer.wait_event("session-up", UP)?;
        let us = self.rng.random_range(0..8_000_000);
        std::thread::sleep(Duration::from_micros(us));
        let resets = comer.events().iter().filter(|e| e["event"] == "session-down" && e["reset"] == true).count();
        if resets > 0 {
            *self.missed.entry("accept-session-lost").or_default() += 1;
        }
        comer.finish()?;
        // Not before: OpenBGPD holds back from a neighbour whose sessions have ended several times,
        // some minutes each time, and this one's end with each that comes.
        self.settle()
    }

    fn report(&self, calm: &Ended, ended: &Ended, differences: &[String]) -> Value {
        let (mut first, mut update) = (Vec::new(), Vec::new());
        for (n, at) in self.at.iter().enumerate() {
            // What came after the next death answers that.
            let until = self.at.get(n + 1).copied().unwrap_or(u64::MAX);
            let (any, told) = self.scene.first_after(*at);
            let since = |t: u64| (t - at) as f64 / 1e6;
            first.extend(any.filter(|t| *t < until).map(since));
            update.extend(told.filter(|t| *t < until).map(since));
        }
        let seconds = |all: Vec<f64>| {
            let (n, (median, max)) = (all.len(), median_and_max(all));
            let round = |s: Option<f64>| s.map(|s| (s * 1000.0).round() / 1000.0);
            json!({"of": n, "median": round(median), "max": round(max)})
        };
        let some = |all: &[String]| all.iter().take(10).cloned().collect::<Vec<_>>();
        json!({
            "seed": self.scene.size().seed,
            "prefixes": self.scene.size().prefixes,
            "fib": self.scene.size().fib,
            "kills": self.at.len(),
            "by_kind": self.done,
            "missed": self.missed,
            "updates_heard": self.scene.updates(),
            "sessions_reset": ended.wrongs.sessions_reset,
            "withdrawals_unmade": ended.wrongs.withdrawals_unmade,
            "routes_repeated": ended.wrongs.repeated,
            "routes_untrue": ended.wrongs.routes_untrue,
            "routes_differ_at_end": differences.len() + ended.differ.len(),
            "instances_processes_changed": ended.daemons,
            "wrong_without_a_kill": calm.wrongs.count(),
            "examples": some(&ended.wrongs.examples),
            "differences": some(&[differences, &ended.differ].concat()),
            "s_to_keepalive_or_update": seconds(first),
            "s_to_update": seconds(update),
            "s_to_all_voting": seconds(self.voting_s.clone()),
            "seconds": self.start.elapsed().as_secs(),
        })
    }
}
