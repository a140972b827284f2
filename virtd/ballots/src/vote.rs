//! The vote on one key.

use crate::Rechecks;
use crate::table::{Ballots, Entry, flag};
use std::hash::Hash;
use voter::{Agreement, Ballot, Decision, Members, Millis, Outcome, Rules};

/// What all votes of a table go by just now.
#[derive(Clone, Copy, Debug)]
pub struct Law<'a> {
    /// The present time.
    pub now: Millis,
    /// The voting rules.
    pub rules: Rules,
    /// Order of succession for master-slave.
    pub master_line: &'a [u8],
}

/// What the vote on one key goes by.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Those who count.
    pub electorate: Members,
    /// Those who are only compared.
    pub watched: Members,
    /// See [`Rules::min_voters`].
    pub min_voters: u8,
}

/// A change of the marks on one key.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// Who was marked.
    pub was: Members,
    /// Who is marked now as not with a steady majority.
    pub dissent: Members,
    /// Whether the key was steady without a majority.
    pub was_lost: bool,
    /// Whether it is now.
    pub lost: bool,
    /// What the vote went by.
    pub terms: Terms,
    /// For how long everybody has said what they say.
    pub age: Millis,
}

impl Marks {
    /// Who is marked anew.
    pub fn newly(&self) -> Members {
        self.dissent.minus(self.was)
    }

    /// Who is marked no more.
    pub fn cleared(&self) -> Members {
        self.was.minus(self.dissent)
    }
}

/// A user of a table: what its votes go by, and what follows from them.
pub trait Voting {
    /// What is voted on.
    type Key: Copy + Eq + Hash;
    /// What is said about it: a small id, of which the default means "nothing".
    type Value: Copy + Eq + Default;

    /// The table.
    fn ballots(&self) -> &Ballots<Self::Key, Self::Value>;
    /// The table, and the queue that its rechecks wait in.
    fn parts(&mut self) -> (&mut Ballots<Self::Key, Self::Value>, &mut Rechecks);
    /// See [`Law`].
    fn law(&self) -> Law<'_>;
    /// Who votes on the key at `slot`; what an instance said before it was gone is nobody's word
    /// ([`Entry::stale`]).
    fn terms(&self, slot: u32, entry: &Entry<Self::Key, Self::Value>) -> Terms;
    /// How values are compared.
    fn agreement(&self) -> impl Agreement<Self::Value>;
    /// Whether instance `i` is followed at once.
    fn is_master(&self, i: usize) -> bool;
    /// How long ago anything about `key` came in that the instances are to answer; `None` when not
    /// lately.
    fn input_age(&self, key: &Self::Key) -> Option<Millis>;
    /// The table holds one reference more to `new`, and one less to `old`.
    fn hold(&mut self, new: Self::Value, old: Self::Value);
    /// The outcome is final ([`Outcome::recheck_at`] is `None`), and the winner stands; what
    /// follows for the marks may still be changed.
    fn temper(&mut self, _slot: u32, _terms: &Terms, _outcome: &mut Outcome<Self::Value>) {}
    /// The marks on a key have changed.
    fn marked(&mut self, slot: u32, marks: &Marks);
    /// Those whose word the table waits for, where a key on which all agree is taken out once it has
    /// been told ([`crate::Common`]): nothing is left to be looked at later.
    fn awaited(&self) -> Option<Members> {
        None
    }
    /// A vote on the key at `slot` is over; it may be given back.
    fn voted(&mut self, slot: u32) {
        self.parts().0.tidy(slot);
    }
}

/// Instance `i` says `value` about the key at `slot`. Where that is something else than before it
/// disturbs the key, is voted on, and true comes back; `anew`: it does so in any case.
#[inline]
pub fn say<T: Voting>(at: &mut T, slot: u32, i: usize, value: T::Value, anew: bool) -> bool {
    let table = at.parts().0;
    let Some(said) = table.candidates_mut(slot).get_mut(i) else { return false };
    let old = std::mem::replace(said, value);
    let Some(e) = table.entry_mut(slot) else { return false };
    e.stale.remove(i as u8);
    if old == value && !anew {
        return false;
    }
    at.hold(value, old);
    let (is_master, Law { now, rules, .. }) = (at.is_master(i), at.law());
    if let Some(e) = at.parts().0.entry_mut(slot) {
        e.flags &= !flag::COUNTED;
        if e.age(now) >= rules.steady_ms {
            e.turns = 0;
        }
        e.turns = e.turns.saturating_add(u8::from(is_master));
        e.disturb(&rules, now, now);
    }
    vote(at, slot);
    true
}

