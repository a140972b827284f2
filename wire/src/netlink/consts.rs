//! The kernel's numbers, each with the width of the field it stands in; from the libc crate where
//! that has them, otherwise from linux/rtnetlink.h, linux/nexthop.h and linux/netlink.h, which
//! never change a number.

// Address families.
/// Any family; what nexthop groups say.
pub const AF_UNSPEC: u8 = libc::AF_UNSPEC as u8;
/// IPv4.
pub const AF_INET: u8 = libc::AF_INET as u8;
/// IPv6.
pub const AF_INET6: u8 = libc::AF_INET6 as u8;

// Control messages (netlink.h).
/// To be ignored.
pub const NLMSG_NOOP: u16 = libc::NLMSG_NOOP as u16;
/// An errno and the request it is about; errno 0 is an acknowledgement.
pub const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
/// The end of a dump.
pub const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// Data lost.
pub const NLMSG_OVERRUN: u16 = libc::NLMSG_OVERRUN as u16;
/// Types below this are control messages.
pub const NLMSG_MIN_TYPE: u16 = libc::NLMSG_MIN_TYPE as u16;

// Message types (rtnetlink.h).
/// A link is added, changed or shown.
pub const RTM_NEWLINK: u16 = libc::RTM_NEWLINK;
/// A link is removed.
pub const RTM_DELLINK: u16 = libc::RTM_DELLINK;
/// Asks for one link or a dump of them.
pub const RTM_GETLINK: u16 = libc::RTM_GETLINK;
/// Changes a link.
pub const RTM_SETLINK: u16 = libc::RTM_SETLINK;
/// An address is added, changed or shown.
pub const RTM_NEWADDR: u16 = libc::RTM_NEWADDR;
/// An address is removed.
pub const RTM_DELADDR: u16 = libc::RTM_DELADDR;
/// Asks for one address or a dump of them.
pub const RTM_GETADDR: u16 = libc::RTM_GETADDR;
/// A route is added, changed or shown.
pub const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
/// A route is removed.
pub const RTM_DELROUTE: u16 = libc::RTM_DELROUTE;
/// Asks for one route or a dump of them.
pub const RTM_GETROUTE: u16 = libc::RTM_GETROUTE;
/// A neighbour is added, changed or shown.
pub const RTM_NEWNEIGH: u16 = libc::RTM_NEWNEIGH;
/// A neighbour is removed.
pub const RTM_DELNEIGH: u16 = libc::RTM_DELNEIGH;
/// Asks for one neighbour or a dump of them.
pub const RTM_GETNEIGH: u16 = libc::RTM_GETNEIGH;
/// A policy rule is added, changed or shown.
pub const RTM_NEWRULE: u16 = libc::RTM_NEWRULE;
/// A policy rule is removed.
pub const RTM_DELRULE: u16 = libc::RTM_DELRULE;
/// Asks for one policy rule or a dump of them.
pub const RTM_GETRULE: u16 = libc::RTM_GETRULE;
/// A nexthop object is added, changed or shown.
pub const RTM_NEWNEXTHOP: u16 = 104;
/// A nexthop object is removed.
pub const RTM_DELNEXTHOP: u16 = 105;
/// Asks for one nexthop object or a dump of them.
pub const RTM_GETNEXTHOP: u16 = 106;

