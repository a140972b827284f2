//! Faults of debug builds, for tests of what follows from a fault of virtd's own. The program reads
//! them from its environment.

use std::sync::OnceLock;
use wire::bgp::Prefix;
use wire::bgp::update::{Attributes, Update, attr};

/// What ends the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// An UPDATE of a peer's that announces this prefix.
    pub on_prefix: Option<Prefix>,
    /// An UPDATE of an instance's with this community (RFC 1997).
    pub on_community: Option<u32>,
    /// A vote on this prefix.
    pub on_vote: Option<Prefix>,
}

/// Those that a test wants.
pub static WANTED: OnceLock<Faults> = OnceLock::new();

impl Faults {
    /// As the environment has them: `HV_TEST_PANICS_ON` is a prefix, `HV_TEST_LEG_PANICS_ON` a
    /// community (`65000:666`), `HV_TEST_VOTE_PANICS_ON` a prefix.
    pub fn of_environment() -> Faults {
        let prefix = |name| std::env::var(name).ok()?.parse().ok();
        let community = |text: String| {
            let (high, low) = text.split_once(':')?;
            Some(u32::from(high.parse::<u16>().ok()?) << 16 | u32::from(low.parse::<u16>().ok()?))
        };
        Faults {
            on_prefix: prefix("HV_TEST_PANICS_ON"),
            on_community: std::env::var("HV_TEST_LEG_PANICS_ON").ok().and_then(community),
            on_vote: prefix("HV_TEST_VOTE_PANICS_ON"),
        }
    }
}

/// At an UPDATE of a peer's.
pub(crate) fn at_a_peers(body: &[u8]) {
    let Some(fatal) = WANTED.get().and_then(|wanted| wanted.on_prefix) else { return };
    let announces = Update::parse(body).is_ok_and(|mut update| update.nlri.any(|prefix| prefix == fatal));
    assert!(!announces, "a test wants virtd to fail at {fatal}");
}

/// At an UPDATE of an instance's.
pub(crate) fn at_an_instances(body: &[u8]) {
    let Some(fatal) = WANTED.get().and_then(|wanted| wanted.on_community) else { return };
    let is_it = |value: &[u8]| value.as_chunks::<4>().0.iter().any(|c| u32::from_be_bytes(*c) == fatal);
    let has = |update: Update<'_>| {
        Attributes::new(update.attributes).any(|a| a.is_ok_and(|a| a.code == attr::COMMUNITIES && is_it(a.value)))
    };
    assert!(!Update::parse(body).is_ok_and(has), "a test wants virtd to fail at a community");
}

/// At a vote.
pub(crate) fn at_a_vote(prefix: &Prefix) {
    let fatal = WANTED.get().and_then(|wanted| wanted.on_vote);
    assert!(fatal != Some(*prefix), "a test wants virtd to fail at a vote on {prefix}");
}
