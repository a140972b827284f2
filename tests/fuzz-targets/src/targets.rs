//! The targets.

pub mod bgp;
pub mod core;
pub mod journal;
pub mod kernel;
pub mod text;
