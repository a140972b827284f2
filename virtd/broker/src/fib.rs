//! The FIB path (docs/DECISIONS.md, "A virtual kernel for each instance"): what each instance
//! writes into its virtual kernel is a candidate; the winners go to the real one.
//!
//! ```text
//! instance ─netlink─▶ gate ─▶ virtual kernel ─▶ candidate ─┐
//! instance ─netlink─▶ gate ─▶ virtual kernel ─▶ candidate ─┼─▶ vote ─▶ winner ─▶ the kernel's thread
//! instance ─netlink─▶ gate ─▶ virtual kernel ─▶ candidate ─┘
//! ```
//! | file | holds |
//! |---|---|
//! | `ahead` | requests that have their answer already |
//! | `members` | whose vote counts, and from when on |
//! | `vote` | the votes |
//! | `query` | virtctl's answers |
//! | `reset` | a change of addresses shown as a reset of the link (`link_reset_ms`) |

mod ahead;
mod members;
mod query;
mod reset;
mod vote;

use super::env::Env;
use super::io::{Input, KernelNews, Micros, NetlinkId, NetlinkStyle, Note, Output};
use super::{Table, dissent};
use crate::config;
use crate::delays::Delays;
use ballots::Rechecks;
use bytes::Bytes;
use hashbrown::HashMap;
use members::Member;
use replay::intern::{BlobId, Interner};
use std::collections::BTreeMap;
use vkernel::Effects;
use vkernel::system::System;
use wire::netlink::consts::NLM_F_ACK;
use wire::netlink::fib::FibKey;
use wire::netlink::message::{ACK_LEN, AckOptions, write_ack};
use wire::netlink::{Frame, Frames};
use wire::shim::{ANSWERED_AHEAD, TAKEN_BACK};

/// How often it is asked who may vote now.
const LOOK_US: Micros = 100_000;

/// An instance can know of a new link, address or route this much earlier than it comes over the
/// kernel's thread: what it says about gateways meanwhile is believed.
const DOUBT_US: Micros = 2_000_000;

/// See the module's comment.
pub struct Fib {
    members: Vec<Member>,
    sockets: HashMap<NetlinkId, usize>,
    system: System,
    /// When an instance last heard of a new link, address or route from the real kernel.
    stirred: Option<Micros>,
    pub(super) table: Table<FibKey>,
    routes: Interner,
    /// Whose protocols wrote what each instance says about the key at a slot: `slot * members +
    /// member`.
    classes: Vec<config::FibScope>,
    /// Keys whose verdict time alone can change.
    rechecks: Rechecks,
    /// Memory of [`Fib::publish`]'s.
    told: Vec<(BlobId, u32)>,
    /// Nothing is written since a virtd before has ended: since when.
    held_since: Option<Micros>,
    /// When any instance wrote its first route.
    first_write: Option<Micros>,
    next_look: Micros,
    /// What the real kernel does not take, and why (errno).
    failed: BTreeMap<FibKey, i32>,
    /// What is counted; how things are now is added when somebody asks.
    counters: virtd_api::Fib,
    /// From the first word on a key to when it is handed on, in milliseconds.
    waited_ms: Delays,
    /// When the next event about an answer taken back may be given.
    next_taken_back: Micros,
    effects: Effects,
}

impl Fib {
    /// Nothing written yet; `None` where no FIB is voted on.
    pub fn new(config: &config::Config) -> Option<Fib> {
        config.fib?;
        let members: Vec<Member> = config.instances.iter().map(Member::new).collect();
        Some(Fib {
            table: Table::new(dissent::FIB, members.len()),
            members,
            sockets: HashMap::new(),
            system: System::default(),
            stirred: None,
            routes: Interner::new(),
            classes: Vec::new(),
            rechecks: Rechecks::default(),
            told: Vec::new(),
            held_since: None,
            first_write: None,
            next_look: 0,
            failed: BTreeMap::new(),
            counters: virtd_api::Fib::default(),
            waited_ms: Delays::default(),
            next_taken_back: 0,
            effects: Effects::default(),
        })
    }

