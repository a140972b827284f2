//! The peer's side of a session: TCP connections, OPEN, timers, what it sends.

use super::*;
use crate::event::Severity;
use wire::bgp::frame::{self, Message, MessageType};
use wire::bgp::message::{self, RouteRefresh};

impl Session {
    /// The peer connected to us.
    pub fn accepted(&mut self, conn: ConnId, peer: SocketAddr, local: SocketAddr, env: &mut Env) {
        let wanted = self
            .seats
            .iter()
            .enumerate()
            .any(|(i, s)| s.leg.is_some() || env.instances.listener_for(i, local.ip()).is_some());
        if !wanted || self.shut {
            return env.out.push(Output::ClosePeer { conn, abort: true });
        }
        // RFC 4271 section 6.8: a connection that collides with an established one is closed; which
        // of those that are not stays their OPENs decide.
        if self.up.is_some() || self.exts.iter().filter(|e| e.state != ExtState::Connect).count() >= MAX_OPENING {
            env.out.push(Output::SendPeer { conn, bytes: Notification::new(6, 7).encode() });
            return env.out.push(Output::ClosePeer { conn, abort: false });
        }
        // An attempt of ours that has not been answered yields to the peer's connection.
        for e in self.exts.extract_if(.., |e| e.state == ExtState::Connect) {
            env.out.push(Output::ClosePeer { conn: e.id, abort: true });
        }
        self.add_ext(conn, false, Some(local), peer, env.now);
        // Who listens sees each connection that a peer makes, as on a host of its own.
        for seat in self.seats.iter_mut().filter(|s| s.leg.is_none()) {
            seat.next_offer = seat.next_offer.min(env.now);
        }
        self.offer_from = env.now;
        self.tcp_stands(conn, env);
    }

    /// Our dial succeeded.
    pub fn connected(&mut self, conn: ConnId, local: SocketAddr, env: &mut Env) {
        let now = env.now;
        let Some(e) = self.ext(conn) else { return };
        (e.state, e.local, e.since, e.hold_until) = (ExtState::Connected, Some(local), now, now + OPEN_HOLD_US);
        self.offer_from = now + 1_000_000;
        self.tcp_stands(conn, env);
    }

    /// Our dial failed: every instance that waits for it is told the same.
    pub fn dial_failed(&mut self, conn: ConnId, errno: i32, env: &mut Env) {
        self.exts.retain(|e| e.id != conn);
        if !self.exts.is_empty() {
            return;
        }
        for s in &mut self.seats {
            if let Some(leg) = s.leg.take_if(|l| l.state == LegState::Connecting) {
                env.out.push(Output::LegRefused { leg: leg.id, errno });
            }
        }
    }

    pub(super) fn add_ext(
        &mut self,
        id: ConnId,
        dialled: bool,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        now: Micros,
    ) {
        self.exts.push(Ext {
            id,
            dialled,
            state: if dialled { ExtState::Connect } else { ExtState::Connected },
            local,
            remote,
            peer_open: None,
            opened: now,
            negotiated: None,
            keepalive_sent: false,
            keepalive_seen: false,
            since: now,
            hold_until: now + OPEN_HOLD_US,
            next_keepalive: Micros::MAX,
            queued: 0,
        });
    }

    fn tcp_stands(&mut self, conn: ConnId, env: &mut Env) {
        for i in 0..self.seats.len() {
            self.hold_connection(i, env);
            self.connect_leg(i, conn, env);
        }
        self.open_if_ready(env);
        self.offer_legs(env);
    }

    /// Sends our OPEN where it can be made: docs/DECISIONS.md, "One OPEN, voted on".
    pub(super) fn open_if_ready(&mut self, env: &mut Env) {
        if self.exts.iter().all(|e| e.state != ExtState::Connected) {
            return;
        }
        let voices = self.voices(env);
        let (ready, known, all) = (voices.iter().filter(|v| v.fresh).count(), voices.len(), env.instances.voters.len());
        let waited = self.exts.iter().any(|e| e.state == ExtState::Connected && env.now >= e.open_due(env));
        if ready < self.wanted_opens(env) {
            return;
        }
        if !(ready == all || (known == all && ready >= env.instances.quorum()) || waited && ready > 0) {
            return;
        }
        let Some((profile, odd)) = super::super::open::learn(&voices) else { return };
        for i in odd {
            let seat = self.seats.get(i).filter(|s| s.sits());
            if let Some(refusal) = seat.and_then(|s| profile.refuses(s.open.as_ref()?)) {
                self.refuse(i, refusal, env);
            }
        }
        let bytes = self.our_open(&profile, env);
        self.profile = Some(profile);
        for e in self.exts.iter_mut().filter(|e| e.state == ExtState::Connected) {
            e.state = ExtState::OpenSent;
            env.out.push(Output::SendPeer { conn: e.id, bytes: bytes.clone() });
        }
        // The newest first: see `collides`.
        for conn in self.exts.iter().rev().map(|e| e.id).collect::<Vec<_>>() {
            self.confirm(conn, env);
        }
    }

