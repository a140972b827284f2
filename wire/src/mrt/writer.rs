//! Writing what a session said as BGP4MP_ET (RFC 6396 section 3 and 4.4.3): what bgpdump and every
//! other tool read.

use super::BGP4MP_ET;
use std::io::{self, Write};
use std::net::IpAddr;

/// BGP4MP_MESSAGE_AS4: AS numbers of four octets, in the record's head and in the message.
const MESSAGE_AS4: u16 = 4;

/// The two ends of a recorded session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The neighbour, who sent what is recorded.
    pub peer: IpAddr,
    /// Its AS number.
    pub peer_as: u32,
    /// The recorder's address, of the same family.
    pub local: IpAddr,
    /// The recorder's AS number.
    pub local_as: u32,
}

/// Writes BGP messages as MRT records.
#[derive(Debug)]
pub struct Writer<W: Write> {
    output: W,
    record: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`; wrap a file in a [`std::io::BufWriter`].
    pub const fn new(output: W) -> Writer<W> {
        Writer { output, record: Vec::new() }
    }

    /// Records `message`, a whole BGP message with its header, received at `at_us` microseconds of
    /// Unix time. The session must be one with 4-octet AS numbers.
    ///
    /// # Errors
    /// `InvalidInput` where the ends are of different families or the time is past 2106, which MRT
    /// cannot say; else the output's.
    pub fn message(&mut self, at_us: u64, ends: &Ends, message: &[u8]) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let seconds = u32::try_from(at_us / 1_000_000).map_err(|_| invalid("the time is past what MRT can say"))?;
        let r = &mut self.record;
        r.clear();
        for asn in [ends.peer_as, ends.local_as] {
            r.extend_from_slice(&asn.to_be_bytes());
        }
        r.extend_from_slice(&[0, 0]); // interface index: not known here
        match (ends.peer, ends.local) {
            (IpAddr::V4(peer), IpAddr::V4(local)) => {
                r.extend_from_slice(&[0, 1]);
                r.extend_from_slice(&peer.octets());
                r.extend_from_slice(&local.octets());
            }
            (IpAddr::V6(peer), IpAddr::V6(local)) => {
                r.extend_from_slice(&[0, 2]);
                r.extend_from_slice(&peer.octets());
                r.extend_from_slice(&local.octets());
            }
            _ => return Err(invalid("the ends of the session are of different address families")),
        }
        r.extend_from_slice(message);
        let len = u32::try_from(r.len() + 4).map_err(|_| invalid("the message is too long"))?;
        let mut header = [0; 16];
        let fields = [seconds, u32::from(BGP4MP_ET) << 16 | u32::from(MESSAGE_AS4), len, (at_us % 1_000_000) as u32];
        for (place, field) in header.as_chunks_mut::<4>().0.iter_mut().zip(fields) {
            *place = field.to_be_bytes();
        }
        self.output.write_all(&header)?;
        self.output.write_all(r)
    }

    /// Passes on what the output holds back.
    ///
    /// # Errors
    /// The output's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// The output.
    pub fn into_inner(self) -> W {
        self.output
    }
}
