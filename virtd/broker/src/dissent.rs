//! Since when one instance has not been with the majority, key by key: what a verdict on it rests
//! on.
//!
//! Only dissents that stand now are kept, outside the tables: an entry, of which there are as many
//! as prefixes, has no room for the times of up to 31 instances, and nearly none needs one.

use super::env::Env;
use crate::event::{Event, Said, Severity};
use ballots::Marks;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use replay::intern::BlobId;
use std::fmt::Display;
use voter::{Members, Millis};
use wire::bgp::Prefix;

/// A key: the index of its session (or [`FIB`]), and its slot in that one's table.
pub type Key = (u32, u32);

/// In place of a session's index: the key is one of the FIB's.
pub const FIB: u32 = u32::MAX;

/// So many dissents have a time of their own. Those that begin while so many stand have one for
/// all, the last one's: they may be taken for younger than they are, never for older.
const MAX_DATED: usize = 1 << 13;

/// What one instance stands accused of. `default()` is a clean record.
#[derive(Clone, Default, Debug)]
pub struct Account {
    dated: HashMap<Key, (Millis, Prefix), RandomState>,
    /// On how many of those keys each prefix is: an instance that is wrong about one prefix tells
    /// all neighbours so.
    prefixes: HashMap<Prefix, u32, RandomState>,
    others: u32,
    /// When the last of the others began.
    others_begun: Millis,
}

impl Account {
    /// The instance dissents on one more key, which is about `prefix`.
    pub fn begin(&mut self, key: Key, prefix: Prefix, now: Millis) {
        if self.dated.len() < MAX_DATED {
            self.dated.insert(key, (now, prefix));
            *self.prefixes.entry(prefix).or_default() += 1;
        } else {
            self.others = self.others.saturating_add(1);
            self.others_begun = now;
        }
    }

    /// The instance is back with the majority, or out of the comparison, on one key. Since when it
    /// was not, where that is known.
    pub fn end(&mut self, key: Key) -> Option<Millis> {
        let dated = self.dated.remove(&key);
        match dated {
            Some((_, prefix)) => self.forget_prefix(prefix),
            None => self.others = self.others.saturating_sub(1),
        }
        if self.dated.is_empty() && self.dated.capacity() > MAX_DATED / 8 {
            (self.dated, self.prefixes) = (HashMap::default(), HashMap::default());
        }
        dated.map(|(begun, _)| begun)
    }

    fn forget_prefix(&mut self, prefix: Prefix) {
        if let Some(keys) = self.prefixes.get_mut(&prefix) {
            *keys -= 1;
            if *keys == 0 {
                self.prefixes.remove(&prefix);
            }
        }
    }

    /// What stands against it counts from `now`: an operator had the rules changed meanwhile.
    pub fn restart(&mut self, now: Millis) {
        self.dated.values_mut().for_each(|(begun, _)| *begun = now);
        self.others_begun = now;
    }

    /// On how many keys it dissents now.
    pub fn keys(&self) -> u32 {
        (self.dated.len() as u32).saturating_add(self.others)
    }

    /// On how many prefixes it dissents now, where `tables` tables have one key each for a prefix;
    /// at least so many, where not every dissent has a time of its own.
    pub fn prefixes(&self, tables: usize) -> u32 {
        let most = u32::try_from(tables.max(1)).unwrap_or(u32::MAX);
        (self.prefixes.len() as u32).max(self.keys().div_ceil(most))
    }

    /// When each of the dissents that stand began, key by key, in no order.
    pub fn begun(&self) -> impl Iterator<Item = Millis> {
        let dated = self.dated.values().map(|(begun, _)| *begun);
        dated.chain(std::iter::repeat_n(self.others_begun, self.others as usize))
    }

    /// Since when it has dissented on each prefix, in no order; see [`Account::prefixes`]. Unlike
    /// [`Account::begun`], this takes memory.
    pub fn begun_by_prefix(&self, tables: usize) -> impl Iterator<Item = Millis> {
        let mut oldest: HashMap<Prefix, Millis, RandomState> = HashMap::default();
        for (begun, prefix) in self.dated.values() {
            let at = oldest.entry(*prefix).or_insert(*begun);
            *at = (*at).min(*begun);
        }
        let others = self.prefixes(tables).saturating_sub(oldest.len() as u32);
        oldest.into_values().chain(std::iter::repeat_n(self.others_begun, others as usize))
    }

