//! The netlink sockets of the instances: a SEQPACKET pair stands in for each, and a real socket of
//! virtd's behind it asks the kernel what is to be asked there. What becomes of which message says
//! [`vkernel::gate`].
//!
//! ```text
//! daemon ─▶ pair ─▶ gate ─┬─▶ virtual kernel (the broker) ─▶ answers ─┐
//!                         └─▶ real socket ─▶ kernel ─▶ gate ──────────┴─▶ pair ─▶ daemon
//! ```
//! Answers to a request are in the pair before the daemon's send returns: it waits for one octet
//! over a socket that comes along with the request.

mod endpoint;

use super::requests::refuse;
use super::*;
use broker::io::{DumpCursor, NetlinkId, NetlinkStyle, Note};
use bytes::{Bytes, BytesMut};
pub(super) use endpoint::Endpoint;
use endpoint::{Dumping, NOTIFY_MARK, PART};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send, socket,
};
use socket2::SockFilter;
use vkernel::gate::{self, Handling};
use wire::netlink::consts::{
    NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_DROP_MEMBERSHIP, NETLINK_EXT_ACK, NLM_F_ACK, NLM_F_MULTI,
    NLMSG_DONE, NLMSG_ERROR, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE,
};
use wire::netlink::message::{AckOptions, HEADER_LEN, write_ack};
use wire::netlink::{Frame, Frames};
use wire::shim::ANSWERED_AHEAD;

/// Netlink sockets of one instance at once; a daemon has a handful, one for each table at most.
const MAX_SOCKETS: usize = 64;
/// Longest datagram that an instance may send; zebra's batches have 128 KiB.
const MAX_DATAGRAM: usize = 512 << 10;
/// Datagrams taken from one socket in one turn, and octets of an instance's: others wait meanwhile.
const BUDGET: usize = 256;
const BUDGET_OCTETS: usize = 1 << 20;
/// Turns of reading that an instance's other words wait for; more than its buffer holds.
const MAX_CATCH_UP: usize = 64;
/// Octets of a pair's buffers: the errors of a whole batch must fit, each with the kernel's
/// overhead for a datagram.
const PAIR_BUFFER: usize = 8 << 20;
/// Octets of the real socket's receive buffer: notifications wait there while a daemon is busy.
const REAL_BUFFER: usize = 4 << 20;
/// Pieces of a dump that are made in one turn.
const DUMP_BUDGET: usize = 4;
/// Octets of the kernel's longest message: a route's next hops and a group's members have 64 KiB at
/// most, links with many virtual functions more.
pub(super) const MAX_FROM_KERNEL: usize = 256 << 10;
/// With so much waiting for the daemon nothing more is read for it from the kernel.
const HIGH_MARK: usize = 1 << 20;

impl Driver {
    /// # Errors
    /// errno.
    fn try_netlink_open(&mut self, end: Foreign, instance: InstanceId, cookie: u64) -> Result<(), Errno> {
        let Some(fib) = self.config.fib else { return Err(libc::EPROTONOSUPPORT.into()) };
        self.is_free(instance, cookie)?;
        if self.netlinks.values().filter(|e| e.instance == instance).count() >= MAX_SOCKETS {
            return Err(libc::ENOBUFS.into());
        }
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let real = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        sys::widen_to(&end, PAIR_BUFFER);
        sys::widen_to(&real, REAL_BUFFER);
        let id = NetlinkId(self.fresh_id());
        let token = self.register(end.as_raw_fd(), Source::Netlink(id), false).map_err(|_| libc::ENOMEM)?;
        let real_token = match self.register(real.as_raw_fd(), Source::Kernel(id), false) {
            Ok(token) => token,
            Err(_) => {
                self.forget(token, end.as_raw_fd());
                return Err(libc::ENOMEM.into());
            }
        };
        self.named.insert((instance, cookie), Named::Netlink(id));
        let endpoint = Endpoint {
            instance,
            cookie,
            end,
            token,
            real,
            real_token,
            port_id: 0,
            protocol: fib.protocol,
            groups: hashbrown::HashSet::new(),
            style: NetlinkStyle::default(),
            out: VecDeque::new(),
            out_octets: 0,
            wants_write: false,
            overflowed: false,
            dumps: VecDeque::new(),
            paused: false,
            ahead: false,
            dumping: None,
        };
        self.netlinks.insert(id, endpoint);
        self.broker.handle(self.now, Input::NetlinkOpened { socket: id, instance });
        Ok(())
    }

