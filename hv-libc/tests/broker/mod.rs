//! A broker for one test: it speaks the shim's protocol and joins every leg to a real TCP
//! connection of its own, so that a probe under the shim meets the same world as one without it.
//! Blocking, a thread for each thing that can wait.

mod netlink;

use nix::sys::socket::{
    accept, bind, connect, listen, recvmsg, send, sendmsg, setsockopt, shutdown, socket, socketpair, sockopt,
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    SockaddrStorage, UnixAddr,
};
use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use wire::shim::{Accepted, Reply, Request, MAX_MESSAGE, PROTOCOL_VERSION};

const SO_COOKIE: i32 = 57;

enum Named {
    Bound {
        end: OwnedFd,
        local: SocketAddr,
        v6_only: bool,
    },
    Listening(TcpListener),
    Connecting,
    Leg(TcpStream),
    Failed(i32),
    /// The real socket behind a route socket, and the broker's end.
    Netlink(OwnedFd, OwnedFd),
}

#[derive(Default)]
struct State {
    named: HashMap<u64, Named>,
    channels: Vec<OwnedFd>,
    log: Vec<String>,
    stopped: bool,
    /// Another port on which a peer listens.
    peer_port: u16,
    /// Said in Welcome.
    netlink: bool,
    answer_ahead: bool,
    /// Route sockets are redirected, and then not to be had.
    refuse: bool,
}

/// Runs until dropped.
pub struct Broker {
    path: PathBuf,
    front: OwnedFd,
    state: Arc<Mutex<State>>,
    dir: Arc<tempfile::TempDir>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Broker {
    /// Listens for shims; they are told that `port` is the BGP port.
    pub fn start(port: u16) -> Broker {
        Broker::start_in(Arc::new(tempfile::tempdir().expect("a temporary folder")), port)
    }

    /// Killed; gives the folder in which another can be started.
    pub fn kill(self) -> Arc<tempfile::TempDir> {
        Arc::clone(&self.dir)
    }

    /// Another at the same path.
    pub fn start_in(dir: Arc<tempfile::TempDir>, port: u16) -> Broker {
        let path = dir.path().join("virtd.sock");
        let _ = std::fs::remove_file(&path);
        let front = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
        bind(front.as_raw_fd(), &UnixAddr::new(&path).expect("path")).expect("bind");
        listen(&front, Backlog::new(16).expect("backlog")).expect("listen");
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, door) = (Arc::clone(&state), front.try_clone().expect("dup"));
        thread::spawn(move || {
            while let Ok(fd) = accept(door.as_raw_fd()) {
                // SAFETY: accept has just handed it out.
                let channel = unsafe { OwnedFd::from_raw_fd(fd) };
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&channel, port, &shared));
            }
        });
        Broker { path, front, state, dir }
    }

    /// From now on this port is a peer's, and the one below it may not be connected to.
    pub fn peer_at(self, port: u16) -> Broker {
        lock(&self.state).peer_port = port;
        self
    }

    /// From now on route sockets are redirected too.
    pub fn redirect_netlink(self) -> Broker {
        lock(&self.state).netlink = true;
        self
    }

    /// Which is then refused with ENOBUFS.
    pub fn refuse_netlink(self) -> Broker {
        lock(&self.state).refuse = true;
        self
    }

    /// And shims may acknowledge what they know will be granted.
    pub fn let_answer_ahead(self) -> Broker {
        lock(&self.state).answer_ahead = true;
        self
    }

    /// For HV_SOCKET.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The requests so far, a word each.
    pub fn log(&self) -> Vec<String> {
        lock(&self.state).log.clone()
    }
}

impl Drop for Broker {
    /// As if virtd were killed: every fd closes.
    fn drop(&mut self) {
        let _ = shutdown(self.front.as_raw_fd(), Shutdown::Both);
        let mut s = lock(&self.state);
        s.stopped = true;
        for c in s.channels.drain(..) {
            let _ = shutdown(c.as_raw_fd(), Shutdown::Both);
        }
        for (_, n) in s.named.drain() {
            match n {
                Named::Listening(listener) => drop(shutdown(listener.as_raw_fd(), Shutdown::Both)),
                Named::Leg(tcp) => drop(tcp.shutdown(std::net::Shutdown::Both)),
                Named::Netlink(_, end) => drop(shutdown(end.as_raw_fd(), Shutdown::Both)),
                Named::Bound { .. } | Named::Connecting | Named::Failed(_) => {}
            }
        }
    }
}

