//! What the instances say, and the votes on it: what they go by, and what follows. The vote itself
//! is the crate `ballots`'.

use super::super::env::ById;
use super::*;
use crate::dissent::Words;
use crate::event::{Said, Severity};
use ballots::{Entry, Law, Marks, Rechecks, Terms, Voting};
use replay::intern::BlobId;
use voter::{Agreement, Outcome};
use wire::bgp::canonical::{self, CanonicalContext, Carried};
use wire::bgp::frame::Message;
use wire::bgp::hygiene::{self, Verdict};
use wire::bgp::update::Update;
use wire::bgp::{Prefix, as2};

/// The votes on one session's keys.
pub struct Votes<'a> {
    session: &'a mut Session,
    env: &'a mut Env,
}

impl Voting for Votes<'_> {
    type Key = Prefix;
    type Value = BlobId;

    fn ballots(&self) -> &Table {
        &self.session.table
    }

    fn parts(&mut self) -> (&mut Table, &mut Rechecks) {
        (&mut self.session.table, &mut self.env.rechecks)
    }

    fn law(&self) -> Law<'_> {
        self.env.law()
    }

    #[inline]
    fn terms(&self, _slot: u32, e: &Entry<Prefix, BlobId>) -> Terms {
        let (session, env) = (&*self.session, &*self.env);
        if let Some(witness) = &env.witness {
            witness.votes_on(&e.key);
        }
        #[cfg(debug_assertions)]
        crate::faults::at_a_vote(&e.key);
        let mut watched = env.instances.observers.intersect(session.attached).minus(e.stale);
        if !watched.is_empty() {
            watched = watched.minus(session.abstainers(&e.key, env)).minus(session.without_family(&e.key, env));
        }
        if env.has_blocks {
            watched = watched.minus(env.outside(&e.key));
        }
        let mut electorate = session.electorate(&e.key, env).minus(e.stale);
        // After virtd's own death: what others have not said again yet is not for the first to decide.
        if env.awaits_quorum && electorate.len() < env.instances.quorum() {
            electorate = Members::EMPTY;
        }
        Terms { electorate, watched, min_voters: env.rules.min_voters }
    }

    fn agreement(&self) -> impl Agreement<BlobId> {
        ById(&self.env.routes)
    }

    fn is_master(&self, i: usize) -> bool {
        self.env.is_master(i, self.session.attached)
    }

    fn input_age(&self, prefix: &Prefix) -> Option<u64> {
        self.env.input_age_ms(prefix)
    }

    fn hold(&mut self, new: BlobId, old: BlobId) {
        self.env.routes.retain(new, 1);
        self.env.routes.release(old);
    }

    fn awaited(&self) -> Option<Members> {
        self.env.keys_rest().then(|| self.session.awaited())
    }

    fn voted(&mut self, slot: u32) {
        self.session.settle(slot, self.env);
    }

    /// Nobody is accused because somebody is late: sending a first table, or told late.
    #[inline]
    fn temper(&mut self, slot: u32, terms: &Terms, outcome: &mut Outcome<BlobId>) {
        let (session, env) = (&mut *self.session, &mut *self.env);
        let Some((was, was_lost)) = session.table.entry(slot).map(|e| (e.dissent, e.is_lost())) else { return };
        let compared = terms.electorate.union(terms.watched);
        let differ = if outcome.lost_quorum { compared } else { outcome.dissent };
        let warming = session.warming(slot, differ, env);
        let held_back = !warming && session.is_held_back(slot, differ.minus(was), env);
        if warming || held_back {
            session.table.recheck_at(slot, env.now_ms() + env.rules.steady_ms, &mut env.rechecks);
        }
        outcome.dissent = match (warming, held_back) {
            (true, _) => Members::EMPTY,
            (false, true) => outcome.dissent.intersect(was),
            (false, false) => outcome.dissent,
        };
        if !warming && !held_back && !terms.electorate.is_empty() {
            session.count(slot, compared, outcome.dissent, was, outcome.lost_quorum && !was_lost, env);
        }
    }

    fn marked(&mut self, slot: u32, marks: &Marks) {
        let (session, env) = (&*self.session, &mut *self.env);
        let Some((prefix, winner)) = session.table.entry(slot).map(|e| (e.key, e.winner)) else { return };
        let peer = if marks.newly().is_empty() { String::new() } else { env.peer_name(&session.peer) };
        let why = || format!("not with the majority on {prefix} towards {peer}");
        if !env.mark((session.index as u32, slot), prefix, marks, why) {
            return;
        }
        let words = Words {
            kinds: ["no-quorum", "disagreement", "agreement"],
            stays: &session.what_stays(winner, session.table.candidates(slot), marks.terms.electorate, env),
            place: "published",
            is_void: session.table.is_void(slot),
        };
        let mut event = env.verdict(&words, prefix, prefix, marks).with_session(env.peer_name(&session.peer));
        event.said = session.said(slot, marks.terms.electorate, env);
        self.env.out.push(event.into());
    }
}

