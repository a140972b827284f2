//! Messages between `libhvlibc.so` in a daemon and virtd, over AF_UNIX SOCK_SEQPACKET.
//!
//! One control channel per process image (opened in the shim's constructor, shared after fork).
//! Every request carries, as the *last* passed fd, one end of a fresh SEQPACKET socketpair on which
//! its answer comes, so that a parent and its child never take each other's. Encoding: fixed
//! little-endian fields into a caller's buffer; nothing here allocates.
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
//! | `MayConnect` | – | `Passage` or `Error` (it may not, or virtd cannot say) |
//! | `Netlink` | broker's end of a SEQPACKET pair | `NetlinkName` or `Error` |
//! | `NetlinkBind`, `NetlinkNames` | – | `NetlinkName` or `Error` |
//!
//! Sockets are named by SO_COOKIE of the *daemon's* end, which stays the same across dup, fork,
//! exec and SCM_RIGHTS. The broker's end of a listening pair receives nothing; the broker sends one
//! [`Accepted`] datagram with one fd (the daemon's end of a new leg) for every connection, so the
//! daemon's listening fd is readable exactly when accept would succeed.
//!
//! A netlink pair carries datagrams as the daemon's NETLINK_ROUTE socket would. From the daemon:
//! what it passed to send, and, where some of it is not certain to be answered, one fd (an end of a
//! SEQPACKET pair) on which the broker sends one octet, not zero, once all answers are queued. To
//! the daemon: what recv gives; a datagram of exactly 4 octets, shorter than any netlink message,
//! is an errno (i32, little-endian) that recv shall fail with (ENOBUFS: notifications were lost).
//!
//! Where virtd allows it (`Welcome::answer_ahead`) the shim may acknowledge a new or deleted route
//! itself, if it is like one that was granted before. Such a request has [`ANSWERED_AHEAD`] for its
//! nlmsg_pid; the broker sends no answer, and where it cannot do what was asked [`TAKEN_BACK`], at
//! which the shim stops doing so until requests have been granted again.
//!
//! POLLOUT after a non-blocking connect: before `Connect` the shim fills its end of the stream pair
//! with `Connect::filler_len` octets until poll says not writable; the broker reads exactly that
//! many octets and throws them away when the connection stands, which makes the daemon's end
//! writable; on failure it first shuts its end down for writing and then does the same, so that the
//! daemon's end is never writable without being readable.

#[path = "shim_fields.rs"]
mod fields;

use fields::{Reader, Writer};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Bumped on every incompatible change; both sides refuse another's by name.
pub const PROTOCOL_VERSION: u16 = 4;
/// nlmsg_pid of a request that the shim has acknowledged; Linux gives no socket this port id.
pub const ANSWERED_AHEAD: u32 = u32::MAX;
/// A datagram to the daemon, for the shim alone: shorter than any netlink message, and no errno.
pub const TAKEN_BACK: [u8; 8] = *b"takeback";
/// Longest encoded message.
pub const MAX_MESSAGE: usize = 4096;
/// Most socket options that a `Bind` or `Connect` can carry.
pub const MAX_OPTIONS: usize = 32;
/// Longest option value (struct tcp_md5sig_ext is 216 octets).
pub const MAX_OPTION_LEN: usize = 256;
/// Longest instance name.
pub const MAX_NAME: usize = 64;

/// A socket address with IPv6 scope; what sockaddr_in and sockaddr_in6 say. Port 0 and the
/// unspecified address are "any".
pub type Address = SocketAddr;

/// One socket option as the daemon set it on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOption<'a> {
    /// SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP.
    pub level: i32,
    /// SO_BINDTODEVICE, IP_TTL, IP_MINTTL, IP_TOS, IPV6_UNICAST_HOPS, IPV6_MINHOPCOUNT,
    /// IPV6_TCLASS, TCP_MD5SIG …
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
    /// A stream socket was bound to the BGP port: the shim has put one end of a SEQPACKET pair in
    /// its place.
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
        /// Octets of filler that the broker has to read away (0 for a blocking connect, which waits
        /// for the answer).
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
    /// getsockname, getpeername on a socket whose names the shim does not know (its fd came from
    /// another process).
    Names {
        /// SO_COOKIE.
        socket: u64,
    },
    /// socket(AF_NETLINK, .., NETLINK_ROUTE): the daemon gets one end of a SEQPACKET pair instead.
    Netlink {
        /// SO_COOKIE of the daemon's end.
        socket: u64,
    },
    /// bind on such a socket.
    NetlinkBind {
        /// SO_COOKIE.
        socket: u64,
        /// nl_pid: 0 lets the kernel choose.
        port_id: u32,
        /// nl_groups: the first 32 multicast groups, one bit each.
        groups: u32,
    },
    /// getsockname on such a socket.
    NetlinkNames {
        /// SO_COOKIE.
        socket: u64,
    },
    /// connect of a TCP socket to another port than the BGP port: a `[[peer]]` may listen there,
    /// which only virtd knows. Asked each time, since a reload changes the answer.
    MayConnect {
        /// Where to.
        remote: Address,
    },
}

