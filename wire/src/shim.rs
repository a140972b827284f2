//! Messages between `libhvlibc.so` in a daemon and virtd, over AF_UNIX SOCK_SEQPACKET.
//!
//! One control channel per process image (opened in the shim's constructor, shared after fork). Every request carries, as
//! the *last* passed fd, one end of a fresh SEQPACKET socketpair on which its answer comes, so that a parent and its child
//! never take each other's. Encoding: fixed little-endian fields into a caller's buffer; nothing here allocates.
//!
//! | request | other fds passed (before the reply fd) | answer |
//! |---|---|---|
//! | `Hello` | – | `Welcome` or `Error` |
//! | `Bind` | broker's end of the listening SEQPACKET pair | `Done` or `Error` |
//! | `Listen` | – | `Done` or `Error` |
//! | `Connect` | broker's end of the leg's stream pair | `Done` (connected), `Error(EINPROGRESS)` (wait for POLLOUT), or `Error` |
//! | `SetOption` | – | `Done` or `Error` |
//! | `GetOption` | – | `Option` or `Error` |
//! | `SocketError` | – | `Error(errno)`; errno 0 is connected, EINPROGRESS still under way; reading clears it, as SO_ERROR does |
//! | `Names` | – | `Names` or `Error(ENOTCONN)` / `Error(ENOENT)` (not a socket of ours) |
//!
//! Sockets are named by SO_COOKIE of the *daemon's* end, which stays the same across dup, fork, exec and SCM_RIGHTS.
//! The broker's end of a listening pair receives nothing; the broker sends one [`Accepted`] datagram with one fd (the daemon's end of
//! a new leg) for every connection, so the daemon's listening fd is readable exactly when accept would succeed.
//!
//! POLLOUT after a non-blocking connect: before `Connect` the shim fills its end of the stream pair with
//! `Connect::filler_len` octets until poll says not writable; the broker reads exactly that many octets and throws them away when the
//! connection stands, which makes the daemon's end writable; on failure it closes its end, which makes it writable with POLLHUP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bumped on every incompatible change; both sides refuse another's by name.
pub const PROTOCOL_VERSION: u16 = 1;
/// Longest encoded message.
pub const MAX_MESSAGE: usize = 4096;
/// Most socket options that a `Bind` or `Connect` can carry.
pub const MAX_OPTIONS: usize = 32;
/// Longest option value (struct tcp_md5sig_ext is 216 octets).
pub const MAX_OPTION_LEN: usize = 256;
/// Longest instance name.
pub const MAX_NAME: usize = 64;

/// A socket address with IPv6 scope; what sockaddr_in and sockaddr_in6 say. Port 0 and the unspecified address are "any".
pub type Address = SocketAddr;

/// One socket option as the daemon set it on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOption<'a> {
    /// SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP.
    pub level: i32,
    /// SO_BINDTODEVICE, IP_TTL, IP_MINTTL, IP_TOS, IPV6_UNICAST_HOPS, IPV6_MINHOPCOUNT, IPV6_TCLASS, TCP_MD5SIG …
    pub name: i32,
    /// The value, as passed to setsockopt.
    pub value: &'a [u8],
}

/// What the shim asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// First message of a channel.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u16,
        /// HV_INSTANCE.
        instance: &'a str,
        /// getpid.
        pid: u32,
        /// SO_NETNS_COOKIE of a socket of this process; 0 where the kernel has none.
        netns_cookie: u64,
    },
    /// A stream socket was bound to the BGP port: the shim has put one end of a SEQPACKET pair in its place.
    Bind {
        /// SO_COOKIE of the daemon's new end.
        socket: u64,
        /// Where it was bound.
        local: Address,
        /// IPV6_V6ONLY of the original socket (false for IPv4).
        v6_only: bool,
        /// What was set before.
        options: Options<'a>,
    },
    /// listen on a bound socket.
    Listen {
        /// SO_COOKIE.
        socket: u64,
        /// As passed to listen.
        backlog: i32,
    },
    /// connect to the BGP port: the shim has put one end of a stream pair in the socket's place.
    Connect {
        /// SO_COOKIE of the daemon's new end.
        socket: u64,
        /// Where it was bound before, if it was; else the unspecified address, port 0.
        local: Address,
        /// Where to.
        remote: Address,
        /// Octets of filler that the broker has to read away (0 for a blocking connect, which waits for the answer).
        filler_len: u32,
        /// What was set before.
        options: Options<'a>,
    },
    /// setsockopt on a leg or a bound socket.
    SetOption {
        /// SO_COOKIE.
        socket: u64,
        /// What.
        option: SocketOption<'a>,
    },
    /// getsockopt on a leg or bound socket that the shim cannot answer from its record.
    GetOption {
        /// SO_COOKIE.
        socket: u64,
        /// Level.
        level: i32,
        /// Name.
        name: i32,
        /// Room for the answer.
        max_len: u32,
    },
    /// SO_ERROR on a leg.
    SocketError {
        /// SO_COOKIE.
        socket: u64,
    },
    /// getsockname, getpeername on a socket whose names the shim does not know (its fd came from another process).
    Names {
        /// SO_COOKIE.
        socket: u64,
    },
}

/// What virtd answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To `Hello`.
    Welcome {
        /// The TCP port that is redirected (179 unless configured).
        bgp_port: u16,
    },
    /// Done.
    Done,
    /// errno, and for stderr a line that says why and what to do (may be empty).
    Error {
        /// errno; 0 only to `SocketError`.
        errno: i32,
        /// For a person.
        text: &'a str,
    },
    /// To `GetOption`.
    Option {
        /// As getsockopt would give it.
        value: &'a [u8],
    },
    /// To `Names`.
    Names {
        /// getsockname.
        local: Address,
        /// getpeername; `None` for a listening socket.
        remote: Option<Address>,
    },
}

/// Sent by the broker over a listening pair, with the leg's fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// getsockname of the accepted connection.
    pub local: Address,
    /// getpeername of the accepted connection.
    pub remote: Address,
}

/// A list of options, encoded; iterate with [`Options::iter`]. Built by the shim from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options<'a> {
    /// Encoded `level i32, name i32, len u16, value` entries, back to back.
    pub encoded: &'a [u8],
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The unspecified IPv4 address and port: "not bound".
pub const ANY: Address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
#[allow(unused)]
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
// helper shim: Request::encode(&self, &mut [u8]) -> Result<usize, Malformed>, Request::decode(&[u8]) -> Result<Request, Malformed>,
// the same for Reply and Accepted, Options::iter and Options::push(&mut [u8], used, option) — std only, no allocation, no panics.
