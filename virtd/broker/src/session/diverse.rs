//! What a leg is given: the peer's messages as they come, or what stands in the store key by key;
//! at once, or held back as the diversity of its instance says; all of it, or its address blocks.

use super::super::env::Scratch;
use super::*;
use crate::config::ConnectOrder;
use crate::event::Severity;
use crate::io::Direction;
use crate::mux::{Lane, Random};
use wire::bgp::{Prefix, encode};

/// Keys told to a levelling leg in one go.
const LEVEL_BATCH: usize = 2000;
/// Keys that it is told before anything else is looked at.
const FED_AT_ONCE: usize = 8 * LEVEL_BATCH;
/// Between two offers whose order matters: long enough for each to be accepted before the next is
/// there.
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
            let Some(random) = env.instances.shuffles.get_mut(i) else { return };
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
    /// Octets that wait for the leg of instance `i`.
    pub fn waiting_for(&self, i: usize) -> usize {
        self.seats.get(i).map_or(0, Seat::waiting)
    }

    /// Gives a peer's message to every leg; its prefixes stand in `scratch.keys`.
    pub(super) fn replicate(&mut self, bytes: Bytes, env: &mut Env) {
        let keys = std::mem::take(&mut env.scratch.keys);
        let (mut to, mut by_keys) = (Members::default(), Members::default());
        let index = self.index;
        env.followups.vote_anew_if(env.poison.refused(index, &bytes, &keys));
        // Where somebody is not told everything, whose word counts at once depends on the key.
        let first = if self.has_limits { None } else { env.first_told() };
        for (i, s) in self.seats.iter_mut().enumerate() {
            let waiting = s.waiting();
            let Seat { leg: Some(leg), lane, terms: Some(terms), .. } = s else { continue };
            if leg.state != LegState::Established {
                continue;
            }
            if !terms.is_plain() {
                if keys.is_empty() && !terms.hears(&bytes) {
                    continue;
                }
                if !terms.suits(&bytes, &keys) && !keys.is_empty() {
                    // What it can be told of it, in messages that it can read.
                    leg.level_mode().extend(keys.iter().filter(|prefix| terms.carries(prefix)).copied());
                    by_keys.insert(i as u8);
                    continue;
                }
            }
            let withheld = || keys.iter().any(|prefix| env.poison.withholds(i, index, prefix));
            if env.poison.refuses(i, &bytes) || (!env.poison.is_idle() && withheld()) {
                // What stands is told key by key, and the feed leaves out what is withheld.
                leg.level_mode().extend(keys.iter().copied());
                by_keys.insert(i as u8);
                continue;
            }
            if env.has_blocks && keys.iter().any(|prefix| env.is_outside(i, prefix)) {
                // Of a message that is only in part for it, it is told that part.
                leg.level_mode().extend(keys.iter().filter(|prefix| !env.is_outside(i, prefix)).copied());
                by_keys.insert(i as u8);
                continue;
            }
            if matches!(leg.feed, Feed::Live) && waiting > HIGH_MARK {
                // Slow is not dead: from here on only which keys changed is kept.
                leg.level_mode();
            }
            match &mut leg.feed {
                // A message without keys is an End-of-RIB (or one that says nothing): it must not
                // overtake what is still to be told.
                Feed::Levelling(_) if keys.is_empty() => leg.owe(bytes.clone()),
                Feed::Levelling(todo) => todo.extend(keys.iter().copied()),
                Feed::Live => match lane {
                    Some(lane) => {
                        let wake = lane.hold(env.now, bytes.clone());
                        env.wake_at(wake, index, i);
                    }
                    None => {
                        leg.queued += bytes.len();
                        to.insert(i as u8);
                        let (leg, bytes) = (leg.id, bytes.clone());
                        env.out.push(match first {
                            Some(first) if !first.contains(i as u8) => Output::SendLegLater { leg, bytes },
                            _ => Output::SendLeg { leg, bytes },
                        });
                    }
                },
            }
        }
        env.poison.deliver(env.now, self.index, to, &bytes);
        env.flight.note(env.now, self.index, Direction::To(to), &bytes);
        env.scratch.keys = keys;
        for i in by_keys.iter() {
            self.feed(usize::from(i), env);
        }
    }

    /// Tells a levelling leg more of the store, as far as its queue has room.
    pub(super) fn feed(&mut self, i: usize, env: &mut Env) {
        // The rest follows when this has been written.
        let mut told = 0;
        while told < FED_AT_ONCE {
            let waiting = self.seats[i].waiting();
            let Seat { leg: Some(leg), terms: Some(terms), .. } = &mut self.seats[i] else { return };
            let Feed::Levelling(todo) = &mut leg.feed else { return };
            if todo.is_empty() && leg.rest.is_none() {
                return self.is_fed_now(i, env);
            }
            if waiting >= LOW_MARK {
                return;
            }
            let context = terms.context;
            let mut scratch = std::mem::take(&mut env.scratch);
            let Scratch { packed, prefixes, .. } = &mut scratch;
            prefixes.clear();
            todo.pop_batch(LEVEL_BATCH, prefixes);
            if let Some(rest) = leg.rest.as_mut().filter(|_| prefixes.is_empty())
                && !env.heard.stores().next(self.index, rest, LEVEL_BATCH, prefixes)
            {
                leg.rest = None;
            }
            let lacks = env.heard.lacks(self.index).filter(|lacks| !lacks.is_empty());
            if !env.poison.is_idle() || lacks.is_some() {
                let index = self.index;
                prefixes.retain(|p| terms.carries(p));
                // A route that it cannot be told takes the place of the one that it was told
                // before.
                let too_long = |p: &Prefix| lacks.is_some_and(|lacks| lacks.is_too_long(i as u8, p));
                let withheld = |p: &mut Prefix| env.poison.withholds(i, index, p) || too_long(p);
                let withheld: Vec<Prefix> = prefixes.extract_if(.., withheld).collect();
                encode::withdraw(&withheld, &context, packed);
            }
            if env.has_blocks {
                prefixes.retain(|p| !env.is_outside(i, p));
            }
            env.heard.replay(self.index, prefixes, &context, terms.narrow, packed);
            leg.last_update = env.now;
            let bytes = packed.split().freeze();
            env.scratch = scratch;
            if !bytes.is_empty() {
                told += LEVEL_BATCH;
                self.give(i, bytes, env);
            }
        }
    }

    /// Instance `i` has been told everything key by key.
    fn is_fed_now(&mut self, i: usize, env: &mut Env) {
        let Some(leg) = self.seats[i].leg.as_mut() else { return };
        leg.feed = Feed::Live;
        for bytes in std::mem::take(&mut leg.after_feed) {
            self.give(i, bytes, env);
        }
        let Some(leg) = self.seats[i].leg.as_mut() else { return };
        if !leg.level && leg.fed_since.is_none() {
            leg.fed_since = Some(env.now);
        }
    }

    /// Gives instance `i` a message that belongs in order with the peer's UPDATEs: now, or when its
    /// lane says.
    pub(super) fn give(&mut self, i: usize, bytes: Bytes, env: &mut Env) {
        let Some(seat) = self.seats.get_mut(i) else { return };
        match &mut seat.lane {
            None => self.hand_over(i, bytes, env),
            Some(lane) => {
                let wake = lane.hold(env.now, bytes);
                env.wake_at(wake, self.index, i);
            }
        }
    }

    /// Whether those who have begun to differ on a key may do so only because what a peer said
    /// about it is still held back from some: on a key that flaps without a rest, verdicts come
    /// before every instance has been told.
    pub(super) fn is_held_back(&self, slot: u32, differ: Members, env: &Env) -> bool {
        if differ.is_empty() || env.held_back_ms == 0 {
            return false;
        }
        let Some(e) = self.table.entry(slot) else { return false };
        // Twice: T leaves them as much.
        env.input_age_ms(&e.key).is_some_and(|age| age < 2 * env.held_back_ms)
    }

    /// Whether this session's peer has announced `prefix` and instance `i` is told what it says as
    /// it comes.
    pub fn is_fed(&self, i: usize, prefix: &Prefix, env: &Env) -> bool {
        let leg = self.seats.get(i).and_then(|s| s.leg.as_ref());
        let live = leg.is_some_and(|l| l.state == LegState::Established && l.level && matches!(l.feed, Feed::Live));
        let told = env.heard.lacks(self.index).is_some_and(|lacks| !lacks.untold(prefix).contains(i as u8));
        live && told && env.heard.stores().find(self.index, prefix).is_some() && !env.is_outside(i, prefix)
    }

    /// Whether what this peer is told about `prefix` is the same without instance `i`.
    pub fn can_spare(&self, i: usize, prefix: &Prefix, env: &Env) -> bool {
        let Some((e, said)) = self.look(prefix, env) else { return true };
        let steady = e.age(env.now_ms()) >= env.rules.steady_ms;
        let undisputed = e.dissent.is_empty() && e.stale.is_empty() && e.overruled().is_none();
        let electorate = self.electorate(prefix, env);
        let mut others = electorate;
        others.remove(i as u8);
        let same = |m: &u8| said.get(usize::from(*m)) == Some(&e.winner);
        steady
            && undisputed
            && !e.is_lost()
            && others.len() >= env.instances.quorum().max(env.config.quorum())
            && others.iter().any(|m| same(&m))
            && !env.is_master(i, electorate)
    }

    /// Whether instance `i` has a leg here, and a quorum is left without it, on every prefix.
    pub fn can_lose(&self, i: usize, env: &Env) -> bool {
        let mut others = env.instances.voters.intersect(self.attached);
        let master = env.is_master(i, others);
        others.remove(i as u8);
        // Those that do not vote on everything may be those that are needed.
        let others = others.minus(env.partial()).minus(env.heard.lackers());
        self.up.is_some()
            && self.stands(i)
            && !master
            && others.len() >= env.instances.quorum().max(env.config.quorum())
    }

    /// Ends the leg of instance `i`, which begins anew: Cease, Administrative Reset (RFC 4486).
    pub fn restart_leg(&mut self, i: usize, env: &mut Env) {
        let Some(leg) = self.seats.get(i).and_then(|s| s.leg.as_ref()) else { return };
        env.out.push(Output::SendLeg { leg: leg.id, bytes: Notification::new(6, 4).encode() });
        let text = format!("the connection of {} is closed, so that it begins anew; the peer goes on", env.name(i));
        env.tell_of("leg-restarted", Severity::Info, &self.peer, i, text);
        self.drop_leg(i, env);
        env.touch(i);
        self.hold_connection(i, env);
    }

    /// Instance `i` alone is told that the peer withdraws `prefix`.
    pub fn tell_withdrawn(&mut self, i: usize, prefix: Prefix, env: &mut Env) {
        let Some(up) = &self.up else { return };
        let mut bytes = BytesMut::new();
        encode::withdraw(&[prefix], &up.negotiated.context(), &mut bytes);
        self.give(i, bytes.freeze(), env);
    }

    /// The electorate of `prefix` has changed: it is voted on anew.
    pub fn judge_soon(&mut self, prefix: &Prefix, env: &mut Env) {
        if let Some(slot) = self.table.find(prefix) {
            self.table.recheck_at(slot, env.now_ms(), &mut env.rechecks);
        }
    }

    /// The message leaves for the instance.
    fn hand_over(&mut self, i: usize, bytes: Bytes, env: &mut Env) {
        let Some(leg) = self.seats.get_mut(i).and_then(|s| s.leg.as_mut()) else { return };
        leg.queued += bytes.len();
        let to = [i as u8].into_iter().collect();
        env.poison.deliver(env.now, self.index, to, &bytes);
        env.flight.note(env.now, self.index, Direction::To(to), &bytes);
        env.out.push(Output::SendLeg { leg: leg.id, bytes });
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
    fn wake_connection(&mut self, i: usize, env: &mut Env) {
        let Some(seat) = self.seats.get(i) else { return };
        match &seat.leg {
            Some(leg) if leg.state == LegState::Connecting => {
                if let Some(conn) = self.foremost().filter(|e| e.state >= ExtState::Connected).map(|e| e.id) {
                    self.connect_leg(i, conn, env);
                }
            }
            Some(_) => {}
            None => self.offer_legs(env),
        }
    }

    /// The time has come that was asked for with [`Env::wake_at`].
    pub fn wake(&mut self, i: usize, env: &mut Env) {
        self.wake_connection(i, env);
        let mut any = false;
        while let Some(bytes) = self.seats.get_mut(i).and_then(|s| s.lane.as_mut()).and_then(|l| l.due(env.now)) {
            self.hand_over(i, bytes, env);
            any = true;
        }
        let Some(Seat { lane: Some(lane), leg, .. }) = self.seats.get_mut(i) else { return };
        let next = lane.next_wake();
        env.wake_at(next, self.index, i);
        if let Some(leg) = leg.as_mut().filter(|l| any && !l.level) {
            // It has only now been told: its output is not quiet yet.
            leg.last_update = env.now;
        }
        self.feed(i, env);
    }
}
