//! A router in a box: the real core, simulated peers and simulated instances under a virtual clock.
//! It complements the scenarios with real daemons, which cannot be seeded and cannot fail on
//! command at a chosen microsecond.
//!
//! A simulated instance is a route server: what it hears on one leg it sends on its other legs with
//! its AS prepended, each instance in a style of its own (attribute order, extended length bit), as
//! real daemons differ.

#![allow(dead_code, reason = "each test file uses a part of it")]

mod crash;
pub mod ends;
mod fib;
pub mod supervised;
mod world;

use broker::event::Event;
use broker::io::{ConnId, FibChange, Input, InstanceId, LegId, ListenerId, Occupant, Order, Output, Record};
use broker::turn::{self, Deferred, World};
use broker::{Answer, Core};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use virtd::control;
use virtd_config::{Config, Instance, Strategy};
use wire::bgp::frame::{HEADER_LEN, Message, MessageType, next_message};
use wire::bgp::message::{Capability, Open, keepalive};
use wire::bgp::update::{Attributes, Update, attr};
use wire::bgp::{Family, Notification, Prefix};

pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
pub const OUR_AS: u32 = 64500;
/// T of [`config`].
pub const T_MS: u32 = 1000;

/// A router of so many instances that takes any peer.
pub fn config(instances: usize, strategy: Strategy) -> Config {
    let mut c = Config { accept_any: true, ..Config::default() };
    c.vote.strategy = strategy;
    c.vote.t_ms = T_MS;
    c.instances = (0..instances).map(|i| Instance { name: format!("i{i}"), ..Instance::default() }).collect();
    c
}

pub fn peer_addr(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)), 0)
}

pub fn prefix(s: &str) -> Prefix {
    s.parse().expect("a prefix")
}

pub fn open(asn: u32, id: Ipv4Addr, hold: u16) -> Open {
    let capabilities =
        vec![Capability::Multiprotocol(Family::IPV4_UNICAST), Capability::RouteRefresh, Capability::FourOctetAs(asn)];
    Open { asn, hold_time_s: hold, router_id: id, capabilities }
}

/// What an instance offers where nothing else is said.
pub fn our_open() -> Open {
    open(OUR_AS, Ipv4Addr::new(10, 9, 9, 9), 90)
}

/// An UPDATE message; `style` changes how it is written, never what it means.
pub fn update(
    prefixes: &[Prefix],
    withdrawn: &[Prefix],
    path: &[u32],
    next_hop: Ipv4Addr,
    med: Option<u32>,
    style: usize,
) -> Bytes {
    let mut attributes: Vec<Vec<u8>> = Vec::new();
    if !prefixes.is_empty() {
        // One segment; no test needs a longer path whole.
        let path = &path[..path.len().min(255)];
        let mut as_path = vec![2, path.len() as u8];
        path.iter().for_each(|a| as_path.extend(a.to_be_bytes()));
        attributes.push(vec![0x40, attr::ORIGIN, 1, 0]);
        let mut a = if style == 1 || as_path.len() > 255 {
            [&[0x50, attr::AS_PATH][..], &(as_path.len() as u16).to_be_bytes()].concat()
        } else {
            vec![0x40, attr::AS_PATH, as_path.len() as u8]
        };
        a.extend(as_path);
        attributes.push(a);
        let mut nh = vec![0x40, attr::NEXT_HOP, 4];
        nh.extend(next_hop.octets());
        attributes.push(nh);
        if let Some(med) = med {
            let mut m = vec![0x80, attr::MULTI_EXIT_DISC, 4];
            m.extend(med.to_be_bytes());
            attributes.push(m);
        }
        if style == 2 {
            attributes.reverse();
        }
    }
    let nlri = |list: &[Prefix]| -> Vec<u8> {
        list.iter()
            .flat_map(|p| std::iter::once(p.len()).chain(p.octets().iter().copied()).collect::<Vec<u8>>())
            .collect()
    };
    let (w, a, n) = (nlri(withdrawn), attributes.concat(), nlri(prefixes));
    let mut m = vec![0xff; 16];
    m.extend(((HEADER_LEN + 4 + w.len() + a.len() + n.len()) as u16).to_be_bytes());
    m.push(2);
    m.extend((w.len() as u16).to_be_bytes());
    m.extend(w);
    m.extend((a.len() as u16).to_be_bytes());
    m.extend(a);
    m.extend(n);
    Bytes::from(m)
}

