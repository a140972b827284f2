//! `virtctl fib`.

use super::super::env::Env;
use super::Fib;
use replay::intern::BlobId;
use virtd_api as api;
use wire::netlink::fib::FibKey;

/// Entries of one answer at most.
const MAX_ENTRIES: usize = 10_000;

impl Fib {
    /// The state of the whole.
    pub fn status(&self, env: &Env) -> api::Fib {
        let entries = || self.table.iter().map(|(_, e)| e);
        let instances = self
            .members
            .iter()
            .enumerate()
            .filter(|(i, _)| !env.is_vacant(*i))
            .map(|(i, m)| api::FibInstance {
                name: env.name(i).to_owned(),
                state: m.state().to_owned(),
                routes: m.kernel.routes(),
                sockets: m.sockets,
                dissents: entries().filter(|e| e.dissent.contains(i as u8)).count(),
            })
            .collect();
        api::Fib {
            routes: self.table.chosen(),
            keys: self.table.keys(),
            distinct_routes: self.routes.len(),
            without_quorum: entries().filter(|e| e.is_lost()).count() as u64,
            failed: self.failed.len(),
            instances,
            vote_wait: self.waited_ms.durations(1000),
            memory_bytes: self.memory_bytes() as u64,
            ..self.counters.clone()
        }
    }

    /// The keys that `wanted` lets through, with what each instance says, in order; and whether
    /// there were more.
    pub fn entries(&self, env: &Env, wanted: impl Fn(&FibKey) -> bool, only_differing: bool) -> api::FibEntries {
        let mut slots: Vec<(FibKey, u32)> = self
            .table
            .iter()
            .map(|(slot, e)| (e.key, slot))
            .filter(|(key, slot)| wanted(key) && (!only_differing || self.differs(*slot, env)))
            .collect();
        slots.sort_unstable();
        let more = slots.len() > MAX_ENTRIES;
        let entries = slots.iter().take(MAX_ENTRIES).filter_map(|(key, slot)| self.entry(key, *slot, env)).collect();
        api::FibEntries { entries, more }
    }

    /// Whether anybody says something else than what won, or nothing where that is a vote; or the
    /// kernel does not take it.
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

    fn entry(&self, key: &FibKey, slot: u32, env: &Env) -> Option<api::FibEntry> {
        let e = self.table.entry(slot)?;
        let said = self.said(slot, self.electorate(slot, env).0, env);
        let failed = self.failed.get(key).map(|errno| std::io::Error::from_raw_os_error(*errno).to_string());
        let changed_us = Some(e.age(env.now_ms()) * 1000);
        Some(api::FibEntry { key: key.to_string(), route: self.words(e.winner), failed, changed_us, said })
    }
}
