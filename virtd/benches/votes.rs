//! How many candidates a second one core takes from three instances: from the bytes that arrived on
//! a leg to the vote and, where the vote changed something, to the UPDATE for the peer (the target:
//! 2 million a second). The core is the real one, with nobody's I/O around it.
//!
//! One candidate is what one instance says of one prefix. `core unchanged` has every instance
//! repeat its whole table; `core new` has all three say other routes for every prefix, so that each
//! key is voted on three times and published once. `voter decide` is the vote alone, on candidates
//! that are small numbers already. The yardstick is bgpkit-parser, which only decodes.

mod bed;

use bed::{Bed, INSTANCES, table};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::hint::black_box;
use voter::{Ballot, Exact, Members, Rules, decide};

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
                    restless: false,
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