/// How an instance misbehaves.
#[derive(Clone, Default, Debug)]
pub struct Fault {
    /// Adds this MED to what it sends about the prefix.
    pub lies_about: BTreeSet<Prefix>,
    /// Swallows what it should send about the prefix.
    pub hides: BTreeSet<Prefix>,
    /// Says nothing at all any more, keepalives included.
    pub mute: bool,
    /// Nor what it would say of its own where a leg goes.
    pub frozen: bool,
    /// Peers on whose legs it sends no KEEPALIVE.
    pub mute_on: BTreeSet<u8>,
    /// Its process dies when it is told of one of these.
    pub dies_of: BTreeSet<Prefix>,
    /// It answers an UPDATE with one of these by NOTIFICATION 3/1.
    pub objects_to: BTreeSet<Prefix>,
    /// It hangs once it is told of one of these, until it is started again.
    pub hangs_of: BTreeSet<Prefix>,
    /// Its process dies of an UPDATE that ends with these octets.
    pub dies_of_bytes: Option<Vec<u8>>,
    /// Peers with which it wants no session: it closes what comes.
    pub refuses: BTreeSet<u8>,
}

/// One leg as the instance sees it.
#[derive(Default)]
struct SimLeg {
    id: u64,
    peer: u8,
    buf: BytesMut,
    up: bool,
    /// AS numbers on it have two octets.
    narrow: bool,
}

#[derive(Default)]
pub struct SimInstance {
    legs: Vec<SimLeg>,
    /// (peer, prefix) -> path: its Adj-RIB-In.
    pub rib: BTreeMap<(u8, Prefix), Vec<u32>>,
    pub fault: Fault,
    pub listening: bool,
    /// What it was told, in order: (peer, announced, withdrawn).
    pub heard: Vec<(u8, Vec<Prefix>, Vec<Prefix>)>,
    pub eor_heard: u32,
    /// The messages themselves.
    pub raw: Vec<Bytes>,
    /// Of what several peers say of a prefix it says the best; else the last.
    decides: bool,
}

#[derive(Default)]
pub struct SimPeer {
    pub conn: Option<ConnId>,
    buf: BytesMut,
    /// prefix -> (path, MED) as it stands now.
    pub table: BTreeMap<Prefix, (Vec<u32>, Option<u32>)>,
    pub notifications: Vec<Notification>,
    pub updates: u64,
    pub closed: u32,
    pub eor: u32,
    pub established: bool,
    /// The OPEN it was sent.
    pub open: Option<Open>,
    /// That had RFC 9072's form.
    pub open_extended: bool,
    /// Sends no keepalives any more.
    pub silent: bool,
    /// The UPDATEs it was sent, whole.
    pub raw: Vec<Bytes>,
    /// Every state each prefix went through.
    pub history: Vec<(Prefix, Option<u32>, bool)>,
    /// The path of each announcement among these.
    pub paths: Vec<Vec<u32>>,
    /// What it was told although it had been told just that.
    pub repeated: Vec<Prefix>,
}

