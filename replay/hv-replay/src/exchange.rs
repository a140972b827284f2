//! All neighbours of a route server (RFC 7947) in one thread: each has a session of its own, from an
//! address of its own, announces routes that nobody else does, and waits for those of all others.
//!
//! The routes are numbered through, neighbour by neighbour, and each number is a /24. So what a
//! neighbour knows is one bit a route, and an announcement costs the player next to nothing: what is
//! measured is the router. Attributes that come back are not looked at.

use crate::link::{self, Endpoint, Link};
use crate::options::{address, duration};
use crate::route::{PathRewrite, Raw, Rewrite, Route};
use crate::run::{Driver, FIRST_TOKEN, write_json};
use crate::session::{Negotiated, News, Session, SessionConfig};
use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use mio::{Registry, Token};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use serde::Serialize;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::bgp::message::{Capability, Open};
use wire::bgp::update::{Nlri, Update, attr, flag};
use wire::bgp::{Family, Notification, Prefix, SessionKind, encode, frame};

/// Between two turns. A router that says one route at a time would wake this program for each, and
/// take turns on the processor with it; so it reads many at once.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at every neighbour's timers.
const LOOK: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Ends of sessions that are told in words; all are counted.
const ENDS_TOLD: usize = 100;
/// 11.0.0.0/24 is the first route. From there to 126.255.255.0/24 nothing is reserved (RFC 6890) but
/// 100.64.0.0/10, which routers pass on like any other.
const FIRST_ROUTE: u32 = 11 << 16;
const MOST_ROUTES: u32 = (127 - 11) << 16;
/// Files that are open besides the sockets, generously.
const OTHER_FILES: u64 = 50;

const HELP: &str = "\
Neighbour number n, from 0, dials from the address FIRST_ADDRESS + n, which is its router id and next hop as well. Its AS is \
FIRST_ASN + n. The addresses must be this machine's: 'ip route add local 10.0.16.0/20 dev lo' makes 4096 at once.
The router has each of them in its configuration and passes routes on: a route server, or plain eBGP.
The kernel of a router as it comes knows at most 1024 neighbours by their MAC. For more, enter them by hand \
('ip neigh replace ADDR lladdr MAC dev DEV nud permanent'), or raise net.ipv4.neigh.default.gc_thresh3.

The JSON is written when everybody has everything, and again at the end:
  all_up_s, complete_99_s, complete_s   when all sessions were up, 99 % of the routes there, all of them; seconds since the \
first OPEN, null if it never came to that
  neighbours_complete, routes_missing   who has everything now, and what the others lack
  keepalive_s                           a third of the hold time, to compare silences with
  filling, stay                         what came until all was there, and afterwards (with --stay). In both \
longest_silence_s, the longest time without a message from the router on any session
  ends                                  why sessions ended
  player_s, longest_turn_s              this program's own processor time and worst delay

BIRD 2.0.12, when it has nothing else to do, tells the neighbour that came last the rest of its routes up to 3 s late: \
complete_99_s is without that.

Exit status: 0 everybody had everything and no session was lost, 1 not so, 2 as without 'exchange'.";

/// `hv-replay exchange`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = HELP)]
pub struct ExchangeOptions {
    /// The router
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = address)]
    pub connect: SocketAddr,
    /// How many neighbours
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=20_000))]
    pub neighbours: u32,
    /// How many routes each of them announces
    #[arg(long, value_name = "K")]
    pub routes: u32,
    /// Address of the first neighbour; the others' are counted up from it
    #[arg(long, value_name = "ADDR")]
    pub first_address: Ipv4Addr,
    /// AS number of the first neighbour
    #[arg(long, value_name = "ASN", default_value_t = 100_000)]
    pub first_asn: u32,
    /// Hold time that is offered, seconds
    #[arg(long, value_name = "S", default_value_t = 90)]
    pub hold: u16,
    /// So many sessions are opened at a time. More than a router's backlog (BIRD's is 8) only wait
    /// for the kernel to try again
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub at_once: usize,
    /// Give up if not everybody has everything after this long
    #[arg(long, value_name = "S", value_parser = duration, default_value = "180s")]
    pub timeout: Duration,
    /// Go on watching this long after everybody has everything, or until SIGTERM or Ctrl-C
    #[arg(long, value_name = "S", value_parser = duration, default_value = "0s")]
    pub stay: Duration,
    /// Write the result here
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    pub json: PathBuf,
    /// No progress on stderr
    #[arg(long, short)]
    pub quiet: bool,
}

