//! Whose vote counts in the FIB, and from when on.
//!
//! An instance takes part once it has written a route: one that only looks (OpenBGPD 7.7, BIRD
//! without a kernel protocol) abstains for ever. One that comes back has an empty table: what it
//! said before stands frozen and does not count until it says what was chosen everywhere, or has
//! been quiet for T, as towards the peers (docs/DECISIONS.md, "When an instance that comes back
//! votes").

use super::super::dissent;
use super::super::env::Env;
use super::super::io::{Micros, NetlinkId};
use super::reset::Resets;
use super::{Fib, LOOK_US};
use crate::config::{FibScope, Instance};
use crate::event::Severity;
use replay::intern::BlobId;
use vkernel::VirtualKernel;
use voter::Members;

/// One instance, as the FIB sees it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kernel: VirtualKernel,
    /// Whose routes it writes.
    pub(super) scope: FibScope,
    /// Changes of addresses are resets of links for it, too.
    pub(super) resets: Option<Resets>,
    /// Its netlink sockets that are open.
    pub(super) sockets: usize,
    /// It has written since the first of them was opened.
    pub(super) wrote: bool,
    /// Its vote counts.
    pub(super) counts: bool,
    /// It has been told to end: what it takes back on its way out is not its word on the routes.
    leaving: bool,
    /// When it last wrote.
    last_write: Micros,
}

impl Member {
    pub(super) fn new(instance: &Instance) -> Member {
        Member {
            kernel: VirtualKernel::new(),
            scope: instance.fib_scope,
            resets: Resets::of(instance),
            sockets: 0,
            wrote: false,
            counts: false,
            leaving: false,
            last_write: 0,
        }
    }

    /// Whether it has written and does not count yet.
    pub(super) fn waits(&self) -> bool {
        self.wrote && !self.counts && !self.leaving && self.scope != FibScope::NONE
    }

    /// What virtctl says of it.
    pub(super) fn state(&self) -> &'static str {
        match (self.scope == FibScope::NONE, self.sockets, self.wrote, self.counts) {
            (true, ..) => "writes no FIB",
            (_, 0, ..) => "absent",
            (_, _, false, _) => "silent",
            (_, _, _, false) => "catching up",
            (_, _, _, true) => "voting",
        }
    }
}

impl Fib {
    /// Instance `i` has changed its own table; whether that is its word on the routes.
    pub(super) fn wrote(&mut self, i: usize, env: &Env) -> bool {
        let Some(m) = self.members.get_mut(i).filter(|m| !m.leaving) else { return false };
        self.first_write.get_or_insert(env.now);
        m.last_write = env.now;
        if !m.wrote {
            m.wrote = true;
            // Nothing to catch up with.
            m.counts = self.table.chosen() == 0 && m.scope != FibScope::NONE;
            if m.counts {
                self.table.forget_stale(i, |route| self.routes.release(route));
            }
        }
        true
    }

    /// Instance `i` is told to end: BIRD takes its routes back on its way out, and that is no
    /// opinion about them.
    pub fn leaving(&mut self, i: usize) {
        let Some(m) = self.members.get_mut(i).filter(|m| m.sockets > 0) else { return };
        m.leaving = true;
        if std::mem::take(&mut m.counts) {
            self.table.start_walk();
        }
    }

    /// A netlink socket is closed; with the last one of an instance its word freezes.
    pub(super) fn closed(&mut self, socket: NetlinkId, env: &mut Env) {
        let Some(i) = self.sockets.remove(&socket) else { return };
        let Some(m) = self.members.get_mut(i) else { return };
        m.sockets = m.sockets.saturating_sub(1);
        if m.sockets > 0 {
            return;
        }
        let counted = std::mem::take(&mut m.counts);
        (m.wrote, m.leaving) = (false, false);
        m.kernel.clear();
        self.table.mark_stale(i, false);
        if counted {
            let text =
                format!("{} writes to no kernel any more: its routes stand as they are, and do not count", env.name(i));
            env.tell_about("fib-left", Severity::Info, i, text);
            self.table.start_walk();
        }
    }

