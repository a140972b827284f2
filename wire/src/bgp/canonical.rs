//! Canonical routes: the form in which what different daemons say about one prefix is compared (DESIGN decision 5).
//!
//! A canonical route is a byte string; two routes mean the same where their strings are [`agrees`].
//!
//! ```text
//! +----------+--------------------+----------+-------------------+---------------------------------------+
//! | 1: 4|16  | next hop (4 or 16) | 1: 0|16  | link-local (0|16) | attributes, ascending by code:        |
//! |          | 16 zero octets for |          |                   | flags 1 | code 1 | length 2 | value … |
//! |          | a link-local alone |          |                   |                                       |
//! +----------+--------------------+----------+-------------------+---------------------------------------+
//! ```
//! NEXT_HOP, MP_REACH_NLRI and MP_UNREACH_NLRI are not among the attributes. Flags have the extended-length bit
//! cleared. Adjacent AS_SEQUENCE segments are merged into segments of 255 as long as they last, so that the value can stand in
//! an UPDATE as it is; AS_SETs and the community attributes are sorted and freed of duplicates; CLUSTER_LIST keeps its order.
//! Of an attribute that stands twice the first counts (RFC 7606 section 3.g).

use super::types::{SessionKind, UpdateContext};
use super::update::{Attributes, Update, attr, flag};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What canonicalisation must know of the session a route is sent to.
#[derive(Clone, Debug)]
pub struct CanonicalContext {
    /// How the UPDATE is to be read.
    pub update: UpdateContext,
    /// The receiving peer's AS number: a path that holds it equals no route, unless `allow_own_as`.
    pub peer_as: u32,
    /// The receiving peer's router id: on iBGP, a route with it as ORIGINATOR_ID equals no route.
    pub peer_router_id: Ipv4Addr,
    /// The peer accepts paths with its own AS (allowas-in): no loop check.
    pub allow_own_as: bool,
    /// Attribute codes that are left out of the comparison and of what is published (a bit per code).
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

/// Turns the attributes of UPDATEs into canonical routes; keeps its buffers, so that nothing is allocated in steady state.
#[derive(Debug, Default)]
pub struct Canonicaliser {
    out: Vec<u8>,
    /// (code, flags, start and end of the value in the message's attribute field), in the order of the message.
    found: Vec<(u8, u8, usize, usize)>,
    items: Vec<[u8; 20]>,
}

impl Canonicaliser {
    /// The canonical route that `update` announces for its `carried` prefixes; `None` where the peer must drop it as a loop.
    /// The update must have passed [`super::hygiene::check`] (pass or rewritten); anything malformed that is left
    /// is carried as opaque bytes, never a panic.
    pub fn route(&mut self, update: &Update<'_>, carried: Carried, context: &CanonicalContext) -> Option<&[u8]> {
        let field = update.attributes;
        self.out.clear();
        self.found.clear();
        let mut next_hop: &[u8] = update.mp_reach.map(|mp| mp.next_hop).filter(|_| carried == Carried::MpReach).unwrap_or_default();
        let mut end = 0;
        let mut sorted = true;
        for a in Attributes::new(field).flatten() {
            end += a.raw.len();
            let start = end - a.value.len();
            match a.code {
                attr::NEXT_HOP if carried == Carried::Classic && next_hop.is_empty() => next_hop = a.value,
                attr::NEXT_HOP | attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI => {}
                code if context.ignore.contains(code) => {}
                code => {
                    sorted &= self.found.last().is_none_or(|l| l.0 < code);
                    self.found.push((code, a.flags & !flag::EXTENDED, start, end));
                }
            }
        }
        if !sorted {
            self.found.sort_by_key(|f| f.0); // stable: of an attribute that stands twice the first stays in front
            self.found.dedup_by_key(|f| f.0);
        }
        push_next_hop(next_hop, &mut self.out);
        let as_size = if context.update.as4 { 4 } else { 2 };
        for (code, flags, start, end) in self.found.iter().copied() {
            let value = field.get(start..end).unwrap_or_default();
            self.out.extend_from_slice(&[flags, code, 0, 0]);
            let at = self.out.len();
            match code {
                attr::AS_PATH => {
                    if !context.allow_own_as && holds_as(value, as_size, context.peer_as) {
                        return None;
                    }
                    push_path(value, as_size, &mut self.items, &mut self.out);
                }
                attr::ORIGINATOR_ID
                    if context.update.kind == SessionKind::Ibgp && value == context.peer_router_id.octets() =>
                {
                    return None;
                }
                attr::COMMUNITIES => push_sorted(value, 4, &mut self.items, &mut self.out),
                attr::EXTENDED_COMMUNITIES => push_sorted(value, 8, &mut self.items, &mut self.out),
                attr::LARGE_COMMUNITY => push_sorted(value, 12, &mut self.items, &mut self.out),
                attr::IPV6_EXTENDED_COMMUNITIES => push_sorted(value, 20, &mut self.items, &mut self.out),
                _ => self.out.extend_from_slice(value),
            }
            // Sorting and merging only shrink, and a value came with a 16-bit length: it fits.
            let len = u16::try_from(self.out.len() - at).unwrap_or(u16::MAX).to_be_bytes();
            if let Some(field) = self.out.get_mut(at - 2..at) {
                field.copy_from_slice(&len);
            }
        }
        Some(&self.out)
    }
}

fn is_link_local(a: &[u8]) -> bool {
    matches!(a, [0xfe, b, ..] if b & 0xc0 == 0x80)
}

/// Writes the head of a canonical route. {LL}, {LL, LL} and {::, LL} are one (DESIGN decision 5).
fn push_next_hop(next_hop: &[u8], out: &mut Vec<u8>) {
    let none = [0u8; 16];
    let (global, link_local): (&[u8], &[u8]) = match next_hop.len() {
        16 if is_link_local(next_hop) => (&none, next_hop),
        32 => {
            let (global, ll) = next_hop.split_at(16);
            match () {
                () if !is_link_local(ll) => (global, &[]),
                () if is_link_local(global) => (&none, ll),
                () => (global, ll),
            }
        }
        _ => (next_hop, &[]),
    };
    out.push(global.len() as u8);
    out.extend_from_slice(global);
    out.push(link_local.len() as u8);
    out.extend_from_slice(link_local);
}

/// (segment type, AS numbers) of an AS_PATH value; ends early where a segment runs past the end.
fn segments(value: &[u8], as_size: usize) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = value;
    std::iter::from_fn(move || {
        let (&kind, &count) = (rest.first()?, rest.get(1)?);
        let n = usize::from(count) * as_size;
        let numbers = rest.get(2..2 + n)?;
        rest = rest.get(2 + n..)?;
        Some((kind, numbers))
    })
}

