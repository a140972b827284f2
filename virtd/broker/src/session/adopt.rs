//! A session of an earlier virtd goes on: both streams of its connection, as the journal has them,
//! are read once more. What the peer says goes into the store; what it was told rests, as if every
//! instance had said it and had been gone since. So the votes find what they find after the death of
//! all instances: who says it again has said it, and what nobody says again is withdrawn when those
//! who vote are level.

use super::*;
use crate::adopt::{Digest, Remedy};
use crate::event::{Event, Severity};
use crate::io::{Direction, Recorded};
use crate::open;
use ballots::Rest;
use hashbrown::HashSet;
use journal::{Log, Record};
use replay::intern::BlobId;
use wire::bgp::canonical::{CanonicalContext, Carried};
use wire::bgp::frame::{self, Message, MessageType};
use wire::bgp::message::{self, RefreshKind, RouteRefresh};
use wire::bgp::update::Update;
use wire::bgp::{Prefix, UpdateContext, encode};

/// Prefixes to one record of a slice.
const SLICE_BATCH: usize = 4096;
/// A record of a slice ends once it has so many octets.
const SLICE_CHUNK: usize = 64 << 10;

/// What is known of a connection that a session is to go on with.
#[derive(Debug, Default)]
pub struct Adopted {
    /// It stands: a NOTIFICATION has gone neither way.
    over: bool,
    /// Families that the peer has asked for again, and may not have been told.
    asked: Vec<Family>,
}

impl Adopted {
    /// All that the peer has asked to be told again it has been told.
    pub fn refreshed(&mut self) {
        self.asked.clear();
    }
}

impl Session {
    /// A connection of an earlier virtd's.
    pub fn adopt(&mut self, conn: ConnId, dialled: bool, local: SocketAddr, remote: SocketAddr, env: &Env) {
        self.add_ext(conn, dialled, Some(local), remote, env.now);
        self.wanted_at = Some(env.now);
        self.last_local = Some(local);
        if let Some(e) = self.ext(conn) {
            e.state = ExtState::Connected;
        }
    }

    /// Whether messages on it may have the longer form.
    pub fn has_long_messages(&self, conn: ConnId) -> bool {
        let ext = self.exts.iter().find(|e| e.id == conn);
        ext.and_then(|e| e.negotiated.as_ref()).is_some_and(|n| n.shared.extended_message)
    }

    /// The peer has sent this.
    pub fn adopt_said(&mut self, conn: ConnId, m: Message, adopted: &mut Adopted, env: &mut Env) {
        let up = self.up.as_ref().is_some_and(|up| up.conn == conn);
        let Some(e) = self.ext(conn) else { return };
        match m.kind {
            MessageType::Notification => adopted.over = true,
            MessageType::Open if e.peer_open.is_none() => {
                e.peer_open = Open::decode(m.body()).ok();
                e.opened = env.now;
            }
            MessageType::Keepalive => e.keepalive_seen = true,
            MessageType::Update if up => self.peer_update(conn, m, env),
            MessageType::RouteRefresh if up => {
                let Ok(r) = RouteRefresh::decode(m.body()) else { return };
                match r.kind {
                    RefreshKind::Request if adopted.asked.contains(&r.family) => {}
                    RefreshKind::Request => adopted.asked.push(r.family),
                    _ => self.peer_refresh(r, env),
                }
            }
            _ => {}
        }
        self.adopt_established(conn, env);
    }

