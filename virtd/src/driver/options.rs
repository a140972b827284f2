//! Socket options that reach virtd's real sockets, and what to do where instances differ
//! (docs/DECISIONS.md, "virtd owns the connection"). Pure.

use std::net::{IpAddr, Ipv6Addr};

/// IPV6_MINHOPCOUNT.
const IPV6_MINHOPCOUNT: i32 = 73;
/// TCP_MD5SIG_EXT.
const TCP_MD5SIG_EXT: i32 = 32;
/// sizeof(struct tcp_md5sig).
const MD5SIG_LEN: usize = 216;
/// Where tcpm_flags and, next to it, tcpm_prefixlen stand; before them is the address.
const FLAGS_AT: usize = 128;
/// Where tcpm_keylen stands.
const KEYLEN_AT: usize = 130;
/// Where tcpm_ifindex stands.
const IFINDEX_AT: usize = 132;
/// Where tcpm_key stands.
const KEY_AT: usize = 136;
/// TCP_MD5SIG_FLAG_PREFIX.
const FLAG_PREFIX: u8 = 1;
/// TCP_MD5SIG_FLAG_IFINDEX.
const FLAG_IFINDEX: u8 = 2;
/// Options kept for one connection at most.
const MAX_AGREED: usize = 64;

/// The option's name in C, of those that matter.
pub fn name(level: i32, name: i32) -> &'static str {
    match (level, name) {
        (libc::IPPROTO_IP, libc::IP_TTL) => "IP_TTL",
        (libc::IPPROTO_IP, libc::IP_MINTTL) => "IP_MINTTL",
        (libc::IPPROTO_IP, libc::IP_TOS) => "IP_TOS",
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => "IPV6_UNICAST_HOPS",
        (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) => "IPV6_MINHOPCOUNT",
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => "IPV6_TCLASS",
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => "TCP_MAXSEG",
        (libc::IPPROTO_TCP, libc::TCP_MD5SIG) => "TCP_MD5SIG",
        (libc::IPPROTO_TCP, TCP_MD5SIG_EXT) => "TCP_MD5SIG_EXT",
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => "SO_BINDTODEVICE",
        (libc::SOL_SOCKET, libc::SO_MARK) => "SO_MARK",
        _ => "",
    }
}

/// Whether an option reaches the connection with the peer; all others stay in the shim's record.
pub fn matters(level: i32, option: i32) -> bool {
    !name(level, option).is_empty()
}

/// Options a daemon may read from the real socket of its leg: harmless ones, whose reading changes
/// nothing (SO_ERROR's would).
pub fn may_read(level: i32, option: i32) -> bool {
    match level {
        libc::IPPROTO_TCP => matches!(
            option,
            libc::TCP_MAXSEG | libc::TCP_INFO | libc::TCP_NODELAY | libc::TCP_USER_TIMEOUT | libc::TCP_CONGESTION
        ),
        libc::IPPROTO_IP => {
            matches!(option, libc::IP_TTL | libc::IP_MINTTL | libc::IP_TOS | libc::IP_MTU | libc::IP_MTU_DISCOVER)
        }
        libc::IPPROTO_IPV6 => matches!(
            option,
            libc::IPV6_UNICAST_HOPS | IPV6_MINHOPCOUNT | libc::IPV6_TCLASS | libc::IPV6_MTU | libc::IPV6_V6ONLY
        ),
        libc::SOL_SOCKET => matches!(option, libc::SO_BINDTODEVICE | libc::SO_MARK | libc::SO_PRIORITY),
        _ => false,
    }
}

/// Without these a connection would go out unprotected, or another way than meant: rather not at
/// all.
pub fn protects(level: i32, option: i32) -> bool {
    is_key(level, option)
        || matches!(
            (level, option),
            (libc::IPPROTO_IP, libc::IP_MINTTL)
                | (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT)
                | (libc::SOL_SOCKET, libc::SO_BINDTODEVICE)
        )
}

/// TCP-MD5 (RFC 2385): struct tcp_md5sig, in either form.
pub fn is_key(level: i32, option: i32) -> bool {
    level == libc::IPPROTO_TCP && matches!(option, libc::TCP_MD5SIG | TCP_MD5SIG_EXT)
}

