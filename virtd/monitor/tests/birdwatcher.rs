//! What Alice-LG needs of birdwatcher's answers: the fields that it reads, in the form in which it
//! reads them.

mod sample;

use sample::{known, snapshot};
use serde_json::json;
use virtd_api as api;
use virtd_monitor::birdwatcher::{protocols, protocols_short, received, status, symbols};

#[test]
fn sessions_are_protocols() {
    let snapshot = snapshot(known());
    let known = snapshot.known.as_ref().expect("answers");
    let (key, all) = protocols(&snapshot, known);
    assert_eq!((key, all.as_object().map(|all| all.len())), ("protocols", Some(known.facts.sessions.len())));
    let one = &all["192.0.2.1"];
    assert_eq!(one["bird_protocol"], "BGP");
    assert_eq!(
        (&one["state"], &one["neighbor_address"], &one["neighbor_as"]),
        (&json!("up"), &json!("192.0.2.1"), &json!(64501))
    );
    // 22 seconds before 2023-11-14 22:13:20.
    assert_eq!(one["state_changed"], "2023-11-14 22:12:58");
    assert_eq!(one["routes"], json!({ "imported": 20, "filtered": 0, "exported": 0, "preferred": 20 }));
    let (_, short) = protocols_short(&snapshot, known);
    assert_eq!(
        (&short["192.0.2.1"]["state"], &short["192.0.2.1"]["since"]),
        (&json!("up"), &json!("2023-11-14 22:12:58"))
    );
    let (_, symbols) = symbols(&snapshot, known);
    assert_eq!(symbols["protocol"][0], "192.0.2.1");
}

#[test]
fn the_status_says_what_is_wrong() {
    let snapshot = snapshot(known());
    let (_, status) = status(&snapshot, snapshot.known.as_ref().expect("answers"));
    assert_eq!((&status["router_id"], &status["current_server"]), (&json!("10.9.9.9"), &json!("2023-11-14 22:13:20")));
    assert!(status["message"].as_str().is_some_and(|text| text.contains("2 disagreements")), "{status}");
}

#[test]
fn what_peers_have_sent_are_routes() {
    let route = json!({ "next_hop": "192.0.2.1", "origin": "IGP", "as_path": "64501 {64502,64503}", "med": 7,
        "communities": ["64501:100", "no-export", "odd"], "large_communities": ["64501:1:2"] });
    let routes: api::Routes = serde_json::from_value(json!({ "prefix": "198.51.100.0/24",
        "received": [{ "peer": "192.0.2.1", "route": route }, { "peer": "192.0.2.2", "route": null }] }))
    .expect("an answer");
    let found = received(&snapshot(known()), &routes);
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    let one = &found[0];
    assert_eq!((&one["network"], &one["from_protocol"]), (&json!("198.51.100.0/24"), &json!("192.0.2.1")));
    assert_eq!(one["bgp"]["as_path"], json!(["64501", "64502", "64503"]));
    assert_eq!((&one["bgp"]["med"], &one["bgp"]["local_pref"]), (&json!("7"), &json!("")));
    assert_eq!(one["bgp"]["communities"], json!([[64501, 100], [65535, 65281]]));
    assert_eq!(one["bgp"]["large_communities"], json!([[64501, 1, 2]]));
}
