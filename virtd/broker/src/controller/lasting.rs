//! A difference that a restart does not cure: another configuration, or another way to do it right.
//!
//! A verdict "wrong" ends an instance so that it comes back without what has upset it. One that
//! comes back and says the same again was not upset: ending it once more would cost its vote each
//! time, and cure nothing. So a verdict remembers on which prefixes the instance was wrong and in
//! what. Where most of them are wrong in the same again after its start, that is told once, and the
//! instance stays, outvoted.
//!
//! ```text
//! wrong ──▶ remembered ──▶ killed, started ──▶ wrong ──┬─▶ in the same, on most of the same prefixes: told once, left running
//!              ▲                                       └─▶ in something else ──▶ remembered, killed …
//!              └── forgotten: `virtctl instance NAME restart`, `virtctl change commit`
//! ```

use super::verdict::{Charge, threshold};
use super::{Controller, Duty, Process};
use crate::config::{Fault, FaultAction};
use crate::dissent;
use crate::env::Env;
use crate::event::{Event, Severity};
use crate::independence::Aspect;
use crate::io::Micros;
use crate::session::Session;
use std::collections::{BTreeMap, BTreeSet};
use wire::bgp::Prefix;

/// Prefixes remembered of a verdict, those that have been wrong for the longest: many enough to
/// tell "most of them" from chance.
const MAX_PREFIXES: usize = 256;
/// Prefixes, and things in which they differ, that are named.
const NAMED: usize = 5;

/// In what an instance differs, prefix by prefix.
type Differences = BTreeMap<Prefix, BTreeSet<Aspect>>;

/// What an instance was found wrong about last.
#[derive(Clone, Default, Debug)]
pub(super) struct Lasting {
    differences: Differences,
    /// It was started anew since then.
    restarted: bool,
    /// It differs in the same for all that, which was told.
    told: bool,
    /// When that was last looked at.
    looked: Micros,
}

impl Lasting {
    /// The instance was started.
    pub(super) fn started(&mut self) {
        self.restarted = true;
    }

    /// Whether the instance stands accused of this, and a restart will not change it.
    pub(super) fn stands(&self, env: &Env) -> bool {
        self.told && env.now < self.looked + threshold(env)
    }

    /// Whether `now` is the same difference. `is_known`: somebody still says something about that
    /// prefix.
    fn is_same(&self, now: &Differences, is_known: impl Fn(&Prefix) -> bool) -> bool {
        let still = self.differences.iter().filter(|(prefix, _)| now.contains_key(*prefix) || is_known(prefix));
        let (known, again) = still.fold((0usize, 0usize), |(known, again), (prefix, aspects)| {
            (known + 1, again + usize::from(now.get(prefix) == Some(aspects)))
        });
        // Nor is it wrong about a lot of others in another way.
        let kinds: BTreeSet<&BTreeSet<Aspect>> = self.differences.values().collect();
        let alike = now.values().filter(|aspects| kinds.contains(aspects)).count();
        again * 2 > known && alike * 2 > now.len()
    }
}

impl Controller {
    /// Whether what instance `i` is charged with has outlived a restart; else it is remembered, for
    /// when it comes back.
    pub(super) fn lasts(&mut self, i: usize, charge: &mut Charge, env: &mut Env, sessions: &[Session]) -> bool {
        let Some(c) = self.list.get_mut(i) else { return false };
        let before = c.lasting.take().unwrap_or_default();
        let differences = differences(i, &before.differences, env, sessions);
        let is_known =
            |prefix: &Prefix| env.common.has(prefix) || sessions.iter().any(|s| s.table.find(prefix).is_some());
        let same = before.restarted && before.is_same(&differences, is_known);
        let mut lasting = match same {
            true => Lasting { differences, told: true, looked: env.now, ..*before },
            false => Lasting { differences, ..Lasting::default() },
        };
        let event = (same && !before.told).then(|| told(i, &lasting.differences, charge, env));
        if let Some(event) = event {
            if let Some(s) = env.instances.get_mut(i) {
                s.last_fault = Some(event.text.clone());
            }
            env.out.push(event.into());
            // Whoever it is master of would be told the wrong thing first each time.
            if env.instances.master_line.contains(&(i as u8)) {
                env.instances.master_line.retain(|m| usize::from(*m) != i);
                env.instances.master_line.push(i as u8);
                env.followups.vote_anew();
            }
        }
        while lasting.differences.len() > MAX_PREFIXES {
            lasting.differences.pop_last();
        }
        c.lasting = Some(Box::new(lasting));
        if same && self.may_be_replaced(i, env) {
            self.fall(i, env);
        }
        same
    }