// Header flags (netlink.h). Some bits mean different things for new, get and answer.
/// A request to the kernel.
pub const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// One of several messages that NLMSG_DONE ends.
pub const NLM_F_MULTI: u16 = libc::NLM_F_MULTI as u16;
/// Answer with NLMSG_ERROR even when all went well.
pub const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
/// Send the notification to the requester as well.
pub const NLM_F_ECHO: u16 = libc::NLM_F_ECHO as u16;
/// The dump is inconsistent: something changed meanwhile.
pub const NLM_F_DUMP_INTR: u16 = libc::NLM_F_DUMP_INTR as u16;
/// The dump was filtered as asked.
pub const NLM_F_DUMP_FILTERED: u16 = libc::NLM_F_DUMP_FILTERED as u16;
/// get: the whole table.
pub const NLM_F_ROOT: u16 = libc::NLM_F_ROOT as u16;
/// get: all that match.
pub const NLM_F_MATCH: u16 = libc::NLM_F_MATCH as u16;
/// get: a dump (ROOT and MATCH).
pub const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
/// new: replace what is there.
pub const NLM_F_REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// new: fail where it is there.
pub const NLM_F_EXCL: u16 = libc::NLM_F_EXCL as u16;
/// new: create where it is not there.
pub const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
/// new: add to the end of the list.
pub const NLM_F_APPEND: u16 = libc::NLM_F_APPEND as u16;
/// delete: not recursively.
pub const NLM_F_NONREC: u16 = libc::NLM_F_NONREC as u16;
/// delete: several objects.
pub const NLM_F_BULK: u16 = libc::NLM_F_BULK as u16;
/// answer: the request's payload was left out.
pub const NLM_F_CAPPED: u16 = libc::NLM_F_CAPPED as u16;
/// answer: extended acknowledgement attributes follow.
pub const NLM_F_ACK_TLVS: u16 = libc::NLM_F_ACK_TLVS as u16;

// Socket options at level SOL_NETLINK.
/// Join a group.
pub const NETLINK_ADD_MEMBERSHIP: i32 = libc::NETLINK_ADD_MEMBERSHIP;
/// Leave a group.
pub const NETLINK_DROP_MEMBERSHIP: i32 = libc::NETLINK_DROP_MEMBERSHIP;
/// Errors do not echo the request's payload.
pub const NETLINK_CAP_ACK: i32 = libc::NETLINK_CAP_ACK;
/// Errors carry extended acknowledgement attributes.
pub const NETLINK_EXT_ACK: i32 = libc::NETLINK_EXT_ACK;
/// Dump requests are checked and filtered strictly.
pub const NETLINK_GET_STRICT_CHK: i32 = libc::NETLINK_GET_STRICT_CHK;

// Attribute type bits, and extended acknowledgement attributes (netlink.h).
/// The payload is attributes.
pub const NLA_F_NESTED: u16 = 1 << 15;
/// The payload is in network byte order.
pub const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
/// The type without those two bits.
pub const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);
/// A sentence, NUL-terminated.
pub const NLMSGERR_ATTR_MSG: u16 = 1;
/// Where in the request the offending attribute stands (u32, octets from its header).
pub const NLMSGERR_ATTR_OFFS: u16 = 2;

// Route types (rtnetlink.h).
/// Not said.
pub const RTN_UNSPEC: u8 = libc::RTN_UNSPEC;
/// Forwarded to next hops.
pub const RTN_UNICAST: u8 = libc::RTN_UNICAST;
/// Delivered here.
pub const RTN_LOCAL: u8 = libc::RTN_LOCAL;
/// Delivered here, sent as broadcast.
pub const RTN_BROADCAST: u8 = libc::RTN_BROADCAST;
/// Delivered here, sent as unicast.
pub const RTN_ANYCAST: u8 = libc::RTN_ANYCAST;
/// Multicast.
pub const RTN_MULTICAST: u8 = libc::RTN_MULTICAST;
/// Dropped in silence.
pub const RTN_BLACKHOLE: u8 = libc::RTN_BLACKHOLE;
/// Dropped, host unreachable.
pub const RTN_UNREACHABLE: u8 = libc::RTN_UNREACHABLE;
/// Dropped, administratively prohibited.
pub const RTN_PROHIBIT: u8 = libc::RTN_PROHIBIT;
/// Look up in the next table.
pub const RTN_THROW: u8 = libc::RTN_THROW;

// Route protocols: who installed it.
/// Not said.
pub const RTPROT_UNSPEC: u8 = libc::RTPROT_UNSPEC;
/// ICMP redirect.
pub const RTPROT_REDIRECT: u8 = libc::RTPROT_REDIRECT;
/// The kernel itself.
pub const RTPROT_KERNEL: u8 = libc::RTPROT_KERNEL;
/// `ip route` without proto.
pub const RTPROT_BOOT: u8 = libc::RTPROT_BOOT;
/// An administrator.
pub const RTPROT_STATIC: u8 = libc::RTPROT_STATIC;
/// Router advertisements.
pub const RTPROT_RA: u8 = 9;
/// zebra.
pub const RTPROT_ZEBRA: u8 = 11;
/// BIRD.
pub const RTPROT_BIRD: u8 = 12;
/// babeld.
pub const RTPROT_BABEL: u8 = 42;
/// FRR's BGP.
pub const RTPROT_BGP: u8 = 186;
/// FRR's IS-IS.
pub const RTPROT_ISIS: u8 = 187;
/// FRR's OSPF.
pub const RTPROT_OSPF: u8 = 188;
/// FRR's RIP.
pub const RTPROT_RIP: u8 = 189;

