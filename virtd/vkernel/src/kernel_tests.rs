//! What the comparison with the kernel (`kernel_differential_tests.rs`) does not show, and runs
//! without root.

use super::*;
use crate::io::{Change, Link};
use crate::other_routes;
use proptest::prelude::*;
use std::net::IpAddr;
use wire::netlink::nexthop::GroupEntry;
use wire::netlink::route::PathHop;
use wire::netlink::{Frames, Writer};

const ETH0: u32 = 2;
const ETH1: u32 = 3;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(index: u32, name: &str, up: bool) -> Change {
    Change::Link(Link { index, name: name.to_owned(), up, running: up })
}

fn system() -> System {
    let mut system = System::default();
    for (index, name, v4, v6) in
        [(ETH0, "eth0", "10.0.0.1", "2001:db8::1"), (ETH1, "eth1", "10.0.1.1", "2001:db8:1::1")]
    {
        system.apply(&link(index, name, true));
        system.apply(&Change::Address { index, address: ip(v4), length: 24 });
        system.apply(&Change::Address { index, address: ip(v6), length: 64 });
    }
    system
}

fn request(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut w = Writer::message(&mut bytes, kind, flags, 7, 0);
    w.put(payload);
    w.finish().unwrap();
    bytes
}

fn send(k: &mut VirtualKernel, system: &System, kind: u16, flags: u16, payload: &[u8]) -> (Effects, i32) {
    let bytes = request(kind, flags, payload);
    let frame = Frames::new(&bytes).next().unwrap().unwrap();
    let mut effects = Effects::default();
    let errno = k.request(&frame, system, &mut effects).err().map_or(0, |refusal| refusal.errno);
    (effects, errno)
}

fn route(dst: &str, len: u8, gateway: &str) -> RouteMessage {
    let dst = ip(dst);
    RouteMessage {
        family: if dst.is_ipv4() { AF_INET } else { AF_INET6 },
        dst: Some(dst),
        dst_len: len,
        kind: RTN_UNICAST,
        protocol: RTPROT_BGP,
        table: RT_TABLE_MAIN,
        gateway: (!gateway.is_empty()).then(|| ip(gateway)),
        ..Default::default()
    }
}

fn object(id: u32, gateway: &str) -> NexthopMessage {
    let (family, oif, gateway) = (AF_INET, Some(ETH0), Some(ip(gateway)));
    NexthopMessage { family, id: Some(id), oif, gateway, ..Default::default() }
}

/// Does it, and it must be taken.
fn add(k: &mut VirtualKernel, system: &System, m: &RouteMessage) -> Effects {
    let (effects, errno) = send(k, system, RTM_NEWROUTE, NLM_F_CREATE, &m.to_payload().unwrap());
    assert_eq!(errno, 0, "{m:?}");
    effects
}

fn add_object(k: &mut VirtualKernel, system: &System, m: &NexthopMessage) -> Effects {
    let (effects, errno) = send(k, system, RTM_NEWNEXTHOP, NLM_F_CREATE | NLM_F_REPLACE, &m.to_payload().unwrap());
    assert_eq!(errno, 0, "{m:?}");
    effects
}

fn text(k: &VirtualKernel, system: &System, m: &RouteMessage) -> String {
    let key = FibKey::from_message(m).unwrap();
    let best = k.best(&key).and_then(|(octets, _)| FibRoute::from_bytes(&octets));
    best.map_or("none".to_owned(), |route| system.describe(&route))
}

