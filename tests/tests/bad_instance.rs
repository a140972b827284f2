//! An instance that breaks the protocol, under the real shim: its leg ends, an event says why, and
//! nothing is seen outside.

use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use tests::lab::{Lab, Process, Star, wait_for, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};

const UP: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(120);
const NAME: &str = "fake";
/// Most that virtd may take for the whole table, three daemons' candidates and what waits for the
/// one that never reads, in KiB.
const MEMORY_KIB: u64 = 200_000;

/// Dials the first neighbour as a daemon would, does what the mode says, and waits for the end of
/// its leg.
const SCRIPT: &str = r#"
import socket, struct, sys, time
mode, peer, local = sys.argv[1:4]
def message(kind, body):
    return b'\xff' * 16 + struct.pack('!HB', 19 + len(body), kind) + body
caps = bytes([1, 4, 0, 1, 0, 1, 2, 0, 65, 4]) + struct.pack('!I', 65000)
opening = message(1, struct.pack('!BHH', 4, 65000, 90) + bytes([10, 255, 0, 1, len(caps) + 2, 2, len(caps)]) + caps)
while True:
    s = socket.socket()
    try:
        s.bind((local, 0))
        s.connect((peer, 179))
        break
    except OSError as e:
        s.close()
        time.sleep(0.2)
print('connected', flush=True)
if mode == 'never-reads':
    s.sendall(opening + message(4, b''))
    while True:
        time.sleep(1)
        s.sendall(message(4, b''))
if mode == 'dribble':
    s.sendall(opening + message(4, b''))
s.sendall({
    'garbage': b'A' * 100,
    'half-open': opening[:25],
    'notification': message(3, bytes([6, 4])),
    'length': b'\xff' * 16 + b'\xff\xff\x02',
    'version': opening[:19] + b'\x03' + opening[20:],
    'dribble': message(2, bytes([0, 0, 0, 4, 0x40, 1, 1, 9, 33, 10, 0, 0, 0, 0])),
}[mode])
while True:
    try:
        if not s.recv(65536):
            break
    except OSError:
        break
print('closed', flush=True)
"#;

struct Scene {
    lab: Lab,
    star: Star,
    router: Router,
}

impl Scene {
    /// Three daemons and a fourth instance that is yet to come.
    fn new(name: &str, role: &str) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(2)?;
        let options = Options::default();
        let mut router = Router::with_toml(&lab, &star, &options, |text| {
            format!("{text}\n[[instance]]\nname = \"{NAME}\"\nrole = \"{role}\"\n")
        })?;
        router.launch(&lab, &star, &options)?;
        Ok(Scene { lab, star, router })
    }

    /// Starts the bad instance.
    fn fake(&self, mode: &str) -> Result<Process> {
        let shim = self.router.shim()?;
        let site = &self.star.sites[0];
        let mut command = self.star.router.command("env");
        command
            .arg(format!("LD_PRELOAD={}", shim.library.display()))
            .arg(format!("HV_SOCKET={}", shim.socket.display()))
            .arg(format!("HV_INSTANCE={NAME}"))
            .args(["python3", "-c", SCRIPT, mode, &site.v4.to_string(), &site.router_v4.to_string()]);
        self.lab.spawn(&format!("fake-{mode}"), &mut command)
    }

    /// Events about the bad instance's legs so far.
    fn told(&self) -> usize {
        let kinds = ["leg-fault", "leg-notification", "leg-closed", "leg-cease", "leg-refused"];
        let events = kinds.iter().flat_map(|kind| self.router.events(kind));
        events.filter(|e| e["instance"] == NAME).count()
    }

    fn daemons_vote(&self) -> Result<()> {
        ["frr", "bird", "openbgpd"].iter().try_for_each(|name| self.router.wait_state(name, "voting", UP))
    }

    /// the most resident memory that virtd ever had, in KiB.
    fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.router.worker())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX)
    }
}

