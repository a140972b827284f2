//! What a neighbour is told, UPDATE by UPDATE, against what was said.

use super::script::{FIRST_NUMBER, Word, Words};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

/// Examples of each kind that are kept.
const EXAMPLES: usize = 5;

/// What was wrong.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Wrongs {
    /// Sessions that ended.
    pub sessions_reset: u64,
    /// Withdrawals that nobody has made.
    pub withdrawals_unmade: u64,
    /// Routes that were told although they had been told just so.
    pub repeated: u64,
    /// Routes that nobody has said, or that were no more.
    pub routes_untrue: u64,
    /// Some of all these, in words.
    pub examples: Vec<String>,
}

impl Wrongs {
    /// How many.
    pub fn count(&self) -> u64 {
        self.sessions_reset + self.withdrawals_unmade + self.repeated + self.routes_untrue
    }

    /// With another's.
    #[must_use]
    pub fn and(mut self, other: Wrongs) -> Wrongs {
        self.sessions_reset += other.sessions_reset;
        self.withdrawals_unmade += other.withdrawals_unmade;
        self.repeated += other.repeated;
        self.routes_untrue += other.routes_untrue;
        self.examples.extend(other.examples);
        self
    }

    fn note(&mut self, what: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(what);
        }
    }
}

/// What a neighbour knows of a prefix.
#[derive(Debug, Default)]
struct Known {
    /// It has a route: its hash.
    route: Option<u64>,
    /// How many words on it have been answered.
    answered: usize,
}

/// Follows one neighbour's log.
#[derive(Debug)]
pub struct Observer {
    name: String,
    events: BufReader<File>,
    line: String,
    words: Arc<Words>,
    known: HashMap<String, Known>,
    /// What was wrong so far.
    pub wrongs: Wrongs,
    /// When it was last told anything: UPDATEs, KEEPALIVEs or both, microseconds since 1970.
    pub heard: Vec<(u64, bool)>,
    /// UPDATEs.
    pub updates: u64,
}

impl Observer {
    /// Of the neighbour that writes this log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn new(name: &str, log: &Path, words: Arc<Words>) -> Result<Observer> {
        let events = BufReader::new(File::open(log).with_context(|| format!("reading {}", log.display()))?);
        let (line, known, heard) = Default::default();
        Ok(Observer { name: name.to_owned(), events, line, words, known, wrongs: Wrongs::default(), heard, updates: 0 })
    }

    /// Reads what has been written since.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn look(&mut self) -> Result<()> {
        while self.events.read_line(&mut self.line)? > 0 {
            if !self.line.ends_with('\n') {
                // The rest of it comes later.
                return Ok(());
            }
            let event: Value = serde_json::from_str(&self.line).context("an event of hv-replay's")?;
            self.line.clear();
            self.judge(&event);
        }
        Ok(())
    }

    fn judge(&mut self, event: &Value) {
        let at = event["ts_us"].as_u64().unwrap_or(0);
        match event["event"].as_str().unwrap_or_default() {
            "session-down" if event["reset"] == true => {
                self.wrongs.sessions_reset += 1;
                let text = format!("{} lost its session: {} ({at})", self.name, event["why"]);
                self.wrongs.note(text);
            }
            "session-up" => {
                // It knows nothing, and may be told what it was told last.
                for known in self.known.values_mut() {
                    (known.route, known.answered) = (None, known.answered.saturating_sub(1));
                }
            }
            "keepalive" => self.heard.push((at, false)),
            "update" => {
                self.updates += 1;
                self.heard.push((at, true));
                for prefix in event["withdrawn"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    self.withdrawn(prefix, at);
                }
                for told in event["announced"].as_array().into_iter().flatten() {
                    let route = told["route"].to_string();
                    for prefix in told["prefixes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                        self.announced(prefix, &route, at);
                    }
                }
            }
            _ => {}
        }
    }

    fn withdrawn(&mut self, prefix: &str, at: u64) {
        let known = self.known.entry(prefix.to_owned()).or_default();
        let from = known.answered;
        let made = self.words.of(prefix, |words| {
            let words = words.unwrap_or_default();
            words.iter().skip(from).position(|w| *w == Word::Gone).map(|n| from + n + 1)
        });
        let had = known.route.take().is_some();
        match made {
            _ if !had => {
                self.wrongs.repeated += 1;
                self.wrongs.note(format!("{} is withdrawn {prefix}, which it has not ({at})", self.name));
            }
            None => {
                self.wrongs.withdrawals_unmade += 1;
                self.wrongs.note(format!("{} is withdrawn {prefix}, which nobody has withdrawn ({at})", self.name));
            }
            Some(answered) => known.answered = answered,
        }
    }

    fn announced(&mut self, prefix: &str, route: &str, at: u64) {
        let mut hasher = DefaultHasher::new();
        route.hash(&mut hasher);
        let (hash, word) = (hasher.finish(), number_in(route).map_or(Word::Plain, Word::Route));
        let known = self.known.entry(prefix.to_owned()).or_default();
        let from = known.answered;
        let before = known.route.replace(hash);
        if before == Some(hash) {
            self.wrongs.repeated += 1;
            self.wrongs.note(format!("{} is told {prefix} again: {route} ({at})", self.name));
            return;
        }
        let said = self.words.of(prefix, |words| match words {
            Some(words) => words.iter().skip(from).position(|w| *w == word).map(|n| from + n + 1),
            // Nobody changes it: it comes once.
            None => before.is_none().then_some(0),
        });
        match said {
            Some(answered) => known.answered = answered,
            None => {
                self.wrongs.routes_untrue += 1;
                self.wrongs.note(format!("{} is told {prefix}, which nobody says now: {route} ({at})", self.name));
            }
        }
    }

    /// What it lacks, or has and should not, of what changes, when all is said.
    pub fn differs(&self, own: impl Fn(&str) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for (prefix, word) in self.words.last().into_iter().filter(|(prefix, _)| !own(prefix)) {
            let has = self.known.get(&prefix).is_some_and(|k| k.route.is_some());
            if has != (word != Word::Gone) {
                found.push(format!("{}: {prefix} is {}", self.name, if has { "there" } else { "missing" }));
            }
        }
        found
    }

    /// How many prefixes it has.
    pub fn routes(&self) -> usize {
        self.known.values().filter(|k| k.route.is_some()).count()
    }

    /// The first KEEPALIVE or UPDATE, and the first UPDATE, after a moment.
    pub fn first_after(&self, at: u64) -> (Option<u64>, Option<u64>) {
        let from = self.heard.partition_point(|(t, _)| *t <= at);
        let after = &self.heard[from..];
        (after.first().map(|(t, _)| *t), after.iter().find(|(_, update)| *update).map(|(t, _)| *t))
    }
}

