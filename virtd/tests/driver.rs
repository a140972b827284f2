//! The driver with real sockets: TCP on the loopback address on one side, a shim played by this
//! file on the other. The broker is the real core, in native mode unless a test says otherwise.

#[path = "driver/lab.rs"]
mod lab;
#[path = "driver/standing.rs"]
mod standing;
use lab::{Answer, Lab, Shim, key, option_bytes, pair, plain_connect, reads, socket, with_key};
use nix::sys::socket::SockType;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use virtd_config::{OpenMode, Strategy};
use wire::bgp::message::{Open, keepalive};
use wire::shim::{ANY, Options, PROTOCOL_VERSION, Request, SocketOption};

const NOTIFICATION: [u8; 21] =
    [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 21, 3, 6, 2];

#[test]
fn who_may_not_be_an_instance_is_told_why_and_put_out() {
    let lab = Lab::start(&["a", "b"], OpenMode::Voted);
    for (version, name, why) in
        [(PROTOCOL_VERSION, "x", "no [[instance]] is named \"x\""), (PROTOCOL_VERSION + 1, "a", "install both")]
    {
        let shim = Shim::connect(&lab.config.shim_socket);
        let answer = shim.ask(&Request::Hello { version, instance: name, pid: 1, netns_cookie: 0 }, &[]);
        assert!(matches!(&answer, Answer::Error(libc::EPERM, text) if text.contains(why)), "{answer:?}");
        assert!(shim.is_closed());
        lab.event("shim-refused");
    }
    let shim = Shim::connect(&lab.config.shim_socket);
    let before = shim.ask(&Request::Names { socket: 1 }, &[]);
    assert!(matches!(before, Answer::Error(libc::EPERM, _)), "{before:?}");
    shim.send(&[0xff, 1, 2, 3], &[]);
    assert!(shim.is_closed(), "garbage");
    let shim = lab.shim("a");
    let other = shim.ask(&Request::Hello { version: PROTOCOL_VERSION, instance: "b", pid: 1, netns_cookie: 0 }, &[]);
    assert!(matches!(other, Answer::Error(libc::EPERM, _)), "a channel does not change sides: {other:?}");
}

