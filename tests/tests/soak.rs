//! Updates without end, while links, addresses and routes change under the daemons: the kernel ends
//! as the vote says, every daemon believes that it owns it, and no neighbour has noticed anything
//! but the links. One minute in `make test`; `make soak` plays an hour.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use tests::daemons::{Daemon, Instance};
use tests::fib::{believes, kernel, wait_state};
use tests::lab::{Lab, Netns, wait_until};
use tests::operate;
use tests::replayer::Replayer;
use tests::router::{ASN, Options, Router};
use tests::versions::Version;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(60);
/// Prefixes that come and go.
const PREFIXES: u32 = 300;
/// Between two things that happen to the system.
const BETWEEN: Duration = Duration::from_secs(10);

/// A small generator of our own: the same seed, the same hour.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn prefix(n: u32) -> String {
    format!("100.{}.{}.0/24", 64 + n / 256, n % 256)
}

/// What one neighbour says for so long, and what of it stands at the end: prefix to the number of
/// ASes in its path.
fn script(asn: u32, seed: u64, minutes: u64) -> (String, BTreeMap<String, u64>) {
    let (mut dice, mut text, mut stands) = (Dice(seed), String::new(), BTreeMap::new());
    // Some ten changes a second.
    for _ in 0..minutes * 60 * 2 {
        for _ in 0..5 {
            let one = prefix(dice.roll(PREFIXES.into()) as u32);
            if dice.roll(3) == 0 {
                let _ = writeln!(text, "withdraw {one}");
                stands.remove(&one);
            } else {
                // Odd lengths from one neighbour, even ones from the other: no ties.
                let length = 1 + u64::from(asn % 2) + 2 * dice.roll(4);
                let path = vec![asn.to_string(); length as usize].join(" ");
                let _ = writeln!(text, "announce {one} as-path {path} med {}", dice.roll(100));
                stands.insert(one, length);
            }
        }
        text.push_str("wait 500ms\n");
    }
    (text, stands)
}

/// Something that operators and cables do.
fn happen(ns: &Netns, n: u64) -> Result<()> {
    match n % 5 {
        0 => {
            ns.run("ip", &["link", "set", "n1", "down"])?;
            // This is how long it is down.
            std::thread::sleep(Duration::from_millis(500));
            ns.run("ip", &["link", "set", "n1", "up"])?;
        }
        1 => drop(ns.run("ip", &["route", "flush", "proto", "245"])?),
        2 => {
            ns.run("ip", &["address", "add", "10.0.2.9/24", "dev", "n2"])?;
            ns.run("ip", &["address", "del", "10.0.2.9/24", "dev", "n2"])?;
        }
        3 => {
            let some = kernel(ns)?.into_keys().next().context("no route in the kernel")?;
            ns.run("ip", &["route", "replace", "unreachable", &some, "proto", "245", "metric", "20"])?;
        }
        _ => {
            ns.run("ip", &["link", "set", "n2", "mtu", "1400"])?;
            ns.run("ip", &["link", "set", "n2", "mtu", "1500"])?;
        }
    }
    Ok(())
}

/// How a daemon is asked for one route.
fn own_words(instance: &Instance, prefix: &str) -> String {
    match instance.daemon {
        Daemon::Frr => format!("show bgp ipv4 unicast {prefix}"),
        Daemon::Bird => format!("show route {prefix} all"),
        Daemon::OpenBgpd => format!("show rib {prefix}"),
    }
}

/// What is different, and what everybody says about the first of it.
fn differences(router: &Router) -> String {
    let show = |words: &[&str]| router.show(words).unwrap_or_default();
    let first: String = show(&["fib", "--diff"]).lines().take(20).map(|l| format!("{l}\n")).collect();
    let prefix = first.split(':').next().unwrap_or_default().to_owned();
    let own =
        router.instances.iter().map(|i| operate::control(i, router.ns(), &own_words(i, &prefix)).unwrap_or_default());
    let own: String = own.collect();
    format!("{}{first}{}{own}", show(&["fib"]), show(&["routes", &prefix]))
}

