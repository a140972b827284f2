//! The configuration changes while sessions are up: instances come, go and are swapped, and no peer
//! is told anything because of that.

mod sim;

use broker::io::{Order, ProcessNews};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use serde_json::{Value, json};
use sim::Sim;
use sim::supervised::{MANY, SECOND, lie, news, running, said, supervise, supervised};
use std::collections::BTreeMap;
use virtd_config::{Config, Instance, Kind, Peer, Standby, Strategy};
use wire::bgp::Prefix;

/// Daemons of kinds that can run twice.
fn birds(n: usize) -> Config {
    let mut config = supervised(n, Strategy::WaitForConsensus);
    for i in &mut config.instances {
        (i.kind, i.command) = (Some(Kind::Bird), Vec::new());
        i.config_file = Some(format!("/etc/{}.conf", i.name).into());
    }
    config
}

fn bird(name: &str) -> Instance {
    Instance {
        name: name.into(),
        kind: Some(Kind::Bird),
        config_file: Some(format!("/etc/{name}.conf").into()),
        ..Instance::default()
    }
}

fn instances(sim: &mut Sim) -> BTreeMap<String, (String, String)> {
    let answer = sim.query(json!({"command": "instances"}));
    let word = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let list = answer["instances"].as_array().expect("a list");
    list.iter().map(|i| (word(i, "name"), (word(i, "role"), word(i, "state")))).collect()
}

fn voting(sim: &mut Sim) -> Vec<String> {
    instances(sim).into_iter().filter(|(_, (_, state))| state == "voting").map(|(name, _)| name).collect()
}

fn updates(sim: &Sim) -> Vec<u64> {
    sim.peers.values().map(|p| p.updates).collect()
}

fn words(answer: &Value, key: &str) -> Vec<String> {
    answer[key].as_array().expect("a list").iter().map(|v| v.as_str().expect("words").to_owned()).collect()
}

#[test]
fn instances_are_added_and_removed_and_nobody_outside_notices() {
    let mut config = birds(3);
    let mut sim = running(&config);
    let before = updates(&sim);
    config.instances.extend([bird("four"), bird("five")]);
    let answer = sim.reload(&config);
    assert_eq!(words(&answer, "done"), ["four is added (bird)", "five is added (bird)"]);
    assert_eq!(sim.orders, [(3, Order::Start), (4, Order::Start)]);
    supervise(&mut sim, 10);
    assert_eq!(voting(&mut sim), ["five", "four", "i0", "i1", "i2"]);
    assert_eq!(sim.query(json!({"command": "status"}))["k"], 3, "a majority of five");

    config.instances.remove(1);
    let answer = sim.reload(&config);
    assert_eq!(words(&answer, "done"), ["i1 is removed, once those that come have caught up"]);
    let orders = supervise(&mut sim, 10);
    assert_eq!(orders, [(1, Order::Stop)]);
    assert_eq!(voting(&mut sim), ["five", "four", "i0", "i2"]);
    assert_eq!(instances(&mut sim).len(), 4, "nothing of it is left");
    assert_eq!(said(&sim, "instance-removed").len(), 1);
    assert_eq!(updates(&sim), before);

    // Its place is given to the next that comes, and nothing of what it said is held against that.
    config.instances.push(bird("six"));
    sim.reload(&config);
    assert_eq!(supervise(&mut sim, 10), [(1, Order::Start)]);
    assert_eq!(voting(&mut sim), ["five", "four", "i0", "i2", "six"]);
    assert_eq!(updates(&sim), before);
    // Two that lie are outvoted by three.
    for i in [0, 2] {
        sim.instances[i].fault.lies_about.insert(sim::prefix("198.51.0.0/24"));
    }
    sim.announce(1, &["198.51.0.0/24"], &[64501, 64999]);
    supervise(&mut sim, 10);
    assert_eq!(sim.table(2)[&sim::prefix("198.51.0.0/24")], (vec![sim::OUR_AS, 64501, 64999], None));
    assert!(sim.no_reset());
}

