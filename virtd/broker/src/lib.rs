//! The broker's decisions, without I/O: [`turn::turn`] is its door, [`Core::handle`] takes what
//! comes.
//!
//! | file | holds |
//! |---|---|
//! | [`turn`] | the order of a turn: read, pass on, decide, and what is put off |
//! | [`io`] | what goes in and comes out |
//! | `env` | what all sessions share, and whose vote counts |
//! | `roster`, `instance` | who there is; what is known of one instance |
//! | `heard` | what the peers have said, and who has not been told all of it |
//! | `followups` | what one part has found out and another has to act on |
//! | `decide` | what is decided in a turn, and how much of it |
//! | [`adopt`] | sessions of an earlier virtd go on |
//! | `busy` | which sessions have something to do |
//! | `session` | one peer: its TCP connections, the legs, what the votes go by |
//! | `open` | OPEN negotiation |
//! | [`fib`] | virtual kernels, and the votes on what goes to the real one |
//! | `controller` | who may vote; verdicts on instances, restarts, standbys |
//! | `flight` | the last messages of every leg, for a verdict's record |
//! | `lacks` | what instances are not told because their OPEN lacks something, on which they abstain |
//! | `links` | the links, addresses and routes that carry the sessions |
//! | `exercise` | withdraws a route from one instance alone, and gives it back |
//! | [`mux`] | holds back what an instance is given, so that the instances differ in time |
//! | `dissent` | since when an instance has not been with the majority, key by key |
//! | `poison` | the UPDATE that kills an instance: suspects, trials, what is withheld |
//! | `independence`, `diversity` | how often two instances disagree, and are wrong together; what is told of it |
//! | `native` | one instance, bytes verbatim (`open = "native"`) |
//! | [`witness`] | what is under way, for the next virtd; an instance's message that killed one |
//! | `strangers` | who may have a session, and when its place is given back |
//! | `reload` | the set of instances and the settings change while sessions are up |
//! | [`ribs`] | who reads the routing tables as they change, and what is told to each |
//! | `query`, `told` | virtctl's answers; what a peer was told of a prefix, and by which rule |
//!
//! Nothing here reads a clock or an fd; the same inputs give the same outputs.
#![forbid(unsafe_code)]

mod instance;
pub mod io;

pub mod adopt;
mod busy;
mod controller;
mod decide;
pub mod delays;
mod differs;
mod dissent;
mod diversity;
mod env;
pub mod event;
mod exercise;
#[cfg(debug_assertions)]
pub mod faults;
pub mod fib;
mod flight;
mod followups;
mod heard;
mod independence;
mod lacks;
mod leaving;
mod links;
pub mod mux;
mod native;
mod open;
mod poison;
mod query;
mod reload;
pub mod ribs;
mod roster;
mod session;
pub mod state;
mod strangers;
mod told;
pub mod turn;
pub mod witness;

pub use virtd_config as config;

use crate::config::{Config, OpenMode};
use crate::event::{Event, Severity};
use controller::Controller;
use diversity::Diversity;
use env::Env;
use exercise::Exercises;
use fib::Fib;
use hashbrown::HashMap;
use instance::Listener;
use io::{ConnId, Input, LegId, Micros, Order, Output};
use native::Native;
use poison::{Poison, Report};
pub use query::{Answer, Asker, Reply, words};
use replay::intern::BlobId;
use replay::store::Cursor;
use session::Session;
use std::collections::VecDeque;
use std::net::SocketAddr;
use wire::bgp::Prefix;
use witness::Stage;

/// Sessions at most; an address more is refused by name. Each costs a table of its own.
const MAX_SESSIONS: usize = 4096;
/// A suspect is on trial for at least this long.
const MIN_TRIAL_US: Micros = 2_000_000;
/// Prefixes voted on at once, on every session, because an instance is judged on them again; where
/// there are more, all keys are, in turns.
const ANSWERED_AT_ONCE: usize = 64;
/// Keys of all sessions that are told in one go, beside as many as something was said about since
/// the last, and of the FIB: some milliseconds' worth. The next go comes after what has come
/// meanwhile is read.
const KEYS_AT_ONCE: usize = 8192;
/// Keys that are voted on in one go because their time has come, beside as many as something was
/// said about, and because an electorate has changed. However many wait, what has been decided is
/// told.
const VOTES_AT_ONCE: usize = KEYS_AT_ONCE / 2;
/// Keys compared in one tick to find out whether an instance that has caught up says what was
/// chosen.
const COMPARED_AT_ONCE: usize = 1 << 17;

