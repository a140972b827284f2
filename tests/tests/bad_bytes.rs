//! Bytes that no BGP speaker should send, from a peer and from an instance: who sends them loses,
//! at most, its own session.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tests::lab::{Lab, Site, Star, wait_for, wait_until};
use tests::odd::{KEEPALIVE, NOTIFICATION, UPDATE, attributes, message, octets, update};
use tests::operate::control;
use tests::raw::{Raw, open};
use tests::replayer::Replayer;
use tests::router::{ASN, Options, Router};
use virtd_api::Instances;

const UP: Duration = Duration::from_secs(30);
/// OpenBGPD waits for long before it takes up a session again that was reset.
const SETTLE: Duration = Duration::from_secs(120);
/// The bad neighbour's own prefix.
const BAD_PREFIX: &str = "198.51.100.0/24";
const BAD_NLRI: [u8; 4] = [24, 198, 51, 100];
/// The innocent neighbour's prefixes, the later one announced while something is wrong.
const INNOCENT_NLRI: [u8; 4] = [24, 203, 0, 113];

/// Path attributes of CVE-2023-46753: unknown ones only.
const FIRST_CVE: &str = "ff1f001000040146464646460004464646464646";

/// A router of three daemons, one neighbour that misbehaves (the first), one that listens, and an
/// innocent one that announces.
struct Scene {
    lab: Lab,
    star: Star,
    router: Router,
    monitor: Replayer,
    innocent: Raw,
    descriptors: usize,
    announced: u8,
}

impl Scene {
    fn new(name: &str, inbound: &'static str) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(3)?;
        let router = Router::start(&lab, &star, &Options { inbound, ..Options::default() })?;
        let mut monitor = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", "--events-updates"])?;
        monitor.wait_event("session-up", UP)?;
        let innocent = Raw::establish(&star.sites[2], 240)?;
        router.wait_voting(UP)?;
        let mut scene = Scene { lab, star, router, monitor, innocent, descriptors: 0, announced: 0 };
        scene.others_go_on()?;
        scene.wait_legs(6)?;
        scene.descriptors = scene.open_files();
        Ok(scene)
    }

    /// The route map without which FRR survives the two messages.
    fn prepend_in_frr(&self) -> Result<()> {
        let commands = format!(
            "configure terminal\nroute-map PREPEND permit 10\nset as-path prepend {ASN}\nexit\nrouter bgp {ASN}\n\
             address-family ipv4 unicast\nneighbor {} route-map PREPEND in",
            self.bad().v4
        );
        control(&self.router.instances[0], &self.star.router, &commands).map(|_| ())
    }

    fn bad(&self) -> &Site {
        &self.star.sites[0]
    }

    /// How many file descriptors virtd has.
    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.router.worker())).map_or(0, Iterator::count)
    }

    /// Waits until so many legs of all instances stand.
    fn wait_legs(&self, legs: usize) -> Result<()> {
        wait_until(&format!("{legs} legs"), SETTLE, || {
            let Instances { instances } = self.router.ctl(&["instances"]).map_err(|e| format!("{e:#}"))?;
            let up: usize = instances.iter().map(|i| i.legs_up).sum();
            if up == legs { Ok(()) } else { Err(format!("{instances:?}")) }
        })
    }

    fn was_told(&self, what: &str, prefix: &str) -> bool {
        self.monitor.events().iter().any(|e| e["event"] == "update" && e[what].to_string().contains(prefix))
    }

    fn wait_told(&self, what: &str, prefix: &str) -> Result<()> {
        wait_for(&format!("{prefix} {what}"), UP, || self.was_told(what, prefix))
    }

    /// A new prefix of the innocent neighbour still comes through.
    fn others_go_on(&mut self) -> Result<()> {
        self.announced += 1;
        let [_, a, b, c] = INNOCENT_NLRI;
        let site = self.innocent.site.clone();
        self.innocent.send(&update(&attributes(&site), &[32, a, b, c, self.announced]))?;
        self.wait_told("announced", &format!("{a}.{b}.{c}.{}/32", self.announced))
    }

    /// What must hold at the end: nobody but the bad neighbour lost anything, all three vote, no
    /// descriptor is left behind.
    fn finish(mut self) -> Result<()> {
        self.others_go_on()?;
        for name in ["frr", "bird", "openbgpd"] {
            let state = self.router.state_of(name)?;
            ensure!(state == "voting", "{name} is {state}");
        }
        for instance in &mut self.router.instances {
            ensure!(instance.running(), "{} has died", instance.name);
        }
        ensure!(self.router.virtd.running(), "virtd has died");
        ensure!(self.router.events("instance-gone").is_empty(), "an instance went away");
        let innocent: Vec<_> =
            (1..=self.announced).filter(|n| self.was_told("withdrawn", &format!("203.0.113.{n}/32"))).collect();
        ensure!(innocent.is_empty(), "innocent routes were withdrawn: {innocent:?}");
        wait_until("virtd to close what is over", SETTLE, || {
            let now = self.open_files();
            if now <= self.descriptors { Ok(()) } else { Err(format!("{now} instead of {}", self.descriptors)) }
        })?;
        self.innocent.never_wait()?;
        while let Ok((kind, body)) = self.innocent.read() {
            ensure!(kind != NOTIFICATION, "the innocent neighbour got NOTIFICATION {body:?}");
        }
        self.monitor.finish()?.check_quiet()?;
        self.lab.passed();
        Ok(())
    }
}

