//! What is on the screen, and what keys make of it. No terminal, no clock.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use virtd_api as api;

/// What virtd has answered.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    /// The whole.
    pub status: api::Status,
    /// The sessions.
    pub sessions: Vec<api::Session>,
    /// The instances.
    pub instances: Vec<api::Instance>,
    /// The last events, oldest first.
    pub events: Vec<api::Logged>,
}

/// So much a second; unknown until virtd has answered twice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Votes.
    pub votes: f64,
    /// UPDATEs of peers.
    pub updates_in: f64,
    /// UPDATEs to peers.
    pub updates_out: f64,
}

/// The tables, in the order in which Tab goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// Sessions with peers.
    Sessions,
    /// Instances.
    Instances,
    /// Events.
    Events,
}

/// A table on the screen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// The first row that is shown.
    pub top: usize,
    /// Rows that there are, and that there is room for, when it was last drawn.
    pub rows: usize,
    /// See `rows`.
    pub room: usize,
    /// By which column it is sorted.
    pub column: usize,
    /// The other way round.
    pub reversed: bool,
}

/// Columns of the sessions.
pub const SESSION_COLUMNS: [&str; 8] = ["PEER", "AS", "STATE", "UP", "IN", "OUT", "IN/s", "LEGS"];
/// Columns of the instances.
pub const INSTANCE_COLUMNS: [&str; 7] = ["INSTANCE", "ROLE", "STATE", "LEGS", "DISSENTS", "CPU", "MEMORY"];

/// See the module's comment.
#[derive(Debug)]
pub struct View {
    /// What virtd last said; none before it has said anything.
    pub polled: Option<Polled>,
    /// Why it says nothing now.
    pub failing: Option<String>,
    /// When it last answered.
    pub answered: Duration,
    /// The time now, on the same clock.
    pub now: Duration,
    /// See [`Rates`].
    pub rates: Option<Rates>,
    /// UPDATEs a second of each peer.
    pub peer_rates: HashMap<String, f64>,
    /// Which table the keys are for.
    pub pane: Pane,
    /// By [`Pane`].
    pub places: [Place; 3],
    /// With colours.
    pub coloured: bool,
}

impl View {
    /// Nothing yet.
    pub fn new(coloured: bool) -> View {
        View {
            polled: None,
            failing: None,
            answered: Duration::ZERO,
            now: Duration::ZERO,
            rates: None,
            peer_rates: HashMap::new(),
            pane: Pane::Sessions,
            places: [Place::default(); 3],
            coloured,
        }
    }

    /// The answer of virtd at a time, or that there is none.
    pub fn take(&mut self, news: Result<Polled, String>, now: Duration) {
        self.now = now;
        match news {
            Err(why) => {
                // What stands there is of the past, and its rates are nobody's.
                (self.failing, self.rates) = (Some(why), None);
                self.peer_rates.clear();
            }
            Ok(polled) => {
                let between = now.saturating_sub(self.answered).as_secs_f64();
                self.compare(&polled, between);
                (self.failing, self.answered) = (None, now);
                self.polled = Some(polled);
            }
        }
    }

    fn compare(&mut self, new: &Polled, seconds: f64) {
        self.rates = None;
        self.peer_rates.clear();
        let Some(old) = self.polled.as_ref().filter(|_| self.failing.is_none() && seconds > 0.0) else { return };
        // Another virtd begins to count anew.
        if new.status.uptime_us < old.status.uptime_us {
            return;
        }
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let (n, o) = (&new.status, &old.status);
        self.rates = Some(Rates {
            votes: rate(n.votes, o.votes),
            updates_in: rate(n.updates_in, o.updates_in),
            updates_out: rate(n.updates_out, o.updates_out),
        });
        let before: HashMap<&str, u64> =
            old.sessions.iter().filter_map(|s| Some((s.peer.as_str(), s.updates_in?))).collect();
        let of_peer = |s: &api::Session| {
            let rate = rate(s.updates_in?, *before.get(s.peer.as_str())?);
            Some((s.peer.clone(), rate))
        };
        self.peer_rates = new.sessions.iter().filter_map(of_peer).collect();
    }

