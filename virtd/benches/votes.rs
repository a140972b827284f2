//! How many candidates a second one core takes from three instances: from the bytes that arrived on a leg to the vote and, where
//! the vote changed something, to the UPDATE for the peer (TARGETS P6). The core is the real one, with nobody's I/O around it.
//!
//! One candidate is what one instance says of one prefix. `core unchanged` has every instance repeat its whole table; `core new`
//! has all three say other routes for every prefix, so that each key is voted on three times and published once. `voter decide`
//! is the vote alone, on candidates that are small numbers already. The yardstick is bgpkit-parser, which only decodes.

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use virtd::config::{Config, Instance, Strategy};
use virtd::core::Core;
use virtd::core::io::{ConnId, Input, InstanceId, LegId, ListenerId, Output};
use voter::{Ballot, Exact, Members, Rules, decide};
use wire::bgp::message::{Capability, Open, keepalive};
use wire::bgp::{Family, Prefix, SessionKind, UpdateContext, encode};

const INSTANCES: u8 = 3;
const OUR_AS: u32 = 65000;
const PEER_AS: u32 = 65001;
const CONN: ConnId = ConnId(1);
/// More than the caches of a small machine hold.
const UPDATES: usize = 20_000;
/// What a read takes from a socket at once.
const READ: usize = 64 * 1024;
const CONTEXT: UpdateContext =
    UpdateContext { as4: true, kind: SessionKind::Ebgp, extended_next_hop: false, max_message_len: 4096 };

/// A core with three instances and one peer, all sessions up.
struct Bed {
    core: Core,
    now: u64,
    legs: Vec<LegId>,
    out: Vec<Output>,
    sent: u64,
}

impl Bed {
    fn new() -> Bed {
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

    fn handle(&mut self, input: Input<'_>) {
        self.now += 100;
        self.core.handle(self.now, input, &mut self.out);
        self.core.flush(self.now, &mut self.out);
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
    fn all_say(&mut self, reads: &[Bytes]) -> u64 {
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

/// A table: whole messages, as reads from a socket give them, the bodies alone, and how many prefixes there are.
struct Table {
    reads: Vec<Bytes>,
    bodies: Vec<Bytes>,
    prefixes: u64,
}

/// Distinct prefixes; UPDATEs like those of a real table: 3 to 7 hops, communities on half of them, up to ten prefixes. Another
/// `version` has the same prefixes with other paths.
fn table(version: u32) -> Table {
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
        encode::announce(&route, &prefixes, &CONTEXT, &mut message);
        bodies.push(Bytes::copy_from_slice(&message[19..]));
        if read.len() + message.len() > READ {
            reads.push(read.split().freeze());
        }
        read.extend_from_slice(&message);
    }
    reads.push(read.freeze());
    Table { reads, bodies, prefixes: u64::from(next) }
}

fn benches(c: &mut Criterion) {
    let versions = [table(0), table(1)];
    let mut bed = Bed::new();
    assert!(bed.all_say(&versions[0].reads) > 0, "what all three say is published");
    let mut group = c.benchmark_group("votes");
    group.sample_size(20);

    group.throughput(Throughput::Elements(versions[0].prefixes * u64::from(INSTANCES)));
    group.bench_function("core unchanged", |b| {
        b.iter(|| assert_eq!(bed.all_say(&versions[0].reads), 0, "nothing new is nothing to tell"));
    });
    let mut turn = 0;
    group.bench_function("core new", |b| {
        b.iter(|| {
            turn += 1;
            assert!(bed.all_say(&versions[turn % 2].reads) > 0, "a new route is told");
        });
    });

    group.throughput(Throughput::Elements(versions[0].prefixes));
    group.bench_function("bgpkit-parser decode", |b| {
        use bgpkit_parser::models::AsnLength;
        use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
        b.iter(|| {
            for body in &versions[0].bodies {
                black_box(parse_bgp_update_message(body.clone(), false, &AsnLength::Bits32).expect("an UPDATE"));
            }
        });
    });
    voter_alone(&mut group);
    group.finish();
}

fn voter_alone(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    let rules = Rules {
        strategy: voter::Strategy::WaitForConsensus { k: 2 },
        steady_ms: 10_000,
        flap_cap_ms: 60_000,
        min_voters: 1,
    };
    let mut rng = SmallRng::seed_from_u64(2);
    let all: Vec<[u32; 3]> = (0..10_000).map(|_| std::array::from_fn(|_| rng.random_range(1..3u32))).collect();
    group.throughput(Throughput::Elements(all.len() as u64));
    group.bench_function("voter decide", |b| {
        b.iter(|| {
            for candidates in &all {
                let ballot = Ballot {
                    candidates: candidates.as_slice(),
                    electorate: Members::first(3),
                    master_line: &[],
                    winner: 1,
                    overruled: None,
                    first_disturbed: 0,
                    last_disturbed: 0,
                };
                black_box(decide(&rules, black_box(&ballot), Members::EMPTY, &Exact, 100));
            }
        });
    });
}

criterion_group!(all, benches);
criterion_main!(all);
