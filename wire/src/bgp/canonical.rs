//! Canonical routes: the form in which what different daemons say about one prefix is compared
//! (docs/DECISIONS.md, "Vote on meaning, publish bytes once").
//!
//! A canonical route is a byte string; two routes mean the same where their strings are [`agrees`].
//!
//! ```text
//! +-----------+--------------+----------+------------+---------------------------------------+
//! | 1: 4|16   | next hop     | 1: 0|16  | link-local | attributes, ascending by code:        |
//! |           | (that many)  |          | (0|16)     | flags 1 | code 1 | length 2 | value … |
//! +-----------+--------------+----------+------------+---------------------------------------+
//! ```
//! **Next hop.** NEXT_HOP and the next hop of MP_REACH_NLRI are one thing: 4 octets are 4 octets
//! wherever they stood. Of 32 octets the second half is the link-local address; all zero counts as
//! absent. A link-local address that stands alone, as {LL}, {LL, LL}, {LL, ::} or {::, LL}, is 16
//! zero octets and the link-local address. Any other pair stays as it is, and so do IPv4-mapped
//! addresses. A field of another length (hygiene lets none pass) is held under its own length, up
//! to 255 octets, without a link-local address; it compares, and cannot be announced.
//!
//! **Left out** are NEXT_HOP, MP_REACH_NLRI, MP_UNREACH_NLRI; AS4_PATH and AS4_AGGREGATOR on a
//! 4-octet session (RFC 6793 section 4.1 has the receiver discard them); what the operator ignores,
//! though never ORIGIN and AS_PATH, without which there is no route to publish; and every attribute
//! but the first of a code (RFC 7606 section 3 g).
//!
//! **Flags.** The extended-length bit and the four unused bits are zero. For attributes whose RFC
//! fixes the flags they are the RFC's, so that a wrong flag cannot leave; PARTIAL is kept where it
//! has a meaning, on optional transitive ones.
//!
//! **Values.** In AS_PATH and AS4_PATH empty segments are dropped, neighbouring AS_SEQUENCEs are
//! merged and cut again into segments of 255 and one last shorter one (so the value is valid on the
//! wire as it stands), AS_CONFED_SEQUENCEs likewise; members of an AS_SET or AS_CONFED_SET are
//! sorted and freed of duplicates, as are COMMUNITIES, EXTENDED_COMMUNITIES,
//! IPV6_EXTENDED_COMMUNITIES and LARGE_COMMUNITY. AS numbers keep the width of the session (2
//! octets without the 4-octet AS capability). Everything else, CLUSTER_LIST too, is opaque; so is a
//! value of one of these attributes that does not have the form its RFC gives it.

mod agreement;
mod describe;
#[cfg(test)]
#[path = "canonical_properties.rs"]
mod properties;
#[cfg(test)]
#[path = "canonical_tests.rs"]
mod tests;

pub use agreement::{agrees, keeps_more, prefers, same_attribute};
pub use describe::{RouteText, attribute_name, describe};

use super::types::UpdateContext;
use super::update::{Attributes, Update, attr, flag};
use std::net::Ipv4Addr;

/// Octets before the value of an attribute in a canonical route.
pub(super) const ATTRIBUTE_HEADER: usize = 4;
/// Segment types of AS_PATH (RFC 4271 section 4.3, RFC 5065 section 3).
pub(crate) mod segment {
    pub const AS_SET: u8 = 1;
    pub const AS_SEQUENCE: u8 = 2;
    pub const AS_CONFED_SEQUENCE: u8 = 3;
    pub const AS_CONFED_SET: u8 = 4;
    /// The most AS numbers that a segment's count octet can tell.
    pub const SEGMENT_MAX: usize = 255;
}

/// What canonicalisation must know of the session a route is sent to.
#[derive(Clone, Debug)]
pub struct CanonicalContext {
    /// How the UPDATE is to be read.
    pub update: UpdateContext,
    /// The receiving peer's AS number: a path that holds it equals no route, unless `allow_own_as`.
    pub peer_as: u32,
    /// The confederation that the receiving peer and we are in (RFC 5065): a path that holds its
    /// identifier equals no route either, unless `allow_own_as`.
    pub confederation: Option<u32>,
    /// The receiving peer's router id: on iBGP, a route with it as ORIGINATOR_ID equals no route.
    pub peer_router_id: Ipv4Addr,
    /// The peer accepts paths with its own AS (allowas-in): no loop check of AS_PATH. ORIGINATOR_ID
    /// is checked even then.
    pub allow_own_as: bool,
    /// Attribute codes that are left out of the comparison and of what is published (a bit per
    /// code).
    pub ignore: AttributeSet,
}

