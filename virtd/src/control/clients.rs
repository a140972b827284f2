//! Those who ask at a control socket: how many at once, for how long they may keep one waiting, who
//! gives way to whom.

use super::CLIENT_PATIENCE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use virtd_linux::foreign::{self, Foreign};

/// Clients at once: a few operators and their monitoring; more is a loop in a script.
pub const MAX_CLIENTS: usize = 32;
/// Of these, those that follow the events: they stay for as long as they like, and must leave room
/// for who asks.
pub const MAX_FOLLOWERS: usize = MAX_CLIENTS - 8;
/// Longest request. None has more than a prefix in it, or some words for a daemon.
pub const MAX_REQUEST: usize = 4096;
/// A request must be there as a whole so soon after it has begun.
const REQUEST_PATIENCE: Duration = Duration::from_secs(2);
/// Octets read at once.
const PIECE: usize = MAX_REQUEST;

/// A client's connection. It is closed where nobody waits for it: he may have sent files.
#[derive(Debug)]
pub struct Connection {
    stream: Option<UnixStream>,
}

impl Connection {
    /// Of a stream that has just been accepted.
    pub fn new(stream: UnixStream) -> Connection {
        Connection { stream: Some(stream) }
    }

    /// To write to, and to look at.
    pub fn stream(&self) -> &UnixStream {
        match &self.stream {
            Some(stream) => stream,
            None => unreachable!("taken only by drop"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.stream.take().map(|s| Foreign::new(OwnedFd::from(s))));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    /// It has not finished what it wants to ask; since when.
    Asking(Instant),
    /// It is being answered.
    Answered,
    /// It follows the events.
    Following,
}

#[derive(Debug)]
struct Client {
    id: u64,
    connection: Arc<Connection>,
    doing: Doing,
}

/// All clients of one socket.
#[derive(Clone, Debug, Default)]
pub struct Clients(Arc<Mutex<(u64, Vec<Client>)>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Client>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more. Where there is none left, who has kept us waiting for a request for
    /// the longest gives way.
    pub fn take(&self, connection: &Arc<Connection>) -> Option<Place> {
        let mut all = self.lock();
        if all.1.len() >= MAX_CLIENTS {
            let since = |c: &Client| if let Doing::Asking(since) = c.doing { Some(since) } else { None };
            let asking = all.1.iter().enumerate().filter_map(|(at, c)| Some((since(c)?, at)));
            let (_, at) = asking.min()?;
            let gone = all.1.remove(at);
            // Its thread finds the end of the stream.
            let _ = gone.connection.stream().shutdown(Shutdown::Both);
        }
        all.0 += 1;
        let id = all.0;
        all.1.push(Client { id, connection: connection.clone(), doing: Doing::Asking(Instant::now()) });
        Some(Place { id, clients: self.clone() })
    }
}

/// One place of [`MAX_CLIENTS`], given back when dropped.
#[derive(Debug)]
pub struct Place {
    id: u64,
    clients: Clients,
}

impl Place {
    fn set(&self, doing: Doing) {
        if let Some(c) = self.clients.lock().1.iter_mut().find(|c| c.id == self.id) {
            c.doing = doing;
        }
    }

    /// Its request is there: it gives way to nobody before it has its answer.
    pub fn is_answered(&self) {
        self.set(Doing::Answered);
    }

    /// It may ask again.
    pub fn may_ask(&self) {
        self.set(Doing::Asking(Instant::now()));
    }

    /// It wants to follow the events; false where too many do.
    pub fn may_follow(&self) -> bool {
        let mut all = self.clients.lock();
        let following = all.1.iter().filter(|c| c.doing == Doing::Following).count();
        if following >= MAX_FOLLOWERS {
            return false;
        }
        if let Some(c) = all.1.iter_mut().find(|c| c.id == self.id) {
            c.doing = Doing::Following;
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.lock().1.retain(|c| c.id != self.id);
    }
}

/// What came of waiting for a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// A line, without its end.
    Request(Vec<u8>),
    /// More than a request may have.
    TooLong,
    /// It has gone, or keeps us waiting.
    Over,
}

/// Takes requests off a client's stream. Files that come with them are closed.
#[derive(Debug)]
pub struct Requests<'c> {
    stream: &'c UnixStream,
    read: Vec<u8>,
    room: Vec<u8>,
    ended: bool,
}

impl<'c> Requests<'c> {
    /// Of this stream.
    pub fn new(stream: &'c UnixStream) -> Requests<'c> {
        Requests { stream, read: Vec::new(), room: foreign::room(), ended: false }
    }

    /// The next one. One that is over the end of the stream needs no newline.
    pub fn next(&mut self) -> io::Result<Asked> {
        let mut until = Instant::now() + if self.read.is_empty() { CLIENT_PATIENCE } else { REQUEST_PATIENCE };
        let mut piece = [0; PIECE];
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.read.drain(..=end).collect();
                line.pop();
                return Ok(Asked::Request(line));
            }
            if self.read.len() >= MAX_REQUEST {
                return Ok(Asked::TooLong);
            }
            if self.ended {
                let rest = std::mem::take(&mut self.read);
                return Ok(if rest.is_empty() { Asked::Over } else { Asked::Request(rest) });
            }
            if !self.wait(until)? {
                return Ok(Asked::Over);
            }
            match foreign::receive(self.stream, &mut piece, &mut self.room) {
                Ok((0, _, files)) => self.ended = files.is_empty(),
                Ok((n, ..)) => {
                    if self.read.is_empty() {
                        until = Instant::now() + REQUEST_PATIENCE;
                    }
                    self.read.extend_from_slice(piece.get(..n).unwrap_or_default());
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether there is something to read by then.
    fn wait(&self, until: Instant) -> io::Result<bool> {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(n) => Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => Ok(Instant::now() < until),
            Err(e) => Err(e.into()),
        }
    }
}
