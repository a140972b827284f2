//! An instance that can be broken: its start script, its processes, its configuration at run time.

use crate::daemons::{Daemon, RouterSpec, Shim};
use crate::lab::{Lab, Netns, Process, built, run, wait_until};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;
use wire::bgp::{Family, Prefix};

/// A daemon answers its control program this long after a restart at the latest.
const START: Duration = Duration::from_secs(30);
/// Processes are gone this long after SIGKILL.
const GONE: Duration = Duration::from_secs(20);
/// Name of FRR's route map and prefix list that lie.
const MAP: &str = "FAULT";
/// A next hop on the neighbours' own link that nobody has.
const WRONG_HOST: u8 = 77;
/// An AS that is not on any path.
const WRONG_AS: u32 = 64999;

/// What an instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its daemon.
    Daemon,
    /// hv-badspeaker in its daemon's place.
    Speaker,
    /// Nothing: it stays away, however often it is started.
    Down,
}

impl Mode {
    const fn word(self) -> &'static str {
        match self {
            Mode::Daemon => "daemon",
            Mode::Speaker => "speaker",
            Mode::Down => "down",
        }
    }
}

/// Something wrong that a real daemon says because its configuration, changed at run time, says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// This prefix goes out with a next hop that is nobody's.
    NextHop(Prefix),
    /// This prefix goes out with an AS in its path that is not on it.
    Path(Prefix),
    /// This prefix, which nobody has announced, goes out.
    Extra(Prefix),
    /// This prefix does not go out.
    Missing(Prefix),
    /// Every prefix goes out with a community that does not belong there. FRR only, and only until
    /// it is started again.
    Everywhere,
}

/// One instance of the router.
#[derive(Debug)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Which daemon it is when it is itself.
    pub daemon: Daemon,
    spec: RouterSpec,
    folder: PathBuf,
    ns: Netns,
    mode: Mode,
    lie: Option<Lie>,
    /// Where the scene starts it and not virtd.
    process: Option<Process>,
}

impl Slot {
    /// Writes its files. Nothing is started.
    pub fn new(lab: &Lab, ns: &Netns, name: &str, daemon: Daemon, spec: &RouterSpec, shim: &Shim) -> Result<Slot> {
        let slot = Slot {
            name: name.to_owned(),
            daemon,
            spec: spec.clone(),
            folder: lab.folder(name)?,
            ns: ns.clone(),
            mode: Mode::Daemon,
            lie: None,
            process: None,
        };
        slot.write_configuration()?;
        slot.write_mode()?;
        slot.order("honest")?;
        fs::write(slot.folder.join("start.sh"), slot.script(shim)?)?;
        // Whoever writes a command into it has it run as a part of this instance.
        run("mkfifo", &["-m", "666", &slot.file("fifo")])?;
        if daemon == Daemon::Frr {
            lab.watch_log(&slot.folder.join("frr.log"));
        }
        Ok(slot)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// The command that becomes the instance, without the shim: the script gives it to the BGP
    /// daemon alone.
    pub fn command(&self) -> Vec<String> {
        ["/usr/bin/env", "-u", "LD_PRELOAD", "/bin/sh"]
            .map(str::to_owned)
            .into_iter()
            .chain([self.file("start.sh")])
            .collect()
    }

    fn script(&self, shim: &Shim) -> Result<String> {
        let (folder, speaker) = (self.folder.display(), built("hv-badspeaker")?);
        let preload = format!(
            "exec env LD_PRELOAD={} HV_SOCKET={} HV_INSTANCE={}",
            shim.library.display(),
            shim.socket.display(),
            self.name
        );
        let daemon = match self.daemon {
            Daemon::Frr => format!(
                "rm -f {folder}/*.pid {folder}/*.vty {folder}/zserv.api\n\
                 /usr/lib/frr/zebra -f /dev/null -i {folder}/zebra.pid -z {folder}/zserv.api --vty_socket {folder} -P 0 &\n\
                 while [ ! -S {folder}/zserv.api ]; do sleep 0.05; done\n\
                 {preload} /usr/lib/frr/bgpd --no_kernel -f {folder}/bgp.conf -i {folder}/bgpd.pid -z {folder}/zserv.api \
                 --vty_socket {folder} -P 0\n"
            ),
            Daemon::Bird => {
                format!("{preload} bird -f -c {folder}/bgp.conf -s {folder}/bird.ctl -P {folder}/bird.pid\n")
            }
            Daemon::OpenBgpd => {
                format!(
                    "rm -f {folder}/bgpd.sock\nmkdir -p /run/openbgpd\n{preload} /usr/sbin/bgpd -d -v -f {folder}/bgp.conf\n"
                )
            }
        };
        Ok(format!(
            "#!/bin/sh\n\
             # Becomes {name}, or what the file `mode` says.\n\
             echo $$ > {folder}/pid\n\
             read mode < {folder}/mode\n\
             exec >> {folder}/output.log 2>&1\n\
             case $mode in\n\
             down) exec sleep 2147483647 ;;\n\
             speaker) {preload} {speaker} --asn {asn} --router-id {id} --orders {folder}/orders ;;\n\
             esac\n\
             # Nobody's child: OpenBGPD waits for all of its own before it ends.\n\
             (read order < {folder}/fifo && exec $order &)\n\
             {daemon}",
            name = self.name,
            speaker = speaker.display(),
            asn = self.spec.asn,
            id = self.spec.router_id,
        ))
    }

    fn write_configuration(&self) -> Result<()> {
        let path = self.folder.join("bgp.conf");
        let text = self.daemon.configuration(&self.spec, &self.folder);
        let text = match (self.daemon, self.lie) {
            (Daemon::Bird, Some(lie)) => bird_lie(&text, lie, &self.spec)?,
            (Daemon::OpenBgpd, Some(lie)) => openbgpd_lie(text, lie, &self.spec)?,
            _ => text,
        };
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        match self.daemon {
            Daemon::Frr => run("chown", &["-R", "frr:frr", &self.folder.display().to_string()]).map(|_| ()),
            Daemon::Bird => Ok(()),
            // It refuses a configuration that others can read.
            Daemon::OpenBgpd => Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?),
        }
    }

