//! A router whose daemons virtd starts itself, by their `kind`: their files, their processes, their
//! deaths and their returns.

use crate::daemons::{Daemon, Lie, RouterSpec};
use crate::lab::{Lab, Star, run, wait_for, wait_until};
use crate::router::{Options, Router};
use crate::versions::Version;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wire::bgp::Prefix;

/// What BIRD's configuration says of routes to the kernel.
const BIRD_TO_KERNEL: &str = "ipv4 { export all; };";

/// One daemon with a file of its own.
#[derive(Debug)]
struct Kind {
    name: String,
    daemon: Daemon,
    spec: RouterSpec,
    /// Where its log goes.
    folder: PathBuf,
    /// Where virtd has it make its sockets.
    run: PathBuf,
    /// Lines for the end of its file.
    more: String,
    /// A prefix that BIRD writes to the kernel with another next hop than it has chosen.
    wrong_hop: Option<(Prefix, Ipv4Addr)>,
}

impl Kind {
    fn file(&self) -> PathBuf {
        self.folder.join("bgp.conf")
    }

    fn write(&self) -> Result<()> {
        let file = self.file();
        // OpenBGPD's control socket is named in its file; of the others, the log is.
        let named = if self.daemon == Daemon::OpenBgpd { &self.run } else { &self.folder };
        let mut text = self.daemon.configuration(&self.spec, named) + &self.more;
        if let Some((prefix, gateway)) = self.wrong_hop {
            let filter = format!("ipv4 {{ export filter {{ if net = {prefix} then gw = {gateway}; accept; }}; }};");
            ensure!(text.contains(BIRD_TO_KERNEL), "BIRD's configuration has no kernel protocol to change: {text}");
            text = text.replacen(BIRD_TO_KERNEL, &filter, 1);
        }
        fs::write(&file, text)?;
        match self.daemon {
            Daemon::Frr => run("chown", &["-R", "frr:frr", &self.folder.display().to_string()]).map(|_| ()),
            Daemon::Bird => Ok(()),
            Daemon::OpenBgpd => Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?),
        }
    }
}

/// virtd, and the daemons that it starts and brings back.
#[derive(Debug)]
pub struct Kinds {
    /// virtd. It has no instances of the scenario's own.
    pub router: Router,
    list: Vec<Kind>,
}

impl Kinds {
    /// Starts virtd with the options' daemons by kind. `more` gives lines for the end of an
    /// instance's own file.
    pub fn start(lab: &Lab, star: &Star, options: &Options, more: impl Fn(&str) -> String) -> Result<Kinds> {
        Kinds::with_toml(lab, star, options, more, |text| text)
    }

    /// The same with a virtd.toml that the scenario has changed.
    pub fn with_toml(
        lab: &Lab,
        star: &Star,
        options: &Options,
        more: impl Fn(&str) -> String,
        edit: impl FnOnce(String) -> String,
    ) -> Result<Kinds> {
        let (mut list, mut roots) = (Vec::new(), Vec::new());
        for (i, (name, &daemon)) in options.names().into_iter().zip(&options.daemons).enumerate() {
            roots.push(options.versions.get(i).copied().flatten().map(Version::needed).transpose()?);
            let (folder, run) =
                (lab.folder(&format!("conf-{name}"))?, lab.folder("virtd")?.join("instances").join(&name));
            let more = more(&name);
            let spec = options.spec_of(&name, &star.sites);
            let kind = Kind { name, daemon, spec, folder, run, more, wrong_hop: None };
            kind.write()?;
            list.push(kind);
        }
        let router = Router::with_toml(lab, star, options, |mut text| {
            for (kind, root) in list.iter().zip(&roots) {
                let line = format!("name = {:?}\n", kind.name);
                let root = root.as_ref().map_or_else(String::new, |r| format!("root = {:?}\n", r.path));
                let by_kind = format!("{line}kind = {:?}\nconfig = {:?}\n{root}", kind.daemon.name(), kind.file());
                text = text.replace(&line, &by_kind);
            }
            // Deaths follow each other faster here than they may in life. Writing to a String
            // cannot fail.
            let _ = writeln!(text, "[faults]\nrestart_min_s = 1\nrestart_max_s = 2\n");
            edit(text)
        })?;
        Ok(Kinds { router, list })
    }

    fn kind(&mut self, name: &str) -> Result<&mut Kind> {
        self.list.iter_mut().find(|k| k.name == name).with_context(|| format!("no instance {name}"))
    }

    /// Where the log that its own configuration names is.
    pub fn log_folder(&mut self, name: &str) -> Result<&Path> {
        Ok(&self.kind(name)?.folder)
    }

    /// Where virtd has it make its sockets.
    pub fn run_folder(&self, name: &str) -> Result<&Path> {
        Ok(&self.list.iter().find(|k| k.name == name).with_context(|| format!("no instance {name}"))?.run)
    }

