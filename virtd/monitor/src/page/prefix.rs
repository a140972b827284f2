//! `/prefix`: who says what about a prefix, as `virtctl why` has it.

use super::parts::event;
use maud::{Markup, html};
use virtd::ctl::why::{self, Said, Told, Why};
use virtd::show::micros;

/// Peers that are named of those to whom the same is said.
const PEERS: usize = 20;
/// Groups of peers.
const GROUPS: usize = 50;
/// Events.
const EVENTS: usize = 30;

/// What stands in `main`.
pub(super) fn main(why: &Why) -> Markup {
    let Some(prefix) = &why.prefix else {
        let asked = why.asked.as_deref().unwrap_or_default();
        return html! { h2 { (asked) } p { "No prefix has it of which anybody has said anything." } };
    };
    html! {
        h2 { (prefix) @if let Some(asked) = &why.asked { " (the longest that has " (asked) ")" } }
        section {
            h3 { "Received" }
            @if why.received.is_empty() { p { "From no peer." } }
            ul { @for r in why.received.iter().take(GROUPS) { li { "from " b { (peers(&r.peers)) } ": " (r.route) } } }
        }
        section {
            h3 { "Told" }
            @if why.told.is_empty() { p { "Nobody has said anything about it to any peer." } }
            @for t in why.told.iter().take(GROUPS) { (told(t, &why.strategy)) }
            @if why.told.len() > GROUPS { p { "… and " (why.told.len() - GROUPS) " other groups of peers" } }
            @if why.silent > 0 { p { "To " (why.silent) " more with a session: nothing." } }
        }
        @if let Some(fib) = &why.fib {
            section {
                h3 { "Kernel" }
                @if fib.is_empty() { p { "No route: nobody writes one." } }
                @for e in fib {
                    p { b { (e.key) } ": " (e.route) }
                    @if let Some(failed) = &e.failed { p.bad { "Not in the kernel: " (failed) } }
                    ul { @for s in &e.said {
                        li class=(if s.counted && s.route != e.route { "bad" } else { "" }) {
                            b { (s.instance) } " " (s.route) @if !s.counted { " (not counted)" }
                        }
                    } }
                }
            }
        }
        section {
            h3 { "Events" }
            @if why.events.is_empty() { p { "None of the last ones is about it." } }
            ol.events { @for e in why.events.iter().rev().take(EVENTS) { (event(e)) } }
        }
    }
}

fn peers(all: &[String]) -> String {
    let named = all.iter().take(PEERS).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(PEERS) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn told(t: &Told, strategy: &str) -> Markup {
    html! {
        p { "to " b { (peers(&t.peers)) } ": " (t.published) }
        @if t.winner != t.published { p { "chosen, not sent yet: " (t.winner) } }
        p {
            "because " (why::rule(&t.rule, strategy)) @if !t.why.is_empty() { ": " (t.why) }
            @if let Some((least, _)) = t.changed_us { "; somebody last said something else " (micros(least)) " ago" }
        }
        ul { @for s in &t.said { (said(s)) } }
    }
}

fn said(s: &Said) -> Markup {
    let (class, mark) = match (s.counted, s.agrees) {
        (true, true) => ("good", "="),
        (true, false) => ("bad", "!"),
        (false, _) => ("", "·"),
    };
    html! { li class=(class) { (mark) " " b { (s.instance) } " " (s.route) @if !s.note.is_empty() { " [" (s.note) "]" } } }
}
