//! Which route leads to a gateway (fib_table_lookup, fib6_table_lookup), among the instance's own
//! and those that the real kernel has of others.

use super::super::system::{LOOPBACK, System};
use super::check::INVALID_GATEWAY;
use super::info::Info;
use super::{Refusal, VirtualKernel};
use collections::Recent;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr};
use wire::bgp::Prefix;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, is_reject};

/// A route that an address matches, own or not.
struct Match {
    metric: u32,
    kind: u8,
    scope: u8,
    /// RFC 4191 preference.
    pref: u8,
    /// It uses a nexthop object.
    object: bool,
    /// That drops.
    blackhole: bool,
    /// IPv6: RTF_REJECT.
    rejects: bool,
    /// Interface, and whether there is a gateway.
    hops: Vec<(u32, bool)>,
}

/// Ways to gateways that are remembered. Of a table's routes most have the way of one of the last
/// few.
pub(super) const WAYS: usize = 8;

/// The last ways that were found.
#[derive(Default, Debug)]
pub(super) struct Ways(RefCell<Recent<Known, WAYS>>);

impl Ways {
    /// Whether it still stands.
    pub(super) fn contain(&self, way: &Known) -> bool {
        self.0.borrow().iter().any(|known| known == way)
    }

    /// The routes of this key have changed: what may have led over them has to be found anew.
    pub(super) fn changed(&self, key: &FibKey) {
        self.0.borrow_mut().retain(|way| !way.may_lead_over(key));
    }

    /// The one that was found, if it still stands.
    pub(super) fn find(&self, asked: &Asked) -> Option<Known> {
        self.0.borrow_mut().find(|way| way.asked == *asked).copied()
    }

    fn found(&self, way: Known) {
        let mut ways = self.0.borrow_mut();
        ways.retain(|known| known.asked != way.asked);
        ways.push(way);
    }
}

/// A way that was found to a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    asked: Asked,
    /// How often links, addresses and others' routes, and the instance's own objects, had changed.
    changes: (u64, u64),
    /// The interface, and the scope of the route there.
    found: (u32, u8),
}

/// What a way is asked for: gateway, interface or 0, table, scope of the route (0 in IPv6).
pub(super) type Asked = (IpAddr, u32, u32, u8);

impl Known {
    /// Whether a change of this key's routes may change the way.
    pub(super) fn may_lead_over(&self, key: &FibKey) -> bool {
        let gateway = self.asked.0;
        gateway.is_ipv4() == key.prefix.addr().is_ipv4()
            && Prefix::new(gateway, key.prefix.len()).is_some_and(|covering| covering == key.prefix)
    }
}

/// What an IPv4 lookup finds.
pub(super) struct WayV4 {
    /// Its type.
    pub kind: u8,
    /// Its scope.
    pub scope: u8,
    /// The hop's interface.
    pub oif: u32,
}

/// What an IPv6 lookup finds.
pub(super) struct WayV6 {
    /// RTF_REJECT.
    pub rejects: bool,
    /// Its type.
    pub kind: u8,
    /// Its hop has a gateway.
    pub gateway: bool,
    /// The hop's interface.
    pub oif: u32,
    /// Its destination is the unspecified address.
    pub default: bool,
}

/// A hop's score (rt6_score_route): the interface first, then RFC 4191's preference. `None`: does
/// not come into question.
fn score(oif: u32, on: Option<u32>, strict: bool, pref: u8) -> Option<u8> {
    let matches = on.is_none_or(|on| on == oif);
    (matches || !strict).then_some(u8::from(matches) << 1 | (pref ^ 2) << 2)
}

impl VirtualKernel {
    /// The way that was found before, where nothing has changed since; otherwise what `look` finds.
    pub(super) fn known_way(
        &self,
        asked: Asked,
        system: &System,
        look: impl FnOnce() -> Result<(u32, u8), Refusal>,
    ) -> Result<(u32, u8), Refusal> {
        match self.ways.find(&asked) {
            Some(known) if self.is_current(&known, system) => Ok(known.found),
            _ => {
                let found = look()?;
                self.ways.found(Known { asked, changes: self.changes(system), found });
                Ok(found)
            }
        }
    }

    fn changes(&self, system: &System) -> (u64, u64) {
        (system.changes(), self.nexthop_changes)
    }

    /// Whether nothing has changed since that a way hangs on; own routes are looked at when they
    /// are put in place.
    pub(super) fn is_current(&self, way: &Known, system: &System) -> bool {
        way.changes == self.changes(system)
    }

    /// The routes of one key, lowest metric first.
    fn matches(&self, key: &FibKey, system: &System) -> Vec<Match> {
        let others = system.others().at(key).iter().map(|other| Match {
            metric: other.metric,
            kind: other.kind,
            scope: other.scope,
            pref: 0,
            object: other.object,
            blackhole: false,
            rejects: is_reject(other.kind),
            hops: other.hops.clone(),
        });
        let own = self.table.get(key).map(|list| list.as_slice()).unwrap_or_default();
        let own = own.iter().map(|&id| self.as_match(key, self.infos.get(id)));
        let mut all: Vec<Match> = others.chain(own).collect();
        all.sort_by_key(|m| m.metric);
        all
    }

