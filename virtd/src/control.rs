//! The control socket: what virtctl talks to. AF_UNIX stream, one JSON object a line in both
//! directions.
//!
//! [`virtd_api`] has the requests and the answers. Questions about the core travel to the driver's
//! loop as [`ControlRequest`]s over a bounded channel and wake it; events come from the event log
//! without the core's help. Each client has a thread; clients, lines and waits are bounded
//! ([`clients`]). Every request goes with who asks (SO_PEERCRED). A socket for asking only refuses
//! what changes something.

mod clients;
mod ribs;
mod upgrade;

use crate::state;
use crate::upgrade::WantsImage;
use crate::worker::Master;
use anyhow::{Context, bail};
use broker::event;
use broker::{Answer, Asker, Reply};
use clients::{Asked, Clients, Connection, Place, Requests};
pub use clients::{MAX_CLIENTS, MAX_FOLLOWERS, MAX_REQUEST};
use crossbeam_channel::{Receiver, Sender, TrySendError};
use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr};
use nix::unistd::{Gid, Group};
pub use ribs::{Line, Word, line};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use virtd_api::{COMMANDS, Done, Followed, Refused, Request, Status, Upgrade, Worker};
use virtd_config::Config;
use virtd_linux::bypass::Seen;
use virtd_linux::eventlog::EventLog;
use virtd_linux::kernel::leftover::{self, Flushed};

/// Requests waiting for the driver: one per client.
const QUEUE: usize = MAX_CLIENTS;
/// A client that neither asks nor reads for this long is closed.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer of the core may take: its loop never rests longer than one batch of work.
const CORE_PATIENCE: Duration = Duration::from_secs(10);
/// How often a follower that hears nothing is checked for having gone.
const FOLLOW_CHECK: Duration = Duration::from_millis(500);
/// Kinds of events that are named where one is asked for that there is not.
const NEAR_KINDS: usize = 4;
/// Events answered unless `n` says otherwise.
const DEFAULT_EVENTS: u64 = 20;

/// A question for the core. The driver takes it off the channel, asks, and sends the answer.
#[derive(Debug)]
pub struct ControlRequest {
    /// What is asked.
    pub request: Request,
    /// Who asks; `None` for virtd itself.
    pub by: Option<Asker>,
    /// The configuration to change to, where that is what is asked.
    pub config: Option<Box<Config>>,
    /// Takes one answer and never blocks: it has room for it.
    pub reply: Sender<Reply>,
}

/// Where the control threads put requests for the driver.
#[derive(Clone)]
pub struct ControlQueue {
    requests: Sender<ControlRequest>,
    waker: Option<Arc<mio::Waker>>,
    /// Who reads the configuration again; held by one reload at a time, so that the master knows
    /// which configuration the places are of that it hears of.
    reloader: Option<Arc<Mutex<Master>>>,
    /// For who asks for the status.
    worker: Option<Worker>,
    /// The file of what outlasts a restart. Whoever changes that has it alone until it is written.
    state: Option<Arc<Mutex<PathBuf>>>,
    /// Where the loop is asked for an image of the sessions.
    images: Option<Sender<WantsImage>>,
    /// What goes past virtd.
    seen: Seen,
    /// The line of those who read the routing tables.
    ribs: Option<Line>,
}

/// The two ends of the way from the control socket to the driver; every request wakes `waker`.
pub fn queue(waker: Option<Arc<mio::Waker>>) -> (ControlQueue, Receiver<ControlRequest>) {
    let (requests, receiver) = crossbeam_channel::bounded(QUEUE);
    let seen = Seen::default();
    let queue =
        ControlQueue { requests, waker, reloader: None, worker: None, state: None, images: None, seen, ribs: None };
    (queue, receiver)
}

impl ControlQueue {
    /// With a configuration that can be read again.
    #[must_use]
    pub fn with_reload(self, master: Master) -> ControlQueue {
        ControlQueue { reloader: Some(Arc::new(Mutex::new(master))), ..self }
    }

