//! The worker's end of the link to the master: what the loop and the threads ask of it, and what it
//! says to them.

use crate::serve::since;
use broker::adopt::Census;
use broker::event::{Event, Severity};
use broker::io::{InstanceId, Order};
use crossbeam_channel::{Receiver, Sender, bounded};
use socket2::SockRef;
use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use virtd_config::{Config, Instance, parse};
use virtd_linux::bypass::Holder;
use virtd_linux::eventlog::EventSender;
use virtd_linux::foreign::Foreign;
use virtd_linux::instances::Report;
use virtd_linux::sys;
use virtd_master::link::{Link, Received, text_of};
use virtd_master::message::{Begin, Died, Named, ToMaster, ToWorker, Told, Who};
use virtd_master::twin::Twins;

/// What may wait for the master: an order and a place for each instance that there can be, and some
/// to spare.
const MAX_WAITING: usize = 1024;
/// How long the master may take to read the configuration: it has each daemon look at its own file.
const READ_PATIENCE: Duration = Duration::from_secs(120);
/// How long the master may take to try a program: longer than it waits for that itself.
const TRY_PATIENCE: Duration = Duration::from_secs(60);
/// How long the master may look for who holds a socket.
const HOLDER_PATIENCE: Duration = Duration::from_secs(2);
/// So many workers that die within a minute are an alarm of their own.
const MANY_DEATHS: u32 = 3;

/// How this process came to be the worker.
#[derive(Debug)]
pub struct Beginning {
    /// The link to the master.
    pub link: Arc<Link>,
    /// Makes its twins.
    pub twins: Arc<Twins>,
    /// What the master has said first.
    pub begin: Begin,
    /// What is in force.
    pub config: Config,
}

/// Waits for the master's first message.
///
/// # Errors
/// The master is gone, or says something else.
pub fn beginning(link: Arc<Link>, twins: Arc<Twins>) -> anyhow::Result<Beginning> {
    let (begin, config) = begun(&link)?;
    Ok(Beginning { link, twins, begin, config })
}

/// What the master says first, and the configuration.
pub(crate) fn begun(link: &Link) -> anyhow::Result<(Begin, Config)> {
    let (begin, file) = match link.receive() {
        Received::Message(ToWorker::Begin(begin), Some(file)) => (begin, file),
        other => anyhow::bail!("the master does not say how to begin: {other:?}"),
    };
    let mut config = parse::parse(&begin.file, &text_of(file)?)?;
    for (instance, label) in config.instances.iter_mut().zip(&begin.labels) {
        instance.label = (*label != instance.name).then(|| label.clone());
    }
    Ok((begin, config))
}

/// The line to the master. Nobody waits for it but who wants the configuration read.
#[derive(Clone, Debug)]
pub struct Master(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    messages: Sender<Message>,
    file: PathBuf,
    gone: AtomicBool,
    last_id: AtomicU64,
    /// Who waits for a configuration.
    readers: Mutex<HashMap<u64, Sender<Answer>>>,
    /// Who waits to be told who holds a socket, by inode.
    askers: Mutex<HashMap<u32, Sender<Option<Holder>>>>,
    /// Who waits for a program that is tried.
    triers: Mutex<HashMap<u64, Sender<Tried>>>,
}

/// With the file that goes along.
type Message = (ToMaster, Option<OwnedFd>);

/// A configuration's text as a file, or what is wrong with it.
type Answer = Result<OwnedFd, String>;

/// The program that the worker is made of, and the one that was tried, or why that cannot take over.
type Tried = (Named, Result<Named, String>);

/// The master is gone, or does not keep up.
#[derive(Clone, Copy, Debug)]
pub struct NotTold;

impl Master {
    /// Over this link; `file` is where the configuration was read from. Also what the thread that
    /// writes takes.
    pub fn new(file: &Path) -> (Master, Receiver<Message>) {
        let (messages, to_send) = bounded(MAX_WAITING);
        let shared = Shared {
            messages,
            file: file.to_owned(),
            gone: AtomicBool::default(),
            last_id: AtomicU64::default(),
            readers: Mutex::default(),
            askers: Mutex::default(),
            triers: Mutex::default(),
        };
        (Master(Arc::new(shared)), to_send)
    }

    /// Something is to be done with an instance. Never waits.
    ///
    /// # Errors
    /// It is not told.
    pub fn order(&self, instance: InstanceId, order: Order) -> Result<(), NotTold> {
        self.tell(ToMaster::Order { index: instance.0, order })
    }

    /// An instance is to begin its session with a neighbour anew. Never waits.
    ///
    /// # Errors
    /// It is not told.
    pub fn neighbour(&self, instance: InstanceId, peer: IpAddr) -> Result<(), NotTold> {
        self.tell(ToMaster::Neighbour { index: instance.0, peer })
    }

    /// A place is this instance's from now on, or nobody's. Never waits.
    pub fn seat(&self, instance: InstanceId, who: Option<&Instance>) {
        let who = who.map(|i| Who { name: i.name.clone(), label: i.label().to_owned() });
        if self.tell(ToMaster::Seat { index: instance.0, who }).is_err() {
            log::error!("the master is not told whose place {} is", instance.0);
        }
    }

