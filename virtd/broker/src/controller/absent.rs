//! Sessions that go on without an instance that does not want that: it is told, and its neighbour
//! begun anew.
//!
//! A daemon that lost a session together with the others may hold back longer than they do
//! (OpenBGPD in Idle). Nothing is wrong with what it says, so it is not ended for one session: its
//! control program begins that one anew. It is ended only where that has not helped, and it lacks
//! most of the sessions that the majority has. One without a vote is not missed by anybody: that it
//! does not take part is told once, as a warning, its neighbour is begun anew once, and it is not
//! ended.

use super::verdict::{Charge, threshold};
use super::{Controller, Duty, Process};
use crate::config::{Fault, FaultAction};
use crate::env::Env;
use crate::event::{Event, Severity};
use crate::io::{InstanceId, Output};
use crate::session::Session;

impl Controller {
    /// Tells who has been without a session for the fault threshold, and does what may bring it
    /// back.
    pub(super) fn watch_absent(&mut self, env: &mut Env, sessions: &mut [Session]) {
        let limit = threshold(env);
        for i in 0..self.list.len() {
            let votes = env.instances.voters.contains(i as u8);
            let due = |s: &Session| s.missed_us(i) >= limit && (votes || !s.is_known_to_be_missed(i));
            if !sessions.iter().any(due) || !self.is_missed(i, env) {
                continue;
            }
            let (held, lacks) = lacking(i, env, sessions);
            let most = lacks * 2 > held;
            let tried = self.list.get(i).is_some_and(|c| c.nudged);
            let asks = self.may_restart_neighbour(i, env) && !(most && tried);
            let mut told = Vec::new();
            for s in sessions.iter_mut().filter(|s| due(s)) {
                told.push((s.peer, s.missed_us(i)));
                match votes {
                    true => s.forget_missed(i),
                    false => s.note_missed(i),
                }
            }
            for (peer, missed) in &told {
                let done = match (asks, most) {
                    (true, _) => "; its control program is asked to begin it anew",
                    (false, _) if !votes => "; it has no vote, so nothing follows",
                    (false, true) => "",
                    (false, false) => "; it has most of the others, so it is left running",
                };
                let text = format!(
                    "{} has been without its session with {} for {} s in all, while the others have it{done}",
                    env.name(i),
                    env.peer_name(peer),
                    missed / 1_000_000
                );
                if let Some(s) = env.instances.get_mut(i) {
                    s.last_fault = Some(text.clone());
                }
                let severity = if votes { Severity::Alarm } else { Severity::Warning };
                let event = Event::new(env.now, "instance-absent", severity, text);
                env.out.push(event.with_session(env.peer_name(peer)).with_instance(env.name(i)).into());
                if asks {
                    env.out.push(Output::RestartNeighbour { instance: InstanceId(i as u8), peer: peer.ip() });
                }
            }
            if let Some(c) = self.list.get_mut(i) {
                c.nudged = true;
            }
            if most
                && !asks
                && votes
                && let Some((peer, missed)) = told.first()
            {
                let why = format!(
                    "has been without its session with {} for {} s, and lacks {lacks} of the {held} sessions that the others have",
                    env.peer_name(peer),
                    missed / 1_000_000
                );
                self.condemn(i, Charge::with(Fault::Absent, *peer, why), env, sessions);
            }
        }
        for (i, c) in self.list.iter_mut().enumerate().filter(|(_, c)| c.nudged) {
            c.nudged = lacking(i, env, sessions).1 > 0;
        }
    }

    /// Whether instance `i` runs and is meant to take part.
    fn is_missed(&self, i: usize, env: &Env) -> bool {
        let attached = env.instances.get(i).is_some_and(|s| s.attached);
        let runs = |c: &super::Control| {
            !matches!(c.process, Process::Ending | Process::Down(_))
                && !matches!(c.duty, Duty::Leaving | Duty::Vacant | Duty::Disabled)
        };
        attached && self.list.get(i).is_some_and(runs)
    }

    /// Whether instance `i` is of a kind whose control program virtd knows, and nobody has said
    /// that it be left alone.
    fn may_restart_neighbour(&self, i: usize, env: &Env) -> bool {
        let kind = env.config.instances.get(i).is_some_and(|c| c.kind.is_some());
        let free = self.list.get(i).is_some_and(|c| !c.pinned) && self.change.is_none();
        kind && free && env.config.faults.action.of(Fault::Absent) != FaultAction::Report
    }

    /// A voter other than `i` that is down, or that has not been told everything on a session it
    /// does not want to be without.
    pub(super) fn other_that_is_not_level(&self, i: usize, env: &Env, sessions: &[Session]) -> Option<usize> {
        let away = |v: &usize| {
            let down = |c: &super::Control| matches!(c.process, Process::Ending | Process::Down(_));
            let lives = env.instances.in_fib.contains(*v as u8) || env.instances.get(*v).is_some_and(|s| s.attached);
            let misses = |(n, s): (usize, &Session)| {
                s.up.is_some() && s.knows(*v) && !s.has_left_by_will(*v) && env.heard.unlevel(n).contains(*v as u8)
            };
            !lives || self.list.get(*v).is_none_or(down) || sessions.iter().enumerate().any(misses)
        };
        env.instances.voters.iter().map(usize::from).filter(|v| *v != i).find(away)
    }
}

/// How many sessions a majority has in which instance `i` has taken part, and how many of these it
/// lacks against its will.
fn lacking(i: usize, env: &Env, sessions: &[Session]) -> (usize, usize) {
    let held = sessions.iter().filter(|s| s.is_held(env) && s.knows(i));
    let lacks = held.clone().filter(|s| !s.stands(i) && !s.has_left_by_will(i)).count();
    (held.count(), lacks)
}
