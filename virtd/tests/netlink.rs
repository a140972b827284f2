//! Route sockets of instances at the driver: a real kernel in a network namespace of the test's own
//! on one side, the shim's part played by hand on the other, the real core and the real kernel's
//! thread between them. Nothing that is malformed gets through, and nobody's silence costs more
//! than its bounds.

mod form;
#[path = "driver/lab.rs"]
#[allow(dead_code, reason = "the tests of the rest of the driver use the whole of it")]
mod lab;
#[path = "driver/route_socket.rs"]
mod route_socket;
use lab::Answer;
use nix::sys::socket::{MsgFlags, send};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use route_socket::*;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use wire::netlink::consts::*;
use wire::netlink::message::Writer;
use wire::netlink::{Header, RouteMessage};
use wire::shim::{ANSWERED_AHEAD, Request, SocketOption, TAKEN_BACK};

const P: &str = "198.51.100.0";
const Q: &str = "203.0.113.0";
/// Beyond RTM_MAX of any kernel of today.
const LAST_TYPE: u16 = 135;

#[test]
fn an_instance_sees_its_own_routes_and_those_of_others_but_not_virtds() {
    in_namespace(|| {
        ip("route add 192.0.2.0/24 via 10.0.2.9 proto static");
        let lab = with_fib(1);
        let shim = lab.shim("i0");
        let mut s = Socket::open(&shim, 1);
        assert_eq!(s.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &blackhole(P)), 0);
        assert_eq!(s.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &blackhole(P)), libc::EEXIST);
        assert_eq!(s.request(RTM_NEWROUTE, NLM_F_CREATE, &blackhole("2001:db8::")), 0);
        wait("the routes to be in the kernel", || {
            ip("route show proto 245").contains(P) && ip("-6 route show proto 245").contains("2001:db8::")
        });
        let dump = s.dump(RTM_GETROUTE, &[0; 12]);
        assert_eq!(destinations(&dump, 245), [""; 0]);
        assert_eq!(destinations(&dump, RTPROT_BIRD), [P, "2001:db8::"]);
        assert_eq!(destinations(&dump, RTPROT_STATIC), ["192.0.2.0"]);
        assert_eq!(dump.iter().filter(|(h, _)| h.kind == NLMSG_DONE).count(), 1);
        assert_eq!(dump.last().unwrap().0.kind, NLMSG_DONE, "its own part comes before the end");
        assert!(dump.iter().all(|(h, _)| h.seq == s.seq));
        assert_eq!(s.request(RTM_DELROUTE, 0, &blackhole(P)), 0);
        assert_eq!(s.request(RTM_DELROUTE, 0, &blackhole(P)), libc::ESRCH);
        wait("the route to go", || !ip("route show proto 245").contains(P));
    });
}

/// Whoever asks for one route gets an answer, also where that route is one of virtd's.
#[test]
fn a_question_about_one_route_is_answered_whose_ever_it_is() {
    in_namespace(|| {
        // An earlier virtd's, which stay until they are confirmed or swept.
        ip("route add 198.51.100.0/24 via 10.0.2.9 proto 245 metric 20");
        ip("-6 route add 2001:db8::/64 via fd00:2::9 proto 245 metric 20");
        let lab = with_fib(1);
        let shim = lab.shim("i0");
        let mut s = Socket::open(&shim, 1);
        for (dst, flags) in [("198.51.100.7", RTM_F_FIB_MATCH), ("198.51.100.7", 0), ("2001:db8::7", 0)] {
            let dst: std::net::IpAddr = dst.parse().unwrap();
            let (family, dst_len) = if dst.is_ipv6() { (AF_INET6, 128) } else { (AF_INET, 32) };
            let ask = RouteMessage { family, dst_len, flags, dst: Some(dst), ..RouteMessage::default() };
            let bytes = s.message(RTM_GETROUTE, 0, &ask.to_payload().unwrap());
            assert!(s.send(&bytes));
            let answers = frames(&s.received());
            assert!(
                answers.iter().any(|(h, _)| h.kind == RTM_NEWROUTE && h.seq == s.seq),
                "{dst} {flags}: {answers:?}"
            );
        }
        drop(lab);
    });
}

