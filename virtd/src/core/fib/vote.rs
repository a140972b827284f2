//! The votes on the FIB: as those towards the peers (`session/vote.rs`), with the same rules, so that both agree.

use super::super::dissent;
use super::super::env::Env;
use super::super::io::{FibChange, Output};
use super::super::table::{age_ms, flag};
use super::Fib;
use crate::config::FibScope;
use crate::event::{Event, Said, Severity};
use bytes::Bytes;
use replay::intern::{BlobId, Interner};
use std::cmp::Reverse;
use voter::{Agreement, Ballot, Decision, Members};
use wire::netlink::consts::{RTPROT_BABEL, RTPROT_BGP, RTPROT_ISIS, RTPROT_OSPF, RTPROT_RIP, RTPROT_STATIC};
use wire::netlink::fib::{FibKey, FibRoute};

/// FRR's EIGRP and static routes (FRR, zebra/rt_netlink.h).
const RTPROT_EIGRP: u8 = 192;
const RTPROT_ZSTATIC: u8 = 196;
/// Keys voted on anew in one turn after an electorate changed.
const WALK_BATCH: u32 = 4096;
/// Keys whose time has come that are looked at in one turn.
const RECHECK_BATCH: usize = 8192;
/// Keys handed to the kernel's thread in one turn.
const FLUSH_BATCH: usize = 8192;

/// Routes agree where they do the same with a packet; which of them is preferred does not matter.
struct ByMeaning<'a>(&'a Interner);

impl Agreement<BlobId> for ByMeaning<'_> {
    fn agrees(&self, a: BlobId, b: BlobId) -> bool {
        let some = a != BlobId::NONE && b != BlobId::NONE;
        a == b || some && FibRoute::compared(self.0.bytes(a)) == FibRoute::compared(self.0.bytes(b))
    }

    fn prefers(&self, a: BlobId, b: BlobId) -> bool {
        self.0.bytes(a) < self.0.bytes(b)
    }
}

/// The kind of protocol that a route is of: FRR says which; BIRD's routes may be of any that it runs.
fn class(protocol: u8, scope: FibScope) -> FibScope {
    match protocol {
        RTPROT_BGP => FibScope::BGP,
        RTPROT_OSPF | RTPROT_ISIS | RTPROT_RIP | RTPROT_BABEL | RTPROT_EIGRP => FibScope::IGP,
        RTPROT_STATIC | RTPROT_ZSTATIC => FibScope::STATIC,
        _ => scope,
    }
}

impl Fib {
    pub(super) fn same(&self, a: BlobId, b: BlobId) -> bool {
        ByMeaning(&self.routes).agrees(a, b)
    }

    /// Instance `i` may say something else about `key` now.
    pub(super) fn say(&mut self, i: usize, key: FibKey, env: &mut Env, out: &mut Vec<Output>) {
        let Some(m) = self.members.get(i) else { return };
        let (route, class) = match m.kernel.best(&key) {
            Some((octets, protocol)) => (self.routes.intern(&octets), class(protocol, m.scope)),
            None => (BlobId::NONE, FibScope::NONE),
        };
        let now = env.now_ms();
        let n = self.members.len();
        let slot = match (route, self.table.find(&key)) {
            (BlobId::NONE, None) => return,
            (_, Some(slot)) => slot,
            (_, None) => {
                let slot = self.table.slot(key, now);
                let from = slot as usize * n;
                self.classes.resize(self.classes.len().max(from + n), FibScope::NONE);
                self.classes.iter_mut().skip(from).take(n).for_each(|class| *class = FibScope::NONE);
                slot
            }
        };
        // Whose business the key was stands until it is another's: a withdrawal is voted on by those who had the route.
        let changed_class = match self.classes.get_mut(slot as usize * n + i) {
            Some(old) if route != BlobId::NONE => std::mem::replace(old, class) != class,
            _ => false,
        };
        let answers = !env.poison.is_idle() && env.poison.said(i, dissent::FIB, &key.prefix);
        let counting = self.counting();
        let Some(said) = self.table.candidates_mut(slot).get_mut(i) else { return };
        let old = std::mem::replace(said, route);
        self.routes.release(old);
        let Some(e) = self.table.entry_mut(slot) else { return };
        let was_stale = e.stale.contains(i as u8);
        e.stale.remove(i as u8);
        if old == route && !was_stale && !changed_class {
            return if answers {
                self.vote(slot, env, out)
            };
        }
        if age_ms(now, e.last_ms) >= env.rules.steady_ms {
            e.turns = 0;
        }
        if env.is_master(i, counting) {
            e.turns = e.turns.saturating_add(1);
        }
        let at = |ms| now.saturating_sub(age_ms(now, ms));
        let (first, last) = env.rules.disturb(at(e.first_ms), at(e.last_ms), now);
        (e.first_ms, e.last_ms) = (first as u32, last as u32);
        self.counters.votes += 1;
        self.vote(slot, env, out);
    }

