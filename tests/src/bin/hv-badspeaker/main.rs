//! `hv-badspeaker`: a BGP router that goes wrong on command, for `make faults`.
//!
//! Until it is told otherwise it is an honest router: it listens, takes routes from its neighbours,
//! chooses the best of each prefix and passes it on, in the same words as FRR, BIRD and OpenBGPD;
//! so its votes count. Then it does what no real daemon does on command: the word in the file
//! `--orders` says what (see [`Order`]). It knows as much of BGP as it takes to be believed: IPv4
//! unicast, eBGP, no dialling, no policy.
//!
//! With `--ballast MIB` it is no router at all but a process that takes memory and keeps it.
#![forbid(unsafe_code)]

mod leg;
mod rib;

use anyhow::{Context, Result};
use clap::Parser;
use leg::Leg;
use rib::{Rib, Route};
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use wire::bgp::message::Capability;
use wire::bgp::message::Open;
use wire::bgp::{Family, Notification, Prefix};

/// Pause between two rounds: what a flood leaves to others of a small machine's processors.
const ROUND: Duration = Duration::from_millis(5);
/// The BGP port (RFC 4271 section 8).
const PORT: u16 = 179;
/// Hold time that we propose; the other side proposes a shorter one.
const HOLD_TIME_S: u16 = 90;
/// Most that waits for a neighbour while we flood it.
const BACKLOG: usize = 256 * 1024;
/// Announcements of one round of a flood, on each session.
const FLOOD_BATCH: u32 = 50;
/// How often the ballast grows, and by how much.
const BALLAST_STEP: Duration = Duration::from_millis(50);
const BALLAST_STEP_MIB: usize = 16;

/// A BGP router that goes wrong on command
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Our AS number
    #[arg(long, default_value_t = 65000)]
    asn: u32,
    /// Our BGP identifier
    #[arg(long, default_value = "10.255.0.1")]
    router_id: Ipv4Addr,
    /// The file that holds the order, one word; looked at all the time. FILE.taken says which was
    /// taken last
    #[arg(long, value_name = "FILE", required_unless_present = "ballast")]
    orders: Option<PathBuf>,
    /// Take so much memory and keep it, and do nothing else
    #[arg(long, value_name = "MIB")]
    ballast: Option<usize>,
}

/// What the orders file may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// `honest`: be a router.
    #[default]
    Honest,
    /// `keep-withdrawn`: never withdraw anything.
    KeepWithdrawn,
    /// `mute`: send nothing any more; on a new session an OPEN and nothing after it.
    Mute,
    /// `flood`: announce and change routes without end, true and made-up ones.
    Flood,
    /// `garbage`: once, octets that are no BGP.
    Garbage,
    /// `garbage-update`: once, UPDATEs whose contents are random.
    GarbageUpdate,
    /// `close`: once, close all sessions without a NOTIFICATION.
    Close,
    /// `notify`: once, end all sessions with an UPDATE error nobody has deserved.
    Notify,
}

impl Order {
    fn of(word: &str) -> Order {
        match word {
            "keep-withdrawn" => Order::KeepWithdrawn,
            "mute" => Order::Mute,
            "flood" => Order::Flood,
            "garbage" => Order::Garbage,
            "garbage-update" => Order::GarbageUpdate,
            "close" => Order::Close,
            "notify" => Order::Notify,
            _ => Order::Honest,
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(mib) = arguments.ballast {
        take_memory(mib);
    }
    let orders = arguments.orders.context("--orders is missing")?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("listening")?;
    listener.set_nonblocking(true)?;
    let open = Open {
        asn: arguments.asn,
        hold_time_s: HOLD_TIME_S,
        router_id: arguments.router_id,
        capabilities: vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::RouteRefresh,
            Capability::FourOctetAs(arguments.asn),
        ],
    };
    let mut speaker = Speaker { open, orders, ..Speaker::default() };
    loop {
        speaker.accept(&listener)?;
        speaker.round();
        std::thread::sleep(ROUND);
    }
}

/// Grows and stays; every page is written, so that it counts as resident.
fn take_memory(mib: usize) -> ! {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        if held.len() * BALLAST_STEP_MIB < mib {
            held.push(vec![0xa5; BALLAST_STEP_MIB << 20]);
        }
        std::thread::sleep(BALLAST_STEP);
    }
}

struct Speaker {
    open: Open,
    orders: PathBuf,
    order: Order,
    /// The word that `order` came from; none before the first look.
    taken: Option<String>,
    legs: Vec<Leg>,
    rib: Rib,
    random: Random,
    /// Rounds of the flood so far: what it says changes with each.
    floods: u32,
}