/// What the instances say, to one peer or in the FIB (crate `ballots`): values are ids of canonical
/// routes.
type Table<K = Prefix> = ballots::Ballots<K, BlobId>;
type Entry = ballots::Entry<Prefix, BlobId>;
const _: () = assert!(collections::Slots::<Entry>::SLOT_BYTES == size_of::<Entry>());

/// The broker. See the module's comment.
pub struct Core {
    env: Env,
    controller: Controller,
    exercises: Exercises,
    native: Option<Native>,
    sessions: Vec<Session>,
    by_peer: HashMap<SocketAddr, usize>,
    conns: HashMap<ConnId, usize>,
    legs: HashMap<LegId, usize>,
    next_tick: Micros,
    diversity: Diversity,
    /// Findings that wait for the supervisor's word.
    reports: Vec<Report>,
    told_strangers: HashMap<SocketAddr, ()>,
    /// Places of sessions that nobody has.
    vacant_sessions: Vec<usize>,
    /// Sessions of whose peers every prefix is voted on anew, and how far that has come.
    renewed: VecDeque<(usize, Cursor)>,
    /// Sessions that may have something to decide or to tell, the one that waits longest first.
    busy: busy::Busy,
    /// What the instances had said when it was last decided: words on keys of sessions.
    decided_on: u64,
    /// Where the next search for a place begins.
    evict_from: usize,
    /// The figures of sessions that are no more.
    gone_independence: independence::Independence,
    /// The operator knows how the instances are made to differ.
    told_diversity: bool,
    fib: Option<Fib>,
    /// While too few instances are level for a decision: when it began.
    adopted_at: Option<Micros>,
}

/// A peer's address as a key: the port does not matter.
fn key(addr: SocketAddr) -> SocketAddr {
    let mut addr = addr;
    addr.set_port(0);
    addr
}

impl Core {
    /// A broker to which nothing has happened yet.
    pub fn new(config: &Config, now: Micros) -> Core {
        let native = (config.open == OpenMode::Native).then(Native::default);
        Core {
            env: Env::new(config.clone(), now),
            controller: Controller::new(config),
            exercises: Exercises::new(config, now),
            native,
            sessions: Vec::new(),
            by_peer: HashMap::new(),
            conns: HashMap::new(),
            legs: HashMap::new(),
            next_tick: now + session::TICK_US,
            diversity: Diversity::new(now),
            reports: Vec::new(),
            told_strangers: HashMap::new(),
            vacant_sessions: Vec::new(),
            renewed: VecDeque::new(),
            busy: busy::Busy::default(),
            decided_on: 0,
            evict_from: 0,
            gone_independence: independence::Independence::default(),
            told_diversity: false,
            fib: Fib::new(config),
            adopted_at: None,
        }
    }

    fn has_no_outputs(&self) -> bool {
        self.env.out.is_empty()
    }

