//! The keys of one table, what the instances say about them, and what was chosen.
//!
//! One entry a key, found by its hash, and candidates in a second array with one column an instance,
//! both indexed alike: about 60 octets a key with three instances and ids of four octets.

use crate::Rechecks;
use crate::common::Rest;
use collections::{Slots, make_room};
use foldhash::fast::RandomState;
use std::hash::{BuildHasher, Hash};
use std::ops::Range;
use voter::{Members, Millis, Rules};

/// So much may the master of master-slave say about a key that does not rest for T before a
/// majority decides on it at once: what converges takes less, and a master that floods gets no more
/// than this past (docs/DECISIONS.md, "Strategies, T and its cap").
const MASTER_TURNS: u8 = 5;

/// So many slots a table keeps when the last key has gone.
const MAX_KEPT: usize = 64;

/// Bits of [`Entry::flags`].
pub(crate) mod flag {
    /// Stands in the list of changes.
    pub const DIRTY: u8 = 1;
    /// Must be told even where it did not change.
    pub const RESEND: u8 = 2;
    /// Stands in the queue of rechecks.
    pub const QUEUED: u8 = 4;
    /// Steady without a majority.
    pub const NO_QUORUM: u8 = 8;
    /// [`super::Entry::overruled`] holds something.
    pub const OVERRULED: u8 = 16;
    /// [`Ballots::count`].
    pub const COUNTED: u8 = 32;
    /// Was at rest before: it does so again only when it stands in no queue, else each change would
    /// leave one more recheck there.
    pub const ROUSED: u8 = 64;
}

/// The state of one key.
#[derive(Clone, Debug)]
pub struct Entry<K, V> {
    /// The key.
    pub key: K,
    /// See [`flag`].
    pub(crate) flags: u8,
    /// What the master of master-slave has said since the key last rested for T; counted up to 255.
    pub(crate) turns: u8,
    /// Instances whose candidate is marked as not with a steady majority.
    pub dissent: Members,
    /// Instances whose candidate dates from before they were gone: dropped when they have caught up
    /// and have not repeated it.
    pub stale: Members,
    /// What the voter chose.
    pub winner: V,
    /// What was last told.
    pub published: V,
    /// What the steady majority took away from the master ([`voter::Ballot::overruled`]); read by
    /// [`Entry::overruled`].
    pub(crate) overruled: V,
    /// Milliseconds (wrapping, see [`age_ms`]) of the first and the last disturbance.
    first_ms: u32,
    /// See `first_ms`.
    last_ms: u32,
}

impl<K, V: Copy + Default> Entry<K, V> {
    /// How long ago the last disturbance was.
    pub fn age(&self, now: Millis) -> Millis {
        age_ms(now, self.last_ms)
    }

    /// How long ago the first disturbance was since it last rested.
    pub fn unsettled(&self, now: Millis) -> Millis {
        now - self.disturbed(now).0
    }

    /// When the first and the last disturbance were.
    pub(crate) fn disturbed(&self, now: Millis) -> (Millis, Millis) {
        let (first, last) = (age_ms(now, self.first_ms), self.age(now));
        (now - first.max(last).min(now), now - last.min(now))
    }

    /// It is steady, or as good as that (`rules`' cap).
    pub fn rests(&self, rules: &Rules, now: Millis) -> bool {
        let (first, last) = self.disturbed(now);
        now >= rules.steady_at(first, last)
    }

    /// It was disturbed `when`.
    pub(crate) fn disturb(&mut self, rules: &Rules, now: Millis, when: Millis) {
        // Ages count backwards from now; the voter's rule wants points in time.
        let at = |ms| now.saturating_sub(age_ms(now, ms));
        let (first, last) = rules.disturb(at(self.first_ms), at(self.last_ms), when);
        (self.first_ms, self.last_ms) = (first as u32, last as u32);
    }

