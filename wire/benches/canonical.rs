//! How fast UPDATEs become canonical routes and come back, on one core, beside bgpkit-parser's
//! decoding of the same bytes.
//!
//! Over the updates of a real file where it is at hand (`HV_MRT`, or the shared data beside the
//! checkout), else over generated ones. `per update` counts messages; `per candidate` counts
//! prefixes: the whole way from bytes that came from an instance to the knowledge that its
//! candidate for a prefix is what it was before.

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use wire::bgp::canonical::{AttributeSet, CanonicalContext, Canonicaliser, Carried, agrees};
use wire::bgp::frame::HEADER_LEN;
use wire::bgp::update::Update;
use wire::bgp::{Prefix, UpdateContext, encode, hygiene};
use wire::mrt;

/// As many updates as the caches of a small machine do not hold.
const GENERATED: usize = 50_000;

fn canonical_context() -> CanonicalContext {
    CanonicalContext {
        update: UpdateContext::EBGP,
        peer_as: 4_200_000_000,
        confederation: None,
        peer_router_id: Ipv4Addr::UNSPECIFIED,
        allow_own_as: false,
        ignore: AttributeSet::default(),
    }
}

/// The bodies of UPDATEs that announce something, and how many prefixes they announce.
struct Input {
    name: &'static str,
    bodies: Vec<Bytes>,
    prefixes: u64,
}

fn input() -> Input {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/mrt/updates.20190101.0000.gz"));
    let path = std::env::var_os("HV_MRT").map_or(beside, PathBuf::from);
    let (name, mut bodies) = match mrt::open(&path) {
        Ok(reader) => ("real", recorded(reader)),
        Err(e) => {
            eprintln!("{e}: using generated updates");
            ("generated", generated())
        }
    };
    let mut prefixes = 0;
    bodies.retain(|b| {
        let Ok(u) = Update::parse(b) else { return false };
        let n = announced(&u).map(|(_, nlri)| nlri.count()).sum::<usize>();
        prefixes += n as u64;
        n > 0
    });
    println!("{name} input: {} updates, {prefixes} prefixes", bodies.len());
    Input { name, bodies, prefixes }
}

fn recorded(reader: mrt::Reader) -> Vec<Bytes> {
    let message = |r: Result<mrt::Record, mrt::MrtError>| match r {
        Ok(mrt::Record::Message(m)) if m.as4 && !m.addpath && m.bytes.get(18) == Some(&2) => {
            Some(m.bytes.slice(HEADER_LEN..))
        }
        _ => None,
    };
    reader.filter_map(message).collect()
}

/// Updates like those of 2019: 3 to 7 hops, communities on half of them, up to ten prefixes.
fn generated() -> Vec<Bytes> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut one = || {
        let hops = rng.random_range(3..8u8);
        let mut route = vec![4, 192, 0, 2, 1, 0, 0x40, 1, 0, 1, 0, 0x40, 2, 0, 2 + 4 * hops, 2, hops];
        (0..hops).for_each(|_| route.extend(rng.random_range(1..400_000u32).to_be_bytes()));
        let communities = if rng.random() { rng.random_range(1..8u8) } else { 0 };
        if communities > 0 {
            route.extend([0xc0, 8, 0, 4 * communities]);
            (0..communities).for_each(|_| route.extend(rng.random::<[u8; 4]>()));
        }
        let prefixes: Vec<_> = (0..rng.random_range(1..11u8))
            .filter_map(|_| Prefix::new(IpAddr::V4(rng.random::<u32>().into()), rng.random_range(16..25)))
            .collect();
        let mut out = BytesMut::new();
        encode::announce(&route, &prefixes, &UpdateContext::EBGP, &mut out);
        out.freeze().slice(HEADER_LEN..)
    };
    (0..GENERATED).map(|_| one()).collect()
}

fn announced<'a>(u: &Update<'a>) -> impl Iterator<Item = (Carried, wire::bgp::update::Nlri<'a>)> + use<'a> {
    let all = [(Carried::Classic, Some(u.nlri)), (Carried::MpReach, u.mp_announced())];
    all.into_iter().filter_map(|(carried, nlri)| Some((carried, nlri.filter(|n| !n.is_empty())?)))
}

fn benches(c: &mut Criterion) {
    let input = input();
    let context = canonical_context();
    let mut canonicaliser = Canonicaliser::default();

    let mut group = c.benchmark_group(format!("{} updates", input.name));
    group.throughput(Throughput::Elements(input.bodies.len() as u64));
    group.bench_function("per update: parse", |b| {
        b.iter(|| input.bodies.iter().for_each(|body| drop(black_box(Update::parse(body)))));
    });
    group.bench_function("per update: parse and canonicalise", |b| {
        b.iter(|| {
            for body in &input.bodies {
                let Ok(u) = Update::parse(body) else { continue };
                for (carried, _) in announced(&u) {
                    black_box(canonicaliser.route(&u, carried, &context));
                }
            }
        });
    });
    group.bench_function("per update: bgpkit-parser's decode", |b| {
        use bgpkit_parser::models::AsnLength;
        use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
        b.iter(|| {
            for body in &input.bodies {
                let _ = black_box(parse_bgp_update_message(body.clone(), false, &AsnLength::Bits32));
            }
        });
    });
    group.finish();

    let mut first_route = |body: &Bytes| {
        let u = Update::parse(body).ok()?;
        let (carried, _) = announced(&u).next()?;
        canonicaliser.route(&u, carried, &context).map(<[u8]>::to_vec)
    };
    let before: Vec<Vec<u8>> = input.bodies.iter().map(|body| first_route(body).unwrap_or_default()).collect();
    let mut group = c.benchmark_group(format!("{} candidates", input.name));
    group.throughput(Throughput::Elements(input.prefixes));
    group.bench_function("per candidate: hygiene, parse, canonicalise, compare", |b| {
        b.iter(|| {
            let mut unchanged = 0u64;
            for (body, before) in input.bodies.iter().zip(&before) {
                let (hygiene::Verdict::Pass, Ok(u)) = (hygiene::check(body, &UpdateContext::EBGP), Update::parse(body))
                else {
                    continue;
                };
                for (carried, nlri) in announced(&u) {
                    let Some(route) = canonicaliser.route(&u, carried, &context) else { continue };
                    unchanged += nlri.filter(|p| agrees(black_box(route), before) && p.len() > 0).count() as u64;
                }
            }
            black_box(unchanged)
        });
    });
    group.bench_function("per candidate: announce", |b| {
        let all: Vec<(Vec<Prefix>, &Vec<u8>)> = input
            .bodies
            .iter()
            .zip(&before)
            .filter_map(|(body, route)| Some((announced(&Update::parse(body).ok()?).next()?.1.collect(), route)))
            .collect();
        let mut out = BytesMut::new();
        b.iter(|| {
            for (prefixes, route) in &all {
                out.clear();
                black_box(encode::announce(route, prefixes, &UpdateContext::EBGP, &mut out));
            }
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
