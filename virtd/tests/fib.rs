//! The FIB path of the core (docs/DECISIONS.md, "A virtual kernel for each instance") under a
//! virtual clock: who is counted, what is handed to the kernel and when, who is named. Scenarios
//! with real daemons and a real kernel are in the crate `tests`; they cannot fail on command at a
//! chosen microsecond.

#[path = "fib/links.rs"]
mod links;
#[path = "fib/world.rs"]
mod world;

use broker::io::{Change, Input, KernelNews, Order, OtherRoute, Place, ProcessNews};
use virtd_config::{FibScope, Strategy};
use wire::netlink::RouteMessage;
use wire::netlink::consts::*;
use wire::netlink::fib::FibKey;
use world::*;

const P: &str = "198.51.100.0/24";
const Q: &str = "203.0.113.0/24";
const R: &str = "192.0.2.0/24";
const V6: &str = "2001:db8:1::/48";
const A: &str = "10.0.2.2";
const B: &str = "10.0.3.2";
const VIA_A: &str = "via 10.0.2.2 dev #2";
const VIA_B: &str = "via 10.0.3.2 dev #3";

fn three(strategy: Strategy) -> World {
    World::new(&config(3, strategy))
}

/// All write these prefixes by A, and all vote.
fn level(w: &mut World, n: usize, prefixes: &[&str]) {
    for p in prefixes {
        (0..n).for_each(|i| w.add(i, p, &[A]));
    }
    w.run(3 * T);
    for i in 0..n {
        assert_eq!(w.state(i), "voting");
    }
    assert_eq!(w.kernel.len(), prefixes.len());
}

#[test]
fn three_that_agree_write_once() {
    let mut w = three(Strategy::WaitForConsensus);
    w.add(0, P, &[A]);
    assert_eq!(w.in_kernel(P), None, "one alone does not drive");
    w.add(1, P, &[A]);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    w.add(2, P, &[A]);
    w.run(5 * T);
    assert_eq!(w.changes.len(), 1, "{:?}", w.changes);
    assert!(w.diff().is_empty());
    assert!(w.events_of("fib-disagreement").is_empty());
    (0..3).for_each(|i| w.del(i, P));
    w.run(3 * T);
    assert_eq!(w.changes.len(), 2, "{:?}", w.changes);
    w.assert_empty();
}

/// Every strategy and every size: what all withdraw leaves the kernel, and nothing is kept of it.
#[test]
fn what_all_withdraw_leaves_the_kernel_however_many_there_are() {
    for strategy in [Strategy::WaitForConsensus, Strategy::ContinuousMajority, Strategy::MasterSlave, Strategy::FirstK]
    {
        for n in 1..=5 {
            for k in [None, Some(n as u8)] {
                let mut c = config(n, strategy);
                c.vote.k = k;
                let mut w = World::new(&c);
                level(&mut w, n, &[P, R, Q]);
                for p in [P, Q, R] {
                    (0..n).for_each(|i| w.del(i, p));
                }
                w.run(3 * T);
                assert_eq!(w.kernel.len(), 0, "{strategy:?}, {n} instances, k {k:?}: {:?}", w.kernel);
                w.assert_empty();
            }
        }
    }
}

