//! The votes on the FIB, by the same rules as those towards the peers: what they go by, and what
//! follows. The vote itself is the crate `ballots`'.

use super::super::dissent::{self, Words};
use super::super::env::Env;
use super::super::io::{FibChange, Micros, Output};
use super::super::{KEYS_AT_ONCE, Table, VOTES_AT_ONCE};
use super::Fib;
use super::members::Member;
use crate::config::FibScope;
use crate::event::Said;
use ballots::{Entry, Law, Marks, Rechecks, Terms, Voting};
use bytes::Bytes;
use replay::intern::{BlobId, Interner};
use voter::{Agreement, Members};
use wire::netlink::consts::{RTPROT_BABEL, RTPROT_BGP, RTPROT_ISIS, RTPROT_OSPF, RTPROT_RIP, RTPROT_STATIC};
use wire::netlink::fib::{FibKey, FibRoute};

/// FRR's EIGRP and static routes (FRR, zebra/rt_netlink.h).
const RTPROT_EIGRP: u8 = 192;
const RTPROT_ZSTATIC: u8 = 196;

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

/// The kind of protocol that a route is of: FRR says which; BIRD's routes may be of any that it
/// runs.
fn class(protocol: u8, scope: FibScope) -> FibScope {
    match protocol {
        RTPROT_BGP => FibScope::BGP,
        RTPROT_OSPF | RTPROT_ISIS | RTPROT_RIP | RTPROT_BABEL | RTPROT_EIGRP => FibScope::IGP,
        RTPROT_STATIC | RTPROT_ZSTATIC => FibScope::STATIC,
        _ => scope,
    }
}

/// The votes on the FIB's keys.
struct Votes<'a> {
    fib: &'a mut Fib,
    env: &'a mut Env,
}

impl Voting for Votes<'_> {
    type Key = FibKey;
    type Value = BlobId;

    fn ballots(&self) -> &Table<FibKey> {
        &self.fib.table
    }

    fn parts(&mut self) -> (&mut Table<FibKey>, &mut Rechecks) {
        (&mut self.fib.table, &mut self.fib.rechecks)
    }

    fn law(&self) -> Law<'_> {
        self.env.law()
    }

    fn terms(&self, slot: u32, _entry: &Entry<FibKey, BlobId>) -> Terms {
        let (electorate, watched) = self.fib.electorate(slot, self.env);
        Terms { electorate, watched, min_voters: self.fib.min_voters(slot, self.env) }
    }

    fn agreement(&self) -> impl Agreement<BlobId> {
        ByMeaning(&self.fib.routes)
    }

    fn is_master(&self, i: usize) -> bool {
        self.env.is_master(i, self.fib.counting())
    }

    fn input_age(&self, key: &FibKey) -> Option<u64> {
        self.env.input_age_ms(&key.prefix)
    }

    fn hold(&mut self, new: BlobId, old: BlobId) {
        self.fib.routes.retain(new, 1);
        self.fib.routes.release(old);
    }

    fn marked(&mut self, slot: u32, marks: &Marks) {
        let (fib, env) = (&mut *self.fib, &mut *self.env);
        let Some(key) = fib.table.entry(slot).map(|e| e.key) else { return };
        fib.counters.dissents_total += marks.newly().len() as u64;
        let why = || format!("not with the majority on {key} in the FIB");
        if !env.mark((dissent::FIB, slot), key.prefix, marks, why) {
            return;
        }
        let words = Words {
            kinds: ["fib-no-quorum", "fib-disagreement", "fib-agreement"],
            stays: "what is in the kernel stays",
            place: "in the kernel",
            is_void: fib.table.is_void(slot),
        };
        let mut event = env.verdict(&words, format_args!("{key} in the FIB"), key.prefix, marks);
        event.said = fib.said(slot, marks.terms.electorate, env);
        self.env.out.push(event.into());
    }
}

/// Most of those that write routes are waited for at most so long.
const HELD_US: Micros = 30_000_000;

impl Fib {
    pub(super) fn same(&self, a: BlobId, b: BlobId) -> bool {
        ByMeaning(&self.routes).agrees(a, b)
    }

