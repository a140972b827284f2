use super::super::{Ends, Writer};
use super::*;
use crate::bgp::canonical::{AttributeSet, CanonicalContext, Canonicaliser, Carried};
use crate::bgp::frame::HEADER_LEN as BGP_HEADER;
use crate::bgp::update::{Nlri, Update, attr};
use crate::bgp::{Family, UpdateContext};
use bytes::BytesMut;
use std::collections::BTreeSet;
use std::io::Write as _;

fn context(as4: bool) -> UpdateContext {
    UpdateContext { as4, ..UpdateContext::EBGP }
}

fn data(name: &str) -> Option<Reader> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/mrt").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(open(path).unwrap())
}

/// An MRT record.
fn record(kind: u16, subtype: u16, body: &[u8]) -> Vec<u8> {
    let (kind, subtype, len) = (kind.to_be_bytes(), subtype.to_be_bytes(), (body.len() as u32).to_be_bytes());
    [&1000u32.to_be_bytes(), &kind[..], &subtype, &len, body].concat()
}

fn keepalive() -> Vec<u8> {
    [&[0xff; 16][..], &[0, 19, 4]].concat()
}

/// A BGP4MP body with 2-octet AS numbers, up to the message.
const HEAD: [u8; 16] = [0xfb, 0xf4, 0xfb, 0xf5, 0, 0, 0, 1, 192, 0, 2, 1, 192, 0, 2, 2];

fn read(bytes: Vec<u8>) -> Vec<Result<Record, MrtError>> {
    Reader::new(Cursor::new(bytes)).unwrap().collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    announced: usize,
    withdrawn: usize,
    v4: usize,
    v6: usize,
    peers: usize,
    state_changes: usize,
    other_messages: usize,
}

/// The multicast prefixes of an MP attribute: not voted on, but among what bgpdump counts.
fn multicast(family: Family, nlri: &[u8]) -> usize {
    match family.safi {
        2 => Nlri::check(Family { safi: 1, ..family }, nlri).unwrap().count(),
        _ => 0,
    }
}

/// What the updates of a file say, each read strictly.
fn seen(reader: Reader) -> Seen {
    let (mut s, mut prefixes, mut peers) = (Seen::default(), BTreeSet::new(), BTreeSet::new());
    for r in reader {
        match r.unwrap() {
            Record::Message(m) if m.bytes[18] == 2 => {
                peers.insert((m.peer, m.peer_as));
                let u = Update::parse(&m.bytes[BGP_HEADER..]).unwrap_or_else(|e| panic!("{e}: {m:?}"));
                let announced: Vec<_> = u.nlri.chain(u.mp_announced().into_iter().flatten()).collect();
                s.announced += u.mp_reach.map_or(0, |mp| multicast(mp.family, mp.nlri));
                s.withdrawn += u.mp_unreach.map_or(0, |mp| multicast(mp.family, mp.nlri));
                s.announced += announced.len();
                s.withdrawn += u.withdrawn.chain(u.mp_withdrawn().into_iter().flatten()).count();
                prefixes.extend(announced);
                prefixes.extend(u.withdrawn.chain(u.mp_withdrawn().into_iter().flatten()));
            }
            Record::Message(_) => s.other_messages += 1,
            Record::StateChange(c) => {
                peers.insert((c.peer, c.peer_as));
                s.state_changes += 1;
            }
            Record::Route(_) => panic!("a route in an update file"),
        }
    }
    s.v6 = prefixes.iter().filter(|p| p.family().afi == 2).count();
    (s.v4, s.peers) = (prefixes.len() - s.v6, peers.len());
    s
}

#[test]
fn real_updates_hold_what_is_known_of_them() {
    let cases = [
        ("updates.20190101.0000.gz", 159_948, 2_626),
        ("updates.20070211.0141.gz", 51_329, 2_328),
        ("updates.20071015.1505.gz", 10_111, 385),
        ("updates.long_withdrawal.gz", 0, 4_096),
        ("updates.et-header.2015.gz", 577_737, 3),
    ];
    for (name, announced, withdrawn) in cases {
        let Some(reader) = data(name) else { continue };
        let s = seen(reader);
        assert_eq!((s.announced, s.withdrawn), (announced, withdrawn), "{name}: {s:?}");
        if name == "updates.20190101.0000.gz" {
            // As bgpdump counts them.
            assert_eq!((s.v4, s.v6, s.peers, s.state_changes), (18_251, 249, 76, 43), "{s:?}");
        }
    }
}

