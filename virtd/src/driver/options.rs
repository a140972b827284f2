//! Socket options that reach virtd's real sockets, and what to do where instances differ (DESIGN decision 3). Pure.

/// IPV6_MINHOPCOUNT.
const IPV6_MINHOPCOUNT: i32 = 73;
/// TCP_MD5SIG_EXT.
const TCP_MD5SIG_EXT: i32 = 32;
/// sizeof(struct tcp_md5sig).
const MD5SIG_LEN: usize = 216;
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

/// Whether it reaches virtd's listening sockets: keys only, since those sockets serve every peer.
pub fn matters_to_listener(level: i32, option: i32) -> bool {
    level == libc::IPPROTO_TCP && matches!(option, libc::TCP_MD5SIG | TCP_MD5SIG_EXT)
}

/// Address family of the peer that an MD5 key (struct tcp_md5sig) is for.
pub fn key_family(value: &[u8]) -> Option<i32> {
    match value {
        [a, b, ..] if value.len() >= MD5SIG_LEN => Some(i32::from(u16::from_ne_bytes([*a, *b]))),
        _ => None,
    }
}

/// Whether two MD5 options hold one key: daemons write the rest of the structure (port, prefix length) each in their own way.
fn same_key(level: i32, option: i32, a: &[u8], b: &[u8]) -> bool {
    let key = |v: &[u8]| v.get(KEYLEN_AT..KEYLEN_AT + 2).zip(v.get(136..)).map(|(n, k)| (n.to_vec(), k.to_vec()));
    matters_to_listener(level, option) && key(a).is_some() && key(a) == key(b)
}

/// What setting an option on a shared connection comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is set so already.
    Same,
    /// To be put on the real socket.
    Apply,
    /// This instance set it otherwise first, and that stays.
    Differs(u8),
}

/// Who set what first on one connection.
#[derive(Debug, Default)]
pub struct Agreed {
    set: Vec<(u8, i32, i32, Vec<u8>)>,
}

impl Agreed {
    /// An instance sets an option. The one that came first may change its mind.
    pub fn set(&mut self, instance: u8, level: i32, option: i32, value: &[u8]) -> Outcome {
        match self.set.iter_mut().find(|(_, l, n, _)| (*l, *n) == (level, option)) {
            Some((_, _, _, old)) if old == value || same_key(level, option, old, value) => Outcome::Same,
            Some((first, _, _, _)) if *first != instance => Outcome::Differs(*first),
            Some((_, _, _, old)) => {
                value.clone_into(old);
                Outcome::Apply
            }
            None => {
                if self.set.len() < MAX_AGREED {
                    self.set.push((instance, level, option, value.to_vec()));
                }
                Outcome::Apply
            }
        }
    }
}

/// Options a daemon may read from the real socket of its leg: those whose reading changes nothing.
pub fn may_read(level: i32, option: i32) -> bool {
    let harmless = match level {
        libc::IPPROTO_TCP => {
            matches!(option, libc::TCP_MAXSEG | libc::TCP_INFO | libc::TCP_NODELAY | libc::TCP_USER_TIMEOUT)
        }
        libc::IPPROTO_IP => matches!(option, libc::IP_MTU | libc::IP_MTU_DISCOVER),
        libc::IPPROTO_IPV6 => matches!(option, libc::IPV6_MTU | libc::IPV6_V6ONLY),
        libc::SOL_SOCKET => option == libc::SO_PRIORITY,
        _ => false,
    };
    let secret = level == libc::IPPROTO_TCP && matches!(option, libc::TCP_MD5SIG | TCP_MD5SIG_EXT);
    harmless || (matters(level, option) && !secret)
}

/// A listening socket of an instance: (instance, listener).
type Holder = (u8, u64);

/// Who wants which MD5 key on virtd's listening sockets. Keys are told apart by option and peer: everything of struct
/// tcp_md5sig but the key itself.
#[derive(Debug, Default)]
pub struct Keys {
    held: Vec<(Holder, i32, Vec<u8>)>,
}

/// What a key set by one instance means for the real socket.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Nothing to do.
    None,
    /// Put it there.
    Set,
    /// Nobody wants it any more: this value removes it.
    Remove(Vec<u8>),
    /// This instance set another key for the same peer first.
    Differs(u8),
}

/// Offset of tcpm_keylen in struct tcp_md5sig: behind the address (128 octets), flags and prefix length.
const KEYLEN_AT: usize = 130;
/// Keys at most: each names a peer.
const MAX_KEYS: usize = 16384;

/// The peer a key is for: its address, flags and prefix length.
fn peer_of(value: &[u8]) -> &[u8] {
    value.get(..KEYLEN_AT).unwrap_or(value)
}

