//! How independent the instances are.

use serde::{Deserialize, Serialize};

/// How independent the instances are, since virtd's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Diversity {
    /// For how long it was counted, microseconds.
    pub since_us: u64,
    /// Instances with a vote.
    pub voters: usize,
    /// Instances that are only compared.
    pub observers: usize,
    /// The two that were wrong together most often; null while no two were found to be.
    pub least_independent: Option<[String; 2]>,
    /// What the figures say, a sentence.
    pub reading: String,
    /// The least independent first.
    pub pairs: Vec<Pair>,
    /// Session by session; only those with figures. Left out where that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Vec<SessionPairs>>,
}

/// The figures of one session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionPairs {
    /// The peer's address.
    pub peer: String,
    /// The least independent first.
    pub pairs: Vec<Pair>,
}

/// Two instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pair {
    /// Their names.
    pub instances: [String; 2],
    /// Votes that came to their end with both in them.
    pub compared: u64,
    /// Of those, on which the two did not say the same.
    pub disagreed: u64,
    /// `disagreed` of `compared`, 0 to 1; null of nothing.
    pub share: Option<f64>,
    /// Of those compared, on which not all instances said the same.
    pub contested: u64,
    /// Of those, on which the two did.
    pub together: u64,
    /// Verdicts on either.
    pub verdicts: Verdicts,
    /// In what they differed, the most frequent first.
    pub attributes: Vec<Aspect>,
}

/// Verdicts on either of two instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdicts {
    /// Those that found at least one wrong.
    pub either: u64,
    /// Of these, those that found both wrong on the same key.
    pub common: u64,
    /// Of these, with the same wrong route.
    pub alike: u64,
    /// Those that found only one wrong.
    pub one_only: u64,
    /// `common` of `either`, 0 to 1; null of nothing.
    pub common_share: Option<f64>,
}

/// Something in which two instances differed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Aspect {
    /// A path attribute's name, `link-local next hop`, `route or none`.
    pub name: String,
    /// On how many votes.
    pub votes: u64,
}
