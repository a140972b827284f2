//! Rules of Linux that random requests seldom come upon, one by one against the kernel that runs.

use super::*;

const CREATE: u16 = NLM_F_CREATE | NLM_F_APPEND;

fn to(text: &str, len: u8) -> RouteMessage {
    let dst: IpAddr = text.parse().unwrap();
    RouteMessage {
        family: if dst.is_ipv4() { AF_INET } else { AF_INET6 },
        dst: Some(dst).filter(|_| len > 0),
        dst_len: len,
        table: RT_TABLE_MAIN,
        protocol: RTPROT_BGP,
        kind: RTN_UNICAST,
        ..Default::default()
    }
}

fn via(m: RouteMessage, gateway: &str, oif: u32) -> RouteMessage {
    RouteMessage { gateway: address(gateway), oif: Some(oif).filter(|&oif| oif != 0), ..m }
}

fn over(m: RouteMessage, id: u32) -> RouteMessage {
    RouteMessage { nh_id: Some(id), ..m }
}

fn of_kind(m: RouteMessage, kind: u8) -> RouteMessage {
    RouteMessage { kind, ..m }
}

fn hop(gateway: &str, interface: u32) -> PathHop {
    PathHop { gateway: address(gateway), interface, weight: 1, ..Default::default() }
}

impl Pair {
    fn add(&mut self, m: &RouteMessage) -> i32 {
        let errno = self.send(RTM_NEWROUTE, CREATE, &m.to_payload().unwrap());
        self.compare();
        errno
    }

    fn object(&mut self, id: u32, gateway: &str, oif: u32) {
        let family = if gateway.contains('.') { AF_INET } else { AF_INET6 };
        let blackhole = oif == 0;
        let oif = Some(oif).filter(|_| !blackhole);
        let nh =
            NexthopMessage { family, id: Some(id), oif, gateway: address(gateway), blackhole, ..Default::default() };
        assert_eq!(self.send(RTM_NEWNEXTHOP, NLM_F_CREATE, &nh.to_payload().unwrap()), 0);
    }
}

#[test]
fn an_ipv4_object_that_does_not_fit_hides_what_shares_its_leaf() {
    apart(|| {
        let mut pair = Pair::new();
        pair.object(1, "10.0.0.2", A);
        let link = |m: RouteMessage| RouteMessage { scope: RT_SCOPE_LINK, ..m };
        assert_eq!(pair.add(&link(over(to("10.9.0.0", 16), 1))), 0);
        // Over c: the object leads over a, and the routes behind it are not looked at.
        let behind = of_kind(link(RouteMessage { priority: Some(20), ..to("10.9.0.0", 16) }), RTN_PROHIBIT);
        assert_eq!(pair.add(&behind), 0);
        assert_eq!(pair.add(&via(to("10.7.0.0", 16), "10.9.1.5", C)), libc::ENETUNREACH);
        // Nor is a shorter prefix with the same address; one with another address is.
        assert_eq!(pair.add(&of_kind(link(to("10.8.0.0", 13)), RTN_UNREACHABLE)), 0);
        assert_eq!(pair.add(&via(to("10.7.0.0", 16), "10.9.1.5", C)), libc::EHOSTUNREACH);
    });
}

#[test]
fn a_type_that_drops_comes_before_an_object_that_does() {
    apart(|| {
        let mut pair = Pair::new();
        pair.object(1, "", 0);
        let m = RouteMessage { scope: RT_SCOPE_LINK, ..over(to("10.9.0.0", 16), 1) };
        pair.add(&of_kind(m, RTN_PROHIBIT));
        pair.add(&via(to("10.7.0.0", 16), "10.9.1.5", 0));
        pair.object(2, "10.0.0.2", A);
        pair.add(&RouteMessage { scope: RT_SCOPE_LINK, ..over(to("10.8.0.0", 16), 1) });
        assert_eq!(pair.add(&via(to("10.7.0.0", 16), "10.8.1.5", C)), libc::EINVAL);
    });
}

#[test]
fn a_host_route_over_a_link_that_is_down_is_found() {
    apart(|| {
        let mut pair = Pair::new();
        let host = RouteMessage { scope: RT_SCOPE_HOST, oif: Some(E), ..to("10.9.0.0", 16) };
        assert_eq!(pair.add(&host), 0);
        assert_eq!(pair.add(&via(to("10.7.0.0", 16), "10.9.1.5", 0)), libc::ENETDOWN);
    });
}