    fn write_mode(&self) -> Result<()> {
        fs::write(self.folder.join("mode"), format!("{}\n", self.mode.word())).context("writing a mode")
    }

    /// What it runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What it shall run from its next start on.
    pub fn set_mode(&mut self, mode: Mode) -> Result<()> {
        self.mode = mode;
        self.write_mode()
    }

    /// Gives the bad speaker an order.
    pub fn order(&self, word: &str) -> Result<()> {
        // By rename, so that a half-written word is never read.
        let new = self.folder.join("orders.new");
        fs::write(&new, word)?;
        fs::rename(&new, self.folder.join("orders")).context("giving an order")
    }

    /// Waits until the bad speaker has taken its order.
    pub fn wait_order(&self, word: &str) -> Result<()> {
        let taken = self.folder.join("orders.taken");
        wait_until(&format!("the order {word} to be taken"), START, || match fs::read_to_string(&taken) {
            Ok(last) if last == word => Ok(()),
            Ok(last) => Err(format!("the last one was {last}")),
            Err(e) => Err(e.to_string()),
        })
    }

    /// Starts it, where virtd does not.
    pub fn start(&mut self, lab: &Lab) -> Result<()> {
        self.stop_own();
        let command = self.command();
        let (program, arguments) = command.split_first().context("an empty command")?;
        let process = lab.spawn(&format!("{}-start", self.name), self.ns.command(program).args(arguments))?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends what the scene has started itself.
    pub fn stop_own(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.crash();
        }
    }

    /// Waits until it runs what it should and its control program answers.
    pub fn wait_started(&self) -> Result<()> {
        let what = format!("{} to answer its control program", self.name);
        wait_until(&what, START, || match self.mode {
            Mode::Daemon => self.answers().map_err(|e| format!("{e:#}")),
            _ => self.pid().map(|_| ()).map_err(|e| format!("{e:#}")),
        })
    }

    fn answers(&self) -> Result<()> {
        match self.daemon {
            Daemon::Frr => self.control("show bgp summary"),
            Daemon::Bird => self.control("show status"),
            Daemon::OpenBgpd => self.control("show summary"),
        }
        .map(|_| ())
    }

    /// Its main process, which leads its process group.
    pub fn pid(&self) -> Result<Pid> {
        let text =
            fs::read_to_string(self.folder.join("pid")).with_context(|| format!("{} was never started", self.name))?;
        Ok(Pid::from_raw(text.trim().parse().context("reading a pid file")?))
    }

