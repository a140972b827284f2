//! Collections that several crates share; they know nothing of what they hold.
#![forbid(unsafe_code)]

mod deadlines;

pub use deadlines::Deadlines;
