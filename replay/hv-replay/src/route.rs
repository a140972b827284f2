//! A route as it is read from a file, generated or typed, and how it is made fit for one session:
//! AS numbers in four octets until the session says two, a next hop, a path that starts with our
//! AS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use wire::bgp::message::AS_TRANS;
use wire::bgp::update::{Attributes, attr, flag};
use wire::bgp::{Prefix, SessionKind};

/// AS_PATH segment types (RFC 4271 section 4.3, RFC 5065 section 3).
#[allow(missing_docs)]
pub mod segment {
    pub const SET: u8 = 1;
    pub const SEQUENCE: u8 = 2;
}

/// One segment of an AS_PATH.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Segment {
    /// The segment type.
    pub kind: u8,
    /// Its AS numbers.
    pub asns: Vec<u32>,
}

/// An attribute carried as it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Raw {
    /// Type code.
    pub code: u8,
    /// Flags without the extended length bit.
    pub flags: u8,
    /// The value; AGGREGATOR's with a 4-octet AS.
    pub value: Vec<u8>,
}

/// What is announced for one or more prefixes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Route {
    /// The next hop, if the source names one.
    pub next_hop: Option<IpAddr>,
    /// The link-local one beside it.
    pub link_local: Option<Ipv6Addr>,
    /// AS_PATH; `None` where it is missing.
    pub path: Option<Vec<Segment>>,
    /// Everything else.
    pub other: Vec<Raw>,
}

/// Splits an AS_PATH's value; `None` where it does not add up.
fn segments(value: &[u8], as4: bool) -> Option<Vec<Segment>> {
    let width = if as4 { 4 } else { 2 };
    let mut out = Vec::new();
    let mut rest = value;
    while let [kind, count, tail @ ..] = rest {
        let octets = tail.get(..usize::from(*count) * width)?;
        let asn = |c: &[u8]| c.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
        out.push(Segment { kind: *kind, asns: octets.chunks_exact(width).map(asn).collect() });
        rest = tail.get(octets.len()..)?;
    }
    rest.is_empty().then_some(out)
}

/// How many AS numbers a path counts as (RFC 4271 section 9.1.2.2): a set is one.
fn hops(path: &[Segment]) -> usize {
    path.iter().map(|s| if s.kind == segment::SEQUENCE { s.asns.len() } else { 1 }).sum()
}

/// The path that AS_PATH (2-octet) and AS4_PATH mean together (RFC 6793 section 4.2.3).
fn merge(path: Vec<Segment>, path4: Vec<Segment>) -> Vec<Segment> {
    let Some(mut lead) = hops(&path).checked_sub(hops(&path4)) else { return path };
    let mut out = Vec::new();
    for mut s in path {
        if lead == 0 {
            break;
        }
        if s.kind == segment::SEQUENCE {
            s.asns.truncate(lead);
            lead -= s.asns.len();
        } else {
            lead -= 1;
        }
        out.push(s);
    }
    for s in path4 {
        match out.last_mut() {
            Some(last)
                if last.kind == s.kind && s.kind == segment::SEQUENCE && last.asns.len() + s.asns.len() < 256 =>
            {
                last.asns.extend(s.asns);
            }
            _ => out.push(s),
        }
    }
    out
}