    pub(super) fn netlink_open(&mut self, to: &Foreign, end: Foreign, instance: InstanceId, cookie: u64) {
        match self.try_netlink_open(end, instance, cookie) {
            Ok(()) => shim::reply(to, &Reply::NetlinkName { port_id: 0, groups: 0 }),
            Err(errno) => refuse(to, errno, ""),
        }
    }

    fn netlink_of(&self, instance: InstanceId, cookie: u64) -> Result<NetlinkId, Errno> {
        match self.named.get(&(instance, cookie)) {
            Some(Named::Netlink(id)) => Ok(*id),
            _ => Err(libc::ENOENT.into()),
        }
    }

    pub(super) fn netlink_bind(&mut self, to: &Foreign, instance: InstanceId, cookie: u64, port_id: u32, groups: u32) {
        let bound = self.netlink_of(instance, cookie).and_then(|id| {
            let e = self.netlinks.get_mut(&id).ok_or(libc::ENOENT)?;
            bind(e.real.as_raw_fd(), &NetlinkAddr::new(port_id, groups))?;
            e.groups.retain(|g| *g > 32);
            e.groups.extend((1..=32).filter(|g| groups & (1 << (g - 1)) != 0));
            Ok(id)
        });
        match bound {
            Ok(_) => self.netlink_names(to, instance, cookie),
            Err(errno) => refuse(to, errno, ""),
        }
    }

    pub(super) fn netlink_names(&mut self, to: &Foreign, instance: InstanceId, cookie: u64) {
        let name = self.netlink_of(instance, cookie).and_then(|id| {
            let e = self.netlinks.get_mut(&id).ok_or(libc::ENOENT)?;
            let name = getsockname::<NetlinkAddr>(e.real.as_raw_fd())?;
            e.named(name.pid());
            Ok(Reply::NetlinkName { port_id: name.pid(), groups: name.groups() })
        });
        match name {
            Ok(reply) => shim::reply(to, &reply),
            Err(errno) => refuse(to, errno, ""),
        }
    }

    /// setsockopt at level SOL_NETLINK.
    ///
    /// # Errors
    /// errno.
    pub(super) fn netlink_option(&mut self, id: NetlinkId, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        let e = self.netlinks.get_mut(&id).ok_or(libc::ENOENT)?;
        sys::set_option(&e.real, level, name, value)?;
        let number = value.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
        match name {
            NETLINK_ADD_MEMBERSHIP => drop(e.groups.insert(number)),
            NETLINK_DROP_MEMBERSHIP => drop(e.groups.remove(&number)),
            NETLINK_EXT_ACK => e.style.extended = number != 0,
            NETLINK_CAP_ACK => e.style.capped = number != 0,
            _ => {}
        }
        Ok(())
    }

