//! OPEN, NOTIFICATION, KEEPALIVE and ROUTE-REFRESH (RFC 4271 section 4, RFC 5492, RFC 2918, RFC
//! 7313).

use super::frame::{HEADER_LEN, MAX_LEN, MessageType, header};
use super::types::{Family, Notification};
use bytes::Bytes;
use std::net::Ipv4Addr;

/// A capability of an OPEN (RFC 5492). Unknown or malformed ones are kept as [`Capability::Other`].
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Capability {
    /// 1 (RFC 4760).
    Multiprotocol(Family),
    /// 2 (RFC 2918).
    RouteRefresh,
    /// 5 (RFC 8950): (NLRI family, AFI of the next hop).
    ExtendedNextHop(Vec<(Family, u16)>),
    /// 6 (RFC 8654).
    ExtendedMessage,
    /// 9 (RFC 9234).
    Role(u8),
    /// 64 (RFC 4724).
    GracefulRestart {
        /// R and N bits, the upper four bits of the first octet where they stand there: 0x80 and
        /// 0x40.
        flags: u8,
        /// Restart time in seconds, 0 to 4095.
        restart_time_s: u16,
        /// (family, flags).
        families: Vec<(Family, u8)>,
    },
    /// 65 (RFC 6793).
    FourOctetAs(u32),
    /// 69 (RFC 7911): (family, 1 receive, 2 send, 3 both).
    AddPath(Vec<(Family, u8)>),
    /// 70 (RFC 7313).
    EnhancedRouteRefresh,
    /// Anything else, or one of the above with a length its RFC does not allow.
    Other {
        /// Capability code.
        code: u8,
        /// Capability value.
        value: Vec<u8>,
    },
}

/// An OPEN message (RFC 4271 section 4.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The AS number: the 4-octet capability's where present, else the header's My Autonomous
    /// System field.
    pub asn: u32,
    /// Proposed hold time in seconds; 0 or at least 3.
    pub hold_time_s: u16,
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// In the order they were sent, over all optional parameters.
    pub capabilities: Vec<Capability>,
}

/// What AS numbers above 65535 look like in a field of two octets (RFC 6793 section 9).
pub const AS_TRANS: u16 = 23456;

/// Optional parameter type "Capabilities" (RFC 5492 section 4).
const PARAMETER_CAPABILITIES: u8 = 2;
/// Optional parameter type that announces the extended format (RFC 9072 section 2).
const PARAMETER_EXTENDED: u8 = 255;
/// Octets for optional parameters in the longest OPEN: 4096 less header, fixed fields and RFC
/// 9072's four octets.
const MAX_PARAMETERS_LEN: usize = MAX_LEN - HEADER_LEN - 10 - 3;

/// Takes `n` octets off the front; `None` where there are fewer.
pub(super) fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(front)
}

/// Takes one octet off the front.
pub(super) fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    let (&octet, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(octet)
}

/// Takes two octets off the front, in network order.
pub(super) fn take_u16(bytes: &mut &[u8]) -> Option<u16> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*front))
}

impl Capability {
    /// Reads one capability's value; a length or value its RFC does not allow makes it
    /// [`Capability::Other`].
    fn decode(code: u8, value: &[u8]) -> Capability {
        Capability::decode_known(code, value).unwrap_or_else(|| Capability::Other { code, value: value.to_vec() })
    }

    fn decode_known(code: u8, value: &[u8]) -> Option<Capability> {
        let family = |a: u8, b: u8, safi: u8| Family { afi: u16::from_be_bytes([a, b]), safi };
        Some(match (code, value) {
            (1, &[a, b, _, safi]) => Capability::Multiprotocol(family(a, b, safi)),
            (2, []) => Capability::RouteRefresh,
            (5, tuples) if tuples.len() % 6 == 0 => {
                let tuple = |t: &[u8]| match *t {
                    // The SAFI takes two octets here, unlike anywhere else (RFC 8950 section 4).
                    [a, b, 0, safi, c, d] => Some((family(a, b, safi), u16::from_be_bytes([c, d]))),
                    _ => None,
                };
                Capability::ExtendedNextHop(tuples.chunks_exact(6).map(tuple).collect::<Option<_>>()?)
            }
            (6, []) => Capability::ExtendedMessage,
            (9, &[role]) => Capability::Role(role),
            (64, &[a, b, ref tuples @ ..]) if tuples.len() % 4 == 0 => Capability::GracefulRestart {
                flags: a & 0xf0,
                restart_time_s: u16::from_be_bytes([a & 0x0f, b]),
                families: families_with_octet(tuples),
            },
            (65, &[a, b, c, d]) => Capability::FourOctetAs(u32::from_be_bytes([a, b, c, d])),
            (69, tuples) if tuples.len() % 4 == 0 => Capability::AddPath(families_with_octet(tuples)),
            (70, []) => Capability::EnhancedRouteRefresh,
            _ => return None,
        })
    }

