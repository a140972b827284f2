//! What master and worker say to each other.

use broker::adopt::Census;
use broker::event::{Event, Severity, kinds};
use broker::io::{Order, ProcessNews};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use virtd_linux::bypass::Holder;

/// Octets of a message at most: less than a socket of this kind takes, and room for a text of
/// [`MAX_TEXT`] with each octet escaped.
pub const MAX_MESSAGE: usize = 128 << 10;
/// Octets of a text in a message at most; what is longer is cut.
pub const MAX_TEXT: usize = 16 << 10;

/// From the worker to the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToMaster {
    /// A twin is about to be made. The file that comes with it is the other end of its line; the
    /// twin says its process id there.
    Twin,
    /// It serves: instances find its sockets.
    Ready,
    /// Its loop goes on. Said as often as [`Begin::beat_ms`] asks for.
    Turns,
    /// An instance is to be started or to end.
    Order {
        /// Which.
        index: u8,
        /// What is to be done.
        order: Order,
    },
    /// An instance is to begin its session with a neighbour anew.
    Neighbour {
        /// Which.
        index: u8,
        /// With whom.
        peer: IpAddr,
    },
    /// Whose an index is from now on.
    Seat {
        /// Which.
        index: u8,
        /// Nobody's, where it is `None`.
        who: Option<Who>,
    },
    /// The instance is not started with the others: an operator has said so.
    Rest {
        /// Which.
        index: u8,
    },
    /// Who holds this socket that goes past virtd?
    Holder {
        /// The socket's inode.
        inode: u32,
    },
    /// The configuration is to be read again.
    Read {
        /// Names the request.
        id: u64,
        /// Only to see what it would do.
        dry_run: bool,
    },
    /// What became of a configuration that was read.
    Adopted {
        /// Which request.
        id: u64,
        /// It is in force.
        taken: bool,
    },
    /// Another program is to be tried with the image that comes as a file.
    Try {
        /// Names the request.
        id: u64,
        /// The program; that of the master's own file where it is `None`.
        to: Option<PathBuf>,
        /// How much is in the image.
        census: Census,
    },
    /// The program that was tried is to take over.
    Upgrade {
        /// By which request it was tried.
        id: u64,
    },
    /// From a program that is being tried: it can go on.
    Tried {
        /// Its version.
        version: String,
        /// What it has found in the image.
        census: Census,
    },
}

/// A program of virtd's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// What it says of itself.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.path.display())
    }
}

/// An instance of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// Its name in the file.
    pub name: String,
    /// What HV_INSTANCE says: the name, or the name with a number behind it while two run.
    pub label: String,
}

/// From the master to the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToWorker {
    /// The first message; the configuration's text comes with it as a file.
    Begin(Begin),
    /// Something happened to the processes of an instance.
    News {
        /// Which.
        index: u8,
        /// What.
        news: ProcessNews,
    },
    /// Something that the operator is to know.
    Event(Told),
    /// The answer to [`ToMaster::Read`]; where it is not refused, the text comes with it as a file.
    Configuration {
        /// Which request.
        id: u64,
        /// What is wrong with it.
        refused: Option<String>,
    },
    /// The answer to [`ToMaster::Holder`].
    Holder {
        /// The socket's inode.
        inode: u32,
        /// Who holds it, as far as that can be found.
        holder: Option<Holder>,
    },
    /// An operator wants the configuration read again (SIGHUP).
    Reload,
    /// To a program that is being tried: the image of a journal comes as a file.
    Try,
    /// The answer to [`ToMaster::Try`].
    Tried {
        /// Which request.
        id: u64,
        /// What the worker is made of.
        from: Named,
        /// What the next one may be made of, or why not.
        to: Result<Named, String>,
    },
    /// It is to end where it stands: the next program takes over.
    Leave,
    /// The twin is gone: another one is to be made.
    MakeTwin,
    /// The instances are about to end, since virtd does: their routes stay in the kernel.
    Freeze,
    /// The instances have ended: it is to end, too.
    Stop,
}

/// How a worker begins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// Where the text was read from, for messages.
    pub file: PathBuf,
    /// The label of each of the configuration's instances, in its order.
    pub labels: Vec<String>,
    /// How many workers there were before.
    pub restarts: u32,
    /// What became of the last one.
    pub died: Option<Died>,
    /// The master.
    pub master: u32,
    /// How often the loop is to say that it goes on ([`ToMaster::Turns`]), in milliseconds. 0, which
    /// is left out, is never: a worker of a program that does not know of it can begin.
    #[serde(default, skip_serializing_if = "is_never")]
    pub beat_ms: u32,
}

fn is_never(beat_ms: &u32) -> bool {
    *beat_ms == 0
}

/// The end of a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Died {
    /// Its process id.
    pub pid: u32,
    /// How: signal or exit status, and where a core file is.
    pub how: String,
    /// How long it ran, in milliseconds.
    pub ran_ms: u64,
    /// How many have died within a minute, with this one.
    pub deaths: u32,
    /// How many of them by their own fault, not because somebody killed them (SIGKILL).
    pub faults: u32,
    /// This one did.
    #[serde(default)]
    pub by_fault: bool,
}

/// An event, as far as the master tells any.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// [`Event::kind`]: one of those that docs/EVENTS.md lists.
    pub kind: String,
    /// `info`, `warning` or `alarm`.
    pub severity: Severity,
    /// The instance it is about.
    pub instance: Option<String>,
    /// The session it is about.
    pub session: Option<String>,
    /// One sentence.
    pub text: String,
}

impl Told {
    /// An event about virtd itself.
    pub fn new(kind: &str, severity: Severity, text: String) -> Told {
        Told { kind: kind.to_owned(), severity, instance: None, session: None, text: fit(text) }
    }

    /// The event, as of `at_us`; `None` where there is no such kind.
    pub fn event(self, at_us: u64) -> Option<Event> {
        let kind = kinds().find(|kind| *kind == self.kind)?;
        let mut event = Event::new(at_us, kind, self.severity, self.text);
        (event.instance, event.session) = (self.instance, self.session);
        Some(event)
    }
}

impl From<Event> for Told {
    fn from(event: Event) -> Told {
        Told { instance: event.instance, session: event.session, ..Told::new(event.kind, event.severity, event.text) }
    }
}

/// A text that a message has room for.
pub fn fit(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" […]");
    }
    text
}

/// A message's octets.
///
/// # Errors
/// It is longer than [`MAX_MESSAGE`].
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let octets = serde_json::to_vec(message)?;
    if octets.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {} octets", octets.len())));
    }
    Ok(octets)
}

/// What octets say.
///
/// # Errors
/// They are no message, or too many.
pub fn decode<M: DeserializeOwned>(octets: &[u8]) -> io::Result<M> {
    if octets.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {} octets", octets.len())));
    }
    Ok(serde_json::from_slice(octets)?)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
