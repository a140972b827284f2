//! One peer's table, read from virtd when somebody asks for it.
//!
//! ```text
//! virtd ──ribs of one peer, over the control socket── Reading ── Table ── kept for KEPT ── viewers
//! ```
//! One table is read at a time, however many want to see them, and [`MAX_TABLES`] are there at once,
//! those that are still being sent among them. A table is compact: each route once, as the octets that
//! it is told with, however many prefixes have it.

use crate::frames::Frames;
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use virtd_api::ribs::{DOWN, END_OF_RIB, Header, OUT, ROUTES, TOLD_ANEW, UP};
use virtd_api::{SpeakerDown, SpeakerUp};
use wire::bgp::canonical::{CanonicalContext, Canonicaliser, Carried};
use wire::bgp::frame::HEADER_LEN;
use wire::bgp::update::{Nlri, Update};
use wire::bgp::{Prefix, UpdateContext};

/// Routes of a table that is listed, at most.
pub const MAX_ROUTES: usize = 200_000;
/// Octets of its different routes, at most.
const MAX_OCTETS: usize = 32 << 20;
/// Tables at once: those that are kept and those that are still being sent.
const MAX_TABLES: usize = 4;
/// So long a table is kept, and so old an answer may be.
pub const KEPT: Duration = Duration::from_secs(10);
/// Who waits for his turn, at most.
const MAX_WAITING: usize = 16;
/// So long somebody waits for it.
const WAIT: Duration = Duration::from_secs(20);
/// virtd has told the whole table by then.
const PATIENCE: Duration = Duration::from_secs(20);
/// Frames that are read in one go, before others are served: some milliseconds.
const FRAMES_AT_ONCE: usize = 64;

/// Which of a peer's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// What it has said.
    In,
    /// What it was told.
    Out,
}

/// Why there is no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoTable {
    /// It has more routes than are listed, or larger ones.
    TooLarge,
    /// Others are asking; the remedy is to ask again.
    Busy,
    /// virtd does not answer, or refuses.
    Unanswered(String),
}

/// A peer's table as it was at one time.
#[derive(Debug)]
pub(crate) struct Table {
    /// Canonical routes ([`wire::bgp::canonical`]), by prefix.
    pub routes: Vec<(Prefix, Arc<[u8]>)>,
    /// AS numbers in them have four octets.
    pub as4: bool,
    /// For how long the session had been established, microseconds.
    pub up_us: u64,
    /// When it was read.
    pub at: SystemTime,
    /// Given back when nobody has the table any more.
    pub _place: Option<OwnedSemaphorePermit>,
}

type Key = (String, Side);
type Read = Result<Arc<Table>, NoTable>;

/// The one who reads them.
#[derive(Debug)]
pub(crate) struct Tables {
    socket: PathBuf,
    turn: tokio::sync::Mutex<()>,
    waiting: Semaphore,
    places: Arc<Semaphore>,
    /// The oldest first.
    kept: Mutex<VecDeque<(Instant, Key, Read)>>,
}

impl Tables {
    /// Of the virtd behind this control socket. Nothing is asked yet.
    pub fn new(socket: &Path) -> Tables {
        Tables {
            socket: socket.to_owned(),
            turn: tokio::sync::Mutex::new(()),
            waiting: Semaphore::new(MAX_WAITING),
            places: Arc::new(Semaphore::new(MAX_TABLES)),
            kept: Mutex::default(),
        }
    }

    /// A table of this peer, by its name among `sessions`, not older than [`KEPT`]; and whether it was
    /// there already.
    ///
    /// # Errors
    /// See [`NoTable`].
    pub async fn of(self: &Arc<Self>, peer: &str, side: Side) -> Result<(Arc<Table>, bool), NoTable> {
        let key = (peer.to_owned(), side);
        if let Some(kept) = self.kept(&key) {
            return kept.map(|table| (table, true));
        }
        let _waits = self.waiting.try_acquire().map_err(|_| NoTable::Busy)?;
        let _turn = timeout(WAIT, self.turn.lock()).await.map_err(|_| NoTable::Busy)?;
        // Who was before may have wanted the same.
        if let Some(kept) = self.kept(&key) {
            return kept.map(|table| (table, true));
        }
        let place = self.place()?;
        let late = || NoTable::Unanswered("virtd did not tell the table in time".to_owned());
        let read = timeout(PATIENCE, read(&self.socket, peer, side)).await.unwrap_or_else(|_| Err(late()));
        let read = read.map(|table| Arc::new(Table { _place: Some(place), ..table }));
        if !matches!(read, Err(NoTable::Unanswered(_))) {
            self.keep(key, read.clone());
        }
        read.map(|table| (table, false))
    }

    fn kept(&self, key: &Key) -> Option<Read> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(at, ..)| at.elapsed() < KEPT);
        kept.iter().find(|(_, known, _)| known == key).map(|(.., read)| read.clone())
    }

    fn keep(self: &Arc<Self>, key: Key, read: Read) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push_back((Instant::now(), key, read));
        let tables = self.clone();
        tokio::spawn(async move {
            sleep(KEPT).await;
            tables.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|(at, ..)| at.elapsed() < KEPT);
        });
    }

    /// A place for one more: that of the oldest kept where there is no other.
    fn place(&self) -> Result<OwnedSemaphorePermit, NoTable> {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return Ok(place);
            }
            let oldest = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            drop(oldest.ok_or(NoTable::Busy)?);
        }
    }
}

