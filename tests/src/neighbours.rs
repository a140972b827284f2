//! The outside world: independent BGP speakers as neighbours, dialling or listening, and what their
//! own logs say of the session.

use crate::daemons::{Attach, Daemon, Instance, PeerSpec, RouterSpec};
use crate::lab::{Lab, Process, Site, wait_until};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::bgp::{Family, Prefix};

/// Who the neighbour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of the three daemons, natively.
    Daemon(Daemon),
    /// ExaBGP.
    ExaBgp,
    /// GoBGP.
    GoBgp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [
        Kind::Daemon(Daemon::Frr),
        Kind::Daemon(Daemon::Bird),
        Kind::Daemon(Daemon::OpenBgpd),
        Kind::ExaBgp,
        Kind::GoBgp,
    ];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Daemon(daemon) => daemon.name(),
            Kind::ExaBgp => "exabgp",
            Kind::GoBgp => "gobgp",
        }
    }
}

/// What a neighbour is to do.
#[derive(Clone, Debug)]
pub struct NeighbourSpec {
    /// The router's AS number.
    pub router_asn: u32,
    /// Over IPv6 (and carrying IPv6) instead of IPv4.
    pub v6: bool,
    /// It listens and never dials.
    pub passive: bool,
    /// TCP MD5 (RFC 2385).
    pub password: Option<String>,
    /// What it announces.
    pub networks: Vec<Prefix>,
}

/// A running neighbour.
#[derive(Debug)]
pub struct Neighbour {
    /// Who it is.
    pub kind: Kind,
    log: PathBuf,
    /// Kept for its end: dropping it kills the processes.
    running: Running,
}

#[derive(Debug)]
enum Running {
    Daemon(Box<Instance>),
    Process(Process),
}

impl Neighbour {
    /// Starts it at its site.
    pub fn start(lab: &Lab, site: &Site, kind: Kind, spec: &NeighbourSpec) -> Result<Neighbour> {
        let name = format!("neighbour{}-{}", site.number, kind.name());
        let (own, router) = site.addresses(spec.v6);
        let peer = Ends { own, router, id: Ipv4Addr::new(10, 255, 1, site.number), asn: site.asn };
        match kind {
            Kind::Daemon(daemon) => start_daemon(lab, site, daemon, &name, &peer, spec),
            Kind::ExaBgp => start_exabgp(lab, site, &name, &peer, spec),
            Kind::GoBgp => start_gobgp(lab, site, &name, &peer, spec),
        }
    }

    /// What its own log says of its sessions.
    pub fn history(&self) -> History {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        History::of(self.kind, &text)
    }

    /// Waits for its first established session.
    pub fn wait_established(&self, timeout: Duration) -> Result<()> {
        let what = format!("{} to report an established session", self.kind.name());
        wait_until(&what, timeout, || {
            let history = self.history();
            if history.established > 0 { Ok(()) } else { Err(history.troubles.join("\n")) }
        })
    }

    /// Exactly one session since its start, no NOTIFICATION, no reconnect.
    pub fn check_quiet(&self) -> Result<()> {
        let history = self.history();
        ensure!(history.established == 1, "{} saw {} sessions instead of one", self.kind.name(), history.established);
        ensure!(history.troubles.is_empty(), "{} complains:\n{}", self.kind.name(), history.troubles.join("\n"));
        Ok(())
    }

    /// Its own process or daemon, where it is one of the three.
    pub fn instance(&mut self) -> Option<&mut Instance> {
        match &mut self.running {
            Running::Daemon(instance) => Some(instance),
            Running::Process(_) => None,
        }
    }

    /// Ends it, as its service manager would.
    pub fn stop(&mut self) {
        match &mut self.running {
            Running::Daemon(instance) => instance.stop(),
            Running::Process(process) => process.stop(),
        }
    }
}

/// What a neighbour's log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How often a session was established.
    pub established: usize,
    /// Lines that a quiet session does not have.
    pub troubles: Vec<String>,
}

impl History {
    fn of(kind: Kind, log: &str) -> History {
        let (up, troubles): (&str, &[&str]) = match kind {
            Kind::Daemon(Daemon::Frr) => {
                (") in vrf default Up", &[") in vrf default Down", "NOTIFICATION", "bad ", "malformed", "Malformed"])
            }
            Kind::Daemon(Daemon::Bird) => {
                ("BGP session established", &["Error: ", "Received: ", "session closed", "<RMT>", "<ERR>"])
            }
            Kind::Daemon(Daemon::OpenBgpd) => ("-> Established", &["Established ->", "notification", "bad "]),
            Kind::ExaBgp => ("\"state\": \"up\"", &["\"state\": \"down\"", "notification"]),
            Kind::GoBgp => ("Peer Up", &["Peer Down", "notification", "level=error", "malformed"]),
        };
        let mut history = History::default();
        for line in log.lines() {
            if line.contains(up) {
                history.established += 1;
            } else if troubles.iter().any(|t| line.contains(t)) {
                history.troubles.push(line.to_owned());
            }
        }
        history
    }
}

/// Who talks to whom.
struct Ends {
    own: IpAddr,
    router: IpAddr,
    id: Ipv4Addr,
    asn: u32,
}

