//! `/api/birdwatcher/`: the looking glass that birdwatcher is for BIRD, as far as virtd can be
//! asked, so that Alice-LG shows the router beside others.
//!
//! A protocol is a session with a peer. Routes are listed for one prefix; virtd has no answer that
//! lists those of one peer, and who asks for them is told so.

use crate::http::{Shared, answer};
use crate::watch::{Known, NoPrefix, Snapshot};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime};
use virtd_api as api;
use virtd_linux::eventlog::rfc3339;

/// What Alice-LG takes us for.
const VERSION: &str = concat!("virtd-monitor ", env!("CARGO_PKG_VERSION"));
const JSON: &str = "application/json";
/// Communities that virtd calls by name.
const WELL_KNOWN: [(&str, [u32; 2]); 9] = [
    ("graceful-shutdown", [65535, 0]),
    ("accept-own", [65535, 1]),
    ("llgr-stale", [65535, 6]),
    ("no-llgr", [65535, 7]),
    ("blackhole", [65535, 666]),
    ("no-export", [65535, 65281]),
    ("no-advertise", [65535, 65282]),
    ("no-export-subconfed", [65535, 65283]),
    ("no-peer", [65535, 65284]),
];

/// What is where.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/status", get(|shared: State<Shared>| told(shared, status)))
        .route("/protocols", get(|shared: State<Shared>| told(shared, protocols)))
        .route("/protocols/bgp", get(|shared: State<Shared>| told(shared, protocols)))
        .route("/protocols/short", get(|shared: State<Shared>| told(shared, protocols_short)))
        .route("/symbols", get(|shared: State<Shared>| told(shared, symbols)))
        .route("/routes/prefix", get(routes))
        .route("/routes/protocol/{name}", get(no_list))
        .route("/routes/filtered/{name}", get(no_list))
        .route("/routes/noexport/{name}", get(no_list))
}

async fn told(State(shared): State<Shared>, what: fn(&Snapshot, &Known) -> (&'static str, Value)) -> Response {
    let snapshot = shared.watch.now().await;
    match &snapshot.known {
        Ok(known) => {
            let (key, value) = what(&snapshot, known);
            wrapped(&snapshot, key, value)
        }
        Err(e) => error(StatusCode::BAD_GATEWAY, String::from(e.clone())),
    }
}

/// With what stands in every answer.
fn wrapped(snapshot: &Snapshot, key: &str, value: Value) -> Response {
    let mut all = envelope(snapshot);
    all.insert(key.to_owned(), value);
    answer(StatusCode::OK, JSON, Value::Object(all).to_string())
}

fn envelope(snapshot: &Snapshot) -> Map<String, Value> {
    let at = rfc3339(snapshot.wall);
    let api = json!({
        "Version": VERSION,
        "result_from_cache": true,
        "cache_status": { "cached_at": { "date": at, "timezone_type": "UTC", "timezone": "UTC" } },
    });
    let ttl = rfc3339(snapshot.wall + crate::watch::FRESH);
    Map::from_iter([("api".to_owned(), api), ("cached_at".to_owned(), json!(at)), ("ttl".to_owned(), json!(ttl))])
}

fn error(status: StatusCode, text: impl Into<String>) -> Response {
    answer(status, JSON, json!({ "error": text.into() }).to_string())
}

/// `2009-02-16 16:20:00`, as BIRD writes it, UTC; so long before.
fn ago(snapshot: &Snapshot, us: u64) -> String {
    let when = snapshot.wall.checked_sub(Duration::from_micros(us)).unwrap_or(SystemTime::UNIX_EPOCH);
    rfc3339(when).get(..19).unwrap_or_default().replace('T', " ")
}

/// `/status`
pub fn status(snapshot: &Snapshot, known: &Known) -> (&'static str, Value) {
    let s = &known.facts.status;
    let problems: Vec<String> = known.facts.problems().into_iter().map(|p| p.text).collect();
    let value = json!({
        "router_id": s.router.router_id.map(|id| id.to_string()),
        "version": VERSION,
        "current_server": ago(snapshot, 0),
        "last_reboot": ago(snapshot, s.uptime_us),
        "last_reconfig": ago(snapshot, s.uptime_us),
        "message": if problems.is_empty() { "all is well".to_owned() } else { problems.join("; ") },
    });
    ("status", value)
}

/// `/symbols`
pub fn symbols(_: &Snapshot, known: &Known) -> (&'static str, Value) {
    let names: Vec<&str> = known.facts.sessions.iter().map(|s| s.peer.as_str()).collect();
    ("symbols", json!({ "protocol": names, "routing table": ["master"] }))
}

/// BIRD's words for a session: `up`, `start`, `down`.
fn state(s: &api::Session) -> &'static str {
    match s.state.as_str() {
        "Established" => "up",
        _ if s.shut => "down",
        _ => "start",
    }
}