    /// getsockopt at level SOL_NETLINK.
    ///
    /// # Errors
    /// errno.
    pub(super) fn netlink_get_option<'a>(
        &self,
        id: NetlinkId,
        level: i32,
        name: i32,
        value: &'a mut [u8],
    ) -> Result<&'a [u8], Errno> {
        let e = self.netlinks.get(&id).ok_or(libc::ENOENT)?;
        Ok(sys::option(&e.real, level, name, value)?)
    }

    /// Reads what an instance has written without waiting for the answer. To be called with
    /// something else in hand that it said, which it said after that.
    pub(super) fn catch_up(&mut self, instance: InstanceId) {
        for i in 0..self.ahead.len() {
            if let Some(id) = self.ahead.get(i).filter(|(who, _)| *who == instance).map(|(_, id)| *id) {
                let _drained = (0..MAX_CATCH_UP).find(|_| !self.netlink_readable(id, false));
            }
        }
    }

    /// The daemon has sent something, or is gone. Takes what is there for one turn; whether there
    /// may be more. With `at_once` a route whose answer the daemon waits for does not wait for the
    /// end of the turn; its notification waits until all that is there was read, see
    /// [`turn::notify`].
    pub(super) fn netlink_readable(&mut self, id: NetlinkId, at_once: bool) -> bool {
        let mut buf = std::mem::take(&mut self.datagram);
        buf.resize(MAX_DATAGRAM, 0);
        let mut octets = 0;
        for _ in 0..BUDGET {
            if octets > BUDGET_OCTETS {
                break;
            }
            let Some(e) = self.netlinks.get(&id) else { break };
            let received = shim::receive_datagram(&e.end, &mut buf, &mut self.passed);
            match received {
                Ok((0, _)) => self.drop_netlink(id),
                Ok((n, to)) => {
                    octets += n;
                    if !e.ahead && !self.ahead.is_empty() {
                        // A dump, say: what was written before belongs into it.
                        self.catch_up(e.instance);
                    }
                    let waits = self.netlink_datagram(id, buf.get(..n).unwrap_or_default());
                    if self.netlinks.get(&id).is_some_and(|e| e.out_octets > HIGH_MARK) {
                        self.netlink_write(id);
                    }
                    self.answered.push((id, to));
                    if waits && at_once {
                        // The daemon says no more until it has its answer, so there is nothing to
                        // collect with this. What it says then is read before it hears of its own
                        // routes, which it does not wait for.
                        turn::pass_on(self);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.datagram = buf;
                    return false;
                }
                Err(_) => self.drop_netlink(id),
            }
        }
        self.datagram = buf;
        self.again.extend(self.netlinks.get(&id).map(|e| e.token));
        self.netlinks.contains_key(&id)
    }

    /// Lets those go on that have asked for something. They may do so on this processor: what goes
    /// into the kernel has to be on its way.
    pub(super) fn answer_all(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        let mut answered = std::mem::take(&mut self.answered);
        for (id, to) in answered.drain(..) {
            self.netlink_write(id);
            if let Some(to) = to {
                // Whoever does not wait any more has no use for it.
                let _ = send(to.as_raw_fd(), &[1], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
                to.spend();
            }
        }
        // Its memory is kept from turn to turn.
        if self.answered.is_empty() {
            self.answered = answered;
        }
    }

    /// Takes a datagram apart; whether the daemon waits for an answer to it.
    fn netlink_datagram(&mut self, id: NetlinkId, bytes: &[u8]) -> bool {
        let (mut answers, mut waits) = (std::mem::take(&mut self.answers), false);
        for frame in Frames::new(bytes) {
            // The kernel, too, throws away the rest of a datagram that it cannot take apart.
            let Ok(frame) = frame else { break };
            let Some(e) = self.netlinks.get_mut(&id) else { return false };
            waits |= frame.header.flags & NLM_F_ACK != 0 && frame.header.port != ANSWERED_AHEAD;
            match gate::handling(&frame) {
                Handling::Virtual => {
                    e.autobind();
                    if frame.header.port == ANSWERED_AHEAD && !std::mem::replace(&mut e.ahead, true) {
                        self.ahead.push((e.instance, id));
                    }
                    let (port_id, style) = (e.port_id, e.style);
                    let input = Input::NetlinkRequest {
                        socket: id,
                        port_id,
                        style,
                        message: frame.bytes,
                        answers: &mut answers,
                    };
                    self.broker.handle(self.now, input);
                }
                Handling::Real | Handling::Dump => {
                    // What the kernel says comes after what was written before.
                    turn::notify(self);
                    let Some(e) = self.netlinks.get_mut(&id) else { return false };
                    // By its port id an answer is told from a notification.
                    e.autobind();
                    e.flush_answers(&mut answers);
                    if let Err(errno) = e.ask(&frame) {
                        answers.push(e.answer(&frame, errno.get()));
                    }
                    // What the kernel says to this comes before what is said to the next.
                    self.kernel_readable(id);
                }
                Handling::Ignored if frame.header.flags & NLM_F_ACK != 0 => answers.push(e.answer(&frame, 0)),
                Handling::Ignored => {}
                Handling::Refused => {
                    answers.push(e.answer(&frame, libc::EOPNOTSUPP));
                    let (kind, instance) = (frame.header.kind, e.instance);
                    let who = self.instance_name(instance);
                    let text = format!(
                        "{who} asked the kernel for a change (rtnetlink type {kind}) that is not an instance's to make: configure links, addresses and rules in the system itself"
                    );
                    self.refused("netlink-refused", text);
                }
            }
            if let Some(e) = self.netlinks.get_mut(&id) {
                e.flush_answers(&mut answers);
            }
        }
        // Its memory is kept, but not what is for a socket that is gone.
        answers.clear();
        self.answers = answers;
        waits
    }

    /// The kernel has an answer or a notification.
    pub(super) fn kernel_readable(&mut self, id: NetlinkId) {
        for _ in 0..BUDGET {
            if !self.go_on_dumping(id) {
                return;
            }
            let Some(e) = self.netlinks.get_mut(&id) else { return };
            if e.out_octets > HIGH_MARK {
                e.paused = true;
                return;
            }
            // With MSG_TRUNC the length is the message's own, whether it fits or not.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let n = match recv(e.real.as_raw_fd(), &mut self.from_kernel, flags) {
                Ok(n) if n > self.from_kernel.len() => {
                    e.overflowed = true;
                    self.netlink_write(id);
                    continue;
                }
                Ok(n) => n,
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(errno) => {
                    e.push(Bytes::copy_from_slice(&Errno::from(errno).get().to_le_bytes()));
                    self.netlink_write(id);
                    continue;
                }
            };
            let datagram = self.from_kernel.get(..n).unwrap_or_default();
            let stirs = stirs(datagram);
            if let Some((request, done)) = e.filter(datagram) {
                e.dumping = Some(Dumping { request, done, cursor: DumpCursor::default() });
            }
            if stirs {
                self.broker.handle(self.now, Input::NetlinkStirred);
            }
            self.netlink_write(id);
        }
        self.again.extend(self.netlinks.get(&id).map(|e| e.real_token));
    }

    /// Gives more of the instance's own part of a dump, where the daemon has taken what there was.
    /// Whether nothing is left of it.
    fn go_on_dumping(&mut self, id: NetlinkId) -> bool {
        for _ in 0..DUMP_BUDGET {
            let Some(e) = self.netlinks.get_mut(&id) else { return false };
            if e.dumping.is_none() {
                return true;
            }
            if !e.out.is_empty() {
                // Whatever makes room asks for more.
                return false;
            }
            let Some(mut dumping) = e.dumping.take() else { return true };
            let mut answers = Vec::new();
            let input = Input::NetlinkDump {
                socket: id,
                port_id: e.port_id,
                request: &dumping.request,
                cursor: &mut dumping.cursor,
                done: &dumping.done,
                answers: &mut answers,
            };
            self.broker.handle(self.now, input);
            let Some(e) = self.netlinks.get_mut(&id) else { return false };
            answers.drain(..).for_each(|a| e.push_parts(a));
            self.netlink_write(id);
            let Some(e) = self.netlinks.get_mut(&id) else { return false };
            e.dumping = Some(dumping).filter(|dumping| !dumping.cursor.finished);
        }
        let Some(e) = self.netlinks.get(&id) else { return false };
        if e.dumping.is_some() && e.out.is_empty() {
            self.again.push(e.real_token);
        }
        e.dumping.is_none()
    }

    /// Notifications of the instances' virtual kernels, in order; several of one group go in one
    /// datagram, as parts of a dump do.
    pub(super) fn notify_all(&mut self, notes: Vec<(InstanceId, Note)>) {
        let encoded = |(instance, note): (InstanceId, Note)| Some((instance, note.group, note.encode()?));
        let mut notes = notes.into_iter().filter_map(encoded).peekable();
        while let Some((instance, group, first)) = notes.next() {
            let more = |octets: usize, next: &(InstanceId, u32, Bytes)| {
                (next.0, next.1) == (instance, group) && octets + next.2.len() <= PART
            };
            let mut next = notes.next_if(|next| more(first.len().next_multiple_of(4), next));
            if next.is_none() {
                self.netlink_notify(instance, group, &first);
                continue;
            }
            let mut together = BytesMut::with_capacity(PART);
            together.extend_from_slice(&first);
            while let Some((_, _, bytes)) = next {
                together.resize(together.len().next_multiple_of(4), 0);
                together.extend_from_slice(&bytes);
                next = notes.next_if(|next| more(together.len().next_multiple_of(4), next));
            }
            self.netlink_notify(instance, group, &together.freeze());
        }
    }

    /// A notification of the instance's own virtual kernel.
    pub(super) fn netlink_notify(&mut self, instance: InstanceId, group: u32, bytes: &Bytes) {
        let members = self.netlinks.iter_mut().filter(|(_, e)| e.instance == instance && e.groups.contains(&group));
        let mut ids = Vec::new();
        for (id, e) in members {
            if e.out_octets > NOTIFY_MARK {
                e.overflowed = true;
            } else {
                e.push(bytes.clone());
                ids.push(*id);
            }
        }
        ids.into_iter().for_each(|id| self.netlink_write(id));
    }

    /// Gives the daemon what waits for it, as far as there is room.
    pub(super) fn netlink_write(&mut self, id: NetlinkId) {
        let Some(e) = self.netlinks.get_mut(&id) else { return };
        while let Some(first) = e.out.front() {
            match send(e.end.as_raw_fd(), first, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => {
                    e.out_octets -= first.len();
                    e.out.pop_front();
                }
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS) => break,
                Err(_) => return self.drop_netlink(id),
            }
        }
        if e.out.is_empty() && std::mem::take(&mut e.overflowed) {
            e.push(Bytes::copy_from_slice(&libc::ENOBUFS.to_le_bytes()));
        }
        if e.paused && e.out_octets <= HIGH_MARK / 2 {
            e.paused = false;
            self.again.push(e.real_token);
        }
        if e.out.is_empty() && e.dumping.is_some() {
            self.again.push(e.real_token);
        }
        if e.out.is_empty() == e.wants_write {
            e.wants_write = !e.out.is_empty();
            let interest = if e.wants_write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let fd = e.end.as_raw_fd();
            let _ = self.poll.registry().reregister(&mut SourceFd(&fd), e.token, interest);
        }
    }

    pub(super) fn drop_netlink(&mut self, id: NetlinkId) {
        let Some(e) = self.netlinks.remove(&id) else { return };
        self.forget(e.token, e.end.as_raw_fd());
        self.forget(e.real_token, e.real.as_raw_fd());
        self.named.remove(&(e.instance, e.cookie));
        self.ahead.retain(|(_, other)| *other != id);
        self.broker.handle(self.now, Input::NetlinkClosed { socket: id });
    }
}

/// Whether the kernel tells of something new by which gateways can be reached: a notification, or a
/// part of a dump.
fn stirs(datagram: &[u8]) -> bool {
    let first = Frames::new(datagram).next().and_then(Result::ok);
    first.is_some_and(|frame| {
        let kind = frame.header.kind;
        matches!(kind, RTM_NEWLINK | RTM_NEWADDR) || kind == RTM_NEWROUTE && frame.header.flags & NLM_F_MULTI == 0
    })
}
