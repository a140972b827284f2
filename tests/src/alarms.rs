//! What virtd has to say about its instances while nothing is wrong with them: every event is
//! looked at, and every disagreement is put down to a cause or is a false alarm.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Events that may come while nothing is wrong. Any other is a false alarm.
const HARMLESS: &[&str] = &[
    "instance-attached",
    "instance-differs",
    "session-up",
    "session-returned",
    "open-differs",
    "leg-up",
    "leg-level",
    // A peer's doing, not an instance's.
    "malformed-update",
    "diversity",
    // Looked at one by one.
    "disagreement",
    "agreement",
    "no-quorum",
    "fib-disagreement",
    "fib-agreement",
    "fib-no-quorum",
    "fib-admitted",
];

/// A difference between daemons that is known, and why it is there. docs/EQUIVALENCE.md has the
/// same list.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Who differs.
    pub instance: &'static str,
    /// In what, and in nothing else: an attribute's name, or `route or none`.
    pub aspect: &'static str,
    /// Why.
    pub why: &'static str,
}

/// What came to light.
#[derive(Debug, Default)]
pub struct Findings {
    /// Events that accuse an instance or say that it is gone, as they were logged.
    pub alarms: Vec<Value>,
    /// Disagreements by cause: how many, and one of them in words.
    pub by_cause: BTreeMap<String, (u64, String)>,
    /// Those among them that nothing explains.
    pub unexplained: u64,
    /// Disagreements in all.
    pub disagreements: u64,
}

/// Who is accused on which key: session, prefix, instance.
type Key = (String, String, String);

/// A disagreement that has not ended.
struct Open {
    aspects: BTreeSet<String>,
    words: String,
    /// What the majority said: an instance that comes to say the same was late.
    majority: String,
}

/// Goes through all events. `ended` are the peers whose sessions the scenario has ended itself.
pub fn look(events: &[Value], known: &[Known], ended: &[String]) -> Result<Findings> {
    let mut findings = Findings::default();
    let mut open: BTreeMap<Key, Open> = BTreeMap::new();
    for event in events {
        let kind = event["kind"].as_str().context("an event without its kind")?;
        // OpenBGPD holds back in Idle after a session has ended, and is told of as absent
        // meanwhile: that is so, and it accuses nobody (docs/SESSIONS.md, row g).
        let own = matches!(kind, "session-down" | "instance-absent")
            && ended.iter().any(|peer| event["session"] == peer.as_str());
        if !own && !HARMLESS.contains(&kind) {
            findings.alarms.push(event.clone());
        }
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let key = |instance: &str| (text("session"), text("prefix"), instance.to_owned());
        // A vote on the FIB is one that no session has.
        match kind.strip_prefix("fib-").unwrap_or(kind) {
            "disagreement" => {
                for instance in accused(event) {
                    findings.disagreements += 1;
                    let standing = compare(event, &instance);
                    if let Some(explained) = explanation(&instance, &standing, known) {
                        findings.book(&explained, &standing.words);
                    } else {
                        open.insert(key(&instance), standing);
                    }
                }
            }
            "no-quorum" => {
                findings.disagreements += 1;
                open.insert(key(""), Open { aspects: BTreeSet::new(), words: words(event), majority: String::new() });
            }
            "agreement" => {
                let back = if text("instance").is_empty() { accused(event) } else { vec![text("instance")] };
                for instance in back.iter().map(String::as_str).chain([""]) {
                    if let Some(was) = open.remove(&key(instance)) {
                        let same = said(event).any(|(name, route)| name == instance && route == was.majority);
                        let what = if same { "late, with the same" } else { "late, and by then it was something else" };
                        let who = if instance.is_empty() { "no majority" } else { instance };
                        findings.book(&format!("{who}: {what}"), &was.words);
                    }
                }
            }
            // Whoever was accused there is not any more.
            "session-down" => open.retain(|key, _| key.0 != text("session")),
            _ => {}
        }
    }
    for ((_, _, instance), standing) in open {
        findings.unexplained += 1;
        let aspects: Vec<String> = standing.aspects.into_iter().collect();
        findings.book(&format!("{instance}: UNEXPLAINED, {}", aspects.join(" and ")), &standing.words);
    }
    Ok(findings)
}

