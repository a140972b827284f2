use super::view::{Pane, Polled, View};
use super::*;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde::de::DeserializeOwned;
use std::fmt::Write;
use virtd_api::{Instance, Leg, Session};

/// What virtd answers, as it was written down (virtd/api/tests/form).
fn sample<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/tests/form").join(name).with_extension("json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("a sample")).expect("an answer")
}

fn samples() -> Polled {
    let (Sessions { sessions }, Instances { instances }, Events { events }) =
        (sample("sessions"), sample("instances"), sample("events"));
    Polled { status: sample("status"), sessions, instances, events }
}

/// As many peers as an exchange has; each fifth is down.
fn crowd(n: usize) -> Polled {
    let leg = |instance: &str| Leg { instance: instance.into(), state: "Established".into(), ..Leg::default() };
    let session = |i: usize| {
        let up = i % 5 != 4;
        Session {
            peer: format!("10.{}.{}.2", i / 250, i % 250),
            state: if up { "Established" } else { "Connect" }.into(),
            up_us: up.then_some(1_000_000 * i as u64),
            asn: up.then_some(64_512 + i as u32),
            prefixes_in: Some(i * 7 % 1000),
            updates_in: up.then_some(i as u64),
            legs: vec![leg("frr"), leg("bird"), leg("openbgpd")],
            ..Session::default()
        }
    };
    Polled { sessions: (0..n).map(session).collect(), ..samples() }
}

fn picture(view: &mut View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw::draw(frame, view)).expect("a picture");
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Is what stands in a file; with HV_FORM=write it is written.
fn same(name: &str, picture: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ctl/top/pictures").join(name);
    if std::env::var("HV_FORM").is_ok_and(|word| word == "write") {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, picture).expect("a picture is written");
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert_eq!(picture, expected, "{}", file.display());
}

fn press(view: &mut View, code: KeyCode) -> bool {
    view.key(KeyEvent::new(code, KeyModifiers::NONE))
}

/// Answers a second apart, the second with more counted.
fn view_of(polled: Polled) -> View {
    let mut view = View::new(false);
    let mut later = polled.clone();
    later.status.uptime_us += 1_000_000;
    later.status.votes += 1200;
    later.status.updates_in += 3;
    later.sessions.iter_mut().for_each(|s| s.updates_in = s.updates_in.map(|n| n + 2));
    view.take(Ok(polled), Duration::from_secs(1));
    view.take(Ok(later), Duration::from_secs(2));
    view
}

#[test]
fn the_picture_of_the_samples() {
    same("samples-80x24.txt", &picture(&mut view_of(samples()), 80, 24));
    same("samples-40x10.txt", &picture(&mut view_of(samples()), 40, 10));
    let mut view = view_of(samples());
    press(&mut view, KeyCode::Tab);
    same("instances-40x10.txt", &picture(&mut view, 40, 10));
    press(&mut view, KeyCode::Tab);
    same("events-40x10.txt", &picture(&mut view, 40, 10));
}

#[test]
fn any_size_is_drawn() {
    let mut view = view_of(crowd(30));
    for (width, height) in [(1, 1), (2, 3), (10, 4), (40, 5), (79, 17), (80, 18), (300, 100)] {
        for _ in 0..3 {
            let _ = picture(&mut view, width, height);
            press(&mut view, KeyCode::Tab);
        }
    }
}

#[test]
fn a_thousand_sessions_scroll() {
    let mut view = view_of(crowd(1000));
    let first = picture(&mut view, 80, 24);
    assert!(first.contains("10.0.0.2 ") && first.contains("sessions 1-8 of 1000"), "{first}");
    press(&mut view, KeyCode::PageDown);
    let second = picture(&mut view, 80, 24);
    assert!(!second.contains("10.0.0.2 ") && second.contains("sessions 8-15 of 1000"), "{second}");
    press(&mut view, KeyCode::End);
    let end = picture(&mut view, 80, 24);
    assert!(end.contains("10.3.249.2 ") && end.contains("sessions 993-1000 of 1000"), "{end}");
    for _ in 0..3 {
        press(&mut view, KeyCode::Down);
    }
    press(&mut view, KeyCode::Up);
    assert!(picture(&mut view, 80, 24).contains("sessions 992-999 of 1000"), "what is past the end is not kept");
    press(&mut view, KeyCode::Home);
    assert_eq!(picture(&mut view, 80, 24), first);
    // A larger terminal has room for more, and a smaller one is not left empty.
    press(&mut view, KeyCode::End);
    assert!(picture(&mut view, 80, 60).contains("sessions 957-1000 of 1000"));
}