impl Route {
    /// Reads a path attributes field. MP_REACH_NLRI and MP_UNREACH_NLRI are left out; the caller
    /// knows the next hop of the former. What cannot be understood is carried as it is.
    pub fn from_attributes(field: &[u8], as4: bool) -> Route {
        let mut route = Route::default();
        let mut path4 = None;
        for a in Attributes::new(field).flatten() {
            match (a.code, a.value) {
                (attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI, _) => continue,
                (attr::NEXT_HOP, &[a, b, c, d]) => {
                    route.next_hop = Some(Ipv4Addr::new(a, b, c, d).into());
                    continue;
                }
                (attr::AS_PATH, value) => {
                    route.path = segments(value, as4);
                    if route.path.is_some() {
                        continue;
                    }
                }
                (attr::AS4_PATH, value) if !as4 => {
                    path4 = segments(value, true);
                    continue;
                }
                (attr::AGGREGATOR, &[hi, lo, ..]) if !as4 && a.value.len() == 6 => {
                    let value = [&[0, 0, hi, lo], a.value.get(2..).unwrap_or_default()].concat();
                    route.put(a.code, a.flags, &value);
                    continue;
                }
                (attr::AS4_AGGREGATOR, value) if !as4 && value.len() == 8 => {
                    route.put(attr::AGGREGATOR, flag::OPTIONAL | flag::TRANSITIVE, value);
                    continue;
                }
                _ => {}
            }
            route.put(a.code, a.flags & !flag::EXTENDED, a.value);
        }
        if let (Some(path), Some(path4)) = (route.path.take_if(|_| path4.is_some()), path4) {
            route.path = Some(merge(path, path4));
        }
        route
    }

    /// Sets an attribute, in place of one with the same code.
    pub fn put(&mut self, code: u8, flags: u8, value: &[u8]) {
        self.other.retain(|raw| raw.code != code);
        self.other.push(Raw { code, flags, value: value.to_vec() });
    }

    /// The next hop field of MP_REACH_NLRI: 4, 16 or 32 octets; anything else is ignored.
    pub fn put_next_hop(&mut self, field: &[u8]) {
        let v6 =
            |from: usize| -> Option<Ipv6Addr> { Some(<[u8; 16]>::try_from(field.get(from..from + 16)?).ok()?.into()) };
        match field.len() {
            4 => self.next_hop = field.try_into().ok().map(|a: [u8; 4]| IpAddr::from(a)),
            16 => self.next_hop = v6(0).map(IpAddr::V6),
            32 => (self.next_hop, self.link_local) = (v6(0).map(IpAddr::V6), v6(16)),
            _ => {}
        }
    }
}

/// How routes are made fit for a session.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// Our AS.
    pub asn: u32,
    /// Our address on the session: the next hop of what we announce.
    pub local: IpAddr,
    /// Next hop for IPv4 routes instead of `local`.
    pub next_hop4: Option<Ipv4Addr>,
    /// Next hop for IPv6 routes instead of `local`.
    pub next_hop6: Option<Ipv6Addr>,
    /// Announce the next hop that the source names.
    pub keep_next_hop: bool,
    /// Announce the path that the source names.
    pub path: PathRewrite,
    /// The session uses 4-octet AS numbers.
    pub as4: bool,
    /// eBGP or iBGP.
    pub kind: SessionKind,
}

/// What becomes of the AS_PATH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathRewrite {
    /// Our AS is put in front unless it stands there.
    Prepend,
    /// Our AS takes the place of the first one.
    ReplaceFirst,
    /// Untouched.
    Keep,
}

impl Rewrite {
    /// The next hop for `prefix`; `None` where there is none of a family that can be sent.
    fn next_hop(&self, route: &Route, prefix: &Prefix) -> Option<IpAddr> {
        let v6 = prefix.addr().is_ipv6();
        // A loopback address is nobody's next hop; a session over loopback announces an address for
        // documentation.
        let local = match self.local {
            IpAddr::V4(a) if a.is_loopback() => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            IpAddr::V6(a) if a.is_loopback() => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            other => other,
        };
        let own = match local {
            // An IPv4-mapped address is what routers send for IPv6 routes on an IPv4 session
            // without an IPv6 address.
            IpAddr::V4(a) if v6 => IpAddr::V6(self.next_hop6.unwrap_or(a.to_ipv6_mapped())),
            IpAddr::V6(_) if v6 => self.next_hop6.map_or(local, IpAddr::V6),
            _ => self.next_hop4.map_or(local, IpAddr::V4),
        };
        let named = route.next_hop.filter(|_| self.keep_next_hop);
        Some(named.unwrap_or(own)).filter(|hop| hop.is_ipv6() == v6)
    }

