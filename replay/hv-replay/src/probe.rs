//! Measures the router between two neighbours: the time of one UPDATE, or of a whole table, from
//! one to the other, or from one into the kernel's forwarding table.
//!
//! Both ends live in this one thread, so that one clock stamps what leaves and what arrives, and
//! nothing is to be synchronised. A stamp is taken right before the write and right after the read.

use crate::feed::{Item, Source};
use crate::fib::Fib;
use crate::generate::{Generator, Plan};
use crate::neighbour::{Feed, Neighbour};
use crate::options::{FeedOptions, SessionOptions, Speed, duration, speed};
use crate::passage;
use crate::report::{Clock, Events};
use crate::route::Route;
use crate::run::{Driver, FIRST_TOKEN, both_up, write_json};
use crate::trace;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, FromArgMatches};
use hashbrown::HashSet;
use hdrhistogram::Histogram;
use mio::Token;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use wire::bgp::Prefix;

/// How often the kernel's routes are looked at while a table is on its way into it.
const LOOK: Duration = Duration::from_millis(2);

/// From so many times a trace's speed on, UPDATEs wait in queues, and the kernel's routes are
/// looked at now and then.
const FAST: f64 = 100.0;
/// UPDATEs of a trace that are written together where they are due together.
const AT_ONCE: usize = 32;

/// `hv-replay probe`.
#[derive(Debug, Args)]
pub struct ProbeOptions {
    /// The session that announces: the session options in quotes, such as "--connect 10.0.0.1
    /// --bind 10.0.0.2 --asn 64501"
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub feed: String,
    /// The session that listens, likewise
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, required_unless_present = "fib")]
    pub monitor: Option<String>,
    /// Instead of --monitor: the router's network namespace (/run/netns/NAME), whose kernel is
    /// listened to. Routes have arrived once they are in its main table
    #[arg(long, value_name = "PATH", conflicts_with = "monitor")]
    pub fib: Option<PathBuf>,
    /// Number of UPDATEs to measure, or with --table-run the number of prefixes
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub count: u64,
    /// UPDATEs a second, at most; the next never leaves before the last has arrived
    #[arg(long, value_name = "R", default_value_t = 100.0)]
    pub rate: f64,
    /// Not counted: the first N
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub warmup: u64,
    /// Given up after this long and counted as lost; with --table-run, stop when nothing arrived
    /// for this long
    #[arg(long, value_name = "S", value_parser = duration, default_value = "10s")]
    pub timeout: Duration,
    /// Send --count prefixes as fast as the router takes them, and measure from the first in to the
    /// last out
    #[arg(long)]
    pub table_run: bool,
    /// With --fib: play this MRT file of updates, and measure each change that it makes to the
    /// forwarding table (IPv4)
    #[arg(long, value_name = "FILE", requires = "fib", conflicts_with_all = ["table_run", "count", "rate", "warmup", "seed", "ipv6_share"])]
    pub mrt: Option<PathBuf>,
    /// Only what this vantage point said; without it those of all are played as one
    #[arg(long, value_name = "ADDR|ASN", requires = "mrt")]
    pub peer_filter: Option<String>,
    /// 1: as recorded; N: N times as fast; max: as fast as the router takes it
    #[arg(long, value_name = "N|max", default_value = "1", value_parser = speed, requires = "mrt")]
    pub speed: Speed,
    /// Only the first S seconds of the file
    #[arg(long, value_name = "S", value_parser = duration, requires = "mrt")]
    pub span: Option<Duration>,
    /// Each AS_PATH of the file gets one of these next hops, so that another path may be another
    /// route in the kernel [default: our address on the session]
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', requires = "mrt")]
    pub next_hops: Vec<Ipv4Addr>,
    /// The result lists the time of each UPDATE that changed something, too: its number among those
    /// played, from 0, and nanoseconds
    #[arg(long, requires = "mrt")]
    pub each: bool,
    /// Seed of the prefixes and routes
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Share of IPv6, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub ipv6_share: f64,
    /// Never sleep while waiting: takes a whole processor, saves the time to wake up
    #[arg(long)]
    pub busy_poll: bool,
    /// Write the result here
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    pub json: PathBuf,
}

