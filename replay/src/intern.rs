//! Byte strings to small ids, counted: many prefixes share one attribute block, so each block is
//! kept once.
//!
//! A full table holds some 6.5 prefixes to an attribute set, and the broker keeps several
//! candidates for each prefix; with four octets in each place instead of a pointer and a length,
//! that is what the table's size comes to.

use collections::Slots;
use foldhash::fast::RandomState;
use std::hash::BuildHasher;

/// The id of an interned byte string. Ids are reused once their last reference is released.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct BlobId(pub u32);

impl BlobId {
    /// Stands for "no route", as the default does; never allocated.
    pub const NONE: BlobId = BlobId(0);

    /// Whether this is [`BlobId::NONE`].
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The slot of its string.
    const fn slot(self) -> u32 {
        self.0.wrapping_sub(1)
    }
}

#[derive(Debug)]
struct Blob {
    bytes: Box<[u8]>,
    references: u32,
    hash: u32,
}

const _: () = assert!(Slots::<Blob>::SLOT_BYTES == size_of::<Blob>());

/// Keeps each distinct byte string once and counts the references to it.
#[derive(Debug)]
pub struct Interner {
    blobs: Slots<Blob>,
    /// Octets of all strings.
    octets: usize,
    /// Random, since peers choose the strings. It shows nowhere: ids depend on the order of calls
    /// alone.
    hasher: RandomState,
}

impl Default for Interner {
    fn default() -> Interner {
        Interner::new()
    }
}

/// The index takes its tag from the top bits and its position from the low ones; both must come
/// from the 32 bits we keep.
const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

impl Interner {
    /// An empty interner.
    pub fn new() -> Interner {
        Interner { blobs: Slots::default(), octets: 0, hasher: RandomState::default() }
    }

    #[allow(clippy::cast_possible_truncation)] // 32 bits of the hash are all that is kept
    fn hash(&self, bytes: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(bytes);
        (hash ^ (hash >> 32)) as u32
    }

    /// The id of `bytes`, taking one reference.
    pub fn intern(&mut self, bytes: &[u8]) -> BlobId {
        let hash = self.hash(bytes);
        if let Some(id) = self.lookup(bytes, hash) {
            self.retain(id, 1);
            return id;
        }
        self.octets += bytes.len();
        let blob = Blob { bytes: bytes.into(), references: 1, hash };
        BlobId(self.blobs.insert(blob, |blob| spread(blob.hash)) + 1)
    }

    /// The id of `bytes` if they are interned; takes no reference.
    pub fn find(&self, bytes: &[u8]) -> Option<BlobId> {
        self.lookup(bytes, self.hash(bytes))
    }

    fn lookup(&self, bytes: &[u8], hash: u32) -> Option<BlobId> {
        let same = |blob: &Blob| blob.hash == hash && *blob.bytes == *bytes;
        self.blobs.find(spread(hash), same).map(|slot| BlobId(slot + 1))
    }

    /// Adds `n` references. [`BlobId::NONE`] is ignored.
    pub fn retain(&mut self, id: BlobId, n: u32) {
        if id.is_none() {
            return;
        }
        let Some(blob) = self.blobs.get_mut(id.slot()) else {
            debug_assert!(false, "retain of {id:?}, which is free");
            return;
        };
        // A count that reached the end stays there: the string is then kept for good, never freed
        // too early.
        blob.references = blob.references.saturating_add(n);
    }

    /// Gives one reference back; with the last one the string goes and its id may be reused.
    /// [`BlobId::NONE`] is ignored.
    pub fn release(&mut self, id: BlobId) {
        if id.is_none() {
            return;
        }
        let Some(blob) = self.blobs.get_mut(id.slot()) else {
            debug_assert!(false, "release of {id:?}, which is free");
            return;
        };
        if blob.references == u32::MAX {
            return;
        }
        blob.references -= 1;
        if blob.references == 0 {
            self.octets -= blob.bytes.len();
            self.blobs.remove(id.slot(), |blob| spread(blob.hash));
        }
    }

    /// The string of `id`; empty for [`BlobId::NONE`] and for an id that is free.
    #[inline]
    pub fn bytes(&self, id: BlobId) -> &[u8] {
        self.blobs.get(id.slot()).map_or(&[], |blob| &blob.bytes)
    }

    /// The references held on `id`; 0 for [`BlobId::NONE`].
    pub fn references(&self, id: BlobId) -> u32 {
        self.blobs.get(id.slot()).map_or(0, |blob| blob.references)
    }

    /// Number of distinct strings.
    pub fn len(&self) -> usize {
        self.blobs.taken()
    }

    /// Whether nothing is interned.
    pub fn is_empty(&self) -> bool {
        self.blobs.taken() == 0
    }

    /// Octets in use: strings, slots and their index, without the allocator's own overhead.
    pub fn memory_bytes(&self) -> usize {
        self.octets + self.blobs.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_empty_string_is_not_none() {
        let mut interner = Interner::new();
        let id = interner.intern(b"");
        assert_ne!(id, BlobId::NONE);
        assert_eq!(interner.find(b""), Some(id));
        assert_eq!(interner.bytes(BlobId::NONE), b"");
        interner.release(BlobId::NONE);
        interner.release(id);
        assert_eq!(interner.find(b""), None);
        assert!(interner.is_empty());
    }

    #[test]
    fn a_freed_id_is_reused() {
        let mut interner = Interner::new();
        let (a, b) = (interner.intern(b"a"), interner.intern(b"b"));
        interner.release(a);
        assert_eq!(interner.intern(b"c"), a);
        assert_eq!(interner.bytes(a), b"c");
        assert_eq!(interner.bytes(b), b"b");
        assert_eq!(interner.len(), 2);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(calls in prop::collection::vec((0u8..4, 0u8..40, 1u32..4), 0..400)) {
            let mut interner = Interner::new();
            let mut model: BTreeMap<Vec<u8>, (BlobId, u32)> = BTreeMap::new();
            for (call, key, n) in calls {
                let bytes = vec![key; usize::from(key) % 5];
                match (call, model.get_mut(&bytes)) {
                    (0 | 1, known) => {
                        let id = interner.intern(&bytes);
                        match known {
                            Some((was, references)) => {
                                prop_assert_eq!(*was, id);
                                *references += 1;
                            }
                            None => {
                                prop_assert!(model.values().all(|(other, _)| *other != id));
                                model.insert(bytes, (id, 1));
                            }
                        }
                    }
                    (2, Some((id, references))) => {
                        interner.retain(*id, n);
                        *references += n;
                    }
                    (_, Some((id, references))) => {
                        interner.release(*id);
                        *references -= 1;
                        if *references == 0 {
                            model.remove(&bytes);
                        }
                    }
                    (_, None) => prop_assert_eq!(interner.find(&bytes), None),
                }
                prop_assert_eq!(interner.len(), model.len());
                for (bytes, (id, references)) in &model {
                    prop_assert_eq!(interner.bytes(*id), &bytes[..]);
                    prop_assert_eq!(interner.find(bytes), Some(*id));
                    prop_assert_eq!(interner.references(*id), *references);
                }
            }
        }
    }
}
