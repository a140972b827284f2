//! The picture. What does not fit is left out: first columns, then tables other than the one that
//! the keys are for.

use super::view::{INSTANCE_COLUMNS, Pane, SESSION_COLUMNS, View, legs};
use crate::show::{clean, duration, micros};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};
use std::time::Duration;
use virtd_api as api;

/// Lines at the top, and the one with the keys.
const HEAD: u16 = 3;
const FOOT: u16 = 1;
/// Instances that are shown beside the sessions, at most.
const INSTANCES: u16 = 6;
/// Events that are shown beside the sessions, with their heading.
const EVENTS: u16 = 6;
/// Below that many lines only one table is shown.
const LOW: u16 = 18;
/// Below that many columns a table has only what matters.
const NARROW: u16 = 72;
/// Which columns these are.
const NARROW_SESSIONS: [usize; 4] = [0, 2, 4, 7];
const NARROW_INSTANCES: [usize; 4] = [0, 2, 3, 4];

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Plain,
    Faint,
    Warning,
    Alarm,
}

/// Draws all.
pub(crate) fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let area = frame.area();
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(HEAD), Constraint::Min(0), Constraint::Length(FOOT)]).areas(area);
    frame.render_widget(Paragraph::new(heading(view)), head);
    if body.height < LOW - HEAD - FOOT {
        pane(frame, view, view.pane, body);
    } else {
        let rows = u16::try_from(view.instances().len()).unwrap_or(INSTANCES).min(INSTANCES);
        let parts = [Constraint::Length(rows + 1), Constraint::Min(0), Constraint::Length(EVENTS)];
        let [instances, sessions, events] = Layout::vertical(parts).areas(body);
        pane(frame, view, Pane::Instances, instances);
        pane(frame, view, Pane::Sessions, sessions);
        pane(frame, view, Pane::Events, events);
    }
    frame.render_widget(Paragraph::new(keys(view)).style(style(view, Mood::Faint)), foot);
}

fn style(view: &View, mood: Mood) -> Style {
    let style = Style::default();
    match (mood, view.coloured) {
        (Mood::Plain, _) => style,
        (Mood::Faint, true) => style.add_modifier(Modifier::DIM),
        (Mood::Warning, true) => style.fg(Color::Yellow),
        (Mood::Alarm, true) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        (Mood::Faint, false) => style,
        (Mood::Warning | Mood::Alarm, false) => style.add_modifier(Modifier::BOLD),
    }
}

/// What the router is and does, in three lines.
fn heading(view: &View) -> Vec<Line<'static>> {
    let since = |at: Duration| duration(view.now.saturating_sub(at));
    let Some(polled) = &view.polled else {
        let text = match &view.failing {
            None => Line::styled("asking virtd", style(view, Mood::Plain)),
            Some(why) => Line::styled(format!("virtd does not answer: {}", clean(why)), style(view, Mood::Alarm)),
        };
        return vec![text];
    };
    let s = &polled.status;
    let number = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
    let who = format!(
        "AS {} {}  {}  T {}  up {}",
        number(s.router.asn.map(|n| n.to_string())),
        number(s.router.router_id.map(|n| n.to_string())),
        clean(&s.strategy),
        duration(Duration::from_millis(s.t_ms)),
        micros(s.uptime_us),
    );
    let rates = match view.rates {
        None => "votes -/s  in -/s  out -/s".to_owned(),
        Some(r) => format!("votes {}/s  in {}/s  out {}/s", rate(r.votes), rate(r.updates_in), rate(r.updates_out)),
    };
    let does = format!("sessions {}/{}  voters {}  {rates}", s.sessions_up, s.sessions, s.voters);
    let third = match &view.failing {
        Some(why) => {
            let text = format!("virtd does not answer for {}: {}", since(view.answered), clean(why));
            Line::styled(text, style(view, Mood::Alarm))
        }
        None => {
            let mut text = format!("disagreements {}  no majority {}", s.disagreements_now, s.without_quorum);
            let past = s.native_bgp.filter(|n| *n > 0);
            if let Some(n) = past {
                text = format!("{n} sockets past virtd  {text}");
            }
            if s.majority_split {
                text = format!("the majority is in doubt  {text}");
            }
            let mood = match (past.is_some() || s.majority_split, s.disagreements_now + s.without_quorum) {
                (true, _) => Mood::Alarm,
                (false, 0) => Mood::Plain,
                (false, _) => Mood::Warning,
            };
            Line::styled(text, style(view, mood))
        }
    };
    vec![Line::raw(who), Line::raw(does), third]
}

