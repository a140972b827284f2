//! The routes of all neighbours, and which is the best of each prefix.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use wire::bgp::Prefix;
use wire::bgp::update::{Attributes, attr, flag};

/// AS_PATH segment of the type AS_SEQUENCE (RFC 4271 section 4.3).
const SEQUENCE: u8 = 2;

/// A route as its sender said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// ORIGIN.
    origin: u8,
    /// AS_PATH, four octets an AS.
    path: Vec<u8>,
    /// What is passed on as it came: flags, code, value.
    other: Vec<(u8, u8, Vec<u8>)>,
    /// BGP identifier of its sender.
    router_id: Ipv4Addr,
}

impl Route {
    /// Reads a path attributes field; `None` where a mandatory attribute is missing or something is
    /// cut short.
    pub fn read(field: &[u8], router_id: Ipv4Addr) -> Option<Route> {
        let (mut origin, mut path, mut other) = (None, None, Vec::new());
        for attribute in Attributes::new(field) {
            let a = attribute.ok()?;
            match a.code {
                attr::ORIGIN => origin = a.value.first().copied(),
                attr::AS_PATH => path = Some(a.value.to_vec()),
                // Our own next hop takes the place of theirs; MED and LOCAL_PREF go no further than
                // one AS.
                attr::NEXT_HOP | attr::MULTI_EXIT_DISC | attr::LOCAL_PREF => {}
                code => other.push((a.flags & !flag::EXTENDED, code, a.value.to_vec())),
            }
        }
        Some(Route { origin: origin?, path: path?, other, router_id })
    }

    /// A route that nobody has sent, different for each number.
    pub fn made_up(number: u32) -> Route {
        let mut path = vec![SEQUENCE, 1];
        path.extend((64999_u32).to_be_bytes());
        let community = number.to_be_bytes().to_vec();
        let other = vec![(flag::OPTIONAL | flag::TRANSITIVE, attr::COMMUNITIES, community)];
        Route { origin: 0, path, other, router_id: Ipv4Addr::UNSPECIFIED }
    }

    /// Hops, an AS_SET counting as one (RFC 4271 section 9.1.2.2).
    fn hops(&self) -> usize {
        let (mut rest, mut hops) = (self.path.as_slice(), 0);
        while let [kind, count, tail @ ..] = rest {
            hops += if *kind == SEQUENCE { usize::from(*count) } else { 1 };
            rest = tail.get(usize::from(*count) * 4..).unwrap_or_default();
        }
        hops
    }

    /// The path attributes field of what a router with this AS number and address says to an eBGP
    /// neighbour.
    pub fn to_wire(&self, asn: u32, next_hop: Ipv4Addr) -> Vec<u8> {
        let mut all = vec![
            (flag::TRANSITIVE, attr::ORIGIN, vec![self.origin]),
            (flag::TRANSITIVE, attr::AS_PATH, self.prepended(asn)),
            (flag::TRANSITIVE, attr::NEXT_HOP, next_hop.octets().to_vec()),
        ];
        all.extend(self.other.iter().cloned());
        let mut field = Vec::new();
        for (flags, code, value) in all {
            match u8::try_from(value.len()) {
                Ok(len) => field.extend([flags, code, len]),
                Err(_) => {
                    let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
                    field.extend([flags | flag::EXTENDED, code, high, low]);
                }
            }
            field.extend(value);
        }
        field
    }

    fn prepended(&self, asn: u32) -> Vec<u8> {
        match self.path.as_slice() {
            [SEQUENCE, count, rest @ ..] if *count < u8::MAX => {
                let mut path = vec![SEQUENCE, count + 1];
                path.extend(asn.to_be_bytes());
                path.extend(rest);
                path
            }
            rest => {
                let mut path = vec![SEQUENCE, 1];
                path.extend(asn.to_be_bytes());
                path.extend(rest);
                path
            }
        }
    }
}

/// Who said what.
#[derive(Debug, Default)]
pub struct Rib {
    routes: BTreeMap<Prefix, BTreeMap<IpAddr, Route>>,
}

impl Rib {
    /// A neighbour announces (`Some`) or withdraws.
    pub fn set(&mut self, prefix: Prefix, from: IpAddr, route: Option<Route>) {
        let said = self.routes.entry(prefix).or_default();
        match route {
            Some(route) => {
                said.insert(from, route);
            }
            None => {
                said.remove(&from);
            }
        }
    }

    /// A neighbour's session has ended: nothing of it is passed on any more to sessions that come
    /// later.
    pub fn forget(&mut self, from: IpAddr) {
        self.routes.values_mut().for_each(|said| drop(said.remove(&from)));
    }

    /// The best route and who sent it: shortest path, lowest ORIGIN, lowest BGP identifier (RFC
    /// 4271 section 9.1.2.2).
    pub fn best(&self, prefix: &Prefix) -> Option<(IpAddr, &Route)> {
        let said = self.routes.get(prefix)?;
        let best = said.iter().min_by_key(|(_, route)| (route.hops(), route.origin, route.router_id));
        best.map(|(from, route)| (*from, route))
    }

    /// Every prefix that was ever heard of.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.routes.keys().copied()
    }
}
