//! What is written, and in which form.

use super::*;

#[test]
fn a_thousand_routes() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        let way = via("10.0.0.2", "a0");
        let prefix = |i: u32| format!("20.{}.{}.0/24", i / 256, i % 256);
        b.send((0..1000).map(|i| (key(&prefix(i)), Some(way.clone()))).collect());
        b.wait_for_routes("a thousand routes", 1000);
        assert!(ours().values().all(|r| r["gateway"] == "10.0.0.2" && r["dev"] == "a0" && r["metric"] == 20));
        // The last word counts, whatever came before it.
        let other = via("10.0.1.2", "b0");
        b.send((0..1000).map(|i| (key(&prefix(i)), Some(other.clone()))).collect());
        b.send((0..500).map(|i| (key(&prefix(i)), None)).collect());
        b.wait("half are removed, half replaced", |_| {
            let routes = ours();
            routes.len() == 500 && routes.values().all(|r| r["gateway"] == "10.0.1.2" && r["dev"] == "b0")
        });
        let c = b.counters();
        assert_eq!((c.failed, c.routes), (0, 500));
        b.stop();
        assert_eq!(ours().len(), 500);
    });
}

#[test]
fn every_kind_of_route() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&Fib { reconcile_ms: 100, ..calm() });
        let mut heavy = hop("10.0.1.2", "b0");
        heavy.weight = 1024;
        let mut onlink = hop("192.0.2.1", "a0");
        onlink.onlink = true;
        b.send(vec![
            (key("30.0.0.0/8"), Some(route(&[hop("10.0.0.2", "a0"), hop("10.0.1.2", "b0")]))),
            (key("31.0.0.0/8"), Some(route(&[hop("10.0.0.2", "a0"), heavy]))),
            (key("32.0.0.0/8"), Some(blackhole())),
            (key("33.0.0.0/8"), Some(via("fd00:a::2", "a0"))),
            (key("34.0.0.0/8"), Some(route(&[onlink]))),
            (key("35.0.0.0/8"), Some(via("", "b0"))),
            (key("36.0.0.0/8"), Some(via("10.0.0.3", ""))),
            (key("37.0.0.0/8"), Some(route(&[hop("10.0.0.2", "a0"), hop("fd00:b::2", "b0")]))),
            (key("2001:db8:1::/48"), Some(route(&[hop("fd00:a::2", "a0"), hop("fd00:b::2", "b0")]))),
            (key("2001:db8:2::/48"), Some(blackhole())),
            (key("2001:db8:3::/48"), Some(via("fe80::7", "a0"))),
            (key("2001:db8:4::/48"), Some(via("", "b0"))),
            (FibKey { table: 1000, ..key("38.0.0.0/8") }, Some(via("10.0.0.2", "a0"))),
            (FibKey { tos: 0x10, ..key("39.0.0.0/8") }, Some(via("10.0.0.2", "a0"))),
        ]);
        b.wait_for_routes("all of them", 14);
        let routes = ours();
        assert_eq!(routes["30.0.0.0/8"]["nexthops"].as_array().map(Vec::len), Some(2));
        assert_eq!(routes["31.0.0.0/8"]["nexthops"][1]["weight"], 256);
        assert_eq!(routes["32.0.0.0/8"]["type"], "blackhole");
        assert_eq!(routes["33.0.0.0/8"]["via"]["host"], "fd00:a::2");
        assert_eq!(routes["34.0.0.0/8"]["flags"][0], "onlink");
        assert_eq!(routes["36.0.0.0/8"]["dev"], "a0");
        assert_eq!(routes["2001:db8:1::/48"]["nexthops"].as_array().map(Vec::len), Some(2));
        assert_eq!(routes["2001:db8:2::/48"]["type"], "blackhole");
        // What the kernel makes of them is what was meant: scans find nothing to repair.
        let scans = b.counters().scans;
        b.wait("more scans", |b| b.counters().scans > scans + 3);
        assert_eq!((b.counters().repaired, b.counters().written), (0, 14), "{:#?}", b.news);
        // An IPv6 multipath route is replaced with all its hops, by a single hop and by none.
        b.write("2001:db8:1::/48", via("fd00:b::3", "b0"));
        b.wait("one hop", |_| ours()["2001:db8:1::/48"]["gateway"] == "fd00:b::3");
        b.write("2001:db8:1::/48", route(&[hop("fd00:a::2", "a0"), hop("fd00:b::2", "b0")]));
        b.wait("two hops", |_| ours()["2001:db8:1::/48"]["nexthops"].as_array().map(Vec::len) == Some(2));
        b.write("2001:db8:1::/48", blackhole());
        b.wait("no hop", |_| {
            let text = ip("-6 route show 2001:db8:1::/48");
            text.lines().count() == 1 && text.starts_with("blackhole")
        });
        assert_eq!(b.counters().failed, 0);
    });
}