    /// A key on which the master's words are counted is kept until it has rested (`session/vote.rs`).
    fn keep_count(&mut self, slot: u32, env: &Env) {
        let Some(e) = self.table.entry(slot).filter(|e| e.turns > 1) else { return };
        let (now, age, t) = (env.now_ms(), age_ms(env.now_ms(), e.last_ms), env.rules.steady_ms);
        if age < t {
            self.recheck_at(slot, now + t - age);
        }
    }

    fn vote(&mut self, slot: u32, env: &mut Env, out: &mut Vec<Output>) {
        let now = env.now_ms();
        self.note_input(slot, env);
        let (electorate, watched) = self.electorate(slot, env);
        let Some(e) = self.table.entry(slot) else { return };
        let (first_age, last_age) = (age_ms(now, e.first_ms), age_ms(now, e.last_ms));
        let ballot = Ballot {
            candidates: self.table.candidates(slot),
            electorate,
            master_line: &env.master_line,
            winner: e.winner,
            overruled: e.overruled(),
            first_disturbed: now - first_age.max(last_age).min(now),
            last_disturbed: now - last_age.min(now),
            restless: Env::restless(e.turns),
        };
        let rules = voter::Rules { min_voters: self.min_voters(slot, env), ..env.rules };
        let outcome = voter::decide(&rules, &ballot, watched, &ByMeaning(&self.routes), now);
        let (was_dissent, was_lost) = (e.dissent, e.flags & flag::NO_QUORUM != 0);
        self.settle(slot, &outcome);
        if let Some(at) = outcome.recheck_at {
            self.recheck_at(slot, at);
        }
        if !outcome.steady && (was_lost || !was_dissent.is_empty()) {
            self.recheck_at(slot, now - last_age.min(now) + env.rules.steady_ms);
        }
        // Until it is steady nobody is accused anew; who is with a majority in between is not wrong
        // without a break.
        let (dissent, lost) = match outcome.steady {
            true => (outcome.dissent, outcome.lost_quorum),
            false => (was_dissent.minus(outcome.with), was_lost && outcome.with.is_empty()),
        };
        if dissent != was_dissent || lost != was_lost {
            self.judge(slot, dissent, lost, electorate, env, out);
        }
        self.keep_count(slot, env);
        self.tidy(slot);
    }

    /// Input from a peer disturbs a key of the FIB as it disturbs the same prefix towards the peers.
    fn note_input(&mut self, slot: u32, env: &Env) {
        let (now, steady_ms) = (env.now_ms(), env.rules.steady_ms);
        let Some(e) = self.table.entry_mut(slot) else { return };
        let (first, last) = (age_ms(now, e.first_ms), age_ms(now, e.last_ms));
        if last < steady_ms {
            return;
        }
        let Some(age) = env.input_age_ms(&e.prefix.prefix).filter(|age| *age < steady_ms) else { return };
        let at = |age: u64| now.saturating_sub(age);
        let (first, last) = env.rules.disturb(at(first), at(last), at(age));
        (e.first_ms, e.last_ms) = (first as u32, last as u32);
    }

