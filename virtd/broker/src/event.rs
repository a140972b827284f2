//! Events: what virtd tells the operator, in order, each with everything needed to understand it.

use serde::{Deserialize, Serialize};
pub use virtd_api::{Said, kinds};
use wire::bgp::Prefix;

/// How much an operator should care.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Ordinary life: a session came up, an instance attached.
    Info,
    /// Something is wrong and was masked.
    Warning,
    /// A peer is affected, or the next fault would not be masked.
    Alarm,
}

/// One event.
pub type Event = virtd_api::Event<&'static str, Severity, Prefix>;

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
        for crate_of_virtd in ["../src", "src", "../linux/src", "../master/src"] {
            sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(crate_of_virtd), &mut source);
        }
        let all: Vec<_> = kinds().collect();
        assert!(all.len() > 80 && all.contains(&"session-up") && all.contains(&"fib-accepted"), "{all:?}");
        let unknown: Vec<_> = all.iter().filter(|kind| !source.contains(&format!("\"{kind}\""))).collect();
        // The FIB's verdicts are those of the sessions with a word before them.
        assert!(unknown.iter().all(|kind| kind.starts_with("fib-")), "{unknown:?}");
    }
}
