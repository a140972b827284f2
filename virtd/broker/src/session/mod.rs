//! One peer: the TCP connections with it, the legs of the instances, the votes on what it is told.
//!
//! ```text
//!            peer.rs                       legs.rs                      vote.rs
//!  peer ── Ext (at most two ── frames ── replicate ── Leg per instance ── candidates ── table ── flush ── peer
//!          until collision)               (store)
//! ```
//! `Ext` follows RFC 4271's session states but never opens by itself: an instance's connect or the
//! peer's does. The legs' states stand apart: each leg is a BGP session of its own in which virtd
//! plays the peer. Both halves meet in two places: the peer's OPEN waits for the instances' OPENs
//! (the profile), and our KEEPALIVE that accepts the peer's OPEN waits for a quorum of legs.

mod admission;
mod adopt;
mod count;
mod deadly;
mod diverse;
mod hangs;
mod input;
mod leave;
mod legs;
mod offers;
mod peer;
mod publish;
mod refresh;
mod rest;
mod ribs;
mod stale;
mod standing;
mod vote;

use super::env::Env;
use super::independence::Independence;
use super::io::{ConnId, LegId, Micros, Output};
use super::mux::Lane;
use super::open::{Difference, Negotiated, Profile, Refusal, Terms};
use super::{KEYS_AT_ONCE, Table};
pub use adopt::Adopted;
use bytes::{Bytes, BytesMut};
use deadly::Deadly;
use diverse::Lag;
pub use diverse::allow_offers;
pub use hangs::look_for_hangs;
pub use leave::{Departure, Farewell};
use replay::level::Todo;
use ribs::Ended;
pub use ribs::Walk;
pub use standing::{Standing, Whose};
use std::net::SocketAddr;
use voter::Members;
use wire::bgp::message::Open;
use wire::bgp::{Family, Notification};

/// How often a session's timers are looked at. Keepalives and hold times are seconds; T has a queue
/// of its own.
pub const TICK_US: Micros = 100_000;
/// Octets that may wait in user space for a peer or a leg before the queue becomes a set of keys
/// (docs/DECISIONS.md, "Slow is not dead, and never blocks").
pub const HIGH_MARK: usize = 8 << 20;
/// Below this the set of keys is worked off again.
pub const LOW_MARK: usize = 1 << 20;
/// Hold time until the peer's OPEN has come (RFC 4271 section 8.2.2 suggests four minutes).
const OPEN_HOLD_US: Micros = 240_000_000;

/// What is to be sent and is not taken for so long ends the session, or for twice the hold time
/// where that is longer (RFC 9687: SendHoldTime).
const SEND_HOLD_US: Micros = 480_000_000;
/// Connections of one peer at once that are not established: one that we dialled, and what a peer
/// may have given up unnoticed before its newest.
const MAX_OPENING: usize = 4;
/// A dial that has had no answer for so long is begun anew when an instance wants one: TCP's own
/// next SYN would be four seconds off and more (RFC 6298: 1, 3, 7, 15 s …), a daemon's retry is
/// now.
const DIAL_ANEW_US: Micros = 3_000_000;

/// So many legs of an instance have the hold time `leg_hold_s`, by which it is seen that it hangs:
/// a hold time holds for as long as a leg, and each short one costs a KEEPALIVE each way every third
/// of it. The others have the peer's.
pub const SHORT_LEGS: usize = 8;
/// Where fewer are left than this, one is opened anew.
const MIN_SHORT_LEGS: usize = 2;
/// How long that has to last, and how long after another: peers that leave one after the other take
/// their legs with them, and those of an instance that has just come are not all up yet.
const SHORTEN_US: Micros = 10_000_000;
/// The hold time of a leg whose peer has none.
const LONG_HOLD_S: u16 = 240;

/// State of one TCP connection with the peer (RFC 4271 section 8.2.2, as far as it is ours).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtState {
    /// Dialled, no answer yet.
    Connect,
    /// TCP stands; our OPEN waits for the instances'.
    Connected,
    /// Our OPEN is out.
    OpenSent,
    /// Both OPENs are exchanged.
    OpenConfirm,
    /// UPDATEs flow.
    Established,
}

