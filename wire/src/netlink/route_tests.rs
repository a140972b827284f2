use super::*;
use crate::netlink::captures::*;
use crate::netlink::message::Frames;

fn parse(capture: &str) -> RouteMessage {
    RouteMessage::parse(&payload(capture)).unwrap()
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// Every captured route.
pub const ROUTES: [&str; 29] = [
    V4_PLAIN,
    V4_ECMP,
    V4_VIA_INET6,
    V4_ECMP_MIXED,
    V4_ONLINK,
    V4_ECMP_ONLINK,
    V4_BLACKHOLE,
    V4_UNREACHABLE,
    V4_PROHIBIT,
    V4_THROW_TABLE,
    V4_METRICS,
    V4_DEVICE,
    V4_ENCAP_IP,
    V4_ENCAP_SEG6,
    V4_CONGCTL,
    V6_PLAIN,
    V6_ECMP,
    V6_FIRST,
    V6_APPENDED,
    V6_BLACKHOLE,
    V6_UNREACHABLE,
    V6_EXPIRES,
    V6_FROM,
    V4_NHID,
    V4_NHID_GROUP,
    V4_NHID_V6,
    V6_NHID,
    DUMP_V4,
    DUMP_V6,
];

#[test]
fn every_captured_route_is_written_back_octet_for_octet() {
    for capture in ROUTES {
        let bytes = bytes(capture);
        let frame = Frames::new(&bytes).next().unwrap().unwrap();
        assert_eq!(frame.header.kind, RTM_NEWROUTE);
        let route = RouteMessage::parse(frame.payload).unwrap();
        assert_eq!(route.to_payload().unwrap(), frame.payload, "{capture}");
    }
}

#[test]
fn a_plain_route() {
    let expected = RouteMessage {
        family: AF_INET,
        dst_len: 24,
        table: RT_TABLE_MAIN,
        protocol: RTPROT_BGP,
        kind: RTN_UNICAST,
        dst: ip("192.0.2.0"),
        priority: Some(20),
        gateway: ip("10.0.1.2"),
        oif: Some(3),
        ..Default::default()
    };
    assert_eq!(parse(V4_PLAIN), expected);
    assert_eq!(parse(V4_DELETED), expected);
}

#[test]
fn multipath() {
    let hop = |weight, interface, gateway| PathHop { weight, interface, gateway: ip(gateway), ..Default::default() };
    assert_eq!(parse(V4_ECMP).multipath, [hop(1, 3, "10.0.1.2"), hop(10, 2, "10.0.2.2")]);
    assert_eq!(parse(V6_ECMP).multipath, [hop(2, 3, "fe80::2"), hop(1, 2, "fe80::2")]);
    assert_eq!(parse(V6_APPENDED).multipath, [hop(1, 2, "2001:db8:2::2"), hop(1, 3, "2001:db8:1::2")]);
    assert_eq!(parse(V4_ECMP_MIXED).multipath, [hop(1, 3, "fe80::2"), hop(1, 2, "10.0.2.2")]);
    let onlink = parse(V4_ECMP_ONLINK);
    assert!(onlink.multipath.iter().all(|hop| hop.flags & RTNH_F_ONLINK != 0), "{onlink:?}");
    assert_eq!((onlink.flags, onlink.gateway, onlink.oif), (0, None, None));
}

#[test]
fn ipv4_over_ipv6_and_onlink() {
    let via = parse(V4_VIA_INET6);
    assert_eq!((via.dst, via.dst_len, via.gateway, via.oif), (ip("203.0.113.0"), 25, ip("fe80::2"), Some(3)));
    let onlink = parse(V4_ONLINK);
    assert_eq!((onlink.flags, onlink.gateway), (u32::from(RTNH_F_ONLINK), ip("172.16.0.1")));
}

#[test]
fn types_tables_and_metrics() {
    for (capture, kind) in [
        (V4_BLACKHOLE, RTN_BLACKHOLE),
        (V4_UNREACHABLE, RTN_UNREACHABLE),
        (V4_PROHIBIT, RTN_PROHIBIT),
        (V4_THROW_TABLE, RTN_THROW),
        (V6_BLACKHOLE, RTN_BLACKHOLE),
        (V6_UNREACHABLE, RTN_UNREACHABLE),
    ] {
        assert_eq!(parse(capture).kind, kind, "{capture}");
    }
    assert_eq!(parse(V4_THROW_TABLE).table, 1000);
    let route = parse(V4_METRICS);
    assert_eq!((route.tos, route.prefsrc, route.gateway), (0x10, ip("10.0.1.1"), ip("10.0.1.2")));
    let metrics: Vec<_> = route.metrics.iter().map(|m| (m.raw_kind, m.as_attr().u32().unwrap())).collect();
    assert_eq!(metrics, [(RTAX_MTU, 1400), (RTAX_ADVMSS, 1300)]);
    assert_eq!(parse(V4_CONGCTL).metrics.last().unwrap().as_attr().name(), "cubic");
}

#[test]
fn ids_tunnels_preference_and_source() {
    assert_eq!(parse(V4_NHID).nh_id, Some(5));
    assert_eq!((parse(V6_NHID).nh_id, parse(V6_NHID).gateway), (Some(7), ip("fe80::2")));
    assert_eq!(parse(V4_ENCAP_IP).encap.unwrap().kind, 2);
    assert_eq!(parse(V4_ENCAP_SEG6).encap.unwrap().kind, 5);
    assert_eq!(parse(V6_EXPIRES).pref, Some(1));
    let from = parse(V6_FROM);
    assert_eq!((from.src, from.src_len), (ip("2001:db8:1::"), 64));
    assert_eq!(parse(V6_PLAIN).others.iter().map(|o| o.raw_kind).collect::<Vec<_>>(), [RTA_CACHEINFO]);
}

/// A route message to 192.0.2.0/24 (or a shorter one of `fixed`) with these attributes.
fn request(fixed: [u8; 4], attrs: impl Fn(&mut Writer<'_>)) -> Result<RouteMessage, NetlinkError> {
    let mut out = Vec::new();
    let mut w = Writer::payload(&mut out);
    w.put(&fixed);
    w.put(&[254, RTPROT_BGP, 0, RTN_UNICAST, 0, 0, 0, 0]);
    attrs(&mut w);
    w.finish().unwrap();
    RouteMessage::parse(&out)
}

#[test]
fn malformed_routes_are_refused_by_name() {
    use NetlinkError::*;
    let v4 = [AF_INET, 24, 0, 0];
    assert_eq!(RouteMessage::parse(&[2; 11]), Err(ShortBody { need: 12, have: 11 }));
    assert_eq!(request([28, 0, 0, 0], |_| {}), Err(Family { family: 28 }));
    assert_eq!(request([AF_INET, 33, 0, 0], |_| {}), Err(PrefixLength { len: 33 }));
    assert_eq!(request([AF_INET6, 0, 129, 0], |_| {}), Err(PrefixLength { len: 129 }));
    assert_eq!(request([AF_UNSPEC, 1, 0, 0], |_| {}), Err(PrefixLength { len: 1 }));
    assert_eq!(request(v4, |w| w.attr(RTA_DST, &[0; 16])), Err(AttrLength { kind: RTA_DST, len: 16 }));
    assert_eq!(request(v4, |w| w.attr(RTA_OIF, &[0; 3])), Err(AttrLength { kind: RTA_OIF, len: 3 }));
    let both = |w: &mut Writer<'_>| {
        w.attr_ip(RTA_GATEWAY, [10, 0, 0, 1].into());
        w.attr_via(RTA_VIA, "fe80::1".parse().unwrap());
    };
    assert_eq!(request(v4, both), Err(AttrConflict { kind: RTA_VIA }));
    let via = |w: &mut Writer<'_>| w.attr_via(RTA_VIA, [10, 0, 0, 1].into());
    assert_eq!(request([AF_INET6, 0, 0, 0], via), Err(AttrConflict { kind: RTA_VIA }));
    for hops in [&[8u8, 0, 0, 0, 1, 0, 0][..], &[]] {
        let len = hops.len();
        assert_eq!(request(v4, |w| w.attr(RTA_MULTIPATH, hops)), Err(AttrLength { kind: RTA_MULTIPATH, len }));
    }
    for hops in [&[7, 0, 0, 0, 1, 0, 0, 0][..], &[12, 0, 0, 0, 1, 0, 0, 0], &[8, 0, 0, 0, 1, 0, 0, 0, 9]] {
        assert_eq!(request(v4, |w| w.attr(RTA_MULTIPATH, hops)), Err(AttrValue { kind: RTA_MULTIPATH }));
    }
    let inner = [12, 0, 0, 0, 1, 0, 0, 0, 9, 0, 5, 0];
    assert_eq!(request(v4, |w| w.attr(RTA_MULTIPATH, &inner)), Err(AttrFraming { len: 9, left: 4 }));
    assert_eq!(request(v4, |w| w.attr(RTA_METRICS, &[1])), Err(AttrFraming { len: 0, left: 1 }));
}

#[test]
fn a_gateway_of_the_own_family_in_rta_via_is_a_gateway() {
    let route = request([AF_INET, 24, 0, 0], |w| w.attr_via(RTA_VIA, [10, 0, 0, 1].into())).unwrap();
    assert_eq!(route, request([AF_INET, 24, 0, 0], |w| w.attr_ip(RTA_GATEWAY, [10, 0, 0, 1].into())).unwrap());
}

#[test]
fn half_a_tunnel_and_unknown_attributes_are_kept() {
    let route = request([AF_INET, 24, 0, 0], |w| {
        w.attr_u16(RTA_ENCAP_TYPE, 2);
        w.attr(200 | NLA_F_NESTED, b"12345");
    })
    .unwrap();
    assert_eq!(route.encap, None);
    assert_eq!(route.others.len(), 2);
    assert_eq!(RouteMessage::parse(&route.to_payload().unwrap()), Ok(route));
}
