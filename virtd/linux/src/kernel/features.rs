//! What of Linux virtd counts on, since which version there is such a thing, and what it has to do
//! without where it is missing. Asked of the kernel that is there, by using it: distributions bring
//! features back to older kernels, and leave some out.

use super::socket::{ANSWER_QUEUE, Received, RouteSocket};
use crate::sys;
use std::fs;
use std::io;
use std::net::TcpListener;
use wire::netlink::Frames;
use wire::netlink::consts::*;

/// Of a `struct tcp_md5sig` (linux/tcp.h): where the address' octets, the key's length and the key
/// stand, and the whole.
const MD5_ADDRESS: usize = 4;
const MD5_KEY_LEN: usize = 130;
const MD5_KEY: usize = 136;
const MD5_LEN: usize = 216;
/// Octets of a `struct nhmsg` (linux/nexthop.h).
const NHMSG_LEN: usize = 8;

/// One feature.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// The kernel's word for it.
    pub name: &'static str,
    /// The version of Linux that brought it.
    pub since: &'static str,
    /// What follows where it is missing.
    pub without: &'static str,
    /// Only with `[fib]`.
    pub fib: bool,
    is_there: fn() -> bool,
}

/// All of them; docs/LIMITATIONS.md has them in words.
pub const FEATURES: [Feature; 6] = [
    Feature {
        name: "SO_COOKIE",
        since: "4.12",
        without: "no socket of a daemon can be told from another one, so no instance can take part",
        fib: false,
        is_there: || socket_has(sys::cookie),
    },
    Feature {
        name: "SO_NETNS_COOKIE",
        since: "5.14",
        without: "a daemon that runs in another network namespace than virtd is not noticed",
        fib: false,
        is_there: || socket_has(sys::netns_cookie),
    },
    Feature {
        name: "TCP_MD5SIG",
        since: "2.6.20, with CONFIG_TCP_MD5SIG",
        without: "sessions with an MD5 key do not come up",
        fib: false,
        is_there: has_md5,
    },
    Feature {
        name: "NETLINK_EXT_ACK",
        since: "4.12",
        without: "daemons are not told in words why the kernel refuses something",
        fib: true,
        is_there: || netlink_takes(NETLINK_EXT_ACK),
    },
    Feature {
        name: "NETLINK_GET_STRICT_CHK",
        since: "4.20",
        without: "requests for dumps are not looked at closely: whoever asks for some routes is given all",
        fib: true,
        is_there: || netlink_takes(NETLINK_GET_STRICT_CHK),
    },
    Feature {
        name: "nexthop objects (RTM_GETNEXTHOP)",
        since: "5.3",
        without: "a zebra that asks the kernel for them is told that there are none to be had",
        fib: true,
        is_there: || has_nexthops().unwrap_or(false),
    },
];

/// What is missing of all that a virtd with or without `[fib]` counts on: a sentence, or nothing
/// where nothing is.
pub fn missing(fib: bool) -> Option<String> {
    sentence(fib, |feature| (feature.is_there)())
}

fn sentence(fib: bool, is_there: impl Fn(&Feature) -> bool) -> Option<String> {
    let wanted = FEATURES.iter().filter(|f| fib || !f.fib);
    let words = |f: &Feature| format!("{} (Linux {}): {}", f.name, f.since, f.without);
    let missing: Vec<String> = wanted.filter(|f| !is_there(f)).map(words).collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    (!missing.is_empty()).then(|| format!("this kernel ({}) lacks {}", release.trim(), missing.join("; ")))
}

fn socket_has(number: impl Fn(&TcpListener) -> u64) -> bool {
    // Any socket will do; nobody is told of this one's port.
    TcpListener::bind("127.0.0.1:0").is_ok_and(|socket| number(&socket) != 0)
}

fn has_md5() -> bool {
    let mut value = [0; MD5_LEN];
    value[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    value[MD5_ADDRESS..MD5_ADDRESS + 4].copy_from_slice(&[127, 0, 0, 1]);
    value[MD5_KEY_LEN..MD5_KEY_LEN + 2].copy_from_slice(&1u16.to_ne_bytes());
    value[MD5_KEY] = b'x';
    let set = |socket: TcpListener| sys::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &value);
    TcpListener::bind("127.0.0.1:0").and_then(set).is_ok()
}

fn netlink_takes(option: i32) -> bool {
    let set = |s: RouteSocket| sys::set_option(&s, libc::SOL_NETLINK, option, &1i32.to_ne_bytes());
    RouteSocket::open(&[], ANSWER_QUEUE).and_then(set).is_ok()
}

/// A kernel without them answers EOPNOTSUPP.
fn has_nexthops() -> io::Result<bool> {
    let mut socket = RouteSocket::open(&[], ANSWER_QUEUE)?;
    let seq = socket.ask_dump(RTM_GETNEXTHOP, 0, NHMSG_LEN)?;
    let Received::Datagram(bytes) = socket.receive()? else { return Ok(false) };
    let mut answers = Frames::new(bytes).map_while(Result::ok).filter(|frame| frame.header.seq == seq);
    Ok(answers.all(|frame| frame.header.kind != NLMSG_ERROR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_follows() {
        assert_eq!(sentence(true, |_| true), None);
        let said = sentence(false, |f| f.name != "SO_NETNS_COOKIE").expect("one is missing");
        assert!(said.starts_with("this kernel ("), "{said}");
        assert!(said.ends_with("lacks SO_NETNS_COOKIE (Linux 5.14): a daemon that runs in another network namespace than virtd is not noticed"), "{said}");
        assert_eq!(sentence(false, |f| !f.fib), None, "what only the FIB needs is not missed without one");
        let all = sentence(true, |_| false).expect("all are missing");
        assert!(FEATURES.iter().all(|f| all.contains(f.name)), "{all}");
    }

    /// Each is tried for real; a kernel that is younger than all of them has them.
    #[test]
    fn a_kernel_that_is_new_enough_lacks_nothing() {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
        let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
        if (numbers.next(), numbers.next()) >= (Some(5), Some(14)) {
            assert_eq!(missing(true), None);
        }
    }

    /// The operator's list is this one.
    #[test]
    fn the_documentation_lists_them() {
        let limits = include_str!("../../../../docs/LIMITATIONS.md");
        for f in FEATURES {
            let row = limits.lines().find(|line| line.starts_with(&format!("| {} |", f.name)));
            assert!(row.is_some_and(|row| row.contains(f.since)), "{} since {}", f.name, f.since);
        }
    }
}
