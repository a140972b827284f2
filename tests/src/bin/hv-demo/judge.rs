//! What the neighbours noticed, counted on their side only.

use anyhow::{Result, ensure};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tests::replayer::{Outcome, differences, table};
use wire::bgp::Prefix;

/// How many differences are printed.
const SHOWN: usize = 10;

/// The demo's outcome.
#[derive(Debug)]
pub struct Verdict {
    sessions: u64,
    sessions_reset: u64,
    routes: usize,
    routes_lost: usize,
    routes_wrong: usize,
    updates_during_faults: usize,
    votes: u64,
    instances: usize,
    differences: Vec<String>,
}

/// Any prefix of the first table.
pub fn some_prefix(expected: &[PathBuf]) -> Option<Prefix> {
    let routes = table(expected.first()?).ok()?;
    routes.keys().nth(routes.len() / 2)?.parse().ok()
}

impl Verdict {
    /// Compares what each neighbour learned with what it should have learned, in the same order.
    pub fn new(
        expected: &[PathBuf],
        outcomes: &[Outcome],
        told: usize,
        votes: u64,
        instances: usize,
    ) -> Result<Verdict> {
        ensure!(expected.len() == outcomes.len(), "as many tables as neighbours");
        let mut verdict = Verdict {
            sessions: 0,
            sessions_reset: 0,
            routes: 0,
            routes_lost: 0,
            routes_wrong: 0,
            updates_during_faults: told,
            votes,
            instances,
            differences: Vec::new(),
        };
        for (reference, outcome) in expected.iter().zip(outcomes) {
            let (before, after) = (table(reference)?, outcome.routes()?);
            let up = outcome.number("sessions_up");
            verdict.sessions += 1;
            // A session that never stood is as bad as one that fell.
            verdict.sessions_reset += outcome.number("sessions_reset").max(up.abs_diff(1));
            verdict.routes += after.len();
            let lost = before.keys().filter(|p| !after.contains_key(*p)).count();
            let found = differences(reference, &outcome.table)?;
            verdict.routes_lost += lost;
            verdict.routes_wrong += found.routes.len() - lost;
            verdict.differences.extend(found.routes);
        }
        // The watcher should have been told nothing while the daemons lied and died; what was said then was wrong for a moment.
        verdict.routes_wrong += told;
        Ok(verdict)
    }

    /// Nothing was noticed.
    pub fn masked(&self) -> bool {
        self.sessions_reset == 0 && self.routes_lost == 0 && self.routes_wrong == 0
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!(
            "          sessions reset: {} of {}\n          routes lost: {} of {}\n          routes wrong: {}\n          \
             UPDATEs to the watching neighbour while a daemon lied, died and returned: {}\n",
            self.sessions_reset,
            self.sessions,
            self.routes_lost,
            self.routes,
            self.routes_wrong,
            self.updates_during_faults
        );
        for line in self.differences.iter().take(SHOWN) {
            text.push_str(&format!("          {line}\n"));
        }
        let all = "One daemon lied, one died and came back, and nobody outside noticed.";
        text.push_str(if self.masked() { all } else { "Something was noticed outside: see above." });
        text.push('\n');
        text
    }

    /// For a program: the last line of the demo.
    pub fn json(&self, took: Duration) -> String {
        json!({
            "sessions_reset": self.sessions_reset,
            "routes_lost": self.routes_lost,
            "routes_wrong": self.routes_wrong,
            "votes": self.votes,
            "instances": self.instances,
            "neighbours": self.sessions,
            "routes": self.routes,
            "updates_during_faults": self.updates_during_faults,
            "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
        })
        .to_string()
    }
}