/// The number that tells one word from another.
fn number_in(route: &str) -> Option<u32> {
    let digits = route.split(|c: char| !c.is_ascii_digit());
    digits.filter_map(|n| n.parse().ok()).find(|n| (FIRST_NUMBER..u32::MAX).contains(n))
}

/// The middle one and the largest.
pub fn median_and_max(mut all: Vec<f64>) -> (Option<f64>, Option<f64>) {
    all.sort_by(f64::total_cmp);
    (all.get(all.len() / 2).copied(), all.last().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn update(announced: &[(&str, u32)], withdrawn: &[&str]) -> String {
        let told = |(prefix, number): &(&str, u32)| serde_json::json!({"prefixes": [prefix], "route": {"as_path": format!("65000 {number}")}});
        let announced: Vec<Value> = announced.iter().map(told).collect();
        serde_json::json!({"ts_us": 1, "event": "update", "announced": announced, "withdrawn": withdrawn}).to_string()
    }

    /// What is wrong of these events, where a prefix was announced, withdrawn and announced again.
    fn judged(events: &[String]) -> Wrongs {
        let words = Arc::new(Words::default());
        for word in [Word::Route(FIRST_NUMBER), Word::Gone, Word::Route(FIRST_NUMBER + 1)] {
            words.add("p", word);
        }
        let mut log = tempfile::NamedTempFile::new().expect("a file");
        events.iter().for_each(|e| writeln!(log, "{e}").expect("written"));
        let mut observer = Observer::new("n", log.path(), words).expect("a log");
        observer.look().expect("events");
        Wrongs { examples: Vec::new(), ..observer.wrongs }
    }

    #[test]
    fn what_was_said_may_be_told_and_some_of_it_left_out() {
        let (first, second) = (update(&[("p", FIRST_NUMBER)], &[]), update(&[("p", FIRST_NUMBER + 1)], &[]));
        let table = update(&[("other", 1)], &[]);
        assert_eq!(judged(&[first.clone(), update(&[], &["p"]), second.clone(), table]), Wrongs::default());
        assert_eq!(judged(&[first, second.clone()]), Wrongs::default());
        assert_eq!(judged(&[second]), Wrongs::default());
    }

    #[test]
    fn each_wrong_is_seen() {
        let (first, second) = (update(&[("p", FIRST_NUMBER)], &[]), update(&[("p", FIRST_NUMBER + 1)], &[]));
        let gone = update(&[], &["p"]);
        let repeated = Wrongs { repeated: 1, ..Wrongs::default() };
        assert_eq!(judged(&[first.clone(), first.clone()]), repeated, "told again");
        assert_eq!(judged(&[update(&[], &["p"])]), repeated, "withdrawn, and never had");
        let untrue = Wrongs { routes_untrue: 1, ..Wrongs::default() };
        assert_eq!(judged(&[second.clone(), first.clone()]), untrue, "an old word");
        assert_eq!(judged(&[first.clone(), gone.clone(), first]), untrue, "what has gone");
        let table = [update(&[("other", 1)], &[]), update(&[("other", 2)], &[])];
        assert_eq!(judged(&table), untrue, "what nobody changes");
        let unmade = Wrongs { withdrawals_unmade: 1, ..Wrongs::default() };
        assert_eq!(judged(&[second, gone]), unmade, "withdrawn by nobody since");
        assert_eq!(judged(&[update(&[("other", 1)], &[]), update(&[], &["other"])]), unmade);
        let down = serde_json::json!({"ts_us": 1, "event": "session-down", "reset": true, "why": "closed"});
        assert_eq!(judged(&[down.to_string()]).sessions_reset, 1);
    }
}