#[test]
fn a_swapped_instance_votes_until_the_new_one_has_caught_up() {
    let mut config = birds(3);
    let mut sim = running(&config);
    let before = updates(&sim);
    config.instances[1].root = Some("/opt/roots/trixie/bird2".into());
    let answer = sim.reload(&config);
    let what = "i1 is replaced by i1+2 (bird of /opt/roots/trixie/bird2), once that has caught up";
    assert_eq!(words(&answer, "done"), [what]);
    assert_eq!(sim.orders, [(3, Order::Start)]);
    sim.orders.clear();
    supervise(&mut sim, 5);
    assert_eq!(voting(&mut sim), ["i0", "i1", "i2"], "it has not even started");
    assert_eq!(words(&sim.reload(&config), "done"), [] as [String; 0], "it is on its way");
    news(&mut sim, 3, ProcessNews::Started { pid: 999 });
    sim.start_instance(3);
    let orders = supervise(&mut sim, 10);
    assert_eq!(orders, [(1, Order::Stop)], "the old one goes when the new one votes");
    assert_eq!(voting(&mut sim), ["i0", "i1", "i2"]);
    assert_eq!(instances(&mut sim).len(), 3);
    assert_eq!(
        said(&sim, "instance-replaced"),
        [(Some("i1+2".into()), "i1+2 has caught up and takes the place of i1".into())]
    );
    // Back to the installed version: the name itself is free again.
    config.instances[1].root = None;
    let answer = sim.reload(&config);
    assert_eq!(words(&answer, "done"), ["i1 is replaced by i1 (bird), once that has caught up"]);
    assert_eq!(supervise(&mut sim, 10), [(1, Order::Start), (3, Order::Stop)]);
    assert_eq!(voting(&mut sim), ["i0", "i1", "i2"]);
    assert_eq!(updates(&sim), before);
    assert!(sim.no_reset());
}

#[test]
fn a_swap_can_be_taken_back_and_a_new_one_that_never_comes_changes_nothing() {
    let mut config = birds(3);
    let mut sim = running(&config);
    let before = updates(&sim);
    let old = config.clone();
    config.instances[1].root = Some("/opt/roots/broken".into());
    sim.reload(&config);
    sim.orders.clear();
    for _ in 0..20 {
        news(&mut sim, 3, ProcessNews::Failed { text: "it cannot be started".into() });
        sim.run(5 * SECOND);
        sim.orders.clear();
    }
    assert_eq!(voting(&mut sim), ["i0", "i1", "i2"]);
    assert!(!said(&sim, "instance-given-up").is_empty());
    let answer = sim.reload(&old);
    assert_eq!(words(&answer, "done"), ["i1+2 is not wanted any more"]);
    supervise(&mut sim, 15);
    assert_eq!(instances(&mut sim).len(), 3);
    assert_eq!(updates(&sim), before);
    assert!(sim.no_reset());
}

#[test]
fn all_can_be_exchanged_at_once() {
    let mut config = birds(3);
    let mut sim = running(&config);
    let before = updates(&sim);
    config.instances = ["a", "b", "c"].map(bird).into();
    sim.reload(&config);
    assert_eq!(sim.orders, [(3, Order::Start), (4, Order::Start), (5, Order::Start)]);
    sim.orders.pop();
    // An order that nothing follows is given again after ten.
    supervise(&mut sim, 8);
    assert_eq!(voting(&mut sim), ["a", "b", "i0", "i1", "i2"], "nobody goes before c is there");
    sim.orders.push((5, Order::Start));
    supervise(&mut sim, 10);
    assert_eq!(voting(&mut sim), ["a", "b", "c"]);
    assert_eq!(updates(&sim), before);
    // And what is new is passed on as ever.
    sim.announce(1, &["198.51.0.0/24"], &[64501, 64999]);
    supervise(&mut sim, 5);
    assert_eq!(sim.table(2)[&sim::prefix("198.51.0.0/24")].0, [sim::OUR_AS, 64501, 64999]);
    assert!(sim.no_reset());
}

