//! The router whose worker is killed, and the neighbours around it.

use super::judge::{Observer, Wrongs};
use super::script::{Bird, Script, Speaker};
use crate::daemons::Daemon;
use crate::kinds::Kinds;
use crate::lab::{Lab, Star, run, wait_until};
use crate::neighbours::{Kind, Neighbour, NeighbourSpec, prefixes};
use crate::replayer::{Replayer, differences};
use crate::router::{ASN, Options};
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use virtd_api::Instances;

/// OpenBGPD holds back for half a minute, and longer each time, after a session that was reset; a
/// large table goes through the slowest daemon.
pub const UP: Duration = Duration::from_secs(300);
/// Nothing came for so long: all is told.
const QUIET: Duration = Duration::from_secs(8);
/// BIRD's own.
const BIRDS: [&str; 4] = ["192.0.2.0/28", "192.0.2.16/28", "192.0.2.32/28", "192.0.2.48/28"];

/// A session that is lost is counted, and the rest goes on.
const TALKER: [&str; 2] = ["--events-updates", "--reconnect"];

/// How large a scene is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Prefixes of the table.
    pub prefixes: u64,
    /// The instances write routes to the kernel.
    pub fib: bool,
    /// T, milliseconds: after six of them whoever is fed votes, however much goes on.
    pub t_ms: u32,
    /// What decides what is said, and when who dies.
    pub seed: u64,
}

/// See the module's comment. The neighbours: one with a table, two that talk, a BIRD whose routes
/// come and go, and a place for one that comes and leaves.
pub struct Scene {
    /// The network.
    pub lab: Lab,
    /// The places.
    pub star: Star,
    /// virtd and its instances.
    pub kinds: Kinds,
    /// What is said.
    pub script: Script,
    observers: Vec<Observer>,
    /// The one with the table, then the talkers.
    replayers: Vec<Replayer>,
    bird: Neighbour,
    daemons: BTreeMap<i32, String>,
    size: Size,
}

impl Scene {
    /// Starts them; the table is being loaded when this returns.
    ///
    /// # Errors
    /// Something does not start.
    pub fn begin(name: &str, size: Size) -> Result<Scene> {
        let mut lab = Lab::new(name)?;
        let star = lab.star(5)?;
        let options = Options { fib: size.fib, t_ms: size.t_ms, ..Options::default() };
        let kinds = Kinds::start(&lab, &star, &options, |_| String::new())?;
        let (a, lines_a) = Replayer::typed(&lab, &star.sites[1], &TALKER)?;
        let (b, lines_b) = Replayer::typed(&lab, &star.sites[3], &TALKER)?;
        let mut replayers = vec![a, b];
        let spec =
            NeighbourSpec { router_asn: ASN, v6: false, passive: false, password: None, networks: prefixes(&BIRDS)? };
        let mut bird = Neighbour::start(&lab, &star.sites[2], Kind::Daemon(Daemon::Bird), &spec)?;
        replayers.iter_mut().try_for_each(|t| t.wait_event("session-up", UP))?;
        bird.wait_established(UP)?;
        kinds.wait_voting(UP)?;
        let speakers = [(1, lines_a), (3, lines_b)].into_iter().zip(0..);
        let speakers = speakers.map(|((site, lines), n): ((usize, _), _)| Speaker::new(star.sites[site].asn, n, lines));
        let socket = bird.instance().context("BIRD is a daemon")?.folder().join("bird.ctl");
        let birds = Bird { socket, prefixes: BIRDS.map(str::to_owned).to_vec(), there: true };
        let script = Script::begin(size.seed, speakers.collect(), birds);
        let count = size.prefixes.to_string();
        let mut table = Replayer::dial(&lab, &star.sites[0], false, &[&["--generate", &count], &TALKER[..]].concat())?;
        table.wait_event("session-up", UP)?;
        replayers.insert(0, table);
        let named = ["the one with the table", "the first talker", "the second talker"].into_iter().zip(&replayers);
        let observers = named.map(|(name, r)| Observer::new(name, &r.events_file(), script.words.clone()));
        let observers = observers.collect::<Result<_>>()?;
        let mut scene = Scene { lab, star, kinds, script, observers, replayers, bird, daemons: BTreeMap::new(), size };
        scene.daemons = scene.daemons_now()?;
        Ok(scene)
    }

