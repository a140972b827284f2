//! Raw system calls and errno. Every function gives `Err(errno)` instead of setting it: errno is
//! set once, at the edge.

use libc::{c_int, c_long, c_uint, c_void, socklen_t};
use std::mem;

/// errno of a failed call.
pub type Errno = c_int;

/// SO_NETNS_COOKIE, which the libc crate lacks.
const SO_NETNS_COOKIE: c_int = 71;

/// The calling thread's errno.
pub fn errno() -> Errno {
    // SAFETY: the C library gives a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
pub fn set_errno(e: Errno) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = e }
}

/// What a raw system call gave, errno taken from where `syscall` put it.
pub fn check(r: c_long) -> Result<c_int, Errno> {
    if r < 0 {
        Err(errno())
    } else {
        Ok(r as c_int)
    }
}

/// socketpair(AF_UNIX, kind | SOCK_CLOEXEC).
pub fn pair(kind: c_int) -> Result<(c_int, c_int), Errno> {
    let mut fds = [0 as c_int; 2];
    // SAFETY: `fds` has room for the two numbers.
    check(unsafe {
        libc::syscall(libc::SYS_socketpair, libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    })?;
    Ok((fds[0], fds[1]))
}

/// close; what it says is of no use.
pub fn close(fd: c_int) {
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

/// close_range(2).
///
/// # Errors
/// Its own: ENOSYS before Linux 5.9.
pub fn close_range(first: c_uint, last: c_uint, flags: c_int) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(|_| ())
}

/// closefrom(3); errno is left alone.
pub fn close_from(first: c_uint) {
    let saved = errno();
    // Before Linux 5.9, or where a filter forbids the call.
    if close_range(first, c_uint::MAX, 0).is_err() {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is valid for the call.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
        // nr_open as the kernel has it, where there is no limit.
        let end = limit.rlim_cur.min(1 << 20) as c_uint;
        (first..end).for_each(|fd| close(fd as c_int));
    }
    set_errno(saved);
}

/// getsockopt of an int; `None` where the fd is no socket or the option unknown.
pub fn int_option(fd: c_int, level: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let n = option(fd, level, name, &mut value)?;
    (n == mem::size_of::<c_int>()).then_some(value)
}

fn option<T>(fd: c_int, level: c_int, name: c_int, value: &mut T) -> Option<usize> {
    let mut len = mem::size_of::<T>() as socklen_t;
    // SAFETY: `value` has room for `len` octets, and every caller's T is a plain number, valid
    // whatever is written.
    let r = unsafe {
        libc::syscall(libc::SYS_getsockopt, fd, level, name, (value as *mut T).cast::<c_void>(), &raw mut len)
    };
    (r == 0).then_some(len as usize)
}

/// SO_COOKIE; 0 where the fd is no socket.
pub fn cookie(fd: c_int) -> u64 {
    let mut value = 0u64;
    option(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut value).map_or(0, |_| value)
}

/// SO_NETNS_COOKIE of this thread; 0 where the kernel has none.
pub fn netns_cookie() -> u64 {
    // SAFETY: no memory is passed.
    let fd =
        unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) } as c_int;
    if fd < 0 {
        return 0;
    }
    let cookie = netns_cookie_of(fd);
    close(fd);
    cookie
}

/// SO_NETNS_COOKIE of a socket, which stays where it was made wherever its process goes; 0 where
/// the kernel has none.
pub fn netns_cookie_of(fd: c_int) -> u64 {
    let mut value = 0u64;
    option(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, &mut value).map_or(0, |_| value)
}

/// Milliseconds on the monotonic clock.
pub fn monotonic_ms() -> u64 {
    monotonic_us() / 1000
}

/// Microseconds on the monotonic clock.
pub fn monotonic_us() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a whole timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    (t.tv_sec as u64).saturating_mul(1_000_000).saturating_add(t.tv_nsec as u64 / 1000)
}

