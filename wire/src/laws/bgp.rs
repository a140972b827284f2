//! BGP: streams, OPEN, NOTIFICATION, ROUTE-REFRESH, UPDATE.

use crate::bgp::canonical::{
    AttributeSet, CanonicalContext, Canonicaliser, Carried, Parts, describe, segment, segments,
};
use crate::bgp::encode;
use crate::bgp::frame::{HEADER_LEN, MAX_LEN, MAX_LEN_EXTENDED, Message, MessageType, next_message};
use crate::bgp::hygiene::{MAX_FINDINGS, Verdict, check};
use crate::bgp::message::{AS_TRANS, Capability, Open, RefreshKind, RouteRefresh, notification_name};
use crate::bgp::types::{Family, Notification, Prefix, UpdateContext};
use crate::bgp::update::{self, Attributes, Nlri, Update, attr};
use crate::bgp::{as2, frame};
use bytes::BytesMut;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Cuts a stream into messages, as far as that goes.
fn messages(pieces: &[&[u8]], extended: bool) -> (Vec<Message>, Option<Notification>, BytesMut) {
    let (mut buf, mut all) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match next_message(&mut buf, extended) {
                Ok(Some(m)) => all.push(m),
                Ok(None) => break,
                Err(n) => return (all, Some(n), buf),
            }
        }
    }
    (all, None, buf)
}

/// A stream of a peer's or an instance's: however it is cut into pieces, the same messages come out
/// of it and the same error ends it; no octet is lost or counted twice. What is in the messages is
/// read as well.
pub fn stream(octets: &[u8], extended: bool) {
    let (all, error, rest) = messages(&[octets], extended);
    let pieces: Vec<&[u8]> = octets.chunks(7).collect();
    let (again, same_error, _) = messages(&pieces, extended);
    let whole = |list: &[Message]| list.iter().map(|m| (m.kind, m.bytes.clone())).collect::<Vec<_>>();
    assert_eq!((whole(&all), &error), (whole(&again), &same_error), "the pieces make a difference");
    let taken: usize = all.iter().map(|m| m.bytes.len()).sum();
    assert_eq!([whole(&all).iter().flat_map(|(_, b)| b.to_vec()).collect(), rest.to_vec()].concat(), octets);
    assert!(error.is_none_or(|n| n.code == 1 && taken < octets.len()));
    for m in &all {
        let max = if extended && m.kind != MessageType::Open { MAX_LEN_EXTENDED } else { MAX_LEN };
        assert!((HEADER_LEN..=max).contains(&m.bytes.len()) && m.bytes.starts_with(&[0xff; 16]));
        match m.kind {
            MessageType::Open => open(m.body()),
            MessageType::Update => update(m.body(), &UpdateContext::EBGP),
            MessageType::Notification => notification(m.body()),
            MessageType::RouteRefresh => refresh(m.body()),
            MessageType::Keepalive => assert!(m.body().is_empty()),
        }
    }
}

/// An OPEN's body: what is read is written so that it is read as the same, in either form; what is
/// refused is refused by a code of the RFC's.
pub fn open(body: &[u8]) {
    let open = match Open::decode(body) {
        Ok(open) => open,
        Err(n) => return assert!(n.code == 2 && matches!(n.subcode, 0..=4 | 6), "{n:?}"),
    };
    assert!(open.asn != 0 && !open.router_id.is_unspecified() && !matches!(open.hold_time_s, 1 | 2));
    for (bytes, extended) in [(open.encode(), Open::is_extended(body)), (open.encode_extended(), true)] {
        assert!(bytes.len() <= MAX_LEN);
        let again = match Open::decode(bytes.get(HEADER_LEN..).unwrap_or_default()) {
            Ok(again) => again,
            Err(n) => panic!("{open:?} is written as what is refused with {n:?}"),
        };
        // A parameter for each capability may take more room than a sender needed who put all into one.
        let kept = again.capabilities.len();
        assert_eq!(again.capabilities.as_slice(), open.capabilities.get(..kept).unwrap_or_default());
        if kept < open.capabilities.len() {
            assert!(extended || bytes.len() > MAX_LEN - 300, "{} octets, and {kept} capabilities", bytes.len());
        }
        let wide = again.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)));
        let asn = if wide { open.asn } else { u16::try_from(open.asn).unwrap_or(AS_TRANS).into() };
        assert_eq!((again.asn, again.hold_time_s, again.router_id), (asn, open.hold_time_s, open.router_id));
        assert_eq!(again.encode(), Open { asn, ..again.clone() }.encode());
    }
    let _ = (open.has_family(Family::IPV4_UNICAST), open.has_family(Family::IPV6_UNICAST));
}

/// A NOTIFICATION's body comes back as it was, but for data that no message has room for.
pub fn notification(body: &[u8]) {
    let Some(n) = Notification::decode(body) else { return assert!(body.len() < 2) };
    assert!(notification_name(n.code, n.subcode).starts_with(&format!("{}/{}", n.code, n.subcode)));
    let bytes = n.encode();
    let fits = body.get(..MAX_LEN - HEADER_LEN).unwrap_or(body);
    assert_eq!(bytes.get(HEADER_LEN..), Some(fits));
}

