//! What goes into the core and what comes out of it. The driver turns readiness and fds into
//! [`Input`]s and carries out [`Output`]s; the core never sees an fd and the driver never takes a
//! decision about routes or sessions.

mod kernel;

use crate::config;
use crate::event::Event;
use crate::witness::Stage;
use bytes::{Bytes, BytesMut};
pub use kernel::{FibChange, KernelNews};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
pub use vkernel::io::{Change, DumpCursor, Link, Note, NoteBody, OtherRoute, Place};
use voter::Members;

/// Microseconds on a monotonic clock that starts at 0 with virtd.
pub type Micros = u64;

/// An instance, by its place in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InstanceId(pub u8);

/// One TCP connection with a peer, dialled or accepted; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// One connection of an instance; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LegId(pub u64);

/// One listening socket of an instance; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u64);

/// One netlink socket of an instance; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetlinkId(pub u64);

/// Options of a netlink socket that shape its answers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetlinkStyle {
    /// NETLINK_CAP_ACK.
    pub capped: bool,
    /// NETLINK_EXT_ACK.
    pub extended: bool,
}

/// Something happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// virtd's own listening socket accepted a connection. Ids of inputs are chosen by the driver,
    /// of outputs by the core, from one counter each (the driver's odd, the core's even).
    PeerAccepted {
        /// The driver's id for it.
        conn: ConnId,
        /// The peer's address.
        peer: SocketAddr,
        /// Ours.
        local: SocketAddr,
    },
    /// A [`Output::Dial`] succeeded.
    PeerConnected {
        /// As in the dial.
        conn: ConnId,
        /// Our address, now known.
        local: SocketAddr,
        /// The peer's.
        peer: SocketAddr,
    },
    /// A [`Output::Dial`] failed.
    PeerDialFailed {
        /// As in the dial.
        conn: ConnId,
        /// errno.
        errno: i32,
    },
    /// Bytes from a peer. The core takes whole messages off the front; what it leaves stays in the
    /// driver's buffer and comes again with more behind it.
    PeerBytes {
        /// From which.
        conn: ConnId,
        /// The connection's receive buffer.
        buf: &'a mut BytesMut,
    },
    /// The peer closed, or the connection broke.
    PeerClosed {
        /// Which.
        conn: ConnId,
        /// 0 for an orderly end of stream, else errno.
        errno: i32,
    },
    /// Bytes left the send queue of a connection that had held some back.
    PeerDrained {
        /// Which.
        conn: ConnId,
        /// Octets still queued in user space.
        queued: usize,
        /// Octets that the socket has just taken.
        taken: usize,
    },
    /// An instance's process (image) opened its control channel. An instance may have several.
    InstanceAttached {
        /// Which instance.
        instance: InstanceId,
        /// Its process.
        pid: u32,
    },
    /// One of an instance's control channels closed: a process of its has ended, or has become
    /// another program (which opens a channel of its own). [`Input::InstanceDetached`] follows
    /// where it was the last.
    ChannelClosed {
        /// Which instance.
        instance: InstanceId,
        /// Its process.
        pid: u32,
    },
    /// The last control channel of an instance closed.
    InstanceDetached {
        /// Which instance.
        instance: InstanceId,
    },
    /// An instance listens.
    Listening {
        /// Which instance.
        instance: InstanceId,
        /// The driver's id for the listening socket.
        listener: ListenerId,
        /// Where it believes to be bound; port is the BGP port.
        local: SocketAddr,
        /// An IPv6 wildcard listener that does not take IPv4.
        v6_only: bool,
    },
    /// A listening socket was closed.
    ListenerClosed {
        /// Which.
        listener: ListenerId,
    },
    /// An instance calls connect. Answer with [`Output::LegConnected`] or [`Output::LegRefused`],
    /// now or later.
    LegDialed {
        /// The driver's id for it.
        leg: LegId,
        /// Which instance.
        instance: InstanceId,
        /// Where to.
        peer: SocketAddr,
        /// What it was bound to, if anything but the wildcard.
        local: Option<SocketAddr>,
    },
    /// Bytes from an instance; as [`Input::PeerBytes`].
    LegBytes {
        /// From which leg.
        leg: LegId,
        /// The leg's receive buffer.
        buf: &'a mut BytesMut,
    },
    /// The instance closed the leg or died.
    LegClosed {
        /// Which.
        leg: LegId,
    },
    /// Bytes left the send queue of a leg that had held some back.
    LegDrained {
        /// Which.
        leg: LegId,
        /// Octets still queued in user space.
        queued: usize,
    },
    /// What the supervisor says about the processes of an instance that virtd starts.
    Process {
        /// Which instance.
        instance: InstanceId,
        /// What happened.
        news: ProcessNews,
    },
    /// An instance opened a NETLINK_ROUTE socket.
    NetlinkOpened {
        /// The driver's id for it.
        socket: NetlinkId,
        /// Which instance.
        instance: InstanceId,
    },
    /// It is closed.
    NetlinkClosed {
        /// Which.
        socket: NetlinkId,
    },
    /// An instance wants a route or a nexthop object written: one whole netlink message.
    NetlinkRequest {
        /// Over which socket.
        socket: NetlinkId,
        /// nl_pid of the socket behind it: answers and notifications name it.
        port_id: u32,
        /// How it wants errors to look.
        style: NetlinkStyle,
        /// Header and payload; its length is checked.
        message: &'a [u8],
        /// Gets the answers, a datagram each.
        answers: &'a mut Vec<Bytes>,
    },
    /// The real kernel's part of a dump of routes or nexthop objects has been passed on: now comes
    /// the instance's own, a piece each time, and then `done`.
    NetlinkDump {
        /// Over which socket.
        socket: NetlinkId,
        /// nl_pid of the socket behind it.
        port_id: u32,
        /// What was asked.
        request: &'a [u8],
        /// How far it has come.
        cursor: &'a mut DumpCursor,
        /// The kernel's NLMSG_DONE, to be passed on at the end.
        done: &'a Bytes,
        /// Gets a piece of the answers, a datagram each.
        answers: &'a mut Vec<Bytes>,
    },
    /// The real kernel has told an instance of a new link, address or route, which may not have
    /// come as [`KernelNews`] yet.
    NetlinkStirred,
    /// What the kernel's own thread has seen.
    Kernel(KernelNews),
    /// Time passed; also fires what [`super::Core::deadline`] named.
    Tick,
    /// virtd ends: every peer and every instance is told.
    Stop,
    /// In the place of [`Input::Tick`] while there is more to read than one turn has time for:
    /// KEEPALIVEs that are due leave. Nobody's time is over: what they have said may be among what
    /// is not read yet.
    KeepAlive,
}

