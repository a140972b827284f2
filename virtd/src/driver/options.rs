//! Socket options that instances ask for, and what virtd's real sockets get of them (DESIGN decision 3).
//!
//! Pure but for [`apply`]. Each instance has at most one wish per option and target (virtd's listening sockets of a family, or a
//! peer); the instance that asked first decides, and the first difference is told by name. An option that one instance sets and
//! another leaves alone is no difference: daemons differ in what they spell out.

use crate::core::io::InstanceId;
use crate::driver::sys;
use hashbrown::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

/// Wishes for virtd's listening sockets at most: an MD5 key per peer, and per instance.
const MAX_WISHES: usize = 4096;
/// Wishes for one peer at most: the few options there are, from every instance.
const MAX_WISHES_PEER: usize = 256;
/// Peers with wishes at most.
const MAX_TARGETS: usize = 16_384;
/// IPV6_MINHOPCOUNT.
const IPV6_MINHOPCOUNT: i32 = 73;
/// TCP_MD5SIG_EXT.
const TCP_MD5SIG_EXT: i32 = 32;
/// sizeof(struct tcp_md5sig).
const MD5SIG_LEN: usize = 216;
/// TCP_MD5SIG_MAXKEYLEN.
const MD5_KEY_MAX: usize = 80;
const MD5_FLAG_PREFIX: u8 = 1;
const MD5_FLAG_IFINDEX: u8 = 2;
/// Longest interface name (IFNAMSIZ - 1).
const DEVICE_MAX: usize = 15;

/// Whose packets an MD5 key is for (RFC 2385; the prefix and interface are Linux's TCP_MD5SIG_EXT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Md5Peer {
    /// The peer, or the network with `prefix_len`.
    pub address: IpAddr,
    /// Length of the prefix.
    pub prefix_len: Option<u8>,
    /// Interface (VRF) it is for.
    pub ifindex: Option<i32>,
}

/// An option that reaches a real socket. Everything else that daemons set stays in the shim's record.
#[derive(Clone, PartialEq, Eq)]
pub enum Setting {
    /// IP_TTL, IPV6_UNICAST_HOPS; -1 is the system's default.
    Ttl(i32),
    /// IP_MINTTL, IPV6_MINHOPCOUNT (RFC 5082); 0 is off.
    MinTtl(i32),
    /// IP_TOS, IPV6_TCLASS.
    Tos(i32),
    /// TCP_MAXSEG.
    MaxSeg(i32),
    /// SO_MARK.
    Mark(i32),
    /// SO_BINDTODEVICE; empty is off.
    Device(Vec<u8>),
    /// TCP_MD5SIG; an empty key is none.
    Md5(Md5Peer, Vec<u8>),
}

/// What the wishes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// virtd's listening sockets, IPv6 or not.
    Listener {
        /// IPv6.
        v6: bool,
    },
    /// Connections with a peer.
    Peer(IpAddr),
}

/// What setting an option comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is to be put on the real sockets now.
    Apply(Setting),
    /// Nothing changes.
    Unchanged,
    /// Another instance asked for something else first, and that stays.
    Differs {
        /// Which instance.
        first: InstanceId,
        /// What it asked for.
        kept: Setting,
        /// Not told yet.
        tell: bool,
    },
}

struct Wish {
    instance: InstanceId,
    setting: Setting,
    told: bool,
}

