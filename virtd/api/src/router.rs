//! The router as a whole, its sessions and its instances.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// The router as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Microseconds since virtd's start.
    pub uptime_us: u64,
    /// `voted`; `native` with one instance and no vote.
    pub open: String,
    /// Who the router is.
    pub router: Router,
    /// The strategy's name as in the configuration.
    pub strategy: String,
    /// How many must agree; null where the strategy does not count to k.
    pub k: Option<u8>,
    /// T, after which a key is at rest, in milliseconds.
    pub t_ms: u64,
    /// Instances with a vote.
    pub voters: usize,
    /// All instances, those that come or go among them.
    pub instances: usize,
    /// Of these, those of which a process has reached virtd. None from a virtd that does not say.
    pub instances_attached: Option<usize>,
    /// Connections with peers that no `[[peer]]` names and that failed, since the start.
    pub strangers_failed: u64,
    /// Sessions that are known, up or not.
    pub sessions: usize,
    /// Of these, established ones; with `native` connections through virtd.
    pub sessions_up: usize,
    /// Votes held since the start.
    pub votes: u64,
    /// Candidates of instances looked at since the start, changed or not.
    pub candidates: u64,
    /// UPDATEs received from peers since the start.
    pub updates_in: u64,
    /// UPDATEs sent on the sessions that are up.
    pub updates_out: u64,
    /// Prefixes announced on the sessions that are up, now; one counts for each session.
    pub routes_published: u64,
    /// Prefixes told to peers since the start, announced or withdrawn.
    pub prefixes_told: u64,
    /// Keys on which an instance is not with the majority now; one counts for each such instance.
    pub disagreements_now: u64,
    /// Prefixes without a majority now; one counts for each session.
    pub without_quorum: u64,
    /// The majority itself is in doubt, and nobody is accused.
    pub majority_split: bool,
    /// For how long policy has been being changed, microseconds; null where it is not.
    pub change_us: Option<u64>,
    /// Times an instance was found not to be with the majority, since the start.
    pub disagreements_total: u64,
    /// UPDATEs of peers that RFC 7606 has repaired, since the start.
    pub malformed_updates: u64,
    /// Different routes that instances say or that were published, now.
    pub interned_routes: usize,
    /// Where memory goes.
    pub memory: Memory,
    /// From the first word of an instance on a prefix to what a peer was told on it, of each since
    /// the start.
    pub vote_wait: Durations,
    /// The turns of the loop since the start, by the wall clock: what comes from a peer or an
    /// instance goes on within the turn that reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns: Option<Durations>,
    /// The longest turn of the loop since the start: nobody was served meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_turn: Option<Turn>,
    /// virtd's process that has all this, and that is started again when it dies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<Worker>,
    /// How the file of events fares. Left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_log: Option<EventLog>,
    /// TCP sockets on BGP ports that go past virtd, when it was last looked (each ten seconds);
    /// `native-bgp` names each. Left out where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native_bgp: Option<usize>,
    /// Events that came faster than they could be written, since the start. Left out where that is
    /// not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_dropped: Option<u64>,
}

/// virtd's worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Its process id.
    pub pid: u32,
    /// How many there were before it since virtd's start; each has died.
    pub restarts: u32,
}

/// How long something took, by powers of two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// What the first of `counts` is below, in microseconds. Each further one is below twice as much
    /// as the one before, the last is of all that took longer.
    pub first_us: u64,
    /// How often.
    pub counts: Vec<u64>,
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

/// A turn of the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Turn {
    /// Its processor time, in microseconds.
    pub us: u64,
    /// From its beginning to its end, in microseconds.
    pub wall_us: u64,
}

/// Who the router is towards its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Router {
    /// AS number; null before an instance has said one, where the configuration does not.
    pub asn: Option<u32>,
    /// BGP identifier; null like `asn`.
    pub router_id: Option<Ipv4Addr>,
}

/// Octets of virtd's memory, now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What peers last said of each prefix.
    pub received_bytes: usize,
    /// Candidates and what was published.
    pub tables_bytes: usize,
    /// Routes and blocks of attributes, each kept once.
    pub attributes_bytes: usize,
    /// What slow legs, and readers of the routing tables, have not been given yet.
    pub waiting_bytes: usize,
    /// The figures on the independence of the instances.
    pub figures_bytes: usize,
    /// Keys that wait for their verdict.
    pub verdicts_bytes: usize,
}

/// How the file of events fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventLog {
    /// Where it is.
    pub file: PathBuf,
    /// Why it cannot be written now; null where it can.
    pub failing: Option<String>,
    /// Events that are not in it, since virtd's start.
    pub lost: u64,
}

/// All sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sessions {
    /// In no order that means anything.
    pub sessions: Vec<Session>,
}

/// The sessions of a router with `open = "native"`. A client may read them as [`Sessions`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeSessions {
    /// Connections through virtd.
    pub sessions: Vec<NativeSession>,
}

/// A session that is the instance's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeSession {
    /// The peer's address.
    pub peer: String,
    /// `native`.
    pub state: String,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OneSession {
    /// It.
    pub session: Session,
}

