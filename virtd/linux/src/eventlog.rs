//! The event log: a thread of its own that remembers, prints and stores what the core reports.
//!
//! The path of an update must never wait for an operator, so [`EventSender::send`] only tries: what
//! does not fit the channel is counted and reported as one `events-dropped` event later. Followers
//! (`virtctl events -f`) read from the ring by sequence number; one that is slower than the ring
//! misses events and is told how many, and costs nobody else anything.

use crate::written;
use broker::event::{Event, Severity};
use crossbeam_channel::{Receiver, RecvTimeoutError, TrySendError};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Events remembered for virtctl: about a day of a busy router, a few megabytes.
pub const RING: usize = 10_000;
/// Events on their way to the thread: a whole table's disagreements in one batch must not push out
/// what caused them.
const CHANNEL: usize = 65_536;
/// How often a file that cannot be written is tried again, and a quiet one is checked for having
/// been rotated away.
const REOPEN: Duration = Duration::from_secs(30);
/// How often a busy file is checked for having been rotated away.
const ROTATION: Duration = Duration::from_secs(1);

/// How often virtd looks at its end whether the followers have been told all.
const FOLLOWERS_CHECK: Duration = Duration::from_millis(5);

/// The core's and the driver's end.
#[derive(Clone)]
pub struct EventSender {
    channel: crossbeam_channel::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl EventSender {
    /// Hands an event over without ever waiting.
    pub fn send(&self, event: Event) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.channel.try_send(event) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The bare channel, for a sender that counts what it loses itself.
    pub fn channel(&self) -> crossbeam_channel::Sender<Event> {
        self.channel.clone()
    }

    /// Events that found the channel full since the last report.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A sender whose events somebody else takes, at most `room` of them waiting.
pub fn line(room: usize) -> (EventSender, Receiver<Event>) {
    let (channel, receiver) = crossbeam_channel::bounded(room);
    (EventSender { channel, dropped: Arc::default() }, receiver)
}

/// One event as virtctl and the file get it.
#[derive(Clone, Debug)]
pub struct Record {
    /// From 1, without gaps.
    pub seq: u64,
    /// [`Event::kind`].
    pub kind: &'static str,
    /// The event as one JSON object without a line end: `seq`, `time` (RFC 3339, UTC) and the
    /// fields of [`Event`].
    pub json: Arc<str>,
}

#[derive(Default)]
struct Ring {
    records: VecDeque<Record>,
    last_seq: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    ring: Mutex<Ring>,
    grown: Condvar,
    file: Mutex<Option<virtd_api::EventLog>>,
    /// Followers that have not been told everything yet.
    followers: AtomicUsize,
    /// Events that found the channel full, since the start.
    lost: AtomicU64,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic while the lock was held leaves whole records behind; there is nothing to
        // distrust.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The readers' end.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

/// Somebody who is to be told every event; one no more when dropped.
pub struct Follower(Arc<Shared>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a follower gets.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub records: Vec<Record>,
    /// Events that fell out of the ring before this follower came for them.
    pub missed: u64,
    /// virtd is ending; nothing more will come.
    pub closed: bool,
}

impl EventLog {
    /// The last `n` events, of one kind or of all, oldest first.
    pub fn last(&self, n: usize, kind: Option<&str>) -> Vec<Record> {
        let ring = self.shared.ring();
        let wanted = ring.records.iter().rev().filter(|r| kind.is_none_or(|k| k == r.kind));
        let mut found: Vec<Record> = wanted.take(n).cloned().collect();
        found.reverse();
        found
    }

    /// How the file of events fares, if there is one.
    pub fn file(&self) -> Option<virtd_api::EventLog> {
        self.shared.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Events that came faster than they could be written, since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// One follower more.
    pub fn follower(&self) -> Follower {
        self.shared.followers.fetch_add(1, Ordering::AcqRel);
        Follower(self.shared.clone())
    }

    /// Waits until all followers have been told the last event, at most `patience`: one that does
    /// not read is not waited for.
    pub fn wait_for_followers(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.shared.followers.load(Ordering::Acquire) > 0 && Instant::now() < until {
            std::thread::sleep(FOLLOWERS_CHECK);
        }
    }

    /// The sequence number of the newest event; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.shared.ring().last_seq
    }

    /// Waits until there is something behind `seq`, at most `patience`.
    pub fn after(&self, seq: u64, patience: Duration) -> Batch {
        let ring = self.shared.ring();
        let nothing = |ring: &mut Ring| ring.last_seq <= seq && !ring.closed;
        let (ring, _) =
            self.shared.grown.wait_timeout_while(ring, patience, nothing).unwrap_or_else(PoisonError::into_inner);
        let records: Vec<Record> = ring.records.iter().filter(|r| r.seq > seq).cloned().collect();
        let missed = (ring.last_seq.saturating_sub(seq)).saturating_sub(records.len() as u64);
        Batch { records, missed, closed: ring.closed }
    }
}

/// Starts the thread. It ends, with everything written, when the last [`EventSender`] is gone; join
/// it then.
pub fn start(file: Option<&Path>) -> io::Result<(EventSender, EventLog, JoinHandle<()>)> {
    let (channel, receiver) = crossbeam_channel::bounded(CHANNEL);
    let dropped = Arc::new(AtomicU64::new(0));
    let shared = Arc::new(Shared::default());
    let log = EventLog { shared: shared.clone() };
    let sender = EventSender { channel, dropped: dropped.clone() };
    let mut writer = Writer { shared, dropped, sink: file.map(Sink::new) };
    writer.note_file();
    let thread = std::thread::Builder::new().name("events".into()).spawn(move || writer.run(&receiver))?;
    Ok((sender, log, thread))
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    dropped: Arc<AtomicU64>,
    sink: Option<Sink>,
}

impl Writer {
    fn run(&mut self, events: &Receiver<Event>) {
        loop {
            match events.recv_timeout(REOPEN) {
                Ok(event) => {
                    let at_us = event.at_us;
                    self.write(&event);
                    self.report_dropped(at_us);
                    if events.is_empty() {
                        self.flush();
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.flush();
        self.shared.ring().closed = true;
        self.shared.grown.notify_all();
    }

    fn report_dropped(&mut self, at_us: u64) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.shared.lost.fetch_add(dropped, Ordering::Relaxed);
            let text = format!("{dropped} events came faster than they could be written and are lost");
            self.write(&Event::new(at_us, "events-dropped", Severity::Warning, text));
        }
    }

    fn write(&mut self, event: &Event) {
        print(event);
        let mut ring = self.shared.ring();
        ring.last_seq += 1;
        let line = virtd_api::Logged { seq: ring.last_seq, time: rfc3339(SystemTime::now()), event };
        // Nothing in an event can fail to serialise; were it so, a line that says it is better than
        // none.
        let json = serde_json::to_string(&line).unwrap_or_else(|e| format!("{{\"error\":{:?}}}", e.to_string()));
        let record = Record { seq: ring.last_seq, kind: event.kind, json: json.into() };
        if ring.records.len() >= RING {
            ring.records.pop_front();
        }
        ring.records.push_back(record.clone());
        drop(ring);
        self.shared.grown.notify_all();
        if let Some(sink) = &mut self.sink {
            sink.write(&record.json);
        }
    }

    fn flush(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.flush();
            self.note_file();
        }
    }

    /// For whoever asks how the file fares.
    fn note_file(&self) {
        if let Some(sink) = &self.sink {
            let state = virtd_api::EventLog { file: sink.path.clone(), failing: sink.failing.clone(), lost: sink.lost };
            *self.shared.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        }
    }
}

/// One line for the text log.
fn print(event: &Event) {
    let level = match event.severity {
        Severity::Info => log::Level::Info,
        Severity::Warning => log::Level::Warn,
        Severity::Alarm => log::Level::Error,
    };
    let mut line = event.kind.to_owned();
    // Most texts speak of "this session".
    if let Some(session) = event.session.as_ref().filter(|s| !event.text.contains(s.as_str())) {
        line.push_str(&format!(" {session}"));
    }
    line.push_str(&format!(": {}", event.text));
    for (i, said) in event.said.iter().enumerate() {
        line.push_str(if i == 0 { " | " } else { "; " });
        line.push_str(&format!("{} says {}", said.instance, said.route));
    }
    log::log!(target: "virtd::event", level, "{line}");
}

/// The file of JSON lines. A failure is said once; the file is tried again now and then, and when
/// it was rotated away.
struct Sink {
    path: PathBuf,
    file: Option<io::BufWriter<File>>,
    /// Why the last attempt failed.
    failing: Option<String>,
    /// Events that are not in the file.
    lost: u64,
    /// Events that the writer has and the file may not.
    unflushed: u64,
    checked: Option<Instant>,
}

impl Sink {
    fn new(path: &Path) -> Sink {
        let mut sink = Sink { path: path.to_owned(), file: None, failing: None, lost: 0, unflushed: 0, checked: None };
        sink.ready();
        sink
    }

    /// Opens the file if it is not open, or not the one of that name any more.
    fn ready(&mut self) {
        let patience = if self.failing.is_some() { REOPEN } else { ROTATION };
        if self.checked.is_some_and(|at| at.elapsed() < patience) {
            return;
        }
        self.checked = Some(Instant::now());
        if let Some(file) = &mut self.file {
            let same = match (file.get_ref().metadata(), std::fs::symlink_metadata(&self.path)) {
                (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
                _ => false,
            };
            if same {
                return;
            }
            self.flush();
        }
        match written::append(&self.path) {
            Ok(file) => {
                let mut file = io::BufWriter::new(file);
                if self.failing.is_some() {
                    // The last line may be there in part only. Into the buffer, which is empty.
                    let _ = file.write_all(b"\n");
                }
                self.file = Some(file);
            }
            Err(e) => self.fail(&e),
        }
    }

    fn write(&mut self, line: &str) {
        self.ready();
        self.unflushed += 1;
        let Some(file) = &mut self.file else { return self.lose() };
        if let Err(e) = file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n")) {
            self.fail(&e);
        }
    }

    fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        match file.flush() {
            Err(e) => self.fail(&e),
            // Opened it may be although nothing can be written: the disk is full. Only what is
            // written shows that it works again.
            Ok(()) if self.unflushed > 0 => {
                self.unflushed = 0;
                if self.failing.take().is_some() {
                    log::info!("{}: events are written again; {} are not in it", self.path.display(), self.lost);
                }
            }
            Ok(()) => {}
        }
    }

    /// What the writer has is not in the file, or not all of it.
    fn lose(&mut self) {
        self.lost += std::mem::take(&mut self.unflushed);
    }

    fn fail(&mut self, error: &io::Error) {
        if let Some(file) = self.file.take() {
            // Without this, dropping the writer would try the same octets again.
            let _ = file.into_parts();
        }
        self.lose();
        if self.failing.replace(error.to_string()).is_none() {
            log::error!(
                "event_log {}: {error}; virtd goes on without it and tries again every {} s",
                self.path.display(),
                REOPEN.as_secs()
            );
        }
    }
}

/// A time as RFC 3339 has it, in UTC, to the millisecond: `2009-02-16T16:20:00.123Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// The Gregorian date of a number of days since 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    // Whole 400-year cycles first, so that the loop below is short whatever the clock says.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
#[path = "eventlog_tests.rs"]
mod tests;
