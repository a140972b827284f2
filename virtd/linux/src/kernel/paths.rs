//! The routes to those configured peers that are not directly connected: which of them have
//! changed.
//!
//! A notification says of a route that it changed, not whether a packet to the peer takes it: there
//! may be a more specific one, and IPv4 routes go with their link without a word. So each
//! notification that could matter only has the kernel asked which route it would take
//! (RTM_GETROUTE), and its answer is compared with the one before. What virtd itself has written is
//! no change: it is the outcome of votes, not their cause.

use super::socket::{ANSWER_QUEUE, Received, RouteSocket};
use super::view::{View, inside};
use broker::io::KernelNews;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wire::bgp::Prefix;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, FibRoute};
use wire::netlink::message::Writer;
use wire::netlink::route::RTMSG_LEN;
use wire::netlink::{Frame, Frames, RouteMessage};

/// What the kernel does by itself after a link or an address has changed is done by then; it is
/// looked at once more.
const SETTLED: Duration = Duration::from_millis(100);

/// The addresses of the configured peers. The loop changes them when a reload does.
#[derive(Clone, Default, Debug)]
pub struct Peers(Arc<Mutex<(u64, BTreeSet<IpAddr>)>>);

impl Peers {
    /// These, from now on.
    pub fn set(&self, peers: BTreeSet<IpAddr>) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.1 != peers {
            *shared = (shared.0 + 1, peers);
        }
    }

    /// They, if they have changed since that version.
    fn newer(&self, than: u64) -> Option<(u64, BTreeSet<IpAddr>)> {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (shared.0 != than).then(|| shared.clone())
    }
}

/// What the kernel says of the way to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reached {
    /// There is none (errno).
    None(i32),
    /// A route of virtd's own.
    Own,
    /// Another's: its key, metric, protocol and next hops.
    Other(FibKey, u32, u8, Vec<u8>),
}

/// See the module's comment.
pub struct Paths {
    /// Where it is asked; opened when there is somebody to ask for.
    socket: Option<RouteSocket>,
    /// virtd's own protocol number, where it writes routes.
    own: Option<u8>,
    shared: Peers,
    version: u64,
    peers: BTreeSet<IpAddr>,
    /// Those of them that are not directly connected.
    far: BTreeSet<IpAddr>,
    /// The ways to these, as last seen.
    ways: BTreeMap<IpAddr, Reached>,
    /// Whose way may have changed.
    due: BTreeSet<IpAddr>,
    /// Links or addresses have changed: who is directly connected may have, too, and any way.
    anew: bool,
    again_at: Option<Instant>,
}

impl Paths {
    /// Nobody's, until [`Peers::set`] names some.
    pub fn new(shared: Peers, own: Option<u8>) -> Paths {
        Paths {
            socket: None,
            own,
            shared,
            version: 0,
            peers: BTreeSet::new(),
            far: BTreeSet::new(),
            ways: BTreeMap::new(),
            due: BTreeSet::new(),
            anew: false,
            again_at: None,
        }
    }

    /// A route that is not virtd's own came, went or changed.
    pub fn note(&mut self, destination: &Prefix) {
        if !self.far.is_empty() {
            self.due.extend(inside(destination, &self.far).copied());
        }
    }

    /// Links or addresses have changed, or notifications were lost.
    pub fn look_again(&mut self) {
        self.anew = true;
        self.again_at = Some(Instant::now() + SETTLED);
    }

    /// Whether there is any peer that is not directly connected.
    pub fn has_any(&self) -> bool {
        !self.far.is_empty()
    }

    /// When [`Paths::look`] is wanted although nothing has happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.again_at.filter(|_| !self.peers.is_empty())
    }

    /// Asks the kernel where something may have changed; the news.
    pub fn look(&mut self, view: &View, now: Instant) -> Vec<KernelNews> {
        if let Some((version, peers)) = self.shared.newer(self.version) {
            (self.version, self.peers, self.anew) = (version, peers, true);
        }
        self.anew |= self.again_at.is_some_and(|at| now >= at);
        if std::mem::take(&mut self.anew) {
            self.again_at = self.again_at.filter(|at| now < *at);
            self.far = view.beyond(&self.peers);
            // One on an unnamed link has no route that could be asked for.
            self.far.retain(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
            self.ways.retain(|peer, _| self.far.contains(peer));
            self.due.clone_from(&self.far);
        }
        let due = std::mem::take(&mut self.due);
        due.into_iter().filter_map(|peer| self.ask(peer)).collect()
    }

    fn ask(&mut self, peer: IpAddr) -> Option<KernelNews> {
        let way = match self.way(peer) {
            Ok(way) => way,
            Err(e) => {
                log::warn!("the route to {peer} cannot be looked up: {e}");
                // What is queued there may be the answer to this.
                self.socket = None;
                return None;
            }
        };
        let was = self.ways.insert(peer, way.clone())?;
        (was != way).then_some(KernelNews::Path { peer })
    }

    /// The route that the kernel would take.
    fn way(&mut self, peer: IpAddr) -> io::Result<Reached> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => RouteSocket::open(&[], ANSWER_QUEUE)?,
        };
        let seq = socket.ask(RTM_GETROUTE, 0, &question(peer))?;
        loop {
            let Received::Datagram(bytes) = socket.receive()? else {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no answer"));
            };
            let frames = Frames::new(bytes).flatten();
            let answer = frames.filter(|f| f.header.seq == seq).find_map(|frame| read(&frame, self.own));
            if let Some(way) = answer {
                self.socket = Some(socket);
                return Ok(way);
            }
        }
    }
}

/// `struct rtmsg` and the destination.
fn question(peer: IpAddr) -> Vec<u8> {
    // IPv6 always says the table, and refuses to be asked for it.
    let (family, len, flags) = match peer {
        IpAddr::V4(_) => (AF_INET, 32, RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH),
        IpAddr::V6(_) => (AF_INET6, 128, RTM_F_FIB_MATCH),
    };
    let mut fixed = [0; RTMSG_LEN];
    let flags = flags.to_ne_bytes();
    for (octet, value) in fixed.iter_mut().zip([family, len, 0, 0, 0, 0, 0, 0].into_iter().chain(flags)) {
        *octet = value;
    }
    let mut body = Vec::new();
    let mut w = Writer::payload(&mut body);
    w.put(&fixed);
    w.attr_ip(RTA_DST, peer);
    // One attribute always fits.
    let _ = w.finish();
    body
}

fn read(frame: &Frame<'_>, own: Option<u8>) -> Option<Reached> {
    match (frame.header.kind, frame.errno()) {
        (RTM_NEWROUTE, _) => {
            let Ok(message) = RouteMessage::parse(frame.payload) else { return Some(Reached::None(libc::EBADMSG)) };
            if own == Some(message.protocol) {
                return Some(Reached::Own);
            }
            let Ok(key) = FibKey::from_message(&message) else { return Some(Reached::None(libc::EBADMSG)) };
            // What wire cannot compare is told apart by the rest.
            let hops = FibRoute::from_message(&message, |_| None).map(|route| route.to_bytes()).unwrap_or_default();
            Some(Reached::Other(key, message.priority.unwrap_or(0), message.protocol, hops))
        }
        (NLMSG_ERROR, errno) => Some(Reached::None(errno.unwrap_or(libc::EIO))),
        _ => None,
    }
}
