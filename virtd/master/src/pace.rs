//! How soon a worker that has died is started again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deaths that follow each other within this time are of one trouble.
const WINDOW: Duration = Duration::from_secs(60);
/// The wait before the second start; it doubles with each death.
const SHORTEST: Duration = Duration::from_millis(100);
/// A router that is away for longer helps nobody.
const LONGEST: Duration = Duration::from_secs(5);
/// Deaths that are remembered: with these the wait is the longest.
const MAX_DEATHS: usize = 16;

/// What a death means for the next worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Toll {
    /// How long to wait.
    pub wait: Duration,
    /// How many have died within a minute.
    pub deaths: u32,
    /// How many of them by their own fault.
    pub faults: u32,
}

/// How a worker died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Somebody has killed it (SIGKILL), maybe the kernel for want of memory.
    Killed {
        /// Before it served.
        early: bool,
    },
    /// By its own fault.
    Fault,
}

/// The deaths of the last minute.
#[derive(Debug, Default)]
pub struct Pace(VecDeque<(Instant, Cause)>);

impl Pace {
    /// One has died. Nobody waits because somebody has killed one that served.
    pub fn died(&mut self, now: Instant, cause: Cause) -> Toll {
        self.0.retain(|(at, _)| now.saturating_duration_since(*at) < WINDOW);
        self.0.push_back((now, cause));
        while self.0.len() > MAX_DEATHS {
            self.0.pop_front();
        }
        let count = |what: &dyn Fn(Cause) -> bool| self.0.iter().filter(|(_, cause)| what(*cause)).count() as u32;
        let wait = match count(&|cause| cause != Cause::Killed { early: false }) {
            0 | 1 => Duration::ZERO,
            n => (SHORTEST * 2u32.saturating_pow(n - 2)).min(LONGEST),
        };
        Toll { wait, deaths: count(&|_| true), faults: count(&|cause| cause == Cause::Fault) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_others_come_ever_later() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let waits: Vec<_> = (0..9).map(|i| pace.died(at(i), Cause::Fault).wait.as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pace.died(at(100), Cause::Fault), Toll { wait: Duration::ZERO, deaths: 1, faults: 1 });
    }

    #[test]
    fn one_that_somebody_kills_is_there_again_at_once() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let killed = Cause::Killed { early: false };
        let tolls: Vec<_> = (0..20).map(|i| pace.died(start + Duration::from_millis(i), killed)).collect();
        assert!(tolls.iter().all(|t| t.wait.is_zero() && t.faults == 0), "{tolls:?}");
        // One that never comes to serve may want more memory than there is.
        let early = Cause::Killed { early: true };
        let tolls: Vec<_> = (0..3).map(|i| pace.died(start + Duration::from_millis(30 + i), early)).collect();
        assert!(tolls.iter().all(|t| t.faults == 0) && !tolls[2].wait.is_zero(), "{tolls:?}");
    }
}
