//! Each hook twice: a probe makes a daemon's calls natively and under the shim, and what it prints
//! must be equal.

mod broker;
mod netlink;
use broker::Broker;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The probe, compiled once for all tests.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| compiled("probe.c", &[]))
}

/// A program of this folder, compiled.
fn compiled(source: &str, more: &[&str]) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(Path::new(source).file_stem().expect("a name"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source);
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut run = Command::new(cc);
    run.args(["-Wall", "-Wextra", "-Werror", "-pthread"]).args(more).arg("-o").arg(&out).arg(source);
    assert!(run.status().expect("a C compiler").success(), "the probe does not compile");
    out
}

/// The library under test. `cargo test` alone does not build a cdylib, and would leave an old one
/// to be tested; `make test` has built it, and may run this as another user who has no cargo.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // This test's binary is in the folder `deps` beside it.
        let own = std::env::current_exe().expect("own path");
        let folder = own.ancestors().nth(2).expect("the build folder");
        let library = folder.join("libhvlibc.so");
        if changed(&library).is_none_or(|built| built < newest_source()) {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "hv-libc"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            build.arg("--target-dir").arg(folder.parent().expect("the target folder"));
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo").success(), "the library does not build");
        }
        library
    })
}

fn changed(p: &Path) -> Option<SystemTime> {
    p.metadata().and_then(|m| m.modified()).ok()
}

/// When what the library is made of was last changed.
fn newest_source() -> SystemTime {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [here.join("src"), here.join("src/netlink")];
    let sources = folders.into_iter().flat_map(|f| f.read_dir().expect("sources").flatten()).map(|e| e.path());
    let others = [
        here.join("Cargo.toml"),
        here.join("build.rs"),
        here.join("../wire/src/lib.rs"),
        here.join("../wire/src/shim.rs"),
    ];
    sources.chain(others).filter_map(|p| changed(&p)).max().expect("sources")
}

/// A port free on both loopback addresses, below those the kernel gives to dialling sockets.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + ((std::process::id() as u16 % 1000).wrapping_mul(20) + step) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok()
        {
            return port;
        }
    }
}

fn command(scenario: &str, port: u16) -> Command {
    let mut c = plain(probe());
    c.arg(scenario).arg(port.to_string());
    c
}

fn plain(program: &Path) -> Command {
    let mut c = Command::new(program);
    c.env_remove("HV_SOCKET").env_remove("HV_INSTANCE").env_remove("LD_PRELOAD").stdin(Stdio::null());
    c
}

fn shimmed(scenario: &str, port: u16, socket: &Path) -> Command {
    under_shim(command(scenario, port), socket)
}

fn under_shim(mut c: Command, socket: &Path) -> Command {
    c.env("LD_PRELOAD", library()).env("HV_SOCKET", socket).env("HV_INSTANCE", "probe");
    c
}

fn text(o: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&o.stdout),
        if o.status.success() { String::new() } else { format!("{}\n", o.status) }
    )
}

/// Runs a scenario both ways; gives what the broker was asked.
fn same(scenario: &str) -> Vec<String> {
    let native = text(&command(scenario, free_port()).output().expect("probe"));
    let port = free_port();
    let broker = Broker::start(port);
    let run = shimmed(scenario, port, broker.path()).output().expect("probe");
    compare(scenario, &native, &run);
    broker.log()
}

/// What was said natively, and a run under the shim.
fn compare(scenario: &str, native: &str, run: &Output) {
    let ours = text(run);
    let errors = String::from_utf8_lossy(&run.stderr);
    for (i, (a, b)) in native.lines().zip(ours.lines()).enumerate() {
        assert_eq!(
            a, b,
            "{scenario}: line {i}: natively (left) and under the shim (right)\n{native}\n--- shim\n{ours}\n{errors}"
        );
    }
    assert_eq!(native, ours, "{scenario}");
    assert_eq!(errors, "", "{scenario}: nothing is printed when nothing is wrong");
}

fn count(log: &[String], beginning: &str) -> usize {
    log.iter().filter(|l| l.starts_with(beginning)).count()
}

#[test]
fn refused_connections() {
    for scenario in ["refused4", "refused6"] {
        let log = same(scenario);
        assert_eq!((count(&log, "connect blocking=false"), count(&log, "connect blocking=true")), (2, 1), "{log:?}");
    }
}

#[test]
fn sessions_both_ways() {
    for (scenario, v6_only) in [("session4", false), ("session6", true)] {
        let log = same(scenario);
        assert_eq!((count(&log, &format!("bind v6_only={v6_only}")), count(&log, "listen")), (1, 1), "{log:?}");
        assert_eq!((count(&log, "connect blocking=false"), count(&log, "connect blocking=true")), (1, 1), "{log:?}");
    }
}