    /// A signal to all its processes.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        killpg(self.pid()?, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// A signal to its main process: what an operator's `kill` does.
    pub fn signal_main(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// SIGKILL to all its processes; returns when the main one is gone.
    pub fn crash(&mut self) -> Result<()> {
        let pid = self.pid()?;
        self.signal_all(Signal::SIGKILL)?;
        self.stop_own();
        // A zombie that nobody has waited for yet is gone as far as it matters here.
        wait_until("the killed process to be gone", GONE, || if running(pid) { Err(pid.to_string()) } else { Ok(()) })
    }

    /// Has a command run as a part of this instance, in its process group. Once after each start.
    pub fn run_inside(&self, command: &str) -> Result<()> {
        let mut fifo = fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.folder.join("fifo"))
            .with_context(|| format!("nobody waits for a command in {}", self.name))?;
        Ok(writeln!(fifo, "{command}")?)
    }

    /// Runs one command of its control program; several lines are one vtysh command each.
    pub fn control(&self, command: &str) -> Result<String> {
        match self.daemon {
            Daemon::Frr => {
                let folder = self.folder.display().to_string();
                let mut arguments = vec!["--vty_socket", &folder, "-d", "bgpd"];
                arguments.extend(command.lines().flat_map(|line| ["-c", line]));
                self.ns.run("vtysh", &arguments)
            }
            Daemon::Bird => self.ns.run("birdc", &["-s", &self.file("bird.ctl"), command]),
            Daemon::OpenBgpd => {
                let socket = self.file("bgpd.sock");
                let mut arguments = vec!["-s", &socket];
                arguments.extend(command.split_whitespace());
                run("bgpctl", &arguments)
            }
        }
    }

    /// Its operator resets every session (Cease, RFC 4486).
    pub fn clear_sessions(&self) -> Result<()> {
        match self.daemon {
            Daemon::Frr => self.control("clear bgp *").map(|_| ()),
            Daemon::Bird => self.control("restart all").map(|_| ()),
            Daemon::OpenBgpd => {
                let peers = self.spec.peers.iter();
                peers.map(|p| self.control(&format!("neighbor {} clear", p.address))).try_for_each(|r| r.map(|_| ()))
            }
        }
    }

    /// Its operator shuts its first neighbour down, or lets it come back.
    pub fn shut_first(&self, down: bool) -> Result<()> {
        let peer = self.spec.peers.first().context("no neighbour")?.address;
        let command = match self.daemon {
            Daemon::Frr => {
                let no = if down { "" } else { "no " };
                format!("configure terminal\nrouter bgp {}\n{no}neighbor {peer} shutdown", self.spec.asn)
            }
            Daemon::Bird => format!("{} peer0", if down { "disable" } else { "enable" }),
            Daemon::OpenBgpd => format!("neighbor {peer} {}", if down { "down" } else { "up" }),
        };
        self.control(&command).map(drop)
    }

    /// Gives the running daemon another lie to tell, or none.
    pub fn set_lie(&mut self, lie: Option<Lie>) -> Result<()> {
        let before = std::mem::replace(&mut self.lie, lie);
        self.write_configuration()?;
        match self.daemon {
            Daemon::Frr => {
                let mut lines = vec!["configure terminal".to_owned()];
                lines.extend(before.into_iter().flat_map(|lie| frr_lie(lie, &self.spec, false)));
                lines.extend(lie.into_iter().flat_map(|lie| frr_lie(lie, &self.spec, true)));
                self.control(&lines.join("\n")).map(|_| ())
            }
            Daemon::Bird => {
                let answer = self.control("configure")?;
                let done = answer.contains("Reconfigured") || answer.contains("Reconfiguration in progress");
                ensure!(done, "birdc configure: {answer}");
                Ok(())
            }
            Daemon::OpenBgpd => self.control("reload").map(|_| ()),
        }
    }

    /// It was started again with the configuration of its file, in which no lie stands.
    pub fn forget_lie(&mut self) {
        self.lie = None;
    }

    /// Whether a lie is still in it.
    pub fn lies(&self) -> bool {
        self.lie.is_some()
    }
}

/// Whether a process runs: it exists and is no zombie.
pub fn running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// The next hop that is nobody's, on the link of the first neighbour: wrong towards all of them.
fn wrong_next_hop(spec: &RouterSpec) -> String {
    match spec.peers.first().map(|p| p.address) {
        Some(std::net::IpAddr::V4(a)) => {
            let [a, b, c, _] = a.octets();
            format!("{a}.{b}.{c}.{WRONG_HOST}")
        }
        _ => format!("192.0.2.{WRONG_HOST}"),
    }
}

