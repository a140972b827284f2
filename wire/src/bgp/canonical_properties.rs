//! What holds for every route: one meaning has one canonical form however it is written, what is
//! announced means what was asked for, and nothing panics. Then the same over a real update file,
//! with bgpkit-parser as the judge.

use super::*;
use crate::bgp::{Family, Prefix, encode};
use crate::laws::bgp::bodies;
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

const HEADER: usize = crate::bgp::frame::HEADER_LEN;

fn context(as4: bool) -> CanonicalContext {
    CanonicalContext {
        update: UpdateContext { as4, extended_next_hop: true, ..UpdateContext::EBGP },
        peer_as: 65000,
        confederation: None,
        peer_router_id: Ipv4Addr::new(192, 0, 2, 9),
        allow_own_as: true,
        ignore: AttributeSet::default(),
    }
}

/// A route by its meaning: the path as segments, in which no two neighbours are sequences of the
/// same type; what is a set is a sorted one.
#[derive(Clone, Debug)]
struct Route {
    next_hop: Vec<u8>,
    path: Vec<(u8, Vec<u32>)>,
    /// (flags, code, octets of a member, members)
    sets: Vec<(u8, u8, Vec<Vec<u8>>)>,
    /// (flags, code, value)
    opaque: Vec<(u8, u8, Vec<u8>)>,
}

fn next_hop() -> impl Strategy<Value = Vec<u8>> {
    let with = |first: [u8; 2]| any::<[u8; 14]>().prop_map(move |rest| [&first[..], &rest].concat());
    let (global, link_local) = (with([0x20, 1]), with([0xfe, 0x80]));
    prop_oneof![
        any::<[u8; 4]>().prop_map(|a| a.to_vec()),
        global.clone(),
        link_local.clone(),
        (global, link_local.clone()).prop_map(|(g, l)| [g, l].concat()),
        link_local.prop_map(|l| [vec![0; 16], l].concat()),
        vec(any::<u8>(), 32),
    ]
}

fn path() -> impl Strategy<Value = Vec<(u8, Vec<u32>)>> {
    let segment = (1u8..=4, vec(0u32..50_000, 1..300)).prop_map(|(kind, mut members)| {
        if matches!(kind, segment::AS_SET | segment::AS_CONFED_SET) {
            members.truncate(20);
            members.sort_unstable();
            members.dedup();
        }
        (kind, members)
    });
    vec(segment, 0..4).prop_map(|mut path| {
        path.dedup_by(|b, a| a.0 == b.0);
        path
    })
}

fn members<const N: usize>() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(0u8..3, N), 0..6).prop_map(|mut m| {
        m.sort();
        m.dedup();
        m
    })
}

fn route() -> impl Strategy<Value = Route> {
    let sets = (members::<4>(), members::<8>(), members::<12>(), members::<20>());
    let opaque = (0u8..3, any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>(), vec(any::<u8>(), 0..400));
    (next_hop(), path(), sets, opaque).prop_map(
        |(next_hop, path, (c, e, l, six), (origin, med, pref, atomic, other))| {
            let sets = vec![(0xc0, 8, c), (0xe0, 16, e), (0xc0, 25, six), (0xc0, 32, l)];
            let mut opaque = vec![(0x40, 1, vec![origin]), (0xc0, 99, other)];
            opaque.extend(med.map(|m| (0x80, 4, m.to_be_bytes().to_vec())));
            opaque.extend(pref.map(|p| (0x40, 5, p.to_be_bytes().to_vec())));
            opaque.extend(atomic.then(|| (0x40, 6, vec![])));
            Route { next_hop, path, sets: sets.into_iter().filter(|s| !s.2.is_empty()).collect(), opaque }
        },
    )
}

/// How a sender may write a route: choices taken one after the other from a list of numbers.
struct Taste<'a>(std::iter::Cycle<std::slice::Iter<'a, u8>>);

impl Taste<'_> {
    fn choose(&mut self, n: usize) -> usize {
        usize::from(*self.0.next().unwrap()) % n
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.choose(i + 1));
        }
    }
}

