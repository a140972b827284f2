//! virtctl's questions and their answers.

use super::Core;
use super::controller::Duty;
use super::io::{Micros, Output};
use super::session::LegState;
use crate::config::Fib;
use crate::config::places;
use crate::event::{Event, Severity};
use crate::state::State;
use replay::intern::BlobId;
use serde::Serialize;
use virtd_api as api;
use virtd_api::{Done, Request};
use wire::bgp::Prefix;
use wire::bgp::canonical::{self, CanonicalContext, Canonicaliser, Carried};
use wire::bgp::update::Update;

/// What the core answers; serialised it is the line that the client gets.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// `status`.
    Status(Box<api::Status>),
    /// `sessions`.
    Sessions(api::Sessions),
    /// `sessions` of a router with `open = "native"`.
    NativeSessions(api::NativeSessions),
    /// `session`.
    Session(Box<api::OneSession>),
    /// `instances`.
    Instances(api::Instances),
    /// `routes`.
    Routes(api::Routes),
    /// `differs`.
    Differs(api::Differs),
    /// `fib`.
    Fib(Box<api::Fib>),
    /// `fib` with a prefix, or what differs.
    FibEntries(api::FibEntries),
    /// `fib` with `flush`: it may be done, by who asks, since it takes longer than the loop may.
    Flush {
        /// The protocol number of the routes that are to go.
        flush: u8,
    },
    /// `diversity`.
    Diversity(api::Diversity),
    /// An action.
    Done(Done),
    /// An action of which the next virtd is to know.
    Decided {
        /// What was done.
        #[serde(flatten)]
        done: Done,
        /// To be written down by who asks; the client is not told.
        #[serde(skip)]
        kept: Box<State>,
    },
    /// `reload`.
    Reloaded(api::Reloaded),
}

/// An answer, or why there is none.
pub type Reply = Result<Answer, String>;

/// Who asks, as the kernel says (SO_PEERCRED).
#[derive(Clone, Debug)]
pub struct Asker {
    /// His number; `None` where the kernel does not say.
    pub uid: Option<u32>,
    /// His name.
    pub user: String,
}

impl Core {
    /// Answers a request. What an operator does is signed by whoever asks, where somebody does.
    pub fn query(&mut self, now: Micros, request: &Request, by: Option<&Asker>) -> Reply {
        self.env.now = self.env.now.max(now);
        let from = self.env.out.len();
        Ok(match request {
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::Sessions => self.session_list(),
            Request::Instances { exec } => {
                if let Some(exec) = exec {
                    self.note_exec(exec);
                    sign(by, self.env.out.get_mut(from..).unwrap_or_default());
                }
                Answer::Instances(api::Instances { instances: self.instance_list() })
            }
            Request::Diversity { sessions } => Answer::Diversity(self.diversity_answer(*sessions)),
            Request::Differs { instance, n } => Answer::Differs(self.differs_answer(instance.as_deref(), *n)?),
            Request::Routes { prefix } => Answer::Routes(self.routes_answer(prefix)?),
            Request::Fib { flush: true, protocol, .. } => self.fib_flush(*protocol)?,
            Request::Fib { prefix, diff, .. } => self.fib_answer(prefix.as_deref(), *diff)?,
            Request::Session { peer, action: None } => self.session_answer(peer)?,
            Request::Instance { .. } | Request::Session { .. } | Request::Change { .. } => {
                let done = self.controller.command(request, &mut self.env, &mut self.sessions);
                sign(by, self.env.out.get_mut(from..).unwrap_or_default());
                self.learn_ids(from);
                let done = Done { done: done?, ..Done::default() };
                match request {
                    Request::Change { .. } => Answer::Done(done),
                    _ => self.decided(done, matches!(request, Request::Session { .. })),
                }
            }
            Request::Reload { .. } | Request::Upgrade { .. } | Request::Events { .. } | Request::Ribs { .. } => {
                return Err("that is not for the core".to_owned());
            }
        })
    }

