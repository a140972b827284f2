//! The OPEN as a vote, with the daemons as an operator configures them: one of three lacks a
//! family, a capability or a hold time, or all get another AS number. Judged from the neighbours'
//! side.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;
use tests::daemons::{Daemon, Wrapper};
use tests::lab::{Lab, Star, wait_for, wait_until};
use tests::odd;
use tests::operate::{control, routes};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
const QUIET: Duration = Duration::from_secs(2);
/// The neighbours.
const FEED: &str = "10.0.1.2";
const MONITOR: &str = "10.0.2.2";
/// `fault_threshold_s` of these routers: whoever is accused of anything is accused soon.
const THRESHOLD_S: u64 = 5;

fn options(wrappers: [fn(String) -> String; 3]) -> Options {
    let wrappers = wrappers.map(|configuration| Wrapper { configuration, ..Wrapper::default() }).to_vec();
    Options { wrappers, timers: format!("fault_threshold_s = {THRESHOLD_S}"), ..Options::default() }
}

fn same(text: String) -> String {
    text
}

/// No instance is accused of anything, for longer than it takes; whoever differs keeps its vote.
fn nobody_accused(router: &Router) -> Result<()> {
    router.wait_quiet(Duration::from_secs(2 * THRESHOLD_S), SETTLE)?;
    for kind in ["instance-faulty", "instance-suspect", "disagreement", "no-quorum", "leg-refused", "poison"] {
        ensure!(router.events(kind).is_empty(), "{kind}: {:?}", router.events(kind));
    }
    router.wait_voting(UP)
}

/// The state of an instance's leg of a session.
fn leg_state(router: &Router, peer: &str, name: &str) -> Result<String> {
    let leg = router.session(peer)?.legs.into_iter().find(|leg| leg.instance == name);
    Ok(leg.with_context(|| format!("no leg of {name}"))?.state)
}

fn wait_told(router: &Router, peer: &str, routes: u64) -> Result<()> {
    wait_until(&format!("{routes} routes at {peer}"), SETTLE, || match router.prefixes_out(peer) {
        Ok(told) if told == routes => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// Changes a running daemon's configuration so that it has IPv6 instead of IPv4 for the first
/// neighbour.
fn without_ipv4(router: &mut Router, daemon: Daemon) -> Result<()> {
    let ns = router.ns().clone();
    let instance = router.instance(daemon.name())?;
    if daemon == Daemon::Frr {
        let commands = format!(
            "configure terminal\nrouter bgp 65000\naddress-family ipv4 unicast\nno neighbor {FEED} activate\nexit\n\
             address-family ipv6 unicast\nneighbor {FEED} activate"
        );
        return control(instance, &ns, &commands).map(|_| ());
    }
    let path = instance.folder().join("bgp.conf");
    let text = fs::read_to_string(&path)?;
    let changed = match daemon {
        // The first neighbour stands first.
        Daemon::Bird => text.replacen("    ipv4 { import all;", "    ipv6 { import all;", 1),
        _ => text.replacen("announce IPv4 unicast", "announce IPv4 none", 1).replacen(
            "announce IPv6 none",
            "announce IPv6 unicast",
            1,
        ),
    };
    ensure!(changed != text, "nothing to change in {text}");
    fs::write(&path, changed)?;
    let command = if daemon == Daemon::Bird { "configure" } else { "reload" };
    control(instance, &ns, command).map(|_| ())
}

/// Row l of the table of cases: the session has IPv4, and the one abstains.
fn one_announces_no_ipv4(daemon: Daemon) -> Result<()> {
    let mut lab = Lab::new(&format!("no-ipv4-{}", daemon.name()))?;
    let star = lab.star(2)?;
    let mut router = Router::start(&lab, &star, &options([same; 3]))?;
    let script = lab.directory().join("script");
    fs::write(&script, "announce 203.0.113.0/24\n")?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--script", &script.display().to_string()])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "200"])?;
    feed.wait_event("feed-done", UP)?;
    wait_told(&router, MONITOR, 200)?;
    wait_told(&router, FEED, 1)?;
    router.wait_voting(SETTLE)?;
    without_ipv4(&mut router, daemon)?;
    router.show(&["session", FEED, "reset"])?;
    feed.wait(UP)?;
    wait_told(&router, MONITOR, 0)?;

    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "200"])?;
    feed.wait_event("feed-done", UP)?;
    wait_told(&router, MONITOR, 200)?;
    wait_told(&router, FEED, 1)?;
    let name = daemon.name();
    wait_for("its leg to stand", UP, || leg_state(&router, FEED, name).is_ok_and(|state| state == "Established"))?;
    nobody_accused(&router)?;
    let named = router.events("open-differs").into_iter().filter(|e| {
        let text = e["text"].as_str().unwrap_or_default();
        e["session"] == FEED && text.contains(&format!("{name} lacks ipv4-unicast"))
    });
    ensure!(named.count() == 1, "named once: {:?}", router.events("open-differs"));
    ensure!(leg_state(&router, FEED, name)? == "Established", "its leg stands");
    feed.finish()?.check_quiet()?;
    wait_told(&router, MONITOR, 0)?;
    monitor.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn frr_announces_no_ipv4_and_the_session_has_it() -> Result<()> {
    one_announces_no_ipv4(Daemon::Frr)
}

#[test]
fn bird_announces_no_ipv4_and_the_session_has_it() -> Result<()> {
    one_announces_no_ipv4(Daemon::Bird)
}

#[test]
fn openbgpd_announces_no_ipv4_and_the_session_has_it() -> Result<()> {
    one_announces_no_ipv4(Daemon::OpenBgpd)
}

fn frr_hold(text: String, times: &str) -> String {
    let line = |peer: &str| format!(" neighbor {peer} advertisement-interval 0");
    [FEED, MONITOR].iter().fold(text, |text, peer| {
        text.replacen(&line(peer), &format!("{}\n neighbor {peer} timers {times}", line(peer)), 1)
    })
}

fn bird_hold(text: String, seconds: u32) -> String {
    text.replace("    connect delay time", &format!("    hold time {seconds};\n    connect delay time"))
}

/// Row m: the neighbour is offered 9 s, and one that falls silent is noticed.
fn one_has_no_hold_time(wrappers: [fn(String) -> String; 3]) -> Result<()> {
    let mut lab = Lab::new("hold-0")?;
    let star = lab.star(2)?;
    let router = Router::start(&lab, &star, &options(wrappers))?;
    let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor"])?;
    let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "50"])?;
    feed.wait_event("feed-done", UP)?;
    wait_told(&router, MONITOR, 50)?;
    for peer in [FEED, MONITOR] {
        ensure!(router.session(peer)?.hold_time_s == Some(9), "{:?}", router.session(peer));
    }
    nobody_accused(&router)?;
    let named = |e: &serde_json::Value| e["text"].as_str().unwrap_or_default().contains("proposes hold time 0 s");
    ensure!(router.events("open-differs").iter().filter(|e| named(e)).count() == 2, "named, once a session");
    feed.signal(Signal::SIGSTOP)?;
    wait_told(&router, MONITOR, 0)?;
    let ends = router.events("session-down");
    ensure!(ends.len() == 1 && ends[0].to_string().contains("4/0"), "{ends:?}");
    feed.signal(Signal::SIGCONT)?;
    feed.wait(UP)?;
    monitor.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}

