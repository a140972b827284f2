use super::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What virtctl reads.
fn read<T: DeserializeOwned>(v: &Value) -> T {
    serde_json::from_value(v.clone()).unwrap_or_else(|e| panic!("{e}: {v}"))
}

#[test]
fn status_is_a_few_lines() {
    let v = json!({
        "uptime_us": 3_725_000_000u64, "router": { "asn": 65000, "router_id": "192.0.2.255" },
        "strategy": "WaitForConsensus", "k": 2, "t_ms": 10_000, "voters": 3, "sessions_up": 2, "sessions": 3, "instances": 4,
        "instances_attached": 3, "votes": 1234, "updates_in": 5, "updates_out": 6, "disagreements_now": 0,
        "routes_published": 99, "a field of the future": {}
    });
    assert_eq!(
        status(&read(&v)),
        "\
up for         1h02m
router         AS 65000, router id 192.0.2.255
strategy       WaitForConsensus, k = 2, T = 10s
sessions       2 up of 3
instances      3 attached of 4, 3 vote
updates        5 in, 6 out
votes          1234
published      99 routes
disagreements  0 now
"
    );
}

#[test]
fn what_the_operator_must_see_stands_in_the_status() {
    let v = json!({ "majority_split": true,
        "event_log": { "file": "/var/log/x", "failing": "No space left on device (os error 28)", "lost": 7 } });
    let shown = status(&read(&v));
    assert!(shown.contains("\nverdicts       the majority itself is in doubt: nobody is accused"), "{shown}");
    let log = "\nevent log      /var/log/x cannot be written: No space left on device (os error 28); 7 events are not in it\n";
    assert!(shown.contains(log), "{shown}");
    let well = json!({ "majority_split": false, "event_log": { "file": "/var/log/x", "failing": null, "lost": 7 } });
    assert!(!status(&read(&well)).contains("verdicts") && !status(&read(&well)).contains("event log"));
}

#[test]
fn what_differs_is_a_table_with_the_rest_counted() {
    let v = json!({ "more": 812, "all_were_looked_at": false, "without_majority": 9, "differs": [
        { "peer": "192.0.2.2", "prefix": "10.0.0.0/8", "majority": true, "instances": [
            { "instance": "bird", "in": ["NEXT_HOP", "COMMUNITIES"], "counted": true },
            { "instance": "watch", "in": ["route or none"], "counted": false } ] },
        { "peer": "192.0.2.2", "prefix": "11.0.0.0/8", "majority": false, "instances": [
            { "instance": "frr", "in": ["MULTI_EXIT_DISC"], "counted": true } ] } ] });
    assert_eq!(
        differs(&read(&v)),
        "\
PEER       PREFIX      INSTANCE  DIFFERS IN
192.0.2.2  10.0.0.0/8  bird      NEXT_HOP, COMMUNITIES
192.0.2.2  10.0.0.0/8  watch     route or none (not counted)
192.0.2.2  11.0.0.0/8  frr       MULTI_EXIT_DISC (no majority)
... and 812 more
... and others of the 9 prefixes without a majority: not all were looked at
"
    );
}

#[test]
fn sessions_are_a_table() {
    let v = json!({ "sessions": [
        { "peer": "192.0.2.1", "state": "Established", "up_us": 65_000_000u64, "asn": 65001, "hold_time_s": 9,
          "path": "up", "families": ["ipv4-unicast", "ipv6-unicast"], "prefixes_in": 10, "prefixes_out": 7,
          "legs": [{ "instance": "frr", "state": "up", "detail": "" }, { "instance": "bird", "state": "down", "detail": "Cease" }] },
        { "peer": "2001:db8::1", "state": "Idle", "path": "the link n\u{1b}1 is down" }
    ]});
    assert_eq!(
        sessions(&read(&v)),
        "\
PEER         AS     STATE                        UP     HOLD  IN  OUT  FAMILIES                   LEGS
192.0.2.1    65001  Established                  1m05s  9     10  7    ipv4-unicast,ipv6-unicast  frr up, bird down (Cease)
2001:db8::1  -      Idle (the link n\u{fffd}1 is down)  -      -     -   -    -                          -
"
    );
    assert!(sessions(&read(&json!({ "sessions": [] }))).starts_with("no session"));
}

#[test]
fn instances_are_a_table() {
    let v = json!({ "instances": [
        { "name": "frr", "kind": "frr", "version": "8.4.4", "role": "voter", "attached": true, "pids": [12, 13], "state": "voting", "legs_up": 2, "legs": 2,
          "dissents_now": 1, "dissents_total": 40, "last_fault": null, "pinned": true, "cpu_percent": 12.4, "memory_kib": 167_000 },
    ]});
    assert_eq!(
        instances(&read(&v)),
        "\
INSTANCE  VERSION    ROLE           STATE   LEGS  DISSENTS  EVER  CPU  MEMORY  PIDS   LAST FAULT
frr       frr 8.4.4  voter, pinned  voting  2/2   1         40    12%  163M    12 13  -
"
    );
}

