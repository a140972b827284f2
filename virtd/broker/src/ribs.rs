//! Who reads the routing tables (`ribs` over the control socket): what has changed for each reader
//! and has not been told him yet.
//!
//! ```text
//!  a peer says, an instance says, a peer is told ──▶ keys by speaker ──┐
//!  a session or a leg begins, ends ──▶ stirred ────────────────────────┼─▶ tell.rs ─▶ frames
//!                                     walks over what there was ───────┘
//! ```
//! A reader is given something when he asks for it, and then a bounded amount. What is kept for him
//! meanwhile are keys, each once however often it changes, and [`MAX_KEYS`] at most: beyond that the
//! speakers with the most are told anew, from the beginning, a little later. So the slowest reader
//! costs a fixed memory, and nobody waits for him. Without a reader a change costs one branch.

mod tell;

use crate::busy::Busy;
use crate::io::{ConnId, LegId, Micros};
use crate::session::Walk;
use replay::level::Todo;
use std::collections::VecDeque;
use std::net::SocketAddr;
use wire::bgp::Prefix;

/// Readers at once: some collectors. Each costs memory and the processor's time.
pub const MAX_READERS: usize = 8;
/// Keys kept for one reader, of all speakers together: some megabytes.
pub const MAX_KEYS: usize = 1 << 16;
/// A speaker that has to be told anew is after so long: what overwhelms a reader is seldom over at
/// once. Doubled each time that he has not heard all of it in between.
const FIRST_PAUSE_US: Micros = 1_000_000;
/// The longest such pause.
const MAX_PAUSE_US: Micros = 64_000_000;
/// Changes are told so far apart: those of one key are one, and an update that has just been passed
/// on is seldom followed by this work.
const GATHER_US: Micros = 10_000;

/// In the place of an instance: the peer itself.
const PEER: usize = 0;

/// The tables of a speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the peer has said.
    In,
    /// What it was told, or what an instance would tell it.
    Out,
}

/// By which connection a speaker stands: another is another speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footing {
    /// With the peer.
    pub conn: ConnId,
    /// The instance's.
    pub leg: Option<LegId>,
}

/// What a reader knows of a speaker.
#[derive(Debug, Default)]
struct View {
    /// Its number, and by what it stands; `None`: it is not up.
    up: Option<(u32, Footing)>,
    said: Todo,
    told: Todo,
    /// It stands in [`Reader::changed`].
    listed: bool,
    /// How far the telling of what there was has come.
    walk: Option<Walk>,
    /// It stands in [`Reader::walks`].
    walking: bool,
    /// When it is told anew: until then its changes are passed over. 0: that has not been settled.
    anew: Option<Micros>,
    pause: Micros,
}

impl View {
    fn keys(&self) -> usize {
        self.said.len() + self.told.len()
    }

    fn clear(&mut self) -> usize {
        let keys = self.keys();
        self.said.clear();
        self.told.clear();
        self.walk = None;
        keys
    }
}

/// One reader.
#[derive(Debug)]
struct Reader {
    id: u64,
    instances: bool,
    /// He is told of this peer alone, and nothing is noted of any other.
    peer: Option<SocketAddr>,
    /// By session; of each the peer first, then the instances by index.
    views: Vec<Vec<View>>,
    /// Sessions whose speakers may have come or gone.
    stirred: Busy,
    /// Speakers of whom something has changed.
    changed: VecDeque<(usize, usize)>,
    /// Speakers of whom what there was is being told.
    walks: VecDeque<(usize, usize)>,
    /// Speakers who are to be told anew.
    anew: Vec<(usize, usize)>,
    /// Keys kept.
    keys: usize,
    last_id: u32,
    /// When it was last told something, and whether that was not all.
    told_at: Micros,
    more: bool,
}

impl Reader {
    fn view(&mut self, (session, who): (usize, usize)) -> Option<&mut View> {
        self.views.get_mut(session)?.get_mut(who)
    }

