//! Events about repairs and adoptions: the first at once, more of the same once a second, with
//! their number. And how often one route may be repaired at once.

use super::table::Damage;
use hashbrown::HashMap;
use std::time::{Duration, Instant};
use wire::netlink::fib::FibKey;

/// Events of one kind are at least this far apart.
const APART: Duration = Duration::from_secs(1);
/// Foreign routes in the way of ours that are named within that time.
const FOREIGN: u8 = 10;
/// One key is repaired at once this many times ...
const REPAIRS: u8 = 3;
/// ... within this; then it is left to the next scan, so that two who fight over a route do not
/// spin.
const REPAIR_WINDOW: Duration = Duration::from_secs(10);
/// Keys that the limit is remembered for; beyond that those whose time is over are forgotten.
const MAX_REMEMBERED: usize = 16_384;

/// See the module's comment.
#[derive(Default)]
pub struct Reports {
    /// Leftovers adopted and not told.
    pub adopted: u64,
    adopted_since: Option<Instant>,
    repairs: Vec<(FibKey, Damage)>,
    more_repairs: u64,
    last_repairs: Option<Instant>,
    recent: HashMap<FibKey, (Instant, u8)>,
    foreign: Option<(Instant, u8)>,
}

/// Repairs to tell.
pub struct Repaired {
    /// The first.
    pub key: FibKey,
    /// What had happened to it.
    pub damage: Damage,
    /// How many more there were.
    pub more: u64,
}

impl Reports {
    /// A route was put right.
    pub fn repaired(&mut self, key: FibKey, damage: Damage) {
        if self.repairs.is_empty() {
            self.repairs.push((key, damage));
        } else {
            self.more_repairs += 1;
        }
    }

    /// Whether a route that somebody damaged may be repaired at once. Counts it.
    pub fn may_repair(&mut self, key: FibKey, now: Instant) -> bool {
        if self.recent.len() >= MAX_REMEMBERED {
            self.recent.retain(|_, (since, _)| now.duration_since(*since) < REPAIR_WINDOW);
        }
        if self.recent.len() >= 2 * MAX_REMEMBERED {
            // So many at once is a flush, not a fight; but nothing may grow without an end.
            self.recent.clear();
        }
        let (since, times) = self.recent.entry(key).or_insert((now, 0));
        if now.duration_since(*since) >= REPAIR_WINDOW {
            (*since, *times) = (now, 0);
        }
        *times = times.saturating_add(1);
        *times <= REPAIRS
    }

    /// Whether one more foreign route is named now. `virtctl fib` shows them all.
    pub fn may_name_foreign(&mut self, now: Instant) -> bool {
        let (since, named) = self.foreign.get_or_insert((now, 0));
        if now.duration_since(*since) >= APART {
            (*since, *named) = (now, 0);
        }
        *named = named.saturating_add(1);
        *named <= FOREIGN
    }

    /// The repairs to tell now.
    pub fn take_repairs(&mut self, now: Instant) -> Option<Repaired> {
        if self.last_repairs.is_some_and(|last| now.duration_since(last) < APART) {
            return None;
        }
        let (key, damage) = self.repairs.pop()?;
        self.last_repairs = Some(now);
        Some(Repaired { key, damage, more: std::mem::take(&mut self.more_repairs) })
    }

    /// The adoptions to tell now: none were added for a second, or this is the end of them.
    pub fn take_adopted(&mut self, now: Instant, end: bool) -> Option<u64> {
        if self.adopted == 0 {
            return None;
        }
        let since = *self.adopted_since.get_or_insert(now);
        if !end && now.duration_since(since) < APART {
            return None;
        }
        self.adopted_since = None;
        Some(std::mem::take(&mut self.adopted))
    }

    /// When there will be something to tell.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let repairs = (!self.repairs.is_empty()).then(|| self.last_repairs.map_or(now, |last| last + APART));
        let adopted = (self.adopted > 0).then(|| self.adopted_since.map_or(now, |since| since + APART));
        repairs.into_iter().chain(adopted).min()
    }
}
