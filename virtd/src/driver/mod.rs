//! The I/O of virtd: one mio loop that owns every fd, turns readiness into [`Input`]s for the
//! broker and carries out its [`Output`]s. It takes no decision about routes or sessions.
//!
//! The order of a turn is [`turn`]'s.
//!
//! Readiness is edge-triggered: a source is read until it is empty or its budget is used up, and
//! then comes again in the next turn without waiting. Writing is tried at once; what the kernel
//! does not take waits for the next writable edge.

mod accept;
mod adopt;
mod beat;
mod handover;
mod image;
mod keys;
mod link_reset;
mod listen;
mod net;
mod netlink;
pub mod options;
mod passage;
mod pulse;
mod readers;
mod ready;
mod requests;
mod settings;
mod shim;
mod stream;
mod traffic;

use crate::control::ControlRequest;
use crate::serve::{EventLoop, Lines};
pub use adopt::Estate;
use anyhow::{Context, Result};
pub use beat::Beat;
use broker::delays::Delays;
use broker::event::{Event, Severity};
use broker::io::{ConnId, Input, InstanceId, LegId, ListenerId, Micros, NetlinkId, Output};
use broker::turn::{self, Deferred, World as _};
use broker::{Answer, Core};
use bytes::Bytes;
use crossbeam_channel::{Receiver, TrySendError};
pub use handover::Handover;
use hashbrown::{HashMap, HashSet};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::time::{ClockId, clock_gettime};
use ready::{Ready, Waiting};
use requests::{Channel, Listening};
use socket2::Socket;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stream::{Io, READ_BUDGET, Stream};
use virtd_api::{Request, Turn};
use virtd_config::Config;
use virtd_linux::foreign::{self, Foreign};
use virtd_linux::instances::Report;
use virtd_linux::journal::Journal;
use virtd_linux::sys::{self, Errno};
use wire::shim::Reply;

/// TCP connections with peers at once: two for each session the core can have (RFC 4271 section
/// 6.8, collision).
const MAX_CONNECTIONS: usize = 8192;
/// Legs of one instance at once: the same, seen from the other side.
const MAX_LEGS: usize = 8192;
/// Listening sockets of one instance at once: one for each of a router's addresses.
const MAX_LISTENING: usize = 1024;
/// The same refusal is told again only after this.
const REFUSAL_PAUSE_US: Micros = 1_000_000;
/// How long a closed connection with a peer may take to deliver what is queued, its NOTIFICATION
/// above all.
const PEER_LINGER_US: Micros = 5_000_000;
/// The same for a leg.
const LEG_LINGER_US: Micros = 1_000_000;
/// How long virtd's end may wait for its last words to be taken.
const FAREWELL_US: Micros = 1_000_000;
/// Failed connects whose errno waits for SO_ERROR.
const MAX_FAILED: usize = 4096;
/// A turn that has taken so long goes no further than what it has begun; the rest gets the next one.
const TURN_US: Micros = 10_000;

/// What a token stands for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Waker,
    /// One of those where shims come.
    Shims(usize),
    Listener(usize),
    Peer(ConnId),
    Leg(LegId),
    Channel(u64),
    Listening(ListenerId),
    /// A daemon's end of a netlink pair.
    Netlink(NetlinkId),
    /// The real netlink socket behind it.
    Kernel(NetlinkId),
    /// The process that writes an image of the journal.
    Image,
}

struct Peer {
    stream: Stream,
    token: Token,
    /// Dialled and not connected yet.
    dialling: bool,
    agreed: options::Agreed,
    /// Whether we dialled it, our address and the peer's.
    ends: Option<(bool, SocketAddr, SocketAddr)>,
}

struct Leg {
    stream: Stream,
    token: Token,
    instance: InstanceId,
    /// SO_COOKIE of the daemon's end.
    cookie: u64,
    /// Registered for writability: only while the socket is full, because a Unix socket says so
    /// after every read of the daemon's.
    wants_write: bool,
    /// Stands in the list of those that are written a turn later.
    later: bool,
    /// The instance's connect has not been answered; octets of filler to read away when it is.
    connecting: Option<usize>,
    /// Where a blocking connect waits.
    waiting: Option<Foreign>,
    names: Option<(SocketAddr, SocketAddr)>,
    conn: Option<ConnId>,
    /// What the instance has set, in order, for the connection it dials.
    wanted: options::Wanted,
}