#[test]
fn routes_say_who_says_what() {
    let good = json!({ "next_hop": "192.0.2.1", "link_local": null, "origin": "IGP", "as_path": "65001 65002", "med": 0,
        "local_pref": null, "communities": ["65001:1", "65001:2"], "large_communities": [], "other": [] });
    let bad = json!({ "next_hop": "192.0.2.9", "origin": "IGP", "as_path": "" });
    let v = json!({ "prefix": "198.51.100.0/24",
        "received": [{ "peer": "192.0.2.1", "route": good }],
        "sessions": [{ "peer": "192.0.2.2", "published": good, "winner": good, "why": "2 of 3 say so", "said": [
            { "instance": "frr", "route": good, "counted": true, "note": "" },
            { "instance": "openbgpd", "route": bad, "counted": true, "note": "not with the majority" },
            { "instance": "watch", "route": null, "counted": false, "note": "observer" } ] }] });
    assert_eq!(
        routes(&read(&v)),
        "\
198.51.100.0/24
  from 192.0.2.1: via 192.0.2.1, path 65001 65002, IGP, MED 0, communities 65001:1 65001:2
  to 192.0.2.2: via 192.0.2.1, path 65001 65002, IGP, MED 0, communities 65001:1 65001:2
    because 2 of 3 say so
    = frr       via 192.0.2.1, path 65001 65002, IGP, MED 0, communities 65001:1 65001:2
    ! openbgpd  via 192.0.2.9, path empty, IGP  [not with the majority]
      watch     none  [observer]
"
    );
    let nothing = json!({ "prefix": "10.0.0.0/8", "received": [], "sessions": [] });
    assert_eq!(routes(&read(&nothing)), "10.0.0.0/8\n  nobody has said anything about it\n");
}

#[test]
fn diversity_is_a_table_and_a_sentence() {
    let calm = json!({ "instances": ["frr", "bird"], "compared": 400, "disagreed": 0, "share": 0.0, "contested": 0,
        "together": 0, "verdicts": { "either": 0, "common": 0, "alike": 0 }, "attributes": [] });
    let twins = json!({ "instances": ["frr", "frr2"], "compared": 40_000, "disagreed": 3, "share": 3.0 / 40_000.0,
        "contested": 20, "together": 17, "verdicts": { "either": 9, "common": 8, "alike": 7 }, "attributes": [
            { "name": "AS_PATH", "votes": 3 }, { "name": "ORIGIN", "votes": 2 }, { "name": "route or none", "votes": 1 },
            { "name": "NEXT_HOP", "votes": 1 }] });
    let v = json!({ "pairs": [twins, calm], "reading": "least independent: \u{1b}frr and frr2",
        "sessions": [{ "peer": "192.0.2.1", "pairs": [calm] }] });
    assert_eq!(
        diversity(&read(&v)),
        "\
PAIR       COMPARED  DISAGREED  SHARE   TOGETHER  WRONG TOGETHER  ALIKE   DIFFERED IN
frr, frr2  40000     3          <0.01%  17 of 20  8 of 9          7 of 8  AS_PATH 3, ORIGIN 2, route or none 1
frr, bird  400       0          0%      -         -               -       -

least independent: \u{fffd}frr and frr2

192.0.2.1
PAIR       COMPARED  DISAGREED  SHARE  TOGETHER  WRONG TOGETHER  ALIKE  DIFFERED IN
frr, bird  400       0          0%     -         -               -      -
"
    );
    assert_eq!(diversity(&read(&json!({ "pairs": [] }))), "no two instances\n");
    assert!(diversity(&read(&json!({ "pairs": [{}], "sessions": [{}] }))).contains("-         -"));
    assert_eq!([0.0, 0.00005, 0.0042, 0.5, 1.0].map(percent), ["0%", "<0.01%", "0.42%", "50.0%", "100.0%"]);
}

#[test]
fn events_are_lines_and_cannot_drive_a_terminal() {
    let v = json!({ "time": "2026-01-01T00:00:00.000Z", "severity": "alarm", "kind": "disagreement", "text": "a\u{1b}[2Jb",
        "said": [{ "instance": "frr", "route": "none", "counted": false }] });
    let line =
        "2026-01-01T00:00:00.000Z ALARM   disagreement         a\u{fffd}[2Jb\n    frr          none  [not counted]\n";
    assert_eq!(followed(&read(&v)), line);
    assert_eq!(events(&read(&json!({ "events": [v] }))), line);
    let about = |text: &str| followed(&read(&json!({ "session": "192.0.2.1", "text": text })));
    assert!(about("frr joined").ends_with(" 192.0.2.1: frr joined\n"));
    assert!(about("192.0.2.1 is up").ends_with(" 192.0.2.1 is up\n"));
    assert_eq!(followed(&read(&json!({ "missed": 3 }))), "(3 events came faster than they could be shown)\n");
}

#[test]
fn nothing_at_all_is_shown_as_dashes() {
    let (s, i) = (json!({ "sessions": [{}] }), json!({ "instances": [{}] }));
    for shown in [status(&read(&json!({}))), sessions(&read(&s)), instances(&read(&i))] {
        assert!(shown.contains('-'), "{shown}");
    }
    routes(&read(&json!({ "sessions": [{ "said": [{}] }], "received": [{}] })));
    followed(&read(&json!({})));
}

#[test]
fn durations_are_short() {
    let table = [
        (0, "0ms"),
        (850, "850ms"),
        (1000, "1s"),
        (2500, "2.5s"),
        (59_999, "59s"),
        (245_000, "4m05s"),
        (12_000_000, "3h20m"),
        (1_051_200_000, "12d04h"),
    ];
    for (ms, shown) in table {
        assert_eq!(duration(Duration::from_millis(ms)), shown);
    }
}
