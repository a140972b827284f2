//! What a reader is told, in frames ([`virtd_api::ribs`]): who is there, what there was, what has
//! changed. As much at once as one turn of the loop can spare.

use super::{FIRST_PAUSE_US, Footing, MAX_PAUSE_US, MAX_READERS, PEER, Reader, Side, View};
use crate::Core;
use crate::env::Env;
use crate::io::Micros;
use crate::session::{Session, Walk};
use bytes::BytesMut;
use serde::Serialize;
use virtd_api::ribs::{DOWN, DUMPED, END_OF_RIB, HEADER_LEN, Header, MAX_BODY, OUT, ROUTES, TOLD_ANEW, UP};
use virtd_api::{Ribs, SpeakerDown};
use wire::bgp::frame::HEADER_LEN as BGP_HEADER;
use wire::bgp::{Prefix, encode};

/// Keys told in one go: some tens of microseconds, so that an update that comes meanwhile hardly
/// waits.
const KEYS_AT_ONCE: usize = 64;
/// Places looked at in one go, where most have nothing of this speaker.
const LOOKED_AT: usize = 2048;
/// Sessions looked at in one go for who has come and gone.
const SESSIONS_AT_ONCE: usize = 16;
/// Octets that are handed over as soon as there are so many; before that, where nothing is left.
pub const CHUNK: usize = 32 << 10;

impl Core {
    /// Somebody wants to read the tables, or with `peer` those of that peer, which need not be there
    /// now; `id` is nobody's yet.
    ///
    /// # Errors
    /// Why that cannot be, with the remedy.
    pub fn open_reader(&mut self, id: u64, instances: bool, peer: Option<&str>) -> Result<Ribs, String> {
        if self.native.is_some() {
            return Err("with open = \"native\" virtd knows no routes: its one daemon has them".to_owned());
        }
        let only = peer.map(|name| self.session_named(name)).transpose()?.and_then(|i| self.sessions.get(i));
        let peer = only.map(|s| s.peer);
        let told = Ribs { form: virtd_api::ribs::FORM, instances, peer: peer.map(|peer| self.env.peer_name(&peer)) };
        let readers = &mut self.env.ribs.0;
        if readers.len() >= MAX_READERS {
            return Err(format!(
                "{MAX_READERS} readers of the routing tables are there already: take a [[bmp]] collector out of virtd-monitor's \
                 configuration, or end another client of `ribs`"
            ));
        }
        let mut reader = Reader {
            id,
            instances,
            peer,
            views: Vec::new(),
            stirred: Default::default(),
            changed: Default::default(),
            walks: Default::default(),
            anew: Vec::new(),
            keys: 0,
            last_id: 0,
            told_at: 0,
            more: false,
        };
        reader.stirred.all(self.sessions.len());
        readers.push(reader);
        Ok(told)
    }

    /// It has gone; nothing is kept for it any more.
    pub fn close_reader(&mut self, id: u64) {
        self.env.ribs.0.retain(|r| r.id != id);
    }

    /// When a reader that waits can be told something, as far as is known; `None`: not before
    /// something happens.
    pub fn reader_wakes(&self, id: u64, now: Micros) -> Option<Micros> {
        self.env.ribs.0.iter().find(|r| r.id == id)?.wake_at(now)
    }

    /// Octets that are kept for the readers.
    pub fn readers_bytes(&self) -> usize {
        self.env.ribs.memory_bytes()
    }

    /// Appends some frames for a reader to `chunk`. True where they are to be handed over: there is
    /// enough of them, or no more for now.
    pub fn tell_reader(&mut self, now: Micros, id: u64, chunk: &mut Vec<u8>) -> bool {
        self.env.now = self.env.now.max(now);
        let Some(at) = self.env.ribs.0.iter().position(|r| r.id == id) else { return true };
        if self.env.ribs.0[at].wake_at(now).is_none_or(|due| due > now) {
            return !chunk.is_empty();
        }
        // Nothing is noted while it is told: telling changes nothing.
        let mut reader = self.env.ribs.0.swap_remove(at);
        reader.told_at = now;
        Telling { sessions: &self.sessions, env: &self.env, reader: &mut reader, chunk }.some();
        reader.more = !reader.changed.is_empty();
        let behind = reader.more || reader.is_behind();
        self.env.ribs.0.push(reader);
        chunk.len() >= CHUNK || !(behind || chunk.is_empty())
    }
}

