//! The targets.

pub mod bgp;
pub mod core;
pub mod kernel;
pub mod text;
