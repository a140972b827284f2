//! An UPDATE taken apart in place (RFC 4271 section 4.3, RFC 4760 sections 3 and 4).
//!
//! [`Update::parse`] checks only structure: the three length fields, that attributes end where they
//! say, that each NLRI field splits into prefixes. Whether attribute *values* make sense is
//! [`super::hygiene`]'s business, because RFC 7606 answers that with something milder than a reset.
//!
//! ```text
//! +-----------------+------------------+----------------+------------+------+
//! | withdrawn len 2 | withdrawn routes | attributes len 2 | attributes | NLRI |
//! +-----------------+------------------+----------------+------------+------+
//! ```

use super::types::{Family, Notification, Prefix};

/// Attribute type codes (IANA "BGP Path Attributes").
#[allow(missing_docs)]
pub mod attr {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const PMSI_TUNNEL: u8 = 22;
    pub const TUNNEL_ENCAP: u8 = 23;
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub const AIGP: u8 = 26;
    pub const LARGE_COMMUNITY: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
    pub const PREFIX_SID: u8 = 40;
    pub const ATTR_SET: u8 = 128;
}

/// Attribute flag bits (RFC 4271 section 4.3).
#[allow(missing_docs)]
pub mod flag {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    pub const EXTENDED: u8 = 0x10;
}

/// One path attribute as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The flags octet as sent.
    pub flags: u8,
    /// The type code.
    pub code: u8,
    /// The value, without header.
    pub value: &'a [u8],
    /// Header and value: what is copied when the attribute passes untouched.
    pub raw: &'a [u8],
}

/// Splits an attribute field; yields `Err` once, with the rest of the field, where an attribute
/// runs past its end.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Reads `field`, a path attributes field without its length.
    pub const fn new(field: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: field }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, &'a [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let all = self.rest;
        if all.is_empty() {
            return None;
        }
        let parsed = (|| {
            let (&flags, &code) = (all.first()?, all.get(1)?);
            let (len, header) = if flags & flag::EXTENDED != 0 {
                (usize::from(u16::from_be_bytes([*all.get(2)?, *all.get(3)?])), 4)
            } else {
                (usize::from(*all.get(2)?), 3)
            };
            let raw = all.get(..header + len)?;
            let value = raw.get(header..)?;
            Some((Attribute { flags, code, value, raw }, all.get(header + len..)?))
        })();
        Some(match parsed {
            Some((attribute, rest)) => {
                self.rest = rest;
                Ok(attribute)
            }
            None => {
                self.rest = &[];
                Err(all)
            }
        })
    }
}

/// The prefixes of an NLRI field of a voted family that has been checked by [`Nlri::check`].
#[derive(Clone, Copy, Debug)]
pub struct Nlri<'a> {
    family: Family,
    bytes: &'a [u8],
}

impl<'a> Nlri<'a> {
    /// Wraps `bytes` after checking that they split into prefixes of `family`, without path ids.
    /// `None` where they do not: RFC 4271 section 6.3, "Invalid Network Field".
    pub fn check(family: Family, bytes: &'a [u8]) -> Option<Nlri<'a>> {
        let max = if family.afi == 2 { 128 } else { 32 };
        let mut rest = bytes;
        while let Some((&len, tail)) = rest.split_first() {
            if len > max {
                return None;
            }
            rest = tail.get(usize::from(len).div_ceil(8)..)?;
        }
        Some(Nlri { family, bytes })
    }

    /// The field as it stands in the message.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The family of every prefix in it.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Whether there is no prefix.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Iterator for Nlri<'_> {
    type Item = Prefix;

    #[inline]
    fn next(&mut self) -> Option<Prefix> {
        let (&len, tail) = self.bytes.split_first()?;
        let n = usize::from(len).div_ceil(8);
        let prefix = Prefix::from_wire(self.family, len, tail)?;
        self.bytes = tail.get(n..)?;
        Some(prefix)
    }
}

/// MP_REACH_NLRI (RFC 4760 section 3).
#[derive(Clone, Copy, Debug)]
pub struct MpReach<'a> {
    /// The family announced.
    pub family: Family,
    /// The next hop field, 4, 16 or 32 octets for unicast.
    pub next_hop: &'a [u8],
    /// The NLRI field, raw; use [`Nlri::check`] for voted families.
    pub nlri: &'a [u8],
}

/// MP_UNREACH_NLRI (RFC 4760 section 4).
#[derive(Clone, Copy, Debug)]
pub struct MpUnreach<'a> {
    /// The family withdrawn.
    pub family: Family,
    /// The withdrawn routes field, raw.
    pub nlri: &'a [u8],
}

/// Reads the value of an MP_REACH_NLRI attribute; `None` where its next hop runs past its end.
pub fn mp_reach(value: &[u8]) -> Option<MpReach<'_>> {
    let family = Family { afi: u16::from_be_bytes([*value.first()?, *value.get(1)?]), safi: *value.get(2)? };
    let n = usize::from(*value.get(3)?);
    let next_hop = value.get(4..4 + n)?;
    // One reserved octet (once the number of SNPAs) stands between the next hop and the NLRI.
    let nlri = value.get(4 + n + 1..)?;
    Some(MpReach { family, next_hop, nlri })
}

/// Reads the value of an MP_UNREACH_NLRI attribute; `None` where it is shorter than its family.
pub fn mp_unreach(value: &[u8]) -> Option<MpUnreach<'_>> {
    let family = Family { afi: u16::from_be_bytes([*value.first()?, *value.get(1)?]), safi: *value.get(2)? };
    Some(MpUnreach { family, nlri: value.get(3..)? })
}

