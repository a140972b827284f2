//! Fuzz targets: a function of octets for each parser that reads what others have written, and for
//! the core as a whole. A target asserts what must hold of every input; it panics where that does
//! not.
//!
//! | file | holds |
//! |---|---|
//! | `targets/*.rs` | the targets, and the inputs that each begins with |
//! | `mutate.rs` | how one input is made out of others |
//! | `run.rs` | a run: inputs by their seed, and what is told of one that breaks a law |
//!
//! Three ways to run them: `cargo test -p fuzz` (part of `make test`; a bounded number of inputs,
//! the same each time), `make fuzz` (other inputs each time, for as long as one likes), and
//! cargo-fuzz, which is led by what the code covers: `tests/fuzz` has a binary for each target.
#![forbid(unsafe_code)]

mod mutate;
mod run;
mod targets;

pub use mutate::mutated;
pub use run::{Broken, Run, run};
pub use targets::bgp::{notification, open, refresh, stream, update};
pub use targets::core::core;
pub use targets::journal::journal;
pub use targets::kernel::{netlink, vkernel};
pub use targets::text::{config, mrt, record, request, script, shim, state};

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is its function's.
    pub name: &'static str,
    /// Reads an input and asserts.
    pub check: fn(&[u8]),
    /// What mutation begins with: sound inputs, most of them written by our own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs `cargo test` tries.
    pub bounded: u64,
}

/// All of them.
pub const TARGETS: [Target; 16] = [
    Target { name: "stream", check: stream, seeds: targets::bgp::streams, bounded: 15_000 },
    Target { name: "open", check: open, seeds: targets::bgp::opens, bounded: 40_000 },
    Target { name: "notification", check: notification, seeds: targets::bgp::notifications, bounded: 20_000 },
    Target { name: "refresh", check: refresh, seeds: targets::bgp::refreshes, bounded: 20_000 },
    Target { name: "update", check: update, seeds: targets::bgp::updates, bounded: 40_000 },
    Target { name: "netlink", check: netlink, seeds: targets::kernel::datagrams, bounded: 40_000 },
    Target { name: "vkernel", check: vkernel, seeds: targets::kernel::conversations, bounded: 5_000 },
    Target { name: "shim", check: shim, seeds: targets::text::shim_messages, bounded: 40_000 },
    Target { name: "mrt", check: mrt, seeds: targets::text::mrt_files, bounded: 15_000 },
    Target { name: "config", check: config, seeds: targets::text::configurations, bounded: 10_000 },
    Target { name: "request", check: request, seeds: targets::text::requests, bounded: 40_000 },
    Target { name: "state", check: state, seeds: targets::text::states, bounded: 20_000 },
    Target { name: "script", check: script, seeds: targets::text::scripts, bounded: 20_000 },
    Target { name: "record", check: record, seeds: targets::text::records, bounded: 10_000 },
    Target { name: "journal", check: journal, seeds: targets::journal::journals, bounded: 5_000 },
    Target { name: "core", check: core, seeds: targets::core::histories, bounded: 300 },
];
