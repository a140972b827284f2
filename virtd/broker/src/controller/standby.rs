//! Who takes the place of a voter that falls, and when.
//!
//! A voter that ends or is killed is replaced at once, where somebody waits. One that does not come
//! back by itself (given up, or started by something else and gone or found faulty) stays marked as
//! fallen, so that a standby that comes later takes its place too.

use super::{Controller, Duty, Process, verdict::threshold};
use crate::config::Standby;
use crate::env::Env;
use crate::event::Severity;
use crate::io::{Micros, Order};

impl Controller {
    /// Looks after the instances that something else starts: nobody says when they end.
    pub(super) fn watch_strangers(&mut self, env: &Env) {
        let (now, threshold) = (env.now, threshold(env));
        for (i, c) in self.list.iter_mut().enumerate().filter(|(_, c)| c.process == Process::NotOurs) {
            let there = env.instances.standing.contains(i as u8) || env.instances.get(i).is_some_and(|s| s.attached);
            c.came |= there;
            if there {
                c.away = None;
                // What it was found guilty of lately holds; each further verdict renews it.
                c.fallen &= c.accused.is_some_and(|at| now < at + threshold);
            } else if c.came {
                c.fallen |= now >= *c.away.get_or_insert(now) + threshold;
            }
        }
    }

    /// Gives the votes of those that have fallen to standbys, as far as there are any.
    pub(super) fn replace_fallen(&mut self, env: &mut Env) {
        for i in 0..self.list.len() {
            if self.list.get(i).is_some_and(|c| c.fallen) {
                self.replace_running(i, env);
            }
        }
    }

    /// Moves the vote of `i`, which may go on running: then it is fed and compared, whatever the
    /// standby was before.
    pub(super) fn replace_running(&mut self, i: usize, env: &mut Env) -> Option<usize> {
        let by = self.replace(i, env)?;
        let runs = self.list.get(i).is_some_and(|c| c.process == Process::Running);
        if runs && self.duty(i) == Duty::Standby(Standby::Cold) {
            self.set_duty(i, Duty::Standby(Standby::Warm), env);
        }
        Some(by)
    }

    /// Moves the vote of `i` to a standby, if one waits. `i` goes to the end of the line.
    pub(super) fn replace(&mut self, i: usize, env: &mut Env) -> Option<usize> {
        if self.duty(i) != Duty::Voter {
            return None;
        }
        let (s, how) = self.next_standby(env)?;
        let ours = self.list.get(i).is_some_and(|c| c.process != Process::NotOurs);
        self.set_duty(s, Duty::Voter, env);
        // Nobody here can start one that is not ours: it waits whenever it is there.
        self.set_duty(i, Duty::Standby(if ours { how } else { Standby::Warm }), env);
        env.instances.master_line.push(s as u8);
        env.instances.master_line.push(i as u8);
        if self.list.get(s).is_some_and(|c| c.process == Process::Down(None)) {
            self.set_process(s, Process::Running);
            if let Some(c) = self.list.get_mut(s) {
                c.order(s, Order::Start, env);
            }
        }
        let text =
            format!("{} votes in the place of {}, which is now a {}", env.name(s), env.name(i), self.duty(i).name());
        env.tell_about("instance-promoted", Severity::Warning, s, text);
        Some(s)
    }

    /// The standby that can vote the soonest: a warm one that is level, one that is catching up, a
    /// cold one; of equals the first.
    fn next_standby(&self, env: &Env) -> Option<(usize, Standby)> {
        let rank = |(n, c): (usize, &super::Control)| {
            let attached = env.instances.get(n).is_some_and(|s| s.attached);
            let level = env.instances.standing.contains(n as u8) && env.heard.is_level(n);
            // One of ours was ended for it, and what it says now is a new process' word; one that
            // is not still runs as it was.
            let accused = c.lasting.as_ref().is_some_and(|l| l.stands(env))
                || c.process == Process::NotOurs && c.accused.is_some_and(|at: Micros| env.now < at + threshold(env));
            let rank = match (c.duty, c.process) {
                _ if accused || c.process == Process::Ending => return None,
                (Duty::Standby(Standby::Warm), _) if attached && level => 0,
                (Duty::Standby(Standby::Warm), _) if attached => 1,
                // An operator may have started it.
                (Duty::Standby(Standby::Cold), Process::Down(None) | Process::Running) => 2,
                (Duty::Standby(Standby::Cold), Process::NotOurs) if attached => 2,
                _ => return None,
            };
            let Duty::Standby(how) = c.duty else { return None };
            Some((rank, n, how))
        };
        let best = self.list.iter().enumerate().filter_map(rank).min_by_key(|(rank, n, _)| (*rank, *n))?;
        Some((best.1, best.2))
    }
}