/// One TCP connection with the peer.
#[derive(Debug)]
pub struct Ext {
    /// The driver's name for it.
    pub id: ConnId,
    /// We dialled it.
    pub dialled: bool,
    /// Where it stands.
    pub state: ExtState,
    /// Its addresses, once known.
    pub local: Option<SocketAddr>,
    /// The peer's end, its port included.
    remote: SocketAddr,
    /// The peer's OPEN, once received.
    peer_open: Option<Open>,
    /// When that came.
    opened: Micros,
    negotiated: Option<Negotiated>,
    keepalive_sent: bool,
    keepalive_seen: bool,
    /// Since when TCP stands.
    since: Micros,
    hold_until: Micros,
    next_keepalive: Micros,
    queued: usize,
}

/// State of a leg: a BGP session in which virtd plays the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LegState {
    /// The instance dialled; the peer's TCP connection is not there yet.
    Connecting,
    /// Connected; its OPEN is awaited.
    OpenWait,
    /// Its OPEN is here; the peer's is awaited.
    OpenReceived,
    /// It was given the peer's OPEN; its KEEPALIVE is awaited.
    OpenConfirm,
    /// UPDATEs flow.
    Established,
}

/// How an established leg is fed.
#[derive(Debug)]
enum Feed {
    /// The peer's messages, as they come.
    Live,
    /// Keys to be told from the store; live messages only add keys.
    Levelling(Todo),
}

/// One instance's connection for this session.
#[derive(Debug)]
pub struct Leg {
    /// The driver's name for it.
    pub id: LegId,
    /// Where it stands.
    pub state: LegState,
    /// We offered it over the instance's listening socket; else the instance dialled.
    offered: bool,
    since: Micros,
    hold_until: Micros,
    hold_us: Micros,
    /// By its hold time it is seen whether the instance hangs.
    short: bool,
    next_keepalive: Micros,
    queued: usize,
    feed: Feed,
    /// While it is fed: what stands in the store and has not been looked at yet.
    rest: Option<replay::store::Cursor>,
    /// It has been given everything in the store and been quiet for T since.
    level: bool,
    /// Everything has been handed over; level follows after quiet.
    fed_since: Option<Micros>,
    /// It is being admitted: the number of the first key at rest on which it may still be stale.
    admits_from: Option<u32>,
    /// How many keys at rest it has not said again, and since when it is so many.
    behind: (usize, Micros),
    /// There was something in the store when it came.
    replayed: bool,
    last_update: Micros,
    /// Families whose End-of-RIB it sent.
    eor: Vec<Family>,
    /// Messages that follow once every key has been told: End-of-RIB, end of a refresh.
    after_feed: Vec<Bytes>,
}

/// Per instance, what outlives its legs.
#[derive(Debug, Default)]
pub struct Seat {
    /// Its leg, if any.
    pub leg: Option<Leg>,
    /// A dial of it that waits although it has a leg, and until when.
    second: Option<(LegId, Micros)>,
    /// What is held back from it, where its diversity says so.
    lane: Option<Box<Lane>>,
    /// How long its connections are held back, where its diversity says so.
    lag: Option<Box<Lag>>,
    /// Not before this does its own connect succeed.
    connect_from: Micros,
    /// The last OPEN it sent for this peer.
    open: Option<Open>,
    /// That was in RFC 9072's form.
    extended_open: bool,
    /// What its leg speaks, or the last one spoke.
    terms: Option<Box<Terms>>,
    /// How its OPEN differs from what the session runs with, and why it was refused, as far as the
    /// operator was told.
    differs: Option<Difference>,
    refused: Option<Refusal>,
    /// Not before this is it offered a leg again.
    next_offer: Micros,
    backoff: u32,
    /// It has had an established leg since this session came up.
    had_leg: bool,
    /// What it has said here that killed virtd.
    deadly: Option<Box<Deadly>>,
    /// How its last leg ended, until it has another.
    departure: Option<Departure>,
    /// For how long a majority has had the session without it, in total since it was last level on
    /// it.
    missed_us: Micros,
    /// The operator was told that it stays out against the majority.
    differs_told: bool,
    /// The NOTIFICATION with which it answered the OPEN in the current attempt.
    rejected: Option<Notification>,
    /// It has no vote and does not come to take part: what the operator was told of that, and that
    /// it is missed.
    outside: Outside,
    /// How far it has been found to say what was chosen: the next slot that is looked at, and how
    /// many before it were the same.
    compared: (u32, u32),
}

