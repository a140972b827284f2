//! The UPDATE that kills an instance must not be replayed to it for ever (docs/DECISIONS.md,
//! "Poison").
//!
//! When a leg ends without an operator's wish, what was delivered last to that instance is suspect.
//! Suspects are withheld from it, and from it alone: a replay leaves them out, and on their
//! prefixes it abstains. Once it has been level for a while half of them are released; if it dies
//! again the culprit is in that half, else it is in the rest, until one message is left or it has
//! cost too many restarts. Who survives all of its suspects was killed by something else.
//!
//! ```text
//! death ──▶ all suspects held ──▶ level for a while ──▶ half on trial ──┬─▶ dies: that half are the suspects ──▶ one left: poison
//!                                        ▲                                └─▶ lives: they are innocent ──┬──▶ none left: released
//!                                        └───────────────────────────────────────────────────────────────┘
//! ```
//! A malformed message (`inbound = "opaque"`) needs no trial: it is the poison, by its bytes, and a
//! replay never had it. The others were given it and each made of it what it would; so this one
//! abstains on its prefixes once they rest, until the peer says something else about them.
//!
//! What is told to it at last it is not judged on at once: see [`answers`].
//!
//! A finding outlives the route: what is announced again with the same attributes is withheld at
//! once, until an operator restarts the instance.

mod answers;
mod findings;
mod holds;
mod report;

pub use report::{End, Report, tell};

use super::io::Micros;
use answers::{Answers, Due};
use bytes::Bytes;
use findings::Findings;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use holds::{Held, Why};
use std::collections::VecDeque;
use std::hash::BuildHasher;
use voter::Members;
use wire::bgp::Prefix;

/// Deliveries remembered: a Unix socket holds some 200 KiB that its reader has not seen, and what
/// it died of stands in there.
const MAX_DELIVERED: usize = 4096;
/// The same in octets.
const MAX_OCTETS: usize = 1 << 20;
/// What was delivered longer ago than this before a crash has been digested.
const CRASH_US: Micros = 2_000_000;
/// Longer than the hold time by this: timers are looked at now and then only.
const HANG_US: Micros = 1_000_000;
/// Messages held at most, for each instance, and no more than [`MAX_OCTETS`]; beyond that the
/// oldest go free.
const MAX_HELD: usize = 4096;

/// What was given to some instances; its octets stand in [`Poison::octets`].
#[derive(Clone, Copy, Debug)]
struct Delivery {
    at: Micros,
    session: usize,
    to: Members,
    len: usize,
}

/// A message that may be the one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Suspect {
    /// The session it came over.
    pub session: usize,
    /// The whole message, as it was delivered; a copy, which keeps nothing else in memory.
    pub bytes: Bytes,
    /// Its prefixes, with the stored attributes they had then (hashed). Of a malformed one: those
    /// about which its mended form still stands.
    pub keys: Vec<(Prefix, u64)>,
    /// Hygiene would have mended it.
    pub malformed: bool,
}

/// The search for the one among several.
#[derive(Debug, Default)]
struct Hunt {
    /// Withheld.
    held: Vec<Suspect>,
    /// Released, to see what happens. The instance abstains on them until that is over: it may not
    /// have said anything about them yet.
    trial: Vec<Suspect>,
    /// Innocent, and told again: the same holds for these.
    freed: Vec<Suspect>,
    /// The poison was found: what follows is only tidying up.
    found: bool,
    /// Since when the instance has been level in this step.
    quiet_since: Option<Micros>,
    /// How long it must live at least before what is on trial is innocent: a hang shows only when
    /// the hold time has passed.
    patience: Micros,
    deaths: u32,
}

/// What is known about one instance.
#[derive(Debug, Default)]
struct Patient {
    hunt: Option<Hunt>,
    /// Prefixes on which it abstains, and whether their route is withheld or has been told
    /// meanwhile.
    held: HashMap<Prefix, Vec<Held>>,
    /// Malformed messages that are never delivered again as they came.
    bytes: HashSet<Bytes>,
    /// Routes that it does not survive, whether they stand now or not.
    findings: Findings,
    /// Legs that ended and are still to be looked at.
    ended: Vec<Ended>,
}

