//! What shims ask, and the legs and listening sockets that come of it.

use super::accept::{ACCEPT_BUDGET, went_away};
use super::passage::{Passage, passage};
use super::*;
use broker::io::Occupant;
use virtd_config::Instance;
use virtd_linux::foreign::Foreign;
use wire::shim::{Accepted, MAX_MESSAGE, PROTOCOL_VERSION, Request};

/// Requests taken from one channel in one turn.
const REQUEST_BUDGET: usize = 64;
/// Control channels at once; a daemon has a handful.
const MAX_CHANNELS: usize = 1024;
/// Most octets of filler: more than any send buffer holds, yet read away in one go.
const MAX_FILLER: u32 = 64 << 20;

/// The broker's end of a daemon's listening socket.
pub(super) struct Listening {
    pub(super) end: Foreign,
    pub(super) token: Token,
    pub(super) instance: InstanceId,
    pub(super) cookie: u64,
    pub(super) local: SocketAddr,
    pub(super) v6_only: bool,
    /// listen has been called.
    pub(super) active: bool,
}

pub(super) struct Channel {
    pub(super) fd: Foreign,
    pub(super) token: Token,
    /// SO_PEERCRED: who opened it.
    pub(super) uid: u32,
    /// Whose it is, and the process that said so.
    pub(super) instance: Option<(InstanceId, u32)>,
}

/// What is known of a leg when its instance connects.
struct Dialled {
    /// SO_COOKIE of the daemon's end.
    cookie: u64,
    /// Octets of filler that keep it from being writable.
    filler: usize,
    wanted: options::Wanted,
}

