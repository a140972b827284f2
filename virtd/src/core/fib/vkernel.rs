//! The virtual kernel of one instance: its own routes and nexthop objects, as if Linux had taken them.
//!
//! Only the instance's own are here; routes of others are another layer, which it sees and cannot touch. What a request is answered with follows
//! Linux (net/ipv4/fib_semantics.c, fib_trie.c, net/ipv6/route.c, ip6_fib.c, net/ipv4/nexthop.c): flags, matching, errno.

use super::super::io::{KernelNews, Link};
use super::system::System;
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, FibRoute, is_reject};
use wire::netlink::message::Writer;
use wire::netlink::route::PathHop;
use wire::netlink::{Frame, NetlinkError, NexthopMessage, RouteMessage};

/// Default metric of an IPv6 route that names none (IP6_RT_PRIO_USER).
const IPV6_METRIC: u32 = 1024;
/// Octets of one datagram of a dump.
const PIECE: usize = 16 << 10;
/// Own routes and nexthop objects at most: an instance's memory is not virtd's.
const MAX_ROUTES: usize = 8 << 20;
const MAX_NEXTHOPS: usize = 1 << 20;
const RTM_F_CLONED: u32 = 0x200;

/// What changed, for the vote and for whoever listens.
#[derive(Default, Debug)]
pub struct Effects {
    /// Keys whose best route may differ now.
    pub changed: Vec<FibKey>,
    /// Notifications: RTNLGRP_, RTM_, what stands behind the header.
    pub notify: Vec<(u32, u16, Vec<u8>)>,
}

/// A request that Linux would not take.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Positive.
    pub errno: i32,
    /// For the extended acknowledgement.
    pub text: &'static str,
}

fn refuse<T>(errno: i32, text: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, text })
}

impl From<NetlinkError> for Refusal {
    fn from(e: NetlinkError) -> Refusal {
        Refusal { errno: e.errno(), text: "Malformed request" }
    }
}

/// One route: 40 octets, and those of its message (some 60 for a single next hop).
#[derive(Debug)]
struct Own {
    metric: u32,
    protocol: u8,
    /// 0 where the hops stand in the message itself.
    nexthop: u32,
    /// `struct rtmsg` and attributes, as a dump shows them (but for the hops behind a nexthop id).
    payload: Box<[u8]>,
}

/// See the module's comment.
#[derive(Debug, Default)]
pub struct VirtualKernel {
    /// Lowest metric first; IPv4 may have several of one metric, of which the first counts.
    routes: HashMap<FibKey, Vec<Own>>,
    count: usize,
    octets: usize,
    nexthops: BTreeMap<u32, NexthopMessage>,
    /// Who uses a nexthop object.
    users: HashMap<u32, HashSet<FibKey>>,
}

impl VirtualKernel {
    /// Empty.
    pub fn new() -> VirtualKernel {
        VirtualKernel::default()
    }

    /// As at its start.
    pub fn clear(&mut self) {
        *self = VirtualKernel::default();
    }

    /// Own routes.
    pub fn routes(&self) -> usize {
        self.count
    }

    /// Octets it takes, about.
    pub fn memory_bytes(&self) -> usize {
        self.routes.allocation_size()
            + self.count * size_of::<Own>()
            + self.octets
            + self.nexthops.len() * (size_of::<NexthopMessage>() + 16)
            + self.users.allocation_size()
            + self.users.values().map(HashSet::allocation_size).sum::<usize>()
    }

    /// Takes RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEXTHOP or RTM_DELNEXTHOP.
    ///
    /// # Errors
    /// What Linux would answer.
    pub fn request(&mut self, frame: &Frame<'_>, system: &System, effects: &mut Effects) -> Result<(), Refusal> {
        match frame.header.kind {
            RTM_NEWROUTE => self.new_route(RouteMessage::parse(frame.payload)?, frame.header.flags, system, effects),
            RTM_DELROUTE => self.delete_route(&RouteMessage::parse(frame.payload)?, effects),
            RTM_NEWNEXTHOP => {
                self.new_nexthop(NexthopMessage::parse(frame.payload)?, frame.header.flags, system, effects)
            }
            RTM_DELNEXTHOP => {
                let id = NexthopMessage::parse(frame.payload)?.id.unwrap_or(0);
                if id == 0 {
                    return refuse(libc::EINVAL, "Nexthop id is missing");
                }
                self.delete_nexthop(id, true, effects)
            }
            _ => refuse(libc::EOPNOTSUPP, "Not a request about routes"),
        }
    }

