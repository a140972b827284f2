//! When an instance is found faulty, and what follows.
//!
//! | found | rule |
//! |---|---|
//! | wrong | it dissents on `min_keys` prefixes or more, on each of these for the fault threshold or longer; or on any one for `one_key_s` |
//! | silent | a leg's hold time expired and it has no other leg left |
//! | absent | it lacks most of the sessions that the majority has, and beginning one anew has not helped (`absent.rs`) |
//! | flapping | it lost `leg_losses` legs within `leg_losses_s` |
//! | flooding | level, it sends ten times what any other does, and more than 10,000 routes a second, for ten seconds |
//! | large | its memory is beyond `memory_mib` |
//!
//! Nobody is ended while another voter is down or has not caught up, nor the last voter, hangs
//! excepted. Nobody is accused of dissent while the majority itself is in doubt (paper, footnote
//! 6), and nobody is killed while an operator changes policy.

use super::{Control, Controller, Duty, Process, SUSPECT};
use crate::config::{Fault, FaultAction};
use crate::dissent::Key;
use crate::env::Env;
use crate::event::{Event, Said, Severity};
use crate::io::{Micros, Order, Output, Record};
use crate::session::Session;
use serde_json::json;
use std::net::SocketAddr;
use voter::{Members, majority_split, wrong_for_long};
use wire::bgp::Prefix;

/// Routes a second below which nobody floods.
const FLOOD_RATE: u64 = 10_000;
/// How many times what any other sends.
const FLOOD_RATIO: u64 = 10;
/// For how long.
const FLOOD_US: Micros = 10_000_000;
/// Growth of memory below which nothing is made of it, KiB.
const SMALL_KIB: u64 = 65_536;
/// Keys in a verdict's record, with what everybody says.
const KEYS_RECORDED: usize = 1000;
/// Prefixes named in a verdict.
const KEYS_NAMED: usize = 5;

/// Why an instance is found faulty.
pub(super) struct Charge {
    fault: Fault,
    why: String,
    /// The session that shows it.
    session: Option<SocketAddr>,
    /// Since when it dissents on that prefix, ms.
    since: Option<u64>,
    /// A prefix on it that shows it, with what everybody says.
    key: Option<(Prefix, Vec<Said>)>,
    /// What it says cannot be trusted, or it says nothing: to be killed even where it is the last.
    useless: bool,
}

impl Charge {
    fn new(fault: Fault, why: String) -> Charge {
        Charge { fault, why, session: None, since: None, key: None, useless: false }
    }

    /// On the session with a peer.
    pub(super) fn with(fault: Fault, peer: SocketAddr, why: String) -> Charge {
        Charge { session: Some(peer), ..Charge::new(fault, why) }
    }

    /// Puts what shows it into an event.
    pub(super) fn describe(&mut self, event: &mut Event, env: &Env) {
        event.since_us = self.since.map(|ms| ms * 1000);
        event.session = self.session.map(|peer| env.peer_name(&peer));
        if let Some((prefix, said)) = self.key.take() {
            (event.prefix, event.said) = (Some(prefix), said);
        }
    }
}

impl Controller {
    /// Whether the majority itself is in doubt, so that nobody is accused.
    pub const fn is_split(&self) -> bool {
        self.split_told
    }

    /// Passes verdicts on everybody.
    pub(super) fn judge(&mut self, env: &mut Env, sessions: &mut [Session]) {
        let f = env.config.faults;
        let prefixes = (0..env.instances.len()).map(|i| env.wrong_prefixes(i));
        let split = majority_split(prefixes, env.instances.voters, f.min_keys, env.without_quorum, f.split_keys);
        if split && !self.split_told {
            let text = format!(
                "the majority itself is in doubt ({} prefixes without one): nobody is accused; compare the instances' configurations",
                env.without_quorum
            );
            env.out.push(Event::new(env.now, "majority-split", Severity::Alarm, text).into());
        }
        self.split_told = split;
        self.watch_absent(env, sessions);
        for i in 0..self.list.len() {
            let Some(c) = self.list.get(i) else { continue };
            let freed = c.deferred && self.other_that_is_not_level(i, env, sessions).is_none();
            let told_lately = !freed && c.accused.is_some_and(|at| env.now < at + threshold(env));
            let gone = matches!(c.process, Process::Ending | Process::Down(_))
                || matches!(c.duty, Duty::Leaving | Duty::Vacant);
            if gone || told_lately {
                continue;
            }
            let known = split || self.change.is_some() || c.lasting.as_ref().is_some_and(|l| l.stands(env));
            let dissents = if known { None } else { wrong(i, env, sessions) };
            let charge = dissents.or_else(|| silent(c, i, env, sessions));
            let Some(mut charge) = charge.or_else(|| flapping(c, env, sessions)) else { continue };
            if charge.fault != Fault::Wrong || !self.lasts(i, &mut charge, env, sessions) {
                self.condemn(i, charge, env, sessions);
            }
        }
    }

