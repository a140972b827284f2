use super::*;
use proptest::prelude::*;
use wire::bgp::update::attr;

const MED: u8 = attr::MULTI_EXIT_DISC;

fn members(list: &[u8]) -> Members {
    list.iter().copied().collect()
}

/// A canonical route: next hop, link-local next hop, (flags, code, value) ascending by code.
fn route(routes: &mut Interner, next_hop: u8, link_local: &[u8], attributes: &[(u8, u8, &[u8])]) -> BlobId {
    let mut bytes = vec![4, 192, 0, 2, next_hop, link_local.len() as u8];
    bytes.extend(link_local);
    for (flags, code, value) in attributes {
        bytes.extend([*flags, *code, 0, value.len() as u8]);
        bytes.extend(*value);
    }
    routes.intern(&bytes)
}

fn with_med(routes: &mut Interner, med: u8) -> BlobId {
    route(routes, 1, &[], &[(0x40, attr::ORIGIN, &[0]), (0x80, MED, &[0, 0, 0, med])])
}

/// compared, disagreed, contested.
fn votes(p: &Pair) -> (u64, u64, u64) {
    (p.compared, p.disagreed, p.contested)
}

/// common, alike, single.
fn verdicts(p: &Pair) -> (u64, u64, u64) {
    (p.common, p.alike, p.single)
}

#[test]
fn every_pair_has_a_place_of_its_own() {
    let mut places: Vec<usize> = pairs_of(Members::first(31)).map(|(a, b)| place(a, b)).collect();
    places.sort_unstable();
    assert_eq!(places, (0..31 * 30 / 2).collect::<Vec<_>>());
    assert_eq!(place(3, 7), place(7, 3));
}

#[test]
fn unanimous_votes_are_counted_for_those_that_took_part() {
    let (mut figures, routes) = (Independence::default(), Interner::default());
    let same = [BlobId(7); 3];
    (0..5).for_each(|_| figures.vote(members(&[0, 1, 2]), &same, &routes));
    (0..2).for_each(|_| figures.vote(members(&[0, 2]), &same, &routes));
    figures.vote(members(&[0, 1, 2]), &same, &routes);
    assert_eq!(votes(&figures.pair(0, 1)), (6, 0, 0));
    assert_eq!(votes(&figures.pair(2, 0)), (8, 0, 0));
    assert_eq!(votes(&figures.pair(1, 2)), (6, 0, 0));
    assert_eq!(figures.pair(1, 1), Pair::default());
    assert_eq!(figures.pair(3, 4), Pair::default());
}

#[test]
fn what_differs_is_named_and_who_stood_together_shows() {
    let (mut figures, mut routes) = (Independence::default(), Interner::default());
    let (a, b) = (with_med(&mut routes, 1), with_med(&mut routes, 2));
    figures.vote(members(&[0, 1, 2]), &[a, a, b], &routes);
    assert_eq!(votes(&figures.pair(0, 1)), (1, 0, 1));
    assert_eq!(figures.pair(0, 1).together(), 1);
    for other in [0, 1] {
        let p = figures.pair(other, 2);
        assert_eq!((votes(&p), p.together(), p.aspects), ((1, 1, 1), 0, vec![(Aspect::Attribute(MED), 1)]));
    }
    figures.vote(members(&[0, 1, 2]), &[a, BlobId::NONE, b], &routes);
    assert_eq!(figures.pair(0, 1).aspects, [(Aspect::Presence, 1)]);
    assert_eq!(figures.pair(0, 2).aspects, [(Aspect::Attribute(MED), 2)]);
}

#[test]
fn differences_are_those_of_the_comparison() {
    let mut r = Interner::default();
    let origin: (u8, u8, &[u8]) = (0x40, attr::ORIGIN, &[0]);
    let ll = |n: u8| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n];
    let plain = route(&mut r, 1, &[], &[origin]);
    let table: [(BlobId, &[Aspect]); 6] = [
        (route(&mut r, 2, &[], &[origin]), &[Aspect::NextHop]),
        (route(&mut r, 1, &[], &[(0x40, attr::ORIGIN, &[1])]), &[Aspect::Attribute(attr::ORIGIN)]),
        (
            route(&mut r, 1, &[], &[origin, (0x80, MED, &[0; 4]), (0xc0, 99, &[])]),
            &[Aspect::Attribute(MED), Aspect::Attribute(99)],
        ),
        (route(&mut r, 1, &[], &[]), &[Aspect::Attribute(attr::ORIGIN)]),
        (BlobId::NONE, &[Aspect::Presence]),
        (route(&mut r, 1, &ll(1), &[origin]), &[]),
    ];
    for (other, expected) in table {
        for (x, y) in [(plain, other), (other, plain)] {
            let mut found = Vec::new();
            differences(x, y, &r, |aspect| found.push(aspect));
            assert_eq!(found, expected);
            assert_eq!(found.is_empty(), ById(&r).agrees(x, y));
        }
    }
    let (one, two) = (route(&mut r, 1, &ll(1), &[origin]), route(&mut r, 1, &ll(2), &[origin]));
    let mut found = Vec::new();
    differences(one, two, &r, |aspect| found.push(aspect));
    assert_eq!(found, [Aspect::LinkLocal]);
}

