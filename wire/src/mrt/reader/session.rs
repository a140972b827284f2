//! Recorded routes and messages made fit for a session of today.

use super::Route;
use crate::bgp::canonical::segment::{AS_SEQUENCE, AS_SET, SEGMENT_MAX};
use crate::bgp::canonical::{Carried, segments};
use crate::bgp::encode::put_attribute;
use crate::bgp::frame::{HEADER_LEN, MAX_LEN_EXTENDED};
use crate::bgp::update::{Attribute, Attributes, Update, attr, fields, flag};
use crate::bgp::{Family, Notification, Prefix, UpdateContext, encode};
use bytes::{BufMut, BytesMut};

/// What stands for an AS number that does not fit into two octets (RFC 6793 section 9).
const AS_TRANS: u32 = 23456;

/// Why a recorded UPDATE cannot be sent over a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// It has AS numbers of four octets and the session two; it would have to be translated.
    #[error("its AS numbers have four octets, the session's two")]
    TwoOctetSession,
    /// It is too long for the session and cannot be taken apart.
    #[error("it is too long for the session and cannot be cut: {0}")]
    Parse(#[from] Notification),
    /// It is too long for the session and holds prefixes of a family that is not read here.
    #[error("it is too long for the session and cannot be cut: it holds prefixes of {0}")]
    Family(Family),
}

/// Appends UPDATE messages that announce `prefixes` (of one family) with the attributes of `route`,
/// those of its [`Route::prefix`] and of all routes that share its `attributes` and `mp_next_hop`.
/// Attributes go out as they were recorded; a next hop of four octets in MP_REACH_NLRI goes out as
/// NEXT_HOP.
///
/// Returns the number of prefixes left out (0 or all): where the attributes leave no room for one,
/// where there is no next hop (some collectors dump their own routes without attributes), where an
/// IPv4 prefix has an IPv6 next hop without RFC 8950 or an IPv6 prefix an IPv4 one, and on a
/// session without 4-octet AS numbers, which table dumps always have.
pub fn route_as_update(route: &Route, prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let next_hop = &route.mp_next_hop[..];
    let v4 = prefixes.first().is_some_and(|p| p.family() == Family::IPV4_UNICAST);
    let (next_hop, classic_next_hop): (&[u8], &[u8]) =
        if v4 && next_hop.len() == 4 { (&[], next_hop) } else { (next_hop, &[]) };
    let has_next_hop = if v4 && next_hop.is_empty() {
        !classic_next_hop.is_empty() || Attributes::new(&route.attributes).flatten().any(|a| a.code == attr::NEXT_HOP)
    } else {
        !next_hop.is_empty() && (!v4 || context.extended_next_hop)
    };
    if !context.as4 || !has_next_hop {
        return prefixes.len();
    }
    let Ok(len) = u8::try_from(next_hop.len()) else { return prefixes.len() };
    let mut block = Vec::with_capacity(2 + next_hop.len() + route.attributes.len() + 7);
    block.extend_from_slice(&[u8::from(len > 0), len]);
    block.extend_from_slice(next_hop);
    block.extend_from_slice(&route.attributes);
    if !classic_next_hop.is_empty() {
        put_attribute(flag::TRANSITIVE, attr::NEXT_HOP, classic_next_hop, &mut block);
    }
    encode::announce_stored(&block, prefixes, context, out)
}

/// Appends a recorded UPDATE (its `body`, without header; `as4` as in [`super::Message`]) as one or
/// more messages for a session of `context`: as it was, where that is possible. On a 4-octet
/// session a 2-octet message is widened ([`widen_as_path`]), and a message that is then too long is
/// cut into several: withdrawals first, then announcements.
///
/// Returns the number of prefixes left out (see [`encode::announce_stored`]).
///
/// # Errors
/// [`Unsendable`]; nothing is appended then.
pub fn message_as_updates(
    body: &[u8],
    as4: bool,
    context: &UpdateContext,
    out: &mut BytesMut,
) -> Result<usize, Unsendable> {
    if as4 && !context.as4 {
        return Err(Unsendable::TwoOctetSession);
    }
    let widened = (!as4 && context.as4).then(|| widen_as_path(body));
    let body = widened.as_deref().unwrap_or(body);
    let len = HEADER_LEN + body.len();
    if len <= context.max_message_len.min(MAX_LEN_EXTENDED) {
        out.put_bytes(0xff, 16);
        out.put_u16(len as u16);
        out.put_u8(2);
        out.put_slice(body);
        return Ok(0);
    }
    cut(&Update::parse(body)?, context, out)
}

/// Writes what `update` says as messages of a length that `context` allows.
fn cut(update: &Update<'_>, context: &UpdateContext, out: &mut BytesMut) -> Result<usize, Unsendable> {
    let families = [update.mp_reach.map(|mp| mp.family), update.mp_unreach.map(|mp| mp.family)];
    if let Some(family) = families.into_iter().flatten().find(|f| !f.is_voted()) {
        return Err(Unsendable::Family(family));
    }
    let withdrawn: Vec<_> = update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()).collect();
    encode::withdraw(&withdrawn, context, out);
    let mut left_out = 0;
    for (carried, nlri) in [(Carried::Classic, Some(update.nlri)), (Carried::MpReach, update.mp_announced())] {
        let prefixes: Vec<_> = nlri.into_iter().flatten().collect();
        let mut block = Vec::new();
        encode::stored_attributes(update, carried, &mut block);
        left_out += encode::announce_stored(&block, &prefixes, context, out);
    }
    Ok(left_out)
}

