//! The TCP connection of one neighbour: listening or dialling, reading into and writing out of a
//! [`Session`]'s buffers.

use crate::session::{News, Session};
use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, BytesMut};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use nix::sys::socket::SetSockOpt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use wire::bgp::Notification;

/// Between two attempts to dial.
const DIAL_AGAIN: Duration = Duration::from_millis(200);
/// An attempt to dial that takes longer is given up.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
/// Octets asked of the kernel at a time.
const READ_SIZE: usize = 256 * 1024;
/// Longest TCP MD5 key (RFC 2385; `TCP_MD5SIG_MAXKEYLEN`).
const MD5_KEY_MAX: usize = 80;

/// Which side opens the connection.
#[derive(Clone, Copy, Debug)]
pub enum Endpoint {
    /// Wait for the neighbour.
    Listen(SocketAddr),
    /// Dial it, from this address if one is given.
    Connect(SocketAddr, Option<IpAddr>),
}

// `struct tcp_md5sig` of linux/tcp.h: address 128, flags 1, prefix length 1, key length 2,
// interface 4, key 80. All bytes are set by hand in `md5_option`, so that nothing of it depends on
// a layout.
#[derive(Clone)]
struct TcpMd5Sig;
nix::setsockopt_impl!(
    TcpMd5Sig,
    libc::IPPROTO_TCP,
    libc::TCP_MD5SIG,
    [u8; 216],
    nix::sys::socket::sockopt::SetStruct<[u8; 216]>
);

fn md5_option(peer: IpAddr, key: &str) -> [u8; 216] {
    let mut option = [0; 216];
    let address = SockAddr::from(SocketAddr::new(peer, 0));
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    option[..2].copy_from_slice(&u16::try_from(family).unwrap_or_default().to_ne_bytes());
    match peer {
        IpAddr::V4(a) => option[4..8].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => option[8..24].copy_from_slice(&a.octets()),
    }
    let key = key.as_bytes().get(..MD5_KEY_MAX).unwrap_or(key.as_bytes());
    option[130..132].copy_from_slice(&u16::try_from(key.len()).unwrap_or_default().to_ne_bytes());
    option[136..136 + key.len()].copy_from_slice(key);
    option
}

/// Room for what [`Link::event`] reads; several links may share it.
pub fn buffer() -> Box<[u8]> {
    vec![0; READ_SIZE].into()
}

/// The sockets of one neighbour. Uses two tokens: the listener's, and the connection's right after
/// it.
#[derive(Debug)]
pub struct Link {
    endpoint: Endpoint,
    only: Option<IpAddr>,
    md5: Option<(IpAddr, String)>,
    token: Token,
    listener: Option<TcpListener>,
    stream: Option<Stream>,
    dial_at: Option<Instant>,
    /// Octets read and written.
    pub octets: (u64, u64),
    /// Our address on the connection, once there is one.
    pub local: Option<SocketAddr>,
    /// The neighbour's.
    pub remote: Option<SocketAddr>,
}

#[derive(Debug)]
struct Stream {
    socket: TcpStream,
    /// Dialled and not up yet: when to give up.
    connecting: Option<Instant>,
    wants_write: bool,
    /// The session is over: close once everything is written.
    closing: bool,
}

impl Link {
    /// Opens the listening socket, or prepares to dial. Connections are accepted from the address
    /// `only`, if one is given; `md5` is the neighbour's address and the key.
    ///
    /// # Errors
    /// The address cannot be bound, or the kernel refuses the key.
    pub fn new(
        endpoint: Endpoint,
        only: Option<IpAddr>,
        md5: Option<(IpAddr, String)>,
        token: Token,
        registry: &Registry,
    ) -> Result<Link> {
        let mut link = Link {
            endpoint,
            only,
            md5,
            token,
            listener: None,
            stream: None,
            dial_at: None,
            octets: (0, 0),
            local: None,
            remote: None,
        };
        match endpoint {
            Endpoint::Connect(..) => link.dial_at = Some(Instant::now()),
            Endpoint::Listen(addr) => {
                let socket = link.socket(addr)?;
                socket.set_reuse_address(true)?;
                socket.bind(&addr.into()).with_context(|| format!("cannot bind {addr}"))?;
                socket.listen(16).with_context(|| format!("cannot listen on {addr}"))?;
                let mut listener = TcpListener::from_std(socket.into());
                registry.register(&mut listener, token, Interest::READABLE)?;
                link.local = Some(listener.local_addr()?);
                link.listener = Some(listener);
            }
        }
        Ok(link)
    }

