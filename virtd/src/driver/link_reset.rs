//! Shows an instance that a link goes down and comes up again ([`broker::fib`],
//! `link_reset_ms`): notifications made of what the kernel says of the link and its addresses now.

use super::*;
use bytes::Bytes;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use wire::netlink::consts::*;
use wire::netlink::link::IFINFOMSG_LEN;
use wire::netlink::message::Writer;
use wire::netlink::{AddrMessage, Attrs, Frame, Frames, LinkMessage};

/// Octets of a datagram of the kernel's; a link with many virtual functions is told in long ones.
const BUFFER: usize = 64 << 10;
/// Datagrams of addresses that are read at most; each has up to some hundred addresses.
const MOST: usize = 4096;
/// Octets of `struct ifaddrmsg`.
const IFADDRMSG: [u8; 8] = [0; 8];
/// IF_OPER_DOWN (RFC 2863): what IFLA_OPERSTATE says of a link that is down.
const OPER_DOWN: u8 = 2;

/// What one instance is shown, in order: the multicast group, the notification.
type Notes = Vec<(u32, Bytes)>;

impl Driver {
    /// Those sockets of the instance that listen to links see one go down; or come up, and those
    /// that listen to addresses then see its own.
    pub(super) fn link_reset(&mut self, instance: InstanceId, index: u32, up: bool) {
        let notes = match ask(index, up) {
            Ok(notes) => notes,
            Err(errno) => {
                let who = self.instance_name(instance);
                let text = format!("{who} cannot be shown that link {index} goes down and up: errno {}", errno as i32);
                return self.warn("link-reset-failed", text);
            }
        };
        // The change itself first. The kernel has told everybody of it by the time that it answers
        // us.
        let mine = self.netlinks.iter().filter(|(_, e)| e.instance == instance).map(|(id, _)| *id);
        let mine: Vec<_> = mine.collect();
        mine.into_iter().for_each(|id| self.kernel_readable(id));
        notes.iter().for_each(|(group, bytes)| self.netlink_notify(instance, *group, bytes));
    }
}

