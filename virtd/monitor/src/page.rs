//! The page at `/`, live at `/live`, and `/prefix`: for people. Made here as HTML that needs
//! nothing else; a little script replaces what stands in `main` by what `/live` sends each second.
//!
//! Everything that is not ours is escaped by maud. The Content-Security-Policy lets the page have
//! its own style and script, and nothing else.

mod parts;
mod prefix;

use crate::http::Shared;
use crate::watch::{FRESH, NoPrefix, Snapshot, Watch};
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

/// Pages that are live at once. The other connections are left to who asks once.
const MAX_LIVE: usize = 384;
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/live.js");
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What stands in `main`, made once a second for all who watch, and not at all without any.
#[derive(Debug)]
pub struct Live {
    latest: watch::Sender<Arc<str>>,
    somebody: Notify,
}

impl Live {
    /// Nothing is done yet: [`Live::run`] does it.
    pub fn new() -> Live {
        Live { latest: watch::Sender::new(Arc::from("")), somebody: Notify::new() }
    }

    /// Looks, each second, while anybody watches.
    pub async fn run(&self, of: &Watch) {
        loop {
            if self.latest.receiver_count() == 0 {
                self.somebody.notified().await;
                continue;
            }
            let snapshot = of.now().await;
            let text = parts::main(&snapshot).into_string();
            self.latest.send_replace(text.into());
            tokio::time::sleep(FRESH).await;
        }
    }

    /// One more who watches; `None` where there are too many.
    fn watch(&self) -> Option<watch::Receiver<Arc<str>>> {
        if self.latest.receiver_count() >= MAX_LIVE {
            return None;
        }
        let receiver = self.latest.subscribe();
        self.somebody.notify_one();
        Some(receiver)
    }
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

/// `/`
pub async fn page(State(shared): State<Shared>) -> Response {
    let snapshot = shared.watch.now().await;
    secured(HTML, whole(&snapshot).into_string())
}

/// The whole page.
pub fn whole(snapshot: &Snapshot) -> Markup {
    let script = html! {
        script src="live.js" defer {}
        // Without JavaScript it is loaded again.
        noscript { meta http-equiv="refresh" content="5"; }
    };
    let state = html! { noscript { "loaded again each 5 s" } };
    frame("virtd", (&script, &state), "", &parts::main(snapshot))
}

/// The page around its content: with more for its head, and how live it is.
fn frame(title: &str, (head, live): (&Markup, &Markup), asked: &str, main: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href="style.css";
                (head)
            }
            body {
                header {
                    h1 { a href="./" { "virtd" } }
                    p id="live" role="status" { (live) }
                    form action="prefix" method="get" role="search" {
                        label for="q" { "Prefix or address" }
                        input id="q" name="q" value=(asked) placeholder="192.0.2.0/24" maxlength="64"
                            autocapitalize="none" autocomplete="off" spellcheck="false";
                        button { "Look" }
                    }
                }
                main id="main" { (main) }
                footer {
                    p { "Asks only, and at most once a second. " a href="metrics" { "metrics" } }
                }
            }
        }
    }
}

/// `/live`: server-sent events, each with the whole content.
pub async fn live(State(shared): State<Shared>) -> Response {
    let Some(receiver) = shared.live.watch() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], "too many watch\n").into_response();
    };
    let events = WatchStream::from_changes(receiver).map(|text| Ok::<_, Infallible>(Event::default().data(&*text)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// What is asked.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// A prefix or an address.
    #[serde(default)]
    q: String,
}

/// `/prefix?q=…`
pub async fn prefix(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Response {
    let found = shared.watch.prefix(&asked.q).await;
    let (status, main) = match &found {
        Ok(found) => (StatusCode::OK, prefix::main(&found.why)),
        Err(NoPrefix::Wrong(text)) => (StatusCode::BAD_REQUEST, html! { p.bad { (text) } }),
        Err(NoPrefix::Unanswered(text)) => (StatusCode::BAD_GATEWAY, html! { p.bad { (text) } }),
        Err(NoPrefix::Busy) => {
            let text = "Too many prefixes are asked about just now. Try again in a second.";
            (StatusCode::SERVICE_UNAVAILABLE, html! { p.bad { (text) } })
        }
    };
    let shown: String = asked.q.chars().take(64).collect();
    let body = frame(&format!("{shown} · virtd"), (&html! {}, &html! {}), &shown, &main).into_string();
    (status, secured(HTML, body)).into_response()
}

/// `/style.css`
pub async fn style() -> Response {
    secured("text/css; charset=utf-8", STYLE.to_owned())
}

/// `/live.js`
pub async fn script() -> Response {
    secured("text/javascript; charset=utf-8", SCRIPT.to_owned())
}

/// With what a browser is told not to do.
fn secured(content_type: &'static str, body: String) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, body).into_response()
}