#[test]
fn a_wrong_next_hop_is_masked_named_and_held_against_its_author() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.timers.fault_threshold_ms = 20_000;
    c.faults.min_keys = 10;
    c.instances.iter_mut().for_each(|i| i.command = vec!["/bin/daemon".to_owned()]);
    let mut w = World::new(&c);
    (0..3).for_each(|i| w.process(i, ProcessNews::Started { pid: 10 + i as u32 }));
    let prefixes: Vec<String> = (0..20).map(|n| format!("198.51.{n}.0/24")).collect();
    for p in &prefixes {
        w.add(0, p, &[A]);
        w.add(1, p, &[B]);
        w.add(2, p, &[A]);
    }
    w.run(2 * T);
    assert!(prefixes.iter().all(|p| w.in_kernel(p) == Some(VIA_A)));
    assert_eq!(w.changes.len(), 20);
    let told = w.events_of("fib-disagreement");
    assert_eq!(told.len(), 20);
    assert!(told.iter().all(|e| e.instance.as_deref() == Some("i1")));
    let said: Vec<&str> = told[0].said.iter().map(|s| s.route.as_str()).collect();
    assert_eq!(said, ["via 10.0.2.2 dev n2", "via 10.0.3.2 dev n3", "via 10.0.2.2 dev n2"]);
    assert_eq!(told[0].prefix.map(|p| p.to_string()).as_deref(), Some("198.51.0.0/24"));
    let instances = w.query(&serde_json::json!({ "command": "status" }));
    assert_eq!(instances["disagreements_now"], 20);
    assert_eq!(w.diff().len(), 20);
    assert!(w.events_of("instance-faulty").is_empty(), "not before the threshold");
    w.run(25 * SECOND);
    let verdicts = w.events_of("instance-faulty");
    assert_eq!(verdicts.len(), 1, "{:?}", w.events);
    assert_eq!(verdicts[0].instance.as_deref(), Some("i1"));
    assert!(!verdicts[0].text.contains("(,"), "{}", verdicts[0].text);
    assert!(w.orders.iter().any(|(i, o)| *i == 1 && matches!(o, Order::Stop | Order::Kill)), "{:?}", w.events);
    assert_eq!(w.changes.len(), 20, "nothing of it ever reached the kernel");
}

#[test]
fn a_disagreement_that_ends_is_told_and_forgotten() {
    let mut w = three(Strategy::WaitForConsensus);
    level(&mut w, 3, &[P]);
    w.add(1, P, &[B]);
    w.run(3 * T);
    assert_eq!(w.events_of("fib-disagreement").len(), 1);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    w.add(1, P, &[A]);
    w.run(3 * T);
    assert_eq!(w.events_of("fib-agreement").len(), 1);
    assert_eq!(w.query(&serde_json::json!({ "command": "status" }))["disagreements_now"], 0);
    assert!(w.diff().is_empty());
}

#[test]
fn a_hidden_route_and_a_missing_withdraw_are_outvoted() {
    let mut w = three(Strategy::ContinuousMajority);
    level(&mut w, 3, &[Q]);
    (0..2).for_each(|i| w.add(i, P, &[A]));
    assert_eq!(w.in_kernel(P), Some(VIA_A), "the third keeps silent about it");
    w.run(3 * T);
    assert_eq!(w.events_of("fib-disagreement")[0].instance.as_deref(), Some("i2"));
    w.add(2, P, &[A]);
    (1..3).for_each(|i| w.del(i, P));
    assert_eq!(w.in_kernel(P), None, "the first keeps it");
    w.run(3 * T);
    w.del(0, P);
    w.run(3 * T);
    (0..3).for_each(|i| w.del(i, Q));
    w.run(3 * T);
    w.assert_empty();
}

#[test]
fn the_masters_wrong_route_is_corrected_within_t() {
    let mut w = three(Strategy::MasterSlave);
    level(&mut w, 3, &[Q]);
    w.add(0, P, &[B]);
    assert_eq!(w.in_kernel(P), Some(VIA_B), "master-slave writes at once");
    (1..3).for_each(|i| w.add(i, P, &[A]));
    assert_eq!(w.in_kernel(P), Some(VIA_B));
    w.run(T + SECOND / 10);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    w.run(T);
    assert_eq!(w.events_of("fib-disagreement")[0].instance.as_deref(), Some("i0"));
    // A new word of the master's is followed again.
    w.add(0, P, &["10.0.2.3"]);
    assert_eq!(w.in_kernel(P), Some("via 10.0.2.3 dev #2"));
}

