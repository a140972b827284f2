//! Memory that outlives the process: files without a name (memfd_create(2)), mapped, and the two
//! system calls whose result the kernel writes into that memory itself.

#![allow(unsafe_code)]

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// Slices to one sendmmsg.
pub(super) const SLICES: usize = 64;
/// In a message's length: the kernel has not said anything yet.
const UNSET: u32 = u32::MAX;
/// What [`Call::kind`] says: no call is under way.
pub(super) const NONE: u32 = 0;
/// Octets are being read.
pub(super) const READING: u32 = 1;
/// Octets are being written.
pub(super) const WRITING: u32 = 2;
/// Memory that is made present at once.
const STEP: usize = 1 << 20;
/// madvise(2), Linux 5.14.
const MADV_POPULATE_WRITE: i32 = 23;

/// Sets of files at once.
pub(super) const SETS: usize = 8;
/// Connections at once.
pub(super) const PLACES: usize = 8192;

/// An image, and the log that goes on where it ends.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Set {
    /// -1: none.
    pub image_fd: AtomicI32,
    /// -1: none.
    pub log_fd: AtomicI32,
    /// Octets.
    pub image_len: AtomicU64,
    /// Octets of whole records.
    pub log_len: AtomicU64,
}

/// One connection.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Place {
    /// Its name, 0: nobody's.
    pub conn: AtomicU64,
    /// Octets that the kernel has taken.
    pub taken: AtomicU64,
    /// Octets that it was to be given; never too few.
    pub given: AtomicU64,
    /// 1: its session stands.
    pub stands: AtomicU64,
}

/// The system call that is under way, or was when the process ended.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Call {
    pub kind: AtomicU32,
    pub place: AtomicU32,
    /// Where in the log the record begins; or how much had been taken before.
    pub base: AtomicU64,
    message: UnsafeCell<libc::mmsghdr>,
    slices: UnsafeCell<[libc::iovec; SLICES]>,
}

/// What the first file holds. All zeros is a valid one that says nothing.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Head {
    pub magic: AtomicU64,
    pub version: AtomicU32,
    /// The first set that counts, and in the second octet how many do.
    pub state: AtomicU32,
    /// It says not everything: nobody can go on with it.
    pub broken: AtomicU32,
    /// 1 + where the first record begins that has not been seen through, of the last log.
    pub begun: AtomicU64,
    pub sets: [Set; SETS],
    pub call: Call,
    pub places: [Place; PLACES],
}

/// A file without a name, mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    fd: OwnedFd,
    at: NonNull<u8>,
    len: usize,
    /// Octets that are present for good.
    present: usize,
}

// SAFETY: the mapping belongs to this value alone and goes where it goes; what is shared with other
// processes is not touched while they run.
unsafe impl Send for Mapped {}

