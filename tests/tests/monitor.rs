//! virtd-monitor beside a router of real daemons: what it shows is what virtctl says, and it goes
//! on while daemons, virtd's worker and virtd itself do not.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::daemons::Daemon;
use tests::lab::{Lab, Netns, Process, built, run, wait_until};
use tests::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use tests::operate::control;
use tests::router::{ASN, Options, Router};
use virtd_api::{Instances, Sessions, Status};

const UP: Duration = Duration::from_secs(60);
const NETWORK: &str = "198.51.100.0/24";
/// A fault shows within this.
const SHOWS: Duration = Duration::from_secs(2);

struct Monitor {
    process: Process,
    address: SocketAddr,
}

impl Monitor {
    fn start(lab: &Lab) -> Result<Monitor> {
        let mut command = Command::new(built("virtd-monitor")?);
        let config = lab.folder("virtd")?.join("virtd.toml");
        command.arg("--config").arg(config).args(["--listen", "127.0.0.1:0"]);
        let process = lab.spawn("virtd-monitor", &mut command)?;
        let address = wait_until("virtd-monitor to serve", UP, || {
            let log = process.log();
            let address = log.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
            address.ok_or(log)
        })?;
        Ok(Monitor { process, address })
    }

    /// The head and the body.
    fn get(&self, path: &str) -> Result<(String, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: monitor\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        Ok((head.to_owned(), if chunked { whole(body)? } else { body.to_owned() }))
    }

    fn json(&self, path: &str) -> Result<Value> {
        let (head, body) = self.get(path)?;
        ensure!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/json"), "{head}{body}");
        serde_json::from_str(&body).with_context(|| body.clone())
    }

    /// Every sample by its name with its labels.
    fn scrape(&self) -> Result<BTreeMap<String, f64>> {
        let (head, body) = self.get("/metrics")?;
        ensure!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/openmetrics-text"), "{head}");
        ensure!(body.ends_with("# EOF\n"), "{body}");
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
                Ok((name.to_owned(), value.parse()?))
            })
            .collect()
    }

    fn sample(&self, name: &str) -> Result<f64> {
        self.scrape()?.get(name).copied().with_context(|| format!("there is no {name}"))
    }

    fn wait(&self, name: &str, value: f64, timeout: Duration) -> Result<()> {
        wait_until(&format!("{name} to be {value}"), timeout, || match self.sample(name) {
            Ok(now) if now == value => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }
}

/// A body that came in chunks (RFC 9112 section 7.1).
fn whole(mut body: &str) -> Result<String> {
    let mut out = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").context("no chunk")?;
        let length = usize::from_str_radix(length, 16)?;
        out.push_str(rest.get(..length).context("a chunk without an end")?);
        if length == 0 {
            return Ok(out);
        }
        body = rest.get(length + 2..).context("a chunk without an end")?;
    }
}

/// virtd.toml with the users that daemons become, as which they come back to another worker.
fn with_users(text: String) -> String {
    let with = |text: String, name: &str, user: &str| {
        let line = format!("name = {name:?}\n");
        text.replace(&line, &format!("{line}user = {user:?}\n"))
    };
    with(with(text, "frr", "frr"), "openbgpd", "_openbgpd")
}

