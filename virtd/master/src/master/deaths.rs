//! The death of a worker, and whom the next one runs as.

use super::*;
use crate::pace::{Cause, Toll};
use virtd_linux::{folders, identity};

/// How often it is looked whether memory is short.
pub(super) const MEMORY_TICK: Duration = Duration::from_secs(5);

/// Whom workers run as. The folders that they write in are ready for that user then.
pub(super) fn worker_of(config: &Config) -> Result<Option<Identity>> {
    let Some(identity) = identity::of(config).map_err(anyhow::Error::msg)? else { return Ok(None) };
    let problems = folders::hand_over(config, &identity).map_err(anyhow::Error::msg)?;
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    log::info!("the worker runs as {} (user {}, group {})", identity.name, identity.uid, identity.gid);
    Ok(Some(identity))
}

impl Master {
    /// The worker is dead and all that it has said was heard: there will be another.
    pub(super) fn bury(&mut self) {
        let Some(worker) = self.worker.take_if(|worker| worker.silent && worker.ended.is_some()) else { return };
        let status = worker.ended.flatten();
        self.kill_at = None;
        if !self.was_ready || self.stage != Stage::Runs {
            // Whoever asks learns it from here.
            self.worker = Some(worker);
            return;
        }
        if self.ended_for_upgrade(&worker, status.as_ref()) {
            (self.start_at, self.twin_at) = (Some(Instant::now()), None);
            return;
        }
        self.restarts += 1;
        let ran_ms = u64::try_from(worker.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let cause = match status {
            Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => Cause::Killed { early: !worker.ready },
            _ => Cause::Fault,
        };
        let Toll { wait, deaths, faults } = self.pace.died(Instant::now(), cause);
        let (pid, how) = (worker.pid.as_raw().unsigned_abs(), self.how(status.as_ref()));
        log::error!("the worker (process {pid}) {how}; the next one is started in {:.1} s", wait.as_secs_f64());
        self.died = Some(Died { pid, how: fit(how), ran_ms, deaths, faults, by_fault: cause == Cause::Fault });
        (self.start_at, self.twin_at) = (Some(Instant::now() + wait), None);
    }

    /// How a worker has ended, in words, and whether the kernel did that for want of memory.
    fn how(&self, status: Option<&WaitStatus>) -> String {
        let killed = matches!(status, Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)));
        let short = if killed && self.memory.was_short() { ", since memory was short" } else { "" };
        process::how(status) + short
    }
}
