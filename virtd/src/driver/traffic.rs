//! Octets between peers, legs and the broker: reading, writing, and carrying out what the broker
//! wants done with connections.
//!
//! What is still queued for a side that has said it will send nothing more (end of stream) is
//! dropped: BGP has no half-closed session (RFC 4271 section 8.2.2, TcpConnectionFails, ends it at
//! once), so nobody there waits for it. What came in *before* the end is given to the broker first:
//! a NOTIFICATION and the end often come together.

use super::stream::ReadEnd;
use super::*;
use broker::io::Note;
use broker::turn::World;
use journal::Record;

impl World for Driver {
    fn core(&mut self) -> &mut Core {
        &mut self.broker
    }

    fn now(&self) -> Micros {
        self.now
    }

    fn is_late(&self) -> bool {
        // Time that others had the processor is none that this turn has used: it would read the
        // less the busier the machine is.
        self.elapsed() >= self.now + TURN_US && self.used() >= TURN_US
    }

    fn has_unread(&mut self) -> bool {
        let until = *self.unread_until.get_or_insert(self.now);
        let unread = self.waiting.oldest().is_some_and(|came| came <= until);
        self.unread_until = Some(until).filter(|_| unread);
        unread
    }

    fn deferred(&mut self) -> &mut Deferred {
        &mut self.deferred
    }

    fn carry_out(&mut self, o: Output) {
        match o {
            Output::SendPeer { conn, bytes } => {
                if let Some(p) = self.peers.get_mut(&conn) {
                    if let Some((journal, kept)) = self.journal.as_mut().zip(p.stream.kept)
                        && p.stream.closing.is_none()
                    {
                        journal.tells(kept.place, kept.conn, &bytes);
                    }
                    p.stream.push(bytes);
                    if !std::mem::replace(&mut p.stream.listed, true) {
                        self.written.push(Source::Peer(conn));
                    }
                }
            }
            Output::SendLeg { leg, bytes } => {
                if let Some(l) = self.legs.get_mut(&leg) {
                    l.stream.push(bytes);
                    if !std::mem::replace(&mut l.stream.listed, true) {
                        self.written.push(Source::Leg(leg));
                    }
                }
            }
            Output::SendLegLater { leg, bytes } => {
                if let Some(l) = self.legs.get_mut(&leg) {
                    l.stream.push(bytes);
                    if !std::mem::replace(&mut l.later, true) {
                        self.deferred.write_to(leg);
                    }
                }
            }
            Output::Fib(changes) => {
                if let Err(e) = self.lines.kernel.send(changes) {
                    self.warn("fib-lost", format!("{e:#}"));
                }
            }
            o => self.carry_out_rare(o),
        }
    }

    fn answer(&mut self) {
        self.answer_all();
    }

    fn notify(&mut self, notes: Vec<(InstanceId, Note)>) {
        self.notify_all(notes);
    }

    fn write_to(&mut self, leg: LegId) {
        self.written.push(Source::Leg(leg));
    }

    fn is_written(&self) -> bool {
        self.written.is_empty()
    }

    fn write(&mut self) {
        // Their memory is kept from turn to turn.
        let mut written = std::mem::replace(&mut self.written, std::mem::take(&mut self.spare));
        for source in written.drain(..) {
            self.write_source(source);
        }
        self.spare = written;
    }
}

impl Driver {
    /// What is dialled is connected, or has failed.
    fn peer_dialled(&mut self, conn: ConnId) {
        let Some(p) = self.peers.get_mut(&conn) else { return };
        let Io::Tcp(s) = &p.stream.io else { return };
        let failed = match (s.take_error(), s.peer_addr(), s.local_addr()) {
            (Ok(None), Ok(peer), Ok(local)) => {
                p.dialling = false;
                self.keep(conn, true, local, peer);
                return self.broker.handle(self.now, Input::PeerConnected { conn, local, peer });
            }
            (Ok(Some(e)) | Err(e), ..) => e.raw_os_error().unwrap_or(libc::EIO),
            // Not connected and no error: a spurious wake-up.
            (Ok(None), ..) => return,
        };
        self.drop_peer(conn);
        self.broker.handle(self.now, Input::PeerDialFailed { conn, errno: failed });
    }