    /// Lets those vote that have caught up.
    pub fn look(&mut self, env: &mut Env) {
        self.reset_links(env);
        if env.now < self.next_look {
            return;
        }
        self.next_look = env.now + LOOK_US;
        for i in 0..self.members.len() {
            let Some(m) = self.members.get(i).filter(|m| m.waits()) else { continue };
            let quiet = env.now >= m.last_write + env.t_us();
            // One that has sessions is level there first: until then its table has holes.
            let level = !env.instances.standing.contains(i as u8) || env.heard.is_level(i);
            if level && (quiet || self.concurs(i, env)) {
                self.admit(i, env);
            }
        }
    }

    /// Whether instance `i` says what was chosen on every key that is its business.
    fn concurs(&self, i: usize, env: &Env) -> bool {
        self.table.iter().all(|(slot, e)| {
            let said = self.table.candidates(slot).get(i).copied().unwrap_or(BlobId::NONE);
            let said = if e.stale.contains(i as u8) { BlobId::NONE } else { said };
            self.same(said, e.winner) || said == BlobId::NONE && !self.is_its_business(i, slot, env)
        })
    }

    fn admit(&mut self, i: usize, env: &mut Env) {
        let Some(m) = self.members.get_mut(i) else { return };
        m.counts = true;
        let routes = m.kernel.routes();
        self.table.forget_stale(i, |route| self.routes.release(route));
        let text = format!("{} has caught up and votes on the FIB ({routes} routes)", env.name(i));
        env.tell_about("fib-admitted", Severity::Info, i, text);
        self.table.start_walk();
    }

    /// Those that have caught up.
    pub(super) fn counting(&self) -> Members {
        self.members.iter().enumerate().filter(|(_, m)| m.counts).map(|(i, _)| i as u8).collect()
    }

    /// Those of them whose business are routes of these kinds.
    pub(super) fn counting_for(&self, kinds: FibScope) -> Members {
        let concerned = self.members.iter().enumerate().filter(|(_, m)| m.counts && m.scope.meets(kinds));
        concerned.map(|(i, _)| i as u8).collect()
    }

    /// Whether instance `i` has a route for the key at `slot`, of one of these kinds.
    fn says(&self, i: usize, slot: u32, kinds: FibScope) -> bool {
        let class = self.classes.get(slot as usize * self.members.len() + i);
        self.table.candidates(slot).get(i).is_some_and(|said| *said != BlobId::NONE)
            && class.is_some_and(|class| class.meets(kinds))
    }

    /// The kinds of protocols that decide on the key at `slot`: those whose instances do not, most
    /// of them, say that they have no route for it. Otherwise one OSPF instance that writes a route
    /// for BGP's prefix would set the "none" of all the others against BGP.
    fn kinds_at(&self, slot: u32, env: &Env) -> FibScope {
        let classes = self.classes_at(slot);
        let mut said = self.table.candidates(slot).iter().zip(classes).filter(|(said, _)| **said != BlobId::NONE);
        let Some((_, kinds)) = said.next() else { return self.kinds_before(slot) };
        let mut scopes = self.members.iter().map(|m| m.scope).filter(|scope| *scope != FibScope::NONE);
        if kinds != FibScope::NONE && said.all(|(_, class)| class == kinds) && scopes.all(|scope| scope == kinds) {
            // As many have a route of each of these kinds, and as many do not.
            debug_assert_eq!(kinds, self.kinds_by_count(slot, env));
            return kinds;
        }
        self.kinds_by_count(slot, env)
    }

    /// The kind of each instance's route for the key at `slot`, the last one where it has none now.
    fn classes_at(&self, slot: u32) -> impl Iterator<Item = FibScope> {
        let n = self.members.len();
        self.classes.iter().skip(slot as usize * n).take(n).copied()
    }

    /// The kinds of the routes that the key at `slot` has, or had.
    fn kinds_before(&self, slot: u32) -> FibScope {
        self.classes_at(slot).fold(FibScope::NONE, FibScope::union)
    }

