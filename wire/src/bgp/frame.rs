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

/// Takes the next whole message off the front of `buf`; `Ok(None)` when more bytes are needed.
///
/// `extended` tells whether OPEN negotiated extended messages; OPEN and KEEPALIVE stay limited to 4096
/// even then (RFC 8654 section 4).
///
/// # Errors
/// 1/1 (marker not all ones), 1/2 with the length field as data (too short for its type, too long), 1/3 with the type (RFC 4271 section 6.1).
pub fn next_message(buf: &mut BytesMut, extended: bool) -> Result<Option<Message>, Notification> {
    let _ = (buf, extended);
    todo!("helper wire-A")
}
