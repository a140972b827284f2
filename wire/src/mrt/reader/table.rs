//! TABLE_DUMP_V2 (RFC 6396 section 4.3, RFC 8050 section 4).

use super::{Cut, MrtError, Place, Route};
use crate::bgp::update::{Attributes, attr, mp_reach};
use crate::bgp::{Family, Prefix};
use bytes::Bytes;
use std::net::IpAddr;

pub(super) const PEER_INDEX_TABLE: u16 = 1;

/// One entry of the peer index table.
pub(super) struct Peer {
    address: IpAddr,
    asn: u32,
}

/// Reads a PEER_INDEX_TABLE.
pub(super) fn peers(mut body: Cut) -> Option<Vec<Peer>> {
    let _collector = body.u32()?;
    let name = usize::from(body.u16()?);
    body.take(name)?;
    let count = body.u16()?;
    (0..count)
        .map(|_| {
            let kind = body.u8()?;
            let _bgp_id = body.u32()?;
            let address = body.address(kind & 1 != 0)?;
            Some(Peer { address, asn: body.asn(kind & 2 != 0)? })
        })
        .collect()
}

/// A RIB record: one prefix, and what each peer says of it.
pub(super) struct Rib {
    place: Place,
    at_us: u64,
    prefix: Prefix,
    addpath: bool,
    left: u16,
    entries: Cut,
}

impl Rib {
    /// Reads what stands before the entries.
    pub fn new(place: Place, at_us: u64, mut body: Cut) -> Result<Rib, MrtError> {
        let (family, addpath) = match place.subtype {
            2 => (Family::IPV4_UNICAST, false),
            4 => (Family::IPV6_UNICAST, false),
            8 => (Family::IPV4_UNICAST, true),
            10 => (Family::IPV6_UNICAST, true),
            _ => return Err(place.unsupported()),
        };
        let mut head = || {
            let _sequence = body.u32()?;
            let len = body.u8()?;
            let octets = body.take(usize::from(len).div_ceil(8))?;
            Some((Prefix::from_wire(family, len, &octets)?, body.u16()?))
        };
        let (prefix, left) = head().ok_or_else(|| place.malformed("its prefix cannot be read"))?;
        Ok(Rib { place, at_us, prefix, addpath, left, entries: body })
    }

    /// The next peer's route; `None` after the last.
    pub fn next_route(&mut self, peers: &[Peer]) -> Option<Result<Route, MrtError>> {
        self.left = self.left.checked_sub(1)?;
        let Some((index, path_id, attributes)) = self.entry() else {
            self.left = 0;
            return Some(Err(self.place.malformed("it ends within an entry")));
        };
        Some(self.route(peers.get(usize::from(index)), path_id, attributes).map_err(|what| self.place.malformed(what)))
    }

    fn entry(&mut self) -> Option<(u16, Option<u32>, Bytes)> {
        let (index, _originated) = (self.entries.u16()?, self.entries.u32()?);
        let path_id = if self.addpath { Some(self.entries.u32()?) } else { None };
        let len = usize::from(self.entries.u16()?);
        Some((index, path_id, self.entries.take(len)?))
    }

    fn route(&self, peer: Option<&Peer>, path_id: Option<u32>, attributes: Bytes) -> Result<Route, &'static str> {
        let peer = peer.ok_or("an entry's peer is not in the peer index table")?;
        let (mp_next_hop, attributes) = without_mp(attributes)?;
        Ok(Route {
            at_us: self.at_us,
            peer: peer.address,
            peer_as: peer.asn,
            prefix: self.prefix,
            path_id,
            mp_next_hop,
            attributes,
        })
    }
}

/// Takes the next hop of MP_REACH_NLRI out of an entry's attributes, and the MP attributes with it.
fn without_mp(all: Bytes) -> Result<(Bytes, Bytes), &'static str> {
    const MP: [u8; 2] = [attr::MP_REACH_NLRI, attr::MP_UNREACH_NLRI];
    let (mut next_hop, mut any) = (Bytes::new(), false);
    for a in Attributes::new(&all) {
        let a = a.map_err(|_| "an attribute runs past its entry's end")?;
        any |= MP.contains(&a.code);
        if a.code == attr::MP_REACH_NLRI {
            next_hop = all.slice_ref(mp_next_hop(a.value).ok_or("MP_REACH_NLRI cannot be read")?);
        }
    }
    if !any {
        return Ok((next_hop, all));
    }
    let mut rest = Vec::with_capacity(all.len());
    for a in Attributes::new(&all).flatten().filter(|a| !MP.contains(&a.code)) {
        rest.extend_from_slice(a.raw);
    }
    Ok((next_hop, rest.into()))
}

/// The next hop in an MP_REACH_NLRI of a table dump: there it is cut to next hop length and next
/// hop (RFC 6396 section 4.3.4), though some collectors wrote the whole attribute. A whole one
/// begins with the AFI's high octet, which is 0.
fn mp_next_hop(value: &[u8]) -> Option<&[u8]> {
    match value.split_first()? {
        (0, _) => mp_reach(value).map(|mp| mp.next_hop),
        (&len, next_hop) => Some(next_hop).filter(|n| n.len() == usize::from(len)),
    }
}