/// A ROUTE-REFRESH's body comes back as it was, but for its ORF entries.
pub fn refresh(body: &[u8]) {
    match RouteRefresh::decode(body) {
        Ok(r) => {
            assert_eq!(r.encode().get(HEADER_LEN..), body.get(..4));
            assert!(body.len() == 4 || !matches!(r.kind, RefreshKind::Begin | RefreshKind::End));
        }
        Err(n) => {
            assert_eq!((n.code, n.subcode), (7, 1));
            assert_eq!(n.data.get(HEADER_LEN..), Some(body));
        }
    }
}

/// An UPDATE's body, from hygiene to what is told to others.
pub fn update(body: &[u8], context: &UpdateContext) {
    let mended = match check(body, context) {
        Verdict::Reset { notification, .. } => {
            return assert!(matches!(notification.code, 1 | 3), "{notification:?}");
        }
        Verdict::Pass => None,
        Verdict::Rewritten { body: new, withdrawn, findings } => {
            assert!(new.len() <= body.len());
            assert!(!findings.is_empty() && findings.len() <= MAX_FINDINGS);
            let (before, after) = (said(body), said(&new));
            if withdrawn {
                let all: Prefixes = before.0.union(&before.1).copied().collect();
                assert_eq!((Prefixes::new(), all, before.2), after);
            } else {
                assert_eq!(before, after);
            }
            assert_eq!(check(&new, context), Verdict::Pass, "what hygiene has written does not pass it");
            Some(new)
        }
    };
    healthy(mended.as_deref().unwrap_or(body), context);
}

type Prefixes = BTreeSet<Prefix>;

/// Prefixes announced and withdrawn, and the opaque NLRI octets, as RFC 7606 reads even a malformed
/// UPDATE.
fn said(body: &[u8]) -> (Prefixes, Prefixes, Vec<u8>) {
    let fields = update::fields(body).expect("hygiene has read it");
    let (mut announced, mut withdrawn, mut opaque) = (Prefixes::new(), Prefixes::new(), Vec::new());
    withdrawn.extend(Nlri::check(Family::IPV4_UNICAST, fields.withdrawn).expect("hygiene has read it"));
    announced.extend(Nlri::check(Family::IPV4_UNICAST, fields.nlri).expect("hygiene has read it"));
    for a in Attributes::new(fields.attributes).flatten() {
        let (family, nlri, to) = match a.code {
            attr::MP_REACH_NLRI => {
                let mp = update::mp_reach(a.value).expect("hygiene has read it");
                (mp.family, mp.nlri, &mut announced)
            }
            attr::MP_UNREACH_NLRI => {
                let mp = update::mp_unreach(a.value).expect("hygiene has read it");
                (mp.family, mp.nlri, &mut withdrawn)
            }
            _ => continue,
        };
        match family.is_voted() {
            true => to.extend(Nlri::check(family, nlri).expect("hygiene has read it")),
            false => opaque.extend(nlri),
        }
    }
    opaque.sort_unstable();
    (announced, withdrawn, opaque)
}

/// How the canonical form is asked for here: nothing is left out of the comparison.
fn canonical_context(update: UpdateContext) -> CanonicalContext {
    CanonicalContext {
        update,
        peer_as: 65000,
        confederation: None,
        peer_router_id: Ipv4Addr::new(192, 0, 2, 9),
        allow_own_as: true,
        ignore: AttributeSet::default(),
    }
}

/// The canonical form of what `body` announces, [`Carried`] so.
fn canonical(body: &[u8], carried: Carried, context: &CanonicalContext) -> Option<Vec<u8>> {
    let update = Update::parse(body).expect("hygiene has passed it");
    Canonicaliser::default().route(&update, carried, context).map(<[u8]>::to_vec)
}

/// The bodies of the UPDATEs in `bytes`, each no longer than a message may be.
pub fn bodies(mut bytes: &[u8], max: usize) -> Vec<&[u8]> {
    std::iter::from_fn(|| {
        let len = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
        assert!((HEADER_LEN..=max).contains(&len) && bytes.starts_with(&[0xff; 16]) && bytes.get(18) == Some(&2));
        let (message, rest) = bytes.split_at(len);
        bytes = rest;
        message.get(HEADER_LEN..)
    })
    .collect()
}

/// Which way an announcement came back.
fn carried_by(update: &Update<'_>) -> Carried {
    if update.mp_reach.is_some() { Carried::MpReach } else { Carried::Classic }
}