    fn as_match(&self, key: &FibKey, info: &Info) -> Match {
        let object = self.nexthops.get(&info.nh_id);
        let hops = self.meaning(info).1;
        let hops: Vec<(u32, bool)> = hops.iter().map(|hop| (hop.oif, hop.gateway.is_some())).collect();
        // Linux makes a route over the loopback interface one that drops; it does not look into
        // nexthop objects for that.
        let looped = info.nh_id == 0
            && hops.first() == Some(&(LOOPBACK, false))
            && !matches!(info.kind, RTN_LOCAL | RTN_ANYCAST)
            && key.prefix.addr() != IpAddr::V6(Ipv6Addr::LOCALHOST);
        Match {
            metric: info.metric,
            kind: info.kind,
            scope: info.scope,
            pref: info.pref,
            object: info.nh_id != 0,
            blackhole: object.is_some_and(|nh| self.members(nh).any(|nh| nh.blackhole)),
            rejects: is_reject(info.kind) || looped,
            hops,
        }
    }

    /// The keys of one table that cover an address, longest first.
    fn covering<'a>(
        &'a self,
        table: u32,
        address: IpAddr,
        system: &'a System,
    ) -> impl Iterator<Item = (FibKey, Vec<Match>)> + 'a {
        let lengths = self.lengths.either(system.others().lengths(), address);
        lengths.filter_map(move |len| {
            let key = FibKey { table, prefix: Prefix::new(address, len)?, tos: 0 };
            let all = self.matches(&key, system);
            (!all.is_empty()).then_some((key, all))
        })
    }

    /// What a gateway matches in one table, among the routes that have this scope at least.
    ///
    /// # Errors
    /// A route there drops.
    pub(super) fn lookup_v4(
        &self,
        gateway: IpAddr,
        on: Option<u32>,
        table: u32,
        least: u8,
        system: &System,
    ) -> Result<Option<WayV4>, Refusal> {
        let mut missed = None;
        'keys: for (key, all) in self.covering(table, gateway, system) {
            // Prefixes that differ in nothing but their length share a leaf of Linux's trie, and it
            // gives up the whole leaf where a nexthop object does not fit.
            if missed == Some(key.prefix.addr()) {
                continue;
            }
            for m in all.iter().filter(|m| m.scope >= least) {
                let errno = match m.kind {
                    RTN_BLACKHOLE => libc::EINVAL,
                    RTN_UNREACHABLE => libc::EHOSTUNREACH,
                    RTN_PROHIBIT => libc::EACCES,
                    RTN_THROW => libc::ENETUNREACH,
                    _ if m.blackhole => libc::EINVAL,
                    _ => 0,
                };
                if errno != 0 {
                    return Err(Refusal::new(errno, INVALID_GATEWAY));
                }
                // A route of host scope is not dead where its link is down.
                let alive = |oif: u32| system.is_up(oif) || m.scope == RT_SCOPE_HOST;
                match m.hops.iter().find(|hop| alive(hop.0) && on.is_none_or(|on| on == hop.0)) {
                    Some(hop) => return Ok(Some(WayV4 { kind: m.kind, scope: m.scope, oif: hop.0 })),
                    None if m.object => {
                        missed = Some(key.prefix.addr());
                        continue 'keys;
                    }
                    None => {}
                }
            }
        }
        Ok(None)
    }

    /// What an address matches in one table. `strict`: only hops over that interface count;
    /// otherwise they count more.
    pub(super) fn lookup_v6(
        &self,
        address: IpAddr,
        on: Option<u32>,
        table: u32,
        strict: bool,
        system: &System,
    ) -> Option<WayV6> {
        self.covering(table, address, system).find_map(|(key, all)| {
            let lowest = all.first()?.metric;
            let (first, rest): (Vec<&Match>, Vec<&Match>) = all.iter().partition(|m| m.metric == lowest);
            let (m, oif, gateway) =
                best_v6(&first, on, strict, system).or_else(|| best_v6(&rest, on, strict, system))?;
            Some(WayV6 {
                rejects: m.rejects || m.blackhole,
                kind: m.kind,
                gateway,
                oif,
                default: key.prefix.addr().is_unspecified(),
            })
        })
    }
}

/// __find_rr_leaf: the first with the best score; an object that drops ends the search.
fn best_v6<'a>(all: &[&'a Match], on: Option<u32>, strict: bool, system: &System) -> Option<(&'a Match, u32, bool)> {
    let mut best: Option<(u8, (&Match, u32, bool))> = None;
    for m in all {
        if m.blackhole {
            return Some((m, LOOPBACK, false));
        }
        let alive = m.hops.iter().filter(|hop| system.is_up(hop.0));
        let scored = alive.filter_map(|hop| Some((score(hop.0, on, strict, m.pref)?, (*m, hop.0, hop.1))));
        // Of a group the first that is better than what there was.
        if let Some(better) = scored.into_iter().find(|(score, _)| best.as_ref().is_none_or(|(best, _)| score > best)) {
            best = Some(better);
        }
    }
    best.map(|(_, way)| way)
}
