//! RTM_NEWROUTE, RTM_DELROUTE and RTM_GETROUTE (`struct rtmsg` and its attributes), IPv4 and IPv6.

use super::NetlinkError;
use super::attr::{Attr, Attrs, Encap, RawAttr, align};
use super::consts::*;
use super::message::Writer;
use std::net::IpAddr;

/// Octets of `struct rtmsg`.
pub const RTMSG_LEN: usize = 12;
/// Where `struct rtmsg` has the length of the destination.
pub const DST_LEN_AT: usize = 1;
/// Octets of `struct rtnexthop`.
const RTNEXTHOP_LEN: usize = 8;

/// One route, as a message says it. Attributes without a field of their own are kept in `others`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMessage {
    /// AF_INET or AF_INET6; AF_UNSPEC in a request to dump both.
    pub family: u8,
    /// Bits of the destination prefix.
    pub dst_len: u8,
    /// Bits of the source prefix.
    pub src_len: u8,
    /// Type of service; IPv4 only.
    pub tos: u8,
    /// RTA_TABLE, or rtm_table where that is absent; RT_TABLE_UNSPEC is main in a new route and any
    /// in a dump.
    pub table: u32,
    /// RTPROT_*.
    pub protocol: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// RTN_*; 0 in a delete is any.
    pub kind: u8,
    /// RTM_F_*, and the RTNH_F_* of a single next hop.
    pub flags: u32,
    /// Destination; absent for a default route. Host bits are as they came.
    pub dst: Option<IpAddr>,
    /// Source prefix's address (IPv6 source-specific routes), or the source to look up with.
    pub src: Option<IpAddr>,
    /// Metric, the lowest wins. Absent is 0 in IPv4 and 1024 in a new IPv6 route.
    pub priority: Option<u32>,
    /// RTAX_* by number, as they came.
    pub metrics: Vec<RawAttr>,
    /// Id of a nexthop object. The kernel shows the hops it stands for beside it.
    pub nh_id: Option<u32>,
    /// Source address for packets of this host.
    pub prefsrc: Option<IpAddr>,
    /// The single next hop's gateway, of either family (RTA_GATEWAY or RTA_VIA).
    pub gateway: Option<IpAddr>,
    /// The single next hop's interface index.
    pub oif: Option<u32>,
    /// The single next hop's tunnel.
    pub encap: Option<Encap>,
    /// RTA_MULTIPATH; empty where it is absent.
    pub multipath: Vec<PathHop>,
    /// Seconds after which the kernel removes it (in requests).
    pub expires: Option<u32>,
    /// RFC 4191 preference, IPv6.
    pub pref: Option<u8>,
    /// All other attributes, in their order.
    pub others: Vec<RawAttr>,
}

/// One entry of RTA_MULTIPATH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathHop {
    /// RTNH_F_*.
    pub flags: u8,
    /// 1 to 256: what the wire says plus one.
    pub weight: u16,
    /// Interface index, 0 for none.
    pub interface: u32,
    /// The gateway, of either family.
    pub gateway: Option<IpAddr>,
    /// The tunnel.
    pub encap: Option<Encap>,
    /// All other attributes, in their order.
    pub others: Vec<RawAttr>,
}

/// The gateway and tunnel attributes, which a route and each of its multipath entries can have.
#[derive(Default)]
struct HopAttrs<'a> {
    gateway: Option<IpAddr>,
    via: Option<IpAddr>,
    encap_type: Option<Attr<'a>>,
    encap: Option<Attr<'a>>,
}