#[test]
fn gateways_get_their_interface_and_the_lowest_metric_wins() {
    let (mut k, s) = (VirtualKernel::new(), system());
    let mut m = route("10.9.0.0", 16, "10.0.1.2");
    m.priority = Some(32);
    let effects = add(&mut k, &s, &m);
    assert_eq!(effects.changed, [FibKey::from_message(&m).unwrap()]);
    assert_eq!(text(&k, &s, &m), "via 10.0.1.2 dev eth1");
    let (group, kind, NoteBody::Route(told)) = &effects.notify[0] else { panic!("not about a route") };
    assert_eq!((*group, *kind, told.oif), (RTNLGRP_IPV4_ROUTE, RTM_NEWROUTE, Some(ETH1)));
    let better = RouteMessage { priority: Some(20), ..route("10.9.0.0", 16, "10.0.0.2") };
    add(&mut k, &s, &better);
    assert_eq!(text(&k, &s, &m), "via 10.0.0.2 dev eth0");
    assert_eq!(k.routes(), 2);
    k.clear();
    assert_eq!((k.routes(), text(&k, &s, &m).as_str()), (0, "none"));
}

#[test]
fn the_way_to_a_gateway_is_looked_up_again_where_it_may_have_changed() {
    let (mut k, mut s) = (VirtualKernel::new(), system());
    // Of link scope, so that gateways can be on it.
    let direct =
        |dst: &str, len: u8, oif: u32| RouteMessage { oif: Some(oif), scope: RT_SCOPE_LINK, ..route(dst, len, "") };
    let mut last = 0;
    let mut way = |k: &mut VirtualKernel, s: &System, gateway: &str| {
        last += 1;
        let m = route(&format!("10.9.{last}.0"), 24, gateway);
        let (_, errno) = send(k, s, RTM_NEWROUTE, NLM_F_CREATE, &m.to_payload().unwrap());
        (errno, text(k, s, &m).rsplit(' ').next().unwrap().to_owned())
    };
    let (eth0, eth1) = ((0, "eth0".to_owned()), (0, "eth1".to_owned()));
    assert_eq!(way(&mut k, &s, "10.0.0.2"), eth0);
    assert_eq!(way(&mut k, &s, "10.0.0.2"), eth0, "as the last time");
    assert_eq!(way(&mut k, &s, "10.0.1.2"), eth1, "another gateway");
    assert_eq!(way(&mut k, &s, "10.0.0.2"), eth0);
    // A longer match of the instance's own leads elsewhere, until it is gone.
    let longer = direct("10.0.0.2", 32, ETH1);
    add(&mut k, &s, &longer);
    assert_eq!(way(&mut k, &s, "10.0.0.2"), eth1);
    assert_eq!(send(&mut k, &s, RTM_DELROUTE, 0, &longer.to_payload().unwrap()).1, 0);
    assert_eq!(way(&mut k, &s, "10.0.0.2"), eth0);
    // Over an object, whose link becomes another.
    let over = |oif| NexthopMessage { family: AF_INET, id: Some(9), oif: Some(oif), ..Default::default() };
    add_object(&mut k, &s, &over(ETH1));
    add(&mut k, &s, &RouteMessage { nh_id: Some(9), scope: RT_SCOPE_LINK, ..route("10.0.0.2", 32, "") });
    assert_eq!(way(&mut k, &s, "10.0.0.2"), eth1);
    add_object(&mut k, &s, &over(ETH0));
    assert_eq!(way(&mut k, &s, "10.0.0.2"), eth0);
    // Somebody else's route, and a link. (Where not all routes of the kernel are known, those of
    // the subnets are guessed.)
    let subnets = [direct("10.0.0.0", 24, ETH0), direct("10.0.1.0", 24, ETH1)];
    let subnets = subnets.iter().map(|m| other_routes(m, 0).unwrap()).map(|(key, routes, _)| (key, routes[0].clone()));
    s.apply(&Change::Routes(Some(subnets.collect())));
    let (key, other, place) = other_routes(&direct("10.0.1.2", 32, ETH0), 0).unwrap();
    assert_eq!(way(&mut k, &s, "10.0.1.2"), eth1);
    s.apply(&Change::Route { key, route: other[0].clone(), place });
    assert_eq!(way(&mut k, &s, "10.0.1.2"), eth0);
    s.apply(&Change::RouteGone { key, route: other[0].clone() });
    assert_eq!(way(&mut k, &s, "10.0.1.2"), eth1);
    s.apply(&link(ETH1, "eth1", false));
    assert_ne!(way(&mut k, &s, "10.0.1.2").0, 0);
}

