//! Who may have a session, and when its place is given back; what strangers cost the operator's
//! attention.
//!
//! A *stranger* is a peer that no `[[peer]]` names (`accept_any`). Its session is there while an
//! instance wants it: has a leg for it, dials it, or has sent an OPEN for it within [`WANTED_US`].
//! A connection that all who listen have closed without a word is closed as well. The same becomes
//! of the session with a link-local peer whose interface is no more: what has the same name now is
//! another interface.
//!
//! The place of a session is its index everywhere; one that is given back is another peer's later,
//! so that nothing of the first may be left.

use super::env::Env;
use super::io::Micros;
use super::session::{LegState, Session};
use super::{Core, MAX_SESSIONS, key};
use crate::event::{Event, Severity};
use std::net::{IpAddr, SocketAddr};

/// How long a stranger's session without a connection is kept after an instance has wanted it: more
/// than daemons wait before they try again.
const WANTED_US: Micros = 600_000_000;
/// A stranger's connection is closed when all who listen have been offered it so often and have not
/// said a word: a daemon that has just started may take the second.
const OFFERS: u32 = 2;
/// Failures of strangers that are told one by one within a [`ROUND_US`]; the rest are counted.
const TOLD_IN_A_ROUND: u32 = 10;
/// So often what was counted is told.
const ROUND_US: Micros = 60_000_000;

/// Failures of strangers.
#[derive(Debug, Default)]
pub struct Failures {
    /// When the present round began.
    since: Micros,
    told: u32,
    counted: u64,
    /// One of those that were counted, in words.
    example: String,
    /// Ever, told or counted.
    pub total: u64,
}

impl Env {
    /// Whether a `[[peer]]` names this address.
    pub fn is_configured(&self, peer: &SocketAddr) -> bool {
        self.config.peers.iter().any(|p| p.address == peer.ip())
    }

    /// A stranger's connection has failed. Whether that is told by itself: `wanted` says that an
    /// instance knows him. Else it is counted.
    pub fn may_tell_failure(&mut self, peer: &SocketAddr, wanted: bool, text: &str) -> bool {
        let name = self.peer_name(peer);
        let f = &mut self.failures;
        f.total += 1;
        if wanted && f.told < TOLD_IN_A_ROUND {
            f.told += 1;
            return true;
        }
        f.counted += 1;
        f.example = format!("{name}: {text}");
        false
    }

    /// Tells what was counted, where a round is over.
    fn tell_failures(&mut self) {
        let now = self.now;
        let f = &mut self.failures;
        if f.since != 0 && now < f.since + ROUND_US {
            return;
        }
        if f.counted == 0 && f.told == 0 {
            f.since = 0;
            return;
        }
        let (counted, total) = (std::mem::take(&mut f.counted), f.total);
        (f.since, f.told) = (now, 0);
        if counted > 0 {
            let text = format!(
                "{counted} connections with peers that no [[peer]] names have failed, {total} since the start; one of them, {}",
                std::mem::take(&mut f.example)
            );
            self.out.push(Event::new(now, "strangers-failed", Severity::Info, text).into());
        }
    }
}

impl Session {
    /// Nothing is connected here, and nobody tries.
    fn is_idle(&self) -> bool {
        self.up.is_none() && self.exts.is_empty() && self.seats.iter().all(|s| s.leg.is_none())
    }

    /// Whether an instance has sent an OPEN for this peer, or dialled it, lately.
    pub(super) fn is_wanted(&self, env: &Env) -> bool {
        self.wanted_at.is_some_and(|at| env.now < at + WANTED_US)
    }

    /// Whether the place may be another peer's. `pressed`: there is none left for somebody new.
    fn may_go(&self, pressed: bool, env: &Env) -> bool {
        if self.vacant || !self.is_idle() {
            return false;
        }
        if env.links.is_gone(&self.peer) {
            return true;
        }
        !self.shut && !env.is_configured(&self.peer) && (pressed || !self.is_wanted(env))
    }

