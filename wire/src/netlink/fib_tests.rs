use super::*;
use crate::netlink::captures::*;
use crate::netlink::nexthop::GroupEntry;
use std::collections::HashMap;

fn message(capture: &str) -> RouteMessage {
    RouteMessage::parse(&payload(capture)).unwrap()
}

fn nexthops(captures: &[&str]) -> HashMap<u32, NexthopMessage> {
    captures
        .iter()
        .map(|capture| NexthopMessage::parse(&payload(capture)).unwrap())
        .map(|nexthop| (nexthop.id.unwrap(), nexthop))
        .collect()
}

/// What a captured route means to somebody with these nexthop objects.
fn with(message: &RouteMessage, nexthops: &HashMap<u32, NexthopMessage>) -> Result<FibRoute, FibError> {
    FibRoute::from_message(message, |id| nexthops.get(&id))
}

fn route(capture: &str) -> FibRoute {
    with(&message(capture), &HashMap::new()).unwrap()
}

fn hop(gateway: &str, oif: u32, weight: u32) -> FibHop {
    FibHop { gateway: Some(gateway.parse().unwrap()), oif: Some(oif), encap: None, weight, onlink: false }
}

fn unicast(hops: &[FibHop]) -> FibRoute {
    FibRoute { kind: RTN_UNICAST, hops: hops.to_vec(), ..Default::default() }
}

/// A FIB case as a person reads it: the two routes mean the same, or not.
fn check(same: bool, one: &FibRoute, two: &FibRoute) {
    assert_eq!(one.agrees(two), same, "{one} | {two}");
    assert_eq!(two.agrees(one), same);
}

#[test]
fn keys() {
    let key = |capture| FibKey::from_message(&message(capture)).unwrap().to_string();
    assert_eq!(key(V4_PLAIN), "192.0.2.0/24");
    assert_eq!(key(V4_THROW_TABLE), "100.69.0.0/16 table 1000");
    assert_eq!(key(V4_METRICS), "100.70.0.0/16 tos 0x10");
    assert_eq!(key(V6_PLAIN), "2001:db8:100::/48");
    assert_eq!(FibKey::from_message(&message(V6_FROM)), Err(FibError::SourcePrefix));

    let default = RouteMessage { family: AF_INET6, ..Default::default() };
    let default = FibKey::from_message(&default).unwrap();
    assert_eq!((default.to_string().as_str(), default.table), ("::/0", RT_TABLE_MAIN));

    let host_bits = |family, dst: &str| {
        let dst = Some(dst.parse().unwrap());
        FibKey::from_message(&RouteMessage { family, dst, dst_len: 24, ..Default::default() })
    };
    assert_eq!(host_bits(AF_INET, "192.0.2.1"), Err(FibError::HostBits));
    assert_eq!(host_bits(AF_INET6, "2001:db8::1").unwrap().to_string(), "2001:d00::/24");
    assert_eq!(FibKey::from_message(&RouteMessage::default()), Err(FibError::Family { family: 0 }));
    assert!(size_of::<FibKey>() <= 24);
}

#[test]
fn what_each_captured_route_means() {
    for (capture, text) in [
        (V4_PLAIN, "via 10.0.1.2 dev #3"),
        (V4_ECMP, "via 10.0.1.2 dev #3 weight 1, via 10.0.2.2 dev #2 weight 10"),
        (V4_VIA_INET6, "via fe80::2 dev #3"),
        (V4_ECMP_MIXED, "via fe80::2 dev #3 weight 1, via 10.0.2.2 dev #2 weight 1"),
        (V4_ONLINK, "via 172.16.0.1 dev #3 onlink"),
        (V4_BLACKHOLE, "blackhole"),
        (V4_UNREACHABLE, "unreachable"),
        (V4_PROHIBIT, "prohibit"),
        (V4_THROW_TABLE, "throw"),
        (V6_BLACKHOLE, "blackhole"),
        (V6_UNREACHABLE, "unreachable"),
        (V4_METRICS, "via 10.0.1.2 dev #3 src 10.0.1.1 mtu 1400 metric8 1300"),
        (V4_CONGCTL, "via 10.0.1.2 dev #3 metric1 4 mtu 1400 metric16 \"cubic\""),
        (V4_DEVICE, "dev #3"),
        (V4_ENCAP_IP, "encap2 dev #3"),
        (V6_ECMP, "via fe80::2 dev #3 weight 2, via fe80::2 dev #2 weight 1"),
        (V4_NHID_GROUP, "via 10.0.1.2 dev #3 weight 1, via 10.0.2.2 dev #2 weight 3"),
    ] {
        assert_eq!(route(capture).to_string(), text);
    }
}

