//! What another program takes over with `open = "native"`: the connections in pairs, with what is in
//! them and has not been sent, and the daemon's channels and listening sockets. The program before
//! writes it down where it ends; the files themselves stay open.
//!
//! After a death there is no such document, and the connections end: octets that were read from one
//! side and not yet written to the other are gone.

use super::*;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use virtd_linux::journal::take_named;
use virtd_master::twin::HANDOVER;

/// Its form. A program takes over what has its own.
const FORM: u32 = 1;

/// See the module's comment. It has no `Debug`: there may be MD5 keys in it.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    form: u32,
    channels: Vec<OpenChannel>,
    listening: Vec<Bound>,
    connections: Vec<Connection>,
}

/// A control channel that has said hello.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct OpenChannel {
    fd: RawFd,
    uid: u32,
    instance: u8,
    pid: u32,
}

/// A listening socket of the daemon's.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Bound {
    fd: RawFd,
    instance: u8,
    cookie: u64,
    local: SocketAddr,
    v6_only: bool,
    active: bool,
    /// MD5 keys that it wants on the real ones: option and value. Left out where the document only
    /// shows how it would be.
    keys: Vec<(i32, Vec<u8>)>,
}

/// A connection with a peer, and the leg behind it.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Connection {
    peer: RawFd,
    dialled: bool,
    local: SocketAddr,
    remote: SocketAddr,
    leg: RawFd,
    instance: u8,
    cookie: u64,
    /// As the daemon has them: its own address and the peer's.
    names: (SocketAddr, SocketAddr),
    /// Read from the daemon, and not taken by the peer's socket yet.
    to_peer: Vec<u8>,
    /// Read from the peer, and not taken by the leg's yet.
    to_leg: Vec<u8>,
}

impl Handover {
    /// Reads a document.
    ///
    /// # Errors
    /// It is of another form, or damaged.
    pub fn read(octets: &[u8]) -> Result<Handover> {
        #[derive(Deserialize)]
        struct Form {
            form: u32,
        }
        let Form { form } = serde_json::from_slice(octets).context("the connections cannot be read")?;
        anyhow::ensure!(form == FORM, "the connections are written down in form {form}, this program reads {FORM}");
        serde_json::from_slice(octets).context("the connections cannot be read")
    }

    /// The document.
    ///
    /// # Errors
    /// None that is known.
    pub fn octets(&self) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn fds(&self) -> impl Iterator<Item = RawFd> {
        let of_channels = self.channels.iter().map(|c| c.fd);
        let listening = self.listening.iter().map(|l| l.fd);
        of_channels.chain(listening).chain(self.connections.iter().flat_map(|c| [c.peer, c.leg]))
    }
}

/// What the program before has left, and the files that it names.
pub(super) struct Left {
    document: Handover,
    fds: HashMap<RawFd, OwnedFd>,
    /// Where it was read from: for the next one, should this one die before it goes on.
    _file: File,
}

impl Left {
    /// Takes it out of the files that were inherited, if it is there.
    pub(super) fn inherit(fds: &mut Vec<OwnedFd>) -> Option<Result<Left>> {
        let file = take_named(fds, HANDOVER)?;
        let octets = crate::upgrade::octets(&file);
        Some(octets.and_then(|octets| Handover::read(&octets)).map(|document| {
            let named: HashSet<RawFd> = document.fds().collect();
            let of_it = fds.extract_if(.., |fd| named.contains(&fd.as_raw_fd()));
            let fds = of_it.map(|fd| (fd.as_raw_fd(), fd)).collect();
            Left { document, fds, _file: file }
        }))
    }
}

impl Driver {
    /// What stands, with the daemon's keys or without.
    pub(super) fn handover(&self, with_keys: bool) -> Handover {
        let of_channel = |c: &Channel| {
            let (instance, pid) = c.instance?;
            Some(OpenChannel { fd: c.fd.as_raw_fd(), uid: c.uid, instance: instance.0, pid })
        };
        let bound = |(id, l): (&ListenerId, &Listening)| Bound {
            fd: l.end.as_raw_fd(),
            instance: l.instance.0,
            cookie: l.cookie,
            local: l.local,
            v6_only: l.v6_only,
            active: l.active,
            keys: if with_keys { self.keys.of_holder((l.instance.0, id.0)) } else { Vec::new() },
        };
        Handover {
            form: FORM,
            channels: self.channels.values().filter_map(of_channel).collect(),
            listening: self.listening.iter().map(bound).collect(),
            connections: self.legs.values().filter_map(|leg| self.connection(leg)).collect(),
        }
    }

    /// A leg with its connection, where both stand and neither is about to end.
    fn connection(&self, leg: &Leg) -> Option<Connection> {
        let peer = self.peers.get(&leg.conn?)?;
        let ends = peer.stream.closing.is_some() || leg.stream.closing.is_some();
        if ends || peer.dialling || leg.connecting.is_some() {
            return None;
        }
        let (dialled, local, remote) = peer.ends?;
        Some(Connection {
            peer: peer.stream.io.as_raw_fd(),
            dialled,
            local,
            remote,
            leg: leg.stream.io.as_raw_fd(),
            instance: leg.instance.0,
            cookie: leg.cookie,
            names: leg.names?,
            to_peer: peer.stream.unsent(),
            to_leg: leg.stream.unsent(),
        })
    }