impl Session {
    /// An UPDATE of instance `i`.
    pub(super) fn leg_update(&mut self, i: usize, m: &Message, env: &mut Env) {
        #[cfg(debug_assertions)]
        crate::faults::at_an_instances(m.body());
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
        // What the peer would have to treat as withdraw or discard is no candidate: it cannot leave
        // (docs/DECISIONS.md, "Vote on meaning, publish bytes once").
        let verdict = hygiene::check(m.body(), &spoken);
        let body = match &verdict {
            Verdict::Pass => m.body(),
            Verdict::Rewritten { body, findings, .. } => {
                let what: Vec<&str> = findings.iter().map(|f| f.what).collect();
                let text = format!("{} sent a malformed UPDATE: {}", env.name(i), what.join("; "));
                env.tell_of("instance-malformed", Severity::Warning, &self.peer, i, text);
                body
            }
            Verdict::Reset { notification, finding } => {
                let n = notification.clone();
                return self.leg_fault(i, Some(n), finding.what, env);
            }
        };
        let wide = if narrow { as2::widen(body) } else { None };
        let body = match (narrow, &wide) {
            (false, _) => body,
            (true, Some(wide)) => wide,
            (true, None) => {
                let n = Notification::new(3, 11);
                return self.leg_fault(i, Some(n), "its AS_PATH is too long with 4-octet AS numbers", env);
            }
        };
        let update = match Update::parse(body) {
            Ok(u) => u,
            Err(n) => return self.leg_fault(i, Some(n), "its UPDATE cannot be taken apart", env),
        };
        if let Some(family) = update.end_of_rib() {
            let known = terms.shared.families.contains(&family);
            if let Some(leg) = self.seats[i].leg.as_mut().filter(|l| known && !l.eor.contains(&family)) {
                leg.eor.push(family);
            }
            return self.tick_end_of_rib(env);
        }
        if let Some(leg) = self.seats[i].leg.as_mut() {
            leg.last_update = env.now;
        }
        if let Some(instance) = env.instances.get_mut(i) {
            instance.last_output = env.now;
        }
        for prefix in update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()).filter(carried) {
            self.candidate(i, prefix, BlobId::NONE, env);
        }
        let mut announced = |carried_in, prefixes: &mut dyn Iterator<Item = Prefix>| {
            let route = match env.canonicaliser.route(&update, carried_in, &context) {
                Some(bytes) => env.routes.intern(bytes),
                None => BlobId::NONE,
            };
            prefixes.for_each(|prefix| self.candidate(i, prefix, route, env));
            env.routes.release(route);
        };
        if !update.nlri.is_empty() {
            announced(Carried::Classic, &mut update.nlri.filter(carried));
        }
        if let Some(nlri) = update.mp_announced() {
            announced(Carried::MpReach, &mut nlri.filter(carried));
        }
    }

    /// Instance `i` now says `route` about `prefix`.
    fn candidate(&mut self, i: usize, prefix: Prefix, route: BlobId, env: &mut Env) {
        env.counters.candidates += 1;
        if let Some(s) = env.instances.get_mut(i) {
            s.candidates += 1;
        }
        if !env.ribs.is_empty() && self.says_of(Some(i), &prefix, env) != route {
            env.ribs.said(self.index, i, &prefix);
        }
        let now = env.now_ms();
        let slot = match (route, self.table.find(&prefix)) {
            (_, Some(slot)) => slot,
            (_, None) => match self.find_at_rest(&prefix, env) {
                Some(rest) if rest == route && env.poison.is_idle() => return self.says_again(i, &prefix, route, env),
                Some(_) => match self.rouse(&prefix, env) {
                    Some(slot) => slot,
                    None => return,
                },
                None if route == BlobId::NONE => return,
                None => self.table.add(prefix, now),
            },
        };
        let answers = !env.poison.is_idle() && env.poison.said(i, self.index as u32, &prefix);
        let mut votes = self.votes(env);
        if ballots::say(&mut votes, slot, i, route, false) {
            env.counters.votes += 1;
        } else if answers {
            ballots::vote(&mut votes, slot);
        }
    }

    pub fn electorate(&self, prefix: &Prefix, env: &Env) -> Members {
        let mut members = env.instances.voters.intersect(self.attached);
        if !env.all_told() {
            members = members.minus(self.abstainers(prefix, env)).minus(self.without_family(prefix, env));
        }
        if self.has_limits {
            members = members.minus(env.out_of_scope(self.peer.ip(), prefix));
        }
        // After virtd's own death nobody decides alone because he came first.
        if env.awaits_quorum && members.len() < env.instances.quorum() {
            return Members::EMPTY;
        }
        members
    }

    /// Those that have a leg here without the family of `prefix`: they say nothing about it to this
    /// peer.
    pub(super) fn without_family(&self, prefix: &Prefix, env: &Env) -> Members {
        env.heard.without_family(self.index, prefix)
    }

    /// Who is in the electorate of this key may have changed. Whether there is one.
    pub fn vote_on(&mut self, prefix: &Prefix, env: &mut Env) -> bool {
        let slot = self.table.find(prefix);
        if let Some(slot) = slot {
            ballots::vote(&mut self.votes(env), slot);
        }
        slot.is_some()
    }

    /// The votes on its keys.
    pub fn votes<'a>(&'a mut self, env: &'a mut Env) -> Votes<'a> {
        Votes { session: self, env }
    }

    /// Whether those that dissent do so only because some voter is still sending its first table.
    fn warming(&self, slot: u32, dissent: Members, env: &Env) -> bool {
        if dissent.is_empty() {
            return false;
        }
        let (said, Some(e)) = (self.table.candidates(slot), self.table.entry(slot)) else { return false };
        let absent = self.without_family(&e.key, env);
        self.seats.iter().enumerate().any(|(i, s)| {
            let quiet_since = |l: &Leg| l.last_update.max(l.since) + env.t_us();
            !absent.contains(i as u8)
                && said.get(i) == Some(&BlobId::NONE)
                && s.leg
                    .as_ref()
                    .is_some_and(|l| l.state == LegState::Established && env.now < quiet_since(l) && l.eor.is_empty())
        })
    }

    /// What every instance says about the key at `slot`, in words.
    fn said(&self, slot: u32, electorate: Members, env: &Env) -> Vec<Said> {
        let Some(prefix) = self.table.entry(slot).map(|e| e.key) else { return Vec::new() };
        let why = |i| self.abstention(i, &prefix, env);
        env.said(self.table.candidates(slot), electorate, |id| self.route_words(id, env), why)
    }

    /// Why an instance's word on this session does not count now.
    pub fn abstention(&self, i: usize, prefix: &Prefix, env: &Env) -> &'static str {
        if env.poison.abstainers(prefix, self.index as u32, true).contains(i as u8) {
            "abstains: what kills it is withheld from it"
        } else if env.heard.exercised_on(prefix).contains(i as u8) {
            "abstains: it is being told of it once more"
        } else if env.instances.observers.contains(i as u8) {
            "observer"
        } else if !self.attached.contains(i as u8) {
            "abstains: no leg"
        } else if self.without_family(prefix, env).contains(i as u8) {
            "abstains: its OPEN lacks the family"
        } else if !env.heard.is_level(i) {
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
        Some((e.key, self.said(slot, self.electorate(&e.key, env).minus(e.stale), env)))
    }

    /// The keys on which instance `i` is not with the majority, with what everybody says.
    pub fn dissenting<'a>(&'a self, i: usize, env: &'a Env) -> impl Iterator<Item = (Prefix, Vec<Said>)> + 'a {
        let marked = self.table.iter().filter(move |(_, e)| e.dissent.contains(i as u8));
        marked.filter_map(move |(slot, _)| self.told(slot, env))
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
}