    fn path(&self, route: &Route) -> Option<Vec<Segment>> {
        let mut path = route.path.clone()?;
        let first = path.first_mut().filter(|s| s.kind == segment::SEQUENCE && !s.asns.is_empty());
        match (self.path, self.kind, first) {
            (PathRewrite::Keep, ..) | (_, SessionKind::Ibgp, _) => {}
            (PathRewrite::ReplaceFirst, _, Some(s)) => s.asns[0] = self.asn,
            (_, _, Some(s)) if s.asns[0] == self.asn => {}
            (_, _, Some(s)) if s.asns.len() < 255 => s.asns.insert(0, self.asn),
            _ => path.insert(0, Segment { kind: segment::SEQUENCE, asns: vec![self.asn] }),
        }
        Some(path)
    }

    /// The block (as [`wire::bgp::encode::stored_attributes`] makes it) under which `route` is sent
    /// for `prefix` and others of its family; `None` where no next hop of that family is known.
    pub fn block(&self, route: &Route, prefix: &Prefix) -> Option<Vec<u8>> {
        let next_hop = self.next_hop(route, prefix)?;
        let mut attributes: Vec<Raw> = route.other.iter().filter_map(|raw| self.other(raw)).collect();
        let well_known = |code, value: Vec<u8>| Raw { code, flags: flag::TRANSITIVE, value };
        if let Some(path) = self.path(route) {
            let wide = path.iter().flat_map(|s| &s.asns).any(|asn| *asn > 0xffff);
            if wide && !self.as4 {
                let flags = flag::OPTIONAL | flag::TRANSITIVE;
                attributes.push(Raw { code: attr::AS4_PATH, flags, value: encode_path(&path, true) });
            }
            attributes.push(well_known(attr::AS_PATH, encode_path(&path, self.as4)));
        }
        if self.kind == SessionKind::Ibgp && !attributes.iter().any(|a| a.code == attr::LOCAL_PREF) {
            attributes.push(well_known(attr::LOCAL_PREF, 100u32.to_be_bytes().into()));
        }
        let mut block = match next_hop {
            IpAddr::V4(a) => {
                attributes.push(well_known(attr::NEXT_HOP, a.octets().into()));
                vec![0, 0]
            }
            IpAddr::V6(a) => {
                let link_local = route.link_local.filter(|_| self.keep_next_hop);
                let hop = [a.octets().as_slice(), link_local.map(|l| l.octets()).as_ref().map_or(&[], |l| l)].concat();
                [&[1, if hop.len() == 32 { 32 } else { 16 }], hop.as_slice()].concat()
            }
        };
        attributes.sort_by_key(|a| a.code);
        for a in &attributes {
            append(a, &mut block);
        }
        Some(block)
    }

    /// An attribute as this session may carry it. LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST stay
    /// within an AS.
    fn other(&self, raw: &Raw) -> Option<Raw> {
        let internal = [attr::LOCAL_PREF, attr::ORIGINATOR_ID, attr::CLUSTER_LIST].contains(&raw.code);
        if internal && self.kind == SessionKind::Ebgp && self.path != PathRewrite::Keep {
            return None;
        }
        let mut raw = raw.clone();
        if let (attr::AGGREGATOR, false, [a, b, c, d, rest @ ..]) = (raw.code, self.as4, raw.value.as_slice())
            && rest.len() == 4
        {
            let asn = u16::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(AS_TRANS);
            raw.value = [asn.to_be_bytes().as_slice(), rest].concat();
        }
        Some(raw)
    }
}

fn encode_path(path: &[Segment], as4: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in path.iter().flat_map(|s| s.asns.chunks(255).map(move |c| (s.kind, c))) {
        let (kind, asns) = chunk;
        out.extend([kind, u8::try_from(asns.len()).unwrap_or(255)]);
        for asn in asns {
            if as4 {
                out.extend(asn.to_be_bytes());
            } else {
                out.extend(u16::try_from(*asn).unwrap_or(AS_TRANS).to_be_bytes());
            }
        }
    }
    out
}