/// Its one prefix has bits set past its length, and behind it stands half of another: bgpdump shows
/// the first, a router must answer 3/10.
#[test]
fn the_message_with_trailing_bits_is_given_as_it_is() {
    let Some(reader) = data("updates.nlri_mask_trailing_bits.gz") else { return };
    let items: Vec<_> = reader.map(Result::unwrap).collect();
    let [Record::Message(m)] = &items[..] else { panic!("{items:?}") };
    assert!(m.bytes.ends_with(&[13, 11, 13, 11]));
    assert_eq!(Update::parse(&m.bytes[BGP_HEADER..]).unwrap_err().subcode, 10);
}

#[test]
fn microseconds_are_read() {
    let Some(mut reader) = data("updates.et-header.2015.gz") else { return };
    let times: BTreeSet<_> = reader
        .by_ref()
        .take(1000)
        .map(|r| match r.unwrap() {
            Record::Message(m) => m.at_us,
            Record::StateChange(s) => s.at_us,
            Record::Route(r) => r.at_us,
        })
        .collect();
    assert!(times.iter().any(|t| t % 1_000_000 != 0));
    // 2015-10-23
    assert!(times.iter().all(|t| (1_445_558_400_000_000..1_445_644_800_000_000).contains(t)), "{:?}", times.first());
}

#[test]
fn real_tables_hold_what_is_known_of_them() {
    // Routes, of them with a path id, prefixes, peers.
    let cases = [
        ("bview.64k_stream_overflow.gz", (23, 0, 1, 23)),
        ("bview.ipv4_unicast_add_path.gz", (62, 62, 31, 3)),
        ("bview.ipv6_unicast_add_path.gz", (62, 62, 31, 3)),
        ("bview.20100701.0759.TEXT.bgp.gz", (641_957, 0, 323_487, 5)),
    ];
    for (name, expected) in cases {
        let Some(reader) = data(name) else { continue };
        let (mut routes, mut ids, mut prefixes, mut peers) = (0, 0, BTreeSet::new(), BTreeSet::new());
        for r in reader {
            let Record::Route(r) = r.unwrap() else { panic!("{name}") };
            routes += 1;
            ids += usize::from(r.path_id.is_some());
            prefixes.insert(r.prefix);
            peers.insert((r.peer, r.peer_as));
            let all_read = crate::bgp::update::Attributes::new(&r.attributes).all(|a| a.is_ok());
            assert!(all_read, "{name}: {r:?}");
        }
        assert_eq!((routes, ids, prefixes.len()), (expected.0, expected.1, expected.2), "{name}");
        assert!(peers.len() <= expected.3, "{name}: {peers:?}");
    }
}

/// A whole table of today, every route of which can be sent and is received as it was meant.
#[test]
fn a_full_table_goes_out_as_updates() {
    let Some(reader) = data("synth-full-1peer.mrt.gz") else { return };
    let mut canonicaliser = Canonicaliser::default();
    let peer = CanonicalContext {
        update: context(true),
        peer_as: 4_200_000_000,
        confederation: None,
        peer_router_id: Ipv4Addr::UNSPECIFIED,
        allow_own_as: false,
        ignore: AttributeSet::default(),
    };
    let (mut v4, mut v6, mut out) = (0, 0, BytesMut::new());
    // One route in sixteen, for the sake of debug builds.
    for (i, r) in reader.enumerate() {
        let Record::Route(r) = r.unwrap() else { panic!() };
        *(if r.prefix.family().afi == 1 { &mut v4 } else { &mut v6 }) += 1;
        if i % 16 != 0 {
            continue;
        }
        out.clear();
        assert_eq!(route_as_update(&r, &[r.prefix], &context(true), &mut out), 0, "{r:?}");
        let u = Update::parse(&out[BGP_HEADER..]).unwrap();
        let (carried, nlri) = match u.mp_announced() {
            Some(nlri) => (Carried::MpReach, nlri),
            None => (Carried::Classic, u.nlri),
        };
        assert_eq!(nlri.collect::<Vec<_>>(), [r.prefix]);
        assert!(canonicaliser.route(&u, carried, &peer).is_some());
    }
    assert_eq!((v4, v6), (901_899, 160_147));
}

