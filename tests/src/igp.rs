//! Interior routing protocols: OSPF, IS-IS and RIP as FRR and BIRD speak them, each alone with what
//! it needs to write routes, with costs and timers under which all three find the same paths; and
//! the small network that they are spoken in.

use crate::daemons::{Attach, Shim};
use crate::fib::{Hop, by_protocol};
use crate::lab::{Lab, Netns, Process, Star, finish, run, wait_for, wait_until};
use crate::versions::{Root, Version};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const FRR: &str = "/usr/lib/frr";
/// How long a daemon may take from its start to answering its control program.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A protocol, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Igp {
    /// OSPF (RFC 2328): FRR's zebra and ospfd.
    Ospf,
    /// IS-IS (ISO 10589, RFC 1195): zebra and isisd of FRR 10.3, where that can be had.
    IsIs,
    /// RIP version 2 (RFC 2453): BIRD.
    Rip,
}

impl Igp {
    /// All three.
    pub const ALL: [Igp; 3] = [Igp::Ospf, Igp::IsIs, Igp::Rip];

    /// A short name.
    pub const fn name(self) -> &'static str {
        match self {
            Igp::Ospf => "ospf",
            Igp::IsIs => "isis",
            Igp::Rip => "rip",
        }
    }

    /// rtm_protocol of the routes that its daemon writes where nobody stands between.
    pub const fn rtm_protocol(self) -> &'static str {
        match self {
            Igp::Ospf => "188",
            Igp::IsIs => "187",
            Igp::Rip => "12",
        }
    }
}

/// Which of FRR's daemons a router runs beside zebra, or that it is BIRD.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Software {
    /// zebra and these.
    Frr(Vec<Igp>),
    /// BIRD with RIP.
    Bird,
}

/// A running router: one instance, or a neighbour.
#[derive(Debug)]
pub struct Speaker {
    /// Its name; what HV_INSTANCE says.
    pub name: String,
    software: Software,
    ns: Netns,
    folder: PathBuf,
    attach: Attach,
    /// Where its programs are, if they are not the installed ones.
    root: Option<Root>,
    processes: Vec<Process>,
}

/// One end of the network for one router: the last octet of its id, the interfaces on which it
/// speaks, those that it only announces.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    number: u8,
    links: &'a [&'a str],
    silent: &'a [&'a str],
}

/// The FRR that speaks IS-IS in the middle: the zebras of one version have the same bugs.
pub const ISIS: Version = Version::FRR_13;
/// The router in the middle.
const MIDDLE: Place<'_> = Place { number: 1, links: &["n1", "n2"], silent: &[] };
/// A neighbour's interfaces: the router, the other neighbour, two networks behind it.
const NEIGHBOUR_LINKS: &[&str] = &["r0", "x0"];
const NETWORKS: &[&str] = &["d1", "d2"];

impl Speaker {
    /// One protocol alone in the router in the middle.
    ///
    /// # Errors
    /// It does not start.
    pub fn in_the_middle(lab: &Lab, ns: &Netns, igp: Igp, name: &str, attach: &Attach) -> Result<Speaker> {
        let software = match igp {
            Igp::Rip => Software::Bird,
            frr => Software::Frr(vec![frr]),
        };
        let root = if igp == Igp::IsIs { Some(ISIS.needed()?) } else { None };
        let attach = match (attach, &root) {
            // The scenario's folder is where a root can see the shim.
            (Attach::Shim(shim), Some(_)) => {
                let library = lab.folder("shim")?.join("libhvlibc.so");
                fs::copy(&shim.library, &library).context("copying the shim")?;
                Attach::Shim(Shim { library, ..shim.clone() })
            }
            _ => attach.clone(),
        };
        Speaker::start(lab, ns, name, software, MIDDLE, &attach, root)
    }

    /// FRR with all three protocols, as neighbour number 1 or 2.
    ///
    /// # Errors
    /// It does not start.
    pub fn neighbour(lab: &Lab, ns: &Netns, number: u8) -> Result<Speaker> {
        let place = Place { number: number + 1, links: NEIGHBOUR_LINKS, silent: NETWORKS };
        let software = Software::Frr(Igp::ALL.to_vec());
        Speaker::start(lab, ns, &format!("neighbour{number}"), software, place, &Attach::Native, None)
    }

