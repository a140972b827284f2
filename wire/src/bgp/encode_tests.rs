use super::*;
use crate::bgp::canonical::{AttributeSet, CanonicalContext, Canonicaliser};
use std::net::Ipv4Addr;

pub(in crate::bgp) fn context(as4: bool) -> UpdateContext {
    UpdateContext { as4, ..UpdateContext::EBGP }
}

fn canonical_context(update: UpdateContext) -> CanonicalContext {
    CanonicalContext {
        update,
        peer_as: 65000,
        confederation: None,
        peer_router_id: Ipv4Addr::new(192, 0, 2, 9),
        allow_own_as: false,
        ignore: AttributeSet::default(),
    }
}

/// The bodies of the whole messages in `bytes`, each checked to be no longer than `max`.
pub(in crate::bgp) fn bodies(mut bytes: &[u8], max: usize) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(&bytes[..16], &[0xff; 16]);
        let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        assert!((23..=max).contains(&len), "length {len}");
        assert_eq!(bytes[18], 2);
        all.push(&bytes[19..len]);
        bytes = &bytes[len..];
    }
    all
}

/// A canonical route from its parts.
pub(in crate::bgp) fn route(next_hop: &[u8], link_local: &[u8], attributes: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut r = vec![next_hop.len() as u8];
    r.extend_from_slice(next_hop);
    r.push(link_local.len() as u8);
    r.extend_from_slice(link_local);
    for (flags, code, value) in attributes {
        r.extend_from_slice(&[*flags, *code]);
        r.extend_from_slice(&(value.len() as u16).to_be_bytes());
        r.extend_from_slice(value);
    }
    r
}

const PATH: &[u8] = &[2, 2, 0, 0, 0xfb, 0xf4, 0, 0, 0xfb, 0xf5];
const BASIC: &[(u8, u8, &[u8])] = &[(0x40, attr::ORIGIN, &[0]), (0x40, attr::AS_PATH, PATH)];

fn global() -> [u8; 16] {
    "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn link_local() -> [u8; 16] {
    "fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn many(n: u32) -> Vec<Prefix> {
    (0..n).map(|i| Prefix::new(Ipv4Addr::from(0x0a00_0000 + (i << 8)).into(), 24).unwrap()).collect()
}

fn many_v6(n: u16) -> Vec<Prefix> {
    let addr = |i| std::net::Ipv6Addr::new(0x2001, 0xdb8, i, 0, 0, 0, 0, 0);
    (0..n).map(|i| Prefix::new(addr(i).into(), 48).unwrap()).collect()
}

fn codes(update: &Update<'_>) -> Vec<u8> {
    Attributes::new(update.attributes).map(|a| a.unwrap().code).collect()
}

#[test]
fn classic_ipv4_is_the_message_of_the_rfc_octet_by_octet() {
    let r = route(&[192, 0, 2, 1], &[], &[BASIC[0], BASIC[1], (0x80, attr::MULTI_EXIT_DISC, &[0, 0, 0, 5])]);
    let mut out = BytesMut::new();
    assert_eq!(announce(&r, &["198.51.100.0/24".parse().unwrap()], &context(true), &mut out), 0);
    let expected = [
        &[0xff; 16][..],
        &[0, 19 + 4 + 31 + 4, 2, 0, 0, 0, 31],
        &[0x40, 1, 1, 0],
        &[0x40, 2, 10],
        PATH,
        &[0x40, 3, 4, 192, 0, 2, 1],
        &[0x80, 4, 4, 0, 0, 0, 5],
        &[24, 198, 51, 100],
    ];
    assert_eq!(out, expected.concat());
}

#[test]
fn mp_reach_comes_first_and_next_hop_is_not_among_the_rest() {
    let r = route(&global(), &link_local(), BASIC);
    let mut out = BytesMut::new();
    assert_eq!(announce(&r, &many_v6(3), &context(true), &mut out), 0);
    let messages = bodies(&out, 4096);
    let u = Update::parse(messages[0]).unwrap();
    assert_eq!(codes(&u), [attr::MP_REACH_NLRI, attr::ORIGIN, attr::AS_PATH]);
    assert_eq!(u.mp_reach.unwrap().next_hop, [global(), link_local()].concat());
    assert_eq!(u.mp_announced().unwrap().collect::<Vec<_>>(), many_v6(3));
}

#[test]
fn a_link_local_alone_goes_out_twice() {
    let r = route(&[0; 16], &link_local(), BASIC);
    let mut out = BytesMut::new();
    announce(&r, &many_v6(1), &context(true), &mut out);
    let messages = bodies(&out, 4096);
    let u = Update::parse(messages[0]).unwrap();
    assert_eq!(u.mp_reach.unwrap().next_hop, [link_local(), link_local()].concat());
}

#[test]
fn full_messages_are_as_full_as_can_be() {
    let r = route(&[192, 0, 2, 1], &[], BASIC);
    let prefixes = many(5000);
    let mut out = BytesMut::new();
    assert_eq!(announce(&r, &prefixes, &context(true), &mut out), 0);
    let messages = bodies(&out, 4096);
    let all: Vec<_> = messages.iter().flat_map(|m| Update::parse(m).unwrap().nlri).collect();
    assert_eq!(all, prefixes);
    assert!(messages[..messages.len() - 1].iter().all(|m| m.len() + 19 + 4 > 4096));

    out.clear();
    withdraw(&prefixes, &context(true), &mut out);
    let messages = bodies(&out, 4096);
    assert_eq!(messages.len(), 5);
    assert_eq!(messages.iter().flat_map(|m| Update::parse(m).unwrap().withdrawn).collect::<Vec<_>>(), prefixes);

    let (v6, wide) = (many_v6(9000), UpdateContext { max_message_len: 65535, ..context(true) });
    for (context, least) in [(context(true), 15), (wide, 1)] {
        out.clear();
        withdraw(&v6, &context, &mut out);
        announce(&route(&global(), &[], BASIC), &v6, &context, &mut out);
        let messages = bodies(&out, context.max_message_len);
        assert!((2 * least..2 * least + 3).contains(&messages.len()), "{}", messages.len());
        let updates: Vec<_> = messages.iter().map(|m| Update::parse(m).unwrap()).collect();
        assert_eq!(updates.iter().filter_map(Update::mp_withdrawn).flatten().collect::<Vec<_>>(), v6);
        assert_eq!(updates.iter().filter_map(Update::mp_announced).flatten().collect::<Vec<_>>(), v6);
    }
}

