//! Dumps and notifications: own routes and objects as Linux shows its own (fib_dump_info,
//! rt6_fill_node, nh_fill_node).

use super::super::system::System;
use super::VirtualKernel;
use super::info::{Hop, Info};
use crate::io::DumpCursor;
use bytes::Bytes;
use std::ops::Bound;
use wire::netlink::consts::*;
use wire::netlink::fib::FibKey;
use wire::netlink::route::{PathHop, RTMSG_LEN};
use wire::netlink::{Frame, NexthopMessage, RawAttr, RouteMessage, Writer};

/// A datagram of a dump is closed once it holds this many octets; daemons read into 32 KiB.
const DATAGRAM: usize = 15 * 1024;
/// RTM_F_PREFIX (linux/rtnetlink.h): only routes of router advertisements.
const RTM_F_PREFIX: u32 = 0x800;
/// Octets of `struct rta_cacheinfo`.
const CACHEINFO_LEN: usize = 32;

/// Octets of a dump that are made at once: the rest waits until the daemon has taken them.
const PIECE: usize = 64 * 1024;
/// Keys or objects that are looked at for a piece, whether they are wanted or not.
const PIECE_STEPS: usize = 4096;

/// Messages of a dump, a few KiB a datagram.
struct Datagrams {
    done: Vec<Vec<u8>>,
    open: Vec<u8>,
    kind: u16,
    flags: u16,
    seq: u32,
    port: u32,
    /// Octets that are done, and keys that were looked at.
    octets: usize,
    steps: usize,
}

impl Datagrams {
    fn push(&mut self, write: impl FnOnce(&mut Writer<'_>)) {
        if self.open.len() >= DATAGRAM {
            self.octets += self.open.len();
            self.done.push(std::mem::replace(&mut self.open, Vec::with_capacity(DATAGRAM + 1024)));
        }
        let mut w = Writer::message(&mut self.open, self.kind, self.flags, self.seq, self.port);
        write(&mut w);
        // One that does not fit its length fields is left out; the kernel's dump would end there.
        let _ = w.finish();
    }

    /// Whether one more is looked at.
    fn goes_on(&mut self) -> bool {
        self.steps += 1;
        self.steps <= PIECE_STEPS && self.octets + self.open.len() < PIECE
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.open.is_empty() {
            self.done.push(self.open);
        }
        self.done
    }
}

impl VirtualKernel {
    /// A message about one route: a single entry, or all hops of an IPv6 multipath route.
    pub(super) fn message(&self, key: &FibKey, ids: &[u32], system: &System) -> RouteMessage {
        let info = self.infos.get(ids.first().copied().unwrap_or(u32::MAX));
        let (kind, hops) = self.meaning(info);
        let more = ids.iter().skip(1).flat_map(|&id| self.infos.get(id).hops.iter());
        let mut hops = hops.iter().chain(more);
        let mut m = RouteMessage {
            family: key.family(),
            dst_len: key.prefix.len(),
            tos: key.tos,
            table: key.table,
            protocol: info.protocol,
            scope: info.scope,
            kind,
            flags: info.flags,
            dst: Some(key.prefix.addr()).filter(|_| key.prefix.len() != 0),
            priority: Some(info.metric).filter(|&metric| info.v6 || metric != 0),
            metrics: info.metrics.clone(),
            nh_id: Some(info.nh_id).filter(|&id| id != 0),
            prefsrc: info.prefsrc,
            ..Default::default()
        };
        // IPv6 shows a group of one as multipath, IPv4 does not.
        let group = info.v6 && self.nexthops.get(&info.nh_id).is_some_and(|nh| !nh.group.is_empty());
        match (hops.next(), hops.next()) {
            (None, _) => {}
            (Some(hop), None) if !group => {
                m.gateway = hop.gateway;
                m.oif = Some(hop.oif).filter(|&oif| oif != 0);
                m.encap = hop.encap.as_deref().cloned();
                m.flags |= u32::from(hop_flags(hop, system));
            }
            (first, second) => {
                let several = first.into_iter().chain(second).chain(hops);
                m.multipath = several.map(|hop| path_of(hop, system)).collect();
            }
        }
        if info.flow != 0 {
            m.others.push(RawAttr { raw_kind: RTA_FLOW, payload: info.flow.to_ne_bytes().to_vec() });
        }
        if info.v6 {
            m.others.push(RawAttr { raw_kind: RTA_CACHEINFO, payload: vec![0; CACHEINFO_LEN] });
            m.pref = Some(info.pref);
        }
        m
    }

    /// The next piece of the instance's own part of a dump of routes or nexthop objects, in
    /// datagrams of NLM_F_MULTI messages without NLMSG_DONE; `cursor` says when it was the last.
    /// The filters that the request names are honoured, whether the socket asked for strict
    /// checking or not.
    pub fn dump(&self, request: &Frame<'_>, port: u32, cursor: &mut DumpCursor, system: &System) -> Vec<Vec<u8>> {
        let routes = request.header.kind == RTM_GETROUTE;
        let mut out = Datagrams {
            done: Vec::new(),
            open: Vec::new(),
            kind: if routes { RTM_NEWROUTE } else { RTM_NEWNEXTHOP },
            flags: NLM_F_MULTI,
            seq: request.header.seq,
            port,
            octets: 0,
            steps: 0,
        };
        cursor.finished = true;
        match request.header.kind {
            RTM_GETROUTE => self.dump_routes(request, &mut out, cursor, system),
            RTM_GETNEXTHOP => {
                cursor.objects.get_or_insert(self.nexthop_changes);
                out.flags |= self.interrupted(cursor);
                self.dump_nexthops(request, &mut out, cursor);
            }
            _ => {}
        }
        out.finish()
    }