    /// The master has said so many things about it without a rest that it is not followed for now.
    pub fn is_restless(&self) -> bool {
        self.turns > MASTER_TURNS
    }

    /// Nothing is held against anybody, nothing stands overruled, and the master has said no more
    /// than one thing since it last rested.
    pub(crate) fn is_calm(&self) -> bool {
        self.flags & (flag::NO_QUORUM | flag::OVERRULED) == 0 && self.dissent.is_empty() && self.turns <= 1
    }

    /// Whether it is steady without a majority.
    pub fn is_lost(&self) -> bool {
        self.flags & flag::NO_QUORUM != 0
    }

    /// Sets or clears a flag; whether it was set.
    pub(crate) fn set(&mut self, flag: u8, on: bool) -> bool {
        let was = self.flags & flag != 0;
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
        was
    }

    /// What stands overruled, if anything does: "nothing" may.
    pub fn overruled(&self) -> Option<V> {
        (self.flags & flag::OVERRULED != 0).then_some(self.overruled)
    }
}

impl<K: Copy, V: Copy + Default> Entry<K, V> {
    /// A key of which this is known, with what each of so many instances says.
    pub fn at_rest(key: K, rest: &Rest<V>, columns: usize, now_ms: Millis, rules: &Rules) -> (Entry<K, V>, Vec<V>) {
        let then = (now_ms as u32).wrapping_sub(rules.steady_ms as u32);
        let entry = Entry {
            flags: flag::COUNTED | flag::ROUSED,
            stale: rest.stale,
            winner: rest.value,
            published: rest.value,
            ..Entry::new(key, then)
        };
        let said = |i| if rest.who.contains(i as u8) { rest.value } else { V::default() };
        (entry, (0..columns).map(said).collect())
    }

    fn new(key: K, at_ms: u32) -> Entry<K, V> {
        Entry {
            key,
            flags: 0,
            turns: 0,
            dissent: Members::default(),
            stale: Members::default(),
            winner: V::default(),
            published: V::default(),
            overruled: V::default(),
            first_ms: at_ms,
            last_ms: at_ms,
        }
    }
}

/// How long ago `then` was. Times wrap after 49 days; an entry that old may then look fresh, which
/// only delays a verdict by T.
pub fn age_ms(now_ms: u64, then: u32) -> u64 {
    u64::from((now_ms as u32).wrapping_sub(then))
}

/// See the module's comment.
pub struct Ballots<K, V> {
    id: u32,
    columns: usize,
    /// Seeded: strangers may choose the keys, and nothing ever depends on the order of hashes.
    hasher: RandomState,
    entries: Slots<Entry<K, V>>,
    candidates: Vec<V>,
    /// Slots whose winner is to be told.
    changed: Vec<u32>,
    /// Keys with a winner.
    chosen: usize,
    /// Where a walk goes on.
    walk_at: Option<u32>,
    /// An electorate changed again while a walk was under way: one more round.
    walk_again: bool,
}

impl<K: Copy + Eq + Hash, V: Copy + Eq + Default> Ballots<K, V> {
    /// An empty table for `columns` instances; `id` names it in the queue of rechecks.
    pub fn new(id: u32, columns: usize) -> Ballots<K, V> {
        Ballots {
            id,
            columns,
            hasher: RandomState::default(),
            entries: Slots::default(),
            candidates: Vec::new(),
            changed: Vec::new(),
            chosen: 0,
            walk_at: None,
            walk_again: false,
        }
    }

    /// Keys in use.
    pub fn keys(&self) -> usize {
        self.entries.taken()
    }

    /// Keys with a winner.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// Octets it takes, without the list of changes.
    pub fn memory_bytes(&self) -> usize {
        self.entries.memory_bytes() + self.candidates.capacity() * size_of::<V>()
    }

    /// Slots, in use or not; what a walk over all keys counts to.
    pub fn slots(&self) -> u32 {
        self.entries.slots() as u32
    }

