//! MRT files (RFC 6396, RFC 8050): what collectors recorded, read as what the project plays, and a
//! writer for what comes back.
//!
//! [`open`] takes a path to a binary MRT file or to the text of `bgpdump -m`, plain or compressed
//! (gzip, bzip2), and gives an iterator of
//! [`Record`]s:
//!
//! ```text
//! BGP4MP, BGP4MP_ET         → Record::Message (the BGP message, octet by octet), Record::StateChange
//! TABLE_DUMP_V2, text       → Record::Route, one per peer and prefix; the peer index table is looked up
//! anything else             → Err with offset and type, and on to the next record
//! ```
//! Nothing is lost silently: whatever is not given as a record is an `Err` item, and
//! [`Reader::counts`] has them all. To send what was read over a session: [`route_as_update`],
//! [`message_as_updates`], [`widen_as_path`].
//!
//! We read the records ourselves and keep bgpkit-parser as the judge in the tests. It decodes
//! messages and forgets their bytes, which a replay must send as they were; and its raw records
//! tell neither where in the file they stood nor, after an error, where the next one starts.

#[cfg(feature = "mrt")]
mod reader;
mod writer;

#[cfg(feature = "mrt")]
pub use reader::*;
pub use writer::{Ends, Writer};

/// A BGP message or a change of state, with microseconds.
const BGP4MP_ET: u16 = 17;
