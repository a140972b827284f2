//! One buffered, non-blocking byte stream: a TCP connection with a peer, or virtd's end of a leg.
//!
//! Reading stops after a short read, since epoll reports the next arrival as a new edge; only once the other side has hung up is the
//! stream read to its end. Writing is tried at once; only when the kernel takes no more is EPOLLOUT asked for (`held`), so that an
//! AF_UNIX stream does not wake virtd each time the daemon reads.
//!
//! Closing: what is queued leaves, then SHUT_WR, then what still comes is thrown away until the other side closes too or the deadline
//! passes. Closing at once with something unread would reset the connection under a NOTIFICATION that is still on its way.

use crate::core::io::Micros;
use crate::driver::sys;
use bytes::{Buf, Bytes, BytesMut};
use nix::sys::socket::{MsgFlags, Shutdown, sendmsg, shutdown};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Read at once while a stream is busy: as much as the kernel usually holds.
const READ_SIZE: usize = 64 * 1024;
/// Read at once from a quiet stream: the longest plain BGP message, so that a thousand idle sessions cost little.
const READ_SIZE_QUIET: usize = 4096;
/// Slices of one write: more gain nothing, and the array stays a page.
const MAX_SLICES: usize = 64;
/// Unread octets that a broker may leave. Extended messages have 65,535 (RFC 8654); whoever leaves more takes nothing any more.
pub const MAX_UNREAD: usize = 1 << 20;
/// Octets queued at most: far above the core's own marks; past it the reader is beyond help and the stream is given up.
pub const MAX_QUEUED: usize = 256 << 20;

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Something came, or was thrown away; `more`: read again.
    Some {
        /// There may be more right now.
        more: bool,
    },
    /// Nothing there.
    Nothing,
    /// The other side closed.
    End,
    /// It broke: errno.
    Broken(i32),
}

/// What a write did.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    /// All has left.
    Empty,
    /// The kernel takes no more now.
    Full,
    /// It broke; reading tells why, after what is still to be read.
    Broken,
}

/// See the module's comment.
pub struct Stream {
    fd: OwnedFd,
    /// Received and not yet taken.
    pub buf: BytesMut,
    queue: VecDeque<Bytes>,
    queued: usize,
    read_size: usize,
    /// Octets at the front of the stream that are thrown away (the filler of a leg whose connect has come true).
    pub skip: usize,
    /// EPOLLOUT is asked for.
    pub held: bool,
    /// Not read from until the broker says so.
    pub paused: bool,
    /// The broker left something when it paused, and is to have it again.
    pub redeliver: bool,
    /// The other side has hung up: read to the end.
    pub hung_up: bool,
    /// The end of the stream was seen.
    pub ended: bool,
    /// Closing, until then at most.
    pub closing: Option<Micros>,
    shut: bool,
    broken: Option<i32>,
    /// Stands in the driver's list of streams to write.
    pub dirty: bool,
    /// Stands in the driver's list of streams to read.
    pub ready: bool,
}

impl Stream {
    /// A stream over a connected (or connecting) socket.
    pub fn new(fd: OwnedFd) -> Stream {
        Stream {
            fd,
            buf: BytesMut::new(),
            queue: VecDeque::new(),
            queued: 0,
            read_size: READ_SIZE_QUIET,
            skip: 0,
            held: false,
            paused: false,
            redeliver: false,
            hung_up: false,
            ended: false,
            closing: None,
            shut: false,
            broken: None,
            dirty: false,
            ready: false,
        }
    }

    /// The fd, for epoll.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The fd, for options.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Octets that wait in user space.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Reads once. What comes while closing is thrown away.
    pub fn read(&mut self) -> Read {
        if self.buf.capacity() - self.buf.len() < self.read_size / 4 {
            self.buf.reserve(self.read_size);
        }
        let asked = (self.buf.capacity() - self.buf.len()).min(READ_SIZE);
        match sys::read(self.fd.as_fd(), &mut self.buf, asked) {
            Ok(0) => {
                self.ended = true;
                self.broken.map_or(Read::End, Read::Broken)
            }
            Ok(n) => {
                self.read_size = if n == asked { READ_SIZE } else { READ_SIZE_QUIET };
                self.throw_away(n);
                Read::Some { more: n == asked || self.hung_up }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.give_back();
                self.broken.map_or(Read::Nothing, Read::Broken)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Read::Some { more: true },
            Err(e) => {
                self.ended = true;
                Read::Broken(self.broken.or(e.raw_os_error()).unwrap_or(libc::EIO))
            }
        }
    }

    fn throw_away(&mut self, read: usize) {
        if self.closing.is_some() {
            return self.buf.clear();
        }
        let filler = self.skip.min(read);
        self.buf.advance(filler);
        self.skip -= filler;
    }

    /// Gives the memory of a burst back once a stream is quiet.
    pub fn give_back(&mut self) {
        if self.buf.is_empty() && self.buf.capacity() > 2 * READ_SIZE_QUIET && self.read_size == READ_SIZE_QUIET {
            self.buf = BytesMut::new();
        }
    }

    /// Queues; nothing more is taken from the broker once the stream is closing.
    pub fn send(&mut self, bytes: Bytes) {
        if self.closing.is_none() && self.broken.is_none() && !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Writes until all has left or the kernel takes no more.
    pub fn write(&mut self) -> Write {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut n = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(bytes);
                n += 1;
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.fd.as_raw_fd(), slices.get(..n).unwrap_or(&[]), &[], flags, None) {
                Ok(sent) => self.sent(sent),
                Err(nix::errno::Errno::EINTR) => {}
                // ENOBUFS and ENOMEM pass as well; the next EPOLLOUT, or the next thing to be sent, tries again.
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS | nix::errno::Errno::ENOMEM) => return Write::Full,
                Err(e) => {
                    self.break_off(e as i32);
                    return Write::Broken;
                }
            }
        }
        if self.closing.is_some() && !self.shut {
            self.shut = true;
            let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Write);
        }
        Write::Empty
    }

    fn sent(&mut self, mut n: usize) {
        self.queued = self.queued.saturating_sub(n);
        while n > 0 {
            let Some(first) = self.queue.front_mut() else { return };
            if first.len() > n {
                return first.advance(n);
            }
            n -= first.len();
            self.queue.pop_front();
        }
    }

    /// Nothing can be sent any more. What the other side said before that is still read.
    pub fn break_off(&mut self, errno: i32) {
        self.broken = Some(errno);
        self.hung_up = true;
        self.queue.clear();
        self.queued = 0;
    }

    /// Whether sending failed.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Starts to close: see the module's comment. The first deadline stands.
    pub fn close(&mut self, deadline: Micros) {
        self.closing.get_or_insert(deadline);
        self.paused = false;
        self.buf.clear();
    }

    /// Nothing is left to be done: it can be dropped.
    pub fn is_done(&self) -> bool {
        self.closing.is_some() && self.queue.is_empty() && (self.ended || self.broken.is_some())
    }
}