    /// Tells the verdict, carries it out where that is allowed, and has what led to it written
    /// down.
    pub(super) fn condemn(&mut self, i: usize, mut charge: Charge, env: &mut Env, sessions: &[Session]) {
        let name = env.name(i).to_owned();
        let spared = self.spared(i, &charge, env);
        let away = if charge.useless { None } else { self.other_that_is_not_level(i, env, sessions) };
        let deferred = spared.is_none() && away.is_some();
        let refusal = spared.or_else(|| {
            let away = env.name(away?);
            Some(format!("it is left running while {away} is down or has not caught up"))
        });
        let may_replace = self.is_replaceable(i, &charge, env);
        let Some(c) = self.list.get_mut(i) else { return };
        (c.accused, c.deferred) = (Some(env.now), deferred);
        c.losses.clear();
        c.silent = None;
        if let Some(s) = env.instances.get_mut(i) {
            s.last_fault = Some(charge.why.clone());
        }
        let done = refusal.as_deref().unwrap_or("it is killed and started again");
        let severity = if refusal.is_some() { Severity::Alarm } else { Severity::Warning };
        let record = record("instance-faulty", i, &charge.why, env, sessions);
        let mut event = Event::new(env.now, "instance-faulty", severity, format!("{name} {}; {done}", charge.why));
        event.instance = Some(name);
        charge.describe(&mut event, env);
        env.out.push(event.into());
        match refusal {
            None => self.kill(i, env),
            // Nobody here can end it; but its place can be taken.
            Some(_) if may_replace => self.fall(i, env),
            Some(_) => {}
        }
        env.out.extend(record);
    }

    /// Ends an instance at once; a standby votes in its place, and it comes back by itself.
    pub(super) fn kill(&mut self, i: usize, env: &mut Env) {
        if let Some(c) = self.list.get_mut(i) {
            c.order(i, Order::Kill, env);
            c.process = Process::Ending;
            c.asked = Some(env.now);
        }
        if self.replace(i, env).is_none() && self.duty(i) == Duty::Voter {
            // The next in line is master from now on, and stays so when this one comes back.
            env.instances.master_line.retain(|m| usize::from(*m) != i);
            env.instances.master_line.push(i as u8);
            env.followups.vote_anew();
        }
    }

    /// A voter that is found faulty and not ended: its vote goes to a standby, now or when one
    /// comes.
    pub(super) fn fall(&mut self, i: usize, env: &mut Env) {
        if self.replace_running(i, env).is_none()
            && let Some(c) = self.list.get_mut(i)
        {
            c.fallen = true;
        }
    }

    /// Whether a voter that virtd cannot end loses its vote by this charge, where a standby waits.
    fn is_replaceable(&self, i: usize, charge: &Charge, env: &Env) -> bool {
        let others = env.instances.voters.iter().any(|v| usize::from(v) != i && env.votes_somewhere(v));
        self.list.get(i).is_some_and(|c| c.process == Process::NotOurs && c.duty == Duty::Voter && !c.pinned)
            && env.config.faults.action.of(charge.fault) == FaultAction::Restart
            && self.change.is_none()
            && (others || charge.useless)
    }

    /// Why an instance is left alone although it is faulty.
    fn spared(&self, i: usize, charge: &Charge, env: &Env) -> Option<String> {
        let c = self.list.get(i)?;
        // One that has sessions is missed there; one that has none, in the FIB.
        let in_fib_only = env.instances.in_fib.contains(i as u8) && !env.instances.standing.contains(i as u8);
        let votes = |v: u8| if in_fib_only { env.instances.in_fib.contains(v) } else { env.votes_somewhere(v) };
        let others = env.instances.voters.iter().filter(|v| usize::from(*v) != i && votes(*v)).count();
        Some(match c.duty {
            Duty::Observer | Duty::Drained => format!("it is {}, so nothing is done", article(c.duty.name())),
            _ if env.config.faults.action.of(charge.fault) == FaultAction::Report => {
                "reported only (faults.action)".to_owned()
            }
            _ if c.pinned => "it is pinned, so nothing is done".to_owned(),
            _ if self.change.is_some() => "policy is being changed, so nothing is done".to_owned(),
            _ if c.process == Process::NotOurs => {
                "virtd did not start it and cannot restart it: do that; what it says wrongly is outvoted meanwhile"
                    .to_owned()
            }
            Duty::Voter if others == 0 && !charge.useless => {
                "it is the last one that votes, so it is left running".to_owned()
            }
            _ => return None,
        })
    }

