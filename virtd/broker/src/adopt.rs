//! Sessions of an earlier virtd go on: what the journal says of their connections becomes sessions
//! again, and what sessions stand for is written as an image.
//!
//! The instances are not in it. They come back by themselves, each is given what the peers have said,
//! and what the peers were told stands until enough of them are level.

use crate::Core;
use crate::io::{ConnId, Micros, Output};
use crate::session::{Adopted, Session, Standing, Whose};
use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use journal::{Log, Record};
use replay::intern::BlobId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use wire::bgp::encode;
use wire::bgp::frame::{self, next_message};
use wire::bgp::{Notification, Prefix, SessionKind, UpdateContext};

/// For so long most of the voters are waited for, dead or alive.
const QUORUM_US: Micros = 15_000_000;
/// After this whoever is level decides, unless others still come on.
const PATIENCE_US: Micros = 60_000_000;
/// One that is not level, and has neither been told nor said anything for so long, does not.
const STALLED_US: Micros = 15_000_000;
/// Nobody is waited for any longer: what has changed since is told to no peer meanwhile. So long a
/// speaker that restarts gracefully waits for the others' tables (RFC 4724, Selection_Deferral_Timer,
/// as FRR has it).
const MOST_PATIENCE_US: Micros = 360_000_000;
/// A record of an image ends once it has so many octets.
const CHUNK: usize = 64 << 10;

/// What was told of a prefix.
type Told = (BlobId, Prefix);

/// The journal of an earlier virtd is being read.
pub struct Adoption<'c> {
    core: &'c mut Core,
    streams: HashMap<ConnId, Stream>,
    /// Told of each message of a peer's before anything is done with it.
    watched_by: Option<Box<dyn FnMut(Said)>>,
    /// With whether the operator is to be told.
    remedies: BTreeMap<Said, (Remedy, bool)>,
    /// What has been found and done, for the operator.
    outputs: Vec<Output>,
}

/// A message of a peer's: the connection, and which of all that the journal has of the peer.
pub type Said = (ConnId, u64);

/// What is done in the place of a message that has killed a virtd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// It counts as the withdrawal of its prefixes, as RFC 7606 has it for what is malformed.
    Withdraw,
    /// Its session ends.
    Reset,
}

/// One connection.
#[derive(Default)]
struct Stream {
    /// Its session.
    session: usize,
    /// Octets of the peer's that are no whole message yet.
    rx: BytesMut,
    adopted: Adopted,
    /// How many messages the peer has sent.
    said: u64,
    /// It ends because of a message of the peer's.
    reset: bool,
}

/// What became of a connection.
#[derive(Debug)]
pub struct Kept {
    /// Which.
    pub conn: ConnId,
    /// Its session goes on; else it is to be closed.
    pub stands: bool,
    /// The NOTIFICATION that is to be sent before.
    pub farewell: Option<Bytes>,
    /// Octets of the peer's that are no whole message yet.
    pub rx: BytesMut,
}

/// What a session is: what its peer has said and was told. A number that depends on no order, with
/// which two cores of one program are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// Prefixes that the peer announces.
    pub heard: u64,
    /// Prefixes that it was told.
    pub told: u64,
    sum: u64,
}

impl Digest {
    /// The peer announces this, with these attributes.
    pub(crate) fn hears(&mut self, prefix: &Prefix, block: &[u8]) {
        self.heard += 1;
        self.mix(&(1u8, prefix, block));
    }

    /// It was told this canonical route.
    pub(crate) fn tells(&mut self, prefix: &Prefix, route: &[u8]) {
        self.told += 1;
        self.mix(&(2u8, prefix, route));
    }

    /// Something that stands once for the whole session.
    pub(crate) fn mix(&mut self, what: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.sum = self.sum.wrapping_add(hasher.finish());
    }

    fn add(&mut self, other: Digest) {
        self.heard += other.heard;
        self.told += other.told;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// How much there is in all sessions that stand: what two programs can compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Census {
    /// Sessions.
    pub sessions: u64,
    /// Prefixes that their peers announce.
    pub heard: u64,
    /// Prefixes that their peers were told.
    pub told: u64,
}

impl Core {
    /// Begins to read the journal of an earlier virtd. Nothing else has happened to this core yet.
    pub fn adoption(&mut self, now: Micros) -> Adoption<'_> {
        self.env.now = self.env.now.max(now);
        let (streams, remedies, outputs) = Default::default();
        Adoption { core: self, streams, watched_by: None, remedies, outputs }
    }

