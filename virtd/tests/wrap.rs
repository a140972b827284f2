//! The core keeps some times in 32 bits of milliseconds, which begin anew after 49 days, 17 hours and
//! some minutes: when keys were last disturbed (the tables of the sessions and of the FIB), and when
//! peers last said something about a prefix (the store). A router that runs across that point does
//! what one does that has just been started.

mod sim;

use broker::io::{Order, ProcessNews};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sim::supervised::{news, obey, supervised};
use sim::{Sim, prefix};
use virtd_config::Strategy;

const SECOND: u64 = 1_000_000;
/// When 32 bits of milliseconds are full, in microseconds.
const WRAP: u64 = (1 << 32) * 1000;
/// How long before that a router begins.
const BEFORE: u64 = 60 * SECOND;
/// An UPDATE about this prefix kills instance 2, until it is withheld from it.
const DEADLY: &str = "203.0.113.0/24";
/// What flaps.
const FLAPPING: &str = "198.18.0.0/15";
/// What instance 0 lies about: enough to be a fault of its own.
const LIED: u8 = 12;

fn name(n: u8) -> String {
    format!("198.51.{n}.0/24")
}

/// What comes of a router that begins at `start`, in words that know no absolute time.
fn outcome(start: u64, seed: u64, strategy: Strategy) -> Vec<String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut config = supervised(4, strategy);
    config.recorder.folder = Some("/nonexistent".into());
    let fib = seed % 2 == 1;
    let mut sim = if fib { Sim::with_fib_begun_at(&config, start) } else { Sim::begun_at(&config, start) };
    sim.batch = 1 + seed as usize % 3;
    (0..4).for_each(|i| news(&mut sim, i, ProcessNews::Started { pid: 100 + i as u32 }));
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(SECOND);
    (0..20).for_each(|n| sim.announce(1, &[&name(n)], &[64501, 65000]));
    let mut orders = Vec::new();
    // Tenths of a second at which the faults begin: about the time at which the clock wraps.
    let [lies, dies, deadly] = [(); 3].map(|()| rng.random_range(520..620));
    let heals = lies + 300;
    for tenth in 10..1500 {
        if tenth == lies {
            sim.instances[0].fault.lies_about.extend((0..LIED).map(|n| prefix(&name(n))));
            (0..LIED).for_each(|n| sim.announce(1, &[&name(n)], &[64501, 65001]));
        }
        if tenth == heals {
            sim.instances[0].fault.lies_about.clear();
            (0..LIED).for_each(|n| sim.announce(1, &[&name(n)], &[64501, 65002]));
        }
        if tenth == dies {
            sim.kill_instance(1);
            news(&mut sim, 1, ProcessNews::Ended { unasked: true, text: "killed".into() });
        }
        if tenth == deadly {
            sim.instances[2].fault.dies_of.insert(prefix(DEADLY));
            sim.announce(1, &[DEADLY], &[64501]);
        }
        // It flaps until well behind the wrap, and then rests.
        if (400..900).contains(&tenth) && tenth % 7 == 0 {
            match tenth % 2 {
                0 => sim.announce(2, &[FLAPPING], &[64502, 65000 + rng.random_range(0..3)]),
                _ => sim.withdraw(2, &[FLAPPING]),
            }
        }
        if rng.random_bool(0.1) {
            let n = rng.random_range(12..20);
            match rng.random_bool(0.3) {
                true => sim.withdraw(1, &[&name(n)]),
                false => sim.announce(1, &[&name(n)], &[64501, 65000 + rng.random_range(0..3)]),
            }
        }
        let at = sim.now;
        sim.run(SECOND / 10);
        orders.extend(obey_all(&mut sim).into_iter().map(|o| format!("{} {o:?}", at - start)));
    }
    described(&sim, start, orders)
}

/// The supervisor does as it is told; who died of what it heard is started again as soon.
fn obey_all(sim: &mut Sim) -> Vec<(u8, Order)> {
    let fault = std::mem::take(&mut sim.instances[2].fault);
    let dead = !sim.instances[2].listening;
    sim.instances[2].fault = fault;
    if dead {
        news(sim, 2, ProcessNews::Started { pid: 300 });
        sim.restart_instance(2);
    }
    obey(sim)
}

fn described(sim: &Sim, start: u64, orders: Vec<String>) -> Vec<String> {
    let mut said = orders;
    for e in &sim.events {
        let about = (&e.instance, &e.session, &e.prefix);
        said.push(format!("{} {} {about:?} {:?} {}", e.at_us - start, e.kind, e.severity, e.text));
    }
    for (n, p) in &sim.peers {
        said.push(format!("peer {n}: {:?} {:?} {} {:?}", p.table, p.history, p.closed, p.notifications));
        said.extend(p.raw.iter().map(|m| format!("peer {n} is told {}", wire::bgp::hex(m))));
    }
    said.extend(sim.deaths.iter().map(|(at, i)| format!("{i} dies at {}", at - start)));
    said.extend(sim.records.iter().map(|r| format!("{} {} {}", r.at - start, r.kind, r.instance)));
    said.push(format!("the kernel: {:?}", sim.kernel));
    said
}

/// How many lines are of this kind.
fn count(said: &[String], part: &str) -> usize {
    said.iter().filter(|line| line.contains(part)).count()
}

#[test]
fn what_happens_across_the_wrap_is_what_happens_at_the_start() {
    let strategies =
        [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK];
    for seed in 0..4 {
        for strategy in strategies {
            let (fresh, old) = (outcome(0, seed, strategy), outcome(WRAP - BEFORE, seed, strategy));
            for (a, b) in fresh.iter().zip(&old) {
                assert_eq!(a, b, "seed {seed}, {strategy:?}");
            }
            assert_eq!(fresh.len(), old.len(), "seed {seed}, {strategy:?}");
            // What is compared is more than nothing.
            for part in [
                "instance-faulty",
                "instance-exited",
                "instance-back",
                "poison",
                "disagreement",
                "leg-level",
                "is told",
            ] {
                assert!(count(&fresh, &format!(" {part} ")) > 0, "{part}, seed {seed}, {strategy:?}: {fresh:#?}");
            }
        }
    }
}
