//! The instances' side of a session: legs come and go, are shown the peer's OPEN, fed, watched;
//! what they send is for `vote.rs`.

use super::*;
use crate::event::Severity;
use crate::flight;
use crate::io::{Direction, Recorded};
use crate::poison::{End, Suspect};
use replay::level;
use replay::store::Cursor;
use std::hash::BuildHasher;
use wire::bgp::Prefix;
use wire::bgp::canonical::Carried;
use wire::bgp::encode;
use wire::bgp::frame::{self, Message, MessageType};
use wire::bgp::hygiene::{self, Verdict};
use wire::bgp::message::{self, RefreshKind, RouteRefresh};
use wire::bgp::update::Update;

/// First wait before an instance is offered a leg again; doubles up to the cap.
const OFFER_BACKOFF_US: Micros = 1_000_000;
const OFFER_BACKOFF_MAX: u32 = 5;
/// An instance that accepted a leg or dialled and then says nothing is given up after this.
const LEG_OPEN_WAIT_US: Micros = 30_000_000;
/// A dial of an instance that has a leg is left without an answer for so long.
const SECOND_WAIT_US: Micros = 10_000_000;
/// Messages (End-of-RIB, end of refresh) kept until a levelling leg has been told every key.
const MAX_OWED: usize = 16;

impl Session {
    /// Instance `i` calls connect. True where a dial to the peer is wanted.
    pub fn leg_dialled(&mut self, id: LegId, i: usize, local: Option<SocketAddr>, env: &mut Env) {
        if self.shut || !self.may_have_leg(i, env) {
            return env.out.push(refused(id));
        }
        self.note_wanted(env);
        self.weigh(i, true, env);
        let Some(seat) = self.seats.get_mut(i) else { return };
        // An offered leg on which it has already spoken wins: it dialled before it saw the offer.
        // It drops its dial itself once its session stands. To FRR, a refusal just then is the end
        // of that session.
        if seat.leg.as_ref().is_some_and(|l| l.offered && l.state >= LegState::OpenReceived) {
            let before = seat.second.replace((id, env.now + SECOND_WAIT_US));
            return env.out.extend(before.map(|(leg, _)| refused(leg)));
        }
        self.drop_leg(i, env);
        self.seats[i].leg = Some(new_leg(id, LegState::Connecting, false, env.now));
        for e in self.exts.extract_if(.., |e| e.state == ExtState::Connect && env.now >= e.since + DIAL_ANEW_US) {
            env.out.push(Output::ClosePeer { conn: e.id, abort: true });
        }
        match self.foremost().map(|e| (e.id, e.state)) {
            Some((_, ExtState::Connect)) => {}
            Some((conn, _)) => {
                self.hold_connection(i, env);
                self.connect_leg(i, conn, env);
            }
            None => {
                let conn = ConnId(env.fresh_id());
                let mut peer = self.peer;
                peer.set_port(env.config.port_of(peer.ip()));
                self.add_ext(conn, true, None, peer, env.now);
                // The daemon's own socket still holds the port that the kernel gave it.
                let local = local.map(|mut l| {
                    l.set_port(0);
                    l
                });
                env.out.push(Output::Dial { conn, peer, local, leg: id });
            }
        }
    }

    /// Tells a waiting leg that its connect succeeded.
    pub(super) fn connect_leg(&mut self, i: usize, conn: ConnId, env: &mut Env) {
        let Some(ext) = self.exts.iter().find(|e| e.id == conn) else { return };
        let (Some(local), peer) = (ext.local, ext.remote) else { return };
        if env.now < self.seats[i].connect_from {
            return;
        }
        let Some(leg) = self.seats[i].leg.as_mut().filter(|l| l.state == LegState::Connecting) else { return };
        leg.state = LegState::OpenWait;
        leg.hold_until = env.now + LEG_OPEN_WAIT_US;
        env.out.push(Output::LegConnected { leg: leg.id, local, peer, conn: Some(conn) });
    }

