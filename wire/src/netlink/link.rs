//! RTM_NEWLINK and RTM_DELLINK (`struct ifinfomsg`): what matters of an interface to routes. Only
//! read; links pass to the instances as the kernel says them.

use super::NetlinkError;
use super::attr::Attrs;
use super::consts::*;

/// Octets of `struct ifinfomsg`.
pub const IFINFOMSG_LEN: usize = 16;

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkMessage {
    /// AF_UNSPEC; AF_BRIDGE or AF_INET6 messages speak of one aspect of the link only and lack most
    /// attributes.
    pub family: u8,
    /// ARPHRD_*.
    pub hw_type: u16,
    /// Interface index; 0 in a request that names it.
    pub index: u32,
    /// IFF_*.
    pub flags: u32,
    /// IFLA_IFNAME.
    pub name: Option<String>,
    /// MTU, octets.
    pub mtu: Option<u32>,
    /// Index of the bridge, bond or VRF above.
    pub master: Option<u32>,
    /// veth, dummy, vrf …; absent for hardware and loopback.
    pub kind: Option<String>,
}

impl LinkMessage {
    /// Reads what stands behind the message header.
    ///
    /// # Errors
    /// Anything malformed.
    pub fn parse(payload: &[u8]) -> Result<LinkMessage, NetlinkError> {
        let Some((fixed, attrs)) = payload.split_first_chunk::<IFINFOMSG_LEN>() else {
            return Err(NetlinkError::ShortBody { need: IFINFOMSG_LEN, have: payload.len() });
        };
        let [family, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *fixed;
        let mut link = LinkMessage {
            family,
            hw_type: u16::from_ne_bytes([t0, t1]),
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            ..Default::default()
        };
        for attr in Attrs::new(attrs) {
            let attr = attr?;
            match attr.kind() {
                IFLA_IFNAME => link.name = Some(attr.name()),
                IFLA_MTU => link.mtu = Some(attr.u32()?),
                IFLA_MASTER => link.master = Some(attr.u32()?),
                IFLA_LINKINFO => {
                    for info in attr.nested() {
                        let info = info?;
                        if info.kind() == IFLA_INFO_KIND {
                            link.kind = Some(info.name());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(link)
    }

    /// Whether it is administratively up: IPv4 and IPv6 routes over a link that is not are removed
    /// by the kernel.
    pub const fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    /// Whether it is operational.
    pub const fn is_running(&self) -> bool {
        self.flags & IFF_RUNNING != 0
    }

    /// Whether it has a carrier.
    pub const fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