#[test]
fn canonical_octets() {
    let expected = [&[RTN_UNICAST, 0, 0, 1, 5, 10, 0, 1, 2, 0, 0, 0, 3][..], &[0]].concat();
    assert_eq!(route(V4_PLAIN).to_bytes(), expected);
    assert_eq!(FibRoute::compared(&expected), &expected[..13]);
    let onlink = route(V4_ONLINK).to_bytes();
    assert_eq!(onlink[13..], [1, 1]);
    assert_eq!(FibRoute::compared(&onlink).len(), 13);
    for capture in [V4_PLAIN, V4_ECMP_ONLINK, V4_METRICS, V4_CONGCTL, V4_ENCAP_SEG6, V6_APPENDED, V6_BLACKHOLE] {
        let mut normal = route(capture);
        normal.normalise();
        assert_eq!(FibRoute::from_bytes(&normal.to_bytes()), Some(normal));
    }
    assert_eq!(FibRoute::from_bytes(&[]), None);
    assert_eq!(FibRoute::compared(&[]), &[]);
}

#[test]
fn order_and_common_factors_of_weights_do_not_matter() {
    let (a, b) = ("10.0.1.2", "10.0.2.2");
    check(true, &unicast(&[hop(a, 3, 1), hop(b, 2, 10)]), &route(V4_ECMP));
    check(true, &unicast(&[hop(b, 2, 20), hop(a, 3, 2)]), &route(V4_ECMP));
    check(false, &unicast(&[hop(b, 2, 1), hop(a, 3, 10)]), &route(V4_ECMP));
    check(true, &unicast(&[hop(a, 3, 7)]), &unicast(&[hop(a, 3, 1)]));
    check(true, &unicast(&[hop(a, 3, 1), hop(b, 2, 1), hop(a, 3, 1)]), &unicast(&[hop(a, 3, 2), hop(b, 2, 1)]));
    check(false, &unicast(&[hop(a, 3, 1)]), &unicast(&[hop(a, 2, 1)]));
    check(false, &unicast(&[hop(a, 3, 1)]), &unicast(&[hop(b, 3, 1)]));
    check(false, &unicast(&[hop(a, 3, 1)]), &unicast(&[hop(a, 3, 1), hop(b, 3, 1)]));
}

#[test]
fn a_multipath_of_one_is_a_single_next_hop() {
    let mut one = message(V4_PLAIN);
    let path = PathHop { weight: 5, interface: 3, gateway: one.gateway, ..Default::default() };
    (one.gateway, one.oif, one.multipath) = (None, None, vec![path]);
    check(true, &with(&one, &HashMap::new()).unwrap(), &route(V4_PLAIN));
}

#[test]
fn ipv6_multipath_in_both_encodings_is_one() {
    let mut first = route(V6_FIRST);
    let second = unicast(&[hop("2001:db8:2::2", 2, 1)]);
    assert!(first.merge(&second));
    check(true, &first, &route(V6_APPENDED));
    check(true, &first, &route(DUMP_V6));
    assert!(!first.clone().merge(&route(V6_BLACKHOLE)));
    assert!(!route(V6_BLACKHOLE).merge(&first));

    let many = unicast(&vec![hop("fe80::1", 1, 1); MAX_HOPS]);
    assert!(!first.merge(&many));
    check(true, &first, &route(V6_APPENDED));
}