/// A leg that ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    session: usize,
    at: Micros,
    /// Since when suspicion goes back.
    from: Micros,
    how: End,
}

/// What follows from a death or from time.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// So many messages are withheld from now on; these others are innocent and to be told again.
    Suspected(usize, Vec<Suspect>),
    /// It is over.
    Found {
        /// These stay withheld.
        found: Vec<Suspect>,
        /// What was delivered before them.
        before: Vec<Suspect>,
        /// What is innocent and to be told again.
        innocent: Vec<Suspect>,
        /// How the instance ended this time.
        end: End,
    },
    /// These are to be told again: they go on trial, or are innocent.
    Release(Vec<Suspect>, bool),
}

/// See the module's comment.
#[derive(Debug)]
pub struct Poison {
    delivered: VecDeque<Delivery>,
    /// Copied, so that a small message does not keep the large buffer alive that it was read into.
    octets: VecDeque<u8>,
    patients: Vec<Patient>,
    /// Instances that abstain on something: the update path asks no further where there is none.
    any: Members,
    /// Instances for which something is known that must not be given to them.
    marked: Members,
    /// Routes withheld because of a finding, until they have been told: instance, prefix.
    again: Vec<(usize, Prefix)>,
    answers: Answers,
    hasher: RandomState,
    limit: u32,
}

impl Poison {
    /// Nothing delivered, nobody dead. `limit`: restarts that a search may cost.
    pub fn new(instances: usize, limit: u32) -> Poison {
        Poison {
            delivered: VecDeque::new(),
            octets: VecDeque::new(),
            patients: (0..instances).map(|_| Patient::default()).collect(),
            any: Members::default(),
            marked: Members::default(),
            again: Vec::new(),
            answers: Answers::default(),
            hasher: RandomState::default(),
            limit,
        }
    }

    /// Some instances are given a message (or several in one piece).
    pub fn deliver(&mut self, now: Micros, session: usize, to: Members, bytes: &Bytes) {
        let len = bytes.len();
        if to.is_empty() || len > MAX_OCTETS {
            return;
        }
        while self.delivered.len() >= MAX_DELIVERED || self.octets.len() + len > MAX_OCTETS {
            let Some(old) = self.delivered.pop_front() else { break };
            self.octets.drain(..old.len);
        }
        self.octets.extend(&bytes[..]);
        self.delivered.push_back(Delivery { at: now, session, to, len });
    }

    /// A leg of instance `i` ended in a way that an UPDATE may have caused.
    pub fn ended(&mut self, i: usize, session: usize, now: Micros, how: End) {
        // How long it may have been dead before it showed.
        let back = if let End::Hung { hold_s } = how { Micros::from(hold_s) * 1_000_000 } else { 0 };
        if let Some(p) = self.patients.get_mut(i) {
            p.ended.push(Ended { session, at: now, from: now.saturating_sub(back + CRASH_US), how });
        }
    }

    /// Whether instance `i` was given an UPDATE over a session so shortly before `at` that a leg
    /// that ended then without a word may have ended because of it.
    pub fn reaches(&self, i: usize, session: usize, at: Micros) -> bool {
        let from = at.saturating_sub(CRASH_US);
        let late = self.delivered.iter().rev().skip_while(|d| d.at > at).take_while(|d| d.at >= from);
        late.into_iter().any(|d| d.session == session && d.to.contains(i as u8))
    }

    /// Whether it is not clear yet which UPDATE ended a leg of instance `i`, or whether any did.
    pub fn searches(&self, i: usize) -> bool {
        let open = |h: &Hunt| !h.found;
        self.patients.get(i).is_some_and(|p| !p.ended.is_empty() || p.hunt.as_ref().is_some_and(open))
    }

