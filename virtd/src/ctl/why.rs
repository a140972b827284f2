//! `virtctl why`: all there is about one prefix on one screen. Who is told the same is shown once,
//! so that hundreds of peers fit.

use super::ask::ask;
use crate::show::{self, clean, micros};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use virtd_api as api;
use virtd_api::Request;

/// Peers named of those that are told the same; the rest is counted.
const PEERS: usize = 4;
/// Groups of peers that are shown; the rest is counted.
const GROUPS: usize = 6;
/// Events that are shown, the last ones.
const EVENTS: usize = 6;

/// What is known about a prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Why {
    /// The prefix; null where an address was asked for and no known prefix has it.
    pub prefix: Option<String>,
    /// The address that was asked for; null where it was a prefix.
    pub asked: Option<String>,
    /// The strategy.
    pub strategy: String,
    /// T, milliseconds.
    pub t_ms: u64,
    /// What peers have sent, those together that have sent the same.
    pub received: Vec<Received>,
    /// What peers are told, those together to whom all say the same: most peers first.
    pub told: Vec<Told>,
    /// Established sessions on which nobody has said anything about it.
    pub silent: usize,
    /// What the vote puts into the kernel; null without `[fib]`.
    pub fib: Option<Vec<api::FibEntry>>,
    /// The events that are about it, of those that virtd remembers, oldest first.
    pub events: Vec<api::Logged>,
}

/// Peers that have sent the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Received {
    /// Their addresses.
    pub peers: Vec<String>,
    /// In words, `none` where virtd cannot say.
    pub route: String,
}

/// Peers to whom all say the same. A next hop that is our own address on a session is `self`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// Their addresses.
    pub peers: Vec<String>,
    /// What they were told, in words; `none`.
    pub published: String,
    /// What the vote chose.
    pub winner: String,
    /// [`api::Told::rule`].
    pub rule: String,
    /// [`api::Told::why`].
    pub why: String,
    /// Of how many the key is at rest.
    pub at_rest: usize,
    /// How long ago anybody last said something else, microseconds, least and most; null: at rest
    /// with all.
    pub changed_us: Option<(u64, u64)>,
    /// What each instance says.
    pub said: Vec<Said>,
}

/// An instance's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// The instance.
    pub instance: String,
    /// Its route in words.
    pub route: String,
    /// It is in the electorate.
    pub counted: bool,
    /// It means the same as the winner.
    pub agrees: bool,
    /// Why it is not counted, or that it is not with the majority; may be empty.
    pub note: String,
}

/// Asks virtd all that there is to know.
///
/// # Errors
/// It does not answer, or refuses.
pub fn look(socket: &Path, prefix: &str, patience: Duration) -> Result<Why, String> {
    let routes: api::Routes = ask(socket, &Request::Routes { prefix: prefix.to_owned() }, patience)?;
    let status: api::Status = ask(socket, &Request::Status, patience)?;
    let sessions: api::Sessions = ask(socket, &Request::Sessions, patience)?;
    let fib = |prefix| Request::Fib { prefix: Some(prefix), diff: false, flush: false, protocol: None };
    // Refused without [fib].
    let fib = routes.prefix.clone().and_then(|found| ask::<api::FibEntries>(socket, &fib(found), patience).ok());
    let all = Request::Events { follow: false, n: Some(u64::MAX), kind: None };
    let api::Events { events } = ask(socket, &all, patience)?;
    Ok(Why::of(&routes, &status, &sessions.sessions, fib, &events))
}

impl Why {
    /// Out of virtd's answers. `fib`: the entries of the prefix, where there is a `[fib]`;
    /// `events`: of whatever kind, those about the prefix are taken.
    pub fn of(
        routes: &api::Routes,
        status: &api::Status,
        sessions: &[api::Session],
        fib: Option<api::FibEntries>,
        events: &[api::Logged],
    ) -> Why {
        let about = |e: &&api::Logged| routes.prefix.as_deref().is_some_and(|p| is_about(&e.event, p));
        Why {
            strategy: status.strategy.clone(),
            t_ms: status.t_ms,
            fib: fib.map(|fib| fib.entries),
            events: events.iter().filter(about).cloned().collect(),
            ..together(routes, sessions)
        }
    }
}

/// Whether an event is about this very prefix: by its field, or by its words.
fn is_about(event: &api::Event, prefix: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/');
    let is_word = |(at, _): (usize, &str)| {
        let (before, after) = (event.text.get(..at), event.text.get(at + prefix.len()..));
        let ends = |c: Option<char>| c.is_none_or(|c| !part(c));
        // A sentence may end behind it.
        let follows = after.unwrap_or_default().trim_start_matches(['.', ':']).chars().next();
        ends(before.and_then(|b| b.chars().next_back())) && ends(follows)
    };
    event.prefix.as_deref() == Some(prefix) || event.text.match_indices(prefix).any(is_word)
}

