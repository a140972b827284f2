//! What came of the cases, line by line and as a table.

use anyhow::Result;
use serde_json::{Value, json};
use tests::daemons::Daemon;
use tests::sessions::stage::{Made, Stage};
use tests::sessions::{Case, Told};

/// What came of one case in one router.
pub struct Line {
    case: &'static str,
    row: char,
    stage: Stage,
    seconds: f64,
    outside_ms: Option<u64>,
    notes: Vec<String>,
    /// Why it has failed, if it has.
    pub failed: Option<String>,
}

impl Line {
    /// Out of what a case returned after so many seconds.
    pub fn new(case: &Case, stage: Stage, seconds: f64, outcome: Result<Told>) -> Line {
        let (told, failed) = match outcome {
            Ok(told) => (told, None),
            Err(e) => (Told::default(), Some(format!("{e:#}"))),
        };
        let (outside_ms, notes) = (told.outside_ms, told.notes);
        Line { case: case.name, row: case.row, stage, seconds, outside_ms, notes, failed }
    }

    fn strategy(&self) -> &'static str {
        if self.stage.made.is_alone() { "-" } else { self.stage.strategy }
    }

    /// As it ends: the `n`th of so many.
    pub fn print(&self, n: usize, count: usize) {
        let word = if self.failed.is_none() { "ok    " } else { "FAILED" };
        let (made, strategy, seconds) = (self.stage.made.name(), self.strategy(), self.seconds);
        let detail = self.failed.clone().unwrap_or_else(|| self.notes.join(", "));
        println!("[{n}/{count}] {word} {:22} {made:15} {strategy:20} {seconds:6.1} s  {detail}", self.case);
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "case": self.case, "row": self.row.to_string(), "router": self.stage.made.name(), "strategy": self.strategy(),
            "outside_ms": self.outside_ms, "passed": self.failed.is_none(),
            "seconds": (self.seconds * 10.0).round() / 10.0, "notes": self.notes, "failed": self.failed,
        })
    }
}

/// How much later than the second fastest daemon on its own the neighbours may see an end: later is
/// said, and is no failure.
const LATER_MS: u64 = 1_000;

/// By how much an end came later than it should.
fn late(outside_ms: Option<u64>, own: [Option<u64>; 3]) -> Option<u64> {
    let mut own: Vec<u64> = own.into_iter().flatten().collect();
    own.sort_unstable();
    // Where only one daemon does it at all, it is the measure.
    let measure = own.get(1).or_else(|| own.first())?;
    outside_ms?.checked_sub(measure + LATER_MS).filter(|ms| *ms > 0)
}

/// The table: a line for each router with virtd, and what each daemon takes on its own.
pub fn print(lines: &[Line]) {
    let (alone, ours): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|line| line.stage.made.is_alone());
    let ms = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    let own = |case: &str, daemon: Daemon| {
        let found = alone.iter().find(|line| line.case == case && line.stage.made == Made::Alone(daemon));
        found.and_then(|line| line.outside_ms)
    };
    println!(
        "\n{:3} {:22} {:13} {:20} {:>10} {:>11} {:>11} {:>14}",
        "ROW", "CASE", "ROUTER", "STRATEGY", "OUTSIDE", "FRR ALONE", "BIRD ALONE", "OPENBGPD ALONE"
    );
    // Without a router to compare with, the daemons themselves are the table.
    let shown = if ours.is_empty() { &alone } else { &ours };
    for line in shown {
        let times = Daemon::ALL.map(|daemon| own(line.case, daemon));
        let late = late(line.outside_ms, times).filter(|_| !line.stage.made.is_alone());
        let late = late.map_or_else(String::new, |ms| format!(", late by {ms} ms"));
        let [frr, bird, openbgpd] = times.map(ms);
        println!(
            "{:3} {:22} {:13} {:20} {:>10} {frr:>11} {bird:>11} {openbgpd:>14}  {}{late}",
            line.row,
            line.case,
            line.stage.made.name(),
            line.strategy(),
            ms(line.outside_ms),
            if line.failed.is_none() { "passed" } else { "FAILED" }
        );
    }
    for line in alone.iter().filter(|line| line.failed.is_some()) {
        println!("{} with {}: FAILED, so its own time is missing", line.case, line.stage.made.name());
    }
    println!();
}

#[cfg(test)]
mod late_tests {
    use super::late;

    #[test]
    fn late_is_a_second_after_the_second_fastest() {
        assert_eq!(late(Some(1_900), [Some(50), Some(3_000), Some(1_000)]), None);
        assert_eq!(late(Some(2_300), [Some(50), Some(3_000), Some(1_000)]), Some(300));
        assert_eq!(late(Some(1_400), [Some(300), None, None]), Some(100));
        assert_eq!(late(Some(1_400), [None, None, None]), None);
        assert_eq!(late(None, [Some(1), Some(2), Some(3)]), None);
    }
}
