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
/// octet that is sent to it, and one that sends without end would stand in every place. Those where
/// a daemon stands still until it has its answer come before the others.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    asking: VecDeque<Token>,
    queue: VecDeque<Token>,
    sources: HashMap<Token, Ready>,
}

impl Waiting {
    /// The source has something, maybe more than before. `asking`: somebody waits for the answer.
    pub(super) fn push(&mut self, token: Token, ready: Ready, asking: bool) {
        let queue = if asking { &mut self.asking } else { &mut self.queue };
        let waits = self.sources.entry(token).or_insert_with(|| {
            queue.push_back(token);
            ready
        });
        waits.readable |= ready.readable;
        waits.writable |= ready.writable;
        waits.exhaust |= ready.exhaust;
    }

    /// Takes out the first of those that ask.
    pub(super) fn pop_asking(&mut self) -> Option<(Token, Ready)> {
        let token = self.asking.pop_front()?;
        self.sources.remove(&token).map(|ready| (token, ready))
    }

    /// Takes out the first of the others.
    pub(super) fn pop(&mut self) -> Option<(Token, Ready)> {
        let token = self.queue.pop_front()?;
        self.sources.remove(&token).map(|ready| (token, ready))
    }

    /// When it was found that the first of the others has something.
    pub(super) fn oldest(&self) -> Option<Micros> {
        self.queue.front().and_then(|token| self.sources.get(token)).map(|ready| ready.came)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_without_end_stands_in_line_once() {
        let (mut waiting, loud, quiet) = (Waiting::default(), Token(1), Token(2));
        let readable = |came| Ready { readable: true, writable: false, exhaust: false, came };
        (1..=1000).for_each(|at| waiting.push(loud, readable(at), false));
        waiting.push(quiet, readable(1000), false);
        waiting.push(loud, Ready { writable: true, ..Ready::again(1001) }, false);
        assert_eq!(waiting.oldest(), Some(1));
        let (token, ready) = waiting.pop().expect("one waits");
        assert_eq!((token, ready.readable, ready.writable, ready.exhaust), (loud, true, true, true));
        // Served, it goes behind.
        waiting.push(loud, readable(1002), false);
        assert_eq!(waiting.pop().map(|(token, _)| token), Some(quiet));
        assert_eq!(waiting.pop().map(|(token, _)| token), Some(loud));
        assert!(waiting.pop().is_none() && waiting.is_empty() && waiting.oldest().is_none());
    }
    #[test]
    fn who_stands_still_until_it_is_answered_does_not_wait_for_the_others() {
        let (mut waiting, other, asking) = (Waiting::default(), Token(1), Token(2));
        waiting.push(other, Ready::again(1), false);
        waiting.push(asking, Ready::again(2), true);
        assert_eq!(waiting.pop_asking().map(|(token, _)| token), Some(asking));
        assert!(waiting.pop_asking().is_none() && !waiting.is_empty());
        // Its end, say, comes in order, although it asks as well.
        waiting.push(asking, Ready::again(3), false);
        waiting.push(asking, Ready::again(4), true);
        assert!(waiting.pop_asking().is_none());
        assert_eq!(waiting.pop().map(|(token, _)| token), Some(other));
        assert_eq!(waiting.pop().map(|(token, _)| token), Some(asking));
        assert!(waiting.is_empty());
    }
}
