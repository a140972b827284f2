//! virtd's own listening sockets: each address takes connections only while an instance listens
//! there, as on a host without virtd. Before, and after, a SYN is answered with RST.
//!
//! The configured addresses are bound from the start and keep the port: a socket that rests is
//! bound without SO_REUSEADDR, so that nobody else can have it. Where a configured wildcard rests
//! and instances listen on single addresses, those get sockets of their own.

use super::*;
use std::net::{IpAddr, Shutdown};

/// After an address could not be listened on it is tried again this much later: it may not be there
/// yet.
const LISTEN_RETRY_US: Micros = 1_000_000;

/// One of virtd's own listening sockets.
pub(super) struct Place {
    at: SocketAddr,
    /// `None`: nobody's, for the next address.
    pub(super) socket: Option<Socket>,
    /// While it listens.
    pub(super) token: Option<Token>,
    /// The configuration names it.
    stays: bool,
}

impl Place {
    /// Takes the port at a configured address.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn configured(at: SocketAddr) -> std::io::Result<Place> {
        // Whoever has the port already is found out by listening.
        let socket = net::listen(at)?;
        rest(&socket)?;
        Ok(Place { at, socket: Some(socket), token: None, stays: true })
    }

    /// Whether it is of this IP version.
    pub(super) fn is_like(&self, ip: IpAddr) -> bool {
        self.at.is_ipv4() == ip.is_ipv4()
    }
}

/// Listens no more, and keeps the port: Linux takes shutdown(2) of a listening socket as that.
fn rest(socket: &Socket) -> std::io::Result<()> {
    socket.shutdown(Shutdown::Read)?;
    socket.set_reuse_address(false)
}

