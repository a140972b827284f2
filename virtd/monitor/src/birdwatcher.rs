//! `/api/birdwatcher/`: the looking glass that birdwatcher is for BIRD, as far as virtd can be
//! asked, so that Alice-LG shows the router beside others.
//!
//! A protocol is a session with a peer. Its routes are read from virtd when somebody asks for them
//! ([`tables`]), those of one prefix by a question of their own ([`crate::watch`]).

mod lists;
mod tables;

pub use lists::received;
pub(crate) use tables::Tables;

use crate::http::{Shared, answer};
use crate::watch::{Known, NoPrefix, Snapshot};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use lists::Pieces;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::time::{Duration, SystemTime};
use tables::{KEPT, MAX_ROUTES, NoTable, Side};
use virtd_api as api;
use virtd_linux::eventlog::rfc3339;

/// What Alice-LG takes us for.
const VERSION: &str = concat!("virtd-monitor ", env!("CARGO_PKG_VERSION"));
const JSON: &str = "application/json";
/// What is where.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/status", get(|shared: State<Shared>| told(shared, status)))
        .route("/protocols", get(|shared: State<Shared>| told(shared, protocols)))
        .route("/protocols/bgp", get(|shared: State<Shared>| told(shared, protocols)))
        .route("/protocols/short", get(|shared: State<Shared>| told(shared, protocols_short)))
        .route("/symbols", get(|shared: State<Shared>| told(shared, symbols)))
        .route("/routes/prefix", get(routes))
        .route("/routes/protocol/{name}", get(|shared, name| list(shared, name, Some(Side::In))))
        .route("/routes/peer/{name}", get(|shared, name| list(shared, name, Some(Side::In))))
        .route("/routes/export/{name}", get(|shared, name| list(shared, name, Some(Side::Out))))
        .route("/routes/filtered/{name}", get(|shared, name| list(shared, name, None)))
        .route("/routes/noexport/{name}", get(|shared, name| list(shared, name, None)))
        .route("/routes/count/protocol/{name}", get(count))
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
    let mut all = envelope(snapshot.wall, crate::watch::FRESH, true);
    all.insert(key.to_owned(), value);
    answer(StatusCode::OK, JSON, Value::Object(all).to_string())
}

/// `at`: when it was answered; it may be shown again for `fresh`.
fn envelope(at: SystemTime, fresh: Duration, cached: bool) -> Map<String, Value> {
    let (ttl, at) = (rfc3339(at + fresh), rfc3339(at));
    let api = json!({
        "Version": VERSION,
        "result_from_cache": cached,
        "cache_status": { "cached_at": { "date": at, "timezone_type": "UTC", "timezone": "UTC" } },
    });
    Map::from_iter([("api".to_owned(), api), ("cached_at".to_owned(), json!(at)), ("ttl".to_owned(), json!(ttl))])
}

fn error(status: StatusCode, text: impl Into<String>) -> Response {
    answer(status, JSON, json!({ "error": text.into() }).to_string())
}

