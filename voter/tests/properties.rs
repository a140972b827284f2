//! What holds for any ballot at all, however odd: up to 40 candidates, any electorate, any times,
//! any agreement that is symmetric.

use proptest::prelude::*;
use proptest::strategy::Strategy;
use voter::*;

/// Agreement drawn at random: bit 8a + b, read symmetrically.
#[derive(Clone, Copy, Debug)]
struct Any(u64);

impl Agreement<u8> for Any {
    fn agrees(&self, a: u8, b: u8) -> bool {
        a == b || (self.0 >> (8 * a.min(b) + a.max(b))) & 1 != 0
    }
    fn prefers(&self, a: u8, b: u8) -> bool {
        a < b
    }
}

/// May not be asked at all.
struct NeverAsked;

impl Agreement<u8> for NeverAsked {
    fn agrees(&self, _: u8, _: u8) -> bool {
        panic!("asked about equal values")
    }
    fn prefers(&self, _: u8, _: u8) -> bool {
        panic!("asked about equal values")
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let strategy = prop_oneof![
        any::<u8>().prop_map(|k| voter::Strategy::WaitForConsensus { k: k % 40 }),
        any::<u8>().prop_map(|k| voter::Strategy::FirstK { k: k % 40 }),
        Just(voter::Strategy::ContinuousMajority),
        Just(voter::Strategy::MasterSlave),
    ];
    (strategy, times(), times(), 0..5u8).prop_map(|(strategy, steady_ms, flap_cap_ms, min_voters)| Rules {
        strategy,
        steady_ms,
        flap_cap_ms,
        min_voters,
    })
}

fn times() -> impl Strategy<Value = Millis> {
    prop_oneof![0..100u64, Just(u64::MAX), any::<u64>()]
}

fn members() -> impl Strategy<Value = Members> {
    prop_oneof![any::<u32>(), Just(u32::MAX), Just(0)].prop_map(Members)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_ballot(
        rules in rules(),
        candidates in proptest::collection::vec(0..5u8, 0..40),
        electorate in members(),
        watched in members(),
        master_line in proptest::collection::vec(any::<u8>(), 0..4),
        (winner, overruled, restless) in (0..5u8, proptest::option::of(0..5u8), any::<bool>()),
        (first_disturbed, last_disturbed, now, later) in (times(), times(), times(), times()),
        agreement in any::<u64>().prop_map(Any),
    ) {
        let ballot = Ballot {
            candidates: &candidates,
            electorate,
            master_line: &master_line,
            winner,
            overruled,
            restless,
            first_disturbed,
            last_disturbed,
        };
        let outcome = decide(&rules, &ballot, watched, &agreement, now);
        if let Decision::Publish(value) = outcome.decision {
            prop_assert_ne!(value, winner);
            let voters = candidates.iter().zip(0..32).filter(|(_, i)| electorate.contains(*i));
            let voters: Vec<u8> = voters.map(|(said, _)| *said).collect();
            prop_assert!(voters.contains(&value));
            let support = |value| voters.iter().filter(|said| agreement.agrees(**said, value)).count();
            let first_k = matches!(rules.strategy, voter::Strategy::FirstK { .. });
            let most = voters.iter().map(|said| support(*said)).max();
            prop_assert!(rules.strategy == voter::Strategy::MasterSlave || most == Some(support(value)) || first_k);
        }
        if !outcome.steady {
            prop_assert!(outcome.dissent.is_empty() && !outcome.lost_quorum);
        }
        prop_assert!(outcome.recheck_at.is_none_or(|at| at > now));
        let compared = electorate.union(watched).intersect(Members::first(candidates.len()));
        prop_assert!(outcome.dissent.minus(compared).is_empty());
        prop_assert!(outcome.with.minus(compared).is_empty() && outcome.with.intersect(outcome.dissent).is_empty());
        prop_assert!(outcome.lost_quorum <= outcome.with.is_empty(), "a majority was lost, and these are with it");
        let ends = outcome.steady && !outcome.with.is_empty();
        prop_assert!(!ends || outcome.with.union(outcome.dissent) == compared, "somebody is neither with it nor apart");
        prop_assert!(!outcome.lost_quorum || outcome.dissent.is_empty());
        if outcome.recheck_at.is_none() {
            let later = decide(&rules, &ballot, watched, &agreement, later.max(now));
            prop_assert_eq!(later, Outcome { steady: later.steady, ..outcome });
        }
        // A restless master is heard only with a majority, or once the key is steady.
        if let (voter::Strategy::MasterSlave, true, false, Decision::Publish(value)) =
            (rules.strategy, restless, outcome.steady, outcome.decision)
        {
            let voters = || candidates.iter().zip(0..32).filter(|(_, i)| electorate.contains(*i));
            let backed = |value: u8| voters().filter(|(said, _)| agreement.agrees(**said, value)).count();
            let majority = voters().any(|(said, _)| {
                backed(*said) * 2 > voters().count() && agreement.agrees(*said, value)
            });
            prop_assert!(majority, "{value} has no majority behind it");
        }
        // Asked again with what it said, it has nothing to add.
        let winner = match outcome.decision {
            Decision::Publish(value) => value,
            Decision::Keep => winner,
        };
        let ballot = Ballot { winner, overruled: outcome.overruled, ..ballot };
        let again = decide(&rules, &ballot, watched, &agreement, now);
        prop_assert_eq!(again, Outcome { decision: Decision::Keep, ..outcome });
    }

    /// Who is who makes no difference where nobody is master and equal groups do not compete.
    #[test]
    fn names_do_not_matter(
        rules in rules(),
        candidates in proptest::collection::vec(0..3u8, 1..8),
        electorate in any::<u8>(),
        steady in any::<bool>(),
        turn in 0..8usize,
    ) {
        let rules = match rules.strategy {
            voter::Strategy::MasterSlave | voter::Strategy::FirstK { .. } => {
                Rules { strategy: voter::Strategy::ContinuousMajority, ..rules }
            }
            _ => rules,
        };
        let rules = Rules { steady_ms: 10, flap_cap_ms: 10, ..rules };
        let verdict = |turn: usize| {
            let turn = turn % candidates.len();
            let turned: Vec<u8> = (0..candidates.len())
                .map(|i| candidates[(i + turn) % candidates.len()])
                .collect();
            let voters = (0..candidates.len())
                .filter(|i| electorate & (1 << ((i + turn) % candidates.len())) != 0);
            let ballot = Ballot {
                candidates: &turned,
                electorate: voters.map(|i| i as u8).collect(),
                master_line: &[],
                winner: 0,
                overruled: None,
                restless: false,
                first_disturbed: 0,
                last_disturbed: 0,
            };
            let outcome = decide(&rules, &ballot, Members::EMPTY, &Exact, if steady { 10 } else { 9 });
            (outcome.decision, outcome.recheck_at, outcome.dissent.len(), outcome.lost_quorum)
        };
        prop_assert_eq!(verdict(0), verdict(turn));
    }

    /// Where all say the same id, nobody is asked whether it agrees with itself.
    #[test]
    fn unanimity_is_cheap(rules in rules(), n in 1..=31usize, winner in 0..2u8) {
        let ballot = Ballot {
            candidates: &[1; 31],
            electorate: Members::first(n),
            master_line: &[],
            winner: 1,
            overruled: None,
            restless: false,
            first_disturbed: 0,
            last_disturbed: 0,
        };
        let outcome = decide(&rules, &ballot, Members::EMPTY, &NeverAsked, 1);
        prop_assert_eq!(outcome.decision, Decision::Keep);
        let outcome = decide(&rules, &Ballot { winner, ..ballot }, Members::EMPTY, &Exact, 1);
        let few = n < usize::from(rules.min_voters);
        let publish = winner != 1 && !few;
        prop_assert_eq!(outcome.decision == Decision::Publish(1), publish);
    }
}
