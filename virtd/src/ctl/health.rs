//! `virtctl health`: one line and an exit status, as a monitoring system's plugin gives them
//! (Monitoring Plugins' guidelines: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN).
//!
//! [`Facts::problems`] decides by virtd's answers alone; docs/MONITORING.md explains each condition
//! and its remedy.

use super::ask::{Unanswered, ask_or};
use crate::show::{clean, micros};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use virtd_api as api;
use virtd_api::Request;

/// Every condition by its name, as docs/MONITORING.md lists them.
pub const CONDITIONS: [&str; 19] = [
    "no-answer",
    "cannot-ask",
    "native-bgp",
    "instance-missing",
    "instance-out",
    "instance-apart",
    "not-level",
    "one-alone",
    "verdicts-off",
    "policy-change",
    "all-sessions-down",
    "session-down",
    "disagreements",
    "no-quorum",
    "suspect",
    "withheld",
    "events-lost",
    "fib-refused",
    "fib-apart",
];

/// How bad it is; the order is that of badness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// Something is wrong and was masked.
    Warning,
    /// It could not be found out.
    Unknown,
    /// A peer is affected, or the next fault would not be masked.
    Critical,
}

impl Level {
    /// The exit status.
    pub const fn status(self) -> u8 {
        match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub level: Level,
    /// One of [`CONDITIONS`].
    pub condition: &'static str,
    /// What it is, a few words.
    pub text: String,
}

/// What virtd says of itself.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The whole.
    pub status: api::Status,
    /// The instances.
    pub instances: Vec<api::Instance>,
    /// The sessions.
    pub sessions: Vec<api::Session>,
    /// With `[fib]`.
    pub fib: Option<api::Fib>,
}

/// What there is to say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// The worst of the problems'.
    pub level: Level,
    /// The exit status.
    pub exit: u8,
    /// The worst first; empty where all is well.
    pub problems: Vec<Problem>,
    /// Where there are none.
    pub well: String,
    /// Figures for graphs.
    pub figures: BTreeMap<&'static str, u64>,
}

/// Asks virtd, and judges. It takes `patience` at most.
pub fn look(socket: &Path, patience: Duration) -> Health {
    let until = Instant::now() + patience;
    match facts(socket, until) {
        Ok(facts) => facts.health(),
        Err(e) => {
            let (level, condition, text) = match e {
                Unanswered::Down(text) => (Level::Critical, "no-answer", text),
                Unanswered::Other(text) => (Level::Unknown, "cannot-ask", text),
            };
            Health::of(vec![Problem { level, condition, text }], String::new(), BTreeMap::new())
        }
    }
}

fn facts(socket: &Path, until: Instant) -> Result<Facts, Unanswered> {
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let status: api::Status = ask_or(socket, &Request::Status, left())?;
    let api::Instances { instances } = ask_or(socket, &Request::Instances { exec: None }, left())?;
    let api::Sessions { sessions } = ask_or(socket, &Request::Sessions, left())?;
    let fib = Request::Fib { prefix: None, diff: false, flush: false, protocol: None };
    let fib = match ask_or(socket, &fib, left()) {
        Ok(fib) => Some(fib),
        // Without [fib] it is refused.
        Err(Unanswered::Other(_)) => None,
        Err(down) => return Err(down),
    };
    Ok(Facts { status, instances, sessions, fib })
}

