//! What daemons ask of the kernel, and what the kernel says.

use vkernel::gate::{Handling, handling};
use vkernel::io::{Change, DumpCursor, Link};
use vkernel::system::System;
use vkernel::{Effects, VirtualKernel};
use wire::laws::netlink as laws;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, FibRoute};
use wire::netlink::nexthop::GroupEntry;
use wire::netlink::route::PathHop;
use wire::netlink::{Frames, NexthopMessage, RouteMessage, Writer, captures};

/// nl_pid of the socket over which a daemon asks.
const PORT: u32 = 77;

/// A datagram, of the kernel or to it, and what stands behind its first header by itself.
pub fn netlink(data: &[u8]) {
    laws::datagram(data);
    laws::payload(data);
    if let Some(payload) = data.get(16..) {
        laws::payload(payload);
    }
}

/// The links and addresses over which routes are judged.
fn system() -> System {
    let mut system = System::default();
    for (index, name, v4, v6) in [(2, "eth0", [10, 0, 0, 1], 0), (3, "eth1", [10, 0, 1, 1], 1)] {
        system.apply(&Change::Link(Link { index, name: name.to_owned(), up: true, running: true }));
        system.apply(&Change::Address { index, address: v4.into(), length: 24 });
        system.apply(&Change::Address { index, address: [0x2001, 0xdb8, v6, 0, 0, 0, 0, 1].into(), length: 64 });
    }
    system
}

/// The datagrams of a daemon, one behind the other, at a virtual kernel: what they have written is
/// what a dump says, each route is found by its key, and once all of it is deleted nothing is left.
pub fn vkernel(data: &[u8]) {
    let (mut kernel, system) = (VirtualKernel::new(), system());
    for frame in Frames::new(data) {
        let Ok(frame) = frame else { break };
        match handling(&frame) {
            Handling::Virtual => {
                let (before, mut effects) = (kernel.routes(), Effects::default());
                match kernel.request(&frame, &system, &mut effects) {
                    Ok(()) => {
                        for key in &effects.changed {
                            let best = kernel.best(key).map(|(octets, _)| FibRoute::from_bytes(&octets));
                            assert!(best.is_none_or(|route| route.is_some()), "{key}: no canonical route");
                        }
                    }
                    Err(refusal) => {
                        assert!(refusal.errno > 0);
                        assert!(kernel.routes() <= before, "what is refused adds nothing");
                    }
                }
            }
            Handling::Dump => drop(dump(&kernel, &system, frame.header.kind)),
            Handling::Real | Handling::Ignored | Handling::Refused => {}
        }
    }
    holds_what_it_says(&mut kernel, &system);
}

/// The payloads of a whole dump.
fn dump(kernel: &VirtualKernel, system: &System, kind: u16) -> Vec<Vec<u8>> {
    let request = message(kind, NLM_F_REQUEST | NLM_F_DUMP, &[0; 12]);
    let Some(Ok(request)) = Frames::new(&request).next() else { return Vec::new() };
    let (mut cursor, mut all) = (DumpCursor::default(), Vec::new());
    while !cursor.finished {
        for datagram in kernel.dump(&request, PORT, &mut cursor, system) {
            for frame in Frames::new(&datagram) {
                let frame = frame.expect("a dump can be taken apart");
                all.push(frame.payload.to_vec());
            }
        }
    }
    all
}

/// What a daemon that reads its routes back, and then deletes them, finds.
fn holds_what_it_says(kernel: &mut VirtualKernel, system: &System) {
    assert!(kernel.memory_bytes() > 0);
    let objects: Vec<NexthopMessage> = dump(kernel, system, RTM_GETNEXTHOP)
        .iter()
        .map(|payload| NexthopMessage::parse(payload).expect("an object that a dump tells"))
        .collect();
    let routes: Vec<RouteMessage> = dump(kernel, system, RTM_GETROUTE)
        .iter()
        .map(|payload| RouteMessage::parse(payload).expect("a route that a dump tells"))
        .collect();
    assert!(routes.len() <= kernel.routes() && (routes.is_empty() == (kernel.routes() == 0)));
    for route in &routes {
        let key = FibKey::from_message(route).expect("a route that a dump tells has a key");
        assert!(kernel.best(&key).is_some(), "{key} is told, and not found");
    }
    // With what it was told by, each can be deleted.
    for route in routes {
        // As in Linux a route by an object is told with hops and type of that, and deleted without.
        let bare = RouteMessage { kind: 0, gateway: None, oif: None, multipath: Vec::new(), ..route.clone() };
        let route = if route.nh_id.is_some() { bare } else { route };
        let payload = route.to_payload().expect("it was read");
        let request = message(RTM_DELROUTE, NLM_F_REQUEST, &payload);
        let Some(Ok(frame)) = Frames::new(&request).next() else { continue };
        let done = kernel.request(&frame, system, &mut Effects::default());
        assert!(done.is_ok(), "{route:?} cannot be deleted: {done:?}");
    }
    assert_eq!(kernel.routes(), 0);
    for object in &objects {
        let payload = NexthopMessage { id: object.id, ..NexthopMessage::default() }.to_payload().expect("it fits");
        let request = message(RTM_DELNEXTHOP, NLM_F_REQUEST, &payload);
        let Some(Ok(frame)) = Frames::new(&request).next() else { continue };
        // A group goes with the last of its members.
        let _ = kernel.request(&frame, system, &mut Effects::default());
    }
    assert!(dump(kernel, system, RTM_GETNEXTHOP).is_empty());
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut w = Writer::message(&mut bytes, kind, flags, 7, 0);
    w.put(payload);
    w.finish().expect("it fits");
    bytes
}

