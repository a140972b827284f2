//! Attributes: length, type, payload, aligned to four octets (`struct nlattr`, `struct rtattr`).

use super::NetlinkError;
use super::consts::{AF_INET, AF_INET6, NLA_F_NESTED, NLA_TYPE_MASK};
use std::net::IpAddr;

/// Octets of an attribute's header.
pub const ATTR_HEADER_LEN: usize = 4;

/// Octets that `len` takes with its padding.
pub(crate) const fn align(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// One attribute of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr<'a> {
    /// The type with the NLA_F_NESTED and NLA_F_NET_BYTEORDER bits as they came.
    pub raw_kind: u16,
    /// What stands behind the header, without padding.
    pub payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// The type without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
    pub const fn kind(&self) -> u16 {
        self.raw_kind & NLA_TYPE_MASK
    }

    /// Whether NLA_F_NESTED is set; old users nest without it.
    pub const fn is_nested(&self) -> bool {
        self.raw_kind & NLA_F_NESTED != 0
    }

    /// The attributes inside this one.
    pub const fn nested(&self) -> Attrs<'a> {
        Attrs::new(self.payload)
    }

    /// A copy that owns its bytes.
    pub fn to_raw(&self) -> RawAttr {
        RawAttr { raw_kind: self.raw_kind, payload: self.payload.to_vec() }
    }

    fn exact<const N: usize>(&self) -> Result<[u8; N], NetlinkError> {
        self.payload.try_into().map_err(|_| self.length_error())
    }

    /// That the length of this attribute is wrong.
    pub const fn length_error(&self) -> NetlinkError {
        NetlinkError::AttrLength { kind: self.kind(), len: self.payload.len() }
    }

    /// The payload as one octet.
    pub fn u8(&self) -> Result<u8, NetlinkError> {
        self.exact().map(|[octet]| octet)
    }

    /// The payload as a 16-bit number.
    pub fn u16(&self) -> Result<u16, NetlinkError> {
        self.exact().map(u16::from_ne_bytes)
    }

    /// The payload as a 32-bit number.
    pub fn u32(&self) -> Result<u32, NetlinkError> {
        self.exact().map(u32::from_ne_bytes)
    }

    /// That the payload is empty: the attribute itself is the message.
    pub fn flag(&self) -> Result<(), NetlinkError> {
        self.exact().map(|[]| ())
    }

    /// The payload as an address of `family`.
    pub fn ip(&self, family: u8) -> Result<IpAddr, NetlinkError> {
        match family {
            AF_INET => self.exact().map(|octets: [u8; 4]| octets.into()),
            AF_INET6 => self.exact().map(|octets: [u8; 16]| octets.into()),
            _ => Err(NetlinkError::Family { family }),
        }
    }

    /// The payload as `struct rtvia`: a family of 16 bits and an address of it.
    pub fn via(&self) -> Result<IpAddr, NetlinkError> {
        let (family, address) = self.payload.split_first_chunk().ok_or(self.length_error())?;
        let family =
            u8::try_from(u16::from_ne_bytes(*family)).map_err(|_| NetlinkError::AttrValue { kind: self.kind() })?;
        Attr { raw_kind: self.raw_kind, payload: address }.ip(family)
    }

    /// The payload as a name, up to a NUL if there is one; octets that are not UTF-8 are replaced.
    pub fn name(&self) -> String {
        let end = self.payload.iter().position(|&octet| octet == 0).unwrap_or(self.payload.len());
        String::from_utf8_lossy(self.payload.get(..end).unwrap_or_default()).into_owned()
    }
}

/// The attributes in a message behind its fixed part, or inside another attribute. Ends after the
/// first error.
#[derive(Clone, Debug)]
pub struct Attrs<'a> {
    left: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// Attributes from the first octet of `bytes` to its last.
    pub const fn new(bytes: &'a [u8]) -> Attrs<'a> {
        Attrs { left: bytes }
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<Attr<'a>, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let left = std::mem::take(&mut self.left);
        let Some(&[a, b, c, d]) = left.first_chunk() else {
            return Some(Err(NetlinkError::AttrFraming { len: 0, left: left.len() }));
        };
        let (len, raw_kind) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let end = usize::from(len);
        let Some(payload) = left.get(ATTR_HEADER_LEN..end) else {
            return Some(Err(NetlinkError::AttrFraming { len, left: left.len() }));
        };
        // The last attribute may come without its padding.
        self.left = left.get(align(end)..).unwrap_or_default();
        Some(Ok(Attr { raw_kind, payload }))
    }
}

/// An attribute that is kept as it came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawAttr {
    /// The type with its NLA_F_* bits.
    pub raw_kind: u16,
    /// The payload, without padding.
    pub payload: Vec<u8>,
}

impl RawAttr {
    /// The attribute, borrowed.
    pub fn as_attr(&self) -> Attr<'_> {
        Attr { raw_kind: self.raw_kind, payload: &self.payload }
    }
}

/// A lightweight tunnel (RTA_ENCAP_TYPE and RTA_ENCAP, NHA_ENCAP_TYPE and NHA_ENCAP): MPLS labels,
/// SRv6, IP in IP …
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encap {
    /// LWTUNNEL_ENCAP_*.
    pub kind: u16,
    /// The nested attributes, as they came.
    pub data: Vec<u8>,
}

impl Encap {
    /// Joins the two attributes; where only one is there it says nothing to the kernel and is kept
    /// among `others`.
    pub(crate) fn join(
        kind: Option<Attr<'_>>,
        data: Option<Attr<'_>>,
        others: &mut Vec<RawAttr>,
    ) -> Result<Option<Encap>, NetlinkError> {
        match (kind, data) {
            (Some(kind), Some(data)) => Ok(Some(Encap { kind: kind.u16()?, data: data.payload.to_vec() })),
            (one, other) => {
                others.extend(one.iter().chain(other.iter()).map(Attr::to_raw));
                Ok(None)
            }
        }
    }
}
