//! Keys at rest, of many tables at once.
//!
//! Most keys are alike in most tables: everybody says the same of a prefix to every peer, and every
//! peer has been told it. Of such a key nothing is to be decided, whoever votes. It needs no entry
//! of its own ([`crate::Ballots`]): what is said of it is kept once for all tables ([`Rest`]), with
//! one bit a table. Found by what is said, not by what is configured, so a key is here exactly
//! while nothing differs; the first differing word takes it back into its table.
//!
//! ```text
//!  key ──▶ row ──▶ record: value, who says it, who has not repeated it │ bits: one a table
//!                    └──▶ record: another value, ...                   │ bits
//! ```

use collections::{Slots, make_room};
use foldhash::fast::RandomState;
use std::hash::{BuildHasher, Hash};
use voter::Members;

/// The end of a row's records.
const END: u32 = u32::MAX;

/// What is known of a key at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest<V> {
    /// What was chosen and told.
    pub value: V,
    /// Who says it; the others say nothing. Everybody who votes or is compared is among them, or has
    /// come since and is among `stale`.
    pub who: Members,
    /// Who said it before he was gone, or has come since and has said nothing yet.
    pub stale: Members,
}

/// A key, and the first of its records.
#[derive(Debug)]
struct Row<K> {
    key: K,
    first: u32,
}

#[derive(Clone, Copy, Debug)]
struct Record<V> {
    rest: Rest<V>,
    /// In how many tables.
    tables: u32,
    /// The next of the same key, or [`END`].
    next: u32,
}

/// Of one table.
#[derive(Clone, Debug, Default)]
struct Tally {
    keys: usize,
    /// Keys on which an instance is stale, by instance.
    stale: Vec<usize>,
}

/// A set of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tables<'a>(&'a [u64]);

impl Tables<'_> {
    /// Their numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let of_word = |(at, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u32 * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(of_word)
    }
}

/// See the module's comment. Each record holds one reference to its value.
#[derive(Debug)]
pub struct Common<K, V> {
    hasher: RandomState,
    rows: Slots<Row<K>>,
    records: Vec<Record<V>>,
    free: Vec<u32>,
    /// `stride` words a record.
    bits: Vec<u64>,
    stride: usize,
    tallies: Vec<Tally>,
}