    /// The dissents that have a time of their own: their keys, and what these are about.
    pub fn dated(&self) -> impl Iterator<Item = (Key, Prefix)> {
        self.dated.iter().map(|(key, (_, prefix))| (*key, *prefix))
    }

    /// On how many keys more it dissents.
    pub fn undated(&self) -> u32 {
        self.others
    }

    /// The prefixes on which it has dissented for the longest, at most `n`, each with the key that
    /// shows it best, and since when.
    pub fn oldest(&self, n: usize) -> Vec<(Key, Prefix, Millis)> {
        let mut all: Vec<_> = self.dated.iter().map(|(key, (begun, prefix))| (*key, *prefix, *begun)).collect();
        all.sort_unstable_by_key(|(key, _, begun)| (*begun, *key));
        let mut named: HashSet<Prefix, RandomState> = HashSet::default();
        all.into_iter().filter(|(_, prefix, _)| named.insert(*prefix)).take(n).collect()
    }
}

/// How a table tells a change of marks.
pub struct Words<'a> {
    /// Its events: without a majority, somebody is marked, somebody or the key is marked no more.
    pub kinds: [&'static str; 3],
    /// What becomes of a key without a majority.
    pub stays: &'a str,
    /// Where the majority's route is.
    pub place: &'a str,
    /// Nobody says anything about the key, and nothing was chosen.
    pub is_void: bool,
}

impl Env {
    /// Books a change of the marks on one key, which is about `prefix`: each that is new stands
    /// accused of `why`. Whether it is told in words.
    pub fn mark(&mut self, key: Key, prefix: Prefix, marks: &Marks, why: impl Fn() -> String) -> bool {
        let now = self.now_ms();
        for i in marks.newly().iter() {
            if let Some(s) = self.instances.get_mut(usize::from(i)) {
                s.account.begin(key, prefix, now);
                s.dissents_total += 1;
                s.last_fault = Some(why());
            }
            self.counters.dissents += 1;
        }
        for i in marks.cleared().iter() {
            self.acquit(i, key);
        }
        let (was_lost, lost) = (u32::from(marks.was_lost), u32::from(marks.lost));
        self.without_quorum = (self.without_quorum + lost).saturating_sub(was_lost);
        self.may_tell()
    }

    /// Nothing stands against instance `i` on one key any more.
    pub fn acquit(&mut self, i: u8, key: Key) {
        if let Some(s) = self.instances.get_mut(usize::from(i)) {
            s.account.end(key);
        }
    }

    /// The event that tells it of a key `on` which it is, without what everybody says.
    pub fn verdict(&self, words: &Words<'_>, on: impl Display, prefix: Prefix, marks: &Marks) -> Event {
        let (newly, back) = (self.names(marks.newly()), self.names(marks.cleared()));
        let [no_quorum, disagreement, agreement] = words.kinds;
        let (kind, severity, text) = if marks.lost && !marks.was_lost {
            (no_quorum, Severity::Alarm, format!("no majority on {on}: {}", words.stays))
        } else if !newly.is_empty() {
            let text = format!("{newly} is not with the majority on {on}; the majority's route is {}", words.place);
            (disagreement, Severity::Warning, text)
        } else {
            let counted = marks.terms.electorate.union(marks.terms.watched);
            let text = match (back.is_empty(), marks.cleared().intersect(counted).is_empty()) {
                (true, _) if words.is_void => format!("nobody says anything about {on} any more"),
                (true, _) => format!("a majority stands again on {on}"),
                (false, true) => format!("{back} is not compared on {on} any more"),
                (false, false) => format!("{back} is with the majority again on {on}"),
            };
            (agreement, Severity::Info, text)
        };
        let mut event = Event::new(self.now, kind, severity, text);
        event.prefix = Some(prefix);
        // What they say they have said since the key was last disturbed.
        event.since_us = (severity > Severity::Info).then_some(self.now.saturating_sub(marks.age * 1000));
        let single = marks.newly().union(marks.cleared());
        event.instance = (single.len() == 1).then(|| self.names(single));
        event
    }