/// Writes `route` as an UPDATE's body in some sender's manner.
fn written(route: &Route, as4: bool, taste: &mut Taste<'_>) -> Vec<u8> {
    let number = |n: u32| if as4 { n.to_be_bytes().to_vec() } else { (n as u16).to_be_bytes().to_vec() };
    let mut path = Vec::new();
    for (kind, members) in &route.path {
        let mut members = members.clone();
        let set = matches!(*kind, segment::AS_SET | segment::AS_CONFED_SET);
        if set {
            members.extend_from_within(..taste.choose(members.len() + 1));
            taste.shuffle(&mut members);
        }
        let part = if set { 255 } else { 1 + taste.choose(255) };
        for part in members.chunks(part) {
            path.extend_from_slice(&[*kind, part.len() as u8]);
            part.iter().for_each(|m| path.extend(number(*m)));
        }
    }
    let mut attributes = vec![(0x40, attr::AS_PATH, path)];
    for (flags, code, members) in &route.sets {
        let mut members = members.clone();
        members.extend_from_within(..taste.choose(members.len() + 1));
        taste.shuffle(&mut members);
        attributes.push((*flags, *code, members.concat()));
    }
    attributes.extend(route.opaque.clone());
    match route.next_hop.len() {
        4 => attributes.push((0x40, attr::NEXT_HOP, route.next_hop.clone())),
        n => {
            let mp = [&[0, 2, 1, n as u8][..], &route.next_hop, &[0, 32, 0x20, 1, 0xd, 0xb8]].concat();
            attributes.push((0x80, attr::MP_REACH_NLRI, mp));
        }
    }
    taste.shuffle(&mut attributes);
    let mut field = Vec::new();
    for (flags, code, value) in attributes {
        let extended = value.len() > 255 || taste.choose(2) == 1;
        field.extend([if extended { flags | flag::EXTENDED } else { flags } | taste.choose(16) as u8 & 0xf, code]);
        if extended {
            field.extend((value.len() as u16).to_be_bytes());
        } else {
            field.push(value.len() as u8);
        }
        field.extend(value);
    }
    let nlri: &[u8] = if route.next_hop.len() == 4 { &[24, 198, 51, 100] } else { &[] };
    [&[0, 0], &(field.len() as u16).to_be_bytes()[..], &field, nlri].concat()
}

fn canonical(body: &[u8], context: &CanonicalContext) -> Vec<u8> {
    let update = Update::parse(body).unwrap();
    let carried = if update.mp_reach.is_some() { Carried::MpReach } else { Carried::Classic };
    Canonicaliser::default().route(&update, carried, context).unwrap().to_vec()
}

fn prefixes() -> impl Strategy<Value = Vec<Prefix>> {
    let one = |v6: bool| {
        let family = if v6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST };
        (0..=if v6 { 128u8 } else { 32 }, any::<[u8; 16]>())
            .prop_map(move |(len, octets)| Prefix::from_wire(family, len, &octets).unwrap())
    };
    any::<bool>().prop_flat_map(move |v6| vec(one(v6), 1..400))
}