#[test]
fn what_no_message_can_say_is_left_out_whole() {
    let (v4, v6) = (many(2), many_v6(2));
    let plain = route(&[192, 0, 2, 1], &[], BASIC);
    let over_v6 = route(&global(), &[], BASIC);
    let none = |r: &[u8], prefixes: &[Prefix], context: &UpdateContext| {
        let mut out = BytesMut::new();
        assert_eq!(announce(r, prefixes, context, &mut out), prefixes.len());
        assert!(out.is_empty());
    };
    none(&plain, &v6, &context(true));
    none(&over_v6, &v4, &context(true));
    none(&route(&[1, 2, 3], &[], BASIC), &v4, &context(true));
    none(&route(&[192, 0, 2, 1], &[], &BASIC[..1]), &v4, &context(true));
    none(&plain[..plain.len() - 1], &v4, &context(true));
    none(&[], &v4, &context(true));
    let long = [0; 4200];
    none(&route(&[192, 0, 2, 1], &[], &[BASIC[0], BASIC[1], (0xc0, 99, &long)]), &v4, &context(true));

    let negotiated = UpdateContext { extended_next_hop: true, ..context(true) };
    let mut out = BytesMut::new();
    assert_eq!(announce(&over_v6, &v4, &negotiated, &mut out), 0);
    let messages = bodies(&out, 4096);
    assert_eq!(Update::parse(messages[0]).unwrap().mp_announced().unwrap().collect::<Vec<_>>(), v4);
}

/// The last octet counts: a route that just fits goes out, one octet more does not.
#[test]
fn the_limit_is_exact() {
    for family_v6 in [false, true] {
        let (next_hop, prefix) = if family_v6 {
            (global().to_vec(), "2001:db8::/32".parse().unwrap())
        } else {
            (vec![192, 0, 2, 1], "198.51.100.0/24".parse().unwrap())
        };
        let (mut fits, mut lens) = (0, Vec::new());
        for len in 3900..4100 {
            let value = vec![0; len];
            let mut out = BytesMut::new();
            let r = route(&next_hop, &[], &[BASIC[0], BASIC[1], (0xc0, 99, &value)]);
            if announce(&r, &[prefix], &context(true), &mut out) == 0 {
                fits += 1;
                lens.push(out.len());
            }
        }
        assert!(fits > 0);
        assert_eq!(*lens.last().unwrap(), 4096);
    }
}

#[test]
fn end_of_rib_is_recognised() {
    for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST, Family { afi: 1, safi: 128 }] {
        let mut out = BytesMut::new();
        end_of_rib(family, &mut out);
        let messages = bodies(&out, 4096);
        assert_eq!(Update::parse(messages[0]).unwrap().end_of_rib(), Some(family));
    }
}

#[test]
fn a_stored_announcement_is_told_again_as_it_was() {
    // Unsorted, with a needless extended length and one attribute twice: all of that is the peer's
    // own.
    let attributes = [
        &[0xc0, 8, 4, 0, 1, 0, 2][..],
        &[0x50, 2, 0, 10],
        PATH,
        &[0x40, 3, 4, 192, 0, 2, 1],
        &[0x40, 1, 1, 0, 0x40, 1, 1, 2],
    ]
    .concat();
    let nlri = [24, 198, 51, 100];
    let body = [&[0, 0, 0, attributes.len() as u8][..], &attributes, &nlri].concat();
    let u = Update::parse(&body).unwrap();
    let mut block = Vec::new();
    stored_attributes(&u, Carried::Classic, &mut block);
    assert_eq!(block, [&[0, 0][..], &attributes].concat());
    let mut out = BytesMut::new();
    assert_eq!(announce_stored(&block, &["198.51.100.0/24".parse().unwrap()], &context(true), &mut out), 0);
    assert_eq!(bodies(&out, 4096), [&body[..]]);
    assert_eq!(announce_stored(&block, &many_v6(2), &context(true), &mut out), 2);
    assert_eq!(announce_stored(&block, &many(2), &UpdateContext { max_message_len: 60, ..context(true) }, &mut out), 2);
    assert_eq!(announce_stored(&[], &many(2), &context(true), &mut out), 2);
}

#[test]
fn a_stored_mp_announcement_keeps_its_next_hop_field() {
    let r = route(&global(), &link_local(), BASIC);
    let mut first = BytesMut::new();
    announce(&r, &many_v6(5000), &context(true), &mut first);
    let messages = bodies(&first, 4096);
    let mut block = Vec::new();
    stored_attributes(&Update::parse(messages[0]).unwrap(), Carried::MpReach, &mut block);
    let mut again = BytesMut::new();
    assert_eq!(announce_stored(&block, &many_v6(5000), &context(true), &mut again), 0);
    assert_eq!(first, again);
    let mut canonicaliser = Canonicaliser::default();
    for m in bodies(&again, 4096) {
        let u = Update::parse(m).unwrap();
        let got = canonicaliser.route(&u, Carried::MpReach, &canonical_context(context(true)));
        assert_eq!(got, Some(&r[..]));
    }
}
