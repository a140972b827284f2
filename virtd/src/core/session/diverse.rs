//! What makes the instances of one session differ in time: everything a leg is given goes through here, at once or held back.

use super::*;
use crate::config::ConnectOrder;
use crate::core::io::Way;
use crate::core::mux::{Lane, Random};
use crate::core::table::{age_ms, flag};
use wire::bgp::Prefix;

/// Between two offers whose order matters: long enough for each to be accepted before the next is there.
const ORDER_STEP_US: Micros = 20_000;

/// The lane of instance `i` on the session with `peer`, where the configuration gives it one.
pub(super) fn lane(i: usize, peer: &SocketAddr, env: &Env) -> Option<Box<Lane>> {
    let diversity = env.config.instances.get(i)?.diversity.as_ref()?;
    let delay = diversity.delay?;
    Some(Box::new(Lane::new(delay, Random::new(diversity.seed, &about(b"delay", peer)))))
}

/// How much later connections come to one instance on one session.
#[derive(Debug)]
pub struct Lag {
    least: Micros,
    greatest: Micros,
    random: Random,
}

impl Lag {
    pub(super) fn of(i: usize, peer: &SocketAddr, env: &Env) -> Option<Box<Lag>> {
        let diversity = env.config.instances.get(i)?.diversity.as_ref()?;
        let (least, greatest) = diversity.connect_delay_ms?;
        let random = Random::new(diversity.seed, &about(b"connect", peer));
        Some(Box::new(Lag { least: Micros::from(least) * 1000, greatest: Micros::from(greatest) * 1000, random }))
    }

    fn draw(&mut self) -> Micros {
        self.random.between(self.least, self.greatest)
    }
}

/// Instance `i` has begun to listen: when each session may offer it a leg.
pub fn allow_offers(sessions: &mut [Session], i: usize, env: &mut Env) {
    let order = env.config.instances.get(i).and_then(|c| c.diversity.as_ref()).map(|d| d.connect_order);
    let mut turns: Vec<usize> = (0..sessions.len()).collect();
    match order.unwrap_or_default() {
        ConnectOrder::Given => {}
        ConnectOrder::Reversed => turns.reverse(),
        ConnectOrder::Shuffled => {
            let Some(random) = env.shuffles.get_mut(i) else { return };
            for at in (1..turns.len()).rev() {
                turns.swap(at, random.between(0, at as u64) as usize);
            }
        }
    }
    // Where both are asked for, the delays are dealt out in the order.
    let step = if order.is_some_and(|o| o != ConnectOrder::Given) { ORDER_STEP_US } else { 0 };
    let lag = |s: &mut Session| s.seats.get_mut(i).and_then(|seat| seat.lag.as_mut()).map(|l| l.draw());
    let mut delays: Vec<Micros> = sessions.iter_mut().zip(0..).map(|(s, n)| lag(s).unwrap_or(n * step)).collect();
    if step > 0 {
        delays.sort_unstable();
        delays.iter_mut().zip(0..).for_each(|(delay, n)| *delay += n);
    }
    for (turn, delay) in turns.into_iter().zip(delays) {
        if let Some(s) = sessions.get_mut(turn) {
            s.allow_offer(i, env.now + delay, env);
        }
    }
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

    /// Some key of this session, each as likely.
    pub fn any_key(&self, random: &mut Random) -> Option<Prefix> {
        let last = self.table.slots().checked_sub(1)?;
        self.table.entry(random.between(0, u64::from(last)) as u32).map(|e| e.prefix)
    }

    /// Whether this session's peer has announced `prefix` and instance `i` is told what it says as it comes.
    pub fn is_fed(&self, i: usize, prefix: &Prefix, env: &Env) -> bool {
        let leg = self.seats.get(i).and_then(|s| s.leg.as_ref());
        let live = leg.is_some_and(|l| l.state == LegState::Established && l.level && matches!(l.feed, Feed::Live));
        live && env.stores.get(self.index).is_some_and(|s| s.find(prefix).is_some()) && !env.is_outside(i, prefix)
    }

    /// Whether what this peer is told about `prefix` is the same without instance `i`.
    pub fn can_spare(&self, i: usize, prefix: &Prefix, env: &Env) -> bool {
        let Some((slot, e)) = self.table.find(prefix).and_then(|slot| Some((slot, self.table.entry(slot)?))) else {
            return true;
        };
        let steady = age_ms(env.now_ms(), e.last_ms) >= env.rules.steady_ms;
        let undisputed = e.dissent.is_empty() && e.stale.is_empty() && e.overruled().is_none();
        let electorate = self.electorate(prefix, env);
        let mut others = electorate;
        others.remove(i as u8);
        let said = self.table.candidates(slot);
        let same = |m: &u8| said.get(usize::from(*m)) == Some(&e.winner);
        steady
            && undisputed
            && e.flags & flag::NO_QUORUM == 0
            && others.len() >= env.quorum().max(env.config.quorum())
            && others.iter().any(|m| same(&m))
            && !env.is_master(i, electorate)
    }

    /// Instance `i` alone is told that the peer withdraws `prefix`.
    pub fn tell_withdrawn(&mut self, i: usize, prefix: Prefix, env: &mut Env, out: &mut Vec<Output>) {
        let Some(up) = &self.up else { return };
        let mut bytes = BytesMut::new();
        wire::bgp::encode::withdraw(&[prefix], &up.negotiated.context(), &mut bytes);
        self.give(i, bytes.freeze(), env, out);
    }

    /// The electorate of `prefix` has changed: it is voted on anew.
    pub fn judge_soon(&mut self, prefix: &Prefix, env: &mut Env) {
        if let Some(slot) = self.table.find(prefix) {
            self.recheck_at(slot, env.now_ms(), env);
        }
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

    /// A connection comes to instance `i`: it is told of it as much later as its diversity says.
    pub(super) fn hold_connection(&mut self, i: usize, env: &mut Env) {
        let Some(seat) = self.seats.get_mut(i) else { return };
        let Some(lag) = &mut seat.lag else { return };
        seat.connect_from = env.now + lag.draw();
        seat.next_offer = seat.next_offer.max(seat.connect_from);
        env.wake_at(Some(seat.connect_from), self.index, i);
    }

    /// A connection that was held back from instance `i` may have its time.
    fn wake_connection(&mut self, i: usize, env: &mut Env, out: &mut Vec<Output>) {
        let Some(seat) = self.seats.get(i) else { return };
        match &seat.leg {
            Some(leg) if leg.state == LegState::Connecting => {
                if let Some(conn) = self.foremost().filter(|e| e.state >= ExtState::Connected).map(|e| e.id) {
                    self.connect_leg(i, conn, env, out);
                }
            }
            Some(_) => {}
            None => self.offer_legs(env, out),
        }
    }

    /// The time has come that was asked for with [`Env::wake_at`].
    pub fn wake(&mut self, i: usize, env: &mut Env, out: &mut Vec<Output>) {
        self.wake_connection(i, env, out);
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
