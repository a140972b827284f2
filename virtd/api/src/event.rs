//! Events as clients and the file of events get them.

use crate::Pair;
use serde::{Deserialize, Serialize};

/// The last events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Logged>,
}

/// A line for who follows the events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Followed {
    /// The client was too slow.
    Missed {
        /// So many events it is not given.
        missed: u64,
    },
    /// The last line.
    Ended {
        /// Why, a sentence.
        ended: String,
    },
    /// An event.
    Event(Box<Logged>),
}

/// An event in the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logged<E = Event> {
    /// From 1, without gaps.
    pub seq: u64,
    /// When: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub event: E,
}

/// Something that happened. What it is not about is left out. Where virtd itself has types, whoever
/// reads has text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event<Kind = String, Severity = String, Prefix = String> {
    /// When: microseconds since virtd's start.
    pub at_us: u64,
    /// A kebab-case word that scripts can match: `session-up`, `disagreement`, …
    /// docs/EVENTS.md lists all.
    pub kind: Kind,
    /// How much an operator should care: `info`, `warning`, `alarm`.
    pub severity: Severity,
    /// The session it is about, by its peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The instance it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Since when it has been so, microseconds since virtd's start: a disagreement, a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_us: Option<u64>,
    /// The prefix it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Prefix>,
    /// What every instance said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Said>,
    /// How independent pairs of instances are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
    /// The user who asked for it, by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// One sentence that names the thing and the remedy.
    pub text: String,
}

impl<Kind, Severity, Prefix> Event<Kind, Severity, Prefix> {
    /// An event about nothing in particular; add what it is about with the `with_` functions.
    pub fn new(at_us: u64, kind: Kind, severity: Severity, text: impl Into<String>) -> Self {
        Event {
            at_us,
            kind,
            severity,
            session: None,
            instance: None,
            since_us: None,
            prefix: None,
            said: Vec::new(),
            pairs: Vec::new(),
            uid: None,
            text: text.into(),
        }
    }

    /// Names the session, by what an operator calls its peer.
    pub fn with_session(mut self, peer: impl Into<String>) -> Self {
        self.session = Some(peer.into());
        self
    }

    /// Names the instance.
    pub fn with_instance(mut self, name: &str) -> Self {
        self.instance = Some(name.to_owned());
        self
    }
}

/// What one instance said about a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// The instance's name.
    pub instance: String,
    /// Its route in words, `none`, or why it does not count (`abstains: not level`).
    pub route: String,
    /// Whether it counted; true where it is left out.
    #[serde(default = "crate::yes")]
    pub counted: bool,
}

/// The operators' list of all kinds: the table under this title is the one that programs are
/// checked against, too.
const EVENTS: &str = include_str!("../../../docs/EVENTS.md");

/// Every kind of event that there is, as the documentation lists them.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    let table =
        EVENTS.lines().skip_while(|line| *line != "## Events").skip(1).take_while(|line| !line.starts_with("## "));
    let cells = table.filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|word| !word.trim().is_empty())
}
