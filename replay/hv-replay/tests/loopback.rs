//! `hv-replay` against itself over loopback.

mod common;

use common::{HvReplay, json};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name")
}

#[test]
fn a_generated_table_arrives_whole_and_the_same_each_time() {
    let dir = dir();
    for (table, families) in [("a.json", "ipv4,ipv6"), ("b.json", "ipv4,ipv6"), ("c.json", "ipv4")] {
        let (table, summary) = (dir.path().join(table), dir.path().join("summary.json"));
        let mut monitor = HvReplay::start(
            None,
            &[
                "--listen",
                "127.0.0.1:0",
                "--asn",
                "64502",
                "--until-routes",
                if families == "ipv4" { "4000" } else { "5000" },
                "--table",
                text(&table),
                "--json",
                text(&summary),
            ],
        );
        let addr = monitor.listening();
        let mut feed = HvReplay::start(
            None,
            &[
                "--connect",
                &addr,
                "--asn",
                "64501",
                "--peer-asn",
                "64502",
                "--generate",
                "5000",
                "--ipv6-share",
                "0.2",
                "--families",
                families,
                "--no-extended-message",
            ],
        );
        assert!(monitor.wait().success());
        let summary = json(&summary);
        assert_eq!(summary["malformed_received"], 0, "{summary}");
        assert_eq!(summary["sessions_reset"], 0);
        assert_eq!(summary["prefixes_now"]["ipv6-unicast"], if families == "ipv4" { 0 } else { 1000 });
        assert_eq!(summary["open_received"]["asn"], 64501);
        let down = feed.event("session-down", |_| true);
        assert!(down["why"].as_str().is_some_and(|why| why.contains("6/2")), "{down}");
    }
    let diff = |a: &str, b: &str| {
        let program = env!("CARGO_BIN_EXE_hv-replay");
        Command::new(program).arg("diff").args([dir.path().join(a), dir.path().join(b)]).output().expect("diff runs")
    };
    let same = diff("a.json", "b.json");
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stdout));
    let other = diff("a.json", "c.json");
    assert_eq!(other.status.code(), Some(1));
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(said.contains("5000 and 4000 prefixes: 1000 only in the first"), "{said}");
}

#[test]
fn a_two_octet_session_carries_the_same_routes() {
    let dir = dir();
    for (table, option) in [("a.json", "--no-route-refresh"), ("b.json", "--no-as4")] {
        let table = dir.path().join(table);
        let mut monitor = HvReplay::start(
            None,
            &["--listen", "[::1]:0", "--asn", "64502", "--until-routes", "300", "--table", text(&table)],
        );
        let addr = monitor.listening();
        let _feed = HvReplay::start(
            None,
            &["--connect", &addr, "--asn", "64501", "--generate", "300", "--ipv6-share", "1", option],
        );
        assert!(monitor.wait().success());
    }
    // What is written in two octets stays so in the canonical form; what does not hold a wide AS is
    // the same in words.
    let (a, b) = (json(&dir.path().join("a.json")), json(&dir.path().join("b.json")));
    let (a, b) = (a.as_object().expect("a table"), b.as_object().expect("a table"));
    let mut wide = 0;
    for (prefix, route) in a {
        let path = |r: &serde_json::Value| r["as_path"].as_str().expect("a path").to_owned();
        let (was, is) = (path(route), path(&b[prefix]));
        let narrow =
            |asn: &str| if asn.parse::<u32>().is_ok_and(|n| n > 65535) { "23456".into() } else { asn.to_owned() };
        let expected: Vec<String> = was.split(' ').map(narrow).collect();
        wide += usize::from(is.contains("23456"));
        assert_eq!(is, expected.join(" "), "{prefix}");
    }
    assert!(wide > 100, "{wide} paths with an AS that needs four octets");
}