    fn decided(&self, done: Done, about_a_session: bool) -> Answer {
        let shut = about_a_session.then(|| self.env.shut.iter().cloned().collect());
        Answer::Decided { done: Done { shut, ..done }, kept: Box::new(self.kept()) }
    }

    /// What an operator has decided and the next virtd is to know.
    fn kept(&self) -> State {
        let mut kept = State::new(self.env.shut.clone());
        self.controller.keep(&self.env, &mut kept);
        kept
    }

    /// What an operator has decided before virtd was started. Gives the instances that he has
    /// disabled, by place: they are not to be started.
    pub fn restore(&mut self, kept: &State) -> Vec<usize> {
        self.shut_down(kept.shut.iter().cloned());
        self.controller.restore(kept, &mut self.env)
    }

    /// Whether an operator may have the routes removed that an earlier virtd left.
    fn fib_flush(&mut self, protocol: Option<u64>) -> Reply {
        if self.fib.is_some() {
            return Err("the FIB is voted on: what no vote confirms is removed by itself (sweep_s)".to_owned());
        }
        let number = protocol.unwrap_or(Fib::default().protocol.into());
        let Some(flush) = u8::try_from(number).ok().filter(|n| *n >= Fib::PROTOCOLS_FROM) else {
            return Err(format!("protocol {number}: virtd's is one of {} to 255", Fib::PROTOCOLS_FROM));
        };
        if let Some(name) = crate::config::rt_protocol(flush) {
            return Err(format!("protocol {flush} is {name}'s, not virtd's"));
        }
        let text = format!("an operator has the routes of protocol {flush} removed that an earlier virtd has left");
        self.env.out.push(Event::new(self.env.now, "operator", Severity::Info, text).into());
        Ok(Answer::Flush { flush })
    }

    /// virtctl is about to run the control program of an instance.
    fn note_exec(&mut self, exec: &api::Exec) {
        let name = &exec.name;
        let text = match exec.words.is_empty() {
            true => format!("the control program of {name} is started"),
            false => format!("{name} is told {:?}", exec.words.join(" ")),
        };
        self.env.out.push(Event::new(self.env.now, "operator", Severity::Info, text).with_instance(name).into());
    }

    /// The whole, the entries of one prefix, or those on which not everybody agrees.
    fn fib_answer(&self, prefix: Option<&str>, diff: bool) -> Reply {
        let Some(fib) = &self.fib else {
            return Err("no FIB is voted on: add a [fib] section to the configuration".to_owned());
        };
        if diff {
            return Ok(Answer::FibEntries(fib.entries(&self.env, |_| true, true)));
        }
        Ok(match prefix {
            None => Answer::Fib(Box::new(fib.status(&self.env))),
            Some("all") => Answer::FibEntries(fib.entries(&self.env, |_| true, false)),
            Some(text) => {
                let prefix: Prefix = text.parse()?;
                Answer::FibEntries(fib.entries(&self.env, |key| key.prefix == prefix, false))
            }
        })
    }