    /// Whether a stranger is connected whom nobody has said a word to, though all who listen were
    /// offered that so often.
    fn is_refused(&self, offers: u32, env: &Env) -> bool {
        let Some(ext) = self.exts.first().filter(|_| self.exts.len() == 1 && self.up.is_none()) else { return false };
        let (Some(local), false) = (ext.local, env.is_configured(&self.peer)) else { return false };
        let refuses = |(i, s): (usize, &super::session::Seat)| {
            s.leg.is_none() && (s.offers() >= offers || env.instances.listener_for(i, local.ip()).is_none())
        };
        !ext.dialled && self.wanted_at.is_none() && self.seats.iter().enumerate().all(refuses)
    }

    /// An instance wants this peer.
    pub(super) fn note_wanted(&mut self, env: &Env) {
        self.wanted_at = Some(env.now);
    }

    /// What an operator has shut down stays so, whatever came between: a restart of virtd, a
    /// reload, another interface of that name.
    pub(super) fn stay_shut(&mut self, env: &mut Env) {
        if !self.shut && !env.shut.is_empty() && env.shut.contains(&env.peer_name(&self.peer)) {
            self.operator_end(2, true, env);
        }
    }

    /// A leg for it on which its instance has spoken keeps it wanted.
    fn keep_wanted(&mut self, env: &Env) {
        let speaks = |s: &super::session::Seat| s.leg.as_ref().is_some_and(|l| l.state >= LegState::OpenReceived);
        if self.seats.iter().any(speaks) {
            self.note_wanted(env);
        }
    }
}

impl Core {
    /// The session with a peer; made on first contact where the configuration lets it in.
    pub(super) fn session_for(&mut self, peer: SocketAddr) -> Option<usize> {
        let peer = key(peer);
        if let Some(&s) = self.by_peer.get(&peer) {
            return Some(s);
        }
        let known = self.env.config.accept_any || self.env.is_configured(&peer);
        let place = if known { self.free_place() } else { None };
        let Some(index) = place else {
            if self.told_strangers.len() < MAX_SESSIONS && self.told_strangers.insert(peer, ()).is_none() {
                let name = self.env.peer_name(&peer);
                let text = match known {
                    true => format!("{name} is refused: {MAX_SESSIONS} sessions exist already"),
                    false => format!("{name} is refused: no [[peer]] names it; add one, or set accept_any = true"),
                };
                if self.env.may_tell_failure(&peer, true, &text) {
                    self.env.tell("peer-refused", Severity::Warning, &peer, text);
                }
            }
            return None;
        };
        let session = Session::new(index, peer, &mut self.env);
        match self.sessions.get_mut(index) {
            Some(place) => *place = session,
            None => self.sessions.push(session),
        }
        if let Some(s) = self.sessions.get_mut(index) {
            s.stay_shut(&mut self.env);
        }
        self.by_peer.insert(peer, index);
        Some(index)
    }

    /// The first place that nobody has, or one more; where there are none, that of somebody whom
    /// nobody needs.
    fn free_place(&mut self) -> Option<usize> {
        if let Some(place) = self.vacant_sessions.pop() {
            return Some(place);
        }
        let n = self.sessions.len();
        if n < MAX_SESSIONS {
            return Some(n);
        }
        // From where the last search ended, so that each has about the same time, and a flood does
        // not look at all for each of its own.
        let from = self.evict_from;
        let goes =
            |s: &usize| self.sessions.get(*s).is_some_and(|s| s.may_go(true, &self.env) || s.is_refused(1, &self.env));
        let found = (from..n).chain(0..from).find(goes)?;
        self.evict_from = (found + 1) % n;
        self.turn_away(found);
        self.vacate_session(found);
        self.vacant_sessions.pop()
    }

