//! What others do to the kernel, and what earlier and later virtds find there.

use super::*;
use broker::io::Change;
use broker::io::Link;

#[test]
fn what_is_deleted_by_hand_comes_back() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        b.write("50.0.0.0/8", via("10.0.0.2", "a0"));
        b.write("2001:db8:5::/48", route(&[hop("fd00:a::2", "a0"), hop("fd00:b::2", "b0")]));
        b.wait_for_routes("two", 2);
        ip("route del 50.0.0.0/8 proto 245");
        let text = b.wait_for_event("fib-repaired");
        assert!(text.contains("50.0.0.0/8") && text.contains("deleted by somebody else"), "{text}");
        assert_eq!(ours().len(), 2);
        // One hop of two.
        ip("-6 route del 2001:db8:5::/48 via fd00:b::2 dev b0 proto 245");
        b.wait("the second hop", |b| {
            b.counters().repaired == 2 && ours()["2001:db8:5::/48"]["nexthops"].as_array().map(Vec::len) == Some(2)
        });
        // Changed, still under our protocol's number.
        ip("route change 50.0.0.0/8 via 10.0.0.9 metric 20 proto 245");
        b.wait("changed back", |b| b.counters().repaired == 3 && ours()["50.0.0.0/8"]["gateway"] == "10.0.0.2");
        // Not ours to have.
        ip("route add 51.0.0.0/8 via 10.0.0.9 metric 20 proto 245");
        b.wait("an impostor is removed", |b| b.counters().repaired == 4 && ours().len() == 2);
    });
}

#[test]
fn a_flush_is_repaired() {
    in_fresh_namespace(|| {
        // ip flushes until nothing is left, up to ten times: what was repaired thrice waits for the
        // reconciliation.
        let mut b = Bench::start(&Fib { reconcile_ms: 500, ..calm() });
        let way = via("10.0.0.2", "a0");
        b.send((0..300).map(|i| (key(&format!("52.{}.{}.0/24", i / 256, i % 256)), Some(way.clone()))).collect());
        b.wait_for_routes("all", 300);
        let _ = run_ip("route flush proto 245");
        b.wait("all are back", |b| b.counters().repaired >= 300 && ours().len() == 300);
        let text = b.wait_for_event("fib-repaired");
        assert!(text.contains("was deleted by somebody else"), "{text}");
        assert!(b.events("fib-repaired").count() < 100);
    });
}

#[test]
fn a_fight_over_a_route_ends() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        b.write("53.0.0.0/8", via("10.0.0.2", "a0"));
        b.write("54.0.0.0/8", via("10.0.0.2", "a0"));
        b.wait_for_routes("both", 2);
        let begin = Instant::now();
        for _ in 0..3 {
            ip("route del 53.0.0.0/8 proto 245");
            b.wait_for_routes("it is back", 2);
        }
        // Now it is left to the reconciliation, which is an hour from now; that another one is
        // repaired shows that this was looked at before.
        ip("route del 53.0.0.0/8 proto 245");
        ip("route del 54.0.0.0/8 proto 245");
        b.wait("the other is back", |_| ours().contains_key("54.0.0.0/8"));
        if begin.elapsed() < Duration::from_secs(10) {
            assert_eq!((ours().len(), b.counters().repaired), (1, 4));
        }
        // A link's change makes it look too.
        ip("link set b0 down");
        b.wait_for_routes("both again", 2);
    });
}

