//! TCP towards peers: listening, accepting and dialling.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream};

/// Connections that may wait to be accepted: a whole exchange dialling at once.
pub(super) const BACKLOG: i32 = 1024;

fn tcp(for_address: SocketAddr) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(for_address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Sends what the kernel takes at once.
///
/// # Errors
/// What the kernel says.
pub fn send(to: &impl std::os::fd::AsFd, octets: &[u8]) -> io::Result<usize> {
    socket2::SockRef::from(to).send_with_flags(octets, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
}

/// Listens on an address; IPv6 takes no IPv4. Accepted connections inherit TCP_NODELAY.
///
/// # Errors
/// What the kernel says.
pub fn listen(at: SocketAddr) -> io::Result<Socket> {
    let socket = tcp(at)?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(at))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn inet(address: SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// The next waiting connection, non-blocking: the peer's address, then ours.
///
/// # Errors
/// WouldBlock when there is none; ENOTCONN when it is gone already.
pub fn accept(listener: &Socket) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    let (socket, peer) = listener.accept()?;
    socket.set_nonblocking(true)?;
    let local = inet(socket.local_addr()?)?;
    Ok((socket.into(), inet(peer)?, local))
}

/// Starts a connection; `prepare` sets options before anything is sent, and its error ends the
/// attempt.
///
/// # Errors
/// What `prepare` says, or the kernel at once, such as ENETUNREACH or EADDRNOTAVAIL.
pub fn dial<T>(
    peer: SocketAddr,
    local: Option<SocketAddr>,
    prepare: impl FnOnce(&Socket) -> io::Result<T>,
) -> io::Result<(TcpStream, T)> {
    let socket = tcp(peer)?;
    let prepared = prepare(&socket)?;
    if let Some(local) = local {
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(local))?;
    }
    match socket.connect(&SockAddr::from(peer)) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok((socket.into(), prepared)),
    }
}
