//! One netlink socket of an instance: what waits for the daemon, and which of the kernel's messages
//! it may see.

use super::*;

/// The kernel's own datagrams are no longer than this where it knows of no longer buffer
/// (NLMSG_GOODSIZE); libmnl's buffer, and OpenBGPD's with it, is no longer either.
pub(super) const PART: usize = 4 << 10;
/// Dumps that the kernel may have answered while the daemon reads none of them; it refuses a second
/// one while the first is not at its end.
const MAX_DUMPS: usize = 16;
/// With so much waiting notifications and acknowledgements are dropped, as the kernel does, and the
/// daemon is told so (ENOBUFS). A dump is not: it is the only one of its socket.
pub(super) const NOTIFY_MARK: usize = 8 << 20;

/// One netlink socket of an instance.
pub(in crate::driver) struct Endpoint {
    pub(in crate::driver) instance: InstanceId,
    pub(super) cookie: u64,
    pub(super) end: Foreign,
    pub(super) token: Token,
    pub(super) real: OwnedFd,
    pub(super) real_token: Token,
    /// nl_pid of the real socket; 0 as long as it is not bound.
    pub(super) port_id: u32,
    /// Routing protocol number of virtd's own routes.
    pub(super) protocol: u8,
    /// Multicast groups that it is a member of.
    pub(super) groups: hashbrown::HashSet<u32>,
    pub(super) style: NetlinkStyle,
    /// Waiting for room in the pair.
    pub(super) out: VecDeque<Bytes>,
    pub(super) out_octets: usize,
    pub(super) wants_write: bool,
    /// Notifications were dropped, and the daemon does not know yet.
    pub(super) overflowed: bool,
    /// The dumps of routes or nexthop objects that the kernel is answering: sequence number and
    /// request.
    pub(super) dumps: VecDeque<(u32, Bytes)>,
    /// Not read while much waits for the daemon.
    pub(super) paused: bool,
    /// Has sent requests that had their answer already (wire::shim).
    pub(super) ahead: bool,
    /// The dump whose own part is being given, as fast as the daemon takes it. Meanwhile nothing is
    /// read from the kernel.
    pub(super) dumping: Option<Dumping>,
}

/// See [`Endpoint::dumping`].
pub(super) struct Dumping {
    pub(super) request: Bytes,
    /// The kernel's NLMSG_DONE.
    pub(super) done: Bytes,
    pub(super) cursor: DumpCursor,
}

impl Endpoint {
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.out_octets += bytes.len();
        self.out.push_back(bytes);
    }

    /// The kernel makes a dump's datagrams as long as the longest buffer it has seen, which is
    /// virtd's; the daemon's may be shorter.
    pub(super) fn push_parts(&mut self, datagram: Bytes) {
        parts(datagram).for_each(|part| self.push(part));
    }

    pub(super) fn flush_answers(&mut self, answers: &mut Vec<Bytes>) {
        for answer in answers.drain(..) {
            if self.out_octets > NOTIFY_MARK {
                self.overflowed = true;
            } else {
                self.push(answer);
            }
        }
    }

    /// Asks the kernel.
    ///
    /// # Errors
    /// errno.
    pub(super) fn ask(&mut self, frame: &Frame<'_>) -> Result<(), Errno> {
        let dump = gate::handling(frame) == gate::Handling::Dump;
        if dump && self.dumps.len() >= MAX_DUMPS {
            return Err(libc::EBUSY.into());
        }
        send(self.real.as_raw_fd(), frame.bytes, MsgFlags::MSG_DONTWAIT)?;
        if dump {
            self.dumps.push_back((frame.header.seq, Bytes::copy_from_slice(frame.bytes)));
        }
        Ok(())
    }

    /// The dump that this message of the kernel's ends, well or not.
    fn ended_dump(&mut self, frame: &Frame<'_>) -> Option<Bytes> {
        if !matches!(frame.header.kind, NLMSG_DONE | NLMSG_ERROR) {
            return None;
        }
        let at = self.dumps.iter().position(|(seq, _)| *seq == frame.header.seq)?;
        let (_, request) = self.dumps.remove(at)?;
        // What was refused, in either way, has nothing of the instance's own in it.
        (frame.header.kind == NLMSG_DONE && frame.errno().is_none_or(|errno| errno == 0)).then_some(request)
    }

    /// As the kernel does with a socket that sends without having been bound.
    pub(super) fn autobind(&mut self) {
        if self.port_id != 0 {
            return;
        }
        let name = || getsockname::<NetlinkAddr>(self.real.as_raw_fd()).map_or(0, |n| n.pid());
        let mut port_id = name();
        if port_id == 0 && bind(self.real.as_raw_fd(), &NetlinkAddr::new(0, 0)).is_ok() {
            port_id = name();
        }
        self.named(port_id);
    }

    /// The real socket's port id is known. Before, nothing is sent to it.
    pub(super) fn named(&mut self, port_id: u32) {
        if port_id != 0 && self.port_id == 0 {
            // Only spares work: what comes nevertheless is filtered again.
            sys::attach_filter(&self.real, &without_ours(self.protocol, port_id));
        }
        self.port_id = port_id;
    }

    /// Passes on what the instance may see of a datagram of the kernel's. Where it ends a dump to
    /// which the instance's own part belongs, that request is returned, and the NLMSG_DONE kept
    /// back.
    pub(super) fn filter(&mut self, datagram: &[u8]) -> Option<(Bytes, Bytes)> {
        let (mut kept, mut done, mut whole) = (BytesMut::new(), None, true);
        for frame in Frames::new(datagram) {
            let Ok(frame) = frame else { break };
            let ended = self.ended_dump(&frame);
            if ended.is_some() || gate::is_ours(&frame.header, frame.payload, self.protocol, self.port_id) {
                whole = false;
                done = done.or(ended.map(|request| (request, Bytes::copy_from_slice(frame.bytes))));
                continue;
            }
            kept.extend_from_slice(frame.bytes);
            kept.resize(kept.len().next_multiple_of(4), 0);
        }
        if whole {
            self.push_parts(Bytes::copy_from_slice(datagram));
        } else if !kept.is_empty() {
            self.push_parts(kept.freeze());
        }
        done
    }

    /// NLMSG_ERROR to a request.
    pub(super) fn answer(&self, frame: &Frame<'_>, errno: i32) -> Bytes {
        let mut out = Vec::new();
        let options = AckOptions { capped: self.style.capped, ..AckOptions::default() };
        write_ack(&mut out, frame, self.port_id, errno, options);
        out.into()
    }
}

