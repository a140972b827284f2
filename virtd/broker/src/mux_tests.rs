//! Whatever comes and whenever: order within a peer, bounds of the delay, nothing lost, and the
//! same again with the same seed.

use super::*;
use collections::Deadlines;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PEERS: u8 = 4;

/// A message as the test knows it: who said it, about what, its number, when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    peer: u8,
    prefix: u8,
    number: u32,
    came: Micros,
    given: Micros,
}

fn delay() -> impl Strategy<Value = Delay> {
    let distribution = prop_oneof![Just(Distribution::Uniform), Just(Distribution::Exponential)];
    (0..20u32, 0..40u32, distribution).prop_map(|(min_ms, more, distribution)| Delay {
        min_ms,
        max_ms: min_ms + more,
        distribution,
    })
}

/// Gaps in microseconds (none in a burst), peers and prefixes.
fn arrivals() -> impl Strategy<Value = Vec<(Micros, u8, u8)>> {
    let gap = prop_oneof![3 => Just(0), 3 => 0..2_000u64, 1 => 0..100_000u64];
    proptest::collection::vec((gap, 0..PEERS, 0..3u8), 0..200)
}

/// Plays arrivals through a lane per peer as the core does: a lane is asked at the times it gave,
/// and at no others.
fn play(delay: Delay, seed: u64, arrivals: &[(Micros, u8, u8)]) -> Vec<Said> {
    let mut lanes: Vec<Lane> = (0..PEERS).map(|p| Lane::new(delay, Random::new(seed, &[p]))).collect();
    let mut wakes = Deadlines::default();
    let (mut given, mut came, mut now) = (Vec::new(), BTreeMap::new(), 0);
    let mut look = |until: Micros, lanes: &mut Vec<Lane>, wakes: &mut Deadlines<u8>, came: &BTreeMap<u32, Said>| {
        while let Some(at) = wakes.next()
            && let Some(peer) = wakes.due(until)
        {
            while let Some(bytes) = lanes[usize::from(peer)].due(at) {
                let number = u32::from_be_bytes(bytes[..].try_into().expect("four octets"));
                given.push(Said { given: at, ..came[&number] });
            }
            lanes[usize::from(peer)].next_wake().into_iter().for_each(|at| wakes.push(at, peer));
        }
    };
    for (number, (gap, peer, prefix)) in (0u32..).zip(arrivals) {
        now += gap;
        look(now, &mut lanes, &mut wakes, &came);
        came.insert(number, Said { peer: *peer, prefix: *prefix, number, came: now, given: 0 });
        let wake = lanes[usize::from(*peer)].hold(now, Bytes::copy_from_slice(&number.to_be_bytes()));
        wake.into_iter().for_each(|at| wakes.push(at, *peer));
    }
    look(Micros::MAX, &mut lanes, &mut wakes, &came);
    assert!(lanes.iter().all(|l| l.is_empty() && l.octets() == 0));
    given
}

proptest! {
    #[test]
    fn order_is_kept_where_it_matters_delays_are_the_configured_ones_and_nothing_is_lost(
        delay in delay(), seed: u64, arrivals in arrivals(),
    ) {
        let given = play(delay, seed, &arrivals);
        let mut numbers: Vec<u32> = given.iter().map(|s| s.number).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (0..arrivals.len() as u32).collect::<Vec<_>>(), "nothing lost, nothing doubled");
        let mut last: BTreeMap<(u8, u8), u32> = BTreeMap::new();
        for s in &given {
            let (least, greatest) = (Micros::from(delay.min_ms) * 1000, Micros::from(delay.max_ms) * 1000);
            prop_assert!((s.came + least..=s.came + greatest).contains(&s.given), "{:?}", s);
            let before = last.insert((s.peer, s.prefix), s.number);
            prop_assert!(before.is_none_or(|b| b < s.number), "order of a peer's words about a prefix: {:?}", s);
        }
        prop_assert_eq!(given, play(delay, seed, &arrivals), "the same seed gives the same times");
    }
}

#[test]
fn a_flood_is_held_back_no_longer_than_one_message_and_peers_are_reordered() {
    let delay = Delay { min_ms: 1, max_ms: 10, distribution: Distribution::Uniform };
    let flood: Vec<(Micros, u8, u8)> = (0..20_000).map(|n| (7, (n % 4) as u8, 0)).collect();
    let given = play(delay, 1, &flood);
    assert!(given.iter().all(|s| (1_000..=10_000).contains(&(s.given - s.came))));
    assert!(given.windows(2).any(|w| w[0].number > w[1].number), "what different peers say is reordered");
    assert_ne!(given, play(delay, 2, &flood), "another seed, other times");
}

#[test]
fn delays_are_spread_as_the_distribution_says() {
    let mut random = Random::new(7, b"");
    let (mut flat, mut early) = ([0u32; 8], [0u32; 8]);
    for _ in 0..80_000 {
        flat[(random.between(0, 7_999) / 1000) as usize] += 1;
        early[(random.soon(0, 8_000) / 1000).min(7) as usize] += 1;
    }
    assert!(flat.iter().all(|n| (9_500..10_500).contains(n)), "{flat:?}");
    assert!((39_000..41_000).contains(&early[0]) && early.windows(2).take(6).all(|w| w[0] > w[1]), "{early:?}");
}

#[test]
fn what_a_dead_leg_was_to_be_told_is_gone_and_the_next_leg_is_not_kept_waiting_longer_for_it() {
    let delay = Delay { min_ms: 5, max_ms: 50, distribution: Distribution::Uniform };
    for seed in 0..100 {
        let mut lane = Lane::new(delay, Random::new(seed, b""));
        let wake = lane.hold(0, Bytes::from_static(b"old")).expect("the first asks to be woken");
        lane.clear();
        assert!(lane.is_empty() && lane.octets() == 0);
        assert_eq!(lane.hold(1_000, Bytes::from_static(b"new")), None, "it is looked at in time already");
        assert_eq!(lane.due(wake.min(5_999)), None);
        let mut now = wake;
        let given = loop {
            if let Some(bytes) = lane.due(now) {
                break bytes;
            }
            now = lane.next_wake().expect("something waits");
        };
        assert_eq!(&given[..], b"new");
        assert!((6_000..=51_000).contains(&now), "{now}");
        assert_eq!(lane.next_wake(), None);
    }
}