    fn note(&mut self, at: (usize, usize), side: Side, prefix: Prefix) {
        let Some(view) = self.views.get_mut(at.0).and_then(|views| views.get_mut(at.1)) else { return };
        if view.up.is_none() || view.anew.is_some() {
            return; // all of it is told once it is up
        }
        let keys = if side == Side::In { &mut view.said } else { &mut view.told };
        if !keys.push(prefix) {
            return;
        }
        self.keys += 1;
        if !std::mem::replace(&mut view.listed, true) {
            self.changed.push_back(at);
        }
        if self.keys > MAX_KEYS {
            self.shed();
        }
    }

    /// Too much has changed: the speakers of whom the most is kept are to be told anew. Those that
    /// are left have no more than half of the keys.
    fn shed(&mut self) {
        let with_keys = self.views.iter().flatten().filter(|v| v.keys() > 0).count();
        let many = (self.keys / with_keys.max(1) / 2).max(1);
        for (session, views) in self.views.iter_mut().enumerate() {
            for (who, view) in views.iter_mut().enumerate().filter(|(_, v)| v.keys() >= many) {
                self.keys -= view.clear();
                view.anew = Some(0);
                self.anew.push((session, who));
            }
        }
    }

    /// Whether there is something to tell that waits for nothing.
    fn is_behind(&self) -> bool {
        !self.stirred.is_empty() || !self.walks.is_empty() || self.anew_at() == Some(0)
    }

    fn anew_at(&self) -> Option<Micros> {
        self.anew.iter().filter_map(|at| self.views.get(at.0)?.get(at.1)?.anew).min()
    }

    /// When there is something to tell, as far as is known.
    fn wake_at(&self, now: Micros) -> Option<Micros> {
        let due = if self.more { now } else { self.told_at + GATHER_US };
        let changed = (!self.changed.is_empty()).then_some(due);
        let behind = self.is_behind().then_some(now);
        [changed, behind, self.anew_at()].into_iter().flatten().min()
    }
}

/// All readers. See the module's comment.
#[derive(Debug, Default)]
pub struct Readers(Vec<Reader>);

impl Readers {
    /// The peer of `session` has said something of `prefix`.
    #[inline]
    pub fn heard(&mut self, session: usize, prefix: &Prefix) {
        if !self.0.is_empty() {
            self.note((session, PEER), Side::In, prefix);
        }
    }

    /// It was told something else of `prefix`.
    #[inline]
    pub fn told(&mut self, session: usize, prefix: &Prefix) {
        if !self.0.is_empty() {
            self.note((session, PEER), Side::Out, prefix);
        }
    }

    /// Instance `i` says something else of `prefix` to it.
    #[inline]
    pub fn said(&mut self, session: usize, i: usize, prefix: &Prefix) {
        if !self.0.is_empty() {
            self.note((session, 1 + i), Side::Out, prefix);
        }
    }

    fn note(&mut self, at: (usize, usize), side: Side, prefix: &Prefix) {
        self.0.iter_mut().for_each(|r| r.note(at, side, *prefix));
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key of `session` rests no more: it stands where a walk may have been already.
    #[inline]
    pub fn moved(&mut self, session: usize, prefix: &Prefix) {
        for reader in &mut self.0 {
            let views = reader.views.get(session).map_or(0, Vec::len);
            for who in 0..views {
                let walk = reader.view((session, who)).and_then(|v| v.walk.as_ref());
                if walk.is_some_and(Walk::is_among_those_at_rest) {
                    reader.note((session, who), Side::Out, *prefix);
                }
            }
        }
    }

    /// Speakers of `session` may have come or gone.
    #[inline]
    pub fn stir(&mut self, session: usize) {
        self.0.iter_mut().for_each(|r| r.stirred.push(session));
    }

    /// Octets that are kept for them.
    pub fn memory_bytes(&self) -> usize {
        let views = self.0.iter().flat_map(|r| r.views.iter().flatten());
        views.map(|v| size_of::<View>() + v.said.memory_bytes() + v.told.memory_bytes()).sum()
    }
}
