//! Plays the stories of tests/ballots/*.txt; README.txt there says how to read and write them. One
//! core has both users of the voting table: the votes towards a peer, and those on the FIB.

mod sim;
#[path = "fib/world.rs"]
mod world;

use broker::io::{Change, Input, InstanceId, KernelNews, Link, NetlinkId};
use serde_json::json;
use sim::{LOCAL, OUR_AS, Sim, T_MS, prefix, update};
use std::collections::BTreeMap;
use virtd_config::{Config, Fib, Strategy};
use wire::netlink::RouteMessage;
use wire::netlink::consts::{NLM_F_REQUEST, RT_SCOPE_NOWHERE, RTM_DELROUTE, RTM_NEWROUTE};
use wire::netlink::message::Writer;

/// The prefix that is voted on, and one that everybody has had since the start.
const P: &str = "198.51.100.0/24";
const Q: &str = "203.0.113.0/24";
/// Who is told, and who sends input.
const TOLD: u8 = 1;
const SENDER: u8 = 2;
const T_US: u64 = T_MS as u64 * 1000;

/// How one of the two stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Stand {
    chosen: Option<char>,
    dissent: Vec<usize>,
    no_quorum: bool,
}

struct Lab {
    sim: Sim,
    config: Config,
    inputs: u32,
}

impl Lab {
    /// Three instances with a leg to both peers and a socket each; all vote, towards the peers and
    /// in the FIB.
    fn new(strategy: Strategy, k: Option<u8>, min_voters: u8) -> Lab {
        let mut config = Config { fib: Some(Fib::default()), ..sim::config(3, strategy) };
        (config.vote.k, config.vote.min_voters) = (k, min_voters);
        config.instances.iter_mut().for_each(|i| i.netlink = true);
        let mut sim = Sim::new(&config);
        let (index, length) = (2, 24);
        let address = "10.0.2.1".parse().expect("an address");
        sim.input(Input::Kernel(KernelNews::Change(Change::Link(Link {
            index,
            name: "n2".to_owned(),
            up: true,
            running: true,
        }))));
        sim.input(Input::Kernel(KernelNews::Change(Change::Address { index, address, length })));
        [TOLD, SENDER].into_iter().for_each(|n| sim.connect_peer(n));
        let mut lab = Lab { sim, config, inputs: 0 };
        for i in 0..3 {
            lab.sim.instances[i].fault.hides.insert(prefix(P));
            lab.sim.input(Input::NetlinkOpened { socket: socket(i), instance: InstanceId(i as u8) });
            lab.write(i, Q, Some('A'));
        }
        lab.sim.run(3 * T_US);
        assert!(lab.sim.peers.values().all(|p| p.established), "{:?}", lab.sim.events);
        lab
    }

    fn says(&mut self, i: usize, route: Option<char>) {
        let message = match route {
            Some(letter) => update(&[prefix(P)], &[], &[OUR_AS, 64999], LOCAL, Some(letter.into()), i),
            None => update(&[], &[prefix(P)], &[], LOCAL, None, i),
        };
        self.sim.leg_sends(i, TOLD, &message);
        self.write(i, P, route);
    }