    fn start(
        lab: &Lab,
        ns: &Netns,
        name: &str,
        software: Software,
        place: Place<'_>,
        attach: &Attach,
        root: Option<Root>,
    ) -> Result<Speaker> {
        let folder = lab.folder(name)?;
        let (ns, attach) = (ns.clone(), attach.clone());
        let mut speaker = Speaker { name: name.to_owned(), software, ns, folder, attach, root, processes: Vec::new() };
        for (file, text) in speaker.configurations(place) {
            fs::write(speaker.folder.join(&file), text).with_context(|| format!("writing {file}"))?;
        }
        if speaker.software != Software::Bird {
            let folder = speaker.folder.display().to_string();
            finish(speaker.program("chown").args(["-R", "frr:frr", &folder]))?;
        }
        speaker.launch(lab)?;
        Ok(speaker)
    }

    fn configurations(&self, place: Place<'_>) -> Vec<(String, String)> {
        match &self.software {
            Software::Bird => vec![("bird.conf".to_owned(), bird(place, &self.folder))],
            Software::Frr(list) => {
                let log = |daemon: &str| format!("log file {}\n", self.folder.join(format!("{daemon}.log")).display());
                let mut all = vec![("zebra.conf".to_owned(), log("zebra"))];
                for igp in list {
                    let (daemon, text) = match igp {
                        Igp::Ospf => ("ospfd", ospfd(place)),
                        Igp::IsIs => ("isisd", isisd(place)),
                        Igp::Rip => ("ripd", ripd(place)),
                    };
                    all.push((format!("{daemon}.conf"), log(daemon) + &text));
                }
                all
            }
        }
    }

    /// Starts its processes, at first or again after a crash.
    ///
    /// # Errors
    /// It does not answer its control program.
    pub fn launch(&mut self, lab: &Lab) -> Result<()> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut started = Vec::new();
        match &self.software {
            Software::Bird => {
                let mut command = self.shimmed("bird");
                command.args(["-f", "-c", &file("bird.conf"), "-s", &file("bird.ctl"), "-P", &file("bird.pid")]);
                started.push(lab.spawn(&self.name, &mut command)?);
                lab.watch_log(&self.folder.join("bird.log"));
            }
            Software::Frr(list) => {
                // What a crash left behind would be taken for the new one's.
                let _ = fs::remove_file(self.folder.join("zserv.api"));
                let daemons = list.iter().map(|igp| match igp {
                    Igp::Ospf => "ospfd",
                    Igp::IsIs => "isisd",
                    Igp::Rip => "ripd",
                });
                for daemon in std::iter::once("zebra").chain(daemons) {
                    let program = format!("{FRR}/{daemon}");
                    // The others speak to their zebra, and their own protocol to the wire: the
                    // kernel's routes are zebra's.
                    let mut command = if daemon == "zebra" { self.shimmed(&program) } else { self.program(&program) };
                    let config = file(&format!("{daemon}.conf"));
                    command.args(["-f", &config, "-i", &file(&format!("{daemon}.pid")), "-z", &file("zserv.api")]);
                    command.args(["--vty_socket", &self.folder.display().to_string(), "-P", "0"]);
                    started.push(lab.spawn(&format!("{}-{daemon}", self.name), &mut command)?);
                    lab.watch_log(&self.folder.join(format!("{daemon}.log")));
                    let socket = self.folder.join("zserv.api");
                    wait_for("zebra's socket", START_TIMEOUT, || socket.exists())?;
                }
            }
        }
        self.processes.append(&mut started);
        wait_until(&format!("{} to answer", self.name), START_TIMEOUT, || {
            self.believes().map(|_| ()).map_err(|e| format!("{e:#}"))
        })
    }

    /// A program of its version.
    fn program(&self, program: &str) -> Command {
        match &self.root {
            None => self.ns.command(program),
            Some(root) => root.command(&self.ns, program),
        }
    }

    /// A command with the shim in it where wanted; through env(1): the shim belongs into the daemon
    /// alone.
    fn shimmed(&self, program: &str) -> Command {
        let Attach::Shim(Shim { library, socket }) = &self.attach else { return self.program(program) };
        let mut command = self.program("env");
        command.arg(format!("LD_PRELOAD={}", library.display())).arg(format!("HV_SOCKET={}", socket.display()));
        command.arg(format!("HV_INSTANCE={}", self.name)).arg(program);
        command
    }

    /// One command of zebra's or BIRD's.
    ///
    /// # Errors
    /// The control program's.
    pub fn control(&self, command: &str) -> Result<String> {
        match &self.software {
            Software::Bird => {
                let socket = self.folder.join("bird.ctl").display().to_string();
                finish(self.program("birdc").args(["-s", &socket, command]))
            }
            Software::Frr(_) => {
                let folder = self.folder.display().to_string();
                finish(self.program("vtysh").args(["--vty_socket", &folder, "-d", "zebra", "-c", command]))
            }
        }
    }

    /// How many routes of its protocol it believes to be in the kernel, and how many should be
    /// there and are not.
    ///
    /// # Errors
    /// Its control program's, or an answer that cannot be read.
    pub fn believes(&self) -> Result<(usize, usize)> {
        let (all, missing) = match &self.software {
            Software::Bird => {
                let text = self.control("show route primary where source = RTS_RIP")?;
                let lines: Vec<&str> = text.lines().filter(|l| l.contains(" [rip")).collect();
                (lines.len(), lines.iter().filter(|l| l.contains('!')).count())
            }
            Software::Frr(_) => {
                let text = self.control("show ip route json")?;
                let start = text.find('{').context("zebra printed no JSON")?;
                let routes: serde_json::Map<String, Value> = serde_json::from_str(&text[start..])?;
                let igp = |r: &&Value| Igp::ALL.iter().any(|p| r["protocol"] == p.name()) && r["selected"] == true;
                let all: Vec<&Value> = routes.values().filter_map(Value::as_array).flatten().filter(igp).collect();
                (all.len(), all.iter().filter(|r| r["installed"] != true).count())
            }
        };
        Ok((all - missing, missing))
    }

    /// Its configuration's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// SIGKILL to all its processes.
    pub fn crash(&mut self) {
        self.processes.iter_mut().for_each(Process::crash);
        self.processes.clear();
    }

    /// Asks all its processes to end: what they have written to the kernel goes with them.
    pub fn stop(&mut self) {
        self.processes.iter_mut().rev().for_each(Process::stop);
        self.processes.clear();
    }
}

