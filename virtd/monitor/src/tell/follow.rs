//! Reads virtd's events, connects again where that ends, and knows how far it has read.

use super::{Listener, News};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use virtd_api::{Followed, Refused, Request};
use virtd_linux::eventlog::{RING, rfc3339};

/// Octets of an event at most; virtd's are far shorter.
const MAX_LINE: u64 = 4 << 20;
/// Before the next try to connect; it doubles.
const SHORTEST: Duration = Duration::from_millis(250);
/// A virtd that comes back is found within this.
const LONGEST: Duration = Duration::from_secs(5);
/// The position is written no more often than this.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// The last event that was told. Times are compared first: the numbers begin anew with each worker of
/// virtd's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Mark {
    /// RFC 3339, UTC, milliseconds: as text it is in order.
    time: String,
    seq: u64,
}

/// How far the listeners were told, and where that is written down.
#[derive(Clone, Debug)]
pub struct Position {
    mark: Mark,
    file: Option<PathBuf>,
    written: Option<Instant>,
    changed: bool,
}

impl Position {
    /// What an earlier virtd-monitor has written there; else now.
    pub fn read(file: Option<&Path>) -> Position {
        let now = || Mark { time: rfc3339(SystemTime::now()), seq: 0 };
        let read = |path: &Path| match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(now()),
            Err(e) => Err(format!("{}: {e}", path.display())),
        };
        let mark = file.map_or_else(|| Ok(now()), read);
        let mark = mark.unwrap_or_else(|e| {
            log::warn!("how far events were told is not known, and what was before now is not told: {e}");
            now()
        });
        Position { mark, file: file.map(Path::to_owned), written: None, changed: false }
    }

    /// Whether this one is still to be told; then it counts as told.
    fn moves_to(&mut self, time: &str, seq: u64) -> bool {
        let next = Mark { time: time.to_owned(), seq };
        let moves = next > self.mark;
        if moves {
            self.mark = next;
            self.changed = true;
        }
        moves
    }

    fn write(&mut self) {
        let late = self.written.is_none_or(|at| at.elapsed() >= WRITE_PAUSE);
        let Some(file) = self.file.as_ref().filter(|_| self.changed && late) else { return };
        (self.written, self.changed) = (Some(Instant::now()), false);
        let other = file.with_extension("new");
        let text = serde_json::to_vec(&self.mark).unwrap_or_default();
        if let Err(e) = std::fs::write(&other, text).and_then(|()| std::fs::rename(&other, file)) {
            log::warn!("how far events were told cannot be written down: {}: {e}", file.display());
        }
    }
}

/// Tells the listeners, for ever.
pub(super) async fn run(socket: PathBuf, listeners: Vec<Listener>, mut position: Position) {
    let mut pause = SHORTEST;
    let mut said = String::new();
    loop {
        let ended = match events(&socket, &listeners, &mut position, &mut pause).await {
            Ok(ended) => ended,
            Err(e) => e.to_string(),
        };
        position.changed = true;
        position.write();
        if ended != said {
            log::warn!("events: {}: {ended}; it is tried again", socket.display());
            said = ended;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Over one connection; returns why that has ended.
async fn events(
    socket: &Path,
    listeners: &[Listener],
    position: &mut Position,
    pause: &mut Duration,
) -> io::Result<String> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    let mut text = serde_json::to_vec(&Request::Events { follow: true, n: Some(RING as u64), kind: None })?;
    text.push(b'\n');
    stream.get_mut().write_all(&text).await?;
    loop {
        let mut line = Vec::new();
        let tick = if position.changed && position.file.is_some() { WRITE_PAUSE } else { LONGEST };
        // What was read of a line stays in it while it is waited for the rest.
        loop {
            let mut limited = (&mut stream).take(MAX_LINE - line.len() as u64);
            match tokio::time::timeout(tick, limited.read_until(b'\n', &mut line)).await {
                Ok(read) => {
                    read?;
                    break;
                }
                Err(_) => position.write(),
            }
        }
        if line.pop() != Some(b'\n') {
            return Ok("virtd has closed the connection".to_owned());
        }
        if let Ok(Refused { error }) = serde_json::from_slice(&line) {
            return Ok(format!("virtd refuses: {error}"));
        }
        *pause = SHORTEST;
        let json = String::from_utf8(line).map_err(io::Error::other)?;
        match serde_json::from_str(&json)? {
            Followed::Missed { missed } => {
                tell(listeners, News::missed(missed, "they came faster than they could be read"));
            }
            Followed::Ended { ended } => return Ok(ended),
            Followed::Event(logged) => {
                if position.moves_to(&logged.time, logged.seq) {
                    tell(listeners, News::of(json, *logged));
                }
            }
        }
        position.write();
    }
}

fn tell(listeners: &[Listener], news: News) {
    let news = Arc::new(news);
    listeners.iter().for_each(|listener| listener.tell(&news));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_twice_and_a_new_worker_begins_anew() {
        let mut position = Position::read(None);
        let later = |s: &str| format!("9999-01-01T00:00:{s}Z");
        assert!(!position.moves_to("2000-01-01T00:00:00.000Z", 77), "it was before our time");
        assert!(position.moves_to(&later("00.000"), 5));
        assert!(!position.moves_to(&later("00.000"), 5) && !position.moves_to(&later("00.000"), 4));
        assert!(position.moves_to(&later("00.000"), 6));
        assert!(position.moves_to(&later("00.500"), 1), "another worker's first");
    }

    #[test]
    fn where_it_has_stopped_it_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("position");
        let mut position = Position::read(Some(&file));
        assert!(position.moves_to("9999-01-01T00:00:00.000Z", 7));
        position.write();
        let mut next = Position::read(Some(&file));
        assert!(!next.moves_to("9999-01-01T00:00:00.000Z", 7) && next.moves_to("9999-01-01T00:00:00.000Z", 8));
        std::fs::write(&file, "nonsense").expect("written");
        assert!(!Position::read(Some(&file)).moves_to("2000-01-01T00:00:00.000Z", 1), "it begins now");
    }
}
