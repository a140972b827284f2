//! A driver in a thread, and the shim's part of the protocol spoken by hand.

use broker::Core;
use broker::event::Event;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg,
    sendmsg, socket as new_socket, socketpair,
};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use virtd::control::{self, ControlRequest};
use virtd::driver::{Driver, Estate};
use virtd::serve::EventLoop;
use virtd::serve::Lines;
use virtd::upgrade::Leave;
use virtd::worker::Master;
use virtd_config::{Config, Instance, OpenMode};
use virtd_linux::kernel::{Kernel, KernelLine, LoopWaker};
use virtd_master::link::Link;
use virtd_master::twin::Twins;
use wire::shim::{Accepted, MAX_MESSAGE, Options, PROTOCOL_VERSION, Reply, Request};

/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// The test that counts the fds of this process runs while no other does.
static GATE: RwLock<()> = RwLock::new(());

enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// The loop is to stand still; it does.
static HELD: AtomicBool = AtomicBool::new(false);
static STANDS: AtomicBool = AtomicBool::new(false);

extern "C" fn stand_still(_: i32) {
    STANDS.store(true, Ordering::SeqCst);
    while HELD.load(Ordering::SeqCst) {
        let moment = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: the time is valid through the call, and nothing is written.
        #[allow(unsafe_code)]
        unsafe {
            libc::nanosleep(&moment, std::ptr::null_mut())
        };
    }
    STANDS.store(false, Ordering::SeqCst);
}

