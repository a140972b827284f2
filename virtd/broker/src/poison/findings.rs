//! What an instance was found not to survive, until an operator restarts it or virtd ends: a
//! withdraw or a reset session takes the route away, and the same route announced again must not
//! kill it again.

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use std::collections::VecDeque;
use wire::bgp::Prefix;

/// Routes remembered for each instance, the oldest out: more than the prefixes of the longest
/// UPDATE (RFC 8654), which are found together.
pub const MAX_FINDINGS: usize = 1 << 14;

/// Session (so: peer), prefix, hash of the stored attributes.
type Finding = (usize, Prefix, u64);

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Findings {
    order: VecDeque<Finding>,
    known: HashSet<Finding, RandomState>,
}

impl Findings {
    /// Remembers a route; the oldest is forgotten where there are too many.
    pub fn insert(&mut self, session: usize, prefix: Prefix, hash: u64) {
        let finding = (session, prefix, hash);
        if !self.known.insert(finding) {
            return;
        }
        self.order.push_back(finding);
        while self.order.len() > MAX_FINDINGS {
            let Some(old) = self.order.pop_front() else { break };
            self.known.remove(&old);
        }
    }

    /// Whether this route was found.
    pub fn contains(&self, session: usize, prefix: Prefix, hash: u64) -> bool {
        self.known.contains(&(session, prefix, hash))
    }

    /// The peer of this session is no more.
    pub fn forget_session(&mut self, session: usize) {
        if self.known.iter().any(|(of, ..)| *of == session) {
            self.order.retain(|(of, ..)| *of != session);
            self.known.retain(|(of, ..)| *of != session);
        }
    }

    /// Nothing was ever found.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// How many are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.order.len()
    }
}