#[test]
fn a_master_that_floods_is_not_followed_for_ever() {
    let mut w = three(Strategy::MasterSlave);
    level(&mut w, 3, &[P]);
    let before = w.changes.len();
    for n in 0..300 {
        w.add(0, P, &[&format!("10.0.3.{}", 2 + n % 200)]);
        w.run(SECOND / 100);
    }
    let written = w.changes.len() - before;
    assert!((2..=7).contains(&written), "{written} of 300 came through");
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    w.run(3 * T);
    (0..3).for_each(|i| w.del(i, P));
    w.run(3 * T);
    w.assert_empty();
}

#[test]
fn without_a_majority_the_kernel_stays_as_it_is() {
    let mut w = three(Strategy::WaitForConsensus);
    level(&mut w, 3, &[P]);
    w.add(1, P, &[B]);
    w.add(2, P, &["10.0.3.3"]);
    w.run(3 * T);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    assert_eq!(w.events_of("fib-no-quorum").len(), 1);
    assert_eq!(w.fib()["without_quorum"], 1);
    w.add(2, P, &[B]);
    assert_eq!(w.in_kernel(P), Some(VIA_B), "two of three agree again");
    w.run(3 * T);
    assert_eq!(w.fib()["without_quorum"], 0);
    (0..3).for_each(|i| w.del(i, P));
    w.run(3 * T);
    w.assert_empty();
}

/// With a minimum of voters that is not there any more nothing changes; what nobody has any more
/// wants no quorum.
#[test]
fn min_voters_holds_the_kernel_where_it_is() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.vote.min_voters = 3;
    let mut w = World::new(&c);
    level(&mut w, 3, &[P, Q]);
    w.die(2);
    (0..2).for_each(|i| w.add(i, P, &[B]));
    w.run(3 * T);
    assert_eq!(w.in_kernel(P), Some(VIA_A), "two are too few");
    assert!(w.fib()["without_quorum"].as_u64() >= Some(1));
    w.open(2);
    w.add(2, P, &[B]);
    w.add(2, Q, &[A]);
    w.run(3 * T);
    assert_eq!(w.in_kernel(P), Some(VIA_B));
    for p in [P, Q] {
        (0..3).for_each(|i| w.del(i, p));
    }
    w.run(3 * T);
    w.assert_empty();
}

#[test]
fn the_dead_do_not_count_and_come_back_by_concurring() {
    let mut w = three(Strategy::WaitForConsensus);
    level(&mut w, 3, &[P, Q]);
    let admitted = w.events_of("fib-admitted").len();
    w.die(1);
    assert_eq!(w.state(1), "absent");
    assert_eq!(w.kernel.len(), 2, "its routes stand where they are");
    assert_eq!(w.events_of("fib-left").len(), 1);
    w.run(3 * T);
    assert!(!w.counts(1, P));
    // The two others decide without it: 2 of 2.
    w.add(0, P, &[B]);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    w.add(2, P, &[B]);
    assert_eq!(w.in_kernel(P), Some(VIA_B));
    w.run(3 * T);
    assert!(w.events_of("fib-disagreement").is_empty(), "what the dead said is nobody's word");
    // It comes back empty, and is no voice against everything meanwhile.
    w.open(1);
    assert_eq!(w.state(1), "silent");
    w.add(1, Q, &[A]);
    assert_eq!(w.state(1), "catching up");
    w.run(T / 2);
    assert_eq!((w.state(1).as_str(), w.kernel.len()), ("catching up", 2));
    w.add(1, P, &[B]);
    w.run(T / 4);
    assert_eq!(w.state(1), "voting", "it says what was chosen everywhere");
    assert!(w.counts(1, P) && w.counts(1, Q));
    assert!(w.events_of("fib-disagreement").is_empty());
    assert_eq!(w.events_of("fib-admitted").len(), admitted + 1);
}