/// Asks the kernel for the link and its addresses. Its answers are there when the request is sent,
/// but for the later parts of a dump, which it writes when the earlier ones are read.
fn ask(index: u32, up: bool) -> nix::Result<Notes> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asking = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    let mut buffer = vec![0; BUFFER];
    let mut fixed = [0; IFINFOMSG_LEN];
    if let Some(at) = fixed.get_mut(4..8) {
        at.copy_from_slice(&index.to_ne_bytes());
    }
    let request = |kind, flags, fixed: &[u8]| {
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, NLM_F_REQUEST | flags, 1, 0);
        w.put(fixed);
        // A header and 16 octets at most.
        let _ = w.finish();
        send(asking.as_raw_fd(), &bytes, MsgFlags::empty())
    };
    request(RTM_GETLINK, 0, &fixed)?;
    let n = recv(asking.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let frame = Frames::new(buffer.get(..n).unwrap_or_default()).find_map(Result::ok);
    let Some(link) = frame.and_then(|f| of_link(&f, up)) else { return Ok(Notes::new()) };
    let mut notes = vec![(RTNLGRP_LINK, link)];
    if !up {
        return Ok(notes);
    }
    request(RTM_GETADDR, NLM_F_DUMP, &IFADDRMSG)?;
    for _ in 0..MOST {
        let n = recv(asking.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for frame in Frames::new(buffer.get(..n).unwrap_or_default()).map_while(Result::ok) {
            if matches!(frame.header.kind, NLMSG_DONE | NLMSG_ERROR) {
                return Ok(notes);
            }
            notes.extend(of_address(&frame, index));
        }
    }
    Ok(notes)
}

/// The link as it is, or down; that one only where it is up.
fn of_link(frame: &Frame<'_>, up: bool) -> Option<Bytes> {
    let link = LinkMessage::parse(frame.payload).ok().filter(|_| frame.header.kind == RTM_NEWLINK)?;
    let down = link.flags & !(IFF_UP | IFF_RUNNING | IFF_LOWER_UP);
    match up {
        true => with_flags(frame.payload, link.flags, false),
        false if link.is_up() && link.is_running() => with_flags(frame.payload, down, true),
        false => None,
    }
}

/// A notification of the link with these flags.
fn with_flags(payload: &[u8], flags: u32, is_down: bool) -> Option<Bytes> {
    let (fixed, attrs) = payload.split_first_chunk::<IFINFOMSG_LEN>()?;
    let mut fixed = *fixed;
    fixed.get_mut(8..12)?.copy_from_slice(&flags.to_ne_bytes());
    // ifi_change.
    fixed.get_mut(12..16)?.copy_from_slice(&(IFF_UP | IFF_RUNNING | IFF_LOWER_UP).to_ne_bytes());
    let mut bytes = Vec::new();
    let mut w = Writer::message(&mut bytes, RTM_NEWLINK, 0, 0, 0);
    w.put(&fixed);
    for attr in Attrs::new(attrs).map_while(Result::ok) {
        match attr.kind() {
            IFLA_OPERSTATE if is_down => w.attr_u8(IFLA_OPERSTATE, OPER_DOWN),
            _ => w.attr_raw(attr),
        }
    }
    w.finish().ok()?;
    Some(bytes.into())
}

/// A notification of one of the link's addresses.
fn of_address(frame: &Frame<'_>, index: u32) -> Option<(u32, Bytes)> {
    let address = AddrMessage::parse(frame.payload).ok()?;
    let group = match address.family {
        AF_INET => RTNLGRP_IPV4_IFADDR,
        AF_INET6 => RTNLGRP_IPV6_IFADDR,
        _ => return None,
    };
    if frame.header.kind != RTM_NEWADDR || address.index != index {
        return None;
    }
    let mut bytes = Vec::new();
    let mut w = Writer::message(&mut bytes, RTM_NEWADDR, 0, 0, 0);
    w.put(frame.payload);
    w.finish().ok()?;
    Some((group, bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message, as the kernel would say it.
    fn message(kind: u16, fixed: &[u8], attrs: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, 0, 1, 99);
        w.put(fixed);
        attrs(&mut w);
        w.finish().unwrap();
        bytes
    }

    fn link(flags: u32) -> Vec<u8> {
        let mut fixed = [0; IFINFOMSG_LEN];
        fixed[4..8].copy_from_slice(&7u32.to_ne_bytes());
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        message(RTM_NEWLINK, &fixed, |w| {
            w.attr_name(IFLA_IFNAME, "n7");
            w.attr_u32(IFLA_MTU, 1500);
            w.attr_u8(IFLA_OPERSTATE, 6);
        })
    }

    fn first(bytes: &[u8]) -> Frame<'_> {
        Frames::new(bytes).next().unwrap().unwrap()
    }

    #[test]
    fn a_link_goes_down_and_comes_back_as_it_was() {
        const MULTICAST: u32 = libc::IFF_MULTICAST as u32;
        let up = IFF_UP | IFF_RUNNING | IFF_LOWER_UP | MULTICAST;
        let seen = [false, true].map(|comes_up| {
            let bytes = of_link(&first(&link(up)), comes_up).unwrap();
            let frame = first(&bytes);
            assert_eq!((frame.header.kind, frame.header.seq), (RTM_NEWLINK, 0));
            let link = LinkMessage::parse(frame.payload).unwrap();
            let state = Attrs::new(&frame.payload[IFINFOMSG_LEN..]).flatten().find(|a| a.kind() == IFLA_OPERSTATE);
            assert_eq!((link.index, link.name.as_deref(), link.mtu), (7, Some("n7"), Some(1500)));
            (link.flags, state.unwrap().u8().unwrap())
        });
        assert_eq!(seen, [(MULTICAST, OPER_DOWN), (up, 6)]);
    }

    #[test]
    fn one_that_is_not_up_does_not_go_down() {
        for flags in [0, IFF_UP] {
            assert_eq!(of_link(&first(&link(flags)), false), None);
            // What was up when it was shown to go down may have gone down meanwhile: then that is
            // shown.
            let bytes = of_link(&first(&link(flags)), true).unwrap();
            assert_eq!(LinkMessage::parse(first(&bytes).payload).unwrap().flags, flags);
        }
    }

    #[test]
    fn addresses_of_that_link_only() {
        let address = |index: u32| {
            let mut fixed = [AF_INET, 24, 0, 0, 0, 0, 0, 0];
            fixed[4..8].copy_from_slice(&index.to_ne_bytes());
            message(RTM_NEWADDR, &fixed, |w| w.attr_ip(IFA_LOCAL, "10.0.7.1".parse().unwrap()))
        };
        let (mine, other) = (address(7), address(8));
        let (group, bytes) = of_address(&first(&mine), 7).unwrap();
        assert_eq!((group, first(&bytes).payload), (RTNLGRP_IPV4_IFADDR, first(&mine).payload));
        assert_eq!(of_address(&first(&other), 7), None);
    }

    /// Against this machine's kernel: the loopback interface is there, and a link that is not is an
    /// error of the kernel's, not ours.
    #[test]
    fn the_kernel_is_asked() {
        let notes = ask(1, true).unwrap();
        assert_eq!(notes.iter().filter(|(group, _)| *group == RTNLGRP_LINK).count(), 1, "{notes:?}");
        assert!(ask(0x7fff_fff0, true).unwrap().is_empty());
    }
}
