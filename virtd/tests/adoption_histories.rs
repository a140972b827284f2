//! The same random history with and without virtd's death: no peer may see which.
//!
//! What is judged while it goes on: no session is reset, no peer is withdrawn what another announces,
//! nor told again what it was told and has not asked for again. At the end every peer's table is that
//! of the history without deaths.

mod sim;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sim::{Sim, config, our_open, peer_addr, prefix, update};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use virtd_config::{Config, Instance, Strategy};
use wire::bgp::message::{Capability, Open, RefreshKind, RouteRefresh};
use wire::bgp::{Family, Notification, Prefix};

const SECOND: u64 = 1_000_000;
const PEERS: u8 = 4;
const PREFIXES: u8 = 8;
const STEPS: usize = 60;
const STRATEGIES: [Strategy; 4] =
    [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK];

/// What happens in a history.
#[derive(Clone, Debug)]
enum Step {
    /// A peer announces (with this path) or withdraws, one message after the other.
    Says(u8, Vec<(u8, Option<u8>)>),
    /// It asks for everything again.
    Asks(u8),
    /// It begins to say everything again.
    Begins(u8),
    /// It says again some of what it has said.
    Repeats(u8, u8),
    /// It has said everything again.
    Ends(u8),
    Leaves(u8),
    Returns(u8),
    /// An instance goes wrong or is gone, until it is mended.
    Fails(usize, Failure),
    Mends,
    /// It loses one leg.
    DropsLeg(usize, u8),
    Rests,
}

#[derive(Clone, Debug)]
enum Failure {
    Dead,
    Lies(u8),
    Hides(u8),
    /// It ends its session with a peer.
    Refuses(u8, bool),
}

/// How virtd dies.
#[derive(Clone, Debug)]
struct Death {
    /// An image is written first; or some time before.
    image: bool,
    image_before: bool,
    /// What the peers say in this step has been read only in part; the last two without effect.
    busy: Option<Busy>,
    /// Which instances come back later, one after the other, and after how long.
    late: Vec<(usize, u64)>,
    /// The next one dies so much later.
    again_after: Option<u64>,
}

#[derive(Clone, Debug)]
struct Busy {
    turns: usize,
    blocked: bool,
    reads: bool,
}

struct History {
    config: Config,
    enhanced: BTreeSet<u8>,
    steps: Vec<(Step, u64)>,
    deaths: BTreeMap<usize, Death>,
    batch: usize,
    hurried: bool,
}

fn name(n: u8) -> Prefix {
    prefix(&format!("10.{n}.0.0/16"))
}

/// Three voters; one alone; with an observer; four.
fn who(seed: u64, strategy: Strategy) -> Config {
    let mut c = config([3, 1, 3, 4, 3][seed as usize % 5], strategy);
    if seed % 5 == 2 {
        c.instances.push(Instance { name: "observer".into(), observer: true, ..Instance::default() });
    }
    c
}

