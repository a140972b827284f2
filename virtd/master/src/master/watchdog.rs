//! systemd's watchdog (sd_watchdog_enabled(3)): it is fed by what the worker's loop says, so a loop
//! that hangs is not hidden by a master that runs. The master ends such a worker itself, in time for
//! the next one to serve before the service manager loses patience and ends everything.
//!
//! ```text
//!  0      a quarter      half                 three quarters     WATCHDOG_USEC
//!  │ fed  │ fed by       │ no turn so long:   │ SIGKILL          │ the service manager
//!  │      │ each turn    │ SIGABRT            │                  │ restarts all
//! ```
//!
//! While there is no worker that serves, the master feeds it, for [`BRIDGE`] at most.

use super::*;
use virtd_linux::notify::watchdog;

/// How often the loop says that it goes on, where the watchdog is not to be fed more often.
const BEAT: Duration = Duration::from_secs(1);
/// So long the next worker may take to serve: with the largest table it is there long before.
const BRIDGE: Duration = Duration::from_secs(120);

/// See the module's comment.
pub(super) struct Watchdog {
    /// A quarter of WATCHDOG_USEC; `None` where nobody watches.
    quarter: Option<Duration>,
    /// When the loop last said that it goes on.
    heard: Instant,
    /// When it was last fed.
    fed: Instant,
    /// The life whose worker was ended because it hung.
    ended: Option<u32>,
}

impl Watchdog {
    pub(super) fn new() -> Watchdog {
        let now = Instant::now();
        Watchdog { quarter: watchdog().map(|limit| limit / 4), heard: now, fed: now, ended: None }
    }

    /// How often the loop is to say that it goes on, in milliseconds; 0 is never.
    pub(super) fn beat_ms(&self) -> u32 {
        let every = self.quarter.map_or(Duration::ZERO, |quarter| quarter.min(BEAT));
        u32::try_from(every.as_millis()).unwrap_or(u32::MAX)
    }

    /// When it is to be looked at next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.quarter.map(|quarter| self.fed + quarter)
    }

    fn feed(&mut self, now: Instant) {
        self.fed = now;
        notify("WATCHDOG=1");
    }
}

impl Master {
    /// The worker's loop goes on.
    pub(super) fn turns(&mut self) {
        let now = Instant::now();
        self.watchdog.heard = now;
        if self.watchdog.quarter.is_some() {
            self.watchdog.feed(now);
        }
    }

    /// Feeds the watchdog where nobody serves, and ends a worker whose loop hangs.
    pub(super) fn look_at_watchdog(&mut self, now: Instant) {
        let Some(quarter) = self.watchdog.quarter.filter(|quarter| now >= self.watchdog.fed + *quarter) else { return };
        if !self.was_ready || self.stage != Stage::Runs {
            self.watchdog.fed = now;
            return;
        }
        let silence = now.saturating_duration_since(self.watchdog.heard);
        let Some(worker) = self.worker.as_ref().filter(|worker| worker.ready && worker.ended.is_none()) else {
            if silence < BRIDGE {
                self.watchdog.feed(now);
            }
            return;
        };
        // It is looked at again before half of the time is over, and then soon.
        self.watchdog.fed = now.checked_sub(quarter - quarter / 4).unwrap_or(now);
        if silence < quarter * 2 || self.watchdog.ended.replace(self.life) == Some(self.life) {
            return;
        }
        let (pid, s) = (worker.pid, silence.as_secs_f64());
        log::error!(
            "the worker (process {pid}) hangs: its loop has said nothing for {s:.1} s, and it is ended (SIGABRT)"
        );
        let _ = kill(pid, Signal::SIGABRT);
        // One that is stopped (SIGSTOP) ends by nothing less.
        self.kill_at.get_or_insert(now + quarter);
    }
}
