//! What the instances say, and the votes on it.

use super::super::env::ById;
use super::super::table::{age_ms, flag};
use super::*;
use crate::event::{Event, Said, Severity};
use replay::intern::BlobId;
use std::cmp::Reverse;
use voter::{Ballot, Decision};
use wire::bgp::canonical::{self, CanonicalContext, Carried};
use wire::bgp::frame::Message;
use wire::bgp::hygiene::{self, Verdict};
use wire::bgp::update::Update;
use wire::bgp::{Prefix, as2};

impl Session {
    /// An UPDATE of instance `i`.
    pub(super) fn leg_update(&mut self, i: usize, m: &Message, env: &mut Env, out: &mut Vec<Output>) {
        let (Some(negotiated), Some(terms)) = (self.negotiated(), &self.seats[i].terms) else { return };
        let (spoken, narrow) = (terms.context, terms.narrow);
        let context = CanonicalContext {
            update: negotiated.context(),
            peer_as: negotiated.peer_as,
            confederation: negotiated.confederation,
            peer_router_id: negotiated.peer_router_id,
            allow_own_as: self.allow_own_as,
            ignore: env.ignore,
        };
        let carried = terms.shared.carries();
        // What the peer would have to treat as withdraw or discard is no candidate: it cannot leave (DESIGN decision 5).
        let verdict = hygiene::check(m.body(), &spoken);
        let body = match &verdict {
            Verdict::Pass => m.body(),
            Verdict::Rewritten { body, findings, .. } => {
                let what: Vec<&str> = findings.iter().map(|f| f.what).collect();
                let text = format!("{} sent a malformed UPDATE: {}", env.name(i), what.join("; "));
                env.tell_of(out, "instance-malformed", Severity::Warning, &self.peer, i, text);
                body
            }
            Verdict::Reset { notification, finding } => {
                let n = notification.clone();
                return self.leg_fault(i, Some(n), finding.what, env, out);
            }
        };
        let wide = if narrow { as2::widen(body) } else { None };
        let body = match (narrow, &wide) {
            (false, _) => body,
            (true, Some(wide)) => wide,
            (true, None) => {
                let n = Notification::new(3, 11);
                return self.leg_fault(i, Some(n), "its AS_PATH is too long with 4-octet AS numbers", env, out);
            }
        };
        let update = match Update::parse(body) {
            Ok(u) => u,
            Err(n) => return self.leg_fault(i, Some(n), "its UPDATE cannot be taken apart", env, out),
        };
        if let Some(family) = update.end_of_rib() {
            let known = terms.shared.families.contains(&family);
            if let Some(leg) = self.seats[i].leg.as_mut().filter(|l| known && !l.eor.contains(&family)) {
                leg.eor.push(family);
            }
            return self.tick_end_of_rib(env, out);
        }
        if let Some(leg) = self.seats[i].leg.as_mut() {
            leg.last_update = env.now;
        }
        if let Some(instance) = env.instances.get_mut(i) {
            instance.last_output = env.now;
        }
        for prefix in update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()).filter(carried) {
            self.candidate(i, prefix, BlobId::NONE, env, out);
        }
        if !update.nlri.is_empty() {
            self.announced(i, &update, Carried::Classic, update.nlri.filter(carried), &context, env, out);
        }
        if let Some(nlri) = update.mp_announced() {
            self.announced(i, &update, Carried::MpReach, nlri.filter(carried), &context, env, out);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn announced(
        &mut self,
        i: usize,
        update: &Update<'_>,
        carried: Carried,
        prefixes: impl Iterator<Item = Prefix>,
        context: &CanonicalContext,
        env: &mut Env,
        out: &mut Vec<Output>,
    ) {
        let route = match env.canonicaliser.route(update, carried, context) {
            Some(bytes) => env.routes.intern(bytes),
            None => BlobId::NONE,
        };
        for prefix in prefixes {
            self.candidate(i, prefix, route, env, out);
        }
        env.routes.release(route);
    }

    /// Instance `i` now says `route` about `prefix`.
    fn candidate(&mut self, i: usize, prefix: Prefix, route: BlobId, env: &mut Env, out: &mut Vec<Output>) {
        env.counters.candidates += 1;
        if let Some(s) = env.instances.get_mut(i) {
            s.candidates += 1;
        }
        let now = env.now_ms();
        let slot = match (route, self.table.find(&prefix)) {
            (BlobId::NONE, None) => return,
            (_, Some(slot)) => slot,
            (_, None) => self.table.slot(prefix, now),
        };
        let answers = !env.poison.is_idle() && env.poison.said(i, self.index as u32, &prefix);
        let Some(said) = self.table.candidates_mut(slot).get_mut(i) else { return };
        let old = std::mem::replace(said, route);
        let Some(e) = self.table.entry_mut(slot) else { return };
        e.stale.remove(i as u8);
        if old == route {
            return if answers {
                self.vote(slot, env, out)
            };
        }
        e.flags &= !flag::COUNTED;
        if route != BlobId::NONE {
            env.routes.retain(route, 1);
        }
        env.routes.release(old);
        if age_ms(now, e.last_ms) >= env.rules.steady_ms {
            e.turns = 0;
        }
        if env.is_master(i, self.attached) {
            e.turns = e.turns.saturating_add(1);
        }
        let at = |ms| now.saturating_sub(age_ms(now, ms));
        let (first, last) = env.rules.disturb(at(e.first_ms), at(e.last_ms), now);
        (e.first_ms, e.last_ms) = (first as u32, last as u32);
        env.counters.votes += 1;
        self.vote(slot, env, out);
    }

    /// A key on which the master's words are counted is kept until it has rested, even where nobody says anything about it just now: else
    /// whoever withdraws what it announces would begin anew each time.
    fn keep_count(&mut self, slot: u32, env: &mut Env) {
        let Some(e) = self.table.entry(slot).filter(|e| e.turns > 1) else { return };
        let (now, age, t) = (env.now_ms(), age_ms(env.now_ms(), e.last_ms), env.rules.steady_ms);
        if age < t {
            self.recheck_at(slot, now + t - age, env);
        }
    }

    pub fn electorate(&self, prefix: &Prefix, env: &Env) -> Members {
        let mut members = env.voters.intersect(self.attached);
        if !env.all_told() {
            members = members.minus(self.abstainers(prefix, env)).minus(self.without_family(prefix, env));
        }
        if self.has_limits {
            members = members.minus(env.out_of_scope(self.peer.ip(), prefix));
        }
        members
    }

    /// Those that have a leg here without the family of `prefix`: they say nothing about it to this peer.
    pub(super) fn without_family(&self, prefix: &Prefix, env: &Env) -> Members {
        env.lacks.get(self.index).map_or(Members::EMPTY, |lacks| lacks.family_of(prefix))
    }

    /// Holds the vote on one key and takes note of what follows.
    pub(super) fn vote(&mut self, slot: u32, env: &mut Env, out: &mut Vec<Output>) {
        let now = env.now_ms();
        self.note_input(slot, env);
        let Some(e) = self.table.entry(slot) else { return };
        let (first_age, last_age) = (age_ms(now, e.first_ms), age_ms(now, e.last_ms));
        // What an instance said over a leg that is gone, and has not said again, is nobody's word.
        let electorate = self.electorate(&e.prefix, env).minus(e.stale);
        let ballot = Ballot {
            candidates: self.table.candidates(slot),
            electorate,
            master_line: &env.master_line,
            winner: e.winner,
            overruled: e.overruled(),
            restless: Env::restless(e.turns),
            first_disturbed: now - first_age.max(last_age).min(now),
            last_disturbed: now - last_age.min(now),
        };
        let mut watched = env.observers.intersect(self.attached).minus(e.stale);
        if !watched.is_empty() {
            watched = watched.minus(self.abstainers(&e.prefix, env)).minus(self.without_family(&e.prefix, env));
        }
        if env.has_blocks {
            watched = watched.minus(env.outside(&e.prefix));
        }
        let outcome = voter::decide(&env.rules, &ballot, watched, &ById(&env.routes), now);
        let (was_dissent, was_lost) = (e.dissent, e.flags & flag::NO_QUORUM != 0);
        self.settle(slot, &outcome, env);
        let compared = electorate.union(watched);
        let differ = if outcome.lost_quorum { compared } else { outcome.dissent };
        let warming = self.warming(slot, differ, env);
        let held_back = !warming && self.is_held_back(slot, differ.minus(was_dissent), env);
        if warming || held_back {
            self.recheck_at(slot, now + env.rules.steady_ms, env);
        }
        let dissent = match (warming, held_back) {
            (true, _) => Members::default(),
            (false, true) => outcome.dissent.intersect(was_dissent),
            (false, false) => outcome.dissent,
        };
        if outcome.recheck_at.is_none() && !warming && !held_back && !electorate.is_empty() {
            self.count(slot, compared, dissent, was_dissent, outcome.lost_quorum && !was_lost, env);
        }
        if !outcome.steady && (was_lost || !was_dissent.is_empty()) {
            // Who is not with a majority in between stays marked until a verdict on the steady
            // state.
            self.recheck_at(slot, now - last_age.min(now) + env.rules.steady_ms, env);
        }
        // Where nobody says anything and nothing is told, nothing wants deciding; and the key is about to be forgotten.
        let lost = outcome.lost_quorum && !self.is_void(slot);
        // Until it is steady nobody is accused anew; who is with a majority in between is not wrong
        // without a break.
        let (dissent, lost) = match outcome.steady {
            true => (dissent, lost),
            false => (was_dissent.minus(outcome.with), was_lost && outcome.with.is_empty()),
        };
        if dissent != was_dissent || lost != was_lost {
            self.judge(slot, dissent, lost, electorate, env, out);
        }
        self.keep_count(slot, env);
        self.table.tidy(slot);
    }

    /// Who is in the electorate of this key has changed.
    pub fn vote_on(&mut self, prefix: &Prefix, env: &mut Env, out: &mut Vec<Output>) {
        if let Some(slot) = self.table.find(prefix) {
            self.vote(slot, env, out);
        }
    }

    /// Whether nobody says anything about the key at `slot`, and nothing was chosen.
    fn is_void(&self, slot: u32) -> bool {
        self.table.entry(slot).is_none_or(|e| e.winner == BlobId::NONE)
            && self.table.candidates(slot).iter().all(|said| *said == BlobId::NONE)
    }

    /// Input disturbs a key as a changed candidate does; it matters only where the key would otherwise count as steady.
    fn note_input(&mut self, slot: u32, env: &Env) {
        let (now, steady_ms) = (env.now_ms(), env.rules.steady_ms);
        let Some(e) = self.table.entry_mut(slot) else { return };
        let (first, last) = (age_ms(now, e.first_ms), age_ms(now, e.last_ms));
        // Asking every store is dear: only where the answer can matter.
        if last < steady_ms {
            return;
        }
        let Some(age) = env.input_age_ms(&e.prefix).filter(|age| *age < steady_ms) else { return };
        e.turns = 0; // it has rested
        // Ages count backwards from now; the voter's rule wants points in time.
        let at = |age: u64| now.saturating_sub(age);
        let (first, last) = env.rules.disturb(at(first), at(last), at(age));
        (e.first_ms, e.last_ms) = (first as u32, last as u32);
    }

    /// Carries an outcome into the table: the winner, the recheck, the list of keys to tell.
    fn settle(&mut self, slot: u32, outcome: &voter::Outcome<BlobId>, env: &mut Env) {
        let Some(e) = self.table.entry_mut(slot) else { return };
        let winner = match outcome.decision {
            Decision::Publish(v) => v,
            Decision::Keep => e.winner,
        };
        let none = BlobId::NONE;
        env.routes.retain(winner, 1);
        env.routes.retain(outcome.overruled.unwrap_or(none), 1);
        env.routes.release(std::mem::replace(&mut e.winner, winner));
        env.routes.release(e.set_overruled(outcome.overruled).unwrap_or(none));
        if e.winner != e.published && e.flags & flag::DIRTY == 0 {
            e.flags |= flag::DIRTY;
            self.dirty.push(slot);
        }
        if let Some(at) = outcome.recheck_at {
            self.recheck_at(slot, at, env);
        }
    }

    pub(super) fn recheck_at(&mut self, slot: u32, at: u64, env: &mut Env) {
        let index = self.index as u32;
        if let Some(e) = self.table.entry_mut(slot).filter(|e| e.flags & flag::QUEUED == 0) {
            e.flags |= flag::QUEUED;
            env.rechecks.push(Reverse((at, index, slot)));
        }
    }

    /// Whether those that dissent do so only because some voter is still sending its first table.
    fn warming(&self, slot: u32, dissent: Members, env: &Env) -> bool {
        if dissent.is_empty() {
            return false;
        }
        let (said, Some(e)) = (self.table.candidates(slot), self.table.entry(slot)) else { return false };
        let absent = self.without_family(&e.prefix, env);
        self.seats.iter().enumerate().any(|(i, s)| {
            let quiet_since = |l: &Leg| l.last_update.max(l.since) + env.t_us();
            !absent.contains(i as u8)
                && said.get(i) == Some(&BlobId::NONE)
                && s.leg
                    .as_ref()
                    .is_some_and(|l| l.state == LegState::Established && env.now < quiet_since(l) && l.eor.is_empty())
        })
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
        let prefix = e.prefix;
        // What they say they have said since the key was last disturbed.
        let since_us = env.now.saturating_sub(age_ms(env.now_ms(), e.last_ms) * 1000);
        let peer = if dissent.minus(was).is_empty() { String::new() } else { env.peer_name(&self.peer) };
        env.mark((self.index as u32, slot), prefix, was, dissent, || {
            format!("not with the majority on {prefix} towards {peer}")
        });
        match (was_lost, lost) {
            (false, true) => env.without_quorum += 1,
            (true, false) => env.without_quorum = env.without_quorum.saturating_sub(1),
            _ => {}
        }
        if !env.may_tell(out) {
            return;
        }
        let names = |m: Members| m.iter().map(|i| env.name(usize::from(i)).to_owned()).collect::<Vec<_>>().join(", ");
        let (kind, severity, text) = if lost && !was_lost {
            (
                "no-quorum",
                Severity::Alarm,
                format!("no majority on {prefix}: {}", self.what_stays(slot, electorate, env)),
            )
        } else if !dissent.minus(was).is_empty() {
            let who = names(dissent.minus(was));
            (
                "disagreement",
                Severity::Warning,
                format!("{who} is not with the majority on {prefix}; the majority's route is published"),
            )
        } else {
            let back = was.minus(dissent);
            let counted = back.intersect(electorate.union(env.observers.intersect(self.attached)));
            let text = match (names(back), counted.is_empty()) {
                (who, _) if who.is_empty() && self.is_void(slot) => {
                    format!("nobody says anything about {prefix} any more")
                }
                (who, _) if who.is_empty() => format!("a majority stands again on {prefix}"),
                (who, true) => format!("{who} is not compared on {prefix} any more"),
                (who, false) => format!("{who} is with the majority again on {prefix}"),
            };
            ("agreement", Severity::Info, text)
        };
        let mut event = Event::new(env.now, kind, severity, text).with_session(env.peer_name(&self.peer));
        event.prefix = Some(prefix);
        event.since_us = (kind != "agreement").then_some(since_us);
        let single = dissent.minus(was).union(was.minus(dissent));
        if single.len() == 1 {
            event.instance = single.iter().next().map(|i| env.name(usize::from(i)).to_owned());
        }
        event.said = self.said(slot, electorate, env);
        out.push(event.into());
    }

    /// What every instance says about the key at `slot`, in words.
    fn said(&self, slot: u32, electorate: Members, env: &Env) -> Vec<Said> {
        let Some(prefix) = self.table.entry(slot).map(|e| e.prefix) else { return Vec::new() };
        let said = self.table.candidates(slot).iter().enumerate().filter(|(i, _)| !env.is_vacant(*i));
        said.map(|(i, id)| {
            let counted = electorate.contains(i as u8);
            let mut route = self.route_words(*id, env);
            if !counted {
                route = format!("{route} ({})", self.abstention(i, &prefix, env));
            }
            Said { instance: env.name(i).to_owned(), route, counted }
        })
        .collect()
    }

    /// Why an instance's word on this session does not count now.
    pub fn abstention(&self, i: usize, prefix: &Prefix, env: &Env) -> &'static str {
        if env.poison.abstainers(prefix, self.index as u32, true).contains(i as u8) {
            "abstains: what kills it is withheld from it"
        } else if env.exercised_on(prefix).contains(i as u8) {
            "abstains: it is being told of it once more"
        } else if env.observers.contains(i as u8) {
            "observer"
        } else if !self.attached.contains(i as u8) {
            "abstains: no leg"
        } else if self.without_family(prefix, env).contains(i as u8) {
            "abstains: its OPEN lacks the family"
        } else if env.unlevel.iter().any(|u| u.contains(i as u8)) {
            "abstains: not level"
        } else if env.abstainers(prefix, self.index as u32, true).contains(i as u8) {
            "abstains: its OPEN lacks what it takes to be told what a peer says"
        } else {
            "abstains: out of its limits"
        }
    }

