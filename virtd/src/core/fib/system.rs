//! The real system's links and addresses, which all virtual kernels share.

use super::super::io::{KernelNews, Link};
use std::collections::BTreeMap;
use std::net::IpAddr;
use wire::bgp::Prefix;
use wire::netlink::fib::FibRoute;

#[derive(Debug)]
struct Interface {
    link: Option<Link>,
    /// Addresses, with the length of the prefix that is on the link with each.
    addresses: Vec<(IpAddr, u8)>,
}

/// See the module's comment.
#[derive(Default, Debug)]
pub struct System {
    interfaces: BTreeMap<u32, Interface>,
}

impl System {
    /// Takes note of a change.
    pub fn apply(&mut self, news: &KernelNews) {
        match news {
            KernelNews::Link(link) => self.at(link.index).link = Some(link.clone()),
            KernelNews::LinkGone { index } => drop(self.interfaces.remove(index)),
            KernelNews::Address { index, address, length } => {
                let addresses = &mut self.at(*index).addresses;
                addresses.retain(|a| a != &(*address, *length));
                addresses.push((*address, *length));
            }
            KernelNews::AddressGone { index, address, length } => {
                self.at(*index).addresses.retain(|a| a != &(*address, *length));
            }
            KernelNews::Written { .. } | KernelNews::Event(_) => {}
        }
    }

    fn at(&mut self, index: u32) -> &mut Interface {
        self.interfaces.entry(index).or_insert(Interface { link: None, addresses: Vec::new() })
    }

    /// The link that a change is about, as it is now: to be asked before [`System::apply`].
    pub fn clone_link(&self, news: &KernelNews) -> Option<Link> {
        let index = match news {
            KernelNews::Link(link) => link.index,
            KernelNews::LinkGone { index }
            | KernelNews::Address { index, .. }
            | KernelNews::AddressGone { index, .. } => *index,
            KernelNews::Written { .. } | KernelNews::Event(_) => return None,
        };
        self.link(index).cloned()
    }

    /// A link by its index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.interfaces.get(&index)?.link.as_ref()
    }

    /// Whether any address of one IP version is left on a link.
    pub fn has_address(&self, index: u32, v6: bool) -> bool {
        self.interfaces.get(&index).is_some_and(|i| i.addresses.iter().any(|(a, _)| a.is_ipv6() == v6))
    }

    /// Whether an address is one of this system's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.interfaces.values().any(|i| i.addresses.iter().any(|(a, _)| *a == address))
    }

    /// The link over which a gateway is reached directly: `over`, if that is given, must be it.
    pub fn reach(&self, gateway: IpAddr, over: Option<u32>) -> Option<u32> {
        let on = |(address, length): &(IpAddr, u8)| {
            let (Some(net), Some(host)) =
                (Prefix::new(*address, *length), Prefix::new(gateway, if gateway.is_ipv6() { 128 } else { 32 }))
            else {
                return false;
            };
            net.covers(&host)
        };
        let up = |i: &Interface| i.link.as_ref().is_some_and(|l| l.up);
        let longest = |i: &Interface| i.addresses.iter().filter(|a| on(a)).map(|(_, length)| *length).max();
        let candidates = self.interfaces.iter().filter(|(index, i)| over.is_none_or(|o| o == **index) && up(i));
        candidates
            .filter_map(|(index, i)| Some((longest(i)?, *index)))
            .max_by_key(|(length, index)| (*length, u32::MAX - index))
            .map(|(_, i)| i)
    }

    /// A route in words, with the names of interfaces.
    pub fn describe(&self, route: &FibRoute) -> String {
        let mut text = route.to_string();
        let mut indexes: Vec<u32> = route.hops.iter().filter_map(|h| h.oif).collect();
        // #12 before #1.
        indexes.sort_unstable_by(|a, b| b.cmp(a));
        for index in indexes {
            if let Some(link) = self.link(index) {
                text = text.replace(&format!("dev #{index}"), &format!("dev {}", link.name));
            }
        }
        text
    }
}