    fn kinds_by_count(&self, slot: u32, env: &Env) -> FibScope {
        let stale = self.table.entry(slot).map_or(Members::EMPTY, |e| e.stale);
        let (mut all, mut kept) = (FibScope::NONE, FibScope::NONE);
        for kind in [FibScope::BGP, FibScope::IGP, FibScope::STATIC] {
            let (mut counted, mut saying, mut frozen) = (0, 0, false);
            for (i, m) in self.members.iter().enumerate() {
                let says = self.says(i, slot, kind);
                all = if says { all.union(kind) } else { all };
                let votes = m.counts && env.instances.voters.contains(i as u8) && !stale.contains(i as u8);
                match (m.scope.meets(kind), votes) {
                    (false, _) => {}
                    (true, true) => (counted, saying) = (counted + 1, saying + usize::from(says)),
                    (true, false) => frozen |= says,
                }
            }
            // What a kind said whose instances are all gone stands, and nobody else speaks for
            // them.
            let keep = if counted == 0 { frozen } else { saying > 0 && saying * 2 >= counted };
            kept = if keep { kept.union(kind) } else { kept };
        }
        match (kept, all) {
            // Only those speak who declare nothing, and of a kind that nobody knows.
            (FibScope::NONE, FibScope::NONE) => self.kinds_before(slot),
            (FibScope::NONE, all) => all,
            (kept, _) => kept,
        }
    }

    /// Whether the routes of this key are of a kind that instance `i` writes.
    pub(super) fn is_its_business(&self, i: usize, slot: u32, env: &Env) -> bool {
        let scope = self.members.get(i).map_or(FibScope::NONE, |m| m.scope);
        scope.meets(self.kinds_at(slot, env))
    }

    /// Whose votes count on the key at `slot`, and who is only compared there although it has a
    /// route for it: observers, and those whose kind of protocol does not decide on this key.
    pub(super) fn electorate(&self, slot: u32, env: &Env) -> (Members, Members) {
        let Some(e) = self.table.entry(slot) else { return (Members::EMPTY, Members::EMPTY) };
        let kinds = self.kinds_at(slot, env);
        // A route of a kind that nobody declares is voted on by those who have it.
        let declared = self.members.iter().any(|m| m.scope.meets(kinds));
        let (mut members, mut watched) = (Members::EMPTY, env.instances.observers.intersect(self.counting()));
        for (i, m) in
            self.members.iter().enumerate().filter(|(i, m)| m.counts && env.instances.voters.contains(*i as u8))
        {
            let says = self.says(i, slot, FibScope::ALL);
            match m.scope.meets(kinds) || !declared && says {
                true => members.insert(i as u8),
                false if says => watched.insert(i as u8),
                false => {}
            }
        }
        members = members.minus(e.stale);
        if !env.all_told() {
            let rests = e.rests(&env.rules, env.now_ms());
            members = members.minus(env.abstainers(&e.key.prefix, dissent::FIB, rests));
        }
        if env.has_blocks {
            members = members.minus(env.outside(&e.key.prefix));
        }
        (members, watched.minus(e.stale))
    }

    /// As many as must vote before anything is written for the first time: a quorum of those that
    /// are there and whose business the key is, until T after the first wrote. Otherwise the
    /// fastest would drive alone at every start.
    pub(super) fn min_voters(&self, slot: u32, env: &Env) -> u8 {
        // In the milliseconds that keys are steady by: in finer ones a key of the first moment
        // would be steady just before this ends.
        if self.first_write.is_some_and(|at| env.now_ms() >= at / 1000 + env.rules.steady_ms) {
            return env.rules.min_voters;
        }
        let kinds = self.kinds_at(slot, env);
        let there = |(i, m): &(usize, &Member)| {
            m.sockets > 0
                && env.instances.voters.contains(*i as u8)
                && (m.scope.meets(kinds) || self.says(*i, slot, kinds))
        };
        let quorum = self.members.iter().enumerate().filter(there).count() / 2 + 1;
        (quorum as u8).max(env.rules.min_voters)
    }
}
