//! The last update of each prefix that one peer sent (docs/DECISIONS.md, "Bootstrap without the
//! peer").
//!
//! What is kept per prefix is an id of the attribute block
//! ([`wire::bgp::encode::stored_attributes`], held in an [`Interner`](crate::intern::Interner)) and
//! when it came. IPv4 takes 16 octets an entry and IPv6 28, plus some 7 of table.
//!
//! While a peer says all of a family again (RFC 7313) one bit an entry says that it has not come
//! yet: [`Store::mark`].

mod marks;

use crate::intern::BlobId;
use collections::make_room;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use marks::Marks;
use std::hash::BuildHasher;
use wire::bgp::{Family, Prefix};

/// One prefix: its address octets with the length behind them.
#[derive(Clone, Copy, Debug)]
struct Entry<const N: usize> {
    key: [u8; N],
    attributes: BlobId,
    updated_ms: u32,
}

/// The entries of one family, dense: the last one moves into the place of one that goes. So the
/// order of the entries follows from the calls alone, whatever the seed of the hash.
#[derive(Debug, Default)]
struct Table<const N: usize> {
    entries: Vec<Entry<N>>,
    index: HashTable<u32>,
    hasher: RandomState,
    /// Of the entries, those that have not been announced since they were marked.
    marks: Marks,
}

fn key<const N: usize>(prefix: &Prefix) -> [u8; N] {
    let mut key = [0; N];
    for (to, from) in key.iter_mut().zip(prefix.octets()) {
        *to = *from;
    }
    if let Some(last) = key.last_mut() {
        *last = prefix.len();
    }
    key
}

fn prefix<const N: usize>(family: Family, key: &[u8; N]) -> Option<Prefix> {
    let (&len, octets) = key.split_last()?;
    Prefix::from_wire(family, len, octets)
}

impl<const N: usize> Table<N> {
    fn position(&self, key: &[u8; N]) -> Option<usize> {
        let found = self.index.find(self.hasher.hash_one(key), |&i| self.entries[i as usize].key == *key);
        found.map(|&i| i as usize)
    }

    fn entry(&self, key: &[u8; N]) -> Option<&Entry<N>> {
        self.position(key).and_then(|at| self.entries.get(at))
    }

    fn announce(&mut self, key: [u8; N], attributes: BlobId, updated_ms: u32) -> BlobId {
        if let Some(at) = self.position(&key)
            && let Some(entry) = self.entries.get_mut(at)
        {
            entry.updated_ms = updated_ms;
            self.marks.remove(at);
            return std::mem::replace(&mut entry.attributes, attributes);
        }
        make_room(&mut self.entries, 1);
        let at = u32::try_from(self.entries.len()).expect("fewer than 2^32 prefixes");
        self.entries.push(Entry { key, attributes, updated_ms });
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key), at, |&i| hasher.hash_one(entries[i as usize].key));
        BlobId::NONE
    }

    fn withdraw(&mut self, key: &[u8; N]) -> BlobId {
        let entries = &self.entries;
        let found = self.index.find_entry(self.hasher.hash_one(key), |&i| entries[i as usize].key == *key);
        let Ok(found) = found else {
            return BlobId::NONE;
        };
        let (at, _) = found.remove();
        let last = self.entries.len() - 1;
        self.marks.swap_remove(at as usize, last);
        let gone = self.entries.swap_remove(at as usize);
        if let Some(moved) = self.entries.get(at as usize) {
            let hash = self.hasher.hash_one(moved.key);
            if let Some(i) = self.index.find_mut(hash, |&i| i as usize == last) {
                *i = at;
            }
        }
        gone.attributes
    }

    fn take(&mut self) -> std::vec::IntoIter<Entry<N>> {
        self.index = HashTable::new();
        self.marks = Marks::default();
        std::mem::take(&mut self.entries).into_iter()
    }

    /// The first `n` marked prefixes.
    fn marked(&self, family: Family, n: usize, out: &mut Vec<Prefix>) {
        let places = self.marks.iter().take(n);
        out.extend(places.filter_map(|at| prefix(family, &self.entries.get(at)?.key)));
    }

    fn iter(&self, family: Family) -> impl Iterator<Item = (Prefix, BlobId)> {
        self.entries.iter().filter_map(move |e| Some((prefix(family, &e.key)?, e.attributes)))
    }

    fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<N>>() + self.index.allocation_size() + self.marks.memory_bytes()
    }
}

/// The last update of each prefix, IPv4 and IPv6 unicast. The reference counts of the blocks are
/// the caller's business.
#[derive(Debug, Default)]
pub struct Store {
    v4: Table<5>,
    v6: Table<17>,
}