/// See [`Lab::hold`].
pub struct Held(#[allow(dead_code, reason = "it is held")] MutexGuard<'static, ()>);

impl Drop for Held {
    fn drop(&mut self) {
        HELD.store(false, Ordering::SeqCst);
        while STANDS.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A running driver.
pub struct Lab {
    pub config: Config,
    events: Receiver<Event>,
    stop: Arc<AtomicBool>,
    waker: Arc<mio::Waker>,
    thread: Option<JoinHandle<()>>,
    kernel: Option<Kernel>,
    control: Sender<ControlRequest>,
    _dir: tempfile::TempDir,
    _turn: Turn,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Lab {
    pub fn start(instances: &[&str], open: OpenMode) -> Lab {
        Lab::start_with(instances, open, |_| ())
    }

    pub fn start_with(instances: &[&str], open: OpenMode, change: impl FnOnce(&mut Config)) -> Lab {
        let guard = GATE.read().unwrap_or_else(PoisonError::into_inner);
        Lab::run(instances, open, change, Turn::Shared { _guard: guard })
    }

    pub fn start_alone(instances: &[&str], open: OpenMode) -> Lab {
        Lab::start_alone_with(instances, open, |_| ())
    }

    pub fn start_alone_with(instances: &[&str], open: OpenMode, change: impl FnOnce(&mut Config)) -> Lab {
        let guard = GATE.write().unwrap_or_else(PoisonError::into_inner);
        Lab::run(instances, open, change, Turn::Alone { _guard: guard })
    }

    fn run(instances: &[&str], open: OpenMode, change: impl FnOnce(&mut Config), turn: Turn) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        // Other users' shims come as far as the socket.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = Config {
            listen: vec![Ipv4Addr::LOCALHOST.into()],
            shim_socket: dir.path().join("hv.sock"),
            instances: instances.iter().map(|n| Instance { name: (*n).to_owned(), ..Instance::default() }).collect(),
            accept_any: true,
            open,
            ..Config::default()
        };
        change(&mut config);
        let (sender, events) = bounded(1024);
        let (mut driver, kernel) = loop {
            config.port = free_port();
            let (lines, kernel, wakes) = lines(&sender, &config);
            match Driver::new(config.clone(), Core::new(&config, 0), lines, Estate::of(Vec::new())) {
                Ok(driver) => {
                    let _ = wakes.set(driver.waker());
                    // For what the kernel's thread has said before.
                    let _ = driver.waker().wake();
                    break (driver, kernel);
                }
                // Another test was given the same port.
                Err(e) => assert!(format!("{e:#}").contains("in use"), "{e:#}"),
            }
        };
        let (control, requests) = unbounded();
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), driver.waker());
        let flag = stop.clone();
        let thread = std::thread::spawn(move || driver.run(&requests, &flag).unwrap());
        Lab { config, events, stop, waker, thread: Some(thread), kernel, control, _dir: dir, _turn: turn }
    }

    /// Where peers connect to.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.config.port)
    }

    /// A shim of this instance that was let in.
    pub fn shim(&self, instance: &str) -> Shim {
        let shim = Shim::connect(&self.config.shim_socket);
        assert_eq!(shim.hello(instance), Answer::Welcome(self.config.port));
        shim
    }

    /// Waits for an event of this kind; its text.
    pub fn event(&self, kind: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_deadline(deadline) {
                Ok(e) if e.kind == kind => return e.text,
                Ok(_) => {}
                Err(_) => panic!("no event {kind}"),
            }
        }
    }

    /// Returns once the loop has ended the turn it was in, and let go of every fd it had to do with
    /// in it.
    pub fn end_of_turn(&self) {
        let (reply, answer) = bounded(1);
        self.control
            .send(ControlRequest { request: virtd_api::Request::Status, by: None, config: None, reply })
            .unwrap();
        self.waker.wake().unwrap();
        let _status = answer.recv_timeout(PATIENCE).unwrap();
    }

    /// How many events of this kind have come since.
    pub fn events_of(&self, kind: &str) -> usize {
        self.events.try_iter().filter(|e| e.kind == kind).count()
    }

    /// The loop stands still until what comes back is dropped: a thread that is in a signal's handler.
    #[allow(dead_code, reason = "not every test file holds it")]
    pub fn hold(&self) -> Held {
        use std::os::unix::thread::JoinHandleExt;
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        HELD.store(true, Ordering::SeqCst);
        let handler = SigHandler::Handler(stand_still);
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler calls nanosleep alone, which may be called there.
        #[allow(unsafe_code)]
        unsafe { sigaction(Signal::SIGUSR2, &action) }.unwrap();
        let thread = self.thread.as_ref().unwrap().as_pthread_t();
        // SAFETY: the thread has not been joined.
        #[allow(unsafe_code)]
        let r = unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
        assert_eq!(r, 0);
        let deadline = Instant::now() + PATIENCE;
        while !STANDS.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "the loop goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        Held(one)
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake().unwrap();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        if let Some(kernel) = self.kernel.take() {
            kernel.stop();
        }
    }

    /// Asks as virtctl does.
    #[allow(dead_code, reason = "only the tests of the FIB ask")]
    pub fn query(&self, request: serde_json::Value) -> serde_json::Value {
        let (reply, answer) = bounded(1);
        let request = serde_json::from_value(request).unwrap();
        self.control.send(ControlRequest { request, by: None, config: None, reply }).unwrap();
        self.waker.wake().unwrap();
        control::json(answer.recv_timeout(PATIENCE).unwrap()).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// A [`Reply`] of one's own.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Welcome(u16),
    Done,
    Error(i32, String),
    Option(Vec<u8>),
    Names(SocketAddr, Option<SocketAddr>),
    /// nl_pid and nl_groups.
    NetlinkName(u32, u32),
    /// The end for the answer was closed without one.
    Nothing,
    Passage(bool),
}

impl Answer {
    /// The errno of an error; what is none stands as -1.
    pub fn errno(&self) -> i32 {
        if let Answer::Error(errno, _) = self { *errno } else { -1 }
    }
}

/// A daemon's control channel.
pub struct Shim {
    channel: OwnedFd,
}

