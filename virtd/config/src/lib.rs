//! The configuration: the values after checking. `parse` makes them out of a TOML file, or says
//! what is wrong and where.
//!
//! Every key, its default and its unit stand in docs/CONFIGURATION.md and, with comments, in
//! examples/virtd.toml.

mod actions;
pub mod alert;
mod bmp;
pub mod diagnostic;
mod diversity;
pub mod environment;
mod fib;
mod http;
pub mod names;
pub mod parse;
mod peer;
pub mod places;
mod reader;
mod sections;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod version;

pub use actions::{Actions, Fault, FaultAction};
pub use bmp::{Collector, MAX_COLLECTORS};
pub use diversity::{ConnectOrder, Delay, Distribution, Diversity};
pub use environment::Environment;
pub use fib::{Fib, FibScope, OnExit};
pub use http::{DEFAULT_LISTEN, Http};
pub use peer::Peer;
pub use sections::rt_protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use wire::bgp::{Family, Prefix};

/// The BGP port (RFC 4271 section 8.2.1).
pub const DEFAULT_PORT: u16 = 179;
/// Where virtctl finds virtd unless told otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/virtd/control.sock";
/// Where virtd keeps what outlasts its restart.
pub const DEFAULT_STATE: &str = "/var/lib/virtd/state.json";
/// Who virtd's worker runs as unless told otherwise, on a system that has such a user.
pub const DEFAULT_USER: &str = "virtd";
/// Most instances of one router: a set of them fits a word of 32 bits, with one bit to spare.
pub const MAX_INSTANCES: usize = 31;

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
    /// `user`: who the worker runs as; `None` is [`DEFAULT_USER`] where the system has it.
    pub user: Option<String>,
    /// `group`: the worker's group; `None` is its user's own.
    pub group: Option<String>,
    /// The shim's socket, default /run/virtd/hv.sock.
    pub shim_socket: PathBuf,
    /// Group that owns the shim's socket; `None` is virtd's own.
    pub shim_group: Option<String>,
    /// virtctl's socket, default /run/virtd/control.sock.
    pub control_socket: PathBuf,
    /// Mode of the control socket, default 0o660.
    pub control_mode: u32,
    /// Group that owns the control socket; `None` is virtd's own.
    pub control_group: Option<String>,
    /// A second control socket, for asking only; `None` is none.
    pub control_socket_ro: Option<PathBuf>,
    /// Mode of that, default 0o660.
    pub control_ro_mode: u32,
    /// Group that owns that; `None` is virtd's own.
    pub control_ro_group: Option<String>,
    /// What outlasts a restart of virtd, default [`DEFAULT_STATE`].
    pub state: PathBuf,
    /// File that events are appended to as JSON lines; `None` is no file.
    pub event_log: Option<PathBuf>,
    /// `versions`: the folder of other versions, default [`version::DEFAULT_VERSIONS`].
    pub versions: PathBuf,
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
    /// `accept_any = true`: peers that no `[[peer]]` names are served with defaults, if an instance
    /// wants them.
    pub accept_any: bool,
    /// `allow_own_as` of `[router]`: of peers that say nothing about it themselves.
    pub allow_own_as: bool,
    /// `allow_reserved_ranges`: 240.0.0.0/4 is no fault in a NEXT_HOP.
    pub allow_reserved_ranges: bool,
    /// `confederation`, `confederation_members`: the confederation that this router is in (RFC
    /// 5065).
    pub confederation: Option<Confederation>,
    /// `native_ports`: other TCP ports of a `[[peer]]`'s address that instances may connect to by
    /// themselves.
    pub native_ports: Vec<u16>,
    /// Attribute codes that are left out of the comparison.
    pub ignore_attributes: Vec<u8>,
    /// `[faults]`: when an instance is found faulty, and what is done about it.
    pub faults: Faults,
    /// `[recorder]`: the flight recorder.
    pub recorder: Recorder,
    /// `[fib]`: the instances' routes to the kernel are voted on; `None` (no such section) leaves
    /// each instance its own kernel.
    pub fib: Option<Fib>,
    /// `[http]`: where virtd-monitor serves; `None` without that section. virtd itself does nothing
    /// with it.
    pub http: Option<Http>,
    /// `[[bmp]]`: to which collectors virtd-monitor tells the routing tables. virtd itself does
    /// nothing with them.
    pub bmp: Vec<Collector>,
    /// `[[alert]]`: what virtd-monitor does on which events.
    pub alerts: Vec<alert::Alert>,
    /// `[syslog]`: where virtd-monitor tells of events; `None` without that section.
    pub syslog: Option<alert::Syslog>,
    /// `[journald]`: the same.
    pub journald: Option<alert::Journald>,
}

