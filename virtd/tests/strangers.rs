//! Peers that no `[[peer]]` names, in the simulation: they cost a place only while an instance
//! wants them.

mod sim;

use broker::event::Event;
use broker::io::{Change, ConnId, Input, InstanceId, KernelNews, Link, ListenerId, Output};
use broker::{Asker, Core};
use sim::{LOCAL, Sim, config, open, prefix};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use virtd::control;
use virtd::state::State;
use virtd_api::Request;
use virtd_config::{Peer, Strategy};

/// The most sessions that virtd has at once.
const PLACES: u32 = 4096;
/// In microseconds.
const MS: u64 = 1000;

fn status(sim: &mut Sim, key: &str) -> u64 {
    sim.query(serde_json::json!({ "command": "status" }))[key].as_u64().unwrap()
}

/// Instances that close whatever is offered to them.
struct Deaf {
    core: Core,
    now: u64,
    next: u64,
    closed: Vec<ConnId>,
    events: Vec<Event>,
}

impl Deaf {
    fn new(change: impl FnOnce(&mut virtd_config::Config)) -> Deaf {
        let mut c = config(3, Strategy::WaitForConsensus);
        change(&mut c);
        let mut deaf = Deaf { core: Core::new(&c, 0), now: 0, next: 1, closed: Vec::new(), events: Vec::new() };
        for i in 0..3 {
            deaf.input(Input::InstanceAttached { instance: InstanceId(i), pid: 100 + u32::from(i) });
            let local = "[::]:179".parse().unwrap();
            let listener = ListenerId(1001 + 2 * u64::from(i));
            deaf.input(Input::Listening { instance: InstanceId(i), listener, local, v6_only: false });
        }
        deaf
    }

    fn input(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        self.core.decide(self.now);
        loop {
            let out = self.core.take_outputs();
            if out.is_empty() {
                return;
            }
            for o in out {
                match o {
                    Output::OfferLeg { leg, .. } => self.core.handle(self.now, Input::LegClosed { leg }),
                    Output::ClosePeer { conn, .. } => self.closed.push(conn),
                    Output::Event(e) => self.events.push(*e),
                    _ => {}
                }
            }
            self.core.decide(self.now);
        }
    }

    fn ticks(&mut self, n: u32) {
        for _ in 0..n {
            self.now += 100_000;
            self.input(Input::Tick);
        }
    }

    fn connect(&mut self, peer: SocketAddr) -> ConnId {
        self.next += 2;
        let conn = ConnId(self.next);
        self.input(Input::PeerAccepted { conn, peer, local: SocketAddr::new(LOCAL.into(), 179) });
        conn
    }

    fn sessions(&mut self) -> u64 {
        self.ask(serde_json::json!({ "command": "status" }))["sessions"].as_u64().unwrap()
    }

    fn ask(&mut self, request: serde_json::Value) -> serde_json::Value {
        let request = serde_json::from_value(request).expect("a request");
        control::json(self.core.query(self.now, &request, None)).expect("JSON")
    }
}

fn peer(address: &str) -> Peer {
    let address = address.parse().unwrap();
    Peer { address, asn: None, description: None, allow_own_as: false, bfd: None, port: None }
}

fn stranger(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + n).into(), 40000)
}

#[test]
fn thousands_of_strangers_that_nobody_wants_fill_nothing() {
    let mut deaf = Deaf::new(|_| ());
    let mut conns = Vec::new();
    for n in 0..5_500 {
        conns.push(deaf.connect(stranger(n)));
        assert!(deaf.sessions() <= u64::from(PLACES));
    }
    // They go on holding their connections; virtd closes them.
    deaf.ticks(100);
    assert_eq!(deaf.sessions(), 0);
    assert!(conns.iter().all(|c| deaf.closed.contains(c)), "each is closed");
    let told = deaf.events.iter().filter(|e| e.severity > broker::event::Severity::Info).count();
    assert!(told < 20, "{told} warnings");
    let counted: Vec<_> = deaf.events.iter().filter(|e| e.kind == "strangers-failed").collect();
    assert!(counted.iter().any(|e| e.text.contains("connections with peers that no [[peer]] names")), "{counted:?}");
    assert!(deaf.ask(serde_json::json!({ "command": "status" }))["strangers_failed"].as_u64() >= Some(5_500));
    // And one that is refused at once, before any tick.
    deaf.connect(stranger(1));
    assert_eq!(deaf.sessions(), 1);
}