    fn status(&self) -> api::Status {
        let env = &self.env;
        let c = &env.counters;
        let profile = self.sessions.iter().find_map(|s| s.profile());
        let native = self.native.as_ref();
        let up = self.sessions.iter().filter(|s| s.up.is_some()).count();
        let k = match env.rules.strategy {
            voter::Strategy::WaitForConsensus { k } | voter::Strategy::FirstK { k } => Some(k),
            _ => None,
        };
        api::Status {
            uptime_us: env.now,
            open: if native.is_some() { "native" } else { "voted" }.to_owned(),
            router: api::Router {
                asn: profile.map(|p| p.asn).or(env.config.asn),
                router_id: profile.map(|p| p.router_id).or(env.config.router_id),
            },
            strategy: env.config.vote.strategy.name().to_owned(),
            k,
            t_ms: env.rules.steady_ms,
            voters: env.instances.voters.len(),
            instances: env.taken().count(),
            instances_attached: Some(env.instances.iter().filter(|i| i.attached).count()),
            strangers_failed: env.failures.total,
            sessions: self.taken_sessions().count().max(native.map_or(0, |n| n.peers().count())),
            sessions_up: native.map_or(up, |n| n.peers().count()),
            votes: c.votes,
            candidates: c.candidates,
            updates_in: c.updates_in,
            updates_out: self.sessions.iter().filter_map(|s| s.up.as_ref()).map(|u| u.updates_out).sum::<u64>(),
            routes_published: self.sessions.iter().filter_map(|s| s.up.as_ref()).map(|u| u.prefixes_out).sum::<u64>(),
            prefixes_told: c.published,
            disagreements_now: env.instances.iter().map(|i| u64::from(i.account.keys())).sum::<u64>(),
            without_quorum: env.without_quorum.into(),
            majority_split: self.controller.is_split(),
            change_us: self.controller.change_since().map(|since| env.now - since),
            disagreements_total: c.dissents,
            malformed_updates: c.mended,
            interned_routes: env.routes.len(),
            memory: api::Memory {
                received_bytes: env.heard.memory_bytes().0,
                tables_bytes: env.common.memory_bytes()
                    + self.sessions.iter().map(|s| s.memory_bytes().0).sum::<usize>(),
                attributes_bytes: env.routes.memory_bytes() + env.heard.memory_bytes().1,
                waiting_bytes: self.sessions.iter().map(|s| s.memory_bytes().1).sum::<usize>() + self.readers_bytes(),
                figures_bytes: self.sessions.iter().map(|s| s.independence.memory_bytes()).sum::<usize>(),
                verdicts_bytes: env.rechecks.memory_bytes(),
            },
            vote_wait: c.waited_ms.durations(1000),
            turns: None,
            longest_turn: None,
            event_log: None,
            worker: None,
            native_bgp: None,
            events_dropped: None,
        }
    }

    fn session_list(&self) -> Answer {
        if let Some(native) = &self.native {
            let session = |p| api::NativeSession { peer: self.env.peer_name(p), state: "native".to_owned() };
            return Answer::NativeSessions(api::NativeSessions { sessions: native.peers().map(session).collect() });
        }
        let sessions = self.taken_sessions().filter_map(|(index, _)| self.session(index)).collect();
        Answer::Sessions(api::Sessions { sessions })
    }

    /// One session: who has it, who has left it, since when and with which words.
    fn session_answer(&self, peer: &str) -> Reply {
        if self.native.is_some() {
            return Err("with open = \"native\" a session is the instance's own: ask that".to_owned());
        }
        let index = self.session_named(peer)?;
        let session = self.session(index).unwrap_or_default();
        Ok(Answer::Session(Box::new(api::OneSession { session })))
    }

    fn session(&self, index: usize) -> Option<api::Session> {
        let s = self.sessions.get(index)?;
        let now = self.env.now;
        let up = s.up.as_ref();
        let local = s.exts.first().and_then(|e| e.local).map(|l| l.ip());
        let ended = s.ended.as_ref().map(|e| api::Ended {
            us: now - e.at,
            said: e.said.to_string(),
            left: e.left.clone(),
            returned: e.returned,
        });
        Some(api::Session {
            peer: self.env.peer_name(&s.peer),
            shut: s.is_shut(),
            local,
            state: s.state_name().to_owned(),
            path: Some(self.env.links.cut(s.peer, local).unwrap_or_else(|| "up".to_owned())),
            path_changed_us: self.env.links.changed(s.peer, local).map(|at| now.saturating_sub(at)),
            up_us: up.map(|u| now - u.since),
            asn: up.map(|u| u.negotiated.peer_as),
            router_id: up.map(|u| u.negotiated.peer_router_id),
            hold_time_s: up.map(|u| u.negotiated.hold_time_s),
            families: up.map(|u| u.negotiated.shared.families.iter().map(|f| f.to_string()).collect()),
            prefixes_in: Some(self.env.heard.stores().len(index)),
            prefixes_out: up.map(|u| u.prefixes_out),
            updates_in: up.map(|u| u.updates_in),
            updates_out: up.map(|u| u.updates_out),
            resets: s.resets,
            ended,
            legs: self.env.taken().map(|i| self.leg(s, i)).collect(),
        })
    }