/// An UPDATE that hygiene has passed: what is remembered of it, and what is told to others, means
/// the same and passes as well.
fn healthy(body: &[u8], context: &UpdateContext) {
    let parsed = Update::parse(body).expect("hygiene has passed it");
    let _ = (parsed.has_routes(), parsed.end_of_rib());
    let full = canonical_context(*context);
    for (carried, nlri) in [(Carried::Classic, Some(parsed.nlri)), (Carried::MpReach, parsed.mp_announced())] {
        let prefixes: Vec<Prefix> = nlri.into_iter().flatten().collect();
        if prefixes.is_empty() {
            continue;
        }
        let Some(route) = canonical(body, carried, &full) else { continue };
        let parts = Parts::new(&route).expect("a canonical route");
        let codes: Vec<u8> = parts.attributes().map(|a| a.1).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        let _ = describe(&route, context.as4).to_string();

        // Published: the form that the vote compares, back on the wire.
        let mut out = BytesMut::new();
        let left_out = encode::announce(&route, &prefixes, context, &mut out);
        came_back(&out, &prefixes, left_out, &route, &full);

        // Stored and replayed: as the peer said it.
        let mut block = Vec::new();
        encode::stored_attributes(&parsed, carried, &mut block);
        out.clear();
        let left_out = encode::announce_stored(&block, &prefixes, context, &mut out);
        let first = prefixes.first().and_then(|p| encode::stored_len(&block, p)).expect("a block");
        assert!(left_out == 0 || first + 17 > context.max_message_len, "{left_out} left out of a block of {first}");
        came_back(&out, &prefixes, left_out, &route, &full);
    }
    match context.as4 {
        true => narrowed(body, &parsed, &full),
        false => {
            let wide = as2::widen(body).expect("it has passed, and is no longer than a message");
            let wide_context = UpdateContext { as4: true, max_message_len: MAX_LEN_EXTENDED, ..*context };
            assert_eq!(check(&wide, &wide_context), Verdict::Pass, "a widened UPDATE does not pass");
            assert_eq!(said(&wide), said(body));
        }
    }
}

/// What was announced says these prefixes, each with this route, and passes hygiene.
fn came_back(out: &[u8], prefixes: &[Prefix], left_out: usize, route: &[u8], context: &CanonicalContext) {
    let mut told = Vec::new();
    for body in bodies(out, context.update.max_message_len) {
        assert_eq!(check(body, &context.update), Verdict::Pass, "what is told does not pass");
        let u = Update::parse(body).expect("hygiene has passed it");
        assert!(u.withdrawn.is_empty() && u.mp_unreach.is_none());
        let again = canonical(body, carried_by(&u), context);
        assert_eq!(again.as_deref(), Some(route), "the canonical form of what is told is another");
        told.extend(u.nlri.chain(u.mp_announced().into_iter().flatten()));
    }
    if left_out == 0 {
        assert_eq!(told, prefixes);
    } else {
        assert!(told.is_empty() && left_out == prefixes.len());
    }
}

/// The same towards a speaker of two octets an AS number, and back.
fn narrowed(body: &[u8], parsed: &Update<'_>, full: &CanonicalContext) {
    let f = update::fields(body).expect("hygiene has passed it");
    let mut attributes = Vec::new();
    as2::narrow(f.attributes, &mut attributes);
    let Ok(len) = u16::try_from(attributes.len()) else { return };
    let withdrawn_len = (f.withdrawn.len() as u16).to_be_bytes();
    let narrow = [&withdrawn_len[..], f.withdrawn, &len.to_be_bytes(), &attributes, f.nlri].concat();
    let context = UpdateContext { as4: false, max_message_len: MAX_LEN_EXTENDED, ..full.update };
    if narrow.len() + frame::HEADER_LEN > MAX_LEN_EXTENDED {
        return;
    }
    assert_eq!(check(&narrow, &context), Verdict::Pass, "a narrowed UPDATE does not pass");
    let wide = as2::widen(&narrow).expect("it has passed");
    let carried = carried_by(parsed);
    // AS4_PATH has no room for a confederation's members (RFC 6793 section 3): large ones are lost.
    let large = |(kind, members): (u8, &[u8])| {
        let confederation = matches!(kind, segment::AS_CONFED_SEQUENCE | segment::AS_CONFED_SET);
        confederation && members.as_chunks::<4>().0.iter().any(|n| n[..2] != [0, 0])
    };
    let path = Attributes::new(f.attributes).flatten().find(|a| a.code == attr::AS_PATH).map(|a| a.value);
    let lost = path.is_some_and(|path| segments(path, 4).flatten().any(large));
    if lost || parsed.nlri.is_empty() && parsed.mp_announced().is_none() {
        return;
    }
    let without = |body: &[u8]| {
        let update = Update::parse(body).expect("hygiene has passed it");
        let mut context = full.clone();
        context.ignore.insert(attr::AS4_PATH);
        context.ignore.insert(attr::AS4_AGGREGATOR);
        Canonicaliser::default().route(&update, carried, &context).map(<[u8]>::to_vec)
    };
    assert_eq!(without(&wide), without(body), "a path of four octets is another one after two");
}
