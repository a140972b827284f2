//! Route refresh on both sides, every voting strategy on one table, and an observer that lies.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::daemons::{Daemon, Lie};
use tests::lab::{Lab, wait_for, wait_until};
use tests::operate::control;
use tests::replayer::{Outcome, Replayer, differences};
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(90);
const QUIET: Duration = Duration::from_secs(2);

fn count_event(replayer: &Replayer, kind: &str, what: &str) -> usize {
    replayer.events().iter().filter(|e| e["event"] == kind && e.to_string().contains(what)).count()
}

/// The neighbour asks for everything again and gets it, marked at both ends where both can (RFC
/// 7313).
fn refreshed(enhanced: bool) -> Result<()> {
    let mut lab = Lab::new("refresh")?;
    let star = lab.star(2)?;
    // OpenBGPD of Debian 12 has no enhanced refresh: with one other that is no majority, with two
    // it is.
    let daemons = if enhanced { Daemon::ALL.to_vec() } else { vec![Daemon::Frr, Daemon::OpenBgpd] };
    let router = Router::start(&lab, &star, &Options { daemons, ..Options::default() })?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "500"])?;
    feed.wait_event("feed-done", UP)?;
    let script = lab.directory().join("script");
    std::fs::write(&script, "wait-routes 500\nwait 500ms\nrefresh ipv4\n")?;
    let file = script.display().to_string();
    let mut asker = Replayer::dial(&lab, &star.sites[1], false, &["--script", &file, "--events-updates"])?;
    asker.wait_event("feed-done", SETTLE)?;
    let again = |asker: &Replayer| -> usize {
        let updates = asker.events().into_iter().filter(|e| e["event"] == "update");
        let routes = updates.flat_map(|e| e["announced"].as_array().cloned().unwrap_or_default());
        routes.map(|r| r["prefixes"].as_array().map_or(0, Vec::len)).sum()
    };
    wait_until("everything a second time", SETTLE, || {
        let told = again(&asker);
        if told >= 1000 { Ok(()) } else { Err(format!("{told} routes so far")) }
    })?;
    let negotiated = asker.events().iter().any(|e| e["negotiated"]["enhanced_route_refresh"] == true);
    ensure!(negotiated == enhanced, "enhanced refresh was negotiated: {negotiated}");
    let markers = if negotiated { 2 } else { 0 };
    wait_for("the marks of an enhanced refresh", UP, || asker.count("route-refresh") == markers)?;
    ensure!(asker.count("stale") == 0, "routes were left out: {:?}", asker.events());
    router.wait_quiet(QUIET, SETTLE)?;
    let outcome = asker.finish()?;
    outcome.check_quiet()?;
    ensure!(outcome.routes()?.len() == 500, "{} routes instead of 500", outcome.routes()?.len());
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_neighbour_asks_for_everything_again() -> Result<()> {
    refreshed(false)
}

#[test]
fn a_neighbour_that_knows_enhanced_refresh_asks_for_everything_again() -> Result<()> {
    refreshed(true)
}

#[test]
fn an_instance_asks_for_everything_again_and_no_neighbour_hears_of_it() -> Result<()> {
    let mut lab = Lab::new("soft-in")?;
    let star = lab.star(2)?;
    let router = Router::start(&lab, &star, &Options::default())?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "500"])?;
    feed.wait_event("feed-done", UP)?;
    wait_until("all 500 routes", SETTLE, || {
        let told = router.prefixes_out("10.0.2.2").map_err(|e| format!("{e:#}"))?;
        if told == 500 { Ok(()) } else { Err(format!("{told}")) }
    })?;
    router.wait_voting(UP)?;
    router.wait_quiet(QUIET, SETTLE)?;
    let told = monitor.count("update");
    let frr_log = router.instances[0].folder().join("frr.log");
    control(&router.instances[0], &star.router, "debug bgp updates in")?;
    let before = std::fs::read_to_string(&frr_log)?.matches("rcvd UPDATE").count();
    control(&router.instances[0], &star.router, "clear bgp ipv4 unicast * soft in")?;
    wait_for("FRR to get its routes again", UP, || {
        let log = std::fs::read_to_string(&frr_log).unwrap_or_default();
        log.matches("rcvd UPDATE").count() > before
    })?;
    let answer = control(&router.instances[1], &star.router, "reload in peer0")?;
    ensure!(answer.contains("reloading"), "birdc: {answer}");
    router.wait_quiet(QUIET, SETTLE)?;
    router.wait_voting(UP)?;
    for replayer in [&monitor, &feed] {
        ensure!(replayer.count("route-refresh") == 0, "a ROUTE-REFRESH went out: {:?}", replayer.events());
    }
    ensure!(monitor.count("update") == told, "the monitor was told something");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// The table that a neighbour learns with a strategy.
