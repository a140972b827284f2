use super::*;
use crate::netlink::attr::Attrs;
use crate::netlink::captures::*;

fn one(bytes: &[u8]) -> Frame<'_> {
    let mut frames = Frames::new(bytes);
    let frame = frames.next().unwrap().unwrap();
    assert_eq!(frames.next(), None);
    frame
}

#[test]
fn a_batch_is_cut_into_its_messages() {
    let batch = [bytes(NH_5), bytes(V4_NHID), bytes(DUMP_DONE)].concat();
    let kinds: Vec<_> = Frames::new(&batch).map(|frame| frame.unwrap().header.kind).collect();
    assert_eq!(kinds, [RTM_NEWNEXTHOP, RTM_NEWROUTE, NLMSG_DONE]);
}

#[test]
fn framing_errors_are_told_apart_and_end_the_iteration() {
    let good = bytes(V4_PLAIN);
    let errors = [
        (vec![1u8; 15], NetlinkError::TruncatedHeader { left: 15 }),
        ([&15u32.to_ne_bytes()[..], &[0; 12]].concat(), NetlinkError::ShortMessage { len: 15 }),
        ([&0u32.to_ne_bytes()[..], &[0; 12]].concat(), NetlinkError::ShortMessage { len: 0 }),
        ([&17u32.to_ne_bytes()[..], &[0; 12]].concat(), NetlinkError::LongMessage { len: 17, left: 16 }),
        ([&u32::MAX.to_ne_bytes()[..], &[0; 12]].concat(), NetlinkError::LongMessage { len: u32::MAX, left: 16 }),
    ];
    for (bad, error) in errors {
        let mut both = good.clone();
        both.extend(bad);
        let mut frames = Frames::new(&both);
        assert!(frames.next().unwrap().is_ok());
        assert_eq!(frames.next(), Some(Err(error)));
        assert_eq!(frames.next(), None);
    }
}

#[test]
fn the_last_message_may_lack_its_padding() {
    let mut out = Vec::new();
    for payload in [&b"a"[..], b"bc"] {
        let mut w = Writer::message(&mut out, RTM_GETLINK, NLM_F_REQUEST, 1, 2);
        w.put(payload);
        w.finish().unwrap();
    }
    assert_eq!(out.len(), 40);
    for len in [38, 39, 40] {
        let payloads: Vec<_> = Frames::new(&out[..len]).map(|frame| frame.unwrap().payload).collect();
        assert_eq!(payloads, [&b"a"[..], b"bc"]);
    }
}

#[test]
fn attribute_framing_errors_are_told_apart() {
    for (bad, error) in [
        (&[4u8, 0, 1][..], NetlinkError::AttrFraming { len: 0, left: 3 }),
        (&[3, 0, 1, 0], NetlinkError::AttrFraming { len: 3, left: 4 }),
        (&[9, 0, 1, 0, 1, 2, 3, 4], NetlinkError::AttrFraming { len: 9, left: 8 }),
    ] {
        let mut attrs = Attrs::new(bad);
        assert_eq!(attrs.next(), Some(Err(error)));
        assert_eq!(attrs.next(), None);
    }
    assert_eq!(error_of(7, &[0; 3], |attr| attr.u32().map(|_| ())), NetlinkError::AttrLength { kind: 7, len: 3 });
    assert_eq!(error_of(7, &[0; 5], |attr| attr.ip(AF_INET).map(|_| ())), NetlinkError::AttrLength { kind: 7, len: 5 });
    assert_eq!(error_of(7, &[0; 4], |attr| attr.ip(7).map(|_| ())), NetlinkError::Family { family: 7 });
    assert_eq!(error_of(18, &[2], |attr| attr.via().map(|_| ())), NetlinkError::AttrLength { kind: 18, len: 1 });
    assert_eq!(error_of(18, &[2, 0, 1], |attr| attr.via().map(|_| ())), NetlinkError::AttrLength { kind: 18, len: 1 });
    assert_eq!(error_of(18, &[2, 1, 1], |attr| attr.via().map(|_| ())), NetlinkError::AttrValue { kind: 18 });
}