    /// Processor and memory of an instance: an anomaly raises suspicion before the output is wrong
    /// (papers/002 section 5.3.1).
    pub(super) fn watch_usage(
        &mut self,
        i: usize,
        cpu_permille: u32,
        rss_kib: u64,
        env: &mut Env,
        sessions: &[Session],
    ) {
        let f = env.config.faults;
        let name = env.name(i).to_owned();
        let Some(c) = self.list.get_mut(i) else { return };
        if cpu_permille >= f.cpu_percent * 10 {
            let since = *c.busy_since.get_or_insert(env.now);
            let limit = Micros::from(f.cpu_ms) * 1000;
            if since != SUSPECT && env.now >= since + limit {
                let text = format!("{name} has used {} % of a processor for {} s", cpu_permille / 10, f.cpu_ms / 1000);
                env.tell_about("instance-suspect", Severity::Warning, i, text);
                c.busy_since = Some(SUSPECT); // until it rests
            }
        } else {
            c.busy_since = None;
        }
        if let Some(base) = c.base_rss
            && rss_kib > 2 * base
            && rss_kib > base + SMALL_KIB
        {
            let text = format!("{name} has grown from {} to {} MiB since it caught up", base / 1024, rss_kib / 1024);
            c.base_rss = Some(rss_kib);
            c.grown_from.get_or_insert(base);
            env.tell_about("instance-suspect", Severity::Warning, i, text);
        }
        if c.grown_from.is_some_and(|base| rss_kib <= (2 * base).max(base + SMALL_KIB)) {
            c.base_rss = c.grown_from.take();
        }
        if let Some(limit) = f.memory_mib
            && rss_kib > u64::from(limit) * 1024
            && c.process == Process::Running
            && c.accused.is_none_or(|at| env.now >= at + threshold(env))
        {
            let why = format!("uses {} MiB of memory, more than faults.memory_mib = {limit}", rss_kib / 1024);
            self.condemn(i, Charge::new(Fault::Large, why), env, sessions);
        }
    }

    /// Looks for an instance that sends far more than all others; called once a second.
    pub(super) fn watch_floods(&mut self, env: &mut Env, sessions: &[Session]) {
        let now = env.now;
        let counts: Vec<u64> = env.instances.iter().map(|s| s.candidates).collect();
        let rates: Vec<u64> =
            self.list.iter_mut().zip(&counts).map(|(c, n)| n - std::mem::replace(&mut c.candidates, *n)).collect();
        for i in 0..self.list.len() {
            let rate = rates.get(i).copied().unwrap_or(0);
            let others = rates.iter().enumerate().filter(|(n, _)| *n != i).map(|(_, r)| *r).max();
            let Some(c) = self.list.get_mut(i) else { continue };
            // Who is not level says a whole table while the others rest. That ends with its
            // catching up, which has a cap.
            let level = env.heard.is_level(i) && !sessions.iter().any(|s| s.levels(i));
            // Alone there is nobody to compare with.
            let floods = level && rate > FLOOD_RATE && others.is_some_and(|o| rate > FLOOD_RATIO * o);
            if !floods {
                c.flood_since = None;
                continue;
            }
            if now < *c.flood_since.get_or_insert(now) + FLOOD_US {
                continue;
            }
            c.flood_since = None;
            let why = format!(
                "sends {rate} routes a second, more than {FLOOD_RATIO} times what any other instance does, and has done so for {} s",
                FLOOD_US / 1_000_000
            );
            self.condemn(i, Charge::new(Fault::Flooding, why), env, sessions);
        }
    }
}

/// What led to a verdict or an end, for the disk; `None` where nothing is recorded.
pub(super) fn record(kind: &'static str, i: usize, why: &str, env: &Env, sessions: &[Session]) -> Option<Output> {
    env.config.recorder.folder.as_ref()?;
    let messages = env.flight.of(i as u8, |s, way, bytes| sessions.get(s)?.recorded(i, way, bytes, env));
    let keys: Vec<_> = sessions
        .iter()
        .flat_map(|s| {
            s.dissenting(i, env).take(KEYS_RECORDED).map(move |(prefix, said)| (env.peer_name(&s.peer), prefix, said))
        })
        .take(KEYS_RECORDED)
        .map(|(peer, prefix, said)| json!({ "peer": peer.to_string(), "prefix": prefix, "said": said }))
        .collect();
    let instance = env.name(i).to_owned();
    let account = json!({ "instance": instance, "why": why, "prefixes": keys });
    Some(Output::Record(Box::new(Record { at: env.now, kind, instance, messages, account })))
}

