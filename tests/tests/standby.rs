//! A second BIRD waits to take the place of a voter that falls, cold (started when it is needed)
//! and warm (running and fed all the time).

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;
use tests::daemons::{Daemon, Lie};
use tests::kinds::Kinds;
use tests::lab::{Lab, wait_for, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::replayer::Replayer;
use tests::router::{ASN, Options};

const UP: Duration = Duration::from_secs(120);
const ROUTES: u64 = 200;

/// What `virtctl instances` says of an instance: its role and its state.
fn standing(kinds: &Kinds, name: &str) -> Result<(String, String)> {
    let found = kinds.router.known(name)?;
    Ok((found.role, found.state))
}

fn wait_standing(kinds: &Kinds, name: &str, role: &str, state: &str) -> Result<()> {
    wait_until(&format!("{name} to be {role}, {state}"), UP, || match standing(kinds, name) {
        Ok(now) if now == (role.to_owned(), state.to_owned()) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// Those whose word on a prefix counts towards a peer.
fn counted(kinds: &Kinds, prefix: &str, peer: &str) -> Result<Vec<String>> {
    let said = kinds.router.said(prefix, peer)?;
    ensure!(!said.is_empty(), "nobody has said anything about {prefix} to {peer}");
    Ok(said.into_iter().filter(|s| s.counted).map(|s| s.instance).collect())
}

/// FRR, BIRD and OpenBGPD vote. BIRD lies until the verdict: the standby votes in its place, and
/// BIRD waits at the end of the line, cured. Then FRR is killed, and BIRD votes in its place. No
/// neighbour is told anything.
fn falls_and_replacements(role: &str) -> Result<()> {
    let warm = role == "warm-standby";
    let mut lab = Lab::new(role)?;
    let star = lab.star(3)?;
    let options = Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd, Daemon::Bird],
        timers: "fault_threshold_s = 5".to_owned(),
        ..Options::default()
    };
    let edit = |text: String| {
        let text = text.replace("name = \"bird2\"\n", &format!("name = \"bird2\"\nrole = {role:?}\n"));
        text.replace("[faults]\n", "[faults]\nmin_keys = 1\n")
    };
    let mut kinds = Kinds::with_toml(&lab, &star, &options, |_| String::new(), edit)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    let networks = prefixes(&["198.51.100.0/24", "203.0.113.0/24"])?;
    let spec = NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks: networks.clone() };
    let bird_outside = Neighbour::start(&lab, &star.sites[2], Kind::Daemon(Daemon::Bird), &spec)?;
    feed.wait_event("feed-done", UP)?;
    wait_for("all routes outside", UP, || kinds.router.prefixes_out("10.0.2.2").is_ok_and(|n| n == ROUTES + 2))?;
    for name in ["frr", "bird", "openbgpd"] {
        wait_standing(&kinds, name, "voter", "voting")?;
    }
    wait_standing(&kinds, "bird2", role, if warm { "standby" } else { "absent" })?;
    kinds.router.wait_quiet(Duration::from_secs(4), UP)?;
    let updates = monitor.count("update");

    kinds.bird_lie("bird", Some(Lie { prefix: networks[0], community: (65000, 666) }))?;
    wait_for("the verdict", UP, || !kinds.router.events("instance-faulty").is_empty())?;
    // Whoever starts it again has mended it.
    kinds.set_lie("bird", None)?;
    let verdict = kinds.router.events("instance-faulty").remove(0);
    ensure!(verdict["instance"] == "bird" && verdict["prefix"] == "198.51.100.0/24", "{verdict}");
    ensure!(verdict["since_us"].as_u64() < verdict["at_us"].as_u64() && verdict["since_us"].is_u64(), "{verdict}");
    wait_standing(&kinds, "bird2", "voter", "voting")?;
    wait_standing(&kinds, "bird", role, if warm { "standby" } else { "absent" })?;
    wait_until("the standby's vote to count", UP, || {
        let now = counted(&kinds, "198.51.100.0/24", "10.0.2.2").map_err(|e| format!("{e:#}"))?;
        if now == ["frr", "openbgpd", "bird2"] { Ok(()) } else { Err(format!("{now:?}")) }
    })?;
    println!("{}", kinds.router.show(&["instances"])?);

    if warm {
        let back = |e: &Value| e["instance"] == "bird" && e["text"].as_str().is_some_and(|t| t.contains("caught up,"));
        wait_for("bird to be level again", UP, || kinds.router.events("instance-back").iter().any(back))?;
    }
    kinds.kill("frr", kinds.leader("frr")?, Signal::SIGKILL, UP)?;
    wait_standing(&kinds, "bird", "voter", "voting")?;
    wait_standing(&kinds, "frr", role, if warm { "standby" } else { "absent" })?;
    println!("{}", kinds.router.show(&["instances"])?);
    let promoted: Vec<Value> = kinds.router.events("instance-promoted");
    let promoted: Vec<_> = promoted.iter().map(|e| e["instance"].as_str().unwrap_or_default()).collect();
    ensure!(promoted == ["bird2", "bird"], "{promoted:?}");
    kinds.router.wait_quiet(Duration::from_secs(4), UP)?;

    ensure!(monitor.count("update") == updates, "the monitor was told something: {:?}", monitor.events());
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;
    bird_outside.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_cold_standby_is_started_and_votes() -> Result<()> {
    falls_and_replacements("standby")
}

#[test]
fn a_warm_standby_votes_at_once() -> Result<()> {
    falls_and_replacements("warm-standby")
}
