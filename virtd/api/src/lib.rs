//! What goes over virtd's control socket, as types: virtd fills them, virtctl and the tests read
//! them.
//!
//! One JSON object a line each way. A client sends a [`Request`] and knows by that what the answer
//! is:
//!
//! | request | answer |
//! |---|---|
//! | [`Request::Status`] | [`Status`] |
//! | [`Request::Sessions`] | [`Sessions`]; with `open = "native"` [`NativeSessions`] |
//! | [`Request::Session`] | [`OneSession`]; with an action [`Done`] |
//! | [`Request::Instances`] | [`Instances`] |
//! | [`Request::Routes`] | [`Routes`] |
//! | [`Request::Differs`] | [`Differs`] |
//! | [`Request::Fib`] | [`Fib`]; with `prefix` or `diff` [`FibEntries`], with `flush` [`Done`] |
//! | [`Request::Diversity`] | [`Diversity`] |
//! | [`Request::Instance`], [`Request::Change`] | [`Done`] |
//! | [`Request::Reload`] | [`Reloaded`] |
//! | [`Request::Upgrade`] | [`Upgrade`] |
//! | [`Request::Events`] | [`Events`]; with `follow` a line of [`Followed`] for each |
//! | [`Request::Ribs`] | [`Ribs`], and then frames ([`ribs`]) |
//! | any that is refused | [`Refused`] |
//!
//! Either side may be the older one. What a reader does not know it ignores, and what it misses in
//! an answer is as in [`Default`] unless it says otherwise: nothing, 0, false, empty. Words out of
//! a fixed set are text here, since the next virtd may have one more. A field is null where it says
//! [`Option`], unless it says that it is left out.
#![forbid(unsafe_code)]

mod diversity;
mod event;
mod fib;
mod request;
pub mod ribs;
mod router;
mod routes;

pub use diversity::{Aspect, Diversity, Pair, SessionPairs, Verdicts};
pub use event::{Event, Events, Followed, Logged, Said, kinds};
pub use fib::{Fib, FibEntries, FibEntry, FibInstance, FibKernel};
pub use request::{COMMANDS, Exec, Request};
pub use ribs::{Ribs, SpeakerDown, SpeakerUp};
pub use router::{
    Durations, Ended, EventLog, Gone, Instance, Instances, Leg, Memory, NativeSession, NativeSessions, OneSession,
    Router, Session, Sessions, Status, Turn, Worker,
};
pub use routes::{Candidate, Difference, Differing, Differs, Received, Route, Routes, Told};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

fn yes() -> bool {
    true
}

/// What a command has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// A sentence.
    pub done: String,
    /// The peers whose sessions are shut down now. Left out where the command was not about a
    /// session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shut: Option<Vec<String>>,
    /// Routes removed from the kernel. Left out but for `fib` with `flush`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
}

/// What has become of a configuration file that was read again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// What is done, or with `dry_run` would be, a sentence each; empty where nothing has changed.
    pub done: Vec<String>,
    /// What needs a restart of virtd and is left as it was: keys of the file.
    pub later: Vec<String>,
    /// It was only asked what would be done.
    pub dry_run: bool,
}

/// Another program was tried, and takes over where that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upgrade {
    /// What the worker is made of.
    pub from: Program,
    /// What the next one is made of.
    pub to: Program,
    /// Sessions that it has read, and would read so again.
    pub sessions: u64,
    /// Prefixes that their peers announce.
    pub heard: u64,
    /// Prefixes that their peers were told.
    pub told: u64,
    /// It was only tried.
    pub dry_run: bool,
    /// The process id of the worker that is to end. That of the next one is in `status`.
    pub worker: u32,
}

/// A program of virtd's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
}

/// Why there is no answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// A sentence for the operator.
    pub error: String,
}
