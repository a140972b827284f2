//! Who has left this session, and what follows: `leaving.rs` has the rule, this gathers what
//! it asks for and does what it says.

use super::*;
use crate::event::{Event, Severity};
use crate::leaving::{self, Count, Ending, Meaning};
use crate::poison::End;

/// An instance that has left against the majority is told to differ when it has not come back for
/// so long.
const DIFFERS_US: Micros = 5_000_000;

/// How the leg that an instance had on this session ended; kept until it has another, or the
/// session ends.
#[derive(Clone, Debug)]
pub struct Departure {
    /// When.
    pub at: Micros,
    /// The instance's NOTIFICATION; `None`: it closed the leg without one.
    pub said: Option<Notification>,
    /// What that means, as far as it is known.
    pub means: Meaning,
    /// It had a vote then: what an observer, a standby or a successor does never counts, whatever
    /// becomes of it later.
    pub(super) voter: bool,
    /// A majority lost its legs together with this one: nobody's fault.
    excused: bool,
}

impl Departure {
    /// A voter has left by its own will.
    pub(super) fn left(at: Micros, said: Option<Notification>) -> Departure {
        Departure { at, said, means: Meaning::Leave, voter: true, excused: false }
    }
}

/// How this session was last ended by those that had it.
#[derive(Clone, Debug)]
pub struct Farewell {
    /// When.
    pub at: Micros,
    /// What the peer was told.
    pub said: Notification,
    /// Who had left.
    pub left: Vec<String>,
    /// The session has come back since.
    pub returned: bool,
}

impl Farewell {
    /// Whether the session still waits for a majority that wants it back.
    pub(super) fn awaits_consent(&self) -> bool {
        !self.returned && leaving::needs_consent(&self.said)
    }
}

impl Session {
    /// The established leg of instance `i` has ended, and is gone: `said` is its NOTIFICATION, if
    /// it gave one.
    pub(super) fn departed(&mut self, i: usize, said: Option<Notification>, env: &mut Env) {
        let said = said.map(leaving::plain);
        let voter = env.instances.voters.contains(i as u8);
        let departure = Departure { at: env.now, said, means: Meaning::Wait, voter, excused: false };
        self.seats[i].departure = Some(departure);
        self.excuse_together(env);
        self.weigh(i, false, env);
    }

    /// virtd has ended the established leg of instance `i` with this NOTIFICATION, for what no BGP
    /// speaker may do.
    pub(super) fn faulted(&mut self, i: usize, n: Notification, env: &mut Env) {
        let (expired, at) = (n.code == 4, env.now);
        let voter = env.instances.voters.contains(i as u8);
        let departure = Departure { at, said: None, means: Meaning::Fault, voter, excused: false };
        self.seats[i].departure = Some(departure);
        self.excuse_together(env);
        let Some(d) = self.seats[i].departure.as_ref() else { return };
        if !expired && !d.excused && !self.ending(i, d, env).moved {
            env.followups.lost(i, self.index, false);
        }
    }

    /// Legs of a majority that end together are nobody's fault.
    fn excuse_together(&mut self, env: &mut Env) {
        let recent = |d: &Departure| env.now < d.at + leaving::TOGETHER_US;
        let lost = |s: &Seat| s.leg.is_none() && s.departure.as_ref().is_some_and(recent);
        let electorate = self.with_a_leg_once(env);
        let together = electorate.iter().filter(|i| self.seats.get(usize::from(*i)).is_some_and(lost)).count();
        if together * 2 <= electorate.len() || electorate.len() < 2 {
            return;
        }
        for (i, seat) in self.seats.iter_mut().enumerate() {
            if let Some(d) = seat.departure.as_mut().filter(|d| recent(d)) {
                d.excused = true;
                env.followups.excuse(i, self.index);
            }
        }
    }

