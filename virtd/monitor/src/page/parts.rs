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
const EVENTS: usize = 30;

/// All of it.
pub(super) fn main(snapshot: &Snapshot) -> Markup {
    let problems = snapshot.problems();
    let level = problems.first().map_or(Level::Ok, |p| p.level);
    html! {
        section {
            p class=(class(level)) {
                b { (word(level)) }
                @if let Ok(known) = &snapshot.known { " " (router(&known.facts.status)) }
            }
            @if !problems.is_empty() {
                ul.problems {
                    @for p in &problems { li class=(class(p.level)) { (p.text) " " small { (p.condition) } } }
                }
            }
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
        (s.strategy) ", up for " (micros(s.uptime_us)) ": "
        (s.voters) " of " (s.instances) " instances vote, " (s.sessions_up) " of " (s.sessions) " sessions are up, "
        (s.routes_published) " routes are published, " (s.disagreements_now) " disagreements"
    }
}

fn tables(known: &Known) -> Markup {
    let facts = &known.facts;
    html! {
        section { h2 { "Instances" } (instances(&facts.instances)) }
        section { h2 { "Sessions" } (sessions(&facts.sessions)) }
        @if !known.diversity.pairs.is_empty() { section { h2 { "Agreement" } (pairs(&known.diversity)) } }
        @if let Some(f) = &facts.fib { section { h2 { "FIB" } (fib(f)) } }
        section { h2 { "Last faults" } (events(&known.events)) }
    }
}

/// A table that scrolls by itself where it is too wide.
fn table(titles: &[&str], rows: &Markup) -> Markup {
    html! {
        div.wide tabindex="0" {
            table {
                thead { tr { @for title in titles { th scope="col" { (title) } } } }
                tbody { (rows) }
            }
        }
    }
}

fn instances(all: &[api::Instance]) -> Markup {
    let rows = html! {
        @for i in all {
            @let state = match i.state.as_str() {
                "voting" => "good",
                "absent" => "bad",
                _ => "odd",
            };
            tr {
                th scope="row" { (i.name) }
                td class=(state) { (i.state) @for what in &i.suspect { ", suspect: " (what) } }
                td { (i.role) @if i.pinned { ", pinned" } }
                td { (i.kind.as_deref().unwrap_or("-")) " " (i.version.as_deref().unwrap_or("")) }
                td.n { (i.legs_up) "/" (i.legs) }
                td class=(if i.dissents_now > 0 { "n bad" } else { "n" }) { (i.dissents_now) }
                td.n { (i.dissents_total) }
                td.n { (i.restarts) }
                td.n { (i.withheld) }
                td.n { @match i.cpu_percent { Some(percent) => { (format!("{percent:.1}%")) }, None => { "-" } } }
                td.n { @match i.memory_kib { Some(kib) => { (kib / 1024) " MiB" }, None => { "-" } } }
                td { (i.last_fault.as_deref().or(i.last_death.as_deref()).unwrap_or("-")) }
            }
        }
    };
    let titles = [
        "Instance",
        "State",
        "Role",
        "Kind",
        "Legs",
        "Differs",
        "Ever",
        "Restarts",
        "Withheld",
        "CPU",
        "Memory",
        "Last fault",
    ];
    table(&titles, &rows)
}

fn sessions(all: &[api::Session]) -> Markup {
    let mut shown: Vec<&api::Session> = all.iter().collect();
    shown.sort_by_key(|s| (s.up_us.is_some(), s.legs.iter().all(|leg| leg.state == "Established")));
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rows = html! {
        @for s in shown.iter().take(SESSIONS) {
            tr {
                th scope="row" { (s.peer) }
                td.n { (or_dash(s.asn.map(|n| n.to_string()))) }
                td class=(if s.up_us.is_some() { "good" } else { "bad" }) {
                    (s.state)
                    @if s.shut { " (shut down)" }
                    @if let Some(path) = s.path.as_deref().filter(|path| *path != "up") { " (" (path) ")" }
                }
                td.n { (or_dash(s.up_us.map(micros))) }
                td.n { (or_dash(s.hold_time_s.map(|n| n.to_string()))) }
                td.n { (or_dash(s.prefixes_in.map(|n| n.to_string()))) }
                td.n { (or_dash(s.prefixes_out.map(|n| n.to_string()))) }
                td.n { (s.resets) }
                td { (s.families.iter().flatten().cloned().collect::<Vec<_>>().join(", ")) }
                td { @for leg in &s.legs { (self::leg(leg)) " " } }
            }
        }
    };
    let titles = ["Peer", "AS", "State", "Up", "Hold", "In", "Out", "Resets", "Families", "Legs"];
    html! {
        (table(&titles, &rows))
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
    let rows = html! {
        @for p in d.pairs.iter().take(PAIRS) {
            tr {
                th scope="row" { (p.instances[0]) ", " (p.instances[1]) }
                td.n { (p.compared) }
                td.n { (p.disagreed) }
                td.n { @match p.share { Some(share) => { (format!("{:.2}%", share * 100.0)) }, None => { "-" } } }
                td.n { (p.together) " of " (p.contested) }
                td.n { (p.verdicts.common) " of " (p.verdicts.either) }
                td { (p.attributes.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", ")) }
            }
        }
    };
    let titles = ["Pair", "Compared", "Differed", "Share", "Together", "Wrong together", "In"];
    html! {
        p { (d.reading) }
        (table(&titles, &rows))
        @if d.pairs.len() > PAIRS { p { "… and " (d.pairs.len() - PAIRS) " more independent pairs" } }
    }
}

fn fib(f: &api::Fib) -> Markup {
    let rows = html! {
        @for i in &f.instances {
            tr {
                th scope="row" { (i.name) }
                td { (i.state) }
                td.n { (i.routes) }
                td.n { (i.sockets) }
                td class=(if i.dissents > 0 { "n bad" } else { "n" }) { (i.dissents) }
            }
        }
    };
    html! {
        p {
            (f.routes) " routes are chosen, " (f.without_quorum) " entries are without a majority, the kernel does not take "
            (f.failed) "."
            @if let Some(k) = &f.kernel { " " (k.written) " were written, " (k.removed) " removed, " (k.repaired) " repaired." }
        }
        (table(&["Instance", "State", "Routes", "Sockets", "Differs"], &rows))
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
            time datetime=(logged.time) { (logged.time) } " " b { (e.kind) } " "
            @if let Some(session) = &e.session { (session) ": " }
            (e.text)
            @if !e.said.is_empty() {
                ul { @for said in &e.said {
                    li { b { (said.instance) } " " (said.route) @if !said.counted { " (not counted)" } }
                } }
            }
        }
    }
}
