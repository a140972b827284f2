//! Who reads the routing tables ends with what there is, however slow he is and whatever happens
//! meanwhile; and what is kept for him is bounded.

mod sim;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sim::{OUR_AS, Sim, config, prefix, update};
use std::collections::{BTreeMap, BTreeSet};
use virtd_api::ribs::{DOWN, DUMPED, END_OF_RIB, HEADER_LEN, Header, OUT, ROUTES, TOLD_ANEW, UP};
use virtd_api::{SpeakerDown, SpeakerUp};
use virtd_config::{OpenMode, Strategy};
use wire::bgp::update::{Attributes, Update, attr};
use wire::bgp::{Notification, Prefix};

const SECOND: u64 = 1_000_000;

type Table = BTreeMap<Prefix, Vec<u8>>;

/// What a reader knows of a speaker.
#[derive(Clone, Debug, Default, PartialEq)]
struct Speaker {
    said: Table,
    told: Table,
    /// Families whose End-of-RIB has come: of what was said, and of what was told.
    ends: (usize, usize),
}

/// One who puts the tables together again: by peer and instance.
#[derive(Default)]
struct Reader {
    id: u64,
    octets: Vec<u8>,
    up: BTreeMap<u32, SpeakerUp>,
    speakers: BTreeMap<u32, Speaker>,
    downs: Vec<SpeakerDown>,
    /// Routes that had just changed.
    fresh: usize,
}

impl Reader {
    fn new(sim: &mut Sim, id: u64) -> Reader {
        sim.core.open_reader(id, true, None).expect("there is room");
        Reader { id, ..Reader::default() }
    }

    /// Takes a piece, where there is one.
    fn take(&mut self, sim: &mut Sim) -> bool {
        let mut chunk = Vec::new();
        for _ in 0..10_000 {
            if sim.core.tell_reader(sim.now, self.id, &mut chunk) {
                self.octets.extend(&chunk);
                self.read();
                return true;
            }
            if sim.core.reader_wakes(self.id, sim.now).is_none_or(|at| at > sim.now) && chunk.is_empty() {
                return false;
            }
        }
        panic!("there is no end of it");
    }

    /// Takes all that there is, while time passes.
    fn take_all(&mut self, sim: &mut Sim, us: u64) {
        let end = sim.now + us;
        while sim.now < end {
            while self.take(sim) {}
            sim.run(SECOND / 20);
        }
        while self.take(sim) {}
    }

    fn read(&mut self) {
        while let Some((header, rest)) = self.octets.split_first_chunk::<HEADER_LEN>() {
            let header = Header::decode(header).expect("a header");
            let body = rest.get(..header.length as usize).expect("whole frames").to_vec();
            self.octets.drain(..HEADER_LEN + body.len());
            self.frame(header, &body);
        }
        assert!(self.octets.is_empty());
    }

    fn frame(&mut self, header: Header, body: &[u8]) {
        if header.kind == UP {
            let up: SpeakerUp = serde_json::from_slice(body).expect("a speaker");
            assert!(self.up.values().all(|o| (&o.peer, &o.instance) != (&up.peer, &up.instance)), "{up:?} is up twice");
            self.up.insert(header.speaker, up);
            self.speakers.insert(header.speaker, Speaker::default());
            return;
        }
        let speaker = self.speakers.get_mut(&header.speaker).expect("a speaker that is up");
        let out = header.flags & OUT != 0;
        let table = if out { &mut speaker.told } else { &mut speaker.said };
        match header.kind {
            DOWN => {
                self.downs.push(serde_json::from_slice(body).expect("a reason"));
                self.up.remove(&header.speaker);
                self.speakers.remove(&header.speaker);
            }
            ROUTES => {
                self.fresh += usize::from(header.flags & DUMPED == 0);
                let update = Update::parse(&body[wire::bgp::frame::HEADER_LEN..]).expect("an UPDATE");
                update.withdrawn.for_each(|p| drop(table.remove(&p)));
                let attributes = Attributes::new(update.attributes).map(|a| a.expect("an attribute"));
                let said: Vec<u8> = attributes.flat_map(|a| a.raw.to_vec()).collect();
                update.nlri.for_each(|p| drop(table.insert(p, said.clone())));
            }
            END_OF_RIB => *if out { &mut speaker.ends.1 } else { &mut speaker.ends.0 } += 1,
            other => panic!("a frame of kind {other}"),
        }
    }

