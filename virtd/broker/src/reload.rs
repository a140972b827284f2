//! The configuration is read again while sessions are up: what has changed is worked out
//! ([`plan`]), told, and done.
//!
//! Instances have places (their index everywhere). One that is added gets the first place that
//! nobody has, or one more; one that goes gives its place back when nothing of it is left. Tables
//! only ever get wider.

mod plan;
#[cfg(test)]
mod plan_tests;

use super::Core;
use super::io::Micros;
use super::query::Asker;
use crate::config::{Config, Instance, MAX_INSTANCES};
use crate::event::{Event, Severity};
use plan::{Plan, Present, Step};
use std::net::IpAddr;
use virtd_api::Reloaded;

impl Core {
    /// Makes the running router what `new` says, as far as that can be done with sessions up; with
    /// `dry_run` only says what it would do.
    ///
    /// # Errors
    /// It cannot be that, and nothing has changed.
    pub fn reload(&mut self, now: Micros, new: Config, dry_run: bool) -> Result<Reloaded, String> {
        self.env.now = self.env.now.max(now);
        let from = self.env.out.len();
        let plan = self.plan(&new).map_err(|text| format!("{text}; nothing has changed"))?;
        let words: Vec<String> =
            plan.settings.iter().cloned().chain(plan.steps.iter().map(|s| s.words(|i| self.env.name(i)))).collect();
        if !dry_run {
            if !words.is_empty() {
                (0..self.env.instances.len()).for_each(|i| self.env.touch(i));
            }
            self.tell_plan(&words, &plan.later);
            self.carry_out(plan.steps.clone());
            self.take_over(new);
            self.learn_ids(from);
        }
        Ok(Reloaded { done: words, later: plan.later, dry_run })
    }

    /// Somebody asks for that, or a signal does.
    pub fn note_reload(&mut self, now: Micros, by: Option<&Asker>) {
        let from = self.env.out.len();
        let text = match by {
            Some(_) => "the configuration is read again",
            None => "the configuration is read again (by SIGHUP)",
        };
        self.env.out.push(Event::new(now, "operator", Severity::Info, text).into());
        super::query::sign(by, self.env.out.get_mut(from..).unwrap_or_default());
    }

    fn plan(&self, new: &Config) -> Result<Plan, String> {
        let (settings, mut later) = plan::settings(&self.env.config, new);
        let mut wanted = new.instances.clone();
        // Whether there is a [fib] does not change here.
        wanted.iter_mut().for_each(|i| i.netlink = self.env.config.fib.is_some());
        let configured = |i: usize| self.env.config.instances.get(i);
        let present = |i: usize| {
            let successor = self.controller.successor_of(i).and_then(|s| Some((s, configured(s)?)));
            Some(Present { at: i, config: configured(i)?, leaves: self.controller.is_going(i), successor })
        };
        let there: Vec<Present<'_>> =
            self.env.taken().filter(|i| !self.controller.is_passing(*i)).filter_map(present).collect();
        if self.native.is_some() {
            let same = there.len() == wanted.len() && there.iter().zip(&wanted).all(|(p, w)| p.config == w);
            later.extend((!same).then(|| "instances (open = \"native\")".to_owned()));
            return Ok(Plan { steps: Vec::new(), settings, later });
        }
        let labels: Vec<String> = self.env.taken().filter_map(configured).map(|c| c.label().to_owned()).collect();
        let free = MAX_INSTANCES - self.env.instances.len().min(MAX_INSTANCES) + self.controller.vacant();
        let (steps, more) = plan::instances(&there, &wanted, &labels, free)?;
        later.extend(more);
        Ok(Plan { steps, settings, later })
    }