#[test]
fn routes_over_a_few_gateways_in_turn_are_known_and_what_leads_elsewhere_is_found_anew() {
    let (mut k, s) = (VirtualKernel::new(), system());
    let gateway = |n: u32| format!("10.0.0.{}", n + 2);
    let like = |k: &mut VirtualKernel, n: u32| {
        k.as_before(&route("10.9.200.0", 24, &gateway(n)).to_payload().unwrap(), &s).map(|(_, id)| id)
    };
    let ways = lookup::WAYS as u32;
    for n in 0..ways {
        add(&mut k, &s, &route(&format!("10.9.{n}.0"), 24, &gateway(n)));
    }
    let ids: Vec<u32> = (0..ways).filter_map(|n| like(&mut k, n)).collect();
    let different: std::collections::BTreeSet<u32> = ids.iter().copied().collect();
    assert_eq!(different.len(), ways as usize, "each of them, as itself");
    assert!((0..ways).rev().all(|n| like(&mut k, n) == ids.get(n as usize).copied()), "whatever the order");
    // One leads over another interface now: the others stand.
    add(&mut k, &s, &RouteMessage { oif: Some(ETH1), scope: RT_SCOPE_LINK, ..route(&gateway(1), 32, "") });
    assert!((0..ways).all(|n| like(&mut k, n).is_some() == (n != 1)));
    add(&mut k, &s, &route("10.9.201.0", 24, &gateway(1)));
    assert!((0..ways).all(|n| like(&mut k, n).is_some()));
    assert_eq!(text(&k, &s, &route("10.9.201.0", 24, &gateway(1))), format!("via {} dev eth1", gateway(1)));
    // Others that take turns from now on are known from the second time on, however many there were
    // before.
    let turn = |k: &mut VirtualKernel, round: u32| {
        for n in ways..2 * ways {
            assert_eq!(like(k, n).is_some(), round > 0, "round {round}, gateway {n}");
            let m = route(&format!("10.{}.{n}.0", 10 + round), 24, &gateway(n));
            add(k, &s, &m);
            assert_eq!(text(k, &s, &m), format!("via {} dev eth0", gateway(n)));
        }
    };
    (0..3).for_each(|round| turn(&mut k, round));
    assert!((0..ways).all(|n| like(&mut k, n).is_none()), "the others are forgotten");
    // One more takes the place of the one that was not asked for the longest time.
    add(&mut k, &s, &route("10.9.202.0", 24, &gateway(0)));
    assert!((ways..2 * ways).all(|n| like(&mut k, n).is_some() == (n != ways)));
}

