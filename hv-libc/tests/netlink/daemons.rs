//! The real daemons: what BIRD and zebra write over route sockets natively and under the shim is
//! the same, through changes below them.

use super::super::broker::Broker;
use super::super::{alone, count, free_port, plain, under_shim};
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Routes in a batch of theirs; zebra sends several hundred in one datagram.
const ROUTES: usize = 500;
/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ip(line: &str) -> String {
    let out = Command::new("ip").args(line.split(' ')).output().expect("ip");
    assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Takes a daemon's routes away. It may replace one of them at that very moment, at which `ip`
/// gives up.
fn flush(protocol: &str) {
    let begin = Instant::now();
    loop {
        let out = Command::new("ip").args(["route", "flush", "proto", protocol]).output().expect("ip");
        let text = String::from_utf8_lossy(&out.stderr);
        if out.status.success() {
            return;
        }
        assert!(text.contains("No such process") && begin.elapsed() < PATIENCE, "ip route flush: {text}");
    }
}

/// Routes of a protocol, ids of nexthop objects left out.
fn routes(protocol: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in ip(&format!("route show proto {protocol}")).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let id = words.iter().position(|w| *w == "nhid");
        let kept = words.iter().enumerate().filter(|(i, _)| id.is_none_or(|id| *i != id && *i != id + 1));
        lines.push(kept.map(|(_, w)| *w).collect::<Vec<_>>().join(" "));
    }
    lines
}

fn wait_for(n: usize, protocol: &str, when: &str, folder: &Path) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let now = routes(protocol);
        if now.len() == n {
            return now;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{when}, {}: {} of {n} routes\n{}",
            folder.display(),
            now.len(),
            std::fs::read_to_string(folder.join("log")).unwrap_or_default()
        );
        sleep(Duration::from_millis(50));
    }
}

/// A daemon's way to live.
#[derive(Clone, Copy)]
struct Habits {
    /// Its routes' protocol, as `ip` takes it.
    protocol: &'static str,
    /// Whether it sees by itself that somebody took its routes away.
    rescans: bool,
    /// Whether it has taken notice that its routes are gone. (FRR keeps a route that is back before
    /// it looked for installed.)
    noticed: fn(&Path) -> bool,
}

/// What the kernel has with the daemon at work, after a link was down and up, after its routes were
/// taken away from under it, and after an address came back.
fn life(habits: Habits, folder: &Path, daemon: &Running) -> String {
    let mut told = String::new();
    let mut expect = |n: usize, when: &str| {
        let routes = wait_for(n, habits.protocol, when, folder);
        writeln!(told, "{when}\n{}", routes.join("\n")).expect("a string");
        let begin = Instant::now();
        while n == 0 && !(habits.noticed)(folder) {
            assert!(begin.elapsed() < PATIENCE, "{when}: the daemon takes no notice");
            sleep(Duration::from_millis(50));
        }
    };
    expect(ROUTES, "at the start");
    ip("link set hvt0 down");
    expect(0, "link down");
    ip("link set hvt0 up");
    expect(ROUTES, "link up");
    if habits.rescans {
        flush(habits.protocol);
        expect(ROUTES, "flushed");
    }
    ip("addr del 192.0.2.1/24 dev hvt0");
    expect(0, "address gone");
    ip("addr add 192.0.2.1/24 dev hvt0");
    expect(ROUTES, "address back");
    assert!(!daemon.0.is_empty());
    told
}

fn spawn(mut c: Command, folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    c.current_dir(folder).stdout(log.try_clone().expect("dup")).stderr(log);
    c.spawn().expect("the daemon")
}

/// Starts a daemon in a folder, with commands made by another's hand: natively, or under the shim.
type Start = fn(&Path, &dyn Fn(&str) -> Command) -> Running;

