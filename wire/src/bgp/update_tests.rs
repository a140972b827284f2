//! UPDATEs taken apart, case by case, and against bgpkit-parser.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn parse_names_what_is_wrong() {
    // (what, body, code/subcode)
    let table: &[(&str, &[u8], (u8, u8))] = &[
        ("nothing", &[], (3, 1)),
        ("withdrawn routes past the end", &[0, 1, 0], (3, 1)),
        ("attributes past the end", &[0, 0, 0, 4, 0x40, 1, 1], (3, 1)),
        ("an attribute past the attributes", &[0, 0, 0, 3, 0x40, 1, 1, 0], (3, 1)),
        ("MP_UNREACH_NLRI twice", &[0, 0, 0, 12, 0x80, 15, 3, 0, 2, 1, 0x80, 15, 3, 0, 2, 1], (3, 1)),
        ("MP_UNREACH_NLRI too short", &[0, 0, 0, 5, 0x80, 15, 2, 0, 2], (3, 9)),
        ("MP_REACH_NLRI too short", &[0, 0, 0, 7, 0x80, 14, 4, 0, 2, 1, 0], (3, 9)),
        ("MP_UNREACH_NLRI of /129", &[0, 0, 0, 7, 0x80, 15, 4, 0, 2, 1, 129], (3, 9)),
        ("withdrawn /33", &[0, 1, 33, 0, 0], (3, 10)),
        ("NLRI cut short", &[0, 0, 0, 0, 24, 192, 0], (3, 10)),
    ];
    for (what, body, expected) in table {
        let n = Update::parse(body).expect_err(what);
        assert_eq!((n.code, n.subcode), *expected, "{what}");
    }
}

#[test]
fn end_of_rib_markers() {
    let family = |body: &[u8]| Update::parse(body).unwrap().end_of_rib();
    assert_eq!(family(&[0, 0, 0, 0]), Some(Family::IPV4_UNICAST));
    assert_eq!(family(&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]), Some(Family::IPV6_UNICAST));
    assert_eq!(family(&[0, 0, 0, 7, 0x90, 15, 0, 3, 0, 2, 1]), Some(Family::IPV6_UNICAST));
    assert_eq!(family(&[0, 0, 0, 6, 0x80, 15, 3, 0, 1, 1]), Some(Family::IPV4_UNICAST));
    for no in [
        &[0, 1, 0, 0, 0][..],
        &[0, 0, 0, 0, 0],
        &[0, 0, 0, 4, 0x40, 1, 1, 0],
        &[0, 0, 0, 7, 0x80, 15, 4, 0, 2, 1, 0],
        &[0, 0, 0, 10, 0x40, 1, 1, 0, 0x80, 15, 3, 0, 2, 1],
    ] {
        assert_eq!(family(no), None, "{no:02x?}");
    }
}

#[test]
fn attributes_stop_once_at_the_first_that_does_not_fit() {
    let field = [0x40, 1, 1, 0, 0x50, 2, 0, 0, 0x80, 4, 9, 1];
    let mut attributes = Attributes::new(&field);
    assert_eq!(attributes.next().unwrap().unwrap().value, [0]);
    let empty = attributes.next().unwrap().unwrap();
    assert_eq!((empty.code, empty.raw), (2, &field[4..8]));
    assert_eq!(attributes.next(), Some(Err(&field[8..])));
    assert_eq!(attributes.next(), None);
}

/// Prefixes of at least one bit: bgpkit-parser takes a field that begins with a zero for one with
/// path ids.
fn prefixes(family: Family) -> impl Strategy<Value = Vec<Prefix>> {
    let max: u8 = if family.afi == 2 { 128 } else { 32 };
    let prefix =
        (1..=max, any::<[u8; 16]>()).prop_map(move |(len, octets)| Prefix::from_wire(family, len, &octets).unwrap());
    vec(prefix, 0..6)
}

fn nlri(prefixes: &[Prefix]) -> Vec<u8> {
    prefixes.iter().flat_map(|p| [&[p.len()], p.octets()].concat()).collect()
}

/// bgpkit-parser's reading of one NLRI: a prefix in text.
fn text(prefixes: impl IntoIterator<Item = impl ToString>) -> Vec<String> {
    prefixes.into_iter().map(|p| p.to_string()).collect()
}

proptest! {
    #[test]
    fn parse_never_panics(body in vec(any::<u8>(), 0..100)) {
        if let Ok(update) = Update::parse(&body) {
            let _ = (update.mp_announced(), update.mp_withdrawn(), update.end_of_rib());
            let _ = update.nlri.chain(update.withdrawn).count();
        }
    }

    #[test]
    fn agrees_with_bgpkit_parser(
        withdrawn in prefixes(Family::IPV4_UNICAST),
        announced in prefixes(Family::IPV4_UNICAST),
        reach in prefixes(Family::IPV6_UNICAST),
        unreach in prefixes(Family::IPV6_UNICAST),
    ) {
        let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf4, 0x40, 3, 4, 192, 0, 2, 1];
        for (code, next_hop, prefixes) in [(attr::MP_REACH_NLRI, true, &reach), (attr::MP_UNREACH_NLRI, false, &unreach)] {
            let mut value = vec![0, 2, 1];
            if next_hop {
                value.extend([16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            }
            value.extend(nlri(prefixes));
            attributes.extend([0x80, code, value.len() as u8]);
            attributes.extend(value);
        }
        let mut body = Vec::new();
        for field in [nlri(&withdrawn), attributes] {
            body.extend((field.len() as u16).to_be_bytes());
            body.extend(field);
        }
        body.extend(nlri(&announced));

        let ours = Update::parse(&body).unwrap();
        prop_assert_eq!(ours.withdrawn.collect::<Vec<_>>(), &withdrawn[..]);
        prop_assert_eq!(ours.nlri.collect::<Vec<_>>(), &announced[..]);
        prop_assert_eq!(ours.mp_announced().unwrap().collect::<Vec<_>>(), &reach[..]);
        prop_assert_eq!(ours.mp_withdrawn().unwrap().collect::<Vec<_>>(), &unreach[..]);

        let asn_len = bgpkit_parser::models::AsnLength::Bits32;
        let theirs = bgpkit_parser::parser::bgp::messages::parse_bgp_update_message(body.into(), false, &asn_len).unwrap();
        prop_assert_eq!(text(theirs.withdrawn_prefixes.iter().map(|p| p.prefix)), text(withdrawn));
        prop_assert_eq!(text(theirs.announced_prefixes.iter().map(|p| p.prefix)), text(announced));
        let mp = |n: Option<&bgpkit_parser::models::Nlri>| text(n.iter().flat_map(|n| &n.prefixes).map(|p| p.prefix));
        prop_assert_eq!(mp(theirs.attributes.get_reachable_nlri()), text(reach));
        prop_assert_eq!(mp(theirs.attributes.get_unreachable_nlri()), text(unreach));
    }
}
