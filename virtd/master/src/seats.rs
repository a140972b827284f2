//! Which instance a worker means by an index.
//!
//! The supervisor has a slot for each instance that it knows, for as long as that runs. A worker
//! has indices, which begin anew with each worker. What a worker may say of an instance is its
//! name, out of a configuration that the master has read, and a label that is made of the name.

use crate::message::Who;
use broker::io::ProcessNews;
use virtd_config::{Config, Instance, Standby};
use virtd_linux::instances::Roster;

/// Slots and indices that there can be: an index is an octet.
const MAX: usize = 256;

/// Why a worker is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

/// One place of the supervisor's.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Who has it; `None` where its instance is no more in the configuration.
    instance: Option<Instance>,
    /// Its processes run.
    pid: Option<u32>,
    /// What they were started as.
    started: Option<Instance>,
    /// What its program has said of itself.
    version: Option<String>,
    /// Nobody starts it but an order.
    rests: bool,
    /// It runs as another configuration says, and is to end and come back.
    stale: bool,
}

/// What is to be done when a worker has come up.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The worker is told that it runs.
    Tell(u8, ProcessNews),
    /// The supervisor is to start it.
    Start(usize),
    /// The supervisor is to end it.
    Stop(usize),
    /// The same at once: it was started by a configuration that is not in force.
    Kill(usize),
}

/// See the module's comment.
#[derive(Debug)]
pub struct Seats {
    slots: Vec<Slot>,
    /// The slot of each index of the worker's.
    by_index: Vec<Option<usize>>,
    roster: Roster,
}

impl Seats {
    /// Nobody yet.
    pub fn new(roster: Roster) -> Seats {
        Seats { slots: Vec::new(), by_index: Vec::new(), roster }
    }

    /// A worker begins with this configuration. The label of each instance, in its order: whoever
    /// runs has the one that it was started with.
    pub fn begin(&mut self, config: &Config) -> Vec<String> {
        self.by_index.clear();
        let mut taken = Vec::new();
        for instance in config.instances.iter().take(MAX) {
            let slot = self.slot_of(instance, &taken);
            taken.push(slot);
            self.by_index.push(Some(slot));
            let Some(s) = self.slots.get_mut(slot) else { continue };
            let runs = s.pid.and(s.started.as_ref());
            let seated = labelled(instance, runs.map_or(instance.name.as_str(), Instance::label));
            s.stale = runs.is_some_and(|before| before.lasting() != seated.lasting());
            s.rests = seated.standby == Some(Standby::Cold);
            self.roster.set(slot, Some(seated.clone()));
            if s.rests {
                self.roster.rest(slot);
            }
            s.instance = Some(seated);
        }
        for (i, slot) in self.slots.iter_mut().enumerate().filter(|(i, _)| !taken.contains(i)) {
            if slot.instance.take().is_some() && slot.pid.is_none() {
                self.roster.set(i, None);
            }
        }
        let label = |slot: &usize| self.slots.get(*slot)?.instance.as_ref().map(|i| i.label().to_owned());
        taken.iter().map(|slot| label(slot).unwrap_or_default()).collect()
    }

    /// Where an instance is, or may be: best as it is configured.
    fn slot_of(&mut self, instance: &Instance, taken: &[usize]) -> usize {
        let mut named: Vec<(usize, &Slot)> =
            self.slots.iter().enumerate().filter(|(i, _)| !taken.contains(i)).collect();
        named.retain(|(_, s)| s.instance.as_ref().is_some_and(|i| i.name == instance.name));
        let fits = |s: &Slot| s.instance.as_ref().is_some_and(|i| i.lasting() == instance.lasting());
        named.sort_by_key(|(_, s)| (s.pid.is_none(), !fits(s)));
        match named.first() {
            Some((slot, _)) => *slot,
            None => self.free(taken),
        }
    }

    /// A slot that is nobody's.
    fn free(&mut self, taken: &[usize]) -> usize {
        let free = |(i, s): (usize, &Slot)| s.instance.is_none() && s.pid.is_none() && !taken.contains(&i);
        if let Some(slot) = self.slots.iter().enumerate().position(free) {
            return slot;
        }
        self.slots.push(Slot::default());
        self.slots.len() - 1
    }

