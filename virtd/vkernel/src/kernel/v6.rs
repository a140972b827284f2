//! IPv6 routes: ip6_route_info_create, fib6_add_rt2node, ip6_route_multipath_add, ip6_route_del.

use super::super::system::{LOOPBACK, System};
use super::info::{Hop, Info, metrics};
use super::{Effects, MAX_PATHS, MAX_TABLES, Refusal, VirtualKernel};
use std::net::{IpAddr, Ipv6Addr};
use wire::netlink::consts::*;
use wire::netlink::fib::{FibError, FibKey, is_reject};
use wire::netlink::route::PathHop;
use wire::netlink::{NexthopMessage, RouteMessage};

/// The metric of a route that says none (IP6_RT_PRIO_USER).
const DEFAULT_METRIC: u32 = 1024;
/// The largest route type of Linux (RTN_XRESOLVE).
const RTN_MAX: u8 = 11;
/// RFC 4191's reserved preference, which means medium, 0.
const PREF_INVALID: u8 = 2;

/// rtm_to_fib6_config.
fn key_v6(m: &RouteMessage) -> Result<FibKey, Refusal> {
    let inline = m.oif.is_some() || m.gateway.is_some() || m.encap.is_some() || !m.multipath.is_empty();
    if m.nh_id.is_some() && inline {
        return Err(Refusal::invalid("Nexthop specification and nexthop id are mutually exclusive"));
    }
    FibKey::from_message(m).map_err(|error| Refusal {
        errno: error.errno(),
        text: match error {
            FibError::Tos => "Invalid dsfield (tos): option not available for IPv6",
            FibError::SourcePrefix => "Source-specific routes are not supported",
            _ => "",
        },
    })
}

/// A multipath entry as a request of its own.
fn one_of(m: &RouteMessage, path: &PathHop) -> RouteMessage {
    RouteMessage {
        multipath: Vec::new(),
        oif: if path.interface != 0 { Some(path.interface) } else { m.oif },
        gateway: path.gateway.or(m.gateway),
        encap: path.encap.clone(),
        flags: m.flags | u32::from(path.flags & RTNH_F_ONLINK),
        ..m.clone()
    }
}

/// Whether IPv6 routes can use an object (fib6_check_nexthop). `members`: itself, or those of a
/// group.
pub(super) fn fits_v6<'a>(mut members: impl Iterator<Item = &'a NexthopMessage>) -> Result<(), Refusal> {
    members.try_for_each(|nh| match nh {
        NexthopMessage { family: AF_INET, .. } => Err(Refusal::invalid("IPv6 routes can not use an IPv4 nexthop")),
        NexthopMessage { fdb: true, .. } => Err(Refusal::invalid("Route cannot point to a fdb nexthop")),
        _ => Ok(()),
    })
}

impl VirtualKernel {
    pub(super) fn new_v6(
        &mut self,
        m: RouteMessage,
        flags: u16,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let key = key_v6(&m)?;
        if !m.multipath.is_empty() {
            return self.new_multipath(&m, key, flags, system, effects);
        }
        let info = self.info_v6(&m, &key, 1, system)?;
        let id = self.infos.intern(info);
        self.insert_v6(key, id, flags)?;
        self.tell_v6(&key, id, RTM_NEWROUTE, system, effects);
        effects.changed.push(key);
        Ok(())
    }

    /// Notifies about the route that holds `id`, all its hops.
    fn tell_v6(&self, key: &FibKey, id: u32, kind: u16, system: &System, effects: &mut Effects) {
        let list = self.table.get(key).map(|list| list.as_slice()).unwrap_or_default();
        if let Some(at) = list.iter().position(|&other| other == id) {
            let message = self.message(key, &self.siblings(list, at), system);
            effects.notify(RTNLGRP_IPV6_ROUTE, kind, message);
        }
    }

    fn new_multipath(
        &mut self,
        m: &RouteMessage,
        key: FibKey,
        mut flags: u16,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        if m.multipath.len() > MAX_PATHS {
            return Err(Refusal::new(libc::E2BIG, ""));
        }
        if m.multipath.iter().any(|path| path.gateway.or(m.gateway).is_none()) {
            let text = "Device only routes can not be added for IPv6 using the multipath API.";
            return Err(Refusal::invalid(text));
        }
        let mut infos: Vec<Info> = Vec::with_capacity(m.multipath.len());
        for path in &m.multipath {
            let info = self.info_v6(&one_of(m, path), &key, path.weight, system)?;
            if infos.iter().any(|other| other.duplicates(&info)) {
                return Err(Refusal::new(libc::EEXIST, ""));
            }
            infos.push(info);
        }
        // One by one: where one cannot be added, those before it are taken back.
        let mut added = Vec::with_capacity(infos.len());
        for info in infos {
            let id = self.infos.intern(info);
            if let Err(refusal) = self.insert_v6(key, id, flags) {
                self.take_back(m, key, &added, system, effects);
                return Err(refusal);
            }
            added.push(id);
            flags = flags & !(NLM_F_EXCL | NLM_F_REPLACE) | NLM_F_CREATE;
        }
        if let Some(&id) = added.first() {
            self.tell_v6(&key, id, RTM_NEWROUTE, system, effects);
        }
        effects.changed.push(key);
        Ok(())
    }