impl Default for Config {
    /// What an empty file would mean: the defaults, without any instance or peer (so it would not
    /// pass the checks).
    fn default() -> Config {
        Config {
            asn: None,
            router_id: None,
            port: DEFAULT_PORT,
            user: None,
            group: None,
            listen: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            shim_socket: PathBuf::from("/run/virtd/hv.sock"),
            shim_group: None,
            control_socket: PathBuf::from(DEFAULT_CONTROL_SOCKET),
            control_mode: 0o660,
            control_group: None,
            control_socket_ro: None,
            control_ro_mode: 0o660,
            control_ro_group: None,
            state: PathBuf::from(DEFAULT_STATE),
            event_log: None,
            versions: PathBuf::from(version::DEFAULT_VERSIONS),
            open: OpenMode::Voted,
            inbound: Inbound::Rfc7606,
            vote: Vote::default(),
            timers: Timers::default(),
            instances: Vec::new(),
            peers: Vec::new(),
            accept_any: false,
            allow_own_as: false,
            allow_reserved_ranges: false,
            confederation: None,
            native_ports: Vec::new(),
            ignore_attributes: Vec::new(),
            faults: Faults::default(),
            recorder: Recorder::default(),
            fib: None,
            http: None,
            bmp: Vec::new(),
            alerts: Vec::new(),
            syslog: None,
            journald: None,
        }
    }
}

impl Config {
    /// The `[[peer]]` with this address.
    pub fn peer(&self, address: IpAddr) -> Option<&Peer> {
        self.peers.iter().find(|p| p.address == address)
    }

    /// The TCP port on which the peer with this address is dialled.
    pub fn port_of(&self, address: IpAddr) -> u16 {
        self.peer(address).and_then(|p| p.port).unwrap_or(self.port)
    }

    /// How many instances vote, that is, are neither observers nor standbys.
    pub fn voters(&self) -> usize {
        self.instances.iter().filter(|i| i.is_voter()).count()
    }

    /// Whether a peer takes routes with its own AS in the path.
    pub fn allows_own_as(&self, peer: IpAddr) -> bool {
        self.peers.iter().find(|p| p.address == peer).map_or(self.allow_own_as, |p| p.allow_own_as)
    }

    /// A strict majority of the configured voters.
    pub fn majority(&self) -> usize {
        self.voters() / 2 + 1
    }

    /// How many of the configured voters must agree before something is published at once (the
    /// voter's rule: wait-for-consensus never takes fewer than a majority, first-k never fewer than
    /// two where there are two). The master alone is 1.
    pub fn quorum(&self) -> usize {
        let k = self.vote.k.map_or(self.majority(), usize::from);
        match self.vote.strategy {
            Strategy::WaitForConsensus => k.max(self.majority()),
            Strategy::ContinuousMajority => self.majority(),
            Strategy::MasterSlave => 1,
            Strategy::FirstK => k.max(2).min(self.voters()),
        }
    }
}

/// A confederation of ASes that is one AS to all others (RFC 5065).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Confederation {
    /// The AS number that others see.
    pub identifier: u32,
    /// The member ASes with which this router has sessions.
    pub members: Vec<u32>,
}

