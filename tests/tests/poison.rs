//! The UPDATE that kills a daemon, with a real daemon and a real bug: named, withheld, recorded,
//! and good for killing it again, alone. CVE-2023-46753 in Debian 12's FRR (docs/FAULTS.md has the
//! faults that need no bug).

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance};
use tests::lab::{Lab, wait_for, wait_until};
use tests::published::cve_2023_46753::{UPDATE, dial_and, prepend, send_until_dead};
use tests::quiet::AFTER;
use tests::replayer::{Replayer, reproduce};
use tests::router::{Options, Router};
use tests::untested::not_tested;

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(90);
#[test]
fn the_update_that_kills_frr_is_named_withheld_and_recorded() -> Result<()> {
    let mut lab = Lab::new("poison")?;
    let star = lab.star(3)?;
    let options = Options { inbound: "opaque", ..Options::default() };
    let records = lab.folder("virtd")?.join("records");
    let mut router =
        Router::with_toml(&lab, &star, &options, |text| format!("{text}\n[recorder]\nfolder = {records:?}\n"))?;
    router.launch(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "100"])?;
    feed.wait_event("feed-done", UP)?;
    wait_for("100 routes outside", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == 100))?;
    router.wait_voting(SETTLE)?;
    let sender_address = star.sites[2].v4.to_string();
    prepend(router.instance("frr")?, &star.router, star.sites[2].v4.into())?;
    let before = monitor.count("update");
    let frr = router.instance("frr")?;
    let (mut sender, died) = send_until_dead(&lab, &star.sites[2], || !frr.running())?;
    if !died {
        not_tested("CVE-2023-46753 with the installed frr", "it does not die of it");
        sender.finish()?.check_quiet()?;
        ensure!(monitor.count("update") == before, "the watching neighbour was told something");
        feed.finish()?.check_quiet()?;
        monitor.finish()?.check_quiet()?;
        lab.passed();
        return Ok(());
    }
    frr.crash();
    wait_until("the poison to be named", UP, || {
        match router.events("poison").iter().find(|e| e["instance"] == "frr") {
            Some(e) if e["session"] == sender_address.as_str() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    // OpenBGPD, which has reset its leg, holds it back for half a minute: not waited for.
    sender.finish()?.check_quiet()?;
    router.instance("frr")?.launch(&lab)?;
    prepend(router.instance("frr")?, &star.router, star.sites[2].v4.into())?;
    router.wait_voting(SETTLE)?;
    // The same octets again: they do not reach it as they came.
    let hex = wait_file(&records, "hex")?;
    ensure!(
        fs::read_to_string(&hex)?.trim() == UPDATE,
        "the reproducer is not the UPDATE: {}",
        fs::read_to_string(&hex)?
    );
    // A route after them shows that they have been read.
    let told = |more: usize| {
        wait_for(&format!("{more} UPDATEs to the watching neighbour"), SETTLE, || {
            monitor.count("update") == before + more
        })
    };
    let mut again = dial_and(&lab, &star.sites[2], &format!("announce {AFTER}\n"))?;
    router.wait_told_by(&["frr"], AFTER, "10.0.2.2", SETTLE)?;
    ensure!(router.instance("frr")?.running(), "FRR was given the same octets again and died");
    told(1)?;
    again.finish()?.check_quiet()?;
    told(2)?;
    let record = bgpdump(&wait_file(&records, "mrt")?)?;
    ensure!(record.contains("198.51.100.0/24") || record.contains(&sender_address), "the record in MRT: {record}");
    feed.finish()?.check_quiet()?;
    monitor.finish()?.check_quiet()?;
    drop(router);
    kills_it_alone(&mut lab, &wait_file(&records, "json")?)?;
    lab.passed();
    Ok(())
}

/// ORIGIN with the Partial bit, which is for optional attributes: BIRD passes such a route on, FRR
/// answers with a NOTIFICATION.
const REFUSED: &str = "attribute 0x60 1 00";
const WITHHELD: &str = "203.0.113.0/24";
const TURNS: usize = 6;

/// What most refuse stands outside by the word of the one that does not. When the neighbour says
/// something else about it, they are told, and a moment later say so; until then they say nothing,
/// which is no withdrawal.
#[test]
fn what_is_told_at_last_is_not_withdrawn_before_it_is_answered() -> Result<()> {
    let mut lab = Lab::new("poison-answer")?;
    let star = lab.star(3)?;
    let daemons = vec![Daemon::Frr, Daemon::Frr, Daemon::Bird];
    let options = Options { inbound: "opaque", daemons, t_ms: 5_000, ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut others = Replayer::dial(&lab, &star.sites[2], false, &["--generate", "50"])?;
    wait_for("50 routes outside", SETTLE, || router.prefixes_out("10.0.2.2").is_ok_and(|n| n == 50))?;
    router.wait_voting(SETTLE)?;
    // Their sessions are there again before each second announcement.
    let mut text = String::from("announce 192.0.2.0/24\nwait 2s\n");
    for turn in 0..TURNS {
        writeln!(text, "announce {WITHHELD} as-path {} {REFUSED}\nwait 3500ms", 70_000 + turn)?;
        writeln!(text, "announce {WITHHELD} as-path {} {}\nwait 1500ms", 80_000 + turn, 80_000 + turn)?;
    }
    let script = lab.directory().join("feed.script");
    fs::write(&script, text)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    feed.wait_event("feed-done", SETTLE)?;
    router.wait_voting(SETTLE)?;
    // By its bytes, or by a search.
    let suspected: Vec<_> = ["poison", "poison-suspected"].into_iter().flat_map(|kind| router.events(kind)).collect();
    let of = |name: &str| suspected.iter().filter(|e| e["instance"] == name).count();
    ensure!(of("frr") > 0 && of("frr2") > 0 && of("bird") == 0, "this is about what both FRRs refuse: {suspected:?}");
    let gone: Vec<_> = monitor
        .events()
        .into_iter()
        .filter(|e| e["withdrawn"].as_array().is_some_and(|w| w.iter().any(|p| p == WITHHELD)))
        .collect();
    ensure!(gone.is_empty(), "withdrawn, and nobody has withdrawn it: {gone:?}");
    let last = format!("{} {}", 80_000 + TURNS - 1, 80_000 + TURNS - 1);
    wait_until("the last route outside", UP, || {
        let routes = router.show(&["routes", WITHHELD]).map_err(|e| format!("{e:#}"))?;
        if routes.contains(&last) { Ok(()) } else { Err(routes) }
    })?;
    let outcome = monitor.finish()?;
    outcome.check_quiet()?;
    let route = outcome.routes()?.get(WITHHELD).cloned().unwrap_or_default();
    ensure!(route["as_path"].as_str().is_some_and(|path| path.ends_with(&last)), "not the last route: {route}");
    feed.finish()?.check_quiet()?;
    others.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// The record, played to the daemon alone, without us: nothing but the record says what the
/// neighbour has to offer. FRR without the route-map lives through it.
fn kills_it_alone(lab: &mut Lab, record: &std::path::Path) -> Result<()> {
    let mut alone = Lab::new("poison-alone")?;
    let star = alone.star(3)?;
    let spec = Options::default().spec(&star.sites);
    let mut frr = Instance::start(&alone, &star.router, Daemon::Frr, "frr", &spec, &Attach::Native)?;
    let site = &star.sites[2];
    let (status, said) = reproduce(&alone, site, record)?;
    ensure!(status == 1 && said["outcome"] == "lives", "FRR without the route-map: {status}, {said}");
    ensure!(frr.running(), "FRR without the route-map died");
    prepend(&frr, &star.router, site.v4.into())?;
    let (status, said) = reproduce(&alone, site, record)?;
    ensure!(status == 0 && said["outcome"] == "closed", "FRR alone does not die of the record: {status}, {said}");
    wait_for("FRR to be dead", UP, || !frr.running())?;
    lab.watch_log(&frr.folder().join("frr.log"));
    alone.passed();
    Ok(())
}

fn wait_file(folder: &std::path::Path, suffix: &str) -> Result<PathBuf> {
    let mut found = None;
    wait_for(&format!("a .{suffix} of the record"), UP, || {
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
        found = files.filter(|p| p.extension().is_some_and(|x| x == suffix)).min();
        found.is_some()
    })?;
    found.context("no file")
}

fn bgpdump(file: &std::path::Path) -> Result<String> {
    tests::lab::run("bgpdump", &["-m", &file.display().to_string()])
}