/// What is shown is what virtctl says, of a router at rest.
fn agrees(monitor: &Monitor, router: &Router) -> Result<()> {
    let (before, Sessions { sessions }, Instances { instances }) =
        (router.status()?, router.ctl(&["sessions"])?, router.ctl(&["instances"])?);
    // Older answers are not looked at.
    std::thread::sleep(Duration::from_millis(1_100));
    let found = monitor.scrape()?;
    let after: Status = router.status()?;
    let mut wanted: BTreeMap<String, f64> = BTreeMap::new();
    let mut want = |name: String, value: f64| wanted.insert(name, value);
    want("virtd_up".into(), 1.0);
    want("virtd_voters".into(), before.voters as f64);
    want("virtd_routes_published".into(), before.routes_published as f64);
    want("virtd_updates_received_total".into(), before.updates_in as f64);
    want("virtd_disagreements_now".into(), before.disagreements_now as f64);
    want("virtd_sessions{state=\"Established\"}".into(), before.sessions_up as f64);
    for s in &sessions {
        let of = |name: &str| format!("virtd_peer_{name}{{peer=\"{}\"}}", s.peer);
        want(of("established"), f64::from(s.state == "Established"));
        want(of("hold_time_seconds"), s.hold_time_s.context("no hold time")?.into());
        want(of("prefixes_received"), s.prefixes_in.context("no prefixes")? as f64);
        want(of("prefixes_sent"), s.prefixes_out.context("no prefixes")? as f64);
        want(of("updates_received_total"), s.updates_in.context("no UPDATEs")? as f64);
        want(of("updates_sent_total"), s.updates_out.context("no UPDATEs")? as f64);
        want(of("resets_total"), s.resets as f64);
        for leg in &s.legs {
            let of = |name: &str| format!("virtd_leg_{name}{{peer=\"{}\",daemon=\"{}\"}}", s.peer, leg.instance);
            want(of("established"), f64::from(leg.state == "Established"));
            want(of("votes"), leg.votes.into());
        }
    }
    for i in &instances {
        let of = |name: &str| format!("virtd_instance_{name}{{daemon=\"{}\"}}", i.name);
        want(of("attached"), i.attached.into());
        want(of("voting"), f64::from(i.state == "voting"));
        want(of("legs_established"), i.legs_up as f64);
        want(of("disagreements_total"), i.dissents_total as f64);
    }
    for (name, value) in &wanted {
        ensure!(found.get(name) == Some(value), "{name} is {:?} and not {value}", found.get(name));
    }
    let uptime = found.get("virtd_uptime_seconds").copied().context("no uptime")?;
    ensure!((before.uptime_us as f64..=after.uptime_us as f64).contains(&(uptime * 1e6)), "{uptime}");
    let memory = found.get("virtd_process_resident_memory_bytes{process=\"worker\"}");
    ensure!(memory.is_some_and(|octets| *octets > 1e6), "the worker's memory is {memory:?}");
    Ok(())
}

/// A hundred who look cost virtd what one does.
fn a_hundred_viewers(monitor: &Monitor) -> Result<()> {
    let polls = || monitor.sample("virtd_monitor_polls_total");
    let (before, begun) = (polls()?, Instant::now());
    std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..100).map(|_| scope.spawn(|| monitor.scrape().map(|_| ()))).collect();
        viewers.into_iter().try_for_each(|v| v.join().expect("a viewer"))
    })?;
    let asked = polls()? - before;
    let most = begun.elapsed().as_secs_f64().ceil() + 1.0;
    ensure!(asked <= most, "virtd was asked {asked} times within {:?}", begun.elapsed());
    Ok(())
}

/// Somebody who watches the page live.
struct Watcher(BufReader<TcpStream>);

impl Watcher {
    fn new(monitor: &Monitor) -> Result<Watcher> {
        let mut stream = TcpStream::connect(monitor.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /live HTTP/1.1\r\nHost: monitor\r\n\r\n")?;
        Ok(Watcher(BufReader::new(stream)))
    }

    /// The next event with `part` in it; how long that took.
    fn wait(&mut self, part: &str, timeout: Duration) -> Result<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < timeout {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            if line.starts_with("data:") && line.contains(part) {
                return Ok(begun.elapsed());
            }
        }
        anyhow::bail!("no event with {part:?} within {timeout:?}")
    }
}

