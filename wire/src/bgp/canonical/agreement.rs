//! When two canonical routes mean the same although daemons wrote them differently, and which of
//! the two is published.
//!
//! Some daemons forget a part of what they pass on, always and for everybody (docs/EQUIVALENCE.md).
//! That is no fault that a vote could mend: with two such daemons among three it would become the
//! majority. So what is forgotten does not tell routes apart, and what is published is the form
//! that kept it.

use super::{Parts, flag};
use crate::bgp::update::attr;

/// Octets of an extended community (RFC 4360 section 2).
const EXTENDED: usize = 8;
/// The least significant bits of its type; the two above say who assigned it and whether it is
/// transitive.
const TYPE_VALUE: u8 = 0x3f;

/// Whether two canonical routes mean the same: equal but for PARTIAL bits, which FRR 8.4 forgets on
/// communities, for values of extended communities of unknown types, which OpenBGPD forgets, and
/// for the link-local next hop, which agrees with an absent one.
///
/// Not transitive: a route without a link-local next hop agrees with two that differ in theirs.
pub fn agrees(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (Some(a), Some(b)) = (Parts::new(a), Parts::new(b)) else { return false };
    a.next_hop == b.next_hop
        && (a.link_local.is_empty() || b.link_local.is_empty() || a.link_local == b.link_local)
        && same_attributes(&a, &b)
}

fn same_attributes(a: &Parts<'_>, b: &Parts<'_>) -> bool {
    if a.attribute_bytes == b.attribute_bytes {
        return true;
    }
    let (mut left, mut right) = (a.attributes(), b.attributes());
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(x), Some(y)) if same_attribute(x, y) => {}
            _ => return false,
        }
    }
}

/// Whether two attributes of canonical routes, as [`Parts::attributes`] gives them, mean the same.
pub fn same_attribute((flags_a, code_a, a): (u8, u8, &[u8]), (flags_b, code_b, b): (u8, u8, &[u8])) -> bool {
    code_a == code_b
        && (flags_a ^ flags_b) & !flag::PARTIAL == 0
        && (a == b || code_a == attr::EXTENDED_COMMUNITIES && (is_forgotten(a, b) || is_forgotten(b, a)))
}

/// Whether `short` is what is left of these extended communities if the values of those of unknown
/// types are forgotten.
fn is_forgotten(whole: &[u8], short: &[u8]) -> bool {
    let ((whole, rest), (short, other_rest)) = (whole.as_chunks::<EXTENDED>(), short.as_chunks::<EXTENDED>());
    let mut last = None;
    // They ascend, and do so without their values; those that have become equal stand once.
    let left = whole.iter().map(forget).filter(|one| last.replace(*one) != Some(*one));
    rest.is_empty() && other_rest.is_empty() && left.eq(short.iter().copied())
}

/// What OpenBGPD passes on of an extended community: of the types that it knows everything, of
/// others type and sub-type.
fn forget(community: &[u8; EXTENDED]) -> [u8; EXTENDED] {
    match *community {
        [kind, sub_type, ..] if !is_known(kind) => [kind, sub_type, 0, 0, 0, 0, 0, 0],
        known => known,
    }
}

/// Two-octet AS, IPv4 address, four-octet AS, opaque (RFC 4360 section 3, RFC 5668) and EVPN (RFC
/// 7432).
fn is_known(kind: u8) -> bool {
    matches!(kind & TYPE_VALUE, 0..=3 | 6)
}

/// Whether `b` has lost something that `a`, which means the same, has kept: more values of extended
/// communities, else more PARTIAL bits, since no router may take one away (RFC 4271 section 5).
/// Then `a` is published, however many say `b`. A strict weak order.
pub fn keeps_more(a: &[u8], b: &[u8]) -> bool {
    kept(a) > kept(b)
}

/// Which of two routes that mean the same is published where as many say the one as the other: the
/// one that has kept more, else the one with a link-local next hop, which the peer of a shared link
/// is to be told (RFC 2545 section 3), else the smaller string. A strict order.
pub fn prefers(a: &[u8], b: &[u8]) -> bool {
    let link_local = |route| Parts::new(route).is_some_and(|parts| !parts.link_local.is_empty());
    match kept(a).cmp(&kept(b)).then_with(|| link_local(a).cmp(&link_local(b))) {
        std::cmp::Ordering::Equal => a < b,
        more => more.is_gt(),
    }
}

/// How much of what may be forgotten is there: values, and PARTIAL bits.
fn kept(route: &[u8]) -> (usize, usize) {
    let Some(parts) = Parts::new(route) else { return (0, 0) };
    let whole = |community: &&[u8; EXTENDED]| forget(community) != **community;
    parts.attributes().fold((0, 0), |(values, partial), (flags, code, value)| {
        let more = match code {
            attr::EXTENDED_COMMUNITIES => value.as_chunks().0.iter().filter(whole).count(),
            _ => 0,
        };
        (values + more, partial + usize::from(flags & flag::PARTIAL != 0))
    })
}