/// setsockopt by raw system call; an option that the socket refuses is left as it is.
pub fn set_option(fd: c_int, level: c_int, name: c_int, value: &[u8]) {
    // SAFETY: pointer and length describe `value`.
    unsafe { libc::syscall(libc::SYS_setsockopt, fd, level, name, value.as_ptr(), value.len()) };
}

/// SO_ATTACH_FILTER.
pub fn attach_filter(fd: c_int, program: &libc::sock_fprog) -> Result<(), Errno> {
    let (program, len) = (std::ptr::from_ref(program), mem::size_of::<libc::sock_fprog>());
    // SAFETY: a whole sock_fprog, whose instructions its maker vouches for.
    check(unsafe { libc::syscall(libc::SYS_setsockopt, fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program, len) })
        .map(|_| ())
}

/// (process id, thread id), asked of the kernel each time.
pub fn ids() -> (u32, u32) {
    // SAFETY: no memory is passed.
    unsafe { (libc::syscall(libc::SYS_getpid) as u32, libc::syscall(libc::SYS_gettid) as u32) }
}

/// Whether a Unix socket is connected and nameless at both ends, as a socketpair's ends are;
/// sockets with a path, sockets that listen and those not connected yet are not.
pub fn is_unnamed_pair(fd: c_int) -> bool {
    [libc::SYS_getsockname, libc::SYS_getpeername].into_iter().all(|call| {
        let mut storage = crate::addr::storage();
        let mut len = mem::size_of::<libc::sockaddr_storage>() as socklen_t;
        with_address(call, fd, &mut storage, &mut len).is_ok() && len as usize == mem::size_of::<libc::sa_family_t>()
    })
}

/// AF_INET or AF_INET6 where the fd is a TCP socket of the kernel's, AF_UNIX for any Unix socket;
/// else `None`.
pub fn domain(fd: c_int) -> Option<c_int> {
    match int_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)? {
        libc::AF_UNIX => Some(libc::AF_UNIX),
        family @ (libc::AF_INET | libc::AF_INET6) => {
            (int_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)? == libc::SOCK_STREAM).then_some(family)
        }
        _ => None,
    }
}

/// Whether receives and sends on it wait, unless they say otherwise.
pub fn blocks(fd: c_int) -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(fd, libc::F_GETFL).max(0) & libc::O_NONBLOCK == 0 }
}

/// (status flags, descriptor flags).
fn flags(fd: c_int) -> (c_int, c_int) {
    // SAFETY: no memory is passed.
    unsafe { (libc::fcntl(fd, libc::F_GETFL).max(0), libc::fcntl(fd, libc::F_GETFD).max(0)) }
}

/// Puts `new` in the place of `fd`, with the flags `fd` has, and closes `new`.
pub fn replace(fd: c_int, new: c_int) -> Result<(), Errno> {
    let (status, descriptor) = flags(fd);
    set_nonblocking(new, status & libc::O_NONBLOCK != 0);
    let cloexec = if descriptor & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: no memory is passed.
    let r = check(unsafe { libc::syscall(libc::SYS_dup3, new, fd, cloexec) });
    close(new);
    r.map(|_| ())
}

/// Clears FD_CLOEXEC.
pub fn keep_over_exec(fd: c_int) {
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
}

/// Sleeps, so that a daemon which polls something dead cannot spin.
pub fn pause_us(us: u32) {
    // SAFETY: no memory is passed.
    unsafe { libc::usleep(us) };
}

/// Sets or clears O_NONBLOCK.
pub fn set_nonblocking(fd: c_int, on: bool) {
    let (status, _) = flags(fd);
    let wanted = if on { status | libc::O_NONBLOCK } else { status & !libc::O_NONBLOCK };
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) };
}

/// Moves `fd` up to a number a daemon is unlikely to use, out of reach of dup2(fd, 3) and loops
/// over low numbers.
pub fn move_high(fd: c_int) -> c_int {
    for floor in [1000, 200, 64] {
        // SAFETY: no memory is passed.
        let high = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, floor) };
        if high >= 0 {
            close(fd);
            return high;
        }
    }
    fd
}

