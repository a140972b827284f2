//! virtd is three processes, so that the death of the part that talks to the network is
//! survivable.
//!
//! ```text
//!            configuration, signals
//!                     │
//!   systemd ─────▶ master ────── starts, reaps ──────▶ instances
//!                  │    │                                  │
//!            link  │    │ "go"                             │ legs, channels
//!                  ▼    ▼                                  ▼
//!               worker  twin  ◀── one table of fds ──▶  worker
//! ```
//!
//! - The **master** reads the configuration, starts and reaps the instances, and starts the worker
//!   again when it dies. It reads no octet from the network.
//! - The **worker** is all the rest of virtd. It asks the master over a [`link`] for what it may
//!   not do itself; [`message`] has what both can say.
//! - The **twin** shares the worker's table of fds and is a child of the master. It does nothing
//!   until the worker is dead. Then it executes the worker's successor, which has every fd under
//!   its old number. [`twin`] has the worker's part of that. That may be another program than the
//!   worker was: `master/upgrade.rs`.
//!
//! A worker that an attacker has taken over can name an instance to the master, out of the
//! configuration that the master itself has read ([`seats`]), and a program that root alone can have
//! written, to be tried as the next worker's; nothing else.

mod document;
pub mod inherited;
pub mod link;
mod master;
pub mod message;
mod pace;
mod process;
pub mod program;
pub mod seats;
mod sys;
pub mod twin;

pub use document::Checks;
pub use master::run;
