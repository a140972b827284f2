//! Netlink headers, and nothing behind them: which messages are certain to be answered, and which
//! answers those are. The rules are the kernel's (netlink_rcv_skb, rtnetlink_rcv_msg); malformed
//! octets end the walk, as they end the kernel's.

/// sizeof(struct nlmsghdr).
pub const HEADER: usize = 16;
/// A NLMSG_ERROR begins with errno and the header of what it answers.
const ERROR: usize = HEADER + 4 + HEADER;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// Types below are netlink's own and ask for nothing.
const NLMSG_MIN_TYPE: u16 = 16;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Answers expected, or received.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Answers {
    /// NLMSG_ERROR, errno 0 or not, to messages with NLM_F_ACK.
    pub acks: u32,
    /// Ends of dumps.
    pub dumps: u32,
    /// Of what was sent: whether some of it is answered only where it fails, or in a way that is
    /// not counted, or not at all.
    pub uncertain: bool,
}

/// The fields of a header that matter: (nlmsg_len, nlmsg_type, nlmsg_flags).
fn fields(header: &[u8]) -> Option<(usize, u16, u16)> {
    let len = u32::from_ne_bytes(header.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(header.get(6..8)?.try_into().ok()?);
    Some((len as usize, kind, flags))
}

/// Whether rtnetlink answers with a dump: both bits on a GET, which is each third of four types. On
/// NEW they are REPLACE and EXCL.
fn is_dump(kind: u16, flags: u16) -> bool {
    kind >= NLMSG_MIN_TYPE && kind & 3 == 2 && flags & REQUEST != 0 && flags & DUMP == DUMP
}

/// Calls `f` with each message: nlmsg_type, nlmsg_flags, its first octets (up to [`ERROR`]), and
/// whether the datagram holds all of it, which may be false for the last. `read` copies what lies
/// at an offset and says how much that is. False where the datagram does not end with a whole
/// message.
fn walk(total: usize, read: impl Fn(usize, &mut [u8]) -> usize, mut f: impl FnMut(u16, u16, &[u8], bool)) -> bool {
    let mut at = 0;
    while total - at >= HEADER {
        let mut buf = [0u8; ERROR];
        let n = read(at, &mut buf).min(total - at);
        let Some((len, kind, flags)) = buf.get(..n).and_then(fields) else { return false };
        if len < HEADER {
            return false;
        }
        let whole = len <= total - at;
        f(kind, flags, buf.get(..n.min(len)).unwrap_or_default(), whole);
        // NLMSG_ALIGN; the last message may lack its padding.
        at = at.saturating_add(len.next_multiple_of(4));
        if at >= total {
            return whole;
        }
    }
    false
}

/// What a datagram that is being sent will be answered with.
pub fn sent(total: usize, read: impl Fn(usize, &mut [u8]) -> usize) -> Answers {
    let mut a = Answers::default();
    let whole = walk(total, read, |kind, flags, _, whole| {
        if !whole {
            // Not answered at all.
        } else if is_dump(kind, flags) {
            a.dumps += 1;
        } else if flags & ACK != 0 {
            a.acks += 1;
        } else {
            a.uncertain = true;
        }
    });
    a.uncertain |= !whole;
    a
}

/// What a received datagram answers. A NLMSG_ERROR carries the header of what it is about.
pub fn received(total: usize, read: impl Fn(usize, &mut [u8]) -> usize) -> Answers {
    let mut a = Answers::default();
    walk(total, read, |kind, _, message, _| match kind {
        NLMSG_DONE => a.dumps += 1,
        NLMSG_ERROR => match message.get(HEADER + 4..).and_then(fields) {
            Some((_, kind, flags)) if is_dump(kind, flags) => a.dumps += 1,
            Some((_, _, flags)) if flags & ACK == 0 => {}
            _ => a.acks += 1,
        },
        _ => {}
    });
    a
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