    /// Bytes from the peer: whole messages are taken off the front.
    pub fn peer_bytes(&mut self, conn: ConnId, buf: &mut BytesMut, env: &mut Env) {
        if let Some(witness) = &env.witness {
            witness.hears(&self.peer);
        }
        loop {
            let Some(e) = self.ext(conn) else { return };
            // What comes before our OPEN is out can be nothing but an OPEN; the longer form is only
            // for what follows it.
            let extended = e.negotiated.as_ref().is_some_and(|n| n.shared.extended_message);
            match frame::next_message(buf, extended) {
                Ok(Some(m)) => self.peer_message(conn, m, env),
                Ok(None) => return,
                Err(n) => return self.reset(conn, n, "its bytes are not a BGP message", env),
            }
        }
    }

    fn peer_message(&mut self, conn: ConnId, m: Message, env: &mut Env) {
        let Some(e) = self.ext(conn) else { return };
        let state = e.state;
        if let Some(n) = &e.negotiated
            && n.hold_time_s > 0
        {
            e.hold_until = env.now + Micros::from(n.hold_time_s) * 1_000_000;
        }
        match (m.kind, state) {
            (MessageType::Notification, _) => {
                let n = Notification::decode(m.body());
                let what = n.map_or("a malformed NOTIFICATION".to_owned(), |n| n.to_string());
                let text = format!("the peer ended the session with NOTIFICATION {what}");
                self.went = Ended::Theirs(m.bytes.clone());
                self.end(conn, false, text, Some(m.bytes), env);
            }
            (MessageType::Open, ExtState::Connected | ExtState::OpenSent) if e.peer_open.is_none() => {
                match Open::decode(m.body()) {
                    Ok(open) => {
                        (e.peer_open, e.opened) = (Some(open), env.now);
                        self.confirm(conn, env);
                    }
                    Err(n) => self.reset(conn, n, "its OPEN is not acceptable", env),
                }
            }
            (MessageType::Keepalive, ExtState::OpenConfirm) => {
                e.keepalive_seen = true;
                self.establish(conn, env);
            }
            (MessageType::Keepalive, ExtState::Established) => {}
            (MessageType::Update, ExtState::Established) => self.peer_update(conn, m, env),
            (MessageType::RouteRefresh, ExtState::Established) => match RouteRefresh::decode(m.body()) {
                Ok(r) => self.peer_refresh(r, env),
                Err(n) => self.reset(conn, n, "its ROUTE-REFRESH is too short", env),
            },
            // RFC 6608: the subcode names the state in which the message was not expected.
            (_, state) => {
                let subcode = match state {
                    ExtState::Connect | ExtState::Connected | ExtState::OpenSent => 1,
                    ExtState::OpenConfirm => 2,
                    ExtState::Established => 3,
                };
                self.reset(conn, Notification::new(5, subcode), "it sent a message that does not belong here", env);
            }
        }
    }

    /// Both OPENs are there: resolve a collision, negotiate, show the peer's OPEN to the legs.
    fn confirm(&mut self, conn: ConnId, env: &mut Env) {
        let Some(profile) = self.profile.clone() else { return };
        let Some(e) = self.exts.iter().find(|e| e.id == conn) else { return };
        let (ExtState::OpenSent, Some(open)) = (e.state, e.peer_open.clone()) else { return };
        let negotiated = match super::super::open::negotiate(&profile, &open) {
            Ok(n) => n.under(&env.config),
            Err(n) => return self.reset(conn, n, "no address family is common to it and to most instances", env),
        };
        if self.collides(conn, &profile, &open, env) {
            return;
        }
        let now = env.now;
        if let Some(e) = self.ext(conn) {
            if negotiated.hold_time_s > 0 {
                e.hold_until = now + Micros::from(negotiated.hold_time_s) * 1_000_000;
            } else {
                e.hold_until = Micros::MAX;
            }
            (e.state, e.negotiated, e.since) = (ExtState::OpenConfirm, Some(negotiated), now);
        }
        self.tell_differences(0..self.seats.len(), env);
        for i in 0..self.seats.len() {
            self.show_peer_open(i, env);
        }
        self.accept_if_quorum(env);
    }

