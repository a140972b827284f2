//! OPEN, NOTIFICATION, KEEPALIVE and ROUTE-REFRESH (RFC 4271 section 4, RFC 5492, RFC 2918, RFC 7313).

use super::types::{Family, Notification};
use bytes::Bytes;
use std::net::Ipv4Addr;

/// A capability of an OPEN (RFC 5492). Unknown or malformed ones are kept as [`Capability::Other`].
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Capability {
    /// 1 (RFC 4760).
    Multiprotocol(Family),
    /// 2 (RFC 2918).
    RouteRefresh,
    /// 5 (RFC 8950): (NLRI family, AFI of the next hop).
    ExtendedNextHop(Vec<(Family, u16)>),
    /// 6 (RFC 8654).
    ExtendedMessage,
    /// 9 (RFC 9234).
    Role(u8),
    /// 64 (RFC 4724).
    GracefulRestart {
        /// R and N bits, the upper four bits of the first octet.
        flags: u8,
        /// Restart time in seconds, 0 to 4095.
        restart_time_s: u16,
        /// (family, flags).
        families: Vec<(Family, u8)>,
    },
    /// 65 (RFC 6793).
    FourOctetAs(u32),
    /// 69 (RFC 7911): (family, 1 receive, 2 send, 3 both).
    AddPath(Vec<(Family, u8)>),
    /// 70 (RFC 7313).
    EnhancedRouteRefresh,
    /// Anything else, or one of the above with a length its RFC does not allow.
    Other {
        /// Capability code.
        code: u8,
        /// Capability value.
        value: Vec<u8>,
    },
}

/// An OPEN message (RFC 4271 section 4.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The AS number: the 4-octet capability's where present, else the header's My Autonomous System field.
    pub asn: u32,
    /// Proposed hold time in seconds; 0 or at least 3.
    pub hold_time_s: u16,
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// In the order they were sent, over all optional parameters.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Reads an OPEN's body (after the header). Understands RFC 9072 extended optional parameters.
    ///
    /// # Errors
    /// 2/1 unsupported version, 2/2 AS 0, 2/3 router id 0, 2/4 unknown optional parameter, 2/6 hold time 1 or 2,
    /// 2/0 for lengths that do not add up; 1/2 is the framing's.
    pub fn decode(body: &[u8]) -> Result<Open, Notification> {
        let _ = body;
        todo!("helper wire-A")
    }

    /// The whole message, header included: one optional parameter per capability; RFC 9072 form where
    /// they take more than 255 octets. My Autonomous System is 23456 for an AS above 65535 (RFC 6793).
    pub fn encode(&self) -> Bytes {
        todo!("helper wire-A")
    }

    /// Whether `family` is usable as this OPEN says it: listed, or IPv4 unicast where no
    /// multiprotocol capability stands in it at all (RFC 4760 section 8 leaves that default).
    pub fn has_family(&self, family: Family) -> bool {
        let mut any = false;
        for c in &self.capabilities {
            if let Capability::Multiprotocol(f) = c {
                any = true;
                if *f == family {
                    return true;
                }
            }
        }
        !any && family == Family::IPV4_UNICAST
    }
}

impl Notification {
    /// The whole message, header included; data is cut so that the message stays within 4096 octets.
    pub fn encode(&self) -> Bytes {
        todo!("helper wire-A")
    }

    /// Reads a NOTIFICATION's body; `None` where it is shorter than code and subcode.
    pub fn decode(body: &[u8]) -> Option<Notification> {
        let _ = body;
        todo!("helper wire-A")
    }
}

/// The RFC's own words for a NOTIFICATION, for logs: `3/10 UPDATE Message Error: Invalid Network Field`.
pub fn notification_name(code: u8, subcode: u8) -> String {
    let _ = (code, subcode);
    todo!("helper wire-A")
}

/// The one KEEPALIVE there is.
pub fn keepalive() -> Bytes {
    todo!("helper wire-A")
}

/// The subtypes of ROUTE-REFRESH (RFC 7313 section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefreshKind {
    /// 0: a normal request.
    Request,
    /// 1: beginning of a refresh.
    Begin,
    /// 2: end of a refresh.
    End,
    /// Any other, to be ignored.
    Unknown(u8),
}

/// A ROUTE-REFRESH (RFC 2918).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteRefresh {
    /// Which family.
    pub family: Family,
    /// Request, begin or end.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// Reads a ROUTE-REFRESH's body. ORF (RFC 5291) entries behind the first four octets are ignored.
    ///
    /// # Errors
    /// 7/1 with the whole message as data, where the body is shorter than four octets (RFC 7313 section 5).
    pub fn decode(body: &[u8]) -> Result<RouteRefresh, Notification> {
        let _ = body;
        todo!("helper wire-A")
    }

    /// The whole message.
    pub fn encode(&self) -> Bytes {
        todo!("helper wire-A")
    }
}