    /// The live voters that have had an established leg since this session came up.
    fn with_a_leg_once(&self, env: &Env) -> Members {
        let had = |i: &u8| self.seats.get(usize::from(*i)).is_some_and(|s| s.had_leg);
        env.instances.live_voters().iter().filter(had).collect()
    }

    /// What is known about the end of a leg.
    fn ending(&self, i: usize, d: &Departure, env: &Env) -> Ending {
        let local = self.local();
        let state = env.instances.get(i);
        let ended = state.and_then(|s| s.last_channel_closed);
        // A Cease and the end of the process are told over different sockets, in any order.
        let since = d.at.saturating_sub(leaving::CHANNEL_US / 2);
        let ours = |at: Micros| at <= d.at && d.at < at + leaving::OURS_US;
        let near = |at: Micros| at + leaving::MOVED_US >= d.at && at <= d.at + leaving::MOVED_US;
        Ending {
            said: d.said.clone(),
            age: env.now - d.at,
            several: env.instances.voters.len() > 1,
            ours: state.and_then(|s| s.touched).is_some_and(ours),
            reborn: ended.is_some_and(|at| at < since && ours(at)),
            process_ended: ended.is_some_and(|at| at >= since) || state.is_none_or(|s| !s.attached),
            supervised: env.config.instances.get(i).is_some_and(|c| c.is_ours()),
            death: state.and_then(|s| s.last_death).filter(|(at, _)| *at >= since).map(|(_, death)| death),
            listeners_closed: state.and_then(|s| s.listener_closed).is_some_and(near),
            moved: env.links.changed(self.peer, local.map(|l| l.ip())).is_some_and(near),
            update_in_reach: env.poison.reaches(i, self.index, d.at),
            cleared: d.means == Meaning::Poison && !env.poison.searches(i),
        }
    }

