//! The journal: what a virtd must know to go on with the sessions of the one before it. Its form
//! alone; who keeps it, and where, is not known here.
//!
//! It is a log of the streams of all connections with peers, both ways, as BGP has them. What a
//! session is follows from it: both OPENs and so what was negotiated, all that the peer has said, all
//! that it was told, the octets that were read and not yet understood, and those that the kernel has
//! not taken yet. What the instances say is not in it: they are fed again.
//!
//! An image is the same in short: of each connection what it would have taken to say no more than
//! what stands ([`Record::Said`], [`Record::Told`]). A log goes on where an image ends.
//!
//! ```text
//!  0        4      5       8                16
//! +--------+------+-------+----------------+-----------------------+-------+
//! | length | kind | zeros | connection     | payload, length octets | zeros |  up to a multiple of 8
//! +--------+------+-------+----------------+-----------------------+-------+
//! ```
//! Numbers are little-endian. Secrets (RFC 2385 keys) are in none of it: the sockets have them.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// The form of journals and images. One that is newer is refused by this number; an older one is
/// read, as long as it is not older than [`OLDEST`].
pub const VERSION: u32 = 1;
/// The oldest form that is read.
pub const OLDEST: u32 = 1;
/// What an image in a file of its own begins with: "virtdimg", the version, zeros.
const STAMP: [u8; 8] = *b"virtdimg";
/// Octets before a record's payload.
pub const HEADER: usize = 16;
/// Most octets of a payload: more is damage.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// A TCP connection with a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// Under which number the process has it open.
    pub fd: i32,
    /// We dialled it.
    pub dialled: bool,
    /// Our address.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// One entry. `conn` is the driver's name for a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// A TCP connection stands.
    Opened {
        /// Which.
        conn: u64,
        /// What is known of it.
        opened: Opened,
    },
    /// It is no more.
    Closed {
        /// Which.
        conn: u64,
    },
    /// These octets came from the peer.
    FromPeer {
        /// On which connection.
        conn: u64,
        /// All that one read brought.
        octets: &'a [u8],
    },
    /// The peer is told this: whole messages. They count as told, whether the kernel has them yet or
    /// not.
    ToPeer {
        /// On which connection.
        conn: u64,
        /// The messages.
        octets: &'a [u8],
    },
    /// Image: what the peer would have to have sent for what stands now. At the end may stand the
    /// beginning of a message.
    Said {
        /// On which connection.
        conn: u64,
        /// Messages.
        octets: &'a [u8],
    },
    /// Image: what these peers would have to have been sent for what stands now.
    Told {
        /// On which connections.
        conns: Vec<u64>,
        /// AS numbers in it have four octets; `None`: as each connection has them.
        as4: Option<bool>,
        /// Messages.
        octets: &'a [u8],
    },
    /// Image: what the kernel had not taken yet of what the peer was told.
    Unsent {
        /// On which connection.
        conn: u64,
        /// Octets that were given to this connection until now, these among them.
        total: u64,
        /// The last of them.
        octets: &'a [u8],
    },
    /// What the peer has asked to be told again (RFC 2918), it has been told.
    Refreshed {
        /// On which connection.
        conn: u64,
    },
    /// A message of the peer's has killed a virtd. Whoever reads the journal gives it this other
    /// meaning from the first time on.
    Remedied {
        /// On which connection.
        conn: u64,
        /// Which of the messages that the peer has sent, as the journal has them from its first
        /// record on, from 0.
        message: u64,
        /// Its session was reset; else it counts as the withdrawal of its prefixes.
        reset: bool,
    },
    /// How a session stands that has no connection, or that some have left: JSON, as the core has
    /// it.
    Standing {
        /// The core's own words.
        text: &'a str,
    },
}

