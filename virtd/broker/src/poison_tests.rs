use super::findings::MAX_FINDINGS;
use super::*;

const SECOND: Micros = 1_000_000;

fn prefix(n: usize) -> Prefix {
    format!("10.{}.{}.0/24", n / 256 % 256, n % 256).parse().expect("a prefix")
}

fn suspect(poison: &Poison, n: usize, attributes: &[u8]) -> Suspect {
    let keys = vec![(prefix(n), poison.hasher().hash_one(attributes))];
    Suspect { session: 0, bytes: Bytes::from(n.to_be_bytes().to_vec()), keys, malformed: false }
}

/// Instance 0 dies so often of one UPDATE that it is found.
fn find(poison: &mut Poison, n: usize, attributes: &[u8]) {
    for death in 0..3u64 {
        let at = death * SECOND;
        poison.deliver(at, 0, [0].into_iter().collect(), &Bytes::from_static(&[1]));
        poison.ended(0, 0, at, End::Closed);
        let s = suspect(poison, n, attributes);
        let step = poison.look(0, false, 0, move |_, _| vec![s.clone()]);
        if matches!(step, Some(Step::Found { .. })) {
            // What is left of the search ends once it is level for a while.
            poison.proceed(0, true, at, 0);
            return;
        }
    }
    panic!("not found");
}

#[test]
fn a_finding_outlives_withdraws_and_sessions_and_is_known_by_its_attributes() {
    let mut p = Poison::new(2, 6);
    find(&mut p, 7, b"deadly");
    assert!(p.withholds(0, 0, &prefix(7)) && !p.withholds(1, 0, &prefix(7)));
    assert!(p.changed(0, &prefix(7), &[], 0), "nothing is left to abstain on");
    assert!(p.is_idle() && p.take_again().is_empty());
    assert!(!p.changed(0, &prefix(7), b"harmless", 0));
    assert!(!p.withholds(0, 0, &prefix(7)));
    assert!(p.changed(0, &prefix(7), b"deadly", 0));
    assert!(p.withholds(0, 0, &prefix(7)));
    assert_eq!(p.take_again(), [(0, prefix(7))]);
    assert!(!p.changed(0, &prefix(7), b"deadly", 0), "the same again is no news");
    assert!(p.take_again().is_empty());
    p.session_gone(0);
    assert!(p.is_idle());
    assert!(!p.changed(1, &prefix(7), b"deadly", 0), "another peer's");
    assert!(!p.changed(0, &prefix(8), b"deadly", 0), "another prefix");
    assert!(p.changed(0, &prefix(7), b"deadly", 0) && p.withholds(0, 0, &prefix(7)));
    p.forgive(0, 0);
    p.take_answered(0);
    assert!(p.is_idle() && !p.changed(0, &prefix(7), b"deadly", 0));
}

#[test]
fn what_was_withdrawn_before_it_was_looked_at_makes_no_withdraw_a_poison() {
    let mut p = Poison::new(1, 6);
    find(&mut p, 7, &[]);
    p.changed(0, &prefix(7), b"something", 0);
    p.take_answered(0);
    assert!(p.is_idle());
    assert!(!p.changed(0, &prefix(7), &[], 0) && p.is_idle());
}

#[test]
fn the_oldest_findings_are_forgotten_first() {
    let mut f = Findings::default();
    for n in 0..=MAX_FINDINGS {
        f.insert(0, prefix(n), n as u64);
        f.insert(0, prefix(n), n as u64);
    }
    assert_eq!(f.len(), MAX_FINDINGS);
    assert!(!f.contains(0, prefix(0), 0) && f.contains(0, prefix(1), 1));
    assert!(f.contains(0, prefix(MAX_FINDINGS), MAX_FINDINGS as u64));
}