#[test]
fn the_kernel_ends_as_the_vote_says() -> Result<()> {
    let minutes: u64 = std::env::var("HV_SOAK_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(1);
    let mut lab = Lab::new("soak")?;
    let star = lab.star(2)?;
    let options = Options {
        // Others were tried, and have bugs of their own here (docs/BUGS.md): OpenBGPD 8.8 does not
        // write again what Linux takes from it with a link, BIRD 3.1.7 chooses the longer of two
        // paths now and then.
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::Frr],
        versions: vec![None, None, Some(Version::FRR_13)],
        fib: true,
        ..Options::default()
    };
    if !options.there()? {
        return Ok(());
    }
    let mut router = Router::start(&lab, &star, &options)?;
    let (mut feeds, mut says) = (Vec::new(), Vec::new());
    for site in &star.sites {
        let (text, stands) = script(site.asn, 0x5eed + u64::from(site.asn), minutes);
        let path = lab.directory().join(format!("script{}.txt", site.number));
        std::fs::write(&path, text)?;
        feeds.push(Replayer::dial(&lab, site, false, &["--script", &path.display().to_string()])?);
        says.push(stands);
    }
    feeds.iter_mut().try_for_each(|f| f.wait_event("session-up", UP))?;
    for name in ["frr", "bird", "frr2"] {
        wait_state(&router, name, "voting", UP)?;
    }
    let ns = star.router.clone();
    for frr in router.instances.iter().filter(|i| i.daemon == Daemon::Frr) {
        operate::keep_sessions_without_link(frr, &ns, ASN)?;
    }
    let (start, mut n) = (Instant::now(), 0);
    while start.elapsed() + BETWEEN < Duration::from_secs(minutes * 60) {
        std::thread::sleep(BETWEEN);
        happen(&ns, n)?;
        n += 1;
        ensure!(feeds.iter_mut().all(Replayer::running), "a neighbour has lost its session");
    }
    feeds.iter_mut().try_for_each(|f| f.wait_event("feed-done", Duration::from_secs(minutes * 60) + SETTLE))?;

    // The shorter path wins.
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for one in (0..PREFIXES).map(prefix) {
        let best = says.iter().zip(&star.sites).filter_map(|(s, site)| Some((*s.get(&one)?, site.v4))).min();
        if let Some((_, gateway)) = best {
            expected.insert(one, gateway.to_string());
        }
    }
    wait_until("the kernel to be as the vote says", SETTLE, || {
        let there = kernel(&ns).map_err(|e| format!("{e:#}"))?;
        let there: BTreeMap<String, String> = there
            .into_iter()
            .map(|(p, hops)| (p, hops.first().and_then(|h| h.0.clone()).unwrap_or_default()))
            .collect();
        let wrong = expected.iter().find(|(p, g)| there.get(*p) != Some(g)).map(|(p, g)| format!("{p} via {g}"));
        match wrong {
            None if there.len() == expected.len() => Ok(()),
            wrong => {
                Err(format!("{} of {} routes, wrong: {wrong:?}; {}", there.len(), expected.len(), differences(&router)))
            }
        }
    })?;
    wait_until("everybody to agree", SETTLE, || {
        if router.agree_on_fib().is_ok_and(|agree| agree) { Ok(()) } else { Err(differences(&router)) }
    })?;
    for name in ["frr", "bird", "frr2"] {
        let instance = router.instance(name)?;
        wait_until(&format!("{name} to believe that all is in the kernel"), UP, || match believes(instance, &ns) {
            Ok((_, 0)) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    ensure!(
        router.events("instance-faulty").is_empty(),
        "an instance was found faulty: {:?}",
        router.events("instance-faulty")
    );
    for mut feed in feeds {
        feed.finish()?.check_quiet()?;
    }
    lab.passed();
    Ok(())
}