impl Leg {
    fn new(stream: Stream, token: Token, instance: InstanceId, cookie: u64) -> Leg {
        Leg {
            stream,
            token,
            instance,
            cookie,
            wants_write: false,
            later: false,
            connecting: None,
            waiting: None,
            names: None,
            conn: None,
            wanted: options::Wanted::default(),
        }
    }
}

/// What an SO_COOKIE of a daemon's socket names.
#[derive(Clone, Copy, Debug)]
enum Named {
    Leg(LegId),
    Listening(ListenerId),
    Netlink(NetlinkId),
    /// A connect that failed with this errno, not yet asked for.
    Failed(i32),
}

/// See the module's comment.
pub struct Driver {
    broker: Core,
    config: Config,
    poll: Poll,
    waker: Arc<Waker>,
    started: Instant,
    now: Micros,
    /// The longest turn so far.
    longest_turn: Turn,
    /// All turns, by the wall clock in microseconds.
    turns: Delays,
    sources: HashMap<Token, Source>,
    next_token: usize,
    next_id: u64,
    listeners: Vec<listen::Place>,
    /// When to try again to listen where that has failed.
    listen_again: Option<Micros>,
    /// Where shims come: by path, and by name where that can be had.
    shims: Vec<(OwnedFd, Token)>,
    peers: HashMap<ConnId, Peer>,
    legs: HashMap<LegId, Leg>,
    listening: HashMap<ListenerId, Listening>,
    channels: HashMap<u64, Channel>,
    netlinks: HashMap<NetlinkId, netlink::Endpoint>,
    /// Those whose requests have their answer before virtd reads them.
    ahead: Vec<(InstanceId, NetlinkId)>,
    /// Whose requests have been taken in this turn, and what waits until their answers are there.
    answered: Vec<(NetlinkId, Option<Foreign>)>,
    /// By instance and SO_COOKIE: no instance can name another's sockets.
    named: HashMap<(InstanceId, u64), Named>,
    /// MD5 keys on our listening sockets, and who wants them.
    keys: keys::Keys,
    failed: VecDeque<(InstanceId, u64)>,
    netns_cookie: u64,
    /// Users that each instance may run as, besides root and virtd's own.
    users: Vec<Option<u32>>,
    /// The last refusal told, and when.
    refusal: (Micros, String),
    /// Connections to peers that the operator knows to have been refused: whose, and where to.
    told_passages: HashSet<(InstanceId, IpAddr, u16)>,
    /// Processor time at the beginning of this turn.
    began: Duration,
    /// Sources that have something for us.
    waiting: Waiting,
    /// Sources to be read again without waiting for an edge.
    again: Vec<Token>,
    /// While a tick waits for them: those found until then come before it.
    unread_until: Option<Micros>,
    accept_again: Option<Micros>,
    /// Accept has failed and the operator knows; until it works again.
    accept_failing: bool,
    /// What nobody waits for.
    deferred: Deferred,
    written: Vec<Source>,
    /// Capacity for `written`, kept between turns.
    spare: Vec<Source>,
    closing: Vec<Source>,
    scratch: Vec<u8>,
    /// What the kernel says to a netlink socket.
    from_kernel: Vec<u8>,
    /// Room for a daemon's netlink datagram.
    datagram: Vec<u8>,
    /// Room for the answers to it.
    answers: Vec<Bytes>,
    /// Room for the fds that may come with whatever is read from a Unix socket.
    passed: Vec<u8>,
    lines: Lines,
    lost_events: u64,
    /// What the next worker must know; none where nothing can be kept.
    journal: Option<Journal>,
    /// The image of it that is being written, and not before when another one is.
    image: Option<image::Writing>,
    image_again: Micros,
    /// Who reads the routing tables and waits for frames.
    readers: Vec<readers::Waiter>,
}