/// poll of one fd; `Ok(0)` is the timeout (milliseconds, -1 for none). Interrupted calls go on.
pub fn poll(fd: c_int, events: i16, timeout_ms: c_int) -> Result<i16, Errno> {
    let mut p = libc::pollfd { fd, events, revents: 0 };
    loop {
        // SAFETY: `p` is one pollfd.
        match check(unsafe { libc::poll(&raw mut p, 1, timeout_ms) } as c_long) {
            Ok(0) => return Ok(0),
            Ok(_) => return Ok(p.revents),
            Err(libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Writes zeros until the socket says it is not writable; gives how many.
pub fn fill(fd: c_int) -> u32 {
    let zeros = [0u8; 65536];
    let mut n: u32 = 0;
    // A send buffer is a few hundred kilobytes; the bound only keeps a strange kernel from holding
    // us here.
    for _ in 0..1024 {
        if poll(fd, libc::POLLOUT, 0) == Ok(0) {
            break;
        }
        // SAFETY: `zeros` is valid for its length; there is no address.
        let r = unsafe {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            libc::syscall(libc::SYS_sendto, fd, zeros.as_ptr(), zeros.len(), flags, std::ptr::null::<c_void>(), 0)
        };
        match u32::try_from(r) {
            Ok(sent) => n += sent,
            Err(_) => break,
        }
    }
    n
}

/// Room for two passed fds, aligned as cmsghdr wants it.
#[repr(C, align(8))]
pub struct Control(pub [u8; 64]);

/// sendmsg of `bytes` with `fds`.
pub fn send_with_fds(fd: c_int, bytes: &[u8], fds: &[c_int]) -> Result<(), Errno> {
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut msg = message();
    (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
    attach(&mut msg, &mut control, fds)?;
    loop {
        // SAFETY: everything `msg` points to lives until here.
        match check(unsafe { libc::syscall(libc::SYS_sendmsg, fd, &raw const msg, libc::MSG_NOSIGNAL) }) {
            Err(libc::EINTR) => {}
            r => return r.map(|_| ()),
        }
    }
}

/// Sends one message without fds; never waits.
///
/// # Errors
/// The socket's.
pub fn send(fd: c_int, bytes: &[u8]) -> Result<(), Errno> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let (none, len): (*const c_void, usize) = (std::ptr::null(), bytes.len());
    // SAFETY: `bytes` is valid for its length; there is no address.
    check(unsafe { libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), len, flags, none, 0) }).map(|_| ())
}

/// The next message, or its beginning; never waits. With MSG_PEEK in `flags` it stays. Fds that
/// came with it do not come here.
///
/// # Errors
/// The socket's.
pub fn receive(fd: c_int, bytes: &mut [u8], flags: c_int) -> Result<usize, Errno> {
    let (none, flags): (*const c_void, c_int) = (std::ptr::null(), flags | libc::MSG_DONTWAIT);
    // SAFETY: `bytes` is valid for its length; no address is asked for.
    let n =
        check(unsafe { libc::syscall(libc::SYS_recvfrom, fd, bytes.as_mut_ptr(), bytes.len(), flags, none, none) })?;
    Ok(n as usize)
}

/// An empty msghdr.
pub fn message() -> libc::msghdr {
    // SAFETY: msghdr is plain data; zero is a valid value for each field.
    unsafe { mem::zeroed() }
}

/// Makes `fds` the control message of `msg`, in `control`, which has to live as long as `msg` is
/// used.
pub fn attach(msg: &mut libc::msghdr, control: &mut Control, fds: &[c_int]) -> Result<(), Errno> {
    let payload = mem::size_of_val(fds);
    // SAFETY: pure arithmetic.
    let (space, len) = unsafe { (libc::CMSG_SPACE(payload as u32), libc::CMSG_LEN(payload as u32)) };
    if space as usize > control.0.len() {
        return Err(libc::EINVAL);
    }
    (msg.msg_control, msg.msg_controllen) = (control.0.as_mut_ptr().cast(), space as _);
    // SAFETY: the control buffer is large enough for one header with `payload` octets, as checked;
    // CMSG_FIRSTHDR points into it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(std::ptr::from_ref(msg));
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = len as _;
        std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), payload);
    }
    Ok(())
}

