//! TCP sockets as the kernel lists them: NETLINK_SOCK_DIAG (sock_diag(7), linux/inet_diag.h).

use super::consts::{AF_INET, AF_INET6};
use super::{NetlinkError, Writer};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The message type of requests and answers.
pub const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// TCP_LISTEN (linux/tcp_states.h).
pub const TCP_LISTEN: u8 = 10;
/// TCP_TIME_WAIT: nobody's any more.
const TCP_TIME_WAIT: u8 = 6;
/// TCP_CLOSE.
const TCP_CLOSE: u8 = 7;
/// Octets of `struct inet_diag_sockid`.
const ID_LEN: usize = 48;
/// Octets of `struct inet_diag_msg`.
const MESSAGE_LEN: usize = 72;

/// One TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// TCP_ESTABLISHED (1) to TCP_NEW_SYN_RECV (12).
    pub state: u8,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; unspecified, port 0, while it listens.
    pub remote: SocketAddr,
    /// As in the links of /proc/PID/fd; 0 where no process has it (not accepted yet, or closed).
    pub inode: u32,
    /// SO_COOKIE.
    pub cookie: u64,
}

/// Writes what stands behind the header of a request for all TCP sockets of a family that a process
/// may hold.
pub fn request(family: u8, w: &mut Writer<'_>) {
    let states = !(1u32 << TCP_TIME_WAIT | 1 << TCP_CLOSE);
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states, and the id of the one
    // socket that is not asked for.
    w.put(&[family, libc::IPPROTO_TCP as u8, 0, 0]);
    w.put(&states.to_ne_bytes());
    w.put(&[0; ID_LEN]);
}

/// Reads an answer.
///
/// # Errors
/// It is cut short, or of another family.
pub fn read(payload: &[u8]) -> Result<TcpSocket, NetlinkError> {
    let short = NetlinkError::ShortBody { need: MESSAGE_LEN, have: payload.len() };
    let message: &[u8; MESSAGE_LEN] = payload.first_chunk().ok_or(short)?;
    let [family, state, _, _, rest @ ..] = message;
    let mut rest = Fields(rest);
    let (local, remote): ([u8; 2], [u8; 2]) = (rest.take(), rest.take());
    let (source, destination): ([u8; 16], [u8; 16]) = (rest.take(), rest.take());
    let _interface: [u8; 4] = rest.take();
    let cookie = u64::from(u32::from_ne_bytes(rest.take())) | u64::from(u32::from_ne_bytes(rest.take())) << 32;
    let _expires_queues_uid: [u8; 16] = rest.take();
    let inode = u32::from_ne_bytes(rest.take());
    let address = |ip: [u8; 16]| match *family {
        AF_INET => {
            let [a, b, c, d, ..] = ip;
            Ok(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        AF_INET6 => Ok(IpAddr::V6(Ipv6Addr::from(ip))),
        family => Err(NetlinkError::Family { family }),
    };
    let end = |ip, port| Ok(SocketAddr::new(address(ip)?, u16::from_be_bytes(port)));
    Ok(TcpSocket { state: *state, local: end(source, local)?, remote: end(destination, remote)?, inode, cookie })
}

/// The octets of a message that has been found long enough, one field after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.0.split_at_checked(N).unwrap_or_default();
        self.0 = later;
        now.try_into().unwrap_or([0; N])
    }
}

#[cfg(test)]
#[path = "diag_tests.rs"]
mod tests;