#[test]
fn a_script_is_followed_as_it_is_typed() {
    let mut monitor = HvReplay::start(
        None,
        &["--listen", "127.0.0.1:0", "--asn", "64502", "--events-updates", "--script", "-", "--reconnect"],
    );
    let addr = monitor.listening();
    let mut feed = HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--script", "-"]);
    feed.event("session-up", |_| true);
    feed.type_line("announce 198.51.100.0/24,203.0.113.0/24 as-path 64999 community 1:2 next-hop 192.0.2.33");
    let update = monitor.event("update", |_| true);
    let announced = &update["announced"][0];
    assert_eq!(announced["prefixes"], serde_json::json!(["198.51.100.0/24", "203.0.113.0/24"]));
    assert_eq!(announced["route"]["as_path"], "64501 64999");
    assert_eq!(announced["route"]["next_hop"], "192.0.2.33");
    assert_eq!(announced["route"]["communities"], serde_json::json!(["1:2"]));
    feed.type_line("withdraw 198.51.100.0/24");
    let update = monitor.event("update", |_| true);
    assert_eq!(update["withdrawn"], serde_json::json!(["198.51.100.0/24"]));
    feed.type_line("eor ipv6");
    assert_eq!(monitor.event("end-of-rib", |_| true)["family"], "ipv6-unicast");

    // A refresh is answered with what stands, between its markers.
    monitor.type_line("refresh ipv4");
    assert_eq!(feed.event("route-refresh", |_| true)["kind"], "request");
    assert_eq!(monitor.event("route-refresh", |_| true)["kind"], "begin");
    let again = monitor.event("update", |_| true);
    assert_eq!(again["announced"][0]["prefixes"], serde_json::json!(["203.0.113.0/24"]));
    assert_eq!(monitor.event("route-refresh", |_| true)["kind"], "end");

    // What is mistyped is said and passed over; what is odd is counted, treated as RFC 7606 says
    // and survived.
    feed.type_line("anounce 10.0.0.0/8");
    feed.type_line("announce 203.0.113.0/24 attribute 0x40 1 03");
    let malformed = monitor.event("malformed", |_| true);
    assert!(malformed["findings"][0].as_str().is_some_and(|f| f.contains("ORIGIN")), "{malformed}");
    assert_eq!(monitor.event("update", |_| true)["withdrawn"], serde_json::json!(["203.0.113.0/24"]));

    feed.type_line("notification 6 4");
    assert_eq!(monitor.event("notification-received", |_| true)["subcode"], 4);
    assert_eq!(feed.wait().code(), Some(0), "ended as the script says");
    // The one that was asked to come back does.
    let mut feed = HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--script", "-"]);
    monitor.event("session-up", |_| true);
    feed.type_line("exit");
    assert_eq!(feed.wait().code(), Some(0));
}

#[test]
fn raw_octets_are_sent_as_they_are_and_bad_ones_end_the_session() {
    let mut monitor = HvReplay::start(None, &["--listen", "127.0.0.1:0", "--asn", "64502", "--events-updates"]);
    let addr = monitor.listening();
    let dir = dir();
    let file = dir.path().join("messages");
    let header = "ff".repeat(16);
    // An End-of-RIB, then a message that is shorter than any.
    std::fs::write(&file, format!("{header} 0017 02 0000 0000\n{header} 0012 02 # too short\n")).expect("written");
    let mut feed = HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--raw", text(&file)]);
    assert_eq!(monitor.event("end-of-rib", |_| true)["family"], "ipv4-unicast");
    let sent = monitor.event("notification-sent", |_| true);
    assert_eq!((&sent["code"], &sent["subcode"]), (&1.into(), &2.into()));
    assert_eq!(feed.event("notification-received", |_| true)["code"], 1);
    assert_eq!(feed.wait().code(), Some(1), "a reset that nobody asked for is a failure");
}

#[test]
fn the_wrong_neighbour_is_refused() {
    let mut monitor =
        HvReplay::start(None, &["--listen", "127.0.0.1:0", "--asn", "64502", "--peer-asn", "64999", "--monitor"]);
    let addr = monitor.listening();
    let mut feed = HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--monitor"]);
    let received = feed.event("notification-received", |_| true);
    assert_eq!((&received["code"], &received["subcode"]), (&2.into(), &2.into()));
    assert_eq!(feed.wait().code(), Some(1));
}

#[test]
fn both_ends_of_one_session_can_be_measured() {
    let dir = dir();
    let (latency, table) = (dir.path().join("latency.json"), dir.path().join("table.json"));
    // Two free ports: the kernel gives one, and it is free again once asked for.
    let port = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    for (path, more) in
        [(&latency, &["--rate", "2000", "--warmup", "10"][..]), (&table, &["--table-run", "--ipv6-share", "0.3"])]
    {
        let port = port();
        let status = Command::new(env!("CARGO_BIN_EXE_hv-replay"))
            .args(["probe", "--count", "200", "--json", text(path)])
            .args(["--feed", &format!("--connect 127.0.0.1:{port} --asn 64501")])
            .args(["--monitor", &format!("--listen 127.0.0.1:{port} --asn 64502")])
            .args(more)
            .env("RUST_LOG", "warn")
            .status();
        assert!(status.expect("the probe runs").success());
    }
    let (latency, table) = (json(&latency), json(&table));
    assert_eq!((&latency["count"], &latency["lost"]), (&200.into(), &0.into()));
    let ns = |name: &str| latency[name].as_u64().expect("a number");
    assert!(0 < ns("min_ns") && ns("p50_ns") <= ns("p99_ns") && ns("p99_ns") <= ns("max_ns"), "{latency}");
    assert_eq!((&table["arrived"], &table["lost"]), (&200.into(), &0.into()));
}