/// Session options out of one quoted string.
fn session(text: &str, name: &'static str) -> Result<SessionOptions> {
    let command = SessionOptions::augment_args(clap::Command::new(name).no_binary_name(true));
    let matches = command.try_get_matches_from(text.split_whitespace())?;
    SessionOptions::from_arg_matches(&matches).with_context(|| format!("--{name}"))
}

/// Announcements handed over one at a time.
#[derive(Clone, Default)]
struct Queue(Rc<RefCell<VecDeque<Item>>>);

impl Source for Queue {
    fn next(&mut self) -> Result<Option<Item>> {
        Ok(Some(self.0.borrow_mut().pop_front().unwrap_or(Item::Pending)))
    }
}

/// Feed options with everything as it is by default.
fn plain() -> FeedOptions {
    let command = FeedOptions::augment_args(clap::Command::new("feed").no_binary_name(true));
    let matches = command.get_matches_from(std::iter::empty::<&str>());
    FeedOptions::from_arg_matches(&matches).expect("every option has a default or may be missing")
}

/// Runs the probe; writes the result. Returns whether everything arrived.
///
/// # Errors
/// A session that does not come up or does not stay.
pub fn probe(options: &ProbeOptions) -> Result<bool> {
    let clock = Clock::start();
    let mut driver = Driver::new()?;
    driver.busy = options.busy_poll;
    let events = Events::new(None, clock)?;
    let queue = Queue::default();
    let mut plain = plain();
    plain.keep_next_hop = options.mrt.is_some();
    let open = |text: &str, name: &'static str, source: Option<Box<dyn Source>>, at: usize| -> Result<Neighbour> {
        let feed = Feed::new(source, &plain, false);
        let token = Token(FIRST_TOKEN + 2 * at);
        Neighbour::new(&session(text, name)?, feed, token, driver.registry(), clock)
            .with_context(|| format!("--{name}"))
    };
    // The one that listens comes first: in a test both may be the two ends of one session.
    let end = match (&options.monitor, &options.fib) {
        (Some(text), _) => {
            let mut monitor = open(text, "monitor", None, 0)?;
            monitor.arrivals = Some(Vec::new());
            End::Peer(Box::new(monitor))
        }
        (None, Some(path)) => End::Kernel(Fib::open(path, Token(FIRST_TOKEN), driver.registry())?),
        (None, None) => bail!("--monitor or --fib is needed"),
    };
    let feed = open(&options.feed, "feed", Some(Box::new(queue.clone())), 1)?;
    let mut pair = Pair { driver, events, feed, end, queue };
    let patience = options.timeout.max(Duration::from_secs(30));
    both_up(&mut pair.driver, &mut neighbours(&mut pair.feed, &mut pair.end), &mut pair.events, patience)?;
    let plan = Plan { prefixes: options.count + options.warmup, ipv6_share: options.ipv6_share, seed: options.seed };
    let mut result = match &options.mrt {
        Some(path) => pair.trace(path, options)?,
        None if options.table_run => pair.table(&plan, options)?,
        None => pair.latency(&plan, options)?,
    };
    let all = neighbours(&mut pair.feed, &mut pair.end);
    let resets: u64 = all.iter().map(|n| n.summary.sessions_reset).sum();
    let malformed: u64 = all.iter().skip(1).map(|n| n.learnt.counts.malformed_received).sum();
    if let Some(members) = result.as_object_mut() {
        members.insert("sessions_reset".into(), json!(resets));
        members.insert("malformed_received".into(), json!(malformed));
    }
    let Pair { mut driver, mut events, mut feed, mut end, .. } = pair;
    driver.leave(&mut neighbours(&mut feed, &mut end), &mut events)?;
    write_json(&options.json, &result)?;
    Ok(resets == 0 && result["lost"] == json!(0))
}

