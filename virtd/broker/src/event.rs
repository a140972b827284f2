//! Events: what virtd tells the operator, in order, each with everything needed to understand it.

use serde::Serialize;
use virtd_api::Pair;
pub use virtd_api::Said;
use wire::bgp::Prefix;

/// How much an operator should care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Ordinary life: a session came up, an instance attached.
    Info,
    /// Something is wrong and was masked.
    Warning,
    /// A peer is affected, or the next fault would not be masked.
    Alarm,
}

/// One event, as [`virtd_api::Event`] is read. `kind` is a stable kebab-case word that scripts can
/// match; `text` is for people.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    /// Microseconds since virtd started.
    pub at_us: u64,
    /// `session-up`, `leg-closed`, `disagreement`, `agreement`, …: docs/OPERATIONS.md lists all.
    pub kind: &'static str,
    /// How bad.
    pub severity: Severity,
    /// The session it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The instance it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Since when it has been so, microseconds since virtd started: a disagreement, a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_us: Option<u64>,
    /// The prefix it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Prefix>,
    /// What every instance said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Said>,
    /// How independent pairs of instances are, as `virtctl diversity` has it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
    /// The user who asked for it, by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// One sentence that names the thing and the remedy.
    pub text: String,
}

/// The operators' list of all kinds: the table under this title is the one that programs are
/// checked against, too.
const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");

/// Every kind of event that there is, as the documentation lists them.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    let table =
        OPERATIONS.lines().skip_while(|line| *line != "## Events").skip(1).take_while(|line| !line.starts_with("## "));
    let cells = table.filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|word| !word.trim().is_empty())
}

impl Event {
    /// An event about nothing in particular; add what it is about with the `with_` functions.
    pub fn new(at_us: u64, kind: &'static str, severity: Severity, text: impl Into<String>) -> Event {
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
    pub fn with_session(mut self, peer: impl Into<String>) -> Event {
        self.session = Some(peer.into());
        self
    }

    /// Names the instance.
    pub fn with_instance(mut self, name: &str) -> Event {
        self.instance = Some(name.to_owned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn sources(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => sources(&path, all),
                path => all.push_str(&fs::read_to_string(path).unwrap_or_default()),
            }
        }
    }

    #[test]
    fn every_kind_that_is_documented_is_one() {
        let mut source = String::new();
        for crate_of_virtd in ["../src", "src", "../linux/src"] {
            sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(crate_of_virtd), &mut source);
        }
        let all: Vec<_> = kinds().collect();
        assert!(all.len() > 80 && all.contains(&"session-up") && all.contains(&"fib-accepted"), "{all:?}");
        let unknown: Vec<_> = all.iter().filter(|kind| !source.contains(&format!("\"{kind}\""))).collect();
        // The FIB's verdicts are those of the sessions with a word before them.
        assert!(unknown.iter().all(|kind| kind.starts_with("fib-")), "{unknown:?}");
    }
}