#[test]
fn a_process_that_ends_is_no_part_of_its_instance_any_more() {
    let lab = Lab::start(&["a"], OpenMode::Voted);
    let hello = |shim: &Shim, pid| {
        shim.ask(&Request::Hello { version: PROTOCOL_VERSION, instance: "a", pid, netns_cookie: 0 }, &[])
    };
    let shims = [7, 8, 8].map(|pid| {
        let shim = Shim::connect(&lab.config.shim_socket);
        hello(&shim, pid);
        shim
    });
    let pids = || lab.query(serde_json::json!({ "command": "instances" }))["instances"][0]["pids"].clone();
    let wait = |wanted: serde_json::Value| {
        let end = Instant::now() + Duration::from_secs(20);
        while pids() != wanted {
            assert!(Instant::now() < end, "{} instead of {wanted}", pids());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait(serde_json::json!([7, 8, 8]));
    let [a, b, c] = shims;
    // It has become another program, which says hello on a channel of its own.
    drop(b);
    wait(serde_json::json!([7, 8]));
    drop(a);
    wait(serde_json::json!([8]));
    for pid in [9, 9, 10] {
        hello(&c, pid);
    }
    wait(serde_json::json!([10]));
    drop(c);
    lab.event("instance-gone");
    wait(serde_json::json!([]));
}

#[test]
fn another_user_may_be_only_the_instance_that_names_it() {
    if !untested::needs_root(nix::unistd::Uid::effective().is_root()) {
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let lab = Lab::start_with(&["a", "b"], OpenMode::Voted, |c| c.instances[1].user = Some("nobody".to_owned()));
    let path = lab.config.shim_socket.clone();
    let answers = lab::as_user(nobody, move || ["a", "b"].map(|name| Shim::connect(&path).hello(name)));
    assert!(matches!(&answers[0], Answer::Error(libc::EPERM, text) if text.contains("set user")), "{:?}", answers[0]);
    assert!(matches!(answers[1], Answer::Welcome(_)), "{:?}", answers[1]);
}

#[test]
fn what_is_passed_must_be_what_the_request_is_about() {
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let bind = |socket| Request::Bind { socket, local: lab.address(), v6_only: false, options: Options::default() };
    let connect = |socket| Request::Connect {
        socket,
        local: ANY,
        remote: lab.address(),
        filler_len: 0,
        options: Options::default(),
    };
    let (stream, packets) = (pair(SockType::Stream), pair(SockType::SeqPacket));
    let tcp = socket(libc::AF_INET);
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    for wrong in [&stream.0, &tcp, &file] {
        assert_eq!(shim.ask(&bind(1), &[wrong.as_raw_fd()]).errno(), libc::EINVAL);
    }
    for wrong in [&packets.0, &tcp, &file] {
        assert_eq!(shim.ask(&connect(2), &[wrong.as_raw_fd()]).errno(), libc::EINVAL);
    }
    let many = [packets.0.as_raw_fd(); 200];
    assert_eq!(shim.ask(&bind(1), &many).errno(), libc::EINVAL, "too many");
    assert_eq!(shim.ask(&bind(1), &[]).errno(), libc::EINVAL, "too few");
    assert_eq!(shim.ask(&Request::Names { socket: 1 }, &many).errno(), libc::EINVAL);
    let too_much = Request::Connect {
        socket: 2,
        local: ANY,
        remote: lab.address(),
        filler_len: u32::MAX,
        options: Options::default(),
    };
    assert_eq!(shim.ask(&too_much, &[stream.0.as_raw_fd()]).errno(), libc::EINVAL, "more filler than there can be");
    assert_eq!(shim.ask(&bind(1), &[packets.0.as_raw_fd()]), Answer::Done, "the channel is none the worse for it");
}

#[test]
fn no_instance_can_name_the_sockets_of_another_or_claim_one_twice() {
    let lab = Lab::start(&["a", "b"], OpenMode::Voted);
    let (a, b) = (lab.shim("a"), lab.shim("b"));
    let (ours, _theirs) = pair(SockType::SeqPacket);
    let (other, _theirs2) = pair(SockType::SeqPacket);
    let bind = Request::Bind { socket: 7, local: lab.address(), v6_only: false, options: Options::default() };
    assert_eq!(a.ask(&bind, &[ours.as_raw_fd()]), Answer::Done);
    assert_eq!(a.ask(&bind, &[other.as_raw_fd()]).errno(), libc::EEXIST);
    assert_eq!(b.ask(&Request::Names { socket: 7 }, &[]).errno(), libc::ENOENT);
    assert_eq!(b.ask(&Request::Listen { socket: 7, backlog: 1 }, &[]).errno(), libc::EINVAL);
    assert_eq!(b.ask(&bind, &[other.as_raw_fd()]), Answer::Done, "its own number 7");
    assert!(matches!(a.ask(&Request::Names { socket: 7 }, &[]), Answer::Names(local, None) if local == lab.address()));
}

#[test]
fn a_blocking_connect_and_octets_both_ways() {
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = peer.local_addr().unwrap();
    let ttl = option_bytes(libc::IPPROTO_IP, libc::IP_TTL, &33i32.to_ne_bytes());
    let (leg, answer) = shim.dial(1, to, 0, Options { encoded: &ttl });
    assert_eq!(answer, Answer::Done);
    let (mut far, from) = peer.accept().unwrap();
    let names = shim.ask(&Request::Names { socket: 1 }, &[]);
    assert_eq!(names, Answer::Names(from, Some(to)));
    let read = |level, name| shim.ask(&Request::GetOption { socket: 1, level, name, max_len: 4 }, &[]);
    assert_eq!(read(libc::IPPROTO_IP, libc::IP_TTL), Answer::Option(33i32.to_ne_bytes().to_vec()));
    assert_eq!(read(libc::SOL_SOCKET, libc::SO_ERROR).errno(), libc::ENOPROTOOPT, "reading it would clear it");
    let set = SocketOption { level: libc::IPPROTO_IP, name: libc::IP_TTL, value: &44i32.to_ne_bytes() };
    assert_eq!(shim.ask(&Request::SetOption { socket: 1, option: set }, &[]), Answer::Done);
    assert_eq!(read(libc::IPPROTO_IP, libc::IP_TTL), Answer::Option(44i32.to_ne_bytes().to_vec()));
    let mut leg = lab::stream(leg);
    far.write_all(b"from the peer").unwrap();
    reads(&mut leg, b"from the peer");
    leg.write_all(b"from the daemon").unwrap();
    reads(&mut far, b"from the daemon");
    // Data, then the end, each way.
    leg.write_all(&NOTIFICATION).unwrap();
    drop(leg);
    reads(&mut far, &NOTIFICATION);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_refused_dial_tells_its_errno_once() {
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let nobody = SocketAddr::from(([127, 0, 0, 1], lab::free_port()));
    assert_eq!(shim.dial(1, nobody, 0, Options::default()).1.errno(), libc::ECONNREFUSED, "blocking");
    let (leg, filler) = lab::filled();
    let answer = shim.connect_with(2, nobody, filler, Options::default(), leg.1);
    assert_eq!(answer.errno(), libc::EINPROGRESS);
    assert!(lab::writable(&leg.0, 5000), "it ends with POLLHUP");
    let error = || shim.ask(&Request::SocketError { socket: 2 }, &[]).errno();
    assert_eq!((error(), error()), (libc::ECONNREFUSED, 0), "told once, as SO_ERROR is");
    assert_eq!(shim.ask(&Request::Names { socket: 2 }, &[]).errno(), libc::ENOENT);
}

#[test]
fn a_dial_in_progress_becomes_writable_and_carries_none_of_the_filler() {
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let (leg, filler) = lab::filled();
    assert!(filler > 0 && !lab::writable(&leg.0, 0));
    let answer = shim.connect_with(1, peer.local_addr().unwrap(), filler, Options::default(), leg.1);
    assert_eq!(answer.errno(), libc::EINPROGRESS);
    assert!(lab::writable(&leg.0, 5000));
    assert_eq!(shim.ask(&Request::SocketError { socket: 1 }, &[]).errno(), 0);
    let (mut far, _) = peer.accept().unwrap();
    lab::stream(leg.0).write_all(b"first").unwrap();
    reads(&mut far, b"first");
}

#[test]
fn without_its_device_a_dial_does_not_go_out() {
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    peer.set_nonblocking(true).unwrap();
    let device = option_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"nodevice0\0");
    let (_, answer) = shim.dial(1, peer.local_addr().unwrap(), 0, Options { encoded: &device });
    assert_eq!(answer.errno(), libc::ENODEV);
    assert!(lab.event("option-failed").contains("SO_BINDTODEVICE"));
    assert_eq!(peer.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // One that protects nothing is an event, no more.
    let hops = option_bytes(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &[1]);
    let (_leg, answer) = shim.dial(2, peer.local_addr().unwrap(), 0, Options { encoded: &hops });
    assert_eq!(answer, Answer::Done);
    assert!(lab.event("option-failed").contains("IPV6_TCLASS"));
}

#[test]
fn an_accepted_connection_is_offered_and_closed_both_ways() {
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let listening = shim.listen(5, lab.address());
    let mut far = plain_connect(lab.address()).unwrap();
    let (accepted, leg) = lab::accept(&listening);
    assert_eq!((accepted.local, accepted.remote), (lab.address(), far.local_addr().unwrap()));
    let mut leg = lab::stream(leg);
    leg.write_all(b"hello").unwrap();
    reads(&mut far, b"hello");
    // The message and the end in one segment: both must arrive, in this order.
    far.write_all(&NOTIFICATION).unwrap();
    far.shutdown(Shutdown::Both).unwrap();
    reads(&mut leg, &NOTIFICATION);
    assert_eq!(leg.read(&mut [0]).unwrap(), 0);

    let mut far = plain_connect(lab.address()).unwrap();
    let mut leg = lab::stream(lab::accept(&listening).1);
    leg.write_all(&NOTIFICATION).unwrap();
    drop(leg);
    reads(&mut far, &NOTIFICATION);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);

    // The listening socket is closed: from then on nobody listens, and virtd's own is closed too.
    drop(listening);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let gone = plain_connect(lab.address()).and_then(|mut s| s.read(&mut [0]));
        if gone.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            break;
        }
        assert!(Instant::now() < deadline, "{gone:?}");
    }
}

#[test]
fn a_slow_reader_holds_up_the_sender_and_loses_nothing() {
    const TOTAL: usize = 48 << 20;
    const BOUND: usize = 32 << 20;
    let octet = |i: usize| (i % 251) as u8;
    let lab = Lab::start(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let listening = shim.listen(5, lab.address());
    for from_peer in [true, false] {
        let far: OwnedFd = plain_connect(lab.address()).unwrap().into();
        let leg = lab::accept(&listening).1;
        let (from, to) = if from_peer { (far, leg) } else { (leg, far) };
        let (mut from, mut to) = (lab::stream(from), lab::stream(to));
        let (tell, stuck) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            let data: Vec<u8> = (0..TOTAL).map(octet).collect();
            // The other side does not read yet: what goes in must be bounded by the sockets'
            // buffers and our mark.
            let mut sent = 0;
            while sent < TOTAL && lab::writable(&from, 500) {
                sent += nix::sys::socket::send(
                    from.as_raw_fd(),
                    &data[sent..TOTAL.min(sent + 65536)],
                    nix::sys::socket::MsgFlags::MSG_DONTWAIT,
                )
                .unwrap_or(0);
            }
            tell.send(sent).unwrap();
            from.write_all(&data[sent..]).unwrap();
        });
        let stuck_at = stuck.recv().unwrap();
        assert!(stuck_at < BOUND, "{stuck_at} octets went in without a reader");
        let mut buf = vec![0; 1 << 20];
        let mut got = 0;
        loop {
            let n = to.read(&mut buf).unwrap();
            if n == 0 {
                break;
            }
            assert!(buf[..n].iter().enumerate().all(|(i, o)| *o == octet(got + i)), "octets in their order");
            got += n;
        }
        assert_eq!(got, TOTAL);
        sender.join().unwrap();
    }
}

