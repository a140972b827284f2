//! A recorded trace on its way into the kernel: for each change that it makes to the forwarding
//! table, the time from the UPDATE's being sent to the table's being changed (papers/001, section
//! 5.2: the FIB pass-through time under a replayed trace, at its own speed and 3000 times that).
//!
//! Most UPDATEs of a trace change nothing in the table. So that the routes of a trace differ there
//! as those of several vantage points do, each AS_PATH has one of the given next hops; a change is
//! a route that is new, that has another next hop, or that goes. An UPDATE's time lasts until the
//! kernel has, for each prefix of it, what it says or what was said after it.

use crate::feed::{Item, Source};
use crate::fib::Change;
use anyhow::{Result, ensure};
use hashbrown::HashMap;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use wire::bgp::Prefix;

/// Many collectors write whole seconds: what shares a time is spread over the time until the next,
/// at most so much.
const RESOLUTION: Duration = Duration::from_secs(1);

/// What is due when, in the trace's own time. IPv6 is left out: the yardstick is one table.
pub struct Plan(Vec<(Duration, Item)>);

impl Plan {
    /// Reads the first `span` of a trace.
    ///
    /// # Errors
    /// What cannot be read, and a trace without a change for IPv4.
    pub fn read(mut source: Box<dyn Source>, span: Duration, next_hops: &[Ipv4Addr]) -> Result<Plan> {
        // The same paths have the same next hop in every run.
        let hasher = foldhash::fast::FixedState::default();
        let mut all: Vec<(Duration, Item)> = Vec::new();
        let (mut at, mut first) = (Duration::ZERO, 0);
        while let Some(mut item) = source.next()? {
            match &mut item {
                Item::At(next) => {
                    spread(all.get_mut(first..).unwrap_or_default(), next.saturating_sub(at));
                    (at, first) = (*next, all.len());
                    if at >= span {
                        break;
                    }
                    continue;
                }
                Item::Announce { route, prefixes } => {
                    prefixes.retain(|p| p.addr().is_ipv4());
                    let which = usize::try_from(hasher.hash_one(&route.path)).unwrap_or_default();
                    route.next_hop = next_hops.get(which % next_hops.len().max(1)).map(|hop| IpAddr::V4(*hop));
                }
                Item::Withdraw(prefixes) => prefixes.retain(|p| p.addr().is_ipv4()),
                _ => continue,
            }
            if matches!(&item, Item::Announce { prefixes, .. } | Item::Withdraw(prefixes) if !prefixes.is_empty()) {
                all.push((at, item));
            }
        }
        spread(all.get_mut(first..).unwrap_or_default(), RESOLUTION);
        ensure!(!all.is_empty(), "the trace has no IPv4 prefix in it");
        Ok(Plan(all))
    }

    /// The items, each with when it is due at so many times the trace's speed.
    pub fn at_speed(self, times: f64) -> impl Iterator<Item = (Duration, Item)> {
        self.0.into_iter().map(move |(at, item)| (at.div_f64(times), item))
    }
}

fn spread(items: &mut [(Duration, Item)], over: Duration) {
    let step = over.min(RESOLUTION).div_f64(items.len().max(1) as f64);
    for (n, (at, _)) in (0u32..).zip(items) {
        *at += step * n;
    }
}

/// An UPDATE on its way.
struct Update {
    since: Instant,
    /// Prefixes of it for which the kernel has neither what it says nor what was said later.
    left: usize,
    /// A change of it was taken back before the kernel had it: nothing may ever be seen of it.
    overtaken: bool,
}

/// What was sent, what the kernel has, and what is between them.
pub struct Passage {
    said: HashMap<Prefix, IpAddr>,
    kernel: HashMap<Prefix, IpAddr>,
    /// What is waited for (`None`: that the route goes), and the numbers of the UPDATEs that wait
    /// with it.
    pending: HashMap<Prefix, (Option<IpAddr>, Vec<usize>)>,
    updates: Vec<Update>,
    /// Of UPDATEs that have changed something.
    times: Histogram<u64>,
    /// The same one by one: number of the UPDATE, nanoseconds.
    each: Vec<(usize, u64)>,
    /// Changes that were seen.
    changes: u64,
    /// UPDATEs that were overtaken; they are not in `times`.
    overtaken: u64,
}