    /// With a word on the process that this is.
    #[must_use]
    pub fn with_worker(self, worker: Worker) -> ControlQueue {
        ControlQueue { worker: Some(worker), ..self }
    }

    /// With a word on what goes past virtd.
    #[must_use]
    pub fn with_seen(self, seen: Seen) -> ControlQueue {
        ControlQueue { seen, ..self }
    }

    /// With a line for those who read the routing tables.
    #[must_use]
    pub fn with_readers(self, line: Line) -> ControlQueue {
        ControlQueue { ribs: Some(line), ..self }
    }

    /// With a file for what outlasts a restart.
    #[must_use]
    pub fn with_state(self, path: PathBuf) -> ControlQueue {
        ControlQueue { state: Some(Arc::new(Mutex::new(path))), ..self }
    }

    /// Asks for what outlasts a restart, and writes it down before that is answered.
    fn ask_and_keep(&self, request: Request, by: Asker) -> Reply {
        let Some(state) = &self.state else { return self.ask(request, by) };
        let path = state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answered = self.ask(request, by)?;
        if let Answer::Decided { done: Done { done, .. }, kept } = &mut answered
            && let Err(e) = state::write(&path, kept)
        {
            let file = path.display();
            *done = format!("{done}, but {file} cannot be written ({e}): a restart of virtd will not know of it");
            log::warn!("{done}");
        }
        Ok(answered)
    }

    /// Has the master read the configuration again, while the thread that asks waits, and the core
    /// become what it says, or with `dry_run` say what it would do.
    ///
    /// # Errors
    /// There is something wrong with the file, the core does not want it, or does not answer.
    pub fn reload(&self, dry_run: bool, by: Option<Asker>) -> Reply {
        let reloader = self.reloader.as_ref().ok_or("there is no file to read again")?;
        let master = reloader.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, config) = master.read(dry_run).map_err(|e| format!("{e}\nnothing has changed"))?;
        let answer = self.send(Request::Reload { dry_run }, by, Some(Box::new(config)));
        if !dry_run {
            master.adopted(id, answer.is_ok());
        }
        answer
    }

    /// Asks the core and waits for its answer.
    fn ask(&self, request: Request, by: Asker) -> Reply {
        self.send(request, Some(by), None)
    }

    fn wake(&self) -> Result<(), String> {
        match self.waker.as_ref().map(|w| w.wake()) {
            Some(Err(e)) => Err(format!("the driver cannot be woken: {e}")),
            _ => Ok(()),
        }
    }

    fn send(&self, request: Request, by: Option<Asker>, config: Option<Box<Config>>) -> Reply {
        let (reply, answer) = crossbeam_channel::bounded(1);
        match self.requests.try_send(ControlRequest { request, by, config, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err("virtd is busy: too many requests wait already".to_owned()),
            Err(TrySendError::Disconnected(_)) => return Err("virtd is shutting down".to_owned()),
        }
        self.wake()?;
        answer.recv_timeout(CORE_PATIENCE).unwrap_or_else(|e| {
            Err(match e {
                crossbeam_channel::RecvTimeoutError::Timeout => {
                    format!("no answer within {} s: virtd is too busy or stuck", CORE_PATIENCE.as_secs())
                }
                crossbeam_channel::RecvTimeoutError::Disconnected => "virtd is shutting down".to_owned(),
            })
        })
    }
}

/// The listening socket; its file goes when this does.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    read_only: bool,
}