#[test]
fn an_md5_key_stays_while_an_instance_wants_it() {
    let lab = Lab::start(&["a", "b"], OpenMode::Voted);
    let (a, b) = (lab.shim("a"), lab.shim("b"));
    let (on_a, on_b) = (a.listen(1, lab.address()), b.listen(2, lab.address()));
    let set = |shim: &Shim, socket, secret: &[u8]| {
        let value = key([127, 0, 0, 1], secret);
        let option = SocketOption { level: libc::IPPROTO_TCP, name: libc::TCP_MD5SIG, value: &value };
        assert_eq!(shim.ask(&Request::SetOption { socket, option }, &[]), Answer::Done);
    };
    set(&a, 1, b"secret");
    set(&b, 2, b"secret");
    assert!(with_key(lab.address(), b"secret"));
    drop(on_a);
    a.ask(&Request::Names { socket: 1 }, &[]);
    assert!(with_key(lab.address(), b"secret"), "b still wants it");
    let differs = a.listen(3, lab.address());
    set(&a, 3, b"another");
    let text = lab.event("option-differs");
    assert!(text.contains("MD5") && !text.contains("secret") && !text.contains("another"), "{text}");
    assert!(with_key(lab.address(), b"secret"), "the first stays");
    set(&b, 2, b"");
    assert!(with_key(lab.address(), b"another"), "the next takes its place");
    drop((differs, on_b));
    wait_refused(lab.address());
    let _again = b.listen(4, lab.address());
    assert!(lab::connects(lab.address(), Duration::from_secs(2)).is_ok(), "the key is still there");
}

