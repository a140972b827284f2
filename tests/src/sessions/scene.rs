//! A router of some kind with its neighbours, at rest: what every row begins with.

use super::outside::{End, Outside};
use super::stage::{Made, Setup, Stage};
use crate::daemons::{Attach, Daemon, Instance};
use crate::faults::watch::{Watch, now_us, text_of};
use crate::kinds::Kinds;
use crate::lab::{Lab, Process, Site, Star, wait_until};
use crate::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use crate::operate;
use crate::router::{ASN, Options};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use virtd_api::Sessions;

/// `fault_threshold_s` of every router here: a wrong accusation shows within a test's time.
pub const THRESHOLD: Duration = Duration::from_secs(5);
/// T of every router here.
const T_MS: u32 = 1_500;
/// What is to happen happens within this, on a machine that has other things to do; without virtd,
/// too. Shorter than the hold time that virtd and the neighbours agree on, so that what only the
/// hold time ends has not ended.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Sessions and routes are there within this.
pub const SETTLE: Duration = Duration::from_secs(90);
/// The third neighbour's prefix.
pub const BIRDS: &str = "192.0.2.0/24";
/// The router itself.
#[derive(Debug)]
enum Under {
    Alone(Box<Instance>),
    Virtd(Box<Kinds>),
}

/// A running router with three neighbours: hv-replay that announces and is what the rows are about,
/// hv-replay that watches, and a BIRD that announces a prefix and is a second implementation's
/// opinion.
#[derive(Debug)]
pub struct Scene {
    /// Everything it runs in.
    pub lab: Lab,
    /// The namespaces and addresses.
    pub star: Star,
    /// What router it is.
    pub stage: Stage,
    /// The first neighbour.
    pub feeder: Watch,
    /// The second one.
    pub watcher: Watch,
    /// The third one.
    pub(super) bird: Neighbour,
    under: Under,
    /// Whatever else runs beside it, until its end.
    pub beside: Vec<Process>,
    /// The row is about UPDATEs that an instance does not survive: that they are found accuses
    /// nobody.
    pub poison_expected: bool,
    mark: usize,
}

/// The `n`th prefix of the first neighbour.
pub fn route(n: u32) -> String {
    format!("198.19.{n}.0/24")
}

/// Several of them, as hv-replay's script wants them.
pub fn routes(numbers: impl Iterator<Item = u32>) -> String {
    numbers.map(route).collect::<Vec<_>>().join(",")
}