pub struct Sim {
    pub core: Core,
    pub now: u64,
    pub instances: Vec<SimInstance>,
    pub peers: BTreeMap<u8, SimPeer>,
    pub events: Vec<Event>,
    /// What the supervisor was told to do.
    pub orders: Vec<(u8, Order)>,
    /// Whose control program was to begin which session anew.
    pub nudges: Vec<(u8, IpAddr)>,
    /// What was to be kept on disk.
    pub records: Vec<Record>,
    /// All that was handed to the kernel.
    pub written: Vec<FibChange>,
    /// When which instance died (or objected) because of what it was told.
    pub deaths: Vec<(u64, usize)>,
    next_odd: u64,
    next_keepalive: u64,
    /// What has come and has not been read yet.
    inbox: VecDeque<Came>,
    /// How much of it is read in one turn.
    pub batch: usize,
    /// No turn has time for more than one round.
    pub hurried: bool,
    /// What is put off.
    deferred: Deferred,
    /// Octets that sockets have not taken yet, and to whom they go, in the order in which they
    /// came.
    queued: BTreeMap<To, Vec<Bytes>>,
    writing: Vec<To>,
    /// The instances write routes ([`Sim::with_fib`]).
    fib: bool,
    /// From now on no peer may hear of a route before the kernel was given it.
    pub kernel_first: bool,
    /// What the kernel holds: the route of each prefix.
    pub kernel: BTreeMap<Prefix, String>,
    /// The OPEN that an instance sends for a peer, where it is not everybody's.
    pub offers: BTreeMap<(usize, u8), Open>,
    /// Which instances were told something later.
    pub told_later: Vec<usize>,
    /// Instances whose OPEN has RFC 9072's form.
    pub extended: BTreeSet<usize>,
    /// What was dialled, and which connections were closed.
    pub dials: Vec<ConnId>,
    /// The instances' own dials that were refused.
    pub refused: Vec<LegId>,
    pub hung_up: Vec<ConnId>,
    /// Of these connections the test itself says what their sockets take.
    pub by_hand: BTreeSet<ConnId>,
    /// In a turn, or told to wait: what comes is read later.
    held: bool,
    /// What virtd's driver keeps of the peers' streams.
    pub journal: Vec<u8>,
    /// What virtd dies of, the next time.
    pub died_of: Option<broker::witness::LastWord>,
    /// So many turns are run, and no more for now.
    pub turns_left: Option<usize>,
    /// No socket of a peer's takes anything just now.
    blocked: bool,
    /// The instances that start from now on choose among what several peers say of a prefix.
    pub decide: bool,
    /// How it was set up.
    config: Config,
}

/// Something that the router reads.
enum Came {
    Octets(To, Bytes),
    Else(Input<'static>),
    /// An instance writes the route that it has now.
    Route(usize, Prefix),
}

/// Whose octets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum To {
    Peer(ConnId),
    Leg(LegId),
}

impl Sim {
    pub fn new(config: &Config) -> Sim {
        Sim::begun_at(config, 0)
    }

    /// A router whose clock stands at `now` when it begins.
    pub fn begun_at(config: &Config, now: u64) -> Sim {
        let n = config.instances.len();
        let mut sim = Sim {
            core: Core::new(config, now),
            now,
            instances: (0..n).map(|_| SimInstance::default()).collect(),
            peers: BTreeMap::new(),
            events: Vec::new(),
            orders: Vec::new(),
            nudges: Vec::new(),
            records: Vec::new(),
            written: Vec::new(),
            deaths: Vec::new(),
            next_odd: 1,
            next_keepalive: now + 2_000_000,
            inbox: VecDeque::new(),
            batch: 1,
            hurried: false,
            deferred: Deferred::default(),
            queued: BTreeMap::new(),
            writing: Vec::new(),
            fib: false,
            kernel_first: false,
            kernel: BTreeMap::new(),
            offers: BTreeMap::new(),
            told_later: Vec::new(),
            extended: BTreeSet::new(),
            dials: Vec::new(),
            refused: Vec::new(),
            hung_up: Vec::new(),
            by_hand: BTreeSet::new(),
            held: false,
            journal: Vec::new(),
            died_of: None,
            turns_left: None,
            blocked: false,
            decide: false,
            config: config.clone(),
        };
        (0..n).for_each(|i| sim.start_instance(i));
        sim
    }