impl Store {
    /// An empty store.
    pub fn new() -> Store {
        Store::default()
    }

    /// Sets what the peer says of `prefix`. Returns the id that stood there, [`BlobId::NONE`] if it
    /// is new: the caller passes its own reference to `attributes` in and gets the one to the
    /// returned id back.
    pub fn announce(&mut self, prefix: Prefix, attributes: BlobId, now_ms: u32) -> BlobId {
        match prefix.family() {
            Family::IPV4_UNICAST => self.v4.announce(key(&prefix), attributes, now_ms),
            _ => self.v6.announce(key(&prefix), attributes, now_ms),
        }
    }

    /// Forgets `prefix`. Returns the id that stood there, [`BlobId::NONE`] if none did.
    pub fn withdraw(&mut self, prefix: &Prefix) -> BlobId {
        match prefix.family() {
            Family::IPV4_UNICAST => self.v4.withdraw(&key(prefix)),
            _ => self.v6.withdraw(&key(prefix)),
        }
    }

    /// The attribute block of `prefix`.
    pub fn find(&self, prefix: &Prefix) -> Option<BlobId> {
        match prefix.family() {
            Family::IPV4_UNICAST => self.v4.entry(&key(prefix)).map(|e| e.attributes),
            _ => self.v6.entry(&key(prefix)).map(|e| e.attributes),
        }
    }

    /// When `prefix` was last announced, in the caller's milliseconds.
    pub fn updated_ms(&self, prefix: &Prefix) -> Option<u32> {
        match prefix.family() {
            Family::IPV4_UNICAST => self.v4.entry(&key(prefix)).map(|e| e.updated_ms),
            _ => self.v6.entry(&key(prefix)).map(|e| e.updated_ms),
        }
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.v4.entries.len() + self.v6.entries.len()
    }

    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of prefixes of `family`; 0 for a family other than IPv4 and IPv6 unicast.
    pub fn len_of(&self, family: Family) -> usize {
        match family {
            Family::IPV4_UNICAST => self.v4.entries.len(),
            Family::IPV6_UNICAST => self.v6.entries.len(),
            _ => 0,
        }
    }

    /// Every prefix and its block, IPv4 first, else in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, BlobId)> {
        self.v4.iter(Family::IPV4_UNICAST).chain(self.v6.iter(Family::IPV6_UNICAST))
    }

    /// Forgets everything; yields the ids, once for each prefix, for the caller to release.
    /// The store is empty at once, whether or not the iterator is run to its end.
    pub fn clear(&mut self) -> impl Iterator<Item = BlobId> + use<> {
        self.v4.take().map(|e| e.attributes).chain(self.v6.take().map(|e| e.attributes))
    }

    /// The prefixes (of `family`, or all, IPv4 first), those of one block side by side so that a
    /// replay packs well.
    pub fn prefixes_by_attributes(&self, family: Option<Family>) -> Vec<Prefix> {
        let wanted = |f| family.is_none_or(|only| only == f);
        let mut out = Vec::with_capacity(family.map_or(self.len(), |f| self.len_of(f)));
        if wanted(Family::IPV4_UNICAST) {
            self.v4.append_sorted(Family::IPV4_UNICAST, &mut out);
        }
        if wanted(Family::IPV6_UNICAST) {
            self.v6.append_sorted(Family::IPV6_UNICAST, &mut out);
        }
        out
    }

    /// Marks every prefix of `family`; whatever is announced from now on is marked no more, and
    /// what is new is not.
    pub fn mark(&mut self, family: Family) {
        match family {
            Family::IPV4_UNICAST => self.v4.marks = Marks::of(self.v4.entries.len()),
            Family::IPV6_UNICAST => self.v6.marks = Marks::of(self.v6.entries.len()),
            _ => {}
        }
    }

    /// Takes all marks of `family` off.
    pub fn unmark(&mut self, family: Family) {
        match family {
            Family::IPV4_UNICAST => self.v4.marks = Marks::default(),
            Family::IPV6_UNICAST => self.v6.marks = Marks::default(),
            _ => {}
        }
    }

    /// Appends to `out` up to `n` prefixes of `family` that are still marked; fewer only where
    /// there are no more.
    pub fn marked(&self, family: Family, n: usize, out: &mut Vec<Prefix>) {
        match family {
            Family::IPV4_UNICAST => self.v4.marked(family, n, out),
            Family::IPV6_UNICAST => self.v6.marked(family, n, out),
            _ => {}
        }
    }

    /// Octets in use, without the blocks.
    pub fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes() + self.v6.memory_bytes()
    }
}

