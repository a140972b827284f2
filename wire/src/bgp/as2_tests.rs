use super::*;
use proptest::prelude::*;

/// Segments in words: `2: 64500 200000 | 1: 7 8`.
fn path(words: &str, width: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for s in words.split('|').map(str::trim).filter(|s| !s.is_empty()) {
        let (kind, numbers) = s.split_once(':').expect("a type and numbers");
        let numbers: Vec<u32> = numbers.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        out.extend([kind.parse().expect("a type"), numbers.len() as u8]);
        for n in numbers {
            out.extend_from_slice(&n.to_be_bytes()[4 - width..]);
        }
    }
    out
}

fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_attribute(flags, code, value, &mut out);
    out
}

fn values(field: &[u8]) -> Vec<(u8, Vec<u8>)> {
    Attributes::new(field).map(|a| a.map(|a| (a.code, a.value.to_vec())).expect("an attribute")).collect()
}

fn body(attributes: &[u8]) -> Vec<u8> {
    [&[0, 0][..], &(attributes.len() as u16).to_be_bytes(), attributes, &[8, 10]].concat()
}

fn widened(attributes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let whole = widen(&body(attributes)).expect("an UPDATE");
    values(fields(&whole).expect("an UPDATE").attributes)
}

#[test]
fn what_a_speaker_with_two_octets_is_told() {
    for (four, two, as4) in [
        ("2: 64500 65535", "2: 64500 65535", None),
        ("2: 64500 200000 7", "2: 64500 23456 7", Some("2: 64500 200000 7")),
        ("2: 64500 | 1: 200000 9", "2: 64500 | 1: 23456 9", Some("2: 64500 | 1: 200000 9")),
        // A confederation's numbers stay out of AS4_PATH, and need none.
        ("3: 200001 | 2: 64500", "3: 23456 | 2: 64500", None),
        ("3: 200001 | 2: 200000", "3: 23456 | 2: 23456", Some("2: 200000")),
        ("", "", None),
    ] {
        let mut out = Vec::new();
        narrow(&attribute(0x40, attr::AS_PATH, &path(four, 4)), &mut out);
        let mut wanted = vec![(attr::AS_PATH, path(two, 2))];
        wanted.extend(as4.map(|p| (attr::AS4_PATH, path(p, 4))));
        assert_eq!(values(&out), wanted, "{four}");
    }
}

/// RFC 6793 section 4.2.3.
#[test]
fn what_it_says_is_put_together_again() {
    for (two, as4, four) in [
        ("2: 64500 7", None, "2: 64500 7"),
        ("2: 1 23456 7", Some("2: 200000 7"), "2: 1 | 2: 200000 7"),
        ("2: 1 23456 7", Some("2: 1 200000 7"), "2: 1 200000 7"),
        ("2: 1 2 | 1: 23456 9", Some("1: 200000 9"), "2: 1 2 | 1: 200000 9"),
        ("3: 65001 | 2: 1 23456", Some("2: 1 200000"), "3: 65001 | 2: 1 200000"),
        ("3: 65001 | 2: 1 23456", Some("2: 200000"), "3: 65001 | 2: 1 | 2: 200000"),
        // The longer one is not of this path.
        ("2: 1 23456", Some("2: 1 200000 7"), "2: 1 23456"),
    ] {
        let mut field = attribute(0x40, attr::AS_PATH, &path(two, 2));
        field.extend(as4.map(|p| attribute(0xc0, attr::AS4_PATH, &path(p, 4))).unwrap_or_default());
        assert_eq!(widened(&field), [(attr::AS_PATH, path(four, 4))], "{two} and {as4:?}");
    }
}

#[test]
fn an_aggregator_goes_both_ways_and_one_that_knew_nothing_of_the_longer_ones_makes_them_void() {
    let four = [0, 3, 13, 64, 10, 0, 0, 1];
    let mut out = Vec::new();
    narrow(&attribute(0xc0, attr::AGGREGATOR, &four), &mut out);
    let two = [0x5b, 0xa0, 10, 0, 0, 1];
    assert_eq!(values(&out), [(attr::AGGREGATOR, two.to_vec()), (attr::AS4_AGGREGATOR, four.to_vec())]);
    assert_eq!(widened(&out), [(attr::AGGREGATOR, four.to_vec())]);
    let small = [0, 0, 0, 7, 10, 0, 0, 1];
    out.clear();
    narrow(&attribute(0xc0, attr::AGGREGATOR, &small), &mut out);
    assert_eq!(values(&out), [(attr::AGGREGATOR, vec![0, 7, 10, 0, 0, 1])]);
    out.extend(attribute(0xc0, attr::AS4_AGGREGATOR, &four));
    out.extend(attribute(0x40, attr::AS_PATH, &path("2: 23456", 2)));
    out.extend(attribute(0xc0, attr::AS4_PATH, &path("2: 200000", 4)));
    assert_eq!(widened(&out), [(attr::AGGREGATOR, small.to_vec()), (attr::AS_PATH, path("2: 23456", 4))]);
}

#[test]
fn a_session_with_four_octets_does_not_hear_of_the_longer_ones() {
    let mut field = attribute(0x40, attr::AS_PATH, &path("2: 7", 4));
    field.extend(attribute(0xc0, attr::AS4_PATH, &path("2: 200000", 4)));
    let mut out = Vec::new();
    narrow(&field, &mut out);
    assert_eq!(values(&out), [(attr::AS_PATH, path("2: 7", 2))]);
}

#[test]
fn a_path_that_is_too_long_in_four_octets_is_none() {
    let segment = [&[2, 255][..], &[0x10; 510]].concat();
    let path: Vec<u8> = segment.repeat(70);
    assert!(widen(&body(&attribute(0x40, attr::AS_PATH, &path))).is_none());
}

proptest! {
    /// Told in two octets and read again, a path is what it was.
    #[test]
    fn there_and_back(segments in prop::collection::vec((1u8..3, prop::collection::vec(1u32..300_000, 1..6)), 0..5)) {
        let words: Vec<String> = segments
            .iter()
            .map(|(kind, n)| format!("{kind}: {}", n.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")))
            .collect();
        let four = path(&words.join("|"), 4);
        let mut out = Vec::new();
        narrow(&attribute(0x40, attr::AS_PATH, &four), &mut out);
        prop_assert_eq!(widened(&out), vec![(attr::AS_PATH, four)]);
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut out = Vec::new();
        narrow(&bytes, &mut out);
        narrow_stored(&bytes, &mut out);
        let _ = widen(&bytes);
    }
}
