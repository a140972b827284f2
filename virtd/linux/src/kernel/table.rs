//! What is wanted and what the kernel holds, by key, and which keys wait to be written.

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use replay::intern::{BlobId, Interner};
use std::collections::VecDeque;
use wire::netlink::fib::{FibKey, FibRoute, to_message};

/// Keys that an empty queue keeps room for.
const SMALL_QUEUE: usize = 4096;

/// One key's state; with its key and the hash table's share 48 octets a route in a table of
/// 200,000, whatever the number of its next hops: routes are interned, and a full table has few
/// different ones.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The voted route, [`BlobId::NONE`] for none.
    pub want: BlobId,
    /// Ours in the kernel, as far as is known.
    pub have: BlobId,
    /// The last scan that came across it, or during which it was written.
    pub seen: u8,
    /// Waits in the queue of votes.
    pub vote_queued: bool,
    /// Waits in the queue of repairs.
    pub repair_queued: bool,
    /// What else is known about `have`.
    pub holding: Holding,
}

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            want: BlobId::NONE,
            have: BlobId::NONE,
            seen: 0,
            vote_queued: false,
            repair_queued: false,
            holding: Holding::Known,
        }
    }
}

/// What else is known about the kernel's route of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Holding {
    /// It is as `have` says, by our own hand.
    #[default]
    Known,
    /// It is as `have` says, and an earlier virtd's.
    Leftover,
    /// There may be another one: to be deleted before anything is written.
    Unsure,
    /// It is outdated, and what should stand there could not be written: to be deleted, and no
    /// more.
    Stale,
}

/// Why a key is written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// Somebody deleted it.
    Deleted,
    /// Somebody changed it.
    Changed,
    /// Somebody made it, with our protocol number.
    Made,
    /// It was found missing.
    Missing,
    /// It was found to be another.
    Different,
    /// It was found, and nobody wants it.
    Unwanted,
}

impl Damage {
    /// What had happened, and what was done, for an event.
    pub const fn text(self) -> &'static str {
        match self {
            Damage::Deleted => "was deleted by somebody else, and is written again",
            Damage::Changed => "was changed by somebody else, and is put right",
            Damage::Made => "was made by somebody else with the protocol number of virtd, and is removed",
            Damage::Missing => "was missing from the kernel, and is written again",
            Damage::Different => "was another in the kernel than was voted, and is put right",
            Damage::Unwanted => "was in the kernel without a vote for it, and is removed",
        }
    }
}

/// See the module's comment.
pub struct Table {
    entries: HashMap<FibKey, Entry, RandomState>,
    routes: Interner,
    votes: VecDeque<FibKey>,
    repairs: VecDeque<FibKey>,
}

impl Table {
    /// Nothing wanted, nothing held.
    pub fn new() -> Table {
        Table { entries: HashMap::default(), routes: Interner::new(), votes: VecDeque::new(), repairs: VecDeque::new() }
    }

    /// What is known about a key.
    pub fn get(&self, key: &FibKey) -> Option<Entry> {
        self.entries.get(key).copied()
    }

    /// The same, to be changed; made if it is not there.
    pub fn entry(&mut self, key: FibKey) -> &mut Entry {
        self.entries.entry(key).or_default()
    }

    /// All keys that have something wanted or held.
    pub fn iter(&self) -> impl Iterator<Item = (&FibKey, &Entry)> {
        self.entries.iter()
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&FibKey, &mut Entry)> {
        self.entries.iter_mut()
    }

    /// The canonical octets of a route.
    pub fn bytes(&self, id: BlobId) -> &[u8] {
        self.routes.bytes(id)
    }

    /// Nothing is wanted under a key any more, whatever the vote said.
    pub fn want_nothing(&mut self, key: FibKey) {
        let old = std::mem::replace(&mut self.entry(key).want, BlobId::NONE);
        self.routes.release(old);
    }

    /// The kernel holds this under a key; empty octets: nothing.
    pub fn set_have(&mut self, key: FibKey, route: &[u8]) {
        let id = if route.is_empty() { BlobId::NONE } else { self.routes.intern(route) };
        let old = std::mem::replace(&mut self.entry(key).have, id);
        self.routes.release(old);
    }

