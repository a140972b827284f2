//! What the vote wants in the kernel, what is there, and the writes that make the one the other.

use super::socket::{Notice, Requests, Write};
use super::{Counters, add};
use crate::config::Fib;
use crate::core::io::FibChange;
use anyhow::Result;
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wire::netlink::RouteMessage;
use wire::netlink::consts::{RTM_DELROUTE, RTM_NEWROUTE};
use wire::netlink::fib::{FibKey, FibRoute, encode_delete, encode_route};

/// Repairs of one key within [`REPAIR_SPAN`]; after them the next reconciliation sees to it.
const REPAIRS: u8 = 3;
const REPAIR_SPAN: Duration = Duration::from_secs(10);
/// Default metric of an IPv6 route that names none.
const IPV6_METRIC: u32 = 1024;

/// A route that the vote wants: some 70 octets with its key and a single next hop.
#[derive(Debug)]
struct Wanted {
    /// Canonical octets.
    route: Box<[u8]>,
    /// Why the kernel does not have it, 0 where it does.
    errno: i32,
}

/// What became of a step.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Keys that could not be written (errno), or now could after all.
    pub written: Vec<(FibKey, Option<i32>)>,
    /// Routes of an earlier virtd that were confirmed.
    pub adopted: usize,
    /// Put right after somebody else, and what had happened to them.
    pub repaired: Vec<(FibKey, &'static str)>,
    /// Keys where a route of somebody else's is in the way.
    pub foreign: Vec<FibKey>,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Routes {
    protocol: u8,
    metric: u32,
    wanted: HashMap<FibKey, Wanted>,
    /// What an earlier virtd has left and no vote has spoken about, with its canonical octets.
    left: HashMap<FibKey, Box<[u8]>>,
    /// Keys for which others have a route with our metric: written over, it would be gone.
    foreign: HashSet<FibKey>,
    /// Repairs lately: since when, how many.
    repairs: HashMap<FibKey, (Instant, u8)>,
    counters: Arc<Counters>,
}

/// A route in the kernel, as far as it is our business.
enum Seen {
    Ours(FibKey, Vec<u8>),
    InTheWay(FibKey),
    Nothing,
}

impl Routes {
    /// Nothing wanted.
    pub fn new(config: &Fib, counters: Arc<Counters>) -> Routes {
        Routes {
            protocol: config.protocol,
            metric: config.metric,
            wanted: HashMap::new(),
            left: HashMap::new(),
            foreign: HashSet::new(),
            repairs: HashMap::new(),
            counters,
        }
    }

    /// Routes of an earlier virtd that wait for a vote, or the sweep.
    pub fn leftovers(&self) -> usize {
        self.left.len()
    }

    fn see(&self, payload: &[u8]) -> Seen {
        let Ok(message) = RouteMessage::parse(payload) else { return Seen::Nothing };
        let Ok(key) = FibKey::from_message(&message) else { return Seen::Nothing };
        let default = if key.prefix.addr().is_ipv6() { IPV6_METRIC } else { 0 };
        if message.priority.unwrap_or(default) != self.metric {
            return Seen::Nothing;
        }
        if message.protocol != self.protocol {
            return Seen::InTheWay(key);
        }
        match FibRoute::from_message(&message, |_| None) {
            Ok(route) => Seen::Ours(key, route.to_bytes()),
            // Ours by its number, and nothing that we would write: not equal to anything.
            Err(_) => Seen::Ours(key, Vec::new()),
        }
    }

    /// Reads what an earlier virtd has left.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(&mut self, requests: &mut Requests) -> Result<()> {
        for notice in requests.routes(0)? {
            match self.see(&notice.payload) {
                Seen::Ours(key, route) => drop(self.left.insert(key, route.into())),
                Seen::InTheWay(key) => drop(self.foreign.insert(key)),
                Seen::Nothing => {}
            }
        }
        Ok(())
    }

    /// Carries out what the vote has decided.
    ///
    /// # Errors
    /// The kernel cannot be talked to; what it holds is not known then.
    pub fn change(&mut self, changes: Vec<FibChange>, requests: &mut Requests) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        // The last word on each key counts, in the order of the first.
        let mut last: HashMap<FibKey, Option<bytes::Bytes>> = HashMap::with_capacity(changes.len());
        let mut order = Vec::with_capacity(changes.len());
        for change in changes {
            if last.insert(change.key, change.route).is_none() {
                order.push(change.key);
            }
        }
        let mut keys = Vec::new();
        for key in order {
            let left = self.left.remove(&key);
            match last.remove(&key).flatten() {
                Some(route) => {
                    let same = left.is_some_and(|l| FibRoute::compared(&l) == FibRoute::compared(&route));
                    self.wanted.insert(key, Wanted { route: route[..].into(), errno: 0 });
                    if same {
                        add(&self.counters.adopted, 1);
                        outcome.adopted += 1;
                    } else {
                        keys.push(key);
                    }
                }
                None => {
                    if self.wanted.remove(&key).is_some_and(|w| w.errno == 0) || left.is_some() {
                        keys.push(key);
                    }
                }
            }
        }
        self.write(&keys, requests, &mut outcome)?;
        Ok(outcome)
    }

    /// Writes what is wanted for these keys, or removes what is not wanted any more.
    fn write(&mut self, keys: &[FibKey], requests: &mut Requests, outcome: &mut Outcome) -> Result<()> {
        let (mut writes, mut written) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for key in keys {
            let Some(wanted) = self.wanted.get_mut(key) else {
                writes.push(Write { payload: encode_delete(key, self.protocol, self.metric), delete: true });
                written.push(*key);
                continue;
            };
            let refusal = match FibRoute::from_bytes(&wanted.route) {
                _ if self.foreign.contains(key) => {
                    outcome.foreign.push(*key);
                    libc::EEXIST
                }
                Some(route) => match encode_route(key, &route, self.protocol, self.metric) {
                    Ok(payload) => {
                        writes.push(Write { payload, delete: false });
                        written.push(*key);
                        continue;
                    }
                    Err(e) => e.errno(),
                },
                None => libc::EINVAL,
            };
            wanted.errno = refusal;
            outcome.written.push((*key, Some(refusal)));
        }
        let mut failed = HashMap::new();
        let batches = requests.write(&writes, |i, errno| {
            failed.insert(i, errno);
        })?;
        add(&self.counters.batches, batches);
        for (i, key) in written.iter().enumerate() {
            let errno = failed.get(&i).copied().unwrap_or(0);
            match self.wanted.get_mut(key) {
                // What is not there need not be removed.
                None => add(&self.counters.removed, usize::from(errno == 0)),
                Some(w) => {
                    let before = std::mem::replace(&mut w.errno, errno);
                    add(&self.counters.written, usize::from(errno == 0));
                    if errno != before {
                        outcome.written.push((*key, Some(errno).filter(|e| *e != 0)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a notification about a route means that the kernel has to be looked at.
    pub fn notice(&mut self, notice: &Notice, own: u32) -> bool {
        let seen = match notice.kind {
            RTM_NEWROUTE | RTM_DELROUTE => self.see(&notice.payload),
            _ => return false,
        };
        let there = notice.kind == RTM_NEWROUTE;
        match seen {
            Seen::InTheWay(key) if there => {
                self.foreign.insert(key);
                // It may have taken the place of ours.
                self.wanted.contains_key(&key)
            }
            Seen::InTheWay(key) => {
                self.foreign.remove(&key);
                self.wanted.contains_key(&key)
            }
            Seen::Ours(..) if notice.port_id == own => false,
            Seen::Ours(key, _) => {
                let now = Instant::now();
                let lately = self.repairs.entry(key).or_insert((now, 0));
                if now >= lately.0 + REPAIR_SPAN {
                    *lately = (now, 0);
                }
                lately.1 = lately.1.saturating_add(1);
                lately.1 <= REPAIRS
            }
            Seen::Nothing => false,
        }
    }

    /// Reads what is there and makes it what is wanted.
    ///
    /// # Errors
    /// The kernel cannot be talked to.
    pub fn reconcile(&mut self, requests: &mut Requests) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut present: HashMap<FibKey, Vec<u8>> = HashMap::new();
        self.foreign.clear();
        for notice in requests.routes(0)? {
            match self.see(&notice.payload) {
                Seen::Ours(key, route) => drop(present.insert(key, route)),
                Seen::InTheWay(key) => drop(self.foreign.insert(key)),
                Seen::Nothing => {}
            }
        }
        self.left.retain(|key, _| present.contains_key(key));
        let (mut keys, mut wrong) = (Vec::new(), HashMap::new());
        for (key, wanted) in &self.wanted {
            let what = match present.get(key) {
                Some(there) if is_same(there, &wanted.route) => continue,
                Some(_) => "changed",
                None => "removed",
            };
            if wanted.errno == 0 {
                wrong.insert(*key, what);
            }
            keys.push(*key);
        }
        keys.extend(present.keys().filter(|key| !self.wanted.contains_key(*key) && !self.left.contains_key(*key)));
        self.write(&keys, requests, &mut outcome)?;
        let put_right = |key: &FibKey| self.wanted.get(key).is_some_and(|w| w.errno == 0);
        outcome.repaired = wrong.into_iter().filter(|(key, _)| put_right(key)).collect();
        outcome.repaired.sort_unstable();
        let now = Instant::now();
        self.repairs.retain(|_, (since, _)| now < *since + REPAIR_SPAN);
        Ok(outcome)
    }

    /// Removes what an earlier virtd has left and no vote has confirmed; returns how many.
    ///
    /// # Errors
    /// The kernel cannot be talked to.
    pub fn sweep(&mut self, requests: &mut Requests) -> Result<usize> {
        let keys: Vec<FibKey> = self.left.drain().map(|(key, _)| key).collect();
        self.write(&keys, requests, &mut Outcome::default())?;
        Ok(keys.len())
    }

    /// Removes all that is ours.
    ///
    /// # Errors
    /// The kernel cannot be talked to.
    pub fn remove_all(&mut self, requests: &mut Requests) -> Result<()> {
        let mut keys: Vec<FibKey> = self.left.drain().map(|(key, _)| key).collect();
        keys.extend(self.wanted.drain().map(|(key, _)| key));
        self.write(&keys, requests, &mut Outcome::default())
    }
}

/// Whether the kernel holds what is wanted. It fills in what a tunnel leaves open, so that two tunnels cannot be compared here.
fn is_same(there: &[u8], wanted: &[u8]) -> bool {
    FibRoute::compared(there) == FibRoute::compared(wanted)
        || match (FibRoute::from_bytes(there), FibRoute::from_bytes(wanted)) {
            (Some(a), Some(b)) => {
                let tunnel = |r: &FibRoute| r.hops.iter().any(|h| h.encap.is_some());
                let plain = |r: &FibRoute| r.hops.iter().map(|h| (h.gateway, h.oif)).collect::<Vec<_>>();
                tunnel(&a) && tunnel(&b) && plain(&a) == plain(&b)
            }
            _ => false,
        }
}
