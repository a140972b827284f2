//! What reaches the kernel's forwarding table: the other end of a measurement where no neighbour
//! listens (papers/001, section 5.2: the FIB pass-through time is that from an UPDATE's being sent
//! to the new route's being in the router's FIB).
//!
//! Linux tells RTNLGRP_IPV4_ROUTE and RTNLGRP_IPV6_ROUTE of a route right after it is in its table.
//! The socket is opened in the router's network namespace by a thread that goes there, and read by
//! the thread that sends, so that one clock stamps both.

use anyhow::{Context, Result, anyhow, bail};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Instant;
use wire::bgp::Prefix;
use wire::netlink::Frames;
use wire::netlink::RouteMessage;
use wire::netlink::consts::{RTM_DELROUTE, RTM_NEWROUTE, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE};
use wire::netlink::fib::FibKey;

/// A whole table's notifications may wait while this thread is not on a processor; Linux counts
/// about 1 KiB for each.
const BUFFER: usize = 512 << 20;
/// RT_TABLE_MAIN.
const MAIN: u32 = 254;

/// One change of the main table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Whose route it is.
    pub prefix: Prefix,
    /// The gateway of the route, where it has a single one.
    pub gateway: Option<IpAddr>,
    /// The route is gone.
    pub gone: bool,
    /// When that was read.
    pub at: Instant,
}

/// The kernel's word on its routes.
#[derive(Debug)]
pub struct Fib {
    socket: OwnedFd,
    buf: Vec<u8>,
}

impl Fib {
    /// Listens in the network namespace at a path such as /run/netns/NAME.
    ///
    /// # Errors
    /// Not root, no such namespace, or the poller fails.
    pub fn open(netns: &Path, token: Token, registry: &Registry) -> Result<Fib> {
        let file = File::open(netns).with_context(|| format!("cannot open the namespace {}", netns.display()))?;
        let there = std::thread::spawn(move || -> Result<OwnedFd> {
            setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            let groups = [RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE].into_iter().fold(0, |all, g| all | 1 << (g - 1));
            setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).context("a receive buffer beyond net.core.rmem_max")?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(fd)
        });
        let socket = there.join().map_err(|_| anyhow!("a thread has panicked"))?;
        let socket = socket.with_context(|| format!("cannot listen to the routes of {}", netns.display()))?;
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Fib { socket, buf: vec![0; 64 << 10] })
    }

    /// From now on the poller is not woken by routes.
    ///
    /// # Errors
    /// The poller fails.
    pub fn quiet(&self, registry: &Registry) -> Result<()> {
        Ok(registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()))?)
    }

    /// What has changed in the main table, in its order.
    ///
    /// # Errors
    /// Notifications were lost.
    pub fn changes(&mut self) -> Result<Vec<Change>> {
        let mut all = Vec::new();
        loop {
            let n = match recv(self.socket.as_raw_fd(), &mut self.buf, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => n,
                Err(Errno::EAGAIN) => return Ok(all),
                Err(Errno::EINTR) => continue,
                Err(Errno::ENOBUFS) => bail!("the kernel's notifications came too fast, and some are lost"),
                Err(e) => return Err(e).context("receiving the kernel's notifications"),
            };
            let at = Instant::now();
            for frame in Frames::new(self.buf.get(..n).unwrap_or_default()).map_while(Result::ok) {
                let gone = frame.header.kind == RTM_DELROUTE;
                if (gone || frame.header.kind == RTM_NEWROUTE)
                    && let Ok(message) = RouteMessage::parse(frame.payload)
                    && let Ok(key) = FibKey::from_message(&message)
                    && key.table == MAIN
                {
                    all.push(Change { prefix: key.prefix, gateway: message.gateway, gone, at });
                }
            }
        }
    }
}
