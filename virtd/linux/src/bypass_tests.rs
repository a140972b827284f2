use super::*;
use std::net::{TcpListener, TcpStream};

const ESTABLISHED: u8 = 1;

fn socket(n: u32, state: u8, local: &str, remote: &str) -> TcpSocket {
    let parse = |a: &str| a.parse().expect("an address");
    TcpSocket { state, local: parse(local), remote: parse(remote), inode: n, cookie: u64::from(n) }
}

#[test]
fn what_is_told_and_what_is_not() {
    let peers = HashMap::from([("192.0.2.9".parse().expect("an address"), 1790)]);
    let all = [
        // virtd's own.
        socket(1, TCP_LISTEN, "0.0.0.0:179", "0.0.0.0:0"),
        socket(2, ESTABLISHED, "192.0.2.1:179", "192.0.2.2:4000"),
        socket(3, ESTABLISHED, "192.0.2.1:4001", "192.0.2.9:1790"),
        // The other ends of the second and the third, in the same namespace; and where the peer
        // listens.
        socket(4, ESTABLISHED, "192.0.2.2:4000", "192.0.2.1:179"),
        socket(5, ESTABLISHED, "192.0.2.9:1790", "192.0.2.1:4001"),
        socket(6, TCP_LISTEN, "192.0.2.9:179", "0.0.0.0:0"),
        // Nobody's: not accepted yet, or closed.
        socket(0, ESTABLISHED, "192.0.2.1:179", "192.0.2.3:4000"),
        // Not BGP.
        socket(7, TCP_LISTEN, "0.0.0.0:22", "0.0.0.0:0"),
        socket(8, ESTABLISHED, "192.0.2.1:4002", "192.0.2.9:323"),
        socket(9, ESTABLISHED, "192.0.2.1:4003", "198.51.100.1:1790"),
        // Past virtd.
        socket(20, TCP_LISTEN, "[::1]:179", "[::]:0"),
        socket(21, ESTABLISHED, "192.0.2.1:4004", "198.51.100.1:179"),
        socket(22, ESTABLISHED, "192.0.2.1:4005", "192.0.2.9:1790"),
        socket(23, ESTABLISHED, "[::ffff:192.0.2.1]:4006", "[::ffff:192.0.2.9]:1790"),
        socket(24, ESTABLISHED, "192.0.2.7:179", "192.0.2.2:4000"),
    ];
    let found = select(179, &peers, &all, &HashSet::from([1, 2, 3]));
    assert_eq!(found.iter().map(|s| s.inode).collect::<Vec<_>>(), [20, 21, 22, 23, 24]);
}

/// Against the kernel: what this process holds is its own, and its holder is found by the inode.
#[test]
fn the_kernel_lists_our_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let dialled = TcpStream::connect(at).expect("a connection");
    let all = all_sockets().expect("sock_diag");
    let own = own_inodes().expect("fds");
    let listens = all.iter().find(|s| s.state == TCP_LISTEN && s.local == at).expect("the listening socket");
    let connected = all.iter().find(|s| s.remote == at).expect("the connection");
    assert_eq!(Some(connected.local), dialled.local_addr().ok());
    assert!(own.contains(&listens.inode) && own.contains(&connected.inode));
    assert_eq!(holder(listens.inode).map(|h| h.pid), Some(std::process::id()));
    assert!(strangers(at.port(), &HashMap::new()).expect("sock_diag").is_empty(), "they are ours");
    let found = select(at.port(), &HashMap::new(), &all, &HashSet::new());
    assert!(found.contains(listens) && found.contains(connected), "without our fds they are strangers");
    let event = event(Instant::now(), listens, holder(listens.inode));
    assert!(
        event.text.contains(&format!("(process {}) listens on {at} past virtd", std::process::id())),
        "{}",
        event.text
    );
}
