//! IPv6 next hops with a link-local address (RFC 2545 section 3): FRR and BIRD say both addresses,
//! OpenBGPD the global one alone. Two of three say the link-local one, so the neighbour is told it,
//! whoever speaks first; and it stays while one of them is left.

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;
use tests::lab::{Lab, Star, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(90);
const QUIET: Duration = Duration::from_secs(4);
const MANY: usize = 300;
/// Of the router's end of the second neighbour's link, by its MAC address.
const LINK_LOCAL: &str = "fe80::ff:fe00:201";

fn prefix(n: usize) -> String {
    format!("2001:db8:{:x}::/48", n + 1)
}

/// Announces everything, and again with another path as soon as it hears of somebody else.
fn script(lab: &Lab) -> Result<String> {
    let mut text = String::new();
    for asn in [64_900, 64_901] {
        for n in 0..MANY {
            writeln!(text, "announce {} as-path {asn}", prefix(n))?;
        }
        text.push_str("eor ipv6\nwait-routes 1\n");
    }
    let path = lab.directory().join("feed.script");
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// Waits until each instance says something about a prefix to the second neighbour: with this path,
/// and with the link-local address where it says that.
fn wait_said(router: &Router, star: &Star, path: &str) -> Result<()> {
    let peer = star.sites[1].v6.to_string();
    let expected = [("frr", true), ("bird", true), ("openbgpd", false)];
    wait_until("the three to say it, each in its way", SETTLE, || {
        let said = router.said(&prefix(MANY - 1), &peer).map_err(|e| format!("{e:#}"))?;
        let says = |(name, link_local): &(&str, bool)| {
            said.iter().filter(|s| s.instance == *name).filter_map(|s| s.route.as_ref()).any(|route| {
                let other = route.link_local.map(|address| address.to_string());
                route.as_path.ends_with(path) && (other.as_deref() == Some(LINK_LOCAL)) == *link_local
            })
        };
        if expected.iter().all(says) { Ok(()) } else { Err(format!("{said:?}")) }
    })
}

/// How many routes with this path the watching neighbour was told, once there are as many as
/// prefixes.
fn told(monitor: &Replayer, path: &str) -> Result<usize, String> {
    let events = monitor.events();
    let updates = events.iter().filter(|e| e["event"] == "update");
    let routes = updates.flat_map(|e| e["announced"].as_array().into_iter().flatten());
    let routes = routes.filter(|r| r["route"]["as_path"].as_str().is_some_and(|p| p.ends_with(path)));
    let told = routes.map(|r| r["prefixes"].as_array().map_or(0, Vec::len)).sum();
    if told >= MANY { Ok(told) } else { Err(format!("{told} of {MANY}")) }
}

#[test]
fn the_neighbour_is_told_the_link_local_next_hop_that_two_of_three_say() -> Result<()> {
    let mut lab = Lab::new("link-local")?;
    let star = lab.star(3)?;
    let options = Options { v4: false, v6: true, ..Options::default() };
    let mut router = Router::start(&lab, &star, &options)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], true, &["--monitor", "--events-updates"])?;
    monitor.wait_event("session-up", UP)?;
    router.wait_joined(&star.sites[1].v6.to_string(), UP)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], true, &["--script", &script(&lab)?])?;
    wait_said(&router, &star, "64900").context("the first path")?;
    router.wait_voting(UP)?;
    wait_until("all routes", SETTLE, || told(&monitor, "64900"))?;
    // Everything changes, prefix by prefix, while all three stand.
    let mut third = Replayer::dial(&lab, &star.sites[2], true, &["--generate", "1", "--ipv6-share", "1"])?;
    wait_said(&router, &star, "64901").context("the second path")?;
    wait_until("all routes anew", SETTLE, || told(&monitor, "64901"))?;
    router.wait_quiet(QUIET, SETTLE)?;
    // One of the two that say it goes: the other still does.
    let before = monitor.count("update");
    router.instance("frr")?.crash();
    router.wait_state("frr", "absent", UP)?;
    router.wait_quiet(QUIET, SETTLE)?;
    ensure!(monitor.count("update") == before, "the neighbour was told something because FRR is gone");
    let routes = monitor.finish()?.routes()?;
    let without = routes.values().filter(|route| route["link_local"] != LINK_LOCAL).count();
    ensure!(without == 0, "{without} of {} routes without the link-local next hop", routes.len());
    ensure!(routes.len() == MANY + 1, "{} routes", routes.len());
    let again: usize = told(&monitor, "64900").map_err(anyhow::Error::msg)?;
    println!("{again} routes told the first time");
    ensure!(again == MANY, "{again} routes told for {MANY}: some twice, in another form");
    feed.finish()?.check_quiet()?;
    third.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