    pub(super) fn peer_event(&mut self, conn: ConnId, readable: bool, writable: bool, exhaust: bool) {
        let Some(p) = self.peers.get_mut(&conn) else { return };
        if p.dialling {
            self.peer_dialled(conn);
            // What came right behind is there already, and no edge comes for it.
            let connected = self.peers.get(&conn).is_some_and(|p| !p.dialling);
            if connected && readable {
                self.peer_event(conn, true, false, exhaust);
            }
            return;
        }
        // An edge comes with every octet that is read, too; only one that was waited for means
        // anything.
        if writable && std::mem::take(&mut p.stream.blocked) {
            self.written.push(Source::Peer(conn));
        }
        if !readable || p.stream.paused {
            return;
        }
        if let Some(journal) = self.journal.as_ref() {
            journal.begins();
        }
        let end = p.stream.read(&mut self.scratch, &mut self.passed, exhaust, self.journal.as_mut());
        let closing = p.stream.closing.is_some();
        if !closing && !p.stream.rx.is_empty() {
            let mut buf = std::mem::take(&mut p.stream.rx);
            self.broker.handle(self.now, Input::PeerBytes { conn, buf: &mut buf });
            if let Some(p) = self.peers.get_mut(&conn) {
                p.stream.rx = buf;
            }
        }
        match end {
            ReadEnd::Empty => {}
            ReadEnd::More => self.again.extend(self.peers.get(&conn).map(|p| p.token)),
            ReadEnd::Closed(errno) => {
                self.drop_peer(conn);
                if !closing {
                    self.broker.handle(self.now, Input::PeerClosed { conn, errno });
                }
            }
        }
    }

