//! What becomes of each message that an instance sends over netlink, and of each that the kernel
//! sends to it.
//!
//! | message | becomes |
//! |---|---|
//! | RTM_NEWROUTE, RTM_DELROUTE (IPv4, IPv6), RTM_NEWNEXTHOP, RTM_DELNEXTHOP | the instance's virtual kernel takes it |
//! | a dump of routes or nexthop objects | the real kernel's answer without virtd's own routes, then the instance's own |
//! | every other RTM_GET… | the real kernel answers |
//! | every other request | EOPNOTSUPP: links, addresses, neighbours and rules are the system's, not an instance's |
//! | without NLM_F_REQUEST, without a family, control messages | nothing, as in Linux; acknowledged where that is asked for |
//! | notifications about routes of virtd's own, and what a dump says of them | dropped |
//! | every other notification | passed on as it came |

use wire::netlink::consts::{
    AF_INET, AF_INET6, NLM_F_MULTI, NLM_F_REQUEST, NLMSG_MIN_TYPE, RTM_DELNEXTHOP, RTM_DELROUTE, RTM_GETNEXTHOP,
    RTM_GETROUTE, RTM_NEWNEXTHOP, RTM_NEWROUTE,
};
use wire::netlink::{Frame, Header};

/// Kinds of rtnetlink requests come in fours: new, delete, get, set (linux/rtnetlink.h).
const GET: u16 = 2;
/// Where rtm_protocol stands in `struct rtmsg`.
pub const RTM_PROTOCOL: usize = 5;

/// Where a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handling {
    /// To the instance's virtual kernel.
    Virtual,
    /// To the real kernel; the answer comes back as it is.
    Real,
    /// To the real kernel; the answer is filtered, and the instance's own part is added.
    Dump,
    /// Nowhere: NLMSG_NOOP and the like, and what is no request or names no family
    /// (rtnetlink_rcv_msg).
    Ignored,
    /// It is refused with EOPNOTSUPP.
    Refused,
}

/// Where this request goes.
pub fn handling(frame: &Frame<'_>) -> Handling {
    let kind = frame.header.kind;
    let inet = frame.family().is_some_and(|f| f == AF_INET || f == AF_INET6);
    match kind {
        _ if kind < NLMSG_MIN_TYPE || frame.header.flags & NLM_F_REQUEST == 0 || frame.payload.is_empty() => {
            Handling::Ignored
        }
        RTM_NEWROUTE | RTM_DELROUTE if inet => Handling::Virtual,
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Handling::Virtual,
        RTM_GETROUTE | RTM_GETNEXTHOP if frame.header.is_dump() => Handling::Dump,
        _ if kind & 3 == GET => Handling::Real,
        _ => Handling::Refused,
    }
}

/// Whether a message of the kernel's, which a socket with this port id has received, tells of a
/// route that virtd has written: in a notification or a dump. The answer to a question about one
/// route is none of these: whoever asked waits for it.
pub fn is_ours(header: &Header, payload: &[u8], protocol: u8, port_id: u32) -> bool {
    let answers_one = port_id != 0 && header.port == port_id && header.flags & NLM_F_MULTI == 0;
    let about_route = matches!(header.kind, RTM_NEWROUTE | RTM_DELROUTE);
    about_route && !answers_one && payload.get(RTM_PROTOCOL) == Some(&protocol)
}
