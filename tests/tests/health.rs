//! What an operator sees of a router whose daemons are well, and of one that loses them:
//! `virtctl health` and `virtctl why`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use tests::daemons::{Daemon, Lie};
use tests::lab::{Lab, built, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::router::{ASN, Options, Router};

const UP: Duration = Duration::from_secs(60);
const NETWORK: &str = "198.51.100.0/24";

/// The exit status and the line.
fn health(lab: &Lab, router: &Router) -> Result<(i32, String)> {
    let socket = router.control_socket();
    let mut command = Command::new(built("virtctl")?);
    let said = command.current_dir(lab.directory()).arg("--socket").arg(socket).arg("health").output()?;
    let line = String::from_utf8(said.stdout)?;
    ensure!(line.lines().count() == 1 && said.stderr.is_empty(), "{line}{}", String::from_utf8_lossy(&said.stderr));
    Ok((said.status.code().context("it was killed")?, line))
}

fn wait_health(lab: &Lab, router: &Router, status: i32, part: &str) -> Result<String> {
    wait_until(&format!("health to be {status} with {part:?}"), UP, || match health(lab, router) {
        Ok((code, line)) if code == status && line.contains(part) => Ok(line),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn health_and_why_say_what_is_wrong() -> Result<()> {
    let mut lab = Lab::new("health")?;
    let star = lab.star(2)?;
    let mut router = Router::start(&lab, &star, &Options::default())?;
    let networks = prefixes(&[NETWORK])?;
    let spec = |networks| NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks };
    let one = Neighbour::start(&lab, &star.sites[0], Kind::Daemon(Daemon::Bird), &spec(networks.clone()))?;
    let other = Neighbour::start(&lab, &star.sites[1], Kind::Daemon(Daemon::Bird), &spec(Vec::new()))?;
    one.wait_established(UP)?;
    other.wait_established(UP)?;
    router.wait_voting(UP)?;
    let line = wait_health(&lab, &router, 0, "OK - 3 instances vote, 2 of 2 sessions are up | ")?;
    println!("{line}");
    ensure!(line.contains(" sessions_up=2 ") && line.contains(" voters=3 "), "{line}");

    // One lies: it is outvoted, which is worth a word, and the screen says who says what.
    router.instance("bird")?.set_lie(Some(Lie { prefix: networks[0], community: (65000, 666) }))?;
    println!("{}", wait_health(&lab, &router, 1, "WARNING - 1 disagreement")?);
    let screen = router.show(&["why", "198.51.100.7"])?;
    println!("{screen}");
    for part in [
        "198.51.100.0/24 (the longest that has 198.51.100.7)",
        "from 10.0.1.2: via 10.0.1.2, path 65001, IGP",
        "to 10.0.2.2: via self, path 65000 65001, IGP",
        "more than half of those who count say so: 2 of 3 agree with the winner",
        "= frr, openbgpd",
        "! bird: via self, path 65000 65001, IGP, communities 65000:666  [not with the majority]",
        "bird is not with the majority on 198.51.100.0/24",
    ] {
        ensure!(screen.contains(part), "{part:?} is not in\n{screen}");
    }
    let why: Value = router.ctl(&["why", NETWORK])?;
    ensure!(why["told"][0]["rule"] == "majority" && why["events"][0]["kind"] == "disagreement", "{why}");
    router.instance("bird")?.set_lie(None)?;
    wait_health(&lab, &router, 0, "OK - ")?;

    // One is killed, then another: the last one drives alone.
    router.instance("frr")?.crash();
    println!("{}", wait_health(&lab, &router, 2, "frr is not there")?);
    router.instance("bird")?.crash();
    println!("{}", wait_health(&lab, &router, 2, "openbgpd alone drives 2 sessions")?);
    let screen = router.show(&["why", NETWORK])?;
    ensure!(screen.contains("only one instance counts: what it says goes out"), "{screen}");
    for name in ["frr", "bird"] {
        router.instance(name)?.launch(&lab)?;
    }
    wait_health(&lab, &router, 0, "OK - 3 instances vote, 2 of 2 sessions are up | ")?;

    // virtd itself.
    router.virtd.stop();
    println!("{}", wait_health(&lab, &router, 2, "CRITICAL - ")?);
    lab.passed();
    Ok(())
}