    /// By peer and instance.
    fn tables(&self) -> BTreeMap<(String, Option<String>), Speaker> {
        let key = |id| self.up.get(id).map(|up| (up.peer.clone(), up.instance.clone()));
        self.speakers.iter().map(|(id, s)| (key(id).expect("it is up"), s.clone())).collect()
    }

    fn of(&self, peer: u8, instance: Option<&str>) -> Option<Speaker> {
        self.tables().remove(&(format!("192.0.2.{peer}"), instance.map(str::to_owned)))
    }
}

/// What a new reader is told.
fn anew(sim: &mut Sim) -> BTreeMap<(String, Option<String>), Speaker> {
    let mut reader = Reader::new(sim, u64::MAX);
    while reader.take(sim) {}
    sim.core.close_reader(u64::MAX);
    assert!(reader.downs.is_empty() && reader.fresh == 0);
    reader.tables()
}

fn names(n: u32) -> Vec<String> {
    (0..n).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect()
}

fn announce(sim: &mut Sim, peer: u8, names: &[String], path: &[u32]) {
    for names in names.chunks(200) {
        sim.announce(peer, &names.iter().map(String::as_str).collect::<Vec<&str>>(), path);
    }
}

/// Two peers, the first of which has announced so many prefixes.
fn router(prefixes: u32) -> Sim {
    let mut sim = Sim::new(&config(3, Strategy::WaitForConsensus));
    (1..=2).for_each(|n| sim.connect_peer(n));
    sim.run(2 * SECOND);
    announce(&mut sim, 1, &names(prefixes), &[64501]);
    sim.run(4 * SECOND);
    sim
}

fn path_of(attributes: &[u8]) -> Vec<u32> {
    let path = Attributes::new(attributes).flatten().find(|a| a.code == attr::AS_PATH).expect("a path");
    path.value[2..].chunks(4).map(|a| u32::from_be_bytes(a.try_into().expect("four octets"))).collect()
}

#[test]
fn everybodys_tables_are_told_at_rest_or_not() {
    let mut sim = router(300);
    // Some rest, some have just changed.
    announce(&mut sim, 1, &names(10), &[64501, 64777]);
    sim.run(SECOND / 2);
    let mut reader = Reader::new(&mut sim, 1);
    reader.take_all(&mut sim, SECOND);
    let tables = reader.tables();
    assert_eq!(tables.len(), 2 * (1 + 3), "two peers, and three instances towards each: {:?}", tables.keys());
    let first = reader.of(1, None).expect("the first peer");
    assert_eq!((first.said.len(), first.told.len(), first.ends), (300, 0, (1, 1)));
    assert_eq!(path_of(&first.said[&prefix("10.0.3.0/24")]), [64501, 64777]);
    assert_eq!(path_of(&first.said[&prefix("10.1.3.0/24")]), [64501]);
    let second = reader.of(2, None).expect("the second peer");
    let heard = sim.table(2);
    assert_eq!(second.told.keys().collect::<Vec<_>>(), heard.keys().collect::<Vec<_>>());
    second.told.iter().for_each(|(p, said)| assert_eq!(path_of(said), heard[p].0, "{p}"));
    for i in ["i0", "i1", "i2"] {
        let its = reader.of(2, Some(i)).expect("an instance");
        assert_eq!((its.said.len(), its.ends), (0, (0, 1)));
        assert_eq!(its.told, second.told, "{i}");
    }
    let up = reader.up.values().find(|up| up.peer == "192.0.2.1" && up.instance.is_none()).expect("the first peer");
    assert_eq!((up.asn, up.router_id, up.as4, up.remote_port), (64501, [10, 0, 0, 1].into(), true, 40000));
    assert_eq!(up.local.map(|l| l.to_string()).as_deref(), Some("192.0.2.254:179"));
    for (open, asn) in [(&up.sent, OUR_AS), (&up.received, 64501)] {
        let open = wire::bgp::message::Open::decode(&open[wire::bgp::frame::HEADER_LEN..]).expect("an OPEN");
        assert_eq!(open.asn, asn);
    }
}