    /// An UPDATE counts as the withdrawal of all its prefixes. False where that cannot be said.
    pub fn adopt_withdrawn(&mut self, conn: ConnId, m: &Message, adopted: &mut Adopted, env: &mut Env) -> bool {
        let Some(context) = self.up.as_ref().filter(|up| up.conn == conn).map(|up| up.negotiated.context()) else {
            return false;
        };
        let Ok(update) = Update::parse(m.body()) else { return false };
        let withdrawn = update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten());
        let announced = update.nlri.chain(update.mp_announced().into_iter().flatten());
        let prefixes: Vec<Prefix> = withdrawn.chain(announced).collect();
        let mut packed = BytesMut::new();
        encode::withdraw(&prefixes, &context, &mut packed);
        while let Ok(Some(m)) = frame::next_message(&mut packed, self.has_long_messages(conn)) {
            self.adopt_said(conn, m, adopted, env);
        }
        m.kind == MessageType::Update
    }

    /// What the operator is told of a message that has killed a virtd, and what is kept of it.
    pub fn told_of_remedy(&self, remedy: Remedy, m: &Message, env: &Env) -> [Output; 2] {
        let peer = env.peer_name(&self.peer);
        let done = match remedy {
            Remedy::Withdraw => "it counts as the withdrawal of its prefixes",
            Remedy::Reset => "its session is reset",
        };
        let text = format!(
            "a message of {peer} kills virtd (the next one died of it, too, when it was tried): {done}; with [recorder] it is kept: please report it"
        );
        let event = Event::new(env.now, "virtd-poison", Severity::Alarm, text).with_session(peer);
        let up = self.up.as_ref();
        let message = Recorded {
            at: env.now,
            peer: self.peer,
            local: self.last_local,
            peer_as: up.map_or(0, |up| up.negotiated.peer_as),
            local_as: self.profile.as_ref().map_or(0, |p| p.asn),
            as4: up.is_some_and(|up| up.negotiated.shared.as4),
            open: self.exts.iter().find_map(|e| e.peer_open.as_ref()).map(Open::encode).unwrap_or_default(),
            direction: Direction::To(Members::EMPTY),
            bytes: m.bytes.clone(),
        };
        let record = crate::io::Record {
            at: env.now,
            kind: "virtd-poison",
            instance: "virtd".to_owned(),
            messages: vec![message],
            account: serde_json::json!({ "remedy": done }),
        };
        [event.into(), Output::Record(Box::new(record))]
    }

    /// The peer was told this. `as4`: how wide AS numbers in it are, where that is not as the peer
    /// has them.
    pub fn adopt_told(&mut self, conn: ConnId, m: &Message, as4: Option<bool>, adopted: &mut Adopted, env: &mut Env) {
        match m.kind {
            MessageType::Notification => adopted.over = true,
            MessageType::Open => self.adopt_our_open(conn, m),
            MessageType::Keepalive => {
                if let Some(e) = self.ext(conn) {
                    e.keepalive_sent = true;
                }
            }
            MessageType::Update => self.adopt_update(conn, m, as4, env),
            _ => {}
        }
        self.adopt_established(conn, env);
    }

    fn adopt_our_open(&mut self, conn: ConnId, m: &Message) {
        let Ok(open) = Open::decode(m.body()) else { return };
        let profile = Profile {
            asn: open.asn,
            router_id: open.router_id,
            hold_time_s: open.hold_time_s,
            hold_is_common: true,
            shared: open::Shared::of(&open),
        };
        if let Some(e) = self.ext(conn) {
            e.state = ExtState::OpenSent;
        }
        self.profile = Some(profile);
    }

    /// Both OPENs and both KEEPALIVEs that accept them have been seen: the session stands.
    fn adopt_established(&mut self, conn: ConnId, env: &mut Env) {
        let (None, Some(profile)) = (&self.up, self.profile.as_ref()) else { return };
        let Some(e) = self.exts.iter().find(|e| e.id == conn) else { return };
        if e.negotiated.is_none()
            && let Some(negotiated) = e.peer_open.as_ref().and_then(|open| open::negotiate(profile, open).ok())
        {
            let negotiated = negotiated.under(&env.config);
            if let Some(e) = self.ext(conn) {
                e.negotiated = Some(negotiated);
            }
        }
        let now = env.now;
        let Some(e) = self.ext(conn) else { return };
        let (true, true, Some(negotiated)) = (e.keepalive_sent, e.keepalive_seen, e.negotiated.clone()) else { return };
        e.state = ExtState::Established;
        let hold = Micros::from(negotiated.hold_time_s) * 1_000_000;
        (e.hold_until, e.next_keepalive) = if hold > 0 { (now + hold, now) } else { (Micros::MAX, Micros::MAX) };
        let all = env.instances.voters.union(env.instances.observers);
        env.heard.set_unlevel(self.index, all);
        self.up = Some(Up::new(conn, negotiated, now));
    }

    fn adopt_update(&mut self, conn: ConnId, m: &Message, as4: Option<bool>, env: &mut Env) {
        let Some(up) = self.up.as_mut().filter(|up| up.conn == conn) else { return };
        let Ok(update) = Update::parse(m.body()) else { return };
        if let Some(family) = update.end_of_rib() {
            if !up.eor_sent.contains(&family) {
                up.eor_sent.push(family);
            }
            return;
        }
        up.updates_out += 1;
        let own = up.negotiated.context();
        let context = CanonicalContext {
            update: UpdateContext { as4: as4.unwrap_or(own.as4), ..own },
            peer_as: up.negotiated.peer_as,
            confederation: up.negotiated.confederation,
            peer_router_id: up.negotiated.peer_router_id,
            // It was told: nothing is a loop any more.
            allow_own_as: true,
            ignore: env.ignore,
        };
        for prefix in update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()) {
            self.adopt_route(prefix, BlobId::NONE, env);
        }
        let mut announced = |carried, prefixes: &mut dyn Iterator<Item = Prefix>| {
            let Some(bytes) = env.canonicaliser.route(&update, carried, &context) else { return };
            let route = env.routes.intern(bytes);
            prefixes.for_each(|prefix| self.adopt_route(prefix, route, env));
            env.routes.release(route);
        };
        if !update.nlri.is_empty() {
            announced(Carried::Classic, &mut update.nlri.clone());
        }
        if let Some(mut nlri) = update.mp_announced() {
            announced(Carried::MpReach, &mut nlri);
        }
    }

    /// This is what the peer was last told of `prefix`.
    fn adopt_route(&mut self, prefix: Prefix, route: BlobId, env: &mut Env) {
        let number = self.index as u32;
        let Some(up) = self.up.as_mut() else { return };
        if let Some((rest, last)) = env.common.take(number, &prefix) {
            up.prefixes_out = up.prefixes_out.saturating_sub(1);
            if last {
                env.routes.release(rest.value);
            }
        }
        if route == BlobId::NONE {
            return;
        }
        let all = env.instances.voters.union(env.instances.observers);
        if env.common.put(number, prefix, Rest { value: route, who: all, stale: all }) {
            env.routes.retain(route, 1);
        }
        up.prefixes_out += 1;
    }

    /// Whether our OPEN has been sent on this connection, and no session stands on it nor has ended.
    pub fn is_opening(&self, conn: ConnId, adopted: &Adopted) -> bool {
        let opens = |e: &Ext| e.id == conn && matches!(e.state, ExtState::OpenSent | ExtState::OpenConfirm);
        !adopted.over && self.exts.iter().any(opens)
    }

    /// The connection was closed, or the journal is at its end. Whether the session stands; what the
    /// peer has asked for it is told again.
    pub fn adopt_end(&mut self, conn: ConnId, adopted: Adopted, closed: bool, env: &mut Env) -> bool {
        let stands = !closed && !adopted.over && self.up.as_ref().is_some_and(|up| up.conn == conn);
        if !stands {
            self.exts.retain(|e| e.id != conn);
            if self.up.as_ref().is_some_and(|up| up.conn == conn) {
                self.drop_everything(env, None);
            }
            return false;
        }
        if !env.keys_rest() {
            self.rouse_all(env);
        }
        adopted.asked.into_iter().for_each(|family| self.asked_again(family, env));
        true
    }

    /// Says in the form of the journal how this session stands: what its peer would have to have
    /// sent, and to have been sent, for that. Of keys at rest nothing ([`crate::adopt`]). The
    /// connection, where there is one.
    pub fn write_slice(&self, log: &mut impl Log, env: &mut Env) -> Option<ConnId> {
        self.write_openings(log);
        let up = self.up.as_ref()?;
        self.write_said(up, log, env);
        self.write_told(up, log, env);
        Some(up.conn)
    }

    /// What it was told, and does not rest.
    pub fn published(&self) -> impl Iterator<Item = (BlobId, Prefix)> + '_ {
        self.table.iter().filter(|(_, e)| e.published != BlobId::NONE).map(|(_, e)| (e.published, e.key))
    }

    /// What this session is, but for the keys at rest; the connection.
    pub fn digest(&self, env: &Env) -> Option<(ConnId, Digest)> {
        let up = self.up.as_ref()?;
        let mut digest = Digest::default();
        let ext = self.exts.iter().find(|e| e.id == up.conn);
        let theirs: Vec<u8> = ext.and_then(|e| e.peer_open.as_ref()).iter().flat_map(|open| open.encode()).collect();
        let ours: Vec<u8> = self.profile.iter().flat_map(|profile| profile.open().encode()).collect();
        digest.mix(&("opens", theirs, ours));
        for (prefix, _) in env.heard.stores().iter(self.index) {
            digest.hears(&prefix, env.heard.block(self.index, &prefix));
        }
        self.published().for_each(|(route, prefix)| digest.tells(&prefix, env.routes.bytes(route)));
        up.peer_eor.iter().for_each(|family| digest.mix(&("the peer's End-of-RIB", family)));
        up.eor_sent.iter().for_each(|family| digest.mix(&("our End-of-RIB", family)));
        up.again.iter().for_each(|again| digest.mix(&("said again", again.family(), again.is_over())));
        Some((up.conn, digest))
    }

    /// On each connection the OPENs, and the KEEPALIVEs that accept them, as far as they have come.
    fn write_openings(&self, log: &mut impl Log) {
        for e in self.exts.iter().filter(|e| e.state != ExtState::Connect) {
            let mut out = BytesMut::from_iter(e.peer_open.iter().flat_map(Open::encode));
            if e.keepalive_seen {
                out.extend_from_slice(&message::keepalive());
            }
            said(e.id, &mut out, log);
            let ours = self.profile.as_ref().filter(|_| e.state >= ExtState::OpenSent);
            out.extend(ours.iter().flat_map(|profile| profile.open().encode()));
            if e.keepalive_sent {
                out.extend_from_slice(&message::keepalive());
            }
            told(e.id, &mut out, log);
        }
    }

    /// What the peer has said.
    fn write_said(&self, up: &Up, log: &mut impl Log, env: &mut Env) {
        let mut out = BytesMut::new();
        // A family that it says again: what it has not said again first, then the beginning.
        let (mut marked, mut before) = (Vec::new(), HashSet::new());
        for again in &up.again {
            marked.clear();
            env.heard.stores_mut().marked(self.index, again.family(), usize::MAX, &mut marked);
            self.write_store(up, &mut marked, log, env);
            before.extend(marked.iter().copied());
            out.extend_from_slice(&RouteRefresh { family: again.family(), kind: RefreshKind::Begin }.encode());
        }
        said(up.conn, &mut out, log);
        let mut rest = env.heard.stores().prefixes_by_attributes(self.index, None);
        rest.retain(|prefix| !before.contains(prefix));
        self.write_store(up, &mut rest, log, env);
        for again in up.again.iter().filter(|again| again.is_over()) {
            out.extend_from_slice(&RouteRefresh { family: again.family(), kind: RefreshKind::End }.encode());
        }
        up.peer_eor.iter().for_each(|family| encode::end_of_rib(*family, &mut out));
        // Not all of what it has asked for again has been told.
        for family in &up.refreshing {
            out.extend_from_slice(&RouteRefresh { family: *family, kind: RefreshKind::Request }.encode());
        }
        said(up.conn, &mut out, log);
    }

    /// What it was told, and does not rest.
    fn write_told(&self, up: &Up, log: &mut impl Log, env: &Env) {
        let (mut out, context) = (BytesMut::new(), up.negotiated.context());
        let mut published: Vec<(BlobId, Prefix)> = self.published().collect();
        published.sort_unstable_by_key(|(route, prefix)| (*route, prefix.family()));
        for group in published.chunk_by(|a, b| a.0 == b.0 && a.1.family() == b.1.family()) {
            let prefixes: Vec<Prefix> = group.iter().map(|(_, prefix)| *prefix).collect();
            encode::announce(env.routes.bytes(group[0].0), &prefixes, &context, &mut out);
            if out.len() >= SLICE_CHUNK {
                told(up.conn, &mut out, log);
            }
        }
        up.eor_sent.iter().for_each(|family| encode::end_of_rib(*family, &mut out));
        told(up.conn, &mut out, log);
    }

    /// Announces what the peer has said of these prefixes, in pieces.
    fn write_store(&self, up: &Up, prefixes: &mut [Prefix], log: &mut impl Log, env: &Env) {
        let (mut out, context) = (BytesMut::new(), up.negotiated.context());
        for some in prefixes.chunks_mut(SLICE_BATCH) {
            env.heard.replay(self.index, some, &context, false, &mut out);
            said(up.conn, &mut out, log);
        }
    }
}

/// [`Record::Said`], unless that is nothing.
fn said(conn: ConnId, out: &mut BytesMut, log: &mut impl Log) {
    if !out.is_empty() {
        Record::Said { conn: conn.0, octets: out }.append_to(log);
        out.clear();
    }
}

/// [`Record::Told`], unless that is nothing.
fn told(conn: ConnId, out: &mut BytesMut, log: &mut impl Log) {
    if !out.is_empty() {
        Record::Told { conns: vec![conn.0], as4: None, octets: out }.append_to(log);
        out.clear();
    }
}