/// Where routes are to arrive.
enum End {
    Peer(Box<Neighbour>),
    Kernel(Fib),
}

/// The session that announces and, where there is one, that which listens.
fn neighbours<'a>(feed: &'a mut Neighbour, end: &'a mut End) -> Vec<&'a mut Neighbour> {
    match end {
        End::Peer(monitor) => vec![feed, monitor],
        End::Kernel(_) => vec![feed],
    }
}

struct Pair {
    driver: Driver,
    events: Events,
    feed: Neighbour,
    end: End,
    queue: Queue,
}

impl Pair {
    fn turn(&mut self, until: Instant) -> Result<()> {
        let mut all = neighbours(&mut self.feed, &mut self.end);
        self.driver.turn(&mut all, &mut self.events, Some(until))?;
        if self.driver.stopped() {
            bail!("interrupted");
        }
        if !all.iter().all(|n| n.established()) {
            let why = all.iter().find_map(|n| n.summary.session_ends.last());
            bail!("a session ended in the middle: {}", why.map_or("no reason", String::as_str));
        }
        Ok(())
    }

    fn arrivals(&mut self) -> Result<Vec<(Prefix, Instant)>> {
        match &mut self.end {
            End::Peer(monitor) => Ok(monitor.arrivals.replace(Vec::new()).unwrap_or_default()),
            End::Kernel(fib) => Ok(fib.changes()?.into_iter().filter(|c| !c.gone).map(|c| (c.prefix, c.at)).collect()),
        }
    }

    /// Sends one prefix and returns how long it took, `None` if it did not come in time.
    fn one(&mut self, prefix: Prefix, route: Route, timeout: Duration) -> Result<Option<Duration>> {
        self.queue.0.borrow_mut().push_back(Item::Announce { route: Box::new(route), prefixes: vec![prefix] });
        let sent = Instant::now();
        loop {
            self.turn(sent + timeout)?;
            if let Some((_, at)) = self.arrivals()?.iter().find(|(p, _)| *p == prefix) {
                return Ok(Some(at.saturating_duration_since(sent)));
            }
            if sent.elapsed() >= timeout {
                return Ok(None);
            }
        }
    }

    fn latency(&mut self, plan: &Plan, options: &ProbeOptions) -> Result<Value> {
        // Three significant digits, a nanosecond to a minute.
        let mut histogram: Histogram<u64> = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
        let mut generator = Generator::new(plan);
        let gap = Duration::from_secs_f64(1.0 / options.rate.max(0.001));
        let mut lost = 0;
        for n in 0..plan.prefixes {
            let started = Instant::now();
            let at = usize::from(generator.is_v6(n, plan));
            let Some(prefix) = generator.prefix(at) else { break };
            let route = generator.route();
            match self.one(prefix, route, options.timeout)? {
                _ if n < options.warmup => {}
                Some(time) => histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
                None => lost += 1,
            }
            let next = started + gap;
            while Instant::now() < next {
                self.turn(next)?;
                let left = next.saturating_duration_since(Instant::now());
                if left < Duration::from_millis(1) && !options.busy_poll {
                    // The poller counts in milliseconds; spinning instead would take the router's
                    // processor away.
                    std::thread::sleep(left);
                }
            }
        }
        Ok(json!({
            "mode": "latency", "count": histogram.len(), "lost": lost, "rate": options.rate,
            "min_ns": histogram.min(), "p50_ns": histogram.value_at_quantile(0.5), "p90_ns": histogram.value_at_quantile(0.9),
            "p99_ns": histogram.value_at_quantile(0.99), "p999_ns": histogram.value_at_quantile(0.999),
            "max_ns": histogram.max(), "mean_ns": histogram.mean(),
        }))
    }

