use super::*;

/// What Linux said of a socket that had dialled 127.0.0.1:179.
fn message() -> Vec<u8> {
    let mut m = vec![AF_INET, 1, 0, 0, 0xd4, 0x31, 0, 179, 127, 0, 0, 1];
    m.extend([0; 12]);
    m.extend([127, 0, 0, 2]);
    m.extend([0; 12]);
    m.extend([0; 4]);
    m.extend(7u32.to_ne_bytes());
    m.extend(1u32.to_ne_bytes());
    m.extend([0; 16]);
    m.extend(4711u32.to_ne_bytes());
    // Attributes may follow.
    m.extend([8, 0, 1, 0, 0, 0, 0, 0]);
    m
}

#[test]
fn a_socket_is_read() {
    let socket = read(&message()).expect("a socket");
    assert_eq!(
        (socket.local.to_string(), socket.remote.to_string()),
        ("127.0.0.1:54321".into(), "127.0.0.2:179".into())
    );
    assert_eq!((socket.state, socket.inode, socket.cookie), (1, 4711, 1 << 32 | 7));
    let mut v6 = message();
    v6[0] = AF_INET6;
    assert!(read(&v6).expect("a socket").local.is_ipv6());
}

#[test]
fn what_is_cut_short_or_of_another_family_is_refused() {
    for len in 0..MESSAGE_LEN {
        assert!(read(&message()[..len]).is_err(), "{len}");
    }
    let mut other = message();
    other[0] = 1;
    assert_eq!(read(&other), Err(NetlinkError::Family { family: 1 }));
}

#[test]
fn a_request_has_the_kernels_length() {
    let mut bytes = Vec::new();
    let mut w = Writer::payload(&mut bytes);
    request(AF_INET6, &mut w);
    w.finish().expect("it fits");
    assert_eq!((bytes.len(), bytes[0], bytes[1]), (56, AF_INET6, 6));
    let states = u32::from_ne_bytes(bytes[4..8].try_into().expect("four"));
    assert_eq!((states >> TCP_LISTEN & 1, states >> TCP_TIME_WAIT & 1, states >> 1 & 1), (1, 0, 1));
}
