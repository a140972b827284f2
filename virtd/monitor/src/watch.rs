//! What virtd last said, asked for again when it is older than [`FRESH`] and somebody wants it.
//!
//! All viewers share one [`Watch`]: the first who finds the answers old asks virtd, the others wait
//! for that, and nobody asks while nobody looks.

use crate::bmp;
use crate::control::Control;
use crate::processes::{self, Process};
use serde::Serialize;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::Instant;
use virtd::ctl::ask::Unanswered;
use virtd::ctl::health::{Facts, Level, Problem};
use virtd::ctl::why::Why;
use virtd_api as api;
use virtd_api::Request;

/// So old answers may be.
pub const FRESH: Duration = Duration::from_secs(1);
/// So long all answers together may take. Prometheus waits ten seconds for a scrape.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Events that are asked for, the last ones.
const EVENTS: u64 = 200;
/// Prefixes whose answers are kept, as long as they are fresh.
const KEPT: usize = 64;
/// Prefixes that virtd is asked about within [`FRESH`], at most.
const ASKED: usize = 5;
/// Longest word for a prefix.
const MAX_PREFIX: usize = 64;

/// What virtd has said of itself.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The router, its instances and sessions, the FIB.
    pub facts: Facts,
    /// Pairs of instances.
    pub diversity: api::Diversity,
    /// The last events, oldest first.
    pub events: Vec<api::Logged>,
    /// virtd's processes, those that can be seen.
    pub processes: Vec<Process>,
}

/// The answers, or why there are none.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was answered.
    pub at: Instant,
    /// The same on the clock on the wall.
    pub wall: SystemTime,
    /// How long that took.
    pub took: Duration,
    /// What came of it.
    pub known: Result<Known, Unanswered>,
    /// Times that virtd was asked, since we were started.
    pub polls: u64,
    /// Of these, those without all answers.
    pub failures: u64,
    /// How the collectors of BMP fare.
    pub collectors: Vec<bmp::State>,
}

impl Snapshot {
    /// What is not as it should be, as `virtctl health` has it; the worst first.
    pub fn problems(&self) -> Vec<Problem> {
        let (level, condition, text) = match &self.known {
            Ok(known) => {
                let mut problems = known.facts.problems();
                problems.sort_by_key(|p| std::cmp::Reverse(p.level));
                return problems;
            }
            Err(Unanswered::Down(text)) => (Level::Critical, "no-answer", text.clone()),
            Err(Unanswered::Other(text)) => (Level::Unknown, "cannot-ask", text.clone()),
        };
        vec![Problem { level, condition, text }]
    }
}

/// What there is about a prefix.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// As virtd says it.
    pub routes: api::Routes,
    /// As `virtctl why` has it.
    pub why: Why,
}

/// Why there is nothing about a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum NoPrefix {
    /// It is none.
    Wrong(String),
    /// Too many were asked about.
    Busy,
    /// virtd does not answer, or refuses.
    Unanswered(String),
}

#[derive(Debug)]
struct Inner {
    control: Control,
    last: Option<Arc<Snapshot>>,
    /// Answers about prefixes, the oldest first.
    prefixes: VecDeque<(Instant, String, Arc<Found>)>,
    /// When virtd was asked about one, the oldest first.
    asked: VecDeque<Instant>,
    polls: u64,
    failures: u64,
    collectors: bmp::States,
}

/// The one who asks virtd.
#[derive(Debug)]
pub struct Watch {
    inner: Mutex<Inner>,
    /// Requests that were answered with the answers that there were.
    shared: AtomicU64,
}

impl Watch {
    /// Of the virtd behind this control socket, which these collectors are told of. Nothing is asked
    /// yet.
    pub fn new(socket: &Path, collectors: bmp::States) -> Watch {
        let inner = Inner {
            control: Control::new(socket),
            last: None,
            prefixes: VecDeque::new(),
            asked: VecDeque::new(),
            polls: 0,
            failures: 0,
            collectors,
        };
        Watch { inner: Mutex::new(inner), shared: AtomicU64::new(0) }
    }

    /// What virtd says, not older than [`FRESH`].
    pub async fn now(&self) -> Arc<Snapshot> {
        self.inner.lock().await.fresh(&self.shared).await
    }

    /// Requests that cost virtd nothing, since we were started.
    pub fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    /// All about a prefix or an address.
    ///
    /// # Errors
    /// See [`NoPrefix`].
    pub async fn prefix(&self, word: &str) -> Result<Arc<Found>, NoPrefix> {
        let prefix = canonical(word)?;
        let mut inner = self.inner.lock().await;
        let now = Instant::now();
        inner.prefixes.retain(|(at, ..)| now.duration_since(*at) < FRESH);
        if let Some((.., found)) = inner.prefixes.iter().find(|(_, known, _)| *known == prefix) {
            return Ok(found.clone());
        }
        inner.asked.retain(|at| now.duration_since(*at) < FRESH);
        if inner.asked.len() >= ASKED {
            return Err(NoPrefix::Busy);
        }
        inner.asked.push_back(now);
        let snapshot = inner.fresh(&self.shared).await;
        let known = snapshot.known.as_ref().map_err(|e| NoPrefix::Unanswered(e.clone().into()))?;
        let found = Arc::new(inner.ask_prefix(&prefix, known).await.map_err(|e| NoPrefix::Unanswered(e.into()))?);
        if inner.prefixes.len() >= KEPT {
            inner.prefixes.pop_front();
        }
        inner.prefixes.push_back((now, prefix, found.clone()));
        Ok(found)
    }
}

