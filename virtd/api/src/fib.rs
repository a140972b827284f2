//! The voted FIB.

use crate::{Durations, Said};
use serde::{Deserialize, Serialize};

/// The voted FIB in figures. What is counted without a "now" is since virtd's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fib {
    /// Routes chosen, now.
    pub routes: usize,
    /// Keys of which anything is known, now.
    pub keys: usize,
    /// Different routes among what is said and chosen, now.
    pub distinct_routes: usize,
    /// Entries without a majority, now.
    pub without_quorum: u64,
    /// Chosen routes that the kernel does not take, now.
    pub failed: usize,
    /// What each instance does.
    pub instances: Vec<FibInstance>,
    /// Requests that the instances' virtual kernels have taken.
    pub requests: u64,
    /// Requests refused with an errno.
    pub refused: u64,
    /// Requests that were acknowledged before virtd had seen them.
    pub answered_ahead: u64,
    /// Of these, those that turned out otherwise.
    pub taken_back: u64,
    /// Votes held.
    pub votes: u64,
    /// Keys handed on to be written or removed.
    pub published: u64,
    /// Times an instance was found not to be with the majority.
    pub dissents_total: u64,
    /// From the first word of an instance on a route to when it was handed on to be written, of each
    /// since the start.
    pub vote_wait: Durations,
    /// Octets of memory for all of it, now.
    pub memory_bytes: u64,
    /// What was done with the real kernel. Left out by a core without a driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<FibKernel>,
}

/// What one instance does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FibInstance {
    /// The instance.
    pub name: String,
    /// `voting`, `catching up`, `absent`, `silent` (it has written nothing yet), `writes no FIB`.
    pub state: String,
    /// Routes in its virtual kernel, now.
    pub routes: usize,
    /// Netlink sockets it has, now.
    pub sockets: usize,
    /// Entries on which it is not with the majority, now.
    pub dissents: usize,
}

/// What was done with the real kernel. What is counted without a "now" is since virtd's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FibKernel {
    /// Routes written: new ones, replaced ones, repairs.
    pub written: u64,
    /// Routes removed, swept ones among them.
    pub removed: u64,
    /// Wanted routes that the kernel does not take, now.
    pub failed: u64,
    /// Routes that somebody else had removed or changed, put right.
    pub repaired: u64,
    /// Routes of an earlier virtd that were what the vote wanted.
    pub adopted: u64,
    /// Routes of an earlier virtd that no vote wanted.
    pub swept: u64,
    /// Sends to the kernel.
    pub batches: u64,
    /// Messages in them.
    pub messages: u64,
    /// Keys with a wanted or held route, now.
    pub routes: u64,
    /// Times the kernel's routes were read as a whole.
    pub scans: u64,
    /// Octets that the table of wanted and held routes takes, now.
    pub memory: u64,
}

/// Entries of the FIB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FibEntries {
    /// By key.
    pub entries: Vec<FibEntry>,
    /// There are more than fit an answer.
    pub more: bool,
}

/// An entry of the FIB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FibEntry {
    /// The prefix, with table, TOS and metric where they are not the usual ones.
    pub key: String,
    /// The route chosen, in words; `none`.
    pub route: String,
    /// Why the kernel does not take it; null where it does.
    pub failed: Option<String>,
    /// How long ago anybody last said something else about it, microseconds. None from a virtd that
    /// does not say.
    pub changed_us: Option<u64>,
    /// What each instance says.
    pub said: Vec<Said>,
}
