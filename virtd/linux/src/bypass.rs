//! Looks for what goes past virtd: TCP sockets on BGP ports in its network namespace that are not
//! its own, such as those of a daemon whose LD_PRELOAD names no library (the dynamic loader only
//! warns).
//!
//! A thread asks the kernel for all TCP sockets now and then (sock_diag(7)) and compares them with
//! the fds of this process. The loop is not asked: it has better to do.

use crate::eventlog::EventSender;
use broker::event::{Event, Severity};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use virtd_config::Config;
use wire::netlink::consts::{AF_INET, AF_INET6, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use wire::netlink::diag::{self, SOCK_DIAG_BY_FAMILY, TCP_LISTEN, TcpSocket};
use wire::netlink::{Frames, Writer};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(10);
/// Octets of a receive buffer: twice what the kernel puts into one datagram of a dump.
const BUFFER: usize = 64 * 1024;
/// Sockets told of in one look; a daemon that is wrong has one for each peer, and the first few say
/// it.
const MAX_TOLD: usize = 16;

/// The ports on which BGP is spoken: the router's own, and the peers'. The loop changes them when a
/// reload does.
#[derive(Clone, Default, Debug)]
pub struct Ports(Arc<Mutex<HashMap<IpAddr, u16>>>);

impl Ports {
    /// The peers as configured, from now on.
    pub fn set(&self, config: &Config) {
        let peers = config.peers.iter().map(|p| (p.address, config.port_of(p.address))).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    fn of_peers(&self) -> HashMap<IpAddr, u16> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many sockets go past virtd, as far as that is known.
#[derive(Clone, Default, Debug)]
pub struct Seen(Arc<Mutex<Option<usize>>>);

impl Seen {
    /// At the last look; `None` before the first, and where the kernel did not say.
    pub fn now(&self) -> Option<usize> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, seen: Option<usize>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

/// What the thread looks for, and whom it tells.
pub struct Looks {
    /// The router's own port.
    pub port: u16,
    /// The peers'.
    pub ports: Ports,
    /// virtd's start.
    pub start: Instant,
    /// Where `native-bgp` goes.
    pub events: EventSender,
    /// Who holds a socket.
    pub who: Who,
    /// How many there are.
    pub seen: Seen,
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts to look, on a thread in the network namespace of the caller.
///
/// # Errors
/// There can be no thread.
pub fn start(looks: Looks) -> io::Result<Watch> {
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let thread = std::thread::Builder::new().name("bypass".into()).spawn(move || watch(&looks, &stopped))?;
    Ok(Watch { stop: Some(stop), thread: Some(thread) })
}

fn watch(looks: &Looks, stopped: &Receiver<()>) {
    let mut told = HashSet::new();
    let mut failed = false;
    loop {
        match strangers(looks.port, &looks.ports.of_peers()) {
            Ok(found) => {
                failed = false;
                looks.seen.set(Some(found.len()));
                told.retain(|cookie| found.iter().any(|s| s.cookie == *cookie));
                let news: Vec<_> = found.iter().filter(|s| !told.contains(&s.cookie)).take(MAX_TOLD).collect();
                for socket in news {
                    told.insert(socket.cookie);
                    looks.events.send(event(looks.start, socket, (looks.who)(socket.inode)));
                }
            }
            Err(e) => {
                looks.seen.set(None);
                if !std::mem::replace(&mut failed, true) {
                    log::warn!("sockets that go past virtd are not looked for: sock_diag: {e}");
                }
            }
        }
        if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Sockets on BGP ports that are not ours. What comes and goes while it is looked is not among
/// them: who is found is there twice.
fn strangers(port: u16, peers: &HashMap<IpAddr, u16>) -> io::Result<Vec<TcpSocket>> {
    let suspects = suspects(port, peers)?;
    if suspects.is_empty() {
        return Ok(suspects);
    }
    let again = self::suspects(port, peers)?;
    Ok(again.into_iter().filter(|s| suspects.iter().any(|first| first.cookie == s.cookie)).collect())
}

fn suspects(port: u16, peers: &HashMap<IpAddr, u16>) -> io::Result<Vec<TcpSocket>> {
    let mut own = own_inodes()?;
    let all = all_sockets()?;
    // A connection of the loop's that is younger than the first list is in the second.
    own.extend(own_inodes()?);
    Ok(select(port, peers, &all, &own))
}

/// Those of `all` that speak BGP and that neither we (by their inodes) nor a peer in this very
/// namespace can account for.
fn select(port: u16, peers: &HashMap<IpAddr, u16>, all: &[TcpSocket], own: &HashSet<u32>) -> Vec<TcpSocket> {
    let ours: HashSet<(SocketAddr, SocketAddr)> =
        all.iter().filter(|s| own.contains(&s.inode)).map(|s| (s.local, s.remote)).collect();
    let speaks_bgp = |s: &TcpSocket| {
        let theirs = peers.get(&s.remote.ip().to_canonical());
        match s.state {
            TCP_LISTEN => s.local.port() == port && !peers.contains_key(&s.local.ip()),
            _ => s.local.port() == port || s.remote.port() == port || theirs == Some(&s.remote.port()),
        }
    };
    // The other end of one of ours.
    let meets_ours = |s: &TcpSocket| ours.contains(&(s.remote, s.local));
    all.iter().filter(|s| s.inode != 0 && !own.contains(&s.inode) && speaks_bgp(s) && !meets_ours(s)).copied().collect()
}

/// The inodes of this process's sockets.
fn own_inodes() -> io::Result<HashSet<u32>> {
    Ok(inodes(Path::new("/proc/self/fd"))?.collect())
}

/// The inodes of the sockets that a folder of fds names.
fn inodes(fds: &Path) -> io::Result<impl Iterator<Item = u32> + use<>> {
    let links = fs::read_dir(fds)?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()))
}

fn all_sockets() -> io::Result<Vec<TcpSocket>> {
    let socket = NlSocket::new(NlFamily::SockOrInetDiag)?;
    socket.bind(None, Groups::empty())?;
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, u32::from(family), 0);
        diag::request(family, &mut w);
        // It has a fixed length.
        let _ = w.finish();
        socket.send(&bytes, Msg::empty())?;
        receive(&socket, &mut all)?;
    }
    Ok(all)
}

/// Receives to the end of a dump.
fn receive(socket: &NlSocket, all: &mut Vec<TcpSocket>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (len, _) = socket.recv(buffer.as_mut_slice(), Msg::empty())?;
        for frame in Frames::new(buffer.get(..len).unwrap_or_default()).flatten() {
            match (frame.header.kind, frame.errno()) {
                (SOCK_DIAG_BY_FAMILY, _) => all.extend(diag::read(frame.payload)),
                (NLMSG_DONE, _) => return Ok(()),
                (NLMSG_ERROR, Some(errno)) => return Err(io::Error::from_raw_os_error(errno)),
                _ => {}
            }
        }
    }
}

/// Who holds a socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// HV_INSTANCE of its environment: it was to be an instance.
    pub instance: Option<String>,
}

/// Says who holds the socket of an inode: somebody who may look into other processes.
pub type Who = Box<dyn Fn(u32) -> Option<Holder> + Send>;

/// Looks through the processes that this one may look into for who holds the socket of an inode.
pub fn holder(inode: u32) -> Option<Holder> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| inodes(Path::new(&format!("/proc/{pid}/fd"))).is_ok_and(|mut all| all.any(|i| i == inode));
    let pid = pids.into_iter().find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variables = environment.split(|octet| *octet == 0);
    let instance = variables.filter_map(|v| v.strip_prefix(b"HV_INSTANCE=")).next();
    Some(Holder { pid, name, instance: instance.map(|i| String::from_utf8_lossy(i).into_owned()) })
}