#[test]
fn an_object_over_loopback_leads_there_in_ipv6() {
    apart(|| {
        let mut pair = Pair::new();
        pair.object(1, "", 1);
        assert_eq!(pair.add(&over(to("2001:db8:9::", 48), 1)), 0);
        // A way, and then one that is not allowed; a route over loopback itself drops and is none.
        assert_eq!(pair.add(&via(to("2001:db8:7::", 48), "2001:db8:9::5", 1)), libc::EINVAL);
        assert_eq!(pair.add(&RouteMessage { oif: Some(1), ..to("2001:db8:8::", 48) }), 0);
        assert_eq!(pair.add(&via(to("2001:db8:7::", 48), "2001:db8:8::5", 1)), libc::EHOSTUNREACH);
        let multipath = vec![hop("2001:db8:9::5", 1)];
        assert_eq!(pair.add(&RouteMessage { multipath, ..to("2001:db8:7::", 48) }), libc::EINVAL);
        let multipath = vec![hop("2001:db8:8::5", 1)];
        assert_eq!(pair.add(&RouteMessage { multipath, ..to("2001:db8:7::", 48) }), libc::EHOSTUNREACH);
    });
}

#[test]
fn an_ipv6_object_that_drops_is_met_over_every_interface() {
    apart(|| {
        let mut pair = Pair::new();
        pair.object(1, "", 0);
        let family = NexthopMessage { family: AF_INET6, id: Some(2), blackhole: true, ..Default::default() };
        assert_eq!(pair.send(RTM_NEWNEXTHOP, NLM_F_CREATE, &family.to_payload().unwrap()), 0);
        assert_eq!(pair.add(&over(to("2001:db8:0:0:8000::", 65), 2)), 0);
        assert_eq!(pair.add(&via(to("2001:db8:7::", 48), "2001:db8:0:0:8000::1", A)), libc::EHOSTUNREACH);
        assert_eq!(pair.add(&via(to("2001:db8:7::", 48), "2001:db8::2", A)), 0);
    });
}

#[test]
fn an_onlink_gateway_may_not_contradict_a_longer_route() {
    apart(|| {
        let mut pair = Pair::new();
        let onlink = |gateway: &str, oif: u32| {
            let m = via(to("2001:db8:7::", 48), gateway, oif);
            RouteMessage { flags: u32::from(RTNH_F_ONLINK), ..m }
        };
        // The subnet of a, then a longer own route over c, then one of both.
        assert_eq!(pair.add(&onlink("2001:db8:0:0:8000::1", C)), libc::EINVAL);
        assert_eq!(pair.add(&via(to("2001:db8:0:0:8000::", 65), "2001:db8:1::2", C)), 0);
        assert_eq!(pair.add(&onlink("2001:db8:0:0:8000::1", A)), libc::EINVAL);
        assert_eq!(pair.add(&onlink("2001:db8:0:0:8000::1", C)), 0);
        assert_eq!(pair.add(&RouteMessage { oif: Some(A), ..to("2001:db8:0:0:8000::", 65) }), 0);
        assert_eq!(pair.add(&onlink("2001:db8:0:0:8000::2", A)), 0);
        // A preference counts more than the interface (RFC 4191), a lower metric more than both.
        let preferred = RouteMessage { pref: Some(1), oif: Some(C), ..to("2001:db8:9::", 48) };
        assert_eq!(pair.add(&preferred), 0);
        let first = RouteMessage { priority: Some(20), oif: Some(A), ..to("2001:db8:9::", 48) };
        pair.add(&onlink("2001:db8:9::5", A));
        assert_eq!(pair.add(&first), 0);
        pair.add(&onlink("2001:db8:9::6", A));
        pair.add(&onlink("2001:db8:9::6", C));
        // What drops, and what has no address of its own, does not count.
        assert_eq!(pair.add(&of_kind(to("2001:db8:8::", 48), RTN_BLACKHOLE)), 0);
        assert_eq!(pair.add(&onlink("2001:db8:8::5", A)), 0);
        assert_eq!(pair.add(&via(to("::", 0), "2001:db8::2", A)), 0);
        assert_eq!(pair.add(&onlink("2001:db7::5", C)), 0);
    });
}

#[test]
fn what_stands_between_the_hops_of_a_route_that_stays_outlives_the_link() {
    apart(|| {
        let mut pair = Pair::new();
        let key = || to("2001:db8:9::", 48);
        assert_eq!(pair.add(&via(key(), "2001:db8::2", A)), 0);
        assert_eq!(pair.add(&RouteMessage { oif: Some(A), ..key() }), 0);
        assert_eq!(pair.add(&via(key(), "2001:db8:1::2", C)), 0);
        assert_eq!(pair.add(&RouteMessage { oif: Some(A), priority: Some(2000), ..key() }), 0);
        pair.set_up(A, false);
        pair.compare();
        assert_eq!(pair.virt.routes(), 3, "one went, the other stands");
        pair.set_up(A, true);
        pair.compare();
        // All hops dead: they go. What is between them goes with its own link only.
        pair.set_up(A, false);
        pair.set_up(C, false);
        pair.compare();
        assert_eq!(pair.virt.routes(), 1);
    });
}

