//! A table like the real ones, from a seed: the same seed and counts give the same routes on every
//! machine.
//!
//! Prefix lengths, path lengths, prepending, communities, AGGREGATOR, AS_SET and prefixes per
//! attribute set follow what was measured in RIPE RIS and RouteViews data of 2019 and in the global
//! table of 2026. Only orders of magnitude, not measurements, stand behind the shares of MED, large
//! communities and ORIGIN.

use crate::feed::{Item, Source};
use crate::route::{Raw, Route, Segment, segment};
use anyhow::Result;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use wire::bgp::update::{attr, flag};
use wire::bgp::{Family, Prefix};

/// Weights in tenths of a percent of (length, weight); measured down to 1.5 % in IPv4, the tail
/// filled in.
const V4_LENGTHS: &[(u8, u32)] = &[
    (24, 596),
    (22, 120),
    (23, 107),
    (21, 56),
    (20, 47),
    (19, 28),
    (18, 15),
    (16, 15),
    (17, 9),
    (15, 3),
    (14, 2),
    (13, 1),
    (12, 1),
];
const V6_LENGTHS: &[(u8, u32)] = &[
    (48, 471),
    (32, 141),
    (44, 90),
    (40, 84),
    (36, 37),
    (29, 27),
    (46, 28),
    (47, 24),
    (42, 20),
    (33, 18),
    (45, 14),
    (34, 12),
    (38, 10),
    (35, 8),
    (43, 7),
    (39, 5),
    (41, 4),
];
/// AS hops, the announcing neighbour's own included.
const HOPS: &[(u8, u32)] = &[(2, 10), (3, 40), (4, 270), (5, 410), (6, 200), (7, 60), (8, 10)];
const COMMUNITIES: &[(u8, u32)] = &[
    (0, 480),
    (1, 160),
    (2, 160),
    (6, 60),
    (3, 45),
    (4, 35),
    (5, 25),
    (7, 12),
    (8, 8),
    (10, 6),
    (13, 4),
    (17, 3),
    (24, 2),
];
/// First 16 bits of IPv6 space that registries have given out; 32 of them, so that five bits choose
/// one.
const V6_BLOCKS: [u16; 32] = [
    0x2400, 0x2401, 0x2402, 0x2403, 0x2404, 0x2405, 0x2406, 0x2407, 0x2408, 0x2409, 0x240a, 0x240e, 0x2600, 0x2601,
    0x2602, 0x2603, 0x2604, 0x2605, 0x2606, 0x2607, 0x2800, 0x2801, 0x2803, 0x2804, 0x2a00, 0x2a01, 0x2a02, 0x2a03,
    0x2a04, 0x2a05, 0x2a06, 0x2c0f,
];
/// IPv4 space that no table holds: (address, length).
const V4_RESERVED: &[(u32, u8)] = &[
    (0x0000_0000, 8),
    (0x0a00_0000, 8),
    (0x6440_0000, 10),
    (0x7f00_0000, 8),
    (0xa9fe_0000, 16),
    (0xac10_0000, 12),
    (0xc000_0000, 24),
    (0xc000_0200, 24),
    (0xc0a8_0000, 16),
    (0xc612_0000, 15),
    (0xc633_6400, 24),
    (0xcb00_7100, 24),
    (0xe000_0000, 3),
];
/// Longest run of prefixes with the same attributes.
const GROUP_MAX: f64 = 400.0;
/// Tail of the number of prefixes per attribute set; gives the measured mean of 6.5.
const GROUP_EXPONENT: f64 = 1.0;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of prefixes.
    pub prefixes: u64,
    /// Share of IPv6 among them, 0 to 1.
    pub ipv6_share: f64,
    /// The seed.
    pub seed: u64,
}

fn pick(table: &[(u8, u32)], rng: &mut SmallRng) -> u8 {
    let total: u32 = table.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.random_range(0..total);
    for (value, weight) in table {
        if at < *weight {
            return *value;
        }
        at -= weight;
    }
    table.first().map_or(0, |(value, _)| *value)
}