impl History {
    fn new(seed: u64, strategy: Strategy) -> History {
        let mut rng = SmallRng::seed_from_u64(seed);
        let config = who(seed, strategy);
        let voters = config.instances.iter().filter(|i| !i.observer).count();
        // A strategy that follows one tells what that one says.
        let may_lie = voters > 2 && matches!(strategy, Strategy::WaitForConsensus | Strategy::ContinuousMajority);
        let (mut away, mut bad, mut lies) = (BTreeSet::new(), false, false);
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            let (y, k) = (rng.random_range(1..=PEERS), rng.random_range(0..PREFIXES));
            let i = rng.random_range(0..config.instances.len());
            let step = match rng.random_range(0..40) {
                0..=14 => {
                    let n = rng.random_range(1..5);
                    let mut one =
                        || (rng.random_range(0..PREFIXES), rng.random_ratio(2, 3).then(|| rng.random_range(0..4)));
                    Step::Says(y, (0..n).map(|_| one()).collect())
                }
                15..=16 => Step::Says(y, (0..6).map(|n| (k, (n % 2 == 0).then_some(n % 4))).collect()),
                17..=18 => Step::Asks(y),
                19..=20 => Step::Begins(y),
                21..=23 => Step::Repeats(y, rng.random_range(0..=255)),
                24..=26 => Step::Ends(y),
                27..=28 if !away.contains(&y) && away.len() < 2 => {
                    away.insert(y);
                    Step::Leaves(y)
                }
                // On a session that begins, who is the first to say something may be heard alone for a moment.
                27..=30 if !lies && (!bad || voters > 2) => match away.pop_first() {
                    Some(y) => Step::Returns(y),
                    None => Step::Rests,
                },
                31..=35 if bad => {
                    (bad, lies) = (false, false);
                    Step::Mends
                }
                31..=34 => {
                    bad = true;
                    let failure = match rng.random_range(0..4) {
                        0 if may_lie => Failure::Lies(k),
                        1 if may_lie => Failure::Hides(k),
                        2 if voters > 2 => Failure::Refuses(y, rng.random()),
                        _ => Failure::Dead,
                    };
                    lies = matches!(failure, Failure::Lies(_));
                    Step::Fails(i, failure)
                }
                35 if !bad && voters > 2 => Step::DropsLeg(i, y),
                _ => Step::Rests,
            };
            let us = match step {
                Step::Rests => 30 * SECOND,
                Step::DropsLeg(..) => 12 * SECOND,
                Step::Mends | Step::Returns(_) => 12 * SECOND,
                _ if rng.random_ratio(1, 3) => 0,
                _ => rng.random_range(0..SECOND * 3 / 2),
            };
            // Without any instance a session ends after a while.
            let soon = voters == 1 && matches!(step, Step::Fails(..));
            steps.push((step, us));
            if soon {
                bad = false;
                steps.push((Step::Mends, 12 * SECOND));
            }
        }
        let mut deaths = BTreeMap::new();
        for at in (0..steps.len()).filter(|_| rng.random_ratio(1, 7)).collect::<Vec<_>>() {
            let busy = rng.random_ratio(1, 2).then(|| Busy {
                turns: rng.random_range(0..4),
                blocked: rng.random(),
                reads: rng.random(),
            });
            deaths.insert(
                at,
                Death {
                    image: rng.random_ratio(1, 3),
                    image_before: rng.random_ratio(1, 3),
                    busy,
                    late: {
                        let several = rng.random_ratio(1, 2);
                        let mut one = |i| Some((i, rng.random_range(0..5 * SECOND))).filter(|_| rng.random());
                        if several { (0..voters).filter_map(&mut one).collect() } else { Vec::new() }
                    },
                    again_after: rng
                        .random_ratio(1, 3)
                        .then(|| rng.random_range(0..2u64) * rng.random_range(0..4 * SECOND)),
                },
            );
        }
        let enhanced = (1..=PEERS).filter(|_| rng.random_ratio(2, 3)).collect();
        History { config, enhanced, steps, deaths, batch: rng.random_range(1..4), hurried: rng.random() }
    }
}

/// What a peer has said, and stands.
#[derive(Default)]
struct Said {
    here: bool,
    routes: BTreeMap<u8, u8>,
    /// What it has not said again yet, after a beginning.
    marked: Option<BTreeSet<u8>>,
}

impl Said {
    fn unmark(&mut self, k: u8) {
        if let Some(marked) = &mut self.marked {
            marked.remove(&k);
        }
    }
}

struct Run<'h> {
    history: &'h History,
    sim: Sim,
    said: BTreeMap<u8, Said>,
    /// Nobody else has announced it at some moment since this peer was told.
    gap: BTreeSet<(u8, Prefix)>,
    /// That was so while several words had not been read.
    unsure: BTreeSet<(u8, Prefix)>,
    /// How often a peer may be told again, because it has asked.
    asked: BTreeMap<u8, usize>,
    /// (peer, prefix): how often that was so.
    told_again: BTreeMap<(u8, Prefix), usize>,
    /// How far each peer's history was judged.
    seen: BTreeMap<u8, (usize, usize)>,
    /// What each peer should have been told, one after the other.
    right: BTreeMap<(u8, Prefix), Vec<Vec<u32>>>,
    bad: Option<usize>,
    /// Whose session was reset.
    reset: BTreeSet<u8>,
    found: Vec<String>,
    log: String,
}

fn path(peer: u8, variant: u8) -> Vec<u32> {
    let mut path = vec![64500 + u32::from(peer)];
    path.extend((0..variant % 3).map(|_| 65000 + u32::from(variant)));
    path
}

/// One word at a time.
fn words(step: &Step) -> Vec<Step> {
    match step {
        Step::Says(y, words) => words.iter().map(|word| Step::Says(*y, vec![*word])).collect(),
        step => vec![step.clone()],
    }
}

fn knowing(mut open: Open, enhanced: bool) -> Open {
    if enhanced {
        open.capabilities.push(Capability::EnhancedRouteRefresh);
    }
    open
}

