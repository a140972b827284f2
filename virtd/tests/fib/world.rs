//! The core's FIB path under a virtual clock: instances that send netlink requests, a kernel that
//! holds what is handed to it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use broker::Core;
use broker::event::Event;
use broker::io::{
    Change, FibChange, Input, InstanceId, KernelNews, Link, NetlinkId, NetlinkStyle, Order, Output, ProcessNews,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use virtd_config::{Config, Instance, Strategy};
use wire::bgp::Prefix;
use wire::netlink::consts::*;
use wire::netlink::fib::FibRoute;
use wire::netlink::message::Writer;
use wire::netlink::nexthop::GroupEntry;
use wire::netlink::route::PathHop;
use wire::netlink::{Frame, Frames, NexthopMessage, RouteMessage};

pub const SECOND: u64 = 1_000_000;
/// T of [`config`].
pub const T: u64 = SECOND;
/// The links: index, our addresses' network; gateways are `.2`, `.3` … and `::2`, `::3` … in it.
pub const LINKS: [u32; 2] = [2, 3];
pub const CREATE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// So many instances with a voted FIB, T one second.
pub fn config(instances: usize, strategy: Strategy) -> Config {
    let mut c = Config { accept_any: true, fib: Some(virtd_config::Fib::default()), ..Config::default() };
    c.vote.strategy = strategy;
    c.vote.t_ms = (T / 1000) as u32;
    let instance = |i| Instance { name: format!("i{i}"), netlink: true, ..Instance::default() };
    c.instances = (0..instances).map(instance).collect();
    c
}

pub fn prefix(s: &str) -> Prefix {
    s.parse().expect("a prefix")
}

pub struct World {
    pub core: Core,
    pub now: u64,
    pub events: Vec<Event>,
    pub orders: Vec<(u8, Order)>,
    /// What the kernel holds: the key's text to the route's.
    pub kernel: BTreeMap<String, String>,
    /// Everything that was handed to it.
    pub changes: Vec<(u64, FibChange)>,
    /// Hand-overs, each one output.
    pub batches: usize,
    /// Notifications: instance, group, octets.
    pub notified: Vec<(u8, u32, Bytes)>,
    /// Resets of links: when, instance, index, whether it comes up again.
    pub resets: Vec<(u64, u8, u32, bool)>,
    sockets: Vec<Option<NetlinkId>>,
    next_socket: u64,
    seq: u32,
}

impl World {
    /// Links and addresses are there, all instances have opened a socket and written nothing.
    pub fn new(config: &Config) -> World {
        let mut w = World::empty(config);
        (0..config.instances.len()).for_each(|i| w.open(i));
        w
    }

    /// The same without any socket.
    pub fn empty(config: &Config) -> World {
        let n = config.instances.len();
        let mut w = World {
            core: Core::new(config, 0),
            now: 0,
            events: Vec::new(),
            orders: Vec::new(),
            kernel: BTreeMap::new(),
            changes: Vec::new(),
            batches: 0,
            notified: Vec::new(),
            resets: Vec::new(),
            sockets: vec![None; n],
            next_socket: 1,
            seq: 0,
        };
        for index in LINKS {
            w.link(index, true, true);
            w.address(index);
        }
        w
    }

    pub fn link(&mut self, index: u32, up: bool, running: bool) {
        self.news(KernelNews::Change(Change::Link(Link { index, name: format!("n{index}"), up, running })));
    }

    pub fn address(&mut self, index: u32) {
        let n = index;
        for (address, length) in [(format!("10.0.{n}.1"), 24), (format!("fd00:{n}::1"), 64), ("fe80::1".to_owned(), 64)]
        {
            let address = address.parse().expect("an address");
            self.news(KernelNews::Change(Change::Address { index, address, length }));
        }
    }

    pub fn news(&mut self, news: KernelNews) {
        self.input(Input::Kernel(news));
    }

    pub fn process(&mut self, i: usize, news: ProcessNews) {
        self.input(Input::Process { instance: InstanceId(i as u8), news });
    }

    /// Instance `i` opens a netlink socket.
    pub fn open(&mut self, i: usize) {
        let socket = NetlinkId(self.next_socket);
        self.next_socket += 2;
        self.sockets[i] = Some(socket);
        self.input(Input::NetlinkOpened { socket, instance: InstanceId(i as u8) });
    }

    /// Instance `i` dies.
    pub fn die(&mut self, i: usize) {
        if let Some(socket) = self.sockets[i].take() {
            self.input(Input::NetlinkClosed { socket });
        }
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        self.core.decide(self.now);
        let out = self.core.take_outputs();
        self.carry_out(out);
    }

    pub fn carry_out(&mut self, out: Vec<Output>) {
        for o in out {
            match o {
                Output::Event(e) => self.events.push(*e),
                Output::Order { instance, order } => self.orders.push((instance.0, order)),
                Output::NetlinkNotify { instance, note } => {
                    self.notified.push((instance.0, note.group, note.encode().expect("a notification fits")));
                }
                Output::LinkReset { instance, index, up } => self.resets.push((self.now, instance.0, index, up)),
                Output::Fib(changes) => {
                    self.batches += 1;
                    for c in changes {
                        match &c.route {
                            Some(bytes) => {
                                let route = FibRoute::from_bytes(bytes).expect("a canonical route");
                                self.kernel.insert(c.key.to_string(), route.to_string());
                            }
                            None => drop(self.kernel.remove(&c.key.to_string())),
                        }
                        self.changes.push((self.now, c));
                    }
                }
                Output::Record(_) => {}
                other => panic!("nobody here does {other:?}"),
            }
        }
    }

    /// Sends octets as one message of instance `i`, if they are one; the answers.
    pub fn raw(&mut self, i: usize, message: &[u8]) -> Vec<Bytes> {
        let socket = self.sockets[i].expect("an open socket");
        let mut answers = Vec::new();
        let style = NetlinkStyle { capped: false, extended: true };
        self.input(Input::NetlinkRequest { socket, port_id: 100 + i as u32, style, message, answers: &mut answers });
        answers
    }

    /// The octets of a request.
    pub fn message(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        self.seq += 1;
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, flags | NLM_F_REQUEST | NLM_F_ACK, self.seq, 0);
        w.put(payload);
        w.finish().expect("fits");
        bytes
    }

    /// Sends a request; the errno of its answer.
    pub fn send(&mut self, i: usize, kind: u16, flags: u16, payload: &[u8]) -> i32 {
        let bytes = self.message(kind, flags, payload);
        let answers = self.raw(i, &bytes);
        assert_eq!(answers.len(), 1, "one answer to one request");
        let frame = only_frame(&answers[0]);
        assert_eq!((frame.header.seq, frame.header.port), (self.seq, 100 + i as u32));
        frame.errno().expect("an acknowledgement")
    }

    /// Instance `i` writes a route by these gateways, as one message.
    pub fn add(&mut self, i: usize, prefix: &str, gateways: &[&str]) {
        let route = route(prefix, gateways);
        self.write(i, &route);
    }

    pub fn write(&mut self, i: usize, route: &RouteMessage) {
        assert_eq!(self.send(i, RTM_NEWROUTE, CREATE, &route.to_payload().expect("fits")), 0);
    }

    pub fn del(&mut self, i: usize, prefix: &str) {
        // Whatever its protocol and metric.
        let route =
            RouteMessage { kind: 0, protocol: 0, priority: None, scope: RT_SCOPE_NOWHERE, ..route(prefix, &[]) };
        assert_eq!(self.send(i, RTM_DELROUTE, 0, &route.to_payload().expect("fits")), 0);
    }

    /// A nexthop object of one gateway, or a group of others.
    pub fn nexthop(&mut self, i: usize, id: u32, gateway: &str) {
        let address: std::net::IpAddr = gateway.parse().expect("an address");
        let object = NexthopMessage {
            family: if address.is_ipv6() { AF_INET6 } else { AF_INET },
            id: Some(id),
            gateway: Some(address),
            oif: Some(device(gateway)),
            ..NexthopMessage::default()
        };
        assert_eq!(self.send(i, RTM_NEWNEXTHOP, CREATE, &object.to_payload().expect("fits")), 0);
    }

    pub fn group(&mut self, i: usize, id: u32, members: &[u32]) {
        let group = members.iter().map(|id| GroupEntry { id: *id, weight: 1 }).collect();
        let object = NexthopMessage { id: Some(id), group, ..NexthopMessage::default() };
        assert_eq!(self.send(i, RTM_NEWNEXTHOP, CREATE, &object.to_payload().expect("fits")), 0);
    }

    /// Lets time pass in steps.
    pub fn run(&mut self, us: u64) {
        let end = self.now + us;
        while self.now < end {
            let deadline = self.core.deadline().unwrap_or(end).max(self.now + 1);
            self.now = deadline.min(self.now + SECOND / 10).min(end);
            self.input(Input::Tick);
        }
    }

    pub fn query(&mut self, request: &Value) -> Value {
        let request = serde_json::from_value(request.clone()).expect("a request");
        let answer = self.core.query(self.now, &request, None);
        let out = self.core.take_outputs();
        self.carry_out(out);
        virtd::control::json(answer).expect("JSON")
    }

    pub fn fib(&mut self) -> Value {
        self.query(&json!({ "command": "fib" }))
    }

    /// What `virtctl fib` says of an instance.
    pub fn state(&mut self, i: usize) -> String {
        self.fib()["instances"][i]["state"].as_str().expect("a state").to_owned()
    }

    /// `virtctl fib --diff`: keys.
    pub fn diff(&mut self) -> Vec<String> {
        let answer = self.query(&json!({ "command": "fib", "diff": true }));
        let entries = answer["entries"].as_array().expect("entries").clone();
        entries.iter().map(|e| e["key"].as_str().expect("a key").to_owned()).collect()
    }

    /// `virtctl fib PREFIX`: its only entry.
    pub fn entry(&mut self, prefix: &str) -> Value {
        self.query(&json!({ "command": "fib", "prefix": prefix }))["entries"][0].clone()
    }

    /// Whether instance `i` counts on a prefix.
    pub fn counts(&mut self, i: usize, prefix: &str) -> bool {
        self.entry(prefix)["said"][i]["counted"].as_bool().unwrap_or_default()
    }

    pub fn events_of(&self, kind: &str) -> Vec<&Event> {
        self.events.iter().filter(|e| e.kind == kind).collect()
    }

    pub fn in_kernel(&self, prefix: &str) -> Option<&str> {
        self.kernel.get(prefix).map(String::as_str)
    }

    /// Nothing is kept of routes that nobody has any more.
    pub fn assert_empty(&mut self) {
        let status = self.fib();
        assert_eq!(self.kernel, BTreeMap::new());
        for what in ["routes", "keys", "distinct_routes", "without_quorum", "failed"] {
            assert_eq!(status[what], 0, "{what}: {status}");
        }
    }
}

