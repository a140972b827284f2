//! What a route means: the candidate that instances vote on in the FIB (docs/DECISIONS.md, "A
//! virtual kernel for each instance").
//!
//! | of a route | compared | written to the kernel |
//! |---|---|---|
//! | table, TOS, prefix | they are the key, [`FibKey`] | yes |
//! | type (unicast, blackhole, unreachable …) | yes | yes |
//! | next hops: gateway, interface, share of the traffic, tunnel | yes, as a set | yes |
//! | preferred source address | yes | yes |
//! | metrics (RTAX_*: MTU …) | yes | yes |
//! | the onlink flag of a next hop | no | yes |
//! | protocol, metric, scope, nexthop ids, other flags | no | virtd's own, or what follows from the rest |
//! | realm, expiry, RFC 4191 preference, unknown attributes | no | no |
//!
//! What one instance could put into the kernel alone would not be voted on, so what is written is
//! compared. That is why the preferred source counts, although no forwarded packet is treated by
//! it: a wrong one changes the source address of everything this host sends. Onlink is the
//! exception: it only says that the kernel need not check the gateway, which is compared; daemons
//! differ in when they set it; and without it the kernel may refuse the route.
//!
//! Next hops are a set with shares: order does not matter, a hop that stands twice has the sum of
//! its weights, weights have no common divisor, so a single hop has always weight 1. A route that
//! drops what comes has no hops, source or metrics (IPv6 routes of that kind come with the loopback
//! interface; a blackhole nexthop object is the same as a blackhole route). How IPv6 multipath was
//! said, as RTA_MULTIPATH or route by route, is gone after [`FibRoute::merge`].

mod bytes;
mod encode;

pub use encode::{EncodedRoute, encode_delete, encode_route, to_message};

use super::attr::{Encap, RawAttr};
use super::consts::*;
use super::nexthop::NexthopMessage;
use super::route::{PathHop, RouteMessage};
use crate::bgp::Prefix;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Most next hops of a route: above FRR's limit of 256, and below what an RTA_MULTIPATH attribute
/// can hold.
pub const MAX_HOPS: usize = 1024;

/// Why a route cannot be a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FibError {
    /// Neither IPv4 nor IPv6.
    #[error("address family {family} has no FIB here")]
    Family {
        /// AF_*.
        family: u8,
    },
    /// A type of service in IPv6, where the kernel has none.
    #[error("IPv6 routes have no type of service")]
    Tos,
    /// A type that no route can have, or none at all.
    #[error("route type {kind} is invalid")]
    Kind {
        /// RTN_*.
        kind: u8,
    },
    /// Next hops beside an RTA_MULTIPATH, or for an IPv4 route that drops.
    #[error("gateway, device and multipath do not go together or with this route type")]
    HopConflict,
    /// An IPv6 route for some sources only; virtd does not vote on these.
    #[error("source-specific routes are not supported")]
    SourcePrefix,
    /// An IPv4 destination with bits set beyond its length. (IPv6's are cut off, as the kernel
    /// does.)
    #[error("invalid prefix for given prefix length")]
    HostBits,
    /// No nexthop object of this id.
    #[error("nexthop id {id} does not exist")]
    UnknownNexthop {
        /// RTA_NH_ID, or a member of the group it names.
        id: u32,
    },
    /// A nexthop object that this route cannot use: for the bridge, of IPv4 for an IPv6 route, or a
    /// group in a group.
    #[error("nexthop id {id} cannot be used by this route")]
    WrongNexthop {
        /// The object.
        id: u32,
    },
    /// An IPv6 route with an IPv4 gateway, or the gateway `::`.
    #[error("invalid gateway address")]
    Gateway,
    /// A route that forwards, without gateway and interface.
    #[error("a next hop has neither gateway nor interface")]
    NoNextHop,
    /// More than [`MAX_HOPS`].
    #[error("more than {MAX_HOPS} next hops")]
    TooManyHops,
}

impl FibError {
    /// The errno to answer with, positive: the kernel's own where it would refuse the route too.
    pub const fn errno(self) -> i32 {
        match self {
            FibError::Family { .. } | FibError::SourcePrefix => libc::EOPNOTSUPP,
            FibError::NoNextHop => libc::ENODEV,
            FibError::TooManyHops => libc::E2BIG,
            _ => libc::EINVAL,
        }
    }
}

