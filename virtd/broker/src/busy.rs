//! Which sessions have something to do: with a thousand of them, most have nothing.

use std::collections::VecDeque;

/// A queue of sessions, each at most once.
#[derive(Debug, Default)]
pub struct Busy {
    queue: VecDeque<usize>,
    queued: Vec<bool>,
}

impl Busy {
    /// This session may have something to do.
    pub fn push(&mut self, session: usize) {
        if self.queued.len() <= session {
            self.queued.resize(session + 1, false);
        }
        if self.queued.get_mut(session).is_some_and(|queued| !std::mem::replace(queued, true)) {
            self.queue.push_back(session);
        }
    }

    /// So may all, of which there are so many.
    pub fn all(&mut self, sessions: usize) {
        (0..sessions).for_each(|session| self.push(session));
    }

    /// The one that has waited for the longest.
    pub fn pop(&mut self) -> Option<usize> {
        let session = self.queue.pop_front()?;
        if let Some(queued) = self.queued.get_mut(session) {
            *queued = false;
        }
        Some(session)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
