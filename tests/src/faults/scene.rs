//! A router with its neighbours, and what counts as healthy.

use super::slot::{Mode, Slot, names};
use super::watch::{Table, Watch, text_of};
use crate::daemons::{Daemon, Shim};
use crate::lab::{Lab, Star, built, wait_until};
use crate::neighbours::{Kind, Neighbour, NeighbourSpec};
use crate::router::{ASN, Options, Router};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// T of every router here. Longer than anything that FRR puts off, short enough that a hundred
/// cases are over soon.
pub const T: Duration = Duration::from_millis(2_000);
/// A hang shows after this: the hold time between virtd and an instance.
pub const LEG_HOLD: Duration = Duration::from_secs(6);
/// How long the neighbours are kept without any instance.
pub const GRACE: Duration = Duration::from_secs(60);
/// An instance that has been wrong on many prefixes for so long is found faulty.
pub const THRESHOLD: Duration = Duration::from_secs(10);
/// Sessions and routes are there within this, on a machine that has other things to do.
pub const SETTLE: Duration = Duration::from_secs(120);
/// Nothing moves for so long: at rest.
const QUIET: Duration = Duration::from_millis(700);
/// Prefixes that the first neighbour announces.
const FIRST: u32 = 200;
/// Prefixes that the second neighbour announces.
const SECOND: u32 = 20;
/// virtd's limit for an instance's memory, MiB: three times what any of the daemons has here.
const MEMORY_MIB: u32 = 256;

/// Lines of virtd's log that stand in the error where it does not start.
const SHOWN_LINES: usize = 6;

/// The strategies, as virtd.toml calls them.
pub const STRATEGIES: [&str; 4] = ["wait-for-consensus", "continuous-majority", "master-slave", "first-k"];

/// How large the router is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// FRR, BIRD, OpenBGPD.
    Three,
    /// These and a second BIRD and a second FRR.
    Five,
}

impl Size {
    fn daemons(self) -> Vec<Daemon> {
        let mut all = Daemon::ALL.to_vec();
        if self == Size::Five {
            all.extend([Daemon::Bird, Daemon::Frr]);
        }
        all
    }
}

/// Who starts the instances again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// virtd's own controller: coming back is a part of every case.
    Virtd,
    /// The scene, once the case has been judged.
    Scene,
}

/// A running router with four neighbours: three hv-replays (a table, a steered one, a silent one)
/// and a BIRD.
#[derive(Debug)]
pub struct Scene {
    /// Everything it runs in.
    pub lab: Lab,
    /// virtd.
    pub router: Router,
    /// The instances, in virtd.toml's order; the first is master-slave's master.
    pub slots: Vec<Slot>,
    /// The three hv-replays, in the order of the sites.
    pub watches: Vec<Watch>,
    /// What each of them knew when all was well.
    pub references: Vec<Table>,
    /// Of the fourth neighbour.
    pub bird_reference: BTreeMap<String, String>,
    /// `strategy` of virtd.toml.
    pub strategy: &'static str,
    /// Who brings instances back.
    pub keeper: Keeper,
    star: Star,
    bird: Neighbour,
    /// Counts probes: each has a prefix of its own.
    pub probes: u32,
}

