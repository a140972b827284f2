//! TCP towards peers: listening, accepting and dialling.

use super::conn::Stream;
use super::options::{self, Setting, Target};
use super::{Broker, Inner, Key, Todo, sys};
use crate::config::Config;
use crate::core::io::{ConnId, Input, LegId, Micros};
use crate::event::Event;
use anyhow::{Context, bail};
use hashbrown::HashMap;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::cmp::Reverse;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Connections that may wait to be accepted: a whole exchange dialling at once.
const BACKLOG: i32 = 1024;
/// Connections at most, half-open ones included; one more is reset. Twice the core's sessions, for collisions.
const MAX_CONNECTIONS: usize = 8192;
/// Connections accepted from one socket in one turn.
const ACCEPT_BUDGET: usize = 64;
/// How long accepting rests when there are no fds or no memory.
pub(super) const ACCEPT_REST: Micros = 100_000;

/// One of virtd's own listening sockets.
struct Real {
    fd: OwnedFd,
    v6: bool,
    resting: bool,
}

/// One TCP connection.
struct Conn {
    stream: Stream,
    peer: SocketAddr,
    dialling: bool,
}

/// Sockets towards peers.
pub(super) struct Net {
    real: Vec<Real>,
    conns: HashMap<ConnId, Conn>,
}

impl Net {
    /// Listens on every configured address.
    pub(super) fn listen(config: &Config, registry: &Registry) -> anyhow::Result<Net> {
        let mut real = Vec::new();
        for &address in &config.listen {
            let at = SocketAddr::new(address, config.port);
            let fd = match listening_socket(at) {
                // A machine without IPv6 is served over IPv4, unless nothing else was asked for.
                Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) && config.listen.len() > 1 => {
                    log::warn!("not listening on {at}: {e}");
                    continue;
                }
                r => r.with_context(|| format!("cannot listen on {at}; is another routing daemon running without the shim?"))?,
            };
            let token = Key::Real(real.len() as u64).token();
            registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE).context("epoll_ctl failed")?;
            real.push(Real { fd, v6: address.is_ipv6(), resting: false });
        }
        if real.is_empty() && !config.listen.is_empty() {
            bail!("none of the addresses in `listen` could be used");
        }
        Ok(Net { real, conns: HashMap::new() })
    }

    pub(super) fn stream(&mut self, id: ConnId) -> Option<&mut Stream> {
        self.conns.get_mut(&id).map(|c| &mut c.stream)
    }

    pub(super) fn is_dialling(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|c| c.dialling)
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    /// RST instead of FIN when the connection is closed.
    pub(super) fn reset_on_close(&self, id: ConnId) {
        if let Some(c) = self.conns.get(&id) {
            let _ = SockRef::from(&c.stream.fd()).set_linger(Some(Duration::ZERO));
        }
    }

    /// The socket of a connection that is up, and its peer.
    pub(super) fn socket(&self, id: ConnId) -> Option<(BorrowedFd<'_>, IpAddr)> {
        self.conns.get(&id).filter(|c| !c.dialling).map(|c| (c.stream.fd(), c.peer.ip()))
    }

    /// Puts an option on all listening sockets of a family.
    pub(super) fn apply_to_listeners(&self, v6: bool, setting: &Setting) -> io::Result<()> {
        self.real.iter().filter(|r| r.v6 == v6).try_for_each(|r| options::apply(r.fd.as_fd(), setting, v6))
    }
}

