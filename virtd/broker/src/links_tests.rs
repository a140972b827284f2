//! Each case is a list of lines: what the kernel says and when (ms), or a question and its answer.
//!
//! ```text
//! 5 link 2 n1 up|down|nocarrier      5 gone 2       5 addr 2 10.0.1.1/24      5 noaddr 2 10.0.1.1/24
//! 5 path 192.0.2.9                   5 read         5 forget
//! PEER from LOCAL: changed 5|never, up|the words of `cut`
//! ```
//! `-` is an unknown local address, `fe80::2%2` an address on link 2. `read`: all that was there
//! before has been told.

use super::*;
use crate::io::Change;
use std::net::{Ipv6Addr, SocketAddrV6};

/// Two links to neighbours, with IPv4 and IPv6, and the loopback interface.
const TWO_LINKS: &[&str] = &[
    "0 link 1 lo up",
    "0 link 2 n1 up",
    "0 link 3 n2 up",
    "0 addr 1 127.0.0.1/8",
    "0 addr 1 ::1/128",
    "0 addr 1 10.255.0.1/32",
    "0 addr 2 10.0.1.1/24",
    "0 addr 2 fd00:1::1/64",
    "0 addr 2 fe80::1/64",
    "0 addr 3 10.0.2.1/24",
    "0 addr 3 fe80::1/64",
    "0 read",
];

fn news(words: &[&str]) -> Option<KernelNews> {
    let subnet = |text: &str| {
        let (address, length) = text.split_once('/').expect("an address with a length");
        (address.parse::<IpAddr>().expect(address), length.parse::<u8>().expect(length))
    };
    let index = |text: &str| text.parse::<u32>().expect(text);
    Some(match *words {
        ["link", i, name, state] => KernelNews::Change(Change::Link(Link {
            index: index(i),
            name: name.into(),
            up: state != "down",
            running: state == "up",
        })),
        ["gone", i] => KernelNews::Change(Change::LinkGone { index: index(i) }),
        ["addr", i, of] => {
            KernelNews::Change(Change::Address { index: index(i), address: subnet(of).0, length: subnet(of).1 })
        }
        ["noaddr", i, of] => {
            KernelNews::Change(Change::AddressGone { index: index(i), address: subnet(of).0, length: subnet(of).1 })
        }
        ["path", peer] => KernelNews::Path { peer: peer.parse().expect(peer) },
        ["read"] => KernelNews::LinksRead,
        _ => return None,
    })
}

fn end(text: &str) -> End {
    match text.split_once('%') {
        Some((ip, zone)) => {
            let (ip, zone) = (ip.parse::<Ipv6Addr>().expect(ip), zone.parse().expect(zone));
            SocketAddr::V6(SocketAddrV6::new(ip, 0, 0, zone)).into()
        }
        None => text.parse::<IpAddr>().expect(text).into(),
    }
}

