//! The I/O of virtd: one mio loop that owns every fd, turns readiness into [`Input`]s for the broker and carries out its [`Output`]s.
//! It takes no decision about routes or sessions.
//!
//! ```text
//! epoll_wait ─▶ read ─▶ broker.handle ─▶ … ─▶ broker.flush ─▶ write ─▶ epoll_wait
//! ```
//! Readiness is edge-triggered: a source is read until it is empty or its budget is used up, and then comes again in the next
//! turn without waiting. Writing is tried at once; what the kernel does not take waits for the next writable edge.

mod net;
pub mod options;
mod requests;
mod shim;
mod stream;
mod sys;

use crate::config::Config;
use crate::control::ControlRequest;
use crate::core::Core;
use crate::core::io::{ConnId, Input, InstanceId, LegId, ListenerId, Micros, Output};
use crate::event::{Event, Severity};
use crate::serve::EventLoop;
use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use hashbrown::HashMap;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use socket2::Socket;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stream::{Io, ReadEnd, Stream};
use wire::shim::Reply;

/// Connections accepted from one listening socket in one turn.
const ACCEPT_BUDGET: usize = 64;
/// After accept failed for want of fds or memory it is tried again this much later.
const ACCEPT_RETRY_US: Micros = 100_000;
/// How long a closed connection with a peer may take to deliver what is queued, its NOTIFICATION above all.
const PEER_LINGER_US: Micros = 5_000_000;
/// The same for a leg.
const LEG_LINGER_US: Micros = 1_000_000;
/// Failed connects whose errno waits for SO_ERROR.
const MAX_FAILED: usize = 4096;
/// Rounds of output and drained reports in one turn; a broker that still has work gets the next turn.
const MAX_ROUNDS: usize = 64;

/// What the driver needs of the broker. [`Core`] is the real one; the driver's own tests use a smaller one.
pub trait Broker {
    /// Takes one input.
    fn handle(&mut self, now: Micros, input: Input<'_>, out: &mut Vec<Output>);
    /// Ends a batch of inputs.
    fn flush(&mut self, now: Micros, out: &mut Vec<Output>);
    /// When a [`Input::Tick`] is due.
    fn deadline(&self) -> Option<Micros>;
    /// Answers virtctl.
    fn query(&mut self, now: Micros, request: &serde_json::Value) -> serde_json::Value;
}

impl Broker for Core {
    fn handle(&mut self, now: Micros, input: Input<'_>, out: &mut Vec<Output>) {
        Core::handle(self, now, input, out);
    }
    fn flush(&mut self, now: Micros, out: &mut Vec<Output>) {
        Core::flush(self, now, out);
    }
    fn deadline(&self) -> Option<Micros> {
        Core::deadline(self)
    }
    fn query(&mut self, now: Micros, request: &serde_json::Value) -> serde_json::Value {
        Core::query(self, now, request)
    }
}

/// What a token stands for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Waker,
    Shims,
    Listener(usize),
    Peer(ConnId),
    Leg(LegId),
    Channel(u64),
    Listening(ListenerId),
}

/// One source that has something for us.
struct Ready {
    token: Token,
    readable: bool,
    writable: bool,
    /// Read until the socket says it is empty: data and the end of the stream may have come as one edge.
    exhaust: bool,
}

impl From<&mio::event::Event> for Ready {
    fn from(e: &mio::event::Event) -> Ready {
        let over = e.is_read_closed() || e.is_error();
        Ready { token: e.token(), readable: e.is_readable() || over, writable: e.is_writable(), exhaust: over }
    }
}

struct Peer {
    stream: Stream,
    token: Token,
    /// Dialled and not connected yet.
    dialling: bool,
    agreed: options::Agreed,
}

struct Leg {
    stream: Stream,
    token: Token,
    instance: InstanceId,
    /// SO_COOKIE of the daemon's end.
    cookie: u64,
    /// Registered for writability: only while the socket is full, because a Unix socket says so after every read of the daemon's.
    wants_write: bool,
    /// The instance's connect has not been answered; octets of filler to read away when it is.
    connecting: Option<usize>,
    /// Where a blocking connect waits.
    waiting: Option<OwnedFd>,
    names: Option<(SocketAddr, SocketAddr)>,
    conn: Option<ConnId>,
    /// Options set before there was a connection to put them on.
    wanted: Vec<(i32, i32, Vec<u8>)>,
}

