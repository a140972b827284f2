//! What Linux takes out of its tables by itself when links and addresses change (fib_sync_down_dev,
//! fib_sync_down_addr, fib6_ifdown, nexthop_flush_dev).
//!
//! | change | IPv4 routes | IPv6 routes | nexthop objects |
//! |---|---|---|---|
//! | link down | those whose hops are all dead | the same, notified | those over it |
//! | link gone | those with a hop over it | hop by hop, notified | those over it |
//! | carrier lost | stay | stay | those over it |
//! | last IPv4 address of a link gone | as link down | stay | stay |
//! | address gone | those of main with that preferred source | lose the preferred source, unless the link is down | stay |
//!
//! Routes go with the object that they use, IPv6 ones notified. Objects go silently.

use super::super::system::{Nature, System};
use super::info::Info;
use super::{Effects, VirtualKernel};
use crate::io::{Change, Link};
use std::net::IpAddr;
use wire::netlink::consts::{RT_SCOPE_HOST, RT_TABLE_MAIN};
use wire::netlink::fib::FibKey;

impl VirtualKernel {
    /// Follows a change of the system. `was`: the link before it; `system` is after it.
    pub fn system_changed(&mut self, news: &Change, was: Option<&Link>, system: &System, effects: &mut Effects) {
        match news {
            Change::Link(link) => {
                let went_down = was.is_some_and(|was| was.up) && !link.up;
                let lost_carrier = was.is_some_and(|was| was.running) && !link.running;
                if went_down {
                    self.link_down(link.index, system, effects);
                }
                if went_down || lost_carrier {
                    self.flush_nexthops(link.index, system, effects);
                }
            }
            Change::LinkGone { index } => {
                let index = *index;
                self.flush_nexthops(index, system, effects);
                self.drop_routes(|info| info.uses(index), system, effects);
            }
            Change::AddressGone { index, address, .. } => self.address_gone(*index, *address, system, effects),
            // Nothing of an instance's own goes with these.
            Change::Address { .. } | Change::Route { .. } | Change::RouteGone { .. } | Change::Routes(_) => {}
        }
    }

    fn link_down(&mut self, index: u32, system: &System, effects: &mut Effects) {
        let dead = |info: &Info| info.uses(index) && info.hops.iter().all(|hop| !system.is_up(hop.oif));
        // A route of this host's own addresses outlives the link in IPv4.
        self.drop_routes(|info| !info.v6 && info.scope != RT_SCOPE_HOST && dead(info), system, effects);
        let over = |info: &Info| info.v6 && info.nh_id == 0 && dead(info);
        for key in self.keys(over).1 {
            let list = self.list(&key);
            let is_dead = |id: &u32| self.infos.get(*id).hops.iter().all(|hop| !system.is_up(hop.oif));
            let (mut gone, mut at) = (Vec::new(), 0);
            while let Some(&id) = list.get(at) {
                let siblings = self.siblings(&list, at);
                at += 1;
                if siblings.len() < 2 {
                    gone.extend(Some(id).filter(|&id| over(self.infos.get(id))));
                } else if siblings.iter().all(is_dead) {
                    // All hops go, or none.
                    gone.push(id);
                } else {
                    // What stands between the hops of one that stays is left alone.
                    let last = siblings.last().and_then(|last| list.iter().rposition(|id| id == last));
                    at = last.map_or(at, |last| at.max(last + 1));
                }
            }
            if !gone.is_empty() {
                effects.changed.push(key);
            }
            gone.into_iter().for_each(|id| self.remove_v6(key, id, true, system, effects));
        }
    }

    fn flush_nexthops(&mut self, index: u32, system: &System, effects: &mut Effects) {
        let over: Vec<u32> = self.nexthops.iter().filter(|(_, nh)| nh.oif == Some(index)).map(|(&id, _)| id).collect();
        for id in over {
            self.remove_nexthop(id, false, system, effects);
        }
    }

    fn address_gone(&mut self, index: u32, address: IpAddr, system: &System, effects: &mut Effects) {
        if address.is_ipv4() {
            if !matches!(system.nature(address, None), Nature::Local(_)) {
                let main = |key: &FibKey| key.table == RT_TABLE_MAIN;
                self.drop_those(|info| !info.v6 && info.prefsrc == Some(address), main, system, effects);
            }
            if !system.has_ipv4(index) {
                let dead = |oif: u32| oif == index || !system.is_up(oif);
                let all_dead = |info: &Info| info.uses(index) && info.hops.iter().all(|hop| dead(hop.oif));
                self.drop_routes(|info| !info.v6 && all_dead(info), system, effects);
            }
        } else if system.is_up(index) {
            // Addresses that go because their link goes down leave the routes alone.
            self.forget_source(address, effects);
        }
    }

    /// IPv6 routes lose their preferred source and stay; those with a nexthop object keep it.
    fn forget_source(&mut self, address: IpAddr, effects: &mut Effects) {
        let (ids, keys) = self.keys(|info| info.v6 && info.nh_id == 0 && info.prefsrc == Some(address));
        for key in keys {
            let mut list = self.list(&key);
            for id in list.iter_mut().filter(|id| ids.contains(*id)) {
                let info = Info { prefsrc: None, ..self.infos.get(*id).clone() };
                let old = std::mem::replace(id, self.infos.intern(info));
                self.infos.release(old);
            }
            self.put(key, &list);
            effects.changed.push(key);
        }
    }

    /// Removes routes of which this holds: silently in IPv4, each notified in IPv6.
    pub(super) fn drop_routes(&mut self, doomed: impl Fn(&Info) -> bool, system: &System, effects: &mut Effects) {
        self.drop_those(doomed, |_| true, system, effects);
    }

    fn drop_those(
        &mut self,
        doomed: impl Fn(&Info) -> bool,
        there: impl Fn(&FibKey) -> bool,
        system: &System,
        effects: &mut Effects,
    ) {
        let (ids, keys) = self.keys(doomed);
        for key in keys.into_iter().filter(there) {
            effects.changed.push(key);
            let (gone, left): (Vec<u32>, Vec<u32>) = self.list(&key).into_iter().partition(|id| ids.contains(id));
            if key.prefix.addr().is_ipv6() {
                gone.into_iter().for_each(|id| self.remove_v6(key, id, true, system, effects));
                continue;
            }
            self.put(key, &left);
            gone.into_iter().for_each(|id| self.infos.release(id));
        }
    }
}
