//! What stands in `main`: the router, its instances, sessions, pairs, the FIB, the last faults.

use crate::watch::{Known, Snapshot};
use maud::{Markup, html};
use virtd::ctl::health::Level;
use virtd::show::micros;
use virtd_api as api;

/// Sessions that are shown, those that are not up first; the rest is counted.
const SESSIONS: usize = 200;
/// Pairs of instances that are shown, the least independent.
const PAIRS: usize = 20;
/// Events that are shown, the last ones.
const EVENTS: usize = 20;

/// All of it.
pub(super) fn main(snapshot: &Snapshot) -> Markup {
    let problems = snapshot.problems();
    let level = problems.first().map_or(Level::Ok, |p| p.level);
    html! {
        section {
            p.state {
                b class=(class(level)) { (word(level)) }
                @if let Ok(known) = &snapshot.known { " " (router(&known.facts.status)) }
            }
            @if !problems.is_empty() {
                ul.problems {
                    @for p in &problems {
                        li class=(class(p.level)) {
                            (p.text) @if !p.text.contains(p.condition) { " " small { (p.condition) } }
                        }
                    }
                }
            }
            @if let Ok(known) = &snapshot.known { (figures(&known.facts.status)) }
        }
        @if let Ok(known) = &snapshot.known { (tables(known)) }
    }
}

fn class(level: Level) -> &'static str {
    match level {
        Level::Ok => "good",
        Level::Warning => "odd",
        Level::Unknown | Level::Critical => "bad",
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "OK",
        Level::Warning => "WARNING",
        Level::Unknown => "UNKNOWN",
        Level::Critical => "CRITICAL",
    }
}

fn router(s: &api::Status) -> Markup {
    html! {
        @if let Some(asn) = s.router.asn { "AS " (asn) ", " }
        @if let Some(id) = s.router.router_id { (id) ", " }
        (if native(s) { "native" } else { &s.strategy }) ", up for " (micros(s.uptime_us))
    }
}

/// Whether one instance's bytes pass as they are, and nothing is voted on.
fn native(s: &api::Status) -> bool {
    s.open == "native"
}

/// What is asked for first, in large.
fn figures(s: &api::Status) -> Markup {
    let odd = |n: u64| if n > 0 { "odd" } else { "" };
    let mut all = vec![
        ("instances vote", format!("{} of {}", s.voters, s.instances), ""),
        ("sessions are up", format!("{} of {}", s.sessions_up, s.sessions), ""),
        ("routes published", s.routes_published.to_string(), ""),
        (
            if s.disagreements_now == 1 { "disagreement" } else { "disagreements" },
            s.disagreements_now.to_string(),
            odd(s.disagreements_now),
        ),
        ("without a majority", s.without_quorum.to_string(), odd(s.without_quorum)),
    ];
    if native(s) {
        all = vec![("connections through virtd, whose bytes it passes as they are", s.sessions_up.to_string(), "")];
    }
    html! { ul.figures { @for (what, figure, class) in &all { li class=(class) { b { (figure) } " " (what) } } } }
}

fn tables(known: &Known) -> Markup {
    let facts = &known.facts;
    html! {
        section { h2 { "Instances" } (instances(&facts.instances, native(&facts.status))) }
        section { h2 { "Sessions" } (sessions(&facts.sessions)) }
        section { h2 { "Last faults" } (events(&known.events)) }
        @if !known.diversity.pairs.is_empty() { section { h2 { "Agreement" } (pairs(&known.diversity)) } }
        @if let Some(f) = &facts.fib { section { h2 { "Voted FIB" } (fib(f)) } }
    }
}

