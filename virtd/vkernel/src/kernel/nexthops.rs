//! Nexthop objects and groups (net/ipv4/nexthop.c).

use super::super::system::{LOOPBACK, System};
use super::info::{Hop, Info};
use super::v4::fits_v4;
use super::v6::fits_v6;
use super::{Effects, MAX_PATHS, Refusal, VirtualKernel};
use hashbrown::HashSet;
use std::borrow::Cow;
use wire::netlink::consts::*;
use wire::netlink::fib::FibKey;
use wire::netlink::{NetlinkError, NexthopMessage};

/// NHA_GROUP_TYPE of a resilient group, the largest that Linux knows.
const RESILIENT: u16 = 1;
/// NHA_HW_STATS_ENABLE (linux/nexthop.h): groups take it.
const NHA_HW_STATS_ENABLE: u16 = 16;

/// These attributes are checked strictly: whatever is wrong with them is EINVAL.
pub(super) fn parse_refusal(_: NetlinkError) -> Refusal {
    Refusal::invalid("")
}

fn is_group(nh: &NexthopMessage) -> bool {
    !nh.group.is_empty()
}

fn hop_of(nh: &NexthopMessage, weight: u16) -> Hop {
    Hop {
        gateway: nh.gateway,
        oif: if nh.blackhole { LOOPBACK } else { nh.oif.unwrap_or(0) },
        weight,
        flags: (nh.flags & u32::from(RTNH_F_ONLINK)) as u8,
        encap: nh.encap.clone().map(Box::new),
    }
}

impl VirtualKernel {
    /// An object itself, or the members of a group.
    pub(super) fn members<'a>(&'a self, nh: &'a NexthopMessage) -> impl Iterator<Item = &'a NexthopMessage> {
        let alone = (!is_group(nh)).then_some(nh);
        alone.into_iter().chain(nh.group.iter().filter_map(|entry| self.nexthops.get(&entry.id)))
    }

    /// The object, or the first member of the group, with this id, and whether it is a group.
    pub(super) fn first_member(&self, id: u32) -> Option<(&NexthopMessage, bool)> {
        let nh = self.nexthops.get(&id)?;
        Some((self.members(nh).next()?, is_group(nh)))
    }

