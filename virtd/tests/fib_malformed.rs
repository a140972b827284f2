//! What an instance sends is bytes from somebody who is not trusted: the core takes any, and hands
//! on only what is whole and means something.

#[path = "fib/world.rs"]
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use virtd_config::Strategy;
use wire::netlink::consts::*;
use wire::netlink::fib::FibRoute;
use wire::netlink::{Attrs, Frames, NexthopMessage, RouteMessage};
use world::*;

/// A lone instance: what it says is at once the winner.
fn lone() -> World {
    World::new(&config(1, Strategy::ContinuousMajority))
}

/// Sends one message and checks what must hold of every one.
fn check(w: &mut World, message: &[u8]) {
    let before = w.changes.len();
    let answers = w.raw(0, message);
    let Some(Ok(frame)) = Frames::new(message).next() else {
        assert!(answers.is_empty() && w.changes.len() == before, "no message at all");
        return;
    };
    let refused = answers.iter().any(|a| only_frame(a).errno() != Some(0));
    let parses = match frame.header.kind {
        RTM_NEWROUTE | RTM_DELROUTE => RouteMessage::parse(frame.payload).is_ok(),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => NexthopMessage::parse(frame.payload).is_ok(),
        _ => false,
    };
    assert!(parses || refused, "what is malformed is refused: {frame:?}");
    assert!(!refused || w.changes.len() == before, "what is refused goes nowhere");
    for (_, change) in &w.changes[before..] {
        if let Some(bytes) = &change.route {
            let route = FibRoute::from_bytes(bytes).expect("the canonical form");
            assert_eq!(&route.to_bytes(), bytes);
            let payload = wire::netlink::fib::encode_route(&change.key, &route, 245, 20).expect("it can be written");
            assert!(RouteMessage::parse(&payload).is_ok());
        }
    }
    // And everything of it can be shown.
    assert!(w.fib()["routes"].is_number());
}

fn kinds() -> impl Strategy2<Value = u16> {
    prop_oneof![Just(RTM_NEWROUTE), Just(RTM_DELROUTE), Just(RTM_NEWNEXTHOP), Just(RTM_DELNEXTHOP), any::<u16>()]
}
use proptest::strategy::Strategy as Strategy2;

/// Attributes of the types that there are, with lengths that are right more often than not.
fn attributes() -> impl Strategy2<Value = Vec<u8>> {
    let one =
        (0..34u16, prop_oneof![Just(0usize), Just(1), Just(2), Just(4), Just(8), Just(16), 0..40usize], any::<u8>())
            .prop_map(|(kind, len, octet)| {
                let mut a = ((len + 4) as u16).to_ne_bytes().to_vec();
                a.extend(kind.to_ne_bytes());
                a.extend(std::iter::repeat_n(octet, len));
                a.resize(a.len().next_multiple_of(4), 0);
                a
            });
    vec(one, 0..8).prop_map(|all| all.concat())
}

