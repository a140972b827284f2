//! Fault accounts, sets, and the size of it all.

use voter::*;

#[test]
fn an_account_runs_from_the_first_dissent_while_any_remains() {
    let mut account = FaultAccount::default();
    assert_eq!(account.since(), None);
    assert!(!account.exceeds(0, 0, 1_000_000));
    account.begin(1_000);
    account.begin(2_000);
    account.end();
    assert_eq!((account.keys(), account.since()), (1, Some(1_000)));
    assert!(!account.exceeds(60_000, 1, 60_999));
    assert!(account.exceeds(60_000, 1, 61_000));
    assert!(!account.exceeds(60_000, 2, 61_000));
    account.end();
    account.end();
    assert_eq!((account.keys(), account.since()), (0, None));
    assert!(!account.exceeds(60_000, 1, 99_000));
    account.begin(100_000);
    assert!(!account.exceeds(60_000, 1, 159_999), "the old time does not count");
    assert!(!account.exceeds(u64::MAX, 1, u64::MAX - 1));
}

#[test]
fn only_changes_are_booked() {
    let mut accounts = [FaultAccount::default(); 3];
    let set = |members: &[u8]| members.iter().copied().collect::<Members>();
    book(&mut accounts, set(&[]), set(&[0, 2]), 5);
    book(&mut accounts, set(&[0, 2]), set(&[0]), 6);
    book(&mut accounts, set(&[]), set(&[0, 30]), 7);
    assert_eq!(accounts.map(|account| account.keys()), [2, 0, 0]);
    assert_eq!(accounts[0].since(), Some(5));
}

#[test]
fn nobody_is_accused_while_the_majority_is_in_doubt() {
    let mut accounts = [FaultAccount::default(); 4];
    let electorate = Members::first(3);
    let split = |accounts: &[FaultAccount], lost| majority_split(accounts, electorate, 2, lost, 10);
    let dissents = |account: &mut FaultAccount, keys| (0..keys).for_each(|_| account.begin(0));
    dissents(&mut accounts[0], 9);
    assert!(!split(&accounts, 0), "one of three");
    dissents(&mut accounts[3], 9);
    assert!(!split(&accounts, 0), "an observer is not of the electorate");
    dissents(&mut accounts[1], 1);
    assert!(!split(&accounts, 0), "one key is less than min_keys");
    dissents(&mut accounts[1], 1);
    assert!(split(&accounts, 0), "two of three");
    accounts[1] = FaultAccount::default();
    assert!(!split(&accounts, 9));
    assert!(split(&accounts, 10), "ten keys without a quorum");
    assert!(!majority_split(&accounts, electorate, 2, 0, 0));
    assert!(!majority_split(&accounts[..2], Members::first(2), 2, 0, 10), "half is not more than half");
    assert!(!majority_split(&[], Members::EMPTY, 1, 0, 1));
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
