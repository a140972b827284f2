use super::*;
use crate::netlink::addr::AddrMessage;
use crate::netlink::captures::*;
use std::net::IpAddr;

#[test]
fn a_link() {
    let link = LinkMessage::parse(&payload(LINK_BRIDGED)).unwrap();
    assert!(link.is_up() && link.is_running() && link.has_carrier());
    let LinkMessage { family, hw_type, index, name, mtu, master, kind, .. } = link;
    assert_eq!((family, hw_type, index, mtu, master), (AF_UNSPEC, 1, 2, Some(1500), Some(4)));
    assert_eq!((name.as_deref(), kind.as_deref()), (Some("v2"), Some("veth")));
    assert_eq!(LinkMessage::parse(&[0; 15]), Err(NetlinkError::ShortBody { need: 16, have: 15 }));
}

#[test]
fn addresses() {
    let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let v4 = AddrMessage::parse(&payload(ADDR_V4)).unwrap();
    assert_eq!((v4.own(), v4.on_link(), v4.prefix_len, v4.index), (ip("10.0.1.1"), ip("10.0.1.1"), 24, 3));
    assert_eq!((v4.flags, v4.scope), (IFA_F_PERMANENT, RT_SCOPE_UNIVERSE));
    let peer = AddrMessage::parse(&payload(ADDR_V4_PEER)).unwrap();
    assert_eq!((peer.own(), peer.on_link(), peer.prefix_len), (ip("10.5.0.1"), ip("10.5.0.2"), 32));
    let v6 = AddrMessage::parse(&payload(ADDR_V6)).unwrap();
    assert_eq!((v6.own(), v6.local, v6.prefix_len), (ip("2001:db8:1::1"), None, 64));
    assert_eq!(AddrMessage::parse(&[2, 33, 0, 0, 1, 0, 0, 0]), Err(NetlinkError::PrefixLength { len: 33 }));
    assert_eq!(AddrMessage::parse(&[1, 0, 0, 0, 1, 0, 0, 0]), Err(NetlinkError::Family { family: 1 }));
}