impl Mapped {
    /// A new one of zeros. Pages come into being as they are used ([`Mapped::prepare`]).
    pub fn create(name: &CStr, len: usize) -> io::Result<Mapped> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&fd, i64::try_from(len).map_err(io::Error::other)?)?;
        Mapped::of(fd)
    }

    /// One that there is.
    pub fn of(fd: OwnedFd) -> io::Result<Mapped> {
        let len = usize::try_from(nix::sys::stat::fstat(&fd)?.st_size).map_err(io::Error::other)?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: a new mapping of a file that this value owns, at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Mapped { fd, at, len, present: 0 })
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Makes the octets before `end` present, and keeps them so: the kernel could not write its
    /// result into a page that is missing when the process is being killed.
    pub fn prepare(&mut self, end: usize) -> io::Result<()> {
        while self.present < end {
            let step = STEP.min(self.len.saturating_sub(self.present));
            if step == 0 {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the journal is full"));
            }
            // SAFETY: within the mapping: present + step <= len.
            unsafe {
                let from = self.at.as_ptr().add(self.present).cast();
                if libc::mlock(from, step) != 0 && libc::madvise(from, step, MADV_POPULATE_WRITE) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            self.present += step;
        }
        Ok(())
    }

    /// The octets from `from` on, `len` of them.
    pub fn octets(&self, from: usize, len: usize) -> &[u8] {
        if from.checked_add(len).is_none_or(|end| end > self.len) {
            return &[];
        }
        // SAFETY: within the mapping, which lives as long as `self`. Whoever writes there has `self`
        // mutably, or is the kernel in a call that has `self` mutably.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().add(from), len) }
    }

    /// Writes octets; what would be past the end is not.
    pub fn write(&mut self, at: usize, octets: &[u8]) {
        if at.checked_add(octets.len()).is_some_and(|end| end <= self.len) {
            // SAFETY: within the mapping, and `octets` is no part of it, since `self` is borrowed.
            unsafe { std::ptr::copy_nonoverlapping(octets.as_ptr(), self.at.as_ptr().add(at), octets.len()) }
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, of this length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// The first file.
#[derive(Debug)]
pub(super) struct HeadFile {
    mapped: Mapped,
}

impl HeadFile {
    pub const LEN: usize = size_of::<Head>();

    pub fn create(name: &CStr) -> io::Result<HeadFile> {
        HeadFile::of(Mapped::create(name, HeadFile::LEN)?)
    }

    /// # Errors
    /// It is too short to be one.
    pub fn of(mut mapped: Mapped) -> io::Result<HeadFile> {
        if mapped.len() < HeadFile::LEN {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is too short for a journal"));
        }
        let all = mapped.len();
        mapped.prepare(all)?;
        Ok(HeadFile { mapped })
    }

    pub fn head(&self) -> &Head {
        // SAFETY: the mapping is long enough and starts on a page. Every field is an atomic, or in a
        // cell that only the calls below touch, and all values of all octets are valid for them.
        unsafe { self.mapped.at.cast::<Head>().as_ref() }
    }

    /// recvmmsg(2) of at most `most` octets into `log` at `at`. How many the kernel says in the
    /// head, and here.
    pub fn receive(&self, socket: RawFd, log: &mut Mapped, at: usize, most: usize) -> io::Result<usize> {
        if at.checked_add(most).is_none_or(|end| end > log.present) {
            return Err(io::Error::other("no memory has been prepared"));
        }
        let call = &self.head().call;
        // SAFETY: only this function and the next touch the cells, and neither calls the other; the
        // slice is within the mapping of `log`, which is borrowed mutably.
        unsafe {
            let slices = call.slices.get().cast::<libc::iovec>();
            *slices = libc::iovec { iov_base: log.at.as_ptr().add(at).cast(), iov_len: most };
            self.prepare_message(1);
            call.kind.store(READING, Ordering::SeqCst);
            let none = std::ptr::null_mut();
            let flags = libc::MSG_DONTWAIT;
            if libc::recvmmsg(socket, call.message.get(), 1, flags as _, none) != 1 {
                let error = io::Error::last_os_error();
                call.kind.store(NONE, Ordering::SeqCst);
                return Err(error);
            }
        }
        Ok(self.said().unwrap_or_default())
    }

    /// sendmmsg(2) of these octets, at most [`SLICES`] of them.
    pub fn send(&self, socket: RawFd, octets: &[IoSlice<'_>]) -> io::Result<usize> {
        let call = &self.head().call;
        let n = octets.len().min(SLICES);
        // SAFETY: as above; IoSlice has the form of iovec (std), and the kernel only reads what they
        // point to, which lives through the call.
        unsafe {
            let slices = call.slices.get().cast::<libc::iovec>();
            std::ptr::copy_nonoverlapping(octets.as_ptr().cast::<libc::iovec>(), slices, n);
            self.prepare_message(n);
            call.kind.store(WRITING, Ordering::SeqCst);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            if libc::sendmmsg(socket, call.message.get(), 1, flags as _) != 1 {
                let error = io::Error::last_os_error();
                call.kind.store(NONE, Ordering::SeqCst);
                return Err(error);
            }
        }
        Ok(self.said().unwrap_or_default())
    }

    /// # Safety
    /// Nobody else touches the cells.
    unsafe fn prepare_message(&self, slices: usize) {
        let call = &self.head().call;
        // SAFETY: all zeros is a valid mmsghdr; the cells are the caller's alone.
        unsafe {
            let mut message: libc::mmsghdr = std::mem::zeroed();
            message.msg_hdr.msg_iov = call.slices.get().cast();
            message.msg_hdr.msg_iovlen = slices as _;
            message.msg_len = UNSET;
            call.message.get().write_volatile(message);
        }
    }

    /// How many octets the kernel says to have moved in the last call; `None`: it has not come to
    /// that.
    pub fn said(&self) -> Option<usize> {
        let call = &self.head().call;
        // SAFETY: the kernel wrote it in a call that is over; nobody else writes now.
        let n = unsafe { (&raw const (*call.message.get()).msg_len).read_volatile() };
        (n != UNSET).then_some(n as usize)
    }

    pub fn fd(&self) -> RawFd {
        self.mapped.fd()
    }
}