    /// An instance's leg, or how the one ended that it had.
    fn leg(&self, s: &super::session::Session, i: usize) -> api::Leg {
        let (state, detail) = s.leg_words(i, &self.env);
        let gone = |d: &super::session::Departure| api::Gone {
            what: d.name().to_owned(),
            how: d.how(),
            us: self.env.now - d.at,
        };
        api::Leg {
            instance: self.env.name(i).to_owned(),
            state: state.to_owned(),
            detail: detail.to_owned(),
            votes: self.env.instances.voters.contains(i as u8),
            gone: s.departure(i).map(gone),
            missed_us: s.missed_us(i),
            waiting_bytes: s.waiting_for(i),
        }
    }

    fn instance_list(&self) -> Vec<api::Instance> {
        let env = &self.env;
        env.instances
            .iter()
            .enumerate()
            .filter(|(i, _)| !env.is_vacant(*i))
            .map(|(i, instance)| {
                let legs = self.sessions.iter().filter_map(|s| s.seats[i].leg.as_ref());
                let up = legs.clone().filter(|l| l.state == LegState::Established).count();
                let level = env.heard.is_level(i);
                let duty = self.controller.duty(i);
                let (pinned, usage, restarts) = self.controller.detail(i);
                let state = match (instance.attached, duty, up, level) {
                    (false, ..) => "absent",
                    (_, Duty::Observer, ..) => "observer",
                    (_, Duty::Standby(_), ..) => "standby",
                    (_, Duty::Leaving | Duty::Vacant, ..) => "leaving",
                    (_, Duty::Successor, ..) => "catching-up",
                    (_, Duty::Drained | Duty::Disabled, ..) => "drained",
                    (_, _, 0, _) => "attached",
                    (_, _, _, true) => "voting",
                    (_, _, _, false) => "catching-up",
                };
                api::Instance {
                    name: instance.name.clone(),
                    role: duty.name().to_owned(),
                    pinned,
                    kind: env.config.instances.get(i).and_then(|c| c.kind).map(|k| k.name().to_owned()),
                    version: self.controller.version(i).map(str::to_owned),
                    cpu_percent: usage.map(|(permille, _)| f64::from(permille) / 10.0),
                    memory_kib: usage.map(|(_, kib)| kib),
                    restarts,
                    withheld: env.poison.withheld(i),
                    attached: instance.attached,
                    pids: instance.pids.clone(),
                    state: state.to_owned(),
                    suspect: self.controller.suspect(i).into_iter().map(str::to_owned).collect(),
                    legs_up: up,
                    legs: self.sessions.iter().filter(|s| s.up.is_some()).count(),
                    dissents_now: instance.account.keys().into(),
                    dissents_total: instance.dissents_total,
                    last_fault: instance.last_fault.clone(),
                    last_death: instance.last_death.map(|(_, death)| death.name().to_owned()),
                    control: self.control_words(i),
                    root: env.config.instances.get(i).and_then(|c| c.root.clone()),
                    folder: env
                        .config
                        .instances
                        .get(i)
                        .and_then(|c| c.kind.map(|_| places::folder(&env.config, c.label()))),
                }
            })
            .collect()
    }

