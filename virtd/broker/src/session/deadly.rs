//! What an instance has said on its leg that has killed virtd. It costs the instance this leg: said
//! again it is not looked at, and where something else it says there kills once more, it has no leg
//! there until an operator says so. Where another instance's message has killed on the same session,
//! it is none of theirs: a vote, say, that each of them brings about.

use super::*;
use crate::event::Severity;
use crate::io::{Direction, InstanceId, Recorded};
use crate::witness::LastWord;
use wire::bgp::frame::Message;

/// So many deaths by one leg are enough.
const MAX_DEATHS: u32 = 2;
/// How long an instance that says it again has no leg; it doubles each time.
const PAUSE_US: Micros = 60_000_000;
/// Doubled so often at most: about an hour.
const MAX_DOUBLED: u32 = 6;

/// See the module's comment. Of one leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deadly {
    /// What virtd died of last.
    pub(super) octets: Bytes,
    /// How often it has.
    pub(super) deaths: u32,
    /// How often it was said again.
    again: u32,
    /// No leg before that.
    not_before: Micros,
}

impl Deadly {
    /// As an earlier virtd has noted it.
    pub(super) fn noted(octets: Bytes, deaths: u32) -> Deadly {
        Deadly { octets, deaths, again: 0, not_before: 0 }
    }
}

impl Session {
    /// Whether instance `i` may have a leg here now, after what it has said.
    pub(super) fn may_have_leg(&self, i: usize, env: &Env) -> bool {
        let deadly = self.seats.get(i).and_then(|s| s.deadly.as_deref()).filter(|_| self.has_one_killer());
        !env.barred.contains(i as u8)
            && deadly.is_none_or(|deadly| deadly.deaths < MAX_DEATHS && env.now >= deadly.not_before)
    }

    /// How often virtd has died of what instance `i` said here.
    pub fn deaths_by(&self, i: usize) -> u32 {
        let deadly = self.seats.get(i).and_then(|s| s.deadly.as_ref()).filter(|_| self.has_one_killer());
        deadly.map_or(0, |deadly| deadly.deaths)
    }

    /// Whether one instance alone has said here what killed.
    fn has_one_killer(&self) -> bool {
        self.seats.iter().filter(|s| s.deadly.is_some()).count() == 1
    }

    /// Sessions have ended because it was not known what killed: what several have said here that did is
    /// forgotten.
    pub fn forgive_several(&mut self) {
        if !self.has_one_killer() {
            (0..self.seats.len()).for_each(|i| self.forgive(i));
        }
    }

    /// An operator lets instance `i` have a leg again.
    pub fn forgive(&mut self, i: usize) {
        if let Some(seat) = self.seats.get_mut(i) {
            (seat.deadly, seat.next_offer) = (None, 0);
        }
    }

    /// Instance `i` is about to be heard. False where this message has killed virtd: the leg is ended
    /// instead.
    pub(super) fn may_be_heard(&mut self, i: usize, m: &Message, env: &mut Env) -> bool {
        let alone = self.has_one_killer();
        let Some(seat) = self.seats.get_mut(i) else { return false };
        if let Some(deadly) = seat.deadly.as_mut().filter(|deadly| alone && deadly.octets == m.bytes) {
            let pause = PAUSE_US << deadly.again.min(MAX_DOUBLED);
            (deadly.again, deadly.not_before) = (deadly.again + 1, env.now + pause);
            let why = format!(
                "it says again what virtd has died of; the next leg is in {} s at the earliest",
                pause / 1_000_000
            );
            // RFC 4486: Connection Rejected.
            self.leg_fault(i, Some(Notification::new(6, 5)), &why, env);
            return false;
        }
        if let Some(witness) = &env.witness {
            let as4 = seat.terms.as_ref().is_none_or(|terms| terms.shared.as4);
            let (instance, peer) = (env.instances.name(i), self.peer);
            witness.is_told(&crate::witness::Saying { instance, peer, as4, octets: &m.bytes });
        }
        true
    }

    /// The virtd before died while it took in what instance `i` said here.
    pub fn leg_killed(&mut self, i: usize, said: &LastWord, env: &mut Env) {
        // What several say alike is the fault of none of them.
        let mut others = self.seats.iter().enumerate().filter(|(other, s)| *other != i && s.deadly.is_some());
        let innocent = others.next().is_some();
        let Some(seat) = self.seats.get_mut(i) else { return };
        let deaths = seat.deadly.as_ref().map_or(0, |deadly| deadly.deaths) + 1;
        seat.deadly = Some(Box::new(Deadly::noted(said.octets.clone(), deaths)));
        let (name, peer) = (env.name(i).to_owned(), env.peer_name(&self.peer));
        let follows = match (innocent, deaths >= MAX_DEATHS) {
            (true, _) => {
                "it has died of another instance's there, too: it is none of theirs, and all may go on".to_owned()
            }
            (false, true) => format!(
                "it is the second time on this leg: {name} has no leg for {peer} until `virtctl instance {name} restart` or `virtctl session {peer} start`"
            ),
            (false, false) => "if it says the same again, its leg is ended before that is looked at".to_owned(),
        };
        let text = format!(
            "virtd died while it took in a message of {name} on its leg for {peer} ({} octets): {follows}; with [recorder] the message is kept: please report it",
            said.octets.len()
        );
        env.tell_of("leg-poison", Severity::Alarm, &self.peer, i, text);
        self.keep_standing(env);
        if env.config.recorder.folder.is_none() {
            return;
        }
        let ext = self.exts.iter().find(|e| e.peer_open.is_some());
        let message = Recorded {
            at: env.now,
            peer: self.peer,
            local: self.local(),
            peer_as: ext.and_then(|e| e.peer_open.as_ref()).map_or(0, |open| open.asn),
            local_as: self.profile.as_ref().map_or(0, |p| p.asn),
            as4: said.as4,
            open: ext.and_then(|e| e.peer_open.as_ref()).map(Open::encode).unwrap_or_default(),
            direction: Direction::From(InstanceId(i as u8)),
            bytes: said.octets.clone(),
        };
        let record = crate::io::Record {
            at: env.now,
            kind: "leg-poison",
            instance: name.clone(),
            messages: vec![message],
            account: serde_json::json!({ "instance": name, "peer": peer, "deaths": deaths, "follows": follows }),
        };
        env.out.push(Output::Record(Box::new(record)));
    }
}
