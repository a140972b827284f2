//! One turn: what has come is read, passed on and decided on, in the one order that the driver and
//! the simulation run. A [`World`] is what it is run against: sockets and the kernel, or what
//! stands for them under a virtual clock.

use super::Core;
use super::io::{ConnId, Input, InstanceId, LegId, Micros, Note, Output};

/// Rounds of passing on and deciding in one turn; a core that still has work gets the next turn.
const MAX_ROUNDS: usize = 64;
/// What nobody waits for is done when nothing has happened for so long. It is below the 40 ms that
/// Linux itself may wait with an acknowledgement: a peer with Nagle's algorithm sends its next
/// short message only then. And it is longer than a tick of the kernel (4 ms at 250 Hz): a timer
/// that ends before the next tick has to be programmed for itself.
pub const IDLE_US: Micros = 5_000;
/// What waits for idleness waits no longer than this; below the 40 ms as well.
const NEVER_IDLE_US: Micros = 30_000;

/// What a turn is run against.
pub trait World {
    /// The core.
    fn core(&mut self) -> &mut Core;

    /// The time of this turn; it stands still meanwhile.
    fn now(&self) -> Micros;

    /// What is put off.
    fn deferred(&mut self) -> &mut Deferred;

    /// Carries out one output. Octets for peers and legs wait for [`World::write`].
    fn carry_out(&mut self, output: Output);

    /// Gives the instances that wait for an answer of their virtual kernel that answer.
    fn answer(&mut self);

    /// Gives the instances' sockets these notifications of routes, in order.
    fn notify(&mut self, notes: Vec<(InstanceId, Note)>);

    /// The leg is among those that [`World::write`] writes to.
    fn write_to(&mut self, leg: LegId);

    /// Has TCP acknowledge what a peer has sent.
    fn acknowledge(&mut self, conn: ConnId);

    /// Nothing waits for [`World::write`].
    fn is_written(&self) -> bool;

    /// Writes to peers and legs what their sockets take. Where something had waited before, the
    /// core gets [`Input::PeerDrained`] or [`Input::LegDrained`].
    fn write(&mut self);
}

/// Work that nobody waits for, until what somebody waits for is done.
#[derive(Debug, Default)]
pub struct Deferred {
    /// Notifications of routes: until all who wait for an answer have theirs.
    notes: Vec<(InstanceId, Note)>,
    /// Put off in this turn until the end of the next.
    next_turn: Vec<Work>,
    /// Due at the end of this turn.
    due: Vec<Work>,
    /// Until nothing has happened for [`IDLE_US`], or [`NEVER_IDLE_US`] are over.
    idle: Vec<Work>,
    /// When the first of them came, and when the last one might have come once more.
    idle_since: Micros,
    idle_last: Micros,
    /// When the core wants [`Input::Tick`], as it said before the last wait.
    tick_at: Option<Micros>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// A leg is written to.
    Leg(LegId),
    /// TCP acknowledges what a peer has sent.
    Acknowledge(ConnId),
}

impl Deferred {
    /// A leg is written to at the end of the next turn.
    pub fn write_to(&mut self, leg: LegId) {
        self.next_turn.push(Work::Leg(leg));
    }

    /// A peer has sent something. It is acknowledged when nothing happens; `first`: it does not
    /// wait for that yet.
    pub fn acknowledge(&mut self, conn: ConnId, first: bool, now: Micros) {
        if self.idle.is_empty() {
            self.idle_since = now;
        }
        self.idle_last = now;
        if first {
            self.idle.push(Work::Acknowledge(conn));
        }
    }

    fn is_pending(&self) -> bool {
        !(self.due.is_empty() && self.idle.is_empty())
    }

