//! A bit for each entry of a table, for the time that somebody wants to know which of them have not
//! come again.

/// Bits in one word.
const WORD: usize = u64::BITS as usize;

/// Places in a table that are marked. Takes no memory until some are.
#[derive(Debug, Default)]
pub(super) struct Marks {
    words: Vec<u64>,
}

impl Marks {
    /// The first `n` places, all of them.
    pub(super) fn of(n: usize) -> Marks {
        let mut words = vec![u64::MAX; n / WORD];
        if !n.is_multiple_of(WORD) {
            words.push((1 << (n % WORD)) - 1);
        }
        Marks { words }
    }

    /// The entry at `at` has come again.
    pub(super) fn remove(&mut self, at: usize) {
        if let Some(word) = self.words.get_mut(at / WORD) {
            *word &= !(1 << (at % WORD));
        }
    }

    /// The entry at `at` goes, and the last one, at `last`, takes its place.
    pub(super) fn swap_remove(&mut self, at: usize, last: usize) {
        if self.words.is_empty() {
            return;
        }
        let moves = at != last && self.has(last);
        self.remove(last);
        self.remove(at);
        // A place before a marked one has its word.
        if moves && let Some(word) = self.words.get_mut(at / WORD) {
            *word |= 1 << (at % WORD);
        }
    }

    fn has(&self, at: usize) -> bool {
        self.words.get(at / WORD).is_some_and(|word| word >> (at % WORD) & 1 == 1)
    }

    /// The marked places, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(n, word)| (0..WORD).filter(move |bit| word >> bit & 1 == 1).map(move |bit| n * WORD + bit))
    }

    /// Octets it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}