    /// An instance is not started with the others. Never waits.
    pub fn rest(&self, i: usize) {
        let index = u8::try_from(i).unwrap_or(u8::MAX);
        if self.tell(ToMaster::Rest { index }).is_err() {
            log::error!("the master is not told that place {i} rests");
        }
    }

    /// It serves: instances find its sockets.
    pub fn ready(&self) {
        let _ = self.tell(ToMaster::Ready);
    }

    /// The loop goes on. Never waits: where the master does not keep up, it is told the next time.
    pub fn turns(&self) {
        let _ = self.tell(ToMaster::Turns);
    }

    /// Has the master read the configuration again, and check it. What is read is in force for the
    /// master when [`Master::adopted`] says so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self, dry_run: bool) -> Result<(u64, Config), String> {
        let id = self.0.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = bounded(1);
        self.readers().insert(id, answer);
        let told = self.tell(ToMaster::Read { id, dry_run });
        let answer =
            told.map_err(|NotTold| "the master is gone, or does not keep up: nobody can read the file".to_owned());
        let answer = answer.and_then(|()| {
            answered.recv_timeout(READ_PATIENCE).unwrap_or_else(|_| Err("the master does not answer".to_owned()))
        });
        self.readers().remove(&id);
        let text = answer.and_then(|file| text_of(file).map_err(|e| e.to_string()))?;
        Ok((id, parse::parse(&self.0.file, &text).map_err(|e| e.to_string())?))
    }

    /// Who holds the socket of this inode, as far as the master finds out soon.
    pub fn holder(&self, inode: u32) -> Option<Holder> {
        let (answer, answered) = bounded(1);
        self.askers().insert(inode, answer);
        let told = self.tell(ToMaster::Holder { inode });
        let holder = told.ok().and_then(|()| answered.recv_timeout(HOLDER_PATIENCE).ok().flatten());
        self.askers().remove(&inode);
        holder
    }

    fn askers(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Sender<Option<Holder>>>> {
        self.0.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of a configuration that was read.
    pub fn adopted(&self, id: u64, taken: bool) {
        if self.tell(ToMaster::Adopted { id, taken }).is_err() {
            log::error!("the master is not told what became of the configuration");
        }
    }

    /// Has the master try another program, with an image of the sessions. The number of this try, what
    /// the worker is made of, and that program.
    ///
    /// # Errors
    /// Why it cannot take over.
    pub fn attempt(&self, to: Option<PathBuf>, census: Census, image: OwnedFd) -> Result<(u64, Named, Named), String> {
        let id = self.0.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = bounded(1);
        self.triers().insert(id, answer);
        let told = self.tell_with(ToMaster::Try { id, to, census }, Some(image));
        let answer = told.map_err(|NotTold| "the master is gone, or does not keep up".to_owned());
        let answer = answer
            .and_then(|()| answered.recv_timeout(TRY_PATIENCE).map_err(|_| "the master does not answer".to_owned()));
        self.triers().remove(&id);
        let (from, to) = answer?;
        Ok((id, from, to?))
    }

    /// The program that was tried is to take over.
    pub fn upgrade(&self, id: u64) {
        if self.tell(ToMaster::Upgrade { id }).is_err() {
            log::error!("the master is not told that the program is to take over");
        }
    }

    /// Whether there is no master any more.
    pub fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    fn tell(&self, message: ToMaster) -> Result<(), NotTold> {
        self.tell_with(message, None)
    }

    fn tell_with(&self, message: ToMaster, file: Option<OwnedFd>) -> Result<(), NotTold> {
        if self.is_gone() {
            return Err(NotTold);
        }
        self.0.messages.try_send((message, file)).map_err(|_full_or_gone| NotTold)
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Sender<Answer>>> {
        self.0.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn triers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Sender<Tried>>> {
        self.0.triers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: u64, answer: Answer) {
        if let Some(reader) = self.readers().remove(&id) {
            let _ = reader.try_send(answer);
        }
    }

    fn has_gone(&self) {
        self.0.gone.store(true, Ordering::Release);
        self.readers().clear();
        self.triers().clear();
    }
}

/// Starts the thread that writes to the master. It ends with the master.
///
/// # Errors
/// There is no thread.
pub fn write(link: Arc<Link>, messages: Receiver<Message>) -> std::io::Result<()> {
    let write = move || {
        for (message, file) in messages {
            if link.send(&message, file.as_ref().map(AsFd::as_fd)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("to-master".into()).spawn(write).map(drop)
}

/// Whom the master's words are for.
pub struct Ears {
    /// See [`Master`].
    pub master: Master,
    /// The zero of [`Event::at_us`].
    pub start: Instant,
    /// The event log.
    pub events: EventSender,
    /// The core's loop takes these.
    pub reports: Sender<Report>,
    /// It is woken by this, once it is there.
    pub waker: Arc<OnceLock<Arc<mio::Waker>>>,
    /// Makes twins.
    pub twins: Arc<Twins>,
    /// The loop is to end.
    pub stop: Arc<AtomicBool>,
    /// Nothing is taken out of the kernel any more.
    pub frozen: Arc<AtomicBool>,
    /// The loop is to end where it stands: another program takes over.
    pub leave: Arc<AtomicBool>,
    /// Reads the configuration again, for nobody in particular.
    pub reload: Box<dyn Fn() + Send>,
    /// virtd ends by itself: that the link ends is no news.
    pub ending: Arc<AtomicBool>,
}

impl Ears {
    /// Starts the thread that hears the master. It ends with the master, or when told to stop.
    ///
    /// # Errors
    /// There is no thread.
    pub fn listen(self, link: Arc<Link>) -> std::io::Result<()> {
        let hear = move || {
            loop {
                match link.receive() {
                    Received::Message(ToWorker::Stop, _) => return self.stop(),
                    Received::Message(message, file) => self.hear(message, file),
                    Received::Wrong(e) => log::error!("the master says what is no message: {e}"),
                    Received::End => return self.gone(),
                }
            }
        };
        std::thread::Builder::new().name("from-master".into()).spawn(hear).map(drop)
    }

    fn hear(&self, message: ToWorker, file: Option<OwnedFd>) {
        match message {
            ToWorker::News { index, news } => {
                // Should the loop not keep up, waiting here harms nobody.
                if self.reports.send(Report { instance: InstanceId(index), news }).is_ok() {
                    self.wake();
                }
            }
            ToWorker::Event(told) => self.tell(told),
            ToWorker::Holder { inode, holder } => {
                if let Some(asker) = self.master.askers().remove(&inode) {
                    let _ = asker.try_send(holder);
                }
            }
            ToWorker::Configuration { id, refused: Some(why) } => self.master.answer(id, Err(why)),
            ToWorker::Configuration { id, refused: None } => {
                self.master.answer(id, file.ok_or_else(|| "the master has sent no text".to_owned()));
            }
            ToWorker::Tried { id, from, to } => {
                if let Some(trier) = self.master.triers().remove(&id) {
                    let _ = trier.try_send((from, to));
                }
            }
            ToWorker::Leave => {
                self.leave.store(true, Ordering::Release);
                self.wake();
            }
            ToWorker::Reload => (self.reload)(),
            ToWorker::MakeTwin => make_twin(&self.twins),
            ToWorker::Freeze => self.frozen.store(true, Ordering::Release),
            ToWorker::Begin(_) | ToWorker::Try | ToWorker::Stop => {}
        }
    }

    fn tell(&self, told: Told) {
        let kind = told.kind.clone();
        match told.event(since(self.start)) {
            Some(event) => self.events.send(event),
            None => log::error!("the master tells an event of no kind that there is: {kind:?}"),
        }
    }

    fn wake(&self) {
        if let Some(Err(e)) = self.waker.get().map(|waker| waker.wake()) {
            log::error!("the core cannot be woken: {e}");
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn gone(&self) {
        self.master.has_gone();
        if self.ending.load(Ordering::Acquire) {
            return;
        }
        let text = "the master is gone: sessions go on, but an instance that ends is not started again, and nothing survives \
                    the next fault; restart virtd";
        self.events.send(Event::new(since(self.start), "master-gone", Severity::Alarm, text));
    }
}

/// Closes what the worker before had open. What may be a file that another process has passed is
/// closed by nobody who has other things to do; what is in the way of a new socket is closed here.
pub fn let_go(inherited: Vec<OwnedFd>) {
    for fd in inherited {
        let socket = SockRef::from(&fd);
        let listens = socket.is_listener().unwrap_or(false);
        let internet = matches!(sys::domain(&fd), Some(libc::AF_INET | libc::AF_INET6));
        if listens || internet {
            // Whoever has set it, nobody is waited for.
            let _ = socket.set_linger(None);
            drop(fd);
        } else {
            drop(Foreign::new(fd));
        }
    }
}

/// Without a twin all goes on, and the next death costs the sessions.
pub fn make_twin(twins: &Twins) {
    if let Err(e) = twins.make() {
        log::error!("no twin can be made ({e}): should this process die, its sessions die with it");
    }
}

/// What the operator is to know of the worker before this one.
pub fn obituary(died: &Died, now: u64) -> Vec<Event> {
    let Died { pid, how, ran_ms, deaths, .. } = died;
    let this = std::process::id();
    let text = format!(
        "virtd's worker (process {pid}) {how}, after {:.1} s; process {this} is the worker now, the instances have gone on; what \
         became of the sessions says `taken-over`",
        *ran_ms as f64 / 1000.0
    );
    let mut events = vec![Event::new(now, "worker-died", Severity::Alarm, text)];
    if *deaths >= MANY_DEATHS {
        let text = format!(
            "virtd's worker has died {deaths} times within a minute: it is started again after ever longer waits, up to 5 s; \
             look at what is told with `worker-died`, and at the core files"
        );
        events.push(Event::new(now, "worker-dies", Severity::Alarm, text));
    }
    events
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
