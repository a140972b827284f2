//! Hygiene, case by case. Every UPDATE here is a base of sound fields with one thing changed, so
//! that a row reads `what, on which session, attributes, outcome`. Outcomes:
//!
//! - `pass`: the bytes go through untouched,
//! - `discard N …`: attributes of these codes are left out, all the rest is as it came,
//! - `withdraw`: every announcement has become a withdrawal,
//! - `reset C/S`: NOTIFICATION C/S.

use super::*;
use crate::bgp::types::SessionKind::{self, Confederation, Ebgp, Ibgp};
use crate::bgp::update::Update;

/// 198.51.100.0/24, on the wire.
const NLRI: &str = "18c63364";
/// ORIGIN IGP.
const ORIGIN: &str = "40010100";
/// AS_PATH 64500.
const AS_PATH: &str = "40020602010000fbf4";
/// NEXT_HOP 192.0.2.1.
const NEXT_HOP: &str = "400304c0000201";
/// AS_PATH (64500), as a confederation neighbour sends it.
const CONFED_PATH: &str = "40020603010000fbf4";
/// MP_REACH_NLRI of 2001:db8::/32 through 2001:db8::1.
const MP_REACH: &str = "800e1a 0002 01 10 20010db8000000000000000000000001 00 2020010db8";
/// The MP_UNREACH_NLRI that withdraws it.
const MP_UNREACH: &str = "800f08 0002 01 2020010db8";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    assert!(digits.len().is_multiple_of(2), "odd number of digits: {text}");
    digits.chunks(2).map(octet).collect()
}

fn body(withdrawn: &str, attributes: &str, nlri: &str) -> Vec<u8> {
    let (w, a) = (hex(withdrawn), hex(attributes));
    let mut body = (w.len() as u16).to_be_bytes().to_vec();
    body.extend(w);
    body.extend((a.len() as u16).to_be_bytes());
    body.extend(a);
    body.extend(hex(nlri));
    body
}

fn context(kind: SessionKind) -> UpdateContext {
    UpdateContext { kind, ..UpdateContext::EBGP }
}

fn codes(attributes: &[u8]) -> Vec<u8> {
    Attributes::new(attributes).flatten().map(|a| a.code).collect()
}

/// The outcome in the words of this file's head; what holds of every outcome is asserted on the
/// way.
fn outcome(body: &[u8], context: &UpdateContext) -> String {
    match check(body, context) {
        Verdict::Pass => {
            Update::parse(body).expect("what passes can be parsed");
            "pass".into()
        }
        Verdict::Reset { notification, finding } => {
            assert!(!finding.what.is_empty());
            format!("reset {}/{}", notification.code, notification.subcode)
        }
        Verdict::Rewritten { body: new, withdrawn, findings } => {
            assert!(!findings.is_empty() && findings.iter().all(|f| f.what.contains("RFC")));
            assert!(new.len() <= body.len());
            assert_eq!(check(&new, context), Verdict::Pass);
            let update = Update::parse(&new).unwrap();
            if withdrawn {
                assert!(update.nlri.is_empty() && update.mp_reach.is_none());
                return "withdraw".into();
            }
            let (mut left_out, kept) = (codes(update::fields(body).unwrap().attributes), codes(update.attributes));
            for code in kept {
                let at = left_out.iter().position(|&c| c == code).expect("nothing is added");
                left_out.remove(at);
            }
            if left_out.is_empty() {
                return "clear".into();
            }
            format!("discard {}", left_out.iter().map(u8::to_string).collect::<Vec<_>>().join(" "))
        }
    }
}

/// The outcome for the base attributes with `changed` in place of the one of the same code, or
/// after them.
fn changed(changed: &str, context: &UpdateContext) -> String {
    let path = if context.kind == Confederation { CONFED_PATH } else { AS_PATH };
    let code = hex(changed)[1];
    let rest: String = [(1, ORIGIN), (2, path), (3, NEXT_HOP)]
        .into_iter()
        .filter_map(|(c, attribute)| (c != code).then_some(attribute))
        .collect();
    outcome(&body("", &(rest + changed), NLRI), context)
}

fn run(table: &[(&str, SessionKind, &str, &str)]) {
    for &(what, kind, attribute, expected) in table {
        assert_eq!(changed(attribute, &context(kind)), expected, "{what} ({kind:?})");
    }
}

