//! The session as one who reads the routing tables sees it ([`crate::ribs`]): who speaks, what there
//! is of each, and what now holds of a prefix. `None` in the place of an instance is the peer.

use super::*;
use crate::ribs::{Footing, Side};
use replay::intern::BlobId;
use replay::store::Cursor;
use virtd_api::ribs::{CLOSED, LOCAL_NOTIFICATION, REMOTE_NOTIFICATION};
use virtd_api::{SpeakerDown, SpeakerUp};
use wire::bgp::{Prefix, encode};

/// Longest NOTIFICATION that is passed on to a reader; of a longer one it is known only that there was
/// one.
const MAX_NOTIFICATION: usize = wire::bgp::frame::MAX_LEN;

/// How an established session has ended.
#[derive(Clone, Debug, Default)]
pub enum Ended {
    /// Without a word.
    #[default]
    Closed,
    /// With this NOTIFICATION of ours.
    Ours(Bytes),
    /// With this one of the peer's.
    Theirs(Bytes),
}

/// How far the telling of a speaker's tables has come. What comes while it is told may be among it or
/// not; what stood before and still stands is, as long as who is told hears of keys that rest no
/// more: those go where the walk has been ([`crate::ribs::Readers::moved`]).
#[derive(Debug)]
pub struct Walk(Stage);

#[derive(Debug)]
enum Stage {
    Heard(Cursor),
    Table(u32),
    AtRest(u32),
    Over,
}

impl Walk {
    /// Over what the peer has said and was told, or over what an instance would tell it.
    pub fn new(peer: bool) -> Walk {
        Walk(if peer { Stage::Heard(Cursor::new(None)) } else { Stage::Table(0) })
    }

    /// What is told next.
    pub fn side(&self) -> Side {
        if matches!(self.0, Stage::Heard(_)) { Side::In } else { Side::Out }
    }

    /// Nothing is left.
    pub fn is_over(&self) -> bool {
        matches!(self.0, Stage::Over)
    }

    /// It has been through the session's own table.
    pub fn is_among_those_at_rest(&self) -> bool {
        matches!(self.0, Stage::AtRest(_))
    }
}

impl Session {
    /// By what the peer, or instance `i` towards it, stands.
    pub fn footing(&self, i: Option<usize>) -> Option<Footing> {
        let conn = self.up.as_ref()?.conn;
        let Some(i) = i else { return Some(Footing { conn, leg: None }) };
        let leg = self.seats.get(i)?.leg.as_ref().filter(|l| l.state == LegState::Established)?;
        Some(Footing { conn, leg: Some(leg.id) })
    }

    /// How the session, or the leg of instance `i`, has last ended.
    pub fn how_it_ended(&self, i: Option<usize>) -> SpeakerDown {
        let (reason, notification) = match (&self.went, i) {
            (Ended::Ours(n), None) => (LOCAL_NOTIFICATION, &n[..]),
            (Ended::Theirs(n), None) => (REMOTE_NOTIFICATION, &n[..]),
            _ => (CLOSED, &[][..]),
        };
        let notification = if notification.len() <= MAX_NOTIFICATION { notification.to_vec() } else { Vec::new() };
        SpeakerDown { reason: reason.to_owned(), notification }
    }

    /// The peer, or instance `i` towards it.
    pub fn speaker(&self, i: Option<usize>, env: &Env) -> Option<SpeakerUp> {
        let up = self.up.as_ref()?;
        let ext = self.exts.iter().find(|e| e.id == up.conn)?;
        let seat = i.and_then(|i| self.seats.get(i));
        let since = seat.and_then(|s| s.leg.as_ref()).map_or(up.since, |l| l.since);
        let (sent, received) = match seat {
            None => {
                let ours = self.profile.as_ref().map(|profile| self.our_open(profile, env));
                (ours, ext.peer_open.as_ref().map(wire::bgp::message::Open::encode))
            }
            Some(seat) => (
                seat.open.as_ref().map(wire::bgp::message::Open::encode),
                seat.terms.as_ref().map(|terms| terms.shown.clone()),
            ),
        };
        let peer = env.peer_name(&self.peer);
        Some(SpeakerUp {
            instance: i.map(|i| env.name(i).to_owned()),
            interface: peer.split_once('%').map(|(_, interface)| interface.to_owned()),
            peer,
            address: self.peer.ip(),
            asn: up.negotiated.peer_as,
            router_id: up.negotiated.peer_router_id,
            local: ext.local.map(|local| SocketAddr::new(local.ip(), local.port())),
            remote_port: ext.remote.port(),
            as4: up.negotiated.shared.as4,
            families: up.negotiated.shared.families.iter().map(ToString::to_string).collect(),
            up_us: env.now.saturating_sub(since),
            sent: sent.map(Vec::from).unwrap_or_default(),
            received: received.map(Vec::from).unwrap_or_default(),
        })
    }

