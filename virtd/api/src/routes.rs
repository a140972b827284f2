//! Who says what about a prefix.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr};

/// What is said about a prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routes {
    /// The prefix; null where an address was asked for and no known prefix has it.
    pub prefix: Option<String>,
    /// The address that was asked for. Left out where it was a prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// What peers have sent.
    pub received: Vec<Received>,
    /// What peers were told; only sessions on which somebody has said something about it.
    pub sessions: Vec<Told>,
}

/// What a peer has sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Received {
    /// The peer's address.
    pub peer: String,
    /// Its route.
    pub route: Option<Route>,
}

/// What a peer was told, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The peer's address.
    pub peer: String,
    /// What it was told; null: nothing, or that the route is withdrawn.
    pub published: Option<Route>,
    /// What the vote chose; null: no route.
    pub winner: Option<Route>,
    /// Why, in words; may be empty.
    pub why: String,
    /// Which rule has led to it, a word: `unanimous`, `majority`; `alone` (only one counts);
    /// `master`, `first-k` (the strategy's own, without a majority); `overruled` (a steady majority
    /// has taken back what was told first); `no-majority` (steady without one); `kept` (what was
    /// chosen before stays until more agree); `nobody-counts`, `too-few-voters` (`min_voters`):
    /// what was published stays. Empty from a virtd that does not say.
    pub rule: String,
    /// How long ago anybody last said something else about it, microseconds; null where it is at
    /// rest: nobody has for T or longer, and all say the same.
    pub changed_us: Option<u64>,
    /// What each instance says.
    pub said: Vec<Candidate>,
}

/// What an instance says about a prefix to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Candidate {
    /// The instance.
    pub instance: String,
    /// Its route; null: none.
    pub route: Option<Route>,
    /// It is in the electorate.
    pub counted: bool,
    /// It means the same as the winner. None from a virtd that does not say.
    pub agrees: Option<bool>,
    /// Why it is not counted, or that it is not with the majority; may be empty.
    pub note: String,
}

/// A route in words. What a route does not have is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Next hop; `::` where there is only a link-local one.
    pub next_hop: IpAddr,
    /// Link-local next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_local: Option<Ipv6Addr>,
    /// `IGP`, `EGP` or `INCOMPLETE`; `none` where the attribute is missing, else its value in hex.
    pub origin: String,
    /// `64500 64501 {64502,64503}`, confederation segments as `(…)` and `[…]`. Empty for a route of
    /// the sender's own AS.
    pub as_path: String,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// LOCAL_PREF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// `64500:100`, well-known ones by their name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// `64500:1:2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<String>,
    /// Everything else, by name where it has one, value in hex: `AGGREGATOR 0000fde8c0000201`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other: Vec<String>,
}

/// The prefixes on which somebody is not with the majority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Differs {
    /// By session and prefix.
    pub differs: Vec<Difference>,
    /// How many are not in the answer.
    pub more: u64,
    /// False: of the prefixes without a majority there may be others; true where it is left out.
    #[serde(default = "crate::yes")]
    pub all_were_looked_at: bool,
    /// Prefixes without a majority now; one counts for each session.
    pub without_majority: u64,
}

/// A prefix on which somebody is not with the majority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Difference {
    /// The peer's address.
    pub peer: String,
    /// The prefix.
    pub prefix: String,
    /// False: there is none; true where it is left out.
    #[serde(default = "crate::yes")]
    pub majority: bool,
    /// Who differs; at least one.
    pub instances: Vec<Differing>,
}

/// An instance that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Differing {
    /// The instance.
    pub instance: String,
    /// In what: names of path attributes, `link-local next hop`, `route or none`.
    pub r#in: Vec<String>,
    /// It is in the electorate; true where it is left out.
    #[serde(default = "crate::yes")]
    pub counted: bool,
}
