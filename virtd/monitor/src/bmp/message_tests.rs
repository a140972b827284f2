use super::*;
use bgpkit_parser::bmp::messages::{
    BmpMessage, BmpMessageBody, BmpPeerType, PeerDownReason, PeerFlags, PeerUpTlvType, PerPeerFlags, StatType,
    StatsData,
};
use bgpkit_parser::bmp::parse_bmp_msg;
use bgpkit_parser::models::BgpMessage;
use bytes::Bytes;

/// What the parser makes of a message, all of which it takes.
fn parsed(write: impl FnOnce(&mut Vec<u8>)) -> BmpMessage {
    let mut out = Vec::new();
    write(&mut out);
    let mut bytes = Bytes::from(out);
    let message = parse_bmp_msg(&mut bytes).expect("a BMP message");
    assert!(bytes.is_empty());
    message
}

fn open(asn: u16) -> Vec<u8> {
    let mut open = vec![0xff; 16];
    open.extend([0, 29, 1, 4]);
    open.extend(asn.to_be_bytes());
    open.extend([0, 90, 10, 0, 0, 1, 0]);
    open
}

fn speaker() -> SpeakerUp {
    SpeakerUp {
        peer: "192.0.2.1".to_owned(),
        address: [192, 0, 2, 1].into(),
        asn: 65001,
        router_id: [10, 0, 0, 1].into(),
        local: Some("192.0.2.254:179".parse().expect("an address")),
        remote_port: 40000,
        as4: true,
        up_us: 5_000_000,
        sent: open(64500),
        received: open(65001),
        ..SpeakerUp::default()
    }
}

fn instance() -> SpeakerUp {
    SpeakerUp { instance: Some("frr".to_owned()), ..speaker() }
}

/// An UPDATE that announces 198.51.100.0/24.
fn update() -> Vec<u8> {
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 192, 0, 2, 1];
    let mut update = vec![0xff; 16];
    update.extend([0, 23 + attributes.len() as u8 + 4, 2, 0, 0, 0, attributes.len() as u8]);
    update.extend(attributes);
    update.extend([24, 198, 51, 100]);
    update
}

fn flags(message: &BmpMessage) -> PeerFlags {
    match message.per_peer_header.expect("a per-peer header").peer_flags {
        PerPeerFlags::PeerFlags(flags) => flags,
        other => panic!("{other:?}"),
    }
}

#[test]
fn routes_are_in_the_table_that_they_are_in() {
    let (out, post) = (PeerFlags::IS_ADJ_RIB_OUT, PeerFlags::IS_POST_POLICY);
    let cases = [
        (speaker(), Rib::In, PeerFlags::empty(), BmpPeerType::Global),
        (speaker(), Rib::Out, out | post, BmpPeerType::Global),
        (instance(), Rib::Out, out, BmpPeerType::Local),
    ];
    for (up, rib, wanted, kind) in cases {
        let at = UNIX_EPOCH + Duration::from_micros(1_700_000_000_250_000);
        let message = parsed(|o| Peer::of(&up).routes(rib, &update(), Some(at), o));
        let header = message.per_peer_header.expect("a per-peer header");
        assert_eq!((flags(&message), header.peer_type), (wanted, kind));
        assert_eq!((header.peer_ip, header.peer_asn.to_u32()), (up.address, 65001));
        assert_eq!((header.peer_bgp_id, header.timestamp), (up.router_id, 1_700_000_000.25));
        let BmpMessageBody::RouteMonitoring(routes) = message.message_body else { panic!("{message:?}") };
        let BgpMessage::Update(update) = routes.bgp_message else { panic!("{routes:?}") };
        let prefixes: Vec<String> = update.announced_prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, ["198.51.100.0/24"]);
    }
}

#[test]
fn an_ipv6_peer_and_as_numbers_of_two_octets_have_their_flags() {
    let up = SpeakerUp { address: "2001:db8::1".parse().expect("an address"), as4: false, ..speaker() };
    let local = "[2001:db8::2]:179".parse().expect("an address");
    let message = parsed(|o| Peer::of(&up).up(&SpeakerUp { local: Some(local), ..up.clone() }, o));
    assert_eq!(flags(&message), PeerFlags::ADDRESS_FAMILY_IPV6 | PeerFlags::AS_SIZE_16BIT);
    assert_eq!(message.per_peer_header.map(|h| h.peer_ip), Some(up.address));
    let BmpMessageBody::PeerUpNotification(told) = message.message_body else { panic!("{message:?}") };
    assert_eq!((told.local_addr, told.local_port), (local.ip(), 179));
}

