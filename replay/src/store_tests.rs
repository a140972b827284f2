//! The table of what all peers sent, against a map.

use super::table::{Entry, MAX_SILENT, Record};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const KEEP_MS: u32 = 1000;

fn some_prefix() -> impl Strategy<Value = Prefix> {
    // Few distinct addresses, so that calls meet; lengths from 0, so that 0.0.0.0/0 and ::/0 are
    // among them.
    (any::<bool>(), 0u8..6, 0u8..=32).prop_map(|(v6, octet, len)| {
        let addr = if v6 { IpAddr::V6(Ipv6Addr::from([octet; 16])) } else { IpAddr::V4(Ipv4Addr::from([octet; 4])) };
        Prefix::new(addr, len).expect("a length within both families")
    })
}

fn numbered(n: u32) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::from(n << 8)), 24).expect("a prefix")
}

/// The session ends, and what it said is taken out in slices; nobody sees any of it meanwhile.
fn clear(stores: &mut Stores, session: usize, now: u32) -> Vec<BlobId> {
    let mut gone = Vec::new();
    let one = stores.iter(session).next().map(|(prefix, _)| prefix);
    stores.end(session);
    while stores.has_ended() {
        assert!(stores.is_empty(session) && stores.iter(session).next().is_none());
        assert!(one.is_none_or(|p| stores.find(session, &p).is_none() && stores.announcers(&p).all(|s| s != session)));
        stores.take_out(7, now, &mut gone);
    }
    gone.into_iter().map(|(_, id)| id).collect()
}

#[test]
fn an_entry_is_small() {
    assert_eq!((size_of::<Entry<5>>(), size_of::<Entry<17>>(), size_of::<Record>()), (16, 28, 10));
    let mut stores = Stores::new();
    for n in 0..100_000 {
        stores.announce(0, numbered(n), BlobId(1), 0);
    }
    assert!(stores.memory_bytes() <= 33 * stores.len(0), "{} octets", stores.memory_bytes());
    for n in 0..100_000 {
        stores.announce(1, numbered(n), BlobId(1), 0);
    }
    assert!(stores.memory_bytes() <= 60 * stores.len(0), "{} octets with two", stores.memory_bytes());
}

#[test]
fn what_all_took_back_gives_its_memory_back() {
    let mut stores = Stores::new();
    for n in 0..100_000 {
        stores.announce(n as usize % 3, numbered(n), BlobId(1), 0);
    }
    for session in 0..3 {
        assert_eq!(clear(&mut stores, session, 10).len(), if session == 0 { 33_334 } else { 33_333 });
    }
    stores.forget_silent(10 + KEEP_MS, KEEP_MS);
    assert!(stores.memory_bytes() < 1 << 19, "{} octets", stores.memory_bytes());
}

#[test]
fn more_silence_than_is_remembered_makes_all_young() {
    let mut stores = Stores::new();
    stores.announce(0, numbered(1 << 20), BlobId(1), 0);
    for n in 0..=MAX_SILENT as u32 {
        stores.announce(1, numbered(n), BlobId(1), 0);
    }
    assert_eq!(stores.age_ms(&numbered(1 << 20), 500), Some(500));
    clear(&mut stores, 1, 500);
    assert_eq!(stores.age_ms(&numbered(1 << 20), 600), Some(100));
    stores.forget_silent(500 + KEEP_MS, KEEP_MS);
    assert_eq!(stores.age_ms(&numbered(1 << 20), 600 + KEEP_MS), Some(600 + KEEP_MS));
}

/// Whatever is said and taken back while it is read, who reads it in slices has been told of all that
/// stood then and stands now.
#[test]
fn what_is_read_in_slices_misses_nothing_that_stands() {
    let mut stores = Stores::new();
    (0..1000).for_each(|n| _ = stores.announce(0, numbered(n), BlobId(1), 0));
    let (mut cursor, mut read) = (Cursor::new(None), Vec::new());
    assert!(stores.next(0, &mut cursor, 500, &mut read));
    assert_eq!(read.len(), 500);
    // So many that the list is made anew meanwhile.
    (0..900).for_each(|n| _ = stores.withdraw(0, &numbered(n), 1));
    stores.announce(0, numbered(5000), BlobId(1), 1);
    while stores.next(0, &mut cursor, 10, &mut read) {}
    let standing: BTreeSet<Prefix> = stores.iter(0).map(|(p, _)| p).collect();
    assert_eq!(standing.len(), 101);
    assert!(standing.iter().all(|p| read.contains(p)));
    assert!(!stores.next(0, &mut Cursor::new(Some(Family::IPV6_UNICAST)), 10, &mut Vec::new()));
}