#[test]
fn one_hold_time_of_0_is_outvoted_frr() -> Result<()> {
    one_has_no_hold_time([
        |text| frr_hold(text, "0 0"),
        |text| bird_hold(text, 9),
        |text| text.replacen("fib-update", "holdtime 9\nfib-update", 1),
    ])
}

#[test]
fn one_hold_time_of_0_is_outvoted_bird() -> Result<()> {
    one_has_no_hold_time([
        |text| frr_hold(text, "3 9"),
        |text| bird_hold(text, 0),
        |text| text.replacen("fib-update", "holdtime 9\nfib-update", 1),
    ])
}

/// Row m: one of three is there, and the neighbour's hold time is shorter than what is waited for
/// the others.
#[test]
fn a_session_with_a_hold_time_of_3_s_comes_up_with_one_of_three() -> Result<()> {
    for daemon in Daemon::ALL {
        let mut lab = Lab::new(&format!("hold-3-{}", daemon.name()))?;
        let star = lab.star(2)?;
        let all = options([same; 3]);
        let mut router = Router::without_instances(&lab, &star, &all)?;
        router.launch(&lab, &star, &Options { daemons: vec![daemon], ..all.clone() })?;
        let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--hold-time", "3"])?;
        let mut feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", "50", "--hold-time", "3"])?;
        for neighbour in [&mut monitor, &mut feed] {
            neighbour.wait_event("session-up", UP).with_context(|| format!("{daemon:?} alone"))?;
        }
        for peer in [FEED, MONITOR] {
            ensure!(router.session(peer)?.hold_time_s == Some(3), "{:?}", router.session(peer));
        }
        feed.finish()?.check_quiet()?;
        monitor.finish()?.check_quiet()?;
        lab.passed();
    }
    Ok(())
}

fn bird_extended(text: String) -> String {
    text.replace("    connect delay time", "    enable extended messages on;\n    connect delay time")
}