    /// Linux deletes what it added by a request like any other, and that finds the first route over
    /// a nexthop object where one stands before it.
    fn take_back(&mut self, m: &RouteMessage, key: FibKey, added: &[u32], system: &System, effects: &mut Effects) {
        if let Some(&id) = added.first() {
            self.tell_v6(&key, id, RTM_NEWROUTE, system, effects);
            effects.changed.push(key);
        }
        for (path, &id) in m.multipath.iter().zip(added) {
            let (metric, protocol) = (self.infos.get(id).metric, self.infos.get(id).protocol);
            let delete = RouteMessage { priority: Some(metric), protocol, ..one_of(m, path) };
            // Where it finds none, none is there.
            let _ = self.delete_one_v6(&delete, key, false, system, effects);
        }
    }

    /// Removes one entry, by its number.
    pub(super) fn remove_v6(&mut self, key: FibKey, id: u32, tell: bool, system: &System, effects: &mut Effects) {
        let mut list = self.list(&key);
        let Some(at) = list.iter().position(|&other| other == id) else { return };
        list.remove(at);
        if tell {
            let message = self.message(&key, &[id], system);
            effects.notify(RTNLGRP_IPV6_ROUTE, RTM_DELROUTE, message);
        }
        self.put(key, &list);
        self.infos.release(id);
    }

    fn info_v6(&self, m: &RouteMessage, key: &FibKey, weight: u16, system: &System) -> Result<Info, Refusal> {
        if m.flags & RTM_F_CLONED != 0 {
            return Err(Refusal::invalid("Userspace can not set RTF_CACHE"));
        }
        if m.kind > RTN_MAX {
            return Err(Refusal::invalid("Invalid route type"));
        }
        let nh_id = m.nh_id.unwrap_or(0);
        if nh_id != 0 {
            let missing = Refusal::invalid("Nexthop id does not exist");
            let object = self.nexthops.get(&nh_id).ok_or(missing)?;
            fits_v6(self.members(object))?;
        }
        let metrics = metrics(&m.metrics)?;
        let mut kind = if m.kind == 0 { RTN_UNICAST } else { m.kind };
        let mut hops = Vec::new();
        if nh_id == 0 {
            let flags = (m.flags & u32::from(RTNH_F_ONLINK)) as u8;
            let encap = m.encap.clone().map(Box::new);
            let hop = Hop { gateway: m.gateway, oif: m.oif.unwrap_or(0), weight, flags, encap };
            // A route over the loopback interface drops, unless it names a gateway: then that is
            // checked.
            let looped = hop.oif == LOOPBACK && hop.gateway.is_none() && !matches!(kind, RTN_LOCAL | RTN_ANYCAST);
            let looped = looped && key.prefix.addr() != IpAddr::V6(Ipv6Addr::LOCALHOST);
            hops.push(self.check_v6(hop, key.table, is_reject(kind) || looped, system)?);
        }
        if kind > RTN_THROW {
            kind = RTN_UNICAST;
        }
        let prefsrc = m.prefsrc.filter(|address| !address.is_unspecified());
        if prefsrc.is_some_and(|address| !system.has_address(address, None)) {
            return Err(Refusal::invalid("Invalid source address"));
        }
        Ok(Info {
            v6: true,
            table: 0,
            kind,
            scope: RT_SCOPE_UNIVERSE,
            protocol: if m.protocol == RTPROT_UNSPEC { RTPROT_BOOT } else { m.protocol },
            pref: m.pref.filter(|&pref| pref != PREF_INVALID).unwrap_or(0),
            flags: 0,
            metric: m.priority.filter(|&metric| metric != 0).unwrap_or(DEFAULT_METRIC),
            nh_id,
            flow: 0,
            prefsrc,
            metrics,
            hops,
        })
    }

    /// fib6_add_rt2node; takes over the user of `id`, and releases it where it is refused.
    fn insert_v6(&mut self, key: FibKey, id: u32, flags: u16) -> Result<(), Refusal> {
        let list = self.list(&key);
        match self.place_v6(&list, id, flags) {
            Ok((list, removed)) => {
                self.put(key, &list);
                if self.tables_v6.len() < MAX_TABLES {
                    self.tables_v6.insert(key.table);
                }
                removed.into_iter().for_each(|old| self.infos.release(old));
                Ok(())
            }
            Err(refusal) => {
                self.infos.release(id);
                Err(refusal)
            }
        }
    }

