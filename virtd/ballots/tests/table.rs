//! The table with a user of its own: keys and values are numbers, and references are counted.

use ballots::{Ballots, Entry, Law, Marks, Rechecks, Terms, Voting, recheck, say, vote, walk};
use std::collections::BTreeMap;
use voter::{Agreement, Exact, Members, Millis, Rules, Strategy};

const T: Millis = 1000;
const ID: u32 = 7;

struct Lab {
    table: Ballots<u32, u32>,
    rechecks: Rechecks,
    rules: Rules,
    now: Millis,
    electorate: Members,
    /// References to values: the table's, and of whoever is saying one.
    held: BTreeMap<u32, u32>,
    input: Option<Millis>,
    /// Keys whose marks changed, and how.
    marks: Vec<(u32, Marks)>,
    /// Keys voted on.
    votes: std::cell::RefCell<Vec<u32>>,
}

impl Voting for Lab {
    type Key = u32;
    type Value = u32;

    fn ballots(&self) -> &Ballots<u32, u32> {
        &self.table
    }
    fn parts(&mut self) -> (&mut Ballots<u32, u32>, &mut Rechecks) {
        (&mut self.table, &mut self.rechecks)
    }
    fn law(&self) -> Law<'_> {
        Law { now: self.now, rules: self.rules, master_line: &[0, 1, 2] }
    }
    fn terms(&self, _slot: u32, e: &Entry<u32, u32>) -> Terms {
        self.votes.borrow_mut().push(e.key);
        Terms { electorate: self.electorate.minus(e.stale), watched: Members::EMPTY, min_voters: 1 }
    }
    fn agreement(&self) -> impl Agreement<u32> {
        Exact
    }
    fn is_master(&self, i: usize) -> bool {
        self.rules.strategy == Strategy::MasterSlave && i == 0
    }
    fn input_age(&self, _: &u32) -> Option<Millis> {
        self.input.map(|at| self.now - at)
    }
    fn hold(&mut self, new: u32, old: u32) {
        let mut count = |value: u32, by: i32| {
            let held = self.held.get_mut(&value).filter(|n| **n > 0).expect("nobody gave the last reference back");
            *held = held.saturating_add_signed(by);
        };
        [(new, 1), (old, -1)].into_iter().filter(|(value, _)| *value != 0).for_each(|(value, by)| count(value, by));
    }
    fn marked(&mut self, slot: u32, marks: &Marks) {
        let key = self.table.entry(slot).expect("a key in use").key;
        self.marks.push((key, *marks));
    }
}

impl Lab {
    fn new(strategy: Strategy) -> Lab {
        Lab {
            table: Ballots::new(ID, 3),
            rechecks: Rechecks::default(),
            rules: Rules { strategy, steady_ms: T, flap_cap_ms: 6 * T, min_voters: 1 },
            now: 1_000_000,
            electorate: Members::first(3),
            held: BTreeMap::new(),
            input: None,
            marks: Vec::new(),
            votes: Default::default(),
        }
    }

    fn says(&mut self, i: usize, key: u32, value: u32) -> bool {
        let slot = self.table.find(&key).unwrap_or_else(|| self.table.add(key, self.now));
        // Whoever says it holds it meanwhile.
        *self.held.entry(value).or_default() += 1;
        let changed = say(self, slot, i, value, false);
        self.held.entry(value).and_modify(|n| *n -= 1);
        changed
    }

    fn all_say(&mut self, key: u32, value: u32) {
        (0..3).for_each(|i| _ = self.says(i, key, value));
    }

    fn winner(&self, key: u32) -> Option<u32> {
        Some(self.table.entry(self.table.find(&key)?)?.winner)
    }

    /// Takes over what changed, in batches; what was told, by key.
    fn tell(&mut self, most: usize) -> Vec<(u32, u32)> {
        let mut told = Vec::new();
        self.table.take_changed(most, &mut told);
        let tell = |(value, slot)| {
            let key = self.table.entry(slot).expect("in use").key;
            let before = self.table.told(slot, value);
            self.hold(value, before);
            self.table.tidy(slot);
            (key, value)
        };
        told.into_iter().map(tell).collect()
    }

    /// Lets time pass, with its rechecks; the keys that were voted on meanwhile.
    fn run(&mut self, ms: Millis) -> Vec<u32> {
        let end = self.now + ms;
        self.votes.get_mut().clear();
        while let Some(next) = self.rechecks.next().filter(|at| *at <= end) {
            self.now = self.now.max(next);
            let (table, slot) = self.rechecks.due(self.now).expect("one is due");
            assert_eq!(table, ID);
            recheck(self, slot);
        }
        self.now = end;
        self.votes.take()
    }

    /// One slice of a walk; the keys that were voted on.
    fn walks(&mut self, most: usize) -> Vec<u32> {
        self.votes.get_mut().clear();
        walk(self, most);
        self.votes.take()
    }
}

