//! Scenarios with real daemons: network namespaces, processes and their clean-up ([`lab`]),
//! equivalent configurations of FRR, BIRD and OpenBGPD ([`daemons`]), neighbours that sit outside
//! the router ([`neighbours`]), and virtd with its instances, which the scenario starts
//! ([`router`]) or virtd does ([`kinds`]).
//!
//! Everything here needs root. A scenario makes a [`lab::Lab`], a [`lab::Star`] in it, starts what
//! it needs, waits with [`lab::wait_for`] and ends with [`lab::Lab::passed`]; whatever happens
//! before that, dropping the lab kills the processes and deletes the namespaces, and keeps the
//! folder with the logs. What it cannot try here it says with [`untested::not_tested`].

pub mod alarms;
pub mod alone;
pub mod browser;
pub mod crash;
pub mod curve;
pub mod daemons;
pub mod exchange;
pub mod faults;
pub mod fib;
pub mod igp;
pub mod kinds;
pub mod lab;
pub mod memory;
pub mod neighbours;
pub mod odd;
pub mod operate;
pub mod parallel;
pub mod probe;
pub mod published;
pub mod quiet;
pub mod raw;
pub mod replayer;
pub mod router;
pub mod scene;
pub mod sessions;
pub use untested;
pub mod versions;
