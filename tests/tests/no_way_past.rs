//! No way past virtd: peers on ports of their own, connections to other ports of a peer, a daemon
//! without the shim, daemons that were there before virtd.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tests::daemons::{Attach, Daemon, Instance, PeerSpec, RouterSpec, Shim, Wrapper};
use tests::lab::{Lab, Site, built, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(60);
/// virtd looks every 10 s.
const LOOK: Duration = Duration::from_secs(60);
/// Where the first neighbour listens.
const PORT: u16 = 1790;
/// Where the second listens once virtd knows.
const LATER_PORT: u16 = 1791;
/// An RPKI cache's port.
const CACHE_PORT: u16 = 3323;

/// The daemons dial the first two neighbours on ports of their own.
fn on_their_ports(_: &str, spec: &mut RouterSpec) {
    for (peer, port) in spec.peers.iter_mut().zip([PORT, LATER_PORT]) {
        peer.port = Some(port);
    }
}

fn dialling() -> Options {
    Options { passive: false, ..Options::default() }
}

/// Adds `lines` to the section of a neighbour.
fn in_peer(text: &str, site: &Site, lines: &str) -> String {
    let address = format!("address = \"{}\"\n", site.v4);
    text.replace(&address, &format!("{address}{lines}\n"))
}

/// TCP connections of the router's to an address and port, in any state but TIME-WAIT.
fn connections(router: &Router, to: SocketAddr) -> Result<usize> {
    let all = router.ns().run("ss", &["-Htn", "dst", &to.to_string()])?;
    Ok(all.lines().filter(|l| !l.starts_with("TIME-WAIT")).count())
}

#[test]
fn a_peer_is_dialled_on_its_own_port_and_on_no_other() -> Result<()> {
    let mut lab = Lab::new("ports")?;
    let star = lab.star(3)?;
    let [first, second, third] = &star.sites[..] else { anyhow::bail!("three sites") };
    let options = Options { tune: on_their_ports, ..dialling() };
    let mut one = Replayer::listen_on(&lab, first, false, PORT, &["--generate", "5"])?;
    let mut two = Replayer::listen_on(&lab, second, false, LATER_PORT, &["--monitor"])?;
    let mut three = Replayer::listen(&lab, third, false, &["--monitor"])?;
    // The second one's port is not known yet.
    let mut router = Router::with_toml(&lab, &star, &options, |text| in_peer(&text, first, &format!("port = {PORT}")))?;
    router.launch(&lab, &star, &options)?;
    router.wait_joined(&first.v4.to_string(), UP)?;
    router.wait_joined(&third.v4.to_string(), UP)?;
    let at = SocketAddr::new(first.v4.into(), PORT);
    ensure!(connections(&router, at)? == 1, "more than virtd's own connection to {at}");
    wait_until("all three to be refused the second one's port", UP, || {
        let refused = router.events("connect-refused");
        let of = |i: &Instance| refused.iter().filter(|e| e["instance"] == i.name.as_str()).count();
        if router.instances.iter().all(|i| of(i) == 1) { Ok(()) } else { Err(format!("{refused:?}")) }
    })?;
    let at = SocketAddr::new(second.v4.into(), LATER_PORT);
    ensure!(connections(&router, at)? == 0 && two.count("session-up") == 0, "somebody went past virtd to {at}");
    let log = fs::read_to_string(lab.directory().join("bird.log"))?;
    let told = format!("libhvlibc: bird may not connect to port {LATER_PORT} of the peer {}", second.v4);
    ensure!(log.contains(&told), "no line on BIRD's stderr:\n{log}");
    // The running daemons learn of the port with their next attempt.
    router.edit_toml(|text| in_peer(&text, second, &format!("port = {LATER_PORT}")))?;
    router.show(&["reload"])?;
    router.wait_joined(&second.v4.to_string(), UP)?;
    two.wait_event("session-up", UP)?;
    ensure!(connections(&router, at)? == 1, "more than virtd's own connection to {at}");
    wait_until("the routes to be passed on", UP, || match router.prefixes_out(&second.v4.to_string()) {
        Ok(5) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(router.events("native-bgp").is_empty(), "an alarm about virtd's own");
    for replayer in [&mut one, &mut two, &mut three] {
        replayer.finish()?.check_quiet()?;
    }
    lab.passed();
    Ok(())
}

/// BIRD's RPKI client connects to the first neighbour's address.
fn with_a_cache(configuration: String) -> String {
    let neighbour = configuration.lines().find_map(|l| l.trim().strip_prefix("neighbor "));
    let address = neighbour.and_then(|l| l.split_whitespace().next()).unwrap_or_default().to_owned();
    format!(
        "{configuration}\nroa4 table roas;\nprotocol rpki cache {{\n    roa4 {{ table roas; }};\n    \
         remote {address} port {CACHE_PORT};\n    retry 1;\n}}\n"
    )
}

#[test]
fn what_is_no_bgp_session_goes_past_where_the_port_is_listed() -> Result<()> {
    let mut lab = Lab::new("native-ports")?;
    let star = lab.star(1)?;
    let site = &star.sites[0];
    let wrapper = Wrapper { configuration: with_a_cache, ..Wrapper::default() };
    let options = Options { daemons: vec![Daemon::Bird], wrappers: vec![wrapper], ..dialling() };
    let cache = site.ns.enter(|| TcpListener::bind((site.v4, CACHE_PORT)))?.context("the cache")?;
    cache.set_nonblocking(true)?;
    let mut peer = Replayer::listen(&lab, site, false, &["--monitor"])?;
    let router = Router::start(&lab, &star, &options)?;
    peer.wait_event("session-up", UP)?;
    wait_until("the cache's port to be refused", UP, || {
        if router.events("connect-refused").is_empty() { Err("nothing is told".to_owned()) } else { Ok(()) }
    })?;
    ensure!(cache.accept().is_err(), "BIRD went past virtd");
    router.edit_toml(|text| text.replace("[router]\n", &format!("[router]\nnative_ports = [{CACHE_PORT}]\n")))?;
    router.show(&["reload"])?;
    wait_until("BIRD to reach its cache", UP, || cache.accept().map_err(|e| e.to_string()))?;
    ensure!(router.events("native-bgp").is_empty(), "an alarm about a port that is listed");
    peer.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// virtd has the BGP port, and BIRD dials nobody where it cannot listen.
fn on_a_free_port(configuration: String) -> String {
    configuration.replace(" as 65000;", " port 1790 as 65000;")
}

#[test]
fn a_daemon_without_the_shim_is_an_alarm_told_once() -> Result<()> {
    let mut lab = Lab::new("strays")?;
    let star = lab.star(2)?;
    let options = Options { daemons: vec![Daemon::Bird], ..dialling() };
    let mut peer = Replayer::listen(&lab, &star.sites[0], false, &["--monitor"])?;
    let other = star.sites[1].ns.enter(|| TcpListener::bind((star.sites[1].v4, 179)))?.context("the other")?;
    let mut router = Router::without_instances(&lab, &star, &options)?;
    // The dynamic loader warns of a library that is not there, and starts the daemon without it.
    let shim = Shim { library: "/nonexistent/libhvlibc.so".into(), ..router.shim()? };
    let spec = options.spec_of("bird", &star.sites);
    let around = (None, Wrapper { configuration: on_a_free_port, ..Wrapper::default() });
    let attach = Attach::Shim(shim);
    let bird = Instance::start_wrapped(&lab, router.ns(), Daemon::Bird, "bird", &spec, &attach, around)?;
    router.instances.push(bird);
    peer.wait_event("session-up", UP)?;
    let site = star.sites[0].v4.to_string();
    let about = |router: &Router| -> Vec<String> {
        let alarms = router.events("native-bgp").into_iter().filter(|e| e["session"] == site.as_str());
        alarms.filter(|e| e["instance"] == "bird").map(|e| e["text"].to_string()).collect()
    };
    let told = wait_until("the alarm", LOOK, || about(&router).pop().ok_or_else(|| "there is none".to_owned()))?;
    ensure!(router.status()?.native_bgp.is_some_and(|n| n > 0), "{:?}", router.status()?.native_bgp);
    ensure!(told.contains("bird (process ") && told.contains("LD_PRELOAD must name libhvlibc.so"), "{told}");
    // One that nobody meant to be an instance; when it has been found, it has been looked once
    // more.
    let to = SocketAddr::new(star.sites[1].v4.into(), 179);
    let stray = router.ns().enter(|| TcpStream::connect(to))?.context("the stray")?;
    let from = stray.local_addr()?.to_string();
    wait_until("its alarm", LOOK, || {
        let all = router.events("native-bgp");
        if all.iter().any(|e| e["text"].to_string().contains(&from)) { Ok(()) } else { Err(format!("{all:?}")) }
    })?;
    ensure!(about(&router).len() == 1, "told again and again: {:?}", about(&router));
    drop((stray, other));
    router.instance("bird")?.stop();
    peer.finish()?;
    lab.passed();
    Ok(())
}

/// What virtd is asked for before it is there.
fn early(lab: &Lab) -> Result<Attach> {
    Ok(Attach::Shim(Shim { library: built("libhvlibc.so")?, socket: lab.folder("virtd")?.join("hv.sock") }))
}

fn check_line(lab: &Lab, daemon: &str) -> Result<()> {
    let log = fs::read_to_string(lab.directory().join(format!("{daemon}.log")))?;
    ensure!(log.contains("libhvlibc: virtd does not answer at "), "no line of {daemon}:\n{log}");
    Ok(())
}

/// A daemon waits for virtd, whether it only listens or dials too; by the time virtd comes it has
/// become this user.
fn is_served_later(daemon: Daemon, user: &str, password: Option<&str>) -> Result<()> {
    let name = daemon.name();
    for passive in [true, false] {
        let mut lab = Lab::new(&format!("early-{name}"))?;
        let star = lab.star(1)?;
        let site = &star.sites[0];
        let options = Options { daemons: vec![daemon], passive, password: password.map(Into::into), ..dialling() };
        let spec = options.spec_of(name, &star.sites);
        let instance = Instance::start(&lab, &star.router, daemon, name, &spec, &early(&lab)?)?;
        check_line(&lab, name)?;
        let native = star.router.run("ss", &["-Htnl", "sport", "=", ":179"])?;
        ensure!(native.is_empty(), "somebody listens without virtd: {native}");
        let named = format!("name = \"{name}\"\n");
        let with_user = |text: String| text.replace(&named, &format!("{named}user = \"{user}\"\n"));
        let mut router = Router::with_toml(&lab, &star, &options, with_user)?;
        router.instances.push(instance);
        let mut arguments = vec!["--generate", "3"];
        arguments.extend(password.iter().flat_map(|password| ["--md5", password]));
        let replayer = if passive { Replayer::dial } else { Replayer::listen };
        let mut peer = replayer(&lab, site, false, &arguments)?;
        peer.wait_event("session-up", UP)?;
        router.wait_joined(&site.v4.to_string(), UP)?;
        router.wait_voting(UP)?;
        ensure!(router.instance(name)?.running(), "{name} has ended");
        peer.finish()?.check_quiet()?;
        // It says so a few times a second, and does not spin.
        let log = fs::read_to_string(lab.directory().join(format!("{name}.log")))?;
        ensure!(!log.contains("accept: Invalid argument"), "{log}");
        lab.passed();
    }
    Ok(())
}

#[test]
fn frr_that_was_there_before_virtd_is_served_when_it_comes() -> Result<()> {
    is_served_later(Daemon::Frr, "frr", Some("secret"))
}

/// Its session engine, which gets the listening socket from its parent, is in another root by then,
/// where virtd's path does not exist.
#[test]
fn openbgpd_that_was_there_before_virtd_is_served_when_it_comes() -> Result<()> {
    is_served_later(Daemon::OpenBgpd, "_openbgpd", None)
}

/// BIRD cannot be without a route socket, and nobody knows yet whether virtd votes on those: it
/// ends, never native, and its service manager starts it again.
#[test]
fn bird_that_was_there_before_virtd_ends_and_is_served_when_both_are_back() -> Result<()> {
    let mut lab = Lab::new("early-bird")?;
    let star = lab.star(1)?;
    let options = Options { daemons: vec![Daemon::Bird], ..dialling() };
    let spec = options.spec_of("bird", &star.sites);
    let mut peer = Replayer::listen(&lab, &star.sites[0], false, &["--generate", "3"])?;
    let bird = Instance::start(&lab, &star.router, Daemon::Bird, "bird", &spec, &early(&lab)?);
    ensure!(bird.is_err(), "BIRD runs without virtd");
    check_line(&lab, "bird")?;
    ensure!(peer.count("session-up") == 0, "BIRD went around virtd");
    let router = Router::start(&lab, &star, &options)?;
    peer.wait_event("session-up", UP)?;
    router.wait_joined(&star.sites[0].v4.to_string(), UP)?;
    peer.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

/// FRR in the background, as its own scripts start it, has /dev/null for its stderr: what the shim
/// has to say is in the system's log.
#[test]
fn the_line_of_a_daemon_in_the_background_is_in_the_systems_log() -> Result<()> {
    let mut lab = Lab::new("syslog")?;
    let star = lab.star(1)?;
    let dev = lab.folder("dev")?;
    let log = UnixDatagram::bind(dev.join("log"))?;
    log.set_nonblocking(true)?;
    fs::write(dev.join("null"), "")?;
    let folder = lab.folder("frr")?;
    let peer = PeerSpec::new(star.sites[0].v4.into(), star.sites[0].router_v4.into(), star.sites[0].asn);
    let spec = RouterSpec { peers: vec![peer], ..dialling().spec(&star.sites) };
    fs::write(folder.join("bgp.conf"), Daemon::Frr.configuration(&spec, &folder))?;
    tests::lab::run("chown", &["-R", "frr:frr", &folder.display().to_string()])?;
    let socket = lab.folder("virtd")?.join("hv.sock");
    let script = format!(
        "mount --make-rprivate / && mount --bind /dev/null {dev}/null && mount --rbind {dev} /dev && \
         exec env LD_PRELOAD={shim} HV_SOCKET={socket} HV_INSTANCE=frr /usr/lib/frr/bgpd -d --no_kernel --no_zebra \
         -f {folder}/bgp.conf -i {folder}/bgpd.pid --vty_socket {folder} -P 0 2>/dev/null",
        dev = dev.display(),
        shim = built("libhvlibc.so")?.display(),
        socket = socket.display(),
        folder = folder.display(),
    );
    star.router.run("unshare", &["--mount", "sh", "-c", &script])?;
    let mut buf = [0; 512];
    let n = wait_until("the line", UP, || log.recv(&mut buf).map_err(|e| e.to_string()))?;
    let line = String::from_utf8_lossy(&buf[..n]).into_owned();
    let at = format!("virtd does not answer at {}", socket.display());
    ensure!(line.starts_with("<27>libhvlibc[") && line.contains(&at), "{line}");
    lab.passed();
    Ok(())
}
