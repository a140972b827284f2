//! Routes of others, which the loop is told of: virtual kernels look gateways up by them.
//!
//! Notifications are passed on as they come, and what a scan has read as a whole replaces all of
//! it. What was notified while the scan was under way is told once more behind it: to tell a thing
//! twice is no harm.

use super::thread::Worker;
use broker::io::{Change, KernelNews, OtherRoute};
use foldhash::fast::FixedState;
use std::hash::BuildHasher;
use vkernel::{MAX_OTHERS, other_routes};
use wire::netlink::RouteMessage;
use wire::netlink::consts::AF_INET;
use wire::netlink::fib::FibKey;

/// What a scan has gathered so far.
#[derive(Default)]
pub struct Gathered {
    all: Vec<(FibKey, OtherRoute)>,
    /// News since it began.
    late: Vec<KernelNews>,
    too_many: bool,
    /// Something of IPv4 may be missing.
    incomplete_v4: bool,
    /// What was last told as a whole, while nothing else has been told since.
    told: Option<u64>,
}

impl Gathered {
    /// A scan begins: of everything, or of IPv6 alone, to complete the one before.
    pub fn begin(&mut self, v6_alone: bool) {
        self.forget(|key| v6_alone && key.family() == AF_INET);
        if !v6_alone {
            self.late.clear();
            (self.too_many, self.incomplete_v4) = (false, false);
        }
    }

    /// Forgets what was gathered, but for these keys.
    pub fn forget(&mut self, but: impl Fn(&FibKey) -> bool) {
        self.all.retain(|(key, _)| but(key));
    }

    /// A scan has read it.
    pub fn add(&mut self, m: &RouteMessage) {
        let Some((key, routes, _)) = other_routes(m, 0) else { return };
        if self.all.len() + routes.len() > MAX_OTHERS {
            self.too_many = true;
            return;
        }
        self.all.extend(routes.into_iter().map(|route| (key, route)));
    }
}

impl Worker {
    /// Somebody else has made or deleted a route.
    pub(super) fn other_note(&mut self, m: &RouteMessage, made: bool, flags: u16) {
        let Some((key, routes, place)) = other_routes(m, flags) else { return };
        if made && !self.failed.is_empty() && routes.iter().any(|route| route.hops.iter().any(|(_, via)| !via)) {
            // Gateways may be on its link.
            self.scan_when_quiet();
        }
        let mut place = Some(place);
        for route in routes {
            // The first hop replaces, the others join it.
            let place = place.take().unwrap_or(broker::io::Place::Last);
            let news = match made {
                true => KernelNews::Change(Change::Route { key, route, place }),
                false => KernelNews::Change(Change::RouteGone { key, route }),
            };
            self.gathered.told = None;
            if self.scan.is_some() {
                match self.gathered.late.len() < MAX_OTHERS {
                    true => self.gathered.late.push(news.clone()),
                    false => self.gathered.too_many = true,
                }
            }
            self.tell(news);
        }
    }

    /// A scan is at its end.
    pub(super) fn tell_others(&mut self, incomplete_v4: bool, incomplete_v6: bool) {
        self.gathered.incomplete_v4 |= incomplete_v4;
        if self.gathered.incomplete_v4 || incomplete_v6 {
            return;
        }
        let all = std::mem::take(&mut self.gathered.all);
        let late = std::mem::take(&mut self.gathered.late);
        let hash = FixedState::default().hash_one((&all, self.gathered.too_many));
        if self.gathered.told == Some(hash) {
            return;
        }
        let all = Some(all).filter(|_| !self.gathered.too_many);
        self.tell(KernelNews::Change(Change::Routes(all)));
        self.gathered.told = Some(hash).filter(|_| late.is_empty());
        late.into_iter().for_each(|news| self.tell(news));
    }
}
