//! One neighbour: a link, a session, what it announces and what it learns.

use crate::feed::{AdjOut, Item, Source};
use crate::learn::{Learnt, Told};
use crate::link::{self, Link};
use crate::options::{FeedOptions, SessionOptions, Speed};
use crate::report::{self, Clock, Events, Summary};
use crate::route::{PathRewrite, Rewrite};
use crate::session::{Negotiated, News, Session, SessionConfig};
use anyhow::Result;
use bytes::Bytes;
use mio::{Registry, Token};
use serde_json::json;
use std::fs::File;
use std::io::BufWriter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use wire::bgp::message::RefreshKind;
use wire::bgp::{Family, Notification, Prefix, UpdateContext, encode, frame, hex};
use wire::mrt;

/// With so many octets waiting for the kernel, no more are made.
const HIGH_MARK: usize = 1 << 20;
/// Items sent between two looks at what has arrived.
const BURST: usize = 2_000;

/// Error code of a NOTIFICATION about the OPEN (RFC 4271 section 6.2).
const OPEN_ERROR: u8 = 2;

/// What a neighbour announces and how.
pub struct Feed {
    source: Option<Box<dyn Source>>,
    speed: Speed,
    next_hop4: Option<Ipv4Addr>,
    next_hop6: Option<Ipv6Addr>,
    keep_next_hop: bool,
    path: PathRewrite,
    end_of_rib: bool,
    limit: u64,
}

impl Feed {
    /// `source` played as the options say; `scripted` where the source itself says when End-of-RIB
    /// is sent and with what next hop.
    pub fn new(source: Option<Box<dyn Source>>, options: &FeedOptions, scripted: bool) -> Feed {
        Feed {
            source,
            speed: options.speed,
            next_hop4: options.next_hop4,
            next_hop6: options.next_hop6,
            keep_next_hop: options.keep_next_hop || scripted,
            path: options.path(),
            end_of_rib: !options.no_eor && !scripted,
            limit: options.limit.unwrap_or(u64::MAX),
        }
    }
}

/// The NOTIFICATION with which a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The neighbour's.
    Received(Notification),
    /// Ours.
    Sent(Notification),
}

impl Farewell {
    /// Whoever's it was.
    pub fn notification(&self) -> &Notification {
        match self {
            Farewell::Received(n) | Farewell::Sent(n) => n,
        }
    }
}

/// One neighbour.
pub struct Neighbour {
    /// Its session.
    pub session: Session,
    /// Its sockets.
    pub link: Link,
    /// What it has announced.
    pub out: AdjOut,
    /// What it has learnt.
    pub learnt: Learnt,
    /// What will be written at the end; the counters of `out`, `learnt` and `link` are filled in by
    /// [`Neighbour::summary`].
    pub summary: Summary,
    /// Where each arrival is noted, for measuring.
    pub arrivals: Option<Vec<(Prefix, Instant)>>,
    /// Where every UPDATE received is recorded.
    pub recorder: Option<mrt::Writer<BufWriter<File>>>,
    /// Events for each UPDATE as well.
    pub events_updates: bool,
    /// KEEPALIVEs of which there were events.
    keepalives_told: u64,
    /// When the last UPDATE came.
    pub last_update: Option<Instant>,
    /// When everything was sent, once it is.
    pub feed_done: Option<Instant>,
    /// A script asked for the end.
    pub exit: bool,
    /// One side did not like the other's OPEN: trying again changes nothing.
    pub refused: bool,
    /// The NOTIFICATION that ended the last session, or attempt at one; `None` where one stands or
    /// ended without.
    pub farewell: Option<Farewell>,
    /// The session of this program's own will is over; no reset.
    leaving: bool,
    /// The neighbour's AS, from its last OPEN.
    peer_asn: u32,
    feed: Feed,
    rewrite: Option<Rewrite>,
    /// How UPDATEs are read. Kept here too, since the session may be over while its last UPDATEs
    /// still wait to be looked at.
    context: Option<UpdateContext>,
    held: Option<Item>,
    not_before: Option<Instant>,
    first_item: Option<Instant>,
    came_up: Option<Instant>,
    clock: Clock,
    buffer: Box<[u8]>,
    news: Vec<News>,
}

