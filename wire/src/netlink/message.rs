//! Messages of a buffer (`struct nlmsghdr`), what the kernel answers, and the writer for all of it.

use super::NetlinkError;
use super::attr::{ATTR_HEADER_LEN, Attr, align};
use super::consts::*;
use std::net::IpAddr;

/// Octets of a message header.
pub const HEADER_LEN: usize = 16;
/// A request longer than this is not echoed in an error: the answer has to fit the socket it is
/// written to.
pub const MAX_ECHO: usize = 64 * 1024;
/// Longest sentence in an extended acknowledgement, characters; the kernel's own are shorter than
/// 80.
pub const MAX_ACK_TEXT: usize = 256;

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Octets of the message, this header included, padding not.
    pub len: u32,
    /// NLMSG_* or RTM_*.
    pub kind: u16,
    /// NLM_F_*.
    pub flags: u16,
    /// Sequence number; an answer has its request's, a notification 0 or that of its cause.
    pub seq: u32,
    /// Port id: the requester's in answers and notifications, 0 or the sender's in requests.
    pub port: u32,
}

impl Header {
    /// Reads the 16 octets of a header.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Header {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *bytes;
        let [i, j, k, l, m, n, o, p] = rest;
        Header {
            len: u32::from_ne_bytes([a, b, c, d]),
            kind: u16::from_ne_bytes([e, f]),
            flags: u16::from_ne_bytes([g, h]),
            seq: u32::from_ne_bytes([i, j, k, l]),
            port: u32::from_ne_bytes([m, n, o, p]),
        }
    }

    /// Appends the 16 octets.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.len.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&self.seq.to_ne_bytes());
        out.extend_from_slice(&self.port.to_ne_bytes());
    }

    /// Whether this asks for a dump: a get with NLM_F_DUMP (new and delete use the same bits
    /// otherwise).
    pub const fn is_dump(&self) -> bool {
        self.kind >= NLMSG_MIN_TYPE && self.kind & 3 == 2 && self.flags & NLM_F_DUMP == NLM_F_DUMP
    }
}

/// One message of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header, whose `len` has been checked.
    pub header: Header,
    /// What stands behind the header, without padding.
    pub payload: &'a [u8],
    /// The whole message, header included, without padding.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// The first octet behind the header: the address family in every rtnetlink message (`struct
    /// rtgenmsg`).
    pub fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The errno of an NLMSG_ERROR or NLMSG_DONE, positive, 0 for success; `None` for others or
    /// where it is cut short.
    pub fn errno(&self) -> Option<i32> {
        match self.header.kind {
            NLMSG_ERROR | NLMSG_DONE => Some(i32::from_ne_bytes(*self.payload.first_chunk()?).saturating_neg()),
            _ => None,
        }
    }
}

/// The messages of a buffer, as one send or receive carries them. Ends after the first error; the
/// kernel does so too, and throws the rest away without a word.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    left: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Messages from the first octet of `bytes` to its last.
    pub const fn new(bytes: &'a [u8]) -> Frames<'a> {
        Frames { left: bytes }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let left = std::mem::take(&mut self.left);
        let Some(header) = left.first_chunk() else {
            return Some(Err(NetlinkError::TruncatedHeader { left: left.len() }));
        };
        let header = Header::from_bytes(header);
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if len < HEADER_LEN {
            return Some(Err(NetlinkError::ShortMessage { len: header.len }));
        }
        let (Some(bytes), Some(payload)) = (left.get(..len), left.get(HEADER_LEN..len)) else {
            return Some(Err(NetlinkError::LongMessage { len: header.len, left: left.len() }));
        };
        // The last message may come without its padding.
        self.left = left.get(align(len)..).unwrap_or_default();
        Some(Ok(Frame { header, payload, bytes }))
    }
}

/// Where a nest begins; given back to [`Writer::end_nest`].
#[derive(Debug)]
#[must_use = "a nest has no length until it is ended"]
pub struct Nest(usize);

/// Appends one message, or only the payload of one, to a buffer. What does not fit its length field
/// is remembered and said by [`Writer::finish`], so that the calls between need no checks.
#[derive(Debug)]
#[must_use = "a message has no length until it is finished"]
pub struct Writer<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    has_header: bool,
    too_long: bool,
}