/// Which routes there are and whose they are.
#[derive(Clone, Copy, Debug)]
struct Plan {
    neighbours: u32,
    routes: u32,
}

impl Plan {
    /// All routes there are.
    fn total(self) -> usize {
        self.neighbours as usize * self.routes as usize
    }

    /// The numbers of a neighbour's own routes.
    fn own(self, neighbour: usize) -> Range<usize> {
        let first = neighbour * self.routes as usize;
        first..first + self.routes as usize
    }

    fn prefix(number: usize) -> Option<Prefix> {
        let network = (FIRST_ROUTE + u32::try_from(number).ok()?) << 8;
        Prefix::new(Ipv4Addr::from(network).into(), 24)
    }

    /// The routes of an NLRI field by their numbers; `None` for a prefix that nobody announces.
    fn numbers(self, nlri: Nlri<'_>) -> impl Iterator<Item = Option<usize>> {
        let mut rest = nlri.bytes();
        std::iter::from_fn(move || {
            let (&len, tail) = rest.split_first()?;
            let (octets, after) = tail.split_at_checked(usize::from(len).div_ceil(8))?;
            rest = after;
            let [a, b, c] = octets.try_into().ok().filter(|_| len == 24).unwrap_or([0; 3]);
            let number = u32::from_be_bytes([0, a, b, c]).checked_sub(FIRST_ROUTE).map(|n| n as usize);
            Some(number.filter(|n| *n < self.total()))
        })
    }
}

/// What one neighbour knows of the others' routes.
#[derive(Debug, Default)]
struct Known {
    bits: Vec<u64>,
    /// How many bits are set.
    count: usize,
}

impl Known {
    fn new(plan: Plan) -> Known {
        Known { bits: vec![0; plan.total().div_ceil(64)], count: 0 }
    }

    /// A route is announced, or withdrawn.
    fn set(&mut self, number: usize, there: bool) {
        let Some(word) = self.bits.get_mut(number / 64) else { return };
        let bit = 1 << (number % 64);
        let was = *word & bit != 0;
        if there && !was {
            self.count += 1;
            *word |= bit;
        } else if was && !there {
            self.count -= 1;
            *word &= !bit;
        }
    }

    fn clear(&mut self) {
        self.bits.fill(0);
        self.count = 0;
    }
}

/// What came in one part of a run.
#[derive(Clone, Debug, Default, Serialize)]
struct Seen {
    /// How long the part took.
    seconds: f64,
    announcements: u64,
    withdrawals: u64,
    /// Announcements of prefixes that nobody here has announced.
    foreign: u64,
    updates: u64,
    /// UPDATEs that cannot be read.
    malformed: u64,
    octets: u64,
    sessions_lost: u64,
    /// Connections that ended before there was a session.
    attempts_failed: u64,
    longest_silence_s: f64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    neighbours: u32,
    routes_each: u32,
    keepalive_s: f64,
    all_up_s: Option<f64>,
    complete_99_s: Option<f64>,
    complete_s: Option<f64>,
    sessions_up: usize,
    neighbours_complete: usize,
    routes_missing: usize,
    filling: &'a Seen,
    stay: Option<&'a Seen>,
    ends: &'a [String],
    player_s: f64,
    longest_turn_s: f64,
}

#[derive(Debug)]
struct Player {
    session: Session,
    link: Link,
    known: Known,
    /// It has its place among those that are opened at a time.
    opening: bool,
    /// When the last message came; `None` without a session.
    heard: Option<Instant>,
}

struct Exchange<'a> {
    options: &'a ExchangeOptions,
    plan: Plan,
    registry: Registry,
    players: Vec<Player>,
    /// Those without a connection, in the order in which they are to dial.
    queue: VecDeque<usize>,
    opening: usize,
    up: usize,
    /// Routes that somebody lacks, one for each who does.
    missing: usize,
    keepalive_s: f64,
    started: Instant,
    first_open: Option<Instant>,
    all_up: Option<Instant>,
    complete_99: Option<Instant>,
    complete: Option<Instant>,
    filling: Seen,
    stay: Seen,
    ends: Vec<String>,
    buffer: Box<[u8]>,
    news: Vec<News>,
    longest_turn: Duration,
}

