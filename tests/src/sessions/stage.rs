//! Which router a row is played in, and what it wants of it.

use crate::daemons::{Daemon, RouterSpec};

/// Hold time that the neighbours offer.
const HOLD_S: u16 = 90;
/// Prefixes of the first neighbour at the start, unless a row says otherwise.
const ROUTES: u32 = 5;

/// What the router is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// A daemon on its own, without virtd: for its own times.
    Alone(Daemon),
    /// virtd with one instance.
    One(Daemon),
    /// BIRD and OpenBGPD, which does not notice when a link goes.
    Two,
    /// FRR, BIRD and OpenBGPD.
    Trio,
    /// FRR, BIRD and a second FRR.
    TwoFrrs,
}

impl Made {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Made::Alone(Daemon::Frr) => "frr-alone",
            Made::Alone(Daemon::Bird) => "bird-alone",
            Made::Alone(Daemon::OpenBgpd) => "openbgpd-alone",
            Made::One(Daemon::Frr) => "one-frr",
            Made::One(Daemon::Bird) => "one-bird",
            Made::One(Daemon::OpenBgpd) => "one-openbgpd",
            Made::Two => "two",
            Made::Trio => "trio",
            Made::TwoFrrs => "two-frrs",
        }
    }

    /// Its daemons.
    pub fn daemons(self) -> Vec<Daemon> {
        match self {
            Made::Alone(daemon) | Made::One(daemon) => vec![daemon],
            Made::Two => vec![Daemon::Bird, Daemon::OpenBgpd],
            Made::Trio => Daemon::ALL.to_vec(),
            Made::TwoFrrs => vec![Daemon::Frr, Daemon::Bird, Daemon::Frr],
        }
    }

    /// Without virtd.
    pub const fn is_alone(self) -> bool {
        matches!(self, Made::Alone(_))
    }
}

/// One router of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is made of.
    pub made: Made,
    /// `strategy` of virtd.toml; without virtd of no meaning.
    pub strategy: &'static str,
}

/// What a row wants otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What instances are told besides; the first session is the first neighbour's.
    pub tune: fn(&str, &mut RouterSpec),
    /// What is done to virtd.toml.
    pub toml: fn(String) -> String,
    /// Lines for the end of an instance's own file.
    pub more: fn(&str, Daemon) -> String,
    /// `inbound` of virtd.toml.
    pub inbound: &'static str,
    /// The instances' routes to the kernel are voted on. OpenBGPD writes none.
    pub fib: bool,
    /// TCP MD5 on every session.
    pub password: Option<&'static str>,
    /// Hold time that the first neighbour offers.
    pub hold_s: u16,
    /// Prefixes of the first neighbour at the start.
    pub routes: u32,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            tune: |_, _| (),
            toml: |text| text,
            more: |_, _| String::new(),
            inbound: "rfc7606",
            fib: false,
            password: None,
            hold_s: HOLD_S,
            routes: ROUTES,
        }
    }
}
