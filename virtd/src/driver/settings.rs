//! Socket options of the instances on virtd's real sockets.

use super::*;

impl<B: Broker> Driver<B> {
    /// Puts an option of one instance on the real socket of its leg.
    fn apply(&mut self, id: LegId, level: i32, name: i32, value: &[u8]) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let instance = leg.instance;
        let Some(conn) = leg.conn else { return leg.wanted.push((level, name, value.to_vec())) };
        let Some(p) = self.peers.get_mut(&conn) else { return };
        let text = match p.agreed.set(instance.0, level, name, value) {
            options::Outcome::Same => return,
            options::Outcome::Apply => match sys::set_option(&p.stream.io, level, name, value) {
                Ok(()) => return,
                Err(e) => format!(
                    "{} set by {} was not accepted: {e}",
                    options::name(level, name),
                    self.instance_name(instance)
                ),
            },
            options::Outcome::Differs(first) => format!(
                "{} and {} set {} differently for the same peer; what {} set stays: configure the same",
                self.instance_name(InstanceId(first)),
                self.instance_name(instance),
                options::name(level, name),
                self.instance_name(InstanceId(first)),
            ),
        };
        self.warn("option-differs", text);
    }

    fn set_option(&mut self, to: &OwnedFd, instance: InstanceId, socket: u64, option: &SocketOption<'_>) {
        match self.named.get(&(instance, socket)).copied() {
            Some(Named::Leg(id)) => {
                if options::matters(option.level, option.name) {
                    self.apply(id, option.level, option.name, option.value);
                }
                shim::reply(to, &Reply::Done);
            }
            Some(Named::Listening(id)) => {
                self.listener_option(instance, id, option);
                shim::reply(to, &Reply::Done);
            }
            Some(Named::Failed(_)) => shim::reply(to, &Reply::Done),
            None => refuse(to, libc::ENOENT, ""),
        }
    }

    /// Keys for peers go on virtd's own listening sockets, or the peer's SYN would be dropped. A key stays for as long as any
    /// listening socket of any instance wants it: one instance that takes its own away takes nothing from the others.
    fn listener_option(&mut self, instance: InstanceId, listener: ListenerId, option: &SocketOption<'_>) {
        if !options::matters_to_listener(option.level, option.name) {
            return;
        }
        match self.keys.set((instance.0, listener.0), option.name, option.value) {
            options::KeyChange::None => {}
            options::KeyChange::Set => self.put_key(option.name, option.value),
            options::KeyChange::Remove(value) => self.put_key(option.name, &value),
            options::KeyChange::Differs(other) => {
                let (a, b) = (self.instance_name(InstanceId(other)), self.instance_name(instance));
                self.warn(
                    "option-differs",
                    format!("{a} and {b} set different MD5 keys for one peer; the first stays: configure the same"),
                );
            }
        }
    }

    fn drop_keys(&mut self, instance: InstanceId, listener: ListenerId) {
        for (name, value) in self.keys.forget((instance.0, listener.0)) {
            self.put_key(name, &value);
        }
    }

    fn put_key(&mut self, name: i32, value: &[u8]) {
        let family = options::key_family(value);
        let mut failed = None;
        for (socket, ip) in self.listeners.iter().zip(&self.config.listen) {
            let ours = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            if family == Some(ours)
                && let Err(e) = sys::set_option(socket, libc::IPPROTO_TCP, name, value)
                && e.raw_os_error() != Some(libc::ENOENT)
            {
                failed = Some(e);
            }
        }
        if let Some(e) = failed {
            self.warn("option-failed", format!("an MD5 key was not accepted by the listening socket: {e}"));
        }
    }

    fn get_option(&mut self, to: &OwnedFd, instance: InstanceId, socket: u64, level: i32, name: i32, max_len: u32) {
        let conn = match self.named.get(&(instance, socket)) {
            Some(Named::Leg(id)) => self.legs.get(id).and_then(|l| l.conn),
            _ => None,
        };
        if !options::may_read(level, name) {
            return refuse(to, libc::ENOPROTOOPT, "");
        }
        let mut buf = [0u8; 1024];
        let room = buf.get_mut(..(max_len as usize).min(1024)).unwrap_or_default();
        let answer = match conn.and_then(|c| self.peers.get(&c)) {
            Some(p) => sys::option(&p.stream.io, level, name, room),
            // A listening socket, or a leg whose connection is still on its way: as one of ours would say.
            None => match self.listeners.first() {
                Some(l) => sys::option(l, level, name, room),
                None => Err(std::io::Error::from_raw_os_error(libc::ENOPROTOOPT)),
            },
        };
        match answer {
            Ok(value) => shim::reply(to, &Reply::Option { value }),
            Err(e) => refuse(to, e.raw_os_error().unwrap_or(libc::ENOPROTOOPT), ""),
        }
    }
}