fn run(name: &str, before: &[&str], lines: &[&str]) {
    let mut links = Links::new();
    for line in before.iter().chain(lines) {
        if let Some((question, answer)) = line.split_once(": ") {
            let (peer, local) = question.split_once(" from ").expect("a peer and a local address");
            let (peer, local) = (end(peer), local.parse().ok());
            let changed = links.changed(peer, local).map_or("never".to_owned(), |us| (us / 1000).to_string());
            let cut = links.cut(peer, local).unwrap_or_else(|| "up".to_owned());
            assert_eq!(format!("changed {changed}, {cut}"), answer, "{name}: {line}");
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let (at, rest) = words.split_first().expect("a time");
        let now = at.parse::<Micros>().expect(at) * 1000;
        match news(rest) {
            Some(news) => links.take(&news, now),
            None => links.forget(now),
        }
    }
}

#[test]
fn what_was_there_before_is_no_change() {
    run(
        "the first reading",
        TWO_LINKS,
        &[
            "10.0.1.2 from 10.0.1.1: changed never, up",
            "192.0.2.9 from 10.255.0.1: changed never, up",
            "fe80::2%2 from fe80::1: changed never, up",
            // Never seen at all: nothing is known to be wrong.
            "10.0.1.2 from 10.9.9.9: changed never, up",
            "5 addr 2 10.0.1.1/24",
            "5 link 2 renamed up",
            "10.0.1.2 from 10.0.1.1: changed never, up",
        ],
    );
    run(
        "a change in the midst of it",
        &["0 link 2 n1 up", "0 addr 2 10.0.1.1/24"],
        &["3 link 2 n1 down", "10.0.1.2 from 10.0.1.1: changed 3, the link n1 is down"],
    );
    run("nothing known", &[], &["10.0.1.2 from 10.0.1.1: changed never, up", "10.0.1.2 from -: changed never, up"]);
}

#[test]
fn a_link_that_goes_down_cuts_who_is_on_it() {
    run(
        "down and up",
        TWO_LINKS,
        &[
            "5 link 2 n1 down",
            "10.0.1.2 from 10.0.1.1: changed 5, the link n1 is down",
            "10.0.1.2 from 10.255.0.1: changed 5, the link n1 is down",
            "fd00:1::2 from fd00:1::1: changed 5, the link n1 is down",
            "fe80::2%2 from fe80::1: changed 5, the link n1 is down",
            // Another link's peers have nothing to do with it.
            "10.0.2.2 from 10.0.2.1: changed never, up",
            "fe80::2%3 from fe80::1: changed never, up",
            // Who is not directly connected may have.
            "192.0.2.9 from 10.255.0.1: changed 5, up",
            "fe80::2 from fe80::1: changed 5, up",
            "9 link 2 n1 up",
            "10.0.1.2 from 10.0.1.1: changed 9, up",
        ],
    );
    run(
        "no carrier",
        TWO_LINKS,
        &["5 link 2 n1 nocarrier", "10.0.1.2 from 10.0.1.1: changed 5, the link n1 has no carrier"],
    );
    run(
        "IPv6 addresses go with it",
        TWO_LINKS,
        &[
            "5 noaddr 2 fd00:1::1/64",
            "5 noaddr 2 fe80::1/64",
            "6 link 2 n1 down",
            "fd00:1::2 from fd00:1::1: changed 6, the link n1 is down",
            "fd00:1::2 from -: changed 6, the link n1 is down",
            "fe80::2%2 from fe80::1: changed 6, the link n1 is down",
            "8 link 2 n1 up",
            "fd00:1::2 from fd00:1::1: changed 8, no interface has fd00:1::1 any more",
            "fe80::2%2 from fe80::1: changed 8, no interface has fe80::1 any more",
            "9 addr 2 fd00:1::1/64",
            "fd00:1::2 from fd00:1::1: changed 9, up",
        ],
    );
    run(
        "gone altogether",
        TWO_LINKS,
        &[
            "5 gone 2",
            "10.0.1.2 from 10.0.1.1: changed 5, the link n1 is gone",
            "10.0.2.2 from 10.0.2.1: changed never, up",
            "7 link 9 n1 up",
            "7 addr 9 10.0.1.1/24",
            "10.0.1.2 from 10.0.1.1: changed 7, up",
        ],
    );
}

#[test]
fn an_address_that_goes_cuts_the_sessions_from_it() {
    run(
        "our own",
        TWO_LINKS,
        &[
            "5 noaddr 2 10.0.1.1/24",
            "10.0.1.2 from 10.0.1.1: changed 5, no interface has 10.0.1.1 any more",
            // A session from another address on that link.
            "fd00:1::2 from fd00:1::1: changed 5, up",
            "10.0.2.2 from 10.0.2.1: changed never, up",
            "8 addr 2 10.0.1.1/24",
            "10.0.1.2 from 10.0.1.1: changed 8, up",
        ],
    );
    run(
        "with another length, or on another link, it is ours all the same",
        TWO_LINKS,
        &[
            "5 noaddr 2 10.0.1.1/24",
            "6 addr 2 10.0.1.1/30",
            "10.0.1.2 from 10.0.1.1: changed 6, up",
            "7 noaddr 2 10.0.1.1/30",
            "7 addr 3 10.0.1.1/24",
            "10.0.1.2 from 10.0.1.1: changed 7, up",
        ],
    );
    run(
        "a loopback address",
        TWO_LINKS,
        &[
            "5 noaddr 1 10.255.0.1/32",
            "192.0.2.9 from 10.255.0.1: changed 5, no interface has 10.255.0.1 any more",
            "192.0.2.9 from 10.0.2.1: changed never, up",
        ],
    );
}

#[test]
fn a_peer_on_this_host_needs_no_link() {
    run(
        "loopback",
        TWO_LINKS,
        &[
            "5 link 1 lo down",
            "127.0.0.2 from 127.0.0.1: changed 5, up",
            "::1 from ::1: changed 5, up",
            "6 link 2 n1 down",
            "127.0.0.2 from 127.0.0.3: changed 5, up",
            // Our own address on a link that is down.
            "10.0.1.1 from 10.0.1.1: changed 6, up",
        ],
    );
    run(
        "a subnet on lo is local as a whole",
        TWO_LINKS,
        &[
            "5 addr 1 198.51.100.1/24",
            "6 addr 2 198.51.100.7/24",
            "7 noaddr 2 198.51.100.7/24",
            "198.51.100.9 from 198.51.100.7: changed 7, up",
        ],
    );
}

#[test]
fn the_longest_subnet_says_which_link_it_is() {
    run(
        "a subnet inside another",
        TWO_LINKS,
        &[
            "1 addr 3 10.0.0.1/16",
            "2 link 3 n2 down",
            "10.0.1.2 from 10.0.1.1: changed never, up",
            "10.0.9.2 from 10.0.0.1: changed 2, the link n2 is down",
        ],
    );
    run(
        "two links into one subnet: one of them is enough",
        TWO_LINKS,
        &[
            "1 addr 3 10.0.1.9/24",
            "2 link 2 n1 down",
            "10.0.1.2 from -: changed 2, up",
            "3 link 3 n2 nocarrier",
            "10.0.1.2 from -: changed 3, the link n1 is down",
        ],
    );
    run(
        "a new address elsewhere once the old one has gone",
        TWO_LINKS,
        &[
            "1 link 2 n1 down",
            "2 noaddr 2 10.0.1.1/24",
            "3 addr 3 10.0.1.1/24",
            "10.0.1.2 from 10.0.1.1: changed 3, up",
        ],
    );
}

#[test]
fn routes_count_for_the_peer_that_they_lead_to() {
    run(
        "a path",
        TWO_LINKS,
        &[
            "4 path 192.0.2.9",
            "192.0.2.9 from 10.255.0.1: changed 4, up",
            "192.0.2.10 from 10.255.0.1: changed never, up",
            "10.0.1.2 from 10.0.1.1: changed never, up",
        ],
    );
}

#[test]
fn what_has_been_gone_for_long_is_forgotten() {
    run(
        "by time",
        TWO_LINKS,
        &[
            "1000 gone 2",
            "2000 noaddr 3 10.0.2.1/24",
            "600999 forget",
            "10.0.1.2 from 10.0.1.1: changed 1000, the link n1 is gone",
            "601000 forget",
            "10.0.1.2 from 10.0.1.1: changed 1000, up",
            "10.0.2.2 from 10.0.2.1: changed 2000, no interface has 10.0.2.1 any more",
            "602000 forget",
            // Nobody knows any more that it was directly connected.
            "10.0.2.2 from 10.0.2.1: changed 1000, up",
        ],
    );
    run(
        "what has come back is not",
        TWO_LINKS,
        &[
            "1000 noaddr 2 10.0.1.1/24",
            "2000 addr 2 10.0.1.1/24",
            "601000 forget",
            "601500 noaddr 2 10.0.1.1/24",
            "602000 forget",
            "10.0.1.2 from 10.0.1.1: changed 601500, no interface has 10.0.1.1 any more",
        ],
    );
    let mut links = Links::new();
    let count = u32::try_from(MAX_GONE).unwrap() * 2;
    for index in 2..count {
        let link = Link { index, name: format!("ppp{index}"), up: true, running: true };
        links.take(&KernelNews::Change(Change::Link(link)), 0);
        let [.., a, b] = index.to_be_bytes();
        links.take(
            &KernelNews::Change(Change::Address { index, address: Ipv4Addr::new(10, a, b, 1).into(), length: 24 }),
            0,
        );
        links.take(&KernelNews::Change(Change::LinkGone { index }), 1);
    }
    assert!(links.gone.len() <= MAX_GONE, "{}", links.gone.len());
    assert!(links.links.len() + links.addresses.len() <= MAX_GONE, "{} links", links.links.len());
}