    /// Code and value. A list too long for the one length octet is cut after the last entry that
    /// fits.
    fn encode(&self) -> (u8, Vec<u8>) {
        let with_octet = |out: &mut Vec<u8>, families: &[(Family, u8)]| {
            for (family, octet) in families.iter().take(63) {
                out.extend_from_slice(&family.afi.to_be_bytes());
                out.extend_from_slice(&[family.safi, *octet]);
            }
        };
        let mut value = Vec::new();
        let code = match self {
            Capability::Multiprotocol(family) => {
                value.extend_from_slice(&family.afi.to_be_bytes());
                value.extend_from_slice(&[0, family.safi]);
                1
            }
            Capability::RouteRefresh => 2,
            Capability::ExtendedNextHop(tuples) => {
                for (family, next_hop_afi) in tuples.iter().take(42) {
                    value.extend_from_slice(&family.afi.to_be_bytes());
                    value.extend_from_slice(&[0, family.safi]);
                    value.extend_from_slice(&next_hop_afi.to_be_bytes());
                }
                5
            }
            Capability::ExtendedMessage => 6,
            Capability::Role(role) => {
                value.push(*role);
                9
            }
            Capability::GracefulRestart { flags, restart_time_s, families } => {
                let time = restart_time_s & 0x0fff;
                value.extend_from_slice(&(u16::from(flags & 0xf0) << 8 | time).to_be_bytes());
                with_octet(&mut value, families);
                64
            }
            Capability::FourOctetAs(asn) => {
                value.extend_from_slice(&asn.to_be_bytes());
                65
            }
            Capability::AddPath(families) => {
                with_octet(&mut value, families);
                69
            }
            Capability::EnhancedRouteRefresh => 70,
            Capability::Other { code, value: raw } => {
                value.extend(raw.iter().take(255));
                *code
            }
        };
        (code, value)
    }
}

/// Reads tuples of family and one octet, as graceful restart and add-path have them.
fn families_with_octet(tuples: &[u8]) -> Vec<(Family, u8)> {
    let tuple = |t: &[u8]| match *t {
        [a, b, safi, octet] => Some((Family { afi: u16::from_be_bytes([a, b]), safi }, octet)),
        _ => None,
    };
    tuples.chunks_exact(4).filter_map(tuple).collect()
}

