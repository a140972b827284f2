//! One router made of several daemons: virtd and its instances in a namespace, with equivalent
//! configurations.

use crate::daemons::{Attach, Daemon, Instance, PeerSpec, RouterSpec, Shim, Wrapper};
use crate::lab::{Lab, Netns, Process, Site, Star, built, run, wait_until};
use crate::versions::Version;
use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use virtd_api::{Candidate, FibEntries, Instances, Routes, Session, Sessions, Status};

/// The router's AS number in every scenario.
pub const ASN: u32 = 65000;
/// The router's id in every scenario.
pub const ROUTER_ID: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// Whom virtd's worker runs as in every scenario but those that say otherwise: a user that every system
/// has and no daemon is.
pub const WORKER: &str = "nobody";
/// How long virtd may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What kind of router.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which daemons, each once; several of one kind get a number behind their name.
    pub daemons: Vec<Daemon>,
    /// Other versions than the installed ones, in the same order; what is left out is installed.
    /// See [`Options::there`].
    pub versions: Vec<Option<Version>>,
    /// What is around each, in the same order; what is left out has nothing around it.
    pub wrappers: Vec<Wrapper>,
    /// `open` of virtd.toml.
    pub open: &'static str,
    /// `inbound` of virtd.toml.
    pub inbound: &'static str,
    /// `strategy` of virtd.toml.
    pub strategy: &'static str,
    /// `t_ms` of virtd.toml.
    pub t_ms: u32,
    /// The sessions, where they are not one with each site.
    pub peers: Vec<PeerSpec>,
    /// Sessions over IPv4.
    pub v4: bool,
    /// Sessions over IPv6.
    pub v6: bool,
    /// The instances only listen: whoever dials is the neighbour.
    pub passive: bool,
    /// TCP MD5 on every session.
    pub password: Option<String>,
    /// More lines for virtd.toml's `[timers]`.
    pub timers: String,
    /// The instances' routes to the kernel are voted on.
    pub fib: bool,
    /// What one instance, by its name, is told otherwise than the others, or all are told besides.
    pub tune: fn(&str, &mut RouterSpec),
    /// Another build of virtd than the one beside this program, with the shim that lies beside it.
    pub virtd: Option<PathBuf>,
    /// Variables in virtd's environment.
    pub environment: Vec<(&'static str, &'static str)>,
    /// `user` of virtd.toml: whom the worker runs as.
    pub user: Option<&'static str>,
}

impl Default for Options {
    /// Three daemons, consensus, IPv4, listening; T is short, since nothing here is slow but FRR's
    /// coalescing.
    fn default() -> Options {
        Options {
            daemons: Daemon::ALL.to_vec(),
            versions: Vec::new(),
            wrappers: Vec::new(),
            open: "voted",
            inbound: "rfc7606",
            strategy: "wait-for-consensus",
            t_ms: 3_000,
            peers: Vec::new(),
            v4: true,
            v6: false,
            passive: true,
            password: None,
            timers: String::new(),
            fib: false,
            tune: |_, _| (),
            virtd: None,
            environment: Vec::new(),
            user: Some(WORKER),
        }
    }
}

impl Options {
    /// What each daemon is told.
    pub fn spec(&self, sites: &[Site]) -> RouterSpec {
        let versions = [(self.v4, false), (self.v6, true)].into_iter().filter(|(wanted, _)| *wanted).map(|(_, v6)| v6);
        let peers = versions.flat_map(|v6| sites.iter().map(move |site| (site, v6))).map(|(site, v6)| {
            let (theirs, ours) = site.addresses(v6);
            PeerSpec { passive: self.passive, password: self.password.clone(), ..PeerSpec::new(theirs, ours, site.asn) }
        });
        RouterSpec {
            asn: ASN,
            router_id: ROUTER_ID,
            peers: if self.peers.is_empty() { peers.collect() } else { self.peers.clone() },
            networks: Vec::new(),
            lie: None,
            fib: self.fib,
        }
    }

    /// What the instance of this name is told.
    pub fn spec_of(&self, name: &str, sites: &[Site]) -> RouterSpec {
        let mut spec = self.spec(sites);
        (self.tune)(name, &mut spec);
        spec
    }

