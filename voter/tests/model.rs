//! Exhaustive model checking: every state that some order of events can lead to, however long, for
//! few instances, few values and a T of few ticks. What is expected is worked out here by counting
//! in the plainest way, not by the voter's own means.

use std::collections::{HashMap, HashSet};
use voter::*;

const MOST: usize = 5;
/// What the master may say about a key before it is restless. The caller counts.
const PATIENCE: u8 = 2;
const NOW: Millis = 1_000_000;

/// 0 is none. With link-local next hops 1 is a route without, 2 and 3 the same route with two
/// different ones; else all differ.
#[derive(Clone, Copy)]
struct Values {
    count: u8,
    link_local: bool,
}

impl Agreement<u8> for Values {
    fn agrees(&self, a: u8, b: u8) -> bool {
        a == b || self.link_local && a > 0 && b > 0 && (a == 1 || b == 1)
    }
    fn prefers(&self, a: u8, b: u8) -> bool {
        a > b
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    said: [u8; MOST],
    electorate: u32,
    winner: u8,
    overruled: Option<u8>,
    /// Ticks since the first and the last disturbance; (cap, T) for every steady key.
    first_age: u64,
    last_age: u64,
    /// Values that once had what the strategy asks for, by bit.
    once_won: u8,
    /// A steady majority went against what the master says, and it has said nothing else since.
    outvoted: bool,
    /// How often the master has spoken without T of rest, up to `PATIENCE`; then it is restless.
    turns: u8,
    /// For how many ticks the present majority has been the majority, up to the cap.
    held: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Says(usize, u8),
    Input,
    Tick,
    Toggle(usize),
}

struct Model {
    instances: usize,
    values: Values,
    rules: Rules,
    /// Instances leave and join.
    restless: bool,
}

impl Model {
    fn electorate(&self, state: &State) -> impl DoubleEndedIterator<Item = usize> {
        let electorate = state.electorate;
        (0..self.instances).filter(move |i| electorate & (1 << i) != 0)
    }

    fn voters(&self, state: &State) -> usize {
        self.electorate(state).count()
    }

    fn support(&self, state: &State, value: u8) -> usize {
        let with = |i: &usize| self.values.agrees(state.said[*i], value);
        self.electorate(state).filter(with).count()
    }

    fn sayers(&self, state: &State, value: u8) -> usize {
        self.electorate(state).filter(|i| state.said[*i] == value).count()
    }

    /// The value a strict majority supports; of several forms of it the one most say, and then the
    /// one with a link-local next hop.
    fn majority(&self, state: &State) -> Option<u8> {
        let said = (0..self.values.count).filter(|value| self.sayers(state, *value) > 0);
        let strict = said.filter(|value| self.support(state, *value) * 2 > self.voters(state));
        strict.max_by_key(|value| (self.support(state, *value), self.sayers(state, *value), *value))
    }

    /// Whether two values are forms of one, with the same voters behind them.
    fn same_form(&self, state: &State, a: u8, b: u8) -> bool {
        let with = |value| self.electorate(state).filter(move |i| self.values.agrees(state.said[*i], value));
        self.values.agrees(a, b) && with(a).eq(with(b))
    }

    /// The majority's value as it is to be published after `before`, which stays for as long as
    /// anybody says it.
    fn to_publish(&self, state: &State, before: u8) -> Option<u8> {
        let best = self.majority(state)?;
        let kept = self.sayers(state, before) > 0 && self.same_form(state, before, best);
        Some(if kept { before } else { best })
    }

    fn master(&self, state: &State) -> Option<usize> {
        // The line of succession runs backwards, so that it cannot be mistaken for the indexes.
        self.electorate(state).next_back()
    }

    fn steady(&self, state: &State) -> bool {
        state.last_age >= self.rules.steady_ms || state.first_age >= self.rules.flap_cap_ms
    }

    fn events(&self, state: &State) -> Vec<Event> {
        let mut events = vec![Event::Tick, Event::Input];
        for i in 0..self.instances {
            let others = (0..self.values.count).filter(|value| *value != state.said[i]);
            events.extend(others.map(|value| Event::Says(i, value)));
            if self.restless {
                events.push(Event::Toggle(i));
            }
        }
        events
    }