fn ospfd(place: Place<'_>) -> String {
    let mut text = String::new();
    for name in place.links.iter().chain(place.silent) {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "interface {name}\n ip ospf area 0\n ip ospf network point-to-point\n ip ospf cost 10\n\
             \x20ip ospf hello-interval 1\n ip ospf dead-interval 5\n"
        );
        if place.silent.contains(name) {
            text.push_str(" ip ospf passive\n");
        }
        text.push_str("exit\n");
    }
    let _ = write!(
        text,
        "router ospf\n ospf router-id 10.255.0.{}\n timers throttle spf 0 50 500\n timers throttle lsa all 0\n\
         \x20timers lsa min-arrival 0\nexit\n",
        place.number
    );
    text
}

fn isisd(place: Place<'_>) -> String {
    let mut text = String::new();
    for name in place.links.iter().chain(place.silent) {
        let _ = write!(
            text,
            "interface {name}\n ip router isis core\n isis circuit-type level-2-only\n isis network point-to-point\n\
             \x20isis metric 10\n isis hello-interval 1\n isis hello-multiplier 5\n"
        );
        if place.silent.contains(name) {
            text.push_str(" isis passive\n");
        }
        text.push_str("exit\n");
    }
    let _ = write!(
        text,
        "router isis core\n net 49.0001.0000.0000.{:04}.00\n is-type level-2-only\n metric-style wide\n spf-interval 1\n\
         \x20lsp-gen-interval 1\nexit\n",
        place.number
    );
    text
}

fn ripd(place: Place<'_>) -> String {
    let mut text = String::from("router rip\n version 2\n timers basic 5 15 10\n allow-ecmp\n");
    for name in place.links.iter().chain(place.silent) {
        let _ = writeln!(text, " network {name}");
    }
    for name in place.silent {
        let _ = writeln!(text, " passive-interface {name}");
    }
    text + "exit\n"
}

