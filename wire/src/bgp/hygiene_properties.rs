//! What must hold of every input: no panic, mended UPDATEs are sound and say the same prefixes.

use super::*;
use crate::bgp::types::SessionKind;
use crate::bgp::update::Update;
use crate::laws::bgp as laws;
use proptest::collection::vec;
use proptest::prelude::*;

fn context() -> impl Strategy<Value = UpdateContext> {
    let kind = prop_oneof![Just(SessionKind::Ebgp), Just(SessionKind::Ibgp), Just(SessionKind::Confederation)];
    (any::<bool>(), kind, any::<bool>()).prop_map(|(as4, kind, extended_next_hop)| UpdateContext {
        as4,
        kind,
        extended_next_hop,
        class_e: false,
        max_message_len: 4096,
    })
}

fn nlri(max: u8) -> impl Strategy<Value = Vec<u8>> {
    let prefix = (0..=max, vec(any::<u8>(), 16)).prop_map(|(len, octets)| {
        let mut prefix = vec![len];
        prefix.extend(&octets[..usize::from(len).div_ceil(8)]);
        prefix
    });
    vec(prefix, 0..4).prop_map(|prefixes| prefixes.concat())
}

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut raw = match u8::try_from(value.len()) {
        Ok(len) => vec![flags & !0x10, code, len],
        Err(_) => {
            let [a, b] = (value.len() as u16).to_be_bytes();
            vec![flags | 0x10, code, a, b]
        }
    };
    raw.extend(value);
    raw
}

fn mp_attribute() -> impl Strategy<Value = Vec<u8>> {
    let family = prop_oneof![
        Just((1u8, 1u8, 4usize, 32u8)),
        Just((2, 1, 16, 128)),
        Just((2, 1, 32, 128)),
        Just((1, 128, 12, 32))
    ];
    (family, any::<bool>()).prop_flat_map(|((afi, safi, next_hop, max), reach)| {
        nlri(max).prop_map(move |nlri| {
            let mut value = vec![0, afi, safi];
            if reach {
                value.push(next_hop as u8);
                value.resize(5 + next_hop, 1);
            }
            value.extend(nlri);
            attribute(0x80, if reach { 14 } else { 15 }, &value)
        })
    })
}

fn sound_attribute() -> impl Strategy<Value = Vec<u8>> {
    let rows: Vec<Vec<u8>> = vec![
        attribute(0x40, 1, &[0]),
        attribute(0x40, 2, &[2, 1, 0, 0, 0xfb, 0xf4]),
        attribute(0x40, 2, &[2, 1, 0xfb, 0xf4]),
        attribute(0x40, 2, &[3, 1, 0, 0, 0xfb, 0xf4]),
        attribute(0x40, 3, &[192, 0, 2, 1]),
        attribute(0x80, 4, &[0, 0, 0, 1]),
        attribute(0x40, 5, &[0, 0, 0, 100]),
        attribute(0xc0, 7, &[0, 0, 0xfb, 0xf4, 192, 0, 2, 1]),
        attribute(0xc0, 8, &[0xfb, 0xf4, 0, 1]),
        attribute(0x80, 9, &[192, 0, 2, 1]),
        attribute(0xc0, 17, &[2, 1, 0, 0, 0xfb, 0xf4]),
        attribute(0xc0, 23, &[0, 8, 0, 3, 4, 1, 9]),
        attribute(0x80, 26, &[1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 5]),
        attribute(0xc0, 32, &[0; 300]),
        attribute(0xc0, 40, &[1, 0, 7, 0, 0, 0, 0, 0, 0, 1]),
        attribute(0xc0, 99, b"?"),
    ];
    proptest::sample::select(rows)
}

fn any_attribute() -> impl Strategy<Value = Vec<u8>> {
    let random = (any::<u8>(), 0u8..45, vec(any::<u8>(), 0..24)).prop_map(|(f, c, v)| attribute(f, c, &v));
    let sound_but_flags = (sound_attribute(), any::<u8>()).prop_map(|(mut a, flags)| {
        a[0] = (a[0] & 0x10) | (flags & 0xef);
        a
    });
    prop_oneof![8 => sound_attribute(), 3 => mp_attribute(), 1 => random, 1 => sound_but_flags]
}

fn join(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend(nlri);
    body
}

/// UPDATEs near enough to sound that every verdict is common.
fn near_update() -> impl Strategy<Value = Vec<u8>> {
    let mandatory =
        [attribute(0x40, 1, &[0]), attribute(0x40, 2, &[2, 1, 0, 0, 0xfb, 0xf4]), attribute(0x40, 3, &[192, 0, 2, 1])];
    let parts = (nlri(32), any::<bool>(), vec(any_attribute(), 0..6), nlri(32));
    let hit = proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (parts, hit).prop_map(move |((withdrawn, whole, attributes, nlri), hit)| {
        let mut field = if whole { mandatory.concat() } else { Vec::new() };
        field.extend(attributes.concat());
        let mut body = join(&withdrawn, &field, &nlri);
        if let Some((at, octet)) = hit {
            let at = at.index(body.len());
            body[at] = octet;
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn mended_updates_are_sound_and_say_the_same(body in near_update(), context in context()) {
        laws::update(&body, &context);
    }

    #[test]
    fn random_bytes_do_no_harm(body in vec(any::<u8>(), 0..120), context in context()) {
        laws::update(&body, &context);
        let _ = Update::parse(&body);
    }

    #[test]
    fn random_attributes_do_no_harm(attributes in vec(any::<u8>(), 0..80), context in context()) {
        laws::update(&join(&[], &attributes, &[24, 198, 51, 100]), &context);
    }
}

/// The generator must reach every verdict, or the properties above say little.
#[test]
fn every_verdict_is_common() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut counts = [0; 4];
    for _ in 0..2000 {
        let (body, context) = (near_update(), context()).new_tree(&mut runner).unwrap().current();
        counts[match check(&body, &context) {
            Verdict::Pass => 0,
            Verdict::Rewritten { withdrawn: false, .. } => 1,
            Verdict::Rewritten { withdrawn: true, .. } => 2,
            Verdict::Reset { .. } => 3,
        }] += 1;
    }
    assert!(counts.iter().all(|&n| n > 100), "pass, discard, withdraw, reset: {counts:?}");
}
