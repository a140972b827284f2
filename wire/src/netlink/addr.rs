//! RTM_NEWADDR and RTM_DELADDR (`struct ifaddrmsg`). Only read; addresses pass to the instances as
//! the kernel says them.

use super::NetlinkError;
use super::attr::Attrs;
use super::consts::*;
use std::net::IpAddr;

/// Octets of `struct ifaddrmsg`.
pub const IFADDRMSG_LEN: usize = 8;

/// One address of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddrMessage {
    /// AF_INET or AF_INET6; AF_UNSPEC in a request to dump both.
    pub family: u8,
    /// Bits of the prefix on the link.
    pub prefix_len: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// IFA_F_*, all 32 bits where IFA_FLAGS says them.
    pub flags: u32,
    /// Interface index.
    pub index: u32,
    /// IFA_ADDRESS: on a point-to-point link the other end's.
    pub address: Option<IpAddr>,
    /// IFA_LOCAL: our own, where it is said apart (IPv4 always, IPv6 on point-to-point links).
    pub local: Option<IpAddr>,
}

impl AddrMessage {
    /// Reads what stands behind the message header.
    ///
    /// # Errors
    /// Anything malformed, and other families than IPv4, IPv6 and unspecified.
    pub fn parse(payload: &[u8]) -> Result<AddrMessage, NetlinkError> {
        let Some((fixed, attrs)) = payload.split_first_chunk::<IFADDRMSG_LEN>() else {
            return Err(NetlinkError::ShortBody { need: IFADDRMSG_LEN, have: payload.len() });
        };
        let [family, prefix_len, flags, scope, i0, i1, i2, i3] = *fixed;
        let max = match family {
            AF_UNSPEC => 0,
            AF_INET => 32,
            AF_INET6 => 128,
            _ => return Err(NetlinkError::Family { family }),
        };
        if prefix_len > max {
            return Err(NetlinkError::PrefixLength { len: prefix_len });
        }
        let index = u32::from_ne_bytes([i0, i1, i2, i3]);
        let mut addr =
            AddrMessage { family, prefix_len, scope, flags: u32::from(flags), index, address: None, local: None };
        for attr in Attrs::new(attrs) {
            let attr = attr?;
            match attr.kind() {
                IFA_ADDRESS => addr.address = Some(attr.ip(family)?),
                IFA_LOCAL => addr.local = Some(attr.ip(family)?),
                IFA_FLAGS => addr.flags = attr.u32()?,
                _ => {}
            }
        }
        Ok(addr)
    }

    /// This host's own address.
    pub fn own(&self) -> Option<IpAddr> {
        self.local.or(self.address)
    }

    /// The address whose prefix is on the link: the other end's on a point-to-point link.
    pub fn on_link(&self) -> Option<IpAddr> {
        self.address.or(self.local)
    }
}
