//! The real kernel's links and addresses, as its thread reports them: what all virtual kernels
//! share.

use super::others::Others;
use crate::io::{Change, Link, OtherRoute};
use std::collections::BTreeMap;
use std::net::IpAddr;
use wire::bgp::Prefix;
use wire::netlink::consts::{RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, RTN_UNICAST, RTPROT_KERNEL};
use wire::netlink::fib::{FibKey, FibRoute};

/// The loopback interface's index in every network namespace.
pub const LOOPBACK: u32 = 1;
/// IPv4 prefixes this long have no broadcast address (RFC 3021).
const POINT_TO_POINT: u8 = 31;

/// The metric of the routes that Linux makes for IPv6 subnets (IP6_RT_PRIO_ADDRCONF).
const IPV6_SUBNET_METRIC: u32 = 256;

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Address {
    index: u32,
    address: IpAddr,
    length: u8,
}

/// What an IPv4 address is to the kernel's local table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Nature {
    /// Of this host, on the link with this index.
    Local(u32),
    /// A subnet's broadcast address, on the link with this index.
    Broadcast(u32),
    /// Neither.
    Other,
}

/// Links and addresses as they are now.
#[derive(Default, Debug)]
pub struct System {
    links: BTreeMap<u32, Link>,
    /// In the order in which they came: of two subnets that are the same, the kernel uses the
    /// older.
    addresses: Vec<Address>,
    /// Routes that are neither virtd's nor an instance's: those of the links' subnets among them.
    others: Others,
    /// Something may be there that is not known yet.
    doubted: bool,
    /// Times that any of it has changed.
    changes: u64,
}

impl System {
    /// Follows the kernel.
    pub fn apply(&mut self, news: &Change) {
        match news {
            Change::Link(link) => {
                let was = self.links.insert(link.index, link.clone());
                if was.is_some_and(|was| was.up) && !link.up {
                    self.drop_others(link.index, false, None);
                }
            }
            Change::LinkGone { index } => {
                self.links.remove(index);
                self.addresses.retain(|a| a.index != *index);
                self.drop_others(*index, true, None);
            }
            Change::Address { index, address, length } => {
                let new = Address { index: *index, address: *address, length: *length };
                if !self.addresses.contains(&new) {
                    self.addresses.push(new);
                }
            }
            Change::AddressGone { index, address, length } => {
                let old = Address { index: *index, address: *address, length: *length };
                self.addresses.retain(|a| *a != old);
                if address.is_ipv4() && !self.has_ipv4(*index) {
                    self.drop_others(*index, false, Some(*index));
                }
            }
            Change::Route { key, route, place } => self.others.add(*key, route.clone(), *place),
            Change::RouteGone { key, route } => self.others.remove(key, route),
            Change::Routes(all) => self.others.set(all.as_deref()),
        }
        self.changes += 1;
        if !self.others.is_complete() {
            self.guess();
        }
    }

    /// Shows a link as it is not, or as it is again. Nothing follows from that: all instances share
    /// what is known of it.
    pub fn pretend(&mut self, link: Link) {
        self.changes += 1;
        self.links.insert(link.index, link);
    }

    /// As long as the kernel's routes are not known, those of the subnets can be told from the
    /// addresses.
    fn guess(&mut self) {
        let mut all = Vec::new();
        for a in self.addresses.iter().filter(|a| self.is_up(a.index)) {
            let v6 = a.address.is_ipv6();
            let Some(prefix) = Prefix::new(a.address, a.length).filter(|p| p.len() < if v6 { 128 } else { 32 }) else {
                continue;
            };
            let route = OtherRoute {
                protocol: RTPROT_KERNEL,
                kind: RTN_UNICAST,
                scope: if v6 { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK },
                metric: if v6 { IPV6_SUBNET_METRIC } else { 0 },
                object: false,
                hops: vec![(a.index, false)],
            };
            all.push((FibKey { table: RT_TABLE_MAIN, prefix, tos: 0 }, route));
        }
        self.others.guess(&all);
    }