impl Driver {
    /// `i` is which of the shims' sockets.
    pub(super) fn accept_channels(&mut self, i: usize) {
        for _ in 0..ACCEPT_BUDGET {
            let Some((socket, _)) = self.shims.get(i) else { return };
            match shim::accept(socket) {
                Ok((fd, uid)) => {
                    self.accept_failing = false;
                    self.add_channel(fd, uid);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if went_away(&e) => {}
                Err(e) => return self.accept_failed("a shim's channel", &e),
            }
        }
        self.again.extend(self.shims.get(i).map(|(_, token)| *token));
    }

    /// Who may be no instance is told so over the channel itself, for its stderr. Nothing is
    /// received from it: it may have sent files.
    fn add_channel(&mut self, fd: Foreign, uid: u32) {
        if !is_ours(uid) && !self.users.contains(&Some(uid)) {
            let text = format!("user {uid} may run no instance: set user in its [[instance]] and restart virtd");
            refuse(&fd, libc::EPERM, &text);
            return self.refused("shim-refused", text);
        }
        if self.channels.len() >= MAX_CHANNELS {
            return self.refused("shim-refused", format!("{MAX_CHANNELS} channels are open"));
        }
        let id = self.fresh_id();
        match self.register(fd.as_raw_fd(), Source::Channel(id), false) {
            Ok(token) => drop(self.channels.insert(id, Channel { fd, token, uid, instance: None })),
            Err(e) => self.refused("shim-refused", format!("{e:#}")),
        }
    }

    /// A shim asks for something. By itself, as are answers: its pages of stack would otherwise lie
    /// between the loop and all else that it does.
    #[inline(never)]
    pub(super) fn channel_readable(&mut self, id: u64) {
        let mut buf = [0u8; MAX_MESSAGE];
        for _ in 0..REQUEST_BUDGET {
            let Some(channel) = self.channels.get(&id) else { return };
            match shim::receive(&channel.fd, &mut buf, &mut self.passed) {
                Ok((0, _)) => return self.channel_closed(id),
                Ok((n, fds)) => match Request::decode(buf.get(..n).unwrap_or_default()) {
                    Ok(request) => self.request(id, &request, fds),
                    Err(_) => {
                        let text = "a control channel carried what is no message of the shim";
                        self.refused("shim-refused", text.to_owned());
                        return self.channel_closed(id);
                    }
                },
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.channel_closed(id),
            }
        }
        self.again.extend(self.channels.get(&id).map(|c| c.token));
    }

    fn channel_closed(&mut self, id: u64) {
        let Some(channel) = self.channels.remove(&id) else { return };
        self.forget(channel.token, channel.fd.as_raw_fd());
        let Some((instance, pid)) = channel.instance else { return };
        self.broker.handle(self.now, Input::ChannelClosed { instance, pid });
        if !self.channels.values().any(|c| c.is_of(instance)) {
            self.broker.handle(self.now, Input::InstanceDetached { instance });
        }
    }

    fn request(&mut self, channel: u64, request: &Request<'_>, mut fds: Vec<Foreign>) {
        // What is passed must be what the request is about: anything else would sit in our loop and
        // behave unlike it.
        let Some(to) = fds.pop().filter(|to| sys::is_unix(to, libc::SOCK_SEQPACKET)) else {
            return self.refused("shim-refused", "a request came without a socket for its answer".to_owned());
        };
        let kind = match request {
            Request::Bind { .. } => Some(libc::SOCK_SEQPACKET),
            Request::Netlink { .. } => Some(libc::SOCK_SEQPACKET),
            Request::Connect { .. } => Some(libc::SOCK_STREAM),
            _ => None,
        };
        let end = fds.pop();
        if !fds.is_empty() || end.is_some() != kind.is_some() {
            return refuse(&to, libc::EINVAL, "the request carries too few or too many sockets");
        }
        if let (Some(kind), Some(end)) = (kind, &end)
            && !sys::is_unix(end, kind)
        {
            return refuse(&to, libc::EINVAL, "the passed socket is of the wrong kind");
        }
        if let Request::Hello { version, instance, pid, netns_cookie } = request {
            return self.hello(channel, &to, *version, instance, *pid, *netns_cookie);
        }
        let Some((instance, _)) = self.channels.get(&channel).and_then(|c| c.instance) else {
            return refuse(&to, libc::EPERM, "the channel has not said which instance it belongs to");
        };
        match (request, end) {
            (Request::Bind { socket, local, v6_only, options }, Some(end)) => {
                let bound = self.bind(end, instance, *socket, *local, *v6_only).and_then(|id| {
                    let set = options.iter().try_for_each(|o| self.listener_option(instance, id, &o));
                    set.inspect_err(|_| self.listening_event(id))
                });
                match bound {
                    Ok(()) => shim::reply(&to, &Reply::Done),
                    Err(errno) => refuse(&to, errno, ""),
                }
            }
            (Request::Listen { socket, .. }, _) => self.listen(&to, instance, *socket),
            (Request::MayConnect { remote }, _) => self.may_connect(&to, instance, *remote),
            // The shim redirects the BGP port without asking: this peer has another.
            (Request::Connect { remote, .. }, _) if passage(&self.config, *remote) == Passage::Refused => {
                self.refuse_passage(&to, instance, *remote);
            }
            (Request::Connect { socket, local, remote, filler_len, options }, Some(end)) => {
                let mut wanted = options::Wanted::default();
                for o in options.iter().filter(|o| options::matters(o.level, o.name)) {
                    wanted.set(o.level, o.name, o.value);
                }
                if let Err(errno) = self.connect_allowed(instance, *socket, *filler_len) {
                    return refuse(&to, errno, "");
                }
                let leg = Dialled { cookie: *socket, filler: *filler_len as usize, wanted };
                self.connect(to, end, instance, (*local, *remote), leg);
            }
            (Request::SetOption { socket, option }, _) => self.set_option(&to, instance, *socket, option),
            (Request::GetOption { socket, level, name, max_len }, _) => {
                self.get_option(&to, instance, *socket, (*level, *name), *max_len)
            }
            (Request::SocketError { socket }, _) => self.socket_error(&to, instance, *socket),
            (Request::Names { socket }, _) => self.names(&to, instance, *socket),
            (Request::Netlink { socket }, Some(end)) => self.netlink_open(&to, end, instance, *socket),
            (Request::NetlinkBind { socket, port_id, groups }, _) => {
                self.netlink_bind(&to, instance, *socket, *port_id, *groups);
            }
            (Request::NetlinkNames { socket }, _) => self.netlink_names(&to, instance, *socket),
            (Request::Bind { .. } | Request::Connect { .. } | Request::Hello { .. } | Request::Netlink { .. }, _) => {
                refuse(&to, libc::EINVAL, "the request lacks its socket");
            }
        }
    }

    /// Lets in at the shim's socket whom instances run as, or become.
    pub(super) fn share_socket(&mut self) {
        let users: Vec<u32> = self.users.iter().copied().flatten().filter(|uid| *uid != 0).collect();
        let path = self.config.shim_socket.clone();
        if let Err(e) = shim::share(&path, &users) {
            let text = format!(
                "{} cannot be opened to the users of instances one by one ({e}): name a group that they are in by shim_group",
                path.display()
            );
            self.warn("shim-refused", text);
        }
    }

    fn hello(&mut self, channel: u64, to: &Foreign, version: u16, name: &str, pid: u32, netns_cookie: u64) {
        let known = self.config.instances.iter().position(|i| !name.is_empty() && i.label() == name);
        let Some(c) = self.channels.get(&channel) else { return };
        let may = is_ours(c.uid) || known.is_some_and(|i| self.users.get(i) == Some(&Some(c.uid)));
        let refusal = match known {
            _ if version != PROTOCOL_VERSION => Some(format!(
                "libhvlibc.so speaks version {version}, virtd {PROTOCOL_VERSION}: install both from the same build"
            )),
            _ if !may => Some(format!(
                "user {} may not run instance {name:?}: set user in its [[instance]] and restart virtd",
                c.uid
            )),
            _ if netns_cookie != 0 && self.netns_cookie != 0 && netns_cookie != self.netns_cookie => Some(format!(
                "instance {name:?} runs in another network namespace than virtd: one virtd serves one namespace"
            )),
            None => {
                let names = self.config.instances.iter().map(Instance::label).filter(|n| !n.is_empty());
                let names: Vec<&str> = names.collect();
                Some(format!("no [[instance]] is named {name:?} (HV_INSTANCE); configured: {}", names.join(", ")))
            }
            Some(i) if c.instance.is_some_and(|(own, _)| usize::from(own.0) != i) => {
                Some(format!("a channel of another instance wanted to be {name:?}"))
            }
            Some(_) => None,
        };
        if let Some(text) = refusal {
            refuse(to, libc::EPERM, &text);
            self.refused("shim-refused", text);
            return self.channel_closed(channel);
        }
        let instance = InstanceId(known.unwrap_or_default() as u8);
        let before = self.channels.get_mut(&channel).and_then(|c| c.instance.replace((instance, pid)));
        self.broker.handle(self.now, Input::InstanceAttached { instance, pid });
        if let Some((instance, pid)) = before {
            // A channel speaks for one process; whoever says hello again on it takes it over.
            self.broker.handle(self.now, Input::ChannelClosed { instance, pid });
        }
        shim::reply(
            to,
            &Reply::Welcome {
                bgp_port: self.config.port,
                netlink: self.config.fib.is_some(),
                answer_ahead: self.config.fib.is_some_and(|f| f.answer_ahead),
            },
        );
    }

    /// The set of instances has changed.
    pub(super) fn seat(&mut self, instance: InstanceId, seat: Occupant) {
        let (i, taken) = match seat {
            Occupant::Taken(taken) => (usize::from(instance.0), Some(*taken)),
            Occupant::Empty => (usize::from(instance.0), None),
        };
        let places = self.config.instances.len().max(i + 1);
        self.config.instances.resize_with(places, Instance::default);
        self.users.resize(places, None);
        if taken.is_none() {
            self.cut_off(instance);
        }
        let user = taken.as_ref().and_then(virtd_linux::kinds::uid);
        let known = self.users.contains(&user);
        if let Some(place) = self.users.get_mut(i) {
            *place = user;
        }
        if !known {
            self.share_socket();
        }
        self.lines.master.seat(instance, taken.as_ref());
        if let Some(place) = self.config.instances.get_mut(i) {
            *place = taken.unwrap_or_default();
        }
    }

    /// Ends all that an instance has here: its processes, should any be left, find their sockets
    /// closed.
    fn cut_off(&mut self, instance: InstanceId) {
        let mine: Vec<u64> = self.channels.iter().filter(|(_, c)| c.is_of(instance)).map(|(id, _)| *id).collect();
        mine.into_iter().for_each(|id| self.channel_closed(id));
        let mine: Vec<ListenerId> =
            self.listening.iter().filter(|(_, l)| l.instance == instance).map(|(id, _)| *id).collect();
        mine.into_iter().for_each(|id| self.listening_event(id));
        let mine: Vec<NetlinkId> =
            self.netlinks.iter().filter(|(_, e)| e.instance == instance).map(|(id, _)| *id).collect();
        mine.into_iter().for_each(|id| self.drop_netlink(id));
        let mine: Vec<LegId> = self.legs.iter().filter(|(_, l)| l.instance == instance).map(|(id, _)| *id).collect();
        for leg in mine {
            self.drop_leg(leg);
            self.broker.handle(self.now, Input::LegClosed { leg });
        }
    }

    /// A cookie names one socket for as long as that lives: a second claim to it is a mistake, or
    /// worse.
    pub(super) fn is_free(&self, instance: InstanceId, cookie: u64) -> Result<(), Errno> {
        match self.named.get(&(instance, cookie)) {
            None | Some(Named::Failed(_)) if cookie != 0 => Ok(()),
            _ => Err(libc::EEXIST.into()),
        }
    }

    fn bind(
        &mut self,
        end: Foreign,
        instance: InstanceId,
        cookie: u64,
        local: SocketAddr,
        v6_only: bool,
    ) -> Result<ListenerId, Errno> {
        self.is_free(instance, cookie)?;
        if self.listening.values().filter(|l| l.instance == instance).count() >= MAX_LISTENING {
            return Err(libc::ENOBUFS.into());
        }
        let id = ListenerId(self.fresh_id());
        let token = self.register(end.as_raw_fd(), Source::Listening(id), false).map_err(|_| libc::ENOMEM)?;
        self.named.insert((instance, cookie), Named::Listening(id));
        self.listening.insert(id, Listening { end, token, instance, cookie, local, v6_only, active: false });
        Ok(id)
    }

    fn connect_allowed(&self, instance: InstanceId, cookie: u64, filler_len: u32) -> Result<(), Errno> {
        self.is_free(instance, cookie)?;
        if filler_len > MAX_FILLER {
            return Err(libc::EINVAL.into());
        }
        if self.legs.values().filter(|l| l.instance == instance).count() >= MAX_LEGS {
            return Err(libc::ENOBUFS.into());
        }
        Ok(())
    }

    fn listen(&mut self, to: &Foreign, instance: InstanceId, socket: u64) {
        let Some(Named::Listening(id)) = self.named.get(&(instance, socket)).copied() else {
            return refuse(to, libc::EINVAL, "");
        };
        let Some(l) = self.listening.get_mut(&id) else { return refuse(to, libc::EINVAL, "") };
        let (instance, local, v6_only) = (l.instance, l.local, l.v6_only);
        let begins = !std::mem::replace(&mut l.active, true);
        if begins {
            self.listen_as_they_do();
        }
        shim::reply(to, &Reply::Done);
        if begins {
            self.broker.handle(self.now, Input::Listening { instance, listener: id, local, v6_only });
        }
    }

    /// The daemon's end of a listening pair sends nothing: readable means closed.
    pub(super) fn listening_event(&mut self, id: ListenerId) {
        let Some(l) = self.listening.remove(&id) else { return };
        self.forget(l.token, l.end.as_raw_fd());
        self.named.remove(&(l.instance, l.cookie));
        self.drop_keys(l.instance, id);
        if l.active {
            self.listen_as_they_do();
            self.broker.handle(self.now, Input::ListenerClosed { listener: id });
        }
    }

    /// Reads what an instance has said to a peer on connections that it has now: a new one comes
    /// after that.
    fn hear_out(&mut self, instance: InstanceId, peer: IpAddr) {
        let to_peer = |l: &Leg| l.instance == instance && l.names.is_none_or(|(_, remote)| remote.ip() == peer);
        let legs: Vec<LegId> = self.legs.iter().filter(|(_, l)| to_peer(l)).map(|(id, _)| *id).collect();
        legs.into_iter().for_each(|leg| self.leg_readable(leg, true));
    }

    fn connect(
        &mut self,
        to: Foreign,
        end: Foreign,
        instance: InstanceId,
        (local, remote): (SocketAddr, SocketAddr),
        Dialled { cookie, filler, wanted }: Dialled,
    ) {
        self.hear_out(instance, remote.ip());
        let id = LegId(self.fresh_id());
        sys::widen(&end);
        let added = self.add_leg(id, end, |stream, token| Leg {
            connecting: Some(filler),
            wanted,
            ..Leg::new(stream, token, instance, cookie)
        });
        if added.is_err() {
            return refuse(&to, libc::ENOMEM, "");
        }
        // Without filler the daemon waits for the answer.
        match self.legs.get_mut(&id) {
            Some(leg) if filler == 0 => leg.waiting = Some(to),
            _ => refuse(&to, libc::EINPROGRESS, ""),
        }
        let local = (!local.ip().is_unspecified()).then_some(local);
        self.broker.handle(self.now, Input::LegDialed { leg: id, instance, peer: remote, local });
    }

    pub(super) fn leg_connected(&mut self, id: LegId, local: SocketAddr, peer: SocketAddr, conn: Option<ConnId>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        (leg.names, leg.conn) = (Some((local, peer)), conn);
        if let Some(n) = leg.connecting.take() {
            leg.stream.discard(n, &mut self.scratch, &mut self.passed);
        }
        if let Some(to) = leg.waiting.take() {
            shim::reply(&to, &Reply::Done);
        }
        self.again.push(leg.token);
        let wanted = std::mem::take(&mut leg.wanted);
        for (level, name, value) in wanted.iter() {
            let _ = self.apply(id, level, name, value);
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
            self.broker.handle(self.now, Input::LegClosed { leg: id });
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
        anyhow::ensure!(self.legs.values().filter(|l| l.instance == instance).count() < MAX_LEGS, "too many legs");
        sys::widen(&ours);
        sys::widen(&theirs);
        self.add_leg(id, ours, |stream, token| Leg {
            names: Some((local, peer)),
            conn,
            ..Leg::new(stream, token, instance, cookie)
        })?;
        let l = self.listening.get(&on).context("the listening socket is gone")?;
        shim::offer(&l.end, &Accepted { local, remote: peer }, &theirs)?;
        Ok(())
    }

    fn socket_error(&mut self, to: &Foreign, instance: InstanceId, socket: u64) {
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

    fn names(&mut self, to: &Foreign, instance: InstanceId, socket: u64) {
        match self.named.get(&(instance, socket)).copied() {
            Some(Named::Leg(id)) => match self.legs.get(&id).and_then(|l| l.names) {
                Some((local, remote)) => shim::reply(to, &Reply::Names { local, remote: Some(remote) }),
                None => refuse(to, libc::ENOTCONN, ""),
            },
            Some(Named::Listening(id)) => match self.listening.get(&id) {
                Some(l) => shim::reply(to, &Reply::Names { local: l.local, remote: None }),
                None => refuse(to, libc::ENOENT, ""),
            },
            Some(Named::Failed(_) | Named::Netlink(_)) => refuse(to, libc::ENOTCONN, ""),
            None => refuse(to, libc::ENOENT, ""),
        }
    }
}

impl Channel {
    fn is_of(&self, instance: InstanceId) -> bool {
        self.instance.is_some_and(|(of, _)| of == instance)
    }
}

pub(super) fn refuse(to: &Foreign, errno: impl Into<Errno>, text: &str) {
    shim::reply(to, &Reply::Error { errno: errno.into().get(), text });
}

/// Root's and virtd's own processes may be any instance.
fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::Uid::effective().as_raw()
}
