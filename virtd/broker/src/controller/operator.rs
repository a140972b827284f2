//! What an operator does with instances, sessions and policy: `virtctl instance`, `session`,
//! `change`.

use super::{Controller, Duty, Process};
use crate::config::Standby;
use crate::env::Env;
use crate::event::{Event, Severity};
use crate::io::Order;
use crate::session::Session;
use crate::state::State;
use crate::strangers::named;
use virtd_api::Request;

const INSTANCE_ACTIONS: &str = "restart, drain, disable, enable, promote, pin or unpin";
const SESSION_ACTIONS: &str = "reset, shutdown or start";

impl Controller {
    /// Does what an operator orders, and says what that was.
    pub fn command(&mut self, request: &Request, env: &mut Env, sessions: &mut [Session]) -> Result<String, String> {
        match request {
            Request::Instance { name, action } => {
                let done = self.instance(name, action, env)?;
                let i = env.taken().find(|i| env.name(*i) == name);
                if let (Some(i), "restart") = (i, action.as_str()) {
                    sessions.iter_mut().for_each(|s| s.forgive(i));
                    crate::witness::bar(sessions, env);
                }
                Ok(done)
            }
            Request::Session { peer, action: Some(action) } => session(peer, action, env, sessions),
            Request::Change { action } => self.change(action, env),
            _ => Err("that is no order".to_owned()),
        }
    }

    /// What an operator has decided about instances, and has not taken back.
    pub fn keep(&self, env: &Env, kept: &mut State) {
        for i in env.taken() {
            let Some(c) = self.list.get(i) else { continue };
            let duty = match c.duty {
                Duty::Drained => Some(&mut kept.drained),
                Duty::Disabled => Some(&mut kept.disabled),
                _ => None,
            };
            duty.into_iter().chain(c.pinned.then_some(&mut kept.pinned)).for_each(|names| {
                names.insert(env.name(i).to_owned());
            });
        }
    }

    /// What an operator has decided before virtd was started. Gives who is not to be started.
    pub fn restore(&mut self, kept: &State, env: &mut Env) -> Vec<usize> {
        let mut rest = Vec::new();
        for i in env.taken().collect::<Vec<_>>() {
            let is_in = |names: &std::collections::BTreeSet<String>| names.contains(env.name(i));
            let (drained, disabled, pinned) = (is_in(&kept.drained), is_in(&kept.disabled), is_in(&kept.pinned));
            if disabled || drained {
                self.set_duty(i, if disabled { Duty::Disabled } else { Duty::Drained }, env);
            }
            let Some(c) = self.list.get_mut(i) else { continue };
            c.pinned = pinned;
            if disabled && c.process == Process::Running {
                c.process = Process::Down(None);
                rest.push(i);
            }
        }
        rest
    }

    fn instance(&mut self, name: &str, action: &str, env: &mut Env) -> Result<String, String> {
        let Some(i) = env.taken().find(|i| env.name(*i) == name) else {
            let known: Vec<&str> = env.taken().map(|i| env.name(i)).collect();
            return Err(format!("there is no instance {name:?}: expected {}", known.join(", ")));
        };
        let (duty, ours) = (self.duty(i), self.list.get(i).is_some_and(|c| c.process != Process::NotOurs));
        let last = duty == Duty::Voter && env.instances.voters.len() == 1;
        if duty == Duty::Leaving {
            return Err(format!("{name} is no part of the router any more and is being ended"));
        }
        if duty == Duty::Successor && !matches!(action, "restart" | "pin" | "unpin") {
            return Err(format!(
                "{name} has not caught up yet: the configuration says what it is to be, and `virtctl reload` reads that"
            ));
        }
        let text = match action {
            "restart" if !ours => return Err(format!("virtd did not start {name}: restart it where it was started")),
            "restart" if duty == Duty::Disabled => {
                return Err(format!("{name} is disabled: `virtctl instance {name} enable` starts it"));
            }
            "restart" => {
                self.restart(i, env);
                // It may be another version now: what killed the old one is tried again.
                env.poison.forgive(i, env.now + env.t_us());
                env.followups.vote_anew();
                format!("{name} is restarted")
            }
            "drain" | "disable" if last => {
                return Err(format!("{name} is the last that votes: bring another one in first"));
            }
            "drain" => {
                self.set_duty(i, Duty::Drained, env);
                format!(
                    "{name} does not vote any more; it is fed and compared. `virtctl instance enable {name}` gives its vote back"
                )
            }
            "disable" => {
                self.set_duty(i, Duty::Disabled, env);
                if ours {
                    self.end(i, Order::Stop, env);
                }
                let how = if ours { "it is being stopped" } else { "stop it where it was started" };
                format!("{name} does not vote any more; {how}. `virtctl instance enable {name}` brings it back")
            }
            "enable" => self.enable(i, env),
            "promote" => self.promote(i, env)?,
            "pin" | "unpin" => {
                if let Some(c) = self.list.get_mut(i) {
                    c.pinned = action == "pin";
                }
                match action {
                    "pin" => format!("no verdict ends {name} until it is unpinned"),
                    _ => format!("{name} is not pinned any more"),
                }
            }
            _ => return Err(format!("{action:?} is nothing to do with an instance: expected {INSTANCE_ACTIONS}")),
        };
        env.tell_about("operator", Severity::Info, i, text.clone());
        Ok(text)
    }