/// The peers that an MD5 key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPeer {
    /// An IPv4 address as such, not mapped into IPv6.
    pub ip: IpAddr,
    /// A whole prefix of this length.
    prefix_len: Option<u8>,
    ifindex: u32,
}

/// Reads struct tcp_md5sig: whom the key is for. `None` for anything that is not one.
pub fn key_peer(option: i32, value: &[u8]) -> Option<KeyPeer> {
    if value.len() < MD5SIG_LEN {
        return None;
    }
    let ip = match i32::from(u16::from_ne_bytes(array(value, 0)?)) {
        libc::AF_INET => IpAddr::from(array::<4>(value, 4)?),
        libc::AF_INET6 => IpAddr::from(array::<16>(value, 8)?).to_canonical(),
        _ => return None,
    };
    let [flags, prefix_len] = array(value, FLAGS_AT)?;
    let has = |flag| option == TCP_MD5SIG_EXT && flags & flag != 0;
    Some(KeyPeer {
        ip,
        prefix_len: has(FLAG_PREFIX).then_some(prefix_len),
        ifindex: if has(FLAG_IFINDEX) { u32::from_ne_bytes(array(value, IFINDEX_AT)?) } else { 0 },
    })
}

fn array<const N: usize>(value: &[u8], at: usize) -> Option<[u8; N]> {
    value.get(at..at + N)?.try_into().ok()
}

/// Whether this value takes the key away instead of setting one: its length is 0.
pub fn removes_key(value: &[u8]) -> bool {
    array(value, KEYLEN_AT).is_none_or(|n: [u8; 2]| n == [0, 0])
}

/// The value that takes away the key that `value` set.
pub fn key_removal(value: &[u8]) -> Vec<u8> {
    let mut v = value.to_vec();
    for range in [KEYLEN_AT..KEYLEN_AT + 2, KEY_AT..MD5SIG_LEN] {
        v.get_mut(range).unwrap_or_default().fill(0);
    }
    v
}

/// An IPv4 peer written as an IPv6 one (::ffff:192.0.2.1), as a socket that takes IPv4 only needs
/// it.
pub fn key_unmapped(value: &[u8]) -> Vec<u8> {
    let mut v = value.to_vec();
    let v6 = array(value, 0).map(u16::from_ne_bytes) == Some(libc::AF_INET6 as u16);
    let v4 = array::<16>(value, 8).and_then(|a| Ipv6Addr::from(a).to_ipv4_mapped()).filter(|_| v6);
    if let (Some(v4), Some(address)) = (v4, v.get_mut(..FLAGS_AT)) {
        address.fill(0);
        for (to, from) in address.iter_mut().zip((libc::AF_INET as u16).to_ne_bytes()) {
            *to = from;
        }
        for (to, from) in address.iter_mut().skip(4).zip(v4.octets()) {
            *to = from;
        }
    }
    v
}

/// Whether two values mean the same. Daemons write integers of one octet or four, names with and
/// without their NUL, and the parts of struct tcp_md5sig that do not matter each in their own way.
pub fn same_value(level: i32, option: i32, a: &[u8], b: &[u8]) -> bool {
    if is_key(level, option) {
        return a.get(KEYLEN_AT..KEYLEN_AT + 2) == b.get(KEYLEN_AT..KEYLEN_AT + 2)
            && a.get(KEY_AT..MD5SIG_LEN) == b.get(KEY_AT..MD5SIG_LEN);
    }
    let trimmed = |v: &[u8]| v.iter().rposition(|o| *o != 0).map_or(0, |i| i + 1);
    a.get(..trimmed(a)) == b.get(..trimmed(b))
}

/// A TTL that is sent. Daemons differ in it by nature (towards a neighbour on the link BIRD sends
/// 255, FRR and OpenBGPD 1), and a peer with TTL security (RFC 5082) needs 255: so the largest
/// stands, and nobody is told. What is demanded of the peer (IP_MINTTL) is a matter of
/// configuration and compared like everything else.
fn hops(level: i32, option: i32, value: &[u8]) -> Option<i32> {
    let ttl =
        matches!((level, option), (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS));
    match value {
        [n] if ttl => Some(i32::from(*n)),
        _ if ttl => array(value, 0).map(i32::from_ne_bytes),
        _ => None,
    }
}