/// Why something is no journal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// It ends within a record.
    #[error("it ends within a record, at octet {at}")]
    Short {
        /// Where the record begins.
        at: usize,
    },
    /// There is no such record.
    #[error("there is no record of kind {kind}, as at octet {at}: it is of a newer version, or damaged")]
    Kind {
        /// Where it stands.
        at: usize,
        /// Its kind.
        kind: u8,
    },
    /// A record's payload is not what its kind says.
    #[error("the record at octet {at} cannot be understood: {why}")]
    Payload {
        /// Where it begins.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// Why a file is no image that can be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unread {
    /// It does not begin as one.
    #[error("it is no image of a journal")]
    NoImage,
    /// It is newer or older than what is read.
    #[error("it is of version {is}; this virtd reads {oldest} to {newest}")]
    Version {
        /// What it is.
        is: u32,
        /// The oldest that is read.
        oldest: u32,
        /// The newest.
        newest: u32,
    },
}

/// What an image in a file of its own begins with; its records follow.
pub fn stamp() -> [u8; HEADER] {
    let mut stamp = [0; HEADER];
    stamp[..8].copy_from_slice(&STAMP);
    stamp[8..12].copy_from_slice(&VERSION.to_le_bytes());
    stamp
}

/// The records of such a file. `reads`: the versions that are read, [`OLDEST`] to [`VERSION`].
///
/// # Errors
/// It is no image, or of another version.
pub fn unstamp(octets: &[u8], reads: RangeInclusive<u32>) -> Result<&[u8], Unread> {
    let (stamp, records) = octets.split_first_chunk::<HEADER>().ok_or(Unread::NoImage)?;
    let [a, b, c, d] = [stamp[8], stamp[9], stamp[10], stamp[11]];
    let is = u32::from_le_bytes([a, b, c, d]);
    match stamp.starts_with(&STAMP) {
        false => Err(Unread::NoImage),
        true if reads.contains(&is) => Ok(records),
        true => Err(Unread::Version { is, oldest: *reads.start(), newest: *reads.end() }),
    }
}

/// Numbers of the kinds.
pub mod kind {
    /// [`super::Record::Opened`].
    pub const OPENED: u8 = 1;
    /// [`super::Record::Closed`].
    pub const CLOSED: u8 = 2;
    /// [`super::Record::FromPeer`].
    pub const FROM_PEER: u8 = 3;
    /// [`super::Record::ToPeer`].
    pub const TO_PEER: u8 = 4;
    /// [`super::Record::Said`].
    pub const SAID: u8 = 5;
    /// [`super::Record::Told`].
    pub const TOLD: u8 = 6;
    /// [`super::Record::Unsent`].
    pub const UNSENT: u8 = 7;
    /// [`super::Record::Refreshed`].
    pub const REFRESHED: u8 = 8;
    /// [`super::Record::Standing`].
    pub const STANDING: u8 = 9;
    /// [`super::Record::Remedied`].
    pub const REMEDIED: u8 = 10;
}

/// Where records go.
pub trait Log {
    /// Appends one whose payload is all `parts`, one after the other.
    fn record(&mut self, kind: u8, conn: u64, parts: &[&[u8]]);
}

impl Log for Vec<u8> {
    fn record(&mut self, kind: u8, conn: u64, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        self.extend(header(kind, conn, len));
        parts.iter().for_each(|p| self.extend_from_slice(p));
        self.resize(self.len().next_multiple_of(8), 0);
    }
}

/// The header of a record whose payload has `len` octets.
pub fn header(kind: u8, conn: u64, len: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    header[..5].copy_from_slice(&[a, b, c, d, kind]);
    header[8..].copy_from_slice(&conn.to_le_bytes());
    header
}

/// The octets of a record with such a payload.
pub const fn size(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(8)
}