/// What was told of an instance without a vote that does not come to take part in a session: each
/// thing once, or it would be told with each attempt of its.
#[derive(Debug, Default)]
struct Outside {
    /// The last thing.
    told: Option<String>,
    /// That the others have the session without it.
    missed: bool,
}

/// See the module's comment.
pub struct Session {
    index: usize,
    /// The peer's address, port 0.
    pub peer: SocketAddr,
    /// Nobody has this place: nothing is connected, and the address is nobody's.
    pub vacant: bool,
    /// When an instance last wanted it: dialled it, or had spoken on a leg.
    pub(super) wanted_at: Option<Micros>,
    /// The peer accepts its own AS in paths.
    allow_own_as: bool,
    /// TCP connections: one, or two until a collision is resolved.
    pub exts: Vec<Ext>,
    /// By instance.
    pub seats: Vec<Seat>,
    profile: Option<Profile>,
    /// What the established connection negotiated.
    pub up: Option<Up>,
    /// What the instances say to this peer.
    pub table: Table,
    attached: Members,
    /// Offers to listening instances start here, so that those that dial anyway come first.
    offer_from: Micros,
    no_leg_since: Option<Micros>,
    has_limits: bool,
    /// Times an established session ended.
    pub resets: u64,
    /// How the instances compared, since virtd started.
    pub independence: Independence,
    alone_told: bool,
    /// An operator has shut it down: nobody is let in, and no instance out.
    pub(super) shut: bool,
    /// How it was last ended by the will of those that had it.
    pub ended: Option<Farewell>,
    /// How the connection has last ended.
    went: Ended,
    /// Half of the electorate has left.
    tied: bool,
    /// Our address on the last connection.
    last_local: Option<SocketAddr>,
    /// When the last tick was.
    ticked_at: Micros,
    /// What the journal says of it.
    kept_standing: Standing,
}

/// An established session.
pub struct Up {
    /// Which connection.
    pub conn: ConnId,
    /// What was agreed.
    pub negotiated: Negotiated,
    /// Since when.
    pub since: Micros,
    /// Families whose End-of-RIB the peer sent.
    peer_eor: Vec<Family>,
    /// Families whose End-of-RIB we sent, and those a refresh is to be closed for.
    eor_sent: Vec<Family>,
    refresh_end: Vec<Family>,
    /// Families that are being sent again: further requests for them are one with the first.
    refreshing: Vec<Family>,
    /// Families that the peer says again by itself, or has.
    again: Vec<refresh::Again>,
    /// Families of which keys at rest are still to be told again, from which number on.
    telling_again: Vec<(Family, u32)>,
    last_published: Micros,
    /// Octets the peer's socket has not taken.
    queued: usize,
    /// Since when it has taken nothing, although there is something for it.
    stalled: Option<Micros>,
    /// UPDATEs in and out.
    pub updates_in: u64,
    /// Chunks of UPDATEs sent.
    pub updates_out: u64,
    /// Prefixes announced to the peer now.
    pub prefixes_out: u64,
}

