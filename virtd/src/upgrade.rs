//! Another program takes over from the worker: what a program does that is tried, and how the loop
//! makes room for it. `virtd_master`'s upgrade has the order of it all.

use crate::driver::Handover;
use crate::worker;
use anyhow::{Context, Result, bail, ensure};
use broker::Core;
use broker::adopt::{Census, Digest};
use broker::io::{ConnId, Micros};
use crossbeam_channel::{Receiver, Sender};
use journal::{OLDEST, Opened, Record, VERSION};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use virtd_config::{Config, OpenMode};
use virtd_linux::sys;
use virtd_master::link::{Link, Received};
use virtd_master::message::{ToMaster, ToWorker};
use virtd_master::twin::Twins;

/// An image may take so long to be written.
const IMAGE_PATIENCE: Duration = Duration::from_secs(30);
/// Octets of an image at most.
const MAX_IMAGE: u64 = 8 << 30;

/// Who wants an image.
pub type WantsImage = Sender<Result<Apart, String>>;

/// An image that a copy of this process writes into a file of its own.
#[derive(Debug)]
pub struct Apart {
    /// The file.
    pub file: File,
    /// The copy.
    pub writer: Pid,
    /// How much is in it.
    pub census: Census,
}

impl Apart {
    /// Waits until it is written.
    ///
    /// # Errors
    /// Why it is not.
    pub fn written(self) -> Result<(OwnedFd, Census), String> {
        let Apart { file, writer, census } = self;
        let ended = sys::pidfd(writer).map_err(|e| e.to_string())?;
        let patience = nix::poll::PollTimeout::try_from(IMAGE_PATIENCE).unwrap_or(nix::poll::PollTimeout::MAX);
        let mut ends = [nix::poll::PollFd::new(ended.as_fd(), nix::poll::PollFlags::POLLIN)];
        if !matches!(nix::poll::poll(&mut ends, patience), Ok(1)) {
            let _ = kill(writer, Signal::SIGKILL);
        }
        match waitpid(writer, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok((file.into(), census)),
            other => Err(format!("the image of the sessions cannot be written ({other:?})")),
        }
    }
}

/// What the loop has to do with an upgrade.
#[derive(Debug)]
pub struct Leave {
    /// The loop is to end where it stands.
    pub wanted: Arc<AtomicBool>,
    /// Who wants an image; they are given one at the end of a turn.
    pub images: Receiver<WantsImage>,
    /// End this process, with what the next one is to have.
    pub twins: Arc<Twins>,
}

impl Leave {
    /// Whether the next program is to take over.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Ends this process without a word to anybody. `kept` is what the next one cannot do without.
    pub fn now(&self, kept: &[RawFd]) -> ! {
        self.twins.leave(kept)
    }
}

/// What a program does that is started with `--try`: it begins as a worker does, reads the image, and
/// says what it has found.
///
/// # Errors
/// Why it cannot take over.
pub fn try_out(link: &Link) -> Result<()> {
    let (_, config) = worker::begun(link)?;
    let file = match link.receive() {
        Received::Message(ToWorker::Try, Some(file)) => file,
        other => bail!("the master does not say what is to be tried: {other:?}"),
    };
    let census = examine(&config, &octets(&file.into())?, reads())?;
    link.send(&ToMaster::Tried { version: env!("CARGO_PKG_VERSION").to_owned(), census }, None)?;
    Ok(())
}

/// The versions of images that are read.
fn reads() -> RangeInclusive<u32> {
    // A test has this program be an older or a newer one.
    #[cfg(debug_assertions)]
    if let Some((oldest, newest)) = std::env::var("HV_TEST_READS").ok().as_deref().and_then(|v| v.split_once('-'))
        && let (Ok(oldest), Ok(newest)) = (oldest.parse(), newest.parse())
    {
        return oldest..=newest;
    }
    OLDEST..=VERSION
}

/// All that is in an image.
///
/// # Errors
/// It cannot be read, or is too long to be one.
pub(crate) fn octets(file: &File) -> Result<Vec<u8>> {
    let length = file.metadata()?.len();
    ensure!(length <= MAX_IMAGE, "the image has {length} octets");
    let mut octets = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut octets, 0).context("the image cannot be read")?;
    Ok(octets)
}

/// Whether this program makes of an image what it says: read, written, and read again it has to be
/// the same. How much is in it.
///
/// # Errors
/// What is wrong with the image, or with this program.
pub fn examine(config: &Config, file: &[u8], reads: RangeInclusive<u32>) -> Result<Census> {
    let records = journal::unstamp(file, reads).context("the image of the sessions cannot be read")?;
    if config.open == OpenMode::Native {
        let connections = Handover::read(records)?;
        ensure!(connections.octets()? == records, "the connections are others when they were read and written");
        return Ok(Census { sessions: connections.connections() as u64, ..Census::default() });
    }
    let (mut core, standing) = adopted(config, records).context("the image of the sessions is damaged")?;
    let (census, before) = (core.census(), core.digest());
    let mut again = Vec::new();
    for (conn, opened) in &standing {
        Record::Opened { conn: *conn, opened: opened.clone() }.append_to(&mut again);
    }
    core.write_image(&mut again);
    drop(core);
    let (core, _) = adopted(config, &again).context("what this program writes it cannot read")?;
    compare(&before, &core.digest(), &standing)?;
    Ok(census)
}

/// The time is of no account here.
const NOW: Micros = 0;

/// A core as an image has it, and the connections whose sessions stand.
fn adopted(config: &Config, records: &[u8]) -> Result<(Core, BTreeMap<u64, Opened>)> {
    let mut core = Core::new(config, NOW);
    let mut opened = BTreeMap::new();
    let mut adoption = core.adoption(NOW);
    for record in journal::read(records) {
        let record = record?;
        if let Record::Opened { conn, opened: of } = &record {
            opened.insert(*conn, of.clone());
        }
        adoption.take(&record);
    }
    let stands: Vec<u64> = adoption.finish().iter().filter(|k| k.stands).map(|k| k.conn.0).collect();
    opened.retain(|conn, _| stands.contains(conn));
    Ok((core, opened))
}

fn compare(
    before: &BTreeMap<ConnId, Digest>,
    after: &BTreeMap<ConnId, Digest>,
    standing: &BTreeMap<u64, Opened>,
) -> Result<()> {
    for (conn, was) in before {
        let peer = standing.get(&conn.0).map_or_else(|| "nobody known".to_owned(), |o| o.remote.ip().to_string());
        match after.get(conn) {
            Some(is) if is == was => {}
            Some(is) => bail!("the session with {peer} is another one when it was written and read: {was:?}, {is:?}"),
            None => bail!("the session with {peer} is lost when it is written and read"),
        }
    }
    ensure!(after.len() == before.len(), "there are more sessions when they were written and read");
    Ok(())
}
