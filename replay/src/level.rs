//! Bringing a leg or a slow peer level (DESIGN decision 10): a set of prefixes still to be told, and the UPDATEs that tell them.
//!
//! What is queued is the prefix, never the message: however often a route changes while the reader is slow, it costs
//! one place in [`Todo`], and what is told at last is what then stands in the store.

use crate::intern::{BlobId, Interner};
use crate::store::Store;
use bytes::BytesMut;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use wire::bgp::encode::{announce_stored, withdraw};
use wire::bgp::{Prefix, UpdateContext};

/// A queue of prefixes, first in first out, each at most once. Its bound is the number of distinct prefixes pushed.
#[derive(Debug, Default)]
pub struct Todo {
    queue: VecDeque<Prefix>,
    /// Sequence number of the queue's front. A prefix's place in the queue is its number minus this one.
    first: u32,
    index: HashTable<u32>,
    hasher: RandomState,
}

impl Todo {
    /// An empty queue.
    pub fn new() -> Todo {
        Todo::default()
    }

    /// Appends `prefix`; `false` if it was there already.
    pub fn push(&mut self, prefix: Prefix) -> bool {
        let (queue, first, hasher) = (&mut self.queue, self.first, &self.hasher);
        let hash = hasher.hash_one(prefix);
        let same = |&n: &u32| queue.get(n.wrapping_sub(first) as usize) == Some(&prefix);
        if self.index.find(hash, same).is_some() {
            return false;
        }
        let number = first.wrapping_add(u32::try_from(queue.len()).expect("fewer than 2^32 prefixes"));
        queue.push_back(prefix);
        let rehash = |&n: &u32| queue.get(n.wrapping_sub(first) as usize).map_or(0, |p| hasher.hash_one(p));
        self.index.insert_unique(hash, number, rehash);
        true
    }

    /// Appends each of `prefixes` that is not there yet.
    pub fn extend(&mut self, prefixes: impl IntoIterator<Item = Prefix>) {
        for prefix in prefixes {
            self.push(prefix);
        }
    }

    /// Whether `prefix` is still to be told.
    pub fn contains(&self, prefix: &Prefix) -> bool {
        let same = |&n: &u32| self.queue.get(n.wrapping_sub(self.first) as usize) == Some(prefix);
        self.index.find(self.hasher.hash_one(prefix), same).is_some()
    }

    /// Moves up to `n` prefixes from the front to the end of `out`; returns how many.
    pub fn pop_batch(&mut self, n: usize, out: &mut Vec<Prefix>) -> usize {
        let n = n.min(self.queue.len());
        for _ in 0..n {
            let Some(prefix) = self.queue.pop_front() else {
                break;
            };
            let number = self.first;
            if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(prefix), |&other| other == number) {
                entry.remove();
            }
            self.first = self.first.wrapping_add(1);
            out.push(prefix);
        }
        n
    }

    /// Whether nothing is left to be told.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Number of prefixes still to be told.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Forgets everything and gives its memory back.
    pub fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.index = HashTable::new();
    }
}

/// Appends to `out` the UPDATEs that tell a neighbour the present state of `prefixes` in `store`: withdrawals for those
/// that are not there, announcements for the rest, packed by attributes. Sorts `prefixes` to that end.
///
/// Returns the number of prefixes whose attributes leave no room for them within `context.max_message_len`; those are
/// withdrawn, since a neighbour that is not told a route must not keep an older one.
pub fn replay(
    store: &Store,
    interner: &Interner,
    prefixes: &mut [Prefix],
    context: &UpdateContext,
    out: &mut BytesMut,
) -> usize {
    let id = |p: &Prefix| store.find(p).unwrap_or(BlobId::NONE);
    prefixes.sort_by_cached_key(|p| (id(p), *p));
    let mut left_out = 0;
    // NONE is the smallest id, so withdrawals come first: a neighbour near its prefix limit is relieved before it is burdened.
    for group in prefixes.chunk_by(|a, b| a.family() == b.family() && id(a) == id(b)) {
        let Some(first) = group.first() else { continue };
        let attributes = id(first);
        if attributes.is_none() {
            withdraw(group, context, out);
            continue;
        }
        let unsent = announce_stored(interner.bytes(attributes), group, context, out);
        if unsent > 0 {
            withdraw(group, context, out);
        }
        left_out += unsent;
    }
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn prefix(n: u8) -> Prefix {
        Prefix::new(IpAddr::V4(Ipv4Addr::new(10, n, 0, 0)), 16).expect("a prefix")
    }

    proptest! {
        #[test]
        fn todo_is_a_queue_without_repeats(first: u32, calls in prop::collection::vec((any::<bool>(), 0u8..30), 0..300)) {
            let mut todo = Todo { first, ..Todo::new() };
            let mut model: Vec<Prefix> = Vec::new();
            for (push, n) in calls {
                if push {
                    let new = !model.contains(&prefix(n));
                    prop_assert_eq!(todo.push(prefix(n)), new);
                    if new {
                        model.push(prefix(n));
                    }
                } else {
                    let mut out = Vec::new();
                    let count = todo.pop_batch(usize::from(n) / 4, &mut out);
                    prop_assert_eq!(count, out.len());
                    prop_assert_eq!(out, model.drain(..model.len().min(usize::from(n) / 4)).collect::<Vec<_>>());
                }
                prop_assert_eq!(todo.len(), model.len());
                for n in 0..30 {
                    prop_assert_eq!(todo.contains(&prefix(n)), model.contains(&prefix(n)));
                }
            }
            todo.clear();
            prop_assert!(todo.is_empty() && !todo.contains(&prefix(0)));
        }
    }
}