/// The table "The same odd UPDATE, different answers" of what real daemons do, as the RFCs want it.
/// eBGP.
#[test]
fn the_odd_updates_that_real_daemons_disagree_on() {
    let communities = "c008080000fde80000fde9";
    let table = [
        ("ORIGIN = 3", [&format!("40010103{AS_PATH}{NEXT_HOP}"), NLRI], "withdraw"),
        ("ORIGIN missing", [&format!("{AS_PATH}{NEXT_HOP}"), NLRI], "withdraw"),
        ("AS_PATH segment overruns", [&format!("{ORIGIN}40020602020000fbf4{NEXT_HOP}"), NLRI], "withdraw"),
        ("AS_PATH contains AS 0", [&format!("{ORIGIN}40020a02020000fbf400000000{NEXT_HOP}"), NLRI], "withdraw"),
        ("first AS is not the peer's", [&format!("{ORIGIN}40020602010000ffff{NEXT_HOP}"), NLRI], "pass"),
        ("NEXT_HOP 0.0.0.0", [&format!("{ORIGIN}{AS_PATH}40030400000000"), NLRI], "withdraw"),
        ("next hop off-net", [&format!("{ORIGIN}{AS_PATH}400304cb007109"), NLRI], "pass"),
        ("MED twice", [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}80040400000001 80040400000002"), NLRI], "discard 4"),
        (
            "COMMUNITIES length 5, then another attribute",
            [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}c008050000fde800 80040400000001"), NLRI],
            "withdraw",
        ),
        (
            "LARGE_COMMUNITY length 11, then another",
            [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}{communities}c0200b0000fde80000000100000080040400000001"), NLRI],
            "withdraw",
        ),
        (
            "TUNNEL_ENCAP corrupt (CVE-2023-38802)",
            [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}c017080000ff0400000000"), NLRI],
            "withdraw",
        ),
        (
            "PREFIX_SID with a valid label index",
            [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}c0280a01000700000000000001"), NLRI],
            "pass",
        ),
        (
            "PREFIX_SID TLV longer than the attribute",
            [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}c02805010007 0000"), NLRI],
            "discard 40",
        ),
        ("PREFIX_SID of zero bytes", [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}c02800"), NLRI], "discard 40"),
        ("two stray bytes after the attributes", [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}0000"), NLRI], "withdraw"),
        ("NLRI /33", [&format!("{ORIGIN}{AS_PATH}{NEXT_HOP}"), "21c633640180"], "reset 3/10"),
    ];
    for (what, [attributes, nlri], expected) in table {
        assert_eq!(outcome(&body("", attributes, nlri), &context(Ebgp)), expected, "{what}");
    }
}

#[test]
fn the_two_updates_that_crash_frr() {
    // CVE-2023-46753: unknown attributes only, then NLRI; no mandatory attribute.
    let update = body("", "ff1f001000040146464646460004464646464646", NLRI);
    match check(&update, &context(Ebgp)) {
        Verdict::Rewritten { body: new, withdrawn: true, .. } => assert_eq!(new, body(NLRI, "", "")),
        other => panic!("{other:?}"),
    }
    // CVE-2023-47235, whole: an attribute nobody knows, of no length, and an NLRI field that is
    // none.
    let mut stream = bytes::BytesMut::from(&[0xff; 16][..]);
    stream.extend_from_slice(&hex("002b 02 0000 0003 c0ff00 010100eb00ac100b0b001ad908ac100b0b"));
    let message = crate::bgp::frame::next_message(&mut stream, false).unwrap().unwrap();
    match check(message.body(), &context(Ebgp)) {
        Verdict::Reset { notification, .. } => assert_eq!(notification, Notification::new(3, 10)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_attribute_on_each_kind_of_session() {
    run(&[
        ("ORIGIN of two octets", Ebgp, "4001020000", "withdraw"),
        ("ORIGIN empty", Ebgp, "400100", "withdraw"),
        ("ORIGIN INCOMPLETE", Ibgp, "40010102", "pass"),
        ("AS_PATH empty", Ibgp, "400200", "pass"),
        ("AS_PATH of one octet", Ebgp, "40020102", "withdraw"),
        ("AS_PATH segment of no AS", Ebgp, "4002020200", "withdraw"),
        ("AS_PATH, a stray octet after a segment", Ebgp, "40020702010000fbf402", "withdraw"),
        ("AS_PATH segment type 5", Ebgp, "40020605010000fbf4", "withdraw"),
        ("AS_PATH segment type 0", Ebgp, "40020600010000fbf4", "withdraw"),
        ("AS_PATH with an AS_SET", Ebgp, "40020c02010000fbf401010000fbf5", "pass"),
        ("AS_PATH of the confederation", Ebgp, CONFED_PATH, "withdraw"),
        ("AS_PATH of the confederation", Ibgp, CONFED_PATH, "pass"),
        ("AS_PATH of the confederation", Confederation, CONFED_PATH, "pass"),
        ("AS_PATH without the confederation", Confederation, AS_PATH, "withdraw"),
        ("AS_PATH empty", Confederation, "400200", "withdraw"),
        ("NEXT_HOP of 3 octets", Ebgp, "400303c00002", "withdraw"),
        ("NEXT_HOP of 16 octets", Ebgp, "400310 20010db8000000000000000000000001", "withdraw"),
        ("NEXT_HOP 127.0.0.1", Ebgp, "4003047f000001", "withdraw"),
        ("NEXT_HOP 224.0.0.1", Ebgp, "400304e0000001", "withdraw"),
        ("NEXT_HOP 240.0.0.1", Ibgp, "400304f0000001", "withdraw"),
        ("NEXT_HOP 255.255.255.255", Ebgp, "400304ffffffff", "withdraw"),
        ("NEXT_HOP 223.255.255.1", Ebgp, "400304dfffff01", "pass"),
        ("MED of 3 octets", Ebgp, "800403000001", "withdraw"),
        ("LOCAL_PREF", Ebgp, "40050400000064", "discard 5"),
        ("LOCAL_PREF of 3 octets", Ebgp, "400503000064", "discard 5"),
        ("LOCAL_PREF optional", Ebgp, "c0050400000064", "discard 5"),
        ("LOCAL_PREF", Ibgp, "40050400000064", "pass"),
        ("LOCAL_PREF", Confederation, "40050400000064", "pass"),
        ("LOCAL_PREF of 3 octets", Ibgp, "400503000064", "withdraw"),
        ("LOCAL_PREF of 3 octets", Confederation, "400503000064", "withdraw"),
        ("ATOMIC_AGGREGATE", Ebgp, "400600", "pass"),
        ("ATOMIC_AGGREGATE of one octet", Ebgp, "40060100", "discard 6"),
        ("AGGREGATOR", Ebgp, "c007080000fbf4c0000201", "pass"),
        ("AGGREGATOR of 6 octets", Ebgp, "c00706fbf4c0000201", "discard 7"),
        ("AGGREGATOR with AS 0", Ibgp, "c0070800000000c0000201", "discard 7"),
        ("COMMUNITIES", Ebgp, "c008080000fde80000fde9", "pass"),
        ("COMMUNITIES empty", Ebgp, "c00800", "withdraw"),
        ("ORIGINATOR_ID", Ebgp, "800904c0000201", "discard 9"),
        ("ORIGINATOR_ID", Ibgp, "800904c0000201", "pass"),
        ("ORIGINATOR_ID of 5 octets", Ibgp, "800905c000020100", "withdraw"),
        ("CLUSTER_LIST", Ebgp, "800a04c0000201", "discard 10"),
        ("CLUSTER_LIST", Confederation, "800a04c0000201", "pass"),
        ("CLUSTER_LIST empty", Ibgp, "800a00", "withdraw"),
        ("CLUSTER_LIST of 6 octets", Ibgp, "800a06c00002010000", "withdraw"),
        ("EXTENDED_COMMUNITIES", Ebgp, "c010080002fde800000001", "pass"),
        ("EXTENDED_COMMUNITIES of 9 octets", Ebgp, "c010090002fde80000000100", "withdraw"),
        ("EXTENDED_COMMUNITIES empty", Ebgp, "c01000", "withdraw"),
        ("IPv6 communities of 8 octets", Ebgp, "c019080002fde800000001", "withdraw"),
        ("LARGE_COMMUNITY", Ebgp, "c0200c0000fde80000000100000002", "pass"),
        ("LARGE_COMMUNITY empty", Ebgp, "c02000", "withdraw"),
        ("ONLY_TO_CUSTOMER", Ebgp, "c023040000fbf4", "pass"),
        ("ONLY_TO_CUSTOMER of 8 octets", Ebgp, "c023080000fbf40000fbf4", "withdraw"),
        ("ONLY_TO_CUSTOMER empty", Ibgp, "c02300", "withdraw"),
        ("AIGP", Ibgp, "801a0b01000b0000000000000064", "pass"),
        ("AIGP with another TLV", Ibgp, "801a0e01000b0000000000000064020003", "pass"),
        ("AIGP at its maximum", Ibgp, "801a0b01000bffffffffffffffff", "discard 26"),
        ("AIGP at its maximum, second", Ibgp, "801a1601000b000000000000006401000bffffffffffffffff", "pass"),
        ("AIGP TLV of 10 octets", Ibgp, "801a0a01000a00000000000000", "discard 26"),
        ("AIGP TLV length 2", Ibgp, "801a03020002", "discard 26"),
        ("AIGP TLV overruns", Ibgp, "801a0501000b0000", "discard 26"),
        ("AIGP empty", Ibgp, "801a00", "discard 26"),
        ("AIGP transitive", Ibgp, "c01a0b01000b0000000000000064", "discard 26"),
        ("TUNNEL_ENCAP, sub-TLV overruns", Ebgp, "c0170c0008000804070000fde80001", "withdraw"),
        ("TUNNEL_ENCAP, TLV overruns", Ebgp, "c0170c0008000904060000fde80001", "withdraw"),
        ("TUNNEL_ENCAP, stray octet", Ebgp, "c0170d0008000804060000fde8000100", "withdraw"),
        ("TUNNEL_ENCAP", Ebgp, "c0170c0008000804060000fde80001", "pass"),
        ("TUNNEL_ENCAP, long sub-TLV", Ebgp, "c0170a 0008 0006 800003 010203", "pass"),
        ("TUNNEL_ENCAP TLV of nothing", Ebgp, "c0170400080000", "pass"),
        ("TUNNEL_ENCAP empty", Ebgp, "c01700", "withdraw"),
        ("TUNNEL_ENCAP not transitive", Ebgp, "80170400080000", "withdraw"),
        ("PMSI_TUNNEL", Ebgp, "c0160900060003e8c0000201", "pass"),
        ("PMSI_TUNNEL empty", Ebgp, "c01600", "withdraw"),
        ("PREFIX_SID Label-Index of 6 octets", Ebgp, "c02809010006000000000001", "discard 40"),
        ("PREFIX_SID with an SRGB", Ebgp, "c0280b0300080000 003e80 001f40", "pass"),
        ("PREFIX_SID with half an SRGB", Ebgp, "c0280a0300070000 003e80 001f", "discard 40"),
        ("PREFIX_SID with an unknown TLV", Ebgp, "c02804f0000155", "pass"),
        ("ATTR_SET", Ibgp, "c080080000fbf440010100", "pass"),
        ("ATTR_SET of 3 octets", Ibgp, "c080030000fb", "withdraw"),
        ("ATTR_SET, inner attribute overruns", Ibgp, "c080070000fbf4400101", "withdraw"),
        ("unknown, transitive", Ebgp, "c0630100", "pass"),
        ("unknown, not transitive, empty", Ebgp, "806300", "pass"),
        ("unknown, partial, extended", Ebgp, "f063000100", "pass"),
        ("unknown and well-known", Ebgp, "40630100", "reset 3/2"),
        ("code 0 and well-known", Ibgp, "00000100", "reset 3/2"),
    ]);
}

#[test]
fn class_e_is_a_next_hop_where_it_is_allowed() {
    let allowed = UpdateContext { class_e: true, ..context(Ebgp) };
    for (next_hop, usually, there) in [
        ("400304f0000001", "withdraw", "pass"),
        ("400304fffffffe", "withdraw", "pass"),
        ("400304ffffffff", "withdraw", "withdraw"),
        ("400304e0000001", "withdraw", "withdraw"),
        ("4003047f000001", "withdraw", "withdraw"),
    ] {
        assert_eq!(changed(next_hop, &context(Ebgp)), usually, "{next_hop}");
        assert_eq!(changed(next_hop, &allowed), there, "{next_hop}");
    }
}

#[test]
fn a_cleared_partial_bit_is_all_that_changes() {
    let wrong = body("", &format!("60010100{AS_PATH}{NEXT_HOP}e00804fbf40001"), NLRI);
    let right = body("", &format!("{ORIGIN}{AS_PATH}{NEXT_HOP}e00804fbf40001"), NLRI);
    let Verdict::Rewritten { body, withdrawn: false, .. } = check(&wrong, &context(Ebgp)) else { panic!("mended") };
    assert_eq!(body, right);
}

#[test]
fn flags_must_be_as_specified() {
    run(&[
        ("ORIGIN optional", Ebgp, "c0010100", "withdraw"),
        ("ORIGIN not transitive", Ebgp, "00010100", "withdraw"),
        ("ORIGIN partial", Ebgp, "60010100", "clear"),
        ("AS_PATH partial", Ebgp, "60020602010000fbf4", "clear"),
        ("NEXT_HOP partial", Ebgp, "600304c0000201", "clear"),
        ("MED partial", Ebgp, "a0040400000001", "clear"),
        ("LOCAL_PREF partial", Ibgp, "60050400000064", "clear"),
        ("LOCAL_PREF partial, from outside", Ebgp, "60050400000064", "discard 5"),
        ("MP_REACH_NLRI partial", Ebgp, &MP_REACH.replacen("80", "a0", 1), "clear"),
        ("MP_UNREACH_NLRI partial", Ebgp, &MP_UNREACH.replacen("80", "a0", 1), "clear"),
        ("COMMUNITIES partial", Ebgp, "e00804fbf40001", "pass"),
        ("AGGREGATOR partial", Ebgp, "e007080000fbf4c0000201", "pass"),
        ("ORIGIN partial and wrong", Ebgp, "60010103", "withdraw"),
        ("ORIGIN with unused bits", Ebgp, "4f010100", "pass"),
        ("AS_PATH optional", Ebgp, "c0020602010000fbf4", "withdraw"),
        ("NEXT_HOP optional", Ebgp, "c00304c0000201", "withdraw"),
        ("MED transitive", Ebgp, "c0040400000001", "withdraw"),
        ("MED well-known", Ebgp, "40040400000001", "withdraw"),
        ("ATOMIC_AGGREGATE optional", Ebgp, "c00600", "withdraw"),
        ("AGGREGATOR well-known", Ebgp, "4007080000fbf4c0000201", "withdraw"),
        ("COMMUNITIES not transitive", Ebgp, "800804fbf40001", "withdraw"),
        ("LARGE_COMMUNITY well-known", Ebgp, "40200c0000fde80000000100000002", "withdraw"),
        ("ONLY_TO_CUSTOMER not transitive", Ebgp, "8023040000fbf4", "withdraw"),
        ("TUNNEL_ENCAP well-known", Ebgp, "40170400080000", "withdraw"),
        ("MP_REACH_NLRI transitive", Ebgp, &MP_REACH.replacen("80", "c0", 1), "reset 3/9"),
        ("MP_REACH_NLRI well-known", Ebgp, &MP_REACH.replacen("80", "40", 1), "reset 3/9"),
        ("MP_UNREACH_NLRI transitive", Ebgp, &MP_UNREACH.replacen("80", "c0", 1), "reset 3/9"),
    ]);
}

#[test]
fn two_octet_sessions() {
    let old = |attribute| changed(attribute, &UpdateContext { as4: false, ..context(Ebgp) });
    let path = "4002040201fbf4";
    let with_path = |attribute: &str| {
        let attributes = format!("{ORIGIN}{path}{NEXT_HOP}{attribute}");
        outcome(&body("", &attributes, NLRI), &UpdateContext { as4: false, ..context(Ebgp) })
    };
    assert_eq!(old(path), "pass");
    assert_eq!(old("40020402010000"), "withdraw", "AS 0");
    assert_eq!(with_path("c00706fbf4c0000201"), "pass", "AGGREGATOR");
    assert_eq!(with_path("c007080000fbf4c0000201"), "discard 7", "AGGREGATOR of 8 octets");
    assert_eq!(with_path("c007060000c0000201"), "discard 7", "AGGREGATOR with AS 0");
    assert_eq!(with_path("c0110602010000fbf4"), "pass", "AS4_PATH");
    assert_eq!(with_path("c01100"), "discard 17", "AS4_PATH empty");
    assert_eq!(with_path("c0110602020000fbf4"), "discard 17", "AS4_PATH overruns");
    assert_eq!(with_path("c01106020100000000"), "discard 17", "AS4_PATH with AS 0");
    assert_eq!(with_path("c0110605010000fbf4"), "discard 17", "AS4_PATH segment type 5");
    assert_eq!(with_path("80110602010000fbf4"), "withdraw", "AS4_PATH not transitive");
    assert_eq!(with_path("c012080000fbf4c0000201"), "pass", "AS4_AGGREGATOR");
    assert_eq!(with_path("c01206fbf4c0000201"), "discard 18", "AS4_AGGREGATOR of 6 octets");
    assert_eq!(with_path("c0120800000000c0000201"), "discard 18", "AS4_AGGREGATOR with AS 0");
    run(&[
        ("AS4_PATH between 4-octet speakers", Ebgp, "c0110602010000fbf4", "discard 17"),
        ("AS4_AGGREGATOR between 4-octet speakers", Ibgp, "c012080000fbf4c0000201", "discard 18"),
    ]);
}

#[test]
fn multiprotocol_attributes() {
    let v6 = |attributes: &str| outcome(&body("", attributes, ""), &context(Ebgp));
    let base = format!("{ORIGIN}{AS_PATH}");
    let table = [
        ("MP_REACH_NLRI", MP_REACH, "pass"),
        ("MP_REACH_NLRI twice", &format!("{MP_REACH}{MP_REACH}"), "reset 3/1"),
        ("MP_UNREACH_NLRI twice", &format!("{MP_UNREACH}{MP_UNREACH}"), "reset 3/1"),
        ("both, once", &format!("{MP_REACH}{MP_UNREACH}"), "pass"),
        ("MP_REACH_NLRI of 4 octets", "800e0400020100", "reset 3/9"),
        ("next hop runs past the end", "800e060002011020 01", "reset 3/9"),
        ("no reserved octet", "800e080001 01 04 c0000201", "reset 3/9"),
        ("IPv6 next hop of 4 octets", "800e0e0002 01 04 c0000201 00 2020010db8", "reset 3/9"),
        ("IPv6 next hop of none", "800e0a0002 01 00 00 2020010db8", "reset 3/9"),
        ("IPv6 /129", "800e16 0002 01 10 20010db8000000000000000000000001 00 81", "reset 3/9"),
        ("IPv6 prefix overruns", "800e18 0002 01 10 20010db8000000000000000000000001 00 202001 0d", "reset 3/9"),
        ("withdrawn IPv6 prefix overruns", "800f06 0002 01 202001", "reset 3/9"),
        ("MP_UNREACH_NLRI of 2 octets", "800f020002", "reset 3/9"),
        ("IPv4 through IPv4", "800e0d 0001 01 04 c0000201 00 18c63364", "pass"),
        ("IPv4 through no host address", "800e0d 0001 01 04 00010db8 00 18c63364", "withdraw"),
        ("IPv4 through a multicast address", "800e0d 0001 01 04 e0000001 00 18c63364", "withdraw"),
        ("nothing through no host address", "800e09 0001 01 04 00000000 00", "pass"),
        (
            "IPv4 through IPv6, not negotiated",
            "800e19 0001 01 10 20010db8000000000000000000000001 00 18c63364",
            "reset 3/9",
        ),
        ("an IPv4 prefix past /32", "800e0f 0001 01 04 c0000201 00 21c633640180", "reset 3/9"),
        ("a family we do not vote on", "800e0e 0019 46 04 c0000201 00 ff00ff00ff", "pass"),
        ("with NEXT_HOP besides", &format!("{NEXT_HOP}{MP_REACH}"), "pass"),
        ("with a NEXT_HOP that nothing uses, malformed", &format!("40030100{MP_REACH}"), "discard 3"),
        ("announces nothing", "800e15 0002 01 10 20010db8000000000000000000000001 00", "pass"),
    ];
    for (what, attributes, expected) in table {
        assert_eq!(v6(&format!("{base}{attributes}")), expected, "{what}");
    }
    assert_eq!(v6(&format!("{ORIGIN}{MP_REACH}")), "withdraw", "AS_PATH missing");
    assert_eq!(v6(MP_UNREACH), "pass", "a withdrawal needs no attributes");
    let extended = UpdateContext { extended_next_hop: true, ..context(Ebgp) };
    let through_v6 = format!("{base}800e19 0001 01 10 20010db8000000000000000000000001 00 18c63364");
    assert_eq!(outcome(&body("", &through_v6, ""), &extended), "pass");
}

#[test]
fn lengths_that_do_not_fit() {
    let ebgp = context(Ebgp);
    let base = format!("{ORIGIN}{AS_PATH}{NEXT_HOP}");
    for (what, update, expected) in [
        ("nothing", "".into(), "reset 3/1"),
        ("no length of attributes", "0000".into(), "reset 3/1"),
        ("withdrawn routes run past the end", "000518c633".into(), "reset 3/1"),
        ("attributes run past the end", "00000005400101".into(), "reset 3/1"),
        ("End-of-RIB", "00000000".into(), "pass"),
        ("withdrawn /33", "0006 21c633640180 0000".into(), "reset 3/10"),
        ("withdrawn prefix overruns", "000318c633 0000".into(), "reset 3/10"),
        ("NLRI prefix overruns", format!("0000 0014 {base} 18c633"), "reset 3/10"),
    ] {
        assert_eq!(outcome(&hex(&update), &ebgp), expected, "{what}");
    }
    assert_eq!(outcome(&vec![0; 65517], &ebgp), "reset 1/2");
    for stray in ["40", "4001", "500100", "40010200", "5001000200"] {
        assert_eq!(outcome(&body("", &format!("{base}{stray}"), NLRI), &ebgp), "withdraw", "{stray} at the end");
    }
}

/// RFC 7606 section 5.2: without anything announced, one cannot be sure what an error has hidden.
#[test]
fn errors_where_nothing_is_announced() {
    let ebgp = context(Ebgp);
    for (what, withdrawn, attributes, expected) in [
        ("ORIGIN of 2 octets", NLRI, "4001020000", "reset 3/5"),
        ("ORIGIN = 3", "", "40010103", "reset 3/6"),
        ("AS 0", MP_UNREACH, &format!("{ORIGIN}400206020100000000"), "reset 3/11"),
        ("flags", NLRI, "c0010100", "reset 3/4"),
        ("an attribute hides MP_REACH_NLRI", "", &format!("{ORIGIN}{AS_PATH}c008ff{MP_REACH}"), "reset 3/1"),
        ("one that is to be discarded", NLRI, "40060100", "discard 6"),
        ("none", NLRI, ORIGIN, "pass"),
    ] {
        let update = match withdrawn {
            MP_UNREACH => body("", &format!("{attributes}{MP_UNREACH}"), ""),
            _ => body(withdrawn, attributes, ""),
        };
        assert_eq!(outcome(&update, &ebgp), expected, "{what}");
    }
}

#[test]
fn the_strongest_action_wins_and_all_is_told() {
    let attributes = format!("{ORIGIN}{AS_PATH}{NEXT_HOP}40060100 c00800 40050400000064 80040400000001 80040400000001");
    match check(&body("", &attributes, NLRI), &context(Ebgp)) {
        Verdict::Rewritten { withdrawn: true, findings, .. } => {
            assert_eq!(findings.iter().map(|f| f.code).collect::<Vec<_>>(), [8, 6, 5, 4]);
        }
        other => panic!("{other:?}"),
    }
    let with_reset = format!("{attributes}40630100");
    assert_eq!(outcome(&body("", &with_reset, NLRI), &context(Ebgp)), "reset 3/2");
    let many = format!("{ORIGIN}{AS_PATH}{NEXT_HOP}{}c00800", "800400".to_owned() + &"800404000000aa".repeat(300));
    match check(&body("", &many, NLRI), &context(Ebgp)) {
        Verdict::Rewritten { findings, .. } => assert_eq!(findings.len(), MAX_FINDINGS),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reset_carries_the_data_that_the_rfc_names() {
    for (attributes, nlri, expected) in [
        (format!("{ORIGIN}40630155"), NLRI, Notification::with_data(3, 2, &hex("40630155"))),
        ("800f020002".into(), "", Notification::with_data(3, 9, &hex("800f020002"))),
        ("40010103".into(), "", Notification::with_data(3, 6, &hex("40010103"))),
        (format!("{MP_UNREACH}{MP_UNREACH}"), NLRI, Notification::with_data(3, 1, &hex(MP_UNREACH))),
    ] {
        match check(&body("", &attributes, nlri), &context(Ebgp)) {
            Verdict::Reset { notification, .. } => assert_eq!(notification, expected),
            other => panic!("{other:?}"),
        }
    }
}

/// What a withdrawal says, to the byte.
#[test]
fn withdrawals_say_all_that_was_announced_or_withdrawn() {
    const VPN_REACH: &str = "800e0e 0019 46 04 c0000201 00 ff00ff00ff";
    const VPN_UNREACH: &str = "800f05 0019 46 aabb";
    const V4_REACH: &str = "800e0d 0001 01 04 c0000201 00 18c63365";
    const V4_UNREACH: &str = "800f07 0001 01 18c63365";
    let other_v6 = "800f08 0002 01 2020010db9";
    let bad = "40010103";
    for (what, withdrawn, attributes, nlri, expected) in [
        ("classic", "", format!("{bad}{AS_PATH}{NEXT_HOP}"), NLRI, Some(body(NLRI, "", ""))),
        ("beside withdrawn", "18c63300", bad.into(), NLRI, Some(body(&format!("18c63300{NLRI}"), "", ""))),
        ("IPv6", "", format!("{bad}{MP_REACH}"), "", Some(body("", MP_UNREACH, ""))),
        (
            "IPv6 beside withdrawn",
            "",
            format!("{other_v6}{bad}{MP_REACH}"),
            "",
            Some(body("", "800f0d 0002 01 2020010db9 2020010db8", "")),
        ),
        (
            "all of it",
            "18c63300",
            format!("{bad}{MP_REACH}"),
            NLRI,
            Some(body(&format!("18c63300{NLRI}"), MP_UNREACH, "")),
        ),
        ("opaque", "", format!("{bad}{VPN_REACH}"), "", Some(body("", "800f08 0019 46 ff00ff00ff", ""))),
        (
            "opaque twice",
            "",
            format!("{bad}{VPN_REACH}{VPN_UNREACH}"),
            "",
            Some(body("", "800f0a 0019 46 aabbff00ff00ff", "")),
        ),
        (
            "IPv4 announced, IPv6 withdrawn",
            "",
            format!("{bad}{V4_REACH}{MP_UNREACH}"),
            "",
            Some(body("18c63365", MP_UNREACH, "")),
        ),
        (
            "IPv6 announced, IPv4 withdrawn",
            "",
            format!("{bad}{V4_UNREACH}{MP_REACH}"),
            "",
            Some(body("18c63365", MP_UNREACH, "")),
        ),
        ("IPv6 announced, opaque withdrawn", "", format!("{bad}{VPN_UNREACH}{MP_REACH}"), "", None),
        (
            "End-of-RIB of another family besides",
            "",
            format!("{bad}800f03001946{MP_REACH}"),
            "",
            Some(body("", MP_UNREACH, "")),
        ),
    ] {
        match (check(&body(withdrawn, &attributes, nlri), &context(Ebgp)), expected) {
            (Verdict::Rewritten { body: new, withdrawn: true, .. }, Some(expected)) => {
                assert_eq!(new, expected, "{what}")
            }
            (Verdict::Reset { notification, .. }, None) => assert_eq!(notification, Notification::new(3, 9), "{what}"),
            (verdict, _) => panic!("{what}: {verdict:?}"),
        }
    }
}

#[test]
fn a_long_withdrawal_takes_an_extended_length() {
    let prefixes = "2020010db8".repeat(60);
    let reach = format!("900e 0141 0002 01 10 20010db8000000000000000000000001 00 {prefixes}");
    match check(&body("", &format!("40010103{reach}"), ""), &context(Ebgp)) {
        Verdict::Rewritten { body: new, .. } => assert_eq!(new, body("", &format!("900f012f000201{prefixes}"), "")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn discards_leave_all_else_as_it_came() {
    let before = format!("{ORIGIN}{AS_PATH}{NEXT_HOP}c0630155");
    let after = "c008040000fde8 e0640166";
    let update = body("18c63300", &format!("{before}40050400000064 {ORIGIN}{after}40050400000065"), NLRI);
    match check(&update, &context(Ebgp)) {
        Verdict::Rewritten { body: new, withdrawn: false, .. } => {
            assert_eq!(new, body("18c63300", &format!("{before}{after}"), NLRI));
        }
        other => panic!("{other:?}"),
    }
}
