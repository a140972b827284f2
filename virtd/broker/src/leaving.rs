//! When an instance has left a session by its own will, and what the session does about it. Pure:
//! no session, no clock, no I/O.
//!
//! Daemons end a session for reasons that protect their operator: maximum prefixes, BFD, a link
//! that went down, a shutdown. So the life of a session is voted on, as its routes are. [`meaning`]
//! says what the end of one leg means, [`count`] what the leaves together mean for the session,
//! [`farewell`] what the peer is told. leaving/*.txt hold the rules as tables to be read.
//!
//! ```text
//! leg ends ─▶ meaning ─┬─▶ leave ─▶ count ─┬─▶ a majority: the session ends, farewell to the peer
//!                      │                   ├─▶ a tie: it stays, unless virtd sees the link or our address gone
//!                      │                   └─▶ fewer: it stays, the instance is told to differ
//!                      ├─▶ poison: an UPDATE may have done it, and is searched
//!                      └─▶ its own end, ours, a fault: the session goes on
//! ```

use super::io::{Death, Micros};
use voter::Members;
use wire::bgp::Notification;

/// A process that exits closes its legs first and its control channel last: so long the end of a
/// leg proves nothing.
pub const CHANNEL_US: Micros = 200_000;
/// A daemon that is stopped says Cease and ends soon after: so long a Cease may turn out to be no
/// more than that. With the tick of the timers it comes to a second at most.
pub const OWN_END_US: Micros = 900_000;
/// How much earlier or later than the leg's end a link, an address or a route may change to have
/// caused it.
pub const MOVED_US: Micros = 2_000_000;
/// What happens to an instance's legs for so long after virtd has done something to it is virtd's
/// doing.
pub const OURS_US: Micros = 5_000_000;
/// Legs that end within so long of each other end together.
pub const TOGETHER_US: Micros = 2_000_000;

/// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
pub mod cease {
    /// Maximum Number of Prefixes Reached.
    pub const MAX_PREFIXES: u8 = 1;
    /// Administrative Shutdown.
    pub const SHUTDOWN: u8 = 2;
    /// Peer De-configured.
    pub const DECONFIGURED: u8 = 3;
    /// Administrative Reset.
    pub const RESET: u8 = 4;
    /// Connection Collision Resolution.
    pub const COLLISION: u8 = 7;
    /// Hard Reset: what it is about stands in its data.
    pub const HARD_RESET: u8 = 9;
    /// BFD Down.
    pub const BFD_DOWN: u8 = 10;
}

/// The end of an established leg, and all that bears on what it means.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The NOTIFICATION with which the instance ended it, a Hard Reset taken apart; `None`: it
    /// closed it without one.
    pub said: Option<Notification>,
    /// How long ago that was.
    pub age: Micros,
    /// More than one voter is configured.
    pub several: bool,
    /// virtd has done something to the instance a moment before: ended, drained, reloaded it, reset
    /// a connection or a link.
    pub ours: bool,
    /// A process of the instance had ended a moment before, and this is what is left of it, or a
    /// new one.
    pub reborn: bool,
    /// A process of the instance has ended since, or just before.
    pub process_ended: bool,
    /// virtd starts it, and so will learn how its process ended.
    pub supervised: bool,
    /// How, once that is known.
    pub death: Option<Death>,
    /// The instance closed listening sockets at that time, whether or not it has opened others
    /// since.
    pub listeners_closed: bool,
    /// A link, an address or the route to the peer changed at that time.
    pub moved: bool,
    /// An UPDATE went down this leg so shortly before that it may have caused this.
    pub update_in_reach: bool,
    /// The search has cleared every such UPDATE.
    pub cleared: bool,
}

/// What the end of a leg means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// The instance has left the session by its own will.
    Leave,
    /// Too early to tell: look again.
    Wait,
    /// Its process ended, in order: it leaves every session, and none of them by will.
    OwnEnd,
    /// Its process ended, ended by something outside: nothing of what a peer said did that.
    Ended,
    /// Its process died, maybe of an UPDATE.
    Died,
    /// It runs and has closed the leg, maybe because of an UPDATE: that is searched first.
    Poison,
    /// virtd has brought it about.
    Ours,
    /// A fault of the instance's: it does not end a session in that way by its operator's will.
    Fault,
}

