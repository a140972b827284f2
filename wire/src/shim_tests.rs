use super::*;
use proptest::prelude::*;
use std::net::SocketAddrV6;

fn v6(scope: u32) -> Address {
    SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().expect("an address"), 179, 0, scope))
}

#[test]
fn every_message_comes_back_as_it_went() {
    let mut list = [0u8; 512];
    let first = SocketOption { level: 6, name: 14, value: &[7; 216] };
    let second = SocketOption { level: 0, name: 2, value: &[255, 0, 0, 0] };
    let n = Options::push(&mut list, 0, &first).expect("room");
    let n = Options::push(&mut list, n, &second).expect("room");
    let options = Options { encoded: &list[..n] };
    assert_eq!(options.iter().collect::<Vec<_>>(), vec![first, second]);
    let local: Address = "192.0.2.1:179".parse().expect("an address");
    let requests = [
        Request::Hello { version: PROTOCOL_VERSION, instance: "frr-1", pid: 7, netns_cookie: 9 },
        Request::Bind { socket: 1 << 40, local, v6_only: true, options },
        Request::Listen { socket: 3, backlog: 4096 },
        Request::Connect { socket: 4, local: ANY, remote: v6(3), filler_len: 65536, options },
        Request::SetOption { socket: 5, option: second },
        Request::GetOption { socket: 6, level: 6, name: 2, max_len: 4 },
        Request::SocketError { socket: 7 },
        Request::Names { socket: 8 },
        Request::Netlink { socket: 9 },
        Request::NetlinkBind { socket: 10, port_id: 1, groups: 0x800405f5 },
        Request::NetlinkNames { socket: 11 },
        Request::MayConnect { remote: v6(4) },
    ];
    let mut buf = [0u8; MAX_MESSAGE];
    for r in &requests {
        let n = r.encode(&mut buf).expect("it fits");
        assert_eq!(Request::decode(&buf[..n]).as_ref(), Ok(r));
        assert_eq!(Request::decode(&buf[..n - 1]), Err(Malformed), "one octet less");
        buf[n] = 0;
        assert_eq!(Request::decode(&buf[..n + 1]), Err(Malformed), "one octet more");
        assert_eq!(r.encode(&mut [0u8; 4]), Err(Malformed), "no room");
    }
    let replies = [
        Reply::Welcome { bgp_port: 179, netlink: true, answer_ahead: false },
        Reply::Welcome { bgp_port: 179, netlink: true, answer_ahead: true },
        Reply::NetlinkName { port_id: 77, groups: 0x800405f5 },
        Reply::Passage { redirected: true },
        Reply::Passage { redirected: false },
        Reply::Done,
        Reply::Error { errno: 111, text: "why" },
        Reply::Option { value: &[1, 2] },
        Reply::Names { local, remote: Some(v6(0)) },
        Reply::Names { local, remote: None },
    ];
    for r in &replies {
        let n = r.encode(&mut buf).expect("it fits");
        assert_eq!(Reply::decode(&buf[..n]).as_ref(), Ok(r));
    }
    let accepted = Accepted { local, remote: v6(12) };
    let n = accepted.encode(&mut buf).expect("it fits");
    assert_eq!(Accepted::decode(&buf[..n]), Ok(accepted));
}

#[test]
fn too_long_names_and_options_are_refused() {
    let mut buf = [0u8; MAX_MESSAGE];
    let name = "x".repeat(MAX_NAME + 1);
    assert!(Request::Hello { version: 1, instance: &name, pid: 1, netns_cookie: 0 }.encode(&mut buf).is_err());
    let value = [0u8; MAX_OPTION_LEN + 1];
    assert!(
        Request::SetOption { socket: 1, option: SocketOption { level: 0, name: 0, value: &value } }
            .encode(&mut buf)
            .is_err()
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        crate::laws::shim::message(&bytes);
    }
}
