//! Counting, and what each strategy makes of the count.

use crate::{Agreement, Ballot, Members, Strategy};

/// One key's ballot, about to be counted.
pub(crate) struct Poll<'a, V, A> {
    pub(crate) ballot: &'a Ballot<'a, V>,
    /// Those who count and have a candidate.
    pub(crate) electorate: Members,
    pub(crate) agreement: &'a A,
    pub(crate) steady: bool,
}

/// The best supported value, and who stands behind it.
#[derive(Clone, Copy)]
pub(crate) struct Group<V> {
    pub(crate) value: V,
    pub(crate) supporters: Members,
    /// They are a strict majority of the electorate.
    pub(crate) majority: bool,
}

impl<V: Copy + Eq, A: Agreement<V>> Poll<'_, V, A> {
    fn same(&self, a: V, b: V) -> bool {
        a == b || self.agreement.agrees(a, b)
    }

    fn said(&self, index: u8) -> Option<V> {
        self.ballot.candidates.get(usize::from(index)).copied()
    }

    /// Those `among` whose candidate is `value` or agrees with it.
    #[inline]
    pub(crate) fn supporters(&self, among: Members, value: V) -> Members {
        let mut with = Members::EMPTY;
        for index in among.iter() {
            if self.said(index).is_some_and(|said| self.same(said, value)) {
                with.insert(index);
            }
        }
        with
    }

    /// The value with the most supporters; of those that agree with each other the preferred form,
    /// of those that do not the one that the lowest index says. `None`: the electorate is empty.
    /// Where all say the very same, this costs two passes of `==` and nothing else.
    #[inline]
    pub(crate) fn largest_group(&self) -> Option<Group<V>> {
        let mut best: Option<Group<V>> = None;
        for value in self.electorate.iter().filter_map(|index| self.said(index)) {
            if best.is_some_and(|best| best.value == value) {
                continue;
            }
            let supporters = self.supporters(self.electorate, value);
            let better = best.is_none_or(|best| {
                let (ours, theirs) = (supporters.len(), best.supporters.len());
                let agreed = ours == theirs && self.agreement.agrees(value, best.value);
                ours > theirs || agreed && self.agreement.prefers(value, best.value)
            });
            if better {
                let majority = supporters.len() * 2 > self.electorate.len();
                best = Some(Group { value, supporters, majority });
            }
        }
        best
    }

    /// What the winner should be, and which value of the master's stands overruled.
    #[inline]
    pub(crate) fn choose(&self, strategy: Strategy, best: &Group<V>) -> (V, Option<V>) {
        let publish = match strategy {
            Strategy::MasterSlave => return self.master_slave(best),
            Strategy::ContinuousMajority => best.majority,
            Strategy::WaitForConsensus { k } => {
                let enough = usize::from(k).min(self.electorate.len());
                best.majority && (self.steady || best.supporters.len() >= enough)
            }
            Strategy::FirstK { k } => best.majority && self.steady || self.is_first(usize::from(k), best),
        };
        (if publish { best.value } else { self.ballot.winner }, None)
    }

    /// Whether k agree on the best value, and the winner has lost either its own k or the lead: the
    /// value that k agreed on first holds out against an equal.
    fn is_first(&self, k: usize, best: &Group<V>) -> bool {
        let enough = k.max(2).min(self.electorate.len());
        let winner = self.ballot.winner;
        let loyal = self.supporters(self.electorate, winner).len();
        let holds = loyal >= enough && loyal >= best.supporters.len();
        best.supporters.len() >= enough && (!holds || self.same(best.value, winner))
    }

    /// The master's value at once, unless a steady majority has overruled this very value: then only
    /// a majority that comes round to it, or another value of the master's, ends that. Without this
    /// memory any other instance's next change would bring the wrong route back for another T.
    fn master_slave(&self, best: &Group<V>) -> (V, Option<V>) {
        let Ballot { master_line, winner, overruled, .. } = *self.ballot;
        let heir = master_line.iter().copied().find(|&index| self.electorate.contains(index));
        let master = heir.or_else(|| self.electorate.iter().next()).unwrap_or_default();
        let masters = self.said(master).unwrap_or(winner);
        match overruled {
            _ if best.majority && best.supporters.contains(master) => (masters, None),
            _ if best.majority && self.steady => (best.value, Some(masters)),
            Some(old) if self.same(old, masters) => (winner, overruled),
            _ => (masters, None),
        }
    }
}
