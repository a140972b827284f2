//! OPEN, NOTIFICATION and ROUTE-REFRESH, case by case.

use super::*;
use proptest::prelude::*;

/// An OPEN's body: version 4, AS 64500, hold time 90, router id 192.0.2.1, then `tail` from the
/// parameters' length on.
fn body(tail: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0xfb, 0xf4, 0, 90, 192, 0, 2, 1];
    body.extend_from_slice(tail);
    body
}

fn other(code: u8, value: &[u8]) -> Capability {
    Capability::Other { code, value: value.to_vec() }
}

#[test]
fn capabilities_are_read_whatever_their_packing() {
    use Capability::*;
    let v6 = Family::IPV6_UNICAST;
    // (optional parameters, length field included; capabilities)
    let table: Vec<(&[u8], Vec<Capability>)> = vec![
        (&[0], vec![]),
        (&[2, 2, 0], vec![]),
        (&[6, 2, 4, 2, 0, 70, 0], vec![RouteRefresh, EnhancedRouteRefresh]),
        (&[8, 2, 2, 2, 0, 2, 2, 6, 0], vec![RouteRefresh, ExtendedMessage]),
        (&[8, 2, 6, 1, 4, 0, 2, 0, 1], vec![Multiprotocol(v6)]),
        // RFC 9072: type 255, then lengths of two octets; the first octet is not a length.
        (&[255, 255, 0, 5, 2, 0, 2, 2, 0], vec![RouteRefresh]),
        (&[1, 255, 0, 5, 2, 0, 2, 2, 0], vec![RouteRefresh]),
        (&[10, 2, 8, 5, 6, 0, 1, 0, 1, 0, 2], vec![ExtendedNextHop(vec![(Family::IPV4_UNICAST, 2)])]),
        (
            &[10, 2, 8, 64, 6, 0xc0, 120, 0, 2, 1, 0x80],
            vec![GracefulRestart { flags: 0xc0, restart_time_s: 120, families: vec![(v6, 0x80)] }],
        ),
        (&[8, 2, 6, 69, 4, 0, 2, 1, 3], vec![AddPath(vec![(v6, 3)])]),
        (&[5, 2, 3, 9, 1, 4], vec![Role(4)]),
        // Lengths no RFC allows: kept as they came.
        (&[6, 2, 4, 1, 2, 0, 2], vec![other(1, &[0, 2])]),
        (&[5, 2, 3, 2, 1, 7], vec![other(2, &[7])]),
        (&[5, 2, 3, 64, 1, 0], vec![other(64, &[0])]),
        (&[10, 2, 8, 5, 6, 0, 1, 1, 1, 0, 2], vec![other(5, &[0, 1, 1, 1, 0, 2])]),
        (&[7, 2, 5, 65, 3, 0, 0, 1], vec![other(65, &[0, 0, 1])]),
        (&[6, 2, 4, 200, 2, 1, 2], vec![other(200, &[1, 2])]),
    ];
    for (parameters, expected) in table {
        let open = Open::decode(&body(parameters)).unwrap_or_else(|n| panic!("{parameters:02x?}: {n}"));
        assert_eq!(open.capabilities, expected, "{parameters:02x?}");
        assert_eq!((open.asn, open.hold_time_s, open.router_id), (64500, 90, Ipv4Addr::new(192, 0, 2, 1)));
    }
}

#[test]
fn four_octet_as_wins_over_the_header() {
    let open = Open::decode(&body(&[8, 2, 6, 65, 4, 0, 1, 0, 7])).unwrap();
    assert_eq!(open.asn, 65543);
}

