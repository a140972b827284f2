//! The broker's part of a route socket: datagrams go to a real one and back as they are. One thread
//! for both directions, so that all answers have been passed on when the octet is sent that a send
//! waits for.

use super::{last, receive};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    bind as bind_socket, getsockname, recv, send, sendto, setsockopt, socket, sockopt, AddressFamily, MsgFlags,
    NetlinkAddr, SockFlag, SockProtocol, SockType,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;
use wire::shim::{ANSWERED_AHEAD, TAKEN_BACK};

/// Longer than any datagram of a probe's.
const DATAGRAM: usize = 1 << 20;

/// What the broker lets pass before it hands on what was asked, and each answer: a shim that does
/// not wait is found out.
const DELAY: Duration = Duration::from_millis(2);
/// So many; thousands would take longer than a shim has to wait.
const DELAYED: usize = 10;
/// nlmsg_pid in a message.
const PORT: std::ops::Range<usize> = 12..16;
/// nlmsg_type of a message that asks the broker to say that notifications were lost.
const OVERRUN: [u8; 2] = (libc::NLMSG_OVERRUN as u16).to_ne_bytes();

/// A real socket for a pair's end, and the thread that joins them.
pub fn open(end: OwnedFd, log: impl Fn(&str) + Send + 'static) -> (OwnedFd, OwnedFd) {
    let real = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
    let real = real.expect("a netlink socket");
    // Unlike the daemon's, this one has no filter against echoes: hundreds at once must not become
    // ENOBUFS.
    setsockopt(&real, sockopt::RcvBufForce, &(64 << 20)).expect("SO_RCVBUFFORCE");
    setsockopt(&end, sockopt::SndBuf, &(4 << 20)).expect("SO_SNDBUF");
    let (inside, outside) = (real.try_clone().expect("dup"), end.try_clone().expect("dup"));
    thread::spawn(move || join(&end, &inside, log));
    (real, outside)
}

/// Until the daemon closes its end.
fn join(end: &OwnedFd, real: &OwnedFd, log: impl Fn(&str)) {
    let mut buf = vec![0u8; DATAGRAM];
    loop {
        let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN), PollFd::new(real.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).expect("poll");
        let asked = fds[0].any().expect("poll");
        if asked {
            thread::sleep(DELAY);
            let Some((n, passed)) = receive(end, &mut buf) else { return };
            if buf.get(4..6) == Some(&OVERRUN) {
                send(end.as_raw_fd(), &libc::ENOBUFS.to_le_bytes(), MsgFlags::MSG_NOSIGNAL).expect("send");
                passed.iter().for_each(answered);
                continue;
            }
            let kernel = NetlinkAddr::new(0, 0);
            if buf.get(PORT) == Some(&ANSWERED_AHEAD.to_ne_bytes()) {
                log("answered ahead");
                let taken = without_answer(real, &mut buf[..n]);
                if !taken {
                    log("taken back");
                    send(end.as_raw_fd(), &TAKEN_BACK, MsgFlags::MSG_NOSIGNAL).expect("send");
                }
                continue;
            }
            let sent = sendto(real.as_raw_fd(), &buf[..n], &kernel, MsgFlags::empty());
            assert_eq!(sent.expect("netlink takes it"), n);
            pass_on(real, end, &mut buf, DELAY);
            passed.iter().for_each(answered);
        } else {
            pass_on(real, end, &mut buf, Duration::ZERO);
        }
    }
}

/// Asks for what the daemon has been promised; whether the kernel did it.
fn without_answer(real: &OwnedFd, request: &mut [u8]) -> bool {
    request[PORT].fill(0);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(real.as_raw_fd(), request, &kernel, MsgFlags::empty()).expect("netlink takes it");
    let mut answer = [0; 256];
    let n = recv(real.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("an answer");
    assert!(n >= 20, "NLMSG_ERROR");
    answer[16..20] == [0; 4]
}

fn answered(waiting: &OwnedFd) {
    let _ = send(waiting.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL);
}

/// All that the real socket has, the first few with a delay.
fn pass_on(real: &OwnedFd, end: &OwnedFd, buf: &mut [u8], delay: Duration) {
    for n in 0.. {
        let datagram = match recv(real.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT) {
            Ok(n) => &buf[..n],
            Err(nix::Error::EAGAIN) => return,
            Err(e) => &(e as i32).to_le_bytes(),
        };
        if n < DELAYED {
            thread::sleep(delay);
        }
        if send(end.as_raw_fd(), datagram, MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}

/// bind; gives the name.
pub fn bind(fd: RawFd, port_id: u32, groups: u32) -> Result<(u32, u32), i32> {
    bind_socket(fd, &NetlinkAddr::new(port_id, groups)).map_err(|e| e as i32)?;
    name(fd)
}

/// getsockname.
pub fn name(fd: RawFd) -> Result<(u32, u32), i32> {
    getsockname::<NetlinkAddr>(fd).map(|a| (a.pid(), a.groups())).map_err(|_| last())
}
