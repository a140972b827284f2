//! Published bugs of Debian 12's own packages (docs/BUGS.md) behind virtd, where the neighbours
//! notice nothing. The one that FRR dies of with `inbound = "opaque"`, its poison and its record,
//! which kills FRR again alone, are in tests/poison.rs.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance};
use tests::lab::{Lab, wait_for};
use tests::published::{PREFIX, as_path_mask, cve_2023_46753, cve_2023_47235, installed};
use tests::quiet::{AFTER, Quiet};
use tests::replayer::{Replayer, reproduce};
use tests::router::{Options, Router};
use tests::untested::not_tested;

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(90);

#[test]
fn cve_2023_46753_reaches_nobody_with_rfc7606() -> Result<()> {
    let mut scene = Quiet::new("cve-46753", &Options::default(), |_| Ok(()))?;
    scene.prepend(cve_2023_46753::prepend)?;
    let after = format!("announce {AFTER}\n");
    let sender = cve_2023_46753::dial_and(&scene.lab, &scene.star.sites[2], &after)?;
    wait_for("virtd to tell of the malformed UPDATE", UP, || !scene.router.events("malformed-update").is_empty())?;
    scene.read_by(&["frr", "bird", "openbgpd"], sender)?;
    scene.unmoved()
}

/// CVE-2023-47235: FRR up to 9.0 dies of this UPDATE. Its NLRI field cannot be parsed, so RFC 7606
/// section 5.3 wants the session reset, by virtd; no daemon ever sees it.
fn unparsable(inbound: &'static str) -> Result<()> {
    let mut scene = Quiet::new("cve-47235", &Options { inbound, ..Options::default() }, |_| Ok(()))?;
    scene.prepend(cve_2023_46753::prepend)?;
    let arguments = ["--graceful-restart", "--raw", cve_2023_47235::UPDATE];
    let mut sender = Replayer::dial(&scene.lab, &scene.star.sites[2], false, &arguments)?;
    sender.wait_event("session-down", UP)?;
    let outcome = sender.finish()?;
    let codes = |n: &Value| (n["code"].as_u64(), n["subcode"].as_u64());
    let got: Vec<_> = outcome.summary["notifications_received"].as_array().into_iter().flatten().map(codes).collect();
    ensure!(got == [(Some(3), Some(10))], "the sender was answered {got:?}: {}", outcome.summary);
    scene.read_by_after_a_reset(&["frr"])?;
    scene.unmoved()
}

#[test]
fn cve_2023_47235_ends_the_senders_session_alone_with_rfc7606() -> Result<()> {
    unparsable("rfc7606")
}

#[test]
fn cve_2023_47235_ends_the_senders_session_alone_with_opaque() -> Result<()> {
    unparsable("opaque")
}

/// Whether BIRD alone, natively, dies of the path.
fn kills_bird_alone() -> Result<bool> {
    let mut lab = Lab::new("mask-alone")?;
    let star = lab.star(1)?;
    let (site, spec) = (&star.sites[0], Options::default().spec(&star.sites));
    let mut bird = Instance::start(&lab, &star.router, Daemon::Bird, "bird", &spec, &Attach::Native)?;
    as_path_mask::configure(&bird, &star.router, true)?;
    let raw = lab.directory().join("mask.hex");
    std::fs::write(&raw, as_path_mask::update(site.asn, site.v4.octets()))?;
    let _sender = Replayer::dial(&lab, site, false, &["--raw", &raw.display().to_string()])?;
    let dead = wait_for("BIRD alone to die of it", Duration::from_secs(20), || !bird.running()).is_ok();
    lab.passed();
    Ok(dead)
}