#[test]
fn what_did_not_change_is_not_voted_on() {
    let mut lab = Lab::new(Strategy::ContinuousMajority);
    assert!(lab.says(0, 1, 5) && lab.says(1, 1, 5) && lab.says(2, 1, 5));
    lab.votes.get_mut().clear();
    assert!(!lab.says(0, 1, 5));
    assert!(lab.votes.take().is_empty() && lab.held[&5] == 4, "three candidates and a winner: {:?}", lab.held);
    let slot = lab.table.find(&1).expect("a key");
    assert!(say(&mut lab, slot, 0, 5, true), "it may count anew");
    assert_eq!((lab.votes.take(), lab.held[&5]), (vec![1], 4));
}

#[test]
fn a_settled_key_waits_once_and_is_not_voted_on_when_its_time_comes() {
    let mut lab = Lab::new(Strategy::ContinuousMajority);
    lab.all_say(1, 5);
    assert!(lab.rechecks.due(lab.now).is_none(), "not before its time");
    assert!(lab.run(3 * T).is_empty(), "everybody says what was chosen");
    lab.says(2, 1, 6);
    assert_eq!(lab.run(3 * T), [1]);
    let (key, marks) = lab.marks[0];
    assert_eq!((key, marks.newly(), marks.age), (1, [2].into_iter().collect(), T));
    assert_eq!(lab.rechecks.next(), None);
}

#[test]
fn a_walk_stops_anywhere_and_goes_on_and_one_begun_meanwhile_is_one_more_round() {
    let mut lab = Lab::new(Strategy::ContinuousMajority);
    lab.table.start_walk();
    assert!(!lab.table.is_walking(), "nothing to walk over");
    (0..10).for_each(|key| lab.all_say(key, 5));
    lab.table.start_walk();
    assert_eq!(lab.walks(4), [0, 1, 2, 3]);
    assert!(lab.table.is_walking());
    lab.table.start_walk();
    lab.table.start_walk();
    assert_eq!(lab.walks(4), [4, 5, 6, 7]);
    assert_eq!(lab.walks(4), [8, 9]);
    assert_eq!(lab.walks(99), (0..10).collect::<Vec<u32>>());
    assert!(!lab.table.is_walking() && lab.walks(4).is_empty());
    lab.table.start_walk();
    lab.walks(4);
    lab.table.walk_anew();
    assert_eq!(lab.walks(99), (0..10).collect::<Vec<u32>>());
    assert!(!lab.table.is_walking());
}

#[test]
fn changes_are_told_in_batches_and_what_came_and_went_meanwhile_is_forgotten() {
    let mut lab = Lab::new(Strategy::ContinuousMajority);
    lab.electorate = Members::first(1);
    for key in 0..5 {
        lab.says(0, key, 5);
    }
    lab.says(0, 1, 0);
    assert_eq!((lab.table.changes(), lab.table.keys()), (5, 5));
    assert_eq!(lab.tell(3), [(0, 5), (2, 5)], "the second has nothing to tell any more");
    assert_eq!(lab.tell(3), [(3, 5), (4, 5)]);
    assert_eq!((lab.tell(3), lab.table.changes(), lab.table.find(&1)), (vec![], 0, None));
    lab.says(0, 0, 6);
    let again = [0, 2].map(|key| lab.table.find(&key).expect("a key"));
    again.into_iter().for_each(|slot| lab.table.resend(slot));
    assert_eq!(lab.tell(9), [(0, 6), (2, 5)], "once each, changed or not");
}

/// What an instance said before it was gone is nobody's word until it is said again, or forgotten.
#[test]
fn what_is_stale_is_said_again_or_forgotten() {
    let mut lab = Lab::new(Strategy::ContinuousMajority);
    (0..4).for_each(|key| lab.all_say(key, 5));
    lab.says(2, 3, 0);
    let is_stale = |lab: &Lab, key| lab.table.entry(lab.table.find(&key)?).map(|e| e.stale.contains(2));
    lab.table.mark_stale(2, false);
    assert_eq!([0, 1, 2, 3].map(|key| is_stale(&lab, key)), [Some(true), Some(true), Some(true), Some(false)]);
    lab.table.mark_stale(2, true);
    assert_eq!(is_stale(&lab, 3), Some(true), "where it was silent, too");
    assert!(!lab.says(2, 0, 5) && lab.says(2, 1, 6));
    let mut gone = Vec::new();
    lab.table.forget_stale(2, |value| gone.push(value));
    assert_eq!(gone, [5, 0]);
    let said = |lab: &Lab, key| lab.table.candidates(lab.table.find(&key).expect("a key"))[2];
    assert_eq!([0, 1, 2, 3].map(|key| said(&lab, key)), [5, 6, 0, 0]);
}