    /// The key's routes with the new one, and those that it replaces.
    fn place_v6(&self, list: &[u32], id: u32, flags: u16) -> Result<(Vec<u32>, Vec<u32>), Refusal> {
        let new = self.infos.get(id);
        let replace = flags & NLM_F_REPLACE != 0;
        let (mut found, mut fallback) = (None, None);
        let mut at = list.len();
        for (i, &other) in list.iter().enumerate() {
            let old = self.infos.get(other);
            if old.metric > new.metric {
                at = i;
                break;
            }
            if old.metric < new.metric {
                continue;
            }
            if flags & NLM_F_EXCL != 0 {
                return Err(Refusal::new(libc::EEXIST, ""));
            }
            if replace {
                if old.joins() == new.joins() {
                    found = Some(i);
                    break;
                }
                fallback = fallback.or(Some(i));
            } else if old.duplicates(new) {
                return Err(Refusal::new(libc::EEXIST, ""));
            }
        }
        if let Some(i) = found.or(fallback) {
            // All hops of a multipath route go together. The same number can stand elsewhere too:
            // Linux lets two routes of a metric become the same by a replace.
            let old = self.infos.get(list.get(i).copied().unwrap_or(u32::MAX));
            let goes = |(at, other): (usize, &u32)| {
                let other = self.infos.get(*other);
                at == i || old.joins() && other.joins() && other.metric == old.metric
            };
            let removed = list.iter().enumerate().filter(|e| goes(*e)).map(|e| *e.1).collect();
            let stays = |e: &(usize, &u32)| e.0 == i || !goes(*e);
            let put = |(at, other): (usize, &u32)| if at == i { id } else { *other };
            let list = list.iter().enumerate().filter(stays).map(put).collect();
            return Ok((list, removed));
        }
        if replace && flags & NLM_F_CREATE == 0 {
            return Err(Refusal::new(libc::ENOENT, "Can not replace route - no match found"));
        }
        let mut list = list.to_vec();
        list.insert(at, id);
        Ok((list, Vec::new()))
    }

    pub(super) fn delete_v6(
        &mut self,
        m: &RouteMessage,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let key = key_v6(m)?;
        if m.nh_id.is_some_and(|id| id != 0 && !self.nexthops.contains_key(&id)) {
            return Err(Refusal::invalid("Nexthop id does not exist"));
        }
        if m.multipath.is_empty() {
            return self.delete_one_v6(m, key, true, system, effects);
        }
        let mut last = Ok(());
        for path in &m.multipath {
            let deleted = self.delete_one_v6(&one_of(m, path), key, false, system, effects);
            if deleted.is_err() {
                last = deleted;
            }
        }
        last
    }

    /// ip6_route_del.
    fn delete_one_v6(
        &mut self,
        m: &RouteMessage,
        key: FibKey,
        all_hops: bool,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let list = self.list(&key);
        let found = list.iter().enumerate().find(|(_, id)| matches_v6(m, self.infos.get(**id)));
        let Some((at, &id)) = found else {
            let null = list.is_empty() && key.prefix.len() == 0 && self.tables_v6.contains(&key.table);
            let errno = if null && matches_null(m) { libc::ENOENT } else { libc::ESRCH };
            return Err(Refusal::new(errno, ""));
        };
        effects.changed.push(key);
        let with_object = self.infos.get(id).nh_id != 0;
        if m.gateway.is_some() || !all_hops || with_object {
            self.remove_v6(key, id, true, system, effects);
            return Ok(());
        }
        let doomed = self.siblings(&list, at);
        let message = self.message(&key, &doomed, system);
        effects.notify(RTNLGRP_IPV6_ROUTE, RTM_DELROUTE, message);
        doomed.into_iter().for_each(|id| self.remove_v6(key, id, false, system, effects));
        Ok(())
    }
}

/// Whether a delete of ::/0 finds the entry that stands in the tree's root where no default route
/// does (fib6_null_entry).
fn matches_null(m: &RouteMessage) -> bool {
    let said = |value: Option<u32>| value.is_some_and(|value| value != 0);
    let gateway = m.gateway.is_some_and(|gateway| !gateway.is_unspecified());
    let elsewhere = said(m.oif) && m.oif != Some(LOOPBACK);
    !gateway && !elsewhere && !said(m.nh_id) && m.protocol == 0 && m.priority.is_none_or(|m| m == 0 || m == u32::MAX)
}

fn matches_v6(m: &RouteMessage, info: &Info) -> bool {
    let nh_id = m.nh_id.unwrap_or(0);
    let of_it = m.priority.is_none_or(|metric| metric == 0 || metric == info.metric)
        && (m.protocol == 0 || m.protocol == info.protocol);
    if info.nh_id != 0 {
        // Linux does not look at the hops.
        return of_it && (nh_id == 0 || nh_id == info.nh_id);
    }
    let hop = info.hops.first();
    of_it
        && nh_id == 0
        && m.oif.is_none_or(|oif| oif == 0 || hop.is_some_and(|hop| hop.oif == oif))
        && m.gateway.is_none_or(|said| hop.is_some_and(|hop| hop.gateway == Some(said).filter(|a| !a.is_unspecified())))
}
