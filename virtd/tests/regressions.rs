//! Defects that were found once by reading the core: each stays found.

mod sim;

use sim::*;
use virtd::config::{Config, Instance, Strategy};
use virtd::core::io::Input;
const SECOND: u64 = 1_000_000;
const P: &str = "198.51.100.0/24";
const Q: &str = "203.0.113.0/24";
fn config(instances: usize, strategy: Strategy) -> Config {
    let mut c = Config { accept_any: true, ..Config::default() };
    c.vote.strategy = strategy;
    c.vote.t_ms = 1000;
    c.instances = (0..instances).map(|i| Instance { name: format!("i{i}"), ..Instance::default() }).collect();
    c
}
#[test]
fn what_everybody_stopped_saying_while_away_is_withdrawn() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 2);
    (0..3).for_each(|i| sim.kill_instance(i));
    sim.run(SECOND);
    sim.withdraw(1, &[P]);
    sim.run(SECOND);
    (0..3).for_each(|i| sim.start_instance(i));
    sim.run(300 * SECOND);
    assert_eq!(
        sim.table(2).len(),
        1,
        "P was withdrawn by its origin; {:?}",
        sim.core.query(sim.now, &serde_json::json!({"command":"routes","prefix":P}))
    );
}
#[test]
fn a_restarted_single_instance_takes_back_what_it_does_not_say_again() {
    let mut sim = Sim::new(&config(1, Strategy::WaitForConsensus));
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.leg_sends(0, 2, &update(&[prefix(P)], &[], &[OUR_AS], LOCAL, None, 1));
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 1);
    sim.kill_instance(0);
    sim.run(SECOND);
    sim.start_instance(0);
    sim.run(300 * SECOND);
    assert_eq!(sim.table(2).len(), 0, "the restarted instance says nothing about P");
}
#[test]
fn instances_that_join_late_withdraw_nothing() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.kill_instance(1);
    sim.kill_instance(2);
    sim.connect_peer(2);
    sim.connect_peer(1);
    sim.run(10 * SECOND);
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 2);
    sim.start_instance(1);
    sim.start_instance(2);
    sim.run(60 * SECOND);
    assert!(sim.peers[&2].history.iter().all(|h| h.2), "{:?}", sim.peers[&2].history);
}
#[test]
fn instances_that_join_late_leave_a_local_route_alone() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.kill_instance(1);
    sim.kill_instance(2);
    sim.connect_peer(2);
    sim.run(10 * SECOND);
    sim.leg_sends(0, 2, &update(&[prefix(P)], &[], &[OUR_AS], LOCAL, None, 1));
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), 1);
    sim.start_instance(1);
    sim.start_instance(2);
    sim.run(SECOND / 2);
    assert!(sim.peers[&2].history.iter().all(|h| h.2), "{:?}", sim.peers[&2].history);
}
#[test]
fn first_k_keeps_what_it_overruled_alive() {
    let mut c = config(5, Strategy::FirstK);
    c.vote.k = Some(2);
    let mut sim = Sim::new(&c);
    sim.connect_peer(2);
    sim.run(SECOND);
    let conn = sim.peers[&2].conn.expect("connected");
    sim.input(Input::PeerDrained { conn, queued: 9 << 20 });
    let say = |sim: &mut Sim, i: usize, med: u32| {
        sim.leg_sends(i, 2, &update(&[prefix(P)], &[], &[OUR_AS], LOCAL, Some(med), 0))
    };
    for i in 0..5 {
        say(&mut sim, i, 10 + i as u32);
    }
    say(&mut sim, 0, 1);
    say(&mut sim, 1, 1);
    say(&mut sim, 0, 20);
    say(&mut sim, 1, 21);
    say(&mut sim, 1, 20);
}
#[test]
fn a_flapping_prefix_accuses_nobody() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    for n in 0..60 {
        sim.announce(1, &[P], &[64501, 65000 + n]);
        sim.run(SECOND / 4);
    }
    assert_eq!(sim.events_of("disagreement").len(), 0, "{}", sim.events_of("disagreement").len());
}
#[test]
fn an_observer_alone_does_not_keep_a_session() {
    let mut c = config(2, Strategy::WaitForConsensus);
    c.instances[1].observer = true;
    let mut sim = Sim::new(&c);
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim.announce(1, &[P], &[64501]);
    sim.run(5 * SECOND);
    sim.kill_instance(0);
    sim.run(600 * SECOND);
    assert!(!sim.peers[&2].established, "the only voter died 10 minutes ago; P still told: {}", sim.table(2).len());
}