#[test]
fn an_instance_that_cannot_run_twice_is_started_anew_and_the_others_go_on() {
    let mut config = birds(3);
    config.instances[2].kind = Some(Kind::OpenBgpd);
    let mut sim = running(&config);
    let before = updates(&sim);
    config.instances[2].root = Some("/opt/roots/trixie/openbgpd".into());
    let answer = sim.reload(&config);
    assert_eq!(words(&answer, "done"), ["i2 is ended and started anew (openbgpd of /opt/roots/trixie/openbgpd)"]);
    assert_eq!(supervise(&mut sim, 15), [(2, Order::Stop), (2, Order::Start)]);
    assert_eq!(voting(&mut sim), ["i0", "i1", "i2"]);
    assert_eq!(updates(&sim), before);
    assert!(sim.no_reset());
}

#[test]
fn one_that_something_else_starts_is_let_in_and_cut_off() {
    let mut config = birds(3);
    let mut sim = running(&config);
    let before = updates(&sim);
    config.instances.push(Instance { name: "elsewhere".into(), ..Instance::default() });
    sim.reload(&config);
    assert_eq!(sim.orders, [], "nobody here starts it");
    sim.start_instance(3);
    supervise(&mut sim, 10);
    assert_eq!(voting(&mut sim), ["elsewhere", "i0", "i1", "i2"]);
    config.instances.pop();
    sim.reload(&config);
    supervise(&mut sim, 5);
    assert_eq!(voting(&mut sim), ["i0", "i1", "i2"]);
    assert!(!sim.instances[3].listening, "it was cut off");
    assert_eq!(updates(&sim), before);
    assert!(sim.no_reset());
}

#[test]
fn roles_and_limits_change_in_place() {
    let mut config = birds(4);
    config.instances[3].observer = true;
    let mut sim = running(&config);
    let before = updates(&sim);
    config.instances[3].observer = false;
    config.instances[0].standby = Some(Standby::Warm);
    let answer = sim.reload(&config);
    assert_eq!(words(&answer, "done").len(), 2);
    supervise(&mut sim, 5);
    let roles: Vec<_> = instances(&mut sim).into_values().map(|(role, _)| role).collect();
    assert_eq!(roles, ["warm-standby", "voter", "voter", "voter"]);
    assert_eq!(sim.orders, []);
    assert_eq!(updates(&sim), before);
    // A voter that falls is replaced by the one that was made a standby.
    lie(&mut sim, 2, MANY);
    supervise(&mut sim, 40);
    assert_eq!(said(&sim, "instance-promoted").len(), 1);
    assert!(sim.no_reset());
}

#[test]
fn settings_change_and_what_cannot_is_named() {
    let mut config = birds(3);
    let mut sim = running(&config);
    config.vote.strategy = Strategy::MasterSlave;
    config.vote.t_ms = 2000;
    config.faults.min_keys = 3;
    config.port = 1790;
    let answer = sim.reload(&config);
    assert_eq!(words(&answer, "done"), ["strategy is master-slave", "t_ms is 2000", "[faults] is as configured now"]);
    assert_eq!(words(&answer, "later"), ["port"]);
    let status = sim.query(json!({"command": "status"}));
    assert_eq!((status["strategy"].as_str(), status["t_ms"].as_u64()), (Some("master-slave"), Some(2000)));
    lie(&mut sim, 2, 4);
    supervise(&mut sim, 40);
    assert_eq!(said(&sim, "instance-faulty").len(), 1, "four prefixes are enough now");
    assert!(sim.no_reset());
}