fn receive(channel: &OwnedFd, buf: &mut [u8]) -> Option<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut slices = [IoSliceMut::new(buf)];
    let msg = recvmsg::<()>(channel.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
    let mut fds = Vec::new();
    for c in msg.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(list) = c {
            // SAFETY: recvmsg has just handed them out.
            fds.extend(list.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    (msg.bytes > 0).then_some((msg.bytes, fds))
}

fn answer(to: &OwnedFd, reply: &Reply<'_>) {
    let mut buf = [0u8; MAX_MESSAGE];
    let n = reply.encode(&mut buf).expect("fits");
    let _ = send(to.as_raw_fd(), &buf[..n], MsgFlags::MSG_NOSIGNAL);
}

fn error(to: &OwnedFd, errno: i32) {
    answer(to, &Reply::Error { errno, text: "" });
}

fn serve(channel: &OwnedFd, port: u16, state: &Arc<Mutex<State>>) {
    lock(state).channels.push(channel.try_clone().expect("dup"));
    let mut buf = [0u8; MAX_MESSAGE];
    while let Some((n, mut fds)) = receive(channel, &mut buf) {
        let request = Request::decode(&buf[..n]).expect("the shim sends whole requests");
        let to = fds.pop().expect("a reply fd");
        let end = fds.pop();
        lock(state).log.push(word(&request));
        handle(state, port, &request, to, end);
    }
}

fn word(request: &Request<'_>) -> String {
    match request {
        Request::Bind { v6_only, options, .. } => format!("bind v6_only={v6_only} options={}", options.iter().count()),
        Request::Connect { filler_len, .. } => format!("connect blocking={}", *filler_len == 0),
        Request::SetOption { option, .. } => format!("set {} {}", option.level, option.name),
        Request::GetOption { level, name, .. } => format!("get {level} {name}"),
        Request::Hello { .. } => "hello".to_owned(),
        Request::Listen { .. } => "listen".to_owned(),
        Request::SocketError { .. } => "error".to_owned(),
        Request::Names { .. } => "names".to_owned(),
        Request::Netlink { .. } => "netlink".to_owned(),
        Request::NetlinkBind { port_id, groups, .. } => format!("netlink bind {port_id} {groups:#x}"),
        Request::NetlinkNames { .. } => "netlink names".to_owned(),
        Request::MayConnect { .. } => "may connect".to_owned(),
    }
}

fn handle(state: &Arc<Mutex<State>>, port: u16, request: &Request<'_>, to: OwnedFd, end: Option<OwnedFd>) {
    match *request {
        Request::Hello { version, instance, .. } => {
            assert_eq!((version, instance), (PROTOCOL_VERSION, "probe"));
            let (netlink, answer_ahead) = {
                let state = lock(state);
                (state.netlink, state.answer_ahead)
            };
            answer(&to, &Reply::Welcome { bgp_port: port, netlink, answer_ahead });
        }
        Request::Bind { socket, local, v6_only, .. } => {
            let end = end.expect("the broker's end");
            lock(state).named.insert(socket, Named::Bound { end, local, v6_only });
            answer(&to, &Reply::Done);
        }
        Request::Listen { socket, .. } => match open_listener(state, socket) {
            Ok(()) => answer(&to, &Reply::Done),
            Err(e) => error(&to, e),
        },
        Request::Connect { socket, local, remote, filler_len, .. } => {
            let end = UnixStream::from(end.expect("the broker's end"));
            lock(state).named.insert(socket, Named::Connecting);
            let state = Arc::clone(state);
            if filler_len > 0 {
                error(&to, libc::EINPROGRESS);
                thread::spawn(move || dial(&state, socket, local, remote, end, filler_len, None));
            } else {
                thread::spawn(move || dial(&state, socket, local, remote, end, 0, Some(to)));
            }
        }
        Request::SetOption { socket, option } => {
            match with_real(state, socket, |fd| set_option(fd, option.level, option.name, option.value)) {
                Ok(()) => answer(&to, &Reply::Done),
                Err(e) => error(&to, e),
            }
        }
        Request::GetOption { socket, level, name, max_len } => {
            match with_real(state, socket, |fd| option(fd, level, name, max_len as usize)) {
                Ok(value) => answer(&to, &Reply::Option { value: &value }),
                Err(e) => error(&to, e),
            }
        }
        Request::SocketError { socket } => {
            let mut s = lock(state);
            let errno = match s.named.get(&socket) {
                Some(Named::Connecting) => libc::EINPROGRESS,
                Some(&Named::Failed(e)) => {
                    s.named.insert(socket, Named::Failed(0));
                    e
                }
                _ => 0,
            };
            error(&to, errno);
        }
        Request::Names { socket } => match lock(state).named.get(&socket) {
            Some(Named::Bound { local, .. }) => answer(&to, &Reply::Names { local: *local, remote: None }),
            Some(Named::Listening(listener)) => {
                answer(&to, &Reply::Names { local: listener.local_addr().expect("bound"), remote: None });
            }
            Some(Named::Leg(tcp)) => match (tcp.local_addr(), tcp.peer_addr()) {
                (Ok(local), Ok(remote)) => answer(&to, &Reply::Names { local, remote: Some(remote) }),
                _ => error(&to, libc::ENOTCONN),
            },
            Some(Named::Connecting | Named::Failed(_) | Named::Netlink(..)) => error(&to, libc::ENOTCONN),
            None => error(&to, libc::ENOENT),
        },
        Request::Netlink { .. } if lock(state).refuse => netlink_name(&to, Err(libc::ENOBUFS)),
        Request::Netlink { socket } => {
            let shared = Arc::clone(state);
            let log = move |word: &str| lock(&shared).log.push(word.to_owned());
            let (real, end) = netlink::open(end.expect("the broker's end"), log);
            let named = netlink::name(real.as_raw_fd());
            lock(state).named.insert(socket, Named::Netlink(real, end));
            netlink_name(&to, named);
        }
        Request::NetlinkBind { socket, port_id, groups } => {
            netlink_name(&to, with_real(state, socket, |fd| netlink::bind(fd, port_id, groups)));
        }
        Request::MayConnect { remote } => {
            let peer_port = lock(state).peer_port;
            if peer_port > 0 && remote.port() == peer_port - 1 {
                answer(&to, &Reply::Error { errno: libc::ECONNREFUSED, text: "not this port" });
            } else {
                answer(&to, &Reply::Passage { redirected: remote.port() == peer_port });
            }
        }
        Request::NetlinkNames { socket } => netlink_name(&to, with_real(state, socket, netlink::name)),
    }
}

fn netlink_name(to: &OwnedFd, named: Result<(u32, u32), i32>) {
    match named {
        Ok((port_id, groups)) => answer(to, &Reply::NetlinkName { port_id, groups }),
        Err(e) => error(to, e),
    }
}

fn family(a: &SocketAddr) -> AddressFamily {
    if a.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn open_listener(state: &Arc<Mutex<State>>, cookie: u64) -> Result<(), i32> {
    let mut s = lock(state);
    let Some(Named::Bound { end, local, v6_only }) = s.named.remove(&cookie) else { return Err(libc::EINVAL) };
    let fd = socket(family(&local), SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(|e| e as i32)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(|e| e as i32)?;
    if local.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &v6_only).map_err(|e| e as i32)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(local)).map_err(|e| e as i32)?;
    listen(&fd, Backlog::new(16).expect("backlog")).map_err(|e| e as i32)?;
    let listener = TcpListener::from(fd);
    let door = listener.try_clone().expect("dup");
    s.named.insert(cookie, Named::Listening(listener));
    let shared = Arc::clone(state);
    thread::spawn(move || {
        while let Ok((tcp, remote)) = door.accept() {
            offer(&shared, &end, tcp, remote);
        }
    });
    Ok(())
}

fn offer(state: &Arc<Mutex<State>>, over: &OwnedFd, tcp: TcpStream, remote: SocketAddr) {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
    let local = tcp.local_addr().expect("connected");
    let cookie = option(theirs.as_raw_fd(), libc::SOL_SOCKET, SO_COOKIE, 8).expect("SO_COOKIE");
    let cookie = u64::from_ne_bytes(cookie.try_into().expect("eight octets"));
    lock(state).named.insert(cookie, Named::Leg(tcp.try_clone().expect("dup")));
    relay(UnixStream::from(ours), tcp);
    let mut buf = [0u8; 128];
    let n = Accepted { local, remote }.encode(&mut buf).expect("fits");
    let fds = [theirs.as_raw_fd()];
    let _ = sendmsg::<()>(
        over.as_raw_fd(),
        &[IoSlice::new(&buf[..n])],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
}

fn dial(
    state: &Arc<Mutex<State>>,
    cookie: u64,
    local: SocketAddr,
    remote: SocketAddr,
    mut end: UnixStream,
    filler: u32,
    to: Option<OwnedFd>,
) {
    let fd = socket(family(&remote), SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    let mut connected = Ok(());
    if !local.ip().is_unspecified() || local.port() != 0 {
        connected = bind(fd.as_raw_fd(), &SockaddrStorage::from(local));
    }
    match connected.and_then(|()| connect(fd.as_raw_fd(), &SockaddrStorage::from(remote))) {
        Ok(()) => {
            let tcp = TcpStream::from(fd);
            lock(state).named.insert(cookie, Named::Leg(tcp.try_clone().expect("dup")));
            if let Some(to) = to {
                answer(&to, &Reply::Done);
            }
            let mut waste = vec![0; filler as usize];
            if end.read_exact(&mut waste).is_ok() {
                relay(end, tcp);
            }
        }
        Err(e) => {
            lock(state).named.insert(cookie, Named::Failed(e as i32));
            if let Some(to) = to {
                error(&to, e as i32);
            }
        }
    }
}

fn relay(unix: UnixStream, tcp: TcpStream) {
    let (mut from_unix, mut to_unix) = (unix.try_clone().expect("dup"), unix);
    let (mut from_tcp, mut to_tcp) = (tcp.try_clone().expect("dup"), tcp);
    thread::spawn(move || {
        copy(&mut from_unix, &mut to_tcp);
        let _ = to_tcp.shutdown(std::net::Shutdown::Write);
    });
    thread::spawn(move || {
        copy(&mut from_tcp, &mut to_unix);
        let _ = to_unix.shutdown(std::net::Shutdown::Write);
    });
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        if to.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}

/// Runs `f` on the real socket behind a leg or a listening socket; one that does not listen yet
/// takes every option.
fn with_real<R>(state: &Mutex<State>, cookie: u64, f: impl FnOnce(RawFd) -> Result<R, i32>) -> Result<R, i32> {
    match lock(state).named.get(&cookie) {
        Some(Named::Listening(listener)) => f(listener.as_raw_fd()),
        Some(Named::Leg(tcp)) => f(tcp.as_raw_fd()),
        Some(Named::Netlink(real, _)) => f(real.as_raw_fd()),
        Some(Named::Bound { local, .. }) => {
            let fd = socket(family(local), SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(|e| e as i32)?;
            f(fd.as_raw_fd())
        }
        Some(Named::Connecting | Named::Failed(_)) | None => Err(libc::ENOENT),
    }
}

fn last() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn set_option(fd: RawFd, level: i32, name: i32, value: &[u8]) -> Result<(), i32> {
    // SAFETY: pointer and length describe `value`.
    let r = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as u32) };
    if r == 0 {
        Ok(())
    } else {
        Err(last())
    }
}

fn option(fd: RawFd, level: i32, name: i32, room: usize) -> Result<Vec<u8>, i32> {
    let mut value = vec![0u8; room];
    let mut len = room as libc::socklen_t;
    // SAFETY: pointer and length describe `value`.
    let r = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len) };
    value.truncate(len as usize);
    if r == 0 {
        Ok(value)
    } else {
        Err(last())
    }
}