    /// Hands every listening instance without a leg a new one, where the peer is there.
    pub(super) fn offer_legs(&mut self, env: &mut Env) {
        let Some(ext) = self.foremost().filter(|e| e.state >= ExtState::Connected) else { return };
        let (conn, Some(local), peer) = (ext.id, ext.local, ext.remote) else { return };
        if env.now < self.offer_from {
            return;
        }
        for i in 0..self.seats.len() {
            if self.seats[i].leg.is_some() || env.now < self.seats[i].next_offer || !self.may_have_leg(i, env) {
                continue;
            }
            let Some(listener) = env.instances.listener_for(i, local.ip()) else { continue };
            let id = LegId(env.fresh_id());
            let mut leg = new_leg(id, LegState::OpenWait, true, env.now);
            leg.hold_until = env.now + LEG_OPEN_WAIT_US;
            let seat = &mut self.seats[i];
            seat.leg = Some(leg);
            seat.next_offer = env.now + (OFFER_BACKOFF_US << seat.backoff.min(OFFER_BACKOFF_MAX));
            seat.backoff += 1;
            let instance = super::super::io::InstanceId(i as u8);
            env.out.push(Output::OfferLeg { leg: id, instance, listener, peer, local, conn: Some(conn) });
        }
    }

    /// Bytes from an instance.
    pub fn leg_bytes(&mut self, id: LegId, buf: &mut BytesMut, env: &mut Env) {
        let Some(i) = self.seat_of(id) else { return };
        loop {
            if self.seats[i].leg.as_ref().is_none_or(|l| l.id != id) {
                return;
            }
            let extended = self.seats[i].terms.as_ref().is_some_and(|t| t.shared.extended_message);
            match frame::next_message(buf, extended) {
                Ok(Some(m)) => {
                    env.flight.note(env.now, self.index, flight::from(i), &m.bytes);
                    if self.may_be_heard(i, &m, env) {
                        self.leg_message(i, m, env);
                    }
                }
                Ok(None) => return,
                Err(n) => return self.leg_fault(i, Some(n), "its bytes are not a BGP message", env),
            }
        }
    }

    fn leg_message(&mut self, i: usize, m: Message, env: &mut Env) {
        let now = env.now;
        let Some(leg) = self.seats[i].leg.as_mut() else { return };
        if leg.hold_us > 0 {
            leg.hold_until = now + leg.hold_us;
        }
        // One that is mute may still say OPEN on each new leg.
        if leg.state == LegState::Established
            && let Some(instance) = env.instances.get_mut(i)
        {
            instance.last_heard = now;
        }
        match (m.kind, leg.state) {
            (MessageType::Notification, _) => self.leg_notified(i, &m, env),
            (MessageType::Open, LegState::OpenWait) => match Open::decode(m.body()) {
                Ok(open) => {
                    leg.state = LegState::OpenReceived;
                    leg.hold_until = now + OPEN_HOLD_US;
                    self.weigh(i, true, env);
                    let seat = &mut self.seats[i];
                    (seat.open, seat.extended_open) = (Some(open), Open::is_extended(m.body()));
                    // Whoever sends an OPEN wants the session.
                    seat.departure = None;
                    self.note_wanted(env);
                    if self.reopen_if_moved(env) {
                        return;
                    }
                    self.show_peer_open(i, env);
                    self.open_if_ready(env);
                }
                Err(n) => self.leg_fault(i, Some(n), "its OPEN is not acceptable", env),
            },
            (MessageType::Keepalive, LegState::OpenConfirm) => self.leg_established(i, env),
            (MessageType::Keepalive, LegState::Established) => {}
            (MessageType::Update, LegState::Established) => self.leg_update(i, &m, env),
            (MessageType::RouteRefresh, LegState::Established) => match RouteRefresh::decode(m.body()) {
                Ok(r) => self.leg_refresh(i, r, env),
                Err(n) => self.leg_fault(i, Some(n), "its ROUTE-REFRESH is too short", env),
            },
            _ => self.leg_fault(i, Some(Notification::new(5, 0)), "it sent a message that does not belong here", env),
        }
    }