#[test]
fn half_an_open_and_then_silence() -> Result<()> {
    let mut scene = Scene::new("half-open", "rfc7606")?;
    let mut raw = Raw::connect(scene.bad())?;
    raw.send(&open(4, scene.bad().asn, 90, [10, 255, 1, 1])[..25])?;
    wait_for("virtd to have the connection", UP, || scene.open_files() > scene.descriptors)?;
    scene.others_go_on()?;
    drop(raw);
    scene.finish()
}

#[test]
fn messages_that_are_none_instead_of_an_open() -> Result<()> {
    let mut scene = Scene::new("no-open", "rfc7606")?;
    let header = |marker: u8, length: u16, kind: u8| {
        let mut bytes = vec![marker; 16];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(kind);
        bytes
    };
    let site = scene.bad().clone();
    let id = [10, 255, 1, 1];
    let cases: [(&str, Vec<u8>, (u8, u8)); 8] = [
        ("length 18", header(0xff, 18, KEEPALIVE), (1, 2)),
        ("length 65535", header(0xff, 65535, UPDATE), (1, 2)),
        ("a bad marker", header(0xfe, 19, KEEPALIVE), (1, 1)),
        ("an unknown type", header(0xff, 19, 77), (1, 3)),
        ("version 3", open(3, site.asn, 90, id), (2, 1)),
        ("hold time 1", open(4, site.asn, 1, id), (2, 6)),
        ("router id 0.0.0.0", open(4, site.asn, 90, [0; 4]), (2, 3)),
        ("an UPDATE before the OPEN", update(&[], &[]), (5, 1)),
    ];
    for (what, bytes, (code, subcode)) in cases {
        let mut raw = Raw::connect(&site)?;
        raw.send(&bytes)?;
        raw.expect_notification(code, subcode).with_context(|| format!("after {what}"))?;
        scene.others_go_on()?;
    }
    scene.finish()
}

#[test]
fn an_attribute_past_the_end_is_a_withdrawal() -> Result<()> {
    let mut scene = Scene::new("overrun", "rfc7606")?;
    let mut raw = Raw::establish(scene.bad(), 240)?;
    let good = attributes(scene.bad());
    raw.send(&update(&good, &BAD_NLRI))?;
    scene.wait_told("announced", BAD_PREFIX)?;
    let mut overrun = good;
    overrun.extend_from_slice(&[0xc0, 8, 255, 1]);
    raw.send(&update(&overrun, &BAD_NLRI))?;
    scene.wait_told("withdrawn", BAD_PREFIX)?;
    raw.send(&message(KEEPALIVE, &[]))?;
    scene.wait_legs(9)?;
    ensure!(!scene.router.events("malformed-update").is_empty(), "no event");
    scene.others_go_on()?;
    drop(raw);
    scene.finish()
}