// Route scopes.
/// Anywhere: behind a gateway.
pub const RT_SCOPE_UNIVERSE: u8 = libc::RT_SCOPE_UNIVERSE;
/// On a link.
pub const RT_SCOPE_LINK: u8 = libc::RT_SCOPE_LINK;
/// On this host.
pub const RT_SCOPE_HOST: u8 = libc::RT_SCOPE_HOST;
/// In a delete: any scope.
pub const RT_SCOPE_NOWHERE: u8 = libc::RT_SCOPE_NOWHERE;

// Routing tables.
/// Not said; main in a new route.
pub const RT_TABLE_UNSPEC: u32 = libc::RT_TABLE_UNSPEC as u32;
/// In the 8-bit field where RTA_TABLE says a number above 255.
pub const RT_TABLE_COMPAT: u32 = libc::RT_TABLE_COMPAT as u32;
/// default.
pub const RT_TABLE_DEFAULT: u32 = libc::RT_TABLE_DEFAULT as u32;
/// main.
pub const RT_TABLE_MAIN: u32 = libc::RT_TABLE_MAIN as u32;
/// local.
pub const RT_TABLE_LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;

// Route flags (rtm_flags), beside the RTNH_F_* of a single next hop.
/// A cached copy of a route.
pub const RTM_F_CLONED: u32 = libc::RTM_F_CLONED;
/// get: say which table matched.
pub const RTM_F_LOOKUP_TABLE: u32 = libc::RTM_F_LOOKUP_TABLE;
/// get: say the route that matched.
pub const RTM_F_FIB_MATCH: u32 = libc::RTM_F_FIB_MATCH;

// Route attributes (rtnetlink.h).
/// Destination address.
pub const RTA_DST: u16 = libc::RTA_DST;
/// Source prefix (IPv6 source-specific routes).
pub const RTA_SRC: u16 = libc::RTA_SRC;
/// Input interface.
pub const RTA_IIF: u16 = libc::RTA_IIF;
/// Output interface.
pub const RTA_OIF: u16 = libc::RTA_OIF;
/// Gateway of the route's own family.
pub const RTA_GATEWAY: u16 = libc::RTA_GATEWAY;
/// Metric; the lowest wins.
pub const RTA_PRIORITY: u16 = libc::RTA_PRIORITY;
/// Source address for packets of this host.
pub const RTA_PREFSRC: u16 = libc::RTA_PREFSRC;
/// Nested RTAX_*.
pub const RTA_METRICS: u16 = libc::RTA_METRICS;
/// A list of struct rtnexthop.
pub const RTA_MULTIPATH: u16 = libc::RTA_MULTIPATH;
/// Realm.
pub const RTA_FLOW: u16 = libc::RTA_FLOW;
/// Counters and ages.
pub const RTA_CACHEINFO: u16 = libc::RTA_CACHEINFO;
/// The table, 32 bits.
pub const RTA_TABLE: u16 = libc::RTA_TABLE;
/// Mark to look up with.
pub const RTA_MARK: u16 = libc::RTA_MARK;
/// Gateway of another family: u16 family, address.
pub const RTA_VIA: u16 = libc::RTA_VIA;
/// MPLS labels.
pub const RTA_NEWDST: u16 = libc::RTA_NEWDST;
/// Router preference (RFC 4191).
pub const RTA_PREF: u16 = libc::RTA_PREF;
/// Kind of lightweight tunnel.
pub const RTA_ENCAP_TYPE: u16 = libc::RTA_ENCAP_TYPE;
/// Lightweight tunnel, nested by kind.
pub const RTA_ENCAP: u16 = libc::RTA_ENCAP;
/// Seconds until the kernel removes the route (IPv6).
pub const RTA_EXPIRES: u16 = libc::RTA_EXPIRES;
/// User id to look up with.
pub const RTA_UID: u16 = libc::RTA_UID;
/// MPLS.
pub const RTA_TTL_PROPAGATE: u16 = libc::RTA_TTL_PROPAGATE;
/// Id of a nexthop object.
pub const RTA_NH_ID: u16 = 30;

