//! `--reproduce`: plays to a daemon what an instance was given, and says whether it fails again.

use crate::feed::{Item, Source};
use crate::link::Endpoint;
use crate::neighbour::{Farewell, Feed, Neighbour};
use crate::options::{FeedOptions, ReproduceOptions, RunOptions, SessionOptions};
use crate::record::{self, Reproducer};
use crate::report::{Clock, Events, create};
use crate::run::{Driver, FIRST_TOKEN};
use crate::session::SessionConfig;
use anyhow::{Context, Result};
use bytes::Bytes;
use mio::Token;
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};
use wire::bgp::{Notification, hex};
use wire::mrt;

/// How long the session may take to come up: a daemon that has just been started, or has lost a
/// session, lets some neighbours wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a daemon must live unless the options say something else.
const WAIT: Duration = Duration::from_secs(10);

/// What became of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection was closed without a word: as a rule the process has died.
    Closed,
    /// It ended the session.
    Notification(Notification),
    /// It broke the protocol, and this side answered so.
    Broke(Notification),
    /// Not a message within the hold time, or it has stopped reading.
    Silent,
    /// It was there when the time was over.
    Lives,
    /// It ended the session as its operator does (RFC 4486), which is no failure and proves
    /// nothing.
    Ceased(Notification),
    /// One side did not want the other's OPEN.
    Refused(Notification),
    /// There was no session to send anything over.
    Unreachable,
    /// A signal came first.
    Interrupted,
}

impl End {
    /// The program's exit status: 0 where the failure came back, 1 where the daemon lives, 2 where
    /// it could not be tried.
    pub fn status(&self) -> u8 {
        match self {
            End::Closed | End::Notification(_) | End::Broke(_) | End::Silent => 0,
            End::Lives => 1,
            End::Ceased(_) | End::Refused(_) | End::Unreachable | End::Interrupted => 2,
        }
    }

    /// What ended a session that stood; `None` is a connection that was simply closed.
    fn of(farewell: Option<&Farewell>) -> End {
        match farewell {
            None => End::Closed,
            Some(Farewell::Sent(n)) if n.code == 4 => End::Silent,
            Some(Farewell::Sent(n)) => End::Broke(n.clone()),
            // Shutdown, de-configured, reset, other change, collision.
            Some(Farewell::Received(n)) if n.code == 6 && matches!(n.subcode, 2..=4 | 6 | 7) => End::Ceased(n.clone()),
            Some(Farewell::Received(n)) => End::Notification(n.clone()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::Notification(_) => "notification",
            End::Broke(_) => "protocol-error",
            End::Silent => "silent",
            End::Lives => "lives",
            End::Ceased(_) => "ceased",
            End::Refused(_) => "refused",
            End::Unreachable => "unreachable",
            End::Interrupted => "interrupted",
        }
    }

    fn notification(&self) -> Option<&Notification> {
        match self {
            End::Notification(n) | End::Broke(n) | End::Ceased(n) | End::Refused(n) => Some(n),
            _ => None,
        }
    }
}

/// The messages of a record.
struct Messages(std::vec::IntoIter<Bytes>);

impl Source for Messages {
    fn next(&mut self) -> Result<Option<Item>> {
        Ok(self.0.next().map(Item::Raw))
    }
}

/// Waits for the end.
struct Watch {
    started: Instant,
    wait: Option<Duration>,
    /// Octets written, and since when no more.
    written: (u64, Instant),
    /// Since when everything is with the kernel.
    all_sent: Option<Instant>,
}

impl Watch {
    fn new(wait: Option<Duration>, now: Instant) -> Watch {
        Watch { started: now, wait, written: (0, now), all_sent: None }
    }