impl Driver {
    /// Takes over what an earlier worker has left, and opens the sockets: the BGP port on every configured address, where it takes connections once
    /// an instance listens, and the shim's.
    ///
    /// # Errors
    /// Names the address or path that could not be opened, and the likely remedy.
    pub fn new(config: Config, broker: Core, lines: Lines, mut estate: Estate) -> Result<Driver> {
        let poll = Poll::new().context("epoll")?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).context("eventfd")?);
        let mut listeners = Vec::new();
        for ip in &config.listen {
            let addr = SocketAddr::new(*ip, config.port);
            let place = listen::Place::configured(addr).with_context(|| {
                format!("cannot listen on {addr}: stop whatever has the port (a routing daemon without the shim?), or set router.listen")
            })?;
            listeners.push(place);
        }
        if let Some(dir) = config.shim_socket.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let path = config.shim_socket.display().to_string();
        let by_path =
            shim::listen_on(&config.shim_socket).with_context(|| format!("cannot open the shim's socket {path}"))?;
        let group = config.shim_group.as_deref().map(|g| crate::control::group_id("shim_group", g)).transpose()?;
        shim::open_to(&config.shim_socket, group).with_context(|| format!("cannot set group and mode of {path}"))?;
        let netns_cookie =
            listeners.first().and_then(|p: &listen::Place| p.socket.as_ref()).map_or(0, sys::netns_cookie);
        let users = config.instances.iter().map(virtd_linux::kinds::uid).collect();
        let mut driver = Driver {
            broker,
            config,
            poll,
            waker,
            started: Instant::now(),
            now: 0,
            longest_turn: Turn::default(),
            turns: Delays::default(),
            sources: HashMap::new(),
            next_token: 1,
            next_id: 1,
            listeners,
            listen_again: None,
            shims: Vec::new(),
            peers: HashMap::new(),
            legs: HashMap::new(),
            listening: HashMap::new(),
            channels: HashMap::new(),
            netlinks: HashMap::new(),
            ahead: Vec::new(),
            answered: Vec::new(),
            named: HashMap::new(),
            keys: keys::Keys::default(),
            failed: VecDeque::new(),
            netns_cookie,
            users,
            refusal: (0, String::new()),
            told_passages: HashSet::new(),
            began: Duration::ZERO,
            waiting: Waiting::default(),
            again: Vec::new(),
            unread_until: None,
            accept_again: None,
            accept_failing: false,
            deferred: Deferred::default(),
            written: Vec::new(),
            spare: Vec::new(),
            closing: Vec::new(),
            scratch: vec![0; READ_BUDGET],
            from_kernel: vec![0; netlink::MAX_FROM_KERNEL],
            datagram: Vec::new(),
            answers: Vec::new(),
            passed: foreign::room(),
            lines,
            lost_events: 0,
            journal: None,
            image: None,
            image_again: 0,
            readers: Vec::new(),
        };
        driver.sources.insert(Token(0), Source::Waker);
        let by_name = shim::by_name(std::mem::take(&mut estate.by_name), &driver.config.shim_socket);
        driver.take_over(estate);
        if let Err(e) = &by_name {
            let text = format!(
                "the shim's socket has no name besides its path ({e}): a daemon that has changed its root, as OpenBGPD does, cannot come back to virtd"
            );
            driver.warn("shim-refused", text);
        }
        for fd in [Some(by_path), by_name.ok()].into_iter().flatten() {
            let token = driver.register(fd.as_raw_fd(), Source::Shims(driver.shims.len()), false)?;
            driver.shims.push((fd, token));
        }
        driver.share_socket();
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
        while !stop.load(Ordering::Relaxed) {
            self.once(&mut events, control)?;
            self.give_images();
            if self.lines.leave.is_wanted() {
                self.leave();
            }
        }
        turn::turn(self, |driver| driver.broker.handle(driver.now, Input::Stop));
        let patience = self.now + FAREWELL_US;
        while !self.closing.is_empty() && self.now < patience {
            self.once(&mut events, control)?;
        }
        Ok(())
    }

    /// Waits for something to happen and sees to it.
    fn once(&mut self, events: &mut Events, control: &Receiver<ControlRequest>) -> Result<()> {
        let timeout = self.timeout();
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(e).context("epoll_wait"),
        }
        self.began = thread_time();
        self.now = self.elapsed();
        turn::turn(self, |driver| driver.read(events, control));
        self.finish_closing();
        if let Some(journal) = &self.journal {
            journal.is_done();
        }
        if !self.readers.is_empty() {
            self.tell_readers();
        }
        self.lines.kernel.hold(self.broker.holds_kernel());
        self.keep_journal_short();
        let now = self.elapsed();
        self.lines.beat.turned(now, &self.lines.master);
        let turn = Turn { us: self.used(), wall_us: now - self.now };
        self.turns.note(turn.wall_us);
        if turn.us > self.longest_turn.us {
            self.longest_turn = turn;
        }
        Ok(())
    }

    /// Processor time of this turn so far.
    fn used(&self) -> Micros {
        thread_time().saturating_sub(self.began).as_micros() as Micros
    }

    fn elapsed(&self) -> Micros {
        self.started.elapsed().as_micros() as Micros
    }

    /// Gives the core what has come, as far as there is time.
    fn read(&mut self, events: &Events, control: &Receiver<ControlRequest>) {
        self.accept_late();
        for token in std::mem::take(&mut self.again) {
            let asking = self.asks(token);
            self.waiting.push(token, Ready::again(self.now), asking);
        }
        for event in events {
            let ready = Ready::new(event, self.now);
            // The end of a daemon's channel comes after what the daemon has said before.
            let asking = !ready.exhaust && self.asks(event.token());
            self.waiting.push(event.token(), ready, asking);
        }
        if self.waiting.is_empty() {
            foreign::close_spent();
        }
        while let Some((token, ready)) = self.waiting.pop_asking() {
            self.on_event(token, ready, control);
        }
        while let Some((token, ready)) = self.waiting.pop() {
            self.on_event(token, ready, control);
            if self.is_late() {
                break;
            }
            // Who has more goes behind the others.
            if self.again.last() == Some(&token) && !self.asks(token) {
                self.again.pop();
                self.waiting.push(token, Ready::again(self.now), false);
            }
        }
    }

    /// Whether somebody who has said something there stands still until he has his answer: a daemon
    /// cannot see to any of its sessions meanwhile.
    fn asks(&self, token: Token) -> bool {
        matches!(self.sources.get(&token), Some(Source::Shims(_) | Source::Channel(_) | Source::Netlink(_)))
    }

    fn timeout(&mut self) -> Option<Duration> {
        let wake_at = turn::wake_at(self);
        if !(self.again.is_empty() && self.waiting.is_empty()) {
            return Some(Duration::ZERO);
        }
        let closing = if self.closing.is_empty() { None } else { Some(self.now + LEG_LINGER_US / 4) };
        let (readers, beat) = (self.readers_wake_at(), self.lines.beat.due());
        let at = [wake_at, self.accept_again, self.listen_again, closing, readers, beat];
        let at = at.into_iter().flatten().min()?;
        Some(Duration::from_micros(at.saturating_sub(self.elapsed())))
    }

    fn register(&mut self, fd: RawFd, source: Source, write: bool) -> Result<Token> {
        let token = Token(self.next_token);
        self.next_token += 1;
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().register(&mut SourceFd(&fd), token, interest).context("epoll_ctl")?;
        self.sources.insert(token, source);
        Ok(token)
    }

    fn forget(&mut self, token: Token, fd: RawFd) {
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        self.sources.remove(&token);
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 2;
        self.next_id
    }

    /// Tells the operator. Never waits: what the log cannot take is counted.
    fn tell(&mut self, event: Event) {
        match self.lines.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost_events += 1,
        }
    }

    fn warn(&mut self, kind: &'static str, text: String) {
        let event = Event::new(self.now, kind, Severity::Warning, text);
        self.tell(event);
    }

    /// Somebody was turned away. Whoever keeps knocking is not told of again and again.
    fn refused(&mut self, kind: &'static str, text: String) {
        let (at, last) = &self.refusal;
        if *last != text || self.now >= at + REFUSAL_PAUSE_US {
            self.refusal = (self.now, text.clone());
            self.warn(kind, text);
        }
    }

    fn on_event(&mut self, token: Token, ready: Ready, control: &Receiver<ControlRequest>) {
        let Ready { readable, writable, exhaust, .. } = ready;
        let Some(source) = self.sources.get(&token).copied() else { return };
        match source {
            Source::Waker => {
                foreign::close_spent();
                for mut request in control.try_iter() {
                    if let (Some(config), Request::Reload { dry_run }) = (request.config.take(), &request.request) {
                        let dry_run = *dry_run;
                        let (peers, native_ports) = (config.peers.clone(), config.native_ports.clone());
                        if !dry_run {
                            self.broker.note_reload(self.now, request.by.as_ref());
                        }
                        let answer = self.broker.reload(self.now, *config, dry_run);
                        if !dry_run && answer.is_ok() {
                            self.lines.kernel.watch_peers(peers.iter().map(|p| p.address).collect());
                            self.reload_passages(peers, native_ports);
                        }
                        let _ = request.reply.try_send(answer.map(Answer::Reloaded));
                        continue;
                    }
                    let ControlRequest { request: asked, by, .. } = &request;
                    let mut answer = self.broker.query(self.now, asked, by.as_ref());
                    if let Ok(Answer::Fib(fib)) = &mut answer {
                        let kernel = self.lines.kernel.counters.snapshot();
                        fib.memory_bytes += kernel.memory;
                        fib.kernel = Some(kernel);
                    }
                    if let Ok(Answer::Status(status)) = &mut answer {
                        status.longest_turn = Some(self.longest_turn);
                        status.turns = Some(self.turns.durations(1));
                    }
                    let _ = request.reply.try_send(answer);
                }
                self.hear_readers();
                while let Ok(report) = self.lines.reports.try_recv() {
                    let Report { instance, news } = report;
                    self.broker.handle(self.now, Input::Process { instance, news });
                }
                while let Ok(news) = self.lines.kernel.news.try_recv() {
                    self.broker.handle(self.now, Input::Kernel(news));
                }
            }
            Source::Shims(i) => self.accept_channels(i),
            Source::Listener(i) => self.accept_peers(i),
            Source::Channel(id) => self.channel_readable(id),
            Source::Listening(id) => self.listening_event(id),
            Source::Netlink(id) => {
                if writable {
                    self.netlink_write(id);
                }
                if readable {
                    let _more = self.netlink_readable(id, true);
                    turn::notify(self);
                }
            }
            Source::Kernel(id) => self.kernel_readable(id),
            Source::Image => self.image_written(),
            Source::Peer(conn) => {
                self.peer_event(conn, readable, writable, exhaust);
            }
            Source::Leg(leg) => {
                if writable && let Some(l) = self.legs.get_mut(&leg) {
                    l.stream.blocked = false;
                    self.written.push(source);
                }
                if readable {
                    self.leg_readable(leg, exhaust);
                }
            }
        }
    }

    fn add_peer(&mut self, conn: ConnId, stream: std::net::TcpStream, dialling: bool) -> Result<()> {
        let token = self.register(stream.as_raw_fd(), Source::Peer(conn), true)?;
        let stream = Stream::new(Io::Tcp(stream));
        self.peers.insert(conn, Peer { stream, token, dialling, agreed: options::Agreed::default(), ends: None });
        Ok(())
    }
}

/// Processor time that this thread has used.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl EventLoop for Driver {
    fn waker(&self) -> Arc<Waker> {
        self.loop_waker()
    }

    fn run(&mut self, control: &Receiver<ControlRequest>, stop: &AtomicBool) -> Result<()> {
        self.run_loop(control, stop)
    }
}

impl Drop for Driver {
    /// The path must not outlive the process: a shim would wait for nobody.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.config.shim_socket);
    }
}