    /// What every instance says about a key, in words; of those not in the electorate, `why` not.
    pub fn said(
        &self,
        said: &[BlobId],
        electorate: Members,
        words: impl Fn(BlobId) -> String,
        why: impl Fn(usize) -> &'static str,
    ) -> Vec<Said> {
        let taken = said.iter().enumerate().filter(|(i, _)| !self.is_vacant(*i));
        let all = taken.map(|(i, id)| {
            let counted = electorate.contains(i as u8);
            let route = if counted { words(*id) } else { format!("{} ({})", words(*id), why(i)) };
            Said { instance: self.name(i).to_owned(), route, counted }
        });
        all.collect()
    }

    fn names(&self, members: Members) -> String {
        members.iter().map(|i| self.name(usize::from(i))).collect::<Vec<_>>().join(", ")
    }

    /// Tables that have a key for each prefix: one of each session, and the FIB.
    pub fn tables(&self) -> usize {
        self.heard.sessions() + 1
    }

    /// On how many prefixes instance `i` is not with the majority now.
    pub fn wrong_prefixes(&self, i: usize) -> u32 {
        self.instances.get(i).map_or(0, |s| s.account.prefixes(self.tables()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u32) -> Prefix {
        Prefix::new(std::net::Ipv4Addr::from(n << 8).into(), 24).expect("a prefix")
    }

    #[test]
    fn each_dissent_has_its_own_time() {
        let mut account = Account::default();
        account.begin((0, 7), prefix(1), 1_000);
        account.begin((1, 7), prefix(1), 2_000);
        assert_eq!(account.end((0, 7)), Some(1_000));
        account.begin((0, 7), prefix(1), 3_000);
        let oldest = vec![((1, 7), prefix(1), 2_000)];
        assert_eq!((account.keys(), account.oldest(9)), (2, oldest));
        account.restart(5_000);
        assert!(account.begun().eq([5_000, 5_000]));
        account.end((0, 7));
        account.end((1, 7));
        account.end((1, 7));
        assert_eq!(account.keys(), 0);
    }

    #[test]
    fn a_prefix_counts_once_however_many_neighbours_are_told_it() {
        let mut account = Account::default();
        for session in 0..10 {
            account.begin((session, 1), prefix(1), 1_000 + u64::from(session));
            account.begin((session, 2), prefix(2), 9_000 - u64::from(session));
        }
        account.begin((FIB, 3), prefix(2), 100);
        assert_eq!((account.keys(), account.prefixes(11)), (21, 2));
        let mut begun: Vec<Millis> = account.begun_by_prefix(11).collect();
        begun.sort_unstable();
        assert_eq!(begun, [100, 1_000]);
        (0..10).for_each(|session| _ = account.end((session, 2)));
        assert_eq!((account.keys(), account.prefixes(11)), (11, 2), "it is still wrong in the FIB");
        account.end((FIB, 3));
        assert_eq!((account.keys(), account.prefixes(11)), (10, 1));
    }

    #[test]
    fn memory_is_bounded_and_nobody_is_made_older() {
        let mut account = Account::default();
        let many = MAX_DATED as u32;
        (0..2 * many).for_each(|slot| account.begin((0, slot), prefix(slot), Millis::from(slot)));
        assert_eq!((account.keys(), account.dated.len()), (2 * many, MAX_DATED));
        assert_eq!((account.prefixes(1), account.prefixes(2), account.prefixes(99)), (2 * many, many, many));
        assert_eq!(account.begun_by_prefix(1).count(), 2 * MAX_DATED);
        (0..many).for_each(|slot| assert_eq!(account.end((0, slot)).is_none(), slot >= many));
        assert_eq!((account.keys(), account.prefixes(1), account.prefixes(2)), (many, many, many / 2));
        assert!(account.begun().all(|begun| begun == Millis::from(2 * many - 1)));
        (many..2 * many).for_each(|slot| assert_eq!(account.end((0, slot)).is_none(), slot >= many));
        assert_eq!((account.keys(), account.begun().count(), account.dated.capacity()), (0, 0, 0));
        assert_eq!((account.prefixes(1), account.begun_by_prefix(1).count()), (0, 0));
    }
}