    pub(super) fn leg_readable(&mut self, id: LegId, exhaust: bool) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.stream.paused {
            return;
        }
        if leg.connecting.is_some() {
            // Nothing but filler can be there; what matters is whether the daemon gave up.
            if hung_up(&leg.stream.io) {
                self.drop_leg(id);
                self.broker.handle(self.now, Input::LegClosed { leg: id });
            }
            return;
        }
        let end = leg.stream.read(&mut self.scratch, &mut self.passed, exhaust, None);
        let closing = leg.stream.closing.is_some();
        if !closing && !leg.stream.rx.is_empty() {
            let mut buf = std::mem::take(&mut leg.stream.rx);
            // A route goes to the FIB before it goes to peers.
            let instance = leg.instance;
            self.catch_up(instance);
            self.broker.handle(self.now, Input::LegBytes { leg: id, buf: &mut buf });
            if let Some(leg) = self.legs.get_mut(&id) {
                leg.stream.rx = buf;
            }
        }
        match end {
            ReadEnd::Empty => {}
            ReadEnd::More => self.again.extend(self.legs.get(&id).map(|l| l.token)),
            ReadEnd::Closed(_) => {
                self.drop_leg(id);
                if !closing {
                    self.broker.handle(self.now, Input::LegClosed { leg: id });
                }
            }
        }
    }

    fn write_source(&mut self, source: Source) {
        match source {
            Source::Peer(conn) => {
                let Some(p) = self.peers.get_mut(&conn).filter(|p| !p.dialling) else { return };
                let before = p.stream.queued();
                p.stream.write(self.journal.as_mut());
                let queued = p.stream.queued();
                if before > 0 && p.stream.closing.is_none() {
                    self.broker
                        .handle(self.now, Input::PeerDrained { conn, queued, taken: before.saturating_sub(queued) });
                }
            }
            Source::Leg(leg) => {
                let Some(l) = self.legs.get_mut(&leg) else { return };
                l.later = false;
                let before = l.stream.queued();
                l.stream.write(None);
                let queued = l.stream.queued();
                if (queued > 0) != l.wants_write {
                    l.wants_write = queued > 0;
                    let interest =
                        if queued > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
                    let fd = l.stream.io.as_raw_fd();
                    let _ = self.poll.registry().reregister(&mut SourceFd(&fd), l.token, interest);
                }
                if before > 0 && l.stream.closing.is_none() {
                    self.broker.handle(self.now, Input::LegDrained { leg, queued });
                }
            }
            _ => {}
        }
    }

    /// By itself, so that what passes a route on has a small frame.
    #[inline(never)]
    fn carry_out_rare(&mut self, o: Output) {
        match o {
            Output::Event(event) => self.tell(*event),
            Output::Order { instance, order } => {
                if self.lines.master.order(instance, order).is_err() {
                    let who = self.instance_name(instance);
                    self.warn(
                        "order-lost",
                        format!(
                            "{order:?} of {who} could not be passed on: virtd is ending, or its supervisor is stuck"
                        ),
                    );
                }
            }
            Output::RestartNeighbour { instance, peer } => {
                if self.lines.master.neighbour(instance, peer).is_err() {
                    let who = self.instance_name(instance);
                    let text = format!("{who} was not asked to begin its session with {peer} anew: too many wait");
                    self.warn("neighbour-restart-failed", text);
                }
            }
            Output::Seat { instance, seat } => self.seat(instance, seat),
            Output::LinkReset { instance, index, up } => self.link_reset(instance, index, up),
            Output::Record(record) => {
                // A disk that is slow or full must not hold up a route.
                if self.lines.records.try_send(record).is_err() {
                    self.warn("record-lost", "a flight record was dropped: the disk does not keep up".to_owned());
                }
            }
            Output::Dial { conn, peer, local, leg } => self.dial(conn, peer, local, leg),
            Output::Standing(whose) => {
                if let Some(journal) = &mut self.journal {
                    whose.append_to(journal);
                }
            }
            Output::Refreshed { conn } => {
                if let Some(journal) = &mut self.journal {
                    Record::Refreshed { conn: conn.0 }.append_to(journal);
                }
            }
            Output::Established { conn } => {
                if let Some((journal, kept)) =
                    self.journal.as_ref().zip(self.peers.get(&conn).and_then(|p| p.stream.kept))
                {
                    journal.stands(kept.place);
                }
            }
            Output::ClosePeer { conn, abort } => self.close_peer(conn, abort),
            Output::CloseLeg { leg } => self.close_leg(leg),
            Output::PausePeer { conn, pause } => {
                if let Some(p) = self.peers.get_mut(&conn).filter(|p| p.stream.paused != pause) {
                    p.stream.paused = pause;
                    self.again.extend((!pause).then_some(p.token));
                }
            }
            Output::PauseLeg { leg, pause } => {
                if let Some(l) = self.legs.get_mut(&leg).filter(|l| l.stream.paused != pause) {
                    l.stream.paused = pause;
                    self.again.extend((!pause).then_some(l.token));
                }
            }
            Output::OfferLeg { leg, listener, peer, local, conn, .. } => {
                self.offer_leg(leg, listener, peer, local, conn)
            }
            Output::LegConnected { leg, local, peer, conn } => self.leg_connected(leg, local, peer, conn),
            Output::LegRefused { leg, errno } => self.leg_refused(leg, errno),
            Output::SendPeer { .. }
            | Output::SendLeg { .. }
            | Output::SendLegLater { .. }
            | Output::NetlinkNotify { .. }
            | Output::Fib(_) => {
                debug_assert!(false, "carried out by the caller");
            }
        }
    }

    fn dial(&mut self, conn: ConnId, peer: SocketAddr, local: Option<SocketAddr>, leg: LegId) {
        if let Err(errno) = self.try_dial(conn, peer, local, leg) {
            self.broker.handle(self.now, Input::PeerDialFailed { conn, errno: errno.get() });
        }
    }

    fn try_dial(&mut self, conn: ConnId, peer: SocketAddr, local: Option<SocketAddr>, leg: LegId) -> Result<(), Errno> {
        // The leg knows the keys; without it the connection might go out unprotected.
        let Some(leg) = self.legs.get(&leg) else { return Err(libc::ECONNABORTED.into()) };
        if self.peers.len() >= MAX_CONNECTIONS {
            return Err(libc::ENOBUFS.into());
        }
        let mut failed = Vec::new();
        let dialled = net::dial(peer, local, |socket| Self::prepare(socket, leg.instance, &leg.wanted, &mut failed));
        for option in failed {
            let how = if dialled.is_err() { "not dialled" } else { "dialled without it" };
            let name = self.broker.peer_name(&peer);
            self.warn("option-failed", format!("{name} is {how}: the kernel does not take {option}"));
        }
        let (stream, agreed) = dialled?;
        self.add_peer(conn, stream, true).map_err(|_| libc::ENOMEM)?;
        if let Some(p) = self.peers.get_mut(&conn) {
            p.agreed = agreed;
        }
        Ok(())
    }

    pub(super) fn close_peer(&mut self, conn: ConnId, abort: bool) {
        let Some(p) = self.peers.get_mut(&conn) else { return };
        if abort || p.dialling {
            if let Io::Tcp(s) = &p.stream.io {
                let _ = socket2::SockRef::from(s).set_linger(Some(Duration::ZERO));
            }
            return self.drop_peer(conn);
        }
        p.stream.closing = Some(self.now + PEER_LINGER_US);
        p.stream.paused = false;
        self.closing.push(Source::Peer(conn));
        self.written.push(Source::Peer(conn));
        self.again.extend(self.peers.get(&conn).map(|p| p.token));
    }

    fn close_leg(&mut self, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.connecting.is_some() {
            return self.leg_refused(id, libc::ECONNRESET);
        }
        leg.stream.closing = Some(self.now + LEG_LINGER_US);
        leg.stream.paused = false;
        self.closing.push(Source::Leg(id));
        self.written.push(Source::Leg(id));
        let token = leg.token;
        self.again.push(token);
    }

    /// Drops what was to be closed and is past its time; what the other side closed is gone
    /// already.
    pub(super) fn finish_closing(&mut self) {
        let now = self.now;
        let late = |s: Option<&Stream>| s.is_some_and(|s| s.closing.is_some_and(|at| at <= now));
        let mut due = Vec::new();
        let (peers, legs) = (&self.peers, &self.legs);
        self.closing.retain(|source| {
            let (there, over) = match source {
                Source::Peer(c) => (peers.contains_key(c), late(peers.get(c).map(|p| &p.stream))),
                Source::Leg(l) => (legs.contains_key(l), late(legs.get(l).map(|l| &l.stream))),
                _ => (false, false),
            };
            if over {
                due.push(*source);
            }
            there && !over
        });
        for source in due {
            match source {
                Source::Peer(c) => self.drop_peer(c),
                Source::Leg(l) => self.drop_leg(l),
                _ => {}
            }
        }
    }

    pub(super) fn drop_peer(&mut self, conn: ConnId) {
        if let Some(p) = self.peers.remove(&conn) {
            self.forget(p.token, p.stream.io.as_raw_fd());
            if let Some((journal, kept)) = self.journal.as_mut().zip(p.stream.kept) {
                Record::Closed { conn: kept.conn }.append_to(journal);
                journal.close(kept.place);
            }
        }
    }

    pub(super) fn drop_leg(&mut self, id: LegId) {
        if let Some(mut leg) = self.legs.remove(&id) {
            self.forget(leg.token, leg.stream.io.as_raw_fd());
            self.named.remove(&(leg.instance, leg.cookie));
            // A connect that fails shows as TCP's does, readable and writable in one: the end
            // first, then what keeps it from being writable.
            if let Some(filler) = leg.connecting {
                leg.stream.io.shutdown_write();
                leg.stream.discard(filler, &mut self.scratch, &mut self.passed);
            }
        }
    }

    pub(super) fn add_leg(&mut self, id: LegId, end: Foreign, leg: impl FnOnce(Stream, Token) -> Leg) -> Result<()> {
        socket2::SockRef::from(&end).set_nonblocking(true)?;
        let token = self.register(end.as_raw_fd(), Source::Leg(id), false)?;
        let leg = leg(Stream::new(Io::Unix(end)), token);
        self.named.insert((leg.instance, leg.cookie), Named::Leg(id));
        self.legs.insert(id, leg);
        Ok(())
    }
}

/// Whether the other end of a leg is gone, without reading.
fn hung_up(io: &Io) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let Io::Unix(s) = io else { return false };
    let fd = std::os::fd::AsFd::as_fd(s);
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