    /// Closes what collides with this connection, which has brought a valid OPEN. True where that
    /// is the one itself.
    ///
    /// RFC 4271 section 6.8, with RFC 6286's tie break: of one that we dialled and one that the
    /// peer did, that of the higher identifier stays. Of two that the peer dialled the newer one
    /// does: it has given up the other, and we do not know yet.
    fn collides(&mut self, conn: ConnId, ours: &Profile, open: &Open, env: &mut Env) -> bool {
        let Some(at) = self.exts.iter().position(|e| e.id == conn) else { return true };
        let (dialled, we_are_higher) = (self.exts[at].dialled, (ours.router_id, ours.asn) > (open.router_id, open.asn));
        let mut losers = Vec::new();
        for (n, other) in self.exts.iter().enumerate().filter(|(n, _)| *n != at) {
            let loses = match (dialled, other.dialled) {
                (false, false) => (other.negotiated.is_some() || n < at).then_some(n < at),
                _ => (other.state >= ExtState::OpenSent).then_some(dialled == we_are_higher),
            };
            match loses {
                None => {}
                Some(true) => losers.push(other.id),
                Some(false) => {
                    losers = vec![conn];
                    break;
                }
            }
        }
        let mut reopen = false;
        for e in self.exts.extract_if(.., |e| losers.contains(&e.id)) {
            env.out.push(Output::SendPeer { conn: e.id, bytes: Notification::new(6, 7).encode() });
            env.out.push(Output::ClosePeer { conn: e.id, abort: false });
            reopen |= e.negotiated.is_some() && e.peer_open.as_ref() != Some(open);
        }
        let lost = losers.contains(&conn);
        if reopen && !lost {
            // What the instances were shown is not what this one says: they begin anew.
            self.drop_everything(env, Some(Notification::new(6, 0).encode()));
        }
        lost
    }

    /// Our KEEPALIVE accepts the peer's OPEN once a quorum of legs did, or one did and `open_wait`
    /// or a third of the hold time has passed; a quorum's refusal is passed on (an AS number that
    /// no instance expects, say).
    pub(super) fn accept_if_quorum(&mut self, env: &mut Env) {
        let Some(e) = self.exts.iter().find(|e| e.state == ExtState::OpenConfirm && !e.keepalive_sent) else { return };
        let hold_time_s = e.negotiated.as_ref().map_or(0, |n| n.hold_time_s);
        let (conn, due) = (e.id, e.since + offers::patience(env.config.timers.open_wait_ms, hold_time_s));
        let voters = env.instances.voters;
        let count = |f: &dyn Fn(&Seat) -> bool| {
            self.seats.iter().enumerate().filter(|(i, s)| voters.contains(*i as u8) && f(s)).count()
        };
        let confirmed = count(&|s| s.leg.as_ref().is_some_and(|l| l.state == LegState::Established));
        let rejected = count(&|s| s.rejected.is_some());
        let pending = count(&|s| s.leg.as_ref().is_some_and(|l| l.state == LegState::OpenConfirm));
        let waited = env.now >= due;
        if rejected >= env.instances.quorum() || (rejected > 0 && confirmed == 0 && pending == 0 && waited) {
            let n = self.seats.iter().find_map(|s| s.rejected.clone()).unwrap_or(Notification::new(2, 0));
            return self.reset(conn, n, "the instances refuse its OPEN", env);
        }
        if confirmed >= env.instances.quorum() || (confirmed > 0 && waited) {
            let now = env.now;
            if let Some(e) = self.ext(conn) {
                e.keepalive_sent = true;
                e.next_keepalive = keepalive_due(now, e.negotiated.as_ref());
            }
            env.out.push(Output::SendPeer { conn, bytes: message::keepalive() });
            self.establish(conn, env);
        }
    }