/// Small ones with a digit behind the point.
fn rate(n: f64) -> String {
    if n > 0.0 && n < 9.95 { format!("{n:.1}") } else { format!("{n:.0}") }
}

fn keys(view: &View) -> String {
    let place = view.places[view.pane as usize];
    let (what, sort) = match view.pane {
        Pane::Sessions => ("sessions", "  1-8 sort  r reverse"),
        Pane::Instances => ("instances", "  1-7 sort  r reverse"),
        Pane::Events => ("events", ""),
    };
    let last = (place.top + place.room).min(place.rows);
    let first = if place.rows == 0 { 0 } else { place.top + 1 };
    format!("{what} {first}-{last} of {}  q quit  Tab next table{sort}", place.rows)
}

/// One of the tables.
fn pane(frame: &mut Frame<'_>, view: &mut View, pane: Pane, area: Rect) {
    let room = usize::from(area.height.saturating_sub(1));
    let rows = match pane {
        Pane::Sessions => view.sessions().len(),
        Pane::Instances => view.instances().len(),
        Pane::Events => view.events().len(),
    };
    let place = &mut view.places[pane as usize];
    (place.rows, place.room) = (rows, room);
    place.top = place.top.min(rows.saturating_sub(room));
    let (top, narrow) = (place.top, area.width < NARROW);
    let shown: Vec<(Vec<String>, Mood)> = match pane {
        Pane::Sessions => view.sessions().into_iter().skip(top).take(room).map(|s| session(s, view)).collect(),
        Pane::Instances => view.instances().into_iter().skip(top).take(room).map(instance).collect(),
        Pane::Events => return events(frame, view, top, area),
    };
    let columns: Vec<usize> = match (pane, narrow) {
        (Pane::Sessions, true) => NARROW_SESSIONS.to_vec(),
        (Pane::Instances, true) => NARROW_INSTANCES.to_vec(),
        (_, false) => (0..pane.columns().len()).collect(),
        (Pane::Events, true) => Vec::new(),
    };
    table(frame, view, pane, &columns, &shown, area);
}

fn table(frame: &mut Frame<'_>, view: &View, pane: Pane, columns: &[usize], rows: &[(Vec<String>, Mood)], area: Rect) {
    let place = view.places[pane as usize];
    let title = |column: usize| {
        let mark = match (column == place.column, place.reversed) {
            (true, false) => "*",
            (true, true) => "^",
            (false, _) => "",
        };
        format!("{}{mark}", pane.columns().get(column).copied().unwrap_or_default())
    };
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|(cells, _)| cells.get(column)).map(|cell| cell.chars().count());
        // Room for the mark, so that nothing moves when it does.
        let titles = pane.columns().get(column).map_or(0, |t| t.len() + 1);
        Constraint::Length(u16::try_from(cells.max().unwrap_or(0).max(titles)).unwrap_or(u16::MAX))
    };
    let mut heading = Style::default().add_modifier(Modifier::BOLD);
    if view.pane == pane {
        heading = heading.add_modifier(Modifier::REVERSED);
    }
    let header = Row::new(columns.iter().map(|c| title(*c))).style(heading);
    let row = |(cells, mood): &(Vec<String>, Mood)| {
        Row::new(columns.iter().filter_map(|c| cells.get(*c).cloned()).collect::<Vec<_>>()).style(style(view, *mood))
    };
    let table = Table::new(rows.iter().map(row), columns.iter().map(|c| width(*c))).header(header).column_spacing(2);
    frame.render_widget(table, area);
}

