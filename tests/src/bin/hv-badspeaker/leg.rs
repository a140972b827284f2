//! One session: bytes in, bytes out.

use crate::rib::{Rib, Route};
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};
use wire::bgp::frame::{self, HEADER_LEN, MessageType};
use wire::bgp::message::{self, Open};
use wire::bgp::update::Update;
use wire::bgp::{Family, Prefix, UpdateContext, encode};

/// A third of the shortest hold time that RFC 4271 allows.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Read at most so much from one session in a round.
const READ: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    OpenSent,
    OpenConfirm,
    /// Established, and not told anything yet.
    New,
    Established,
    Over,
}

/// One session.
pub struct Leg {
    /// The neighbour.
    pub peer: IpAddr,
    stream: TcpStream,
    state: State,
    local: Ipv4Addr,
    router_id: Ipv4Addr,
    input: BytesMut,
    output: Vec<u8>,
    told: BTreeMap<Prefix, Route>,
    next_keepalive: Instant,
}

impl Leg {
    /// Takes an accepted connection and says OPEN.
    pub fn new(stream: TcpStream, open: &Open) -> io::Result<Leg> {
        stream.set_nonblocking(true)?;
        let (peer, local) = (stream.peer_addr()?.ip(), stream.local_addr()?.ip());
        let IpAddr::V4(local) = local else { return Err(io::Error::other("not over IPv4")) };
        let mut leg = Leg {
            peer,
            stream,
            state: State::OpenSent,
            local,
            router_id: Ipv4Addr::UNSPECIFIED,
            input: BytesMut::new(),
            output: Vec::new(),
            told: BTreeMap::new(),
            next_keepalive: Instant::now(),
        };
        // At once, since a mute speaker says this much.
        leg.output.extend(open.encode());
        leg.send(false);
        Ok(leg)
    }

    /// Whether it has just been established.
    pub fn is_new(&self) -> bool {
        self.state == State::New
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Octets that wait.
    pub fn backlog(&self) -> usize {
        self.output.len()
    }

    /// Reads what has come; the prefixes that changed are appended.
    pub fn receive(&mut self, rib: &mut Rib, changed: &mut Vec<Prefix>) {
        let mut buffer = [0; 4096];
        let mut left = READ;
        while left > 0 && self.state != State::Over {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.state = State::Over,
                Ok(n) => {
                    self.input.extend_from_slice(buffer.get(..n).unwrap_or_default());
                    left = left.saturating_sub(n);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.state = State::Over,
            }
        }
        loop {
            match frame::next_message(&mut self.input, false) {
                Ok(Some(message)) => self.message(&message, rib, changed),
                Ok(None) => return,
                Err(e) => {
                    eprintln!("{}: {e}", self.peer);
                    self.state = State::Over;
                    return;
                }
            }
        }
    }

    fn message(&mut self, m: &frame::Message, rib: &mut Rib, changed: &mut Vec<Prefix>) {
        match (m.kind, self.state) {
            (MessageType::Open, State::OpenSent) => match Open::decode(m.body()) {
                Ok(open) => {
                    self.router_id = open.router_id;
                    self.output.extend(message::keepalive());
                    self.state = State::OpenConfirm;
                }
                Err(e) => {
                    eprintln!("{}: {e}", self.peer);
                    self.state = State::Over;
                }
            },
            (MessageType::Keepalive, State::OpenConfirm) => self.state = State::New,
            (MessageType::Update, State::New | State::Established) => {
                let Ok(update) = Update::parse(m.body()) else { return };
                for prefix in update.withdrawn {
                    rib.set(prefix, self.peer, None);
                    changed.push(prefix);
                }
                let route = Route::read(update.attributes, self.router_id);
                for prefix in update.nlri {
                    rib.set(prefix, self.peer, route.clone());
                    changed.push(prefix);
                }
            }
            (MessageType::Notification, _) => self.state = State::Over,
            _ => {}
        }
    }

    /// Tells a new session everything, then End-of-RIB.
    pub fn greet(&mut self, rib: &Rib, asn: u32) {
        self.state = State::Established;
        let all: Vec<Prefix> = rib.prefixes().collect();
        self.catch_up(&all, rib, asn);
        let mut end = BytesMut::new();
        encode::end_of_rib(Family::IPV4_UNICAST, &mut end);
        self.output.extend(end);
    }

    /// Tells what has not been told of all these prefixes.
    pub fn catch_up(&mut self, all: &[Prefix], rib: &Rib, asn: u32) {
        let mut known: Vec<Prefix> = self.told.keys().copied().chain(all.iter().copied()).collect();
        known.sort_unstable();
        known.dedup();
        for prefix in known {
            self.tell(&prefix, rib, asn, false);
        }
    }

    /// Tells the state of one prefix, where the neighbour does not know it; a route is never told
    /// to whom it came from.
    pub fn tell(&mut self, prefix: &Prefix, rib: &Rib, asn: u32, keep: bool) {
        if self.state != State::Established {
            return;
        }
        match rib.best(prefix).filter(|(from, _)| *from != self.peer) {
            Some((_, route)) if self.told.get(prefix) == Some(route) => {}
            Some((_, route)) => self.announce(prefix, &route.clone(), asn),
            None if keep => {}
            None if self.told.contains_key(prefix) => self.withdraw(prefix),
            None => {}
        }
    }

    /// Announces, whatever the truth is.
    pub fn announce(&mut self, prefix: &Prefix, route: &Route, asn: u32) {
        if self.state != State::Established {
            return;
        }
        let attributes = route.to_wire(asn, self.local);
        let nlri = prefix.octets();
        let len = HEADER_LEN + 4 + attributes.len() + 1 + nlri.len();
        let (Ok(len), Ok(attributes_len)) = (u16::try_from(len), u16::try_from(attributes.len())) else { return };
        self.output.extend([0xff; 16]);
        self.output.extend(len.to_be_bytes());
        self.output.extend([MessageType::Update.to_wire(), 0, 0]);
        self.output.extend(attributes_len.to_be_bytes());
        self.output.extend(attributes);
        self.output.push(prefix.len());
        self.output.extend(nlri);
        self.told.insert(*prefix, route.clone());
    }

    /// Withdraws.
    pub fn withdraw(&mut self, prefix: &Prefix) {
        if self.state != State::Established {
            return;
        }
        let mut out = BytesMut::new();
        encode::withdraw(&[*prefix], &UpdateContext::EBGP, &mut out);
        self.output.extend(out);
        self.told.remove(prefix);
    }

    /// Queues octets as they are.
    pub fn queue(&mut self, octets: &[u8]) {
        self.output.extend(octets);
    }

    /// A KEEPALIVE where it is time.
    pub fn keep_alive(&mut self) {
        if matches!(self.state, State::New | State::Established) && Instant::now() >= self.next_keepalive {
            self.output.extend(message::keepalive());
            self.next_keepalive = Instant::now() + KEEPALIVE;
        }
    }

    /// Writes what the socket takes; a mute speaker forgets it instead.
    pub fn send(&mut self, mute: bool) {
        if mute {
            self.output.clear();
        }
        while !self.output.is_empty() && self.state != State::Over {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.state = State::Over,
            }
        }
    }
}
