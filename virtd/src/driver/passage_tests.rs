use super::*;
use virtd_config::Peer;

fn peer(address: &str, port: Option<u16>) -> Peer {
    let address = address.parse().expect("an address");
    Peer { address, port, asn: None, description: None, allow_own_as: false, bfd: None }
}

#[test]
fn a_peer_is_reached_on_its_own_port_alone() {
    let config = Config {
        peers: vec![peer("192.0.2.1", None), peer("192.0.2.2", Some(1790)), peer("fe80::1", Some(1790))],
        native_ports: vec![323],
        ..Config::default()
    };
    let table = [
        ("192.0.2.1:179", Passage::Redirected),
        ("192.0.2.1:1790", Passage::Refused),
        ("192.0.2.1:323", Passage::Native),
        ("192.0.2.2:1790", Passage::Redirected),
        ("192.0.2.2:179", Passage::Refused),
        ("192.0.2.2:323", Passage::Native),
        // An IPv6 socket can dial an IPv4 peer.
        ("[::ffff:192.0.2.2]:1790", Passage::Redirected),
        ("[::ffff:192.0.2.2]:1791", Passage::Refused),
        ("[fe80::1%3]:1790", Passage::Redirected),
        ("[fe80::1%3]:179", Passage::Refused),
        // Nobody's address: the BGP port is refused or let in by accept_any, later.
        ("198.51.100.1:179", Passage::Redirected),
        ("198.51.100.1:1790", Passage::Native),
        ("198.51.100.1:323", Passage::Native),
    ];
    for (remote, expected) in table {
        assert_eq!(passage(&config, remote.parse().expect("an address")), expected, "{remote}");
    }
}