/// What the shim has acknowledged is not answered; where it cannot be done the shim is told, and
/// the daemon as of a route that is lost.
#[test]
fn requests_that_have_their_answer_already() {
    in_namespace(|| {
        let lab = with_fib(1);
        let shim = lab.shim("i0");
        let (mut s, mut other) = (Socket::open(&shim, 1), Socket::open(&shim, 2));
        let listens = Socket::open(&shim, 3);
        let groups = 1 << (RTNLGRP_IPV4_ROUTE - 1);
        let bind = Request::NetlinkBind { socket: listens.cookie, port_id: 0, groups };
        assert!(matches!(shim.ask(&bind, &[]), Answer::NetlinkName(..)));
        let next_hop = Some("10.0.2.9".parse().unwrap());
        let dst = Some(P.parse().unwrap());
        let next = RouteMessage { gateway: next_hop, dst, dst_len: 24, ..RouteMessage::default() };
        let to_far = RouteMessage { family: AF_INET, protocol: RTPROT_BIRD, kind: RTN_UNICAST, ..next };
        let payload = to_far.to_payload().unwrap();
        let there = [(RTM_NEWROUTE, NLM_F_CREATE), (RTM_DELROUTE, 0)];
        wait("the link to be known", || there.iter().all(|(kind, flags)| s.request(*kind, *flags, &payload) == 0));
        let mut tell = |kind: u16, flags: u16, payload: &[u8]| {
            let mut bytes = s.message(kind, flags | NLM_F_ACK, payload);
            bytes[12..16].copy_from_slice(&ANSWERED_AHEAD.to_ne_bytes());
            send(s.end.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
            // Whatever is asked next, and wherever, is asked after that.
            let own = destinations(&other.dump(RTM_GETROUTE, &[0; 12]), RTPROT_BIRD);
            (own, s.received())
        };
        let new = NLM_F_CREATE | NLM_F_EXCL;
        let none = Vec::<Vec<u8>>::new();
        let back = vec![TAKEN_BACK.to_vec()];
        assert_eq!(tell(RTM_NEWROUTE, new, &blackhole(P)), (vec![P.to_owned()], none.clone()));
        assert_eq!(tell(RTM_NEWROUTE, new, &blackhole(P)), (vec![P.to_owned()], back.clone()), "is there already");
        assert_eq!(tell(RTM_NEWROUTE, new, &payload), (vec![P.to_owned()], back.clone()), "and is replaced");
        wait("the last word", || ip("route show proto 245").contains(&format!("{P}/24 via 10.0.2.9")));
        listens.received();
        let gateway = Some("10.99.0.1".parse().unwrap());
        let lost = RouteMessage { dst: Some(Q.parse().unwrap()), gateway, ..to_far }.to_payload().unwrap();
        assert_eq!(tell(RTM_NEWROUTE, new, &lost), (vec![P.to_owned()], back.clone()), "nobody knows the gateway");
        let mut told = Vec::new();
        wait("the notification", || {
            told.extend(frames(&listens.received()));
            !told.is_empty()
        });
        assert!(matches!(&told[..], [(h, p)] if h.kind == RTM_DELROUTE && *p == lost), "{told:?}");
        assert_eq!(tell(RTM_DELROUTE, 0, &payload), (vec![], none));
        assert_eq!(tell(RTM_DELROUTE, 0, &payload), (vec![], back), "it is gone, as it should be");
        wait("the route to go", || !ip("route show proto 245").contains(P));
    });
}

#[test]
fn a_dump_that_is_refused_or_overtaken_gets_nothing_of_another() {
    in_namespace(|| {
        for n in 0..100 {
            ip(&format!("route add 172.16.{n}.0/24 via 10.0.2.9 proto static"));
        }
        let lab = with_fib(1);
        let shim = lab.shim("i0");
        let mut s = Socket::open(&shim, 1);
        assert_eq!(s.request(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(P)), 0);
        let strict = 1i32.to_ne_bytes();
        let set = SocketOption { level: libc::SOL_NETLINK, name: NETLINK_GET_STRICT_CHK, value: &strict };
        assert_eq!(shim.ask(&Request::SetOption { socket: s.cookie, option: set }, &[]), Answer::Done);
        // The kernel refuses a dump of routes with a prefix length; what is asked for next is
        // another dump.
        let refused = RouteMessage { family: AF_INET, dst_len: 24, ..RouteMessage::default() }.to_payload().unwrap();
        let answers = s.dump(RTM_GETROUTE, &refused);
        assert!(matches!(&answers[..], [(h, p)] if h.kind == NLMSG_DONE && p[..4] != [0; 4]), "{answers:?}");
        let links = s.dump(RTM_GETLINK, &[0; 16]);
        assert!(links.iter().all(|(h, _)| matches!(h.kind, RTM_NEWLINK | NLMSG_DONE)), "{links:?}");
        // Two in one datagram: the second may be told to wait, but each gets what is its own, once.
        let mut rtmsg = [0; 12];
        rtmsg[0] = AF_INET;
        let mut both = s.message(RTM_GETROUTE, NLM_F_DUMP, &rtmsg);
        let first = s.seq;
        both.extend(s.message(RTM_GETNEXTHOP, NLM_F_DUMP, &[0; 8]));
        assert!(s.send(&both));
        let mut answers = s.rest_of_dump(first);
        if !answers.iter().any(|(h, _)| h.seq == s.seq && matches!(h.kind, NLMSG_DONE | NLMSG_ERROR)) {
            answers.extend(s.rest_of_dump(s.seq));
        }
        let own: Vec<u32> = answers
            .iter()
            .filter(|(h, p)| h.kind == RTM_NEWROUTE && RouteMessage::parse(p).unwrap().protocol == RTPROT_BIRD)
            .map(|(h, _)| h.seq)
            .collect();
        assert_eq!(own, [first]);
    });
}

/// docs/FIB.md, message by message: with well-formed requests of every type nothing but routes and
/// nexthop objects is taken, and the system stays as it is.
#[test]
fn every_type_of_message_goes_the_way_that_is_documented() {
    in_namespace(|| {
        let lab = with_fib(2);
        let shim = lab.shim("i0");
        let mut s = Socket::open(&shim, 1);
        let before = system();
        let mut ways: BTreeMap<u16, i32> = BTreeMap::new();
        for kind in NLMSG_MIN_TYPE..=LAST_TYPE {
            // A family, an index of 2 where links and addresses have it, and zeros.
            for len in [4, 8, 12, 16, 20, 24, 64] {
                let mut payload = vec![0; len];
                payload[0] = AF_INET;
                if let Some(index) = payload.get_mut(4) {
                    *index = 2;
                }
                if kind & 3 == 2 {
                    let bytes = s.message(kind, NLM_F_ACK, &payload);
                    assert!(s.send(&bytes), "type {kind}");
                    let dump = s.message(kind, NLM_F_DUMP, &payload);
                    assert!(s.send(&dump), "type {kind}");
                    s.received();
                    continue;
                }
                for flags in [0, NLM_F_CREATE, NLM_F_CREATE | NLM_F_EXCL, NLM_F_REPLACE] {
                    let errno = s.request(kind, flags, &payload);
                    ways.insert(kind, errno);
                    if !matches!(kind, RTM_NEWROUTE | RTM_DELROUTE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP) {
                        assert_eq!(errno, libc::EOPNOTSUPP, "type {kind}");
                    } else {
                        assert_ne!(errno, 0, "type {kind}: nothing in it can be taken");
                    }
                }
            }
        }
        lab.event("netlink-refused");
        // What is no request is acknowledged and does nothing; so are control messages and what has
        // no family.
        for (kind, flags, payload) in [
            (RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, blackhole(P)),
            (NLMSG_NOOP, NLM_F_ACK | NLM_F_REQUEST, vec![]),
            (RTM_NEWROUTE, NLM_F_ACK | NLM_F_REQUEST, vec![]),
            (RTM_NEWLINK, NLM_F_ACK | NLM_F_REQUEST, vec![]),
        ] {
            let mut bytes = Vec::new();
            let mut w = Writer::message(&mut bytes, kind, flags, 77, 0);
            w.put(&payload);
            w.finish().unwrap();
            assert!(s.send(&bytes));
            let answers = frames(&s.received());
            assert!(matches!(&answers[..], [(h, p)] if h.kind == NLMSG_ERROR && p[..4] == [0; 4]), "{answers:?}");
        }
        assert_eq!(destinations(&s.dump(RTM_GETROUTE, &[0; 12]), RTPROT_BIRD), [""; 0]);
        assert_eq!(system(), before);
        let fib = lab.query(serde_json::json!({ "command": "fib" }));
        assert_eq!(fib["routes"], 0);
        form::assert_form("fib_with_driver", &form::zeroes(fib));
    });
}

/// A valid request with something wrong about it.
fn broken(rng: &mut SmallRng, s: &mut Socket) -> Vec<u8> {
    let dst = ["198.51.100.0", "2001:db8::"][rng.random_range(0..2)];
    let kinds = [RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETROUTE, RTM_GETNEXTHOP, RTM_NEWLINK];
    let flags = [0, NLM_F_CREATE, NLM_F_CREATE | NLM_F_REPLACE, NLM_F_DUMP, NLM_F_ACK][rng.random_range(0..5)];
    let mut bytes = s.message(kinds[rng.random_range(0..kinds.len())], flags, &blackhole(dst));
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(16..bytes.len());
        bytes[at] = rng.random();
    }
    match rng.random_range(0..6) {
        0 => bytes.truncate(rng.random_range(1..bytes.len())),
        1 => bytes[..4].copy_from_slice(&rng.random::<u32>().to_ne_bytes()),
        2 => {
            // Attributes nested as deep as there is room.
            let depth = rng.random_range(1..12_000u16);
            let mut nest = Vec::new();
            for n in (0..depth).rev() {
                nest.extend((4 * (n + 1)).to_ne_bytes());
                nest.extend((rng.random_range(0..40u16) | NLA_F_NESTED).to_ne_bytes());
            }
            bytes.extend(nest);
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
        }
        3 => {
            // An attribute of any type and length, perhaps beyond the end.
            bytes.extend(rng.random::<u16>().to_ne_bytes());
            bytes.extend(rng.random_range(0..40u16).to_ne_bytes());
            let mut some = vec![0; rng.random_range(0..200)];
            rng.fill_bytes(&mut some);
            bytes.extend(some);
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
        }
        4 => {
            let mut all = vec![0; rng.random_range(1..400)];
            rng.fill_bytes(&mut all);
            bytes = all;
        }
        _ => {}
    }
    bytes
}

