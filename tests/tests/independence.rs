//! What `virtctl diversity` says of real daemons.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::daemons::{Daemon, Lie};
use tests::lab::{Lab, real_data, wait_for};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::replayer::Replayer;
use tests::router::{ASN, Options, Router};
use virtd_api::{Diversity, Pair};

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(180);
const QUIET: Duration = Duration::from_secs(4);

fn pair<'a>(answer: &'a Diversity, a: &str, b: &str) -> Result<&'a Pair> {
    let found = answer.pairs.iter().find(|p| p.instances == [a, b] || p.instances == [b, a]);
    found.with_context(|| format!("no pair of {a} and {b} in {answer:?}"))
}

/// A real trace, three code bases, no fault: every vote is counted for every pair, and nobody is
/// found to differ.
#[test]
fn three_code_bases_agree_on_a_real_trace() -> Result<()> {
    let mut lab = Lab::new("independence")?;
    let star = lab.star(2)?;
    // So long that a daemon on a busy machine is not taken for one that says something else.
    let options = Options { t_ms: 30_000, ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    monitor.wait_event("session-up", UP)?;
    router.wait_voting(UP)?;
    let file = real_data("updates.20190101.0000.gz").map(|f| f.display().to_string());
    let arguments = match &file {
        Some(file) => vec!["--mrt", file.as_str(), "--replace-first-as"],
        None => vec!["--generate", "2000"],
    };
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &arguments)?;
    feed.wait_event("feed-done", SETTLE)?;
    router.wait_quiet(QUIET, SETTLE)?;
    let answer: Diversity = router.ctl(&["diversity"])?;
    println!("{}", router.show(&["diversity", "--sessions"])?);
    let told = router.prefixes_out("10.0.2.2")?;
    for (a, b) in [("frr", "bird"), ("frr", "openbgpd"), ("bird", "openbgpd")] {
        let p = pair(&answer, a, b)?;
        ensure!(p.compared >= told, "{told} routes are out, but: {p:?}");
        ensure!(p.disagreed == 0 && p.verdicts.either == 0, "{p:?}: {:?}", router.events("disagreement"));
    }
    ensure!(answer.least_independent.is_none(), "{answer:?}");
    feed.finish()?.check_quiet()?;
    monitor.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// Five voters, two of them the same program with the same fault: the neighbour sees nothing of it,
/// the operator does.
#[test]
fn the_same_program_twice_is_the_least_independent_pair() -> Result<()> {
    let mut lab = Lab::new("twins")?;
    let star = lab.star(2)?;
    let daemons = vec![Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd, Daemon::Bird, Daemon::OpenBgpd];
    let options = Options { daemons, ..Options::default() };
    let mut router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let networks = prefixes(&["198.51.100.0/24", "203.0.113.0/24"])?;
    let lie = Lie { prefix: networks[0], community: (65000, 666) };
    let spec = NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks };
    let neighbour = Neighbour::start(&lab, &star.sites[0], Kind::ExaBgp, &spec)?;
    neighbour.wait_established(UP)?;
    monitor.wait_event("update", UP)?;
    router.wait_voting(UP)?;
    router.wait_quiet(QUIET, SETTLE)?;
    let before: Diversity = router.ctl(&["diversity"])?;
    ensure!(before.least_independent.is_none(), "{before:?}");
    let told = monitor.count("update");
    for name in ["bird", "bird2"] {
        router.instance(name)?.set_lie(Some(lie))?;
    }
    wait_for("both to be found wrong", SETTLE, || {
        let answer = router.ctl::<Diversity>(&["diversity"]);
        answer.is_ok_and(|answer| answer.least_independent.is_some_and(|names| names == ["bird", "bird2"]))
    })?;
    let answer: Diversity = router.ctl(&["diversity"])?;
    println!("{}", router.show(&["diversity", "--sessions"])?);
    let twins = pair(&answer, "bird", "bird2")?;
    let verdicts = &twins.verdicts;
    ensure!(verdicts.common >= 1 && verdicts.alike == verdicts.common, "{twins:?}");
    let apart = pair(&answer, "frr", "bird")?;
    ensure!(apart.verdicts.common == 0 && apart.verdicts.one_only >= 1, "{apart:?}");
    ensure!(apart.attributes.first().is_some_and(|a| a.name == "COMMUNITIES"), "{apart:?}");
    ensure!(monitor.count("update") == told, "the monitor was told something: {:?}", monitor.events());
    monitor.finish()?.check_quiet()?;
    neighbour.check_quiet()?;
    lab.passed();
    Ok(())
}