#[test]
fn lengths_of_addresses_and_errno() {
    for scenario in ["room4", "room6"] {
        assert_eq!(count(&same(scenario), "bind"), 1);
    }
}

#[test]
fn options() {
    for (scenario, ttl) in
        [("options4", format!("set {} {}", libc::IPPROTO_IP, libc::IP_TTL)), ("options6", "set 41 16".to_owned())]
    {
        let log = same(scenario);
        assert!(log.contains(&ttl), "{ttl} reaches the broker: {log:?}");
        assert_eq!(
            count(&log, &format!("set {} {}", libc::IPPROTO_TCP, libc::TCP_NODELAY)),
            0,
            "the shim answers that alone"
        );
    }
}

#[test]
fn duplicates_and_children() {
    same("duplicates");
}

#[test]
fn listening_socket_passed_to_a_chrooted_process() {
    let log = same("passed");
    assert_eq!((count(&log, "hello"), count(&log, "bind"), count(&log, "listen")), (2, 1, 1), "{log:?}");
}

#[test]
fn channel_closed_by_the_daemon() {
    let log = same("close_all");
    assert!(count(&log, "hello") >= 2, "{log:?}");
}

#[test]
fn sockets_that_are_not_bgp() {
    let log = same("others");
    assert_eq!(log.iter().filter(|l| *l != "hello" && *l != "names").count(), 0, "{log:?}");
    // Asked once for each end of the pair at most; sockets with names and sockets not connected are
    // known to be the daemon's own.
    assert!(count(&log, "names") <= 2, "{log:?}");
}

#[test]
fn forks_while_threads_are_inside() {
    same("forks");
}

#[test]
fn inert_without_environment() {
    let native = text(&command("session4", free_port()).output().expect("probe"));
    let run = command("session4", free_port()).env("LD_PRELOAD", library()).output().expect("probe");
    assert_eq!(text(&run), native);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(errors.lines().count() == 1 && errors.contains("HV_SOCKET"), "{errors}");
}

#[test]
fn no_broker() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // The port is virtd's to say; without it the default is held back.
    let run = shimmed("absent", 179, &dir.path().join("nobody")).output().expect("probe");
    let out = text(&run);
    assert!(
        out.starts_with("connect: -1 ENETDOWN\nbind: 0\nnever connected getsockname: v4 0.0.0.0 0 len 16\n"),
        "{out}"
    );
    let others = out.split_once("unix type").map(|(_, rest)| rest);
    let native = text(&command("others", 179).output().expect("probe"));
    assert_eq!(others, native.split_once("unix type").map(|(_, rest)| rest), "everything else works as ever");
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(errors.lines().count() == 1 && errors.contains("nobody"), "{errors}");
}

/// Where a peer listens on another port only the broker knows; elsewhere connections are the
/// daemon's own.
#[test]
fn other_ports_are_asked_for() {
    for scenario in ["refused4", "refused6"] {
        let native = text(&command(scenario, free_port()).output().expect("probe"));
        let (bgp, port) = (free_port(), free_port());
        for (peer, connects) in [(port, 3), (0, 0)] {
            let broker = Broker::start(bgp).peer_at(peer);
            let run = shimmed(scenario, port, broker.path()).output().expect("probe");
            compare(scenario, &native, &run);
            let log = broker.log();
            assert!(count(&log, "may connect") >= 3, "{log:?}");
            assert_eq!(count(&log, "connect blocking"), connects, "{log:?}");
        }
        let broker = Broker::start(bgp).peer_at(port + 1);
        let run = shimmed(scenario, port, broker.path()).output().expect("probe");
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(text(&run).contains("-1 ECONNREFUSED"), "{}", text(&run));
        assert!(errors.lines().count() > 0 && errors.lines().all(|l| l == "libhvlibc: not this port"), "{errors}");
        assert_eq!(count(&broker.log(), "connect blocking"), 0);
    }
}