#[test]
fn links_and_addresses_that_go_and_come() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        let a0 = index_of("a0");
        let up = Link { index: a0, name: "a0".into(), up: true, running: true };
        b.wait("the link", |b| b.news.contains(&KernelNews::Change(Change::Link(up.clone()))));
        let address = "10.0.0.1".parse::<IpAddr>().expect("an address");
        let here = KernelNews::Change(Change::Address { index: a0, address, length: 24 });
        b.wait("its address", |b| b.news.contains(&here));
        b.write("60.0.0.0/8", via("10.0.0.2", "a0"));
        b.write("2001:db8:6::/48", via("fd00:a::2", "a0"));
        b.write("61.0.0.0/8", via("10.0.1.2", "b0"));
        b.wait_for_routes("three", 3);
        ip("link set a0 down");
        b.wait_for_failure("60.0.0.0/8");
        b.wait("IPv6 too", |b| b.counters().failed == 2);
        assert_eq!(ours().len(), 1);
        ip("link set a0 up");
        // Its IPv6 addresses went with it.
        b.wait_for_errno("60.0.0.0/8", None);
        ip("addr add fd00:a::1/64 dev a0 nodad");
        b.wait_for_errno("2001:db8:6::/48", None);
        assert_eq!(ours().len(), 3);
        ip("addr del 10.0.0.1/24 dev a0");
        b.wait_for_failure("60.0.0.0/8");
        let gone = KernelNews::Change(Change::AddressGone { index: a0, address, length: 24 });
        assert!(b.news.contains(&gone));
        ip("addr add 10.0.0.1/24 dev a0");
        b.wait_for_errno("60.0.0.0/8", None);
        assert_eq!((ours().len(), b.counters().failed), (3, 0));
        ip("link del b0");
        let b0_gone = |n: &KernelNews| matches!(n, KernelNews::Change(Change::LinkGone { .. }));
        b.wait("b0 is gone", |b| b.news.iter().any(b0_gone));
        b.wait_for_failure("61.0.0.0/8");
    });
}

#[test]
fn leftovers_are_adopted_replaced_or_swept() {
    in_fresh_namespace(|| {
        let mut first = Bench::start(&calm());
        for prefix in ["70.0.0.0/8", "71.0.0.0/8", "72.0.0.0/8", "2001:db8:7::/48"] {
            let way = if prefix.contains(':') { via("fd00:a::2", "a0") } else { via("10.0.0.2", "a0") };
            first.write(prefix, way);
        }
        first.wait_for_routes("four", 4);
        first.stop();
        assert_eq!(ours().len(), 4);
        // Of a virtd with another metric.
        ip("route add 73.0.0.0/8 via 10.0.0.2 metric 50 proto 245");

        let mut second = Bench::start(&Fib { sweep_ms: 3_000, ..calm() });
        second.write("70.0.0.0/8", via("10.0.0.2", "a0"));
        second.write("2001:db8:7::/48", via("fd00:a::2", "a0"));
        second.write("71.0.0.0/8", via("10.0.1.2", "b0"));
        second.wait("the one that differs is replaced", |_| ours()["71.0.0.0/8"]["gateway"] == "10.0.1.2");
        assert_eq!((second.counters().written, second.counters().adopted), (1, 2));
        let text = second.wait_for_event("fib-swept");
        assert!(text.starts_with("2 routes"), "{text}");
        let text = second.wait_for_event("fib-adopted");
        assert!(text.starts_with("2 routes"), "{text}");
        let left: Vec<String> = ours().into_keys().collect();
        assert_eq!(left, ["2001:db8:7::/48", "70.0.0.0/8", "71.0.0.0/8"]);
        assert_eq!((second.counters().swept, second.counters().repaired), (2, 0));
    });
}

/// While nothing is decided on them yet, they stay, however long that takes.
#[test]
fn what_an_earlier_one_left_is_not_swept_while_it_is_held() {
    in_fresh_namespace(|| {
        ip("route add 74.0.0.0/8 via 10.0.0.2 metric 20 proto 245");
        let mut b = Bench::start(&Fib { sweep_ms: 100, ..calm() });
        b.line.hold(true);
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        assert_eq!(ours().len(), 1);
        b.line.hold(false);
        let text = b.wait_for_event("fib-swept");
        assert!(text.starts_with("1 routes"), "{text}");
        assert_eq!(ours().len(), 0);
    });
}