#[test]
fn a_route_over_an_object_gets_the_metrics_of_its_like() {
    apart(|| {
        let mut pair = Pair::new();
        pair.object(1, "10.0.0.2", A);
        let mtu = vec![RawAttr { raw_kind: RTAX_MTU, payload: 1400u32.to_ne_bytes().to_vec() }];
        let with = RouteMessage { metrics: mtu, ..over(to("10.9.0.0", 16), 1) };
        assert_eq!(pair.add(&with), 0);
        assert_eq!(pair.add(&over(to("10.8.0.0", 16), 1)), 0);
        // Of another table or protocol it is another route.
        assert_eq!(pair.add(&RouteMessage { table: 100, ..over(to("10.8.0.0", 16), 1) }), 0);
        assert_eq!(pair.add(&RouteMessage { protocol: RTPROT_BIRD, ..over(to("10.8.0.0", 16), 1) }), 0);
        assert_eq!(pair.add(&over(to("10.9.0.0", 16), 1)), libc::EEXIST);
    });
}

#[test]
fn what_is_taken_back_can_be_an_object_route_that_stood_before() {
    apart(|| {
        let mut pair = Pair::new();
        pair.object(1, "", A);
        let key = || to("2001:db8:9::", 48);
        assert_eq!(pair.add(&over(key(), 1)), 0);
        assert_eq!(pair.add(&via(key(), "2001:db8::2", A)), 0);
        let multipath = vec![hop("2001:db8::3", A), hop("2001:db8::2", A)];
        assert_eq!(pair.add(&RouteMessage { multipath, ..key() }), libc::EEXIST);
        assert_eq!(pair.virt.routes(), 2);
    });
}

#[test]
fn gateways_are_reached_over_the_routes_of_others() {
    apart(|| {
        let mut pair = Pair::new();
        let by_hand = |pair: &mut Pair, words: &str| {
            ip(&format!("{words} proto static"));
            pair.read_others();
        };
        let v4 = |n: u8, gateway: &str, oif: u32| via(to(&format!("10.7.{n}.0"), 24), gateway, oif);
        assert_eq!(pair.add(&v4(1, "172.16.0.1", C)), libc::ENETUNREACH);
        by_hand(&mut pair, "route add 172.16.0.0/24 dev c");
        assert_eq!(pair.add(&v4(1, "172.16.0.1", C)), 0);
        assert_eq!(pair.add(&v4(2, "172.16.0.1", 0)), 0);
        assert_eq!(pair.add(&v4(3, "172.16.0.1", A)), libc::ENETUNREACH);
        // What leads over a gateway leads nowhere, and a longer match that drops is met first where
        // its scope lets it.
        by_hand(&mut pair, "route add 172.17.0.0/24 via 10.0.0.2");
        assert_eq!(pair.add(&v4(4, "172.17.0.1", A)), libc::ENETUNREACH);
        by_hand(&mut pair, "route add prohibit 172.16.0.0/28 scope link");
        assert_eq!(pair.add(&v4(5, "172.16.0.1", C)), libc::EACCES);
        // A table of its own comes first.
        let in_100 = |n: u8| RouteMessage { table: 100, ..v4(n, "172.18.0.1", 0) };
        assert_eq!(pair.add(&in_100(6)), libc::ENETUNREACH);
        by_hand(&mut pair, "route add 172.18.0.0/24 dev a table 100");
        assert_eq!(pair.add(&in_100(6)), 0);
        assert_eq!(pair.add(&v4(7, "172.18.0.1", 0)), libc::ENETUNREACH);
        by_hand(&mut pair, "route del 172.18.0.0/24 dev a table 100");
        assert_eq!(pair.add(&in_100(8)), libc::ENETUNREACH);

        let v6 = |n: u8, gateway: &str, oif: u32| via(to(&format!("2001:db8:7:{n}::"), 64), gateway, oif);
        assert_eq!(pair.add(&v6(1, "2001:db8:a::1", C)), libc::EHOSTUNREACH);
        by_hand(&mut pair, "-6 route add 2001:db8:a::/48 dev c");
        assert_eq!(pair.add(&v6(1, "2001:db8:a::1", C)), 0);
        assert_eq!(pair.add(&v6(2, "2001:db8:a::1", A)), libc::EHOSTUNREACH);
        by_hand(&mut pair, "-6 route add 2001:db8:a::/64 via 2001:db8:1::2 dev c");
        assert_eq!(pair.add(&v6(3, "2001:db8:a::1", C)), libc::EHOSTUNREACH);
        // Of two with one metric any that leads there will do, the lower metric first.
        by_hand(&mut pair, "-6 route add 2001:db8:a::/64 dev c metric 20");
        assert_eq!(pair.add(&v6(4, "2001:db8:a::1", C)), 0);
        by_hand(&mut pair, "-6 route del 2001:db8:a::/64 dev c metric 20");
        assert_eq!(pair.add(&v6(5, "2001:db8:a::1", C)), libc::EHOSTUNREACH);
    });
}