/// Natively and under the shim, each in a namespace of its own.
fn both_ways(habits: Habits, start: Start) {
    let (tell, told) = std::sync::mpsc::channel();
    let under = tell.clone();
    alone(move || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let daemon = start(folder.path(), &|program| plain(Path::new(program)));
        tell.send(life(habits, folder.path(), &daemon)).expect("heard");
    });
    alone(move || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let broker = Broker::start(free_port()).redirect_netlink();
        let daemon = start(folder.path(), &|program| under_shim(plain(Path::new(program)), broker.path()));
        under.send(life(habits, folder.path(), &daemon)).expect("heard");
        let log = broker.log();
        assert!(count(&log, "netlink") > 0 && count(&log, "netlink bind") > 0, "{log:?}");
    });
    // Nothing was told where there are no rights to make a namespace.
    let told: Vec<String> = told.try_iter().collect();
    assert!(told.windows(2).all(|w| w[0] == w[1]), "natively and under the shim: {told:#?}");
}

fn present(program: &str) -> bool {
    let there = Path::new(program).exists();
    if !there {
        untested::not_tested(program, "it is not installed");
    }
    there
}

fn static_routes(line: impl Fn(String) -> String) -> String {
    (0..ROUTES).map(|i| line(format!("198.18.{}.{}/32", i / 250, i % 250))).collect()
}

#[test]
fn bird() {
    const BIRD: &str = "/usr/sbin/bird";
    if !present(BIRD) {
        return;
    }
    both_ways(Habits { protocol: "bird", rescans: true, noticed: |_| true }, |folder, command| {
        let list = static_routes(|prefix| format!("  route {prefix} via 192.0.2.9;\n"));
        let text = format!(
            "router id 192.0.2.1;\nlog stderr all;\nprotocol device {{ scan time 1; }}\n\
             protocol kernel {{ scan time 1; ipv4 {{ export all; }}; }}\nprotocol kernel {{ ipv6 {{ export all; }}; }}\n\
             protocol static {{\n  ipv4;\n{list}}}\n"
        );
        std::fs::write(folder.join("bird.conf"), text).expect("written");
        let mut bird = command(BIRD);
        bird.args(["-f", "-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]);
        Running(vec![spawn(bird, folder)])
    });
}

fn no_static_routes(folder: &Path) -> bool {
    let mut vtysh = Command::new("vtysh");
    vtysh.arg("--vty_socket").arg(folder).args(["-d", "zebra", "-c", "show ip route static"]);
    let out = vtysh.output().expect("vtysh");
    out.status.success() && !String::from_utf8_lossy(&out.stdout).contains("S>")
}

#[test]
fn zebra() {
    const ZEBRA: &str = "/usr/lib/frr/zebra";
    if !present(ZEBRA) {
        return;
    }
    // FRR keeps a static route's number apart from the kernel's "static". Its daemons become the
    // user frr.
    both_ways(Habits { protocol: "196", rescans: false, noticed: no_static_routes }, |folder, command| {
        let lines = static_routes(|p| format!("ip route {p} 192.0.2.9\n"));
        std::fs::write(folder.join("static.conf"), format!("log stdout\n{lines}")).expect("written");
        std::fs::write(folder.join("zebra.conf"), "log stdout\n").expect("written");
        let owned = Command::new("chown").args(["-R", "frr:frr"]).arg(folder).status().expect("chown");
        assert!(owned.success(), "chown");
        let mut running = Running(Vec::new());
        for (program, name) in [(ZEBRA, "zebra"), ("/usr/lib/frr/staticd", "static")] {
            let mut c = command(program);
            c.arg("-f").arg(folder.join(format!("{name}.conf"))).arg("-i").arg(folder.join(format!("{name}.pid")));
            c.arg("-z").arg(folder.join("zserv.api")).arg("--vty_socket").arg(folder).args(["-P", "0"]);
            running.0.push(spawn(c, folder));
            let begin = Instant::now();
            while !folder.join("zserv.api").exists() {
                assert!(begin.elapsed() < PATIENCE, "zebra's socket");
                sleep(Duration::from_millis(50));
            }
        }
        running
    });
}