    /// Sends the peer's OPEN, cut, to a leg that has sent its own, or says why it cannot take part.
    pub(super) fn show_peer_open(&mut self, i: usize, env: &mut Env) {
        let (Some(negotiated), Some(open)) = (self.negotiated(), self.seats[i].open.as_ref()) else { return };
        let Some(leg) = self.seats[i].leg.as_ref().filter(|l| l.state == LegState::OpenReceived) else { return };
        if let Some(refusal) = negotiated.refuses(open) {
            return self.refuse(i, refusal, env);
        }
        let (id, offered_s) = (leg.id, open.hold_time_s);
        let short = env.instances.get(i).is_none_or(|s| s.short_legs < SHORT_LEGS);
        let hold_s = match (short, negotiated.hold_time_s) {
            (true, _) => env.config.timers.leg_hold_s,
            (false, 0) => LONG_HOLD_S,
            (false, peers) => peers.max(env.config.timers.leg_hold_s),
        };
        let hold = Micros::from(hold_s.min(offered_s)) * 1_000_000;
        let Some(bytes) = self.agree(i, hold_s, env) else { return };
        if let Some(instance) = env.instances.get_mut(i).filter(|_| short) {
            instance.short_legs += 1;
        }
        self.seats[i].refused = None;
        self.tell_differences(i..i + 1, env);
        env.out.push(Output::SendLeg { leg: id, bytes });
        env.out.push(Output::SendLeg { leg: id, bytes: message::keepalive() });
        if let Some(leg) = self.seats[i].leg.as_mut() {
            leg.state = LegState::OpenConfirm;
            (leg.hold_us, leg.short) = (hold, short);
            leg.hold_until = env.now + if hold > 0 { hold } else { LEG_OPEN_WAIT_US };
            leg.next_keepalive = if hold > 0 { env.now + hold / 3 } else { Micros::MAX };
        }
    }

    /// A leg's session stands: feed it. With nothing in the store it is level at once.
    fn leg_established(&mut self, i: usize, env: &mut Env) {
        let families = self.seats[i].terms.as_ref().map(|t| t.shared.families.clone()).unwrap_or_default();
        let empty = families.iter().all(|f| env.heard.stores().len_of(self.index, *f) == 0);
        let mut peer_eor = self.up.as_ref().map(|up| up.peer_eor.clone()).unwrap_or_default();
        peer_eor.retain(|f| families.contains(f));
        let seat = &mut self.seats[i];
        (seat.backoff, seat.rejected, seat.departure, seat.had_leg) = (0, None, None, true);
        seat.compared = (0, 0);
        let Some(leg) = seat.leg.as_mut() else { return };
        leg.state = LegState::Established;
        leg.since = env.now;
        leg.last_update = env.now;
        leg.level = false;
        leg.fed_since = empty.then_some(env.now);
        leg.replayed = !empty;
        let (hold_us, mut markers) = (leg.hold_us, Vec::new());
        leg.hold_until = if hold_us > 0 { env.now + hold_us } else { Micros::MAX };
        if !empty {
            leg.level_mode();
            leg.rest = Some(Cursor::new(None));
            env.heard.set_level(self.index, i, false);
        } else {
            env.heard.set_level(self.index, i, true);
        }
        // The End-of-RIB closes the replay; where there is nothing to replay it is passed on if the
        // peer's has come already.
        for family in if empty { peer_eor } else { families } {
            let mut b = BytesMut::new();
            encode::end_of_rib(family, &mut b);
            match empty {
                true => markers.push(b.freeze()),
                false => leg.owe(b.freeze()),
            }
        }
        markers.into_iter().for_each(|b| self.give(i, b, env));
        self.mark_stale(i, env);
        self.attached.insert(i as u8);
        env.ribs.stir(self.index);
        env.followups.vote_anew_on(self.index);
        let text = match empty {
            true => format!("{} joined the session", env.name(i)),
            false => format!("{} joined the session and is given what the peer sent before", env.name(i)),
        };
        env.tell_of("leg-up", Severity::Info, &self.peer, i, text);
        self.feed(i, env);
        self.accept_if_quorum(env);
    }

    /// Tells instance `i` these prefixes again, as they stand.
    pub fn tell_again(&mut self, i: usize, keys: Vec<Prefix>, env: &mut Env) {
        let leg = self.seats.get_mut(i).and_then(|s| s.leg.as_mut());
        let Some(leg) = leg.filter(|l| l.state == LegState::Established) else { return };
        leg.level_mode().extend(keys);
        self.feed(i, env);
    }