    /// The slot of a key.
    pub fn find(&self, key: &K) -> Option<u32> {
        self.entries.find(self.hasher.hash_one(key), |e| e.key == *key)
    }

    /// A slot for a key that has none.
    pub fn add(&mut self, key: K, now_ms: u64) -> u32 {
        debug_assert!(self.find(&key).is_none(), "a key has one slot");
        self.insert(Entry::new(key, now_ms as u32))
    }

    fn insert(&mut self, entry: Entry<K, V>) -> u32 {
        let slot = self.entries.insert(entry, |e| self.hasher.hash_one(e.key));
        // One that was free has its candidates, which say nothing.
        let more = self.entries.slots() * self.columns - self.candidates.len();
        make_room(&mut self.candidates, more);
        self.candidates.extend(std::iter::repeat_n(V::default(), more));
        slot
    }

    /// A slot for a key that was at rest.
    pub fn rouse(&mut self, key: K, rest: &Rest<V>, now_ms: Millis, rules: &Rules) -> u32 {
        debug_assert!(self.find(&key).is_none(), "a key has one slot");
        let (entry, said) = Entry::at_rest(key, rest, self.columns, now_ms, rules);
        let slot = self.insert(entry);
        self.candidates_mut(slot).copy_from_slice(&said);
        self.chosen += 1;
        slot
    }

    /// What is known of the key at `slot`, where nothing is left to be decided about it, whoever of
    /// `all` votes: they say what was chosen, or said it before they were gone, and nobody says anything else; it has
    /// been told; and nothing hangs on it.
    pub fn at_rest(&self, slot: u32, all: Members) -> Option<(K, Rest<V>)> {
        let e = self.entry(slot).filter(|e| e.is_calm() && e.flags & (flag::DIRTY | flag::RESEND) == 0)?;
        if e.flags & flag::ROUSED != 0 && e.flags & flag::QUEUED != 0 {
            return None;
        }
        let who = self.agreed(slot, e.winner, all).filter(|_| e.winner == e.published)?;
        Some((e.key, Rest { value: e.winner, who, stale: e.stale }))
    }

    /// Who says `value`, stale or not, where it is not nothing, all of `all` do, and nobody says
    /// anything else.
    pub(crate) fn agreed(&self, slot: u32, value: V, all: Members) -> Option<Members> {
        let none = V::default();
        let mut who = Members::EMPTY;
        for (i, said) in self.candidates(slot).iter().enumerate() {
            if *said == value {
                who.insert(i as u8);
            } else if *said != none {
                return None;
            }
        }
        (value != none && !who.is_empty() && all.minus(who).is_empty()).then_some(who)
    }

    /// Takes a key out whose state [`Ballots::at_rest`] gave. All references it had are the
    /// caller's to release: to what was chosen, to what was told, and of everybody who says it.
    pub fn lay_down(&mut self, slot: u32) {
        self.candidates_mut(slot).fill(V::default());
        self.entries.remove(slot, |e| self.hasher.hash_one(e.key));
        self.chosen = self.chosen.saturating_sub(1);
        if self.entries.taken() == 0 && self.entries.slots() > MAX_KEPT {
            // A table's worth of slots that nobody needs any more.
            (self.entries, self.candidates) = (Slots::default(), Vec::new());
        }
    }

