//! The system calls on a pair with the caller's own buffers, and the only place that reads what a
//! caller's msghdr points to.

use super::{data, Pair};
use crate::addr;
use crate::sys::{self, check, Control, Errno};
use libc::{c_int, c_uint, c_void, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, timespec};

/// The buffers of a call under way, by pointer: a list made for one call and not kept after it.
#[derive(Clone, Copy)]
pub struct Buffers {
    list: *const iovec,
    n: usize,
}

impl Buffers {
    /// # Safety
    /// `list` is valid for `n` entries, and each of those for reads (when sending) or writes (when
    /// receiving) of its length, as long as this is used: sendmsg's and recvmsg's contract.
    pub unsafe fn new(list: *const iovec, n: usize) -> Buffers {
        Buffers { list, n: if list.is_null() { 0 } else { n } }
    }

    fn list(&self) -> &[iovec] {
        if self.n == 0 {
            return &[];
        }
        // SAFETY: `new`'s promise; the list is not null.
        unsafe { std::slice::from_raw_parts(self.list, self.n) }
    }

    /// Octets in all of them.
    pub fn len(&self) -> usize {
        self.list().iter().fold(0, |n: usize, v| n.saturating_add(v.iov_len))
    }

    /// Copies what lies at `offset`, across the buffers' bounds; gives how much there was.
    pub fn read(&self, mut offset: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        for v in self.list() {
            if offset >= v.iov_len {
                offset -= v.iov_len;
                continue;
            }
            let Some(room) = out.get_mut(done..).filter(|r| !r.is_empty()) else { break };
            let n = room.len().min(v.iov_len - offset);
            // SAFETY: `new`'s promise: the buffer holds `iov_len` octets, of which those from
            // `offset` on are read.
            unsafe { std::ptr::copy_nonoverlapping(v.iov_base.cast::<u8>().add(offset), room.as_mut_ptr(), n) };
            (done, offset) = (done + n, 0);
        }
        done
    }

    /// Fills them with these octets, as far as there is room.
    fn write(&self, mut bytes: &[u8]) {
        for v in self.list() {
            let n = v.iov_len.min(bytes.len());
            // SAFETY: `new`'s promise: the buffer has room for `iov_len` octets.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), v.iov_base.cast::<u8>(), n) };
            bytes = bytes.get(n..).unwrap_or_default();
        }
    }
}

/// A buffer that is only read.
pub fn one(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// One datagram to virtd, never waiting, with an fd where one is to go along. EINTR is tried again.
pub fn transmit(fd: c_int, buffers: &Buffers, pass: Option<c_int>) -> Result<(), Errno> {
    let mut control = Control([0; 64]);
    let mut msg = sys::message();
    (msg.msg_iov, msg.msg_iovlen) = (buffers.list.cast_mut(), buffers.n as _);
    if let Some(end) = pass {
        sys::attach(&mut msg, &mut control, &[end])?;
    }
    loop {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: everything `msg` points to lives until here: `Buffers`' promise.
        match check(unsafe { libc::syscall(libc::SYS_sendmsg, fd, &raw const msg, flags) }) {
            Err(libc::EINTR) => {}
            r => return r.map(|_| ()),
        }
    }
}

/// Where a datagram goes, and what recvmsg says besides its octets.
pub struct Incoming {
    /// The caller's.
    pub buffers: Buffers,
    control: *mut c_void,
    /// Room for control messages; after receiving, what they take.
    control_len: usize,
    /// msg_flags.
    flags: c_int,
}

impl Incoming {
    fn plain(buffers: Buffers) -> Incoming {
        Incoming { buffers, control: std::ptr::null_mut(), control_len: 0, flags: 0 }
    }

    /// Fills the buffers as if these octets had been received; gives how many there are.
    pub fn give(&mut self, bytes: &[u8]) -> usize {
        self.buffers.write(bytes);
        self.control_len = 0;
        self.flags = if bytes.len() > self.buffers.len() { libc::MSG_TRUNC } else { 0 };
        bytes.len()
    }
}

/// Receives a datagram; gives its full length, which may be more than the buffers hold. 0: the
/// other end is closed.
pub fn take(fd: c_int, to: &mut Incoming, flags: c_int) -> Result<usize, Errno> {
    let mut msg = sys::message();
    (msg.msg_iov, msg.msg_iovlen) = (to.buffers.list.cast_mut(), to.buffers.n as _);
    (msg.msg_control, msg.msg_controllen) = (to.control, to.control_len as _);
    // SAFETY: everything `msg` points to is the caller's, and lives until here.
    let n = check(unsafe { libc::syscall(libc::SYS_recvmsg, fd, &raw mut msg, flags | libc::MSG_TRUNC) })?;
    (to.control_len, to.flags) = (msg.msg_controllen as _, msg.msg_flags);
    Ok(n as usize)
}

/// Takes away a datagram that was peeked at; its first octets.
pub fn take_away(fd: c_int) -> [u8; 4] {
    let mut octets = [0u8; 4];
    // SAFETY: `octets` is valid for its length; no address is asked for.
    unsafe {
        let (room, none) = (octets.len(), std::ptr::null_mut::<c_void>());
        libc::syscall(libc::SYS_recvfrom, fd, octets.as_mut_ptr(), room, libc::MSG_DONTWAIT, none, none)
    };
    octets
}

/// send, sendto, write.
///
/// # Safety
/// As sendto's caller promises.
pub unsafe fn sendto(
    fd: c_int,
    pair: &Pair,
    bytes: *const c_void,
    len: size_t,
    to: *const sockaddr,
    to_len: socklen_t,
) -> Result<usize, Errno> {
    let one = iovec { iov_base: bytes.cast_mut(), iov_len: len };
    // SAFETY: the caller's promise, for the one buffer.
    unsafe {
        destination(to, to_len)?;
        data::send(fd, pair, &Buffers::new(&raw const one, 1))
    }
}

/// sendmsg. Control messages (credentials, of which netlink would make sure) are not passed on.
///
/// # Safety
/// As sendmsg's caller promises.
pub unsafe fn sendmsg(fd: c_int, pair: &Pair, msg: *const msghdr) -> Result<usize, Errno> {
    if msg.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let m = *msg;
        destination(m.msg_name.cast(), m.msg_namelen)?;
        data::send(fd, pair, &Buffers::new(m.msg_iov, m.msg_iovlen))
    }
}