    /// What became of it, if that is clear.
    fn end(&mut self, n: &Neighbour, now: Instant) -> Option<End> {
        if n.summary.sessions_up == 0 {
            let refused = n.farewell.as_ref().filter(|_| n.refused).map(|f| End::Refused(f.notification().clone()));
            return refused.or_else(|| (now >= self.started + PATIENCE).then_some(End::Unreachable));
        }
        if n.feed_done.is_some() && n.session.tx.is_empty() {
            self.all_sent.get_or_insert(now);
        }
        let Some(negotiated) = n.session.negotiated() else { return Some(End::of(n.farewell.as_ref())) };
        if n.link.octets.1 != self.written.0 {
            self.written = (n.link.octets.1, now);
        }
        // Silence shows when the hold time is over, no sooner.
        let hold = Duration::from_secs(u64::from(negotiated.hold_time_s) + 1);
        let wait = self.wait.unwrap_or(WAIT.max(hold));
        match self.all_sent {
            Some(since) => (now >= since + wait).then_some(End::Lives),
            None => (now >= self.written.1 + wait).then_some(End::Silent),
        }
    }
}

/// Plays the record at `path`, prints a line of JSON that says what happened, and returns the
/// program's exit status.
///
/// # Errors
/// Options that make no sense, an address that cannot be used, a file that cannot be read or
/// written.
pub fn reproduce(
    path: &Path,
    session: &SessionOptions,
    feed: &FeedOptions,
    options: &ReproduceOptions,
    run: &RunOptions,
) -> Result<u8> {
    let recorded = record::read(path, options.of_peer)?;
    let clock = Clock::start();
    let mut driver = Driver::new()?;
    let mut events = Events::new(run.events.as_deref(), clock)?;
    let source = Messages(recorded.messages.clone().into_iter());
    let feed = Feed::new(Some(Box::new(source)), feed, true);
    let config = SessionConfig { open: recorded.open.clone(), peer_asn: session.peer_asn };
    let mut neighbour = Neighbour::with_config(config, session, feed, Token(FIRST_TOKEN), driver.registry(), clock)?;
    neighbour.events_updates = run.events_updates;
    if let Some(path) = &run.record {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        neighbour.recorder = Some(mrt::Writer::new(BufWriter::new(file)));
    }
    if let Some(local) = neighbour.link.local {
        events.write(Instant::now(), "listening", json!({"local": local}));
    }
    let mut watch = Watch::new(options.wait, Instant::now());
    let end = loop {
        let now = Instant::now();
        let signal = driver.stopped().then_some(End::Interrupted);
        if let Some(end) = watch.end(&neighbour, now).or(signal) {
            break end;
        }
        driver.turn(&mut [&mut neighbour], &mut events, None)?;
    };
    let last = watch.all_sent.and(neighbour.feed_done);
    let after = last.map(|at| Instant::now().saturating_duration_since(at));
    let line = line(path, &recorded, &end, &neighbour, session.endpoint()?, after);
    driver.leave(&mut [&mut neighbour], &mut events)?;
    if let (Some(recorder), Some(path)) = (&mut neighbour.recorder, &run.record) {
        recorder.flush().with_context(|| format!("cannot write {}", path.display()))?;
    }
    writeln!(create(Path::new("-"))?, "{line}").context("cannot write the outcome")?;
    Ok(end.status())
}

/// What happened, as JSON.
fn line(path: &Path, r: &Reproducer, end: &End, n: &Neighbour, at: Endpoint, after: Option<Duration>) -> Value {
    let configured = match at {
        Endpoint::Connect(addr, _) => Some(addr),
        Endpoint::Listen(_) => None,
    };
    let daemon = n.link.remote.or(configured);
    let last_end = n.summary.session_ends.last();
    json!({
        "reproduced": end.status() == 0,
        "outcome": end.name(),
        "text": words(r, end, last_end, after),
        "code": end.notification().map(|n| n.code),
        "subcode": end.notification().map(|n| n.subcode),
        "data": end.notification().map(|n| hex(&n.data)),
        "seconds_after_last": after.map(|d| d.as_secs_f64()),
        "daemon": daemon,
        "record": path.display().to_string(),
        "kind": r.kind,
        "instance": r.instance,
        "peer": r.peer,
        "open": crate::report::open(&r.open),
        "messages": r.messages.len(),
        "messages_left_out": r.left_out,
    })
}

fn words(r: &Reproducer, end: &End, last_end: Option<&String>, after: Option<Duration>) -> String {
    let n = r.messages.len();
    let played = match (after, n) {
        (None, _) => "before everything was sent".to_owned(),
        (Some(d), 1) => format!("{:.1} s after the message", d.as_secs_f64()),
        (Some(d), _) => format!("{:.1} s after the last of {n} messages", d.as_secs_f64()),
    };
    let why = last_end.map_or_else(|| "it does not answer".to_owned(), Clone::clone);
    match end {
        End::Closed => format!("the daemon closed the connection without a NOTIFICATION, {played}"),
        End::Notification(n) => format!("the daemon ended the session with NOTIFICATION {n}, {played}"),
        End::Broke(n) => format!("the daemon broke the protocol ({n}), {played}"),
        End::Silent => format!("the daemon fell silent or stopped reading; given up {played}"),
        End::Lives => format!("the daemon lives {played}"),
        End::Ceased(n) => {
            format!("the daemon ended the session with NOTIFICATION {n}, as its operator does: try again")
        }
        End::Refused(n) => format!(
            "the session was refused with NOTIFICATION {n}: does the daemon know AS {} as this neighbour?",
            r.open.asn
        ),
        End::Unreachable => format!("no session came up within {} s: {why}", PATIENCE.as_secs()),
        End::Interrupted => "stopped before it was clear".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_cease_proves_nothing_and_every_other_end_is_a_failure() {
        let n = |code, subcode| Notification::new(code, subcode);
        for (farewell, end, status) in [
            (None, End::Closed, 0),
            (Some(Farewell::Received(n(3, 1))), End::Notification(n(3, 1)), 0),
            (Some(Farewell::Received(n(6, 1))), End::Notification(n(6, 1)), 0),
            (Some(Farewell::Received(n(6, 2))), End::Ceased(n(6, 2)), 2),
            (Some(Farewell::Sent(n(4, 0))), End::Silent, 0),
            (Some(Farewell::Sent(n(1, 1))), End::Broke(n(1, 1)), 0),
        ] {
            let got = End::of(farewell.as_ref());
            assert_eq!((got.status(), &got), (status, &end), "{farewell:?}");
        }
        assert_eq!((End::Lives.status(), End::Unreachable.status()), (1, 2));
    }
}
