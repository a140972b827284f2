//! `open = "native"`: one instance behind a transparent proxy. Its OPEN and all its bytes pass
//! verbatim, nothing is parsed or re-encoded; what one side closes, the other sees closed. The
//! first step of a drop-in install (docs/DECISIONS.md, "One instance is a product").

use super::env::Env;
use super::io::{ConnId, Input, LegId, Output};
use hashbrown::{HashMap, HashSet};
use std::net::SocketAddr;

/// Octets that may wait for one side before reading from the other stops: TCP's own back-pressure,
/// passed on.
const PAUSE_MARK: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Native {
    leg_of: HashMap<ConnId, LegId>,
    conn_of: HashMap<LegId, ConnId>,
    peers: HashMap<ConnId, SocketAddr>,
    /// Where reading has been stopped, because the other side does not take what comes.
    paused: HashSet<LegId>,
    held: HashSet<ConnId>,
}

impl Native {
    pub(super) fn handle(&mut self, env: &mut Env, input: Input<'_>) {
        match input {
            Input::PeerAccepted { conn, peer, local } => {
                let Some(listener) = env.instances.listener_for(0, local.ip()) else {
                    return env.out.push(Output::ClosePeer { conn, abort: true });
                };
                let leg = LegId(env.fresh_id());
                self.pair(conn, leg, peer);
                let instance = super::io::InstanceId(0);
                env.out.push(Output::OfferLeg { leg, instance, listener, peer, local, conn: Some(conn) });
            }
            Input::LegDialed { leg, peer, local, .. } => {
                let conn = ConnId(env.fresh_id());
                self.pair(conn, leg, peer);
                // The daemon's own socket still holds the port that the kernel gave it.
                let local = local.map(|mut l| {
                    l.set_port(0);
                    l
                });
                env.out.push(Output::Dial { conn, peer, local, leg });
            }
            Input::PeerConnected { conn, local, peer } => {
                if let Some(&leg) = self.leg_of.get(&conn) {
                    env.out.push(Output::LegConnected { leg, local, peer, conn: Some(conn) });
                }
            }
            Input::PeerDialFailed { conn, errno } => {
                if let Some(leg) = self.unpair(conn) {
                    env.out.push(Output::LegRefused { leg, errno });
                }
            }
            Input::PeerBytes { conn, buf } => {
                if let Some(&leg) = self.leg_of.get(&conn) {
                    env.out.push(Output::SendLeg { leg, bytes: buf.split().freeze() });
                }
            }
            Input::LegBytes { leg, buf } => {
                if let Some(&conn) = self.conn_of.get(&leg) {
                    env.out.push(Output::SendPeer { conn, bytes: buf.split().freeze() });
                }
            }
            Input::PeerClosed { conn, .. } => {
                if let Some(leg) = self.unpair(conn) {
                    env.out.push(Output::CloseLeg { leg });
                }
            }
            Input::LegClosed { leg } => {
                if let Some(&conn) = self.conn_of.get(&leg) {
                    self.unpair(conn);
                    env.out.push(Output::ClosePeer { conn, abort: false });
                }
            }
            Input::PeerDrained { conn, queued, .. } => {
                let pause = queued > PAUSE_MARK;
                if let Some(&leg) = self.leg_of.get(&conn)
                    && changes(&mut self.paused, leg, pause)
                {
                    env.out.push(Output::PauseLeg { leg, pause });
                }
            }
            Input::LegDrained { leg, queued } => {
                let pause = queued > PAUSE_MARK;
                if let Some(&conn) = self.conn_of.get(&leg)
                    && changes(&mut self.held, conn, pause)
                {
                    env.out.push(Output::PausePeer { conn, pause });
                }
            }
            _ => {}
        }
    }

    /// Connections through the proxy now.
    pub(super) fn peers(&self) -> impl Iterator<Item = &SocketAddr> {
        self.peers.values()
    }

    pub(super) fn pair(&mut self, conn: ConnId, leg: LegId, peer: SocketAddr) {
        self.leg_of.insert(conn, leg);
        self.conn_of.insert(leg, conn);
        self.peers.insert(conn, peer);
    }

    fn unpair(&mut self, conn: ConnId) -> Option<LegId> {
        self.peers.remove(&conn);
        let leg = self.leg_of.remove(&conn)?;
        self.conn_of.remove(&leg);
        self.paused.remove(&leg);
        self.held.remove(&conn);
        Some(leg)
    }
}

/// Notes whether `id` is stopped; true where that is news.
fn changes<T: Eq + std::hash::Hash>(stopped: &mut HashSet<T>, id: T, stop: bool) -> bool {
    if stop { stopped.insert(id) } else { stopped.remove(&id) }
}
