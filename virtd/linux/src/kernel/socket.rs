//! A netlink socket with the kernel.
//!
//! neli gives the socket: opening, binding, groups, options, send and receive without unsafe code
//! of ours. Its typed messages are left alone: wire has its own, which read what instances send and
//! are fuzzed for that, and the canonical form that is voted on and compared here hangs on them.
//! Two sets of route types would be two meanings of one route.

use crate::sys;
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use socket2::SockFilter;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use wire::netlink::consts::*;
use wire::netlink::message::Writer;

/// Octets of a receive buffer: twice what the kernel puts into one datagram of a dump, and as much
/// as a notification of a route with more next hops than wire takes.
const BUFFER: usize = 64 * 1024;
/// Octets of notifications that the kernel keeps for us, for when the thread is at work on a batch
/// or a dump. Beyond that it says ENOBUFS, and everything is read again.
pub const MONITOR_QUEUE: usize = 8 << 20;
/// Octets of answers that the kernel keeps for us: far more than a batch of errors.
pub const ANSWER_QUEUE: usize = 2 << 20;

/// One socket and its receive buffer. It never blocks: whatever the kernel answers to a request is
/// there when the send returns.
pub struct RouteSocket {
    socket: NlSocket,
    buffer: Vec<u8>,
    port: u32,
    seq: u32,
}

/// What a receive brought.
pub enum Received<'a> {
    /// Messages.
    Datagram(&'a [u8]),
    /// None there.
    Nothing,
    /// Some were there and were thrown away.
    Lost,
}

impl RouteSocket {
    /// A socket that is a member of these groups, for which the kernel keeps so many octets.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(groups: &[u32], queue: usize) -> io::Result<RouteSocket> {
        let socket = NlSocket::new(NlFamily::Route)?;
        socket.nonblock()?;
        // Kernels before 4.20 lack it, and look less closely at requests for dumps.
        let _ = socket.enable_strict_checking(true);
        socket.bind(None, Groups::new_groups(groups))?;
        let port = socket.pid()?;
        // Beyond net.core.rmem_max, which neli's own call cannot pass.
        sys::widen_to(&socket, queue);
        Ok(RouteSocket { socket, buffer: vec![0; BUFFER], port, seq: 0 })
    }

    /// Its nl_pid, which the notifications of what it caused have.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The first of `count` sequence numbers that no other request has.
    pub fn take_seqs(&mut self, count: u32) -> u32 {
        let first = self.seq.wrapping_add(1);
        self.seq = self.seq.wrapping_add(count);
        first
    }

    /// Sends one request; its sequence number. `body` is what stands behind the header.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<u32> {
        let seq = self.take_seqs(1);
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, NLM_F_REQUEST | flags, seq, 0);
        w.put(body);
        // A header, a fixed part and an attribute or two.
        let _ = w.finish();
        self.send(&bytes)?;
        Ok(seq)
    }

    /// Asks for a dump; its sequence number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask_dump(&mut self, kind: u16, family: u8, fixed_len: usize) -> io::Result<u32> {
        let mut fixed = vec![0; fixed_len];
        if let Some(first) = fixed.first_mut() {
            *first = family;
        }
        self.ask(kind, NLM_F_DUMP, &fixed)
    }

    /// Sends messages in one datagram.
    ///
    /// # Errors
    /// The kernel's; nothing has been done then.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes, Msg::empty()) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Receives a datagram if one is there.
    ///
    /// # Errors
    /// Other than those [`Received`] has a word for.
    pub fn receive(&mut self) -> io::Result<Received<'_>> {
        loop {
            // With MSG_TRUNC the length is the datagram's, not that of what fits.
            match self.socket.recv(self.buffer.as_mut_slice(), Msg::TRUNC) {
                Ok((len, _)) => return Ok(self.buffer.get(..len).map_or(Received::Lost, Received::Datagram)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Received::Lost),
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsRawFd for RouteSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The three that the thread has: answers, dumps and notifications do not wait for each other.
pub struct Sockets {
    /// Member of the groups; only listens.
    pub monitor: RouteSocket,
    /// Writes routes.
    pub writer: RouteSocket,
    /// Dumps.
    pub dumper: RouteSocket,
}

impl Sockets {
    /// Opens them, the groups joined, so that nothing is missed between a dump and the first
    /// notification.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Sockets> {
        let groups = [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE];
        let monitor = RouteSocket::open(&groups, MONITOR_QUEUE)?;
        let writer = RouteSocket::open(&[], ANSWER_QUEUE)?;
        // Only spares work: what comes nevertheless is known by its port id.
        sys::attach_filter(&monitor.socket, &without(writer.port));
        Ok(Sockets { monitor, writer, dumper: RouteSocket::open(&[], ANSWER_QUEUE)? })
    }

    /// A fresh socket for dumps, for when the old one is in the middle of one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reopen_dumper(&mut self) -> io::Result<()> {
        self.dumper = RouteSocket::open(&[], ANSWER_QUEUE)?;
        Ok(())
    }
}

/// A filter (linux/filter.h) that drops the notifications of what the socket with this port id did.
fn without(port: u32) -> [SockFilter; 4] {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // nlmsg_pid, in the machine's order where filters read the network's.
    [
        SockFilter::new(LOAD_WORD, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, u32::from_be_bytes(port.to_ne_bytes())),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