/// The broker's end of a daemon's listening socket.
struct Listening {
    end: OwnedFd,
    token: Token,
    instance: InstanceId,
    cookie: u64,
    local: SocketAddr,
    v6_only: bool,
    /// listen has been called.
    active: bool,
}

struct Channel {
    fd: OwnedFd,
    token: Token,
    instance: Option<InstanceId>,
}

/// What an SO_COOKIE of a daemon's socket names.
#[derive(Clone, Copy, Debug)]
enum Named {
    Leg(LegId),
    Listening(ListenerId),
    /// A connect that failed with this errno, not yet asked for.
    Failed(i32),
}

/// See the module's comment.
pub struct Driver<B> {
    broker: B,
    config: Config,
    poll: Poll,
    waker: Arc<Waker>,
    started: Instant,
    now: Micros,
    sources: HashMap<Token, Source>,
    next_token: usize,
    next_id: u64,
    listeners: Vec<Socket>,
    shims: OwnedFd,
    peers: HashMap<ConnId, Peer>,
    legs: HashMap<LegId, Leg>,
    listening: HashMap<ListenerId, Listening>,
    channels: HashMap<u64, Channel>,
    /// By instance and SO_COOKIE: no instance can name another's sockets.
    named: HashMap<(InstanceId, u64), Named>,
    /// MD5 keys on our listening sockets: (peer address part of the option) to what each instance asked for.
    keys: options::Keys,
    failed: VecDeque<(InstanceId, u64)>,
    netns_cookie: u64,
    allowed_uids: Vec<u32>,
    /// Sources to be read again without waiting for an edge.
    again: Vec<Token>,
    accept_again: Option<Micros>,
    written: Vec<Source>,
    closing: Vec<Source>,
    out: Vec<Output>,
    scratch: Vec<u8>,
    events: Sender<Event>,
    lost_events: u64,
}

