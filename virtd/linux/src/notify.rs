//! What a service manager is told (sd_notify(3)), and what it wants to be told.

use nix::time::{ClockId, clock_gettime};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells a service manager that asked for it, so that daemons ordered after virtd find its socket.
/// Never waits: of one that does not read it is not told.
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    let sent = address.and_then(|a| socket?.send_to_addr(state.as_bytes(), &a));
    if let Err(e) = sent {
        log::warn!("NOTIFY_SOCKET {}: {e}", path.display());
    }
}

/// How long a service manager waits for WATCHDOG=1 before it ends this process
/// (sd_watchdog_enabled(3)); `None` where it does not.
pub fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if std::env::var_os("WATCHDOG_PID").is_some() && number("WATCHDOG_PID") != Some(u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|us| *us > 0).map(Duration::from_micros)
}

/// CLOCK_MONOTONIC, in microseconds: what MONOTONIC_USEC= says beside RELOADING=1.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
