//! Netlink sockets with the real kernel. neli opens, binds and joins; what goes over them is [`wire::netlink`]'s, which the virtual kernels
//! speak as well, so that a route has one encoding here and there, and a batch is one buffer.

use anyhow::{Context, Result, bail};
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, RawFd};
use wire::netlink::Frames;
use wire::netlink::consts::{
    AF_INET, AF_INET6, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLMSG_DONE, NLMSG_ERROR, RTM_DELROUTE,
    RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_NEWROUTE, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE, RTNLGRP_LINK,
};
use wire::netlink::message::Writer;

const NLM_F_REQUEST: u16 = 1;
/// Receive buffer for notifications: others may change many routes at once.
const NOTICE_BUFFER: usize = 8 << 20;
/// One receive: the kernel's dumps come in pieces of up to 32 KiB.
const PIECE: usize = 64 << 10;
/// Messages and octets of one batch; the errors of a whole one must fit the receive buffer.
const MAX_BATCH: usize = 256;
const MAX_BATCH_OCTETS: usize = 48 << 10;
/// A dump that is always interrupted by changes is taken as it is after so many tries; the next reconciliation sees the rest.
const DUMP_TRIES: usize = 5;

/// A message of the kernel's.
#[derive(Clone, Debug)]
pub struct Notice {
    /// RTM_.
    pub kind: u16,
    /// Whose doing it was: nl_pid, 0 for the kernel itself.
    pub port_id: u32,
    /// Behind the header.
    pub payload: Vec<u8>,
}

/// What is to be written: the whole payload behind the header, and whether the route is to go.
#[derive(Debug)]
pub struct Write {
    /// `struct rtmsg` and attributes.
    pub payload: Vec<u8>,
    /// RTM_DELROUTE.
    pub delete: bool,
}

/// The socket that hears of changes.
pub struct Notices {
    socket: NlSocket,
    buf: Vec<u8>,
}

impl Notices {
    /// Joins the groups of links, addresses and routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Notices> {
        let groups = [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE];
        let socket = NlSocket::connect(NlFamily::Route, None, Groups::new_groups(&groups))?;
        socket.nonblock()?;
        // Beyond net.core.rmem_max only where we may; what is not granted is no error.
        crate::driver::widen(&socket, NOTICE_BUFFER);
        Ok(Notices { socket, buf: vec![0; PIECE] })
    }

    /// Appends what waits; false where some were lost.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(&mut self, into: &mut Vec<Notice>) -> Result<bool> {
        let mut whole = true;
        loop {
            match self.socket.recv(&mut self.buf[..], Msg::DONTWAIT) {
                Ok((n, _)) => take(self.buf.get(..n).unwrap_or_default(), into),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(whole),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => whole = false,
                Err(e) => return Err(e).context("receiving notifications"),
            }
        }
    }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn take(datagram: &[u8], into: &mut Vec<Notice>) {
    for frame in Frames::new(datagram).map_while(Result::ok) {
        into.push(Notice { kind: frame.header.kind, port_id: frame.header.port, payload: frame.payload.to_vec() });
    }
}

/// The socket that asks and writes.
pub struct Requests {
    socket: NlSocket,
    port_id: u32,
    seq: u32,
    buf: Vec<u8>,
    batch: Vec<u8>,
}

impl Requests {
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Requests> {
        let socket = NlSocket::connect(NlFamily::Route, None, Groups::empty())?;
        // Without it a dump of ours would bring every table's every route.
        socket.enable_strict_checking(true)?;
        crate::driver::widen(&socket, NOTICE_BUFFER);
        let port_id = socket.pid()?;
        Ok(Requests { socket, port_id, seq: 1, buf: vec![0; PIECE], batch: Vec::new() })
    }

    /// nl_pid: notifications of what it wrote name it.
    pub fn port_id(&self) -> u32 {
        self.port_id
    }