impl Scene {
    /// Starts everything and waits until all is well.
    pub fn start(strategy: &'static str, size: Size, keeper: Keeper) -> Result<Scene> {
        let mut lab = Lab::new(&format!("faults-{strategy}-{}", size.daemons().len()))?;
        let star = lab.star(4)?;
        let daemons = size.daemons();
        let seconds = [LEG_HOLD, GRACE, THRESHOLD].map(|time| time.as_secs());
        let [hold, grace, threshold] = seconds;
        let timers = format!("leg_hold_s = {hold}\ngrace_s = {grace}\nfault_threshold_s = {threshold}\n");
        let t_ms = u32::try_from(T.as_millis())?;
        let options = Options { daemons: daemons.clone(), strategy, t_ms, timers, ..Options::default() };
        let spec = options.spec(&star.sites);
        let shim = Shim { library: built("libhvlibc.so")?, socket: lab.folder("virtd")?.join("hv.sock") };
        let made = names(&daemons).into_iter().zip(&daemons);
        let slots: Result<Vec<Slot>> =
            made.map(|(name, daemon)| Slot::new(&lab, &star.router, &name, *daemon, &spec, &shim)).collect();
        let mut slots = slots?;
        let edit = |text: String| if keeper == Keeper::Virtd { with_commands(&text, &slots) } else { text };
        let router = Router::with_toml(&lab, &star, &options, edit).with_context(|| {
            let log = text_of(&lab.directory().join("virtd.log"));
            format!("virtd says: {}", log.lines().take(SHOWN_LINES).collect::<Vec<_>>().join(" | "))
        })?;
        if keeper == Keeper::Scene {
            slots.iter_mut().try_for_each(|slot| slot.start(&lab))?;
        }
        slots.iter().try_for_each(Slot::wait_started)?;
        let first = FIRST.to_string();
        let arguments: [&[&str]; 3] = [&["--generate", &first], &[], &["--monitor"]];
        let watches: Result<Vec<Watch>> =
            star.sites.iter().zip(arguments).map(|(site, arguments)| Watch::dial(&lab, site, arguments)).collect();
        let none = NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks: Vec::new() };
        let fourth = star.sites.get(3).context("a star without its fourth neighbour")?;
        let bird = Neighbour::start(&lab, fourth, Kind::Daemon(Daemon::Bird), &none)?;
        let mut scene = Scene {
            lab,
            router,
            slots,
            watches: watches?,
            references: Vec::new(),
            bird_reference: BTreeMap::new(),
            strategy,
            keeper,
            star,
            bird,
            probes: 0,
        };
        scene.wait_level()?;
        Ok(scene)
    }

    /// Waits for the first table and checks it: this is what every later look is compared with.
    fn wait_level(&mut self) -> Result<()> {
        let own: Vec<String> = (0..SECOND).map(|n| format!("198.19.{n}.0/24")).collect();
        let steered = self.watches.get_mut(1).context("no steered neighbour")?;
        steered.say(&format!("announce {} community 65002:1", own.join(",")))?;
        let wanted = [SECOND, FIRST, FIRST + SECOND];
        for (watch, wanted) in self.watches.iter_mut().zip(wanted) {
            let what = format!("the {wanted} routes of neighbour {}", watch.site.number);
            wait_until(&what, SETTLE, || {
                watch.look().map_err(|e| format!("{e:#}"))?;
                let known = watch.table.len();
                if known == usize::try_from(wanted).unwrap_or_default() { Ok(()) } else { Err(format!("{known}")) }
            })?;
        }
        self.wait_calm()?;
        for watch in &self.watches {
            for (prefix, route) in &watch.table {
                let from = if own.contains(prefix) { "65000 65002" } else { "65000 65001 " };
                let path = route["as_path"].as_str().unwrap_or_default();
                let next_hop = route["next_hop"] == watch.site.router_v4.to_string();
                ensure!(path.starts_with(from) && next_hop, "{prefix} is wrong from the start: {route}");
            }
        }
        self.references = self.watches.iter().map(|watch| watch.table.clone()).collect();
        self.bird_reference = wait_until("the routes of BIRD, the fourth neighbour", SETTLE, || {
            let table = self.bird_table().map_err(|e| format!("{e:#}"))?;
            let all = self.references.get(2).map_or(0, Table::len);
            if table.len() == all { Ok(table) } else { Err(format!("{} of {all}", table.len())) }
        })?;
        Ok(())
    }

    /// Waits until every instance that may votes, nobody disagrees, and nothing moves.
    pub fn wait_calm(&self) -> Result<()> {
        for slot in self.slots.iter().filter(|slot| slot.mode() != Mode::Down) {
            self.router.wait_state(&slot.name, "voting", SETTLE)?;
        }
        self.router.wait_agreement(0, SETTLE)?;
        self.router.wait_quiet(QUIET, SETTLE).map(|_| ())
    }

    /// What the fourth neighbour, a BIRD, knows: its own words for each route, without the time of
    /// day.
    pub fn bird_table(&self) -> Result<BTreeMap<String, String>> {
        let site = self.star.sites.get(3).context("no fourth neighbour")?;
        let socket = self.lab.directory().join("neighbour4-bird/bird.ctl").display().to_string();
        let text = site.ns.run("birdc", &["-r", "-s", &socket, "show route all"])?;
        let mut table: BTreeMap<String, String> = BTreeMap::new();
        let mut prefix = String::new();
        for line in text.lines() {
            match line.split_once(char::is_whitespace) {
                Some((first, _)) if first.contains('/') => {
                    prefix = first.to_owned();
                    table.entry(prefix.clone()).or_default();
                }
                _ if line.starts_with('\t') => {
                    if let Some(words) = table.get_mut(&prefix) {
                        words.push_str(line.trim());
                        words.push('\n');
                    }
                }
                _ => {}
            }
        }
        Ok(table)
    }

    /// What the fourth neighbour, a BIRD, complained of so far, by its own log; it has had one
    /// session and has it still.
    pub fn bird_complaints(&self) -> Result<Vec<String>> {
        let history = self.bird.history();
        ensure!(history.established == 1, "BIRD, the fourth neighbour, saw {} sessions", history.established);
        Ok(history.troubles)
    }

    fn events_file(&self) -> PathBuf {
        self.lab.directory().join("virtd/events.jsonl")
    }

    /// virtd's events after the first `mark`.
    pub fn events_since(&self, mark: usize) -> Vec<Value> {
        let text = text_of(&self.events_file());
        text.lines().skip(mark).filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How many events there were so far.
    pub fn event_mark(&self) -> usize {
        text_of(&self.events_file()).matches('\n').count()
    }

    /// What virtd has in memory, MiB.
    pub fn memory_mib(&self) -> u64 {
        let status = text_of(std::path::Path::new(&format!("/proc/{}/status", self.router.worker())));
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024
    }

    /// A slot by its place.
    pub fn slot(&mut self, index: usize) -> Result<&mut Slot> {
        self.slots.get_mut(index).with_context(|| format!("no instance number {index}"))
    }

    /// Has a slot run something else from now on.
    pub fn switch(&mut self, index: usize, mode: Mode) -> Result<()> {
        let keeper = self.keeper;
        let slot = self.slots.get_mut(index).with_context(|| format!("no instance number {index}"))?;
        if slot.mode() == mode {
            return Ok(());
        }
        slot.set_mode(mode)?;
        let old = slot.pid()?;
        match keeper {
            // What the controller remembers of its past is forgotten with this.
            Keeper::Virtd => drop(self.router.show(&["instance", &slot.name, "restart"])?),
            Keeper::Scene => {
                slot.crash()?;
                slot.start(&self.lab)?;
            }
        }
        self.wait_restarted(index, old)?;
        self.slot(index)?.wait_started()
    }

    /// Waits until an instance runs as another process than this one.
    pub fn wait_restarted(&self, index: usize, old: Pid) -> Result<()> {
        let slot = self.slots.get(index).with_context(|| format!("no instance number {index}"))?;
        wait_until(&format!("{} to be started again", slot.name), SETTLE, || match slot.pid() {
            Ok(pid) if pid != old => Ok(()),
            Ok(_) => Err("it is not".to_owned()),
            Err(e) => Err(format!("{e:#}")),
        })
    }

    /// Every instance dies at the same moment, and stays away.
    pub fn all_down(&mut self) -> Result<()> {
        self.slots.iter_mut().try_for_each(|slot| slot.set_mode(Mode::Down))?;
        let old: Vec<Pid> = self.slots.iter().map(Slot::pid).collect::<Result<_>>()?;
        self.slots.iter().try_for_each(|slot| slot.signal_all(Signal::SIGKILL))?;
        if self.keeper == Keeper::Scene {
            self.slots.iter_mut().try_for_each(|slot| slot.start(&self.lab))?;
        }
        old.into_iter().enumerate().try_for_each(|(index, old)| self.wait_restarted(index, old))
    }

    /// Those that were down are themselves again.
    pub fn all_up(&mut self) -> Result<()> {
        (0..self.slots.len()).try_for_each(|index| self.switch(index, Mode::Daemon))
    }

    /// Everything as it was at the start: honest daemons, no lies.
    pub fn restore(&mut self, speaker: Option<usize>) -> Result<()> {
        for index in 0..self.slots.len() {
            let mode = if speaker == Some(index) { Mode::Speaker } else { Mode::Daemon };
            let slot = self.slot(index)?;
            slot.order("honest")?;
            if slot.lies() {
                slot.set_lie(None)?;
            }
            self.switch(index, mode)?;
        }
        if let (Keeper::Virtd, "master-slave", Some(first)) = (self.keeper, self.strategy, self.slots.first()) {
            // A master that was found faulty is the last in line from then on.
            self.router.show(&["instance", &first.name, "promote"])?;
        }
        self.wait_calm()
    }

    /// All went well: nothing is kept.
    pub fn passed(self) {
        let Scene { lab, router, slots, watches, bird, .. } = self;
        drop((watches, bird, router, slots));
        lab.passed();
    }
}

/// The configuration with a command for each instance and what the controller needs to know.
fn with_commands(text: &str, slots: &[Slot]) -> String {
    let mut text = text.to_owned();
    for slot in slots {
        let name = format!("name = {:?}\n", slot.name);
        text = text.replace(&name, &format!("{name}command = {:?}\n", slot.command()));
    }
    // As quick as it may be: each instance dies many times here, for different reasons.
    text.push_str("[faults]\nrestart_min_s = 1\nrestart_max_s = 1\nrestart_limit = 200\nrestart_limit_s = 60\n");
    text.push_str(&format!("leg_losses_s = 20\nmemory_mib = {MEMORY_MIB}\n"));
    text
}