    /// Writes an image of all sessions that stand: what [`Core::adoption`] makes the same of. The
    /// driver adds the connections, and what waits in its buffers.
    pub fn write_image(&mut self, log: &mut impl Log) {
        let Core { sessions, env, .. } = self;
        for s in sessions.iter().filter(|s| !s.vacant) {
            let standing = s.standing(env);
            if standing != Standing::default() {
                Whose { peer: s.peer, standing }.append_to(log);
            }
        }
        let conns: Vec<Option<ConnId>> = sessions.iter().map(|s| s.write_slice(log, env)).collect();
        let wide = |s: &Session| s.up.as_ref().is_none_or(|up| up.negotiated.shared.as4);
        // What rests on the same sessions is said once for all of them.
        let mut groups: BTreeMap<(Vec<u64>, bool), Vec<Told>> = BTreeMap::new();
        env.common.each(|prefix, route, tables| {
            let tables = || tables.iter().map(|t| t as usize);
            for as4 in [true, false] {
                let same = tables().filter(|t| sessions.get(*t).is_some_and(|s| wide(s) == as4));
                let ids: Vec<u64> = same.filter_map(|t| Some(conns.get(t)?.as_ref()?.0)).collect();
                if !ids.is_empty() {
                    groups.entry((ids, as4)).or_default().push((route, *prefix));
                }
            }
        });
        let mut out = BytesMut::new();
        for ((ids, as4), mut routes) in groups {
            routes.sort_unstable_by_key(|(route, prefix)| (*route, prefix.family()));
            let mut told = |out: &mut BytesMut| {
                Record::Told { conns: ids.clone(), as4: Some(as4), octets: out }.append_to(log);
                out.clear();
            };
            for group in routes.chunk_by(|a, b| a.0 == b.0 && a.1.family() == b.1.family()) {
                let prefixes: Vec<Prefix> = group.iter().map(|(_, prefix)| *prefix).collect();
                encode::announce(env.routes.bytes(group[0].0), &prefixes, &context(as4), &mut out);
                if out.len() >= CHUNK {
                    told(&mut out);
                }
            }
            if !out.is_empty() {
                told(&mut out);
            }
        }
    }

    /// What each session that stands is, by its connection: equal before and after it was written
    /// ([`Core::write_image`]) and read ([`Core::adoption`]).
    pub fn digest(&self) -> BTreeMap<ConnId, Digest> {
        let mut all: Vec<Option<(ConnId, Digest)>> = self.sessions.iter().map(|s| s.digest(&self.env)).collect();
        self.env.common.each(|prefix, route, tables| {
            let mut said = Digest::default();
            said.tells(prefix, self.env.routes.bytes(route));
            for table in tables.iter() {
                if let Some(Some((_, digest))) = all.get_mut(table as usize) {
                    digest.add(said);
                }
            }
        });
        all.into_iter().flatten().collect()
    }

    /// How much all sessions that stand have.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (i, session) in self.sessions.iter().enumerate().filter(|(_, s)| s.up.is_some()) {
            census.sessions += 1;
            census.heard += self.env.heard.stores().len(i) as u64;
            census.told += (self.env.common.keys(i as u32) + session.published().count()) as u64;
        }
        census
    }

    /// Looks whether enough instances are level for decisions.
    pub(super) fn end_adoption(&mut self) {
        let Some(since) = self.adopted_at else { return };
        let Core { sessions, env, .. } = self;
        let (live, now) = (env.instances.live_voters(), env.now);
        let behind = |i: usize, sessions: &mut [Session]| sessions.iter_mut().any(|s| s.is_behind(i, env));
        let is_level = |i: &usize| env.heard.is_level(*i) && !behind(*i, sessions);
        let level = live.iter().map(usize::from).filter(is_level).count();
        let waited = now.saturating_sub(since);
        let most_live = level * 2 > live.len() && waited >= QUORUM_US;
        let comes_on = || {
            let last = self.sessions.iter().filter_map(|s| s.last_of_levelling(live));
            last.max().is_some_and(|at| now < at + STALLED_US)
        };
        let patience = waited < PATIENCE_US || waited < MOST_PATIENCE_US && comes_on();
        if level >= self.env.instances.quorum() || most_live || !patience {
            (self.adopted_at, self.env.awaits_quorum) = (None, false);
            self.env.followups.vote_anew();
        }
    }
}

/// How an image says what rests on several sessions.
fn context(as4: bool) -> UpdateContext {
    UpdateContext {
        as4,
        kind: SessionKind::Ebgp,
        class_e: true,
        extended_next_hop: true,
        max_message_len: frame::MAX_LEN_EXTENDED,
    }
}

impl Whose {
    /// Has the journal keep it.
    pub fn append_to(&self, log: &mut impl Log) {
        // Of names and numbers there always is a text.
        let text = serde_json::to_string(self).unwrap_or_default();
        Record::Standing { text: &text }.append_to(log);
    }
}

