//! virtd-monitor tells two collectors the tables of a router of real daemons: pmacct's pmbmpd, and one
//! that puts the tables together again by bgpkit-parser. What they know is what virtctl and the
//! neighbours say, whoever lies, dies or is slow meanwhile.

use anyhow::{Context, Result, bail, ensure};
use bgpkit_parser::bmp::messages::{BmpMessageBody, BmpPeerType, PeerDownReason, PeerUpTlvType, PerPeerFlags};
use bgpkit_parser::bmp::parse_bmp_msg;
use bgpkit_parser::models::{AttributeValue, BgpMessage};
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tests::daemons::Lie;
use tests::kinds::Kinds;
use tests::lab::{Lab, Process, built, run, wait_until};
use tests::replayer::Replayer;
use tests::router::{Options, Router};
use untested::not_tested;

const UP: Duration = Duration::from_secs(120);
/// What the first neighbour announces.
const ROUTES: &str = "2000";
/// What the third one does: with the others' tables more than is kept for a collector that reads
/// nothing.
const MANY: &str = "12000";
/// Octets that may wait for readers, of all kinds: a set of keys takes some megabytes.
const MOST_WAITING: usize = 16 << 20;

/// A route as it is compared: its AS path and communities.
type Route = (String, Vec<String>);
type Table = BTreeMap<String, Route>;

/// What a collector knows of a BMP peer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Peer {
    name: Option<String>,
    said: Table,
    told: Table,
    /// The told ones are before a policy: of an instance.
    before: bool,
    ends: usize,
}

/// By address and instance.
type Peers = BTreeMap<(String, Option<String>), Peer>;

#[derive(Default)]
struct Known {
    by_number: BTreeMap<(u8, u64, String), Peer>,
    initiations: usize,
    statistics: usize,
    /// Peers that were told anew.
    resets: usize,
    wrong: Option<String>,
}

impl Known {
    fn message(&mut self, bytes: Bytes) -> Result<()> {
        let mut bytes = bytes;
        let message = parse_bmp_msg(&mut bytes).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        let header = match (&message.message_body, message.per_peer_header) {
            (BmpMessageBody::InitiationMessage(_), _) => {
                self.initiations += 1;
                return Ok(());
            }
            (BmpMessageBody::TerminationMessage(_), _) => return Ok(()),
            (_, header) => header.context("a per-peer header")?,
        };
        let PerPeerFlags::PeerFlags(flags) = header.peer_flags else { bail!("{header:?}") };
        let key = (header.peer_type as u8, header.peer_distinguisher, header.peer_ip.to_string());
        match message.message_body {
            BmpMessageBody::PeerUpNotification(up) => {
                let name = up.tlvs.iter().find(|t| t.info_type == PeerUpTlvType::VrTableName);
                let name = name.map(|t| t.info_value.clone());
                ensure!((header.peer_type == BmpPeerType::Local) == name.is_some(), "{header:?}, {name:?}");
                ensure!(!self.by_number.contains_key(&key), "{key:?} is up twice");
                self.by_number.insert(key, Peer { name, ..Peer::default() });
            }
            BmpMessageBody::PeerDownNotification(down) => {
                self.by_number.remove(&key).with_context(|| format!("{key:?} was not up"))?;
                self.resets += usize::from(down.reason == PeerDownReason::PeerDeConfigured);
            }
            BmpMessageBody::StatsReport(_) => self.statistics += 1,
            BmpMessageBody::RouteMonitoring(routes) => {
                let peer = self.by_number.get_mut(&key).with_context(|| format!("{key:?} is not up"))?;
                let BgpMessage::Update(update) = routes.bgp_message else { bail!("no UPDATE") };
                peer.before |= flags.is_adj_rib_out() && !flags.is_post_policy();
                let table = if flags.is_adj_rib_out() { &mut peer.told } else { &mut peer.said };
                if update.is_end_of_rib() {
                    peer.ends += 1;
                    return Ok(());
                }
                for prefix in &update.withdrawn_prefixes {
                    table.remove(&prefix.prefix.to_string());
                }
                let path = update.attributes.as_path().map(ToString::to_string).unwrap_or_default();
                let communities = update.attributes.iter().find_map(|a| match a {
                    AttributeValue::Communities(all) => Some(all.iter().map(ToString::to_string).collect()),
                    _ => None,
                });
                let route = (path, communities.unwrap_or_default());
                for prefix in &update.announced_prefixes {
                    table.insert(prefix.prefix.to_string(), route.clone());
                }
            }
            other => bail!("{other:?}"),
        }
        Ok(())
    }
}