/// All prefixes of one length in an order that looks random, each once: runs of 16 neighbours, as
/// holders announce them, the runs shuffled by an odd multiplier, which is a permutation of the
/// numbers below a power of two.
#[derive(Debug)]
struct Walk {
    family: Family,
    len: u8,
    bits: u32,
    next: u64,
    multiplier: u64,
    offset: u64,
}

impl Walk {
    fn new(family: Family, len: u8, rng: &mut SmallRng) -> Walk {
        let bits = if family == Family::IPV4_UNICAST { u32::from(len) } else { u32::from(len) - 11 };
        Walk { family, len, bits, next: 0, multiplier: rng.random::<u64>() | 1, offset: rng.random() }
    }

    /// The next prefix; `None` when all are used.
    fn next(&mut self) -> Option<Prefix> {
        loop {
            if self.next >> self.bits != 0 {
                return None;
            }
            let run = self.bits.min(4);
            let (low, high) = (self.next & ((1 << run) - 1), self.next >> run);
            let shuffled =
                high.wrapping_mul(self.multiplier).wrapping_add(self.offset) & ((1u64 << (self.bits - run)) - 1);
            self.next += 1;
            if let Some(prefix) = self.prefix(shuffled << run | low) {
                return Some(prefix);
            }
        }
    }

    fn prefix(&self, index: u64) -> Option<Prefix> {
        if self.family == Family::IPV4_UNICAST {
            let addr = u32::try_from(index).ok()?.checked_shl(32 - self.bits)?;
            let reserved = |(net, len): &(u32, u8)| {
                let shift = 32 - u32::from(self.len.min(*len));
                addr >> shift == net >> shift
            };
            if V4_RESERVED.iter().any(reserved) {
                return None;
            }
            Prefix::from_wire(self.family, self.len, &addr.to_be_bytes())
        } else {
            let rest = self.bits - 5;
            let block = V6_BLOCKS.get(usize::try_from(index >> rest).ok()?)?;
            let low = u128::from(index & ((1 << rest) - 1)) << (112 - rest);
            Prefix::from_wire(self.family, self.len, &(u128::from(*block) << 112 | low).to_be_bytes())
        }
    }
}

/// The generated table as a [`Source`].
#[derive(Debug)]
pub struct Generator {
    rng: SmallRng,
    left: [u64; 2],
    walks: [Vec<Walk>; 2],
    transit: Vec<u32>,
}

const FAMILIES: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

impl Generator {
    /// Starts over from `plan`'s seed.
    pub fn new(plan: &Plan) -> Generator {
        let mut rng = SmallRng::seed_from_u64(plan.seed);
        let walks = [V4_LENGTHS, V6_LENGTHS].map(|lengths| lengths.iter().map(|(len, _)| *len).collect::<Vec<_>>());
        let mut walk = |at: usize| walks[at].iter().map(|len| Walk::new(FAMILIES[at], *len, &mut rng)).collect();
        let walks = [walk(0), walk(1)];
        let transit = (0..400).map(|_| asn(&mut rng)).collect();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let v6 = (plan.prefixes as f64 * plan.ipv6_share.clamp(0.0, 1.0)).round() as u64;
        Generator { rng, left: [plan.prefixes - v6.min(plan.prefixes), v6], walks, transit }
    }

    /// One prefix of the family at `at`; `None` when its space is used up.
    pub fn prefix(&mut self, at: usize) -> Option<Prefix> {
        let lengths = if at == 0 { V4_LENGTHS } else { V6_LENGTHS };
        let len = pick(lengths, &mut self.rng);
        let walks = self.walks.get_mut(at)?;
        let chosen = walks.iter_mut().find(|w| w.len == len).and_then(Walk::next);
        // The shorter lengths run out first in a table larger than the real one; then any that is
        // left.
        chosen.or_else(|| walks.iter_mut().find_map(Walk::next))
    }

    /// Whether the `n`th prefix of a run in which one comes at a time is an IPv6 one: evenly spread
    /// by the share.
    pub fn is_v6(&self, n: u64, plan: &Plan) -> bool {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let before = |n: u64| (n as f64 * plan.ipv6_share.clamp(0.0, 1.0)) as u64;
        before(n + 1) > before(n)
    }

