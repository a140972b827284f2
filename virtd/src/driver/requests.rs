//! What shims ask, and the legs and listening sockets that come of it.

use super::*;
use wire::shim::{Accepted, MAX_MESSAGE, PROTOCOL_VERSION, Request, SocketOption};

/// Requests taken from one channel in one turn.
const REQUEST_BUDGET: usize = 64;
/// Control channels at once; a daemon has a handful.
const MAX_CHANNELS: usize = 1024;

impl<B: Broker> Driver<B> {
    pub(super) fn accept_channels(&mut self) {
        loop {
            match shim::accept(&self.shims) {
                Ok((_, uid)) if !self.allowed_uids.contains(&uid) => {
                    let text =
                        format!("a process of user {uid} wanted to be an instance: name that user in its [[instance]]");
                    self.warn("shim-refused", text);
                }
                Ok(_) if self.channels.len() >= MAX_CHANNELS => {
                    self.warn("shim-refused", format!("{MAX_CHANNELS} channels are open"))
                }
                Ok((fd, _)) => {
                    let id = self.fresh_id();
                    match self.register(fd.as_raw_fd(), Source::Channel(id), false) {
                        Ok(token) => drop(self.channels.insert(id, Channel { fd, token, instance: None })),
                        Err(e) => self.warn("shim-refused", format!("{e:#}")),
                    }
                }
                Err(_) => return,
            }
        }
    }

