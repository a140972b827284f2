//! The broker: a pure core ([`core`]) and a thin mio driver.

pub mod config;
pub mod core;
pub mod event;
