//! Answers given ahead: a daemon that writes its routes one at a time and waits for each answer
//! (BIRD, OpenBGPD) costs two changes of process a route behind virtd. Where nothing but "done" is
//! to be expected it gets that from here at once, and virtd takes the request as one that has been
//! answered.
//!
//! To be expected is what virtd has just done: a request equal to one that it granted, octet by
//! octet, but for the sequence number and the destination. And only on a socket that blocks, with
//! nothing waiting on it, on which the daemon has asked and then received [`HABIT`] times in a row;
//! so an answer that poll would not see is missed by nobody. And only in a rush ([`RUSH_US`]): a
//! daemon that has one route to write and waits lets virtd go on at once, and the route is in the
//! kernel sooner than if it went on itself.
//!
//! Where virtd has to refuse all the same (the link has just gone, say) it does what Linux does
//! with a route that it has taken and cannot keep: it notifies of its removal. Here [`TAKEN_BACK`]
//! ends the foresight until the habit and the answers have been seen again.
//!
//! Nothing blocks: whoever does not get the state at once does without it. One short lock, so that
//! a send and a receive on two threads at a time see a whole answer.

use super::headers::HEADER;
use super::raw::Buffers;
use crate::sys;
use libc::c_int;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use wire::shim::ANSWERED_AHEAD;

/// Requests longer than this (many next hops) always go to virtd and back.
pub const MAX_REQUEST: usize = 128;
/// Longest answer: NLMSG_ERROR without the request's octets (NETLINK_CAP_ACK or errno 0), and room
/// for one attribute.
const MAX_ANSWER: usize = 64;
/// Next hops with which routes are written in turn.
const TEMPLATES: usize = 32;
/// So often must the daemon have asked and then received, nothing in between.
const HABIT: u32 = 16;
/// A request this many microseconds after the last answer is one of many.
const RUSH_US: u64 = 200;
/// A reader that finds the state taken tries so often. It is taken for less than a microsecond.
const TRIES: u32 = 1000;

/// Octets of nlmsg_seq in a header; in an answer they come again in the echoed header behind errno.
const SEQ: core::ops::Range<usize> = 8..12;
const PORT: core::ops::Range<usize> = 12..16;
const ECHOED_SEQ: core::ops::Range<usize> = HEADER + 4 + 8..HEADER + 4 + 12;
/// rtm_dst_len behind the header, and where attributes begin.
const DST_LEN: usize = HEADER + 1;
const ATTRIBUTES: usize = HEADER + 12;
const RTA_DST: u16 = libc::RTA_DST;

/// Octets of a message, or none.
#[derive(Clone, Copy)]
struct Octets<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Octets<N> {
    const NONE: Octets<N> = Octets { bytes: [0; N], len: 0 };

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A request that virtd grants, and how it says so.
#[derive(Clone, Copy)]
struct Template {
    request: Octets<MAX_REQUEST>,
    answer: Octets<MAX_ANSWER>,
}

impl Template {
    const NONE: Template = Template { request: Octets::NONE, answer: Octets::NONE };
}

struct State {
    templates: [Template; TEMPLATES],
    /// The one that is forgotten next.
    oldest: usize,
    /// Asks and answers in turn until now, up to [`HABIT`].
    rounds: u32,
    /// When the last answer was received, in microseconds.
    last_us: u64,
    /// What virtd has been asked last and not answered, as in [`Template::request`], and its
    /// nlmsg_seq.
    asked: Octets<MAX_REQUEST>,
    seq: [u8; 4],
    /// An answer given ahead that the daemon has not received.
    answer: Octets<MAX_ANSWER>,
}

/// Of one socket.
pub struct Ahead {
    taken: AtomicBool,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is only touched by whoever has set `taken`.
unsafe impl Sync for Ahead {}

/// What a request becomes.
pub enum Form {
    /// It goes to virtd as it is.
    Ask,
    /// The copy goes, which says that it has been answered.
    Tell,
}

impl Ahead {
    pub const fn new() -> Ahead {
        let state = State {
            templates: [Template::NONE; TEMPLATES],
            oldest: 0,
            rounds: 0,
            last_us: 0,
            asked: Octets::NONE,
            seq: [0; 4],
            answer: Octets::NONE,
        };
        Ahead { taken: AtomicBool::new(false), state: UnsafeCell::new(state) }
    }