    /// Whether all versions can be had; one that cannot is written down as not tested.
    ///
    /// # Errors
    /// They cannot be asked for.
    pub fn there(&self) -> Result<bool> {
        let mut there = true;
        for version in self.versions.iter().flatten() {
            there &= version.root()?.is_some();
        }
        Ok(there)
    }

    /// The instances' names, in the order of the daemons.
    pub fn names(&self) -> Vec<String> {
        let name = |(i, daemon): (usize, &Daemon)| {
            let before = self.daemons.iter().take(i).filter(|d| *d == daemon).count();
            if before == 0 { daemon.name().to_owned() } else { format!("{}{}", daemon.name(), before + 1) }
        };
        self.daemons.iter().enumerate().map(name).collect()
    }

    fn virtd_toml(&self, folder: &Path, spec: &RouterSpec) -> String {
        let mut text = format!(
            "[router]\nasn = {ASN}\nrouter_id = \"{ROUTER_ID}\"\nshim_socket = {:?}\ncontrol_socket = {:?}\nstate = {:?}\nevent_log = {:?}\n\
             open = {:?}\ninbound = {:?}\n\n[vote]\nstrategy = {:?}\nt_ms = {}\n\n[timers]\n{}\n",
            folder.join("hv.sock"),
            folder.join("control.sock"),
            folder.join("state.json"),
            folder.join("events.jsonl"),
            self.open,
            self.inbound,
            self.strategy,
            self.t_ms,
            self.timers
        );
        if let Some(user) = self.user {
            text = text.replacen("[router]\n", &format!("[router]\nuser = {user:?}\n"), 1);
        }
        if self.fib {
            text.push_str("[fib]\n\n");
        }
        // Writing to a String cannot fail.
        for name in self.names() {
            let _ = writeln!(text, "[[instance]]\nname = {name:?}\n");
        }
        for peer in &spec.peers {
            let _ = writeln!(text, "[[peer]]\naddress = \"{}\"\nasn = {}\n", peer.address, peer.asn);
        }
        text
    }
}

/// A running router.
#[derive(Debug)]
pub struct Router {
    /// virtd itself.
    pub virtd: Process,
    /// The daemons, in the order of the options.
    pub instances: Vec<Instance>,
    folder: PathBuf,
    ns: Netns,
    /// `libhvlibc.so`, which must be of virtd's build.
    library: PathBuf,
}

impl Router {
    /// Starts virtd and all instances in the star's middle.
    pub fn start(lab: &Lab, star: &Star, options: &Options) -> Result<Router> {
        let mut router = Router::without_instances(lab, star, options)?;
        router.launch(lab, star, options)?;
        Ok(router)
    }

    /// Starts the instances that the options name.
    pub fn launch(&mut self, lab: &Lab, star: &Star, options: &Options) -> Result<()> {
        let attach = Attach::Shim(self.shim()?);
        for (i, (name, daemon)) in options.names().iter().zip(&options.daemons).enumerate() {
            let version = options.versions.get(i).copied().flatten();
            let root = version.map(Version::needed).transpose()?;
            let around = (root, options.wrappers.get(i).cloned().unwrap_or_default());
            let spec = options.spec_of(name, &star.sites);
            self.instances.push(Instance::start_wrapped(lab, &star.router, *daemon, name, &spec, &attach, around)?);
        }
        Ok(())
    }

    /// Starts virtd alone.
    pub fn without_instances(lab: &Lab, star: &Star, options: &Options) -> Result<Router> {
        Router::with_toml(lab, star, options, |text| text)
    }

    /// Starts virtd alone, with a configuration that the scenario has changed.
    pub fn with_toml(lab: &Lab, star: &Star, options: &Options, edit: impl FnOnce(String) -> String) -> Result<Router> {
        let folder = lab.folder("virtd")?;
        let config = folder.join("virtd.toml");
        let text = edit(options.virtd_toml(&folder, &options.spec(&star.sites)));
        fs::write(&config, text).context("writing virtd.toml")?;
        let program = options.virtd.clone().map_or_else(|| built("virtd"), Ok)?;
        let beside = program.with_file_name("libhvlibc.so");
        let library = if beside.is_file() { beside } else { built("libhvlibc.so")? };
        let mut command = star.router.command(program);
        command.arg("--config").arg(&config).envs(options.environment.iter().copied());
        let virtd = lab.spawn("virtd", &mut command)?;
        lab.watch_log(&folder.join("events.jsonl"));
        let router = Router { virtd, instances: Vec::new(), folder, ns: star.router.clone(), library };
        wait_until("virtd to answer virtctl", START_TIMEOUT, || {
            router.status().map(|_| ()).map_err(|e| format!("{e:#}"))
        })?;
        Ok(router)
    }

