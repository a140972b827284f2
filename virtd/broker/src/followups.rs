//! What one part of the core has found out and another has to act on: kept until that one's turn
//! comes, at the end of the turn or at the next tick.

use std::collections::BTreeSet;
use wire::bgp::Prefix;

/// Prefixes voted on one by one; where there are more of them, every prefix is, in slices.
const MAX_PREFIXES: usize = 1024;

/// A leg that was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Whose it was.
    pub instance: usize,
    /// On which session.
    pub session: usize,
    /// Nothing came from the instance any more.
    pub silent: bool,
}

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Followups {
    /// An electorate has changed: every key is voted on anew.
    all: bool,
    /// The same of every key of these sessions.
    tables: BTreeSet<usize>,
    /// Who has been told what the peers of these sessions say has changed: what they announce is
    /// voted on anew, on every session.
    peers: BTreeSet<usize>,
    /// Somebody has just begun or ceased to abstain on these.
    prefixes: Vec<Prefix>,
    losses: Vec<Loss>,
    /// Instances and sessions whose losses, those just counted too, turn out to be nobody's fault.
    excused: Vec<(usize, usize)>,
}

impl Followups {
    /// An electorate has changed: every key is voted on anew.
    pub fn vote_anew(&mut self) {
        self.all = true;
    }

    /// The same, where it has.
    pub fn vote_anew_if(&mut self, changed: bool) {
        self.all |= changed;
    }

    /// An instance has come to a session, or has left it, or has been told all that its peer says.
    pub fn vote_anew_on(&mut self, session: usize) {
        self.tables.insert(session);
        self.peers.insert(session);
    }

    /// Takes the sessions whose keys are voted on anew.
    pub fn take_tables(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.tables)
    }

    /// Takes the sessions whose peers' prefixes are voted on anew.
    pub fn take_peers(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.peers)
    }

    /// Somebody has begun or ceased to abstain on this prefix.
    pub fn vote_on(&mut self, prefix: Prefix) {
        match self.prefixes.len() < MAX_PREFIXES {
            true => self.prefixes.push(prefix),
            false => self.all = true,
        }
    }

    /// Whether any key waits to be voted on.
    pub fn has_votes(&self) -> bool {
        self.all || !self.tables.is_empty() || !self.peers.is_empty() || !self.prefixes.is_empty()
    }

    /// Takes that order.
    pub fn take_everything(&mut self) -> bool {
        std::mem::take(&mut self.all)
    }

    /// Takes the prefixes that are voted on one by one.
    pub fn take_prefixes(&mut self) -> Vec<Prefix> {
        std::mem::take(&mut self.prefixes)
    }

    /// Instance `instance` has lost its leg on `session`.
    pub fn lost(&mut self, instance: usize, session: usize, silent: bool) {
        self.losses.push(Loss { instance, session, silent });
    }

    /// What it lost there, now and before, is not its fault.
    pub fn excuse(&mut self, instance: usize, session: usize) {
        self.excused.push((instance, session));
    }

    /// Takes the losses.
    pub fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// Takes the instances and sessions that are excused.
    pub fn take_excused(&mut self) -> Vec<(usize, usize)> {
        std::mem::take(&mut self.excused)
    }

    /// The place of this instance may be another's.
    pub fn forget_instance(&mut self, i: usize) {
        self.losses.retain(|loss| loss.instance != i);
        self.excused.retain(|(who, _)| *who != i);
    }

    /// The place of this session may be another peer's.
    pub fn forget_session(&mut self, session: usize) {
        self.losses.retain(|loss| loss.session != session);
        self.excused.retain(|(_, s)| *s != session);
    }
}
