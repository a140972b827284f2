//! Telling of events: each one that virtd tells goes to the hooks that want it (`[[alert]]`), to
//! syslog and to journald.
//!
//! ```text
//! virtd ──control socket── follow ──┬── queue ── alert ── limit ── a command, or POST
//!                                   ├── queue ── log ── syslog
//!                                   └── queue ── log ── journald
//! ```
//!
//! Reading goes on whatever becomes of those who are told: each has a queue of its own ([`QUEUE`]),
//! and what finds that full is counted and told as a number. So a hook that hangs holds up neither
//! the others nor virtd.

mod alert;
mod command;
mod follow;
mod journald;
mod limit;
mod log;
mod post;
mod syslog;

pub use follow::Position;

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use virtd_api::Logged;
use virtd_config::alert::{Alert, Journald, Level, Syslog};
use virtd_linux::eventlog::rfc3339;

/// Events that may wait for one who is told.
const QUEUE: usize = 1024;

/// Who is told of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// `[[alert]]`.
    pub alerts: Vec<Alert>,
    /// `[syslog]`.
    pub syslog: Option<Syslog>,
    /// `[journald]`.
    pub journald: Option<Journald>,
    /// Where it is written down how far they were told; nowhere where it is `None`.
    pub position: Option<PathBuf>,
}

/// An event, as it came and as it is understood.
#[derive(Debug)]
pub(crate) struct News {
    /// One line of JSON, with what a newer virtd may say besides.
    pub json: String,
    /// What we know of it.
    pub logged: Logged,
}

impl News {
    /// A line of virtd's.
    pub fn of(json: String, logged: Logged) -> News {
        News { json, logged }
    }

    /// Something that virtd-monitor has to say itself, in the form of an event. `seq` is 0: it is none of
    /// virtd's.
    pub fn own(kind: &str, severity: Level, text: String, more: Map<String, Value>) -> News {
        let time = rfc3339(SystemTime::now());
        let event = virtd_api::Event::new(0, kind.to_owned(), severity.word().to_owned(), text.clone());
        let mut json = json!({"seq": 0, "time": time, "kind": kind, "severity": severity.word(), "text": text});
        if let Value::Object(object) = &mut json {
            object.extend(more);
        }
        News { json: json.to_string(), logged: Logged { seq: 0, time, event } }
    }

    /// Events that nobody was told of, by their number.
    pub fn missed(count: u64, why: &str) -> News {
        let text = format!("{count} events are not told here: {why}; `virtctl events` may have them");
        let more = Map::from_iter([("missed".to_owned(), count.into())]);
        News::own("events-missed", Level::Warning, text, more)
    }

    /// How bad it is.
    pub fn level(&self) -> Level {
        Level::of(&self.logged.event.severity)
    }
}

/// One who is told: where his events wait.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    queue: Sender<Arc<News>>,
    lost: Arc<AtomicU64>,
    /// The kinds he wants; empty is all.
    kinds: Arc<[String]>,
    level: Level,
}

/// The other end of it.
pub(crate) struct Ears {
    /// What waits.
    pub queue: Receiver<Arc<News>>,
    lost: Arc<AtomicU64>,
}

impl Ears {
    /// How many found no room since this was last asked.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Listener {
    fn new(kinds: &[String], level: Level) -> (Listener, Ears) {
        let (queue, heard) = channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        (Listener { queue, lost: lost.clone(), kinds: kinds.into(), level }, Ears { queue: heard, lost })
    }

    /// Never waits.
    pub fn tell(&self, news: &Arc<News>) {
        // What is missing is news of every kind.
        let wants = self.kinds.is_empty() || news.logged.seq == 0 || self.kinds.contains(&news.logged.event.kind);
        if wants && news.level() >= self.level && self.queue.try_send(news.clone()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Starts all that the plan asks for, within a runtime; nothing where that is nothing.
pub fn start(plan: &Plan, control: &std::path::Path) {
    let mut listeners = Vec::new();
    for alert in &plan.alerts {
        let (listener, ears) = Listener::new(&alert.events, alert.severity);
        listeners.push(listener);
        ::log::info!("alerts: {}", alert::in_words(alert));
        tokio::spawn(alert::run(alert.clone(), ears));
    }
    if let Some(syslog) = &plan.syslog {
        let (listener, ears) = Listener::new(&[], syslog.severity);
        listeners.push(listener);
        ::log::info!("events go to syslog: {}", syslog.target);
        tokio::spawn(log::run(log::To::Syslog(syslog::Line::new(syslog.clone())), ears));
    }
    if let Some(journald) = &plan.journald {
        let (listener, ears) = Listener::new(&[], journald.severity);
        listeners.push(listener);
        ::log::info!("events go to journald: {}", journald.socket.display());
        tokio::spawn(log::run(log::To::Journald(journald.socket.clone()), ears));
    }
    if !listeners.is_empty() {
        let position = Position::read(plan.position.as_deref());
        tokio::spawn(follow::run(control.to_owned(), listeners, position));
    }
}

/// `3 disagreement, 1 poison`, the most first.
pub(crate) fn counted(kinds: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<(&str, u64)> = kinds.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let words: Vec<String> = all.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    words.join(", ")
}
