//! Forced withdraw and re-announce (papers/000 section 3.2): now and then an instance alone is told
//! that a route is gone, and soon that it is there again. What it has got wrong about that route it
//! may so get right, and what it does wrong with a flap it does alone.
//!
//! It abstains on the prefix from the withdraw until it has had T to say again what it said before.
//! An exercise is begun only where that changes no outcome: the key is steady and undisputed, a
//! quorum is left without the instance, and another says what was chosen to the letter. In the same
//! way a connection of one instance is closed now and then, so that it begins anew with that peer
//! (papers/001, "connection diversity"): only where all are level and a quorum is left on that
//! session without it.

use super::env::Env;
use super::io::Micros;
use super::mux::Random;
use super::session::Session;
use crate::config::{Config, Instance};
use crate::event::{Event, Severity};
use wire::bgp::Prefix;

/// The longest between withdraw and re-announcement; often it is much shorter, and both come in one
/// read.
const GAP_US: Micros = 1_000_000;
/// Keys looked at in one turn until one is found that may be exercised.
const TRIES: usize = 16;
/// Wait after a turn in which none was found.
const AGAIN_US: Micros = 1_000_000;

/// Where an instance's exercise stands.
#[derive(Debug)]
enum State {
    /// The next begins then.
    Rest { until: Micros },
    /// The withdraw is out; the announcement follows then.
    Withdrawn { session: usize, prefix: Prefix, until: Micros },
    /// Both are out; its vote counts again then.
    Told { prefix: Prefix, until: Micros },
}

#[derive(Debug)]
struct Exercise {
    least: Micros,
    greatest: Micros,
    random: Random,
    state: State,
}

/// When a connection of an instance is closed next.
#[derive(Debug)]
struct Restart {
    least: Micros,
    greatest: Micros,
    random: Random,
    next: Micros,
}

/// The exercises of all instances. See the module's comment.
#[derive(Debug, Default)]
pub struct Exercises {
    routes: Vec<Option<Exercise>>,
    connections: Vec<Option<Restart>>,
}

impl Exercises {
    /// As configured; the first comes no earlier than any other.
    pub fn new(config: &Config, now: Micros) -> Exercises {
        let all = &config.instances;
        Exercises {
            routes: all.iter().map(|i| Exercise::of(i, now)).collect(),
            connections: all.iter().map(|i| Restart::of(i, now)).collect(),
        }
    }

    /// The place at `i` is this instance's from now on, or nobody's.
    pub fn seat(&mut self, i: usize, instance: Option<&Instance>, now: Micros) {
        let places = self.routes.len().max(i + 1);
        self.routes.resize_with(places, || None);
        self.connections.resize_with(places, || None);
        if let (Some(routes), Some(connections)) = (self.routes.get_mut(i), self.connections.get_mut(i)) {
            *routes = instance.and_then(|c| Exercise::of(c, now));
            *connections = instance.and_then(|c| Restart::of(c, now));
        }
    }

    /// The place of this session may be another peer's: it has nothing to be told again of.
    pub fn forget_session(&mut self, gone: usize) {
        for e in self.routes.iter_mut().flatten() {
            if let State::Withdrawn { session, prefix, until } = e.state
                && session == gone
            {
                e.state = State::Told { prefix, until };
            }
        }
    }

    /// Looks whether something is to begin or to end; called every tick.
    pub fn tick(&mut self, sessions: &mut [Session], env: &mut Env) {
        for (i, slot) in self.connections.iter_mut().enumerate() {
            if let Some(r) = slot.as_mut().filter(|r| env.now >= r.next) {
                r.begin(i, sessions, env);
            }
        }
        for (i, slot) in self.routes.iter_mut().enumerate() {
            let Some(e) = slot else { continue };
            match e.state {
                State::Rest { until } if env.now >= until => e.begin(i, sessions, env),
                State::Withdrawn { session, prefix, until } if env.now >= until => {
                    if let Some(s) = sessions.get_mut(session) {
                        s.tell_again(i, vec![prefix], env);
                    }
                    e.state = State::Told { prefix, until: env.now + env.t_us() };
                }
                State::Told { prefix, until } if env.now >= until => {
                    env.heard.exercise(prefix, i, false);
                    // It counts again: what it says by now is judged.
                    sessions.iter_mut().for_each(|s| s.judge_soon(&prefix, env));
                    e.rest(env.now);
                }
                _ => {}
            }
        }
    }
}