/// A BIRD between two FRRs, with two neighbours, and a third one that sends the long path. Returns
/// whether BIRD died of it, was started each time, and has it withheld; where it survives, it gets
/// a SIGSEGV by hand, and must come back all the same.
fn long_path(name: &str, vulnerable: bool) -> Result<bool> {
    let options = Options { daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::Frr], ..Options::default() };
    let scene = Quiet::new(name, &options, |router| {
        let ns = router.ns().clone();
        as_path_mask::configure(router.instance("bird")?, &ns, vulnerable)
    })?;
    let Quiet { lab, star, mut router, feed, monitor, .. } = scene;
    let site = &star.sites[2];
    let raw = lab.directory().join("mask.hex");
    std::fs::write(&raw, as_path_mask::update(site.asn, site.v4.octets()))?;
    let mut sender = Replayer::dial(&lab, site, false, &["--raw", &raw.display().to_string()])?;
    wait_for("the long path outside", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == 51))?;
    let dead = |router: &mut Router| router.instance("bird").is_ok_and(|bird| !bird.running());
    let real = wait_for("BIRD to die of it", Duration::from_secs(10), || dead(&mut router)).is_ok();
    let most = if real {
        3
    } else {
        router.instance("bird")?.signal(Signal::SIGSEGV)?;
        wait_for("BIRD to die of a SIGSEGV", UP, || dead(&mut router))?;
        1
    };
    // Whoever looks after BIRD starts it again each time.
    let mut deaths = 0;
    wait_for("BIRD to be back, the poison found", SETTLE, || {
        let Ok(bird) = router.instance("bird") else { return false };
        if !bird.running() {
            deaths += 1;
            bird.crash();
            return bird.launch(&lab).is_err();
        }
        let found = router.events("poison").iter().any(|e| e["instance"] == "bird" && e["prefix"] == PREFIX);
        found || !real
    })?;
    let bird = router.instance("bird")?;
    if !bird.running() {
        bird.crash();
        bird.launch(&lab)?;
    }
    router.wait_state("bird", "voting", SETTLE)?;
    ensure!(router.instance("bird")?.running() && deaths <= most, "BIRD died {deaths} times");
    let mut all = [monitor, feed];
    let outcomes = Replayer::finish_together(&mut all)?;
    outcomes.iter().try_for_each(tests::replayer::Outcome::check_quiet)?;
    ensure!(outcomes[0].routes()?.contains_key(PREFIX), "the long path is missing outside");
    sender.finish()?.check_quiet()?;
    let record = router.events("record").iter().find_map(|e| e["text"].as_str().and_then(recorded));
    drop(router);
    if real {
        reproduced_on_bird_alone(&record.context("no event tells of the record")?)?;
    }
    lab.passed();
    Ok(real)
}

/// The record that an event tells of.
fn recorded(text: &str) -> Option<PathBuf> {
    text.split_whitespace().map(|word| PathBuf::from(word.trim_end_matches(';'))).find(|p| p.is_file())
}

/// The record, played to BIRD alone.
fn reproduced_on_bird_alone(record: &Path) -> Result<()> {
    let mut lab = Lab::new("mask-record")?;
    let star = lab.star(3)?;
    let spec = Options::default().spec(&star.sites);
    let mut bird = Instance::start(&lab, &star.router, Daemon::Bird, "bird", &spec, &Attach::Native)?;
    as_path_mask::configure(&bird, &star.router, true)?;
    let (status, said) = reproduce(&lab, &star.sites[2], record)?;
    ensure!(status == 0 && said["outcome"] == "closed", "BIRD alone does not die of the record: {status}, {said}");
    wait_for("BIRD to be dead", UP, || !bird.running())?;
    lab.passed();
    Ok(())
}

/// An ordinary, valid UPDATE that segfaults BIRD 2.0.12: told again it would kill it again, so it
/// has to be found and withheld.
#[test]
fn the_path_that_runs_over_birds_mask_is_found_and_withheld() -> Result<()> {
    let real = long_path("mask", true)?;
    if !real {
        not_tested("the path mask of the installed bird", &format!("{} does not die of it", installed(Daemon::Bird)?));
    }
    ensure!(real == kills_bird_alone()?, "BIRD alone, and behind virtd: only one of them dies of it");
    Ok(())
}

/// What the scenario above does with a BIRD that is mended: one without the filter stands for it.
#[test]
fn a_bird_that_survives_the_path_is_killed_by_hand_and_comes_back() -> Result<()> {
    let real = long_path("mask-mended", false)?;
    ensure!(!real, "BIRD died of a path that it does not look at");
    Ok(())
}
