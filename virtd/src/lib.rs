//! The broker: a pure core ([`core`]) and a thin mio driver.

pub mod bypass;
pub mod config;
pub mod control;
pub mod core;
pub mod driver;
pub mod event;
pub mod eventlog;
pub mod files;
mod foreign;
pub mod instances;
pub mod kernel;
pub mod kinds;
pub mod recorder;
pub mod serve;
pub mod show;
pub mod state;
#[cfg(test)]
#[path = "../../tests/src/untested.rs"]
mod untested;
