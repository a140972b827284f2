//! What netlink does and a pair does not: answers are queued when send returns, and a datagram may
//! be an errno.

use super::ahead::{Form, MAX_REQUEST};
use super::headers::{self, Answers};
use super::raw::{self, Buffers, Incoming};
use super::Pair;
use crate::channel;
use crate::redirect::DEAD_PAUSE_US;
use crate::sys::{self, Errno};
use libc::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use wire::shim::TAKEN_BACK;

/// How long virtd may take to read, or to answer.
const ANSWER_MS: c_int = 10_000;
/// Length of a datagram that is an errno.
const ERRNO_LEN: usize = 4;

impl Pair {
    fn expect(&self, a: Answers) {
        self.acks.fetch_add(a.acks, Ordering::Relaxed);
        self.dumps.fetch_add(a.dumps, Ordering::Relaxed);
    }

    fn was_given(&self, a: Answers) {
        for (counter, n) in [(&self.acks, a.acks), (&self.dumps, a.dumps)] {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |v| Some(v.saturating_sub(n)));
        }
    }

    fn counters(&self) -> [&AtomicU32; 2] {
        [&self.acks, &self.dumps]
    }

    /// Whether the kernel would have more to give already.
    fn expects(&self) -> bool {
        self.counters().iter().any(|c| c.load(Ordering::Relaxed) != 0)
    }
}

/// Says something once in a process' life.
fn once(said: &AtomicBool, text: &str) {
    if !said.swap(true, Ordering::Relaxed) {
        sys::complain(&[text]);
    }
}

/// The other end is closed.
fn gone() -> Errno {
    static SAID: AtomicBool = AtomicBool::new(false);
    once(&SAID, "virtd is gone, and its route sockets with it: restart this daemon when virtd is back");
    libc::ENETDOWN
}

fn slow() {
    static SAID: AtomicBool = AtomicBool::new(false);
    once(&SAID, "virtd did not answer on a route socket within 10 s");
}

/// Sends a datagram as netlink would: never EAGAIN, and with all answers queued that the daemon
/// would not wait for.
pub fn send(fd: c_int, pair: &Pair, buffers: &Buffers) -> Result<usize, Errno> {
    let len = buffers.len();
    if len == 0 {
        // The kernel's word. An empty datagram would look to virtd like a closed socket.
        return Err(libc::ENODATA);
    }
    let mut copy = [0u8; MAX_REQUEST];
    if channel::answers_ahead() && matches!(pair.ahead.before_send(fd, len, buffers, &mut copy), Form::Tell) {
        return tell(fd, pair, copy.get(..len).unwrap_or_default());
    }
    let answers = headers::sent(len, |at, out| buffers.read(at, out));
    // Before it goes out: another thread may receive the answer at once.
    pair.expect(answers);
    let sent = if answers.uncertain { send_and_wait(fd, buffers) } else { push(fd, buffers, None) };
    match sent {
        Ok(()) => {
            pair.sent.store(true, Ordering::Relaxed);
            Ok(len)
        }
        Err(e) => {
            pair.was_given(answers);
            Err(e)
        }
    }
}

/// Sends what has its answer already.
fn tell(fd: c_int, pair: &Pair, request: &[u8]) -> Result<usize, Errno> {
    let one = raw::one(request);
    // SAFETY: `one` and what it points to live until the call is over.
    let sent = push(fd, &unsafe { Buffers::new(&raw const one, 1) }, None);
    sent.map(|()| request.len()).inspect_err(|_| pair.ahead.not_sent())
}

/// zebra takes EAGAIN on its next receive for success, so what failed must be in the queue before
/// send returns.
fn send_and_wait(fd: c_int, buffers: &Buffers) -> Result<(), Errno> {
    // No fd to be had is no reason that netlink knows; lack of room is.
    let (ours, theirs) = sys::pair(libc::SOCK_SEQPACKET).map_err(|_| libc::ENOBUFS)?;
    let sent = push(fd, buffers, Some(theirs));
    sys::close(theirs);
    let answered = sent.and_then(|()| match sys::poll(ours, libc::POLLIN, ANSWER_MS) {
        Ok(0) => {
            slow();
            Err(libc::ETIMEDOUT)
        }
        Ok(events) if events & libc::POLLIN != 0 && raw::take_away(ours)[0] != 0 => Ok(()),
        Ok(_) => Err(gone()),
        Err(e) => Err(e),
    });
    sys::close(ours);
    answered
}

