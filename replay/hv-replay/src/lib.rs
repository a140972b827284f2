//! A BGP neighbour from the command line: what `hv-replay` is made of.
//!
//! One thread and one poller; every session of the process shares its clock, so that what is
//! measured between two of them needs no correction.
//!
//! ```text
//!  file, generator, script      the neighbour
//!        │ Item                       ▲ │
//!        ▼                            │ ▼
//!  feed: fit for the session,   link: TCP sockets
//!  remembered, packed  ──bytes──▶ session: OPEN, timers, framing ──News──▶ learn: checked, canonical, counted
//!                                                                               │
//!                                                                     report: events, summary, table
//! ```
//! Reading order: [`session`] (pure), [`link`], [`route`], [`feed`] and its sources [`generate`],
//! [`trace`], [`script`], [`learn`], [`report`], [`neighbour`], [`run`] (one neighbour), [`record`]
//! and [`reproduce`] (one that plays what virtd recorded), [`probe`] (two, measuring; or one and
//! [`fib`], with a trace [`passage`]), [`exchange`] (very many, counting), [`diff`].
#![forbid(unsafe_code)]

pub mod command_line;
pub mod diff;
pub mod exchange;
pub mod feed;
pub mod fib;
pub mod generate;
pub mod learn;
pub mod link;
pub mod neighbour;
pub mod options;
pub mod passage;
pub mod probe;
pub mod record;
pub mod report;
pub mod reproduce;
pub mod route;
pub mod run;
pub mod script;
pub mod session;
pub mod trace;