    /// Runs `f` with the state, unless somebody else has it.
    fn with<T>(&self, tries: u32, f: impl FnOnce(&mut State) -> T) -> Option<T> {
        let free = || self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !(0..tries).any(|_| free()) {
            return None;
        }
        // SAFETY: `taken` was false and is ours until below; `f` does not come back here.
        let result = f(unsafe { &mut *self.state.get() });
        self.taken.store(false, Ordering::Release);
        Some(result)
    }

    /// A new socket with the same place.
    pub fn reset(&self) {
        self.with(TRIES, State::forget);
    }

    /// Before a send of `len` octets. With [`Form::Tell`] `copy` holds what is to go out, as long,
    /// and the answer waits for the next receive.
    pub fn before_send(&self, fd: c_int, len: usize, buffers: &Buffers, copy: &mut [u8; MAX_REQUEST]) -> Form {
        let request = if len <= MAX_REQUEST { copy.get_mut(..len) } else { None };
        let shape = request.and_then(|request| {
            buffers.read(0, request);
            shape(request)
        });
        let told = self.with(1, |state| state.sent(sys::monotonic_us(), shape, copy.get(SEQ), || is_quiet(fd)));
        if !told.unwrap_or(false) {
            return Form::Ask;
        }
        if let Some(port) = copy.get_mut(PORT) {
            port.copy_from_slice(&ANSWERED_AHEAD.to_ne_bytes());
        }
        Form::Tell
    }

    /// The send has failed: nothing has been asked, and nothing is answered.
    pub fn not_sent(&self) {
        self.with(TRIES, |state| {
            state.answer = Octets::NONE;
            state.asked = Octets::NONE;
        });
    }

    /// Takes the answer that waits, if one does: `give` gets its octets. It stays where the daemon
    /// only peeks.
    pub fn take<T>(&self, peeks: bool, give: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let taken = self.with(TRIES, |state| {
            let answer = state.answer;
            if !peeks && answer.len != 0 {
                state.answer = Octets::NONE;
                state.last_us = sys::monotonic_us();
            }
            answer
        })?;
        if taken.len == 0 {
            None
        } else {
            Some(give(taken.get()))
        }
    }

    /// A datagram of virtd's was received: `len` octets, of which `read` gives what is asked for.
    pub fn received(&self, len: usize, read: impl Fn(usize, &mut [u8]) -> usize) {
        self.with(1, |state| {
            let mut answer = Octets::<MAX_ANSWER>::NONE;
            if len <= MAX_ANSWER {
                answer.len = read(0, &mut answer.bytes).min(len);
            }
            state.received(sys::monotonic_us(), &answer);
        });
    }

    /// virtd has not done what was answered here.
    pub fn taken_back(&self) {
        self.with(TRIES, State::forget);
    }
}

impl State {
    /// All but an answer that waits: that has been given.
    fn forget(&mut self) {
        self.templates.iter_mut().for_each(|t| t.request.len = 0);
        (self.rounds, self.asked.len) = (0, 0);
    }

    /// Whether what is sent is answered here.
    fn sent(
        &mut self,
        now_us: u64,
        shape: Option<Octets<MAX_REQUEST>>,
        seq: Option<&[u8]>,
        is_quiet: impl FnOnce() -> bool,
    ) -> bool {
        if self.asked.len != 0 || self.answer.len != 0 {
            // Something was sent, and not received after.
            self.rounds = 0;
        }
        self.asked = Octets::NONE;
        let (Some(shape), Some(seq)) = (shape, seq) else { return false };
        self.seq.copy_from_slice(seq);
        let may = self.rounds >= HABIT && now_us.saturating_sub(self.last_us) < RUSH_US;
        let same = |t: &&Template| t.request.len != 0 && t.request.get() == shape.get();
        let known = if may { self.templates.iter().find(same) } else { None };
        match known {
            Some(known) if is_quiet() => {
                self.answer = known.answer;
                for at in [SEQ, ECHOED_SEQ] {
                    if let Some(place) = self.answer.bytes.get_mut(at) {
                        place.copy_from_slice(seq);
                    }
                }
                true
            }
            _ => {
                self.asked = shape;
                false
            }
        }
    }