#[test]
fn what_changes_is_told_and_who_lies_is_seen_in_his_own_table_alone() {
    let mut sim = router(100);
    let mut reader = Reader::new(&mut sim, 1);
    reader.take_all(&mut sim, SECOND);
    assert_eq!(reader.fresh, 0);
    let p = prefix("10.0.7.0/24");
    sim.instances[1].fault.lies_about.insert(p);
    announce(&mut sim, 1, &["10.0.7.0/24".to_owned()], &[64501, 64778]);
    sim.withdraw(1, &["10.0.8.0/24"]);
    reader.take_all(&mut sim, 4 * SECOND);
    let told = |who| reader.of(2, who).expect("it is up").told;
    assert_eq!(told(None), told(Some("i0")));
    assert_eq!(told(None).len(), 99);
    assert!(reader.fresh > 0 && !reader.of(1, None).expect("it is up").said.contains_key(&prefix("10.0.8.0/24")));
    let (its, right) = (told(Some("i1")), told(None));
    let differ: Vec<&Prefix> = right.iter().filter(|(p, said)| its.get(p) != Some(said)).map(|(p, _)| p).collect();
    assert_eq!((differ, its.len()), (vec![&p], 99));
    assert_eq!(reader.tables(), anew(&mut sim));
}

#[test]
fn an_instance_that_goes_takes_its_tables_with_it_and_brings_them_back() {
    let mut sim = router(50);
    let mut reader = Reader::new(&mut sim, 1);
    reader.take_all(&mut sim, SECOND);
    sim.kill_instance(2);
    reader.take_all(&mut sim, SECOND);
    assert_eq!((reader.of(1, Some("i2")), reader.of(2, Some("i2"))), (None, None));
    assert_eq!(reader.downs.iter().map(|d| d.reason.as_str()).collect::<Vec<_>>(), ["closed"; 2]);
    sim.instances[2].fault.hides.insert(prefix("10.0.4.0/24"));
    sim.restart_instance(2);
    reader.take_all(&mut sim, 5 * SECOND);
    let its = reader.of(2, Some("i2")).expect("it is back").told;
    assert_eq!(its.len(), 49, "what it said before it was gone is not its word");
    assert_eq!(reader.of(2, None).expect("the peer").told.len(), 50);
    assert_eq!(reader.tables(), anew(&mut sim));
}

#[test]
fn a_session_that_ends_says_how() {
    let mut sim = router(10);
    let mut reader = Reader::new(&mut sim, 1);
    reader.take_all(&mut sim, SECOND);
    let last = Notification::new(6, 2).encode();
    sim.peer_sends(1, &last);
    reader.take_all(&mut sim, SECOND);
    assert_eq!(reader.downs.len(), 4, "{:?}", reader.downs);
    assert_eq!(
        (reader.downs[0].reason.as_str(), &reader.downs[0].notification[..]),
        ("remote-notification", &last[..])
    );
    assert_eq!(reader.of(2, None).expect("the other").told.len(), 0);
    sim.query(serde_json::json!({ "command": "session", "peer": "192.0.2.2", "action": "shutdown" }));
    reader.take_all(&mut sim, SECOND);
    assert!(reader.downs.iter().any(|d| d.reason == "local-notification" && d.notification[18..21] == [3, 6, 2]));
    assert!(reader.speakers.is_empty());
    sim.connect_peer(1);
    sim.run(SECOND);
    announce(&mut sim, 1, &names(3), &[64501]);
    reader.take_all(&mut sim, 3 * SECOND);
    assert_eq!(reader.of(1, None).expect("it is back").said.len(), 3);
}

