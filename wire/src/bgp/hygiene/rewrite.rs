//! Writing the UPDATE that stands in for a malformed one. None of these is ever longer than what it
//! replaces.

use super::values::is_partial_in_vain;
use crate::bgp::canonical::AttributeSet;
use crate::bgp::types::Family;
use crate::bgp::update::{Attributes, Fields, MpReach, MpUnreach, attr, flag};

/// The same UPDATE without the attributes in `discard`, without repetitions (RFC 7606 section 3.g),
/// and without Partial bits where they must be 0.
pub(super) fn without(fields: &Fields<'_>, discard: &AttributeSet) -> Vec<u8> {
    let mut attributes = Vec::with_capacity(fields.attributes.len());
    let mut seen = *discard;
    for a in Attributes::new(fields.attributes).flatten() {
        if !seen.contains(a.code) {
            seen.insert(a.code);
            let at = attributes.len();
            attributes.extend_from_slice(a.raw);
            if is_partial_in_vain(&a)
                && let Some(flags) = attributes.get_mut(at)
            {
                *flags &= !flag::PARTIAL;
            }
        }
    }
    body(&[fields.withdrawn], &attributes, fields.nlri)
}

/// The UPDATE that withdraws all that this one announces and withdraws (RFC 7606 section 2,
/// treat-as-withdraw): the NLRI field joins the withdrawn routes, that of MP_REACH_NLRI goes
/// verbatim into MP_UNREACH_NLRI.
///
/// Only one MP_UNREACH_NLRI may stand in an UPDATE. Where the two attributes are of different
/// families and one is IPv4 unicast, that one goes to the withdrawn routes; `None` where neither
/// is.
pub(super) fn withdrawal(
    fields: &Fields<'_>,
    mp_reach: Option<MpReach<'_>>,
    mp_unreach: Option<MpUnreach<'_>>,
) -> Option<Vec<u8>> {
    let announced = mp_reach.map(|mp| (mp.family, mp.nlri)).filter(|(_, nlri)| !nlri.is_empty());
    let withdrawn = mp_unreach.map(|mp| (mp.family, mp.nlri)).filter(|(_, nlri)| !nlri.is_empty());
    let v4 = Family::IPV4_UNICAST;
    let (classic, mp) = match (announced, withdrawn) {
        (None, one) | (one, None) => (&[][..], one.map(|(family, nlri)| (family, [nlri, &[]]))),
        (Some((a, announced)), Some((w, withdrawn))) if a == w => (&[][..], Some((a, [withdrawn, announced]))),
        (Some((a, announced)), Some((w, withdrawn))) if a == v4 => (announced, Some((w, [withdrawn, &[]]))),
        (Some((a, announced)), Some((w, withdrawn))) if w == v4 => (withdrawn, Some((a, [announced, &[]]))),
        _ => return None,
    };
    let attributes = mp.map(|(family, nlri)| unreach(family, nlri)).unwrap_or_default();
    Some(body(&[fields.withdrawn, fields.nlri, classic], &attributes, &[]))
}

/// An MP_UNREACH_NLRI attribute (RFC 4760 section 4).
fn unreach(family: Family, nlri: [&[u8]; 2]) -> Vec<u8> {
    let len = 3 + nlri.iter().map(|part| part.len()).sum::<usize>();
    let mut attribute = Vec::with_capacity(4 + len);
    match u8::try_from(len) {
        Ok(len) => attribute.extend_from_slice(&[flag::OPTIONAL, attr::MP_UNREACH_NLRI, len]),
        Err(_) => {
            attribute.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED, attr::MP_UNREACH_NLRI]);
            attribute.extend_from_slice(&octets(len));
        }
    }
    attribute.extend_from_slice(&family.afi.to_be_bytes());
    attribute.push(family.safi);
    attribute.extend(nlri.iter().copied().flatten());
    attribute
}

/// An UPDATE's body from its three fields. All of them together are no longer than the message they
/// come from.
fn body(withdrawn: &[&[u8]], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let withdrawn_len: usize = withdrawn.iter().map(|part| part.len()).sum();
    let mut body = Vec::with_capacity(4 + withdrawn_len + attributes.len() + nlri.len());
    body.extend_from_slice(&octets(withdrawn_len));
    body.extend(withdrawn.iter().copied().flatten());
    body.extend_from_slice(&octets(attributes.len()));
    body.extend_from_slice(attributes);
    body.extend_from_slice(nlri);
    body
}

/// A length as it stands on the wire; `check` has seen to it that no body reaches 65535 octets.
fn octets(len: usize) -> [u8; 2] {
    debug_assert!(len <= usize::from(u16::MAX));
    (len as u16).to_be_bytes()
}
