use super::*;
use std::net::SocketAddr;
use virtd_linux::eventlog;
use wire::bgp::message::{Capability, Open, keepalive};

fn open() -> Open {
    let capabilities = vec![Capability::GracefulRestart { flags: 0, restart_time_s: 0, families: Vec::new() }];
    Open { asn: 64501, hold_time_s: 9, router_id: [192, 0, 2, 1].into(), capabilities }
}

fn message(direction: Direction, as4: bool) -> Recorded {
    Recorded {
        at: 1_000_000,
        peer: SocketAddr::from(([192, 0, 2, 1], 0)),
        local: Some(SocketAddr::from(([192, 0, 2, 254], 179))),
        peer_as: 64501,
        local_as: 64500,
        as4,
        open: open().encode(),
        direction,
        bytes: keepalive(),
    }
}

fn record(instance: &str, n: usize) -> Record {
    let to = Direction::To([0].into_iter().collect());
    let from = Direction::From(broker::io::InstanceId(0));
    let mut messages: Vec<Recorded> = (0..n).map(|i| message(if i % 2 == 0 { to } else { from }, i != 3)).collect();
    // Two messages handed over in one piece.
    if let Some(first) = messages.first_mut() {
        first.bytes = [keepalive(), keepalive()].concat().into();
    }
    let account = json!({ "culprits": ["ff00", "ff01"], "text": "why" });
    Record { at: 2_000_000, kind: "poison", instance: instance.to_owned(), messages, account }
}

/// Lets the thread write these and returns the folder's files.
fn written(config: &Recorder, records: Vec<Record>) -> (Vec<String>, Vec<String>) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let (events, log, _) = eventlog::start(None).unwrap();
    let thread = start(config, receiver, SystemTime::UNIX_EPOCH, events).unwrap().expect("a folder is named");
    records.into_iter().for_each(|r| sender.send(Box::new(r)).unwrap());
    drop(sender);
    thread.join().unwrap();
    let folder = config.folder.as_ref().unwrap();
    let mut files: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    std::thread::sleep(Duration::from_millis(200));
    (files, log.last(99, Some("record")).iter().map(|r| r.json.to_string()).collect())
}

#[test]
fn a_link_where_a_record_is_to_be_is_named_and_not_followed() {
    let base = "19700101T000002000Z-poison-frr";
    for name in [format!("{base}.json"), format!("{base}.json.new"), format!("{base}.mrt.new")] {
        let dir = tempfile::tempdir().unwrap();
        let (folder, victim) = (dir.path().join("records"), dir.path().join("shadow"));
        fs::create_dir(&folder).unwrap();
        fs::write(&victim, "root").unwrap();
        std::os::unix::fs::symlink(&victim, folder.join(&name)).unwrap();
        let config = Recorder { folder: Some(folder), ..Recorder::default() };
        let (_, events) = written(&config, vec![record("frr", 2)]);
        let told = events.concat();
        assert!(told.contains("no record could be written") && told.contains("is a symbolic link"), "{told}");
        assert!(told.contains(&name) && told.contains("remove it"), "{told}");
        assert_eq!(fs::read(&victim).unwrap(), b"root");
    }
}

#[test]
fn a_record_is_an_account_messages_and_a_reproducer() {
    let dir = tempfile::tempdir().unwrap();
    let config = Recorder { folder: Some(dir.path().join("new")), ..Recorder::default() };
    let (files, events) = written(&config, vec![record("frr/1", 5)]);
    let base = "19700101T000002000Z-poison-frr_1";
    assert_eq!(files, [format!("{base}.hex"), format!("{base}.json"), format!("{base}.mrt")]);
    let path = |suffix: &str| config.folder.clone().unwrap().join(format!("{base}.{suffix}"));
    assert_eq!(fs::read_to_string(path("hex")).unwrap(), "ff00\nff01\n");
    let account: Value = serde_json::from_slice(&fs::read(path("json")).unwrap()).unwrap();
    assert_eq!((&account["messages"], &account["messages_left_out"]), (&json!(5), &json!(1)));
    assert_eq!(account["account"]["text"], "why");
    let mut reader = wire::mrt::open(path("mrt")).unwrap();
    let read: Vec<_> = std::iter::from_fn(|| reader.next()).map(Result::unwrap).collect();
    assert_eq!(read.len(), 6, "{read:?}");
    let wire::mrt::Record::Message(first) = &read[0] else { panic!("{read:?}") };
    assert_eq!(first.bytes, open().encode(), "the OPEN comes first");
    assert_eq!((first.peer_as, first.local), (64501, [192, 0, 2, 254].into()));
    let session = &account["sessions"][0];
    assert_eq!((&session["peer"], &session["peer_as"]), (&json!("192.0.2.1"), &json!(64501)));
    assert_eq!((&session["local"], &session["local_as"]), (&json!("192.0.2.254"), &json!(64500)));
    assert_eq!(session["open"], hex(&open().encode()));
    // Of the five pieces three were given, the first of them two messages.
    assert_eq!(session["given"], json!(vec![hex(&keepalive()); 4]));
    let command = account["reproduce"]["command"].as_str().unwrap();
    assert!(command.ends_with(&format!("{base}.json --connect 192.0.2.254 --bind 192.0.2.1")), "{command}");
    assert_eq!(account["reproduce"]["peer"], "192.0.2.1");
    assert!(events.iter().any(|e| e.contains(command)), "{events:?}");
}

