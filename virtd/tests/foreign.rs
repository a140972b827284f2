//! What processes pass to virtd must not make its loop wait, and who may pass it anything is
//! decided before it is received.

#[path = "driver/lab.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod lab;
use lab::{Answer, Lab, Shim, pair, plain_connect, reads, stream};
use nix::sys::socket::{ControlMessage, MsgFlags, SockType, sendmsg};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{IoSlice, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use virtd_config::OpenMode;
use wire::shim::{ANY, Options, Reply, Request};

/// Longer than anything in these tests waits.
const LINGER: Duration = Duration::from_secs(40);

/// A TCP socket whose last close takes [`LINGER`]: what it has sent is not read, and more waits.
/// With it, who does not read.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    near.connect(&listener.local_addr().unwrap().into()).unwrap();
    let far = listener.accept().unwrap().0;
    near.set_nonblocking(true).unwrap();
    while near.send(&[0; 65536]).is_ok() {}
    near.set_linger(Some(LINGER)).unwrap();
    (near.into(), far)
}

/// Sends one octet with these files over any Unix socket.
fn pass(over: &impl AsRawFd, fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    sendmsg::<()>(over.as_raw_fd(), &[IoSlice::new(&[7])], &rights, MsgFlags::MSG_NOSIGNAL, None).unwrap();
}

/// A peer that reaches instance `a` both ways: what it says arrives there.
fn passes(lab: &Lab, listening: &OwnedFd) -> (TcpStream, TcpStream) {
    let mut peer = plain_connect(lab.address()).unwrap();
    let mut leg = stream(lab::accept(listening).1);
    peer.write_all(b"to the instance").unwrap();
    reads(&mut leg, b"to the instance");
    leg.write_all(b"to the peer").unwrap();
    reads(&mut peer, b"to the peer");
    (peer, leg)
}

#[test]
fn a_passed_socket_that_takes_long_to_close_stops_nothing() {
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let listening = shim.listen(1, lab.address());
    let (mut peer, mut leg) = passes(&lab, &listening);
    let mut kept = Vec::new();
    let mut slow = || {
        let (near, far) = lingering();
        kept.push(far);
        near
    };

    // With a request that has no use for it.
    let near = slow();
    assert_eq!(shim.ask(&Request::Names { socket: 1 }, &[near.as_raw_fd()]).errno(), libc::EINVAL);
    drop(near);
    // In the place of the socket for the answer.
    let near = slow();
    shim.send(&[1, 2, 3], &[near.as_raw_fd()]);
    drop(near);
    assert!(shim.is_closed(), "that was no request");
    // Down a leg, in the midst of what the instance says.
    let near = slow();
    leg.write_all(b"one ").unwrap();
    pass(&leg, &[near.as_raw_fd()]);
    leg.write_all(b" two").unwrap();
    drop(near);
    reads(&mut peer, b"one \x07 two");
    // In the queue of a socket that is refused, and of one that is taken and then closed.
    let shim = lab.shim("a");
    for (socket, done) in [(1, false), (3, true)] {
        let (ours, theirs) = pair(SockType::SeqPacket);
        let near = slow();
        pass(&ours, &[near.as_raw_fd()]);
        drop(near);
        let bind = Request::Bind { socket, local: lab.address(), v6_only: false, options: Options::default() };
        let (answer, to) = pair(SockType::SeqPacket);
        let mut buf = [0; 4096];
        let n = bind.encode(&mut buf).unwrap();
        shim.send(&buf[..n], &[theirs.as_raw_fd(), to.as_raw_fd()]);
        // From here on only virtd has it. Where that was faster this is the last close, and takes
        // long.
        std::thread::spawn(move || drop((theirs, to)));
        let n = lab::receive(&answer, &mut buf).unwrap();
        assert_eq!(Reply::decode(&buf[..n]) == Ok(Reply::Done), done);
    }

    lab.end_of_turn();
    leg.write_all(b"and on").unwrap();
    reads(&mut peer, b"and on");
    let remote = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connect = Request::Connect {
        socket: 20,
        local: ANY,
        remote: remote.local_addr().unwrap(),
        filler_len: 0,
        options: Options::default(),
    };
    let (_ours, theirs) = pair(SockType::Stream);
    assert_eq!(shim.ask(&connect, &[theirs.as_raw_fd()]), Answer::Done);
    drop(kept);
}