/// recvmsg into `bytes`; gives the length and the one fd that may come along. `flags` are the
/// caller's (MSG_DONTWAIT).
pub fn receive_with_fd(fd: c_int, bytes: &mut [u8], flags: c_int) -> Result<(usize, Option<c_int>), Errno> {
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut msg = message();
    (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
    (msg.msg_control, msg.msg_controllen) = (control.0.as_mut_ptr().cast(), control.0.len() as _);
    // SAFETY: everything `msg` points to lives until the end of the function.
    let n = check(unsafe { libc::syscall(libc::SYS_recvmsg, fd, &raw mut msg, flags | libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel has filled the control buffer with whole headers; CMSG_FIRSTHDR is null
    // where there is none.
    let passed = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const msg);
        if header.is_null() || (*header).cmsg_level != libc::SOL_SOCKET || (*header).cmsg_type != libc::SCM_RIGHTS {
            None
        } else {
            let mut got: c_int = -1;
            std::ptr::copy_nonoverlapping(
                libc::CMSG_DATA(header),
                (&raw mut got).cast::<u8>(),
                mem::size_of::<c_int>(),
            );
            Some(got)
        }
    };
    Ok((n as usize, passed))
}

/// A SEQPACKET connection to the socket at `path`.
pub fn connect_path(path: &[u8]) -> Result<c_int, Errno> {
    connect_unix(path, libc::SOCK_SEQPACKET)
}

/// Whose the file at `path` is; `None` where there is none.
pub fn owner(path: &[u8]) -> Option<u32> {
    let mut whole = [0u8; 109];
    whole.get_mut(..path.len()).filter(|room| room.len() < 109)?.copy_from_slice(path);
    // SAFETY: stat is plain data.
    let mut is: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the path ends with a zero, since there is room for one; `is` lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, whole.as_ptr(), &raw mut is, 0) };
    check(done).ok()?;
    Some(is.st_uid)
}

/// A SEQPACKET connection to the abstract socket (unix(7)) of that name, if a process of root's or of
/// this user's has it: anybody may take a name.
///
/// # Errors
/// ECONNREFUSED where nobody has it, or somebody else.
pub fn connect_abstract(name: &[u8], user: u32) -> Result<c_int, Errno> {
    let mut whole = [0u8; 108];
    let Some(room) = whole.get_mut(1..=name.len()) else { return Err(libc::ENAMETOOLONG) };
    room.copy_from_slice(name);
    let fd = connect_unix(whole.get(..=name.len()).unwrap_or_default(), libc::SOCK_SEQPACKET)?;
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    if option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut peer).is_some() && (peer.uid == 0 || peer.uid == user) {
        return Ok(fd);
    }
    close(fd);
    Err(libc::ECONNREFUSED)
}

/// A connection of type `kind` to the Unix socket at `path`, or, where that begins with a NUL, to
/// the abstract one.
fn connect_unix(path: &[u8], kind: c_int) -> Result<c_int, Errno> {
    // SAFETY: sockaddr_un is plain data.
    let mut sun: libc::sockaddr_un = unsafe { mem::zeroed() };
    sun.sun_family = libc::AF_UNIX as _;
    let is_abstract = path.first() == Some(&0);
    if path.is_empty() || path.len() >= sun.sun_path.len() + usize::from(is_abstract) {
        return Err(libc::ENAMETOOLONG);
    }
    for (to, from) in sun.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::syscall(libc::SYS_socket, libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) })?;
    // An abstract name has the length that is said here.
    let begin = mem::offset_of!(libc::sockaddr_un, sun_path);
    let len = if is_abstract { begin + path.len() } else { mem::size_of::<libc::sockaddr_un>() };
    // SAFETY: `sun` is a whole sockaddr_un, and `len` no more than that.
    match check(unsafe { libc::syscall(libc::SYS_connect, fd, &raw const sun, len) }) {
        Ok(_) => Ok(fd),
        Err(e) => {
            close(fd);
            Err(e)
        }
    }
}

