//! The programs that a worker is made of. Each is held open, so that what was tried is what is
//! executed, whatever becomes of its file.

use crate::link::{Link, Received};
use crate::message::{Named, ToMaster, ToWorker, fit};
use crate::{process, sys};
use broker::adopt::Census;
use crossbeam_channel::{Receiver, bounded};
use nix::sys::wait::WaitStatus;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use virtd_linux::identity::{Identity, Rights};

/// How long a program may take to read the image and to write it again.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to end after it has said what it has to.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Octets of what it prints that are passed on.
const MAX_PRINTED: u64 = 4 << 10;
/// This program.
pub const OWN: &str = "/proc/self/exe";
/// What the kernel appends to the name of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// A program that there is.
#[derive(Debug)]
pub struct Program {
    file: File,
    named: Named,
}

impl Program {
    /// The one that this process is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn own() -> io::Result<Program> {
        let named = Named { version: env!("CARGO_PKG_VERSION").to_owned(), path: own_file()? };
        // Whoever may execute it may not be one who may read it.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(OWN)?;
        Ok(Program { file, named })
    }

    /// A program that only root could have put there. Its version is not known yet.
    ///
    /// # Errors
    /// There is none, or others could have, in words.
    pub fn at(path: &Path) -> Result<Program, String> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err(format!("{shown} is no absolute path"));
        }
        // A FIFO would make it wait.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|e| format!("{shown}: {e}"))?;
        let is = file.metadata().map_err(|e| format!("{shown}: {e}"))?;
        if !is.is_file() {
            return Err(format!("{shown} is no regular file"));
        }
        if is.uid() != 0 {
            return Err(format!("{shown} belongs to user {}: only what root owns is executed", is.uid()));
        }
        if is.mode() & 0o022 != 0 {
            let mode = is.mode() & 0o7777;
            return Err(format!("{shown} can be written by others than root (mode {mode:04o}): it is not executed"));
        }
        Ok(Program { file, named: Named { version: String::new(), path: path.to_owned() } })
    }

    /// What it is called.
    pub fn named(&self) -> &Named {
        &self.named
    }

    /// What tells it from other programs, whatever they are called.
    pub fn id(&self) -> Option<(u64, u64)> {
        self.file.metadata().ok().map(|is| (is.dev(), is.ino()))
    }

    /// Its file, for a process that may not look into the master's ([`virtd_linux::confine`]).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The start of a process of the worker's that executes it, and has `file` open. By its own number
    /// for the program, since the worker's user may neither look into this process nor follow the path.
    /// That stays open, too: it may be a script, whose interpreter opens it by that number.
    pub fn command(&self, identity: Option<&Identity>, rights: Rights, file: Option<&OwnedFd>) -> Command {
        let fd = self.file.as_raw_fd();
        let mut command = Command::new(format!("/proc/self/fd/{fd}"));
        command.arg0("virtd");
        let files = file.map(AsRawFd::as_raw_fd).into_iter().chain([fd]).collect();
        sys::as_worker(&mut command, files, identity, rights);
        command
    }

    /// What an error of that means, with the remedy.
    pub fn not_executed(&self, error: io::Error, identity: Option<&Identity>) -> io::Error {
        let file = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let why = identity.and_then(|identity| identity.cannot_execute(&file, &self.named.path));
        io::Error::new(error.kind(), why.unwrap_or_else(|| format!("it cannot be executed: {error}")))
    }

    /// Has it begin as a worker does, read an image, and say what it has found. `expects` is what
    /// there is. To be called by a thread that may wait.
    ///
    /// # Errors
    /// Why it cannot take over, in words.
    pub fn tried(
        self,
        begin: &ToWorker,
        text: &OwnedFd,
        image: &OwnedFd,
        expects: Census,
        identity: Option<&Identity>,
    ) -> Result<Program, String> {
        let shown = self.named.path.display().to_string();
        let (version, census) =
            self.ask(begin, text, image, identity).map_err(|why| format!("{shown} cannot take over: {why}"))?;
        if census != expects {
            let (found, is) = (in_words(census), in_words(expects));
            return Err(format!("{shown} ({version}) cannot take over: it finds {found}, where there are {is}"));
        }
        Ok(Program { named: Named { version, ..self.named }, ..self })
    }

    fn ask(
        &self,
        begin: &ToWorker,
        text: &OwnedFd,
        image: &OwnedFd,
        identity: Option<&Identity>,
    ) -> Result<(String, Census), String> {
        let words = |e: io::Error| e.to_string();
        let (link, theirs) = Link::pair().map_err(words)?;
        // It opens nothing, and needs no rights.
        let mut command = self.command(identity, Rights::of_worker(false), None);
        command.args(["--worker", "--try"]).stdin(Stdio::from(theirs));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        // It had the other end of the link.
        drop(command);
        let mut child = child.map_err(|e| self.not_executed(e, identity).to_string())?;
        let printed = listen(&mut child);
        let deadline = Instant::now() + PATIENCE;
        // Where it is gone, its end says why.
        let _ = link.send(begin, Some(text.as_fd())).and_then(|()| link.send(&ToWorker::Try, Some(image.as_fd())));
        let answer = link.waits(PATIENCE).map(|()| link.receive::<ToMaster>()).map_err(words);
        let late = Instant::now() >= deadline;
        let status = end(&mut child, if late { Duration::ZERO } else { END_PATIENCE });
        match answer? {
            Received::Message(ToMaster::Tried { version, census }, None) => Ok((fit(version), census)),
            Received::End if late => Err(format!("it has not read the sessions within {} s", PATIENCE.as_secs())),
            Received::End => {
                let printed = printed.recv_timeout(END_PATIENCE).unwrap_or_default();
                let why = printed.trim();
                Err(if why.is_empty() { format!("it {}", process::how(status.as_ref())) } else { why.to_owned() })
            }
            Received::Wrong(why) => Err(format!("it says what is no message: {why}")),
            Received::Message(..) => Err("it says something else than was asked".to_owned()),
        }
    }
}

/// A census for people.
fn in_words(census: Census) -> String {
    let Census { sessions, heard, told } = census;
    format!("{sessions} sessions, {heard} prefixes from their peers and {told} to them")
}

/// What it prints, once it has ended; the rest is read and thrown away.
fn listen(child: &mut Child) -> Receiver<String> {
    let (says, said) = bounded(1);
    if let Some(mut stderr) = child.stderr.take() {
        let listen = move || {
            let mut octets = Vec::new();
            let _ = stderr.by_ref().take(MAX_PRINTED).read_to_end(&mut octets);
            let _ = says.send(String::from_utf8_lossy(&octets).into_owned());
            let _ = io::copy(&mut stderr, &mut io::sink());
        };
        let _ = std::thread::Builder::new().name("tried".into()).spawn(listen);
    }
    said
}

/// Waits for its end, and makes it.
fn end(child: &mut Child, patience: Duration) -> Option<WaitStatus> {
    let until = Instant::now() + patience;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).ok()?);
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            ended => return WaitStatus::from_raw(pid, ended.ok()??.into_raw()).ok(),
        }
    }
    let _ = child.kill();
    WaitStatus::from_raw(pid, child.wait().ok()?.into_raw()).ok()
}

/// Where this program's file is, or the one that has taken its place.
pub fn own_file() -> io::Result<PathBuf> {
    let name = fs::read_link(OWN)?.into_os_string().into_vec();
    let name = name.strip_suffix(DELETED).unwrap_or(&name);
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
