use super::*;
use crate::link::{Link, Received, file_of, text_of};
use broker::io::Death;
use std::os::fd::AsFd;

#[test]
fn every_message_comes_as_it_went() {
    let who = Who { name: "frr".into(), label: "frr+2".into() };
    let to_master = [
        ToMaster::Twin,
        ToMaster::Ready,
        ToMaster::Turns,
        ToMaster::Order { index: 3, order: Order::Kill },
        ToMaster::Neighbour { index: 0, peer: "fd00::1".parse().unwrap() },
        ToMaster::Seat { index: 1, who: Some(who) },
        ToMaster::Seat { index: 1, who: None },
        ToMaster::Rest { index: 255 },
        ToMaster::Read { id: 7, dry_run: true },
        ToMaster::Adopted { id: 7, taken: false },
    ];
    for message in to_master {
        assert_eq!(decode::<ToMaster>(&encode(&message).unwrap()).unwrap(), message);
    }
    let died = Died { pid: 7, how: "was ended by SIGSEGV".into(), ran_ms: 1, deaths: 2, faults: 1, by_fault: true };
    let (file, labels) = ("/etc/virtd.toml".into(), vec!["a".into()]);
    let begin = Begin { file, labels, restarts: 1, died: Some(died), master: 1, beat_ms: 1000 };
    let to_worker = [
        ToWorker::Begin(begin),
        ToWorker::News { index: 1, news: ProcessNews::Died { death: Death::OutOfMemory } },
        ToWorker::News { index: 1, news: ProcessNews::Ended { unasked: true, text: "ä".into() } },
        ToWorker::Event(Told::new("twin-died", Severity::Warning, "gone".into())),
        ToWorker::Configuration { id: 1, refused: Some("line 1".into()) },
        ToWorker::Freeze,
        ToWorker::Stop,
    ];
    for message in to_worker {
        assert_eq!(decode::<ToWorker>(&encode(&message).unwrap()).unwrap(), message);
    }
}

#[test]
fn what_is_too_long_or_no_message_is_refused() {
    assert!(encode(&"x".repeat(MAX_MESSAGE)).is_err());
    assert!(decode::<String>(&vec![b' '; MAX_MESSAGE + 1]).is_err());
    for octets in
        [&b""[..], b"{", b"\"no-such\"", b"{\"order\":{\"index\":256,\"order\":\"Start\"}}", b"\"ready\" \"ready\""]
    {
        assert!(decode::<ToMaster>(octets).is_err(), "{octets:?}");
    }
    // The longest text, each octet of it escaped, has room.
    let told = Told::new("twin-died", Severity::Alarm, "\u{1}".repeat(MAX_TEXT * 2));
    assert!(told.text.len() < MAX_TEXT + 10);
    assert!(encode(&ToWorker::Event(told)).is_ok());
    assert!(fit("ä".repeat(MAX_TEXT)).ends_with("ä […]"));
}

#[test]
fn an_event_has_a_kind_that_there_is() {
    let told = Told::from(Event::new(5, "instance-exited", Severity::Warning, "gone").with_instance("frr"));
    let event = told.event(9).unwrap();
    assert_eq!((event.at_us, event.kind, event.instance.as_deref()), (9, "instance-exited", Some("frr")));
    assert!(Told::new("no-such-kind", Severity::Info, String::new()).event(0).is_none());
}

#[test]
fn a_link_keeps_messages_apart_and_takes_a_file_along() {
    let (ours, theirs) = Link::pair().unwrap();
    let theirs = Link::over(theirs);
    theirs.send(&ToMaster::Ready, None).unwrap();
    let text = file_of("[router]\n").unwrap();
    theirs.send(&ToMaster::Twin, Some(text.as_fd())).unwrap();
    theirs.send(&"no message of the master's", None).unwrap();
    // What was said before the end is heard.
    ours.end();
    assert!(matches!(ours.receive(), Received::Message(ToMaster::Ready, None)));
    match ours.receive() {
        Received::Message(ToMaster::Twin, Some(file)) => assert_eq!(text_of(file).unwrap(), "[router]\n"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ours.receive::<ToMaster>(), Received::Wrong(_)));
    assert!(matches!(ours.receive::<ToMaster>(), Received::End));
    assert!(theirs.send(&ToMaster::Ready, None).is_err());
}