/// Puts together what is the same.
fn together(routes: &api::Routes, sessions: &[api::Session]) -> Why {
    let local: HashMap<&str, IpAddr> = sessions.iter().filter_map(|s| Some((s.peer.as_str(), s.local?))).collect();
    let mut why = Why { prefix: routes.prefix.clone(), asked: routes.asked.clone(), ..Why::default() };
    for r in &routes.received {
        let route = words(r.route.as_ref(), None);
        match why.received.iter_mut().find(|known| known.route == route) {
            Some(known) => known.peers.push(r.peer.clone()),
            None => why.received.push(Received { peers: vec![r.peer.clone()], route }),
        }
    }
    // By what makes them alike, so that thousands of peers are looked up and not compared.
    let mut places: HashMap<String, usize> = HashMap::new();
    for t in &routes.sessions {
        let one = told(t, local.get(t.peer.as_str()).copied());
        let alike = format!("{:?}", (&one.published, &one.winner, &one.rule, &one.why, &one.said));
        let next = why.told.len();
        match why.told.get_mut(*places.entry(alike).or_insert(next)) {
            Some(known) => {
                known.peers.extend(one.peers);
                known.at_rest += one.at_rest;
                known.changed_us = match (known.changed_us, one.changed_us) {
                    (Some((least, most)), Some((l, m))) => Some((least.min(l), most.max(m))),
                    (known, one) => known.or(one),
                };
            }
            None => why.told.push(one),
        }
    }
    why.told.sort_by_key(|t| std::cmp::Reverse(t.peers.len()));
    let up = sessions.iter().filter(|s| s.up_us.is_some()).count();
    why.silent = up.saturating_sub(routes.sessions.len());
    why
}

fn told(t: &api::Told, local: Option<IpAddr>) -> Told {
    let said = t.said.iter().map(|x| Said {
        instance: x.instance.clone(),
        route: words(x.route.as_ref(), local),
        counted: x.counted,
        agrees: x.agrees.unwrap_or_else(|| x.route == t.winner),
        note: x.note.clone(),
    });
    Told {
        peers: vec![t.peer.clone()],
        published: words(t.published.as_ref(), local),
        winner: words(t.winner.as_ref(), local),
        rule: t.rule.clone(),
        why: t.why.clone(),
        at_rest: usize::from(t.changed_us.is_none()),
        changed_us: t.changed_us.map(|us| (us, us)),
        said: said.collect(),
    }
}

/// A route; its next hop is `self` where that is our own address on the session, which is another
/// one on each.
fn words(route: Option<&api::Route>, local: Option<IpAddr>) -> String {
    let shown = show::route(route);
    match route {
        Some(r) if local == Some(r.next_hop) => {
            let rest = shown.split_once(", path ").map_or("", |(_, rest)| rest);
            format!("via self, path {rest}")
        }
        _ => shown,
    }
}

/// A rule ([`api::Told::rule`]) as a sentence.
pub fn rule(word: &str, strategy: &str) -> String {
    match word {
        "unanimous" => "all who count say the same".to_owned(),
        "majority" => "more than half of those who count say so".to_owned(),
        "alone" => "only one instance counts: what it says goes out, right or wrong".to_owned(),
        "master" => format!("the master says so, and {strategy} needs no more at first"),
        "first-k" => "k have said so first".to_owned(),
        "overruled" => "a steady majority has taken back what was told at first".to_owned(),
        "no-majority" => "NO MAJORITY, though nobody has said anything new for T".to_owned(),
        "kept" => "too few agree on anything newer yet: what was chosen before stays".to_owned(),
        "nobody-counts" => "nobody has a word that counts: what was published stays".to_owned(),
        "too-few-voters" => "fewer count than min_voters: what was published stays".to_owned(),
        other => clean(other),
    }
}

