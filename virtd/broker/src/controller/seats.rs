//! Instances that a reload brings, and those that it takes away.
//!
//! Whoever comes has to catch up before whoever goes may go: until then both are there, and the set
//! of those that vote changes in one step.
//!
//! ```text
//! added ─▶ started ─▶ caught up ─▶ votes          (a successor: in the place of the one it replaces, which leaves)
//! no more configured ─▶ waits for those that come ─▶ leaving: no vote, told to end ─▶ gone ─▶ cut off ─▶ vacant
//! ```

use super::{Control, Controller, Duty, Process};
use crate::config::{Instance, Standby};
use crate::env::Env;
use crate::event::Severity;
use crate::fib::Fib;
use crate::io::{InstanceId, Micros, Occupant, Order, Output};
use crate::session::Session;

impl Controller {
    /// The place at `i`, of those there are or the next, is this instance's, which `replaces`
    /// another, when it has caught up; or comes in addition. It is started where that is virtd's to
    /// do.
    pub fn seat(&mut self, i: usize, instance: &Instance, replaces: Option<usize>, env: &mut Env) {
        let mut control = Control::new(instance);
        (control.replaces, control.new) = (replaces, control.duty != Duty::Standby(Standby::Cold));
        let duty = if replaces.is_some() { Duty::Successor } else { control.duty };
        match self.list.get_mut(i) {
            Some(place) => *place = control,
            None => self.list.push(control),
        }
        self.set_duty(i, duty, env);
        if duty == Duty::Voter {
            env.instances.master_line.push(i as u8);
        }
        env.out.push(Output::Seat { instance: InstanceId(i as u8), seat: Occupant::Taken(Box::new(instance.clone())) });
        if self.list.get(i).is_some_and(|c| c.process == Process::Running) {
            self.start(i, env);
        }
    }

    /// Instance `i` is to be started by other means from now on: it ends and comes back, and the
    /// others go on meanwhile.
    pub fn start_anew(&mut self, i: usize, instance: &Instance, env: &mut Env) {
        let seat = Occupant::Taken(Box::new(instance.clone()));
        env.out.push(Output::Seat { instance: InstanceId(i as u8), seat });
        let runs = self.list.get(i).is_some_and(|c| !matches!(c.process, Process::NotOurs | Process::Down(None)));
        if runs {
            self.restart(i, env);
        }
        env.poison.forgive(i, env.now + env.t_us());
        env.followups.vote_anew();
    }

    /// What instance `i` is for has changed in the configuration; what an operator has said of it
    /// since holds.
    pub fn assign(&mut self, i: usize, instance: &Instance, env: &mut Env) {
        if matches!(self.duty(i), Duty::Drained | Duty::Disabled | Duty::Successor | Duty::Leaving) {
            return;
        }
        let duty = Duty::configured(instance);
        self.set_duty(i, duty, env);
        if duty == Duty::Voter {
            env.instances.master_line.push(i as u8);
        }
        let process = self.list.get(i).map(|c| c.process);
        match (duty, process) {
            (Duty::Standby(Standby::Cold), Some(Process::Running)) => self.end(i, Order::Stop, env),
            (Duty::Standby(Standby::Cold), _) => {}
            (_, Some(Process::Down(None))) => self.start(i, env),
            _ => {}
        }
    }

    /// The configuration has instance `i` no more, or has it again.
    pub fn set_leaves(&mut self, i: usize, leaves: bool) {
        if let Some(c) = self.list.get_mut(i) {
            c.leaves = leaves;
        }
    }

    /// Whether instance `i` waits until it may leave.
    pub fn is_going(&self, i: usize) -> bool {
        self.list.get(i).is_some_and(|c| c.leaves)
    }

    /// Whether a reload has brought instance `i`, and it has not caught up yet.
    pub fn is_new(&self, i: usize) -> bool {
        self.list.get(i).is_some_and(|c| c.new)
    }

    /// Who is to take the place of instance `i`.
    pub fn successor_of(&self, i: usize) -> Option<usize> {
        self.list.iter().position(|c| c.replaces == Some(i))
    }

    /// Whether instance `i` does not count as configured: it leaves, or is to replace another.
    pub fn is_passing(&self, i: usize) -> bool {
        self.list.get(i).is_none_or(|c| c.replaces.is_some() || matches!(c.duty, Duty::Leaving | Duty::Vacant))
    }

    /// Whether anybody comes or goes.
    pub fn is_settled(&self) -> bool {
        self.list.iter().all(|c| !c.new && !c.leaves && c.replaces.is_none() && c.duty != Duty::Leaving)
    }

    /// Ends instance `i`, which has no vote from now on.
    pub fn leave(&mut self, i: usize, why: &str, env: &mut Env) {
        self.set_duty(i, Duty::Leaving, env);
        let Some(c) = self.list.get_mut(i) else { return };
        (c.leaves, c.new, c.replaces) = (false, false, None);
        if c.process != Process::NotOurs {
            self.end(i, Order::Stop, env);
        }
        let text = format!("{} {why}", env.name(i));
        env.tell_about("instance-leaving", Severity::Info, i, text);
    }

