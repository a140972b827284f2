use super::*;
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
    journal.tells(place, 7, b"good day");
    let sent = journal.send(&ours, place, &[IoSlice::new(b"good"), IoSlice::new(b" day")]).expect("room");
    assert_eq!((sent, journal.taken(place)), (8, 8));
    let mut heard = [0; 8];
    theirs.read_exact(&mut heard).expect("octets");
    assert_eq!(&heard, b"good day");
    let expected = [Record::FromPeer { conn: 7, octets: b"hello" }, Record::ToPeer { conn: 7, octets: b"good day" }];
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
fn an_image_takes_the_place_of_what_is_before_it() {
    let mut journal = Journal::create().expect("a journal");
    let record = |conn| Record::Closed { conn };
    record(1).append_to(&mut journal);
    let lost = journal.begin_image().expect("an image");
    record(2).append_to(&mut journal);
    assert_eq!(records(&journal), [record(1), record(2)], "it is not complete");
    // One whose writer dies; the next one counts.
    drop(lost);
    let image = journal.begin_image().expect("an image");
    record(3).append_to(&mut journal);
    assert_eq!(records(&journal), [record(1), record(2), record(3)]);
    let mut octets = Vec::new();
    record(7).append_to(&mut octets);
    image.file().write_all(&octets).expect("room");
    journal.has_image(image).expect("it can be read");
    record(4).append_to(&mut journal);
    assert_eq!(records(&journal), [record(7), record(3), record(4)]);
    assert_eq!(journal.fds().len(), 3, "the head, the image, the log");
    for _ in 0..20 {
        let image = journal.begin_image().expect("an image");
        image.file().write_all(&octets).expect("room");
        journal.has_image(image).expect("it can be read");
    }
    assert_eq!(records(&journal), [record(7)]);
}

/// As it is where workers die again and again while an image is written.
#[test]
fn images_that_are_not_completed_leave_room_for_others() {
    let mut journal = Journal::create().expect("a journal");
    let complete = |journal: &mut Journal, conn| {
        let image = journal.begin_image().expect("an image");
        let mut octets = Vec::new();
        Record::Closed { conn }.append_to(&mut octets);
        image.file().write_all(&octets).expect("room");
        journal.has_image(image).expect("it can be read");
    };
    complete(&mut journal, 7);
    let mut all = vec![7];
    let said = |journal: &Journal| -> Vec<u64> {
        let conn = |r| if let Record::Closed { conn } = r { conn } else { panic!("another record") };
        records(journal).into_iter().map(conn).collect()
    };
    for conn in 100..140 {
        drop(journal.begin_image().expect("an image"));
        Record::Closed { conn }.append_to(&mut journal);
        all.push(conn);
        journal = heir(&journal);
        assert_eq!(said(&journal), all);
    }
    complete(&mut journal, 8);
    assert_eq!(said(&heir(&journal)), [8]);
}

/// The next process's.
fn heir(journal: &Journal) -> Journal {
    let mut fds = vec![dup(journal.head.fd())];
    for (set, entry) in journal.head.head().sets.iter().enumerate() {
        for (file, number) in [(&journal.logs[set], &entry.log_fd), (&journal.images[set], &entry.image_fd)] {
            if let Some(file) = file {
                fds.push(dup(file.fd()));
                number.store(fds[fds.len() - 1].as_raw_fd(), SeqCst);
            }
        }
    }
    Journal::inherit(&mut fds).expect("no damage").expect("a journal")
}

/// What is given while it is written stands in the log that follows it.
#[test]
fn an_image_knows_what_was_given_when_it_was_begun() {
    let mut journal = Journal::create().expect("a journal");
    let (first, second) = (journal.open(3).expect("a place"), journal.open(5).expect("a place"));
    journal.tells(second, 5, b"before");
    let image = journal.begin_image().expect("an image");
    journal.tells(second, 5, b"and after");
    let third = journal.open(7).expect("a place");
    journal.tells(third, 7, b"after");
    assert_eq!([first, second, third].map(|place| image.given(place)), [0, 6, 0]);
    assert_eq!([first, second, third].map(|place| journal.given(place)), [0, 15, 5]);
}