    /// Looks at the legs that ended since the last time. `excused`: it was ended on purpose.
    /// `until`: see [`Poison::changed`]. `suspect` makes a suspect of a message that was delivered
    /// over a session; `None` where it announces nothing.
    pub fn look(
        &mut self,
        i: usize,
        excused: bool,
        until: Micros,
        suspect: impl Fn(usize, &Bytes) -> Vec<Suspect>,
    ) -> Option<Step> {
        let p = self.patients.get_mut(i)?;
        let ended = std::mem::take(&mut p.ended);
        if ended.is_empty() || excused {
            return None;
        }
        let mine = |d: &Delivery| {
            d.to.contains(i as u8) && ended.iter().any(|e| e.session == d.session && d.at >= e.from && d.at <= e.at)
        };
        let (mut recent, mut from) = (Vec::new(), 0);
        for d in &self.delivered {
            let to = from + d.len;
            if mine(d) {
                recent.extend(suspect(d.session, &self.octets.range(from..to).copied().collect()));
            }
            from = to;
        }
        let how = ended.iter().map(|e| e.how).max().unwrap_or(End::Closed);
        let (step, free) = p.died(recent, how, self.limit);
        self.await_answers(i, &free, until);
        let p = self.patients.get_mut(i)?;
        if let Some(Step::Found { found, .. }) = &step {
            // A key without attributes had been taken back before it was looked at: there is
            // nothing to know it again by.
            let gone = self.hasher.hash_one(&[][..] as &[u8]);
            for s in found.iter().filter(|s| !s.malformed) {
                let keys = s.keys.iter().filter(|(_, hash)| *hash != gone);
                keys.for_each(|(prefix, hash)| p.findings.insert(s.session, *prefix, *hash));
            }
        }
        self.note(i);
        step
    }

    /// Goes on with the search where instance `i` has been level for `quiet` (`level` says whether
    /// it is now).
    pub fn proceed(&mut self, i: usize, level: bool, now: Micros, quiet: Micros) -> Option<Step> {
        let p = self.patients.get_mut(i)?;
        let hunt = p.hunt.as_mut()?;
        if !level {
            hunt.quiet_since = None;
            return None;
        }
        if now < *hunt.quiet_since.get_or_insert(now) + quiet.max(hunt.patience) {
            return None;
        }
        hunt.quiet_since = None;
        // Those have been told, and it lives.
        let mut told = std::mem::take(&mut hunt.trial);
        told.append(&mut hunt.freed);
        let step = if hunt.held.is_empty() {
            let over = !hunt.found;
            p.hunt = None;
            Step::Release(Vec::new(), over)
        } else {
            let half = hunt.held.len().div_ceil(2);
            hunt.trial = hunt.held.drain(..half).collect();
            let released = hunt.trial.clone();
            p.mark_again(&released, Why::Told);
            Step::Release(released, false)
        };
        self.await_answers(i, &told, now + quiet);
        self.note(i);
        Some(step)
    }

    /// Whether nobody abstains on anything.
    pub fn is_idle(&self) -> bool {
        self.any.is_empty()
    }

    /// The instances that are not told what stands about `prefix`, or have not answered to it in
    /// this table (a session's index, or the FIB), and therefore abstain on it there; where the key
    /// `rests`, also those that were told another form of it than the others.
    pub fn abstainers(&self, prefix: &Prefix, table: u32, rests: bool) -> Members {
        let holds = |i: &u8| self.patients.get(usize::from(*i)).is_some_and(|p| p.abstains(prefix, table, rests));
        self.any.iter().filter(holds).collect()
    }

    /// Instance `i` says something about `prefix` in this table. True where it ceases to abstain
    /// there.
    pub fn said(&mut self, i: usize, table: u32, prefix: &Prefix) -> bool {
        if !self.any.contains(i as u8) {
            return false;
        }
        let Some(p) = self.patients.get_mut(i) else { return false };
        let did = p.abstains(prefix, table, true);
        for h in p.held.get_mut(prefix).into_iter().flatten() {
            if matches!(h.why, Why::Told | Why::Answering(_)) && !h.answered.contains(&table) {
                h.answered.push(table);
            }
        }
        did && !p.abstains(prefix, table, true)
    }

