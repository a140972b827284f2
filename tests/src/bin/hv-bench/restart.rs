//! How soon a crashed daemon votes again (the target: within 1.2 times its own direct feed): from
//! its start until its candidates count, with 100,000 routes in the router, against the time that
//! the same daemon takes alone from its start until a neighbour has all of them. The watching
//! neighbour must hear nothing.

use crate::Arguments;
use crate::figures::Figures;
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use tests::daemons::{Attach, Daemon, Instance};
use tests::lab::{Lab, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

/// How many times its own direct feed a daemon may take to vote again.
const RATIO: f64 = 1.2;
const PATIENCE: Duration = Duration::from_secs(180);

/// Measures and judges each daemon.
pub fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let n = arguments.prefixes;
    let mut lab = Lab::new("bench-restart")?;
    let star = lab.star(2)?;
    let mut router = Router::start(&lab, &star, &Options::default())?;
    let count = n.to_string();
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &count])?;
    feed.wait_event("feed-done", PATIENCE)?;
    wait_until("all routes outside", PATIENCE, || match router.prefixes_out("10.0.2.2") {
        Ok(out) if out == u64::from(n) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    router.wait_voting(PATIENCE)?;
    router.wait_quiet(Duration::from_secs(4), PATIENCE)?;
    let told = monitor.count("update");
    for daemon in Daemon::ALL {
        let direct = alone(daemon, &count)?;
        router.instance(daemon.name())?.crash();
        router.wait_state(daemon.name(), "absent", PATIENCE)?;
        let start = Instant::now();
        router.instance(daemon.name())?.launch(&lab)?;
        router.wait_state(daemon.name(), "voting", PATIENCE)?;
        let again = start.elapsed().as_secs_f64();
        println!("restart: {} votes again after {again:.2} s; alone it needs {direct:.2} s", daemon.name());
        crate::keep(
            &arguments.raw.join("restart.jsonl"),
            &json!({ "daemon": daemon.name(), "prefixes": n, "voting_s": again, "alone_s": direct }),
        )?;
        let title = format!("M2 {} votes again with {n} routes, to its direct feed", daemon.name());
        figures.judge(title, (again, "s"), Some(direct), "at most 1.2 x", again <= RATIO * direct);
        router.wait_quiet(Duration::from_secs(4), PATIENCE)?;
    }
    let heard = monitor.count("update") - told;
    figures.judge("M2 UPDATEs to a neighbour because of restarts", (heard as f64, ""), None, "none", heard == 0);
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;
    drop(router);
    lab.passed();
    Ok(())
}

/// From the start of a daemon without us until a neighbour has everything that another one tells
/// it.
fn alone(daemon: Daemon, count: &str) -> Result<f64> {
    let mut lab = Lab::new("bench-alone")?;
    let star = lab.star(2)?;
    // Both wait for the router already.
    let _feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", count])?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--until-routes", count])?;
    let spec = Options::default().spec(&star.sites);
    let start = Instant::now();
    let _router = Instance::start(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?;
    let outcome = monitor.wait(PATIENCE)?;
    let took = start.elapsed().as_secs_f64();
    ensure!(outcome.number("sessions_reset") == 0, "{} alone reset its neighbour", daemon.name());
    lab.passed();
    Ok(took)
}
