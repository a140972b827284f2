//! What routes have in common is kept once, as Linux does (`struct fib_info`): 200,000 routes over
//! a few next hops are 200,000 numbers.

use super::Refusal;
use collections::Slots;
use foldhash::fast::FixedState;
use std::cell::OnceCell;
use std::hash::BuildHasher;
use std::mem::size_of;
use std::net::IpAddr;
use wire::netlink::attr::{Encap, RawAttr};
use wire::netlink::consts::{RTAX_CC_ALGO, RTAX_FASTOPEN_NO_COOKIE};
use wire::netlink::fib::{FibHop, FibKey};

/// A next hop, interface filled in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Hop {
    pub gateway: Option<IpAddr>,
    /// 0 for none: an IPv4 route that drops.
    pub oif: u32,
    pub weight: u16,
    /// RTNH_F_ONLINK or nothing.
    pub flags: u8,
    pub encap: Option<Box<Encap>>,
}

impl Hop {
    pub(super) fn to_fib(&self, onlink: u8) -> FibHop {
        FibHop {
            gateway: self.gateway,
            oif: Some(self.oif).filter(|&index| index != 0),
            encap: self.encap.as_deref().cloned(),
            weight: u32::from(self.weight),
            onlink: self.flags & onlink != 0,
        }
    }

    /// The same way for a packet: what IPv6 calls a duplicate.
    pub(super) fn is_same_way(&self, other: &Hop) -> bool {
        (self.gateway, self.oif, &self.encap) == (other.gateway, other.oif, &other.encap)
    }
}

/// All of a route but its key. Of IPv6 multipath it is one hop.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Info {
    pub v6: bool,
    /// The table, in IPv4: there Linux shares these within a table only.
    pub table: u32,
    pub kind: u8,
    pub scope: u8,
    pub protocol: u8,
    /// RFC 4191 preference.
    pub pref: u8,
    /// rtm_flags as they were said.
    pub flags: u32,
    pub metric: u32,
    /// A nexthop object, 0 for none.
    pub nh_id: u32,
    /// IPv4 realm, 0 for none.
    pub flow: u32,
    pub prefsrc: Option<IpAddr>,
    /// RTAX_*, sorted, each once.
    pub metrics: Vec<RawAttr>,
    /// Empty where the nexthop object has them.
    pub hops: Vec<Hop>,
}

impl Info {
    /// Whether an IPv6 route joins others of its metric into a multipath route
    /// (rt6_qualify_for_ecmp).
    pub(super) fn joins(&self) -> bool {
        self.v6 && self.nh_id == 0 && self.hops.first().is_some_and(|hop| hop.gateway.is_some())
    }

    /// Whether IPv6 takes the two for the same route (rt6_duplicate_nexthop); their metrics are the
    /// same.
    pub(super) fn duplicates(&self, other: &Info) -> bool {
        match (self.hops.first(), other.hops.first()) {
            _ if self.nh_id != 0 || other.nh_id != 0 => self.nh_id == other.nh_id,
            (Some(one), Some(two)) => one.is_same_way(two),
            _ => false,
        }
    }

    pub(super) fn uses(&self, index: u32) -> bool {
        self.hops.iter().any(|hop| hop.oif == index)
    }

    fn has_both(&self) -> bool {
        !self.v6 && self.nh_id != 0 && !self.metrics.is_empty()
    }

    fn memory_bytes(&self) -> usize {
        let encaps = self.hops.iter().filter_map(|hop| hop.encap.as_ref());
        let encaps: usize = encaps.map(|encap| size_of::<Encap>() + encap.data.capacity()).sum();
        let metrics: usize = self.metrics.iter().map(|m| size_of::<RawAttr>() + m.payload.capacity()).sum();
        self.hops.capacity() * size_of::<Hop>() + encaps + metrics
    }
}

/// RTA_METRICS as the kernel keeps it: the last of each kind counts, kind 0 says nothing.
pub(super) fn metrics(said: &[RawAttr]) -> Result<Vec<RawAttr>, Refusal> {
    let mut metrics = Vec::new();
    for metric in said.iter().rev() {
        let attr = metric.as_attr();
        let kind = attr.kind();
        if kind > RTAX_FASTOPEN_NO_COOKIE {
            return Err(Refusal::invalid("Invalid metric type"));
        }
        if kind != RTAX_CC_ALGO && kind != 0 && attr.u32().is_err() {
            return Err(Refusal::invalid("Invalid attribute in metrics"));
        }
        if kind != 0 && !metrics.iter().any(|m: &RawAttr| m.raw_kind == kind) {
            metrics.push(RawAttr { raw_kind: kind, payload: metric.payload.clone() });
        }
    }
    metrics.sort();
    Ok(metrics)
}

/// Keys that are remembered of one.
const FEW: usize = 32;

#[derive(Debug)]
struct Kept {
    info: Info,
    /// Routes that have it.
    users: u32,
    /// The larger, the younger.
    born: u64,
    /// The keys whose routes have it, as long as they are few: what little goes with a link is
    /// found without walking through a full table.
    keys: Vec<FibKey>,
    /// There were more than [`FEW`].
    many: bool,
    /// What it says to the vote, once that was asked for.
    canonical: OnceCell<Box<[u8]>>,
}

const _: () = assert!(Slots::<Kept>::SLOT_BYTES == size_of::<Kept>());

