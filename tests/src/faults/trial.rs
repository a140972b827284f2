//! One fault from begin to end, and the verdict: what the neighbours' own logs say they saw.

use super::scene::{Keeper, SETTLE, Scene, T};
use super::watch::{Change, Table, now_us};
use crate::lab::wait_until;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a master said wrong is to be corrected within T and 100 ms; the table says how much it was.
/// On a busy machine that may be measured later than it was due; only beyond this and another T it
/// counts as a failure.
const GROSS: Duration = Duration::from_secs(5);
/// So many of what went wrong are told one by one.
const SHOWN: usize = 5;
/// The neighbour that announces them.
const ANNOUNCER: u8 = 2;
/// Probes begin with these octets: 198.18.N.0/24.
const PROBES: &str = "198.18.";

/// What all neighbours together saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Routes withdrawn that should stand.
    pub lost: Vec<String>,
    /// Routes that are not what they should be, or should not be at all.
    pub wrong: Vec<String>,
    /// UPDATEs that changed nothing.
    pub needless: Vec<String>,
    /// The longest time that something was lost or wrong.
    pub longest: Duration,
    /// Something is lost or wrong still.
    pub standing: bool,
}

/// One fault.
pub struct Trial<'a> {
    /// Where it happens.
    pub scene: &'a mut Scene,
    /// What is worth a word in the table.
    pub notes: Vec<String>,
    /// The strategy lets a wrong route through for T: the faulty instance is the master.
    pub through_master: bool,
    /// The number of a neighbour whose session may end and come back: it only has to have the same
    /// table again at the end.
    pub excused: Option<u8>,
    marks: Vec<usize>,
    complaints: usize,
    events: usize,
    start: Instant,
    probe: Option<String>,
    probes: Probes,
}

/// The prefixes that the second neighbour has announced during this fault, and when it withdrew
/// each again, if it has.
type Probes = BTreeMap<String, Option<u64>>;

