//! What the peer is told: walks over the votes, UPDATEs packed from what changed, End-of-RIB.

use super::super::env::Scratch;
use super::*;
use crate::event::{Event, Severity};
use replay::intern::BlobId;
use wire::bgp::encode;
use wire::bgp::message::{RefreshKind, RouteRefresh};

impl Session {
    /// Whether another turn is wanted at once.
    pub fn has_work(&self) -> bool {
        self.table.is_walking()
            || self.sweeps()
            || self.is_admitting()
            || self.up.as_ref().is_some_and(|up| !up.telling_again.is_empty() && up.queued < HIGH_MARK)
            || self.up.as_ref().is_some_and(|up| self.table.changes() > 0 && up.queued < HIGH_MARK)
    }

    /// Goes on with the walk by `votes` keys at most, then tells the peer `told` of those that
    /// changed at most; as many as were done are taken off.
    pub fn flush(&mut self, votes: &mut usize, told: &mut usize, env: &mut Env) {
        self.sweep(env);
        self.go_on_admitting(KEYS_AT_ONCE, env);
        *votes -= ballots::walk(&mut self.votes(env), *votes);
        *told -= self.publish(*told, env);
        self.tell_alone(env);
    }

    /// Packs what changed into UPDATEs: one message's worth of prefixes to each route. Returns how
    /// many keys that were.
    fn publish(&mut self, most: usize, env: &mut Env) -> usize {
        if self.up.as_ref().is_none_or(|up| up.queued >= HIGH_MARK) {
            return 0;
        }
        if self.table.changes() < most {
            self.tell_again_at_rest(env);
        }
        let Some(up) = self.up.as_mut() else { return 0 };
        if self.table.changes() == 0 && up.refreshing.is_empty() {
            return 0;
        }
        let context = up.negotiated.context();
        let mut scratch = std::mem::take(&mut env.scratch);
        let Scratch { packed, prefixes, changed, .. } = &mut scratch;
        changed.clear();
        let taken = self.table.take_changed(most, changed);
        changed.sort_unstable_by_key(|(winner, slot)| (*winner, *slot));
        let mut rest = changed.as_slice();
        while let Some(&(winner, _)) = rest.first() {
            let n = rest.iter().take_while(|(w, _)| *w == winner).count();
            let (group, tail) = rest.split_at(n);
            rest = tail;
            for v6 in [false, true] {
                prefixes.clear();
                for (_, slot) in group {
                    prefixes.extend(self.table.entry(*slot).map(|e| e.key).filter(|p| (p.family().afi == 2) == v6));
                }
                if prefixes.is_empty() {
                    continue;
                }
                let left_out = match winner {
                    BlobId::NONE => 0,
                    _ => encode::announce(env.routes.bytes(winner), prefixes, &context, packed),
                };
                if winner == BlobId::NONE || left_out > 0 {
                    encode::withdraw(prefixes, &context, packed);
                }
                if left_out > 0 {
                    let text = format!(
                        "{left_out} prefixes cannot be announced, {} first: the attributes leave no room in a message",
                        prefixes[0]
                    );
                    env.out.push(
                        Event::new(env.now, "too-long", Severity::Alarm, text)
                            .with_session(env.peer_name(&self.peer))
                            .into(),
                    );
                }
            }
            for (_, slot) in group {
                env.routes.retain(winner, 1);
                let waited = self.table.entry(*slot).map_or(0, |e| e.unsettled(env.now_ms()));
                let before = self.table.told(*slot, winner);
                if before != winner {
                    env.counters.waited_ms.note(waited);
                }
                if before != winner && !env.ribs.is_empty() {
                    self.table.entry(*slot).iter().for_each(|e| env.ribs.told(self.index, &e.key));
                }
                env.routes.release(before);
                let (is, was) = (u64::from(winner != BlobId::NONE), u64::from(before != BlobId::NONE));
                up.prefixes_out = (up.prefixes_out + is).saturating_sub(was);
            }
        }
        env.counters.published += changed.len() as u64;
        if !packed.is_empty() {
            up.updates_out += 1;
            up.last_published = env.now;
            env.out.push(Output::SendPeer { conn: up.conn, bytes: packed.split().freeze() });
        }
        if self.table.changes() == 0 && up.telling_again.is_empty() {
            if !std::mem::take(&mut up.refreshing).is_empty() {
                env.out.push(Output::Refreshed { conn: up.conn });
            }
            for family in up.refresh_end.drain(..) {
                let end = RouteRefresh { family, kind: RefreshKind::End };
                env.out.push(Output::SendPeer { conn: up.conn, bytes: end.encode() });
            }
        }
        changed.iter().for_each(|(_, slot)| self.settle(*slot, env));
        env.scratch = scratch;
        taken
    }

    /// One End-of-RIB per family, after a quorum's, or after T of quiet (docs/DECISIONS.md, "One
    /// OPEN, voted on").
    pub(super) fn tick_end_of_rib(&mut self, env: &mut Env) {
        let voters = env.instances.voters;
        if self.up.as_ref().is_none_or(|up| up.eor_sent.len() == up.negotiated.shared.families.len())
            || self.table.is_walking()
        {
            return;
        }
        let t = env.t_us();
        let seats = &self.seats;
        let count = |family: &Family| {
            let said = |s: &Seat| s.leg.as_ref().is_some_and(|l| l.eor.contains(family));
            seats.iter().enumerate().filter(|(i, s)| voters.contains(*i as u8) && said(s)).count()
        };
        // Of those that have the family.
        let quorum = |family: &Family| voters.minus(env.heard.without(self.index, *family)).len() / 2 + 1;
        let Some(up) = self.up.as_ref() else { return };
        let quiet = env.now >= up.last_published.max(up.since) + t;
        let due: Vec<Family> = up
            .negotiated
            .shared
            .families
            .iter()
            .copied()
            .filter(|f| !up.eor_sent.contains(f) && (quiet || count(f) >= quorum(f)))
            .collect();
        if due.is_empty() {
            return;
        }
        self.publish(KEYS_AT_ONCE, env);
        if self.table.changes() > 0 {
            return; // the peer's queue is full: the marker follows the routes
        }
        let Some(up) = self.up.as_mut() else { return };
        for family in due {
            let mut b = BytesMut::new();
            encode::end_of_rib(family, &mut b);
            env.out.push(Output::SendPeer { conn: up.conn, bytes: b.freeze() });
            up.eor_sent.push(family);
        }
    }

    /// One instance alone drives, with an alarm (docs/DECISIONS.md, "Strategies, T and its cap").
    fn tell_alone(&mut self, env: &mut Env) {
        let voting = env.instances.voters.intersect(self.attached);
        let alone = self.up.is_some() && env.instances.voters.len() > 1 && voting.len() == 1;
        if alone && !self.alone_told {
            let who = voting.iter().next().map_or("?", |i| env.name(usize::from(i)));
            let text = format!(
                "{who} alone drives this session: its next fault would not be masked; bring another instance back"
            );
            env.tell("one-alone", Severity::Alarm, &self.peer, text);
        }
        self.alone_told = alone;
    }
}