    fn decide(&self, state: &State, now: Millis) -> Outcome<u8> {
        let ballot = Ballot {
            candidates: &state.said[..self.instances],
            electorate: Members(state.electorate),
            master_line: &[4, 3, 2, 1, 0],
            winner: state.winner,
            overruled: state.overruled,
            restless: state.turns >= PATIENCE,
            first_disturbed: NOW - state.first_age,
            last_disturbed: NOW - state.last_age,
        };
        decide(&self.rules, &ballot, Members::EMPTY, &self.values, now)
    }

    /// What an event changes before the voter is asked.
    fn apply(&self, state: &State, event: Event) -> State {
        let mut next = *state;
        match event {
            Event::Says(i, value) => next.said[i] = value,
            Event::Input => {}
            Event::Toggle(i) => next.electorate ^= 1 << i,
            Event::Tick => {
                next.first_age += 1;
                next.last_age += 1;
            }
        }
        if matches!(event, Event::Says(..) | Event::Input) {
            let told = self.rules.disturb(NOW - state.first_age, NOW - state.last_age, NOW);
            next.first_age = if self.steady(state) { 0 } else { state.first_age };
            next.last_age = 0;
            assert_eq!(told, (NOW - next.first_age, NOW - next.last_age));
        }
        if self.rules.strategy == Strategy::MasterSlave {
            let rested = state.last_age >= self.rules.steady_ms;
            let speaks = matches!(event, Event::Says(i, _) if Some(i) == self.master(state));
            // Whatever disturbs a rested key begins a new count; only the master adds to it.
            let before = if next.last_age == 0 && rested { 0 } else { state.turns };
            next.turns = (before + u8::from(speaks)).min(PATIENCE);
        }
        let majority = self.to_publish(&next, state.winner).filter(|_| self.enough(&next));
        next.held = match event {
            _ if majority.is_none() || majority != self.to_publish(state, state.winner) => 0,
            Event::Tick => (state.held + 1).min(self.rules.flap_cap_ms),
            _ => state.held,
        };
        next
    }

    fn enough(&self, state: &State) -> bool {
        let voters = self.voters(state);
        voters > 0 && voters >= usize::from(self.rules.min_voters)
    }

    /// Whether the strategy may publish this value in this state.
    fn may_win(&self, state: &State, value: u8) -> bool {
        let voters = self.voters(state);
        let support = self.support(state, value);
        let strict = support * 2 > voters;
        let said = self.electorate(state).any(|i| state.said[i] == value);
        let by_strategy = match self.rules.strategy {
            Strategy::WaitForConsensus { k } => strict && (self.steady(state) || support >= voters.min(k.into())),
            Strategy::ContinuousMajority => strict,
            Strategy::FirstK { k } => strict && self.steady(state) || support >= voters.min(usize::from(k).max(2)),
            Strategy::MasterSlave => {
                let masters = self.master(state).is_some_and(|master| state.said[master] == value);
                let deaf = state.turns >= PATIENCE && !self.steady(state);
                strict && (self.steady(state) || deaf) || masters && (strict || !deaf)
            }
        };
        said && by_strategy && self.enough(state)
    }

    /// One event: asks the voter, checks everything, and returns the state after it.
    fn step(&self, state: &State, event: Event) -> State {
        let mut next = self.apply(state, event);
        let outcome = self.decide(&next, NOW);
        for value in 0..self.values.count {
            next.once_won |= u8::from(self.may_win(&next, value)) << value;
        }
        if let Decision::Publish(value) = outcome.decision {
            assert_ne!(value, state.winner);
            assert!(self.may_win(&next, value), "published {value}");
            next.winner = value;
        }
        next.overruled = outcome.overruled;
        assert!(next.once_won & (1 << next.winner) != 0, "a winner that never won");
        self.check_verdict(state.winner, &next, &outcome);
        self.check_recheck(&next, &outcome);
        self.check_overruled(state, &mut next, event);
        self.check_flapping(&next);
        self.check_lead(state, &next, outcome.decision);
        // Steady keys are all alike from here on.
        if self.steady(&next) {
            (next.first_age, next.last_age) = (self.rules.flap_cap_ms, self.rules.steady_ms);
        }
        next
    }