#[test]
fn what_is_not_possible_now_is_written_when_it_is() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        b.write("40.0.0.0/8", via("172.16.0.2", "a0"));
        b.write("41.0.0.0/8", via("172.17.0.2", "a0"));
        b.wait_for_errno("40.0.0.0/8", Some(libc::ENETUNREACH));
        b.wait_for_errno("41.0.0.0/8", Some(libc::ENETUNREACH));
        ip("addr add 172.16.0.1/24 dev a0");
        b.wait_for_errno("40.0.0.0/8", None);
        assert_eq!(ours().len(), 1);
        // A route to the link of the other's gateway does as well.
        b.write("172.17.0.0/24", via("", "a0"));
        b.wait_for_errno("41.0.0.0/8", None);
        assert_eq!(ours().len(), 3);
        // What cannot replace a route takes it away: there is no vote for the old one any more.
        b.write("40.0.0.0/8", via("172.18.0.2", "a0"));
        b.wait_for_errno("40.0.0.0/8", Some(libc::ENETUNREACH));
        b.wait_for_routes("the old route is gone", 2);
        b.remove("40.0.0.0/8");
        b.wait_for_errno("40.0.0.0/8", None);
        assert_eq!(b.counters().failed, 0);
    });
}

#[test]
fn an_operator_is_told_once_that_many_routes_are_refused() {
    in_fresh_namespace(|| {
        ip("route add 46.0.0.0/8 via 10.0.1.9 metric 20 proto static");
        let mut b = Bench::start(&calm());
        b.write("46.0.0.0/8", via("10.0.0.2", "a0"));
        let way = via("172.16.0.2", "a0");
        b.send((0..600).map(|i| (key(&format!("45.{}.{}.0/24", i / 256, i % 256)), Some(way.clone()))).collect());
        let text = b.wait_for_event("fib-refused");
        let begins =
            "the kernel refuses 600 of the chosen routes, the one to 45.0.0.0/24 among them: Network is unreachable";
        assert!(text.starts_with(begins) && text.contains("`virtctl fib --diff`"), "{text}");
        assert_eq!((b.counters().failed, b.events("fib-accepted").count()), (601, 0));
        // Somebody else's route to the link of the gateway is enough, with no word about links or
        // addresses.
        ip("route add 172.16.0.0/24 dev a0 proto static");
        b.wait_for_routes("all of them", 600);
        let text = b.wait_for_event("fib-accepted");
        assert_eq!(text, "the kernel refuses none of the chosen routes any more");
        assert_eq!((b.counters().failed, b.events("fib-refused").count()), (1, 1));
    });
}