/// A collector.
struct Collector {
    address: SocketAddr,
    known: Arc<Mutex<Known>>,
    /// It reads nothing.
    asleep: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(address: &str) -> Result<Collector> {
        let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        // Small, so that one that reads nothing is soon seen to.
        nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::RcvBuf, &16_384)?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let (known, asleep, end): (Arc<Mutex<Known>>, Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let (k, a, e) = (known.clone(), asleep.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            while !e.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        // All is told anew.
                        locked(&k).by_number.clear();
                        if let Err(error) = collect(stream, &k, &a, &e) {
                            locked(&k).wrong = Some(format!("{error:#}"));
                        }
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        Ok(Collector { address, known, asleep, end, thread: Some(thread) })
    }

    fn stop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.asleep.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn peers(&self) -> Result<Peers> {
        let known = locked(&self.known);
        ensure!(known.wrong.is_none(), "{:?}", known.wrong);
        let all = known.by_number.iter().map(|((_, _, address), p)| ((address.clone(), p.name.clone()), p.clone()));
        let peers: Peers = all.collect();
        ensure!(peers.len() == known.by_number.len(), "two have one name: {:?}", known.by_number.keys());
        Ok(peers)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

fn locked(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(mut stream: TcpStream, known: &Mutex<Known>, asleep: &AtomicBool, end: &AtomicBool) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let (mut octets, mut piece) = (Vec::new(), vec![0; 65_536]);
    while !end.load(Ordering::Relaxed) {
        if asleep.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => octets.extend_from_slice(&piece[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let mut rest = &octets[..];
        while let Some(length) = rest.get(1..5) {
            let length = u32::from_be_bytes(length.try_into()?) as usize;
            let Some(message) = rest.get(..length) else { break };
            locked(known).message(Bytes::copy_from_slice(message))?;
            rest = &rest[length..];
        }
        octets.drain(..octets.len() - rest.len());
    }
    Ok(())
}

/// pmacct's collector.
struct Pmbmpd {
    process: Process,
    log: std::path::PathBuf,
}

impl Pmbmpd {
    fn start(lab: &Lab, port: u16) -> Result<Pmbmpd> {
        let folder = lab.folder("pmbmpd")?;
        let (file, log) = (folder.join("pmbmpd.conf"), folder.join("messages.json"));
        let text = format!(
            "bmp_daemon_ip: 127.0.0.1\nbmp_daemon_port: {port}\nbmp_daemon_msglog_file: {}\nbmp_daemon_msglog_output: json\n",
            log.display()
        );
        fs::write(&file, text)?;
        let process = lab.spawn("pmbmpd", Command::new("pmbmpd").arg("-f").arg(&file))?;
        Ok(Pmbmpd { process, log })
    }

    /// What it has written, a line of JSON each.
    fn messages(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The prefixes that a peer has said; with `out` those that it was told, and with `before` as well
    /// those that the instances would tell it, whose names pmbmpd does not repeat here.
    fn prefixes(&self, peer: &str, out: bool, before: bool) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for m in self.messages() {
            let is = |key: &str| m[key] == 1;
            if m["bmp_msg_type"] != "route_monitor" || m["peer_ip"] != peer || is("is_out") != out {
                continue;
            }
            if out && is("is_post") == before {
                continue;
            }
            let Some(prefix) = m["ip_prefix"].as_str() else { continue };
            match m["log_type"].as_str() {
                Some("update") => drop(found.insert(prefix.to_owned())),
                Some("withdraw") => drop(found.remove(prefix)),
                _ => {}
            }
        }
        found
    }
}

/// A router of three daemons, virtd-monitor beside it.
struct Scene {
    lab: Lab,
    star: tests::lab::Star,
    kinds: Kinds,
    monitor: Process,
    watcher: Replayer,
    feed: Replayer,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn start_monitor(lab: &Lab) -> Result<Process> {
    let mut command = Command::new(built("virtd-monitor")?);
    command.arg("--config").arg(lab.folder("virtd")?.join("virtd.toml")).args(["--listen", "127.0.0.1:0"]);
    lab.spawn("virtd-monitor", &mut command)
}

impl Scene {
    fn new(name: &str, collectors: &[SocketAddr], routes: &str, hold_s: &str) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(3)?;
        let sections: String = collectors
            .iter()
            .map(|c| format!("[[bmp]]\ncollector = \"{c}\"\ninstances = true\nstatistics_s = 1\n"))
            .collect();
        let edit = |text: String| format!("{text}\n{sections}");
        let kinds = Kinds::with_toml(&lab, &star, &Options::default(), |_| String::new(), edit)?;
        let hold = ["--hold-time", hold_s];
        let watcher = Replayer::dial(&lab, &star.sites[1], false, &["--monitor", hold[0], hold[1]])?;
        let feed = Replayer::dial(&lab, &star.sites[0], false, &["--generate", routes, hold[0], hold[1]])?;
        let monitor = start_monitor(&lab)?;
        let scene = Scene { lab, star, kinds, monitor, watcher, feed };
        scene.wait_out(routes.parse()?)?;
        scene.kinds.wait_voting(UP * 5)?;
        Ok(scene)
    }

    fn router(&self) -> &Router {
        &self.kinds.router
    }

    fn wait_out(&self, routes: u64) -> Result<()> {
        wait_until("all routes outside", UP * 5, || match self.router().prefixes_out("10.0.2.2") {
            Ok(n) if n == routes => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// What the collector knows is what virtctl says: who is there, and how many routes each has.
    fn wait_known(&self, collector: &Collector, peers: usize, routes: usize) -> Result<Peers> {
        let mut said = String::new();
        wait_until("the collector to know all tables", UP, || {
            let known = collector.peers().map_err(|e| format!("{e:#}"))?;
            let of = |peer: &str, who: Option<&str>| known.get(&(peer.to_owned(), who.map(str::to_owned)));
            said = known.iter().map(|(k, p)| format!("{k:?}: {} {}; ", p.said.len(), p.told.len())).collect();
            let instances = ["frr", "bird", "openbgpd"];
            let all = known.len() == peers * (1 + instances.len())
                && of("10.0.1.2", None).is_some_and(|p| p.said.len() == ROUTES.parse().unwrap_or(0))
                && of("10.0.2.2", None).is_some_and(|p| p.told.len() == routes && p.ends >= 2 && !p.before)
                && instances.iter().all(|i| {
                    of("10.0.2.2", Some(i)).is_some_and(|p| p.told.len() == routes && p.ends >= 1 && p.before)
                });
            if all { Ok(known) } else { Err(said.clone()) }
        })
    }
}

fn told<'p>(peers: &'p Peers, peer: &str, who: Option<&str>) -> Result<&'p Table> {
    let peer = peers.get(&(peer.to_owned(), who.map(str::to_owned))).with_context(|| format!("{who:?} is not up"))?;
    Ok(&peer.told)
}

/// What one sample of virtctl says is what the collector knows.
fn as_virtctl_says(scene: &Scene, peers: &Peers, prefix: &str) -> Result<()> {
    let routes: virtd_api::Routes = scene.router().ctl(&["routes", prefix])?;
    let to = routes.sessions.iter().find(|s| s.peer == "10.0.2.2").context("what the second one is told")?;
    let path = |route: &Option<virtd_api::Route>| route.as_ref().map(|r| r.as_path.clone());
    let known = |who: Option<&str>| -> Result<Option<String>> {
        Ok(told(peers, "10.0.2.2", who)?.get(prefix).map(|(path, _)| path.clone()))
    };
    ensure!(known(None)? == path(&to.published), "{prefix}: {:?} and not {:?}", known(None)?, to.published);
    for c in &to.said {
        ensure!(known(Some(&c.instance))? == path(&c.route), "{prefix}, {}: {:?}", c.instance, c.route);
    }
    Ok(())
}

#[test]
fn collectors_know_what_everybody_says() -> Result<()> {
    let (mut collector, slow) = (Collector::start("127.0.0.1:0")?, Collector::start("127.0.0.1:0")?);
    let port = free_port()?;
    let pmacct = SocketAddr::from(([127, 0, 0, 1], port));
    let mut scene = Scene::new("bmp", &[collector.address, slow.address, pmacct], ROUTES, "90")?;
    let routes = ROUTES.parse()?;
    let pmbmpd = match Command::new("pmbmpd").arg("-V").output() {
        Ok(_) => Some(Pmbmpd::start(&scene.lab, port)?),
        Err(_) => {
            not_tested("BMP as pmacct reads it", "pmbmpd is not installed");
            None
        }
    };
    let peers = scene.wait_known(&collector, 2, routes)?;
    for prefix in told(&peers, "10.0.2.2", None)?.keys().step_by(97) {
        as_virtctl_says(&scene, &peers, prefix)?;
    }
    println!("both neighbours and three instances towards each are there");

    // One lies: it is seen in its own table alone.
    let prefix = told(&peers, "10.0.2.2", None)?.keys().nth(7).context("a prefix")?.clone();
    scene
        .kinds
        .bird_lie("bird", Some(Lie { prefix: prefix.parse().map_err(anyhow::Error::msg)?, community: (65000, 666) }))?;
    let lies = |peers: &Peers, who: Option<&str>| -> Result<bool> {
        let route = told(peers, "10.0.2.2", who)?.get(&prefix).context("the prefix")?;
        Ok(route.1.iter().any(|c| c.contains("65000:666")))
    };
    wait_until("the lie to be told", UP, || {
        let peers = collector.peers().map_err(|e| e.to_string())?;
        if lies(&peers, Some("bird")).unwrap_or(false) { Ok(()) } else { Err("not yet".to_owned()) }
    })?;
    let peers = collector.peers()?;
    ensure!(!lies(&peers, None)? && !lies(&peers, Some("frr"))? && !lies(&peers, Some("openbgpd"))?);
    let mut differ: BTreeSet<&String> = BTreeSet::new();
    for (p, route) in told(&peers, "10.0.2.2", None)? {
        if told(&peers, "10.0.2.2", Some("bird"))?.get(p) != Some(route) {
            differ.insert(p);
        }
    }
    ensure!(differ == BTreeSet::from([&prefix]), "{differ:?}");
    scene.kinds.bird_lie("bird", None)?;
    wait_until("the lie to be taken back", UP, || {
        let peers = collector.peers().map_err(|e| e.to_string())?;
        if lies(&peers, Some("bird")).unwrap_or(true) { Err("not yet".to_owned()) } else { Ok(()) }
    })?;

    if let Some(pmbmpd) = &pmbmpd {
        let wanted: BTreeSet<String> = told(&collector.peers()?, "10.0.2.2", None)?.keys().cloned().collect();
        for (peer, out, before) in [("10.0.1.2", false, false), ("10.0.2.2", true, false), ("10.0.2.2", true, true)] {
            wait_until("pmbmpd to know the routes", UP, || match pmbmpd.prefixes(peer, out, before) {
                found if found == wanted => Ok(()),
                found => Err(format!("{peer} {out} {before}: {}, log: {}", found.len(), pmbmpd.process.log())),
            })?;
        }
        let of = |kind: &str| pmbmpd.messages().into_iter().filter(|m| m["bmp_msg_type"] == kind).collect::<Vec<_>>();
        for (kind, at_least) in [("init", 1), ("peer_up", 8), ("stats", 1)] {
            wait_until(&format!("pmbmpd to be told {kind}"), UP, || match of(kind) {
                found if found.len() >= at_least => Ok(()),
                found => Err(format!("{found:?}")),
            })?;
        }
        let ups = format!("{:?}", of("peer_up"));
        ensure!(ups.contains("virtd instance openbgpd"), "{ups}");
    }
    println!("who lies is seen in its own table alone");

    // The collector is away for a while.
    let address = collector.address.to_string();
    collector.stop();
    collector = Collector::start(&address)?;
    let peers = scene.wait_known(&collector, 2, routes)?;
    ensure!(locked(&collector.known).initiations == 1);

    // An instance goes and comes back.
    let old = scene.kinds.pids("bird")?;
    let leader = scene.kinds.leader("bird")?;
    scene.kinds.kill("bird", leader, Signal::SIGKILL, UP)?;
    wait_until("the instance to be gone", UP, || {
        let peers = collector.peers().map_err(|e| e.to_string())?;
        if told(&peers, "10.0.2.2", Some("bird")).is_err() { Ok(()) } else { Err("it is there".to_owned()) }
    })?;
    scene.kinds.wait_return("bird", &old, UP)?;
    ensure!(scene.wait_known(&collector, 2, routes)? == peers, "another than before");
    println!("an instance that goes takes its tables with it and brings them back");

    // One reads nothing while much comes and goes.
    slow.asleep.store(true, Ordering::Relaxed);
    let anew = locked(&slow.known).resets;
    let mut most = 0;
    for _ in 0..2 {
        let mut third = Replayer::dial(&scene.lab, &scene.star.sites[2], false, &["--generate", MANY, "--seed", "7"])?;
        wait_until("the third one's routes outside", UP, || match scene.router().prefixes_out("10.0.2.2") {
            Ok(n) if n > routes as u64 + 11_000 => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        most = most.max(scene.router().status()?.memory.waiting_bytes);
        third.finish()?;
        scene.wait_out(routes as u64)?;
        most = most.max(scene.router().status()?.memory.waiting_bytes);
    }
    slow.asleep.store(false, Ordering::Relaxed);
    let peers = scene.wait_known(&collector, 2, routes)?;
    ensure!(scene.wait_known(&slow, 2, routes)? == peers, "the slow one knows something else");
    let anew = locked(&slow.known).resets - anew;
    ensure!(anew > 0, "the slow one was not told anew");
    ensure!(most < MOST_WAITING, "{most} octets waited");
    println!("who reads nothing for a while is told anew ({anew} peers), and {most} octets are kept meanwhile");

    // virtd's worker dies, and is replaced.
    let worker = scene.router().worker();
    kill(Pid::from_raw(i32::try_from(worker)?), Signal::SIGKILL)?;
    wait_until("the next worker to tell all", UP, || match locked(&collector.known).initiations {
        2.. => Ok(()),
        n => Err(format!("{n} connections")),
    })?;
    scene.kinds.wait_voting(UP)?;
    ensure!(scene.wait_known(&collector, 2, routes)? == peers, "another than before the worker's death");
    scene.router().show(&["upgrade"])?;
    wait_until("the upgraded one to tell all", UP, || match locked(&collector.known).initiations {
        3.. => Ok(()),
        n => Err(format!("{n} connections")),
    })?;
    scene.kinds.wait_voting(UP)?;
    let peers = scene.wait_known(&collector, 2, routes)?;
    ensure!(locked(&collector.known).statistics > 0);
    println!("after virtd's death and an upgrade all is told anew");

    // What the collector knows is what the neighbours do.
    let down: Vec<Value> =
        scene.router().events("session-down").into_iter().filter(|e| e["session"] != "10.0.3.2").collect();
    ensure!(down.is_empty(), "{down:?}");
    let learned = scene.watcher.finish()?;
    learned.check_quiet()?;
    let (known, learned) = (told(&peers, "10.0.2.2", None)?, learned.routes()?);
    ensure!(known.keys().collect::<Vec<_>>() == learned.keys().collect::<Vec<_>>());
    for (prefix, (path, _)) in known {
        ensure!(learned[prefix]["as_path"] == path.as_str(), "{prefix}: {path}, {}", learned[prefix]);
    }
    scene.feed.finish()?;
    // An orderly end of virtd-monitor.
    ensure!(scene.monitor.running(), "{}", scene.monitor.log());
    scene.monitor.signal(Signal::SIGTERM)?;
    ensure!(scene.monitor.wait(UP)?.success(), "{}", scene.monitor.log());
    scene.lab.passed();
    Ok(())
}

/// How long a neighbour was told nothing, and by how much a dump to a slow collector makes an UPDATE
/// later: the same router with and without, in turns.
#[test]
#[ignore = "takes minutes: a measurement"]
fn a_dump_to_a_slow_collector() -> Result<()> {
    let routes = std::env::var("HV_ROUTES").unwrap_or_else(|_| "100000".to_owned());
    let slow = Collector::start("127.0.0.1:0")?;
    slow.asleep.store(true, Ordering::Relaxed);
    // The shortest hold time: a KEEPALIVE that is late ends a session.
    let mut scene = Scene::new("bmp-million", &[slow.address], &routes, "3")?;
    scene.router().wait_quiet(Duration::from_secs(5), UP * 10)?;
    let worker = || run("grep", &["VmRSS", &format!("/proc/{}/status", scene.router().worker())]);
    println!("{routes} routes: {} with a collector that reads nothing", worker()?.trim());
    let before = scene.router().status()?;
    println!("longest turn before the dump {:?}, waiting {}", before.longest_turn, before.memory.waiting_bytes);
    // Slow: awake a tenth of the time.
    let begun = Instant::now();
    let count: usize = routes.parse()?;
    loop {
        slow.asleep.store(false, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        slow.asleep.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(180));
        let done = slow.peers()?.values().filter(|p| p.told.len() == count).count();
        if done == 4 || begun.elapsed() > UP * 10 {
            break;
        }
    }
    let status = scene.router().status()?;
    println!(
        "told after {:.1?}: longest turn {:?}, waiting {}",
        begun.elapsed(),
        status.longest_turn,
        status.memory.waiting_bytes
    );
    println!("{}", worker()?.trim());
    ensure!(scene.router().events("session-down").is_empty());
    scene.watcher.finish()?.check_quiet()?;
    scene.feed.finish()?;
    scene.monitor.stop();
    scene.lab.passed();
    Ok(())
}
