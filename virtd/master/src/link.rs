//! The link between master and worker: an AF_UNIX socket pair that keeps messages apart
//! (SOCK_SEQPACKET), and files that go with them.

use crate::message::{MAX_MESSAGE, decode, encode};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, sendmsg, setsockopt, shutdown, socketpair,
    sockopt,
};
use nix::sys::time::TimeVal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use virtd_linux::{foreign, sys};

/// Octets of a configuration's text at most; the file's own limit is lower.
const MAX_TEXT_FILE: u64 = 64 << 20;

/// One end.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// What has come.
#[derive(Debug)]
pub enum Received<M> {
    /// A message, and the file that came with it.
    Message(M, Option<OwnedFd>),
    /// Something that is no message, and why.
    Wrong(String),
    /// The other end is closed, or the link was ended.
    End,
}

impl Link {
    /// The master's end and the worker's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (ours, theirs) = pair()?;
        Ok((Link(ours), theirs))
    }

    /// The end that was handed to this process.
    pub fn over(end: OwnedFd) -> Link {
        Link(end)
    }

    /// Sends a message, and a file with it; waits for room.
    ///
    /// # Errors
    /// The message is too long, or the other end is gone.
    pub fn send(&self, message: &impl Serialize, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send(&self.0, &encode(message)?, file)
    }

    /// Waits for the next message.
    pub fn receive<M: DeserializeOwned>(&self) -> Received<M> {
        // One more than may be, so that what is too long shows.
        let mut octets = vec![0; MAX_MESSAGE + 1];
        let mut room = foreign::room();
        let (n, flags, mut files) = loop {
            match sys::receive(&self.0, &mut octets, &mut room, libc::MSG_CMSG_CLOEXEC) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) | Ok((0, ..)) => return Received::End,
                Ok(received) => break received,
            }
        };
        if flags & libc::MSG_TRUNC != 0 {
            return Received::Wrong(format!("a message of more than {MAX_MESSAGE} octets"));
        }
        match decode(octets.get(..n).unwrap_or_default()) {
            Ok(message) => Received::Message(message, files.pop()),
            Err(e) => Received::Wrong(e.to_string()),
        }
    }

    /// From now on nobody waits for a message longer than this: it counts as the end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn waits(&self, patience: Duration) -> io::Result<()> {
        let patience = TimeVal::new(i64::try_from(patience.as_secs()).unwrap_or(i64::MAX), 0);
        Ok(setsockopt(&self.0, sockopt::ReceiveTimeout, &patience)?)
    }

    /// Ends it both ways. What was sent before is received all the same.
    pub fn end(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Two sockets that keep messages apart.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

pub(crate) fn send(to: &OwnedFd, octets: &[u8], files: impl IntoIterator<Item = impl AsRawFd>) -> io::Result<()> {
    let files: Vec<RawFd> = files.into_iter().map(|file| file.as_raw_fd()).collect();
    let with = [ControlMessage::ScmRights(&files)];
    let with = if files.is_empty() { &[][..] } else { &with[..] };
    loop {
        match sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(octets)], with, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// A text as a file without a name, which nobody can change.
///
/// # Errors
/// The kernel's.
pub fn file_of(text: &str) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"virtd-text", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(text.as_bytes())?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// What such a file holds.
///
/// # Errors
/// The kernel's; it is too long, or no text.
pub fn text_of(file: OwnedFd) -> io::Result<String> {
    let file = File::from(file);
    let length = file.metadata()?.len();
    if length > MAX_TEXT_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a text of {length} octets")));
    }
    let mut octets = vec![0; length as usize];
    file.read_exact_at(&mut octets, 0)?;
    String::from_utf8(octets).map_err(io::Error::other)
}
