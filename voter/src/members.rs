//! Sets of instances.

/// A set of instances by index 0..=30, one bit each. Indexes beyond 31 bits are never members.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Members(pub u32);

impl Members {
    /// Nobody.
    pub const EMPTY: Members = Members(0);

    /// The instances 0 to `n` - 1.
    pub const fn first(n: usize) -> Members {
        if n < 32 { Members((1 << n) - 1) } else { Members(u32::MAX) }
    }

    const fn bit(index: u8) -> u32 {
        if index < 32 { 1 << index } else { 0 }
    }

    /// Adds one instance.
    pub fn insert(&mut self, index: u8) {
        self.0 |= Self::bit(index);
    }

    /// Takes one instance out.
    pub fn remove(&mut self, index: u8) {
        self.0 &= !Self::bit(index);
    }

    /// Whether the instance belongs to the set.
    pub const fn contains(self, index: u8) -> bool {
        self.0 & Self::bit(index) != 0
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in either set.
    pub const fn union(self, other: Members) -> Members {
        Members(self.0 | other.0)
    }

    /// Those in this set but not in `other`.
    pub const fn minus(self, other: Members) -> Members {
        Members(self.0 & !other.0)
    }

    /// Those in both sets.
    pub const fn intersect(self, other: Members) -> Members {
        Members(self.0 & other.0)
    }

    /// The members, lowest index first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let index = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (index < 32).then_some(index as u8)
        })
    }
}

impl FromIterator<u8> for Members {
    fn from_iter<I: IntoIterator<Item = u8>>(indexes: I) -> Members {
        Members(indexes.into_iter().fold(0, |bits, index| bits | Self::bit(index)))
    }
}