    /// The messages in `bytes`, as instance `i` was given them, that may kill it: those that
    /// announce something, and malformed ones.
    pub fn suspects(&self, i: usize, bytes: &Bytes, hasher: &impl BuildHasher, env: &Env) -> Vec<Suspect> {
        let Some(up) = &self.up else { return Vec::new() };
        let terms = self.seats.get(i).and_then(|s| s.terms.as_ref());
        let context = terms.map_or_else(|| up.negotiated.context(), |t| t.context);
        let mut rest = BytesMut::from(&bytes[..]);
        let mut found = Vec::new();
        while let Ok(Some(m)) = frame::next_message(&mut rest, up.negotiated.shared.extended_message) {
            if m.kind != MessageType::Update {
                continue;
            }
            let (malformed, keys) = match hygiene::check(m.body(), &context) {
                Verdict::Pass => (false, self.announced_by(m.body(), hasher, env)),
                Verdict::Rewritten { body, .. } => (true, self.still_stands(&body, hasher, env)),
                Verdict::Reset { .. } => (true, Vec::new()),
            };
            if malformed || !keys.is_empty() {
                let bytes = Bytes::copy_from_slice(&m.bytes);
                found.push(Suspect { session: self.index, bytes, keys, malformed });
            }
        }
        found
    }

    /// The prefixes that an UPDATE announces, with what is stored about them.
    fn announced_by(&self, body: &[u8], hasher: &impl BuildHasher, env: &Env) -> Vec<(Prefix, u64)> {
        let Ok(u) = Update::parse(body) else { return Vec::new() };
        let stored = |p: &Prefix| env.heard.block(self.index, p);
        u.nlri.chain(u.mp_announced().into_iter().flatten()).map(|p| (p, hasher.hash_one(stored(&p)))).collect()
    }

    /// The prefixes about which an UPDATE says what is still stored.
    fn still_stands(&self, body: &[u8], hasher: &impl BuildHasher, env: &Env) -> Vec<(Prefix, u64)> {
        let Ok(u) = Update::parse(body) else { return Vec::new() };
        let stored = |p: &Prefix| env.heard.block(self.index, p);
        let (mut classic, mut mp) = (Vec::new(), Vec::new());
        encode::stored_attributes(&u, Carried::Classic, &mut classic);
        encode::stored_attributes(&u, Carried::MpReach, &mut mp);
        let withdrawn = u.withdrawn.chain(u.mp_withdrawn().into_iter().flatten()).map(|p| (p, &[][..]));
        let announced = u.nlri.map(|p| (p, &classic[..]));
        let announced = announced.chain(u.mp_announced().into_iter().flatten().map(|p| (p, &mp[..])));
        let stands = withdrawn.chain(announced).filter(|(p, says)| stored(p) == *says);
        stands.map(|(p, says)| (p, hasher.hash_one(says))).collect()
    }

    /// A message of this session as the flight recorder wants it, in a record about instance `i`.
    pub fn recorded(&self, i: usize, direction: Direction, bytes: Bytes, env: &Env) -> Option<Recorded> {
        let up = self.up.as_ref()?;
        let terms = |i: usize| self.seats.get(i).and_then(|s| s.terms.as_ref());
        let speaker = if let Direction::From(who) = direction { usize::from(who.0) } else { i };
        Some(Recorded {
            at: env.now,
            peer: self.peer,
            local: self.exts.iter().find_map(|e| e.local),
            peer_as: up.negotiated.peer_as,
            local_as: self.profile.as_ref().map_or(0, |p| p.asn),
            as4: terms(speaker).map_or(up.negotiated.shared.as4, |t| t.shared.as4),
            open: terms(i).map(|t| t.shown.clone()).unwrap_or_default(),
            direction,
            bytes,
        })
    }

    /// How much the driver still holds back for a leg.
    pub fn leg_drained(&mut self, id: LegId, queued: usize, env: &mut Env) {
        let Some(i) = self.seat_of(id) else { return };
        if let Some(leg) = self.seats[i].leg.as_mut() {
            leg.queued = queued;
        }
        self.feed(i, env);
    }

