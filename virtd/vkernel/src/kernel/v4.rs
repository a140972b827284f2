//! IPv4 routes: fib_create_info, fib_table_insert, fib_table_delete.

use super::super::system::{Nature, System};
use super::info::{Hop, Info, metrics};
use super::{Effects, MAX_PATHS, Refusal, VirtualKernel};
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, is_reject};
use wire::netlink::{NexthopMessage, RouteMessage};

/// The two bits of a TOS that are ECN's (RFC 3168).
const ECN_MASK: u8 = 3;
/// Flags of a next hop that only the kernel sets.
const KERNELS_OWN: u8 = RTNH_F_DEAD | RTNH_F_LINKDOWN;

/// 0.0.0.0 is no gateway.
pub(super) fn real(gateway: Option<IpAddr>) -> Option<IpAddr> {
    gateway.filter(|&address| address != IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// rtm_to_fib_config.
fn key_v4(m: &RouteMessage) -> Result<FibKey, Refusal> {
    if m.tos & ECN_MASK != 0 {
        return Err(Refusal::invalid("Invalid dsfield (tos): ECN bits must be 0"));
    }
    if m.kind > RTN_MAX {
        return Err(Refusal::invalid("Invalid route type"));
    }
    let key = FibKey::from_message(m)
        .map_err(|error| Refusal { errno: error.errno(), text: "Invalid prefix for given prefix length" })?;
    let id = m.nh_id.unwrap_or(0);
    let inline = m.oif.unwrap_or(0) != 0 || real(m.gateway).is_some() || m.encap.is_some() || !m.multipath.is_empty();
    if id != 0 && inline {
        return Err(Refusal::invalid("Nexthop specification and nexthop id are mutually exclusive"));
    }
    Ok(key)
}

/// The largest route type of Linux (RTN_XRESOLVE).
const RTN_MAX: u8 = 11;

/// The least scope that a route type can have (fib_props).
const fn type_scope(kind: u8) -> u8 {
    match kind {
        RTN_UNICAST | RTN_MULTICAST => RT_SCOPE_UNIVERSE,
        _ if is_reject(kind) => RT_SCOPE_UNIVERSE,
        RTN_LOCAL => RT_SCOPE_HOST,
        RTN_BROADCAST | RTN_ANYCAST => RT_SCOPE_LINK,
        _ => RT_SCOPE_NOWHERE,
    }
}

/// Whether an object fits routes of this scope (fib_check_nexthop).
pub(super) fn fits_v4(first: &NexthopMessage, is_group: bool, scope: u8) -> Result<(), Refusal> {
    if first.fdb {
        return Err(Refusal::invalid("Route cannot point to a fdb nexthop"));
    }
    if is_group && scope == RT_SCOPE_HOST {
        return Err(Refusal::invalid("Route with host scope can not have multiple nexthops"));
    }
    if scope == RT_SCOPE_HOST && first.gateway.is_some() {
        return Err(Refusal::invalid("Route with host scope can not have a gateway"));
    }
    if first.flags & u32::from(RTNH_F_ONLINK) != 0 && scope >= RT_SCOPE_LINK {
        return Err(Refusal::invalid("Scope mismatch with nexthop"));
    }
    Ok(())
}

impl VirtualKernel {
    /// `said` is what `m` was read from.
    pub(super) fn new_v4(
        &mut self,
        said: &[u8],
        m: &RouteMessage,
        flags: u16,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let key = key_v4(m)?;
        let info = self.info_v4(m, &key, system)?;
        let id = self.infos.intern(info);
        self.add_v4(key, id, flags, system, effects)?;
        self.remember(said, m, key, id);
        Ok(())
    }

    /// Adds a route with what was interned for it, which has one user less where it is not taken.
    pub(super) fn add_v4(
        &mut self,
        key: FibKey,
        id: u32,
        flags: u16,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        match self.insert_v4(key, id, flags) {
            Ok(true) => {
                let message = self.message(&key, &[id], system);
                effects.notify(RTNLGRP_IPV4_ROUTE, RTM_NEWROUTE, message);
                effects.changed.push(key);
                Ok(())
            }
            Ok(false) => {
                self.infos.release(id);
                Ok(())
            }
            Err(refusal) => {
                self.infos.release(id);
                Err(refusal)
            }
        }
    }

    fn info_v4(&self, m: &RouteMessage, key: &FibKey, system: &System) -> Result<Info, Refusal> {
        let scope_error = Refusal::invalid("Invalid scope");
        if type_scope(m.kind) > m.scope {
            return Err(scope_error);
        }
        if m.flags & u32::from(KERNELS_OWN) != 0 {
            return Err(Refusal::invalid("Invalid rtm_flags - can not contain DEAD or LINKDOWN"));
        }
        let nh_id = m.nh_id.unwrap_or(0);
        if nh_id != 0 && !self.nexthops.contains_key(&nh_id) {
            return Err(Refusal::invalid("Nexthop id does not exist"));
        }
        let mut info = Info {
            v6: false,
            table: key.table,
            kind: m.kind,
            scope: m.scope,
            protocol: m.protocol,
            pref: 0,
            flags: m.flags,
            metric: m.priority.unwrap_or(0),
            nh_id,
            flow: flow(m),
            prefsrc: real(m.prefsrc),
            metrics: metrics(&m.metrics)?,
            hops: if nh_id == 0 { hops_v4(m)? } else { Vec::new() },
        };
        if nh_id != 0
            && m.metrics.is_empty()
            && let Some(alike) = self.infos.alike(&info)
        {
            // With its metrics, and without any further question.
            return Ok(alike.clone());
        }
        if is_reject(m.kind) {
            if real(m.gateway).is_some() || m.oif.unwrap_or(0) != 0 || !m.multipath.is_empty() {
                let text = "Gateway, device and multipath can not be specified for this route type";
                return Err(Refusal::invalid(text));
            }
            return Ok(info);
        }
        if !(RTN_UNICAST..=RTN_MULTICAST).contains(&m.kind) {
            return Err(Refusal::invalid("Invalid route type"));
        }
        if m.scope > RT_SCOPE_HOST {
            return Err(scope_error);
        }
        if nh_id != 0 {
            let (first, is_group) = self.first_member(nh_id).ok_or(Refusal::invalid(""))?;
            fits_v4(first, is_group, m.scope)?;
        } else if m.scope == RT_SCOPE_HOST {
            self.check_host(&info, system)?;
        } else {
            let hops = std::mem::take(&mut info.hops).into_iter();
            info.hops = hops.map(|hop| self.check_v4(hop, key.table, m.scope, system)).collect::<Result<_, _>>()?;
        }
        // An address of the local table, or the destination itself where it is a local one.
        let own = |source: IpAddr| {
            let of_local = m.kind == RTN_LOCAL && key.prefix.len() == 32 && key.prefix.addr() == source;
            of_local || matches!(system.nature(source, None), Nature::Local(_))
        };
        if info.prefsrc.is_some_and(|source| !own(source)) {
            return Err(Refusal::invalid("Invalid prefsrc address"));
        }
        Ok(info)
    }

    fn check_host(&self, info: &Info, system: &System) -> Result<(), Refusal> {
        let [hop] = info.hops.as_slice() else {
            return Err(Refusal::invalid("Route with host scope can not have multiple nexthops"));
        };
        if hop.gateway.is_some() {
            return Err(Refusal::invalid("Route with host scope can not have a gateway"));
        }
        system.link(hop.oif).map(|_| ()).ok_or(Refusal::new(libc::ENODEV, ""))
    }

    /// Whether anything has changed: the same first route again, with NLM_F_REPLACE, changes
    /// nothing.
    fn insert_v4(&mut self, key: FibKey, id: u32, flags: u16) -> Result<bool, Refusal> {
        let exists = Refusal::new(libc::EEXIST, "");
        let metric = self.infos.get(id).metric;
        let mut list = match self.table.entry(key) {
            Entry::Vacant(_) if flags & NLM_F_CREATE == 0 => return Err(Refusal::new(libc::ENOENT, "")),
            Entry::Vacant(place) => {
                place.insert([id].as_slice().into());
                self.placed(key, &[id], &[]);
                return Ok(true);
            }
            Entry::Occupied(place) => place.get().as_slice().to_vec(),
        };
        let first = list.iter().take_while(|&&other| self.infos.get(other).metric < metric).count();
        let rest = list.get(first..).unwrap_or_default();
        let equals = rest.iter().take_while(|&&other| self.infos.get(other).metric == metric).count();
        let run = rest.get(..equals).unwrap_or_default();
        let mut at = first;
        if let Some(&old) = run.first() {
            if flags & NLM_F_EXCL != 0 {
                return Err(exists);
            }
            let same = run.iter().position(|&other| other == id);
            if flags & NLM_F_REPLACE != 0 {
                match same {
                    Some(0) => return Ok(false),
                    Some(_) => return Err(exists),
                    None => {}
                }
                if let Some(place) = list.get_mut(first) {
                    *place = id;
                }
                self.infos.release(old);
                self.put(key, &list);
                return Ok(true);
            }
            if same.is_some() {
                return Err(exists);
            }
            if flags & NLM_F_APPEND != 0 {
                at = first + equals;
            }
        }
        if flags & NLM_F_CREATE == 0 {
            return Err(Refusal::new(libc::ENOENT, ""));
        }
        list.insert(at.min(list.len()), id);
        self.put(key, &list);
        Ok(true)
    }

    pub(super) fn delete_v4(
        &mut self,
        m: &RouteMessage,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let key = key_v4(m)?;
        let nh_id = m.nh_id.unwrap_or(0);
        if nh_id != 0 && !self.nexthops.contains_key(&nh_id) {
            return Err(Refusal::invalid("Nexthop id does not exist"));
        }
        let mut list = self.list(&key);
        let Some(at) = list.iter().position(|&id| self.matches_v4(m, self.infos.get(id))) else {
            return Err(Refusal::new(libc::ESRCH, ""));
        };
        let id = list.remove(at);
        let message = self.message(&key, &[id], system);
        effects.notify(RTNLGRP_IPV4_ROUTE, RTM_DELROUTE, message);
        effects.changed.push(key);
        self.put(key, &list);
        self.infos.release(id);
        Ok(())
    }

    /// Whether a delete names this route: everything that it says must be so.
    fn matches_v4(&self, m: &RouteMessage, info: &Info) -> bool {
        let said = |said: u32, is: u32| said == 0 || said == is;
        said(u32::from(m.kind), u32::from(info.kind))
            && (m.scope == RT_SCOPE_NOWHERE || m.scope == info.scope)
            && real(m.prefsrc).is_none_or(|source| info.prefsrc == Some(source))
            && said(u32::from(m.protocol), u32::from(info.protocol))
            && said(m.priority.unwrap_or(0), info.metric)
            && matches_hops(m, info)
            && m.metrics.iter().all(|metric| {
                let kind = metric.as_attr().kind();
                kind == 0 || info.metrics.iter().any(|is| is.raw_kind == kind && is.payload == metric.payload)
            })
    }
}

/// fib_nh_match.
fn matches_hops(m: &RouteMessage, info: &Info) -> bool {
    let (oif, gateway, nh_id) = (m.oif.unwrap_or(0), real(m.gateway), m.nh_id.unwrap_or(0));
    let single = oif != 0 || gateway.is_some();
    if nh_id != 0 || info.nh_id != 0 {
        return nh_id == info.nh_id || nh_id == 0 && !single && m.multipath.is_empty();
    }
    if single {
        let Some(first) = info.hops.first() else { return false };
        let encap = m.encap.as_ref().is_none_or(|encap| first.encap.as_deref() == Some(encap));
        return encap && (oif == 0 || oif == first.oif) && (gateway.is_none() || gateway == first.gateway);
    }
    if m.multipath.is_empty() {
        return true;
    }
    // Hop by hop in their order; too few are no match, more than there are do not matter.
    let pairs = info.hops.iter().zip(&m.multipath);
    let mut same = pairs.map(|(is, said)| {
        (said.interface == 0 || said.interface == is.oif)
            && match (real(said.gateway), is.gateway) {
                // Linux compares RTA_VIA only with hops that have a gateway.
                (Some(IpAddr::V6(_)), None) | (None, _) => true,
                (said, is) => said == is,
            }
    });
    m.multipath.len() >= info.hops.len() && same.all(|same| same)
}

fn flow(m: &RouteMessage) -> u32 {
    let said = m.others.iter().find(|attr| attr.as_attr().kind() == RTA_FLOW);
    said.and_then(|attr| attr.as_attr().u32().ok()).unwrap_or(0)
}

/// The hops that a route says itself.
fn hops_v4(m: &RouteMessage) -> Result<Vec<Hop>, Refusal> {
    let onlink = (m.flags & u32::from(RTNH_F_ONLINK)) as u8;
    let (gateway, oif) = (real(m.gateway), m.oif.unwrap_or(0));
    if m.multipath.is_empty() {
        let encap = m.encap.clone().map(Box::new);
        return Ok(vec![Hop { gateway, oif, weight: 1, flags: onlink, encap }]);
    }
    if m.multipath.len() > MAX_PATHS {
        return Err(Refusal::new(libc::E2BIG, ""));
    }
    let mut hops = Vec::with_capacity(m.multipath.len());
    for path in &m.multipath {
        if path.flags & KERNELS_OWN != 0 {
            return Err(Refusal::invalid("Invalid flags for nexthop - can not contain DEAD or LINKDOWN"));
        }
        hops.push(Hop {
            gateway: real(path.gateway),
            oif: path.interface,
            weight: path.weight,
            flags: path.flags & RTNH_F_ONLINK,
            encap: path.encap.clone().map(Box::new),
        });
    }
    let first = hops.first();
    if oif != 0 && first.is_some_and(|hop| hop.oif != oif) {
        return Err(Refusal::invalid("Nexthop device index does not match RTA_OIF"));
    }
    if gateway.is_some() && first.is_some_and(|hop| hop.gateway != gateway) {
        return Err(Refusal::invalid("Nexthop gateway does not match RTA_GATEWAY or RTA_VIA"));
    }
    Ok(hops)
}