/// `cargo test --release -p virtd --lib measure_200_000 -- --ignored --nocapture`: routes a second,
/// beside `ip -batch`.
#[test]
#[ignore = "a measurement"]
fn measure_200_000_routes() {
    use std::io::Write;
    const COUNT: u32 = 200_000;
    in_fresh_namespace(|| {
        let prefix = |i: u32| format!("{}.{}.{}.0/24", 20 + i / 65536, i / 256 % 256, i % 256);
        let keys: Vec<FibKey> = (0..COUNT).map(|i| key(&prefix(i))).collect();
        let way = via("10.0.0.2", "a0");
        let mut b = Bench::start(&Fib { on_exit: OnExit::Remove, ..calm() });
        b.wait("the first scan", |b| b.counters().scans > 0);
        let begin = Instant::now();
        for some in keys.chunks(500) {
            b.send(some.iter().map(|key| (*key, Some(way.clone()))).collect());
        }
        let done = |b: &Bench| b.counters().written >= u64::from(COUNT);
        while !done(&b) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ours_took = begin.elapsed();
        let c = b.counters();
        println!("written: {ours_took:?}, {:.0} routes/s; {c:?}", f64::from(COUNT) / ours_took.as_secs_f64());
        println!("table: {} octets a route", c.memory / u64::from(COUNT));
        let begin = Instant::now();
        ip("link set b0 down");
        b.wait("a scan", |b| b.counters().scans > c.scans);
        println!("scanned: {:?} with 100 ms of quiet", begin.elapsed());
        let way = via("10.0.0.3", "a0");
        let mut times = Vec::new();
        for (i, key) in keys.iter().take(300).enumerate() {
            let before = b.counters().written;
            let begin = Instant::now();
            b.send(vec![(*key, Some(way.clone()))]);
            while b.counters().written == before {
                std::hint::spin_loop();
            }
            times.push(begin.elapsed());
            if i % 50 == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        times.sort();
        println!("one route: p50 {:?}, p90 {:?}", times[150], times[270]);
        let begin = Instant::now();
        b.stop();
        println!("removed at the end: {:?}", begin.elapsed());

        let mut file = tempfile::NamedTempFile::new().expect("a file");
        for i in 0..COUNT {
            writeln!(file, "route add {} via 10.0.0.2 dev a0 metric 20 proto 245", prefix(i)).expect("room");
        }
        file.flush().expect("room");
        let begin = Instant::now();
        ip(&format!("-batch {}", file.path().display()));
        let took = begin.elapsed();
        println!("ip -batch: {took:?}, {:.0} routes/s", f64::from(COUNT) / took.as_secs_f64());
    });
}

#[test]
fn a_single_route_is_there_when_the_loop_goes_on_and_a_table_does_not_hold_it_up() {
    in_fresh_namespace(|| {
        let mut b = Bench::start(&calm());
        let way = via("10.0.0.2", "a0");
        let (mut n, mut at_once) = (0, 0);
        // The thread reads the kernel first, and may be awake for other reasons; and after one
        // write that was slow the loop leaves all to it for a while.
        let end = Instant::now() + Duration::from_secs(180);
        while at_once < 5 {
            assert!(Instant::now() < end, "{at_once} of {n} routes were there at once");
            b.news.extend(b.line.news.try_iter());
            let prefix = format!("20.{}.{}.0/24", n / 256, n % 256);
            n += 1;
            b.write(&prefix, way.clone());
            if b.counters().written == n {
                at_once += 1;
                assert!(ours().contains_key(&prefix));
            }
            std::thread::sleep(Duration::from_millis(15));
        }
        b.remove("20.0.0.0/24");
        b.wait("it to be removed", |_| !ours().contains_key("20.0.0.0/24"));
        let batches = b.counters().batches;
        b.send((0..1000).map(|i| (key(&format!("21.{}.{}.0/24", i / 256, i % 256)), Some(way.clone()))).collect());
        let rest = usize::try_from(n).expect("few") - 1;
        b.wait_for_routes("a thousand more", 1000 + rest);
        assert!(b.counters().batches >= batches + 4, "many go in one send, not all in one");
        // Refused, it is told as ever.
        b.write("22.0.0.0/24", via("10.77.0.1", "a0"));
        b.wait_for_failure("22.0.0.0/24");
        b.stop();
    });
}

#[test]
fn where_the_loop_has_lost_the_worker_nobody_waits_for_it() {
    in_fresh_namespace(|| {
        let bench = Bench::start(&calm());
        drop(bench.line.slot.recv().expect("the thread sleeps"));
        assert_eq!(bench.line.send(Vec::new()), Err(Ended));
        bench.stop();
    });
}
