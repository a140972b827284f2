//! The worker's part in the making of its twin.
//!
//! The master must know every twin that there may be, however soon the worker dies. So the worker
//! first sends it the other end of the twin's line and then makes the twin, which says its process
//! id over the line. Where the worker dies in between, nobody has the twin's end any more, and the
//! master sees the line end.

use crate::link::{self, Link};
use crate::message::ToMaster;
use crate::sys;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

/// The memory in which a program that leaves writes down what daemons have open and the next one is
/// to go on with: where it is there, the twin leaves their sockets open.
pub const HANDOVER: &CStr = c"virtd-native";

/// Makes twins.
#[derive(Debug)]
pub struct Twins {
    link: Arc<Link>,
    /// The twin's end of its line. It is in the table that both share, so it must stay open.
    line: Mutex<Option<OwnedFd>>,
}

impl Twins {
    /// Of a worker with this link.
    pub fn new(link: Arc<Link>) -> Twins {
        Twins { link, line: Mutex::default() }
    }

    /// Makes one. The end of the last one's line is closed: that one is dead, or is to die.
    ///
    /// # Errors
    /// The kernel's. Without a twin all goes on; should the worker die, its sessions die with it.
    pub fn make(&self) -> io::Result<()> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (twins, masters) = link::pair()?;
        self.link.send(&ToMaster::Twin, Some(masters.as_fd()))?;
        drop(masters);
        sys::clone_twin(twins.as_raw_fd(), self.link.as_raw_fd())?;
        *line = Some(twins);
        Ok(())
    }

    /// Ends this process without a word to anybody, for another program to take over. Everything but
    /// these files is closed in the twin's table, too: daemons see at once that virtd is gone,
    /// whatever the next program does.
    pub fn leave(&self, files: &[RawFd]) -> ! {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let own = line.iter().map(AsRawFd::as_raw_fd).chain([self.link.as_raw_fd()]);
        let mut left: Vec<RawFd> = files.iter().copied().chain(own).collect();
        left.sort_unstable();
        sys::end_with(&left)
    }
}