/// What [`netlink`] begins with: what a kernel said, and what daemons ask.
pub fn datagrams() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = captures::ALL.iter().map(|hex| captures::bytes(hex)).collect();
    all.extend(requests());
    all
}

fn route(dst: &[u8], len: u8, gateway: Option<std::net::IpAddr>) -> RouteMessage {
    let v6 = dst.len() == 16;
    let dst = match <[u8; 16]>::try_from(dst) {
        Ok(octets) => std::net::IpAddr::from(octets),
        Err(_) => std::net::IpAddr::from(<[u8; 4]>::try_from(dst).unwrap_or_default()),
    };
    RouteMessage {
        family: if v6 { AF_INET6 } else { AF_INET },
        dst: Some(dst),
        dst_len: len,
        kind: RTN_UNICAST,
        protocol: RTPROT_BGP,
        table: RT_TABLE_MAIN,
        priority: Some(20),
        gateway,
        ..RouteMessage::default()
    }
}

/// Requests of a daemon, each a datagram.
pub fn requests() -> Vec<Vec<u8>> {
    let v4 = |n: u8| Some([10, 0, n, 2].into());
    let v6 = Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into());
    let net6 = [0x20, 1, 0xd, 0xb8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let hop = |n: u8, weight: u16| PathHop { weight, gateway: v4(n), ..PathHop::default() };
    let hop6 = |last: u16| PathHop {
        weight: 1,
        gateway: Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()),
        ..PathHop::default()
    };
    let routes = [
        route(&[10, 9, 0, 0], 16, v4(0)),
        route(&[10, 9, 0, 0], 16, v4(1)),
        RouteMessage { priority: None, ..route(&[0, 0, 0, 0], 0, v4(0)) },
        RouteMessage { multipath: vec![hop(0, 1), hop(1, 10)], ..route(&[10, 8, 0, 0], 16, None) },
        RouteMessage { kind: RTN_BLACKHOLE, ..route(&[10, 7, 0, 0], 16, None) },
        RouteMessage { nh_id: Some(1), ..route(&[10, 6, 0, 0], 16, None) },
        RouteMessage { nh_id: Some(9), ..route(&[10, 6, 0, 0], 16, None) },
        RouteMessage { tos: 16, table: 1000, ..route(&[10, 5, 0, 0], 16, v4(0)) },
        route(&net6, 48, v6),
        RouteMessage { multipath: vec![hop6(2), hop6(3)], ..route(&net6, 48, None) },
        RouteMessage { oif: Some(2), scope: RT_SCOPE_LINK, ..route(&[10, 4, 0, 0], 16, None) },
    ];
    let object = |id: u32, n: u8| NexthopMessage {
        family: AF_INET,
        id: Some(id),
        oif: Some(2 + u32::from(n)),
        gateway: v4(n),
        ..NexthopMessage::default()
    };
    let group = vec![GroupEntry { id: 1, weight: 1 }, GroupEntry { id: 2, weight: 3 }];
    let objects = [
        object(1, 0),
        object(2, 1),
        NexthopMessage { id: Some(9), group, ..NexthopMessage::default() },
        NexthopMessage { family: AF_INET, id: Some(3), blackhole: true, ..NexthopMessage::default() },
    ];
    let mut all = Vec::new();
    let ask = NLM_F_REQUEST | NLM_F_ACK;
    for object in &objects {
        let payload = object.to_payload().expect("it fits");
        all.push(message(RTM_NEWNEXTHOP, ask | NLM_F_CREATE | NLM_F_REPLACE, &payload));
    }
    for route in &routes {
        let payload = route.to_payload().expect("it fits");
        all.push(message(RTM_NEWROUTE, ask | NLM_F_CREATE | NLM_F_REPLACE, &payload));
        all.push(message(RTM_NEWROUTE, ask | NLM_F_CREATE | NLM_F_APPEND, &payload));
        all.push(message(RTM_DELROUTE, ask, &payload));
    }
    all.push(message(
        RTM_DELNEXTHOP,
        ask,
        &NexthopMessage { id: Some(1), ..NexthopMessage::default() }.to_payload().expect("it fits"),
    ));
    all.push(message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &[0; 12]));
    all.push(message(RTM_GETNEXTHOP, NLM_F_REQUEST | NLM_F_DUMP, &[0; 8]));
    all
}

/// What [`vkernel`] begins with.
pub fn conversations() -> Vec<Vec<u8>> {
    let requests = requests();
    let new: Vec<Vec<u8>> = requests.iter().filter(|r| r.get(4) != Some(&(RTM_DELROUTE as u8))).cloned().collect();
    let mut all = vec![requests.concat(), new.concat()];
    all.extend(new.chunks(6).map(<[_]>::concat));
    all.extend(requests.iter().map(|r| [new.concat(), r.clone()].concat()));
    all
}