/// What a FIB entry is found by. Metrics are not in it: of each instance's routes the lowest metric
/// counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibKey {
    /// The routing table, RT_TABLE_MAIN where a message leaves it open.
    pub table: u32,
    /// Destination.
    pub prefix: Prefix,
    /// Type of service, 0 in IPv6.
    pub tos: u8,
}

impl FibKey {
    /// The key of a new, deleted or asked-for route.
    ///
    /// # Errors
    /// Other families, IPv6 source prefixes (in IPv4 nothing looks at them), IPv6 types of service,
    /// IPv4 host bits.
    pub fn from_message(message: &RouteMessage) -> Result<FibKey, FibError> {
        let family = message.family;
        let any: IpAddr = match family {
            AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            AF_INET6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            _ => return Err(FibError::Family { family }),
        };
        if family == AF_INET6 && message.src_len != 0 {
            return Err(FibError::SourcePrefix);
        }
        if family == AF_INET6 && message.tos != 0 {
            return Err(FibError::Tos);
        }
        let address = message.dst.unwrap_or(any);
        let prefix = Prefix::new(address, message.dst_len).ok_or(FibError::HostBits)?;
        if address.is_ipv4() && prefix.addr() != address {
            return Err(FibError::HostBits);
        }
        let table = if message.table == RT_TABLE_UNSPEC { RT_TABLE_MAIN } else { message.table };
        Ok(FibKey { table, prefix, tos: message.tos })
    }

    /// AF_INET or AF_INET6.
    pub fn family(&self) -> u8 {
        if self.prefix.addr().is_ipv6() { AF_INET6 } else { AF_INET }
    }
}

impl fmt::Display for FibKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        if self.tos != 0 {
            write!(f, " tos {:#04x}", self.tos)?;
        }
        if self.table != RT_TABLE_MAIN { write!(f, " table {}", self.table) } else { Ok(()) }
    }
}

impl fmt::Debug for FibKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One next hop. The order of the fields is the order in which hops are sorted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibHop {
    /// The gateway, of either family; none for a destination on the link.
    pub gateway: Option<IpAddr>,
    /// Interface index. An instance that left it out means what the kernel would find: the virtual
    /// kernel fills it in.
    pub oif: Option<u32>,
    /// The tunnel, compared octet by octet as it was sent.
    pub encap: Option<Encap>,
    /// Share of the traffic, from 1.
    pub weight: u32,
    /// The kernel need not check that the gateway is on the link. Not compared.
    pub onlink: bool,
}

impl FibHop {
    fn is_same_way(&self, other: &FibHop) -> bool {
        (self.gateway, self.oif, &self.encap) == (other.gateway, other.oif, &other.encap)
    }
}

/// What a route does with the packets that match it. `==` compares the fields as they stand; what
/// is voted on is the canonical form, [`FibRoute::to_bytes`] and [`FibRoute::compared`], or
/// [`FibRoute::agrees`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FibRoute {
    /// RTN_*.
    pub kind: u8,
    /// Source address for packets of this host.
    pub prefsrc: Option<IpAddr>,
    /// RTAX_*.
    pub metrics: Vec<RawAttr>,
    /// The next hops, weights as they were said.
    pub hops: Vec<FibHop>,
}

/// Whether a route of this type drops what matches or looks on in the next table, so that next hops
/// mean nothing.
pub const fn is_reject(kind: u8) -> bool {
    matches!(kind, RTN_BLACKHOLE | RTN_UNREACHABLE | RTN_PROHIBIT | RTN_THROW)
}

