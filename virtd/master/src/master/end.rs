//! An orderly end, and one that is not.

use super::*;

impl Master {
    /// On the first signal the instances end while the worker still runs, so that what they say last
    /// (Cease) is heard; then the worker ends. A second signal ends everything where it stands.
    pub(super) fn end(&mut self, signal: i32) {
        if self.stage != Stage::Runs {
            self.end_at_once();
            std::process::exit(128 + signal);
        }
        log::info!("virtd ends (signal {signal})");
        notify("STOPPING=1");
        self.stage = Stage::Ends;
        self.start_at = None;
        self.send(ToWorker::Freeze, None);
        let (instances, happens) = (self.supervisor.as_mut().and_then(|s| s.instances.take()), self.happens.clone());
        let end = move || {
            if let Some(instances) = instances {
                instances.stop();
            }
            let _ = happens.send(Happening::InstancesEnded);
        };
        if std::thread::Builder::new().name("stop".into()).spawn(end).is_err() {
            self.end_at_once();
            std::process::exit(128 + signal);
        }
    }

    fn end_at_once(&mut self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.groups.kill();
        }
        self.end_twin();
        if let Some(worker) = self.worker.as_ref().filter(|worker| worker.ended.is_none()) {
            let _ = kill(worker.pid, Signal::SIGKILL);
        }
    }

    pub(super) fn instances_ended(&mut self) {
        self.stage = Stage::Over;
        self.end_twin();
        self.send(ToWorker::Stop, None);
        self.kill_at = Some(Instant::now() + STOP_PATIENCE);
    }

    /// The exit status, where there is nothing left to do.
    pub(super) fn is_over(&self) -> Option<ExitCode> {
        let ended = self.worker.as_ref().map(|worker| worker.ended);
        match (self.stage, ended) {
            // What is wrong it has said itself.
            (Stage::Runs, Some(Some(_))) if !self.was_ready => Some(ExitCode::FAILURE),
            (Stage::Over, None) => Some(ExitCode::FAILURE),
            (Stage::Over, Some(Some(Some(WaitStatus::Exited(_, 0))))) => Some(ExitCode::SUCCESS),
            (Stage::Over, Some(Some(_))) => Some(ExitCode::FAILURE),
            _ => None,
        }
    }
}
