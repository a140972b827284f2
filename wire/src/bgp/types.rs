//! The small types that every other module of [`crate::bgp`] speaks in.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address family and subsequent address family (RFC 4760 section 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family {
    /// Address Family Identifier.
    pub afi: u16,
    /// Subsequent Address Family Identifier.
    pub safi: u8,
}

impl Family {
    /// IPv4 unicast (1, 1).
    pub const IPV4_UNICAST: Family = Family { afi: 1, safi: 1 };
    /// IPv6 unicast (2, 1).
    pub const IPV6_UNICAST: Family = Family { afi: 2, safi: 1 };

    /// Whether this project votes on routes of this family: IPv4 and IPv6 unicast.
    pub const fn is_voted(self) -> bool {
        matches!((self.afi, self.safi), (1 | 2, 1))
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Family::IPV4_UNICAST => f.write_str("ipv4-unicast"),
            Family::IPV6_UNICAST => f.write_str("ipv6-unicast"),
            Family { afi, safi } => write!(f, "afi{afi}/safi{safi}"),
        }
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv4 or IPv6 unicast prefix, masked: bits past the length are zero, so equal prefixes are
/// equal values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    v6: bool,
    bits: [u8; 16],
    len: u8,
}

/// By family, address and length. Tables of routes are searched by this, and octet by octet it
/// would be most of a search.
impl Ord for Prefix {
    #[inline]
    fn cmp(&self, other: &Prefix) -> Ordering {
        let key = |p: &Prefix| (p.v6, u128::from_be_bytes(p.bits), p.len);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Prefix {
    #[inline]
    fn partial_cmp(&self, other: &Prefix) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// In two words instead of an array and two octets.
impl Hash for Prefix {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.bits));
        state.write_u16(u16::from(self.len) << 1 | u16::from(self.v6));
    }
}

impl Prefix {
    /// A masked prefix; `None` where `len` is longer than the address (32 or 128).
    pub fn new(addr: IpAddr, len: u8) -> Option<Prefix> {
        match addr {
            IpAddr::V4(a) => Prefix::from_wire(Family::IPV4_UNICAST, len, &a.octets()),
            IpAddr::V6(a) => Prefix::from_wire(Family::IPV6_UNICAST, len, &a.octets()),
        }
    }

    /// A prefix from its NLRI encoding (RFC 4271 section 4.3): `octets` holds at least `len` bits.
    /// `None` where `len` is longer than the family's addresses or `octets` is too short.
    #[inline]
    pub fn from_wire(family: Family, len: u8, octets: &[u8]) -> Option<Prefix> {
        let v6 = family.afi == 2;
        let max = if v6 { 128 } else { 32 };
        let n = usize::from(len).div_ceil(8);
        if len > max {
            return None;
        }
        let mut bits = [0u8; 16];
        bits.get_mut(..n)?.copy_from_slice(octets.get(..n)?);
        if !len.is_multiple_of(8) {
            bits[n - 1] &= 0xffu8 << (8 - len % 8);
        }
        Some(Prefix { v6, bits, len })
    }

    /// Number of bits of the prefix, 0 to 32 or 0 to 128.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// The unicast family this prefix belongs to.
    #[inline]
    pub const fn family(&self) -> Family {
        if self.v6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST }
    }

    /// The address part, its host bits zero.
    pub fn addr(&self) -> IpAddr {
        if self.v6 {
            IpAddr::V6(Ipv6Addr::from(self.bits))
        } else {
            let [a, b, c, d, ..] = self.bits;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
    }

    /// The octets that stand behind the length byte in an NLRI field (RFC 4271 section 4.3).
    #[inline]
    pub fn octets(&self) -> &[u8] {
        &self.bits[..usize::from(self.len).div_ceil(8)]
    }

    /// Whether `other` is this prefix or a more specific one of the same family.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.v6 == other.v6
            && self.len <= other.len
            && Prefix::from_wire(self.family(), self.len, &other.bits).as_ref() == Some(self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// Reads `192.0.2.0/24` or `2001:db8::/32`; a bare address is a host route.
    fn from_str(s: &str) -> Result<Prefix, String> {
        let (addr, len) = match s.split_once('/') {
            Some((a, l)) => (a, Some(l)),
            None => (s, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| format!("{s:?} is not a prefix: expected ADDRESS/LENGTH"))?;
        let max = if addr.is_ipv6() { 128 } else { 32 };
        let len = match len {
            Some(l) => l.parse().map_err(|_| format!("{s:?}: the length is a number from 0 to {max}"))?,
            None => max,
        };
        Prefix::new(addr, len).ok_or_else(|| format!("{s:?}: the length is a number from 0 to {max}"))
    }
}

impl serde::Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Prefix, D::Error> {
        let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

/// What kind of neighbour stands at the other end; RFC 7606 and RFC 5065 treat some attributes by
/// it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionKind {
    /// The neighbour's AS is not ours.
    Ebgp,
    /// The neighbour's AS is ours.
    Ibgp,
    /// The neighbour is in another member AS of our confederation (RFC 5065).
    Confederation,
}

/// What an UPDATE's reader must know of the session it came over.
#[derive(Clone, Copy, Debug)]
pub struct UpdateContext {
    /// Both sides sent the 4-octet AS capability (RFC 6793): AS numbers in AS_PATH and AGGREGATOR
    /// take four octets.
    pub as4: bool,
    /// Which rules of RFC 7606 apply.
    pub kind: SessionKind,
    /// IPv4 unicast NLRI may carry an IPv6 next hop in MP_REACH_NLRI (RFC 8950, negotiated).
    pub extended_next_hop: bool,
    /// Addresses in 240.0.0.0/4 (class E, reserved by RFC 1112) may be a NEXT_HOP.
    pub class_e: bool,
    /// The longest message either side may send: 4096, or 65535 with extended messages (RFC 8654).
    pub max_message_len: usize,
}

impl UpdateContext {
    /// An eBGP session with 4-octet AS numbers and nothing else.
    pub const EBGP: UpdateContext = UpdateContext {
        as4: true,
        kind: SessionKind::Ebgp,
        extended_next_hop: false,
        class_e: false,
        max_message_len: super::frame::MAX_LEN,
    };
}

/// A NOTIFICATION's content (RFC 4271 section 4.5); also what every wire error names as its remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", crate::bgp::message::notification_name(*.code, *.subcode))]
pub struct Notification {
    /// Error code, 1 to 8.
    pub code: u8,
    /// Error subcode; 0 is "unspecific".
    pub subcode: u8,
    /// The Data field: the offending attribute, the unsupported capability, a shutdown text (RFC
    /// 9003).
    pub data: Vec<u8>,
}

impl Notification {
    /// A NOTIFICATION without data.
    pub const fn new(code: u8, subcode: u8) -> Notification {
        Notification { code, subcode, data: Vec::new() }
    }

    /// A NOTIFICATION with data.
    pub fn with_data(code: u8, subcode: u8, data: &[u8]) -> Notification {
        Notification { code, subcode, data: data.to_vec() }
    }
}

/// Octets in hexadecimal.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut text, octet| {
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// Octets of such a form; `None`: it is none.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().as_chunks::<2>();
    let digit = |c: &u8| char::from(*c).to_digit(16);
    let octet = |pair: &[u8; 2]| u8::try_from(digit(&pair[0])? << 4 | digit(&pair[1])?).ok();
    pairs.0.iter().map(octet).collect::<Option<Vec<u8>>>().filter(|_| pairs.1.is_empty())
}

#[cfg(test)]
#[path = "types_tests.rs"]
mod tests;