    fn tell_plan(&mut self, words: &[String], later: &[String]) {
        let mut tell = |severity, text: String| {
            self.env.out.push(Event::new(self.env.now, "reload", severity, text).into());
        };
        words.iter().for_each(|text| tell(Severity::Info, text.clone()));
        if !later.is_empty() {
            tell(Severity::Warning, format!("needs a restart of virtd, and is left as it was: {}", later.join(", ")));
        }
        if words.is_empty() && later.is_empty() {
            tell(Severity::Info, "the configuration is what it was".to_owned());
        }
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Add(instance) => self.seat(*instance, None),
                Step::Swap(i, instance) => self.seat(*instance, Some(i)),
                Step::Remove(i) => self.controller.set_leaves(i, true),
                Step::Keep(i) => self.controller.set_leaves(i, false),
                Step::Recall(i) => self.controller.leave(i, "is not wanted any more, and is ended", &mut self.env),
                Step::StartAnew(i, instance) => {
                    self.configure(i, *instance.clone());
                    self.controller.start_anew(i, &instance, &mut self.env);
                }
                Step::Adjust(i, instance) => {
                    let role = |c: &Instance| (c.observer, c.standby);
                    let changed = self.env.config.instances.get(i).is_some_and(|old| role(old) != role(&instance));
                    self.configure(i, *instance.clone());
                    if changed {
                        self.controller.assign(i, &instance, &mut self.env);
                    }
                    self.env.followups.vote_anew();
                }
            }
        }
    }

    fn configure(&mut self, i: usize, instance: Instance) {
        if let Some(place) = self.env.config.instances.get_mut(i) {
            *place = instance;
        }
    }

    /// An instance comes, in addition or to replace the one at `replaces`.
    fn seat(&mut self, instance: Instance, replaces: Option<usize>) {
        let (env, i) = (&mut self.env, self.controller.place());
        env.seat(i, instance.clone());
        if let Some(s) = env.instances.get_mut(i).filter(|_| replaces.is_some()) {
            s.name = instance.label().to_owned();
        }
        if let Some(fib) = &mut self.fib {
            fib.seat(i, &instance);
        }
        self.exercises.seat(i, Some(&instance), env.now);
        self.sessions.iter_mut().for_each(|s| s.seat(i, env));
        self.controller.seat(i, &instance, replaces, env);
    }

    /// Nobody has the place at `i` any more.
    fn vacate(&mut self, i: usize) {
        let (about, kept) = std::mem::take(&mut self.reports).into_iter().partition(|r| r.is_about(i));
        self.reports = kept;
        let about: Vec<super::poison::Report> = about;
        about.into_iter().for_each(|r| r.tell_now(&mut self.env, &self.controller));
        for s in &mut self.sessions {
            s.vacate(i, &mut self.env);
        }
        if let Some(fib) = &mut self.fib {
            fib.vacate(i, &mut self.env);
        }
        self.exercises.seat(i, None, self.env.now);
        self.diversity.forget(i as u8);
        self.gone_independence.forget(i as u8);
        self.env.vacate(i);
        self.sessions.iter_mut().for_each(|s| s.configure(&self.env));
    }

    /// Who comes and who goes; called with every tick.
    pub(super) fn pass_on(&mut self) {
        if self.controller.is_settled() {
            return;
        }
        let vacant = self.controller.pass_on(&mut self.env, &self.sessions, self.fib.as_ref());
        vacant.into_iter().for_each(|i| self.vacate(i));
        if self.controller.is_settled() {
            // With fewer or more voters another number is a majority.
            self.env.set_rules(self.configured_voters());
        }
    }

    /// Voters, as the configuration has them; those that have just come are none before they have
    /// caught up.
    fn configured_voters(&self) -> usize {
        let counts = |i: &usize| !self.controller.is_passing(*i) && !self.controller.is_new(*i);
        let all = self.env.taken().filter(counts).filter_map(|i| self.env.config.instances.get(i));
        all.filter(|c| c.is_voter()).count()
    }

    /// The settings that can change at once do.
    fn take_over(&mut self, new: Config) {
        let allowed = |c: &Config, peer: IpAddr| c.accept_any || c.peers.iter().any(|p| p.address == peer);
        let config = &mut self.env.config;
        let was: Vec<bool> = self.sessions.iter().map(|s| allowed(config, s.peer.ip())).collect();
        (config.vote, config.faults, config.timers) = (new.vote, new.faults, new.timers);
        (config.peers, config.accept_any, config.native_ports) = (new.peers, new.accept_any, new.native_ports);
        config.allow_own_as = new.allow_own_as;
        self.env.poison.set_limit(new.faults.poison_restarts);
        let voters = self.configured_voters();
        self.env.set_rules(voters);
        self.told_strangers.clear();
        for (s, was) in self.sessions.iter_mut().zip(was) {
            s.configure(&self.env);
            match (was, allowed(&self.env.config, s.peer.ip())) {
                // RFC 4486: Peer De-configured.
                (true, false) => s.operator_end(3, true, &mut self.env),
                (false, true) => s.operator_start(),
                _ => {}
            }
        }
    }
}
