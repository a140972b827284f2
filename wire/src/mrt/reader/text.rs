//! The text of `bgpdump -m`: one line to a route of a table dump.
//!
//! ```text
//! TABLE_DUMP2|unix time|B|peer|peer AS|prefix|AS path|origin|next hop|LOCAL_PREF|MED|communities|AG or NAG|aggregator|
//! TABLE_DUMP2_AP|unix time|B|peer|peer AS|prefix|path id|AS path|…
//! ```
//! The text says less than the binary form: LOCAL_PREF and MED of 0 stand for absent ones too and
//! are taken as absent, and only the attributes named here are in it.

use super::Route;
use crate::bgp::Prefix;
use crate::bgp::canonical::segment::{self, SEGMENT_MAX};
use crate::bgp::encode::put_attribute;
use crate::bgp::update::{attr, flag};
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// How a text dump begins, where a binary one has its first timestamp and type.
pub(super) const LINE_STARTS: &[u8] = b"TABLE_DUMP";

/// Reads one line.
pub(super) fn route(line: &[u8]) -> Result<Route, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "not text")?.trim_end();
    let mut fields = line.split('|');
    let mut next = || fields.next().ok_or("too few fields");
    let addpath = match next()? {
        "TABLE_DUMP" | "TABLE_DUMP2" => false,
        "TABLE_DUMP_AP" | "TABLE_DUMP2_AP" => true,
        _ => return Err("not a route of a table dump"),
    };
    let seconds = next()?.split('.').next().unwrap_or_default();
    let at_us = number::<u32>(seconds, "the time is not a number")?;
    if next()? != "B" {
        return Err("not a route of a table dump");
    }
    let peer: IpAddr = number(next()?, "the peer is not an address")?;
    let peer_as = number(next()?, "the peer's AS is not a number")?;
    let prefix: Prefix = number(next()?, "the prefix cannot be read")?;
    let path_id = if addpath { Some(number(next()?, "the path id is not a number")?) } else { None };

    let mut out = Vec::with_capacity(64);
    let path = as_path(next()?)?;
    let origin = match next()? {
        "IGP" => 0,
        "EGP" => 1,
        "INCOMPLETE" => 2,
        _ => return Err("the origin is none of IGP, EGP, INCOMPLETE"),
    };
    put(flag::TRANSITIVE, attr::ORIGIN, &[origin], &mut out)?;
    put(flag::TRANSITIVE, attr::AS_PATH, &path, &mut out)?;
    let mp_next_hop = match number(next()?, "the next hop is not an address")? {
        IpAddr::V4(a) => {
            put(flag::TRANSITIVE, attr::NEXT_HOP, &a.octets(), &mut out)?;
            Bytes::new()
        }
        IpAddr::V6(a) => Bytes::copy_from_slice(&a.octets()),
    };
    let local_pref: u32 = number(next()?, "LOCAL_PREF is not a number")?;
    let med: u32 = number(next()?, "MED is not a number")?;
    for (flags, code, value) in
        [(flag::OPTIONAL, attr::MULTI_EXIT_DISC, med), (flag::TRANSITIVE, attr::LOCAL_PREF, local_pref)]
    {
        if value != 0 {
            put(flags, code, &value.to_be_bytes(), &mut out)?;
        }
    }
    let communities = communities(next()?)?;
    match next()? {
        "AG" => put(flag::TRANSITIVE, attr::ATOMIC_AGGREGATE, &[], &mut out)?,
        "NAG" => {}
        _ => return Err("neither AG nor NAG"),
    }
    if let Some((asn, id)) = next()?.split_once(' ') {
        let asn: u32 = number(asn, "the aggregator's AS is not a number")?;
        let id: Ipv4Addr = number(id, "the aggregator is not an address")?;
        let value = [asn.to_be_bytes(), id.octets()].concat();
        put(flag::OPTIONAL | flag::TRANSITIVE, attr::AGGREGATOR, &value, &mut out)?;
    }
    if !communities.is_empty() {
        put(flag::OPTIONAL | flag::TRANSITIVE, attr::COMMUNITIES, &communities, &mut out)?;
    }
    let at_us = u64::from(at_us) * 1_000_000;
    Ok(Route { at_us, peer, peer_as, prefix, path_id, mp_next_hop, attributes: out.into() })
}

fn number<T: FromStr>(text: &str, otherwise: &'static str) -> Result<T, &'static str> {
    text.parse().map_err(|_| otherwise)
}

fn put(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    if value.len() > usize::from(u16::MAX) {
        return Err("an attribute of more than 65535 octets");
    }
    put_attribute(flags, code, value, out);
    Ok(())
}

/// `1 2 {3,4} (5 6) [7,8]`: sequence, set, confederation sequence, confederation set.
fn as_path(text: &str) -> Result<Vec<u8>, &'static str> {
    const UNREAD: &str = "the AS path cannot be read";
    let (mut out, mut rest) = (Vec::new(), text.trim());
    while let Some(first) = rest.chars().next() {
        let (kind, members, tail) = match first {
            '{' | '[' | '(' => {
                let (kind, close) = match first {
                    '{' => (segment::AS_SET, '}'),
                    '(' => (segment::AS_CONFED_SEQUENCE, ')'),
                    _ => (segment::AS_CONFED_SET, ']'),
                };
                let (members, tail) = rest.get(1..).and_then(|r| r.split_once(close)).ok_or(UNREAD)?;
                (kind, members, tail)
            }
            _ => {
                let (members, tail) = rest.split_at(rest.find(['{', '[', '(']).unwrap_or(rest.len()));
                (segment::AS_SEQUENCE, members, tail)
            }
        };
        let members = members.split([' ', ',']).filter(|m| !m.is_empty());
        let members: Vec<u32> = members.map(|m| number(m, UNREAD)).collect::<Result<_, _>>()?;
        for part in members.chunks(SEGMENT_MAX) {
            out.extend_from_slice(&[kind, part.len() as u8]);
            part.iter().for_each(|a| out.extend_from_slice(&a.to_be_bytes()));
        }
        rest = tail.trim_start();
    }
    Ok(out)
}

fn communities(text: &str) -> Result<Vec<u8>, &'static str> {
    const UNREAD: &str = "the communities cannot be read";
    let mut out = Vec::new();
    for c in text.split_ascii_whitespace() {
        let value: u32 = match c {
            "no-export" => 0xffff_ff01,
            "no-advertise" => 0xffff_ff02,
            "local-AS" => 0xffff_ff03,
            _ => {
                let (high, low) = c.split_once(':').ok_or(UNREAD)?;
                (number::<u16>(high, UNREAD)? as u32) << 16 | number::<u16>(low, UNREAD)? as u32
            }
        };
        out.extend_from_slice(&value.to_be_bytes());
    }
    Ok(out)
}