impl ControlSocket {
    /// Listens on `path` with these permissions; `group` owns it where one is named. A socket file
    /// that nobody listens on any more is replaced, a living one is an error: another virtd runs.
    pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> anyhow::Result<ControlSocket> {
        let gid = group.map(|g| group_id("control_group", g)).transpose()?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {} for the control socket", dir.display()))?;
        }
        remove_stale(path)?;
        let listener = listen_private(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let socket = ControlSocket { listener, path: path.to_owned(), read_only: false };
        if let Some(gid) = gid {
            nix::unistd::chown(path, None, Some(gid))
                .with_context(|| format!("cannot give {} to group {}", path.display(), group.unwrap_or_default()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok(socket)
    }

    /// Only for asking.
    #[must_use]
    pub fn read_only(self) -> ControlSocket {
        ControlSocket { read_only: true, ..self }
    }

    /// Starts the accepting thread, which starts one for each client. They live as long as the
    /// process.
    pub fn serve(self, queue: ControlQueue, log: EventLog) -> io::Result<ControlGuard> {
        let guard = ControlGuard { path: self.path.clone() };
        let service = Arc::new(Service { queue, log, read_only: self.read_only });
        std::thread::Builder::new().name("control".into()).spawn(move || accept_loop(&self.listener, &service))?;
        Ok(guard)
    }
}

/// Removes the socket's file when virtd ends.
#[derive(Debug)]
pub struct ControlGuard {
    path: PathBuf,
}

impl Drop for ControlGuard {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The number of the group that `key` names.
pub(crate) fn group_id(key: &str, name: &str) -> anyhow::Result<Gid> {
    match Group::from_name(name).with_context(|| format!("cannot look up group {name}"))? {
        Some(group) => Ok(group.gid),
        None => bail!("{key}: there is no group {name:?} on this system; create it with `groupadd {name}`"),
    }
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        bail!(
            "{} exists and is not a socket; it is left alone: remove it or name another control_socket",
            path.display()
        );
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another virtd listens on {}; stop it, or name another control_socket", path.display());
    }
    fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {}", path.display()))
}

/// Nobody but root can connect until the permissions are what the configuration says: the mode of a
/// bound socket's file is that of the socket before (Linux), so there is no moment at which it is
/// open to all.
fn listen_private(path: &Path) -> anyhow::Result<UnixListener> {
    use nix::sys::socket;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    nix::sys::stat::fchmod(&fd, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&fd, Backlog::new(i32::try_from(MAX_CLIENTS).unwrap_or(1))?)?;
    Ok(UnixListener::from(fd))
}

/// What a socket's clients are served with.
struct Service {
    queue: ControlQueue,
    log: EventLog,
    /// Who asks for a change is refused.
    read_only: bool,
}

fn accept_loop(listener: &UnixListener, service: &Arc<Service>) {
    let clients = Clients::default();
    loop {
        let connection = match listener.accept() {
            Ok((stream, _)) => Arc::new(Connection::new(stream)),
            Err(e) => {
                // Out of descriptors, most likely: wait for some to come back instead of spinning.
                log::warn!("control socket: accept: {e}");
                std::thread::sleep(FOLLOW_CHECK);
                continue;
            }
        };
        let Some(place) = clients.take(&connection) else {
            let stream = connection.stream();
            let _ = stream.set_write_timeout(Some(FOLLOW_CHECK));
            let _ = refuse(stream, format!("{MAX_CLIENTS} clients are connected already"));
            continue;
        };
        let service = service.clone();
        let spawned = std::thread::Builder::new().name("control-client".into()).spawn(move || {
            if let Err(e) = client(connection.stream(), &place, &service) {
                log::debug!("control client: {e}");
            }
        });
        if let Err(e) = spawned {
            log::warn!("control socket: no thread for a client: {e}");
        }
    }
}

/// Serves one client until it goes, says something too long, or bores us.
fn client(stream: &UnixStream, place: &Place, service: &Service) -> io::Result<()> {
    stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let user = asker(stream);
    let mut requests = Requests::new(stream);
    loop {
        let line = match requests.next()? {
            Asked::Request(line) => line,
            Asked::TooLong => return refuse(stream, format!("a request has at most {MAX_REQUEST} octets")),
            Asked::Over => return Ok(()),
        };
        place.is_answered();
        match request(&line) {
            Err(text) => refuse(stream, text)?,
            Ok(Request::Events { follow: on, n, kind }) => {
                let (n, kind) = (n.unwrap_or(DEFAULT_EVENTS), kind.as_deref());
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                if let Some(unknown) = kind.and_then(|kind| unknown_kind(kind, &service.log)) {
                    refuse(stream, unknown)?;
                } else if !on {
                    answer_events(stream, n, kind, &service.log)?;
                } else if place.may_follow() {
                    return follow(stream, n, kind, &service.log);
                } else {
                    return refuse(stream, too_many_follow());
                }
            }
            Ok(Request::Ribs { instances, peer }) => {
                return match place.may_follow() {
                    true => ribs::stream(stream, &service.queue, instances, peer),
                    false => refuse(stream, too_many_follow()),
                };
            }
            Ok(Request::Upgrade { to, dry_run }) => match service.try_program(to, dry_run, &user) {
                Err(text) => refuse(stream, text)?,
                Ok((id, tried)) => {
                    answer(stream, &tried)?;
                    if !dry_run {
                        service.queue.upgrade(id);
                    }
                }
            },
            Ok(request) => answer(stream, &json(service.ask(request, user.clone()))?)?,
        }
        place.may_ask();
    }
}

fn too_many_follow() -> String {
    format!("{MAX_FOLLOWERS} clients follow the events or read the tables already")
}

/// What a line asks, or why it asks nothing: read as a value first, so that this can be said.
///
/// # Errors
/// A sentence for whoever has sent it.
pub fn request(line: &[u8]) -> Result<Request, String> {
    let request: Value = serde_json::from_slice(line).map_err(|e| format!("not a JSON request: {e}"))?;
    let word = request.get("command").and_then(Value::as_str).ok_or("the request has no \"command\"")?;
    if !COMMANDS.contains(&word) {
        return Err(format!("unknown command {word:?}: expected one of {}", COMMANDS.join(", ")));
    }
    Request::deserialize(&request).map_err(|e| format!("command {word:?}: {e}"))
}

/// Who asks.
fn asker(stream: &UnixStream) -> Asker {
    let uid = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).ok().map(|c| c.uid());
    let known = uid.and_then(|uid| nix::unistd::User::from_uid(uid.into()).ok().flatten());
    Asker { uid, user: known.map_or_else(|| "nobody known".to_owned(), |u| u.name) }
}

impl Service {
    /// # Errors
    /// Nothing can be changed here.
    fn may_change(&self) -> Result<(), String> {
        match self.read_only {
            true => Err("this control socket is for asking only: changes go to control_socket".to_owned()),
            false => Ok(()),
        }
    }

    fn try_program(&self, to: Option<PathBuf>, dry_run: bool, by: &Asker) -> Result<(u64, Upgrade), String> {
        self.may_change()?;
        self.queue.try_program(to, dry_run, by)
    }

    fn ask(&self, request: Request, by: Asker) -> Reply {
        let changes = !request.only_reads();
        if changes {
            self.may_change()?;
        }
        match request {
            Request::Reload { dry_run } => self.queue.reload(dry_run, Some(by)),
            Request::Session { .. } | Request::Instance { .. } if changes => self.queue.ask_and_keep(request, by),
            _ => match self.queue.ask(request, by)? {
                Answer::Status(status) => {
                    let (event_log, worker) = (self.log.file(), self.queue.worker);
                    let (native_bgp, events_dropped) = (self.queue.seen.now(), Some(self.log.lost()));
                    let status = Status { event_log, worker, native_bgp, events_dropped, ..*status };
                    Ok(Answer::Status(Box::new(status)))
                }
                Answer::Flush { flush: protocol } => flush(protocol).map(Answer::Done),
                answered => Ok(answered),
            },
        }
    }
}

/// Does what the core allows: removing routes takes longer than its loop may.
fn flush(protocol: u8) -> Result<Done, String> {
    match leftover::flush(protocol).map_err(|e| format!("{e:#}"))? {
        Flushed { removed, left: 0 } => {
            let done = format!("{removed} routes of protocol {protocol} are removed");
            log::info!("virtctl fib flush: {done}");
            Ok(Done { done, removed: Some(removed), shut: None })
        }
        Flushed { removed, left } => Err(format!(
            "{removed} routes of protocol {protocol} are removed, {left} are still there: does another virtd write them?"
        )),
    }
}

/// One line; by way of a value its fields come in the order of the alphabet, and two answers can be
/// compared as text.
fn answer(mut stream: &UnixStream, answered: &impl Serialize) -> io::Result<()> {
    stream.write_all(format!("{}\n", serde_json::to_value(answered)?).as_bytes())
}

fn refuse(stream: &UnixStream, error: String) -> io::Result<()> {
    answer(stream, &Refused { error })
}

/// What a client gets.
///
/// # Errors
/// A path of the configuration is not UTF-8, which no path out of a file of TOML is.
pub fn json(reply: Reply) -> serde_json::Result<Value> {
    match reply {
        Ok(answered) => serde_json::to_value(answered),
        Err(error) => serde_json::to_value(Refused { error }),
    }
}

/// A kind that is asked for and that there is not: an answer of no events would say that nothing of
/// the kind has happened.
fn unknown_kind(kind: &str, log: &EventLog) -> Option<String> {
    if event::kinds().any(|known| known == kind) || !log.last(1, Some(kind)).is_empty() {
        return None;
    }
    let mut near: Vec<(f64, &str)> = event::kinds().map(|known| (strsim::jaro_winkler(kind, known), known)).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> =
        near.into_iter().take(NEAR_KINDS).filter(|(likeness, _)| *likeness > 0.7).map(|n| n.1).collect();
    let hint = match near.as_slice() {
        [] => String::new(),
        near => format!("; near it are {}", near.join(", ")),
    };
    Some(format!("there is no kind of event {kind:?}{hint}; docs/EVENTS.md, Events, has all"))
}

fn answer_events(mut stream: &UnixStream, n: usize, kind: Option<&str>, log: &EventLog) -> io::Result<()> {
    let events: Vec<_> = log.last(n, kind).into_iter().map(|r| r.json).collect();
    stream.write_all(format!("{{\"events\":[{}]}}\n", events.join(",")).as_bytes())
}

/// The last events and then every new one, until the client closes or stops reading.
fn follow(mut stream: &UnixStream, n: usize, kind: Option<&str>, log: &EventLog) -> io::Result<()> {
    let _follower = log.follower();
    // Taken before the past is read: what comes in between is sent with the new ones, not twice.
    let mut seq = log.last_seq();
    let past = log.last(usize::MAX, kind);
    let past: Vec<_> = past.into_iter().filter(|r| r.seq <= seq).collect();
    for record in past.iter().skip(past.len().saturating_sub(n)) {
        stream.write_all(format!("{}\n", record.json).as_bytes())?;
    }
    loop {
        let batch = log.after(seq, FOLLOW_CHECK);
        if batch.missed > 0 {
            answer(stream, &Followed::Missed { missed: batch.missed })?;
        }
        let mut lines = String::new();
        for record in &batch.records {
            seq = record.seq;
            if kind.is_none_or(|k| k == record.kind) {
                lines.push_str(&record.json);
                lines.push('\n');
            }
        }
        stream.write_all(lines.as_bytes())?;
        if batch.closed {
            return answer(stream, &Followed::Ended { ended: "virtd has ended".to_owned() });
        }
        if is_closed(stream) {
            return Ok(());
        }
    }
}

/// Whether the other end has gone: nothing is expected from a follower any more.
fn is_closed(stream: &UnixStream) -> bool {
    let mut octet = [0];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    matches!(nix::sys::socket::recv(stream.as_raw_fd(), &mut octet, flags), Ok(0) | Err(nix::Error::ECONNRESET))
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
