//! The messages of BMP (RFC 7854, with RFC 8671's Adj-RIB-Out) as octets. An UPDATE goes into one as
//! it is: nothing of it is read.

use bytes::BufMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use virtd_api::ribs::{LOCAL_NOTIFICATION, REMOTE_NOTIFICATION, TOLD_ANEW};
use virtd_api::{SpeakerDown, SpeakerUp};

/// RFC 7854 section 4.1.
const VERSION: u8 = 3;
/// Version, length and type.
const COMMON_HEADER: usize = 6;

/// Message types (RFC 7854 section 4.1).
mod kind {
    pub const ROUTE_MONITORING: u8 = 0;
    pub const STATISTICS: u8 = 1;
    pub const PEER_DOWN: u8 = 2;
    pub const PEER_UP: u8 = 3;
    pub const INITIATION: u8 = 4;
    pub const TERMINATION: u8 = 5;
}

/// Flags of the per-peer header (RFC 7854 section 4.2, RFC 8671 section 4).
mod flag {
    pub const IPV6: u8 = 0x80;
    pub const POST_POLICY: u8 = 0x40;
    pub const AS2: u8 = 0x20;
    pub const ADJ_RIB_OUT: u8 = 0x10;
}

/// Types of information in Initiation and Peer Up (RFC 7854 section 4.4, RFC 9069 section 5.3).
mod info {
    pub const STRING: u16 = 0;
    pub const SYS_DESCR: u16 = 1;
    pub const SYS_NAME: u16 = 2;
    pub const TABLE_NAME: u16 = 3;
}

/// Statistics (RFC 7854 section 4.8, RFC 8671 section 6.2).
mod statistic {
    pub const ADJ_RIB_IN: u16 = 7;
    pub const ADJ_RIB_OUT_POST_POLICY: u16 = 15;
}

/// Octets of a piece of information that are passed on: a name has no more.
const MAX_INFO: usize = 255;

/// Who is monitored: a peer, or an instance towards a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// 0: a peer of the router; 2 (Local Instance Peer): one that its address alone does not name.
    kind: u8,
    /// 0, or what tells it from the others at this address.
    distinguisher: u64,
    address: IpAddr,
    asn: u32,
    router_id: Ipv4Addr,
    as4: bool,
    /// It is an instance.
    instance: bool,
}

/// Which of a peer's tables a route is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rib {
    /// What the peer has said, before the policy of any instance.
    In,
    /// What it was told, after the vote; of an instance, what it would have it told, before.
    Out,
}

impl Peer {
    /// Of a speaker.
    pub fn of(up: &SpeakerUp) -> Peer {
        let named = up.instance.is_some() || up.interface.is_some();
        Peer {
            kind: if named { 2 } else { 0 },
            distinguisher: if named { distinguisher(up.instance.as_deref(), up.interface.as_deref()) } else { 0 },
            address: up.address,
            asn: up.asn,
            router_id: up.router_id,
            as4: up.as4,
            instance: up.instance.is_some(),
        }
    }

    fn header(&self, flags: u8, at: Option<SystemTime>, out: &mut Vec<u8>) {
        let v6 = if self.address.is_ipv6() { flag::IPV6 } else { 0 };
        let as2 = if self.as4 { 0 } else { flag::AS2 };
        out.put_slice(&[self.kind, flags | v6 | as2]);
        out.put_u64(self.distinguisher);
        put_address(self.address, out);
        out.put_u32(self.asn);
        out.put_slice(&self.router_id.octets());
        // Zero: it is not known (RFC 7854 section 4.2).
        let at = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        out.put_u32(u32::try_from(at.as_secs()).unwrap_or_default());
        out.put_u32(at.subsec_micros());
    }

    fn rib_flags(&self, rib: Rib) -> u8 {
        match (rib, self.instance) {
            (Rib::In, _) => 0,
            (Rib::Out, false) => flag::ADJ_RIB_OUT | flag::POST_POLICY,
            (Rib::Out, true) => flag::ADJ_RIB_OUT,
        }
    }

    /// Route Monitoring (RFC 7854 section 4.6). `at`: when it became so, where that is known.
    pub fn routes(&self, rib: Rib, update: &[u8], at: Option<SystemTime>, out: &mut Vec<u8>) {
        message(kind::ROUTE_MONITORING, out, |out| {
            self.header(self.rib_flags(rib), at, out);
            out.put_slice(update);
        });
    }

