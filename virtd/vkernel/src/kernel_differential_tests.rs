//! The same requests to the kernel that runs, in a network namespace of their own, and to a virtual
//! one: every errno is compared, and what both show afterwards. Needs root.

use super::*;
use crate::io::{Change, Link};
use crate::other_routes;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use wire::netlink::nexthop::GroupEntry;
use wire::netlink::route::PathHop;
use wire::netlink::{Frames, RawAttr, Writer};

/// Two veth pairs that are up, with an address of each family; one that is down.
const A: u32 = 10;
const C: u32 = 12;
const E: u32 = 14;
const LINKS: [(u32, &str, bool); 3] = [(A, "a", true), (C, "c", true), (E, "e", false)];
const ADDRESSES: [(u32, &str, u8); 4] =
    [(A, "10.0.0.1", 24), (C, "10.0.1.1", 24), (A, "2001:db8::1", 64), (C, "2001:db8:1::1", 64)];

/// Whose routes the virtual kernel does not have: the kernel's own, and an operator's.
const OTHERS: [u8; 2] = [RTPROT_KERNEL, RTPROT_STATIC];

fn ip(words: &str) {
    said(words);
}

fn said(words: &str) -> String {
    let out = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn name(index: u32) -> &'static str {
    LINKS.iter().find(|l| l.0 == index).unwrap().1
}

/// Both kernels.
struct Pair {
    fd: OwnedFd,
    seq: u32,
    virt: VirtualKernel,
    system: System,
    effects: Effects,
    /// The last new routes that were asked for.
    recent: VecDeque<RouteMessage>,
    log: Vec<String>,
}

impl Pair {
    fn new() -> Pair {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let mut pair = Pair {
            fd: socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .unwrap(),
            seq: 0,
            virt: VirtualKernel::new(),
            system: System::default(),
            effects: Effects::default(),
            recent: VecDeque::new(),
            log: Vec::new(),
        };
        bind(pair.fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
        pair.link(1, "lo", true, true);
        for (index, name, up) in LINKS {
            ip(&format!("link add name {name} index {index} type veth peer name {name}p"));
            ip(&format!("link set dev {name} addrgenmode none"));
            ip(&format!("link set dev {name}p addrgenmode none"));
            ip(&format!("link set dev {name}p up"));
            if up {
                ip(&format!("link set dev {name} up"));
            }
            pair.link(index, name, up, up);
        }
        for (index, address, length) in ADDRESSES {
            pair.address(index, address, length, true);
        }
        // From here on table 100 is there.
        let mut m = RouteMessage { family: AF_INET6, dst_len: 128, dst: address("2001:db8::7"), ..Default::default() };
        (m.kind, m.table) = (RTN_BLACKHOLE, 100);
        assert_eq!(pair.send(RTM_NEWROUTE, NLM_F_CREATE, &m.to_payload().unwrap()), 0);
        assert_eq!(pair.send(RTM_DELROUTE, 0, &m.to_payload().unwrap()), 0);
        pair
    }

    fn news(&mut self, news: Change) {
        let was = self.system.clone_link(&news);
        self.system.apply(&news);
        self.effects = Effects::default();
        self.virt.system_changed(&news, was.as_ref(), &self.system, &mut self.effects);
        self.read_others();
    }

    /// The kernel's own routes, read anew: those of subnets.
    fn read_others(&mut self) {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = RouteMessage { family, ..Default::default() }.to_payload().unwrap();
            for payload in self.real_dump(RTM_GETROUTE, &request).1 {
                let m = RouteMessage::parse(&payload).unwrap();
                if let Some((key, routes, _)) = other_routes(&m, 0).filter(|_| OTHERS.contains(&m.protocol)) {
                    all.extend(routes.into_iter().map(|route| (key, route)));
                }
            }
        }
        self.system.apply(&Change::Routes(Some(all)));
    }

    fn link(&mut self, index: u32, name: &str, up: bool, running: bool) {
        self.news(Change::Link(Link { index, name: name.to_owned(), up, running }));
    }

    fn address(&mut self, index: u32, text: &str, length: u8, add: bool) {
        let address: IpAddr = text.parse().unwrap();
        let nodad = if add && address.is_ipv6() { " nodad" } else { "" };
        let verb = if add { "add" } else { "del" };
        ip(&format!("addr {verb} {text}/{length} dev {}{nodad}", name(index)));
        self.news(match add {
            true => Change::Address { index, address, length },
            false => Change::AddressGone { index, address, length },
        });
    }