    /// Whether nothing is written for now.
    pub fn holds(&self) -> bool {
        self.held_since.is_some()
    }

    /// The place at `i`, of those there are or the next, is this instance's from now on.
    pub fn seat(&mut self, i: usize, instance: &config::Instance) {
        let (was, member) = (self.members.len(), Member::new(instance));
        match self.members.get_mut(i) {
            Some(place) => *place = member,
            None => self.members.push(member),
        }
        let n = self.members.len();
        self.table.widen(n);
        if n > was {
            let mut classes = Vec::with_capacity(self.table.slots() as usize * n);
            for of_key in self.classes.chunks(was.max(1)) {
                classes.extend_from_slice(of_key);
                classes.resize(classes.len() + n - of_key.len(), config::FibScope::NONE);
            }
            self.classes = classes;
        }
    }

    /// The place at `i` is nobody's any more.
    pub fn vacate(&mut self, i: usize, env: &mut Env) {
        self.table.forget(i, |slot, route, marked| {
            self.routes.release(route);
            if marked {
                env.acquit(i as u8, (dissent::FIB, slot));
            }
        });
        let of_member = self.classes.iter_mut().skip(i).step_by(self.members.len().max(1));
        of_member.for_each(|class| *class = config::FibScope::NONE);
        if let Some(place) = self.members.get_mut(i) {
            let nobody = config::Instance { fib_scope: config::FibScope::NONE, ..config::Instance::default() };
            *place = Member::new(&nobody);
        }
        self.table.start_walk();
    }

    /// Whether instance `i` has netlink sockets.
    pub fn has_sockets(&self, i: usize) -> bool {
        self.members.get(i).is_some_and(|m| m.sockets > 0)
    }

    /// Whether the vote of instance `i` would count, if it had one.
    pub fn counts(&self, i: usize) -> bool {
        self.members.get(i).is_some_and(|m| m.counts)
    }

    /// Takes one input that concerns the FIB.
    pub fn handle(&mut self, input: Input<'_>, env: &mut Env) {
        match input {
            Input::NetlinkOpened { socket, instance } => {
                let i = usize::from(instance.0);
                self.sockets.insert(socket, i);
                if let Some(m) = self.members.get_mut(i) {
                    m.sockets += 1;
                }
            }
            Input::NetlinkClosed { socket } => self.closed(socket, env),
            Input::NetlinkRequest { socket, port_id, style, message, answers } => {
                if let Some(Ok(frame)) = Frames::new(message).next() {
                    self.request(socket, port_id, style, &frame, answers, env);
                }
            }
            Input::NetlinkDump { socket, port_id, request, cursor, done, answers } => {
                let member = self.sockets.get(&socket).and_then(|i| self.members.get(*i));
                match (member, Frames::new(request).next()) {
                    (Some(m), Some(Ok(frame))) => {
                        let piece = m.kernel.dump(&frame, port_id, cursor, &self.system);
                        answers.extend(piece.into_iter().map(Bytes::from));
                        if cursor.finished {
                            answers.push(m.kernel.last_word(cursor, done));
                        }
                    }
                    _ => {
                        cursor.finished = true;
                        answers.push(done.clone());
                    }
                }
            }
            Input::NetlinkStirred => self.stirred = Some(env.now),
            Input::Kernel(news) => self.kernel_news(news, env),
            _ => {}
        }
    }

