//! What was of use lately, and is likely to be of use again.

/// The last things that were used, `N` at most, the very last one first.
#[derive(Debug)]
pub struct Recent<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Default for Recent<T, N> {
    fn default() -> Recent<T, N> {
        Recent(Vec::new())
    }
}

impl<T, const N: usize> Recent<T, N> {
    /// The first that is such a one; it is used.
    pub fn find(&mut self, is: impl Fn(&T) -> bool) -> Option<&T> {
        let at = self.0.iter().position(is)?;
        self.0.get_mut(..=at)?.rotate_right(1);
        self.0.first()
    }

    /// The same, taken out.
    pub fn take(&mut self, is: impl Fn(&T) -> bool) -> Option<T> {
        self.0.iter().position(is).map(|at| self.0.remove(at))
    }

    /// A new one, in the place of the one that was not used for the longest time.
    pub fn push(&mut self, new: T) {
        self.0.truncate(N - 1);
        self.0.insert(0, new);
    }

    /// Forgets all but these.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.0.retain(keep);
    }

    /// All, the last one first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}
