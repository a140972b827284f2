//! The links, addresses and routes that carry the sessions, as far as the kernel has told: what daemons end a session for.
//!
//! Fed with [`KernelNews`], with and without `[fib]`.

use super::io::{KernelNews, Micros};
use std::net::IpAddr;

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Links {}

impl Links {
    /// Nothing is known.
    pub fn new() -> Links {
        Links::default()
    }

    /// The kernel says something.
    pub fn take(&mut self, _news: &KernelNews, _now: Micros) {}

    #[allow(dead_code)]
    /// When the link that the peer is on, an address on that link, our address `local`, or a route to the peer last changed.
    pub fn changed(&self, _peer: IpAddr, _local: Option<IpAddr>) -> Option<Micros> {
        None
    }

    #[allow(dead_code)]
    /// Why no session with the peer can stand now: the link of a directly connected peer is down, or our address `local`
    /// is gone. In words; `None` where nothing is known to be wrong.
    pub fn cut(&self, _peer: IpAddr, _local: Option<IpAddr>) -> Option<String> {
        None
    }
}
