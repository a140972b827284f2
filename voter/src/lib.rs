//! The voter: out of what several diverse routers say about one thing, what is to be said outside.
//!
//! Everything here is a pure function of its arguments. It knows no routes, no sockets and no
//! clock, allocates nothing (there is no allocator in it) and cannot panic. The paper asks that the
//! voter be simple enough to be trusted (section 3.1); this crate is all there is to trust for a
//! verdict.
//!
//! For every key (a prefix on a session, a destination in the kernel) the caller keeps each
//! instance's candidate, the winner, what stands overruled, and two times. Whenever one of them or
//! the electorate changes, and at [`Outcome::recheck_at`], it calls [`decide`] and stores what
//! comes back. The tables in tests/tables show how that goes; tests/model.rs checks it
//! exhaustively.
#![forbid(unsafe_code)]
#![no_std]

mod fault;
mod members;
mod strategy;

pub use fault::{majority_split, wrong_for_long};
pub use members::Members;
use strategy::Poll;

/// A time or a duration in milliseconds, on any clock that never goes back.
pub type Millis = u64;

/// When a value is published before the key is steady (paper section 3.2). Once it is steady, a
/// strict majority of the electorate decides under every strategy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// As soon as k agree; never fewer than a strict majority, all of them if they are fewer than
    /// k.
    WaitForConsensus {
        /// How many must agree.
        k: u8,
    },
    /// As soon as a strict majority agrees.
    ContinuousMajority,
    /// The master's value at once; while it cannot make up its mind ([`Ballot::restless`]), the
    /// majority's.
    MasterSlave,
    /// The first new value that k agree on, at once; never fewer than two where there are two.
    /// Below a strict majority it is the fastest that still outvotes k - 1 liars.
    FirstK {
        /// How many must agree.
        k: u8,
    },
}

/// How to vote; the same for all keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The strategy.
    pub strategy: Strategy,
    /// T: a key left alone for this long is steady.
    pub steady_ms: Millis,
    /// A key that is still being disturbed this long after it first was is treated as steady.
    pub flap_cap_ms: Millis,
    /// With fewer in the electorate than this, nothing new is published; 0 is as 1.
    pub min_voters: u8,
}

impl Rules {
    /// From when on a key with these disturbances is steady.
    pub fn steady_at(&self, first_disturbed: Millis, last_disturbed: Millis) -> Millis {
        let quiet = last_disturbed.saturating_add(self.steady_ms);
        quiet.min(first_disturbed.saturating_add(self.flap_cap_ms))
    }

    /// The new (first, last) of a key that is disturbed `now`: its candidate changed, or input for
    /// it came from a peer. Disturbing a steady key begins a new period, so a key that never rests
    /// is decided once in every `flap_cap_ms`. Whoever joins or leaves the electorate does not
    /// disturb.
    pub fn disturb(&self, first: Millis, last: Millis, now: Millis) -> (Millis, Millis) {
        if now >= self.steady_at(first, last) { (now, now) } else { (first, now) }
    }
}

/// How two values are compared. Values are small ids; the same id always agrees. Agreement is
/// symmetric but need not be transitive: a route without a link-local next hop agrees with two that
/// differ in theirs. Support for a value is counted against that value, never along a chain.
pub trait Agreement<V> {
    /// Whether `a` and `b` mean the same.
    fn agrees(&self, a: V, b: V) -> bool;
    /// Whether `a` is the form to publish rather than `b` where as many say the one as the other;
    /// asked only of values that agree. A strict order.
    fn prefers(&self, a: V, b: V) -> bool;
    /// Whether `b` has lost something that `a` has kept: then `a` is the form to publish, however
    /// many say which. Asked only of values that agree. A strict weak order.
    fn keeps_more(&self, _a: V, _b: V) -> bool {
        false
    }
}

/// Values agree only where they are equal.
#[derive(Clone, Copy, Default, Debug)]
pub struct Exact;

impl<V: Eq> Agreement<V> for Exact {
    fn agrees(&self, a: V, b: V) -> bool {
        a == b
    }
    fn prefers(&self, _: V, _: V) -> bool {
        false
    }
}

