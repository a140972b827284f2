use super::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).unwrap_or_else(|e| panic!("{e}"))
}

/// What virtd answers, as it was written down (virtd/api/tests/form).
fn sample<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/tests/form").join(name).with_extension("json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("a sample")).expect("an answer")
}

fn route(next_hop: &str) -> Value {
    json!({ "next_hop": next_hop, "origin": "IGP", "as_path": "64500 64501" })
}

fn session(peer: &str, local: &str) -> Value {
    json!({ "peer": peer, "local": local, "state": "Established", "up_us": 1 })
}

/// To `n` peers, each behind an address of ours of its own, all say the same; to one bird does not.
fn many(n: usize) -> Why {
    let peer = |i: usize| (format!("10.{}.{}.2", i / 256, i % 256), format!("10.{}.{}.1", i / 256, i % 256));
    let told = |i: usize| {
        let (peer, local) = peer(i);
        let other = if i == 7 { json!(null) } else { route(&local) };
        json!({ "peer": peer, "published": route(&local), "winner": route(&local), "why": "2 of 2 agree",
            "rule": if i == 7 { "alone" } else { "unanimous" }, "changed_us": if i < 3 { json!(2_000_000 + i) } else { json!(null) },
            "said": [{ "instance": "frr", "route": route(&local), "counted": true, "agrees": true, "note": "" },
                     { "instance": "bird", "route": other, "counted": i != 7, "agrees": i != 7,
                       "note": if i == 7 { "abstains: not level" } else { "" } }] })
    };
    let routes = json!({ "prefix": "192.0.2.0/24", "sessions": (0..n).map(told).collect::<Vec<_>>(),
        "received": [{ "peer": "10.0.0.2", "route": route("10.0.0.2") }, { "peer": "10.0.1.2", "route": route("10.0.1.2") }] });
    let sessions = (0..n + 2).map(|i| session(&peer(i).0, &peer(i).1)).collect::<Vec<_>>();
    together(&read(routes), &read::<api::Sessions>(json!({ "sessions": sessions })).sessions)
}

#[test]
fn hundreds_of_peers_are_one_screen() {
    let mut why = many(300);
    assert_eq!(why.told.iter().map(|t| t.peers.len()).collect::<Vec<_>>(), [299, 1]);
    why.strategy = "wait-for-consensus".into();
    why.t_ms = 10_000;
    let event = |text: &str| api::Logged {
        event: api::Event { text: text.into(), ..Default::default() },
        ..Default::default()
    };
    why.events = (0..9).map(|i| event(&format!("the {i}th"))).collect();
    let shown = screen(&why, false);
    assert!(shown.lines().count() <= 23, "{shown}");
    assert!(
        shown.starts_with(
            "\
192.0.2.0/24   wait-for-consensus, T = 10000 ms
received
  from 10.0.0.2: via 10.0.0.2, path 64500 64501, IGP
  from 10.0.1.2: via 10.0.1.2, path 64500 64501, IGP
told
  to 10.0.0.2, 10.0.1.2, 10.0.2.2, 10.0.3.2 and 295 more: via self, path 64500 64501, IGP
    because  all who count say the same: 2 of 2 agree
    since    somebody last said something else 2s ago; at rest with 296 of 299
    = frr, bird
  to 10.0.7.2: via self, path 64500 64501, IGP
    because  only one instance counts: what it says goes out, right or wrong: 2 of 2 agree
    since    at rest: nobody has said anything else for T or longer
    = frr
      bird: none  [abstains: not level]
  to 2 other peers with a session: nothing, and no instance says anything
"
        ),
        "{shown}"
    );
    assert!(shown.contains("... 3 earlier ones") && shown.contains("the 8th") && !shown.contains("the 2th"), "{shown}");
    let all = screen(&why, true);
    assert!(all.contains("10.1.43.2") && all.contains("the 0th") && !all.contains(" more"), "{all}");
}

#[test]
fn a_router_that_was_written_down_is_shown_whole() {
    let mut why = together(&sample("routes"), &sample::<api::Sessions>("sessions").sessions);
    why.strategy = "wait-for-consensus".into();
    why.fib = Some(sample::<api::FibEntries>("fib_diff").entries);
    let events: api::Events = sample("events");
    let about: Vec<api::Logged> = events.events.into_iter().filter(|e| is_about(&e.event, "198.51.2.0/24")).collect();
    assert!(!about.is_empty());
    why.events = about;
    let shown = screen(&why, false);
    for part in [
        "198.51.0.0/24   wait-for-consensus",
        "from 192.0.2.1: via 192.0.2.1, path 64501 64999, IGP\n",
        "to 192.0.2.2, 192.0.2.3: via self, path 64500 64501 64999, IGP\n",
        "because  all who count say the same: 2 of 2 agree with the winner (wait-for-consensus)\n",
        "    = i0, i1\n      i2: none  [abstains: not level]\n      i3: via self, path 64500 64501 64999, IGP, MED 666  [observer]\n",
        "kernel\n  198.51.100.0/24: via 10.0.2.2 dev n2 (last changed ",
        "    = i0, i2\n    ! i1: via 10.0.3.2 dev n3\n",
        "warning disagreement         192.0.2.2: i2 is not with the majority on 198.51.2.0/24;",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

#[test]
fn every_rule_is_a_sentence_and_loss_is_loud() {
    let rules = "unanimous majority alone master first-k overruled no-majority kept nobody-counts too-few-voters";
    for word in rules.split(' ') {
        assert!(rule(word, "master-slave").contains(' '), "{word}");
    }
    let mut why = many(1);
    why.told[0].rule = "no-majority".into();
    why.told[0].winner = "none".into();
    let shown = screen(&why, false);
    assert!(shown.contains("chosen   none, not sent yet") && shown.contains("NO MAJORITY"), "{shown}");
    let failed = json!([{ "key": "192.0.2.0/24", "route": "via x", "failed": "Network is unreachable", "said": [] }]);
    why.fib = Some(read(failed));
    assert!(screen(&why, false).contains("NOT IN THE KERNEL: Network is unreachable"));
    let nothing = Why { asked: Some("192.0.2.7".into()), ..Why::default() };
    assert_eq!(screen(&nothing, false), "192.0.2.7: no prefix has it of which anybody has said anything\n");
}

#[test]
fn an_event_is_about_a_prefix_and_not_about_one_that_looks_like_it() {
    let about = |text: &str| is_about(&api::Event { text: text.into(), ..Default::default() }, "10.0.0.0/8");
    for yes in
        ["10.0.0.0/8", "see 10.0.0.0/8.", "(10.0.0.0/8)", "on 110.0.0.0/8 and 10.0.0.0/8, too", "10.0.0.0/8: gone"]
    {
        assert!(about(yes), "{yes}");
    }
    for no in ["110.0.0.0/8", "10.0.0.0/80", "10.0.0.0", "1.10.0.0.0/8"] {
        assert!(!about(no), "{no}");
    }
    let named = api::Event { prefix: Some("10.0.0.0/8".into()), ..Default::default() };
    assert!(is_about(&named, "10.0.0.0/8") && !is_about(&named, "10.0.0.0/9"));
}