impl<'b> Writer<'b> {
    /// A message; its length is filled in at the end. `out` is empty or ends with a finished
    /// message.
    pub fn message(out: &'b mut Vec<u8>, kind: u16, flags: u16, seq: u32, port: u32) -> Writer<'b> {
        let start = out.len();
        Header { len: 0, kind, flags, seq, port }.write(out);
        Writer { out, start, has_header: true, too_long: false }
    }

    /// Only what stands behind the header.
    pub fn payload(out: &'b mut Vec<u8>) -> Writer<'b> {
        let start = out.len();
        Writer { out, start, has_header: false, too_long: false }
    }

    fn pad(&mut self) {
        let len = self.out.len() - self.start;
        self.out.resize(self.start + align(len), 0);
    }

    /// Appends octets as they are: the fixed part of a message.
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends an attribute and its padding. `raw_kind` may carry NLA_F_* bits.
    pub fn attr(&mut self, raw_kind: u16, payload: &[u8]) {
        self.pad();
        let Ok(len) = u16::try_from(ATTR_HEADER_LEN.saturating_add(payload.len())) else {
            self.too_long = true;
            return;
        };
        self.put(&len.to_ne_bytes());
        self.put(&raw_kind.to_ne_bytes());
        self.put(payload);
        self.pad();
    }

    /// Appends an attribute that was kept as it came.
    pub fn attr_raw(&mut self, attr: Attr<'_>) {
        self.attr(attr.raw_kind, attr.payload);
    }

    /// Appends an attribute of one octet.
    pub fn attr_u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    /// Appends an attribute of 16 bits.
    pub fn attr_u16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Appends an attribute of 32 bits.
    pub fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Appends an address attribute, 4 or 16 octets.
    pub fn attr_ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }

    /// Appends an attribute that holds a `struct rtvia`.
    pub fn attr_via(&mut self, kind: u16, address: IpAddr) {
        let mut via = Vec::with_capacity(18);
        match address {
            IpAddr::V4(a) => {
                via.extend_from_slice(&u16::from(AF_INET).to_ne_bytes());
                via.extend_from_slice(&a.octets());
            }
            IpAddr::V6(a) => {
                via.extend_from_slice(&u16::from(AF_INET6).to_ne_bytes());
                via.extend_from_slice(&a.octets());
            }
        }
        self.attr(kind, &via);
    }

    /// Appends a NUL-terminated name.
    pub fn attr_name(&mut self, kind: u16, name: &str) {
        let mut payload = Vec::with_capacity(name.len() + 1);
        payload.extend_from_slice(name.as_bytes());
        payload.push(0);
        self.attr(kind, &payload);
    }

    /// Opens an attribute whose payload is attributes; `raw_kind` with NLA_F_NESTED where the
    /// kernel wants that.
    pub fn nest(&mut self, raw_kind: u16) -> Nest {
        self.pad();
        let nest = Nest(self.out.len());
        self.put(&[0, 0]);
        self.put(&raw_kind.to_ne_bytes());
        nest
    }

    /// Opens a `struct rtnexthop` inside RTA_MULTIPATH: its length stands first, as an attribute's
    /// does.
    pub(crate) fn nest_hop(&mut self, flags: u8, hops: u8, interface: u32) -> Nest {
        self.pad();
        let nest = Nest(self.out.len());
        self.put(&[0, 0, flags, hops]);
        self.put(&interface.to_ne_bytes());
        nest
    }

    /// Closes what [`Writer::nest`] opened: its length runs to here.
    pub fn end_nest(&mut self, Nest(at): Nest) {
        self.pad();
        let len = u16::try_from(self.out.len().saturating_sub(at));
        match (len, self.out.get_mut(at..).and_then(|rest| rest.first_chunk_mut())) {
            (Ok(len), Some(field)) => *field = len.to_ne_bytes(),
            _ => self.too_long = true,
        }
    }

    /// Fills in the message's length and pads behind it, so that another message can follow.
    /// [`NetlinkError::TooLong`] leaves `out` as it was before this message.
    pub fn finish(mut self) -> Result<(), NetlinkError> {
        let len = u32::try_from(self.out.len() - self.start);
        let field = self.out.get_mut(self.start..).and_then(|rest| rest.first_chunk_mut());
        match (len, field) {
            (Ok(len), Some(field)) if self.has_header && !self.too_long => *field = len.to_ne_bytes(),
            (Ok(_), _) if !self.has_header && !self.too_long => {}
            _ => {
                self.out.truncate(self.start);
                return Err(NetlinkError::TooLong);
            }
        }
        self.pad();
        Ok(())
    }
}

/// Octets of the acknowledgement of success: header, errno, the request's header.
pub const ACK_LEN: usize = HEADER_LEN + 4 + HEADER_LEN;

/// How to answer a request, by the socket's options and what went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckOptions<'a> {
    /// NETLINK_CAP_ACK: an error does not echo the request's payload. Acknowledgements of success
    /// never do.
    pub capped: bool,
    /// NETLINK_EXT_ACK and there is something to say: the sentence.
    pub text: Option<&'a str>,
    /// NETLINK_EXT_ACK and it is known: where in the request the offending attribute begins, octets
    /// from its header.
    pub offset: Option<u32>,
}

/// Appends the NLMSG_ERROR that answers `request`: `errno` positive, or 0 for an acknowledgement.
/// `port` is the requester's port id.
pub fn write_ack(out: &mut Vec<u8>, request: &Frame<'_>, port: u32, errno: i32, options: AckOptions<'_>) {
    let echo = errno != 0 && !options.capped && request.bytes.len() <= MAX_ECHO;
    let tlvs = options.text.is_some() || options.offset.is_some();
    let flags = if echo { 0 } else { NLM_F_CAPPED } | if tlvs { NLM_F_ACK_TLVS } else { 0 };
    let mut w = Writer::message(out, NLMSG_ERROR, flags, request.header.seq, port);
    w.put(&errno.saturating_neg().to_ne_bytes());
    let echoed = if echo { request.bytes.len() } else { HEADER_LEN };
    w.put(request.bytes.get(..echoed).unwrap_or_default());
    if let Some(text) = options.text {
        let text: String = text.chars().take(MAX_ACK_TEXT).collect();
        w.attr_name(NLMSGERR_ATTR_MSG, &text);
    }
    if let Some(offset) = options.offset {
        w.attr_u32(NLMSGERR_ATTR_OFFS, offset);
    }
    // Cannot fail: the echo and the sentence are bounded above.
    let _ = w.finish();
}

/// Appends the NLMSG_DONE that ends a dump, `errno` positive or 0. `more_flags` is 0,
/// NLM_F_DUMP_INTR or NLM_F_DUMP_FILTERED.
pub fn write_done(out: &mut Vec<u8>, seq: u32, port: u32, errno: i32, more_flags: u16) {
    let mut w = Writer::message(out, NLMSG_DONE, NLM_F_MULTI | more_flags, seq, port);
    w.put(&errno.saturating_neg().to_ne_bytes());
    // Cannot fail: 20 octets.
    let _ = w.finish();
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
