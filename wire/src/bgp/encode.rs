//! Canonical routes back to UPDATE messages, correct by RFC 4271, 4760 and 7606: attributes
//! ascending but MP_REACH_NLRI first (RFC 7606 section 5.1), classic encoding for IPv4 unless its
//! next hop is IPv6 (RFC 8950), as many prefixes to a message as fit.
//!
//! Lengths take the extended form only where the value is longer than 255 octets: RFC 4271 section
//! 4.3 allows the bit there alone, and old receivers mind.

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;

use super::canonical::{Carried, Parts, is_link_local};
use super::frame::{HEADER_LEN, MAX_LEN_EXTENDED};
use super::types::{Family, Prefix, UpdateContext};
use super::update::{Attributes, Update, attr, flag};
use bytes::{BufMut, BytesMut};

/// Message type of an UPDATE (RFC 4271 section 4.1).
const UPDATE: u8 = 2;
/// An UPDATE with nothing in it: header and two length fields.
const EMPTY_UPDATE: usize = HEADER_LEN + 4;
/// MP_REACH_NLRI's value but for next hop and NLRI: family, next hop length, reserved octet (RFC
/// 4760 section 3).
const MP_REACH_FIXED: usize = 5;
/// The most octets of a next hop field: a global and a link-local IPv6 address (RFC 2545 section
/// 3).
const NEXT_HOP_MAX: usize = 32;

/// Appends whole UPDATE messages (headers included) that announce `prefixes` with the canonical
/// route `route`. All prefixes are of one family. A route whose attributes leave no room for one
/// prefix within `context.max_message_len` cannot be sent: returns the number of prefixes that were
/// left out (0 or all of them).
///
/// Left out as well, since no correct message can say them: a route without ORIGIN or AS_PATH, with
/// a next hop of a length other than 4 or 16, an IPv6 prefix with an IPv4 next hop, and an IPv4
/// prefix with an IPv6 next hop where RFC 8950 was not negotiated.
pub fn announce(route: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let left_out = |run: &[Prefix]| announce_run(route, run, context, out).map_or(run.len(), |()| 0);
    prefixes.chunk_by(|a, b| a.family() == b.family()).map(left_out).sum()
}

/// [`announce`] for prefixes of one family; `None` where the route cannot be sent.
fn announce_run(route: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> Option<()> {
    let parts = Parts::new(route)?;
    let block = CanonicalBlock::new(&parts)?;
    let family = prefixes.first()?.family();
    if family == Family::IPV4_UNICAST && parts.next_hop.len() == 4 {
        return announce_classic(&block, prefixes, context, out);
    }
    if parts.next_hop.len() != 16 || (family == Family::IPV4_UNICAST && !context.extended_next_hop) {
        return None;
    }
    let mut field = [0; NEXT_HOP_MAX];
    let field = next_hop_field(&parts, &mut field)?;
    announce_mp(field, &block, prefixes, context, out)
}

/// The next hop field of MP_REACH_NLRI. A link-local address without a global one goes out as {LL,
/// LL}: RFC 2545 section 3 knows 16 octets for a global address and 32 for both only, and receivers
/// that look at the first half alone (OpenBGPD) or insist on a link-local second half (FRR, BIRD)
/// all find there what they want; in {::, LL} the first kind finds no next hop.
fn next_hop_field<'a>(parts: &Parts<'_>, field: &'a mut [u8; NEXT_HOP_MAX]) -> Option<&'a [u8]> {
    let link_local_only = parts.next_hop.iter().all(|b| *b == 0) && is_link_local(parts.link_local);
    let first = if link_local_only { parts.link_local } else { parts.next_hop };
    let len = first.len() + parts.link_local.len();
    let (a, b) = field.get_mut(..len)?.split_at_mut_checked(first.len())?;
    a.copy_from_slice(first);
    b.copy_from_slice(parts.link_local);
    field.get(..len)
}

/// The attributes that go with an announcement, but for MP_REACH_NLRI.
trait Block {
    /// Octets on the wire.
    fn len(&self) -> usize;
    /// Writes them.
    fn write(&self, out: &mut BytesMut);
}

/// A canonical route's attributes, NEXT_HOP among them where the next hop has four octets.
struct CanonicalBlock<'a> {
    parts: &'a Parts<'a>,
    len: usize,
}

impl<'a> CanonicalBlock<'a> {
    /// `None` where a mandatory attribute is missing or the bytes are no canonical route.
    fn new(parts: &'a Parts<'a>) -> Option<CanonicalBlock<'a>> {
        let (mut seen, mut octets, mut len) = (0, 0, 0);
        for (_, code, value) in parts.attributes() {
            seen += usize::from(matches!(code, attr::ORIGIN | attr::AS_PATH));
            octets += super::canonical::ATTRIBUTE_HEADER + value.len();
            len += attribute_len(value.len());
        }
        if parts.next_hop.len() == 4 {
            len += attribute_len(4);
        }
        (seen == 2 && octets == parts.attribute_bytes.len()).then_some(CanonicalBlock { parts, len })
    }
}