impl Adoption<'_> {
    /// From now on the watcher is told of each message of a peer's before anything is done with it.
    pub fn watch(&mut self, watcher: impl FnMut(Said) + 'static) {
        self.watched_by = Some(Box::new(watcher));
    }

    /// The message gets another meaning, wherever it comes. `new`: the operator does not know yet.
    pub fn remedy(&mut self, message: Said, remedy: Remedy, new: bool) {
        self.remedies.insert(message, (remedy, new));
    }

    /// Takes the next record. What belongs to no connection that is known is nothing.
    pub fn take(&mut self, record: &Record<'_>) {
        match record {
            Record::Opened { conn, opened } => self.opened(ConnId(*conn), opened),
            Record::Closed { conn } => {
                self.end(ConnId(*conn), true);
            }
            Record::FromPeer { conn, octets } | Record::Said { conn, octets } => self.said(ConnId(*conn), octets),
            Record::ToPeer { conn, octets } => self.told(ConnId(*conn), octets, None),
            Record::Told { conns, as4, octets } => {
                conns.iter().for_each(|conn| self.told(ConnId(*conn), octets, *as4));
            }
            Record::Refreshed { conn } => {
                if let Some(stream) = self.streams.get_mut(&ConnId(*conn)) {
                    stream.adopted.refreshed();
                }
            }
            Record::Standing { text } => self.standing(text),
            // Remedies are known before the first record is taken.
            Record::Unsent { .. } | Record::Remedied { .. } => {}
        }
    }

    fn standing(&mut self, text: &str) {
        let Some(Whose { peer, standing }) = Whose::of(text) else { return };
        let Some(session) = self.core.session_for(peer) else { return };
        if let Some(s) = self.core.sessions.get_mut(session) {
            s.adopt_standing(standing, &self.core.env);
        }
    }

    fn opened(&mut self, conn: ConnId, opened: &journal::Opened) {
        self.core.env.skip_ids(conn.0);
        let Some(session) = self.core.session_for(opened.remote) else { return };
        let stream = Stream { session, ..Stream::default() };
        self.streams.insert(conn, stream);
        self.core.conns.insert(conn, session);
        if let Some(s) = self.core.sessions.get_mut(session) {
            s.adopt(conn, opened.dialled, opened.local, opened.remote, &self.core.env);
        }
    }

    fn said(&mut self, conn: ConnId, octets: &[u8]) {
        let Adoption { core, streams, watched_by, remedies, outputs } = self;
        let Some(stream) = streams.get_mut(&conn) else { return };
        let Core { sessions, env, .. } = &mut **core;
        let Some(session) = sessions.get_mut(stream.session) else { return };
        stream.rx.extend_from_slice(octets);
        // What cannot be framed has ended the session, as its other stream says.
        while let Ok(Some(m)) = next_message(&mut stream.rx, session.has_long_messages(conn)) {
            let which = (conn, stream.said);
            stream.said += 1;
            if let Some(watcher) = watched_by {
                watcher(which);
            }
            match remedies.get(&which) {
                None => session.adopt_said(conn, m, &mut stream.adopted, env),
                Some((remedy, new)) => {
                    outputs.extend(new.then(|| session.told_of_remedy(*remedy, &m, env)).into_iter().flatten());
                    stream.reset |=
                        *remedy == Remedy::Reset || !session.adopt_withdrawn(conn, &m, &mut stream.adopted, env);
                }
            }
        }
        env.out.clear();
    }

    fn told(&mut self, conn: ConnId, octets: &[u8], as4: Option<bool>) {
        let Some(stream) = self.streams.get_mut(&conn) else { return };
        let Core { sessions, env, .. } = &mut *self.core;
        let Some(session) = sessions.get_mut(stream.session) else { return };
        let mut messages = BytesMut::from(octets);
        while let Ok(Some(m)) = next_message(&mut messages, true) {
            session.adopt_told(conn, &m, as4, &mut stream.adopted, env);
        }
    }

    fn end(&mut self, conn: ConnId, closed: bool) -> Option<Kept> {
        let stream = self.streams.remove(&conn)?;
        let Core { sessions, env, conns, .. } = &mut *self.core;
        let session = sessions.get_mut(stream.session)?;
        // What was only being opened is begun anew, and the peer need not wait for its hold time to
        // know that.
        let opens = !closed && session.is_opening(conn, &stream.adopted);
        let stands = session.adopt_end(conn, stream.adopted, closed || stream.reset, env);
        // What exactly was wrong nobody knows (RFC 4486: Administrative Reset).
        let farewell = (stream.reset || opens).then(|| Notification::new(6, 4).encode());
        if !stands {
            conns.remove(&conn);
        }
        Some(Kept { conn, stands, farewell, rx: stream.rx })
    }

    /// The journal is at its end. What became of each connection that had not ended before.
    pub fn finish(mut self) -> Vec<Kept> {
        self.core.env.out.clear();
        let mut conns: Vec<ConnId> = self.streams.keys().copied().collect();
        conns.sort_unstable();
        let kept: Vec<Kept> = conns.into_iter().filter_map(|conn| self.end(conn, false)).collect();
        let core = self.core;
        if kept.iter().any(|k| k.stands) {
            core.adopted_at = Some(core.env.now);
            core.env.awaits_quorum = true;
        }
        crate::witness::bar(&core.sessions, &mut core.env);
        core.busy.all(core.sessions.len());
        core.env.out.append(&mut self.outputs);
        kept
    }
}