    /// Whether a standby may take the place of instance `i`, which stays running.
    fn may_be_replaced(&self, i: usize, env: &Env) -> bool {
        env.config.faults.action.of(Fault::Wrong) == FaultAction::Restart
            && self.list.get(i).is_some_and(|c| c.duty == Duty::Voter && !c.pinned && c.process == Process::Running)
    }

    /// The instances that have agreed meanwhile need nobody in their place.
    pub(super) fn watch_lasting(&mut self, env: &Env) {
        for (i, c) in self.list.iter_mut().enumerate() {
            let told = c.lasting.as_ref().is_some_and(|l| l.told);
            if told && c.fallen && c.process == Process::Running && env.wrong_prefixes(i) == 0 {
                c.fallen = false;
            }
        }
    }

    /// An operator has changed policy: what was found before says nothing about what is found now.
    pub(super) fn forget_lasting(&mut self) {
        for c in &mut self.list {
            c.fallen &= c.lasting.take().is_none_or(|l| !l.told);
        }
    }
}

/// In what instance `i` differs on the prefixes on which it has done so for the longest, and on
/// those of `before`.
fn differences(i: usize, before: &Differences, env: &Env, sessions: &[Session]) -> Differences {
    let Some(account) = env.instances.get(i).map(|s| &s.account) else { return Differences::new() };
    let oldest: BTreeSet<Prefix> = account.oldest(MAX_PREFIXES).into_iter().map(|(_, prefix, _)| prefix).collect();
    let mut all = Differences::new();
    for ((session, slot), prefix) in account.dated() {
        if !oldest.contains(&prefix) && !before.contains_key(&prefix) {
            continue;
        }
        let aspects = all.entry(prefix).or_default();
        match sessions.get(session as usize) {
            Some(s) => s.differs_in(i, slot, env, |aspect| _ = aspects.insert(aspect)),
            None if session == dissent::FIB => _ = aspects.insert(Aspect::Kernel),
            None => {}
        }
    }
    all
}

/// Says what it is, once.
fn told(i: usize, differences: &Differences, charge: &mut Charge, env: &Env) -> Event {
    let name = env.name(i);
    let mut counted: BTreeMap<Aspect, usize> = BTreeMap::new();
    differences.values().flatten().for_each(|aspect| *counted.entry(*aspect).or_default() += 1);
    let mut aspects: Vec<(Aspect, usize)> = counted.into_iter().collect();
    aspects.sort_by_key(|(aspect, n)| (std::cmp::Reverse(*n), *aspect));
    let more = |all: usize| if all > NAMED { ", …" } else { "" };
    let what: Vec<String> = aspects.iter().take(NAMED).map(|(aspect, _)| aspect.name()).collect();
    let prefixes: Vec<String> = differences.keys().take(NAMED).map(Prefix::to_string).collect();
    let total = env.wrong_prefixes(i);
    let text = format!(
        "{name} differs again after its restart, on {total} prefixes ({}{}) in {}{}: a restart does not cure that, so it is left running and \
         outvoted; make it mean the same as the others, then `virtctl instance {name} restart`",
        prefixes.join(", "),
        more(total as usize),
        what.join(", "),
        more(aspects.len()),
    );
    let mut event = Event::new(env.now, "instance-differs-again", Severity::Alarm, text).with_instance(name);
    charge.describe(&mut event, env);
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u32) -> Prefix {
        Prefix::new(std::net::Ipv4Addr::from(n << 8).into(), 24).expect("a prefix")
    }

    fn all(list: impl IntoIterator<Item = u32>, aspects: &[Aspect]) -> Differences {
        list.into_iter().map(|n| (prefix(n), aspects.iter().copied().collect())).collect()
    }

    #[test]
    fn the_same_is_the_same_on_most_of_the_same_prefixes() {
        let (med, none) = (&[Aspect::Attribute(4)][..], &[Aspect::Presence][..]);
        let lasting = Lasting { differences: all(0..10, med), ..Lasting::default() };
        let same = |now: Differences| lasting.is_same(&now, |_| true);
        assert!(same(all(0..10, med)) && same(all(4..10, med)));
        assert!(!same(all(5..10, med)), "half is not most");
        assert!(!same(all(0..10, none)) && !same(Differences::new()), "in something else, or not at all");
        assert!(!same(all(0..10, &[Aspect::Attribute(4), Aspect::NextHop])), "and in something more");
        assert!(!same(all(20..30, med)), "on others");
        assert!(same(all(0..100, med)), "and on more, in the same");
        let more: Differences = all(10..30, none).into_iter().chain(all(0..10, med)).collect();
        assert!(!same(more), "and on more, in another way");
        // Of what is not there any more nobody can be wrong.
        assert!(lasting.is_same(&all(0..3, med), |p| *p < prefix(5)));
        assert!(!lasting.is_same(&all(20..30, med), |_| false), "nothing is left of it");
    }
}