#[test]
fn a_configured_peer_finds_a_place_among_strangers_and_keeps_it() {
    let mut deaf = Deaf::new(|c| {
        let peer = peer("192.0.2.77");
        c.peers = vec![peer];
    });
    for n in 0..PLACES + 10 {
        deaf.connect(stranger(n));
    }
    let conn = deaf.connect("192.0.2.77:40000".parse().unwrap());
    deaf.ticks(100);
    assert!(!deaf.closed.contains(&conn), "whoever is configured may wait for the instances");
    assert_eq!(deaf.sessions(), 1);
}

/// What one said is nowhere when the next has its place.
#[test]
fn who_gets_a_place_finds_nothing_of_who_had_it() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(2_000 * MS);
    sim.connect_peer(2);
    sim.run(2_000 * MS);
    sim.announce(2, &["198.51.100.0/24", "203.0.113.0/24"], &[64502]);
    sim.run(3_000 * MS);
    assert!(sim.peers[&1].table.contains_key(&prefix("198.51.100.0/24")));
    assert_eq!(status(&mut sim, "sessions"), 2);
    let conn = sim.peers[&2].conn.expect("connected");
    sim.input(Input::PeerClosed { conn, errno: 0 });
    sim.peers.remove(&2);
    sim.run(1_000 * MS);
    assert!(sim.peers[&1].table.is_empty());
    // Instances had a session with him: they may want him back for a while.
    assert_eq!(status(&mut sim, "sessions"), 2);
    sim.run(700_000 * MS);
    assert_eq!(status(&mut sim, "sessions"), 1, "nobody has wanted him for ten minutes");
    sim.connect_peer(3);
    sim.run(3_000 * MS);
    assert!(sim.peers[&3].established && sim.peers[&3].table.is_empty(), "{:?}", sim.peers[&3].table);
    assert_eq!(status(&mut sim, "sessions"), 2);
    sim.announce(3, &["198.51.100.0/24"], &[64503]);
    sim.run(3_000 * MS);
    let (path, _) = &sim.peers[&1].table[&prefix("198.51.100.0/24")];
    assert_eq!(path.last(), Some(&64503), "{path:?}");
    let routes = sim.query(serde_json::json!({ "command": "routes", "prefix": "203.0.113.0/24" }));
    assert_eq!(routes["received"].as_array().map(Vec::len), Some(0), "{routes}");
    assert!(sim.events.iter().all(|e| !matches!(e.kind, "disagreement" | "instance-faulty" | "no-quorum")));
}

fn link_local(zone: u32) -> SocketAddr {
    SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2), 40000, 0, zone).into()
}

fn link(index: u32, name: &str) -> Input<'static> {
    Input::Kernel(KernelNews::Change(Change::Link(Link { index, name: name.into(), up: true, running: true })))
}