impl Exercise {
    fn of(instance: &Instance, now: Micros) -> Option<Exercise> {
        let diversity = instance.diversity.as_ref()?;
        let (least, greatest) = diversity.readvertise_s?;
        let (least, greatest) = (Micros::from(least) * 1_000_000, Micros::from(greatest) * 1_000_000);
        let mut random = Random::new(diversity.seed, b"readvertise");
        let until = now + random.between(least, greatest);
        Some(Exercise { least, greatest, random, state: State::Rest { until } })
    }

    fn rest(&mut self, now: Micros) {
        self.state = State::Rest { until: now + self.random.between(self.least, self.greatest) };
    }

    fn begin(&mut self, i: usize, sessions: &mut [Session], env: &mut Env) {
        self.state = State::Rest { until: env.now + AGAIN_US };
        if sessions.is_empty() || !is_calm(env) {
            return;
        }
        for _ in 0..TRIES {
            let at = self.random.between(0, sessions.len() as u64 - 1) as usize;
            let Some(prefix) = sessions.get(at).and_then(|s| s.any_key(&mut self.random, env)) else { continue };
            let fed = |s: &Session| s.is_fed(i, &prefix, env);
            let Some(from) = sessions.iter().position(fed) else { continue };
            if !sessions.iter().all(|s| s.can_spare(i, &prefix, env)) {
                continue;
            }
            env.heard.exercise(prefix, i, true);
            let Some(session) = sessions.get_mut(from) else { return };
            session.tell_withdrawn(i, prefix, env);
            let text = format!(
                "{} alone is told that {} withdraws {prefix}, and then that it is there again; it abstains there meanwhile",
                env.name(i),
                env.peer_name(&session.peer)
            );
            let mut event =
                Event::new(env.now, "readvertised", Severity::Info, text).with_session(env.peer_name(&session.peer));
            event.prefix = Some(prefix);
            env.out.push(event.with_instance(env.name(i)).into());
            // The shorter, the likelier: a flap within a moment is what races are made of.
            let until = env.now + self.random.soon(0, GAP_US);
            self.state = State::Withdrawn { session: from, prefix, until };
            return;
        }
    }
}

/// Nobody is put to the test while something else is going on.
fn is_calm(env: &Env) -> bool {
    env.poison.is_idle() && env.heard.all_level()
}

impl Restart {
    fn of(instance: &Instance, now: Micros) -> Option<Restart> {
        let diversity = instance.diversity.as_ref()?;
        let (least, greatest) = diversity.reconnect_s?;
        let (least, greatest) = (Micros::from(least) * 1_000_000, Micros::from(greatest) * 1_000_000);
        let mut random = Random::new(diversity.seed, b"reconnect");
        let next = now + random.between(least, greatest);
        Some(Restart { least, greatest, random, next })
    }

    fn begin(&mut self, i: usize, sessions: &mut [Session], env: &mut Env) {
        self.next = env.now + AGAIN_US;
        if !is_calm(env) {
            return;
        }
        let mine: Vec<usize> = (0..sessions.len()).filter(|s| sessions[*s].can_lose(i, env)).collect();
        let Some(last) = mine.len().checked_sub(1) else { return };
        let Some(session) = sessions.get_mut(mine[self.random.between(0, last as u64) as usize]) else { return };
        session.restart_leg(i, env);
        self.next = env.now + self.random.between(self.least, self.greatest);
    }
}
