//! Canonical routes back to UPDATE messages, correct by RFC 4271, 4760 and 7606: attributes ascending but MP_REACH_NLRI first
//! (RFC 7606 section 5.1), classic encoding for IPv4 unless its next hop is IPv6 (RFC 8950), as many prefixes to a message as fit.

use super::canonical::{self, Carried};
use super::frame::HEADER_LEN;
use super::types::{Family, Prefix, UpdateContext};
use super::update::{Attributes, Update, attr, flag};
use bytes::{BufMut, BytesMut};

/// Octets of an UPDATE that are always there: header and two length fields.
const FIXED: usize = HEADER_LEN + 4;

/// What a message of announcements starts with; the NLRI follows until the message is full.
enum Place<'a> {
    /// In the NLRI field.
    Classic,
    /// In MP_REACH_NLRI, with this next hop field.
    MpReach(&'a [u8]),
}

/// Writes the messages that announce `prefixes` with `attributes`, an attribute field without MP_REACH_NLRI.
/// Returns how many prefixes found no room.
fn pack(place: &Place<'_>, attributes: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let Some(first) = prefixes.first() else { return 0 };
    let family = first.family();
    // MP_REACH_NLRI: header with extended length (4), family (3), next hop length and field, reserved octet.
    let overhead = match place {
        Place::Classic => FIXED + attributes.len(),
        Place::MpReach(next_hop) => FIXED + attributes.len() + 4 + 3 + 1 + next_hop.len() + 1,
    };
    let longest = if family.afi == 2 { 17 } else { 5 };
    let Some(room) = context.max_message_len.checked_sub(overhead).filter(|room| *room >= longest) else { return prefixes.len() };
    let mut rest = prefixes;
    while !rest.is_empty() {
        let mut bytes = 0;
        let n = rest
            .iter()
            .take_while(|p| {
                bytes += 1 + p.octets().len();
                bytes <= room
            })
            .count();
        let (now, later) = rest.split_at(n);
        rest = later;
        let nlri: usize = now.iter().map(|p| 1 + p.octets().len()).sum();
        header(overhead + nlri, out);
        out.put_u16(0);
        match place {
            Place::Classic => {
                out.put_u16(attributes.len() as u16);
                out.put_slice(attributes);
                put_nlri(now, out);
            }
            Place::MpReach(next_hop) => {
                let value = 3 + 1 + next_hop.len() + 1 + nlri;
                out.put_u16((4 + value + attributes.len()) as u16);
                out.put_slice(&[flag::OPTIONAL | flag::EXTENDED, attr::MP_REACH_NLRI]);
                out.put_u16(value as u16);
                out.put_u16(family.afi);
                out.put_u8(family.safi);
                out.put_u8(next_hop.len() as u8);
                out.put_slice(next_hop);
                out.put_u8(0);
                put_nlri(now, out);
                out.put_slice(attributes);
            }
        }
    }
    0
}

fn header(len: usize, out: &mut BytesMut) {
    out.reserve(len);
    out.put_slice(&[0xff; 16]);
    out.put_u16(len as u16);
    out.put_u8(2);
}

fn put_nlri(prefixes: &[Prefix], out: &mut BytesMut) {
    for p in prefixes {
        out.put_u8(p.len());
        out.put_slice(p.octets());
    }
}

