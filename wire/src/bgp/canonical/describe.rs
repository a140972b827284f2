//! Canonical routes in words.

use super::{Parts, segment, segments};
use crate::bgp::hex;
use crate::bgp::update::attr;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A canonical route in a person's words; what `virtctl`, events and `hv-replay` print.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RouteText {
    /// Next hop; `::` where there is only a link-local one.
    pub next_hop: IpAddr,
    /// Link-local next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_local: Option<Ipv6Addr>,
    /// `IGP`, `EGP` or `INCOMPLETE`; `none` where the attribute is missing, else its value in hex.
    pub origin: String,
    /// `64500 64501 {64502,64503}`, confederation segments as `(…)` and `[…]`. Empty for a route of
    /// the sender's own AS.
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

/// Describes a canonical route. `as4` as in [`super::UpdateContext`]. Never fails: what does not
/// have the expected form, a next hop of an odd length included, is shown in hex among
/// [`RouteText::other`].
pub fn describe(canonical: &[u8], as4: bool) -> RouteText {
    let mut text = RouteText {
        next_hop: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        link_local: None,
        origin: "none".to_owned(),
        as_path: String::new(),
        med: None,
        local_pref: None,
        communities: Vec::new(),
        large_communities: Vec::new(),
        other: Vec::new(),
    };
    let Some(parts) = Parts::new(canonical) else {
        text.other.push(format!("not a canonical route {}", hex(canonical)));
        return text;
    };
    match (<[u8; 4]>::try_from(parts.next_hop), <[u8; 16]>::try_from(parts.next_hop)) {
        (Ok(v4), _) => text.next_hop = IpAddr::V4(v4.into()),
        (_, Ok(v6)) => text.next_hop = IpAddr::V6(v6.into()),
        _ => text.other.push(named("NEXT_HOP", parts.next_hop)),
    }
    text.link_local = <[u8; 16]>::try_from(parts.link_local).ok().map(Ipv6Addr::from);
    for (_, code, value) in parts.attributes() {
        if !text.take(code, value, as4) {
            text.other.push(named(&attribute_name(code), value));
        }
    }
    text
}

impl RouteText {
    /// Puts an attribute into the field that is meant for it; `false` where there is none or the
    /// value has another form.
    fn take(&mut self, code: u8, value: &[u8], as4: bool) -> bool {
        match (code, value) {
            (attr::ORIGIN, _) => {
                self.origin = match value {
                    [0] => "IGP".to_owned(),
                    [1] => "EGP".to_owned(),
                    [2] => "INCOMPLETE".to_owned(),
                    _ => hex(value),
                }
            }
            (attr::AS_PATH, _) => match path_text(value, if as4 { 4 } else { 2 }) {
                Some(path) => self.as_path = path,
                None => return false,
            },
            (attr::MULTI_EXIT_DISC, &[a, b, c, d]) => self.med = Some(u32::from_be_bytes([a, b, c, d])),
            (attr::LOCAL_PREF, &[a, b, c, d]) => self.local_pref = Some(u32::from_be_bytes([a, b, c, d])),
            (attr::COMMUNITIES, _) if value.len().is_multiple_of(4) => {
                self.communities = value.as_chunks().0.iter().map(|c| community_text(*c)).collect();
            }
            (attr::LARGE_COMMUNITY, _) if value.len().is_multiple_of(12) => {
                self.large_communities = value.as_chunks().0.iter().map(large_community_text).collect();
            }
            _ => return false,
        }
        true
    }
}

fn named(name: &str, value: &[u8]) -> String {
    if value.is_empty() { name.to_owned() } else { format!("{name} {}", hex(value)) }
}