#[test]
fn malformed_requests_end_in_virtd() {
    in_namespace(|| {
        let lab = with_fib(2);
        let shim = lab.shim("i0");
        let mut s = Socket::open(&shim, 1);
        let before = system();
        let mut rng = SmallRng::seed_from_u64(4);
        for round in 0..4000 {
            let mut bytes = broken(&mut rng, &mut s);
            if round % 10 == 0 {
                // A batch of them.
                while bytes.len() < 60_000 {
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                    bytes.extend(broken(&mut rng, &mut s));
                }
            }
            assert!(s.send(&bytes), "round {round}");
            s.received();
        }
        // A whole datagram of the largest size that virtd takes: headers only, each a request.
        let mut many = Vec::new();
        while many.len() < (512 << 10) - 40 {
            many.extend(s.message(RTM_NEWROUTE, NLM_F_CREATE, &[0; 4]));
        }
        assert!(s.send(&many));
        s.received();
        // Some of it has happened to be a route that drops, which was voted on as any other; of the
        // rest there is nothing.
        s.dump(RTM_GETROUTE, &[0; 12]);
        lab.end_of_turn();
        let after: String = system().lines().filter(|l| !l.contains("proto 245")).map(|l| format!("{l}\n")).collect();
        assert_eq!(after, before);
        for family in ["", "-6 "] {
            let ours = ip(&format!("{family}route show table all proto 245"));
            let drops = |l: &str| ["blackhole", "unreachable", "prohibit", "throw"].iter().any(|k| l.starts_with(k));
            assert!(ours.lines().all(drops), "{ours}");
        }
        // Longer ones, and empty ones, end the socket; the instance opens another.
        many.resize((512 << 10) + 64, 0);
        assert!(!s.send(&many));
        let s = Socket::open(&shim, 2);
        let _ = send(s.end.as_raw_fd(), &[], MsgFlags::MSG_NOSIGNAL);
        wait("the socket to be closed", || send(s.end.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL).is_err());
        let mut s = Socket::open(&shim, 3);
        assert_eq!(s.request(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(Q)), 0);
    });
}