#[test]
fn the_oldest_go_first_and_strangers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let config = Recorder { folder: Some(dir.path().to_owned()), disk_mib: 1, ..Recorder::default() };
    for name in ["19690101T000002000Z-poison-old.mrt", "notes.mrt", "20-x.json"] {
        fs::write(dir.path().join(name), vec![0; 1 << 20]).unwrap();
    }
    let (files, _) = written(&config, vec![record("frr", 2)]);
    assert!(files.contains(&"notes.mrt".to_owned()) && files.contains(&"20-x.json".to_owned()));
    assert!(!files.iter().any(|f| f.contains("old")), "{files:?}");
    assert_eq!(files.iter().filter(|f| f.contains("poison-frr")).count(), 3);
}

#[test]
fn a_record_goes_as_a_whole_and_the_newest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let config = Recorder { folder: Some(dir.path().to_owned()), disk_mib: 1, ..Recorder::default() };
    let old = "19690101T000002000Z-poison-old";
    let middle = "19690101T000003000Z-instance-faulty-frr.2";
    // Without the large file of the oldest everything fits: its small ones go with it all the same,
    // what was cut short too.
    for (name, len) in [("mrt", 1 << 20), ("json", 10), ("hex", 10), ("json.new", 10)] {
        fs::write(dir.path().join(format!("{old}.{name}")), vec![0; len]).unwrap();
    }
    fs::write(dir.path().join(format!("{middle}.mrt")), vec![0; 1000]).unwrap();
    fs::write(dir.path().join(format!("{middle}.json")), vec![0; 1000]).unwrap();
    let (files, _) = written(&config, vec![record("frr", 2)]);
    assert!(!files.iter().any(|f| f.contains("old")), "{files:?}");
    assert_eq!(files.iter().filter(|f| f.starts_with(middle)).count(), 2, "{files:?}");
    // Larger than all room by itself: it stays, everything older goes.
    let config = Recorder { disk_mib: 0, ..config };
    let later = Record { at: 3_000_000, ..record("bird", 2) };
    let (files, _) = written(&config, vec![later]);
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|f| f.contains("poison-bird")), "{files:?}");
    // The clock has been set back: what was just written stays, and the newest by name.
    let earlier = Record { at: 1_000_000, ..record("openbgpd", 2) };
    let (files, _) = written(&config, vec![earlier]);
    assert_eq!(files.len(), 6, "{files:?}");
}

#[test]
fn a_folder_that_cannot_be_written_costs_the_record_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = Recorder { folder: Some(dir.path().join("x")), ..Recorder::default() };
    let mut long = record("frr", 1);
    long.instance = "x".repeat(400);
    let (files, events) = written(&config, vec![long, record("frr", 1)]);
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(events[0].contains("no record could be written"), "{events:?}");
    assert!(events[1].contains("the record of it is"), "{events:?}");
}

#[test]
fn what_is_too_long_for_the_account_stands_in_the_mrt_alone() {
    let mut long = record("frr", 1);
    long.messages[0].bytes = keepalive().repeat(MAX_GIVEN / keepalive().len() + 1).into();
    let sessions = sessions(&legs(&long));
    assert_eq!((&sessions[0]["given"], &sessions[0]["messages_given"]), (&Value::Null, &json!(MAX_GIVEN / 19 + 1)));
}
