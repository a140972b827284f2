//! AS numbers of four octets towards a speaker that knows two (RFC 6793): what it is told, and what
//! it says.
//!
//! Towards it AS_PATH and AGGREGATOR have AS_TRANS in the place of each number above 65535, and
//! AS4_PATH and AS4_AGGREGATOR beside them say which numbers those are ([`narrow`], section 4.2.2).
//! What it sends is put together again from both ([`widen`], section 4.2.3), so that behind this
//! module every path has four octets a number.

use super::canonical::{segment, segments};
use super::encode::put_attribute;
use super::message::AS_TRANS;
use super::update::{Attribute, Attributes, attr, fields, flag};

/// Optional and transitive: AS4_PATH and AS4_AGGREGATOR.
const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;

/// Appends `attributes`, an attributes field of four octets an AS number, as a speaker with two is
/// told it. AS4_PATH and AS4_AGGREGATOR that stand there already are left out: on a session with
/// four octets they mean nothing (section 4.1). An AS_PATH or AGGREGATOR without the form its RFC
/// gives it stays as it is.
pub fn narrow(attributes: &[u8], out: &mut Vec<u8>) {
    let (mut as4_path, mut as4_aggregator) = (None, None);
    for a in Attributes::new(attributes).map_while(Result::ok) {
        match a.code {
            attr::AS4_PATH | attr::AS4_AGGREGATOR => {}
            attr::AS_PATH => match narrow_path(a.value) {
                Some((two, four)) => {
                    put_attribute(a.flags & !flag::EXTENDED, a.code, &two, out);
                    as4_path = four;
                }
                None => out.extend_from_slice(a.raw),
            },
            attr::AGGREGATOR => match *a.value {
                [0, 0, c, d, ref address @ ..] if address.len() == 4 => {
                    put_attribute(a.flags & !flag::EXTENDED, a.code, &[&[c, d], address].concat(), out);
                }
                [_, _, _, _, ref address @ ..] if address.len() == 4 => {
                    let value = [&AS_TRANS.to_be_bytes(), address].concat();
                    put_attribute(a.flags & !flag::EXTENDED, a.code, &value, out);
                    as4_aggregator = Some(a.value);
                }
                _ => out.extend_from_slice(a.raw),
            },
            _ => out.extend_from_slice(a.raw),
        }
    }
    if let Some(path) = as4_path {
        put_attribute(OPTIONAL_TRANSITIVE, attr::AS4_PATH, &path, out);
    }
    if let Some(aggregator) = as4_aggregator {
        put_attribute(OPTIONAL_TRANSITIVE, attr::AS4_AGGREGATOR, aggregator, out);
    }
}

/// [`narrow`] for a block of [`super::encode::stored_attributes`].
pub fn narrow_stored(block: &[u8], out: &mut Vec<u8>) {
    let Some((head, rest)) = block.split_first_chunk::<2>() else { return };
    let Some((next_hop, attributes)) = rest.split_at_checked(usize::from(head[1])) else { return };
    out.extend_from_slice(head);
    out.extend_from_slice(next_hop);
    narrow(attributes, out);
}

/// An AS_PATH of two octets a number, and the AS4_PATH where one of its numbers needs it; `None`
/// for a malformed one.
fn narrow_path(value: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (mut two, mut four, mut large) = (Vec::with_capacity(value.len()), Vec::new(), false);
    for s in segments(value, 4) {
        let (kind, members) = s?;
        let numbers = members.as_chunks::<4>().0;
        two.extend_from_slice(&[kind, numbers.len() as u8]);
        for n in numbers {
            two.extend_from_slice(&u16::try_from(u32::from_be_bytes(*n)).unwrap_or(AS_TRANS).to_be_bytes());
        }
        // Segments of a confederation never stand in AS4_PATH (section 3).
        if matches!(kind, segment::AS_SET | segment::AS_SEQUENCE) {
            large |= numbers.iter().any(|n| u32::from_be_bytes(*n) > u32::from(u16::MAX));
            four.extend_from_slice(&[kind, numbers.len() as u8]);
            four.extend_from_slice(members);
        }
    }
    Some((two, large.then_some(four)))
}