#[test]
fn one_that_comes_back_and_says_otherwise_counts_after_t_and_is_named() {
    let mut w = three(Strategy::WaitForConsensus);
    level(&mut w, 3, &[P, Q]);
    w.die(1);
    w.open(1);
    w.add(1, P, &[B]);
    w.run(T / 2);
    assert_eq!(w.state(1), "catching up");
    w.run(T);
    assert_eq!(w.state(1), "voting");
    w.run(2 * T);
    let mut named: Vec<String> =
        w.events_of("fib-disagreement").iter().map(|e| e.prefix.expect("a prefix").to_string()).collect();
    named.sort();
    assert_eq!(named, [P, Q], "another next hop, and nothing at all");
    assert_eq!((w.in_kernel(P), w.in_kernel(Q)), (Some(VIA_A), Some(VIA_A)));
}

/// Everything is withdrawn while one is dead; what it said before does not stand for ever.
#[test]
fn one_that_comes_back_to_an_empty_kernel_has_said_nothing() {
    let mut w = three(Strategy::WaitForConsensus);
    level(&mut w, 3, &[P, Q]);
    w.die(1);
    for i in [0, 2] {
        w.del(i, P);
        w.del(i, Q);
    }
    w.run(3 * T);
    assert_eq!(w.kernel.len(), 0);
    w.open(1);
    (0..3).for_each(|i| w.add(i, V6, &["fd00:2::2"]));
    w.run(3 * T);
    assert_eq!(w.state(1), "voting");
    assert!(w.diff().is_empty(), "{:?}", w.diff());
    (0..3).for_each(|i| w.del(i, V6));
    w.run(3 * T);
    w.assert_empty();
}

#[test]
fn at_a_start_the_fastest_does_not_drive_alone() {
    let mut w = three(Strategy::ContinuousMajority);
    w.add(0, P, &[A]);
    w.run(T / 2);
    assert_eq!(w.in_kernel(P), None);
    w.run(T);
    assert_eq!(w.in_kernel(P), Some(VIA_A), "nobody else has anything to say for T");
    // The others come later, and count once they concur.
    w.add(1, P, &[A]);
    w.add(2, P, &[B]);
    w.run(T / 2);
    assert_eq!((w.state(1).as_str(), w.state(2).as_str()), ("voting", "catching up"));
    w.run(3 * T);
    assert_eq!(w.events_of("fib-disagreement")[0].instance.as_deref(), Some("i2"));
}

#[test]
fn an_instance_that_never_writes_abstains() {
    let mut w = three(Strategy::WaitForConsensus);
    (0..2).for_each(|i| w.add(i, P, &[A]));
    w.run(5 * T);
    assert_eq!((w.state(2).as_str(), w.in_kernel(P)), ("silent", Some(VIA_A)));
    assert!(w.events_of("fib-disagreement").is_empty());
    assert!(w.diff().is_empty(), "its silence is no difference: {:?}", w.diff());
}

#[test]
fn an_igp_instance_does_not_vote_none_on_bgp_prefixes() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[0].fib_scope = FibScope::BGP;
    c.instances[1].fib_scope = FibScope::IGP;
    c.instances[2].fib_scope = FibScope::IGP;
    let mut w = World::new(&c);
    let ospf = RouteMessage { protocol: RTPROT_OSPF, ..route(Q, &[A]) };
    let isis = RouteMessage { protocol: RTPROT_ISIS, ..route(Q, &[A]) };
    w.write(1, &ospf);
    w.write(2, &isis);
    w.add(0, P, &[A]);
    w.run(3 * T);
    assert_eq!((w.in_kernel(P), w.in_kernel(Q)), (Some(VIA_A), Some(VIA_A)));
    assert!(w.events_of("fib-disagreement").is_empty(), "{:?}", w.events);
    assert!(w.diff().is_empty(), "{:?}", w.diff());
    w.del(0, P);
    assert_eq!(w.in_kernel(P), None);
    (1..3).for_each(|i| w.del(i, Q));
    w.run(3 * T);
    w.assert_empty();
}

