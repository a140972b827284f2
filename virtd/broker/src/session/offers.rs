//! What the instances' OPENs mean for the session: whose is counted, what each leg speaks, who is
//! told to change something, and when a majority wants another AS number or router id than the
//! session runs with. The rules themselves stand in `open.rs`.

use super::super::open::{Refusal, Voice};
use super::*;
use crate::event::{Event, Severity};
use std::ops::Range;

impl Session {
    /// What was agreed with the peer: for the established connection, else from its OPEN on.
    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        self.up.as_ref().map(|up| &up.negotiated).or_else(|| self.exts.iter().find_map(|e| e.negotiated.as_ref()))
    }

    /// The OPENs of the voters that are known. Fresh are those of legs that stand in this attempt;
    /// the others' count where those are split.
    pub(super) fn voices(&self, env: &Env) -> Vec<Voice<'_>> {
        let voters = self.seats.iter().enumerate().filter(|(i, _)| env.instances.voters.contains(*i as u8));
        voters.filter_map(|(instance, s)| Some(Voice { instance, open: s.open.as_ref()?, fresh: s.sits() })).collect()
    }

    /// Our OPEN in the form that more than half of those voters use that have sent theirs in this
    /// attempt (RFC 9072): who does has a neighbour that wants it.
    pub(super) fn our_open(&self, profile: &Profile, env: &Env) -> Bytes {
        let fresh = || self.voices(env).into_iter().filter(|v| v.fresh);
        let extended = fresh().filter(|v| self.seats.get(v.instance).is_some_and(|s| s.extended_open)).count();
        match 2 * extended > fresh().count() {
            true => profile.open().encode_extended(),
            false => profile.open().encode(),
        }
    }

    /// Works out what the leg of instance `i`, with this hold time, speaks, and gives the OPEN that it is shown.
    pub(super) fn agree(&mut self, i: usize, hold_s: u16, env: &mut Env) -> Option<Bytes> {
        let seat = self.seats.get(i)?;
        let terms = self.negotiated()?.terms(seat.open.as_ref()?, hold_s, seat.extended_open);
        env.heard.change_lacks(self.index, |lacks| lacks.set(i, &terms));
        let shown = terms.shown.clone();
        self.seats.get_mut(i)?.terms = Some(Box::new(terms));
        Some(shown)
    }

    /// Tells what instance `i` did on a leg that was not established. Of one without a vote once,
    /// until it takes part or does something else.
    pub(super) fn tell_outside(&mut self, i: usize, kind: &'static str, text: String, env: &mut Env) {
        if !env.instances.voters.contains(i as u8) {
            let Some(seat) = self.seats.get_mut(i) else { return };
            if seat.outside.told.as_ref() == Some(&text) {
                return;
            }
            seat.outside.told = Some(text.clone());
        }
        env.tell_of(kind, Severity::Warning, &self.peer, i, text);
    }

    /// Instance `i` has no vote and was told to be missing here.
    pub fn is_known_to_be_missed(&self, i: usize) -> bool {
        self.seats.get(i).is_some_and(|s| s.outside.missed)
    }

    /// Not to be told again before it takes part.
    pub fn note_missed(&mut self, i: usize) {
        if let Some(seat) = self.seats.get_mut(i) {
            seat.outside.missed = true;
        }
    }

    /// An instance of another AS number or router id takes no part. Told once, until it says
    /// something else. Without it there is one voter less; one that has no vote is not missed.
    pub(super) fn refuse(&mut self, i: usize, refusal: Refusal, env: &mut Env) {
        let Some(seat) = self.seats.get_mut(i) else { return };
        let Some(leg) = &seat.leg else { return };
        env.out.push(Output::SendLeg { leg: leg.id, bytes: refusal.notification.encode() });
        if seat.refused.as_ref() != Some(&refusal) {
            let text = format!("{} is refused on this session: {}", env.name(i), refusal.why);
            seat.refused = Some(refusal);
            let severity = if env.instances.voters.contains(i as u8) { Severity::Alarm } else { Severity::Warning };
            env.tell_of("leg-refused", severity, &self.peer, i, text);
        }
        self.drop_leg(i, env);
    }

    /// Names those of `who` whose OPEN differs from what the session runs with, in one event; each
    /// once, until it differs otherwise.
    pub(super) fn tell_differences(&mut self, who: Range<usize>, env: &mut Env) {
        let Some(negotiated) = self.negotiated().cloned() else { return };
        let mut told = Vec::new();
        for i in who {
            let attached = env.instances.get(i).is_some_and(|s| s.attached);
            let Some(seat) = self.seats.get_mut(i).filter(|_| attached) else { continue };
            let Some(open) = seat.open.as_ref().filter(|o| negotiated.profile.is_of(o)) else { continue };
            let differs = negotiated.difference(open);
            if differs == seat.differs {
                continue;
            }
            seat.differs = differs.clone();
            told.extend(differs.map(|d| (i, d)));
        }
        let severity = match told.iter().any(|(_, d)| d.costs) {
            true => Severity::Warning,
            false => Severity::Info,
        };
        let words: Vec<String> = told.iter().map(|(i, d)| format!("{} {}", env.name(*i), d.text)).collect();
        let families: Vec<String> = negotiated.shared.families.iter().map(|f| f.to_string()).collect();
        let text = format!(
            "this session runs with {} and offers hold time {} s. {}",
            families.join(" and "),
            negotiated.profile.hold_time_s,
            words.join(". ")
        );
        let mut event = Event::new(env.now, "open-differs", severity, text).with_session(env.peer_name(&self.peer));
        match told.as_slice() {
            [] => return,
            [(i, _)] => event = event.with_instance(env.name(*i)),
            _ => {}
        }
        env.out.push(event.into());
    }

    /// A majority of the live voters says another AS number or router id than the session runs
    /// with: it ends, and is opened with that. True where it was so. Who says nothing on this
    /// session just now still says what it said last. While no voter's leg stands, as many are
    /// wanted as for a first opening: that one of three comes back with a wrong one, the others
    /// being down, changes nothing.
    pub(super) fn reopen_if_moved(&mut self, env: &mut Env) -> bool {
        let Some(profile) = self.profile.as_ref().filter(|_| self.exts.iter().any(|e| e.state >= ExtState::OpenSent))
        else {
            return false;
        };
        let attached = |i: &usize| env.instances.get(*i).is_some_and(|s| s.attached);
        let live = (0..self.seats.len()).filter(|i| env.instances.voters.contains(*i as u8)).filter(attached);
        let opens: Vec<Option<&Open>> = live.map(|i| self.seats[i].open.as_ref()).collect();
        let others = || opens.iter().flatten().filter(|o| !profile.is_of(o));
        let same = |o: &Open| others().filter(|x| (x.asn, x.router_id) == (o.asn, o.router_id)).count();
        let Some((n, open)) = others().map(|o| (same(o), *o)).max_by_key(|(n, _)| *n) else { return false };
        let alone = env.instances.voters.intersect(self.attached).is_empty();
        if 2 * n <= opens.len() || (alone && n < env.instances.quorum()) {
            return false;
        }
        let why = format!(
            "{n} of {} instances say AS {} and router id {} now, it ran as AS {} and router id {}",
            opens.len(),
            open.asn,
            open.router_id,
            profile.asn,
            profile.router_id
        );
        for conn in self.exts.iter().map(|e| e.id).collect::<Vec<_>>() {
            // Other Configuration Change (RFC 4486).
            self.reset(conn, Notification::new(6, 6), &why, env);
        }
        true
    }
}

impl Seat {
    /// Its OPEN is of this attempt.
    pub(super) fn sits(&self) -> bool {
        self.leg.as_ref().is_some_and(|l| l.state >= LegState::OpenReceived)
    }
}

impl Ext {
    /// When our OPEN goes out although instances are missing: the peer's hold time runs once it has
    /// sent its own.
    pub(super) fn open_due(&self, env: &Env) -> Micros {
        let wait = |hold_time_s| patience(env.config.timers.open_wait_ms, hold_time_s);
        let by_hold = self.peer_open.as_ref().map_or(Micros::MAX, |o| self.opened + wait(o.hold_time_s));
        (self.since + wait(0)).min(by_hold)
    }
}

/// How long may be waited for others once the peer has said its hold time: a third, so that what it
/// waits for is there well before the end.
pub(super) fn patience(open_wait_ms: u32, hold_time_s: u16) -> Micros {
    let wait = Micros::from(open_wait_ms) * 1000;
    match hold_time_s {
        0 => wait,
        hold => wait.min(Micros::from(hold) * 1_000_000 / 3),
    }
}