    fn set_up(&mut self, index: u32, up: bool) {
        let name = name(index);
        ip(&format!("link set dev {name} {}", if up { "up" } else { "down" }));
        self.link(index, name, up, up);
        for (i, text, length) in ADDRESSES {
            if i == index && text.contains(':') {
                match up {
                    true => self.address(i, text, length, true),
                    // These the kernel takes by itself.
                    false => {
                        self.news(Change::AddressGone { index, address: text.parse().unwrap(), length });
                    }
                }
            }
        }
    }

    fn set_carrier(&mut self, index: u32, carrier: bool) {
        let name = name(index);
        ip(&format!("link set dev {name}p {}", if carrier { "up" } else { "down" }));
        // The kernel takes notice of it in its own time.
        let state = if carrier { "state UP" } else { "state LOWERLAYERDOWN" };
        while !said(&format!("-o link show dev {name}")).contains(state) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.link(index, name, true, carrier);
    }

    /// Sends to both; the errnos must be the same.
    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> i32 {
        self.seq += 1;
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, flags | NLM_F_REQUEST | NLM_F_ACK, self.seq, 0);
        w.put(payload);
        w.finish().unwrap();
        let what = match kind {
            RTM_NEWROUTE | RTM_DELROUTE => format!("{kind} {flags:#x} {:?}", RouteMessage::parse(payload)),
            _ => format!("{kind} {flags:#x} {:?}", NexthopMessage::parse(payload)),
        };
        self.log.push(what);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        let mut buf = vec![0; 65536];
        let real = loop {
            let len = recv(self.fd.as_raw_fd(), &mut buf, MsgFlags::empty()).unwrap();
            let frame = Frames::new(&buf[..len]).next().unwrap().unwrap();
            if frame.header.seq == self.seq && frame.header.kind == NLMSG_ERROR {
                break frame.errno().unwrap();
            }
        };
        let frame = Frames::new(&bytes).next().unwrap().unwrap();
        self.effects = Effects::default();
        let done = self.virt.request(&frame, &self.system, &mut self.effects);
        let ours = done.err().map_or(0, |r| r.errno);
        let text = done.err().map_or("", |r| r.text);
        assert_eq!(real, ours, "the kernel is left, text {text}, after\n{}", self.last());
        real
    }

    fn last(&self) -> String {
        let from = self.log.len().saturating_sub(25);
        let tables = ["-4 route show table all", "-6 route show table all", "nexthop"].map(said).join("");
        brief(&format!("{}\n{}\nwith\n{tables}", self.log[0], self.log[from..].join("\n")))
    }

    /// The request, and what the kernel says to it.
    fn real_dump(&mut self, kind: u16, request: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
        self.seq += 1;
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, NLM_F_REQUEST | NLM_F_DUMP, self.seq, 0);
        w.put(request);
        w.finish().unwrap();
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        let (mut real, mut buf) = (Vec::new(), vec![0; 65536]);
        'all: loop {
            let len = recv(self.fd.as_raw_fd(), &mut buf, MsgFlags::empty()).unwrap();
            for frame in Frames::new(&buf[..len]) {
                let frame = frame.unwrap();
                match frame.header.kind {
                    NLMSG_DONE => break 'all,
                    NLMSG_ERROR => panic!("dump: {:?}", frame.errno()),
                    _ => real.push(frame.payload.to_vec()),
                }
            }
        }
        (bytes, real)
    }

    fn dump(&mut self, kind: u16, request: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (bytes, real) = self.real_dump(kind, request);
        let frame = Frames::new(&bytes).next().unwrap().unwrap();
        let datagrams = self.virt.whole_dump(&frame, 0, &self.system);
        let ours = datagrams.iter().flat_map(|d| Frames::new(d)).map(|f| f.unwrap().payload.to_vec()).collect();
        (real, ours)
    }

    /// What both show must be the same.
    fn compare(&mut self) {
        for family in [AF_INET, AF_INET6] {
            let request = RouteMessage { family, ..Default::default() }.to_payload().unwrap();
            let (real, ours) = self.dump(RTM_GETROUTE, &request);
            let (real, ours) = (routes(&real), routes(&ours));
            if real != ours {
                let count = |all: &[RouteMessage], m: &RouteMessage| all.iter().filter(|other| *other == m).count();
                let only = |one: &[RouteMessage], other: &[RouteMessage]| {
                    let missing = |m: &&RouteMessage| !other.contains(m) || count(one, m) != count(other, m);
                    let lines = one.iter().filter(missing).map(|m| format!("{m:?}"));
                    lines.collect::<Vec<_>>().join("\n")
                };
                let (a, b) = (brief(&only(&real, &ours)), brief(&only(&ours, &real)));
                panic!("only real:\n{a}\nonly ours:\n{b}\nafter\n{}", self.last());
            }
        }
        // What is remembered of where each info is used is what a walk finds.
        for (id, _) in self.virt.infos.iter() {
            let Some(keys) = self.virt.infos.keys(id) else { continue };
            let holds = |key: &&FibKey| self.virt.table.get(key).is_some_and(|list| list.as_slice().contains(&id));
            let count = self.virt.table.values().filter(|list| list.as_slice().contains(&id)).count();
            assert!(keys.iter().all(|key| holds(&key)) && keys.len() == count, "after\n{}", self.last());
        }
        let (real, ours) = self.dump(RTM_GETNEXTHOP, &NexthopMessage::default().to_payload().unwrap());
        assert_eq!(nexthops(&real), nexthops(&ours), "after\n{}", self.last());
    }
}

