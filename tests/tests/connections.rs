//! Which connection with a neighbour is kept, which is begun anew and which is given up, with real
//! daemons on both sides.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tests::daemons::{Attach, Daemon, Instance, PeerSpec, RouterSpec};
use tests::lab::{Lab, Star, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec};
use tests::odd::{KEEPALIVE, OPEN, message};
use tests::operate::control;
use tests::raw::{Raw, open};
use tests::replayer::Replayer;
use tests::router::{ASN, Options, Router};
use virtd_api::Sessions;

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(60);

/// A BGP speaker of its own at the star's first site.
fn neighbour(lab: &Lab, star: &Star, daemon: Daemon, passive: bool) -> Result<Neighbour> {
    let spec = NeighbourSpec { router_asn: ASN, v6: false, passive, password: None, networks: Vec::new() };
    Neighbour::start(lab, &star.sites[0], Kind::Daemon(daemon), &spec)
}

#[test]
fn of_a_neighbours_connections_the_newer_wins_until_one_is_established() -> Result<()> {
    let mut lab = Lab::new("newer")?;
    let star = lab.star(1)?;
    let router = Router::start(&lab, &star, &Options::default())?;
    let site = &star.sites[0];
    let mut silent = Raw::connect(site)?;
    silent.expect(OPEN)?;
    // Goes as far as OpenConfirm, as the router sees it.
    let mut old = Raw::connect(site)?;
    old.send(&open(4, site.asn, 90, [10, 255, 1, 9]))?;
    old.expect(OPEN)?;
    silent.expect_notification(6, 7).context("on the oldest")?;
    old.expect(KEEPALIVE)?;
    // With another router id: what the instances were shown is void.
    let neighbour = neighbour(&lab, &star, Daemon::Bird, false)?;
    old.expect_notification(6, 7).context("on the older")?;
    neighbour.wait_established(UP)?;
    router.wait_joined("10.0.1.2", UP)?;
    let mut intruder = Raw::connect(site)?;
    intruder.expect_notification(6, 7).context("on one beside the established")?;
    router.wait_quiet(Duration::from_secs(2), SETTLE)?;
    neighbour.check_quiet()?;
    ensure!(router.events("session-up").len() == 1, "{:?}", router.events("session-up"));
    lab.passed();
    Ok(())
}