    fn odd(&mut self) -> u64 {
        self.next_odd += 2;
        self.next_odd
    }

    /// The instance's process starts and listens.
    pub fn start_instance(&mut self, i: usize) {
        self.start_instance_with(i, Fault::default());
    }

    fn start_instance_with(&mut self, i: usize, fault: Fault) {
        let decides = self.decide;
        self.instances[i] = SimInstance { listening: true, fault, decides, ..SimInstance::default() };
        self.input(Input::InstanceAttached { instance: InstanceId(i as u8), pid: 100 + i as u32 });
        let local = "0.0.0.0:179".parse().expect("an address");
        self.input(Input::Listening {
            instance: InstanceId(i as u8),
            listener: ListenerId(1000 + 2 * i as u64 + 1),
            local,
            v6_only: false,
        });
        self.open_netlink(i);
    }

    /// The same, by the same program: what kills it still does.
    pub fn restart_instance(&mut self, i: usize) {
        let fault = std::mem::take(&mut self.instances[i].fault);
        self.start_instance_with(i, fault);
    }

    /// The instance's process dies: every leg and the listening socket close.
    pub fn kill_instance(&mut self, i: usize) {
        let legs: Vec<u64> = self.instances[i].legs.drain(..).map(|l| l.id).collect();
        self.instances[i].listening = false;
        self.input(Input::ListenerClosed { listener: ListenerId(1000 + 2 * i as u64 + 1) });
        legs.into_iter().for_each(|l| self.input(Input::LegClosed { leg: LegId(l) }));
        self.close_netlink(i);
        self.input(Input::InstanceDetached { instance: InstanceId(i as u8) });
    }

    /// Instance `i` closes its listening socket and runs on.
    pub fn close_listener(&mut self, i: usize) {
        self.instances[i].listening = false;
        self.input(Input::ListenerClosed { listener: ListenerId(1000 + 2 * i as u64 + 1) });
    }

    /// Instance `i` ends its session with a peer and wants it no more: with a NOTIFICATION, or by
    /// closing its leg.
    pub fn leave(&mut self, i: usize, peer: u8, said: Option<Notification>) {
        self.instances[i].fault.refuses.insert(peer);
        self.drop_leg(i, peer, said);
    }

    /// It ends it, and lets it begin anew.
    pub fn drop_leg(&mut self, i: usize, peer: u8, said: Option<Notification>) {
        let Some(id) = self.instances[i].legs.iter().find(|l| l.peer == peer).map(|l| l.id) else { return };
        match said {
            Some(n) => self.send_leg(id, &n.encode()),
            None => {
                let said = self.instances[i].close(i, LegId(id));
                self.input(Input::LegClosed { leg: LegId(id) });
                said.into_iter().for_each(|(id, bytes)| self.send_leg(id, &bytes));
            }
        }
    }

    /// Peer `n` connects and sends its OPEN.
    pub fn connect_peer(&mut self, n: u8) {
        self.connect_peer_with(n, &open(64500 + u32::from(n), Ipv4Addr::new(10, 0, 0, n), 90));
    }

    /// Peer `n` connects and sends this OPEN.
    pub fn connect_peer_with(&mut self, n: u8, open: &Open) {
        let conn = ConnId(self.odd());
        self.peers.insert(n, SimPeer { conn: Some(conn), ..SimPeer::default() });
        let mut peer = peer_addr(n);
        peer.set_port(40000);
        self.opened(conn, peer);
        self.held = true;
        self.input(Input::PeerAccepted { conn, peer, local: SocketAddr::new(LOCAL.into(), 179) });
        self.held = false;
        self.peer_sends(n, &open.encode());
    }

    pub fn peer_sends(&mut self, n: u8, bytes: &[u8]) {
        if let Some(conn) = self.peers.get(&n).and_then(|p| p.conn) {
            self.comes(Came::Octets(To::Peer(conn), Bytes::copy_from_slice(bytes)));
        }
    }