// Metrics inside RTA_METRICS; all u32 but RTAX_CC_ALGO.
/// Bits of the metrics that path MTU discovery and TCP must not change.
pub const RTAX_LOCK: u16 = 1;
/// Path MTU, octets.
pub const RTAX_MTU: u16 = 2;
/// Largest window, octets.
pub const RTAX_WINDOW: u16 = 3;
/// Round trip time.
pub const RTAX_RTT: u16 = 4;
/// Its variation.
pub const RTAX_RTTVAR: u16 = 5;
/// Slow start threshold.
pub const RTAX_SSTHRESH: u16 = 6;
/// Congestion window clamp.
pub const RTAX_CWND: u16 = 7;
/// MSS to advertise, octets.
pub const RTAX_ADVMSS: u16 = 8;
/// Reordering.
pub const RTAX_REORDERING: u16 = 9;
/// Hop limit.
pub const RTAX_HOPLIMIT: u16 = 10;
/// Initial congestion window.
pub const RTAX_INITCWND: u16 = 11;
/// Feature bits.
pub const RTAX_FEATURES: u16 = 12;
/// Smallest retransmission timeout.
pub const RTAX_RTO_MIN: u16 = 13;
/// Initial receive window.
pub const RTAX_INITRWND: u16 = 14;
/// Quick acknowledgements.
pub const RTAX_QUICKACK: u16 = 15;
/// Congestion control, a name.
pub const RTAX_CC_ALGO: u16 = 16;
/// TCP fast open without a cookie.
pub const RTAX_FASTOPEN_NO_COOKIE: u16 = 17;

// Next hop flags (rtnh_flags, the low bits of rtm_flags, nh_flags).
/// Dead; not used.
pub const RTNH_F_DEAD: u8 = 1;
/// Needs a recursive lookup.
pub const RTNH_F_PERVASIVE: u8 = 2;
/// The gateway is on the link, whatever the addresses say.
pub const RTNH_F_ONLINK: u8 = 4;
/// In hardware.
pub const RTNH_F_OFFLOAD: u8 = 8;
/// No carrier.
pub const RTNH_F_LINKDOWN: u8 = 16;
/// Unresolved.
pub const RTNH_F_UNRESOLVED: u8 = 32;
/// Hardware traps packets.
pub const RTNH_F_TRAP: u8 = 64;

// Nexthop object attributes (nexthop.h).
/// Id.
pub const NHA_ID: u16 = 1;
/// A list of struct nexthop_grp.
pub const NHA_GROUP: u16 = 2;
/// 0 multipath, 1 resilient.
pub const NHA_GROUP_TYPE: u16 = 3;
/// A flag: drops.
pub const NHA_BLACKHOLE: u16 = 4;
/// Output interface.
pub const NHA_OIF: u16 = 5;
/// Gateway.
pub const NHA_GATEWAY: u16 = 6;
/// Kind of lightweight tunnel.
pub const NHA_ENCAP_TYPE: u16 = 7;
/// Lightweight tunnel.
pub const NHA_ENCAP: u16 = 8;
/// dump: only groups.
pub const NHA_GROUPS: u16 = 9;
/// dump: only with this master interface.
pub const NHA_MASTER: u16 = 10;
/// A flag: for the bridge.
pub const NHA_FDB: u16 = 11;
/// Nested settings of a resilient group.
pub const NHA_RES_GROUP: u16 = 12;
/// Nested, a bucket.
pub const NHA_RES_BUCKET: u16 = 13;
/// u32 of what the kernel or the request can do.
pub const NHA_OP_FLAGS: u16 = 14;

