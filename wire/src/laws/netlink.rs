//! rtnetlink: what a daemon asks, and what the kernel says.

use crate::netlink::fib::{FibKey, FibRoute, encode_delete, encode_route};
use crate::netlink::message::{AckOptions, write_ack};
use crate::netlink::{AddrMessage, Attrs, Frames, LinkMessage, NexthopMessage, RouteMessage, diag};

/// A datagram: its messages can be told apart, each can be answered, and each payload keeps
/// [`payload`]'s laws.
pub fn datagram(octets: &[u8]) {
    for frame in Frames::new(octets).flatten() {
        let _ = (frame.family(), frame.errno(), frame.header.is_dump());
        payload(frame.payload);
        let mut out = Vec::new();
        write_ack(&mut out, &frame, 1, libc::EINVAL, AckOptions::default());
        assert!(Frames::new(&out).all(|answer| answer.is_ok()));
    }
}

/// What stands behind a header, read as everything that it could be: what is read comes back as it
/// was.
pub fn payload(octets: &[u8]) {
    let nexthop = NexthopMessage::parse(octets);
    if let Ok(nexthop) = &nexthop {
        let written = nexthop.to_payload().expect("it was read");
        assert_eq!(NexthopMessage::parse(&written).as_ref(), Ok(nexthop));
    }
    if let Ok(route) = RouteMessage::parse(octets) {
        let written = route.to_payload().expect("it was read");
        assert_eq!(RouteMessage::parse(&written).as_ref(), Ok(&route));
        let resolved = FibRoute::from_message(&route, |_| nexthop.as_ref().ok());
        if let (Ok(key), Ok(meaning)) = (FibKey::from_message(&route), resolved) {
            let _ = (key.to_string(), meaning.to_string(), encode_delete(&key, 1, 2));
            let written = encode_route(&key, &meaning, 1, 2).expect("it was read");
            let again = RouteMessage::parse(&written).expect("we have written it");
            assert_eq!(FibKey::from_message(&again), Ok(key));
        }
    }
    if let Some(route) = FibRoute::from_bytes(octets) {
        let written = route.to_bytes();
        let again = FibRoute::from_bytes(&written).expect("we have written it");
        assert_eq!(again.to_bytes(), written, "the canonical form has another one");
    }
    let _ = (LinkMessage::parse(octets), diag::read(octets));
    if let Ok(address) = AddrMessage::parse(octets) {
        let _ = (address.own(), address.on_link());
    }
    for attr in Attrs::new(octets).flatten() {
        let _ = (attr.u8(), attr.u16(), attr.u32(), attr.via(), attr.name(), attr.nested().count());
    }
}
