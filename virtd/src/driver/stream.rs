//! A buffered non-blocking byte stream: a TCP connection with a peer, or the broker's end of a leg.

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use virtd_linux::foreign::{self, Foreign};
use virtd_linux::journal::{Journal, Place};

/// Slices per writev; the kernel takes up to 1024, more than 64 gains nothing.
const MAX_SLICES: usize = 64;
/// Octets taken from one side before the others get their turn.
pub const READ_BUDGET: usize = 32 << 10;

/// What is underneath.
#[derive(Debug)]
pub enum Io {
    /// Towards a peer.
    Tcp(TcpStream),
    /// Towards an instance.
    Unix(Foreign),
}

impl Io {
    /// Reads once; whether files came along, which end a read early.
    fn read(&self, buf: &mut [u8], room: &mut Vec<u8>) -> io::Result<(usize, bool)> {
        match self {
            Io::Tcp(s) => (&mut &*s).read(buf).map(|n| (n, false)),
            // The daemon may hold the same open file and take O_NONBLOCK off it: each call says for
            // itself that it must not wait.
            Io::Unix(s) => foreign::receive(s, buf, room).map(|(n, _, fds)| (n, !fds.is_empty())),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Io::Tcp(s) => (&mut &*s).write(bytes),
            Io::Unix(s) => SockRef::from(s).send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL),
        }
    }

    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Io::Tcp(s) => (&mut &*s).write_vectored(slices),
            Io::Unix(s) => SockRef::from(s).send_vectored_with_flags(slices, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL),
        }
    }

    pub fn shutdown_write(&self) {
        let _ = match self {
            Io::Tcp(s) => s.shutdown(Shutdown::Write),
            Io::Unix(s) => SockRef::from(s).shutdown(Shutdown::Write),
        };
    }
}

impl AsRawFd for Io {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Io::Tcp(s) => s.as_raw_fd(),
            Io::Unix(s) => s.as_raw_fd(),
        }
    }
}

/// What the journal needs to know of a connection with a peer.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Its name there.
    pub conn: u64,
    /// Where it is counted what the kernel has taken.
    pub place: Place,
}

/// What a read ended with.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Nothing more for now.
    Empty,
    /// The budget is used up; there may be more.
    More,
    /// End of stream (0) or an error (errno).
    Closed(i32),
}

/// See the module's comment.
#[derive(Debug)]
pub struct Stream {
    /// The socket.
    pub io: Io,
    /// Received and not yet taken by the core.
    pub rx: BytesMut,
    tx: VecDeque<Bytes>,
    queued: usize,
    /// Reading has been stopped by the core (native mode).
    pub paused: bool,
    /// To be closed: when at the latest, in microseconds.
    pub closing: Option<u64>,
    half_closed: bool,
    /// Stands in the turn's list of streams to write.
    pub listed: bool,
    /// The kernel took no more at the last try; the writable edge ends that.
    pub blocked: bool,
    /// It stands in the journal.
    pub kept: Option<Kept>,
}

impl Stream {
    /// Wraps a non-blocking socket.
    pub fn new(io: Io) -> Stream {
        Stream {
            io,
            rx: BytesMut::new(),
            tx: VecDeque::new(),
            queued: 0,
            paused: false,
            closing: None,
            half_closed: false,
            listed: false,
            blocked: false,
            kept: None,
        }
    }

    /// Octets that the kernel has not taken yet.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The octets that the kernel has not taken yet.
    pub fn unsent(&self) -> Vec<u8> {
        self.tx.iter().flat_map(|bytes| bytes.iter().copied()).collect()
    }