fn start_daemon(
    lab: &Lab,
    site: &Site,
    daemon: Daemon,
    name: &str,
    ends: &Ends,
    spec: &NeighbourSpec,
) -> Result<Neighbour> {
    let peer = PeerSpec {
        passive: spec.passive,
        password: spec.password.clone(),
        ..PeerSpec::new(ends.router, ends.own, spec.router_asn)
    };
    let router = RouterSpec {
        asn: ends.asn,
        router_id: ends.id,
        peers: vec![peer],
        networks: spec.networks.clone(),
        lie: None,
        fib: false,
    };
    let instance = Instance::start(lab, &site.ns, daemon, name, &router, &Attach::Native)?;
    let log = match daemon {
        Daemon::Frr => instance.folder().join("frr.log"),
        Daemon::Bird => instance.folder().join("bird.log"),
        Daemon::OpenBgpd => lab.directory().join(format!("{name}.log")),
    };
    Ok(Neighbour { kind: Kind::Daemon(daemon), log, running: Running::Daemon(Box::new(instance)) })
}

fn start_exabgp(lab: &Lab, site: &Site, name: &str, ends: &Ends, spec: &NeighbourSpec) -> Result<Neighbour> {
    let folder = lab.folder(name)?;
    // Its own log does not tell of a session's end; the events it gives to a helper process do.
    let events = folder.join("events.json");
    let helper = folder.join("events.py");
    let script = format!(
        "#!/usr/bin/python3\nimport sys\nwith open({:?}, 'a', 1) as f:\n    for line in sys.stdin:\n        f.write(line)\n",
        events.display().to_string()
    );
    write(&helper, &script)?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    let mut text = format!(
        "process events {{\n    run {};\n    encoder json;\n}}\n\nneighbor {} {{\n    router-id {};\n    local-address {};\n    local-as {};\n    peer-as {};\n    hold-time 90;\n",
        helper.display(),
        ends.router,
        ends.id,
        ends.own,
        ends.asn,
        spec.router_asn
    );
    // Writing to a String cannot fail.
    if spec.passive {
        let _ = writeln!(text, "    passive true;\n    listen 179;");
    }
    if let Some(password) = &spec.password {
        let _ = writeln!(text, "    md5-password '{password}';");
    }
    let _ = writeln!(text, "    family {{\n        {} unicast;\n    }}", if spec.v6 { "ipv6" } else { "ipv4" });
    text.push_str("    api {\n        processes [ events ];\n        neighbor-changes;\n        receive {\n            notification;\n            parsed;\n        }\n    }\n    static {\n");
    for network in &spec.networks {
        let _ = writeln!(text, "        route {network} next-hop {};", ends.own);
    }
    text.push_str("    }\n}\n");
    let config = folder.join("exabgp.conf");
    write(&config, &text)?;
    let mut command = site.ns.command("exabgp");
    command
        .env("exabgp.daemon.user", "root")
        .env("exabgp.log.level", "INFO")
        .env("exabgp.log.destination", "stdout")
        .env("exabgp.api.cli", "false")
        .env("exabgp.tcp.attempts", "0")
        .arg(&config);
    if spec.passive {
        command.env("exabgp.tcp.bind", ends.own.to_string()).env("exabgp.tcp.port", "179");
    }
    let process = lab.spawn(name, &mut command)?;
    lab.watch_log(&events);
    Ok(Neighbour { kind: Kind::ExaBgp, log: events, running: Running::Process(process) })
}

fn start_gobgp(lab: &Lab, site: &Site, name: &str, ends: &Ends, spec: &NeighbourSpec) -> Result<Neighbour> {
    let folder = lab.folder(name)?;
    let family = if spec.v6 { "ipv6-unicast" } else { "ipv4-unicast" };
    let mut text = format!(
        "[global.config]\n  as = {}\n  router-id = \"{}\"\n\n[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"\n    \
         peer-as = {}\n",
        ends.asn, ends.id, ends.router, spec.router_asn
    );
    if let Some(password) = &spec.password {
        let _ = writeln!(text, "    auth-password = \"{password}\"");
    }
    let _ = writeln!(text, "  [neighbors.timers.config]\n    connect-retry = 1\n    idle-hold-time-after-reset = 1");
    let _ = writeln!(
        text,
        "  [neighbors.transport.config]\n    local-address = \"{}\"\n    passive-mode = {}",
        ends.own, spec.passive
    );
    let _ = writeln!(
        text,
        "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}\""
    );
    let config = folder.join("gobgpd.toml");
    write(&config, &text)?;
    let mut command = site.ns.command("gobgpd");
    command.args(["--log-plain", "-l", "info", "-t", "toml", "-f"]).arg(&config);
    let process = lab.spawn(name, &mut command)?;
    for network in &spec.networks {
        let (network, next_hop) = (network.to_string(), ends.own.to_string());
        let family = if spec.v6 { "ipv6" } else { "ipv4" };
        // Its API answers a moment after its start.
        wait_until("gobgpd to take a route", Duration::from_secs(10), || {
            let args = ["global", "rib", "add", "-a", family, &network, "nexthop", &next_hop];
            site.ns.run("gobgp", &args).map(|_| ()).map_err(|e| format!("{e:#}"))
        })?;
    }
    Ok(Neighbour { kind: Kind::GoBgp, log: process.log_path().to_owned(), running: Running::Process(process) })
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Prefixes out of text, for scenarios.
pub fn prefixes(text: &[&str]) -> Result<Vec<Prefix>> {
    text.iter().map(|p| p.parse().map_err(|_| anyhow::anyhow!("not a prefix: {p}"))).collect()
}

/// The unicast family of one IP version.
pub const fn family(v6: bool) -> Family {
    if v6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST }
}