#[test]
fn what_is_and_what_is_not_compared() {
    let plain = message(V4_PLAIN);
    let of = |change: &dyn Fn(&mut RouteMessage)| {
        let mut message = plain.clone();
        change(&mut message);
        with(&message, &HashMap::new()).unwrap()
    };
    let metric = |value: u32| RawAttr { raw_kind: RTAX_MTU, payload: value.to_ne_bytes().to_vec() };
    let unchanged = of(&|_| {});
    check(true, &unchanged, &of(&|m| m.protocol = RTPROT_BIRD));
    check(true, &unchanged, &of(&|m| m.priority = Some(32)));
    check(true, &unchanged, &of(&|m| m.flags = u32::from(RTNH_F_LINKDOWN | RTNH_F_DEAD | RTNH_F_OFFLOAD)));
    check(true, &unchanged, &of(&|m| m.flags = u32::from(RTNH_F_ONLINK)));
    check(true, &unchanged, &of(&|m| m.scope = RT_SCOPE_LINK));
    check(true, &unchanged, &of(&|m| m.nh_id = Some(77)));
    check(true, &unchanged, &of(&|m| m.pref = Some(1)));
    check(false, &unchanged, &of(&|m| m.kind = RTN_LOCAL));
    check(false, &unchanged, &route(V4_BLACKHOLE));
    check(false, &route(V4_UNREACHABLE), &route(V4_BLACKHOLE));
    check(false, &unchanged, &of(&|m| m.prefsrc = Some([10, 0, 1, 1].into())));
    check(false, &unchanged, &of(&|m| m.metrics = vec![metric(1400)]));
    check(false, &of(&|m| m.metrics = vec![metric(1300)]), &of(&|m| m.metrics = vec![metric(1400)]));
    check(true, &of(&|m| m.metrics = vec![metric(1), metric(1400)]), &of(&|m| m.metrics = vec![metric(1400)]));
    check(false, &unchanged, &of(&|m| m.encap = Some(Encap { kind: 1, data: vec![1] })));
}

#[test]
fn nexthop_objects_are_resolved() {
    let objects = nexthops(&[NH_5, NH_6, NH_7_V6, NH_8_BLACKHOLE, NH_9_DEVICE, NH_11_ONLINK, NH_20_GROUP]);
    let by_id = |family, id| {
        let nh_id = Some(id);
        with(&RouteMessage { family, nh_id, kind: RTN_UNICAST, ..Default::default() }, &objects)
    };
    check(true, &by_id(AF_INET, 5).unwrap(), &route(V4_NHID));
    check(true, &by_id(AF_INET, 5).unwrap(), &route(V4_PLAIN));
    check(true, &by_id(AF_INET, 20).unwrap(), &route(V4_NHID_GROUP));
    check(true, &by_id(AF_INET, 7).unwrap(), &route(V4_NHID_V6));
    check(true, &by_id(AF_INET6, 7).unwrap(), &route(V6_NHID));
    check(true, &by_id(AF_INET, 8).unwrap(), &route(V4_BLACKHOLE));
    check(true, &by_id(AF_INET, 9).unwrap(), &route(V4_DEVICE));
    assert!(by_id(AF_INET, 11).unwrap().hops[0].onlink);
    // Whoever sent it has its own idea of an id; what the kernel shows beside it is not asked then.
    assert_eq!(with(&message(V4_NHID), &nexthops(&[])), Ok(route(V4_NHID)));
    let other = HashMap::from([(5, NexthopMessage { oif: Some(9), ..Default::default() })]);
    assert_eq!(with(&message(V4_NHID), &other).unwrap().to_string(), "dev #9");

    assert_eq!(by_id(AF_INET, 99), Err(FibError::UnknownNexthop { id: 99 }));
    assert_eq!(by_id(AF_INET6, 5), Err(FibError::WrongNexthop { id: 5 }));
    assert_eq!(by_id(AF_INET, 0), Err(FibError::NoNextHop));
}

#[test]
fn objects_that_no_route_can_use() {
    let member = |id| GroupEntry { id, weight: 1 };
    let objects = HashMap::from([
        (1, NexthopMessage { fdb: true, oif: Some(1), ..Default::default() }),
        (2, NexthopMessage { group: vec![member(3)], ..Default::default() }),
        (3, NexthopMessage { group: vec![member(2)], ..Default::default() }),
        (4, NexthopMessage { group: vec![member(99)], ..Default::default() }),
        (5, NexthopMessage::default()),
        (6, NexthopMessage { group: vec![member(7); MAX_HOPS + 1], ..Default::default() }),
        (7, NexthopMessage { oif: Some(1), ..Default::default() }),
    ]);
    let error = |id| {
        let message = RouteMessage { family: AF_INET, kind: RTN_UNICAST, nh_id: Some(id), ..Default::default() };
        with(&message, &objects).unwrap_err()
    };
    assert_eq!(error(1), FibError::WrongNexthop { id: 1 });
    assert_eq!(error(2), FibError::WrongNexthop { id: 3 });
    assert_eq!(error(4), FibError::UnknownNexthop { id: 99 });
    assert_eq!(error(5), FibError::NoNextHop);
    assert_eq!(error(6), FibError::TooManyHops);
}