#[test]
fn on_exit_remove_leaves_nothing() {
    in_fresh_namespace(|| {
        ip("route add 80.0.0.0/8 via 10.0.0.2 metric 50 proto 245");
        ip("route add 81.0.0.0/8 via 10.0.0.2 metric 20 proto 245");
        ip("route add 82.0.0.0/8 via 10.0.0.2 metric 20 proto static");
        let b = Bench::start(&Fib { on_exit: OnExit::Remove, ..calm() });
        b.send(
            (0..500).map(|i| (key(&format!("83.{}.{}.0/24", i / 256, i % 256)), Some(via("10.0.0.2", "a0")))).collect(),
        );
        b.write("2001:db8:8::/48", route(&[hop("fd00:a::2", "a0"), hop("fd00:b::2", "b0")]));
        b.stop();
        assert_eq!(ours().len(), 0);
        assert_eq!(routes_of("static").len(), 1);
    });
}

#[test]
fn a_foreign_route_stays() {
    in_fresh_namespace(|| {
        ip("route add 90.0.0.0/8 via 10.0.1.9 metric 20 proto static");
        ip("-6 route add 2001:db8:9::/48 via fd00:b::9 metric 20 proto static");
        let mut b = Bench::start(&calm());
        b.write("90.0.0.0/8", via("10.0.0.2", "a0"));
        b.write("2001:db8:9::/48", via("fd00:a::2", "a0"));
        b.wait_for_errno("90.0.0.0/8", Some(libc::EEXIST));
        b.wait_for_errno("2001:db8:9::/48", Some(libc::EEXIST));
        let text = b.wait_for_event("fib-foreign");
        assert!(text.contains("90.0.0.0/8") || text.contains("2001:db8:9::/48"), "{text}");
        assert_eq!((routes_of("static").len(), ours().len()), (2, 0));
        // Not when the vote changes either; and another metric is in nobody's way.
        b.write("90.0.0.0/8", via("10.0.1.2", "b0"));
        ip("route add 91.0.0.0/8 via 10.0.1.9 metric 21 proto static");
        b.write("91.0.0.0/8", via("10.0.1.2", "b0"));
        b.wait_for_routes("ours beside it", 1);
        assert_eq!(routes_of("static")["90.0.0.0/8"]["gateway"], "10.0.1.9");
        // When it goes, ours takes its place.
        ip("route del 90.0.0.0/8 proto static");
        b.wait_for_errno("90.0.0.0/8", None);
        assert_eq!(ours()["90.0.0.0/8"]["gateway"], "10.0.1.2");
        // An operator puts one in place of ours: it is theirs.
        ip("route replace 91.0.0.0/8 via 10.0.1.7 metric 20 proto static");
        b.wait_for_errno("91.0.0.0/8", Some(libc::EEXIST));
        assert!(ip("route show 91.0.0.0/8").contains("via 10.0.1.7 dev b0 proto static metric 20"));
        // One that stands in front of ours is not replaced in its stead.
        b.write("92.0.0.0/8", via("10.0.1.2", "b0"));
        b.wait("92", |_| ours().contains_key("92.0.0.0/8"));
        ip("route prepend 92.0.0.0/8 via 10.0.1.6 metric 20 proto static");
        b.write("92.0.0.0/8", via("10.0.0.2", "a0"));
        b.wait_for_errno("92.0.0.0/8", Some(libc::EEXIST));
        assert_eq!(routes_of("static")["92.0.0.0/8"]["gateway"], "10.0.1.6");
    });
}

#[test]
fn the_reconciliation_finds_what_nobody_said() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&Fib { reconcile_ms: 200, ..calm() });
        b.write("95.0.0.0/8", via("10.0.0.2", "a0"));
        b.wait_for_routes("one", 1);
        // Past the limit on repairs at once.
        for _ in 0..8 {
            let _ = run_ip("route del 95.0.0.0/8 proto 245");
            b.wait("back", |_| ours().len() == 1);
        }
        assert_eq!(b.counters().failed, 0);
    });
}