/// Three neighbours: one watches, one plays what stands in a file, and what the router came to
/// after it.
struct Odd {
    lab: Lab,
    star: Star,
    router: Router,
    monitor: Replayer,
    feed: Replayer,
}

/// The first neighbour sends these octets, once everybody has joined.
fn sent(name: &str, wrappers: [fn(String) -> String; 3], octets: impl Fn(&Star) -> Vec<u8>) -> Result<Odd> {
    let mut lab = Lab::new(name)?;
    let star = lab.star(2)?;
    let router = Router::start(&lab, &star, &options(wrappers))?;
    let monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
    router.wait_joined(MONITOR, UP)?;
    let raw = lab.directory().join("update.hex");
    fs::write(&raw, wire::bgp::hex(&octets(&star)))?;
    let feed = Replayer::dial(&lab, &star.sites[0], false, &["--raw", &raw.display().to_string()])?;
    Ok(Odd { lab, star, router, monitor, feed })
}

/// FRR and BIRD have extended messages (RFC 8654), OpenBGPD 7.7 has none.
#[test]
fn a_long_update_reaches_who_has_no_extended_messages_in_several() -> Result<()> {
    const ROUTES: u16 = 2_000;
    let mut scene = sent("extended", [same, bird_extended, same], |star| {
        let nlri: Vec<u8> = (0..ROUTES).flat_map(|n| [24, 100, (n >> 8) as u8, n as u8]).collect();
        odd::update(&odd::attributes(&star.sites[0]), &nlri)
    })?;
    wait_told(&scene.router, MONITOR, u64::from(ROUTES))?;
    let up = scene.feed.events().into_iter().find(|e| e["event"] == "session-up").context("no session")?;
    ensure!(up["negotiated"]["max_message_len"] == 65_535, "two of three have extended messages: {up}");
    nobody_accused(&scene.router)?;
    for instance in &scene.router.instances {
        let told = routes(instance, &scene.star.router, false)?;
        let found = told.lines().filter(|line| line.contains("100.") && line.contains("/24")).count();
        ensure!(found == usize::from(ROUTES), "{} has {found} routes", instance.name);
    }
    let text = scene.router.events("open-differs").into_iter().map(|e| e["text"].to_string()).collect::<Vec<_>>();
    ensure!(text.iter().all(|t| t.contains("openbgpd lacks extended messages")) && text.len() == 2, "{text:?}");
    scene.feed.finish()?.check_quiet()?;
    wait_told(&scene.router, MONITOR, 0)?;
    scene.monitor.finish()?.check_quiet()?;
    scene.lab.passed();
    Ok(())
}

/// A route whose attributes do not fit a message of 4,096 octets: it is not told to who has no
/// longer ones.
#[test]
fn a_route_that_fits_no_short_message_is_decided_by_the_others() -> Result<()> {
    let mut scene = sent("too-long", [same, bird_extended, same], |star| {
        let site = &star.sites[0];
        let attributes = |communities: u16| {
            let mut all = odd::attributes(site);
            all.extend([0xd0, 8]);
            all.extend((communities * 4).to_be_bytes());
            all.extend((0..communities).flat_map(|n| (u32::from(n) + (64_501 << 16)).to_be_bytes()));
            all
        };
        // First a short one for the prefix, that the long one takes the place of.
        let prefix = [24, 198, 51, 100];
        [odd::update(&attributes(1), &prefix), odd::update(&attributes(1_200), &prefix)].concat()
    })?;
    wait_told(&scene.router, MONITOR, 1)?;
    wait_until("the long route outside", SETTLE, || {
        let last = scene.monitor.events().into_iter().rfind(|e| e["event"] == "update").unwrap_or_default();
        let communities = last["announced"][0]["route"]["communities"].as_array().map_or(0, Vec::len);
        if communities == 1_200 { Ok(()) } else { Err(last.to_string().chars().take(300).collect()) }
    })?;
    nobody_accused(&scene.router)?;
    let has = |name: &str, router: &mut Router| -> Result<bool> {
        let ns = router.ns().clone();
        Ok(routes(router.instance(name)?, &ns, false)?.contains("198.51.100.0/24"))
    };
    ensure!(has("frr", &mut scene.router)? && has("bird", &mut scene.router)?, "those that were told it have it");
    ensure!(!has("openbgpd", &mut scene.router)?, "OpenBGPD has an older route");
    scene.feed.finish()?.check_quiet()?;
    wait_told(&scene.router, MONITOR, 0)?;
    scene.monitor.finish()?.check_quiet()?;
    scene.lab.passed();
    Ok(())
}