impl Setting {
    /// Reads a setsockopt call on a socket of a family. `Ok(None)`: of no matter to the real socket. `Err(errno)`: as the kernel would.
    pub fn parse(level: i32, name: i32, value: &[u8], v6: bool) -> Result<Option<Setting>, i32> {
        let setting = match (level, name) {
            (libc::IPPROTO_IP, libc::IP_TTL) if !v6 => Setting::Ttl(in_range(byte_or_int(value)?, 1, 255, true)?),
            (libc::IPPROTO_IP, libc::IP_MINTTL) if !v6 => Setting::MinTtl(in_range(byte_or_int(value)?, 0, 255, false)?),
            (libc::IPPROTO_IP, libc::IP_TOS) if !v6 => Setting::Tos(byte_or_int(value)? & 0xff),
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) if v6 => Setting::Ttl(in_range(int(value)?, 0, 255, true)?),
            (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) if v6 => Setting::MinTtl(in_range(int(value)?, 0, 255, false)?),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if v6 => Setting::Tos(in_range(int(value)?, 0, 255, true)?.max(0)),
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => Setting::MaxSeg(in_range(int(value)?, 0, 65_535, false)?),
            (libc::SOL_SOCKET, libc::SO_MARK) => Setting::Mark(int(value)?),
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => {
                let name: Vec<u8> = value.iter().copied().take_while(|b| *b != 0).take(DEVICE_MAX).collect();
                Setting::Device(name)
            }
            (libc::IPPROTO_TCP, libc::TCP_MD5SIG | TCP_MD5SIG_EXT) => md5(value, name == TCP_MD5SIG_EXT)?,
            _ => return Ok(None),
        };
        Ok(Some(setting))
    }

    /// Whether both are the same option (for MD5, of the same peer).
    fn same_option(&self, other: &Setting) -> bool {
        match (self, other) {
            (Setting::Md5(a, _), Setting::Md5(b, _)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// The value that undoes it.
    fn neutral(&self) -> Setting {
        match self {
            Setting::Ttl(_) => Setting::Ttl(-1),
            Setting::MinTtl(_) => Setting::MinTtl(0),
            Setting::Tos(_) => Setting::Tos(0),
            Setting::MaxSeg(_) => Setting::MaxSeg(0),
            Setting::Mark(_) => Setting::Mark(0),
            Setting::Device(_) => Setting::Device(Vec::new()),
            Setting::Md5(peer, _) => Setting::Md5(peer.clone(), Vec::new()),
        }
    }

    /// Whether it means "as if never set", so that asking for it is no wish. (MD5 only: the others' neutral values are values.)
    fn is_removal(&self) -> bool {
        matches!(self, Setting::Md5(_, key) if key.is_empty())
    }

    /// Whether it may be put on a connection that is already up for other instances: what names packets, not what guards them.
    pub fn suits_live(&self) -> bool {
        matches!(self, Setting::Ttl(_) | Setting::MinTtl(_) | Setting::Tos(_) | Setting::Mark(_))
    }

    /// Whether it goes on a listening socket. MINTTL would keep every other peer's SYN out: it waits for the connection.
    pub fn suits_listener(&self) -> bool {
        !matches!(self, Setting::MinTtl(_))
    }

    /// Whether a connection without it must not be dialled.
    pub fn is_guard(&self) -> bool {
        matches!(self, Setting::Md5(..) | Setting::Device(_) | Setting::Mark(_))
    }

    /// Which family's sockets a listening socket's option belongs on: an MD5 key may name an IPv4 peer on an IPv6 socket.
    pub fn family(&self, v6: bool) -> bool {
        match self {
            Setting::Md5(peer, _) => peer.address.is_ipv6(),
            _ => v6,
        }
    }
}

impl std::fmt::Debug for Setting {
    /// For people; keys stay secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setting::Ttl(-1) => write!(f, "the default TTL"),
            Setting::Ttl(n) => write!(f, "TTL {n}"),
            Setting::MinTtl(n) => write!(f, "minimum TTL {n}"),
            Setting::Tos(n) => write!(f, "TOS {n:#04x}"),
            Setting::MaxSeg(n) => write!(f, "maximum segment size {n}"),
            Setting::Mark(n) => write!(f, "mark {n}"),
            Setting::Device(name) => write!(f, "interface {:?}", String::from_utf8_lossy(name)),
            Setting::Md5(peer, key) if key.is_empty() => write!(f, "no MD5 key for {}", peer.address),
            Setting::Md5(peer, _) => write!(f, "an MD5 key of its own for {}", peer.address),
        }
    }
}

fn int(value: &[u8]) -> Result<i32, i32> {
    value.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)).ok_or(libc::EINVAL)
}

/// IP level options may be one octet long.
fn byte_or_int(value: &[u8]) -> Result<i32, i32> {
    int(value).or_else(|e| value.first().map(|b| i32::from(*b)).ok_or(e))
}

fn in_range(n: i32, min: i32, max: i32, default: bool) -> Result<i32, i32> {
    if (min..=max).contains(&n) || (default && n == -1) { Ok(n) } else { Err(libc::EINVAL) }
}

/// struct tcp_md5sig: sockaddr_storage (128), flags, prefix length, key length (u16), ifindex (i32), key (80).
fn md5(value: &[u8], extended: bool) -> Result<Setting, i32> {
    let value: &[u8; MD5SIG_LEN] = value.first_chunk().ok_or(libc::EINVAL)?;
    let family = u16::from_ne_bytes([value[0], value[1]]);
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(value[4], value[5], value[6], value[7])),
        libc::AF_INET6 => {
            let octets: [u8; 16] = value[8..24].try_into().map_err(|_| libc::EINVAL)?;
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return Err(libc::EINVAL),
    };
    let flags = if extended { value[128] } else { 0 };
    let key_len = usize::from(u16::from_ne_bytes([value[130], value[131]]));
    let ifindex = i32::from_ne_bytes([value[132], value[133], value[134], value[135]]);
    if key_len > MD5_KEY_MAX {
        return Err(libc::EINVAL);
    }
    let key = value[136..136 + key_len].to_vec();
    let prefix_len = (flags & MD5_FLAG_PREFIX != 0).then_some(value[129]);
    let ifindex = (flags & MD5_FLAG_IFINDEX != 0).then_some(ifindex);
    Ok(Setting::Md5(Md5Peer { address, prefix_len, ifindex }, key))
}