    /// The prefixes on which somebody ceases to abstain because it can have answered by `now`.
    pub fn take_answered(&mut self, now: Micros) -> Vec<Prefix> {
        let mut lifted = Vec::new();
        for due in self.answers.take(now) {
            let Some(p) = self.patients.get_mut(due.instance) else { continue };
            // What is withheld again meanwhile, and told again, has a time of its own.
            let is_over = |h: &Held| h.session == due.session && matches!(h.why, Why::Answering(at) if at <= due.until);
            if p.drop_held(&due.prefix, is_over) {
                lifted.push(due.prefix);
            }
            self.note(due.instance);
        }
        lifted
    }

    /// Instance `i` is told these: it is judged on each when it has answered, or `until` then.
    fn await_answers(&mut self, i: usize, told: &[Suspect], until: Micros) {
        let Some(p) = self.patients.get_mut(i) else { return };
        for s in told {
            for (prefix, hash) in &s.keys {
                if p.told(s.session, prefix, until, |h| h.hash == *hash && h.why != Why::Mended) {
                    self.answers.wait(Due { until, instance: i, session: s.session, prefix: *prefix });
                }
            }
        }
    }

    /// Whether instance `i` is not to be told what stands about `prefix` on this session.
    pub fn withholds(&self, i: usize, session: usize, prefix: &Prefix) -> bool {
        self.any.contains(i as u8) && self.patients.get(i).is_some_and(|p| p.withholds(session, prefix))
    }

    /// Whether instance `i` is never given this message as it came.
    pub fn refuses(&self, i: usize, bytes: &Bytes) -> bool {
        self.marked.contains(i as u8) && self.patients.get(i).is_some_and(|p| p.bytes.contains(bytes))
    }

    /// How many prefixes and messages are withheld from instance `i`, or on trial.
    pub fn withheld(&self, i: usize) -> usize {
        let some = |list: &&Vec<Held>| list.iter().any(|h| !matches!(h.why, Why::Answering(_)));
        self.patients.get(i).map_or(0, |p| p.held.values().filter(some).count() + p.bytes.len())
    }

    /// A peer now says something about `prefix`: what was withheld is that no more, unless it is
    /// the same again; and what was found before is withheld, whatever came between. No attributes:
    /// it is withdrawn, and who was not told of it says what is right already. Who is told
    /// something else abstains until it has answered, or `until` then. True where somebody begins
    /// or ceases to abstain.
    pub fn changed(&mut self, session: usize, prefix: &Prefix, attributes: &[u8], until: Micros) -> bool {
        let concerned = self.any.union(self.marked);
        if concerned.is_empty() {
            return false;
        }
        let hash = self.hasher.hash_one(attributes);
        let mut moved = false;
        for i in concerned.iter().map(usize::from) {
            let Some(p) = self.patients.get_mut(i) else { continue };
            let known = !attributes.is_empty() && p.findings.contains(session, *prefix, hash);
            let did_abstain = p.held.contains_key(prefix);
            let is_other = |h: &Held| h.hash != hash || h.why == Why::Mended;
            if known || attributes.is_empty() {
                p.drop_held(prefix, |h| h.session == session && is_other(h));
            } else if p.told(session, prefix, until, is_other) {
                self.answers.wait(Due { until, instance: i, session, prefix: *prefix });
            }
            if known && !p.withholds(session, prefix) {
                p.mark_one(session, *prefix, hash, Why::Withheld);
                self.again.push((i, *prefix));
            }
            moved |= did_abstain != p.held.contains_key(prefix);
            self.note(i);
        }
        moved
    }