impl Record<'_> {
    /// Appends it to `log`.
    pub fn append_to(&self, log: &mut impl Log) {
        match self {
            Record::Opened { conn, opened } => {
                // A struct of numbers and addresses always has a form.
                let text = serde_json::to_vec(opened).unwrap_or_default();
                log.record(kind::OPENED, *conn, &[&text]);
            }
            Record::Closed { conn } => log.record(kind::CLOSED, *conn, &[]),
            Record::FromPeer { conn, octets } => log.record(kind::FROM_PEER, *conn, &[octets]),
            Record::ToPeer { conn, octets } => log.record(kind::TO_PEER, *conn, &[octets]),
            Record::Said { conn, octets } => log.record(kind::SAID, *conn, &[octets]),
            Record::Told { conns, as4, octets } => {
                let width = as4.map_or(0, |as4| 1 + u64::from(as4));
                let ids: Vec<u8> = conns.iter().flat_map(|c| c.to_le_bytes()).collect();
                let count = u64::try_from(conns.len()).unwrap_or(u64::MAX).to_le_bytes();
                log.record(kind::TOLD, width, &[&count, &ids, octets]);
            }
            Record::Unsent { conn, total, octets } => log.record(kind::UNSENT, *conn, &[&total.to_le_bytes(), octets]),
            Record::Refreshed { conn } => log.record(kind::REFRESHED, *conn, &[]),
            Record::Remedied { conn, message, reset } => {
                log.record(kind::REMEDIED, *conn, &[&message.to_le_bytes(), &[u8::from(*reset)]]);
            }
            Record::Standing { text } => log.record(kind::STANDING, 0, &[text.as_bytes()]),
        }
    }
}

/// The records in `octets`, in order, up to the first that cannot be read.
pub fn read(octets: &[u8]) -> Reader<'_> {
    Reader { octets, at: 0 }
}

/// See [`read`].
#[derive(Debug)]
pub struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Record<'a>, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.octets.len() {
            return None;
        }
        let at = self.at;
        let record = self.record();
        if record.is_err() {
            self.at = self.octets.len();
        }
        debug_assert!(self.at > at, "it goes on");
        Some(record)
    }
}

impl<'a> Reader<'a> {
    fn record(&mut self) -> Result<Record<'a>, Damage> {
        let at = self.at;
        let short = Damage::Short { at };
        let (header, rest) =
            self.octets.get(at..).and_then(|o| o.split_first_chunk::<HEADER>()).ok_or(short.clone())?;
        let [a, b, c, d, kind, _, _, _, conn @ ..] = *header;
        let (len, conn) = (u32::from_le_bytes([a, b, c, d]) as usize, u64::from_le_bytes(conn));
        if len > MAX_PAYLOAD {
            return Err(Damage::Payload { at, why: "it is too long" });
        }
        let payload = rest.get(..len).ok_or(short)?;
        self.at = at + size(len);
        understood(kind, conn, payload).map_err(|why| match why {
            "" => Damage::Kind { at, kind },
            why => Damage::Payload { at, why },
        })
    }
}