pub fn only_frame(datagram: &[u8]) -> Frame<'_> {
    let mut frames = Frames::new(datagram);
    let first = frames.next().expect("a message").expect("well-formed");
    assert!(frames.next().is_none(), "one message");
    first
}

/// The interface in whose network an address is.
pub fn device(address: &str) -> u32 {
    let part = match address.strip_prefix("fd00:") {
        Some(rest) => rest.split(':').next(),
        None => address.split('.').nth(2),
    };
    part.and_then(|p| p.parse().ok()).expect("an address of the plan")
}

/// A route as FRR writes it: interfaces named, BGP's.
pub fn route(prefix: &str, gateways: &[&str]) -> RouteMessage {
    let p = self::prefix(prefix);
    let family = if p.addr().is_ipv6() { AF_INET6 } else { AF_INET };
    let mut route = RouteMessage {
        family,
        dst_len: p.len(),
        protocol: RTPROT_BGP,
        kind: RTN_UNICAST,
        dst: Some(p.addr()),
        priority: Some(20),
        ..RouteMessage::default()
    };
    match gateways {
        [one] => (route.gateway, route.oif) = (Some(one.parse().expect("an address")), Some(device(one))),
        several => route.multipath = several.iter().map(|g| path_hop(g)).collect(),
    }
    route
}

pub fn path_hop(gateway: &str) -> PathHop {
    let address = Some(gateway.parse().expect("an address"));
    PathHop { weight: 1, interface: device(gateway), gateway: address, ..PathHop::default() }
}
