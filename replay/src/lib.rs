//! The store of last received updates and its replay to a new instance, and the peer emulator `hv-replay`.
//!
//! Reading order: [`intern`] (attribute blocks kept once), [`store`] (what one peer last said of each prefix),
//! [`level`] (telling that to someone who missed it), [`peer`] (the emulator).
#![forbid(unsafe_code)]

pub mod intern;
pub mod level;
pub mod peer;
pub mod store;