    fn request(
        &mut self,
        socket: NetlinkId,
        port_id: u32,
        style: NetlinkStyle,
        frame: &Frame<'_>,
        answers: &mut Vec<Bytes>,
        env: &mut Env,
    ) {
        let Some(&i) = self.sockets.get(&socket) else { return };
        let Some(m) = self.members.get_mut(i) else { return };
        let mut effects = std::mem::take(&mut self.effects);
        self.system.doubt(self.stirred.is_some_and(|at| env.now < at + DOUBT_US));
        let done = m.kernel.request(frame, &self.system, &mut effects);
        match &done {
            Ok(()) => self.counters.requests += 1,
            Err(_) => self.counters.refused += 1,
        }
        if frame.header.port == ANSWERED_AHEAD {
            self.counters.answered_ahead += 1;
            if let Err(refusal) = done {
                self.take_back(i, frame, refusal, &mut effects, env);
                answers.push(Bytes::from_static(&TAKEN_BACK));
            }
        } else if done.is_err() || frame.header.flags & NLM_F_ACK != 0 {
            let (errno, text) = done.as_ref().err().map_or((0, None), |r| (r.errno, Some(r.text)));
            let options =
                AckOptions { capped: style.capped, text: text.filter(|_| style.extended), ..AckOptions::default() };
            // As long as where all goes well.
            let mut bytes = Vec::with_capacity(ACK_LEN);
            write_ack(&mut bytes, frame, port_id, errno, options);
            answers.push(bytes.into());
        }
        self.follow(i, &mut effects, frame.header.seq, port_id, env);
        self.effects = effects;
    }

    /// Carries what a change in a virtual kernel means to the votes and to whoever listens there.
    fn follow(&mut self, i: usize, effects: &mut Effects, seq: u32, port_id: u32, env: &mut Env) {
        let instance = super::io::InstanceId(i as u8);
        for (group, kind, body) in effects.notify.drain(..) {
            env.out.push(Output::NetlinkNotify { instance, note: Note { group, kind, seq, port_id, body } });
        }
        if effects.changed.is_empty() {
            return;
        }
        if !self.wrote(i, env) {
            return effects.changed.clear();
        }
        for key in effects.changed.drain(..) {
            self.say(i, key, env);
        }
    }

    fn kernel_news(&mut self, news: KernelNews, env: &mut Env) {
        match news {
            // It may come late, when no route is wanted any more.
            KernelNews::Written { key, errno: Some(errno) } if self.is_published(&key) => {
                self.failed.insert(key, errno);
            }
            KernelNews::Written { key, .. } => drop(self.failed.remove(&key)),
            KernelNews::Event(event) => env.out.push(event.into()),
            KernelNews::LinksRead | KernelNews::Path { .. } => {}
            KernelNews::Change(change) => {
                // What Linux takes out of its tables by itself, it takes out of everybody's.
                let mut effects = std::mem::take(&mut self.effects);
                let was = self.system.clone_link(&change);
                self.system.apply(&change);
                for i in 0..self.members.len() {
                    let Some(m) = self.members.get_mut(i) else { continue };
                    m.kernel.system_changed(&change, was.as_ref(), &self.system, &mut effects);
                    self.follow(i, &mut effects, 0, 0, env);
                }
                self.effects = effects;
                self.note_address(&change, env);
            }
        }
    }

    fn is_published(&self, key: &FibKey) -> bool {
        let entry = self.table.find(key).and_then(|slot| self.table.entry(slot));
        entry.is_some_and(|e| e.published != BlobId::NONE)
    }

    /// When a tick and a flush are wanted, whatever else happens.
    pub fn deadline(&self, now: Micros) -> Option<Micros> {
        if self.table.is_walking() || (self.table.changes() > 0 && self.held_since.is_none()) {
            return Some(now);
        }
        let recheck = self.rechecks.next().map(|at| at * 1000);
        let look = self.members.iter().any(Member::waits).then_some(self.next_look);
        let reset = self.members.iter().filter_map(|m| m.resets.as_ref()?.next()).min();
        recheck.into_iter().chain(look).chain(reset).min()
    }

    /// Octets that all of it takes.
    pub fn memory_bytes(&self) -> usize {
        let kernels: usize = self.members.iter().map(|m| m.kernel.memory_bytes()).sum();
        self.table.memory_bytes() + self.routes.memory_bytes() + self.classes.capacity() + kernels
    }
}