/// A column: its title, and `n` where it has numbers.
type Column = (&'static str, &'static str);
/// How a cell is coloured, and what is in it.
type Cell = (&'static str, Markup);

/// What is not there.
const NONE: &str = "-";

/// A cell of plain text.
fn plain(text: impl std::fmt::Display) -> Cell {
    ("", html! { (text.to_string()) })
}

/// The same, where it may not be there.
fn perhaps(text: Option<String>) -> Cell {
    match text.filter(|text| !text.is_empty()) {
        Some(text) => plain(text),
        None => ("none", html! { (NONE) }),
    }
}

/// A table that scrolls by itself where it is too wide. On a telephone each row is a box, in which
/// each cell stands behind its title.
fn table(columns: &[Column], rows: impl Iterator<Item = Vec<Cell>>) -> Markup {
    html! {
        div.wide tabindex="0" {
            table {
                thead { tr { @for (title, n) in columns { th class=[some(n)] scope="col" { (title) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (i, ((title, n), (class, cell))) in columns.iter().zip(&row).enumerate() {
                            @if i == 0 { th scope="row" { (cell) } }
                            @else { td class=[some(format!("{n} {class}").trim())] data-t=(title) { (cell) } }
                        } }
                    }
                }
            }
        }
    }
}

/// A text, where it has any.
fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn instances(all: &[api::Instance], native: bool) -> Markup {
    let columns = [
        ("Instance", ""),
        ("State", ""),
        ("Role", ""),
        ("Kind", ""),
        ("Legs", "n"),
        ("Differs", "n"),
        ("Ever", "n"),
        ("Restarts", "n"),
        ("Withheld", "n"),
        ("CPU", "n"),
        ("Memory", "n"),
        ("Last fault", ""),
    ];
    let rows = all.iter().map(|i| {
        let state = match i.state.as_str() {
            "voting" => "good",
            "attached" if native => "good",
            "absent" => "bad",
            _ => "odd",
        };
        let kind = [i.kind.as_deref(), i.version.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        vec![
            plain(&i.name),
            (state, html! { (i.state) @for what in &i.suspect { ", suspect: " (what) } }),
            ("", html! { (i.role) @if i.pinned { ", pinned" } }),
            perhaps(Some(kind)),
            plain(format!("{}/{}", i.legs_up, i.legs)),
            (if i.dissents_now > 0 { "bad" } else { "" }, plain(i.dissents_now).1),
            plain(i.dissents_total),
            plain(i.restarts),
            plain(i.withheld),
            perhaps(i.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            perhaps(i.memory_kib.map(|kib| format!("{} MiB", kib / 1024))),
            perhaps(i.last_fault.clone().or_else(|| i.last_death.clone())),
        ]
    });
    table(&columns, rows)
}

fn sessions(all: &[api::Session]) -> Markup {
    if all.is_empty() {
        return html! { p { "None yet: no [[peer]] is configured, and no instance wants one." } };
    }
    let mut shown: Vec<&api::Session> = all.iter().collect();
    shown.sort_by_key(|s| (s.up_us.is_some(), s.legs.iter().all(|leg| leg.state == "Established")));
    let columns = [
        ("Peer", ""),
        ("AS", "n"),
        ("State", ""),
        ("Up", "n"),
        ("Hold", "n"),
        ("In", "n"),
        ("Out", "n"),
        ("Resets", "n"),
        ("Families", ""),
        ("Legs", ""),
    ];
    let rows = shown.iter().take(SESSIONS).map(|s| {
        let state = html! {
            (s.state)
            @if s.shut { " (shut down)" }
            @if let Some(path) = s.path.as_deref().filter(|path| *path != "up") { " (" (path) ")" }
        };
        let class = match (s.state.as_str(), s.up_us) {
            ("native", _) => "",
            (_, Some(_)) => "good",
            (_, None) => "bad",
        };
        vec![
            plain(&s.peer),
            perhaps(s.asn.map(|n| n.to_string())),
            (class, state),
            perhaps(s.up_us.map(micros)),
            perhaps(s.hold_time_s.map(|n| n.to_string())),
            perhaps(s.prefixes_in.map(|n| n.to_string())),
            perhaps(s.prefixes_out.map(|n| n.to_string())),
            plain(s.resets),
            perhaps(Some(s.families.iter().flatten().cloned().collect::<Vec<_>>().join(", "))),
            ("chips", html! { @for leg in &s.legs { (self::leg(leg)) " " } }),
        ]
    });
    html! {
        (table(&columns, rows))
        @if shown.len() > SESSIONS { p { "… and " (shown.len() - SESSIONS) " more, which are up" } }
    }
}

fn leg(leg: &api::Leg) -> Markup {
    let class = match (leg.state.as_str(), leg.detail.as_str()) {
        ("Established", "level") => "chip good",
        ("Established", _) => "chip odd",
        _ => "chip bad",
    };
    let how = leg.gone.as_ref().map_or_else(String::new, |gone| format!("{}: {}", gone.what, gone.how));
    html! {
        span class=(class) title=(how) {
            (leg.instance) " "
            @if leg.detail == "level" { "level" }
            @else { (leg.state) @if !leg.detail.is_empty() { " (" (leg.detail) ")" } }
            @if !leg.votes { ", no vote" }
        }
    }
}

fn pairs(d: &api::Diversity) -> Markup {
    let columns = [
        ("Pair", ""),
        ("Compared", "n"),
        ("Differed", "n"),
        ("Share", "n"),
        ("Together", "n"),
        ("Wrong together", "n"),
        ("In", ""),
    ];
    let rows = d.pairs.iter().take(PAIRS).map(|p| {
        vec![
            plain(p.instances.join(", ")),
            plain(p.compared),
            plain(p.disagreed),
            perhaps(p.share.map(|share| format!("{:.2}%", share * 100.0))),
            plain(format!("{} of {}", p.together, p.contested)),
            plain(format!("{} of {}", p.verdicts.common, p.verdicts.either)),
            perhaps(Some(p.attributes.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", "))),
        ]
    });
    html! {
        p { (d.reading) }
        (table(&columns, rows))
        @if d.pairs.len() > PAIRS { p { "… and " (d.pairs.len() - PAIRS) " more independent pairs" } }
    }
}

fn fib(f: &api::Fib) -> Markup {
    let columns = [("Instance", ""), ("State", ""), ("Routes", "n"), ("Sockets", "n"), ("Differs", "n")];
    let rows = f.instances.iter().map(|i| {
        let state = match i.state.as_str() {
            "voting" => "good",
            "catching up" => "odd",
            _ => "",
        };
        vec![
            plain(&i.name),
            (state, plain(&i.state).1),
            plain(i.routes),
            plain(i.sockets),
            (if i.dissents > 0 { "bad" } else { "" }, plain(i.dissents).1),
        ]
    });
    html! {
        p {
            (f.routes) " routes are chosen, " (f.without_quorum) " entries are without a majority, the kernel does not take "
            (f.failed) "."
            @if let Some(k) = &f.kernel { " " (k.written) " were written, " (k.removed) " removed, " (k.repaired) " repaired." }
            " Who says what of a route: look the prefix up."
        }
        (table(&columns, rows))
    }
}

fn events(all: &[api::Logged]) -> Markup {
    let faults: Vec<&api::Logged> = all.iter().rev().filter(|e| e.event.severity != "info").take(EVENTS).collect();
    html! {
        @if faults.is_empty() { p { "None of the last events is a fault." } }
        ol.events { @for e in faults { (event(e)) } }
    }
}

/// One event, with what each instance has said.
pub(super) fn event(logged: &api::Logged) -> Markup {
    let e = &logged.event;
    let class = match e.severity.as_str() {
        "alarm" => "bad",
        "warning" => "odd",
        _ => "",
    };
    html! {
        li class=(class) {
            time datetime=(logged.time) { (logged.time) } " " b class=(class) { (e.kind) } " "
            @if let Some(session) = &e.session { (session) ": " }
            (e.text)
            @if !e.said.is_empty() {
                ul { @for said in &e.said {
                    @let it = e.instance.as_ref() == Some(&said.instance);
                    li class=(if it { class } else { "" }) {
                        b { (said.instance) } " " (said.route) @if !said.counted { " (not counted)" }
                    }
                } }
            }
        }
    }
}