/// sendmmsg: the number of datagrams sent.
///
/// # Safety
/// As sendmmsg's caller promises.
pub unsafe fn sendmmsg(fd: c_int, pair: &Pair, list: *mut mmsghdr, n: c_uint) -> Result<usize, Errno> {
    for i in 0..n as usize {
        // SAFETY: the caller's promise: `n` entries.
        let r = unsafe {
            let m = list.add(i);
            sendmsg(fd, pair, &raw const (*m).msg_hdr).map(|sent| (*m).msg_len = sent as c_uint)
        };
        match r {
            Ok(()) => {}
            Err(e) if i == 0 => return Err(e),
            Err(_) => return Ok(i),
        }
    }
    Ok(n as usize)
}

/// Whether a datagram may go there: to the kernel, which is port id 0. Other processes' sockets are
/// out of reach.
///
/// # Safety
/// As sendto's caller promises.
unsafe fn destination(to: *const sockaddr, len: socklen_t) -> Result<(), Errno> {
    if to.is_null() || len == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    match unsafe { addr::read_netlink(to, len) } {
        Some((0, _)) => Ok(()),
        Some(_) => Err(libc::ECONNREFUSED),
        None => Err(libc::EINVAL),
    }
}

/// recv, recvfrom, read.
///
/// # Safety
/// As recvfrom's caller promises.
pub unsafe fn recvfrom(
    fd: c_int,
    pair: &Pair,
    bytes: *mut c_void,
    len: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Result<usize, Errno> {
    let one = iovec { iov_base: bytes, iov_len: len };
    // SAFETY: the caller's promise, for the one buffer and the address.
    unsafe {
        let n = data::receive(fd, pair, &mut Incoming::plain(Buffers::new(&raw const one, 1)), flags)?;
        if !from.is_null() && !from_len.is_null() {
            *from_len = addr::write_netlink(0, 0, from, *from_len);
        }
        Ok(n)
    }
}

/// recvmsg.
///
/// # Safety
/// As recvmsg's caller promises.
pub unsafe fn recvmsg(fd: c_int, pair: &Pair, msg: *mut msghdr, flags: c_int) -> Result<usize, Errno> {
    if msg.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let m = &mut *msg;
        let mut to = Incoming::plain(Buffers::new(m.msg_iov, m.msg_iovlen));
        (to.control, to.control_len) = (m.msg_control, m.msg_controllen);
        let n = data::receive(fd, pair, &mut to, flags)?;
        if !m.msg_name.is_null() {
            m.msg_namelen = addr::write_netlink(0, 0, m.msg_name.cast(), m.msg_namelen);
        }
        (m.msg_controllen, m.msg_flags) = (to.control_len as _, to.flags);
        Ok(n)
    }
}

/// recvmmsg: the number of datagrams received. As in the kernel, the time is looked at after each
/// datagram only.
///
/// # Safety
/// As recvmmsg's caller promises.
pub unsafe fn recvmmsg(
    fd: c_int,
    pair: &Pair,
    list: *mut mmsghdr,
    n: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> Result<usize, Errno> {
    let begin = sys::monotonic_ms();
    // SAFETY: the caller's promise.
    let limit = unsafe { timeout.as_ref() }.map(|t| t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000);
    let (mut flags, wait_for_one) = (flags & !libc::MSG_WAITFORONE, flags & libc::MSG_WAITFORONE != 0);
    for i in 0..n as usize {
        // SAFETY: the caller's promise: `n` entries.
        let r = unsafe {
            let m = list.add(i);
            recvmsg(fd, pair, &raw mut (*m).msg_hdr, flags).map(|got| (*m).msg_len = got as c_uint)
        };
        match r {
            Ok(()) => {}
            Err(e) if i == 0 => return Err(e),
            Err(e) => {
                data::postpone(pair, e);
                return Ok(i);
            }
        }
        if limit.is_some_and(|l| sys::monotonic_ms() - begin >= l) {
            return Ok(i + 1);
        }
        if wait_for_one {
            flags |= libc::MSG_DONTWAIT;
        }
    }
    Ok(n as usize)
}
