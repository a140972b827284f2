//! What the real kernel says, and what is written to it.

use crate::event::Event;
use bytes::Bytes;
use std::net::IpAddr;
use vkernel::io::Change;
use wire::netlink::fib::FibKey;

/// What the kernel's own thread has seen, and what became of what was written.
#[derive(Clone, PartialEq, Debug)]
pub enum KernelNews {
    /// Virtual kernels have to follow this.
    Change(Change),
    /// All links and addresses that there are have been told: what comes from now on are changes.
    LinksRead,
    /// The route to a configured peer that is not directly connected has changed, come or gone;
    /// one of virtd's own that is written anew is no change.
    Path {
        /// The peer.
        peer: IpAddr,
    },
    /// What virtd wrote for this key could not be put into the kernel (`Some`: errno), or now is
    /// there after all.
    Written {
        /// Which.
        key: FibKey,
        /// Why not.
        errno: Option<i32>,
    },
    /// Something to tell the operator: a repair, what was adopted or swept, notifications that were
    /// lost.
    Event(Event),
}

/// What the kernel is to hold for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FibChange {
    /// Which.
    pub key: FibKey,
    /// The route in its canonical form ([`wire::netlink::fib::FibRoute::from_bytes`]); `None`: none
    /// of ours.
    pub route: Option<Bytes>,
}