/// The lines of vtysh that begin a lie, or end it.
fn frr_lie(lie: Lie, spec: &RouterSpec, begin: bool) -> Vec<String> {
    let no = if begin { "" } else { "no " };
    let mut lines = Vec::new();
    let (prefix, action, set) = match lie {
        Lie::Extra(prefix) => {
            lines.extend([format!("router bgp {}", spec.asn), "address-family ipv4 unicast".to_owned()]);
            lines.extend([format!("{no}network {prefix}"), "exit".to_owned(), "exit".to_owned()]);
            return lines;
        }
        Lie::NextHop(prefix) => {
            (prefix.to_string(), "permit", Some(format!("set ip next-hop {}", wrong_next_hop(spec))))
        }
        Lie::Path(prefix) => (prefix.to_string(), "permit", Some(format!("set as-path prepend {WRONG_AS}"))),
        Lie::Missing(prefix) => (prefix.to_string(), "deny", None),
        Lie::Everywhere => ("any".to_owned(), "permit", Some(format!("set community {WRONG_AS}:1 additive"))),
    };
    let list = format!("ip prefix-list {MAP} seq 5 permit {prefix}");
    if begin {
        lines.extend(["bgp route-map delay-timer 0".to_owned(), list.clone()]);
        lines.extend([format!("route-map {MAP} {action} 10"), format!("match ip address prefix-list {MAP}")]);
        lines.extend(set);
        lines.extend(["exit".to_owned(), format!("route-map {MAP} permit 20"), "exit".to_owned()]);
    }
    lines.extend([format!("router bgp {}", spec.asn), "address-family ipv4 unicast".to_owned()]);
    lines.extend(spec.peers.iter().map(|p| format!("{no}neighbor {} route-map {MAP} out", p.address)));
    lines.extend(["exit".to_owned(), "exit".to_owned()]);
    if !begin {
        lines.extend([format!("no route-map {MAP}"), format!("no {list}")]);
    }
    lines
}

fn bird_lie(text: &str, lie: Lie, spec: &RouterSpec) -> Result<String> {
    let mut text = text.to_owned();
    let line = match lie {
        Lie::Extra(prefix) => {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\nprotocol static fault {{\n    ipv4;\n    route {prefix} blackhole;\n}}");
            return Ok(text);
        }
        Lie::NextHop(prefix) => format!("if net = {prefix} then bgp_next_hop = {};", wrong_next_hop(spec)),
        Lie::Path(prefix) => format!("if net = {prefix} then bgp_path.prepend({WRONG_AS});"),
        Lie::Missing(prefix) => format!("if net = {prefix} then reject;"),
        Lie::Everywhere => bail!("only FRR tells this lie"),
    };
    let filter = "filter to_peer {\n";
    if !text.contains(filter) {
        bail!("BIRD's configuration has no filter towards the neighbours");
    }
    Ok(text.replacen(filter, &format!("{filter}    {line}\n"), 1))
}

fn openbgpd_lie(text: String, lie: Lie, spec: &RouterSpec) -> Result<String> {
    let line = match lie {
        Lie::Extra(prefix) => format!("network {prefix}"),
        Lie::NextHop(prefix) => format!("match to any prefix {prefix} set nexthop {}", wrong_next_hop(spec)),
        Lie::Path(prefix) => format!("match to any prefix {prefix} set prepend-self 2"),
        Lie::Missing(prefix) => format!("deny to any prefix {prefix}"),
        Lie::Everywhere => bail!("only FRR tells this lie"),
    };
    Ok(format!("{text}{line}\n"))
}

/// The name of every instance: the daemon's, with a number behind it from the second of a kind on.
pub fn names(daemons: &[Daemon]) -> Vec<String> {
    let name = |(i, daemon): (usize, &Daemon)| {
        let before = daemons.iter().take(i).filter(|d| *d == daemon).count();
        if before == 0 { daemon.name().to_owned() } else { format!("{}{}", daemon.name(), before + 1) }
    };
    daemons.iter().enumerate().map(name).collect()
}

/// A prefix out of text that is one.
pub fn prefix(text: &str) -> Result<Prefix> {
    let prefix: Prefix = text.parse().map_err(|_| anyhow::anyhow!("not a prefix: {text}"))?;
    ensure!(prefix.family() == Family::IPV4_UNICAST, "{prefix} is not an IPv4 prefix");
    Ok(prefix)
}