    /// Instance `i` may say something else about `key` now.
    pub(super) fn say(&mut self, i: usize, key: FibKey, env: &mut Env) {
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
                let slot = self.table.add(key, now);
                let from = slot as usize * n;
                self.classes.resize(self.classes.len().max(from + n), FibScope::NONE);
                self.classes.iter_mut().skip(from).take(n).for_each(|class| *class = FibScope::NONE);
                slot
            }
        };
        // Whose business the key was stands until it is another's: a withdrawal is voted on by
        // those who had the route.
        let changed_class = match self.classes.get_mut(slot as usize * n + i) {
            Some(old) if route != BlobId::NONE => std::mem::replace(old, class) != class,
            _ => false,
        };
        let answers = !env.poison.is_idle() && env.poison.said(i, dissent::FIB, &key.prefix);
        let was_stale = self.table.entry(slot).is_some_and(|e| e.stale.contains(i as u8));
        let mut votes = Votes { fib: self, env };
        if ballots::say(&mut votes, slot, i, route, was_stale || changed_class) {
            self.counters.votes += 1;
        } else if answers {
            ballots::vote(&mut votes, slot);
        }
        self.routes.release(route); // the table has its own reference
    }

    /// Verdicts whose time has come, one turn of a walk, then what changed goes to the kernel's
    /// thread.
    pub fn flush(&mut self, env: &mut Env) {
        env.instances.in_fib = self.counting();
        env.instances.bgp_in_fib = self.counting_for(FibScope::BGP);
        let mut votes = Votes { fib: self, env };
        for _ in 0..VOTES_AT_ONCE {
            let Some((_, slot)) = votes.fib.rechecks.due(votes.env.now_ms()) else { break };
            ballots::recheck(&mut votes, slot);
        }
        ballots::walk(&mut votes, VOTES_AT_ONCE);
        self.publish(env);
    }

    /// Whether what an earlier virtd has left in the kernel is to stay as it is for now: until enough
    /// are level on their sessions, and then until most of those that write routes count. The first
    /// that is back has mostly not heard everything, and would decide alone.
    fn is_held(&mut self, env: &Env) -> bool {
        if env.awaits_quorum {
            self.held_since = Some(env.now);
        }
        let Some(since) = self.held_since else { return false };
        let writes = |m: &&Member| m.sockets > 0 && m.wrote && m.scope != FibScope::NONE;
        let (there, count) = (self.members.iter().filter(writes).count(), self.counting().len());
        let enough = count > 0 && count * 2 > there;
        if env.awaits_quorum || (!enough && env.now < since + HELD_US) {
            return true;
        }
        self.held_since = None;
        false
    }

    /// What changed goes to the kernel.
    pub fn publish(&mut self, env: &mut Env) {
        if self.is_held(env) {
            return;
        }
        let mut told = std::mem::take(&mut self.told);
        self.table.take_changed(KEYS_AT_ONCE, &mut told);
        let mut changes = Vec::with_capacity(told.len());
        for (winner, slot) in told.drain(..) {
            let entry = self.table.entry(slot).map(|e| (e.key, e.unsettled(env.now_ms())));
            let Some((key, waited)) = entry else { continue };
            self.waited_ms.note(waited);
            self.routes.retain(winner, 1);
            self.routes.release(self.table.told(slot, winner));
            let route = (winner != BlobId::NONE).then(|| Bytes::copy_from_slice(self.routes.bytes(winner)));
            if route.is_none() {
                self.failed.remove(&key);
            }
            changes.push(FibChange { key, route });
            self.table.tidy(slot);
        }
        self.told = told; // its memory is kept
        if !changes.is_empty() {
            self.counters.published += changes.len() as u64;
            env.out.push(Output::Fib(changes));
        }
    }

    /// What every instance says about the key at `slot`, in words.
    pub(super) fn said(&self, slot: u32, electorate: Members, env: &Env) -> Vec<Said> {
        let why = |i| self.abstention(i, slot, env);
        env.said(self.table.candidates(slot), electorate, |id| self.words(id), why)
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
        } else if env.instances.observers.contains(i as u8) {
            "observer"
        } else if !env.instances.voters.contains(i as u8) {
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