pub(super) fn threshold(env: &Env) -> Micros {
    Micros::from(env.config.timers.fault_threshold_ms) * 1000
}

fn article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
    if word == "drained" { word.to_owned() } else { format!("{} {word}", if vowel { "an" } else { "a" }) }
}

/// Wrong contents, or a message missing: not with a steady majority for too long.
fn wrong(i: usize, env: &Env, sessions: &[Session]) -> Option<Charge> {
    let f = env.config.faults;
    let account = &env.instances.get(i)?.account;
    let now = env.now_ms();
    let total = env.wrong_prefixes(i);
    let exceeds = |ms: u32, least: u32| {
        let ms = u64::from(ms);
        // Each of these asks for more than the one before, and costs more.
        total >= least.max(1)
            && wrong_for_long(account.begun(), ms, least, now)
            && (least <= 1 || wrong_for_long(account.begun_by_prefix(env.tables()), ms, least, now))
    };
    if !exceeds(env.config.timers.fault_threshold_ms, f.min_keys) && !exceeds(f.one_key_ms, 1) {
        return None;
    }
    // Those that have stood for the longest are what the verdict rests on.
    let oldest = account.oldest(KEYS_NAMED);
    let since = oldest.iter().map(|(.., begun)| *begun).next().unwrap_or(now);
    let told = |((session, slot), ..): (Key, Prefix, u64)| {
        let session = sessions.get(session as usize)?;
        Some((session.peer, session.told(slot, env)?))
    };
    let keys: Vec<(SocketAddr, (Prefix, Vec<Said>))> = oldest.into_iter().filter_map(told).collect();
    let named: Vec<String> = keys.iter().map(|(_, (p, _))| p.to_string()).collect();
    let more = if total as usize > named.len() { ", …" } else { "" };
    let which = match named.is_empty() {
        false => format!("{}{more}", named.join(", ")),
        // In the FIB alone.
        true => format!("last: {}", env.instances.get(i)?.last_fault.as_deref().unwrap_or("in the FIB")),
    };
    let why = format!(
        "is not with the majority on {} prefixes, for up to {} s without a break ({which})",
        total,
        (now - since) / 1000
    );
    let (session, key) = keys.into_iter().next().unzip();
    Some(Charge { session, since: Some(since), key, ..Charge::new(Fault::Wrong, why) })
}

/// A hang: no leg is left, and one went because nothing came from the instance.
fn silent(c: &Control, i: usize, env: &Env, sessions: &[Session]) -> Option<Charge> {
    let attached = env.instances.get(i)?.attached;
    if c.silent.is_none() || !attached || sessions.iter().any(|s| s.stands(i)) {
        return None;
    }
    let hold_s = env.config.timers.leg_hold_s;
    Some(Charge {
        useless: true,
        ..Charge::new(Fault::Silent, format!("hangs: nothing has come from it for {hold_s} s"))
    })
}

/// The same leg, lost again and again.
fn flapping(c: &Control, env: &Env, sessions: &[Session]) -> Option<Charge> {
    let f = env.config.faults;
    let limit = f.leg_losses.max(1) as usize;
    if c.losses.len() < limit {
        return None;
    }
    let times = |session: usize| c.losses.iter().filter(|(_, s)| *s == session).count();
    let session = c.losses.iter().map(|(_, s)| *s).find(|s| times(*s) >= limit)?;
    let on = sessions.get(session)?;
    let why = format!(
        "has lost its session with {} {} times within {} s",
        env.peer_name(&on.peer),
        times(session),
        f.leg_losses_ms / 1000
    );
    Some(Charge::with(Fault::Flapping, on.peer, why))
}

impl Env {
    /// Whether instance `i` has a vote on some session now.
    pub(super) fn votes_somewhere(&self, i: u8) -> bool {
        self.instances.standing.contains(i) && !self.heard.is_level_nowhere(i)
    }
}

/// The instances that have an established leg on some session.
pub(super) fn standing(sessions: &[Session], n: usize) -> Members {
    (0..n as u8).filter(|i| sessions.iter().any(|s| s.stands(usize::from(*i)))).collect()
}