/// Somebody is to come again: too much is asked now.
fn busy(text: &str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// `2009-02-16 16:20:00`, as BIRD writes it, UTC; so long before.
fn ago(wall: SystemTime, us: u64) -> String {
    let when = wall.checked_sub(Duration::from_micros(us)).unwrap_or(SystemTime::UNIX_EPOCH);
    rfc3339(when).get(..19).unwrap_or_default().replace('T', " ")
}

/// For how long the session with a peer has been established, microseconds; 0 where it is not.
fn peer_up(snapshot: &Snapshot, peer: &str) -> u64 {
    let sessions = snapshot.known.as_ref().map_or(&[][..], |known| &known.facts.sessions);
    sessions.iter().find(|s| s.peer == peer).and_then(|s| s.up_us).unwrap_or(0)
}

/// `/status`
pub fn status(snapshot: &Snapshot, known: &Known) -> (&'static str, Value) {
    let s = &known.facts.status;
    let problems: Vec<String> = known.facts.problems().into_iter().map(|p| p.text).collect();
    let value = json!({
        "router_id": s.router.router_id.map(|id| id.to_string()),
        "version": VERSION,
        "current_server": ago(snapshot.wall, 0),
        "last_reboot": ago(snapshot.wall, s.uptime_us),
        "last_reconfig": ago(snapshot.wall, s.uptime_us),
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
            "state_changed": s.up_us.map(|us| ago(snapshot.wall, us)).unwrap_or_else(|| ago(snapshot.wall, known.facts.status.uptime_us)),
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
        let since = ago(snapshot.wall, s.up_us.unwrap_or(known.facts.status.uptime_us));
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
        Err(NoPrefix::Busy) => return busy("too many prefixes are asked about"),
        Err(NoPrefix::Unanswered(text)) => return error(StatusCode::BAD_GATEWAY, text),
    };
    let snapshot = shared.watch.now().await;
    wrapped(&snapshot, "routes", received(&snapshot, &found.routes))
}

/// The session that a protocol is: by the peer's name, or by its address where that is one session's
/// alone.
fn session<'a>(sessions: &'a [api::Session], name: &str) -> Option<&'a api::Session> {
    let mut alike = sessions.iter().filter(|s| s.peer.split_once('%').is_some_and(|(address, _)| address == name));
    let alone = alike.next().filter(|_| alike.next().is_none());
    sessions.iter().find(|s| s.peer == name).or(alone)
}

/// The session of a protocol in `snapshot`.
///
/// # Errors
/// virtd does not answer, or there is none.
fn protocol<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a api::Session, (StatusCode, String)> {
    let known = snapshot.known.as_ref().map_err(|e| (StatusCode::BAD_GATEWAY, String::from(e.clone())))?;
    let text = || format!("there is no protocol {name:?}: /api/birdwatcher/protocols lists them");
    session(&known.facts.sessions, name).ok_or_else(|| (StatusCode::NOT_FOUND, text()))
}

/// The routes of a protocol: one of its peer's tables; `None`: there are none of that kind. What a
/// daemon filters, and what it keeps from a peer, is the daemon's affair, which virtd does not see.
async fn list(State(shared): State<Shared>, Path(name): Path<String>, side: Option<Side>) -> Response {
    let snapshot = shared.watch.now().await;
    let session = match protocol(&snapshot, &name) {
        Ok(session) => session,
        Err((status, text)) => return error(status, text),
    };
    let Some(side) = side.filter(|_| session.state == "Established") else {
        return wrapped(&snapshot, "routes", json!([]));
    };
    let many = match side {
        Side::In => session.prefixes_in.map(|n| n as u64),
        Side::Out => session.prefixes_out,
    };
    // As far as that is known it is not even begun.
    let found = match many.is_some_and(|n| n > MAX_ROUTES as u64) {
        true => Err(NoTable::TooLarge),
        false => shared.tables.of(&session.peer, side).await,
    };
    let (table, cached) = match found {
        Ok(found) => found,
        Err(NoTable::TooLarge) => {
            let text = format!(
                "the table of {} is too large for a list, which has {MAX_ROUTES} routes at most: look a prefix up \
                 (/api/birdwatcher/routes/prefix?prefix=192.0.2.0/24)",
                session.peer
            );
            return error(StatusCode::INSUFFICIENT_STORAGE, text);
        }
        Err(NoTable::Busy) => return busy("too many tables are asked for"),
        Err(NoTable::Unanswered(text)) => return error(StatusCode::BAD_GATEWAY, text),
    };
    // From whom a route comes that the peer was told is not known: the instances have chosen it.
    let learnt_from = if side == Side::In { session.peer.clone() } else { String::new() };
    let pieces = Pieces::new(envelope(table.at, KEPT, cached), table, session.peer.clone(), learnt_from);
    let mut response = answer(StatusCode::OK, JSON, String::new());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from_stream(tokio_stream::iter(pieces.map(Ok::<_, Infallible>)));
    response
}

/// `/routes/count/protocol/…`: how many the peer has said.
async fn count(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let snapshot = shared.watch.now().await;
    match protocol(&snapshot, &name) {
        Ok(session) => wrapped(&snapshot, "routes", json!(session.prefixes_in.unwrap_or(0))),
        Err((status, text)) => error(status, text),
    }
}
