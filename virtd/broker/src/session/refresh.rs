//! ROUTE-REFRESH from the peer, all three kinds of it (RFC 2918, RFC 7313).
//!
//! A request is answered out of what was published. Between a beginning (BoRR) and an end (EoRR)
//! the peer says all that it has of a family again, whoever asked for that: what is in the store at
//! the beginning is marked, what comes again is marked no more, and what still is at the end the
//! peer has not any more. That is withdrawn as by an UPDATE of the peer's: from the store and from
//! every leg, a slice in each turn.

use super::*;
use crate::event::Severity;
use replay::intern::BlobId;
use wire::bgp::message::{RefreshKind, RouteRefresh};
use wire::bgp::{encode, frame};

/// Prefixes taken back in one turn: some UPDATEs' worth, as a peer would send them.
const SWEEP_BATCH: usize = 2000;

/// A family that the peer says again, or has said again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Again {
    family: Family,
    /// It has come to its end: what is still marked goes.
    over: bool,
    /// How many went.
    gone: usize,
}

impl Again {
    /// Which family.
    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// It has come to its end.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

impl Session {
    /// A ROUTE-REFRESH of the peer's.
    pub(super) fn peer_refresh(&mut self, r: RouteRefresh, env: &mut Env) {
        let Some(up) = &mut self.up else { return };
        // RFC 2918 section 4, RFC 7313 section 4: what was not negotiated is ignored.
        let enhanced = up.negotiated.shared.enhanced_refresh;
        if !up.negotiated.shared.families.contains(&r.family) {
            return;
        }
        match r.kind {
            RefreshKind::Request => self.asked_again(r.family, env),
            RefreshKind::Begin if enhanced => {
                // A second beginning begins anew.
                up.again.retain(|a| a.family != r.family);
                up.again.push(Again { family: r.family, over: false, gone: 0 });
                env.heard.stores_mut().mark(self.index, r.family);
            }
            RefreshKind::End if enhanced => {
                // An end without a beginning is none.
                up.again.iter_mut().filter(|a| a.family == r.family).for_each(|a| a.over = true);
            }
            RefreshKind::Begin | RefreshKind::End | RefreshKind::Unknown(_) => {}
        }
    }

    /// The peer asks for everything again: out of what was published (docs/DECISIONS.md, "Bootstrap
    /// without the peer").
    pub(super) fn asked_again(&mut self, family: Family, env: &mut Env) {
        let Some(up) = &mut self.up else { return };
        if up.refreshing.contains(&family) {
            return;
        }
        up.refreshing.push(family);
        if up.negotiated.shared.enhanced_refresh {
            let begin = RouteRefresh { family, kind: RefreshKind::Begin };
            env.out.push(Output::SendPeer { conn: up.conn, bytes: begin.encode() });
            if !up.refresh_end.contains(&family) {
                up.refresh_end.push(family);
            }
        }
        up.telling_again.push((family, 0));
        for slot in 0..self.table.slots() {
            let told = self.table.entry(slot).filter(|e| e.published != BlobId::NONE);
            if told.is_some_and(|e| e.key.family() == family) {
                self.table.resend(slot);
            }
        }
    }

    /// Whether something is to be taken back that the peer has not said again.
    pub(super) fn sweeps(&self) -> bool {
        self.up.as_ref().is_some_and(|up| up.again.iter().any(|a| a.over))
    }

    /// Takes back a slice of it.
    pub(super) fn sweep(&mut self, env: &mut Env) {
        let Some(up) = &mut self.up else { return };
        let Some(at) = up.again.iter().position(|a| a.over) else { return };
        let (family, context) = (up.again[at].family, up.negotiated.context());
        let mut prefixes = Vec::new();
        env.heard.stores_mut().marked(self.index, family, SWEEP_BATCH, &mut prefixes);
        up.again[at].gone += prefixes.len();
        if prefixes.len() < SWEEP_BATCH {
            let gone = up.again.remove(at).gone;
            env.heard.stores_mut().unmark(self.index, family);
            if gone > 0 {
                let text =
                    format!("the peer has said {family} again, without {gone} prefixes: they count as withdrawn");
                env.tell("refresh-swept", Severity::Info, &self.peer, text);
            }
        }
        let mut packed = BytesMut::new();
        encode::withdraw(&prefixes, &context, &mut packed);
        while let Ok(Some(m)) = frame::next_message(&mut packed, context.max_message_len > frame::MAX_LEN) {
            if self.remember(&m.bytes, env).is_some() {
                self.replicate(m.bytes, env);
            }
        }
    }
}