impl<K, V> Default for Common<K, V> {
    fn default() -> Common<K, V> {
        Common {
            hasher: RandomState::default(),
            rows: Slots::default(),
            records: Vec::new(),
            free: Vec::new(),
            bits: Vec::new(),
            stride: 1,
            tallies: Vec::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V: Copy + Eq> Common<K, V> {
    /// Keys of a table that rest here.
    pub fn keys(&self, table: u32) -> usize {
        self.tallies.get(table as usize).map_or(0, |t| t.keys)
    }

    /// Of them, those on which instance `i` is stale.
    pub fn stale(&self, table: u32, i: usize) -> usize {
        self.tallies.get(table as usize).and_then(|t| t.stale.get(i)).copied().unwrap_or(0)
    }

    /// Octets it takes.
    pub fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes() + self.records.capacity() * size_of::<Record<V>>() + self.bits.capacity() * 8
    }

    /// What is known of `key` in a table, if it rests.
    pub fn find(&self, table: u32, key: &K) -> Option<Rest<V>> {
        let (_, at) = self.place(table, key)?;
        self.records.get(at as usize).map(|r| r.rest)
    }

    /// Whether it rests in any table.
    pub fn has(&self, key: &K) -> bool {
        self.row(key).is_some()
    }

    /// The keys of a table, with what is known of them.
    pub fn iter(&self, table: u32) -> impl Iterator<Item = (K, Rest<V>)> + '_ {
        let of_row = move |row: &Row<K>| Some((row.key, self.records.get(self.record_of(table, row)? as usize)?.rest));
        self.rows.iter().filter_map(move |(_, row)| of_row(row))
    }

    /// Tells `tell` of every key and each of its values in which tables it rests.
    pub fn each(&self, mut tell: impl FnMut(&K, V, &Tables<'_>)) {
        for (_, row) in self.rows.iter() {
            let mut at = row.first;
            while let Some(record) = self.records.get(at as usize) {
                let from = at as usize * self.stride;
                tell(&row.key, record.rest.value, &Tables(self.bits.get(from..from + self.stride).unwrap_or_default()));
                at = record.next;
            }
        }
    }

    /// The key of this number, if it rests in the table: numbers are below [`Common::numbers`], and
    /// a key keeps its own while it rests in any.
    pub fn numbered(&self, table: u32, number: u32) -> Option<K> {
        let row = self.rows.get(number)?;
        self.record_of(table, row).map(|_| row.key)
    }

    /// See [`Common::numbered`].
    pub fn numbers(&self) -> u32 {
        self.rows.slots() as u32
    }

    /// `key`, which does not rest in the table, rests there from now on. True where one reference
    /// more to its value is held.
    pub fn put(&mut self, table: u32, key: K, rest: Rest<V>) -> bool {
        self.open(table);
        let number = match self.row(&key) {
            Some(number) => number,
            None => self.rows.insert(Row { key, first: END }, |row| self.hasher.hash_one(row.key)),
        };
        self.count(table, rest.stale, true);
        self.join(table, number, rest)
    }

    /// `key` rests no more in the table. What was known of it, and whether one reference less to its
    /// value is held.
    pub fn take(&mut self, table: u32, key: &K) -> Option<(Rest<V>, bool)> {
        let (number, at) = self.place(table, key)?;
        let taken = self.leave(table, number, at);
        self.count(table, taken.0.stale, false);
        self.drop_if_empty(number);
        Some(taken)
    }

    /// Instance `i` has said of `key` what rests there. False where that is not so.
    pub fn said_again(&mut self, table: u32, key: &K, i: usize, value: V, changed: impl FnMut(V, bool)) -> bool {
        let Some((number, at)) = self.place(table, key) else { return false };
        let Some(record) = self.records.get(at as usize).filter(|r| r.rest.value == value) else { return false };
        let mut rest = record.rest;
        let known = rest.who.contains(i as u8);
        if rest.stale.contains(i as u8) || !known {
            self.count(table, rest.stale, false);
            rest.stale.remove(i as u8);
            rest.who.insert(i as u8);
            self.count(table, rest.stale, true);
            self.change(table, number, at, rest, changed);
        }
        true
    }

    /// From now on instance `i` is stale on every key of the table.
    pub fn mark_stale(&mut self, table: u32, i: usize, mut changed: impl FnMut(V, bool)) {
        for number in 0..self.numbers() {
            let Some(at) = self.rows.get(number).and_then(|row| self.record_of(table, row)) else { continue };
            let Some(mut rest) = self.records.get(at as usize).map(|r| r.rest) else { continue };
            if !rest.stale.contains(i as u8) {
                rest.stale.insert(i as u8);
                self.change(table, number, at, rest, &mut changed);
            }
        }
        if let Some(tally) = self.tallies.get_mut(table as usize).filter(|t| t.keys > 0) {
            if tally.stale.len() <= i {
                tally.stale.resize(i + 1, 0);
            }
            tally.stale[i] = tally.keys;
        }
    }

    /// The keys of the table on which instance `i` is stale, with their numbers ([`Common::numbered`]),
    /// from number `from` on.
    pub fn stale_keys(&self, table: u32, i: usize, from: u32) -> impl Iterator<Item = (u32, K)> + '_ {
        let numbers = if self.stale(table, i) == 0 { 0 } else { self.numbers() };
        (from..numbers).filter_map(move |number| {
            let row = self.rows.get(number)?;
            let rest = self.records.get(self.record_of(table, row)? as usize)?.rest;
            rest.stale.contains(i as u8).then_some((number, row.key))
        })
    }

    /// Instance `i` is no more. The keys of the table that nobody else has a word on; of the others
    /// it says nothing.
    pub fn forget(&mut self, table: u32, i: usize, mut changed: impl FnMut(V, bool)) -> Vec<K> {
        let mut alone = Vec::new();
        for number in 0..self.numbers() {
            let Some(row) = self.rows.get(number) else { continue };
            let key = row.key;
            let Some(at) = self.record_of(table, row) else { continue };
            let Some(mut rest) = self.records.get(at as usize).map(|r| r.rest) else { continue };
            self.count(table, rest.stale, false);
            rest.stale.remove(i as u8);
            rest.who.remove(i as u8);
            self.count(table, rest.stale, true);
            self.change(table, number, at, rest, &mut changed);
            if rest.who.is_empty() {
                alone.push(key);
            }
        }
        alone
    }

    /// No key of the table rests any more. `gone` is told each value to which one reference less is
    /// held.
    pub fn clear(&mut self, table: u32, mut gone: impl FnMut(V)) {
        if self.keys(table) == 0 {
            return;
        }
        for number in 0..self.numbers() {
            let Some(at) = self.rows.get(number).and_then(|row| self.record_of(table, row)) else { continue };
            let (rest, last) = self.leave(table, number, at);
            if last {
                gone(rest.value);
            }
            self.drop_if_empty(number);
        }
        if let Some(tally) = self.tallies.get_mut(table as usize) {
            *tally = Tally::default();
        }
    }

    /// There is a table of this number.
    fn open(&mut self, table: u32) {
        let table = table as usize;
        if self.tallies.len() <= table {
            self.tallies.resize(table + 1, Tally::default());
        }
        let stride = table / 64 + 1;
        if stride <= self.stride {
            return;
        }
        // Several at once: peers that may be any come one by one.
        let stride = stride.max(self.stride + self.stride / 4);
        let mut wide = Vec::with_capacity(self.records.len() * stride);
        for words in self.bits.chunks(self.stride) {
            wide.extend_from_slice(words);
            wide.extend(std::iter::repeat_n(0, stride - words.len()));
        }
        (self.bits, self.stride) = (wide, stride);
    }

    fn row(&self, key: &K) -> Option<u32> {
        self.rows.find(self.hasher.hash_one(key), |row| row.key == *key)
    }

    /// The record of a row that has the table.
    fn record_of(&self, table: u32, row: &Row<K>) -> Option<u32> {
        let (word, bit) = (table as usize / 64, 1u64 << (table % 64));
        if word >= self.stride {
            return None;
        }
        let mut at = row.first;
        while let Some(record) = self.records.get(at as usize) {
            if self.bits.get(at as usize * self.stride + word).is_some_and(|bits| bits & bit != 0) {
                return Some(at);
            }
            at = record.next;
        }
        None
    }

    fn place(&self, table: u32, key: &K) -> Option<(u32, u32)> {
        let number = self.row(key)?;
        Some((number, self.record_of(table, self.rows.get(number)?)?))
    }

    fn bit(&mut self, table: u32, at: u32, on: bool) {
        let bit = 1u64 << (table % 64);
        if let Some(word) = self.bits.get_mut(at as usize * self.stride + table as usize / 64) {
            *word = if on { *word | bit } else { *word & !bit };
        }
    }

    fn count(&mut self, table: u32, stale: Members, more: bool) {
        let Some(tally) = self.tallies.get_mut(table as usize) else { return };
        let add = |n: &mut usize| *n = if more { *n + 1 } else { n.saturating_sub(1) };
        for i in stale.iter().map(usize::from) {
            if tally.stale.len() <= i {
                tally.stale.resize(i + 1, 0);
            }
            add(&mut tally.stale[i]);
        }
    }

    /// The table joins those of a record, or gets one: then true.
    fn join(&mut self, table: u32, number: u32, rest: Rest<V>) -> bool {
        let first = self.rows.get(number).map_or(END, |row| row.first);
        let mut at = first;
        while let Some(record) = self.records.get_mut(at as usize) {
            if record.rest == rest {
                record.tables += 1;
                break;
            }
            at = record.next;
        }
        let new = self.records.get(at as usize).is_none();
        if new {
            let record = Record { rest, tables: 1, next: first };
            at = match self.free.pop() {
                Some(at) => {
                    self.records[at as usize] = record;
                    at
                }
                None => {
                    make_room(&mut self.records, 1);
                    self.records.push(record);
                    make_room(&mut self.bits, self.stride);
                    self.bits.extend(std::iter::repeat_n(0, self.stride));
                    u32::try_from(self.records.len() - 1).expect("fewer than 2^32 records")
                }
            };
            if let Some(row) = self.rows.get_mut(number) {
                row.first = at;
            }
        }
        self.bit(table, at, true);
        if let Some(tally) = self.tallies.get_mut(table as usize) {
            tally.keys += 1;
        }
        new
    }

    /// The table leaves a record; what it is, and whether it is no more.
    fn leave(&mut self, table: u32, number: u32, at: u32) -> (Rest<V>, bool) {
        self.bit(table, at, false);
        if let Some(tally) = self.tallies.get_mut(table as usize) {
            tally.keys = tally.keys.saturating_sub(1);
        }
        let record = &mut self.records[at as usize];
        record.tables = record.tables.saturating_sub(1);
        let (rest, next, last) = (record.rest, record.next, record.tables == 0);
        if last {
            self.unlink(number, at, next);
            self.free.push(at);
        }
        (rest, last)
    }

    fn unlink(&mut self, number: u32, at: u32, next: u32) {
        let Some(row) = self.rows.get_mut(number) else { return };
        if row.first == at {
            row.first = next;
            return;
        }
        let mut before = row.first;
        while let Some(record) = self.records.get_mut(before as usize) {
            if record.next == at {
                record.next = next;
                return;
            }
            before = record.next;
        }
    }

    /// The table's key is in another state; `changed` is told the values to which one reference more
    /// (true) or less is held.
    fn change(&mut self, table: u32, number: u32, at: u32, rest: Rest<V>, mut changed: impl FnMut(V, bool)) {
        let Some(record) = self.records.get_mut(at as usize).filter(|r| r.rest != rest) else { return };
        if record.tables == 1 {
            // No other table has it so: the record itself changes. It may then be like another,
            // which costs no more than a record.
            record.rest = rest;
            return;
        }
        if self.join(table, number, rest) {
            changed(rest.value, true);
        }
        let (was, last) = self.leave(table, number, at);
        if last {
            changed(was.value, false);
        }
    }

    fn drop_if_empty(&mut self, number: u32) {
        if self.rows.get(number).is_some_and(|row| row.first == END) {
            self.rows.remove(number, |row| self.hasher.hash_one(row.key));
        }
    }
}