fn md5_value(peer: &Md5Peer, key: &[u8]) -> [u8; MD5SIG_LEN] {
    let mut value = [0; MD5SIG_LEN];
    match peer.address {
        IpAddr::V4(a) => {
            value[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            value[4..8].copy_from_slice(&a.octets());
        }
        IpAddr::V6(a) => {
            value[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            value[8..24].copy_from_slice(&a.octets());
        }
    }
    if let Some(len) = peer.prefix_len {
        value[128] |= MD5_FLAG_PREFIX;
        value[129] = len;
    }
    if let Some(index) = peer.ifindex {
        value[128] |= MD5_FLAG_IFINDEX;
        value[132..136].copy_from_slice(&index.to_ne_bytes());
    }
    let len = key.len().min(MD5_KEY_MAX);
    value[130..132].copy_from_slice(&(len as u16).to_ne_bytes());
    value[136..136 + len].copy_from_slice(&key[..len]);
    value
}

/// Puts a setting on a real TCP socket.
pub fn apply(fd: BorrowedFd<'_>, setting: &Setting, v6: bool) -> io::Result<()> {
    let ip = |v4: i32, v6_name: i32| if v6 { (libc::IPPROTO_IPV6, v6_name) } else { (libc::IPPROTO_IP, v4) };
    let ((level, name), value) = match setting {
        Setting::Ttl(n) => (ip(libc::IP_TTL, libc::IPV6_UNICAST_HOPS), *n),
        Setting::MinTtl(n) => (ip(libc::IP_MINTTL, IPV6_MINHOPCOUNT), *n),
        Setting::Tos(n) => (ip(libc::IP_TOS, libc::IPV6_TCLASS), *n),
        Setting::MaxSeg(n) => ((libc::IPPROTO_TCP, libc::TCP_MAXSEG), *n),
        Setting::Mark(n) => ((libc::SOL_SOCKET, libc::SO_MARK), *n),
        Setting::Device(name) => return sys::set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name),
        Setting::Md5(peer, key) => {
            let extended = peer.prefix_len.is_some() || peer.ifindex.is_some();
            let name = if extended { TCP_MD5SIG_EXT } else { libc::TCP_MD5SIG };
            return match sys::set_option(fd, libc::IPPROTO_TCP, name, &md5_value(peer, key)) {
                // Taking away a key that is not there changes nothing.
                Err(e) if key.is_empty() && e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                r => r,
            };
        }
    };
    sys::set_int(fd, level, name, value)
}

/// Whether getsockopt of the real connection may answer for the leg. A list, since some of Linux's reads change the socket
/// (TCP_ZEROCOPY_RECEIVE takes data, SO_ERROR clears).
pub fn may_read(level: i32, name: i32) -> bool {
    match level {
        libc::SOL_SOCKET => matches!(name, libc::SO_BINDTODEVICE | libc::SO_MARK | libc::SO_KEEPALIVE | libc::SO_PRIORITY),
        libc::IPPROTO_IP => matches!(name, libc::IP_TTL | libc::IP_MINTTL | libc::IP_TOS | libc::IP_MTU | libc::IP_MTU_DISCOVER),
        libc::IPPROTO_IPV6 => matches!(
            name,
            libc::IPV6_UNICAST_HOPS | IPV6_MINHOPCOUNT | libc::IPV6_TCLASS | libc::IPV6_MTU | libc::IPV6_MTU_DISCOVER | libc::IPV6_V6ONLY
        ),
        libc::IPPROTO_TCP => matches!(
            name,
            libc::TCP_INFO | libc::TCP_MAXSEG | libc::TCP_NODELAY | libc::TCP_CONGESTION | libc::TCP_USER_TIMEOUT | libc::TCP_KEEPIDLE
                | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT
        ),
        _ => false,
    }
}

/// All wishes.
#[derive(Default)]
pub struct Wishes {
    targets: HashMap<Target, Vec<Wish>>,
}

impl Wishes {
    /// An instance sets an option. `Err(errno)` when there are too many.
    pub fn set(&mut self, target: Target, instance: InstanceId, setting: Setting) -> Result<Outcome, i32> {
        if !self.targets.contains_key(&target) && self.targets.len() >= MAX_TARGETS {
            return Err(libc::ENOBUFS);
        }
        let wishes = self.targets.entry(target).or_default();
        if setting.is_removal() {
            let mut undone = Vec::new();
            remove(wishes, |w| w.instance == instance && w.setting.same_option(&setting), &mut undone);
            return Ok(undone.pop().map_or(Outcome::Unchanged, Outcome::Apply));
        }
        let first = wishes.iter().position(|w| w.setting.same_option(&setting));
        let mine = wishes.iter().position(|w| w.instance == instance && w.setting.same_option(&setting));
        let at = match mine {
            Some(at) => at,
            None if wishes.len() >= most(target) => return Err(libc::ENOBUFS),
            None => {
                wishes.push(Wish { instance, setting: setting.neutral(), told: false });
                wishes.len() - 1
            }
        };
        let kept = first.filter(|&f| f != at).and_then(|f| wishes.get(f)).map(|w| (w.instance, w.setting.clone()));
        let Some(wish) = wishes.get_mut(at) else { return Ok(Outcome::Unchanged) };
        let changed = mine.is_none() || wish.setting != setting;
        wish.told &= !changed;
        wish.setting = setting;
        Ok(match kept {
            Some((_, kept)) if kept == wish.setting => Outcome::Unchanged,
            Some((first, kept)) => Outcome::Differs { first, kept, tell: !std::mem::replace(&mut wish.told, true) },
            None if changed => Outcome::Apply(wish.setting.clone()),
            None => Outcome::Unchanged,
        })
    }

    /// An instance's wishes for a target are these and no others (a new connect call names all of them). What differs from another
    /// instance's is returned.
    pub fn replace(&mut self, target: Target, instance: InstanceId, settings: Vec<Setting>) -> Result<Vec<(Setting, Outcome)>, i32> {
        if let Some(wishes) = self.targets.get_mut(&target) {
            wishes.retain(|w| w.instance != instance || settings.iter().any(|s| s.same_option(&w.setting)));
        }
        settings.into_iter().map(|s| Ok((s.clone(), self.set(target, instance, s)?))).collect()
    }

    /// An instance wishes nothing any more for a target; what the real sockets get instead is returned.
    pub fn clear(&mut self, target: Target, instance: InstanceId) -> Vec<Setting> {
        let mut undone = Vec::new();
        if let Some(wishes) = self.targets.get_mut(&target) {
            remove(wishes, |w| w.instance == instance, &mut undone);
            if wishes.is_empty() {
                self.targets.remove(&target);
            }
        }
        undone
    }

    /// An instance is gone: its wishes for peers too.
    pub fn forget_peers(&mut self, instance: InstanceId) {
        self.targets.retain(|target, wishes| {
            if matches!(target, Target::Peer(_)) {
                wishes.retain(|w| w.instance != instance);
            }
            !wishes.is_empty()
        });
    }

    /// What counts for a target: of each option the first instance's wish.
    pub fn effective(&self, target: Target) -> Vec<Setting> {
        let mut all: Vec<Setting> = Vec::new();
        for w in self.targets.get(&target).into_iter().flatten() {
            if !all.iter().any(|s| s.same_option(&w.setting)) {
                all.push(w.setting.clone());
            }
        }
        all
    }

    /// One instance's wishes for a target.
    pub fn of(&self, target: Target, instance: InstanceId) -> impl Iterator<Item = &Setting> {
        self.targets.get(&target).into_iter().flatten().filter(move |w| w.instance == instance).map(|w| &w.setting)
    }
}

fn most(target: Target) -> usize {
    match target {
        Target::Listener { .. } => MAX_WISHES,
        Target::Peer(_) => MAX_WISHES_PEER,
    }
}

/// Removes wishes; what counted and now does not is replaced by the next one's, or undone.
fn remove(wishes: &mut Vec<Wish>, gone: impl Fn(&Wish) -> bool, undone: &mut Vec<Setting>) {
    let mut at = 0;
    while let Some(w) = wishes.get(at) {
        if !gone(w) {
            at += 1;
            continue;
        }
        let removed = wishes.remove(at).setting;
        let counted = !wishes.iter().take(at).any(|w| w.setting.same_option(&removed));
        if counted {
            // The next in line counts unless it goes too; then its own turn here puts things right.
            let next = wishes.iter().skip(at).find(|w| w.setting.same_option(&removed));
            undone.retain(|s| !s.same_option(&removed));
            undone.push(next.map_or_else(|| removed.neutral(), |w| w.setting.clone()));
        }
    }
}
