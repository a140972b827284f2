//! Events as clients and the file of events get them.

use crate::Pair;
use serde::{Deserialize, Serialize};

/// The last events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
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
    Event(Box<Event>),
}

/// Something that happened. What it is not about is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// From 1, without gaps.
    pub seq: u64,
    /// When: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// When: microseconds since virtd's start.
    pub at_us: u64,
    /// `session-up`, `disagreement`, …: docs/OPERATIONS.md lists all.
    pub kind: String,
    /// `info`, `warning`, `alarm`.
    pub severity: String,
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
    pub prefix: Option<String>,
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
