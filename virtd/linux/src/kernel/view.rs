//! The links and addresses that the loop was told of, so that it is told of changes only, and of
//! what went unseen.

use super::socket::{Received, RouteSocket};
use anyhow::{Result, bail};
use broker::io::{Change, KernelNews, Link};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use wire::bgp::Prefix;
use wire::netlink::addr::IFADDRMSG_LEN;
use wire::netlink::consts::*;
use wire::netlink::link::IFINFOMSG_LEN;
use wire::netlink::{AddrMessage, Frame, Frames, LinkMessage};

/// Times that a dump of links or addresses is begun anew because something changed in its midst.
const MAX_TRIES: usize = 5;

/// An address as news knows it: interface, address, length of its prefix.
type Address = (u32, IpAddr, u8);

/// See the module's comment.
#[derive(Default)]
pub struct View {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<Address>,
}

fn change(frame: &Frame<'_>) -> Option<Change> {
    match frame.header.kind {
        RTM_NEWLINK | RTM_DELLINK => {
            let link = LinkMessage::parse(frame.payload).ok()?;
            // Messages of a bridge, or of IPv6's side of a link, are about that alone.
            if link.family != AF_UNSPEC {
                return None;
            }
            if frame.header.kind == RTM_DELLINK {
                return Some(Change::LinkGone { index: link.index });
            }
            let (up, running) = (link.is_up(), link.is_running());
            Some(Change::Link(Link { index: link.index, name: link.name.unwrap_or_default(), up, running }))
        }
        RTM_NEWADDR | RTM_DELADDR => {
            let addr = AddrMessage::parse(frame.payload).ok()?;
            let (index, address, length) = (addr.index, addr.own()?, addr.prefix_len);
            Some(match frame.header.kind {
                RTM_NEWADDR => Change::Address { index, address, length },
                _ => Change::AddressGone { index, address, length },
            })
        }
        _ => None,
    }
}

impl View {
    /// The news in a notification; `None` where it is about something else, or the loop knows
    /// already.
    pub fn note(&mut self, frame: &Frame<'_>) -> Option<KernelNews> {
        change(frame).and_then(|change| self.apply(change))
    }

    fn apply(&mut self, change: Change) -> Option<KernelNews> {
        let is_new = match &change {
            Change::Link(link) => self.links.insert(link.index, link.clone()).as_ref() != Some(link),
            Change::LinkGone { index } => self.links.remove(index).is_some(),
            Change::Address { index, address, length } => self.addresses.insert((*index, *address, *length)),
            Change::AddressGone { index, address, length } => self.addresses.remove(&(*index, *address, *length)),
            Change::Route { .. } | Change::RouteGone { .. } | Change::Routes(_) => false,
        };
        is_new.then_some(KernelNews::Change(change))
    }

    /// Reads all links and addresses from the kernel; what differs from what was known is appended
    /// to `news`.
    ///
    /// # Errors
    /// What stands in the way of it. The socket may be in the middle of a dump then.
    pub fn read(&mut self, dumper: &mut RouteSocket, news: &mut Vec<KernelNews>) -> Result<()> {
        let mut fresh = View::default();
        for (kind, len) in [(RTM_GETLINK, IFINFOMSG_LEN), (RTM_GETADDR, IFADDRMSG_LEN)] {
            let mut changes = Vec::new();
            for _ in 0..MAX_TRIES {
                changes.clear();
                if !read_dump(dumper, kind, len, &mut changes)? {
                    break;
                }
            }
            for change in changes {
                let _known = fresh.apply(change.clone());
                news.extend(self.apply(change));
            }
        }
        let addresses: Vec<Address> = self.addresses.difference(&fresh.addresses).copied().collect();
        let links: Vec<u32> = self.links.keys().filter(|i| !fresh.links.contains_key(*i)).copied().collect();
        let address_gone = |(index, address, length)| Change::AddressGone { index, address, length };
        let link_gone = |index| Change::LinkGone { index };
        let gone = addresses.into_iter().map(address_gone).chain(links.into_iter().map(link_gone));
        for change in gone {
            news.extend(self.apply(change));
        }
        Ok(())
    }

    /// Of these addresses, those that are in no subnet of this host's links.
    pub fn beyond(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let mut beyond = addresses.clone();
        let subnets = self.addresses.iter().filter_map(|(_, address, length)| Prefix::new(*address, *length));
        for subnet in subnets {
            for address in inside(&subnet, addresses) {
                beyond.remove(address);
            }
        }
        beyond
    }
}

/// Of these addresses, those inside a prefix.
pub fn inside<'a>(prefix: &Prefix, addresses: &'a BTreeSet<IpAddr>) -> impl Iterator<Item = &'a IpAddr> {
    let prefix = *prefix;
    let of_it = move |address: &&IpAddr| Prefix::new(**address, prefix.len()) == Some(prefix);
    addresses.range(prefix.addr()..).take_while(of_it)
}

/// True where the kernel says that something changed meanwhile (NLM_F_DUMP_INTR).
fn read_dump(dumper: &mut RouteSocket, kind: u16, fixed_len: usize, changes: &mut Vec<Change>) -> Result<bool> {
    let seq = dumper.ask_dump(kind, AF_UNSPEC, fixed_len)?;
    let mut interrupted = false;
    loop {
        let Received::Datagram(bytes) = dumper.receive()? else { bail!("a dump was cut short") };
        for frame in Frames::new(bytes) {
            let frame = frame?;
            if frame.header.seq != seq {
                continue;
            }
            interrupted |= frame.header.flags & NLM_F_DUMP_INTR != 0;
            match (frame.header.kind, frame.errno()) {
                (NLMSG_DONE, None | Some(0)) => return Ok(interrupted),
                (NLMSG_DONE | NLMSG_ERROR, errno) => {
                    bail!(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO)))
                }
                _ => changes.extend(change(&frame)),
            }
        }
    }
}