    fn socket(&self, addr: SocketAddr) -> Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some((peer, key)) = &self.md5 {
            if key.len() > MD5_KEY_MAX || key.is_empty() {
                bail!("an MD5 key has 1 to {MD5_KEY_MAX} octets");
            }
            TcpMd5Sig
                .set(&socket, &md5_option(*peer, key))
                .map_err(|e| anyhow!("the kernel refuses the MD5 key: {e}"))?;
        }
        Ok(socket)
    }

    /// Whether `token` is one of this link's.
    pub fn owns(&self, token: Token) -> bool {
        token == self.token || token.0 == self.token.0 + 1
    }

    /// Whether a TCP connection is there or being made.
    pub fn busy(&self) -> bool {
        self.stream.is_some()
    }

    /// Dials again after a session has ended; a listening link does so by itself.
    pub fn again(&mut self, now: Instant) {
        if matches!(self.endpoint, Endpoint::Connect(..)) {
            self.dial_at = Some(now + DIAL_AGAIN);
        }
    }

    /// Starts dialling where that is due and gives up where it takes too long; returns when to call
    /// again.
    ///
    /// # Errors
    /// The local address cannot be used.
    pub fn tick(&mut self, now: Instant, registry: &Registry) -> Result<Option<Instant>> {
        if let Some(until) = self.stream.as_ref().and_then(|s| s.connecting)
            && until <= now
        {
            self.shut(registry);
            self.again(now);
        }
        if self.dial_at.is_some_and(|at| at <= now)
            && let Endpoint::Connect(addr, bind) = self.endpoint
        {
            self.dial_at = None;
            self.dial(addr, bind, now, registry)?;
        }
        Ok([self.dial_at, self.stream.as_ref().and_then(|s| s.connecting)].into_iter().flatten().min())
    }

    fn dial(&mut self, addr: SocketAddr, bind: Option<IpAddr>, now: Instant, registry: &Registry) -> Result<()> {
        let socket = self.socket(addr)?;
        if let Some(local) = bind {
            socket.bind(&SocketAddr::new(local, 0).into()).with_context(|| format!("cannot bind {local}"))?;
        }
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => {
                log::debug!("connect to {addr}: {e}");
                self.again(now);
                return Ok(());
            }
        }
        let mut socket = TcpStream::from_std(socket.into());
        registry.register(&mut socket, Token(self.token.0 + 1), Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(Stream { socket, connecting: Some(now + DIAL_PATIENCE), wants_write: true, closing: false });
        Ok(())
    }

    /// Carries out what an event on one of the tokens means; reads into `buffer`. The time of what
    /// was read is taken right after the read.
    ///
    /// # Errors
    /// The poller refuses a registration.
    pub fn event(
        &mut self,
        token: Token,
        session: &mut Session,
        registry: &Registry,
        buffer: &mut [u8],
        news: &mut Vec<News>,
    ) -> Result<()> {
        if token == self.token {
            return self.accept(session, registry);
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if stream.connecting.is_some() {
            if let Some(e) = stream.socket.take_error()? {
                log::debug!("connect: {e}");
                self.shut(registry);
                self.again(Instant::now());
                return Ok(());
            }
            if stream.socket.peer_addr().is_err() {
                return Ok(());
            }
            stream.connecting = None;
            self.up(session)?;
        }
        self.read(session, registry, buffer, news)?;
        self.flush(session, registry, news)
    }

    fn up(&mut self, session: &mut Session) -> Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        stream.socket.set_nodelay(true)?;
        let local = stream.socket.local_addr()?;
        self.local = Some(local);
        self.remote = stream.socket.peer_addr().ok();
        session.default_router_id(match local.ip().to_canonical() {
            IpAddr::V4(a) => a,
            IpAddr::V6(a) => {
                let [.., c, d] = a.octets();
                Ipv4Addr::new(192, 0, c, d.max(1))
            }
        });
        session.connected_now(Instant::now());
        Ok(())
    }

    fn accept(&mut self, session: &mut Session, registry: &Registry) -> Result<()> {
        while let Some(listener) = &self.listener {
            let (mut socket, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => {
                    log::warn!("accept: {e}");
                    break;
                }
            };
            if self.only.is_some_and(|only| only != from.ip().to_canonical()) {
                log::warn!("{from} is not the neighbour; refused");
                continue;
            }
            if session.established() {
                // RFC 4271 section 6.8: the connection that is up stays.
                log::warn!("{from} connects while its session is up; refused");
                let _ = socket.write_all(&Notification::new(6, 7).encode());
                continue;
            }
            if self.stream.is_some() {
                // A neighbour that dials twice has given up the first connection.
                session.close("replaced by a newer connection".into(), &mut Vec::new());
                self.shut(registry);
            }
            registry.register(&mut socket, Token(self.token.0 + 1), Interest::READABLE | Interest::WRITABLE)?;
            self.stream = Some(Stream { socket, connecting: None, wants_write: true, closing: false });
            self.up(session)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        session: &mut Session,
        registry: &Registry,
        buffer: &mut [u8],
        news: &mut Vec<News>,
    ) -> Result<()> {
        // Until the kernel has no more: the poller tells of new octets only, not of what was left.
        while let Some(stream) = &mut self.stream {
            match stream.socket.read(buffer) {
                Ok(0) => {
                    session.close("the neighbour closed the connection".into(), news);
                    self.shut(registry);
                }
                Ok(n) => {
                    self.octets.0 += n as u64;
                    session.rx.extend_from_slice(buffer.get(..n).unwrap_or_default());
                    session.received(Instant::now(), news);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    session.close(format!("the connection broke: {e}"), news);
                    self.shut(registry);
                }
            }
        }
        Ok(())
    }

    /// Writes as much of the session's buffer as the kernel takes, and closes after the last octet
    /// of an ended session.
    ///
    /// # Errors
    /// The poller refuses a registration.
    pub fn flush(&mut self, session: &mut Session, registry: &Registry, news: &mut Vec<News>) -> Result<()> {
        let Some(stream) = self.stream.as_mut().filter(|s| s.connecting.is_none()) else { return Ok(()) };
        stream.closing |= !session.connected();
        while !session.tx.is_empty() {
            match stream.socket.write(&session.tx) {
                Ok(n) => {
                    self.octets.1 += n as u64;
                    session.tx.advance(n);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    session.close(format!("the connection broke: {e}"), news);
                    session.tx.clear();
                    stream.closing = true;
                }
            }
        }
        if session.tx.is_empty() && session.tx.capacity() > 4 * READ_SIZE {
            session.tx = BytesMut::new();
        }
        let wants_write = !session.tx.is_empty();
        if stream.closing && !wants_write {
            self.shut(registry);
            return Ok(());
        }
        if wants_write != stream.wants_write {
            stream.wants_write = wants_write;
            let interest = if wants_write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            registry.reregister(&mut stream.socket, Token(self.token.0 + 1), interest)?;
        }
        Ok(())
    }

    /// Closes the connection at once.
    pub fn shut(&mut self, registry: &Registry) {
        if let Some(mut stream) = self.stream.take() {
            let _ = registry.deregister(&mut stream.socket);
        }
    }
}