// Link attributes (if_link.h).
/// Hardware address.
pub const IFLA_ADDRESS: u16 = libc::IFLA_ADDRESS;
/// Name.
pub const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;
/// MTU.
pub const IFLA_MTU: u16 = libc::IFLA_MTU;
/// The interface below.
pub const IFLA_LINK: u16 = libc::IFLA_LINK;
/// Bridge, bond or VRF above.
pub const IFLA_MASTER: u16 = libc::IFLA_MASTER;
/// RFC 2863 state.
pub const IFLA_OPERSTATE: u16 = libc::IFLA_OPERSTATE;
/// Nested IFLA_INFO_*.
pub const IFLA_LINKINFO: u16 = libc::IFLA_LINKINFO;
/// veth, dummy, vrf …
pub const IFLA_INFO_KIND: u16 = libc::IFLA_INFO_KIND;

// Link flags (if.h).
/// Administratively up.
pub const IFF_UP: u32 = libc::IFF_UP as u32;
/// Loopback.
pub const IFF_LOOPBACK: u32 = libc::IFF_LOOPBACK as u32;
/// Operational.
pub const IFF_RUNNING: u32 = libc::IFF_RUNNING as u32;
/// Has carrier.
pub const IFF_LOWER_UP: u32 = libc::IFF_LOWER_UP as u32;

// Address attributes (if_addr.h).
/// The address; the other end's on a point-to-point link.
pub const IFA_ADDRESS: u16 = libc::IFA_ADDRESS;
/// Our own address.
pub const IFA_LOCAL: u16 = libc::IFA_LOCAL;
/// A name.
pub const IFA_LABEL: u16 = libc::IFA_LABEL;
/// Broadcast address.
pub const IFA_BROADCAST: u16 = libc::IFA_BROADCAST;
/// Lifetimes.
pub const IFA_CACHEINFO: u16 = libc::IFA_CACHEINFO;
/// Flags, 32 bits.
pub const IFA_FLAGS: u16 = libc::IFA_FLAGS;

// Address flags (IFA_FLAGS).
/// Secondary, or a temporary IPv6 address.
pub const IFA_F_SECONDARY: u32 = libc::IFA_F_SECONDARY;
/// A duplicate.
pub const IFA_F_DADFAILED: u32 = libc::IFA_F_DADFAILED;
/// Deprecated.
pub const IFA_F_DEPRECATED: u32 = libc::IFA_F_DEPRECATED;
/// Duplicate address detection is not through.
pub const IFA_F_TENTATIVE: u32 = libc::IFA_F_TENTATIVE;
/// Not from a router advertisement.
pub const IFA_F_PERMANENT: u32 = libc::IFA_F_PERMANENT;
/// No connected route comes with it.
pub const IFA_F_NOPREFIXROUTE: u32 = libc::IFA_F_NOPREFIXROUTE;

// Notification groups.
/// Links.
pub const RTNLGRP_LINK: u32 = libc::RTNLGRP_LINK;
/// Neighbours.
pub const RTNLGRP_NEIGH: u32 = libc::RTNLGRP_NEIGH;
/// IPv4 addresses.
pub const RTNLGRP_IPV4_IFADDR: u32 = libc::RTNLGRP_IPV4_IFADDR;
/// IPv4 multicast routes.
pub const RTNLGRP_IPV4_MROUTE: u32 = libc::RTNLGRP_IPV4_MROUTE;
/// IPv4 routes.
pub const RTNLGRP_IPV4_ROUTE: u32 = libc::RTNLGRP_IPV4_ROUTE;
/// IPv4 rules.
pub const RTNLGRP_IPV4_RULE: u32 = libc::RTNLGRP_IPV4_RULE;
/// IPv6 addresses.
pub const RTNLGRP_IPV6_IFADDR: u32 = libc::RTNLGRP_IPV6_IFADDR;
/// IPv6 routes.
pub const RTNLGRP_IPV6_ROUTE: u32 = libc::RTNLGRP_IPV6_ROUTE;
/// IPv6 rules.
pub const RTNLGRP_IPV6_RULE: u32 = libc::RTNLGRP_IPV6_RULE;
/// Nexthop objects.
pub const RTNLGRP_NEXTHOP: u32 = libc::RTNLGRP_NEXTHOP;

/// The bit of a group in `sockaddr_nl.nl_groups`; 0 for a group above 32, which only
/// NETLINK_ADD_MEMBERSHIP can join.
pub const fn group_bit(group: u32) -> u32 {
    match group {
        1..=32 => 1 << (group - 1),
        _ => 0,
    }
}