fn event(start: Instant, socket: &TcpSocket, holder: Option<Holder>) -> Event {
    let what = match socket.state {
        TCP_LISTEN => format!("listens on {}", socket.local),
        _ => format!("has a connection from {} to {}", socket.local, socket.remote),
    };
    let who = holder.as_ref().map_or_else(
        || "a process that cannot be named".to_owned(),
        |h| format!("{} (process {})", if h.name.is_empty() { "a process" } else { &h.name }, h.pid),
    );
    let remedy = match holder.as_ref().and_then(|h| h.instance.as_deref()) {
        Some(instance) => {
            format!("it is to be {instance}, but runs without the shim: LD_PRELOAD must name libhvlibc.so")
        }
        None => "end it, or make it an instance (LD_PRELOAD, HV_SOCKET, HV_INSTANCE)".to_owned(),
    };
    let at_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let text = format!("{who} {what} past virtd, so that peers may see two routers; {remedy}");
    let mut event = Event::new(at_us, "native-bgp", Severity::Alarm, text);
    if socket.state != TCP_LISTEN {
        event = event.with_session(socket.remote.ip().to_string());
    }
    match holder.and_then(|holder| holder.instance) {
        Some(instance) => event.with_instance(&instance),
        None => event,
    }
}

#[cfg(test)]
#[path = "bypass_tests.rs"]
mod tests;
