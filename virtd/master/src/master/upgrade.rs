//! Another program's worker takes the place of the worker that there is.
//!
//! ```text
//!  worker            master                          the program
//!    │── Try, image ──▶│── begins as a worker, Try ──────▶│  reads the image, writes it,
//!    │                 │◀───────────────── Tried ─────────│  reads that: all the same
//!    │◀──── Tried ─────│
//!    │──── Upgrade ───▶│
//!    │◀──── Leave ─────│
//!    ends              │── go ──▶ twin ──▶ the next worker ── Ready ──▶ the keeper ends
//! ```
//!
//! Where the next worker does not come to be ready, the former program takes over: out of the next
//! one's twin, or the keeper that its own twin has left.

use super::*;
use crate::message::Named;
use crate::program::{Program, own_file};
use broker::adopt::Census;

/// How long the worker may take to end; killed it is as good.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the next one may take to serve.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// The programs, and how far an upgrade has come.
pub(super) struct Upgrades {
    /// What workers are made of.
    pub program: Program,
    tried: Option<(u64, Program)>,
    under_way: Option<UnderWay>,
    /// The next worker is to be ready.
    pub ready_by: Option<Instant>,
}

struct UnderWay {
    former: Program,
    since: Instant,
    /// The former program's worker has ended.
    left: bool,
}

impl Upgrades {
    pub fn new(program: Program) -> Upgrades {
        Upgrades { program, tried: None, under_way: None, ready_by: None }
    }
}

impl Master {
    /// Tries a program, on a thread of its own.
    pub(super) fn attempt(&mut self, id: u64, to: Option<PathBuf>, census: Census, image: Option<OwnedFd>) {
        if let Err(why) = self.begin_attempt(id, to, census, image) {
            self.answer_attempt(id, Err(why));
        }
    }

    fn begin_attempt(
        &mut self,
        id: u64,
        to: Option<PathBuf>,
        census: Census,
        image: Option<OwnedFd>,
    ) -> Result<(), String> {
        self.may_upgrade()?;
        let image = image.ok_or("the worker has sent no image")?;
        let path = to.map_or_else(|| own_file().map_err(|e| e.to_string()), Ok)?;
        let program = Program::at(&path)?;
        let text = file_of(&self.current.text).map_err(|e| e.to_string())?;
        let labels = self.current.config.instances.iter().map(|i| i.label().to_owned()).collect();
        // A program that does not know of it is refused now, and not when it is to take over.
        let beat_ms = self.watchdog.beat_ms();
        let begin = ToWorker::Begin(Begin { file: self.file.clone(), labels, beat_ms, ..Begin::default() });
        let (life, happens, identity) = (self.life, self.happens.clone(), self.identity.clone());
        let attempt = move || {
            let outcome = program.tried(&begin, &text, &image, census, identity.as_ref());
            let _ = happens.send(Happening::Tried { life, id, outcome });
        };
        let started = std::thread::Builder::new().name("try".into()).spawn(attempt);
        started.map(drop).map_err(|e| format!("no thread to try the program: {e}"))
    }

    /// Why there can be no upgrade now.
    fn may_upgrade(&self) -> Result<(), String> {
        match (&self.upgrades.under_way, &self.twin, self.stage) {
            (_, _, Stage::Ends | Stage::Over) => Err("virtd is about to end".to_owned()),
            (Some(_), ..) => Err("another upgrade is under way".to_owned()),
            (None, Twin::Here { .. }, Stage::Runs) => Ok(()),
            (None, _, Stage::Runs) => Err("the worker has no twin now: its sessions would not outlast it".to_owned()),
        }
    }

    pub(super) fn was_tried(&mut self, life: u32, id: u64, outcome: Result<Program, String>) {
        if life != self.life {
            return;
        }
        let answer = outcome.map(|program| {
            let named = program.named().clone();
            self.upgrades.tried = Some((id, program));
            named
        });
        self.answer_attempt(id, answer);
    }

    fn answer_attempt(&mut self, id: u64, to: Result<Named, String>) {
        let from = self.upgrades.program.named().clone();
        self.send(ToWorker::Tried { id, from, to: to.map_err(fit) }, None);
    }

    /// What was tried was tried with another configuration.
    pub(super) fn forget_tried(&mut self) {
        self.upgrades.tried = None;
    }

    /// The program that was tried takes over.
    pub(super) fn upgrade(&mut self, id: u64) {
        let tried = self.upgrades.tried.take_if(|(tried, _)| *tried == id);
        let tried = tried.ok_or_else(|| "the program was not tried, or with another configuration".to_owned());
        let next = match self.may_upgrade().and(tried) {
            Ok((_, next)) => next,
            Err(why) => return self.upgrade_failed(&format!("there is no upgrade: {why}")),
        };
        let former = std::mem::replace(&mut self.upgrades.program, next);
        log::info!("virtd goes on as {} in the place of {}", self.upgrades.program.named(), former.named());
        self.upgrades.under_way = Some(UnderWay { former, since: Instant::now(), left: false });
        self.kill_at = Some(Instant::now() + LEAVE_PATIENCE);
        self.send(ToWorker::Leave, None);
    }

    fn upgrade_failed(&mut self, text: &str) {
        log::error!("{text}");
        self.tell(Event::new(0, "upgrade-failed", Severity::Alarm, text));
    }

    /// A worker has ended. Whether that belongs to an upgrade: then the next one is started at once.
    pub(super) fn ended_for_upgrade(&mut self, worker: &Worker, status: Option<&WaitStatus>) -> bool {
        let Some(under_way) = self.upgrades.under_way.as_mut() else { return false };
        if !std::mem::replace(&mut under_way.left, true) {
            self.upgrades.ready_by = Some(Instant::now() + READY_PATIENCE);
            return true;
        }
        let late = self.upgrades.ready_by.take().is_none();
        if let Some(UnderWay { former, .. }) = self.upgrades.under_way.take() {
            let failed = std::mem::replace(&mut self.upgrades.program, former);
            let (pid, how) = (worker.pid, process::how(status));
            let how = match late {
                true => format!("did not serve within {} s", READY_PATIENCE.as_secs()),
                false => format!("{how} before it served"),
            };
            let (failed, former) = (failed.named().clone(), self.upgrades.program.named().clone());
            self.upgrade_failed(&format!("the worker of {failed} (process {pid}) {how}: virtd goes on as {former}"));
        }
        true
    }

    /// The next worker has taken too long.
    pub(super) fn upgrade_is_late(&mut self) {
        if let Some(worker) = self.worker.as_ref().filter(|worker| !worker.ready) {
            log::error!("the worker (process {}) does not come to serve and is killed", worker.pid);
            let _ = kill(worker.pid, Signal::SIGKILL);
        }
    }

    /// A worker serves.
    pub(super) fn served(&mut self) {
        self.upgrades.ready_by = None;
        if let Some(UnderWay { former, since, .. }) = self.upgrades.under_way.take() {
            let (from, to, ms) = (former.named(), self.upgrades.program.named(), since.elapsed().as_millis());
            let text = format!(
                "virtd's worker is of {to} now, before of {from}; nobody served for {ms} ms, and no neighbour notices; the master \
                 stays what it is until virtd is restarted"
            );
            self.tell(Event::new(0, "upgraded", Severity::Info, text));
        }
    }
}
