//! Keys at rest, held against what each table would have by itself.

use ballots::{Common, Rest};
use std::collections::BTreeMap;
use voter::Members;

/// More than one word of bits.
const TABLES: u32 = 130;
const KEYS: u32 = 12;

struct Lab {
    common: Common<u32, u32>,
    /// By table and key.
    model: BTreeMap<(u32, u32), Rest<u32>>,
    /// References, by value.
    held: BTreeMap<u32, i64>,
    seed: u64,
}

impl Lab {
    fn any(&mut self, below: u32) -> u32 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) % u64::from(below)) as u32
    }

    fn hold(held: &mut BTreeMap<u32, i64>, value: u32, more: bool) {
        let n = held.entry(value).or_default();
        *n += if more { 1 } else { -1 };
        assert!(*n >= 0, "{value} was given back too often");
    }

    fn step(&mut self) {
        let (table, key, i) = (self.any(TABLES), self.any(KEYS), self.any(4) as usize);
        let held = &mut self.held;
        let hold = |value, more| Lab::hold(held, value, more);
        match self.seed >> 20 & 31 {
            0 => {
                self.common.mark_stale(table, i, hold);
                self.model.iter_mut().filter(|((t, _), _)| *t == table).for_each(|(_, r)| r.stale.insert(i as u8));
            }
            1 => {
                let alone = self.common.forget(table, i, hold);
                let mut expected = Vec::new();
                for ((_, key), rest) in self.model.iter_mut().filter(|((t, _), _)| *t == table) {
                    rest.stale.remove(i as u8);
                    rest.who.remove(i as u8);
                    expected.extend(rest.who.is_empty().then_some(*key));
                }
                assert_eq!(sorted(alone), expected);
            }
            2 => {
                self.common.clear(table, |value| Lab::hold(held, value, false));
                self.model.retain(|(t, _), _| *t != table);
            }
            3..=12 => {
                let value = 1 + self.any(2);
                let held = &mut self.held;
                let known = self.common.said_again(table, &key, i, value, |v, more| Lab::hold(held, v, more));
                let rest = self.model.get_mut(&(table, key)).filter(|rest| rest.value == value);
                assert_eq!(known, rest.is_some());
                if let Some(rest) = rest {
                    rest.stale.remove(i as u8);
                    rest.who.insert(i as u8);
                }
            }
            13..=18 => {
                let taken = self.common.take(table, &key);
                assert_eq!(taken.map(|(rest, _)| rest), self.model.remove(&(table, key)));
                if let Some((rest, true)) = taken {
                    Lab::hold(&mut self.held, rest.value, false);
                }
            }
            _ if self.model.contains_key(&(table, key)) => {}
            _ => {
                let rest = Rest { value: 1 + self.any(2), who: Members(1 + self.any(7)), stale: Members(self.any(2)) };
                if self.common.put(table, key, rest) {
                    Lab::hold(&mut self.held, rest.value, true);
                }
                self.model.insert((table, key), rest);
            }
        }
    }

    fn check(&self) {
        for table in 0..TABLES {
            let own: Vec<(u32, Rest<u32>)> =
                self.model.range((table, 0)..(table + 1, 0)).map(|((_, key), rest)| (*key, *rest)).collect();
            let mut there: Vec<(u32, Rest<u32>)> = self.common.iter(table).collect();
            there.sort_unstable_by_key(|(key, _)| *key);
            assert_eq!((there, self.common.keys(table)), (own.clone(), own.len()));
            let numbered = (0..self.common.numbers()).filter_map(|n| self.common.numbered(table, n));
            assert_eq!(sorted(numbered.collect()), own.iter().map(|(key, _)| *key).collect::<Vec<u32>>());
            for i in 0..4 {
                let stale: Vec<u32> = own.iter().filter(|(_, r)| r.stale.contains(i as u8)).map(|(k, _)| *k).collect();
                assert_eq!(self.common.stale(table, i), stale.len());
                assert_eq!(sorted(self.common.stale_keys(table, i, 0).map(|(_, key)| key).collect()), stale);
                let from = self.common.numbers() / 2;
                let rest: Vec<u32> = self.common.stale_keys(table, i, from).map(|(_, key)| key).collect();
                let numbered = (from..self.common.numbers()).filter_map(|n| self.common.numbered(table, n));
                assert_eq!(rest, numbered.filter(|key| stale.contains(key)).collect::<Vec<u32>>());
            }
            for key in 0..KEYS {
                assert_eq!(self.common.find(table, &key), self.model.get(&(table, key)).copied());
            }
        }
        for key in 0..KEYS {
            assert_eq!(self.common.has(&key), self.model.keys().any(|(_, k)| *k == key));
        }
    }
}

fn sorted(mut keys: Vec<u32>) -> Vec<u32> {
    keys.sort_unstable();
    keys
}

#[test]
fn what_is_kept_in_common_is_what_each_table_would_have() {
    for seed in 1..=6 {
        let (common, model, held) = Default::default();
        let mut lab = Lab { common, model, held, seed };
        for n in 0..3000 {
            lab.step();
            if n % 300 == 0 {
                lab.check();
            }
        }
        lab.check();
        for table in 0..TABLES {
            let held = &mut lab.held;
            lab.common.clear(table, |value| Lab::hold(held, value, false));
        }
        assert!(lab.held.values().all(|n| *n == 0), "every reference is given back: {:?}", lab.held);
        assert_eq!((lab.common.numbers() > 0, (0..KEYS).any(|key| lab.common.has(&key))), (true, false));
    }
}

/// What differs costs memory, not how many tables have it alike.
#[test]
fn a_table_more_costs_one_bit_a_key() {
    let memory = |tables: u32| {
        let mut common = Common::default();
        let rest = Rest { value: 1, who: Members(7), stale: Members::EMPTY };
        for key in 0..10_000 {
            (0..tables).for_each(|table| _ = common.put(table, key, rest));
        }
        common.memory_bytes()
    };
    assert!(memory(1000) - memory(10) < 10_000 * 160, "{} and {}", memory(10), memory(1000));
}