/// What virtd answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To `Hello`.
    Welcome {
        /// The TCP port that is redirected (179 unless configured).
        bgp_port: u16,
        /// Whether NETLINK_ROUTE sockets are redirected too: virtd votes on the FIB.
        netlink: bool,
        /// Whether the shim may acknowledge requests of which the answer is known.
        answer_ahead: bool,
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
    /// To `Netlink`, `NetlinkBind`, `NetlinkNames`: sockaddr_nl of the real socket behind it.
    NetlinkName {
        /// nl_pid; 0 as long as it is not bound.
        port_id: u32,
        /// nl_groups.
        groups: u32,
    },
    /// To `MayConnect`.
    Passage {
        /// It is a BGP session: `Connect` is to follow. Otherwise the connection is the daemon's
        /// own business.
        redirected: bool,
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

impl<'a> Options<'a> {
    /// The options, in the order they were set.
    pub fn iter(&self) -> impl Iterator<Item = SocketOption<'a>> + use<'a> {
        let mut reader = Reader { rest: self.encoded };
        std::iter::from_fn(move || reader.option().ok())
    }

    /// Appends an option to a list under construction in `buf`, of which `used` octets are taken;
    /// gives the new length.
    ///
    /// # Errors
    /// [`Malformed`] where the value is too long or the buffer full.
    pub fn push(buf: &mut [u8], used: usize, option: &SocketOption<'_>) -> Result<usize, Malformed> {
        if option.value.len() > MAX_OPTION_LEN {
            return Err(Malformed);
        }
        let mut w = Writer { buf, len: used, full: false };
        w.option(option);
        w.done()
    }
}

impl<'a> Request<'a> {
    /// Writes the message into `buf`; gives its length.
    ///
    /// # Errors
    /// [`Malformed`] where it does not fit or a field is longer than its limit.
    pub fn encode(&self, buf: &mut [u8]) -> Result<usize, Malformed> {
        let mut w = Writer { buf, len: 0, full: false };
        match self {
            Request::Hello { version, instance, pid, netns_cookie } => {
                w.full = instance.len() > MAX_NAME;
                w.put(&[1]);
                w.put(&version.to_le_bytes());
                w.block(instance.as_bytes());
                w.put(&pid.to_le_bytes());
                w.put(&netns_cookie.to_le_bytes());
            }
            Request::Bind { socket, local, v6_only, options } => {
                w.put(&[2]);
                w.put(&socket.to_le_bytes());
                w.address(local);
                w.put(&[u8::from(*v6_only)]);
                w.block(options.encoded);
            }
            Request::Listen { socket, backlog } => {
                w.put(&[3]);
                w.put(&socket.to_le_bytes());
                w.put(&backlog.to_le_bytes());
            }
            Request::Connect { socket, local, remote, filler_len, options } => {
                w.put(&[4]);
                w.put(&socket.to_le_bytes());
                w.address(local);
                w.address(remote);
                w.put(&filler_len.to_le_bytes());
                w.block(options.encoded);
            }
            Request::SetOption { socket, option } => {
                w.full = option.value.len() > MAX_OPTION_LEN;
                w.put(&[5]);
                w.put(&socket.to_le_bytes());
                w.option(option);
            }
            Request::GetOption { socket, level, name, max_len } => {
                w.put(&[6]);
                w.put(&socket.to_le_bytes());
                w.put(&level.to_le_bytes());
                w.put(&name.to_le_bytes());
                w.put(&max_len.to_le_bytes());
            }
            Request::SocketError { socket } => {
                w.put(&[7]);
                w.put(&socket.to_le_bytes());
            }
            Request::Names { socket } => {
                w.put(&[8]);
                w.put(&socket.to_le_bytes());
            }
            Request::Netlink { socket } => {
                w.put(&[9]);
                w.put(&socket.to_le_bytes());
            }
            Request::NetlinkBind { socket, port_id, groups } => {
                w.put(&[10]);
                w.put(&socket.to_le_bytes());
                w.put(&port_id.to_le_bytes());
                w.put(&groups.to_le_bytes());
            }
            Request::NetlinkNames { socket } => {
                w.put(&[11]);
                w.put(&socket.to_le_bytes());
            }
            Request::MayConnect { remote } => {
                w.put(&[12]);
                w.address(remote);
            }
        }
        w.done()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] for anything [`Request::encode`] would not have written.
    pub fn decode(bytes: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut r = Reader::new(bytes)?;
        let request = match r.u8()? {
            1 => {
                let (version, instance) = (r.u16()?, r.text()?);
                if instance.len() > MAX_NAME {
                    return Err(Malformed);
                }
                Request::Hello { version, instance, pid: r.u32()?, netns_cookie: r.u64()? }
            }
            2 => Request::Bind { socket: r.u64()?, local: r.address()?, v6_only: r.flag()?, options: r.options()? },
            3 => Request::Listen { socket: r.u64()?, backlog: r.i32()? },
            4 => Request::Connect {
                socket: r.u64()?,
                local: r.address()?,
                remote: r.address()?,
                filler_len: r.u32()?,
                options: r.options()?,
            },
            5 => Request::SetOption { socket: r.u64()?, option: r.option()? },
            6 => Request::GetOption { socket: r.u64()?, level: r.i32()?, name: r.i32()?, max_len: r.u32()? },
            7 => Request::SocketError { socket: r.u64()? },
            8 => Request::Names { socket: r.u64()? },
            9 => Request::Netlink { socket: r.u64()? },
            10 => Request::NetlinkBind { socket: r.u64()?, port_id: r.u32()?, groups: r.u32()? },
            11 => Request::NetlinkNames { socket: r.u64()? },
            12 => Request::MayConnect { remote: r.address()? },
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(request)
    }
}

impl<'a> Reply<'a> {
    /// Writes the message into `buf`; gives its length.
    ///
    /// # Errors
    /// [`Malformed`] where it does not fit.
    pub fn encode(&self, buf: &mut [u8]) -> Result<usize, Malformed> {
        let mut w = Writer { buf, len: 0, full: false };
        match self {
            Reply::Welcome { bgp_port, netlink, answer_ahead } => {
                w.put(&[1]);
                w.put(&bgp_port.to_le_bytes());
                w.put(&[u8::from(*netlink), u8::from(*answer_ahead)]);
            }
            Reply::Done => w.put(&[2]),
            Reply::Error { errno, text } => {
                w.put(&[3]);
                w.put(&errno.to_le_bytes());
                w.block(text.as_bytes());
            }
            Reply::Option { value } => {
                w.put(&[4]);
                w.block(value);
            }
            Reply::Names { local, remote } => {
                w.put(&[5]);
                w.address(local);
                w.put(&[u8::from(remote.is_some())]);
                if let Some(remote) = remote {
                    w.address(remote);
                }
            }
            Reply::NetlinkName { port_id, groups } => {
                w.put(&[6]);
                w.put(&port_id.to_le_bytes());
                w.put(&groups.to_le_bytes());
            }
            Reply::Passage { redirected } => w.put(&[7, u8::from(*redirected)]),
        }
        w.done()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] for anything [`Reply::encode`] would not have written.
    pub fn decode(bytes: &'a [u8]) -> Result<Reply<'a>, Malformed> {
        let mut r = Reader::new(bytes)?;
        let reply = match r.u8()? {
            1 => Reply::Welcome { bgp_port: r.u16()?, netlink: r.flag()?, answer_ahead: r.flag()? },
            2 => Reply::Done,
            3 => Reply::Error { errno: r.i32()?, text: r.text()? },
            4 => Reply::Option { value: r.block()? },
            5 => {
                let local = r.address()?;
                let remote = if r.flag()? { Some(r.address()?) } else { None };
                Reply::Names { local, remote }
            }
            6 => Reply::NetlinkName { port_id: r.u32()?, groups: r.u32()? },
            7 => Reply::Passage { redirected: r.flag()? },
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(reply)
    }
}

impl Accepted {
    /// Writes the message into `buf`; gives its length.
    ///
    /// # Errors
    /// [`Malformed`] where it does not fit.
    pub fn encode(&self, buf: &mut [u8]) -> Result<usize, Malformed> {
        let mut w = Writer { buf, len: 0, full: false };
        w.put(&[1]);
        w.address(&self.local);
        w.address(&self.remote);
        w.done()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] for anything [`Accepted::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Accepted, Malformed> {
        let mut r = Reader::new(bytes)?;
        if r.u8()? != 1 {
            return Err(Malformed);
        }
        let accepted = Accepted { local: r.address()?, remote: r.address()? };
        r.end()?;
        Ok(accepted)
    }
}

#[cfg(test)]
#[path = "shim_tests.rs"]
mod tests;