    /// What is to be done now that the worker serves.
    pub fn ready(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, slot) in self.by_index.iter().enumerate() {
            let Some((slot, s)) = slot.and_then(|i| Some((i, self.slots.get(i)?))) else { continue };
            if !s.instance.as_ref().is_some_and(Instance::is_ours) {
                continue;
            }
            match s.pid {
                None if s.rests => {}
                None => steps.push(Step::Start(slot)),
                Some(_) if s.rests => steps.push(Step::Stop(slot)),
                Some(pid) => {
                    steps.push(Step::Tell(index as u8, ProcessNews::Started { pid }));
                    let version = s.version.clone().map(|version| ProcessNews::Version { version });
                    steps.extend(version.map(|version| Step::Tell(index as u8, version)));
                    steps.extend(s.stale.then_some(Step::Kill(slot)));
                }
            }
        }
        let seated = |i: &usize| self.by_index.contains(&Some(*i));
        let left = self.slots.iter().enumerate().filter(|(i, s)| s.pid.is_some() && !seated(i));
        steps.extend(left.map(|(i, _)| Step::Stop(i)));
        steps
    }

    /// An index is this instance's from now on, or nobody's. `known`: the configurations that count,
    /// the newest first.
    ///
    /// # Errors
    /// There is no such instance, or its label is another's.
    pub fn seat(&mut self, index: u8, who: Option<&Who>, known: &[&Config]) -> Result<(), Refused> {
        let index = usize::from(index);
        let before = self.by_index.get(index).copied().flatten();
        let Some(who) = who else {
            if let Some(place) = self.by_index.get_mut(index) {
                *place = None;
            }
            if let Some(s) = before.and_then(|slot| self.slots.get_mut(slot)) {
                s.instance = None;
            }
            before.into_iter().for_each(|slot| self.roster.set(slot, None));
            return Ok(());
        };
        let named = known.iter().find_map(|config| config.instances.iter().find(|i| i.name == who.name));
        let instance = named.ok_or_else(|| Refused(format!("there is no instance {:?}", who.name)))?;
        if !is_label_of(&who.label, &who.name) {
            return Err(Refused(format!("{:?} is no label of {:?}", who.label, who.name)));
        }
        let labelled = labelled(instance, &who.label);
        let has_label = |s: &Slot| s.instance.as_ref().is_some_and(|i| i.label() == who.label);
        let slot = match self.slots.iter().position(has_label) {
            Some(slot) if before != Some(slot) && self.by_index.contains(&Some(slot)) => {
                return Err(Refused(format!("{:?} has another place", who.label)));
            }
            Some(slot) => slot,
            None => self.free(&[]),
        };
        if slot >= MAX {
            return Err(Refused("there are too many instances".to_owned()));
        }
        let places = self.by_index.len().max(index + 1);
        self.by_index.resize(places, None);
        if let Some(place) = self.by_index.get_mut(index) {
            *place = Some(slot);
        }
        if let Some(s) = self.slots.get_mut(slot) {
            s.instance = Some(labelled.clone());
        }
        self.roster.set(slot, Some(labelled));
        Ok(())
    }

    /// The instance at an index is not started with the others.
    pub fn rest(&mut self, index: u8) {
        let Some(slot) = self.slot(index) else { return };
        if let Some(s) = self.slots.get_mut(slot) {
            s.rests = true;
        }
        self.roster.rest(slot);
    }

    /// The slot of an index.
    pub fn slot(&self, index: u8) -> Option<usize> {
        self.by_index.get(usize::from(index)).copied().flatten()
    }

    /// The supervisor has news of a slot: the index that it has for the worker, and what the worker
    /// is told.
    pub fn heard(&mut self, slot: usize, mut news: ProcessNews) -> Option<(u8, ProcessNews)> {
        let s = self.slots.get_mut(slot)?;
        match &mut news {
            ProcessNews::Started { pid } => (s.pid, s.started) = (Some(*pid), s.instance.clone()),
            ProcessNews::Version { version } => s.version = Some(version.clone()),
            ProcessNews::Failed { .. } => s.pid = None,
            ProcessNews::Ended { unasked, .. } => {
                // The worker has not asked for it.
                *unasked |= std::mem::take(&mut s.stale);
                (s.pid, s.version) = (None, None);
            }
            ProcessNews::Died { .. } | ProcessNews::Usage { .. } => {}
        }
        let index = self.by_index.iter().position(|place| *place == Some(slot))?;
        Some((u8::try_from(index).ok()?, news))
    }
}

/// An instance under a label.
fn labelled(instance: &Instance, label: &str) -> Instance {
    Instance { label: (label != instance.name).then(|| label.to_owned()), ..instance.clone() }
}

/// A label is the name, or the name with a number behind it.
fn is_label_of(label: &str, name: &str) -> bool {
    let number = label.strip_prefix(name).and_then(|rest| rest.strip_prefix('+'));
    label == name || number.is_some_and(|n| (1..=9).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
#[path = "seats_tests.rs"]
mod tests;