    fn turn_away(&mut self, index: usize) {
        let Some(s) = self.sessions.get_mut(index) else { return };
        for conn in s.exts.iter().map(|e| e.id).collect::<Vec<_>>() {
            self.conns.remove(&conn);
            s.turn_away(conn, &mut self.env);
        }
    }

    /// Closes the connections of strangers that nobody wants, and gives the places of idle ones
    /// back. Called with every tick.
    pub(super) fn see_to_strangers(&mut self) {
        for index in 0..self.sessions.len() {
            let Some(s) = self.sessions.get_mut(index).filter(|s| !s.vacant) else { continue };
            s.keep_wanted(&self.env);
            s.stay_shut(&mut self.env);
            if s.is_refused(OFFERS, &self.env) {
                self.turn_away(index);
            }
            if self.sessions.get(index).is_some_and(|s| s.may_go(false, &self.env)) {
                self.vacate_session(index);
            }
        }
        self.env.tell_failures();
    }

    /// Nobody has the place of this session any more: everything that was known of its peer is
    /// forgotten.
    fn vacate_session(&mut self, index: usize) {
        let Some(s) = self.sessions.get_mut(index) else { return };
        s.clear(&mut self.env);
        let peer = s.peer;
        self.gone_independence.add(&s.independence, self.env.instances.len());
        *s = Session::vacant(index, peer, &mut self.env);
        self.env.poison.forget_session(index);
        self.env.flight.forget_session(index);
        self.env.followups.forget_session(index);
        self.controller.forget_session(index);
        self.exercises.forget_session(index);
        if self.by_peer.get(&peer) == Some(&index) {
            self.by_peer.remove(&peer);
        }
        self.conns.retain(|_, s| *s != index);
        self.legs.retain(|_, s| *s != index);
        self.vacant_sessions.push(index);
    }

    /// What an operator calls a peer.
    pub fn peer_name(&self, peer: &SocketAddr) -> String {
        self.env.peer_name(peer)
    }

    /// What was shut down before virtd was started.
    pub(super) fn shut_down(&mut self, peers: impl IntoIterator<Item = String>) {
        for name in peers {
            let address = name.parse::<IpAddr>().ok();
            self.env.shut.insert(name);
            // So that it is seen where sessions are; an interface is known by its name later.
            if let Some(address) = address {
                let _ = self.session_for(SocketAddr::new(address, 0));
            }
        }
    }

    /// Sessions that somebody has.
    pub(super) fn taken_sessions(&self) -> impl Iterator<Item = (usize, &Session)> {
        self.sessions.iter().enumerate().filter(|(_, s)| !s.vacant)
    }

    /// The session that an operator means: a peer's address, with its zone where it is a link-local
    /// one (`fe80::2%eth1`).
    ///
    /// # Errors
    /// What to say to him where there is none, or where he might mean another.
    pub(super) fn session_named(&self, text: &str) -> Result<usize, String> {
        named(&self.sessions, &self.env, text)
    }
}

/// See [`Core::session_named`].
///
/// # Errors
/// See there.
pub fn named(sessions: &[Session], env: &Env, text: &str) -> Result<usize, String> {
    let all = || sessions.iter().enumerate().filter(|(_, s)| !s.vacant);
    // An interface that was made anew may have the name of the one before.
    let exact = all().filter(|(_, s)| env.peer_name(&s.peer) == text || env.peer_number(&s.peer) == text);
    if let Some((index, _)) = exact.min_by_key(|(_, s)| env.links.is_gone(&s.peer)) {
        return Ok(index);
    }
    let mut alike = all().filter(|(_, s)| s.peer.ip().to_string() == text);
    match (alike.next(), alike.next()) {
        (Some((index, _)), None) => Ok(index),
        (Some((_, a)), Some((_, b))) => {
            let (a, b) = (env.peer_name(&a.peer), env.peer_name(&b.peer));
            Err(format!("{text} is on several links: say {a} or {b}"))
        }
        _ => Err(format!("no session with {text:?} is known: `virtctl sessions` lists them")),
    }
}
