//! What the peers have said, and who has not been told all of it: the store of their last
//! announcements, and by session the instances that are not level or lack something.

use super::lacks::Lacks;
use bytes::BytesMut;
use replay::intern::{BlobId, Interner};
use replay::level;
use replay::store::Stores;
use std::collections::BTreeMap;
use voter::Members;
use wire::bgp::{Family, Prefix, UpdateContext};

/// Of one session, who is not told what its peer says.
#[derive(Debug, Default)]
struct Untold {
    /// Those that have not been given everything that it has said.
    unlevel: Members,
    /// What they are not told because their OPEN lacks something.
    lacks: Lacks,
}

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Heard {
    stores: Stores,
    /// The attribute blocks, as stored.
    blocks: Interner,
    untold: Vec<Untold>,
    /// By instance, the sessions on which it is not level; none that are 0.
    unlevel: BTreeMap<u8, usize>,
    /// Somebody abstains because of what he lacks.
    lacking: bool,
    /// Of a session that has ended somebody had not been told everything.
    ended_untold: bool,
    /// Prefixes of which an instance is just being told once more, on which it abstains.
    exercised: Vec<(Prefix, u8)>,
}

impl Heard {
    /// There is a session of this number.
    pub fn open(&mut self, session: usize) {
        if self.untold.len() <= session {
            self.untold.resize_with(session + 1, Untold::default);
        }
    }

    /// Sessions that there are.
    pub fn sessions(&self) -> usize {
        self.untold.len()
    }

    /// The blocks of attributes.
    pub fn blocks(&mut self) -> &mut Interner {
        &mut self.blocks
    }

    /// Octets of the store, and of the blocks.
    pub fn memory_bytes(&self) -> (usize, usize) {
        (self.stores.memory_bytes(), self.blocks.memory_bytes())
    }

    /// What all of them sent.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The same, for what is marked while a peer says it again.
    pub fn stores_mut(&mut self) -> &mut Stores {
        &mut self.stores
    }

    /// The peer of `session` announces `prefix` with this block, of which one reference more is
    /// held.
    pub fn announce(&mut self, session: usize, prefix: Prefix, block: BlobId, now_ms: u32) {
        self.blocks.retain(block, 1);
        let old = self.stores.announce(session, prefix, block, now_ms);
        self.blocks.release(old);
    }

    /// It takes `prefix` back.
    pub fn withdraw(&mut self, session: usize, prefix: &Prefix, now_ms: u32) {
        let old = self.stores.withdraw(session, prefix, now_ms);
        self.blocks.release(old);
    }

    /// The attributes of what it says of `prefix`; empty where it says nothing.
    pub fn block(&self, session: usize, prefix: &Prefix) -> &[u8] {
        self.stores.find(session, prefix).map_or(&[], |id| self.blocks.bytes(id))
    }

    /// See [`level::replay`].
    pub fn replay(
        &self,
        session: usize,
        prefixes: &mut [Prefix],
        context: &UpdateContext,
        narrow: bool,
        out: &mut BytesMut,
    ) {
        level::replay((&self.stores, session), &self.blocks, prefixes, context, narrow, out);
    }

    /// The session has ended: nothing that its peer said stands, and nobody abstains because of it.
    pub fn end(&mut self, session: usize) {
        self.ended_untold |= !self.unlevel(session).is_empty();
        self.set_unlevel(session, Members::EMPTY);
        if let Some(untold) = self.untold.get_mut(session).filter(|u| !u.lacks.is_empty()) {
            untold.lacks.clear();
            self.note_lacks();
            self.ended_untold = true;
        }
        self.stores.end(session);
    }

    /// Whether something of sessions that have ended is still there.
    pub fn has_ended(&self) -> bool {
        self.stores.has_ended()
    }

    /// Takes out `n` of what their peers said. Returns the prefixes on which somebody may abstain no
    /// more.
    pub fn take_out(&mut self, n: usize, now_ms: u64) -> Vec<Prefix> {
        let mut gone = Vec::new();
        self.stores.take_out(n, now_ms as u32, &mut gone);
        gone.iter().for_each(|(_, id)| self.blocks.release(*id));
        let untold = self.ended_untold;
        self.ended_untold &= self.stores.has_ended();
        if untold { gone.into_iter().map(|(prefix, _)| prefix).collect() } else { Vec::new() }
    }

    /// The instances that have not been given everything that the peer of `session` has said.
    pub fn unlevel(&self, session: usize) -> Members {
        self.untold.get(session).map_or(Members::EMPTY, |u| u.unlevel)
    }

    /// These are they now.
    pub fn set_unlevel(&mut self, session: usize, now: Members) {
        let Some(untold) = self.untold.get_mut(session) else { return };
        let was = std::mem::replace(&mut untold.unlevel, now);
        for i in now.minus(was).iter() {
            *self.unlevel.entry(i).or_default() += 1;
        }
        for i in was.minus(now).iter() {
            let left = self.unlevel.entry(i).or_default();
            *left = left.saturating_sub(1);
        }
        self.unlevel.retain(|_, sessions| *sessions > 0);
    }