    /// The best route for a key, nexthop ids resolved, and its rtm_protocol.
    pub fn best(&self, key: &FibKey) -> Option<(FibRoute, u8)> {
        let own = self.routes.get(key)?.first()?;
        let message = RouteMessage::parse(&own.payload).ok()?;
        let route = FibRoute::from_message(&message, |id| self.nexthops.get(&id)).ok()?;
        Some((route, own.protocol))
    }

    fn new_route(
        &mut self,
        mut message: RouteMessage,
        flags: u16,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let key = FibKey::from_message(&message).map_err(|e| Refusal { errno: e.errno(), text: "Invalid prefix" })?;
        if message.kind == RTN_UNSPEC || message.kind > RTN_THROW {
            return refuse(libc::EINVAL, "Invalid route type");
        }
        let inline = message.gateway.is_some() || message.oif.is_some() || !message.multipath.is_empty();
        let nexthop = message.nh_id.unwrap_or(0);
        if nexthop != 0 && inline {
            return refuse(libc::EINVAL, "Nexthop specification and nexthop id are mutually exclusive");
        }
        if !message.multipath.is_empty() && (message.gateway.is_some() || message.oif.is_some()) {
            return refuse(libc::EINVAL, "A multipath route has its next hops in one place");
        }
        if nexthop != 0 && !self.nexthops.contains_key(&nexthop) {
            return refuse(libc::EINVAL, "Nexthop id does not exist");
        }
        let v6 = key.prefix.addr().is_ipv6();
        if nexthop == 0 && !is_reject(message.kind) {
            fill_hops(&mut message, v6, system)?;
        }
        FibRoute::from_message(&message, |id| self.nexthops.get(&id))
            .map_err(|e| Refusal { errno: e.errno(), text: "Invalid next hops" })?;
        let metric = match message.priority.unwrap_or(0) {
            0 if v6 => IPV6_METRIC,
            metric => metric,
        };
        message.table = key.table;
        message.priority = Some(metric).filter(|m| *m != 0);
        message.flags &= u32::from(RTNH_F_ONLINK);
        self.insert(key, metric, message, flags, v6, effects)
    }

    fn insert(
        &mut self,
        key: FibKey,
        metric: u32,
        mut message: RouteMessage,
        flags: u16,
        v6: bool,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let empty = Vec::new();
        let list = self.routes.get(&key).unwrap_or(&empty);
        let first = list.iter().position(|r| r.metric == metric);
        let behind = list.iter().take_while(|r| r.metric <= metric).count();
        let replace = flags & NLM_F_REPLACE != 0;
        let mut at = match first {
            Some(_) if flags & NLM_F_EXCL != 0 => return refuse(libc::EEXIST, "File exists"),
            Some(at) => at,
            None if flags & NLM_F_CREATE == 0 && (replace || !v6) => {
                return refuse(libc::ENOENT, "There is no such route to change");
            }
            None => behind,
        };
        if first.is_none() && self.count >= MAX_ROUTES {
            return refuse(libc::ENOMEM, "Too many routes");
        }
        let mut taken = first.is_some() && replace;
        if let (Some(place), false) = (first, replace) {
            let payload = message.to_payload()?;
            if list.iter().any(|r| r.metric == metric && *r.payload == *payload) {
                return refuse(libc::EEXIST, "File exists");
            }
            let old = list.get(place).and_then(|r| RouteMessage::parse(&r.payload).ok());
            match old.filter(|old| v6 && joins(old) && joins(&message)) {
                // IPv6: one more next hop of the same route.
                Some(old) => {
                    message = join(old, message)?;
                    taken = true;
                }
                None if flags & NLM_F_APPEND != 0 || v6 => at = behind,
                None => {}
            }
        }
        let own = Own {
            metric,
            protocol: message.protocol,
            nexthop: message.nh_id.unwrap_or(0),
            payload: message.to_payload()?.into(),
        };
        self.notify_route(&key, RTM_NEWROUTE, &own.payload, effects);
        let list = self.routes.entry(key).or_default();
        self.octets += own.payload.len();
        let nexthop = own.nexthop;
        let old = match list.get_mut(at).filter(|_| taken) {
            Some(place) => Some(std::mem::replace(place, own)),
            None => {
                self.count += 1;
                list.insert(at.min(list.len()), own);
                None
            }
        };
        if let Some(old) = old {
            self.octets -= old.payload.len();
            self.unuse(&key, old.nexthop);
        }
        if nexthop != 0 {
            self.users.entry(nexthop).or_default().insert(key);
        }
        effects.changed.push(key);
        Ok(())
    }