    /// The program that talks to an instance, for virtctl; null for one that virtd does not know
    /// the kind of.
    fn control_words(&self, i: usize) -> Option<Vec<String>> {
        let config = &self.env.config;
        let instance = config.instances.get(i)?;
        Some(places::control(instance.kind?, &places::folder(config, instance.label())))
    }

    /// A prefix is meant exactly; of an address it is the longest prefix that has it, of those
    /// about which anybody says anything.
    fn routes_answer(&self, asked: &str) -> Result<api::Routes, String> {
        let prefix: Prefix = asked.parse()?;
        if asked.contains('/') {
            return Ok(self.routes(&prefix));
        }
        let shorter = (0..=prefix.len()).rev().filter_map(|len| Prefix::new(prefix.addr(), len));
        let longest = shorter.into_iter().find(|p| self.is_known(p));
        let routes = longest.map_or_else(api::Routes::default, |longest| self.routes(&longest));
        Ok(api::Routes { asked: Some(asked.to_owned()), ..routes })
    }

    /// Whether a peer has sent this very prefix, an instance says something about it, or a peer has
    /// been told something.
    fn is_known(&self, prefix: &Prefix) -> bool {
        let says = |s: &super::session::Session| {
            let Some((e, said)) = s.look(prefix, &self.env) else { return false };
            let told = e.winner != BlobId::NONE || e.published != BlobId::NONE;
            told || said.iter().any(|id| *id != BlobId::NONE)
        };
        self.env.heard.stores().announcers(prefix).next().is_some() || self.sessions.iter().any(says)
    }

    fn routes(&self, prefix: &Prefix) -> api::Routes {
        let received = |(index, s): (usize, &super::session::Session)| {
            let route = Some(self.stored(index, prefix)?);
            Some(api::Received { peer: self.env.peer_name(&s.peer), route })
        };
        api::Routes {
            prefix: Some(prefix.to_string()),
            asked: None,
            received: self.sessions.iter().enumerate().filter_map(received).collect(),
            sessions: self.sessions.iter().filter_map(|s| s.routes(prefix, &self.env)).collect(),
        }
    }

    /// What a peer sent, described through the UPDATE that a replay would send.
    fn stored(&self, session: usize, prefix: &Prefix) -> Option<api::Route> {
        self.env.heard.stores().find(session, prefix)?;
        let up = self.sessions[session].up.as_ref()?;
        let mut packed = bytes::BytesMut::new();
        let context = up.negotiated.context();
        self.env.heard.replay(session, &mut [*prefix], &context, false, &mut packed);
        let update = Update::parse(packed.get(wire::bgp::frame::HEADER_LEN..)?).ok()?;
        let carried = if update.nlri.is_empty() { Carried::MpReach } else { Carried::Classic };
        let context = CanonicalContext {
            update: context,
            peer_as: 0,
            confederation: None,
            peer_router_id: std::net::Ipv4Addr::UNSPECIFIED,
            allow_own_as: true,
            ignore: Default::default(),
        };
        let mut canonicaliser = Canonicaliser::default();
        let route = canonicaliser.route(&update, carried, &context)?;
        Some(words(route, context.update.as4))
    }
}

/// A canonical route in words.
pub fn words(canonical: &[u8], as4: bool) -> api::Route {
    let route = canonical::describe(canonical, as4);
    api::Route {
        next_hop: route.next_hop,
        link_local: route.link_local,
        origin: route.origin,
        as_path: route.as_path,
        med: route.med,
        local_pref: route.local_pref,
        communities: route.communities,
        large_communities: route.large_communities,
        other: route.other,
    }
}

/// Says in the events about what an operator does who that is.
pub fn sign(by: Option<&Asker>, events: &mut [Output]) {
    let Some(Asker { uid: Some(uid), user }) = by else { return };
    let who = format!(" (by {user}, user id {uid})");
    for o in events {
        if let Output::Event(event) = o
            && event.kind == "operator"
        {
            event.uid = Some(*uid);
            event.text.push_str(&who);
        }
    }
}