#[test]
fn a_link_local_peer_has_its_zone_and_loses_its_place_with_its_interface() {
    let mut deaf = Deaf::new(|c| {
        c.accept_any = false;
        c.peers = vec![peer("fe80::2")];
    });
    deaf.input(link(7, "eth1"));
    deaf.input(link(8, "eth2"));
    deaf.input(Input::Kernel(KernelNews::LinksRead));
    let first = deaf.connect(link_local(7));
    deaf.connect(link_local(8));
    let names = |deaf: &mut Deaf| -> Vec<String> {
        let list = deaf.ask(serde_json::json!({ "command": "sessions" }));
        list["sessions"].as_array().unwrap().iter().map(|s| s["peer"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&mut deaf), ["fe80::2%eth1", "fe80::2%eth2"]);
    let of = |deaf: &mut Deaf, peer: &str| deaf.ask(serde_json::json!({ "command": "session", "peer": peer }));
    assert_eq!(of(&mut deaf, "fe80::2%eth2")["session"]["peer"], "fe80::2%eth2");
    assert_eq!(of(&mut deaf, "fe80::2%8")["session"]["peer"], "fe80::2%eth2");
    assert!(of(&mut deaf, "fe80::2")["error"].as_str().unwrap().contains("fe80::2%eth1 or fe80::2%eth2"));

    // The interface is made anew: another number, the same name.
    deaf.input(Input::Kernel(KernelNews::Change(Change::LinkGone { index: 7 })));
    deaf.input(link(9, "eth1"));
    deaf.input(Input::PeerClosed { conn: first, errno: 0 });
    deaf.connect(link_local(9));
    deaf.ticks(1);
    let mut now = names(&mut deaf);
    now.sort();
    assert_eq!(now, ["fe80::2%eth1", "fe80::2%eth2"]);
    assert_eq!(of(&mut deaf, "fe80::2")["error"].as_str().map(|e| e.contains(" or ")), Some(true));
    let told = deaf.ask(serde_json::json!({ "command": "session", "peer": "fe80::2%eth1", "action": "reset" }));
    assert!(told["done"].as_str().unwrap().contains("fe80::2%eth1"), "{told}");
    let event = deaf.events.iter().find(|e| e.kind == "session-failed").expect("an event");
    assert_eq!(event.session.as_deref(), Some("fe80::2%eth1"));
}

/// An OPEN that an instance sends for a stranger makes him known: his failures are told in words,
/// but not without end.
#[test]
fn the_failures_of_a_stranger_that_an_instance_knows_are_told_and_then_counted() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(9);
    sim.run(300 * MS);
    let conn = sim.peers[&9].conn.expect("connected");
    sim.input(Input::PeerClosed { conn, errno: 0 });
    for _ in 0..30 {
        // A hold time of a second is none (RFC 4271 section 6.2).
        sim.connect_peer_with(9, &open(64509, Ipv4Addr::new(10, 0, 0, 9), 1));
        sim.run(300 * MS);
    }
    sim.run(61_000 * MS);
    let failed = sim.events.iter().filter(|e| e.kind == "session-failed").count();
    assert!((1..=20).contains(&failed), "{failed} told");
    assert!(sim.events.iter().any(|e| e.kind == "strangers-failed"));
}

#[test]
fn what_was_shut_down_before_a_restart_stays_so_until_it_is_started() {
    let by = Asker { uid: Some(1000), user: "ops".to_owned() };
    let command = |sim: &mut Sim, peer: &str, action: &str| {
        let request = Request::Session { peer: peer.to_owned(), action: Some(action.to_owned()) };
        let answer = control::json(sim.core.query(sim.now, &request, Some(&by))).expect("JSON");
        let events =
            sim.core.take_outputs().into_iter().filter_map(|o| if let Output::Event(e) = o { Some(*e) } else { None });
        (answer, events.collect::<Vec<_>>())
    };
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.run(2_000 * MS);
    let (answer, events) = command(&mut sim, "192.0.2.1", "shutdown");
    assert_eq!(answer["shut"], serde_json::json!(["192.0.2.1"]));
    let event = events.iter().find(|e| e.kind == "operator").expect("an event");
    assert_eq!(event.uid, Some(1000));
    assert!(event.text.ends_with("(by ops, user id 1000)"), "{}", event.text);

    // virtd again.
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.core.restore(&State::new(["192.0.2.1", "fe80::2%eth1"].map(str::to_owned).into()));
    let shut = |sim: &mut Sim| {
        let list = sim.query(serde_json::json!({ "command": "sessions" }));
        list["sessions"].as_array().unwrap().iter().map(|s| s["shut"] == true).collect::<Vec<_>>()
    };
    assert_eq!(shut(&mut sim), [true], "it is seen before the peer is");
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(2_000 * MS);
    assert!(!sim.peers[&1].established && sim.peers[&2].established);
    sim.run(700_000 * MS);
    sim.connect_peer(1);
    sim.run(2_000 * MS);
    assert!(!sim.peers[&1].established);
    assert!(command(&mut sim, "fe80::2%eth1", "start").0["done"].is_string(), "though it is not known yet");
    assert_eq!(command(&mut sim, "192.0.2.1", "start").0["shut"], serde_json::json!([]));
    sim.connect_peer(1);
    sim.run(2_000 * MS);
    assert!(sim.peers[&1].established);
}

#[test]
fn a_link_local_peer_that_is_shut_down_is_known_once_its_interface_is() {
    let mut deaf = Deaf::new(|_| ());
    deaf.core.restore(&State::new(["fe80::2%eth1".to_owned()].into()));
    // Before virtd has read the links.
    let early = deaf.connect(link_local(7));
    deaf.input(link(7, "eth1"));
    deaf.input(Input::Kernel(KernelNews::LinksRead));
    deaf.ticks(1);
    assert!(deaf.closed.contains(&early));
    let late = deaf.connect(link_local(7));
    assert!(deaf.closed.contains(&late));
}