impl Shim {
    pub fn connect(path: &Path) -> Shim {
        let channel = new_socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        SockRef::from(&channel).set_read_timeout(Some(PATIENCE)).unwrap();
        connect(channel.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Shim { channel }
    }

    pub fn hello(&self, instance: &str) -> Answer {
        self.ask(&Request::Hello { version: PROTOCOL_VERSION, instance, pid: 1, netns_cookie: 0 }, &[])
    }

    pub fn send(&self, bytes: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let raw = self.channel.as_raw_fd();
        sendmsg::<()>(raw, &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None).unwrap();
    }

    /// Sends a request with these fds and a socket for the answer; waits for that.
    pub fn ask(&self, request: &Request<'_>, fds: &[RawFd]) -> Answer {
        let (ours, theirs) = pair(SockType::SeqPacket);
        let mut buf = [0; MAX_MESSAGE];
        let n = request.encode(&mut buf).unwrap();
        let fds: Vec<RawFd> = fds.iter().copied().chain([theirs.as_raw_fd()]).collect();
        self.send(&buf[..n], &fds);
        drop(theirs);
        let n = receive(&ours, &mut buf).expect("no answer");
        match Reply::decode(&buf[..n]) {
            _ if n == 0 => Answer::Nothing,
            Ok(Reply::Welcome { bgp_port, .. }) => Answer::Welcome(bgp_port),
            Ok(Reply::Done) => Answer::Done,
            Ok(Reply::Error { errno, text }) => Answer::Error(errno, text.to_owned()),
            Ok(Reply::Option { value }) => Answer::Option(value.to_vec()),
            Ok(Reply::Names { local, remote }) => Answer::Names(local, remote),
            Ok(Reply::NetlinkName { port_id, groups }) => Answer::NetlinkName(port_id, groups),
            Ok(Reply::Passage { redirected }) => Answer::Passage(redirected),
            Err(e) => panic!("{e:?}"),
        }
    }

    /// Whether virtd closes the channel.
    pub fn is_closed(&self) -> bool {
        matches!(receive(&self.channel, &mut [0; 16]), Ok(0))
            || matches!(
                nix::sys::socket::recv(self.channel.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT),
                Ok(0) | Err(nix::errno::Errno::ECONNRESET)
            )
    }

    /// connect of a new leg; the daemon's end.
    pub fn dial(&self, cookie: u64, remote: SocketAddr, filler_len: u32, options: Options<'_>) -> (OwnedFd, Answer) {
        let (ours, theirs) = pair(SockType::Stream);
        let answer = self.connect_with(cookie, remote, filler_len, options, theirs);
        (ours, answer)
    }

    /// The same with a pair made before.
    pub fn connect_with(
        &self,
        socket: u64,
        remote: SocketAddr,
        filler_len: u32,
        options: Options<'_>,
        end: OwnedFd,
    ) -> Answer {
        let local = wire::shim::ANY;
        self.ask(&Request::Connect { socket, local, remote, filler_len, options }, &[end.as_raw_fd()])
    }

    /// bind and listen; the daemon's end.
    pub fn listen(&self, socket: u64, local: SocketAddr) -> OwnedFd {
        let (ours, theirs) = pair(SockType::SeqPacket);
        let bind = Request::Bind { socket, local, v6_only: false, options: Options::default() };
        assert_eq!(self.ask(&bind, &[theirs.as_raw_fd()]), Answer::Done);
        assert_eq!(self.ask(&Request::Listen { socket, backlog: 5 }, &[]), Answer::Done);
        ours
    }
}

/// A socketpair whose first end does not wait forever.
pub fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    SockRef::from(&pair.0).set_read_timeout(Some(PATIENCE)).unwrap();
    pair
}

