//! The real kernel's routes that are neither virtd's nor an instance's, as far as gateways are
//! looked up by them.

use crate::io::{OtherRoute, Place};
use std::collections::BTreeMap;
use std::net::IpAddr;
use wire::netlink::RouteMessage;
use wire::netlink::consts::{
    AF_INET6, NLM_F_APPEND, NLM_F_REPLACE, RT_SCOPE_HOST, RT_SCOPE_LINK, RT_TABLE_LOCAL, RTM_F_CLONED,
};
use wire::netlink::fib::FibKey;

/// So many are kept; of more (another daemon's full table) none is, and gateways are taken as they
/// come.
pub const MAX_OTHERS: usize = 1 << 16;

/// What a message of the kernel's says about routes that gateways can be looked up by: IPv4's of
/// link or host scope, all of IPv6, which gives its hops one by one; not those for this host's own
/// addresses, which are known from the addresses. `flags`: the message's own.
pub fn other_routes(m: &RouteMessage, flags: u16) -> Option<(FibKey, Vec<OtherRoute>, Place)> {
    let v6 = m.family == AF_INET6;
    let key = FibKey::from_message(m).ok()?;
    let no_use = if v6 { m.src_len != 0 } else { m.tos != 0 || m.scope < RT_SCOPE_LINK };
    if no_use || key.table == RT_TABLE_LOCAL || m.flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut hops: Vec<(u32, bool)> = m.multipath.iter().map(|hop| (hop.interface, hop.gateway.is_some())).collect();
    if hops.is_empty() {
        hops.push((m.oif.unwrap_or(0), m.gateway.is_some()));
    }
    let route = |hops| OtherRoute {
        protocol: m.protocol,
        kind: m.kind,
        scope: m.scope,
        metric: m.priority.unwrap_or(0),
        object: m.nh_id.is_some(),
        hops,
    };
    let place = match flags {
        _ if flags & NLM_F_REPLACE != 0 => Place::Instead,
        _ if v6 || flags & NLM_F_APPEND != 0 => Place::Last,
        _ => Place::First,
    };
    let routes = if v6 { hops.into_iter().map(|hop| route(vec![hop])).collect() } else { vec![route(hops)] };
    Some((key, routes, place))
}

/// How many keys there are of each prefix length, so that a longest match asks for no more.
#[derive(Debug)]
pub(crate) struct Lengths {
    v4: [u32; 33],
    v6: [u32; 129],
}

impl Default for Lengths {
    fn default() -> Lengths {
        Lengths { v4: [0; 33], v6: [0; 129] }
    }
}

impl Lengths {
    pub(crate) fn count(&mut self, key: &FibKey, by: i32) {
        let v6 = key.prefix.addr().is_ipv6();
        let lengths: &mut [u32] = if v6 { &mut self.v6 } else { &mut self.v4 };
        if let Some(count) = lengths.get_mut(usize::from(key.prefix.len())) {
            *count = count.saturating_add_signed(by);
        }
    }

    /// The lengths that either has keys of which may cover the address, longest first.
    pub(crate) fn either<'a>(&'a self, other: &'a Lengths, address: IpAddr) -> impl Iterator<Item = u8> + 'a {
        let (mine, theirs): (&[u32], &[u32]) =
            if address.is_ipv4() { (&self.v4, &other.v4) } else { (&self.v6, &other.v6) };
        let counts = mine.iter().zip(theirs).enumerate().rev();
        counts.filter(|(_, (a, b))| **a + **b > 0).filter_map(|(len, _)| u8::try_from(len).ok())
    }
}

/// See the module's comment.
#[derive(Default, Debug)]
pub(crate) struct Others {
    routes: BTreeMap<FibKey, Vec<OtherRoute>>,
    lengths: Lengths,
    count: usize,
    /// Whether they are all here.
    complete: bool,
}

impl Others {
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// Those of one key, lowest metric first.
    pub(crate) fn at(&self, key: &FibKey) -> &[OtherRoute] {
        self.routes.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Puts these in the place of all.
    pub(crate) fn set(&mut self, routes: Option<&[(FibKey, OtherRoute)]>) {
        *self = Others { complete: routes.is_some(), ..Others::default() };
        for (key, route) in routes.unwrap_or_default() {
            self.add(*key, route.clone(), Place::Last);
        }
    }

    /// Puts these in the place of all, which are known to be not all that there are.
    pub(crate) fn guess(&mut self, routes: &[(FibKey, OtherRoute)]) {
        self.set(Some(routes));
        self.complete = false;
    }

    pub(crate) fn add(&mut self, key: FibKey, route: OtherRoute, place: Place) {
        let list = self.routes.entry(key).or_default();
        let before = list.len();
        if place == Place::Instead {
            let mut replaced = 0;
            list.retain(|old| {
                let goes = old.metric == route.metric && (key.prefix.addr().is_ipv6() || replaced == 0);
                replaced += usize::from(goes);
                !goes
            });
        }
        if !list.contains(&route) {
            let behind =
                |old: &OtherRoute| old.metric < route.metric || old.metric == route.metric && place == Place::Last;
            let at = list.partition_point(behind);
            list.insert(at, route);
        }
        self.count = (self.count + list.len()).saturating_sub(before);
        if before == 0 {
            self.lengths.count(&key, 1);
        }
        if self.count > MAX_OTHERS {
            *self = Others::default();
        }
    }

    pub(crate) fn remove(&mut self, key: &FibKey, route: &OtherRoute) {
        let Some(list) = self.routes.get_mut(key) else { return };
        let before = list.len();
        list.retain(|old| old != route);
        self.count = self.count.saturating_sub(before - list.len());
        if list.is_empty() {
            self.routes.remove(key);
            self.lengths.count(key, -1);
        }
    }

    /// A link has gone, is down, or has lost its last IPv4 address: what Linux removes then, in
    /// IPv4 without a word.
    pub(crate) fn drop_dead(&mut self, index: u32, v6: bool, dead: impl Fn(u32) -> bool) {
        let doomed = |key: &FibKey, route: &OtherRoute| {
            let uses = route.hops.iter().any(|hop| hop.0 == index);
            let family = v6 || key.prefix.addr().is_ipv4();
            family && uses && route.scope != RT_SCOPE_HOST && route.hops.iter().all(|hop| dead(hop.0))
        };
        let gone: Vec<(FibKey, OtherRoute)> = self
            .routes
            .iter()
            .flat_map(|(key, list)| list.iter().map(move |route| (*key, route)))
            .filter(|(key, route)| doomed(key, route))
            .map(|(key, route)| (key, route.clone()))
            .collect();
        gone.iter().for_each(|(key, route)| self.remove(key, route));
    }
}
