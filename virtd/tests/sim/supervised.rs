//! A router whose instances virtd starts, with a supervisor that obeys: what the tests of verdicts
//! and standbys share.

use super::{Sim, config, prefix};
use broker::io::{Input, InstanceId, Order, ProcessNews};
use virtd_config::{Config, Standby, Strategy};

pub const SECOND: u64 = 1_000_000;
/// More prefixes than `min_keys`.
pub const MANY: usize = 20;

pub fn prefixes() -> Vec<String> {
    (0..MANY).map(|n| format!("198.51.{n}.0/24")).collect()
}

/// Instances that virtd starts, with short thresholds.
pub fn supervised(n: usize, strategy: Strategy) -> Config {
    let mut c = config(n, strategy);
    c.instances.iter_mut().for_each(|i| i.command = vec!["/bin/daemon".to_owned()]);
    c.timers.fault_threshold_ms = 20_000;
    c.faults.one_key_ms = 100_000;
    c
}

/// Both peers up, peer 1's table everywhere.
pub fn running(config: &Config) -> Sim {
    let mut sim = Sim::new(config);
    for i in 0..config.instances.len() {
        news(&mut sim, i, ProcessNews::Started { pid: 100 + i as u32 });
    }
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    let list = prefixes();
    sim.announce(1, &list.iter().map(String::as_str).collect::<Vec<_>>(), &[64501]);
    sim.run(5 * SECOND);
    assert_eq!(sim.table(2).len(), MANY);
    sim
}

/// Three instances and both peers up, without routes; the fourth is a standby that nobody has
/// started.
pub fn without_standby(standby: Standby) -> Sim {
    let mut config = supervised(4, Strategy::WaitForConsensus);
    config.instances[3].standby = Some(standby);
    let mut sim = Sim::new(&config);
    sim.kill_instance(3);
    (0..3).for_each(|i| news(&mut sim, i, ProcessNews::Started { pid: 100 }));
    sim.connect_peer(1);
    sim.connect_peer(2);
    sim.run(SECOND);
    sim
}

pub fn news(sim: &mut Sim, i: usize, news: ProcessNews) {
    sim.input(Input::Process { instance: InstanceId(i as u8), news });
}

/// Instance `i` lies about so many prefixes from the next announcement on.
pub fn lie(sim: &mut Sim, i: usize, about: usize) {
    for p in prefixes().iter().take(about) {
        sim.instances[i].fault.lies_about.insert(prefix(p));
    }
    let list = prefixes();
    sim.announce(1, &list.iter().map(String::as_str).collect::<Vec<_>>(), &[64501, 64999]);
}

/// What the supervisor does with an order, at once.
pub fn obey(sim: &mut Sim) -> Vec<(u8, Order)> {
    let orders = std::mem::take(&mut sim.orders);
    for (i, order) in orders.clone() {
        let i = usize::from(i);
        match order {
            Order::Start => {
                news(sim, i, ProcessNews::Started { pid: 200 + i as u32 });
                sim.start_instance(i);
            }
            Order::Stop | Order::Kill => {
                sim.kill_instance(i);
                news(sim, i, ProcessNews::Ended { unasked: false, text: "killed".into() });
            }
        }
    }
    orders
}

/// Lets time pass with a supervisor that obeys; returns all orders.
pub fn supervise(sim: &mut Sim, seconds: u64) -> Vec<(u8, Order)> {
    let mut all = Vec::new();
    for _ in 0..seconds * 10 {
        sim.run(SECOND / 10);
        all.extend(obey(sim));
    }
    all
}

pub fn said(sim: &Sim, kind: &str) -> Vec<(Option<String>, String)> {
    sim.events_of(kind).into_iter().map(|e| (e.instance.clone(), e.text.clone())).collect()
}