    /// Ends virtd and starts it again with the same file; the instances that something else has
    /// started go on.
    pub fn restart_virtd(&mut self, lab: &Lab) -> Result<()> {
        self.virtd.stop();
        self.virtd = self.spawn_virtd(lab)?;
        wait_until("virtd to answer virtctl again", START_TIMEOUT, || {
            self.status().map(|_| ()).map_err(|e| format!("{e:#}"))
        })
    }

    /// Starts virtd with the same file once more.
    pub fn spawn_virtd(&self, lab: &Lab) -> Result<Process> {
        let mut command = self.ns.command(built("virtd")?);
        command.arg("--config").arg(self.folder.join("virtd.toml"));
        lab.spawn("virtd", &mut command)
    }

    /// What a daemon needs to become an instance.
    pub fn shim(&self) -> Result<Shim> {
        Ok(Shim { library: self.library.clone(), socket: self.folder.join("hv.sock") })
    }

    /// The namespace it runs in.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Changes virtd's configuration file; virtd does not read it before it is told to.
    pub fn edit_toml(&self, edit: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.folder.join("virtd.toml");
        let text = fs::read_to_string(&path).context("reading virtd.toml")?;
        fs::write(&path, edit(text)).context("writing virtd.toml")
    }

    /// Where virtctl finds virtd.
    pub fn control_socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// What virtctl prints for a person.
    pub fn show(&self, command: &[&str]) -> Result<String> {
        self.virtctl(&[], command)
    }

    /// What `virtctl --json` says; what that is, the command decides ([`virtd_api`]).
    pub fn ctl<T: DeserializeOwned>(&self, command: &[&str]) -> Result<T> {
        let text = self.virtctl(&["--json"], command)?;
        serde_json::from_str(&text).with_context(|| format!("reading virtctl's answer: {text}"))
    }

    fn virtctl(&self, options: &[&str], command: &[&str]) -> Result<String> {
        let socket = self.control_socket().display().to_string();
        let mut all = vec!["--socket", &socket];
        all.extend_from_slice(options);
        all.extend_from_slice(command);
        run(built("virtctl")?, &all)
    }

    /// The instance of that name.
    pub fn instance(&mut self, name: &str) -> Result<&mut Instance> {
        self.instances.iter_mut().find(|i| i.name == name).with_context(|| format!("no instance {name}"))
    }

    /// What virtd says of an instance: `voting`, `catching-up`, `absent` …
    pub fn state_of(&self, name: &str) -> Result<String> {
        Ok(self.known(name)?.state)
    }

    /// All that virtd says of an instance.
    pub fn known(&self, name: &str) -> Result<virtd_api::Instance> {
        let Instances { instances } = self.ctl(&["instances"])?;
        let found = instances.iter().find(|i| i.name == name).cloned();
        found.with_context(|| format!("virtd does not know {name}: {instances:?}"))
    }

    /// All that virtd says of the session with a peer.
    pub fn session(&self, peer: &str) -> Result<Session> {
        let Sessions { sessions } = self.ctl(&["sessions"])?;
        let found = sessions.iter().find(|s| s.peer == peer).cloned();
        found.with_context(|| format!("no session with {peer}: {sessions:?}"))
    }

    /// What each instance says of a prefix to a peer; nothing where nobody ever has.
    pub fn said(&self, prefix: &str, peer: &str) -> Result<Vec<Candidate>> {
        let Routes { sessions, .. } = self.ctl(&["routes", prefix])?;
        Ok(sessions.into_iter().filter(|s| s.peer == peer).flat_map(|s| s.said).collect())
    }

    /// Whether all write the same routes, and the kernel takes them.
    pub fn agree_on_fib(&self) -> Result<bool> {
        Ok(self.ctl::<FibEntries>(&["fib", "--diff"])?.entries.is_empty())
    }

