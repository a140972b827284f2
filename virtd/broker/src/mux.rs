//! The diversity mux: holds back what one instance is given on one leg, each message for a time of
//! its own (papers/001 section 2.2, papers/000 section 3.2).
//!
//! A lane is first in, first out: what a peer says about a prefix comes in the order in which it
//! was said. Each leg has a lane with delays of its own, so what different peers say is reordered.
//! No message waits longer than the configured most: it is due at most that long after it came, and
//! one that must wait for its predecessor waits for less.

use crate::config::{Delay, Distribution};
use crate::io::Micros;
use bytes::Bytes;
use std::collections::VecDeque;

/// A reproducible sequence of numbers: SplitMix64 (Steele, Lea, Flood 2014). Our own few lines,
/// since a seed in a configuration file must mean the same times with every version of every
/// library.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed` for what `about` names.
    pub fn new(seed: u64, about: &[u8]) -> Random {
        let mut random = Random(seed);
        for octet in about {
            random.0 ^= u64::from(*octet);
            random.0 = random.number();
        }
        random
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `least` to `greatest`, both included, each as likely.
    pub fn between(&mut self, least: u64, greatest: u64) -> u64 {
        let n = u128::from(greatest.saturating_sub(least)) + 1;
        least + ((u128::from(self.number()) * n) >> 64) as u64
    }

    /// A number from `least` to `greatest`; half of them lie within an eighth of the way, half of
    /// the rest within the next eighth, and so on.
    pub fn soon(&mut self, least: u64, greatest: u64) -> u64 {
        // Whole halvings and, within one, a straight line: minus the logarithm to the base of two,
        // without a floating point whose last bit may differ from one machine to the next.
        let halvings = u64::from(self.number().leading_zeros().min(8));
        let eighth = greatest.saturating_sub(least) / 8;
        let within = self.between(0, eighth);
        greatest.min(least + halvings * eighth + within)
    }
}

/// One message that waits.
#[derive(Debug)]
struct Held {
    due: Micros,
    bytes: Bytes,
}

/// What is held back on one leg, over as many connections as it is made of.
#[derive(Debug)]
pub struct Lane {
    delay: Delay,
    random: Random,
    queue: VecDeque<Held>,
    octets: usize,
    /// When the last message that was taken is due: none after it is due before.
    last_due: Micros,
    /// When the owner has been asked to look again.
    wake: Option<Micros>,
}

impl Lane {
    /// An empty lane; `random` is its own.
    pub fn new(delay: Delay, random: Random) -> Lane {
        Lane { delay, random, queue: VecDeque::new(), octets: 0, last_due: 0, wake: None }
    }

    /// Takes a message that came at `now`. Gives the time at which [`Lane::due`] is to be asked,
    /// where that has not been asked for before.
    pub fn hold(&mut self, now: Micros, bytes: Bytes) -> Option<Micros> {
        let (least, greatest) = (Micros::from(self.delay.min_ms) * 1000, Micros::from(self.delay.max_ms) * 1000);
        let delay = match self.delay.distribution {
            Distribution::Uniform => self.random.between(least, greatest),
            Distribution::Exponential => self.random.soon(least, greatest),
        };
        let due = self.last_due.max(now + delay);
        self.last_due = due;
        self.octets += cost(&bytes);
        self.queue.push_back(Held { due, bytes });
        // One that was asked for before is for an earlier message, or one that is gone: not later
        // in any case.
        if self.wake.is_some() {
            return None;
        }
        self.wake = Some(due);
        self.wake
    }

    /// The next message whose time has come.
    pub fn due(&mut self, now: Micros) -> Option<Bytes> {
        self.queue.front().filter(|held| held.due <= now)?;
        let held = self.queue.pop_front()?;
        self.octets = self.octets.saturating_sub(cost(&held.bytes));
        Some(held.bytes)
    }

    /// All that was due at `now` has been taken: when to ask again.
    pub fn next_wake(&mut self) -> Option<Micros> {
        self.wake = self.queue.front().map(|held| held.due);
        self.wake
    }

    /// The leg is gone, and with it what was to be said on it.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.octets = 0;
    }

    /// Octets that wait, and what keeping them takes.
    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// What a message adds to the bound of a queue: small ones cost more to keep than to send.
fn cost(bytes: &Bytes) -> usize {
    bytes.len() + size_of::<Held>()
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
