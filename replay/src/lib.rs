//! The store of last received updates and its replay to a new instance.
//!
//! Reading order: [`intern`] (attribute blocks kept once), [`store`] (what the peers last said of
//! each prefix), [`level`] (telling that to someone who missed it).
#![forbid(unsafe_code)]

pub mod intern;
pub mod level;
pub mod store;