    /// Statistics Report (RFC 7854 section 4.8): how many routes the peer announces, and was told.
    pub fn statistics(&self, said: Option<u64>, told: Option<u64>, out: &mut Vec<u8>) {
        let all = [(statistic::ADJ_RIB_IN, said), (statistic::ADJ_RIB_OUT_POST_POLICY, told)];
        let known: Vec<(u16, u64)> = all.into_iter().filter_map(|(what, n)| Some((what, n?))).collect();
        message(kind::STATISTICS, out, |out| {
            self.header(0, Some(SystemTime::now()), out);
            out.put_u32(known.len() as u32);
            for (what, n) in known {
                out.put_u16(what);
                out.put_u16(8);
                out.put_u64(n);
            }
        });
    }

    /// Peer Up (RFC 7854 section 4.10). Its O flag is 0, whichever tables follow (RFC 8671 section 5).
    pub fn up(&self, up: &SpeakerUp, out: &mut Vec<u8>) {
        let since = SystemTime::now().checked_sub(Duration::from_micros(up.up_us));
        let local = up.local.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        message(kind::PEER_UP, out, |out| {
            self.header(0, since, out);
            put_address(local.ip(), out);
            out.put_u16(local.port());
            out.put_u16(up.remote_port);
            out.put_slice(&up.sent);
            out.put_slice(&up.received);
            if let Some(instance) = &up.instance {
                put_info(info::STRING, &format!("virtd instance {instance}"), out);
                put_info(info::TABLE_NAME, instance, out);
            } else if let Some(interface) = &up.interface {
                put_info(info::STRING, &format!("on interface {interface}"), out);
            }
        });
    }

    /// Peer Down (RFC 7854 section 4.9).
    pub fn down(&self, down: &SpeakerDown, out: &mut Vec<u8>) {
        let has_one = !down.notification.is_empty();
        let reason = match down.reason.as_str() {
            LOCAL_NOTIFICATION if has_one => 1,
            REMOTE_NOTIFICATION if has_one => 3,
            // We have closed, by no event that there is a number for.
            LOCAL_NOTIFICATION => 2,
            // It is there, and no more is told of it as it was told so far.
            TOLD_ANEW => 5,
            _ => 4,
        };
        message(kind::PEER_DOWN, out, |out| {
            self.header(0, Some(SystemTime::now()), out);
            out.put_u8(reason);
            match reason {
                1 | 3 => out.put_slice(&down.notification),
                2 => out.put_u16(0),
                _ => {}
            }
        });
    }
}

/// Initiation (RFC 7854 section 4.3).
pub fn initiation(name: &str, description: &str, out: &mut Vec<u8>) {
    message(kind::INITIATION, out, |out| {
        put_info(info::SYS_DESCR, description, out);
        put_info(info::SYS_NAME, name, out);
    });
}

/// Why we end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody has told us to.
    Closed,
    /// virtd is gone.
    Unspecified,
}

/// Termination (RFC 7854 section 4.5).
pub fn termination(reason: Reason, text: &str, out: &mut Vec<u8>) {
    message(kind::TERMINATION, out, |out| {
        put_info(0, text, out);
        out.put_u16(1);
        out.put_u16(2);
        out.put_u16(if reason == Reason::Closed { 0 } else { 1 });
    });
}

/// A message of this kind, its length filled in afterwards.
fn message(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let from = out.len();
    out.put_slice(&[VERSION, 0, 0, 0, 0, kind]);
    body(out);
    let length = (out.len() - from) as u32;
    out[from + 1..from + COMMON_HEADER - 1].copy_from_slice(&length.to_be_bytes());
}

fn put_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(a) => {
            out.put_bytes(0, 12);
            out.put_slice(&a.octets());
        }
        IpAddr::V6(a) => out.put_slice(&a.octets()),
    }
}

fn put_info(kind: u16, text: &str, out: &mut Vec<u8>) {
    let text = &text.as_bytes()[..text.len().min(MAX_INFO)];
    out.put_u16(kind);
    out.put_u16(text.len() as u16);
    out.put_slice(text);
}

/// The same for the same names, today and tomorrow, and another for all others (FNV-1a): RFC 7854
/// section 4.2 wants a value that is unique on this router.
fn distinguisher(instance: Option<&str>, interface: Option<&str>) -> u64 {
    let octets = instance.unwrap_or_default().bytes().chain([0]).chain(interface.unwrap_or_default().bytes());
    let hash =
        octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3));
    // 0 is that of a peer which is none of these.
    hash.max(1)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
