//! Socket options of the instances on virtd's real sockets.

use super::requests::refuse;
use super::*;
use wire::shim::{MAX_MESSAGE, SocketOption};

/// Longest value that `Reply::Option` can carry: the message less its kind and length.
const MAX_VALUE: usize = MAX_MESSAGE - 3;

impl Driver {
    pub(super) fn instance_name(&self, i: InstanceId) -> String {
        self.config.instances.get(usize::from(i.0)).map_or_else(|| i.0.to_string(), |c| c.name.clone())
    }

    /// Puts an option of one instance on the real socket of its leg.
    ///
    /// # Errors
    /// ENOBUFS where it has set too many for a connection that does not stand yet.
    pub(super) fn apply(&mut self, id: LegId, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        let alone = self.config.instances.iter().filter(|i| !i.label().is_empty()).count() == 1;
        let Some(leg) = self.legs.get_mut(&id) else { return Ok(()) };
        let instance = leg.instance;
        let Some(conn) = leg.conn else {
            return if leg.wanted.set(level, name, value) { Ok(()) } else { Err(libc::ENOBUFS.into()) };
        };
        let Some(p) = self.peers.get_mut(&conn) else { return Ok(()) };
        if options::is_key(level, name) && !alone && !p.agreed.has_key(name, value) {
            if !options::removes_key(value) {
                let who = self.instance_name(instance);
                let text = format!(
                    "{who} sets an MD5 key on a connection that stands without one; it stays without: configure the same key in all instances"
                );
                self.warn("option-differs", text);
            }
            return Ok(());
        }
        let other = match p.agreed.set(instance.0, level, name, value) {
            options::Outcome::Same => return Ok(()),
            options::Outcome::Apply => {
                if let Err(e) = sys::set_option(&p.stream.io, level, name, value) {
                    let (option, who) = (options::name(level, name), self.instance_name(instance));
                    self.warn("option-failed", format!("{option} set by {who} was not accepted: {e}"));
                }
                return Ok(());
            }
            options::Outcome::Differs(other) => other,
        };
        let (stands, wish) = (p.agreed.standing(level, name), options::shown(level, name, value));
        let (first, who) = (self.instance_name(InstanceId(other)), self.instance_name(instance));
        let option = options::name(level, name);
        let text = format!(
            "{first} sets {option}{stands} and {who} sets it{wish} for the same peer; what {first} set stays: configure the same"
        );
        self.warn("option-differs", text);
        Ok(())
    }

    pub(super) fn set_option(&mut self, to: &Foreign, instance: InstanceId, socket: u64, option: &SocketOption<'_>) {
        let done = match self.named.get(&(instance, socket)).copied() {
            Some(Named::Leg(id)) if options::matters(option.level, option.name) => {
                self.apply(id, option.level, option.name, option.value)
            }
            Some(Named::Listening(id)) => self.listener_option(instance, id, option),
            Some(Named::Netlink(id)) if option.level == libc::SOL_NETLINK => {
                self.netlink_option(id, option.level, option.name, option.value)
            }
            Some(_) => Ok(()),
            None => Err(libc::ENOENT.into()),
        };
        match done {
            Ok(()) => shim::reply(to, &Reply::Done),
            Err(errno) => refuse(to, errno, ""),
        }
    }

    /// Keys for peers go on virtd's own listening sockets, or the peer's SYN would be dropped.
    ///
    /// # Errors
    /// What the kernel says, as setsockopt would; ENOBUFS where there are too many keys.
    pub(super) fn listener_option(
        &mut self,
        instance: InstanceId,
        listener: ListenerId,
        option: &SocketOption<'_>,
    ) -> Result<(), Errno> {
        if !options::is_key(option.level, option.name) {
            return Ok(());
        }
        match self.keys.set((instance.0, listener.0), option.name, option.value) {
            keys::Change::None => Ok(()),
            keys::Change::Put(name, value) => self.put_key(name, &value),
            keys::Change::Full => {
                let who = self.instance_name(instance);
                self.warn("option-failed", format!("an MD5 key of {who} was refused: there are too many"));
                Err(libc::ENOBUFS.into())
            }
            keys::Change::Differs(other) => {
                let (a, b) = (self.instance_name(InstanceId(other)), self.instance_name(instance));
                let text =
                    format!("{a} and {b} set different MD5 keys for one peer; that of {a} stays: configure the same");
                self.warn("option-differs", text);
                Ok(())
            }
        }
    }