proptest! {
    #[test]
    fn agrees_with_a_map(calls in prop::collection::vec((0u8..10, 0usize..4, some_prefix(), 1u32..6, 0u32..40), 0..400)) {
        let mut stores = Stores::new();
        let mut model: BTreeMap<(usize, Prefix), BlobId> = BTreeMap::new();
        let mut said: BTreeMap<Prefix, u32> = BTreeMap::new();
        let mut marked: BTreeSet<(usize, Prefix)> = BTreeSet::new();
        let mut now = 0;
        for (call, session, prefix, id, passed) in calls {
            now += passed;
            let family = prefix.family();
            match call {
                0..=3 => {
                    let was = model.insert((session, prefix), BlobId(id)).unwrap_or_default();
                    prop_assert_eq!(stores.announce(session, prefix, BlobId(id), now), was);
                    said.insert(prefix, now);
                    marked.remove(&(session, prefix));
                }
                4..=6 => {
                    let was = model.remove(&(session, prefix));
                    prop_assert_eq!(stores.withdraw(session, &prefix, now), was.unwrap_or_default());
                    if was.is_some() {
                        said.insert(prefix, now);
                    }
                    marked.remove(&(session, prefix));
                }
                7 => {
                    stores.mark(session, family);
                    marked.extend(model.keys().filter(|(s, p)| *s == session && p.family() == family));
                }
                8 if id > 1 => {
                    stores.unmark(session, family);
                    marked.retain(|(s, p)| *s != session || p.family() != family);
                }
                _ => {
                    let mut gone = clear(&mut stores, session, now);
                    gone.sort_unstable();
                    let mine = model.extract_if(.., |(s, _), _| *s == session);
                    let mut ids = Vec::new();
                    for ((_, prefix), id) in mine {
                        said.insert(prefix, now);
                        ids.push(id);
                    }
                    ids.sort_unstable();
                    prop_assert_eq!(gone, ids);
                    marked.retain(|(s, _)| *s != session);
                }
            }
            if call == 9 {
                stores.forget_silent(now, KEEP_MS);
            }
            let announced = |p: &Prefix| model.keys().filter(|(_, of)| of == p).map(|(s, _)| *s).collect::<BTreeSet<_>>();
            prop_assert_eq!(stores.announcers(&prefix).collect::<BTreeSet<_>>(), announced(&prefix));
            prop_assert_eq!(stores.find(session, &prefix), model.get(&(session, prefix)).copied());
            let when = said.get(&prefix).map(|then| now - then);
            match stores.age_ms(&prefix, now) {
                None => prop_assert!(announced(&prefix).is_empty() && when.is_none_or(|age| age >= KEEP_MS)),
                age => prop_assert_eq!(age, when),
            }
            let mut found = Vec::new();
            stores.marked(session, family, usize::MAX, &mut found);
            found.sort_unstable();
            let of_family = |(s, p): &&(usize, Prefix)| *s == session && p.family() == family;
            prop_assert_eq!(&found, &marked.iter().filter(of_family).map(|(_, p)| *p).collect::<Vec<_>>());
            let mut some = Vec::new();
            stores.marked(session, family, 2, &mut some);
            prop_assert_eq!(some.len(), found.len().min(2));
        }
        for session in 0..4 {
            let mine: BTreeMap<Prefix, BlobId> =
                model.iter().filter(|((s, _), _)| *s == session).map(|((_, p), id)| (*p, *id)).collect();
            prop_assert_eq!(stores.len(session), mine.len());
            prop_assert_eq!(&stores.iter(session).collect::<BTreeMap<_, _>>(), &mine);
            for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
                prop_assert_eq!(stores.len_of(session, family), mine.keys().filter(|p| p.family() == family).count());
                let sorted = stores.prefixes_by_attributes(session, Some(family));
                let ids: Vec<BlobId> = sorted.iter().map(|p| mine[p]).collect();
                prop_assert!(ids.is_sorted());
                prop_assert_eq!(sorted.len(), stores.len_of(session, family));
            }
            prop_assert_eq!(stores.prefixes_by_attributes(session, None).len(), mine.len());
        }
    }
}