#[test]
fn a_route_like_the_last_is_known_by_what_it_says_until_anything_changes() {
    let (mut k, mut s) = (VirtualKernel::new(), system());
    let over = |dst: &str, len: u8, gateway: &str| route(dst, len, gateway).to_payload().unwrap();
    let like = |k: &mut VirtualKernel, s: &System, dst: &str, len: u8, gateway: &str| {
        k.as_before(&over(dst, len, gateway), s).map(|(key, _)| key.to_string())
    };
    assert_eq!(like(&mut k, &s, "10.9.1.0", 24, "10.0.0.2"), None, "the first");
    let first = route("10.9.0.0", 24, "10.0.0.2");
    add(&mut k, &s, &first);
    assert_eq!(like(&mut k, &s, "10.9.1.0", 24, "10.0.0.2"), Some("10.9.1.0/24".to_owned()));
    assert_eq!(like(&mut k, &s, "10.9.1.128", 25, "10.0.0.2"), Some("10.9.1.128/25".to_owned()));
    assert_eq!(like(&mut k, &s, "10.9.1.1", 24, "10.0.0.2"), None, "host bits");
    assert_eq!(like(&mut k, &s, "10.9.1.0", 33, "10.0.0.2"), None, "too long");
    assert_eq!(like(&mut k, &s, "10.9.1.0", 24, "10.0.0.3"), None, "another gateway");
    // The last of those that shared it goes, and its number with it.
    assert_eq!(send(&mut k, &s, RTM_DELROUTE, 0, &first.to_payload().unwrap()).1, 0);
    add(&mut k, &s, &route("10.9.7.0", 24, "10.0.1.2"));
    add(&mut k, &s, &first);
    assert!(like(&mut k, &s, "10.9.1.0", 24, "10.0.0.2").is_some());
    assert_eq!(send(&mut k, &s, RTM_DELROUTE, 0, &first.to_payload().unwrap()).1, 0);
    assert_eq!(like(&mut k, &s, "10.9.1.0", 24, "10.0.0.2"), None, "nobody has it any more");
    // One of its own leads over the gateway.
    add(&mut k, &s, &first);
    add(&mut k, &s, &RouteMessage { oif: Some(ETH1), scope: RT_SCOPE_LINK, ..route("10.0.0.2", 32, "") });
    assert_eq!(like(&mut k, &s, "10.9.1.0", 24, "10.0.0.2"), None, "another way");
    add(&mut k, &s, &route("10.9.2.0", 24, "10.0.0.2"));
    assert_eq!(text(&k, &s, &route("10.9.2.0", 24, "10.0.0.2")), "via 10.0.0.2 dev eth1");
    // A link, and what is not known by the octets alone.
    add(&mut k, &s, &route("10.9.3.0", 24, "10.0.1.3"));
    assert!(like(&mut k, &s, "10.9.1.0", 24, "10.0.1.3").is_some());
    s.apply(&link(ETH1, "eth1", false));
    assert_eq!(like(&mut k, &s, "10.9.1.0", 24, "10.0.1.3"), None, "the link");
    s.apply(&link(ETH1, "eth1", true));
    // Where the way to the gateway is not all.
    let base = route("10.9.4.0", 24, "10.0.0.7");
    let hop = |gateway| PathHop { weight: 1, gateway: Some(ip(gateway)), ..Default::default() };
    let odd = [
        RouteMessage { flags: RTNH_F_ONLINK.into(), oif: Some(ETH0), ..base.clone() },
        RouteMessage { multipath: vec![hop("10.0.0.7"), hop("10.0.0.8")], ..base.clone() },
        RouteMessage { prefsrc: Some(ip("10.0.0.1")), ..base.clone() },
        RouteMessage { kind: RTN_MULTICAST, ..base.clone() },
    ];
    for (n, m) in odd.into_iter().enumerate() {
        let plain = RouteMessage { dst: Some(ip(&format!("10.10.{n}.0"))), ..base.clone() };
        add(&mut k, &s, &plain);
        assert!(k.as_before(&plain.to_payload().unwrap(), &s).is_some());
        let m = RouteMessage { dst: Some(ip(&format!("10.11.{n}.0"))), ..m };
        add(&mut k, &s, &m);
        assert!(k.as_before(&m.to_payload().unwrap(), &s).is_none(), "{m:?}");
    }
}

#[test]
fn ipv6_routes_of_one_metric_become_multipath_and_lose_hops_one_by_one() {
    let (mut k, s) = (VirtualKernel::new(), system());
    let (one, two) = (route("2001:db8:9::", 48, "2001:db8::2"), route("2001:db8:9::", 48, "2001:db8:1::2"));
    add(&mut k, &s, &one);
    let effects = add(&mut k, &s, &two);
    let NoteBody::Route(told) = &effects.notify[0].2 else { panic!("not about a route") };
    assert_eq!(told.multipath.len(), 2);
    assert_eq!(text(&k, &s, &one), "via 2001:db8::2 dev eth0 weight 1, via 2001:db8:1::2 dev eth1 weight 1");
    let (effects, errno) = send(&mut k, &s, RTM_DELROUTE, 0, &one.to_payload().unwrap());
    assert_eq!((errno, effects.changed.len()), (0, 1));
    assert_eq!(text(&k, &s, &one), "via 2001:db8:1::2 dev eth1");
    assert_eq!(send(&mut k, &s, RTM_DELROUTE, 0, &one.to_payload().unwrap()).1, libc::ESRCH);
}