impl Session {
    /// A session with `peer` that nobody has asked for yet.
    pub fn new(index: usize, peer: SocketAddr, env: &mut Env) -> Session {
        let n = env.instances.len();
        // A place that somebody had was cleared when he gave it back.
        env.heard.open(index);
        let allow_own_as = env.config.allows_own_as(peer.ip());
        Session {
            index,
            peer,
            vacant: false,
            wanted_at: None,
            allow_own_as,
            exts: Vec::new(),
            seats: (0..n)
                .map(|i| Seat { lane: diverse::lane(i, &peer, env), lag: Lag::of(i, &peer, env), ..Seat::default() })
                .collect(),
            profile: None,
            up: None,
            table: Table::new(index as u32, n),
            attached: Members::default(),
            offer_from: 0,
            no_leg_since: None,
            has_limits: env.has_limits(),
            resets: 0,
            independence: Independence::default(),
            alone_told: false,
            shut: false,
            ended: None,
            went: Ended::default(),
            tied: false,
            last_local: None,
            ticked_at: env.now,
            kept_standing: Standing::default(),
        }
    }

    /// A place that nobody has.
    pub fn vacant(index: usize, peer: SocketAddr, env: &mut Env) -> Session {
        Session { vacant: true, ..Session::new(index, peer, env) }
    }

    /// Nothing of it is left in what all sessions share.
    pub fn clear(&mut self, env: &mut Env) {
        self.drop_everything(env, None);
    }

    /// The place at `i`, of those there are or the next, is another instance's from now on. It
    /// takes no part yet, and where the peer has said something it does not know that.
    pub fn seat(&mut self, i: usize, env: &mut Env) {
        let seat =
            Seat { lane: diverse::lane(i, &self.peer, env), lag: Lag::of(i, &self.peer, env), ..Seat::default() };
        match self.seats.get_mut(i) {
            Some(place) => *place = seat,
            None => self.seats.push(seat),
        }
        self.table.widen(self.seats.len());
        if self.up.is_some() {
            env.heard.set_level(self.index, i, false);
        }
        self.configure(env);
    }

    /// The configuration has changed.
    pub fn configure(&mut self, env: &Env) {
        self.has_limits = env.has_limits();
        self.allow_own_as = env.config.allows_own_as(self.peer.ip());
    }

    /// The place at `i` is nobody's any more.
    pub fn vacate(&mut self, i: usize, env: &mut Env) {
        self.drop_leg(i, env);
        self.forget_candidates(i, env);
        self.independence.forget(i as u8);
        if let Some(seat) = self.seats.get_mut(i) {
            *seat = Seat::default();
        }
    }

