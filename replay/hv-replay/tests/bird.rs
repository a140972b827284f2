//! `hv-replay` on both sides of a real router: BIRD, in network namespaces of its own. Not tested
//! where BIRD is not installed or namespaces cannot be made.

mod common;

use common::{HvReplay, PATIENCE, json};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CONFIGURATION: &str = r"
router id 10.99.0.1;
protocol device {}
template bgp neighbour {
  local 10.99.0.1 as 64500;
  enable extended messages on;
  ipv4 { import all; export all; };
  ipv6 { import all; export all; };
}
protocol bgp feed from neighbour { neighbor 10.99.0.2 as 64501; }
protocol bgp monitor from neighbour { neighbor 10.99.0.3 as 64502; }
";

fn ip(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|s| s.success())
}

/// BIRD in one namespace, its neighbours' addresses in another.
struct Bird {
    router: String,
    neighbours: String,
    bird: Option<Child>,
    dir: tempfile::TempDir,
}

impl Bird {
    /// `None` where this machine cannot do it.
    fn start() -> Option<Bird> {
        let id = std::process::id();
        let (router, neighbours) = (format!("hvrp{id}r"), format!("hvrp{id}n"));
        if !Path::new("/usr/sbin/bird").exists() || !ip(&format!("netns add {router}")) {
            untested::not_tested("hv-replay beside BIRD", "there is no BIRD, or no right to make namespaces");
            return None;
        }
        let mut bird = Bird { router, neighbours, bird: None, dir: tempfile::tempdir().expect("a directory") };
        let (r, n) = (bird.router.clone(), bird.neighbours.clone());
        assert!(ip(&format!("netns add {n}")));
        assert!(ip(&format!("-n {r} link add v0 type veth peer name v0 netns {n}")));
        for (namespace, addresses) in
            [(&r, &["10.99.0.1/24", "fd99::1/64"][..]), (&n, &["10.99.0.2/24", "10.99.0.3/24", "fd99::2/64"])]
        {
            for address in addresses {
                let no_dad = if address.contains(':') { " nodad" } else { "" };
                assert!(ip(&format!("-n {namespace} address add {address} dev v0{no_dad}")));
            }
            assert!(ip(&format!("-n {namespace} link set v0 up")) && ip(&format!("-n {namespace} link set lo up")));
        }
        let file = bird.dir.path().join("bird.conf");
        std::fs::write(&file, CONFIGURATION).expect("written");
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &r, "/usr/sbin/bird", "-f", "-c"])
            .arg(&file)
            .arg("-s")
            .arg(bird.dir.path().join("ctl"));
        bird.bird = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("bird starts"));
        // It listens before it answers on its control socket.
        let until = Instant::now() + PATIENCE;
        while !bird.control("show status").contains("up and running") {
            assert!(Instant::now() < until, "BIRD does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(bird)
    }

    fn control(&self, command: &str) -> String {
        let output = Command::new("birdc").arg("-s").arg(self.dir.path().join("ctl")).args(command.split(' ')).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        if let Some(bird) = &mut self.bird {
            let _ = bird.kill();
            let _ = bird.wait();
        }
        ip(&format!("netns del {}", self.router));
        ip(&format!("netns del {}", self.neighbours));
    }
}

const FEED: [&str; 10] = [
    "--asn",
    "64501",
    "--generate",
    "10000",
    "--ipv6-share",
    "0.2",
    "--next-hop4",
    "10.99.0.2",
    "--next-hop6",
    "fd99::2",
];

/// What BIRD makes of a route on its way: its AS in front, the MED gone.
fn through_bird(mut route: Value) -> Value {
    let members = route.as_object_mut().expect("a route");
    members.remove("med");
    members.remove("canonical");
    let path = members["as_path"].as_str().expect("a path");
    members["as_path"] = format!("64500 {path}").into();
    route
}

#[test]
fn ten_thousand_routes_come_through_bird_unharmed() {
    let Some(bird) = Bird::start() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let [direct, through, summary] = ["direct.json", "through.json", "summary.json"].map(|f| dir.path().join(f));
    let text = |path: &Path| path.to_str().expect("a name").to_owned();

    let mut alone = HvReplay::start(
        None,
        &["--listen", "127.0.0.1:0", "--asn", "64500", "--until-routes", "10000", "--table", &text(&direct)],
    );
    let addr = alone.listening();
    let _feed = HvReplay::start(None, &[&["--connect", &addr], &FEED[..]].concat());
    assert!(alone.wait().success());

    let router = ["--connect", "10.99.0.1", "--peer-asn", "64500"];
    let outputs =
        ["--until-routes", "10000", "--exit-after-idle", "20s", "--table", &text(&through), "--json", &text(&summary)];
    let identity = ["--bind", "10.99.0.3", "--asn", "64502", "--script", "-"];
    let ns = Some(bird.neighbours.as_str());
    let mut monitor = HvReplay::start(ns, &[&router[..], &identity, &outputs].concat());
    monitor.event("session-up", |_| true);
    let mut feed = HvReplay::start(ns, &[&router[..], &["--bind", "10.99.0.2"], &FEED].concat());
    feed.event("feed-done", |_| true);
    assert!(monitor.wait().success());

    let summary = json(&summary);
    assert_eq!(summary["prefixes_now"]["total"], 10_000, "{summary}");
    assert_eq!((&summary["malformed_received"], &summary["sessions_reset"]), (&0.into(), &0.into()), "{summary}");
    assert!(summary["eor"]["ipv4-unicast"].is_number(), "BIRD marks the end of the empty table: {summary}");
    let (direct, through) = (json(&direct), json(&through));
    for (prefix, route) in direct.as_object().expect("a table") {
        let mut came = through[prefix].clone();
        came.as_object_mut().expect(prefix).remove("canonical");
        assert_eq!(came, through_bird(route.clone()), "{prefix}");
    }

    // A second monitor learns the same from BIRD's table, and once more when it asks.
    let mut monitor = HvReplay::start(ns, &[&router[..], &identity, &["--events-updates"]].concat());
    monitor.type_line("wait-routes 10000");
    monitor.type_line("refresh ipv6");
    monitor.event("end-of-rib", |e| e["family"] == "ipv6-unicast");
    monitor.event("route-refresh", |e| e["kind"] == "begin");
    monitor.event("route-refresh", |e| e["kind"] == "end");
    monitor.type_line("exit");
    assert!(monitor.wait().success());
}
