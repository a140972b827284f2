//! How long something takes, and how often: counted by powers of two, so that counting costs a few
//! instructions and no memory.

use virtd_api::Durations;

/// The last of them is of all that take longer than the one before.
const COUNTS: usize = 24;

/// See the module's comment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    counts: [u64; COUNTS],
    sum: u64,
}

impl Delays {
    /// It took so long, in whatever unit.
    pub fn note(&mut self, took: u64) {
        // 0 is the first, 1 the second, 2 and 3 the third, and so on.
        let at = (u64::BITS - took.leading_zeros()) as usize;
        self.counts[at.min(COUNTS - 1)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// In words of the control API, where the unit is of so many microseconds.
    pub fn durations(&self, unit_us: u64) -> Durations {
        Durations { first_us: unit_us, counts: self.counts.to_vec(), sum_us: self.sum.saturating_mul(unit_us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_and_where_it_belongs() {
        let mut delays = Delays::default();
        [0, 1, 2, 3, 4, 1023, 1024, u64::MAX].into_iter().for_each(|took| delays.note(took));
        let Durations { first_us, counts, sum_us } = delays.durations(1000);
        assert_eq!((first_us, counts.len(), counts.iter().sum::<u64>()), (1000, COUNTS, 8));
        assert_eq!((counts[0], counts[1], counts[2], counts[3], counts[10], counts[11]), (1, 1, 2, 1, 1, 1));
        assert_eq!((counts[COUNTS - 1], sum_us), (1, u64::MAX));
    }
}