#[test]
fn whoever_is_no_more_says_nothing_and_nothing_stands_against_it() {
    let mut lab = Lab::new(Strategy::ContinuousMajority);
    lab.all_say(1, 5);
    lab.says(2, 1, 6);
    lab.says(2, 2, 6);
    lab.run(2 * T);
    let mut gone = Vec::new();
    lab.table.forget(2, |_, value, marked| gone.push((value, marked)));
    assert_eq!(gone, [(6, true), (6, true)]);
    assert_eq!((lab.table.find(&2), lab.table.keys()), (None, 1), "nobody else ever said anything about it");
    lab.table.widen(5);
    assert_eq!(lab.table.candidates(lab.table.find(&1).expect("a key")), [5, 5, 0, 0, 0]);
}

#[test]
fn a_state_is_counted_once_until_somebody_says_something_else() {
    let mut lab = Lab::new(Strategy::ContinuousMajority);
    lab.all_say(1, 5);
    let slot = lab.table.find(&1).expect("a key");
    assert!(!lab.table.count(slot) && lab.table.count(slot));
    lab.says(0, 1, 5);
    assert!(lab.table.count(slot));
    lab.says(0, 1, 6);
    assert!(!lab.table.count(slot));
}

#[test]
fn a_rest_that_ends_with_input_is_a_rest() {
    let mut lab = Lab::new(Strategy::MasterSlave);
    lab.all_say(1, 5);
    (10..20).for_each(|value| _ = lab.says(0, 1, value));
    assert_eq!(lab.winner(1), Some(5), "it says too much to be followed");
    lab.run(2 * T);
    lab.input = Some(lab.now);
    let slot = lab.table.find(&1).expect("a key");
    vote(&mut lab, slot);
    lab.says(0, 1, 30);
    assert_eq!(lab.winner(1), Some(30));
}

/// Random words under every strategy: what the table holds is what stands in it, and in the end it
/// is empty.
#[test]
fn every_value_is_held_as_often_as_it_stands_in_the_table() {
    let strategies = [
        Strategy::WaitForConsensus { k: 2 },
        Strategy::ContinuousMajority,
        Strategy::MasterSlave,
        Strategy::FirstK { k: 2 },
    ];
    for (seed, strategy) in (1u64..).zip(strategies.into_iter().cycle().take(40)) {
        let (mut lab, mut random) = (Lab::new(strategy), seed);
        // Of five two may agree while more than two are apart.
        lab.table.widen(5);
        lab.electorate = Members::first(5);
        for _ in 0..600 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let draw = |at: u32, n: u64| (random >> at) % n;
            lab.says(draw(20, 5) as usize, draw(30, 3) as u32, draw(40, 5) as u32);
            match draw(50, 8) {
                0 => drop(lab.run(T / 2)),
                1 => drop(lab.run(2 * T)),
                2 => drop(lab.tell(2)),
                _ => {}
            }
            let mut stands: BTreeMap<u32, u32> = lab.held.keys().map(|value| (*value, 0)).collect();
            for (slot, e) in lab.table.iter() {
                let said = lab.table.candidates(slot).iter().copied();
                for value in said.chain([e.winner, e.published]).chain(e.overruled()).filter(|value| *value != 0) {
                    *stands.entry(value).or_default() += 1;
                }
            }
            assert_eq!(stands, lab.held, "{strategy:?}, seed {seed}");
            let chosen = lab.table.iter().filter(|(_, e)| e.winner != 0).count();
            assert_eq!(lab.table.chosen(), chosen);
        }
        for (key, i) in (0..3).flat_map(|key| (0..5).map(move |i| (key, i))) {
            let known = lab.table.find(&key).is_some();
            _ = known && lab.says(i, key, 0);
        }
        while lab.table.changes() > 0 || lab.rechecks.next().is_some() {
            lab.run(T);
            lab.tell(9);
        }
        assert_eq!((lab.table.keys(), lab.table.chosen()), (0, 0), "{strategy:?}, seed {seed}");
        assert!(lab.held.values().all(|count| *count == 0), "{:?}", lab.held);
    }
}

/// Times are kept in 32 bits of milliseconds, which are full after 49 days.
#[test]
fn a_key_that_rests_does_so_when_the_milliseconds_begin_anew() {
    let rest = ballots::Rest { value: 7, who: Members::first(3), stale: Members::EMPTY };
    let rules = Lab::new(Strategy::WaitForConsensus { k: 2 }).rules;
    for now in [T, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 32) + T / 2, (1 << 32) + T, (5 << 32) + 3] {
        let (entry, _) = Entry::at_rest(9, &rest, 3, now, &rules);
        assert!(entry.rests(&rules, now), "at {now}");
        assert_eq!(entry.age(now), T, "at {now}");
        assert_eq!(entry.age(now + T), 2 * T, "at {now}");
    }
}