    /// Writes it down for the next program; the files that this is to have.
    ///
    /// # Errors
    /// Memory is short: the connections end.
    pub(super) fn hand_over(&self) -> Result<Vec<RawFd>> {
        let document = self.handover(true);
        let mut file = File::from(memfd_create(HANDOVER, MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&document.octets()?)?;
        let mut fds: Vec<RawFd> = document.fds().collect();
        // Open until this process ends, which is next.
        fds.push(std::os::fd::IntoRawFd::into_raw_fd(file));
        Ok(fds)
    }

    /// Goes on with what the program before has left.
    pub(super) fn go_on_with(&mut self, left: Result<Left>) {
        let Left { document, mut fds, _file } = match left {
            Ok(left) => left,
            Err(e) => return self.alarm("not-taken-over", format!("the connections of the virtd before end: {e:#}")),
        };
        for c in document.channels {
            if let Some(fd) = fds.remove(&c.fd)
                && let Err(e) = self.go_on_with_channel(Foreign::new(fd), c.uid, (InstanceId(c.instance), c.pid))
            {
                self.alarm("not-taken-over", format!("a daemon has to find virtd again: {e:#}"));
            }
        }
        for l in document.listening {
            if let Some(fd) = fds.remove(&l.fd)
                && let Err(e) = self.go_on_listening(Foreign::new(fd), l)
            {
                self.alarm("not-taken-over", format!("a daemon does not listen any more: {e:#}"));
            }
        }
        let mut stand = 0;
        for c in document.connections {
            let Some((peer, leg)) = fds.remove(&c.peer).zip(fds.remove(&c.leg)) else { continue };
            let remote = c.remote;
            match self.go_on_with_connection(Socket::from(peer).into(), Foreign::new(leg), c) {
                Ok(()) => stand += 1,
                Err(e) => self.alarm("not-taken-over", format!("the connection with {remote} ends: {e:#}")),
            }
        }
        let text = format!("{stand} connections of the virtd before go on");
        self.tell(Event::new(self.now, "taken-over", Severity::Info, text));
    }

    fn go_on_with_channel(&mut self, fd: Foreign, uid: u32, of: (InstanceId, u32)) -> Result<()> {
        let id = self.fresh_id();
        let token = self.register(fd.as_raw_fd(), Source::Channel(id), false)?;
        self.channels.insert(id, Channel { fd, token, uid, instance: Some(of) });
        self.again.push(token);
        self.broker.handle(self.now, Input::InstanceAttached { instance: of.0, pid: of.1 });
        Ok(())
    }

    fn go_on_listening(&mut self, end: Foreign, l: Bound) -> Result<()> {
        let Bound { instance, cookie, local, v6_only, active, keys, .. } = l;
        let (id, instance) = (ListenerId(self.fresh_id()), InstanceId(instance));
        let token = self.register(end.as_raw_fd(), Source::Listening(id), false)?;
        self.named.insert((instance, cookie), Named::Listening(id));
        self.listening.insert(id, Listening { end, token, instance, cookie, local, v6_only, active });
        for (name, value) in &keys {
            let option = wire::shim::SocketOption { level: libc::IPPROTO_TCP, name: *name, value };
            self.listener_option(instance, id, &option).map_err(|e| std::io::Error::from_raw_os_error(e.get()))?;
        }
        if active {
            self.listen_as_they_do();
            self.broker.handle(self.now, Input::Listening { instance, listener: id, local, v6_only });
        }
        Ok(())
    }

    fn go_on_with_connection(&mut self, peer: std::net::TcpStream, end: Foreign, c: Connection) -> Result<()> {
        let Connection { dialled, local, remote, cookie, names, to_peer, to_leg, .. } = c;
        let (conn, leg, instance) = (ConnId(self.fresh_id()), LegId(self.fresh_id()), InstanceId(c.instance));
        self.add_peer(conn, peer, false)?;
        let added = self.add_leg(leg, end, |stream, token| Leg {
            names: Some(names),
            conn: Some(conn),
            ..Leg::new(stream, token, instance, cookie)
        });
        if let Err(e) = added {
            self.drop_peer(conn);
            return Err(e);
        }
        if let Some(p) = self.peers.get_mut(&conn) {
            p.ends = Some((dialled, local, remote));
            for (instance, option, value) in self.keys.of_peer(remote.ip()) {
                p.agreed.set(instance, libc::IPPROTO_TCP, option, value);
            }
            self.again.push(p.token);
        }
        self.again.extend(self.legs.get(&leg).map(|l| l.token));
        self.broker.go_on(conn, leg, remote);
        self.carry_out(Output::SendPeer { conn, bytes: to_peer.into() });
        self.carry_out(Output::SendLeg { leg, bytes: to_leg.into() });
        Ok(())
    }
}
