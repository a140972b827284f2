//! Who may vote, and what becomes of an instance that is wrong, dead, hung or silent
//! (docs/DECISIONS.md, "Every fault is an output"; paper sections 3.1 and 4.2).
//!
//! Sessions keep the accounts (who dissents on which key, who lost a leg); once a tick this looks
//! at them, passes verdicts, orders the supervisor to kill and start, moves votes to standbys, and
//! tells the operator. It never touches a route: an instance that is killed loses its legs, and the
//! rest follows from that.
//!
//! ```text
//! dissent, lost legs, exits, usage ──▶ tick ──▶ verdict ──▶ kill ──▶ (standby votes) ──▶ wait ──▶ start ──▶ level ──▶ votes
//! ```

mod absent;
mod lasting;
mod operator;
mod seats;
mod standby;
mod verdict;

use super::env::Env;
use super::followups::Loss;
use super::io::{Death, InstanceId, Micros, Order, Output, ProcessNews};
use super::session::Session;
use crate::config::{Config, Instance, Standby};
use crate::event::{Event, Severity};
use std::collections::VecDeque;

/// Longer than any window that is looked back on: what is kept of an instance's past is bounded by
/// its number as well.
const MAX_PAST: usize = 256;

/// How long the word that a process has ended may come before the end of its leg.
const FATE_US: Micros = 1_000_000;

/// How long the end of an instance may take that was told to end.
const ASKED_US: Micros = 10_000_000;

/// An order that nothing has followed for so long is given again: the supervisor's queue may have
/// been full. All of them may be repeated.
const REPEAT_US: Micros = 10_000_000;

/// In place of since when an instance has been busy: for so long that the operator was told.
const SUSPECT: Micros = Micros::MAX;

/// What an instance is for at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// It votes (where it is level).
    Voter,
    /// Fed and compared, as configured.
    Observer,
    /// It waits to replace a voter.
    Standby(Standby),
    /// An operator has taken its vote away.
    Drained,
    /// An operator has stopped it.
    Disabled,
    /// Started to take another's place, once it has caught up; fed and compared until then.
    Successor,
    /// It is no part of the router any more, and is being ended.
    Leaving,
    /// There is none.
    Vacant,
}

impl Duty {
    /// What the configuration says.
    fn configured(c: &Instance) -> Duty {
        match (c.observer, c.standby) {
            (true, _) => Duty::Observer,
            (_, Some(standby)) => Duty::Standby(standby),
            _ => Duty::Voter,
        }
    }

    /// The word virtctl shows.
    pub const fn name(self) -> &'static str {
        match self {
            Duty::Voter => "voter",
            Duty::Observer => "observer",
            Duty::Standby(Standby::Warm) => "warm-standby",
            Duty::Standby(Standby::Cold) => "standby",
            Duty::Drained => "drained",
            Duty::Disabled => "disabled",
            Duty::Successor => "successor",
            Duty::Leaving => "leaving",
            Duty::Vacant => "vacant",
        }
    }
}

/// The processes of an instance, as far as they are virtd's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Process {
    /// Something else starts it.
    NotOurs,
    /// It runs, or is being started.
    Running,
    /// It was told to end.
    Ending,
    /// It does not run; when to start it, if at all.
    Down(Option<Micros>),
}

/// What became of an instance's processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate<'a> {
    /// Something else starts it, and knows.
    NotOurs,
    /// Nothing has been heard: they run, or are about to be reaped.
    Unknown,
    /// How the first of them ended, in words.
    Ended(&'a str),
}

