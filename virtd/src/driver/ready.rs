//! The sources that have something for the loop and have not been served.

use broker::io::Micros;
use hashbrown::HashMap;
use mio::Token;
use std::collections::VecDeque;

/// What one source has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Read until the socket says it is empty: data and the end of the stream may have come as one
    /// edge.
    pub(super) exhaust: bool,
    /// When that was found first.
    came: Micros,
}

impl Ready {
    pub(super) fn new(event: &mio::event::Event, came: Micros) -> Ready {
        let over = event.is_read_closed() || event.is_error();
        Ready { readable: event.is_readable() || over, writable: event.is_writable(), exhaust: over, came }
    }

    /// It is read without waiting for an edge.
    pub(super) fn again(came: Micros) -> Ready {
        Ready { readable: true, writable: false, exhaust: true, came }
    }
}

/// Each source once, the one that has waited longest first: while it waits an edge comes with every
/// octet that is sent to it, and one that sends without end would stand in every place.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Token>,
    sources: HashMap<Token, Ready>,
}

impl Waiting {
    /// The source has something, maybe more than before.
    pub(super) fn push(&mut self, token: Token, ready: Ready) {
        let queue = &mut self.queue;
        let waits = self.sources.entry(token).or_insert_with(|| {
            queue.push_back(token);
            ready
        });
        waits.readable |= ready.readable;
        waits.writable |= ready.writable;
        waits.exhaust |= ready.exhaust;
    }

    /// Takes out the first.
    pub(super) fn pop(&mut self) -> Option<(Token, Ready)> {
        let token = self.queue.pop_front()?;
        self.sources.remove(&token).map(|ready| (token, ready))
    }

    /// When it was found that the first has something.
    pub(super) fn oldest(&self) -> Option<Micros> {
        self.queue.front().and_then(|token| self.sources.get(token)).map(|ready| ready.came)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_without_end_stands_in_line_once() {
        let (mut waiting, loud, quiet) = (Waiting::default(), Token(1), Token(2));
        let readable = |came| Ready { readable: true, writable: false, exhaust: false, came };
        (1..=1000).for_each(|at| waiting.push(loud, readable(at)));
        waiting.push(quiet, readable(1000));
        waiting.push(loud, Ready { writable: true, ..Ready::again(1001) });
        assert_eq!(waiting.oldest(), Some(1));
        let (token, ready) = waiting.pop().expect("one waits");
        assert_eq!((token, ready.readable, ready.writable, ready.exhaust), (loud, true, true, true));
        // Served, it goes behind.
        waiting.push(loud, readable(1002));
        assert_eq!(waiting.pop().map(|(token, _)| token), Some(quiet));
        assert_eq!(waiting.pop().map(|(token, _)| token), Some(loud));
        assert!(waiting.pop().is_none() && waiting.is_empty() && waiting.oldest().is_none());
    }
}