#[test]
fn a_newer_one_is_refused_by_its_number() {
    let journal = Journal::create().expect("a journal");
    journal.head.head().version.store(VERSION + 1, SeqCst);
    let mut fds: Vec<OwnedFd> = journal.fds().into_iter().map(dup).collect();
    let refused = Journal::inherit(&mut fds).expect_err("a newer one").to_string();
    assert!(refused.contains(&format!("version {}", VERSION + 1)), "{refused}");
}

/// What a worker does, endlessly: octets from one side go to the other. What was read and not passed
/// on before is passed on first.
fn pass_on(journal: &mut Journal, from: &UnixStream, to: &UnixStream, place: Place) -> ! {
    let (mut read, mut given, mut rest) = (Vec::new(), 0, Vec::new());
    for record in journal.segments().into_iter().flat_map(::journal::read) {
        match record.expect("a record") {
            Record::FromPeer { octets, .. } => read.extend_from_slice(octets),
            Record::ToPeer { octets, .. } => {
                given += octets.len();
                rest.extend_from_slice(octets);
            }
            _ => {}
        }
    }
    let mut unsent = rest.split_off(journal.taken(place) as usize);
    let mut unread = read.split_off(given);
    loop {
        if !unread.is_empty() {
            journal.tells(place, 1, &unread);
            unsent.append(&mut unread);
        }
        if !unsent.is_empty()
            && let Ok(n) = journal.send(to, place, &[IoSlice::new(&unsent)])
        {
            unsent.drain(..n);
        }
        if unsent.len() < 4096
            && let Ok(octets) = journal.receive(from, 1, 700)
        {
            unread.extend_from_slice(octets);
        }
    }
}

/// Killed at any instruction, a worker loses nothing and says nothing twice.
#[test]
fn whenever_it_is_killed_no_octet_is_lost() {
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};
    const KILLS: u64 = 300;
    let (mut source, from) = UnixStream::pair().expect("a pair");
    let (to, mut sink) = UnixStream::pair().expect("a pair");
    for s in [&source, &sink, &from, &to] {
        s.set_nonblocking(true).expect("a flag");
    }
    let mut journal = Journal::create().expect("a journal");
    let place = journal.open(1).expect("a place");
    let octet = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    let (mut written, mut heard, mut caught) = (0u64, 0u64, 0);
    for round in 0..KILLS {
        // SAFETY: the child uses nothing but the journal, the sockets and memory of its own.
        let child = match unsafe { fork() }.expect("a child") {
            ForkResult::Child => pass_on(&mut journal, &from, &to, place),
            ForkResult::Parent { child } => child,
        };
        let until = std::time::Instant::now() + std::time::Duration::from_micros(200 + round * 37 % 3000);
        while std::time::Instant::now() < until {
            let some: Vec<u8> = (written..written + 500).map(octet).collect();
            written += source.write(&some).unwrap_or(0) as u64;
            let mut got = [0; 2000];
            let n = sink.read(&mut got).unwrap_or(0);
            for o in &got[..n] {
                assert_eq!(*o, octet(heard), "octet {heard}, round {round}");
                heard += 1;
            }
        }
        kill(child, Signal::SIGKILL).expect("it runs");
        waitpid(child, None).expect("it ends");
        caught += usize::from(journal.head.head().call.kind.load(SeqCst) != NONE);
        journal.settle_call();
    }
    assert!(heard > 0 && caught > 0, "{heard} octets, {caught} in a call");
}

/// The next process does not go on with what is not complete.
#[test]
fn one_that_can_no_longer_be_written_says_so() {
    let mut journal = Journal::create().expect("a journal");
    Record::Closed { conn: 1 }.append_to(&mut journal);
    let log = dup(journal.logs[0].as_ref().expect("a log").fd());
    File::from(log).set_len(1 << 20).expect("it can be made shorter");
    let octets = [0; 64 << 10];
    for _ in 0..20 {
        Record::FromPeer { conn: 1, octets: &octets }.append_to(&mut journal);
    }
    assert!(journal.is_broken());
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(b"hello").expect("room");
    assert_eq!(journal.receive(&ours, 1, 100).expect("octets"), b"hello", "what comes is read all the same");
    let mut fds = vec![dup(journal.head.fd())];
    let refused = Journal::inherit(&mut fds).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(refused, Err("the journal is not complete: memory was short when it was written".to_owned()));
}
