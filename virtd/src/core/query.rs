//! virtctl's questions and their answers, as JSON. The shapes are listed in docs/OPERATIONS.md.

use super::Core;
use super::controller::Duty;
use super::session::LegState;
use crate::config::{Fib, Kind};
use crate::event::{Event, Severity};
use crate::kinds;
use crate::state::State;
use replay::intern::BlobId;
use serde_json::{Value, json};
use voter::Agreement;
use wire::bgp::Prefix;
use wire::bgp::canonical::{self, CanonicalContext, Canonicaliser, Carried};
use wire::bgp::update::Update;

impl Core {
    /// Answers `{"command": "status" | "sessions" | "instances" | "routes" | "differs" |
    /// "diversity", ...}`; errors come as `{"error": "..."}`.
    pub fn query(&mut self, now: super::io::Micros, request: &Value, out: &mut Vec<super::io::Output>) -> Value {
        self.settle();
        self.env.now = self.env.now.max(now);
        let from = out.len();
        match request.get("command").and_then(Value::as_str) {
            Some("status") => self.status(),
            Some("sessions") => json!({ "sessions": self.session_list() }),
            Some("instances") => {
                self.note_exec(request, out);
                sign(request, out.get_mut(from..).unwrap_or_default());
                json!({ "instances": self.instance_list() })
            }
            Some("diversity") => self.diversity_answer(request),
            Some("differs") => self.differs_answer(request),
            Some("routes") => self.routes_answer(request.get("prefix").and_then(Value::as_str).unwrap_or("")),
            Some("fib") if request.get("flush").and_then(Value::as_bool) == Some(true) => self.fib_flush(request, out),
            Some("fib") => self.fib_answer(request),
            Some("session") if request.get("action").is_none_or(Value::is_null) => self.session_answer(request),
            Some("instance" | "session" | "change") => {
                let mut answer = self.controller.command(request, &mut self.env, &mut self.sessions, out);
                if request["command"] != "change" && answer["error"].is_null() {
                    // To be written down by who asks.
                    answer["kept"] = json!(self.kept());
                }
                sign(request, out.get_mut(from..).unwrap_or_default());
                self.learn_ids(from, out);
                answer
            }
            Some(other) => {
                json!({ "error": format!("unknown command {other:?}: expected status, sessions, instances, routes, differs, fib, diversity, events, instance, session or change") })
            }
            None => json!({ "error": "the request has no \"command\"" }),
        }
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

    /// Whether an operator may have the routes removed that an earlier virtd left, which the thread
    /// that asks then does: `{"flush": 245}`.
    fn fib_flush(&self, request: &Value, out: &mut Vec<super::io::Output>) -> Value {
        if self.fib.is_some() {
            return json!({ "error": "the FIB is voted on: what no vote confirms is removed by itself (sweep_s)" });
        }
        let number = request.get("protocol").and_then(Value::as_u64).unwrap_or(Fib::default().protocol.into());
        let Some(protocol) = u8::try_from(number).ok().filter(|n| *n >= Fib::PROTOCOLS_FROM) else {
            return json!({ "error": format!("protocol {number}: virtd's is one of {} to 255", Fib::PROTOCOLS_FROM) });
        };
        if let Some(name) = crate::config::rt_protocol(protocol) {
            return json!({ "error": format!("protocol {protocol} is {name}'s, not virtd's") });
        }
        let text = format!("an operator has the routes of protocol {protocol} removed that an earlier virtd has left");
        out.push(Event::new(self.env.now, "operator", Severity::Info, text).into());
        json!({ "flush": protocol })
    }

    /// virtctl is about to run the control program of an instance.
    fn note_exec(&self, request: &Value, out: &mut Vec<super::io::Output>) {
        let exec = &request["exec"];
        let (Some(name), Some(words)) = (exec["name"].as_str(), exec["words"].as_array()) else { return };
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        let text = match words.is_empty() {
            true => format!("the control program of {name} is started"),
            false => format!("{name} is told {:?}", words.join(" ")),
        };
        out.push(Event::new(self.env.now, "operator", Severity::Info, text).with_instance(name).into());
    }

    /// The whole, the entries of one prefix (`"prefix"`), or those on which not everybody agrees (`"diff": true`).
    fn fib_answer(&self, request: &Value) -> Value {
        let Some(fib) = &self.fib else {
            return json!({ "error": "no FIB is voted on: add a [fib] section to the configuration" });
        };
        if request.get("diff").and_then(Value::as_bool) == Some(true) {
            return fib.entries(&self.env, |_| true, true);
        }
        match request.get("prefix").and_then(Value::as_str) {
            None => fib.status(&self.env),
            Some("all") => fib.entries(&self.env, |_| true, false),
            Some(text) => match text.parse::<Prefix>() {
                Ok(prefix) => fib.entries(&self.env, |key| key.prefix == prefix, false),
                Err(e) => json!({ "error": e }),
            },
        }
    }

    fn status(&self) -> Value {
        let env = &self.env;
        let c = &env.counters;
        let profile = self.sessions.iter().find_map(|s| s.profile());
        let native = self.native.as_ref();
        let up = self.sessions.iter().filter(|s| s.up.is_some()).count();
        let k = match env.rules.strategy {
            voter::Strategy::WaitForConsensus { k } | voter::Strategy::FirstK { k } => Some(k),
            _ => None,
        };
        json!({
            "uptime_us": env.now,
            "open": if native.is_some() { "native" } else { "voted" },
            "router": {
                "asn": profile.map(|p| p.asn).or(env.config.asn),
                "router_id": profile.map(|p| p.router_id).or(env.config.router_id),
            },
            "strategy": env.config.vote.strategy.name(),
            "k": k,
            "t_ms": env.rules.steady_ms,
            "voters": env.voters.len(),
            "instances": env.taken().count(),
            "instances_attached": env.instances.iter().filter(|i| i.attached).count(),
            "strangers_failed": env.failures.total,
            "sessions": self.taken_sessions().count().max(native.map_or(0, |n| n.peers().count())),
            "sessions_up": native.map_or(up, |n| n.peers().count()),
            "votes": c.votes,
            "candidates": c.candidates,
            "updates_in": c.updates_in,
            "updates_out": self.sessions.iter().filter_map(|s| s.up.as_ref()).map(|u| u.updates_out).sum::<u64>(),
            "routes_published": self.sessions.iter().filter_map(|s| s.up.as_ref()).map(|u| u.prefixes_out).sum::<u64>(),
            "prefixes_told": c.published,
            "disagreements_now": env.instances.iter().map(|i| u64::from(i.account.keys())).sum::<u64>(),
            "without_quorum": env.without_quorum,
            "majority_split": self.controller.is_split(),
            "change_us": self.controller.change_since().map(|since| env.now - since),
            "disagreements_total": c.dissents,
            "malformed_updates": c.mended,
            "interned_routes": env.routes.len(),
            "memory": {
                "received_bytes": env.stores.iter().map(replay::store::Store::memory_bytes).sum::<usize>(),
                "tables_bytes": self.sessions.iter().map(|s| s.memory_bytes().0).sum::<usize>(),
                "attributes_bytes": env.routes.memory_bytes() + env.blobs.memory_bytes(),
                "waiting_bytes": self.sessions.iter().map(|s| s.memory_bytes().1).sum::<usize>(),
                "figures_bytes": self.sessions.iter().map(|s| s.independence.memory_bytes()).sum::<usize>(),
                "verdicts_bytes": env.rechecks.capacity() * size_of::<std::cmp::Reverse<(u64, u32, u32)>>(),
            },
        })
    }

    fn session_list(&self) -> Vec<Value> {
        if let Some(native) = &self.native {
            let name = |p| self.env.peer_name(p);
            return native.peers().map(|p| json!({ "peer": name(p), "state": "native" })).collect();
        }
        self.taken_sessions().map(|(index, _)| self.session(index)).collect()
    }

    /// One session: who has it, who has left it, since when and with which words.
    fn session_answer(&self, request: &Value) -> Value {
        let peer = request.get("peer").and_then(Value::as_str).unwrap_or_default();
        if self.native.is_some() {
            return json!({ "error": "with open = \"native\" a session is the instance's own: ask that" });
        }
        match self.session_named(peer) {
            Ok(index) => json!({ "session": self.session(index) }),
            Err(text) => json!({ "error": text }),
        }
    }

    fn session(&self, index: usize) -> Value {
        let Some(s) = self.sessions.get(index) else { return Value::Null };
        let now = self.env.now;
        let legs: Vec<Value> = self.env.taken().map(|i| self.leg(s, i)).collect();
        let up = s.up.as_ref();
        let local = s.exts.first().and_then(|e| e.local).map(|l| l.ip());
        let ended = s
            .ended
            .as_ref()
            .map(|e| json!({ "us": now - e.at, "said": e.said.to_string(), "left": e.left, "returned": e.returned }));
        json!({
            "peer": self.env.peer_name(&s.peer),
            "shut": s.is_shut(),
            "local": local.map(|l| l.to_string()),
            "state": s.state_name(),
            "path": self.env.links.cut(s.peer, local).unwrap_or_else(|| "up".to_owned()),
            "path_changed_us": self.env.links.changed(s.peer, local).map(|at| now.saturating_sub(at)),
            "up_us": up.map(|u| now - u.since),
            "asn": up.map(|u| u.negotiated.peer_as),
            "router_id": up.map(|u| u.negotiated.peer_router_id),
            "hold_time_s": up.map(|u| u.negotiated.hold_time_s),
            "families": up.map(|u| u.negotiated.shared.families.iter().map(|f| f.to_string()).collect::<Vec<_>>()),
            "prefixes_in": self.env.stores.get(index).map_or(0, |store| store.len()),
            "prefixes_out": up.map(|u| u.prefixes_out),
            "updates_in": up.map(|u| u.updates_in),
            "updates_out": up.map(|u| u.updates_out),
            "resets": s.resets,
            "ended": ended,
            "legs": legs,
        })
    }

    /// An instance's leg, or how the one ended that it had.
    fn leg(&self, s: &super::session::Session, i: usize) -> Value {
        let (state, detail) = s.leg_words(i);
        let gone = s.departure(i).map(|d| json!({ "what": d.name(), "how": d.how(), "us": self.env.now - d.at }));
        json!({
            "instance": self.env.name(i),
            "state": state,
            "detail": detail,
            "votes": self.env.voters.contains(i as u8),
            "gone": gone,
            "missed_us": s.missed_us(i),
        })
    }

    fn instance_list(&self) -> Vec<Value> {
        let env = &self.env;
        env.instances
            .iter()
            .enumerate()
            .filter(|(i, _)| !env.is_vacant(*i))
            .map(|(i, instance)| {
                let legs = self.sessions.iter().filter_map(|s| s.seats[i].leg.as_ref());
                let up = legs.clone().filter(|l| l.state == LegState::Established).count();
                let level = !env.unlevel.iter().any(|u| u.contains(i as u8));
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
                json!({
                    "name": instance.name,
                    "role": duty.name(),
                    "pinned": pinned,
                    "kind": env.config.instances.get(i).and_then(|c| c.kind).map(Kind::name),
                    "version": self.controller.version(i),
                    "cpu_percent": usage.map(|(permille, _)| f64::from(permille) / 10.0),
                    "memory_kib": usage.map(|(_, kib)| kib),
                    "restarts": restarts,
                    "withheld": env.poison.withheld(i),
                    "attached": instance.attached,
                    "pids": instance.pids,
                    "state": state,
                    "suspect": self.controller.suspect(i),
                    "legs_up": up,
                    "legs": self.sessions.iter().filter(|s| s.up.is_some()).count(),
                    "dissents_now": instance.account.keys(),
                    "dissents_total": instance.dissents_total,
                    "last_fault": instance.last_fault,
                    "last_death": instance.last_death.map(|(_, death)| death.name()),
                    "control": self.control_words(i),
                    "root": env.config.instances.get(i).and_then(|c| c.root.as_deref()),
                    "folder": env.config.instances.get(i).and_then(|c| c.kind.map(|_| kinds::folder(&env.config, c.label()))),
                })
            })
            .collect()
    }

    /// The program that talks to an instance, for virtctl; null for one that virtd does not know the kind of.
    fn control_words(&self, i: usize) -> Option<Vec<String>> {
        let config = &self.env.config;
        let instance = config.instances.get(i)?;
        Some(kinds::control(instance.kind?, &kinds::folder(config, instance.label())))
    }

    /// A prefix is meant exactly; of an address it is the longest prefix that has it, of those
    /// about which anybody says anything.
    fn routes_answer(&self, asked: &str) -> Value {
        let prefix = match asked.parse::<Prefix>() {
            Err(e) => return json!({ "error": e }),
            Ok(prefix) => prefix,
        };
        if asked.contains('/') {
            return self.routes(&prefix);
        }
        let shorter = (0..=prefix.len()).rev().filter_map(|len| Prefix::new(prefix.addr(), len));
        match shorter.into_iter().find(|p| self.is_known(p)) {
            Some(longest) => {
                let mut answer = self.routes(&longest);
                answer["asked"] = json!(asked);
                answer
            }
            None => json!({ "prefix": null, "asked": asked, "received": [], "sessions": [] }),
        }
    }

    /// Whether a peer has sent this very prefix, an instance says something about it, or a peer has
    /// been told something.
    fn is_known(&self, prefix: &Prefix) -> bool {
        let says = |s: &super::session::Session| {
            let Some(slot) = s.table.find(prefix) else { return false };
            let told = s.table.entry(slot).is_some_and(|e| e.winner != BlobId::NONE || e.published != BlobId::NONE);
            told || s.table.candidates(slot).iter().any(|id| *id != BlobId::NONE)
        };
        self.env.stores.iter().any(|store| store.find(prefix).is_some()) || self.sessions.iter().any(says)
    }

    fn routes(&self, prefix: &Prefix) -> Value {
        let received: Vec<Value> = self
            .sessions
            .iter()
            .enumerate()
            .filter_map(|(index, s)| {
                Some(json!({ "peer": self.env.peer_name(&s.peer), "route": self.stored(index, prefix)? }))
            })
            .collect();
        let sessions: Vec<Value> = self.sessions.iter().filter_map(|s| s.routes(prefix, &self.env)).collect();
        json!({ "prefix": prefix, "received": received, "sessions": sessions })
    }

    /// What a peer sent, described through the UPDATE that a replay would send.
    fn stored(&self, session: usize, prefix: &Prefix) -> Option<Value> {
        self.env.stores[session].find(prefix)?;
        let up = self.sessions[session].up.as_ref()?;
        let mut packed = bytes::BytesMut::new();
        let context = up.negotiated.context();
        replay::level::replay(&self.env.stores[session], &self.env.blobs, &mut [*prefix], &context, &mut packed);
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
        serde_json::to_value(canonical::describe(route, context.update.as4)).ok()
    }
}

/// Says in the events about what an operator does who that is.
pub fn sign(request: &Value, events: &mut [super::io::Output]) {
    let by = &request["by"];
    let uid = by["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok());
    let who = match (by["user"].as_str(), uid) {
        (Some(user), Some(uid)) => format!(" (by {user}, user id {uid})"),
        _ => return,
    };
    for o in events {
        if let super::io::Output::Event(event) = o
            && event.kind == "operator"
        {
            event.uid = uid;
            event.text.push_str(&who);
        }
    }
}

impl super::session::Session {
    /// RFC 4271's name for where the session stands.
    fn state_name(&self) -> &'static str {
        use super::session::ExtState::*;
        match self.exts.iter().map(|e| e.state).max_by_key(|s| *s as u8) {
            None => "Idle",
            Some(Connect) => "Connect",
            Some(Connected) => "Connected",
            Some(OpenSent) => "OpenSent",
            Some(OpenConfirm) => "OpenConfirm",
            Some(Established) => "Established",
        }
    }

    /// What an operator should know of a key without a majority: usually what was published before stays. Under master-slave the master's
    /// word went out at once, and nobody can say that it is wrong.
    pub fn what_stays(&self, slot: u32, electorate: voter::Members, env: &super::env::Env) -> String {
        let said = self.table.candidates(slot);
        let master = electorate.iter().map(usize::from).find(|i| env.is_master(*i, electorate));
        let winner = self.table.entry(slot).map(|e| e.winner);
        let agrees = |a, b| super::env::ById(&env.routes).agrees(a, b);
        match master.filter(|m| said.get(*m).zip(winner).is_some_and(|(says, winner)| agrees(*says, winner))) {
            Some(m) => format!("what {}, the master, says is published", env.name(m)),
            None => "what was published stays".to_owned(),
        }
    }

    /// What everybody says about one prefix on this session; `None` where nobody ever said anything.
    fn routes(&self, prefix: &Prefix, env: &super::env::Env) -> Option<Value> {
        let slot = self.table.find(prefix)?;
        let e = self.table.entry(slot)?;
        let text = |id: BlobId| match id {
            BlobId::NONE => Value::Null,
            id => serde_json::to_value(canonical::describe(env.routes.bytes(id), self.is_as4())).unwrap_or(Value::Null),
        };
        let candidates = self.table.candidates(slot);
        let electorate = self.electorate(prefix, env).minus(e.stale);
        let said: Vec<Value> = candidates
            .iter()
            .enumerate()
            .filter(|(i, _)| !env.is_vacant(*i))
            .map(|(i, id)| {
                let counted = electorate.contains(i as u8);
                let note = match (counted, e.dissent.contains(i as u8)) {
                    (true, true) => "not with the majority",
                    (true, false) => "",
                    (false, _) => self.abstention(i, prefix, env),
                };
                let agrees = super::env::ById(&env.routes).agrees(*id, e.winner);
                json!({ "instance": env.name(i), "route": text(*id), "counted": counted, "agrees": agrees, "note": note })
            })
            .collect();
        let count = |with: &dyn Fn(BlobId) -> bool| {
            electorate.iter().filter(|i| candidates.get(usize::from(*i)).is_some_and(|id| with(*id))).count()
        };
        let agree = count(&|id| super::env::ById(&env.routes).agrees(id, e.winner));
        // The same in meaning is what counts; which of its forms was chosen is worth a word where
        // there are several.
        let letter = match count(&|id| id == e.winner) {
            n if n == agree => String::new(),
            n => format!(", {n} of them to the letter"),
        };
        let why = match e.flags & super::table::flag::NO_QUORUM {
            0 => {
                let restless =
                    if super::env::Env::restless(e.turns) { "; the master does not leave it alone" } else { "" };
                format!(
                    "{agree} of {} agree with the winner{letter} ({}{restless})",
                    electorate.len(),
                    env.config.vote.strategy.name()
                )
            }
            _ => format!("no majority: {}", self.what_stays(slot, electorate, env)),
        };
        Some(json!({
            "peer": env.peer_name(&self.peer),
            "published": text(e.published),
            "winner": text(e.winner),
            "why": why,
            "said": said,
        }))
    }
}
