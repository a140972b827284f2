//! The canonical octets of a [`FibRoute`]: equal octets for equal meaning, so that candidates can
//! be interned.
//!
//! ```text
//! kind 1 | which 1 | prefsrc 0, 4 or 16 | [metrics: count 2, { type 2, len 2, value }] | hop count 2
//! | { which 1 | gateway 0, 4 or 16 | [interface 4] | [weight 4] | [tunnel: kind 2, len 2, attributes] }
//! -- up to here compared --
//! | onlink bits, the first hop's lowest in the first octet; none where no hop is | their number of octets 1
//! ```
//! Numbers are big-endian.

use super::{FibHop, FibRoute, MAX_HOPS};
use crate::netlink::attr::{Encap, RawAttr};
use std::borrow::Cow;
use std::net::IpAddr;

/// In both `which`: an IPv4 address, an IPv6 address.
const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;
/// In the route's.
const HAS_METRICS: u8 = 4;
/// In a hop's.
const HAS_OIF: u8 = 4;
const HAS_WEIGHT: u8 = 8;
const HAS_ENCAP: u8 = 16;

fn which_address(address: Option<IpAddr>) -> u8 {
    match address {
        None => 0,
        Some(IpAddr::V4(_)) => HAS_V4,
        Some(IpAddr::V6(_)) => HAS_V6,
    }
}

fn put_address(address: Option<IpAddr>, out: &mut Vec<u8>) {
    match address {
        None => {}
        Some(IpAddr::V4(a)) => out.extend_from_slice(&a.octets()),
        Some(IpAddr::V6(a)) => out.extend_from_slice(&a.octets()),
    }
}

/// Type, length, value. Values come out of attributes, so their lengths fit; one made by hand that
/// does not is cut.
fn put_tlv(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value.get(..usize::from(len)).unwrap_or_default());
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[octet]| octet)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn address(&mut self, which: u8) -> Option<Option<IpAddr>> {
        match which & (HAS_V4 | HAS_V6) {
            0 => Some(None),
            HAS_V4 => self.array::<4>().map(|octets| Some(octets.into())),
            HAS_V6 => self.array::<16>().map(|octets| Some(octets.into())),
            _ => None,
        }
    }

    fn tlv(&mut self) -> Option<(u16, Vec<u8>)> {
        let (kind, len) = (self.u16()?, self.u16()?);
        Some((kind, self.bytes(usize::from(len))?.to_vec()))
    }

    fn hop(&mut self) -> Option<FibHop> {
        let which = self.u8()?;
        let gateway = self.address(which)?;
        let oif = if which & HAS_OIF != 0 { Some(self.u32()?) } else { None };
        let weight = if which & HAS_WEIGHT != 0 { self.u32()? } else { 1 };
        let encap = if which & HAS_ENCAP != 0 {
            let (kind, data) = self.tlv()?;
            Some(Encap { kind, data })
        } else {
            None
        };
        Some(FibHop { gateway, oif, encap, weight, onlink: false })
    }

    fn compared_part(&mut self) -> Option<FibRoute> {
        let (kind, which) = (self.u8()?, self.u8()?);
        let prefsrc = self.address(which)?;
        let mut metrics = Vec::new();
        if which & HAS_METRICS != 0 {
            for _ in 0..self.u16()? {
                let (raw_kind, payload) = self.tlv()?;
                metrics.push(RawAttr { raw_kind, payload });
            }
        }
        let mut hops = Vec::new();
        for _ in 0..self.u16()? {
            hops.push(self.hop()?);
        }
        Some(FibRoute { kind, prefsrc, metrics, hops })
    }
}

impl FibHop {
    fn put(&self, out: &mut Vec<u8>) {
        let which = which_address(self.gateway)
            | if self.oif.is_some() { HAS_OIF } else { 0 }
            | if self.weight != 1 { HAS_WEIGHT } else { 0 }
            | if self.encap.is_some() { HAS_ENCAP } else { 0 };
        out.push(which);
        put_address(self.gateway, out);
        if let Some(index) = self.oif {
            out.extend_from_slice(&index.to_be_bytes());
        }
        if self.weight != 1 {
            out.extend_from_slice(&self.weight.to_be_bytes());
        }
        if let Some(encap) = &self.encap {
            put_tlv(encap.kind, &encap.data, out);
        }
    }
}

impl FibRoute {
    /// The canonical octets, 13 for a single IPv4 hop with its interface.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        self.write_bytes(&mut out);
        out
    }

    /// Appends the canonical octets.
    pub fn write_bytes(&self, out: &mut Vec<u8>) {
        let is_normal = self.metrics.is_empty() && matches!(self.hops.as_slice(), [hop] if hop.weight == 1);
        let mut route = Cow::Borrowed(self);
        if !is_normal || super::is_reject(self.kind) {
            route.to_mut().normalise();
            // A route made by hand; parsed and merged ones have no more.
            route.to_mut().hops.truncate(MAX_HOPS);
        }
        out.push(route.kind);
        out.push(which_address(route.prefsrc) | if route.metrics.is_empty() { 0 } else { HAS_METRICS });
        put_address(route.prefsrc, out);
        if !route.metrics.is_empty() {
            put_count(route.metrics.len(), out);
            route.metrics.iter().for_each(|metric| put_tlv(metric.raw_kind, &metric.payload, out));
        }
        put_count(route.hops.len(), out);
        route.hops.iter().for_each(|hop| hop.put(out));
        put_onlink(&route.hops, out);
    }

    /// The octets of [`FibRoute::to_bytes`] that the voter compares: all but the onlink flags.
    pub fn compared(bytes: &[u8]) -> &[u8] {
        match bytes.split_last() {
            Some((&onlink, rest)) => rest.get(..rest.len().saturating_sub(usize::from(onlink))).unwrap_or_default(),
            None => bytes,
        }
    }

    /// The route that [`FibRoute::to_bytes`] wrote, in its normal form; `None` for octets that it
    /// cannot have written.
    pub fn from_bytes(bytes: &[u8]) -> Option<FibRoute> {
        let mut reader = Reader(bytes);
        let mut route = reader.compared_part()?;
        let (&count, onlink) = reader.0.split_last()?;
        if usize::from(count) != onlink.len() {
            return None;
        }
        for (index, hop) in route.hops.iter_mut().enumerate() {
            hop.onlink = onlink.get(index / 8).is_some_and(|octet| octet >> (index % 8) & 1 != 0);
        }
        (route.to_bytes() == bytes).then_some(route)
    }
}

fn put_onlink(hops: &[FibHop], out: &mut Vec<u8>) {
    if !hops.iter().any(|hop| hop.onlink) {
        out.push(0);
        return;
    }
    let octets = hops.chunks(8).map(|eight| eight.iter().rev().fold(0, |bits, hop| bits << 1 | u8::from(hop.onlink)));
    out.extend(octets);
    // MAX_HOPS / 8 is 128.
    out.push(u8::try_from(hops.len().div_ceil(8)).unwrap_or(u8::MAX));
}
