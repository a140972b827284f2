//! Which TCP connections of an instance are BGP sessions, which are its own business, and which
//! would be a way past virtd.
//!
//! | connect() to | port | is |
//! |---|---|---|
//! | a `[[peer]]`'s address | its `port` | redirected |
//! | | one of `native_ports` | the instance's own |
//! | | another | refused, and told |
//! | any other address | `port` of `[router]` | redirected; `accept_any` decides |
//! | | another | the instance's own |

use super::*;
use crate::driver::requests::refuse;

/// Refusals that are told at most until the configuration is read again: an instance that tries
/// every port does not fill the log.
const MAX_TOLD: usize = 1024;

/// What a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passage {
    /// A BGP session.
    Redirected,
    /// No BGP session.
    Native,
    /// It is to a peer, on a port that is not the peer's.
    Refused,
}

/// Which of them a connection to `remote` is.
pub(super) fn passage(config: &Config, remote: SocketAddr) -> Passage {
    let (ip, port) = (remote.ip().to_canonical(), remote.port());
    match config.peer(ip) {
        Some(_) if port == config.port_of(ip) => Passage::Redirected,
        Some(_) if config.native_ports.contains(&port) => Passage::Native,
        Some(_) => Passage::Refused,
        None if port == config.port => Passage::Redirected,
        None => Passage::Native,
    }
}

impl Driver {
    /// Answers `MayConnect`.
    pub(super) fn may_connect(&mut self, to: &Foreign, instance: InstanceId, remote: SocketAddr) {
        match passage(&self.config, remote) {
            Passage::Refused => self.refuse_passage(to, instance, remote),
            found => shim::reply(to, &Reply::Passage { redirected: found == Passage::Redirected }),
        }
    }

    /// Tells the daemon, and once the operator.
    pub(super) fn refuse_passage(&mut self, to: &Foreign, instance: InstanceId, remote: SocketAddr) {
        let (ip, port) = (remote.ip().to_canonical(), remote.port());
        let (who, theirs) = (self.instance_name(instance), self.config.port_of(ip));
        let text = format!(
            "{who} may not connect to port {port} of the peer {ip}, whose BGP port is {theirs}: set port in its [[peer]], or \
             list {port} in native_ports of [router] if it is no BGP session"
        );
        refuse(to, libc::ECONNREFUSED, &text);
        if self.told_passages.len() < MAX_TOLD && self.told_passages.insert((instance, ip, port)) {
            let event = Event::new(self.now, "connect-refused", Severity::Warning, text);
            self.tell(event.with_instance(&who).with_session(remote.ip().to_string()));
        }
    }

    /// A reload has changed the peers or their ports.
    pub(super) fn reload_passages(&mut self, peers: Vec<virtd_config::Peer>, native_ports: Vec<u16>) {
        (self.config.peers, self.config.native_ports) = (peers, native_ports);
        self.lines.ports.set(&self.config);
        self.told_passages.clear();
    }
}

#[cfg(test)]
#[path = "passage_tests.rs"]
mod tests;
