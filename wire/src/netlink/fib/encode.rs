//! A winner as the kernel wants it.

use super::{FibHop, FibKey, FibRoute, is_reject};
use crate::netlink::NetlinkError;
use crate::netlink::consts::*;
use crate::netlink::route::{DST_LEN_AT, PathHop, RouteMessage};
use std::net::IpAddr;

/// Largest weight of a hop in RTA_MULTIPATH.
const MAX_WEIGHT: u32 = 256;

/// The route as a message: a single next hop inline, several as RTA_MULTIPATH, IPv6 gateways of
/// IPv4 routes as RTA_VIA. `metric` 0 is left out, and means 1024 to IPv6.
pub fn to_message(key: &FibKey, route: &FibRoute, protocol: u8, metric: u32) -> RouteMessage {
    let mut normal = route.clone();
    normal.normalise();
    let FibRoute { kind, prefsrc, metrics, hops } = normal;
    let scope = scope(key, kind, &hops);
    let mut message = RouteMessage { kind, scope, prefsrc, metrics, ..key_message(key, protocol, metric) };
    match hops.as_slice() {
        [] => {}
        [hop] => {
            message.gateway = hop.gateway;
            message.oif = hop.oif;
            message.encap.clone_from(&hop.encap);
            message.flags = if hop.onlink { u32::from(RTNH_F_ONLINK) } else { 0 };
        }
        several => {
            let most = several.iter().map(|hop| hop.weight).max().unwrap_or(1);
            message.multipath = several.iter().map(|hop| path_hop(hop, most)).collect();
        }
    }
    message
}

/// What stands behind the message header of the RTM_NEWROUTE that installs `route`; see
/// [`to_message`].
///
/// # Errors
/// [`NetlinkError::TooLong`]: the next hops do not fit an attribute (their tunnels would have to be
/// large).
pub fn encode_route(key: &FibKey, route: &FibRoute, protocol: u8, metric: u32) -> Result<Vec<u8>, NetlinkError> {
    to_message(key, route, protocol, metric).to_payload()
}

/// What [`encode_route`] gives, kept for other destinations of the same route.
#[derive(Debug)]
pub struct EncodedRoute {
    payload: Vec<u8>,
    key: FibKey,
    /// Where the destination is, where it is said.
    dst: Option<usize>,
}

impl EncodedRoute {
    /// A route, for this key to begin with.
    ///
    /// # Errors
    /// As [`encode_route`].
    pub fn new(key: &FibKey, route: &FibRoute, protocol: u8, metric: u32) -> Result<EncodedRoute, NetlinkError> {
        let payload = encode_route(key, route, protocol, metric)?;
        let dst = RouteMessage::dst_at(&payload, octets_of(key).1);
        Ok(EncodedRoute { payload, key: *key, dst })
    }

    /// The same route to another destination; `None` where more would differ than that.
    pub fn to(mut self, key: &FibKey) -> Option<EncodedRoute> {
        if *key == self.key {
            return Some(self);
        }
        let alike = (key.table, key.tos, key.family()) == (self.key.table, self.key.tos, self.key.family());
        let dst = self.dst.filter(|_| alike && key.prefix.len() != 0)?;
        let (octets, len) = octets_of(key);
        self.payload.get_mut(dst..dst + len)?.copy_from_slice(octets.get(..len)?);
        *self.payload.get_mut(DST_LEN_AT)? = key.prefix.len();
        Some(EncodedRoute { key: *key, ..self })
    }

    /// What stands behind the message header.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// The octets of a destination, and how many they are.
fn octets_of(key: &FibKey) -> ([u8; 16], usize) {
    let mut octets = [0; 16];
    match key.prefix.addr() {
        IpAddr::V4(a) => {
            octets[..4].copy_from_slice(&a.octets());
            (octets, 4)
        }
        IpAddr::V6(a) => (a.octets(), 16),
    }
}

/// What stands behind the message header of the RTM_DELROUTE that removes the route of this key,
/// protocol and metric, whatever its type and next hops; of an IPv6 multipath route all hops.
pub fn encode_delete(key: &FibKey, protocol: u8, metric: u32) -> Vec<u8> {
    let message = RouteMessage { scope: RT_SCOPE_NOWHERE, ..key_message(key, protocol, metric) };
    // Cannot fail: a key and two numbers.
    message.to_payload().unwrap_or_default()
}

fn key_message(key: &FibKey, protocol: u8, metric: u32) -> RouteMessage {
    RouteMessage {
        family: key.family(),
        dst_len: key.prefix.len(),
        tos: key.tos,
        table: key.table,
        protocol,
        dst: Some(key.prefix.addr()).filter(|_| key.prefix.len() != 0),
        priority: Some(metric).filter(|&metric| metric != 0),
        ..Default::default()
    }
}

/// IPv4 wants the scope that its route type and next hops have; IPv6 has none.
fn scope(key: &FibKey, kind: u8, hops: &[FibHop]) -> u8 {
    match kind {
        _ if key.family() == AF_INET6 || is_reject(kind) => RT_SCOPE_UNIVERSE,
        RTN_LOCAL => RT_SCOPE_HOST,
        RTN_BROADCAST | RTN_ANYCAST | RTN_MULTICAST => RT_SCOPE_LINK,
        _ if hops.iter().all(|hop| hop.gateway.is_none()) => RT_SCOPE_LINK,
        _ => RT_SCOPE_UNIVERSE,
    }
}

/// Weights come from nexthop groups too, whose weights go further: they are scaled down, to at
/// least 1.
fn path_hop(hop: &FibHop, most: u32) -> PathHop {
    let weight = match most {
        0..=MAX_WEIGHT => hop.weight,
        _ => u32::try_from(u64::from(hop.weight) * u64::from(MAX_WEIGHT) / u64::from(most)).unwrap_or(MAX_WEIGHT),
    };
    PathHop {
        flags: if hop.onlink { RTNH_F_ONLINK } else { 0 },
        weight: u16::try_from(weight.clamp(1, MAX_WEIGHT)).unwrap_or(1),
        interface: hop.oif.unwrap_or(0),
        gateway: hop.gateway,
        encap: hop.encap.clone(),
        others: Vec::new(),
    }
}
