//! An UPDATE kills virtd itself (a debug build has a fault for that): its route is withdrawn, and
//! nothing else happens outside. What is kept of it kills a virtd again.

use anyhow::{Result, ensure};
use std::fs;
use std::time::Duration;
use tests::lab::{Lab, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(90);
const FATAL: &str = "203.0.113.66/32";
const VARIABLE: &str = "HV_TEST_PANICS_ON";

/// What the monitor's neighbour knows.
fn prefixes_out(router: &Router, n: u64) -> Result<()> {
    wait_until(&format!("{n} prefixes outside"), UP, || match router.prefixes_out("10.0.2.2") {
        Ok(out) if out == n => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn an_update_that_kills_virtd_is_a_withdrawal() -> Result<()> {
    let mut lab = Lab::new("own-poison")?;
    let star = lab.star(3)?;
    let records = lab.folder("virtd")?.join("records");
    let options = Options { environment: vec![(VARIABLE, FATAL)], ..Options::default() };
    let with_recorder = |text| format!("{text}\n[recorder]\nfolder = {records:?}\n");
    let mut router = Router::with_toml(&lab, &star, &options, with_recorder)?;
    router.launch(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let script = lab.directory().join("script");
    fs::write(
        &script,
        format!(
            "announce 198.51.100.0/24,192.0.2.0/24\nwait 12s\nannounce 198.18.0.0/15\n\
             announce {FATAL},192.0.2.0/24 med 7\nannounce 203.0.113.0/24\nwait 600s\n"
        ),
    )?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    prefixes_out(&router, 2)?;
    wait_for("the fault", UP, || router.events("virtd-poison").len() == 1)?;
    // 192.0.2.0/24 goes with the route that it came with; 198.51.100.0/24 and what was said beside it
    // stand.
    prefixes_out(&router, 3)?;
    let died = router.events("worker-died");
    ensure!(died.len() == 1, "one died, and none of it again: {died:?}");
    ensure!(router.events("session-down").is_empty(), "no session ends");
    for replayer in [&monitor, &feed] {
        ensure!(replayer.count("session-up") == 1 && replayer.count("session-down") == 0);
    }
    let kept = || fs::read_dir(&records).ok().into_iter().flatten().flatten().map(|e| e.path());
    let is_its = |p: &std::path::PathBuf| p.to_string_lossy().ends_with("-virtd-poison-virtd.mrt");
    let mrt =
        wait_until("a record", UP, || kept().find(is_its).ok_or_else(|| format!("{:?}", kept().collect::<Vec<_>>())))?;
    // Whoever takes over once more gives it the same meaning.
    let worker = tests::lab::run("pgrep", &["-P", &router.virtd.pid().to_string(), "virtd-worker"])?;
    tests::lab::run("kill", &["-9", worker.trim()])?;
    wait_for("the next one", UP, || router.events("taken-over").len() == 2)?;
    let mut again =
        Replayer::dial(&lab, &star.sites[2], false, &["--mrt", &mrt.display().to_string(), "--speed", "max"])?;
    wait_for("the same fault", UP, || router.events("virtd-poison").len() == 2)?;
    prefixes_out(&router, 3)?;
    ensure!(router.events("session-down").is_empty(), "no session ends");
    again.finish()?;
    monitor.finish()?;
    feed.finish()?;
    lab.passed();
    Ok(())
}
