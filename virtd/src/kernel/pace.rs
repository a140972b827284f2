//! The thread's priority: a single change goes ahead of what else its UPDATE has set going, a table does not.

use crate::driver::{nice, set_nice};
use std::time::{Duration, Instant};

/// So much less than its own is the thread's nice value while there is little to write. It is woken in the midst of a turn of the loop, whose answers then wake
/// instances; where processors are few the route would wait for all of them.
const HURRY: i32 = 10;
/// So many routes are little ...
const FEW: usize = 64;
/// ... within this time. Of a table (or of all that is in the kernel, when it looks through that) the thread waits for more, and so writes more with each send: always in a hurry, it made a table
/// of 200,000 routes take a tenth longer.
const SPAN: Duration = Duration::from_millis(10);

/// What there was to do lately, and the priority that follows from it.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    work: usize,
    hurried: bool,
    /// The nice value that virtd was started with, once it is known.
    own: Option<i32>,
    /// virtd may not set priorities (CAP_SYS_NICE), and goes without.
    refused: bool,
}

impl Pace {
    /// Of a thread that has done nothing yet.
    pub fn new(now: Instant) -> Pace {
        Pace { since: now, work: 0, hurried: false, own: None, refused: false }
    }

    /// To be called by the thread itself in each turn: so many routes wait to be written, or to be compared with the kernel's.
    pub fn before(&mut self, work: usize, now: Instant) {
        if let Some(hurry) = self.judge(work, now).filter(|_| !self.refused) {
            let own = *self.own.get_or_insert_with(nice);
            self.refused = set_nice(if hurry { own - HURRY } else { own }).is_err();
        }
    }

    /// Whether there is a hurry from now on, where that is another answer than before.
    fn judge(&mut self, work: usize, now: Instant) -> Option<bool> {
        let mut hurry = self.hurried;
        if now >= self.since + SPAN {
            // What came long ago says nothing of now.
            hurry |= self.work <= FEW || now >= self.since + 2 * SPAN;
            (self.since, self.work) = (now, 0);
        }
        self.work = self.work.saturating_add(work);
        hurry &= self.work <= FEW;
        (std::mem::replace(&mut self.hurried, hurry) != hurry).then_some(hurry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_changes_are_hurried_and_tables_are_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        assert_eq!(pace.judge(1, at(5)), None, "how many there are is not known yet");
        assert_eq!(pace.judge(1, at(12)), Some(true));
        assert_eq!(pace.judge(FEW - 1, at(13)), None);
        assert_eq!(pace.judge(1, at(14)), Some(false), "one more than few within the time");
        for ms in 15..100 {
            assert_eq!(pace.judge(FEW / 4, at(ms)), None, "a table goes on");
        }
        assert_eq!(pace.judge(1, at(105)), None, "it was a table just now");
        assert_eq!(pace.judge(1, at(116)), Some(true), "few came in the time before");
        assert_eq!(pace.judge(FEW + 1, at(130)), Some(false));
        assert_eq!(pace.judge(1, at(150)), Some(true), "that was long ago");
        assert_eq!(pace.judge(usize::MAX, at(151)), Some(false), "all of the kernel's routes are read");
        assert_eq!(pace.judge(1, at(152)), None);
    }
}