/// IPv4's 0.0.0.0 is no gateway.
fn real_gateway(gateway: Option<IpAddr>) -> Option<IpAddr> {
    gateway.filter(|&address| address != IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

impl FibRoute {
    /// What a new route means. `resolve` knows the nexthop objects of whoever sent it. Where it
    /// does not know the id, the hops beside it count (the kernel shows both in its own messages);
    /// an instance that sends both is for the virtual kernel to refuse, as the kernel would
    /// (EINVAL).
    ///
    /// # Errors
    /// Nexthop objects that are not there or do not fit, hops that lead nowhere, too many of them.
    pub fn from_message<'a>(
        message: &RouteMessage,
        resolve: impl Fn(u32) -> Option<&'a NexthopMessage>,
    ) -> Result<FibRoute, FibError> {
        let metrics = message.metrics.clone();
        let mut route = FibRoute { kind: message.kind, prefsrc: message.prefsrc, metrics, hops: Vec::new() };
        let inline = message.gateway.is_some() || message.oif.is_some() || !message.multipath.is_empty();
        let id = message.nh_id.filter(|&id| id != 0);
        if !(RTN_UNICAST..=RTN_THROW).contains(&message.kind) {
            return Err(FibError::Kind { kind: message.kind });
        }
        let single = message.gateway.is_some() || message.oif.is_some();
        let drops_with_hops = message.family == AF_INET && is_reject(message.kind) && id.is_none() && inline;
        if drops_with_hops || single && !message.multipath.is_empty() {
            return Err(FibError::HopConflict);
        }
        match id.map(|id| (id, resolve(id))) {
            _ if is_reject(route.kind) => {}
            Some((id, Some(nexthop))) => route.resolve(id, nexthop, message.family, &resolve)?,
            Some((id, None)) if !inline => return Err(FibError::UnknownNexthop { id }),
            _ if !message.multipath.is_empty() => {
                route.hops.extend(message.multipath.iter().take(MAX_HOPS + 1).map(hop_of_path));
            }
            _ => route.hops.push(FibHop {
                gateway: real_gateway(message.gateway),
                oif: message.oif.filter(|&index| index != 0),
                encap: message.encap.clone(),
                weight: 1,
                onlink: message.flags & u32::from(RTNH_F_ONLINK) != 0,
            }),
        }
        route.check(message.family)?;
        Ok(route)
    }

    /// Takes the hops of a nexthop object; of a group, those of its members.
    fn resolve<'a>(
        &mut self,
        id: u32,
        nexthop: &NexthopMessage,
        family: u8,
        resolve: &impl Fn(u32) -> Option<&'a NexthopMessage>,
    ) -> Result<(), FibError> {
        if nexthop.group.is_empty() {
            return self.resolve_one(id, nexthop, family, 1);
        }
        for entry in nexthop.group.iter().take(MAX_HOPS + 1) {
            let id = entry.id;
            let member = resolve(id).ok_or(FibError::UnknownNexthop { id })?;
            self.resolve_one(id, member, family, u32::from(entry.weight))?;
        }
        Ok(())
    }

    fn resolve_one(&mut self, id: u32, nexthop: &NexthopMessage, family: u8, weight: u32) -> Result<(), FibError> {
        let is_group = !nexthop.group.is_empty();
        if nexthop.fdb || is_group || (family, nexthop.family) == (AF_INET6, AF_INET) {
            return Err(FibError::WrongNexthop { id });
        }
        if nexthop.blackhole {
            self.kind = RTN_BLACKHOLE;
        }
        self.hops.push(FibHop {
            gateway: real_gateway(nexthop.gateway),
            oif: nexthop.oif.filter(|&index| index != 0),
            encap: nexthop.encap.clone(),
            weight,
            onlink: nexthop.flags & u32::from(RTNH_F_ONLINK) != 0,
        });
        Ok(())
    }

    fn check(&self, family: u8) -> Result<(), FibError> {
        if is_reject(self.kind) {
            return Ok(());
        }
        if self.hops.len() > MAX_HOPS {
            return Err(FibError::TooManyHops);
        }
        if self.hops.iter().any(|hop| hop.gateway.is_none() && hop.oif.is_none()) {
            return Err(FibError::NoNextHop);
        }
        let invalid = |address: IpAddr| match address {
            IpAddr::V4(_) => family == AF_INET6,
            IpAddr::V6(_) => address.is_unspecified(),
        };
        if self.hops.iter().filter_map(|hop| hop.gateway).any(invalid) {
            return Err(FibError::Gateway);
        }
        Ok(())
    }

    /// Adds the hops of another route for the same key and metric, as an IPv6 route does that is
    /// appended to the first. Weights add up as they were said. Returns false, and changes nothing,
    /// where one of the two does not forward or the sum has more than [`MAX_HOPS`].
    pub fn merge(&mut self, other: &FibRoute) -> bool {
        let forwards = self.kind == RTN_UNICAST && other.kind == RTN_UNICAST;
        if !forwards || self.hops.len().saturating_add(other.hops.len()) > MAX_HOPS {
            return false;
        }
        self.hops.extend_from_slice(&other.hops);
        true
    }

    /// Brings the fields into the canonical form that the head of this module describes.
    pub fn normalise(&mut self) {
        if is_reject(self.kind) {
            *self = FibRoute { kind: self.kind, ..Default::default() };
            return;
        }
        for metric in &mut self.metrics {
            metric.raw_kind &= NLA_TYPE_MASK;
        }
        // As the kernel: the last of several counts, and type 0 says nothing.
        self.metrics.reverse();
        self.metrics.sort_by_key(|metric| metric.raw_kind);
        self.metrics.dedup_by_key(|metric| metric.raw_kind);
        self.metrics.retain(|metric| metric.raw_kind != 0);
        self.hops.sort();
        self.hops.dedup_by(|hop, kept| {
            let same = hop.is_same_way(kept);
            if same {
                kept.weight = kept.weight.max(1).saturating_add(hop.weight.max(1));
                kept.onlink |= hop.onlink;
            }
            same
        });
        let divisor = self.hops.iter().fold(0, |divisor, hop| gcd(hop.weight.max(1), divisor));
        for hop in &mut self.hops {
            hop.weight = hop.weight.max(1) / divisor.max(1);
        }
    }

    /// Whether the two mean the same to the voter.
    pub fn agrees(&self, other: &FibRoute) -> bool {
        let (one, two) = (self.to_bytes(), other.to_bytes());
        FibRoute::compared(&one) == FibRoute::compared(&two)
    }
}

