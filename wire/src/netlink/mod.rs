//! rtnetlink on the wire: what daemons send to the kernel and what the kernel answers, as bytes and
//! as types.
//!
//! Reading order: [`message`] (messages of a buffer, acknowledgements, the [`Writer`]), [`attr`]
//! (attributes), [`route`], [`nexthop`], [`link`], [`addr`] (the messages), `fib` (what a route
//! *means*: the candidate that instances vote on). Rules and neighbours need no types: they pass as
//! the [`Frame`]s they came in.
//!
//! Everything here reads bytes of instances, which are not trusted: every length is checked and the
//! errors are typed. It is stricter than the kernel in two points, for its sake: octets left over
//! behind the attributes and attributes longer than their type are errors, where the kernel warns.
//! Integers are in the machine's own byte order, as netlink's are; addresses in the network's.

pub mod addr;
pub mod attr;
pub mod consts;
pub mod diag;
#[cfg(feature = "bgp")]
pub mod fib;
pub mod link;
pub mod message;
pub mod nexthop;
pub mod route;

pub use addr::AddrMessage;
pub use attr::{Attr, Attrs, Encap, RawAttr};
#[cfg(feature = "bgp")]
pub use fib::{FibError, FibHop, FibKey, FibRoute};
pub use link::LinkMessage;
pub use message::{Frame, Frames, Header, Writer};
pub use nexthop::NexthopMessage;
pub use route::RouteMessage;

#[cfg(any(test, feature = "laws"))]
pub mod captures;
#[cfg(all(test, feature = "bgp"))]
mod daemons_tests;
#[cfg(all(test, feature = "bgp"))]
mod properties;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// A buffer ends inside a message header.
    #[error("{left} octets are left, a message header has 16")]
    TruncatedHeader {
        /// Octets left.
        left: usize,
    },
    /// nlmsg_len is less than the header's own 16 octets.
    #[error("message length {len} is less than its header's 16")]
    ShortMessage {
        /// nlmsg_len.
        len: u32,
    },
    /// nlmsg_len goes beyond the buffer.
    #[error("message length {len}, but {left} octets are left")]
    LongMessage {
        /// nlmsg_len.
        len: u32,
        /// Octets left, header included.
        left: usize,
    },
    /// The fixed part that stands before the attributes is cut short.
    #[error("the fixed part has {need} octets, {have} are there")]
    ShortBody {
        /// Octets of the C structure.
        need: usize,
        /// Octets there.
        have: usize,
    },
    /// The attributes end inside an attribute's header, or its length is under 4 or beyond the
    /// message.
    #[error("attribute length {len} with {left} octets left")]
    AttrFraming {
        /// nla_len, 0 where not even the header is there.
        len: u16,
        /// Octets left, attribute header included.
        left: usize,
    },
    /// An attribute's payload has not the length of its type.
    #[error("attribute {kind} cannot be {len} octets long")]
    AttrLength {
        /// Attribute type.
        kind: u16,
        /// Payload octets.
        len: usize,
    },
    /// An attribute's value cannot be.
    #[error("attribute {kind} has an impossible value")]
    AttrValue {
        /// Attribute type.
        kind: u16,
    },
    /// Two attributes exclude each other, or one stands where it must not.
    #[error("attribute {kind} does not go with the rest of the message")]
    AttrConflict {
        /// Attribute type.
        kind: u16,
    },
    /// Neither IPv4 nor IPv6.
    #[error("address family {family} is not handled here")]
    Family {
        /// AF_*.
        family: u8,
    },
    /// A prefix length beyond the family's addresses.
    #[error("prefix length {len} is too long")]
    PrefixLength {
        /// The length, bits.
        len: u8,
    },
    /// What is to be written does not fit the length field (attributes 65535 octets, messages 4
    /// GiB).
    #[error("too long to be written")]
    TooLong,
}

impl NetlinkError {
    /// The errno the kernel answers with (positive), but for family, which it calls EINVAL in a
    /// nexthop object.
    pub const fn errno(self) -> i32 {
        match self {
            NetlinkError::Family { .. } => libc::EOPNOTSUPP,
            NetlinkError::AttrLength { .. } => libc::ERANGE,
            NetlinkError::TooLong => libc::EMSGSIZE,
            _ => libc::EINVAL,
        }
    }
}
