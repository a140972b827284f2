use super::*;

const MD5: i32 = libc::TCP_MD5SIG;

fn key(peer: u8, key: &[u8]) -> Vec<u8> {
    let mut v = vec![0; 216];
    v[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    v[7] = peer;
    v[130..132].copy_from_slice(&(key.len() as u16).to_ne_bytes());
    v[136..136 + key.len()].copy_from_slice(key);
    v
}

fn put(change: &Change, value: &[u8]) -> bool {
    *change == Change::Put(MD5, value.to_vec())
}

#[test]
fn a_key_stays_while_anybody_wants_it() {
    let mut keys = Keys::default();
    assert!(put(&keys.set((0, 1), MD5, &key(7, b"secret")), &key(7, b"secret")));
    assert!(keys.set((1, 2), MD5, &key(7, b"secret")) == Change::None, "it is there already");
    assert!(keys.set((0, 1), MD5, &key(7, b"")) == Change::None, "the second still wants it");
    assert!(put(&keys.set((1, 2), MD5, &key(8, b"more")), &key(8, b"more")));
    assert_eq!(keys.of_peer(IpAddr::from([0, 0, 0, 7])).count(), 1);
    let gone = keys.forget((1, 2));
    assert!(gone.len() == 2 && put(&gone[0], &key(7, b"")) && put(&gone[1], &key(8, b"")));
    assert!(keys.set((1, 2), MD5, &key(7, b"")) == Change::None, "gone already");
    assert!(keys.wishes.is_empty());
}

#[test]
fn two_listening_sockets_of_one_instance_are_two_holders() {
    let mut keys = Keys::default();
    keys.set((0, 1), MD5, &key(7, b"secret"));
    keys.set((0, 2), MD5, &key(7, b"secret"));
    assert!(keys.forget((0, 1)).iter().all(|c| *c == Change::None));
    let gone = keys.forget((0, 2));
    assert!(gone.len() == 1 && put(&gone[0], &key(7, b"")));
}

#[test]
fn the_first_key_counts_and_the_next_takes_its_place() {
    let mut keys = Keys::default();
    keys.set((0, 1), MD5, &key(7, b"one"));
    assert!(keys.set((1, 2), MD5, &key(7, b"two")) == Change::Differs(0));
    let gone = keys.forget((0, 1));
    assert!(gone.len() == 1 && put(&gone[0], &key(7, b"two")));
    assert!(put(&keys.set((1, 2), MD5, &key(7, b"three")), &key(7, b"three")), "alone it may change its mind");
}

#[test]
fn keys_are_bounded_and_what_is_no_key_is_ignored() {
    let mut keys = Keys::default();
    assert!(keys.set((0, 1), MD5, &[1, 2, 3]) == Change::None);
    let mut v = key(0, b"k");
    for n in 0..MAX_KEYS as u32 {
        v[4..8].copy_from_slice(&n.to_be_bytes());
        keys.wishes.push(Wish { holder: (0, 1), option: MD5, value: v.clone() });
    }
    v[4] = 99;
    assert!(keys.set((0, 1), MD5, &v) == Change::Full);
}