impl Input<'_> {
    /// What is under way while it is handled.
    pub(crate) const fn stage(&self) -> Stage {
        match self {
            Input::PeerBytes { .. } => Stage::Peer,
            Input::LegBytes { .. } => Stage::Leg,
            Input::NetlinkOpened { .. }
            | Input::NetlinkClosed { .. }
            | Input::NetlinkRequest { .. }
            | Input::NetlinkDump { .. }
            | Input::NetlinkStirred => Stage::Netlink,
            Input::Tick | Input::KeepAlive => Stage::Timers,
            Input::Stop => Stage::Operator,
            _ => Stage::Happening,
        }
    }
}

/// What happened to the processes of an instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProcessNews {
    /// They run.
    Started {
        /// The main process.
        pid: u32,
    },
    /// One of its processes was reaped; the rest of its group is being ended, and
    /// [`ProcessNews::Ended`] follows.
    Died {
        /// How.
        death: Death,
    },
    /// The main process has ended, and the rest of its group with it.
    Ended {
        /// Not because it was told to ([`Order`]).
        unasked: bool,
        /// How: exit status, signal, core file.
        text: String,
    },
    /// They could not be started.
    Failed {
        /// Why.
        text: String,
    },
    /// Its program has said its version; some time after a start, and it says nothing of whether it
    /// runs.
    Version {
        /// As it is written: 8.4.4.
        version: String,
    },
    /// What all its processes used since the last report, about once a second.
    Usage {
        /// Thousandths of one processor.
        cpu_permille: u32,
        /// Resident memory, KiB.
        rss_kib: u64,
    },
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Death {
    /// It exited with status 0: it was asked to end, and did so.
    InOrder,
    /// It exited with a status that says that something was wrong.
    Exit,
    /// SIGKILL or SIGTERM while memory was not short: somebody outside wanted its end (a service
    /// manager, an operator).
    FromOutside,
    /// The kernel ended it because memory was short: an OOM count rose.
    OutOfMemory,
    /// Any other signal: a crash.
    Crash,
}

impl Death {
    /// The word that virtctl shows.
    pub const fn name(self) -> &'static str {
        match self {
            Death::InOrder => "in-order",
            Death::Exit => "exit",
            Death::FromOutside => "from-outside",
            Death::OutOfMemory => "out-of-memory",
            Death::Crash => "crash",
        }
    }
}

/// What the supervisor is to do with an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Start it, unless it runs.
    Start,
    /// SIGTERM to its process group, SIGKILL after a few seconds.
    Stop,
    /// SIGKILL to its process group at once: it is not trusted with an orderly end any more.
    Kill,
}

/// What an instance's place becomes.
#[derive(Clone, PartialEq, Debug)]
pub enum Occupant {
    /// This instance's, from now on: who says its name is let in, and an order to start it means
    /// this.
    Taken(Box<config::Instance>),
    /// Nobody's. Whatever is left of the instance is cut off; its inputs say so.
    Empty,
}

/// A message that crossed a leg, for the flight recorder.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When.
    pub at: Micros,
    /// The peer that the leg's session is with.
    pub peer: SocketAddr,
    /// Our address on that session.
    pub local: Option<SocketAddr>,
    /// The peer's AS number, 0 where it is not known yet.
    pub peer_as: u32,
    /// Ours.
    pub local_as: u32,
    /// AS numbers in it have four octets.
    pub as4: bool,
    /// The OPEN that every leg of that session is given: what an instance says and dies of depends
    /// on it.
    pub open: Bytes,
    /// Which way.
    pub direction: Direction,
    /// The whole message, or several.
    pub bytes: Bytes,
}

