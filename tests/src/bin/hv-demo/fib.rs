//! The demo's FIB: what the instances write, what the kernel holds, and a stream of datagrams that
//! goes where the kernel says.

use crate::{Demo, SETTLE, UP};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tests::daemons::Daemon;
use tests::fib::{Hop, kernel, wait_state};
use tests::kinds::Kinds;
use tests::lab::{FIRST_ASN, Netns, Star, wait_until};
use tests::probe::Probe;
use tests::published::installed;
use tests::versions::Version;
use virtd_api::FibEntries;
use wire::bgp::Prefix;

/// Lines of the kernel's table that are shown.
const SHOWN: usize = 4;
/// How long each state of affairs is left alone, for a datagram to be lost in it if it can.
const LEFT: Duration = Duration::from_secs(5);

/// OpenBGPD of another release, since the one that Debian 12 has writes no routes on Linux.
pub const THIRD: Version = Version::OPENBGPD_13;

/// Fetches the third voter, and tells the audience of it. `false`: there are two.
pub fn fetch_third(demo: &Demo) -> Result<bool> {
    demo.say(
        "OpenBGPD of Debian 13 from Debian's mirror, into a root of its own (target/versions; nothing is installed): Debian 12's writes no \
         routes on Linux, and a FIB needs three voters. The first time this takes about half a minute",
    );
    match THIRD.fetch()? {
        Ok(root) => {
            println!("          OpenBGPD {} is there", root.version);
            Ok(true)
        }
        Err(why) => {
            println!("          IT CANNOT BE HAD: {why}");
            only_two()?;
            Ok(false)
        }
    }
}

/// What the audience has to know where the third voter is missing.
pub fn only_two() -> Result<()> {
    println!(
        "          THE FIB HAS TWO VOTERS ONLY, FRR and BIRD: {} takes part in BGP and abstains from the FIB. Two cannot outvote a \
         liar: they keep him out, for what they do not agree on is not changed",
        installed(Daemon::OpenBgpd)?
    );
    Ok(())
}

/// The running stream, and the route that it takes.
pub struct Fib {
    probe: Probe,
    prefix: Prefix,
    /// The neighbour that the route does not go to.
    elsewhere: Ipv4Addr,
    voters: &'static [&'static str],
}

/// How it went.
#[derive(Debug)]
pub struct FibOutcome {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Those without an answer.
    pub lost: u64,
    /// Instances that vote on the FIB.
    pub voters: usize,
    /// What virtd says that the kernel should have.
    chosen: usize,
    /// What it does not take.
    failed: usize,
    kernel: BTreeMap<String, Vec<Hop>>,
}

impl FibOutcome {
    /// Routes of virtd's in the kernel.
    pub fn routes(&self) -> usize {
        self.kernel.len()
    }

    /// Where the kernel is not as the vote says, in words: the number of routes, and, with the
    /// table of a neighbour that was told everything, where each goes.
    pub fn wrong(&self, told: &Map<String, Value>) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.chosen != self.kernel.len() || self.failed > 0 {
            let (chosen, failed) = (self.chosen, self.failed);
            wrong
                .push(format!("{} routes in the kernel, {chosen} chosen, {failed} not taken by it", self.kernel.len()));
        }
        for (prefix, route) in told {
            let gateway = next_as(route).and_then(gateway_of);
            let there = self.kernel.get(prefix).map(Vec::as_slice);
            let right =
                gateway.as_deref().is_some_and(|gateway| matches!(there, Some([(Some(found), _)]) if found == gateway));
            if !right {
                wrong.push(format!("{prefix}: the neighbours are told {}, the kernel has {there:?}", route["as_path"]));
            }
        }
        wrong
    }
}

/// The AS that a route of ours came from.
fn next_as(route: &Value) -> Option<u32> {
    let path = route["as_path"].as_str()?;
    path.split_whitespace().nth(1)?.parse().ok()
}

/// The neighbour of that AS.
fn gateway_of(asn: u32) -> Option<String> {
    let number = asn.checked_sub(FIRST_ASN).and_then(|n| u8::try_from(n).ok())?;
    Some(Ipv4Addr::new(10, 0, number, 2).to_string())
}

