//! What is under way, in memory that outlives the process: a few stores for each message, and no
//! system call. The next worker reads what the last one died of.
//!
//! ```text
//!  0        8         12      13     14     15    16      32    48      52      56        60     124
//! +--------+---------+-------+------+------+-----+-------+-----+-------+-------+---------+------+--------+
//! | magic  | version | stage | key? | peer?| as4 |  key  |peer | scope | octets| key len | name | octets |
//! +--------+---------+-------+------+------+-----+-------+-----+-------+-------+---------+------+--------+
//! ```
//! Addresses are as they stand on the wire, numbers are the machine's. It is nothing of the journal's:
//! one of another form is not read.

use super::shared::Mapped;
use super::{is_named, take};
use broker::witness::{LastWord, Saying, Stage, Witness};
use bytes::Bytes;
use std::cell::RefCell;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use wire::bgp::frame::MAX_LEN_EXTENDED;
use wire::bgp::{Family, Prefix};

const NAME: &CStr = c"virtd-progress";
/// "virtdprg".
const MAGIC: [u8; 8] = *b"virtdprg";
const VERSION: u32 = 1;
/// Octets of an instance's name at most.
const MAX_NAME: usize = wire::shim::MAX_NAME;

/// Where what stands.
mod at {
    pub const VERSION: usize = 8;
    pub const STAGE: usize = 12;
    pub const HAS_KEY: usize = 13;
    pub const HAS_PEER: usize = 14;
    pub const AS4: usize = 15;
    pub const KEY: usize = 16;
    pub const PEER: usize = 32;
    pub const SCOPE: usize = 48;
    pub const LEN: usize = 52;
    pub const KEY_LEN: usize = 56;
    pub const NAME_LEN: usize = 57;
    pub const NAME: usize = 60;
    pub const OCTETS: usize = NAME + super::MAX_NAME;
}

/// Octets of all.
const SIZE: usize = at::OCTETS + MAX_LEN_EXTENDED;

/// See the module's comment.
#[derive(Debug)]
pub struct Progress(RefCell<Mapped>);

/// What a worker was doing when it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Last {
    /// What.
    pub stage: Stage,
    /// What was last voted on meanwhile.
    pub key: Option<Prefix>,
    /// The peer whose octets these were, or that the leg was for.
    pub peer: Option<SocketAddr>,
    /// [`Stage::Leg`]: the message; `None` before the first one is whole.
    pub said: Option<LastWord>,
}

impl Progress {
    /// New memory, which says that nothing is under way.
    ///
    /// # Errors
    /// The kernel's: no memory, no fds.
    pub fn create() -> io::Result<Progress> {
        let mut mapped = Mapped::create(NAME, SIZE)?;
        mapped.prepare(SIZE)?;
        mapped.write(at::VERSION, &VERSION.to_ne_bytes());
        mapped.write(0, &MAGIC);
        Ok(Progress(RefCell::new(mapped)))
    }

    /// What the process before was doing, by the memory among these fds, which is taken out of them.
    pub fn of_the_last(fds: &mut Vec<OwnedFd>) -> Option<Last> {
        let at = fds.iter().position(|fd| is_named(fd.as_raw_fd(), NAME))?;
        let number = fds.get(at)?.as_raw_fd();
        let mapped = Mapped::of(take(fds, number, NAME)?).ok()?;
        read(mapped.octets(0, SIZE))
    }

    fn write(&self, parts: &[(usize, &[u8])]) {
        let mut mapped = self.0.borrow_mut();
        parts.iter().for_each(|(at, octets)| mapped.write(*at, octets));
    }
}

impl Witness for Progress {
    #[inline]
    fn begins(&self, stage: Stage) {
        // The three stand together.
        self.write(&[(at::STAGE, &[stage as u8, 0, 0])]);
    }

    fn hears(&self, peer: &SocketAddr) {
        let (kind, octets, scope) = written(peer);
        self.write(&[(at::PEER, &octets), (at::SCOPE, &scope), (at::HAS_PEER, &[kind])]);
    }

    fn is_told(&self, saying: &Saying<'_>) {
        self.begins(Stage::Leg);
        let (kind, peer, scope) = written(&saying.peer);
        let name = saying.instance.as_bytes();
        let (name, octets) = (name.get(..MAX_NAME).unwrap_or(name), saying.octets);
        let octets = octets.get(..MAX_LEN_EXTENDED).unwrap_or(octets);
        self.write(&[
            (at::OCTETS, octets),
            (at::NAME, name),
            (at::NAME_LEN, &[name.len() as u8]),
            (at::LEN, &(octets.len() as u32).to_ne_bytes()),
            (at::PEER, &peer),
            (at::SCOPE, &scope),
            (at::AS4, &[u8::from(saying.as4)]),
            // It is whole.
            (at::HAS_PEER, &[kind]),
        ]);
    }

    #[inline]
    fn votes_on(&self, prefix: &Prefix) {
        let mut key = [0; 16];
        let octets = prefix.octets();
        if let Some(room) = key.get_mut(..octets.len()) {
            room.copy_from_slice(octets);
        }
        let kind = if prefix.family() == Family::IPV6_UNICAST { 6 } else { 4 };
        self.write(&[(at::KEY, &key), (at::KEY_LEN, &[prefix.len()]), (at::HAS_KEY, &[kind])]);
    }
}