/// Holds the vote on one key and takes note of what follows.
pub fn vote<T: Voting>(at: &mut T, slot: u32) {
    let Law { now, rules, .. } = at.law();
    note_input(at, slot, now, &rules);
    let Some(e) = at.ballots().entry(slot) else { return };
    let terms = at.terms(slot, e);
    let rules = Rules { min_voters: terms.min_voters, ..rules };
    let (first_disturbed, last_disturbed) = e.disturbed(now);
    let ballot = Ballot {
        candidates: at.ballots().candidates(slot),
        electorate: terms.electorate,
        master_line: at.law().master_line,
        winner: e.winner,
        overruled: e.overruled(),
        restless: e.is_restless(),
        first_disturbed,
        last_disturbed,
    };
    let (was, was_lost) = (e.dissent, e.is_lost());
    let mut outcome = voter::decide(&rules, &ballot, terms.watched, &at.agreement(), now);
    let settled = is_settled(at, slot, &outcome);
    adopt(at, slot, &outcome, !settled);
    if outcome.recheck_at.is_none() {
        at.temper(slot, &terms, &mut outcome);
    }
    let (table, rechecks) = at.parts();
    if !outcome.steady && (was_lost || !was.is_empty()) {
        // Who is not with a majority in between stays marked until a verdict on the steady state.
        table.recheck_at(slot, last_disturbed + rules.steady_ms, rechecks);
    }
    // Until it is steady nobody is accused anew; who is with a majority in between is not wrong
    // without a break. Where nobody says anything and nothing is told, nothing wants deciding.
    let (dissent, lost) = match outcome.steady {
        true => (outcome.dissent, outcome.lost_quorum && !table.is_void(slot)),
        false => (was.minus(outcome.with), was_lost && outcome.with.is_empty()),
    };
    if (dissent, lost) != (was, was_lost)
        && let Some(e) = table.entry_mut(slot)
    {
        e.dissent = dissent;
        e.set(flag::NO_QUORUM, lost);
        let age = e.age(now);
        at.marked(slot, &Marks { was, dissent, was_lost, lost, terms, age });
    }
    rest(at, slot, now, &rules);
}

/// The time of a key has come ([`Rechecks::due`]).
pub fn recheck<T: Voting>(at: &mut T, slot: u32) {
    let table = at.parts().0;
    let Some(e) = table.entry_mut(slot) else { return };
    e.flags &= !flag::QUEUED;
    // Nearly every key has long been settled by then: everybody says what was chosen, and nothing
    // is marked.
    let (winner, calm) = (e.winner, !e.is_lost() && e.overruled().is_none() && e.dissent.is_empty());
    match calm && table.candidates(slot).iter().all(|said| *said == winner) {
        true => {
            let Law { now, rules, .. } = at.law();
            rest(at, slot, now, &rules);
        }
        false => vote(at, slot),
    }
}

/// Goes on with a walk ([`Ballots::start_walk`]) by at most so many slots; returns by how many.
pub fn walk<T: Voting>(at: &mut T, most: usize) -> usize {
    let slots = at.parts().0.slice(u32::try_from(most).unwrap_or(u32::MAX));
    let walked = slots.len();
    slots.for_each(|slot| vote(at, slot));
    walked
}

/// Input disturbs a key as a changed candidate does; it matters only where the key would otherwise
/// count as steady.
#[inline]
fn note_input<T: Voting>(at: &mut T, slot: u32, now: Millis, rules: &Rules) {
    // Asking for the input is dear: only where the answer can matter.
    let Some(e) = at.ballots().entry(slot).filter(|e| e.age(now) >= rules.steady_ms) else { return };
    let Some(age) = at.input_age(&e.key).filter(|age| *age < rules.steady_ms) else { return };
    if let Some(e) = at.parts().0.entry_mut(slot) {
        e.turns = 0; // it has rested
        e.disturb(rules, now, now.saturating_sub(age));
    }
}

/// Whether time changes nothing about this outcome: all agree, and nothing was held against anybody.
#[inline]
fn is_settled<T: Voting>(at: &T, slot: u32, outcome: &Outcome<T::Value>) -> bool {
    let Some(all) = at.awaited() else { return false };
    let Some(e) = at.ballots().entry(slot).filter(|e| e.is_calm()) else { return false };
    let winner = if let Decision::Publish(value) = outcome.decision { value } else { e.winner };
    outcome.overruled.is_none() && at.ballots().agreed(slot, winner, all).is_some()
}

/// Carries an outcome into the table: the winner, what stands overruled, the recheck.
#[inline]
fn adopt<T: Voting>(at: &mut T, slot: u32, outcome: &Outcome<T::Value>, recheck: bool) {
    let (table, rechecks) = at.parts();
    if let Some(when) = outcome.recheck_at.filter(|_| recheck) {
        table.recheck_at(slot, when, rechecks);
    }
    let Some(e) = table.entry_mut(slot) else { return };
    let (was, overruled) = (e.winner, outcome.overruled.unwrap_or_default());
    let winner = if let Decision::Publish(value) = outcome.decision { value } else { was };
    e.winner = winner;
    let was_overruled = std::mem::replace(&mut e.overruled, overruled);
    e.set(flag::OVERRULED, outcome.overruled.is_some());
    table.note_change(slot, was);
    if (winner, overruled) != (was, was_overruled) {
        // Nothing is given back before everything is held: what won may have stood overruled, and
        // the other way round.
        let none = T::Value::default();
        at.hold(winner, none);
        at.hold(overruled, was);
        at.hold(none, was_overruled);
    }
}

/// The key is left alone. One on which the master's words are counted is kept until it has rested,
/// even where nobody says anything about it just now: else whoever withdraws what it announces
/// would begin anew each time.
#[inline]
fn rest<T: Voting>(at: &mut T, slot: u32, now: Millis, rules: &Rules) {
    let (table, rechecks) = at.parts();
    if let Some(e) = table.entry(slot).filter(|e| e.turns > 1 && e.age(now) < rules.steady_ms) {
        table.recheck_at(slot, now + rules.steady_ms - e.age(now), rechecks);
    }
    at.voted(slot);
}
