//! `virtctl differs`: the prefixes on which somebody is not with the majority, and in what.
//!
//! Asked of the accounts of the instances, which have the keys on which each stands as a dissenter;
//! only where prefixes are without a majority are tables walked, so many slots and no more, since
//! nobody is marked on those.

use super::dissent::FIB;
use super::independence;
use super::session::Session;
use super::{Core, env};
use std::collections::BTreeMap;
use virtd_api::{Difference, Differing, Differs};
use voter::Agreement;
use wire::bgp::Prefix;

/// Prefixes in one answer, where the request does not say how many.
const ROWS: usize = 50;
/// The most prefixes in one answer: what a person or a program reads; whoever has more looks at the
/// configuration first.
const MAX_ROWS: usize = 1000;
/// Slots that are walked for prefixes without a majority: some ten milliseconds of the loop.
const MAX_WALKED: u32 = 1 << 18;

/// Where a key stands: the index of its session, and the prefix; and its slot there.
type Keys = BTreeMap<(u32, Prefix), u32>;

impl Core {
    /// Of instance `name` only, or of all; `n` rows.
    pub(super) fn differs_answer(&self, name: Option<&str>, n: Option<u64>) -> Result<Differs, String> {
        let env = &self.env;
        let only = name.map(|name| env.taken().find(|i| env.name(*i) == name));
        if only == Some(None) {
            let names: Vec<&str> = env.taken().map(|i| env.name(i)).collect();
            let name = name.unwrap_or_default();
            return Err(format!("there is no instance {name:?}: there are {}", names.join(", ")));
        }
        let only = only.flatten();
        let n = n.and_then(|n| usize::try_from(n).ok()).unwrap_or(ROWS);
        let (mut keys, mut unnamed) = (Keys::new(), 0u64);
        for i in env.taken().filter(|i| only.is_none_or(|o| o == *i)) {
            let Some(state) = env.instances.get(i) else { continue };
            let named = state.account.dated().filter(|((session, _), _)| *session != FIB);
            keys.extend(named.map(|((session, slot), prefix)| ((session, prefix), slot)));
            unnamed += u64::from(state.account.undated());
        }
        let walked_all = self.without_majority(&mut keys);
        let mut rows: Vec<Difference> =
            keys.iter().filter_map(|(key, slot)| self.difference(key, *slot, only)).collect();
        let found = rows.len();
        rows.truncate(n.min(MAX_ROWS));
        Ok(Differs {
            more: (found - rows.len()) as u64 + unnamed,
            differs: rows,
            all_were_looked_at: walked_all,
            without_majority: env.without_quorum.into(),
        })
    }

    /// Adds the keys without a majority. False where not all could be looked at.
    fn without_majority(&self, keys: &mut Keys) -> bool {
        if self.env.without_quorum == 0 {
            return true;
        }
        let mut left = MAX_WALKED;
        for (index, session) in (0u32..).zip(&self.sessions) {
            for slot in 0..session.table.slots() {
                if left == 0 {
                    return false;
                }
                left -= 1;
                let lost = session.table.entry(slot).filter(|e| e.is_lost());
                if let Some(e) = lost {
                    keys.insert((index, e.key), slot);
                }
            }
        }
        true
    }

    fn difference(&self, (index, prefix): &(u32, Prefix), slot: u32, only: Option<usize>) -> Option<Difference> {
        let session = self.sessions.get(*index as usize)?;
        let instances = session.who_differs(prefix, slot, &self.env);
        let wanted = only.is_none_or(|i| instances.iter().any(|x| x.instance == self.env.name(i)));
        let e = session.table.entry(slot).filter(|e| e.key == *prefix && wanted && !instances.is_empty())?;
        let majority = !e.is_lost();
        let peer = session.peer.ip().to_string();
        Some(Difference { peer, prefix: prefix.to_string(), majority, instances })
    }
}

impl Session {
    /// Who says something else than what was chosen, and in what; of a key that has a majority
    /// those that are marked for it.
    fn who_differs(&self, prefix: &Prefix, slot: u32, env: &env::Env) -> Vec<Differing> {
        let Some(e) = self.table.entry(slot).filter(|e| e.key == *prefix) else { return Vec::new() };
        let electorate = self.electorate(prefix, env).minus(e.stale);
        let among = if e.is_lost() { electorate.union(e.dissent) } else { e.dissent };
        let said = self.table.candidates(slot);
        let word = |i: u8| said.get(usize::from(i)).copied().unwrap_or(replay::intern::BlobId::NONE);
        let differing = among.iter().filter(|i| !env::ById(&env.routes).agrees(word(*i), e.winner));
        let told = differing.map(|i| {
            let mut aspects = Vec::new();
            independence::differences(word(i), e.winner, &env.routes, |aspect| aspects.push(aspect.name().to_owned()));
            Differing { instance: env.name(usize::from(i)).to_owned(), r#in: aspects, counted: electorate.contains(i) }
        });
        told.collect()
    }
}