/// Plays all neighbours. Returns whether everybody had everything and no session was lost.
///
/// # Errors
/// Addresses that are not this machine's, too few file descriptors, a file that cannot be written.
pub fn exchange(options: &ExchangeOptions) -> Result<bool> {
    let mut driver = Driver::new()?;
    let mut all = Exchange::new(options, driver.registry().try_clone()?)?;
    all.run(&mut driver)?;
    all.write()?;
    let lost = all.filling.sessions_lost + all.stay.sessions_lost;
    all.leave()?;
    Ok(all.complete.is_some() && lost == 0)
}

/// As many sockets as the kernel allows, if that is enough.
fn raise_file_limit(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = wanted + OTHER_FILES;
    ensure!(wanted <= hard, "{wanted} files are needed, {hard} may be open (ulimit -Hn)");
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard)?)
}

impl<'a> Exchange<'a> {
    fn new(options: &'a ExchangeOptions, registry: Registry) -> Result<Exchange<'a>> {
        let plan = Plan { neighbours: options.neighbours, routes: options.routes };
        ensure!(plan.total() <= MOST_ROUTES as usize, "there are prefixes for {MOST_ROUTES} routes, not more");
        raise_file_limit(options.neighbours.into())?;
        let mut players = Vec::new();
        for n in 0..options.neighbours {
            let own = u32::from(options.first_address).checked_add(n).map(Ipv4Addr::from).context("addresses end")?;
            let asn = options.first_asn.checked_add(n).context("AS numbers end")?;
            let capabilities = vec![Capability::Multiprotocol(Family::IPV4_UNICAST), Capability::FourOctetAs(asn)];
            let open = Open { asn, hold_time_s: options.hold, router_id: own, capabilities };
            let endpoint = Endpoint::Connect(options.connect, Some(own.into()));
            let token = Token(FIRST_TOKEN + 2 * n as usize);
            players.push(Player {
                session: Session::new(SessionConfig { open, peer_asn: None }),
                link: Link::new(endpoint, None, None, token, &registry)?,
                known: Known::new(plan),
                opening: false,
                heard: None,
            });
        }
        Ok(Exchange {
            options,
            plan,
            registry,
            queue: (0..players.len()).collect(),
            opening: 0,
            up: 0,
            missing: (players.len() - 1) * plan.total(),
            players,
            keepalive_s: 0.0,
            started: Instant::now(),
            first_open: None,
            all_up: None,
            complete_99: None,
            complete: None,
            filling: Seen::default(),
            stay: Seen::default(),
            ends: Vec::new(),
            buffer: link::buffer(),
            news: Vec::new(),
            longest_turn: Duration::ZERO,
        })
    }

    /// Turn after turn until everybody has everything and has stayed, or time is over.
    fn run(&mut self, driver: &mut Driver) -> Result<()> {
        let (mut look, mut progress) = (self.started, self.started + PROGRESS_EVERY);
        let mut ready = Vec::new();
        while !driver.stopped() {
            ready.clear();
            let wait = look.saturating_duration_since(Instant::now());
            ready.extend(driver.wait(wait)?.iter().map(mio::event::Event::token));
            let turn = Instant::now();
            for token in &ready {
                self.event(*token)?;
            }
            let now = Instant::now();
            if now >= look {
                look = now + LOOK;
                self.timers(now)?;
            }
            self.open_more(now)?;
            if self.complete.is_none() && self.missing == 0 && self.up == self.players.len() {
                self.filling.seconds = self.since_start(now);
                self.complete = Some(now);
                if self.options.json.as_os_str() != "-" {
                    self.write()?;
                }
            }
            if now >= progress {
                progress = now + PROGRESS_EVERY;
                self.show(now);
            }
            self.longest_turn = self.longest_turn.max(turn.elapsed());
            std::thread::sleep(PAUSE);
            let until = self.complete.map_or(self.started + self.options.timeout, |at| at + self.options.stay);
            if now >= until {
                break;
            }
        }
        Ok(())
    }

    /// What came belongs to this part.
    fn seen(&mut self) -> &mut Seen {
        if self.complete.is_some() { &mut self.stay } else { &mut self.filling }
    }

    /// Those next in the queue dial, as far as there is room.
    fn open_more(&mut self, now: Instant) -> Result<()> {
        while self.opening < self.options.at_once
            && let Some(n) = self.queue.pop_front()
            && let Some(player) = self.players.get_mut(n)
        {
            self.opening += 1;
            player.opening = true;
            player.link.tick(now, &self.registry)?;
        }
        Ok(())
    }

    /// KEEPALIVEs, hold times, and attempts to dial that take too long.
    fn timers(&mut self, now: Instant) -> Result<()> {
        for n in 0..self.players.len() {
            let Some(player) = self.players.get_mut(n) else { break };
            if player.opening {
                player.link.tick(now, &self.registry)?;
            }
            player.session.tick(now, &mut self.news);
            self.digest(n, now)?;
        }
        Ok(())
    }

    fn event(&mut self, token: Token) -> Result<()> {
        let n = token.0.saturating_sub(FIRST_TOKEN) / 2;
        let Some(player) = self.players.get_mut(n) else { return Ok(()) };
        let (octets, keepalives) = (player.link.octets.0, player.session.keepalives);
        player.link.event(token, &mut player.session, &self.registry, &mut self.buffer, &mut self.news)?;
        let now = Instant::now();
        let octets = player.link.octets.0 - octets;
        let silence = player.heard.map_or(Duration::ZERO, |at| now - at);
        let spoken = player.session.keepalives != keepalives || !self.news.is_empty();
        if spoken && player.heard.is_some() {
            player.heard = Some(now);
        }
        if player.session.connected() {
            self.first_open.get_or_insert(now);
        }
        let seen = self.seen();
        seen.octets += octets;
        if spoken {
            seen.longest_silence_s = seen.longest_silence_s.max(silence.as_secs_f64());
        }
        self.digest(n, now)
    }

    /// Acts on what a session says, and writes what it has to say.
    fn digest(&mut self, n: usize, now: Instant) -> Result<()> {
        let mut news = std::mem::take(&mut self.news);
        loop {
            for item in news.drain(..) {
                match item {
                    News::Up(negotiated) => self.came_up(n, &negotiated, now),
                    News::Update(bytes, _) => self.update(n, bytes.get(frame::HEADER_LEN..).unwrap_or_default(), now),
                    News::Closed(why) => self.closed(n, &why, now),
                    News::Refresh(_) | News::NotificationReceived(_) | News::NotificationSent(_) => {}
                }
            }
            let Some(player) = self.players.get_mut(n) else { break };
            if !player.session.tx.is_empty() || !player.session.connected() {
                player.link.flush(&mut player.session, &self.registry, &mut news)?;
            }
            if news.is_empty() {
                break;
            }
        }
        self.news = news;
        Ok(())
    }

    /// A session stands: says all its routes.
    fn came_up(&mut self, n: usize, negotiated: &Negotiated, now: Instant) {
        let own = self.plan.own(n);
        let Some(player) = self.players.get_mut(n) else { return };
        let open = &player.session.config().open;
        announce(open.asn, open.router_id, own, negotiated, &mut player.session.tx);
        player.heard = Some(now);
        self.opening -= usize::from(std::mem::take(&mut player.opening));
        self.keepalive_s = f64::from(negotiated.hold_time_s) / 3.0;
        self.up += 1;
        if self.up == self.players.len() {
            self.all_up.get_or_insert(now);
        }
    }

    fn update(&mut self, n: usize, body: &[u8], now: Instant) {
        let plan = self.plan;
        let own = plan.own(n);
        let Some(player) = self.players.get_mut(n) else { return };
        let seen = if self.complete.is_some() { &mut self.stay } else { &mut self.filling };
        seen.updates += 1;
        let Ok(update) = Update::parse(body) else {
            seen.malformed += 1;
            return;
        };
        let before = player.known.count;
        for nlri in [Some(update.withdrawn), update.mp_withdrawn()].into_iter().flatten() {
            for number in plan.numbers(nlri) {
                seen.withdrawals += 1;
                number.into_iter().for_each(|number| player.known.set(number, false));
            }
        }
        for nlri in [Some(update.nlri), update.mp_announced()].into_iter().flatten() {
            for number in plan.numbers(nlri) {
                seen.announcements += 1;
                match number {
                    // Some routers tell a neighbour its own routes; nobody waits for them.
                    Some(number) if own.contains(&number) => {}
                    Some(number) => player.known.set(number, true),
                    None => seen.foreign += 1,
                }
            }
        }
        self.missing = self.missing + before - player.known.count;
        if self.complete_99.is_none() && self.missing * 100 <= self.all() {
            self.complete_99 = Some(now);
        }
    }

    /// A connection is over; another one follows.
    fn closed(&mut self, n: usize, why: &str, now: Instant) {
        let Some(player) = self.players.get_mut(n) else { return };
        let address = player.session.config().open.router_id;
        let was_up = player.heard.take().is_some();
        self.missing += player.known.count;
        player.known.clear();
        player.link.again(now);
        self.opening -= usize::from(std::mem::take(&mut player.opening));
        self.up -= usize::from(was_up);
        self.queue.push_back(n);
        let seen = self.seen();
        *(if was_up { &mut seen.sessions_lost } else { &mut seen.attempts_failed }) += 1;
        if self.ends.len() < ENDS_TOLD {
            let what = if was_up { "" } else { ", before its session came up" };
            self.ends.push(format!("{address} after {:.3} s{what}: {why}", self.since_start(now)));
        }
    }

    /// All routes that all are to have.
    fn all(&self) -> usize {
        (self.players.len() - 1) * self.plan.total()
    }

    /// Seconds since the first OPEN.
    fn since_start(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.first_open.unwrap_or(self.started)).as_secs_f64()
    }

