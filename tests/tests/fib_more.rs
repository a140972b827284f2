//! More of the FIB path with real daemons: IPv6, several next hops, routes that drop, one instance
//! alone, observers and quorums.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::daemons::{Daemon, Instance};
use tests::fib::{Hop, kernel, wait_routes, wait_state};
use tests::lab::{Lab, Site, Star, built, real_data, wait_until};
use tests::operate;
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use tests::versions::Version;

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
const ROUTES: usize = 100;

fn trio() -> Options {
    Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd],
        versions: vec![None, None, Some(Version::OPENBGPD_13)],
        fib: true,
        ..Options::default()
    }
}

fn only(daemons: &[Daemon]) -> Options {
    Options { daemons: daemons.to_vec(), versions: Vec::new(), ..trio() }
}

fn start(lab: &Lab, star: &Star, options: &Options, edit: impl FnOnce(String) -> String) -> Result<Router> {
    let mut router = Router::with_toml(lab, star, options, edit)?;
    router.launch(lab, star, options)?;
    Ok(router)
}

fn feed(lab: &Lab, site: &Site, v6: bool, seed: usize) -> Result<Replayer> {
    let (n, seed) = (ROUTES.to_string(), seed.to_string());
    let share = if v6 { "1" } else { "0" };
    let mut feed = Replayer::dial(lab, site, v6, &["--generate", &n, "--seed", &seed, "--ipv6-share", share])?;
    feed.wait_event("feed-done", UP)?;
    Ok(feed)
}

/// Every route of virtd's has just these gateways.
fn all_by(star: &Star, n: usize, gateways: &[String]) -> Result<(), String> {
    let routes = kernel(&star.router).map_err(|e| format!("{e:#}"))?;
    if routes.len() != n {
        return Err(format!("{} routes", routes.len()));
    }
    let by = |hops: &Vec<Hop>| hops.iter().filter_map(|h| h.0.clone()).collect::<Vec<String>>();
    match routes.iter().find(|(_, hops)| by(hops) != gateways) {
        Some((prefix, hops)) => Err(format!("{prefix}: {hops:?}")),
        None => Ok(()),
    }
}

fn agree(router: &Router) -> Result<()> {
    wait_until("everybody to agree", SETTLE, || {
        let none = router.agree_on_fib().is_ok_and(|agree| agree);
        if none { Ok(()) } else { Err(router.show(&["fib", "--diff"]).unwrap_or_default()) }
    })
}

#[test]
fn ipv6_routes_are_voted_on_as_ipv4_ones() -> Result<()> {
    let mut lab = Lab::new("fib-v6")?;
    let star = lab.star(2)?;
    let options = Options { v4: false, v6: true, ..trio() };
    if !options.there()? {
        return Ok(());
    }
    let mut router = start(&lab, &star, &options, |text| text)?;
    let mut feed = feed(&lab, &star.sites[0], true, 1)?;
    wait_routes(&star.router, ROUTES, SETTLE).with_context(|| router.show(&["fib"]).unwrap_or_default())?;
    let gateway = [star.sites[0].v6.to_string()];
    let names = ["frr", "bird", "openbgpd"];
    for name in names {
        wait_state(&router, name, "voting", SETTLE)?;
    }
    agree(&router)?;
    all_by(&star, ROUTES, &gateway).map_err(anyhow::Error::msg)?;
    for name in names {
        router.instance(name)?.crash();
        wait_state(&router, name, "absent", UP)?;
        all_by(&star, ROUTES, &gateway).map_err(anyhow::Error::msg)?;
        router.instance(name)?.launch(&lab)?;
        wait_state(&router, name, "voting", SETTLE).with_context(|| router.show(&["fib"]).unwrap_or_default())?;
    }
    all_by(&star, ROUTES, &gateway).map_err(anyhow::Error::msg)?;
    feed.finish()?.check_quiet()?;
    wait_routes(&star.router, 0, SETTLE)?;
    lab.passed();
    Ok(())
}

