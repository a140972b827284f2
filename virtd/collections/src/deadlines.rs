//! What is to be looked at when its time has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue, the earliest first; its user says what time is counted in.
#[derive(Debug)]
pub struct Deadlines<T>(BinaryHeap<Reverse<(u64, T)>>);

impl<T: Ord> Default for Deadlines<T> {
    fn default() -> Deadlines<T> {
        Deadlines(BinaryHeap::new())
    }
}

impl<T: Ord> Deadlines<T> {
    /// It is due then.
    pub fn push(&mut self, at: u64, what: T) {
        self.0.push(Reverse((at, what)));
    }

    /// When the first is due.
    pub fn next(&self) -> Option<u64> {
        self.0.peek().map(|first| first.0.0)
    }

    /// Takes out one that is due.
    pub fn due(&mut self, now: u64) -> Option<T> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop().map(|Reverse((_, what))| what)
    }

    /// Forgets all but these.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.0.retain(|Reverse((_, what))| keep(what));
    }

    /// Octets it takes.
    pub fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<(u64, T)>()
    }
}