    /// The keys in use, with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Entry<K, V>)> {
        self.entries.iter()
    }

    /// The entry at a slot; `None` past the end or where the slot is free.
    pub fn entry(&self, slot: u32) -> Option<&Entry<K, V>> {
        self.entries.get(slot)
    }

    /// The entry at a slot, to change.
    pub(crate) fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry<K, V>> {
        self.entries.get_mut(slot)
    }

    /// What every instance says about the key at `slot`.
    pub fn candidates(&self, slot: u32) -> &[V] {
        let at = slot as usize * self.columns;
        self.candidates.get(at..at + self.columns).unwrap_or_default()
    }

    /// What every instance says about the key at `slot`, to change.
    pub(crate) fn candidates_mut(&mut self, slot: u32) -> &mut [V] {
        let at = slot as usize * self.columns;
        self.candidates.get_mut(at..at + self.columns).unwrap_or_default()
    }

    /// Instance `i` is no more: it says nothing, and nothing is held against it. Tells `gone`, key
    /// by key, the slot, what is to be released, and whether `i` was marked.
    pub fn forget(&mut self, i: usize, mut gone: impl FnMut(u32, V, bool)) {
        for slot in 0..self.slots() {
            let Some(e) = self.entry_mut(slot) else { continue };
            let marked = e.dissent.contains(i as u8);
            e.dissent.remove(i as u8);
            gone(slot, self.silence(slot, i), marked);
            self.tidy(slot);
        }
    }

    /// What instance `i` says now counts as stale until it is said again; if `silent`, that it says
    /// nothing, too.
    pub fn mark_stale(&mut self, i: usize, silent: bool) {
        for slot in 0..self.slots() {
            let speaks = self.candidates(slot).get(i).is_some_and(|said| *said != V::default());
            if let Some(e) = self.entry_mut(slot).filter(|_| speaks || silent) {
                e.stale.insert(i as u8);
            }
        }
    }

    /// What instance `i` said before it was gone, and has not said again, it says no more; it goes
    /// to `release`.
    pub fn forget_stale(&mut self, i: usize, mut release: impl FnMut(V)) {
        for slot in 0..self.slots() {
            if let Some(said) = self.forget_stale_at(slot, i) {
                release(said);
                self.tidy(slot);
            }
        }
    }

    /// The same of one key, which stays. What it said.
    pub fn forget_stale_at(&mut self, slot: u32, i: usize) -> Option<V> {
        let stale = self.entry(slot).is_some_and(|e| e.stale.contains(i as u8));
        stale.then(|| self.silence(slot, i))
    }

    fn silence(&mut self, slot: u32, i: usize) -> V {
        if let Some(e) = self.entry_mut(slot) {
            e.stale.remove(i as u8);
            e.flags &= !flag::COUNTED;
        }
        self.candidates_mut(slot).get_mut(i).map(std::mem::take).unwrap_or_default()
    }

    /// Whether nobody says anything about the key at `slot`, and nothing was chosen.
    pub fn is_void(&self, slot: u32) -> bool {
        let none = V::default();
        self.entry(slot).is_none_or(|e| e.winner == none) && self.candidates(slot).iter().all(|said| *said == none)
    }

    /// The winner at `slot`, which was `was`, joins the list of changes where it is not what was
    /// told.
    pub(crate) fn note_change(&mut self, slot: u32, was: V) {
        let Some(e) = self.entry_mut(slot) else { return };
        let (winner, differs) = (e.winner, e.winner != e.published);
        if differs && !e.set(flag::DIRTY, true) {
            self.changed.push(slot);
        }
        let is = |value| usize::from(value != V::default());
        self.chosen = (self.chosen + is(winner)).saturating_sub(is(was));
    }

    /// What was told about the key at `slot` is to be told again.
    pub fn resend(&mut self, slot: u32) {
        let Some(e) = self.entry_mut(slot) else { return };
        e.flags |= flag::RESEND;
        if !e.set(flag::DIRTY, true) {
            self.changed.push(slot);
        }
    }

    /// Takes at most so many keys off the list of changes, and returns how many; what is to be told
    /// of them goes to `told`: winner and slot.
    pub fn take_changed(&mut self, most: usize, told: &mut Vec<(V, u32)>) -> usize {
        let batch = self.changed.len().min(most);
        let mut changed = std::mem::take(&mut self.changed);
        for slot in changed.drain(..batch) {
            let Some(e) = self.entry_mut(slot) else { continue };
            let same = e.winner == e.published && e.flags & flag::RESEND == 0;
            e.flags &= !(flag::DIRTY | flag::RESEND);
            match same {
                true => self.tidy(slot),
                false => told.push((e.winner, slot)),
            }
        }
        if changed.is_empty() {
            changed.shrink_to(MAX_KEPT);
        }
        self.changed = changed;
        batch
    }

    /// This was told about the key at `slot`. What was before is the caller's to release.
    pub fn told(&mut self, slot: u32, value: V) -> V {
        self.entry_mut(slot).map(|e| std::mem::replace(&mut e.published, value)).unwrap_or(value)
    }

    /// What everybody says about the key at `slot` is counted, once until somebody says something
    /// else; whether it had been.
    pub fn count(&mut self, slot: u32) -> bool {
        self.entry_mut(slot).is_none_or(|e| e.set(flag::COUNTED, true))
    }

    /// Keys on the list of changes.
    pub fn changes(&self) -> usize {
        self.changed.len()
    }

    /// Octets that the list of changes takes.
    pub fn changes_bytes(&self) -> usize {
        self.changed.capacity() * size_of::<u32>()
    }

    /// The key at `slot` is to be looked at then, unless it stands in the queue already.
    pub fn recheck_at(&mut self, slot: u32, at: Millis, rechecks: &mut Rechecks) {
        if self.entry_mut(slot).is_some_and(|e| !e.set(flag::QUEUED, true)) {
            rechecks.push(at, (self.id, slot));
        }
    }

    /// An electorate changed: every key is voted on anew, in slices ([`crate::walk`]).
    pub fn start_walk(&mut self) {
        match self.walk_at {
            Some(_) => self.walk_again = true,
            None if self.keys() > 0 => self.walk_at = Some(0),
            None => {}
        }
    }

    /// The same from the first key on, wherever a walk was.
    pub fn walk_anew(&mut self) {
        self.walk_at = Some(0);
    }

    /// Whether a walk is under way.
    pub fn is_walking(&self) -> bool {
        self.walk_at.is_some()
    }

    /// The next slots of the walk, at most so many.
    pub(crate) fn slice(&mut self, most: u32) -> Range<u32> {
        let Some(at) = self.walk_at else { return 0..0 };
        let end = self.slots().min(at.saturating_add(most));
        let over = end >= self.slots();
        self.walk_at = if over { std::mem::take(&mut self.walk_again).then_some(0) } else { Some(end) };
        at..end
    }

    /// Makes room for as many instances; those there are keep their columns, and there are never
    /// fewer than there were.
    pub fn widen(&mut self, columns: usize) {
        if columns <= self.columns {
            return;
        }
        let mut wide = Vec::with_capacity(self.entries.slots() * columns);
        for said in self.candidates.chunks(self.columns.max(1)) {
            wide.extend_from_slice(said);
            wide.extend(std::iter::repeat_n(V::default(), columns - said.len()));
        }
        wide.resize(self.entries.slots() * columns, V::default());
        (self.candidates, self.columns) = (wide, columns);
    }

    /// Gives the slot back when nobody says anything about its key, nothing has been told, and
    /// nothing hangs on it.
    pub fn tidy(&mut self, slot: u32) {
        let Some(e) = self.entry(slot) else { return };
        let busy = flag::DIRTY | flag::QUEUED | flag::NO_QUORUM | flag::OVERRULED;
        if e.flags & busy != 0 || e.published != V::default() || !e.dissent.is_empty() || !self.is_void(slot) {
            return;
        }
        self.entries.remove(slot, |e| self.hasher.hash_one(e.key));
    }

    /// Empties the table; every id it held goes to `release`.
    pub fn clear(&mut self, mut release: impl FnMut(V)) {
        for (_, e) in self.iter() {
            release(e.winner);
            release(e.published);
            e.overruled().map(&mut release);
        }
        self.candidates.iter().for_each(|c| release(*c));
        *self = Ballots::new(self.id, self.columns);
    }
}