#[test]
fn a_prefix_of_33_bits_ends_that_session_only() -> Result<()> {
    let mut scene = Scene::new("slash33", "rfc7606")?;
    let mut raw = Raw::establish(scene.bad(), 240)?;
    let good = attributes(scene.bad());
    raw.send(&update(&good, &BAD_NLRI))?;
    scene.wait_told("announced", BAD_PREFIX)?;
    raw.send(&update(&good, &[33, 198, 51, 100, 0, 0]))?;
    raw.expect_notification(3, 10)?;
    scene.wait_told("withdrawn", BAD_PREFIX)?;
    scene.others_go_on()?;
    scene.finish()
}

#[test]
fn framing_lost_in_an_established_session_ends_that_session_only() -> Result<()> {
    let scene = Scene::new("framing", "rfc7606")?;
    let mut raw = Raw::establish(scene.bad(), 240)?;
    raw.send(&update(&attributes(scene.bad()), &BAD_NLRI))?;
    scene.wait_told("announced", BAD_PREFIX)?;
    let mut bytes = vec![0xff; 16];
    bytes.extend_from_slice(&[0xff, 0xff, UPDATE]);
    raw.send(&bytes)?;
    raw.expect_notification(1, 2)?;
    scene.wait_told("withdrawn", BAD_PREFIX)?;
    scene.finish()
}

#[test]
fn silence_runs_into_the_hold_timer() -> Result<()> {
    let mut scene = Scene::new("silence", "rfc7606")?;
    let mut raw = Raw::establish(scene.bad(), 3)?;
    raw.send(&update(&attributes(scene.bad()), &BAD_NLRI))?;
    scene.wait_told("announced", BAD_PREFIX)?;
    let start = Instant::now();
    raw.expect_notification(4, 0)?;
    ensure!(start.elapsed() < Duration::from_secs(10), "given up after {:?} only", start.elapsed());
    scene.wait_told("withdrawn", BAD_PREFIX)?;
    scene.others_go_on()?;
    scene.finish()
}

/// FRR 8.4.4 dies of both messages when it gets them as they are (CVE-2023-46753, CVE-2023-47235).
#[test]
fn two_messages_that_kill_frr_kill_nobody() -> Result<()> {
    let mut scene = Scene::new("cve", "rfc7606")?;
    scene.prepend_in_frr()?;
    let mut raw = Raw::establish(scene.bad(), 240)?;
    raw.send(&update(&attributes(scene.bad()), &BAD_NLRI))?;
    scene.wait_told("announced", BAD_PREFIX)?;
    scene.wait_legs(9)?;
    raw.send(&update(&octets(FIRST_CVE)?, &BAD_NLRI))?;
    scene.wait_told("withdrawn", BAD_PREFIX)?;
    scene.wait_legs(9)?;
    let second = octets("ffffffffffffffffffffffffffffffff002b0200000003c0ff00010100eb00ac100b0b001ad908ac100b0b")?;
    raw.send(&second)?;
    raw.expect_notification(3, 10)?;
    scene.others_go_on()?;
    scene.finish()
}

/// The same first message taken raw: FRR dies, OpenBGPD resets its leg, and still no neighbour
/// loses anything.
#[test]
fn taken_raw_the_first_message_kills_frr_and_no_neighbour_notices() -> Result<()> {
    let mut scene = Scene::new("cve-raw", "opaque")?;
    scene.prepend_in_frr()?;
    let mut raw = Raw::establish(scene.bad(), 240)?;
    raw.send(&update(&attributes(scene.bad()), &BAD_NLRI))?;
    scene.wait_told("announced", BAD_PREFIX)?;
    scene.wait_legs(9)?;
    raw.send(&update(&octets(FIRST_CVE)?, &BAD_NLRI))?;
    scene.router.wait_state("frr", "absent", UP)?;
    scene.others_go_on()?;
    raw.send(&message(KEEPALIVE, &[]))?;
    scene.monitor.finish()?.check_quiet()?;
    scene.lab.passed();
    Ok(())
}