fn push(fd: c_int, buffers: &Buffers, pass: Option<c_int>) -> Result<(), Errno> {
    loop {
        match raw::transmit(fd, buffers, pass) {
            Err(libc::EAGAIN) => match sys::poll(fd, libc::POLLOUT, ANSWER_MS) {
                Ok(0) => {
                    slow();
                    return Err(libc::ENOBUFS);
                }
                Ok(_) => {}
                Err(e) => return Err(e),
            },
            Err(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => return Err(gone()),
            r => return r,
        }
    }
}

/// Receives a datagram; what recvmsg returns.
pub fn receive(fd: c_int, pair: &Pair, to: &mut Incoming, flags: c_int) -> Result<usize, Errno> {
    match pair.pending.swap(0, Ordering::Relaxed) {
        0 => {}
        e => return Err(e),
    }
    let peeks = flags & libc::MSG_PEEK != 0;
    if let Some(len) = pair.ahead.take(peeks, |answer| to.give(answer)) {
        return Ok(if flags & libc::MSG_TRUNC != 0 { len } else { len.min(to.buffers.len()) });
    }
    loop {
        match raw::take(fd, to, flags) {
            Ok(0) | Err(libc::ECONNRESET) => {
                sys::pause_us(DEAD_PAUSE_US);
                return Err(gone());
            }
            Ok(ERRNO_LEN) => return Err(lost(fd, to, peeks)),
            Ok(len) if len == TAKEN_BACK.len() => {
                pair.ahead.taken_back();
                if peeks {
                    raw::take_away(fd);
                }
            }
            Ok(len) => {
                let got = len.min(to.buffers.len());
                if !peeks {
                    pair.ahead.received(len, |at, out| to.buffers.read(at, out));
                }
                if !peeks && pair.expects() {
                    let mut answers = headers::received(got, |at, out| to.buffers.read(at, out));
                    // What has been cut off nobody will see again; short datagrams are answers.
                    if len > got && answers == Answers::default() {
                        answers.acks = 1;
                    }
                    pair.was_given(answers);
                }
                return Ok(if flags & libc::MSG_TRUNC != 0 { len } else { got });
            }
            Err(libc::EAGAIN) if pair.expects() && is_nonblocking(fd, flags) => {
                if !matches!(sys::poll(fd, libc::POLLIN, ANSWER_MS), Ok(1..)) {
                    slow();
                    // What the daemon was told it may expect it gives up now.
                    pair.counters().iter().for_each(|c| c.store(0, Ordering::Relaxed));
                    return Err(libc::EAGAIN);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

fn is_nonblocking(fd: c_int, flags: c_int) -> bool {
    flags & libc::MSG_DONTWAIT != 0 || !sys::blocks(fd)
}

/// A datagram that is an errno: the kernel's way to say that notifications were lost. It is told
/// once, also to who only peeks.
fn lost(fd: c_int, to: &Incoming, peeked: bool) -> Errno {
    let mut octets = [0u8; ERRNO_LEN];
    if peeked {
        octets = raw::take_away(fd);
    } else {
        // Where the caller's buffers have no room for it the zeros stay.
        to.buffers.read(0, &mut octets);
    }
    match i32::from_le_bytes(octets) {
        e @ 1..4096 => e,
        _ => libc::ENOBUFS,
    }
}

/// recvmmsg has found an error behind datagrams that it has to give first.
pub fn postpone(pair: &Pair, e: Errno) {
    if e == libc::ENOBUFS {
        pair.pending.store(e, Ordering::Relaxed);
    }
}