    fn establish(&mut self, conn: ConnId, env: &mut Env) {
        let Some(e) = self.ext(conn) else { return };
        let (true, Some(negotiated)) = (e.keepalive_sent && e.keepalive_seen, e.negotiated.clone()) else { return };
        e.state = ExtState::Established;
        let text = format!(
            "session up with AS {} router id {}, hold time {} s, {}",
            negotiated.peer_as,
            negotiated.peer_router_id,
            negotiated.hold_time_s,
            negotiated.shared.families.iter().map(|f| f.to_string()).collect::<Vec<_>>().join(" and ")
        );
        for other in self.exts.extract_if(.., |e| e.id != conn) {
            env.out.push(Output::SendPeer { conn: other.id, bytes: Notification::new(6, 7).encode() });
            env.out.push(Output::ClosePeer { conn: other.id, abort: false });
        }
        let all = env.instances.voters.union(env.instances.observers);
        env.heard.set_unlevel(self.index, all.minus(self.attached));
        self.up = Some(Up::new(conn, negotiated, env.now));
        env.ribs.stir(self.index);
        env.out.push(Output::Established { conn });
        env.tell("session-up", Severity::Info, &self.peer, text);
        self.note_return(env);
        // Candidates that legs sent while the peer had not answered yet are voted on now.
        self.table.walk_anew();
    }

    /// The peer's connection ended by itself.
    pub fn peer_closed(&mut self, conn: ConnId, errno: i32, env: &mut Env) {
        let how = if errno == 0 { "closed".to_owned() } else { std::io::Error::from_raw_os_error(errno).to_string() };
        self.went = Ended::Closed;
        self.end(conn, true, format!("the connection with the peer ended: {how}"), None, env);
    }

    /// virtd ends the session with a NOTIFICATION (docs/DECISIONS.md, "Only virtd resets a
    /// session").
    pub(super) fn reset(&mut self, conn: ConnId, n: Notification, why: &str, env: &mut Env) {
        self.went = Ended::Ours(n.encode());
        env.out.push(Output::SendPeer { conn, bytes: n.encode() });
        let text = format!("session reset with NOTIFICATION {n}: {why}");
        // What ended it is the peer's silence for them, too; of anything else they know no more
        // than that it is over.
        let farewell = if n.code == 4 { Notification::new(4, 0) } else { Notification::new(6, 0) };
        self.end(conn, false, text, Some(farewell.encode()), env);
    }

    /// Nobody wants a stranger's connection.
    pub fn turn_away(&mut self, conn: ConnId, env: &mut Env) {
        self.end(conn, false, "no instance wants this peer".to_owned(), None, env);
    }

    fn end(&mut self, conn: ConnId, gone: bool, text: String, farewell: Option<Bytes>, env: &mut Env) {
        let Some(at) = self.exts.iter().position(|e| e.id == conn) else { return };
        let e = self.exts.remove(at);
        self.last_local = e.local.or(self.last_local);
        if !gone {
            env.out.push(Output::ClosePeer { conn, abort: false });
        }
        let was_up = e.state == ExtState::Established;
        if !was_up && self.exts.iter().any(|e| e.state != ExtState::Connect) {
            return; // the other connection of a collision goes on
        }
        if was_up {
            env.tell("session-down", Severity::Alarm, &self.peer, text);
        } else if env.is_configured(&self.peer) || env.may_tell_failure(&self.peer, self.is_wanted(env), &text) {
            env.tell("session-failed", Severity::Warning, &self.peer, text);
        }
        self.drop_everything(env, farewell);
    }

    /// How much the driver still holds back for the peer.
    pub fn peer_drained(&mut self, conn: ConnId, queued: usize, taken: usize, now: Micros) {
        if let Some(up) = self.up.as_mut().filter(|up| up.conn == conn) {
            up.queued = queued;
            up.stalled = match up.stalled {
                _ if queued == 0 => None,
                Some(since) if taken == 0 => Some(since),
                _ => Some(now),
            };
        } else if let Some(e) = self.ext(conn) {
            e.queued = queued;
        }
    }

    pub(super) fn tick_peer(&mut self, env: &mut Env) {
        let now = env.now;
        let due: Vec<(ConnId, bool)> =
            self.exts.iter().map(|e| (e.id, now >= e.hold_until && e.state != ExtState::Connect)).collect();
        for (conn, expired) in due {
            if expired {
                self.reset(conn, Notification::new(4, 0), "hold time expired: nothing came from the peer", env);
            }
        }
        if let Some(conn) = self.up.as_ref().filter(|up| up.is_stuck(now)).map(|up| up.conn) {
            let n = Notification::new(8, 0);
            self.reset(conn, n, "send hold time expired: the peer takes nothing of what it is sent", env);
        }
        self.keep_peer_alive(env);
        self.accept_if_quorum(env);
        self.tick_end_of_rib(env);
        self.tick_grace(env);
        self.tick_unwanted(env);
    }

