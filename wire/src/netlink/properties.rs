//! What must hold of every input: no panic, nothing lost on the way there and back, one canonical
//! form.

use super::consts::*;
use super::fib::{EncodedRoute, FibHop, FibKey, FibRoute, MAX_HOPS, encode_route};
use super::nexthop::GroupEntry;
use super::route::PathHop;
use super::*;
use crate::bgp::Prefix;
use crate::laws::netlink as laws;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::net::IpAddr;

fn address(v6: bool) -> BoxedStrategy<IpAddr> {
    match v6 {
        false => any::<[u8; 4]>().prop_map(|octets| octets.into()).boxed(),
        true => any::<[u8; 16]>().prop_map(|octets| octets.into()).boxed(),
    }
}

fn raw(kinds: std::ops::Range<u16>) -> impl Strategy<Value = RawAttr> {
    (kinds, vec(any::<u8>(), 0..9)).prop_map(|(raw_kind, payload)| RawAttr { raw_kind, payload })
}

fn encap() -> impl Strategy<Value = Option<Encap>> {
    option::weighted(0.2, (any::<u16>(), vec(any::<u8>(), 0..9)).prop_map(|(kind, data)| Encap { kind, data }))
}

/// An address that can stand in RTA_GATEWAY or RTA_VIA of a route of this family.
fn gateway(v6: bool) -> impl Strategy<Value = Option<IpAddr>> {
    option::of(any::<bool>().prop_flat_map(move |other| address(v6 || other)))
}

fn path_hop(v6: bool) -> impl Strategy<Value = PathHop> {
    let fields = (any::<u8>(), 1..=256u16, any::<u32>(), gateway(v6), encap(), vec(raw(100..110), 0..2));
    fields.prop_map(|(flags, weight, interface, gateway, encap, others)| PathHop {
        flags,
        weight,
        interface,
        gateway,
        encap,
        others,
    })
}

fn route_message() -> impl Strategy<Value = RouteMessage> {
    any::<bool>().prop_flat_map(|v6| {
        let fixed = (0..=if v6 { 128u8 } else { 32 }, any::<[u8; 4]>(), any::<u32>(), any::<u32>());
        let addresses = (option::of(address(v6)), option::of(address(v6)), option::of(address(v6)), gateway(v6));
        let numbers = any::<[Option<u32>; 4]>();
        let lists = (vec(raw(0..20), 0..3), vec(path_hop(v6), 0..4), vec(raw(100..110), 0..3), encap());
        (fixed, addresses, numbers, option::of(any::<u8>()), lists).prop_map(
            move |(fixed, (dst, src, prefsrc, gateway), [priority, nh_id, oif, expires], pref, lists)| {
                let (dst_len, [tos, protocol, scope, kind], table, flags) = fixed;
                let (metrics, multipath, others, encap) = lists;
                RouteMessage {
                    family: if v6 { AF_INET6 } else { AF_INET },
                    dst_len,
                    src_len: 0,
                    tos,
                    table,
                    protocol,
                    scope,
                    kind,
                    flags,
                    dst,
                    src,
                    priority,
                    metrics,
                    nh_id,
                    prefsrc,
                    gateway,
                    oif,
                    encap,
                    multipath,
                    expires,
                    pref,
                    others,
                }
            },
        )
    })
}

fn nexthop_message() -> impl Strategy<Value = NexthopMessage> {
    let entry = (any::<u32>(), 1..=u16::MAX).prop_map(|(id, weight)| GroupEntry { id, weight });
    let flags = (any::<bool>(), any::<bool>(), any::<[u8; 2]>(), any::<u32>());
    let numbers = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u16>()));
    let parts = (option::of(address(true)), encap(), vec(entry, 0..4), vec(raw(100..110), 0..3));
    (flags, numbers, parts).prop_map(|((blackhole, fdb, [scope, protocol], flags), (id, oif, group_type), parts)| {
        let (gateway, encap, group, others) = parts;
        NexthopMessage {
            family: AF_INET6,
            scope,
            protocol,
            flags,
            id,
            blackhole,
            oif,
            gateway,
            encap,
            group,
            group_type,
            fdb,
            others,
        }
    })
}

/// Few different values, so that equal hops come up.
fn fib_hop() -> impl Strategy<Value = FibHop> {
    let gateways = select(vec!["10.0.0.1", "10.0.0.2", "fe80::1"]).prop_map(|text| text.parse::<IpAddr>().unwrap());
    let tunnels = option::weighted(0.1, (0..2u16).prop_map(|kind| Encap { kind, data: vec![9] }));
    (option::of(gateways), option::of(1..3u32), tunnels, 1..5u32, any::<bool>())
        .prop_map(|(gateway, oif, encap, weight, onlink)| FibHop { gateway, oif, encap, weight, onlink })
}

fn fib_route() -> impl Strategy<Value = FibRoute> {
    let kind = prop_oneof![8 => Just(RTN_UNICAST), 1 => 0..12u8];
    (kind, option::weighted(0.2, address(false)), vec(raw(0..20), 0..3), vec(fib_hop(), 1..12))
        .prop_map(|(kind, prefsrc, metrics, hops)| FibRoute { kind, prefsrc, metrics, hops })
}