    /// Attributes for a group of prefixes; the path lacks the announcing neighbour's own AS.
    pub fn route(&mut self) -> Route {
        let mut route = Route { path: Some(self.path()), ..Route::default() };
        let rng = &mut self.rng;
        let origin = match rng.random_range(0..1000) {
            0..900 => 0,
            900..905 => 1,
            _ => 2,
        };
        let transitive = flag::OPTIONAL | flag::TRANSITIVE;
        let mut put = |code, flags, value: Vec<u8>| route.other.push(Raw { code, flags, value });
        put(attr::ORIGIN, flag::TRANSITIVE, vec![origin]);
        if rng.random_bool(0.1) {
            put(attr::MULTI_EXIT_DISC, flag::OPTIONAL, rng.random_range(0..1000u32).to_be_bytes().into());
        }
        if rng.random_bool(0.096) {
            if rng.random_bool(0.5) {
                put(attr::ATOMIC_AGGREGATE, flag::TRANSITIVE, Vec::new());
            }
            let by = [asn(rng).to_be_bytes(), rng.random_range(0x0b00_0001..0x6000_0000u32).to_be_bytes()];
            put(attr::AGGREGATOR, transitive, by.concat());
        }
        let count = usize::from(pick(COMMUNITIES, rng));
        if count > 0 {
            let transit = &self.transit;
            let mut list: Vec<u32> = Vec::with_capacity(count);
            while list.len() < count {
                let who = transit.get(rng.random_range(0..transit.len())).map_or(1, |asn| asn & 0xffff).clamp(1, 64495);
                list.push(who << 16 | rng.random_range(1..10_000));
            }
            list.sort_unstable();
            list.dedup();
            put(attr::COMMUNITIES, transitive, list.iter().flat_map(|c| c.to_be_bytes()).collect());
        }
        if rng.random_bool(0.03) {
            let large = [asn(rng), rng.random_range(0..10), rng.random_range(0..70_000)];
            put(attr::LARGE_COMMUNITY, transitive, large.iter().flat_map(|n| n.to_be_bytes()).collect());
        }
        route
    }

    fn path(&mut self) -> Vec<Segment> {
        let rng = &mut self.rng;
        let hops = usize::from(pick(HOPS, rng)) - 1;
        let mut asns: Vec<u32> = Vec::with_capacity(hops + 4);
        while asns.len() < hops {
            // A few carriers stand in most paths: the square makes the first of the pool the
            // commonest.
            let next = if asns.len() + 1 < hops {
                let u: f64 = rng.random();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
                let at = (u * u * self.transit.len() as f64) as usize;
                self.transit.get(at).copied().unwrap_or(1)
            } else {
                asn(rng)
            };
            if !asns.contains(&next) {
                asns.push(next);
            }
        }
        if rng.random_bool(0.23) {
            let at = if rng.random_bool(0.7) { asns.len() - 1 } else { rng.random_range(0..asns.len()) };
            let (who, times) = (asns.get(at).copied().unwrap_or(1), rng.random_range(1..5));
            for _ in 0..times {
                asns.insert(at, who);
            }
        }
        let mut path = vec![Segment { kind: segment::SEQUENCE, asns }];
        if rng.random_bool(0.0003) {
            path.push(Segment { kind: segment::SET, asns: vec![asn(rng), asn(rng)] });
        }
        path
    }