impl Facts {
    /// What is to be said of them.
    pub fn health(&self) -> Health {
        let s = &self.status;
        let well = match s.open.as_str() {
            "native" => format!("one instance, {} connections through virtd", s.sessions_up),
            _ => format!("{} instances vote, {} of {} sessions are up", s.voters, s.sessions_up, s.sessions),
        };
        let with = |of: &dyn Fn(&api::Fib) -> u64| self.fib.as_ref().map(of);
        let figures = [
            ("voters", Some(s.voters as u64)),
            ("sessions", Some(s.sessions as u64)),
            ("sessions_up", Some(s.sessions_up as u64)),
            ("disagreements", Some(s.disagreements_now)),
            ("without_quorum", Some(s.without_quorum)),
            ("routes_published", Some(s.routes_published)),
            ("votes", Some(s.votes)),
            ("updates_in", Some(s.updates_in)),
            ("uptime", Some(s.uptime_us / 1_000_000)),
            ("worker_restarts", s.worker.map(|w| u64::from(w.restarts))),
            ("fib_routes", with(&|f| f.routes as u64)),
            ("fib_failed", with(&|f| f.failed as u64)),
        ];
        let figures = figures.into_iter().filter_map(|(name, n)| Some((name, n?))).collect();
        Health::of(self.problems(), well, figures)
    }

