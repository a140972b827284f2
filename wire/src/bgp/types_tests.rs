//! Prefixes in text and on the wire.

use super::*;
use proptest::prelude::*;

#[test]
fn prefixes_are_masked_and_read_from_text() {
    for (text, expected) in [
        ("192.0.2.77/24", Some("192.0.2.0/24")),
        ("192.0.2.77", Some("192.0.2.77/32")),
        ("255.255.255.255/0", Some("0.0.0.0/0")),
        ("192.0.2.255/25", Some("192.0.2.128/25")),
        ("2001:db8:ffff::/33", Some("2001:db8:8000::/33")),
        ("::1", Some("::1/128")),
        ("192.0.2.0/33", None),
        ("::/129", None),
        ("192.0.2/24", None),
        ("192.0.2.0/", None),
        ("", None),
    ] {
        assert_eq!(text.parse::<Prefix>().ok().map(|p| p.to_string()).as_deref(), expected, "{text:?}");
    }
}

#[test]
fn covers_is_the_same_or_more_specific() {
    let covers = |a: &str, b: &str| a.parse::<Prefix>().unwrap().covers(&b.parse().unwrap());
    assert!(
        covers("10.0.0.0/8", "10.1.0.0/16") && covers("10.0.0.0/8", "10.0.0.0/8") && covers("0.0.0.0/0", "10.0.0.0/8")
    );
    assert!(!covers("10.1.0.0/16", "10.0.0.0/8") && !covers("10.0.0.0/8", "11.0.0.0/16"));
    assert!(!covers("::/0", "10.0.0.0/8") && !covers("0.0.0.0/0", "::/0"));
    assert!(covers("2001:db8::/32", "2001:db8:1::/48"));
}

proptest! {
    #[test]
    fn wire_and_text_round_trip(v6: bool, len in 0u8..=130, octets in proptest::collection::vec(any::<u8>(), 0..20)) {
        let family = if v6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST };
        let max = if v6 { 128 } else { 32 };
        let needed = usize::from(len).div_ceil(8);
        match Prefix::from_wire(family, len, &octets) {
            None => prop_assert!(len > max || octets.len() < needed),
            Some(prefix) => {
                prop_assert_eq!((prefix.family(), prefix.len(), prefix.octets().len()), (family, len, needed));
                prop_assert_eq!(Prefix::from_wire(family, len, prefix.octets()), Some(prefix));
                prop_assert_eq!(Prefix::new(prefix.addr(), len), Some(prefix));
                prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
            }
        }
    }
}

#[test]
fn prefixes_are_in_the_order_of_family_address_and_length() {
    let addresses = ["0.0.0.0", "0.0.0.1", "0.1.0.0", "1.0.0.0", "127.255.255.255", "128.0.0.0", "255.255.255.255"];
    let v6 = ["::", "::1", "1::", "7fff::", "8000::", "ffff::ffff"];
    let mut all = Vec::new();
    for address in addresses.iter().chain(&v6).map(|text| text.parse::<IpAddr>().expect("an address")) {
        all.extend((0..=128).filter_map(|len| Prefix::new(address, len)));
    }
    for a in &all {
        for b in &all {
            assert_eq!(a.cmp(b), (a.addr(), a.len()).cmp(&(b.addr(), b.len())), "{a} and {b}");
        }
    }
}
