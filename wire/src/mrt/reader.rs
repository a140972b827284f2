//! Reading MRT files record by record.

mod session;
mod table;
mod text;

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;

pub use session::{Unsendable, message_as_updates, route_as_update, widen_as_path};

use super::BGP4MP_ET;
use crate::bgp::Prefix;
use bytes::{Buf, Bytes};
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Octets of the common header (RFC 6396 section 2).
const HEADER_LEN: usize = 12;
/// The longest record that is read. A RIB entry of each of 1,000 peers is near 100 kB; a length
/// beyond this is no length, and with it the place of the next record is lost.
const RECORD_MAX: usize = 16 << 20;
/// What is read ahead from a file, in octets.
const READ_AHEAD: usize = 1 << 18;

const TABLE_DUMP_V2: u16 = 13;
const BGP4MP: u16 = 16;

/// One thing that a collector noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A BGP message (BGP4MP_MESSAGE and its relatives).
    Message(Message),
    /// A session that changed its state (BGP4MP_STATE_CHANGE).
    StateChange(StateChange),
    /// One peer's route to one prefix, out of a table dump.
    Route(Route),
}

/// A recorded BGP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// When, in microseconds of Unix time; whole seconds but for BGP4MP_ET.
    pub at_us: u64,
    /// The collector's neighbour.
    pub peer: IpAddr,
    /// Its AS number.
    pub peer_as: u32,
    /// The collector's own address.
    pub local: IpAddr,
    /// The AS numbers in AS_PATH and AGGREGATOR have four octets (the record is a MESSAGE_AS4).
    pub as4: bool,
    /// Prefixes in the message carry path ids (RFC 8050). [`crate::bgp::update::Update`] cannot
    /// read such a message.
    pub addpath: bool,
    /// The collector sent the message, where usually it received it (MESSAGE_LOCAL).
    pub sent: bool,
    /// The whole message, header included; as long as its header says.
    pub bytes: Bytes,
}

/// A recorded change of a session's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// When, in microseconds of Unix time.
    pub at_us: u64,
    /// The collector's neighbour.
    pub peer: IpAddr,
    /// Its AS number.
    pub peer_as: u32,
    /// The collector's own address.
    pub local: IpAddr,
    /// State before: 1 Idle, 2 Connect, 3 Active, 4 OpenSent, 5 OpenConfirm, 6 Established (RFC
    /// 6396 section 4.4.1).
    pub old: u16,
    /// State after.
    pub new: u16,
}

/// One peer's route to one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// When the table was dumped, in microseconds of Unix time.
    pub at_us: u64,
    /// Whose route it is.
    pub peer: IpAddr,
    /// That peer's AS number.
    pub peer_as: u32,
    /// The prefix.
    pub prefix: Prefix,
    /// The path id, in add-path dumps.
    pub path_id: Option<u32>,
    /// The next hop field of MP_REACH_NLRI, 16 or 32 octets for IPv6; empty where the route has
    /// none and NEXT_HOP stands among `attributes`.
    pub mp_next_hop: Bytes,
    /// The path attributes but for MP_REACH_NLRI and MP_UNREACH_NLRI, raw and in their order, AS
    /// numbers always of four octets (RFC 6396 section 4.3.4). Routes whose `attributes` and
    /// `mp_next_hop` are equal can share an UPDATE.
    pub attributes: Bytes,
}

/// What went wrong at one place of a file. Offsets count octets of the file as it is after
/// decompression.
#[derive(Debug, thiserror::Error)]
pub enum MrtError {
    /// The file cannot be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be read on, or its compression is broken. Iteration ends.
    #[error("at offset {offset}: {source}")]
    Io {
        /// Where the record being read starts.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The file ends within a record, or a record says it is longer than any is. Iteration ends.
    #[error("at offset {offset}: record of type {kind}/{subtype} says {len} octets, {what}")]
    Cut {
        /// Where the record starts.
        offset: u64,
        /// MRT type, 0 where the header itself is cut.
        kind: u16,
        /// MRT subtype.
        subtype: u16,
        /// The length it says.
        len: usize,
        /// What is the matter.
        what: &'static str,
    },
    /// A type of record that is not read. Iteration goes on.
    #[error("at offset {offset}: records of type {kind}/{subtype} are not supported")]
    Unsupported {
        /// Where the record starts.
        offset: u64,
        /// MRT type.
        kind: u16,
        /// MRT subtype.
        subtype: u16,
    },
    /// A record, or one entry of a table dump's record, that does not have the form of its type.
    /// Iteration goes on.
    #[error("at offset {offset}: record of type {kind}/{subtype}: {what}")]
    Malformed {
        /// Where the record starts.
        offset: u64,
        /// MRT type.
        kind: u16,
        /// MRT subtype.
        subtype: u16,
        /// What is the matter.
        what: &'static str,
    },
    /// A line of a text dump that is not understood. Iteration goes on.
    #[error("at offset {offset}: line {line:?}: {what}")]
    Text {
        /// Where the line starts.
        offset: u64,
        /// How it begins.
        line: String,
        /// What is the matter.
        what: &'static str,
    },
}

/// How many items of each kind an iterator has given so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Record::Message`].
    pub messages: u64,
    /// [`Record::StateChange`].
    pub state_changes: u64,
    /// [`Record::Route`].
    pub routes: u64,
    /// `Err` items.
    pub errors: u64,
}

