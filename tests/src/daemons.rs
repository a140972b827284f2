//! FRR, BIRD and OpenBGPD as Debian ships them: one description of a router, the configuration of
//! each daemon that means the same, and the running instance. Why each setting stands there is
//! docs/EQUIVALENCE.md.

mod bird;
mod frr;
mod openbgpd;

use crate::lab::{Lab, Netns, Process, finish, wait_until};
use crate::versions::Root;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use wire::bgp::{Family, Prefix};

/// How long a daemon may take from its start to answering its control program.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What a router is to do, in no daemon's words.
#[derive(Clone, Debug)]
pub struct RouterSpec {
    /// Our AS number.
    pub asn: u32,
    /// Our router id.
    pub router_id: Ipv4Addr,
    /// The sessions.
    pub peers: Vec<PeerSpec>,
    /// Prefixes that the router itself announces.
    pub networks: Vec<Prefix>,
    /// A wrong thing to say, on purpose.
    pub lie: Option<Lie>,
    /// It writes its routes to the kernel.
    pub fib: bool,
}

/// One session.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// The neighbour.
    pub address: IpAddr,
    /// The port on which the neighbour listens, where that is not 179.
    pub port: Option<u16>,
    /// Our end.
    pub local: IpAddr,
    /// The neighbour's AS number.
    pub asn: u32,
    /// We only listen.
    pub passive: bool,
    /// What the session carries.
    pub families: Vec<Family>,
    /// TCP MD5 (RFC 2385).
    pub password: Option<String>,
    /// How many prefixes the neighbour may announce.
    pub limit: Option<Limit>,
    /// Hold time offered; the daemon's default otherwise.
    pub hold_time_s: Option<u16>,
    /// The session ends when BFD (RFC 5882) says so. FRR only, which needs its bfdd for it.
    pub bfd: bool,
    /// A prefix that the import policy does not take from this neighbour. OpenBGPD's filters know
    /// no session of their own: there it is from this address.
    pub refused: Option<Prefix>,
    /// What the neighbour is to us besides a peer.
    pub client: Client,
}

/// What a neighbour is besides a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// Nothing.
    #[default]
    No,
    /// A client of a route reflector (RFC 4456).
    Reflected,
    /// A client of a route server (RFC 7947).
    Served,
}

/// A maximum of prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// So many may be announced; one more is too many.
    pub prefixes: u32,
    /// What comes after the session's end.
    pub then: Then,
    /// What the import policy refuses counts as well. OpenBGPD always counts it, FRR and BIRD only
    /// where told to.
    pub received: bool,
}

/// What comes after a session that has ended over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It stays down until an operator says otherwise.
    Down,
    /// It comes back by itself: FRR and OpenBGPD after a minute (the shortest they know), BIRD at
    /// once.
    Back,
}

impl PeerSpec {
    /// A session that carries the unicast family of its own addresses.
    pub fn new(address: IpAddr, local: IpAddr, asn: u32) -> PeerSpec {
        let family = if address.is_ipv4() { Family::IPV4_UNICAST } else { Family::IPV6_UNICAST };
        PeerSpec {
            address,
            port: None,
            local,
            asn,
            passive: false,
            families: vec![family],
            password: None,
            limit: None,
            hold_time_s: None,
            bfd: false,
            refused: None,
            client: Client::No,
        }
    }
}

/// A community put where it does not belong: on one prefix, towards every neighbour.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// On which prefix.
    pub prefix: Prefix,
    /// The community (RFC 1997), AS and value.
    pub community: (u16, u16),
}

/// The three daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// FRR: zebra and bgpd.
    Frr,
    /// BIRD 2.
    Bird,
    /// OpenBGPD.
    OpenBgpd,
}

impl Daemon {
    /// All of them.
    pub const ALL: [Daemon; 3] = [Daemon::Frr, Daemon::Bird, Daemon::OpenBgpd];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Daemon::Frr => "frr",
            Daemon::Bird => "bird",
            Daemon::OpenBgpd => "openbgpd",
        }
    }

    /// The BGP daemon's configuration. `folder` is where its log and sockets go.
    pub fn configuration(self, spec: &RouterSpec, folder: &Path) -> String {
        match self {
            Daemon::Frr => frr::configuration(spec, folder),
            Daemon::Bird => bird::configuration(spec, folder),
            Daemon::OpenBgpd => openbgpd::configuration(spec, folder),
        }
    }
}