    fn write(&mut self, i: usize, prefix: &str, route: Option<char>) {
        let (kind, flags, message) = match route {
            Some(letter) => (RTM_NEWROUTE, world::CREATE, world::route(prefix, &[&gateway(letter)])),
            None => {
                let any = world::route(prefix, &[]);
                let any = RouteMessage { kind: 0, protocol: 0, priority: None, scope: RT_SCOPE_NOWHERE, ..any };
                (RTM_DELROUTE, 0, any)
            }
        };
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, flags | NLM_F_REQUEST, 1, 0);
        w.put(&message.to_payload().expect("fits"));
        w.finish().expect("fits");
        let answers = self.sim.netlink_request(socket(i), 1, &bytes);
        assert!(answers.is_empty(), "the kernel of i{i} takes it");
    }

    fn dies(&mut self, i: usize) {
        self.sim.kill_instance(i);
        self.sim.input(Input::NetlinkClosed { socket: socket(i) });
    }

    fn input(&mut self) {
        self.inputs += 1;
        self.sim.announce(SENDER, &[P], &[64500 + u32::from(SENDER), 64900 + self.inputs]);
    }

    /// Lets time pass until `at`, and what is due at that moment be done.
    fn run_to(&mut self, at: u64) {
        self.sim.run(at.saturating_sub(self.sim.now));
        self.sim.input(Input::Tick);
    }

    /// What the kernel has, by key.
    fn kernel(&self) -> BTreeMap<String, Option<String>> {
        let text = |bytes: &[u8]| wire::netlink::fib::FibRoute::from_bytes(bytes).expect("a route").to_string();
        self.sim.written.iter().map(|c| (c.key.to_string(), c.route.as_deref().map(text))).collect()
    }

    /// How the votes towards the peer stand, and those on the FIB.
    fn stands(&mut self) -> (Stand, Stand) {
        let med = self.sim.table(TOLD).get(&prefix(P)).map(|(_, med)| med.expect("each route has a MED"));
        let routes = self.sim.query(json!({ "command": "routes", "prefix": P }));
        let peer = sim::peer_addr(TOLD).ip().to_string();
        let key = routes["sessions"].as_array().expect("a list").iter().find(|s| s["peer"] == peer.as_str()).cloned();
        let key = key.unwrap_or_default();
        let session = Stand {
            chosen: med.and_then(char::from_u32),
            dissent: (0..3).filter(|i| key["said"][i]["note"] == "not with the majority").collect(),
            no_quorum: key["why"].as_str().is_some_and(|why| why.starts_with("no majority")),
        };
        let fib = self.sim.query(json!({ "command": "fib" }));
        let mut told = self.sim.events.iter().rev().filter(|e| e.prefix == Some(prefix(P)));
        let route = self.kernel().get(P).cloned().flatten();
        let fib = Stand {
            chosen: route.and_then(|text| ('A'..='Z').find(|letter| text.contains(&gateway(*letter)))),
            dissent: (0..3).filter(|i| fib["instances"][i]["dissents"] == 1).collect(),
            // The count that virtctl has is of all keys.
            no_quorum: told
                .find(|e| ["fib-no-quorum", "fib-agreement"].contains(&e.kind))
                .is_some_and(|e| e.kind == "fib-no-quorum"),
        };
        (session, fib)
    }
}

fn socket(i: usize) -> NetlinkId {
    NetlinkId(2 * i as u64 + 1)
}

fn gateway(letter: char) -> String {
    format!("10.0.2.{}", 100 + u32::from(letter) - u32::from('A'))
}

fn word(text: &str) -> Option<char> {
    (text != "none").then(|| text.chars().next().expect("a route"))
}

fn instance(text: &str) -> usize {
    text.strip_prefix('i').and_then(|n| n.parse().ok()).expect("an instance")
}

fn micros(text: &str) -> u64 {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e3),
        (None, Some(number)) => (number, 1e6),
        (None, None) => (text, 1e6),
    };
    (number.parse::<f64>().expect("a time") * unit).round() as u64
}

fn stand(text: &str) -> Stand {
    let mut parts = text.split(',').map(str::trim);
    let mut stand = Stand { chosen: word(parts.next().expect("a route")), ..Stand::default() };
    for part in parts {
        match part.strip_prefix("dissent ") {
            Some(names) => stand.dissent = names.split_whitespace().map(instance).collect(),
            None => stand.no_quorum = part == "no quorum",
        }
    }
    stand
}

fn rules(text: &str) -> Lab {
    let mut words = text.split_whitespace();
    let strategy = match words.next() {
        Some("wait-for-consensus") => Strategy::WaitForConsensus,
        Some("continuous-majority") => Strategy::ContinuousMajority,
        Some("master-slave") => Strategy::MasterSlave,
        Some("first-k") => Strategy::FirstK,
        other => panic!("no strategy: {other:?}"),
    };
    let (mut k, mut min_voters) = (None, 1);
    for word in words {
        match word.split_once('=').map(|(name, n)| (name, n.parse().expect("a number"))) {
            Some(("k", n)) => k = Some(n),
            Some(("min_voters", n)) => min_voters = n,
            _ => panic!("no rule: {word}"),
        }
    }
    Lab::new(strategy, k, min_voters)
}