/// Opens a file: binary MRT or the text of `bgpdump -m`, plain, gzip or bzip2; told apart by
/// content, not by name.
///
/// # Errors
/// [`MrtError::Open`] where it cannot be opened, [`MrtError::Io`] where its first octets cannot be
/// read.
pub fn open(path: impl AsRef<Path>) -> Result<Reader, MrtError> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|source| MrtError::Open { path: path.to_owned(), source })?;
    Reader::new(file)
}

/// Reads records one by one; made by [`open`].
pub struct Reader {
    input: Box<dyn BufRead + Send>,
    form: Form,
    offset: u64,
    peers: Vec<table::Peer>,
    /// The record of a table dump whose entries are being given.
    rib: Option<table::Rib>,
    counts: Counts,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Binary,
    Text,
}

impl Reader {
    /// Reads from any input, in the same forms as [`open`].
    ///
    /// # Errors
    /// [`MrtError::Io`] where the first octets cannot be read.
    pub fn new(input: impl Read + Send + 'static) -> Result<Reader, MrtError> {
        let failed = |source| MrtError::Io { offset: 0, source };
        let (magic, input) = peek(input, 3).map_err(failed)?;
        let input: Box<dyn Read + Send> = match magic[..] {
            [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_AHEAD, input))),
            [b'B', b'Z', b'h'] => Box::new(MultiBzDecoder::new(BufReader::with_capacity(READ_AHEAD, input))),
            _ => Box::new(input),
        };
        let (start, input) = peek(input, text::LINE_STARTS.len()).map_err(failed)?;
        let form = if start == text::LINE_STARTS { Form::Text } else { Form::Binary };
        let input = Box::new(BufReader::with_capacity(READ_AHEAD, input));
        Ok(Reader { input, form, offset: 0, peers: Vec::new(), rib: None, counts: Counts::default(), ended: false })
    }

    /// What has been given so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The next item of a text dump.
    fn next_line(&mut self) -> Option<Result<Record, MrtError>> {
        let offset = self.offset;
        let mut line = Vec::new();
        match (&mut self.input).take(RECORD_MAX as u64).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(n) => {
                self.offset += n as u64;
                let shown = || String::from_utf8_lossy(line.get(..60).unwrap_or(&line)).trim_end().to_owned();
                let read = text::route(&line).map(Record::Route);
                Some(read.map_err(|what| MrtError::Text { offset, line: shown(), what }))
            }
            Err(source) => self.end(MrtError::Io { offset, source }),
        }
    }

    /// The next item of a binary file; `Some(None)` for a record that yields none by itself.
    fn next_record(&mut self) -> Option<Option<Result<Record, MrtError>>> {
        let offset = self.offset;
        let mut header = [0; HEADER_LEN];
        match read_full(&mut self.input, &mut header) {
            Ok(0) => return None,
            Ok(HEADER_LEN) => {}
            Ok(len) => {
                let what = "and the file ends within its header";
                return Some(self.end(MrtError::Cut { offset, kind: 0, subtype: 0, len, what }));
            }
            Err(source) => return Some(self.end(MrtError::Io { offset, source })),
        }
        let mut header = &header[..];
        let (seconds, kind, subtype) = (header.get_u32(), header.get_u16(), header.get_u16());
        let len = header.get_u32() as usize;
        let cut = |what| MrtError::Cut { offset, kind, subtype, len, what };
        if len > RECORD_MAX {
            return Some(self.end(cut("which no record has")));
        }
        let mut body = vec![0; len];
        match read_full(&mut self.input, &mut body) {
            Ok(n) if n == len => {}
            Ok(_) => return Some(self.end(cut("and the file ends before them"))),
            Err(source) => return Some(self.end(MrtError::Io { offset, source })),
        }
        self.offset += (HEADER_LEN + len) as u64;
        let place = Place { offset, kind, subtype };
        Some(self.record(place, u64::from(seconds) * 1_000_000, Cut(body.into())).transpose())
    }

    /// Ends iteration with this error.
    fn end<T>(&mut self, error: MrtError) -> Option<Result<T, MrtError>> {
        self.ended = true;
        Some(Err(error))
    }

    fn record(&mut self, place: Place, at_us: u64, mut body: Cut) -> Result<Option<Record>, MrtError> {
        match place.kind {
            BGP4MP => bgp4mp(place, at_us, body).map(Some),
            BGP4MP_ET => {
                let us = body.u32().ok_or_else(|| place.malformed("it has no microseconds"))?;
                bgp4mp(place, at_us + u64::from(us), body).map(Some)
            }
            TABLE_DUMP_V2 if place.subtype == table::PEER_INDEX_TABLE => {
                self.peers = table::peers(body).ok_or_else(|| place.malformed("the peer index table is cut short"))?;
                Ok(None)
            }
            TABLE_DUMP_V2 => {
                self.rib = Some(table::Rib::new(place, at_us, body)?);
                Ok(None)
            }
            _ => Err(place.unsupported()),
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Record, MrtError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = loop {
            if self.ended {
                return None;
            }
            if let Some(rib) = &mut self.rib {
                match rib.next_route(&self.peers) {
                    Some(route) => break route.map(Record::Route),
                    None => self.rib = None,
                }
            }
            let next = match self.form {
                Form::Binary => self.next_record()?,
                Form::Text => Some(self.next_line()?),
            };
            if let Some(item) = next {
                break item;
            }
        };
        *match &item {
            Ok(Record::Message(_)) => &mut self.counts.messages,
            Ok(Record::StateChange(_)) => &mut self.counts.state_changes,
            Ok(Record::Route(_)) => &mut self.counts.routes,
            Err(_) => &mut self.counts.errors,
        } += 1;
        Some(item)
    }
}

