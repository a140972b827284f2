//! Keys at rest: where all who vote say the same and the peer has been told, a key stands with those
//! of other sessions ([`ballots::Common`]) and has no entry in this session's table.

use super::*;
use crate::mux::Random;
use ballots::{Entry, Rest};
use replay::intern::{BlobId, Interner};
use wire::bgp::Prefix;

/// Numbers looked at in one go, for keys that are to be told again.
const LOOKED_AT: u32 = 1 << 16;

/// One reference more, or less, is held by the keys at rest.
fn hold(routes: &mut Interner) -> impl FnMut(BlobId, bool) + '_ {
    |route, more| match more {
        true => routes.retain(route, 1),
        false => routes.release(route),
    }
}

impl Session {
    fn number(&self) -> u32 {
        self.index as u32
    }

    /// Takes `prefix` out of those at rest.
    pub(super) fn rouse(&mut self, prefix: &Prefix, env: &mut Env) -> Option<u32> {
        let (rest, last) = env.common.take(self.number(), prefix)?;
        let slot = self.table.rouse(*prefix, &rest, env.now_ms(), &env.rules);
        env.ribs.moved(self.index, prefix);
        // What was chosen, what was told, and everybody's word.
        env.routes.retain(rest.value, 2 + rest.who.len() as u32);
        if last {
            env.routes.release(rest.value);
        }
        if self.up.as_ref().is_some_and(|up| up.telling_again.iter().any(|(family, _)| *family == prefix.family())) {
            self.table.resend(slot);
        }
        for i in rest.stale.iter().map(usize::from) {
            if self.seats.get(i).is_some_and(Seat::is_admitted)
                && let Some(said) = self.table.forget_stale_at(slot, i)
            {
                env.routes.release(said);
            }
        }
        Some(slot)
    }

    /// What was chosen for `prefix`, if it is at rest.
    pub(super) fn find_at_rest(&self, prefix: &Prefix, env: &Env) -> Option<BlobId> {
        env.common.find(self.number(), prefix).map(|rest| rest.value)
    }

    /// Instance `i` says of a key at rest what was chosen for it.
    pub(super) fn says_again(&self, i: usize, prefix: &Prefix, route: BlobId, env: &mut Env) {
        env.common.said_again(self.number(), prefix, i, route, hold(&mut env.routes));
    }

    /// Nothing is to be done about the key at `slot` just now: it is given back, or laid to rest.
    pub(super) fn settle(&mut self, slot: u32, env: &mut Env) {
        let may = self.up.is_some() && env.keys_rest() && env.poison.is_idle();
        let at_rest = if may { self.table.at_rest(slot, self.awaited()) } else { None };
        let Some((prefix, rest)) = at_rest else { return self.table.tidy(slot) };
        let with_duty = env.instances.voters.union(env.instances.observers);
        let compared = with_duty.intersect(self.attached).intersect(rest.who).minus(rest.stale);
        self.count(slot, compared, Members::EMPTY, Members::EMPTY, false, env);
        self.table.lay_down(slot);
        let new = env.common.put(self.number(), prefix, rest);
        let had = 2 + rest.who.len() - usize::from(new);
        (0..had).for_each(|_| env.routes.release(rest.value));
    }

    /// Those whose word a key waits for before it is at rest; also of who has no duty now, since he
    /// may have one again while his leg stands.
    pub(super) fn awaited(&self) -> Members {
        self.attached
    }

    /// What instance `i` has said so far is what it said before it was gone.
    pub(super) fn mark_stale(&mut self, i: usize, env: &mut Env) {
        self.table.mark_stale(i, true);
        env.common.mark_stale(self.number(), i, hold(&mut env.routes));
    }

    /// What instance `i`, which is being admitted, has not said again it does not say any more: of
    /// `most` keys at rest, beginning with number `from`. They may be as many as the peer was told,
    /// which is too much for one turn. Returns the number to go on with, if there are more.
    pub(super) fn forget_stale(&mut self, i: usize, from: u32, most: usize, env: &mut Env) -> Option<u32> {
        let stale: Vec<(u32, Prefix)> = env.common.stale_keys(self.number(), i, from).take(most).collect();
        for (_, prefix) in &stale {
            self.rouse(prefix, env);
        }
        let next = stale.last().filter(|_| stale.len() == most).map(|(number, _)| number + 1);
        // What was not at rest when its number had its turn may be by now.
        next.or_else(|| (self.not_said_again(i, env) > 0).then_some(0))
    }

    /// Of the keys at rest, those on which instance `i` has not said again what it said before.
    pub(super) fn not_said_again(&self, i: usize, env: &Env) -> usize {
        env.common.stale(self.number(), i)
    }

    /// Instance `i` is no more.
    pub(super) fn forget_at_rest(&mut self, i: usize, env: &mut Env) {
        let alone = env.common.forget(self.number(), i, hold(&mut env.routes));
        for prefix in alone {
            self.rouse(&prefix, env);
        }
    }

    /// No key is at rest any more.
    pub fn rouse_all(&mut self, env: &mut Env) {
        let all: Vec<Prefix> = env.common.iter(self.number()).map(|(prefix, _)| prefix).collect();
        for prefix in all {
            self.rouse(&prefix, env);
        }
    }

    /// No key is at rest any more, nor known.
    pub(super) fn clear_at_rest(&self, env: &mut Env) {
        env.common.clear(self.number(), |route| env.routes.release(route));
    }

    /// Goes on with telling a family again.
    pub(super) fn tell_again_at_rest(&mut self, env: &mut Env) {
        let number = self.number();
        let Some(up) = &mut self.up else { return };
        let Some((family, from)) = up.telling_again.pop() else { return };
        let until = env.common.numbers().min(from.saturating_add(LOOKED_AT));
        let of_family = |n| env.common.numbered(number, n).filter(|prefix| prefix.family() == family);
        let prefixes: Vec<Prefix> = (from..until).filter_map(of_family).collect();
        // While it stands there, what is roused is told again.
        up.telling_again.push((family, until));
        for prefix in prefixes {
            self.rouse(&prefix, env);
        }
        if until >= env.common.numbers()
            && let Some(up) = &mut self.up
        {
            up.telling_again.pop();
        }
    }

    /// A key with what everybody says of it, at rest or not.
    pub fn look(&self, prefix: &Prefix, env: &Env) -> Option<(Entry<Prefix, BlobId>, Vec<BlobId>)> {
        if let Some(slot) = self.table.find(prefix) {
            return Some((self.table.entry(slot)?.clone(), self.table.candidates(slot).to_vec()));
        }
        let rest: Rest<BlobId> = env.common.find(self.number(), prefix)?;
        Some(Entry::at_rest(*prefix, &rest, self.seats.len(), env.now_ms(), &env.rules))
    }

    /// Some key of this session, each as likely.
    pub fn any_key(&self, random: &mut Random, env: &Env) -> Option<Prefix> {
        let (here, all) = (self.table.slots(), self.table.slots() + env.common.numbers());
        let number = random.between(0, u64::from(all.checked_sub(1)?)) as u32;
        match number.checked_sub(here) {
            None => self.table.entry(number).map(|e| e.key),
            Some(number) => env.common.numbered(self.number(), number),
        }
    }
}
