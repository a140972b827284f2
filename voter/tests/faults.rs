//! Rules for faults, sets, and the size of it all.

use voter::*;

#[test]
fn each_of_enough_dissents_must_have_stood_for_long() {
    let begun = [1_000, 40_000, 2_000];
    assert!(!wrong_for_long([], 0, 0, 1_000_000), "nothing stands");
    assert!(!wrong_for_long(begun, 60_000, 1, 60_999));
    assert!(wrong_for_long(begun, 60_000, 1, 61_000), "the oldest");
    assert!(wrong_for_long(begun, 60_000, 0, 61_000), "none is as one");
    assert!(!wrong_for_long(begun, 60_000, 2, 61_999), "the young ones do not count");
    assert!(wrong_for_long(begun, 60_000, 2, 62_000));
    assert!(!wrong_for_long(begun, 60_000, 3, 99_999));
    assert!(wrong_for_long(begun, 60_000, 3, 100_000));
    assert!(!wrong_for_long(begun, 60_000, 4, 1_000_000));
    assert!(!wrong_for_long(begun, u64::MAX, 1, u64::MAX - 1));
}

#[test]
fn nobody_is_accused_while_the_majority_is_in_doubt() {
    let electorate = Members::first(3);
    let split = |keys: [u32; 4], lost| majority_split(keys, electorate, 2, lost, 10);
    assert!(!split([9, 0, 0, 0], 0), "one of three");
    assert!(!split([9, 0, 0, 9], 0), "an observer is not of the electorate");
    assert!(!split([9, 1, 0, 9], 0), "one key is less than min_keys");
    assert!(split([9, 2, 0, 9], 0), "two of three");
    assert!(!split([9, 0, 0, 9], 9));
    assert!(split([9, 0, 0, 9], 10), "ten keys without a quorum");
    assert!(!majority_split([9, 0, 0], electorate, 2, 0, 0));
    assert!(!majority_split([9, 0], Members::first(2), 2, 0, 10), "half is not more than half");
    assert!(!majority_split([], Members::EMPTY, 1, 0, 1));
}

#[test]
fn sets() {
    let mut set = Members::first(3);
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2]);
    set.insert(30);
    set.remove(1);
    set.insert(32);
    set.insert(255);
    set.remove(255);
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 2, 30]);
    assert_eq!((set.len(), set.is_empty(), Members::EMPTY.is_empty()), (3, false, true));
    assert!(set.contains(30) && !set.contains(1) && !set.contains(62) && !set.contains(255));
    let other: Members = [2, 5].into_iter().collect();
    assert_eq!(set.union(other), [0, 2, 5, 30].into_iter().collect());
    assert_eq!(set.intersect(other), [2].into_iter().collect());
    assert_eq!(set.minus(other), [0, 30].into_iter().collect());
    assert_eq!((Members::first(0), Members::first(31).len()), (Members::EMPTY, 31));
    assert_eq!(Members::first(99).iter().count(), 32);
}

/// The paper's voter was 514 lines; ours, documentation and all, stays below that.
#[test]
fn small_enough_to_be_trusted() {
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
    let total: usize = sources.map(|file| lines(file.unwrap().path())).sum();
    println!("{total} lines");
    assert!((100..514).contains(&total), "{total} lines");
}