/// The first `n` octets (fewer where the input is shorter) and an input that still begins with
/// them.
fn peek<R: Read>(mut input: R, n: usize) -> io::Result<(Vec<u8>, impl Read + use<R>)> {
    let mut start = vec![0; n];
    let got = read_full(&mut input, &mut start)?;
    start.truncate(got);
    Ok((start.clone(), Read::chain(Cursor::new(start), input)))
}

/// Fills `buffer` as far as the input goes; returns how far.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Where a record stands and what it is, for errors.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    kind: u16,
    subtype: u16,
}

impl Place {
    const fn malformed(self, what: &'static str) -> MrtError {
        MrtError::Malformed { offset: self.offset, kind: self.kind, subtype: self.subtype, what }
    }

    const fn unsupported(self) -> MrtError {
        MrtError::Unsupported { offset: self.offset, kind: self.kind, subtype: self.subtype }
    }
}

/// What is left of a record; every read takes from its front, and is `None` where there is too
/// little.
struct Cut(Bytes);

impl Cut {
    fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.0.try_get_u16().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    fn take(&mut self, n: usize) -> Option<Bytes> {
        (n <= self.0.len()).then(|| self.0.split_to(n))
    }

    fn asn(&mut self, as4: bool) -> Option<u32> {
        if as4 { self.u32() } else { self.u16().map(u32::from) }
    }

    fn address(&mut self, v6: bool) -> Option<IpAddr> {
        if v6 {
            self.0.try_get_u128().ok().map(|a| Ipv6Addr::from_bits(a).into())
        } else {
            self.u32().map(|a| Ipv4Addr::from_bits(a).into())
        }
    }
}

/// BGP4MP (RFC 6396 section 4.4, RFC 8050 section 3).
fn bgp4mp(place: Place, at_us: u64, mut body: Cut) -> Result<Record, MrtError> {
    const STATE_CHANGE: [u16; 2] = [0, 5];
    const AS4: [u16; 5] = [4, 5, 7, 9, 11];
    const SENT: [u16; 4] = [6, 7, 10, 11];
    const ADDPATH: [u16; 4] = [8, 9, 10, 11];
    if !matches!(place.subtype, 0 | 1 | 4..=11) {
        return Err(place.unsupported());
    }
    let as4 = AS4.contains(&place.subtype);
    let cut = || place.malformed("it is cut short");
    let mut ends = || {
        let (peer_as, _local_as, _interface) = (body.asn(as4)?, body.asn(as4)?, body.u16()?);
        let v6 = body.u16()? == 2;
        Some((peer_as, body.address(v6)?, body.address(v6)?))
    };
    let (peer_as, peer, local) = ends().ok_or_else(cut)?;
    if STATE_CHANGE.contains(&place.subtype) {
        let (old, new) = (body.u16().ok_or_else(cut)?, body.u16().ok_or_else(cut)?);
        return Ok(Record::StateChange(StateChange { at_us, peer, peer_as, local, old, new }));
    }
    let bytes = body.0;
    let said = bytes.get(16..18).map(|l| usize::from(u16::from_be_bytes([l[0], l[1]])));
    if said != Some(bytes.len()) || bytes.len() < crate::bgp::frame::HEADER_LEN {
        return Err(place.malformed("the BGP message in it is not as long as its header says"));
    }
    let (addpath, sent) = (ADDPATH.contains(&place.subtype), SENT.contains(&place.subtype));
    Ok(Record::Message(Message { at_us, peer, peer_as, local, as4, addpath, sent, bytes }))
}
