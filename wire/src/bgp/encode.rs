//! Canonical routes back to UPDATE messages, correct by RFC 4271, 4760 and 7606: attributes ascending but MP_REACH_NLRI first
//! (RFC 7606 section 5.1), classic encoding for IPv4 unless its next hop is IPv6 (RFC 8950), as many prefixes to a message as fit.

use super::types::{Family, Prefix, UpdateContext};
use bytes::BytesMut;

/// Appends whole UPDATE messages (headers included) that announce `prefixes` with the canonical route `route`.
/// All prefixes are of one family. A route whose attributes leave no room for one prefix within
/// `context.max_message_len` cannot be sent: returns the number of prefixes that were left out (0 or all of them).
pub fn announce(route: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let _ = (route, prefixes, context, out);
    todo!("helper wire-B")
}

/// Appends whole UPDATE messages that withdraw `prefixes` (all of one family): classic for IPv4, MP_UNREACH_NLRI for IPv6.
pub fn withdraw(prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) {
    let _ = (prefixes, context, out);
    todo!("helper wire-B")
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 section 2).
pub fn end_of_rib(family: Family, out: &mut BytesMut) {
    let _ = (family, out);
    todo!("helper wire-B")
}

/// The attribute block under which one peer's announcement is kept in the store and replayed: next hop field and every
/// attribute but MP_REACH_NLRI and MP_UNREACH_NLRI, raw and in their order, so that a replay says exactly what the peer said.
/// Appended to `out`: `[family is carried in MP_REACH: 1][next hop length 1][next hop of MP_REACH][attributes]`.
pub fn stored_attributes(update: &super::update::Update<'_>, carried: super::canonical::Carried, out: &mut Vec<u8>) {
    let _ = (update, carried, out);
    todo!("helper wire-B")
}

/// Appends whole UPDATE messages that announce `prefixes` (all of one family) with a block made by [`stored_attributes`].
/// Returns the number of prefixes left out because the block leaves no room for one.
pub fn announce_stored(block: &[u8], prefixes: &[Prefix], context: &UpdateContext, out: &mut BytesMut) -> usize {
    let _ = (block, prefixes, context, out);
    todo!("helper wire-B")
}