/// A prefix or an address in the one form that it has.
fn canonical(word: &str) -> Result<String, NoPrefix> {
    let word = word.trim();
    let wrong = || NoPrefix::Wrong("expected a prefix like 192.0.2.0/24 or 2001:db8::/32, or an address".to_owned());
    if word.len() > MAX_PREFIX {
        return Err(wrong());
    }
    let Some((address, length)) = word.split_once('/') else {
        return word.parse::<IpAddr>().map(|a| a.to_string()).map_err(|_| wrong());
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse::<u8>().ok().filter(|n| *n <= most).ok_or_else(wrong)?;
    Ok(format!("{address}/{length}"))
}

impl Inner {
    async fn fresh(&mut self, shared: &AtomicU64) -> Arc<Snapshot> {
        if let Some(last) = self.last.as_ref().filter(|last| last.at.elapsed() < FRESH) {
            shared.fetch_add(1, Ordering::Relaxed);
            return last.clone();
        }
        let begun = Instant::now();
        let known = self.poll(begun + PATIENCE).await;
        let took = begun.elapsed();
        let was_up = self.last.as_ref().map(|last| last.known.is_ok());
        self.polls += 1;
        match &known {
            Ok(_) if was_up != Some(true) => log::info!("virtd answers"),
            Err(e) if was_up != Some(false) => log::warn!("{}", String::from(e.clone())),
            _ => {}
        }
        if known.is_err() {
            self.failures += 1;
            self.control.close();
        }
        // As old as its end: a virtd that is slow to answer is not asked without a pause.
        let snapshot = Snapshot {
            at: Instant::now(),
            wall: SystemTime::now(),
            took,
            known,
            polls: self.polls,
            failures: self.failures,
            collectors: self.collectors.now(),
        };
        let snapshot = Arc::new(snapshot);
        self.last = Some(snapshot.clone());
        snapshot
    }

    async fn poll(&mut self, until: Instant) -> Result<Known, Unanswered> {
        let ask = &mut self.control;
        let status: api::Status = ask.ask(&Request::Status, until).await?;
        let api::Instances { instances } = ask.ask(&Request::Instances { exec: None }, until).await?;
        let api::Sessions { sessions } = ask.ask(&Request::Sessions, until).await?;
        let fib = Request::Fib { prefix: None, diff: false, flush: false, protocol: None };
        let fib = refused_is_none(ask.ask(&fib, until).await)?;
        // A router with one instance may have no figures.
        let diversity = refused_is_none(ask.ask(&Request::Diversity { sessions: false }, until).await)?;
        let events = Request::Events { follow: false, n: Some(EVENTS), kind: None };
        let api::Events { events } = ask.ask(&events, until).await?;
        let processes = status.worker.map_or_else(Vec::new, |worker| processes::of(worker.pid));
        let facts = Facts { status, instances, sessions, fib };
        Ok(Known { facts, diversity: diversity.unwrap_or_default(), events, processes })
    }

    async fn ask_prefix(&mut self, prefix: &str, known: &Known) -> Result<Found, Unanswered> {
        let until = Instant::now() + PATIENCE;
        let routes: api::Routes = self.control.ask(&Request::Routes { prefix: prefix.to_owned() }, until).await?;
        let fib = match &routes.prefix {
            Some(found) if known.facts.fib.is_some() => {
                let fib = Request::Fib { prefix: Some(found.clone()), diff: false, flush: false, protocol: None };
                refused_is_none(self.control.ask(&fib, until).await)?
            }
            _ => None,
        };
        let why = Why::of(&routes, &known.facts.status, &known.facts.sessions, fib, &known.events);
        Ok(Found { routes, why })
    }
}

/// What virtd refuses it does not have.
fn refused_is_none<T>(answer: Result<T, Unanswered>) -> Result<Option<T>, Unanswered> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Unanswered::Other(_)) => Ok(None),
        Err(down) => Err(down),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_one_form_and_nothing_else_goes_to_virtd() {
        for (given, form) in [
            (" 192.0.2.7 ", "192.0.2.7"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:DB8:0::/32", "2001:db8::/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(canonical(given), Ok(form.to_owned()));
        }
        for given in ["", "x", "192.0.2.0/33", "192.0.2.0/-1", "192.0.2.0/", "fe80::1%eth0", "192.0.2.0/24\n{}"] {
            assert!(matches!(canonical(given), Err(NoPrefix::Wrong(_))), "{given:?}");
        }
    }
}