/// A session's cells, as [`SESSION_COLUMNS`] names them.
fn session(s: &api::Session, view: &View) -> (Vec<String>, Mood) {
    const _: () = assert!(SESSION_COLUMNS.len() == 8);
    let number = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
    let (up, of) = legs(s);
    let without: Vec<String> =
        s.legs.iter().filter(|leg| leg.state != "Established").map(|leg| clean(&leg.instance)).collect();
    let missing = if without.is_empty() { String::new() } else { format!(" without {}", without.join(", ")) };
    let state = match s.path.as_deref().filter(|path| *path != "up") {
        _ if s.shut => "shut down".to_owned(),
        Some(cut) => clean(cut),
        None => clean(&s.state),
    };
    let mood = match (s.up_us.is_some(), s.shut) {
        _ if s.state == "native" => Mood::Plain,
        (false, true) => Mood::Faint,
        (false, false) => Mood::Alarm,
        (true, _) if up < of => Mood::Warning,
        (true, _) => Mood::Plain,
    };
    let cells = vec![
        clean(&s.peer),
        number(s.asn.map(|n| n.to_string())),
        state,
        number(s.up_us.map(micros)),
        number(s.prefixes_in.map(|n| n.to_string())),
        number(s.prefixes_out.map(|n| n.to_string())),
        number(view.peer_rates.get(&s.peer).map(|r| rate(*r))),
        format!("{up}/{of}{missing}"),
    ];
    (cells, mood)
}

/// An instance's cells, as [`INSTANCE_COLUMNS`] names them.
fn instance(i: &api::Instance) -> (Vec<String>, Mood) {
    const _: () = assert!(INSTANCE_COLUMNS.len() == 7);
    let suspect = if i.suspect.is_empty() { String::new() } else { format!(", suspect: {}", i.suspect.join(", ")) };
    let mood = match (i.role.as_str(), i.state.as_str()) {
        ("voter", "absent") => Mood::Alarm,
        ("standby", _) => Mood::Plain,
        (_, "absent" | "attached" | "catching-up" | "drained") => Mood::Warning,
        _ if i.dissents_now > 0 || !i.suspect.is_empty() || i.legs_up < i.legs => Mood::Warning,
        _ => Mood::Plain,
    };
    let cells = vec![
        clean(&i.name),
        format!("{}{}", clean(&i.role), if i.pinned { ", pinned" } else { "" }),
        clean(&format!("{}{suspect}", i.state)),
        format!("{}/{}", i.legs_up, i.legs),
        i.dissents_now.to_string(),
        i.cpu_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0}%")),
        i.memory_kib.map_or_else(|| "-".to_owned(), |kib| format!("{}M", kib / 1024)),
    ];
    (cells, mood)
}

/// The newest first, a line each.
fn events(frame: &mut Frame<'_>, view: &View, top: usize, area: Rect) {
    let mut heading = Style::default().add_modifier(Modifier::BOLD);
    if view.pane == Pane::Events {
        heading = heading.add_modifier(Modifier::REVERSED);
    }
    let blank = " ".repeat(usize::from(area.width).saturating_sub("LAST EVENTS".len()));
    let mut lines = vec![Line::styled(format!("LAST EVENTS{blank}"), heading)];
    for e in view.events().into_iter().skip(top).take(usize::from(area.height.saturating_sub(1))) {
        let mood = match e.event.severity.as_str() {
            "alarm" => Mood::Alarm,
            "warning" => Mood::Warning,
            _ => Mood::Plain,
        };
        // The day is that of the clock on the wall.
        let time = e.time.get(11..19).unwrap_or("-");
        let session = e.event.session.as_deref().map(|s| format!("{s}: ")).unwrap_or_default();
        let text = clean(&format!("{time} {} {session}{}", e.event.kind, e.event.text));
        lines.push(Line::styled(text, style(view, mood)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}
