//! The processes of one instance that virtd itself has started, where there are several: one
//! process group, one fate.

use super::{Preload, Reporter, Waiter, spawn};
use crate::kinds::Program;
use broker::event::Severity;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use virtd_config::Instance;

/// How long a process may take until the socket is there that the next one needs. A busy machine is
/// no reason to give up.
const STEP_PATIENCE: Duration = Duration::from_secs(60);

/// The started processes of one instance.
#[derive(Debug)]
pub(super) struct Group {
    /// The first; the group has its number.
    pub(super) leader: Pid,
    /// There will be more than the leader.
    several: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    members: Vec<(Pid, String)>,
    /// One has ended: nobody may join any more, or it would be left behind.
    over: bool,
}

impl Group {
    /// A group of one so far.
    pub(super) fn new(leader: Pid, program: &str, several: bool) -> Group {
        let state = Mutex::new(State { members: vec![(leader, program.to_owned())], over: false });
        Group { leader, several, state }
    }

    fn all(&self) -> Id<'_> {
        if self.several { Id::PGid(self.leader) } else { Id::Pid(self.leader) }
    }

    /// Waits until any of them ends. From then on nobody joins. The ended one stays a zombie.
    pub(super) fn first_end(&self) -> nix::Result<WaitStatus> {
        let ended = loop {
            match waitid(self.all(), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        ended
    }

    /// Reaps them all, the leader last: until then its number is nobody else's. All must have been
    /// killed.
    pub(super) fn reap(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (pid, _) in state.members.iter().rev() {
            while waitid(Id::Pid(*pid), WaitPidFlag::WEXITED) == Err(Errno::EINTR) {}
        }
    }

    /// How messages name one of them.
    pub(super) fn title(&self, instance: &str, pid: Option<Pid>) -> String {
        let pid = pid.unwrap_or(self.leader);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.members.iter().find(|(p, _)| self.several && *p == pid) {
            Some((_, program)) => format!("{instance}: {program} (process {pid})"),
            None => format!("{instance} (process {pid})"),
        }
    }
}

/// A process that is yet to be started.
#[derive(Debug)]
pub(super) struct Step {
    program: Program,
    since: Instant,
}

impl Step {
    /// To be started when what it needs is there.
    pub(super) fn new(program: Program) -> Step {
        Step { program, since: Instant::now() }
    }
}

impl Waiter {
    /// Starts the next process, if its time has come.
    pub(super) fn step(&mut self, instance: &Instance, preload: &Preload, reporter: &Reporter) -> Result<(), String> {
        let Some(step) = self.steps.front() else { return Ok(()) };
        if let Some(socket) = step.program.after.as_deref().filter(|s| !s.exists()) {
            if step.since.elapsed() < STEP_PATIENCE {
                return Ok(());
            }
            let s = STEP_PATIENCE.as_secs();
            return Err(format!("{} is not there after {s} s, and {} needs it", socket.display(), step.program.name()));
        }
        let Some(Step { program, .. }) = self.steps.pop_front() else { return Ok(()) };
        // Under the lock: either the end of another process finds this one in the group, or it does
        // not start.
        let mut state = self.members.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.over {
            self.steps.clear();
            return Ok(());
        }
        let place = super::Place::Member(self.group);
        let (pid, _) = spawn(instance, &program, preload, place).map_err(|e| format!("{}: {e}", program.name()))?;
        state.members.push((pid, program.name().to_owned()));
        drop(state);
        let text = format!("{} was started as process {pid}: {}", instance.label(), program.command.join(" "));
        reporter.report("instance-started", Severity::Info, instance.label(), text);
        Ok(())
    }
}
