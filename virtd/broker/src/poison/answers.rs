//! Waiting for an answer: what was withheld from an instance is told to it now, and what it says
//! about that prefix may still be the "none" that the withholding itself has caused. Counted, it
//! would withdraw what nobody has withdrawn. So the instance goes on abstaining there, towards each
//! peer until it has said something to that peer, and otherwise until T later: by then it can have
//! answered.

use super::Micros;
use std::collections::VecDeque;
use wire::bgp::Prefix;

/// Prefixes on which an answer is waited for; beyond that the oldest are waited for no longer. A
/// search holds back a MiB of UPDATEs at most, and few of these are about so many prefixes each.
const MAX_DUE: usize = 1 << 16;

/// A prefix that an instance is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    /// When it is judged whatever it has said.
    pub until: Micros,
    /// The instance.
    pub instance: usize,
    /// The session that the route came over.
    pub session: usize,
    /// The prefix.
    pub prefix: Prefix,
}

/// The answers that are waited for, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Answers {
    due: VecDeque<Due>,
    overdue: Vec<Due>,
}

impl Answers {
    /// Waits for one more.
    pub(super) fn wait(&mut self, due: Due) {
        if self.due.len() >= MAX_DUE {
            self.overdue.extend(self.due.pop_front());
        }
        self.due.push_back(due);
    }

    /// Those that are waited for no longer.
    pub(super) fn take(&mut self, now: Micros) -> Vec<Due> {
        let mut over = std::mem::take(&mut self.overdue);
        while self.due.front().is_some_and(|due| due.until <= now) {
            over.extend(self.due.pop_front());
        }
        over
    }

    /// Instance `i` is no more.
    pub(super) fn forget(&mut self, i: usize) {
        self.due.retain(|due| due.instance != i);
        self.overdue.retain(|due| due.instance != i);
    }

    /// The session is no more.
    pub(super) fn forget_session(&mut self, session: usize) {
        self.due.retain(|due| due.session != session);
        self.overdue.retain(|due| due.session != session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_waited_for_than_there_is_room() {
        let mut answers = Answers::default();
        let prefix: Prefix = "192.0.2.0/24".parse().expect("a prefix");
        let due = |n: usize| Due { until: 10, instance: n % 2, session: n, prefix };
        (0..MAX_DUE + 3).for_each(|n| answers.wait(due(n)));
        assert_eq!(answers.take(9), [due(0), due(1), due(2)], "the oldest go early");
        answers.forget(1);
        assert_eq!(answers.take(10).len(), MAX_DUE / 2 + MAX_DUE % 2);
        assert!(answers.take(99).is_empty());
    }
}
