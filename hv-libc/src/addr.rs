//! sockaddr_in and sockaddr_in6 to [`SocketAddr`] and back, sockaddr_nl likewise, with the kernel's
//! rules on lengths.

use libc::{sockaddr, sockaddr_in, sockaddr_in6, sockaddr_nl, sockaddr_storage, socklen_t};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// An empty sockaddr_storage.
pub fn storage() -> sockaddr_storage {
    // SAFETY: sockaddr_storage is plain data; zero is AF_UNSPEC.
    unsafe { mem::zeroed() }
}

/// Reads an address that a daemon passed; `None` for anything but whole IPv4 and IPv6 addresses.
///
/// # Safety
/// `addr` is null or valid for reads of `len` octets, as bind's and connect's callers promise.
pub unsafe fn read(addr: *const sockaddr, len: socklen_t) -> Option<SocketAddr> {
    // SAFETY: the caller's promise.
    match unsafe { family(addr, len) }? {
        libc::AF_INET if len as usize >= mem::size_of::<sockaddr_in>() => {
            // SAFETY: `len` covers the structure.
            let a = unsafe { addr.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(a.sin_port))))
        }
        libc::AF_INET6 if len as usize >= mem::size_of::<sockaddr_in6>() => {
            // SAFETY: `len` covers the structure.
            let a = unsafe { addr.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(a.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(a.sin6_port), a.sin6_flowinfo, a.sin6_scope_id)))
        }
        _ => None,
    }
}

/// The address as an IPv6 socket shows it: IPv4 mapped into ::ffff:0:0/96.
pub fn map(a: SocketAddr) -> SocketAddr {
    match a {
        SocketAddr::V4(v4) => SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0)),
        SocketAddr::V6(_) => a,
    }
}

/// The sockaddr of an address, in a storage, and its length.
pub fn to_storage(address: &SocketAddr) -> (sockaddr_storage, socklen_t) {
    let mut out = storage();
    let place: *mut sockaddr_storage = &raw mut out;
    match address {
        SocketAddr::V4(v4) => {
            // SAFETY: plain data.
            let mut a: sockaddr_in = unsafe { mem::zeroed() };
            a.sin_family = libc::AF_INET as _;
            a.sin_port = v4.port().to_be();
            a.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            // SAFETY: a sockaddr_storage has room for every kind of address.
            unsafe { place.cast::<sockaddr_in>().write(a) };
            (out, mem::size_of::<sockaddr_in>() as socklen_t)
        }
        SocketAddr::V6(v6) => {
            // SAFETY: plain data.
            let mut a: sockaddr_in6 = unsafe { mem::zeroed() };
            a.sin6_family = libc::AF_INET6 as _;
            a.sin6_port = v6.port().to_be();
            a.sin6_flowinfo = v6.flowinfo();
            a.sin6_addr.s6_addr = v6.ip().octets();
            a.sin6_scope_id = v6.scope_id();
            // SAFETY: as above.
            unsafe { place.cast::<sockaddr_in6>().write(a) };
            (out, mem::size_of::<sockaddr_in6>() as socklen_t)
        }
    }
}

/// Writes an address the way the kernel does: cut to the caller's room, the true length stored.
///
/// # Safety
/// `addr` is null, or valid for writes of `*len` octets with `len` valid for reads and writes:
/// accept's and getsockname's contract.
pub unsafe fn write(address: &SocketAddr, addr: *mut sockaddr, len: *mut socklen_t) {
    if addr.is_null() || len.is_null() {
        return;
    }
    let (from, full) = to_storage(address);
    // SAFETY: the caller's promise; at most the caller's room is written, at most `full` octets are
    // read.
    unsafe {
        let room = (*len).min(full) as usize;
        std::ptr::copy_nonoverlapping((&raw const from).cast::<u8>(), addr.cast::<u8>(), room);
        *len = full;
    }
}

/// sizeof(struct sockaddr_nl).
pub const NETLINK_LEN: socklen_t = mem::size_of::<sockaddr_nl>() as socklen_t;

/// The family of an address; `None` where there is none.
///
/// # Safety
/// As for [`read`].
pub unsafe fn family(addr: *const sockaddr, len: socklen_t) -> Option<i32> {
    if addr.is_null() || (len as usize) < mem::size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: the family is within `len`, as checked.
    Some(i32::from(unsafe { addr.cast::<libc::sa_family_t>().read_unaligned() }))
}

/// (nl_pid, nl_groups); `None` for anything but a whole netlink address.
///
/// # Safety
/// As for [`read`].
pub unsafe fn read_netlink(addr: *const sockaddr, len: socklen_t) -> Option<(u32, u32)> {
    // SAFETY: the caller's promise.
    if unsafe { family(addr, len) } != Some(libc::AF_NETLINK) || len < NETLINK_LEN {
        return None;
    }
    // SAFETY: `len` covers the structure.
    let a = unsafe { addr.cast::<sockaddr_nl>().read_unaligned() };
    Some((a.nl_pid, a.nl_groups))
}

/// Writes a netlink address, cut to `room` octets; gives its full length.
///
/// # Safety
/// `addr` is null or valid for writes of `room` octets.
pub unsafe fn write_netlink(port_id: u32, groups: u32, addr: *mut sockaddr, room: socklen_t) -> socklen_t {
    if !addr.is_null() {
        // SAFETY: plain data.
        let mut a: sockaddr_nl = unsafe { mem::zeroed() };
        a.nl_family = libc::AF_NETLINK as _;
        (a.nl_pid, a.nl_groups) = (port_id, groups);
        // SAFETY: the caller's promise; at most the structure is read.
        unsafe {
            std::ptr::copy_nonoverlapping(
                (&raw const a).cast::<u8>(),
                addr.cast::<u8>(),
                room.min(NETLINK_LEN) as usize,
            )
        };
    }
    NETLINK_LEN
}