    /// ROUTE-REFRESH from an instance is answered from the store (docs/DECISIONS.md, "Bootstrap
    /// without the peer"), through the same bounded way as a late joiner.
    fn leg_refresh(&mut self, i: usize, r: RouteRefresh, env: &mut Env) {
        if self.up.is_none() {
            return;
        }
        let Seat { terms: Some(terms), leg: Some(leg), .. } = &mut self.seats[i] else { return };
        if r.kind != RefreshKind::Request || !terms.shared.families.contains(&r.family) {
            return;
        }
        if terms.shared.enhanced_refresh {
            let begin = RouteRefresh { family: r.family, kind: RefreshKind::Begin };
            leg.owe(RouteRefresh { family: r.family, kind: RefreshKind::End }.encode());
            self.give(i, begin.encode(), env);
        }
        let Some(leg) = self.seats[i].leg.as_mut() else { return };
        leg.level_mode();
        leg.rest = Some(leg.rest.map_or(Cursor::new(Some(r.family)), |rest| rest.with(r.family)));
        self.feed(i, env);
    }

    /// An instance's NOTIFICATION stays inside (docs/DECISIONS.md, "Only virtd resets a session").
    fn leg_notified(&mut self, i: usize, m: &Message, env: &mut Env) {
        let n = Notification::decode(m.body()).unwrap_or(Notification::new(0, 0));
        let state = self.seats[i].leg.as_ref().map(|l| l.state);
        let (ceased, established) = (n.code == 6, state == Some(LegState::Established));
        let text = format!("{} answered with NOTIFICATION {n}; it stays inside", env.name(i));
        if ceased && established {
            env.tell_of("leg-cease", Severity::Info, &self.peer, i, text);
        } else {
            if state == Some(LegState::OpenConfirm) && n.code == 2 {
                self.seats[i].rejected = Some(n.clone());
            }
            match established {
                true => env.tell_of("leg-notification", Severity::Warning, &self.peer, i, text),
                false => self.tell_outside(i, "leg-notification", text, env),
            }
        }
        self.drop_leg(i, env);
        if established {
            self.departed(i, Some(n), env);
        }
        self.accept_if_quorum(env);
    }

    /// The instance closed its leg, or died.
    pub fn leg_closed(&mut self, id: LegId, env: &mut Env) {
        if let Some(seat) = self.seats.iter_mut().find(|s| s.second.is_some_and(|(leg, _)| leg == id)) {
            seat.second = None;
            return;
        }
        let Some(i) = self.seat_of(id) else { return };
        let Some(leg) = self.seats[i].leg.as_ref() else { return };
        let established = leg.state == LegState::Established;
        if established {
            let text = format!("{} closed its leg without a NOTIFICATION", env.name(i));
            env.tell_of("leg-closed", Severity::Warning, &self.peer, i, text);
        }
        self.drop_leg(i, env);
        if established {
            self.departed(i, None, env);
        }
    }

    /// A leg did what no BGP speaker may: it goes, nothing is seen outside.
    pub(super) fn leg_fault(&mut self, i: usize, n: Option<Notification>, why: &str, env: &mut Env) {
        let expired = n.as_ref().is_some_and(|n| n.code == 4);
        let fault = n.clone().unwrap_or(Notification::new(5, 0));
        let named = n.as_ref().map_or(String::new(), |n| format!(" ({n})"));
        if let (Some(leg), Some(n)) = (self.seats[i].leg.as_ref(), n) {
            env.out.push(Output::SendLeg { leg: leg.id, bytes: n.encode() });
        }
        let text = format!("the leg of {} is closed: {why}{named}", env.name(i));
        let established = self.seats[i].leg.as_ref().is_some_and(|l| l.state == LegState::Established);
        match established {
            true => env.tell_of("leg-fault", Severity::Warning, &self.peer, i, text),
            false => self.tell_outside(i, "leg-fault", text, env),
        }
        if expired {
            env.followups.lost(i, self.index, true);
        }
        if expired && established {
            let hold_s = env.config.timers.leg_hold_s;
            env.poison.ended(i, self.index, env.now, End::Hung { hold_s });
        }
        self.drop_leg(i, env);
        if established {
            self.faulted(i, fault, env);
        } else if !expired && env.instances.voters.contains(i as u8) {
            env.followups.lost(i, self.index, false);
        }
    }