/// Keys at rest that are roused while they are being told, by the word of one who is told of later,
/// are not forgotten.
#[test]
fn keys_that_are_roused_meanwhile_are_told() {
    let mut sim = router(3_000);
    let mut reader = Reader::new(&mut sim, 1);
    let told = |reader: &Reader| reader.of(2, None).map_or(0, |s| s.told.len());
    while told(&reader) < 500 {
        sim.core.tell_reader(sim.now, 1, &mut reader.octets);
        reader.read();
    }
    assert!(told(&reader) < 1_500, "{}", told(&reader));
    let all: Vec<Prefix> = names(3_000).iter().map(|name| prefix(name)).collect();
    for some in all.chunks(500) {
        sim.leg_sends(1, 2, &update(some, &[], &[OUR_AS, 64777], sim::LOCAL, None, 0));
    }
    reader.take_all(&mut sim, 3 * SECOND);
    assert_eq!(told(&reader), 3_000);
    assert_eq!(reader.tables(), anew(&mut sim));
}

/// More changes than are kept for a reader who takes nothing: he is told anew, and what is kept
/// stays within its bound.
#[test]
fn who_takes_nothing_costs_a_bounded_memory_and_is_told_anew() {
    let all = names(40_000);
    let mut sim = router(10);
    let mut reader = Reader::new(&mut sim, 1);
    reader.take_all(&mut sim, SECOND);
    for round in 0..4 {
        announce(&mut sim, 1, &all, &[64501, 64700 + round]);
        sim.run(SECOND);
        let kept = sim.core.readers_bytes();
        assert!(kept < 64 * broker::ribs::MAX_KEYS, "{kept} octets are kept");
    }
    sim.withdraw(1, &["10.0.1.0/24"]);
    sim.run(3 * SECOND);
    reader.take_all(&mut sim, 5 * SECOND);
    assert!(!reader.downs.is_empty() && reader.downs.iter().all(|d| d.reason == TOLD_ANEW), "{:?}", reader.downs);
    assert_eq!(reader.of(2, None).expect("the peer").told.len(), 39_999);
    assert_eq!(reader.tables(), anew(&mut sim));
    assert!(sim.no_reset());
}

/// Of one peer nothing else is told: not what is there, what changes, nor who comes and goes.
#[test]
fn who_reads_one_peer_is_told_of_that_alone() {
    let mut sim = router(100);
    let ribs = sim.core.open_reader(1, true, Some("192.0.2.2")).expect("it is known");
    assert_eq!((ribs.peer.as_deref(), ribs.instances), (Some("192.0.2.2"), true));
    let mut reader = Reader { id: 1, ..Reader::default() };
    reader.take_all(&mut sim, SECOND);
    let of_two = |tables: BTreeMap<(String, Option<String>), Speaker>| -> BTreeMap<_, _> {
        tables.into_iter().filter(|((peer, _), _)| peer == "192.0.2.2").collect()
    };
    assert_eq!((reader.tables().len(), of_two(reader.tables()).len()), (1 + 3, 1 + 3));
    assert_eq!(reader.of(2, None).expect("it is up").told.len(), 100);
    announce(&mut sim, 1, &names(100), &[64501, 64779]);
    announce(&mut sim, 2, &["10.9.0.0/24".to_owned()], &[64502]);
    sim.connect_peer(3);
    sim.peer_sends(1, &Notification::new(6, 2).encode());
    reader.take_all(&mut sim, 5 * SECOND);
    assert_eq!(reader.tables(), of_two(anew(&mut sim)));
    assert!(reader.downs.is_empty() && reader.fresh > 0, "{:?}", reader.downs);
    // It goes, and comes back.
    sim.peer_sends(2, &Notification::new(6, 2).encode());
    reader.take_all(&mut sim, SECOND);
    assert!(reader.speakers.is_empty() && reader.downs.len() == 4, "{:?}", reader.downs);
    sim.connect_peer(2);
    reader.take_all(&mut sim, 5 * SECOND);
    assert_eq!(reader.tables(), of_two(anew(&mut sim)));
    assert!(!reader.tables().is_empty());
    let unknown = sim.core.open_reader(2, false, Some("192.0.2.77")).expect_err("nobody knows it");
    assert!(unknown.contains("192.0.2.77") && unknown.contains("sessions"), "{unknown}");
}

