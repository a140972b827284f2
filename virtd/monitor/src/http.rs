//! The HTTP server: what is where, and how much of us strangers may take.

use crate::arguments::Places;
use crate::birdwatcher::{self, Tables};
use crate::bmp::{States, Task};
use crate::metrics;
use crate::page::{self, Live};
use crate::watch::Watch;
use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at once. Who comes then waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// A request's head must be there so soon.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// Octets of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// A connection ends after this, whatever is done over it: who does not read must not stay. A page
/// that is live connects again by itself.
const MAX_LIFE: Duration = Duration::from_secs(300);
/// After an accept that failed (no file is left, say).
const PAUSE: Duration = Duration::from_millis(100);

/// What all requests share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Who asks virtd.
    pub watch: Arc<Watch>,
    /// Who watches the page.
    pub live: Arc<Live>,
    /// Who reads the tables of peers.
    pub(crate) tables: Arc<Tables>,
}

impl Shared {
    /// Of the virtd behind a control socket. Within a runtime: a task makes the live page.
    pub fn of(socket: &Path, collectors: States) -> Shared {
        let shared = Shared {
            watch: Arc::new(Watch::new(socket, collectors)),
            live: Arc::new(Live::new()),
            tables: Arc::new(Tables::new(socket)),
        };
        let (watch, live) = (shared.watch.clone(), shared.live.clone());
        tokio::spawn(async move { live.run(&watch).await });
        shared
    }
}

/// Serves, and tells the collectors, until `stop` says that it is over. `description`: what they are
/// told of us.
///
/// # Errors
/// It cannot listen.
pub async fn serve(places: &Places, description: &str, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let states = States::of(&places.collectors);
    let shared = Shared::of(&places.control, states.clone());
    let mut collectors = JoinSet::new();
    for (n, collector) in places.collectors.iter().cloned().enumerate() {
        let (states, watch) = (states.clone(), shared.watch.clone());
        let (control, description) = (places.control.clone(), description.to_owned());
        collectors.spawn(Task { control, collector, n, states, watch, description }.run(stop.clone()));
    }
    let router = router(shared);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut listeners = JoinSet::new();
    for address in &places.listen {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let bound = listener.local_addr().unwrap_or(*address);
        log::info!("http://{bound}/ shows the virtd behind {}", places.control.display());
        listeners.spawn(accept(listener, router.clone(), room.clone()));
    }
    while !*stop.borrow() && stop.changed().await.is_ok() {}
    // Each says its last word, which takes no longer than it may.
    while collectors.join_next().await.is_some() {}
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, room: Arc<Semaphore>) {
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(place);
                });
            }
            Err(e) => {
                log::warn!("accept: {e}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(MAX_HEAD);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whatever ends it is the other side's affair.
    let _ = tokio::time::timeout(MAX_LIFE, served).await;
}

/// What is where.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/live", get(page::live))
        .route("/live.js", get(page::script))
        .route("/style.css", get(page::style))
        .route("/prefix", get(page::prefix))
        .route("/metrics", get(metrics))
        .nest("/api/birdwatcher", birdwatcher::router())
        .with_state(shared)
}

/// A body that nobody keeps, and that is nothing else than it says.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let headers: [(HeaderName, &'static str); 3] = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, body).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match metrics::text(shared.watch.now().await) {
        Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(e) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", format!("{e}\n")),
    }
}
