//! Bringing a leg or a slow peer level (docs/DECISIONS.md, "Slow is not dead, and never blocks"): a
//! set of prefixes still to be told, and the UPDATEs that tell them.
//!
//! What is queued is the prefix, never the message: however often a route changes while the reader
//! is slow, it costs one place in [`Todo`], and what is told at last is what then stands in the
//! store.

use crate::intern::{BlobId, Interner};
use crate::store::Stores;
use bytes::BytesMut;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use wire::bgp::as2::narrow_stored;
use wire::bgp::encode::{announce_stored, withdraw};
use wire::bgp::{Prefix, UpdateContext};

/// A queue of prefixes, first in first out, each at most once. Its bound is the number of distinct
/// prefixes pushed.
#[derive(Debug, Default)]
pub struct Todo {
    queue: VecDeque<Prefix>,
    /// Sequence number of the queue's front. A prefix's place in the queue is its number minus this
    /// one.
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

    /// Octets it takes.
    pub fn memory_bytes(&self) -> usize {
        self.queue.capacity() * size_of::<Prefix>() + self.index.allocation_size()
    }

    /// Forgets everything and gives its memory back.
    pub fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.index = HashTable::new();
    }
}

/// Appends to `out` the UPDATEs that tell a neighbour what the peer of `session` says of `prefixes`:
/// withdrawals for those that are not there, announcements for the rest, packed by attributes.
/// Sorts `prefixes` to that end. `narrow`: the neighbour has no 4-octet AS numbers, and the stored
/// routes have them (RFC 6793 section 4.2.2).
///
/// Returns the number of prefixes whose attributes leave no room for them within
/// `context.max_message_len`; those are withdrawn, since a neighbour that is not told a route must
/// not keep an older one.
pub fn replay(
    (stores, session): (&Stores, usize),
    interner: &Interner,
    prefixes: &mut [Prefix],
    context: &UpdateContext,
    narrow: bool,
    out: &mut BytesMut,
) -> usize {
    let mut narrowed = Vec::new();
    let id = |p: &Prefix| stores.find(session, p).unwrap_or(BlobId::NONE);
    prefixes.sort_by_cached_key(|p| (id(p), *p));
    let mut left_out = 0;
    // NONE is the smallest id, so withdrawals come first: a neighbour near its prefix limit is
    // relieved before it is burdened.
    for group in prefixes.chunk_by(|a, b| a.family() == b.family() && id(a) == id(b)) {
        let Some(first) = group.first() else { continue };
        let attributes = id(first);
        if attributes.is_none() {
            withdraw(group, context, out);
            continue;
        }
        let mut block = interner.bytes(attributes);
        if narrow {
            narrowed.clear();
            narrow_stored(block, &mut narrowed);
            block = &narrowed;
        }
        let unsent = announce_stored(block, group, context, out);
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
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};
    use wire::bgp::frame::next_message;
    use wire::bgp::hygiene::{Verdict, check};
    use wire::bgp::update::{Attributes, Update, attr};

    fn prefix(n: u8) -> Prefix {
        Prefix::new(IpAddr::V4(Ipv4Addr::new(10, n, 0, 0)), 16).expect("a prefix")
    }

    /// What a neighbour knows after reading these messages: the MED tells the routes apart.
    fn read(mut messages: BytesMut, known: &mut BTreeMap<Prefix, u32>) {
        while let Some(message) = next_message(&mut messages, false).expect("whole messages") {
            assert_eq!(check(message.body(), &UpdateContext::EBGP), Verdict::Pass);
            let update = Update::parse(message.body()).expect("an UPDATE");
            for prefix in update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()) {
                known.remove(&prefix);
            }
            let med = Attributes::new(update.attributes).flatten().find(|a| a.code == attr::MULTI_EXIT_DISC);
            let med = med.and_then(|a| a.value.try_into().ok()).map(u32::from_be_bytes);
            for prefix in update.nlri.chain(update.mp_announced().into_iter().flatten()) {
                known.insert(prefix, med.expect("a MED"));
            }
        }
    }

    /// A block as a peer's announcement leaves it in the store.
    fn block(v6: bool, med: u32) -> Vec<u8> {
        let next_hop = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let mut block = if v6 { [&[1, 16][..], &next_hop].concat() } else { vec![0, 0] };
        block.extend([0x40, attr::ORIGIN, 1, 0]);
        block.extend([0x40, attr::AS_PATH, 6, 2, 1, 0, 0, 0xfb, 0xf5]);
        if !v6 {
            block.extend([0x40, attr::NEXT_HOP, 4, 192, 0, 2, 1]);
        }
        block.extend([&[0x80, attr::MULTI_EXIT_DISC, 4][..], &med.to_be_bytes()].concat());
        block
    }

    #[test]
    fn a_route_too_long_to_be_told_is_withdrawn() {
        let (mut stores, mut interner) = (Stores::new(), Interner::new());
        let mut long = block(false, 1);
        long.extend([&[0xd0, 99, 0x10, 0x00][..], &[0; 0x1000]].concat());
        stores.announce(0, prefix(1), interner.intern(&long), 0);
        let mut known = BTreeMap::from([(prefix(1), 7)]);
        let mut out = BytesMut::new();
        assert_eq!(replay((&stores, 0), &interner, &mut [prefix(1)], &UpdateContext::EBGP, false, &mut out), 1);
        read(out, &mut known);
        assert!(known.is_empty(), "an older route would be wrong");
    }

    proptest! {
        /// Whatever was missed, whoever reads the replay of the prefixes that changed knows what
        /// the store knows.
        #[test]
        fn a_replay_brings_a_neighbour_level(
            before in prop::collection::vec((any::<bool>(), 0u8..20, 0u32..4), 0..60),
            after in prop::collection::vec((any::<bool>(), 0u8..20, 0u32..4), 0..60),
        ) {
            let (mut stores, mut interner, mut todo) = (Stores::new(), Interner::new(), Todo::new());
            let mut known = BTreeMap::new();
            let change = |changes: &[(bool, u8, u32)], todo: &mut Todo, stores: &mut Stores, interner: &mut Interner| {
                for &(v6, n, med) in changes {
                    let addr = if v6 { IpAddr::V6([n + 1; 16].into()) } else { IpAddr::V4([n + 1; 4].into()) };
                    let prefix = Prefix::new(addr, 32).expect("a prefix");
                    let old = match med {
                        0 => stores.withdraw(0, &prefix, 0),
                        _ => stores.announce(0, prefix, interner.intern(&block(v6, med)), 0),
                    };
                    interner.release(old);
                    todo.push(prefix);
                }
            };
            change(&before, &mut Todo::new(), &mut stores, &mut interner);
            let mut out = BytesMut::new();
            let mut all = stores.prefixes_by_attributes(0, None);
            prop_assert_eq!(replay((&stores, 0), &interner, &mut all, &UpdateContext::EBGP, false, &mut out), 0);
            read(out, &mut known);
            change(&after, &mut todo, &mut stores, &mut interner);
            while !todo.is_empty() {
                let (mut batch, mut out) = (Vec::new(), BytesMut::new());
                todo.pop_batch(7, &mut batch);
                replay((&stores, 0), &interner, &mut batch, &UpdateContext::EBGP, false, &mut out);
                read(out, &mut known);
            }
            let med = |id| interner.bytes(id).last_chunk().map(|m| u32::from_be_bytes(*m)).expect("a MED");
            prop_assert_eq!(known, stores.iter(0).map(|(p, id)| (p, med(id))).collect::<BTreeMap<_, _>>());
            prop_assert!(interner.len() <= 6, "{} blocks for 3 routes of 2 families", interner.len());
        }

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