/// Lets a daemon use several equal routes at once; OpenBGPD has no such thing.
fn multipath(instance: &Instance, star: &Star) -> Result<()> {
    if instance.daemon == Daemon::Frr {
        let commands = "configure terminal\nrouter bgp 65000\nbgp bestpath as-path multipath-relax\naddress-family ipv4 unicast\n\
                        maximum-paths 4\nexit\naddress-family ipv6 unicast\nmaximum-paths 4";
        return operate::control(instance, &star.router, commands).map(drop);
    }
    change(instance, star, |text| text.replace("    scan time 5;", "    scan time 5;\n    merge paths on;"))
}

/// Edits BIRD's configuration and has it read again.
fn change(instance: &Instance, star: &Star, edit: impl FnOnce(String) -> String) -> Result<()> {
    let path = instance.folder().join("bgp.conf");
    let before = std::fs::read_to_string(&path)?;
    let after = edit(before.clone());
    ensure!(before != after, "nothing to be changed in {before}");
    std::fs::write(&path, after)?;
    let answer = operate::control(instance, &star.router, "configure")?;
    ensure!(answer.contains("Reconfigur"), "{answer}");
    Ok(())
}

/// Two neighbours announce the same prefixes: the kernel spreads the load as all daemons say, each
/// in an encoding of its own.
#[test]
fn equal_routes_of_two_neighbours_are_one_multipath_route() -> Result<()> {
    let mut lab = Lab::new("fib-ecmp")?;
    let star = lab.star(2)?;
    let daemons = vec![Daemon::Frr, Daemon::Bird, Daemon::Bird];
    let options = Options { daemons, versions: vec![None, None, Some(Version::BIRD3_13)], v6: true, ..trio() };
    if !options.there()? {
        return Ok(());
    }
    let mut router = start(&lab, &star, &options, |text| text)?;
    for name in ["frr", "bird", "bird2"] {
        multipath(router.instance(name)?, &star)?;
    }
    let folder = lab.folder("scripts")?;
    let mut feeds = Vec::new();
    for site in &star.sites {
        for v6 in [false, true] {
            let line = |n| {
                let prefix = if v6 { format!("2001:db8:{n}::/48") } else { format!("198.51.{n}.0/24") };
                format!("announce {prefix} as-path {} 64999\n", site.asn)
            };
            let path = folder.join(format!("{}-{v6}", site.number));
            std::fs::write(&path, (1..=20).map(line).collect::<String>() + "eor\n")?;
            feeds.push(Replayer::dial(&lab, site, v6, &["--script", &path.display().to_string()])?);
        }
    }
    let shown = |router: &Router| router.show(&["fib", "--diff"]).unwrap_or_default();
    let both = |v6: bool| star.sites.iter().map(|s| s.addresses(v6).0.to_string()).collect::<Vec<_>>();
    let hold = |what: &str, router: &Router, n: usize| {
        wait_until(what, SETTLE, || {
            let routes = kernel(&star.router).map_err(|e| format!("{e:#}"))?;
            let good = routes.iter().filter(|(prefix, hops)| {
                let by: Vec<&str> = hops.iter().filter_map(|h| h.0.as_deref()).collect();
                let wanted = both(prefix.contains(':'));
                by == wanted[..n]
            });
            match good.count() {
                40 if routes.len() == 40 => Ok(()),
                good => Err(format!("{good} of {}: {routes:?}\n{}", routes.len(), shown(router))),
            }
        })
    };
    hold("40 routes of two next hops", &router, 2)?;
    for name in ["frr", "bird", "bird2"] {
        wait_state(&router, name, "voting", SETTLE)?;
    }
    agree(&router)?;
    router.instance("bird")?.crash();
    wait_state(&router, "bird", "absent", UP)?;
    hold("the routes to stay", &router, 2)?;
    router.instance("bird")?.launch(&lab)?;
    wait_state(&router, "bird", "voting", SETTLE)?;
    // The second neighbour goes: one next hop is left of each.
    for feed in feeds.iter_mut().skip(2) {
        feed.finish()?;
    }
    hold("one next hop to be left", &router, 1)?;
    agree(&router)?;
    for feed in feeds.iter_mut().take(2) {
        feed.finish()?;
    }
    wait_routes(&star.router, 0, SETTLE)?;
    lab.passed();
    Ok(())
}

