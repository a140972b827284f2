use super::*;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

fn event(at_us: u64, kind: &'static str) -> Event {
    Event::new(at_us, kind, Severity::Info, format!("event {at_us}")).with_instance("frr")
}

/// Everything up to the end, as a follower sees it.
fn follow(log: &EventLog) -> (Vec<Record>, u64) {
    let (mut all, mut missed, mut seq) = (Vec::new(), 0, 0);
    loop {
        let batch = log.after(seq, PATIENCE);
        missed += batch.missed;
        seq = batch.records.last().map_or(seq, |r| r.seq);
        all.extend(batch.records);
        if batch.closed {
            return (all, missed);
        }
    }
}

#[test]
fn a_follower_sees_every_event_in_order() {
    let (sender, log, thread) = start(None).unwrap();
    let follower = std::thread::spawn({
        let log = log.clone();
        move || follow(&log)
    });
    for i in 0..500 {
        sender.send(event(i, if i % 2 == 0 { "even" } else { "odd" }));
    }
    drop(sender);
    thread.join().unwrap();
    let (seen, missed) = follower.join().unwrap();
    assert_eq!(missed, 0);
    assert_eq!(seen.iter().map(|r| r.seq).collect::<Vec<_>>(), (1..=500).collect::<Vec<_>>());
    let odd = log.last(3, Some("odd"));
    assert_eq!(odd.iter().map(|r| r.seq).collect::<Vec<_>>(), [496, 498, 500]);
    let json: Value = serde_json::from_str(&odd[0].json).unwrap();
    assert_eq!(
        (json["seq"].as_u64(), json["at_us"].as_u64(), json["instance"].as_str()),
        (Some(496), Some(495), Some("frr"))
    );
    assert!(json["time"].as_str().unwrap().ends_with('Z'));
    assert!(json.get("session").is_none());
}

#[test]
fn the_ring_is_bounded_and_says_what_it_lost() {
    let (sender, log, thread) = start(None).unwrap();
    let n = RING as u64 + 25;
    for i in 0..n {
        sender.send(event(i, "x"));
    }
    drop(sender);
    thread.join().unwrap();
    let batch = log.after(0, PATIENCE);
    assert_eq!((batch.records.len(), batch.missed, batch.closed), (RING, 25, true));
    assert_eq!(log.last_seq(), n);
    assert_eq!(log.last(usize::MAX, None).len(), RING);
}

#[test]
fn a_full_channel_never_blocks_and_is_reported() {
    let (channel, receiver) = crossbeam_channel::bounded(2);
    let dropped = Arc::new(AtomicU64::new(0));
    let sender = EventSender { channel, dropped: dropped.clone() };
    for i in 0..5 {
        sender.send(event(i, "x"));
    }
    assert_eq!(sender.dropped(), 3);
    let shared = Arc::new(Shared::default());
    let log = EventLog { shared: shared.clone() };
    drop(sender);
    Writer { shared, dropped, sink: None }.run(&receiver);
    let kinds: Vec<_> = log.last(9, None).iter().map(|r| r.kind).collect();
    assert_eq!(kinds, ["x", "events-dropped", "x"]);
    assert_eq!(log.lost(), 3);
}

#[test]
fn the_file_holds_json_lines_and_follows_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    std::fs::write(&path, "{\"from\":\"before\"}\n").unwrap();
    let mut sink = Sink::new(&path);
    sink.write("{\"a\":1}");
    sink.flush();
    let rotated = dir.path().join("events.jsonl.1");
    std::fs::rename(&path, &rotated).unwrap();
    sink.checked = None;
    sink.write("{\"a\":2}");
    sink.flush();
    assert_eq!(std::fs::read_to_string(rotated).unwrap(), "{\"from\":\"before\"}\n{\"a\":1}\n");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "{\"a\":2}\n");
}

#[test]
fn a_file_that_cannot_be_written_stops_nothing() {
    // Every write to /dev/full fails with ENOSPC; the other path cannot even be opened.
    for path in ["/dev/full", "/nonexistent/events"] {
        let (sender, log, thread) = start(Some(Path::new(path))).unwrap();
        for i in 0..5000 {
            sender.send(event(i, "x"));
        }
        drop(sender);
        thread.join().unwrap();
        assert_eq!(log.last_seq(), 5000, "{path}");
        let state = log.file().expect("there is a file");
        assert!(state.failing.is_some() && state.lost == 5000, "{path}: {state:?}");
    }
}

#[test]
fn a_link_in_the_place_of_the_file_is_named_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, victim) = (dir.path().join("events"), dir.path().join("shadow"));
    std::fs::write(&victim, "root").unwrap();
    std::os::unix::fs::symlink(&victim, &path).unwrap();
    let mut sink = Sink::new(&path);
    sink.write("lost");
    sink.flush();
    let why = sink.failing.clone().expect("it is not written");
    assert!(why.contains("events is a symbolic link") && why.contains("remove it or name the file itself"), "{why}");
    assert_eq!(std::fs::read(&victim).unwrap(), b"root");
    // Nor one that comes while the file is open.
    std::fs::remove_file(&path).unwrap();
    sink.checked = None;
    sink.write("kept");
    sink.flush();
    assert_eq!(sink.failing, None);
    std::fs::rename(&path, dir.path().join("events.1")).unwrap();
    std::os::unix::fs::symlink("events.1", &path).unwrap();
    sink.checked = None;
    sink.write("lost");
    sink.flush();
    assert!(sink.failing.is_some() && sink.lost == 2, "{:?} {}", sink.failing, sink.lost);
}

#[test]
fn a_failing_file_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later/events");
    let mut sink = Sink::new(&path);
    sink.write("lost");
    assert!(sink.failing.is_some());
    std::fs::create_dir(dir.path().join("later")).unwrap();
    sink.checked = None;
    sink.write("kept");
    sink.flush();
    assert_eq!((sink.failing.clone(), sink.lost), (None, 1));
    assert_eq!(std::fs::read_to_string(path).unwrap(), "\nkept\n", "a line that was cut is ended");
}

/// A disk that is full lets the file be opened, and nothing be written.
#[test]
fn a_full_disk_stays_told_until_something_is_written() {
    let mut sink = Sink::new(Path::new("/dev/full"));
    for n in 1..4 {
        sink.checked = None;
        sink.write("x");
        sink.flush();
        assert!(sink.failing.as_deref().is_some_and(|why| why.contains("No space left")), "{:?}", sink.failing);
        assert_eq!(sink.lost, n);
    }
}

#[test]
fn times_are_rfc_3339() {
    let table = [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_234_801_200_123, "2009-02-16T16:20:00.123Z"),
        (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ];
    for (ms, text) in table {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(ms)), text);
    }
}