/// Everything about one instance.
#[derive(Debug)]
struct Control {
    duty: Duty,
    pinned: bool,
    process: Process,
    /// Times of restarts within the limit's window.
    restarts: VecDeque<Micros>,
    /// When it lost its leg of which session, its own end left out.
    losses: VecDeque<(Micros, usize)>,
    /// When a leg's hold time expired; nothing has come from it since.
    silent: Option<Micros>,
    /// When and how its processes ended last.
    last_end: Option<(Micros, String)>,
    /// When it was last told to end.
    asked: Option<Micros>,
    /// The last order, and when it was given, until something follows from it.
    ordered: Option<(Order, Micros)>,
    /// It is not coming back by itself: a standby takes its place as soon as one waits.
    fallen: bool,
    /// Of one that something else starts: since when all of it is away, once it was there.
    away: Option<Micros>,
    /// It was there.
    came: bool,
    /// When the last verdict on it was told.
    accused: Option<Micros>,
    /// Its control program was asked to begin a session anew, and it has not got all of them since.
    nudged: bool,
    /// The last verdict was not carried out, because another voter was not there: it is looked at
    /// again when all are.
    deferred: bool,
    /// What it was found wrong about last, for when it comes back the same.
    lasting: Option<Box<lasting::Lasting>>,
    /// When its process started, until it votes.
    started: Option<Micros>,
    /// Candidates it had sent when it was last looked at, and since when it floods.
    candidates: u64,
    flood_since: Option<Micros>,
    /// Thousandths of a processor and KiB, as last reported.
    usage: Option<(u32, u64)>,
    /// Which version its program was, when it last said so.
    version: Option<String>,
    busy_since: Option<Micros>,
    /// Its memory when it had caught up, or when its growth was last told.
    base_rss: Option<u64>,
    /// It has grown, from so many KiB, and that was told.
    grown_from: Option<u64>,
    /// Whose place it takes when it has caught up.
    replaces: Option<usize>,
    /// A reload has brought it, and it has not caught up yet.
    new: bool,
    /// The configuration has it no more: it leaves when those that a reload brought have caught up.
    leaves: bool,
    /// It leaves, and what was left of it has been cut off.
    cut: bool,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Controller {
    list: Vec<Control>,
    /// Since when an operator changes policy: no verdict kills.
    change: Option<Micros>,
    split_told: bool,
    next_second: Micros,
}

impl Control {
    /// As configured.
    fn new(c: &Instance) -> Control {
        Control {
            duty: Duty::configured(c),
            pinned: false,
            process: match (c.is_ours(), c.standby) {
                (false, _) => Process::NotOurs,
                (true, Some(Standby::Cold)) => Process::Down(None),
                (true, _) => Process::Running,
            },
            restarts: VecDeque::new(),
            losses: VecDeque::new(),
            silent: None,
            last_end: None,
            asked: None,
            ordered: None,
            fallen: false,
            away: None,
            came: false,
            accused: None,
            nudged: false,
            deferred: false,
            lasting: None,
            started: None,
            candidates: 0,
            flood_since: None,
            usage: None,
            version: None,
            busy_since: None,
            base_rss: None,
            grown_from: None,
            replaces: None,
            new: false,
            leaves: false,
            cut: false,
        }
    }

    /// Has the supervisor do something with this instance, which is number `i`.
    fn order(&mut self, i: usize, order: Order, env: &mut Env) {
        self.ordered = Some((order, env.now));
        env.out.push(Output::Order { instance: InstanceId(i as u8), order });
    }
}

impl Controller {
    /// Everybody as configured.
    pub fn new(config: &Config) -> Controller {
        Controller {
            list: config.instances.iter().map(Control::new).collect(),
            change: None,
            split_told: false,
            next_second: 0,
        }
    }

    /// What instance `i` is for.
    pub fn duty(&self, i: usize) -> Duty {
        self.list.get(i).map_or(Duty::Observer, |c| c.duty)
    }

    /// For virtctl: pinned, thousandths of a processor, KiB, restarts within the limit's window.
    pub fn detail(&self, i: usize) -> (bool, Option<(u32, u64)>, usize) {
        self.list.get(i).map_or((false, None, 0), |c| (c.pinned, c.usage, c.restarts.len()))
    }

    /// Which version instance `i` says it is.
    pub fn version(&self, i: usize) -> Option<&str> {
        self.list.get(i)?.version.as_deref()
    }