/// A session with a peer. What is null where it is not established says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// The peer's address, a link-local one with its interface: `fe80::2%eth1`.
    pub peer: String,
    /// An operator has shut it down.
    pub shut: bool,
    /// Our address; null without a connection.
    pub local: Option<IpAddr>,
    /// RFC 4271's name: `Idle`, `Connect`, `Connected`, `OpenSent`, `OpenConfirm`, `Established`;
    /// or `native`.
    pub state: String,
    /// `up`, or why no session with the peer can stand, in words. None with `native`.
    pub path: Option<String>,
    /// How long ago its link, an address or the route to it last changed, microseconds; null: not
    /// since virtd's start.
    pub path_changed_us: Option<u64>,
    /// For how long it has been established, microseconds; null where it is not.
    pub up_us: Option<u64>,
    /// The peer's AS number; null where it is not established.
    pub asn: Option<u32>,
    /// The peer's BGP identifier; null where it is not established.
    pub router_id: Option<Ipv4Addr>,
    /// Hold time agreed on, seconds; 0: none; null where it is not established.
    pub hold_time_s: Option<u16>,
    /// Families agreed on, `ipv4-unicast`; null where it is not established.
    pub families: Option<Vec<String>>,
    /// Prefixes the peer has announced and not withdrawn. None with `native`.
    pub prefixes_in: Option<usize>,
    /// Prefixes the peer was told and has not been told otherwise; null where it is not
    /// established.
    pub prefixes_out: Option<u64>,
    /// UPDATEs from the peer over this session; null where it is not established.
    pub updates_in: Option<u64>,
    /// UPDATEs to the peer over this session; null where it is not established.
    pub updates_out: Option<u64>,
    /// Times that an established session has ended, since the start.
    pub resets: u64,
    /// How those that had the session have last ended it; null: they have not.
    pub ended: Option<Ended>,
    /// The instances' legs; one for each instance.
    pub legs: Vec<Leg>,
}

/// How the instances have ended a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// Microseconds ago.
    pub us: u64,
    /// The NOTIFICATION that the peer was sent, in words.
    pub said: String,
    /// The instances that had left.
    pub left: Vec<String>,
    /// The session has come back since.
    pub returned: bool,
}

/// An instance's connection for a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leg {
    /// The instance.
    pub instance: String,
    /// `Connect`, `OpenWait`, `OpenReceived`, `OpenConfirm`, `Established`; `none` without a leg.
    pub state: String,
    /// More on that: `level`, say; may be empty.
    pub detail: String,
    /// The instance has a vote.
    pub votes: bool,
    /// How the leg ended that it had; null where it has one, or had none.
    pub gone: Option<Gone>,
    /// For how long a majority has had the session without it since it was last level,
    /// microseconds.
    pub missed_us: u64,
    /// Octets that wait for it, since it does not take them.
    pub waiting_bytes: usize,
}

/// How a leg ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gone {
    /// What that means: `left by its own will`, say.
    pub what: String,
    /// The NOTIFICATION or close, in words.
    pub how: String,
    /// Microseconds ago.
    pub us: u64,
}

/// All instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instances {
    /// In configured order, those that came later in the places of those that went.
    pub instances: Vec<Instance>,
}

/// An instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// What it is now: `voter`, `observer`, `standby`, `warm-standby`, `drained`, `disabled`,
    /// `successor`, `leaving`.
    pub role: String,
    /// No verdict ends it.
    pub pinned: bool,
    /// `kind` of the configuration; null without one.
    pub kind: Option<String>,
    /// What its program says its version is; null where virtd does not know.
    pub version: Option<String>,
    /// Percent of one processor over the last second, all processes; null where virtd did not start
    /// it.
    pub cpu_percent: Option<f64>,
    /// Resident memory of all processes, KiB; null where virtd did not start it.
    pub memory_kib: Option<u64>,
    /// Restarts that count towards the limit.
    pub restarts: usize,
    /// UPDATEs and prefixes that are not given to it, as they have killed it.
    pub withheld: usize,
    /// A process of it has reached virtd.
    pub attached: bool,
    /// Its processes that have.
    pub pids: Vec<u32>,
    /// `absent`, `attached`, `catching-up`, `voting`, `observer`, `standby`, `drained`, `leaving`.
    pub state: String,
    /// What is out of the ordinary now: `cpu`, `memory`.
    pub suspect: Vec<String>,
    /// Its legs that are established.
    pub legs_up: usize,
    /// Sessions that are up, each of which it could have a leg for.
    pub legs: usize,
    /// Prefixes on which it is not with the majority now.
    pub dissents_now: u64,
    /// Times it was found not to be, since the start.
    pub dissents_total: u64,
    /// What it last did wrong, a sentence; null: nothing.
    pub last_fault: Option<String>,
    /// How a process of it last died that nobody had told to: `exit`, `from-outside`,
    /// `out-of-memory`, `crash`; null: none has, or virtd did not start it.
    pub last_death: Option<String>,
    /// The command line of its control program; null without `kind`.
    pub control: Option<Vec<String>>,
    /// The root in which that program is; null for the system's.
    pub root: Option<PathBuf>,
    /// The folder of its sockets; null without `kind`.
    pub folder: Option<PathBuf>,
}