fn removes(value: &[u8]) -> bool {
    value.get(KEYLEN_AT..KEYLEN_AT + 2).is_none_or(|n| n == [0, 0])
}

/// The value that removes what `value` set.
fn removal(value: &[u8]) -> Vec<u8> {
    let mut v = peer_of(value).to_vec();
    v.resize(value.len(), 0);
    v
}

impl Keys {
    /// `holder` sets or removes a key.
    pub fn set(&mut self, holder: Holder, option: i32, value: &[u8]) -> KeyChange {
        let same_peer = |(_, o, v): &&(Holder, i32, Vec<u8>)| *o == option && peer_of(v) == peer_of(value);
        if removes(value) {
            let before = self.held.len();
            self.held.retain(|h| h.0 != holder || !same_peer(&h));
            let gone = before != self.held.len() && !self.held.iter().any(|h| same_peer(&h));
            return if gone { KeyChange::Remove(value.to_vec()) } else { KeyChange::None };
        }
        if let Some((other, ..)) = self.held.iter().find(|h| same_peer(h) && h.0.0 != holder.0 && h.2 != value) {
            return KeyChange::Differs(other.0);
        }
        self.held.retain(|h| h.0 != holder || !same_peer(&h));
        if self.held.len() < MAX_KEYS {
            self.held.push((holder, option, value.to_vec()));
        }
        KeyChange::Set
    }

    /// `holder` is closed; gives what removes the keys that nobody else wants.
    pub fn forget(&mut self, holder: Holder) -> Vec<(i32, Vec<u8>)> {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(|h| h.0 == holder);
        self.held = kept;
        let wanted = |o: i32, v: &[u8]| self.held.iter().any(|h| h.1 == o && peer_of(&h.2) == peer_of(v));
        gone.iter().filter(|(_, o, v)| !wanted(*o, v)).map(|(_, o, v)| (*o, removal(v))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(peer: u8, key: &[u8]) -> Vec<u8> {
        let mut v = vec![0; MD5SIG_LEN];
        (v[0], v[4]) = (libc::AF_INET as u8, peer);
        v[KEYLEN_AT] = key.len() as u8;
        v[136..136 + key.len()].copy_from_slice(key);
        v
    }

    #[test]
    fn a_key_stays_while_anybody_wants_it() {
        let mut keys = Keys::default();
        assert_eq!(keys.set((0, 1), libc::TCP_MD5SIG, &key(7, b"secret")), KeyChange::Set);
        assert_eq!(keys.set((1, 2), libc::TCP_MD5SIG, &key(7, b"secret")), KeyChange::Set);
        assert_eq!(keys.set((2, 3), libc::TCP_MD5SIG, &key(7, b"other")), KeyChange::Differs(0));
        assert_eq!(keys.set((0, 1), libc::TCP_MD5SIG, &key(7, b"")), KeyChange::None, "the second still wants it");
        assert_eq!(keys.set((1, 2), libc::TCP_MD5SIG, &key(8, b"more")), KeyChange::Set);
        let gone = keys.forget((1, 2));
        assert_eq!(gone, vec![(libc::TCP_MD5SIG, key(7, b"")), (libc::TCP_MD5SIG, key(8, b""))]);
        assert_eq!(keys.set((1, 2), libc::TCP_MD5SIG, &key(7, b"")), KeyChange::None, "gone already");
    }

    #[test]
    fn the_first_decides_and_who_differs_is_named() {
        let mut a = Agreed::default();
        assert_eq!(a.set(0, libc::IPPROTO_IP, libc::IP_TTL, &[255, 0, 0, 0]), Outcome::Apply);
        assert_eq!(a.set(1, libc::IPPROTO_IP, libc::IP_TTL, &[255, 0, 0, 0]), Outcome::Same);
        assert_eq!(a.set(1, libc::IPPROTO_IP, libc::IP_TTL, &[1, 0, 0, 0]), Outcome::Differs(0));
        assert_eq!(a.set(0, libc::IPPROTO_IP, libc::IP_TTL, &[64, 0, 0, 0]), Outcome::Apply, "its own mind");
    }

    #[test]
    fn reading_a_key_or_an_error_of_the_real_socket_is_refused() {
        assert!(may_read(libc::IPPROTO_TCP, libc::TCP_INFO));
        assert!(may_read(libc::IPPROTO_IP, libc::IP_TTL));
        assert!(!may_read(libc::IPPROTO_TCP, libc::TCP_MD5SIG));
        assert!(!may_read(libc::SOL_SOCKET, libc::SO_ERROR));
    }
}
