//! What the instances say to one peer, prefix by prefix, and what was published: the candidates of every key.
//!
//! One entry a prefix, candidates in a second array with one column an instance, both indexed alike, found by a hash index of
//! their own: about 60 octets a prefix with three instances. Routes are ids of canonical byte strings ([`replay::intern`]).

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use replay::intern::BlobId;
use std::hash::{BuildHasher, Hash};
use voter::Members;
use wire::bgp::Prefix;

/// Bits of [`Entry::flags`].
pub mod flag {
    /// Stands in the session's list of keys to tell the peer.
    pub const DIRTY: u8 = 1;
    /// Must be told even where it did not change (route refresh).
    pub const RESEND: u8 = 2;
    /// Stands in the recheck queue.
    pub const QUEUED: u8 = 4;
    /// An event has said that no majority decides.
    pub const NO_QUORUM: u8 = 8;
    /// Not in use: waiting in the free list.
    pub const FREE: u8 = 16;
    /// [`super::Entry::overruled`] holds something.
    pub const OVERRULED: u8 = 32;
    /// What everybody says now has been counted (`independence`).
    pub const COUNTED: u8 = 64;
}

/// The state of one key.
#[derive(Clone, Debug)]
pub struct Entry<K = Prefix> {
    /// The key: a prefix towards a peer, or a FIB entry's key.
    pub prefix: K,
    /// See [`flag`].
    pub flags: u8,
    /// What the master of master-slave has said since the key last rested for T; counted up to 255.
    pub turns: u8,
    /// Instances whose candidate is marked as not with a steady majority.
    pub dissent: Members,
    /// Instances whose candidate dates from a leg that is gone: dropped when the new leg is level and has not repeated it.
    pub stale: Members,
    /// What the voter chose.
    pub winner: BlobId,
    /// What the peer was last told.
    pub published: BlobId,
    /// What the steady majority took away from the master ([`voter::Ballot::overruled`]); read by [`Entry::overruled`].
    overruled: BlobId,
    /// Milliseconds (wrapping, see [`age_ms`]) of the first and the last disturbance.
    pub first_ms: u32,
    /// See `first_ms`.
    pub last_ms: u32,
}

impl<K> Entry<K> {
    /// What stands overruled, if anything does: "no route" may.
    pub fn overruled(&self) -> Option<BlobId> {
        (self.flags & flag::OVERRULED != 0).then_some(self.overruled)
    }

    /// Puts another in its place; returns the old one, whose reference is the caller's now.
    pub fn set_overruled(&mut self, id: Option<BlobId>) -> Option<BlobId> {
        let old = self.overruled();
        self.overruled = id.unwrap_or(BlobId::NONE);
        self.flags = if id.is_some() { self.flags | flag::OVERRULED } else { self.flags & !flag::OVERRULED };
        old
    }
}

/// How long ago `then` was. Times wrap after 49 days; an entry that old may then look fresh, which only delays a verdict by T.
pub fn age_ms(now_ms: u64, then: u32) -> u64 {
    u64::from((now_ms as u32).wrapping_sub(then))
}

/// All keys of one session, or of the FIB.
pub struct Table<K = Prefix> {
    columns: usize,
    index: HashTable<u32>,
    /// Seeded: peers choose the prefixes, and nothing ever depends on the order of the index.
    hasher: RandomState,
    entries: Vec<Entry<K>>,
    candidates: Vec<BlobId>,
    free: Vec<u32>,
}

