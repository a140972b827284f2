use super::*;
use crate::event::{Event, Severity};
use crate::eventlog::{self, EventSender};
use std::time::Instant;

/// A control socket with a driver that answers `status` and forgets everything else.
struct Fixture {
    dir: tempfile::TempDir,
    events: EventSender,
    guard: ControlGuard,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (events, log, _) = eventlog::start(None).unwrap();
        let (queue, requests) = queue(None);
        let socket = ControlSocket::bind(&dir.path().join("c"), 0o640, None).unwrap();
        let guard = socket.serve(queue, log).unwrap();
        std::thread::spawn(move || {
            for r in requests {
                if r.request["command"] == "status" {
                    let _ = r.reply.send(json!({ "up": true }));
                }
            }
        });
        Fixture { dir, events, guard }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(self.path()).unwrap())
    }

    fn ask(&self, request: &str) -> Value {
        let mut c = self.connect();
        c.get_mut().write_all(request.as_bytes()).unwrap();
        line(&mut c)
    }

    fn event(&self, at_us: u64, kind: &'static str) {
        self.events.send(Event::new(at_us, kind, Severity::Info, "text"));
    }
}

fn line(c: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    c.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

/// Waits for something that must come about.
fn until(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn requests_are_answered_in_order_on_one_connection() {
    let f = Fixture::new();
    let mut c = f.connect();
    c.get_mut().write_all(b"{\"command\":\"status\"}\n{bad\n{\"command\":\"status\"}\n").unwrap();
    assert_eq!(line(&mut c), json!({ "up": true }));
    assert!(line(&mut c)["error"].as_str().unwrap().starts_with("not a JSON request"));
    assert_eq!(line(&mut c), json!({ "up": true }));
    // A reply that never comes because the driver dropped the request is an answer too.
    assert_eq!(f.ask("{\"command\":\"x\"}\n"), error("virtd is shutting down"));
}

#[test]
fn a_request_too_long_ends_the_connection() {
    let f = Fixture::new();
    let mut c = f.connect();
    c.get_mut().write_all(&vec![b'x'; MAX_REQUEST as usize]).unwrap();
    assert_eq!(line(&mut c), error("a request has at most 4096 octets"));
    let mut rest = String::new();
    assert_eq!(c.read_line(&mut rest).unwrap_or(0), 0);
}

#[test]
fn events_are_answered_without_the_core() {
    let f = Fixture::new();
    for i in 0..30 {
        f.event(i, if i % 3 == 0 { "third" } else { "other" });
    }
    until(|| f.ask("{\"command\":\"events\",\"n\":99}\n")["events"].as_array().unwrap().len() == 30);
    assert_eq!(f.ask("{\"command\":\"events\"}\n")["events"].as_array().unwrap().len(), 20);
    let third = f.ask("{\"command\":\"events\",\"n\":2,\"kind\":\"third\"}\n");
    assert_eq!((third["events"][0]["at_us"].as_u64(), third["events"][1]["at_us"].as_u64()), (Some(24), Some(27)));
}

#[test]
fn a_follower_gets_the_past_and_then_each_new_event_once() {
    let f = Fixture::new();
    for i in 0..5 {
        f.event(i, "x");
    }
    until(|| f.ask("{\"command\":\"events\"}\n")["events"].as_array().unwrap().len() == 5);
    let mut c = f.connect();
    c.get_mut().write_all(b"{\"command\":\"events\",\"follow\":true,\"n\":2}\n").unwrap();
    assert_eq!(line(&mut c)["at_us"], 3);
    assert_eq!(line(&mut c)["at_us"], 4);
    for i in 5..50 {
        f.event(i, "x");
        assert_eq!(line(&mut c)["at_us"], i);
    }
}

#[test]
fn clients_are_bounded_and_seats_come_back() {
    let f = Fixture::new();
    let mut clients: Vec<_> = (0..MAX_CLIENTS)
        .map(|_| {
            let mut c = f.connect();
            c.get_mut().write_all(b"{\"command\":\"events\",\"follow\":true}\n").unwrap();
            c
        })
        .collect();
    assert_eq!(line(&mut f.connect()), error("32 clients are connected already"));
    clients.pop();
    // The follower that left is noticed within one check.
    until(|| {
        let mut c = f.connect();
        c.get_mut().write_all(b"{\"command\":\"status\"}\n").is_ok() && line(&mut c).get("up").is_some()
    });
}

#[test]
fn the_socket_has_the_permissions_asked_for() {
    let f = Fixture::new();
    assert_eq!(fs::metadata(f.path()).unwrap().permissions().mode() & 0o7777, 0o640);
    let path = f.path();
    assert!(path.exists());
    drop(f.guard);
    assert!(!path.exists());
}

#[test]
fn what_is_in_the_way_is_judged() {
    let f = Fixture::new();
    let taken = ControlSocket::bind(&f.path(), 0o600, None).unwrap_err().to_string();
    assert!(taken.starts_with("another virtd listens on "), "{taken}");

    let file = f.dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let kept = ControlSocket::bind(&file, 0o600, None).unwrap_err().to_string();
    assert!(kept.contains("is not a socket; it is left alone"), "{kept}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let stale = f.dir.path().join("deep/stale");
    drop(ControlSocket::bind(&stale, 0o600, None).unwrap());
    assert!(stale.exists());
    ControlSocket::bind(&stale, 0o600, None).unwrap();

    let group = ControlSocket::bind(&f.dir.path().join("g"), 0o600, Some("no-such-group")).unwrap_err().to_string();
    assert_eq!(
        group,
        "control_group: there is no group \"no-such-group\" on this system; create it with `groupadd no-such-group`"
    );
}