    /// Their names, in the order of the options.
    pub fn names(&self) -> impl Iterator<Item = (&str, Daemon)> {
        self.list.iter().map(|k| (k.name.as_str(), k.daemon))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Waits until every one votes, or stands by where that is what it is for.
    pub fn wait_voting(&self, timeout: Duration) -> Result<()> {
        self.list.iter().try_for_each(|k| {
            wait_until(&format!("{} to be voting", k.name), timeout, || match self.router.state_of(&k.name) {
                Ok(now) if now == "voting" || now == "standby" => Ok(()),
                Ok(now) => Err(format!("it is {now}")),
                Err(e) => Err(format!("{e:#}")),
            })
        })
    }

    /// The processes with the shim in them, the leader first; none while it is down.
    pub fn pids(&self, name: &str) -> Result<Vec<Pid>> {
        let pids = self.router.known(name)?.pids;
        Ok(pids.into_iter().filter_map(|p| i32::try_from(p).ok()).map(Pid::from_raw).collect())
    }

    /// The process that speaks BGP, or leads those that do. With a FIB, FRR's zebra has the shim
    /// too and comes first in the list.
    pub fn leader(&self, name: &str) -> Result<Pid> {
        let kind = self.list.iter().find(|k| k.name == name).with_context(|| format!("no instance {name}"))?;
        if kind.daemon == Daemon::Frr {
            return pid_in(&kind.run.join("bgpd.pid"));
        }
        self.pids(name)?.first().copied().with_context(|| format!("{name} has no process"))
    }

    /// FRR's zebra, by the file that it writes.
    pub fn zebra(&mut self, name: &str) -> Result<Pid> {
        pid_in(&self.kind(name)?.run.join("zebra.pid"))
    }

    /// What FRR's zebra prints; `virtctl exec` asks bgpd.
    pub fn ask_zebra(&mut self, name: &str, command: &str) -> Result<String> {
        let socket = self.kind(name)?.run.display().to_string();
        run("vtysh", &["--vty_socket", &socket, "-d", "zebra", "-c", command])
    }

    /// What virtd has told of ends of its processes.
    pub fn exits(&self, name: &str) -> Vec<String> {
        let all = self.router.events("instance-exited").into_iter().filter(|e| e["instance"] == name);
        all.map(|e| e["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Ends one process of an instance by a signal; returns virtd's own word on it, which has to
    /// name the signal.
    pub fn kill(&self, name: &str, pid: Pid, signal: Signal, timeout: Duration) -> Result<String> {
        let before = self.exits(name).len();
        kill(pid, signal).with_context(|| format!("sending {signal} to {name}"))?;
        wait_for(&format!("the end of {name} to be reported"), timeout, || self.exits(name).len() > before)?;
        self.exits(name).get(before).cloned().context("no event")
    }

    /// Waits until virtd has brought an instance back: it votes, and none of the `old` processes is
    /// left.
    pub fn wait_return(&self, name: &str, old: &[Pid], timeout: Duration) -> Result<()> {
        wait_until(&format!("{name} to vote as new processes"), timeout, || {
            let now = self.pids(name).map_err(|e| format!("{e:#}"))?;
            let state = self.router.state_of(name).map_err(|e| format!("{e:#}"))?;
            let new = !now.is_empty() && now.iter().all(|p| !old.contains(p));
            if new && state == "voting" { Ok(()) } else { Err(format!("{state}, {old:?} and now {now:?}")) }
        })
    }

    /// Changes an instance's own configuration file; it does not read it before it is told to.
    pub fn edit(&mut self, name: &str, edit: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.kind(name)?.file();
        let (before, mode) = (fs::read_to_string(&file)?, fs::metadata(&file)?.permissions());
        let after = edit(before.clone());
        ensure!(after != before, "nothing was changed in the configuration of {name}: {before}");
        fs::write(&file, after)?;
        Ok(fs::set_permissions(&file, mode)?)
    }

    /// What an instance will lie about from its next start on.
    pub fn set_lie(&mut self, name: &str, lie: Option<Lie>) -> Result<()> {
        let kind = self.kind(name)?;
        kind.spec.lie = lie;
        kind.write()
    }

    /// Gives a running BIRD another lie, or none, through `virtctl exec`.
    pub fn bird_lie(&mut self, name: &str, lie: Option<Lie>) -> Result<()> {
        self.change_bird(name, |kind| kind.spec.lie = lie)
    }

    /// Has a running BIRD write one prefix to the kernel with a wrong next hop, or none.
    pub fn bird_wrong_hop(&mut self, name: &str, wrong: Option<(Prefix, Ipv4Addr)>) -> Result<()> {
        self.change_bird(name, |kind| kind.wrong_hop = wrong)
    }

    fn change_bird(&mut self, name: &str, change: impl FnOnce(&mut Kind)) -> Result<()> {
        let kind = self.kind(name)?;
        ensure!(kind.daemon == Daemon::Bird, "{name} is no BIRD");
        change(kind);
        kind.write()?;
        let text = self.router.show(&["exec", name, "configure"])?;
        ensure!(text.contains("Reconfigur"), "birdc configure: {text}");
        Ok(())
    }
}

fn pid_in(path: &Path) -> Result<Pid> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Pid::from_raw(text.trim().parse()?))
}