#[test]
fn an_instance_without_a_fib_counts_nowhere_and_wakes_nobody() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[2].fib_scope = FibScope::NONE;
    let mut w = World::new(&c);
    (0..2).for_each(|i| w.add(i, P, &[A]));
    w.add(2, Q, &[B]);
    w.run(5 * T);
    assert_eq!((w.state(2).as_str(), w.in_kernel(Q)), ("writes no FIB", None));
    assert!(w.core.deadline().is_none_or(|at| at > w.now + T), "{:?} at {}", w.core.deadline(), w.now);
}

/// Nothing says what kind BIRD's routes are but what its instance declares; one that declares
/// nothing and is late with its withdrawal, or dead, is no reason to keep a route.
#[test]
fn what_an_instance_without_a_fib_still_has_keeps_nothing() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[2].fib_scope = FibScope::NONE;
    let mut w = World::new(&c);
    (0..2).for_each(|i| w.add(i, P, &[A]));
    w.write(2, &RouteMessage { protocol: RTPROT_BIRD, ..route(P, &[A]) });
    w.run(2 * T);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    (0..2).for_each(|i| w.del(i, P));
    w.run(3 * T);
    assert_eq!(w.in_kernel(P), None);
}

#[test]
fn an_observer_is_named_and_not_counted() {
    let mut c = config(3, Strategy::WaitForConsensus);
    c.instances[2].observer = true;
    let mut w = World::new(&c);
    w.add(2, P, &[B]);
    w.run(3 * T);
    assert_eq!(w.in_kernel(P), None, "it does not drive");
    (0..2).for_each(|i| w.add(i, P, &[A]));
    w.run(3 * T);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    assert_eq!(w.events_of("fib-disagreement")[0].instance.as_deref(), Some("i2"));
    assert!(!w.counts(2, P));
    (0..3).for_each(|i| w.del(i, P));
    w.run(3 * T);
    w.assert_empty();
}

/// BIRD takes its routes back on its way out.
#[test]
fn what_an_instance_withdraws_while_it_is_ended_does_not_count() {
    for order in ["disable", "restart"] {
        let mut c = config(2, Strategy::MasterSlave);
        c.instances.iter_mut().for_each(|i| i.command = vec!["/bin/daemon".to_owned()]);
        let mut w = World::new(&c);
        (0..2).for_each(|i| w.process(i, ProcessNews::Started { pid: 10 + i as u32 }));
        level(&mut w, 2, &[P, Q]);
        let answer =
            w.query(&serde_json::json!({ "command": "instance", "action": order, "name": "i0", "force": true }));
        assert!(answer.get("error").is_none(), "{answer}");
        w.run(T / 10);
        assert!(w.orders.iter().any(|(i, o)| *i == 0 && *o != Order::Start), "{:?}: {answer}", w.orders);
        w.del(0, P);
        w.run(3 * T);
        w.del(0, Q);
        w.die(0);
        w.process(0, ProcessNews::Ended { unasked: false, text: "ended".into() });
        w.run(3 * T);
        assert_eq!(w.kernel.len(), 2, "{order}: {:?}", w.changes);
        assert!(w.events_of("fib-disagreement").is_empty());
        // The next one is as any that comes back.
        w.open(0);
        w.add(0, P, &[A]);
        w.add(0, Q, &[A]);
        w.run(3 * T);
        assert_eq!(w.state(0), "voting");
        assert!(w.diff().is_empty());
    }
}

