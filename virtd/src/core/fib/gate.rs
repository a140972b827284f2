//! What becomes of each message that an instance sends over netlink, and of each that the kernel sends to it.
//!
//! | message | becomes |
//! |---|---|
//! | RTM_NEWROUTE, RTM_DELROUTE (IPv4, IPv6), RTM_NEWNEXTHOP, RTM_DELNEXTHOP | the instance's virtual kernel takes it |
//! | a dump of routes or nexthop objects | the real kernel's answer without virtd's own routes, then the instance's own |
//! | every other RTM_GET… | the real kernel answers |
//! | every other request | EOPNOTSUPP: links, addresses, neighbours and rules are the system's, not an instance's |
//! | notifications about routes of virtd's own | dropped |
//! | every other notification | passed on as it came |

use wire::netlink::consts::{
    AF_INET, AF_INET6, NLMSG_MIN_TYPE, RTM_DELNEXTHOP, RTM_DELROUTE, RTM_GETNEXTHOP, RTM_GETROUTE, RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
};
use wire::netlink::{Frame, Header};

/// Kinds of rtnetlink requests come in fours: new, delete, get, set (linux/rtnetlink.h).
const GET: u16 = 2;
/// Where rtm_protocol stands in `struct rtmsg`.
pub const RTM_PROTOCOL: usize = 5;

/// Where a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// To the instance's virtual kernel.
    Virtual,
    /// To the real kernel; the answer comes back as it is.
    Real,
    /// To the real kernel; the answer is filtered, and the instance's own part is added.
    Dump,
    /// Nowhere: NLMSG_NOOP and the like.
    Ignored,
    /// It is refused with EOPNOTSUPP.
    Refused,
}

/// Where this request goes.
pub fn way(frame: &Frame<'_>) -> Way {
    let kind = frame.header.kind;
    let inet = frame.family().is_some_and(|f| f == AF_INET || f == AF_INET6);
    match kind {
        _ if kind < NLMSG_MIN_TYPE => Way::Ignored,
        RTM_NEWROUTE | RTM_DELROUTE if inet => Way::Virtual,
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Way::Virtual,
        RTM_GETROUTE | RTM_GETNEXTHOP if frame.header.is_dump() => Way::Dump,
        _ if kind & 3 == GET => Way::Real,
        _ => Way::Refused,
    }
}

/// Whether a message of the kernel's is about a route that virtd has written.
pub fn is_ours(header: &Header, payload: &[u8], protocol: u8) -> bool {
    matches!(header.kind, RTM_NEWROUTE | RTM_DELROUTE) && payload.get(RTM_PROTOCOL) == Some(&protocol)
}