    fn show(&self, now: Instant) {
        if self.options.quiet {
            return;
        }
        let all = self.all();
        #[allow(clippy::cast_precision_loss)]
        let share = (all - self.missing) as f64 / all.max(1) as f64 * 100.0;
        let seen = if self.complete.is_some() { &self.stay } else { &self.filling };
        eprintln!(
            "{:.1} s: {} of {} sessions up, {share:.1} % of the routes there; {}{} withdrawals, {} sessions lost",
            self.since_start(now),
            self.up,
            self.players.len(),
            if self.complete.is_some() { "since all were complete: " } else { "" },
            seen.withdrawals,
            seen.sessions_lost,
        );
    }

    /// Writes the report. A silence that still lasts counts, too.
    fn write(&mut self) -> Result<()> {
        let now = Instant::now();
        let quiet = self.players.iter().filter_map(|p| p.heard).map(|at| (now - at).as_secs_f64());
        let quiet = quiet.fold(0.0, f64::max);
        let whole = self.since_start(now);
        let (filled, filling) = (self.complete, self.filling.seconds);
        let seen = self.seen();
        seen.longest_silence_s = seen.longest_silence_s.max(quiet);
        seen.seconds = if filled.is_some() { whole - filling } else { whole };
        let wanted = self.plan.total() - self.plan.routes as usize;
        #[allow(clippy::cast_precision_loss)]
        let player_s = getrusage(UsageWho::RUSAGE_SELF)
            .map_or(0.0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6);
        let report = Report {
            neighbours: self.plan.neighbours,
            routes_each: self.plan.routes,
            keepalive_s: self.keepalive_s,
            all_up_s: self.all_up.map(|at| self.since_start(at)),
            complete_99_s: self.complete_99.map(|at| self.since_start(at)),
            complete_s: filled.map(|at| self.since_start(at)),
            sessions_up: self.up,
            neighbours_complete: self.players.iter().filter(|p| p.heard.is_some() && p.known.count == wanted).count(),
            routes_missing: self.missing,
            filling: &self.filling,
            stay: filled.is_some_and(|at| at < now && !self.options.stay.is_zero()).then_some(&self.stay),
            ends: &self.ends,
            player_s,
            longest_turn_s: self.longest_turn.as_secs_f64(),
        };
        write_json(&self.options.json, &report)
    }
}