async fn read(socket: &Path, peer: &str, side: Side) -> Result<Table, NoTable> {
    let mut frames = Frames::connect(socket).await.map_err(NoTable::Unanswered)?;
    let told = frames.begin(false, Some(peer)).await.map_err(NoTable::Unanswered)?;
    if told.peer.is_none() {
        let text = "this virtd cannot tell one peer's table: install it and virtd-monitor from the same build";
        return Err(NoTable::Unanswered(text.to_owned()));
    }
    let (mut reading, mut left) = (Reading::new(side), FRAMES_AT_ONCE);
    while !reading.is_over() {
        let frame =
            frames.next().await.map_err(|e| NoTable::Unanswered(format!("the connection to virtd broke: {e}")))?;
        let closed = || NoTable::Unanswered("virtd has closed its control socket".to_owned());
        let (header, body) = frame.ok_or_else(closed)?;
        reading.frame(header, &body)?;
        left -= 1;
        if left == 0 {
            left = FRAMES_AT_ONCE;
            tokio::task::yield_now().await;
        }
    }
    Ok(reading.table())
}

/// A table that is being read.
pub(crate) struct Reading {
    side: Side,
    /// How many families it has, once the peer is there.
    families: Option<usize>,
    ends: usize,
    /// The session has ended: it has no routes.
    gone: bool,
    as4: bool,
    up_us: u64,
    routes: BTreeMap<Prefix, Arc<[u8]>>,
    distinct: HashSet<Arc<[u8]>>,
    octets: usize,
    canonicaliser: Canonicaliser,
}

impl Reading {
    pub fn new(side: Side) -> Reading {
        Reading {
            side,
            families: None,
            ends: 0,
            gone: false,
            as4: true,
            up_us: 0,
            routes: BTreeMap::new(),
            distinct: HashSet::new(),
            octets: 0,
            canonicaliser: Canonicaliser::default(),
        }
    }

    /// All of the table has been told.
    pub fn is_over(&self) -> bool {
        self.gone || self.families.is_some_and(|families| self.ends >= families)
    }

    /// What has been read.
    pub fn table(self) -> Table {
        let routes = self.routes.into_iter().collect();
        Table { routes, as4: self.as4, up_us: self.up_us, at: SystemTime::now(), _place: None }
    }

    /// One more frame.
    ///
    /// # Errors
    /// It is none that virtd sends, or the table is too large.
    pub fn frame(&mut self, header: Header, body: &Bytes) -> Result<(), NoTable> {
        let strange = || NoTable::Unanswered("virtd says what nobody understands".to_owned());
        let side = if header.flags & OUT == 0 { Side::In } else { Side::Out };
        match header.kind {
            UP => {
                let up: SpeakerUp = serde_json::from_slice(body).map_err(|_| strange())?;
                (self.families, self.as4, self.up_us) = (Some(up.families.len()), up.as4, up.up_us);
            }
            DOWN => {
                let down: SpeakerDown = serde_json::from_slice(body).map_err(|_| strange())?;
                self.routes.clear();
                self.distinct.clear();
                (self.families, self.ends, self.octets) = (None, 0, 0);
                self.gone = down.reason != TOLD_ANEW;
            }
            ROUTES if side == self.side => {
                let message = body.get(HEADER_LEN..).ok_or_else(strange)?;
                self.update(&Update::parse(message).map_err(|_| strange())?)?;
            }
            END_OF_RIB if side == self.side => self.ends += 1,
            _ => {}
        }
        Ok(())
    }

    fn update(&mut self, update: &Update<'_>) -> Result<(), NoTable> {
        for prefix in update.withdrawn.chain(update.mp_withdrawn().into_iter().flatten()) {
            self.routes.remove(&prefix);
        }
        self.announced(update, Carried::Classic, update.nlri)?;
        update.mp_announced().map_or(Ok(()), |nlri| self.announced(update, Carried::MpReach, nlri))
    }

    fn announced(&mut self, update: &Update<'_>, carried: Carried, nlri: Nlri<'_>) -> Result<(), NoTable> {
        if nlri.is_empty() {
            return Ok(());
        }
        // Nothing is a loop here: it is shown as it was said.
        let context = CanonicalContext {
            update: UpdateContext { as4: self.as4, ..UpdateContext::EBGP },
            peer_as: 0,
            confederation: None,
            peer_router_id: std::net::Ipv4Addr::UNSPECIFIED,
            allow_own_as: true,
            ignore: Default::default(),
        };
        let Some(octets) = self.canonicaliser.route(update, carried, &context) else { return Ok(()) };
        let route = match self.distinct.get(octets) {
            Some(route) => route.clone(),
            None => {
                let route: Arc<[u8]> = octets.into();
                self.octets += route.len();
                self.distinct.insert(route.clone());
                route
            }
        };
        self.routes.extend(nlri.map(|prefix| (prefix, route.clone())));
        match self.routes.len() > MAX_ROUTES || self.octets > MAX_OCTETS {
            true => Err(NoTable::TooLarge),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