fn learned(lab: &mut Lab, strategy: &'static str, k: Option<u8>) -> Result<Outcome> {
    let star = lab.star(2)?;
    let options = Options { strategy, ..Options::default() };
    let mut router = Router::with_toml(lab, &star, &options, |text| match k {
        Some(k) => text.replace("t_ms =", &format!("k = {k}\nt_ms =")),
        None => text,
    })?;
    router.launch(lab, &star, &options)?;
    let status = router.status()?;
    ensure!(status.strategy == strategy && (k.is_none() || status.k == k), "{status:?}");
    let mut monitor = Replayer::dial(lab, &star.sites[1], false, &["--monitor", "--until-routes", "2000"])?;
    let mut feed = Replayer::dial(lab, &star.sites[0], false, &["--generate", "2000"])?;
    feed.wait_event("feed-done", UP)?;
    let outcome = monitor.wait(SETTLE).context("waiting for 2000 routes")?;
    outcome.check_quiet()?;
    router.wait_voting(UP)?;
    router.wait_quiet(QUIET, SETTLE)?;
    feed.finish()?.check_quiet()?;
    Ok(outcome)
}

#[test]
fn every_strategy_comes_to_the_same_table() -> Result<()> {
    let mut first_lab = Lab::new("consensus-2")?;
    let first = learned(&mut first_lab, "wait-for-consensus", Some(2))?;
    ensure!(first.routes()?.len() == 2000, "{} routes", first.routes()?.len());
    for (strategy, k) in
        [("wait-for-consensus", Some(3)), ("continuous-majority", None), ("master-slave", None), ("first-k", Some(2))]
    {
        let mut lab = Lab::new(&format!("{strategy}-{}", k.unwrap_or(0)))?;
        let other = learned(&mut lab, strategy, k).with_context(|| format!("{strategy}, k {k:?}"))?;
        let found = differences(&first.table, &other.table)?;
        ensure!(found.routes.is_empty(), "{strategy}, k {k:?}: {:?}", found.routes);
        lab.passed();
    }
    first_lab.passed();
    Ok(())
}

#[test]
fn an_observer_that_lies_is_an_event_and_nothing_else() -> Result<()> {
    let mut lab = Lab::new("observer-lies")?;
    let star = lab.star(2)?;
    let options = Options::default();
    let mut router = Router::with_toml(&lab, &star, &options, |text| {
        text.replace("name = \"openbgpd\"", "name = \"openbgpd\"\nrole = \"observer\"")
    })?;
    router.launch(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let script = lab.directory().join("script");
    std::fs::write(&script, "announce 198.51.100.0/24,203.0.113.0/24\n")?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    feed.wait_event("feed-done", UP)?;
    monitor.wait_event("update", UP)?;
    router.wait_state("frr", "voting", UP)?;
    router.wait_state("bird", "voting", UP)?;
    router.wait_state("openbgpd", "observer", UP)?;
    router.wait_quiet(QUIET, SETTLE)?;
    let told = monitor.count("update");
    let prefix = "198.51.100.0/24".parse().map_err(|_| anyhow::anyhow!("prefix"))?;
    router.instance("openbgpd")?.set_lie(Some(Lie { prefix, community: (65000, 666) }))?;
    wait_until("an event about the observer", SETTLE, || {
        let events = router.events("disagreement");
        let found = events.iter().any(|e| e["prefix"] == "198.51.100.0/24" && e.to_string().contains("openbgpd"));
        if found { Ok(()) } else { Err(format!("{events:?}")) }
    })?;
    router.instance("openbgpd")?.set_lie(None)?;
    router.wait_quiet(QUIET, SETTLE)?;
    ensure!(monitor.count("update") == told, "the monitor was told something: {:?}", monitor.events());
    ensure!(count_event(&monitor, "update", "65000:666") == 0, "the lie went out");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