    /// All routes are outside, and everybody votes.
    ///
    /// # Errors
    /// They do not get there.
    pub fn wait_loaded(&mut self) -> Result<()> {
        let (start, wanted) = (Instant::now(), self.size.prefixes as usize);
        loop {
            self.look()?;
            let known: Vec<usize> = self.observers.iter().skip(1).map(Observer::routes).collect();
            if known.iter().all(|n| *n >= wanted) {
                return self.wait_voting().map(|_| ());
            }
            ensure!(start.elapsed() < UP * 3, "of {wanted} routes the talkers know {known:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until every instance votes; how long that was.
    ///
    /// # Errors
    /// Not all do, in time.
    pub fn wait_voting(&self) -> Result<Duration> {
        let start = Instant::now();
        wait_until("all to vote", UP, || {
            let all: Instances = self.kinds.router.ctl(&["instances"]).map_err(|e| format!("{e:#}"))?;
            let states: Vec<&str> = all.instances.iter().map(|i| i.state.as_str()).collect();
            let vote = states.len() == 3 && states.iter().all(|s| *s == "voting");
            if vote { Ok(()) } else { Err(format!("{states:?}")) }
        })?;
        Ok(start.elapsed())
    }

    /// virtd's own process of this name, if there is one just now.
    pub fn process(&self, name: &str) -> Option<Pid> {
        let master = self.kinds.router.virtd.pid();
        children(master).into_iter().find(|pid| comm(*pid).as_deref() == Some(name))
    }

    /// What the neighbours have been told since.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn look(&mut self) -> Result<()> {
        self.observers.iter_mut().try_for_each(Observer::look)
    }

    /// What was wrong so far.
    pub fn wrongs(&self) -> Wrongs {
        let mut all = self.observers.iter().fold(Wrongs::default(), |all, o| all.and(o.wrongs.clone()));
        let bird = self.bird.history();
        if bird.established != 1 || !bird.troubles.is_empty() {
            all.sessions_reset += (bird.established.max(2) - 1) as u64;
            all.examples.push(format!("BIRD has had {} sessions: {:?}", bird.established, bird.troubles));
        }
        all
    }

    /// How large it is.
    pub fn size(&self) -> Size {
        self.size
    }

    /// UPDATEs to all that count them.
    pub fn updates(&self) -> u64 {
        self.observers.iter().map(|o| o.updates).sum()
    }

    /// The latest first KEEPALIVE (or UPDATE), and first UPDATE, of any neighbour after this moment.
    pub fn first_after(&self, at: u64) -> (Option<u64>, Option<u64>) {
        let all = self.observers.iter().map(|o| o.first_after(at));
        let (any, update): (Vec<_>, Vec<_>) = all.unzip();
        (any.into_iter().flatten().min(), update.into_iter().flatten().min())
    }

    /// Every process in the router's namespace but virtd's own, by its number.
    fn daemons_now(&self) -> Result<BTreeMap<i32, String>> {
        let all = run("ip", &["netns", "pids", self.star.router.name()])?;
        let all = all.split_whitespace().filter_map(|pid| pid.parse().ok());
        let all = all.filter_map(|pid| Some((pid, comm(Pid::from_raw(pid))?)));
        Ok(all.filter(|(_, name)| !name.starts_with("virtd")).collect())
    }

    /// Which instances' processes are others than at the beginning.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn daemons_changed(&self) -> Result<Vec<String>> {
        let now = self.daemons_now()?;
        let gone = self.daemons.iter().filter(|d| now.get(d.0) != Some(d.1));
        let gone = gone.map(|(pid, name)| format!("{name} ({pid}) is gone"));
        let new = now.iter().filter(|d| self.daemons.get(d.0) != Some(d.1));
        Ok(gone.chain(new.map(|(pid, name)| format!("{name} ({pid}) is new"))).collect())
    }

    /// The last words are said and told, and the tables are kept: what each neighbour has.
    ///
    /// # Errors
    /// It does not come to rest.
    pub fn end(&mut self) -> Result<Ended> {
        self.script.end()?;
        self.wait_voting()?;
        let (mut seen, mut since, start) = (self.updates(), Instant::now(), Instant::now());
        while since.elapsed() < QUIET {
            ensure!(start.elapsed() < UP, "UPDATEs do not cease");
            std::thread::sleep(Duration::from_millis(200));
            self.look()?;
            if self.updates() != seen {
                (seen, since) = (self.updates(), Instant::now());
            }
        }
        let mut differ = Vec::new();
        for (n, observer) in self.observers.iter().enumerate() {
            // Nobody is told what is his own.
            differ.extend(observer.differs(|prefix| n > 0 && speaker_of(prefix) == Some(n - 1)));
        }
        let (daemons, birds, wrongs) = (self.daemons_changed()?, self.bird_routes()?, self.wrongs());
        let outcomes = Replayer::finish_together(&mut self.replayers)?;
        let tables = outcomes.into_iter().map(|o| o.table).collect();
        Ok(Ended { differ, daemons, birds, wrongs, tables })
    }

    /// How many routes BIRD has.
    fn bird_routes(&mut self) -> Result<u64> {
        let socket = self.bird.instance().context("BIRD is a daemon")?.folder().join("bird.ctl");
        let text = run("birdc", &["-r", "-s", &socket.display().to_string(), "show route count"])?;
        let count = text.lines().find_map(|l| l.split_whitespace().next()?.parse().ok());
        count.with_context(|| format!("birdc says {text}"))
    }

    /// All went well: nothing is kept.
    pub fn passed(self) {
        let Scene { lab, kinds, .. } = self;
        drop(kinds);
        lab.passed();
    }
}

/// Which of the speakers changes this prefix.
fn speaker_of(prefix: &str) -> Option<usize> {
    let rest = prefix.strip_prefix("198.18.")?;
    Some(usize::from(rest.split('.').next()?.parse::<u8>().ok()? >= 128))
}

/// How a scene ended.
#[derive(Debug)]
pub struct Ended {
    /// What of what changes is not as it was last said.
    pub differ: Vec<String>,
    /// Processes of instances that came or went.
    pub daemons: Vec<String>,
    /// How many routes BIRD has.
    pub birds: u64,
    /// What was wrong all the while.
    pub wrongs: Wrongs,
    /// What each neighbour has learnt.
    pub tables: Vec<PathBuf>,
}

impl Ended {
    /// How the tables differ from those of another end.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn differences(&self, other: &Ended) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (a, b) in self.tables.iter().zip(&other.tables) {
            found.extend(differences(a, b)?.routes);
        }
        if self.birds != other.birds {
            found.push(format!("BIRD has {} routes instead of {}", other.birds, self.birds));
        }
        Ok(found)
    }
}

/// The processes that this one has started.
pub fn children(of: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let all: String = threads.filter_map(|t| fs::read_to_string(t.path().join("children")).ok()).collect();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn comm(pid: Pid) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}