/// The page, what it is told not to do, and a prefix.
fn the_page(monitor: &Monitor) -> Result<()> {
    let (head, page) = monitor.get("/")?;
    let head = head.to_lowercase();
    ensure!(head.starts_with("http/1.1 200 ") && !head.contains("set-cookie"), "{head}");
    ensure!(head.contains("content-security-policy: default-src 'none';"), "{head}");
    for part in ["openbgpd", "10.0.1.2", "voting", "noscript"] {
        ensure!(page.contains(part), "{part:?} is not in {page}");
    }
    let (_, found) = monitor.get("/prefix?q=198.51.100.7")?;
    for part in ["198.51.100.0/24 (the longest that has 198.51.100.7)", "10.0.2.2", "via self, path 65000 65001, IGP"] {
        ensure!(found.contains(part), "{part:?} is not in {found}");
    }
    let (head, body) = monitor.get("/api/birdwatcher/routes/prefix?prefix=198.51.100.0/24")?;
    let found: Value = serde_json::from_str(&body)?;
    ensure!(head.contains("application/json") && found["api"]["result_from_cache"] == true, "{head}{body}");
    let route = &found["routes"][0];
    ensure!(route["from_protocol"] == "10.0.1.2" && route["bgp"]["as_path"] == json!(["65001"]), "{body}");
    let (_, body) = monitor.get("/api/birdwatcher/protocols/bgp")?;
    ensure!(serde_json::from_str::<Value>(&body)?["protocols"]["10.0.2.2"]["state"] == "up", "{body}");
    let (head, refused) = monitor.get("/prefix?q=%3Cscript%3E")?;
    ensure!(head.starts_with("HTTP/1.1 400 ") && !refused.contains("<script>"), "{head}{refused}");
    for (path, status) in [("/nothing", "404"), ("/live.js", "200"), ("/style.css", "200")] {
        ensure!(monitor.get(path)?.0.starts_with(&format!("HTTP/1.1 {status} ")), "{path}");
    }
    Ok(())
}