    /// The core alone hears peer `n`; [`Sim::run`] goes on with what it wants.
    pub fn core_hears(&mut self, n: u8, bytes: &[u8]) {
        let mut buf = BytesMut::from(bytes);
        if let Some(conn) = self.peers.get(&n).and_then(|p| p.conn) {
            self.core.handle(self.now, Input::PeerBytes { conn, buf: &mut buf });
        }
    }

    pub fn leg_sends(&mut self, i: usize, peer: u8, bytes: &[u8]) {
        if let Some(id) = self.instances[i].legs.iter().find(|l| l.peer == peer).map(|l| l.id) {
            self.send_leg(id, bytes);
        }
    }

    fn send_leg(&mut self, id: u64, bytes: &[u8]) {
        self.comes(Came::Octets(To::Leg(LegId(id)), Bytes::copy_from_slice(bytes)));
    }

    pub fn announce(&mut self, n: u8, prefixes: &[&str], path: &[u32]) {
        let list: Vec<Prefix> = prefixes.iter().map(|p| prefix(p)).collect();
        let IpAddr::V4(nh) = peer_addr(n).ip() else { return };
        self.peer_sends(n, &update(&list, &[], path, nh, None, 0));
    }

    pub fn withdraw(&mut self, n: u8, prefixes: &[&str]) {
        let list: Vec<Prefix> = prefixes.iter().map(|p| prefix(p)).collect();
        self.peer_sends(n, &update(&[], &list, &[], LOCAL, None, 0));
    }

    pub fn input(&mut self, input: Input<'static>) {
        self.comes(Came::Else(input));
    }

    /// Something comes. Outside a turn, turns follow until all of it is read.
    fn comes(&mut self, came: Came) {
        self.inbox.push_back(came);
        if !self.held {
            self.read_all();
        }
    }

    fn read_all(&mut self) {
        loop {
            match &mut self.turns_left {
                Some(0) => return,
                Some(left) => *left -= 1,
                None => {}
            }
            self.turn();
            if self.inbox.is_empty() {
                return;
            }
        }
    }

    fn turn(&mut self) {
        self.held = true;
        turn::turn(self, |sim| sim.read());
        self.held = false;
    }

    fn leg_starts(&mut self, leg: LegId, i: usize, peer: SocketAddr) {
        let IpAddr::V4(a) = peer.ip() else { return };
        if !self.instances[i].listening || self.instances[i].fault.refuses.contains(&a.octets()[3]) {
            return self.input(Input::LegClosed { leg });
        }
        let peer = a.octets()[3];
        self.instances[i].legs.push(SimLeg { id: leg.0, peer, ..SimLeg::default() });
        let offer = self.offers.get(&(i, peer)).cloned().unwrap_or_else(our_open);
        let open = if self.extended.contains(&i) { offer.encode_extended() } else { offer.encode() };
        self.send_leg(leg.0, &open);
    }