/// Plays one file; how many stands of it held, and what did not.
fn play(text: &str) -> (usize, Vec<String>) {
    let (mut case, mut start, mut lab, mut held, mut wrong) = ("", 0, None, 0, Vec::new());
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix("case: ") {
            case = name;
        } else if let Some(text) = line.strip_prefix("rules: ") {
            let new = lab.insert(rules(text));
            start = new.sim.now;
        } else if let Some(text) = line.strip_prefix("before: ") {
            let lab = lab.as_mut().expect("rules first");
            (0..3).for_each(|i| lab.says(i, word(text)));
            lab.sim.run(3 * T_US);
            start = lab.sim.now;
        } else {
            let lab = lab.as_mut().expect("rules first");
            let (happens, expected) = line.split_once("->").expect("an arrow");
            let mut words = happens.split_whitespace();
            let at = words.next().and_then(|t| t.strip_prefix("t=")).expect("a time");
            lab.run_to(start + micros(at));
            while let Some(what) = words.next() {
                match (what.strip_suffix(':'), what) {
                    (Some(who), _) => match words.next().expect("a word") {
                        "dies" => lab.dies(instance(who)),
                        route => lab.says(instance(who), word(route)),
                    },
                    (None, "input") => lab.input(),
                    (None, "walk") => drop(lab.sim.reload(&lab.config)),
                    (None, other) => panic!("{case}: what is {other}?"),
                }
            }
            let ((peer, fib), expected) = (lab.stands(), stand(expected));
            for (who, found) in [("peer", peer), ("FIB", fib)] {
                match found == expected {
                    true => held += 1,
                    false => wrong.push(format!("{case}, {at}, {who}: {found:?} instead of {expected:?}")),
                }
            }
        }
    }
    (held, wrong)
}

#[test]
fn the_stories_end_as_written() {
    for (name, text, least) in
        [("votes.txt", include_str!("ballots/votes.txt"), 100), ("master.txt", include_str!("ballots/master.txt"), 50)]
    {
        let (held, wrong) = play(text);
        assert!(wrong.is_empty() && held >= least, "{name}: {held} held;\n{}", wrong.join("\n"));
    }
}

/// The master alone says a route that nobody else has, and takes it back, without a rest: few of
/// its words get through, whatever verdicts come in between, and in the end nothing is kept of it.
#[test]
fn a_made_up_route_that_comes_and_goes_is_not_followed_for_ever() {
    let mut lab = Lab::new(Strategy::MasterSlave, None, 1);
    let (told, written) = (lab.sim.peers[&TOLD].updates, lab.sim.written.len());
    for _ in 0..500 {
        for route in [Some('B'), None] {
            lab.says(0, route);
            lab.sim.run(T_US / 200);
        }
    }
    let (told, written) = (lab.sim.peers[&TOLD].updates - told, lab.sim.written.len() - written);
    assert!((2..=7).contains(&told), "{told} of a thousand were told");
    assert!((2..=7).contains(&written), "{written} of a thousand were written");
    lab.sim.run(3 * T_US);
    assert_eq!(lab.sim.query(json!({ "command": "routes", "prefix": P }))["sessions"], json!([]));
    assert_eq!(lab.sim.query(json!({ "command": "fib" }))["keys"], 1, "Q alone");
}

/// Who is marked and dies is out of the comparison: nobody says that it is right again.
#[test]
fn who_is_gone_is_not_said_to_be_with_the_majority_again() {
    let mut lab = Lab::new(Strategy::WaitForConsensus, None, 1);
    [Some('A'), Some('B'), Some('A')].into_iter().enumerate().for_each(|(i, route)| lab.says(i, route));
    lab.run_to(lab.sim.now + 2 * T_US);
    assert_eq!(lab.stands().0.dissent, [1]);
    lab.dies(1);
    lab.run_to(lab.sim.now + 2 * T_US);
    for (kind, on) in [("agreement", P.to_owned()), ("fib-agreement", format!("{P} in the FIB"))] {
        let told = lab.sim.events_of(kind);
        let text = told.last().map(|e| e.text.as_str());
        assert_eq!(text, Some(format!("i1 is not compared on {on} any more").as_str()));
    }
}
