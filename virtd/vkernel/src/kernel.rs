//! The virtual kernel of one instance: its own routes and nexthop objects, as if Linux had taken
//! them.
//!
//! What an instance writes is judged here as Linux would judge it against a table that holds
//! nothing but the instance's own routes, over the links and addresses that really are there
//! ([`System`]). The rules are those of Linux 6.18 (net/ipv4/fib_semantics.c, fib_trie.c,
//! nexthop.c, net/ipv6/route.c, ip6_fib.c); `kernel_differential_tests.rs` compares them with the
//! kernel that runs, request by request.
//!
//! | file | holds |
//! |---|---|
//! | [`info`] | what routes have in common, kept once |
//! | [`check`] | whether a next hop can be used, and over which interface |
//! | [`lookup`] | which route leads to a gateway |
//! | [`last`] | a route like the one before |
//! | [`v4`], [`v6`] | new and deleted routes |
//! | [`nexthops`] | nexthop objects |
//! | [`show`] | dumps and notifications |
//! | [`changes`] | what Linux removes by itself |
//!
//! Not as in Linux: routes do not expire (RTA_EXPIRES is taken and forgotten), IPv6 routes for some
//! sources only are refused, tunnels are kept as they came and never refused, replacing a nexthop
//! object does not notify about every route that uses it (sysctl nexthop_compat_mode; the object
//! itself is notified).
//!
//! Memory: a route takes 40 octets in the table, 60 to 80 with the tree around it; whatever routes
//! share (next hops, protocol, metric) is there once, 200 octets or so. A second route of the same
//! prefix adds 4 octets.

mod changes;
mod check;
mod info;
mod last;
mod lookup;
mod nexthops;
mod show;
mod v4;
mod v6;

use super::others::Lengths;
use super::system::System;
#[cfg(test)]
use crate::io::DumpCursor;
use crate::io::NoteBody;
use collections::Recent;
use info::{Info, Infos, List};
use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, FibRoute};
use wire::netlink::{Frame, NetlinkError, NexthopMessage, RouteMessage};

/// Shares of its nodes that a `BTreeMap` fills when it grows in no order, in percent.
const TREE_FILL: usize = 70;
/// Most hops that a multipath route or a nexthop group can have: FRR's own limit is 256.
const MAX_PATHS: usize = 1024;
/// Most tables that are remembered when they are empty; it is a matter of one errno.
const MAX_TABLES: usize = 256;

/// A request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The kernel's, positive.
    pub errno: i32,
    /// The kernel's words for it, empty where it has none.
    pub text: &'static str,
}

impl Refusal {
    const fn new(errno: i32, text: &'static str) -> Refusal {
        Refusal { errno, text }
    }

    const fn invalid(text: &'static str) -> Refusal {
        Refusal { errno: libc::EINVAL, text }
    }
}

impl From<NetlinkError> for Refusal {
    fn from(error: NetlinkError) -> Refusal {
        Refusal { errno: error.errno(), text: "" }
    }
}

/// What a change means to others.
#[derive(Default, Debug)]
pub struct Effects {
    /// Keys whose best route may be another now.
    pub changed: Vec<FibKey>,
    /// Notifications: RTNLGRP_, RTM_ kind, and what stands behind the message header, in octets
    /// only when it is given.
    pub notify: Vec<(u32, u16, NoteBody)>,
}

impl Effects {
    fn notify(&mut self, group: u32, kind: u16, message: RouteMessage) {
        self.notify.push((group, kind, NoteBody::Route(message.into())));
    }

    fn notify_object(&mut self, kind: u16, object: &NexthopMessage) {
        let octets = object.to_payload().unwrap_or_default();
        // Empty: does not fit its length fields, the kernel is silent then too.
        if !octets.is_empty() {
            self.notify.push((RTNLGRP_NEXTHOP, kind, NoteBody::Octets(octets)));
        }
    }
}

