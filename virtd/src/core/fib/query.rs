//! `virtctl fib`.

use super::super::env::Env;
use super::Fib;
use replay::intern::BlobId;
use serde_json::{Value, json};
use wire::netlink::fib::FibKey;

/// Entries of one answer at most.
const MAX_ENTRIES: usize = 10_000;

impl Fib {
    /// The state of the whole.
    pub fn status(&self, env: &Env) -> Value {
        let c = &self.counters;
        let entries = || self.table.iter().map(|(_, e)| e);
        let members: Vec<Value> = self
            .members
            .iter()
            .enumerate()
            .filter(|(i, _)| !env.is_vacant(*i))
            .map(|(i, m)| {
                json!({
                    "name": env.name(i),
                    "state": m.state(),
                    "routes": m.kernel.routes(),
                    "sockets": m.sockets,
                    "dissents": entries().filter(|e| e.dissent.contains(i as u8)).count(),
                })
            })
            .collect();
        json!({
            "routes": self.table.chosen(),
            "keys": self.table.keys(),
            "distinct_routes": self.routes.len(),
            "without_quorum": entries().filter(|e| e.is_lost()).count(),
            "failed": self.failed.len(),
            "instances": members,
            "requests": c.requests,
            "refused": c.refused,
            "answered_ahead": c.answered_ahead,
            "taken_back": c.taken_back,
            "votes": c.votes,
            "published": c.published,
            "dissents_total": c.dissents,
            "memory_bytes": self.memory_bytes(),
        })
    }

    /// The keys that `wanted` lets through, with what each instance says, in order; and whether there were more.
    pub fn entries(&self, env: &Env, wanted: impl Fn(&FibKey) -> bool, only_differing: bool) -> Value {
        let mut slots: Vec<(FibKey, u32)> = self
            .table
            .iter()
            .map(|(slot, e)| (e.key, slot))
            .filter(|(key, slot)| wanted(key) && (!only_differing || self.differs(*slot, env)))
            .collect();
        slots.sort_unstable();
        let more = slots.len() > MAX_ENTRIES;
        let list: Vec<Value> = slots.iter().take(MAX_ENTRIES).map(|(key, slot)| self.entry(key, *slot, env)).collect();
        json!({ "entries": list, "more": more })
    }

    /// Whether anybody says something else than what won, or nothing where that is a vote; or the kernel does not take it.
    fn differs(&self, slot: u32, env: &Env) -> bool {
        let Some(e) = self.table.entry(slot) else { return false };
        let (members, watched) = self.electorate(slot, env);
        let heard = members.union(watched);
        let apart = |(i, id): (usize, &BlobId)| {
            let says = *id != BlobId::NONE && !e.stale.contains(i as u8) || heard.contains(i as u8);
            says && !self.same(*id, e.winner)
        };
        let candidates = self.table.candidates(slot);
        e.winner != e.published || self.failed.contains_key(&e.key) || candidates.iter().enumerate().any(apart)
    }

    fn entry(&self, key: &FibKey, slot: u32, env: &Env) -> Value {
        let Some(e) = self.table.entry(slot) else { return Value::Null };
        let said: Vec<Value> = self
            .said(slot, self.electorate(slot, env).0, env)
            .into_iter()
            .map(|s| json!({ "instance": s.instance, "route": s.route, "counted": s.counted }))
            .collect();
        let failed = self.failed.get(key).map(|errno| std::io::Error::from_raw_os_error(*errno).to_string());
        json!({ "key": key.to_string(), "route": self.words(e.winner), "failed": failed, "said": said })
    }
}