fn ends_its_own_leg_only(modes: &[&str]) -> Result<()> {
    let scene = Scene::new("bad-instance", "voter")?;
    let mut feed = Replayer::dial(&scene.lab, &scene.star.sites[0], false, &["--generate", "100"])?;
    let mut monitor = Replayer::dial(&scene.lab, &scene.star.sites[1], false, &["--monitor", "--events-updates"])?;
    feed.wait_event("feed-done", UP)?;
    wait_for("100 routes outside", SETTLE, || scene.router.prefixes_out("10.0.2.2").is_ok_and(|n| n == 100))?;
    scene.daemons_vote()?;
    scene.router.wait_quiet(Duration::from_secs(1), SETTLE)?;
    let updates = monitor.count("update");
    for mode in modes {
        let before = scene.told();
        let mut fake = scene.fake(mode)?;
        wait_for(&format!("the leg of {mode} to end"), SETTLE, || fake.log().contains("closed"))?;
        ensure!(fake.wait(UP)?.success(), "{mode}: {}", fake.log());
        wait_for(&format!("an event about {mode}"), UP, || scene.told() > before)?;
        scene.router.wait_state(NAME, "absent", UP)?;
        scene.daemons_vote()?;
    }
    ensure!(monitor.count("update") == updates, "the monitor was told something");
    monitor.finish()?.check_quiet()?;
    feed.finish()?.check_quiet()?;
    scene.lab.passed();
    Ok(())
}

#[test]
fn garbage_notifications_and_impossible_lengths() -> Result<()> {
    ends_its_own_leg_only(&["garbage", "notification", "length", "version", "dribble"])
}

#[test]
fn half_an_open_and_then_silence() -> Result<()> {
    ends_its_own_leg_only(&["half-open"])
}

/// Plays a table past an instance that takes part and never reads, or past three well-behaved ones
/// alone.
fn converges(fake: bool) -> Result<Duration> {
    const ROUTES: &str = "50000";
    let scene = Scene::new(if fake { "never-reads" } else { "all-read" }, "observer")?;
    let mut monitor =
        Replayer::dial(&scene.lab, &scene.star.sites[1], false, &["--monitor", "--until-routes", ROUTES])?;
    monitor.wait_event("session-up", UP)?;
    let mut first = Replayer::dial(&scene.lab, &scene.star.sites[0], false, &["--generate", ROUTES])?;
    let start = Instant::now();
    let bad = if fake { Some(scene.fake("never-reads")?) } else { None };
    if let Some(bad) = &bad {
        wait_until(
            "the fake's connection",
            UP,
            || if bad.log().contains("connected") { Ok(()) } else { Err(bad.log()) },
        )?;
    }
    let outcome = monitor.wait(SETTLE)?;
    let took = start.elapsed();
    outcome.check_quiet()?;
    ensure!(outcome.routes()?.len() == 50_000, "{} routes instead of {ROUTES}", outcome.routes()?.len());
    scene.daemons_vote()?;
    let memory = scene.memory_kib();
    println!("with the fake {fake}: {took:?}, {memory} KiB, {:?}", scene.router.status()?);
    ensure!(memory < MEMORY_KIB, "virtd has {memory} KiB");
    if let Some(mut bad) = bad {
        wait_for("the fake to have a leg", UP, || scene.router.events("leg-up").iter().any(|e| e["instance"] == NAME))?;
        ensure!(bad.running(), "the fake has ended: {}", bad.log());
        bad.crash();
        wait_for("an event about its end", UP, || scene.told() > 0)?;
    }
    first.finish()?.check_quiet()?;
    scene.lab.passed();
    Ok(took)
}

#[test]
fn one_that_never_reads_costs_the_others_nothing() -> Result<()> {
    let (with, without) = (converges(true)?, converges(false)?);
    ensure!(with < without * 2 + Duration::from_secs(5), "{with:?} with it, {without:?} without it");
    Ok(())
}