impl<K: Copy + Eq + Hash> Table<K> {
    /// An empty table for `columns` instances.
    pub fn new(columns: usize) -> Table<K> {
        Table {
            columns,
            index: HashTable::new(),
            hasher: RandomState::default(),
            entries: Vec::new(),
            candidates: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Keys in use.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Octets it takes.
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<K>>()
            + self.candidates.capacity() * size_of::<BlobId>()
            + self.free.capacity() * size_of::<u32>()
            + self.index.allocation_size()
    }

    /// Slots, in use or not; what a walk over all keys counts to.
    pub fn slots(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The slot of a prefix.
    pub fn find(&self, prefix: &K) -> Option<u32> {
        let entries = &self.entries;
        self.index.find(self.hasher.hash_one(prefix), |&i| entries[i as usize].prefix == *prefix).copied()
    }

    /// The slot of a prefix, made if need be.
    pub fn slot(&mut self, prefix: K, now_ms: u64) -> u32 {
        let hash = self.hasher.hash_one(prefix);
        let entries = &self.entries;
        if let Some(&i) = self.index.find(hash, |&i| entries[i as usize].prefix == prefix) {
            return i;
        }
        let entry = Entry {
            prefix,
            flags: 0,
            turns: 0,
            dissent: Members::default(),
            stale: Members::default(),
            winner: BlobId::NONE,
            published: BlobId::NONE,
            overruled: BlobId::NONE,
            first_ms: now_ms as u32,
            last_ms: now_ms as u32,
        };
        let i = match self.free.pop() {
            Some(i) => {
                self.entries[i as usize] = entry;
                i
            }
            None => {
                if self.entries.len() == self.entries.capacity() {
                    // By an eighth, not by doubling: a full table's waste stays small, and the kernel moves the pages.
                    let more = self.entries.len() / 8 + 64;
                    self.entries.reserve_exact(more);
                    self.candidates.reserve_exact(more * self.columns);
                }
                self.entries.push(entry);
                self.candidates.extend(std::iter::repeat_n(BlobId::NONE, self.columns));
                (self.entries.len() - 1) as u32
            }
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index.insert_unique(hash, i, |&i| hasher.hash_one(entries[i as usize].prefix));
        i
    }

    /// The entry at a slot; `None` past the end or where the slot is free.
    pub fn entry(&self, slot: u32) -> Option<&Entry<K>> {
        self.entries.get(slot as usize).filter(|e| e.flags & flag::FREE == 0)
    }

    /// The entry at a slot, to change.
    pub fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry<K>> {
        self.entries.get_mut(slot as usize).filter(|e| e.flags & flag::FREE == 0)
    }

    /// What every instance says about the key at `slot`.
    pub fn candidates(&self, slot: u32) -> &[BlobId] {
        let at = slot as usize * self.columns;
        self.candidates.get(at..at + self.columns).unwrap_or_default()
    }

    /// What every instance says about the key at `slot`, to change.
    pub fn candidates_mut(&mut self, slot: u32) -> &mut [BlobId] {
        let at = slot as usize * self.columns;
        self.candidates.get_mut(at..at + self.columns).unwrap_or_default()
    }

    /// Column `i` says nothing at `slot` any more. Returns its candidate, which the caller releases, and whether it dissented.
    pub fn forget(&mut self, slot: u32, i: usize) -> (BlobId, bool) {
        let mut dissented = false;
        if let Some(e) = self.entry_mut(slot) {
            dissented = e.dissent.contains(i as u8);
            e.dissent.remove(i as u8);
            e.stale.remove(i as u8);
        }
        let said = self.candidates_mut(slot).get_mut(i);
        (said.map_or(BlobId::NONE, |said| std::mem::replace(said, BlobId::NONE)), dissented)
    }

    /// Makes room for as many instances; those there are keep their columns, and there are never fewer than there were.
    pub fn widen(&mut self, columns: usize) {
        if columns <= self.columns {
            return;
        }
        let mut wide = Vec::with_capacity(self.entries.len() * columns);
        for said in self.candidates.chunks(self.columns.max(1)) {
            wide.extend_from_slice(said);
            wide.extend(std::iter::repeat_n(BlobId::NONE, columns - said.len()));
        }
        wide.resize(self.entries.len() * columns, BlobId::NONE);
        (self.candidates, self.columns) = (wide, columns);
    }

    /// Gives the slot back when nobody says anything about its key and the peer has been told nothing.
    pub fn tidy(&mut self, slot: u32) {
        let Some(e) = self.entry(slot) else { return };
        let busy = flag::DIRTY | flag::QUEUED;
        if e.flags & busy != 0 || e.winner != BlobId::NONE || e.published != BlobId::NONE || !e.dissent.is_empty() {
            return;
        }
        if e.overruled().is_some() || self.candidates(slot).iter().any(|c| *c != BlobId::NONE) {
            return;
        }
        let prefix = e.prefix;
        let entries = &self.entries;
        if let Ok(found) =
            self.index.find_entry(self.hasher.hash_one(prefix), |&i| entries[i as usize].prefix == prefix)
        {
            found.remove();
        }
        self.entries[slot as usize].flags = flag::FREE;
        self.free.push(slot);
    }

    /// Empties the table; every id it held goes to `release`.
    pub fn clear(&mut self, mut release: impl FnMut(BlobId)) {
        for e in self.entries.iter().filter(|e| e.flags & flag::FREE == 0) {
            release(e.winner);
            release(e.published);
            e.overruled().map(&mut release);
        }
        self.candidates.iter().for_each(|c| release(*c));
        *self = Table::new(self.columns);
    }
}
