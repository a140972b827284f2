//! The journal is kept short: from time to time an image of what stands takes the place of all that
//! was before. A copy of this process writes it (fork(2)), so that the loop goes on meanwhile.

use super::*;
use crate::upgrade::Apart;
use anyhow::bail;
use broker::adopt::Census;
use journal::{Log, Opened, Record};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufWriter, Write};
use virtd_config::OpenMode;
use virtd_linux::journal::{Image, Journal, Place};

/// A log that is shorter is left as it is: an image costs a fork.
const MIN_LOG: usize = 4 << 20;
/// A log may be so many times as long as the image was.
const TIMES: usize = 2;
/// With so much more log than that an image does not wait until there is nothing else to do.
const HURRY: usize = 64 << 20;
/// After an image could not be written it is tried again this much later.
const RETRY_US: Micros = 5_000_000;
/// A copy of this process that takes longer is stuck.
const PATIENCE_US: Micros = 120_000_000;

/// An image is being written.
pub(super) struct Writing {
    image: Image,
    writer: Pid,
    /// Readable when the writer has ended.
    ended: OwnedFd,
    token: Token,
    since: Micros,
}

impl Driver {
    /// Begins an image when the log is long. Called between two turns.
    pub(super) fn keep_journal_short(&mut self) {
        if let Some(writing) = &self.image {
            if self.now >= writing.since + PATIENCE_US {
                let _ = nix::sys::signal::kill(writing.writer, nix::sys::signal::Signal::SIGKILL);
            }
            return;
        }
        let Some(journal) = &self.journal else { return };
        if journal.is_broken() {
            // Told once: nothing mends it.
            if std::mem::replace(&mut self.image_again, Micros::MAX) != Micros::MAX {
                self.journal_broke();
            }
            return;
        }
        let limit = MIN_LOG.max(TIMES * journal.image_octets());
        let log = journal.log_octets();
        let rests = self.again.is_empty() && self.waiting.is_empty();
        if log < limit || (!rests && log < limit + HURRY) || self.now < self.image_again {
            return;
        }
        if let Err(e) = self.begin_image() {
            self.image_failed(&format!("{e:#}"));
        }
    }

    /// Who wants to try another program is given an image that a copy of this process writes. Called
    /// between two turns.
    pub(super) fn give_images(&mut self) {
        while let Ok(wants) = self.lines.leave.images.try_recv() {
            let _ = wants.try_send(self.image_apart().map_err(|e| format!("{e:#}")));
        }
    }

    fn image_apart(&mut self) -> Result<Apart> {
        let native = self.config.open == OpenMode::Native;
        if !native && self.journal.as_ref().is_none_or(Journal::is_broken) {
            bail!("virtd has no complete journal: the sessions would end");
        }
        let file = File::from(memfd_create(c"virtd-image", MFdFlags::MFD_CLOEXEC)?);
        let handover = native.then(|| self.handover(false));
        let connections = |h: &Handover| Census { sessions: h.connections() as u64, ..Census::default() };
        let census = handover.as_ref().map_or_else(|| self.broker.census(), connections);
        // How much each connection was given is of no use to a program that is only tried.
        let writer = sys::fork_alone(&file, |mut file| {
            let written =
                |file: &mut &File, h: &Handover| h.octets().is_ok_and(|octets| file.write_all(&octets).is_ok());
            file.write_all(&journal::stamp()).is_ok()
                && match &handover {
                    Some(handover) => written(&mut file, handover),
                    None => self.write_image(file, |_| 0),
                }
        })?;
        Ok(Apart { file, writer, census })
    }

    /// Ends this process where it stands; what goes on is the journal, and the connections with
    /// peers. With `open = "native"` also what the daemon has here.
    pub(super) fn leave(&mut self) -> ! {
        let mut kept = self.journal.as_ref().map(Journal::fds).unwrap_or_default();
        kept.extend(self.peers.values().filter(|p| p.stream.kept.is_some()).map(|p| p.stream.io.as_raw_fd()));
        // The one by name: the next program, which is not root, cannot make one that shims believe.
        kept.extend(self.shims.get(1).map(|(fd, _)| fd.as_raw_fd()));
        if self.config.open == OpenMode::Native {
            match self.hand_over() {
                Ok(fds) => kept.extend(fds),
                Err(e) => log::error!("the connections end: {e:#}"),
            }
        }
        self.lines.leave.now(&kept)
    }

    fn journal_broke(&mut self) {
        let text =
            "the journal cannot be written any more: virtd's own end would be that of all sessions; its log says why";
        let event = Event::new(self.now, "no-journal", Severity::Alarm, text.to_owned());
        self.tell(event);
    }

    fn image_failed(&mut self, why: &str) {
        self.image_again = self.now + RETRY_US;
        self.warn(
            "image-failed",
            format!("the journal cannot be made shorter ({why}); tried again in {} s", RETRY_US / 1_000_000),
        );
    }

    fn begin_image(&mut self) -> Result<()> {
        let image = self.journal.as_mut().context("no journal")?.begin_image()?;
        let writer = sys::fork_alone(image.file(), |file| self.write_image(file, |place| image.given(place)))?;
        let ended = sys::pidfd(writer)?;
        let token = self.register(ended.as_raw_fd(), Source::Image, false)?;
        self.image = Some(Writing { image, writer, ended, token, since: self.now });
        Ok(())
    }

    /// In the copy: all that the next worker must know. Whether it is written.
    fn write_image(&mut self, file: &File, given: impl Fn(Place) -> u64) -> bool {
        let mut log = ToFile { file: BufWriter::with_capacity(1 << 20, file), failed: false };
        let kept = |p: &Peer| p.stream.kept.filter(|_| !p.dialling);
        for (p, kept) in self.peers.values().filter_map(|p| Some((p, kept(p)?))) {
            let Some((dialled, local, remote)) = p.ends else { continue };
            let opened = Opened { fd: p.stream.io.as_raw_fd(), dialled, local, remote };
            Record::Opened { conn: kept.conn, opened }.append_to(&mut log);
        }
        self.broker.write_image(&mut log);
        for (p, kept) in self.peers.values().filter_map(|p| Some((p, kept(p)?))) {
            if !p.stream.rx.is_empty() {
                Record::Said { conn: kept.conn, octets: &p.stream.rx }.append_to(&mut log);
            }
            let total = given(kept.place);
            Record::Unsent { conn: kept.conn, total, octets: &p.stream.unsent() }.append_to(&mut log);
        }
        log.file.flush().is_ok() && !log.failed
    }

    /// The writer has ended.
    pub(super) fn image_written(&mut self) {
        let Some(Writing { image, writer, ended, token, .. }) = self.image.take() else { return };
        self.forget(token, ended.as_raw_fd());
        let done = match waitpid(writer, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            other => Err(format!("its writer ended with {other:?}")),
        };
        let done = done.and_then(|()| {
            let Some(journal) = self.journal.as_mut() else { return Ok(()) };
            journal.has_image(image).map_err(|e| e.to_string())
        });
        if let Err(why) = done {
            self.image_failed(&why);
        }
    }
}

/// A log that is a file.
struct ToFile<'a> {
    file: BufWriter<&'a File>,
    failed: bool,
}

impl Log for ToFile<'_> {
    fn record(&mut self, kind: u8, conn: u64, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let header = journal::header(kind, conn, len);
        let zeros = [0; 8];
        let padding = zeros.get(..journal::size(len) - journal::HEADER - len).unwrap_or_default();
        let all = std::iter::once(&header[..]).chain(parts.iter().copied()).chain([padding]);
        for part in all {
            self.failed |= self.file.write_all(part).is_err();
        }
    }
}
