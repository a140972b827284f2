//! The whole core: one peer and one instance of a router say whatever octets they like, and nobody
//! else is the worse for it.

#[path = "../../../../virtd/tests/sim/mod.rs"]
pub(crate) mod sim;

use self::sim::{Sim, config, prefix};
use std::collections::{BTreeMap, BTreeSet};
use virtd::control;
use virtd_config::Strategy;
use wire::bgp::hygiene::{Verdict, check};
use wire::bgp::{Prefix, UpdateContext};
use wire::netlink::Frames;

const SECOND: u64 = 1_000_000;
/// The peer that says what it likes.
const STRANGER: u8 = 1;
/// The peer that announces what is true.
const HONEST: u8 = 2;
/// The peer that watches.
const WATCHER: u8 = 3;
/// The instance that says what it likes.
const LIAR: usize = 0;
/// Who says the same where the liar is to have a majority.
const ACCOMPLICE: usize = 1;
/// Who reads the tables, now and then.
const READER: u64 = 1;
/// What one input does, at most: each step costs a turn or more.
const MAX_STEPS: usize = 60;

/// Takes an input apart.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A length, and so many octets or as many as there are.
    fn octets(&mut self) -> Option<&'a [u8]> {
        let [high, low] = [self.octet()?, self.octet()?];
        let n = usize::from(u16::from_be_bytes([high, low])).min(self.0.len());
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        Some(taken)
    }
}

/// A message around what is to be its body: its length is right, whatever is in it.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let body = body.get(..4000).unwrap_or(body);
    [&[0xff; 16][..], &((body.len() + 19) as u16).to_be_bytes(), &[1 + kind % 5], body].concat()
}

/// A history: steps, each an octet that says what is done and what it takes. The first octet says
/// which strategy, whether the FIB is voted on, and whether a second instance says what the liar
/// says.
///
/// Whatever the stranger and the liar say: the core goes on, what it tells peers is sound and whole,
/// the sessions with the honest peer and the watcher stand, and what the honest peer says last is
/// what the watcher ends with, and the kernel. Two liars of three are believed: then what peers are
/// told need only be sound.
pub fn core(data: &[u8]) {
    let mut input = Input(data);
    let Some(how) = input.octet() else { return };
    let strategy = if how & 1 == 0 { Strategy::WaitForConsensus } else { Strategy::ContinuousMajority };
    let (config, fib) = (config(3, strategy), how & 2 != 0);
    let liars: &[usize] = if how & 32 != 0 { &[LIAR, ACCOMPLICE] } else { &[LIAR] };
    let mut sim = if fib { Sim::with_fib(&config) } else { Sim::new(&config) };
    sim.batch = 1 + usize::from(how >> 2 & 3);
    sim.hurried = how & 16 != 0;
    assert!(sim.core.open_reader(READER, true, None).is_ok());
    (1..=3).for_each(|n| sim.connect_peer(n));
    sim.run(SECOND);
    let mut truth = BTreeMap::new();
    say(&mut sim, &mut truth, 0, 0);
    for _ in 0..MAX_STEPS {
        if step(&mut sim, &mut input, &mut truth, (fib, liars)).is_none() {
            break;
        }
    }
    comes_to_rest(&mut sim, truth, (fib, liars));
}

/// The honest peer announces (or withdraws) one of its prefixes.
fn say(sim: &mut Sim, truth: &mut BTreeMap<Prefix, Option<Vec<u32>>>, which: u8, what: u8) {
    let text = format!("203.0.{}.0/24", which % 8);
    let path = [64500 + u32::from(HONEST), 65000 + u32::from(what % 4)];
    match what % 5 {
        4 => sim.withdraw(HONEST, &[&text]),
        _ => sim.announce(HONEST, &[&text], &path),
    }
    let told = (what % 5 != 4).then(|| [&[sim::OUR_AS][..], &path].concat());
    truth.insert(prefix(&text), told);
}

fn step(
    sim: &mut Sim,
    input: &mut Input<'_>,
    truth: &mut BTreeMap<Prefix, Option<Vec<u32>>>,
    (fib, liars): (bool, &[usize]),
) -> Option<()> {
    match input.octet()? % 12 {
        0 => sim.peer_sends(STRANGER, input.octets()?),
        1 | 2 => {
            let message = framed(input.octet()?, input.octets()?);
            sim.peer_sends(STRANGER, &message);
        }
        3 => sim.connect_peer(STRANGER),
        4 => {
            let peer = 1 + input.octet()? % 3;
            let octets = input.octets()?;
            liars.iter().for_each(|&i| sim.leg_sends(i, peer, octets));
        }
        5 | 6 => {
            let peer = 1 + input.octet()? % 3;
            let message = framed(input.octet()?, input.octets()?);
            liars.iter().for_each(|&i| sim.leg_sends(i, peer, &message));
        }
        7 => match sim.instances.get(LIAR).is_some_and(|i| i.listening) {
            true => sim.kill_instance(LIAR),
            false => sim.start_instance(LIAR),
        },
        8 => {
            let (which, what) = (input.octet()?, input.octet()?);
            say(sim, truth, which, what);
        }
        9 => {
            sim.run(u64::from(input.octet()?) * SECOND / 50);
            sim.core.tell_reader(sim.now, READER, &mut Vec::new());
        }
        10 => asks(sim, input.octets()?, fib),
        _ => {
            if let Ok(request) = control::request(input.octets()?)
                && reads(&request)
            {
                let answer = sim.query(serde_json::to_value(&request).ok()?);
                assert!(answer.is_object());
            }
        }
    }
    Some(())
}