    /// Links, as RTM_NEWLINK.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> Result<Vec<Notice>> {
        self.dump(RTM_GETLINK, &[0; 16])
    }

    /// Addresses, as RTM_NEWADDR.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self) -> Result<Vec<Notice>> {
        self.dump(RTM_GETADDR, &[0; 8])
    }

    /// Routes of all tables, IPv4 and IPv6; of one protocol where it is not 0.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(&mut self, protocol: u8) -> Result<Vec<Notice>> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut rtmsg = [0u8; 12];
            (rtmsg[0], rtmsg[5]) = (family, protocol);
            all.append(&mut self.dump(RTM_GETROUTE, &rtmsg)?);
        }
        Ok(all)
    }

    fn dump(&mut self, kind: u16, payload: &[u8]) -> Result<Vec<Notice>> {
        for _ in 0..DUMP_TRIES {
            let (all, interrupted) = self.dump_once(kind, payload)?;
            if !interrupted {
                return Ok(all);
            }
        }
        Ok(self.dump_once(kind, payload)?.0)
    }

    fn dump_once(&mut self, kind: u16, payload: &[u8]) -> Result<(Vec<Notice>, bool)> {
        self.seq = self.seq.wrapping_add(1);
        let mut bytes = Vec::with_capacity(32);
        let mut w = Writer::message(&mut bytes, kind, NLM_F_REQUEST | NLM_F_DUMP, self.seq, 0);
        w.put(payload);
        w.finish()?;
        self.socket.send(&bytes[..], Msg::empty()).context("asking the kernel for a dump")?;
        let (mut all, mut interrupted) = (Vec::new(), false);
        loop {
            let (n, _) = self.socket.recv(&mut self.buf[..], Msg::empty()).context("receiving a dump")?;
            for frame in Frames::new(self.buf.get(..n).unwrap_or_default()).map_while(Result::ok) {
                if frame.header.seq != self.seq {
                    continue;
                }
                interrupted |= frame.header.flags & NLM_F_DUMP_INTR != 0;
                match (frame.header.kind, frame.errno()) {
                    (NLMSG_DONE, None | Some(0)) => return Ok((all, interrupted)),
                    (NLMSG_DONE | NLMSG_ERROR, errno) => {
                        bail!("a dump: {}", std::io::Error::from_raw_os_error(errno.unwrap_or(libc::EPROTO)));
                    }
                    (kind, _) => all.push(Notice { kind, port_id: frame.header.port, payload: frame.payload.to_vec() }),
                }
            }
        }
    }

    /// Writes all, in batches; calls `failed(index, errno)` for each that the kernel refuses. Returns how many system calls it took.
    ///
    /// # Errors
    /// A batch could not be sent, or its answers not be received: what is in the kernel is not known then.
    pub fn write(&mut self, writes: &[Write], mut failed: impl FnMut(usize, i32)) -> Result<usize> {
        let (mut at, mut batches) = (0, 0);
        while at < writes.len() {
            self.batch.clear();
            let first = self.seq.wrapping_add(1);
            let mut n = 0;
            for write in writes.get(at..).unwrap_or_default().iter().take(MAX_BATCH) {
                if n > 0 && self.batch.len() + write.payload.len() > MAX_BATCH_OCTETS {
                    break;
                }
                self.seq = self.seq.wrapping_add(1);
                let (kind, flags) = match write.delete {
                    true => (RTM_DELROUTE, NLM_F_REQUEST),
                    false => (RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE),
                };
                let mut w = Writer::message(&mut self.batch, kind, flags, self.seq, 0);
                w.put(&write.payload);
                w.finish()?;
                n += 1;
            }
            self.socket.send(&self.batch[..], Msg::empty()).context("writing routes")?;
            batches += 1;
            self.answers(|seq, errno| failed(at + seq.wrapping_sub(first) as usize, errno))?;
            at += n;
        }
        Ok(batches)
    }

    /// Errors only: who is not named has been taken (netlink has answered before send returned).
    fn answers(&mut self, mut failed: impl FnMut(u32, i32)) -> Result<()> {
        loop {
            match self.socket.recv(&mut self.buf[..], Msg::DONTWAIT) {
                Ok((n, _)) => {
                    for frame in Frames::new(self.buf.get(..n).unwrap_or_default()).map_while(Result::ok) {
                        if frame.header.kind == NLMSG_ERROR
                            && let Some(errno) = frame.errno().filter(|e| *e != 0)
                        {
                            failed(frame.header.seq, errno);
                        }
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("receiving the kernel's answers"),
            }
        }
    }
}