    /// virtd has answered, or said something else.
    fn received(&mut self, now_us: u64, answer: &Octets<MAX_ANSWER>) {
        let asked = std::mem::replace(&mut self.asked, Octets::NONE);
        if asked.len == 0 || !grants(answer.get(), &self.seq) {
            self.rounds = 0;
            return;
        }
        self.last_us = now_us;
        self.rounds = (self.rounds + 1).min(HABIT);
        let known = |t: &&mut Template| t.request.len != 0 && t.request.get() == asked.get();
        if let Some(known) = self.templates.iter_mut().find(known) {
            known.answer = *answer;
        } else if let Some(place) = self.templates.get_mut(self.oldest) {
            *place = Template { request: asked, answer: *answer };
            self.oldest = (self.oldest + 1) % TEMPLATES;
        }
    }
}

/// NLMSG_ERROR with errno 0 to the request with this sequence number, and nothing behind it.
fn grants(answer: &[u8], seq: &[u8; 4]) -> bool {
    answer.get(..4) == Some(&(answer.len() as u32).to_ne_bytes())
        && answer.get(4..6) == Some(&(libc::NLMSG_ERROR as u16).to_ne_bytes())
        && answer.get(SEQ) == Some(seq)
        && answer.get(HEADER..HEADER + 4) == Some(&[0; 4])
        && answer.get(ECHOED_SEQ) == Some(seq)
}

/// Nothing waits, and the daemon's receive would block: the next thing it receives is the answer.
fn is_quiet(fd: c_int) -> bool {
    sys::blocks(fd) && sys::poll(fd, libc::POLLIN, 0) == Ok(0)
}

/// A request for one new or deleted route that wants an acknowledgement, without what differs
/// between routes of one kind: its sequence number and its destination. `None` for any other.
fn shape(request: &[u8]) -> Option<Octets<MAX_REQUEST>> {
    let half = |at: usize| Some(u16::from_ne_bytes(request.get(at..at + 2)?.try_into().ok()?));
    let len = u32::from_ne_bytes(request.get(..4)?.try_into().ok()?) as usize;
    let (kind, flags) = (half(4)?, c_int::from(half(6)?));
    let creates = flags & libc::NLM_F_CREATE != 0 && flags & (libc::NLM_F_EXCL | libc::NLM_F_REPLACE) != 0;
    let wanted = match kind {
        libc::RTM_NEWROUTE => creates && flags & libc::NLM_F_APPEND == 0,
        libc::RTM_DELROUTE => true,
        _ => false,
    };
    let asks = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    if !wanted || flags & asks != asks || len != request.len() || request.get(PORT)? != [0; 4] {
        return None;
    }
    let mut shape = Octets::<MAX_REQUEST> { bytes: [0; MAX_REQUEST], len };
    shape.bytes.get_mut(..len)?.copy_from_slice(request);
    let mut at = ATTRIBUTES;
    while at + 4 <= len {
        let (size, attribute) = (usize::from(half(at)?), half(at + 2)?);
        if size < 4 {
            return None;
        }
        if attribute == RTA_DST {
            let dst = shape.bytes.get_mut(at + 4..(at + size).min(len))?;
            // Linux refuses a prefix with bits beyond its length.
            if !is_prefix(dst, usize::from(*request.get(DST_LEN)?)) {
                return None;
            }
            dst.fill(0);
            *shape.bytes.get_mut(DST_LEN)? = 0;
            shape.bytes.get_mut(SEQ)?.fill(0);
            return Some(shape);
        }
        at += size.next_multiple_of(4);
    }
    None
}

/// Whether all bits behind the first `len` are 0.
fn is_prefix(address: &[u8], len: usize) -> bool {
    let kept = |i: usize| u8::MAX.checked_shl(8usize.saturating_sub(len.saturating_sub(i * 8)) as u32).unwrap_or(0);
    len <= address.len() * 8 && address.iter().enumerate().all(|(i, octet)| octet & !kept(i) == 0)
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