/// bgpkit-parser finds the same records in the same places.
#[test]
fn agrees_with_bgpkit_parser_on_every_message() {
    use bgpkit_parser::models::{Bgp4MpEnum, MrtMessage};
    for name in ["updates.20190101.0000.gz", "updates.20070211.0141.gz", "updates.et-header.2015.gz"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/mrt").join(name);
        let Some(ours) = data(name) else { continue };
        let mut input = BufReader::new(MultiGzDecoder::new(File::open(path).unwrap()));
        for (i, ours) in ours.enumerate().take(20_000) {
            let raw = bgpkit_parser::chunk_mrt_record(&mut input).unwrap();
            let header = raw.common_header;
            let at_us = u64::from(header.timestamp) * 1_000_000 + u64::from(header.microsecond_timestamp.unwrap_or(0));
            match (ours.unwrap(), raw.message_bytes.clone(), raw.parse().unwrap().message) {
                (Record::Message(m), body, MrtMessage::Bgp4Mp(Bgp4MpEnum::Message(theirs))) => {
                    assert_eq!((m.at_us, m.peer, m.local), (at_us, theirs.peer_ip, theirs.local_ip), "{name} {i}");
                    assert_eq!(m.peer_as, theirs.peer_asn.to_u32());
                    assert!(body.ends_with(&m.bytes));
                }
                (Record::StateChange(s), _, MrtMessage::Bgp4Mp(Bgp4MpEnum::StateChange(theirs))) => {
                    assert_eq!((s.at_us, s.peer, s.peer_as), (at_us, theirs.peer_ip, theirs.peer_asn.to_u32()));
                    assert_eq!((s.old, s.new), (theirs.old_state as u16, theirs.new_state as u16));
                }
                (ours, _, theirs) => panic!("{name} {i}: {ours:?}, {theirs:?}"),
            }
        }
    }
}

#[test]
fn what_is_not_read_is_named_and_passed_over() {
    let message = record(BGP4MP, 1, &[&HEAD[..], &keepalive()].concat());
    let bytes = [
        message.clone(),
        record(99, 3, &[1, 2, 3]),
        record(BGP4MP, 12, &[]),
        record(BGP4MP, 1, &HEAD[..7]),
        record(BGP4MP, 1, &[&HEAD[..], &keepalive()[..18]].concat()),
        record(BGP4MP_ET, 1, &[0, 0]),
        record(TABLE_DUMP_V2, 1, &[0]),
        record(TABLE_DUMP_V2, 2, &[0, 0, 0, 0, 33, 1, 2, 3, 4, 5, 0, 0]),
        record(TABLE_DUMP_V2, 6, &[]),
        message.clone(),
        message[..message.len() - 1].to_vec(),
    ];
    let mut reader = Reader::new(Cursor::new(bytes.concat())).unwrap();
    let items: Vec<_> = reader.by_ref().map(|r| r.map(drop).map_err(|e| e.to_string())).collect();
    let at = |i: usize| bytes[..i].iter().map(Vec::len).sum::<usize>();
    let expected = [
        format!("at offset {}: records of type 99/3 are not supported", at(1)),
        format!("at offset {}: records of type 16/12 are not supported", at(2)),
        format!("at offset {}: record of type 16/1: it is cut short", at(3)),
        format!("at offset {}: record of type 16/1: the BGP message in it is not as long as its header says", at(4)),
        format!("at offset {}: record of type 17/1: it has no microseconds", at(5)),
        format!("at offset {}: record of type 13/1: the peer index table is cut short", at(6)),
        format!("at offset {}: record of type 13/2: its prefix cannot be read", at(7)),
        format!("at offset {}: records of type 13/6 are not supported", at(8)),
        format!("at offset {}: record of type 16/1 says 35 octets, and the file ends before them", at(10)),
    ];
    assert_eq!(items.iter().filter_map(|i| i.clone().err()).collect::<Vec<_>>(), expected);
    assert!(items[0].is_ok() && items[9].is_ok());
    assert_eq!(reader.counts(), Counts { messages: 2, errors: 9, ..Counts::default() });
    assert!(reader.next().is_none());

    let too_long = [record(BGP4MP, 1, &[]), message.clone()].concat();
    let mut too_long = too_long;
    too_long[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(read(too_long)[..], [Err(MrtError::Cut { .. })]));
    assert!(matches!(read(message[..5].to_vec())[..], [Err(MrtError::Cut { offset: 0, len: 5, .. })]));
    assert!(read(Vec::new()).is_empty());
}