/// One of three knows AS numbers of two octets only (RFC 6793).
fn one_has_two_octets(who: &str, wrappers: [fn(String) -> String; 3]) -> Result<()> {
    let mut scene = sent("as2", wrappers, |star| {
        let site = &star.sites[0];
        let mut all = vec![0x40, 1, 1, 0, 0x40, 2, 14, 2, 3];
        all.extend([site.asn, 200_000, 7].iter().flat_map(|asn| asn.to_be_bytes()));
        all.extend([0x40, 3, 4]);
        all.extend(site.v4.octets());
        odd::update(&all, &[24, 198, 51, 100])
    })?;
    wait_told(&scene.router, MONITOR, 1)?;
    nobody_accused(&scene.router)?;
    let ns = scene.router.ns().clone();
    let told = routes(scene.router.instance(who)?, &ns, false)?;
    ensure!(told.contains("198.51.100.0/24"), "{who} was not told: {told}");
    let named = scene.router.events("open-differs");
    let wanted = format!("{who} lacks 4-octet AS numbers");
    ensure!(named.iter().all(|e| e["text"].to_string().contains(&wanted)) && named.len() == 2, "{named:?}");
    scene.feed.finish()?.check_quiet()?;
    let outcome = scene.monitor.finish()?;
    outcome.check_quiet()?;
    let path = outcome.routes()?;
    ensure!(path.is_empty(), "{path:?}");
    let last = scene.monitor.events().into_iter().find(|e| e["event"] == "update").unwrap_or_default();
    ensure!(last["announced"][0]["route"]["as_path"] == "65000 65001 200000 7", "{last}");
    scene.lab.passed();
    Ok(())
}

#[test]
fn openbgpd_without_four_octet_as_numbers_votes() -> Result<()> {
    one_has_two_octets(
        "openbgpd",
        [same, same, |text| {
            text.replace("    enforce neighbor-as no", "    enforce neighbor-as no\n    announce as-4byte no")
        }],
    )
}

#[test]
fn bird_without_four_octet_as_numbers_votes() -> Result<()> {
    one_has_two_octets(
        "bird",
        [same, |text| text.replace("    connect delay time", "    enable as4 off;\n    connect delay time"), same],
    )
}

/// All get another AS number, one after the other: the session comes back with it when most have
/// it.
#[test]
fn another_as_number_in_every_daemon_reopens_the_session_with_it() -> Result<()> {
    let mut lab = Lab::new("another-as")?;
    let star = lab.star(2)?;
    let mut router = Router::start(&lab, &star, &options([same; 3]))?;
    let monitor = |lab: &Lab| Replayer::dial(lab, &star.sites[1], false, &["--monitor", "--events-updates"]);
    let feed = |lab: &Lab| Replayer::dial(lab, &star.sites[0], false, &["--generate", "50"]);
    let (mut watcher, mut first) = (monitor(&lab)?, feed(&lab)?);
    wait_told(&router, MONITOR, 50)?;
    router.wait_voting(SETTLE)?;
    let change = |router: &mut Router, daemon: Daemon| -> Result<()> {
        let instance = router.instance(daemon.name())?;
        instance.stop();
        let path = instance.folder().join("bgp.conf");
        let text = fs::read_to_string(&path)?.replace("router bgp 65000", "router bgp 65100");
        fs::write(&path, text.replace("as 65000;", "as 65100;").replace("AS 65000\n", "AS 65100\n"))?;
        instance.launch(&lab)
    };
    change(&mut router, Daemon::Frr)?;
    wait_for("FRR to be refused by both sessions", SETTLE, || router.events("leg-refused").len() == 2)?;
    ensure!(router.events("session-down").is_empty(), "one of three changes nothing");
    change(&mut router, Daemon::Bird)?;
    for neighbour in [&mut watcher, &mut first] {
        let outcome = neighbour.wait(SETTLE)?;
        let told = outcome.summary["notifications_received"].to_string();
        ensure!(told.contains("6/6") || told.contains("\"subcode\":6"), "Other Configuration Change: {told}");
    }
    change(&mut router, Daemon::OpenBgpd)?;
    let (mut watcher, mut second) = (monitor(&lab)?, feed(&lab)?);
    wait_told(&router, MONITOR, 50)?;
    router.wait_voting(SETTLE)?;
    router.wait_quiet(QUIET, SETTLE)?;
    let last = watcher.events().into_iter().find(|e| e["event"] == "update").unwrap_or_default();
    let path = last["announced"][0]["route"]["as_path"].as_str().unwrap_or_default();
    ensure!(path.starts_with("65100 65001"), "{last}");
    ensure!(router.events("instance-faulty").is_empty(), "{:?}", router.events("instance-faulty"));
    second.finish()?.check_quiet()?;
    watcher.finish()?.check_quiet()?;
    lab.passed();
    Ok(())
}