    fn leg_hears(&mut self, leg: LegId, bytes: &[u8]) {
        let Some(i) = self.instances.iter().position(|i| i.legs.iter().any(|l| l.id == leg.0)) else { return };
        let mut messages = Vec::new();
        if let Some(l) = self.instances[i].legs.iter_mut().find(|l| l.id == leg.0) {
            l.buf.extend_from_slice(bytes);
            while let Ok(Some(m)) = next_message(&mut l.buf, true) {
                messages.push(m);
            }
            self.instances[i].raw.extend(messages.iter().map(|m| m.bytes.clone()));
        }
        for m in messages {
            if self.instances[i].fault.mute {
                continue;
            }
            let fault = &self.instances[i].fault;
            let told: Vec<Prefix> = Update::parse(m.body()).map(|u| u.nlri.collect()).unwrap_or_default();
            let update = m.kind == MessageType::Update;
            let by_bytes = fault.dies_of_bytes.as_ref().is_some_and(|b| m.bytes.ends_with(b));
            if update && (by_bytes || told.iter().any(|p| fault.dies_of.contains(p))) {
                self.deaths.push((self.now, i));
                return self.kill_instance(i);
            }
            if update && told.iter().any(|p| fault.objects_to.contains(p)) {
                self.deaths.push((self.now, i));
                self.send_leg(leg.0, &Notification::new(3, 1).encode());
                return;
            }
            if update && told.iter().any(|p| fault.hangs_of.contains(p)) {
                self.deaths.push((self.now, i));
                self.instances[i].fault.mute = true;
                return;
            }
            if update && fault.dies_of_bytes.is_some() && Update::parse(m.body()).is_err() {
                continue;
            }
            let answers = self.instances[i].hear(i, leg.0, &m);
            self.write_routes(i, &m);
            for (id, bytes) in answers {
                self.send_leg(id, &bytes);
            }
        }
    }

    fn peer_hears(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(n) = self.peers.iter().find(|(_, p)| p.conn == Some(conn)).map(|(n, _)| *n) else { return };
        let (mut answer, mut heard) = (false, Vec::new());
        if let Some(p) = self.peers.get_mut(&n) {
            p.buf.extend_from_slice(bytes);
            while let Some(m) = next_message(&mut p.buf, false).expect("the router never sends a malformed frame") {
                answer |= p.hear(&m);
                heard.push(m);
            }
        }
        heard.iter().for_each(|m| self.kernel_was_first(m));
        if answer {
            self.peer_sends(n, &keepalive());
        }
    }

    /// Lets time pass in small steps, with everybody's keepalives.
    pub fn run(&mut self, us: u64) {
        let end = self.now + us;
        while self.now < end {
            let wake_at = turn::wake_at(self).unwrap_or(end).max(self.now + 1);
            self.now = wake_at.min(self.next_keepalive).min(end);
            if self.now >= self.next_keepalive {
                self.next_keepalive += 2_000_000;
                let up: Vec<u8> =
                    self.peers.iter().filter(|(_, p)| p.established && !p.silent).map(|(n, _)| *n).collect();
                up.into_iter().for_each(|n| self.peer_sends(n, &keepalive()));
                let alive = self.instances.iter().filter(|i| !i.fault.mute);
                let speaks = |i: &SimInstance, l: &SimLeg| l.up && !i.fault.mute_on.contains(&l.peer);
                let legs: Vec<u64> = alive.flat_map(|i| i.legs.iter().filter(|l| speaks(i, l)).map(|l| l.id)).collect();
                legs.into_iter().for_each(|l| self.send_leg(l, &keepalive()));
            }
            self.input(Input::Tick);
        }
    }

    /// Asks as virtctl does.
    pub fn query(&mut self, request: serde_json::Value) -> serde_json::Value {
        let request = serde_json::from_value(request).expect("a request");
        let answer = self.core.query(self.now, &request, None);
        self.input(Input::Tick);
        control::json(answer).expect("JSON")
    }

    /// Reads the configuration again, as virtctl reload does.
    pub fn reload(&mut self, config: &Config) -> serde_json::Value {
        let answer = self.core.reload(self.now, config.clone(), false);
        self.input(Input::Tick);
        control::json(answer.map(Answer::Reloaded)).expect("JSON")
    }

    pub fn table(&self, n: u8) -> BTreeMap<Prefix, (Vec<u32>, Option<u32>)> {
        self.peers[&n].table.clone()
    }

    pub fn events_of(&self, kind: &str) -> Vec<&Event> {
        self.events.iter().filter(|e| e.kind == kind).collect()
    }

    /// What a peer must see when nothing went wrong.
    pub fn no_reset(&self) -> bool {
        self.peers.values().all(|p| p.closed == 0 && p.notifications.is_empty())
    }
}