#[test]
fn peers_are_let_in_and_sent_away() {
    let peer = |n| Peer {
        address: sim::peer_addr(n).ip(),
        port: None,
        asn: None,
        description: None,
        allow_own_as: false,
        bfd: None,
    };
    let mut config = birds(3);
    (config.accept_any, config.peers) = (false, vec![peer(1), peer(2)]);
    let mut sim = running(&config);
    let kept = sim.peers[&1].updates;
    config.peers = vec![peer(1), peer(3)];
    let answer = sim.reload(&config);
    let gone = format!("peer {} is not configured any more", sim::peer_addr(2).ip());
    assert_eq!(words(&answer, "done"), [format!("peer {} is let in", sim::peer_addr(3).ip()), gone]);
    let told = &sim.peers[&2].notifications;
    assert_eq!(told.iter().map(|n| (n.code, n.subcode)).collect::<Vec<_>>(), [(6, 3)], "Peer De-configured (RFC 4486)");
    sim.connect_peer(3);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(3).len(), MANY);
    assert!(sim.peers[&1].notifications.is_empty() && sim.peers[&1].updates == kept);
    config.peers.push(peer(2));
    sim.reload(&config);
    sim.connect_peer(2);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), MANY);
}

#[test]
fn after_a_change_of_policy_the_one_that_was_forgotten_is_named() {
    let config = birds(3);
    let mut sim = running(&config);
    sim.query(json!({"command": "change", "action": "begin"}));
    // Two of three say something else from now on.
    for i in [0, 1] {
        lie(&mut sim, i, 3);
    }
    supervise(&mut sim, 30);
    assert!(said(&sim, "instance-faulty").is_empty());
    let answer = sim.query(json!({"command": "change", "action": "commit"}));
    let text = answer["done"].as_str().expect("words");
    assert!(text.contains("i2 on 3 prefixes"), "{text}");
    assert_eq!(said(&sim, "change-incomplete").len(), 1);
}

/// What happens to the router of the property below.
#[derive(Clone, Debug)]
enum Deed {
    Announce(u8, u8),
    Withdraw(u8),
    Add,
    Remove(usize),
    Swap(usize),
    Wait(u8),
}

fn deed() -> impl proptest::strategy::Strategy<Value = Deed> {
    prop_oneof![
        3 => (0..8u8, 0..4u8).prop_map(|(p, hop)| Deed::Announce(p, hop)),
        1 => (0..8u8).prop_map(Deed::Withdraw),
        2 => Just(Deed::Add),
        2 => any::<usize>().prop_map(Deed::Remove),
        2 => any::<usize>().prop_map(Deed::Swap),
        2 => (0..40u8).prop_map(Deed::Wait),
    ]
}

/// Plays the history; `reloads` says whether the instances change with it.
fn play(deeds: &[Deed], reloads: bool) -> Sim {
    let mut config = birds(3);
    let mut sim = running(&config);
    for (n, deed) in deeds.iter().enumerate() {
        let prefix = |p: &u8| format!("198.51.{p}.0/24");
        match deed {
            Deed::Announce(p, hop) => sim.announce(1, &[&prefix(p)], &[64501, 64900 + u32::from(*hop)]),
            Deed::Withdraw(p) => sim.withdraw(1, &[&prefix(p)]),
            Deed::Wait(tenths) => drop(supervise(&mut sim, 1 + u64::from(*tenths) / 10)),
            Deed::Add if config.instances.len() < 9 => config.instances.push(bird(&format!("new{n}"))),
            Deed::Remove(at) if config.instances.len() > 2 => {
                let at = at % config.instances.len();
                config.instances.remove(at);
            }
            Deed::Swap(at) => {
                let at = at % config.instances.len();
                config.instances[at].root = Some(format!("/opt/roots/{n}").into());
            }
            Deed::Add | Deed::Remove(_) => {}
        }
        if reloads && matches!(deed, Deed::Add | Deed::Remove(_) | Deed::Swap(_)) {
            let answer = sim.reload(&config);
            assert!(answer["error"].is_null(), "{answer}");
        }
        supervise(&mut sim, 1);
    }
    supervise(&mut sim, 30);
    if reloads {
        let mut names: Vec<String> = config.instances.iter().map(|i| i.name.clone()).collect();
        names.sort();
        assert_eq!(voting(&mut sim), names, "everybody that is configured votes, and nobody else is left");
    }
    sim
}

