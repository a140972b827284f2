//! What the benches of the votes share: the real core with three instances and one peer, and a
//! table for them to say.

#![allow(dead_code, reason = "each bench uses a part of it")]

use broker::Core;
use broker::io::{ConnId, Input, InstanceId, LegId, ListenerId, Output};
use bytes::{Bytes, BytesMut};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use virtd_config::{Config, Instance, Strategy};
use wire::bgp::message::{Capability, Open, keepalive};
use wire::bgp::{Family, Prefix, UpdateContext, encode};

/// How many say the same.
pub const INSTANCES: u8 = 3;
const OUR_AS: u32 = 65000;
const PEER_AS: u32 = 65001;
const CONN: ConnId = ConnId(1);
/// More than the caches of a small machine hold.
const UPDATES: usize = 20_000;
/// What a read takes from a socket at once.
const READ: usize = 64 * 1024;

/// A core with three instances and one peer, all sessions up.
pub struct Bed {
    core: Core,
    now: u64,
    /// One leg an instance.
    pub legs: Vec<LegId>,
    /// What the core wants done.
    pub out: Vec<Output>,
    sent: u64,
}

impl Bed {
    /// All sessions up, nothing said yet.
    pub fn new() -> Bed {
        let mut config = Config { accept_any: true, ..Config::default() };
        config.vote.strategy = Strategy::WaitForConsensus;
        let named = |i| Instance { name: format!("i{i}"), ..Instance::default() };
        config.instances = (0..INSTANCES).map(named).collect();
        let mut bed = Bed { core: Core::new(&config, 0), now: 0, legs: Vec::new(), out: Vec::new(), sent: 0 };
        let local = SocketAddr::from(([192, 0, 2, 254], 179));
        for i in 0..INSTANCES {
            let listener = ListenerId(101 + 2 * u64::from(i));
            bed.handle(Input::InstanceAttached { instance: InstanceId(i), pid: 100 });
            bed.handle(Input::Listening { instance: InstanceId(i), listener, local, v6_only: false });
        }
        bed.handle(Input::PeerAccepted { conn: CONN, peer: SocketAddr::from(([192, 0, 2, 1], 40000)), local });
        bed.peer_sends(&open(PEER_AS, [10, 0, 0, 1]));
        for _ in 0..8 {
            bed.answer();
        }
        bed.peer_sends(&keepalive());
        assert_eq!(bed.legs.len(), usize::from(INSTANCES), "every instance is offered a leg");
        bed
    }

    /// One input, as the driver gives it.
    pub fn handle(&mut self, input: Input<'_>) {
        self.now += 100;
        self.core.handle(self.now, input);
        self.core.decide(self.now);
        self.out.append(&mut self.core.take_outputs());
    }

    fn peer_sends(&mut self, bytes: &[u8]) {
        let mut buf = BytesMut::from(bytes);
        self.handle(Input::PeerBytes { conn: CONN, buf: &mut buf });
    }

    fn leg_sends(&mut self, leg: LegId, bytes: &[u8]) {
        let mut buf = BytesMut::from(bytes);
        self.handle(Input::LegBytes { leg, buf: &mut buf });
        assert!(buf.is_empty(), "the core takes whole messages");
    }

    /// Instances open their legs and answer an OPEN with a KEEPALIVE.
    fn answer(&mut self) {
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::OfferLeg { leg, .. } => {
                    self.legs.push(leg);
                    self.leg_sends(leg, &open(OUR_AS, [10, 9, 9, 9]));
                }
                Output::SendLeg { leg, bytes } if bytes.get(18) == Some(&1) => self.leg_sends(leg, &keepalive()),
                Output::CloseLeg { .. } | Output::ClosePeer { .. } => panic!("a session ended: {output:?}"),
                _ => {}
            }
        }
    }

    /// Every instance sends all this; returns how many octets of UPDATEs went to the peer.
    pub fn all_say(&mut self, reads: &[Bytes]) -> u64 {
        let legs = self.legs.clone();
        let mut sent = 0;
        // In turn, a read each: as instances that keep pace with each other.
        for read in reads {
            for leg in &legs {
                self.leg_sends(*leg, read);
            }
            for output in self.out.drain(..) {
                match output {
                    Output::SendPeer { bytes, .. } => sent += bytes.len() as u64,
                    Output::CloseLeg { .. } | Output::ClosePeer { .. } => panic!("a session ended: {output:?}"),
                    _ => {}
                }
            }
        }
        self.sent += sent;
        sent
    }
}

fn open(asn: u32, id: [u8; 4]) -> Bytes {
    let capabilities = vec![Capability::Multiprotocol(Family::IPV4_UNICAST), Capability::FourOctetAs(asn)];
    Open { asn, hold_time_s: 0, router_id: Ipv4Addr::from(id), capabilities }.encode()
}

/// A table: whole messages, as reads from a socket give them, the bodies alone, and how many
/// prefixes there are.
pub struct Table {
    /// As reads from a socket give them.
    pub reads: Vec<Bytes>,
    /// The UPDATEs' bodies alone.
    pub bodies: Vec<Bytes>,
    /// How many there are.
    pub prefixes: u64,
}

/// Distinct prefixes; UPDATEs like those of a real table: 3 to 7 hops, communities on half of them,
/// up to ten prefixes. Another `version` has the same prefixes with other paths.
pub fn table(version: u32) -> Table {
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut reads, mut bodies, mut read, mut next) = (Vec::new(), Vec::new(), BytesMut::new(), 0u32);
    for _ in 0..UPDATES {
        let hops = rng.random_range(3..8u8);
        let mut route = vec![4, 192, 0, 2, 254, 0, 0x40, 1, 0, 1, 0, 0x40, 2, 0, 2 + 4 * (hops + 1), 2, hops + 1];
        route.extend(OUR_AS.to_be_bytes());
        (0..hops).for_each(|_| route.extend((rng.random_range(1..60_000u32) + version * 70_000).to_be_bytes()));
        let communities = if rng.random() { rng.random_range(1..8u8) } else { 0 };
        if communities > 0 {
            route.extend([0xc0, 8, 0, 4 * communities]);
            (0..communities).for_each(|_| route.extend([253, rng.random(), rng.random(), rng.random()]));
        }
        let count = rng.random_range(1..11u32);
        let prefix = |n: u32| Prefix::new(IpAddr::V4(((20 << 24) + (n << 8)).into()), 24);
        let prefixes: Vec<Prefix> = (next..next + count).filter_map(prefix).collect();
        next += count;
        let mut message = BytesMut::new();
        encode::announce(&route, &prefixes, &UpdateContext::EBGP, &mut message);
        bodies.push(Bytes::copy_from_slice(&message[19..]));
        if read.len() + message.len() > READ {
            reads.push(read.split().freeze());
        }
        read.extend_from_slice(&message);
    }
    reads.push(read.freeze());
    Table { reads, bodies, prefixes: u64::from(next) }
}
