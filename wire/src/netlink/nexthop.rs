//! RTM_NEWNEXTHOP, RTM_DELNEXTHOP and RTM_GETNEXTHOP: nexthop objects and groups (`struct nhmsg`
//! and its attributes).

use super::NetlinkError;
use super::attr::{Attr, Attrs, Encap, RawAttr};
use super::consts::*;
use super::message::Writer;
use std::net::IpAddr;

/// Octets of `struct nhmsg`.
pub const NHMSG_LEN: usize = 8;
/// Octets of `struct nexthop_grp`.
const GROUP_ENTRY_LEN: usize = 8;

/// One nexthop object, as a message says it. Attributes without a field of their own are kept in
/// `others`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NexthopMessage {
    /// AF_INET, AF_INET6, or AF_UNSPEC for a group.
    pub family: u8,
    /// RT_SCOPE_*, answers only.
    pub scope: u8,
    /// RTPROT_*.
    pub protocol: u8,
    /// RTNH_F_*.
    pub flags: u32,
    /// The id; absent in a new object whose id the kernel chooses.
    pub id: Option<u32>,
    /// Drops what comes.
    pub blackhole: bool,
    /// Interface index.
    pub oif: Option<u32>,
    /// The gateway, of the object's family.
    pub gateway: Option<IpAddr>,
    /// The tunnel.
    pub encap: Option<Encap>,
    /// The members; empty where this is no group.
    pub group: Vec<GroupEntry>,
    /// 0 multipath, 1 resilient.
    pub group_type: Option<u16>,
    /// For the bridge's table, not for routes.
    pub fdb: bool,
    /// All other attributes, in their order.
    pub others: Vec<RawAttr>,
}

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// Id of a nexthop object.
    pub id: u32,
    /// 1 to 65535: what the wire says plus one. Kernels before 6.12 know 8 bits of it, up to 256.
    pub weight: u16,
}

impl NexthopMessage {
    /// Reads what stands behind the message header.
    ///
    /// # Errors
    /// Anything malformed, and other families than IPv4, IPv6 and unspecified.
    pub fn parse(payload: &[u8]) -> Result<NexthopMessage, NetlinkError> {
        let Some((fixed, attrs)) = payload.split_first_chunk::<NHMSG_LEN>() else {
            return Err(NetlinkError::ShortBody { need: NHMSG_LEN, have: payload.len() });
        };
        let [family, scope, protocol, _reserved, f0, f1, f2, f3] = *fixed;
        if !matches!(family, AF_UNSPEC | AF_INET | AF_INET6) {
            return Err(NetlinkError::Family { family });
        }
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let mut nexthop = NexthopMessage { family, scope, protocol, flags, ..Default::default() };
        let (mut encap_type, mut encap) = (None, None);
        for attr in Attrs::new(attrs) {
            let attr = attr?;
            match attr.kind() {
                NHA_ENCAP_TYPE => encap_type = Some(attr),
                NHA_ENCAP => encap = Some(attr),
                _ => nexthop.take(attr)?,
            }
        }
        nexthop.encap = Encap::join(encap_type, encap, &mut nexthop.others)?;
        Ok(nexthop)
    }

    fn take(&mut self, attr: Attr<'_>) -> Result<(), NetlinkError> {
        match attr.kind() {
            NHA_ID => self.id = Some(attr.u32()?),
            NHA_GROUP => self.group = parse_group(attr)?,
            NHA_GROUP_TYPE => self.group_type = Some(attr.u16()?),
            NHA_BLACKHOLE => {
                attr.flag()?;
                self.blackhole = true;
            }
            NHA_OIF => self.oif = Some(attr.u32()?),
            NHA_GATEWAY => self.gateway = Some(attr.ip(self.family)?),
            NHA_FDB => {
                attr.flag()?;
                self.fdb = true;
            }
            _ => self.others.push(attr.to_raw()),
        }
        Ok(())
    }

    /// Appends what stands behind the message header.
    pub fn write(&self, w: &mut Writer<'_>) {
        w.put(&[self.family, self.scope, self.protocol, 0]);
        w.put(&self.flags.to_ne_bytes());
        self.id.inspect(|&id| w.attr_u32(NHA_ID, id));
        self.group_type.inspect(|&kind| w.attr_u16(NHA_GROUP_TYPE, kind));
        if !self.group.is_empty() {
            let entries: Vec<u8> = self.group.iter().flat_map(|entry| entry.to_bytes()).collect();
            w.attr(NHA_GROUP, &entries);
        }
        if self.blackhole {
            w.attr(NHA_BLACKHOLE, &[]);
        }
        self.oif.inspect(|&interface| w.attr_u32(NHA_OIF, interface));
        self.gateway.inspect(|&address| w.attr_ip(NHA_GATEWAY, address));
        if let Some(encap) = &self.encap {
            // These attributes are checked strictly, so the bit must be there, unlike in a route.
            w.attr(NHA_ENCAP | NLA_F_NESTED, &encap.data);
            w.attr_u16(NHA_ENCAP_TYPE, encap.kind);
        }
        if self.fdb {
            w.attr(NHA_FDB, &[]);
        }
        self.others.iter().for_each(|other| w.attr_raw(other.as_attr()));
    }

    /// What stands behind the message header, in a buffer of its own.
    ///
    /// # Errors
    /// [`NetlinkError::TooLong`]: a group of more members than an attribute can hold (some 8,000).
    pub fn to_payload(&self) -> Result<Vec<u8>, NetlinkError> {
        let mut out = Vec::with_capacity(64);
        let mut w = Writer::payload(&mut out);
        self.write(&mut w);
        w.finish()?;
        Ok(out)
    }
}

fn parse_group(attr: Attr<'_>) -> Result<Vec<GroupEntry>, NetlinkError> {
    let (entries, rest) = attr.payload.as_chunks::<GROUP_ENTRY_LEN>();
    if entries.is_empty() || !rest.is_empty() {
        return Err(NetlinkError::AttrValue { kind: NHA_GROUP });
    }
    entries.iter().map(|entry| GroupEntry::from_bytes(*entry)).collect()
}

impl GroupEntry {
    /// `struct nexthop_grp`: id, low octet of the weight, its high octet, two reserved octets that
    /// must be zero.
    fn from_bytes([i0, i1, i2, i3, low, high, r0, r1]: [u8; GROUP_ENTRY_LEN]) -> Result<GroupEntry, NetlinkError> {
        let impossible = NetlinkError::AttrValue { kind: NHA_GROUP };
        let weight = u16::from_le_bytes([low, high]).checked_add(1).ok_or(impossible)?;
        if (r0, r1) != (0, 0) {
            return Err(impossible);
        }
        Ok(GroupEntry { id: u32::from_ne_bytes([i0, i1, i2, i3]), weight })
    }

    fn to_bytes(self) -> [u8; GROUP_ENTRY_LEN] {
        let [i0, i1, i2, i3] = self.id.to_ne_bytes();
        let [low, high] = self.weight.saturating_sub(1).to_le_bytes();
        [i0, i1, i2, i3, low, high, 0, 0]
    }
}

#[cfg(test)]
#[path = "nexthop_tests.rs"]
mod tests;