/// How the OPEN towards peers is made (docs/DECISIONS.md, "One OPEN, voted on").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// virtd makes one OPEN out of what the instances share.
    Voted,
    /// One instance; all its bytes pass verbatim.
    Native,
}

/// What is done to malformed UPDATEs from peers (docs/DECISIONS.md, "Hygiene on the way in").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inbound {
    /// RFC 7606 is applied before replicating.
    Rfc7606,
    /// Passed as it came unless the session must be reset.
    Opaque,
}

impl OpenMode {
    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            OpenMode::Voted => "voted",
            OpenMode::Native => "native",
        }
    }
}

impl Inbound {
    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Inbound::Rfc7606 => "rfc7606",
            Inbound::Opaque => "opaque",
        }
    }
}

impl Strategy {
    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::WaitForConsensus => "wait-for-consensus",
            Strategy::ContinuousMajority => "continuous-majority",
            Strategy::MasterSlave => "master-slave",
            Strategy::FirstK => "first-k",
        }
    }
}

/// Which voting strategy (docs/DECISIONS.md, "Strategies, T and its cap").
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

impl Default for Vote {
    /// wait-for-consensus of a majority, T of 10 s.
    fn default() -> Vote {
        Vote { strategy: Strategy::WaitForConsensus, k: None, t_ms: 10_000, min_voters: 1 }
    }
}

/// `[timers]`, all with defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

impl Default for Timers {
    /// docs/DECISIONS.md, "virtd owns the connection", "One OPEN, voted on" and "Every fault is an
    /// output".
    fn default() -> Timers {
        Timers { open_wait_ms: 5_000, grace_ms: 120_000, leg_hold_s: 9, fault_threshold_ms: 60_000 }
    }
}

/// `[faults]`: docs/DECISIONS.md, "Every fault is an output". Times in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults {
    /// `action`: what is done with an instance found faulty, by kind of fault.
    pub action: Actions,
    /// `min_keys` = 10: an instance that dissents on so many keys for `timers.fault_threshold_s` is
    /// faulty.
    pub min_keys: u32,
    /// `one_key_s` = 600: so is one that dissents on any key for so long.
    pub one_key_ms: u32,
    /// `split_keys` = 1000: with so many keys without a quorum the majority itself is in doubt and
    /// nobody is accused.
    pub split_keys: u32,
    /// `leg_losses` = 5: an instance that loses so many legs within `leg_losses_s` = 60 is faulty.
    pub leg_losses: u32,
    /// See above.
    pub leg_losses_ms: u32,
    /// `restart_min_s` = 1: first wait before a restart; doubles.
    pub restart_min_ms: u32,
    /// `restart_max_s` = 60: longest wait.
    pub restart_max_ms: u32,
    /// `restart_limit` = 10: after so many restarts within `restart_limit_s` = 600 it stays down
    /// until an operator says otherwise.
    pub restart_limit: u32,
    /// See above.
    pub restart_limit_ms: u32,
    /// `cpu_percent` = 95: using so much of one processor for `cpu_s` = 60 raises suspicion.
    pub cpu_percent: u32,
    /// See above.
    pub cpu_ms: u32,
    /// `memory_mib`: an instance that is larger is faulty; `None` is no limit. Growth to twice what
    /// it was when it had caught up raises suspicion in any case.
    pub memory_mib: Option<u32>,
    /// `poison_restarts` = 6: restarts that looking for the UPDATE that kills an instance may cost.
    pub poison_restarts: u32,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            action: Actions::default(),
            min_keys: 10,
            one_key_ms: 600_000,
            split_keys: 1000,
            leg_losses: 5,
            leg_losses_ms: 60_000,
            restart_min_ms: 1_000,
            restart_max_ms: 60_000,
            restart_limit: 10,
            restart_limit_ms: 600_000,
            cpu_percent: 95,
            cpu_ms: 60_000,
            memory_mib: None,
            poison_restarts: 6,
        }
    }
}