    pub(super) fn end(&mut self, i: usize, order: Order, env: &mut Env) {
        let Some(c) = self.list.get_mut(i) else { return };
        c.asked = Some(env.now);
        if !matches!(c.process, Process::Down(_)) {
            c.process = Process::Ending;
        } else {
            c.process = Process::Down(None);
        }
        c.order(i, order, env);
    }

    pub(super) fn restart(&mut self, i: usize, env: &mut Env) {
        let Some(c) = self.list.get_mut(i) else { return };
        // Whoever asks for it has looked: the count begins anew.
        c.restarts.clear();
        (c.accused, c.lasting) = (None, None);
        match c.process {
            Process::Down(_) => self.start(i, env),
            _ => self.end(i, Order::Stop, env),
        }
    }

    pub(super) fn start(&mut self, i: usize, env: &mut Env) {
        let Some(c) = self.list.get_mut(i) else { return };
        c.process = Process::Running;
        c.order(i, Order::Start, env);
    }

    /// What it was configured to be, and running.
    fn enable(&mut self, i: usize, env: &mut Env) -> String {
        let name = env.name(i).to_owned();
        let duty = match self.duty(i) {
            Duty::Drained | Duty::Disabled => env.config.instances.get(i).map_or(Duty::Voter, Duty::configured),
            as_it_is => return format!("{name} is {}: nothing to do", as_it_is.name()),
        };
        self.set_duty(i, duty, env);
        if duty == Duty::Voter {
            env.instances.master_line.push(i as u8);
        }
        let down = self.list.get(i).is_some_and(|c| matches!(c.process, Process::Down(_)));
        if down && duty != Duty::Standby(Standby::Cold) {
            self.restart(i, env);
        }
        format!("{name} is {} again", duty.name())
    }

    /// First in line; a standby or a drained one gets its vote with it.
    fn promote(&mut self, i: usize, env: &mut Env) -> Result<String, String> {
        let name = env.name(i).to_owned();
        if matches!(self.duty(i), Duty::Observer | Duty::Disabled) {
            return Err(format!("{name} is {}: enable it, or configure it as a voter", self.duty(i).name()));
        }
        if self.list.get(i).is_some_and(|c| matches!(c.process, Process::Down(_))) {
            self.start(i, env);
        }
        self.set_duty(i, Duty::Voter, env);
        env.instances.master_line.insert(0, i as u8);
        Ok(format!("{name} votes and is first in line"))
    }

    fn change(&mut self, action: &str, env: &mut Env) -> Result<String, String> {
        let text = match (action, self.change) {
            ("begin", Some(_)) => return Err("a change is under way already: `virtctl change commit` ends it".into()),
            ("begin", None) => {
                self.change = Some(env.now);
                "no verdict ends an instance until `virtctl change commit`".to_owned()
            }
            ("commit", None) => return Err("no change is under way".into()),
            ("commit", Some(since)) => {
                self.change = None;
                // What differed while the policy did counts from now.
                let now = env.now_ms();
                env.instances.iter_mut().for_each(|s| s.account.restart(now));
                self.forget_lasting();
                let forgotten = differing(env);
                if !forgotten.is_empty() {
                    let text = format!(
                        "the change is over, and not with the majority are still {forgotten}: was their policy changed, too?"
                    );
                    env.out.push(Event::new(env.now, "change-incomplete", Severity::Warning, text).into());
                }
                let still =
                    if forgotten.is_empty() { String::new() } else { format!("; not with the majority: {forgotten}") };
                format!("verdicts count again after {} s{still}", (env.now - since) / 1_000_000)
            }
            _ => return Err(format!("{action:?} is nothing to do with a change: expected begin or commit")),
        };
        env.out.push(Event::new(env.now, "operator", Severity::Info, text.clone()).into());
        Ok(text)
    }
}

/// Who is not with the majority now, on how many prefixes.
fn differing(env: &Env) -> String {
    let of = |i: usize| format!("{} on {} prefixes", env.name(i), env.wrong_prefixes(i));
    env.taken().filter(|i| env.wrong_prefixes(*i) > 0).map(of).collect::<Vec<_>>().join(", ")
}

fn session(peer: &str, action: &str, env: &mut Env, sessions: &mut [Session]) -> Result<String, String> {
    let index = match named(sessions, env, peer) {
        Ok(index) => index,
        // One that was shut down before virtd was started, and is not known yet.
        Err(_) if action == "start" && env.shut.remove(peer) => {
            let text = format!("the session with {peer} may come back");
            env.out.push(Event::new(env.now, "operator", Severity::Info, text.clone()).with_session(peer).into());
            return Ok(text);
        }
        Err(text) => return Err(text),
    };
    let Some(s) = sessions.get_mut(index) else { return Err(format!("no session with {peer:?} is known")) };
    let text = match action {
        "reset" => {
            s.operator_end(4, false, env);
            format!("the session with {peer} is reset")
        }
        "shutdown" => {
            s.operator_end(2, true, env);
            env.shut.insert(env.peer_name(&s.peer));
            format!("the session with {peer} is shut down; `virtctl session {peer} start` lets it come back")
        }
        "start" => {
            s.operator_start();
            env.shut.remove(&env.peer_name(&s.peer));
            format!("the session with {peer} may come back")
        }
        _ => return Err(format!("{action:?} is nothing to do with a session: expected {SESSION_ACTIONS}")),
    };
    let peer = s.peer;
    crate::witness::bar(sessions, env);
    env.tell("operator", Severity::Info, &peer, text.clone());
    Ok(text)
}