/// One daemon alone, which speaks for itself to its neighbours, and whose every kind of route is
/// passed on; nothing is left when virtd ends.
#[test]
fn one_instance_alone_and_nothing_of_it_left() -> Result<()> {
    let mut lab = Lab::new("fib-alone")?;
    let star = lab.star(2)?;
    let options = Options { open: "native", ..only(&[Daemon::Bird]) };
    let mut router = start(&lab, &star, &options, |text| text.replace("[fib]\n", "[fib]\non_exit = \"remove\"\n"))?;
    let _feed = feed(&lab, &star.sites[0], false, 1)?;
    wait_routes(&star.router, ROUTES, SETTLE)?;
    all_by(&star, ROUTES, &[star.sites[0].v4.to_string()]).map_err(anyhow::Error::msg)?;
    let (v4, v6) = (star.sites[1].v4, star.sites[1].v6);
    let statics = format!(
        "protocol static s4 {{\n    ipv4;\n    route 203.0.113.0/25 blackhole;\n    route 203.0.113.128/26 unreachable;\n\
         \x20   route 203.0.113.192/26 prohibit;\n    route 192.0.2.0/25 via {v4};\n    route 192.0.2.128/25 via {v6};\n}}\n\
         protocol static s6 {{\n    ipv6;\n    route 2001:db8:1::/48 blackhole;\n    route 2001:db8:2::/48 via {v6};\n}}\n"
    );
    change(router.instance("bird")?, &star, |text| text + &statics)?;
    let wanted: [(&str, &str); 7] = [
        ("203.0.113.0/25", "6"),
        ("203.0.113.128/26", "7"),
        ("203.0.113.192/26", "8"),
        ("192.0.2.0/25", &v4.to_string()),
        ("192.0.2.128/25", &v6.to_string()),
        ("2001:db8:1::/48", "6"),
        ("2001:db8:2::/48", &v6.to_string()),
    ];
    wait_until("the static routes", UP, || {
        let routes = kernel(&star.router).map_err(|e| format!("{e:#}"))?;
        let name = |kind: &str| match kind {
            "6" => "blackhole".to_owned(),
            "7" => "unreachable".to_owned(),
            "8" => "prohibit".to_owned(),
            other => other.to_owned(),
        };
        let there = |prefix: &str| routes.get(prefix).and_then(|hops| hops.first()?.0.clone());
        let missing: Vec<String> = wanted
            .iter()
            .filter(|(prefix, by)| there(prefix).is_none_or(|is| is != *by && is != name(by)))
            .map(|(prefix, _)| format!("{prefix}: {:?}", there(prefix)))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
    })?;
    router.virtd.signal(nix::sys::signal::Signal::SIGTERM)?;
    ensure!(router.virtd.wait(UP)?.success(), "{}", router.virtd.log());
    ensure!(kernel(&star.router)?.is_empty(), "on_exit = remove");
    lab.passed();
    Ok(())
}

/// An observer is compared and named; what it writes is never the kernel's.
#[test]
fn an_observer_never_reaches_the_kernel() -> Result<()> {
    let mut lab = Lab::new("fib-observer")?;
    let star = lab.star(2)?;
    let options = only(&[Daemon::Bird, Daemon::Bird]);
    let observes = |text: String| text.replace("name = \"bird2\"\n", "name = \"bird2\"\nrole = \"observer\"\n");
    let mut router = start(&lab, &star, &options, observes)?;
    let wrong = star.sites[1].v4;
    change(router.instance("bird2")?, &star, |text| {
        let filter = format!("ipv4 {{ export filter {{ gw = {wrong}; accept; }}; }};");
        text.replacen("ipv4 { export all; };", &filter, 1)
    })?;
    let mut feed = feed(&lab, &star.sites[0], false, 1)?;
    wait_routes(&star.router, ROUTES, SETTLE)?;
    wait_until("the observer to be named", SETTLE, || {
        let named = router.events("fib-disagreement").iter().filter(|e| e["instance"] == "bird2").count();
        if named >= ROUTES { Ok(()) } else { Err(format!("{named}: {}", router.show(&["fib"]).unwrap_or_default())) }
    })?;
    let right = [star.sites[0].v4.to_string()];
    all_by(&star, ROUTES, &right).map_err(anyhow::Error::msg)?;
    // Its voter dies: the observer does not take over.
    router.instance("bird")?.crash();
    wait_state(&router, "bird", "absent", UP)?;
    all_by(&star, ROUTES, &right).map_err(anyhow::Error::msg)?;
    router.instance("bird")?.launch(&lab)?;
    wait_state(&router, "bird", "voting", SETTLE)?;
    all_by(&star, ROUTES, &right).map_err(anyhow::Error::msg)?;
    feed.finish()?.check_quiet()?;
    wait_routes(&star.router, 0, SETTLE)?;
    lab.passed();
    Ok(())
}