    /// Waits until an instance is in a state.
    pub fn wait_state(&self, name: &str, state: &str, timeout: Duration) -> Result<()> {
        wait_until(&format!("{name} to be {state}"), timeout, || match self.state_of(name) {
            Ok(now) if now == state => Ok(()),
            Ok(now) => Err(format!("it is {now}")),
            Err(e) => Err(format!("{e:#}")),
        })
    }

    /// Waits until every instance votes.
    pub fn wait_voting(&self, timeout: Duration) -> Result<()> {
        self.instances.iter().try_for_each(|i| self.wait_state(&i.name, "voting", timeout))
    }

    /// Waits until every instance has joined the session with a peer: a majority is enough for it
    /// to come up.
    pub fn wait_joined(&self, peer: &str, timeout: Duration) -> Result<()> {
        wait_until(&format!("all to join the session with {peer}"), timeout, || {
            let joined = self.events("leg-up").into_iter().filter(|e| e["session"] == peer);
            let joined: Vec<_> = joined.map(|e| e["instance"].clone()).collect();
            let all = self.instances.iter().all(|i| joined.iter().any(|name| *name == i.name.as_str()));
            if all { Ok(()) } else { Err(format!("{joined:?} have")) }
        })
    }

    /// Who tells a peer of a route to a prefix.
    pub fn tellers(&self, prefix: &str, peer: &str) -> Result<Vec<String>> {
        let said = self.said(prefix, peer)?.into_iter().filter(|s| s.route.is_some());
        Ok(said.map(|s| s.instance).collect())
    }

    /// Waits until all these tell a peer of a route: then they have read all that its sender said
    /// before.
    pub fn wait_told_by(&self, names: &[&str], prefix: &str, peer: &str, timeout: Duration) -> Result<()> {
        wait_until(&format!("{names:?} to tell {peer} of {prefix}"), timeout, || {
            let tellers = self.tellers(prefix, peer).map_err(|e| format!("{e:#}"))?;
            let all = names.iter().all(|name| tellers.iter().any(|teller| teller == name));
            if all { Ok(()) } else { Err(format!("{tellers:?} do")) }
        })
    }

    /// The process id of virtd's worker, which has the sessions; 0 where virtd does not answer.
    pub fn worker(&self) -> u32 {
        self.status().ok().and_then(|status| status.worker).map_or(0, |worker| worker.pid)
    }

    /// What `virtctl status` says.
    pub fn status(&self) -> Result<Status> {
        self.ctl(&["status"])
    }

    /// How many prefixes a peer was told.
    pub fn prefixes_out(&self, peer: &str) -> Result<u64> {
        self.session(peer)?.prefixes_out.with_context(|| format!("no established session with {peer}"))
    }

    /// Waits until the router has been quiet for a while: nothing comes, no peer is told anything,
    /// nobody changes their mind. Returns how many disagreements are left.
    pub fn wait_quiet(&self, quiet: Duration, timeout: Duration) -> Result<u64> {
        let mut last = (None, std::time::Instant::now());
        wait_until("the router to come to rest", timeout, || {
            let status = self.status().map_err(|e| format!("{e:#}"))?;
            let moving = Some(moving(&status));
            if moving != last.0 {
                last = (moving, std::time::Instant::now());
            }
            if last.1.elapsed() >= quiet { Ok(status.disagreements_now) } else { Err(format!("{status:?}")) }
        })
    }

    /// Waits until as many disagreements are left as there were before.
    pub fn wait_agreement(&self, before: u64, timeout: Duration) -> Result<()> {
        wait_until("the disagreement to end", timeout, || match self.status() {
            Ok(now) if now.disagreements_now == before => Ok(()),
            Ok(now) => Err(format!("{} disagreements, before {before}", now.disagreements_now)),
            Err(e) => Err(format!("{e:#}")),
        })
    }

    /// virtd's events of one kind so far.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        all.filter(|e| e["kind"] == kind).collect()
    }

    /// All of virtd's events so far, oldest first.
    ///
    /// # Errors
    /// The log cannot be read, or a line that was written whole is no event.
    pub fn all_events(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.join("events.jsonl")).context("virtd's event log")?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = text.get(..whole).unwrap_or_default().lines();
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("reading {line}"))).collect()
    }
}

/// What stands still in a router at rest.
pub fn moving(status: &Status) -> [u64; 4] {
    [status.updates_out, status.updates_in, status.candidates, status.disagreements_now]
}
