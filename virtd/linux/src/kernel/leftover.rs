//! Routes of virtd's protocol number where no FIB is voted on: an earlier virtd with `[fib]` has
//! left them, nobody keeps them up to date, and by their metric they may win over what the daemons
//! write now. They are counted at the start, and removed where an operator says so.

use super::socket::{ANSWER_QUEUE, Received, RouteSocket};
use anyhow::{Context, Result, bail};
use std::io;
use wire::netlink::consts::*;
use wire::netlink::fib::{FibKey, encode_delete};
use wire::netlink::route::RTMSG_LEN;
use wire::netlink::{Frames, RouteMessage};

/// Where rtm_protocol stands in a request: with strict checking the kernel gives only the routes of
/// that one (since 4.20).
const RTM_PROTOCOL: usize = 5;
/// Times that a dump is read again where the kernel says that it was disturbed, or where routes
/// were there still after they were removed.
const MAX_ROUNDS: u8 = 5;

/// What a removal came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flushed {
    /// Routes removed.
    pub removed: u64,
    /// Those that are there still.
    pub left: u64,
}

/// How many routes of this protocol are in the kernel, in the network namespace of the caller, in
/// all tables and both families.
///
/// # Errors
/// The kernel's.
pub fn count(protocol: u8) -> Result<u64> {
    let mut socket = RouteSocket::open(&[], ANSWER_QUEUE).context("cannot open a netlink socket")?;
    Ok(routes(&mut socket, protocol)?.len() as u64)
}

/// Removes them. It takes a while where there are many: never on the loop.
///
/// # Errors
/// The kernel's.
pub fn flush(protocol: u8) -> Result<Flushed> {
    let mut socket = RouteSocket::open(&[], ANSWER_QUEUE).context("cannot open a netlink socket")?;
    let mut found = routes(&mut socket, protocol)?;
    let mut flushed = Flushed::default();
    for _ in 0..MAX_ROUNDS {
        let before = flushed.removed;
        for (key, metric) in &found {
            flushed.removed += u64::from(remove(&mut socket, key, protocol, *metric)?);
        }
        // A dump that was disturbed may have left some out.
        found = routes(&mut socket, protocol)?;
        if found.is_empty() || flushed.removed == before {
            break;
        }
    }
    flushed.left = found.len() as u64;
    Ok(flushed)
}

/// The keys and metrics of all of them.
fn routes(socket: &mut RouteSocket, protocol: u8) -> Result<Vec<(FibKey, u32)>> {
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut rounds = 0;
        loop {
            rounds += 1;
            let (some, disturbed) = dump(socket, protocol, family).context("the kernel's routes cannot be read")?;
            if !disturbed || rounds >= MAX_ROUNDS {
                all.extend(some);
                break;
            }
        }
    }
    Ok(all)
}

/// One dump, and whether the kernel says that it was disturbed.
fn dump(socket: &mut RouteSocket, protocol: u8, family: u8) -> Result<(Vec<(FibKey, u32)>, bool)> {
    let mut body = vec![0; RTMSG_LEN];
    for (at, octet) in [(0, family), (RTM_PROTOCOL, protocol)] {
        body.get_mut(at).into_iter().for_each(|field| *field = octet);
    }
    let seq = socket.ask(RTM_GETROUTE, NLM_F_DUMP, &body)?;
    let (mut found, mut disturbed) = (Vec::new(), false);
    loop {
        let bytes = match socket.receive()? {
            Received::Datagram(bytes) => bytes,
            // A dump goes on whenever something of it is taken.
            Received::Nothing => bail!("the dump stopped before its end"),
            Received::Lost => bail!("a part of the dump was lost"),
        };
        for frame in Frames::new(bytes) {
            let frame = frame?;
            if frame.header.seq != seq {
                continue;
            }
            disturbed |= frame.header.flags & NLM_F_DUMP_INTR != 0;
            match (frame.header.kind, frame.errno()) {
                (NLMSG_DONE, None | Some(0)) => return Ok((found, disturbed)),
                (NLMSG_DONE | NLMSG_ERROR, errno) => bail!(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))),
                (RTM_NEWROUTE, _) => found.extend(key_of(frame.payload, protocol)),
                _ => {}
            }
        }
    }
}

/// The key and metric of a route, if it is of the protocol: an older kernel gives all.
fn key_of(payload: &[u8], protocol: u8) -> Option<(FibKey, u32)> {
    let message = RouteMessage::parse(payload).ok()?;
    let ours = message.protocol == protocol && message.flags & RTM_F_CLONED == 0;
    Some((FibKey::from_message(&message).ok().filter(|_| ours)?, message.priority.unwrap_or(0)))
}

/// Removes one. False where the kernel did not: it is gone already, as a rule.
fn remove(socket: &mut RouteSocket, key: &FibKey, protocol: u8, metric: u32) -> Result<bool> {
    let seq = socket.ask(RTM_DELROUTE, NLM_F_ACK, &encode_delete(key, protocol, metric))?;
    let bytes = match socket.receive()? {
        Received::Datagram(bytes) => bytes,
        Received::Nothing | Received::Lost => bail!("the kernel did not answer"),
    };
    for frame in Frames::new(bytes) {
        let frame = frame?;
        if frame.header.seq == seq && frame.header.kind == NLMSG_ERROR {
            return match frame.errno() {
                None | Some(0) => Ok(true),
                Some(libc::ESRCH | libc::ENOENT) => Ok(false),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)).context("a route cannot be removed"),
            };
        }
    }
    bail!("the kernel did not answer")
}
