//! What peers and instances say.

use wire::bgp::message::{Capability, Open, RefreshKind, RouteRefresh, keepalive};
use wire::bgp::{Family, Notification, Prefix, SessionKind, UpdateContext, encode};
use wire::laws::bgp as laws;

/// A stream of messages; the first octet says whether they may be extended ones (RFC 8654).
pub fn stream(data: &[u8]) {
    let Some((&how, octets)) = data.split_first() else { return };
    laws::stream(octets, how & 1 == 1);
}

/// An OPEN's body.
pub fn open(data: &[u8]) {
    laws::open(data);
}

/// A NOTIFICATION's body.
pub fn notification(data: &[u8]) {
    laws::notification(data);
}

/// A ROUTE-REFRESH's body.
pub fn refresh(data: &[u8]) {
    laws::refresh(data);
}

/// An UPDATE's body; the first octet is the session: what was negotiated, and with whom.
pub fn update(data: &[u8]) {
    let Some((&how, body)) = data.split_first() else { return };
    let kind = match how >> 4 & 3 {
        0 | 1 => SessionKind::Ebgp,
        2 => SessionKind::Ibgp,
        _ => SessionKind::Confederation,
    };
    let extended = how & 8 != 0;
    let context = UpdateContext {
        as4: how & 1 == 0,
        kind,
        extended_next_hop: how & 2 != 0,
        class_e: how & 4 != 0,
        max_message_len: if extended { wire::bgp::frame::MAX_LEN_EXTENDED } else { wire::bgp::frame::MAX_LEN },
    };
    if body.len() + wire::bgp::frame::HEADER_LEN <= context.max_message_len {
        laws::update(body, &context);
    }
}

/// What stands behind a message's header.
fn body(message: &[u8]) -> Vec<u8> {
    message.get(wire::bgp::frame::HEADER_LEN..).unwrap_or_default().to_vec()
}

fn some_opens() -> Vec<Open> {
    let capabilities = vec![
        Capability::Multiprotocol(Family::IPV4_UNICAST),
        Capability::Multiprotocol(Family::IPV6_UNICAST),
        Capability::RouteRefresh,
        Capability::ExtendedNextHop(vec![(Family::IPV4_UNICAST, 2)]),
        Capability::ExtendedMessage,
        Capability::Role(3),
        Capability::GracefulRestart { flags: 0x80, restart_time_s: 120, families: vec![(Family::IPV4_UNICAST, 0x80)] },
        Capability::FourOctetAs(70_000),
        Capability::AddPath(vec![(Family::IPV4_UNICAST, 3)]),
        Capability::EnhancedRouteRefresh,
        Capability::Other { code: 73, value: b"\x04host\x00".to_vec() },
    ];
    let open = |asn, capabilities| Open { asn, hold_time_s: 90, router_id: [192, 0, 2, 1].into(), capabilities };
    let many = (0..40).map(|n| Capability::Other { code: 128 + n, value: vec![n; 9] }).collect();
    vec![
        open(64501, Vec::new()),
        open(64501, vec![Capability::FourOctetAs(64501)]),
        open(70_000, capabilities),
        open(9, many),
    ]
}

/// What [`open`] begins with.
pub fn opens() -> Vec<Vec<u8>> {
    let opens = some_opens();
    let mut all: Vec<Vec<u8>> = opens.iter().map(|o| body(&o.encode())).collect();
    all.extend(opens.iter().map(|o| body(&o.encode_extended())));
    // All capabilities in one parameter, as many speakers have it.
    let one = [&[4, 0xfb, 0xf5, 0, 90, 192, 0, 2, 1, 12, 2, 10, 2, 0, 70, 0, 65, 4, 0, 0, 0xfb, 0xf5][..]].concat();
    all.push(one);
    // 2,000 empty capabilities in one parameter of RFC 9072's form.
    let mut many = vec![4, 0xfb, 0xf5, 0, 90, 192, 0, 2, 1, 255, 255, 0x0f, 0xa3, 2, 0x0f, 0xa0];
    many.extend([2, 0].repeat(2000));
    all.push(many);
    all
}