impl Neighbour {
    /// Opens its sockets, with `token` and the one after it.
    ///
    /// # Errors
    /// Options that make no sense, or an address that cannot be used.
    pub fn new(
        options: &SessionOptions,
        feed: Feed,
        token: Token,
        registry: &Registry,
        clock: Clock,
    ) -> Result<Neighbour> {
        Neighbour::with_config(options.config()?, options, feed, token, registry, clock)
    }

    /// The same with an OPEN that does not come from the options.
    ///
    /// # Errors
    /// As [`Neighbour::new`].
    pub fn with_config(
        config: SessionConfig,
        options: &SessionOptions,
        feed: Feed,
        token: Token,
        registry: &Registry,
        clock: Clock,
    ) -> Result<Neighbour> {
        Ok(Neighbour {
            session: Session::new(config),
            link: Link::new(options.endpoint()?, options.peer, options.md5_key()?, token, registry)?,
            out: AdjOut::default(),
            learnt: Learnt::default(),
            summary: Summary::default(),
            arrivals: None,
            recorder: None,
            events_updates: false,
            keepalives_told: 0,
            last_update: None,
            feed_done: None,
            exit: false,
            refused: false,
            farewell: None,
            leaving: false,
            peer_asn: 0,
            feed,
            rewrite: None,
            context: None,
            held: None,
            not_before: None,
            first_item: None,
            came_up: None,
            clock,
            buffer: link::buffer(),
            news: Vec::new(),
        })
    }

    /// Carries out what the poller says of `token`, if it is ours.
    ///
    /// # Errors
    /// The poller fails.
    pub fn event(&mut self, token: Token, registry: &Registry, events: &mut Events) -> Result<()> {
        if self.link.owns(token) {
            self.link.event(token, &mut self.session, registry, &mut self.buffer, &mut self.news)?;
            self.digest(events);
        }
        Ok(())
    }

    /// Runs timers, feeds and writes. Returns when to call again at the latest; `None` if only an
    /// event can change something.
    ///
    /// # Errors
    /// The source cannot be read on, or the poller fails.
    pub fn step(&mut self, registry: &Registry, events: &mut Events) -> Result<Option<Instant>> {
        let now = Instant::now();
        self.session.tick(now, &mut self.news);
        let link = self.link.tick(now, registry)?;
        self.digest(events);
        let feed = self.pump(now, events)?;
        self.link.flush(&mut self.session, registry, &mut self.news)?;
        self.digest(events);
        Ok([self.session.deadline(), link, feed].into_iter().flatten().min())
    }

    /// Ends the session with Cease, Administrative Shutdown (RFC 4486).
    pub fn leave(&mut self, events: &mut Events) {
        self.leaving = true;
        self.session.fail(Notification::new(6, 2), "leaving", &mut self.news);
        self.digest(events);
    }

    /// Whether the neighbour at the other end is established with us.
    pub fn established(&self) -> bool {
        self.session.established()
    }

    /// Gives the feed a new source.
    pub fn play(&mut self, source: Box<dyn Source>) {
        self.feed.source = Some(source);
        self.feed_done = None;
    }

    /// How many prefixes are still to be announced, where that is known.
    pub fn to_come(&self) -> Option<u64> {
        self.feed.source.as_ref().and_then(|s| s.total())
    }