    pub(super) fn channel_readable(&mut self, id: u64) {
        let mut buf = [0u8; MAX_MESSAGE];
        for _ in 0..REQUEST_BUDGET {
            let Some(channel) = self.channels.get(&id) else { return };
            match shim::receive(&channel.fd, &mut buf) {
                Ok((0, _)) => return self.channel_closed(id),
                Ok((n, fds)) => {
                    let bytes = buf.get(..n).unwrap_or_default();
                    match Request::decode(bytes) {
                        Ok(request) => self.request(id, &request, fds),
                        Err(_) => {
                            self.warn(
                                "shim-refused",
                                "a control channel carried what is no message of the shim".to_owned(),
                            );
                            return self.channel_closed(id);
                        }
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.channel_closed(id),
            }
        }
        self.again.extend(self.channels.get(&id).map(|c| c.token));
    }

    fn channel_closed(&mut self, id: u64) {
        let Some(channel) = self.channels.remove(&id) else { return };
        self.forget(channel.token, channel.fd.as_raw_fd());
        let Some(instance) = channel.instance else { return };
        if !self.channels.values().any(|c| c.instance == Some(instance)) {
            self.broker.handle(self.now, Input::InstanceDetached { instance }, &mut self.out);
        }
    }

    fn request(&mut self, channel: u64, request: &Request<'_>, mut fds: Vec<OwnedFd>) {
        let Some(to) = fds.pop() else { return };
        let end = fds.pop();
        if let Request::Hello { version, instance, pid, netns_cookie } = request {
            return self.hello(channel, &to, *version, instance, *pid, *netns_cookie);
        }
        let Some(instance) = self.channels.get(&channel).and_then(|c| c.instance) else {
            return refuse(&to, libc::EPERM, "the channel has not said which instance it belongs to");
        };
        // What is passed must be what the request is about: anything else would sit in our loop and behave unlike it.
        let wanted = match request {
            Request::Bind { .. } => Some(libc::SOCK_SEQPACKET),
            Request::Connect { .. } => Some(libc::SOCK_STREAM),
            _ => None,
        };
        if let (Some(kind), Some(end)) = (wanted, &end)
            && !sys::is_unix(end, kind)
        {
            return refuse(&to, libc::EINVAL, "the passed socket is of the wrong kind");
        }
        match (request, end) {
            (Request::Bind { socket, local, v6_only, options }, Some(end)) => {
                let id = ListenerId(self.fresh_id());
                match self.register(end.as_raw_fd(), Source::Listening(id), false) {
                    Ok(token) => {
                        let listening = Listening {
                            end,
                            token,
                            instance,
                            cookie: *socket,
                            local: *local,
                            v6_only: *v6_only,
                            active: false,
                        };
                        self.named.insert((instance, *socket), Named::Listening(id));
                        self.listening.insert(id, listening);
                        for o in options.iter() {
                            self.listener_option(instance, id, &o);
                        }
                        shim::reply(&to, &Reply::Done);
                    }
                    Err(_) => refuse(&to, libc::ENOMEM, ""),
                }
            }
            (Request::Listen { socket, .. }, _) => self.listen(&to, instance, *socket),
            (Request::Connect { socket, local, remote, filler_len, options }, Some(end)) => {
                let wanted = options.iter().filter(|o| options::matters(o.level, o.name));
                let wanted = wanted.map(|o| (o.level, o.name, o.value.to_vec())).collect();
                self.connect(to, end, instance, *socket, *local, *remote, *filler_len, wanted);
            }
            (Request::SetOption { socket, option }, _) => self.set_option(&to, instance, *socket, option),
            (Request::GetOption { socket, level, name, max_len }, _) => {
                self.get_option(&to, instance, *socket, *level, *name, *max_len)
            }
            (Request::SocketError { socket }, _) => self.socket_error(&to, instance, *socket),
            (Request::Names { socket }, _) => self.names(&to, instance, *socket),
            (Request::Bind { .. } | Request::Connect { .. } | Request::Hello { .. }, _) => {
                refuse(&to, libc::EINVAL, "the request lacks its socket");
            }
        }
    }

    fn hello(&mut self, channel: u64, to: &OwnedFd, version: u16, name: &str, pid: u32, netns_cookie: u64) {
        let known = self.config.instances.iter().position(|i| i.name == name);
        let refusal = match known {
            _ if version != PROTOCOL_VERSION => Some(format!(
                "libhvlibc.so speaks version {version}, virtd {PROTOCOL_VERSION}: install both from the same build"
            )),
            _ if netns_cookie != 0 && self.netns_cookie != 0 && netns_cookie != self.netns_cookie => Some(format!(
                "instance {name:?} runs in another network namespace than virtd: one virtd serves one namespace"
            )),
            None => {
                let names: Vec<&str> = self.config.instances.iter().map(|i| i.name.as_str()).collect();
                Some(format!("no [[instance]] is named {name:?} (HV_INSTANCE); configured: {}", names.join(", ")))
            }
            Some(_) => None,
        };
        if let Some(text) = refusal {
            refuse(to, libc::EPERM, &text);
            return self.warn("shim-refused", text);
        }
        let instance = InstanceId(known.unwrap_or_default() as u8);
        if let Some(c) = self.channels.get_mut(&channel) {
            c.instance = Some(instance);
        }
        self.broker.handle(self.now, Input::InstanceAttached { instance, pid }, &mut self.out);
        shim::reply(to, &Reply::Welcome { bgp_port: self.config.port });
    }

    fn listen(&mut self, to: &OwnedFd, instance: InstanceId, socket: u64) {
        let Some(Named::Listening(id)) = self.named.get(&(instance, socket)).copied() else {
            return refuse(to, libc::EINVAL, "");
        };
        let Some(l) = self.listening.get_mut(&id) else { return refuse(to, libc::EINVAL, "") };
        shim::reply(to, &Reply::Done);
        if !std::mem::replace(&mut l.active, true) {
            let (instance, local, v6_only) = (l.instance, l.local, l.v6_only);
            self.broker.handle(self.now, Input::Listening { instance, listener: id, local, v6_only }, &mut self.out);
        }
    }

    /// The daemon's end of a listening pair sends nothing: readable means closed.
    pub(super) fn listening_event(&mut self, id: ListenerId) {
        let Some(l) = self.listening.remove(&id) else { return };
        self.forget(l.token, l.end.as_raw_fd());
        self.named.remove(&(l.instance, l.cookie));
        self.drop_keys(l.instance, id);
        if l.active {
            self.broker.handle(self.now, Input::ListenerClosed { listener: id }, &mut self.out);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn connect(
        &mut self,
        to: OwnedFd,
        end: OwnedFd,
        instance: InstanceId,
        cookie: u64,
        local: SocketAddr,
        remote: SocketAddr,
        filler_len: u32,
        wanted: Vec<(i32, i32, Vec<u8>)>,
    ) {
        let id = LegId(self.fresh_id());
        let blocking = filler_len == 0;
        let (waiting, answer) = if blocking { (Some(to), None) } else { (None, Some(to)) };
        let added = self.add_leg(id, end, |stream, token| Leg {
            stream,
            token,
            instance,
            cookie,
            wants_write: false,
            connecting: Some(filler_len as usize),
            waiting,
            names: None,
            conn: None,
            wanted,
        });
        if let Some(to) = answer {
            match added {
                Ok(()) => shim::reply(&to, &Reply::Error { errno: libc::EINPROGRESS, text: "" }),
                Err(_) => return refuse(&to, libc::ENOMEM, ""),
            }
        } else if added.is_err() {
            return;
        }
        let local = (!local.ip().is_unspecified()).then_some(local);
        self.broker.handle(self.now, Input::LegDialed { leg: id, instance, peer: remote, local }, &mut self.out);
    }

    pub(super) fn leg_connected(&mut self, id: LegId, local: SocketAddr, peer: SocketAddr, conn: Option<ConnId>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        (leg.names, leg.conn) = (Some((local, peer)), conn);
        if let Some(n) = leg.connecting.take() {
            leg.stream.discard(n, &mut self.scratch);
        }
        if let Some(to) = leg.waiting.take() {
            shim::reply(&to, &Reply::Done);
        }
        self.again.push(leg.token);
        let wanted = std::mem::take(&mut leg.wanted);
        for (level, name, value) in &wanted {
            self.apply(id, *level, *name, value);
        }
    }

    pub(super) fn leg_refused(&mut self, id: LegId, errno: i32) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let (instance, cookie) = (leg.instance, leg.cookie);
        if let Some(to) = leg.waiting.take() {
            refuse(&to, errno, "");
        }
        self.drop_leg(id);
        self.named.insert((instance, cookie), Named::Failed(errno));
        self.failed.push_back((instance, cookie));
        if self.failed.len() > MAX_FAILED
            && let Some(old) = self.failed.pop_front()
        {
            self.named.remove(&old);
        }
    }

    pub(super) fn offer_leg(
        &mut self,
        id: LegId,
        listener: ListenerId,
        peer: SocketAddr,
        local: SocketAddr,
        conn: Option<ConnId>,
    ) {
        let offered = self.try_offer(id, listener, peer, local, conn);
        if offered.is_err() {
            self.drop_leg(id);
            self.broker.handle(self.now, Input::LegClosed { leg: id }, &mut self.out);
        }
    }

    fn try_offer(
        &mut self,
        id: LegId,
        on: ListenerId,
        peer: SocketAddr,
        local: SocketAddr,
        conn: Option<ConnId>,
    ) -> Result<()> {
        let (ours, theirs) = shim::leg_pair()?;
        let cookie = sys::cookie(&theirs);
        let l = self.listening.get(&on).context("the listening socket is gone")?;
        let instance = l.instance;
        self.add_leg(id, ours, |stream, token| Leg {
            stream,
            token,
            instance,
            cookie,
            wants_write: false,
            connecting: None,
            waiting: None,
            names: Some((local, peer)),
            conn,
            wanted: Vec::new(),
        })?;
        let l = self.listening.get(&on).context("the listening socket is gone")?;
        shim::offer(&l.end, &Accepted { local, remote: peer }, &theirs)?;
        Ok(())
    }

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

    fn instance_name(&self, i: InstanceId) -> String {
        self.config.instances.get(usize::from(i.0)).map_or_else(|| i.0.to_string(), |c| c.name.clone())
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
                let text =
                    format!("{a} and {b} set different MD5 keys for one peer; the first stays: configure the same");
                self.warn("option-differs", text);
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

    fn socket_error(&mut self, to: &OwnedFd, instance: InstanceId, socket: u64) {
        let errno = match self.named.get(&(instance, socket)).copied() {
            Some(Named::Leg(id)) if self.legs.get(&id).is_some_and(|l| l.connecting.is_some()) => libc::EINPROGRESS,
            Some(Named::Failed(errno)) => {
                self.named.remove(&(instance, socket));
                errno
            }
            _ => 0,
        };
        shim::reply(to, &Reply::Error { errno, text: "" });
    }

    fn names(&mut self, to: &OwnedFd, instance: InstanceId, socket: u64) {
        match self.named.get(&(instance, socket)).copied() {
            Some(Named::Leg(id)) => match self.legs.get(&id).and_then(|l| l.names) {
                Some((local, remote)) => shim::reply(to, &Reply::Names { local, remote: Some(remote) }),
                None => refuse(to, libc::ENOTCONN, ""),
            },
            Some(Named::Listening(id)) => match self.listening.get(&id) {
                Some(l) => shim::reply(to, &Reply::Names { local: l.local, remote: None }),
                None => refuse(to, libc::ENOENT, ""),
            },
            Some(Named::Failed(_)) => refuse(to, libc::ENOTCONN, ""),
            None => refuse(to, libc::ENOENT, ""),
        }
    }
}

fn refuse(to: &OwnedFd, errno: i32, text: &str) {
    shim::reply(to, &Reply::Error { errno, text });
}