/// Where a daemon's BGP sockets go.
#[derive(Clone, Debug)]
pub enum Attach {
    /// To the kernel: the daemon is a router of its own.
    Native,
    /// To virtd, through the shim.
    Shim(Shim),
}

/// What the shim needs to know.
#[derive(Clone, Debug)]
pub struct Shim {
    /// `libhvlibc.so`.
    pub library: PathBuf,
    /// virtd's socket for shims.
    pub socket: PathBuf,
}

/// What is around an unmodified daemon: to give it a bug, mostly.
#[derive(Clone, Debug)]
pub struct Wrapper {
    /// How much it yields to others, 0 to 19 (nice(1)); `nice` of virtd.toml's `environment` is the
    /// same for those that virtd starts.
    pub nice: u8,
    /// Preloaded, before the shim where there is one.
    pub library: Option<PathBuf>,
    /// Environment variables for it.
    pub variables: Vec<(&'static str, String)>,
    /// What is done to the daemon's configuration.
    pub configuration: fn(String) -> String,
}

impl Default for Wrapper {
    fn default() -> Wrapper {
        Wrapper { nice: 0, library: None, variables: Vec::new(), configuration: |text| text }
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Instance {
    /// Which.
    pub daemon: Daemon,
    /// Its name; what HV_INSTANCE says.
    pub name: String,
    spec: RouterSpec,
    ns: Netns,
    folder: PathBuf,
    attach: Attach,
    /// Where its programs are, if they are not the installed ones.
    root: Option<Root>,
    wrapper: Wrapper,
    processes: Vec<Process>,
}

impl Instance {
    /// Writes the configuration and starts the daemon; returns once its control program gets an
    /// answer.
    pub fn start(
        lab: &Lab,
        ns: &Netns,
        daemon: Daemon,
        name: &str,
        spec: &RouterSpec,
        attach: &Attach,
    ) -> Result<Instance> {
        Instance::start_in(lab, ns, daemon, name, spec, attach, None)
    }

    /// The same with the programs of another version.
    pub fn start_in(
        lab: &Lab,
        ns: &Netns,
        daemon: Daemon,
        name: &str,
        spec: &RouterSpec,
        attach: &Attach,
        root: Option<Root>,
    ) -> Result<Instance> {
        Instance::start_wrapped(lab, ns, daemon, name, spec, attach, (root, Wrapper::default()))
    }

    /// The same with something around it.
    pub fn start_wrapped(
        lab: &Lab,
        ns: &Netns,
        daemon: Daemon,
        name: &str,
        spec: &RouterSpec,
        attach: &Attach,
        (root, wrapper): (Option<Root>, Wrapper),
    ) -> Result<Instance> {
        let attach = match (attach, &root) {
            // The scenario's folder is where a root can see the shim.
            (Attach::Shim(shim), Some(_)) => {
                let library = lab.folder("shim")?.join("libhvlibc.so");
                if !library.exists() {
                    fs::copy(&shim.library, &library).context("copying the shim")?;
                }
                Attach::Shim(Shim { library, ..shim.clone() })
            }
            _ => attach.clone(),
        };
        let mut instance = Instance {
            daemon,
            name: name.to_owned(),
            spec: spec.clone(),
            ns: ns.clone(),
            folder: lab.folder(name)?,
            attach,
            root,
            wrapper,
            processes: Vec::new(),
        };
        instance.write_configuration()?;
        instance.launch(lab)?;
        Ok(instance)
    }

    /// Starts the processes again after a crash.
    pub fn launch(&mut self, lab: &Lab) -> Result<()> {
        match self.daemon {
            Daemon::Frr => frr::launch(self, lab)?,
            Daemon::Bird => bird::launch(self, lab)?,
            Daemon::OpenBgpd => openbgpd::launch(self, lab)?,
        }
        let what = format!("{} to answer its control program", self.name);
        wait_until(&what, START_TIMEOUT, || self.established().map(|_| ()).map_err(|e| format!("{e:#}")))
    }

    /// A program of this daemon's, out of its root where it has one of its own, in a namespace.
    pub fn command_in(&self, ns: &Netns, program: &str) -> Command {
        match &self.root {
            None => ns.command(program),
            Some(root) => root.command(ns, program),
        }
    }

    /// The same in the daemon's namespace.
    fn command(&self, program: &str) -> Command {
        self.command_in(&self.ns, program)
    }

    /// Runs one of its programs to its end; the error holds its output.
    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        finish(self.command(program).args(args))
    }

    /// The command that starts the BGP daemon, with the shim in it where wanted, and what is around
    /// it.
    fn bgp_command(&self, program: &str) -> Command {
        let shim = match &self.attach {
            Attach::Native => None,
            Attach::Shim(shim) => Some(shim),
        };
        let preloads: Vec<String> =
            self.wrapper.library.iter().chain(shim.map(|s| &s.library)).map(|l| l.display().to_string()).collect();
        let yielding = |program: &str| match self.wrapper.nice {
            0 => self.command(program),
            n => {
                let mut command = self.command("nice");
                command.args(["-n", &n.to_string(), program]);
                command
            }
        };
        if preloads.is_empty() {
            return yielding(program);
        }
        // Through env(1): the shim belongs into the daemon, not into the helper that enters the
        // namespace.
        let mut command = yielding("env");
        command.arg(format!("LD_PRELOAD={}", preloads.join(":")));
        if let Some(shim) = shim {
            command.arg(format!("HV_SOCKET={}", shim.socket.display())).arg(format!("HV_INSTANCE={}", self.name));
        }
        command.args(self.wrapper.variables.iter().map(|(name, value)| format!("{name}={value}"))).arg(program);
        command
    }

    /// The daemon's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration it runs with.
    pub fn spec(&self) -> &RouterSpec {
        &self.spec
    }

    fn write_configuration(&self) -> Result<()> {
        let path = self.folder.join("bgp.conf");
        let text = (self.wrapper.configuration)(self.daemon.configuration(&self.spec, &self.folder));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        match self.daemon {
            Daemon::Frr => frr::own(&self.folder),
            Daemon::Bird => Ok(()),
            Daemon::OpenBgpd => openbgpd::own(&path),
        }
    }

    /// Gives the running daemon another lie, or none.
    pub fn set_lie(&mut self, lie: Option<Lie>) -> Result<()> {
        let before = std::mem::replace(&mut self.spec.lie, lie);
        self.write_configuration()?;
        match self.daemon {
            Daemon::Frr => frr::set_lie(self, before, lie),
            Daemon::Bird => bird::reload(self),
            Daemon::OpenBgpd => openbgpd::reload(self),
        }
    }

    /// The neighbours it has an established session with, as its own control program says.
    pub fn established(&self) -> Result<Vec<IpAddr>> {
        match self.daemon {
            Daemon::Frr => frr::established(self),
            Daemon::Bird => bird::established(self),
            Daemon::OpenBgpd => openbgpd::established(self),
        }
    }

    /// Waits until every configured session stands.
    pub fn wait_established(&self, timeout: Duration) -> Result<()> {
        let what = format!("{}'s {} sessions", self.name, self.spec.peers.len());
        wait_until(&what, timeout, || match self.established() {
            Ok(up) if self.spec.peers.iter().all(|p| up.contains(&p.address)) => Ok(()),
            Ok(up) => Err(format!("established: {up:?}")),
            Err(e) => Err(format!("{e:#}")),
        })
    }

    /// SIGKILL to all its processes.
    pub fn crash(&mut self) {
        for process in &mut self.processes {
            process.crash();
        }
        self.processes.clear();
    }

    /// Stops all its processes where they are (SIGSTOP), or lets them go on (SIGCONT).
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.processes.iter().try_for_each(|p| p.signal(signal))
    }

    /// Sends a signal to all its processes.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.processes.iter().try_for_each(|p| p.signal(signal))
    }

    /// Asks all its processes to end.
    pub fn stop(&mut self) {
        // The BGP daemon was started last and goes first.
        for process in self.processes.iter_mut().rev() {
            process.stop();
        }
        self.processes.clear();
    }

    /// Whether all its processes still run.
    pub fn running(&mut self) -> bool {
        !self.processes.is_empty() && self.processes.iter_mut().all(Process::running)
    }
}