    /// The turn is over: what is due now, and what will be at the end of the next.
    fn end_turn(&mut self, nothing_came: bool, now: Micros) -> Vec<Work> {
        let mut due = std::mem::take(&mut self.due);
        let idle = nothing_came && now >= self.idle_last + IDLE_US;
        if idle || now >= self.idle_since + NEVER_IDLE_US {
            due.append(&mut self.idle);
        }
        std::mem::swap(&mut self.due, &mut self.next_turn);
        due
    }
}

/// A turn. `read` gives the core what has come, and says whether anything has.
pub fn turn<W: World>(w: &mut W, read: impl FnOnce(&mut W) -> bool) {
    let came = read(w);
    let now = w.now();
    if w.deferred().tick_at.is_some_and(|at| at <= now) {
        w.core().handle(now, Input::Tick);
    }
    until_rest(w);
    // Also those whose questions have changed nothing.
    w.answer();
    catch_up(w, !came);
}

/// Does what was put off and is due.
fn catch_up<W: World>(w: &mut W, nothing_came: bool) {
    let now = w.now();
    let mut due = w.deferred().end_turn(nothing_came, now);
    if due.is_empty() {
        return;
    }
    // Legs first: what they are told is waited for sooner than the rest.
    let mut told = false;
    for work in &due {
        if let Work::Leg(leg) = *work {
            w.write_to(leg);
            told = true;
        }
    }
    if told {
        until_rest(w);
    }
    for work in due.drain(..) {
        match work {
            Work::Leg(_) => {}
            Work::Acknowledge(conn) => w.acknowledge(conn),
        }
    }
    // Its memory is kept from turn to turn; another may have been begun meanwhile.
    let next = &mut w.deferred().next_turn;
    if next.is_empty() {
        *next = due;
    }
}

/// When the next turn is wanted, if nothing comes before.
pub fn wake_at<W: World>(w: &mut W) -> Option<Micros> {
    let (now, tick_at) = (w.now(), w.core().deadline());
    w.deferred().tick_at = tick_at;
    let pending = w.deferred().is_pending().then_some(now + IDLE_US);
    tick_at.into_iter().chain(pending).min()
}

/// In the middle of a turn that takes long, at the time `at`: what has come out of it leaves, and
/// the KEEPALIVEs that are due with it.
pub fn keep_alive<W: World>(w: &mut W, at: Micros) {
    let now = w.now();
    w.core().handle(now, Input::KeepAlive { at });
    pass_on(w);
    notify(w);
}

/// Passes on and decides in turns, until nothing moves. What is only passed on comes first: it does
/// not wait for votes that are due.
fn until_rest<W: World>(w: &mut W) {
    for round in 0..MAX_ROUNDS {
        if round > 0 || rests(w) {
            let now = w.now();
            w.core().decide(now);
            if rests(w) {
                return;
            }
        }
        pass_on(w);
        notify(w);
    }
}

fn rests<W: World>(w: &mut W) -> bool {
    w.core().has_no_outputs() && w.is_written()
}

/// What the core has decided leaves: first to the kernel, then answers to those who wait for one,
/// then to peers and legs. Notifications of routes wait for [`notify`]: whoever gets one goes on
/// with that, maybe on this processor.
pub fn pass_on<W: World>(w: &mut W) {
    let mut outputs = w.core().take_outputs();
    let mut resets = Vec::new();
    for output in outputs.drain(..) {
        match output {
            Output::NetlinkNotify { instance, note } => w.deferred().notes.push((instance, note)),
            Output::LinkReset { .. } => resets.push(output),
            output => w.carry_out(output),
        }
    }
    w.core().keep_outputs(outputs);
    w.answer();
    if !resets.is_empty() {
        // A link goes down after the notifications of the routes that go with it.
        notify(w);
        resets.into_iter().for_each(|reset| w.carry_out(reset));
    }
    w.write();
}

/// Gives the notifications of routes that were put off.
pub fn notify<W: World>(w: &mut W) {
    let notes = std::mem::take(&mut w.deferred().notes);
    if !notes.is_empty() {
        w.notify(notes);
    }
}