fn rtmsg() -> impl Strategy2<Value = Vec<u8>> {
    let family = prop_oneof![Just(AF_INET), Just(AF_INET6), any::<u8>()];
    (family, 0..140u8, prop_oneof![Just(0u8), any::<u8>()], prop_oneof![Just(0u8), any::<u8>()], any::<u8>(), 0..16u8)
        .prop_map(|(family, dst_len, src_len, tos, table, kind)| {
            vec![family, dst_len, src_len, tos, table, RTPROT_BGP, 0, kind, 0, 0, 0, 0]
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_octets_go_nowhere(messages in vec(vec(any::<u8>(), 0..300), 1..20)) {
        let mut w = lone();
        messages.iter().for_each(|m| check(&mut w, m));
    }

    #[test]
    fn random_messages_are_taken_or_refused(
        messages in vec((kinds(), any::<u16>(), rtmsg(), attributes(), any::<bool>()), 1..30)
    ) {
        let mut w = lone();
        for (kind, flags, fixed, attributes, nexthop) in messages {
            let fixed = if nexthop { &fixed[..8] } else { &fixed[..] };
            let payload = [fixed, &attributes].concat();
            let message = w.message(kind, flags, &payload);
            check(&mut w, &message);
        }
        w.run(3 * T);
        w.die(0);
        w.open(0);
        w.add(0, "198.51.100.0/24", &["10.0.2.2"]);
        w.run(3 * T);
        prop_assert!(w.in_kernel("198.51.100.0/24").is_some(), "it goes on");
    }

    /// A valid route, cut off anywhere, with any one octet changed, or with another length in its
    /// header.
    #[test]
    fn a_route_that_is_damaged_is_taken_as_it_is_or_refused(at in 0..200usize, octet in any::<u8>(), len in any::<u32>()) {
        let mut w = lone();
        for r in [route("198.51.100.0/24", &["10.0.2.2", "10.0.3.2"]), route("2001:db8::/48", &["fd00:2::2", "fd00:3::2"])] {
            let whole = w.message(RTM_NEWROUTE, CREATE, &r.to_payload().expect("fits"));
            let at = at % whole.len();
            check(&mut w, &whole[..at]);
            let mut changed = whole.clone();
            changed[at] = octet;
            check(&mut w, &changed);
            let mut other = whole.clone();
            other[..4].copy_from_slice(&len.to_ne_bytes());
            check(&mut w, &other);
            // Shortened as a whole: the header says so too.
            let mut short = whole[..at].to_vec();
            if let Some(field) = short.first_chunk_mut() {
                *field = (at as u32).to_ne_bytes();
                check(&mut w, &short);
            }
        }
    }
}

/// Attributes in attributes, as deep as a message can be; next hops as many as an attribute can
/// hold; metrics of every type.
#[test]
fn depth_and_breadth_have_their_bounds() {
    let mut w = lone();
    let mut nest = Vec::new();
    for depth in (1..16_000u16).rev() {
        nest.extend((depth * 4).to_ne_bytes());
        nest.extend((RTA_METRICS | NLA_F_NESTED).to_ne_bytes());
    }
    assert!(Attrs::new(&nest).next().is_some_and(|a| a.is_ok()));
    let deep = RouteMessage { kind: RTN_BLACKHOLE, ..route("198.51.100.0/24", &[]) }.to_payload().expect("fits");
    let message = w.message(RTM_NEWROUTE, CREATE, &[deep, nest].concat());
    check(&mut w, &message);
    for hops in [1024, 1025, 1800] {
        let mut broad = route("203.0.113.0/24", &[]);
        broad.multipath = (0..hops).map(|n| path_hop(&format!("10.0.2.{}", 2 + n % 250))).collect();
        let message = w.message(RTM_NEWROUTE, CREATE, &broad.to_payload().expect("fits"));
        check(&mut w, &message);
    }
    let mut group = NexthopMessage { id: Some(9), ..NexthopMessage::default() };
    w.nexthop(0, 1, "10.0.2.2");
    group.group = (0..8000).map(|_| wire::netlink::nexthop::GroupEntry { id: 1, weight: 65_535 }).collect();
    let message = w.message(RTM_NEWNEXTHOP, CREATE, &group.to_payload().expect("fits"));
    check(&mut w, &message);
    let mut by_group = route("192.0.2.0/24", &[]);
    by_group.nh_id = Some(9);
    let message = w.message(RTM_NEWROUTE, CREATE, &by_group.to_payload().expect("fits"));
    check(&mut w, &message);
    // A group of itself.
    let own = NexthopMessage {
        id: Some(9),
        group: vec![wire::netlink::nexthop::GroupEntry { id: 9, weight: 1 }],
        ..NexthopMessage::default()
    };
    assert_eq!(w.send(0, RTM_NEWNEXTHOP, CREATE, &own.to_payload().expect("fits")), libc::EINVAL);
}