/// A set of attribute type codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeSet([u64; 4]);

impl AttributeSet {
    /// Adds a code.
    pub fn insert(&mut self, code: u8) {
        self.0[usize::from(code >> 6)] |= 1 << (code & 63);
    }

    /// Whether the code is in the set.
    pub const fn contains(&self, code: u8) -> bool {
        self.0[(code >> 6) as usize] & (1 << (code & 63)) != 0
    }
}

/// Which of an UPDATE's announcements is meant: each has its own next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    /// The NLRI field at the message's end, with NEXT_HOP.
    Classic,
    /// MP_REACH_NLRI.
    MpReach,
}

/// Where one attribute's value stands in the attributes field.
#[derive(Clone, Copy, Debug)]
struct Entry {
    code: u8,
    flags: u8,
    start: usize,
    len: usize,
}

/// Turns the attributes of UPDATEs into canonical routes; keeps its buffers, so that nothing is
/// allocated in steady state.
#[derive(Debug, Default)]
pub struct Canonicaliser {
    entries: Vec<Entry>,
    out: Vec<u8>,
}

impl Canonicaliser {
    /// The canonical route that `update` announces for its `carried` prefixes; `None` where the
    /// peer must drop it as a loop. The update must have passed [`super::hygiene::check`] (pass or
    /// rewritten); anything malformed that is left is carried as opaque bytes, never a panic.
    pub fn route(&mut self, update: &Update<'_>, carried: Carried, context: &CanonicalContext) -> Option<&[u8]> {
        let classic_next_hop = self.index(update.attributes, context);
        let next_hop = match carried {
            Carried::Classic => classic_next_hop.unwrap_or_default(),
            Carried::MpReach => update.mp_reach.map_or(&[][..], |mp| mp.next_hop),
        };
        self.out.clear();
        write_next_hop(next_hop, &mut self.out);
        for e in &self.entries {
            let value = update.attributes.get(e.start..e.start + e.len).unwrap_or_default();
            if is_loop(e.code, value, context) {
                return None;
            }
            write_attribute(e, value, context.update.as4, &mut self.out);
        }
        Some(&self.out)
    }

    /// Notes where the attributes that belong into the route stand, ascending by code; returns
    /// NEXT_HOP's value.
    fn index<'a>(&mut self, attributes: &'a [u8], context: &CanonicalContext) -> Option<&'a [u8]> {
        self.entries.clear();
        let (mut seen, mut ascending, mut highest) = (AttributeSet::default(), true, 0u8);
        let (mut end, mut next_hop) = (0, None);
        for a in Attributes::new(attributes) {
            let Ok(a) = a else { break };
            end += a.raw.len();
            if seen.contains(a.code) {
                continue;
            }
            seen.insert(a.code);
            match a.code {
                attr::NEXT_HOP => next_hop = Some(a.value),
                code if is_left_out(code, context) => {}
                code => {
                    ascending &= code >= highest;
                    highest = code;
                    self.entries.push(Entry {
                        code,
                        flags: canonical_flags(a.flags, code),
                        start: end - a.value.len(),
                        len: a.value.len(),
                    });
                }
            }
        }
        if !ascending {
            self.entries.sort_unstable_by_key(|e| e.code);
        }
        next_hop
    }
}

fn is_left_out(code: u8, context: &CanonicalContext) -> bool {
    match code {
        attr::ORIGIN | attr::AS_PATH => false,
        attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI => true,
        attr::AS4_PATH | attr::AS4_AGGREGATOR if context.update.as4 => true,
        _ => context.ignore.contains(code),
    }
}