    fn settle(&mut self, slot: u32, outcome: &voter::Outcome<BlobId>) {
        let Some(e) = self.table.entry_mut(slot) else { return };
        let winner = match outcome.decision {
            Decision::Publish(v) => v,
            Decision::Keep => e.winner,
        };
        let none = BlobId::NONE;
        self.routes.retain(winner, 1);
        self.routes.retain(outcome.overruled.unwrap_or(none), 1);
        let before = std::mem::replace(&mut e.winner, winner);
        self.chosen = self.chosen + usize::from(winner != none) - usize::from(before != none).min(self.chosen + 1);
        self.routes.release(before);
        self.routes.release(e.set_overruled(outcome.overruled).unwrap_or(none));
        if e.winner != e.published && e.flags & flag::DIRTY == 0 {
            e.flags |= flag::DIRTY;
            self.dirty.push(slot);
        }
    }

    fn recheck_at(&mut self, slot: u32, at: u64) {
        if let Some(e) = self.table.entry_mut(slot).filter(|e| e.flags & flag::QUEUED == 0) {
            e.flags |= flag::QUEUED;
            self.rechecks.push(Reverse((at, slot)));
        }
    }

    fn recheck(&mut self, slot: u32, env: &mut Env, out: &mut Vec<Output>) {
        let Some(e) = self.table.entry_mut(slot) else { return };
        e.flags &= !flag::QUEUED;
        let (winner, calm) = (e.winner, e.flags & (flag::NO_QUORUM | flag::OVERRULED) == 0 && e.dissent.is_empty());
        if calm && self.table.candidates(slot).iter().all(|said| *said == winner) {
            return self.tidy(slot);
        }
        self.vote(slot, env, out);
    }

    /// An electorate changed: every key is voted on anew, in turns.
    pub fn start_walk(&mut self) {
        match self.walk_at {
            Some(_) => self.walk_again = true,
            None if self.table.len() > 0 => self.walk_at = Some(0),
            None => {}
        }
    }

    /// Verdicts whose time has come, one turn of a walk, then what changed goes to the kernel's thread.
    pub fn flush(&mut self, env: &mut Env, out: &mut Vec<Output>) {
        env.in_fib = self.counting();
        env.bgp_in_fib = self.counting_for(FibScope::BGP);
        let now_ms = env.now_ms();
        for _ in 0..RECHECK_BATCH {
            match self.rechecks.peek() {
                Some(&Reverse((at, slot))) if at <= now_ms => {
                    self.rechecks.pop();
                    self.recheck(slot, env, out);
                }
                _ => break,
            }
        }
        if let Some(at) = self.walk_at {
            let end = self.table.slots().min(at.saturating_add(WALK_BATCH));
            for slot in at..end {
                self.vote(slot, env, out);
            }
            let again = end >= self.table.slots() && std::mem::take(&mut self.walk_again);
            self.walk_at = if again { Some(0) } else { (end < self.table.slots()).then_some(end) };
        }
        self.publish(out);
    }

    /// What changed goes to the kernel.
    pub fn publish(&mut self, out: &mut Vec<Output>) {
        if self.dirty.is_empty() {
            return;
        }
        let batch = self.dirty.len().min(FLUSH_BATCH);
        let later = self.dirty.split_off(batch);
        let mut slots = std::mem::replace(&mut self.dirty, later);
        let mut changes = Vec::with_capacity(batch);
        for slot in slots.drain(..) {
            let Some(e) = self.table.entry_mut(slot) else { continue };
            e.flags &= !flag::DIRTY;
            if e.winner != e.published {
                let (key, winner) = (e.prefix, e.winner);
                self.routes.retain(winner, 1);
                self.routes.release(std::mem::replace(&mut e.published, winner));
                let route = (winner != BlobId::NONE).then(|| Bytes::copy_from_slice(self.routes.bytes(winner)));
                if route.is_none() {
                    self.failed.remove(&key);
                }
                changes.push(FibChange { key, route });
            }
            self.tidy(slot);
        }
        // Its memory is kept.
        if self.dirty.is_empty() {
            self.dirty = slots;
        }
        if !changes.is_empty() {
            self.counters.published += changes.len() as u64;
            out.push(Output::Fib(changes));
        }
    }