/// The screen. `all`: nothing is left out, however long it gets.
pub fn screen(v: &Why, all: bool) -> String {
    let limit = |n: usize| if all { usize::MAX } else { n };
    let mut out = match (&v.prefix, &v.asked) {
        (None, asked) => {
            let asked = asked.as_deref().map(clean).unwrap_or_default();
            return format!("{asked}: no prefix has it of which anybody has said anything\n");
        }
        (Some(prefix), None) => clean(prefix),
        (Some(prefix), Some(asked)) => format!("{} (the longest that has {})", clean(prefix), clean(asked)),
    };
    let _ = writeln!(out, "   {}, T = {} ms", clean(&v.strategy), v.t_ms);

    out.push_str("received\n");
    if v.received.is_empty() {
        out.push_str("  from no peer\n");
    }
    for r in v.received.iter().take(limit(GROUPS)) {
        let _ = writeln!(out, "  from {}: {}", peers(&r.peers, limit(PEERS)), r.route);
    }
    more(&mut out, v.received.len(), limit(GROUPS), "other routes");

    out.push_str("told\n");
    if v.told.is_empty() {
        out.push_str("  nobody has said anything about it to any peer\n");
    }
    for t in v.told.iter().take(limit(GROUPS)) {
        group(&mut out, t, v, limit(PEERS));
    }
    more(&mut out, v.told.len(), limit(GROUPS), "other groups of peers (--all shows them)");
    if v.silent > 0 {
        let peers = if v.silent == 1 { "peer" } else { "peers" };
        let _ = writeln!(out, "  to {} other {peers} with a session: nothing, and no instance says anything", v.silent);
    }
    if let Some(fib) = &v.fib {
        kernel(&mut out, fib);
    }
    out.push_str("events\n");
    if v.events.is_empty() {
        out.push_str("  none of those that virtd remembers is about it\n");
    }
    let earlier = v.events.len().saturating_sub(limit(EVENTS));
    if earlier > 0 {
        let _ = writeln!(out, "  ... {earlier} earlier ones (--all shows them)");
    }
    for e in v.events.iter().skip(earlier) {
        let _ = write!(out, "  {}", show::event_line(e));
    }
    out
}

fn group(out: &mut String, t: &Told, v: &Why, named: usize) {
    let _ = writeln!(out, "  to {}: {}", peers(&t.peers, named), t.published);
    if t.winner != t.published {
        let _ = writeln!(out, "    chosen   {}, not sent yet", t.winner);
    }
    let because = match (t.rule.as_str(), t.why.as_str()) {
        ("", why) => clean(why),
        (word, "") => rule(word, &v.strategy),
        (word, why) => format!("{}: {}", rule(word, &v.strategy), clean(why)),
    };
    if !because.is_empty() {
        let _ = writeln!(out, "    because  {because}");
    }
    let of = t.peers.len();
    let since = match t.changed_us {
        None => "at rest: nobody has said anything else for T or longer".to_owned(),
        Some((least, most)) => {
            let when = match (micros(least), micros(most)) {
                (least, most) if least == most => format!("{least} ago"),
                (least, most) => format!("{least} to {most} ago"),
            };
            let rest = if t.at_rest == 0 { String::new() } else { format!("; at rest with {} of {of}", t.at_rest) };
            format!("somebody last said something else {when}{rest}")
        }
    };
    let _ = writeln!(out, "    since    {since}");
    // With the winner on one line, whoever they are.
    let with: Vec<&str> =
        t.said.iter().filter(|x| x.counted && x.agrees && x.route == t.winner).map(|x| x.instance.as_str()).collect();
    if !with.is_empty() {
        let _ = writeln!(out, "    = {}", clean(&with.join(", ")));
    }
    let others = t.said.iter().filter(|x| !(x.counted && x.agrees && x.route == t.winner));
    for x in others {
        let mark = match (x.counted, x.agrees) {
            (true, true) => '=',
            (true, false) => '!',
            (false, _) => ' ',
        };
        let note = if x.note.is_empty() { String::new() } else { format!("  [{}]", clean(&x.note)) };
        let same = if x.route == t.winner && x.route != "none" { "the same" } else { &x.route };
        let _ = writeln!(out, "    {mark} {}: {same}{note}", clean(&x.instance));
    }
}

fn kernel(out: &mut String, fib: &[api::FibEntry]) {
    out.push_str("kernel\n");
    if fib.is_empty() {
        out.push_str("  no route: nobody writes one\n");
    }
    for e in fib {
        let since = e.changed_us.map_or_else(String::new, |us| format!(" (last changed {} ago)", micros(us)));
        let _ = writeln!(out, "  {}: {}{since}", clean(&e.key), clean(&e.route));
        if let Some(why) = &e.failed {
            let _ = writeln!(out, "    NOT IN THE KERNEL: {}", clean(why));
        }
        let (with, apart): (Vec<&api::Said>, Vec<&api::Said>) =
            e.said.iter().partition(|x| x.counted && x.route == e.route);
        if !with.is_empty() {
            let names: Vec<&str> = with.iter().map(|x| x.instance.as_str()).collect();
            let _ = writeln!(out, "    = {}", clean(&names.join(", ")));
        }
        for x in apart {
            let mark = if x.counted { '!' } else { ' ' };
            let _ = writeln!(out, "    {mark} {}: {}", clean(&x.instance), clean(&x.route));
        }
    }
}

/// The first of them, and how many there are besides.
fn peers(all: &[String], named: usize) -> String {
    let names: Vec<String> = all.iter().take(named).map(|p| clean(p)).collect();
    match all.len().saturating_sub(named) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn more(out: &mut String, all: usize, shown: usize, what: &str) {
    let rest = all.saturating_sub(shown);
    if rest > 0 {
        let _ = writeln!(out, "  ... and {rest} {what}");
    }
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