/// OpenBGPD looks for the errno of its connect only where it sees both.
#[test]
fn a_connect_that_fails_is_writable_as_soon_as_it_is_over() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let lab = Lab::start(&["a"], OpenMode::Voted);
    let shim = lab.shim("a");
    let closed = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, lab::free_port()));
    for socket in 100..150 {
        let ((ours, theirs), filler) = lab::filled();
        let (reply, to) = pair(SockType::SeqPacket);
        let options = Options::default();
        let connect = Request::Connect { socket, local: ANY, remote: closed, filler_len: filler, options };
        let mut buf = [0; 4096];
        let n = connect.encode(&mut buf).unwrap();
        shim.send(&buf[..n], &[theirs.as_raw_fd(), to.as_raw_fd()]);
        drop((theirs, to));
        let mut fds = [PollFd::new(ours.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT)];
        let end = Instant::now() + Duration::from_secs(10);
        // Without sleeping. Readable alone may be seen before: no daemon takes that for an answer.
        // Over without being writable, or writable without an end, is what must not be seen.
        let (hup, input, output) = (PollFlags::POLLHUP, PollFlags::POLLIN, PollFlags::POLLOUT);
        loop {
            assert!(Instant::now() < end, "it is not told");
            poll(&mut fds, PollTimeout::ZERO).unwrap();
            let seen = fds[0].revents().unwrap();
            if seen.intersects(hup | output) {
                assert!(seen.contains(input | output), "{seen:?}");
                break;
            }
        }
        drop(reply);
    }
}

/// What a process of another user finds at the socket: the errno of connect, or what it is told.
fn knocks(uid: u32, path: PathBuf, passing: Option<OwnedFd>) -> Result<String, i32> {
    lab::as_user(uid, move || {
        let channel = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        channel.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        channel.connect(&socket2::SockAddr::unix(&path).unwrap()).map_err(|e| e.raw_os_error().unwrap_or(0))?;
        if let Some(fd) = &passing {
            // Closed already or not yet.
            let rights = [fd.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&rights)];
            let _ = sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(&[7])], &rights, MsgFlags::MSG_NOSIGNAL, None);
        }
        // Where virtd was faster this is the last close, and takes long.
        std::thread::spawn(move || drop(passing));
        let mut buf = [0; 4096];
        let fd = OwnedFd::from(channel);
        // The first may be ECONNRESET: what it sent was not read.
        let n = lab::receive(&fd, &mut buf).or_else(|_| lab::receive(&fd, &mut buf)).map_err(|e| e as i32)?;
        match Reply::decode(&buf[..n]) {
            Ok(Reply::Error { text, .. }) => Ok(text.to_owned()),
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn who_may_be_no_instance_is_refused_before_anything_is_received_from_him() {
    if !untested::needs_root(nix::unistd::Uid::effective().is_root()) {
        return;
    }
    let uid = |name: &str| nix::unistd::User::from_name(name).unwrap().unwrap().uid.as_raw();
    let lab = Lab::start_with(&["a", "b"], OpenMode::Native, |c| c.instances[1].user = Some("daemon".to_owned()));
    let path = lab.config.shim_socket.clone();
    let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o660);
    assert_eq!(knocks(uid("nobody"), path.clone(), None), Err(libc::EACCES), "the file is nobody's");
    let named = path.clone();
    let welcome = lab::as_user(uid("daemon"), move || Shim::connect(&named).hello("b"));
    assert!(matches!(welcome, Answer::Welcome(_)), "by name, without a group: {welcome:?}");

    // One of the group, say.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let told = knocks(uid("nobody"), path.clone(), None).unwrap();
    assert!(told.contains("set user"), "{told}");
    let mut kept = Vec::new();
    for _ in 0..20 {
        let (near, far) = lingering();
        kept.push(far);
        let _ = knocks(uid("nobody"), path.clone(), Some(near));
    }
    let shim = lab.shim("a");
    let listening = shim.listen(1, lab.address());
    passes(&lab, &listening);
    assert!(lab.event("shim-refused").contains("may run no instance"));
    // Not for its own sake: the type keeps the far ends from reading.
    assert!(kept.iter().all(|far| SockRef::from(far).linger().is_ok()));
}

#[test]
fn the_socket_belongs_to_the_group_that_the_configuration_names() {
    use std::os::unix::fs::MetadataExt;
    if !untested::needs_root(nix::unistd::Uid::effective().is_root()) {
        return;
    }
    let lab = Lab::start_with(&["a"], OpenMode::Native, |c| c.shim_group = Some("daemon".to_owned()));
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid;
    let file = lab.config.shim_socket.metadata().unwrap();
    assert_eq!((file.gid(), file.permissions().mode() & 0o777), (group.as_raw(), 0o660));
}