#[test]
fn whoever_refuses_octets_abstains_until_anything_else_is_said() {
    let mut p = Poison::new(2, 6);
    let bad = Bytes::from_static(b"malformed");
    p.deliver(0, 0, [0].into_iter().collect(), &bad);
    p.ended(0, 0, 0, End::Closed);
    let mut s = suspect(&p, 7, &[]);
    (s.bytes, s.malformed) = (bad.clone(), true);
    assert!(matches!(p.look(0, false, 0, |_, _| vec![s.clone()]), Some(Step::Found { .. })));
    assert!(
        p.abstainers(&prefix(7), 0, true).contains(0) && !p.withholds(0, 0, &prefix(7)),
        "it is told the mended form"
    );
    assert!(p.abstainers(&prefix(7), 0, false).is_empty(), "what it says before the key rests counts");
    assert!(p.refuses(0, &bad) && !p.refuses(1, &bad));
    // A withdraw in so many words is something else, although the mended form was one too.
    assert!(p.changed(0, &prefix(7), &[], 0));
    assert!(p.is_idle());
    assert!(p.refused(0, &bad, &[prefix(7), prefix(8)]));
    assert!(!p.refused(0, &Bytes::from_static(b"another"), &[prefix(9)]));
    assert_eq!([7, 8, 9].map(|n| p.abstainers(&prefix(n), 0, true).len()), [1, 1, 0]);
    assert!(
        !p.changed(0, &prefix(8), b"good", 10) && p.abstainers(&prefix(8), 0, true).contains(0),
        "it has not answered"
    );
    assert!(p.take_answered(9).is_empty());
    assert_eq!((p.take_answered(10), p.abstainers(&prefix(8), 0, true).len()), (vec![prefix(8)], 0));
    p.session_gone(0);
    assert!(p.is_idle() && p.refuses(0, &bad));
}

#[test]
fn a_malformed_one_ends_the_search_among_others_and_they_are_told() {
    let mut p = Poison::new(1, 6);
    let mut list: Vec<Suspect> = (0..4).map(|n| suspect(&p, n, b"x")).collect();
    let die = |p: &mut Poison, list: &[Suspect]| {
        *p = Poison { delivered: VecDeque::new(), octets: VecDeque::new(), ..std::mem::replace(p, Poison::new(0, 0)) };
        p.deliver(0, 0, [0].into_iter().collect(), &Bytes::from_static(&[1]));
        p.ended(0, 0, 0, End::Closed);
        p.look(0, false, 0, |_, _| list.to_vec())
    };
    assert!(matches!(die(&mut p, &list), Some(Step::Suspected(4, _))));
    assert!(p.withholds(0, 0, &prefix(2)));
    list[3].malformed = true;
    let Some(Step::Found { found, innocent, .. }) = die(&mut p, &list[3..]) else { panic!("not found") };
    assert_eq!((found.len(), innocent.len()), (1, 4));
    assert!(
        !p.withholds(0, 0, &prefix(2)) && p.abstainers(&prefix(2), 0, true).contains(0),
        "told, and not judged yet"
    );
    assert_eq!(p.proceed(0, true, 0, 0), Some(Step::Release(Vec::new(), false)));
    assert!(p.abstainers(&prefix(2), 0, true).contains(0), "it may not have answered");
    assert_eq!(p.take_answered(0).len(), 4);
    assert!(p.abstainers(&prefix(2), 0, true).is_empty());
    assert!(p.abstainers(&prefix(3), 0, true).contains(0), "the malformed one's still stands");
}

/// Octets and messages of a search, whatever its state.
fn size(p: &Poison) -> (usize, usize) {
    let Some(hunt) = &p.patients[0].hunt else { return (0, 0) };
    let all = hunt.held.iter().chain(&hunt.trial).chain(&hunt.freed);
    (all.clone().map(|s| s.bytes.len()).sum(), all.count())
}

#[test]
fn a_flood_of_deliveries_takes_no_more_than_its_room() {
    let mut p = Poison::new(1, 6);
    let long = Bytes::from(vec![0xff; 4096]);
    for n in 0..200_000u64 {
        p.deliver(n, 0, [0].into_iter().collect(), &long);
        assert!(p.octets.len() <= MAX_OCTETS && p.delivered.len() <= MAX_DELIVERED);
    }
    assert_eq!((p.octets.len(), p.delivered.len()), (MAX_OCTETS, MAX_OCTETS / 4096));
    assert!(p.octets.capacity() <= 2 * MAX_OCTETS && p.delivered.capacity() <= 2 * MAX_DELIVERED);
    // Short ones are bounded by their number.
    for n in 0..200_000u64 {
        p.deliver(n, 0, [0].into_iter().collect(), &Bytes::from_static(&[0xff; 23]));
    }
    assert_eq!((p.octets.len(), p.delivered.len()), (23 * MAX_DELIVERED, MAX_DELIVERED));
    p.deliver(0, 0, [0].into_iter().collect(), &Bytes::from(vec![0; MAX_OCTETS + 1]));
    assert_eq!(p.delivered.len(), MAX_DELIVERED, "what is longer than all room is not kept");
}