#[test]
fn there_are_so_many_readers_and_no_more() {
    let mut sim = router(1);
    (0..8).for_each(|id| _ = sim.core.open_reader(id, false, None).expect("there is room"));
    let refused = sim.core.open_reader(8, false, None).expect_err("there is none");
    assert!(refused.contains("8 readers") && refused.contains("[[bmp]]"), "{refused}");
    sim.core.close_reader(3);
    sim.core.open_reader(8, false, None).expect("there is room");
    let mut native = config(1, Strategy::WaitForConsensus);
    native.open = OpenMode::Native;
    let refused = Sim::new(&native).core.open_reader(1, false, None).expect_err("there is nothing to read");
    assert!(refused.contains("native"), "{refused}");
}

/// Random histories: whoever has read all the while knows what a new reader is told, and of the peers
/// what they have been told.
#[test]
fn who_has_read_all_the_while_knows_what_a_new_reader_is_told() {
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let strategy = [Strategy::WaitForConsensus, Strategy::MasterSlave][seed as usize % 2];
        let mut sim = Sim::new(&config(3, strategy));
        (1..=3).for_each(|n| sim.connect_peer(n));
        sim.run(SECOND);
        let all = names(60);
        let mut reader = Reader::new(&mut sim, 1);
        let mut down = BTreeSet::new();
        for _ in 0..60 {
            let (peer, i) = (random.random_range(1..=3u8), random.random_range(0..3));
            let some: Vec<Prefix> =
                (0..random.random_range(1..8)).map(|_| prefix(&all[random.random_range(0..60)])).collect();
            let (up, next_hop) = (sim.peers[&peer].established, std::net::Ipv4Addr::new(192, 0, 2, peer));
            match random.random_range(0..12) {
                0..4 if up => {
                    let path = [64500 + u32::from(peer), random.random_range(64700..64704)];
                    sim.peer_sends(peer, &update(&some, &[], &path, next_hop, None, 0));
                }
                4..6 if up => sim.peer_sends(peer, &update(&[], &some, &[], next_hop, None, 0)),
                6 if down.is_empty() => {
                    sim.kill_instance(i);
                    down.insert(i);
                }
                7 => std::mem::take(&mut down).into_iter().for_each(|i| sim.restart_instance(i)),
                8 => sim.instances[i].fault.lies_about = some.into_iter().collect(),
                9 if up => sim.peer_sends(peer, &Notification::new(6, 4).encode()),
                10 if !up => sim.connect_peer(peer),
                _ => sim.run(random.random_range(0..3) * SECOND / 2),
            }
            // He takes one piece, or nothing for a while.
            if random.random_bool(0.7) {
                reader.take(&mut sim);
            }
        }
        reader.take_all(&mut sim, 10 * SECOND);
        let new = anew(&mut sim);
        let ends = |tables: BTreeMap<_, Speaker>| -> BTreeMap<_, _> {
            tables.into_iter().map(|(who, s)| (who, (s.said, s.told))).collect()
        };
        assert_eq!(ends(reader.tables()), ends(new), "seed {seed}");
        for n in (1..=3).filter(|n| sim.peers[n].established) {
            let told = reader.of(n, None).expect("it is up").told;
            let paths: BTreeMap<Prefix, Vec<u32>> = told.iter().map(|(p, said)| (*p, path_of(said))).collect();
            let heard: BTreeMap<Prefix, Vec<u32>> = sim.table(n).into_iter().map(|(p, (path, _))| (p, path)).collect();
            assert_eq!(paths, heard, "seed {seed}, peer {n}");
        }
    }
}