    fn check_verdict(&self, before: u8, next: &State, outcome: &Outcome<u8>) {
        let majority = self.majority(next).filter(|_| self.enough(next));
        let steady = self.steady(next);
        assert_eq!(outcome.steady, steady);
        let nobody = self.voters(next) == 0;
        assert_eq!(outcome.lost_quorum, steady && majority.is_none() && !nobody);
        let agrees = |i: &usize| majority.is_some_and(|value| self.values.agrees(next.said[*i], value));
        let with: Members = self.electorate(next).filter(agrees).map(|i| i as u8).collect();
        assert_eq!(outcome.with, with);
        let dissent = if steady && majority.is_some() { Members(next.electorate).minus(with) } else { Members::EMPTY };
        assert_eq!(outcome.dissent, dissent);
        if self.enough(next) && steady && majority.is_none() {
            let fail_static =
                matches!(self.rules.strategy, Strategy::WaitForConsensus { .. } | Strategy::ContinuousMajority);
            assert!(!fail_static || outcome.decision == Decision::Keep);
        }
        let Some(majority) = majority.filter(|_| steady) else { return };
        let published = self.to_publish(next, before);
        let master = self.master(next).map(|master| next.said[master]);
        let masters = master.filter(|said| self.values.agrees(*said, majority));
        match self.rules.strategy {
            Strategy::MasterSlave => assert_eq!(Some(next.winner), masters.or(published)),
            _ => assert_eq!(Some(next.winner), published),
        }
    }

    /// Time alone changes something exactly when the voter said so.
    fn check_recheck(&self, next: &State, outcome: &Outcome<u8>) {
        let same = |at| {
            let again = self.decide(next, at);
            again.decision == Decision::Keep
                && again.overruled == next.overruled
                && again.dissent == outcome.dissent
                && again.lost_quorum == outcome.lost_quorum
        };
        let horizon = NOW + self.rules.steady_ms + 2;
        match outcome.recheck_at {
            None => assert!((NOW..horizon).chain([u64::MAX]).all(same), "a missed recheck"),
            Some(at) => {
                assert!(at > NOW && at < horizon);
                assert!((NOW..at).all(same), "a late recheck");
                assert!(!same(at), "a needless recheck");
            }
        }
    }

    /// An overruled master comes back by a new word of its own or by a majority, by nothing else.
    fn check_overruled(&self, state: &State, next: &mut State, event: Event) {
        let master = self.master(next);
        let Some(index) = master.filter(|_| self.rules.strategy == Strategy::MasterSlave) else {
            next.outvoted = false;
            return;
        };
        let masters = next.said[index];
        let with = self.majority(next).is_some_and(|value| self.values.agrees(value, masters));
        let new_word = matches!(event, Event::Says(i, _) if i == index);
        let outvoted = state.outvoted && !new_word && !with && self.master(state) == master;
        if outvoted && next.winner == masters {
            assert_eq!(state.winner, masters, "an overruled route came back");
        }
        let decides = self.steady(next) || next.turns >= PATIENCE;
        if decides && self.enough(next) {
            let right = self.majority(next).is_none_or(|value| self.values.agrees(value, next.winner));
            assert!(right, "a majority was not heard");
        }
        let overruling = self.enough(next) && decides && self.majority(next).is_some();
        next.outvoted = outvoted || overruling && !with;
    }

    /// A majority that has held for the cap is published, whatever the others do meanwhile.
    fn check_flapping(&self, next: &State) {
        let eager = matches!(self.rules.strategy, Strategy::MasterSlave | Strategy::FirstK { .. });
        if next.held >= self.rules.flap_cap_ms && !eager {
            let majority = self.majority(next);
            assert!(majority.is_some_and(|best| self.same_form(next, best, next.winner)), "kept out by flapping");
        }
    }

