//! Those who read the routing tables (`ribs` over the control socket): at the end of a turn each who
//! waits is given a little of what there is for him. Work that nobody waits for.

use super::*;
use crate::control::Word;
use crossbeam_channel::Sender;

/// A reader that waits for frames.
pub(super) struct Waiter {
    id: u64,
    frames: Vec<u8>,
    reply: Sender<Vec<u8>>,
}

impl Driver {
    /// Takes what the readers want.
    pub(super) fn hear_readers(&mut self) {
        while let Ok(word) = self.lines.ribs.try_recv() {
            match word {
                Word::Begin { id, instances, peer, reply } => {
                    let _ = reply.try_send(self.broker.open_reader(id, instances, peer.as_deref()));
                }
                Word::More { id, reply } => self.readers.push(Waiter { id, frames: Vec::new(), reply }),
                Word::End { id } => {
                    self.broker.close_reader(id);
                    self.readers.retain(|r| r.id != id);
                }
            }
        }
    }

    /// Gives those who wait what there is.
    pub(super) fn tell_readers(&mut self) {
        let Driver { readers, broker, now, .. } = self;
        readers.retain_mut(|r| {
            if !broker.tell_reader(*now, r.id, &mut r.frames) {
                return true;
            }
            let _ = r.reply.try_send(std::mem::take(&mut r.frames));
            false
        });
    }

    /// When there is something for one of them.
    pub(super) fn readers_wake_at(&self) -> Option<Micros> {
        self.readers.iter().filter_map(|r| self.broker.reader_wakes(r.id, self.now)).min()
    }
}