/// Every state that each prefix went through at a peer.
fn histories(sim: &Sim, n: u8) -> BTreeMap<Prefix, Vec<(Option<u32>, bool)>> {
    let mut all: BTreeMap<Prefix, Vec<(Option<u32>, bool)>> = BTreeMap::new();
    sim.peers[&n].history.iter().for_each(|(p, med, there)| all.entry(*p).or_default().push((*med, *there)));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever comes, goes or is swapped while routes change: what the peers are told is what they
    /// would be told without.
    #[test]
    fn peers_are_told_the_same_whoever_comes_and_goes(deeds in proptest::collection::vec(deed(), 1..14)) {
        let (with, without) = (play(&deeds, true), play(&deeds, false));
        for n in [1, 2] {
            prop_assert_eq!(with.table(n), without.table(n));
            prop_assert_eq!(histories(&with, n), histories(&without, n));
        }
        prop_assert!(with.no_reset());
        prop_assert!(with.events_of("instance-faulty").is_empty());
    }
}

#[test]
fn places_are_given_back_however_often_instances_come_and_go() {
    let mut config = birds(3);
    let mut sim = running(&config);
    let before = updates(&sim);
    for n in 0..40 {
        config.instances.push(bird(&format!("guest{n}")));
        assert!(sim.reload(&config)["error"].is_null());
        supervise(&mut sim, 4);
        assert_eq!(voting(&mut sim).len(), 4, "guest {n}");
        config.instances.pop();
        sim.reload(&config);
        supervise(&mut sim, 2);
    }
    assert_eq!(sim.instances.len(), 4, "one place was enough for all");
    config.instances.extend((0..29).map(|n| bird(&format!("more{n}"))));
    let answer = sim.reload(&config);
    assert!(answer["error"].as_str().is_some_and(|e| e.contains("nothing has changed")), "32 are too many: {answer}");
    assert_eq!(voting(&mut sim), ["i0", "i1", "i2"]);
    config.instances.pop();
    assert!(sim.reload(&config)["error"].is_null());
    supervise(&mut sim, 10);
    assert_eq!(voting(&mut sim).len(), 31);
    assert_eq!(updates(&sim), before);
    assert!(sim.no_reset());
}

#[test]
fn what_only_the_removed_one_said_is_forgotten() {
    let mut config = birds(2);
    let mut sim = running(&config);
    sim.instances[0].fault.hides.insert(sim::prefix("203.0.113.0/24"));
    sim.announce(1, &["203.0.113.0/24"], &[64501]);
    supervise(&mut sim, 5);
    assert_eq!(sim.query(json!({"command": "status"}))["without_quorum"], 1);
    config.instances.pop();
    sim.reload(&config);
    supervise(&mut sim, 5);
    let status = sim.query(json!({"command": "status"}));
    assert_eq!((status["without_quorum"].as_u64(), status["voters"].as_u64()), (Some(0), Some(1)));
    assert!(!sim.table(2).contains_key(&sim::prefix("203.0.113.0/24")));
    assert_eq!(sim.table(2).len(), MANY, "all else stays");
    assert!(sim.no_reset());
}

#[test]
fn under_master_slave_the_swapped_master_stays_master() {
    let mut config = birds(3);
    config.vote.strategy = Strategy::MasterSlave;
    let mut sim = running(&config);
    let before = updates(&sim);
    config.instances[0].root = Some("/opt/roots/trixie/bird2".into());
    sim.reload(&config);
    supervise(&mut sim, 10);
    assert_eq!(said(&sim, "instance-replaced").len(), 1);
    assert_eq!(updates(&sim), before);
    // What the master alone says goes out at once.
    for i in [1, 2] {
        sim.instances[i].fault.hides.insert(sim::prefix("203.0.113.0/24"));
    }
    sim.announce(1, &["203.0.113.0/24"], &[64501]);
    sim.run(SECOND / 10);
    assert!(sim.table(2).contains_key(&sim::prefix("203.0.113.0/24")));
    assert!(sim.no_reset());
}
