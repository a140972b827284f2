//! The journal of the peers' streams, kept in memory that outlives the process, so that it is known
//! at any instruction at which the process may be killed what has been read and what the kernel has
//! taken: data is read straight into the log, and the kernel writes how much it moved into that
//! memory itself (recvmmsg(2), sendmmsg(2)).
//!
//! The files have no names. They live as long as a process has them open: the twin of the worker
//! does ([`crate`]), and the next worker finds them among the fds that it inherits.

mod progress;
mod shared;

use journal::{HEADER, Log, OLDEST, Record, VERSION, header, kind, size};
use nix::sys::memfd::{MFdFlags, memfd_create};
pub use progress::{Last, Progress};
use shared::{HeadFile, Mapped, NONE, READING, WRITING};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::SeqCst;

/// Octets of a log at most. An image is written long before.
const LOG_MAX: usize = 1 << 30;
/// So many logs of images that were not completed become one.
const MANY_LOGS: usize = 4;
/// "virtdjnl".
const MAGIC: u64 = u64::from_le_bytes(*b"virtdjnl");
const HEAD_NAME: &CStr = c"virtd-journal";
const LOG_NAME: &CStr = c"virtd-journal-log";
const IMAGE_NAME: &CStr = c"virtd-journal-image";
/// Connections at once.
pub const PLACES: usize = shared::PLACES;