    /// The prefix of the key at `slot`, and what everybody says about it.
    pub fn told(&self, slot: u32, env: &Env) -> Option<(Prefix, Vec<Said>)> {
        let e = self.table.entry(slot)?;
        Some((e.prefix, self.said(slot, self.electorate(&e.prefix, env).minus(e.stale), env)))
    }

    /// The keys on which instance `i` is not with the majority, with what everybody says.
    pub fn dissenting<'a>(&'a self, i: usize, env: &'a Env) -> impl Iterator<Item = (Prefix, Vec<Said>)> + 'a {
        let marked = move |slot: &u32| self.table.entry(*slot).is_some_and(|e| e.dissent.contains(i as u8));
        (0..self.table.slots()).filter(marked).filter_map(move |slot| self.told(slot, env))
    }

    fn route_words(&self, id: BlobId, env: &Env) -> String {
        if id == BlobId::NONE {
            return "none".to_owned();
        }
        canonical::describe(env.routes.bytes(id), self.is_as4()).to_string()
    }

    pub fn is_as4(&self) -> bool {
        self.up.as_ref().is_none_or(|up| up.negotiated.shared.as4)
    }

    /// Time has come for the key at `slot`.
    pub fn recheck(&mut self, slot: u32, env: &mut Env, out: &mut Vec<Output>) {
        let Some(e) = self.table.entry_mut(slot) else { return };
        e.flags &= !flag::QUEUED;
        // Nearly every key has long been settled by then: everybody says what was chosen, and nothing is marked.
        let (winner, calm) = (e.winner, e.flags & (flag::NO_QUORUM | flag::OVERRULED) == 0 && e.dissent.is_empty());
        if calm && self.table.candidates(slot).iter().all(|said| *said == winner) {
            self.keep_count(slot, env);
            return self.table.tidy(slot);
        }
        self.vote(slot, env, out);
    }

    /// An electorate changed somewhere: every key of this session is voted on anew, in turns.
    pub fn start_walk(&mut self) {
        match self.walk_at {
            Some(_) => self.walk_again = true,
            None if self.table.len() > 0 => self.walk_at = Some(0),
            None => {}
        }
    }
}