proptest! {
    #[test]
    fn one_meaning_has_one_form(
        route in route(),
        as4: bool,
        one in vec(any::<u8>(), 1..300),
        two in vec(any::<u8>(), 1..300),
    ) {
        let first = canonical(&written(&route, as4, &mut Taste(one.iter().cycle())), &context(as4));
        let second = canonical(&written(&route, as4, &mut Taste(two.iter().cycle())), &context(as4));
        prop_assert_eq!(&first, &second);
        let parts = Parts::new(&first).unwrap();
        let codes: Vec<_> = parts.attributes().map(|a| a.1).collect();
        prop_assert!(codes.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(codes.len(), 1 + route.sets.len() + route.opaque.len());
        // Another meaning has another form.
        let mut other = route.clone();
        other.path.push((segment::AS_SET, vec![49_999]));
        prop_assert_ne!(canonical(&written(&other, as4, &mut Taste(one.iter().cycle())), &context(as4)), first);
    }

    #[test]
    fn what_is_announced_means_what_was_asked(route in route(), as4: bool, wide: bool, prefixes in prefixes()) {
        let mut context = context(as4);
        context.update.max_message_len = if wide { 65535 } else { 4096 };
        let max = context.update.max_message_len;
        let asked = canonical(&written(&route, as4, &mut Taste([0].iter().cycle())), &context);
        let mut out = BytesMut::new();
        let left_out = encode::announce(&asked, &prefixes, &context.update, &mut out);
        let v6 = prefixes[0].family() == Family::IPV6_UNICAST;
        if left_out > 0 {
            prop_assert_eq!(left_out, prefixes.len());
            prop_assert!(out.is_empty());
            prop_assert!(v6 && route.next_hop.len() == 4 || asked.len() > max - 100);
            return Ok(());
        }
        let mut said = Vec::new();
        for body in bodies(&out, max) {
            prop_assert_eq!(canonical(body, &context), &asked[..]);
            let u = Update::parse(body).unwrap();
            prop_assert!(u.withdrawn.is_empty() && u.mp_unreach.is_none());
            prop_assert_eq!(u.mp_reach.is_some(), v6 || route.next_hop.len() != 4);
            let codes: Vec<_> = Attributes::new(u.attributes).map(|a| {
                let a = a.unwrap();
                assert_eq!(a.flags & flag::EXTENDED != 0, a.value.len() > 255);
                a.code
            }).collect();
            let rest = if u.mp_reach.is_some() { &codes[1..] } else { &codes[..] };
            prop_assert!(rest.is_sorted_by(|a, b| a < b) && !rest.contains(&attr::MP_REACH_NLRI));
            said.extend(u.nlri.chain(u.mp_announced().into_iter().flatten()));
        }
        prop_assert_eq!(&said, &prefixes);

        out.clear();
        encode::withdraw(&prefixes, &context.update, &mut out);
        let said: Vec<_> = bodies(&out, max).into_iter().flat_map(|body| {
            let u = Update::parse(body).unwrap();
            u.withdrawn.chain(u.mp_withdrawn().into_iter().flatten())
        }).collect();
        prop_assert_eq!(said, prefixes);
    }

    /// Whatever hygiene lets pass or mends is announced in a form that hygiene lets pass, whole.
    #[test]
    fn what_is_announced_is_healthy(mut route in route(), taste in vec(any::<u8>(), 1..300)) {
        use crate::bgp::hygiene::{Verdict, check};
        let context = context(true);
        // On eBGP these are withdrawn, and there is nothing to see.
        route.path.retain(|s| matches!(s.0, segment::AS_SET | segment::AS_SEQUENCE));
        let mut body = written(&route, true, &mut Taste(taste.iter().cycle()));
        match check(&body, &context.update) {
            Verdict::Pass => {}
            Verdict::Rewritten { body: mended, withdrawn: false, .. } => body = mended,
            _ => return Ok(()),
        }
        let (prefix, mut out) = (if route.next_hop.len() == 4 { "198.51.100.0/24" } else { "2001:db8::/32" }, BytesMut::new());
        let route = canonical(&body, &context);
        let left_out = encode::announce(&route, &[prefix.parse().unwrap()], &context.update, &mut out);
        prop_assert!(left_out == 0 || route.len() > 4000);
        for body in bodies(&out, 4096) {
            prop_assert_eq!(check(body, &context.update), Verdict::Pass);
        }
    }

    #[test]
    fn nothing_panics(
        attributes in vec((any::<u8>(), 0u8..42, vec(0u8..6, 0..24)), 0..8),
        raw in vec(any::<u8>(), 0..60),
        as4: bool,
        v6: bool,
    ) {
        let mut field = Vec::new();
        for (flags, code, value) in attributes {
            field.extend([flags & !flag::EXTENDED, code, value.len() as u8]);
            field.extend(value);
        }
        field.extend(&raw);
        let prefix: Prefix = if v6 { "2001:db8::/32" } else { "198.51.100.0/24" }.parse().unwrap();
        let (context, mut out) = (context(as4), BytesMut::new());
        let body = [&[0, 0], &(field.len() as u16).to_be_bytes()[..], &field, &[8, 10]].concat();
        if let Ok(update) = Update::parse(&body) {
            for carried in [Carried::Classic, Carried::MpReach] {
                let mut canonicaliser = Canonicaliser::default();
                let route = canonicaliser.route(&update, carried, &context).unwrap();
                let _ = describe(route, as4).to_string();
                encode::announce(route, &[prefix], &context.update, &mut out);
                let mut block = Vec::new();
                encode::stored_attributes(&update, carried, &mut block);
                encode::announce_stored(&block, &[prefix], &context.update, &mut out);
            }
        }
        let _ = (describe(&raw, as4).to_string(), agrees(&raw, &field));
        encode::announce(&raw, &[prefix], &context.update, &mut out);
        encode::announce_stored(&raw, &[prefix], &context.update, &mut out);
        bodies(&out, 4096);
    }
}

/// AS path, communities and next hop of every route in a real update file are what bgpkit-parser
/// reads, and what is announced from it means the same.
#[test]
fn agrees_with_bgpkit_parser_over_a_real_file() {
    use crate::mrt;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/mrt/updates.20190101.0000.gz");
    if !path.exists() {
        return eprintln!("skipped: {} is not there", path.display());
    }
    let (mut routes, mut out, context) = (0, BytesMut::new(), context(true));
    for record in mrt::open(path).unwrap() {
        let mrt::Record::Message(m) = record.unwrap() else { continue };
        if m.bytes[18] != 2 {
            continue;
        }
        let body = &m.bytes[HEADER..];
        let u = Update::parse(body).unwrap();
        let theirs = Theirs::read(body);
        for (carried, nlri) in [(Carried::Classic, Some(u.nlri)), (Carried::MpReach, u.mp_announced())] {
            let Some(prefix) = nlri.and_then(|mut n| n.next()) else { continue };
            let mut canonicaliser = Canonicaliser::default();
            let route = canonicaliser.route(&u, carried, &context).unwrap();
            theirs.check(&describe(route, true), carried);
            out.clear();
            assert_eq!(encode::announce(route, &[prefix], &context.update, &mut out), 0);
            assert_eq!(canonical(&out[HEADER..], &context), route);
            routes += 1;
        }
    }
    assert!(routes > 30_000, "{routes}");
}

/// What bgpkit-parser says of an UPDATE, in our words.
struct Theirs {
    as_path: String,
    communities: Vec<String>,
    large: Vec<String>,
    classic: Option<std::net::IpAddr>,
    mp: Option<bgpkit_parser::models::NextHopAddress>,
}

impl Theirs {
    fn read(body: &[u8]) -> Theirs {
        use bgpkit_parser::models::{AsnLength, Community, MetaCommunity};
        let body = bytes::Bytes::copy_from_slice(body);
        let parse = bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
        let a = parse(body, false, &AsnLength::Bits32).unwrap().attributes;
        let (mut communities, mut large) = (Vec::new(), Vec::new());
        for c in a.iter_communities() {
            match c {
                MetaCommunity::Plain(c) => communities.push(u32::from_be_bytes(match c {
                    Community::NoExport => [0xff, 0xff, 0xff, 1],
                    Community::NoAdvertise => [0xff, 0xff, 0xff, 2],
                    Community::NoExportSubConfed => [0xff, 0xff, 0xff, 3],
                    Community::Custom(asn, n) => (asn.to_u32() << 16 | u32::from(n)).to_be_bytes(),
                })),
                MetaCommunity::Large(l) => large.push((l.global_admin, l.local_data)),
                _ => {}
            }
        }
        communities.sort_unstable();
        communities.dedup();
        large.sort_unstable();
        large.dedup();
        // Our own names for the well-known ones; their values are what is compared.
        let text = |c: u32| {
            let r = [&[0, 0, 0xc0, 8, 0, 4][..], &c.to_be_bytes()].concat();
            describe(&r, true).communities.concat()
        };
        Theirs {
            as_path: a.as_path().map(path_text).unwrap_or_default(),
            communities: communities.into_iter().map(text).collect(),
            large: large.into_iter().map(|(g, [a, b])| format!("{g}:{a}:{b}")).collect(),
            classic: a.next_hop(),
            mp: a.get_reachable_nlri().and_then(|n| n.next_hop),
        }
    }

    fn check(&self, ours: &RouteText, carried: Carried) {
        use bgpkit_parser::models::NextHopAddress;
        assert_eq!(ours.as_path, self.as_path);
        assert_eq!(ours.communities, self.communities);
        assert_eq!(ours.large_communities, self.large);
        match (carried, &self.mp) {
            (Carried::Classic, _) => assert_eq!(Some(ours.next_hop), self.classic),
            (Carried::MpReach, Some(NextHopAddress::Ipv4(a))) => assert_eq!(ours.next_hop, *a),
            (Carried::MpReach, Some(NextHopAddress::Ipv6(a))) => assert_eq!(ours.next_hop, *a),
            (Carried::MpReach, Some(NextHopAddress::Ipv6LinkLocal(a, b))) => {
                assert_eq!((ours.next_hop, ours.link_local), ((*a).into(), Some(*b)));
            }
            (Carried::MpReach, other) => panic!("{other:?}"),
        }
    }
}

fn path_text(path: &bgpkit_parser::models::AsPath) -> String {
    use bgpkit_parser::models::AsPathSegment;
    let mut path = path.clone();
    path.coalesce();
    let list = |members: &[bgpkit_parser::models::Asn], between: &str| {
        members.iter().map(|m| m.to_u32().to_string()).collect::<Vec<_>>().join(between)
    };
    let segments = path.iter_segments().map(|s| match s {
        AsPathSegment::AsSequence(m) => list(m, " "),
        AsPathSegment::AsSet(m) => {
            let mut m = m.to_vec();
            m.sort_unstable();
            m.dedup();
            format!("{{{}}}", list(&m, ","))
        }
        other => panic!("confederation segment in public data: {other:?}"),
    });
    segments.collect::<Vec<_>>().join(" ")
}
