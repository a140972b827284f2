//! What an instance said before it was gone, or before it came back; and whether what it says now
//! is what was chosen.

use super::super::env::ById;
use super::admission::LEVEL_CAP;
use super::*;
use replay::intern::BlobId;
use voter::Agreement;
use wire::bgp::Prefix;

/// An instance that has not said again more than this part of what the peer was told is behind with
/// its own output; of fewer it is that they are no more.
const FAR_BEHIND: u64 = 64;

impl Session {
    /// Whether instance `i` has paused while much is still to come from it: it does not count yet,
    /// since what it has not said when it does is held against it, and is withdrawn where most have
    /// not, as after virtd's own death, when all say everything again at once.
    pub(super) fn is_far_behind(&mut self, i: usize, env: &Env) -> bool {
        let (behind, told) = (self.not_said_again(i, env), self.up.as_ref().map_or(0, |up| up.prefixes_out));
        let Some(leg) = self.seats.get_mut(i).and_then(|s| s.leg.as_mut()) else { return false };
        // So few are said in a breath.
        let few = if env.awaits_quorum { 0 } else { KEYS_AT_ONCE };
        if leg.behind.0 != behind {
            leg.behind = (behind, env.now);
        }
        behind > few
            && behind as u64 * FAR_BEHIND > told
            && env.now < leg.behind.1.max(leg.since) + LEVEL_CAP * env.t_us()
    }

    /// Whether instance `i` has a leg here on which it is far behind.
    pub fn is_behind(&mut self, i: usize, env: &Env) -> bool {
        self.levels(i) && self.is_far_behind(i, env)
    }

    /// When one of these that has a leg here and is not level on it was last told something, or said
    /// it.
    pub fn last_of_levelling(&self, of: Members) -> Option<Micros> {
        let legs = of.iter().filter_map(|i| self.seats.get(usize::from(i))?.leg.as_ref());
        let levelling = legs.filter(|l| l.state == LegState::Established && !l.level);
        levelling.map(|l| l.last_update.max(l.since)).max()
    }

    /// Instance `i` is no more: it says nothing, and nothing is held against it.
    pub(super) fn forget_candidates(&mut self, i: usize, env: &mut Env) {
        let id = self.index as u32;
        self.forget_at_rest(i, env);
        self.table.forget(i, |slot, route, marked| {
            env.routes.release(route);
            if marked {
                env.acquit(i as u8, (id, slot));
            }
        });
    }

    /// Whether instance `i` has said of every key what was chosen for it: then its vote changes
    /// nothing, and need not wait for its output to fall quiet. What the only voter says of a
    /// prefix on which nothing was chosen and nobody else says anything is no difference: there is
    /// nothing to wait for, and where peers send new prefixes all the time its output never is
    /// quiet. At most `left` keys are compared, beginning where the last look ended: at a
    /// difference, or for want of time.
    pub fn concurs(&mut self, i: usize, left: &mut usize, env: &Env) -> bool {
        let slots = self.table.slots();
        let (at, same) = self.seats.get(i).map_or((0, 0), |s| s.compared);
        // A table that has shrunk is compared anew.
        let (from, mut same) = if at < slots { (at, same) } else { (0, 0) };
        let agreement = ById(&env.routes);
        let sole = env.instances.voters.len() == 1 && env.instances.voters.contains(i as u8);
        // Nothing is awaited from it there.
        let excused = |prefix: &Prefix| {
            (!env.poison.is_idle() && env.poison.abstainers(prefix, self.index as u32, true).contains(i as u8))
                || env.is_outside(i, prefix)
                || (env.heard.is_lacking()
                    && (self.without_family(prefix, env).union(env.heard.cannot_be_told(prefix))).contains(i as u8))
        };
        let differs = |slot: &u32| {
            let Some(e) = self.table.entry(*slot) else { return false };
            if excused(&e.key) {
                return false;
            }
            let all = self.table.candidates(*slot);
            let is_silent = |(n, said): (usize, &BlobId)| n == i || *said == BlobId::NONE;
            if sole && e.winner == BlobId::NONE && all.iter().enumerate().all(is_silent) {
                return false;
            }
            let said = all.get(i).copied().unwrap_or(BlobId::NONE);
            let said = if e.stale.contains(i as u8) { BlobId::NONE } else { said };
            !agreement.agrees(said, e.winner)
        };
        let mut at = from;
        while same < slots && *left > 0 {
            *left -= 1;
            if differs(&at) {
                same = 0;
                break;
            }
            same += 1;
            at = if at + 1 < slots { at + 1 } else { 0 };
        }
        let concurs = same >= slots
            && (self.not_said_again(i, env) == 0
                || (!env.poison.is_idle() || env.has_blocks || env.heard.is_lacking())
                    && env.common.stale_keys(self.index as u32, i, 0).all(|(_, prefix)| excused(&prefix)));
        if let Some(seat) = self.seats.get_mut(i) {
            seat.compared = (at, same);
        }
        concurs
    }

    /// Those that abstain on `prefix` towards this peer: see [`Env::abstainers`].
    pub(super) fn abstainers(&self, prefix: &Prefix, env: &Env) -> Members {
        let entry = || self.table.find(prefix).and_then(|slot| self.table.entry(slot));
        let rests = env.poison.is_idle() || entry().is_none_or(|e| e.rests(&env.rules, env.now_ms()));
        env.abstainers(prefix, self.index as u32, rests)
    }

    /// The session ends: nobody disagrees about it any more.
    pub(super) fn forget_dissent(&mut self, env: &mut Env) {
        for (slot, e) in self.table.iter() {
            for i in e.dissent.iter() {
                env.acquit(i, (self.index as u32, slot));
            }
            if e.is_lost() {
                env.without_quorum = env.without_quorum.saturating_sub(1);
            }
        }
    }
}
