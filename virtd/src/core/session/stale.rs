//! What an instance said before it was gone, or before it came back; and whether what it says now is what was chosen.

use super::super::env::ById;
use super::super::table::flag;
use super::*;
use replay::intern::BlobId;
use voter::Agreement;
use wire::bgp::Prefix;

impl Session {
    /// A new leg of instance `i`: what the old one said counts as stale until it is said again.
    pub(super) fn mark_stale(&mut self, i: usize) {
        for slot in 0..self.table.slots() {
            if let Some(e) = self.table.entry_mut(slot) {
                e.stale.insert(i as u8);
            }
        }
    }

    /// Instance `i` is level: what it has not said again it does not say any more.
    pub(super) fn sweep_stale(&mut self, i: usize, env: &mut Env) {
        for slot in 0..self.table.slots() {
            let Some(e) = self.table.entry_mut(slot).filter(|e| e.stale.contains(i as u8)) else { continue };
            e.stale.remove(i as u8);
            e.flags &= !flag::COUNTED;
            if let Some(said) = self.table.candidates_mut(slot).get_mut(i) {
                env.routes.release(std::mem::replace(said, BlobId::NONE));
            }
        }
    }

    /// Instance `i` is no more: it says nothing, and nothing is held against it.
    pub(super) fn forget_candidates(&mut self, i: usize, env: &mut Env) {
        for slot in 0..self.table.slots() {
            let Some(e) = self.table.entry_mut(slot) else { continue };
            // Keys of which nobody says anything any more are forgotten by the vote on them that follows.
            e.flags &= !flag::COUNTED;
            let (said, dissented) = self.table.forget(slot, i);
            env.routes.release(said);
            if dissented && let Some(s) = env.instances.get_mut(i) {
                s.account.end((self.index as u32, slot));
            }
        }
    }

    /// Whether instance `i` has said of every key what was chosen for it: then its vote changes
    /// nothing, and need not wait for its output to fall quiet. What the only voter says of a
    /// prefix on which nothing was chosen and nobody else says anything is no difference: there is
    /// nothing to wait for, and where peers send new prefixes all the time its output never is
    /// quiet. Looks first where it last found a difference, so that watching a table come in costs
    /// one walk over it.
    pub fn concurs(&mut self, i: usize, env: &Env) -> bool {
        let from = self.seats.get(i).map_or(0, |s| s.differs_at).min(self.table.slots());
        let agreement = ById(&env.routes);
        let sole = env.voters.len() == 1 && env.voters.contains(i as u8);
        let differs = |slot: &u32| {
            let Some(e) = self.table.entry(*slot) else { return false };
            if !env.poison.is_idle() && env.poison.abstainers(&e.prefix, self.index as u32, true).contains(i as u8) {
                return false;
            }
            if env.is_outside(i, &e.prefix) {
                return false;
            }
            let all = self.table.candidates(*slot);
            let is_silent = |(n, said): (usize, &BlobId)| n == i || *said == BlobId::NONE;
            if sole && e.winner == BlobId::NONE && all.iter().enumerate().all(is_silent) {
                return false;
            }
            if env.lacking && (self.without_family(&e.prefix, env).union(env.untold(&e.prefix))).contains(i as u8) {
                return false;
            }
            let said = all.get(i).copied().unwrap_or(BlobId::NONE);
            let said = if e.stale.contains(i as u8) { BlobId::NONE } else { said };
            !agreement.agrees(said, e.winner)
        };
        let found = (from..self.table.slots()).find(differs).or_else(|| (0..from).find(differs));
        if let Some(seat) = self.seats.get_mut(i) {
            seat.differs_at = found.unwrap_or(0);
        }
        found.is_none()
    }

    /// Those that abstain on `prefix` towards this peer: see [`Env::abstainers`].
    pub(super) fn abstainers(&self, prefix: &Prefix, env: &Env) -> Members {
        let entry = || self.table.find(prefix).and_then(|slot| self.table.entry(slot));
        let rests = env.poison.is_idle() || entry().is_none_or(|e| env.rests(e.first_ms, e.last_ms));
        env.abstainers(prefix, self.index as u32, rests)
    }

    /// The session ends: nobody disagrees about it any more.
    pub(super) fn forget_dissent(&mut self, env: &mut Env) {
        for slot in 0..self.table.slots() {
            let Some(e) = self.table.entry(slot) else { continue };
            for i in e.dissent.iter() {
                if let Some(s) = env.instances.get_mut(usize::from(i)) {
                    s.account.end((self.index as u32, slot));
                }
            }
            if e.flags & flag::NO_QUORUM != 0 {
                env.without_quorum = env.without_quorum.saturating_sub(1);
            }
        }
    }
}