fn canonical_flags(flags: u8, code: u8) -> u8 {
    const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;
    match code {
        attr::ORIGIN | attr::AS_PATH | attr::LOCAL_PREF | attr::ATOMIC_AGGREGATE => flag::TRANSITIVE,
        attr::MULTI_EXIT_DISC | attr::ORIGINATOR_ID | attr::CLUSTER_LIST | attr::AIGP => flag::OPTIONAL,
        attr::AGGREGATOR
        | attr::COMMUNITIES
        | attr::EXTENDED_COMMUNITIES
        | attr::AS4_PATH
        | attr::AS4_AGGREGATOR
        | attr::IPV6_EXTENDED_COMMUNITIES
        | attr::LARGE_COMMUNITY
        | attr::ONLY_TO_CUSTOMER => OPTIONAL_TRANSITIVE | (flags & flag::PARTIAL),
        _ if flags & OPTIONAL_TRANSITIVE == OPTIONAL_TRANSITIVE => OPTIONAL_TRANSITIVE | (flags & flag::PARTIAL),
        _ => flags & OPTIONAL_TRANSITIVE,
    }
}

/// Whether the receiving peer must take this attribute as the sign of a loop (RFC 4271 section
/// 9.1.2, RFC 4456 section 8; RFC 5065 section 4: its member AS and its confederation's
/// identifier).
fn is_loop(code: u8, value: &[u8], context: &CanonicalContext) -> bool {
    match code {
        attr::AS_PATH if !context.allow_own_as => {
            let own = [Some(context.peer_as), context.confederation].into_iter().flatten();
            own.into_iter().any(|asn| match context.update.as4 {
                true => path_holds::<4>(value, asn.to_be_bytes()),
                false => u16::try_from(asn).is_ok_and(|asn| path_holds::<2>(value, asn.to_be_bytes())),
            })
        }
        attr::ORIGINATOR_ID if context.update.kind == super::SessionKind::Ibgp => {
            value == context.peer_router_id.octets()
        }
        _ => false,
    }
}

fn path_holds<const N: usize>(value: &[u8], asn: [u8; N]) -> bool {
    segments(value, N).map_while(|s| s).any(|(_, members)| members.as_chunks::<N>().0.contains(&asn))
}

/// The segments of an AS_PATH as (type, members); `None` once where the value does not have that
/// form, then the end.
pub(crate) fn segments(value: &[u8], width: usize) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = (|| {
            let (&kind, &count) = (rest.first()?, rest.get(1)?);
            let end = 2 + usize::from(count) * width;
            let known = (segment::AS_SET..=segment::AS_CONFED_SET).contains(&kind);
            Some((kind, rest.get(2..end).filter(|_| known)?, rest.get(end..)?))
        })();
        Some(match split {
            Some((kind, members, tail)) => {
                rest = tail;
                Some((kind, members))
            }
            None => {
                rest = &[];
                None
            }
        })
    })
}

fn write_next_hop(field: &[u8], out: &mut Vec<u8>) {
    const ZERO: [u8; 16] = [0; 16];
    let (global, link_local): (&[u8], &[u8]) = match field.len() {
        16 if is_link_local(field) => (&ZERO, field),
        32 => match field.split_at(16) {
            (a, b) if is_link_local(a) && (b == a || b == ZERO) => (&ZERO, a),
            (a, b) if b == ZERO => (a, &[]),
            pair => pair,
        },
        n => (field.get(..n.min(255)).unwrap_or_default(), &[]),
    };
    out.push(global.len() as u8);
    out.extend_from_slice(global);
    out.push(link_local.len() as u8);
    out.extend_from_slice(link_local);
}

/// Whether an IPv6 address is in fe80::/10 (RFC 4291 section 2.5.6).
pub(super) fn is_link_local(address: &[u8]) -> bool {
    matches!(address, [0xfe, second, ..] if second & 0xc0 == 0x80)
}

fn write_attribute(e: &Entry, value: &[u8], as4: bool, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[e.flags, e.code, 0, 0]);
    let body = out.len();
    match e.code {
        attr::AS_PATH => write_as_path(value, if as4 { 4 } else { 2 }, out),
        attr::AS4_PATH => write_as_path(value, 4, out),
        attr::COMMUNITIES => write_set::<4>(value, out),
        attr::EXTENDED_COMMUNITIES => write_set::<8>(value, out),
        attr::LARGE_COMMUNITY => write_set::<12>(value, out),
        attr::IPV6_EXTENDED_COMMUNITIES => write_set::<20>(value, out),
        _ => out.extend_from_slice(value),
    }
    // No value grows, and an attribute's length had at most 16 bits.
    let len = (out.len() - body) as u16;
    out[start + 2..body].copy_from_slice(&len.to_be_bytes());
}

