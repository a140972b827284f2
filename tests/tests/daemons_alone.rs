//! Each daemon natively, without us: the harness's own check.

use anyhow::Result;
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, Lie, PeerSpec, RouterSpec};
use tests::lab::{Lab, wait_for};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};

const UP: Duration = Duration::from_secs(30);

fn both_sides(daemon: Daemon, neighbour: Daemon, v6: bool) -> Result<()> {
    let mut lab = Lab::new(&format!("{}-{}", daemon.name(), neighbour.name()))?;
    let star = lab.star(1)?;
    let site = &star.sites[0];
    let (theirs, ours) = site.addresses(v6);
    let network =
        if v6 { "2001:db8:77::/48" } else { "192.0.2.0/24" }.parse().map_err(|_| anyhow::anyhow!("prefix"))?;
    let router = RouterSpec {
        asn: 65000,
        router_id: [10, 255, 0, 1].into(),
        peers: vec![PeerSpec::new(theirs, ours, site.asn)],
        networks: vec![],
        lie: None,
        fib: false,
    };
    let outside = RouterSpec {
        asn: site.asn,
        router_id: [10, 255, 1, 1].into(),
        peers: vec![PeerSpec::new(ours, theirs, 65000)],
        networks: vec![network],
        lie: None,
        fib: false,
    };
    let mut one = Instance::start(&lab, &star.router, daemon, "router", &router, &Attach::Native)?;
    let two = Instance::start(&lab, &site.ns, neighbour, "outside", &outside, &Attach::Native)?;
    one.wait_established(UP)?;
    two.wait_established(UP)?;
    one.set_lie(Some(Lie { prefix: network, community: (65000, 666) }))?;
    one.set_lie(None)?;
    one.crash();
    tests::lab::wait_for("the neighbour to notice the crash", UP, || two.established().is_ok_and(|up| up.is_empty()))?;
    one.launch(&lab)?;
    two.wait_established(UP)?;
    lab.passed();
    Ok(())
}

#[test]
fn frr_with_bird_over_ipv4() -> Result<()> {
    both_sides(Daemon::Frr, Daemon::Bird, false)
}

#[test]
fn bird_with_openbgpd_over_ipv6() -> Result<()> {
    both_sides(Daemon::Bird, Daemon::OpenBgpd, true)
}

#[test]
fn openbgpd_with_frr_over_ipv6() -> Result<()> {
    both_sides(Daemon::OpenBgpd, Daemon::Frr, true)
}

/// Every kind of neighbour against a native BIRD: one session and a quiet log; a crash of the
/// router shows in that log.
fn neighbour(kind: Kind, v6: bool, passive: bool) -> Result<()> {
    let mut lab = Lab::new(&format!("alone-{}", kind.name()))?;
    let star = lab.star(1)?;
    let site = &star.sites[0];
    let (theirs, ours) = site.addresses(v6);
    let peer = PeerSpec { passive: !passive, ..PeerSpec::new(theirs, ours, site.asn) };
    let router = RouterSpec {
        asn: 65000,
        router_id: [10, 255, 0, 1].into(),
        peers: vec![peer],
        networks: vec![],
        lie: None,
        fib: false,
    };
    let networks = prefixes(&[if v6 { "2001:db8:1::/48" } else { "198.51.100.0/24" }])?;
    let spec = NeighbourSpec { router_asn: 65000, v6, passive, password: None, networks };
    let mut router = Instance::start(&lab, &star.router, Daemon::Bird, "router", &router, &Attach::Native)?;
    let outside = Neighbour::start(&lab, site, kind, &spec)?;
    outside.wait_established(UP)?;
    router.wait_established(UP)?;
    outside.check_quiet()?;
    router.stop();
    wait_for("the neighbour's log to show the loss", UP, || !outside.history().troubles.is_empty())?;
    lab.passed();
    Ok(())
}

#[test]
fn frr_dials_over_ipv4() -> Result<()> {
    neighbour(Kind::Daemon(Daemon::Frr), false, false)
}

#[test]
fn frr_listens_over_ipv6() -> Result<()> {
    neighbour(Kind::Daemon(Daemon::Frr), true, true)
}

#[test]
fn bird_dials_over_ipv4() -> Result<()> {
    neighbour(Kind::Daemon(Daemon::Bird), false, false)
}

#[test]
fn bird_listens_over_ipv6() -> Result<()> {
    neighbour(Kind::Daemon(Daemon::Bird), true, true)
}

#[test]
fn openbgpd_dials_over_ipv4() -> Result<()> {
    neighbour(Kind::Daemon(Daemon::OpenBgpd), false, false)
}

#[test]
fn openbgpd_listens_over_ipv6() -> Result<()> {
    neighbour(Kind::Daemon(Daemon::OpenBgpd), true, true)
}

#[test]
fn exabgp_dials_over_ipv4() -> Result<()> {
    neighbour(Kind::ExaBgp, false, false)
}

#[test]
fn exabgp_listens_over_ipv6() -> Result<()> {
    neighbour(Kind::ExaBgp, true, true)
}

#[test]
fn gobgp_dials_over_ipv4() -> Result<()> {
    neighbour(Kind::GoBgp, false, false)
}

#[test]
fn gobgp_listens_over_ipv6() -> Result<()> {
    neighbour(Kind::GoBgp, true, true)
}
