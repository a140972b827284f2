//! Against the real kernel, each test in a network namespace of its own. They need root.

use super::*;
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;
use virtd_config::{Fib, OnExit};
use wire::bgp::Prefix;
use wire::netlink::consts::{RT_TABLE_MAIN, RTN_BLACKHOLE, RTN_UNICAST};
use wire::netlink::fib::{FibHop, FibKey, FibRoute};

#[path = "kernel_tests/leftover.rs"]
mod leftover_tests;
#[path = "kernel_tests/others.rs"]
mod others;
#[path = "kernel_tests/paths.rs"]
mod paths;
#[path = "kernel_tests/writes.rs"]
mod writes;

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test where it has a kernel's routing tables of its own; what it starts is there too.
fn in_fresh_namespace(test: fn()) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace needs root");
        ip("link set lo up");
        for (end, other, v4, v6) in
            [("a0", "a1", "10.0.0.1/24", "fd00:a::1/64"), ("b0", "b1", "10.0.1.1/24", "fd00:b::1/64")]
        {
            ip(&format!("link add {end} type veth peer name {other}"));
            ip(&format!("link set {end} up"));
            ip(&format!("link set {other} up"));
            ip(&format!("addr add {v4} dev {end}"));
            ip(&format!("addr add {v6} dev {end} nodad"));
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run_ip(arguments: &str) -> Result<String, String> {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

fn ip(arguments: &str) -> String {
    run_ip(arguments).unwrap_or_else(|e| panic!("ip {arguments}: {e}"))
}

/// The routes of a protocol, `ip`'s objects by destination; both families.
fn routes_of(protocol: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for family in ["-4", "-6"] {
        let text = ip(&format!("-j {family} route show proto {protocol} table all"));
        let routes: Vec<Value> = serde_json::from_str(text.trim()).unwrap_or_default();
        for route in routes {
            let dst = route["dst"].as_str().unwrap_or_default().to_owned();
            all.insert(dst, route);
        }
    }
    all
}

fn ours() -> BTreeMap<String, Value> {
    routes_of("245")
}

fn index_of(name: &str) -> u32 {
    let links: Vec<Value> = serde_json::from_str(&ip("-j link show")).expect("ip -j");
    let of = |l: &&Value| l["ifname"] == name;
    let found = links.iter().find(of).and_then(|l| l["ifindex"].as_u64()).expect("an interface");
    u32::try_from(found).expect("an index")
}

fn key(prefix: &str) -> FibKey {
    FibKey { table: RT_TABLE_MAIN, prefix: prefix.parse::<Prefix>().expect("a prefix"), tos: 0 }
}

fn hop(gateway: &str, device: &str) -> FibHop {
    let gateway = Some(gateway).filter(|g| !g.is_empty()).map(|g| g.parse::<IpAddr>().expect("an address"));
    let oif = Some(device).filter(|d| !d.is_empty()).map(index_of);
    FibHop { gateway, oif, encap: None, weight: 1, onlink: false }
}

fn route(hops: &[FibHop]) -> Bytes {
    FibRoute { kind: RTN_UNICAST, hops: hops.to_vec(), ..Default::default() }.to_bytes().into()
}

fn via(gateway: &str, device: &str) -> Bytes {
    route(&[hop(gateway, device)])
}

fn blackhole() -> Bytes {
    FibRoute { kind: RTN_BLACKHOLE, ..Default::default() }.to_bytes().into()
}

/// A running thread, and the loop that it believes to talk to.
struct Bench {
    line: KernelLine,
    kernel: Option<Kernel>,
    _poll: mio::Poll,
    news: Vec<KernelNews>,
}

/// Nothing periodic comes in the way.
fn calm() -> Fib {
    Fib { sweep_ms: 3_600_000, reconcile_ms: 3_600_000, ..Fib::default() }
}

impl Bench {
    fn start(config: &Fib) -> Bench {
        let poll = mio::Poll::new().expect("a poll");
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(9)).expect("a waker"));
        let (line, kernel) = start(config, Instant::now(), Arc::new(OnceLock::from(waker))).expect("the thread starts");
        Bench { line, kernel: Some(kernel), _poll: poll, news: Vec::new() }
    }

    fn send(&self, changes: Vec<(FibKey, Option<Bytes>)>) {
        let changes = changes.into_iter().map(|(key, route)| FibChange { key, route }).collect();
        self.line.send(changes).expect("the thread runs");
    }

    fn write(&self, prefix: &str, route: Bytes) {
        self.send(vec![(key(prefix), Some(route))]);
    }

    fn remove(&self, prefix: &str) {
        self.send(vec![(key(prefix), None)]);
    }

    fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Bench) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.news.extend(self.line.news.try_iter());
            if done(self) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{what}: not within {PATIENCE:?}; news: {:#?}, ours: {:#?}",
                self.news,
                ours()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait_for_routes(&mut self, what: &str, count: usize) {
        self.wait(what, |_| ours().len() == count);
    }

    /// Until the event is there; its text.
    fn wait_for_event(&mut self, kind: &str) -> String {
        self.wait(kind, |b| b.events(kind).next().is_some());
        self.events(kind).next().unwrap_or_default()
    }

    fn events<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = String> + 'a {
        self.news.iter().filter_map(move |n| match n {
            KernelNews::Event(e) if e.kind == kind => Some(e.text.clone()),
            _ => None,
        })
    }

    fn wait_for_errno(&mut self, prefix: &str, errno: Option<i32>) {
        let wanted = KernelNews::Written { key: key(prefix), errno };
        let of = |n: &&KernelNews| matches!(n, KernelNews::Written { key: k, .. } if *k == key(prefix));
        self.wait("news of a write", |b| b.news.iter().rfind(of) == Some(&wanted));
    }

    /// Which errno it is depends on the kernel, and on how far it is with taking the link down.
    fn wait_for_failure(&mut self, prefix: &str) {
        let of = |n: &&KernelNews| matches!(n, KernelNews::Written { key: k, .. } if *k == key(prefix));
        let failed = |n: &KernelNews| matches!(n, KernelNews::Written { errno: Some(_), .. });
        self.wait("news of a write that failed", |b| b.news.iter().rfind(of).is_some_and(failed));
    }

    fn counters(&self) -> FibKernel {
        self.line.counters.snapshot()
    }

    fn stop(mut self) {
        if let Some(kernel) = self.kernel.take() {
            kernel.stop();
        }
    }
}