impl<'a> Trial<'a> {
    /// All is well, and from here on everything counts.
    pub fn begin(scene: &'a mut Scene) -> Result<Trial<'a>> {
        scene.watches.iter_mut().try_for_each(|watch| watch.look())?;
        let marks = scene.watches.iter().map(|watch| watch.changes.len()).collect();
        let complaints = scene.bird_complaints()?.len();
        let events = scene.event_mark();
        let start = Instant::now();
        Ok(Trial {
            scene,
            notes: Vec::new(),
            through_master: false,
            excused: None,
            marks,
            complaints,
            events,
            start,
            probe: None,
            probes: Probes::new(),
        })
    }

    /// A word for the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The second neighbour announces a prefix of its own: the router must go on learning in spite
    /// of the fault.
    pub fn announce_probe(&mut self) -> Result<Duration> {
        self.scene.probes += 1;
        let probe = format!("{PROBES}{}.0/24", self.scene.probes % 256);
        self.tell(&format!("announce {probe}"))?;
        self.probe = Some(probe.clone());
        self.probes.insert(probe.clone(), None);
        self.probe_seen(&probe, true)
    }

    /// It withdraws it again.
    pub fn withdraw_probe(&mut self) -> Result<Duration> {
        let Some(probe) = self.probe.take() else { return Ok(Duration::ZERO) };
        self.probes.insert(probe.clone(), Some(now_us()));
        self.tell(&format!("withdraw {probe}"))?;
        self.probe_seen(&probe, false)
    }

    /// The prefix of the probe that stands.
    pub fn probe(&self) -> Result<String> {
        self.probe.clone().context("no probe stands")
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.scene.watches.get_mut(1).context("no steered neighbour")?.say(line)
    }

    fn probe_seen(&mut self, probe: &str, there: bool) -> Result<Duration> {
        let start = Instant::now();
        for (n, watch) in self.scene.watches.iter_mut().enumerate() {
            // It came from the second one.
            if n == 1 {
                continue;
            }
            let word = if there { "arrive at" } else { "leave" };
            wait_until(&format!("{probe} to {word} neighbour {}", n + 1), SETTLE, || {
                watch.look().map_err(|e| format!("{e:#}"))?;
                if watch.table.contains_key(probe) == there { Ok(()) } else { Err(String::new()) }
            })?;
        }
        Ok(start.elapsed())
    }

    /// Waits for an event of one of these kinds that names the instance and has this word in it.
    pub fn named(&mut self, instance: &str, kinds: &[&str], word: &str) -> Result<Value> {
        let what = format!(
            "an event ({}) that names {instance}{}{word}",
            kinds.join(", "),
            if word.is_empty() { "" } else { " and " }
        );
        let event = wait_until(&what, SETTLE, || {
            let events = self.scene.events_since(self.events);
            let fits = |e: &Value| {
                let about = e["instance"] == instance || e["text"].as_str().is_some_and(|t| t.contains(instance));
                about && kinds.iter().any(|kind| e["kind"] == *kind) && e.to_string().contains(word)
            };
            events.iter().find(|e| fits(e)).cloned().ok_or_else(|| {
                let kinds: std::collections::BTreeSet<&str> =
                    events.iter().filter_map(|e| e["kind"].as_str()).collect();
                format!("only {kinds:?}")
            })
        })?;
        let kind = event["kind"].as_str().unwrap_or_default().to_owned();
        self.note(format!("{kind} after {:.1} s", self.start.elapsed().as_secs_f32()));
        Ok(event)
    }

    /// No event of these kinds so far.
    pub fn none_of(&self, kinds: &[&str]) -> Result<()> {
        let events = self.scene.events_since(self.events);
        let found = events.iter().find(|e| kinds.iter().any(|kind| e["kind"] == *kind));
        ensure!(found.is_none(), "there was an event that should not be: {}", found.unwrap_or(&Value::Null));
        Ok(())
    }

    /// How many events of a kind there were about an instance so far.
    pub fn count(&self, instance: &str, kind: &str) -> usize {
        let events = self.scene.events_since(self.events);
        events.iter().filter(|e| e["kind"] == kind && e["instance"] == instance).count()
    }

    /// Waits until the excused neighbour has its session and its routes again; from then on it is
    /// judged like the others.
    pub fn forgive(&mut self) -> Result<()> {
        let Some(number) = self.excused.take() else { return Ok(()) };
        let watches = self.scene.watches.iter_mut().zip(&self.scene.references).zip(&mut self.marks);
        let (watch, reference, mark) = watches
            .map(|((watch, reference), mark)| (watch, reference, mark))
            .find(|(watch, ..)| watch.site.number == number)
            .context("no such neighbour")?;
        wait_until(&format!("the session of neighbour {number} and its routes"), SETTLE, || {
            watch.look().map_err(|e| format!("{e:#}"))?;
            let up = watch.ups > watch.downs.len();
            if up && watch.table == *reference { Ok(()) } else { Err(format!("{} sessions", watch.ups)) }
        })?;
        self.notes.push(format!("{} sessions of neighbour {number} ended", watch.downs.len()));
        (watch.ups, *mark) = (1, watch.changes.len());
        watch.downs.clear();
        Ok(())
    }

    /// Waits until one session has had so many events of a kind about an instance.
    pub fn wait_count(&self, instance: &str, kind: &str, wanted: usize) -> Result<()> {
        wait_until(&format!("{wanted} times {kind} of {instance}"), SETTLE, || {
            let mut sessions: BTreeMap<String, usize> = BTreeMap::new();
            for event in self.scene.events_since(self.events) {
                if event["instance"] == instance && event["kind"] == kind {
                    *sessions.entry(event["session"].to_string()).or_default() += 1;
                }
            }
            if sessions.values().any(|n| *n >= wanted) { Ok(()) } else { Err(format!("{sessions:?}")) }
        })
    }

    /// Lets the fault last: what leaks, leaks after T.
    pub fn dwell(&self) {
        std::thread::sleep(T + Duration::from_millis(500));
    }

    /// Everything that the neighbours have logged since the fault.
    pub fn seen(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let (now, none) = (now_us(), Probes::new());
        let watches = self.scene.watches.iter_mut().zip(&self.scene.references).zip(&self.marks);
        for ((watch, reference), mark) in watches {
            if self.excused == Some(watch.site.number) {
                watch.look()?;
                continue;
            }
            watch.check_session()?;
            let next_hop = watch.site.router_v4.to_string();
            let changes = watch.changes.get(*mark..).unwrap_or_default();
            let name = format!("neighbour {}", watch.site.number);
            // A probe is never told back to the neighbour that announces it.
            let probes = if watch.site.number == ANNOUNCER { &none } else { &self.probes };
            let should = Should { reference, probes, next_hop: &next_hop };
            judge(&name, changes, &should, now, &mut seen);
        }
        let complaints = self.scene.bird_complaints()?;
        // It looks at next hops more closely than others; a wrong one that came through says so
        // here too.
        let about_routes = |line: &&String| line.contains("Invalid NEXT_HOP") || line.contains("Invalid route");
        let other = complaints.iter().skip(self.complaints).filter(|line| !(self.through_master && about_routes(line)));
        let other: Vec<&str> = other.map(String::as_str).collect();
        ensure!(other.is_empty(), "BIRD, the fourth neighbour, complains: {}", other.join("; "));
        Ok(seen)
    }

    /// The verdict on what the neighbours saw. Nothing lost, nothing wrong, nothing needless; where
    /// the faulty instance is the master of master-slave, whatever came through was put right in
    /// time.
    pub fn check_masked(&mut self) -> Result<Seen> {
        let seen = self.seen()?;
        if self.through_master && !(seen.lost.is_empty() && seen.wrong.is_empty()) {
            let all = [seen.lost.as_slice(), &seen.wrong].concat();
            ensure!(!seen.standing, "still wrong: {}", some(&all));
            ensure!(seen.longest <= 2 * T + GROSS, "corrected only after {:?}: {}", seen.longest, some(&all));
        } else {
            ensure!(seen.lost.is_empty(), "lost: {}", some(&seen.lost));
            ensure!(seen.wrong.is_empty(), "wrong: {}", some(&seen.wrong));
        }
        ensure!(seen.needless.is_empty(), "UPDATEs that say nothing new: {}", some(&seen.needless));
        Ok(seen)
    }

    /// The instances are brought back, by whoever's task it is, and nobody outside hears of it.
    pub fn recovered(&mut self) -> Result<()> {
        let start = Instant::now();
        if self.scene.keeper == Keeper::Scene {
            let Scene { slots, lab, .. } = &mut *self.scene;
            for slot in slots.iter_mut() {
                if !slot.pid().is_ok_and(super::slot::running) {
                    slot.start(lab)?;
                    slot.wait_started()?;
                }
            }
        }
        self.scene.wait_calm()?;
        self.note(format!("voting again after {:.1} s", start.elapsed().as_secs_f32()));
        Ok(())
    }

    /// The end: all is well again, every neighbour has exactly the routes it had, and the verdict
    /// stands.
    pub fn end(mut self) -> Result<Vec<String>> {
        self.withdraw_probe()?;
        self.scene.wait_calm()?;
        let seen = self.check_masked()?;
        for (n, (watch, reference)) in self.scene.watches.iter().zip(&self.scene.references).enumerate() {
            ensure!(watch.table == *reference, "neighbour {} ends with another table than before", n + 1);
        }
        let bird = self.scene.bird_table()?;
        let differs = |table: &BTreeMap<String, String>| {
            let (now, was) = (table.iter(), self.scene.bird_reference.iter());
            let new = now.filter(|(p, r)| self.scene.bird_reference.get(*p) != Some(r)).map(|(p, _)| p.clone());
            new.chain(was.filter(|(p, _)| !table.contains_key(*p)).map(|(p, _)| p.clone())).collect::<Vec<_>>()
        };
        ensure!(
            bird == self.scene.bird_reference,
            "BIRD, the fourth neighbour, ends with other routes: {:?}",
            differs(&bird)
        );
        let mut verdict = format!("0 resets, {} lost, {} wrong", seen.lost.len(), seen.wrong.len());
        if !seen.longest.is_zero() {
            let past = seen.longest.saturating_sub(T);
            verdict.push_str(&format!(", corrected {} ms after T (M1: 100)", past.as_millis()));
        }
        self.notes.insert(0, verdict);
        Ok(self.notes)
    }
}

/// The first few of a list, and how many there are.
fn some(list: &[String]) -> String {
    let shown: Vec<&str> = list.iter().take(SHOWN).map(String::as_str).collect();
    let more = if list.len() > SHOWN { format!(" and {} more", list.len() - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

/// What one neighbour should know.
struct Should<'a> {
    reference: &'a Table,
    probes: &'a Probes,
    next_hop: &'a str,
}

impl Should<'_> {
    /// Whether the neighbour is right to know this of a prefix at this moment.
    fn allows(&self, change: &Change) -> bool {
        let should = self.reference.get(&change.prefix);
        let withdrawn = self.probes.get(&change.prefix).map(|at| at.unwrap_or(u64::MAX));
        match (&change.route, should, withdrawn) {
            (route, Some(should), _) => route.as_ref() == Some(should),
            (None, None, withdrawn) => withdrawn.is_none_or(|at| change.at_us >= at),
            (Some(route), None, Some(at)) => change.at_us <= at && self.is_probe(route),
            (Some(_), None, None) => false,
        }
    }

    /// A probe as the second neighbour has announced it.
    fn is_probe(&self, route: &Value) -> bool {
        let bare = ["communities", "large_communities", "other", "med"].iter().all(|key| route.get(*key).is_none());
        route["as_path"] == "65000 65002" && route["next_hop"] == self.next_hop && bare
    }
}

/// Goes through one neighbour's changes.
fn judge(name: &str, changes: &[Change], should: &Should<'_>, now_us: u64, seen: &mut Seen) {
    // Prefixes that are not as they should be, since when.
    let mut off: BTreeMap<&str, u64> = BTreeMap::new();
    let mut known: BTreeMap<&str, Option<&Value>> = BTreeMap::new();
    let mut longest = 0;
    for change in changes {
        let prefix = change.prefix.as_str();
        let before = known.insert(prefix, change.route.as_ref()).unwrap_or(should.reference.get(prefix));
        if before == change.route.as_ref() {
            seen.needless.push(format!("{name}: {prefix}"));
        }
        if should.allows(change) {
            if let Some(since) = off.remove(prefix) {
                longest = longest.max(change.at_us.saturating_sub(since));
            }
            continue;
        }
        off.entry(prefix).or_insert(change.at_us);
        match &change.route {
            None => seen.lost.push(format!("{name}: {prefix}")),
            Some(route) => seen.wrong.push(format!("{name}: {prefix} {route}")),
        }
    }
    for since in off.values() {
        seen.standing = true;
        longest = longest.max(now_us.saturating_sub(*since));
    }
    seen.longest = seen.longest.max(Duration::from_micros(longest));
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