/// Writes the members of a set of `N` octets each, sorted, each once; a value of another length as
/// it is.
fn write_set<const N: usize>(value: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(value);
    let (members, rest) = out[start..].as_chunks_mut::<N>();
    if !rest.is_empty() || members.is_sorted_by(|a, b| a < b) {
        return;
    }
    members.sort_unstable();
    let mut kept = 1;
    for i in 1..members.len() {
        if members[i] != members[kept - 1] {
            members[kept] = members[i];
            kept += 1;
        }
    }
    out.truncate(start + kept * N);
}

fn write_as_path(value: &[u8], width: usize, out: &mut Vec<u8>) {
    // Nearly every path is one AS_SEQUENCE.
    if let [segment::AS_SEQUENCE, count, members @ ..] = value
        && *count > 0
        && members.len() == usize::from(*count) * width
    {
        return out.extend_from_slice(value);
    }
    let start = out.len();
    // The sequence that the next one may continue: its type and where it starts in `out`.
    let mut open: Option<(u8, usize)> = None;
    for s in segments(value, width) {
        match s {
            None => {
                out.truncate(start);
                return out.extend_from_slice(value);
            }
            Some((_, [])) => {}
            Some((kind @ (segment::AS_SET | segment::AS_CONFED_SET), members)) => {
                write_as_set(kind, members, width, out);
                open = None;
            }
            Some((kind, members)) => open = Some((kind, write_sequence(kind, members, width, open, out))),
        }
    }
}

fn write_as_set(kind: u8, members: &[u8], width: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind, 0]);
    let start = out.len();
    match width {
        4 => write_set::<4>(members, out),
        _ => write_set::<2>(members, out),
    }
    out[start - 1] = ((out.len() - start) / width) as u8;
}

/// Appends `members` to the `open` sequence if it is of the same type, in new segments where it is
/// full; returns where the last one starts.
fn write_sequence(kind: u8, mut members: &[u8], width: usize, open: Option<(u8, usize)>, out: &mut Vec<u8>) -> usize {
    let mut at = open.filter(|o| o.0 == kind).map(|o| o.1);
    loop {
        let head = at.unwrap_or_else(|| {
            out.extend_from_slice(&[kind, 0]);
            out.len() - 2
        });
        let count = usize::from(out[head + 1]);
        let (now, later) = members.split_at(members.len().min((segment::SEGMENT_MAX - count) * width));
        out.extend_from_slice(now);
        out[head + 1] = (count + now.len() / width) as u8;
        if later.is_empty() {
            return head;
        }
        (members, at) = (later, None);
    }
}

/// A canonical route taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The next hop, 4 or 16 octets (another number where the message's was malformed).
    pub next_hop: &'a [u8],
    /// The link-local next hop: 16 octets, or none where there is no such address.
    pub link_local: &'a [u8],
    /// The attributes; [`Parts::attributes`] splits them.
    pub attribute_bytes: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Splits what [`Canonicaliser::route`] wrote; `None` for bytes that do not begin like a
    /// canonical route.
    pub fn new(canonical: &'a [u8]) -> Option<Parts<'a>> {
        let (&n, rest) = canonical.split_first()?;
        let (next_hop, rest) = rest.split_at_checked(usize::from(n))?;
        let (&n, rest) = rest.split_first()?;
        let (link_local, attribute_bytes) = rest.split_at_checked(usize::from(n))?;
        Some(Parts { next_hop, link_local, attribute_bytes })
    }

    /// The attributes as (flags, code, value), ascending by code. Ends early where the bytes are
    /// cut short.
    pub fn attributes(&self) -> impl Iterator<Item = (u8, u8, &'a [u8])> + Clone + use<'a> {
        let mut rest = self.attribute_bytes;
        std::iter::from_fn(move || {
            let (&[flags, code, high, low], tail) = rest.split_first_chunk::<ATTRIBUTE_HEADER>()?;
            let (value, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            rest = tail;
            Some((flags, code, value))
        })
    }
}