impl<B: Broker> Driver<B> {
    /// Opens the sockets: the BGP port on every configured address, and the shim's.
    ///
    /// # Errors
    /// Names the address or path that could not be opened, and the likely remedy.
    pub fn new(config: Config, broker: B, events: Sender<Event>) -> Result<Driver<B>> {
        let poll = Poll::new().context("epoll")?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).context("eventfd")?);
        let mut listeners = Vec::new();
        for ip in &config.listen {
            let addr = SocketAddr::new(*ip, config.port);
            let socket = net::listen(addr).with_context(|| {
                format!("cannot listen on {addr}: stop whatever has the port (a routing daemon without the shim?), or set router.listen")
            })?;
            listeners.push(socket);
        }
        if let Some(dir) = config.shim_socket.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let path = config.shim_socket.display().to_string();
        let shims =
            shim::listen_on(&config.shim_socket).with_context(|| format!("cannot open the shim's socket {path}"))?;
        // Instances may run as users of their own; who may use it is decided by SO_PEERCRED.
        std::fs::set_permissions(&config.shim_socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .with_context(|| format!("cannot set the mode of {path}"))?;
        let netns_cookie = listeners.first().map_or(0, sys::netns_cookie);
        let allowed_uids = allowed_uids(&config);
        let mut driver = Driver {
            broker,
            config,
            poll,
            waker,
            started: Instant::now(),
            now: 0,
            sources: HashMap::new(),
            next_token: 1,
            next_id: 1,
            listeners,
            shims,
            peers: HashMap::new(),
            legs: HashMap::new(),
            listening: HashMap::new(),
            channels: HashMap::new(),
            named: HashMap::new(),
            keys: options::Keys::default(),
            failed: VecDeque::new(),
            netns_cookie,
            allowed_uids,
            again: Vec::new(),
            accept_again: None,
            written: Vec::new(),
            closing: Vec::new(),
            out: Vec::new(),
            scratch: vec![0; 64 << 10],
            events,
            lost_events: 0,
        };
        driver.sources.insert(Token(0), Source::Waker);
        driver.register(driver.shims.as_raw_fd(), Source::Shims, false)?;
        for i in 0..driver.listeners.len() {
            driver.register(driver.listeners[i].as_raw_fd(), Source::Listener(i), false)?;
        }
        Ok(driver)
    }

    /// Wakes the loop from another thread: a control request waits, or it is to stop.
    fn loop_waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// Runs until `stop` is set and the loop woken.
    ///
    /// # Errors
    /// Only when epoll itself fails.
    fn run_loop(&mut self, control: &Receiver<ControlRequest>, stop: &AtomicBool) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut ready: Vec<Ready> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).context("epoll_wait"),
            }
            self.now = self.started.elapsed().as_micros() as Micros;
            ready.clear();
            let again = self.again.drain(..);
            ready.extend(again.map(|token| Ready { token, readable: true, writable: false, exhaust: true }));
            ready.extend(events.iter().map(Ready::from));
            for r in ready.drain(..) {
                self.on_event(r, control);
            }
            self.accept_late();
            if self.broker.deadline().is_some_and(|at| at <= self.now) {
                self.broker.handle(self.now, Input::Tick, &mut self.out);
            }
            self.turn();
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let closing = if self.closing.is_empty() { None } else { Some(self.now + LEG_LINGER_US / 4) };
        let at = [self.broker.deadline(), self.accept_again, closing].into_iter().flatten().min()?;
        let now = self.started.elapsed().as_micros() as Micros;
        Some(Duration::from_micros(at.saturating_sub(now)))
    }

    fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    fn register(&mut self, fd: RawFd, source: Source, write: bool) -> Result<Token> {
        let token = Token(self.next_token);
        self.next_token += 1;
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.registry().register(&mut SourceFd(&fd), token, interest).context("epoll_ctl")?;
        self.sources.insert(token, source);
        Ok(token)
    }

    fn forget(&mut self, token: Token, fd: RawFd) {
        let _ = self.registry().deregister(&mut SourceFd(&fd));
        self.sources.remove(&token);
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 2;
        self.next_id
    }

    /// Tells the operator. Never waits: what the log cannot take is counted.
    fn tell(&mut self, event: Event) {
        match self.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost_events += 1,
        }
    }

    fn warn(&mut self, kind: &'static str, text: String) {
        let event = Event::new(self.now, kind, Severity::Warning, text);
        self.tell(event);
    }

    fn on_event(&mut self, ready: Ready, control: &Receiver<ControlRequest>) {
        let Ready { token, readable, writable, exhaust } = ready;
        let Some(source) = self.sources.get(&token).copied() else { return };
        match source {
            Source::Waker => {
                for request in control.try_iter() {
                    let answer = self.broker.query(self.now, &request.request);
                    let _ = request.reply.try_send(answer);
                }
            }
            Source::Shims => self.accept_channels(),
            Source::Listener(i) => self.accept_peers(i, token),
            Source::Channel(id) => self.channel_readable(id),
            Source::Listening(id) => self.listening_event(id),
            Source::Peer(conn) => {
                if writable {
                    self.peer_writable(conn);
                }
                if readable {
                    self.peer_readable(conn, exhaust);
                }
            }
            Source::Leg(leg) => {
                if writable {
                    self.written.push(source);
                }
                if readable {
                    self.leg_readable(leg, exhaust);
                }
            }
        }
    }

    fn accept_late(&mut self) {
        if self.accept_again.is_some_and(|at| at <= self.now) {
            self.accept_again = None;
            for i in 0..self.listeners.len() {
                self.accept_peers(i, Token(0));
            }
        }
    }

    fn accept_peers(&mut self, i: usize, token: Token) {
        for _ in 0..ACCEPT_BUDGET {
            match net::accept(&self.listeners[i]) {
                Ok((stream, peer, local)) => {
                    let conn = ConnId(self.fresh_id());
                    if let Err(e) = self.add_peer(conn, stream, false) {
                        self.warn("accept-failed", format!("a connection from {peer} was dropped: {e:#}"));
                        continue;
                    }
                    self.broker.handle(self.now, Input::PeerAccepted { conn, peer, local }, &mut self.out);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // The connection went away while it waited.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO | libc::ENOTCONN)) => {}
                Err(e) => {
                    self.accept_again = Some(self.now + ACCEPT_RETRY_US);
                    return self.warn("accept-failed", format!("cannot accept a connection: {e}; trying again"));
                }
            }
        }
        if token != Token(0) {
            self.again.push(token);
        } else {
            self.accept_again = Some(self.now);
        }
    }

    fn add_peer(&mut self, conn: ConnId, stream: std::net::TcpStream, dialling: bool) -> Result<()> {
        let token = self.register(stream.as_raw_fd(), Source::Peer(conn), true)?;
        let stream = Stream::new(Io::Tcp(stream));
        self.peers.insert(conn, Peer { stream, token, dialling, agreed: options::Agreed::default() });
        Ok(())
    }

    fn peer_writable(&mut self, conn: ConnId) {
        let Some(p) = self.peers.get_mut(&conn) else { return };
        if !p.dialling {
            return self.written.push(Source::Peer(conn));
        }
        let Io::Tcp(s) = &p.stream.io else { return };
        let failed = match (s.take_error(), s.peer_addr(), s.local_addr()) {
            (Ok(None), Ok(peer), Ok(local)) => {
                p.dialling = false;
                return self.broker.handle(self.now, Input::PeerConnected { conn, local, peer }, &mut self.out);
            }
            (Ok(Some(e)) | Err(e), ..) => e.raw_os_error().unwrap_or(libc::EIO),
            // Not connected and no error: a spurious wake-up.
            (Ok(None), ..) => return,
        };
        self.drop_peer(conn);
        self.broker.handle(self.now, Input::PeerDialFailed { conn, errno: failed }, &mut self.out);
    }

    fn peer_readable(&mut self, conn: ConnId, exhaust: bool) {
        let Some(p) = self.peers.get_mut(&conn) else { return };
        if p.dialling {
            return self.peer_writable(conn);
        }
        if p.stream.paused {
            return;
        }
        let end = p.stream.read(&mut self.scratch, exhaust);
        let closing = p.stream.closing.is_some();
        if !closing && !p.stream.rx.is_empty() {
            let mut buf = std::mem::take(&mut p.stream.rx);
            self.broker.handle(self.now, Input::PeerBytes { conn, buf: &mut buf }, &mut self.out);
            if let Some(p) = self.peers.get_mut(&conn) {
                p.stream.rx = buf;
            }
        }
        match end {
            ReadEnd::Empty => {}
            ReadEnd::More => self.again.extend(self.peers.get(&conn).map(|p| p.token)),
            ReadEnd::Closed(errno) => {
                self.drop_peer(conn);
                if !closing {
                    self.broker.handle(self.now, Input::PeerClosed { conn, errno }, &mut self.out);
                }
            }
        }
    }

    fn leg_readable(&mut self, id: LegId, exhaust: bool) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.stream.paused {
            return;
        }
        if leg.connecting.is_some() {
            // Nothing but filler can be there; what matters is whether the daemon gave up.
            if hung_up(&leg.stream.io) {
                self.drop_leg(id);
                self.broker.handle(self.now, Input::LegClosed { leg: id }, &mut self.out);
            }
            return;
        }
        let end = leg.stream.read(&mut self.scratch, exhaust);
        let closing = leg.stream.closing.is_some();
        if !closing && !leg.stream.rx.is_empty() {
            let mut buf = std::mem::take(&mut leg.stream.rx);
            self.broker.handle(self.now, Input::LegBytes { leg: id, buf: &mut buf }, &mut self.out);
            if let Some(leg) = self.legs.get_mut(&id) {
                leg.stream.rx = buf;
            }
        }
        match end {
            ReadEnd::Empty => {}
            ReadEnd::More => self.again.extend(self.legs.get(&id).map(|l| l.token)),
            ReadEnd::Closed(_) => {
                self.drop_leg(id);
                if !closing {
                    self.broker.handle(self.now, Input::LegClosed { leg: id }, &mut self.out);
                }
            }
        }
    }

    /// Ends the turn: outputs are carried out, written, and the broker told what left, until nothing moves.
    fn turn(&mut self) {
        for _ in 0..MAX_ROUNDS {
            self.broker.flush(self.now, &mut self.out);
            if self.out.is_empty() && self.written.is_empty() {
                break;
            }
            let mut out = std::mem::take(&mut self.out);
            for o in out.drain(..) {
                self.carry_out(o);
            }
            out.append(&mut self.out);
            self.out = out;
            for source in std::mem::take(&mut self.written) {
                self.write(source);
            }
        }
        self.finish_closing();
    }

    fn write(&mut self, source: Source) {
        match source {
            Source::Peer(conn) => {
                let Some(p) = self.peers.get_mut(&conn).filter(|p| !p.dialling) else { return };
                let before = p.stream.queued();
                p.stream.write();
                let queued = p.stream.queued();
                if before > 0 && p.stream.closing.is_none() {
                    self.broker.handle(self.now, Input::PeerDrained { conn, queued }, &mut self.out);
                }
            }
            Source::Leg(leg) => {
                let Some(l) = self.legs.get_mut(&leg) else { return };
                let before = l.stream.queued();
                l.stream.write();
                let queued = l.stream.queued();
                if (queued > 0) != l.wants_write {
                    l.wants_write = queued > 0;
                    let interest =
                        if queued > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
                    let fd = l.stream.io.as_raw_fd();
                    let _ = self.poll.registry().reregister(&mut SourceFd(&fd), l.token, interest);
                }
                if before > 0 && l.stream.closing.is_none() {
                    self.broker.handle(self.now, Input::LegDrained { leg, queued }, &mut self.out);
                }
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, o: Output) {
        match o {
            Output::SendPeer { conn, bytes } => {
                if let Some(p) = self.peers.get_mut(&conn) {
                    p.stream.push(bytes);
                    if !std::mem::replace(&mut p.stream.listed, true) {
                        self.written.push(Source::Peer(conn));
                    }
                }
            }
            Output::SendLeg { leg, bytes } => {
                if let Some(l) = self.legs.get_mut(&leg) {
                    l.stream.push(bytes);
                    if !std::mem::replace(&mut l.stream.listed, true) {
                        self.written.push(Source::Leg(leg));
                    }
                }
            }
            Output::Event(event) => self.tell(event),
            Output::Dial { conn, peer, local, leg } => self.dial(conn, peer, local, leg),
            Output::ClosePeer { conn, abort } => self.close_peer(conn, abort),
            Output::CloseLeg { leg } => self.close_leg(leg),
            Output::PausePeer { conn, pause } => {
                if let Some(p) = self.peers.get_mut(&conn).filter(|p| p.stream.paused != pause) {
                    p.stream.paused = pause;
                    self.again.extend((!pause).then_some(p.token));
                }
            }
            Output::PauseLeg { leg, pause } => {
                if let Some(l) = self.legs.get_mut(&leg).filter(|l| l.stream.paused != pause) {
                    l.stream.paused = pause;
                    self.again.extend((!pause).then_some(l.token));
                }
            }
            Output::OfferLeg { leg, listener, peer, local, conn, .. } => {
                self.offer_leg(leg, listener, peer, local, conn)
            }
            Output::LegConnected { leg, local, peer, conn } => self.leg_connected(leg, local, peer, conn),
            Output::LegRefused { leg, errno } => self.leg_refused(leg, errno),
        }
    }

    fn dial(&mut self, conn: ConnId, peer: SocketAddr, local: Option<SocketAddr>, leg: LegId) {
        let wanted = self.legs.get(&leg).map(|l| (l.instance, l.wanted.clone()));
        let mut agreed = options::Agreed::default();
        let mut refused = None;
        let dialled = net::dial(peer, local, |socket| {
            for (instance, list) in wanted.iter() {
                for (level, name, value) in list {
                    agreed.set(instance.0, *level, *name, value);
                    if let Err(e) = sys::set_option(socket, *level, *name, value) {
                        refused = Some((options::name(*level, *name), e));
                    }
                }
            }
            // Without its key, device or minimum TTL the connection would go out unprotected: it does not go out at all.
            match &refused {
                Some((_, e)) => Err(std::io::Error::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EINVAL))),
                None => Ok(()),
            }
        });
        if let Some((name, e)) = refused {
            self.warn("option-failed", format!("not dialled: the kernel does not take {name} for {}: {e}", peer.ip()));
        }
        let failed = match dialled {
            Ok(stream) => match self.add_peer(conn, stream, true) {
                Ok(()) => {
                    if let Some(p) = self.peers.get_mut(&conn) {
                        p.agreed = agreed;
                    }
                    return;
                }
                Err(_) => libc::ENOMEM,
            },
            Err(e) => e.raw_os_error().unwrap_or(libc::EIO),
        };
        self.broker.handle(self.now, Input::PeerDialFailed { conn, errno: failed }, &mut self.out);
    }

    fn close_peer(&mut self, conn: ConnId, abort: bool) {
        let Some(p) = self.peers.get_mut(&conn) else { return };
        if abort || p.dialling {
            if let Io::Tcp(s) = &p.stream.io {
                let _ = socket2::SockRef::from(s).set_linger(Some(Duration::ZERO));
            }
            return self.drop_peer(conn);
        }
        p.stream.closing = Some(self.now + PEER_LINGER_US);
        p.stream.paused = false;
        self.closing.push(Source::Peer(conn));
        self.written.push(Source::Peer(conn));
        self.again.extend(self.peers.get(&conn).map(|p| p.token));
    }

    fn close_leg(&mut self, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.connecting.is_some() {
            return self.leg_refused(id, libc::ECONNRESET);
        }
        leg.stream.closing = Some(self.now + LEG_LINGER_US);
        leg.stream.paused = false;
        self.closing.push(Source::Leg(id));
        self.written.push(Source::Leg(id));
        let token = leg.token;
        self.again.push(token);
    }

    /// Drops what was to be closed and is past its time; what the other side closed is gone already.
    fn finish_closing(&mut self) {
        let now = self.now;
        let late = |s: Option<&Stream>| s.is_some_and(|s| s.closing.is_some_and(|at| at <= now));
        let mut due = Vec::new();
        let (peers, legs) = (&self.peers, &self.legs);
        self.closing.retain(|source| {
            let (there, over) = match source {
                Source::Peer(c) => (peers.contains_key(c), late(peers.get(c).map(|p| &p.stream))),
                Source::Leg(l) => (legs.contains_key(l), late(legs.get(l).map(|l| &l.stream))),
                _ => (false, false),
            };
            if over {
                due.push(*source);
            }
            there && !over
        });
        for source in due {
            match source {
                Source::Peer(c) => self.drop_peer(c),
                Source::Leg(l) => self.drop_leg(l),
                _ => {}
            }
        }
    }

    fn drop_peer(&mut self, conn: ConnId) {
        if let Some(p) = self.peers.remove(&conn) {
            self.forget(p.token, p.stream.io.as_raw_fd());
        }
    }

    fn drop_leg(&mut self, id: LegId) {
        if let Some(leg) = self.legs.remove(&id) {
            self.forget(leg.token, leg.stream.io.as_raw_fd());
            self.named.remove(&(leg.instance, leg.cookie));
        }
    }

    fn add_leg(&mut self, id: LegId, end: OwnedFd, leg: impl FnOnce(Stream, Token) -> Leg) -> Result<()> {
        let stream = UnixStream::from(end);
        stream.set_nonblocking(true)?;
        let token = self.register(stream.as_raw_fd(), Source::Leg(id), false)?;
        let leg = leg(Stream::new(Io::Unix(stream)), token);
        self.named.insert((leg.instance, leg.cookie), Named::Leg(id));
        self.legs.insert(id, leg);
        Ok(())
    }
}

impl<B: Broker> EventLoop for Driver<B> {
    fn waker(&self) -> Arc<Waker> {
        self.loop_waker()
    }

    fn run(&mut self, control: &Receiver<ControlRequest>, stop: &AtomicBool) -> Result<()> {
        self.run_loop(control, stop)
    }
}

impl<B> Drop for Driver<B> {
    /// The path must not outlive the process: a shim would wait for nobody.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.config.shim_socket);
    }
}

/// Whether the other end of a leg is gone, without reading.
fn hung_up(io: &Io) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let Io::Unix(s) = io else { return false };
    let fd = std::os::fd::AsFd::as_fd(s);
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Users whose processes may be instances: root, virtd's own, and those the configuration names.
fn allowed_uids(config: &Config) -> Vec<u32> {
    let mut uids = vec![0, nix::unistd::Uid::effective().as_raw()];
    for user in config.instances.iter().filter_map(|i| i.user.as_deref()) {
        if let Ok(Some(u)) = nix::unistd::User::from_name(user) {
            uids.push(u.uid.as_raw());
        }
    }
    uids
}