/// A value as a person may read it: a number. Keys are nobody's business.
pub fn shown(level: i32, option: i32, value: &[u8]) -> String {
    match value {
        _ if is_key(level, option) => String::new(),
        [n] => format!(" to {n}"),
        [a, b, c, d] => format!(" to {}", i32::from_ne_bytes([*a, *b, *c, *d])),
        _ => String::new(),
    }
}

/// What is set by an option: for keys, one thing for each peer.
fn same_thing(a: (i32, i32, &[u8]), b: (i32, i32, &[u8])) -> bool {
    match (is_key(a.0, a.1), is_key(b.0, b.1)) {
        (true, true) => key_peer(a.1, a.2) == key_peer(b.1, b.2),
        (false, false) => (a.0, a.1) == (b.0, b.1),
        _ => false,
    }
}

/// What an instance has set for a connection that is still to be dialled; in order.
#[derive(Clone, Default)]
pub struct Wanted {
    set: Vec<(i32, i32, Vec<u8>)>,
}

impl Wanted {
    /// Adds one, or replaces it. False where there are too many.
    pub fn set(&mut self, level: i32, option: i32, value: &[u8]) -> bool {
        let before = self.set.iter().position(|(l, n, v)| same_thing((*l, *n, v), (level, option, value)));
        if let Some(i) = before {
            self.set.remove(i);
        }
        let room = self.set.len() < MAX_AGREED;
        if room && !(is_key(level, option) && removes_key(value)) {
            self.set.push((level, option, value.to_vec()));
        }
        room
    }

    /// Level, name, value.
    pub fn iter(&self) -> impl Iterator<Item = (i32, i32, &[u8])> {
        self.set.iter().map(|(l, n, v)| (*l, *n, v.as_slice()))
    }
}

/// What setting an option on a shared connection comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is set so already, or there is nothing to do.
    Same,
    /// To be put on the real socket.
    Apply,
    /// This instance holds on to another value, and that stays.
    Differs(u8),
}

/// One option of one connection and who wants it so. Has no Debug: the value may be a key.
struct Held {
    level: i32,
    option: i32,
    value: Vec<u8>,
    /// Instances, one bit each.
    by: u32,
}

/// Who wants what on one connection. A value that several instances agreed on stays until the last
/// of them has changed its mind: one that is alone with its wish must not break the connection of
/// all.
#[derive(Default)]
pub struct Agreed {
    held: Vec<Held>,
}

impl Agreed {
    /// An instance sets an option.
    pub fn set(&mut self, instance: u8, level: i32, option: i32, value: &[u8]) -> Outcome {
        let me = 1u32.checked_shl(u32::from(instance)).unwrap_or(0);
        let removes = is_key(level, option) && removes_key(value);
        let Some(i) = self.held.iter().position(|h| same_thing((h.level, h.option, &h.value), (level, option, value)))
        else {
            if removes {
                return Outcome::Same;
            }
            if self.held.len() < MAX_AGREED {
                self.held.push(Held { level, option, value: value.to_vec(), by: me });
            }
            return Outcome::Apply;
        };
        let Some(h) = self.held.get_mut(i) else { return Outcome::Same };
        if same_value(level, option, &h.value, value) {
            h.by |= me;
            return Outcome::Same;
        }
        if let (Some(held), Some(wish)) = (hops(level, option, &h.value), hops(level, option, value)) {
            h.by |= me;
            if wish <= held {
                return Outcome::Same;
            }
            h.value = value.to_vec();
            return Outcome::Apply;
        }
        h.by &= !me;
        match h.by {
            0 if removes => drop(self.held.remove(i)),
            0 => (h.by, h.value) = (me, value.to_vec()),
            // The key stays for those who want it.
            _ if removes => return Outcome::Same,
            by => return Outcome::Differs(by.trailing_zeros() as u8),
        }
        Outcome::Apply
    }

    /// What stands for an option, as a person may read it.
    pub fn standing(&self, level: i32, option: i32) -> String {
        let held = self.held.iter().find(|h| (h.level, h.option) == (level, option));
        held.map_or_else(String::new, |h| shown(level, option, &h.value))
    }

    /// Whether there is a key for that peer.
    pub fn has_key(&self, option: i32, value: &[u8]) -> bool {
        self.held.iter().any(|h| same_thing((h.level, h.option, &h.value), (libc::IPPROTO_TCP, option, value)))
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