#[test]
fn a_replaced_object_changes_all_its_routes_and_a_deleted_one_takes_them() {
    let (mut k, s) = (VirtualKernel::new(), system());
    add_object(&mut k, &s, &object(1, "10.0.0.2"));
    add_object(&mut k, &s, &object(2, "10.0.0.3"));
    let group = |id, members: &[u32]| NexthopMessage {
        id: Some(id),
        group: members.iter().map(|&id| GroupEntry { id, weight: 1 }).collect(),
        ..Default::default()
    };
    add_object(&mut k, &s, &group(3, &[1, 2]));
    let by = |dst, id| RouteMessage { nh_id: Some(id), ..route(dst, 24, "") };
    let (one, both) = (by("10.9.1.0", 1), by("10.9.2.0", 3));
    add(&mut k, &s, &one);
    add(&mut k, &s, &both);
    let effects = add_object(&mut k, &s, &object(1, "10.0.0.4"));
    assert_eq!(effects.changed.len(), 2);
    assert_eq!(text(&k, &s, &one), "via 10.0.0.4 dev eth0");
    assert_eq!(text(&k, &s, &both), "via 10.0.0.3 dev eth0 weight 1, via 10.0.0.4 dev eth0 weight 1");
    let delete = NexthopMessage { id: Some(1), ..Default::default() }.to_payload().unwrap();
    let (effects, errno) = send(&mut k, &s, RTM_DELNEXTHOP, 0, &delete);
    assert_eq!((errno, effects.changed.len()), (0, 2));
    // The object, and the group without it; IPv4 routes go silently.
    assert_eq!(effects.notify.iter().map(|n| n.1).collect::<Vec<_>>(), [RTM_DELNEXTHOP, RTM_NEWNEXTHOP]);
    assert_eq!(text(&k, &s, &one), "none");
    assert_eq!(text(&k, &s, &both), "via 10.0.0.3 dev eth0");
}

#[test]
fn a_link_that_goes_down_takes_its_routes() {
    let (mut k, mut s) = (VirtualKernel::new(), system());
    let (v4, v6) = (route("10.9.0.0", 16, "10.0.0.2"), route("2001:db8:9::", 48, "2001:db8::2"));
    let stays = route("10.8.0.0", 16, "10.0.1.2");
    for m in [&v4, &v6, &stays] {
        add(&mut k, &s, m);
    }
    let news = link(ETH0, "eth0", false);
    let was = s.clone_link(&news);
    s.apply(&news);
    let mut effects = Effects::default();
    k.system_changed(&news, was.as_ref(), &s, &mut effects);
    assert_eq!((effects.changed.len(), k.routes()), (2, 1));
    let told: Vec<(u32, u16)> = effects.notify.iter().map(|n| (n.0, n.1)).collect();
    assert_eq!(told, [(RTNLGRP_IPV6_ROUTE, RTM_DELROUTE)]);
    assert_eq!(send(&mut k, &s, RTM_NEWROUTE, NLM_F_CREATE, &v6.to_payload().unwrap()).1, libc::EHOSTUNREACH);
}