#[test]
fn a_zero_gateway_is_none_and_ipv4_gateways_are_not_for_ipv6() {
    let mut message = message(V4_DEVICE);
    message.gateway = Some([0, 0, 0, 0].into());
    assert_eq!(with(&message, &HashMap::new()).unwrap(), route(V4_DEVICE));
    message.oif = Some(0);
    assert_eq!(with(&message, &HashMap::new()), Err(FibError::NoNextHop));
    message.gateway = Some([10, 0, 0, 1].into());
    assert!(with(&message, &HashMap::new()).is_ok());
    message.family = AF_INET6;
    assert_eq!(with(&message, &HashMap::new()), Err(FibError::Gateway));
}

#[test]
fn what_the_kernel_refuses_is_no_candidate() {
    let plain = message(V4_PLAIN);
    let of = |change: &dyn Fn(&mut RouteMessage)| {
        let mut message = plain.clone();
        change(&mut message);
        with(&message, &HashMap::new()).map(|route| route.to_string())
    };
    let path = PathHop { weight: 1, interface: 3, ..Default::default() };
    assert_eq!(of(&|m| m.kind = RTN_UNREACHABLE), Err(FibError::HopConflict));
    assert_eq!(of(&|m| (m.kind, m.nh_id) = (RTN_BLACKHOLE, Some(5))), Ok("blackhole".to_owned()));
    assert_eq!(of(&|m| m.multipath.push(path.clone())), Err(FibError::HopConflict));
    assert_eq!(of(&|m| m.kind = 0), Err(FibError::Kind { kind: 0 }));
    assert_eq!(of(&|m| m.kind = 10), Err(FibError::Kind { kind: 10 }));
    assert_eq!(of(&|m| m.gateway = Some("::".parse().unwrap())), Err(FibError::Gateway));

    let mut v6 = message(V6_PLAIN);
    v6.tos = 4;
    assert_eq!(FibKey::from_message(&v6), Err(FibError::Tos));
    let v4_source = RouteMessage { src_len: 24, ..plain };
    assert_eq!(FibKey::from_message(&v4_source).unwrap().to_string(), "192.0.2.0/24");

    let errno = [libc::EOPNOTSUPP, libc::EINVAL, libc::ENODEV];
    let errors = [FibError::SourcePrefix, FibError::UnknownNexthop { id: 1 }, FibError::NoNextHop];
    assert_eq!(errors.map(FibError::errno), errno);
}

/// The kernel's own message is what we would write, but for what the vote leaves out.
#[test]
fn written_routes_are_the_kernels_own() {
    for capture in [
        V4_PLAIN,
        V4_ECMP,
        V4_VIA_INET6,
        V4_ONLINK,
        V4_ECMP_ONLINK,
        V4_BLACKHOLE,
        V4_UNREACHABLE,
        V4_PROHIBIT,
        V4_THROW_TABLE,
        V4_METRICS,
        V4_DEVICE,
        V4_ENCAP_IP,
        V4_CONGCTL,
        V6_PLAIN,
        V4_NHID,
    ] {
        let mut expected = message(capture);
        let key = FibKey::from_message(&expected).unwrap();
        let metric = expected.priority.unwrap_or(0);
        let written = encode_route(&key, &route(capture), expected.protocol, metric).unwrap();
        expected.nh_id = None;
        expected.pref = None;
        expected.others.clear();
        assert_eq!(RouteMessage::parse(&written), Ok(expected), "{capture}");
    }
}

#[test]
fn large_weights_are_scaled_to_what_fits() {
    let key = FibKey::from_message(&message(V4_PLAIN)).unwrap();
    let route = unicast(&[hop("10.0.1.2", 3, 65535), hop("10.0.2.2", 2, 32768), hop("10.0.3.2", 2, 1)]);
    let weights: Vec<_> = to_message(&key, &route, 0, 0).multipath.iter().map(|hop| hop.weight).collect();
    assert_eq!(weights, [256, 128, 1]);
}

#[test]
fn a_delete_names_key_protocol_and_metric_alone() {
    let key = FibKey::from_message(&message(V4_THROW_TABLE)).unwrap();
    let delete = RouteMessage::parse(&encode_delete(&key, 77, 20)).unwrap();
    assert_eq!(FibKey::from_message(&delete), Ok(key));
    assert_eq!((delete.kind, delete.scope, delete.protocol), (0, RT_SCOPE_NOWHERE, 77));
    assert_eq!((delete.priority, delete.gateway, delete.oif), (Some(20), None, None));
}