impl Scene {
    /// Starts everything and waits until all is well.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn start(name: &str, stage: Stage, setup: &Setup) -> Result<Scene> {
        let mut lab = Lab::new(&format!("sessions-{name}-{}", stage.made.name()))?;
        let star = lab.star(3)?;
        let options = Options {
            daemons: stage.made.daemons(),
            strategy: stage.strategy,
            inbound: setup.inbound,
            t_ms: T_MS,
            timers: format!("fault_threshold_s = {}\n", THRESHOLD.as_secs()),
            fib: setup.fib,
            password: setup.password.map(str::to_owned),
            tune: setup.tune,
            ..Options::default()
        };
        let under = match stage.made {
            Made::Alone(daemon) => {
                let name = daemon.name();
                let spec = options.spec_of(name, &star.sites);
                let alone = Instance::start(&lab, &star.router, daemon, name, &spec, &Attach::Native)?;
                Under::Alone(Box::new(alone))
            }
            _ => Under::Virtd(Box::new(with_virtd(&lab, &star, &options, setup)?)),
        };
        let [first, second, third] = star.sites.as_slice() else { bail!("a star without three neighbours") };
        let mut offer = vec!["--hold-time".to_owned(), setup.hold_s.to_string()];
        offer.extend(setup.password.into_iter().flat_map(|key| ["--md5".to_owned(), key.to_owned()]));
        let offer: Vec<&str> = offer.iter().map(String::as_str).collect();
        let mut feeder = Watch::steered(&lab, first, &offer)?;
        if setup.routes > 0 {
            feeder.say(&format!("announce {}", routes(0..setup.routes)))?;
        }
        let watcher = Watch::steered(&lab, second, offer.get(2..).unwrap_or_default())?;
        let neighbour = NeighbourSpec {
            router_asn: ASN,
            v6: false,
            passive: false,
            password: setup.password.map(str::to_owned),
            networks: prefixes(&[BIRDS])?,
        };
        let bird = Neighbour::start(&lab, third, Kind::Daemon(Daemon::Bird), &neighbour)?;
        let (beside, poison_expected, mark) = (Vec::new(), false, 0);
        let mut scene = Scene { lab, star, stage, feeder, watcher, bird, under, beside, poison_expected, mark };
        scene.wait_announced(setup.routes)?;
        Ok(scene)
    }

    /// Waits until every instance has every session and says everything, and both neighbours know
    /// it.
    fn wait_announced(&mut self, announced: u32) -> Result<()> {
        self.wait_routes(announced)?;
        match &self.under {
            Under::Alone(alone) => alone.wait_established(SETTLE)?,
            Under::Virtd(kinds) => {
                wait_until("every instance to be level on every session", SETTLE, || {
                    let legs = self.legs().map_err(|e| format!("{e:#}"))?;
                    let level = legs.iter().filter(|(_, _, detail)| detail == "level").count();
                    if level == kinds.count() * self.star.sites.len() { Ok(()) } else { Err(format!("{legs:?}")) }
                })?;
                kinds.wait_voting(SETTLE)?;
                kinds.router.wait_agreement(0, SETTLE)?;
            }
        }
        self.mark = self.event_mark();
        Ok(())
    }

    /// Waits until the second neighbour knows so many of the first one's prefixes, and the third's.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_routes(&mut self, wanted: u32) -> Result<()> {
        let what = format!("{wanted} routes of the first neighbour and the third's at the second");
        wait_until(&what, SETTLE, || {
            self.watcher.look().map_err(|e| format!("{e:#}"))?;
            let known = self.known();
            let all = known == wanted && self.watcher.table.contains_key(BIRDS);
            if all { Ok(()) } else { Err(format!("it knows {:?}", self.watcher.table.keys().collect::<Vec<_>>())) }
        })
    }

    /// How many prefixes of the first neighbour the second one knew at its last look.
    pub(super) fn known(&self) -> u32 {
        let own = self.watcher.table.keys().filter(|prefix| prefix.starts_with("198.19."));
        u32::try_from(own.count()).unwrap_or(u32::MAX)
    }

    /// The site of a neighbour, counted from 1.
    ///
    /// # Errors
    /// There is none.
    pub fn site(&self, number: usize) -> Result<&Site> {
        number.checked_sub(1).and_then(|n| self.star.sites.get(n)).context("no such neighbour")
    }

    /// The first neighbour's address, as virtd's events and the daemons' commands name it.
    ///
    /// # Errors
    /// There is none.
    pub fn peer(&self) -> Result<String> {
        Ok(self.site(1)?.v4.to_string())
    }

    /// The instances' names.
    pub fn names(&self) -> Vec<(String, Daemon)> {
        match &self.under {
            Under::Alone(alone) => vec![(alone.name.clone(), alone.daemon)],
            Under::Virtd(kinds) => kinds.names().map(|(name, daemon)| (name.to_owned(), daemon)).collect(),
        }
    }

    /// virtd and its instances.
    ///
    /// # Errors
    /// There is no virtd here.
    pub fn kinds(&mut self) -> Result<&mut Kinds> {
        match &mut self.under {
            Under::Virtd(kinds) => Ok(kinds),
            Under::Alone(_) => bail!("a daemon alone has no virtd"),
        }
    }

    /// Runs one command of an instance's control program; several lines are one vtysh command each.
    ///
    /// # Errors
    /// The program's.
    pub fn control(&self, name: &str, command: &str) -> Result<String> {
        match &self.under {
            Under::Alone(alone) => operate::control(alone, &self.star.router, command),
            Under::Virtd(kinds) => {
                let daemon = self.names().into_iter().find(|(n, _)| n == name).context("no such instance")?.1;
                let mut words = vec!["exec", name];
                if daemon == Daemon::Frr {
                    words.push(command)
                } else {
                    words.extend(command.split_whitespace())
                }
                kinds.router.show(&words)
            }
        }
    }

    /// Changes an instance's own file, which it does not read by itself; returns which daemon it
    /// is.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn edit(&mut self, name: &str, edit: impl FnOnce(String) -> String) -> Result<Daemon> {
        match &mut self.under {
            Under::Alone(alone) => {
                let path = alone.folder().join("bgp.conf");
                let text = fs::read_to_string(&path)?;
                let after = edit(text.clone());
                ensure!(after != text, "nothing was changed in the configuration of {name}");
                fs::write(&path, after)?;
                Ok(alone.daemon)
            }
            Under::Virtd(kinds) => {
                kinds.edit(name, edit)?;
                Ok(kinds.names().find(|(n, _)| *n == name).context("no such instance")?.1)
            }
        }
    }

    /// The same, and BIRD or OpenBGPD is told to read it again; FRR is told line by line.
    ///
    /// # Errors
    /// The daemon does not take it.
    pub fn reconfigure(&mut self, name: &str, edit: impl FnOnce(String) -> String) -> Result<()> {
        match self.edit(name, edit)? {
            Daemon::Frr => Ok(()),
            Daemon::Bird => {
                let answer = self.control(name, "configure")?;
                ensure!(answer.contains("Reconfigur"), "birdc configure: {answer}");
                Ok(())
            }
            Daemon::OpenBgpd => self.control(name, "reload").map(drop),
        }
    }

    /// An operator restarts an instance.
    ///
    /// # Errors
    /// It does not come back.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        match &mut self.under {
            Under::Alone(alone) => {
                alone.stop();
                alone.launch(&self.lab)
            }
            Under::Virtd(kinds) => kinds.router.show(&["instance", name, "restart"]).map(drop),
        }
    }

    /// Where an instance's own sockets are.
    ///
    /// # Errors
    /// There is no such instance.
    pub fn sockets(&self, name: &str) -> Result<PathBuf> {
        match &self.under {
            Under::Alone(alone) => Ok(alone.folder().to_owned()),
            Under::Virtd(kinds) => Ok(kinds.run_folder(name)?.to_owned()),
        }
    }

    /// Runs one birdc command at the third neighbour, which is a BIRD.
    ///
    /// # Errors
    /// birdc's.
    pub fn third(&self, command: &str) -> Result<String> {
        let socket = self.lab.directory().join("neighbour3-bird/bird.ctl").display().to_string();
        self.site(3)?.ns.run("birdc", &["-s", &socket, command])
    }

    /// Takes the router's end of a neighbour's link down, or up again.
    ///
    /// # Errors
    /// ip(8)'s.
    pub fn link(&self, number: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.star.router.run("ip", &["link", "set", &format!("n{number}"), state]).map(drop)
    }

    /// What the first neighbour has been through.
    pub fn outside(&self) -> Outside {
        Outside::of(&self.feeder.log())
    }

    /// Waits until the first neighbour has seen this many ends of established sessions.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_ends(&self, wanted: usize) -> Result<Vec<End>> {
        wait_until(&format!("session {wanted} of the first neighbour to end"), PATIENCE, || {
            let ends = self.outside().ends;
            if ends.len() >= wanted { Ok(ends) } else { Err(format!("{ends:?}")) }
        })
    }

    /// Waits until the first neighbour's session has come up this many times.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_ups(&self, wanted: usize, timeout: Duration) -> Result<()> {
        wait_until(&format!("session {wanted} of the first neighbour"), timeout, || {
            let seen = self.outside();
            if seen.ups.len() >= wanted { Ok(()) } else { Err(format!("{} so far", seen.ups.len())) }
        })
    }

    /// Waits until the second neighbour has none of the first one's routes any more; how long after
    /// `since_us` the last one went, in milliseconds.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_withdrawn(&mut self, since_us: u64) -> Result<u64> {
        wait_until("the second neighbour to lose the first one's routes", PATIENCE, || {
            self.watcher.look().map_err(|e| format!("{e:#}"))?;
            let known = self.known();
            if known == 0 { Ok(()) } else { Err(format!("it still has {known}")) }
        })?;
        let last = self.watcher.changes.iter().rev().find(|c| c.route.is_none() && c.prefix.starts_with("198.19."));
        let last = last.context("nothing was withdrawn")?.at_us;
        Ok(last.saturating_sub(since_us) / 1000)
    }

    /// Waits until a prefix is there at the second neighbour, or is gone.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_prefix(&mut self, prefix: &str, there: bool) -> Result<()> {
        let word = if there { "reach" } else { "leave" };
        wait_until(&format!("{prefix} to {word} the second neighbour"), PATIENCE, || {
            self.watcher.look().map_err(|e| format!("{e:#}"))?;
            if self.watcher.table.contains_key(prefix) == there { Ok(()) } else { Err(String::new()) }
        })
    }

    /// Every leg: the peer, the instance, and `level` or what it waits for; empty where it is not
    /// established.
    ///
    /// # Errors
    /// virtctl's.
    pub fn legs(&self) -> Result<Vec<(String, String, String)>> {
        let Under::Virtd(kinds) = &self.under else { return Ok(Vec::new()) };
        let Sessions { sessions } = kinds.router.ctl(&["sessions"])?;
        let legs = sessions.into_iter().flat_map(|s| {
            let peer = s.peer;
            s.legs.into_iter().map(move |leg| (peer.clone(), leg.instance, leg.detail))
        });
        Ok(legs.collect())
    }

    /// Waits until an instance is level on the first neighbour's session.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_level(&self, name: &str) -> Result<()> {
        let peer = self.peer()?;
        wait_until(&format!("{name} to be level on the session with {peer}"), SETTLE, || {
            let legs = self.legs().map_err(|e| format!("{e:#}"))?;
            let own = legs.iter().find(|(p, instance, _)| *p == peer && instance == name);
            if own.is_some_and(|(_, _, detail)| detail == "level") { Ok(()) } else { Err(format!("{own:?}")) }
        })
    }

    /// How many events of virtd's there were so far.
    pub fn event_mark(&self) -> usize {
        text_of(&self.lab.directory().join("virtd/events.jsonl")).matches('\n').count()
    }

    /// virtd's events since all was well, oldest first.
    pub fn events(&self) -> Vec<Value> {
        let text = text_of(&self.lab.directory().join("virtd/events.jsonl"));
        text.lines().skip(self.mark).filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// virtd's events of a kind since all was well that concern an instance (empty: any) and a
    /// session (empty: any).
    pub fn events_of(&self, kind: &str, instance: &str, session: &str) -> Vec<Value> {
        let about = |e: &Value, key: &str, name: &str| {
            name.is_empty() || e[key] == name || (e[key].is_null() && e["text"].as_str().unwrap_or("").contains(name))
        };
        let fits = |e: &Value| e["kind"] == kind && about(e, "instance", instance) && about(e, "session", session);
        self.events().into_iter().filter(fits).collect()
    }

    /// Waits for one more such event than `before`.
    ///
    /// # Errors
    /// It does not come.
    pub fn wait_event_of(&self, kind: &str, instance: &str, session: &str, before: usize) -> Result<Value> {
        let who = [instance, session].iter().filter(|s| !s.is_empty()).map(|s| format!(" of {s}")).collect::<String>();
        wait_until(&format!("event {kind}{who}"), PATIENCE, || {
            let found = self.events_of(kind, instance, session);
            found.get(before).cloned().ok_or_else(|| format!("{} so far; {}", found.len(), self.kinds_seen()))
        })
    }

    /// Which kinds of events there were, for errors.
    fn kinds_seen(&self) -> String {
        let all = self.events();
        let kinds: std::collections::BTreeSet<&str> = all.iter().filter_map(|e| e["kind"].as_str()).collect();
        format!("there were {kinds:?}")
    }

    /// All went as it should: nothing is kept.
    pub fn passed(self) {
        let Scene { lab, feeder, watcher, bird, under, beside, .. } = self;
        drop((feeder, watcher, bird, under, beside));
        lab.passed();
    }

    /// Now, on the clock of the neighbours' logs: what follows is the cause.
    pub fn now_us(&self) -> u64 {
        now_us()
    }
}

fn with_virtd(lab: &Lab, star: &Star, options: &Options, setup: &Setup) -> Result<Kinds> {
    let daemons: Vec<(String, Daemon)> = options.names().into_iter().zip(options.daemons.iter().copied()).collect();
    let more = |name: &str| {
        let daemon = daemons.iter().find(|(n, _)| n == name).map(|(_, daemon)| *daemon);
        daemon.map(|daemon| (setup.more)(name, daemon)).unwrap_or_default()
    };
    Kinds::with_toml(lab, star, options, more, |mut text| {
        if setup.fib {
            // It writes nothing to the kernel on Linux.
            text = text.replace("name = \"openbgpd\"\n", "name = \"openbgpd\"\nfib_scope = []\n");
        }
        (setup.toml)(text)
    })
}