impl Block for CanonicalBlock<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn write(&self, out: &mut BytesMut) {
        let mut next_hop = Some(self.parts.next_hop).filter(|n| n.len() == 4);
        for (flags, code, value) in self.parts.attributes() {
            if code > attr::NEXT_HOP
                && let Some(field) = next_hop.take()
            {
                put_attribute(flag::TRANSITIVE, attr::NEXT_HOP, field, out);
            }
            put_attribute(flags, code, value, out);
        }
        if let Some(field) = next_hop {
            put_attribute(flag::TRANSITIVE, attr::NEXT_HOP, field, out);
        }
    }
}

/// Attributes that go out as they came.
struct RawBlock<'a>(&'a [u8]);

impl Block for RawBlock<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_slice(self.0);
    }
}

const fn attribute_header_len(value: usize) -> usize {
    if value > 255 { 4 } else { 3 }
}

const fn attribute_len(value: usize) -> usize {
    attribute_header_len(value) + value
}

/// Writes an attribute's header in its shortest form; `len`, the value's, is at most 65535.
fn put_attribute_header(flags: u8, code: u8, len: usize, out: &mut impl BufMut) {
    // A message has at most 65535 octets, and so has what stands in it.
    match u8::try_from(len) {
        Ok(len) => out.put_slice(&[flags, code, len]),
        Err(_) => {
            let [high, low] = (len as u16).to_be_bytes();
            out.put_slice(&[flags | flag::EXTENDED, code, high, low]);
        }
    }
}

/// Writes an attribute whose value has at most 65535 octets.
pub(crate) fn put_attribute(flags: u8, code: u8, value: &[u8], out: &mut impl BufMut) {
    put_attribute_header(flags, code, value.len(), out);
    out.put_slice(value);
}

fn put_prefixes(prefixes: &[Prefix], out: &mut BytesMut) {
    for p in prefixes {
        out.put_u8(p.len());
        out.put_slice(p.octets());
    }
}

/// Writes a header for a message of `len` octets. Every caller has made sure that it is at most
/// 65535.
fn put_header(len: usize, out: &mut BytesMut) {
    out.reserve(len);
    out.put_bytes(0xff, 16);
    out.put_u16(len as u16);
    out.put_u8(UPDATE);
}

/// How many of the `prefixes` come first that fit into `room` octets, and the octets they take.
fn fitting(prefixes: &[Prefix], room: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
    let (mut n, mut octets) = (0, 0);
    for p in prefixes {
        let more = octets + 1 + p.octets().len();
        if !room(more) {
            break;
        }
        (n, octets) = (n + 1, more);
    }
    (n > 0).then_some((n, octets))
}

/// The longest message that may be written.
fn limit(context: &UpdateContext) -> usize {
    context.max_message_len.min(MAX_LEN_EXTENDED)
}

/// Whether the longest prefix has room, where `len` tells a message's length by that of its NLRI.
/// Asked before the first message is written, so that either all prefixes go out or none.
fn room_for_each(prefixes: &[Prefix], len: impl Fn(usize) -> usize, context: &UpdateContext) -> Option<()> {
    let longest = prefixes.iter().map(|p| 1 + p.octets().len()).max()?;
    (len(longest) <= limit(context)).then_some(())
}

fn announce_classic(
    block: &impl Block,
    prefixes: &[Prefix],
    context: &UpdateContext,
    out: &mut BytesMut,
) -> Option<()> {
    let len = |nlri| EMPTY_UPDATE + block.len() + nlri;
    room_for_each(prefixes, len, context)?;
    let mut rest = prefixes;
    while let Some((n, octets)) = fitting(rest, |octets| len(octets) <= limit(context)) {
        let (now, later) = rest.split_at(n);
        put_header(len(octets), out);
        out.put_u16(0);
        out.put_u16(block.len() as u16);
        block.write(out);
        put_prefixes(now, out);
        rest = later;
    }
    Some(())
}

fn announce_mp(
    next_hop: &[u8],
    block: &impl Block,
    prefixes: &[Prefix],
    context: &UpdateContext,
    out: &mut BytesMut,
) -> Option<()> {
    let family = prefixes.first()?.family();
    let len = |nlri| EMPTY_UPDATE + block.len() + attribute_len(MP_REACH_FIXED + next_hop.len() + nlri);
    room_for_each(prefixes, len, context)?;
    let mut rest = prefixes;
    while let Some((n, octets)) = fitting(rest, |octets| len(octets) <= limit(context)) {
        let (now, later) = rest.split_at(n);
        let total = len(octets);
        put_header(total, out);
        out.put_u16(0);
        out.put_u16((total - EMPTY_UPDATE) as u16);
        put_attribute_header(flag::OPTIONAL, attr::MP_REACH_NLRI, MP_REACH_FIXED + next_hop.len() + octets, out);
        out.put_u16(family.afi);
        out.put_u8(family.safi);
        out.put_u8(next_hop.len() as u8);
        out.put_slice(next_hop);
        out.put_u8(0);
        put_prefixes(now, out);
        block.write(out);
        rest = later;
    }
    Some(())
}

