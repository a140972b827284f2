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
            Some((_, _, _, old)) if old == value => Outcome::Same,
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