    /// Plays a trace and times what it changes in the kernel.
    fn trace(&mut self, path: &Path, options: &ProbeOptions) -> Result<Value> {
        let own =
            session(&options.feed, "feed")?.bind.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let next_hops =
            if options.next_hops.is_empty() { own.into_iter().collect() } else { options.next_hops.clone() };
        ensure!(!next_hops.is_empty(), "--mrt needs --next-hops, or --bind with an IPv4 address in --feed");
        let source = trace::open(path, options.peer_filter.as_deref())?;
        let plan = passage::Plan::read(source, options.span.unwrap_or(Duration::MAX), &next_hops)
            .with_context(|| format!("reading {}", path.display()))?;
        let times = if let Speed::Times(times) = options.speed { times } else { f64::INFINITY };
        if let (End::Kernel(fib), true) = (&self.end, times >= FAST) {
            fib.quiet(self.driver.registry())?;
        }
        let mut plan = plan.at_speed(times).peekable();
        let mut passage = passage::Passage::new()?;
        let start = Instant::now();
        let mut last = start;
        while plan.peek().is_some() || (!passage.is_done() && last.elapsed() < options.timeout) {
            // The poller counts in milliseconds: what is due within one leaves now.
            let (now, mut room) = (Instant::now(), AT_ONCE);
            while room > 0
                && self.feed.session.tx.is_empty()
                && let Some((due, item)) = plan.next_if(|(due, _)| start + *due <= now + Duration::from_millis(1))
            {
                last = Instant::now();
                // Where there is a queue, what has to wait before it can leave waits for the
                // router.
                passage.sent(&item, if times >= FAST { last.min(start + due) } else { last });
                self.queue.0.borrow_mut().push_back(item);
                room -= 1;
            }
            let next = plan.peek().map_or(last + options.timeout, |(due, _)| start + *due);
            let look = Instant::now() + if room == 0 { Duration::ZERO } else { LOOK };
            self.turn(if times >= FAST { look } else { next })?;
            if let End::Kernel(fib) = &mut self.end {
                for change in fib.changes()? {
                    passage.seen(&change);
                    last = last.max(change.at);
                }
            }
        }
        let mut result = passage.result(last.saturating_duration_since(start).as_secs_f64());
        if options.each {
            result["each_ns"] = json!(passage.each());
        }
        Ok(result)
    }

    fn table(&mut self, plan: &Plan, options: &ProbeOptions) -> Result<Value> {
        let plan = Plan { prefixes: options.count, ..*plan };
        self.feed.play(Box::new(Generator::new(&plan)));
        let started = Instant::now();
        let mut seen: HashSet<Prefix> = HashSet::new();
        let (mut first, mut last) = (None, started);
        if let End::Kernel(fib) = &self.end {
            // Woken by each route this would take from the router the processor that it needs;
            // looking now and then is exact enough.
            fib.quiet(self.driver.registry())?;
        }
        loop {
            let until = match self.end {
                End::Peer(_) => last.max(Instant::now()) + options.timeout,
                End::Kernel(_) => Instant::now() + LOOK,
            };
            self.turn(until)?;
            for (prefix, at) in self.arrivals()? {
                first.get_or_insert(at);
                if seen.insert(prefix) {
                    last = at;
                }
            }
            // What is still being sent is not late.
            let feeding = self.feed.feed_done.is_none() || !self.feed.session.tx.is_empty();
            if seen.len() as u64 >= plan.prefixes || (!feeding && last.elapsed() >= options.timeout) {
                break;
            }
        }
        let seconds = |at: Instant| at.saturating_duration_since(started).as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let rate = seen.len() as f64 / seconds(last).max(1e-9);
        let updates = match &self.end {
            End::Peer(monitor) => Some(monitor.learnt.counts.updates_received),
            End::Kernel(_) => None,
        };
        Ok(json!({
            "mode": "table", "prefixes": plan.prefixes, "arrived": seen.len(), "lost": plan.prefixes - seen.len() as u64,
            "seconds": seconds(last), "first_out_s": first.map(seconds), "feed_s": self.feed.feed_done.map(seconds),
            "prefixes_per_second": rate, "updates_received": updates,
        }))
    }
}