/// Direct routes are there so that RIP's own of the same prefix lose against them, as they do in
/// FRR; the kernel has them already.
fn bird(place: Place<'_>, folder: &Path) -> String {
    let links: Vec<String> = place.links.iter().map(|l| format!("\"{l}\"")).collect();
    format!(
        "log \"{log}\" all;\n\
         router id 10.255.0.{number};\n\n\
         protocol device {{}}\n\n\
         protocol direct {{\n    ipv4;\n}}\n\n\
         protocol kernel {{\n    ipv4 {{ export where source = RTS_RIP; }};\n    scan time 5;\n}}\n\n\
         protocol rip {{\n    ipv4 {{ import all; export where source ~ [ RTS_RIP, RTS_DEVICE ]; }};\n    interface {links} {{\n        version 2;\n        \
         update time 5;\n        timeout time 15;\n        garbage time 10;\n    }};\n}}\n",
        log = folder.join("bird.log").display(),
        number = place.number,
        links = links.join(", ")
    )
}

/// The network: the router in the middle, two neighbours, a link between these, and two networks
/// behind each.
///
/// ```text
///      10.1.1.0/24                          10.2.1.0/24
///      10.1.2.0/24                          10.2.2.0/24
///          [1] x0 ───── 10.0.9.0/24 ───── x0 [2]
///          r0                                 r0
///           └─ 10.0.1.0/24 ─ n1 [r] n2 ─ 10.0.2.0/24
/// ```
///
/// # Errors
/// ip(8)'s.
pub fn triangle(lab: &mut Lab) -> Result<Star> {
    let star = lab.star(2)?;
    let [one, two] = star.sites.as_slice() else { anyhow::bail!("a star of two") };
    let (a, b) = (one.ns.name(), two.ns.name());
    run("ip", &["link", "add", "x0", "netns", a, "type", "veth", "peer", "name", "x0", "netns", b])?;
    for site in &star.sites {
        let number = site.number;
        site.ns.run("ip", &["address", "add", &format!("10.0.9.{number}/24"), "dev", "x0"])?;
        site.ns.run("ip", &["link", "set", "x0", "up"])?;
        for (i, device) in (1..).zip(NETWORKS) {
            // A veth pair whose far end nobody uses: not every kernel has dummy interfaces.
            let far = format!("{device}far");
            site.ns.run("ip", &["link", "add", device, "type", "veth", "peer", "name", &far])?;
            site.ns.run("ip", &["link", "set", &far, "up"])?;
            site.ns.run("ip", &["address", "add", &format!("10.{number}.{i}.1/24"), "dev", device])?;
            site.ns.run("ip", &["link", "set", device, "up"])?;
        }
    }
    for ns in [&star.router, &one.ns, &two.ns] {
        ns.run("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"])?;
    }
    Ok(star)
}

/// Routes as [`crate::fib::kernel`] reads them.
pub type Routes = BTreeMap<String, Vec<Hop>>;

/// What the router in the middle should have: everything by the shortest way, or round by neighbour
/// 2 while the link to 1 is down.
pub fn shortest(link_to_1: bool) -> Routes {
    let hop = |n: u8| (Some(format!("10.0.{n}.2")), Some(format!("n{n}")));
    let mut routes = Routes::new();
    for (number, network) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let by = if link_to_1 { number } else { 2 };
        routes.insert(format!("10.{number}.{network}.0/24"), vec![hop(by)]);
    }
    routes.insert("10.0.9.0/24".to_owned(), if link_to_1 { vec![hop(1), hop(2)] } else { vec![hop(2)] });
    routes
}

/// What one protocol's daemon alone writes to the kernel of the router in the middle, once it comes
/// to `expected`; it is ended afterwards.
///
/// # Errors
/// It does not come to that.
pub fn alone(lab: &Lab, ns: &Netns, igp: Igp, expected: &Routes, timeout: Duration) -> Result<()> {
    let mut speaker = Speaker::in_the_middle(lab, ns, igp, &format!("alone-{}", igp.name()), &Attach::Native)?;
    wait_until(&format!("{} alone to write its routes", igp.name()), timeout, || {
        match by_protocol(ns, igp.rtm_protocol()) {
            Ok(routes) if routes == *expected => Ok(()),
            Ok(routes) => Err(format!("{routes:?}")),
            Err(e) => Err(format!("{e:#}")),
        }
    })?;
    speaker.stop();
    let left = by_protocol(ns, igp.rtm_protocol())?;
    ensure!(left.is_empty(), "{} leaves routes behind: {left:?}", igp.name());
    Ok(())
}
