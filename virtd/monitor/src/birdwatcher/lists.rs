//! Routes in birdwatcher's form: those of a prefix, and those of a peer's table.

use super::tables::Table;
use super::{ago, peer_up};
use crate::watch::Snapshot;
use broker::words;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use virtd_api as api;

/// Octets that are made at once, and sent before there are more.
const PIECE: usize = 16 << 10;
/// Octets of an extended community (RFC 4360).
const EXTENDED: usize = 8;
/// Communities that virtd calls by name.
const WELL_KNOWN: [(&str, [u32; 2]); 9] = [
    ("graceful-shutdown", [65535, 0]),
    ("accept-own", [65535, 1]),
    ("llgr-stale", [65535, 6]),
    ("no-llgr", [65535, 7]),
    ("blackhole", [65535, 666]),
    ("no-export", [65535, 65281]),
    ("no-advertise", [65535, 65282]),
    ("no-export-subconfed", [65535, 65283]),
    ("no-peer", [65535, 65284]),
];

/// The routes that peers have sent for a prefix. How old each is virtd does not know: it is as old
/// as the session at most, which is what is said.
pub fn received(snapshot: &Snapshot, routes: &api::Routes) -> Value {
    let network = routes.prefix.as_deref().unwrap_or_default();
    let one = |r: &api::Received| {
        let age = ago(snapshot.wall, peer_up(snapshot, &r.peer));
        Some(entry(network, &r.peer, &r.peer, &age, r.route.as_ref()?))
    };
    Value::Array(routes.received.iter().filter_map(one).collect())
}

/// A route of the protocol `from`; `learnt_from` is empty where that is not known.
fn entry(network: &str, from: &str, learnt_from: &str, age: &str, route: &api::Route) -> Value {
    let next_hop = match route.link_local {
        Some(link_local) if route.next_hop.is_unspecified() => link_local.to_string(),
        _ => route.next_hop.to_string(),
    };
    json!({
        "network": network,
        "gateway": next_hop,
        "interface": "",
        "from_protocol": from,
        "learnt_from": learnt_from,
        "age": age,
        "metric": 100,
        "primary": false,
        "type": ["BGP", "univ"],
        "bgp": {
            "origin": route.origin,
            "as_path": ases(&route.as_path),
            "next_hop": next_hop,
            "local_pref": route.local_pref.map_or_else(String::new, |n| n.to_string()),
            "med": route.med.map_or_else(String::new, |n| n.to_string()),
            "communities": route.communities.iter().filter_map(|c| community(c)).collect::<Vec<_>>(),
            "large_communities": route.large_communities.iter().filter_map(|c| community(c)).collect::<Vec<_>>(),
            "ext_communities": route.other.iter().flat_map(|o| extended(o)).collect::<Vec<_>>(),
        },
    })
}

/// AS numbers alone, each as text; those of sets and confederations among them.
fn ases(path: &str) -> Vec<&str> {
    path.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect()
}

/// `64500:100` as numbers; none for what is no such thing.
fn community(text: &str) -> Option<Vec<u32>> {
    if let Some((_, numbers)) = WELL_KNOWN.iter().find(|(known, _)| *known == text) {
        return Some(numbers.to_vec());
    }
    text.split(':').map(|word| word.parse().ok()).collect()
}

/// The extended communities in `EXTENDED_COMMUNITIES 0002fbf400000064`, as BIRD writes them: `rt` (route
/// target) and `ro` (route origin) with their two numbers (RFC 4360 sections 3 to 5, RFC 5668), and
/// `generic` with the octets of any other.
fn extended(other: &str) -> Vec<[String; 3]> {
    let octets = other.strip_prefix("EXTENDED_COMMUNITIES ").and_then(wire::bgp::unhex).unwrap_or_default();
    let one = |&[high, low, a, b, c, d, e, f]: &[u8; EXTENDED]| {
        let (short, long) = (u16::from_be_bytes([a, b]), u32::from_be_bytes([a, b, c, d]));
        let (tail, last) = (u32::from_be_bytes([c, d, e, f]), u16::from_be_bytes([e, f]));
        let kind = match low {
            2 => "rt",
            3 => "ro",
            _ => "generic",
        };
        let numbers = match high {
            _ if kind == "generic" => None,
            0 => Some((short.to_string(), tail.to_string())),
            1 => Some((std::net::Ipv4Addr::from(long).to_string(), last.to_string())),
            2 => Some((long.to_string(), last.to_string())),
            _ => None,
        };
        let head = u32::from_be_bytes([high, low, a, b]);
        match numbers {
            Some((first, second)) => [kind.to_owned(), first, second],
            None => ["generic".to_owned(), format!("{head:#x}"), format!("{tail:#x}")],
        }
    };
    octets.as_chunks().0.iter().map(one).collect()
}

/// An answer with a whole table, made in pieces as they are sent, so that it costs no more memory
/// than the table and others are served meanwhile.
pub(crate) struct Pieces {
    table: Arc<Table>,
    from: String,
    learnt_from: String,
    age: String,
    /// What goes out next.
    out: String,
    at: usize,
    over: bool,
}

impl Pieces {
    /// `envelope`: what stands in every answer.
    pub fn new(envelope: Map<String, Value>, table: Arc<Table>, from: String, learnt_from: String) -> Pieces {
        let mut out = Value::Object(envelope).to_string();
        // The object is left open, and has always something in it.
        out.pop();
        out.push_str(",\"routes\":[");
        let age = ago(table.at, table.up_us);
        Pieces { table, from, learnt_from, age, out, at: 0, over: false }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        while self.out.len() < PIECE {
            let Some((prefix, route)) = self.table.routes.get(self.at) else {
                self.out.push_str("]}");
                self.over = true;
                break;
            };
            if self.at > 0 {
                self.out.push(',');
            }
            let route = words(route, self.table.as4);
            let entry = entry(&prefix.to_string(), &self.from, &self.learnt_from, &self.age, &route);
            self.out.push_str(&entry.to_string());
            self.at += 1;
        }
        Some(std::mem::take(&mut self.out).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_communities_are_those_of_bird() {
        let text = "EXTENDED_COMMUNITIES 0002fbf4000000640103c00002010007020200010000000a4300000000000001";
        let three = |words: [&str; 3]| words.map(str::to_owned);
        let wanted = [
            three(["rt", "64500", "100"]),
            three(["ro", "192.0.2.1", "7"]),
            three(["rt", "65536", "10"]),
            three(["generic", "0x43000000", "0x1"]),
        ];
        assert_eq!(extended(text), wanted);
        assert!(extended("AGGREGATOR 0000fde8c0000201").is_empty() && extended("EXTENDED_COMMUNITIES zz").is_empty());
    }
}
