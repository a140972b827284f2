//! Which requests are alike, and when the habit is there.

use super::*;

/// A new route to this prefix, as BIRD writes it.
fn request(kind: u16, flags: c_int, seq: u32, dst: [u8; 4], len: u8, gateway: u8) -> Vec<u8> {
    let mut m = vec![0; 16];
    m[4..6].copy_from_slice(&kind.to_ne_bytes());
    m[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    m[SEQ].copy_from_slice(&seq.to_ne_bytes());
    m.extend([libc::AF_INET as u8, len, 0, 0, 254, 12, 0, 1, 0, 0, 0, 0]);
    for (kind, value) in [(1u16, dst), (5, [192, 0, 2, gateway])] {
        m.extend(8u16.to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend(value);
    }
    let total = m.len() as u32;
    m[..4].copy_from_slice(&total.to_ne_bytes());
    m
}

const ADD: c_int = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;

fn add(seq: u32, last: u8, gateway: u8) -> Vec<u8> {
    request(libc::RTM_NEWROUTE, ADD, seq, [198, 51, 100, last], 32, gateway)
}

fn granted(seq: u32) -> Octets<MAX_ANSWER> {
    let mut a = Octets::<MAX_ANSWER>::NONE;
    a.len = 36;
    a.bytes[..4].copy_from_slice(&36u32.to_ne_bytes());
    a.bytes[4..6].copy_from_slice(&2u16.to_ne_bytes());
    a.bytes[SEQ].copy_from_slice(&seq.to_ne_bytes());
    a.bytes[ECHOED_SEQ].copy_from_slice(&seq.to_ne_bytes());
    a
}

fn state() -> Box<State> {
    Box::new(Ahead::new().state.into_inner())
}

fn send(s: &mut State, request: &[u8]) -> bool {
    s.sent(s.last_us, shape(request), request.get(SEQ), || true)
}

/// `n` rounds, all of which go to virtd.
fn rounds(s: &mut State, n: u32) {
    for seq in 0..n {
        assert!(!send(s, &add(seq, seq as u8, 1)), "round {seq}");
        s.received(0, &granted(seq));
    }
}

#[test]
fn the_answer_is_the_one_to_this_request() {
    let mut s = state();
    rounds(&mut s, HABIT);
    assert!(send(&mut s, &add(77, 200, 1)));
    assert_eq!(s.answer.get(), granted(77).get());
}

#[test]
fn one_route_now_and_then_is_asked_for() {
    let mut s = state();
    rounds(&mut s, HABIT);
    s.last_us = 1000;
    let slow = add(5, 5, 1);
    assert!(!s.sent(1000 + RUSH_US, shape(&slow), slow.get(SEQ), || true));
    s.received(5000, &granted(5));
    let next = add(6, 6, 1);
    assert!(s.sent(5000 + RUSH_US - 1, shape(&next), next.get(SEQ), || true));
}

#[test]
fn only_what_is_alike_but_for_destination_and_number() {
    let mut s = state();
    rounds(&mut s, HABIT);
    let kinds = [
        add(1, 200, 2),
        request(libc::RTM_NEWROUTE, libc::NLM_F_ACK | libc::NLM_F_CREATE, 1, [198, 51, 100, 7], 32, 1),
        request(libc::RTM_NEWROUTE, ADD | libc::NLM_F_APPEND, 1, [198, 51, 100, 7], 32, 1),
        request(libc::RTM_NEWROUTE, ADD & !libc::NLM_F_ACK, 1, [198, 51, 100, 7], 32, 1),
        request(libc::RTM_NEWROUTE, ADD, 1, [198, 51, 100, 7], 24, 1),
        request(libc::RTM_DELROUTE, libc::NLM_F_ACK, 1, [198, 51, 100, 7], 32, 1),
        request(104, ADD, 1, [198, 51, 100, 7], 32, 1),
    ];
    for (n, kind) in kinds.iter().enumerate() {
        assert!(!send(&mut s, kind), "{n}");
        s.asked = Octets::NONE;
        s.rounds = HABIT;
    }
    assert!(send(&mut s, &request(libc::RTM_NEWROUTE, ADD, 1, [198, 51, 100, 0], 24, 1)), "another length is the same");
}

#[test]
fn whoever_does_not_wait_has_no_habit() {
    let mut s = state();
    rounds(&mut s, HABIT);
    s.rounds = 0;
    rounds(&mut s, HABIT - 1);
    assert!(!send(&mut s, &add(50, 1, 1)));
    assert!(!send(&mut s, &add(51, 2, 1)), "the one before was not received");
    s.received(0, &granted(51));
    assert_eq!(s.rounds, 1);
    rounds(&mut s, HABIT - 1);
    assert!(send(&mut s, &add(52, 3, 1)));
    assert!(!send(&mut s, &add(53, 4, 1)), "an answer has not been taken");
    assert_eq!(s.answer.get(), granted(52).get(), "and is not lost");
}

#[test]
fn refusals_and_other_words_end_it() {
    let mut refused = granted(90);
    refused.bytes[HEADER..HEADER + 4].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
    let another = granted(1234);
    let long = Octets::NONE;
    for answer in [refused, another, long] {
        let mut s = state();
        rounds(&mut s, HABIT);
        s.rounds = HABIT - 1;
        assert!(!send(&mut s, &add(90, 9, 3)));
        s.received(0, &answer);
        assert_eq!(s.rounds, 0);
        assert!(!send(&mut s, &add(91, 9, 1)));
    }
}

#[test]
fn next_hops_beyond_those_kept_are_asked_again() {
    let mut s = state();
    for round in 0..3 {
        for gateway in 0..=TEMPLATES as u8 {
            assert!(!send(&mut s, &add(5, 1, gateway)), "{round} {gateway}");
            s.received(0, &granted(5));
        }
    }
    assert!(send(&mut s, &add(6, 1, TEMPLATES as u8)));
    s.answer = Octets::NONE;
    s.forget();
    assert!(!send(&mut s, &add(6, 1, TEMPLATES as u8)));
}

#[test]
fn prefixes_have_nothing_behind_their_length() {
    for (address, len, good) in [
        ([10u8, 0, 0, 0], 8, true),
        ([10, 1, 0, 0], 8, false),
        ([10, 128, 0, 0], 9, true),
        ([10, 64, 0, 0], 9, false),
        ([0, 0, 0, 0], 0, true),
        ([1, 2, 3, 4], 32, true),
        ([1, 2, 3, 4], 31, true),
        ([1, 2, 3, 5], 31, false),
        ([1, 2, 3, 4], 33, false),
    ] {
        assert_eq!(is_prefix(&address, len), good, "{address:?}/{len}");
    }
}

#[test]
fn octets_that_are_no_request_are_left_alone() {
    let whole = add(1, 2, 3);
    for n in 0..whole.len() {
        assert!(shape(&whole[..n]).is_none(), "{n}");
        let mut odd = whole.clone();
        odd[n] ^= 0xff;
        let _ = shape(&odd);
    }
}