/// A daemon that was started before virtd listens once that is there, and its next connect
/// succeeds.
#[test]
fn daemon_before_the_broker() {
    let dir = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    // Which port is BGP's nobody knows yet but by default.
    alone(move || {
        let mut run = shimmed("early", 179, &dir.path().join("virtd.sock"));
        let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("probe");
        let (mut out, mut word) = (child.stdout.take().expect("piped"), child.stdin.take().expect("piped"));
        let mut seen = String::new();
        until_ready(&mut out, &mut seen, 1);
        let broker = Broker::start_in(dir, 179);
        word.write_all(b"x").expect("pipe");
        let run = child.wait_with_output().expect("probe");
        out.read_to_string(&mut seen).expect("pipe");
        let errors = String::from_utf8_lossy(&run.stderr);
        let expected = "bind: 0\nttl: 0\nlisten: 0\nlistening poll: 1 in hup\naccept: -1 ECONNABORTED\n\
            connect: -1 ENETDOWN\nconnect to another port: -1 ENETDOWN\nready\n\
            listening getsockname: v4 127.0.0.1 bgp len 16\nlistening getpeername: -1 ENOTCONN\n\
            dialler read 0\nlistening poll: 1 in\naccept: positive\n\
            accepted getsockname: v4 127.0.0.1 bgp len 16\naccepted getpeername: v4 127.0.0.1 ephemeral len 16\n\
            connect: 0\n";
        assert_eq!(seen, expected, "{errors}");
        assert!(errors.lines().count() == 1 && errors.contains("virtd does not answer"), "{errors}");
        let log = broker.log();
        assert_eq!((count(&log, "bind v6_only=false options="), count(&log, "listen")), (1, 1), "{log:?}");
    });
}