    /// Of what may win, the winner has the most support. With first-k the first rival with k wins
    /// and then holds out while it has k.
    fn check_lead(&self, state: &State, next: &State, decision: Decision<u8>) {
        let support = |value| self.support(next, value);
        let mut rivals = (0..self.values.count).filter(|value| self.may_win(next, *value));
        let other = |value: u8| !self.values.agrees(value, state.winner);
        let voters = self.voters(next);
        match self.rules.strategy {
            Strategy::MasterSlave => {}
            Strategy::FirstK { k } if !self.steady(next) && support(next.winner) < voters => {
                let displaced = matches!(decision, Decision::Publish(value) if other(value));
                let holds = support(state.winner) >= voters.min(usize::from(k).max(2));
                if holds && state.overruled.is_some() {
                    assert!(!displaced, "did not hold out");
                } else if !self.values.link_local {
                    assert_eq!(displaced, rivals.any(other), "the first k were not heard");
                }
            }
            Strategy::FirstK { .. } => {}
            _ => rivals.for_each(|rival| assert!(support(rival) <= support(next.winner))),
        }
    }

    /// Walks all states; where a steady majority exists, the winner must depend on the present
    /// candidates alone and not on the way there, but for its form.
    fn check(&self) {
        let start = State {
            said: [0; MOST],
            electorate: (1 << self.instances) - 1,
            winner: 0,
            overruled: None,
            first_age: self.rules.flap_cap_ms,
            last_age: self.rules.steady_ms,
            once_won: 1,
            outvoted: false,
            turns: 0,
            held: 0,
        };
        let mut ends = HashMap::new();
        let mut seen = HashSet::from([start]);
        let mut todo = vec![start];
        while let Some(state) = todo.pop() {
            for event in self.events(&state) {
                let step = || self.step(&state, event);
                let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step))
                    .unwrap_or_else(|_| panic!("{:?}: {state:?} {event:?}", self.rules));
                if self.steady(&next) && self.enough(&next) && self.majority(&next).is_some() {
                    let end = ends.entry((next.said, next.electorate)).or_insert(next.winner);
                    assert!(self.same_form(&next, *end, next.winner), "the order mattered: {next:?}");
                }
                if seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        println!("{} instances, {:?}: {} states", self.instances, self.rules, seen.len());
        assert!(seen.len() > 1000 && ends.len() > 20);
    }
}

const DISTINCT: Values = Values { count: 3, link_local: false };
const LINK_LOCAL: Values = Values { count: 4, link_local: true };

fn check(instances: usize, values: Values, strategies: &[Strategy], restless: bool) {
    let (steady_ms, flap_cap_ms) = if instances > 4 { (1, 2) } else { (2, 3) };
    for &strategy in strategies {
        for min_voters in if restless { 1..3 } else { 1..2 } {
            let rules = Rules { strategy, steady_ms, flap_cap_ms, min_voters };
            Model { instances, values, rules, restless }.check();
        }
    }
}

use Strategy::{ContinuousMajority as Majority, FirstK, MasterSlave, WaitForConsensus as Wait};

#[test]
fn three_voters() {
    let all = [Wait { k: 2 }, Wait { k: 3 }, Majority, MasterSlave, FirstK { k: 1 }, FirstK { k: 2 }];
    check(3, DISTINCT, &all, false);
}

#[test]
fn three_voters_who_come_and_go() {
    check(3, DISTINCT, &[Wait { k: 2 }, Wait { k: 3 }, Majority], true);
}

#[test]
fn three_voters_who_come_and_go_under_a_master() {
    check(3, DISTINCT, &[MasterSlave, FirstK { k: 2 }], true);
}

#[test]
fn three_voters_with_link_local_next_hops() {
    check(3, LINK_LOCAL, &[Wait { k: 2 }, Wait { k: 3 }, Majority, FirstK { k: 2 }], false);
}

#[test]
fn three_voters_with_link_local_next_hops_under_a_master() {
    check(3, LINK_LOCAL, &[MasterSlave], false);
}

#[test]
fn four_voters() {
    let all = [Wait { k: 2 }, Wait { k: 3 }, Wait { k: 4 }, Majority, FirstK { k: 2 }, FirstK { k: 4 }];
    check(4, DISTINCT, &all, false);
}

#[test]
fn four_voters_under_a_master() {
    check(4, DISTINCT, &[MasterSlave], false);
}

#[test]
fn five_voters() {
    check(5, DISTINCT, &[Wait { k: 3 }, FirstK { k: 2 }], false);
}
