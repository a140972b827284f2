//! virtd-monitor: shows a running virtd to strangers over HTTP, tells collectors its routing tables
//! by BMP, and of its events whoever is to know.
//!
//! It has no rights and cannot hurt virtd. It asks over one connection to the control socket
//! ([`control`]), only what changes nothing, and waits for a bounded time. All that it shows is
//! made of the last answers ([`watch`]), which are asked for again after a second, however many
//! want to see them: a hundred viewers cost virtd what one does.
//!
//! ```text
//! virtd ──control socket── control ── watch ──┬── metrics   /metrics
//!                                             ├── page      /, /live, /prefix
//!                                             └── birdwatcher  /api/birdwatcher/
//!   └────── ribs, a connection for each collector ── bmp
//!   └────── ribs of one peer, while its table is read ── birdwatcher
//!   └────── events, a connection of its own ── tell ── hooks, syslog, journald
//! ```
#![forbid(unsafe_code)]

pub mod arguments;
pub mod birdwatcher;
pub mod bmp;
pub mod control;
pub mod frames;
pub mod http;
pub mod metrics;
pub mod page;
pub mod processes;
pub mod tell;
pub mod watch;
