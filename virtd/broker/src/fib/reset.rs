//! Connection diversity of links (papers/001, table 1, Quagga 418: "can interpret change as reset
//! as well"): an instance with `link_reset_ms` is shown an address that comes or goes as a link
//! that goes down and comes up again, besides the change itself. What it overlooks about addresses
//! it so does not overlook, and what it does wrong with a flap it does alone.

use super::super::env::Env;
use super::super::io::{Change, InstanceId, Link, Micros, Output};
use super::super::mux::Random;
use super::Fib;
use crate::config::Instance;
use crate::event::{Event, Severity};
use vkernel::system::LOOPBACK;

/// How much later one instance is shown resets, and those that are to come: when, which link.
#[derive(Debug)]
pub(super) struct Resets {
    least: Micros,
    greatest: Micros,
    random: Random,
    due: Vec<(Micros, u32, Step)>,
}

/// The two halves of a reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Down,
    Up,
}

/// How long the link is down: a daemon that takes both out of one read may see no change at all
/// (BIRD 3.1.7 does), while its routes are gone.
const DOWN_US: Micros = 200_000;

impl Resets {
    /// As configured.
    pub(super) fn of(instance: &Instance) -> Option<Resets> {
        let diversity = instance.diversity.as_ref()?;
        let (least, greatest) = diversity.link_reset_ms?;
        let random = Random::new(diversity.seed, b"link");
        Some(Resets {
            least: Micros::from(least) * 1000,
            greatest: Micros::from(greatest) * 1000,
            random,
            due: Vec::new(),
        })
    }

    /// When the next one comes.
    pub(super) fn next(&self) -> Option<Micros> {
        self.due.iter().map(|(when, ..)| *when).min()
    }

    /// Several changes until then are one reset.
    fn add(&mut self, now: Micros, index: u32) {
        if !self.due.iter().any(|(_, i, step)| (*i, *step) == (index, Step::Down)) {
            self.due.push((now + self.random.between(self.least, self.greatest), index, Step::Down));
        }
    }
}

impl Fib {
    /// An address has come or gone: who is to be shown a reset will be.
    pub(super) fn note_address(&mut self, change: &Change, env: &Env) {
        let (Change::Address { index, .. } | Change::AddressGone { index, .. }) = change else { return };
        if *index == LOOPBACK {
            return;
        }
        for m in self.members.iter_mut().filter(|m| m.sockets > 0) {
            if let Some(resets) = &mut m.resets {
                resets.add(env.now, *index);
            }
        }
    }

    /// The resets whose time has come.
    pub(super) fn reset_links(&mut self, env: &mut Env) {
        for i in 0..self.members.len() {
            let Some(resets) = self.members.get_mut(i).and_then(|m| m.resets.as_mut()) else { continue };
            let due: Vec<_> = resets.due.extract_if(.., |(when, ..)| *when <= env.now).collect();
            for (_, index, step) in due {
                match step {
                    Step::Down => self.show_down(i, index, env),
                    Step::Up => env.out.push(Output::LinkReset { instance: InstanceId(i as u8), index, up: true }),
                }
            }
        }
    }

    /// A link that is not up has nothing to go down from.
    fn show_down(&mut self, i: usize, index: u32, env: &mut Env) {
        let Some(link) = self.system.link(index).filter(|l| l.up && l.running).cloned() else { return };
        let Some(m) = self.members.get_mut(i).filter(|m| m.sockets > 0) else { return };
        if let Some(resets) = &mut m.resets {
            resets.due.push((env.now + DOWN_US, index, Step::Up));
        }
        let name = link.name.clone();
        // Linux takes the routes over a link that goes down out of its tables and says nothing of
        // most: so does the instance's kernel.
        let shown = Link { up: false, running: false, ..link.clone() };
        let down = Change::Link(shown.clone());
        let mut effects = std::mem::take(&mut self.effects);
        self.system.pretend(shown);
        m.kernel.system_changed(&down, Some(&link), &self.system, &mut effects);
        self.system.pretend(link);
        self.follow(i, &mut effects, 0, 0, env);
        self.effects = effects;
        let text = format!(
            "an address of {name} has changed: {} alone is shown that the link goes down and up again",
            env.name(i)
        );
        env.out.push(Event::new(env.now, "link-reset", Severity::Info, text).with_instance(env.name(i)).into());
        env.out.push(Output::LinkReset { instance: InstanceId(i as u8), index, up: false });
    }
}
