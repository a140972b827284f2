//! The links, addresses and routes that carry the sessions, as far as the kernel has told: what
//! daemons end a session for.
//!
//! Fed with [`KernelNews`], with and without `[fib]`. A peer is *directly connected* where a subnet
//! of ours has it, and its link is the one with that subnet; the longest counts. What has gone is
//! remembered for a while, so that it is still known which link a peer was on.
//!
//! | what changes | counts for |
//! |---|---|
//! | a link comes, goes, goes up or down, or its carrier does | peers on it; peers that are not directly connected |
//! | an address comes or goes | peers on its link; sessions from that address |
//! | the route to a peer | that peer; watched only where it has a `[[peer]]` and is not directly connected |
//!
//! What is told before [`KernelNews::LinksRead`] was there before, and is no change.

use super::io::{Change, KernelNews, Link, Micros};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use wire::bgp::Prefix;

/// How long what has gone is remembered: no hold time in use is longer, so no session is left that
/// it was for.
const GONE_US: Micros = 600_000_000;
/// Links and addresses that have gone and are remembered, at most: a router's subscribers come and
/// go by the thousand.
const MAX_GONE: usize = 4096;
/// The loopback interface's index in every network namespace. What is in its subnets is this host
/// itself.
const LOOPBACK: u32 = 1;

/// A peer's address, and the link that it is on where the address says so (a scope id).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    ip: IpAddr,
    zone: Option<u32>,
}

impl From<IpAddr> for End {
    fn from(ip: IpAddr) -> End {
        End { ip, zone: None }
    }
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> End {
        let zone = match address {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Some(v6.scope_id()).filter(|id| *id != 0),
            _ => None,
        };
        End { ip: address.ip(), zone }
    }
}

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Links {
    links: BTreeMap<u32, Known>,
    /// Ours, by their subnets.
    addresses: BTreeMap<(Prefix, u32, IpAddr), Held>,
    /// When any link last came, went, or changed its state.
    any_link: Option<Micros>,
    /// When the routes to peers last changed.
    paths: BTreeMap<IpAddr, Micros>,
    /// What has gone and is remembered, the oldest first.
    gone: VecDeque<(Micros, Gone)>,
    /// All that was there in the beginning has been told.
    read: bool,
}

#[derive(Debug, Default)]
struct Known {
    name: String,
    /// `None`: only its addresses have been told.
    state: Option<State>,
    /// When that last changed.
    changed: Option<Micros>,
    /// When an address on it last came or went.
    addressed: Option<Micros>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Running,
    NoCarrier,
    Down,
    Gone,
}

/// An address of ours.
#[derive(Debug, Default)]
struct Held {
    there: bool,
    changed: Option<Micros>,
}

#[derive(Debug)]
enum Gone {
    Link(u32),
    Address(Prefix, u32, IpAddr),
}

impl State {
    fn of(link: &Link) -> State {
        match (link.up, link.running) {
            (false, _) => State::Down,
            (true, false) => State::NoCarrier,
            (true, true) => State::Running,
        }
    }

    /// What keeps sessions from standing on a link in this state.
    const fn fault(self) -> Option<&'static str> {
        match self {
            State::Running => None,
            State::NoCarrier => Some("has no carrier"),
            State::Down => Some("is down"),
            State::Gone => Some("is gone"),
        }
    }
}

impl Links {
    /// Nothing is known.
    pub fn new() -> Links {
        Links::default()
    }

    /// The kernel says something.
    pub fn take(&mut self, news: &KernelNews, now: Micros) {
        match news {
            KernelNews::Change(change) => self.follow(change, now),
            KernelNews::LinksRead => self.read = true,
            KernelNews::Path { peer } => drop(self.paths.insert(*peer, now)),
            KernelNews::Written { .. } | KernelNews::Event(_) => {}
        }
        self.forget(now);
    }

    fn follow(&mut self, change: &Change, now: Micros) {
        match change {
            Change::Link(link) => self.link(link, now),
            Change::LinkGone { index } => self.link_gone(*index, now),
            Change::Address { index, address, length } => self.address(*index, *address, *length, true, now),
            Change::AddressGone { index, address, length } => self.address(*index, *address, *length, false, now),
            Change::Route { .. } | Change::RouteGone { .. } | Change::Routes(_) => {}
        }
    }

    fn link(&mut self, link: &Link, now: Micros) {
        let state = State::of(link);
        let known = self.links.entry(link.index).or_default();
        known.name.clone_from(&link.name);
        let changed = match known.state.replace(state) {
            Some(was) => was != state,
            None => self.read,
        };
        if changed {
            (known.changed, self.any_link) = (Some(now), Some(now));
        }
    }

    fn link_gone(&mut self, index: u32, now: Micros) {
        let Some(known) = self.links.get_mut(&index).filter(|known| known.state != Some(State::Gone)) else { return };
        known.state = Some(State::Gone);
        (known.changed, self.any_link) = (Some(now), Some(now));
        self.gone.push_back((now, Gone::Link(index)));
        // As a rule the kernel has told of them before.
        for ((prefix, link, address), held) in self.addresses.iter_mut().filter(|((_, link, _), _)| *link == index) {
            if std::mem::take(&mut held.there) {
                held.changed = Some(now);
                self.gone.push_back((now, Gone::Address(*prefix, *link, *address)));
            }
        }
    }

    fn address(&mut self, index: u32, address: IpAddr, length: u8, there: bool, now: Micros) {
        let Some(subnet) = Prefix::new(address, length) else { return };
        let place = (subnet, index, address);
        if !there && !self.addresses.contains_key(&place) {
            return;
        }
        let new = !self.addresses.contains_key(&place);
        let held = self.addresses.entry(place).or_default();
        if std::mem::replace(&mut held.there, there) == there || (new && !self.read) {
            return;
        }
        held.changed = Some(now);
        self.links.entry(index).or_default().addressed = Some(now);
        if !there {
            self.gone.push_back((now, Gone::Address(subnet, index, address)));
        }
    }