    pub(super) fn keep_peer_alive(&mut self, env: &mut Env) {
        let now = env.now;
        for e in self.exts.iter_mut().filter(|e| e.keepalive_sent && now >= e.next_keepalive) {
            e.next_keepalive = keepalive_due(now, e.negotiated.as_ref());
            env.out.push(Output::SendPeer { conn: e.id, bytes: message::keepalive() });
        }
    }

    /// An operator wants the session away: for now, or until [`Session::operator_start`]. `subcode`
    /// is RFC 4486's.
    pub fn operator_end(&mut self, subcode: u8, shut: bool, env: &mut Env) {
        self.shut |= shut;
        for conn in self.exts.iter().map(|e| e.id).collect::<Vec<_>>() {
            self.reset(conn, Notification::new(6, subcode), "an operator asked for it", env);
        }
    }

    /// An operator lets the session come back.
    pub fn operator_start(&mut self) {
        self.shut = false;
        (0..self.seats.len()).for_each(|i| self.forgive(i));
    }

    /// Whether an operator has shut it down.
    pub fn is_shut(&self) -> bool {
        self.shut
    }

    /// virtd ends: the peer is told, and need not wait for its hold time (RFC 4486: Administrative
    /// Shutdown).
    pub fn stop(&mut self, env: &mut Env) {
        for conn in self.exts.iter().map(|e| e.id).collect::<Vec<_>>() {
            self.reset(conn, Notification::new(6, 2), "virtd ends", env);
        }
    }

    /// A peer that comes back to a session that its majority has ended is not left waiting for an
    /// OPEN that nobody may send (RFC 4486: Connection Rejected).
    fn tick_unwanted(&mut self, env: &mut Env) {
        let opening = |s: &Seat| s.leg.as_ref().is_some_and(|l| l.state >= LegState::OpenReceived);
        let voters = env.instances.voters;
        let ready = self.seats.iter().enumerate().filter(|(i, s)| voters.contains(*i as u8) && opening(s)).count();
        if !self.ended.as_ref().is_some_and(Farewell::awaits_consent) || ready >= self.wanted_opens(env) {
            return;
        }
        let wait = Micros::from(env.config.timers.open_wait_ms) * 1000;
        let late = |e: &&Ext| e.state == ExtState::Connected && env.now >= e.since + wait;
        if let Some(conn) = self.exts.iter().find(late).map(|e| e.id) {
            self.reset(conn, Notification::new(6, 5), "a majority of the instances has ended this session", env);
        }
    }

    /// The death of every instance at once is survivable for `grace_s` (docs/DECISIONS.md, "virtd
    /// owns the connection").
    fn tick_grace(&mut self, env: &mut Env) {
        let Some(conn) = self.up.as_ref().map(|up| up.conn) else { return };
        if !env.instances.voters.intersect(self.attached).is_empty() {
            self.no_leg_since = None;
            return;
        }
        let since = *self.no_leg_since.get_or_insert(env.now);
        if env.now >= since + Micros::from(env.config.timers.grace_ms) * 1000 {
            self.reset(conn, Notification::new(6, 8), "no instance has come back within the grace time", env);
        }
    }
}

impl Up {
    /// A session that is established now.
    pub(super) fn new(conn: ConnId, negotiated: Negotiated, now: Micros) -> Up {
        Up {
            conn,
            negotiated,
            since: now,
            peer_eor: Vec::new(),
            eor_sent: Vec::new(),
            refresh_end: Vec::new(),
            refreshing: Vec::new(),
            again: Vec::new(),
            telling_again: Vec::new(),
            last_published: now,
            queued: 0,
            stalled: None,
            updates_in: 0,
            updates_out: 0,
            prefixes_out: 0,
        }
    }

    /// RFC 9687: what is to be sent has not been taken for the send hold time. Without a hold time
    /// there is none.
    fn is_stuck(&self, now: Micros) -> bool {
        let hold = Micros::from(self.negotiated.hold_time_s) * 1_000_000;
        hold > 0 && self.stalled.is_some_and(|since| now >= since + SEND_HOLD_US.max(2 * hold))
    }
}

/// When the next KEEPALIVE is due: a third of the hold time (RFC 4271 section 4.4).
fn keepalive_due(now: Micros, n: Option<&Negotiated>) -> Micros {
    match n.map(|n| n.hold_time_s) {
        Some(hold) if hold > 0 => now + Micros::from(hold) * 1_000_000 / 3,
        _ => Micros::MAX,
    }
}

impl PartialOrd for ExtState {
    fn partial_cmp(&self, other: &ExtState) -> Option<std::cmp::Ordering> {
        Some((*self as u8).cmp(&(*other as u8)))
    }
}
