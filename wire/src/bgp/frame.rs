//! Cutting a byte stream into BGP messages (RFC 4271 section 4.1).

use super::types::Notification;
use bytes::{Bytes, BytesMut};

/// Octets of a message header: marker, length, type.
pub const HEADER_LEN: usize = 19;
/// Longest message without the extended message capability (RFC 4271 section 4).
pub const MAX_LEN: usize = 4096;
/// Longest message with it (RFC 8654).
pub const MAX_LEN_EXTENDED: usize = 65535;

/// Message types (RFC 4271 section 4.1, RFC 2918).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageType {
    /// 1.
    Open,
    /// 2.
    Update,
    /// 3.
    Notification,
    /// 4.
    Keepalive,
    /// 5 (RFC 2918).
    RouteRefresh,
}

/// One message cut out of a stream: header included in `bytes`.
#[derive(Clone, Debug)]
pub struct Message {
    /// The type its header names.
    pub kind: MessageType,
    /// The whole message, shared with the buffer it was read into.
    pub bytes: Bytes,
}

impl Message {
    /// What follows the header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

impl MessageType {
    /// The type with this number on the wire; `None` for a number no RFC we know has assigned.
    const fn from_wire(octet: u8) -> Option<MessageType> {
        Some(match octet {
            1 => MessageType::Open,
            2 => MessageType::Update,
            3 => MessageType::Notification,
            4 => MessageType::Keepalive,
            5 => MessageType::RouteRefresh,
            _ => return None,
        })
    }

    /// The number in a header's type field.
    pub const fn to_wire(self) -> u8 {
        match self {
            MessageType::Open => 1,
            MessageType::Update => 2,
            MessageType::Notification => 3,
            MessageType::Keepalive => 4,
            MessageType::RouteRefresh => 5,
        }
    }

    /// Shortest and longest message of this type, header included (RFC 4271 section 6.1, RFC 8654
    /// section 4).
    ///
    /// A ROUTE-REFRESH has no minimum here: RFC 7313 section 5 gives a short one an error code of
    /// its own, which [`super::message::RouteRefresh::decode`] answers with.
    const fn bounds(self, extended: bool) -> (usize, usize) {
        let max = if extended { MAX_LEN_EXTENDED } else { MAX_LEN };
        match self {
            MessageType::Open => (29, MAX_LEN),
            MessageType::Update => (23, max),
            MessageType::Notification => (21, max),
            MessageType::Keepalive => (HEADER_LEN, HEADER_LEN),
            MessageType::RouteRefresh => (HEADER_LEN, max),
        }
    }
}

/// A header for a message whose body takes `body_len` octets; the body's length is the caller's
/// promise to keep.
pub(crate) fn header(kind: MessageType, body_len: usize) -> [u8; HEADER_LEN] {
    let mut header = [0xff; HEADER_LEN];
    let len = u16::try_from(HEADER_LEN + body_len).unwrap_or(u16::MAX);
    header[16..18].copy_from_slice(&len.to_be_bytes());
    header[18] = kind.to_wire();
    header
}

/// Takes the next whole message off the front of `buf`; `Ok(None)` when more bytes are needed.
///
/// `extended` tells whether OPEN negotiated extended messages; OPEN and KEEPALIVE stay limited to
/// 4096 even then (RFC 8654 section 4). A header is judged as soon as its 19 octets are there, a
/// wrong marker at its first wrong octet: what does not speak BGP is answered before the hold timer
/// is.
///
/// # Errors
/// 1/1 (marker not all ones), 1/2 with the length field as data (too short for its type, too long),
/// 1/3 with the type (RFC 4271 section 6.1).
pub fn next_message(buf: &mut BytesMut, extended: bool) -> Result<Option<Message>, Notification> {
    if buf.iter().take(16).any(|&octet| octet != 0xff) {
        return Err(Notification::new(1, 1));
    }
    let Some(&[high, low, kind]) = buf.get(16..HEADER_LEN) else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let bad_length = || Notification::with_data(1, 2, &[high, low]);
    if len < HEADER_LEN || (!extended && len > MAX_LEN) {
        return Err(bad_length());
    }
    let kind = MessageType::from_wire(kind).ok_or_else(|| Notification::with_data(1, 3, &[kind]))?;
    let (min, max) = kind.bounds(extended);
    if len < min || len > max {
        return Err(bad_length());
    }
    if buf.len() < len {
        return Ok(None);
    }
    Ok(Some(Message { kind, bytes: buf.split_to(len).freeze() }))
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