/// `/protocols`, `/protocols/bgp`
pub fn protocols(snapshot: &Snapshot, known: &Known) -> (&'static str, Value) {
    let one = |s: &api::Session| {
        let protocol = json!({
            "protocol": s.peer,
            "bird_protocol": "BGP",
            "state": state(s),
            "connection": s.state,
            "bgp_state": s.state,
            "neighbor_address": s.peer,
            "neighbor_as": s.asn.unwrap_or(0),
            "neighbor_id": s.router_id.map(|id| id.to_string()),
            "source_address": s.local.map(|a| a.to_string()),
            "description": s.peer,
            "table": "master",
            "state_changed": s.up_us.map(|us| ago(snapshot, us)).unwrap_or_else(|| ago(snapshot, known.facts.status.uptime_us)),
            "last_error": s.ended.as_ref().map_or("", |ended| ended.said.as_str()),
            "routes": {
                "imported": s.prefixes_in.unwrap_or(0),
                "filtered": 0,
                "exported": s.prefixes_out.unwrap_or(0),
                "preferred": s.prefixes_in.unwrap_or(0),
            },
        });
        (s.peer.clone(), protocol)
    };
    ("protocols", Value::Object(known.facts.sessions.iter().map(one).collect()))
}

/// `/protocols/short`
pub fn protocols_short(snapshot: &Snapshot, known: &Known) -> (&'static str, Value) {
    let one = |s: &api::Session| {
        let since = ago(snapshot, s.up_us.unwrap_or(known.facts.status.uptime_us));
        let protocol = json!({ "proto": "BGP", "table": "master", "state": state(s), "since": since, "info": s.state });
        (s.peer.clone(), protocol)
    };
    ("protocols", Value::Object(known.facts.sessions.iter().map(one).collect()))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    prefix: String,
}

/// `/routes/prefix?prefix=…`: what peers have sent.
async fn routes(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Response {
    let found = match shared.watch.prefix(&asked.prefix).await {
        Ok(found) => found,
        Err(NoPrefix::Wrong(text)) => return error(StatusCode::BAD_REQUEST, text),
        Err(NoPrefix::Busy) => return error(StatusCode::SERVICE_UNAVAILABLE, "too many prefixes are asked about"),
        Err(NoPrefix::Unanswered(text)) => return error(StatusCode::BAD_GATEWAY, text),
    };
    let snapshot = shared.watch.now().await;
    wrapped(&snapshot, "routes", received(&snapshot, &found.routes))
}

async fn no_list() -> Response {
    let text = "virtd does not list the routes of one peer: look a prefix up (/routes/prefix?prefix=192.0.2.0/24)";
    error(StatusCode::NOT_IMPLEMENTED, text)
}

/// The routes that peers have sent for a prefix. How old each is virtd does not know: it is as old
/// as the session at most, which is what is said.
pub fn received(snapshot: &Snapshot, routes: &api::Routes) -> Value {
    let sessions = snapshot.known.as_ref().map_or(&[][..], |known| &known.facts.sessions);
    let up = |peer: &str| sessions.iter().find(|s| s.peer == peer).and_then(|s| s.up_us).unwrap_or(0);
    let network = routes.prefix.as_deref().unwrap_or_default();
    let one = |r: &api::Received| {
        let route = r.route.as_ref()?;
        Some(json!({
            "network": network,
            "gateway": route.next_hop.to_string(),
            "interface": "",
            "from_protocol": r.peer,
            "learnt_from": r.peer,
            "age": ago(snapshot, up(&r.peer)),
            "metric": 100,
            "primary": false,
            "type": ["BGP", "univ"],
            "bgp": {
                "origin": route.origin,
                "as_path": ases(&route.as_path),
                "next_hop": route.next_hop.to_string(),
                "local_pref": route.local_pref.map_or_else(String::new, |n| n.to_string()),
                "med": route.med.map_or_else(String::new, |n| n.to_string()),
                "communities": route.communities.iter().filter_map(|c| community(c)).collect::<Vec<_>>(),
                "large_communities": route.large_communities.iter().filter_map(|c| community(c)).collect::<Vec<_>>(),
            },
        }))
    };
    Value::Array(routes.received.iter().filter_map(one).collect())
}

/// AS numbers alone, each as text; those of sets and confederations among them.
fn ases(path: &str) -> Vec<&str> {
    path.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect()
}

/// `64500:100` as numbers; none for what is no such thing.
fn community(text: &str) -> Option<Vec<u32>> {
    if let Some((_, numbers)) = WELL_KNOWN.iter().find(|(known, _)| *known == text) {
        return Some(numbers.to_vec());
    }
    text.split(':').map(|word| word.parse().ok()).collect()
}
