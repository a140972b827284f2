//! What a client may ask.

use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

/// The words of [`Request`]'s `command`.
pub const COMMANDS: [&str; 14] = [
    "status",
    "sessions",
    "instances",
    "routes",
    "differs",
    "fib",
    "diversity",
    "events",
    "instance",
    "session",
    "change",
    "reload",
    "upgrade",
    "ribs",
];

/// One line from a client. A field that is left out or null is as in [`Default`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// The router as a whole.
    Status,
    /// All sessions with peers.
    Sessions,
    /// All instances.
    Instances {
        /// The client is about to run an instance's control program, which is an event.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exec: Option<Exec>,
    },
    /// Who says what about a prefix.
    Routes {
        /// `192.0.2.0/24`: that very prefix; `192.0.2.7`: the longest that has the address.
        #[serde(default, deserialize_with = "or_default")]
        prefix: String,
    },
    /// The prefixes on which somebody is not with the majority.
    Differs {
        /// Only those on which this instance differs.
        #[serde(default)]
        instance: Option<String>,
        /// How many, 1000 at most; 50 where it is left out.
        #[serde(default)]
        n: Option<u64>,
    },
    /// The voted FIB.
    Fib {
        /// An exact prefix, or `all`; the whole in figures where it is left out.
        #[serde(default)]
        prefix: Option<String>,
        /// The entries on which somebody differs or that the kernel does not take, whatever
        /// `prefix` says.
        #[serde(default, deserialize_with = "or_default")]
        diff: bool,
        /// Without `[fib]`: remove the routes from the kernel that an earlier virtd has left,
        /// whatever else is said.
        #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_false")]
        flush: bool,
        /// With `flush`: by which protocol number they are known (rtm_protocol); virtd's default
        /// where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        protocol: Option<u64>,
    },
    /// How independent the instances are.
    Diversity {
        /// Session by session, too.
        #[serde(default, deserialize_with = "or_default")]
        sessions: bool,
    },
    /// Do something with an instance.
    Instance {
        /// Its name.
        #[serde(default, deserialize_with = "or_default")]
        name: String,
        /// `restart`, `drain`, `disable`, `enable`, `promote`, `pin`, `unpin`.
        #[serde(default, deserialize_with = "or_default")]
        action: String,
    },
    /// One session, or do something with it.
    Session {
        /// The peer's address, with its interface where that is needed: `fe80::2%eth1`.
        #[serde(default, deserialize_with = "or_default")]
        peer: String,
        /// `reset`, `shutdown`, `start`; left out to ask only.
        #[serde(default)]
        action: Option<String>,
    },
    /// Policy is being changed in the instances.
    Change {
        /// `begin`, `commit`.
        #[serde(default, deserialize_with = "or_default")]
        action: String,
    },
    /// Read the configuration file again.
    Reload {
        /// Only say what would be done.
        #[serde(default, deserialize_with = "or_default")]
        dry_run: bool,
    },
    /// Another program takes the place of virtd's worker.
    Upgrade {
        /// Its file; virtd's own, as it is there now, where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<PathBuf>,
        /// Only try it.
        #[serde(default, deserialize_with = "or_default")]
        dry_run: bool,
    },
    /// What happened.
    Events {
        /// The past and then each new event, until the client closes.
        #[serde(default, deserialize_with = "or_default")]
        follow: bool,
        /// How many of the past, at most; 20 where it is left out.
        #[serde(default)]
        n: Option<u64>,
        /// Only events of this kind.
        #[serde(default)]
        kind: Option<String>,
    },
    /// The routing tables, whole and then as they change, until the client closes.
    Ribs {
        /// Those of the instances, too.
        #[serde(default, deserialize_with = "or_default")]
        instances: bool,
        /// Only those of this peer, by the address that `sessions` shows; left out: of all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
}

/// A control program that is about to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// The instance.
    pub name: String,
    /// What it is told, shortened; empty where it asks for the words itself.
    pub words: Vec<String>,
}

impl Request {
    /// Whether it changes nothing.
    pub fn only_reads(&self) -> bool {
        match self {
            Request::Instances { exec } => exec.is_none(),
            Request::Session { action, .. } => action.is_none(),
            Request::Fib { flush, .. } => !flush,
            Request::Instance { .. } | Request::Change { .. } | Request::Reload { .. } | Request::Upgrade { .. } => {
                false
            }
            Request::Status
            | Request::Sessions
            | Request::Routes { .. }
            | Request::Differs { .. }
            | Request::Diversity { .. }
            | Request::Events { .. }
            | Request::Ribs { .. } => true,
        }
    }
}

/// Null is as if it were left out.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn is_false(flag: &bool) -> bool {
    !flag
}
