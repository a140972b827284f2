//! The configuration file. (Parsing, checking and suggestions: helper config.) These are the values after checking.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use wire::bgp::{Family, Prefix};

/// Everything virtd is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[router]`: our AS, optional; checked against what the instances say.
    pub asn: Option<u32>,
    /// `[router]`: our router id, optional; checked against what the instances say.
    pub router_id: Option<Ipv4Addr>,
    /// TCP port, 179.
    pub port: u16,
    /// Addresses virtd listens on; default 0.0.0.0 and [::].
    pub listen: Vec<IpAddr>,
    /// The shim's socket, default /run/virtd/hv.sock.
    pub shim_socket: PathBuf,
    /// virtctl's socket, default /run/virtd/control.sock.
    pub control_socket: PathBuf,
    /// Mode of the control socket, default 0o660.
    pub control_mode: u32,
    /// `open = "voted" | "native"`.
    pub open: OpenMode,
    /// `inbound = "rfc7606" | "opaque"`.
    pub inbound: Inbound,
    /// Voting.
    pub vote: Vote,
    /// Timers, in milliseconds.
    pub timers: Timers,
    /// `[[instance]]`, in order; at most 31.
    pub instances: Vec<Instance>,
    /// `[[peer]]`.
    pub peers: Vec<Peer>,
    /// `accept_any = true`: peers that no `[[peer]]` names are served with defaults, if an instance wants them.
    pub accept_any: bool,
    /// Attribute codes that are left out of the comparison.
    pub ignore_attributes: Vec<u8>,
}

/// How the OPEN towards peers is made (DESIGN decision 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// virtd makes one OPEN out of what the instances share.
    Voted,
    /// One instance; all its bytes pass verbatim.
    Native,
}

/// What is done to malformed UPDATEs from peers (DESIGN decision 14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inbound {
    /// RFC 7606 is applied before replicating.
    Rfc7606,
    /// Passed as it came unless the session must be reset.
    Opaque,
}

/// Which voting strategy (DESIGN decision 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// `wait-for-consensus`.
    WaitForConsensus,
    /// `continuous-majority`.
    ContinuousMajority,
    /// `master-slave`.
    MasterSlave,
    /// `first-k`.
    FirstK,
}

/// `[vote]`.
#[derive(Clone, Copy, Debug)]
pub struct Vote {
    /// `strategy`.
    pub strategy: Strategy,
    /// `k`, for wait-for-consensus and first-k; `None` is a majority of the configured voters.
    pub k: Option<u8>,
    /// `t_ms`, default 10,000.
    pub t_ms: u32,
    /// `min_voters`, default 1.
    pub min_voters: u8,
}

/// `[timers]`, all with defaults.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// `open_wait_s` = 5.
    pub open_wait_ms: u32,
    /// `grace_s` = 120.
    pub grace_ms: u32,
    /// `leg_hold_s` = 9.
    pub leg_hold_s: u16,
    /// `fault_threshold_s` = 60.
    pub fault_threshold_ms: u32,
}

/// `[[instance]]`.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `name`, unique; what HV_INSTANCE says.
    pub name: String,
    /// `role = "voter" | "observer"`: an observer is fed and compared, never counted.
    pub observer: bool,
    /// `command`: started by virtd (shim and HV_ variables added); empty = started by someone else.
    pub command: Vec<String>,
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// `user`.
    pub user: Option<String>,
    /// `sessions`, `families`, `prefixes`: what its votes are limited to; empty = everything.
    pub limit_sessions: Vec<IpAddr>,
    /// See above.
    pub limit_families: Vec<Family>,
    /// See above.
    pub limit_prefixes: Vec<Prefix>,
}

/// `[[peer]]`.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `address`.
    pub address: IpAddr,
    /// `asn`, optional: checked against the peer's OPEN by the instances anyway.
    pub asn: Option<u32>,
    /// `description`.
    pub description: Option<String>,
    /// `allow_own_as`.
    pub allow_own_as: bool,
}
