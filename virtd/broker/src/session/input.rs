//! What the peer says: hygiene, the store, then the legs.

use super::super::lacks::Long;
use super::*;
use crate::config::Inbound;
use crate::event::{Event, Severity};
use wire::bgp::canonical::Carried;
use wire::bgp::frame::{self, Message};
use wire::bgp::hygiene::{self, Verdict};
use wire::bgp::update::{self, Update};
use wire::bgp::{Prefix, encode};

impl Session {
    /// An UPDATE of the peer: hygiene, the store, then every leg.
    pub(super) fn peer_update(&mut self, conn: ConnId, m: Message, env: &mut Env) {
        #[cfg(debug_assertions)]
        crate::faults::at_a_peers(m.body());
        let Some(up) = &mut self.up else { return };
        up.updates_in += 1;
        env.counters.updates_in += 1;
        let context = up.negotiated.context();
        let mut bytes = m.bytes.clone();
        // The store keeps the mended form in both modes: a replay must never bring a malformed
        // attribute back.
        let mut stored = bytes.clone();
        let mut empty = says_nothing(m.body());
        match hygiene::check(m.body(), &context) {
            Verdict::Pass => {}
            Verdict::Reset { notification, finding } => {
                return self.reset(conn, notification, finding.what, env);
            }
            Verdict::Rewritten { body, withdrawn, findings } => {
                let what: Vec<&str> = findings.iter().map(|f| f.what).collect();
                let done = match (env.config.inbound, withdrawn) {
                    (Inbound::Opaque, _) => "passed to the instances as it came (inbound = \"opaque\")",
                    (Inbound::Rfc7606, true) => "treated as withdraw",
                    (Inbound::Rfc7606, false) => "mended",
                };
                env.counters.mended += 1;
                let text = format!("malformed UPDATE from the peer, {done}: {}", what.join("; "));
                env.tell("malformed-update", Severity::Warning, &self.peer, text);
                // One that has only lost all its attributes is no End-of-RIB.
                let was_end = Update::parse(m.body()).is_ok_and(|update| update.end_of_rib().is_some());
                empty |= !was_end && !Update::parse(&body).is_ok_and(|update| update.has_routes());
                stored = update_message(&body);
                if env.config.inbound == Inbound::Rfc7606 {
                    bytes = stored.clone();
                }
            }
        }
        if empty && env.config.inbound == Inbound::Rfc7606 {
            return;
        }
        if empty || self.remember(&stored, env).is_none() {
            env.scratch.keys.clear();
        }
        self.tell_withheld(env);
        self.replicate(bytes, env);
    }

    /// Names the instances that are not given an UPDATE because it has killed them before.
    fn tell_withheld(&self, env: &mut Env) {
        let again = env.poison.take_again();
        for i in 0..self.seats.len() {
            let mut mine = again.iter().filter(|(of, _)| *of == i).map(|(_, prefix)| *prefix);
            let Some(prefix) = mine.next() else { continue };
            if !env.may_tell() {
                continue;
            }
            let (name, others) = (env.name(i), mine.count());
            let others = if others > 0 { format!(" and {others} more") } else { String::new() };
            let text = format!(
                "{name} is not given what {} says about {prefix}{others}: it was found not to survive that; it abstains there. `virtctl instance restart {name}` lets it try again",
                env.peer_name(&self.peer)
            );
            let mut event = Event::new(env.now, "poison-again", Severity::Warning, text);
            event.prefix = Some(prefix);
            env.out.push(event.with_session(env.peer_name(&self.peer)).with_instance(env.name(i)).into());
        }
    }

    /// Takes the UPDATE into the store; its prefixes are left in `scratch.keys`.
    pub fn remember(&mut self, message: &Bytes, env: &mut Env) -> Option<()> {
        let (mut block, mut keys) = (std::mem::take(&mut env.scratch.block), std::mem::take(&mut env.scratch.keys));
        keys.clear();
        let done = self.store(message, &mut block, &mut keys, env);
        (env.scratch.block, env.scratch.keys) = (block, keys);
        done
    }

    fn store(&mut self, message: &Bytes, block: &mut Vec<u8>, keys: &mut Vec<Prefix>, env: &mut Env) -> Option<()> {
        let Session { up, index, .. } = self;
        let update = Update::parse(message.get(frame::HEADER_LEN..)?).ok()?;
        if let (Some(family), Some(up)) = (update.end_of_rib(), up.as_mut()) {
            if up.negotiated.shared.families.contains(&family) && !up.peer_eor.contains(&family) {
                up.peer_eor.push(family);
            }
            return Some(());
        }
        let (now, until) = (env.now_ms() as u32, env.now + env.t_us());
        let carried = up.as_ref()?.negotiated.shared.carries();
        for prefix in update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()).filter(carried) {
            env.heard.withdraw(*index, &prefix, now);
            env.ribs.heard(*index, &prefix);
            env.followups.vote_anew_if(env.poison.changed(*index, &prefix, &[], until));
            env.note_length(*index, prefix, None);
            keys.push(prefix);
        }
        let mut announce = |carried: Carried, prefixes: &mut dyn Iterator<Item = Prefix>| {
            block.clear();
            encode::stored_attributes(&update, carried, block);
            let (id, long) = (env.heard.blocks().intern(block), Long::of(block));
            for prefix in prefixes {
                env.heard.announce(*index, prefix, id, now);
                env.ribs.heard(*index, &prefix);
                env.followups.vote_anew_if(env.poison.changed(*index, &prefix, block, until));
                env.note_length(*index, prefix, long.as_ref());
                keys.push(prefix);
            }
            env.heard.blocks().release(id);
        };
        if !update.nlri.is_empty() {
            announce(Carried::Classic, &mut update.nlri.filter(carried));
        }
        if let Some(nlri) = update.mp_announced() {
            announce(Carried::MpReach, &mut nlri.filter(carried));
        }
        Some(())
    }
}

/// Whether this UPDATE says nothing: it has attributes, and no route that they are of. No RFC calls
/// it an error, but OpenBGPD answers 3/3 where ORIGIN, AS_PATH or NEXT_HOP is not among them.
fn says_nothing(body: &[u8]) -> bool {
    // Most have one of the two, which is quickly seen.
    update::fields(body).is_ok_and(|fields| fields.nlri.is_empty() && fields.withdrawn.is_empty())
        && Update::parse(body).is_ok_and(|update| !update.has_routes() && update.end_of_rib().is_none())
}

/// A whole UPDATE around `body`.
fn update_message(body: &[u8]) -> Bytes {
    let mut m = BytesMut::with_capacity(frame::HEADER_LEN + body.len());
    m.extend_from_slice(&[0xff; 16]);
    m.extend_from_slice(&((frame::HEADER_LEN + body.len()) as u16).to_be_bytes());
    m.extend_from_slice(&[2]);
    m.extend_from_slice(body);
    m.freeze()
}