    /// A peer's message is delivered to everybody else as it came: whoever refuses it is told its
    /// mended form, and abstains on its prefixes. True where somebody does.
    pub fn refused(&mut self, session: usize, bytes: &Bytes, keys: &[Prefix]) -> bool {
        let mut some = false;
        for i in self.marked.iter().map(usize::from) {
            let Some(p) = self.patients.get_mut(i).filter(|p| p.bytes.contains(bytes)) else { continue };
            // The hash is nobody's: anything else said about the prefix ends it.
            keys.iter().for_each(|prefix| p.mark_one(session, *prefix, 0, Why::Mended));
            some |= !keys.is_empty();
            self.note(i);
        }
        some
    }

    /// What was withheld since the last time because it was found before: instance, prefix.
    pub fn take_again(&mut self) -> Vec<(usize, Prefix)> {
        std::mem::take(&mut self.again)
    }

    /// An operator wants instance `i` to be given everything, as if nothing had ever killed it.
    /// What it says before it is ended and told is not held against it, or anybody, `until` then.
    pub fn forgive(&mut self, i: usize, until: Micros) {
        if let Some(p) = self.patients.get_mut(i) {
            *p = Patient { held: std::mem::take(&mut p.held), ..Patient::default() };
            let held: Vec<(Prefix, usize)> =
                p.held.iter().flat_map(|(prefix, list)| list.iter().map(|h| (*prefix, h.session))).collect();
            for (prefix, session) in held {
                if p.told(session, &prefix, until, |_| true) {
                    self.answers.wait(Due { until, instance: i, session, prefix });
                }
            }
        }
        self.note(i);
    }

    /// There are so many places for instances now.
    pub fn widen(&mut self, instances: usize) {
        self.patients.resize_with(instances.max(self.patients.len()), Patient::default);
    }

    /// Restarts that a search may cost.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Instance `i` is no more, and its place may be another's.
    pub fn forget(&mut self, i: usize) {
        if let Some(p) = self.patients.get_mut(i) {
            *p = Patient::default();
        }
        self.note(i);
        self.answers.forget(i);
        self.delivered.iter_mut().for_each(|d| d.to.remove(i as u8));
        self.again.retain(|(who, _)| *who != i);
    }

    /// A session ended: its routes are nobody's any more.
    pub fn session_gone(&mut self, session: usize) {
        // What it was given stays, and is nobody's: sessions come and go less often than messages.
        for d in self.delivered.iter_mut().filter(|d| d.session == session) {
            d.to = Members::default();
        }
        for i in 0..self.patients.len() {
            let Some(p) = self.patients.get_mut(i) else { continue };
            p.ended.retain(|e| e.session != session);
            p.held.retain(|_, list| {
                list.retain(|h| h.session != session);
                !list.is_empty()
            });
            if let Some(hunt) = &mut p.hunt {
                hunt.held.retain(|s| s.session != session);
                hunt.trial.retain(|s| s.session != session);
                hunt.freed.retain(|s| s.session != session);
            }
            self.note(i);
        }
    }

    /// The place of this session may be another peer's: what was found about the first is none of
    /// the second's.
    pub fn forget_session(&mut self, session: usize) {
        self.session_gone(session);
        self.patients.iter_mut().for_each(|p| p.findings.forget_session(session));
        self.answers.forget_session(session);
        (0..self.patients.len()).for_each(|i| self.note(i));
    }

    /// What names stored attributes in [`Suspect::keys`].
    pub fn hasher(&self) -> RandomState {
        self.hasher.clone()
    }

    fn note(&mut self, i: usize) {
        let Some(p) = self.patients.get(i) else { return };
        let set = |members: &mut Members, on: bool| if on { members.insert(i as u8) } else { members.remove(i as u8) };
        set(&mut self.any, !p.held.is_empty());
        set(&mut self.marked, !p.bytes.is_empty() || !p.findings.is_empty());
    }
}

impl Hunt {
    /// Takes out the oldest of what is held, where it is too much.
    fn surplus(&mut self) -> Vec<Suspect> {
        let (mut room, mut kept) = (MAX_OCTETS, 0);
        for s in self.held.iter().rev().take(MAX_HELD) {
            let Some(left) = room.checked_sub(s.bytes.len()) else { break };
            (room, kept) = (left, kept + 1);
        }
        self.held.drain(..self.held.len() - kept).collect()
    }
}