#[test]
fn a_key_must_be_the_same_on_both_sides() {
    let mut monitor =
        HvReplay::start(None, &["--listen", "127.0.0.1:0", "--asn", "64502", "--md5", "secret", "--peer", "127.0.0.1"]);
    let addr = monitor.listening();
    let mut wrong =
        HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--md5", "other", "--duration", "1s"]);
    assert_eq!(wrong.wait().code(), Some(1), "no session without the key");
    let mut feed = HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--md5", "secret"]);
    feed.event("session-up", |_| true);
    monitor.event("session-up", |_| true);
}

/// Real updates of 2019: what is counted on arrival is what bgpdump counts in the file, and the
/// recording, played again, ends in the same table.
#[test]
fn a_real_trace_is_played_and_its_recording_says_the_same() {
    let trace = &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mrt/updates.20190101.0000.gz");
    if !trace.is_file() {
        untested::not_tested("real data, updates.20190101.0000.gz", "it is not in ../shared/data/mrt");
        return;
    }
    let dir = dir();
    let files = |n: usize| ["table", "summary", "record"].map(|f| dir.path().join(format!("{f}{n}")));
    let mut played = trace.to_owned();
    for n in 0..2 {
        let [table, summary, record] = files(n);
        let mut monitor = HvReplay::start(
            None,
            &[
                "--listen",
                "127.0.0.1:0",
                "--asn",
                "64502",
                "--exit-after-idle",
                "5s",
                "--table",
                text(&table),
                "--json",
                text(&summary),
                "--record",
                text(&record),
            ],
        );
        let addr = monitor.listening();
        let mut feed = HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--mrt", text(&played)]);
        feed.event("feed-done", |_| true);
        monitor.wait();
        let summary = json(&summary);
        assert_eq!(summary["prefixes_announced"], 159_948, "{summary}");
        assert_eq!(summary["prefixes_withdrawn"], 2_626);
        assert_eq!(summary["malformed_received"], 0, "{summary}");
        played = record;
    }
    let [a, b] = [0, 1].map(|n| std::fs::read_to_string(&files(n)[0]).expect("written"));
    assert_eq!(a, b);
}

#[test]
fn a_trace_can_be_played_as_fast_as_it_happened_times_n() {
    let dir = dir();
    let file = dir.path().join("trace");
    let eor = |seconds: u32| {
        let message = [&[0xff; 16][..], &[0, 27, 2, 0, 4, 24, 10, 0, (seconds & 255) as u8, 0, 0]].concat();
        let head = [seconds.to_be_bytes(), [0, 16, 0, 4], (20 + message.len() as u32).to_be_bytes()].concat();
        let ends = [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 1], [192, 0, 2, 1], [192, 0, 2, 2]].concat();
        [head, ends, message].concat()
    };
    std::fs::write(&file, [eor(1000), eor(1040)].concat()).expect("written");
    let mut monitor = HvReplay::start(None, &["--listen", "127.0.0.1:0", "--asn", "64502", "--events-updates"]);
    let addr = monitor.listening();
    let _feed = HvReplay::start(None, &["--connect", &addr, "--asn", "64501", "--mrt", text(&file), "--speed", "100"]);
    let at = |event: serde_json::Value| event["ts_us"].as_u64().expect("a time");
    let (first, second) = (at(monitor.event("update", |_| true)), at(monitor.event("update", |_| true)));
    assert!((390_000..5_000_000).contains(&(second - first)), "40 s at 100 times the speed took {} us", second - first);
}

/// Not an empty trace that was played well: the mistake is said, before anybody is dialled.
#[test]
fn a_file_of_which_nothing_can_be_read_is_exit_status_2() {
    let dir = dir();
    let file = dir.path().join("no-trace");
    for content in [&b""[..], b"this is no recording of anything"] {
        std::fs::write(&file, content).expect("written");
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_hv-replay"))
            .args(["--connect", "127.0.0.1:9", "--asn", "64501", "--quiet", "--mrt", text(&file)])
            .output()
            .expect("hv-replay runs");
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{said}");
        assert!(said.contains("nothing in") && said.contains("no-trace"), "{said}");
    }
}