#[test]
fn a_link_that_goes_takes_the_routes_of_all_in_one_step() {
    for news in [
        KernelNews::Change(Change::LinkGone { index: 2 }),
        KernelNews::Change(Change::Link(broker::io::Link { index: 2, name: "n2".into(), up: false, running: false })),
    ] {
        let mut w = three(Strategy::WaitForConsensus);
        level(&mut w, 3, &[P]);
        (0..3).for_each(|i| w.add(i, Q, &[B]));
        (0..3).for_each(|i| w.add(i, V6, &["fd00:2::2"]));
        let before = w.batches;
        w.news(news);
        assert_eq!((w.in_kernel(P), w.in_kernel(V6), w.in_kernel(Q)), (None, None, Some(VIA_B)));
        assert_eq!(w.batches, before + 1, "one step");
        w.run(3 * T);
        assert!(w.events_of("fib-disagreement").is_empty());
        // It comes back, and the daemons write again.
        w.link(2, true, true);
        w.address(2);
        (0..3).for_each(|i| w.add(i, P, &[A]));
        assert_eq!(w.in_kernel(P), Some(VIA_A));
        for p in [P, Q] {
            (0..3).for_each(|i| w.del(i, p));
        }
        w.run(3 * T);
        w.assert_empty();
    }
}

#[test]
fn the_same_nexthop_id_is_another_object_in_each_instance() {
    let mut w = three(Strategy::WaitForConsensus);
    for (i, gateway) in [(0, A), (1, A), (2, B)] {
        w.nexthop(i, 7, gateway);
        let mut by_id = route(P, &[]);
        by_id.nh_id = Some(7);
        w.write(i, &by_id);
    }
    w.run(3 * T);
    assert_eq!(w.in_kernel(P), Some(VIA_A));
    assert_eq!(w.events_of("fib-disagreement")[0].instance.as_deref(), Some("i2"));
    // The object is replaced under the route.
    w.nexthop(2, 7, A);
    w.run(3 * T);
    assert!(w.diff().is_empty());
    (0..3).for_each(|i| w.nexthop(i, 7, B));
    assert_eq!(w.in_kernel(P), Some(VIA_B));
    // And removed: the routes go with it.
    for i in 0..3 {
        let object = wire::netlink::NexthopMessage { id: Some(7), ..Default::default() };
        assert_eq!(w.send(i, RTM_DELNEXTHOP, 0, &object.to_payload().unwrap()), 0);
    }
    assert_eq!(w.in_kernel(P), None);
    w.run(3 * T);
    w.assert_empty();
}

/// RTA_MULTIPATH, a group of nexthop objects, and IPv6 hop by hop mean the same.
#[test]
fn ecmp_is_the_same_in_every_encoding() {
    for (prefix, one, two) in [(P, A, B), (V6, "fd00:2::2", "fd00:3::2")] {
        let mut w = three(Strategy::WaitForConsensus);
        w.add(0, prefix, &[two, one]);
        w.nexthop(1, 1, one);
        w.nexthop(1, 2, two);
        w.group(1, 3, &[1, 2]);
        let mut by_group = route(prefix, &[]);
        by_group.nh_id = Some(3);
        w.write(1, &by_group);
        if prefix == V6 {
            w.write(2, &route(prefix, &[one]));
            let again = route(prefix, &[two]).to_payload().unwrap();
            assert_eq!(w.send(2, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &again), 0);
        } else {
            w.add(2, prefix, &[one, two]);
        }
        w.run(3 * T);
        let both = format!("via {one} dev #2 weight 1, via {two} dev #3 weight 1");
        assert_eq!(w.in_kernel(prefix), Some(both.as_str()));
        assert!(w.diff().is_empty() && w.events_of("fib-disagreement").is_empty(), "{}", w.entry(prefix));
        // Other shares are another route.
        let mut uneven = route(prefix, &[one, two]);
        uneven.multipath[0].weight = 3;
        w.write(2, &uneven);
        w.run(3 * T);
        assert_eq!(w.in_kernel(prefix), Some(both.as_str()));
        assert_eq!(w.events_of("fib-disagreement").len(), 1);
    }
}