impl Open {
    /// Reads an OPEN's body (after the header). Understands RFC 9072 extended optional parameters.
    ///
    /// # Errors
    /// 2/1 unsupported version, 2/2 AS 0 (RFC 7607), 2/3 router id 0, 2/4 unknown optional
    /// parameter, 2/6 hold time 1 or 2, 2/0 for lengths that do not add up; 1/2 is the framing's.
    pub fn decode(body: &[u8]) -> Result<Open, Notification> {
        let unspecific = || Notification::new(2, 0);
        let (&fixed, mut rest) = body.split_first_chunk::<9>().ok_or_else(unspecific)?;
        let [version, as_high, as_low, hold_high, hold_low, a, b, c, d] = fixed;
        if version != 4 {
            return Err(Notification::with_data(2, 1, &4u16.to_be_bytes()));
        }
        let capabilities = decode_parameters(&mut rest)?;
        let my_as = u16::from_be_bytes([as_high, as_low]);
        let four_octet = capabilities.iter().find_map(|c| match c {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        let asn = four_octet.unwrap_or(u32::from(my_as));
        if my_as == 0 || asn == 0 {
            return Err(Notification::new(2, 2));
        }
        let hold_time_s = u16::from_be_bytes([hold_high, hold_low]);
        if matches!(hold_time_s, 1 | 2) {
            return Err(Notification::new(2, 6));
        }
        let router_id = Ipv4Addr::new(a, b, c, d);
        if router_id.is_unspecified() {
            return Err(Notification::new(2, 3));
        }
        Ok(Open { asn, hold_time_s, router_id, capabilities })
    }

    /// The whole message, header included: one optional parameter per capability; RFC 9072 form
    /// where they take more than 255 octets. My Autonomous System is 23456 for an AS above 65535
    /// (RFC 6793). A capability that would make the message longer than 4096 octets is left out,
    /// with those after it.
    pub fn encode(&self) -> Bytes {
        self.encode_as(false)
    }

    /// The same in RFC 9072's form, however short it is: some who use that form read no other (FRR
    /// 8.4 with `extended-optional-parameters`).
    pub fn encode_extended(&self) -> Bytes {
        self.encode_as(true)
    }

    /// Whether an OPEN's body has its optional parameters in RFC 9072's form.
    pub fn is_extended(body: &[u8]) -> bool {
        matches!(body.get(9..11), Some([len, PARAMETER_EXTENDED]) if *len != 0)
    }

    fn encode_as(&self, extended: bool) -> Bytes {
        let encoded: Vec<_> = self.capabilities.iter().map(Capability::encode).collect();
        // A parameter takes two octets of its own (three in RFC 9072's form), the capability in it
        // two more.
        let short_len: usize = encoded.iter().map(|(_, value)| 4 + value.len()).sum();
        let extended = extended || short_len > 255;
        let mut parameters = Vec::with_capacity(short_len + encoded.len());
        for (code, value) in &encoded {
            let len = 2 + value.len();
            if parameters.len() + 3 + len > MAX_PARAMETERS_LEN {
                break;
            }
            parameters.push(PARAMETER_CAPABILITIES);
            if extended {
                parameters.extend_from_slice(&(len as u16).to_be_bytes());
            } else {
                parameters.push(len as u8);
            }
            parameters.extend_from_slice(&[*code, value.len() as u8]);
            parameters.extend_from_slice(value);
        }
        let mut body = Vec::with_capacity(13 + parameters.len());
        body.push(4);
        body.extend_from_slice(&u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        body.extend_from_slice(&self.hold_time_s.to_be_bytes());
        body.extend_from_slice(&self.router_id.octets());
        if extended {
            body.extend_from_slice(&[255, PARAMETER_EXTENDED]);
            body.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
        } else {
            body.push(parameters.len() as u8);
        }
        body.extend_from_slice(&parameters);
        message(MessageType::Open, &body)
    }

    /// Whether `family` is usable as this OPEN says it: listed, or IPv4 unicast where no
    /// multiprotocol capability stands in it at all (RFC 4760 section 8 leaves that default).
    pub fn has_family(&self, family: Family) -> bool {
        let mut any = false;
        for c in &self.capabilities {
            if let Capability::Multiprotocol(f) = c {
                any = true;
                if *f == family {
                    return true;
                }
            }
        }
        !any && family == Family::IPV4_UNICAST
    }
}

/// Reads the optional parameters, length field first, in either format (RFC 4271 section 4.2, RFC
/// 9072 section 2).
fn decode_parameters(rest: &mut &[u8]) -> Result<Vec<Capability>, Notification> {
    let unspecific = || Notification::new(2, 0);
    let len = take_u8(rest).ok_or_else(unspecific)?;
    // RFC 9072: the type says which format it is; the one-octet length only has to be other than 0.
    let extended = len != 0 && rest.first() == Some(&PARAMETER_EXTENDED);
    let len = if extended {
        take_u8(rest);
        take_u16(rest).map(usize::from).ok_or_else(unspecific)?
    } else {
        usize::from(len)
    };
    if rest.len() != len {
        return Err(unspecific());
    }
    let mut capabilities = Vec::new();
    while let Some(kind) = take_u8(rest) {
        let len = if extended { take_u16(rest).map(usize::from) } else { take_u8(rest).map(usize::from) };
        let mut value = len.and_then(|len| take(rest, len)).ok_or_else(unspecific)?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(Notification::new(2, 4));
        }
        while let Some(code) = take_u8(&mut value) {
            let len = take_u8(&mut value).ok_or_else(unspecific)?;
            let capability = take(&mut value, usize::from(len)).ok_or_else(unspecific)?;
            capabilities.push(Capability::decode(code, capability));
        }
    }
    Ok(capabilities)
}

/// A whole message.
fn message(kind: MessageType, body: &[u8]) -> Bytes {
    let mut whole = Vec::with_capacity(HEADER_LEN + body.len());
    whole.extend_from_slice(&header(kind, body.len()));
    whole.extend_from_slice(body);
    whole.into()
}

impl Notification {
    /// The whole message, header included; data is cut so that the message stays within 4096
    /// octets.
    pub fn encode(&self) -> Bytes {
        let data = self.data.get(..MAX_LEN - HEADER_LEN - 2).unwrap_or(&self.data);
        let mut body = vec![self.code, self.subcode];
        body.extend_from_slice(data);
        message(MessageType::Notification, &body)
    }

    /// Reads a NOTIFICATION's body; `None` where it is shorter than code and subcode.
    pub fn decode(body: &[u8]) -> Option<Notification> {
        match body {
            [code, subcode, data @ ..] => Some(Notification::with_data(*code, *subcode, data)),
            _ => None,
        }
    }
}

/// The RFC's own words for a NOTIFICATION, for logs: `3/10 UPDATE Message Error: Invalid Network
/// Field`. Numbers no RFC has assigned stand by themselves: `3/42 UPDATE Message Error`.
pub fn notification_name(code: u8, subcode: u8) -> String {
    let (error, subcodes) = error_names(code);
    let name = usize::from(subcode).checked_sub(1).and_then(|i| subcodes.get(i)).filter(|name| !name.is_empty());
    match (error, name) {
        ("", _) => format!("{code}/{subcode}"),
        (error, Some(name)) => format!("{code}/{subcode} {error}: {name}"),
        (error, None) => format!("{code}/{subcode} {error}"),
    }
}

/// Name of an error code, and of its subcodes from 1 on (IANA "BGP Error (Notification) Codes" and
/// "Subcodes").
fn error_names(code: u8) -> (&'static str, &'static [&'static str]) {
    match code {
        1 => ("Message Header Error", &["Connection Not Synchronized", "Bad Message Length", "Bad Message Type"]),
        2 => (
            "OPEN Message Error",
            &[
                "Unsupported Version Number",
                "Bad Peer AS",
                "Bad BGP Identifier",
                "Unsupported Optional Parameter",
                "Authentication Failure (deprecated)",
                "Unacceptable Hold Time",
                "Unsupported Capability",
                "",
                "",
                "",
                "Role Mismatch",
            ],
        ),
        3 => (
            "UPDATE Message Error",
            &[
                "Malformed Attribute List",
                "Unrecognized Well-known Attribute",
                "Missing Well-known Attribute",
                "Attribute Flags Error",
                "Attribute Length Error",
                "Invalid ORIGIN Attribute",
                "AS Routing Loop (deprecated)",
                "Invalid NEXT_HOP Attribute",
                "Optional Attribute Error",
                "Invalid Network Field",
                "Malformed AS_PATH",
            ],
        ),
        4 => ("Hold Timer Expired", &[]),
        5 => (
            "Finite State Machine Error",
            &[
                "Receive Unexpected Message in OpenSent State",
                "Receive Unexpected Message in OpenConfirm State",
                "Receive Unexpected Message in Established State",
            ],
        ),
        6 => (
            "Cease",
            &[
                "Maximum Number of Prefixes Reached",
                "Administrative Shutdown",
                "Peer De-configured",
                "Administrative Reset",
                "Connection Rejected",
                "Other Configuration Change",
                "Connection Collision Resolution",
                "Out of Resources",
                "Hard Reset",
                "BFD Down",
            ],
        ),
        7 => ("ROUTE-REFRESH Message Error", &["Invalid Message Length"]),
        8 => ("Send Hold Timer Expired", &[]),
        _ => ("", &[]),
    }
}

/// The one KEEPALIVE there is.
pub fn keepalive() -> Bytes {
    const KEEPALIVE: &[u8] = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x13\x04";
    Bytes::from_static(KEEPALIVE)
}

/// The subtypes of ROUTE-REFRESH (RFC 7313 section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefreshKind {
    /// 0: a normal request.
    Request,
    /// 1: beginning of a refresh.
    Begin,
    /// 2: end of a refresh.
    End,
    /// Any other, to be ignored.
    Unknown(u8),
}

/// A ROUTE-REFRESH (RFC 2918).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteRefresh {
    /// Which family.
    pub family: Family,
    /// Request, begin or end.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// Reads a ROUTE-REFRESH's body. ORF (RFC 5291) entries behind the first four octets are
    /// ignored.
    ///
    /// # Errors
    /// 7/1 with the whole message as data, where the body is shorter than four octets, or longer
    /// for a begin or an end (RFC 7313 section 5).
    pub fn decode(body: &[u8]) -> Result<RouteRefresh, Notification> {
        let bad_length =
            || Notification { code: 7, subcode: 1, data: message(MessageType::RouteRefresh, body).to_vec() };
        let &[a, b, kind, safi, ref orf @ ..] = body else {
            return Err(bad_length());
        };
        let kind = match kind {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Unknown(other),
        };
        if matches!(kind, RefreshKind::Begin | RefreshKind::End) && !orf.is_empty() {
            return Err(bad_length());
        }
        Ok(RouteRefresh { family: Family { afi: u16::from_be_bytes([a, b]), safi }, kind })
    }

    /// The whole message.
    pub fn encode(&self) -> Bytes {
        let [a, b] = self.family.afi.to_be_bytes();
        let kind = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Unknown(other) => other,
        };
        message(MessageType::RouteRefresh, &[a, b, kind, self.family.safi])
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