/// Resident memory of this process, octets.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap() * 4096
}

/// A daemon that never reads costs no more than its bounds, is told that something is missing, and
/// can go on.
#[test]
fn a_daemon_that_never_reads_its_answers_is_bounded() {
    in_namespace(|| {
        let lab = with_fib(1);
        let shim = lab.shim("i0");
        let mut s = Socket::open(&shim, 1);
        let mut batch = Vec::new();
        while batch.len() < 400 << 10 {
            batch.extend(s.message(RTM_NEWADDR, NLM_F_ACK, &[AF_INET, 24, 0, 0, 2, 0, 0, 0]));
        }
        assert!(s.send(&batch));
        let before = resident();
        for _ in 0..150 {
            assert!(s.send(&batch));
        }
        // 60 MiB of requests, each with an answer of more than twice its size.
        let grown = resident().saturating_sub(before);
        assert!(grown < 48 << 20, "{} MiB", grown >> 20);
        let mut all = Vec::new();
        wait("ENOBUFS", || {
            all.extend(s.received().into_iter().map(|d| if d.len() == 4 { d } else { vec![] }));
            all.iter().any(|d| d[..] == libc::ENOBUFS.to_le_bytes())
        });
        assert_eq!(s.request(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(Q)), 0);
        // The same with dumps: one waits for another.
        for n in 0..5000u32 {
            let route = blackhole(&format!("10.{}.{}.0", 100 + (n >> 8), n & 255));
            let bytes = s.message(RTM_NEWROUTE, NLM_F_CREATE, &route);
            assert!(s.send(&bytes));
        }
        s.received();
        let before = resident();
        for _ in 0..500 {
            let dump = s.message(RTM_GETROUTE, NLM_F_DUMP, &[0; 12]);
            assert!(s.send(&dump));
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 64 << 20, "{} MiB", grown >> 20);
        // As long as answers to those before still come it is refused (EBUSY).
        let mut last = Vec::new();
        wait("a dump to be answered", || {
            last = s.dump(RTM_GETROUTE, &[0; 12]);
            last.retain(|(h, _)| h.seq == s.seq);
            last.last().is_some_and(|(h, _)| h.kind == NLMSG_DONE)
        });
        assert_eq!(destinations(&last, RTPROT_BIRD).len(), 5001);
    });
}