    /// Looks who has caught up, and who may go; called with every tick. Returns places that are
    /// nobody's from now on.
    pub fn pass_on(&mut self, env: &mut Env, sessions: &[Session], fib: Option<&Fib>) -> Vec<usize> {
        for j in 0..self.list.len() {
            let Some(c) = self.list.get(j).filter(|c| c.new) else { continue };
            let replaces = c.replaces;
            let like = match replaces {
                Some(i) => vec![i],
                // Whoever votes is there already: what it takes part in, this one will.
                None => env
                    .instances
                    .voters
                    .iter()
                    .map(usize::from)
                    .filter(|i| self.list.get(*i).is_some_and(|c| !c.new))
                    .collect(),
            };
            if !has_caught_up(j, &like, env, sessions, fib) {
                continue;
            }
            if let Some(c) = self.list.get_mut(j) {
                (c.new, c.replaces) = (false, None);
            }
            if let Some(i) = replaces {
                self.succeed(j, i, env);
            }
        }
        let waits = self.list.iter().any(|c| c.new && c.replaces.is_none() && c.duty == Duty::Voter);
        for i in 0..self.list.len() {
            let Some(c) = self.list.get(i).filter(|c| c.leaves) else { continue };
            let given_up = matches!(c.duty, Duty::Disabled);
            if !waits || given_up || c.duty != Duty::Voter {
                self.leave(i, "is not configured any more: it has no vote, and is ended", env);
            }
        }
        self.clear_up(env, sessions, fib)
    }

    /// Instance `j` has caught up and takes the place, and the name, of `i`.
    fn succeed(&mut self, j: usize, i: usize, env: &mut Env) {
        let (duty, name) = (self.duty(i), env.config.instances.get(j).map_or_else(String::new, |c| c.name.clone()));
        let line = env.instances.master_line.iter().position(|m| usize::from(*m) == i);
        let text = format!("{} has caught up and takes the place of {}", env.name(j), env.name(i));
        env.tell_about("instance-replaced", Severity::Info, j, text);
        if let Some(s) = env.instances.get_mut(i) {
            s.name = format!("{name} (replaced)");
        }
        self.leave(i, "has no vote any more, and is ended", env);
        if let Some(s) = env.instances.get_mut(j) {
            s.name = name;
        }
        self.set_duty(j, duty, env);
        if let Some(at) = line {
            env.instances.master_line.insert(at.min(env.instances.master_line.len()), j as u8);
        }
        if duty == Duty::Standby(Standby::Cold) || duty == Duty::Disabled {
            self.end(j, Order::Stop, env);
        }
    }

    /// Cuts off those whose processes have ended, and gives back the places of which nothing is
    /// left.
    fn clear_up(&mut self, env: &mut Env, sessions: &[Session], fib: Option<&Fib>) -> Vec<usize> {
        let mut vacant = Vec::new();
        for (i, c) in self.list.iter_mut().enumerate().filter(|(_, c)| c.duty == Duty::Leaving) {
            if !matches!(c.process, Process::Down(_) | Process::NotOurs) {
                continue;
            }
            if !std::mem::replace(&mut c.cut, true) {
                env.out.push(Output::Seat { instance: InstanceId(i as u8), seat: Occupant::Empty });
                continue;
            }
            let listens = env.instances.listeners.values().any(|l| usize::from(l.instance.0) == i);
            let attached = env.instances.get(i).is_some_and(|s| s.attached);
            let has_leg = sessions.iter().any(|s| s.seats.get(i).is_some_and(|s| s.leg.is_some()));
            if listens || attached || has_leg || fib.is_some_and(|f| f.has_sockets(i)) {
                continue;
            }
            *c = Control { duty: Duty::Vacant, ..Control::new(&Instance::default()) };
            let text = format!("{} is gone", env.name(i));
            env.tell_about("instance-removed", Severity::Info, i, text);
            vacant.push(i);
        }
        vacant
    }

    /// The first place that nobody has; the next, where all are taken.
    pub fn place(&self) -> usize {
        self.list.iter().position(|c| c.duty == Duty::Vacant).unwrap_or(self.list.len())
    }

    /// Places that nobody has.
    pub fn vacant(&self) -> usize {
        self.list.iter().filter(|c| c.duty == Duty::Vacant).count()
    }

    /// When [`Controller::pass_on`] is wanted although no session asks for a tick.
    pub fn passing_deadline(&self, next: Micros) -> Option<Micros> {
        (!self.is_settled()).then_some(next)
    }
}

/// Whether instance `j` can do what the instances of `like` do: it is level on every session on
/// which one of them stands, and votes on the FIB where one of them does.
fn has_caught_up(j: usize, like: &[usize], env: &Env, sessions: &[Session], fib: Option<&Fib>) -> bool {
    if !env.instances.get(j).is_some_and(|s| s.attached) {
        return false;
    }
    let everywhere = sessions.iter().filter(|s| like.iter().any(|i| s.stands(*i))).all(|s| s.stands(j));
    let level = env.heard.is_level(j) && !sessions.iter().any(|s| s.levels(j));
    let in_fib = fib.is_none_or(|f| f.counts(j) || !like.iter().any(|i| f.counts(*i)));
    everywhere && level && in_fib
}
