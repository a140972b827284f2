//! One instance alone, told its neighbours' octets as they come: FRR ends its session because of an
//! UPDATE that nobody need refuse, and its neighbour goes on announcing. What FRR says after it is
//! back is passed on from then on, prefix by prefix, and not when it has at last been quiet for T.

use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use tests::daemons::Daemon;
use tests::lab::{Lab, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(120);
const BEFORE: usize = 5;
const FRESH: usize = 40;
/// ORIGIN with the Partial bit, which is for optional attributes: virtd passes it
/// (docs/HYGIENE.md), FRR answers with a NOTIFICATION.
const REFUSED: &str = "announce 203.0.113.0/24 as-path 64999 attribute 0x60 1 00";

fn fresh(n: usize) -> String {
    format!("198.51.{n}.0/24")
}

/// Some routes; and once they are out and digested what FRR refuses, and a new prefix each 0.7 s,
/// which is never T.
fn script(lab: &Lab) -> Result<String> {
    let mut text = String::new();
    (0..BEFORE).try_for_each(|n| writeln!(text, "announce 192.0.{n}.0/24"))?;
    writeln!(text, "eor\nwait-routes 1\nwait 3s\n{REFUSED}")?;
    (0..FRESH).try_for_each(|n| writeln!(text, "announce {}\nwait 700ms", fresh(n)))?;
    let path = lab.directory().join("feed.script");
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// The new prefixes in the order in which the watching neighbour heard of them, and in how many
/// UPDATEs.
fn heard(monitor: &Replayer) -> (Vec<String>, usize) {
    let (mut prefixes, mut updates) = (Vec::new(), 0);
    for event in monitor.events().iter().filter(|e| e["event"] == "update") {
        let routes = event["announced"].as_array().into_iter().flatten();
        let told = routes.flat_map(|r| r["prefixes"].as_array().cloned().unwrap_or_default());
        let new: Vec<String> =
            told.filter_map(|p| p.as_str().map(str::to_owned)).filter(|p| p.starts_with("198.")).collect();
        updates += usize::from(!new.is_empty());
        prefixes.extend(new);
    }
    (prefixes, updates)
}

#[test]
fn new_prefixes_are_passed_on_as_soon_as_the_only_voter_is_back() -> Result<()> {
    let mut lab = Lab::new("fresh-keys")?;
    let star = lab.star(3)?;
    // A leg whose output never is quiet counts after six times T all the same: later than the last
    // of the prefixes.
    let options = Options { daemons: vec![Daemon::Frr], inbound: "opaque", t_ms: 10_000, ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script(&lab)?])?;
    wait_for("what comes first", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == BEFORE as u64))?;
    router.wait_voting(UP)?;
    let mut start = Replayer::dial(&lab, &star.sites[2], false, &["--generate", "1"])?;
    wait_until("FRR to end its session", SETTLE, || {
        let said = router.events("leg-notification");
        if said.iter().any(|e| e["text"].as_str().is_some_and(|t| t.contains("NOTIFICATION 3/"))) {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        }
    })?;
    wait_until("a quarter of the new prefixes outside", SETTLE, || {
        let (prefixes, _) = heard(&monitor);
        if prefixes.len() >= FRESH / 4 { Ok(()) } else { Err(format!("{prefixes:?}")) }
    })?;
    ensure!(feed.count("feed-done") == 0, "the new prefixes were passed on when no more came");
    feed.wait_event("feed-done", SETTLE)?;
    wait_until("all of them outside", SETTLE, || {
        let (prefixes, _) = heard(&monitor);
        if prefixes.len() >= FRESH { Ok(()) } else { Err(format!("{}", prefixes.len())) }
    })?;
    let (prefixes, updates) = heard(&monitor);
    println!("{} new prefixes in {updates} UPDATEs; {:?}", prefixes.len(), router.events("poison").len());
    // While FRR is away some gather, and are told together when it is back.
    ensure!(updates > FRESH / 3, "{FRESH} prefixes, one after the other, came in {updates} UPDATEs");
    let mut sorted = prefixes.clone();
    sorted.sort();
    sorted.dedup();
    ensure!(sorted.len() == FRESH && prefixes.len() == FRESH, "not each once: {prefixes:?}");
    let outcome = monitor.finish()?;
    outcome.check_quiet()?;
    ensure!(outcome.number("withdrawals_received") == 0, "something was withdrawn: {}", outcome.summary);
    feed.finish()?.check_quiet()?;
    start.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