    /// Whether instance `i` has been given everything that this peer has said.
    pub fn set_level(&mut self, session: usize, i: usize, level: bool) {
        let mut unlevel = self.unlevel(session);
        if level {
            unlevel.remove(i as u8)
        } else {
            unlevel.insert(i as u8)
        }
        self.set_unlevel(session, unlevel);
    }

    /// Whether instance `i` has been given everything that any peer has said.
    pub fn is_level(&self, i: usize) -> bool {
        !self.unlevel.contains_key(&(i as u8))
    }

    /// Whether there is no peer of whom it has been given everything.
    pub fn is_level_nowhere(&self, i: u8) -> bool {
        self.unlevel.get(&i).copied().unwrap_or(0) == self.untold.len()
    }

    /// Whether all have.
    pub fn all_level(&self) -> bool {
        self.unlevel.is_empty()
    }

    /// What instances lack on `session`.
    pub fn lacks(&self, session: usize) -> Option<&Lacks> {
        self.untold.get(session).map(|u| &u.lacks)
    }

    /// The same, to be changed by `change`, which returns whether anybody may begin or cease to
    /// abstain.
    pub fn change_lacks(&mut self, session: usize, change: impl FnOnce(&mut Lacks) -> bool) -> bool {
        let changed = self.untold.get_mut(session).is_some_and(|u| change(&mut u.lacks));
        if changed {
            self.note_lacks();
        }
        changed
    }

    fn note_lacks(&mut self) {
        self.lacking = self.untold.iter().any(|u| u.lacks.matters());
    }

    /// Whether somebody abstains because of what he lacks.
    pub fn is_lacking(&self) -> bool {
        self.lacking
    }

    /// Those that lack anything anywhere.
    pub fn lackers(&self) -> Members {
        self.untold.iter().fold(Members::EMPTY, |all, u| all.union(u.lacks.lackers()))
    }

    /// Those that have a leg on `session` without the family of `prefix`.
    pub fn without_family(&self, session: usize, prefix: &Prefix) -> Members {
        self.untold.get(session).map_or(Members::EMPTY, |u| u.lacks.family_of(prefix))
    }

    /// The same by family.
    pub fn without(&self, session: usize, family: Family) -> Members {
        self.untold.get(session).map_or(Members::EMPTY, |u| u.lacks.family(family))
    }

    /// Whether nobody abstains on anything because of what he has not been told.
    pub fn all_told(&self) -> bool {
        self.exercised.is_empty() && !self.lacking && self.unlevel.is_empty()
    }

    /// Those that have not been told what some peer says of `prefix`, or are being told once more.
    pub fn untold(&self, prefix: &Prefix) -> Members {
        let mut out = self.exercised_on(prefix);
        if self.lacking || !self.unlevel.is_empty() {
            for untold in self.stores.announcers(prefix).filter_map(|s| self.untold.get(s)) {
                out = out.union(untold.unlevel);
                if self.lacking {
                    out = out.union(untold.lacks.untold(prefix));
                }
            }
        }
        out
    }

    /// Those that cannot be told what some peer says of `prefix`.
    pub fn cannot_be_told(&self, prefix: &Prefix) -> Members {
        let announcers = self.stores.announcers(prefix).filter_map(|s| self.untold.get(s));
        announcers.fold(Members::EMPTY, |all, u| all.union(u.lacks.untold(prefix)))
    }

    /// Those that are just being told of `prefix` once more.
    pub fn exercised_on(&self, prefix: &Prefix) -> Members {
        self.exercised.iter().filter(|(p, _)| p == prefix).map(|(_, i)| *i).collect()
    }

    /// Whether nobody is.
    pub fn is_nobody_exercised(&self) -> bool {
        self.exercised.is_empty()
    }

    /// Instance `i` is being told of `prefix` once more, or has been.
    pub fn exercise(&mut self, prefix: Prefix, i: usize, begins: bool) {
        match begins {
            true => self.exercised.push((prefix, i as u8)),
            false => self.exercised.retain(|e| *e != (prefix, i as u8)),
        }
    }

    /// The place of instance `i` is nobody's.
    pub fn vacate(&mut self, i: usize) {
        for session in 0..self.untold.len() {
            self.set_level(session, i, true);
        }
        for untold in &mut self.untold {
            untold.lacks.forget(i as u8);
        }
        self.note_lacks();
        self.exercised.retain(|(_, who)| usize::from(*who) != i);
    }

    /// How long ago any peer said anything about `prefix`; `None`: not lately.
    pub fn age_ms(&self, prefix: &Prefix, now_ms: u64) -> Option<u64> {
        self.stores.age_ms(prefix, now_ms as u32).map(u64::from)
    }

    /// What nobody says, and has not for so long, is forgotten.
    pub fn forget_silent(&mut self, now_ms: u64, keep_ms: u64) {
        self.stores.forget_silent(now_ms as u32, u32::try_from(keep_ms).unwrap_or(u32::MAX));
    }
}