fn hop_of_path(hop: &PathHop) -> FibHop {
    FibHop {
        gateway: real_gateway(hop.gateway),
        oif: Some(hop.interface).filter(|&index| index != 0),
        encap: hop.encap.clone(),
        weight: u32::from(hop.weight),
        onlink: hop.flags & RTNH_F_ONLINK != 0,
    }
}

/// Greatest common divisor; that of a number and 0 is the number.
const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// What `ip route` calls a type.
pub const fn kind_name(kind: u8) -> &'static str {
    match kind {
        RTN_UNICAST => "unicast",
        RTN_LOCAL => "local",
        RTN_BROADCAST => "broadcast",
        RTN_ANYCAST => "anycast",
        RTN_MULTICAST => "multicast",
        RTN_BLACKHOLE => "blackhole",
        RTN_UNREACHABLE => "unreachable",
        RTN_PROHIBIT => "prohibit",
        RTN_THROW => "throw",
        _ => "other",
    }
}

/// For events and virtctl: `via 10.0.1.2 dev #3 weight 2, dev #4`, `blackhole`; interfaces by
/// index.
impl fmt::Display for FibRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if self.kind != RTN_UNICAST || self.hops.is_empty() {
            write!(f, "{}", kind_name(self.kind))?;
            gap = " ";
        }
        for hop in &self.hops {
            f.write_str(gap)?;
            write!(f, "{hop}")?;
            if self.hops.len() > 1 {
                write!(f, " weight {}", hop.weight)?;
            }
            gap = ", ";
        }
        if let Some(address) = self.prefsrc {
            write!(f, " src {address}")?;
        }
        for metric in &self.metrics {
            match (metric.raw_kind, metric.as_attr().u32()) {
                (RTAX_MTU, Ok(value)) => write!(f, " mtu {value}")?,
                (kind, Ok(value)) => write!(f, " metric{kind} {value}")?,
                (kind, Err(_)) => write!(f, " metric{kind} {:?}", metric.as_attr().name())?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for FibHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if let Some(encap) = &self.encap {
            write!(f, "encap{}", encap.kind)?;
            gap = " ";
        }
        if let Some(address) = self.gateway {
            write!(f, "{gap}via {address}")?;
            gap = " ";
        }
        if let Some(index) = self.oif {
            write!(f, "{gap}dev #{index}")?;
        }
        if self.onlink { f.write_str(" onlink") } else { Ok(()) }
    }
}

#[cfg(test)]
#[path = "fib_tests.rs"]
mod tests;