/// A debug text without what is not said.
fn brief(text: &str) -> String {
    let fields = text.split(", ").filter(|f| ![": None", ": []", ": false", ": 0"].iter().any(|end| f.ends_with(end)));
    fields.collect::<Vec<_>>().join(", ")
}

/// Comparable routes: those of neither the kernel nor the local table, in order.
fn routes(payloads: &[Vec<u8>]) -> Vec<RouteMessage> {
    let parsed = payloads.iter().map(|p| RouteMessage::parse(p).unwrap());
    let mut routes: Vec<RouteMessage> =
        parsed.filter(|m| !OTHERS.contains(&m.protocol) && m.table != RT_TABLE_LOCAL).collect();
    for m in &mut routes {
        m.others.retain(|attr| attr.as_attr().kind() != RTA_CACHEINFO);
        // What happens to hops over time is Linux's own affair.
        m.flags &= u32::from(RTNH_F_ONLINK);
        m.multipath.iter_mut().for_each(|hop| hop.flags &= RTNH_F_ONLINK);
    }
    // Prefixes in one order; the order of the routes of a prefix counts.
    routes.sort_by_key(|m| (m.table, m.dst_len, m.dst, m.tos));
    routes
}

fn nexthops(payloads: &[Vec<u8>]) -> Vec<NexthopMessage> {
    let mut all: Vec<NexthopMessage> = payloads.iter().map(|p| NexthopMessage::parse(p).unwrap()).collect();
    for nh in &mut all {
        nh.flags &= u32::from(RTNH_F_ONLINK);
        nh.others.clear();
    }
    all
}

fn any<T: Copy>(rng: &mut SmallRng, from: &[T]) -> T {
    *from.choose(rng).unwrap()
}

fn address(text: &str) -> Option<IpAddr> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}

const DST4: [(&str, u8); 8] = [
    ("10.9.0.0", 16),
    ("10.9.1.0", 24),
    ("10.9.1.5", 32),
    ("0.0.0.0", 0),
    ("10.0.0.128", 25),
    ("10.9.1.1", 24),
    ("10.8.0.0", 16),
    // A gateway.
    ("10.0.0.2", 32),
];
const DST6: [(&str, u8); 6] = [
    ("2001:db8:9::", 48),
    ("2001:db8:9::5", 128),
    ("::", 0),
    ("2001:db8:0:0:8000::", 65),
    ("2001:db8:8::1", 64),
    ("2001:db8:7::", 48),
];
const GATEWAYS4: [&str; 9] =
    ["10.0.0.2", "10.0.0.3", "10.0.1.2", "10.0.0.200", "10.0.0.1", "10.0.0.255", "10.9.1.5", "172.16.0.1", "224.0.0.1"];
const GATEWAYS6: [&str; 9] = [
    "2001:db8::2",
    "2001:db8::3",
    "2001:db8:1::2",
    "2001:db8:0:0:8000::1",
    "2001:db8::1",
    "fe80::1",
    "2001:db8:9::5",
    "ff02::1",
    "::",
];
/// Mostly links that are up; 99 is none.
const OIFS: [u32; 10] = [A, A, A, A, C, C, C, E, 1, 99];

fn gateway(rng: &mut SmallRng, family: u8) -> Option<IpAddr> {
    let good = rng.random_bool(0.7);
    let all: &[&str] = if family == AF_INET { &GATEWAYS4 } else { &GATEWAYS6 };
    address(any(rng, if good { &all[..3] } else { all }))
}

fn maybe<T>(rng: &mut SmallRng, chance: f64, make: impl FnOnce(&mut SmallRng) -> T) -> Option<T> {
    rng.random_bool(chance).then(|| make(rng))
}