/// Why an inherited journal is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is of a version that this program does not read.
    #[error("the journal is of version {0}; this virtd reads {OLDEST} to {VERSION}")]
    Version(u32),
    /// It lacks something, as it says itself.
    #[error("the journal is not complete: {0}")]
    Broken(&'static str),
    /// The kernel's word.
    #[error("the journal cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// A place for what is counted of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(u32);

/// An image that is being written.
#[derive(Debug)]
pub struct Image {
    file: File,
    set: usize,
    /// By place, how much was given to each connection when it was begun.
    given: Vec<(u32, u64)>,
}

impl Image {
    /// Where it is written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How much was given to a connection when the image was begun. What the journal says meanwhile
    /// ([`Journal::given`]) goes on, for the copy of this process that writes the image, too: they
    /// share that memory.
    pub fn given(&self, place: Place) -> u64 {
        let at = self.given.binary_search_by_key(&place.0, |(at, _)| *at);
        at.ok().and_then(|at| self.given.get(at)).map_or(0, |(_, given)| *given)
    }
}

/// See the module's comment.
#[derive(Debug)]
pub struct Journal {
    head: HeadFile,
    /// By number of the set.
    logs: [Option<Mapped>; shared::SETS],
    images: [Option<Mapped>; shared::SETS],
    free: Vec<u32>,
    /// Nothing more is written: it is not complete any more.
    broken: bool,
}

impl Journal {
    /// An empty one.
    ///
    /// # Errors
    /// The kernel's: no memory, no fds.
    pub fn create() -> io::Result<Journal> {
        let head = HeadFile::create(HEAD_NAME)?;
        let mut journal = Journal {
            head,
            logs: Default::default(),
            images: Default::default(),
            free: (0..PLACES as u32).rev().collect(),
            broken: false,
        };
        for set in &journal.head.head().sets {
            set.image_fd.store(-1, SeqCst);
            set.log_fd.store(-1, SeqCst);
        }
        journal.open_log(0)?;
        let head = journal.head.head();
        head.version.store(VERSION, SeqCst);
        head.state.store(state(0, 1), SeqCst);
        head.magic.store(MAGIC, SeqCst);
        Ok(journal)
    }

    /// The one that is among these fds; those that are its own are taken out of them.
    ///
    /// # Errors
    /// There is one, and it is of no use.
    pub fn inherit(fds: &mut Vec<OwnedFd>) -> Result<Option<Journal>, Refused> {
        let Some(at) = fds.iter().position(|fd| is_named(fd.as_raw_fd(), HEAD_NAME)) else { return Ok(None) };
        let mapped = Mapped::of(fds.swap_remove(at))?;
        let head = HeadFile::of(mapped)?;
        if head.head().magic.load(SeqCst) != MAGIC {
            return Err(Refused::Broken("it was never begun"));
        }
        match head.head().version.load(SeqCst) {
            OLDEST..=VERSION => {}
            other => return Err(Refused::Version(other)),
        }
        if head.head().broken.load(SeqCst) != 0 {
            return Err(Refused::Broken("memory was short when it was written"));
        }
        let (logs, images) = Default::default();
        let mut journal = Journal { head, logs, images, free: Vec::new(), broken: false };
        let (first, count) = journal.sets();
        for set in first..first + count {
            let set = set % shared::SETS;
            let fd = journal.head.head().sets[set].log_fd.load(SeqCst);
            let log = take(fds, fd, LOG_NAME).ok_or(Refused::Broken("a log is missing"))?;
            let mut log = Mapped::of(log)?;
            log.prepare(journal.len_of(set))?;
            journal.logs[set] = Some(log);
        }
        let image = journal.head.head().sets[first].image_fd.load(SeqCst);
        if image >= 0 {
            let image = take(fds, image, IMAGE_NAME).ok_or(Refused::Broken("the image is missing"))?;
            journal.images[first] = Some(Mapped::of(image)?);
        }
        journal.settle_call();
        if let Err(e) = journal.gather() {
            log::warn!("the logs before an image that was not completed stay as they are: {e}");
        }
        let places = journal.head.head().places.iter().enumerate();
        journal.free = places.filter(|(_, p)| p.conn.load(SeqCst) == 0).map(|(i, _)| i as u32).rev().collect();
        Ok(Some(journal))
    }

    /// Whether this process had better not hold it: what it is made of is not to be inherited twice.
    pub fn fds(&self) -> Vec<RawFd> {
        let files = self.logs.iter().chain(&self.images).flatten().map(Mapped::fd);
        files.chain([self.head.fd()]).collect()
    }

    /// What was being done when the former process ended is done, or has not been begun.
    fn settle_call(&mut self) {
        let (_, _, last) = self.state();
        let call = &self.head.head().call;
        let (base, moved) = (call.base.load(SeqCst), self.head.said().unwrap_or_default());
        match call.kind.load(SeqCst) {
            READING if moved > 0 && self.len_of(last) as u64 == base => self.received(last, base as usize, moved),
            WRITING => {
                if let Some(place) = self.head.head().places.get(call.place.load(SeqCst) as usize) {
                    place.taken.store(base + moved as u64, SeqCst);
                }
            }
            _ => {}
        }
        self.head.head().call.kind.store(NONE, SeqCst);
    }

    /// Each worker that dies while it has an image written leaves a log more, and there is room for
    /// few: where there are many, one log takes the place of all, so that images can be begun.
    fn gather(&mut self) -> io::Result<()> {
        let (first, count, last) = self.state();
        if !(MANY_LOGS..shared::SETS).contains(&count) {
            return Ok(());
        }
        let set = (first + count) % shared::SETS;
        self.open_log(set)?;
        let Some(mut log) = self.logs[set].take() else { return Ok(()) };
        let mut len = 0;
        let mut before_last = 0;
        for old in (first..first + count).map(|old| old % shared::SETS) {
            let octets = self.logs[old].as_ref().map_or(&[][..], |log| log.octets(0, self.len_of(old)));
            before_last = len;
            log.prepare(len + octets.len())?;
            log.write(len, octets);
            len += octets.len();
        }
        self.logs[set] = Some(log);
        let head = self.head.head();
        head.sets[set].log_len.store(len as u64, SeqCst);
        head.sets[set].image_fd.store(head.sets[first].image_fd.load(SeqCst), SeqCst);
        head.sets[set].image_len.store(head.sets[first].image_len.load(SeqCst), SeqCst);
        if let Some(begun) = self.begun() {
            head.begun.store(1 + (before_last + begun) as u64, SeqCst);
        }
        // Until here the old ones count, and then the new one.
        head.state.store(state(set, 1), SeqCst);
        self.images[set] = self.images[first].take();
        for old in (first..first + count).map(|old| old % shared::SETS) {
            (self.logs[old], self.images[old]) = (None, None);
        }
        debug_assert_ne!(set, last, "another one");
        Ok(())
    }

    /// First set, how many, the last one.
    fn state(&self) -> (usize, usize, usize) {
        let (first, count) = self.sets();
        (first, count, (first + count.max(1) - 1) % shared::SETS)
    }

    fn sets(&self) -> (usize, usize) {
        let [first, count, ..] = self.head.head().state.load(SeqCst).to_le_bytes();
        (usize::from(first) % shared::SETS, usize::from(count).min(shared::SETS))
    }

    fn len_of(&self, set: usize) -> usize {
        self.head.head().sets[set].log_len.load(SeqCst) as usize
    }

    fn open_log(&mut self, set: usize) -> io::Result<()> {
        let mut log = Mapped::create(LOG_NAME, LOG_MAX)?;
        log.prepare(1)?;
        let entry = &self.head.head().sets[set];
        entry.image_fd.store(-1, SeqCst);
        entry.image_len.store(0, SeqCst);
        entry.log_len.store(0, SeqCst);
        entry.log_fd.store(log.fd(), SeqCst);
        self.logs[set] = Some(log);
        Ok(())
    }

    /// Begins a log that goes on where an image will end that is written from now on: [`Image`] is
    /// where. Until it is complete ([`Journal::has_image`]) the logs before count as well.
    ///
    /// # Errors
    /// The kernel's; or too many images have not been completed.
    pub fn begin_image(&mut self) -> io::Result<Image> {
        let (first, count) = self.sets();
        if self.broken || count >= shared::SETS {
            return Err(io::Error::other("no further log can be begun"));
        }
        let set = (first + count) % shared::SETS;
        let image = memfd_create(IMAGE_NAME, MFdFlags::MFD_CLOEXEC)?;
        self.open_log(set)?;
        let head = self.head.head();
        head.sets[set].image_fd.store(image.as_raw_fd(), SeqCst);
        head.state.store(state(first, count + 1), SeqCst);
        let given = (0..).zip(&head.places).filter(|(_, p)| p.conn.load(SeqCst) != 0);
        let given = given.map(|(at, p)| (at, p.given.load(SeqCst))).collect();
        Ok(Image { file: File::from(image), set, given })
    }

    /// The image is complete: nothing before it counts any more.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has_image(&mut self, image: Image) -> io::Result<()> {
        let octets = image.file.metadata()?.len();
        let set = image.set;
        self.images[set] = Some(Mapped::of(image.file.into())?);
        self.head.head().sets[set].image_len.store(octets, SeqCst);
        let (first, count) = self.sets();
        let after = (set + shared::SETS - first) % shared::SETS;
        self.head.head().state.store(state(set, count - after), SeqCst);
        for old in (first..first + after).map(|old| old % shared::SETS) {
            (self.logs[old], self.images[old]) = (None, None);
        }
        Ok(())
    }

    /// All that is written, in order.
    pub fn segments(&self) -> Vec<&[u8]> {
        let (first, count) = self.sets();
        let image = self.images[first].as_ref();
        let image_len = self.head.head().sets[first].image_len.load(SeqCst) as usize;
        let image = image.map(|image| image.octets(0, image_len));
        let logs = (first..first + count).filter_map(|set| {
            let set = set % shared::SETS;
            Some(self.logs[set].as_ref()?.octets(0, self.len_of(set)))
        });
        image.into_iter().chain(logs).collect()
    }

    /// Octets since the last image.
    pub fn log_octets(&self) -> usize {
        let (first, count) = self.sets();
        (first..first + count).map(|set| self.len_of(set % shared::SETS)).sum()
    }

    /// Octets of the last image.
    pub fn image_octets(&self) -> usize {
        self.head.head().sets[self.sets().0].image_len.load(SeqCst) as usize
    }

    /// Whether it has ceased to be complete.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn breaks(&mut self, why: &io::Error) {
        if !std::mem::replace(&mut self.broken, true) {
            self.head.head().broken.store(1, SeqCst);
            log::error!(
                "the journal cannot be written any more ({why}): virtd's own end would be that of all sessions"
            );
        }
    }

    /// A place for a connection; none where all are taken.
    pub fn open(&mut self, conn: u64) -> Option<Place> {
        let place = self.free.pop()?;
        let entry = self.head.head().places.get(place as usize)?;
        entry.taken.store(0, SeqCst);
        entry.given.store(0, SeqCst);
        entry.stands.store(0, SeqCst);
        entry.conn.store(conn, SeqCst);
        Some(Place(place))
    }

    /// The place that a connection of the former process had.
    pub fn place_of(&self, conn: u64) -> Option<(Place, u64)> {
        let mut places = self.head.head().places.iter().enumerate();
        let (at, entry) = places.find(|(_, p)| p.conn.load(SeqCst) == conn)?;
        Some((Place(at as u32), entry.taken.load(SeqCst)))
    }

    /// All places, with whose they are and how much the kernel has taken there.
    pub fn places(&self) -> impl Iterator<Item = (u64, Place, u64)> + '_ {
        let places = self.head.head().places.iter().enumerate();
        let known = places.map(|(at, p)| (p.conn.load(SeqCst), Place(at as u32), p.taken.load(SeqCst)));
        known.filter(|(conn, ..)| *conn != 0)
    }

    /// The connection is no more.
    pub fn close(&mut self, place: Place) {
        if let Some(entry) = self.head.head().places.get(place.0 as usize) {
            entry.conn.store(0, SeqCst);
            self.free.push(place.0);
        }
    }

    /// How much the kernel has taken on a connection.
    pub fn taken(&self, place: Place) -> u64 {
        self.head.head().places.get(place.0 as usize).map_or(0, |p| p.taken.load(SeqCst))
    }

    /// The peer is told this.
    pub fn tells(&mut self, place: Place, conn: u64, octets: &[u8]) {
        // Counted first: what is not sent yet can only be more than is known of.
        if let Some(entry) = self.head.head().places.get(place.0 as usize) {
            entry.given.fetch_add(octets.len() as u64, SeqCst);
        }
        Record::ToPeer { conn, octets }.append_to(self);
    }

    /// How much was given to a connection.
    pub fn given(&self, place: Place) -> u64 {
        self.head.head().places.get(place.0 as usize).map_or(0, |p| p.given.load(SeqCst))
    }

    /// So much was given to a connection, as the log has it.
    pub fn set_given(&self, place: Place, given: u64) {
        if let Some(entry) = self.head.head().places.get(place.0 as usize) {
            entry.given.store(given, SeqCst);
        }
    }

    /// The session on this connection stands.
    pub fn stands(&self, place: Place) {
        if let Some(entry) = self.head.head().places.get(place.0 as usize) {
            entry.stands.store(1, SeqCst);
        }
    }

    /// Whether a KEEPALIVE may be sent on a connection just now: its session stands, and the kernel
    /// has taken everything before.
    pub fn may_keep_alive(&self, place: Place) -> bool {
        let entry = self.head.head().places.get(place.0 as usize);
        entry.is_some_and(|e| e.stands.load(SeqCst) == 1 && e.given.load(SeqCst) == e.taken.load(SeqCst))
    }

    /// Reads at most `most` octets from a peer into the log.
    ///
    /// # Errors
    /// The kernel's. A journal that cannot be written is broken, and reads on.
    pub fn receive(&mut self, socket: &impl AsRawFd, conn: u64, most: usize) -> io::Result<&[u8]> {
        let (_, _, last) = self.state();
        // A journal that is not complete is written over again and again.
        let at = if self.broken { 0 } else { self.len_of(last) };
        let Some(log) = &mut self.logs[last] else { return Err(io::Error::other("the journal has no log")) };
        if let Err(e) = log.prepare(at + size(most)) {
            if self.broken {
                return Err(e);
            }
            self.breaks(&e);
            return self.receive(socket, conn, most);
        }
        log.write(at, &header(kind::FROM_PEER, conn, 0));
        self.head.head().call.base.store(at as u64, SeqCst);
        let n = self.head.receive(socket.as_raw_fd(), log, at + HEADER, most)?;
        if n > 0 && !self.broken {
            self.received(last, at, n);
        }
        self.head.head().call.kind.store(NONE, SeqCst);
        Ok(self.logs[last].as_ref().map_or(&[], |log| log.octets(at + HEADER, n)))
    }

    fn received(&mut self, set: usize, at: usize, n: usize) {
        if let Some(log) = &mut self.logs[set] {
            log.write(at, &u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
            self.head.head().sets[set].log_len.store((at + size(n)) as u64, SeqCst);
        }
    }

    /// Sends to a peer what the kernel takes of `octets`; returns how much that was.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&mut self, socket: &impl AsRawFd, place: Place, octets: &[IoSlice<'_>]) -> io::Result<usize> {
        let head = self.head.head();
        let Some(entry) = head.places.get(place.0 as usize) else { return Err(io::ErrorKind::NotFound.into()) };
        let before = entry.taken.load(SeqCst);
        head.call.place.store(place.0, SeqCst);
        head.call.base.store(before, SeqCst);
        let n = self.head.send(socket.as_raw_fd(), octets)?;
        entry.taken.store(before + n as u64, SeqCst);
        head.call.kind.store(NONE, SeqCst);
        Ok(n)
    }

    /// What is read from now on has not been seen through until [`Journal::is_done`].
    pub fn begins(&self) {
        let (_, _, last) = self.state();
        let begun = &self.head.head().begun;
        if begun.load(SeqCst) == 0 {
            begun.store(1 + self.len_of(last) as u64, SeqCst);
        }
    }

    /// All that was read has been seen through.
    pub fn is_done(&self) {
        self.head.head().begun.store(0, SeqCst);
    }

    /// From where on the last log's records have not been seen through.
    pub fn begun(&self) -> Option<usize> {
        self.head.head().begun.load(SeqCst).checked_sub(1).map(|at| at as usize)
    }
}

