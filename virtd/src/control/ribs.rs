//! `ribs`: the routing tables as a stream ([`virtd_api::ribs`]). The client's thread asks the loop for
//! a piece, writes it, and asks for the next when the client has taken it: the loop encodes nothing
//! that nobody takes, and never waits.

use super::{CORE_PATIENCE, ControlQueue, FOLLOW_CHECK, answer, is_closed, refuse};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use virtd_api::Ribs;

/// Words that wait for the loop: each client's thread has one, and one that it has gone.
const QUEUE: usize = 2 * super::MAX_CLIENTS;

/// What a client's thread wants of the loop. It takes one answer, for which there is room.
#[derive(Debug)]
pub enum Word {
    /// To be a reader.
    Begin {
        /// Its number, nobody else's.
        id: u64,
        /// Of the instances' tables, too.
        instances: bool,
        /// Of this peer alone, by its name.
        peer: Option<String>,
        /// Takes what comes of it.
        reply: Sender<Result<Ribs, String>>,
    },
    /// The next frames, as soon as there are any.
    More {
        /// Its number.
        id: u64,
        /// Takes them.
        reply: Sender<Vec<u8>>,
    },
    /// It has gone.
    End {
        /// Its number.
        id: u64,
    },
}

/// The way of such words to the loop.
#[derive(Clone, Debug)]
pub struct Line {
    words: Sender<Word>,
    last_id: Arc<AtomicU64>,
}

/// Both ends of it.
pub fn line() -> (Line, Receiver<Word>) {
    let (words, heard) = bounded(QUEUE);
    (Line { words, last_id: Arc::default() }, heard)
}

/// A reader, until it is dropped.
struct Reading<'q> {
    id: u64,
    line: Line,
    queue: &'q ControlQueue,
}

impl Reading<'_> {
    /// Tells the loop. It takes what waits in each of its turns.
    fn say(&self, word: Word) -> Result<(), String> {
        self.line.words.send(word).map_err(|_| "virtd is shutting down".to_owned())?;
        self.queue.wake()
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // Where there is no loop any more there is no reader.
        let _ = self.say(Word::End { id: self.id });
    }
}

/// Serves a client until it goes, or the loop does.
pub(super) fn stream(
    stream: &UnixStream,
    queue: &ControlQueue,
    instances: bool,
    peer: Option<String>,
) -> io::Result<()> {
    let Some(line) = queue.ribs.clone() else { return refuse(stream, "virtd has no tables to read".to_owned()) };
    let id = line.last_id.fetch_add(1, Ordering::Relaxed) + 1;
    let reading = Reading { id, line, queue };
    let (reply, begun) = bounded(1);
    let begun = reading.say(Word::Begin { id, instances, peer, reply }).and_then(|()| {
        begun.recv_timeout(CORE_PATIENCE).unwrap_or_else(|_| Err("virtd is too busy or stuck".to_owned()))
    });
    match begun {
        Ok(ribs) => answer(stream, &ribs)?,
        Err(text) => return refuse(stream, text),
    }
    // It may take as long as it likes: nothing more is kept for it.
    stream.set_write_timeout(None)?;
    while let Some(frames) = next(stream, &reading) {
        (&mut &*stream).write_all(&frames)?;
    }
    Ok(())
}

/// The next frames; `None`: the client has gone, or the loop has.
fn next(stream: &UnixStream, reading: &Reading<'_>) -> Option<Vec<u8>> {
    let (reply, frames) = bounded(1);
    reading.say(Word::More { id: reading.id, reply }).ok()?;
    loop {
        match frames.recv_timeout(FOLLOW_CHECK) {
            Ok(frames) => return Some(frames),
            Err(RecvTimeoutError::Timeout) if !is_closed(stream) => {}
            Err(_) => return None,
        }
    }
}
