//! What holds of every input, whoever sent it: each function reads octets as a peer, an instance, a
//! shim, a kernel or a file could have written them, and asserts what must be true of the outcome.
//!
//! The property tests of this crate call them with inputs that are near to sound ones, the fuzz
//! targets (`tests/fuzz-targets`) with mutated ones.
#![allow(clippy::panic, reason = "a law that is broken ends the test")]

pub mod bgp;
pub mod mrt;
pub mod netlink;
pub mod shim;
