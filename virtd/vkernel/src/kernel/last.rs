//! A route like one before. Of a table's routes most say the same as one of the last few but for
//! where they go: that is not taken apart again, its gateway not looked up, and what it shares with
//! the others not searched for.

use super::super::system::System;
use super::VirtualKernel;
use super::lookup::Known;
use super::v4::real;
use std::net::{IpAddr, Ipv4Addr};
use wire::bgp::Prefix;
use wire::netlink::RouteMessage;
use wire::netlink::consts::*;
use wire::netlink::fib::FibKey;
use wire::netlink::route::DST_LEN_AT;

/// Octets of an IPv4 address.
const LEN: usize = 4;

/// An IPv4 route over one gateway that was taken.
#[derive(Debug)]
pub(super) struct Last {
    /// What stood behind the header of the request.
    octets: Box<[u8]>,
    /// Where in it the destination is.
    dst: usize,
    key: FibKey,
    /// The way to its gateway.
    way: Known,
    /// What it shares with others, and when that was born: the number may be another's by now.
    id: u32,
    born: u64,
}

impl Last {
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Last>() + self.octets.len()
    }

    /// Whether this is the same but for where it goes.
    fn is_like(&self, said: &[u8]) -> bool {
        let same = |range: std::ops::Range<usize>| said.get(range.clone()) == self.octets.get(range);
        let end = self.octets.len();
        said.len() == end && same(0..DST_LEN_AT) && same(DST_LEN_AT + 1..self.dst) && same(self.dst + LEN..end)
    }
}

impl VirtualKernel {
    /// Where a new route says what one of the last did, but for where it goes: its key, and the
    /// number of what it shares. Nothing of what the answer hangs on may have changed, and what is
    /// wrong is left to who takes it apart.
    pub(super) fn as_before(&mut self, said: &[u8], system: &System) -> Option<(FibKey, u32)> {
        let &Last { dst, key, way, id, born, .. } = self.lasts.find(|last| last.is_like(said))?;
        if !self.ways.contain(&way) || !self.is_current(&way, system) || self.infos.born(id) != Some(born) {
            return None;
        }
        let octets: [u8; LEN] = said.get(dst..dst + LEN)?.try_into().ok()?;
        let address = IpAddr::V4(Ipv4Addr::from(octets));
        let prefix = Prefix::new(address, *said.get(DST_LEN_AT)?).filter(|prefix| prefix.addr() == address)?;
        Some((FibKey { prefix, ..key }, id))
    }

    /// A route was taken. Of those over an object, to a device or over several hops the answer
    /// hangs on more than [`Last`] knows.
    pub(super) fn remember(&mut self, said: &[u8], m: &RouteMessage, key: FibKey, id: u32) {
        let gateway = real(m.gateway).filter(IpAddr::is_ipv4);
        let plain = m.kind == RTN_UNICAST
            && m.nh_id.unwrap_or(0) == 0
            && m.multipath.is_empty()
            && m.flags & u32::from(RTNH_F_ONLINK) == 0
            && real(m.prefsrc).is_none();
        // Its own key may lead over its gateway: then there is no way any more.
        let asked = gateway.map(|gateway| (gateway, m.oif.unwrap_or(0), key.table, m.scope));
        let way = asked.filter(|_| plain).and_then(|asked| self.ways.find(&asked));
        // What was known of the like of it is outdated, or it would not have been taken apart.
        self.lasts.retain(|last| !last.is_like(said));
        let (Some(way), Some(born), Some(dst)) = (way, self.infos.born(id), RouteMessage::dst_at(said, LEN)) else {
            return;
        };
        self.lasts.push(Last { octets: said.into(), dst, key, way, id, born });
    }
}