fn put_attribute(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(value.len()) {
        Ok(n) => out.extend_from_slice(&[flags & !flag::EXTENDED, code, n]),
        Err(_) => {
            out.extend_from_slice(&[flags | flag::EXTENDED, code]);
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(value);
}

/// Appends whole UPDATE messages (headers included) that announce `prefixes` with the canonical route `route`.
/// All prefixes are of one family. A route whose attributes leave no room for one prefix within
/// `context.max_message_len` cannot be sent, nor can IPv4 with an IPv6 next hop where RFC 8950 was not negotiated:
/// returns the number of prefixes that were left out (0 or all of them).
pub fn announce(route: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let (Some(parts), Some(first)) = (canonical::parts(route), prefixes.first()) else { return prefixes.len() };
    let v4 = first.family() == Family::IPV4_UNICAST;
    let mut next_hop = [0u8; 32];
    let place = match (v4, parts.next_hop.len(), parts.link_local.len()) {
        (true, 4, _) => Place::Classic,
        (true, 16, _) if !context.extended_next_hop => return prefixes.len(),
        // A link-local address alone goes out twice, {LL, LL}: a field of 16 octets with a link-local address is refused by
        // some receivers, one of 32 octets (RFC 2545 section 3) by none.
        (_, 16, 16) => {
            let alone = parts.next_hop == [0u8; 16];
            next_hop[..16].copy_from_slice(if alone { parts.link_local } else { parts.next_hop });
            next_hop[16..].copy_from_slice(parts.link_local);
            Place::MpReach(&next_hop)
        }
        (_, 16, _) => Place::MpReach(parts.next_hop),
        _ => return prefixes.len(),
    };
    let mut attributes = Vec::with_capacity(parts.attributes.len() + 8);
    let mut next_hop_due = matches!(place, Place::Classic);
    for (flags, code, value) in canonical::attributes(parts.attributes) {
        if next_hop_due && code > attr::NEXT_HOP {
            next_hop_due = false;
            put_attribute(flag::TRANSITIVE, attr::NEXT_HOP, parts.next_hop, &mut attributes);
        }
        put_attribute(flags, code, value, &mut attributes);
    }
    if next_hop_due {
        put_attribute(flag::TRANSITIVE, attr::NEXT_HOP, parts.next_hop, &mut attributes);
    }
    pack(&place, &attributes, prefixes, context, out)
}

/// Appends whole UPDATE messages that withdraw `prefixes` (all of one family): classic for IPv4, MP_UNREACH_NLRI for IPv6.
pub fn withdraw(prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) {
    let Some(first) = prefixes.first() else { return };
    let family = first.family();
    let v4 = family == Family::IPV4_UNICAST;
    let overhead = if v4 { FIXED } else { FIXED + 4 + 3 };
    let room = context.max_message_len.saturating_sub(overhead).max(17);
    let mut rest = prefixes;
    while !rest.is_empty() {
        let mut bytes = 0;
        let n = rest
            .iter()
            .take_while(|p| {
                bytes += 1 + p.octets().len();
                bytes <= room
            })
            .count();
        let (now, later) = rest.split_at(n);
        rest = later;
        let nlri: usize = now.iter().map(|p| 1 + p.octets().len()).sum();
        header(overhead + nlri, out);
        if v4 {
            out.put_u16(nlri as u16);
            put_nlri(now, out);
            out.put_u16(0);
        } else {
            out.put_u16(0);
            out.put_u16((4 + 3 + nlri) as u16);
            out.put_slice(&[flag::OPTIONAL | flag::EXTENDED, attr::MP_UNREACH_NLRI]);
            out.put_u16((3 + nlri) as u16);
            out.put_u16(family.afi);
            out.put_u8(family.safi);
            put_nlri(now, out);
        }
    }
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 section 2).
pub fn end_of_rib(family: Family, out: &mut BytesMut) {
    if family == Family::IPV4_UNICAST {
        header(FIXED, out);
        return out.put_slice(&[0; 4]);
    }
    header(FIXED + 6, out);
    out.put_slice(&[0, 0, 0, 6, flag::OPTIONAL, attr::MP_UNREACH_NLRI, 3]);
    out.put_u16(family.afi);
    out.put_u8(family.safi);
}

/// The attribute block under which one peer's announcement is kept in the store and replayed: next hop field and every
/// attribute but MP_REACH_NLRI and MP_UNREACH_NLRI, raw and in their order, so that a replay says exactly what the peer said.
/// Appended to `out`: `[family is carried in MP_REACH: 1][next hop length 1][next hop of MP_REACH][attributes]`.
pub fn stored_attributes(update: &Update<'_>, carried: Carried, out: &mut Vec<u8>) {
    let next_hop = match (carried, update.mp_reach) {
        (Carried::MpReach, Some(mp)) => mp.next_hop,
        _ => &[],
    };
    out.push(u8::from(carried == Carried::MpReach));
    out.push(next_hop.len() as u8);
    out.extend_from_slice(next_hop);
    for a in Attributes::new(update.attributes).flatten() {
        let left_out = match a.code {
            attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI => true,
            // A message with both kinds of NLRI has a NEXT_HOP for the classic ones only.
            attr::NEXT_HOP => carried == Carried::MpReach,
            _ => false,
        };
        if !left_out {
            out.extend_from_slice(a.raw);
        }
    }
}

/// Appends whole UPDATE messages that announce `prefixes` (all of one family) with a block made by [`stored_attributes`].
/// Returns the number of prefixes left out because the block leaves no room for one.
pub fn announce_stored(block: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let parsed = (|| {
        let (&mp, &n) = (block.first()?, block.get(1)?);
        let n = usize::from(n);
        Some((mp == 1, block.get(2..2 + n)?, block.get(2 + n..)?))
    })();
    match parsed {
        Some((true, next_hop, attributes)) => pack(&Place::MpReach(next_hop), attributes, prefixes, context, out),
        Some((false, _, attributes)) => pack(&Place::Classic, attributes, prefixes, context, out),
        None => prefixes.len(),
    }
}