/// A datagram of several messages in pieces of whole messages, each no longer than [`PART`] unless
/// one message is.
fn parts(mut rest: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        for frame in Frames::new(&rest).map_while(Result::ok) {
            let next = end + frame.bytes.len().next_multiple_of(4);
            if end > 0 && next > PART {
                break;
            }
            end = next;
        }
        // What is no message goes as it came.
        let end = if end == 0 { rest.len() } else { end.min(rest.len()) };
        Some(rest.split_to(end))
    })
}

/// A filter (linux/filter.h) that keeps notifications of virtd's own routes in the kernel: each
/// instance's socket would be woken by each route that is written. What the socket with this port
/// id asked for passes ([`gate::is_ours`]), and so do parts of dumps: they hold several messages,
/// of which a filter sees the first.
fn without_ours(protocol: u8, port_id: u32) -> [SockFilter; 11] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    // Filters read in network order what netlink writes in the machine's.
    let half = |value: u16| u32::from(u16::from_be_bytes(value.to_ne_bytes()));
    [
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        SockFilter::new(JUMP_IF_SET, 7, 0, half(NLM_F_MULTI)),
        SockFilter::new(LOAD_WORD, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 5, 0, u32::from_be_bytes(port_id.to_ne_bytes())),
        SockFilter::new(LOAD_HALF, 0, 0, 4),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, half(RTM_NEWROUTE)),
        SockFilter::new(JUMP_IF_EQUAL, 0, 2, half(RTM_DELROUTE)),
        SockFilter::new(LOAD_BYTE, 0, 0, (HEADER_LEN + gate::RTM_PROTOCOL) as u32),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, u32::from(protocol)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::netlink::message::Writer;

    /// `n` messages with `len` octets behind the header each.
    fn messages(n: u32, len: usize) -> Bytes {
        let mut all = Vec::new();
        for seq in 0..n {
            let mut w = Writer::message(&mut all, RTM_NEWROUTE, NLM_F_MULTI, seq, 7);
            w.put(&vec![seq as u8; len]);
            w.finish().unwrap();
        }
        all.into()
    }

    #[test]
    fn parts_are_whole_messages_in_their_order_and_short() {
        for (n, len) in [(0, 0), (1, 10), (1, 9000), (3, 5000), (200, 61), (200, 300)] {
            let whole = messages(n, len);
            let all: Vec<Bytes> = parts(whole.clone()).collect();
            assert_eq!(all.concat(), whole, "{n} of {len}");
            for part in &all {
                let frames = Frames::new(part).filter(|f| f.is_ok()).count();
                assert!(frames > 0 && (part.len() <= PART || frames == 1), "{} octets, {frames} messages", part.len());
            }
        }
    }

    #[test]
    fn what_is_no_message_goes_as_it_came() {
        let odd = Bytes::from_static(b"short");
        assert_eq!(parts(odd.clone()).collect::<Vec<_>>(), [odd]);
    }
}