#[test]
fn sockets_that_close_in_the_middle_leave_nothing_and_there_are_only_so_many() {
    in_namespace(|| {
        let lab = with_fib(1);
        let shim = lab.shim("i0");
        let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        lab.end_of_turn();
        let before = fds();
        for round in 0..20 {
            let mut s = Socket::open(&shim, 100 + round);
            for n in 0..200 {
                let route = s.message(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(&format!("10.100.{n}.0")));
                assert!(s.send(&route));
            }
            let dump = s.message(RTM_GETROUTE, NLM_F_DUMP, &[0; 12]);
            send(s.end.as_raw_fd(), &dump, MsgFlags::empty()).unwrap();
        }
        wait("the fds to be closed", || {
            lab.end_of_turn();
            // Tests beside this one are in this process, too, and may have closed theirs since.
            fds() <= before
        });
        let mut sockets = Vec::new();
        let refused = loop {
            match Socket::try_open(&shim, 1000 + sockets.len() as u64) {
                Ok(s) => sockets.push(s),
                Err(errno) => break errno,
            }
        };
        assert_eq!(refused, libc::ENOBUFS);
        assert!((16..=256).contains(&sockets.len()), "{}", sockets.len());
        assert_eq!(sockets[0].request(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(P)), 0);
        drop(sockets);
        wait("the fds to be closed", || {
            lab.end_of_turn();
            // Tests beside this one are in this process, too, and may have closed theirs since.
            fds() <= before
        });
        Socket::open(&shim, 5000);
    });
}