    /// The kernel holds what is wanted.
    pub fn set_have_wanted(&mut self, key: FibKey) {
        let entry = self.entry(key);
        let (old, want) = (entry.have, entry.want);
        entry.have = want;
        self.routes.retain(want, 1);
        self.routes.release(old);
    }

    /// The last word of the vote on a key, which waits to be written now.
    pub fn vote(&mut self, key: FibKey, route: Option<&Bytes>) {
        let id = route.map_or(BlobId::NONE, |bytes| self.routes.intern(bytes));
        let entry = self.entries.entry(key).or_default();
        let old = std::mem::replace(&mut entry.want, id);
        if id.is_none() && entry.holding == Holding::Leftover {
            // The vote has spoken: no need to wait for the sweep.
            entry.holding = Holding::Known;
        }
        if !std::mem::replace(&mut entry.vote_queued, true) {
            self.votes.push_back(key);
        }
        self.routes.release(old);
    }

    /// Queues a key on which the vote has spoken before.
    pub fn queue_vote(&mut self, key: FibKey) {
        if !std::mem::replace(&mut self.entry(key).vote_queued, true) {
            self.votes.push_back(key);
        }
    }

    /// Queues a key that is to be put right: behind all votes.
    pub fn queue_repair(&mut self, key: FibKey) {
        let entry = self.entry(key);
        if !entry.vote_queued && !std::mem::replace(&mut entry.repair_queued, true) {
            self.repairs.push_back(key);
        }
    }

    /// The next key to be written, and what is known about it.
    pub fn next(&mut self) -> Option<(FibKey, Entry)> {
        if let Some(key) = self.votes.pop_front() {
            let entry = self.entry(key);
            entry.vote_queued = false;
            return Some((key, *entry));
        }
        let Some(key) = self.repairs.pop_front() else {
            // A full table has passed through; what it took is given back.
            for queue in [&mut self.votes, &mut self.repairs] {
                if queue.capacity() > SMALL_QUEUE {
                    queue.shrink_to(SMALL_QUEUE);
                }
            }
            return None;
        };
        let entry = self.entry(key);
        entry.repair_queued = false;
        Some((key, *entry))
    }

    /// How many keys wait to be written, some maybe twice.
    pub fn waiting(&self) -> usize {
        self.votes.len() + self.repairs.len()
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.waiting() == 0
    }

    /// Forgets a key of which nothing is wanted, held or waited for.
    pub fn tidy(&mut self, key: &FibKey) {
        let done = |e: &Entry| {
            e.want.is_none() && e.have.is_none() && !e.vote_queued && !e.repair_queued && e.holding == Holding::Known
        };
        if self.entries.get(key).is_some_and(done) {
            self.entries.remove(key);
            if self.entries.is_empty() {
                self.entries.shrink_to_fit();
            }
        }
    }

    /// Keys with something wanted or held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Octets that all of it takes.
    pub fn memory_bytes(&self) -> usize {
        let queues = (self.votes.capacity() + self.repairs.capacity()) * size_of::<FibKey>();
        self.entries.allocation_size() + self.routes.memory_bytes() + queues
    }
}

/// Whether the kernel's route is what `wanted` becomes when it is written. Besides what the voter
/// compares there are two things that the kernel completes or cuts: the interface of a gateway that
/// came without one, and weights beyond 256.
pub fn is_written_as(key: &FibKey, wanted: &[u8], found: &[u8]) -> bool {
    if FibRoute::compared(wanted) == FibRoute::compared(found) {
        return true;
    }
    let (Some(wanted), Some(found)) = (FibRoute::from_bytes(wanted), FibRoute::from_bytes(found)) else { return false };
    let Ok(mut written) = FibRoute::from_message(&to_message(key, &wanted, 0, 0), |_| None) else { return false };
    written.normalise();
    let rest = (written.kind, written.prefsrc, &written.metrics) == (found.kind, found.prefsrc, &found.metrics);
    let mut left: Vec<_> = found.hops.iter().collect();
    let mut matched = written.hops.iter().all(|hop| {
        let same = left.iter().position(|other| {
            (hop.gateway, &hop.encap, hop.weight) == (other.gateway, &other.encap, other.weight)
                && hop.oif.is_none_or(|index| other.oif == Some(index))
        });
        same.map(|at| left.swap_remove(at)).is_some()
    });
    matched &= left.is_empty();
    rest && matched
}