/// All that are in use, by number.
#[derive(Debug)]
pub(super) struct Infos {
    all: Slots<Kept>,
    hasher: FixedState,
    births: u64,
    /// Those of IPv4 routes that use an object and have metrics.
    with_both: usize,
    /// What an unknown number stands for; there are none.
    none: Info,
}

impl Infos {
    pub(super) fn new() -> Infos {
        Infos { all: Slots::default(), hasher: FixedState::default(), births: 0, with_both: 0, none: Info::default() }
    }

    pub(super) fn get(&self, id: u32) -> &Info {
        self.all.get(id).map_or(&self.none, |kept| &kept.info)
    }

    /// What a route that has this and no more says to the vote, in canonical octets; `write` is
    /// asked once.
    pub(super) fn canonical(&self, id: u32, write: impl FnOnce() -> Vec<u8>) -> &[u8] {
        self.all.get(id).map_or(&[], |kept| kept.canonical.get_or_init(|| write().into()))
    }

    /// The number of an equal one, which has one user more now.
    pub(super) fn intern(&mut self, info: Info) -> u32 {
        if let Some(id) = self.find(&info) {
            self.retain(id);
            return id;
        }
        self.births += 1;
        self.with_both += usize::from(info.has_both());
        let (born, keys, canonical) = (self.births, Vec::new(), OnceCell::new());
        let kept = Kept { info, users: 1, born, keys, many: false, canonical };
        self.all.insert(kept, |kept| self.hasher.hash_one(&kept.info))
    }

    fn find(&self, info: &Info) -> Option<u32> {
        self.all.find(self.hasher.hash_one(info), |kept| kept.info == *info)
    }

    /// What an IPv4 route over an object that says no metrics shares (fib_find_info_nh): the
    /// youngest that is alike in all but them.
    pub(super) fn alike(&self, info: &Info) -> Option<&Info> {
        if self.with_both == 0 {
            return self.find(info).map(|id| self.get(id));
        }
        let alike = |other: &Info| *info == Info { metrics: info.metrics.clone(), flow: info.flow, ..other.clone() };
        let same_object = self.all.iter().map(|(_, kept)| kept).filter(|kept| kept.info.nh_id == info.nh_id);
        same_object.filter(|kept| alike(&kept.info)).max_by_key(|kept| kept.born).map(|kept| &kept.info)
    }

    pub(super) fn retain(&mut self, id: u32) {
        if let Some(kept) = self.all.get_mut(id) {
            kept.users = kept.users.saturating_add(1);
        }
    }

    /// One user less; with the last it goes.
    pub(super) fn release(&mut self, id: u32) {
        let Some(kept) = self.all.get_mut(id) else { return };
        kept.users = kept.users.saturating_sub(1);
        if kept.users == 0 {
            self.with_both = self.with_both.saturating_sub(usize::from(kept.info.has_both()));
            self.all.remove(id, |kept| self.hasher.hash_one(&kept.info));
        }
    }

    /// The routes of a key have it now.
    pub(super) fn joined(&mut self, id: u32, key: &FibKey) {
        let Some(kept) = self.all.get_mut(id).filter(|kept| !kept.many) else { return };
        if kept.keys.len() < FEW {
            kept.keys.push(*key);
        } else {
            (kept.keys, kept.many) = (Vec::new(), true);
        }
    }

    /// They have it no more.
    pub(super) fn left(&mut self, id: u32, key: &FibKey) {
        if let Some(kept) = self.all.get_mut(id) {
            kept.keys.retain(|other| other != key);
        }
    }

    /// The keys whose routes have it, in no order; `None`: too many to remember.
    pub(super) fn keys(&self, id: u32) -> Option<&[FibKey]> {
        self.all.get(id).filter(|kept| !kept.many).map(|kept| kept.keys.as_slice())
    }

    /// How many routes have it.
    pub(super) fn users(&self, id: u32) -> usize {
        self.all.get(id).map_or(0, |kept| kept.users as usize)
    }

    /// Which one a number stands for: no two are born at the same time. `None`: for none.
    pub(super) fn born(&self, id: u32) -> Option<u64> {
        self.all.get(id).map(|kept| kept.born)
    }

    /// Those that are in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Info)> {
        self.all.iter().map(|(id, kept)| (id, &kept.info))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let keys = |kept: &Kept| kept.keys.capacity() * size_of::<FibKey>();
        let octets = |kept: &Kept| kept.canonical.get().map_or(0, |octets| octets.len());
        let inner = self.all.iter().map(|(_, kept)| kept.info.memory_bytes() + keys(kept) + octets(kept));
        self.all.memory_bytes() + inner.sum::<usize>()
    }
}

/// The routes of one key: numbers of [`Infos`], lowest metric first.
#[derive(Debug)]
pub(super) enum List {
    One(u32),
    Many(Box<[u32]>),
}

impl List {
    pub(super) fn as_slice(&self) -> &[u32] {
        match self {
            List::One(id) => std::slice::from_ref(id),
            List::Many(ids) => ids,
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            List::One(_) => 0,
            List::Many(ids) => ids.len() * 4,
        }
    }
}

impl From<&[u32]> for List {
    fn from(ids: &[u32]) -> List {
        match ids {
            [id] => List::One(*id),
            _ => List::Many(ids.into()),
        }
    }
}
