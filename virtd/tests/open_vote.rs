//! The OPEN as a vote, in the core under a virtual clock: what the peer is shown, what becomes of
//! who lacks something, when a session opens although instances are missing, and when it is opened
//! anew.

mod sim;

use bytes::Bytes;
use sim::{LOCAL, OUR_AS, Sim, config, open, our_open, peer_addr, prefix, update};
use std::net::{IpAddr, Ipv4Addr};
use virtd_config::{Config, Strategy};
use wire::bgp::frame::HEADER_LEN;
use wire::bgp::message::{Capability, Open};
use wire::bgp::update::{Attributes, Update, attr};
use wire::bgp::{Family, Notification, Prefix};

const SECOND: u64 = 1_000_000;
const P: &str = "198.51.100.0/24";
const Q: &str = "203.0.113.0/24";

fn mp(family: Family) -> Capability {
    Capability::Multiprotocol(family)
}

/// Our OPEN with these capabilities more.
fn with(more: &[Capability]) -> Open {
    let mut open = our_open();
    open.capabilities.extend(more.iter().cloned());
    open
}

/// Our OPEN without those that `gone` names.
fn without(open: &Open, gone: impl Fn(&Capability) -> bool) -> Open {
    let mut open = open.clone();
    open.capabilities.retain(|c| !gone(c));
    open
}

fn peer_open(n: u8, more: &[Capability]) -> Open {
    let mut open = open(64500 + u32::from(n), Ipv4Addr::new(10, 0, 0, n), 90);
    open.capabilities.extend(more.iter().cloned());
    open
}

/// Peers 1 and 2, each with these capabilities more, and so many instances that `offer` says.
fn router(instances: usize, more: &[Capability], offer: impl Fn(usize, u8) -> Open) -> Sim {
    router_of(&config(instances, Strategy::WaitForConsensus), more, offer)
}

fn router_of(config: &Config, more: &[Capability], offer: impl Fn(usize, u8) -> Open) -> Sim {
    let (mut sim, instances) = (Sim::new(config), config.instances.len());
    for n in [1, 2] {
        for i in 0..instances {
            sim.offers.insert((i, n), offer(i, n));
        }
        sim.connect_peer_with(n, &peer_open(n, more));
    }
    sim.run(SECOND);
    assert!(sim.peers.values().all(|p| p.established), "both sessions come up: {:?}", sim.events);
    sim
}

fn nobody_accused(sim: &Sim) {
    for kind in ["disagreement", "no-quorum", "instance-faulty", "leg-refused", "leg-fault"] {
        assert_eq!(sim.events_of(kind).len(), 0, "{kind}: {:?}", sim.events_of(kind));
    }
    assert!(sim.no_reset());
}

#[test]
fn who_lacks_a_family_keeps_its_leg_abstains_on_it_and_is_named_once() {
    let v6 = mp(Family::IPV6_UNICAST);
    let both = with(std::slice::from_ref(&v6));
    let only_v6 = without(&both, |c| *c == mp(Family::IPV4_UNICAST));
    let offer = |i, n| if (i, n) == (2, 1) { only_v6.clone() } else { both.clone() };
    let mut sim = router(3, &[v6], offer);
    let shown = sim.peers[&1].open.clone().expect("an OPEN");
    assert!(shown.has_family(Family::IPV4_UNICAST) && shown.has_family(Family::IPV6_UNICAST));
    assert_eq!(sim.instances[2].legs(), [1, 2], "its leg stands");
    let told = sim.events_of("open-differs");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].instance.as_deref(), Some("i2"));
    assert!(told[0].text.contains("i2 lacks ipv4-unicast"), "{}", told[0].text);

    sim.announce(1, &[P], &[64501]);
    sim.announce(2, &[Q], &[64502]);
    // What it says of the family although it has not negotiated it is nobody's word.
    sim.leg_sends(2, 1, &update(&[prefix(Q)], &[], &[OUR_AS, 64999], LOCAL, None, 0));
    sim.run(70 * SECOND);
    assert!(sim.table(2).contains_key(&prefix(P)) && sim.table(1).contains_key(&prefix(Q)));
    assert_eq!(sim.table(1)[&prefix(Q)].0, [OUR_AS, 64502]);
    assert!(!sim.instances[2].rib.contains_key(&(1, prefix(P))), "it is not told");
    assert!(sim.instances[2].rib.contains_key(&(2, prefix(Q))), "the other session is as ever");
    sim.withdraw(1, &[P]);
    sim.run(SECOND);
    assert!(sim.table(2).is_empty());
    assert!(sim.instances[2].heard.iter().all(|(peer, ..)| *peer == 2), "nor of its end");
    assert_eq!(sim.events_of("open-differs").len(), 1);
    nobody_accused(&sim);
}