#[test]
fn dumps_come_in_pieces_and_honour_filters() {
    let (mut k, s) = (VirtualKernel::new(), system());
    for i in 0..2000u32 {
        let dst = IpAddr::from(std::net::Ipv4Addr::from(0x0a80_0000 + (i << 8)));
        add(&mut k, &s, &RouteMessage { dst: Some(dst), ..route("0.0.0.0", 24, "10.0.0.2") });
    }
    add(&mut k, &s, &RouteMessage { table: 100, protocol: RTPROT_BIRD, ..route("2001:db8:9::", 48, "2001:db8:1::2") });
    let count = |filter: RouteMessage| {
        let bytes = request(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &filter.to_payload().unwrap());
        let datagrams = k.whole_dump(&Frames::new(&bytes).next().unwrap().unwrap(), 99, &s);
        assert!(datagrams.iter().all(|d| d.len() <= 16 * 1024));
        let frames: Vec<_> = datagrams.iter().flat_map(|d| Frames::new(d)).map(Result::unwrap).collect();
        assert!(frames.iter().all(|f| (f.header.flags, f.header.seq, f.header.port) == (NLM_F_MULTI, 7, 99)));
        frames.len()
    };
    let all = || RouteMessage { table: 0, ..Default::default() };
    assert_eq!(count(all()), 2001);
    assert_eq!(count(RouteMessage { family: AF_INET6, ..all() }), 1);
    assert_eq!(count(RouteMessage { table: 100, ..all() }), 1);
    assert_eq!(count(RouteMessage { protocol: RTPROT_BGP, ..all() }), 2000);
    assert_eq!(count(RouteMessage { oif: Some(ETH1), ..all() }), 1);
    assert_eq!(count(RouteMessage { flags: RTM_F_CLONED, ..all() }), 0);
    assert_eq!(count(RouteMessage { kind: RTN_BLACKHOLE, ..all() }), 0);
    // 2,000 routes over one next hop: far under 100 octets each.
    assert!(k.memory_bytes() < 100 * 2000 + 8192, "{}", k.memory_bytes());
}

proptest! {
    /// Whatever comes, nothing breaks, and what was not taken leaves nothing behind.
    #[test]
    fn octets_of_any_kind_are_survived(
        kind in prop::sample::select(vec![RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETROUTE]),
        flags: u16,
        cut in 0usize..200,
        flips in prop::collection::vec((0usize..200, any::<u8>()), 0..6),
    ) {
        let (mut k, s) = (VirtualKernel::new(), system());
        let mut m = route("10.9.0.0", 16, "10.0.0.2");
        m.metrics = vec![wire::netlink::RawAttr { raw_kind: RTAX_MTU, payload: vec![0, 5, 0, 0] }];
        let mut payload = m.to_payload().unwrap();
        for (at, octet) in flips {
            if let Some(place) = payload.get_mut(at) {
                *place = octet;
            }
        }
        payload.truncate(cut);
        let (effects, errno) = send(&mut k, &s, kind, flags, &payload);
        prop_assert!(errno == 0 || effects.changed.is_empty() && k.routes() == 0);
        let bytes = request(RTM_GETROUTE, NLM_F_DUMP, &payload);
        k.whole_dump(&Frames::new(&bytes).next().unwrap().unwrap(), 0, &s);
    }
}

/// Of a table that changes while a slow reader takes a dump of it, what stays is shown once; no
/// piece is larger than it should be.
#[test]
fn a_dump_in_pieces_shows_what_stays_once() {
    let (mut k, s) = (VirtualKernel::new(), system());
    let nth = |i: u32| RouteMessage {
        dst: Some(IpAddr::from(std::net::Ipv4Addr::from(0x0b00_0000 + (i << 8)))),
        ..route("0.0.0.0", 24, "10.0.0.2")
    };
    // Even ones stay, odd ones come and go.
    (0..20_000).filter(|i| i % 2 == 0).for_each(|i| drop(add(&mut k, &s, &nth(i))));
    let bytes = request(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &[0; 12]);
    let (mut cursor, mut seen, mut pieces) = (DumpCursor::default(), std::collections::BTreeMap::new(), 0);
    while !cursor.finished {
        let piece = k.dump(&Frames::new(&bytes).next().unwrap().unwrap(), 0, &mut cursor, &s);
        assert!(piece.iter().map(Vec::len).sum::<usize>() < 80 * 1024);
        for frame in piece.iter().flat_map(|d| Frames::new(d)).map(Result::unwrap) {
            assert_eq!(frame.header.flags, NLM_F_MULTI, "Linux says nothing of changes here");
            *seen.entry(RouteMessage::parse(frame.payload).unwrap().dst).or_insert(0) += 1;
        }
        pieces += 1;
        for i in (0..200).map(|i| ((i * 977 + pieces * 31) % 20_000) | 1) {
            let payload = nth(i).to_payload().unwrap();
            if send(&mut k, &s, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &payload).1 != 0 {
                send(&mut k, &s, RTM_DELROUTE, 0, &payload);
            }
        }
    }
    assert!(pieces > 5, "{pieces}");
    assert!(seen.values().all(|&times| times == 1));
    assert!((0..20_000).filter(|i| i % 2 == 0).all(|i| seen.contains_key(&nth(i).dst)));
}