fn path(rng: &mut SmallRng, family: u8) -> PathHop {
    let via = if family == AF_INET && rng.random_bool(0.1) { AF_INET6 } else { family };
    PathHop {
        flags: if rng.random_bool(0.1) { RTNH_F_ONLINK } else { 0 },
        weight: any(rng, &[1, 1, 2, 200]),
        interface: maybe(rng, 0.7, |rng| any(rng, &OIFS)).unwrap_or(0),
        gateway: maybe(rng, 0.95, |rng| gateway(rng, via)).flatten(),
        ..Default::default()
    }
}

fn route(rng: &mut SmallRng, family: u8, delete: bool) -> RouteMessage {
    let (dst, dst_len) = if family == AF_INET { any(rng, &DST4) } else { any(rng, &DST6) };
    let kinds = [RTN_UNICAST, RTN_UNICAST, RTN_UNICAST, RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT];
    let mut m = RouteMessage {
        family,
        dst: address(dst).filter(|_| dst_len > 0),
        dst_len,
        table: any(rng, &[RT_TABLE_UNSPEC, RT_TABLE_MAIN, RT_TABLE_MAIN, 100]),
        protocol: any(rng, &[RTPROT_BGP, RTPROT_BGP, RTPROT_BIRD]),
        kind: any(rng, &kinds),
        scope: any(rng, &[0, 0, 0, 0, 0, 0, RT_SCOPE_LINK, RT_SCOPE_HOST]),
        priority: maybe(rng, 0.4, |rng| any(rng, &[0, 20, 32, 1024])),
        tos: if family == AF_INET { any(rng, &[0, 0, 0, 0, 0, 16, 3]) } else { any(rng, &[0; 9]) },
        ..Default::default()
    };
    if delete {
        m.kind = any(rng, &[0, 0, m.kind]);
        m.scope = any(rng, &[RT_SCOPE_NOWHERE, RT_SCOPE_NOWHERE, m.scope]);
        m.protocol = any(rng, &[0, m.protocol]);
    }
    let rejects = wire::netlink::fib::is_reject(m.kind);
    let chance = if delete { 0.4 } else { 0.97 };
    if rng.random_bool(if rejects { 0.1 } else { chance }) {
        ways(rng, &mut m);
    }
    if rng.random_bool(0.08) {
        m.prefsrc = address(match family {
            AF_INET => any(rng, &["10.0.0.1", "10.0.1.1", "10.0.0.9"]),
            _ => any(rng, &["2001:db8::1", "2001:db8:1::1", "2001:db8::9"]),
        });
    }
    if rng.random_bool(0.08) {
        let raw_kind = any(rng, &[RTAX_MTU, RTAX_HOPLIMIT]);
        m.metrics = vec![RawAttr { raw_kind, payload: any(rng, &[64u32, 65]).to_ne_bytes().to_vec() }];
    }
    m
}

fn elsewhere(rng: &mut SmallRng, last: RouteMessage) -> RouteMessage {
    let (dst, dst_len) = if last.family == AF_INET { any(rng, &DST4) } else { any(rng, &DST6) };
    // Now and then of a length that leaves host bits.
    let dst_len = if rng.random_bool(0.1) { 9 } else { dst_len };
    RouteMessage { dst: last.dst.and(address(dst)), dst_len, ..last }
}

fn ways(rng: &mut SmallRng, m: &mut RouteMessage) {
    match rng.random_range(0..10) {
        0..3 => m.nh_id = Some(rng.random_range(1..8)),
        3..6 => m.multipath = (0..rng.random_range(1..4)).map(|_| path(rng, m.family)).collect(),
        6 => m.oif = Some(any(rng, &OIFS)),
        _ => {
            let via = if m.family == AF_INET && rng.random_bool(0.1) { AF_INET6 } else { m.family };
            m.gateway = gateway(rng, via);
            m.oif = maybe(rng, 0.5, |rng| any(rng, &OIFS));
            if rng.random_bool(0.1) {
                m.flags = u32::from(RTNH_F_ONLINK);
            }
        }
    }
}

fn nexthop(rng: &mut SmallRng) -> NexthopMessage {
    let family = any(rng, &[AF_INET, AF_INET6]);
    let mut nh = NexthopMessage { family, id: Some(rng.random_range(1..8)), ..Default::default() };
    nh.protocol = any(rng, &[RTPROT_ZEBRA, RTPROT_BIRD]);
    match rng.random_range(0..10) {
        0 => nh.blackhole = true,
        1..4 => {
            nh.family = AF_UNSPEC;
            let entries = 0..rng.random_range(1..4);
            let weights = [1, 1, 2, 256];
            nh.group = entries.map(|_| GroupEntry { id: rng.random_range(1..8), weight: any(rng, &weights) }).collect();
        }
        4 => nh.oif = Some(any(rng, &OIFS)),
        _ => {
            nh.gateway = gateway(rng, family);
            nh.oif = maybe(rng, 0.95, |rng| any(rng, &OIFS));
            if rng.random_bool(0.1) {
                nh.flags = u32::from(RTNH_F_ONLINK);
            }
        }
    }
    nh
}

