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

/// The deaths of the last minute.
#[derive(Debug, Default)]
pub struct Pace(VecDeque<Instant>);

impl Pace {
    /// One has died. How long to wait, and how many have died within a minute.
    pub fn died(&mut self, now: Instant) -> (Duration, u32) {
        self.0.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        self.0.push_back(now);
        while self.0.len() > MAX_DEATHS {
            self.0.pop_front();
        }
        let deaths = self.0.len() as u32;
        let wait = match deaths {
            0 | 1 => Duration::ZERO,
            n => (SHORTEST * 2u32.saturating_pow(n - 2)).min(LONGEST),
        };
        (wait, deaths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_others_come_ever_later() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let waits: Vec<_> = (0..9).map(|i| pace.died(start + Duration::from_secs(i)).0.as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pace.died(start + Duration::from_secs(100)), (Duration::ZERO, 1));
    }
}