fn holds_as(value: &[u8], as_size: usize, asn: u32) -> bool {
    let wanted = asn.to_be_bytes();
    let Some(wanted) = wanted.get(4 - as_size..) else { return false };
    if as_size == 2 && asn > 0xffff {
        return false;
    }
    segments(value, as_size).any(|(_, numbers)| numbers.chunks_exact(as_size).any(|n| n == wanted))
}

const AS_SET: u8 = 1;
const AS_SEQUENCE: u8 = 2;
const AS_CONFED_SEQUENCE: u8 = 3;
const AS_CONFED_SET: u8 = 4;

/// Writes an AS_PATH value: sequences merged, sets sorted. A value that is no AS_PATH is copied.
fn push_path(value: &[u8], as_size: usize, items: &mut Vec<[u8; 20]>, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut seen = 0;
    // Where the segment being filled has its count, and of which kind it is.
    let mut open: Option<(u8, usize)> = None;
    for (kind, numbers) in segments(value, as_size) {
        seen += 2 + numbers.len();
        if numbers.is_empty() {
            continue;
        }
        if matches!(kind, AS_SET | AS_CONFED_SET) {
            open = None;
            let at = out.len();
            out.extend_from_slice(&[kind, 0]);
            push_sorted(numbers, as_size, items, out);
            let n = (out.len() - at - 2) / as_size;
            if let Some(count) = out.get_mut(at + 1) {
                *count = n as u8;
            }
            continue;
        }
        let mut rest = numbers;
        while !rest.is_empty() {
            let (at, used) = match open {
                Some((k, at)) if k == kind && out.get(at).is_some_and(|c| *c < 255) => (at, out.get(at).copied().unwrap_or(255)),
                _ => {
                    out.extend_from_slice(&[kind, 0]);
                    open = Some((kind, out.len() - 1));
                    (out.len() - 1, 0)
                }
            };
            let take = (rest.len() / as_size).min(255 - usize::from(used));
            let (now, later) = rest.split_at(take * as_size);
            out.extend_from_slice(now);
            if let Some(count) = out.get_mut(at) {
                *count = used + take as u8;
            }
            rest = later;
        }
    }
    if seen != value.len() {
        out.truncate(begin);
        out.extend_from_slice(value);
    }
}