/// Where virtd is to listen, port 0: `active` is where instances do, and whether an IPv6 wildcard
/// of theirs takes no IPv4.
fn wanted(configured: &[IpAddr], active: &[(SocketAddr, bool)]) -> Vec<SocketAddr> {
    let mut wanted: Vec<SocketAddr> = Vec::new();
    for ip in configured {
        let is_like = |l: &SocketAddr| l.ip().to_canonical().is_ipv4() == ip.is_ipv4();
        let takes_all =
            |(l, v6_only): &(SocketAddr, bool)| l.ip().is_unspecified() && (is_like(l) || (l.is_ipv6() && !v6_only));
        let single = active.iter().map(|(l, _)| l).filter(|l| is_like(l) && !l.ip().is_unspecified());
        match (active.iter().any(takes_all), ip.is_unspecified()) {
            (true, _) => wanted.push(SocketAddr::new(*ip, 0)),
            (false, true) => wanted.extend(single.map(|l| unmapped(*l))),
            (false, false) => wanted.extend(single.map(|l| unmapped(*l)).filter(|l| l.ip() == *ip)),
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// An IPv4 address as such, port 0.
fn unmapped(mut at: SocketAddr) -> SocketAddr {
    at.set_port(0);
    match at.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, 0),
        IpAddr::V6(_) => at,
    }
}

impl Driver {
    /// Listens where the instances do, and nowhere else.
    pub(super) fn listen_as_they_do(&mut self) {
        self.listen_again = None;
        let active: Vec<_> = self.listening.values().filter(|l| l.active).map(|l| (l.local, l.v6_only)).collect();
        let mut wanted = wanted(&self.config.listen, &active);
        wanted.iter_mut().for_each(|at| at.set_port(self.config.port));
        // First those that go: a wildcard cannot listen beside one of its addresses.
        for i in 0..self.listeners.len() {
            if self.listeners.get(i).is_some_and(|p| p.token.is_some() && !wanted.contains(&p.at)) {
                self.cease_to_listen(i);
            }
        }
        for at in wanted {
            if self.listeners.iter().any(|p| p.at == at && p.token.is_some()) {
                continue;
            }
            if let Err(e) = self.begin_to_listen(at) {
                self.listen_again = Some(self.now + LISTEN_RETRY_US);
                self.refused(
                    "listen-failed",
                    format!("cannot listen on {at}, where an instance does: {e:#}; trying until it works"),
                );
            }
        }
    }

    fn begin_to_listen(&mut self, at: SocketAddr) -> Result<()> {
        let i = match self.listeners.iter().position(|p| p.at == at && p.socket.is_some()) {
            Some(i) => {
                let socket = self.listeners.get(i).and_then(|p| p.socket.as_ref()).context("no socket")?;
                socket.set_reuse_address(true)?;
                socket.listen(net::BACKLOG)?;
                i
            }
            None => self.add_place(at)?,
        };
        let fd = self.listeners.get(i).and_then(|p| p.socket.as_ref()).context("no socket")?.as_raw_fd();
        let token = self.register(fd, Source::Listener(i), false)?;
        if let Some(p) = self.listeners.get_mut(i) {
            p.token = Some(token);
        }
        // What came before the registration makes no edge.
        self.again.push(token);
        Ok(())
    }

    /// A socket for a single address, beside a wildcard that rests and lets it.
    fn add_place(&mut self, at: SocketAddr) -> Result<usize> {
        let resting = |p: &&Place| p.stays && p.token.is_none() && p.is_like(at.ip());
        let let_in = |places: &[Place], yes: bool| {
            places.iter().filter(resting).filter_map(|p| p.socket.as_ref()).try_for_each(|s| s.set_reuse_address(yes))
        };
        let_in(&self.listeners, true)?;
        let socket = net::listen(at);
        let_in(&self.listeners, false)?;
        let socket = socket?;
        for (name, value) in self.keys.standing() {
            if options::key_peer(name, value).is_some_and(|p| p.ip.is_ipv4() == at.is_ipv4()) {
                sys::set_option(&socket, libc::IPPROTO_TCP, name, value)?;
            }
        }
        let place = Place { at, socket: Some(socket), token: None, stays: false };
        let free = self.listeners.iter().position(|p| p.socket.is_none());
        match free.and_then(|i| self.listeners.get_mut(i)) {
            Some(p) => *p = place,
            None => self.listeners.push(place),
        }
        Ok(free.unwrap_or(self.listeners.len() - 1))
    }

    fn cease_to_listen(&mut self, i: usize) {
        let Some(p) = self.listeners.get_mut(i) else { return };
        let Some((token, socket)) = p.token.take().zip(p.socket.as_ref()) else { return };
        let fd = socket.as_raw_fd();
        let ended = if p.stays { rest(socket) } else { Ok(()) };
        let (at, stays) = (p.at, p.stays);
        self.forget(token, fd);
        if !stays && let Some(p) = self.listeners.get_mut(i) {
            p.socket = None;
        }
        if let Err(e) = ended {
            self.warn("listen-failed", format!("cannot cease to listen on {at}: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(configured: &[&str], active: &[(&str, bool)]) -> Vec<String> {
        let ip = |text: &&str| text.parse::<IpAddr>().expect("an address");
        let configured: Vec<IpAddr> = configured.iter().map(ip).collect();
        let active: Vec<_> = active.iter().map(|(a, v6_only)| (SocketAddr::new(ip(a), 179), *v6_only)).collect();
        wanted(&configured, &active).iter().map(|at| at.ip().to_string()).collect()
    }

    #[test]
    fn virtd_listens_where_its_instances_do() {
        let all = ["0.0.0.0", "::"];
        assert!(of(&all, &[]).is_empty(), "nobody listens");
        assert_eq!(of(&all, &[("0.0.0.0", false)]), ["0.0.0.0"]);
        assert_eq!(of(&all, &[("::", true)]), ["::"]);
        assert_eq!(of(&all, &[("::", false)]), ["0.0.0.0", "::"], "it takes IPv4 as well");
        assert_eq!(of(&all, &[("192.0.2.1", false), ("2001:db8::1", false)]), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(of(&all, &[("192.0.2.1", false), ("0.0.0.0", false)]), ["0.0.0.0"], "the wildcard has it");
        assert_eq!(of(&all, &[("::ffff:192.0.2.1", false)]), ["192.0.2.1"]);
        let one = ["192.0.2.1"];
        assert_eq!(of(&one, &[("0.0.0.0", false)]), ["192.0.2.1"], "no further than configured");
        assert_eq!(of(&one, &[("192.0.2.1", false), ("192.0.2.2", false)]), ["192.0.2.1"]);
        assert!(of(&one, &[("192.0.2.2", false)]).is_empty());
        assert!(of(&one, &[("::", true)]).is_empty());
    }
}