fn listening_socket(at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(at))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// errno of an error that came from the kernel.
pub(super) fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// Whether accept failed for want of something that time may bring.
pub(super) fn is_shortage(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

impl<B: Broker, E: FnMut(Event)> Inner<B, E> {
    /// Accepts what waits on one of virtd's own sockets.
    pub(super) fn accept_peers(&mut self, n: u64) {
        for _ in 0..ACCEPT_BUDGET {
            let Some(real) = usize::try_from(n).ok().and_then(|n| self.net.real.get_mut(n)) else { return };
            match SockRef::from(&real.fd).accept() {
                Ok((socket, peer)) => {
                    real.resting = false;
                    self.accepted(socket, peer);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if is_shortage(&e) => {
                    // Edge-triggered: no further event is certain, so the clock brings us back.
                    let first = !std::mem::replace(&mut real.resting, true);
                    self.deadlines.push(Reverse((self.now + ACCEPT_REST, Key::Real(n))));
                    if first {
                        self.warn("accept-failed", format!("connections of peers wait: accept: {e}; raise the limit of open files"));
                    }
                    return;
                }
                // The connection was gone before it was accepted.
                Err(e) => log::debug!("accept: {e}"),
            }
        }
        self.ready.push(Key::Real(n));
    }

    fn accepted(&mut self, socket: Socket, peer: SockAddr) {
        let Some(peer) = peer.as_socket() else { return };
        let local = socket.local_addr().ok().and_then(|a| a.as_socket());
        let Some(local) = local.filter(|_| self.net.conns.len() < MAX_CONNECTIONS) else {
            let _ = socket.set_linger(Some(Duration::ZERO));
            return;
        };
        let conn = ConnId(self.fresh_id());
        let stream = Stream::new(socket.into());
        if let Err(e) = self.register(stream.raw(), Key::Conn(conn), Interest::READABLE) {
            return log::error!("{peer}: epoll_ctl: {e}");
        }
        self.net.conns.insert(conn, Conn { stream, peer, dialling: false });
        self.input(Input::PeerAccepted { conn, peer, local });
    }

    /// Starts a connection to a peer.
    pub(super) fn dial(&mut self, conn: ConnId, peer: SocketAddr, local: Option<SocketAddr>, leg: LegId) {
        match self.try_dial(conn, peer, local) {
            Ok(stream) => {
                self.net.conns.insert(conn, Conn { stream, peer, dialling: true });
            }
            Err(e) => {
                log::debug!("dialling {peer} for leg {}: {e}", leg.0);
                self.todo.push_back(Todo::DialFailed(conn, errno(&e)));
            }
        }
    }

    fn try_dial(&mut self, conn: ConnId, peer: SocketAddr, local: Option<SocketAddr>) -> io::Result<Stream> {
        if self.net.conns.len() >= MAX_CONNECTIONS {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        // What the instances asked for towards this peer; the leg's own wishes are among them.
        for setting in self.wishes.effective(Target::Peer(peer.ip().to_canonical())) {
            match options::apply(socket.as_fd(), &setting, peer.is_ipv6()) {
                // Going out without what guards the session, or another way, would be worse than not going out.
                Err(e) if setting.is_guard() => {
                    self.warn("socket-option-failed", format!("{peer} is not dialled: {setting:?} cannot be set: {e}"));
                    return Err(e);
                }
                Err(e) => self.warn("socket-option-failed", format!("{peer} is dialled without {setting:?}: {e}")),
                Ok(()) => {}
            }
        }
        if let Some(local) = local {
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(local))?;
        }
        match socket.connect(&SockAddr::from(peer)) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let mut stream = Stream::new(socket.into());
        stream.held = true;
        self.register(stream.raw(), Key::Conn(conn), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    /// Something happened to a connection that is being dialled.
    pub(super) fn dial_event(&mut self, conn: ConnId) {
        let key = Key::Conn(conn);
        let Some(c) = self.net.conns.get(&conn) else { return };
        let socket = SockRef::from(&c.stream.fd());
        let addresses = || Some((socket.local_addr().ok()?.as_socket()?, socket.peer_addr().ok()?.as_socket()?));
        let failed = match socket.take_error() {
            Ok(None) => None,
            Ok(Some(e)) | Err(e) => Some(errno(&e)),
        };
        let found = if failed.is_none() { addresses() } else { None };
        match (failed, found) {
            (Some(errno), _) => {
                self.remove(key);
                self.input(Input::PeerDialFailed { conn, errno });
            }
            // Not there yet: an event too early.
            (None, None) => {}
            (None, Some((local, peer))) => {
                if let Some(c) = self.net.conns.get_mut(&conn) {
                    c.dialling = false;
                }
                self.hold(key, false);
                self.input(Input::PeerConnected { conn, local, peer });
                self.read_later(key);
            }
        }
    }

    /// What the core wants closed.
    pub(super) fn close_peer(&mut self, conn: ConnId, abort: bool) {
        if abort {
            self.net.reset_on_close(conn);
        }
        if abort || self.net.is_dialling(conn) {
            self.remove(Key::Conn(conn));
        } else {
            self.close(Key::Conn(conn));
        }
    }

    /// Puts what the instances agree on, and what may be changed now, on a connection that is up.
    pub(super) fn apply_to_conn(&mut self, conn: ConnId, settings: &[Setting]) {
        let mut failed = Vec::new();
        if let Some((fd, peer)) = self.net.socket(conn) {
            for setting in settings.iter().filter(|s| s.suits_live()) {
                if let Err(e) = options::apply(fd, setting, peer.is_ipv6()) {
                    failed.push(format!("{setting:?} cannot be set on the connection with {peer}: {e}"));
                }
            }
        }
        failed.into_iter().for_each(|text| self.warn("socket-option-failed", text));
    }

    /// getsockopt on the real connection.
    pub(super) fn real_option(&self, conn: ConnId, level: i32, name: i32, value: &mut [u8]) -> Result<usize, i32> {
        let (fd, _) = self.net.socket(conn).filter(|_| options::may_read(level, name)).ok_or(libc::ENOPROTOOPT)?;
        sys::option(fd, level, name, value).map_err(|e| errno(&e))
    }
}