impl Findings {
    fn book(&mut self, cause: &str, words: &str) {
        self.by_cause.entry(cause.to_owned()).or_insert_with(|| (0, words.to_owned())).0 += 1;
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} disagreements, {} unexplained; {} alarms",
            self.disagreements,
            self.unexplained,
            self.alarms.len()
        )?;
        for (cause, (count, example)) in &self.by_cause {
            writeln!(f, "{count:>8}  {cause}\n          such as {example}")?;
        }
        self.alarms.iter().take(20).try_for_each(|alarm| writeln!(f, "   alarm  {alarm}"))
    }
}

/// Which known difference it is, in words.
fn explanation(instance: &str, open: &Open, known: &[Known]) -> Option<String> {
    // Every aspect must have a reason of its own.
    let why = |aspect: &String| known.iter().find(|k| k.instance == instance && k.aspect == aspect).map(|k| k.why);
    let reasons: Option<Vec<&str>> = open.aspects.iter().map(why).collect();
    let reasons = reasons.filter(|r| !r.is_empty())?;
    Some(format!("{instance}: {}", reasons.join(" and ")))
}

/// Whom the text names: "frr, bird is not with the majority on …".
fn accused(event: &Value) -> Vec<String> {
    let text = event["text"].as_str().unwrap_or_default();
    let names = text.split_once(" is ").map_or("", |(names, _)| names);
    names.split(", ").filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// Instances that count, and what they say.
fn said(event: &Value) -> impl Iterator<Item = (&str, &str)> {
    let all = event["said"].as_array().into_iter().flatten();
    all.filter(|s| s["counted"] == true).filter_map(|s| Some((s["instance"].as_str()?, s["route"].as_str()?)))
}

fn words(event: &Value) -> String {
    let all: Vec<String> = said(event).map(|(name, route)| format!("{name} says {route}")).collect();
    let to = event["session"].as_str().unwrap_or("the kernel");
    format!("{} to {to}: {}", event["prefix"].as_str().unwrap_or("?"), all.join(" | "))
}

/// In what the accused differs from those that are not accused.
fn compare(event: &Value, instance: &str) -> Open {
    let wrong = accused(event);
    let own = said(event).find(|(name, _)| *name == instance).map_or("", |(_, route)| route);
    let majority = said(event).find(|(name, _)| !wrong.iter().any(|w| w == name)).map_or("", |(_, route)| route);
    Open { aspects: aspects(own, majority), words: words(event), majority: majority.to_owned() }
}

/// The parts of a route in words that differ, by name.
fn aspects(one: &str, other: &str) -> BTreeSet<String> {
    if (one == "none") != (other == "none") {
        return BTreeSet::from(["route or none".to_owned()]);
    }
    let (one, other) = (parts(one), parts(other));
    one.keys().chain(other.keys()).filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

/// A route's words taken apart: `via A path 1 2 origin EGP med 5 communities 1:2, AGGREGATOR 00…`.
fn parts(route: &str) -> BTreeMap<String, String> {
    const NAMES: &[&str] = &["via", "path", "origin", "med", "local-pref", "communities", "large-communities"];
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut pieces = route.split(", ");
    let mut name = "";
    for word in pieces.next().unwrap_or_default().split(' ') {
        if NAMES.contains(&word) {
            name = word;
        }
        let value = found.entry(name.to_owned()).or_default();
        *value = format!("{value} {word}");
    }
    for other in pieces {
        let name = other.rsplit_once(' ').map_or(other, |(name, _)| name);
        found.insert(name.to_owned(), other.to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KNOWN: &[Known] =
        &[Known { instance: "openbgpd", aspect: "EXTENDED_COMMUNITIES", why: "values of unknown types" }];

    fn event(kind: &str, text: &str, instance: &str, said: [&str; 3]) -> Value {
        let said = ["frr", "bird", "openbgpd"].iter().zip(said);
        let said: Vec<Value> =
            said.map(|(i, route)| json!({ "instance": i, "route": route, "counted": true })).collect();
        json!({ "kind": kind, "text": text, "session": "10.0.2.2", "prefix": "10.0.0.0/8", "instance": instance, "said": said })
    }

    #[test]
    fn what_differs_is_named() {
        let one = "via 10.0.1.1 path 65000 {1,2} med 5 communities 1:2 1:3, AGGREGATOR 00";
        let aspects = |other| aspects(one, other).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(aspects(one), "");
        assert_eq!(
            aspects("via 10.0.1.1 path 65000 {1,2} origin EGP communities 1:2, AGGREGATOR 00"),
            "communities med origin"
        );
        assert_eq!(
            aspects("via 10.0.1.2 path 65000 {1,2} med 5 communities 1:2 1:3, AGGREGATOR 01, ATOMIC_AGGREGATE"),
            "AGGREGATOR ATOMIC_AGGREGATE via"
        );
        assert_eq!(aspects("none"), "route or none");
    }

    #[test]
    fn a_difference_is_known_or_late_or_unexplained() {
        let [a, b, zeroed] = ["via 1 path 2", "via 1 path 3", "via 1 path 2, EXTENDED_COMMUNITIES 00"];
        let wrong = |said| event("disagreement", "openbgpd is not with the majority on 10.0.0.0/8", "openbgpd", said);
        let back = event("agreement", "openbgpd is with the majority again on 10.0.0.0/8", "openbgpd", [a, a, a]);
        let causes = |events: &[Value]| {
            let found = look(events, KNOWN, &[]).expect("events");
            assert!(found.alarms.is_empty());
            (found.by_cause.into_keys().collect::<Vec<_>>().join("; "), found.unexplained)
        };
        let known = wrong(["via 1 path 2, EXTENDED_COMMUNITIES 01", "via 1 path 2, EXTENDED_COMMUNITIES 01", zeroed]);
        assert_eq!(causes(&[known]), ("openbgpd: values of unknown types".to_owned(), 0));
        assert_eq!(causes(&[wrong([a, a, b]), back.clone()]), ("openbgpd: late, with the same".to_owned(), 0));
        assert_eq!(causes(&[wrong([a, a, b])]), ("openbgpd: UNEXPLAINED, path".to_owned(), 1));
        let both = wrong(["via 1 path 2, EXTENDED_COMMUNITIES 01", "via 1 path 2, EXTENDED_COMMUNITIES 01", b]);
        assert_eq!(causes(&[both]).1, 1, "one reason does not do for two differences");
        // On the same prefix in the FIB, which does not end what a session has.
        let [wrong_there, back_there] = [wrong([a, a, "none"]), back].map(|mut event| {
            event["kind"] = format!("fib-{}", event["kind"].as_str().unwrap_or_default()).into();
            event["session"] = Value::Null;
            event
        });
        assert_eq!(causes(&[wrong_there.clone(), back_there.clone()]), ("openbgpd: late, with the same".to_owned(), 0));
        assert_eq!(causes(&[wrong([a, a, "none"]), back_there]).1, 1);
        assert_eq!(causes(&[wrong_there]).1, 1);
    }

    #[test]
    fn an_accusation_is_an_alarm_and_so_is_what_is_not_known() {
        let down = json!({ "kind": "session-down", "session": "10.0.1.2", "text": "" });
        let absent = json!({ "kind": "instance-absent", "session": "10.0.1.2", "text": "" });
        let all = [json!({ "kind": "instance-faulty" }), json!({ "kind": "leg-closed" }), down, absent];
        assert_eq!(look(&all, KNOWN, &[]).expect("events").alarms.len(), 4);
        assert_eq!(look(&all, KNOWN, &["10.0.1.2".to_owned()]).expect("events").alarms.len(), 2);
    }
}