const NEW_FLAGS: [u16; 8] = [
    NLM_F_CREATE | NLM_F_EXCL,
    NLM_F_CREATE | NLM_F_REPLACE,
    NLM_F_CREATE | NLM_F_REPLACE,
    NLM_F_CREATE | NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLM_F_APPEND,
    0,
];

/// Routes of which a new one may be the like.
const RECENT: usize = 3;

fn step(pair: &mut Pair, rng: &mut SmallRng) {
    let family = any(rng, &[AF_INET, AF_INET6]);
    match rng.random_range(0..20) {
        0..10 => {
            // Four in ten say what one of the last did, elsewhere.
            let of = rng.random_range(0..RECENT);
            let again = pair.recent.get(of).filter(|_| rng.random_bool(0.4)).cloned();
            let m = match again {
                Some(last) => elsewhere(rng, last),
                None => route(rng, family, false),
            };
            pair.send(RTM_NEWROUTE, any(rng, &NEW_FLAGS), &m.to_payload().unwrap());
            pair.recent.push_front(m);
            pair.recent.truncate(RECENT);
        }
        10..15 => {
            let payload = route(rng, family, true).to_payload().unwrap();
            pair.send(RTM_DELROUTE, 0, &payload);
        }
        15..19 => {
            pair.send(RTM_NEWNEXTHOP, any(rng, &NEW_FLAGS), &nexthop(rng).to_payload().unwrap());
        }
        _ => {
            let nh = NexthopMessage { id: Some(rng.random_range(1..8)), ..Default::default() };
            pair.send(RTM_DELNEXTHOP, 0, &nh.to_payload().unwrap());
        }
    }
}

fn is_root() -> bool {
    untested::needs_root(nix::unistd::geteuid().is_root())
}

/// In a thread of its own, which takes its namespace with it.
fn apart(test: impl FnOnce() + Send + 'static) {
    if !is_root() {
        return;
    }
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Something happens to a link, and is undone a few requests later.
fn shake(pair: &mut Pair, rng: &mut SmallRng) {
    let index = any(rng, &[A, C]);
    let (_, text, length) = *ADDRESSES.iter().find(|a| a.0 == index).unwrap();
    let what = rng.random_range(0..4);
    pair.log.push(format!("shake {what} link {index}"));
    match what {
        0 => pair.set_up(index, false),
        1 => pair.set_carrier(index, false),
        2 => pair.address(index, text, length, false),
        _ => pair.address(index, "10.0.7.1", 24, true),
    }
    pair.compare();
    for _ in 0..5 {
        // Linux keeps dead hops dead until something wakes them: no gateways are looked up
        // meanwhile.
        let payload = route(rng, AF_INET, true).to_payload().unwrap();
        pair.send(RTM_DELROUTE, 0, &payload);
    }
    pair.log.push("unshake".to_owned());
    match what {
        0 => pair.set_up(index, true),
        1 => pair.set_carrier(index, true),
        2 => pair.address(index, text, length, true),
        _ => pair.address(index, "10.0.7.1", 24, false),
    }
    pair.compare();
}

#[test]
fn links_and_addresses_take_what_they_take_in_the_kernel() {
    let (seeds, steps) = (number("VKERNEL_SEEDS", 8), number("VKERNEL_STEPS", 1500));
    let first = number("VKERNEL_SEED", 1);
    for seed in first..first + seeds {
        apart(move || {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pair = Pair::new();
            pair.log.push(format!("seed {seed}"));
            for i in 1..=steps {
                step(&mut pair, &mut rng);
                if i % 30 == 0 {
                    pair.compare();
                    shake(&mut pair, &mut rng);
                }
            }
        });
    }
}

#[test]
fn random_requests_end_as_in_the_kernel() {
    let (seeds, steps) = (number("VKERNEL_SEEDS", 8), number("VKERNEL_STEPS", 1500));
    let first = number("VKERNEL_SEED", 1);
    for seed in first..first + seeds {
        apart(move || {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pair = Pair::new();
            pair.log.push(format!("seed {seed}"));
            for _ in 0..steps {
                step(&mut pair, &mut rng);
                pair.compare();
            }
        });
    }
}

#[path = "kernel_rules_tests.rs"]
mod rules;