#[test]
fn a_dial_without_an_answer_is_begun_anew_when_a_daemon_tries_again() -> Result<()> {
    let mut lab = Lab::new("dial-anew")?;
    let star = lab.star(1)?;
    let site = &star.sites[0];
    let router_address = format!("{}/32", site.router_v4);
    // The neighbour hears of each SYN and cannot answer: there is no RST, and no ICMP.
    site.ns.run("ip", &["route", "add", "blackhole", &router_address])?;
    let neighbour = neighbour(&lab, &star, Daemon::Frr, true)?;
    let router = Router::start(&lab, &star, &Options { passive: false, ..Options::default() })?;
    wait_until("all to dial", UP, || {
        let Sessions { sessions } = router.ctl(&["sessions"]).map_err(|e| format!("{e:#}"))?;
        let legs = || sessions.iter().flat_map(|s| &s.legs);
        let dialling = legs().filter(|l| l.state == "Connect").count();
        if dialling == router.instances.len() { Ok(()) } else { Err(format!("{sessions:?}")) }
    })?;
    let mut dialled_from = BTreeSet::new();
    wait_until("a second dial", SETTLE, || {
        let destination = site.v4.to_string();
        let dials = router.ns().run("ss", &["-Htn", "state", "syn-sent", "dst", &destination]);
        let dials = dials.map_err(|e| format!("{e:#}"))?;
        dialled_from.extend(dials.lines().filter_map(|l| l.split_whitespace().nth(2)).map(str::to_owned));
        if dialled_from.len() > 1 { Ok(()) } else { Err(format!("{dialled_from:?}")) }
    })?;
    site.ns.run("ip", &["route", "del", "blackhole", &router_address])?;
    let from = Instant::now();
    neighbour.wait_established(UP)?;
    println!("the session stood {} ms after the neighbour could answer", from.elapsed().as_millis());
    router.wait_joined("10.0.1.2", UP)?;
    neighbour.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn a_neighbours_hold_time_that_ends_is_what_every_daemon_hears() -> Result<()> {
    let mut lab = Lab::new("hold")?;
    let star = lab.star(1)?;
    let router = Router::start(&lab, &star, &Options::default())?;
    let site = &star.sites[0];
    let spec = RouterSpec {
        asn: site.asn,
        router_id: site.v4,
        peers: vec![PeerSpec { hold_time_s: Some(9), ..PeerSpec::new(site.router_v4.into(), site.v4.into(), ASN) }],
        networks: Vec::new(),
        lie: None,
        fib: false,
    };
    let neighbour = Instance::start(&lab, &site.ns, Daemon::Bird, "neighbour", &spec, &Attach::Native)?;
    neighbour.wait_established(UP)?;
    router.wait_joined("10.0.1.2", UP)?;
    neighbour.freeze(true)?;
    for instance in &router.instances {
        let (log, words) = match instance.daemon {
            Daemon::Frr => (None, "notification received (hold timer expired)"),
            Daemon::Bird => (Some(instance.folder().join("bird.log")), "received: hold timer expired"),
            Daemon::OpenBgpd => {
                (Some(lab.directory().join("openbgpd.log")), "received notification: holdtimer expired")
            }
        };
        wait_until(&format!("{} to hear of 4/0", instance.name), SETTLE, || {
            let text = match &log {
                Some(path) => std::fs::read_to_string(path).map_err(|e| e.to_string()),
                None => control(instance, &star.router, "show bgp neighbors").map_err(|e| format!("{e:#}")),
            }?;
            if text.to_lowercase().contains(words) { Ok(()) } else { Err(text) }
        })?;
    }
    neighbour.freeze(false)?;
    neighbour.wait_established(SETTLE)?;
    lab.passed();
    Ok(())
}

/// RFC 9687. TCP's own timers do not end it: the neighbour's kernel answers each probe.
#[test]
#[ignore = "the send hold time is eight minutes"]
fn a_neighbour_that_reads_nothing_is_given_up_when_the_send_hold_time_ends() -> Result<()> {
    const SEND_HOLD: Duration = Duration::from_secs(480);
    let mut lab = Lab::new("send-hold")?;
    let star = lab.star(2)?;
    let router = Router::start(&lab, &star, &Options { daemons: vec![Daemon::Bird], ..Options::default() })?;
    // Little room, so that the table does not fit.
    star.sites[0].ns.run("sysctl", &["-w", "net.ipv4.tcp_rmem=4096 8192 8192"])?;
    let mut deaf = Raw::establish(&star.sites[0], 90)?;
    let mut feed = Replayer::dial(&lab, &star.sites[1], false, &["--generate", "200000"])?;
    feed.wait_event("feed-done", SETTLE)?;
    let mut spoken = Instant::now();
    wait_until("the end of the deaf one's session", SEND_HOLD + SETTLE, || {
        if spoken.elapsed() > Duration::from_secs(20) {
            spoken = Instant::now();
            deaf.send(&message(KEEPALIVE, &[])).map_err(|e| format!("{e:#}"))?;
        }
        let ends = router.events("session-down");
        match ends.first() {
            Some(end) if end["session"] == "10.0.1.2" => Ok(()),
            _ => Err(format!("{ends:?}")),
        }
    })?;
    let ends = router.events("session-down");
    let text = ends.iter().map(|e| e["text"].to_string()).collect::<String>();
    ensure!(ends.len() == 1 && text.contains("send hold time expired"), "{text}");
    feed.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
