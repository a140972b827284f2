//! BMP (RFC 7854): tells collectors virtd's routing tables, each at its own pace.
//!
//! ```text
//! virtd ──ribs, over the control socket── frames ── Sending ──TCP── collector
//! ```
//! Nothing is queued here. Where a collector takes nothing, nothing is read from virtd, which then
//! keeps only which prefixes have changed, and only so many ([`virtd_api::ribs`]). Whatever ends, the
//! collector's connection or virtd's, both end, and all is told from the beginning over new ones.

mod message;

use crate::frames::Frames;
use crate::watch::Watch;
use bytes::Bytes;
use message::{Peer, Reason, Rib};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval_at, sleep, timeout};
use virtd_api::ribs::{DOWN, DUMPED, END_OF_RIB, Header, OUT, ROUTES, TOLD_ANEW, UP};
use virtd_api::{SpeakerDown, SpeakerUp};
use virtd_config::Collector;

/// The first wait before a collector is tried again. It doubles up to RFC 7854's longest (section
/// 3.2).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// See [`FIRST_PAUSE`].
const MAX_PAUSE: Duration = Duration::from_secs(720);
/// A connection that has stood for so long was a good one: the next wait is the first.
const GOOD: Duration = Duration::from_secs(30);
/// The collector has answered by then, or is not there: sooner than virtd closes one who asks
/// nothing.
const DIAL: Duration = Duration::from_secs(8);
/// How long virtd is waited for before it is asked again: it is on this machine.
const VIRTD_PAUSE: Duration = Duration::from_secs(1);
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Octets that are written at once.
const PIECE: usize = 64 << 10;

/// How a collector fares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Its address and port.
    pub collector: String,
    /// Since when it is connected and told something; `None`: it is not.
    pub since: Option<Instant>,
    /// Connections that have stood, since we were started.
    pub connections: u64,
    /// Route Monitoring messages sent.
    pub routes: u64,
    /// Times that a peer was told from the beginning because the collector was too slow.
    pub resets: u64,
}

/// What all collectors' states are shown by.
#[derive(Clone, Debug, Default)]
pub struct States(Arc<Vec<Mutex<State>>>);

impl States {
    /// Of these collectors.
    pub fn of(collectors: &[Collector]) -> States {
        let state = |c: &Collector| Mutex::new(State { collector: c.address.to_string(), ..State::default() });
        States(Arc::new(collectors.iter().map(state).collect()))
    }