#[test]
fn peers_come_with_their_opens_and_instances_with_their_names() {
    for up in [speaker(), instance()] {
        let message = parsed(|o| Peer::of(&up).up(&up, o));
        let header = message.per_peer_header.expect("a per-peer header");
        assert_eq!(flags(&message), PeerFlags::empty(), "the O flag is not set in Peer Up");
        assert_eq!(header.peer_distinguisher != 0, up.instance.is_some());
        let BmpMessageBody::PeerUpNotification(told) = message.message_body else { panic!("{message:?}") };
        assert_eq!((told.local_port, told.remote_port), (179, 40000));
        for (open, asn) in [(told.sent_open, 64500), (told.received_open, 65001)] {
            let BgpMessage::Open(open) = open else { panic!("{open:?}") };
            assert_eq!(open.asn.to_u32(), asn);
        }
        let names: Vec<(PeerUpTlvType, String)> = told.tlvs.into_iter().map(|t| (t.info_type, t.info_value)).collect();
        let wanted = match up.instance {
            None => Vec::new(),
            Some(_) => vec![
                (PeerUpTlvType::String, "virtd instance frr".to_owned()),
                (PeerUpTlvType::VrTableName, "frr".to_owned()),
            ],
        };
        assert_eq!(names, wanted);
    }
}

#[test]
fn who_is_told_apart_by_no_address_has_a_number_of_his_own() {
    let of = |instance: Option<&str>, interface: Option<&str>| {
        let up =
            SpeakerUp { instance: instance.map(str::to_owned), interface: interface.map(str::to_owned), ..speaker() };
        let peer = Peer::of(&up);
        (peer.kind, peer.distinguisher)
    };
    let all = [
        of(None, None),
        of(Some("frr"), None),
        of(Some("bird"), None),
        of(None, Some("eth0")),
        of(None, Some("eth1")),
        of(Some("frr"), Some("eth0")),
    ];
    assert_eq!(all[0], (0, 0));
    assert!(all[1..].iter().all(|(kind, _)| *kind == 2));
    let different: std::collections::BTreeSet<u64> = all.iter().map(|(_, n)| *n).collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(of(Some("frr"), None), all[1], "the same each time");
}

#[test]
fn who_goes_says_why() {
    let notification = [&[0xff; 16][..], &[0, 21, 3, 6, 2]].concat();
    let cases = [
        (LOCAL_NOTIFICATION, &notification[..], PeerDownReason::LocalSystemClosedNotificationPduFollows),
        (REMOTE_NOTIFICATION, &notification, PeerDownReason::RemoteSystemClosedNotificationPduFollows),
        (LOCAL_NOTIFICATION, &[], PeerDownReason::LocalSystemClosedFsmEvenFollows),
        ("closed", &[], PeerDownReason::RemoteSystemsClosedNoData),
        (TOLD_ANEW, &[], PeerDownReason::PeerDeConfigured),
        ("a word of a later virtd", &[], PeerDownReason::RemoteSystemsClosedNoData),
    ];
    for (reason, sent, wanted) in cases {
        let down = SpeakerDown { reason: reason.to_owned(), notification: sent.to_vec() };
        let message = parsed(|o| Peer::of(&speaker()).down(&down, o));
        let BmpMessageBody::PeerDownNotification(told) = message.message_body else { panic!("{message:?}") };
        assert_eq!(told.reason, wanted, "{reason}");
        if matches!(wanted as u8, 1 | 3) {
            assert_eq!(told.data.as_deref(), Some(sent));
        }
    }
}

#[test]
fn what_we_say_of_ourselves_and_of_the_tables() {
    let message = parsed(|o| initiation("r1", "virtd-monitor 0.1.0", o));
    let BmpMessageBody::InitiationMessage(told) = message.message_body else { panic!("{message:?}") };
    let said: Vec<(u16, String)> = told.tlvs.into_iter().map(|t| (t.info_type.into(), t.info)).collect();
    assert_eq!(said, [(1, "virtd-monitor 0.1.0".to_owned()), (2, "r1".to_owned())]);
    let message = parsed(|o| termination(Reason::Closed, "it ends", o));
    let BmpMessageBody::TerminationMessage(told) = message.message_body else { panic!("{message:?}") };
    assert_eq!(told.tlvs.len(), 2);
    let message = parsed(|o| Peer::of(&speaker()).statistics(Some(7), Some(1 << 33), o));
    let BmpMessageBody::StatsReport(told) = message.message_body else { panic!("{message:?}") };
    let counted: Vec<_> = told.counters.into_iter().map(|c| (c.stat_type, c.stat_data)).collect();
    let wanted = [
        (StatType::RoutesInAdjRibsIn, StatsData::Gauge(7)),
        (StatType::RoutesInPostPolicyAdjRibOut, StatsData::Gauge(1 << 33)),
    ];
    assert_eq!(counted, wanted);
}