/// A daemon in the background has /dev/null for its stderr: the line reaches the system's log.
#[test]
fn the_system_log_has_the_line() {
    alone(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let mount = |words: &str| {
            assert!(Command::new("mount").args(words.split(' ')).status().expect("mount").success(), "mount {words}");
        };
        let dev = dir.path().join("dev");
        std::fs::create_dir(&dev).expect("a folder");
        let log = std::os::unix::net::UnixDatagram::bind(dev.join("log")).expect("a socket");
        std::fs::write(dev.join("null"), "").expect("a file");
        mount("--make-rprivate /");
        mount(&format!("--bind /dev/null {}", dev.join("null").display()));
        mount(&format!("--rbind {} /dev", dev.display()));
        let child = shimmed("absent", 179, &dir.path().join("nobody"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("probe");
        let pid = child.id();
        assert!(child.wait_with_output().expect("probe").status.success());
        let mut buf = [0; 512];
        log.set_nonblocking(true).expect("non-blocking");
        let n = log.recv(&mut buf).expect("a line");
        let line = String::from_utf8_lossy(&buf[..n]);
        assert!(line.starts_with(&format!("<27>libhvlibc[{pid}]: virtd does not answer at ")), "{line}");
        assert!(log.recv(&mut buf).is_err(), "one line");
    });
}

#[test]
fn broker_dies() {
    let port = free_port();
    let broker = Broker::start(port);
    let mut child = shimmed("orphan", port, broker.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("probe");
    let mut out = child.stdout.take().expect("piped");
    let mut seen = Vec::new();
    let mut buf = [0; 512];
    while !String::from_utf8_lossy(&seen).contains("accept") {
        let n = out.read(&mut buf).expect("pipe");
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buf[..n]);
    }
    drop(broker);
    child.stdin.take().expect("piped").write_all(b"x").expect("pipe");
    out.read_to_end(&mut seen).expect("pipe");
    let run = child.wait_with_output().expect("probe");
    let out = String::from_utf8_lossy(&seen);
    for line in [
        "leg read 0",
        "accept: -1 ECONNABORTED",
        "leg getpeername: v4 127.0.0.1 ephemeral len 16",
        "connect: -1 ENETDOWN",
        "not connected type 1 domain 2 protocol 6 acceptconn 0",
    ] {
        assert!(out.lines().any(|l| l == line), "{line:?} missing in\n{out}");
    }
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(errors.lines().count() == 1 && errors.contains("virtd does not answer"), "{errors}");
}

/// Runs `f` in a network namespace of its own, with addresses to dial; not tested where that takes
/// rights we do not have.
fn alone(f: impl FnOnce() + Send + 'static) {
    // By the test's name, for what is not tested.
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(|| {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            untested::needs_root(false);
            return;
        }
        for line in [
            "link set lo up",
            "link add hvt0 type veth peer name hvt1",
            "link set hvt0 up",
            "link set hvt1 up",
            "addr add 192.0.2.1/24 dev hvt0",
            "addr add fe80::1/64 dev hvt0 nodad",
            // Nobody at the other end of the cable has that address.
            "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev hvt0",
        ] {
            assert!(Command::new("ip").args(line.split(' ')).status().expect("ip").success(), "ip {line}");
        }
        // Three seconds until a connect is given up, not two minutes.
        std::fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").expect("sysctl");
        f();
    });
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn connect_that_times_out() {
    alone(|| {
        let log = same("timed_out");
        assert_eq!(count(&log, "connect blocking=false"), 1, "{log:?}");
    });
}

#[test]
fn link_local_addresses_keep_their_scope() {
    alone(|| {
        let log = same("scope");
        assert_eq!((count(&log, "bind v6_only=true"), count(&log, "connect")), (1, 1), "{log:?}");
    });
}

#[test]
fn sockets_of_another_network_namespace() {
    alone(|| {
        let port = free_port();
        let broker = Broker::start(port);
        let run = shimmed("elsewhere", port, broker.path()).output().expect("probe");
        assert_eq!(
            text(&run),
            "bind there: -1 ENETDOWN\nconnect there: -1 ENETDOWN\nother port there: 0\nbind here: 0\n",
            "a socket belongs to the namespace it was made in"
        );
        let errors = String::from_utf8_lossy(&run.stderr);
        assert!(errors.lines().all(|l| l.contains("another network namespace")) && !errors.is_empty(), "{errors}");
        assert_eq!(count(&broker.log(), "bind"), 1, "virtd hears of its own namespace's socket only");
    });
}

/// Reads what a probe says until it is ready for the next word.
fn until_ready(out: &mut impl Read, seen: &mut String, times: usize) {
    let mut buf = [0; 512];
    while seen.matches("ready\n").count() < times {
        let n = out.read(&mut buf).expect("pipe");
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
}

fn outlives_the_broker(scenario: &str, flags: &str) {
    let port = free_port();
    let broker = Broker::start(port);
    let mut run = shimmed(scenario, port, broker.path());
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("probe");
    let (mut out, mut word) = (child.stdout.take().expect("piped"), child.stdin.take().expect("piped"));
    let mut seen = String::new();
    until_ready(&mut out, &mut seen, 1);
    let dir = broker.kill();
    word.write_all(b"x").expect("pipe");
    until_ready(&mut out, &mut seen, 2);
    let broker = Broker::start_in(dir, port);
    word.write_all(b"x").expect("pipe");
    let run = child.wait_with_output().expect("probe");
    out.read_to_string(&mut seen).expect("pipe");
    let expected = format!(
        "bind: 0\nlisten: 0\n\
         ready\nlistening poll: 1 in hup\naccept: -1 ECONNABORTED\n\
         ready\nlistening poll: 1 in hup\naccept: -1 ECONNABORTED\n\
         listening getsockname: v4 127.0.0.1 bgp len 16\nlistening getpeername: -1 ENOTCONN\nlistening flags:{flags}\n\
         dialler read 0\nlistening poll: 1 in\naccept: positive\n\
         accepted getsockname: v4 127.0.0.1 bgp len 16\naccepted getpeername: v4 127.0.0.1 ephemeral len 16\n\
         dialled getpeername: 0\n"
    );
    let errors = String::from_utf8_lossy(&run.stderr);
    assert_eq!(seen, expected, "{errors}");
    assert!(errors.lines().count() == 1 && errors.contains("virtd does not answer"), "{errors}");
    let log = broker.log();
    assert_eq!((count(&log, "bind v6_only=false options=1"), count(&log, "listen")), (1, 1), "told all again: {log:?}");
}

#[test]
fn listening_socket_outlives_the_broker() {
    outlives_the_broker("restarted", " nonblock");
}

#[test]
fn blocking_listening_socket_outlives_the_broker() {
    outlives_the_broker("restarted_blocking", "");
}

/// The oldest C library that an instance's root may have: Debian 11's.
const OLDEST: (u32, u32) = (2, 31);

/// Built with a newer C library, it asks for nothing that Debian 11's has not (src/old_libc.rs). A
/// symbol listed here has to be added there.
#[test]
fn an_older_c_library_can_load_it() {
    let out =
        Command::new("objdump").arg("-T").arg(library()).output().expect("binutils, which a C compiler comes with");
    assert!(out.status.success(), "objdump: {}", String::from_utf8_lossy(&out.stderr));
    let table = text(&out);
    let wanted: Vec<(&str, &str)> = table
        .lines()
        .filter(|l| l.contains("*UND*"))
        .filter_map(|l| {
            let (_, rest) = l.split_once("(GLIBC_")?;
            rest.split_once(')')
        })
        .collect();
    assert!(wanted.len() > 10, "no versions of symbols in\n{table}");
    let number = |version: &str| {
        let mut parts = version.split('.').filter_map(|n| n.parse().ok());
        (parts.next().unwrap_or(u32::MAX), parts.next().unwrap_or(u32::MAX))
    };
    let young: Vec<_> = wanted.iter().filter(|(version, _)| number(version) > OLDEST).collect();
    assert!(young.is_empty(), "these need a younger C library than {OLDEST:?}: {young:?}");
    let shown = table.lines().filter(|l| l.contains("__wrap_")).count();
    assert_eq!(shown, 0, "the daemon would see what only the library is to call:\n{table}");
}