/// Writes fixed-size items sorted and without duplicates; a value of another length is copied.
fn push_sorted(value: &[u8], size: usize, items: &mut Vec<[u8; 20]>, out: &mut Vec<u8>) {
    let chunks = value.chunks_exact(size);
    let in_order = || value.chunks_exact(size).zip(value.chunks_exact(size).skip(1)).all(|(a, b)| a < b);
    if !chunks.remainder().is_empty() || in_order() {
        return out.extend_from_slice(value);
    }
    items.clear();
    for c in chunks {
        let mut item = [0u8; 20];
        if let Some(room) = item.get_mut(..size) {
            room.copy_from_slice(c);
        }
        items.push(item);
    }
    items.sort_unstable();
    items.dedup();
    for item in items.iter() {
        out.extend_from_slice(item.get(..size).unwrap_or_default());
    }
}

/// A canonical route taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// 4 or 16 octets; 16 zero octets for a link-local address alone.
    pub next_hop: &'a [u8],
    /// 16 octets, or none.
    pub link_local: &'a [u8],
    /// Attributes, each `flags, code, length (2), value`.
    pub attributes: &'a [u8],
}

/// Takes a canonical route apart; `None` where the bytes are none.
pub fn parts(canonical: &[u8]) -> Option<Parts<'_>> {
    let n = usize::from(*canonical.first()?);
    let next_hop = canonical.get(1..1 + n)?;
    let rest = canonical.get(1 + n..)?;
    let m = usize::from(*rest.first()?);
    Some(Parts { next_hop, link_local: rest.get(1..1 + m)?, attributes: rest.get(1 + m..)? })
}

/// The attributes of [`Parts::attributes`]: (flags, code, value).
pub fn attributes(field: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    let mut rest = field;
    std::iter::from_fn(move || {
        let [flags, code, a, b] = *rest.first_chunk::<4>()?;
        let n = usize::from(u16::from_be_bytes([a, b]));
        let value = rest.get(4..4 + n)?;
        rest = rest.get(4 + n..)?;
        Some((flags, code, value))
    })
}

/// Whether two canonical routes mean the same: equal but for the link-local next hop, which agrees with an absent one.
pub fn agrees(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (Some(a), Some(b)) = (parts(a), parts(b)) else { return false };
    let link_locals = a.link_local.is_empty() || b.link_local.is_empty() || a.link_local == b.link_local;
    link_locals && a.next_hop == b.next_hop && a.attributes == b.attributes
}

/// A canonical route in a person's words; what `virtctl`, events and `hv-replay` print.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RouteText {
    /// Next hop.
    pub next_hop: IpAddr,
    /// Link-local next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_local: Option<Ipv6Addr>,
    /// `IGP`, `EGP` or `INCOMPLETE`.
    pub origin: String,
    /// `64500 64501 {64502,64503}`, confederation segments as `(…)` and `[…]`.
    pub as_path: String,
    /// MULTI_EXIT_DISC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// LOCAL_PREF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// `64500:100`, well-known ones by their name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// `64500:1:2`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<String>,
    /// Everything else, by name where it has one, value in hex: `AGGREGATOR 0000fde8c0000201`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<String>,
}

/// Describes a canonical route. `as4` as in [`UpdateContext`].
pub fn describe(canonical: &[u8], as4: bool) -> RouteText {
    let p = parts(canonical).unwrap_or(Parts { next_hop: &[], link_local: &[], attributes: &[] });
    let mut text = RouteText {
        next_hop: address(p.next_hop),
        link_local: <[u8; 16]>::try_from(p.link_local).ok().map(Ipv6Addr::from),
        origin: String::new(),
        as_path: String::new(),
        med: None,
        local_pref: None,
        communities: Vec::new(),
        large_communities: Vec::new(),
        other: Vec::new(),
    };
    for (flags, code, value) in attributes(p.attributes) {
        let number = <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes);
        match (code, number, value) {
            (attr::ORIGIN, _, [v]) => {
                text.origin = ["IGP", "EGP", "INCOMPLETE"].get(usize::from(*v)).map_or_else(|| v.to_string(), |s| (*s).to_owned());
            }
            (attr::AS_PATH, ..) => text.as_path = path_words(value, if as4 { 4 } else { 2 }),
            (attr::MULTI_EXIT_DISC, Some(n), _) => text.med = Some(n),
            (attr::LOCAL_PREF, Some(n), _) => text.local_pref = Some(n),
            (attr::COMMUNITIES, _, v) if v.len() % 4 == 0 => text.communities = v.chunks_exact(4).map(community).collect(),
            (attr::LARGE_COMMUNITY, _, v) if v.len() % 12 == 0 => {
                let word = |c: &[u8]| c.try_into().map(u32::from_be_bytes).unwrap_or_default().to_string();
                text.large_communities = v.chunks_exact(12).map(|c| c.chunks_exact(4).map(word).collect::<Vec<_>>().join(":")).collect();
            }
            _ => text.other.push(opaque(flags, code, value)),
        }
    }
    text
}

