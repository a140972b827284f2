//! What is decided in a turn, and how much of it: votes that are due, walks over votes, what the
//! peers are told; and when the next turn is wanted.

use super::fib;
use super::io::{Micros, Output};
use super::witness::Stage;
use super::{Core, KEYS_AT_ONCE, VOTES_AT_ONCE};
use replay::store::Cursor;

impl Core {
    /// Decides what is due: votes whose time has come, then what the peers are told.
    pub fn decide(&mut self, now: Micros) {
        self.env.now = self.env.now.max(now);
        self.env.begins(Stage::Fib);
        let walk = self.env.followups.take_everything();
        let (tables, peers) = (self.env.followups.take_tables(), self.env.followups.take_peers());
        // Before the peers are told: what they send must find its way.
        if let Some(fib) = &mut self.fib {
            if walk || !peers.is_empty() {
                fib.table.start_walk();
            }
            let from = self.env.out.len();
            fib.look(&mut self.env);
            // The one that is shown it ends its sessions as if it were so.
            let reset = |o: &Output| if let Output::LinkReset { instance, .. } = o { Some(*instance) } else { None };
            let resets: Vec<_> = self.env.out.iter().skip(from).filter_map(reset).collect();
            resets.into_iter().for_each(|instance| self.env.touch(usize::from(instance.0)));
            fib.flush(&mut self.env);
        }
        if self.native.is_some() {
            return self.env.begins(Stage::Outside);
        }
        self.env.begins(Stage::Votes);
        let from = self.env.out.len();
        self.tell_differences();
        // Each word may leave a key to be told and one to be looked at later. So what waits does not
        // grow, however much is read in one turn.
        let candidates = self.env.counters.candidates;
        let said = candidates.saturating_sub(std::mem::replace(&mut self.decided_on, candidates)) as usize;
        for _ in 0..VOTES_AT_ONCE + said {
            let Some((session, slot)) = self.env.rechecks.due(self.env.now_ms()) else { break };
            self.busy.push(session as usize);
            if let Some(s) = self.sessions.get_mut(session as usize) {
                ballots::recheck(&mut s.votes(&mut self.env), slot);
            }
        }
        while let Some((session, i)) = self.env.due_wake() {
            self.busy.push(session);
            if let Some(s) = self.sessions.get_mut(session) {
                s.wake(i, &mut self.env);
            }
        }
        for prefix in self.env.followups.take_prefixes() {
            self.sessions.iter_mut().for_each(|s| s.judge_soon(&prefix, &mut self.env));
        }
        for (index, s) in self.sessions.iter_mut().enumerate().filter(|(index, _)| walk || tables.contains(index)) {
            if !self.env.keys_rest() && self.env.common.keys(index as u32) > 0 {
                s.rouse_all(&mut self.env);
            }
            s.table.start_walk();
            self.busy.push(index);
        }
        if walk {
            self.renewed.clear();
        } else {
            self.renewed.retain(|(session, _)| !peers.contains(session));
            self.renewed.extend(peers.into_iter().map(|session| (session, Cursor::new(None))));
        }
        let (mut votes, mut told) = (VOTES_AT_ONCE, KEYS_AT_ONCE + said);
        self.renew(&mut votes);
        self.env.begins(Stage::Tells);
        for _ in 0..self.busy.len() {
            if told == 0 {
                break; // the others are the first next time
            }
            let Some(index) = self.busy.pop() else { break };
            let Some(s) = self.sessions.get_mut(index) else { continue };
            s.flush(&mut votes, &mut told, &mut self.env);
            if s.has_work() {
                self.busy.push(index);
            }
        }
        self.learn_ids(from);
        self.env.begins(Stage::Outside);
    }

    /// No key rests from now on (docs/DECISIONS.md, "Keys at rest are held in common"): only for
    /// comparing, since nothing that is seen from outside depends on it.
    pub fn never_rest(&mut self) {
        self.env.never_rest = true;
    }

    /// Whether nothing is decided yet on the routes that an earlier virtd has left in the kernel.
    pub fn holds_kernel(&self) -> bool {
        self.env.awaits_quorum || self.fib.as_ref().is_some_and(fib::Fib::holds)
    }

    /// Keys at rest, of all sessions.
    pub fn keys_at_rest(&self) -> usize {
        (0..self.sessions.len() as u32).map(|session| self.env.common.keys(session)).sum()
    }

    /// Has prefixes voted on, on every session, because of what has become of who announced them.
    fn renew(&mut self, left: &mut usize) {
        let most = |left: usize, sessions: usize| (left / sessions.max(1)).max(1);
        let sessions = self.sessions.len();
        let mut prefixes = self.env.heard.take_out(most(*left, sessions), self.env.now_ms());
        while prefixes.is_empty()
            && let Some((session, cursor)) = self.renewed.front_mut()
        {
            if !self.env.heard.stores().next(*session, cursor, most(*left, sessions), &mut prefixes) {
                self.renewed.pop_front();
            }
        }
        for prefix in &prefixes {
            for (index, s) in self.sessions.iter_mut().enumerate() {
                if s.vote_on(prefix, &mut self.env) {
                    self.busy.push(index);
                }
            }
        }
        *left = left.saturating_sub(prefixes.len() * sessions);
    }

    /// When [`Input::Tick`] and a flush are wanted, whatever else happens.
    pub fn deadline(&self) -> Option<Micros> {
        let fib = self.fib.as_ref().and_then(|fib| fib.deadline(self.env.now));
        let rest = self.session_deadline();
        fib.into_iter().chain(rest).min()
    }

    fn session_deadline(&self) -> Option<Micros> {
        if self.sessions.is_empty() {
            // Instances without BGP are judged by what they write to the FIB alone.
            let judged = self.env.instances.iter().any(|i| i.account.keys() > 0).then_some(self.next_tick);
            let passing = self.controller.passing_deadline(self.next_tick);
            return self.controller.deadline().into_iter().chain(judged).chain(passing).min();
        }
        if self.env.followups.has_votes()
            || self.env.heard.has_ended()
            || !self.renewed.is_empty()
            || !self.busy.is_empty()
        {
            return Some(self.env.now);
        }
        let recheck = self.env.rechecks.next().map(|at| at * 1000);
        [recheck, self.env.next_wake()].into_iter().flatten().chain([self.next_tick]).min()
    }
}
