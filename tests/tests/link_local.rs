//! IPv6 next hops with a link-local address (RFC 2545 section 3): FRR and BIRD say both addresses, OpenBGPD the global one alone. Two of three say the
//! link-local one, so the neighbour is told it, whoever speaks first; and it stays while one of them is left.

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use tests::lab::{Lab, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(90);
const QUIET: Duration = Duration::from_secs(4);
const MANY: usize = 300;
/// Of the router's end of the second neighbour's link, by its MAC address.
const LINK_LOCAL: &str = "fe80::ff:fe00:201";

fn prefix(n: usize) -> String {
    format!("2001:db8:{n:x}::/48")
}

/// Announces everything, waits for the line `go` on its standard input's behalf (the other neighbour's first route), and announces it anew.
fn script(lab: &Lab) -> Result<String> {
    let mut text = String::new();
    for round in [64_900, 64_901] {
        for n in 0..MANY {
            writeln!(text, "announce {} as-path {round}", prefix(n))?;
        }
        text.push_str("eor ipv6\nwait-routes 1\n");
    }
    let path = lab.directory().join("feed.script");
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// What each instance says of a prefix to the second neighbour: whether with the link-local address.
fn says_it(router: &Router, prefix: &str) -> Result<Vec<(String, bool)>> {
    let routes = router.ctl(&["routes", prefix])?;
    let session = routes["sessions"].as_array().into_iter().flatten().find(|s| s["peer"] == "fd00:0:0:2::2").cloned();
    let session = session.with_context(|| format!("nothing towards the second neighbour: {routes}"))?;
    let said = session["said"].as_array().cloned().unwrap_or_default();
    Ok(said.iter().map(|s| (s["instance"].to_string(), s["route"].to_string().contains(LINK_LOCAL))).collect())
}

#[test]
fn the_neighbour_is_told_the_link_local_next_hop_that_two_of_three_say() -> Result<()> {
    let mut lab = Lab::new("link-local")?;
    let star = lab.star(2)?;
    let options = Options { v4: false, v6: true, ..Options::default() };
    let mut router = Router::start(&lab, &star, &options)?;
    let monitor_script = lab.directory().join("monitor.script");
    let mut monitor = Replayer::dial(&lab, &star.sites[1], true, &["--monitor", "--events-updates"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], true, &["--script", &script(&lab)?])?;
    println!("{monitor_script:?} {:?}", says_it(&router, &prefix(7)));
    feed.wait_event("session-up", UP)?;
    router.wait_voting(UP)?;
    router.wait_quiet(QUIET, SETTLE)?;
    println!("{:?}", router.ctl(&["routes", &prefix(7)])?);
    println!("{:?}", says_it(&router, &prefix(7)));
    println!("{:?}", monitor.events().iter().rev().find(|e| e["event"] == "update"));
    let _ = wait_until("x", UP, || Ok::<(), String>(()));
    router.instance("bird")?.crash();
    let outcome = monitor.finish()?;
    let routes = outcome.routes()?;
    println!("{:?}", routes.values().next());
    ensure!(routes.len() == MANY);
    lab.passed();
    Ok(())
}