impl Patient {
    /// It died; `recent` was delivered shortly before. What follows, and what is withheld no more
    /// for want of room.
    fn died(&mut self, recent: Vec<Suspect>, end: End, limit: u32) -> (Option<Step>, Vec<Suspect>) {
        // The last malformed one needs no trial: nothing else is out of the ordinary.
        if let Some((at, found)) = recent.iter().rposition(|s| s.malformed).and_then(|at| Some((at, recent.get(at)?))) {
            let (before, found) = (recent.get(..at).unwrap_or_default().to_vec(), found.clone());
            if self.bytes.len() < MAX_HELD {
                self.bytes.insert(found.bytes.clone());
            }
            self.mark(std::slice::from_ref(&found), Why::Mended);
            let innocent = self.give_up();
            return (Some(Step::Found { found: vec![found], before, innocent, end }), Vec::new());
        }
        let mut hunt = self.hunt.take().unwrap_or_default();
        hunt.quiet_since = None;
        hunt.deaths += 1;
        if let End::Hung { hold_s } = end {
            hunt.patience = Micros::from(hold_s) * 1_000_000 + HANG_US;
        }
        let innocent;
        let mut free = Vec::new();
        if !hunt.trial.is_empty() {
            // Those that were not on trial are innocent; they are told with everything else when it
            // comes back.
            innocent = std::mem::take(&mut hunt.held);
            self.mark_again(&innocent, Why::Told);
            hunt.freed.extend(innocent.iter().cloned());
            hunt.held = std::mem::take(&mut hunt.trial);
            self.mark_again(&hunt.held, Why::Withheld);
            // What the peer took back and has said again meanwhile is withheld again.
            let culprits: HashSet<&Suspect> = hunt.held.iter().collect();
            let said_again: Vec<Suspect> = recent.iter().filter(|s| culprits.contains(s)).cloned().collect();
            self.mark(&said_again, Why::Withheld);
        } else {
            // Nothing on trial: whatever it was is among the new ones.
            let mut known: HashSet<Suspect> = hunt.held.iter().cloned().collect();
            self.mark(&recent, Why::Withheld);
            hunt.held.extend(recent.iter().filter(|s| !s.keys.is_empty() && known.insert((*s).clone())).cloned());
            innocent = hunt.surplus();
            free.extend(innocent.iter().cloned());
        }
        if hunt.held.is_empty() {
            return (None, free);
        }
        // Twice dead of it and alone, or the search has cost enough: what is left stays withheld.
        if (hunt.held.len() == 1 && hunt.deaths > 1) || hunt.deaths > limit {
            let found = std::mem::take(&mut hunt.held);
            let culprits: HashSet<&Suspect> = found.iter().collect();
            let before: Vec<Suspect> = recent.into_iter().filter(|s| !culprits.contains(s)).collect();
            drop(culprits);
            hunt.found = true;
            self.hunt = Some(hunt);
            return (Some(Step::Found { found, before, innocent, end }), free);
        }
        let n = hunt.held.len();
        self.hunt = Some(hunt);
        (Some(Step::Suspected(n, innocent)), free)
    }

    /// The search is over without its end: what it withheld is told, and counts once the instance
    /// has been level for a while.
    fn give_up(&mut self) -> Vec<Suspect> {
        let Some(mut hunt) = self.hunt.take() else { return Vec::new() };
        let mut innocent = std::mem::take(&mut hunt.held);
        innocent.append(&mut hunt.trial);
        self.mark_again(&innocent, Why::Told);
        hunt.freed.extend(innocent.iter().cloned());
        if !hunt.freed.is_empty() {
            self.hunt = Some(Hunt { freed: hunt.freed, found: true, ..Hunt::default() });
        }
        innocent
    }
}

#[cfg(test)]
#[path = "poison_tests.rs"]
mod tests;