impl Passage {
    /// Nothing said yet.
    pub fn new() -> Result<Passage> {
        Ok(Passage {
            said: HashMap::new(),
            kernel: HashMap::new(),
            pending: HashMap::new(),
            updates: Vec::new(),
            // Three significant digits, a nanosecond to ten minutes.
            times: Histogram::new_with_bounds(1, 600_000_000_000, 3)?,
            each: Vec::new(),
            changes: 0,
            overtaken: 0,
        })
    }

    /// This leaves, and counts from `since`.
    pub fn sent(&mut self, item: &Item, since: Instant) {
        self.updates.push(Update { since, left: 0, overtaken: false });
        match item {
            Item::Announce { route, prefixes } => prefixes.iter().for_each(|prefix| self.want(*prefix, route.next_hop)),
            Item::Withdraw(prefixes) => prefixes.iter().for_each(|prefix| self.want(*prefix, None)),
            _ => {}
        }
    }

    fn want(&mut self, prefix: Prefix, hop: Option<IpAddr>) {
        let before = match hop {
            Some(hop) => self.said.insert(prefix, hop),
            None => self.said.remove(&prefix),
        };
        if before == hop {
            return;
        }
        let number = self.updates.len().saturating_sub(1);
        if self.kernel.get(&prefix).copied() == hop {
            // Back to what it was.
            for number in self.pending.remove(&prefix).map(|(_, waiting)| waiting).into_iter().flatten() {
                if let Some(update) = self.updates.get_mut(number) {
                    update.left -= 1;
                    self.overtaken += u64::from(!std::mem::replace(&mut update.overtaken, true));
                }
            }
            return;
        }
        if let Some(update) = self.updates.last_mut() {
            update.left += 1;
        }
        let (wanted, waiting) = self.pending.entry(prefix).or_default();
        *wanted = hop;
        waiting.push(number);
    }

    /// The kernel tells of this.
    pub fn seen(&mut self, change: &Change) {
        let Change { prefix, gateway, gone, at } = *change;
        let now = gateway.filter(|_| !gone);
        match now {
            Some(hop) => self.kernel.insert(prefix, hop),
            None => self.kernel.remove(&prefix),
        };
        if self.pending.get(&prefix).is_none_or(|(wanted, _)| *wanted != now) {
            return;
        }
        self.changes += 1;
        for number in self.pending.remove(&prefix).map(|(_, waiting)| waiting).into_iter().flatten() {
            let Some(update) = self.updates.get_mut(number) else { continue };
            update.left -= 1;
            if update.left == 0 && !update.overtaken {
                let time = at.saturating_duration_since(update.since).as_nanos();
                let time = u64::try_from(time).unwrap_or(u64::MAX);
                self.times.saturating_record(time);
                self.each.push((number, time));
            }
        }
    }

    /// Whether everything has arrived.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// How long each UPDATE took that has changed something: its number, from 0, and nanoseconds.
    /// In the order in which they were done.
    pub fn each(&self) -> &[(usize, u64)] {
        &self.each
    }