fn address(octets: &[u8]) -> IpAddr {
    match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
        (Ok(v4), _) => IpAddr::V4(v4.into()),
        (_, Ok(v6)) => IpAddr::V6(v6.into()),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

fn path_words(value: &[u8], as_size: usize) -> String {
    let mut words = Vec::new();
    for (kind, numbers) in segments(value, as_size) {
        let list: Vec<String> =
            numbers.chunks_exact(as_size).map(|c| c.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)).to_string()).collect();
        words.push(match kind {
            AS_SEQUENCE => list.join(" "),
            AS_SET => format!("{{{}}}", list.join(",")),
            AS_CONFED_SEQUENCE => format!("({})", list.join(" ")),
            AS_CONFED_SET => format!("[{}]", list.join(",")),
            other => format!("type{other}<{}>", list.join(" ")),
        });
    }
    words.join(" ")
}

/// Well-known communities by their IANA names.
fn community(c: &[u8]) -> String {
    let (high, low) = match *c {
        [a, b, c, d] => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => return String::new(),
    };
    match (high, low) {
        (0xffff, 0x0000) => "graceful-shutdown".into(),
        (0xffff, 0x0006) => "llgr-stale".into(),
        (0xffff, 0x0007) => "no-llgr".into(),
        (0xffff, 0x029a) => "blackhole".into(),
        (0xffff, 0xff01) => "no-export".into(),
        (0xffff, 0xff02) => "no-advertise".into(),
        (0xffff, 0xff03) => "no-export-subconfed".into(),
        (0xffff, 0xff04) => "no-peer".into(),
        _ => format!("{high}:{low}"),
    }
}

fn opaque(flags: u8, code: u8, value: &[u8]) -> String {
    let mut text = match code {
        attr::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE".to_owned(),
        attr::AGGREGATOR => "AGGREGATOR".to_owned(),
        attr::ORIGINATOR_ID => "ORIGINATOR_ID".to_owned(),
        attr::CLUSTER_LIST => "CLUSTER_LIST".to_owned(),
        attr::EXTENDED_COMMUNITIES => "EXTENDED_COMMUNITIES".to_owned(),
        attr::AS4_PATH => "AS4_PATH".to_owned(),
        attr::AS4_AGGREGATOR => "AS4_AGGREGATOR".to_owned(),
        attr::PMSI_TUNNEL => "PMSI_TUNNEL".to_owned(),
        attr::TUNNEL_ENCAP => "TUNNEL_ENCAP".to_owned(),
        attr::AIGP => "AIGP".to_owned(),
        attr::ONLY_TO_CUSTOMER => "ONLY_TO_CUSTOMER".to_owned(),
        attr::PREFIX_SID => "PREFIX_SID".to_owned(),
        attr::ATTR_SET => "ATTR_SET".to_owned(),
        code => format!("attribute {code} flags {flags:#04x}"),
    };
    if !value.is_empty() {
        text.push(' ');
    }
    for b in value {
        let _ = write!(text, "{b:02x}");
    }
    text
}

/// A one-line form of [`RouteText`] for events: `via 192.0.2.1 path 64500 64501 med 5`.
impl fmt::Display for RouteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "via {}", self.next_hop)?;
        if let Some(ll) = self.link_local {
            write!(f, " and {ll}")?;
        }
        write!(f, " path {} origin {}", if self.as_path.is_empty() { "(empty)" } else { &self.as_path }, self.origin)?;
        if let Some(med) = self.med {
            write!(f, " med {med}")?;
        }
        if let Some(p) = self.local_pref {
            write!(f, " local-pref {p}")?;
        }
        for (name, list) in [("communities", &self.communities), ("large", &self.large_communities), ("with", &self.other)] {
            if !list.is_empty() {
                write!(f, " {name} {}", list.join(if name == "with" { ", " } else { " " }))?;
            }
        }
        Ok(())
    }
}