struct Telling<'a> {
    sessions: &'a [Session],
    env: &'a Env,
    reader: &'a mut Reader,
    chunk: &'a mut Vec<u8>,
}

impl Telling<'_> {
    fn some(&mut self) {
        for _ in 0..SESSIONS_AT_ONCE {
            let Some(session) = self.reader.stirred.pop() else { break };
            self.look_at(session);
        }
        if !self.reader.stirred.is_empty() {
            return; // nothing is told of who may have gone
        }
        self.begin_anew();
        let (mut left, mut looked) = (KEYS_AT_ONCE, LOOKED_AT);
        self.tell_changes(KEYS_AT_ONCE / 2, &mut left);
        while left > 0 && looked > 0 && !self.reader.walks.is_empty() {
            self.go_on(&mut left, &mut looked);
        }
        self.tell_changes(0, &mut left);
    }

    /// As long as there is more `left` than `spare`.
    fn tell_changes(&mut self, spare: usize, left: &mut usize) {
        while *left > spare && !self.reader.changed.is_empty() {
            *left -= self.changes(*left - spare);
        }
    }

    /// Who of a session has come, and who has gone.
    fn look_at(&mut self, session: usize) {
        let Some(s) = self.sessions.get(session) else { return };
        let instances = if self.reader.instances { s.seats.len() } else { 0 };
        // A place may be another peer's by now.
        let wanted = self.reader.peer.is_none_or(|peer| peer == s.peer);
        if self.reader.views.len() <= session {
            self.reader.views.resize_with(session + 1, Vec::new);
        }
        let views = &mut self.reader.views[session];
        if wanted && s.up.is_some() && views.len() <= instances {
            views.resize_with(1 + instances, View::default);
        }
        for who in 0..self.reader.views[session].len() {
            let (at, stands) = ((session, who), s.footing(who.checked_sub(1)).filter(|_| wanted));
            let was = self.reader.views[session][who].up;
            if was.map(|(_, footing)| footing) == stands {
                continue;
            }
            self.down(at, s.how_it_ended(who.checked_sub(1)));
            if let Some(footing) = stands {
                self.up(at, footing);
            }
        }
    }

    fn up(&mut self, at: (usize, usize), footing: Footing) {
        let Some(up) = self.sessions.get(at.0).and_then(|s| s.speaker(at.1.checked_sub(1), self.env)) else { return };
        self.reader.last_id += 1;
        let id = self.reader.last_id;
        let Some(view) = self.reader.view(at) else { return };
        (view.up, view.walk, view.anew) = (Some((id, footing)), Some(Walk::new(at.1 == PEER)), None);
        if !std::mem::replace(&mut view.walking, true) {
            self.reader.walks.push_back(at);
        }
        self.frame_json(UP, id, &up);
    }

    fn down(&mut self, at: (usize, usize), down: SpeakerDown) {
        let Some(view) = self.reader.view(at) else { return };
        let keys = view.clear();
        let (was, waited) = (view.up.take(), view.anew.take().is_some());
        if down.reason != TOLD_ANEW {
            view.pause = 0;
        }
        self.reader.keys -= keys;
        // In `changed` and `walks` it is found to have nothing.
        if waited {
            self.reader.anew.retain(|other| *other != at);
        }
        if let Some((id, _)) = was {
            self.frame_json(DOWN, id, &down);
        }
    }

    /// Begins with those who are to be told anew, where their time has come.
    fn begin_anew(&mut self) {
        let now = self.env.now;
        for at in self.reader.anew.clone() {
            let Some(view) = self.reader.view(at) else { continue };
            match view.anew {
                Some(0) => {
                    view.pause = (2 * view.pause).clamp(FIRST_PAUSE_US, MAX_PAUSE_US);
                    view.anew = Some(now + view.pause);
                }
                Some(due) if due <= now => {
                    let footing = view.up.map(|(_, footing)| footing);
                    self.down(at, SpeakerDown { reason: TOLD_ANEW.to_owned(), ..SpeakerDown::default() });
                    footing.into_iter().for_each(|footing| self.up(at, footing));
                }
                _ => {}
            }
        }
    }

    /// Tells what has changed of the one who has waited for the longest; how many keys.
    fn changes(&mut self, most: usize) -> usize {
        let Some(at) = self.reader.changed.pop_front() else { return 0 };
        let Some(view) = self.reader.view(at) else { return 0 };
        view.listed = false;
        let Some((id, _)) = view.up else { return 0 };
        let (mut said, mut told) = (Vec::new(), Vec::new());
        let n = view.said.pop_batch(most, &mut said);
        let n = n + view.told.pop_batch(most - n, &mut told);
        let rest = view.keys() > 0;
        if rest {
            view.listed = true;
            self.reader.changed.push_back(at);
        }
        self.reader.keys -= n;
        self.routes(at, id, Side::In, &mut said, 0);
        self.routes(at, id, Side::Out, &mut told, 0);
        n
    }

    /// Goes on with the telling of what there was.
    fn go_on(&mut self, left: &mut usize, looked: &mut usize) {
        let Some(at) = self.reader.walks.pop_front() else { return };
        let (Some(s), Some(view)) = (self.sessions.get(at.0), self.reader.view(at)) else { return };
        view.walking = false;
        let (Some((id, _)), Some(mut walk)) = (view.up, view.walk.take()) else { return };
        let mut prefixes = Vec::new();
        let side = walk.side();
        let over = s.next_of(at.1.checked_sub(1), &mut walk, *left, looked, &mut prefixes, self.env);
        *left -= prefixes.len().min(*left);
        self.routes(at, id, side, &mut prefixes, DUMPED);
        if over {
            let flags = DUMPED | out_flag(side);
            for family in self.sessions[at.0].families() {
                let mut end = BytesMut::new();
                encode::end_of_rib(family, &mut end);
                self.frame(END_OF_RIB, flags, id, &end);
            }
        }
        if walk.is_over() {
            if let Some(view) = self.reader.view(at).filter(|v| v.keys() == 0) {
                view.pause = 0;
            }
            return;
        }
        if let Some(view) = self.reader.view(at) {
            (view.walk, view.walking) = (Some(walk), true);
        }
        self.reader.walks.push_front(at);
    }

    /// What now holds of these prefixes.
    fn routes(&mut self, at: (usize, usize), id: u32, side: Side, prefixes: &mut [Prefix], flags: u8) {
        let Some(s) = self.sessions.get(at.0).filter(|_| !prefixes.is_empty()) else { return };
        let mut packed = BytesMut::new();
        s.tell(at.1.checked_sub(1), side, prefixes, self.env, &mut packed);
        let mut rest: &[u8] = &packed;
        while let Some(length) = rest.get(16..18) {
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let Some((message, more)) = rest.split_at_checked(length.max(BGP_HEADER)) else { break };
            self.frame(ROUTES, flags | out_flag(side), id, message);
            rest = more;
        }
    }

    fn frame_json(&mut self, kind: u8, id: u32, body: &impl Serialize) {
        // Text, numbers and addresses: there is nothing that JSON could not say.
        let body = serde_json::to_vec(body).unwrap_or_default();
        self.frame(kind, 0, id, &body);
    }

    fn frame(&mut self, kind: u8, flags: u8, speaker: u32, body: &[u8]) {
        debug_assert!(body.len() <= MAX_BODY);
        self.chunk.reserve(HEADER_LEN + body.len());
        self.chunk.extend_from_slice(&Header { kind, flags, speaker, length: body.len() as u32 }.encode());
        self.chunk.extend_from_slice(body);
    }
}

fn out_flag(side: Side) -> u8 {
    if side == Side::Out { OUT } else { 0 }
}
