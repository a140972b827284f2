//! The page: what is in it, and what must never be.

mod sample;

use sample::{known, many, snapshot};
use virtd::ctl::ask::Unanswered;
use virtd_monitor::page::whole;
use virtd_monitor::watch::{Known, Snapshot};

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn page(known: Known) -> String {
    whole(&snapshot(known)).into_string()
}

#[test]
fn the_page_has_all_its_parts_and_nothing_from_elsewhere() {
    let text = page(known());
    for part in ["Instances", "Sessions", "Agreement", "Voted FIB", "Last faults", "192.0.2.1", ">i0<", "WARNING"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.contains("<noscript><meta http-equiv=\"refresh\""), "{text}");
    for never in ["http://", "https://", "//cdn", "style=", "onclick", "<img", "<script>"] {
        assert!(!text.contains(never), "{never} is in\n{text}");
    }
}

/// Whatever an instance, a peer or an event is called or says.
#[test]
fn nothing_that_others_say_is_markup() {
    let mut known = known();
    let hostile = || HOSTILE.to_owned();
    for s in &mut known.facts.sessions {
        (s.peer, s.state, s.path) = (hostile(), hostile(), Some(hostile()));
        for leg in &mut s.legs {
            (leg.instance, leg.state, leg.detail) = (hostile(), hostile(), hostile());
            if let Some(gone) = &mut leg.gone {
                (gone.what, gone.how) = (hostile(), hostile());
            }
        }
    }
    for i in &mut known.facts.instances {
        (i.name, i.state, i.role, i.last_fault) = (hostile(), hostile(), hostile(), Some(hostile()));
        (i.kind, i.version, i.suspect) = (Some(hostile()), Some(hostile()), vec![hostile()]);
    }
    for pair in &mut known.diversity.pairs {
        pair.instances = [hostile(), hostile()];
    }
    known.diversity.reading = hostile();
    for e in &mut known.events {
        (e.time, e.event.kind, e.event.text) = (hostile(), hostile(), hostile());
        (e.event.severity, e.event.session) = ("alarm".to_owned(), Some(hostile()));
        for said in &mut e.event.said {
            (said.instance, said.route) = (hostile(), hostile());
        }
    }
    let text = page(known);
    assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"), "{text}");
    assert!(!text.contains("<script>") && !text.contains("\"'&\""), "{text}");
}

#[test]
fn a_virtd_that_is_away_is_shown_as_that() {
    let down = Snapshot { known: Err(Unanswered::Down("it is gone <x>".to_owned())), ..snapshot(known()) };
    let text = whole(&down).into_string();
    assert!(text.contains("CRITICAL") && text.contains("it is gone &lt;x&gt;"), "{text}");
    assert!(!text.contains("Instances"));
}

/// With `open = "native"` there is nothing to vote on, and nothing wrong with that.
#[test]
fn a_native_router_is_shown_as_that() {
    let mut native = known();
    native.facts.status.open = "native".to_owned();
    native.facts.instances[0].state = "attached".to_owned();
    for s in &mut native.facts.sessions {
        (s.state, s.up_us) = ("native".to_owned(), None);
    }
    let text = page(native);
    assert!(text.contains("connections through virtd") && !text.contains("instances vote"), "{text}");
    assert!(text.contains("<td class=\"good\" data-t=\"State\">attached"), "{text}");
    assert!(text.contains("<td data-t=\"State\">native"), "{text}");
}

#[test]
fn a_page_has_an_end() {
    let mut known = many(1_000);
    // The last one is down, and so comes first.
    known.facts.sessions[999].up_us = None;
    let peer = known.facts.sessions[999].peer.clone();
    let text = page(known);
    assert!(text.contains("… and 800 more, which are up"));
    assert!(text.contains(&format!("<tbody><tr><th scope=\"row\">{peer}</th>")), "{peer}");
    assert!(text.len() < 400_000, "{}", text.len());
}