/// The RFC's name of a path attribute; `attribute 99` where none is known.
pub fn attribute_name(code: u8) -> String {
    let name = match code {
        attr::ORIGIN => "ORIGIN",
        attr::NEXT_HOP => "NEXT_HOP",
        attr::AS_PATH => "AS_PATH",
        attr::MULTI_EXIT_DISC => "MULTI_EXIT_DISC",
        attr::LOCAL_PREF => "LOCAL_PREF",
        attr::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        attr::AGGREGATOR => "AGGREGATOR",
        attr::COMMUNITIES => "COMMUNITIES",
        attr::ORIGINATOR_ID => "ORIGINATOR_ID",
        attr::CLUSTER_LIST => "CLUSTER_LIST",
        attr::EXTENDED_COMMUNITIES => "EXTENDED_COMMUNITIES",
        attr::AS4_PATH => "AS4_PATH",
        attr::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        attr::PMSI_TUNNEL => "PMSI_TUNNEL",
        attr::TUNNEL_ENCAP => "TUNNEL_ENCAP",
        attr::IPV6_EXTENDED_COMMUNITIES => "IPV6_EXTENDED_COMMUNITIES",
        attr::AIGP => "AIGP",
        attr::LARGE_COMMUNITY => "LARGE_COMMUNITY",
        attr::ONLY_TO_CUSTOMER => "ONLY_TO_CUSTOMER",
        attr::PREFIX_SID => "PREFIX_SID",
        attr::ATTR_SET => "ATTR_SET",
        _ => return format!("attribute {code}"),
    };
    name.to_owned()
}

fn path_text(value: &[u8], width: usize) -> Option<String> {
    let mut out = String::new();
    for s in segments(value, width) {
        let (kind, members) = s?;
        if !out.is_empty() {
            out.push(' ');
        }
        let (open, between, close) = match kind {
            segment::AS_SET => ("{", ",", "}"),
            segment::AS_CONFED_SEQUENCE => ("(", " ", ")"),
            segment::AS_CONFED_SET => ("[", ",", "]"),
            _ => ("", " ", ""),
        };
        out.push_str(open);
        for (i, member) in members.chunks(width).enumerate() {
            let asn = member.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b));
            let _ = write!(out, "{}{asn}", if i == 0 { "" } else { between });
        }
        out.push_str(close);
    }
    Some(out)
}

/// IANA "BGP Well-known Communities", as operators write them.
fn community_text(c: [u8; 4]) -> String {
    let name = match u32::from_be_bytes(c) {
        0xffff_0000 => "graceful-shutdown",
        0xffff_0001 => "accept-own",
        0xffff_0006 => "llgr-stale",
        0xffff_0007 => "no-llgr",
        0xffff_029a => "blackhole",
        0xffff_ff01 => "no-export",
        0xffff_ff02 => "no-advertise",
        0xffff_ff03 => "no-export-subconfed",
        0xffff_ff04 => "no-peer",
        n => return format!("{}:{}", n >> 16, n & 0xffff),
    };
    name.to_owned()
}

fn large_community_text(c: &[u8; 12]) -> String {
    let [n, a, b] = [0, 4, 8].map(|i| u32::from_be_bytes([c[i], c[i + 1], c[i + 2], c[i + 3]]));
    format!("{n}:{a}:{b}")
}

/// A one-line form of [`RouteText`] for events: `via 192.0.2.1 path 64500 64501 med 5`. Everything
/// that differs between two routes shows, so ORIGIN is named unless it is IGP.
impl fmt::Display for RouteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.link_local {
            Some(ll) if self.next_hop.is_unspecified() => write!(f, "via {ll}")?,
            Some(ll) => write!(f, "via {} and {ll}", self.next_hop)?,
            None => write!(f, "via {}", self.next_hop)?,
        }
        write!(f, " path {}", if self.as_path.is_empty() { "empty" } else { &self.as_path })?;
        if self.origin != "IGP" {
            write!(f, " origin {}", self.origin)?;
        }
        if let Some(med) = self.med {
            write!(f, " med {med}")?;
        }
        if let Some(local_pref) = self.local_pref {
            write!(f, " local-pref {local_pref}")?;
        }
        for (name, list) in [(" communities", &self.communities), (" large-communities", &self.large_communities)] {
            if !list.is_empty() {
                write!(f, "{name} {}", list.join(" "))?;
            }
        }
        self.other.iter().try_for_each(|o| write!(f, ", {o}"))
    }
}