    /// Appends to what is to be sent.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() && self.closing.is_none() {
            self.queued += bytes.len();
            self.tx.push_back(bytes);
        }
    }

    /// Reads what there is, up to the budget, into `rx`; with `exhaust` until the socket itself
    /// says that it is empty or at its end. `scratch` and `room` are shared by all streams, so that
    /// an idle one holds no buffer.
    pub fn read(
        &mut self,
        scratch: &mut [u8],
        room: &mut Vec<u8>,
        exhaust: bool,
        journal: Option<&mut Journal>,
    ) -> ReadEnd {
        let mut journal = journal.zip(self.kept);
        let keeps = journal.is_some();
        let (mut taken, mut failed) = (0, None);
        while taken < READ_BUDGET {
            let read = match &mut journal {
                Some((journal, kept)) => {
                    journal.receive(&self.io, kept.conn, scratch.len()).map(|octets| (octets, false))
                }
                None => self.io.read(scratch, room).map(|(n, files)| (scratch.get(..n).unwrap_or_default(), files)),
            };
            match read {
                Ok(([], false)) => return ReadEnd::Closed(failed.unwrap_or(0)),
                Ok((octets, files)) => {
                    let n = octets.len();
                    taken += n;
                    if self.closing.is_none() {
                        self.rx.extend_from_slice(octets);
                    }
                    // A short read means the socket is empty: the next octet brings a new edge.
                    if n < scratch.len() && !exhaust && !files && failed.is_none() {
                        return ReadEnd::Empty;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return failed.map_or(ReadEnd::Empty, ReadEnd::Closed);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // recvmmsg(2) tells of a reset once, before what came ahead of it, such as a
                // NOTIFICATION.
                Err(e) if keeps && failed.is_none() => failed = e.raw_os_error().or(Some(libc::EIO)),
                Err(e) => return ReadEnd::Closed(e.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
        ReadEnd::More
    }

    /// Reads away `n` octets that mean nothing (the filler of a leg).
    pub fn discard(&mut self, mut n: usize, scratch: &mut [u8], room: &mut Vec<u8>) {
        while n > 0 {
            let len = n.min(scratch.len());
            match self.io.read(scratch.get_mut(..len).unwrap_or_default(), room) {
                Ok((0, false)) => return,
                Ok((got, _)) => n -= got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Writes what the kernel takes. An error is left to the next read to report.
    pub fn write(&mut self, journal: Option<&mut Journal>) {
        self.listed = false;
        if self.blocked {
            return;
        }
        let mut journal = journal.zip(self.kept);
        while let Some(first) = self.tx.front() {
            // One message is what mostly waits, and room for the slices of many is a kilobyte that
            // is not in the cache.
            let written = match &mut journal {
                Some((journal, kept)) if self.tx.len() == 1 => {
                    journal.send(&self.io, kept.place, &[IoSlice::new(first)])
                }
                Some((journal, kept)) => self.several(|slices| journal.send(&self.io, kept.place, slices)),
                None if self.tx.len() == 1 => self.io.write(first),
                None => self.several(|slices| self.io.write_vectored(slices)),
            };
            match written {
                Ok(sent) => self.sent(sent),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Until the writable edge every further try would be in vain.
                    self.blocked = true;
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.tx.clear();
                    self.queued = 0;
                    return;
                }
            }
        }
        if self.closing.is_some() && !self.half_closed {
            // The other side reads what was sent, then sees the end; a plain close with unread
            // input would reset it instead.
            self.half_closed = true;
            self.io.shutdown_write();
        }
    }

    #[inline(never)]
    fn several(&self, write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut n = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.tx) {
            *slice = IoSlice::new(bytes);
            n += 1;
        }
        write(slices.get(..n).unwrap_or_default())
    }

    fn sent(&mut self, mut n: usize) {
        self.queued -= n.min(self.queued);
        while let Some(front) = self.tx.front_mut() {
            if n < front.len() {
                front.advance(n);
                return;
            }
            n -= front.len();
            self.tx.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    /// A peer that sends its last words and resets the connection is heard, journal or not.
    #[test]
    fn what_came_before_a_reset_is_read() {
        for keeps in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            let (ours, _) = listener.accept().expect("a connection");
            ours.set_nonblocking(true).expect("a flag");
            peer.write_all(b"last words").expect("room");
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("an option");
            drop(peer);
            let mut journal = Journal::create().expect("a journal");
            let mut stream = Stream::new(Io::Tcp(ours));
            stream.kept = journal.open(1).filter(|_| keeps).map(|place| Kept { conn: 1, place });
            let (mut scratch, mut room) = ([0; 100], foreign::room());
            let end = stream.read(&mut scratch, &mut room, true, Some(&mut journal));
            assert_eq!((&stream.rx[..], matches!(end, ReadEnd::Closed(_))), (&b"last words"[..], true), "{keeps}");
        }
    }
}
