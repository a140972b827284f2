//! One voting table: what the instances say about every key, what was chosen, how a vote goes on.
//!
//! ```text
//!  say ──▶ candidates ──▶ vote ──▶ winner ──▶ list of changes ──▶ whoever tells them
//!                          ▲  └──▶ marks ───▶ [`Voting::marked`]
//!         recheck, walk ───┘
//! ```
//! | file | holds |
//! |---|---|
//! | `table` | [`Ballots`]: the keys, the candidates, the list of changes, where a walk stands |
//! | `common` | [`Common`]: keys at rest, of many tables at once |
//! | `vote` | the vote on one key, and what begins one; what it asks of its user ([`Voting`]) |
//!
//! Keys are the user's, and so are values: small ids, of which the default means "nothing". A table
//! does not know whom its changes are told: several peers that are told the same can have one.
//! Which value wins is the crate `voter`'s to say.
#![forbid(unsafe_code)]

mod common;
mod table;
mod vote;

pub use common::{Common, Rest};
pub use table::{Ballots, Entry, age_ms};
pub use vote::{Law, Marks, Terms, Voting, recheck, say, vote, walk};

/// The keys whose outcome time alone can change, of any number of tables: table and slot, with the
/// millisecond. A slot stands in it once at most (`flag::QUEUED`).
pub type Rechecks = collections::Deadlines<(u32, u32)>;
