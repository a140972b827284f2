//! The FIB path with real daemons: each believes that the kernel is its own, and the kernel holds
//! what the vote says.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance};
use tests::fib::{believes, by_protocol, kernel, wait_routes, wait_state};
use tests::lab::{Lab, Star, wait_until};
use tests::operate;
use tests::probe::Probe;
use tests::replayer::Replayer;
use tests::router::{ASN, Options, Router};
use tests::untested::not_tested;
use tests::versions::Version;
use virtd_api::{Fib, FibEntries};

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
const ROUTES: usize = 200;

/// FRR 8.4.4, BIRD 2.0.12 and a third code base or version that writes routes on Linux.
fn options() -> Options {
    Options {
        daemons: vec![Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd],
        versions: vec![None, None, Some(Version::OPENBGPD_13)],
        fib: true,
        ..Options::default()
    }
}

struct Scene {
    lab: Lab,
    star: Star,
    router: Router,
    feed: Replayer,
}

impl Scene {
    fn new(name: &str, options: &Options) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(2)?;
        let router = Router::start(&lab, &star, options)?;
        let mut feed =
            Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string(), "--reconnect"])?;
        feed.wait_event("feed-done", UP)?;
        wait_routes(&star.router, ROUTES, SETTLE)?;
        Ok(Scene { lab, star, router, feed })
    }

    /// All of virtd's routes go to the first neighbour.
    fn all_to_the_feed(&self) -> Result<()> {
        let gateway = self.star.sites[0].v4.to_string();
        let routes = kernel(&self.star.router)?;
        ensure!(routes.len() == ROUTES, "{} routes in the kernel", routes.len());
        for (prefix, hops) in routes {
            ensure!(hops.len() == 1 && hops[0].0.as_deref() == Some(&gateway), "{prefix}: {hops:?}");
        }
        Ok(())
    }

    fn passed(mut self) -> Result<()> {
        self.feed.finish()?.check_quiet()?;
        self.lab.passed();
        Ok(())
    }
}