    /// The summary with every counter filled in.
    pub fn summary(&mut self) -> &Summary {
        let s = &mut self.summary;
        s.prefixes_sent = self.out.prefixes_sent;
        s.withdrawals_sent = self.out.withdrawals_sent;
        s.prefixes_unsendable = self.out.unsendable;
        s.received = self.learnt.counts.clone();
        for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
            s.prefixes_now.insert(family.to_string(), self.learnt.len_of(family));
        }
        s.prefixes_now.insert("total".into(), self.learnt.len());
        s.keepalives_received = self.session.keepalives;
        (s.octets_received, s.octets_sent) = self.link.octets;
        s.last_update_us = self.last_update.map(|at| self.clock.unix_us(at));
        s.seconds = self.clock.since_start(Instant::now()).as_secs_f64();
        s
    }

    fn digest(&mut self, events: &mut Events) {
        if std::mem::replace(&mut self.keepalives_told, self.session.keepalives) != self.session.keepalives
            && self.events_updates
        {
            events.write(Instant::now(), "keepalive", json!({}));
        }
        if self.news.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.news);
        for news in all.drain(..) {
            let now = Instant::now();
            let stamp = self.clock.unix_us(now);
            match news {
                News::Up(negotiated) => self.up(*negotiated, now, events),
                News::Update(message, at) => self.update(&message, at, events),
                News::Refresh(refresh) => self.refresh(&refresh, now, events),
                News::NotificationReceived(n) => {
                    self.refused |= n.code == OPEN_ERROR;
                    let said = report::notification(stamp, &n);
                    self.farewell = Some(Farewell::Received(n));
                    events.write(now, "notification-received", said.clone());
                    self.summary.notifications_received.push(said);
                }
                News::NotificationSent(n) => {
                    self.refused |= n.code == OPEN_ERROR;
                    let said = report::notification(stamp, &n);
                    self.farewell = Some(Farewell::Sent(n));
                    events.write(now, "notification-sent", said.clone());
                    self.summary.notifications_sent.push(said);
                }
                News::Closed(why) => self.closed(why, now, events),
            }
        }
        // The buffer is used again, unless something new came in the meantime.
        if self.news.is_empty() {
            self.news = all;
        }
    }

    fn up(&mut self, negotiated: Negotiated, now: Instant, events: &mut Events) {
        self.summary.sessions_up += 1;
        self.farewell = None;
        self.summary.eor.clear();
        self.summary.first_update_us = None;
        let open = report::open(&negotiated.peer);
        self.summary.open_received = Some(open.clone());
        events.write(
            now,
            "session-up",
            json!({"local": self.link.local, "remote": self.link.remote, "open": open,
                   "negotiated": report::negotiated(&negotiated)}),
        );
        self.came_up = Some(now);
        self.context = Some(negotiated.context);
        self.peer_asn = negotiated.peer.asn;
        self.learnt.clear();
        let local = self.link.local.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip().to_canonical());
        self.rewrite = Some(Rewrite {
            asn: self.session.config().open.asn,
            local,
            next_hop4: self.feed.next_hop4,
            next_hop6: self.feed.next_hop6,
            keep_next_hop: self.feed.keep_next_hop,
            path: self.feed.path,
            as4: negotiated.context.as4,
            kind: negotiated.context.kind,
        });
        for family in &negotiated.families {
            // What was announced on an earlier session must be said again on this one.
            self.out.refresh(*family, false, &negotiated.context, &mut self.session.tx);
            if self.feed_done.is_some() && self.feed.end_of_rib {
                encode::end_of_rib(*family, &mut self.session.tx);
            }
        }
    }

    fn update(&mut self, message: &Bytes, at: Instant, events: &mut Events) {
        let Some(context) = self.context else { return };
        let stamp = self.clock.unix_us(at);
        self.record(stamp, &context, message);
        self.summary.first_update_us.get_or_insert(stamp);
        self.last_update = Some(at);
        let own = (self.session.config().open.asn, self.session.config().open.router_id);
        let now_ms = u32::try_from(self.clock.since_start(at).as_millis()).unwrap_or(u32::MAX);
        match self.learnt.update(message, &context, own, now_ms) {
            Ok(told) => self.told(&told, message, at, events),
            Err(notification) => {
                events.write(at, "malformed", json!({"reset": true, "message": hex(message)}));
                self.session.fail(notification, "malformed UPDATE", &mut self.news);
                self.digest(events);
            }
        }
    }

    /// Writes a message received to the MRT file.
    fn record(&mut self, at_us: u64, context: &UpdateContext, message: &Bytes) {
        let (Some(recorder), Some(local), Some(remote)) = (&mut self.recorder, self.link.local, self.link.remote)
        else {
            return;
        };
        if !context.as4 {
            // The records are of the kind with 4-octet AS numbers, and would be read wrongly.
            log::error!("nothing is recorded: the session has 2-octet AS numbers");
            self.recorder = None;
            return;
        }
        let ends = mrt::Ends {
            peer: remote.ip().to_canonical(),
            peer_as: self.peer_asn,
            local: local.ip().to_canonical(),
            local_as: self.session.config().open.asn,
        };
        if let Err(e) = recorder.message(at_us, &ends, message) {
            log::error!("recording ends: {e}");
            self.recorder = None;
        }
    }

    fn told(&mut self, told: &Told, message: &Bytes, at: Instant, events: &mut Events) {
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.extend(told.announced.iter().flat_map(|(prefixes, _)| prefixes).map(|p| (*p, at)));
        }
        if !told.findings.is_empty() {
            let message = hex(message);
            events.write(at, "malformed", json!({"findings": told.findings, "reset": false, "message": message}));
        }
        if let Some(family) = told.end_of_rib {
            let seconds = self.came_up.map_or(0.0, |up| at.saturating_duration_since(up).as_secs_f64());
            self.summary.eor.entry(family.to_string()).or_insert(seconds);
            events.write(at, "end-of-rib", json!({"family": family.to_string()}));
        } else if self.events_updates {
            let announced: Vec<_> = told
                .announced
                .iter()
                .map(|(prefixes, id)| json!({"prefixes": prefixes, "route": self.learnt.describe(*id)}))
                .collect();
            events.write(at, "update", json!({"announced": announced, "withdrawn": told.withdrawn}));
        }
    }

    fn refresh(&mut self, refresh: &wire::bgp::message::RouteRefresh, now: Instant, events: &mut Events) {
        let kind = format!("{:?}", refresh.kind).to_lowercase();
        events.write(now, "route-refresh", json!({"family": refresh.family.to_string(), "kind": kind}));
        if refresh.kind != RefreshKind::Request {
            let gone = self.learnt.refresh(refresh);
            if self.events_updates && !gone.is_empty() {
                events.write(now, "stale", json!({"withdrawn": gone}));
            }
            return;
        }
        self.summary.refreshes_received += 1;
        if let Some(n) = self.session.negotiated() {
            let (enhanced, context) = (n.enhanced_refresh, n.context);
            self.out.refresh(refresh.family, enhanced, &context, &mut self.session.tx);
        }
    }

    fn closed(&mut self, why: String, now: Instant, events: &mut Events) {
        let was_up = self.came_up.take().is_some();
        self.context = None;
        let reset = was_up && !self.leaving;
        self.summary.sessions_reset += u64::from(reset);
        events.write(now, "session-down", json!({"why": why, "established": was_up, "reset": reset}));
        log::info!("session over: {why}");
        self.summary.session_ends.push(why);
        self.leaving = false;
        self.link.again(now);
    }

    /// Sends items until the buffer is full, the source is done or it says to wait. Returns when it
    /// goes on by itself.
    fn pump(&mut self, now: Instant, events: &mut Events) -> Result<Option<Instant>> {
        if self.not_before.is_some_and(|at| at > now) {
            return Ok(self.not_before);
        }
        self.not_before = None;
        for _ in 0..BURST {
            let Some(negotiated) = self.session.negotiated() else { return Ok(None) };
            if self.session.tx.len() >= HIGH_MARK || self.exit {
                return Ok(None);
            }
            let negotiated = negotiated.clone();
            let item = match self.held.take() {
                Some(item) => item,
                None => match self.next_item()? {
                    Some(item) => item,
                    None => {
                        self.fed(&negotiated, now, events);
                        return Ok(None);
                    }
                },
            };
            if let Some(until) = self.send(item, &negotiated, now, events) {
                return Ok(until);
            }
        }
        Ok(Some(now))
    }

    fn next_item(&mut self) -> Result<Option<Item>> {
        if self.out.prefixes_sent + self.out.withdrawals_sent >= self.feed.limit {
            self.feed.source = None;
        }
        self.feed.source.as_mut().map_or(Ok(None), |s| s.next())
    }

    fn fed(&mut self, negotiated: &Negotiated, now: Instant, events: &mut Events) {
        if self.feed_done.is_some() {
            return;
        }
        if self.feed.end_of_rib {
            for family in &negotiated.families {
                encode::end_of_rib(*family, &mut self.session.tx);
                self.summary.updates_sent += 1;
            }
        }
        self.feed.source = None;
        self.feed_done = Some(now);
        self.summary.feed_done_us = Some(self.clock.unix_us(now));
        events.write(now, "feed-done", json!({"prefixes_sent": self.out.prefixes_sent, "prefixes": self.out.len()}));
    }

    /// Sends one item. `Some` where nothing is to be sent after it for now: until when, or until an
    /// event.
    fn send(&mut self, item: Item, n: &Negotiated, now: Instant, events: &mut Events) -> Option<Option<Instant>> {
        let before = self.session.tx.len();
        match item {
            Item::Announce { route, prefixes } => {
                let Some(rewrite) = self.rewrite.as_ref().filter(|_| negotiated(n, &prefixes)) else {
                    self.out.unsendable += prefixes.len() as u64;
                    return None;
                };
                self.out.announce(*route, &prefixes, rewrite, &n.context, &mut self.session.tx);
            }
            Item::Withdraw(prefixes) if negotiated(n, &prefixes) => {
                self.out.withdraw(&prefixes, &n.context, &mut self.session.tx);
            }
            Item::Withdraw(prefixes) => self.out.unsendable += prefixes.len() as u64,
            Item::Raw(bytes) => self.session.tx.extend_from_slice(&bytes),
            Item::EndOfRib(family) => {
                for family in n.families.iter().filter(|f| family.is_none_or(|only| only == **f)) {
                    encode::end_of_rib(*family, &mut self.session.tx);
                }
            }
            Item::Refresh(family) => {
                let request = wire::bgp::message::RouteRefresh { family, kind: RefreshKind::Request };
                self.session.tx.extend_from_slice(&request.encode());
            }
            Item::At(offset) => {
                let Speed::Times(times) = self.feed.speed else { return None };
                let due = *self.first_item.get_or_insert(now) + offset.div_f64(times);
                if due > now {
                    self.not_before = Some(due);
                    return Some(self.not_before);
                }
            }
            Item::Wait(time) => {
                self.not_before = Some(now + time);
                return Some(self.not_before);
            }
            Item::WaitRoutes(count) => {
                if (self.learnt.len() as u64) < count {
                    self.held = Some(item);
                    return Some(None);
                }
            }
            Item::Notify(code, subcode) => {
                self.leaving = true;
                self.session.fail(Notification::new(code, subcode), "as the script says", &mut self.news);
                self.digest(events);
            }
            Item::Drop => {
                self.leaving = true;
                self.session.tx.clear();
                self.session.close("dropped, as the script says".into(), &mut self.news);
                self.digest(events);
            }
            Item::Exit => self.exit = true,
            Item::Pending => return Some(None),
        }
        let updates = count_updates(self.session.tx.get(before..).unwrap_or_default());
        if updates > 0 {
            self.summary.updates_sent += updates;
            self.summary.feed_started_us.get_or_insert(self.clock.unix_us(now));
        }
        None
    }

    /// Writes what is waiting, for the last words.
    ///
    /// # Errors
    /// The poller fails.
    pub fn flush(&mut self, registry: &Registry) -> Result<()> {
        self.link.flush(&mut self.session, registry, &mut self.news)
    }

    /// How long ago everything was sent; `None` before.
    pub fn idle_since_fed(&self, now: Instant) -> Option<Duration> {
        let done = self.feed_done.filter(|_| self.session.tx.is_empty())?;
        Some(now.saturating_duration_since(done))
    }

    /// How long the neighbour has been silent and had everything of ours; zero before.
    pub fn idle(&self, now: Instant) -> Duration {
        let Some(done) = self.feed_done.filter(|_| self.session.tx.is_empty()) else { return Duration::ZERO };
        now.saturating_duration_since(self.last_update.map_or(done, |at| at.max(done)))
    }
}

fn negotiated(n: &Negotiated, prefixes: &[Prefix]) -> bool {
    prefixes.first().is_some_and(|p| n.families.contains(&p.family()))
}

/// How many UPDATEs stand in what was just written; stops at the first thing that is no message.
fn count_updates(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(&[hi, lo, kind]) = bytes.get(16..frame::HEADER_LEN) {
        count += u64::from(kind == 2);
        let len = usize::from(u16::from_be_bytes([hi, lo])).max(frame::HEADER_LEN);
        bytes = bytes.get(len..).unwrap_or_default();
    }
    count
}
