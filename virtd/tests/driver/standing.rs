//! A session that stands, with one instance, and what becomes of it.

use super::lab::{self, Lab, plain_connect, reads};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use virtd_config::OpenMode;
use wire::bgp::Notification;
use wire::bgp::message::{Open, keepalive};

fn open(asn: u32) -> Vec<u8> {
    Open { asn, hold_time_s: 240, router_id: [192, 0, 2, 1].into(), capabilities: vec![] }.encode().to_vec()
}

/// A message, whatever it is; its type and all of it.
fn message(from: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut all = vec![0; 19];
    from.read_exact(&mut all).unwrap();
    all.resize(usize::from(u16::from_be_bytes([all[16], all[17]])), 0);
    from.read_exact(&mut all[19..]).unwrap();
    (all[18], all)
}

/// The peer's end of an established session, and the instance's.
fn establish(lab: &Lab, listening: &OwnedFd, mut peer: TcpStream) -> (TcpStream, TcpStream) {
    peer.write_all(&open(64501)).unwrap();
    let mut leg = lab::stream(lab::accept(listening).1);
    leg.write_all(&open(64500)).unwrap();
    assert_eq!((message(&mut leg).0, message(&mut leg).0), (1, 4));
    leg.write_all(&keepalive()).unwrap();
    assert_eq!((message(&mut peer).0, message(&mut peer).0), (1, 4));
    peer.write_all(&keepalive()).unwrap();
    lab.event("session-up");
    (peer, leg)
}

/// Both have come when the loop looks, the new connection first: its end is known before that is taken.
#[test]
fn a_peer_that_ends_its_session_and_dials_at_once_is_let_in() {
    let lab = Lab::start(&["a"], OpenMode::Voted);
    let shim = lab.shim("a");
    let listening = shim.listen(5, lab.address());
    let (mut peer, mut leg) = establish(&lab, &listening, plain_connect(lab.address()).unwrap());
    for last in [Some(Notification::new(6, 2)), None, Some(Notification::new(6, 4))] {
        let held = lab.hold();
        let again = plain_connect(lab.address()).unwrap();
        // More than is read in one go.
        peer.write_all(&keepalive().repeat(8192)).unwrap();
        if let Some(last) = &last {
            peer.write_all(&last.encode()).unwrap();
        }
        drop(peer);
        drop(held);
        if let Some(last) = last {
            reads(&mut leg, &last.encode());
        }
        assert_eq!(leg.read(&mut [0]).unwrap(), 0, "its session is over");
        drop(leg);
        // A collision would be refused with a Cease here.
        (peer, leg) = establish(&lab, &listening, again);
    }
}

/// The memory of a log that cannot be had: the file is made too short for it.
fn shorten(name: &str, octets: u64) {
    let is_it = |link: &std::path::Path| link.to_string_lossy() == format!("/memfd:{name} (deleted)");
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let found: Vec<_> = all.filter(|path| fs::read_link(path).is_ok_and(|link| is_it(&link))).collect();
    assert_eq!(found.len(), 1, "the log of one journal");
    File::options().write(true).open(&found[0]).unwrap().set_len(octets).unwrap();
}

#[test]
fn a_journal_that_can_no_longer_be_written_is_an_alarm_and_no_end_of_a_session() {
    let lab = Lab::start_alone(&["a"], OpenMode::Voted);
    let shim = lab.shim("a");
    let listening = shim.listen(5, lab.address());
    let (mut peer, mut leg) = establish(&lab, &listening, plain_connect(lab.address()).unwrap());
    // What there is of it now is present already.
    shorten("virtd-journal-log", 1 << 20);
    let many = keepalive().repeat((2 << 20) / 19);
    peer.write_all(&many).unwrap();
    let text = lab.event("no-journal");
    assert!(text.contains("cannot be written any more"), "{text}");
    // ORIGIN, AS_PATH 64501, NEXT_HOP, and 198.51.100.0/24.
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 251, 245, 0x40, 3, 4, 192, 0, 2, 9];
    let mut update = vec![255; 16];
    update.extend([0, 23 + attributes.len() as u8 + 4, 2, 0, 0, 0, attributes.len() as u8]);
    update.extend(attributes);
    update.extend([24, 198, 51, 100]);
    peer.write_all(&update).unwrap();
    while message(&mut leg) != (2, update.clone()) {}
    lab.end_of_turn();
    assert_eq!((lab.events_of("no-journal"), lab.events_of("session-down")), (0, 0), "told once, and all goes on");
}