    /// What is not as it should be, in no order.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut add = |level, condition, text: String| found.push(Problem { level, condition, text });
        self.router(&mut add);
        self.sessions(&mut add);
        if self.status.open != "native" {
            self.instances.iter().for_each(|i| instance(i, &mut add));
        } else if let Some(i) = self.instances.iter().find(|i| !i.attached) {
            add(Level::Critical, "instance-missing", format!("{} has not reached virtd", i.name));
        }
        if let Some(fib) = &self.fib {
            fib_apart(fib, &mut add);
        }
        found
    }

    fn router(&self, add: &mut impl FnMut(Level, &'static str, String)) {
        let s = &self.status;
        if let Some(n @ 1..) = s.native_bgp {
            add(Level::Critical, "native-bgp", format!("{} past virtd", verb(n as u64, "BGP socket", "goes", "go")));
        }
        if s.majority_split {
            add(Level::Critical, "verdicts-off", "the majority itself is in doubt: nobody is accused".to_owned());
        }
        if let Some(us) = s.change_us {
            add(Level::Warning, "policy-change", format!("policy has been being changed for {}", micros(us)));
        }
        if s.disagreements_now > 0 {
            add(Level::Warning, "disagreements", many(s.disagreements_now, "disagreement", "disagreements"));
        }
        if s.without_quorum > 0 {
            add(
                Level::Warning,
                "no-quorum",
                format!("{} without a majority", many(s.without_quorum, "prefix", "prefixes")),
            );
        }
        let log = s.event_log.as_ref();
        if let Some(why) = log.and_then(|log| log.failing.as_ref()) {
            add(Level::Warning, "events-lost", format!("the event log cannot be written ({why})"));
        }
        let lost = log.map_or(0, |log| log.lost) + s.events_dropped.unwrap_or(0);
        if lost > 0 {
            add(Level::Warning, "events-lost", format!("{} lost", verb(lost, "event", "is", "are")));
        }
    }

    fn sessions(&self, add: &mut impl FnMut(Level, &'static str, String)) {
        let wanted: Vec<&api::Session> = self.sessions.iter().filter(|s| !s.shut && s.state != "native").collect();
        let down: Vec<&str> = wanted.iter().filter(|s| s.up_us.is_none()).map(|s| s.peer.as_str()).collect();
        match down.len() {
            0 => {}
            n if n == wanted.len() => {
                add(Level::Critical, "all-sessions-down", format!("no session is up, of {n}"));
            }
            _ => add(Level::Warning, "session-down", format!("down: {}", some(&down))),
        }
        // As virtd itself counts for `one-alone`: who votes here has a leg that is established.
        let votes = |leg: &&api::Leg| leg.votes && leg.state == "Established";
        let alone = |s: &&&api::Session| {
            self.status.voters > 1 && s.up_us.is_some() && s.legs.iter().filter(votes).count() == 1
        };
        let alone: Vec<&api::Session> = wanted.iter().filter(alone).copied().collect();
        if let Some(first) = alone.first() {
            let who = first.legs.iter().find(votes).map_or("?", |leg| leg.instance.as_str());
            add(
                Level::Critical,
                "one-alone",
                format!("{who} alone drives {}", many(alone.len() as u64, "session", "sessions")),
            );
        }
    }
}

/// So many of something.
fn many(n: u64, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// So many of something, and its verb.
fn verb(n: u64, noun: &str, one: &str, more: &str) -> String {
    if n == 1 { format!("1 {noun} {one}") } else { format!("{n} {noun}s {more}") }
}

/// One instance.
fn instance(i: &api::Instance, add: &mut impl FnMut(Level, &'static str, String)) {
    let name = &i.name;
    let votes = i.role == "voter";
    let missing = if votes { Level::Critical } else { Level::Warning };
    match (i.role.as_str(), i.state.as_str()) {
        // An operator's will, or on its way.
        ("drained" | "disabled", _) => {
            add(Level::Warning, "instance-out", format!("{name} is {} by an operator", i.role));
        }
        ("standby" | "leaving" | "successor", _) => {}
        (_, "absent") => add(missing, "instance-missing", format!("{name} is not there{}", fault(i))),
        (_, _) if i.legs > 0 && i.legs_up == 0 => {
            add(missing, "instance-missing", format!("{name} is on none of {} sessions{}", i.legs, fault(i)));
        }
        (_, _) if i.legs_up < i.legs => {
            let text = format!("{name} is on {} of {} sessions", i.legs_up, i.legs);
            add(Level::Warning, "instance-apart", text);
        }
        (_, "catching-up") => add(Level::Warning, "not-level", format!("{name} is catching up")),
        _ => {}
    }
    if !i.suspect.is_empty() {
        add(Level::Warning, "suspect", format!("{name}: {} out of the ordinary", i.suspect.join(" and ")));
    }
    if i.withheld > 0 {
        add(Level::Warning, "withheld", format!("{} UPDATEs or prefixes are withheld from {name}", i.withheld));
    }
}

fn fault(i: &api::Instance) -> String {
    i.last_death.as_ref().or(i.last_fault.as_ref()).map_or_else(String::new, |why| format!(" (last: {why})"))
}

fn fib_apart(fib: &api::Fib, add: &mut impl FnMut(Level, &'static str, String)) {
    if fib.failed > 0 {
        add(
            Level::Warning,
            "fib-refused",
            format!("the kernel does not take {}", many(fib.failed as u64, "route", "routes")),
        );
    }
    if fib.without_quorum > 0 {
        add(
            Level::Warning,
            "no-quorum",
            format!("{} without a majority", many(fib.without_quorum, "FIB entry", "FIB entries")),
        );
    }
    let differ: Vec<&str> = fib.instances.iter().filter(|i| i.dissents > 0).map(|i| i.name.as_str()).collect();
    if !differ.is_empty() {
        add(Level::Warning, "fib-apart", format!("{} not with the majority in the FIB", some(&differ)));
    }
}

/// The first few.
fn some(names: &[&str]) -> String {
    const NAMED: usize = 3;
    let first = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

impl Health {
    fn of(mut problems: Vec<Problem>, well: String, figures: BTreeMap<&'static str, u64>) -> Health {
        problems.sort_by_key(|p| std::cmp::Reverse(p.level));
        let level = problems.first().map_or(Level::Ok, |p| p.level);
        Health { level, exit: level.status(), problems, well, figures }
    }

    /// The line: `WORD - text | figures`.
    pub fn line(&self) -> String {
        let told: Vec<&str> = self.problems.iter().map(|p| p.text.as_str()).collect();
        let text = if told.is_empty() { self.well.clone() } else { told.join("; ") };
        let mut out = format!("{} - {}", self.level.word(), one_line(&text));
        let mut between = " | ";
        for (name, n) in &self.figures {
            // What only grows is a counter.
            let unit = match *name {
                "votes" | "updates_in" | "worker_restarts" => "c",
                "uptime" => "s",
                _ => "",
            };
            let _ = write!(out, "{between}{name}={n}{unit}");
            between = " ";
        }
        out.push('\n');
        out
    }
}

/// Behind a bar figures would begin, and behind the end of a line another one.
fn one_line(text: &str) -> String {
    clean(&text.lines().collect::<Vec<_>>().join(" ")).replace('|', "/")
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
