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

    /// Those `among` whose candidate is this very form of a value.
    fn sayers(&self, among: Members, value: V) -> usize {
        among.iter().filter(|&index| self.said(index) == Some(value)).count()
    }

    /// Whether `a` is the form to publish rather than `b`, which agrees with it: it has kept more,
    /// or more of `among` say it, or it is the preferred one.
    fn is_better_form(&self, among: Members, a: V, b: V) -> bool {
        let (ours, theirs) = (self.sayers(among, a), self.sayers(among, b));
        let by_number = ours > theirs || ours == theirs && self.agreement.prefers(a, b);
        self.agreement.keeps_more(a, b) || by_number && !self.agreement.keeps_more(b, a)
    }

    /// The form that has won stays for as long as anybody says it, unless another has kept more:
    /// who repeats a value in a form of its own has not changed it.
    #[inline]
    pub(crate) fn kept(&self, best: Group<V>) -> Group<V> {
        let winner = self.ballot.winner;
        let kept = winner != best.value
            && self.sayers(best.supporters, winner) > 0
            && self.supporters(self.electorate, winner) == best.supporters
            && !self.agreement.keeps_more(best.value, winner);
        if kept { Group { value: winner, ..best } } else { best }
    }

    /// The value with the most supporters `among` these; of those that agree with each other the
    /// best form, of those that do not what the lowest index says. `None`: there is nobody.
    /// Where all say the very same, this costs two passes of `==` and nothing else.
    #[inline]
    pub(crate) fn largest_group(&self, among: Members) -> Option<Group<V>> {
        let mut best: Option<Group<V>> = None;
        for value in among.iter().filter_map(|index| self.said(index)) {
            if best.is_some_and(|best| best.value == value) {
                continue;
            }
            let supporters = self.supporters(among, value);
            let better = best.is_none_or(|best| {
                let (ours, theirs) = (supporters.len(), best.supporters.len());
                let agreed = ours == theirs && self.agreement.agrees(value, best.value);
                ours > theirs || agreed && self.is_better_form(among, value, best.value)
            });
            if better {
                let majority = supporters.len() * 2 > self.electorate.len();
                best = Some(Group { value, supporters, majority });
            }
        }
        best
    }

    /// What the winner should be, and which value stands overruled.
    #[inline]
    pub(crate) fn choose(&self, strategy: Strategy, best: &Group<V>) -> (V, Option<V>) {
        let publish = match strategy {
            Strategy::MasterSlave => return self.master_slave(best),
            Strategy::FirstK { k } => return self.first_k(usize::from(k), best),
            Strategy::ContinuousMajority => best.majority,
            Strategy::WaitForConsensus { k } => {
                let enough = usize::from(k).min(self.electorate.len());
                best.majority && (self.steady || best.supporters.len() >= enough)
            }
        };
        (if publish { best.value } else { self.ballot.winner }, None)
    }

    /// The first rival of the winner that k agree on, at once. Who has not answered yet still
    /// stands for the old value, perhaps k strong: so, as long as k are apart from it, a value that
    /// came in like this yields only once it has lost its own k, to all, or to a steady majority.
    fn first_k(&self, k: usize, best: &Group<V>) -> (V, Option<V>) {
        let Ballot { winner, overruled, .. } = *self.ballot;
        if best.supporters == self.electorate {
            return (best.value, None);
        }
        let enough = k.max(2);
        let loyal = self.supporters(self.electorate, winner);
        let rival = self.largest_group(self.electorate.minus(loyal));
        let rival = rival.filter(|rival| rival.supporters.len() >= enough);
        let corrected = best.majority && self.steady;
        let chosen = match rival {
            _ if corrected => best.value,
            Some(rival) if overruled.is_none() || loyal.len() < enough => rival.value,
            _ => winner,
        };
        let better_form = best.supporters.len() >= enough && self.same(best.value, chosen);
        let chosen = if better_form { best.value } else { chosen };
        let apart = self.electorate.minus(self.supporters(self.electorate, chosen));
        let before = if chosen == winner { overruled } else { Some(winner) };
        (chosen, before.or(corrected.then_some(winner)).filter(|_| apart.len() >= enough))
    }

    /// The master's value at once, unless a steady majority has overruled this very value: then
    /// only a majority that comes round to it, or another value of the master's, ends that. Without
    /// this memory any other instance's next change would bring the wrong route back for another T.
    /// A restless master is not followed: a majority decides at once, and without one all stays
    /// until the key is steady. Otherwise a key that is never left alone would never be put right.
    fn master_slave(&self, best: &Group<V>) -> (V, Option<V>) {
        let Ballot { master_line, winner, overruled, restless, .. } = *self.ballot;
        let heir = master_line.iter().copied().find(|&index| self.electorate.contains(index));
        let master = heir.or_else(|| self.electorate.iter().next()).unwrap_or_default();
        let masters = self.said(master).unwrap_or(winner);
        match overruled {
            _ if best.majority && best.supporters.contains(master) => (masters, None),
            _ if best.majority && (self.steady || restless) => (best.value, Some(masters)),
            _ if restless && !self.steady => (winner, overruled),
            Some(old) if self.same(old, masters) => (winner, overruled),
            _ => (masters, None),
        }
    }
}