impl Default for Speaker {
    fn default() -> Speaker {
        let open = Open { asn: 0, hold_time_s: 0, router_id: Ipv4Addr::UNSPECIFIED, capabilities: Vec::new() };
        Speaker {
            open,
            orders: PathBuf::new(),
            order: Order::Honest,
            taken: None,
            legs: Vec::new(),
            rib: Rib::default(),
            random: Random(0x9e37_79b9_7f4a_7c15),
            floods: 0,
        }
    }
}

impl Speaker {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            match listener.accept() {
                Ok((stream, _)) => match Leg::new(stream, &self.open) {
                    Ok(leg) => {
                        eprintln!("{} is here", leg.peer);
                        // One session with each neighbour: the new one is the one that lives.
                        self.end(|old| old.peer == leg.peer, "replaced");
                        self.legs.push(leg);
                    }
                    Err(e) => eprintln!("a connection without addresses: {e}"),
                },
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e).context("accepting"),
            }
        }
    }

    fn round(&mut self) {
        let text = fs::read_to_string(&self.orders).unwrap_or_default();
        let word = text.trim();
        if self.taken.as_deref() != Some(word) {
            self.order = Order::of(word);
            self.once();
            eprintln!("order: {:?}", self.order);
            // Whoever has given the order can wait for this.
            if let Err(e) = fs::write(self.orders.with_extension("taken"), word) {
                eprintln!("cannot say that the order was taken: {e}");
            }
            self.taken = Some(word.to_owned());
        }
        let mut changed = Vec::new();
        for leg in &mut self.legs {
            leg.receive(&mut self.rib, &mut changed);
        }
        for leg in &mut self.legs {
            if leg.is_new() {
                leg.greet(&self.rib, self.open.asn);
            }
            for prefix in &changed {
                leg.tell(prefix, &self.rib, self.open.asn, self.order == Order::KeepWithdrawn);
            }
        }
        if self.order == Order::Flood {
            self.flood();
        }
        let mute = self.order == Order::Mute;
        for leg in &mut self.legs {
            leg.keep_alive();
            leg.send(mute);
        }
        self.end(Leg::is_over, "over");
    }

    /// What is done once, when the order comes.
    fn once(&mut self) {
        let all: Vec<Prefix> = self.rib.prefixes().collect();
        for (n, leg) in self.legs.iter_mut().enumerate() {
            match self.order {
                // What was kept back is said now.
                Order::Honest => leg.catch_up(&all, &self.rib, self.open.asn),
                Order::Garbage => leg.queue(&self.random.octets(200 + n)),
                Order::GarbageUpdate => {
                    let body = self.random.octets(60);
                    let mut message = vec![0xff; 16];
                    message.extend([0, 79, 2]);
                    message.extend(body);
                    leg.queue(&message);
                }
                Order::Notify => leg.queue(&Notification::new(3, 1).encode()),
                Order::Close | Order::KeepWithdrawn | Order::Mute | Order::Flood => {}
            }
        }
        match self.order {
            Order::Close => self.end(|_| true, "closed on command"),
            Order::Notify => {
                self.legs.iter_mut().for_each(|leg| leg.send(false));
                self.end(|_| true, "ended on command");
            }
            _ => {}
        }
    }

    /// Says something new about made-up prefixes and about true ones, to whoever has room for it.
    fn flood(&mut self) {
        self.floods = self.floods.wrapping_add(1);
        let all: Vec<Prefix> = self.rib.prefixes().collect();
        for leg in self.legs.iter_mut().filter(|leg| leg.backlog() < BACKLOG) {
            for n in 0..FLOOD_BATCH {
                let number = self.floods.wrapping_mul(FLOOD_BATCH).wrapping_add(n);
                let [_, b, c, _] = ((number % 4096) << 8).to_be_bytes();
                let made_up = Prefix::new(Ipv4Addr::new(100, 64 + b % 64, c, 0).into(), 24);
                let route = Route::made_up(number);
                if let Some(prefix) = made_up {
                    match number / 4096 % 2 {
                        0 => leg.announce(&prefix, &route, self.open.asn),
                        _ => leg.withdraw(&prefix),
                    }
                }
                let at = usize::try_from(number).unwrap_or_default() % all.len().max(1);
                if let Some(prefix) = all.get(at) {
                    leg.announce(prefix, &route, self.open.asn);
                }
            }
        }
    }

    fn end(&mut self, which: impl Fn(&Leg) -> bool, why: &str) {
        for leg in self.legs.extract_if(.., |leg| which(leg)) {
            eprintln!("{} is gone: {why}", leg.peer);
            self.rib.forget(leg.peer);
        }
    }
}

/// A xorshift generator: the same garbage every time.
struct Random(u64);

impl Random {
    fn octets(&mut self, n: usize) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_be_bytes()[0]
        };
        (0..n).map(|_| next()).collect()
    }
}