/// 4 or 6, the address, and of a link-local one the number of its interface.
fn written(peer: &SocketAddr) -> (u8, [u8; 16], [u8; 4]) {
    match peer {
        SocketAddr::V4(v4) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&v4.ip().octets());
            (4, octets, [0; 4])
        }
        SocketAddr::V6(v6) => (6, v6.ip().octets(), v6.scope_id().to_ne_bytes()),
    }
}

fn read(all: &[u8]) -> Option<Last> {
    let octet = |at: usize| all.get(at).copied();
    let four = |at: usize| Some(u32::from_ne_bytes(*all.get(at..)?.first_chunk::<4>()?));
    if all.get(..8)? != MAGIC || four(at::VERSION)? != VERSION {
        return None;
    }
    let stage = Stage::of(octet(at::STAGE)?)?;
    let family = match octet(at::HAS_KEY)? {
        4 => Some(Family::IPV4_UNICAST),
        6 => Some(Family::IPV6_UNICAST),
        _ => None,
    };
    let key = family.and_then(|family| Prefix::from_wire(family, octet(at::KEY_LEN)?, all.get(at::KEY..at::PEER)?));
    let address = all.get(at::PEER..)?.first_chunk::<16>()?;
    let peer = match octet(at::HAS_PEER)? {
        4 => {
            let [a, b, c, d, ..] = *address;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), 0))
        }
        6 => Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(*address), 0, 0, four(at::SCOPE)?))),
        _ => None,
    };
    let said = peer.filter(|_| stage == Stage::Leg).and_then(|peer| {
        let name = all.get(at::NAME..)?.get(..usize::from(octet(at::NAME_LEN)?))?;
        let octets = all.get(at::OCTETS..)?.get(..usize::try_from(four(at::LEN)?).ok()?)?;
        let instance = std::str::from_utf8(name).ok()?.to_owned();
        Some(LastWord { instance, peer, as4: octet(at::AS4)? == 1, octets: Bytes::copy_from_slice(octets) })
    });
    Some(Last { stage, key, peer, said })
}

impl std::fmt::Display for Last {
    /// As it stands behind "while".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.said, self.peer, self.stage) {
            (Some(said), ..) => {
                write!(f, "it took in a message of {} on its leg for {}", said.instance, said.peer.ip())?;
            }
            (None, Some(peer), Stage::Peer) => write!(f, "it took in what {} had sent", peer.ip())?,
            (_, _, stage) => write!(f, "{stage}")?,
        }
        self.key.map_or(Ok(()), |key| write!(f, " (the last vote was on {key})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited(progress: &Progress) -> Last {
        // SAFETY: the memory lives through the call.
        #[allow(unsafe_code)]
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(progress.0.borrow().fd()) };
        let mut fds = vec![fd.try_clone_to_owned().expect("a copy"), std::fs::File::open("/dev/null").unwrap().into()];
        let last = Progress::of_the_last(&mut fds).expect("it can be read");
        assert_eq!(fds.len(), 1, "what is not its own is left");
        last
    }

    #[test]
    fn the_next_process_knows_what_was_under_way() {
        let progress = Progress::create().expect("memory");
        let nothing = Last { stage: Stage::Outside, key: None, peer: None, said: None };
        assert_eq!(inherited(&progress), nothing);
        progress.begins(Stage::Votes);
        let key: Prefix = "2001:db8::/32".parse().expect("a prefix");
        progress.votes_on(&key);
        assert_eq!(inherited(&progress), Last { stage: Stage::Votes, key: Some(key), ..nothing.clone() });
        let octets = vec![7; MAX_LEN_EXTENDED];
        for (name, peer, octets) in
            [("frr", "192.0.2.1:0", &octets[..20]), (&"x".repeat(MAX_NAME), "[fe80::1%3]:0", &octets)]
        {
            let peer = peer.parse().expect("an address");
            progress.is_told(&Saying { instance: name, peer, as4: false, octets });
            let last = inherited(&progress);
            let said = LastWord { instance: name.to_owned(), peer, as4: false, octets: octets.to_vec().into() };
            assert_eq!(last, Last { stage: Stage::Leg, key: None, peer: Some(peer), said: Some(said) });
        }
        progress.begins(Stage::Peer);
        progress.hears(&"192.0.2.9:0".parse().expect("an address"));
        let text = inherited(&progress).to_string();
        assert_eq!(text, "it took in what 192.0.2.9 had sent");
        progress.begins(Stage::Outside);
        assert_eq!(inherited(&progress), nothing);
    }

    #[test]
    fn whatever_stands_there_is_read_or_not() {
        let mut all = vec![0; SIZE];
        assert_eq!(read(&all), None, "it was never begun");
        all[..8].copy_from_slice(&MAGIC);
        all[at::VERSION] = VERSION as u8;
        for octet in 0..=255 {
            all[at::STAGE..at::OCTETS].fill(octet);
            let _ = read(&all);
            let _ = read(&all[..at::OCTETS - 1]);
            all[at::STAGE] = Stage::Leg as u8;
            (all[at::HAS_PEER], all[at::HAS_KEY]) = (4, 6);
            let _ = read(&all);
        }
    }
}
