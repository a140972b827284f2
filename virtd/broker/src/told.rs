//! What a peer was told of one prefix, in words: who says what, and which rule has led to it.

use super::env::{ById, Env};
use super::query::words;
use super::session::Session;
use crate::config::Strategy;
use ballots::Entry;
use replay::intern::BlobId;
use virtd_api as api;
use voter::{Agreement, Members};
use wire::bgp::Prefix;

impl Session {
    /// RFC 4271's name for where the session stands.
    pub(super) fn state_name(&self) -> &'static str {
        use super::session::ExtState::*;
        match self.exts.iter().map(|e| e.state).max_by_key(|s| *s as u8) {
            None => "Idle",
            Some(Connect) => "Connect",
            Some(Connected) => "Connected",
            Some(OpenSent) => "OpenSent",
            Some(OpenConfirm) => "OpenConfirm",
            Some(Established) => "Established",
        }
    }

    /// What an operator should know of a key without a majority: usually what was published before
    /// stays. Under master-slave the master's word went out at once, and nobody can say that it is
    /// wrong.
    pub fn what_stays(&self, winner: BlobId, said: &[BlobId], electorate: voter::Members, env: &Env) -> String {
        let master = electorate.iter().map(usize::from).find(|i| env.is_master(*i, electorate));
        let agrees = |a, b| ById(&env.routes).agrees(a, b);
        match master.filter(|m| said.get(*m).is_some_and(|says| agrees(*says, winner))) {
            Some(m) => format!("what {}, the master, says is published", env.name(m)),
            None => "what was published stays".to_owned(),
        }
    }

    /// What everybody says about one prefix on this session; `None` where nobody ever said
    /// anything.
    pub(super) fn routes(&self, prefix: &Prefix, env: &Env) -> Option<api::Told> {
        let (e, candidates) = self.look(prefix, env)?;
        let text = |id: BlobId| (id != BlobId::NONE).then(|| words(env.routes.bytes(id), self.is_as4()));
        let electorate = self.electorate(prefix, env).minus(e.stale);
        let said = candidates
            .iter()
            .enumerate()
            .filter(|(i, _)| !env.is_vacant(*i))
            .map(|(i, id)| {
                let counted = electorate.contains(i as u8);
                let note = match (counted, e.dissent.contains(i as u8)) {
                    (true, true) => "not with the majority",
                    (true, false) => "",
                    (false, _) => self.abstention(i, prefix, env),
                };
                let agrees = ById(&env.routes).agrees(*id, e.winner);
                api::Candidate {
                    instance: env.name(i).to_owned(),
                    route: text(*id),
                    counted,
                    agrees: Some(agrees),
                    note: note.to_owned(),
                }
            })
            .collect();
        let count = |with: &dyn Fn(BlobId) -> bool| {
            electorate.iter().filter(|i| candidates.get(usize::from(*i)).is_some_and(|id| with(*id))).count()
        };
        let agree = count(&|id| ById(&env.routes).agrees(id, e.winner));
        // The same in meaning is what counts; which of its forms was chosen is worth a word where
        // there are several.
        let letter = match count(&|id| id == e.winner) {
            n if n == agree => String::new(),
            n => format!(", {n} of them to the letter"),
        };
        let why = if e.is_lost() {
            format!("no majority: {}", self.what_stays(e.winner, &candidates, electorate, env))
        } else {
            let restless = if e.is_restless() { "; the master does not leave it alone" } else { "" };
            let (of, strategy) = (electorate.len(), env.config.vote.strategy.name());
            format!("{agree} of {of} agree with the winner{letter} ({strategy}{restless})")
        };
        let rule = self.rule(&e, electorate, agree, env);
        // A key at rest has no time of its own.
        let changed_us = self.table.find(prefix).map(|_| e.age(env.now_ms()) * 1000);
        Some(api::Told {
            peer: env.peer_name(&self.peer),
            published: text(e.published),
            winner: text(e.winner),
            why,
            rule: rule.to_owned(),
            changed_us,
            said,
        })
    }

    /// Which rule has led to what is published of a key; `agree` of the electorate are with the
    /// winner.
    fn rule(&self, e: &Entry<Prefix, BlobId>, electorate: Members, agree: usize, env: &Env) -> &'static str {
        let (of, strategy) = (electorate.len(), env.config.vote.strategy);
        // With first-k it is what k still stand for, and nobody's fault.
        let overruled = strategy == Strategy::MasterSlave && e.overruled().is_some();
        if of == 0 {
            "nobody-counts"
        } else if of < usize::from(env.rules.min_voters) {
            "too-few-voters"
        } else if e.is_lost() {
            "no-majority"
        } else if overruled {
            "overruled"
        } else if of == 1 {
            "alone"
        } else if agree == of {
            "unanimous"
        } else if agree * 2 > of {
            "majority"
        } else {
            match strategy {
                Strategy::MasterSlave if !e.is_restless() => "master",
                Strategy::FirstK if agree >= env.config.quorum() => "first-k",
                _ => "kept",
            }
        }
    }
}
