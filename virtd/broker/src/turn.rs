//! One turn: what has come is read, passed on and decided on, in the one order that the driver and
//! the simulation run. A [`World`] is what it is run against: sockets and the kernel, or what
//! stands for them under a virtual clock.

use super::Core;
use super::io::{Input, InstanceId, LegId, Micros, Note, Output};

/// Rounds of passing on and deciding in one turn; a core that still has work gets the next turn.
const MAX_ROUNDS: usize = 64;
/// Where nothing comes, the turn at whose end a leg is written to begins after so long. It is longer
/// than a tick of the kernel (4 ms at 250 Hz): a timer that ends before the next tick has to be
/// programmed for itself.
pub const NEXT_TURN_US: Micros = 5_000;

/// What a turn is run against.
pub trait World {
    /// The core.
    fn core(&mut self) -> &mut Core;

    /// The time of this turn; it stands still meanwhile.
    fn now(&self) -> Micros;

    /// Whether this turn has taken so long that the rest is for the next.
    fn is_late(&self) -> bool;

    /// Whether something has not been read yet that had come when [`Input::Tick`] fell due.
    fn has_unread(&mut self) -> bool;

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
    /// Legs that are written to at the end of the next turn.
    next_turn: Vec<LegId>,
    /// Legs that are written to at the end of this one.
    due: Vec<LegId>,
    /// When the core wants [`Input::Tick`], as it said before the last wait.
    tick_at: Option<Micros>,
}

impl Deferred {
    /// A leg is written to at the end of the next turn.
    pub fn write_to(&mut self, leg: LegId) {
        self.next_turn.push(leg);
    }
}

/// A turn. `read` gives the core what has come.
pub fn turn<W: World>(w: &mut W, read: impl FnOnce(&mut W)) {
    read(w);
    let now = w.now();
    if w.deferred().tick_at.is_some_and(|at| at <= now) {
        // No hold time ends while what came before its end has not been read.
        let input = if w.has_unread() { Input::KeepAlive } else { Input::Tick };
        w.core().handle(now, input);
    }
    until_rest(w);
    // Also those whose questions have changed nothing.
    w.answer();
    let deferred = w.deferred();
    let due = std::mem::replace(&mut deferred.due, std::mem::take(&mut deferred.next_turn));
    if !due.is_empty() {
        due.into_iter().for_each(|leg| w.write_to(leg));
        until_rest(w);
    }
}

/// When the next turn is wanted, if nothing comes before.
pub fn wake_at<W: World>(w: &mut W) -> Option<Micros> {
    let (now, rests, tick_at) = (w.now(), rests(w), w.core().deadline());
    w.deferred().tick_at = tick_at;
    let pending = (!w.deferred().due.is_empty()).then_some(now + NEXT_TURN_US);
    let unfinished = (!rests).then_some(now);
    tick_at.into_iter().chain(pending).chain(unfinished).min()
}

/// Passes on and decides in turns, until nothing moves. What is only passed on comes first: it does
/// not wait for votes that are due.
fn until_rest<W: World>(w: &mut W) {
    for round in 0..MAX_ROUNDS {
        let decides = round > 0 || rests(w);
        if decides {
            let now = w.now();
            w.core().decide(now);
            if rests(w) {
                return;
            }
        }
        pass_on(w);
        notify(w);
        // Whatever there is to read, something is decided in every turn.
        if decides && w.is_late() {
            return;
        }
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
