use super::*;

fn key(peer: u8, key: &[u8]) -> Vec<u8> {
    let mut v = vec![0; MD5SIG_LEN];
    v[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    v[7] = peer;
    v[KEYLEN_AT..KEYLEN_AT + 2].copy_from_slice(&(key.len() as u16).to_ne_bytes());
    v[KEY_AT..KEY_AT + key.len()].copy_from_slice(key);
    v
}

const TTL: (i32, i32) = (libc::IPPROTO_IP, libc::IP_TTL);
const TOS: (i32, i32) = (libc::IPPROTO_IP, libc::IP_TOS);
const MD5: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_MD5SIG);

#[test]
fn of_the_ttls_that_are_sent_the_largest_stands() {
    let mut a = Agreed::default();
    assert_eq!(a.set(0, TTL.0, TTL.1, &[1, 0, 0, 0]), Outcome::Apply);
    assert_eq!(a.set(1, TTL.0, TTL.1, &[255, 0, 0, 0]), Outcome::Apply);
    assert_eq!(a.set(2, TTL.0, TTL.1, &[1]), Outcome::Same);
    assert_eq!(a.standing(TTL.0, TTL.1), " to 255");
    assert_eq!(a.set(0, libc::IPPROTO_IP, libc::IP_MINTTL, &[254]), Outcome::Apply);
    assert_eq!(
        a.set(1, libc::IPPROTO_IP, libc::IP_MINTTL, &[253]),
        Outcome::Differs(0),
        "what is demanded is compared"
    );
}

#[test]
fn what_two_hold_stays_until_both_have_changed_their_mind() {
    let mut a = Agreed::default();
    assert_eq!(a.set(0, TOS.0, TOS.1, &[255, 0, 0, 0]), Outcome::Apply);
    assert_eq!(a.set(1, TOS.0, TOS.1, &[255]), Outcome::Same, "one octet or four");
    assert_eq!(a.set(2, TOS.0, TOS.1, &[64, 0, 0, 0]), Outcome::Differs(0));
    assert_eq!(a.set(0, TOS.0, TOS.1, &[64, 0, 0, 0]), Outcome::Differs(1));
    assert_eq!(a.set(1, TOS.0, TOS.1, &[64, 0, 0, 0]), Outcome::Apply);
    assert_eq!(a.set(2, TOS.0, TOS.1, &[64, 0, 0, 0]), Outcome::Same);
}

#[test]
fn keys_are_compared_peer_by_peer() {
    let mut a = Agreed::default();
    assert_eq!(a.set(0, MD5.0, MD5.1, &key(1, b"one")), Outcome::Apply);
    assert_eq!(a.set(0, MD5.0, MD5.1, &key(2, b"two")), Outcome::Apply, "another peer's key is no change of mind");
    let mut with_port = key(1, b"one");
    with_port[3] = 179;
    assert_eq!(a.set(1, MD5.0, TCP_MD5SIG_EXT, &with_port), Outcome::Same, "the port does not matter, nor the form");
    assert_eq!(a.set(2, MD5.0, MD5.1, &key(2, b"other")), Outcome::Differs(0));
    assert_eq!(a.set(0, MD5.0, MD5.1, &key(1, b"")), Outcome::Same, "the second still wants it");
    assert!(a.has_key(MD5.1, &key(1, b"")));
    assert_eq!(a.set(1, MD5.0, MD5.1, &key(1, b"")), Outcome::Apply);
    assert!(!a.has_key(MD5.1, &key(1, b"")));
    assert_eq!(a.set(1, MD5.0, MD5.1, &key(1, b"")), Outcome::Same, "gone already");
}

#[test]
fn what_is_wanted_is_bounded_and_the_last_value_counts() {
    let mut w = Wanted::default();
    assert!(w.set(TTL.0, TTL.1, &[1]));
    assert!(w.set(TTL.0, TTL.1, &[2]));
    assert_eq!(w.iter().collect::<Vec<_>>(), [(TTL.0, TTL.1, &[2][..])]);
    for i in 0..MAX_AGREED as u8 - 1 {
        assert!(w.set(MD5.0, MD5.1, &key(i, b"k")));
    }
    assert!(!w.set(MD5.0, MD5.1, &key(200, b"k")), "too many");
    assert!(w.set(MD5.0, MD5.1, &key(3, b"")), "taking one away makes room");
    assert!(w.set(MD5.0, MD5.1, &key(200, b"k")));
}

#[test]
fn reading_a_key_or_the_error_of_the_real_socket_is_refused() {
    assert!(may_read(libc::IPPROTO_TCP, libc::TCP_INFO));
    assert!(may_read(TTL.0, TTL.1));
    assert!(!may_read(MD5.0, MD5.1));
    assert!(!may_read(MD5.0, TCP_MD5SIG_EXT));
    assert!(!may_read(libc::SOL_SOCKET, libc::SO_ERROR));
    assert!(!may_read(libc::SOL_SOCKET, libc::SO_PEERCRED));
}

#[test]
fn a_key_for_a_mapped_address_is_a_key_for_the_ipv4_peer() {
    let mut v = key(0, b"secret");
    v[..FLAGS_AT].fill(0);
    v[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    v[18..24].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
    let plain = key_unmapped(&v);
    assert_eq!(plain[..8], [libc::AF_INET as u8, 0, 0, 0, 192, 0, 2, 7]);
    assert_eq!(key_peer(MD5.1, &v), key_peer(MD5.1, &plain));
    assert!(same_value(MD5.0, MD5.1, &v, &plain));
    assert!(removes_key(&key_removal(&plain)));
    assert!(!key_removal(&plain).windows(6).any(|w| w == b"secret"));
    assert_eq!(key_peer(MD5.1, &v[..100]), None, "too short");
}