    /// As they are now.
    pub fn now(&self) -> Vec<State> {
        self.0.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    fn change(&self, n: usize, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.0.get(n) {
            change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Who is told what.
#[derive(Clone, Debug)]
pub struct Task {
    /// virtd's control socket.
    pub control: PathBuf,
    /// To whom.
    pub collector: Collector,
    /// Which of the states is its.
    pub n: usize,
    /// All states.
    pub states: States,
    /// For the statistics.
    pub watch: Arc<Watch>,
    /// What we say of ourselves.
    pub description: String,
}

/// Why a connection is over.
enum Over {
    /// We are to end.
    Told,
    /// The collector, or the way to it.
    Collector(String),
    /// virtd.
    Virtd(String),
    /// virtd, which is there and does not want to.
    Refused(String),
}

impl Task {
    /// Tells the collector until `stop` says otherwise.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let (mut pause, mut said) = (FIRST_PAUSE, String::new());
        let name = self.collector.address;
        while !*stop.borrow() {
            let begun = Instant::now();
            let over = self.once(&mut stop).await;
            self.states.change(self.n, |s| s.since = None);
            let (text, wait) = match over {
                Over::Told => return,
                Over::Virtd(text) => (text, VIRTD_PAUSE),
                Over::Collector(text) | Over::Refused(text) => {
                    pause = if begun.elapsed() >= GOOD { FIRST_PAUSE } else { pause };
                    let wait = pause;
                    pause = (2 * pause).min(MAX_PAUSE);
                    (text, wait)
                }
            };
            // The same again and again is said once.
            if text != said {
                log::warn!("collector {name}: {text}; it is tried again");
                said = text;
            }
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn once(&self, stop: &mut watch::Receiver<bool>) -> Over {
        // A collector is not bothered while there is no virtd.
        let mut frames = match Frames::connect(&self.control).await {
            Ok(frames) => frames,
            Err(text) => return Over::Virtd(text),
        };
        let dialled = tokio::select! {
            dialled = self.dial() => dialled,
            _ = stop.changed() => return Over::Told,
        };
        let stream = match dialled {
            Ok(stream) => stream,
            Err(e) => return Over::Collector(e.to_string()),
        };
        if let Err(text) = frames.begin(self.collector.instances, None).await {
            return Over::Refused(text);
        }
        log::info!("collector {} is connected", self.collector.address);
        self.states.change(self.n, |s| (s.since, s.connections) = (Some(Instant::now()), s.connections + 1));
        let (reader, writer) = stream.into_split();
        let mut sending = Sending { task: self, writer, out: Vec::new(), torn: false, peers: HashMap::new() };
        message::initiation(&host_name(), &self.description, &mut sending.out);
        let over = sending.all(frames, reader, stop).await;
        let reason = match &over {
            Over::Told => Some((Reason::Closed, "virtd-monitor ends")),
            Over::Virtd(_) => Some((Reason::Unspecified, "virtd is gone, or another takes its place")),
            Over::Collector(_) | Over::Refused(_) => None,
        };
        if let Some((reason, text)) = reason.filter(|_| !sending.torn) {
            message::termination(reason, text, &mut sending.out);
            let _ = timeout(FAREWELL, sending.writer.write_all(&sending.out)).await;
            let _ = timeout(FAREWELL, sending.writer.shutdown()).await;
        }
        over
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let Collector { address, source, .. } = self.collector;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // One that is gone without a word is found out, some time.
        socket.set_keepalive(true)?;
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        timeout(DIAL, socket.connect(address)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// A connection with a collector.
struct Sending<'t> {
    task: &'t Task,
    writer: OwnedWriteHalf,
    /// What is written next, [`PIECE`] and a message at most.
    out: Vec<u8>,
    /// Part of a message has been written, and the rest will not be.
    torn: bool,
    /// By number, with the name by which virtd's sessions know it; those that were told of.
    peers: HashMap<u32, (Peer, Option<String>)>,
}

impl Sending<'_> {
    async fn all(&mut self, mut frames: Frames, mut reader: OwnedReadHalf, stop: &mut watch::Receiver<bool>) -> Over {
        let every = Duration::from_secs(self.task.collector.statistics_s.max(1).into());
        let mut statistics = interval_at(Instant::now() + every, every);
        statistics.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let wanted = self.task.collector.statistics_s > 0;
        let mut octets = [0; 64];
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => return Over::Told,
                // BMP has no messages from a collector: whatever comes is passed over.
                read = reader.read(&mut octets) => match read {
                    Ok(0) => return Over::Collector("it has closed the connection".to_owned()),
                    Ok(_) => {}
                    Err(e) => return Over::Collector(e.to_string()),
                },
                _ = statistics.tick(), if wanted => self.statistics().await,
                frame = frames.next() => match frame {
                    Ok(Some((header, body))) => {
                        if let Err(text) = self.frame(header, &body) {
                            return Over::Virtd(text);
                        }
                        // What has come already goes out together.
                        while self.out.len() < PIECE {
                            match frames.ready() {
                                Ok(Some((header, body))) => match self.frame(header, &body) {
                                    Ok(()) => {}
                                    Err(text) => return Over::Virtd(text),
                                },
                                _ => break,
                            }
                        }
                    }
                    Ok(None) => return Over::Virtd("virtd has closed its control socket".to_owned()),
                    Err(e) => return Over::Virtd(e.to_string()),
                },
            }
            // For as long as the collector likes.
            let written = tokio::select! {
                written = self.writer.write_all(&self.out) => written,
                _ = stop.changed() => {
                    self.torn = true;
                    return Over::Told;
                }
            };
            self.out.clear();
            if let Err(e) = written {
                return Over::Collector(e.to_string());
            }
        }
    }

    /// # Errors
    /// It is none that virtd sends.
    fn frame(&mut self, header: Header, body: &Bytes) -> Result<(), String> {
        let strange = |e: serde_json::Error| format!("virtd says what nobody understands: {e}");
        match header.kind {
            UP => {
                let up: SpeakerUp = serde_json::from_slice(body).map_err(strange)?;
                if up.sent.is_empty() || up.received.is_empty() {
                    // No collector could read that.
                    log::warn!("{} is not told of: its OPENs are not known", up.peer);
                    return Ok(());
                }
                let peer = Peer::of(&up);
                peer.up(&up, &mut self.out);
                let name = up.instance.is_none().then_some(up.peer);
                self.peers.insert(header.speaker, (peer, name));
            }
            DOWN => {
                let down: SpeakerDown = serde_json::from_slice(body).map_err(strange)?;
                if let Some((peer, _)) = self.peers.remove(&header.speaker) {
                    peer.down(&down, &mut self.out);
                }
                if down.reason == TOLD_ANEW {
                    self.task.states.change(self.task.n, |s| s.resets += 1);
                }
            }
            ROUTES | END_OF_RIB => {
                let Some((peer, _)) = self.peers.get(&header.speaker) else { return Ok(()) };
                let rib = if header.flags & OUT == 0 { Rib::In } else { Rib::Out };
                // Since when something holds that was there before is not known.
                let at = (header.flags & DUMPED == 0).then(SystemTime::now);
                peer.routes(rib, body, at, &mut self.out);
                self.task.states.change(self.task.n, |s| s.routes += 1);
            }
            _ => {}
        }
        Ok(())
    }

    async fn statistics(&mut self) {
        let snapshot = self.task.watch.now().await;
        let Ok(known) = &snapshot.known else { return };
        let sessions: HashMap<&str, _> = known.facts.sessions.iter().map(|s| (s.peer.as_str(), s)).collect();
        for (peer, name) in self.peers.values() {
            let Some(session) = name.as_ref().and_then(|name| sessions.get(name.as_str())) else { continue };
            peer.statistics(session.prefixes_in.map(|n| n as u64), session.prefixes_out, &mut self.out);
        }
    }
}

/// What this machine is called, for sysName.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "virtd".to_owned(),
        name => name.to_owned(),
    }
}
