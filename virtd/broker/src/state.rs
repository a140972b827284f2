//! What an operator has decided and a restart of virtd must not undo: the sessions that are shut
//! down, the instances that are drained, disabled or pinned.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The form of the file.
const VERSION: u32 = 1;
/// What the file says.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Peers whose session an operator has shut down, as virtctl names them.
    pub shut: BTreeSet<String>,
    /// Instances that an operator has drained, by name.
    #[serde(default)]
    pub drained: BTreeSet<String>,
    /// Those that he has disabled.
    #[serde(default)]
    pub disabled: BTreeSet<String>,
    /// Those that he has pinned.
    #[serde(default)]
    pub pinned: BTreeSet<String>,
}

impl State {
    /// These sessions are shut down, and no instance is anything but what the configuration says.
    pub fn new(shut: BTreeSet<String>) -> State {
        State { version: VERSION, shut, ..State::default() }
    }

    /// Whether this is the form that is written today, and which it is.
    ///
    /// # Errors
    /// The other form's number.
    pub fn check(self) -> Result<State, String> {
        if self.version == VERSION { Ok(self) } else { Err(format!("it is of version {}", self.version)) }
    }
}
