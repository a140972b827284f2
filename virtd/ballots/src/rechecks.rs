//! The keys whose outcome time alone can change, of any number of tables.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use voter::Millis;

/// A queue of (when, table, slot), the earliest first. A slot stands in it once at most
/// (`flag::QUEUED`).
#[derive(Default, Debug)]
pub struct Rechecks(BinaryHeap<Reverse<(Millis, u32, u32)>>);

impl Rechecks {
    pub(crate) fn push(&mut self, at: Millis, table: u32, slot: u32) {
        self.0.push(Reverse((at, table, slot)));
    }

    /// When the first is due.
    pub fn next(&self) -> Option<Millis> {
        self.0.peek().map(|first| first.0.0)
    }

    /// Takes out the table and the slot of one that is due: for [`crate::recheck`].
    pub fn due(&mut self, now: Millis) -> Option<(u32, u32)> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse((_, table, slot))| (table, slot))
    }

    /// Octets it takes.
    pub fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<(Millis, u32, u32)>()
    }
}