/// See the module's comment.
#[derive(Debug)]
pub struct VirtualKernel {
    table: BTreeMap<FibKey, List>,
    infos: Infos,
    nexthops: BTreeMap<u32, NexthopMessage>,
    /// Times that the objects have changed.
    nexthop_changes: u64,
    lengths: Lengths,
    routes: usize,
    /// Tables that have held an IPv6 route, of the first [`MAX_TABLES`].
    tables_v6: BTreeSet<u32>,
    /// Where the search for an unused nexthop id begins.
    last_nh_id: u32,
    /// The last ways that were found to gateways.
    ways: lookup::Ways,
    /// The last new routes, to know the next one by.
    lasts: Recent<last::Last, { lookup::WAYS }>,
}

impl Default for VirtualKernel {
    fn default() -> VirtualKernel {
        VirtualKernel::new()
    }
}

impl VirtualKernel {
    /// Nothing in it.
    pub fn new() -> VirtualKernel {
        VirtualKernel {
            table: BTreeMap::new(),
            infos: Infos::new(),
            nexthops: BTreeMap::new(),
            nexthop_changes: 0,
            lengths: Lengths::default(),
            routes: 0,
            tables_v6: BTreeSet::from([RT_TABLE_MAIN, RT_TABLE_LOCAL]),
            last_nh_id: 0,
            ways: lookup::Ways::default(),
            lasts: Recent::default(),
        }
    }

    /// Forgets everything, silently.
    pub fn clear(&mut self) {
        *self = VirtualKernel::new();
    }

    /// Its routes; every hop of an IPv6 multipath route is one, as in Linux.
    pub fn routes(&self) -> usize {
        self.routes
    }

    /// Octets that all of it takes, about.
    pub fn memory_bytes(&self) -> usize {
        let entry = size_of::<FibKey>() + size_of::<List>();
        let lists: usize = self.table.values().map(List::memory_bytes).sum();
        let objects = self.nexthops.values().map(|nh| {
            let attrs = nh.others.iter().map(|a| size_of_val(a) + a.payload.len()).sum::<usize>();
            4 + size_of::<NexthopMessage>() + nh.group.capacity() * 8 + attrs
        });
        let trees = (self.table.len() * entry + objects.sum::<usize>()) * 100 / TREE_FILL;
        let lasts: usize = self.lasts.iter().map(last::Last::memory_bytes).sum();
        size_of::<VirtualKernel>() + trees + lists + self.infos.memory_bytes() + lasts
    }

    /// Takes RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEXTHOP or RTM_DELNEXTHOP.
    ///
    /// # Errors
    /// As Linux would answer; EOPNOTSUPP to any other kind and to IPv6 source prefixes. Nothing has
    /// changed then, but for an IPv6 multipath delete, which removes what it finds.
    pub fn request(&mut self, frame: &Frame<'_>, system: &System, effects: &mut Effects) -> Result<(), Refusal> {
        let flags = frame.header.flags;
        match frame.header.kind {
            RTM_NEWROUTE | RTM_DELROUTE => {
                let add = frame.header.kind == RTM_NEWROUTE;
                if add && let Some((key, id)) = self.as_before(frame.payload, system) {
                    self.infos.retain(id);
                    return self.add_v4(key, id, flags, system, effects);
                }
                let message = RouteMessage::parse(frame.payload)?;
                match (message.family, add) {
                    (AF_INET, true) => self.new_v4(frame.payload, &message, flags, system, effects),
                    (AF_INET, false) => self.delete_v4(&message, system, effects),
                    (AF_INET6, true) => self.new_v6(message, flags, system, effects),
                    (AF_INET6, false) => self.delete_v6(&message, system, effects),
                    _ => Err(Refusal::new(libc::EOPNOTSUPP, "")),
                }
            }
            RTM_NEWNEXTHOP => {
                let message = NexthopMessage::parse(frame.payload).map_err(nexthops::parse_refusal)?;
                self.new_nexthop(message, flags, system, effects)
            }
            RTM_DELNEXTHOP => {
                let message = NexthopMessage::parse(frame.payload).map_err(nexthops::parse_refusal)?;
                self.delete_nexthop(&message, system, effects)
            }
            _ => Err(Refusal::new(libc::EOPNOTSUPP, "")),
        }
    }

