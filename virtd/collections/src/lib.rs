//! Collections that several crates share; they know nothing of what they hold.
#![forbid(unsafe_code)]

mod deadlines;
mod recent;
mod slots;

pub use deadlines::Deadlines;
pub use recent::Recent;
pub use slots::Slots;

/// Makes room for so many more: where there is none, for an eighth of what is there. Doubling would
/// waste half of a full table; and the kernel moves the pages.
pub fn make_room<T>(all: &mut Vec<T>, more: usize) {
    if all.capacity() - all.len() < more {
        all.reserve_exact(more.max(all.len() / 8 + 4));
    }
}