#[test]
fn one_fib_out_of_three_and_each_believes_that_it_is_its_own() -> Result<()> {
    if !options().there()? {
        return Ok(());
    }
    let mut scene = Scene::new("fib", &options())?;
    scene.all_to_the_feed()?;
    let ns = scene.star.router.clone();
    for protocol in ["bgp", "bird", "openbgpd"] {
        // Names that this system's rt_protos does not know are no routes of anybody's.
        let own = by_protocol(&ns, protocol).unwrap_or_default();
        ensure!(own.is_empty(), "{protocol} has routes of its own in the kernel: {own:?}");
    }
    for name in ["frr", "bird"] {
        let instance = scene.router.instance(name)?;
        wait_until(&format!("{name} to believe that its routes are in the kernel"), UP, || {
            match believes(instance, &ns) {
                Ok((ROUTES, 0)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
    }
    for name in ["frr", "bird", "openbgpd"] {
        wait_state(&scene.router, name, "voting", SETTLE)?;
    }
    let fib: FibEntries = scene.router.ctl(&["fib", "--diff"])?;
    ensure!(fib.entries.is_empty(), "{fib:?}");
    // BIRD writes route by route, and is not made to wait for each.
    let counted: Fib = scene.router.ctl(&["fib"])?;
    ensure!(counted.answered_ahead > ROUTES as u64 / 2 && counted.taken_back == 0, "{counted:?}");

    // Each dies and comes back; the kernel's routes stay where they are.
    for name in ["frr", "bird", "openbgpd"] {
        scene.router.instance(name)?.crash();
        wait_state(&scene.router, name, "absent", UP)?;
        scene.all_to_the_feed()?;
        scene.router.instance(name)?.launch(&scene.lab)?;
        wait_state(&scene.router, name, "voting", SETTLE)
            .with_context(|| scene.router.show(&["fib"]).unwrap_or_default())?;
        scene.all_to_the_feed()?;
    }
    // What is withdrawn leaves the kernel.
    scene.feed.finish()?.check_quiet()?;
    wait_routes(&ns, 0, SETTLE)?;
    scene.lab.passed();
    Ok(())
}

/// The first IPv4 prefix that the kernel has a route of virtd's for, and a host in it.
fn some_prefix(scene: &Scene) -> Result<(String, std::net::Ipv4Addr)> {
    let routes = kernel(&scene.star.router)?;
    let prefix = routes.keys().find(|p| p.ends_with("/24")).context("no /24 among the routes")?;
    let network: std::net::Ipv4Addr = prefix.trim_end_matches("/24").parse()?;
    Ok((prefix.clone(), (u32::from(network) + 1).into()))
}

/// Gives BIRD's kernel protocol a filter that writes one prefix with another next hop than
/// everybody else's.
fn lie(scene: &mut Scene, prefix: &str, gateway: &str) -> Result<()> {
    let ns = scene.router.ns().clone();
    let bird = scene.router.instance("bird")?;
    let path = bird.folder().join("bgp.conf");
    let text = std::fs::read_to_string(&path)?;
    let filter = format!("export filter {{ if net = {prefix} then gw = {gateway}; accept; }};");
    let lying = text.replacen("    ipv4 { export all; };", &format!("    ipv4 {{ {filter} }};"), 1);
    ensure!(lying != text, "BIRD's configuration has no kernel protocol to change: {text}");
    std::fs::write(&path, lying)?;
    operate::control(bird, &ns, "configure").map(|_| ())
}

/// No datagram between two hosts behind the router is lost while one instance writes a wrong next
/// hop for the route that it takes, and another dies and comes back.
#[test]
fn nothing_is_lost_behind_a_lie_and_a_death() -> Result<()> {
    if !options().there()? {
        return Ok(());
    }
    let mut scene = Scene::new("fib-probe", &options())?;
    for name in ["frr", "bird", "openbgpd"] {
        wait_state(&scene.router, name, "voting", SETTLE)?;
    }
    let (prefix, host) = some_prefix(&scene)?;
    let (ns, sites) = (scene.star.router.clone(), scene.star.sites.clone());
    ns.run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"])?;
    sites[0].ns.run("ip", &["address", "add", &format!("{host}/32"), "dev", "lo"])?;
    for site in &sites {
        site.ns.run("ip", &["route", "add", "default", "via", &site.router_v4.to_string()])?;
    }
    let probe = Probe::start((&sites[1].ns, sites[1].v4.into()), (&sites[0].ns, host.into()))?;
    wait_until("the first answers", UP, || {
        if probe.so_far().0 > 50 { Ok(()) } else { Err(format!("{:?}", probe.so_far())) }
    })?;

    lie(&mut scene, &prefix, &sites[1].v4.to_string())?;
    let shown = |router: &Router| router.show(&["fib", &prefix]).unwrap_or_default();
    wait_until("BIRD to be named", SETTLE, || {
        let named = scene
            .router
            .events("fib-disagreement")
            .into_iter()
            .any(|e| e["instance"] == "bird" && e["prefix"] == prefix.as_str());
        if named { Ok(()) } else { Err(shown(&scene.router)) }
    })?;
    scene.all_to_the_feed()?;
    scene.router.instance("frr")?.crash();
    wait_state(&scene.router, "frr", "absent", UP)?;
    scene.all_to_the_feed()?;
    scene.router.instance("frr")?.launch(&scene.lab)?;
    wait_state(&scene.router, "frr", "voting", SETTLE)?;
    scene.all_to_the_feed()?;
    let (sent, lost) = probe.finish()?;
    ensure!(sent > 200 && lost == 0, "{lost} of {sent} datagrams are lost");
    scene.passed()
}

/// What happens to the kernel under the daemons: links, addresses, and somebody who removes routes
/// by hand. It ends as the vote says.
#[test]
fn the_kernel_ends_as_the_vote_says_whatever_is_done_to_it() -> Result<()> {
    // OpenBGPD 8.8 does not write again what Linux took from it with the link, alone and here
    // alike: BIRD 3 in its place.
    let daemons = vec![Daemon::Frr, Daemon::Bird, Daemon::Bird];
    let options = Options { daemons, versions: vec![None, None, Some(Version::BIRD3_13)], ..options() };
    if !options.there()? {
        return Ok(());
    }
    let scene = Scene::new("fib-world", &options)?;
    let ns = scene.star.router.clone();
    let rest = |what: &str| {
        wait_until(what, SETTLE, || {
            scene.all_to_the_feed().map_err(|e| format!("{e:#}: {}", scene.router.show(&["fib"]).unwrap_or_default()))
        })
    };
    for name in ["frr", "bird", "bird2"] {
        wait_state(&scene.router, name, "voting", SETTLE)?;
    }
    // By hand: all of them, and one replaced by a hole.
    ns.run("ip", &["route", "flush", "proto", "245"])?;
    rest("the routes to come back after a flush")?;
    let (prefix, _) = some_prefix(&scene)?;
    ns.run("ip", &["route", "replace", "blackhole", &prefix, "proto", "245", "metric", "20"])?;
    rest("the hole to be filled")?;
    ensure!(!scene.router.events("fib-repaired").is_empty(), "nobody was told of the repairs");

    // The gateway's subnet goes without its address: every daemon still wants its routes, and what
    // is removed by hand now cannot be written again until the subnet is back. An address elsewhere
    // makes virtd look at all of them, however often it has repaired them just now.
    let subnet = ["10.0.1.0/24", "dev", "n1", "proto", "kernel", "scope", "link", "src", "10.0.1.1"];
    ns.run("ip", &[["route", "del"].as_slice(), &subnet].concat())?;
    ns.run("ip", &["route", "flush", "proto", "245"])?;
    ns.run("ip", &["address", "add", "10.0.2.7/24", "dev", "n2"])?;
    ns.run("ip", &["address", "del", "10.0.2.7/24", "dev", "n2"])?;
    let told = |kind: &str| {
        let found = scene.router.events(kind);
        found.first().and_then(|e| e["text"].as_str()).map(str::to_owned).ok_or_else(|| format!("{found:?}"))
    };
    let refused = wait_until("virtd to tell that the kernel refuses the routes", UP, || told("fib-refused"))?;
    let all = format!("refuses {ROUTES} of the chosen routes");
    ensure!(refused.contains(&all) && refused.contains("unreachable"), "{refused}");
    let diff: FibEntries = scene.router.ctl(&["fib", "--diff"])?;
    let listed = diff.entries.iter().filter(|e| e.failed.is_some()).count();
    ensure!(listed == ROUTES, "{listed} refused routes are listed: {diff:?}");
    ns.run("ip", &[["route", "add"].as_slice(), &subnet].concat())?;
    rest("the routes to be taken again")?;
    wait_until("virtd to tell that they are", UP, || told("fib-accepted"))?;
    let events = scene.router.events("fib-refused").len();
    ensure!(events == 1, "{events} events about {ROUTES} refused routes");

    // A second address comes and goes: nothing changes.
    ns.run("ip", &["address", "add", "10.0.1.7/24", "dev", "n1"])?;
    ns.run("ip", &["address", "del", "10.0.1.7/24", "dev", "n1"])?;
    rest("the routes to stand after an address came and went")?;

    // The link towards the neighbour goes: so do the routes, out of the kernel and out of every
    // daemon's view of it. It comes back, and so does the session, and so do they.
    ns.run("ip", &["link", "set", "n1", "down"])?;
    wait_routes(&ns, 0, SETTLE)?;
    ns.run("ip", &["link", "set", "n1", "up"])?;
    ns.run("ip", &["address", "replace", "10.0.1.1/24", "dev", "n1"])?;
    rest("the routes to come back with the link")?;
    wait_until("everybody to agree again", SETTLE, || {
        let none = scene.router.agree_on_fib().is_ok_and(|agree| agree);
        if none { Ok(()) } else { Err(scene.router.show(&["fib"]).unwrap_or_default()) }
    })?;

    // And for good.
    ns.run("ip", &["link", "del", "n1"])?;
    wait_routes(&ns, 0, SETTLE)?;
    scene.lab.passed();
    Ok(())
}

/// What virtd leaves behind, and what the next one makes of it.
#[test]
fn routes_stay_when_virtd_ends_and_the_next_one_adopts_them() -> Result<()> {
    let options = Options { daemons: vec![Daemon::Bird], versions: Vec::new(), ..options() };
    let mut scene = Scene::new("fib-adopt", &options)?;
    let ns = scene.star.router.clone();
    scene.router.virtd.signal(nix::sys::signal::Signal::SIGTERM)?;
    ensure!(scene.router.virtd.wait(UP)?.success(), "{}", scene.router.virtd.log());
    ensure!(kernel(&ns)?.len() == ROUTES, "on_exit = keep");
    scene.router.instance("bird")?.crash();
    drop(scene.feed);
    scene.router = Router::start(&scene.lab, &scene.star, &options)?;
    let mut feed = Replayer::dial(&scene.lab, &scene.star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    feed.wait_event("feed-done", UP)?;
    wait_state(&scene.router, "bird", "voting", SETTLE)?;
    wait_until("the old routes to be adopted", UP, || {
        let fib: Fib = scene.router.ctl(&["fib"]).map_err(|e| format!("{e:#}"))?;
        let adopted = fib.kernel.is_some_and(|k| k.adopted == ROUTES as u64 && k.written == 0);
        if adopted { Ok(()) } else { Err(format!("{:?}", fib.kernel)) }
    })?;
    scene.lab.passed();
    Ok(())
}

/// The link towards the neighbour goes down and comes back, faster than any session notices.
fn flap(ns: &tests::lab::Netns) -> Result<()> {
    ns.run("ip", &["link", "set", "n1", "down"])?;
    // This is how long it is down.
    std::thread::sleep(Duration::from_secs(1));
    ns.run("ip", &["link", "set", "n1", "up"]).map(|_| ())
}

/// A wrong FIB without a fault put in: OpenBGPD 8.8 does not write again what Linux took from it
/// together with the link. Alone it leaves the router without its routes until its session ends;
/// behind the vote the kernel has them, and OpenBGPD is named.
#[test]
fn routes_that_openbgpd_forgets_after_a_link_are_in_the_kernel_all_the_same() -> Result<()> {
    let version = Version::OPENBGPD_13;
    let Some(root) = version.root()? else { return Ok(()) };
    let mut lab = Lab::new("fib-openbgpd")?;
    let star = lab.star(2)?;
    let spec = options().spec(&star.sites);
    let daemon =
        Instance::start_in(&lab, &star.router, version.daemon, "openbgpd", &spec, &Attach::Native, Some(root))?;
    let _feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", &ROUTES.to_string()])?;
    let routes = || by_protocol(&star.router, "186").map_or(0, |r| r.len());
    wait_until("OpenBGPD's routes in the kernel", UP, || {
        if routes() == ROUTES { Ok(()) } else { Err(routes().to_string()) }
    })?;
    flap(&star.router)?;
    let back = wait_until("its routes to come back", Duration::from_secs(10), || {
        if routes() == ROUTES { Ok(()) } else { Err(String::new()) }
    });
    if back.is_ok() {
        let why = "alone it writes its routes again after a link came back";
        not_tested("the routes that openbgpd of trixie forgets with a link", why);
    }
    drop(daemon);
    lab.passed();

    let mut scene = Scene::new("fib-forgotten", &options())?;
    for name in ["frr", "bird", "openbgpd"] {
        wait_state(&scene.router, name, "voting", SETTLE)?;
    }
    let ns = scene.star.router.clone();
    operate::keep_sessions_without_link(scene.router.instance("frr")?, &ns, ASN)?;
    flap(&scene.star.router)?;
    wait_until("the routes to be back", SETTLE, || scene.all_to_the_feed().map_err(|e| format!("{e:#}")))?;
    if back.is_err() {
        wait_until("OpenBGPD to be named", SETTLE, || {
            let named = scene.router.events("fib-disagreement").iter().any(|e| e["instance"] == "openbgpd");
            if named { Ok(()) } else { Err(scene.router.show(&["fib"]).unwrap_or_default()) }
        })?;
    }
    scene.passed()
}