/// Appends whole UPDATE messages that withdraw `prefixes` (all of one family): classic for IPv4,
/// MP_UNREACH_NLRI for IPv6.
pub fn withdraw(prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) {
    for run in prefixes.chunk_by(|a, b| a.family() == b.family()) {
        match run.first().map(Prefix::family) {
            Some(Family::IPV4_UNICAST) => withdraw_classic(run, context, out),
            Some(family) => withdraw_mp(family, run, context, out),
            None => {}
        }
    }
}

fn withdraw_classic(mut rest: &[Prefix], context: &UpdateContext, out: &mut BytesMut) {
    while let Some((n, octets)) = fitting(rest, |octets| EMPTY_UPDATE + octets <= limit(context)) {
        let (now, later) = rest.split_at(n);
        put_header(EMPTY_UPDATE + octets, out);
        out.put_u16(octets as u16);
        put_prefixes(now, out);
        out.put_u16(0);
        rest = later;
    }
}

fn withdraw_mp(family: Family, mut rest: &[Prefix], context: &UpdateContext, out: &mut BytesMut) {
    let len = |nlri| EMPTY_UPDATE + attribute_len(3 + nlri);
    while let Some((n, octets)) = fitting(rest, |octets| len(octets) <= limit(context)) {
        let (now, later) = rest.split_at(n);
        put_mp_unreach(family, len(octets), 3 + octets, out);
        put_prefixes(now, out);
        rest = later;
    }
}

/// Everything of a message with nothing but MP_UNREACH_NLRI up to its withdrawn routes.
fn put_mp_unreach(family: Family, total: usize, value: usize, out: &mut BytesMut) {
    put_header(total, out);
    out.put_u16(0);
    out.put_u16((total - EMPTY_UPDATE) as u16);
    put_attribute_header(flag::OPTIONAL, attr::MP_UNREACH_NLRI, value, out);
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 section 2).
pub fn end_of_rib(family: Family, out: &mut BytesMut) {
    if family == Family::IPV4_UNICAST {
        put_header(EMPTY_UPDATE, out);
        out.put_u32(0);
    } else {
        put_mp_unreach(family, EMPTY_UPDATE + attribute_len(3), 3, out);
    }
}

/// The attribute block under which one peer's announcement is kept in the store and replayed: next
/// hop field and every attribute but MP_REACH_NLRI and MP_UNREACH_NLRI, raw and in their order, so
/// that a replay says exactly what the peer said. Appended to `out`: `[family is carried in
/// MP_REACH: 1][next hop length 1][next hop of MP_REACH][attributes]`. For [`Carried::Classic`]
/// that is `0, 0`, and NEXT_HOP stands among the attributes.
pub fn stored_attributes(update: &Update<'_>, carried: Carried, out: &mut Vec<u8>) {
    let mp = update.mp_reach.filter(|_| carried == Carried::MpReach);
    let next_hop = mp.map_or(&[][..], |mp| mp.next_hop);
    out.push(u8::from(carried == Carried::MpReach));
    out.push(next_hop.len() as u8);
    out.extend_from_slice(next_hop);
    for a in Attributes::new(update.attributes).map_while(Result::ok) {
        if !matches!(a.code, attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI) {
            out.extend_from_slice(a.raw);
        }
    }
}

/// Appends whole UPDATE messages that announce `prefixes` (all of one family) with a block made by
/// [`stored_attributes`]. Returns the number of prefixes left out because the block leaves no room
/// for one, or because it is one of classic encoding and the prefixes are not IPv4.
pub fn announce_stored(block: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let left_out = |run: &[Prefix]| announce_stored_run(block, run, context, out).map_or(run.len(), |()| 0);
    prefixes.chunk_by(|a, b| a.family() == b.family()).map(left_out).sum()
}

/// The length of the shortest message that announces `prefix` with a block made by
/// [`stored_attributes`]; `None` where the bytes are no such block.
pub fn stored_len(block: &[u8], prefix: &Prefix) -> Option<usize> {
    let (&[mp, n], rest) = block.split_first_chunk::<2>()?;
    let attributes = rest.len().checked_sub(usize::from(n))?;
    let nlri = 1 + prefix.octets().len();
    Some(match mp {
        0 => EMPTY_UPDATE + attributes + nlri,
        _ => EMPTY_UPDATE + attributes + attribute_len(MP_REACH_FIXED + usize::from(n) + nlri),
    })
}

fn announce_stored_run(block: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> Option<()> {
    let (&[mp, n], rest) = block.split_first_chunk::<2>()?;
    let (next_hop, attributes) = rest.split_at_checked(usize::from(n))?;
    let attributes = RawBlock(attributes);
    match (mp, prefixes.first()?.family()) {
        (0, Family::IPV4_UNICAST) => announce_classic(&attributes, prefixes, context, out),
        (0, _) => None,
        _ => announce_mp(next_hop, &attributes, prefixes, context, out),
    }
}