    /// What a route means: its type and hops, nexthop ids resolved. An object that drops makes the
    /// route drop.
    pub(super) fn meaning<'a>(&'a self, info: &'a Info) -> (u8, Cow<'a, [Hop]>) {
        if info.nh_id == 0 {
            return (info.kind, Cow::Borrowed(&info.hops));
        }
        let Some(nh) = self.nexthops.get(&info.nh_id) else { return (info.kind, Cow::Borrowed(&[])) };
        let weights = std::iter::once(1).filter(|_| !is_group(nh)).chain(nh.group.iter().map(|entry| entry.weight));
        let hops: Vec<Hop> = self.members(nh).zip(weights).map(|(nh, weight)| hop_of(nh, weight)).collect();
        let drops = self.members(nh).any(|nh| nh.blackhole);
        (if drops { RTN_BLACKHOLE } else { info.kind }, Cow::Owned(hops))
    }

    /// Its id and those of the groups that it is in.
    fn with_groups(&self, id: u32) -> Vec<u32> {
        let groups = self.nexthops.iter().filter(|(_, nh)| nh.group.iter().any(|entry| entry.id == id));
        std::iter::once(id).chain(groups.map(|(&group, _)| group)).collect()
    }

    /// The keys with a route that such a property of holds.
    pub(super) fn keys(&self, wanted: impl Fn(&Info) -> bool) -> (HashSet<u32>, Vec<FibKey>) {
        let infos: HashSet<u32> = self.infos.iter().filter(|(_, info)| wanted(info)).map(|(id, _)| id).collect();
        if infos.is_empty() {
            return (infos, Vec::new());
        }
        let remembered: Option<Vec<&[FibKey]>> = infos.iter().map(|&id| self.infos.keys(id)).collect();
        if let Some(remembered) = remembered {
            let mut keys = remembered.concat();
            keys.sort_unstable();
            keys.dedup();
            return (infos, keys);
        }
        let mut left: usize = infos.iter().map(|&id| self.infos.users(id)).sum();
        let mut keys = Vec::new();
        for (key, list) in &self.table {
            let held = list.as_slice().iter().filter(|id| infos.contains(*id)).count();
            if held > 0 {
                keys.push(*key);
            }
            left = left.saturating_sub(held);
            if left == 0 {
                break;
            }
        }
        (infos, keys)
    }

    pub(super) fn new_nexthop(
        &mut self,
        mut m: NexthopMessage,
        flags: u16,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        check_header(&m)?;
        if m.group.is_empty() {
            self.check_single(&mut m, system)?;
        } else {
            self.check_group(&mut m)?;
        }
        let (replace, create) = (flags & NLM_F_REPLACE != 0, flags & NLM_F_CREATE != 0);
        let id = match m.id.unwrap_or(0) {
            0 if replace => return Err(Refusal::invalid("Replace requires nexthop id")),
            0 => self.unused_id(),
            id => id,
        };
        m.id = Some(id);
        if m.group.is_empty() {
            self.resolve_single(&mut m, system)?;
        }
        match self.nexthops.get(&id) {
            Some(_) if !replace => return Err(Refusal::new(libc::EEXIST, "")),
            Some(old) => {
                self.check_replace(id, old, &m)?;
                if is_group(&m) {
                    // Linux gives the protocol of a replacement to single objects only.
                    m.protocol = old.protocol;
                }
            }
            None if replace && !create => {
                return Err(Refusal::new(libc::ENOENT, "Replace specified without create and no entry exists"));
            }
            None => {}
        }
        effects.notify_object(RTM_NEWNEXTHOP, &m);
        self.nexthop_changes += 1;
        let existed = self.nexthops.insert(id, m).is_some();
        if existed {
            let ids = self.with_groups(id);
            effects.changed.extend(self.keys(|info| info.nh_id != 0 && ids.contains(&info.nh_id)).1);
        }
        Ok(())
    }

    /// nh_find_unused_id.
    fn unused_id(&mut self) -> u32 {
        loop {
            self.last_nh_id = self.last_nh_id.wrapping_add(1).max(1);
            if !self.nexthops.contains_key(&self.last_nh_id) {
                return self.last_nh_id;
            }
        }
    }

    fn check_single(&self, m: &mut NexthopMessage, system: &System) -> Result<(), Refusal> {
        m.group_type = None;
        m.others.clear();
        if m.blackhole {
            if m.gateway.is_some() || m.oif.is_some() || m.encap.is_some() || m.fdb {
                return Err(Refusal::invalid("Blackhole attribute can not be used with gateway, oif, encap or fdb"));
            }
            return Ok(());
        }
        if m.fdb {
            return Ok(());
        }
        let oif = m.oif.ok_or(Refusal::invalid("Device attribute required for non-blackhole and non-fdb nexthops"))?;
        let link = system.link(oif).ok_or(Refusal::invalid("Invalid device index"))?;
        if !link.up {
            return Err(Refusal::new(libc::ENETDOWN, "Nexthop device is not up"));
        }
        if !link.running {
            return Err(Refusal::new(libc::ENETDOWN, "Carrier for nexthop device is down"));
        }
        if m.gateway.is_none() && m.flags & u32::from(RTNH_F_ONLINK) != 0 {
            return Err(Refusal::invalid("ONLINK flag can not be set for nexthop without a gateway"));
        }
        Ok(())
    }

    /// Checks the way, and says the scope that Linux shows.
    fn resolve_single(&self, m: &mut NexthopMessage, system: &System) -> Result<(), Refusal> {
        // The unspecified address is none, in both families.
        m.gateway = m.gateway.filter(|address| !address.is_unspecified());
        if m.blackhole || m.fdb {
            return Ok(());
        }
        let hop = hop_of(m, 1);
        if m.family == AF_INET6 {
            m.scope = RT_SCOPE_LINK;
            m.oif = Some(self.check_v6(hop, RT_TABLE_MAIN, false, system)?.oif);
            return Ok(());
        }
        m.scope = match m.gateway {
            None => RT_SCOPE_HOST,
            Some(_) if m.flags & u32::from(RTNH_F_ONLINK) != 0 => RT_SCOPE_LINK,
            Some(gateway) => self.way_to_v4(gateway, hop.oif, RT_TABLE_MAIN, RT_SCOPE_UNIVERSE, system)?.1,
        };
        m.oif = Some(self.check_v4(hop, RT_TABLE_MAIN, RT_SCOPE_UNIVERSE, system)?.oif);
        Ok(())
    }

    fn check_group(&self, m: &mut NexthopMessage) -> Result<(), Refusal> {
        let kind = m.group_type.unwrap_or(0);
        if kind > RESILIENT {
            return Err(Refusal::invalid("Invalid group type"));
        }
        if m.group.len() > MAX_PATHS {
            return Err(Refusal::new(libc::E2BIG, ""));
        }
        let mut ids: Vec<u32> = m.group.iter().map(|entry| entry.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Refusal::invalid("Nexthop id can not be used twice in a group"));
        }
        for id in ids {
            let nh = self.nexthops.get(&id).ok_or(Refusal::invalid("Invalid nexthop id"))?;
            if is_group(nh) {
                return Err(Refusal::invalid("Hash-threshold group can not be a nexthop within a group"));
            }
            if nh.blackhole && m.group.len() > 1 {
                let text = "Blackhole nexthop can not be used in a group with more than 1 path";
                return Err(Refusal::invalid(text));
            }
            if m.fdb != nh.fdb {
                return Err(Refusal::invalid("Non FDB nexthop group cannot have fdb nexthops"));
            }
        }
        let allowed = |kind: u16| match kind {
            NHA_RES_GROUP => m.group_type == Some(RESILIENT),
            kind => kind == NHA_HW_STATS_ENABLE,
        };
        let alone = m.oif.is_none() && m.gateway.is_none() && m.encap.is_none() && !m.blackhole;
        if !alone || !m.others.iter().all(|attr| allowed(attr.as_attr().kind())) {
            return Err(Refusal::invalid("No other attributes can be set in nexthop groups"));
        }
        m.others.retain(|attr| attr.as_attr().kind() == NHA_RES_GROUP);
        m.group_type = Some(kind);
        Ok(())
    }

    /// replace_nexthop.
    fn check_replace(&self, id: u32, old: &NexthopMessage, new: &NexthopMessage) -> Result<(), Refusal> {
        let users = self.with_groups(id);
        for info in self.infos.iter().map(|(_, info)| info).filter(|info| users.contains(&info.nh_id)) {
            if info.nh_id == 0 {
                continue;
            }
            if info.v6 {
                fits_v6(self.members(new))?;
            } else if let Some(first) = self.members(new).next() {
                fits_v4(first, is_group(new), info.scope)?;
            }
        }
        let crowded = |group: &u32| self.nexthops.get(group).is_some_and(|nh| nh.group.len() > 1);
        if new.blackhole && users.iter().skip(1).any(crowded) {
            let text = "Blackhole nexthop can not be a member of a group with more than one path";
            return Err(Refusal::invalid(text));
        }
        match (is_group(old), is_group(new)) {
            (true, false) => Err(Refusal::invalid("Can not replace a nexthop group with a nexthop.")),
            (false, true) => Err(Refusal::invalid("Can not replace a nexthop with a nexthop group.")),
            (true, true) if old.group_type != new.group_type => {
                Err(Refusal::invalid("Can not replace a nexthop group with one of a different type."))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn delete_nexthop(
        &mut self,
        m: &NexthopMessage,
        system: &System,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        if m.protocol != 0 || m.scope != 0 || m.flags != 0 {
            return Err(Refusal::invalid("Invalid values in header"));
        }
        let id = m.id.ok_or(Refusal::invalid("Nexthop id is missing"))?;
        if id == 0 {
            return Err(Refusal::invalid("Invalid nexthop id"));
        }
        let bare = NexthopMessage { family: m.family, id: m.id, others: m.others.clone(), ..Default::default() };
        if *m != bare || m.others.iter().any(|attr| attr.as_attr().kind() != NHA_OP_FLAGS) {
            return Err(Refusal::invalid(""));
        }
        if !self.nexthops.contains_key(&id) {
            return Err(Refusal::new(libc::ENOENT, ""));
        }
        self.remove_nexthop(id, true, system, effects);
        Ok(())
    }

    /// Removes an object, the routes that use it, and its place in groups; a group without members
    /// goes too. `tell`: who listens to nexthop objects is notified (not where Linux does it by
    /// itself).
    pub(super) fn remove_nexthop(&mut self, id: u32, tell: bool, system: &System, effects: &mut Effects) {
        let Some(nh) = self.nexthops.get(&id) else { return };
        if tell {
            effects.notify_object(RTM_DELNEXTHOP, nh);
        }
        self.drop_routes(|info| info.nh_id == id, system, effects);
        self.nexthops.remove(&id);
        self.nexthop_changes += 1;
        let groups: Vec<u32> = self.with_groups(id).into_iter().skip(1).collect();
        for group in groups {
            let Some(nh) = self.nexthops.get_mut(&group) else { continue };
            if nh.group.len() == 1 {
                self.remove_nexthop(group, tell, system, effects);
                continue;
            }
            nh.group.retain(|entry| entry.id != id);
            if tell {
                effects.notify_object(RTM_NEWNEXTHOP, nh);
            }
            effects.changed.extend(self.keys(|info| info.nh_id == group).1);
        }
    }
}

/// rtm_to_nh_config, as far as it looks at one message.
fn check_header(m: &NexthopMessage) -> Result<(), Refusal> {
    let known = |kind: u16| matches!(kind, NHA_RES_GROUP | NHA_HW_STATS_ENABLE);
    if !m.others.iter().all(|attr| known(attr.as_attr().kind())) {
        return Err(Refusal::invalid(""));
    }
    if m.scope != 0 {
        return Err(Refusal::invalid("Invalid values in ancillary header"));
    }
    if m.flags & !u32::from(RTNH_F_ONLINK) != 0 {
        return Err(Refusal::invalid("Invalid nexthop flags in ancillary header"));
    }
    match (m.family, is_group(m)) {
        (AF_UNSPEC, false) => return Err(Refusal::invalid("Invalid address family")),
        (AF_INET | AF_INET6, true) => return Err(Refusal::invalid("Invalid family for group")),
        _ => {}
    }
    if m.fdb && (m.oif.is_some() || m.blackhole || m.encap.is_some()) {
        return Err(Refusal::invalid("Fdb attribute can not be used with encap, oif or blackhole"));
    }
    if m.fdb && m.flags != 0 {
        return Err(Refusal::invalid("Unsupported nexthop flags in ancillary header"));
    }
    Ok(())
}
