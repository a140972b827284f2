//! The routing tables as a stream: what follows the answer to [`crate::Request::Ribs`].
//!
//! After the line of JSON ([`Ribs`]) the connection carries frames, until either side closes it. All
//! numbers are in network order:
//!
//! ```text
//!  0      1       2          4            8           12
//!  ┌──────┬───────┬──────────┬────────────┬───────────┬─────────────────┐
//!  │ kind │ flags │ reserved │ speaker    │ length    │ body, `length`  │
//!  └──────┴───────┴──────────┴────────────┴───────────┴─────────────────┘
//! ```
//! A *speaker* is whoever's tables are told as one: a peer (what it said, and what it was told), or
//! an instance towards a peer (what it would tell that peer). Each has a number of its own from
//! [`UP`] to [`DOWN`]; one that comes back has another.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The form of the frames that is described here.
pub const FORM: u32 = 1;
/// Octets of a frame before its body.
pub const HEADER_LEN: usize = 12;
/// Longest body: an UPDATE has at most 65,535 octets (RFC 8654).
pub const MAX_BODY: usize = 1 << 16;

/// A speaker is there; the body is [`SpeakerUp`]. All that it has follows.
pub const UP: u8 = 1;
/// It is no more, and nothing of it holds; the body is [`SpeakerDown`].
pub const DOWN: u8 = 2;
/// Routes: the body is one UPDATE message, header included, in the form that the peer's session has.
pub const ROUTES: u8 = 3;
/// All that one of its tables had has been told: the body is the End-of-RIB of a family (RFC 4724),
/// an UPDATE message.
pub const END_OF_RIB: u8 = 4;

/// The frame is part of the telling of what there was; else it has just changed.
pub const DUMPED: u8 = 1;
/// It is about what the speaker tells, or is told ([`SpeakerUp`]); else about what it has said.
pub const OUT: u8 = 2;

/// The answer before the frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ribs {
    /// The form of the frames, [`FORM`].
    pub form: u32,
    /// Instances are among the speakers.
    pub instances: bool,
    /// The one peer of whom is told, as `sessions` names it; null: all are. A virtd that knows no such
    /// request says null, and tells of all.
    pub peer: Option<String>,
}

/// What precedes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`UP`], [`DOWN`], [`ROUTES`] or [`END_OF_RIB`]. A reader passes over what it does not know.
    pub kind: u8,
    /// [`DUMPED`] and [`OUT`].
    pub flags: u8,
    /// Whom it is about.
    pub speaker: u32,
    /// Octets of the body, [`MAX_BODY`] at most.
    pub length: u32,
}

impl Header {
    /// As octets.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        (out[0], out[1]) = (self.kind, self.flags);
        out[4..8].copy_from_slice(&self.speaker.to_be_bytes());
        out[8..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Of octets; `None` where the body would be longer than [`MAX_BODY`].
    pub fn decode(octets: &[u8; HEADER_LEN]) -> Option<Header> {
        let [kind, flags, _, _, a, b, c, d, e, f, g, h] = *octets;
        let (speaker, length) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        (length as usize <= MAX_BODY).then_some(Header { kind, flags, speaker, length })
    }
}

/// A speaker. Messages are whole, their header included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeakerUp {
    /// The instance whose own tables these are: [`OUT`] is then what it would tell the peer, and
    /// nothing is said. Null for the peer: what it said, and with [`OUT`] what it was told.
    pub instance: Option<String>,
    /// The peer's address, a link-local one with its interface: `fe80::2%eth1`.
    pub peer: String,
    /// The same without the interface.
    pub address: IpAddr,
    /// The interface of a link-local address; null of all others.
    pub interface: Option<String>,
    /// The peer's AS number.
    pub asn: u32,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Our end of the connection with the peer; null where that is not known.
    pub local: Option<SocketAddr>,
    /// The peer's port.
    pub remote_port: u16,
    /// AS numbers in its UPDATEs have four octets (RFC 6793).
    pub as4: bool,
    /// Families agreed on, `ipv4-unicast`.
    pub families: Vec<String>,
    /// For how long the session, or the instance's leg, has been established, microseconds.
    pub up_us: u64,
    /// The OPEN that was sent to the peer, or by the instance.
    pub sent: Vec<u8>,
    /// The OPEN that the peer has sent, or that the instance was shown.
    pub received: Vec<u8>,
}

impl Default for SpeakerUp {
    fn default() -> SpeakerUp {
        SpeakerUp {
            instance: None,
            peer: String::new(),
            address: Ipv4Addr::UNSPECIFIED.into(),
            interface: None,
            asn: 0,
            router_id: Ipv4Addr::UNSPECIFIED,
            local: None,
            remote_port: 0,
            as4: false,
            families: Vec::new(),
            up_us: 0,
            sent: Vec::new(),
            received: Vec::new(),
        }
    }
}

/// Why a speaker is no more: `local-notification`: virtd has ended the session with this
/// NOTIFICATION; `remote-notification`: the peer has; `closed`: without one, or the instance's leg has
/// ended; `told-anew`: it is still there, and is told from the beginning, because more has changed
/// than could be kept for a reader as slow as this one: it comes again at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeakerDown {
    /// One of the words above.
    pub reason: String,
    /// The NOTIFICATION message; empty where there was none.
    pub notification: Vec<u8>,
}

/// [`SpeakerDown::reason`] of a speaker that is told from the beginning.
pub const TOLD_ANEW: &str = "told-anew";
/// [`SpeakerDown::reason`] of a session that virtd has ended.
pub const LOCAL_NOTIFICATION: &str = "local-notification";
/// [`SpeakerDown::reason`] of a session that the peer has ended.
pub const REMOTE_NOTIFICATION: &str = "remote-notification";
/// [`SpeakerDown::reason`] of a connection that has ended without a word.
pub const CLOSED: &str = "closed";