/// Shows who writes what, and starts the stream: from the watching neighbour to a host behind the
/// one that a route goes to.
pub fn start(demo: &Demo, star: &Star, kinds: &mut Kinds, three: bool) -> Result<Fib> {
    let voters: &[&str] = if three { &["frr", "bird", "openbgpd"] } else { &["frr", "bird"] };
    for name in voters {
        wait_state(&kinds.router, name, "voting", SETTLE)?;
    }
    demo.say("Each daemon believes that it writes the kernel's routes; what the kernel gets is voted on:");
    demo.show(&kinds.router, &["fib"])?;
    let routes = kernel(&star.router)?;
    let (prefix, host, gateway) = some_route(&routes).context("no /24 among the routes")?;
    demo.show(&kinds.router, &["fib", &prefix.to_string()])?;
    println!("$ ip route show proto 245 | head -n {SHOWN}");
    let text = star.router.run("ip", &["route", "show", "proto", "245"])?;
    text.lines().take(SHOWN).for_each(|line| println!("{line}"));
    println!("          {} routes in all, each with virtd's mark. FRR takes its own for installed:", routes.len());
    println!("$ vtysh -d zebra -c 'show ip route {prefix}'");
    print!("{}", indented(&kinds.ask_zebra("frr", &format!("show ip route {prefix}"))?));
    println!("          So does BIRD (a route that the kernel refused had a `!`):");
    demo.show(&kinds.router, &["exec", "bird", "show", "route", &prefix.to_string()])?;

    let sites = star.sites.get(..3).context("three neighbours")?;
    let behind = sites.iter().find(|s| s.v4 == gateway).context("a route to nobody that we know")?;
    let elsewhere = sites.iter().find(|s| s.v4 != gateway).context("one neighbour only")?.v4;
    forward(&star.router)?;
    behind.ns.run("ip", &["address", "add", &format!("{host}/32"), "dev", "lo"])?;
    let from = sites.last().context("no neighbour watches")?;
    for site in [behind, from] {
        site.ns.run("ip", &["route", "add", "default", "via", &site.router_v4.to_string()])?;
    }
    let probe = Probe::start((&from.ns, IpAddr::V4(from.v4)), (&behind.ns, host.into()))?;
    let fib = Fib { probe, prefix, elsewhere, voters };
    fib.some_answers()?;
    demo.say(&format!(
        "From now on a datagram every 5 ms goes from {} through the router's kernel to {host}, which is behind {gateway}, and back",
        from.v4
    ));
    Ok(fib)
}

/// BIRD writes a wrong next hop for the very route that the datagrams take, and meanwhile FRR's
/// zebra dies.
pub fn lie_and_death(demo: &Demo, fib: &Fib, star: &Star, kinds: &mut Kinds) -> Result<()> {
    let prefix = fib.prefix.to_string();
    let right = kernel(&star.router)?.remove(&prefix);
    demo.say(&format!("BIRD writes a wrong next hop for that route, {}", fib.elsewhere));
    kinds.bird_wrong_hop("bird", Some((fib.prefix, fib.elsewhere)))?;
    wait_until("virtd to see the wrong next hop", SETTLE, || {
        let told = ["fib-disagreement", "fib-no-quorum"].map(|kind| kinds.router.events(kind)).concat();
        if told.iter().any(|e| e["prefix"] == prefix.as_str()) { Ok(()) } else { Err(format!("{told:?}")) }
    })?;
    std::thread::sleep(LEFT);
    demo.show(&kinds.router, &["fib", &prefix])?;
    fib.so_far();
    // Of two voters one alone would be the majority of those that are there: then the one dies that
    // has no vote.
    let (name, words) = match fib.voters.len() {
        3.. => ("frr", "FRR's zebra, the process that writes its routes,"),
        _ => ("openbgpd", "OpenBGPD"),
    };
    let old = kinds.pids(name)?;
    demo.say(&format!("Meanwhile {words} is killed (SIGKILL)"));
    let victim = if name == "frr" { kinds.zebra(name)? } else { kinds.leader(name)? };
    println!("          virtd: {}", kinds.kill(name, victim, Signal::SIGKILL, UP)?);
    demo.show(&kinds.router, &["fib", &prefix])?;
    kinds.wait_return(name, &old, SETTLE)?;
    for name in fib.voters {
        wait_state(&kinds.router, name, "voting", SETTLE)?;
    }
    demo.say("It is back; the kernel has kept its routes all the while");
    demo.show(&kinds.router, &["fib", &prefix])?;
    let now = kernel(&star.router)?.remove(&prefix);
    ensure!(now == right, "the kernel's route for {prefix} was {right:?} and is {now:?}");
    fib.so_far();
    demo.say("BIRD takes the wrong next hop back");
    kinds.bird_wrong_hop("bird", None)?;
    agreed(kinds, &prefix)?;
    kinds.router.wait_quiet(demo.rest, SETTLE).map(|_| ())
}

