//! On which prefixes an instance abstains because of a search for what kills it, and why.

use super::{Micros, Patient, Suspect};
use wire::bgp::Prefix;

/// One route that an instance is not judged on.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub session: usize,
    /// Of the stored attributes.
    pub hash: u64,
    pub why: Why,
    /// The tables (sessions, or the FIB) in which it has said something about the prefix since it
    /// was told.
    pub answered: Vec<u32>,
}

/// Why an instance abstains on a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// It is not told.
    Withheld,
    /// It has been told meanwhile, and may not have answered yet.
    Told,
    /// It was told the mended form of what the others were given as it came. Until the key rests
    /// its word counts all the same: what it says in those moments is its answer to what came, and
    /// it depends on nobody's speed whether that answer is heard.
    Mended,
    /// It was told, and is judged on what it says; where it has not said anything yet, from then
    /// on.
    Answering(Micros),
}

impl Patient {
    /// The instance abstains on these.
    pub(super) fn mark(&mut self, suspects: &[Suspect], why: Why) {
        for s in suspects {
            s.keys.iter().for_each(|(prefix, hash)| self.mark_one(s.session, *prefix, *hash, why));
        }
    }

    /// It abstains on these for another reason than before, where it still does: of what the peer
    /// says meanwhile it is not a suspect.
    pub(super) fn mark_again(&mut self, suspects: &[Suspect], why: Why) {
        for s in suspects {
            for (prefix, hash) in &s.keys {
                let list = self.held.get_mut(prefix).into_iter().flatten();
                let same = |h: &&mut Held| {
                    h.session == s.session && h.hash == *hash && matches!(h.why, Why::Withheld | Why::Told)
                };
                list.filter(same).for_each(|h| h.turn(why));
            }
        }
    }

    pub(super) fn mark_one(&mut self, session: usize, prefix: Prefix, hash: u64, why: Why) {
        let list = self.held.entry(prefix).or_default();
        // No answer is waited for where it is not told.
        list.retain(|h| why == Why::Mended || h.session != session || !matches!(h.why, Why::Answering(_)));
        // What was told in its mended form is no matter of the search's.
        let same =
            |h: &&mut Held| h.session == session && h.hash == hash && (h.why == Why::Mended) == (why == Why::Mended);
        match list.iter_mut().find(same) {
            Some(held) => held.turn(why),
            None => list.push(Held { session, hash, why, answered: Vec::new() }),
        }
    }

    pub(super) fn withholds(&self, session: usize, prefix: &Prefix) -> bool {
        self.held.get(prefix).is_some_and(|list| list.iter().any(|h| h.session == session && h.why == Why::Withheld))
    }

    /// Whether the instance abstains on `prefix` in this table, where the key `rests` or not.
    pub(super) fn abstains(&self, prefix: &Prefix, table: u32, rests: bool) -> bool {
        let waits = |h: &Held| match h.why {
            Why::Withheld | Why::Told => true,
            Why::Mended => rests,
            Why::Answering(_) => !h.answered.contains(&table),
        };
        self.held.get(prefix).is_some_and(|list| list.iter().any(waits))
    }

    /// It is told what stands about `prefix`, instead of what `is_other` names, and can have
    /// answered `until` then. True where that is to be waited for anew; an answer that is waited
    /// for already is due when it was, however often the peer changes its mind.
    pub(super) fn told(
        &mut self,
        session: usize,
        prefix: &Prefix,
        until: Micros,
        is_other: impl Fn(&Held) -> bool,
    ) -> bool {
        let Some(list) = self.held.get_mut(prefix) else { return false };
        let awaited = |h: &Held| h.session == session && matches!(h.why, Why::Answering(_));
        let was = list.iter().any(awaited);
        for h in list.iter_mut().filter(|h| h.session == session && !awaited(h) && is_other(h)) {
            // What it said while it was on trial is an answer, too.
            h.why = Why::Answering(until);
        }
        let mut first = true;
        list.retain(|h| !awaited(h) || std::mem::take(&mut first));
        !was && list.iter().any(awaited)
    }

    /// It abstains no longer on `prefix` for what `is_over` names. True where there was something.
    pub(super) fn drop_held(&mut self, prefix: &Prefix, is_over: impl Fn(&Held) -> bool) -> bool {
        let Some(list) = self.held.get_mut(prefix) else { return false };
        let before = list.len();
        list.retain(|h| !is_over(h));
        let some = list.len() < before;
        if list.is_empty() {
            self.held.remove(prefix);
        }
        some
    }
}

impl Held {
    pub(super) fn turn(&mut self, why: Why) {
        if self.why != why {
            (self.why, self.answered) = (why, Vec::new());
        }
    }
}