/// What the end of an established leg means.
pub fn meaning(e: &Ending) -> Meaning {
    match by_itself(e) {
        Meaning::Leave if e.reborn => Meaning::Ours,
        means => means,
    }
}

/// The same, whatever happened to the instance before.
fn by_itself(e: &Ending) -> Meaning {
    match &e.said {
        Some(n) if n.code != 6 || n.subcode == cease::COLLISION => Meaning::Fault,
        None if e.process_ended => died(e),
        _ if e.ours => Meaning::Ours,
        // What moves the ground under a session is its reason: it need not be waited for another.
        Some(n) => match (e.several && may_be_own_end(n.subcode), e.process_ended) {
            (true, true) => Meaning::OwnEnd,
            (true, false) if e.age < OWN_END_US && !e.moved => Meaning::Wait,
            _ => Meaning::Leave,
        },
        None if e.age < CHANNEL_US => Meaning::Wait,
        None if e.moved || e.listeners_closed || !e.update_in_reach || e.cleared => Meaning::Leave,
        None => Meaning::Poison,
    }
}

/// Without a word, and its process has ended.
fn died(e: &Ending) -> Meaning {
    match e.death {
        Some(Death::InOrder) => Meaning::OwnEnd,
        Some(Death::FromOutside) => Meaning::Ended,
        None if e.supervised && e.age < OWN_END_US => Meaning::Wait,
        _ => Meaning::Died,
    }
}

/// What a daemon says that is being stopped; the other subcodes name a reason that has nothing to
/// do with its own end.
fn may_be_own_end(subcode: u8) -> bool {
    matches!(subcode, 0 | cease::SHUTDOWN | cease::DECONFIGURED | cease::RESET)
}

/// What the leaves mean for the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    /// It ends.
    Ends,
    /// Half of them have left: it stays.
    Tie,
    /// It stays.
    Stays,
}

/// Counts: `electorate` are the live voters that have had an established leg since the session came
/// up, `left` those that have left it while they had a vote, `cut` whether virtd sees that the link
/// of the peer is down or our own address gone.
pub fn count(electorate: Members, left: Members, cut: bool) -> Count {
    let left = left.intersect(electorate).len();
    match (left * 2).cmp(&electorate.len()) {
        _ if left == 0 => Count::Stays,
        std::cmp::Ordering::Greater => Count::Ends,
        std::cmp::Ordering::Equal if cut => Count::Ends,
        std::cmp::Ordering::Equal => Count::Tie,
        std::cmp::Ordering::Less => Count::Stays,
    }
}

/// What the peer is told at the end: what most have said (code and subcode), on a tie the first of
/// them, and Cease without a reason where nobody said anything. `said` in the order in which they
/// left.
pub fn farewell<'a>(said: impl Iterator<Item = Option<&'a Notification>> + Clone) -> Notification {
    let said = said.flatten();
    let same = |n: &Notification| said.clone().filter(|o| (o.code, o.subcode) == (n.code, n.subcode)).count();
    let mut best: Option<(usize, &Notification)> = None;
    for n in said.clone() {
        if best.is_none_or(|(most, _)| same(n) > most) {
            best = Some((same(n), n));
        }
    }
    best.map_or_else(|| Notification::new(6, 0), |(_, n)| n.clone())
}

/// Takes a Hard Reset apart (RFC 8538 section 3): its data are the NOTIFICATION that is meant.
/// Towards the peer there never is one, since graceful restart is not negotiated with it.
pub fn plain(n: Notification) -> Notification {
    if (n.code, n.subcode) != (6, cease::HARD_RESET) {
        return n;
    }
    match n.data.split_first_chunk::<2>() {
        Some(([code, subcode], data)) if (*code, *subcode) != (6, cease::HARD_RESET) => {
            Notification { data: data.to_vec(), ..Notification::new(*code, *subcode) }
        }
        _ => Notification::new(6, 0),
    }
}

/// Whether after an end with these words the session comes back only when a majority of the live
/// voters has sent an OPEN for it.
pub fn needs_consent(n: &Notification) -> bool {
    n.code == 6 && matches!(n.subcode, cease::MAX_PREFIXES | cease::SHUTDOWN | cease::DECONFIGURED)
}

#[cfg(test)]
#[path = "leaving_tests.rs"]
mod tests;