    /// The route that packets for this key take, nexthop ids resolved and interfaces filled in, in
    /// canonical octets ([`FibRoute::to_bytes`]), and its rtm_protocol.
    pub fn best(&self, key: &FibKey) -> Option<(Cow<'_, [u8]>, u8)> {
        let list = self.table.get(key)?.as_slice();
        let &first = list.first()?;
        let info = self.infos.get(first);
        // A table has many routes over few gateways: what is the same for all of them is written
        // down once.
        let octets = if info.nh_id == 0 && !info.joins() {
            Cow::Borrowed(self.infos.canonical(first, || self.route(list, info).to_bytes()))
        } else {
            Cow::Owned(self.route(list, info).to_bytes())
        };
        Some((octets, info.protocol))
    }

    fn route(&self, list: &[u32], info: &Info) -> FibRoute {
        let (kind, hops) = self.meaning(info);
        let onlink = RTNH_F_ONLINK;
        let mut route = FibRoute {
            kind,
            prefsrc: info.prefsrc,
            metrics: info.metrics.clone(),
            hops: hops.iter().map(|hop| hop.to_fib(onlink)).collect(),
        };
        for &sibling in self.siblings(list, 0).iter().skip(1) {
            route.hops.extend(self.infos.get(sibling).hops.iter().map(|hop| hop.to_fib(onlink)));
        }
        route
    }

    /// Of a key's routes, those that are one with the route at `at`: itself, or all hops of an IPv6
    /// multipath route, in their order.
    fn siblings(&self, list: &[u32], at: usize) -> Vec<u32> {
        let Some(&id) = list.get(at) else { return Vec::new() };
        let info = self.infos.get(id);
        if !info.joins() {
            return vec![id];
        }
        let same = |id: &u32| {
            let other = self.infos.get(*id);
            other.metric == info.metric && other.joins()
        };
        list.iter().copied().filter(same).collect()
    }

    fn list(&self, key: &FibKey) -> Vec<u32> {
        self.table.get(key).map(|list| list.as_slice().to_vec()).unwrap_or_default()
    }

    /// Puts a key's routes in place of those it had. Users are counted by who adds and removes.
    fn put(&mut self, key: FibKey, list: &[u32]) {
        let old = match self.table.entry(key) {
            Entry::Vacant(_) if list.is_empty() => return,
            Entry::Vacant(place) => {
                place.insert(list.into());
                None
            }
            Entry::Occupied(place) if list.is_empty() => Some(place.remove()),
            Entry::Occupied(mut place) => Some(place.insert(list.into())),
        };
        self.placed(key, list, old.as_ref().map(List::as_slice).unwrap_or_default());
    }

    /// A key has other routes in the table now than it had.
    fn placed(&mut self, key: FibKey, list: &[u32], old: &[u32]) {
        if list.is_empty() != old.is_empty() {
            self.lengths.count(&key, if list.is_empty() { -1 } else { 1 });
        }
        self.ways.changed(&key);
        for id in old.iter().filter(|id| !list.contains(id)) {
            self.infos.left(*id, &key);
        }
        for (at, id) in list.iter().enumerate() {
            if !old.contains(id) && !list.iter().take(at).any(|other| other == id) {
                self.infos.joined(*id, &key);
            }
        }
        self.routes = (self.routes + list.len()).saturating_sub(old.len());
    }
}

#[cfg(test)]
impl VirtualKernel {
    /// All pieces of a dump.
    fn whole_dump(&self, request: &Frame<'_>, port: u32, system: &System) -> Vec<Vec<u8>> {
        let (mut cursor, mut all) = (DumpCursor::default(), Vec::new());
        while !cursor.finished {
            all.extend(self.dump(request, port, &mut cursor, system));
        }
        all
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "kernel_differential_tests.rs"]
mod differential_tests;