/// Linux tells of nexthop objects whether they have changed since a dump began.
#[test]
fn a_dump_of_objects_that_change_says_so() {
    let (mut k, s) = (VirtualKernel::new(), system());
    (1..9000).for_each(|id| drop(add_object(&mut k, &s, &object(id, "10.0.0.2"))));
    let bytes = request(RTM_GETNEXTHOP, NLM_F_REQUEST | NLM_F_DUMP, &[0; 8]);
    let done = bytes::Bytes::from(request(NLMSG_DONE, NLM_F_MULTI, &[0; 4]));
    for disturbed in [false, true] {
        let (mut cursor, mut flags, mut ids) = (DumpCursor::default(), Vec::new(), Vec::new());
        while !cursor.finished {
            let piece = k.dump(&Frames::new(&bytes).next().unwrap().unwrap(), 0, &mut cursor, &s);
            for frame in piece.iter().flat_map(|d| Frames::new(d)).map(Result::unwrap) {
                flags.push(frame.header.flags);
                ids.extend(NexthopMessage::parse(frame.payload).unwrap().id);
            }
            if disturbed {
                add_object(&mut k, &s, &object(1, "10.0.0.3"));
            }
        }
        assert_eq!(ids, (1..9000).collect::<Vec<u32>>());
        let told = if disturbed { NLM_F_MULTI | NLM_F_DUMP_INTR } else { NLM_F_MULTI };
        assert_eq!((flags.first(), flags.last()), (Some(&NLM_F_MULTI), Some(&told)));
        let last = k.last_word(&cursor, &done);
        assert_eq!(Frames::new(&last).next().unwrap().unwrap().header.flags, told);
    }
}

/// `cargo test -p virtd --lib measure_a_link_in_a_full_table -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn measure_a_link_in_a_full_table() {
    let (mut k, mut s) = (VirtualKernel::new(), system());
    let nth = |i: u32, gateway| RouteMessage {
        dst: Some(IpAddr::from(std::net::Ipv4Addr::from(0x0b00_0000 + (i << 8)))),
        ..route("0.0.0.0", 24, gateway)
    };
    (0..500_000).for_each(|i| drop(add(&mut k, &s, &nth(i, if i % 50_000 == 7 { "10.0.1.2" } else { "10.0.0.2" }))));
    add_object(&mut k, &s, &object(1, "10.0.0.3"));
    add(&mut k, &s, &RouteMessage { nh_id: Some(1), ..route("10.200.0.0", 16, "") });
    let began = std::time::Instant::now();
    assert_eq!(add_object(&mut k, &s, &object(1, "10.0.0.4")).changed.len(), 1);
    println!("an object of one route replaced among 500,000: {:?}", began.elapsed());
    for (index, name, count) in [(ETH1, "eth1", 10), (ETH0, "eth0", 499_991)] {
        let down = link(index, name, false);
        let was = s.clone_link(&down);
        s.apply(&down);
        let (mut effects, began) = (Effects::default(), std::time::Instant::now());
        k.system_changed(&down, was.as_ref(), &s, &mut effects);
        println!("{count} of 500,000 routes go with a link: {:?}", began.elapsed());
        assert_eq!(effects.changed.len(), count);
    }
}