/// The ways to drop a packet, to reach one without a gateway and by one of the other IP version.
#[test]
fn routes_of_every_kind_reach_the_kernel() {
    let mut w = three(Strategy::WaitForConsensus);
    let kinds = [(RTN_BLACKHOLE, "blackhole"), (RTN_UNREACHABLE, "unreachable"), (RTN_PROHIBIT, "prohibit")];
    let reject = |p, kind| RouteMessage { kind, ..route(p, &[]) };
    for (kind, name) in kinds {
        for p in [P, V6] {
            (0..3).for_each(|i| w.write(i, &reject(p, kind)));
            assert_eq!(w.in_kernel(p), Some(name));
        }
    }
    // One that drops is no agreement with one that forwards, nor with one that drops in another
    // way.
    w.add(2, P, &[A]);
    w.write(2, &reject(V6, RTN_BLACKHOLE));
    w.run(3 * T);
    assert_eq!((w.in_kernel(P), w.in_kernel(V6)), (Some("prohibit"), Some("prohibit")));
    assert_eq!(w.events_of("fib-disagreement").len(), 2);
    let mut on_link = route(Q, &[]);
    on_link.oif = Some(3);
    on_link.scope = RT_SCOPE_LINK;
    let mut other_family = route("192.0.2.0/24", &[A]);
    other_family.gateway = Some("fd00:2::2".parse().unwrap());
    let mut link_local = route("2001:db8:2::/48", &["fd00:3::2"]);
    link_local.gateway = Some("fe80::2".parse().unwrap());
    for i in 0..3 {
        w.write(i, &on_link);
        w.write(i, &other_family);
        w.write(i, &link_local);
    }
    assert_eq!(w.in_kernel(Q), Some("dev #3"));
    assert_eq!(w.in_kernel("192.0.2.0/24"), Some("via fd00:2::2 dev #2"));
    assert_eq!(w.in_kernel("2001:db8:2::/48"), Some("via fe80::2 dev #3"));
}

#[test]
fn what_the_kernel_does_not_take_is_shown() {
    let mut w = three(Strategy::WaitForConsensus);
    level(&mut w, 3, &[P, Q]);
    let key = w.changes[0].1.key;
    let name = key.to_string();
    w.news(KernelNews::Written { key, errno: Some(libc::ENETUNREACH) });
    assert_eq!(w.diff(), std::slice::from_ref(&name));
    assert_eq!(w.fib()["failed"], 1);
    assert!(w.entry(&name)["failed"].as_str().is_some_and(|s| s.contains("unreachable")), "{}", w.entry(&name));
    w.news(KernelNews::Written { key, errno: None });
    assert!(w.diff().is_empty());
    // A refusal that comes late, when the route is wanted no more, stays nowhere.
    (0..3).for_each(|i| w.del(i, &name));
    w.news(KernelNews::Written { key, errno: Some(libc::EEXIST) });
    w.run(3 * T);
    assert_eq!(w.fib()["failed"], 0);
}

#[test]
fn queries_answer() {
    let mut w = three(Strategy::WaitForConsensus);
    level(&mut w, 3, &[P]);
    w.add(1, P, &[B]);
    w.die(2);
    w.run(3 * T);
    let status = w.fib();
    assert_eq!((&status["routes"], &status["keys"]), (&1.into(), &1.into()));
    assert!(status["memory_bytes"].as_u64() > Some(0));
    let entry = w.entry(P);
    assert_eq!((&entry["key"], &entry["route"]), (&P.into(), &"via 10.0.2.2 dev n2".into()));
    let said: Vec<&str> = entry["said"].as_array().unwrap().iter().map(|s| s["route"].as_str().unwrap()).collect();
    assert_eq!(said, ["via 10.0.2.2 dev n2", "via 10.0.3.2 dev n3", "via 10.0.2.2 dev n2 (absent)"]);
    let none = w.query(&serde_json::json!({ "command": "fib", "prefix": "192.0.2.0/24" }));
    assert_eq!(none["entries"], serde_json::json!([]));
    assert!(w.query(&serde_json::json!({ "command": "fib", "prefix": "x" }))["error"].is_string());
}
