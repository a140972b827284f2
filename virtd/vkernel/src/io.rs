//! What the real kernel says that virtual ones have to follow, and what they tell their instances.

use bytes::Bytes;
use std::net::IpAddr;
use wire::netlink::fib::FibKey;
use wire::netlink::{RouteMessage, Writer};

/// What happens in the real kernel, as far as virtual ones have to follow it.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// An interface is there, or has changed.
    Link(Link),
    /// An interface is gone.
    LinkGone {
        /// Its index.
        index: u32,
    },
    /// An interface has an address.
    Address {
        /// Its index.
        index: u32,
        /// The address.
        address: IpAddr,
        /// Length of the prefix that is on the link with it.
        length: u8,
    },
    /// It has that address no more.
    AddressGone {
        /// Its index.
        index: u32,
        /// The address.
        address: IpAddr,
        /// Length of the prefix that was on the link with it.
        length: u8,
    },
    /// There is a route that is neither virtd's nor an instance's.
    Route {
        /// Its key.
        key: FibKey,
        /// All else that gateways are looked up by.
        route: OtherRoute,
        /// Where it stands among those of its key and metric.
        place: Place,
    },
    /// It is there no more.
    RouteGone {
        /// Its key.
        key: FibKey,
        /// All else.
        route: OtherRoute,
    },
    /// All such routes, as they were read as a whole, in the kernel's order; `None`: more than are
    /// kept.
    Routes(Option<Vec<(FibKey, OtherRoute)>>),
}

/// An interface, as far as routes need it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// IFF_UP: the operator wants it up.
    pub up: bool,
    /// IFF_RUNNING: it has a carrier.
    pub running: bool,
}

/// A route that is neither virtd's nor an instance's: the kernel's own for a subnet, an operator's,
/// another program's. No more of it than is needed to say whether a gateway can be reached over it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OtherRoute {
    /// Whose (rtm_protocol).
    pub protocol: u8,
    /// RTN_…
    pub kind: u8,
    /// RT_SCOPE_…
    pub scope: u8,
    /// The lower counts.
    pub metric: u32,
    /// It uses a nexthop object.
    pub object: bool,
    /// Interface, and whether there is a gateway. IPv6: one, the hops of a multipath route are
    /// routes of their own.
    pub hops: Vec<(u32, bool)>,
}

/// Where a new route stands among those of the same key and metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Before them: IPv4's way.
    First,
    /// Behind them: IPv4 with NLM_F_APPEND, and IPv6.
    Last,
    /// Instead of the first of them (NLM_F_REPLACE); in IPv6 of all.
    Instead,
}

/// How far the instance's own part of a dump has come. What is made or removed meanwhile may be in
/// it or not, what stays is in it once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DumpCursor {
    /// The key to go on with; `None`: the first.
    pub key: Option<FibKey>,
    /// The nexthop object to go on with.
    pub id: u32,
    /// The state of the objects when the dump began: Linux tells whether they have changed since
    /// (NLM_F_DUMP_INTR), which it does not of routes.
    pub objects: Option<u64>,
    /// Nothing is left.
    pub finished: bool,
}

/// A netlink notification that is no octets yet: a route goes into the real kernel before its
/// instance hears of it, and need not wait until that is written down.
#[derive(Debug)]
pub struct Note {
    /// RTNLGRP_.
    pub group: u32,
    /// RTM_.
    pub kind: u16,
    /// nlmsg_seq of the request that it follows from, or 0.
    pub seq: u32,
    /// nlmsg_pid likewise.
    pub port_id: u32,
    /// What stands behind the header.
    pub body: NoteBody,
}

impl Note {
    /// What recv shall give; `None` where that does not fit its length fields (thousands of hops),
    /// which the kernel does not tell either.
    pub fn encode(&self) -> Option<Bytes> {
        let mut bytes = Vec::with_capacity(192);
        let mut w = Writer::message(&mut bytes, self.kind, 0, self.seq, self.port_id);
        match &self.body {
            NoteBody::Route(message) => message.write(&mut w),
            NoteBody::Octets(octets) => w.put(octets),
        }
        w.finish().ok().map(|()| bytes.into())
    }
}

/// What stands behind a notification's header.
#[derive(Debug)]
pub enum NoteBody {
    /// About a route.
    Route(Box<RouteMessage>),
    /// About anything else.
    Octets(Vec<u8>),
}
