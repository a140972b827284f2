//! Seeded random histories of the FIB's votes: whatever happened on the way, the kernel ends as all
//! say, and nothing is kept of what is gone.

#[path = "fib/world.rs"]
mod world;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use virtd_config::Strategy;
use wire::netlink::RouteMessage;
use wire::netlink::consts::*;
use world::*;

const P: &str = "198.51.100.0/24";
const Q: &str = "203.0.113.0/24";
const V6: &str = "2001:db8:1::/48";
const A: &str = "10.0.2.2";
const B: &str = "10.0.3.2";

/// Three instances say random things about a few prefixes, die, come back, are ended; links go and
/// come. In the end all have said the same, and the kernel holds just that; then all is withdrawn,
/// and nothing is left.
#[test]
fn random_histories_end_as_all_say() {
    let prefixes = [P, Q, "192.0.2.0/24", V6, "2001:db8:2::/48"];
    let gateways = |p: &str| match p.contains(':') {
        true => ["fd00:2::2", "fd00:3::2", "fd00:2::3"],
        false => [A, B, "10.0.2.3"],
    };
    let strategies =
        [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK];
    for seed in 0..200u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut w = World::empty(&config(3, strategies[seed as usize % 4]));
        let mut up = [false; 3];
        for _ in 0..150 {
            let i = rng.random_range(0..3);
            if !up[i] {
                w.open(i);
                up[i] = true;
            }
            let p = prefixes[rng.random_range(0..prefixes.len())];
            let all = gateways(p);
            let some = &all[..rng.random_range(0..=all.len())];
            match rng.random_range(0..12) {
                0 => {
                    w.die(i);
                    up[i] = false;
                }
                1 => {
                    let index = LINKS[rng.random_range(0..2)];
                    w.link(index, false, false);
                    w.link(index, true, true);
                    w.address(index);
                }
                2..=4 => {
                    // Perhaps there is none to be deleted.
                    let del = RouteMessage { kind: 0, scope: RT_SCOPE_NOWHERE, ..route(p, &[]) };
                    let errno = w.send(i, RTM_DELROUTE, 0, &del.to_payload().unwrap());
                    assert!(matches!(errno, 0 | libc::ESRCH), "{errno}");
                }
                _ if some.is_empty() => w.write(i, &RouteMessage { kind: RTN_BLACKHOLE, ..route(p, &[]) }),
                _ => w.add(i, p, some),
            }
            if rng.random_range(0..3) == 0 {
                w.run(rng.random_range(1..2 * T));
            }
        }
        let last: BTreeMap<&str, &str> = prefixes.iter().map(|p| (*p, gateways(p)[rng.random_range(0..3)])).collect();
        for (i, up) in up.into_iter().enumerate() {
            if !up {
                w.open(i);
            }
            last.iter().for_each(|(p, g)| w.add(i, p, &[g]));
        }
        w.run(10 * T);
        let wanted: BTreeMap<String, String> =
            last.iter().map(|(p, g)| ((*p).to_owned(), format!("via {g} dev #{}", device(g)))).collect();
        assert_eq!(w.kernel, wanted, "seed {seed}");
        assert!(w.diff().is_empty(), "seed {seed}");
        assert_eq!(w.query(&serde_json::json!({ "command": "status" }))["disagreements_now"], 0, "seed {seed}");
        for p in prefixes {
            (0..3).for_each(|i| w.del(i, p));
        }
        w.run(10 * T);
        w.assert_empty();
    }
}