/// What [`notification`] begins with.
pub fn notifications() -> Vec<Vec<u8>> {
    let with = |data: &[u8]| body(&Notification::with_data(6, 2, data).encode());
    vec![with(b"\x04time"), with(&[]), with(&[7; 4075]), body(&Notification::new(3, 10).encode())]
}

/// What [`refresh`] begins with.
pub fn refreshes() -> Vec<Vec<u8>> {
    let kinds = [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End, RefreshKind::Unknown(9)];
    let mut all: Vec<Vec<u8>> =
        kinds.iter().map(|&kind| body(&RouteRefresh { family: Family::IPV6_UNICAST, kind }.encode())).collect();
    all.push([0, 1, 0, 1, 1, 64, 0, 1, 0x80].to_vec());
    all
}

/// An attribute, with the extended length only where it is needed.
fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(len) => [&[flags, code, len], value].concat(),
        Err(_) => [&[flags | 0x10, code][..], &(value.len() as u16).to_be_bytes(), value].concat(),
    }
}

fn joined(withdrawn: &[u8], attributes: &[Vec<u8>], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let (w, a) = ((withdrawn.len() as u16).to_be_bytes(), (attributes.len() as u16).to_be_bytes());
    [&w[..], withdrawn, &a, &attributes, nlri].concat()
}

fn path(as4: bool, members: &[u32]) -> Vec<u8> {
    let numbers =
        members.iter().flat_map(|n| if as4 { n.to_be_bytes().to_vec() } else { (*n as u16).to_be_bytes().to_vec() });
    [2, members.len() as u8].into_iter().chain(numbers).collect()
}

/// Bodies of sound UPDATEs, of sessions with and without four octets an AS number.
fn bodies(as4: bool) -> Vec<Vec<u8>> {
    let aggregator = if as4 { vec![0, 0, 0xfb, 0xf4, 192, 0, 2, 1] } else { vec![0xfb, 0xf4, 192, 0, 2, 1] };
    let confederation = if as4 { vec![3, 1, 0, 0, 0xfd, 0xe9] } else { vec![3, 1, 0xfd, 0xe9] };
    let base = |members: &[u32]| {
        vec![attribute(0x40, 1, &[0]), attribute(0x40, 2, &path(as4, members)), attribute(0x40, 3, &[192, 0, 2, 1])]
    };
    let more = [
        attribute(0x80, 4, &[0, 0, 0, 1]),
        attribute(0x40, 5, &[0, 0, 0, 100]),
        attribute(0x40, 6, &[]),
        attribute(0xc0, 7, &aggregator),
        attribute(0xc0, 8, &[0xfb, 0xf4, 0, 1, 0xfb, 0xf4, 0, 2]),
        attribute(0x80, 9, &[192, 0, 2, 1]),
        attribute(0x80, 10, &[192, 0, 2, 7]),
        attribute(0xc0, 16, &[0, 2, 0xfb, 0xf4, 0, 0, 0, 1]),
        attribute(0xc0, 17, &[2, 1, 0, 1, 0x11, 0x70]),
        attribute(0xc0, 18, &[0, 1, 0x11, 0x70, 192, 0, 2, 1]),
        attribute(0xc0, 23, &[0, 8, 0, 3, 4, 1, 9]),
        attribute(0x80, 26, &[1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 5]),
        attribute(0xc0, 32, &[0; 300]),
        attribute(0xc0, 35, &[0, 0, 0xfb, 0xf4]),
        attribute(0xc0, 40, &[1, 0, 7, 0, 0, 0, 0, 0, 0, 1]),
        attribute(0xc0, 99, b"?"),
    ];
    let v6 = |next_hop: &[u8]| {
        let field = [&[0, 2, 1, next_hop.len() as u8][..], next_hop, &[0, 32, 0x20, 1, 0xd, 0xb8]].concat();
        attribute(0x80, 14, &field)
    };
    let global = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let nlri = [24, 198, 51, 100, 8, 10, 0, 32, 192, 0, 2, 9];
    let mut all = vec![
        joined(&[], &base(&[64501]), &nlri),
        joined(&nlri, &[], &[]),
        joined(&[], &[], &[]),
        joined(&nlri, &base(&[64501, 64502, 64503]), &nlri),
        joined(&[], &base(&[64501; 255]), &nlri),
        joined(&[], &[base(&[64501, 65000]), more.to_vec()].concat(), &nlri),
        joined(&[], &[vec![v6(&global)], base(&[64501])].concat(), &nlri),
        joined(
            &[],
            &[v6(&[global, link_local].concat()), attribute(0x40, 1, &[2]), attribute(0x40, 2, &path(as4, &[1, 2]))],
            &[],
        ),
        joined(&[], &[attribute(0x80, 15, &[0, 2, 1, 32, 0x20, 1, 0xd, 0xb8])], &[]),
        joined(&[], &[attribute(0x80, 15, &[0, 2, 1])], &[]),
        joined(&[], &[base(&[]), vec![attribute(0x40, 5, &[0, 0, 0, 100])]].concat(), &nlri),
        joined(
            &[],
            &[
                attribute(0x40, 1, &[0]),
                attribute(0x40, 2, &confederation),
                attribute(0x40, 3, &[192, 0, 2, 1]),
                attribute(0x40, 5, &[0; 4]),
            ],
            &nlri,
        ),
        // IPv4 prefixes over an IPv6 next hop (RFC 8950).
        joined(
            &[],
            &[
                attribute(0x80, 14, &[&[0, 1, 1, 16][..], &global, &[0, 8, 10]].concat()),
                attribute(0x40, 1, &[0]),
                attribute(0x40, 2, &path(as4, &[64501])),
            ],
            &[],
        ),
    ];
    if as4 {
        all.push(joined(&[], &base(&[64501, 70_000, 4_200_000_000]), &nlri));
    }
    for one in more {
        all.push(joined(&[], &[base(&[64501]), vec![one]].concat(), &nlri));
    }
    all
}