    /// What is to be done, in order; what has been decided for the kernel so far is among it.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        if let Some(fib) = &mut self.fib {
            fib.publish(&mut self.env);
        }
        std::mem::take(&mut self.env.out)
    }

    /// All that was taken is done: its memory serves again.
    fn keep_outputs(&mut self, mut done: Vec<Output>) {
        done.append(&mut self.env.out);
        self.env.out = done;
    }

    /// Takes one input; what is to be done is among the outputs ([`turn`]).
    pub fn handle(&mut self, now: Micros, input: Input<'_>) {
        self.env.now = self.env.now.max(now);
        self.env.begins(input.stage());
        let from = self.env.out.len();
        match input {
            Input::Stop => self.stop(),
            Input::InstanceAttached { .. }
            | Input::ChannelClosed { .. }
            | Input::InstanceDetached { .. }
            | Input::Listening { .. }
            | Input::ListenerClosed { .. } => {
                self.instance_input(input);
            }
            Input::Process { instance, news } => {
                self.controller.process(usize::from(instance.0), news, &mut self.env, &self.sessions);
            }
            Input::NetlinkOpened { .. }
            | Input::NetlinkClosed { .. }
            | Input::NetlinkRequest { .. }
            | Input::NetlinkDump { .. }
            | Input::NetlinkStirred
            | Input::Kernel(_) => {
                if let Input::Kernel(news) = &input {
                    self.env.links.take(news, self.env.now);
                }
                if let Some(fib) = &mut self.fib {
                    fib.handle(input, &mut self.env);
                }
            }
            Input::Tick if self.native.is_some() => self.controller.tick(&mut self.env, &mut self.sessions),
            input if self.native.is_some() => {
                if let Some(native) = &mut self.native {
                    native.handle(&mut self.env, input);
                }
            }
            input => self.session_input(input),
        }
        self.learn_ids(from);
        self.env.begins(Stage::Outside);
    }

    /// With `open = "native"`: a connection and the leg behind it, of an earlier virtd, go on.
    pub fn go_on(&mut self, conn: ConnId, leg: LegId, peer: SocketAddr) {
        if let Some(native) = &mut self.native {
            native.pair(conn, leg, peer);
        }
    }

    /// Outputs name connections and legs that the sessions made: later inputs find their session by
    /// them. (With `open = "native"` no peer has one.)
    fn learn_ids(&mut self, from: usize) {
        let out = std::mem::take(&mut self.env.out);
        for o in out.iter().skip(from) {
            match o {
                Output::Order { instance, order: Order::Stop | Order::Kill } => {
                    if let Some(fib) = &mut self.fib {
                        fib.leaving(usize::from(instance.0));
                    }
                    self.env.touch(usize::from(instance.0));
                }
                Output::Dial { conn, peer, .. } => {
                    if let Some(&s) = self.by_peer.get(&key(*peer)) {
                        self.conns.insert(*conn, s);
                    }
                }
                Output::OfferLeg { leg, peer, .. } => {
                    if let Some(&s) = self.by_peer.get(&key(*peer)) {
                        self.legs.insert(*leg, s);
                    }
                }
                Output::ClosePeer { conn, .. } => {
                    self.conns.remove(conn);
                }
                Output::CloseLeg { leg } | Output::LegRefused { leg, .. } => {
                    self.legs.remove(leg);
                }
                _ => {}
            }
        }
        self.env.out = out;
    }

    fn instance_input(&mut self, input: Input<'_>) {
        let now = self.env.now;
        match input {
            Input::InstanceAttached { instance, pid } => {
                // What its former processes did is judged before it is told anything.
                self.sessions.iter_mut().for_each(|s| s.weigh(usize::from(instance.0), true, &mut self.env));
                self.look_for_poison();
                let Some(s) = self.env.instances.get_mut(usize::from(instance.0)) else { return };
                s.pids.push(pid);
                if !s.attached {
                    s.attached = true;
                    let name = s.name.clone();
                    let text = format!("{name} attached (process {pid})");
                    self.env
                        .out
                        .push(Event::new(now, "instance-attached", Severity::Info, text).with_instance(&name).into());
                }
            }
            Input::ChannelClosed { instance, pid } => {
                let Some(s) = self.env.instances.get_mut(usize::from(instance.0)) else { return };
                s.last_channel_closed = Some(now);
                // One that became another program stands there twice until now.
                if let Some(at) = s.pids.iter().position(|p| *p == pid) {
                    s.pids.remove(at);
                }
            }
            Input::InstanceDetached { instance } => {
                let Some(s) = self.env.instances.get_mut(usize::from(instance.0)) else { return };
                (s.attached, s.pids, s.last_channel_closed) = (false, Vec::new(), Some(now));
                let name = s.name.clone();
                let text = format!("{name} is gone: all its processes ended");
                self.env
                    .out
                    .push(Event::new(now, "instance-gone", Severity::Warning, text).with_instance(&name).into());
            }
            Input::Listening { instance, listener, local, v6_only } => {
                self.env.instances.listeners.insert(listener, Listener { instance, local, v6_only });
                session::allow_offers(&mut self.sessions, usize::from(instance.0), &mut self.env);
            }
            Input::ListenerClosed { listener } => {
                if let Some(l) = self.env.instances.listeners.remove(&listener)
                    && let Some(s) = self.env.instances.get_mut(usize::from(l.instance.0))
                {
                    s.listener_closed = Some(now);
                }
            }
            _ => {}
        }
    }

    fn session_input(&mut self, input: Input<'_>) {
        let env_now = self.env.now;
        match input {
            Input::PeerAccepted { conn, peer, local } => match self.session_for(peer) {
                Some(s) => {
                    self.conns.insert(conn, s);
                    self.sessions[s].accepted(conn, peer, local, &mut self.env);
                }
                None => self.env.out.push(Output::ClosePeer { conn, abort: true }),
            },
            Input::LegDialed { leg, instance, peer, local } => match self.session_for(peer) {
                Some(s) => {
                    self.legs.insert(leg, s);
                    self.sessions[s].leg_dialled(leg, usize::from(instance.0), local, &mut self.env);
                }
                None => self.env.out.push(Output::LegRefused { leg, errno: libc::ECONNREFUSED }),
            },
            Input::PeerConnected { conn, local, .. } => self.on_conn(conn, |s, env| s.connected(conn, local, env)),
            Input::PeerDialFailed { conn, errno } => {
                self.on_conn(conn, |s, env| s.dial_failed(conn, errno, env));
                self.conns.remove(&conn);
            }
            Input::PeerBytes { conn, buf } => self.on_conn(conn, |s, env| s.peer_bytes(conn, buf, env)),
            Input::PeerClosed { conn, errno } => {
                self.on_conn(conn, |s, env| s.peer_closed(conn, errno, env));
                self.conns.remove(&conn);
            }
            Input::PeerDrained { conn, queued, taken } => {
                self.on_conn(conn, |s, env| s.peer_drained(conn, queued, taken, env.now));
            }
            Input::LegBytes { leg, buf } => self.on_leg(leg, |s, env| s.leg_bytes(leg, buf, env)),
            Input::LegClosed { leg } => {
                self.on_leg(leg, |s, env| s.leg_closed(leg, env));
                self.legs.remove(&leg);
            }
            Input::LegDrained { leg, queued } => self.on_leg(leg, |s, env| s.leg_drained(leg, queued, env)),
            Input::Tick if env_now >= self.next_tick => {
                self.next_tick = env_now + session::TICK_US;
                self.busy.all(self.sessions.len());
                self.env.links.forget(env_now);
                for s in &mut self.sessions {
                    s.tick(&mut self.env);
                }
                self.look_for_poison();
                self.judge_answers();
                self.tell_findings();
                self.admit_concurring();
                self.exercises.tick(&mut self.sessions, &mut self.env);
                let controller = &self.controller;
                session::look_for_hangs(&mut self.sessions, |i, env| controller.hangs(i, env), &mut self.env);
                self.controller.tick(&mut self.env, &mut self.sessions);
                self.pass_on();
                self.see_to_strangers();
                self.end_adoption();
                self.env.forget_silent_sometimes();
                self.tell_diversity();
            }
            Input::KeepAlive => {
                let Core { sessions, env, .. } = self;
                sessions.iter_mut().for_each(|s| s.keep_alive(env));
            }
            _ => {}
        }
    }

    /// Logs, once, what makes the instances differ, with the seeds that do it again.
    fn tell_differences(&mut self) {
        if std::mem::replace(&mut self.told_diversity, true) {
            return;
        }
        for i in &self.env.config.instances {
            let environment = (i.environment != Default::default()).then(|| i.environment.to_string());
            let words = i.diversity.as_ref().map(ToString::to_string).into_iter().chain(environment);
            let words = words.collect::<Vec<_>>().join("; ");
            if words.is_empty() {
                continue;
            }
            let event = Event::new(self.env.now, "instance-differs", Severity::Info, format!("{}: {words}", i.name));
            self.env.out.push(event.with_instance(&i.name).into());
        }
    }

    /// Follows up what may have died of an UPDATE (docs/DECISIONS.md, "Poison").
    fn look_for_poison(&mut self) {
        let quiet = self.env.t_us().max(MIN_TRIAL_US);
        for i in 0..self.env.instances.len() {
            let (env, sessions, controller) = (&mut self.env, &mut self.sessions, &self.controller);
            // Out of the environment for as long as it asks the sessions, which need the rest of
            // it.
            let mut poison = std::mem::replace(&mut env.poison, Poison::new(0, 0));
            let excused = controller.was_asked_to_end(i, env.now);
            let hasher = poison.hasher();
            let step = poison.look(i, excused, env.now + quiet, |s, bytes| {
                sessions.get(s).map_or_else(Vec::new, |session| session.suspects(i, bytes, &hasher, env))
            });
            let level = sessions.iter().any(|s| s.stands(i)) && env.heard.is_level(i);
            let step = step.or_else(|| poison.proceed(i, level, env.now, quiet));
            env.poison = poison;
            let Some(step) = step else { continue };
            env.followups.vote_anew();
            if let poison::Step::Found { found, .. } = &step {
                for suspect in found {
                    env.followups.excuse(i, suspect.session);
                    if let Some(s) = sessions.get_mut(suspect.session) {
                        s.is_explained(i);
                    }
                }
            }
            let told = self::poison::tell(i, &step, env, sessions);
            self.reports.extend(told.report);
            for (session, keys) in told.again {
                if let Some(s) = sessions.get_mut(session) {
                    s.tell_again(i, keys, env);
                }
            }
        }
    }

    /// Has the prefixes voted on on which an instance is judged again: it was told of them, and has
    /// had the time to answer.
    fn judge_answers(&mut self) {
        let prefixes = self.env.poison.take_answered(self.env.now);
        if prefixes.len() > ANSWERED_AT_ONCE {
            self.env.followups.vote_anew();
            return;
        }
        for prefix in &prefixes {
            for s in &mut self.sessions {
                s.vote_on(prefix, &mut self.env);
            }
        }
        if let Some(fib) = self.fib.as_mut().filter(|_| !prefixes.is_empty()) {
            fib.table.start_walk();
        }
    }

    /// Tells what was found where nothing more is to be learnt about it.
    fn tell_findings(&mut self) {
        for report in std::mem::take(&mut self.reports) {
            self.reports.extend(report.tell(&mut self.env, &self.controller));
        }
    }

    /// Admits instances that have caught up and say what was chosen, everywhere they take part (the
    /// rule of quiet, in `session/admission.rs`, is for those that do not). So many keys are compared in
    /// one tick; a difference that comes where it has been looked is one as among those that vote.
    fn admit_concurring(&mut self) {
        let mut left = COMPARED_AT_ONCE;
        for i in 0..self.env.instances.len() {
            let waits = |s: &Session| s.waits_for_admission(i);
            if !self.sessions.iter().any(waits) {
                continue;
            }
            let Core { sessions, env, .. } = self;
            let mut standing = sessions.iter_mut().filter(|s| s.stands(i));
            if standing.all(|s| s.concurs(i, &mut left, env)) {
                for s in self.sessions.iter_mut().filter(|s| s.waits_for_admission(i)) {
                    s.admit(i, &mut self.env);
                }
            }
        }
    }

    fn on_conn(&mut self, conn: ConnId, f: impl FnOnce(&mut Session, &mut Env)) {
        let Some(&index) = self.conns.get(&conn) else { return };
        self.busy.push(index);
        if let Some(s) = self.sessions.get_mut(index) {
            f(s, &mut self.env);
        }
    }

    fn on_leg(&mut self, leg: LegId, f: impl FnOnce(&mut Session, &mut Env)) {
        let Some(&index) = self.legs.get(&leg) else { return };
        self.busy.push(index);
        if let Some(s) = self.sessions.get_mut(index) {
            f(s, &mut self.env);
        }
    }

    /// virtd ends: every peer and every instance is told.
    fn stop(&mut self) {
        for report in self.reports.drain(..) {
            report.tell_now(&mut self.env, &self.controller);
        }
        for s in &mut self.sessions {
            s.stop(&mut self.env);
        }
    }
}