impl<'h> Run<'h> {
    fn new(history: &'h History) -> Run<'h> {
        let mut sim = Sim::new(&history.config);
        sim.decide = true;
        (0..history.config.instances.len()).for_each(|i| sim.start_instance(i));
        for i in 0..history.config.instances.len() {
            (1..=PEERS)
                .for_each(|y| drop(sim.offers.insert((i, y), knowing(our_open(), history.enhanced.contains(&y)))));
        }
        (sim.batch, sim.hurried) = (history.batch, history.hurried);
        let mut run = Run {
            history,
            sim,
            said: (1..=PEERS).map(|y| (y, Said::default())).collect(),
            gap: BTreeSet::new(),
            unsure: BTreeSet::new(),
            asked: BTreeMap::new(),
            told_again: BTreeMap::new(),
            seen: BTreeMap::new(),
            right: BTreeMap::new(),
            bad: None,
            reset: BTreeSet::new(),
            found: Vec::new(),
            log: String::new(),
        };
        (1..=PEERS).for_each(|y| run.connects(y));
        run.pass(3 * SECOND);
        run
    }

    fn connects(&mut self, y: u8) {
        self.note_gaps();
        self.said.insert(y, Said { here: true, ..Said::default() });
        self.seen.remove(&y);
        self.asked.remove(&y);
        self.gap.retain(|(who, _)| *who != y);
        let open = sim::open(64500 + u32::from(y), Ipv4Addr::new(10, 0, 0, y), 90);
        self.sim.connect_peer_with(y, &knowing(open, self.history.enhanced.contains(&y)));
    }

    /// Somebody's word has changed.
    fn note_gaps(&mut self) {
        for y in 1..=PEERS {
            for (prefix, (path, _)) in self.expected(y) {
                let was = self.right.entry((y, prefix)).or_default();
                if was.last() != Some(&path) {
                    was.push(path);
                }
            }
        }
        for y in 1..=PEERS {
            for k in 0..PREFIXES {
                if !self.said.iter().any(|(z, s)| *z != y && s.routes.contains_key(&k)) {
                    self.gap.insert((y, name(k)));
                }
            }
        }
    }

    fn judge(&mut self) {
        let mut found = Vec::new();
        for (y, p) in &self.sim.peers {
            let (from, again) = self.seen.insert(*y, (p.history.len(), p.repeated.len())).unwrap_or_default();
            let before = p.history[..from.min(p.history.len())].iter().filter(|(.., announced)| *announced).count();
            let mut paths = p.paths[before..].iter();
            for (prefix, med, announced) in &p.history[from.min(p.history.len())..] {
                let path = if *announced { paths.next() } else { None };
                let was = self.right.entry((*y, *prefix)).or_default();
                if path.is_some_and(|path| !was.contains(path)) || med.is_some() {
                    found.push(format!("peer {y} is told {prefix} {path:?} {med:?}, and right was {was:?}"));
                }
                let had_gap = self.gap.remove(&(*y, *prefix)) || self.unsure.contains(&(*y, *prefix));
                if !announced && !had_gap {
                    found.push(format!("peer {y} is withdrawn {prefix}, which somebody announces"));
                }
                let nobody = || !self.said.iter().any(|(z, s)| z != y && s.routes.keys().any(|k| name(*k) == *prefix));
                if nobody() {
                    self.gap.insert((*y, *prefix));
                }
            }
            for prefix in &p.repeated[again.min(p.repeated.len())..] {
                let times = self.told_again.entry((*y, *prefix)).or_default();
                *times += 1;
                if *times > self.asked.get(y).copied().unwrap_or(0) {
                    found.push(format!("peer {y} is told {prefix} again"));
                }
            }
            if (p.closed > 0 || !p.notifications.is_empty()) && self.reset.insert(*y) {
                found.push(format!("peer {y} is reset: {:?}", p.notifications));
            }
        }
        let at = self.sim.now / 1000;
        for text in found {
            self.log.push_str(&format!("!!! @{at} {text}\n"));
            self.found.push(format!("@{at} {text}"));
        }
    }

    fn pass(&mut self, us: u64) {
        let end = self.sim.now + us;
        while self.sim.now < end {
            self.sim.run((end - self.sim.now).min(SECOND / 10));
            self.judge();
        }
    }

    /// What is unsettled of a request ends.
    fn rest(&mut self) {
        self.pass(40 * SECOND);
        self.asked.clear();
        self.told_again.clear();
        self.unsure.clear();
        // What was right before has been told.
        self.right.values_mut().for_each(|was| drop(was.drain(..was.len().saturating_sub(1))));
    }

    fn route(&self, y: u8, k: u8, variant: u8) -> Vec<u8> {
        let IpAddr::V4(next_hop) = peer_addr(y).ip() else { panic!("IPv4") };
        update(&[name(k)], &[], &path(y, variant), next_hop, None, 0).to_vec()
    }

    /// The messages of a step of a peer's; what it stands for is noted with each.
    fn messages(&mut self, y: u8, step: &Step) -> Vec<Vec<u8>> {
        let refresh = |kind| RouteRefresh { family: Family::IPV4_UNICAST, kind }.encode().to_vec();
        let enhanced = self.history.enhanced.contains(&y);
        if !self.said[&y].here {
            return Vec::new();
        }
        let mut out = Vec::new();
        match step {
            Step::Says(_, words) => {
                for (k, variant) in words {
                    let said = self.said.get_mut(&y).expect("a peer");
                    said.unmark(*k);
                    match variant {
                        Some(v) => drop(said.routes.insert(*k, *v)),
                        None => drop(said.routes.remove(k)),
                    }
                    out.push(match variant {
                        Some(v) => self.route(y, *k, *v),
                        None => update(&[], &[name(*k)], &[], sim::LOCAL, None, 0).to_vec(),
                    });
                    self.note_gaps();
                }
            }
            Step::Asks(_) => {
                *self.asked.entry(y).or_default() += 1;
                out.push(refresh(RefreshKind::Request));
            }
            Step::Begins(_) if enhanced => {
                let said = self.said.get_mut(&y).expect("a peer");
                said.marked = Some(said.routes.keys().copied().collect());
                out.push(refresh(RefreshKind::Begin));
            }
            Step::Repeats(_, which) => {
                let said = self.said.get_mut(&y).expect("a peer");
                let all: Vec<(u8, u8)> = said.routes.iter().map(|(k, v)| (*k, *v)).collect();
                for (k, v) in all.into_iter().filter(|(k, _)| which >> k & 1 == 1) {
                    self.said.get_mut(&y).expect("a peer").unmark(k);
                    out.push(self.route(y, k, v));
                }
            }
            Step::Ends(_) if enhanced => {
                let said = self.said.get_mut(&y).expect("a peer");
                for k in said.marked.take().into_iter().flatten() {
                    said.routes.remove(&k);
                }
                self.note_gaps();
                out.push(refresh(RefreshKind::End));
            }
            _ => {}
        }
        out
    }

    fn takes(&mut self, step: &Step, busy: Option<&Busy>) {
        match step {
            Step::Says(y, _) | Step::Asks(y) | Step::Begins(y) | Step::Repeats(y, _) | Step::Ends(y) => {
                for step in words(step) {
                    for m in self.messages(*y, &step) {
                        match busy {
                            Some(_) => self.sim.comes_unread(*y, &m),
                            None => self.sim.peer_sends(*y, &m),
                        }
                    }
                    match busy {
                        Some(_) => self.unsure.extend(self.gap.iter().copied()),
                        None => self.judge(),
                    }
                }
                if let Some(busy) = busy {
                    self.sim.turns(busy.turns, busy.blocked);
                    if busy.reads {
                        self.sim.reads_its_last();
                    }
                }
            }
            _ if busy.is_some() && self.sim.turns_left.is_none() && !matches!(step, Step::Mends) => {
                self.sim.turns_left = busy.map(|b| b.turns * b.turns + usize::from(b.reads));
                self.takes(step, busy);
            }
            Step::Leaves(y) => {
                self.said.insert(*y, Said::default());
                self.note_gaps();
                self.sim.peer_leaves(*y);
            }
            Step::Returns(y) => self.connects(*y),
            Step::Fails(i, failure) => {
                self.bad = Some(*i);
                match failure {
                    Failure::Dead => self.sim.kill_instance(*i),
                    Failure::Lies(k) => drop(self.sim.instances[*i].fault.lies_about.insert(name(*k))),
                    Failure::Hides(k) => drop(self.sim.instances[*i].fault.hides.insert(name(*k))),
                    Failure::Refuses(y, cease) => self.sim.leave(*i, *y, cease.then(|| Notification::new(6, 2))),
                }
            }
            Step::Mends => self.mends(),
            Step::DropsLeg(i, y) => self.sim.drop_leg(*i, *y, None),
            Step::Rests => {}
        }
    }

    fn mends(&mut self) {
        if let Some(i) = self.bad.take() {
            if self.sim.instances[i].listening {
                self.sim.kill_instance(i);
                self.pass(SECOND);
            }
            self.sim.start_instance(i);
        }
    }

    fn dies(&mut self, image: bool, late: &[(usize, u64)]) {
        let late: Vec<_> = late.iter().filter(|(i, _)| self.sim.instances[*i].listening).collect();
        self.log.push_str(&format!(
            "    virtd dies @{}{}\n",
            self.sim.now / 1000,
            if image { ", with an image" } else { "" }
        ));
        self.judge();
        let absent = late.iter().map(|(i, _)| *i).collect();
        self.sim.virtd_dies_and_instances_return(image, &absent);
        // A session that had not begun is begun anew.
        let lost = self.sim.peers.iter().filter(|(y, p)| self.said[*y].here && p.conn.is_none());
        lost.map(|(y, _)| *y).collect::<Vec<_>>().into_iter().for_each(|y| self.connects(y));
        // What had been asked for may be told once more.
        self.asked.values_mut().for_each(|n| *n += 1);
        for (i, us) in late {
            self.pass(*us);
            self.sim.restart_instance(*i);
        }
    }

    fn whole(history: &'h History, dies: bool) -> Run<'h> {
        let mut run = Run::new(history);
        for (n, (step, us)) in history.steps.iter().enumerate() {
            let death = history.deaths.get(&n).filter(|_| dies);
            run.log.push_str(&format!(
                "{n}@{}: {step:?} {us} {}\n",
                run.sim.now / 1000,
                death.map_or(String::new(), |d| format!("{d:?}"))
            ));
            if death.is_some_and(|d| d.image_before) {
                run.sim.write_journal_anew();
            }
            run.takes(step, death.and_then(|d| d.busy.as_ref()));
            run.judge();
            if let Some(d) = death {
                // What was read and not seen through is in no image.
                run.dies(d.image && !d.busy.as_ref().is_some_and(|b| b.reads), &d.late);
                if let Some(us) = d.again_after {
                    run.pass(us);
                    run.dies(!d.image, &[]);
                }
            }
            match step {
                Step::Rests => run.rest(),
                _ => run.pass(*us),
            }
        }
        run.mends();
        run.rest();
        run.pass(60 * SECOND);
        run
    }

    /// What each peer should have.
    fn expected(&self, y: u8) -> BTreeMap<Prefix, (Vec<u32>, Option<u32>)> {
        let mut out = BTreeMap::new();
        for k in 0..PREFIXES {
            let all = self.said.iter().filter(|(z, _)| **z != y);
            let all = all.filter_map(|(z, s)| Some((path(*z, *s.routes.get(&k)?), *z)));
            if let Some((best, _)) = all.min_by_key(|(path, z)| (path.len(), path.clone(), *z)) {
                out.insert(name(k), ([&[sim::OUR_AS][..], &best].concat(), None));
            }
        }
        out
    }
}

fn compare(seed: u64, strategy: Strategy) -> Option<String> {
    let history = History::new(seed, strategy);
    let (without, with) = (Run::whole(&history, false), Run::whole(&history, true));
    let mut found: Vec<String> = without.found.iter().map(|f| format!("without a death: {f}")).collect();
    found.extend(with.found.iter().cloned());
    for y in (1..=PEERS).filter(|y| without.said[y].here) {
        let (a, b, right) = (without.sim.table(y), with.sim.table(y), without.expected(y));
        if a != right {
            found.push(format!("peer {y} without a death has {a:?}\n  instead of {right:?}"));
        }
        if b != a {
            found.push(format!("peer {y} has {b:?}\n  instead of {a:?}"));
        }
    }
    (!found.is_empty()).then(|| format!("seed {seed} {strategy:?}:\n{}\n{}", found.join("\n"), with.log))
}

/// HV_SEEDS: how many; HV_SEED: the first.
#[test]
fn nobody_sees_whether_virtd_died() {
    let number = |name, or| std::env::var(name).map_or(or, |n| n.parse().expect("a number"));
    let (first, seeds) = (number("HV_SEED", 0), number("HV_SEEDS", 5));
    let mut found = Vec::new();
    for (seed, strategy) in (first..first + seeds).flat_map(|seed| STRATEGIES.map(|s| (seed, s))) {
        found.extend(compare(seed, strategy));
    }
    let first = found.iter().take(3).map(String::as_str).collect::<Vec<_>>();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), first.join("\n\n"));
}
