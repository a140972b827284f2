//! `hv-replay` itself: one neighbour, until it is told to stop.

use crate::feed::Source;
use crate::generate::{Generator, Plan};
use crate::neighbour::{Feed, Neighbour};
use crate::options::{FeedOptions, RunOptions, SessionOptions};
use crate::report::{Clock, Events, create};
use crate::script::Script;
use crate::trace;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mio::{Poll, Token, Waker};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wire::bgp::Family;
use wire::mrt;

/// How long a signal may go unnoticed.
const LOOK_UP: Duration = Duration::from_millis(200);
/// How long the last words may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// Between two lines of progress where there is no terminal.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

const WAKER: Token = Token(0);
/// The first token of the neighbours; each uses two.
pub const FIRST_TOKEN: usize = 2;

/// The poller and what ends a run from outside.
pub struct Driver {
    poll: Poll,
    ready: mio::Events,
    stop: Arc<AtomicBool>,
    /// Never sleep: costs a processor and saves the time to wake up.
    pub busy: bool,
}

impl Driver {
    /// A poller that SIGINT and SIGTERM end.
    ///
    /// # Errors
    /// The kernel refuses a poller or a signal handler.
    pub fn new() -> Result<Driver> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the program at once, should it hang.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Driver { poll: Poll::new()?, ready: mio::Events::with_capacity(64), stop, busy: false })
    }

    /// Where sockets are registered.
    pub fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Whether a signal came.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One turn: lets every neighbour do what is due, waits for something to happen, hands it out.
    ///
    /// # Errors
    /// The poller or a source fails.
    pub fn turn(
        &mut self,
        neighbours: &mut [&mut Neighbour],
        events: &mut Events,
        until: Option<Instant>,
    ) -> Result<()> {
        let mut due = until;
        for neighbour in neighbours.iter_mut() {
            due = [due, neighbour.step(self.poll.registry(), events)?].into_iter().flatten().min();
        }
        let wait = due.map_or(LOOK_UP, |at| at.saturating_duration_since(Instant::now()).min(LOOK_UP));
        self.wait(wait)?;
        for event in &self.ready {
            for neighbour in neighbours.iter_mut() {
                neighbour.event(event.token(), self.poll.registry(), events)?;
            }
        }
        Ok(())
    }

    /// Waits until sockets are ready, but no longer than this; returns which are.
    ///
    /// # Errors
    /// The poller fails.
    pub fn wait(&mut self, most: Duration) -> Result<&mio::Events> {
        // The kernel counts in milliseconds and would sleep past a nearer deadline.
        let wait = if self.busy || most < Duration::from_millis(1) { Duration::ZERO } else { most };
        match self.poll.poll(&mut self.ready, Some(wait)) {
            Err(e) if e.kind() == ErrorKind::Interrupted => self.ready.clear(),
            other => other?,
        }
        Ok(&self.ready)
    }

    /// Says goodbye to everyone and waits for the kernel to take it.
    ///
    /// # Errors
    /// As [`Driver::turn`].
    pub fn leave(&mut self, neighbours: &mut [&mut Neighbour], events: &mut Events) -> Result<()> {
        for neighbour in neighbours.iter_mut() {
            neighbour.leave(events);
        }
        let until = Instant::now() + GOODBYE;
        while Instant::now() < until && neighbours.iter().any(|n| n.link.busy() && !n.session.tx.is_empty()) {
            for neighbour in neighbours.iter_mut() {
                neighbour.flush(self.poll.registry())?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for neighbour in neighbours.iter_mut() {
            neighbour.flush(self.poll.registry())?;
        }
        Ok(())
    }
}

/// The source that the options name.
fn source(options: &FeedOptions, driver: &Driver) -> Result<(Option<Box<dyn Source>>, bool)> {
    if let Some(prefixes) = options.generate {
        let plan = Plan { prefixes, ipv6_share: options.ipv6_share, seed: options.seed };
        return Ok((Some(Box::new(Generator::new(&plan))), false));
    }
    if let Some(path) = &options.mrt {
        return Ok((Some(trace::open(path, options.peer_filter.as_deref())?), false));
    }
    if let Some(raw) = &options.raw {
        return Ok((Some(Box::new(trace::raw(raw)?)), true));
    }
    let Some(path) = &options.script else { return Ok((None, false)) };
    if path.as_os_str() != "-" {
        return Ok((Some(Box::new(Script::open(path)?)), true));
    }
    let waker = Waker::new(driver.registry(), WAKER)?;
    let script = Script::typed(move || {
        let _ = waker.wake();
    });
    Ok((Some(Box::new(script)), true))
}

/// Plays one neighbour. Returns whether the run ended as it was meant to.
///
/// # Errors
/// Options that make no sense, an address that cannot be used, a file that cannot be read or
/// written.
pub fn run(session: &SessionOptions, feed: &FeedOptions, options: &RunOptions) -> Result<bool> {
    let clock = Clock::start();
    let mut driver = Driver::new()?;
    let mut events = Events::new(options.events.as_deref(), clock)?;
    let (source, scripted) = source(feed, &driver)?;
    let feed = Feed::new(source, feed, scripted);
    let mut neighbour = Neighbour::new(session, feed, Token(FIRST_TOKEN), driver.registry(), clock)?;
    neighbour.events_updates = options.events_updates;
    if let Some(path) = &options.record {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        neighbour.recorder = Some(mrt::Writer::new(BufWriter::new(file)));
    }
    if let Some(local) = neighbour.link.local {
        events.write(Instant::now(), "listening", json!({"local": local}));
        log::info!("listening on {local}");
    }
    let mut progress = Progress::new(options.quiet, neighbour.to_come());
    let end = loop {
        let now = Instant::now();
        if let Some(end) = finished(&neighbour, options, &clock, now).or_else(|| driver.stopped().then_some(true)) {
            break end;
        }
        let until = options.duration.and_then(|d| now.checked_add(d.saturating_sub(clock.since_start(now))));
        driver.turn(&mut [&mut neighbour], &mut events, until)?;
        progress.show(&neighbour);
    };
    progress.clear();
    driver.leave(&mut [&mut neighbour], &mut events)?;
    if let (Some(recorder), Some(path)) = (&mut neighbour.recorder, &options.record) {
        recorder.flush().with_context(|| format!("cannot write {}", path.display()))?;
    }
    write_outputs(&mut neighbour, options)?;
    Ok(end)
}

/// Whether it is time to stop, and if so, whether well.
fn finished(n: &Neighbour, options: &RunOptions, clock: &Clock, now: Instant) -> Option<bool> {
    let held = options.hold_after.is_some_and(|d| n.idle_since_fed(now).is_some_and(|t| t >= d));
    let idle = options.exit_after_idle.is_some_and(|d| n.idle(now) >= d && n.feed_done.is_some());
    let known = options.until_routes.is_some_and(|count| n.learnt.len() as u64 >= count);
    if n.exit || held || idle || known {
        return Some(true);
    }
    if options.duration.is_some_and(|d| clock.since_start(now) >= d) {
        // With something else to wait for, time alone is not success.
        return Some(options.until_routes.is_none() && n.summary.sessions_up > 0);
    }
    // A router that is not ready yet may close a connection or two before the first session comes
    // up.
    let over = (n.summary.sessions_up > 0 || n.refused)
        && !n.summary.session_ends.is_empty()
        && !n.session.connected()
        && !n.link.busy();
    (over && !options.reconnect).then_some(n.summary.sessions_reset == 0 && n.summary.sessions_up > 0)
}

fn write_outputs(neighbour: &mut Neighbour, options: &RunOptions) -> Result<()> {
    if let Some(path) = &options.table {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        neighbour.learnt.write_table(file).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.json {
        write_json(path, neighbour.summary())?;
    }
    if !options.quiet {
        eprintln!("{}", in_words(neighbour));
    }
    Ok(())
}

/// Writes one JSON object and a newline.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut out = create(path)?;
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.flush().with_context(|| format!("cannot write {}", path.display()))
}

fn in_words(neighbour: &mut Neighbour) -> String {
    let (v4, v6) = (neighbour.learnt.len_of(Family::IPV4_UNICAST), neighbour.learnt.len_of(Family::IPV6_UNICAST));
    let s = neighbour.summary();
    let mut text = format!(
        "{} session(s), {} reset(s); sent {} UPDATEs: {} announced, {} withdrawn; received {} UPDATEs: {} announced, {} withdrawn; \
         know {v4} IPv4 and {v6} IPv6 prefixes; {:.1} s",
        s.sessions_up,
        s.sessions_reset,
        s.updates_sent,
        s.prefixes_sent,
        s.withdrawals_sent,
        s.received.updates_received,
        s.received.prefixes_announced,
        s.received.prefixes_withdrawn,
        s.seconds,
    );
    for (what, count) in
        [("malformed UPDATEs", s.received.malformed_received), ("prefixes not sent", s.prefixes_unsendable)]
    {
        if count > 0 {
            text += &format!("; {count} {what}");
        }
    }
    text
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    next: Instant,
}

impl Progress {
    fn new(quiet: bool, total: Option<u64>) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let bar = (!quiet && terminal).then(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template =
                if total.is_some() { "{wide_bar} {pos}/{len} sent, {msg}" } else { "{spinner} {pos} sent, {msg}" };
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Progress { bar, lines: !quiet && !terminal, next: Instant::now() + PROGRESS_EVERY }
    }

    fn show(&mut self, n: &Neighbour) {
        let sent = n.out.prefixes_sent + n.out.withdrawals_sent;
        let state = || if n.established() { "up" } else { "not up" };
        if let Some(bar) = &self.bar {
            bar.set_position(sent);
            bar.set_message(format!("{} known, session {}", n.learnt.len(), state()));
        } else if self.lines && Instant::now() >= self.next {
            self.next = Instant::now() + PROGRESS_EVERY;
            eprintln!("{sent} sent, {} known, session {}", n.learnt.len(), state());
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Fails unless both ends of a measurement came up.
///
/// # Errors
/// One of them is missing.
pub fn both_up(
    driver: &mut Driver,
    pair: &mut [&mut Neighbour],
    events: &mut Events,
    patience: Duration,
) -> Result<()> {
    let until = Instant::now() + patience;
    while !pair.iter().all(|n| n.established()) {
        if Instant::now() >= until || driver.stopped() {
            let why: Vec<_> = pair.iter().flat_map(|n| n.summary.session_ends.last()).cloned().collect();
            bail!("the sessions did not both come up within {patience:?} {}", why.join("; "));
        }
        driver.turn(pair, events, Some(until))?;
    }
    Ok(())
}