#[test]
fn a_search_under_a_flood_takes_no_more_than_its_room_and_what_goes_free_is_told_again() {
    for len in [4096, 23] {
        // It never comes to an end by its number of restarts.
        let (mut p, mut n, mut at) = (Poison::new(1, u32::MAX), 0usize, 0);
        for round in 0..24 {
            for _ in 0..8000 {
                let mut message = vec![0xff; len];
                message[..8].copy_from_slice(&n.to_be_bytes());
                p.deliver(at, 0, [0].into_iter().collect(), &Bytes::from(message));
                (n, at) = (n + 1, at + 10);
            }
            let before: usize = p.patients[0].hunt.as_ref().map_or(0, |h| h.held.len());
            let was_on_trial = p.patients[0].hunt.as_ref().is_some_and(|h| !h.trial.is_empty());
            p.ended(0, 0, at, End::Closed);
            let step = p.look(0, false, 0, |session, bytes| {
                let n = usize::from_be_bytes(bytes[..8].try_into().expect("eight octets"));
                vec![Suspect { session, bytes: bytes.clone(), keys: vec![(prefix(n), n as u64)], malformed: false }]
            });
            let Some(Step::Suspected(held, innocent)) = step else { panic!("{step:?}") };
            let (octets, messages) = size(&p);
            assert!(octets <= 2 * MAX_OCTETS && messages <= 2 * MAX_HELD, "{octets} {messages}");
            assert!(held <= MAX_HELD && (round < 2 || !innocent.is_empty()), "round {round}");
            if !was_on_trial {
                assert_eq!(innocent.len() + held, before + MAX_DELIVERED.min(MAX_OCTETS / len));
                assert!(innocent.iter().all(|s| !p.patients[0].withholds(0, &s.keys[0].0) || shared(&p, s)));
            }
            p.take_answered(at);
            let marks: usize = p.patients[0].held.values().map(Vec::len).sum();
            assert!(marks <= 2 * MAX_HELD, "{marks} routes");
            if round % 3 == 2 {
                p.proceed(0, true, at, 0);
            }
        }
    }
}

/// Whether another suspect has the prefix as well: there are fewer of those than messages here.
fn shared(p: &Poison, s: &Suspect) -> bool {
    let hunt = p.patients[0].hunt.as_ref().expect("a search");
    hunt.held.iter().any(|h| h != s && h.keys[0].0 == s.keys[0].0)
}

/// Instance 0 is not told of prefix `n`.
fn withheld(n: usize) -> Poison {
    let mut p = Poison::new(2, 6);
    p.deliver(0, 0, [0].into_iter().collect(), &Bytes::from_static(&[1]));
    p.ended(0, 0, 0, End::Closed);
    let s = suspect(&p, n, b"first");
    assert!(matches!(p.look(0, false, 0, |_, _| vec![s.clone()]), Some(Step::Suspected(1, _))));
    p
}

const FIB: u32 = u32::MAX;

#[test]
fn what_is_told_at_last_is_not_judged_before_it_can_have_been_answered() {
    let mut p = withheld(7);
    let abstains = |p: &Poison, table| p.abstainers(&prefix(7), table, true).contains(0);
    assert!(!p.said(0, 1, &prefix(7)) && abstains(&p, 1), "what it says before it is told is no answer");
    assert!(!p.changed(0, &prefix(7), b"second", 100) && !p.withholds(0, 0, &prefix(7)), "it is told");
    assert!([0, 1, FIB].iter().all(|table| abstains(&p, *table)), "and still abstains, everywhere");
    // Towards whom it speaks it is heard, and towards nobody else.
    assert!(!p.said(1, 1, &prefix(7)) && !p.said(0, 1, &prefix(8)));
    assert!(p.said(0, 1, &prefix(7)) && !p.said(0, 1, &prefix(7)));
    assert!(!abstains(&p, 1) && abstains(&p, 0) && abstains(&p, FIB));
    // Another change does not silence it again, nor does it delay the end.
    assert!(!p.changed(0, &prefix(7), b"third", 150) && !abstains(&p, 1));
    assert!(p.take_answered(99).is_empty());
    assert_eq!(p.take_answered(100), [prefix(7)]);
    assert!(p.is_idle() && p.take_answered(1000).is_empty());
}