/// Whether it only asks: what an operator orders is obeyed, and ends sessions.
fn reads(request: &virtd_api::Request) -> bool {
    use virtd_api::Request::*;
    match request {
        Status | Sessions | Routes { .. } | Differs { .. } | Diversity { .. } => true,
        Instances { exec } => exec.is_none(),
        Fib { flush, .. } => !flush,
        Session { action, .. } => action.is_none(),
        Instance { .. } | Change { .. } | Reload { .. } | Events { .. } | Upgrade { .. } | Ribs { .. } => false,
    }
}

/// The liar's daemon asks its virtual kernel, a message at a time as the driver hands them on.
fn asks(sim: &mut Sim, datagram: &[u8], fib: bool) {
    if !fib || !sim.instances.get(LIAR).is_some_and(|i| i.listening) {
        return;
    }
    for frame in Frames::new(datagram) {
        let Ok(frame) = frame else { break };
        if vkernel::gate::handling(&frame) == vkernel::gate::Handling::Virtual {
            let message = whole(&frame);
            for answer in sim.asks_kernel(LIAR, &message) {
                assert!(Frames::new(&answer).all(|f| f.is_ok()), "an answer that cannot be taken apart");
            }
        }
    }
}

/// Header and payload of a message.
fn whole(frame: &wire::netlink::Frame<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    frame.header.write(&mut message);
    message.extend_from_slice(frame.payload);
    message
}

/// The liar is started again and lies no more, the stranger goes: what is then?
fn comes_to_rest(sim: &mut Sim, mut truth: BTreeMap<Prefix, Option<Vec<u32>>>, (fib, liars): (bool, &[usize])) {
    for &i in liars {
        if sim.instances.get(i).is_some_and(|i| i.listening) {
            sim.kill_instance(i);
        }
        sim.start_instance(i);
    }
    say(sim, &mut truth, 7, 1);
    sim.run(30 * SECOND);
    for n in [HONEST, WATCHER] {
        let Some(peer) = sim.peers.get(&n) else { continue };
        for update in &peer.raw {
            let body = update.get(19..).unwrap_or_default();
            assert_eq!(check(body, &UpdateContext::EBGP), Verdict::Pass, "peer {n} is told {update:02x?}");
        }
        if liars.len() == 1 {
            assert!(peer.established && peer.closed == 0, "peer {n}: {:?}", sim.events);
            assert!(peer.notifications.is_empty(), "peer {n}: {:?}", peer.notifications);
        }
    }
    if liars.len() > 1 {
        return;
    }
    // What the stranger has announced as well may be the better route.
    let contested: BTreeSet<Prefix> =
        sim.instances[1].heard.iter().filter(|h| h.0 == STRANGER).flat_map(|h| h.1.clone()).collect();
    let table = sim.table(WATCHER);
    for (prefix, path) in truth {
        if contested.contains(&prefix) {
            continue;
        }
        assert_eq!(table.get(&prefix).map(|(path, _)| path), path.as_ref(), "{prefix}: {:?}", sim.events);
        if fib {
            assert_eq!(sim.kernel.contains_key(&prefix), path.is_some(), "{prefix} in the kernel: {:?}", sim.events);
        }
    }
}

/// What [`core`] begins with.
pub fn histories() -> Vec<Vec<u8>> {
    let with_len = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let messages = super::bgp::messages();
    let body = |m: &Vec<u8>| with_len(m.get(19..).unwrap_or_default());
    let kind = |m: &Vec<u8>| m.get(18).map_or(0, |k| k - 1);
    let mut all: Vec<Vec<u8>> = Vec::new();
    for (n, some) in messages.chunks(4).enumerate() {
        let mut history = vec![n as u8 | if n % 2 == 1 { 32 } else { 0 }];
        for (i, m) in some.iter().enumerate() {
            history.extend([1, kind(m)].into_iter().chain(body(m)));
            history.extend([5, i as u8, kind(m)].into_iter().chain(body(m)));
            history.extend([8, i as u8, n as u8, 9, 20]);
        }
        history.extend([7, 9, 40, 7, 9, 100]);
        all.push(history);
    }
    let whole = messages.concat();
    all.push(
        [
            &[0, 0][..],
            &with_len(whole.get(..900).unwrap_or_default()),
            &[3, 9, 30, 0],
            &with_len(b"GET / HTTP/1.1"),
            &[3],
        ]
        .concat(),
    );
    let mut asks = vec![2];
    for request in super::kernel::requests().iter().take(30) {
        asks.extend([10].into_iter().chain(with_len(request)));
    }
    all.push(asks);
    let mut lines = vec![3];
    for line in super::text::requests() {
        lines.extend([11].into_iter().chain(with_len(&line)));
    }
    all.push(lines);
    all
}