/// Nobody listens there, or will not in a moment.
fn wait_refused(at: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while plain_connect(at).map_err(|e| e.kind()).err() != Some(ErrorKind::ConnectionRefused) {
        assert!(Instant::now() < deadline, "{at} is still open");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_address_takes_connections_while_an_instance_listens_there() {
    let all = |c: &mut virtd_config::Config| c.listen = vec![Ipv4Addr::UNSPECIFIED.into()];
    let lab = Lab::start_with(&["a", "b"], OpenMode::Voted, all);
    let (a, b) = (lab.shim("a"), lab.shim("b"));
    let at = |ip: [u8; 4]| SocketAddr::new(ip.into(), lab.address().port());
    let (one, two) = (at([127, 0, 0, 1]), at([127, 0, 0, 2]));
    let open = |at| plain_connect(at).is_ok();
    wait_refused(one);
    let single = a.listen(1, one);
    assert!(open(one), "it is open when listen returns");
    wait_refused(two);
    // The port is virtd's wherever it may listen: nobody else has it beside.
    assert_eq!(TcpListener::bind(two).map_err(|e| e.kind()).err(), Some(ErrorKind::AddrInUse));
    let wildcard = b.listen(2, at([0; 4]));
    assert!(open(one) && open(two));
    drop(single);
    assert!(open(one), "the wildcard has it");
    let other = a.listen(3, two);
    drop(wildcard);
    wait_refused(one);
    assert!(open(two));
    drop(other);
    wait_refused(two);
    let _wildcard = b.listen(4, at([0; 4]));
    assert!(open(one) && open(two), "as often as they like");
}

#[test]
fn five_hundred_connections_leave_no_fd_behind() {
    let lab = Lab::start_alone(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let listening = shim.listen(1, lab.address());
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    let extra = pair(SockType::SeqPacket);
    for i in 0..250 {
        let (leg, answer) = shim.dial(10 + i, peer.local_addr().unwrap(), 0, Options::default());
        assert_eq!(answer, Answer::Done);
        let far = peer.accept().unwrap().0;
        drop((leg, far));
        let far = plain_connect(lab.address()).unwrap();
        let leg = lab::accept(&listening).1;
        drop((far, leg));
        let many = [extra.0.as_raw_fd(); 20];
        assert_eq!(shim.ask(&Request::Names { socket: 1 }, &many).errno(), libc::EINVAL);
        assert!(matches!(lab.shim("a").hello("nobody"), Answer::Error(..)));
    }
    drop(extra);
    let deadline = Instant::now() + Duration::from_secs(15);
    while count() > before {
        assert!(Instant::now() < deadline, "{} more fds than before", count() - before);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The next message: its type (RFC 4271 section 4.1) and all its octets.
fn message(from: &mut impl Read) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; 19];
    from.read_exact(&mut bytes).unwrap();
    bytes.resize(usize::from(u16::from_be_bytes([bytes[16], bytes[17]])), 0);
    from.read_exact(&mut bytes[19..]).unwrap();
    (bytes[18], bytes)
}

#[test]
fn slaves_are_told_in_order_though_nothing_else_happens() {
    const OPEN: u8 = 1;
    const UPDATE: u8 = 2;
    let change = |c: &mut virtd_config::Config| (c.vote.strategy, c.timers.leg_hold_s) = (Strategy::MasterSlave, 90);
    let lab = Lab::start_with(&["a", "b", "c"], OpenMode::Voted, change);
    let open = |asn| Open { asn, hold_time_s: 240, router_id: [192, 0, 2, 1].into(), capabilities: vec![] }.encode();
    let shims = ["a", "b", "c"].map(|name| lab.shim(name));
    let listening: Vec<OwnedFd> = shims.iter().map(|shim| shim.listen(5, lab.address())).collect();
    let mut peer = plain_connect(lab.address()).unwrap();
    peer.write_all(&open(64501)).unwrap();
    let mut legs: Vec<_> = listening.iter().map(|l| lab::stream(lab::accept(l).1)).collect();
    legs.iter_mut().for_each(|leg| leg.write_all(&open(64500)).unwrap());
    for leg in &mut legs {
        assert_eq!((message(leg).0, message(leg).1), (OPEN, keepalive().to_vec()));
        leg.write_all(&keepalive()).unwrap();
    }
    assert_eq!((message(&mut peer).0, message(&mut peer).1), (OPEN, keepalive().to_vec()));
    peer.write_all(&keepalive()).unwrap();
    lab.event("session-up");
    // ORIGIN, AS_PATH 64501, NEXT_HOP, and 198.51.100.0/24. KEEPALIVEs, which would take it along,
    // are half a minute away.
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 251, 245, 0x40, 3, 4, 192, 0, 2, 9];
    let mut update = vec![255; 16];
    update.extend([0, 23 + attributes.len() as u8 + 4, UPDATE, 0, 0, 0, attributes.len() as u8]);
    update.extend(attributes);
    update.extend([24, 198, 51, 100]);
    peer.write_all(&update).unwrap();
    for leg in &mut legs {
        assert_eq!(message(leg).1, update);
    }
    // One more and the end of the session, in one segment.
    *update.last_mut().unwrap() = 101;
    peer.write_all(&[&update[..], &NOTIFICATION].concat()).unwrap();
    for leg in &mut legs {
        assert_eq!((message(leg).1, message(leg).1), (update.clone(), NOTIFICATION.to_vec()));
        assert_eq!(leg.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn the_stop_flag_ends_the_loop_and_the_socket_is_gone() {
    let mut lab = Lab::start(&["a"], OpenMode::Native);
    let _shim = lab.shim("a");
    assert!(lab.config.shim_socket.exists());
    lab.stop();
    assert!(!lab.config.shim_socket.exists());
}

#[test]
fn without_fds_accept_waits_is_told_once_and_works_again() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let lab = Lab::start_alone(&["a"], OpenMode::Native);
    let shim = lab.shim("a");
    let listening = shim.listen(1, lab.address());
    let far = [plain_connect(lab.address()).unwrap(), plain_connect(lab.address()).unwrap()];
    let legs = [lab::accept(&listening), lab::accept(&listening)];
    lab.end_of_turn();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Sockets of our own, made beforehand: from here on nothing can be opened.
    let late = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let last = late.as_raw_fd() as u64 + 1;
    setrlimit(Resource::RLIMIT_NOFILE, last, hard).unwrap();
    // What is free below the limit is taken.
    let full: Vec<_> = std::iter::from_fn(|| late.try_clone().ok()).collect();
    late.connect(&lab.address().into()).unwrap();
    assert!(lab.event("accept-failed").contains("files"));
    // It is tried again and again, which only time brings about.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(lab.events_of("accept-failed"), 0, "told once");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let (accepted, _leg) = lab::accept(&listening);
    assert_eq!(Some(accepted.remote), late.local_addr().unwrap().as_socket());
    drop((full, far, legs));
}

/// Another port than a peer's is refused and told once; the BGP port too, where the peer has
/// another.
#[test]
fn connections_to_a_peers_other_ports_are_refused() {
    let peer = |address: &str, port| virtd_config::Peer {
        address: address.parse().unwrap(),
        port,
        asn: None,
        description: None,
        allow_own_as: false,
        bfd: None,
    };
    let lab = Lab::start_with(&["a"], OpenMode::Voted, |c| {
        c.peers = vec![peer("127.0.0.7", Some(1790)), peer("127.0.0.8", None)];
        c.native_ports = vec![323];
    });
    let (shim, bgp) = (lab.shim("a"), lab.config.port);
    let ask = |ip: &str, port: u16| {
        let remote = SocketAddr::new(ip.parse().unwrap(), port);
        shim.ask(&Request::MayConnect { remote }, &[])
    };
    for (ip, port, redirected) in [
        ("127.0.0.7", 1790, true),
        ("127.0.0.7", 323, false),
        ("127.0.0.8", 323, false),
        ("127.0.0.9", 1790, false),
        ("127.0.0.9", bgp, true),
    ] {
        let answer = ask(ip, port);
        assert!(matches!(answer, Answer::Passage(r) if r == redirected), "{ip} {port}: {answer:?}");
    }
    for _ in 0..2 {
        let answer = ask("127.0.0.8", 1790);
        let expected = "port 1790 of the peer 127.0.0.8, whose BGP port is ";
        assert!(matches!(&answer, Answer::Error(libc::ECONNREFUSED, t) if t.contains(expected)), "{answer:?}");
    }
    // The shim does not ask about the BGP port.
    let (_ours, theirs) = pair(SockType::Stream);
    let remote = SocketAddr::new("127.0.0.7".parse().unwrap(), bgp);
    let connect = Request::Connect { socket: 1, local: ANY, remote, filler_len: 1, options: Options::default() };
    let answer = shim.ask(&connect, &[theirs.as_raw_fd()]);
    let expected = "of the peer 127.0.0.7, whose BGP port is 1790";
    assert!(matches!(&answer, Answer::Error(libc::ECONNREFUSED, t) if t.contains(expected)), "{answer:?}");
    let told = [lab.event("connect-refused"), lab.event("connect-refused")];
    assert!(told[0].contains("127.0.0.8") && told[1].contains("127.0.0.7"), "each once: {told:?}");
}