impl Log for Journal {
    fn record(&mut self, kind: u8, conn: u64, parts: &[&[u8]]) {
        if self.broken {
            return;
        }
        let (_, _, last) = self.state();
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let at = self.len_of(last);
        let Some(log) = &mut self.logs[last] else { return };
        if let Err(e) = log.prepare(at + size(len)) {
            return self.breaks(&e);
        }
        log.write(at, &header(kind, conn, len));
        let mut to = at + HEADER;
        for part in parts {
            log.write(to, part);
            to += part.len();
        }
        self.head.head().sets[last].log_len.store((at + size(len)) as u64, SeqCst);
    }
}

fn state(first: usize, count: usize) -> u32 {
    u32::from_le_bytes([first as u8, count as u8, 0, 0])
}

fn is_named(fd: RawFd, name: &CStr) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    link.to_str().zip(name.to_str().ok()).is_some_and(|(link, name)| link == format!("/memfd:{name} (deleted)"))
}

/// Takes the fd of this number out of `fds`, if it is what it should be.
fn take(fds: &mut Vec<OwnedFd>, number: RawFd, name: &CStr) -> Option<OwnedFd> {
    let at = fds.iter().position(|fd| fd.as_raw_fd() == number)?;
    is_named(number, name).then(|| fds.swap_remove(at))
}

/// Takes the memory of this name out of `fds`, if it is there.
pub fn take_named(fds: &mut Vec<OwnedFd>, name: &CStr) -> Option<File> {
    let at = fds.iter().position(|fd| is_named(fd.as_raw_fd(), name))?;
    Some(File::from(fds.swap_remove(at)))
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