#[test]
fn bad_opens_name_their_subcode() {
    // (what, body, subcode, data)
    let changed = |at: usize, octets: &[u8]| {
        let mut b = body(&[0]);
        b[at..at + octets.len()].copy_from_slice(octets);
        b
    };
    let table: Vec<(&str, Vec<u8>, u8, &[u8])> = vec![
        ("empty", vec![], 0, &[]),
        ("no length of parameters", body(&[]), 0, &[]),
        ("version 3", changed(0, &[3]), 1, &[0, 4]),
        ("AS 0", changed(1, &[0, 0]), 2, &[]),
        ("AS 0 in the capability", body(&[8, 2, 6, 65, 4, 0, 0, 0, 0]), 2, &[]),
        ("hold time 1", changed(3, &[0, 1]), 6, &[]),
        ("hold time 2", changed(3, &[0, 2]), 6, &[]),
        ("router id 0", changed(5, &[0, 0, 0, 0]), 3, &[]),
        ("parameter 1", body(&[2, 1, 0]), 4, &[]),
        ("parameters longer than the message", body(&[9, 2, 2, 2, 0]), 0, &[]),
        ("message longer than the parameters", body(&[0, 2]), 0, &[]),
        ("parameter without length", body(&[1, 2]), 0, &[]),
        ("parameter overruns", body(&[3, 2, 2, 2]), 0, &[]),
        ("capability without length", body(&[3, 2, 1, 2]), 0, &[]),
        ("capability overruns", body(&[4, 2, 2, 2, 1]), 0, &[]),
        ("RFC 9072 without its length", body(&[255, 255, 0]), 0, &[]),
        ("RFC 9072 with a parameter cut short", body(&[255, 255, 0, 2, 2, 0]), 0, &[]),
    ];
    for (what, body, subcode, data) in table {
        assert_eq!(Open::decode(&body), Err(Notification::with_data(2, subcode, data)), "{what}");
    }
}

#[test]
fn default_family_is_ipv4_unicast() {
    let mut open = Open::decode(&body(&[0])).unwrap();
    assert!(open.has_family(Family::IPV4_UNICAST) && !open.has_family(Family::IPV6_UNICAST));
    open.capabilities.push(Capability::Multiprotocol(Family::IPV6_UNICAST));
    assert!(!open.has_family(Family::IPV4_UNICAST) && open.has_family(Family::IPV6_UNICAST));
}

#[test]
fn open_stands_on_the_wire_as_the_rfc_draws_it() {
    let open = Open {
        asn: 4_200_000_001,
        hold_time_s: 9,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        capabilities: vec![Capability::RouteRefresh, Capability::FourOctetAs(4_200_000_001)],
    };
    let expected = [
        &[0xff; 16][..],
        &[0, 41, 1, 4, 0x5b, 0xa0, 0, 9, 192, 0, 2, 1, 12],
        &[2, 2, 2, 0, 2, 6, 65, 4, 0xfa, 0x56, 0xea, 0x01],
    ];
    assert_eq!(&open.encode()[..], expected.concat());
}

#[test]
fn an_open_never_outgrows_its_message() {
    let open = Open {
        asn: 64500,
        hold_time_s: 90,
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        capabilities: vec![other(200, &[7; 300]); 40],
    };
    let bytes = open.encode();
    assert!(bytes.len() <= MAX_LEN && bytes.len() > MAX_LEN - 260);
    let read = Open::decode(&bytes[HEADER_LEN..]).unwrap();
    assert!(read.capabilities.iter().all(|c| *c == other(200, &[7; 255])));
}

#[test]
fn notifications_are_read_written_and_named() {
    let n = Notification::with_data(6, 2, b"maintenance");
    assert_eq!(Notification::decode(&n.encode()[HEADER_LEN..]), Some(n));
    assert_eq!(Notification::decode(&[6]), None);
    let long = Notification::with_data(3, 1, &[9; 5000]).encode();
    assert_eq!((long.len(), &long[16..19]), (MAX_LEN, &[0x10, 0, 3][..]));
    let table = [
        (3, 10, "3/10 UPDATE Message Error: Invalid Network Field"),
        (2, 11, "2/11 OPEN Message Error: Role Mismatch"),
        (2, 9, "2/9 OPEN Message Error"),
        (4, 0, "4/0 Hold Timer Expired"),
        (6, 9, "6/9 Cease: Hard Reset"),
        (3, 42, "3/42 UPDATE Message Error"),
        (99, 1, "99/1"),
    ];
    for (code, subcode, name) in table {
        assert_eq!(notification_name(code, subcode), name);
        assert_eq!(Notification::new(code, subcode).to_string(), name);
    }
}

#[test]
fn keepalive_is_a_message() {
    let mut buf = bytes::BytesMut::from(&keepalive()[..]);
    let message = super::super::frame::next_message(&mut buf, false).unwrap().unwrap();
    assert_eq!((message.kind, message.bytes), (MessageType::Keepalive, keepalive()));
}