#[test]
fn what_means_the_same_in_other_words_is_no_disagreement() {
    let (mut figures, mut routes) = (Independence::default(), Interner::default());
    let plain = route(&mut routes, 1, &[], &[(0xc0, attr::COMMUNITIES, &[0, 1, 0, 1])]);
    let partial = route(&mut routes, 1, &[], &[(0xe0, attr::COMMUNITIES, &[0, 1, 0, 1])]);
    figures.vote(members(&[0, 1]), &[plain, partial], &routes);
    assert_eq!(votes(&figures.pair(0, 1)), (1, 0, 0));
    assert!(figures.pair(0, 1).aspects.is_empty());
}

#[test]
fn verdicts_tell_common_failures_from_single_ones() {
    let (mut figures, mut routes) = (Independence::default(), Interner::default());
    let (good, bad, worse) = (with_med(&mut routes, 1), with_med(&mut routes, 2), with_med(&mut routes, 3));
    let all = Members::first(5);
    assert!(!figures.take_news());
    figures.verdict(all, members(&[4]), members(&[4]), &[good, good, good, good, bad], &routes);
    assert!(!figures.take_news(), "one alone");
    assert_eq!(verdicts(&figures.pair(0, 4)), (0, 0, 1));
    assert_eq!(verdicts(&figures.pair(0, 1)), (0, 0, 0), "neither of them");
    // 3 follows on the same key, with the same and then with another wrong word.
    figures.verdict(all, members(&[3, 4]), members(&[3]), &[good, good, good, bad, bad], &routes);
    figures.verdict(all, members(&[3, 4]), members(&[3, 4]), &[good, good, good, worse, bad], &routes);
    assert!(figures.take_news() && !figures.take_news());
    let pair = figures.pair(3, 4);
    assert_eq!((verdicts(&pair), pair.either()), ((2, 1, 1), 3));
    assert_eq!(verdicts(&figures.pair(0, 4)), (0, 0, 2), "4 was marked already when 3 followed");
    assert_eq!(verdicts(&figures.pair(0, 3)), (0, 0, 2));
}

#[test]
fn a_single_coincidence_ranks_below_a_habit() {
    let once = Pair { common: 1, ..Pair::default() };
    let habit = Pair { common: 90, single: 10, ..Pair::default() };
    assert!(habit.rank().0 > once.rank().0 && once.rank().0 > Pair::default().rank().0);
}

#[test]
fn who_can_be_marked_together() {
    let table = [(1, 0, false), (3, 0, false), (4, 0, false), (5, 0, true), (3, 1, true), (2, 1, false), (2, 2, true)];
    for (voters, observers, possible) in table {
        assert_eq!(could_be_marked_together(voters, observers), possible, "{voters} and {observers}");
    }
}

#[test]
fn garbage_and_strangers_are_survived() {
    let (mut figures, mut routes) = (Independence::default(), Interner::default());
    let garbage = routes.intern(&[200]);
    let cut = routes.intern(&[4, 1, 2, 3, 4, 0, 0x40, 1, 0, 9, 1]);
    figures.vote(Members(u32::MAX), &[garbage, cut], &routes);
    figures.verdict(Members(u32::MAX), Members(u32::MAX), Members(u32::MAX), &[garbage, cut], &routes);
    assert_eq!(votes(&figures.pair(0, 1)), (1, 1, 1));
    figures.vote(Members::EMPTY, &[garbage, cut], &routes);
    figures.vote(members(&[0]), &[], &routes);
    assert_eq!(figures.pair(0, 1).compared, 1);
}

/// The same counters the plain way: a loop over all pairs for every vote.
fn plainly(votes: &[(u32, Vec<u32>)], n: u8) -> Vec<(u64, u64, u64)> {
    let count = |a: u8, b: u8| {
        let mut sum = (0, 0, 0);
        for (among, said) in votes.iter().map(|(m, s)| (Members(*m), s)) {
            if !among.contains(a) || !among.contains(b) {
                continue;
            }
            let word = |i: u8| said[usize::from(i)];
            let first = among.iter().map(word).next();
            sum.0 += 1;
            sum.1 += u64::from(word(a) != word(b));
            sum.2 += u64::from(among.iter().any(|i| Some(word(i)) != first));
        }
        sum
    };
    pairs_of(Members::first(usize::from(n))).map(|(a, b)| count(a, b)).collect()
}

proptest! {
    #[test]
    fn any_votes_are_counted_as_a_plain_loop_would(
        list in proptest::collection::vec((0u32..32, proptest::collection::vec(0u32..3, 5)), 0..60)
    ) {
        let mut routes = Interner::default();
        let ids = [BlobId::NONE, with_med(&mut routes, 1), with_med(&mut routes, 2)];
        let (mut figures, mut halves) = (Independence::default(), [Independence::default(), Independence::default()]);
        for (n, (among, said)) in list.iter().enumerate() {
            let said: Vec<BlobId> = said.iter().map(|w| ids[*w as usize]).collect();
            figures.vote(Members(*among), &said, &routes);
            halves[n % 2].vote(Members(*among), &said, &routes);
        }
        let counted = |f: &Independence| -> Vec<_> {
            pairs_of(Members::first(5)).map(|(a, b)| votes(&f.pair(a, b))).collect()
        };
        prop_assert_eq!(counted(&figures), plainly(&list, 5));
        let mut sum = Independence::default();
        halves.iter().for_each(|h| sum.add(h, 5));
        prop_assert_eq!(counted(&sum), counted(&figures));
        for (a, b) in pairs_of(Members::first(5)) {
            // One difference a disagreement here: a MED, or a route or none.
            let p = sum.pair(a, b);
            prop_assert_eq!(p.aspects.iter().map(|(_, n)| n).sum::<u64>(), p.disagreed);
            prop_assert_eq!(p.aspects, figures.pair(a, b).aspects);
        }
    }
}