fn error_of(kind: u16, payload: &[u8], read: impl Fn(Attr<'_>) -> Result<(), NetlinkError>) -> NetlinkError {
    read(Attr { raw_kind: kind | NLA_F_NESTED, payload }).unwrap_err()
}

/// The request that the captured errors answer: a new route to 192.0.2.1/24 via 10.0.1.2.
fn refused_request() -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = Writer::message(&mut out, RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 78, 0);
    w.put(&[AF_INET, 24, 0, 0, 254, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0]);
    w.attr_ip(RTA_DST, [192, 0, 2, 1].into());
    w.attr_ip(RTA_GATEWAY, [10, 0, 1, 2].into());
    w.finish().unwrap();
    out
}

#[test]
fn errors_are_the_kernels_octet_for_octet() {
    let request = refused_request();
    let text = Some("Invalid prefix for given prefix length");
    for (capture, capped, text) in [
        (ERROR_FULL, false, None),
        (ERROR_CAPPED, true, None),
        (ERROR_EXTENDED, false, text),
        (ERROR_CAPPED_EXTENDED, true, text),
    ] {
        let expected = bytes(capture);
        let mut out = Vec::new();
        let port = one(&expected).header.port;
        write_ack(&mut out, &one(&request), port, libc::EINVAL, AckOptions { capped, text, offset: None });
        assert_eq!(out, expected, "{capture}");
        assert_eq!(one(&out).errno(), Some(libc::EINVAL));
    }
}

#[test]
fn acknowledgements_and_the_end_of_a_dump_are_the_kernels() {
    let ack = bytes(ACK);
    let request =
        Frame { header: Header::from_bytes(ack[20..].first_chunk().unwrap()), payload: &[], bytes: &ack[20..] };
    let mut out = Vec::new();
    write_ack(&mut out, &request, one(&ack).header.port, 0, AckOptions::default());
    assert_eq!((&out, out.len()), (&ack, ACK_LEN));
    assert_eq!(one(&out).errno(), Some(0));

    let done = bytes(DUMP_DONE);
    let mut out = Vec::new();
    write_done(&mut out, 77, one(&done).header.port, 0, 0);
    assert_eq!(out, done);
    assert_eq!(one(&out).errno(), Some(0));
}

#[test]
fn an_error_says_where() {
    let mut out = Vec::new();
    let request = refused_request();
    let options = AckOptions { capped: true, text: Some("no"), offset: Some(28) };
    write_ack(&mut out, &one(&request), 5, libc::EOPNOTSUPP, options);
    let frame = one(&out);
    assert_eq!(frame.header.flags, NLM_F_CAPPED | NLM_F_ACK_TLVS);
    let tlvs: Vec<_> = Attrs::new(&frame.payload[20..]).map(|attr| attr.unwrap()).collect();
    assert_eq!((tlvs[0].kind(), tlvs[0].name().as_str()), (NLMSGERR_ATTR_MSG, "no"));
    assert_eq!((tlvs[1].kind(), tlvs[1].u32()), (NLMSGERR_ATTR_OFFS, Ok(28)));
}

#[test]
fn what_does_not_fit_leaves_the_buffer_as_it_was() {
    let mut out = refused_request();
    let before = out.clone();
    let mut w = Writer::message(&mut out, RTM_NEWROUTE, 0, 0, 0);
    w.attr(1, &vec![0; 65532]);
    assert_eq!(w.finish(), Err(NetlinkError::TooLong));
    assert_eq!(out, before);

    let mut w = Writer::payload(&mut out);
    let nest = w.nest(RTA_METRICS);
    w.attr(1, &[0; 40000]);
    w.attr(2, &[0; 40000]);
    w.end_nest(nest);
    assert_eq!(w.finish(), Err(NetlinkError::TooLong));
    assert_eq!(out, before);
}

#[test]
fn a_dump_is_told_from_a_replacing_request() {
    let header = |kind, flags| Header { kind, flags, ..Default::default() };
    assert!(header(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP).is_dump());
    assert!(header(RTM_GETNEXTHOP, NLM_F_DUMP).is_dump());
    assert!(!header(RTM_GETROUTE, NLM_F_ROOT).is_dump());
    assert!(!header(RTM_NEWROUTE, NLM_F_REPLACE | NLM_F_EXCL).is_dump());
    assert!(!header(NLMSG_ERROR, NLM_F_DUMP).is_dump());
    assert_eq!([group_bit(RTNLGRP_LINK), group_bit(RTNLGRP_NEXTHOP), group_bit(33), group_bit(0)], [1, 1 << 31, 0, 0]);
}