#[test]
fn columns_are_sorted_by_number_and_turned_round() {
    let mut view = view_of(crowd(20));
    let peers = |view: &View| view.sessions().iter().map(|s| s.peer.clone()).collect::<Vec<_>>();
    let by_peer = peers(&view);
    assert_eq!((by_peer[2].as_str(), by_peer[10].as_str()), ("10.0.2.2", "10.0.10.2"), "by number, not by letter");
    press(&mut view, KeyCode::Char('3'));
    assert!(view.sessions()[..4].iter().all(|s| s.state == "Connect"), "what is down comes first");
    press(&mut view, KeyCode::Char('5'));
    assert_eq!(view.sessions()[0].prefixes_in, Some(133));
    assert!(picture(&mut view, 80, 24).contains("  IN*"));
    press(&mut view, KeyCode::Char('5'));
    assert_eq!(view.sessions()[0].prefixes_in, Some(0));
    assert!(picture(&mut view, 80, 24).contains("  IN^"));
    press(&mut view, KeyCode::Char('r'));
    assert_eq!(view.sessions()[0].prefixes_in, Some(133));
    press(&mut view, KeyCode::Char('<'));
    assert_eq!(view.places[Pane::Sessions as usize].column, 3);
    press(&mut view, KeyCode::Char('9'));
    assert_eq!(view.places[Pane::Sessions as usize].column, 3, "there is no ninth");
    press(&mut view, KeyCode::Tab);
    press(&mut view, KeyCode::Char('5'));
    assert_eq!(view.instances()[0].dissents_now, 2);
}

#[test]
fn keys_that_end_it() {
    let mut view = view_of(samples());
    for code in [KeyCode::Char('q'), KeyCode::Esc] {
        assert!(press(&mut view, code));
    }
    assert!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    for code in [KeyCode::Char('c'), KeyCode::Char('x'), KeyCode::Enter, KeyCode::F(1), KeyCode::Down] {
        assert!(!press(&mut view, code));
    }
}

#[test]
fn a_virtd_that_is_gone_is_said_and_another_one_is_taken() {
    let mut view = view_of(samples());
    assert!(picture(&mut view, 80, 24).contains("votes 1200/s  in 3.0/s  out 0/s"));
    view.take(Err("nobody listens".to_owned()), Duration::from_secs(3));
    view.now = Duration::from_secs(14);
    let gone = picture(&mut view, 80, 24);
    assert!(gone.contains("virtd does not answer for 12s: nobody listens") && gone.contains("votes -/s"), "{gone}");
    assert!(gone.contains("192.0.2.1"), "what it last said stays");
    let mut young = samples();
    young.status.uptime_us = 1;
    view.take(Ok(young.clone()), Duration::from_secs(15));
    let back = picture(&mut view, 80, 24);
    assert!(!back.contains("does not answer") && back.contains("votes -/s"), "{back}");
    young.status.uptime_us = 2;
    view.take(Ok(young), Duration::from_secs(16));
    assert!(picture(&mut view, 80, 24).contains("votes 0/s"));

    let mut never = View::new(false);
    assert!(picture(&mut never, 80, 24).contains("asking virtd"));
    never.take(Err("nobody listens".to_owned()), Duration::from_secs(3));
    assert!(picture(&mut never, 80, 24).contains("virtd does not answer: nobody listens"));
}

#[test]
fn colours_are_used_where_they_are_wanted_and_nothing_drives_the_terminal() {
    let mut polled = samples();
    polled.status.majority_split = true;
    polled.instances.push(Instance {
        name: "x\u{1b}[2J".into(),
        role: "voter".into(),
        state: "absent".into(),
        ..Instance::default()
    });
    let colours = |coloured| {
        let mut view = View::new(coloured);
        view.take(Ok(polled.clone()), Duration::from_secs(1));
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
        terminal.draw(|frame| draw::draw(frame, &mut view)).expect("a picture");
        let buffer = terminal.backend().buffer().clone();
        assert!(buffer.content().iter().all(|cell| !cell.symbol().contains('\u{1b}')));
        buffer.content().iter().filter(|c| c.fg != ratatui::style::Color::Reset).count()
    };
    assert!(colours(true) > 0);
    assert_eq!(colours(false), 0);
}