    /// What was measured.
    pub fn result(&self, seconds: f64) -> Value {
        let of = |quantile| self.times.value_at_quantile(quantile);
        json!({
            "mode": "trace", "updates": self.updates.len(), "count": self.times.len(), "changes": self.changes, "lost": self.pending.len(),
            "overtaken": self.overtaken, "seconds": seconds, "min_ns": self.times.min(), "p50_ns": of(0.5), "p90_ns": of(0.9),
            "p99_ns": of(0.99), "p999_ns": of(0.999), "max_ns": self.times.max(), "mean_ns": self.times.mean(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Route;
    use crate::script;
    use std::collections::VecDeque;

    struct Fixed(VecDeque<Item>);

    impl Source for Fixed {
        fn next(&mut self) -> Result<Option<Item>> {
            Ok(self.0.pop_front())
        }
    }

    fn items(lines: &[&str]) -> VecDeque<Item> {
        let parse = |line: &&str| script::parse(line).expect("a command");
        lines.iter().flat_map(parse).collect()
    }

    fn hops() -> [Ipv4Addr; 2] {
        [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)]
    }

    fn change(prefix: &str, hop: Option<Ipv4Addr>, at: Instant) -> Change {
        let prefix = prefix.parse().expect("a prefix");
        Change { prefix, gateway: hop.map(IpAddr::V4), gone: hop.is_none(), at }
    }

    #[test]
    fn what_shares_a_second_is_spread_over_it_and_the_rest_is_cut_off() {
        let mut all =
            items(&["announce 10.0.0.0/8 as-path 1", "withdraw 10.0.0.0/8", "announce 2001:db8::/32 as-path 1"]);
        all.push_front(Item::At(Duration::ZERO));
        all.push_back(Item::At(Duration::from_secs(5)));
        all.extend(items(&["announce 11.0.0.0/8 as-path 1"]));
        all.push_back(Item::At(Duration::from_secs(9)));
        all.extend(items(&["announce 12.0.0.0/8 as-path 1"]));
        let plan = Plan::read(Box::new(Fixed(all)), Duration::from_secs(9), &hops()).expect("a plan");
        let due: Vec<_> = plan.at_speed(10.0).map(|(at, _)| at).collect();
        assert_eq!(due, [0, 50, 500].map(Duration::from_millis), "IPv6 takes no time, a gap is no reason to dawdle");
        assert!(Plan::read(Box::new(Fixed(VecDeque::new())), Duration::MAX, &hops()).is_err());
    }

    #[test]
    fn a_path_has_the_same_next_hop_in_every_run_and_paths_differ() {
        let hop_of = |path: &str| {
            let source = Fixed(items(&[&format!("announce 10.0.0.0/8 as-path {path}")]));
            let plan = Plan::read(Box::new(source), Duration::MAX, &hops()).expect("a plan");
            plan.at_speed(1.0)
                .find_map(|(_, item)| if let Item::Announce { route, .. } = item { route.next_hop } else { None })
        };
        assert_eq!(hop_of("1 2"), hop_of("1 2"));
        let all: std::collections::BTreeSet<_> = (1..50).map(|n| hop_of(&format!("1 {n}"))).collect();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn an_update_takes_until_the_last_of_its_changes_and_what_is_overtaken_is_left_out() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut passage = Passage::new().expect("a histogram");
        let [a, b] = hops();
        let (one, other) = ("10.0.0.0/8", "11.0.0.0/8");
        let say = |passage: &mut Passage, prefixes: &[&str], hop: Option<Ipv4Addr>, ms| {
            let prefixes = prefixes.iter().map(|p| p.parse().expect("a prefix")).collect();
            let route = Box::new(Route { next_hop: hop.map(IpAddr::V4), ..Route::default() });
            let item = if hop.is_some() { Item::Announce { route, prefixes } } else { Item::Withdraw(prefixes) };
            passage.sent(&item, at(ms));
        };
        say(&mut passage, &[one, other], Some(a), 0);
        say(&mut passage, &[one], Some(a), 1);
        passage.seen(&change(one, Some(a), at(2)));
        assert!(!passage.is_done(), "half of it");
        passage.seen(&change(other, Some(a), at(3)));
        assert!(passage.is_done(), "the second one has changed nothing");
        // A daemon may replace a route by removing the old one first.
        say(&mut passage, &[one], Some(b), 10);
        passage.seen(&change(one, None, at(11)));
        passage.seen(&change(one, Some(b), at(15)));
        // There and back again: nothing needs to be seen of it.
        say(&mut passage, &[one, other], None, 20);
        say(&mut passage, &[one], Some(b), 21);
        passage.seen(&change(other, None, at(22)));
        assert!(passage.is_done());
        // The kernel need not have what is no longer so.
        say(&mut passage, &[one], Some(a), 30);
        say(&mut passage, &[one], None, 31);
        assert!(!passage.is_done());
        passage.seen(&change(one, None, at(38)));
        assert!(passage.is_done());
        let result = passage.result(1.0);
        let counts = ["updates", "count", "changes", "lost", "overtaken"].map(|key| result[key].as_u64());
        assert_eq!(counts, [7, 4, 5, 0, 1].map(Some));
        let ms = |key: &str| result[key].as_u64().map(|ns| (ns + 500_000) / 1_000_000);
        assert_eq!((ms("min_ns"), ms("p50_ns"), ms("max_ns")), (Some(3), Some(5), Some(8)));
        let each: Vec<_> = passage.each().iter().map(|(number, ns)| (*number, ns / 1_000_000)).collect();
        assert_eq!(each, [(0, 3), (2, 5), (5, 8), (6, 7)]);
    }
}