#[test]
fn route_refresh_case_by_case() {
    use RefreshKind::*;
    let v6 = Family::IPV6_UNICAST;
    for (body, kind) in
        [([0, 2, 0, 1], Request), ([0, 2, 1, 1], Begin), ([0, 2, 2, 1], End), ([0, 2, 9, 1], Unknown(9))]
    {
        let refresh = RouteRefresh { family: v6, kind };
        assert_eq!(RouteRefresh::decode(&body), Ok(refresh));
        assert_eq!(&refresh.encode()[HEADER_LEN..], body);
    }
    // An ORF follows a request, nothing follows a begin.
    assert!(RouteRefresh::decode(&[0, 1, 0, 1, 1, 64, 0, 0]).is_ok());
    for bad in [&[][..], &[0, 1, 0], &[0, 1, 1, 1, 0]] {
        let n = RouteRefresh::decode(bad).unwrap_err();
        assert_eq!((n.code, n.subcode, n.data.len()), (7, 1, HEADER_LEN + bad.len()));
        assert_eq!(&n.data[HEADER_LEN..], bad);
    }
}

fn family() -> impl Strategy<Value = Family> {
    (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Family { afi, safi })
}

fn capability() -> impl Strategy<Value = Capability> {
    use Capability::*;
    let list = || proptest::collection::vec((family(), any::<u8>()), 0..5);
    prop_oneof![
        family().prop_map(Multiprotocol),
        Just(RouteRefresh),
        Just(ExtendedMessage),
        Just(EnhancedRouteRefresh),
        any::<u8>().prop_map(Role),
        proptest::collection::vec((family(), any::<u16>()), 0..5).prop_map(ExtendedNextHop),
        (0u8..16, 0u16..4096, list()).prop_map(|(f, restart_time_s, families)| GracefulRestart {
            flags: f << 4,
            restart_time_s,
            families
        }),
        list().prop_map(AddPath),
        (100u8..=255, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(code, value)| Other { code, value }),
    ]
}

proptest! {
    #[test]
    fn open_round_trip(
        asn in 1u32..,
        hold_time_s in prop_oneof![Just(0u16), 3u16..],
        id in 1u32..,
        mut capabilities in proptest::collection::vec(capability(), 0..12),
    ) {
        capabilities.push(Capability::FourOctetAs(asn));
        let open = Open { asn, hold_time_s, router_id: Ipv4Addr::from(id), capabilities };
        let bytes = open.encode();
        let mut buf = bytes::BytesMut::from(&bytes[..]);
        let message = super::super::frame::next_message(&mut buf, false).unwrap().unwrap();
        prop_assert_eq!(Open::decode(message.body()), Ok(open));
    }

    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), fixed: bool) {
        let mut bytes = bytes;
        if fixed {
            bytes.splice(0..0, [4, 0xfb, 0xf4, 0, 90, 192, 0, 2, 1]);
        }
        if let Ok(open) = Open::decode(&bytes) {
            // What can be read can be written and read again.
            let again = Open::decode(&open.encode()[HEADER_LEN..]);
            prop_assert_eq!(again.map(|o| o.capabilities), Ok(open.capabilities));
        }
        let _ = RouteRefresh::decode(&bytes);
        let _ = Notification::decode(&bytes);
    }
}

#[test]
fn the_extended_form_of_a_short_open_says_the_same() {
    for capabilities in [vec![], vec![Capability::RouteRefresh, Capability::FourOctetAs(65000)]] {
        let open = Open { asn: 65000, hold_time_s: 90, router_id: Ipv4Addr::new(10, 0, 0, 1), capabilities };
        let (short, long) = (open.encode(), open.encode_extended());
        let body = |m: &Bytes| m[HEADER_LEN..].to_vec();
        assert!(!Open::is_extended(&body(&short)) && Open::is_extended(&body(&long)));
        assert_eq!(Open::decode(&body(&long)), Ok(open.clone()));
        assert_eq!(Open::decode(&body(&short)), Ok(open));
        assert_eq!(body(&long)[9..11], [255, 255]);
    }
}