#[test]
fn lost_notifications_are_made_good() {
    use std::io::Write;
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        b.write("96.0.0.0/8", via("10.0.0.2", "a0"));
        b.write("2001:db8:a::/48", via("fd00:a::2", "a0"));
        b.wait_for_routes("both", 2);
        // The loop takes no news: the thread waits for it, and the kernel's notifications pile up.
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        for i in 0..MAX_NEWS + 100 {
            writeln!(file, "addr add 10.9.{}.{}/32 dev b0", i / 250, i % 250 + 1).expect("room");
        }
        for i in 0..40_000 {
            writeln!(file, "route add 97.{}.{}.0/24 dev b0", i / 256, i % 256).expect("room");
        }
        writeln!(file, "route del 96.0.0.0/8 proto 245").expect("room");
        writeln!(file, "route del 2001:db8:a::/48 proto 245").expect("room");
        writeln!(file, "addr del 10.0.1.1/24 dev b0").expect("room");
        file.flush().expect("room");
        ip(&format!("-batch {}", file.path().display()));
        assert_eq!(ours().len(), 0);
        b.wait_for_event("fib-resync");
        b.wait_for_routes("both again", 2);
        let address: IpAddr = "10.0.1.1".parse().expect("an address");
        b.wait("what went unseen", |b| {
            b.news
                .iter()
                .any(|n| matches!(n, KernelNews::Change(Change::AddressGone { address: a, .. }) if *a == address))
        });
        let told =
            b.news.iter().filter(|n| matches!(n, KernelNews::Change(Change::Address { length: 32, .. }))).count();
        assert_eq!(told, MAX_NEWS + 100);
    });
}

#[test]
fn routes_of_others_are_told_of() {
    use broker::io::{OtherRoute, Place};
    in_fresh_namespace(|| {
        let mut b = Bench::start(&Fib { reconcile_ms: 300, ..calm() });
        let a0 = index_of("a0");
        let link = |metric, protocol| OtherRoute {
            protocol,
            kind: 1,
            scope: 253,
            metric,
            object: false,
            hops: vec![(a0, false)],
        };
        let whole = |b: &Bench, prefix: &str| {
            let all = b.news.iter().rev().find_map(|n| match n {
                KernelNews::Change(Change::Routes(all)) => all.as_ref(),
                _ => None,
            });
            all.is_some_and(|all| all.iter().any(|(k, _)| *k == key(prefix)))
        };
        b.wait("the subnets", |b| whole(b, "10.0.0.0/24"));
        ip("route add 60.0.0.0/8 dev a0 proto static metric 5");
        let made = KernelNews::Change(Change::Route { key: key("60.0.0.0/8"), route: link(5, 4), place: Place::First });
        b.wait("a route of link scope", |b| b.news.contains(&made));
        // One over a gateway leads to no gateway in IPv4; in IPv6 it stands in the way of one.
        ip("route add 61.0.0.0/8 via 10.0.0.2 proto static");
        ip("-6 route add 2001:db8:6::/48 proto static nexthop via fd00:a::2 dev a0 nexthop via fd00:b::2 dev b0");
        let of = |b: &Bench, prefix: &str| {
            let it =
                |n: &&KernelNews| matches!(n, KernelNews::Change(Change::Route { key: k, .. }) if *k == key(prefix));
            b.news.iter().filter(it).count()
        };
        b.wait("both hops", |b| of(b, "2001:db8:6::/48") == 2);
        assert_eq!(of(&b, "61.0.0.0/8"), 0);
        ip("route del 60.0.0.0/8 dev a0 proto static metric 5");
        let gone = KernelNews::Change(Change::RouteGone { key: key("60.0.0.0/8"), route: link(5, 4) });
        b.wait("it goes", |b| b.news.contains(&gone));
        // The whole is told again after that, and not told where nothing has changed since.
        b.wait("all in one", |b| whole(b, "2001:db8:6::/48") && !whole(b, "60.0.0.0/8"));
        let count = |b: &Bench| b.news.iter().filter(|n| matches!(n, KernelNews::Change(Change::Routes(_)))).count();
        let (before, scans) = (count(&b), b.counters().scans);
        b.wait("two scans more", |b| b.counters().scans >= scans + 2);
        assert_eq!(count(&b), before);
        // Ours are no others'.
        b.write("62.0.0.0/8", via("10.0.0.2", "a0"));
        b.wait_for_routes("ours", 1);
        assert_eq!(of(&b, "62.0.0.0/8"), 0);
    });
}
