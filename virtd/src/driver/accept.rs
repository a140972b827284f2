//! Accepting what peers and shims connect.

use super::*;

/// So many times a budget is read of a peer's last connection before its new one is taken: 4 MiB, and
/// what a socket holds is rarely more.
const HEARD_OUT: usize = 128;
/// Connections or channels accepted from one listening socket in one turn.
pub(super) const ACCEPT_BUDGET: usize = 64;
/// After accept failed for want of fds or memory it is tried again this much later.
const ACCEPT_RETRY_US: Micros = 100_000;

impl Driver {
    /// After a failure no edge may come for what waits already: all are asked again.
    pub(super) fn accept_late(&mut self) {
        if self.accept_again.is_some_and(|at| at <= self.now) {
            self.accept_again = None;
            self.again.extend(self.shims.iter().map(|(_, token)| *token));
            self.again.extend(self.listeners.iter().filter_map(|p| p.token));
        }
        if self.listen_again.is_some_and(|at| at <= self.now) {
            self.listen_as_they_do();
        }
    }

    /// Accept failed for want of something: told once, tried again by the clock.
    pub(super) fn accept_failed(&mut self, what: &str, e: &std::io::Error) {
        self.accept_again = Some(self.now + ACCEPT_RETRY_US);
        if !std::mem::replace(&mut self.accept_failing, true) {
            self.warn(
                "accept-failed",
                format!("cannot accept {what}: {e}; trying until it works (open files: ulimit -n)"),
            );
        }
    }

    /// Reads what a peer has said on connections that it has: a new one comes after that, and the end
    /// of the last one with it.
    fn hear_out_peer(&mut self, ip: IpAddr) {
        let is_its = |p: &Peer| p.ends.is_some_and(|(_, _, remote)| remote.ip() == ip);
        let conns: Vec<ConnId> = self.peers.iter().filter(|(_, p)| is_its(p)).map(|(conn, _)| *conn).collect();
        for conn in conns {
            for last in (0..HEARD_OUT).map(|n| n + 1 == HEARD_OUT) {
                let others = self.again.len();
                self.peer_event(conn, true, false, true);
                if self.again.len() == others {
                    break; // nothing is left
                }
                if !last {
                    self.again.truncate(others);
                }
            }
        }
    }

    pub(super) fn accept_peers(&mut self, i: usize) {
        for _ in 0..ACCEPT_BUDGET {
            let Some(listener) = self.listeners.get(i).and_then(|p| p.socket.as_ref()) else { return };
            match net::accept(listener) {
                Ok(_) if self.peers.len() >= MAX_CONNECTIONS => {
                    self.refused(
                        "accept-failed",
                        format!("a peer's connection was dropped: {MAX_CONNECTIONS} are open"),
                    );
                }
                Ok((stream, peer, local)) => {
                    self.accept_failing = false;
                    self.hear_out_peer(peer.ip());
                    let conn = ConnId(self.fresh_id());
                    if let Err(e) = self.add_peer(conn, stream, false) {
                        self.warn("accept-failed", format!("a connection from {peer} was dropped: {e:#}"));
                        continue;
                    }
                    if let Some(p) = self.peers.get_mut(&conn) {
                        for (instance, option, value) in self.keys.of_peer(peer.ip()) {
                            p.agreed.set(instance, libc::IPPROTO_TCP, option, value);
                        }
                    }
                    self.keep(conn, false, local, peer);
                    self.broker.handle(self.now, Input::PeerAccepted { conn, peer, local });
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // The connection went away while it waited.
                Err(e) if went_away(&e) => {}
                Err(e) => return self.accept_failed("a connection", &e),
            }
        }
        self.again.extend(self.listeners.get(i).and_then(|p| p.token));
    }
}

/// Errors of accept that are about the one connection that was to be accepted (accept(2)).
pub(super) fn went_away(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO | libc::ENOTCONN | libc::EINTR))
}