#[test]
fn a_broken_gzip_stream_is_an_error_after_what_could_be_read() {
    let message = record(BGP4MP, 1, &[&HEAD[..], &keepalive()].concat()).repeat(3);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&message).unwrap();
    let gz = gz.finish().unwrap();
    assert_eq!(read(gz.clone()).iter().filter(|r| r.is_ok()).count(), 3);
    assert_eq!(read([gz.clone(), gz.clone()].concat()).len(), 6, "two members");
    assert!(matches!(read(gz[..gz.len() - 4].to_vec()).last(), Some(Err(MrtError::Io { .. }))));
    assert!(matches!(open("/nonexistent/file").err(), Some(MrtError::Open { .. })));
}

/// bzip2, as RouteViews has it; several streams one behind the other, as pbzip2 writes them.
#[test]
fn a_bzip2_file_is_read_and_a_broken_one_is_an_error_after_what_could_be_read() {
    let message = record(BGP4MP, 1, &[&HEAD[..], &keepalive()].concat()).repeat(3);
    let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bz.write_all(&message).unwrap();
    let bz = bz.finish().unwrap();
    assert_eq!(read(bz.clone()).iter().filter(|r| r.is_ok()).count(), 3);
    assert_eq!(read([bz.clone(), bz.clone()].concat()).iter().filter(|r| r.is_ok()).count(), 6, "two streams");
    assert!(matches!(read(bz[..bz.len() - 4].to_vec()).last(), Some(Err(MrtError::Io { .. }))));
}

/// One peer index table, then RIB records; a table without a peer, a cut entry and an IPv6 route in
/// both of its forms.
#[test]
fn entries_of_a_table_dump() {
    let peers = [&[0, 0, 0, 0, 0, 0, 0, 1, 2][..], &[9; 4], &[192, 0, 2, 1], &70_000u32.to_be_bytes()].concat();
    let entry = |peer: u8, attributes: &[u8]| [&[0, peer, 0, 0, 0, 0, 0, attributes.len() as u8], attributes].concat();
    let rib = |count: u8, entries: &[u8]| [&[0, 0, 0, 0, 32, 0x20, 1, 0xd, 0xb8, 0, count], entries].concat();
    let global = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    let origin = [0x40, 1, 1, 0];
    let short = [&[0x80, 14, 17, 16][..], &global, &origin].concat();
    let whole = [&origin[..], &[0x80, 14, 26, 0, 2, 1, 16], &global, &[0, 32, 0x20, 1, 0xd, 0xb8]].concat();
    let bytes = [
        record(TABLE_DUMP_V2, 1, &peers),
        record(TABLE_DUMP_V2, 4, &rib(3, &[entry(0, &short), entry(7, &short), entry(0, &whole)].concat())),
        record(TABLE_DUMP_V2, 4, &rib(3, &entry(0, &origin))),
        record(TABLE_DUMP_V2, 4, &rib(1, &entry(0, &[0x80, 14, 3, 16, 1, 2]))),
    ];
    let items = read(bytes.concat());
    let expected = Route {
        at_us: 1_000_000_000,
        peer: Ipv4Addr::new(192, 0, 2, 1).into(),
        peer_as: 70_000,
        prefix: "2001:db8::/32".parse().unwrap(),
        path_id: None,
        mp_next_hop: Bytes::copy_from_slice(&global),
        attributes: Bytes::copy_from_slice(&origin),
    };
    let is = |i: usize, r: &Route| assert!(matches!(&items[i], Ok(Record::Route(got)) if got == r), "{:?}", items[i]);
    is(0, &expected);
    is(2, &expected);
    is(3, &Route { mp_next_hop: Bytes::new(), ..expected.clone() });
    let errors: Vec<_> = items.iter().filter_map(|i| i.as_ref().err()).map(ToString::to_string).collect();
    assert_eq!(items.len(), 6);
    assert!(errors[0].ends_with("an entry's peer is not in the peer index table"), "{errors:?}");
    assert!(errors[1].ends_with("it ends within an entry"));
    assert!(errors[2].ends_with("MP_REACH_NLRI cannot be read"));

    let mut out = BytesMut::new();
    let mapped = "198.51.100.0/24".parse().unwrap();
    assert_eq!(route_as_update(&expected, &[mapped], &context(true), &mut out), 1, "IPv4 over IPv6 without RFC 8950");
    assert_eq!(route_as_update(&expected, &[expected.prefix], &context(false), &mut out), 1);
    let bare = Route { mp_next_hop: Bytes::new(), ..expected.clone() };
    assert_eq!(route_as_update(&bare, &[expected.prefix], &context(true), &mut out), 1, "no next hop at all");
    assert!(out.is_empty());
    let v4 = Route { mp_next_hop: Bytes::from_static(&[192, 0, 2, 7]), ..expected };
    assert_eq!(route_as_update(&v4, &[mapped], &context(true), &mut out), 0);
    let u = Update::parse(&out[BGP_HEADER..]).unwrap();
    assert_eq!(u.attributes, [&origin[..], &[0x40, 3, 4, 192, 0, 2, 7]].concat());
}

