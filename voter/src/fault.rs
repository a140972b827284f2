//! Who has been wrong, on how much and for how long (paper section 4.2).

use crate::{Members, Millis};

/// Whether an instance has been wrong on enough, for long enough: at least `min_keys` of its
/// dissents (and one at all) have each stood for `threshold_ms` or longer without a break. `begun`
/// is when each of those that stand now began; dissents that have ended meanwhile, on whatever
/// keys, never add up to a long one.
pub fn wrong_for_long(
    begun: impl IntoIterator<Item = Millis>,
    threshold_ms: Millis,
    min_keys: u32,
    now: Millis,
) -> bool {
    let long = begun.into_iter().filter(|begun| now >= begun.saturating_add(threshold_ms));
    let enough = min_keys.max(1) as usize;
    long.take(enough).count() == enough
}

/// Whether the majority itself is in doubt, so that nobody may be accused (paper, footnote 6): more
/// than half of the electorate dissent on `min_keys` keys or more each, or `many` keys or more
/// (and one at all) have lost their quorum. An operator should look. `keys` are the numbers of
/// keys on which each instance dissents now, by index.
pub fn majority_split(
    keys: impl IntoIterator<Item = u32>,
    electorate: Members,
    min_keys: u32,
    keys_without_quorum: u32,
    many: u32,
) -> bool {
    let accused = (0u8..32).zip(keys).filter(|(_, keys)| *keys >= min_keys.max(1));
    let accused: Members = accused.map(|(index, _)| index).collect();
    accused.intersect(electorate).len() * 2 > electorate.len() || keys_without_quorum >= many.max(1)
}
