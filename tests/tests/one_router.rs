//! Three daemons, one router: what neighbours see.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, Lie};
use tests::lab::{Lab, real_data};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::replayer::{Replayer, differences, table};
use tests::router::{ASN, Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(90);
/// Longer than T: what disagrees has shown itself by then.
const QUIET: Duration = Duration::from_secs(4);

/// One session, no NOTIFICATION, no reconnect, for this neighbour, with an instance's crash and
/// return in between.
fn sees_nothing_unusual(kind: Kind, v6: bool, passive: bool) -> Result<()> {
    let mut lab = Lab::new(&format!("outside-{}", kind.name()))?;
    let star = lab.star(1)?;
    let options = Options { v4: !v6, v6, passive: !passive, ..Options::default() };
    let mut router = Router::start(&lab, &star, &options)?;
    let networks = prefixes(&[if v6 { "2001:db8:1::/48" } else { "198.51.100.0/24" }])?;
    let spec = NeighbourSpec { router_asn: ASN, v6, passive, password: None, networks };
    let neighbour = Neighbour::start(&lab, &star.sites[0], kind, &spec)?;
    neighbour.wait_established(UP)?;
    router.wait_voting(UP)?;
    for name in ["frr", "bird", "openbgpd"] {
        router.instance(name)?.crash();
        router.wait_state(name, "absent", UP)?;
        router.instance(name)?.launch(&lab)?;
        router.wait_state(name, "voting", SETTLE)?;
    }
    neighbour.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn frr_dialling_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::Daemon(Daemon::Frr), false, false)
}

#[test]
fn frr_listening_over_ipv6_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::Daemon(Daemon::Frr), true, true)
}

#[test]
fn bird_dialling_over_ipv6_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::Daemon(Daemon::Bird), true, false)
}

#[test]
fn bird_listening_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::Daemon(Daemon::Bird), false, true)
}

#[test]
fn openbgpd_dialling_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::Daemon(Daemon::OpenBgpd), false, false)
}

#[test]
fn openbgpd_listening_over_ipv6_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::Daemon(Daemon::OpenBgpd), true, true)
}

#[test]
fn exabgp_dialling_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::ExaBgp, false, false)
}

#[test]
fn exabgp_listening_over_ipv6_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::ExaBgp, true, true)
}

#[test]
fn gobgp_dialling_over_ipv6_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::GoBgp, true, false)
}

#[test]
fn gobgp_listening_sees_nothing_unusual() -> Result<()> {
    sees_nothing_unusual(Kind::GoBgp, false, true)
}

/// Plays a file from one neighbour and returns the table that another one learned: of the router,
/// or of one daemon alone.
fn learned(lab: &mut Lab, file: &Path, daemon: Option<Daemon>) -> Result<PathBuf> {
    let star = lab.star(2)?;
    let options = Options::default();
    let (router, alone) = match daemon {
        None => (Some(Router::start(lab, &star, &options)?), None),
        Some(daemon) => {
            let spec = options.spec(&star.sites);
            (None, Some(Instance::start(lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?))
        }
    };
    let mut monitor = Replayer::dial(lab, &star.sites[1], false, &["--monitor", "--exit-after-idle", "12s"])?;
    monitor.wait_event("session-up", UP)?;
    let file = file.display().to_string();
    let mut feed = Replayer::dial(lab, &star.sites[0], false, &["--mrt", &file, "--replace-first-as"])?;
    feed.wait_event("feed-done", SETTLE)?;
    let outcome = monitor.wait(SETTLE)?;
    outcome.check_quiet()?;
    feed.finish()?.check_quiet()?;
    drop((router, alone));
    Ok(outcome.table)
}

#[test]
fn the_routes_of_a_real_update_file_are_those_of_each_daemon_alone() -> Result<()> {
    let Some(file) = real_data("updates.20190101.0000.gz") else { return Ok(()) };
    let mut whole = Lab::new("one-router")?;
    let together = learned(&mut whole, &file, None)?;
    ensure!(table(&together)?.len() > 18_000, "only {} routes came through", table(&together)?.len());
    for daemon in Daemon::ALL {
        let mut lab = Lab::new(&format!("alone-{}", daemon.name()))?;
        let alone = learned(&mut lab, &file, Some(daemon))?;
        let found = differences(&together, &alone)?;
        ensure!(found.routes.is_empty(), "the router and {} alone differ:\n{}", daemon.name(), found.routes.join("\n"));
        lab.passed();
    }
    whole.passed();
    Ok(())
}

#[test]
fn a_lie_of_one_daemon_stays_inside() -> Result<()> {
    let mut lab = Lab::new("lie")?;
    let star = lab.star(2)?;
    let mut router = Router::start(&lab, &star, &Options::default())?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    let networks = prefixes(&["198.51.100.0/24", "203.0.113.0/24"])?;
    let lie = Lie { prefix: networks[0], community: (65000, 666) };
    let spec = NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks };
    let neighbour = Neighbour::start(&lab, &star.sites[0], Kind::ExaBgp, &spec)?;
    neighbour.wait_established(UP)?;
    monitor.wait_event("update", UP)?;
    router.wait_voting(UP)?;
    ensure!(router.wait_quiet(QUIET, SETTLE)? == 0, "they disagree without a lie");
    let told = monitor.count("update");
    for name in ["frr", "bird", "openbgpd"] {
        router.instance(name)?.set_lie(Some(lie))?;
        tests::lab::wait_for("virtd to see the lie", SETTLE, || {
            router.status().is_ok_and(|s| s.disagreements_now > 0)
        })?;
        router.instance(name)?.set_lie(None)?;
        router.wait_agreement(0, SETTLE)?;
    }
    router.wait_quiet(QUIET, SETTLE)?;
    ensure!(monitor.count("update") == told, "the monitor was told something: {:?}", monitor.events());
    monitor.finish()?.check_quiet()?;
    neighbour.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_frozen_daemon_costs_the_others_nothing() -> Result<()> {
    let mut lab = Lab::new("frozen")?;
    let star = lab.star(2)?;
    let mut router = Router::start(&lab, &star, &Options::default())?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--until-routes", "2000"])?;
    monitor.wait_event("session-up", UP)?;
    router.wait_voting(UP)?;
    router.instance("openbgpd")?.freeze(true)?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "2000"])?;
    let outcome = monitor.wait(UP)?;
    outcome.check_quiet()?;
    ensure!(outcome.routes()?.len() == 2000, "{} routes instead of 2000", outcome.routes()?.len());
    router.instance("openbgpd")?.freeze(false)?;
    router.wait_state("openbgpd", "voting", SETTLE)?;
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn md5_on_every_session() -> Result<()> {
    let mut lab = Lab::new("md5")?;
    let star = lab.star(1)?;
    let password = Some("a-shared-secret".to_owned());
    let options = Options { password: password.clone(), ..Options::default() };
    let router = Router::start(&lab, &star, &options)?;
    let spec = NeighbourSpec {
        router_asn: ASN,
        v6: false,
        passive: false,
        password,
        networks: prefixes(&["198.51.100.0/24"])?,
    };
    let neighbour = Neighbour::start(&lab, &star.sites[0], Kind::Daemon(Daemon::Bird), &spec)?;
    neighbour.wait_established(UP)?;
    router.wait_voting(UP)?;
    neighbour.check_quiet()?;
    lab.passed();
    Ok(())
}