    /// The link, as it was, that this news is about.
    pub fn clone_link(&self, news: &Change) -> Option<Link> {
        match news {
            Change::Link(Link { index, .. }) | Change::LinkGone { index } => self.links.get(index).cloned(),
            _ => None,
        }
    }

    /// The route in words, with the names of interfaces that are known: `via 10.0.1.2 dev eth0
    /// weight 2, dev eth1`.
    pub fn describe(&self, route: &FibRoute) -> String {
        let text = route.to_string();
        let mut out = String::with_capacity(text.len());
        let mut parts = text.split("dev #");
        out.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let (index, rest) = part.split_at_checked(digits).unwrap_or(("", part));
            match index.parse().ok().and_then(|index| self.links.get(&index)) {
                Some(link) => out.push_str(&format!("dev {}{rest}", link.name)),
                None => out.push_str(&format!("dev #{part}")),
            }
        }
        if out.is_empty() && route.kind == RTN_UNICAST { "unicast".to_owned() } else { out }
    }

    /// A link, by its index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// Whether it is there and the operator wants it up.
    pub(crate) fn is_up(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.up)
    }

    /// Routes that are neither virtd's nor an instance's.
    pub(crate) fn others(&self) -> &Others {
        &self.others
    }

    /// Whether all routes that lead to gateways are known. Where they are not, a gateway with an
    /// interface is taken as it comes: daemons send one only where they believe it to be there, and
    /// the real kernel has the last word on what wins.
    pub(crate) fn is_certain(&self) -> bool {
        self.others.is_complete() && !self.doubted
    }

    /// See [`System::is_certain`].
    pub fn doubt(&mut self, doubted: bool) {
        self.changes += u64::from(doubted != self.doubted);
        self.doubted = doubted;
    }

    /// How often links, addresses, others' routes or what is known of them have changed: what was
    /// found out before may not hold then.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    fn drop_others(&mut self, index: u32, v6: bool, also_dead: Option<u32>) {
        let links = &self.links;
        let dead = |oif: u32| Some(oif) == also_dead || !links.get(&oif).is_some_and(|link| link.up);
        self.others.drop_dead(index, v6, dead);
    }

    /// Whether this host has the address, on any link or on that one.
    pub(crate) fn has_address(&self, address: IpAddr, on: Option<u32>) -> bool {
        let loopback = address == IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
        let here = |a: &Address| a.address == address && on.is_none_or(|index| index == a.index);
        loopback && on.is_none_or(|index| index == LOOPBACK) || self.addresses.iter().any(here)
    }

    /// Whether a link has any IPv4 address.
    pub(crate) fn has_ipv4(&self, index: u32) -> bool {
        self.addresses.iter().any(|a| a.index == index && a.address.is_ipv4())
    }

    /// What an IPv4 address is to this host, on any link or on that one.
    pub(crate) fn nature(&self, address: IpAddr, on: Option<u32>) -> Nature {
        let IpAddr::V4(v4) = address else { return Nature::Other };
        let wanted = |index: u32| on.is_none_or(|on| on == index);
        if v4.is_loopback() && wanted(LOOPBACK) {
            return Nature::Local(LOOPBACK);
        }
        let there = || self.addresses.iter().filter(|a| wanted(a.index) && self.is_up(a.index));
        if let Some(a) = there().find(|a| a.address == address) {
            return Nature::Local(a.index);
        }
        let broadcast = |a: &&Address| {
            let IpAddr::V4(own) = a.address else { return false };
            let host_bits = u32::MAX.checked_shr(u32::from(a.length)).unwrap_or(0);
            a.length < POINT_TO_POINT && v4.to_bits() == own.to_bits() | host_bits
        };
        there().find(broadcast).map_or(Nature::Other, |a| Nature::Broadcast(a.index))
    }
}
