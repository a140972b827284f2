//! One connection to virtd's control socket, over which one question after the other is asked.

use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use virtd::ctl::ask::{Unanswered, connect_error};
use virtd_api::{Refused, Request};

/// Longest answer, octets: that of 4,096 sessions with 31 instances is half as long.
const MAX_ANSWER: u64 = 64 << 20;

/// The connection, which is made where there is none.
#[derive(Debug)]
pub struct Control {
    socket: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

/// What came of a question.
enum Said {
    /// A line.
    Line(Vec<u8>),
    /// The connection was at its end before it was asked over: virtd closes one that is idle.
    Closed,
}

impl Control {
    /// To this socket; nothing is done before something is asked.
    pub fn new(socket: &Path) -> Control {
        Control { socket: socket.to_owned(), stream: None }
    }

    /// The connection ends. virtd is to keep none open for whom nobody asks.
    pub fn close(&mut self) {
        self.stream = None;
    }

    /// One question. Only what changes nothing is asked. Without an answer the connection ends:
    /// what comes later would be taken for the next one.
    ///
    /// # Errors
    /// See [`Unanswered`]; there is none by `until`.
    pub async fn ask<T: DeserializeOwned>(&mut self, request: &Request, until: Instant) -> Result<T, Unanswered> {
        if !request.only_reads() {
            return Err(Unanswered::Other("virtd-monitor asks for nothing that changes something".to_owned()));
        }
        // Taken, so that a caller that gives up ends the connection, too.
        let kept = self.stream.take();
        let answered = timeout_at(until, self.line(kept, request)).await;
        let (stream, line) = answered.map_err(|_| Unanswered::Down("virtd did not answer in time".to_owned()))??;
        self.stream = Some(stream);
        if let Ok(Refused { error }) = serde_json::from_slice(&line) {
            return Err(Unanswered::Other(error));
        }
        let strange = |e| Unanswered::Other(format!("what answers on {} is no virtd: {e}", self.socket.display()));
        serde_json::from_slice(&line).map_err(strange)
    }

    async fn line(
        &self,
        kept: Option<BufReader<UnixStream>>,
        request: &Request,
    ) -> Result<(BufReader<UnixStream>, Vec<u8>), Unanswered> {
        let mut text = serde_json::to_vec(request).map_err(|e| Unanswered::Other(e.to_string()))?;
        text.push(b'\n');
        if let Some(mut stream) = kept
            && let Ok(Said::Line(line)) = exchange(&mut stream, &text).await
        {
            return Ok((stream, line));
        }
        let mut stream = BufReader::new(self.connect().await?);
        match exchange(&mut stream, &text).await {
            Ok(Said::Line(line)) => Ok((stream, line)),
            Ok(Said::Closed) => Err(Unanswered::Down("virtd closed the connection without an answer".to_owned())),
            Err(e) => Err(Unanswered::Down(format!("the connection to virtd broke: {e}"))),
        }
    }

    async fn connect(&self) -> Result<UnixStream, Unanswered> {
        UnixStream::connect(&self.socket).await.map_err(|e| {
            let text = connect_error(&self.socket, &e);
            let other = std::fs::metadata(&self.socket).is_ok_and(|m| !m.file_type().is_socket());
            match e.kind() {
                ErrorKind::PermissionDenied => Unanswered::Other(text),
                _ if other => Unanswered::Other(text),
                _ => Unanswered::Down(text),
            }
        })
    }
}

async fn exchange(stream: &mut BufReader<UnixStream>, text: &[u8]) -> io::Result<Said> {
    stream.get_mut().write_all(text).await?;
    let mut line = Vec::new();
    stream.take(MAX_ANSWER).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(Said::Closed),
        Some(b'\n') => Ok(Said::Line(line)),
        Some(_) => Err(io::Error::new(ErrorKind::UnexpectedEof, "an answer without an end")),
    }
}