/// What the manual says of the unit is so.
#[test]
fn the_unit_is_little_exposed() -> Result<()> {
    if run("systemd-analyze", &["--version"]).is_err() {
        untested::not_tested("how exposed the unit of virtd-monitor is", "there is no systemd-analyze");
        return Ok(());
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd/virtd-monitor.service");
    let said = run("systemd-analyze", &["security", "--offline=true", &unit.display().to_string()])?;
    let level =
        said.lines().find_map(|l| l.split_once("virtd-monitor.service: ")?.1.split(' ').next()?.parse::<f64>().ok());
    let level = level.with_context(|| said.clone())?;
    ensure!(level <= 1.0, "{level}");
    Ok(())
}

/// The looking glass lists what a peer has said, and what it was told.
fn the_tables(monitor: &Monitor, other: &mut Neighbour, ns: &Netns) -> Result<()> {
    let list = |path: &str| monitor.json(&format!("/api/birdwatcher/routes/{path}"));
    for path in ["protocol/10.0.1.2", "peer/10.0.1.2"] {
        let said = list(path)?;
        ensure!(said["routes"].as_array().is_some_and(|all| all.len() == 1), "{said}");
        let route = &said["routes"][0];
        for (key, value) in [("network", NETWORK), ("gateway", "10.0.1.2"), ("from_protocol", "10.0.1.2")] {
            ensure!(route[key] == value, "{key} of {route}");
        }
        ensure!(route["bgp"]["as_path"] == json!(["65001"]) && route["bgp"]["origin"] == "IGP", "{route}");
        ensure!(route["learnt_from"] == "10.0.1.2" && said["api"]["Version"].is_string(), "{said}");
    }
    let told = list("export/10.0.2.2")?;
    let heard = control(other.instance().context("a daemon")?, ns, "show route all protocol peer0")?;
    let told: Vec<&str> =
        told["routes"].as_array().context("no routes")?.iter().flat_map(|r| r["network"].as_str()).collect();
    let networks: Vec<&str> = heard.lines().filter_map(|l| l.split(' ').next().filter(|w| w.contains('/'))).collect();
    ensure!(told == [NETWORK] && networks == told, "{told:?} was told, and it has {heard}");
    ensure!(heard.contains("65000 65001"), "{heard}");
    let told = list("export/10.0.2.2")?;
    ensure!(told["api"]["result_from_cache"] == true, "{told}");
    ensure!(told["routes"][0]["bgp"]["as_path"] == json!(["65000", "65001"]), "{told}");
    for path in ["export/10.0.1.2", "protocol/10.0.2.2", "filtered/10.0.1.2", "noexport/10.0.1.2"] {
        let none = list(path)?;
        ensure!(none["routes"] == json!([]), "{path}: {none}");
    }
    ensure!(list("count/protocol/10.0.1.2")?["routes"] == 1);
    for kind in ["protocol", "peer", "export", "filtered", "noexport", "count/protocol"] {
        let (head, body) = monitor.get(&format!("/api/birdwatcher/routes/{kind}/192.0.2.77"))?;
        ensure!(head.starts_with("HTTP/1.1 404 ") && body.contains("192.0.2.77"), "{head}{body}");
    }
    Ok(())
}

#[test]
fn what_is_shown_is_so_and_goes_on() -> Result<()> {
    let mut lab = Lab::new("monitor")?;
    let star = lab.star(2)?;
    let options = Options::default();
    let mut router = Router::with_toml(&lab, &star, &options, with_users)?;
    router.launch(&lab, &star, &options)?;
    let networks = prefixes(&[NETWORK])?;
    let spec = |networks| NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks };
    let one = Neighbour::start(&lab, &star.sites[0], Kind::Daemon(Daemon::Bird), &spec(networks))?;
    let mut other = Neighbour::start(&lab, &star.sites[1], Kind::Daemon(Daemon::Bird), &spec(Vec::new()))?;
    one.wait_established(UP)?;
    other.wait_established(UP)?;
    router.wait_voting(UP)?;
    router.wait_quiet(Duration::from_secs(4), UP)?;
    let mut monitor = Monitor::start(&lab)?;
    agrees(&monitor, &router)?;
    a_hundred_viewers(&monitor)?;
    the_page(&monitor)?;
    the_tables(&monitor, &mut other, &star.sites[1].ns)?;
    let mut watchers = (0..100).map(|_| Watcher::new(&monitor)).collect::<Result<Vec<Watcher>>>()?;

    // A daemon dies: within two seconds of virtd's noticing it shows, and so does its return.
    router.instance("bird")?.crash();
    router.wait_state("bird", "absent", UP)?;
    let took = watchers[99].wait("bird is not there", SHOWS)?;
    println!("the death of a daemon is on the page {} ms after virtd has noticed it", took.as_millis());
    let polls = monitor.sample("virtd_monitor_polls_total")?;
    let begun = Instant::now();
    watchers.iter_mut().try_for_each(|w| w.wait("bird is not there", UP).map(|_| ()))?;
    let asked = monitor.sample("virtd_monitor_polls_total")? - polls;
    ensure!(asked <= begun.elapsed().as_secs_f64() + 2.0, "a hundred who watch: virtd was asked {asked} times");
    drop(watchers);
    let missing = "virtd_problems{condition=\"instance-missing\",level=\"critical\"}";
    monitor.wait(missing, 1.0, SHOWS)?;
    ensure!(monitor.sample("virtd_instance_attached{daemon=\"bird\"}")? == 0.0);
    router.instance("bird")?.launch(&lab)?;
    monitor.wait("virtd_instance_voting{daemon=\"bird\"}", 1.0, UP)?;
    monitor.wait(missing, 0.0, UP)?;

    // The worker is killed, and the scrape goes on.
    let worker = Pid::from_raw(i32::try_from(router.worker())?);
    kill(worker, Signal::SIGKILL)?;
    wait_until("the next worker to be shown", UP, || match monitor.scrape() {
        Ok(found) if found.get("virtd_worker_restarts_total") == Some(&1.0) => Ok(()),
        Ok(_) => Err("not yet".to_owned()),
        Err(e) => Err(format!("the scrape failed: {e:#}")),
    })?;
    router.wait_voting(UP)?;

    // One that hangs holds a scrape up for a bounded time.
    let worker = Pid::from_raw(i32::try_from(router.worker())?);
    kill(worker, Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(1_100));
    let begun = Instant::now();
    let hung = monitor.sample("virtd_up");
    kill(worker, Signal::SIGCONT)?;
    ensure!(hung? == 0.0 && begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    monitor.wait("virtd_up", 1.0, UP)?;

    // virtd itself is gone, and comes back.
    router.virtd.stop();
    monitor.wait("virtd_up", 0.0, SHOWS)?;
    ensure!(monitor.sample("virtd_problems{condition=\"no-answer\",level=\"critical\"}")? == 1.0);
    router.virtd = router.spawn_virtd(&lab)?;
    monitor.wait("virtd_up", 1.0, UP)?;
    ensure!(monitor.process.running(), "{}", monitor.process.log());
    lab.passed();
    Ok(())
}