/// The body of an UPDATE of a speaker with two octets, as one with four would have sent it. It must
/// have passed [`super::hygiene::check`]; `None` where it has not, or where the wider path does not
/// fit an attribute.
pub fn widen(body: &[u8]) -> Option<Vec<u8>> {
    let f = fields(body).ok()?;
    let all = || Attributes::new(f.attributes).map_while(Result::ok);
    let find = |code| all().find(move |a: &Attribute<'_>| a.code == code).map(|a| a.value);
    // Section 4.2.3: an AGGREGATOR that is its own says that somebody aggregated who knew nothing
    // of the longer ones.
    let own = find(attr::AGGREGATOR).is_some_and(|v| !v.starts_with(&AS_TRANS.to_be_bytes()));
    let (as4_path, as4_aggregator) = match own && find(attr::AS4_AGGREGATOR).is_some() {
        true => (None, None),
        false => (find(attr::AS4_PATH), find(attr::AS4_AGGREGATOR)),
    };
    let mut attributes = Vec::with_capacity(f.attributes.len() + 64);
    for a in all() {
        match a.code {
            attr::AS4_PATH | attr::AS4_AGGREGATOR => {}
            attr::AS_PATH => {
                let path = widen_path(a.value, as4_path);
                u16::try_from(path.len()).ok()?;
                put_attribute(a.flags & !flag::EXTENDED, a.code, &path, &mut attributes);
            }
            attr::AGGREGATOR => {
                let value = match (as4_aggregator, a.value) {
                    (Some(four), _) => four.to_vec(),
                    (None, two) => [&[0, 0], two].concat(),
                };
                put_attribute(a.flags & !flag::EXTENDED, a.code, &value, &mut attributes);
            }
            _ => attributes.extend_from_slice(a.raw),
        }
    }
    let mut whole = Vec::with_capacity(body.len() + attributes.len());
    for field in [f.withdrawn, &attributes[..]] {
        whole.extend_from_slice(&u16::try_from(field.len()).ok()?.to_be_bytes());
        whole.extend_from_slice(field);
    }
    whole.extend_from_slice(f.nlri);
    Some(whole)
}

/// How long a path counts (RFC 4271 section 9.1.2.2, RFC 5065 section 5.3).
fn count(value: &[u8], width: usize) -> usize {
    let of = |(kind, members): (u8, &[u8])| match kind {
        segment::AS_SEQUENCE => members.len() / width,
        segment::AS_SET => 1,
        _ => 0,
    };
    segments(value, width).map_while(|s| s).map(of).sum()
}

/// AS_PATH of two octets and AS4_PATH put together: as many numbers of the former in front as it is
/// longer.
fn widen_path(two: &[u8], four: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * two.len());
    let (long, tail) = match four.map(|four| (count(two, 2).checked_sub(count(four, 4)), four)) {
        Some((Some(more), four)) => (more, four),
        // A longer AS4_PATH is of another path.
        Some((None, _)) | None => (usize::MAX, &[][..]),
    };
    let mut left = long;
    for (kind, members) in segments(two, 2).map_while(|s| s) {
        let numbers = members.as_chunks::<2>().0;
        let taken = match kind {
            segment::AS_SEQUENCE => numbers.len().min(left),
            segment::AS_SET if left > 0 => numbers.len(),
            segment::AS_SET => 0,
            // Of a confederation: those that lead, and those next to one that was taken.
            _ => numbers.len(),
        };
        match kind {
            segment::AS_SEQUENCE => left -= taken,
            segment::AS_SET if left > 0 => left -= 1,
            _ => {}
        }
        if taken > 0 {
            out.extend_from_slice(&[kind, taken as u8]);
            numbers.iter().take(taken).for_each(|n| out.extend_from_slice(&[0, 0, n[0], n[1]]));
        }
        if taken < numbers.len() {
            break;
        }
    }
    for (kind, members) in segments(tail, 4).map_while(|s| s) {
        if matches!(kind, segment::AS_SET | segment::AS_SEQUENCE) {
            out.extend_from_slice(&[kind, (members.len() / 4) as u8]);
            out.extend_from_slice(members);
        }
    }
    out
}

#[cfg(test)]
#[path = "as2_tests.rs"]
mod tests;