/// `[recorder]`: the flight recorder keeps the last messages to and from every leg in memory, and
/// writes them at a verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorder {
    /// `folder`: where records go; `None` (the default) is no recorder.
    pub folder: Option<PathBuf>,
    /// `minutes` = 5: how far back a record reaches.
    pub minutes: u32,
    /// `memory_mib` = 32: bound of what is kept in memory.
    pub memory_mib: u32,
    /// `disk_mib` = 256: bound of the folder; the oldest records go first.
    pub disk_mib: u32,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder { folder: None, minutes: 5, memory_mib: 32, disk_mib: 256 }
    }
}

/// A daemon that virtd knows how to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// FRR: zebra, bgpd.
    Frr,
    /// BIRD.
    Bird,
    /// OpenBGPD.
    OpenBgpd,
}

/// How an instance waits for its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standby {
    /// `role = "standby"`: started when it is needed.
    Cold,
    /// `role = "warm-standby"`: running and fed, without a vote until it is needed.
    Warm,
}

/// `[[instance]]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Instance {
    /// `name`, unique.
    pub name: String,
    /// What HV_INSTANCE says, and the name of its folder, where that is not [`Instance::name`]: a
    /// reload has started it beside the one of the same name whose place it was to take.
    pub label: Option<String>,
    /// `role = "voter" | "observer"`: an observer is fed and compared, never counted.
    pub observer: bool,
    /// `role = "standby" | "warm-standby"`: takes the place of a voter found faulty.
    pub standby: Option<Standby>,
    /// `kind = "frr" | "bird" | "openbgpd"`: virtd knows how to start it. Excludes `command`.
    pub kind: Option<Kind>,
    /// `config`: with `kind`, the daemon's own configuration file.
    pub config_file: Option<PathBuf>,
    /// `version`: with `kind`, another version's name or its folder, as it stands in the file.
    pub version: Option<String>,
    /// `root`: with `kind`, a folder with another version's programs and everything they need; they
    /// are started with it as `/`. A `version` is resolved to it.
    pub root: Option<PathBuf>,
    /// `shim_library`: the shim for this instance, where its C library is too old for the usual
    /// one.
    pub shim_library: Option<PathBuf>,
    /// `command`: started by virtd (shim and HV_ variables added); empty = started by someone else,
    /// unless `kind` says how.
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
    /// `diversity`: how what it is given differs from what the others are given; `None` is not at
    /// all.
    pub diversity: Option<Diversity>,
    /// `environment`: the surroundings of what virtd starts.
    pub environment: Environment,
    /// `fib_scope`: whose routes it writes to the FIB; what it does not say there about others' is
    /// abstention.
    pub fib_scope: FibScope,
    /// There is a `[fib]`: its NETLINK_ROUTE sockets are redirected.
    pub netlink: bool,
}

impl Kind {
    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Frr => "frr",
            Kind::Bird => "bird",
            Kind::OpenBgpd => "openbgpd",
        }
    }

    /// The kind that the word means.
    pub fn of(word: &str) -> Option<Kind> {
        [Kind::Frr, Kind::Bird, Kind::OpenBgpd].into_iter().find(|kind| kind.name() == word)
    }
}

impl Instance {
    /// What HV_INSTANCE says, and what its folder is called.
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }

    /// Everything about it but what can change while it runs.
    #[must_use]
    pub fn lasting(&self) -> Instance {
        let mut i = self.clone();
        (i.label, i.observer, i.standby) = (None, false, None);
        (i.limit_sessions, i.limit_families, i.limit_prefixes) = Default::default();
        i
    }

    /// Whether it votes from the start.
    pub fn is_voter(&self) -> bool {
        !self.observer && self.standby.is_none()
    }

    /// Whether virtd starts it.
    pub fn is_ours(&self) -> bool {
        !self.command.is_empty() || self.kind.is_some()
    }
}