    /// Our router id and AS on this session, once learnt.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    fn seat_of(&self, leg: LegId) -> Option<usize> {
        self.seats.iter().position(|s| s.leg.as_ref().is_some_and(|l| l.id == leg))
    }

    fn ext(&mut self, conn: ConnId) -> Option<&mut Ext> {
        self.exts.iter_mut().find(|e| e.id == conn)
    }

    /// The connection the legs belong to: the established one, else the one furthest along.
    fn foremost(&self) -> Option<&Ext> {
        let rank = |e: &&Ext| match e.state {
            ExtState::Connect => 0,
            ExtState::Connected => 1,
            ExtState::OpenSent => 2,
            ExtState::OpenConfirm => 3,
            ExtState::Established => 4,
        };
        self.exts.iter().max_by_key(rank)
    }

    /// Whether instance `i` has ever taken part in this session.
    pub fn knows(&self, i: usize) -> bool {
        self.seats.get(i).is_some_and(|s| s.open.is_some())
    }

    /// Whether instance `i` has an established leg.
    pub fn stands(&self, i: usize) -> bool {
        let leg = self.seats.get(i).and_then(|s| s.leg.as_ref());
        leg.is_some_and(|l| l.state == LegState::Established)
    }

    /// Instance `i` has begun to listen: a leg may be offered to it from `from` on.
    pub fn allow_offer(&mut self, i: usize, from: Micros, env: &mut Env) {
        if let Some(seat) = self.seats.get_mut(i) {
            (seat.next_offer, seat.backoff) = (from, 0);
            let differs = env.config.instances.get(i).is_some_and(|c| c.diversity.is_some());
            env.wake_at(differs.then_some(from), self.index, i);
        }
    }

    /// Octets that its tables, and what waits to be told, take: candidates and published routes;
    /// keys and messages that wait.
    pub fn memory_bytes(&self) -> (usize, usize) {
        let legs = self.seats.iter().filter_map(|s| s.leg.as_ref());
        let todo = |l: &Leg| if let Feed::Levelling(todo) = &l.feed { todo.memory_bytes() } else { 0 };
        let held: usize = self.seats.iter().map(Seat::waiting).sum();
        let waiting: usize = held + legs.map(todo).sum::<usize>();
        let peer = self.up.as_ref().map_or(0, |up| up.queued);
        (self.table.memory_bytes(), waiting + peer + self.table.changes_bytes())
    }

    /// State and detail of an instance's leg, for people.
    pub fn leg_words(&self, i: usize, env: &Env) -> (&'static str, String) {
        let Some(leg) = self.seats.get(i).and_then(|s| s.leg.as_ref()) else { return ("none", String::new()) };
        let state = match leg.state {
            LegState::Connecting => "Connect",
            LegState::OpenWait => "OpenWait",
            LegState::OpenReceived => "OpenReceived",
            LegState::OpenConfirm => "OpenConfirm",
            LegState::Established => "Established",
        };
        let detail = match (&leg.feed, leg.level, leg.state) {
            (_, _, s) if s != LegState::Established => String::new(),
            (Feed::Levelling(todo), ..) => {
                let rest = leg.rest.as_ref().map_or(0, |rest| env.heard.stores().unread(self.index, rest));
                format!("{} prefixes still to be told", todo.len() + rest)
            }
            (Feed::Live, false, _) => "waiting for its output to fall quiet".to_owned(),
            (Feed::Live, true, _) => "level".to_owned(),
        };
        (state, detail)
    }

    /// What timers ask for; called every [`TICK_US`].
    pub fn tick(&mut self, env: &mut Env) {
        self.tick_peer(env);
        self.tick_legs(env);
        self.tick_departures(env);
        self.open_if_ready(env);
        self.offer_legs(env);
        self.keep_standing(env);
    }

    /// Sends the KEEPALIVEs that are due, to the peer and on the legs.
    pub fn keep_alive(&mut self, env: &mut Env) {
        self.keep_peer_alive(env);
        for leg in self.seats.iter_mut().filter_map(|s| s.leg.as_mut()) {
            leg.keep_alive(env);
        }
    }

    /// Everything the peer, or the end of its connection, takes with it.
    fn drop_everything(&mut self, env: &mut Env, farewell: Option<Bytes>) {
        for i in 0..self.seats.len() {
            if let Some(lane) = &mut self.seats[i].lane {
                lane.clear();
            }
            if let Some((leg, _)) = self.seats[i].second.take() {
                env.out.push(legs::refused(leg));
            }
            if let Some(leg) = self.seats[i].leg.take() {
                match leg.state {
                    LegState::Connecting => env.out.push(legs::refused(leg.id)),
                    _ => {
                        if let (true, Some(bytes)) = (leg.state >= LegState::OpenConfirm, farewell.clone()) {
                            env.out.push(Output::SendLeg { leg: leg.id, bytes });
                        }
                        env.out.push(Output::CloseLeg { leg: leg.id });
                    }
                }
            }
            self.seats[i].rejected = None;
            self.seats[i].departure = None;
            self.seats[i].had_leg = false;
            self.seats[i].differs_told = false;
            self.seats[i].next_offer = 0;
            self.seats[i].backoff = 0;
        }
        self.attached = Members::default();
        env.ribs.stir(self.index);
        env.heard.end(self.index);
        env.poison.session_gone(self.index);
        self.forget_dissent(env);
        self.table.clear(|id| env.routes.release(id));
        self.clear_at_rest(env);
        if self.up.take().is_some() {
            self.resets += 1;
        }
        self.tied = false;
        self.no_leg_since = None;
        self.alone_told = false;
    }
}

impl Seat {
    /// How often it was offered this connection and has not taken it.
    pub fn offers(&self) -> u32 {
        self.backoff
    }
}

impl PartialOrd for LegState {
    fn partial_cmp(&self, other: &LegState) -> Option<std::cmp::Ordering> {
        Some((*self as u8).cmp(&(*other as u8)))
    }
}