/// recv, waiting. A socket with a time limit (SO_RCVTIMEO) gives EINTR once the process was stopped
/// and goes on, whatever handlers there are (signal(7)).
pub fn receive(from: &OwnedFd, buf: &mut [u8]) -> nix::Result<usize> {
    loop {
        match nix::sys::socket::recv(from.as_raw_fd(), buf, MsgFlags::empty()) {
            Err(nix::errno::Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// A stream pair filled as the shim fills it before a connect that does not wait, and with how
/// much.
pub fn filled() -> ((OwnedFd, OwnedFd), u32) {
    let pair = pair(SockType::Stream);
    let mut n = 0;
    while writable(&pair.0, 0) {
        n += nix::sys::socket::send(pair.0.as_raw_fd(), &[0; 65536], MsgFlags::MSG_DONTWAIT).unwrap_or(0);
    }
    (pair, n as u32)
}

/// A TCP socket.
pub fn socket(_family: i32) -> OwnedFd {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap().into()
}

/// Whether it becomes writable, or fails, within so many milliseconds.
pub fn writable(fd: &impl AsFd, ms: u16) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(ms)).unwrap() > 0
}

/// Any stream socket, to be read and written; reading does not wait forever.
pub fn stream(fd: OwnedFd) -> TcpStream {
    SockRef::from(&fd).set_read_timeout(Some(PATIENCE)).unwrap();
    TcpStream::from(fd)
}

/// Reads exactly this.
pub fn reads(from: &mut impl Read, what: &[u8]) {
    let mut buf = vec![0; what.len()];
    from.read_exact(&mut buf).unwrap();
    assert_eq!(buf, what);
}

/// What accept does under the shim.
pub fn accept(listening: &OwnedFd) -> (Accepted, OwnedFd) {
    let mut buf = [0; 128];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut buf)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let m = recvmsg::<()>(listening.as_raw_fd(), &mut slices, Some(&mut space), flags).expect("nothing to accept");
    let fd = m.cmsgs().unwrap().find_map(|c| match c {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let n = m.bytes;
    // SAFETY: recvmsg has just handed it out; nothing else owns it.
    #[allow(unsafe_code)]
    let fd = unsafe { OwnedFd::from_raw_fd(fd.expect("no fd")) };
    (Accepted::decode(&buf[..n]).unwrap(), fd)
}

/// A peer that connects.
pub fn plain_connect(to: SocketAddr) -> io::Result<TcpStream> {
    let s = TcpStream::connect_timeout(&to, PATIENCE)?;
    s.set_read_timeout(Some(PATIENCE))?;
    Ok(s)
}

/// Whether a peer without a key gets through.
pub fn connects(to: SocketAddr, patience: Duration) -> io::Result<()> {
    TcpStream::connect_timeout(&to, patience).map(drop)
}

/// Whether a peer gets through with this MD5 key, and not without.
pub fn with_key(to: SocketAddr, secret: &[u8]) -> bool {
    let s = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let value = key([127, 0, 0, 1], secret);
    // SAFETY: pointer and length describe `value`, which lives through the call.
    #[allow(unsafe_code)]
    let r = unsafe {
        libc::setsockopt(s.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MD5SIG, value.as_ptr().cast(), value.len() as u32)
    };
    assert_eq!(r, 0, "TCP_MD5SIG: {}", io::Error::last_os_error());
    s.connect_timeout(&SockAddr::from(to), Duration::from_secs(2)).is_ok()
        && connects(to, Duration::from_millis(300)).is_err()
}

/// struct tcp_md5sig.
pub fn key(peer: [u8; 4], secret: &[u8]) -> Vec<u8> {
    let mut v = vec![0; 216];
    v[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    v[4..8].copy_from_slice(&peer);
    v[130..132].copy_from_slice(&(secret.len() as u16).to_ne_bytes());
    v[136..136 + secret.len()].copy_from_slice(secret);
    v
}

/// One option as `Options` carries it.
pub fn option_bytes(level: i32, name: i32, value: &[u8]) -> Vec<u8> {
    let mut v = Vec::new();
    v.extend(level.to_le_bytes());
    v.extend(name.to_le_bytes());
    v.extend((value.len() as u16).to_le_bytes());
    v.extend(value);
    v
}

/// Runs something as another user and in no group of ours, in a thread of its own: the bare system
/// calls change no other thread.
pub fn as_user<T: Send + 'static>(uid: u32, what: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        // SAFETY: numbers only, and an empty list of groups; no memory is touched.
        #[allow(unsafe_code)]
        let r = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()),
                libc::syscall(libc::SYS_setresgid, uid, uid, uid),
                libc::syscall(libc::SYS_setresuid, uid, uid, uid),
            ]
        };
        assert_eq!(r, [0; 3]);
        what()
    });
    thread.join().unwrap()
}

/// The driver's lines, with nobody at their other ends but the one for events, and the kernel's
/// thread where there is a FIB.
fn lines(events: &Sender<Event>, config: &Config) -> (Lines, Option<Kernel>, LoopWaker) {
    let wakes = LoopWaker::default();
    let (kernel, thread) = match &config.fib {
        Some(fib) => {
            let (line, thread) = virtd_linux::kernel::start(fib, Instant::now(), wakes.clone()).unwrap();
            (line, Some(thread))
        }
        None => (KernelLine::none(), None),
    };
    let twins = Arc::new(Twins::new(Arc::new(Link::pair().unwrap().0)));
    let lines = Lines {
        leave: Leave { wanted: Arc::default(), images: crossbeam_channel::never(), twins },
        beat: virtd::driver::Beat::every(0),
        ports: Default::default(),
        events: events.clone(),
        master: Master::new(Path::new("virtd.toml")).0,
        reports: bounded(1).1,
        records: bounded(1).0,
        kernel,
        ribs: crossbeam_channel::never(),
    };
    (lines, thread, wakes)
}