/// The body of an UPDATE recorded on a 2-octet session as it would be on a 4-octet one: AS_PATH and
/// AS4_PATH become one AS_PATH, AGGREGATOR and AS4_AGGREGATOR one AGGREGATOR, by the rules of RFC
/// 6793 section 4.2.3. All else stays as it is; so does an AS_PATH or AGGREGATOR that cannot be
/// read, and the whole body where its lengths do not add up. The result may be longer than a
/// message may be; [`message_as_updates`] sees to that.
pub fn widen_as_path(body: &[u8]) -> Vec<u8> {
    let Ok(f) = fields(body) else { return body.to_vec() };
    let Ok(attributes) = Attributes::new(f.attributes).collect::<Result<Vec<_>, _>>() else { return body.to_vec() };
    let value = |code| attributes.iter().find(|a| a.code == code).map(|a| a.value);
    // An AGGREGATOR with a real AS number was written after the AS4 attributes, by someone who does
    // not know them.
    let stale = value(attr::AGGREGATOR).is_some_and(|v| !v.starts_with(&(AS_TRANS as u16).to_be_bytes()));
    let as4_path = value(attr::AS4_PATH).filter(|_| !stale);
    let as4_aggregator = value(attr::AS4_AGGREGATOR).filter(|_| !stale);

    let mut out = Vec::with_capacity(body.len() + 64);
    for a in attributes {
        match a.code {
            attr::AS_PATH => put_changed(&a, wide_path(a.value, as4_path), &mut out),
            attr::AGGREGATOR => put_changed(&a, wide_aggregator(a.value, as4_aggregator), &mut out),
            attr::AS4_PATH | attr::AS4_AGGREGATOR => {}
            _ => out.extend_from_slice(a.raw),
        }
    }
    let Ok(len) = u16::try_from(out.len()) else { return body.to_vec() };
    let withdrawn_len = (f.withdrawn.len() as u16).to_be_bytes();
    [&withdrawn_len, f.withdrawn, &len.to_be_bytes(), &out, f.nlri].concat()
}

fn put_changed(a: &Attribute<'_>, value: Option<Vec<u8>>, out: &mut Vec<u8>) {
    match value.filter(|v| v.len() <= usize::from(u16::MAX)) {
        Some(value) => put_attribute(a.flags & !flag::EXTENDED, a.code, &value, out),
        None => out.extend_from_slice(a.raw),
    }
}

fn wide_aggregator(value: &[u8], as4: Option<&[u8]>) -> Option<Vec<u8>> {
    let [a, b, id @ ..] = value else { return None };
    match as4 {
        _ if id.len() != 4 => None,
        Some(as4) if as4.len() == 8 => Some(as4.to_vec()),
        _ => Some([&[0, 0, *a, *b], id].concat()),
    }
}

/// A path segment: its type and the AS numbers in it.
type Segment = (u8, Vec<u32>);

fn read_path(value: &[u8], width: usize) -> Option<Vec<Segment>> {
    let asn = |m: &[u8]| m.iter().fold(0, |n, b| (n << 8) | u32::from(*b));
    segments(value, width).map(|s| s.map(|(kind, members)| (kind, members.chunks(width).map(asn).collect()))).collect()
}

/// The length of a path as RFC 4271 section 9.1.2.2 a and RFC 5065 section 5.3 count it.
fn path_len(path: &[Segment]) -> usize {
    path.iter().map(segment_len).sum()
}

fn segment_len((kind, members): &Segment) -> usize {
    match *kind {
        AS_SEQUENCE => members.len(),
        AS_SET => 1,
        _ => 0,
    }
}

/// RFC 6793 section 4.2.3: as much of the head of AS_PATH as AS4_PATH lacks, then AS4_PATH.
fn wide_path(path: &[u8], as4_path: Option<&[u8]>) -> Option<Vec<u8>> {
    let path = read_path(path, 2)?;
    let mut real = as4_path.and_then(|p| read_path(p, 4)).unwrap_or_default();
    // Section 6: confederation segments in AS4_PATH are discarded.
    real.retain(|s| matches!(s.0, AS_SET | AS_SEQUENCE) && !s.1.is_empty());
    let whole = match path_len(&path).checked_sub(path_len(&real)) {
        Some(lacking) if !real.is_empty() => join(head(path, lacking), real),
        _ => path,
    };
    let mut out = Vec::new();
    for (kind, members) in whole {
        out.extend_from_slice(&[kind, u8::try_from(members.len()).ok()?]);
        members.iter().for_each(|m| out.extend_from_slice(&m.to_be_bytes()));
    }
    Some(out)
}

/// The first segments of `path` that together count `len`, confederation segments that lead up to
/// there included.
fn head(path: Vec<Segment>, mut len: usize) -> Vec<Segment> {
    let mut taken = Vec::new();
    for mut segment in path {
        let counts = segment_len(&segment);
        if counts > 0 && len == 0 {
            break;
        }
        if segment.0 == AS_SEQUENCE {
            segment.1.truncate(len);
        }
        len -= counts.min(len);
        taken.push(segment);
    }
    taken
}

/// `head` then `tail`; where they meet in two sequences that fit into one, these become one.
fn join(mut head: Vec<Segment>, tail: Vec<Segment>) -> Vec<Segment> {
    let mut tail = tail.into_iter();
    match (head.last_mut(), tail.next()) {
        (Some((AS_SEQUENCE, a)), Some((AS_SEQUENCE, b))) if a.len() + b.len() <= SEGMENT_MAX => a.extend(b),
        (_, first) => head.extend(first),
    }
    head.extend(tail);
    head
}
