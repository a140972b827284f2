//! The life of a session, judged from the neighbours' side: what ends it on a daemon alone ends it
//! on the router where most of its instances say so, what one says alone stays inside, and nobody
//! is accused for it. docs/SESSIONS.md explains it.
//!
//! Reading order: [`outside`] (what a neighbour went through), [`stage`] and [`scene`] (a router
//! with its neighbours), [`verdict`] (what has to hold), [`limits`], [`paths`], [`updates`],
//! [`operators`] (the rows), and the list of them here.

pub mod limits;
pub mod operators;
pub mod outside;
pub mod paths;
pub mod scene;
pub mod stage;
pub mod updates;
pub mod verdict;

use crate::daemons::Daemon;
use anyhow::{Context, Result};
use stage::{Made, Stage};

/// virtd's event: an instance has left a session by its own will.
pub const LEFT: &str = "session-left";
/// virtd's event: a majority has left, and the session was ended.
pub const ENDED: &str = "session-ended";
/// virtd's event: as many have left as not.
pub const TIE: &str = "session-tie";
/// virtd's event: an instance has left against the majority.
pub const DIFFERS: &str = "session-differs";
/// virtd's event: an instance lacks a session that the majority has.
pub const ABSENT: &str = "instance-absent";
/// virtd's event: it has had an instance's control program restart one neighbour.
pub const NEIGHBOUR_RESTARTED: &str = "neighbour-restarted";

const FRR: Made = Made::One(Daemon::Frr);
const BIRD: Made = Made::One(Daemon::Bird);
const OPENBGPD: Made = Made::One(Daemon::OpenBgpd);
const FRR_ALONE: Made = Made::Alone(Daemon::Frr);
const BIRD_ALONE: Made = Made::Alone(Daemon::Bird);
const OPENBGPD_ALONE: Made = Made::Alone(Daemon::OpenBgpd);
/// Each daemon alone, each behind virtd, and the three together.
const ALL_MADE: &[Made] = &[FRR_ALONE, BIRD_ALONE, OPENBGPD_ALONE, FRR, BIRD, OPENBGPD, Made::Trio];
/// Each daemon alone, and each behind virtd.
const SINGLE: &[Made] = &[FRR_ALONE, BIRD_ALONE, OPENBGPD_ALONE, FRR, BIRD, OPENBGPD];
const TRIO: &[Made] = &[Made::Trio];

/// What a row came to.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// From the cause until the neighbours saw the end, in milliseconds; rows that end nothing have
    /// none.
    pub outside_ms: Option<u64>,
    /// What is worth a word in the table.
    pub notes: Vec<String>,
}

impl Told {
    /// An end that was seen so long after its cause.
    pub fn end(outside_ms: u64) -> Told {
        Told { outside_ms: Some(outside_ms), notes: Vec::new() }
    }

    /// A word for the table.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Told {
        self.notes.push(text.into());
        self
    }
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// The row of docs/SESSIONS.md.
    pub row: char,
    /// What is right, in a line.
    pub right: &'static str,
    /// The routers it is about.
    pub made: &'static [Made],
    /// The strategies it is about; empty: every one.
    pub strategies: &'static [&'static str],
    run: fn(Stage) -> Result<Told>,
}

impl Case {
    /// Plays it in a router of its own.
    ///
    /// # Errors
    /// What was seen is not what is right.
    pub fn run(&self, stage: Stage) -> Result<Told> {
        (self.run)(stage).with_context(|| format!("{} ({}), {}", self.name, self.row, stage.made.name()))
    }
}

const fn case(
    name: &'static str,
    row: char,
    made: &'static [Made],
    run: fn(Stage) -> Result<Told>,
    right: &'static str,
) -> Case {
    Case { name, row, right, made, strategies: &[], run }
}

/// All of them, by row.
pub const ALL: &[Case] = &[
    case("limit", 'a', ALL_MADE, limits::limit, "6/1 outside, the leak withdrawn, stays down, nobody accused"),
    case("limit-received", 'a', ALL_MADE, limits::received, "refused ones counted alike: up at the limit, then 6/1"),
    case("limit-filtered", 'a', ALL_MADE, limits::filtered, "up at the limit, and with a refused one; 6/1 at one more"),
    case("limit-back", 'a', ALL_MADE, limits::back, "6/1, back when most want it, 6/1 again"),
    case("bfd-address-gone", 'b', &[FRR_ALONE, FRR], paths::bfd_address_gone, "ends at once"),
    case("bfd-silent", 'b', &[FRR_ALONE, FRR], paths::bfd_silent, "FRR's own NOTIFICATION outside"),
    case("bfd-one-voice", 'b', TRIO, paths::bfd_one_voice, "stays inside, told, the key named"),
    case("bfd-key", 'b', TRIO, paths::bfd_key, "the owner's word alone ends it"),
    case("bfd-key-address-gone", 'b', TRIO, paths::bfd_key_address_gone, "the owner's word alone ends it"),
    case("link-down-and-withdraw", 'c', SINGLE, paths::link_down_and_withdraw, "ends; another's withdrawal goes out"),
    case("link-down", 'd', TRIO, paths::link_down, "two of three decide"),
    case("link-flap", 'e', TRIO, paths::link_flap, "nobody accused, no poison, all back at the end"),
    case("link-flap-fib", 'e', TRIO, paths::link_flap_fib, "the same with the kernel's routes voted on"),
    case("absent", 'g', TRIO, operators::absent, "told as absent, its neighbour restarted, back"),
    case("dropped-leg", 'h', TRIO, updates::dropped_leg, "each UPDATE found as poison, FRR votes, never killed"),
    case("killed", 'k', &[FRR, BIRD, OPENBGPD, Made::Trio], updates::killed, "no search for poison"),
    case("terminated", 'k', &[FRR, BIRD, OPENBGPD, Made::Trio], updates::terminated, "no search for poison"),
    case("new-as", 'n', ALL_MADE, operators::new_as, "ends at once, back with the new OPEN"),
    case("no-router", 'n', &[FRR_ALONE, FRR, Made::Trio], operators::no_router, "ends at once everywhere"),
    case("limit-in-one", 'p', TRIO, limits::in_one, "stays inside, told once"),
    case("shutdown-in-one", 'p', TRIO, operators::shutdown_in_one, "stays inside, told once"),
    case("hold-in-one", 'p', TRIO, operators::hold_in_one, "the median outside, nobody accused"),
    case("two-stopped", 'q', TRIO, operators::two_stopped, "no neighbour notices"),
    case("all-stopped", 'q', &[FRR, BIRD, OPENBGPD, Made::Trio], operators::all_stopped, "6/2 outside, then back"),
    case("tie", 'q', &[Made::Two], operators::tie, "stays up; with the link down it ends"),
    Case {
        strategies: &["master-slave"],
        ..case("master-shuts", 'q', TRIO, operators::master_shuts, "the master's 6/2 everywhere stays inside")
    },
    case("md5-changed", 'q', TRIO, operators::md5_changed, "the session comes back with the new key"),
    case("overlapping-resets", 'q', TRIO, operators::overlapping_resets, "two resets of virtd's own at once: no leave"),
    case("promoted", 'q', &[Made::TwoFrrs], operators::promoted, "what a standby has left counts for nothing later"),
    case("two-drop", 'q', TRIO, updates::two_drop, "two of three drop their legs for one UPDATE: no end, found"),
    case("two-crash", 'q', &[Made::TwoFrrs], updates::two_crash, "two of three die of one UPDATE: no end, found"),
];