    /// Families agreed on.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        self.up.iter().flat_map(|up| up.negotiated.shared.families.iter().copied())
    }

    /// The next prefixes of a walk, not many more than `most`; as many places as were looked at are
    /// taken off `looked`. True where one side is over.
    pub fn next_of(
        &self,
        i: Option<usize>,
        walk: &mut Walk,
        most: usize,
        looked: &mut usize,
        out: &mut Vec<Prefix>,
        env: &Env,
    ) -> bool {
        let (number, mut over) = (self.index as u32, false);
        let until = |from: u32, all: u32, looked: &mut usize| {
            let until = all.min(from.saturating_add(u32::try_from(*looked).unwrap_or(u32::MAX)));
            *looked -= until.saturating_sub(from) as usize;
            until
        };
        walk.0 = match &mut walk.0 {
            Stage::Heard(cursor) => {
                *looked = looked.saturating_sub(most);
                over = !env.heard.stores().next(self.index, cursor, most, out);
                if over { Stage::Table(0) } else { Stage::Heard(*cursor) }
            }
            Stage::Table(from) => {
                let (mut at, end) = (*from, until(*from, self.table.slots(), looked));
                while at < end && out.len() < most {
                    let said = self.table.entry(at).filter(|e| !self.says(i, at, e).is_none());
                    out.extend(said.map(|e| e.key));
                    at += 1;
                }
                if at >= self.table.slots() { Stage::AtRest(0) } else { Stage::Table(at) }
            }
            Stage::AtRest(from) => {
                let (mut at, end) = (*from, until(*from, env.common.numbers(), looked));
                while at < end && out.len() < most {
                    let prefix = env.common.numbered(number, at);
                    out.extend(prefix.filter(|prefix| !self.says_of(i, prefix, env).is_none()));
                    at += 1;
                }
                over = at >= env.common.numbers();
                if over { Stage::Over } else { Stage::AtRest(at) }
            }
            Stage::Over => Stage::Over,
        };
        over
    }

    /// What the peer was told, or instance `i` says, of the key at a slot.
    fn says(&self, i: Option<usize>, slot: u32, e: &ballots::Entry<Prefix, BlobId>) -> BlobId {
        match i {
            None => e.published,
            // That it said it before it was gone is nobody's word.
            Some(i) if e.stale.contains(i as u8) => BlobId::NONE,
            Some(i) => self.table.candidates(slot).get(i).copied().unwrap_or(BlobId::NONE),
        }
    }

    /// The same of a prefix, at rest or not.
    pub(super) fn says_of(&self, i: Option<usize>, prefix: &Prefix, env: &Env) -> BlobId {
        if let Some((slot, e)) = self.table.find(prefix).and_then(|slot| Some((slot, self.table.entry(slot)?))) {
            return self.says(i, slot, e);
        }
        let Some(rest) = env.common.find(self.index as u32, prefix) else { return BlobId::NONE };
        let says = |i: usize| rest.who.contains(i as u8) && !rest.stale.contains(i as u8);
        if i.is_none_or(says) { rest.value } else { BlobId::NONE }
    }

    /// Appends the UPDATEs that say what now holds of `prefixes`, withdrawals where nothing does. They
    /// are in the form that the peer's session has. Sorts `prefixes` to that end.
    pub fn tell(&self, i: Option<usize>, side: Side, prefixes: &mut [Prefix], env: &Env, out: &mut BytesMut) {
        let Some(context) = self.up.as_ref().map(|up| up.negotiated.context()) else { return };
        if side == Side::In {
            return env.heard.replay(self.index, prefixes, &context, false, out);
        }
        prefixes.sort_by_cached_key(|p| (self.says_of(i, p, env), *p));
        let mut rest = &*prefixes;
        while let Some(first) = rest.first() {
            let (says, family) = (self.says_of(i, first, env), first.family());
            let same = |p: &&Prefix| p.family() == family && self.says_of(i, p, env) == says;
            let (group, more) = rest.split_at(rest.iter().take_while(same).count());
            rest = more;
            let left_out = match says {
                BlobId::NONE => group.len(),
                route => encode::announce(env.routes.bytes(route), group, &context, out),
            };
            if left_out > 0 {
                encode::withdraw(group, &context, out);
            }
        }
    }
}