impl Exchange<'_> {
    /// Says goodbye to the router on every session, as far as the kernel takes it at once.
    fn leave(&mut self) -> Result<()> {
        for player in &mut self.players {
            player.session.fail(Notification::new(6, 2), "leaving", &mut self.news);
            player.link.flush(&mut player.session, &self.registry, &mut self.news)?;
        }
        Ok(())
    }
}

/// All routes of one neighbour in as few UPDATEs as hold them, and End-of-RIB.
fn announce(asn: u32, own: Ipv4Addr, numbers: Range<usize>, negotiated: &Negotiated, out: &mut BytesMut) {
    let rewrite = Rewrite {
        asn,
        local: own.into(),
        next_hop4: None,
        next_hop6: None,
        keep_next_hop: false,
        path: PathRewrite::Prepend,
        as4: negotiated.context.as4,
        kind: SessionKind::Ebgp,
    };
    let origin = Raw { code: attr::ORIGIN, flags: flag::TRANSITIVE, value: vec![0] };
    let route = Route { path: Some(Vec::new()), other: vec![origin], ..Route::default() };
    let prefixes: Vec<Prefix> = numbers.filter_map(Plan::prefix).collect();
    if let Some(block) = prefixes.first().and_then(|first| rewrite.block(&route, first)) {
        encode::announce_stored(&block, &prefixes, &negotiated.context, out);
    }
    encode::end_of_rib(Family::IPV4_UNICAST, out);
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
