//! `action` of `[faults]`: what is done with an instance that is found faulty, by the kind of the
//! fault.

use super::names::ACTION_KEYS;
use super::reader::{Problems, Section, text};
use toml::de::DeValue;

/// What an instance can be found guilty of; the table in `virtd/broker/src/controller/verdict.rs`
/// has the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It says something else than a steady majority.
    Wrong,
    /// It hangs.
    Silent,
    /// A session goes on without it.
    Absent,
    /// It loses its legs again and again.
    Flapping,
    /// It takes too much memory.
    Large,
    /// It sends far more than all others.
    Flooding,
}

/// What follows from a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FaultAction {
    /// The instance is killed and started again, or replaced by a standby.
    #[default]
    Restart,
    /// An event says so; nothing else is done.
    Report,
}

impl FaultAction {
    const WORDS: [(&str, FaultAction); 2] = [("restart", FaultAction::Restart), ("report", FaultAction::Report)];
}

/// `action = "restart"`, or `action = { wrong = "report", … }`, where kinds that are left out are
/// restarted for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Actions([FaultAction; Fault::ALL.len()]);

impl Fault {
    /// All kinds, in the order in which docs/CONFIGURATION.md explains them.
    pub const ALL: [Fault; 6] =
        [Fault::Wrong, Fault::Silent, Fault::Absent, Fault::Flapping, Fault::Large, Fault::Flooding];

    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::Wrong => "wrong",
            Fault::Silent => "silent",
            Fault::Absent => "absent",
            Fault::Flapping => "flapping",
            Fault::Large => "large",
            Fault::Flooding => "flooding",
        }
    }
}

impl Actions {
    /// What follows from a fault of this kind.
    pub fn of(&self, fault: Fault) -> FaultAction {
        self.0.get(fault as usize).copied().unwrap_or_default()
    }

    /// The same with another action for one kind.
    pub fn with(mut self, fault: Fault, action: FaultAction) -> Actions {
        if let Some(place) = self.0.get_mut(fault as usize) {
            *place = action;
        }
        self
    }

    /// The kinds that are only reported.
    pub fn reported(&self) -> Vec<&'static str> {
        let reported = |fault: &Fault| self.of(*fault) == FaultAction::Report;
        Fault::ALL.into_iter().filter(reported).map(Fault::name).collect()
    }
}

/// Reads `action`.
pub(super) fn read(section: &Section<'_>, problems: &mut Problems) -> Actions {
    let Some(value) = section.value("action") else { return Actions::default() };
    let mut actions = Actions::default();
    match value.get_ref() {
        DeValue::Table(_) => {
            let Some(table) = Section::open("action", value, ACTION_KEYS, problems) else { return actions };
            for fault in Fault::ALL {
                if let Some(action) = table.word(fault.name(), &FaultAction::WORDS, problems) {
                    actions = actions.with(fault, action);
                }
            }
        }
        DeValue::String(_) => {
            if let Some(action) = section.word("action", &FaultAction::WORDS, problems) {
                actions = Fault::ALL.into_iter().fold(actions, |all, fault| all.with(fault, action));
            }
        }
        _ => {
            let expected = "`restart` or `report`, or a table of these by kind of fault, like { wrong = \"report\" }";
            _ = text("action", value, expected, problems);
        }
    }
    actions
}

/// For `virtd --check`: what is done, where a restart is described by `restart`.
pub(super) fn words(actions: &Actions, restart: &str) -> String {
    let reported = actions.reported();
    match reported.len() {
        0 => restart.to_owned(),
        n if n == Fault::ALL.len() => "reported only".to_owned(),
        _ => format!("{restart}; reported only where {}", reported.join(", ")),
    }
}