/// An error is what is wrong with the payload; empty: there is no such kind.
fn understood(kind: u8, conn: u64, payload: &[u8]) -> Result<Record<'_>, &'static str> {
    let number = |octets: &[u8; 8]| u64::from_le_bytes(*octets);
    Ok(match kind {
        kind::OPENED => {
            let opened = serde_json::from_slice(payload).map_err(|_| "it does not describe a connection")?;
            Record::Opened { conn, opened }
        }
        kind::CLOSED => Record::Closed { conn },
        kind::FROM_PEER => Record::FromPeer { conn, octets: payload },
        kind::TO_PEER => Record::ToPeer { conn, octets: payload },
        kind::SAID => Record::Said { conn, octets: payload },
        kind::TOLD => {
            let (count, rest) = payload.split_first_chunk::<8>().ok_or("it lacks its number of connections")?;
            let ids = usize::try_from(number(count)).ok().and_then(|n| n.checked_mul(8));
            let (ids, octets) = ids.and_then(|n| rest.split_at_checked(n)).ok_or("it lacks some of its connections")?;
            let conns = ids.as_chunks::<8>().0.iter().map(number).collect();
            let as4 = match conn {
                0 => None,
                1 => Some(false),
                2 => Some(true),
                _ => return Err("its AS numbers are of no known width"),
            };
            Record::Told { conns, as4, octets }
        }
        kind::UNSENT => {
            let (total, octets) = payload.split_first_chunk::<8>().ok_or("it lacks its position")?;
            Record::Unsent { conn, total: number(total), octets }
        }
        kind::REFRESHED => Record::Refreshed { conn },
        kind::REMEDIED => match payload.split_first_chunk::<8>() {
            Some((message, [reset @ (0 | 1)])) => {
                Record::Remedied { conn, message: number(message), reset: *reset == 1 }
            }
            _ => return Err("it does not name a message"),
        },
        kind::STANDING => Record::Standing { text: std::str::from_utf8(payload).map_err(|_| "it is no text")? },
        _ => return Err(""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn records(octets: &[u8]) -> Vec<Record<'_>> {
        let opened = Opened {
            fd: 17,
            dialled: true,
            local: "[fe80::1%3]:179".parse().expect("an address"),
            remote: "192.0.2.1:40000".parse().expect("an address"),
        };
        vec![
            Record::Opened { conn: 3, opened },
            Record::FromPeer { conn: 3, octets },
            Record::ToPeer { conn: 3, octets },
            Record::Said { conn: 4, octets },
            Record::Told { conns: vec![3, 4, u64::MAX], as4: Some(true), octets },
            Record::Told { conns: vec![], as4: None, octets },
            Record::Unsent { conn: 4, total: 1 << 40, octets },
            Record::Refreshed { conn: 4 },
            Record::Remedied { conn: 4, message: 1 << 33, reset: true },
            Record::Standing { text: "{}" },
            Record::Closed { conn: 3 },
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(octets in vec(any::<u8>(), 0..100)) {
            let mut log = Vec::new();
            let all = records(&octets);
            all.iter().for_each(|r| r.append_to(&mut log));
            prop_assert_eq!(read(&log).collect::<Result<Vec<_>, _>>(), Ok(all));
            // Wherever it is cut, what comes before is whole, and the cut is seen.
            for cut in 0..log.len() {
                let read: Vec<_> = read(&log[..cut]).collect();
                let mut again = Vec::new();
                let good = read.iter().map_while(|r| r.as_ref().ok());
                good.for_each(|r| r.append_to(&mut again));
                // Zeros at the end of a record say nothing.
                prop_assert!(log.starts_with(&again));
                prop_assert!(again.len() >= cut || read.last().is_some_and(Result::is_err));
            }
        }

        #[test]
        fn nothing_that_is_read_is_too_much(octets in vec(any::<u8>(), 0..400)) {
            for record in read(&octets) {
                let _ = record;
            }
        }
    }

    #[test]
    fn an_image_of_another_version_is_refused_by_name() {
        let mut file = stamp().to_vec();
        Record::Closed { conn: 1 }.append_to(&mut file);
        assert_eq!(unstamp(&file, OLDEST..=VERSION).map(|records| read(records).count()), Ok(1));
        let refused = unstamp(&file, VERSION + 1..=VERSION + 2).map_err(|e| e.to_string());
        assert_eq!(
            refused,
            Err(format!("it is of version {VERSION}; this virtd reads {} to {}", VERSION + 1, VERSION + 2))
        );
        for no in [&file[..15], &file[1..], b"", &[0; 40]] {
            assert_eq!(unstamp(no, OLDEST..=VERSION), Err(Unread::NoImage));
        }
    }

    #[test]
    fn damage_is_named() {
        let mut log = Vec::new();
        Record::Closed { conn: 1 }.append_to(&mut log);
        log.record(77, 0, &[b"something"]);
        let last = read(&log).last();
        assert_eq!(last, Some(Err(Damage::Kind { at: 16, kind: 77 })));
        let text = last.and_then(Result::err).map(|e| e.to_string());
        assert!(text.is_some_and(|t| t.contains("kind 77") && t.contains("newer")), "by name");
    }
}