#[test]
fn text_lines() {
    let line = "TABLE_DUMP2|1277971199|B|202.249.2.20|4777|20.137.0.0/21|4777 2516 (7 8) {4237,1}|EGP|202.249.2.110|100|5|\
                65000:1 no-export|AG|21877 20.137.31.194|\n";
    let text = [
        line,
        "TABLE_DUMP2_AP|1452169448|B|2001:db8:16::2|65017|2001:db8:28::/48|59|65017|IGP|2001:db8::9|0|0||NAG||\n",
        "TABLE_DUMP2|1277971199|B|202.249.2.20|4777|20.137.0.0/33|4777|IGP|202.249.2.110|0|0||NAG||\n",
        "BGP4MP|1277971199|W|202.249.2.20|4777|20.137.0.0/21\n",
    ];
    let items = read(text.concat().into_bytes());
    let Ok(Record::Route(r)) = &items[0] else { panic!("{items:?}") };
    assert_eq!((r.at_us, r.peer_as, r.path_id), (1_277_971_199_000_000, 4777, None));
    let attributes: [&[u8]; 8] = [
        &[0x40, 1, 1, 1],
        &[0x40, 2, 30, 2, 2, 0, 0, 0x12, 0xa9, 0, 0, 9, 0xd4, 3, 2, 0, 0, 0, 7, 0, 0, 0, 8],
        &[1, 2, 0, 0, 0x10, 0x8d, 0, 0, 0, 1],
        &[0x40, 3, 4, 202, 249, 2, 110, 0x80, 4, 4, 0, 0, 0, 5],
        &[0x40, 5, 4, 0, 0, 0, 100],
        &[0x40, 6, 0],
        &[0xc0, 7, 8, 0, 0, 0x55, 0x75, 20, 137, 31, 194],
        &[0xc0, 8, 8, 0xfd, 0xe8, 0, 1, 0xff, 0xff, 0xff, 1],
    ];
    assert_eq!(r.attributes, attributes.concat());
    let Ok(Record::Route(r)) = &items[1] else { panic!("{items:?}") };
    assert_eq!((r.path_id, r.mp_next_hop.len()), (Some(59), 16));
    let errors: Vec<_> = items[2..].iter().filter_map(|i| i.as_ref().err()).map(ToString::to_string).collect();
    assert!(errors[0].ends_with("the prefix cannot be read"), "{errors:?}");
    assert!(errors[1].starts_with(&format!("at offset {}: line \"BGP4MP|1277", text[..3].concat().len())));
}

#[test]
fn what_is_written_is_read_again() {
    let ends = [
        Ends { peer: [192, 0, 2, 1].into(), peer_as: 70_000, local: [192, 0, 2, 2].into(), local_as: 65_000 },
        Ends { peer: Ipv6Addr::LOCALHOST.into(), peer_as: 1, local: Ipv6Addr::UNSPECIFIED.into(), local_as: 2 },
    ];
    let mut writer = Writer::new(Vec::new());
    for (i, e) in ends.iter().enumerate() {
        writer.message(1_700_000_000_999_999 + i as u64, e, &keepalive()).unwrap();
    }
    let mixed = Ends { local: Ipv6Addr::LOCALHOST.into(), ..ends[0] };
    assert!(writer.message(0, &mixed, &keepalive()).is_err());
    assert!(writer.message(u64::MAX, &ends[0], &keepalive()).is_err());
    writer.flush().unwrap();
    let items = read(writer.into_inner());
    assert_eq!(items.len(), 2);
    for (i, (item, e)) in items.into_iter().zip(ends).enumerate() {
        let expected = Message {
            at_us: 1_700_000_000_999_999 + i as u64,
            peer: e.peer,
            peer_as: e.peer_as,
            local: e.local,
            as4: true,
            addpath: false,
            sent: false,
            bytes: keepalive().into(),
        };
        assert_eq!(item.unwrap(), Record::Message(expected));
    }
}

