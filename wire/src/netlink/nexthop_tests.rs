use super::*;
use crate::netlink::captures::*;

fn parse(capture: &str) -> NexthopMessage {
    NexthopMessage::parse(&payload(capture)).unwrap()
}

#[test]
fn every_captured_nexthop_is_written_back_octet_for_octet() {
    let captures = [NH_5, NH_6, NH_7_V6, NH_8_BLACKHOLE, NH_9_DEVICE, NH_11_ONLINK, NH_20_GROUP, NH_DELETED];
    for capture in captures {
        assert_eq!(parse(capture).to_payload().unwrap(), payload(capture), "{capture}");
    }
    let resilient = parse(NH_21_RESILIENT);
    assert_eq!(NexthopMessage::parse(&resilient.to_payload().unwrap()), Ok(resilient));
}

#[test]
fn objects() {
    let expected = NexthopMessage {
        family: AF_INET,
        scope: RT_SCOPE_LINK,
        protocol: RTPROT_ZEBRA,
        id: Some(5),
        oif: Some(3),
        gateway: Some([10, 0, 1, 2].into()),
        ..Default::default()
    };
    assert_eq!(parse(NH_5), expected);
    assert_eq!(parse(NH_7_V6).gateway, Some("fe80::2".parse().unwrap()));
    assert!(parse(NH_8_BLACKHOLE).blackhole);
    assert_eq!((parse(NH_9_DEVICE).oif, parse(NH_9_DEVICE).gateway), (Some(3), None));
    assert_eq!(parse(NH_11_ONLINK).flags, u32::from(RTNH_F_ONLINK));
    assert_eq!(parse(NH_DELETED), parse(NH_11_ONLINK));
}

#[test]
fn groups() {
    let group = parse(NH_20_GROUP);
    assert_eq!((group.id, group.group_type), (Some(20), Some(0)));
    assert_eq!(group.group, [GroupEntry { id: 5, weight: 1 }, GroupEntry { id: 6, weight: 3 }]);
    let resilient = parse(NH_21_RESILIENT);
    assert_eq!((resilient.group_type, resilient.group.len()), (Some(1), 2));
    assert!(resilient.others.iter().any(|other| other.as_attr().kind() == NHA_RES_GROUP));
}

#[test]
fn malformed_nexthops_are_refused_by_name() {
    use NetlinkError::*;
    let group = |payload: &[u8]| {
        let mut out = Vec::new();
        let mut w = Writer::payload(&mut out);
        w.put(&[0; 8]);
        w.attr(NHA_GROUP, payload);
        w.finish().unwrap();
        NexthopMessage::parse(&out).map(|nexthop| nexthop.group)
    };
    assert_eq!(group(&[]), Err(AttrValue { kind: NHA_GROUP }));
    assert_eq!(group(&[0; 9]), Err(AttrValue { kind: NHA_GROUP }));
    assert_eq!(group(&[1, 0, 0, 0, 255, 255, 0, 0]), Err(AttrValue { kind: NHA_GROUP }));
    assert_eq!(group(&[1, 0, 0, 0, 0, 0, 1, 0]), Err(AttrValue { kind: NHA_GROUP }));
    let id = u32::from_ne_bytes([1, 0, 0, 0]);
    assert_eq!(group(&[1, 0, 0, 0, 0, 1, 0, 0]), Ok(vec![GroupEntry { id, weight: 257 }]));
    assert_eq!(NexthopMessage::parse(&[0; 7]), Err(ShortBody { need: 8, have: 7 }));
    assert_eq!(NexthopMessage::parse(&[28, 0, 0, 0, 0, 0, 0, 0]), Err(Family { family: 28 }));
}