impl<const N: usize> Table<N> {
    fn append_sorted(&self, family: Family, out: &mut Vec<Prefix>) {
        let mut order: Vec<(BlobId, [u8; N])> = self.entries.iter().map(|e| (e.attributes, e.key)).collect();
        order.sort_unstable();
        out.extend(order.iter().filter_map(|(_, key)| prefix(family, key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn some_prefix() -> impl Strategy<Value = Prefix> {
        // Few distinct addresses, so that calls meet; lengths from 0, so that 0.0.0.0/0 and ::/0
        // are among them.
        (any::<bool>(), 0u8..6, 0u8..=32).prop_map(|(v6, octet, len)| {
            let addr =
                if v6 { IpAddr::V6(Ipv6Addr::from([octet; 16])) } else { IpAddr::V4(Ipv4Addr::from([octet; 4])) };
            Prefix::new(addr, len).expect("a length within both families")
        })
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry<5>>(), 16);
        assert_eq!(size_of::<Entry<17>>(), 28);
        let mut store = Store::new();
        for n in 0..100_000u32 {
            let prefix = Prefix::new(IpAddr::V4(Ipv4Addr::from(n << 8)), 24).expect("a prefix");
            store.announce(prefix, BlobId(1), 0);
        }
        assert!(store.memory_bytes() <= 36 * store.len(), "{} octets", store.memory_bytes());
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(calls in prop::collection::vec((0u8..8, some_prefix(), 1u32..6, any::<u32>()), 0..300)) {
            let mut store = Store::new();
            let mut model: BTreeMap<Prefix, (BlobId, u32)> = BTreeMap::new();
            let mut marked: BTreeSet<Prefix> = BTreeSet::new();
            for (call, prefix, id, now) in calls {
                let family = prefix.family();
                match call {
                    6 => {
                        store.mark(family);
                        marked.extend(model.keys().filter(|p| p.family() == family));
                    }
                    7 if id > 1 => {}
                    7 => {
                        store.unmark(family);
                        marked.retain(|p| p.family() != family);
                    }
                    _ => drop(marked.remove(&prefix)),
                }
                let mut found = Vec::new();
                store.marked(Family::IPV4_UNICAST, usize::MAX, &mut found);
                store.marked(Family::IPV6_UNICAST, usize::MAX, &mut found);
                if call < 6 {
                    found.retain(|p| *p != prefix);
                }
                found.sort_unstable();
                prop_assert_eq!(found, marked.iter().copied().collect::<Vec<_>>());
                let mut some = Vec::new();
                store.marked(family, 2, &mut some);
                prop_assert!(some.len() <= 2);
                if call >= 6 {
                    continue;
                }
                if call <= 2 {
                    let was = model.insert(prefix, (BlobId(id), now));
                    prop_assert_eq!(store.announce(prefix, BlobId(id), now), was.map_or(BlobId::NONE, |w| w.0));
                } else {
                    let was = model.remove(&prefix);
                    prop_assert_eq!(store.withdraw(&prefix), was.map_or(BlobId::NONE, |w| w.0));
                }
                prop_assert_eq!(store.find(&prefix), model.get(&prefix).map(|m| m.0));
                prop_assert_eq!(store.updated_ms(&prefix), model.get(&prefix).map(|m| m.1));
                prop_assert_eq!(store.len(), model.len());
            }
            let all: BTreeMap<Prefix, BlobId> = store.iter().collect();
            prop_assert_eq!(&all, &model.iter().map(|(p, m)| (*p, m.0)).collect());
            for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
                prop_assert_eq!(store.len_of(family), model.keys().filter(|p| p.family() == family).count());
                let sorted = store.prefixes_by_attributes(Some(family));
                let mut wanted: Vec<_> = model.iter().filter(|(p, _)| p.family() == family).map(|(p, m)| (m.0, *p)).collect();
                wanted.sort_by_key(|(id, _)| *id);
                prop_assert_eq!(
                    sorted.iter().map(|p| model[p].0).collect::<Vec<_>>(),
                    wanted.iter().map(|w| w.0).collect::<Vec<_>>()
                );
            }
            prop_assert_eq!(store.prefixes_by_attributes(None).len(), model.len());
            let mut cleared: Vec<BlobId> = store.clear().collect();
            cleared.sort_unstable();
            let mut ids: Vec<BlobId> = model.values().map(|m| m.0).collect();
            ids.sort_unstable();
            prop_assert_eq!(cleared, ids);
            prop_assert!(store.is_empty());
            prop_assert_eq!(store.iter().count(), 0);
        }
    }
}
