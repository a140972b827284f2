use super::*;
use ::journal::Record;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn dup(fd: RawFd) -> OwnedFd {
    // SAFETY: the journal lives through the call.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    fd.try_clone_to_owned().expect("a copy")
}

fn records(journal: &Journal) -> Vec<Record<'_>> {
    journal.segments().into_iter().flat_map(::journal::read).map(|r| r.expect("a record")).collect()
}

#[test]
fn what_goes_through_is_there() {
    let mut journal = Journal::create().expect("a journal");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let place = journal.open(7).expect("a place");
    theirs.write_all(b"hello").expect("room");
    assert_eq!(journal.receive(&ours, 7, 100).expect("octets"), b"hello");
    assert_eq!(journal.receive(&ours, 7, 100).map(<[u8]>::len).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    Record::ToPeer { conn: 7, octets: b"good day" }.append_to(&mut journal);
    let sent = journal.send(&ours, place, &[IoSlice::new(b"good"), IoSlice::new(b" day")]).expect("room");
    assert_eq!((sent, journal.taken(place)), (8, 8));
    let mut heard = [0; 8];
    theirs.read_exact(&mut heard).expect("octets");
    assert_eq!(&heard, b"good day");
    let expected =
        [Record::FromPeer { conn: 7, octets: b"hello" }, Record::ToPeer { conn: 7, octets: b"good day" }];
    assert_eq!(records(&journal), expected);
    drop(theirs);
    assert_eq!(journal.receive(&ours, 7, 100).expect("the end"), b"");
    assert_eq!(records(&journal).len(), 2, "an end is no record");
}

#[test]
fn the_next_process_finds_it() {
    let mut journal = Journal::create().expect("a journal");
    let place = journal.open(9).expect("a place");
    Record::ToPeer { conn: 9, octets: b"abc" }.append_to(&mut journal);
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    journal.send(&ours, place, &[IoSlice::new(b"ab")]).expect("room");
    // The fds are those of the files themselves in the process that inherits: here they are others.
    let mut fds: Vec<OwnedFd> = journal.fds().into_iter().map(dup).collect();
    let log = fds[0].as_raw_fd();
    journal.head.head().sets[0].log_fd.store(log, SeqCst);
    fds.push(dup(0));
    let heir = Journal::inherit(&mut fds).expect("it can be read").expect("there is one");
    assert_eq!(records(&heir), [Record::ToPeer { conn: 9, octets: b"abc" }]);
    assert_eq!(heir.place_of(9).map(|(_, taken)| taken), Some(2));
    assert_eq!(heir.places().count(), 1);
    assert_eq!(fds.len(), 1, "what is not its own is left");
}

#[test]
fn a_newer_one_is_refused_by_its_number() {
    let journal = Journal::create().expect("a journal");
    journal.head.head().version.store(VERSION + 1, SeqCst);
    let mut fds: Vec<OwnedFd> = journal.fds().into_iter().map(dup).collect();
    let refused = Journal::inherit(&mut fds).expect_err("a newer one").to_string();
    assert!(refused.contains(&format!("version {}", VERSION + 1)), "{refused}");
}