/// Appends an attribute's header and value.
fn append(raw: &Raw, out: &mut Vec<u8>) {
    let Ok(len) = u16::try_from(raw.value.len()) else { return };
    match u8::try_from(len) {
        Ok(len) => out.extend([raw.flags, raw.code, len]),
        Err(_) => {
            out.extend([raw.flags | flag::EXTENDED, raw.code]);
            out.extend(len.to_be_bytes());
        }
    }
    out.extend_from_slice(&raw.value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(as4: bool) -> Rewrite {
        Rewrite {
            asn: 64500,
            local: Ipv4Addr::new(192, 0, 2, 1).into(),
            next_hop4: None,
            next_hop6: None,
            keep_next_hop: false,
            path: PathRewrite::Prepend,
            as4,
            kind: SessionKind::Ebgp,
        }
    }

    fn sequence(asns: &[u32]) -> Segment {
        Segment { kind: segment::SEQUENCE, asns: asns.to_vec() }
    }

    #[test]
    fn a_wide_path_survives_a_narrow_session() {
        let mut route = Route { path: Some(vec![sequence(&[64499, 70_000, 1])]), ..Route::default() };
        route.put(attr::ORIGIN, flag::TRANSITIVE, &[0]);
        route.put(attr::AGGREGATOR, flag::OPTIONAL | flag::TRANSITIVE, &[0, 0, 0xfb, 0xf4, 1, 2, 3, 4]);
        let prefix: Prefix = "198.51.100.0/24".parse().expect("a prefix");
        for as4 in [false, true] {
            let block = rewrite(as4).block(&route, &prefix).expect("a block");
            assert_eq!(block[..2], [0, 0]);
            let back = Route::from_attributes(&block[2..], as4);
            assert_eq!(back.path, Some(vec![sequence(&[64500, 64499, 70_000, 1])]));
            assert_eq!(back.next_hop, Some(Ipv4Addr::new(192, 0, 2, 1).into()));
            assert_eq!(back.other, route.other);
        }
    }

    #[test]
    fn as4_path_fills_the_end_of_as_path() {
        let merged = merge(vec![sequence(&[1, 2, 23456, 4])], vec![sequence(&[70_000, 4])]);
        assert_eq!(merged, [sequence(&[1, 2, 70_000, 4])]);
        let longer = merge(vec![sequence(&[1])], vec![sequence(&[70_000, 4])]);
        assert_eq!(longer, [sequence(&[1])], "an AS4_PATH longer than the AS_PATH is ignored");
    }

    #[test]
    fn our_as_stands_first_once() {
        let prefix: Prefix = "198.51.100.0/24".parse().expect("a prefix");
        let path = |route: &Route, how| {
            let block = Rewrite { path: how, ..rewrite(true) }.block(route, &prefix).expect("a block");
            Route::from_attributes(&block[2..], true).path.expect("a path")
        };
        let route = |asns: &[u32]| Route { path: Some(vec![sequence(asns)]), ..Route::default() };
        assert_eq!(path(&route(&[64500, 5]), PathRewrite::Prepend), [sequence(&[64500, 5])]);
        assert_eq!(path(&route(&[7, 5]), PathRewrite::ReplaceFirst), [sequence(&[64500, 5])]);
        assert_eq!(path(&route(&[7, 5]), PathRewrite::Keep), [sequence(&[7, 5])]);
        assert_eq!(path(&Route { path: Some(vec![]), ..Route::default() }, PathRewrite::Prepend), [sequence(&[64500])]);
    }

    #[test]
    fn ipv6_needs_an_ipv6_next_hop() {
        let prefix: Prefix = "2001:db8::/32".parse().expect("a prefix");
        let block = rewrite(true).block(&Route::default(), &prefix).expect("a mapped next hop");
        assert_eq!(block[..2], [1, 16]);
        let v4: Prefix = "198.51.100.0/24".parse().expect("a prefix");
        let v6_session = Rewrite { local: "2001:db8::1".parse().expect("an address"), ..rewrite(true) };
        assert_eq!(v6_session.block(&Route::default(), &v4), None);
    }
}