    /// A key was pressed; whether that is the end.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let place = &mut self.places[self.pane as usize];
        let last = place.rows.saturating_sub(place.room);
        let page = place.room.saturating_sub(1).max(1);
        match key.code {
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return true,
            KeyCode::Up | KeyCode::Char('k') => place.top = place.top.min(last).saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => place.top += 1,
            KeyCode::PageUp => place.top = place.top.min(last).saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => place.top += page,
            KeyCode::Home | KeyCode::Char('g') => place.top = 0,
            KeyCode::End | KeyCode::Char('G') => place.top = last,
            KeyCode::Tab => self.pane = self.pane.next(),
            KeyCode::BackTab => self.pane = self.pane.next().next(),
            KeyCode::Char('r') => place.reversed = !place.reversed,
            KeyCode::Char('<' | ',') | KeyCode::Left => {
                self.sort_by(|column, of| column.checked_sub(1).unwrap_or(of - 1))
            }
            KeyCode::Char('>' | '.') | KeyCode::Right => self.sort_by(|column, of| (column + 1) % of),
            KeyCode::Char(digit @ '1'..='9') => {
                let wanted = digit as usize - '1' as usize;
                self.sort_by(|column, of| if wanted < of { wanted } else { column });
            }
            _ => {}
        }
        let place = &mut self.places[self.pane as usize];
        place.top = place.top.min(place.rows.saturating_sub(place.room));
        false
    }

    fn sort_by(&mut self, column: impl Fn(usize, usize) -> usize) {
        let of = self.pane.columns().len();
        let place = &mut self.places[self.pane as usize];
        if of == 0 {
            return;
        }
        let chosen = column(place.column, of);
        // The same once more turns it round.
        place.reversed = chosen == place.column && !place.reversed;
        (place.column, place.top) = (chosen, 0);
    }

    /// The sessions as they are to be shown.
    pub fn sessions(&self) -> Vec<&api::Session> {
        let place = self.places[Pane::Sessions as usize];
        let mut all: Vec<&api::Session> = self.polled.iter().flat_map(|p| &p.sessions).collect();
        let rate = |s: &api::Session| self.peer_rates.get(&s.peer).copied().unwrap_or(-1.0);
        let most = |a: Option<u64>, b: Option<u64>| b.cmp(&a);
        let of = |s: &api::Session| legs(s).0 as f64 / legs(s).1.max(1) as f64;
        all.sort_by_cached_key(|s| peer_order(&s.peer));
        // What is most, and what is worst, comes first.
        all.sort_by(|a, b| match place.column {
            1 => a.asn.cmp(&b.asn),
            2 => a.up_us.is_some().cmp(&b.up_us.is_some()).then_with(|| a.state.cmp(&b.state)),
            3 => a.up_us.cmp(&b.up_us),
            4 => most(a.prefixes_in.map(|n| n as u64), b.prefixes_in.map(|n| n as u64)),
            5 => most(a.prefixes_out, b.prefixes_out),
            6 => rate(b).total_cmp(&rate(a)),
            7 => of(a).total_cmp(&of(b)),
            _ => Ordering::Equal,
        });
        if place.reversed {
            all.reverse();
        }
        all
    }

    /// The instances as they are to be shown.
    pub fn instances(&self) -> Vec<&api::Instance> {
        let place = self.places[Pane::Instances as usize];
        let mut all: Vec<&api::Instance> = self.polled.iter().flat_map(|p| &p.instances).collect();
        let number = |n: Option<f64>| n.unwrap_or(-1.0);
        all.sort_by(|a, b| match place.column {
            1 => a.role.cmp(&b.role),
            2 => a.state.cmp(&b.state),
            3 => a.legs_up.cmp(&b.legs_up),
            4 => b.dissents_now.cmp(&a.dissents_now),
            5 => number(b.cpu_percent).total_cmp(&number(a.cpu_percent)),
            6 => b.memory_kib.cmp(&a.memory_kib),
            _ => Ordering::Equal,
        });
        if place.reversed {
            all.reverse();
        }
        all
    }

    /// The events, the newest first.
    pub fn events(&self) -> Vec<&api::Logged> {
        self.polled.iter().flat_map(|p| p.events.iter().rev()).collect()
    }
}

impl Pane {
    const fn next(self) -> Pane {
        match self {
            Pane::Sessions => Pane::Instances,
            Pane::Instances => Pane::Events,
            Pane::Events => Pane::Sessions,
        }
    }

    /// By which it can be sorted.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Pane::Sessions => &SESSION_COLUMNS,
            Pane::Instances => &INSTANCE_COLUMNS,
            Pane::Events => &[],
        }
    }
}

/// Legs that are established, and legs that there could be, of those that vote or not.
pub fn legs(s: &api::Session) -> (usize, usize) {
    (s.legs.iter().filter(|leg| leg.state == "Established").count(), s.legs.len())
}

/// IPv4 before IPv6, by number and not by letter.
fn peer_order(peer: &str) -> (Option<IpAddr>, String) {
    (peer.split('%').next().and_then(|address| address.parse().ok()), peer.to_owned())
}
