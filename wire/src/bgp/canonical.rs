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
//! cleared. AS_SEQUENCE segments are merged (canonical form: maximal segments of up to 255 … see the code),
//! AS_SETs, COMMUNITIES, EXTENDED_COMMUNITIES, LARGE_COMMUNITY are sorted and freed of duplicates; CLUSTER_LIST keeps its order.

use super::types::{Prefix, UpdateContext};
use super::update::Update;
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
    // helper wire-B
}

impl Canonicaliser {
    /// The canonical route that `update` announces for its `carried` prefixes; `None` where the peer must drop it as a loop.
    /// The update must have passed [`super::hygiene::check`] (pass or rewritten); anything malformed that is left
    /// is carried as opaque bytes, never a panic.
    pub fn route(&mut self, update: &Update<'_>, carried: Carried, context: &CanonicalContext) -> Option<&[u8]> {
        let _ = (update, carried, context);
        todo!("helper wire-B")
    }
}

/// Whether two canonical routes mean the same: equal but for the link-local next hop, which agrees with an absent one.
pub fn agrees(a: &[u8], b: &[u8]) -> bool {
    let _ = (a, b);
    todo!("helper wire-B")
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
    let _ = (canonical, as4);
    todo!("helper wire-B")
}

/// A one-line form of [`RouteText`] for events: `via 192.0.2.1 path 64500 64501 med 5`.
impl std::fmt::Display for RouteText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let _ = f;
        todo!("helper wire-B")
    }
}

#[allow(unused)]
fn _uses(_: Prefix) {}