/// Everything about one key.
#[derive(Clone, Copy, Debug)]
pub struct Ballot<'a, V> {
    /// What each instance says, by index. To say "none" is to say something. An index in a set that
    /// has no candidate here does not count.
    pub candidates: &'a [V],
    /// Those who count: admitted, and not abstaining on this key.
    pub electorate: Members,
    /// Master-slave's order of succession: the first of it in the electorate is the master (if none
    /// is, the lowest index). Unused otherwise.
    pub master_line: &'a [u8],
    /// What won last; at first "none".
    pub winner: V,
    /// [`Outcome::overruled`] of the last call for this key; at first `None`. Its id must not be
    /// reused for another value while it stands here.
    pub overruled: Option<V>,
    /// Master-slave: the master has said too many things about this key without leaving it alone
    /// for T. Unused otherwise.
    pub restless: bool,
    /// When the present time of unrest began; see [`Rules::disturb`].
    pub first_disturbed: Millis,
    /// When the key was last disturbed.
    pub last_disturbed: Millis,
}

/// What to do about the winner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<V> {
    /// The winner is now this, one of the electorate's candidates and not the former winner.
    Publish(V),
    /// The winner stays.
    Keep,
}

/// A verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome<V> {
    /// What to publish.
    pub decision: Decision<V>,
    /// When time alone will change the outcome (always after `now`). `None`: it never will, and
    /// `dissent` and `lost_quorum` are final. While it is `Some`, those of before still stand, but
    /// for those who are `with`.
    pub recheck_at: Option<Millis>,
    /// Those of the electorate and the watched who say now what a strict majority says, steady or
    /// not; nobody without one. What stood against them on this key, or for want of a majority, is
    /// over: wrong is wrong without a break.
    pub with: Members,
    /// Those of the electorate and the watched who are not with the steady strict majority.
    pub dissent: Members,
    /// Steady, but without a strict majority or with too few voters (if any): what is published
    /// stays (fail static), and an event is due.
    pub lost_quorum: bool,
    /// The key had T of rest, or reached the cap for flapping.
    pub steady: bool,
    /// Goes into the next [`Ballot::overruled`]. Master-slave: the master's value, while a majority
    /// has overruled it. First-k: the value the winner displaced, while k are not with the winner.
    /// Otherwise always `None`.
    pub overruled: Option<V>,
}

/// Decides one key. `watched` are compared but not counted: observers, and whoever else is fed.
#[inline]
pub fn decide<V: Copy + Eq, A: Agreement<V>>(
    rules: &Rules,
    ballot: &Ballot<'_, V>,
    watched: Members,
    agreement: &A,
    now: Millis,
) -> Outcome<V> {
    let present = Members::first(ballot.candidates.len());
    let electorate = ballot.electorate.intersect(present);
    let steady_at = rules.steady_at(ballot.first_disturbed, ballot.last_disturbed);
    let steady = now >= steady_at;
    let mut outcome = Outcome {
        decision: Decision::Keep,
        recheck_at: None,
        with: Members::EMPTY,
        dissent: Members::EMPTY,
        lost_quorum: false,
        steady,
        overruled: ballot.overruled,
    };
    let poll = Poll { ballot, electorate, agreement, steady };
    let Some(best) = poll.largest_group(electorate) else {
        return outcome; // nobody votes: not a disagreement, and the caller knows
    };
    if electorate.len() < usize::from(rules.min_voters) {
        outcome.lost_quorum = steady;
        outcome.recheck_at = (!steady).then_some(steady_at);
        return outcome;
    }
    let (chosen, overruled) = poll.choose(rules.strategy, &poll.kept(best));
    if chosen != ballot.winner {
        outcome.decision = Decision::Publish(chosen);
    }
    outcome.overruled = overruled;
    // Once steady, whoever is apart dissents, or nobody has a quorum; until then it is too early to
    // tell.
    let observers = watched.intersect(present).minus(electorate);
    let with = best.supporters.union(poll.supporters(observers, best.value));
    let apart = electorate.union(observers).minus(with);
    outcome.with = if best.majority { with } else { Members::EMPTY };
    if !steady {
        outcome.recheck_at = (!apart.is_empty()).then_some(steady_at);
    } else if best.majority {
        outcome.dissent = apart;
    } else {
        outcome.lost_quorum = true;
    }
    outcome
}