proptest! {
    #[test]
    fn random_octets_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        laws::datagram(&bytes);
        laws::payload(&bytes);
    }

    #[test]
    fn damaged_messages_of_the_kernel_never_panic(
        capture in select(captures::ALL.to_vec()),
        damage in vec((any::<Index>(), any::<u8>()), 0..6),
        cut in option::weighted(0.3, any::<Index>()),
    ) {
        let mut bytes = captures::bytes(capture);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        laws::datagram(&bytes);
        if let Some(payload) = bytes.get(16..) {
            laws::payload(payload);
        }
    }

    #[test]
    fn routes_go_there_and_back(route in route_message()) {
        prop_assert_eq!(RouteMessage::parse(&route.to_payload().unwrap()), Ok(route));
    }

    #[test]
    fn nexthops_go_there_and_back(nexthop in nexthop_message()) {
        prop_assert_eq!(NexthopMessage::parse(&nexthop.to_payload().unwrap()), Ok(nexthop));
    }

    #[test]
    fn canonical_octets_go_there_and_back(route in fib_route()) {
        let bytes = route.to_bytes();
        let mut normal = route.clone();
        normal.normalise();
        prop_assert_eq!(FibRoute::from_bytes(&bytes), Some(normal.clone()));
        prop_assert_eq!(normal.to_bytes(), bytes);
    }

    #[test]
    fn order_repetition_and_onlink_change_nothing(
        route in fib_route(),
        order in vec(any::<u32>(), 12),
        times in 1..5u32,
    ) {
        let mut other = route.clone();
        let mut shuffled: Vec<_> = order.into_iter().zip(other.hops).collect();
        shuffled.sort_by_key(|(rank, _)| *rank);
        other.hops = shuffled.into_iter().map(|(_, hop)| hop).collect();
        prop_assert_eq!(route.to_bytes(), other.to_bytes());
        other.hops = (0..times).flat_map(|_| other.hops.clone()).collect();
        other.hops.iter_mut().for_each(|hop| hop.onlink = !hop.onlink);
        prop_assert!(route.agrees(&other));
        for hop in &mut other.hops {
            hop.gateway = Some([10, 0, 0, 9].into());
        }
        prop_assert!(route.agrees(&other) == super::fib::is_reject(route.kind));
    }

    #[test]
    fn what_is_written_means_the_same(route in fib_route(), v6 in any::<bool>(), len in 0..33u8) {
        let address: IpAddr = if v6 { "2001:db8::".parse().unwrap() } else { "192.0.2.0".parse().unwrap() };
        let key = FibKey { table: 254, prefix: Prefix::new(address, len).unwrap(), tos: 0 };
        let mut route = FibRoute { kind: RTN_UNICAST, prefsrc: route.prefsrc.filter(|_| !v6), ..route };
        for hop in &mut route.hops {
            hop.gateway = hop.gateway.filter(|gateway| gateway.is_ipv6() || !v6);
            hop.oif = hop.oif.or(Some(9));
        }
        let message = RouteMessage::parse(&encode_route(&key, &route, 99, 7).unwrap()).unwrap();
        prop_assert_eq!(FibKey::from_message(&message), Ok(key));
        prop_assert_eq!((message.protocol, message.priority), (99, Some(7)));
        let back = FibRoute::from_message(&message, |_| None).unwrap();
        prop_assert_eq!(back.to_bytes(), route.to_bytes());
    }

    #[test]
    fn a_route_kept_for_other_destinations_is_written_as_each_would_be(
        route in fib_route(),
        keys in proptest::collection::vec((any::<bool>(), any::<[u8; 4]>(), 0..33u8, 0..3u8), 1..6),
    ) {
        let key = |&(v6, octets, len, place): &(bool, [u8; 4], u8, u8)| {
            let [a, b, c, d] = octets.map(u16::from);
            let address: IpAddr =
                if v6 { [0x2001, 0xdb8, a, b, c, d, 0, 0].into() } else { octets.into() };
            FibKey { table: 254 + u32::from(place / 2), prefix: Prefix::new(address, len).unwrap(), tos: place % 2 * 16 }
        };
        let mut kept: Option<EncodedRoute> = None;
        for key in keys.iter().map(key) {
            let anew = || EncodedRoute::new(&key, &route, 99, 7).unwrap();
            let encoded = kept.take().and_then(|kept| kept.to(&key)).unwrap_or_else(anew);
            prop_assert_eq!(encoded.payload(), encode_route(&key, &route, 99, 7).unwrap());
            kept = Some(encoded);
        }
    }

    #[test]
    fn merging_in_any_order_is_one(one in fib_route(), two in fib_route()) {
        let (mut a, mut b) = (one.clone(), two.clone());
        prop_assert_eq!(a.merge(&two), b.merge(&one));
        if a != one {
            prop_assert_eq!(FibRoute { prefsrc: None, metrics: Vec::new(), ..a.clone() }.to_bytes(),
                FibRoute { prefsrc: None, metrics: Vec::new(), ..b }.to_bytes());
            prop_assert!(a.hops.len() <= MAX_HOPS);
        }
    }
}
