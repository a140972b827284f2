//! Who there is: the instances with what is known of each, and which of them vote, watch, stand and
//! write to the FIB.

use super::instance::{InstanceState, Listener};
use super::io::ListenerId;
use super::mux::Random;
use crate::config::{Config, Instance, Standby};
use std::collections::BTreeMap;
use std::net::IpAddr;
use voter::Members;

/// The instances, in configured order. See the module's comment.
pub struct Instances {
    list: Vec<InstanceState>,
    /// Those that may vote at all.
    pub voters: Members,
    /// Those that are only compared.
    pub observers: Members,
    /// Order of succession for master-slave.
    pub master_line: Vec<u8>,
    /// Those that had an established leg when the controller last looked.
    pub standing: Members,
    /// Those whose vote counts in the FIB.
    pub in_fib: Members,
    /// Those of them that BGP's routes are the business of.
    pub bgp_in_fib: Members,
    /// Their listening sockets.
    pub listeners: BTreeMap<ListenerId, Listener>,
    /// By instance, what shuffles the order of its connections.
    pub shuffles: Vec<Random>,
}

fn shuffle(instance: &Instance) -> Random {
    Random::new(instance.diversity.as_ref().map_or(0, |d| d.seed), b"order")
}

impl Instances {
    /// Nothing has been heard of any.
    pub fn new(config: &Config) -> Instances {
        let mut voters = Members::default();
        let mut observers = Members::default();
        for (i, instance) in config.instances.iter().enumerate() {
            match (instance.is_voter(), instance.standby) {
                (true, _) => voters.insert(i as u8),
                (false, Some(Standby::Cold)) => {}
                (false, _) => observers.insert(i as u8),
            }
        }
        Instances {
            list: config.instances.iter().map(InstanceState::new).collect(),
            master_line: voters.iter().collect(),
            voters,
            observers,
            standing: Members::EMPTY,
            in_fib: Members::EMPTY,
            bgp_in_fib: Members::EMPTY,
            listeners: BTreeMap::new(),
            shuffles: config.instances.iter().map(shuffle).collect(),
        }
    }

    /// The place at `i`, of those there are or the next, is this instance's from now on; it has no
    /// vote yet.
    pub fn seat(&mut self, i: usize, instance: &Instance) {
        match (self.list.get_mut(i), self.shuffles.get_mut(i)) {
            (Some(s), Some(o)) => (*s, *o) = (InstanceState::new(instance), shuffle(instance)),
            _ => {
                self.list.push(InstanceState::new(instance));
                self.shuffles.push(shuffle(instance));
            }
        }
    }

    /// The place at `i` is nobody's.
    pub fn vacate(&mut self, i: usize) {
        let n = i as u8;
        for set in [&mut self.voters, &mut self.observers, &mut self.standing, &mut self.in_fib, &mut self.bgp_in_fib] {
            set.remove(n);
        }
        self.master_line.retain(|m| *m != n);
        self.listeners.retain(|_, l| l.instance.0 != n);
    }

    /// What is known of the one at `i`.
    pub fn get(&self, i: usize) -> Option<&InstanceState> {
        self.list.get(i)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, i: usize) -> Option<&mut InstanceState> {
        self.list.get_mut(i)
    }

    /// All places, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, InstanceState> {
        self.list.iter()
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, InstanceState> {
        self.list.iter_mut()
    }

    /// Places that there are, some of them maybe nobody's.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Nobody has the place at `i`.
    pub fn is_vacant(&self, i: usize) -> bool {
        self.list.get(i).is_none_or(|s| s.name.is_empty())
    }

    /// Those that somebody has.
    pub fn taken(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.list.len()).filter(|i| !self.is_vacant(*i))
    }

    /// The name of an instance.
    pub fn name(&self, i: usize) -> &str {
        self.list.get(i).map_or("?", |s| &s.name)
    }

    /// The first in line of these that has a vote: a standby keeps its place there.
    pub fn master(&self, strategy: voter::Strategy, admitted: Members) -> Option<u8> {
        let voters = admitted.intersect(self.voters);
        let heir = || self.master_line.iter().find(|m| voters.contains(**m)).copied();
        if strategy == voter::Strategy::MasterSlave { heir() } else { None }
    }

    /// A quorum of the configured voters.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// The voters that have a process.
    pub fn live_voters(&self) -> Members {
        let lives = |i: &u8| self.get(usize::from(*i)).is_some_and(|s| s.attached);
        self.voters.iter().filter(lives).collect()
    }

    /// A listening socket of instance `i` that a host would hand a connection to `local` to.
    pub fn listener_for(&self, i: usize, local: IpAddr) -> Option<ListenerId> {
        let takes = |l: &Listener| {
            let ip = l.local.ip();
            l.instance.0 as usize == i
                && (ip == local
                    || (ip.is_unspecified() && (ip.is_ipv4() == local.is_ipv4() || (ip.is_ipv6() && !l.v6_only))))
        };
        // A bound address beats the wildcard, as in the kernel.
        let best = self.listeners.iter().filter(|(_, l)| takes(l)).min_by_key(|(_, l)| l.local.ip().is_unspecified());
        best.map(|(id, _)| *id)
    }
}
