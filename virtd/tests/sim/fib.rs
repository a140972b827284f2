//! The simulated instances' routes, where the FIB is voted on: each writes what it has learnt
//! before it tells anybody, and the kernel holds what the vote hands to it.

use super::*;
use broker::io::{Change, FibChange, KernelNews, Link, NetlinkId, NetlinkStyle};
use wire::netlink::consts::*;
use wire::netlink::fib::FibRoute;
use wire::netlink::message::Writer;
use wire::netlink::{Frames, RouteMessage};

/// The link to all peers.
const LINK: u32 = 2;

impl Sim {
    /// A router whose FIB is voted on, and whose instances write what they learn. The kernel has
    /// one link, which carries all peers.
    pub fn with_fib(config: &Config) -> Sim {
        Sim::with_fib_begun_at(config, 0)
    }

    /// The same, with a clock that stands at `now` when it begins.
    pub fn with_fib_begun_at(config: &Config, now: u64) -> Sim {
        let mut config = Config { fib: Some(virtd_config::Fib::default()), ..config.clone() };
        config.instances.iter_mut().for_each(|i| i.netlink = true);
        let mut sim = Sim::begun_at(&config, now);
        sim.fib = true;
        sim.tell_links();
        (0..config.instances.len()).for_each(|i| sim.open_netlink(i));
        sim
    }

    /// The kernel tells of its link, where the FIB is voted on.
    pub(super) fn tell_links(&mut self) {
        if !self.fib {
            return;
        }
        let link = Link { index: LINK, name: "eth0".to_owned(), up: true, running: true };
        self.input(Input::Kernel(KernelNews::Change(Change::Link(link))));
        self.input(Input::Kernel(KernelNews::Change(Change::Address {
            index: LINK,
            address: LOCAL.into(),
            length: 24,
        })));
    }

    /// A request over a socket, which is looked at after a turn; its answers.
    pub fn netlink_request(&mut self, socket: NetlinkId, port_id: u32, message: &[u8]) -> Vec<Bytes> {
        let mut answers = Vec::new();
        let style = NetlinkStyle { capped: false, extended: true };
        self.core.handle(self.now, Input::NetlinkRequest { socket, port_id, style, message, answers: &mut answers });
        self.read_all();
        answers
    }

    /// The same by instance `i`, over its socket.
    pub fn asks_kernel(&mut self, i: usize, message: &[u8]) -> Vec<Bytes> {
        self.netlink_request(self.socket(i), 100 + i as u32, message)
    }

    fn socket(&self, i: usize) -> NetlinkId {
        NetlinkId(5000 + 2 * i as u64 + 1)
    }

    pub(super) fn open_netlink(&mut self, i: usize) {
        if self.fib {
            let socket = self.socket(i);
            self.input(Input::NetlinkOpened { socket, instance: InstanceId(i as u8) });
        }
    }

    pub(super) fn close_netlink(&mut self, i: usize) {
        if self.fib {
            let socket = self.socket(i);
            self.input(Input::NetlinkClosed { socket });
        }
    }

    /// What instance `i` has been told means these routes: it writes them before it says them.
    pub(super) fn write_routes(&mut self, i: usize, m: &Message) {
        if !self.fib || m.kind != MessageType::Update {
            return;
        }
        let u = Update::parse(m.body()).expect("the router never sends an instance a malformed UPDATE here");
        let prefixes: Vec<Prefix> = u.withdrawn.chain(u.nlri).collect();
        prefixes.into_iter().for_each(|p| self.comes(Came::Route(i, p)));
    }

    /// Instance `i` has its virtual kernel hold the route that it has now: by the first peer that
    /// has one.
    pub(super) fn netlink_asks(&mut self, i: usize, prefix: Prefix) {
        let peers = self.instances[i].rib.keys().filter(|(_, p)| *p == prefix).map(|(peer, _)| *peer);
        let gateway = peers.min().map(|peer| peer_addr(peer).ip());
        let route = RouteMessage {
            family: AF_INET,
            dst_len: prefix.len(),
            protocol: RTPROT_BGP,
            kind: if gateway.is_some() { RTN_UNICAST } else { 0 },
            dst: Some(prefix.addr()),
            priority: Some(20),
            gateway,
            oif: gateway.map(|_| LINK),
            ..RouteMessage::default()
        };
        let (kind, flags) = match gateway {
            Some(_) => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE),
            None => (RTM_DELROUTE, 0),
        };
        let mut message = Vec::new();
        let mut w = Writer::message(&mut message, kind, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0);
        w.put(&route.to_payload().expect("fits"));
        w.finish().expect("fits");
        let (socket, mut answers) = (self.socket(i), Vec::new());
        let style = NetlinkStyle::default();
        let input =
            Input::NetlinkRequest { socket, port_id: 100 + i as u32, style, message: &message, answers: &mut answers };
        self.core.handle(self.now, input);
        let frame = Frames::new(answers.first().expect("an answer")).next().expect("a message").expect("well-formed");
        let errno = frame.errno().expect("an acknowledgement");
        assert!(errno == 0 || gateway.is_none() && errno == libc::ESRCH, "{prefix}: errno {errno}");
        // It waits for the answer.
        turn::pass_on(self);
    }

    pub(super) fn kernel_takes(&mut self, changes: Vec<FibChange>) {
        for change in changes {
            let prefix = change.key.prefix;
            self.written.push(change.clone());
            match &change.route {
                Some(bytes) => {
                    let route = FibRoute::from_bytes(bytes).expect("a canonical route");
                    self.kernel.insert(prefix, route.to_string());
                }
                None => drop(self.kernel.remove(&prefix)),
            }
        }
    }

    /// Looks whether the kernel was given what a peer hears of.
    pub(super) fn kernel_was_first(&self, m: &Message) {
        if !(self.fib && self.kernel_first) || m.kind != MessageType::Update {
            return;
        }
        let u = Update::parse(m.body()).expect("the router never sends a malformed UPDATE");
        for prefix in u.nlri {
            assert!(self.kernel.contains_key(&prefix), "{prefix} at {}: a peer hears of it first", self.now);
        }
    }
}