    /// A route of this key uses the object no more, unless another of the same key does.
    fn unuse(&mut self, key: &FibKey, nexthop: u32) {
        let still = |list: &Vec<Own>| list.iter().any(|r| r.nexthop == nexthop);
        if nexthop == 0 || self.routes.get(key).is_some_and(still) {
            return;
        }
        if let Some(users) = self.users.get_mut(&nexthop) {
            users.remove(key);
            if users.is_empty() {
                self.users.remove(&nexthop);
            }
        }
    }

    fn delete_route(&mut self, message: &RouteMessage, effects: &mut Effects) -> Result<(), Refusal> {
        let key = FibKey::from_message(message).map_err(|e| Refusal { errno: e.errno(), text: "Invalid prefix" })?;
        let v6 = key.prefix.addr().is_ipv6();
        let gone = || Refusal { errno: libc::ESRCH, text: "No such route" };
        let list = self.routes.get(&key).ok_or_else(gone)?;
        let (at, rest) =
            list.iter().enumerate().find_map(|(at, own)| Some((at, without(own, message, v6)?))).ok_or_else(gone)?;
        match rest {
            // One hop of several went.
            Some(rest) => {
                let payload: Box<[u8]> = rest.to_payload()?.into();
                self.notify_route(&key, RTM_NEWROUTE, &payload, effects);
                if let Some(own) = self.routes.get_mut(&key).and_then(|l| l.get_mut(at)) {
                    self.octets = self.octets + payload.len() - own.payload.len();
                    own.payload = payload;
                }
            }
            None => {
                self.remove(&key, at, true, effects);
            }
        }
        effects.changed.push(key);
        Ok(())
    }

    fn remove(&mut self, key: &FibKey, at: usize, tell: bool, effects: &mut Effects) {
        let Some(list) = self.routes.get_mut(key).filter(|l| at < l.len()) else { return };
        let old = list.remove(at);
        if list.is_empty() {
            self.routes.remove(key);
        }
        self.count -= 1;
        self.octets -= old.payload.len();
        self.unuse(key, old.nexthop);
        if tell {
            self.notify_route(key, RTM_DELROUTE, &old.payload, effects);
        }
    }

    fn notify_route(&self, key: &FibKey, kind: u16, payload: &[u8], effects: &mut Effects) {
        let group = if key.prefix.addr().is_ipv6() { RTNLGRP_IPV6_ROUTE } else { RTNLGRP_IPV4_ROUTE };
        effects.notify.push((group, kind, self.shown(payload)));
    }

    /// A route as the kernel shows it: with the hops that a nexthop id stands for.
    fn shown(&self, payload: &[u8]) -> Vec<u8> {
        let whole = || payload.to_vec();
        let Ok(mut message) = RouteMessage::parse(payload) else { return whole() };
        let Some(object) = message.nh_id.and_then(|id| self.nexthops.get(&id)) else { return whole() };
        let one = |n: &NexthopMessage, weight: u16| PathHop {
            flags: (n.flags & u32::from(RTNH_F_ONLINK)) as u8,
            weight,
            interface: n.oif.unwrap_or(0),
            gateway: n.gateway,
            encap: n.encap.clone(),
            others: Vec::new(),
        };
        if object.group.is_empty() {
            (message.gateway, message.oif, message.encap) = (object.gateway, object.oif, object.encap.clone());
            message.flags |= object.flags & u32::from(RTNH_F_ONLINK);
        } else {
            let members = object.group.iter().filter_map(|g| Some((self.nexthops.get(&g.id)?, g.weight)));
            message.multipath = members.map(|(n, weight)| one(n, weight.min(256))).collect();
        }
        message.to_payload().unwrap_or_else(|_| whole())
    }