/// With fewer voters than `min_voters` the kernel stays as it is, and goes on when they are there
/// again.
#[test]
fn too_few_voters_change_nothing() -> Result<()> {
    let mut lab = Lab::new("fib-quorum")?;
    let star = lab.star(2)?;
    let options = only(&[Daemon::Frr, Daemon::Bird]);
    let two = |text: String| text.replace("[vote]\n", "[vote]\nmin_voters = 2\n");
    let mut router = start(&lab, &star, &options, two)?;
    let mut first = feed(&lab, &star.sites[0], false, 1)?;
    wait_routes(&star.router, ROUTES, SETTLE)?;
    for name in ["frr", "bird"] {
        wait_state(&router, name, "voting", SETTLE)?;
    }
    router.instance("bird")?.crash();
    wait_state(&router, "bird", "absent", UP)?;
    first.finish()?.check_quiet()?;
    wait_until("an alarm that there is no quorum", SETTLE, || {
        let told = router.events("fib-no-quorum").len();
        if told > 0 { Ok(()) } else { Err(router.show(&["fib"]).unwrap_or_default()) }
    })?;
    let stand = kernel(&star.router)?.len();
    ensure!(stand == ROUTES, "{stand} routes");
    // A second voter is there again, and says as the first does that there are other routes now.
    router.instance("bird")?.launch(&lab)?;
    let mut second = feed(&lab, &star.sites[1], false, 2)?;
    let right = [star.sites[1].v4.to_string()];
    wait_until("the other routes", SETTLE, || all_by(&star, ROUTES, &right))
        .with_context(|| router.show(&["fib"]).unwrap_or_default())?;
    agree(&router)?;
    second.finish()?.check_quiet()?;
    wait_routes(&star.router, 0, SETTLE)?;
    lab.passed();
    Ok(())
}

/// Half a minute of updates of 2007, as fast as they are taken, their routes by two next hops: for
/// each prefix the kernel has in the end what was said last, and hv-replay has seen how it came
/// there.
#[test]
fn every_change_of_a_real_trace_comes_into_the_kernel() -> Result<()> {
    let Some(trace) = real_data("updates.20070211.0141.gz") else { return Ok(()) };
    let mut lab = Lab::new("fib-trace")?;
    let star = lab.star(1)?;
    let router = start(&lab, &star, &only(&[Daemon::Bird, Daemon::Frr, Daemon::Bird]), |text| text)?;
    let site = star.sites.first().context("no site")?;
    let json = lab.folder("probe")?.join("result.json").display().to_string();
    let (netns, trace) = (format!("/run/netns/{}", star.router.name()), trace.display().to_string());
    let session = format!("--connect {} --bind {} --asn {} --families ipv4", site.router_v4, site.v4, site.asn);
    let hops = format!("{},10.0.1.9", site.v4);
    let hv_replay = built("hv-replay")?.display().to_string();
    let arguments = ["probe", "--feed", &session, "--fib", &netns, "--mrt", &trace, "--span", "30", "--speed", "max"];
    let more = ["--next-hops", &hops, "--timeout", "60s", "--json", &json];
    site.ns
        .run(&hv_replay, &[&arguments[..], &more].concat())
        .with_context(|| router.show(&["fib"]).unwrap_or_default())?;
    let result: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    let number = |key: &str| result[key].as_u64().unwrap_or_default();
    ensure!(number("changes") > 500 && number("count") > 100 && result["lost"] == 0, "{result}");
    ensure!(number("p50_ns") > 0 && number("p50_ns") <= number("max_ns"), "{result}");
    // The neighbour has gone, and its routes with it.
    wait_routes(&star.router, 0, SETTLE)?;
    lab.passed();
    Ok(())
}