#[test]
fn what_the_peer_takes_back_needs_no_answer() {
    let mut p = withheld(7);
    assert!(p.changed(0, &prefix(7), &[], 100) && p.is_idle());
    let mut p = withheld(7);
    p.changed(0, &prefix(7), b"second", 100);
    assert!(p.changed(0, &prefix(7), &[], 120) && p.is_idle());
    assert!(p.take_answered(100).is_empty(), "nothing is waited for any more");
    let mut p = withheld(7);
    p.changed(0, &prefix(7), b"second", 100);
    p.session_gone(0);
    assert!(p.is_idle() && p.take_answered(100).is_empty());
}

#[test]
fn what_was_on_trial_and_what_is_forgiven_is_answered_first() {
    let mut p = withheld(7);
    assert!(matches!(p.proceed(0, true, 0, 0), Some(Step::Release(s, false)) if s.len() == 1));
    assert!(!p.said(0, 1, &prefix(7)), "on trial it abstains, whatever it says");
    assert!(p.proceed(0, true, 50, 50).is_none());
    assert!(matches!(p.proceed(0, true, 100, 50), Some(Step::Release(_, true))));
    assert!(!p.abstainers(&prefix(7), 1, true).contains(0), "it has answered here");
    assert!(p.abstainers(&prefix(7), 0, true).contains(0));
    assert_eq!((p.take_answered(149).len(), p.take_answered(150).len()), (0, 1));
    assert!(p.is_idle());
    let mut p = withheld(7);
    p.forgive(0, 30);
    assert!(p.abstainers(&prefix(7), 0, true).contains(0) && !p.withholds(0, 0, &prefix(7)));
    p.take_answered(30);
    assert!(p.is_idle());
    // Another's place: nothing is left.
    let mut p = withheld(7);
    p.forgive(0, 30);
    p.forget(0);
    assert!(p.is_idle() && p.take_answered(99).is_empty());
}

#[test]
fn what_is_withheld_again_has_a_time_of_its_own() {
    let mut p = withheld(7);
    p.changed(0, &prefix(7), b"second", 100);
    p.said(0, 1, &prefix(7));
    // It dies of the second one as well.
    p.deliver(50, 0, [0].into_iter().collect(), &Bytes::from_static(&[2]));
    p.ended(0, 0, 50, End::Closed);
    let s = suspect(&p, 7, b"second");
    p.look(0, false, 150, |_, _| vec![s.clone()]);
    assert!(p.withholds(0, 0, &prefix(7)) && p.abstainers(&prefix(7), 1, true).contains(0));
    assert!(p.take_answered(100).is_empty() && p.withholds(0, 0, &prefix(7)));
    p.changed(0, &prefix(7), b"third", 200);
    assert_eq!((p.take_answered(199).len(), p.take_answered(200).len()), (0, 1));
}

#[test]
fn a_suspect_that_the_peer_has_taken_the_place_of_is_not_withheld_again() {
    let mut p = withheld(7);
    p.changed(0, &prefix(7), b"second", 100);
    p.ended(0, 0, 50, End::Closed);
    p.look(0, false, 150, |_, _| Vec::new());
    assert!(!p.withholds(0, 0, &prefix(7)), "the peer says something else now");
    // Nor is another finding let through because one was withheld before.
    let mut p = Poison::new(1, 6);
    find(&mut p, 7, b"deadly");
    find(&mut p, 7, b"deadly, too");
    p.changed(0, &prefix(7), b"deadly", 10);
    assert!(p.withholds(0, 0, &prefix(7)));
    p.changed(0, &prefix(7), b"deadly, too", 10);
    assert!(p.withholds(0, 0, &prefix(7)));
}
