//! When what an instance says on a session counts: after it has been given everything, and says
//! what was chosen or has fallen quiet.

use super::*;
use crate::event::Severity;

/// A leg that was given everything counts after this many times T even where its output never falls
/// quiet.
pub(super) const LEVEL_CAP: Micros = 6;

impl Session {
    /// The catch-up rule of docs/DECISIONS.md, "When an instance that comes back votes": input
    /// drained, output quiet for T, capped.
    pub(super) fn check_level(&mut self, i: usize, env: &mut Env) {
        let waiting = self.seats[i].waiting();
        if self.is_far_behind(i, env) {
            return;
        }
        let Some(leg) = self.seats[i].leg.as_mut() else { return };
        let (false, None, Some(fed)) = (leg.level, leg.admits_from, leg.fed_since) else { return };
        let last_output = env.instances.get(i).map_or(0, |s| s.last_output);
        let quiet = waiting == 0 && env.now >= leg.last_update.max(last_output).max(fed) + env.t_us();
        if quiet || env.now >= fed + LEVEL_CAP * env.t_us() {
            self.admit(i, env);
        }
    }

    /// Whether the leg of instance `i` has been given everything, its input is drained, and it
    /// waits to be admitted.
    pub fn waits_for_admission(&self, i: usize) -> bool {
        let Some(seat) = self.seats.get(i).filter(|s| s.waiting() == 0) else { return false };
        let waits = |l: &Leg| !l.level && l.admits_from.is_none() && l.fed_since.is_some();
        seat.leg.as_ref().is_some_and(|l| l.state == LegState::Established && waits(l))
    }

    /// Whether instance `i` has a leg here that is not level yet.
    pub fn levels(&self, i: usize) -> bool {
        let leg = self.seats.get(i).and_then(|s| s.leg.as_ref());
        leg.is_some_and(|l| l.state == LegState::Established && !l.level)
    }

    /// What instance `i` has not said again it does not say any more, and then what it says on this
    /// session counts. Where that is much it takes some turns.
    pub fn admit(&mut self, i: usize, env: &mut Env) {
        let Some(leg) = self.seats.get_mut(i).and_then(|s| s.leg.as_mut()) else { return };
        leg.admits_from = Some(0);
        self.table.forget_stale(i, |route| env.routes.release(route));
        self.go_on_admitting(KEYS_AT_ONCE, env);
    }

    /// Whether an instance is being admitted.
    pub(super) fn is_admitting(&self) -> bool {
        self.seats.iter().any(Seat::is_admitted)
    }

    /// Goes on with the first instance that is being admitted, by `most` keys.
    pub(super) fn go_on_admitting(&mut self, most: usize, env: &mut Env) {
        let Some(i) = self.seats.iter().position(Seat::is_admitted) else { return };
        let from = self.seats[i].leg.as_ref().and_then(|l| l.admits_from).unwrap_or_default();
        let next = self.forget_stale(i, from, most, env);
        let seat = &mut self.seats[i];
        let Some(leg) = seat.leg.as_mut() else { return };
        leg.admits_from = next;
        if next.is_some() {
            return;
        }
        (leg.level, seat.missed_us, seat.outside) = (true, 0, Outside::default());
        let replayed = leg.replayed;
        env.heard.set_level(self.index, i, true);
        env.followups.vote_anew_on(self.index);
        if !replayed {
            return;
        }
        let text = format!("{} has caught up on this session and votes again", env.name(i));
        env.tell_of("leg-level", Severity::Info, &self.peer, i, text);
    }
}

impl Seat {
    /// Whether its instance is being admitted on this session.
    pub(super) fn is_admitted(&self) -> bool {
        self.leg.as_ref().is_some_and(|l| l.admits_from.is_some())
    }
}