    /// Marks and unmarks instances on one key, and tells the operator what each said.
    fn judge(
        &mut self,
        slot: u32,
        dissent: Members,
        lost: bool,
        electorate: Members,
        env: &mut Env,
        out: &mut Vec<Output>,
    ) {
        let Some(e) = self.table.entry_mut(slot) else { return };
        let was = std::mem::replace(&mut e.dissent, dissent);
        let was_lost = e.flags & flag::NO_QUORUM != 0;
        e.flags = if lost { e.flags | flag::NO_QUORUM } else { e.flags & !flag::NO_QUORUM };
        let key = e.prefix;
        let since_us = env.now.saturating_sub(age_ms(env.now_ms(), e.last_ms) * 1000);
        self.counters.dissents += dissent.minus(was).len() as u64;
        env.mark((dissent::FIB, slot), key.prefix, was, dissent, || {
            format!("not with the majority on {key} in the FIB")
        });
        match (was_lost, lost) {
            (false, true) => {
                (self.without_quorum, env.without_quorum) = (self.without_quorum + 1, env.without_quorum + 1)
            }
            (true, false) => {
                self.without_quorum = self.without_quorum.saturating_sub(1);
                env.without_quorum = env.without_quorum.saturating_sub(1);
            }
            _ => {}
        }
        if !env.may_tell(out) {
            return;
        }
        let names = |m: Members| m.iter().map(|i| env.name(usize::from(i)).to_owned()).collect::<Vec<_>>().join(", ");
        let (more, less) = (dissent.minus(was), was.minus(dissent));
        let (kind, severity, text) = if lost && !was_lost {
            ("fib-no-quorum", Severity::Alarm, format!("no majority on {key} in the FIB: what is in the kernel stays"))
        } else if !more.is_empty() {
            let text = format!(
                "{} is not with the majority on {key} in the FIB; the majority's route is in the kernel",
                names(more)
            );
            ("fib-disagreement", Severity::Warning, text)
        } else if less.is_empty() {
            ("fib-agreement", Severity::Info, format!("a majority stands again on {key} in the FIB"))
        } else {
            ("fib-agreement", Severity::Info, format!("{} is with the majority again on {key} in the FIB", names(less)))
        };
        let mut event = Event::new(env.now, kind, severity, text);
        event.prefix = Some(key.prefix);
        event.since_us = (kind != "fib-agreement").then_some(since_us);
        let single = more.union(less);
        if single.len() == 1 {
            event.instance = single.iter().next().map(|i| env.name(usize::from(i)).to_owned());
        }
        event.said = self.said(slot, electorate, env);
        out.push(event.into());
    }

    /// What every instance says about the key at `slot`, in words.
    pub(super) fn said(&self, slot: u32, electorate: Members, env: &Env) -> Vec<Said> {
        let said = self.table.candidates(slot).iter().enumerate().filter(|(i, _)| !env.is_vacant(*i));
        said.map(|(i, id)| {
            let counted = electorate.contains(i as u8);
            let mut route = self.words(*id);
            if !counted {
                route = format!("{route} ({})", self.abstention(i, slot, env));
            }
            Said { instance: env.name(i).to_owned(), route, counted }
        })
        .collect()
    }

    /// A route in words, with the names of interfaces.
    pub(super) fn words(&self, id: BlobId) -> String {
        match FibRoute::from_bytes(self.routes.bytes(id)) {
            _ if id == BlobId::NONE => "none".to_owned(),
            Some(route) => self.system.describe(&route),
            None => "?".to_owned(),
        }
    }

    fn abstention(&self, i: usize, slot: u32, env: &Env) -> &'static str {
        let Some(m) = self.members.get(i) else { return "?" };
        if m.scope == FibScope::NONE {
            "writes no FIB"
        } else if env.observers.contains(i as u8) {
            "observer"
        } else if !env.voters.contains(i as u8) {
            "has no vote"
        } else if m.sockets == 0 {
            "absent"
        } else if !m.wrote {
            "abstains: has written nothing yet"
        } else if !m.counts || self.table.entry(slot).is_some_and(|e| e.stale.contains(i as u8)) {
            "abstains: catching up"
        } else if !self.is_its_business(i, slot, env) {
            "abstains: out of its fib_scope"
        } else {
            "abstains: not level"
        }
    }
}
