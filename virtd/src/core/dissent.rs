//! Since when one instance has not been with the majority, key by key: what a verdict on it rests on.
//!
//! Only dissents that stand now are kept, outside the tables: an entry, of which there are as many as prefixes, has no room for the times
//! of up to 31 instances, and nearly none needs one.

use hashbrown::HashMap;
use voter::Millis;

/// A key: the index of its session (or [`FIB`]), and its slot in that one's table.
pub type Key = (u32, u32);

/// In place of a session's index: the key is one of the FIB's.
pub const FIB: u32 = u32::MAX;

/// So many dissents have a time of their own. Those that begin while so many stand have one for all, the last one's: they may be taken for
/// younger than they are, never for older.
const MAX_DATED: usize = 1 << 13;

/// What one instance stands accused of. `default()` is a clean record.
#[derive(Clone, Default, Debug)]
pub struct Account {
    dated: HashMap<Key, Millis, foldhash::fast::RandomState>,
    others: u32,
    /// When the last of the others began.
    others_begun: Millis,
}

impl Account {
    /// The instance dissents on one more key.
    pub fn begin(&mut self, key: Key, now: Millis) {
        if self.dated.len() < MAX_DATED {
            self.dated.insert(key, now);
        } else {
            self.others = self.others.saturating_add(1);
            self.others_begun = now;
        }
    }

    /// The instance is back with the majority, or out of the comparison, on one key. Since when it was not, where that is known.
    pub fn end(&mut self, key: Key) -> Option<Millis> {
        let begun = self.dated.remove(&key);
        if begun.is_none() {
            self.others = self.others.saturating_sub(1);
        }
        if self.dated.is_empty() && self.dated.capacity() > MAX_DATED / 8 {
            self.dated = HashMap::default();
        }
        begun
    }

    /// What stands against it counts from `now`: an operator had the rules changed meanwhile.
    pub fn restart(&mut self, now: Millis) {
        self.dated.values_mut().for_each(|begun| *begun = now);
        self.others_begun = now;
    }

    /// On how many keys it dissents now.
    pub fn keys(&self) -> u32 {
        (self.dated.len() as u32).saturating_add(self.others)
    }

    /// When each of the dissents that stand began, in no order.
    pub fn begun(&self) -> impl Iterator<Item = Millis> {
        self.dated.values().copied().chain(std::iter::repeat_n(self.others_begun, self.others as usize))
    }

    /// The keys on which it has dissented for the longest, at most `n`, and since when.
    pub fn oldest(&self, n: usize) -> Vec<(Key, Millis)> {
        let mut all: Vec<(Key, Millis)> = self.dated.iter().map(|(key, begun)| (*key, *begun)).collect();
        all.sort_unstable_by_key(|(key, begun)| (*begun, *key));
        all.truncate(n);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dissent_has_its_own_time() {
        let mut account = Account::default();
        account.begin((0, 7), 1_000);
        account.begin((1, 7), 2_000);
        assert_eq!(account.end((0, 7)), Some(1_000));
        account.begin((0, 7), 3_000);
        assert_eq!((account.keys(), account.oldest(9)), (2, vec![((1, 7), 2_000), ((0, 7), 3_000)]));
        account.restart(5_000);
        assert!(account.begun().eq([5_000, 5_000]));
        account.end((0, 7));
        account.end((1, 7));
        account.end((1, 7));
        assert_eq!(account.keys(), 0);
    }

    #[test]
    fn memory_is_bounded_and_nobody_is_made_older() {
        let mut account = Account::default();
        let many = MAX_DATED as u32;
        (0..2 * many).for_each(|slot| account.begin((0, slot), Millis::from(slot)));
        assert_eq!((account.keys(), account.dated.len()), (2 * many, MAX_DATED));
        (0..many).for_each(|slot| assert_eq!(account.end((0, slot)).is_none(), slot >= many));
        assert_eq!(account.keys(), many);
        assert!(account.begun().all(|begun| begun == Millis::from(2 * many - 1)));
        (many..2 * many).for_each(|slot| assert_eq!(account.end((0, slot)).is_none(), slot >= many));
        assert_eq!((account.keys(), account.begun().count(), account.dated.capacity()), (0, 0, 0));
    }
}