    /// NLM_F_DUMP_INTR where the objects have changed since the dump began.
    fn interrupted(&self, cursor: &DumpCursor) -> u16 {
        if cursor.objects.is_some_and(|then| then != self.nexthop_changes) { NLM_F_DUMP_INTR } else { 0 }
    }

    /// NLMSG_DONE of a dump that has come to its end.
    pub fn last_word(&self, cursor: &DumpCursor, done: &Bytes) -> Bytes {
        let mut done = done.to_vec();
        let flags = self.interrupted(cursor).to_ne_bytes();
        // nlmsg_flags, behind length and type.
        done.iter_mut().skip(6).zip(flags).for_each(|(octet, more)| *octet |= more);
        done.into()
    }

    fn dump_routes(&self, request: &Frame<'_>, out: &mut Datagrams, cursor: &mut DumpCursor, system: &System) {
        // Old programs send a `struct rtgenmsg` or `ifinfomsg`: only the family counts.
        let family = request.family().unwrap_or(AF_UNSPEC);
        let bare = RouteMessage { family, ..Default::default() };
        let filter = match request.payload.len() {
            0..RTMSG_LEN => bare,
            _ => RouteMessage::parse(request.payload).unwrap_or(bare),
        };
        if !matches!(family, AF_UNSPEC | AF_INET | AF_INET6) || filter.flags & (RTM_F_CLONED | RTM_F_PREFIX) != 0 {
            return;
        }
        let from = cursor.key.map_or(Bound::Unbounded, Bound::Included);
        for (key, list) in self.table.range((from, Bound::Unbounded)) {
            if !out.goes_on() {
                (cursor.key, cursor.finished) = (Some(*key), false);
                return;
            }
            let other_family = family != AF_UNSPEC && family != key.family();
            if other_family || filter.table != RT_TABLE_UNSPEC && filter.table != key.table {
                continue;
            }
            let list = list.as_slice();
            let mut at = 0;
            while let Some(&id) = list.get(at) {
                let ids = self.siblings(list, at);
                // As Linux: behind the last of its siblings, whatever stands between them.
                let last = ids.last().filter(|_| ids.len() > 1).and_then(|last| list.iter().rposition(|id| id == last));
                at = last.unwrap_or(at).max(at) + 1;
                if self.is_wanted(&filter, self.infos.get(id), &ids) {
                    let message = self.message(key, &ids, system);
                    out.push(|w| message.write(w));
                }
            }
        }
    }

    fn is_wanted(&self, filter: &RouteMessage, info: &Info, ids: &[u32]) -> bool {
        let said = |said: u8, is: u8| said == 0 || said == is;
        let uses =
            |index: u32| ids.iter().any(|&id| self.meaning(self.infos.get(id)).1.iter().any(|hop| hop.oif == index));
        said(filter.protocol, info.protocol)
            && said(filter.kind, info.kind)
            && filter.oif.is_none_or(|index| index == 0 || uses(index))
    }

    fn dump_nexthops(&self, request: &Frame<'_>, out: &mut Datagrams, cursor: &mut DumpCursor) {
        let family = request.family().unwrap_or(AF_UNSPEC);
        let bare = NexthopMessage { family, ..Default::default() };
        let filter = NexthopMessage::parse(request.payload).unwrap_or(bare);
        let named = |kind: u16| filter.others.iter().any(|attr| attr.as_attr().kind() == kind);
        // Whose bridge or VRF a link is, is not known here.
        if !matches!(family, AF_UNSPEC | AF_INET | AF_INET6) || named(NHA_MASTER) {
            return;
        }
        let oif = filter.oif.unwrap_or(0);
        for (&id, nh) in self.nexthops.range(cursor.id..) {
            if !out.goes_on() {
                (cursor.id, cursor.finished) = (id, false);
                return;
            }
            let group = !nh.group.is_empty();
            let wanted = !(named(NHA_GROUPS) && !group
                || filter.fdb && !nh.fdb
                || (oif != 0 || family != AF_UNSPEC) && group
                || oif != 0 && nh.oif != Some(oif)
                || family != AF_UNSPEC && nh.family != family);
            if wanted {
                out.push(|w| nh.write(w));
            }
        }
    }
}

/// What Linux shows of a hop: onlink as it was said, the rest as the link is.
fn hop_flags(hop: &Hop, system: &System) -> u8 {
    let state = match system.link(hop.oif) {
        None => 0,
        Some(link) if !link.up => RTNH_F_DEAD | RTNH_F_LINKDOWN,
        Some(link) if !link.running => RTNH_F_LINKDOWN,
        Some(_) => 0,
    };
    hop.flags | state
}

fn path_of(hop: &Hop, system: &System) -> PathHop {
    PathHop {
        flags: hop_flags(hop, system),
        weight: hop.weight,
        interface: hop.oif,
        gateway: hop.gateway,
        encap: hop.encap.as_deref().cloned(),
        others: Vec::new(),
    }
}