/// getsockname, getpeername or bind with a sockaddr_storage of ours, by raw system call number.
pub fn with_address(
    call: c_long,
    fd: c_int,
    storage: &mut libc::sockaddr_storage,
    len: &mut socklen_t,
) -> Result<(), Errno> {
    let pointer: *mut libc::sockaddr_storage = storage;
    // SAFETY: `storage` has room for any address; bind takes the length by value, the others by
    // pointer.
    let r = unsafe {
        if call == libc::SYS_bind {
            libc::syscall(call, fd, pointer, *len)
        } else {
            libc::syscall(call, fd, pointer, std::ptr::from_mut(len))
        }
    };
    check(r).map(|_| ())
}

/// Where syslogd, or journald in its place, receives a line in a datagram (syslog(3)).
const SYSLOG: &[u8] = b"/dev/log";
/// LOG_DAEMON | LOG_ERR (syslog(3)), as RFC 3164 section 4.1.1 writes it.
const SYSLOG_PRIORITY: &str = "<27>";
/// Major and minor number of /dev/null.
const NULL_DEVICE: (c_uint, c_uint) = (1, 3);

/// A line for the operator; the only thing the shim ever prints. A daemon in the background has no
/// stderr: there it goes to the system's log.
pub fn complain(parts: &[&str]) {
    let mut line = Line { octets: [0; 512], len: 0 };
    let heard = stderr_is_heard();
    if !heard {
        line.put(SYSLOG_PRIORITY);
    }
    line.put("libhvlibc");
    if !heard {
        line.put("[");
        line.number(ids().0);
        line.put("]");
    }
    line.put(": ");
    parts.iter().for_each(|part| line.put(part));
    if heard {
        line.put("\n");
        // SAFETY: the first `len` octets are set.
        unsafe { libc::syscall(libc::SYS_write, 2, line.octets.as_ptr(), line.len) };
    } else {
        log(&line);
    }
}

/// Text of bounded length, made without allocating.
struct Line {
    octets: [u8; 512],
    len: usize,
}

impl Line {
    fn put(&mut self, text: &str) {
        text.bytes().for_each(|octet| self.octet(octet));
    }

    fn octet(&mut self, octet: u8) {
        if let Some(place) = self.octets.get_mut(self.len) {
            *place = octet;
            self.len += 1;
        }
    }

    fn number(&mut self, n: u32) {
        let digits = n.checked_ilog10().unwrap_or(0);
        for place in (0..=digits).rev() {
            self.octet(b'0' + (n / 10u32.pow(place) % 10) as u8);
        }
    }
}

/// Whether what is written to stderr can reach anybody: it is open, and not /dev/null.
fn stderr_is_heard() -> bool {
    // SAFETY: stat is plain data, valid whatever is written to it.
    let mut about: libc::stat = unsafe { mem::zeroed() };
    // By its number, since the function is younger than some C libraries.
    // SAFETY: `about` is a whole stat, on 64-bit machines the kernel's own.
    if unsafe { libc::syscall(libc::SYS_fstat, 2, &raw mut about) } != 0 {
        return false;
    }
    let device = about.st_mode & libc::S_IFMT == libc::S_IFCHR;
    !device || (libc::major(about.st_rdev), libc::minor(about.st_rdev)) != NULL_DEVICE
}

/// Sends a line to the system's log, if there is one; never waits. Not syslog(3): its lock may have
/// been held over a fork.
fn log(line: &Line) {
    if let Ok(fd) = connect_unix(SYSLOG, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK) {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the first `len` octets are set; the socket is connected, there is no address.
        unsafe {
            let none = std::ptr::null::<c_void>();
            libc::syscall(libc::SYS_sendto, fd, line.octets.as_ptr(), line.len, flags, none, 0)
        };
        close(fd);
    }
}
