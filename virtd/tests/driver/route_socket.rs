//! A network namespace of a test's own, and a daemon's route socket in it, the shim's part played
//! by hand.

use super::lab::{Answer, Lab, Shim, pair, receive};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessage, MsgFlags, SockType, recv, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};
use virtd_config::OpenMode;
use wire::netlink::consts::*;
use wire::netlink::message::Writer;
use wire::netlink::{Frames, Header, RouteMessage};
use wire::shim::Request;

/// Runs a test in a network namespace of its own, with one interface, n2 (10.0.2.1, fd00:2::1).
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !untested::needs_root(nix::unistd::Uid::effective().is_root()) {
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        ip("link add n2 type veth peer name far");
        ip("link set far up");
        ip("address add 10.0.2.1/24 dev n2");
        ip("address add fd00:2::1/64 dev n2 nodad");
        ip("link set n2 up");
        // Carriers and their routes come a moment later.
        wait("the link to be up", || ip("-o link").matches("state UP").count() == 2);
        test();
    });
    if let Err(e) = thread.join() {
        std::panic::resume_unwind(e);
    }
}

pub fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that somebody could have changed.
pub fn system() -> String {
    [
        "-o link",
        "-o address",
        "rule",
        "-6 rule",
        "neighbour",
        "nexthop",
        "route show table all",
        "-6 route show table all",
    ]
    .map(|what| {
        let shown = ip(what);
        // Counters and ages run by themselves.
        let stays = |l: &&str| !l.contains("expires") && !l.contains("fe80::") && !l.contains("ff00::");
        shown.lines().filter(stays).map(|l| format!("{l}\n")).collect::<String>()
    })
    .concat()
}

pub fn with_fib(n: usize) -> Lab {
    let names: Vec<String> = (0..n).map(|i| format!("i{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Lab::start_alone_with(&names, OpenMode::Voted, |c| {
        c.fib = Some(virtd_config::Fib::default());
        c.vote.t_ms = 100;
    })
}

/// A daemon's route socket.
pub struct Socket {
    pub end: OwnedFd,
    pub cookie: u64,
    pub seq: u32,
}

impl Socket {
    pub fn try_open(shim: &Shim, cookie: u64) -> Result<Socket, i32> {
        let (end, theirs) = pair(SockType::SeqPacket);
        socket2::SockRef::from(&end).set_send_buffer_size(4 << 20).unwrap();
        match shim.ask(&Request::Netlink { socket: cookie }, &[theirs.as_raw_fd()]) {
            Answer::NetlinkName(0, 0) => Ok(Socket { end, cookie, seq: 0 }),
            Answer::Error(errno, _) => Err(errno),
            other => panic!("{other:?}"),
        }
    }

    pub fn open(shim: &Shim, cookie: u64) -> Socket {
        Socket::try_open(shim, cookie).unwrap()
    }

    /// Sends a datagram and waits until virtd has taken it; false where the socket is closed.
    pub fn send(&self, bytes: &[u8]) -> bool {
        let (ours, theirs) = pair(SockType::SeqPacket);
        let fds = [theirs.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        if sendmsg::<()>(self.end.as_raw_fd(), &[IoSlice::new(bytes)], &rights, flags, None).is_err() {
            return false;
        }
        drop(theirs);
        receive(&ours, &mut [0]).expect("virtd does not answer") == 1
    }

    /// What is there to be received, a datagram each.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut buf = vec![0; 1 << 20];
        while let Ok(n) = recv(self.end.as_raw_fd(), &mut buf, MsgFlags::MSG_DONTWAIT) {
            if n == 0 {
                break;
            }
            all.push(buf[..n].to_vec());
        }
        all
    }

    pub fn message(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        self.seq += 1;
        let mut bytes = Vec::new();
        let mut w = Writer::message(&mut bytes, kind, flags | NLM_F_REQUEST, self.seq, 0);
        w.put(payload);
        w.finish().unwrap();
        bytes
    }

    /// Sends a request that wants an acknowledgement; its errno.
    pub fn request(&mut self, kind: u16, flags: u16, payload: &[u8]) -> i32 {
        let bytes = self.message(kind, flags | NLM_F_ACK, payload);
        assert!(self.send(&bytes), "closed");
        let answers = frames(&self.received());
        let acks: Vec<_> = answers.iter().filter(|(h, _)| h.kind == NLMSG_ERROR && h.seq == self.seq).collect();
        assert_eq!(acks.len(), 1, "type {kind}: {answers:?}");
        -i32::from_ne_bytes(*acks[0].1.first_chunk().unwrap())
    }

    /// A dump's messages, up to its end.
    pub fn dump(&mut self, kind: u16, payload: &[u8]) -> Vec<(Header, Vec<u8>)> {
        let bytes = self.message(kind, NLM_F_DUMP, payload);
        assert!(self.send(&bytes), "closed");
        self.rest_of_dump(self.seq)
    }

    pub fn rest_of_dump(&self, seq: u32) -> Vec<(Header, Vec<u8>)> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut all = Vec::new();
        while Instant::now() < deadline {
            all.extend(frames(&self.received()));
            if all.iter().any(|(h, _)| h.seq == seq && matches!(h.kind, NLMSG_DONE | NLMSG_ERROR)) {
                return all;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("a dump without an end: {} messages", all.len());
    }
}

pub fn frames(datagrams: &[Vec<u8>]) -> Vec<(Header, Vec<u8>)> {
    // Four octets are an error of the socket's.
    let whole = datagrams.iter().filter(|d| d.len() >= 16);
    whole.flat_map(|d| Frames::new(d).map(|f| f.map(|f| (f.header, f.payload.to_vec())).unwrap())).collect()
}

/// A route that needs no link.
pub fn blackhole(dst: &str) -> Vec<u8> {
    let dst: std::net::IpAddr = dst.parse().unwrap();
    let (family, dst_len) = if dst.is_ipv6() { (AF_INET6, 64) } else { (AF_INET, 24) };
    let (kind, protocol) = (RTN_BLACKHOLE, RTPROT_BIRD);
    RouteMessage { family, dst_len, protocol, kind, dst: Some(dst), ..RouteMessage::default() }.to_payload().unwrap()
}

pub fn destinations(dump: &[(Header, Vec<u8>)], protocol: u8) -> Vec<String> {
    let routes = dump.iter().filter(|(h, _)| h.kind == RTM_NEWROUTE).map(|(_, p)| RouteMessage::parse(p).unwrap());
    let mut all: Vec<String> =
        routes.filter(|r| r.protocol == protocol).filter_map(|r| r.dst).map(|a| a.to_string()).collect();
    all.sort();
    all
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