/// An UPDATE whose structure is sound: attributes end where they say, MP attributes stand at most
/// once each, and every NLRI field of a voted family splits into prefixes.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// Withdrawn IPv4 unicast routes.
    pub withdrawn: Nlri<'a>,
    /// The whole path attributes field.
    pub attributes: &'a [u8],
    /// Announced IPv4 unicast routes.
    pub nlri: Nlri<'a>,
    /// MP_REACH_NLRI, if present (any family).
    pub mp_reach: Option<MpReach<'a>>,
    /// MP_UNREACH_NLRI, if present (any family).
    pub mp_unreach: Option<MpUnreach<'a>>,
}

/// The three fields of an UPDATE by their length fields alone.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// Withdrawn routes field.
    pub withdrawn: &'a [u8],
    /// Path attributes field.
    pub attributes: &'a [u8],
    /// NLRI field.
    pub nlri: &'a [u8],
}

/// Splits an UPDATE's body (what follows the 19-octet header) by its two length fields.
///
/// # Errors
/// 3/1, Malformed Attribute List, where a length field runs past the message (RFC 4271 section
/// 6.3).
pub fn fields(body: &[u8]) -> Result<Fields<'_>, Notification> {
    let split = |b| -> Option<(&[u8], &[u8])> {
        let b: &[u8] = b;
        let n = usize::from(u16::from_be_bytes([*b.first()?, *b.get(1)?]));
        Some((b.get(2..2 + n)?, b.get(2 + n..)?))
    };
    let parsed = split(body).and_then(|(withdrawn, rest)| {
        let (attributes, nlri) = split(rest)?;
        Some(Fields { withdrawn, attributes, nlri })
    });
    parsed.ok_or(Notification::new(3, 1))
}

impl<'a> Update<'a> {
    /// Takes `body` (what follows the 19-octet header) apart.
    ///
    /// This is strict: use it on messages that hygiene has passed or rewritten, and on what we
    /// sent. [`super::hygiene::check`] reads raw messages from a neighbour and is milder where RFC
    /// 7606 says so.
    ///
    /// # Errors
    /// 3/1 for lengths that do not add up or an MP attribute that stands twice, 3/9 for an MP
    /// attribute that cannot be read or whose NLRI does not split into prefixes (RFC 4760 section
    /// 7), 3/10 for such an NLRI field or withdrawn routes field.
    pub fn parse(body: &'a [u8]) -> Result<Update<'a>, Notification> {
        let f = fields(body)?;
        let network = || Notification::new(3, 10);
        let mut update = Update {
            withdrawn: Nlri::check(Family::IPV4_UNICAST, f.withdrawn).ok_or_else(network)?,
            attributes: f.attributes,
            nlri: Nlri::check(Family::IPV4_UNICAST, f.nlri).ok_or_else(network)?,
            mp_reach: None,
            mp_unreach: None,
        };
        for attribute in Attributes::new(f.attributes) {
            let a = attribute.map_err(|_| Notification::new(3, 1))?;
            let (family, nlri) = match a.code {
                attr::MP_REACH_NLRI if update.mp_reach.is_none() => {
                    let mp = mp_reach(a.value).ok_or_else(|| Notification::with_data(3, 9, a.raw))?;
                    update.mp_reach = Some(mp);
                    (mp.family, mp.nlri)
                }
                attr::MP_UNREACH_NLRI if update.mp_unreach.is_none() => {
                    let mp = mp_unreach(a.value).ok_or_else(|| Notification::with_data(3, 9, a.raw))?;
                    update.mp_unreach = Some(mp);
                    (mp.family, mp.nlri)
                }
                attr::MP_REACH_NLRI | attr::MP_UNREACH_NLRI => return Err(Notification::new(3, 1)),
                _ => continue,
            };
            if family.is_voted() && Nlri::check(family, nlri).is_none() {
                return Err(Notification::with_data(3, 9, a.raw));
            }
        }
        Ok(update)
    }

    /// The prefixes of MP_REACH_NLRI, where its family is a voted one.
    pub fn mp_announced(&self) -> Option<Nlri<'a>> {
        let mp = self.mp_reach?;
        mp.family.is_voted().then(|| Nlri::check(mp.family, mp.nlri)).flatten()
    }

    /// The prefixes of MP_UNREACH_NLRI, where its family is a voted one.
    pub fn mp_withdrawn(&self) -> Option<Nlri<'a>> {
        let mp = self.mp_unreach?;
        mp.family.is_voted().then(|| Nlri::check(mp.family, mp.nlri)).flatten()
    }

    /// Whether a route of any family is announced or withdrawn.
    pub fn has_routes(&self) -> bool {
        let mp_reach = self.mp_reach.is_some_and(|mp| !mp.nlri.is_empty());
        let mp_unreach = self.mp_unreach.is_some_and(|mp| !mp.nlri.is_empty());
        !self.withdrawn.is_empty() || !self.nlri.is_empty() || mp_reach || mp_unreach
    }

    /// The family whose End-of-RIB marker this is (RFC 4724 section 2), if it is one.
    pub fn end_of_rib(&self) -> Option<Family> {
        if !self.withdrawn.is_empty() || !self.nlri.is_empty() || self.mp_reach.is_some() {
            return None;
        }
        match self.mp_unreach {
            None if self.attributes.is_empty() => Some(Family::IPV4_UNICAST),
            // The marker holds this one attribute and nothing in it but the family.
            Some(mp) if mp.nlri.is_empty() && self.attributes.len() <= 7 => Some(mp.family),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
