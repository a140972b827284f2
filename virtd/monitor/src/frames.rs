//! The frames of virtd's tables, off the control socket ([`virtd_api::ribs`]).

use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, ErrorKind};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Duration, timeout};
use virtd::ctl::ask::connect_error;
use virtd_api::ribs::{FORM, HEADER_LEN, Header};
use virtd_api::{Refused, Request, Ribs};

/// virtd has begun to answer by then.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest line before the frames.
const MAX_LINE: usize = 4096;
/// Octets read at once.
const PIECE: usize = 64 << 10;

/// See the module's comment.
#[derive(Debug)]
pub struct Frames {
    stream: UnixStream,
    read: BytesMut,
}

impl Frames {
    /// To a virtd that is there; nothing is asked yet.
    ///
    /// # Errors
    /// A sentence: virtd does not run, or may not be asked.
    pub async fn connect(socket: &Path) -> Result<Frames, String> {
        let stream = UnixStream::connect(socket).await.map_err(|e| connect_error(socket, &e))?;
        Ok(Frames { stream, read: BytesMut::new() })
    }

    /// Begins to read the tables, or with `peer` those of that one. Gives what virtd says it tells.
    ///
    /// # Errors
    /// A sentence: virtd refuses, is too old, or has gone meanwhile.
    pub async fn begin(&mut self, instances: bool, peer: Option<&str>) -> Result<Ribs, String> {
        let begun = timeout(PATIENCE, self.ask(instances, peer)).await;
        begun.unwrap_or_else(|_| Err("virtd did not answer in time".to_owned()))
    }

    async fn ask(&mut self, instances: bool, peer: Option<&str>) -> Result<Ribs, String> {
        let broke = |e: io::Error| format!("the connection to virtd broke: {e}");
        let request = Request::Ribs { instances, peer: peer.map(str::to_owned) };
        let mut text = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
        text.push(b'\n');
        self.stream.write_all(&text).await.map_err(broke)?;
        let line = loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                break self.read.split_to(end + 1);
            }
            if self.read.len() > MAX_LINE || !self.fill().await.map_err(broke)? {
                return Err("virtd closed the connection without an answer".to_owned());
            }
        };
        if let Ok(Refused { error }) = serde_json::from_slice(&line) {
            return Err(error);
        }
        match serde_json::from_slice::<Ribs>(&line) {
            Ok(ribs) if ribs.form == FORM => Ok(ribs),
            Ok(ribs) => Err(format!(
                "virtd tells its tables in form {}, not {FORM}: install both from the same build",
                ribs.form
            )),
            Err(e) => Err(format!("what answers is no virtd: {e}")),
        }
    }

    /// False: it has ended.
    async fn fill(&mut self) -> io::Result<bool> {
        self.read.reserve(PIECE);
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }

    /// A frame that is there already.
    ///
    /// # Errors
    /// What comes is none.
    pub fn ready(&mut self) -> io::Result<Option<(Header, Bytes)>> {
        let Some(octets) = self.read.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let Some(header) = Header::decode(octets) else {
            return Err(io::Error::new(ErrorKind::InvalidData, "a frame too long"));
        };
        let length = HEADER_LEN + header.length as usize;
        if self.read.len() < length {
            return Ok(None);
        }
        let mut frame = self.read.split_to(length);
        frame.advance(HEADER_LEN);
        Ok(Some((header, frame.freeze())))
    }

    /// The next frame; `None`: virtd has closed. Where it is given up, nothing is lost.
    ///
    /// # Errors
    /// The connection breaks, or what comes is no frame.
    pub async fn next(&mut self) -> io::Result<Option<(Header, Bytes)>> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }
}
