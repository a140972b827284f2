//! Who has been wrong, on how much and for how long (paper section 4.2).

use crate::{Members, Millis};

/// What one instance stands accused of: on how many keys it dissents, and since when it has
/// dissented on at least one without a break. `default()` is a clean record.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultAccount {
    keys: u32,
    since: Millis,
}

impl FaultAccount {
    /// The instance dissents on one more key.
    pub fn begin(&mut self, now: Millis) {
        if self.keys == 0 {
            self.since = now;
        }
        self.keys = self.keys.saturating_add(1);
    }

    /// The instance is back with the majority, or out of the comparison, on one key.
    pub fn end(&mut self) {
        self.keys = self.keys.saturating_sub(1);
    }

    /// What stands against it counts from `now`: an operator had the rules changed meanwhile.
    pub fn restart(&mut self, now: Millis) {
        self.since = now;
    }

    /// On how many keys it dissents now.
    pub fn keys(&self) -> u32 {
        self.keys
    }

    /// Since when it has dissented on some key, without a break; `None` while it does on none.
    pub fn since(&self) -> Option<Millis> {
        (self.keys > 0).then_some(self.since)
    }

    /// Whether it dissents on at least `min_keys` keys (and on one at all), and has been dissenting
    /// for `threshold_ms` or longer. True from `since() + threshold_ms` on.
    pub fn exceeds(&self, threshold_ms: Millis, min_keys: u32, now: Millis) -> bool {
        self.keys >= min_keys.max(1) && now >= self.since.saturating_add(threshold_ms)
    }
}

/// Books the change of one key's dissenters; `accounts` are by instance index.
pub fn book(accounts: &mut [FaultAccount], before: Members, after: Members, now: Millis) {
    for (index, account) in (0u8..32).zip(accounts) {
        match (before.contains(index), after.contains(index)) {
            (false, true) => account.begin(now),
            (true, false) => account.end(),
            _ => {}
        }
    }
}

/// Whether the majority itself is in doubt, so that nobody may be accused (paper, footnote 6): more
/// than half of the electorate dissent on `min_keys` keys or more each, or `many` keys or more
/// (and one at all) have lost their quorum. An operator should look.
pub fn majority_split(
    accounts: &[FaultAccount],
    electorate: Members,
    min_keys: u32,
    keys_without_quorum: u32,
    many: u32,
) -> bool {
    let accused = (0u8..32).zip(accounts);
    let accused = accused.filter(|(_, account)| account.keys >= min_keys.max(1));
    let accused: Members = accused.map(|(index, _)| index).collect();
    accused.intersect(electorate).len() * 2 > electorate.len() || keys_without_quorum >= many.max(1)
}
