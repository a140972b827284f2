//! Open files: virtd has one for each connection with a peer and for each leg, and the usual soft
//! limit of 1,024 is soon reached. The soft limit is for programs that use select(2); virtd does
//! not, and raises its own. What it starts has the one that it was given.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use std::sync::OnceLock;
use virtd_config::Config;

/// virtd's own: listening and kernel sockets, log, clients of the control sockets, and some to
/// spare.
const OWN: u64 = 128;
/// An instance's: channels, listening and route sockets, its output, and some to spare.
const EACH_INSTANCE: u64 = 32;

/// The soft limit that virtd was started with.
static GIVEN: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit to the hard one. A system that refuses leaves it as it is.
pub fn raise() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        let _ = GIVEN.set(soft);
    }
}

/// In a child, between fork and exec: what virtd raised for itself is not for others. FRR, say,
/// makes tables of that length.
///
/// # Errors
/// The kernel's.
pub fn restore() -> nix::Result<()> {
    match (GIVEN.get(), getrlimit(Resource::RLIMIT_NOFILE)?) {
        (Some(soft), (_, hard)) => setrlimit(Resource::RLIMIT_NOFILE, *soft, hard),
        (None, _) => Ok(()),
    }
}

/// Files that this configuration may have open, with every peer connected and every instance on
/// every session.
pub fn needed(config: &Config) -> u64 {
    let (peers, instances) = (config.peers.len() as u64, config.instances.len() as u64);
    OWN + EACH_INSTANCE * instances + peers * (1 + instances)
}

/// In words, where the hard limit is too low for the configuration.
pub fn shortage(config: &Config) -> Option<String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let needed = needed(config);
    (hard < needed).then(|| {
        format!(
            "{} peers and {} instances may need {needed} open files, and only {hard} are allowed here: raise the hard limit \
             (LimitNOFILE= of the service, ulimit -Hn), or sessions will fail to open",
            config.peers.len(),
            config.instances.len(),
        )
    })
}