    /// A listening socket is gone, and with it the keys that nobody else wants.
    pub(super) fn drop_keys(&mut self, instance: InstanceId, listener: ListenerId) {
        for change in self.keys.forget((instance.0, listener.0)) {
            if let keys::Change::Put(name, value) = change {
                let _ = self.put_key(name, &value);
            }
        }
    }

    /// # Errors
    /// errno; taking away what is not there is none.
    fn put_key(&mut self, name: i32, value: &[u8]) -> Result<(), Errno> {
        let peer = options::key_peer(name, value).map(|p| p.ip);
        let mut failed = None;
        for place in &self.listeners {
            if let Some(socket) = &place.socket
                && peer.is_some_and(|p| place.is_like(p))
                && let Err(e) = sys::set_option(socket, libc::IPPROTO_TCP, name, value)
                && e.raw_os_error() != Some(libc::ENOENT)
            {
                failed = Some(e);
            }
        }
        let Some(e) = failed else { return Ok(()) };
        let peer = peer.map_or_else(String::new, |p| format!(" for {p}"));
        self.warn("option-failed", format!("an MD5 key{peer} was not accepted by the listening socket: {e}"));
        Err(e.into())
    }

    pub(super) fn get_option(
        &mut self,
        to: &Foreign,
        instance: InstanceId,
        socket: u64,
        (level, name): (i32, i32),
        max_len: u32,
    ) {
        let conn = match self.named.get(&(instance, socket)) {
            None => return refuse(to, libc::ENOENT, ""),
            Some(Named::Netlink(id)) if level == libc::SOL_NETLINK => {
                let mut buf = [0u8; MAX_VALUE];
                let room = buf.get_mut(..(max_len as usize).min(MAX_VALUE)).unwrap_or_default();
                return match self.netlink_get_option(*id, level, name, room) {
                    Ok(value) => shim::reply(to, &Reply::Option { value }),
                    Err(errno) => refuse(to, errno, ""),
                };
            }
            Some(_) if !options::may_read(level, name) => return refuse(to, libc::ENOPROTOOPT, ""),
            Some(Named::Leg(id)) => self.legs.get(id).and_then(|l| l.conn),
            Some(_) => None,
        };
        let mut buf = [0u8; MAX_VALUE];
        let room = buf.get_mut(..(max_len as usize).min(MAX_VALUE)).unwrap_or_default();
        let answer =
            match (conn.and_then(|c| self.peers.get(&c)), self.listeners.iter().find_map(|p| p.socket.as_ref())) {
                (Some(p), _) => sys::option(&p.stream.io, level, name, room),
                // A listening socket, or a leg whose connection is still on its way: as one of ours
                // would say.
                (None, Some(l)) => sys::option(l, level, name, room),
                (None, None) => return refuse(to, libc::ENOPROTOOPT, ""),
            };
        match answer {
            Ok(value) => shim::reply(to, &Reply::Option { value }),
            Err(e) => refuse(to, e.raw_os_error().unwrap_or(libc::ENOPROTOOPT), ""),
        }
    }

    /// Puts what the dialling instance has set on a socket that is to be connected.
    ///
    /// # Errors
    /// Where an option that protects the connection is not taken: it must not go out without.
    pub(super) fn prepare(
        socket: &Socket,
        instance: InstanceId,
        wanted: &options::Wanted,
        failed: &mut Vec<String>,
    ) -> std::io::Result<options::Agreed> {
        let mut agreed = options::Agreed::default();
        for (level, name, value) in wanted.iter() {
            match sys::set_option(socket, level, name, value) {
                Ok(()) => drop(agreed.set(instance.0, level, name, value)),
                Err(e) => {
                    failed.push(format!("{}: {e}", options::name(level, name)));
                    if options::protects(level, name) {
                        return Err(e);
                    }
                }
            }
        }
        Ok(agreed)
    }
}
