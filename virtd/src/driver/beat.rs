//! What tells the master that the loop goes on, for the service manager's watchdog.

use super::Micros;
use crate::worker::Master;

/// Says so in the loop's own turns, as often as the master asks for.
#[derive(Debug)]
pub struct Beat {
    /// 0 where nobody asks.
    every: Micros,
    next: Micros,
}

impl Beat {
    /// Every so many milliseconds; 0 is never.
    pub fn every(ms: u32) -> Beat {
        Beat { every: Micros::from(ms) * 1_000, next: 0 }
    }

    /// By when the loop is to have its next turn.
    pub(super) fn due(&self) -> Option<Micros> {
        (self.every > 0).then_some(self.next)
    }

    /// A turn has ended. Never waits.
    pub(super) fn turned(&mut self, now: Micros, master: &Master) {
        if self.due().is_some_and(|at| at <= now) {
            self.next = now + self.every;
            master.turns();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn it_is_told_as_often_as_was_asked_for() {
        let (master, told) = Master::new(Path::new("/virtd.toml"));
        let mut beat = Beat::every(0);
        beat.turned(5_000_000, &master);
        assert_eq!((beat.due(), told.len()), (None, 0), "nobody asks");
        let mut beat = Beat::every(250);
        for now in (0..1_000_000).step_by(1_000) {
            beat.turned(now, &master);
        }
        assert_eq!((beat.due(), told.len()), (Some(1_000_000), 4));
    }
}