    /// What about instance `i` is out of the ordinary now: `cpu`, `memory`.
    pub fn suspect(&self, i: usize) -> Vec<&'static str> {
        let Some(c) = self.list.get(i) else { return Vec::new() };
        let cpu = (c.busy_since == Some(SUSPECT)).then_some("cpu");
        cpu.into_iter().chain(c.grown_from.map(|_| "memory")).collect()
    }

    /// Whether instance `i` was told to end, a moment ago or now: then no UPDATE killed it.
    pub fn was_asked_to_end(&self, i: usize, now: Micros) -> bool {
        self.list.get(i).and_then(|c| c.asked).is_some_and(|at| now < at + ASKED_US)
    }

    /// What became of the processes of instance `i` whose leg ended at `at`.
    pub fn fate(&self, i: usize, at: Micros) -> Fate<'_> {
        match self.list.get(i) {
            None | Some(Control { process: Process::NotOurs, .. }) => Fate::NotOurs,
            // The supervisor and the leg speak in either order, but not far from each other.
            Some(Control { last_end: Some((then, text)), .. }) if then + FATE_US >= at => Fate::Ended(text),
            Some(_) => Fate::Unknown,
        }
    }

    /// Since when an operator changes policy.
    pub fn change_since(&self) -> Option<Micros> {
        self.change
    }

    /// What the supervisor says.
    pub fn process(&mut self, i: usize, news: ProcessNews, env: &mut Env, sessions: &[Session]) {
        let Some(c) = self.list.get_mut(i).filter(|c| c.process != Process::NotOurs) else { return };
        let followed = match (c.ordered, &news) {
            (Some((Order::Start, _)), news) => {
                !matches!(news, ProcessNews::Usage { .. } | ProcessNews::Version { .. } | ProcessNews::Died { .. })
            }
            // That it was started may be told late.
            (_, news) => matches!(news, ProcessNews::Ended { .. } | ProcessNews::Failed { .. }),
        };
        if followed {
            c.ordered = None;
        }
        match news {
            ProcessNews::Started { .. } => {
                // It may have been told to end before this word came: then its end is still to
                // come, and was asked for.
                if c.process != Process::Ending {
                    c.process = Process::Running;
                }
                (c.fallen, c.grown_from) = (false, None);
                if let Some(lasting) = &mut c.lasting {
                    lasting.started();
                }
                (c.started, c.usage, c.base_rss, c.busy_since) = (Some(env.now), None, None, None);
            }
            ProcessNews::Usage { cpu_permille, rss_kib } => {
                c.usage = Some((cpu_permille, rss_kib));
                if c.started.is_none() {
                    // It has caught up: what it takes from here on is growth.
                    c.base_rss.get_or_insert(rss_kib);
                }
                self.watch_usage(i, cpu_permille, rss_kib, env, sessions);
            }
            ProcessNews::Version { version } => c.version = Some(version),
            ProcessNews::Died { death } => {
                if let Some(s) = env.instances.get_mut(i) {
                    s.last_death = Some((env.now, death));
                }
            }
            ProcessNews::Failed { text } => self.ended(i, true, &text, env),
            ProcessNews::Ended { unasked, text } => {
                c.last_end = Some((env.now, text.clone()));
                if let Some(s) = env.instances.get_mut(i) {
                    // Where nothing more is known it may have been an UPDATE.
                    let known = s.last_death.is_some_and(|(at, _)| env.now < at + FATE_US);
                    s.last_death = if known { s.last_death } else { Some((env.now, Death::Crash)) };
                }
                if unasked && c.process == Process::Running {
                    let record = verdict::record("instance-exited", i, &text, env, sessions);
                    env.out.extend(record);
                }
                self.ended(i, unasked, &text, env);
            }
        }
    }

    /// The processes of instance `i` are gone.
    fn ended(&mut self, i: usize, unasked: bool, text: &str, env: &mut Env) {
        let Some(c) = self.list.get_mut(i) else { return };
        if !unasked && c.process == Process::Running {
            // Nobody here has asked for it: virtd ends, and its supervisor ends everybody.
            c.process = Process::Down(None);
            return;
        }
        let asked = !unasked || c.process == Process::Ending;
        (c.usage, c.busy_since, c.grown_from, c.started) = (None, None, None, None);
        c.losses.clear();
        match c.duty {
            Duty::Disabled | Duty::Standby(Standby::Cold) | Duty::Leaving | Duty::Vacant => {
                c.process = Process::Down(None);
            }
            _ if asked && matches!(c.process, Process::Down(_)) => {}
            _ => {
                if !asked && let Some(s) = env.instances.get_mut(i) {
                    s.last_fault = Some(text.to_owned());
                }
                // Whoever falls is replaced where somebody waits, and goes to the end of the line.
                let replaced = if asked { None } else { self.replace(i, env) };
                match (replaced, self.duty(i)) {
                    (Some(_), Duty::Standby(Standby::Cold)) => self.set_process(i, Process::Down(None)),
                    _ => self.plan_restart(i, env),
                }
            }
        }
    }

    fn set_process(&mut self, i: usize, process: Process) {
        if let Some(c) = self.list.get_mut(i) {
            c.process = process;
        }
    }

    /// Restarts with a wait that doubles, up to a limit.
    fn plan_restart(&mut self, i: usize, env: &mut Env) {
        let f = env.config.faults;
        let now = env.now;
        let Some(c) = self.list.get_mut(i) else { return };
        let window = Micros::from(f.restart_limit_ms) * 1000;
        c.restarts.retain(|at| now < at + window);
        if c.restarts.len() >= (f.restart_limit as usize).min(MAX_PAST) {
            c.process = Process::Down(None);
            c.fallen = true;
            let name = env.name(i);
            let text = format!(
                "{name} has been restarted {} times within {} s and stays down; `virtctl instance restart {name}` tries again",
                c.restarts.len(),
                f.restart_limit_ms / 1000
            );
            return env.tell_about("instance-given-up", Severity::Alarm, i, text);
        }
        let doubled = Micros::from(f.restart_min_ms) << c.restarts.len().min(20);
        let wait = doubled.min(Micros::from(f.restart_max_ms)) * 1000;
        c.restarts.push_back(now);
        c.process = Process::Down(Some(now + wait));
        let text = format!(
            "{} is started again in {:.1} s (restart {} of at most {} within {} s)",
            env.name(i),
            wait as f64 / 1e6,
            c.restarts.len(),
            f.restart_limit,
            f.restart_limit_ms / 1000
        );
        env.tell_about("instance-restart", Severity::Info, i, text);
    }

    /// Looks at everything once; called with every tick.
    pub fn tick(&mut self, env: &mut Env, sessions: &mut [Session]) {
        env.instances.standing = verdict::standing(sessions, self.list.len());
        self.note_losses(env);
        self.start_due(env);
        self.repeat_orders(env);
        self.watch_strangers(env);
        self.watch_lasting(env);
        self.replace_fallen(env);
        if env.now >= self.next_second {
            self.next_second = env.now + 1_000_000;
            self.watch_floods(env, sessions);
            self.tell_back(env, sessions);
        }
        self.judge(env, sessions);
    }

    /// When [`Controller::tick`] is wanted although no session asks for one.
    pub fn deadline(&self) -> Option<Micros> {
        let again = |c: &Control| if let Process::Down(at) = c.process { at } else { None };
        self.list.iter().filter_map(again).min()
    }

    /// The place of this session may be another peer's.
    pub fn forget_session(&mut self, session: usize) {
        self.list.iter_mut().for_each(|c| c.losses.retain(|(_, s)| *s != session));
    }

    /// Whether a leg of instance `i` has ended because nothing came from it, and nothing has come on
    /// any other since.
    pub fn hangs(&self, i: usize, env: &Env) -> bool {
        let hold = Micros::from(env.config.timers.leg_hold_s) * 1_000_000;
        let heard = env.instances.get(i).map_or(0, |s| s.last_heard);
        self.list.get(i).is_some_and(|c| c.silent.is_some()) && env.now >= heard + hold
    }

    fn note_losses(&mut self, env: &mut Env) {
        let now = env.now;
        for Loss { instance, session, silent } in env.followups.take_losses() {
            let Some(c) = self.list.get_mut(instance).filter(|c| c.process != Process::Ending) else { continue };
            c.silent = if silent { Some(now) } else { c.silent };
            if c.losses.len() < MAX_PAST {
                c.losses.push_back((now, session));
            }
        }
        for (i, session) in env.followups.take_excused() {
            if let Some(c) = self.list.get_mut(i) {
                c.losses.retain(|(_, s)| *s != session);
            }
        }
        let window = Micros::from(env.config.faults.leg_losses_ms) * 1000;
        for (i, c) in self.list.iter_mut().enumerate() {
            // What came later shows that it was no hang.
            let heard = env.instances.get(i).map_or(0, |s| s.last_heard);
            c.silent = c.silent.filter(|at| heard <= *at);
            c.losses.retain(|(at, _)| now < at + window);
        }
    }

    /// Orders the starts whose time has come.
    fn start_due(&mut self, env: &mut Env) {
        for (i, c) in self.list.iter_mut().enumerate() {
            if let Process::Down(Some(at)) = c.process
                && at <= env.now
            {
                c.process = Process::Running;
                c.order(i, Order::Start, env);
            }
        }
    }

    fn repeat_orders(&mut self, env: &mut Env) {
        for (i, c) in self.list.iter_mut().enumerate() {
            if let Some((order, _)) = c.ordered.filter(|(_, at)| env.now >= at + REPEAT_US) {
                c.order(i, order, env);
            }
        }
    }

    /// Gives an instance another duty; the electorates follow.
    fn set_duty(&mut self, i: usize, duty: Duty, env: &mut Env) {
        let Some(c) = self.list.get_mut(i) else { return };
        c.duty = duty;
        c.fallen = false;
        if matches!(duty, Duty::Drained | Duty::Disabled | Duty::Leaving) {
            env.touch(i);
        }
        let n = i as u8;
        env.instances.voters.remove(n);
        env.instances.observers.remove(n);
        env.instances.master_line.retain(|m| *m != n);
        match duty {
            Duty::Voter => env.instances.voters.insert(n),
            // What a cold standby says while it is still being stopped is nobody's word.
            Duty::Observer | Duty::Drained | Duty::Successor | Duty::Standby(Standby::Warm) => {
                env.instances.observers.insert(n)
            }
            Duty::Standby(Standby::Cold) | Duty::Disabled | Duty::Leaving | Duty::Vacant => {}
        }
        env.followups.vote_anew();
    }

    /// Says once that an instance that was started votes, and how long that took.
    fn tell_back(&mut self, env: &mut Env, sessions: &[Session]) {
        for (i, c) in self.list.iter_mut().enumerate() {
            let Some(started) = c.started else { continue };
            let there = sessions.iter().any(|s| s.up.is_some())
                && sessions.iter().filter(|s| s.up.is_some() && s.knows(i)).all(|s| s.stands(i))
                && sessions.iter().any(|s| s.stands(i));
            if !there || !env.heard.is_level(i) {
                continue;
            }
            c.started = None;
            c.silent = None;
            let seconds = (env.now - started) as f64 / 1e6;
            let what = if c.duty == Duty::Voter { "votes" } else { "has caught up" };
            let text = format!("{} {what}, {seconds:.1} s after its start", env.name(i));
            env.tell_about("instance-back", Severity::Info, i, text);
        }
    }
}

impl Env {
    /// Tells the operator about one instance.
    pub fn tell_about(&mut self, kind: &'static str, severity: Severity, i: usize, text: String) {
        let event = Event::new(self.now, kind, severity, text).with_instance(self.name(i));
        self.out.push(event.into());
    }
}
