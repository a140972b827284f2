//! `open = "native"`: one daemon behind a transparent proxy is the same router as without it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use tests::daemons::{Attach, Daemon, Instance};
use tests::lab::{Lab, Site, Star, wait_for, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::operate::{control, cpu_ticks, routes, virtd_copy, virtd_script};
use tests::replayer::{Replayer, table};
use tests::router::{ASN, Options, Router};

const UP: Duration = Duration::from_secs(30);
/// How long the CPU time of an idle router is watched.
const WINDOW: Duration = Duration::from_secs(3);

fn options(daemon: Daemon) -> Options {
    Options { daemons: vec![daemon], open: "native", ..Options::default() }
}

/// The other two daemons.
fn others(daemon: Daemon) -> Vec<Daemon> {
    Daemon::ALL.into_iter().filter(|d| *d != daemon).collect()
}

/// Waits until an hv-replay has seen an event so many times.
fn wait_count(replayer: &Replayer, event: &str, times: usize) -> Result<()> {
    wait_for(&format!("{times} times {event} at {}", replayer.address()), UP, || replayer.count(event) >= times)
}

/// Waits until a neighbour has the prefix in its table.
fn wait_route(neighbour: &mut Neighbour, star: &Star, site: usize, prefix: &str, v6: bool) -> Result<()> {
    let instance = neighbour.instance().context("the neighbour is one of the three daemons")?;
    wait_until(&format!("{prefix} at {}", instance.name), UP, || {
        let found = routes(instance, &star.sites[site].ns, v6).map_err(|e| format!("{e:#}"))?;
        if found.contains(prefix) { Ok(()) } else { Err(found) }
    })
}

/// Waits until an hv-replay was told of the prefix for so many times.
fn wait_told(replayer: &Replayer, prefix: &str, times: usize) -> Result<()> {
    wait_for(&format!("{prefix} at {}", replayer.address()), UP, || {
        let announced = |e: &Value| e["event"] == "update" && e["announced"].to_string().contains(prefix);
        replayer.events().iter().filter(|e| announced(e)).count() >= times
    })
}

/// Sessions over both IP versions with hv-replay and with both other daemons: routes pass both
/// ways, a crash shows, a restart heals.
fn proxied(daemon: Daemon, dials: bool) -> Result<()> {
    let mut lab = Lab::new(&format!("native-{}", daemon.name()))?;
    let star = lab.star(3)?;
    let mut router = Router::start(&lab, &star, &Options { v6: true, passive: !dials, ..options(daemon) })?;
    let mut replayers = Vec::new();
    for (v6, line) in [(false, "announce 192.0.2.0/24\n"), (true, "announce 2001:db8:99::/48\n")] {
        let script = lab.directory().join(format!("script-{v6}"));
        std::fs::write(&script, line)?;
        let file = script.display().to_string();
        let arguments = ["--script", file.as_str(), "--reconnect", "--events-updates"];
        let site = &star.sites[0];
        let start = if dials { Replayer::listen } else { Replayer::dial };
        replayers.push(start(&lab, site, v6, &arguments)?);
    }
    let mut neighbours = Vec::new();
    for (site, (other, v6)) in others(daemon).into_iter().zip([false, true]).enumerate() {
        let networks = prefixes(&[if v6 { "2001:db8:1::/48" } else { "198.51.100.0/24" }])?;
        let spec = NeighbourSpec { router_asn: ASN, v6, passive: dials, password: None, networks };
        neighbours.push(Neighbour::start(&lab, &star.sites[site + 1], Kind::Daemon(other), &spec)?);
    }
    for round in 1..=2 {
        replayers.iter().try_for_each(|r| wait_count(r, "session-up", round))?;
        for neighbour in &neighbours {
            wait_for("the neighbour's session", UP, || neighbour.history().established >= round)?;
        }
        wait_route(&mut neighbours[0], &star, 1, "192.0.2.0/24", false)?;
        wait_route(&mut neighbours[1], &star, 2, "2001:db8:99::/48", true)?;
        wait_told(&replayers[0], "198.51.100.0/24", round)?;
        wait_told(&replayers[1], "2001:db8:1::/48", round)?;
        if round == 1 {
            router.instances[0].crash();
            replayers.iter().try_for_each(|r| wait_count(r, "session-down", 1))?;
            for neighbour in &mut neighbours {
                let instance = neighbour.instance().context("a daemon")?;
                wait_for("the neighbour to see the end", UP, || instance.established().is_ok_and(|up| up.is_empty()))?;
            }
            router.wait_state(daemon.name(), "absent", UP)?;
            ensure!(router.status()?.sessions_up == 0, "virtd still counts sessions");
            router.instances[0].launch(&lab)?;
        }
    }
    for (replayer, (prefix, v6)) in replayers.iter_mut().zip([("198.51.100.0/24", false), ("2001:db8:1::/48", true)]) {
        let learnt = table(&replayer.finish()?.table)?;
        let route = learnt.get(prefix).with_context(|| format!("{prefix} is not in {learnt:?}"))?;
        let own = star.sites[0].addresses(v6).1.to_string();
        ensure!(route["next_hop"] == own.as_str(), "the next hop is not the router's true address {own}: {route}");
    }
    lab.passed();
    Ok(())
}

#[test]
fn frr_dialling() -> Result<()> {
    proxied(Daemon::Frr, true)
}

#[test]
fn frr_listening() -> Result<()> {
    proxied(Daemon::Frr, false)
}

#[test]
fn bird_dialling() -> Result<()> {
    proxied(Daemon::Bird, true)
}

#[test]
fn bird_listening() -> Result<()> {
    proxied(Daemon::Bird, false)
}

#[test]
fn openbgpd_dialling() -> Result<()> {
    proxied(Daemon::OpenBgpd, true)
}

#[test]
fn openbgpd_listening() -> Result<()> {
    proxied(Daemon::OpenBgpd, false)
}

/// Upgrades in a row.
const UPGRADES: usize = 6;

/// How many prefixes an hv-replay was told.
fn told(replayer: &Replayer) -> usize {
    let updates = replayer.events().into_iter().filter(|e| e["event"] == "update");
    let prefixes = |e: Value| -> Vec<String> {
        let announced = e["announced"].as_array().into_iter().flatten();
        announced.flat_map(|a| a["prefixes"].as_array().cloned().unwrap_or_default()).map(|p| p.to_string()).collect()
    };
    updates.flat_map(prefixes).collect::<BTreeSet<String>>().len()
}

/// virtd's program is replaced while a table passes through it: neither the daemon nor a neighbour
/// notices, every octet arrives, and whoever comes later is served as before.
fn upgraded(daemon: Daemon, dials: bool) -> Result<()> {
    const ROUTES: usize = 20_000;
    let mut lab = Lab::new(&format!("native-upgrade-{}", daemon.name()))?;
    let star = lab.star(3)?;
    let router = Router::start(&lab, &star, &Options { passive: !dials, ..options(daemon) })?;
    let start = if dials { Replayer::listen } else { Replayer::dial };
    let watch = ["--monitor", "--events-updates"];
    let mut monitor = start(&lab, &star.sites[1], false, &watch)?;
    monitor.wait_event("session-up", UP)?;
    let generate = ["--generate", &ROUTES.to_string()];
    let mut feed = start(&lab, &star.sites[0], false, &generate)?;
    feed.wait_event("session-up", UP)?;
    let (tried, first) = (router.show(&["upgrade", "--dry-run"])?, router.worker());
    ensure!(tried.contains("2 sessions") && tried.contains("could take over"), "{tried}");
    for _ in 0..UPGRADES {
        let worker = router.worker();
        router.show(&["upgrade"])?;
        ensure!(router.worker() != worker, "the program is the same");
    }
    // One that has made its twin and dies before it serves: the former program goes on.
    let dies = virtd_copy(&lab, "dies")?.display().to_string();
    let text = format!("case \"$*\" in *--try*) exec $virtd \"$@\";; esac\nHV_TEST_DIES={dies} exec {dies} \"$@\"");
    let program = virtd_script(&lab, "program", &text)?.display().to_string();
    let refused = router.show(&["upgrade", "--to", &program]).err().context("a program that dies takes over")?;
    ensure!(format!("{refused:#}").contains("virtd goes on as"), "{refused:#}");
    ensure!(router.worker() != first && router.status()?.sessions_up == 2, "{:?}", router.status()?);
    let taken: Vec<String> = router.events("taken-over").iter().map(|e| e["text"].to_string()).collect();
    ensure!(taken.len() == UPGRADES + 1 && taken.iter().all(|t| t.contains("2 connections")), "{taken:?}");
    ensure!(router.events("not-taken-over").is_empty(), "{:?}", router.events("not-taken-over"));
    let mut late = start(&lab, &star.sites[2], false, &watch)?;
    late.wait_event("session-up", UP)?;
    ensure!(router.state_of(daemon.name())? != "absent", "virtd does not know the daemon any more");
    let mut all = [monitor, late, feed];
    for replayer in &all[..2] {
        wait_until("the table", UP * 4, || match told(replayer) {
            count if count >= ROUTES => Ok(()),
            count => Err(format!("{count} prefixes")),
        })?;
        ensure!(replayer.count("session-down") == 0, "{:?}", replayer.events());
    }
    for (n, outcome) in Replayer::finish_together(&mut all)?.into_iter().enumerate() {
        outcome.check_quiet()?;
        let learnt = table(&outcome.table)?.len();
        ensure!(n == 2 || learnt == ROUTES, "{learnt} of {ROUTES} routes at neighbour {n}");
    }
    drop(router);
    lab.passed();
    Ok(())
}

#[test]
fn frr_notices_no_upgrade() -> Result<()> {
    upgraded(Daemon::Frr, false)
}

#[test]
fn bird_notices_no_upgrade() -> Result<()> {
    upgraded(Daemon::Bird, true)
}

#[test]
fn openbgpd_notices_no_upgrade() -> Result<()> {
    upgraded(Daemon::OpenBgpd, false)
}

/// The octets of the OPEN that a dialling daemon sends, over IPv4 or IPv6, behind virtd or without.
fn open_octets(daemon: Daemon, v6: bool, behind: bool) -> Result<Vec<u8>> {
    let mut lab = Lab::new(&format!("open-{}-{behind}", daemon.name()))?;
    let star = lab.star(1)?;
    let site = &star.sites[0];
    let options = Options { v4: !v6, v6, passive: false, ..options(daemon) };
    let (own, routers) = site.addresses(v6);
    let listener = site.ns.enter(|| TcpListener::bind(SocketAddr::new(own, 179)))??;
    let router = behind.then(|| Router::start(&lab, &star, &options)).transpose()?;
    let alone = match behind {
        true => None,
        false => {
            let spec = options.spec(&star.sites);
            Some(Instance::start(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?)
        }
    };
    listener.set_nonblocking(true)?;
    let (mut stream, from) = wait_until("the daemon to dial", UP, || listener.accept().map_err(|e| e.to_string()))?;
    ensure!(from.ip() == routers, "it comes from {from}, not from {routers}");
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(UP))?;
    let mut message = vec![0; 19];
    stream.read_exact(&mut message).context("reading the header of its OPEN")?;
    let length = usize::from(u16::from_be_bytes([message[16], message[17]]));
    message.resize(length, 0);
    stream.read_exact(&mut message[19..]).context("reading its OPEN")?;
    drop((router, alone));
    lab.passed();
    Ok(message)
}

#[test]
fn the_open_is_the_daemons_own_byte_for_byte() -> Result<()> {
    for daemon in Daemon::ALL {
        for v6 in [false, true] {
            let (alone, behind) = (open_octets(daemon, v6, false)?, open_octets(daemon, v6, true)?);
            ensure!(alone == behind, "{}, IPv6 {v6}:\nalone  {alone:02x?}\nbehind {behind:02x?}", daemon.name());
        }
    }
    Ok(())
}

/// What a session negotiates with a daemon that listens, as hv-replay sees it.
fn negotiated(daemon: Daemon, behind: bool) -> Result<Value> {
    let mut lab = Lab::new(&format!("negotiated-{}-{behind}", daemon.name()))?;
    let star = lab.star(1)?;
    let options = options(daemon);
    let router = behind.then(|| Router::start(&lab, &star, &options)).transpose()?;
    let alone = match behind {
        true => None,
        false => {
            let spec = options.spec(&star.sites);
            Some(Instance::start(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?)
        }
    };
    let mut replayer = Replayer::dial(&lab, &star.sites[0], false, &["--monitor", "--graceful-restart"])?;
    replayer.wait_event("session-up", UP)?;
    let events = replayer.events();
    let up = events.iter().find(|e| e["event"] == "session-up").context("session-up")?;
    let found = serde_json::json!([up["open"], up["negotiated"]]);
    drop((router, alone));
    lab.passed();
    Ok(found)
}

#[test]
fn what_is_negotiated_is_what_the_daemon_alone_negotiates() -> Result<()> {
    for daemon in Daemon::ALL {
        let (alone, behind) = (negotiated(daemon, false)?, negotiated(daemon, true)?);
        ensure!(alone[0].is_object() && alone == behind, "{}:\nalone  {alone}\nbehind {behind}", daemon.name());
    }
    Ok(())
}

/// With the key there is a session; without it there is none where the daemon alone allows none
/// either.
fn md5(daemon: Daemon, behind: bool) -> Result<bool> {
    let mut lab = Lab::new(&format!("native-md5-{}", daemon.name()))?;
    let star = lab.star(2)?;
    let options = Options { password: Some("a-shared-secret".to_owned()), passive: false, ..options(daemon) };
    let mut right = Replayer::listen(&lab, &star.sites[0], false, &["--monitor", "--md5", "a-shared-secret"])?;
    let mut wrong = Replayer::listen(&lab, &star.sites[1], false, &["--monitor"])?;
    wrong.wait_event("listening", UP)?;
    right.wait_event("listening", UP)?;
    let router = behind.then(|| Router::start(&lab, &star, &options)).transpose()?;
    let alone = match behind {
        true => None,
        false => {
            let spec = options.spec(&star.sites);
            Some(Instance::start(&lab, &star.router, daemon, daemon.name(), &spec, &Attach::Native)?)
        }
    };
    right.wait_event("session-up", UP)?;
    let open_to_all = wrong.count("session-up") > 0;
    right.finish()?.check_quiet()?;
    drop((router, alone));
    lab.passed();
    Ok(open_to_all)
}

#[test]
fn md5_passes_through() -> Result<()> {
    for daemon in Daemon::ALL {
        ensure!(!md5(daemon, false)? && !md5(daemon, true)?, "{}: a session without the key", daemon.name());
    }
    Ok(())
}

/// OpenBGPD is not among them: alone on Linux it sets no key on its listening socket, and behind
/// virtd neither.
#[test]
fn md5_of_a_listening_daemon_guards_the_real_port() -> Result<()> {
    for daemon in [Daemon::Frr, Daemon::Bird] {
        let mut lab = Lab::new(&format!("native-md5-{}", daemon.name()))?;
        let star = lab.star(2)?;
        let password = Some("a-shared-secret".to_owned());
        let router = Router::start(&lab, &star, &Options { password, ..options(daemon) })?;
        let mut wrong = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
        let mut right = Replayer::dial(&lab, &star.sites[0], false, &["--monitor", "--md5", "a-shared-secret"])?;
        right.wait_event("session-up", UP)?;
        ensure!(wrong.count("session-up") == 0 && wrong.running(), "a session without the key: {:?}", wrong.events());
        // The key outlasts an upgrade, for the session that there is and for the next one.
        router.show(&["upgrade"])?;
        ensure!(right.count("session-down") == 0, "{:?}", right.events());
        right.finish()?.check_quiet()?;
        let mut again = Replayer::dial(&lab, &star.sites[0], false, &["--monitor", "--md5", "a-shared-secret"])?;
        again.wait_event("session-up", UP)?;
        ensure!(wrong.count("session-up") == 0 && wrong.running(), "a session without the key: {:?}", wrong.events());
        again.finish()?.check_quiet()?;
        drop(router);
        lab.passed();
    }
    Ok(())
}

/// With ttl-security a neighbour whose packets may have come from afar gets no session (RFC 5082).
#[test]
fn ttl_security_reaches_the_real_socket() -> Result<()> {
    let mut lab = Lab::new("native-gtsm")?;
    let star = lab.star(2)?;
    let router = Router::start(&lab, &star, &options(Daemon::Frr))?;
    let lines = star.sites.iter().map(|s| format!("\nneighbor {} ttl-security hops 1", s.v4)).collect::<String>();
    let frr = &router.instances[0];
    control(frr, &star.router, &format!("configure terminal\nrouter bgp {ASN}{lines}"))?;
    star.sites[0].ns.run("sysctl", &["-qw", "net.ipv4.ip_default_ttl=255"])?;
    // The kernel lets in what came before the daemon has set the option: an OPEN perhaps, but never
    // a session.
    let announce = |number: u8, prefix: &str, site: &Site| {
        let script = lab.directory().join(format!("script{number}"));
        std::fs::write(&script, format!("announce {prefix}\n"))?;
        Replayer::dial(&lab, site, false, &["--script", &script.display().to_string()])
    };
    let far = announce(2, "203.0.113.0/24", &star.sites[1])?;
    wait_for("the far one's connection", UP, || {
        far.count("session-up") > 0 || router.status().is_ok_and(|s| s.sessions_up > 0)
    })?;
    let mut near = announce(1, "198.51.100.0/24", &star.sites[0])?;
    wait_until("the near one's route", UP, || {
        let found = routes(frr, &star.router, false).map_err(|e| format!("{e:#}"))?;
        if found.contains("198.51.100.0") { Ok(()) } else { Err(found) }
    })?;
    ensure!(!frr.established()?.contains(&star.sites[1].v4.into()), "a session with TTL 64");
    ensure!(!routes(frr, &star.router, false)?.contains("203.0.113.0"), "a route with TTL 64");
    near.finish()?.check_quiet()?;
    drop(router);
    lab.passed();
    Ok(())
}

/// Nobody answers at the neighbour's: the daemon learns why, tries again, and nothing spins.
fn refused(daemon: Daemon) -> Result<()> {
    let mut lab = Lab::new(&format!("refused-{}", daemon.name()))?;
    let star = lab.star(1)?;
    let router = Router::start(&lab, &star, &Options { passive: false, ..options(daemon) })?;
    if daemon == Daemon::Frr {
        control(&router.instances[0], &star.router, "debug bgp neighbor-events")?;
    }
    let log = match daemon {
        Daemon::Frr => router.instances[0].folder().join("frr.log"),
        Daemon::Bird => router.instances[0].folder().join("bird.log"),
        Daemon::OpenBgpd => lab.directory().join("openbgpd.log"),
    };
    let said = || {
        let text = std::fs::read(&log).unwrap_or_default();
        String::from_utf8_lossy(&text).matches("Connection refused").count()
    };
    // OpenBGPD makes two tries and then a long pause, alone too.
    let tries = if daemon == Daemon::OpenBgpd { 2 } else { 3 };
    wait_for("the daemon to say that the connection was refused", UP, || said() >= tries)?;
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    ensure!(!text.contains("already in use"), "the port of the daemon's own socket was taken twice:\n{text}");
    // What it costs while nothing happens can only be seen over a while.
    let (before, ticks, start) = (said(), cpu_ticks(&star.router), Instant::now());
    std::thread::sleep(WINDOW);
    let (took, used) = (start.elapsed(), cpu_ticks(&star.router).saturating_sub(ticks));
    ensure!(said() <= before + 8, "{} tries within {took:?}", said() - before);
    let share = Duration::from_millis(used * 10).as_secs_f32() / took.as_secs_f32();
    ensure!(share < 0.5, "{share} of a CPU while nothing happens");
    lab.passed();
    Ok(())
}

#[test]
fn frr_is_told_of_a_refused_connection() -> Result<()> {
    refused(Daemon::Frr)
}

#[test]
fn bird_is_told_of_a_refused_connection() -> Result<()> {
    refused(Daemon::Bird)
}

#[test]
fn openbgpd_is_told_of_a_refused_connection() -> Result<()> {
    refused(Daemon::OpenBgpd)
}
