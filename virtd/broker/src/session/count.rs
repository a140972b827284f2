//! What a vote shows about the independence of the instances (`independence.rs`).

use super::*;
use crate::independence::{Aspect, differences};

impl Session {
    /// Counts a vote that has come to its end: `compared` took part or were watched, `dissent` are
    /// marked now, `was` were before. A state is counted once, however often it is voted on: until
    /// somebody's word changes, or another is found wrong about it.
    pub(super) fn count(
        &mut self,
        slot: u32,
        compared: Members,
        dissent: Members,
        was: Members,
        lost: bool,
        env: &Env,
    ) {
        let newly = dissent.minus(was);
        if self.table.count(slot) && newly.is_empty() && !lost {
            return;
        }
        let said = self.table.candidates(slot);
        self.independence.vote(compared, said, &env.routes);
        if !newly.is_empty() {
            self.independence.verdict(compared, dissent, newly, said, &env.routes);
        }
    }

    /// In what instance `i` differs from what was chosen for the key at `slot`, told to `tell`.
    pub fn differs_in(&self, i: usize, slot: u32, env: &Env, tell: impl FnMut(Aspect)) {
        if let (Some(e), Some(said)) = (self.table.entry(slot), self.table.candidates(slot).get(i)) {
            differences(*said, e.winner, &env.routes, tell);
        }
    }
}