/// Notifications: of the own virtual kernel to its own sockets that are members, of the real kernel
/// to all, of virtd's routes to none.
#[test]
fn notifications_go_to_whom_they_concern() {
    in_namespace(|| {
        let lab = with_fib(2);
        let (a, b) = (lab.shim("i0"), lab.shim("i1"));
        let (mut writes, hears, other) = (Socket::open(&a, 1), Socket::open(&a, 2), Socket::open(&b, 1));
        let mut votes = Socket::open(&b, 2);
        for (shim, s) in [(&a, &hears), (&b, &other)] {
            let bind = Request::NetlinkBind { socket: s.cookie, port_id: 0, groups: 1 << (RTNLGRP_IPV4_ROUTE - 1) };
            assert!(matches!(shim.ask(&bind, &[]), Answer::NetlinkName(port, _) if port != 0));
        }
        assert_eq!(writes.request(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(P)), 0);
        let heard = |s: &Socket| {
            let mut all = frames(&s.received());
            all.retain(|(h, _)| h.kind == RTM_NEWROUTE);
            (destinations(&all, RTPROT_BIRD), destinations(&all, 245), destinations(&all, RTPROT_STATIC))
        };
        let none: [&str; 0] = [];
        // It comes with the turn that took the request, perhaps after the acknowledgement on the
        // other socket.
        let mut first = (Vec::new(), Vec::new());
        wait("the own notification", || {
            let (own, ours, _) = heard(&hears);
            first.0.extend(own);
            first.1.extend(ours);
            !first.0.is_empty()
        });
        assert_eq!((first.0, first.1), (vec![P.to_owned()], vec![]));
        assert_eq!(votes.request(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(P)), 0);
        wait("the route to be in the kernel", || ip("route show proto 245").contains(P));
        ip("route add 192.0.2.0/24 via 10.0.2.9 proto static");
        let mut all = (Vec::new(), Vec::new());
        wait("the operator's route", || {
            let (own, ours, others) = heard(&other);
            all.0.extend(own);
            all.1.extend(ours);
            others == ["192.0.2.0"]
        });
        assert_eq!(all.0, [P], "its own, and not the other instance's");
        assert_eq!(all.1, none);
    });
}

/// Dumps of a large table come whole and one behind the other, however long the daemon does not
/// read them.
#[test]
fn large_dumps_wait_for_their_reader() {
    const ROUTES: u32 = 60_000;
    in_namespace(|| {
        let lab = with_fib(1);
        let shim = lab.shim("i0");
        let mut s = Socket::open(&shim, 1);
        for from in (0..ROUTES).step_by(1000) {
            let batch = (from..from + 1000).flat_map(|i| {
                let dst = std::net::Ipv4Addr::from(0x0b00_0000 + (i << 8)).to_string();
                s.message(RTM_NEWROUTE, NLM_F_CREATE, &blackhole(&dst))
            });
            let batch: Vec<u8> = batch.collect();
            assert!(s.send(&batch), "closed");
        }
        assert_eq!(frames(&s.received()).len(), 0, "nothing was refused");
        let mut seqs = Vec::new();
        // The kernel itself refuses a third: of the second it has not been asked for all yet.
        for _ in 0..2 {
            let dump = s.message(RTM_GETROUTE, NLM_F_DUMP, &[0; 12]);
            assert!(s.send(&dump), "closed");
            seqs.push(s.seq);
        }
        // What is asked meanwhile is answered.
        let late = s.message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_ACK, &blackhole(P));
        assert!(s.send(&late), "closed");
        let late = s.seq;
        let mut all = s.rest_of_dump(seqs[1]);
        wait("the acknowledgement", || {
            all.extend(frames(&s.received()));
            all.iter().any(|(h, _)| h.seq == late)
        });
        all.retain(|(h, _)| h.seq != late);
        let order: Vec<u32> = all.iter().map(|(h, _)| h.seq).collect();
        assert!(order.is_sorted(), "one behind the other");
        for seq in seqs {
            let dump: Vec<(Header, Vec<u8>)> = all.iter().filter(|(h, _)| h.seq == seq).cloned().collect();
            let own = destinations(&dump, RTPROT_BIRD).iter().filter(|dst| *dst != P).count();
            assert_eq!(own, ROUTES as usize);
            assert_eq!(dump.iter().position(|(h, _)| h.kind == NLMSG_DONE), Some(dump.len() - 1));
        }
    });
}
