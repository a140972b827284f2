//! The twin and the keeper, as the master knows them.

use super::*;

/// A twin that dies is replaced no sooner than this after it was made.
pub(super) const TWIN_PAUSE: Duration = Duration::from_secs(1);

impl Master {
    /// The worker is about to make a twin, which says its process id on this line.
    pub(super) fn twin_comes(&mut self, line: Option<OwnedFd>) {
        let Some(line) = line.filter(process::is_line) else {
            return log::error!("the worker has no line for its twin");
        };
        let (life, happens) = (self.life, self.happens.clone());
        self.twin = Twin::Coming;
        let hear = move || {
            let pid = process::hello(&line);
            let _ = happens.send(Happening::Twin { life, pid, line });
        };
        if let Err(e) = std::thread::Builder::new().name("twin".into()).spawn(hear) {
            log::error!("no thread to hear of the twin: {e}");
            self.twin = Twin::None;
        }
    }

    /// It is there, or it is known that there is none.
    pub(super) fn twin_came(&mut self, life: u32, pid: Option<Pid>, line: OwnedFd) {
        let wanted = life == self.life && self.stage != Stage::Over;
        match pid.filter(|pid| self.watch(*pid).is_ok()) {
            Some(pid) if wanted => self.twin = Twin::Here { pid, line },
            // Without its line it ends.
            Some(_) => {}
            None if wanted => {
                self.twin = Twin::None;
                self.twin_at = Some(Instant::now() + TWIN_PAUSE);
            }
            None => {}
        }
    }

    /// Whether one that has what the dead worker had open may still come.
    pub(super) fn somebody_comes(&self) -> bool {
        match (&self.twin, &self.keeper) {
            (Twin::Coming, _) | (Twin::None, Twin::Coming) => true,
            (Twin::None | Twin::Here { .. }, _) => false,
        }
    }

    /// The one that goes leaves a keeper, which says its process id on this line.
    pub(super) fn keeper_comes(&mut self, line: OwnedFd) {
        let (life, happens) = (self.life, self.happens.clone());
        let hear = move || {
            let pid = process::hello(&line);
            let _ = happens.send(Happening::Keeper { life, pid, line });
        };
        self.keeper = Twin::Coming;
        if let Err(e) = std::thread::Builder::new().name("keeper".into()).spawn(hear) {
            log::error!("no thread to hear of the keeper: {e}");
            self.keeper = Twin::None;
        }
    }

    /// It is there, or it is known that there is none. One that nobody wants any more ends without
    /// its line.
    pub(super) fn keeper_came(&mut self, life: u32, pid: Option<Pid>, line: OwnedFd) {
        if life != self.life || !matches!(self.keeper, Twin::Coming) {
            return;
        }
        self.keeper = match pid.filter(|pid| self.watch(*pid).is_ok()) {
            Some(pid) => Twin::Here { pid, line },
            None => Twin::None,
        };
    }

    /// They have all that the worker has open, which would stay open.
    pub(super) fn end_twin(&mut self) {
        self.keeper = Twin::None;
        if let Twin::Here { pid, .. } = std::mem::replace(&mut self.twin, Twin::None) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