    /// Our address on this session, as far as there is a connection.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.exts.iter().find_map(|e| e.local).or(self.last_local)
    }

    /// Finds out what the end of the leg of instance `i` means, and does what follows. `back`: it
    /// is there again, so that what it did without a word is judged by what is known now, and a
    /// leave is none.
    pub fn weigh(&mut self, i: usize, back: bool, env: &mut Env) {
        let Some(d) = self.seats.get(i).and_then(|s| s.departure.clone()) else { return };
        if !matches!(d.means, Meaning::Wait | Meaning::Poison) {
            return;
        }
        let mut ending = self.ending(i, &d, env);
        if back && ending.said.is_none() {
            ending.age = Micros::MAX;
        }
        let means = leaving::meaning(&ending);
        if means == d.means || (back && means == Meaning::Leave) {
            return;
        }
        if let Some(d) = self.seats[i].departure.as_mut() {
            d.means = means;
        }
        let at_fault = !d.excused && !ending.moved;
        match (means, &d.said) {
            (Meaning::Leave, _) => self.has_left(i, env),
            (Meaning::OwnEnd, _) => self.end_if_all_were_stopped(env),
            (Meaning::Died, _) => {
                env.poison.ended(i, self.index, d.at, End::Closed);
                // The supervisor counts the deaths of its own.
                if at_fault && !ending.supervised {
                    env.followups.lost(i, self.index, false);
                }
            }
            (Meaning::Poison, _) => {
                env.poison.ended(i, self.index, d.at, End::Closed);
                if at_fault {
                    env.followups.lost(i, self.index, false);
                }
            }
            (Meaning::Fault, Some(n)) => {
                if at_fault {
                    env.followups.lost(i, self.index, false);
                }
                // UPDATE Message Error (RFC 4271 section 6.3).
                if n.code == 3 {
                    let end = End::Notification { code: n.code, subcode: n.subcode };
                    env.poison.ended(i, self.index, d.at, end);
                }
            }
            _ => {}
        }
    }

    /// An UPDATE was found that explains why instance `i` lost its leg.
    pub fn is_explained(&mut self, i: usize) {
        if let Some(d) = self.seats.get_mut(i).and_then(|s| s.departure.as_mut()) {
            d.means = Meaning::Fault;
        }
    }

    /// Those that have left by their own will while they had a vote, the first one first.
    fn left(&self) -> Vec<(u8, &Departure)> {
        let departures = self.seats.iter().enumerate().filter_map(|(i, s)| Some((i as u8, s.departure.as_ref()?)));
        let mut left: Vec<(u8, &Departure)> =
            departures.filter(|(_, d)| d.means == Meaning::Leave && d.voter).collect();
        left.sort_by_key(|(_, d)| d.at);
        left
    }

    /// Instance `i` has left by its own will: the leaves are counted.
    fn has_left(&mut self, i: usize, env: &mut Env) {
        let Some(d) = self.seats[i].departure.clone() else { return };
        let (address, peer) = (self.peer.ip(), env.peer_name(&self.peer));
        let name = env.name(i).to_owned();
        let how = words(d.said.as_ref());
        let is_bfd = d.said.as_ref().is_some_and(|n| (n.code, n.subcode) == (6, leaving::cease::BFD_DOWN));
        let owner = env.config.peers.iter().find(|p| p.address == address).and_then(|p| p.bfd.clone());
        let alone = is_bfd && owner.as_deref() == Some(name.as_str());
        let counted = self.left().iter().filter(|(m, _)| env.instances.voters.contains(*m)).count();
        let of = self.with_a_leg_once(env).len();
        let standing = match d.voter {
            true => format!("{counted} of {of} voters have"),
            false => "it has no vote, so this does not count".to_owned(),
        };
        let hint = match (is_bfd, &owner) {
            (true, None) => {
                format!("; with bfd = \"{name}\" in the [[peer]] section of {peer} its BFD decides alone")
            }
            _ => String::new(),
        };
        let text = format!("{name} has left the session with {peer} by its own will ({how}); {standing}{hint}");
        env.tell_of("session-left", Severity::Info, &self.peer, i, text);
        if alone {
            let said = d.said.clone().unwrap_or(Notification::new(6, leaving::cease::BFD_DOWN));
            return self.end_by_will(said, format!("its bfd key lets {name} decide"), env);
        }
        if d.voter {
            self.count_leaves(true, env);
        }
    }

    /// Ends the session where those that have left are a majority. `told`: a tie is an event.
    fn count_leaves(&mut self, told: bool, env: &mut Env) {
        let electorate = self.with_a_leg_once(env);
        let left = self.left();
        let members: Members = left.iter().map(|(i, _)| *i).filter(|i| env.instances.voters.contains(*i)).collect();
        let cut = env.links.cut(self.peer, self.local().map(|l| l.ip()));
        let (n, of) = (members.intersect(electorate).len(), electorate.len());
        match leaving::count(electorate, members, cut.is_some()) {
            Count::Ends => {
                let counted = left.iter().filter(|(i, _)| members.contains(*i));
                let said = leaving::farewell(counted.map(|(_, d)| d.said.as_ref()));
                let why = match cut.filter(|_| n * 2 == of) {
                    Some(cut) => format!("{n} of {of} voters have left it, and {cut}"),
                    None => format!("{n} of {of} voters have left it"),
                };
                self.end_by_will(said, why, env);
            }
            Count::Tie => {
                self.tied = true;
                if told {
                    let text = format!(
                        "{n} of {of} voters have left the session with {}: half of them keep it, so it stays",
                        env.peer_name(&self.peer)
                    );
                    env.tell("session-tie", Severity::Alarm, &self.peer, text);
                }
            }
            Count::Stays => self.tied = false,
        }
    }

    /// Every voter's process was stopped in order, with a word for the peer: it is passed on, as
    /// from a single daemon.
    fn end_if_all_were_stopped(&mut self, env: &mut Env) {
        let stopped = |i: u8| {
            let d = self.seats.get(usize::from(i)).and_then(|s| s.departure.as_ref());
            d.is_some_and(|d| d.means == Meaning::OwnEnd)
        };
        if !env.instances.voters.is_empty() && env.instances.voters.iter().all(stopped) {
            let said = Notification::new(6, leaving::cease::SHUTDOWN);
            self.end_by_will(said, "all voters were stopped".to_owned(), env);
        }
    }

    /// The session ends because those that had it want that.
    fn end_by_will(&mut self, said: Notification, why: String, env: &mut Env) {
        let left: Vec<String> = self.left().iter().map(|(i, _)| env.name(usize::from(*i)).to_owned()).collect();
        let farewell = Farewell { at: env.now, said: said.clone(), left, returned: false };
        let conns: Vec<ConnId> = self.exts.iter().filter(|e| e.state > ExtState::Connect).map(|e| e.id).collect();
        let peer = env.peer_name(&self.peer);
        let consent = match leaving::needs_consent(&said) {
            true => "; it comes back when a majority of the voters sends an OPEN for it",
            false => "",
        };
        let mut event = Event::new(
            env.now,
            "session-ended",
            Severity::Alarm,
            format!("the session with {peer} is ended with NOTIFICATION {said}: {why}{consent}"),
        )
        .with_session(env.peer_name(&self.peer));
        event.said = self.who_left(env);
        env.out.push(event.into());
        self.ended = Some(farewell);
        for conn in conns {
            self.reset(conn, said.clone(), &why, env);
        }
    }

    /// What each instance has done with this session, for an event.
    fn who_left(&self, env: &Env) -> Vec<crate::event::Said> {
        let said = |(i, s): (usize, &Seat)| {
            let what = match (&s.departure, &s.leg) {
                (_, Some(leg)) if leg.state == LegState::Established => "has the session".to_owned(),
                (Some(d), _) => format!("{} ({})", d.name(), words(d.said.as_ref())),
                (None, _) => "has no leg".to_owned(),
            };
            crate::event::Said {
                instance: env.name(i).to_owned(),
                route: what,
                counted: env.instances.voters.contains(i as u8),
            }
        };
        let seats = self.seats.iter().enumerate().filter(|(i, _)| !env.is_vacant(*i));
        seats.map(said).collect()
    }

    /// How many OPENs this session wants before it is opened, where not all are there: after an end
    /// by will a majority of the live voters.
    pub(super) fn wanted_opens(&self, env: &Env) -> usize {
        match self.ended.as_ref().is_some_and(Farewell::awaits_consent) {
            true => env.instances.live_voters().len() / 2 + 1,
            false => 1,
        }
    }

    /// The session has come up.
    pub(super) fn note_return(&mut self, env: &mut Env) {
        let Some(ended) = self.ended.as_mut().filter(|e| !e.returned) else { return };
        ended.returned = true;
        let text = format!(
            "the session with {} is back, {} s after it was ended with NOTIFICATION {}",
            env.peer_name(&self.peer),
            (env.now - ended.at) / 1_000_000,
            ended.said
        );
        env.tell("session-returned", Severity::Info, &self.peer, text);
    }

    /// Looks at the legs that are gone, and at how long a majority has gone on without them. Called
    /// with every tick.
    pub(super) fn tick_departures(&mut self, env: &mut Env) {
        for i in 0..self.seats.len() {
            self.weigh(i, false, env);
        }
        if self.tied {
            // virtd's own eyes break a tie, whenever they see it.
            self.count_leaves(false, env);
        }
        self.count_missed(env);
        self.tell_differing(env);
    }

    /// For how long a majority has had the session without an instance since that was last level on
    /// it.
    fn count_missed(&mut self, env: &Env) {
        let since = std::mem::replace(&mut self.ticked_at, env.now);
        // A loop that stood still has seen nothing of what went on meanwhile.
        let passed = (env.now - since).min(10 * TICK_US);
        let live = env.instances.live_voters();
        let held = self.up.is_some() && live.intersect(self.attached).len() * 2 > live.len();
        for i in 0..self.seats.len() {
            let may = self.may_have_leg(i, env);
            let seat = &mut self.seats[i];
            let leg = seat.leg.as_ref().filter(|l| l.state == LegState::Established);
            let left = seat.departure.as_ref().is_some_and(|d| d.means == Meaning::Leave);
            match leg {
                Some(_) => {}
                // Started again, one that was refused would say the same.
                None if left || !may || seat.open.is_none() || seat.refused.is_some() => {}
                None if held && env.instances.get(i).is_some_and(|s| s.attached) => seat.missed_us += passed,
                None => {}
            }
        }
    }

    /// Who has left against the majority is told once: its operator, or its own protection, wants
    /// something else than the others'.
    fn tell_differing(&mut self, env: &mut Env) {
        if self.up.is_none() {
            return;
        }
        let rest = Micros::from(env.config.timers.fault_threshold_ms) * 1000;
        for i in 0..self.seats.len() {
            let seat = &mut self.seats[i];
            if seat.leg.as_ref().is_some_and(|l| l.level && env.now >= l.since + rest) {
                seat.differs_told = false;
            }
            let left = |d: &&Departure| d.means == Meaning::Leave && env.now >= d.at + DIFFERS_US;
            let Some(d) = seat.departure.as_ref().filter(left).filter(|_| !seat.differs_told) else { continue };
            let how = words(d.said.as_ref());
            seat.differs_told = true;
            let text = format!(
                "{} stays out of the session with {}, which the others keep ({how}): if that is meant, it is to be configured alike in all",
                env.name(i),
                env.peer_name(&self.peer)
            );
            env.tell_of("session-differs", Severity::Warning, &self.peer, i, text);
        }
    }

    /// For how long a majority has had this session without instance `i`, in total since that was
    /// last level on it, µs; 0 for one that has left by its own will.
    pub fn missed_us(&self, i: usize) -> Micros {
        self.seats.get(i).map_or(0, |s| s.missed_us)
    }

    /// Instance `i` was told to be absent: the time begins anew.
    pub fn forget_missed(&mut self, i: usize) {
        if let Some(seat) = self.seats.get_mut(i) {
            seat.missed_us = 0;
        }
    }

    /// Whether a majority of the live voters has this session now.
    pub fn is_held(&self, env: &Env) -> bool {
        let live = env.instances.live_voters();
        self.up.is_some() && live.intersect(self.attached).len() * 2 > live.len()
    }

    /// Whether instance `i` has left this session by its own will.
    pub fn has_left_by_will(&self, i: usize) -> bool {
        let d = self.seats.get(i).and_then(|s| s.departure.as_ref());
        d.is_some_and(|d| d.means == Meaning::Leave)
    }

    /// How the last leg of instance `i` ended, while it has no other.
    pub fn departure(&self, i: usize) -> Option<&Departure> {
        self.seats.get(i)?.departure.as_ref()
    }
}

impl Departure {
    /// What it means, for people.
    pub const fn name(&self) -> &'static str {
        match self.means {
            Meaning::Leave => "left by its own will",
            Meaning::Wait => "lost its leg a moment ago",
            Meaning::OwnEnd => "was stopped",
            Meaning::Ended => "was ended from outside",
            Meaning::Died => "died",
            Meaning::Poison => "closed its leg, maybe because of an UPDATE",
            Meaning::Ours => "lost its leg by virtd's own doing",
            Meaning::Fault => "lost its leg by a fault",
        }
    }

    /// How it ended, in words.
    pub fn how(&self) -> String {
        words(self.said.as_ref())
    }
}

/// What an instance has said, for people.
fn words(said: Option<&Notification>) -> String {
    match said {
        Some(n) => format!("NOTIFICATION {n}"),
        None => "it closed its leg without a NOTIFICATION".to_owned(),
    }
}
