//! Daemons that virtd starts by their kind: two FRRs, two BIRDs and an OpenBGPD in one router, their control programs, their
//! deaths and their end.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use tests::daemons::Daemon;
use tests::lab::{Lab, Star, run, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(90);
const ROUTES: u64 = 200;
const INSTANCES: [(&str, Daemon); 5] = [
    ("frr", Daemon::Frr),
    ("frr2", Daemon::Frr),
    ("bird", Daemon::Bird),
    ("bird2", Daemon::Bird),
    ("openbgpd", Daemon::OpenBgpd),
];

struct Scene {
    lab: Lab,
    star: Star,
    router: Router,
}

impl Scene {
    fn new(name: &str, instances: &[(&str, Daemon)]) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(2)?;
        let router = Scene::virtd(&lab, &star, instances)?;
        Ok(Scene { lab, star, router })
    }

    fn virtd(lab: &Lab, star: &Star, instances: &[(&str, Daemon)]) -> Result<Router> {
        let daemons = instances.iter().map(|(_, daemon)| *daemon).collect();
        let options = Options { daemons, ..Options::default() };
        let mut kinds = Vec::new();
        for (name, daemon) in instances {
            kinds.push((format!("name = {name:?}\n"), *daemon, configuration(lab, star, &options, name, *daemon)?));
        }
        Router::with_toml(lab, star, &options, |mut text| {
            for (line, daemon, file) in &kinds {
                let more = format!("{line}kind = {:?}\nconfig = {file:?}\n", daemon.name());
                text = text.replace(line, &more);
            }
            // Deaths follow each other faster here than they may in life.
            let _ = writeln!(text, "[faults]\nrestart_min_s = 1\nrestart_max_s = 2\n");
            text
        })
    }

    fn pids(&self, name: &str) -> Result<Vec<Pid>> {
        let answer = self.router.ctl(&["instances"])?;
        let list = answer["instances"].as_array().context("no instances")?;
        let found = list.iter().find(|i| i["name"] == name).and_then(|i| i["pids"].as_array()).context("no pids")?;
        Ok(found.iter().filter_map(|p| i32::try_from(p.as_i64()?).ok()).map(Pid::from_raw).collect())
    }

    fn voting(&self, instances: &[(&str, Daemon)]) -> Result<()> {
        instances.iter().try_for_each(|(name, _)| self.router.wait_state(name, "voting", UP))
    }

    /// FRR's zebra, by the file that it writes.
    fn zebra(&self, name: &str) -> Result<Pid> {
        let path = run_folder(&self.lab, name)?.join("zebra.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    /// Kills one process; the instance ends as a whole, with an event that names the process, and comes back voting.
    fn kill(&self, name: &str, pid: Pid, named: &str) -> Result<()> {
        let exits = || self.router.events("instance-exited").into_iter().filter(|e| e["instance"] == name);
        let (before, old) = (exits().count(), self.pids(name)?);
        kill(pid, Signal::SIGKILL)?;
        wait_for(&format!("the end of {name} to be reported"), UP, || exits().count() > before)?;
        let text = exits().next_back().context("no event")?["text"].to_string();
        ensure!(text.contains(named) && text.contains("SIGKILL"), "{text}");
        wait_until(&format!("{name} to vote as new processes"), UP, || {
            let now = self.pids(name).map_err(|e| format!("{e:#}"))?;
            let state = self.router.state_of(name).map_err(|e| format!("{e:#}"))?;
            let new = !now.is_empty() && now.iter().all(|p| !old.contains(p));
            if new && state == "voting" { Ok(()) } else { Err(format!("{state}, {old:?} and now {now:?}")) }
        })
    }
}

fn run_folder(lab: &Lab, name: &str) -> Result<PathBuf> {
    Ok(lab.folder("virtd")?.join("instances").join(name))
}

/// Writes a daemon's own file; returns where.
fn configuration(lab: &Lab, star: &Star, options: &Options, name: &str, daemon: Daemon) -> Result<PathBuf> {
    let folder = lab.folder(&format!("conf-{name}"))?;
    let file = folder.join("bgp.conf");
    // OpenBGPD's control socket is named in its file; of the others, the log is.
    let named = if daemon == Daemon::OpenBgpd { run_folder(lab, name)? } else { folder.clone() };
    fs::write(&file, daemon.configuration(&options.spec(&star.sites), &named))?;
    match daemon {
        Daemon::Frr => drop(run("chown", &["-R", "frr:frr", &folder.display().to_string()])?),
        Daemon::Bird => {}
        Daemon::OpenBgpd => fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?,
    }
    Ok(file)
}

#[test]
fn five_daemons_by_kind_are_one_router() -> Result<()> {
    let mut scene = Scene::new("kinds", &INSTANCES)?;
    let mut monitor = Replayer::dial(&scene.lab, &scene.star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&scene.lab, &scene.star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    feed.wait_event("feed-done", UP)?;
    wait_for("all routes outside", UP, || scene.router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES))?;
    scene.voting(&INSTANCES)?;

    let said = [
        ("frr", &["exec", "frr", "show", "bgp", "summary"][..], "10.0.1.2"),
        ("frr2", &["exec", "frr2", "show bgp summary"], "10.0.1.2"),
        ("bird", &["exec", "bird", "show", "protocols"], "Established"),
        ("bird2", &["exec", "bird2", "-r", "show", "protocols"], "Established"),
        ("openbgpd", &["exec", "openbgpd", "show", "summary"], "10.0.1.2"),
    ];
    for (name, words, expected) in said {
        let text = scene.router.show(words)?;
        ensure!(text.contains(expected), "{name} says {text}");
    }
    let refused = scene.router.show(&["exec", "frr3"]).err().context("frr3 does not exist")?;
    ensure!(format!("{refused:#}").contains("there are frr, frr2, bird, bird2, openbgpd"), "{refused:#}");

    scene.router.wait_quiet(Duration::from_secs(1), UP)?;
    let updates = monitor.count("update");
    let bgpd = |name: &str| Ok::<_, anyhow::Error>(*scene.pids(name)?.first().context("no process")?);
    scene.kill("frr2", bgpd("frr2")?, "frr2: bgpd (process ")?;
    scene.kill("frr", scene.zebra("frr")?, "frr: zebra (process ")?;
    scene.kill("bird2", bgpd("bird2")?, "bird2 (process ")?;
    scene.voting(&INSTANCES)?;
    ensure!(monitor.count("update") == updates, "the monitor was told something");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;

    let inside = || run("ip", &["netns", "pids", scene.star.router.name()]);
    ensure!(inside()?.lines().count() > 8, "virtd, two zebras and bgpds, two birds, three processes of OpenBGPD");
    scene.router.virtd.signal(Signal::SIGTERM)?;
    ensure!(scene.router.virtd.wait(UP)?.success(), "{}", scene.router.virtd.log());
    let left = inside()?;
    ensure!(left.trim().is_empty(), "virtd has left {left}");
    scene.lab.passed();
    Ok(())
}

/// FRR changes its user, so the kernel does not end it with a virtd that is killed; the next virtd does.
#[test]
fn what_a_killed_virtd_leaves_is_replaced() -> Result<()> {
    let instances = &[INSTANCES[0], INSTANCES[2]];
    let mut scene = Scene::new("kinds-leftovers", instances)?;
    let mut feed = Replayer::dial(&scene.lab, &scene.star.sites[0], false, &["--generate", "100"])?;
    feed.wait_event("feed-done", UP)?;
    scene.voting(instances)?;
    let mut old = scene.pids("frr")?;
    old.push(scene.zebra("frr")?);
    scene.router.virtd.crash();
    scene.router = Scene::virtd(&scene.lab, &scene.star, instances)?;
    wait_for("the old FRR to be gone", UP, || old.iter().all(|pid| kill(*pid, None).is_err()))?;
    let mut feed = Replayer::dial(&scene.lab, &scene.star.sites[1], false, &["--generate", "100"])?;
    feed.wait_event("feed-done", UP)?;
    scene.voting(instances)?;
    let now = scene.pids("frr")?;
    ensure!(now.len() == 1 && !old.contains(&now[0]), "{old:?} and now {now:?}");
    ensure!(scene.router.virtd.log().contains("is left from an earlier virtd"), "{}", scene.router.virtd.log());
    scene.router.virtd.signal(Signal::SIGTERM)?;
    ensure!(scene.router.virtd.wait(UP)?.success(), "{}", scene.router.virtd.log());
    scene.lab.passed();
    Ok(())
}
