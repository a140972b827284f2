//! The flight recorder: the last messages to and from every leg, in memory, until a verdict wants
//! them.
//!
//! Octets are copied into one ring, so that what is kept is what is counted, whatever buffers the
//! messages came in.

use super::io::{Direction, InstanceId, Micros, Recorded};
use crate::config::Recorder;
use bytes::Bytes;
use std::collections::VecDeque;
use voter::Members;

/// Octets of one record at most: the newest messages count.
const MAX_RECORD: usize = 16 << 20;

/// One message, or several in one piece; the octets stand in the ring.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Micros,
    session: usize,
    direction: Direction,
    len: usize,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Flight {
    entries: VecDeque<Entry>,
    octets: VecDeque<u8>,
    /// 0: nothing is recorded.
    room: usize,
    reach_us: Micros,
}

impl Flight {
    /// An empty ring; without a folder nothing is ever kept.
    pub fn new(config: &Recorder) -> Flight {
        let room = if config.folder.is_some() { (config.memory_mib as usize) << 20 } else { 0 };
        let reach_us = Micros::from(config.minutes) * 60_000_000;
        Flight { entries: VecDeque::new(), octets: VecDeque::new(), room, reach_us }
    }

    /// Keeps a message.
    pub fn note(&mut self, at: Micros, session: usize, direction: Direction, bytes: &[u8]) {
        let cost = |len: usize| len + size_of::<Entry>();
        if cost(bytes.len()) > self.room || direction == Direction::To(Members::EMPTY) {
            return;
        }
        let used = |f: &Flight| f.octets.len() + f.entries.len() * size_of::<Entry>();
        while let Some(old) = self.entries.front().copied() {
            if used(self) + cost(bytes.len()) <= self.room && at < old.at + self.reach_us {
                break;
            }
            self.entries.pop_front();
            self.octets.drain(..old.len);
        }
        self.octets.extend(bytes);
        self.entries.push_back(Entry { at, session, direction, len: bytes.len() });
    }

    /// Instance `i` is no more, and its place may be another's: what it said is nobody's word any
    /// more.
    pub fn forget(&mut self, i: u8) {
        for e in &mut self.entries {
            match &mut e.direction {
                Direction::To(members) => members.remove(i),
                Direction::From(who) if who.0 == i => e.direction = Direction::To(Members::EMPTY),
                Direction::From(_) => {}
            }
        }
    }

    /// The place of this session may be another's: what was said on it is on no session that there
    /// is.
    pub fn forget_session(&mut self, session: usize) {
        self.entries.iter_mut().filter(|e| e.session == session).for_each(|e| e.session = usize::MAX);
    }

    /// What concerns instance `i`: what it was given and what it said, and what the others said on
    /// the same sessions; oldest first. `describe` makes a record of a session's message, `None`
    /// where that session is no more.
    pub fn of(&self, i: u8, describe: impl Fn(usize, Direction, Bytes) -> Option<Recorded>) -> Vec<Recorded> {
        let (mut all, mut to, mut octets) = (Vec::new(), self.octets.len(), 0);
        for e in self.entries.iter().rev() {
            let from = to - e.len;
            let given_to_others = matches!(e.direction, Direction::To(members) if !members.contains(i));
            if !given_to_others {
                octets += e.len;
                if octets > MAX_RECORD {
                    break;
                }
                let bytes = self.octets.range(from..to).copied().collect();
                all.extend(describe(e.session, e.direction, bytes).map(|r| Recorded {
                    at: e.at,
                    direction: e.direction,
                    ..r
                }));
            }
            to = from;
        }
        all.reverse();
        all
    }
}

/// Who said or was told something, as [`Direction`] has it.
pub fn from(i: usize) -> Direction {
    Direction::From(InstanceId(i as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(mib: u32) -> Recorder {
        Recorder { folder: Some("/x".into()), minutes: 1, memory_mib: mib, disk_mib: 1 }
    }

    fn any(_: usize, _: Direction, bytes: Bytes) -> Option<Recorded> {
        let peer = std::net::SocketAddr::from(([192, 0, 2, 1], 0));
        let open = Bytes::new();
        Some(Recorded { at: 0, peer, local: None, peer_as: 1, local_as: 2, as4: true, open, direction: from(0), bytes })
    }

    #[test]
    fn keeps_the_newest_within_room_and_reach() {
        let mut f = Flight::new(&recorder(1));
        let both: Members = [0, 1].into_iter().collect();
        for n in 0..20_000u64 {
            f.note(n, 0, Direction::To(both), &[n as u8; 100]);
        }
        assert!(f.octets.len() + f.entries.len() * size_of::<Entry>() <= 1 << 20);
        let kept = f.of(1, any);
        assert_eq!(kept.last().map(|r| (r.at, r.bytes[0])), Some((19_999, (19_999u64 % 256) as u8)));
        assert!(kept.len() > 5_000 && kept.windows(2).all(|w| w[0].at < w[1].at));
        f.note(19_999 + 60_000_001, 0, from(1), &[1]);
        assert_eq!(f.of(1, any).len(), 1, "a minute later all the others are too old");
    }

    #[test]
    fn what_others_were_given_is_nobodys_business_but_what_they_said_is() {
        let mut f = Flight::new(&recorder(1));
        f.note(1, 0, Direction::To([0].into_iter().collect()), &[1]);
        f.note(2, 0, from(0), &[2]);
        f.note(3, 0, from(1), &[3]);
        assert_eq!(f.of(1, any).iter().map(|r| r.bytes[0]).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let mut f = Flight::new(&Recorder::default());
        f.note(1, 0, from(0), &[1]);
        assert!(f.entries.is_empty());
    }
}