/// Which way a recorded message went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To these instances.
    To(Members),
    /// From this one.
    From(InstanceId),
}

/// Something to be kept on disk: what led to a verdict, or the UPDATE that kills an instance.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the verdict fell.
    pub at: Micros,
    /// The event's kind that it belongs to: `instance-faulty`, `poison`.
    pub kind: &'static str,
    /// The instance it is about.
    pub instance: String,
    /// The messages, oldest first.
    pub messages: Vec<Recorded>,
    /// The account of the disagreement.
    pub account: serde_json::Value,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Open a TCP connection to a peer; the socket options are those the instances set for that
    /// peer (the driver knows them).
    Dial {
        /// The core's id for it.
        conn: ConnId,
        /// The peer.
        peer: SocketAddr,
        /// Source address, if an instance asked for one.
        local: Option<SocketAddr>,
        /// Whose options to use: the instance that caused the dial.
        leg: LegId,
    },
    /// Send to a peer; whole messages.
    SendPeer {
        /// To which.
        conn: ConnId,
        /// What.
        bytes: Bytes,
    },
    /// Close a connection once what is queued has left (at most a few seconds), or at once with
    /// RST.
    ClosePeer {
        /// Which.
        conn: ConnId,
        /// RST at once: nobody here listens, as a host without a listener would answer.
        abort: bool,
    },
    /// The session on this connection stands: KEEPALIVEs may be sent on it.
    Established {
        /// Which.
        conn: ConnId,
    },
    /// How a session stands, where the journal has to know.
    Standing(Box<crate::session::Whose>),
    /// All that the peer has asked to be told again has been handed over ([`journal::Record`]).
    Refreshed {
        /// On which connection.
        conn: ConnId,
    },
    /// Stop or go on reading from a peer (native mode only: TCP's own back-pressure).
    PausePeer {
        /// Which.
        conn: ConnId,
        /// Stop.
        pause: bool,
    },
    /// Hand an instance a new leg over one of its listening sockets.
    OfferLeg {
        /// The core's id for it.
        leg: LegId,
        /// Which instance.
        instance: InstanceId,
        /// Over which listening socket.
        listener: ListenerId,
        /// What getpeername shall say.
        peer: SocketAddr,
        /// What getsockname shall say.
        local: SocketAddr,
        /// The TCP connection whose socket options and TCP-level getsockopt answers the leg shows,
        /// if there is one yet.
        conn: Option<ConnId>,
    },
    /// A dialled leg is connected.
    LegConnected {
        /// Which.
        leg: LegId,
        /// What getsockname shall say.
        local: SocketAddr,
        /// What getpeername shall say.
        peer: SocketAddr,
        /// As in [`Output::OfferLeg`].
        conn: Option<ConnId>,
    },
    /// A dialled leg failed.
    LegRefused {
        /// Which.
        leg: LegId,
        /// What SO_ERROR shall say.
        errno: i32,
    },
    /// Send to an instance.
    SendLeg {
        /// Which leg.
        leg: LegId,
        /// What.
        bytes: Bytes,
    },
    /// The same, at the end of the next turn ([`super::turn::Deferred`]). Until then, what others
    /// make of the same can leave.
    SendLegLater {
        /// Which leg.
        leg: LegId,
        /// What.
        bytes: Bytes,
    },
    /// Close a leg once what is queued has left, or a second has passed.
    CloseLeg {
        /// Which.
        leg: LegId,
    },
    /// Stop or go on reading from a leg (native mode only).
    PauseLeg {
        /// Which.
        leg: LegId,
        /// Stop.
        pause: bool,
    },
    /// Start or end an instance that virtd starts.
    Order {
        /// Which.
        instance: InstanceId,
        /// What.
        order: Order,
    },
    /// Have an instance's own control program end its session with a neighbour and begin it anew.
    /// Only of a `kind`.
    RestartNeighbour {
        /// Which instance.
        instance: InstanceId,
        /// The neighbour's address.
        peer: IpAddr,
    },
    /// A notification for those netlink sockets of an instance that are members of a multicast
    /// group.
    NetlinkNotify {
        /// Whose.
        instance: InstanceId,
        /// What.
        note: Note,
    },
    /// An instance alone is to be shown that a link goes down, or that it is as it is, with its
    /// addresses.
    LinkReset {
        /// Whom.
        instance: InstanceId,
        /// Its index.
        index: u32,
        /// Whether it comes up again.
        up: bool,
    },
    /// Write to the real kernel.
    Fib(Vec<FibChange>),
    /// Write a record to disk.
    Record(Box<Record>),
    /// The set of instances changes.
    Seat {
        /// Whose place.
        instance: InstanceId,
        /// What becomes of it.
        seat: Occupant,
    },
    /// Tell the operator. In a box: most outputs are passed from hand to hand for one route, and
    /// would all be as large.
    Event(Box<Event>),
}

impl From<Event> for Output {
    fn from(event: Event) -> Output {
        Output::Event(event.into())
    }
}