    fn new_nexthop(
        &mut self,
        mut object: NexthopMessage,
        flags: u16,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let id = match object.id.filter(|id| *id != 0) {
            Some(id) => id,
            None => (1..=u32::MAX).find(|id| !self.nexthops.contains_key(id)).unwrap_or(1),
        };
        let there = self.nexthops.contains_key(&id);
        if there && (flags & NLM_F_EXCL != 0 || flags & NLM_F_REPLACE == 0) {
            return refuse(libc::EEXIST, "Nexthop id exists");
        }
        if !there && flags & NLM_F_CREATE == 0 {
            return refuse(libc::ENOENT, "Nexthop id does not exist");
        }
        if !there && self.nexthops.len() >= MAX_NEXTHOPS {
            return refuse(libc::ENOMEM, "Too many nexthop objects");
        }
        self.check_nexthop(id, &mut object, system)?;
        object.id = Some(id);
        let payload = object.to_payload()?;
        self.nexthops.insert(id, object);
        effects.notify.push((RTNLGRP_NEXTHOP, RTM_NEWNEXTHOP, payload));
        if there {
            let changed = self.affected(id);
            effects.changed.extend(changed);
        }
        Ok(())
    }

    fn check_nexthop(&self, id: u32, object: &mut NexthopMessage, system: &System) -> Result<(), Refusal> {
        if !object.group.is_empty() {
            if object.oif.is_some() || object.gateway.is_some() || object.blackhole {
                return refuse(libc::EINVAL, "A group has members and nothing else");
            }
            for member in &object.group {
                match self.nexthops.get(&member.id) {
                    None => return refuse(libc::EINVAL, "Invalid nexthop id"),
                    Some(n) if member.id == id || !n.group.is_empty() => {
                        return refuse(libc::EINVAL, "Nexthop can not be a group within a group");
                    }
                    Some(_) => {}
                }
            }
            return Ok(());
        }
        if object.blackhole || object.fdb {
            return Ok(());
        }
        let Some(oif) = object.oif else {
            return refuse(libc::EINVAL, "Either a device or a gateway with one is needed");
        };
        let link = system.link(oif);
        let Some(link) = link else { return refuse(libc::ENODEV, "Invalid device index") };
        if !link.up {
            return refuse(libc::ENETDOWN, "Nexthop device is not up");
        }
        let onlink = object.flags & u32::from(RTNH_F_ONLINK) != 0;
        match object.gateway {
            Some(gateway) if !onlink => reach(gateway, Some(oif), system).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// The keys whose routes depend on a nexthop object, by a group or directly.
    fn affected(&self, id: u32) -> Vec<FibKey> {
        let groups = self.nexthops.iter().filter(|(_, n)| n.group.iter().any(|g| g.id == id)).map(|(id, _)| *id);
        let ids = groups.chain([id]);
        ids.filter_map(|id| self.users.get(&id)).flatten().copied().collect()
    }

    fn delete_nexthop(&mut self, id: u32, tell: bool, effects: &mut Effects) -> Result<(), Refusal> {
        let Some(object) = self.nexthops.get(&id) else { return refuse(libc::ENOENT, "Nexthop id does not exist") };
        if tell && let Ok(payload) = object.to_payload() {
            effects.notify.push((RTNLGRP_NEXTHOP, RTM_DELNEXTHOP, payload));
        }
        effects.changed.extend(self.affected(id));
        self.nexthops.remove(&id);
        self.drop_users(id, effects);
        let groups: Vec<u32> =
            self.nexthops.iter().filter(|(_, n)| n.group.iter().any(|g| g.id == id)).map(|(id, _)| *id).collect();
        for group in groups {
            let Some(object) = self.nexthops.get_mut(&group) else { continue };
            object.group.retain(|g| g.id != id);
            if object.group.is_empty() {
                self.nexthops.remove(&group);
                self.drop_users(group, effects);
            }
        }
        Ok(())
    }

    /// Routes whose nexthop object is gone go with it, without a word.
    fn drop_users(&mut self, id: u32, effects: &mut Effects) {
        let keys: Vec<FibKey> = self.users.get(&id).into_iter().flatten().copied().collect();
        for key in keys {
            while let Some(at) = self.routes.get(&key).and_then(|l| l.iter().position(|r| r.nexthop == id)) {
                self.remove(&key, at, false, effects);
            }
            effects.changed.push(key);
        }
    }

    /// Follows a change of the real system: what Linux takes out of its tables by itself. `system` is what it is now, `was` the link before.
    pub fn system_changed(&mut self, news: &KernelNews, was: Option<&Link>, system: &System, effects: &mut Effects) {
        match news {
            KernelNews::Link(now) => {
                let was_up = was.is_some_and(|l| l.up);
                if was_up && !now.up {
                    self.device_gone(now.index, None, effects);
                } else if was.is_some_and(|l| l.running) && !now.running {
                    self.nexthops_gone(now.index, effects);
                }
            }
            KernelNews::LinkGone { index } => self.device_gone(*index, None, effects),
            KernelNews::AddressGone { index, address, .. } => {
                self.source_gone(*address, effects);
                if !system.has_address(*index, address.is_ipv6()) {
                    self.device_gone(*index, Some(address.is_ipv6()), effects);
                }
            }
            KernelNews::Address { .. } | KernelNews::Written { .. } | KernelNews::Event(_) => {}
        }
    }

    fn nexthops_gone(&mut self, index: u32, effects: &mut Effects) {
        let gone: Vec<u32> = self.nexthops.iter().filter(|(_, n)| n.oif == Some(index)).map(|(id, _)| *id).collect();
        for id in gone {
            // It is there: just found.
            let _ = self.delete_nexthop(id, false, effects);
        }
    }

    /// Next hops over a device are gone, of one IP version or both; IPv6 says so, IPv4 does not.
    fn device_gone(&mut self, index: u32, v6_only: Option<bool>, effects: &mut Effects) {
        if v6_only.is_none() {
            self.nexthops_gone(index, effects);
        }
        let keys: Vec<FibKey> =
            self.routes.keys().copied().filter(|k| v6_only.is_none_or(|v6| v6 == k.prefix.addr().is_ipv6())).collect();
        for key in keys {
            self.prune(&key, effects, |message| {
                if message.multipath.is_empty() {
                    return message.oif != Some(index);
                }
                message.multipath.retain(|hop| hop.interface != index);
                !message.multipath.is_empty()
            });
        }
    }

    fn source_gone(&mut self, address: IpAddr, effects: &mut Effects) {
        let keys: Vec<FibKey> =
            self.routes.keys().copied().filter(|k| k.prefix.addr().is_ipv6() == address.is_ipv6()).collect();
        for key in keys {
            self.prune(&key, effects, |message| message.prefsrc != Some(address));
        }
    }

    /// Asks of each route of a key whether it stays, and takes it as it has become.
    fn prune(&mut self, key: &FibKey, effects: &mut Effects, mut stays: impl FnMut(&mut RouteMessage) -> bool) {
        let v6 = key.prefix.addr().is_ipv6();
        let mut at = 0;
        let mut changed = false;
        while let Some(own) = self.routes.get_mut(key).and_then(|l| l.get_mut(at)) {
            let Ok(mut message) = RouteMessage::parse(&own.payload) else {
                at += 1;
                continue;
            };
            let hops = message.multipath.len();
            if !stays(&mut message) {
                self.remove(key, at, v6, effects);
                changed = true;
                continue;
            }
            if message.multipath.len() != hops
                && let Ok(payload) = message.to_payload()
            {
                self.octets = self.octets + payload.len() - own.payload.len();
                own.payload = payload.into();
                changed = true;
            }
            at += 1;
        }
        if changed {
            effects.changed.push(*key);
        }
    }

    /// The instance's own part of a dump, in datagrams as the kernel's are.
    pub fn dump(&self, request: &Frame<'_>, port_id: u32, _system: &System) -> Vec<Vec<u8>> {
        let mut pieces = Pieces { all: Vec::new(), seq: request.header.seq, port_id };
        match request.header.kind {
            RTM_GETROUTE => {
                // A short request (`struct rtgenmsg`) names the family alone.
                let wanted = RouteMessage::parse(request.payload).unwrap_or_else(|_| RouteMessage {
                    family: request.family().unwrap_or(AF_UNSPEC),
                    ..RouteMessage::default()
                });
                if wanted.flags & RTM_F_CLONED == 0 && matches!(wanted.family, AF_UNSPEC | AF_INET | AF_INET6) {
                    self.dump_routes(&wanted, &mut pieces);
                }
            }
            RTM_GETNEXTHOP => {
                let wanted = NexthopMessage::parse(request.payload).unwrap_or_default();
                for object in self.nexthops.values() {
                    let family = wanted.family == AF_UNSPEC || wanted.family == object.family;
                    let device = wanted.oif.is_none_or(|oif| object.oif == Some(oif));
                    let groups = wanted.others.iter().any(|a| a.raw_kind & NLA_TYPE_MASK == NHA_GROUPS);
                    if family
                        && device
                        && (!groups || !object.group.is_empty())
                        && let Ok(payload) = object.to_payload()
                    {
                        pieces.push(RTM_NEWNEXTHOP, &payload);
                    }
                }
            }
            _ => {}
        }
        pieces.all
    }

    fn dump_routes(&self, wanted: &RouteMessage, pieces: &mut Pieces) {
        for (key, list) in &self.routes {
            if wanted.family != AF_UNSPEC && wanted.family != key.family() {
                continue;
            }
            if wanted.table != RT_TABLE_UNSPEC && wanted.table != key.table {
                continue;
            }
            for own in list {
                if wanted.protocol == 0 || wanted.protocol == own.protocol {
                    pieces.push(RTM_NEWROUTE, &self.shown(&own.payload));
                }
            }
        }
    }
}

/// Datagrams under construction.
struct Pieces {
    all: Vec<Vec<u8>>,
    seq: u32,
    port_id: u32,
}

impl Pieces {
    fn push(&mut self, kind: u16, payload: &[u8]) {
        if self.all.last().is_none_or(|last| last.len() + payload.len() + 20 > PIECE) {
            self.all.push(Vec::with_capacity(PIECE));
        }
        let Some(last) = self.all.last_mut() else { return };
        let mut w = Writer::message(last, kind, NLM_F_MULTI, self.seq, self.port_id);
        w.put(payload);
        // What is too long is left out whole.
        let _ = w.finish();
    }
}

/// Whether an IPv6 route can be one of several next hops (rt6_qualify_for_ecmp): it has a gateway and no object.
fn joins(message: &RouteMessage) -> bool {
    let gateways = message.gateway.is_some() || message.multipath.iter().any(|h| h.gateway.is_some());
    message.kind == RTN_UNICAST && message.nh_id.unwrap_or(0) == 0 && gateways
}

fn hops_of(message: &RouteMessage) -> Vec<PathHop> {
    if !message.multipath.is_empty() {
        return message.multipath.clone();
    }
    vec![PathHop {
        flags: (message.flags & u32::from(RTNH_F_ONLINK)) as u8,
        weight: 1,
        interface: message.oif.unwrap_or(0),
        gateway: message.gateway,
        encap: message.encap.clone(),
        others: Vec::new(),
    }]
}

fn same_hop(a: &PathHop, b: &PathHop) -> bool {
    (a.gateway, a.interface, &a.encap) == (b.gateway, b.interface, &b.encap)
}

/// The old route with the new one's hops as well.
fn join(mut old: RouteMessage, new: RouteMessage) -> Result<RouteMessage, Refusal> {
    let mut hops = hops_of(&old);
    for hop in hops_of(&new) {
        if hops.iter().any(|h| same_hop(h, &hop)) {
            return refuse(libc::EEXIST, "File exists");
        }
        hops.push(hop);
    }
    (old.gateway, old.oif, old.encap, old.flags) = (None, None, None, 0);
    old.multipath = hops;
    Ok(old)
}

/// Whether a delete means this route: `None` if not, else what is left of it.
fn without(own: &Own, wanted: &RouteMessage, v6: bool) -> Option<Option<RouteMessage>> {
    let mut message = RouteMessage::parse(&own.payload).ok()?;
    let metric = wanted.priority.is_none_or(|m| m == 0 || m == own.metric);
    let kind = wanted.kind == RTN_UNSPEC || wanted.kind == message.kind || v6;
    let protocol = wanted.protocol == 0 || wanted.protocol == own.protocol;
    let scope = v6 || matches!(wanted.scope, RT_SCOPE_UNIVERSE | RT_SCOPE_NOWHERE) || wanted.scope == message.scope;
    let object = wanted.nh_id.is_none_or(|id| id == 0 || id == own.nexthop);
    let source = wanted.prefsrc.is_none_or(|a| message.prefsrc == Some(a));
    if !(metric && kind && protocol && scope && object && source) {
        return None;
    }
    let named: Vec<PathHop> = match (wanted.gateway.is_some() || wanted.oif.is_some(), wanted.multipath.is_empty()) {
        (false, true) => return Some(None),
        (true, _) => hops_of(wanted),
        (false, false) => wanted.multipath.clone(),
    };
    let hops = hops_of(&message);
    let means = |hop: &PathHop, n: &PathHop| {
        (n.gateway.is_none() || n.gateway == hop.gateway) && (n.interface == 0 || n.interface == hop.interface)
    };
    if own.nexthop != 0 {
        return Some(None);
    }
    if !v6 {
        // IPv4 deletes a route as a whole, and only if all that was named is in it.
        return named.iter().all(|n| hops.iter().any(|h| means(h, n))).then_some(None);
    }
    let left: Vec<PathHop> = hops.iter().filter(|h| !named.iter().any(|n| means(h, n))).cloned().collect();
    match left.len() {
        n if n == hops.len() => None,
        0 => Some(None),
        1 => {
            let hop = left.into_iter().next()?;
            message.multipath = Vec::new();
            (message.gateway, message.encap) = (hop.gateway, hop.encap);
            message.oif = Some(hop.interface).filter(|i| *i != 0);
            message.flags = u32::from(hop.flags & RTNH_F_ONLINK);
            Some(Some(message))
        }
        _ => {
            message.multipath = left;
            Some(Some(message))
        }
    }
}

/// Checks the next hops of a new route against the system, and fills in the interfaces that were left open.
fn fill_hops(message: &mut RouteMessage, v6: bool, system: &System) -> Result<(), Refusal> {
    let local = matches!(message.kind, RTN_LOCAL | RTN_BROADCAST | RTN_ANYCAST | RTN_MULTICAST);
    if message.multipath.is_empty() {
        let onlink = message.flags & u32::from(RTNH_F_ONLINK) != 0;
        let oif = check_hop(message.gateway, message.oif.unwrap_or(0), onlink, v6, local, system)?;
        message.oif = Some(oif).filter(|i| *i != 0);
        return Ok(());
    }
    for hop in &mut message.multipath {
        hop.interface = check_hop(hop.gateway, hop.interface, hop.flags & RTNH_F_ONLINK != 0, v6, local, system)?;
        hop.flags &= RTNH_F_ONLINK;
    }
    Ok(())
}

/// The interface of one next hop.
fn check_hop(
    gateway: Option<IpAddr>,
    oif: u32,
    onlink: bool,
    v6: bool,
    local: bool,
    system: &System,
) -> Result<u32, Refusal> {
    if oif != 0 {
        match system.link(oif) {
            None => return refuse(libc::ENODEV, "Invalid device index"),
            Some(link) if !link.up => return refuse(libc::ENETDOWN, "Nexthop device is not up"),
            Some(_) => {}
        }
    }
    let Some(gateway) = gateway else {
        return if oif != 0 || local { Ok(oif) } else { refuse(libc::ENODEV, "No next hop") };
    };
    if onlink {
        return if oif != 0 { Ok(oif) } else { refuse(libc::EINVAL, "Nexthop device required for onlink") };
    }
    if let (IpAddr::V6(a), 0) = (gateway, oif)
        && a.is_unicast_link_local()
    {
        return refuse(libc::EINVAL, "Nexthop device required for a link-local gateway");
    }
    let _ = v6;
    reach(gateway, Some(oif).filter(|i| *i != 0), system)
}

fn reach(gateway: IpAddr, oif: Option<u32>, system: &System) -> Result<u32, Refusal> {
    if let (IpAddr::V6(a), Some(oif)) = (gateway, oif)
        && a.is_unicast_link_local()
    {
        return Ok(oif);
    }
    if system.is_own(gateway) {
        return refuse(libc::EINVAL, "Nexthop has invalid gateway");
    }
    match system.reach(gateway, oif) {
        Some(index) => Ok(index),
        None if gateway.is_ipv6() => refuse(libc::EHOSTUNREACH, "No route to the gateway"),
        None => refuse(libc::ENETUNREACH, "Nexthop has invalid gateway"),
    }
}