    /// The name of the link with this index, there or gone.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(|known| known.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Whether the link that a link-local peer is on is no more, so that no packet can come from
    /// there again.
    pub fn is_gone(&self, peer: &SocketAddr) -> bool {
        let Some(zone) = End::from(*peer).zone else { return false };
        self.read && self.links.get(&zone).is_none_or(|known| known.state == Some(State::Gone))
    }

    /// Lets go of what has been gone for long. To be called now and then.
    pub fn forget(&mut self, now: Micros) {
        let due = |gone: &VecDeque<(Micros, Gone)>| {
            gone.front().is_some_and(|(at, _)| now >= *at + GONE_US || gone.len() > MAX_GONE)
        };
        while due(&self.gone) {
            let Some((at, gone)) = self.gone.pop_front() else { return };
            // It may have come back, and gone once more, since.
            match gone {
                Gone::Link(index) => {
                    let same = |k: &Known| k.state == Some(State::Gone) && k.changed == Some(at);
                    if self.links.get(&index).is_some_and(same) {
                        self.links.remove(&index);
                    }
                }
                Gone::Address(prefix, index, address) => {
                    let place = (prefix, index, address);
                    if self.addresses.get(&place).is_some_and(|held| !held.there && held.changed == Some(at)) {
                        self.addresses.remove(&place);
                    }
                }
            }
        }
    }

    /// Our addresses, there or gone, whose subnets have this address in them: the longest subnet
    /// first.
    fn around(&self, ip: IpAddr) -> impl Iterator<Item = (&Prefix, u32, IpAddr, &Held)> {
        let longest: u8 = if ip.is_ipv4() { 32 } else { 128 };
        let subnets = (0..=longest).rev().filter_map(move |length| Prefix::new(ip, length));
        // IPv4 addresses are before all others.
        let first: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        subnets.flat_map(move |subnet| {
            let from = self.addresses.range((subnet, 0, first)..);
            from.take_while(move |((prefix, ..), _)| *prefix == subnet)
                .map(|((prefix, link, address), held)| (prefix, *link, *address, held))
        })
    }

    /// The links that a directly connected peer is on, or was on.
    fn links_of(&self, peer: End) -> Vec<u32> {
        if let Some(zone) = peer.zone {
            return vec![zone];
        }
        let mut found = Vec::new();
        if matches!(peer.ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            // It could be on any.
            return found;
        }
        let mut there = None;
        for (subnet, link, _, held) in self.around(peer.ip) {
            if there.is_some_and(|longest| subnet.len() < longest) {
                break;
            }
            if held.there {
                there = Some(subnet.len());
            }
            if !found.contains(&link) {
                found.push(link);
            }
        }
        found
    }

    /// When the link that the peer is on, an address on that link, our address `local`, or the
    /// route to the peer last changed. For a peer that is not directly connected any link counts.
    pub fn changed(&self, peer: impl Into<End>, local: Option<IpAddr>) -> Option<Micros> {
        let peer = peer.into();
        let on = self.links_of(peer);
        let known = on.iter().filter_map(|index| self.links.get(index));
        let link = known.flat_map(|known| [known.changed, known.addressed]).flatten().max();
        let any = if on.is_empty() { self.any_link } else { None };
        let path = self.paths.get(&peer.ip).copied();
        [link, any, path, local.and_then(|local| self.local_changed(local, peer.zone))].into_iter().flatten().max()
    }

    fn local_changed(&self, local: IpAddr, zone: Option<u32>) -> Option<Micros> {
        let ours = self.around(local).filter(|(_, link, address, _)| is_ours(local, zone, *link, *address));
        ours.filter_map(|(.., held)| held.changed).max()
    }

    /// Why no session with the peer can stand now: the link of a directly connected peer is down,
    /// or our address `local` is gone. In words; `None` where nothing is known to be wrong.
    pub fn cut(&self, peer: impl Into<End>, local: Option<IpAddr>) -> Option<String> {
        let peer = peer.into();
        let link = self.link_fault(peer);
        link.or_else(|| local.filter(|l| self.is_lost(*l, peer.zone)).map(|l| format!("no interface has {l} any more")))
    }

    fn link_fault(&self, peer: End) -> Option<String> {
        let here = |(_, link, address, held): (&Prefix, u32, IpAddr, &Held)| {
            held.there && (link == LOOPBACK || is_ours(peer.ip, peer.zone, link, address))
        };
        if peer.ip.is_loopback() || self.around(peer.ip).any(here) {
            // It is this host, which needs no link.
            return None;
        }
        let mut fault = None;
        for index in self.links_of(peer) {
            // Where one of several carries it, all is well.
            let known = self.links.get(&index)?;
            let why = known.state?.fault()?;
            fault.get_or_insert_with(|| format!("the link {} {why}", known.name));
        }
        fault
    }

    /// This host had the address, and has it no more.
    fn is_lost(&self, local: IpAddr, zone: Option<u32>) -> bool {
        if local.is_loopback() {
            return false;
        }
        let mut had = false;
        for (_, link, address, held) in self.around(local) {
            if held.there && (link == LOOPBACK || is_ours(local, zone, link, address)) {
                return false;
            }
            had |= is_ours(local, zone, link, address);
        }
        had
    }
}

/// Whether what is on a link is the address asked for: of link-local ones each link may have the
/// same.
fn is_ours(local: IpAddr, zone: Option<u32>, link: u32, address: IpAddr) -> bool {
    address == local && zone.is_none_or(|zone| zone == link)
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