/// What [`update`] begins with.
pub fn updates() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for body in bodies(true) {
        all.extend([0x00, 0x06, 0x20, 0x32].map(|how| [&[how], body.as_slice()].concat()));
    }
    for body in bodies(false) {
        all.extend([0x01, 0x27, 0x31].map(|how| [&[how], body.as_slice()].concat()));
    }
    all
}

/// A whole message of each kind, sound ones, as a peer of a router sends them.
pub fn messages() -> Vec<Vec<u8>> {
    let whole = |body: &Vec<u8>| {
        let mut message = vec![0xff; 16];
        message.extend(((body.len() + 19) as u16).to_be_bytes());
        message.push(2);
        [message, body.clone()].concat()
    };
    let mut all: Vec<Vec<u8>> = bodies(true).iter().map(whole).collect();
    all.extend(some_opens().iter().map(|o| o.encode().to_vec()));
    all.push(keepalive().to_vec());
    all.push(RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::Request }.encode().to_vec());
    all.push(Notification::new(6, 4).encode().to_vec());
    let prefixes: Vec<Prefix> = ["198.51.100.0/24", "0.0.0.0/0"].iter().filter_map(|p| p.parse().ok()).collect();
    let mut out = bytes::BytesMut::new();
    encode::withdraw(&prefixes, &UpdateContext::EBGP, &mut out);
    encode::end_of_rib(Family::IPV4_UNICAST, &mut out);
    all.push(out.to_vec());
    all
}

/// What [`stream`] begins with.
pub fn streams() -> Vec<Vec<u8>> {
    let messages = messages();
    let mut all: Vec<Vec<u8>> = messages.iter().map(|m| [&[0], m.as_slice()].concat()).collect();
    all.extend(messages.chunks(4).map(|some| [&[1], some.concat().as_slice()].concat()));
    all
}