#[test]
fn its_leg_stands_where_it_has_no_family_of_the_session() {
    let only_v6 = without(&with(&[mp(Family::IPV6_UNICAST)]), |c| *c == mp(Family::IPV4_UNICAST));
    let mut sim = router(3, &[], |i, _| if i == 2 { only_v6.clone() } else { our_open() });
    sim.announce(1, &[P], &[64501]);
    sim.run(70 * SECOND);
    assert!(sim.table(2).contains_key(&prefix(P)));
    assert_eq!(sim.instances[2].legs(), [1, 2]);
    assert!(sim.instances[2].heard.is_empty());
    // The others bring it about alone, also after one of them has been away.
    sim.kill_instance(0);
    sim.restart_instance(0);
    sim.run(5 * SECOND);
    sim.withdraw(1, &[P]);
    sim.run(5 * SECOND);
    assert!(sim.table(2).is_empty());
    nobody_accused(&sim);
}

#[test]
fn end_of_rib_is_counted_among_those_that_have_the_family() {
    let v6 = mp(Family::IPV6_UNICAST);
    let both = with(std::slice::from_ref(&v6));
    let only_v6 = without(&both, |c| *c == mp(Family::IPV4_UNICAST));
    // Long enough that quiet does not bring it.
    let mut config = config(5, Strategy::WaitForConsensus);
    config.vote.t_ms = 60_000;
    let mut sim = router_of(&config, &[v6], |i, _| if i > 2 { only_v6.clone() } else { both.clone() });
    let eor = update(&[], &[], &[], LOCAL, None, 0);
    assert_eq!(sim.peers[&1].eor, 0);
    sim.leg_sends(3, 1, &eor);
    sim.leg_sends(4, 1, &eor);
    sim.leg_sends(0, 1, &eor);
    assert_eq!(sim.peers[&1].eor, 0, "one of the three that have it");
    sim.leg_sends(1, 1, &eor);
    assert_eq!(sim.peers[&1].eor, 1, "two of three");
}

/// An UPDATE of peer 1 with so many communities, on the way of which AS 200000 stands.
fn long(prefixes: &[Prefix], communities: u16) -> Bytes {
    let IpAddr::V4(next_hop) = peer_addr(1).ip() else { unreachable!("peers have IPv4 addresses") };
    let mut attributes = vec![0x40, attr::ORIGIN, 1, 0, 0x40, attr::AS_PATH, 10, 2, 2];
    attributes.extend([64501u32, 200_000].iter().flat_map(|a| a.to_be_bytes()));
    attributes.extend([0x40, attr::NEXT_HOP, 4]);
    attributes.extend(next_hop.octets());
    attributes.extend([0xd0, attr::COMMUNITIES]);
    attributes.extend((communities * 4).to_be_bytes());
    attributes.extend((0..communities).flat_map(|n| (u32::from(n) + (64501 << 16)).to_be_bytes()));
    let nlri: Vec<u8> = prefixes.iter().flat_map(|p| [&[p.len()], p.octets()].concat()).collect();
    let mut m = vec![0xff; 16];
    m.extend(((HEADER_LEN + 4 + attributes.len() + nlri.len()) as u16).to_be_bytes());
    m.extend([2, 0, 0]);
    m.extend((attributes.len() as u16).to_be_bytes());
    m.extend([attributes, nlri].concat());
    Bytes::from(m)
}

fn many(n: u16) -> Vec<Prefix> {
    (0..n).map(|n| Prefix::new(Ipv4Addr::new(10, (n >> 8) as u8, n as u8, 0).into(), 24).expect("a prefix")).collect()
}

#[test]
fn long_messages_are_packed_into_short_ones_for_who_has_no_longer_ones() {
    let ext = [Capability::ExtendedMessage];
    let mut sim = router(3, &ext, |i, _| if i == 2 { our_open() } else { with(&ext) });
    let shown = sim.peers[&1].open.clone().expect("an OPEN");
    assert!(shown.capabilities.contains(&Capability::ExtendedMessage), "two of three have it");
    let all = many(3000);
    sim.peer_sends(1, &long(&all, 10));
    sim.run(3 * SECOND);
    assert_eq!(sim.table(2).len(), 3000);
    for i in &sim.instances {
        assert_eq!(i.rib.len(), 3000);
    }
    assert!(sim.instances[2].raw.iter().all(|m| m.len() <= 4096));
    assert!(sim.instances[0].raw.iter().any(|m| m.len() > 4096), "the others are told as it came");
    let told = sim.events_of("open-differs");
    assert!(told.iter().all(|e| e.text.contains("i2 lacks extended messages")), "{told:?}");
    nobody_accused(&sim);
}

