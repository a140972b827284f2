//! Slow is not dead (docs/DECISIONS.md, "Slow is not dead, and never blocks"): a daemon or a peer
//! that stops reading while a large table comes. Its queue becomes a set of keys, nobody else
//! waits, and it is brought level when it reads again.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;
use tests::lab::{Lab, wait_for, wait_until};
use tests::operate;
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(180);
/// Each with attributes of its own, some 230 octets of UPDATE: more than a queue may hold before it
/// becomes a set of keys (8 MiB), and more than the kernel's buffers take besides.
const MANY: usize = 120_000;

/// Most that virtd may take for the table, what three daemons say about it and all that waits, in
/// KiB.
const MEMORY_KIB: u64 = 300_000;

/// Nobody's hold time may expire while somebody is stopped.
fn patient() -> Options {
    Options { timers: "leg_hold_s = 240\n".to_owned(), ..Options::default() }
}

/// A feed that announces one prefix, waits until somebody else is heard of through the router, and
/// then sends the table.
fn feed_script(lab: &Lab) -> Result<String> {
    let mut text = "announce 203.0.113.0/24\neor\nwait-routes 1\n".to_owned();
    for n in 0..MANY {
        let prefix = Ipv4Addr::from((20 << 24) + ((n as u32) << 8));
        let _ = write!(text, "announce {prefix}/24 as-path {} community", 200_000 + n);
        for c in 0..40 {
            let _ = write!(text, " {}:{c}", n % 60_000 + 1);
        }
        text.push('\n');
    }
    let path = lab.directory().join("feed.script");
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// What virtd says of an instance's leg towards the peer.
fn leg(router: &Router, peer: &str, instance: &str) -> Result<String> {
    let legs = router.session(peer)?.legs;
    let found = legs.into_iter().find(|l| l.instance == instance);
    Ok(found.map_or_else(String::new, |l| format!("{:?} {:?}", l.state, l.detail)))
}

/// Resident memory of virtd at its largest, in KiB.
fn peak_kib(router: &Router) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", router.worker())).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
}

#[test]
fn a_daemon_that_stops_reading_is_told_keys_when_it_reads_again() -> Result<()> {
    let mut lab = Lab::new("slow-daemon")?;
    let star = lab.star(3)?;
    let mut router = Router::start(&lab, &star, &patient())?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &feed_script(&lab)?])?;
    let told = |n: usize| match router.prefixes_out("10.0.2.2") {
        Ok(out) if out == n as u64 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait_until("the first prefix outside", UP, || told(1))?;
    router.wait_voting(UP)?;
    router.instance("bird")?.freeze(true)?;
    let told = |n: usize| match router.prefixes_out("10.0.2.2") {
        Ok(out) if out == n as u64 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    let mut start = Replayer::dial(&lab, &star.sites[2], false, &["--generate", "1"])?;
    feed.wait_event("feed-done", SETTLE)?;
    wait_until("the two others to have told the peer everything", SETTLE, || told(MANY + 2))?;
    let state = leg(&router, &star.sites[0].v4.to_string(), "bird")?;
    ensure!(state.contains("prefixes still to be told"), "the frozen one's queue is no set of keys: {state}");
    router.instance("bird")?.freeze(false)?;
    wait_until("the slow one to have been told everything", SETTLE, || {
        let state = leg(&router, &star.sites[0].v4.to_string(), "bird").map_err(|e| format!("{e:#}"))?;
        if state.contains("level") { Ok(()) } else { Err(state) }
    })?;
    router.wait_state("bird", "voting", SETTLE)?;
    let left = router.wait_quiet(Duration::from_secs(5), SETTLE)?;
    ensure!(left == 0, "{left} disagreements are left");
    let own = operate::control(router.instance("bird")?, &star.router, "show route count")?;
    ensure!(own.contains(&format!("{} of {} routes", MANY + 2, MANY + 2)), "what bird has: {own}");
    feed.finish()?.check_quiet()?;
    start.finish()?.check_quiet()?;
    wait_for("everything to be withdrawn", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == 0))?;
    monitor.finish()?.check_quiet()?;
    ensure!(peak_kib(&router) < MEMORY_KIB, "virtd took {} KiB", peak_kib(&router));
    lab.passed();
    Ok(())
}

#[test]
fn a_peer_that_stops_reading_holds_up_nobody_and_gets_what_stands_then() -> Result<()> {
    let mut lab = Lab::new("slow-peer")?;
    let star = lab.star(4)?;
    let router = Router::start(&lab, &star, &patient())?;
    let slow = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--hold-time", "0"])?;
    let quick = Replayer::dial(&lab, &star.sites[2], false, &["--monitor"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &feed_script(&lab)?])?;
    let told = |peer: &str, n: usize| match router.prefixes_out(peer) {
        Ok(out) if out == n as u64 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    for peer in ["10.0.2.2", "10.0.3.2"] {
        wait_until("the first prefix outside", UP, || told(peer, 1))?;
    }
    router.wait_voting(UP)?;
    slow.signal(Signal::SIGSTOP)?;
    let mut start = Replayer::dial(&lab, &star.sites[3], false, &["--generate", "1"])?;
    feed.wait_event("feed-done", SETTLE)?;
    wait_until("the quick one to have been told everything", SETTLE, || told("10.0.3.2", MANY + 2))?;
    let so_far = router.prefixes_out("10.0.2.2")?;
    ensure!(so_far < MANY as u64, "the slow one's queue has no bound: {so_far} prefixes told");
    slow.signal(Signal::SIGCONT)?;
    wait_until("the slow one to have been told everything", SETTLE, || told("10.0.2.2", MANY + 2))?;
    router.wait_quiet(Duration::from_secs(3), SETTLE)?;
    // Both leave at the same moment, so that neither sees the other's world end.
    for outcome in Replayer::finish_together(&mut [slow, quick])? {
        outcome.check_quiet()?;
        ensure!(outcome.routes()?.len() == MANY + 2, "{} routes", outcome.routes()?.len());
    }
    feed.finish()?.check_quiet()?;
    start.finish()?.check_quiet()?;
    ensure!(peak_kib(&router) < MEMORY_KIB, "virtd took {} KiB", peak_kib(&router));
    lab.passed();
    Ok(())
}