    /// Closes and forgets the leg of instance `i`; its candidates freeze and it abstains until a
    /// new leg is level.
    pub(super) fn drop_leg(&mut self, i: usize, env: &mut Env) {
        let Some(leg) = self.seats[i].leg.take() else { return };
        if let Some(lane) = &mut self.seats[i].lane {
            lane.clear();
        }
        env.out.push(match leg.state {
            LegState::Connecting => refused(leg.id),
            _ => Output::CloseLeg { leg: leg.id },
        });
        env.out.extend(self.seats[i].second.take().map(|(leg, _)| refused(leg)));
        env.heard.change_lacks(self.index, |lacks| lacks.forget(i as u8));
        let seat = &mut self.seats[i];
        seat.next_offer = seat.next_offer.max(env.now + OFFER_BACKOFF_US);
        if leg.state == LegState::Connecting && self.seats.iter().all(|s| s.leg.is_none()) {
            // Nobody waits for this dial any more.
            for e in self.exts.extract_if(.., |e| e.state == ExtState::Connect) {
                env.out.push(Output::ClosePeer { conn: e.id, abort: true });
            }
        }
        if self.attached.contains(i as u8) {
            self.attached.remove(i as u8);
            env.ribs.stir(self.index);
            if self.up.is_some() {
                env.heard.set_level(self.index, i, false);
            }
            env.followups.vote_anew_on(self.index);
        }
    }

    pub(super) fn tick_legs(&mut self, env: &mut Env) {
        for i in 0..self.seats.len() {
            let second = self.seats[i].second.take_if(|(_, until)| env.now >= *until);
            env.out.extend(second.map(|(leg, _)| refused(leg)));
            let Some(leg) = self.seats[i].leg.as_mut() else { continue };
            if leg.state != LegState::Connecting && env.now >= leg.hold_until {
                let why = match leg.state {
                    LegState::Established => "hold time expired: the instance hangs or is mute",
                    _ => "it did not answer in time",
                };
                self.leg_fault(i, Some(Notification::new(4, 0)), why, env);
                continue;
            }
            leg.keep_alive(env);
            self.check_level(i, env);
        }
    }

    /// Instance `i` hangs, as its other legs have shown: this one ends before its time.
    pub fn silence(&mut self, i: usize, env: &mut Env) {
        if self.stands(i) {
            let why = "the instance hangs or is mute: nothing has come from it on any leg";
            self.leg_fault(i, Some(Notification::new(4, 0)), why, env);
        }
    }

    /// Whether instance `i` has an established leg here, and whether that has the short hold time.
    pub fn hold_of(&self, i: usize) -> Option<bool> {
        let leg = self.seats.get(i)?.leg.as_ref()?;
        (leg.state == LegState::Established).then_some(leg.short)
    }
}

impl Leg {
    /// Sends the KEEPALIVE that is due.
    pub(super) fn keep_alive(&mut self, env: &mut Env) {
        if self.state >= LegState::OpenConfirm && env.now >= self.next_keepalive {
            self.next_keepalive = env.now + self.hold_us / 3;
            env.out.push(Output::SendLeg { leg: self.id, bytes: message::keepalive() });
        }
    }

    /// From now on this leg is told keys, not messages; gives the set of keys.
    pub(super) fn level_mode(&mut self) -> &mut level::Todo {
        if matches!(self.feed, Feed::Live) {
            self.feed = Feed::Levelling(level::Todo::default());
        }
        match &mut self.feed {
            Feed::Levelling(todo) => todo,
            Feed::Live => unreachable!("set just above"),
        }
    }

    /// Keeps a message until every key has been told. Bounded: a peer that sends more of them than
    /// that gets none of the rest through.
    pub(super) fn owe(&mut self, bytes: Bytes) {
        if self.after_feed.len() < MAX_OWED {
            self.after_feed.push(bytes);
        }
    }
}

/// A dial of an instance fails as if nobody listened.
pub(super) fn refused(leg: LegId) -> Output {
    Output::LegRefused { leg, errno: libc::ECONNREFUSED }
}

fn new_leg(id: LegId, state: LegState, offered: bool, now: Micros) -> Leg {
    Leg {
        id,
        state,
        offered,
        since: now,
        hold_until: Micros::MAX,
        hold_us: 0,
        short: false,
        next_keepalive: Micros::MAX,
        queued: 0,
        feed: Feed::Live,
        rest: None,
        level: false,
        fed_since: None,
        admits_from: None,
        behind: (0, now),
        replayed: false,
        last_update: now,
        eor: Vec::new(),
        after_feed: Vec::new(),
    }
}