/// Waits until all who count say the same of a prefix.
fn agreed(kinds: &Kinds, prefix: &str) -> Result<()> {
    wait_until("everybody to write the same route", SETTLE, || {
        let answer: FibEntries = kinds.router.ctl(&["fib", prefix]).map_err(|e| format!("{e:#}"))?;
        let same = answer.entries.first().is_some_and(|entry| {
            let mut counted = entry.said.iter().filter(|s| s.counted).peekable();
            counted.peek().is_some() && counted.all(|s| s.route == entry.route)
        });
        if same { Ok(()) } else { Err(format!("{answer:?}")) }
    })
}

impl Fib {
    /// Waits until everybody who did so before votes, and ends the stream.
    pub fn finish(self, star: &Star, kinds: &Kinds) -> Result<FibOutcome> {
        for name in self.voters {
            wait_state(&kinds.router, name, "voting", SETTLE)?;
        }
        self.some_answers()?;
        let kernel = kernel(&star.router)?;
        let virtd_api::Fib { routes: chosen, failed, .. } = kinds.router.ctl(&["fib"])?;
        let (datagrams, lost) = self.probe.finish()?;
        Ok(FibOutcome { datagrams, lost, voters: self.voters.len(), chosen, failed, kernel })
    }

    /// Tells the audience of the stream.
    pub fn so_far(&self) {
        let (sent, lost) = self.probe.so_far();
        println!("          datagrams lost so far: {lost} of {sent}");
    }

    fn some_answers(&self) -> Result<()> {
        let (before, _) = self.probe.so_far();
        wait_until("datagrams to go on", UP, || {
            let (sent, lost) = self.probe.so_far();
            if sent > before + 50 { Ok(()) } else { Err(format!("{lost} of {sent} are lost")) }
        })
    }
}

/// A /24 without anything longer inside it, a host in it, and where it goes.
fn some_route(routes: &BTreeMap<String, Vec<Hop>>) -> Option<(Prefix, Ipv4Addr, Ipv4Addr)> {
    let plain = |(prefix, hops): (&String, &Vec<Hop>)| -> Option<(Prefix, Ipv4Addr, Ipv4Addr)> {
        let network: Ipv4Addr = prefix.strip_suffix(".0/24").map(|n| format!("{n}.0"))?.parse().ok()?;
        let [(Some(gateway), _)] = hops.as_slice() else { return None };
        let inside = format!("{}.", prefix.strip_suffix(".0/24")?);
        let longer = routes.keys().any(|other| other != prefix && other.starts_with(&inside));
        // The neighbour has to be one of ours: see `start`.
        (!longer).then_some((prefix.parse().ok()?, (u32::from(network) + 1).into(), gateway.parse().ok()?))
    };
    routes.iter().skip(routes.len() / 3).chain(routes).find_map(plain)
}

/// Makes a namespace a router.
fn forward(ns: &Netns) -> Result<()> {
    ns.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?.context("switching forwarding on")
}

fn indented(text: &str) -> String {
    text.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("{l}\n")).collect()
}