#[test]
fn a_route_that_does_not_fit_a_short_message_is_taken_from_it_while_it_stands() {
    let ext = [Capability::ExtendedMessage];
    let mut sim = router(3, &ext, |i, _| if i == 2 { our_open() } else { with(&ext) });
    sim.announce(1, &[P, Q], &[64501]);
    sim.run(3 * SECOND);
    assert_eq!(sim.instances[2].rib.len(), 2);
    sim.peer_sends(1, &long(&[prefix(P)], 1200));
    sim.run(70 * SECOND);
    assert_eq!(sim.table(2)[&prefix(P)].0, [OUR_AS, 64501, 200_000]);
    let rib = |sim: &Sim| sim.instances[2].rib.keys().map(|(_, p)| *p).collect::<Vec<_>>();
    assert_eq!(rib(&sim), [prefix(Q)], "an older route would be wrong");
    nobody_accused(&sim);
    // It comes back after a while, and is not told it either; and counts elsewhere as ever.
    sim.kill_instance(2);
    sim.restart_instance(2);
    sim.run(3 * SECOND);
    assert_eq!(rib(&sim), [prefix(Q)]);
    sim.kill_instance(0);
    sim.withdraw(1, &[Q]);
    sim.run(SECOND);
    assert!(!sim.table(2).contains_key(&prefix(Q)), "with i1 it is two of three");
    sim.restart_instance(0);
    sim.run(3 * SECOND);
    // A shorter one is told to everybody, and it is counted again.
    sim.instances[2].fault.lies_about.insert(prefix(P));
    sim.announce(1, &[P], &[64501]);
    sim.run(3 * SECOND);
    assert_eq!(rib(&sim), [prefix(P)]);
    let told = sim.events_of("disagreement");
    assert_eq!(told.iter().filter(|e| e.instance.as_deref() == Some("i2")).count(), 1, "{told:?}");
    assert_eq!(sim.table(2)[&prefix(P)].1, None);
}

/// The attributes of the last UPDATE that an instance was told about a prefix, by code.
fn attributes(sim: &Sim, i: usize, code: u8) -> Option<Vec<u8>> {
    let update = sim.instances[i].raw.iter().rev().find_map(|m| {
        let u = Update::parse(m.get(HEADER_LEN..)?).ok().filter(|_| m[18] == 2)?;
        (!u.nlri.is_empty()).then_some(u)
    })?;
    Attributes::new(update.attributes).flatten().find(|a| a.code == code).map(|a| a.value.to_vec())
}

#[test]
fn who_knows_as_numbers_of_two_octets_hears_and_says_them() {
    let two = without(&our_open(), |c| matches!(c, Capability::FourOctetAs(_)));
    let mut sim = router(3, &[], |i, _| if i == 2 { two.clone() } else { our_open() });
    // What it says is said by hand.
    sim.instances[2].fault.hides.extend([prefix(P), prefix(Q)]);
    sim.peer_sends(1, &long(&[prefix(P)], 1));
    assert_eq!(attributes(&sim, 2, attr::AS_PATH), Some(vec![2, 2, 0xfb, 0xf5, 0x5b, 0xa0]), "64501 AS_TRANS");
    assert_eq!(attributes(&sim, 2, attr::AS4_PATH), Some(vec![2, 2, 0, 0, 0xfb, 0xf5, 0, 3, 0x0d, 0x40]));
    assert_eq!(attributes(&sim, 0, attr::AS4_PATH), None);
    let says = |last: [u8; 4]| {
        let mut attributes = vec![0x40, attr::ORIGIN, 1, 0, 0x40, attr::AS_PATH, 8, 2, 3];
        attributes.extend([0xfb, 0xf4, 0xfb, 0xf5, 0x5b, 0xa0]);
        attributes.extend([0x40, attr::NEXT_HOP, 4]);
        attributes.extend(LOCAL.octets());
        attributes.extend([0xc0, attr::AS4_PATH, 14, 2, 3, 0, 0, 0xfb, 0xf4, 0, 0, 0xfb, 0xf5]);
        attributes.extend(last);
        let mut m = vec![0xff; 16];
        m.extend(((HEADER_LEN + 4 + attributes.len() + 4) as u16).to_be_bytes());
        m.extend([2, 0, 0]);
        m.extend((attributes.len() as u16).to_be_bytes());
        m.extend(attributes);
        m.extend([24, 198, 51, 100]);
        m
    };
    sim.leg_sends(2, 2, &says([0, 3, 0x0d, 0x40]));
    sim.run(3 * SECOND);
    assert_eq!(sim.table(2)[&prefix(P)].0, [OUR_AS, 64501, 200_000]);
    nobody_accused(&sim);
    sim.leg_sends(2, 2, &says([0, 3, 0x0d, 0x41]));
    sim.run(3 * SECOND);
    let told = sim.events_of("disagreement");
    assert_eq!(told.len(), 1, "another number is another path");
    assert!(told[0].said.iter().any(|s| s.route.contains("200001")), "{:?}", told[0].said);
    assert_eq!(sim.table(2)[&prefix(P)].0, [OUR_AS, 64501, 200_000]);
}

