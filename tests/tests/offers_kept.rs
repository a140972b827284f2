//! What is offered to a neighbour is kept, with real daemons: a refresh that the neighbour begins
//! by itself, confederations, extended optional parameters, a Partial bit where none belongs, and
//! listening only where somebody does.

use anyhow::{Context, Result, ensure};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, PeerSpec, RouterSpec, Wrapper};
use tests::lab::{Lab, Netns, Site, wait_until};
use tests::neighbours::prefixes;
use tests::operate::{control, routes};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(2);
/// ROUTE-REFRESH of IPv4 unicast, up to its subtype.
const REFRESH: &str = "raw ffffffffffffffffffffffffffffffff 0017 05 0001";

/// Waits until a daemon's table has these prefixes, and none of those.
fn wait_has(instance: &Instance, ns: &Netns, has: &[&str], has_not: &[&str]) -> Result<String> {
    let what = format!("{} to have {has:?} and not {has_not:?}", instance.name);
    wait_until(&what, SETTLE, || {
        let table = routes(instance, ns, false).map_err(|e| format!("{e:#}"))?;
        let good = has.iter().all(|p| table.contains(p)) && !has_not.iter().any(|p| table.contains(p));
        if good { Ok(table) } else { Err(table) }
    })
}

#[test]
fn what_a_neighbour_does_not_say_again_is_gone_from_every_daemon() -> Result<()> {
    let mut lab = Lab::new("borr")?;
    let star = lab.star(3)?;
    let router = Router::start(&lab, &star, &Options::default())?;
    let script = lab.directory().join("script");
    // Begins when it hears of the third neighbour's route.
    let text = format!(
        "announce 198.51.100.0/24,203.0.113.0/24 as-path 64900\nannounce 192.0.2.0/24 as-path 64900\neor ipv4\nwait-routes 1\n\
         {REFRESH} 01 01\nannounce 198.51.100.0/24 as-path 64900 64901\n{REFRESH} 02 01\n"
    );
    std::fs::write(&script, text)?;
    let script = script.display().to_string();
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    monitor.wait_event("session-up", UP)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script])?;
    for instance in &router.instances {
        wait_has(instance, &star.router, &["198.51.100.0", "203.0.113.0", "192.0.2.0"], &[])?;
    }
    ensure!(feed.events().iter().any(|e| e["negotiated"]["enhanced_route_refresh"] == true), "{:?}", feed.events());
    let mut third = Replayer::dial(&lab, &star.sites[2], false, &["--generate", "1"])?;
    feed.wait_event("feed-done", UP)?;
    for instance in &router.instances {
        wait_has(instance, &star.router, &["198.51.100.0", "64901"], &["203.0.113.0", "192.0.2.0"])?;
    }
    router.wait_quiet(QUIET, SETTLE)?;
    let learned = monitor.finish()?;
    learned.check_quiet()?;
    let learned = learned.routes()?;
    ensure!(learned.contains_key("198.51.100.0/24") && learned.len() == 2, "{:?}", learned.keys());
    ensure!(router.events("refresh-swept").len() == 1, "{:?}", router.events("refresh-swept"));
    feed.finish()?.check_quiet()?;
    third.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_partial_bit_on_a_well_known_attribute_costs_no_leg() -> Result<()> {
    let mut lab = Lab::new("partial")?;
    let star = lab.star(2)?;
    let router = Router::start(&lab, &star, &Options::default())?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--until-routes", "1"])?;
    monitor.wait_event("session-up", UP)?;
    let script = lab.directory().join("script");
    std::fs::write(&script, "announce 198.51.100.0/24 attribute 0x60 1 00\neor ipv4\n")?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    let learned = monitor.wait(SETTLE)?;
    ensure!(learned.routes()?.contains_key("198.51.100.0/24"), "{:?}", learned.routes()?);
    for instance in &router.instances {
        wait_has(instance, &star.router, &["198.51.100.0"], &[])?;
    }
    let events: Vec<_> =
        ["leg-notification", "leg-fault", "leg-closed"].iter().flat_map(|k| router.events(k)).collect();
    ensure!(events.is_empty(), "a leg was lost: {events:?}");
    ensure!(router.events("malformed-update").len() == 1, "{:?}", router.events("malformed-update"));
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn an_empty_pmsi_tunnel_is_a_withdrawal_and_costs_no_leg() -> Result<()> {
    let mut lab = Lab::new("pmsi")?;
    let star = lab.star(3)?;
    let router = Router::start(&lab, &star, &Options::default())?;
    let script = lab.directory().join("script");
    // The attribute comes when the third neighbour's route is heard of.
    let text = "announce 198.51.100.0/24,203.0.113.0/24\neor ipv4\nwait-routes 1\n\
                announce 203.0.113.0/24 attribute 0xc0 22\nannounce 192.0.2.0/24\n";
    std::fs::write(&script, text)?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    monitor.wait_event("session-up", UP)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    for instance in &router.instances {
        wait_has(instance, &star.router, &["198.51.100.0", "203.0.113.0"], &[])?;
    }
    let mut third = Replayer::dial(&lab, &star.sites[2], false, &["--generate", "1"])?;
    for instance in &router.instances {
        wait_has(instance, &star.router, &["198.51.100.0", "192.0.2.0"], &["203.0.113.0"])?;
    }
    router.wait_quiet(QUIET, SETTLE)?;
    let outcome = monitor.finish()?;
    outcome.check_quiet()?;
    let learned = outcome.routes()?;
    ensure!(!learned.contains_key("203.0.113.0/24") && learned.len() == 3, "{:?}", learned.keys());
    let told = router.events("malformed-update");
    ensure!(told.len() == 1 && told[0]["text"].to_string().contains("PMSI_TUNNEL"), "{told:?}");
    for kind in ["leg-notification", "leg-fault", "leg-closed"] {
        ensure!(router.events(kind).is_empty(), "a leg was lost: {:?}", router.events(kind));
    }
    feed.finish()?.check_quiet()?;
    third.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// FRR speaks RFC 9072's form to each of its neighbours, and reads no other from them.
fn extended(text: String) -> String {
    let lines = text.lines().map(|line| match line.strip_suffix(" timers connect 1") {
        Some(neighbour) => format!("{line}\n{neighbour} extended-optional-parameters\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

fn with_configuration(configuration: fn(String) -> String) -> Wrapper {
    Wrapper { configuration, ..Wrapper::default() }
}

#[test]
fn an_instance_with_extended_optional_parameters_has_its_leg() -> Result<()> {
    let mut lab = Lab::new("rfc9072")?;
    let star = lab.star(1)?;
    let options = Options { wrappers: vec![with_configuration(extended)], ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "10"])?;
    feed.wait_event("feed-done", UP)?;
    router.wait_joined("10.0.1.2", UP)?;
    router.wait_voting(UP)?;
    ensure!(router.events("leg-notification").is_empty(), "{:?}", router.events("leg-notification"));
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_neighbour_and_instances_with_extended_optional_parameters_find_each_other() -> Result<()> {
    let mut lab = Lab::new("rfc9072-peer")?;
    let star = lab.star(1)?;
    let (daemons, wrappers) = (vec![Daemon::Frr], vec![with_configuration(extended)]);
    let router = Router::start(&lab, &star, &Options { daemons, wrappers, ..Options::default() })?;
    let site = &star.sites[0];
    let neighbour = native(&lab, site, Daemon::Frr, (site.asn, 65000), "203.0.113.0/24", extended)?;
    neighbour.wait_established(UP)?;
    router.wait_voting(UP)?;
    wait_has(&router.instances[0], &star.router, &["203.0.113.0"], &[])?;
    lab.passed();
    Ok(())
}

/// A real daemon at a site, with a network of its own.
fn native(
    lab: &Lab,
    site: &Site,
    daemon: Daemon,
    (asn, router_asn): (u32, u32),
    network: &str,
    configuration: fn(String) -> String,
) -> Result<Instance> {
    let (own, router) = site.addresses(false);
    let IpAddr::V4(router_id) = own else { anyhow::bail!("IPv4") };
    let spec = RouterSpec {
        asn,
        router_id,
        peers: vec![PeerSpec::new(router, own, router_asn)],
        networks: prefixes(&[network])?,
        lie: None,
        fib: false,
    };
    let name = format!("neighbour{}-{}", site.number, daemon.name());
    let around = (None, with_configuration(configuration));
    Instance::start_wrapped(lab, &site.ns, daemon, &name, &spec, &Attach::Native, around)
}

/// The router's member AS, the one beside it, and the third neighbour's address, with which it has
/// an internal session.
const MEMBER: u32 = 65100;
const OTHER_MEMBER: u32 = 65002;
const INTERNAL: &str = "10.0.3.2";

/// The same confederation in the words of FRR and of BIRD. Next hops are kept within one, and
/// nothing here resolves them.
fn confederation(text: String) -> String {
    let mut out = String::new();
    for line in text.lines() {
        out.push_str(&line.replace("ipv4 { import", "ipv4 { next hop self; import"));
        out.push('\n');
        if let Some(neighbour) = line.strip_suffix(" activate") {
            out.push_str(&format!("{neighbour} next-hop-self force\n"));
        }
        if line.starts_with(" bgp router-id") {
            out.push_str(" bgp confederation identifier 65000\n bgp confederation peers 65002 65100\n");
        }
        // BIRD: the other end of the session is `neighbor ADDRESS as ASN;`.
        if let Some(asn) = line.strip_prefix("    neighbor ").and_then(|l| l.split(" as ").nth(1)) {
            out.push_str("    confederation 65000;\n");
            if matches!(asn.trim_end_matches(';'), "65002" | "65100") {
                out.push_str("    confederation member yes;\n");
            }
        }
    }
    out
}

/// Instances that are a member of a confederation, an external neighbour, one in another member AS,
/// and an internal one.
fn confederated(daemons: &[Daemon]) -> Result<()> {
    let mut lab = Lab::new("confed")?;
    let star = lab.star(3)?;
    let options = Options {
        daemons: daemons.to_vec(),
        wrappers: vec![with_configuration(confederation); daemons.len()],
        tune: |_, spec| {
            spec.asn = MEMBER;
            for peer in spec.peers.iter_mut().filter(|p| p.address.to_string() == INTERNAL) {
                peer.asn = MEMBER;
            }
        },
        ..Options::default()
    };
    let mut router = Router::with_toml(&lab, &star, &options, |text| {
        let text = text.replacen("asn = 65000\n", "confederation = 65000\nconfederation_members = [65002]\n", 1);
        text.replace("asn = 65003\n", &format!("asn = {MEMBER}\n"))
    })?;
    router.launch(&lab, &star, &options)?;
    let other = native(&lab, &star.sites[1], Daemon::Bird, (OTHER_MEMBER, MEMBER), "203.0.113.0/24", confederation)?;
    let inner = native(&lab, &star.sites[2], Daemon::Frr, (MEMBER, MEMBER), "198.51.100.0/24", confederation)?;
    let script = lab.directory().join("script");
    std::fs::write(&script, "announce 192.0.2.0/24 as-path 64900\neor ipv4\nwait-routes 2\n")?;
    let mut outside = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    [&other, &inner].into_iter().try_for_each(|n| n.wait_established(UP))?;
    // Each hears of both others' routes.
    wait_has(&other, &star.sites[1].ns, &["192.0.2.0", "198.51.100.0"], &[]).context("in another member AS")?;
    wait_has(&inner, &star.sites[2].ns, &["192.0.2.0", "203.0.113.0"], &[]).context("in the same one")?;
    outside.wait_event("feed-done", SETTLE).context("outside")?;
    router.wait_quiet(QUIET, SETTLE)?;
    let path = control(&inner, &star.sites[2].ns, "show bgp ipv4 unicast 203.0.113.0/24")?;
    ensure!(path.contains("(65002)"), "the path within: {path}");
    let outcome = outside.finish()?;
    outcome.check_quiet()?;
    for (prefix, route) in outcome.routes()? {
        ensure!(route["as_path"] == "65000", "{prefix}: outside it is one AS: {route}");
    }
    for kind in ["malformed-update", "instance-malformed", "leg-notification", "no-quorum"] {
        ensure!(router.events(kind).is_empty(), "{:?}", router.events(kind));
    }
    lab.passed();
    Ok(())
}

#[test]
fn frr_is_a_member_of_a_confederation() -> Result<()> {
    confederated(&[Daemon::Frr])
}

#[test]
fn bird_is_a_member_of_a_confederation() -> Result<()> {
    confederated(&[Daemon::Bird])
}

#[test]
fn frr_and_bird_are_one_member_of_a_confederation() -> Result<()> {
    confederated(&[Daemon::Frr, Daemon::Bird])
}

#[test]
fn class_e_goes_through_to_a_daemon_that_allows_it() -> Result<()> {
    let mut lab = Lab::new("class-e")?;
    let star = lab.star(1)?;
    let allow = |text: String| format!("allow-reserved-ranges\n{text}");
    let (daemons, wrappers) = (vec![Daemon::Frr], vec![with_configuration(allow)]);
    let options = Options { daemons, wrappers, ..Options::default() };
    let mut router = Router::with_toml(&lab, &star, &options, |text| {
        text.replacen("[router]\n", "[router]\nallow_reserved_ranges = true\n", 1)
    })?;
    router.launch(&lab, &star, &options)?;
    let script = lab.directory().join("script");
    std::fs::write(&script, "announce 198.51.100.0/24 next-hop 240.0.0.1\neor ipv4\n")?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--script", &script.display().to_string()])?;
    wait_has(&router.instances[0], &star.router, &["198.51.100.0", "240.0.0.1"], &[])?;
    ensure!(router.events("malformed-update").is_empty(), "{:?}", router.events("malformed-update"));
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn the_port_is_open_only_while_an_instance_listens() -> Result<()> {
    let mut lab = Lab::new("listen")?;
    let star = lab.star(1)?;
    let options = Options::default();
    let mut router = Router::without_instances(&lab, &star, &options)?;
    let knock = || {
        let at = SocketAddr::new(star.sites[0].router_v4.into(), 179);
        star.sites[0].ns.enter(|| TcpStream::connect_timeout(&at, UP).map(drop).map_err(|e| e.kind()))
    };
    ensure!(knock()? == Err(ErrorKind::ConnectionRefused), "open before anybody listens");
    router.launch(&lab, &star, &options)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "10"])?;
    feed.wait_event("feed-done", UP)?;
    router.wait_joined("10.0.1.2", UP)?;
    router.wait_voting(UP)?;
    ensure!(knock()? == Ok(()), "closed while three listen");
    // Who still listens keeps it open.
    router.instance("frr")?.crash();
    router.instance("bird")?.crash();
    ["frr", "bird"].iter().try_for_each(|name| router.wait_state(name, "absent", UP))?;
    ensure!(knock()? == Ok(()), "closed while one listens");
    router.instance("openbgpd")?.crash();
    router.wait_state("openbgpd", "absent", UP)?;
    wait_until("the port to be closed", UP, || match knock() {
        Ok(Err(ErrorKind::ConnectionRefused)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    // And the session stands meanwhile; whoever comes back takes part in it.
    for i in 0..router.instances.len() {
        router.instances.get_mut(i).context("an instance")?.launch(&lab)?;
    }
    router.wait_voting(SETTLE)?;
    ensure!(knock()? == Ok(()), "closed after they came back");
    ensure!(router.events("listen-failed").is_empty(), "{:?}", router.events("listen-failed"));
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// FRR says routes to neighbours that are in their path already, and takes such of its own.
fn own_as_goes_both_ways(text: String) -> String {
    let lines = text.lines().filter(|line| !line.ends_with(" sender-as-path-loop-detection"));
    let lines = lines.map(|line| match line.strip_suffix(" activate") {
        Some(neighbour) => format!("{line}\n{neighbour} allowas-in\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// Two neighbours that take routes with their own AS in the path, and a route with both in it.
/// `takes` says whether it reaches the first, and whether the second.
fn own_as(name: &str, edit: impl FnOnce(String) -> String, takes: [bool; 2]) -> Result<()> {
    let mut lab = Lab::new(name)?;
    let star = lab.star(3)?;
    let wrappers = vec![with_configuration(own_as_goes_both_ways); Daemon::ALL.len()];
    let options = Options { wrappers, ..Options::default() };
    let mut router = Router::with_toml(&lab, &star, &options, edit)?;
    router.launch(&lab, &star, &options)?;
    let neighbour =
        |site: &Site, network| native(&lab, site, Daemon::Frr, (site.asn, 65000), network, own_as_goes_both_ways);
    let neighbours = [neighbour(&star.sites[0], "203.0.113.0/24")?, neighbour(&star.sites[1], "198.51.100.0/24")?];
    neighbours.iter().try_for_each(|n| n.wait_established(UP))?;
    let script = lab.directory().join("script");
    std::fs::write(&script, "announce 192.0.2.0/24 as-path 65001 65002\nannounce 198.18.0.0/24\neor ipv4\n")?;
    let mut feed = Replayer::dial(&lab, &star.sites[2], false, &["--script", &script.display().to_string()])?;
    for instance in &router.instances {
        wait_has(instance, &star.router, &["192.0.2.0", "198.18.0.0"], &[])?;
    }
    for ((neighbour, site), takes) in neighbours.iter().zip(&star.sites).zip(takes) {
        let has: &[&str] = if takes { &["198.18.0.0", "192.0.2.0"] } else { &["198.18.0.0"] };
        wait_has(neighbour, &site.ns, has, &[]).with_context(|| format!("at {}", site.v4))?;
    }
    router.wait_quiet(QUIET, SETTLE)?;
    for ((neighbour, site), takes) in neighbours.iter().zip(&star.sites).zip(takes) {
        let table = routes(neighbour, &site.ns, false)?;
        ensure!(table.contains("192.0.2.0") == takes, "at {}: {table}", site.v4);
    }
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_peer_that_takes_its_own_as_is_told_such_routes_and_another_is_not() -> Result<()> {
    let first = |text: String| text.replacen("asn = 65001\n", "asn = 65001\nallow_own_as = true\n", 1);
    own_as("own-as", first, [true, false])
}

#[test]
fn strangers_that_take_their_own_as_are_told_such_routes() -> Result<()> {
    let everybody = |text: String| {
        let before = text.split("[[peer]]").next().unwrap_or_default();
        before.replacen("[router]\n", "[router]\naccept_any = true\nallow_own_as = true\n", 1)
    };
    own_as("own-as-strangers", everybody, [true, true])
}
