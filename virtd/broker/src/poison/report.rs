//! What an operator is told of the search, and what is kept of its end.
//!
//! A finding waits for the supervisor's word on how the process ended, for a moment: the leg is
//! gone before the process is reaped.

use super::{Step, Suspect};
use crate::controller::{Controller, Fate};
use crate::env::Env;
use crate::event::{Event, Severity};
use crate::io::{Direction, Micros, Output, Record};
use crate::session::Session;
use serde_json::{Value, json};
use voter::Members;
use wire::bgp::{Notification, Prefix, hex};

/// Messages before the culprit that go into the record.
const KEPT_BEFORE: usize = 16;
/// A process whose leg closed has until then to be gone.
const GONE_US: Micros = 500_000;
/// The supervisor waits for the rest of an instance's processes before it says how the first one
/// ended.
const WORD_US: Micros = 5_000_000;

/// How the leg of an instance ended; the last says most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// Without a word.
    Closed,
    /// Nothing came from the instance for its hold time.
    Hung {
        /// Seconds.
        hold_s: u16,
    },
    /// It answered with a NOTIFICATION (RFC 4271 section 4.5).
    Notification {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
    },
}

/// A finding that has not been told yet.
pub struct Report {
    instance: usize,
    at: Micros,
    end: End,
    /// What does not survive what.
    text: String,
    event: Event,
    record: Option<Box<Record>>,
}

impl Report {
    /// Whether it is about instance `i`.
    pub fn is_about(&self, i: usize) -> bool {
        self.instance == i
    }

    /// Tells it where everything is known that will be; else gives it back.
    pub fn tell(self, env: &mut Env, controller: &Controller) -> Option<Report> {
        let attached = env.instances.get(self.instance).is_some_and(|s| s.attached);
        let fate = controller.fate(self.instance, self.at);
        let waits = match (&fate, self.end) {
            (Fate::Ended(_), _) | (_, End::Hung { .. } | End::Notification { .. }) => false,
            (Fate::Unknown, _) if !attached => env.now < self.at + WORD_US,
            _ => env.now < self.at + GONE_US,
        };
        if waits {
            return Some(self);
        }
        self.tell_now(env, controller);
        None
    }

    /// Tells it as far as it is known.
    pub fn tell_now(self, env: &mut Env, controller: &Controller) {
        let Report { instance, at, end, text, mut event, record } = self;
        let attached = env.instances.get(instance).is_some_and(|s| s.attached);
        let process = match controller.fate(instance, at) {
            Fate::Ended(text) if end == End::Closed => Some(text),
            _ => None,
        };
        let how = match (process, end) {
            (Some(process), End::Closed) => process.to_owned(),
            (_, End::Closed) if !attached => "it closed its leg, and its processes are gone".to_owned(),
            (_, End::Closed) => "it closed its leg without a NOTIFICATION".to_owned(),
            (_, End::Hung { hold_s }) => format!("it hung: nothing came from it for {hold_s} s"),
            (_, End::Notification { code, subcode }) => {
                format!("it answered with NOTIFICATION {}", Notification::new(code, subcode))
            }
        };
        event.at_us = env.now;
        event.text = format!("{text} ({how}); it is withheld from this instance, which abstains on its prefixes");
        env.out.push(event.into());
        let Some(mut record) = record else { return };
        if let Value::Object(account) = &mut record.account {
            let mut ended = match end {
                End::Closed => json!({ "leg": "closed" }),
                End::Hung { hold_s } => json!({ "leg": "hold-time-expired", "hold_s": hold_s }),
                End::Notification { code, subcode } => {
                    json!({ "leg": "notification", "code": code, "subcode": subcode })
                }
            };
            ended["processes_gone"] = (!attached).into();
            ended["process"] = process.into();
            ended["text"] = how.into();
            account.insert("end".to_owned(), ended);
        }
        env.out.push(Output::Record(record));
    }
}

/// What follows from a step: what is to be told to the instance again, by session, and what is to
/// be told of a finding.
pub struct Consequences {
    /// Session and prefixes.
    pub again: Vec<(usize, Vec<Prefix>)>,
    /// Still to be told.
    pub report: Option<Report>,
}

/// Tells the operator of a step, a finding excepted: that one is made ready.
pub fn tell(i: usize, step: &Step, env: &mut Env, sessions: &[Session]) -> Consequences {
    let name = env.name(i);
    let mut report = None;
    let again = match step {
        Step::Suspected(n, innocent) => {
            let text = format!(
                "{name} died right after {n} UPDATEs: they are withheld from it until it is clear whether one of them did it"
            );
            env.tell_about("poison-suspected", Severity::Warning, i, text);
            innocent
        }
        Step::Found { found, before, innocent, end } => {
            report = Some(found_one(i, found, before, *end, env, sessions));
            innocent
        }
        Step::Release(list, over) => {
            if *over {
                let text = format!(
                    "{name} has been told everything that was withheld from it, and lives: something else had ended it"
                );
                env.tell_about("poison-released", Severity::Info, i, text);
            }
            list
        }
    };
    Consequences {
        again: again.iter().map(|s| (s.session, s.keys.iter().map(|(p, _)| *p).collect())).collect(),
        report,
    }
}

fn found_one(i: usize, found: &[Suspect], before: &[Suspect], end: End, env: &Env, sessions: &[Session]) -> Report {
    let name = env.name(i);
    let peer = |s: &Suspect| sessions.get(s.session).map_or_else(|| "?".to_owned(), |s| env.peer_name(&s.peer));
    let one = found.first();
    let what = match found.len() {
        1 => format!("an UPDATE from {}", one.map(peer).unwrap_or_default()),
        n => format!("one of {n} UPDATEs, which the search could not tell apart"),
    };
    let keys: Vec<String> = found.iter().flat_map(|s| &s.keys).take(5).map(|(p, _)| p.to_string()).collect();
    let keys = if keys.is_empty() { String::new() } else { format!(" with {}", keys.join(", ")) };
    let malformed = if one.is_some_and(|s| s.malformed) { ", malformed" } else { "" };
    let mut event = Event::new(env.now, "poison", Severity::Warning, String::new()).with_instance(name);
    event.session = one.map(peer);
    event.prefix = one.and_then(|s| s.keys.first()).map(|(p, _)| *p);
    let recorded = env.config.recorder.folder.is_some();
    Report {
        instance: i,
        at: env.now,
        end,
        text: format!("{name} does not survive {what}{keys}{malformed}"),
        event,
        record: recorded.then(|| Box::new(record(i, found, before, env, sessions))),
    }
}

/// The reproducer: what was delivered shortly before, then the culprit.
fn record(i: usize, found: &[Suspect], before: &[Suspect], env: &Env, sessions: &[Session]) -> Record {
    let message =
        |s: &Suspect| sessions.get(s.session)?.recorded(i, Direction::To(Members::EMPTY), s.bytes.clone(), env);
    let instance = env.name(i);
    let before = before.iter().rev().take(KEPT_BEFORE).rev();
    let culprits: Vec<String> = found.iter().map(|s| hex(&s.bytes)).collect();
    Record {
        at: env.now,
        kind: "poison",
        instance: instance.to_owned(),
        messages: before.chain(found).filter_map(message).collect(),
        account: json!({ "instance": instance, "culprits": culprits, "malformed": found.iter().any(|s| s.malformed) }),
    }
}
