//! Whether single routes change or a table: the loop writes single ones itself, and leaves a table
//! to the thread, which writes more with each send and on another processor.

use std::time::{Duration, Instant};

/// So many routes are single ones ...
const FEW: usize = 256;
/// ... within this time.
const SPAN: Duration = Duration::from_millis(10);

/// What there was to do lately.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    work: usize,
    single: bool,
}

impl Pace {
    /// Nothing has been done yet.
    pub fn new(now: Instant) -> Pace {
        Pace { since: now, work: 0, single: false }
    }

    /// So many routes are to be written, or to be compared with the kernel's; whether they still
    /// are single ones.
    pub fn is_single(&mut self, work: usize, now: Instant) -> bool {
        if now >= self.since + SPAN {
            // What came long ago says nothing of now.
            self.single |= self.work <= FEW || now >= self.since + 2 * SPAN;
            (self.since, self.work) = (now, 0);
        }
        self.work = self.work.saturating_add(work);
        self.single &= self.work <= FEW;
        self.single
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_none_of_single_routes_until_it_has_passed() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        assert!(!pace.is_single(1, at(5)), "how many there are is not known yet");
        assert!(pace.is_single(1, at(12)));
        assert!(pace.is_single(FEW - 1, at(13)));
        assert!(!pace.is_single(1, at(14)), "one more than few within the time");
        for ms in 15..100 {
            assert!(!pace.is_single(FEW / 4, at(ms)), "a table goes on");
        }
        assert!(!pace.is_single(1, at(105)), "it was a table just now");
        assert!(pace.is_single(1, at(116)), "few came in the time before");
        assert!(!pace.is_single(FEW + 1, at(130)));
        assert!(pace.is_single(1, at(150)), "that was long ago");
        assert!(!pace.is_single(usize::MAX, at(151)), "all of the kernel's routes are read");
        assert!(!pace.is_single(1, at(152)));
    }
}