fn body(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    [&[0, 0], &(attributes.len() as u16).to_be_bytes()[..], &attributes, nlri].concat()
}

#[test]
fn two_octet_paths_become_four_octet_paths() {
    let nlri = &[24, 198, 51, 100];
    type Attributes<'a> = &'a [&'a [u8]];
    let cases: [(&str, Attributes<'_>, Attributes<'_>); 9] = [
        ("plain", &[&[0x40, 2, 6, 2, 2, 0, 1, 0, 2]], &[&[0x40, 2, 10, 2, 2, 0, 0, 0, 1, 0, 0, 0, 2]]),
        (
            "AS4_PATH supplies the tail",
            &[&[0x40, 2, 8, 2, 3, 0, 1, 0x5b, 0xa0, 0, 3], &[0xc0, 17, 10, 2, 2, 0, 1, 0, 0, 0, 0, 0, 3]],
            &[&[0x40, 2, 14, 2, 3, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 3]],
        ),
        (
            "a longer AS4_PATH is ignored",
            &[&[0x40, 2, 4, 2, 1, 0, 1], &[0xc0, 17, 10, 2, 2, 0, 1, 0, 0, 0, 0, 0, 3]],
            &[&[0x40, 2, 6, 2, 1, 0, 0, 0, 1]],
        ),
        (
            "sets count one, and leading confederation segments are kept",
            &[
                &[0x40, 2, 18, 3, 1, 0, 9, 2, 1, 0, 1, 1, 2, 0, 4, 0, 5, 2, 1, 0x5b, 0xa0],
                &[0xc0, 17, 6, 2, 1, 0, 1, 0, 0],
            ],
            &[&[0x40, 2, 28, 3, 1, 0, 0, 0, 9, 2, 1, 0, 0, 0, 1, 1, 2, 0, 0, 0, 4, 0, 0, 0, 5, 2, 1, 0, 1, 0, 0]],
        ),
        (
            "AGGREGATOR with AS_TRANS",
            &[&[0xc0, 7, 6, 0x5b, 0xa0, 1, 2, 3, 4], &[0xc0, 18, 8, 0, 1, 0, 0, 1, 2, 3, 4]],
            &[&[0xc0, 7, 8, 0, 1, 0, 0, 1, 2, 3, 4]],
        ),
        (
            "AGGREGATOR with a real AS number: both AS4 attributes are stale",
            &[
                &[0x40, 2, 4, 2, 1, 0x5b, 0xa0],
                &[0xc0, 7, 6, 0, 7, 1, 2, 3, 4],
                &[0xc0, 17, 6, 2, 1, 0, 1, 0, 0],
                &[0xc0, 18, 8, 0, 1, 0, 0, 1, 2, 3, 4],
            ],
            &[&[0x40, 2, 6, 2, 1, 0, 0, 0x5b, 0xa0], &[0xc0, 7, 8, 0, 0, 0, 7, 1, 2, 3, 4]],
        ),
        ("unreadable", &[&[0x40, 2, 3, 2, 2, 0], &[0xc0, 7, 1, 0]], &[&[0x40, 2, 3, 2, 2, 0], &[0xc0, 7, 1, 0]]),
        (
            "an unreadable AS4_PATH is ignored",
            &[&[0x40, 2, 4, 2, 1, 0, 1], &[0xc0, 17, 1, 2]],
            &[&[0x40, 2, 6, 2, 1, 0, 0, 0, 1]],
        ),
        (
            "others stay as they are, extended length where it was",
            &[&[0x50, 1, 0, 1, 0], &[0x50, 2, 0, 4, 2, 1, 0, 1]],
            &[&[0x50, 1, 0, 1, 0], &[0x40, 2, 6, 2, 1, 0, 0, 0, 1]],
        ),
    ];
    for (name, narrow, wide) in cases {
        assert_eq!(widen_as_path(&body(narrow, nlri)), body(wide, nlri), "{name}");
    }
    for bad in [&[][..], &[0], &[0, 0, 0, 9, 1], &[0, 0, 0, 2, 0x40, 1, 7, 7]] {
        assert_eq!(widen_as_path(bad), bad);
    }
}

#[test]
fn a_message_that_grew_too_long_is_cut() {
    let nlri: Vec<u8> = (0..1000u32).flat_map(|i| [24, 10, (i >> 8) as u8, i as u8]).collect();
    let path: Vec<u8> = [&[0x40, 2, 32, 2, 15][..], &[0, 7].repeat(15)].concat();
    let narrow = body(&[&[0x40, 1, 1, 0], &path, &[0x40, 3, 4, 192, 0, 2, 1]], &nlri);
    assert!(narrow.len() + BGP_HEADER <= 4096);
    let mut out = BytesMut::new();
    assert_eq!(message_as_updates(&narrow, false, &context(true), &mut out), Ok(0));
    let (mut prefixes, mut messages, mut rest) = (Vec::new(), 0, &out[..]);
    while !rest.is_empty() {
        let len = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
        assert!(len <= 4096);
        let u = Update::parse(&rest[BGP_HEADER..len]).unwrap();
        prefixes.extend(u.nlri);
        (messages, rest) = (messages + 1, &rest[len..]);
    }
    assert_eq!((prefixes.len(), messages), (1000, 2));

    out.clear();
    assert_eq!(message_as_updates(&narrow, false, &context(false), &mut out), Ok(0));
    assert_eq!(&out[BGP_HEADER..], narrow, "as it was, where it can stay so");
    assert_eq!(message_as_updates(&narrow, true, &context(false), &mut out), Err(Unsendable::TwoOctetSession));
}

/// Every message of 2007, sent over a session of today: the prefixes and the number of hops stay.
#[test]
fn real_two_octet_messages_are_widened() {
    let hops = |u: &Update<'_>, width: usize| -> usize {
        let path = crate::bgp::update::Attributes::new(u.attributes).flatten().find(|a| a.code == attr::AS_PATH);
        let segments = |v| crate::bgp::canonical::segments(v, width).map(|s| s.unwrap().1.len() / width).sum();
        path.map_or(0, |a| segments(a.value))
    };
    for name in ["updates.20070211.0141.gz", "updates.20071015.1505.gz"] {
        let Some(reader) = data(name) else { continue };
        for r in reader {
            let Record::Message(m) = r.unwrap() else { continue };
            if m.bytes[18] != 2 {
                continue;
            }
            let narrow = &m.bytes[BGP_HEADER..];
            let wide = if m.as4 { narrow.to_vec() } else { widen_as_path(narrow) };
            let (a, b) = (Update::parse(narrow).unwrap(), Update::parse(&wide).unwrap());
            assert_eq!(a.nlri.bytes(), b.nlri.bytes());
            assert_eq!(hops(&a, if m.as4 { 4 } else { 2 }), hops(&b, 4));
            let mut out = BytesMut::new();
            assert_eq!(message_as_updates(narrow, m.as4, &context(true), &mut out), Ok(0));
        }
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), kind in 0usize..5, subtype in 0u16..13) {
        let kind = [TABLE_DUMP_V2, BGP4MP, BGP4MP_ET, 0, 12][kind];
        let peers = record(TABLE_DUMP_V2, 1, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 9, 9, 9, 192, 0, 2, 1, 0, 7]);
        for item in read([peers, record(kind, subtype, &bytes), bytes.clone()].concat()) {
            if let Ok(Record::Route(r)) = item {
                route_as_update(&r, &[r.prefix], &context(true), &mut BytesMut::new());
            }
        }
        // Two octets are enough to look compressed, and then it cannot even be begun.
        for start in [&b""[..], &[0x1f, 0x8b], b"BZh9"] {
            let _ = Reader::new(Cursor::new([start, &bytes[..]].concat())).map(Iterator::count);
        }
        read([b"TABLE_DUMP2|1|B|::1|1|", &bytes[..]].concat());
        let _ = message_as_updates(&bytes, false, &context(true), &mut BytesMut::new());
        let small = UpdateContext { max_message_len: 60, ..context(true) };
        let _ = message_as_updates(&body(&[&bytes], &[8, 10]), false, &small, &mut BytesMut::new());
    }

    #[test]
    fn text_never_panics(line in "TABLE_DUMP2\\|1\\|B\\|::1\\|1\\|(10.0.0.0/8|é)\\|[0-9 {}()\\[,]{0,12}\\|IGP\\|::2\\|1\\|1\\|[0-9: a-z]{0,9}\\|N?AG\\|[0-9 .]{0,9}\\|") {
        read(line.into_bytes());
    }
}