    /// How many prefixes share the next attribute set.
    fn group(&mut self) -> u64 {
        let u: f64 = self.rng.random_range(f64::EPSILON..1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let size = u.powf(-1.0 / GROUP_EXPONENT).min(GROUP_MAX) as u64;
        size
    }
}

/// An AS number that is neither reserved nor private.
fn asn(rng: &mut SmallRng) -> u32 {
    if rng.random_bool(0.6) {
        // AS_TRANS lies in here.
        match rng.random_range(1..64_496) {
            23_456 => 23_455,
            n => n,
        }
    } else {
        rng.random_range(131_072..402_000)
    }
}

impl Source for Generator {
    fn next(&mut self) -> Result<Option<Item>> {
        // The families are mixed as their shares are.
        let total = self.left[0] + self.left[1];
        if total == 0 {
            return Ok(None);
        }
        let at = usize::from(self.rng.random_range(0..total) >= self.left[0]);
        let count = self.group().min(self.left[at]);
        let mut prefixes = Vec::new();
        for _ in 0..count {
            match self.prefix(at) {
                Some(prefix) => prefixes.push(prefix),
                None => {
                    log::warn!("the generator has no more {} prefixes to give", FAMILIES[at]);
                    self.left[at] = prefixes.len() as u64;
                    break;
                }
            }
        }
        self.left[at] -= prefixes.len() as u64;
        let route = self.route();
        Ok(Some(Item::Announce { route: Box::new(route), prefixes }))
    }

    fn total(&self) -> Option<u64> {
        Some(self.left[0] + self.left[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    fn all(plan: &Plan) -> Vec<(Route, Vec<Prefix>)> {
        let mut generator = Generator::new(plan);
        let mut out = Vec::new();
        while let Some(item) = generator.next().expect("generating does not fail") {
            let Item::Announce { route, prefixes } = item else { panic!("only announcements") };
            out.push((*route, prefixes));
        }
        out
    }

    const PLAN: Plan = Plan { prefixes: 60_000, ipv6_share: 0.2, seed: 7 };

    #[test]
    fn a_seed_is_a_table() {
        assert_eq!(all(&PLAN), all(&PLAN));
        assert_ne!(all(&PLAN), all(&Plan { seed: 8, ..PLAN }));
    }

    #[test]
    fn every_prefix_comes_once_and_the_shares_are_those_of_the_real_table() {
        let table = all(&PLAN);
        let prefixes: Vec<Prefix> = table.iter().flat_map(|(_, p)| p.clone()).collect();
        assert_eq!(prefixes.len(), 60_000);
        assert_eq!(prefixes.iter().collect::<HashSet<_>>().len(), 60_000);
        let v6 = prefixes.iter().filter(|p| p.addr().is_ipv6()).count();
        assert_eq!(v6, 12_000);
        let mut lengths: BTreeMap<(bool, u8), usize> = BTreeMap::new();
        for p in &prefixes {
            *lengths.entry((p.addr().is_ipv6(), p.len())).or_default() += 1;
        }
        let near = |what: &str, is: usize, of: usize, percent: f64| {
            #[allow(clippy::cast_precision_loss)]
            let share = is as f64 * 100.0 / of as f64;
            assert!((share - percent).abs() < percent / 10.0 + 0.7, "{what}: {share:.2} %, expected {percent} %");
        };
        for (len, percent) in [(24, 59.6), (22, 12.0), (23, 10.7), (21, 5.6), (20, 4.7), (19, 2.8)] {
            near(&format!("/{len}"), lengths[&(false, len)], 48_000, percent);
        }
        for (len, percent) in [(48, 47.1), (32, 14.1), (44, 9.0), (40, 8.4)] {
            near(&format!("/{len}"), lengths[&(true, len)], 12_000, percent);
        }
        let n = table.len();
        near("prefixes per attribute set, times 10", prefixes.len() * 10, n * 100, 65.0);
        let count = |f: &dyn Fn(&Route) -> bool| table.iter().filter(|(r, _)| f(r)).count();
        let has = |r: &Route, code| r.other.iter().any(|raw| raw.code == code);
        near("AGGREGATOR", count(&|r| has(r, attr::AGGREGATOR)), n, 9.6);
        near("no communities", count(&|r| !has(r, attr::COMMUNITIES)), n, 48.0);
        let path = |r: &Route| r.path.as_ref().map(|p| p[0].asns.clone()).unwrap_or_default();
        let unique = |r: &Route| path(r).iter().collect::<HashSet<_>>().len() + 1;
        near("five hops", count(&|r| unique(r) == 5), n, 41.0);
        near("prepended", count(&|r| unique(r) <= path(r).len()), n, 23.0);
    }
}
