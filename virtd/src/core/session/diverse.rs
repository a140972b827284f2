//! What makes the instances of one session differ in time: everything a leg is given goes through here, at once or held back.

use super::*;
use crate::core::io::Way;
use crate::core::mux::{Lane, Random};

/// The lane of instance `i` on the session with `peer`, where the configuration gives it one.
pub(super) fn lane(i: usize, peer: &SocketAddr, env: &Env) -> Option<Box<Lane>> {
    let diversity = env.config.instances.get(i)?.diversity.as_ref()?;
    let delay = diversity.delay?;
    Some(Box::new(Lane::new(delay, Random::new(diversity.seed, &about(b"delay", peer)))))
}

/// Names a sequence of random numbers: what for, and for which peer.
fn about(what: &[u8], peer: &SocketAddr) -> Vec<u8> {
    let address = match peer.ip() {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    [what, &address].concat()
}

impl Seat {
    /// Octets on their way to the instance: held back here, and not yet taken by its socket.
    pub(super) fn waiting(&self) -> usize {
        self.leg.as_ref().map_or(0, |l| l.queued) + self.lane.as_ref().map_or(0, |l| l.octets())
    }
}

impl Session {
    /// Gives instance `i` a message that belongs in order with the peer's UPDATEs: now, or when its lane says.
    pub(super) fn give(&mut self, i: usize, bytes: Bytes, env: &mut Env, out: &mut Vec<Output>) {
        let Some(seat) = self.seats.get_mut(i) else { return };
        match &mut seat.lane {
            None => self.hand_over(i, bytes, env, out),
            Some(lane) => {
                let wake = lane.hold(env.now, bytes);
                env.wake_at(wake, self.index, i);
            }
        }
    }

    /// Whether those who have begun to differ on a key may do so only because what a peer said about it is still held back from
    /// some: on a key that flaps without a rest, verdicts come before every instance has been told.
    pub(super) fn is_held_back(&self, slot: u32, differ: Members, env: &Env) -> bool {
        if differ.is_empty() || env.held_back_ms == 0 {
            return false;
        }
        let Some(e) = self.table.entry(slot) else { return false };
        // Twice: T leaves them as much.
        env.input_age_ms(&e.prefix).is_some_and(|age| age < 2 * env.held_back_ms)
    }

    /// The message leaves for the instance.
    fn hand_over(&mut self, i: usize, bytes: Bytes, env: &mut Env, out: &mut Vec<Output>) {
        let Some(leg) = self.seats.get_mut(i).and_then(|s| s.leg.as_mut()) else { return };
        leg.queued += bytes.len();
        let to = [i as u8].into_iter().collect();
        env.poison.deliver(env.now, self.index, to, &bytes);
        env.flight.note(env.now, self.index, Way::To(to), &bytes);
        out.push(Output::SendLeg { leg: leg.id, bytes });
    }

    /// The time has come that was asked for with [`Env::wake_at`].
    pub fn wake(&mut self, i: usize, env: &mut Env, out: &mut Vec<Output>) {
        let mut any = false;
        while let Some(bytes) = self.seats.get_mut(i).and_then(|s| s.lane.as_mut()).and_then(|l| l.due(env.now)) {
            self.hand_over(i, bytes, env, out);
            any = true;
        }
        let Some(Seat { lane: Some(lane), leg, .. }) = self.seats.get_mut(i) else { return };
        let next = lane.next_wake();
        env.wake_at(next, self.index, i);
        if let Some(leg) = leg.as_mut().filter(|l| any && !l.level) {
            // It has only now been told: its output is not quiet yet.
            leg.last_update = env.now;
        }
        self.feed(i, env, out);
    }
}