impl<'a> HopAttrs<'a> {
    /// Takes the attribute if it is one of these.
    fn take(&mut self, attr: Attr<'a>, family: u8) -> Result<bool, NetlinkError> {
        match attr.kind() {
            RTA_GATEWAY => self.gateway = Some(attr.ip(family)?),
            RTA_VIA if family == AF_INET => self.via = Some(attr.via()?),
            // As the kernel: IPv6 has no RTA_VIA.
            RTA_VIA => return Err(NetlinkError::AttrConflict { kind: RTA_VIA }),
            RTA_ENCAP_TYPE => self.encap_type = Some(attr),
            RTA_ENCAP => self.encap = Some(attr),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn gateway(&self) -> Result<Option<IpAddr>, NetlinkError> {
        match (self.gateway, self.via) {
            (Some(_), Some(_)) => Err(NetlinkError::AttrConflict { kind: RTA_VIA }),
            (one, other) => Ok(one.or(other)),
        }
    }
}

fn check_len(len: u8, family: u8) -> Result<(), NetlinkError> {
    let max = match family {
        AF_INET => 32,
        AF_INET6 => 128,
        _ => 0,
    };
    if len > max { Err(NetlinkError::PrefixLength { len }) } else { Ok(()) }
}

impl RouteMessage {
    /// Reads what stands behind the message header.
    ///
    /// # Errors
    /// Anything malformed, other families than IPv4, IPv6 and unspecified, and gateways given twice
    /// over.
    pub fn parse(payload: &[u8]) -> Result<RouteMessage, NetlinkError> {
        let Some((fixed, attrs)) = payload.split_first_chunk::<RTMSG_LEN>() else {
            return Err(NetlinkError::ShortBody { need: RTMSG_LEN, have: payload.len() });
        };
        let [family, dst_len, src_len, tos, table, protocol, scope, kind, f0, f1, f2, f3] = *fixed;
        if !matches!(family, AF_UNSPEC | AF_INET | AF_INET6) {
            return Err(NetlinkError::Family { family });
        }
        check_len(dst_len, family)?;
        check_len(src_len, family)?;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let table = u32::from(table);
        let mut route =
            RouteMessage { family, dst_len, src_len, tos, table, protocol, scope, kind, flags, ..Default::default() };
        let mut hop = HopAttrs::default();
        for attr in Attrs::new(attrs) {
            let attr = attr?;
            if !hop.take(attr, family)? {
                route.take(attr)?;
            }
        }
        route.gateway = hop.gateway()?;
        route.encap = Encap::join(hop.encap_type, hop.encap, &mut route.others)?;
        Ok(route)
    }

    /// Where in `payload`, which can be parsed, the destination's octets are; `None` unless it is
    /// said once, in `len` octets.
    pub fn dst_at(payload: &[u8], len: usize) -> Option<usize> {
        let attrs = Attrs::new(payload.get(RTMSG_LEN..)?).flatten();
        let mut found = attrs.filter(|attr| attr.kind() == RTA_DST).map(|attr| attr.payload);
        let (octets, None) = (found.next()?, found.next()) else { return None };
        (octets.len() == len).then(|| octets.as_ptr().addr() - payload.as_ptr().addr())
    }

    fn take(&mut self, attr: Attr<'_>) -> Result<(), NetlinkError> {
        match attr.kind() {
            RTA_DST => self.dst = Some(attr.ip(self.family)?),
            RTA_SRC => self.src = Some(attr.ip(self.family)?),
            RTA_OIF => self.oif = Some(attr.u32()?),
            RTA_PRIORITY => self.priority = Some(attr.u32()?),
            RTA_PREFSRC => self.prefsrc = Some(attr.ip(self.family)?),
            RTA_METRICS => {
                self.metrics = attr.nested().map(|metric| metric.map(|m| m.to_raw())).collect::<Result<_, _>>()?;
            }
            RTA_MULTIPATH => self.multipath = parse_multipath(attr, self.family)?,
            RTA_TABLE => self.table = attr.u32()?,
            RTA_PREF => self.pref = Some(attr.u8()?),
            RTA_EXPIRES => self.expires = Some(attr.u32()?),
            RTA_NH_ID => self.nh_id = Some(attr.u32()?),
            _ => self.others.push(attr.to_raw()),
        }
        Ok(())
    }

    /// Appends what stands behind the message header, attributes in the kernel's own order.
    pub fn write(&self, w: &mut Writer<'_>) {
        let table = u8::try_from(self.table).unwrap_or(RT_TABLE_COMPAT as u8);
        w.put(&[self.family, self.dst_len, self.src_len, self.tos, table, self.protocol, self.scope, self.kind]);
        w.put(&self.flags.to_ne_bytes());
        w.attr_u32(RTA_TABLE, self.table);
        for (kind, address) in [(RTA_DST, self.dst), (RTA_SRC, self.src)] {
            address.inspect(|&a| w.attr_ip(kind, a));
        }
        self.priority.inspect(|&metric| w.attr_u32(RTA_PRIORITY, metric));
        if !self.metrics.is_empty() {
            let nest = w.nest(RTA_METRICS);
            self.metrics.iter().for_each(|metric| w.attr_raw(metric.as_attr()));
            w.end_nest(nest);
        }
        self.nh_id.inspect(|&id| w.attr_u32(RTA_NH_ID, id));
        self.prefsrc.inspect(|&a| w.attr_ip(RTA_PREFSRC, a));
        if !self.multipath.is_empty() {
            let nest = w.nest(RTA_MULTIPATH);
            self.multipath.iter().for_each(|hop| hop.write(self.family, w));
            w.end_nest(nest);
        }
        write_gateway(self.gateway, self.family, w);
        self.oif.inspect(|&interface| w.attr_u32(RTA_OIF, interface));
        write_encap(self.encap.as_ref(), w);
        self.expires.inspect(|&seconds| w.attr_u32(RTA_EXPIRES, seconds));
        self.others.iter().for_each(|other| w.attr_raw(other.as_attr()));
        self.pref.inspect(|&pref| w.attr_u8(RTA_PREF, pref));
    }

    /// What stands behind the message header, in a buffer of its own.
    ///
    /// # Errors
    /// [`NetlinkError::TooLong`]: more next hops than an attribute can hold (some 1,800).
    pub fn to_payload(&self) -> Result<Vec<u8>, NetlinkError> {
        let mut out = Vec::with_capacity(128);
        let mut w = Writer::payload(&mut out);
        self.write(&mut w);
        w.finish()?;
        Ok(out)
    }
}

fn parse_multipath(attr: Attr<'_>, family: u8) -> Result<Vec<PathHop>, NetlinkError> {
    // As the kernel: ERANGE where not one entry is there, EINVAL for a wrong length inside.
    if attr.payload.len() < RTNEXTHOP_LEN {
        return Err(attr.length_error());
    }
    let impossible = NetlinkError::AttrValue { kind: RTA_MULTIPATH };
    let (mut hops, mut left) = (Vec::new(), attr.payload);
    while !left.is_empty() {
        let Some(&[l0, l1, flags, weight, i0, i1, i2, i3]) = left.first_chunk::<RTNEXTHOP_LEN>() else {
            return Err(impossible);
        };
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let attrs = left.get(RTNEXTHOP_LEN..len).ok_or(impossible)?;
        let (mut hop_attrs, mut others) = (HopAttrs::default(), Vec::new());
        for inner in Attrs::new(attrs) {
            let inner = inner?;
            if !hop_attrs.take(inner, family)? {
                others.push(inner.to_raw());
            }
        }
        let encap = Encap::join(hop_attrs.encap_type, hop_attrs.encap, &mut others)?;
        let (weight, interface) = (u16::from(weight) + 1, u32::from_ne_bytes([i0, i1, i2, i3]));
        hops.push(PathHop { flags, weight, interface, gateway: hop_attrs.gateway()?, encap, others });
        left = left.get(align(len)..).unwrap_or_default();
    }
    Ok(hops)
}

impl PathHop {
    fn write(&self, family: u8, w: &mut Writer<'_>) {
        let hops = u8::try_from(self.weight.saturating_sub(1)).unwrap_or(u8::MAX);
        let nest = w.nest_hop(self.flags, hops, self.interface);
        write_gateway(self.gateway, family, w);
        write_encap(self.encap.as_ref(), w);
        self.others.iter().for_each(|other| w.attr_raw(other.as_attr()));
        w.end_nest(nest);
    }
}

/// RTA_GATEWAY, or RTA_VIA where the gateway is of another family than the route.
fn write_gateway(gateway: Option<IpAddr>, family: u8, w: &mut Writer<'_>) {
    match gateway {
        Some(address) if address.is_ipv6() == (family == AF_INET6) => w.attr_ip(RTA_GATEWAY, address),
        Some(address) => w.attr_via(RTA_VIA, address),
        None => {}
    }
}

fn write_encap(encap: Option<&Encap>, w: &mut Writer<'_>) {
    if let Some(encap) = encap {
        w.attr(RTA_ENCAP, &encap.data);
        w.attr_u16(RTA_ENCAP_TYPE, encap.kind);
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