#[test]
fn one_hold_time_of_0_does_not_take_the_hold_timer_from_the_peer() {
    let hold = |s| Open { hold_time_s: s, ..our_open() };
    let mut sim = router(3, &[], |i, _| if i == 0 { hold(0) } else { hold(9) });
    assert_eq!(sim.peers[&1].open.as_ref().map(|o| o.hold_time_s), Some(9));
    let told = sim.events_of("open-differs");
    assert!(told.iter().all(|e| e.text.contains("i0 proposes hold time 0 s")) && told.len() == 2, "{told:?}");
    sim.announce(1, &[P], &[64501]);
    sim.run(SECOND);
    assert_eq!(sim.table(2).len(), 1);
    sim.peers.get_mut(&1).expect("a peer").silent = true;
    sim.run(12 * SECOND);
    assert_eq!(sim.peers[&1].notifications, [Notification::new(4, 0)]);
    assert!(sim.table(2).is_empty(), "and its routes are gone");
}

#[test]
fn a_session_opens_within_the_peers_hold_time_with_one_of_three() {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.kill_instance(1);
    sim.kill_instance(2);
    let short = Open { hold_time_s: 3, ..peer_open(1, &[]) };
    sim.connect_peer_with(1, &short);
    sim.run(SECOND - SECOND / 20);
    assert!(sim.peers[&1].open.is_none(), "others may still come");
    let begun = sim.now;
    while !sim.peers[&1].established && sim.now < begun + 3 * SECOND {
        sim.run(SECOND / 10);
    }
    assert!(sim.peers[&1].established && sim.no_reset(), "{:?}", sim.events);
    // With a longer one they have the time that is configured for them.
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    sim.kill_instance(1);
    sim.connect_peer(1);
    sim.run(4 * SECOND);
    assert!(sim.peers[&1].open.is_none());
    sim.restart_instance(1);
    sim.run(7 * SECOND);
    assert!(sim.peers[&1].established);
}

#[test]
fn a_majority_with_another_as_number_has_the_session_opened_with_it() {
    let mut sim = router(3, &[], |_, _| our_open());
    let other = open(64999, Ipv4Addr::new(10, 9, 9, 9), 90);
    for i in 0..3 {
        (1..3).for_each(|n| drop(sim.offers.insert((i, n), other.clone())));
    }
    sim.kill_instance(0);
    sim.restart_instance(0);
    sim.run(10 * SECOND);
    assert!(sim.no_reset(), "one of three changes nothing");
    assert_eq!(sim.events_of("leg-refused").len(), 2, "told once on each session: {:?}", sim.events);
    sim.kill_instance(1);
    sim.restart_instance(1);
    sim.run(2 * SECOND);
    for n in [1, 2] {
        assert_eq!(sim.peers[&n].notifications, [Notification::new(6, 6)], "Other Configuration Change");
        sim.connect_peer(n);
    }
    sim.run(8 * SECOND);
    for n in [1, 2] {
        assert_eq!(sim.peers[&n].open.as_ref().map(|o| o.asn), Some(64999));
        assert!(sim.peers[&n].established && sim.peers[&n].notifications.is_empty());
    }
    sim.kill_instance(2);
    sim.restart_instance(2);
    sim.run(5 * SECOND);
    assert_eq!(sim.instances[2].legs(), [1, 2], "the last one follows");
}

#[test]
fn one_that_comes_back_with_a_wrong_as_number_while_the_others_are_down_changes_nothing() {
    let mut sim = router(3, &[], |_, _| our_open());
    for i in 0..3 {
        sim.kill_instance(i);
    }
    (1..3).for_each(|n| drop(sim.offers.insert((0, n), open(64999, Ipv4Addr::new(10, 9, 9, 9), 90))));
    sim.restart_instance(0);
    sim.run(5 * SECOND);
    assert!(sim.no_reset());
    sim.restart_instance(1);
    sim.restart_instance(2);
    sim.run(5 * SECOND);
    assert_eq!(sim.instances[1].legs(), [1, 2]);
    assert!(sim.no_reset());
}
